//! A cluster in memory, checked after everything that happens to it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::super::invariants::Invariants;
use super::super::{
    Entry, EntryId, Envelope, HardState, Index, InstallSnapshotResponse, Membership, Message, NodeId,
    Options, Payload, ProposeError, Raft, Recovered, Term, Ticks, Window,
};
use super::disk::{Disk, Receiving, Snapshot};

pub const ELECTION_TIMEOUT_MS: u64 = 1000;
pub const HEARTBEAT_INTERVAL_MS: u64 = 100;

/// The cluster, its network and what was seen of it.
pub struct World {
    pub servers: BTreeMap<u64, Server>,
    /// What was sent and is neither delivered nor lost, in the order of sending.
    pub network: Vec<Envelope>,
    /// Links, from and to, on which everything sent is lost.
    pub cut: BTreeSet<(u64, u64)>,
    pub invariants: Invariants,
    /// Reads that were confirmed: server, ticket, index; taken by whoever looks at them.
    pub reads: Vec<(u64, u64, Index)>,
    /// For each read under way, what was committed anywhere when it was asked.
    asked: BTreeMap<u64, Index>,
    /// Whom a server told that it has its vote, ever.
    votes: BTreeMap<(u64, Term), NodeId>,
    /// Every entry that was ever applied.
    said: BTreeMap<EntryId, Entry>,
    /// What the leader of a term has sent as its log.
    sent: BTreeMap<(Term, Index), EntryId>,
    /// The server, if any, that has lost its disk and is counted on nevertheless.
    pub damaged: Option<u64>,
    /// For servers that start from now on.
    pub max_append_bytes: usize,
    pub promises_lease: bool,
    pub max_log_bytes: usize,
    /// Snapshots were installed where the log stayed or not, and while a batch was with the disk or not.
    pub installs: BTreeMap<(bool, bool), u64>,
    starts: u64,
    seed: u64,
}

pub struct Server {
    /// What its configuration says about the members; empty for one that joins.
    pub bootstrap: Membership,
    /// The number of its data folder.
    pub incarnation: u64,
    /// `None` while the process is down.
    pub raft: Option<Raft>,
    pub disk: Disk,
    pub clock: Ticks,
    /// What was applied, from index 1 on: as given out since the start, or from a snapshot.
    pub applied: Vec<Entry>,
    /// The snapshot that arrives.
    pub receiving: Receiving,
    /// A snapshot that has arrived, durable as a file.
    pub arrived: Option<Snapshot>,
    /// Snapshots that have arrived are not installed yet.
    pub holds_install: bool,
}

pub fn options(id: u64, seed: u64) -> Options {
    Options {
        id: NodeId(id),
        election_timeout_ms: ELECTION_TIMEOUT_MS,
        heartbeat_interval_ms: HEARTBEAT_INTERVAL_MS,
        max_append_bytes: 200,
        max_batch_bytes: 300,
        window: Window {
            max_requests: 4,
            gather_bytes: 0,
            max_bytes: 1000,
        },
        max_uncommitted_bytes: 4000,
        max_apply_bytes: 100,
        seed,
        promises_lease: false,
        max_clock_drift_percent: 20,
        disk_stall_timeout_ms: 2000,
        max_log_bytes: usize::MAX,
    }
}

pub fn membership(n: u64) -> Membership {
    Membership {
        voters: (1..=n).map(NodeId).collect(),
        ..Membership::default()
    }
}

/// Entries from index 1 on with these terms; the same term and index always say the same.
pub fn entries(terms: &[u64]) -> Vec<Entry> {
    let entry = |(i, term): (usize, &u64)| Entry {
        id: EntryId {
            term: Term(*term),
            index: Index(i as u64 + 1),
        },
        payload: Payload::Noop,
    };
    terms.iter().enumerate().map(entry).collect()
}

/// The state in a snapshot: what its names stand for.
fn applied(said: &BTreeMap<EntryId, Entry>, snapshot: &Snapshot) -> Vec<Entry> {
    let entries: Vec<Entry> = snapshot.applied.iter().map(|name| said[name].clone()).collect();
    assert_eq!(
        entries.last().map(|entry| entry.id).unwrap_or_default(),
        snapshot.header.last
    );
    entries
}

