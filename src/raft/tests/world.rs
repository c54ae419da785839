//! A cluster in memory, checked after everything that happens to it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::super::invariants::Invariants;
use super::super::{
    Batch, Entry, EntryId, Envelope, HardState, Index, Membership, Message, NodeId, Options, Payload,
    ProposeError, Raft, Recovered, Term, Ticks, Window,
};

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
    /// What the leader of a term has sent as its log.
    sent: BTreeMap<(Term, Index), EntryId>,
    membership: Membership,
    /// For servers that start from now on.
    pub max_append_bytes: usize,
    pub promises_lease: bool,
    starts: u64,
    seed: u64,
}

pub struct Server {
    /// `None` while the process is down.
    pub raft: Option<Raft>,
    pub disk: Disk,
    pub clock: Ticks,
    /// What was given out for application since the start.
    pub applied: Vec<Entry>,
}

/// What is durable, and the write under way.
#[derive(Default)]
pub struct Disk {
    pub hard_state: HardState,
    pub entries: Vec<Entry>,
    pub in_flight: Option<Batch>,
    /// Writes wait until they are told to end.
    pub is_held: bool,
}

impl Disk {
    fn write(&mut self, batch: Batch) {
        self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
        if let Some(first) = batch.entries.first() {
            self.entries.truncate(first.id.index.prev().0 as usize);
            assert_eq!(
                self.entries.len() as u64,
                first.id.index.prev().0,
                "a hole in the log"
            );
        }
        self.entries.extend(batch.entries);
        let newest = self.entries.last().map_or(Term(0), |entry| entry.id.term);
        assert!(
            newest <= self.hard_state.term,
            "an entry is durable before its term (trap 3.33)"
        );
    }

    pub fn holds(&self, id: EntryId) -> bool {
        id.index == Index(0)
            || self
                .entries
                .get(id.index.prev().0 as usize)
                .is_some_and(|e| e.id == id)
    }
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
            sent: BTreeMap::new(),
            membership: membership(n),
            max_append_bytes: 200,
            promises_lease: false,
            starts: 0,
            seed,
        };
        for id in 1..=n {
            let server = Server {
                raft: None,
                disk: Disk::default(),
                clock: Ticks(0),
                applied: Vec::new(),
            };
            world.servers.insert(id, server);
            world.restart(id);
        }
        world
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

    /// The servers' logs, by terms.
    pub fn terms(&self, id: u64) -> Vec<u64> {
        let log = self.raft(id).log();
        (1..=log.last().index.0)
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
                server.applied.push(entry);
            }
            for envelope in ready.messages {
                self.send(envelope);
            }
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

    fn send(&mut self, envelope: Envelope) {
        let (from, to) = (envelope.from.0, envelope.to.0);
        match &envelope.message {
            Message::RequestVoteResponse(vote) if vote.vote_granted => {
                let first = *self.votes.entry((from, envelope.term)).or_insert(envelope.to);
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
        let id_at = |index| EntryId {
            term: raft.log().term_at(index).unwrap_or_default(),
            index,
        };
        for follower in &status.followers {
            let matched = id_at(follower.match_index);
            assert!(
                self.servers[&follower.id.0].disk.holds(matched),
                "leader {id} believes that {} holds {matched}",
                follower.id
            );
        }
        let committed = id_at(status.commit_index);
        let copies = self
            .servers
            .values()
            .filter(|server| server.disk.holds(committed))
            .count();
        assert!(
            2 * copies > self.servers.len(),
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
        let membership = self.membership.clone();
        let options = Options {
            max_append_bytes: self.max_append_bytes,
            promises_lease: self.promises_lease,
            ..options(id, seed)
        };
        let server = self.server(id);
        let recovered = Recovered {
            hard_state: server.disk.hard_state,
            snapshot: EntryId::default(),
            membership,
            entries: server.disk.entries.clone(),
            ..Recovered::default()
        };
        server.raft = Some(Raft::new(options, recovered, server.clock));
        self.work(id);
    }

    /// A server's disk as of an earlier life: its log by terms, and its term.
    pub fn preset(&mut self, id: u64, terms: &[u64]) {
        self.crash(id);
        let disk = &mut self.server(id).disk;
        disk.entries = entries(terms);
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
        if self.is_up(to) && !self.cut.contains(&(from, to)) {
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