impl World {
    pub fn new(n: u64, seed: u64) -> World {
        let mut world = World {
            servers: BTreeMap::new(),
            network: Vec::new(),
            cut: BTreeSet::new(),
            invariants: Invariants::default(),
            reads: Vec::new(),
            asked: BTreeMap::new(),
            votes: BTreeMap::new(),
            said: BTreeMap::new(),
            sent: BTreeMap::new(),
            damaged: None,
            max_append_bytes: 200,
            promises_lease: false,
            max_log_bytes: usize::MAX,
            installs: BTreeMap::new(),
            starts: 0,
            seed,
        };
        for id in 1..=n {
            world.new_server(id, membership(n));
        }
        world
    }

    /// A server with an empty disk starts.
    pub fn new_server(&mut self, id: u64, bootstrap: Membership) {
        let server = Server {
            bootstrap,
            incarnation: 1000 * id,
            raft: None,
            disk: Disk::default(),
            clock: Ticks(0),
            applied: Vec::new(),
            receiving: Receiving::default(),
            arrived: None,
            holds_install: false,
        };
        self.servers.insert(id, server);
        self.restart(id);
    }

    /// A cluster of `n` whose server 1 leads term 1, its first entry committed everywhere.
    pub fn with_leader(n: u64) -> World {
        let mut world = World::new(n, 0);
        world.campaign(1);
        world.settle();
        world.pass(HEARTBEAT_INTERVAL_MS);
        assert!(world.raft(1).is_leader());
        world
    }

    pub fn server(&mut self, id: u64) -> &mut Server {
        self.servers.get_mut(&id).expect("a server")
    }

    pub fn raft(&self, id: u64) -> &Raft {
        self.servers[&id].raft.as_ref().expect("the server is down")
    }

    pub fn is_up(&self, id: u64) -> bool {
        self.servers[&id].raft.is_some()
    }

    pub fn ids(&self) -> Vec<u64> {
        self.servers.keys().copied().collect()
    }

    /// A server's log, by terms.
    pub fn terms(&self, id: u64) -> Vec<u64> {
        let log = self.raft(id).log();
        (log.first_index().0..=log.last().index.0)
            .map_while(|i| log.term_at(Index(i)))
            .map(|term| term.0)
            .collect()
    }

    pub fn commit_index(&self, id: u64) -> u64 {
        self.raft(id).status().commit_index.0
    }

    /// Something happens to a server; then all is done that it wants done.
    pub fn with<T>(&mut self, id: u64, what: impl FnOnce(&mut Raft) -> T) -> T {
        let server = self.server(id);
        let raft = server.raft.as_mut().expect("the server is down");
        raft.tick(server.clock);
        let result = what(raft);
        self.work(id);
        result
    }

    /// Does what the server wants done, until there is nothing.
    fn work(&mut self, id: u64) {
        loop {
            let server = self.servers.get_mut(&id).expect("a server");
            let raft = server.raft.as_mut().expect("the server is down");
            self.invariants
                .observe(raft)
                .unwrap_or_else(|violation| panic!("{violation}"));
            let ready = raft.ready();
            let durable = ready.batch.is_some() && !server.disk.is_held;
            if ready.is_empty() {
                break;
            }
            if let Some(batch) = ready.batch {
                assert!(server.disk.in_flight.is_none(), "two batches with the disk");
                server.disk.in_flight = Some(batch);
            }
            for entry in ready.committed {
                assert_eq!(
                    entry.id.index.0,
                    server.applied.len() as u64 + 1,
                    "applied in order"
                );
                self.said.insert(entry.id, entry.clone());
                server.applied.push(entry);
            }
            for envelope in ready.messages {
                self.send(envelope);
            }
            for envelope in ready.chunks_to_send {
                self.send_chunk(id, envelope);
            }
            for envelope in ready.chunks_to_store {
                self.store_chunk(id, envelope);
            }
            self.install(id);
            self.server(id).disk.recovering &= !ready.recovered;
            for read in ready.reads {
                let asked = self.asked.remove(&read.ticket).expect("a read is confirmed once");
                assert!(
                    asked <= read.read_index,
                    "stale read {}: {asked} was committed",
                    read.ticket
                );
                self.reads.push((id, read.ticket, read.read_index));
            }
            if durable {
                let server = self.server(id);
                let batch = server.disk.in_flight.take().expect("a write under way");
                server.disk.write(batch);
                server.raft.as_mut().expect("the server is down").persisted();
            }
        }
        self.check_disks(id);
    }

    /// Fills in the chunk, and sends it.
    fn send_chunk(&mut self, id: u64, mut envelope: Envelope) {
        let Message::InstallSnapshot(request) = &mut envelope.message else {
            panic!("not a chunk: {envelope:?}");
        };
        let server = self.server(id);
        let last = request.header.last;
        let snapshot = server.disk.snapshots.get(&last.index);
        match snapshot.filter(|snapshot| snapshot.header.last == last) {
            None => server
                .raft
                .as_mut()
                .expect("the server is down")
                .snapshot_lost(last),
            Some(snapshot) => {
                if let Some((data, done)) = snapshot.chunk(request.chunk) {
                    assert_eq!(snapshot.header, request.header);
                    (request.data, request.done) = (data, done);
                    self.send(envelope);
                }
            }
        }
    }

    /// Stores a chunk, and says which one comes next.
    fn store_chunk(&mut self, id: u64, envelope: Envelope) {
        let Message::InstallSnapshot(request) = &envelope.message else {
            panic!("not a chunk: {envelope:?}");
        };
        let server = self.server(id);
        if server.arrived.is_some() {
            return;
        }
        let Some((next_chunk, complete)) = server.receiving.take(request) else {
            return;
        };
        let response = InstallSnapshotResponse {
            session: request.session,
            last: request.header.last,
            next_chunk,
            complete,
            installed: false,
        };
        let raft = server.raft.as_mut().expect("the server is down");
        raft.chunk_stored(envelope.from, envelope.request_id, response);
        if let Some(snapshot) = server.receiving.take_complete() {
            server.disk.keep(snapshot.clone());
            server.arrived = Some(snapshot);
        }
    }

    /// A snapshot that has arrived takes the place of log and state, if it is newer.
    fn install(&mut self, id: u64) {
        let server = self.servers.get_mut(&id).expect("a server");
        if server.holds_install {
            return;
        }
        let Some(snapshot) = server.arrived.take() else {
            return;
        };
        let raft = server.raft.as_mut().expect("the server is down");
        let (stays, busy) = (
            raft.log().holds(snapshot.header.last),
            server.disk.in_flight.is_some(),
        );
        if raft.install_snapshot(snapshot.header.clone()) {
            server.applied = applied(&self.said, &snapshot);
            *self.installs.entry((stays, busy)).or_default() += 1;
        }
    }

    /// Installs what has arrived.
    pub fn release_install(&mut self, id: u64) {
        self.server(id).holds_install = false;
        if self.is_up(id) {
            self.install(id);
            self.with(id, |_| ());
        }
    }

    /// A file with a snapshot of the present state is made; `None` if there is nothing new.
    pub fn write_snapshot(&mut self, id: u64) -> Option<Snapshot> {
        let server = self.server(id);
        let raft = server.raft.as_ref().expect("the server is down");
        let header = raft.snapshot_header(Index(server.applied.len() as u64))?;
        if header.last.index <= raft.snapshot().last.index && !raft.wants_snapshot() {
            return None;
        }
        let applied = server.applied.iter().map(|entry| entry.id).collect();
        let snapshot = Snapshot { header, applied };
        server.disk.keep(snapshot.clone());
        Some(snapshot)
    }

    /// Takes a snapshot of the state, and drops the log behind it but for `kept` entries.
    pub fn take_snapshot(&mut self, id: u64, kept: u64) {
        if let Some(snapshot) = self.write_snapshot(id) {
            let last = snapshot.header.last.index;
            let keep_after = Index(last.0.saturating_sub(kept));
            self.with(id, |raft| raft.snapshot_taken(snapshot.header, keep_after));
            self.server(id).disk.drop_head(keep_after);
        }
    }

    /// As the policy of a node has it.
    pub fn take_needed_snapshots(&mut self) {
        let half = self.max_log_bytes / 2;
        for id in self
            .ids()
            .into_iter()
            .filter(|id| self.is_up(*id))
            .collect::<Vec<_>>()
        {
            let raft = self.raft(id);
            if raft.wants_snapshot()
                || raft.log_bytes_after_snapshot() > half
                || raft.log_bytes() > self.max_log_bytes
            {
                self.take_snapshot(id, 0);
            }
        }
    }

    fn send(&mut self, envelope: Envelope) {
        let (from, to) = (envelope.from.0, envelope.to.0);
        match &envelope.message {
            Message::RequestVoteResponse(vote) if vote.vote_granted => {
                let voter = self.servers[&from].incarnation;
                let first = *self.votes.entry((voter, envelope.term)).or_insert(envelope.to);
                assert_eq!(first, envelope.to, "{from} votes twice in term {}", envelope.term);
                assert!(
                    self.servers[&from].disk.hard_state.term >= envelope.term,
                    "a vote is said too early"
                );
            }
            Message::AppendEntries(append) => {
                let ids = append
                    .entries
                    .iter()
                    .map(|entry| entry.id)
                    .chain([append.prev_log]);
                self.sent.extend(ids.map(|id| ((envelope.term, id.index), id)));
            }
            // The promise on which commitment rests: what the leader of this term sent is durable.
            Message::AppendEntriesResponse(answer) if answer.conflict.is_none() => {
                if let Some(id) = self.sent.get(&(envelope.term, answer.last_index)) {
                    assert!(
                        self.servers[&from].disk.holds(*id),
                        "{from} acknowledges {id}, which it does not hold"
                    );
                }
            }
            Message::InstallSnapshotResponse(answer) if answer.installed => {
                assert!(
                    self.servers[&from].disk.holds(answer.last),
                    "{from} says that it has installed {}, which is not durable",
                    answer.last
                );
            }
            _ => {}
        }
        if !self.cut.contains(&(from, to)) {
            self.network.push(envelope);
        }
    }

    /// What a leader counts must be on the disks: each follower's up to its match index, and a majority's up to
    /// the commit index. Only looked at while the leader's is the highest term, for later ones may replace
    /// what an earlier one still counts (and can't commit).
    fn check_disks(&self, id: u64) {
        let raft = self.raft(id);
        let status = raft.status();
        let newest = self
            .servers
            .values()
            .map(|server| server.disk.hard_state.term)
            .max();
        if !raft.is_leader() || newest > Some(raft.term()) {
            return;
        }
        let id_at = |index| match raft.log().term_at(index) {
            Some(term) => EntryId { term, index },
            None => self.invariants.committed_at(index).unwrap_or_default(),
        };
        let others = status.followers.iter();
        for follower in others
            .filter(|follower| self.damaged != Some(follower.id.0) && status.membership.contains(follower.id))
        {
            let matched = id_at(follower.match_index);
            assert!(
                self.servers[&follower.id.0].disk.holds(matched),
                "leader {id} believes that {} holds {matched}",
                follower.id
            );
        }
        let committed = id_at(status.commit_index);
        let voters = &status.committed_membership.voters;
        let holds = |id: &&NodeId| self.damaged == Some(id.0) || self.servers[&id.0].disk.holds(committed);
        let copies = voters.iter().filter(holds).count();
        assert!(
            2 * copies > voters.len(),
            "{id} has committed {committed}, durable on {copies}"
        );
    }

    /// The write under way ends well.
    pub fn persist(&mut self, id: u64) {
        if self.servers[&id].disk.in_flight.is_some() && self.is_up(id) {
            let server = self.server(id);
            let batch = server.disk.in_flight.take().expect("a write under way");
            server.disk.write(batch);
            self.with(id, Raft::persisted);
        }
    }

    /// The disk is fast again.
    pub fn release_disk(&mut self, id: u64) {
        self.server(id).disk.is_held = false;
        self.persist(id);
    }

    /// The process ends; what was with the disk is lost.
    pub fn crash(&mut self, id: u64) {
        let server = self.server(id);
        server.raft = None;
        server.disk.in_flight = None;
        server.applied.clear();
        server.receiving = Receiving::default();
        server.arrived = None;
        self.invariants.stopped(NodeId(id));
    }

    /// The process ends while the disk has just finished the write.
    pub fn crash_after_write(&mut self, id: u64) {
        let disk = &mut self.server(id).disk;
        if let Some(batch) = disk.in_flight.take() {
            disk.write(batch);
        }
        self.crash(id);
    }

    /// The process starts from what the disk holds.
    pub fn restart(&mut self, id: u64) {
        self.starts += 1;
        let seed = self.seed.wrapping_mul(1000).wrapping_add(self.starts);
        let options = Options {
            max_append_bytes: self.max_append_bytes,
            promises_lease: self.promises_lease,
            max_log_bytes: self.max_log_bytes,
            ..options(id, seed)
        };
        let server = self.servers.get_mut(&id).expect("a server");
        let (snapshot, entries) = server.disk.recover();
        let header = snapshot.header.clone();
        let recovered = Recovered {
            hard_state: server.disk.hard_state,
            snapshot: header.last,
            membership: match header.last.index {
                Index(0) => server.bootstrap.clone(),
                _ => header.membership,
            },
            membership_index: header.membership_index,
            entries,
            recovering: server.disk.recovering,
            incarnation: server.incarnation,
        };
        server.applied = applied(&self.said, &snapshot);
        server.raft = Some(Raft::new(options, recovered, server.clock));
        self.work(id);
    }

    /// A server's disk as of an earlier life: its log by terms, and its term.
    pub fn preset(&mut self, id: u64, terms: &[u64]) {
        self.crash(id);
        let disk = &mut self.server(id).disk;
        disk.entries = entries(terms);
        disk.base = EntryId::default();
        disk.snapshots.clear();
        disk.hard_state.term = Term(terms.last().copied().unwrap_or(0)).max(disk.hard_state.term);
        self.restart(id);
    }

    /// A server that has seen this term, and voted for nobody in it.
    pub fn preset_term(&mut self, id: u64, term: u64) {
        self.crash(id);
        self.server(id).disk.hard_state = HardState {
            term: Term(term),
            vote: None,
        };
        self.restart(id);
    }

    /// The server's timer runs out: its clock alone goes on until then.
    pub fn campaign(&mut self, id: u64) {
        let deadline = self.raft(id).deadline();
        let server = self.server(id);
        server.clock = server.clock.max(deadline);
        self.with(id, |_| ());
    }

    pub fn propose(&mut self, id: u64, what: &str) -> Result<EntryId, ProposeError> {
        let command = Bytes::copy_from_slice(what.as_bytes());
        self.with(id, |raft| raft.propose(command))
    }

    pub fn read(&mut self, id: u64, ticket: u64) {
        self.asked.insert(ticket, self.invariants.commit_index());
        self.with(id, |raft| raft.read(ticket));
    }

    /// The `i`-th message under way arrives.
    pub fn deliver(&mut self, i: usize) {
        let envelope = self.network.remove(i);
        self.arrive(envelope);
    }

    /// A message arrives, if the process is up and the link is not cut meanwhile.
    pub fn arrive(&mut self, envelope: Envelope) {
        let (from, to) = (envelope.from.0, envelope.to.0);
        if self.is_up(to) && !self.cut.contains(&(from, to)) && !self.is_refused(from, to) {
            self.with(to, |raft| raft.step(envelope));
        }
    }

    /// Delivers everything, and what is sent meanwhile, until nothing is under way.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            if self.network.is_empty() {
                return;
            }
            self.deliver(0);
        }
        panic!("the servers never stop talking: {:?}", self.network.first());
    }

    /// Delivers everything but what is for this server.
    pub fn settle_without(&mut self, id: u64) {
        for _ in 0..100_000 {
            match self.network.iter().position(|envelope| envelope.to.0 != id) {
                None => return,
                Some(i) => self.deliver(i),
            }
        }
        panic!("the servers never stop talking: {:?}", self.network.first());
    }

    /// Time passes for all, a millisecond at a time, and everything sent is delivered at once.
    pub fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.tick(1);
            self.settle();
        }
    }

    /// Time passes for all, and nothing is delivered.
    pub fn tick(&mut self, ms: u64) {
        for id in self.ids() {
            self.tick_one(id, ms);
        }
    }

    /// Time passes for one.
    pub fn tick_one(&mut self, id: u64, ms: u64) {
        let server = self.server(id);
        server.clock = server.clock.after(ms);
        if self.is_up(id) && self.raft(id).deadline() <= self.servers[&id].clock {
            self.with(id, |_| ());
        }
    }

    /// Nothing gets from `a` to `b` any more, what is under way included.
    pub fn cut(&mut self, a: u64, b: u64) {
        self.cut.insert((a, b));
        self.network
            .retain(|envelope| (envelope.from.0, envelope.to.0) != (a, b));
    }

    pub fn isolate(&mut self, id: u64) {
        for other in self.ids().into_iter().filter(|other| *other != id) {
            self.cut(id, other);
            self.cut(other, id);
        }
    }

    /// The links work again.
    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// Both ends learn that a new connection is open.
    pub fn connect(&mut self, a: u64, b: u64) {
        for (one, other) in [(a, b), (b, a)] {
            if self.is_up(one) {
                self.with(one, |raft| raft.peer_connected(NodeId(other)));
            }
        }
    }

    /// `id` learns that the connection to `peer` was closed by its kernel.
    pub fn closed(&mut self, id: u64, peer: u64) {
        self.with(id, |raft| raft.peer_closed(NodeId(peer)));
    }

    /// The leader of the highest term among those that are up.
    pub fn leader(&self) -> Option<u64> {
        self.servers
            .iter()
            .filter_map(|(id, server)| Some((server.raft.as_ref()?, *id)))
            .filter(|(raft, _)| raft.is_leader())
            .max_by_key(|(raft, _)| raft.term())
            .map(|(_, id)| id)
    }
}
