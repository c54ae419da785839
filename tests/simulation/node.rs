//! One node: a disk and clocks that last, and the process that runs on them for a while.
//!
//! A [`Process`] is what `raftline::node::run` is in production: it gathers what has happened, and in each turn tells
//! the machine all of it and has its effects noted, for the world to carry out.

use std::collections::BTreeMap;

use bytes::Bytes;
use raftline::base::rng::Rng;
use raftline::kv::{Garbage, View};
use raftline::node::{Host, Loaded, Machine, MachineOptions, Now, Submission};
use raftline::raft::{
    self, Addresses, Batch, EntryId, Envelope, Index, Membership, NodeId, Raft, SnapshotHeader, Ticks, Window,
};
use raftline::storage::Committed;
use raftline::transport::{CallError, Claim, Members, Refusal};

use crate::disk::{Disk, Done, Job, Taking};
use crate::world::Theme;

/// How the nodes of one world are set up.
#[derive(Clone, Debug)]
pub struct Setup {
    pub election_timeout_ms: u64,
    pub request_timeout_ms: u64,
    pub max_pending: usize,
    /// Everything is cut into the smallest pieces; or the batches for the disk are.
    pub is_tight: bool,
    pub has_small_batches: bool,
    /// A chunk of a snapshot is full from here on.
    pub chunk_bytes: usize,
    /// When snapshots are taken, and how much of the log is borne then.
    pub snapshot_log_bytes: u64,
    pub max_log_bytes: usize,
    /// Some nodes keep much more of the log than that.
    pub is_uneven: bool,
    /// Monotonic clocks run faster or slower by so many millionths at most. Only promises of leases depend on it.
    pub drift_max_ppm: u64,
    pub leases: Leases,
}

/// Who promises leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leases {
    Nobody,
    Some,
    All,
}

impl Setup {
    pub fn any(theme: Theme, rng: &mut Rng) -> Setup {
        let mut setup = Setup {
            election_timeout_ms: [200, 500, 1000][rng.below(3) as usize],
            request_timeout_ms: [1000, 4000][rng.below(2) as usize],
            max_pending: [5, 10_000, 10_000][rng.below(3) as usize],
            is_tight: rng.one_in(3),
            has_small_batches: rng.one_in(3),
            chunk_bytes: [1000, 8000, 128 << 10][rng.below(3) as usize],
            snapshot_log_bytes: u64::MAX,
            max_log_bytes: usize::MAX,
            is_uneven: rng.one_in(3),
            drift_max_ppm: 0,
            leases: [Leases::Nobody, Leases::Some, Leases::All, Leases::All][rng.below(4) as usize],
        };
        setup.choose_drift(rng);
        setup.choose_snapshots(rng);
        match theme {
            Theme::Anything | Theme::Disks => {}
            Theme::Leaders => setup.leases = Leases::Nobody,
            Theme::Clocks => (setup.leases, setup.drift_max_ppm) = (Leases::All, FAR_APART_PPM),
            Theme::Snapshots => {
                (setup.snapshot_log_bytes, setup.is_uneven) = (setup.snapshot_log_bytes.min(4000), true);
            }
        }
        setup
    }

    /// A lease is a fifth shorter than the promise: clocks that differ by more than a fifth would break it.
    fn choose_drift(&mut self, rng: &mut Rng) {
        let drifts = if self.leases == Leases::Nobody { 4 } else { 3 };
        self.drift_max_ppm = [0, 1000, FAR_APART_PPM, 400_000][rng.below(drifts) as usize];
    }

    /// In most worlds snapshots are taken all the time, and in some the log must not grow without them.
    fn choose_snapshots(&mut self, rng: &mut Rng) {
        self.snapshot_log_bytes = [u64::MAX, 1000, 4000, 30_000][rng.below(4) as usize];
        if self.snapshot_log_bytes < u64::MAX && rng.one_in(3) {
            // A snapshot that failed is tried again after a long while.
            self.max_log_bytes = 20 * self.snapshot_log_bytes as usize + 50_000;
        }
    }

    /// Of one node.
    fn any_snapshot_log_bytes(&self, rng: &mut Rng) -> u64 {
        if !self.is_uneven || rng.one_in(2) {
            return self.snapshot_log_bytes;
        }
        // The log must not be full before.
        let most = (self.max_log_bytes as u64 / 4).max(self.snapshot_log_bytes);
        self.snapshot_log_bytes.saturating_mul(30).min(most)
    }
}

/// The slowest and the fastest clock are almost as far apart as a lease bears.
const FAR_APART_PPM: u64 = 100_000;

/// Names a call of another node: who, on which connection, and its number there.
#[derive(Clone, Copy, Debug)]
pub struct CallId {
    pub caller: u64,
    pub connection: u64,
    pub sequence: u64,
}

/// What the machine wants done.
pub enum Effect {
    Send(Envelope),
    Disk(Job),
    Call {
        to: u64,
        sequence: u64,
        order: Bytes,
        deadline: Ticks,
    },
    Cancel(u64),
    Answer(CallId, Bytes),
    StateHash(Index, u64),
    AdoptMembership(Index, Membership),
}

/// What happens to a process.
pub enum Input {
    /// With whom, and the number of its data folder.
    Connected(u64, u64),
    Disconnected {
        peer: u64,
        by_peer: bool,
    },
    /// There is no connection any more that this node dialed.
    Unreachable(u64),
    Refused(u64, Refusal),
    Message(Envelope),
    Call(CallId, Bytes),
    Answer(u64, Result<Bytes, CallError>),
    StateHash {
        from: u64,
        index: Index,
        hash: u64,
    },
}

/// The effects of one turn, in their order.
#[derive(Default)]
pub struct Effects {
    list: Vec<Effect>,
    cluster_id: [u8; 16],
}

impl Host for Effects {
    type CallId = CallId;

    fn send(&mut self, envelope: Envelope) {
        self.list.push(Effect::Send(envelope));
    }
    fn persist(&mut self, batch: Batch) {
        self.list.push(Effect::Disk(Job::Persist(batch)));
    }
    fn send_chunk(&mut self, envelope: Envelope) {
        self.list.push(Effect::Disk(Job::SendChunk(envelope)));
    }
    fn store_chunk(&mut self, envelope: Envelope) {
        self.list.push(Effect::Disk(Job::StoreChunk(envelope)));
    }
    fn take_snapshot(&mut self, header: SnapshotHeader, view: View) {
        let taking = Box::new(Taking::new(header, view));
        self.list.push(Effect::Disk(Job::Take(taking)));
    }
    fn adopt_snapshot(&mut self, committed: Committed, drop_upto: EntryId) {
        self.list.push(Effect::Disk(Job::Adopt(committed, drop_upto)));
    }
    fn measure_free_space(&mut self) {
        self.list.push(Effect::Disk(Job::MeasureFreeSpace));
    }
    fn discard(&mut self, _: Garbage) {}
    fn call(&mut self, to: NodeId, sequence: u64, order: Bytes, deadline: Ticks) {
        let to = to.0;
        self.list.push(Effect::Call {
            to,
            sequence,
            order,
            deadline,
        });
    }
    fn cancel(&mut self, sequence: u64) {
        self.list.push(Effect::Cancel(sequence));
    }
    fn answer(&mut self, call: CallId, reply: Bytes) {
        self.list.push(Effect::Answer(call, reply));
    }
    fn tell_state_hash(&mut self, index: Index, hash: u64) {
        self.list.push(Effect::StateHash(index, hash));
    }
    fn adopt_membership(&mut self, index: Index, membership: &Membership) {
        self.list.push(Effect::AdoptMembership(index, membership.clone()));
    }
    fn mark_rebuild(&mut self) {
        self.list.push(Effect::Disk(Job::MarkRebuild));
    }
    fn clear_recovering(&mut self) {
        self.list.push(Effect::Disk(Job::ClearRecovering));
    }
    fn adopt_cluster_id(&mut self, cluster_id: [u8; 16]) {
        self.list.push(Effect::Disk(Job::SetClusterId(cluster_id)));
    }
    fn mint_cluster_id(&mut self) -> [u8; 16] {
        self.cluster_id
    }
}

pub struct Process {
    pub machine: Machine<CallId>,
    effects: Effects,
    pub done: Vec<Done>,
    pub inputs: Vec<Input>,
    pub submissions: Vec<Submission>,
    /// When the next turn is.
    pub turn_at: u64,
}

/// A monotonic clock that runs too fast or too slow.
struct Clock {
    /// What it showed, and when it was set to its present pace.
    shown_us: u64,
    since_us: u64,
    /// So many millionths too fast.
    drift_ppm: i64,
}

impl Clock {
    fn show_us(&self, now_us: u64) -> u64 {
        let elapsed = now_us - self.since_us;
        let drift = elapsed as i64 * self.drift_ppm / 1_000_000;
        self.shown_us + elapsed.saturating_add_signed(drift)
    }

    /// When it shows that, or a little later.
    fn time_of(&self, shown_us: u64) -> u64 {
        let local_us = u128::from(shown_us.saturating_sub(self.shown_us));
        let us = local_us * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm)) as u128;
        self.since_us + u64::try_from(us).unwrap_or(u64::MAX / 2) + 1000
    }
}

/// A node, whether or not a process runs on it.
pub struct Node {
    pub id: u64,
    pub disk: Disk,
    pub process: Option<Process>,
    /// How many processes there were.
    pub boot: u64,
    /// The membership of its configuration; empty where it waits to be added.
    pub bootstrap: Membership,
    /// How many data folders there were before this one; and what the last one held, and its number.
    pub life: u64,
    pub lost: Option<(u64, Disk)>,
    /// The number of its data folder; 0 before there is one.
    pub incarnation: u64,
    /// Whom it lets in, and whom it dials.
    pub members: Members,
    pub peers: BTreeMap<u64, Addresses>,
    /// What was committed when its process began, which recovers.
    pub recovers_from: Option<Index>,
    /// It was switched off for good.
    pub is_retired: bool,
    promises_lease: bool,
    snapshot_log_bytes: u64,
    clock: Clock,
    /// So much its wall clock is off.
    pub wall_offset_ms: i64,
    /// No turn before this time, and for how long there was none in all.
    pub paused_until: u64,
    pub paused_us: u64,
}

/// How long that may take on the slowest clock.
pub fn slowest_us(us: u64, drift_max_ppm: u64) -> u64 {
    us * 1_000_000 / (1_000_000 - drift_max_ppm)
}

/// The wall clock's time when a world begins.
const EPOCH_MS: u64 = 1_700_000_000_000;

impl Node {
    pub fn new(id: u64, setup: &Setup, bootstrap: Membership, rng: &mut Rng) -> Node {
        let most_ppm = setup.drift_max_ppm;
        let clock = Clock {
            shown_us: 0,
            since_us: 0,
            drift_ppm: rng.below(2 * most_ppm + 1) as i64 - most_ppm as i64,
        };
        Node {
            id,
            disk: Disk::new(id, setup.chunk_bytes, rng),
            process: None,
            boot: 0,
            bootstrap,
            life: 0,
            lost: None,
            incarnation: 0,
            members: Members::default(),
            peers: BTreeMap::new(),
            recovers_from: None,
            is_retired: false,
            promises_lease: match setup.leases {
                Leases::Nobody => false,
                Leases::Some => rng.one_in(2),
                Leases::All => true,
            },
            snapshot_log_bytes: setup.any_snapshot_log_bytes(rng),
            clock,
            wall_offset_ms: rng.below(2000) as i64 - 1000,
            paused_until: 0,
            paused_us: 0,
        }
    }

    /// A process starts. `Err`: the disk refused. `may_crash`: the power may fail meanwhile.
    pub fn start(
        &mut self,
        setup: &Setup,
        now_us: u64,
        may_crash: bool,
        rng: &mut Rng,
    ) -> Result<(), String> {
        let Loaded {
            storage,
            identity,
            recovered,
            store,
        } = self.disk.open(self.bootstrap.clone(), may_crash, rng)?;
        self.disk.run(storage);
        self.boot += 1;
        if self.life > 0 && self.incarnation == 0 {
            // What was sent to the old folder after it was gone is not for this one.
            self.life += 1;
        }
        self.incarnation = identity.incarnation;
        let now = self.now(now_us);
        let raft_options = raft::Options {
            promises_lease: self.promises_lease,
            ..raft_options(setup, self.id, rng.next_u64())
        };
        let raft = Raft::new(raft_options, recovered, now.ticks);
        let status = raft.status();
        self.adopt_membership(status.membership_index, status.membership.clone());
        let options = MachineOptions {
            cluster_name: "simulation".into(),
            incarnation: identity.incarnation,
            addresses: addresses(self.id, 0),
            request_timeout_ms: setup.request_timeout_ms,
            max_pending: setup.max_pending,
            max_memory_bytes: 0,
            min_free_space_bytes: 16 << 10,
            snapshot_log_bytes: self.snapshot_log_bytes,
        };
        let effects = Effects {
            list: Vec::new(),
            cluster_id: u128::from(rng.next_u64()).to_be_bytes(),
        };
        self.process = Some(Process {
            machine: Machine::new(options, raft, store, now),
            effects,
            done: Vec::new(),
            inputs: Vec::new(),
            submissions: Vec::new(),
            turn_at: u64::MAX,
        });
        Ok(())
    }

    /// The latest membership, for the connections. Returns whom it does not dial any more, or elsewhere.
    pub fn adopt_membership(&mut self, index: Index, membership: Membership) -> Vec<u64> {
        let others = membership.addresses.iter().filter(|(id, _)| id.0 != self.id);
        let peers: BTreeMap<u64, Addresses> =
            others.map(|(id, addresses)| (id.0, addresses.clone())).collect();
        let before = std::mem::replace(&mut self.peers, peers);
        self.members = Members::new(index, membership);
        let is_gone = |(id, addresses): &(u64, Addresses)| self.peers.get(id) != Some(addresses);
        before.into_iter().filter(is_gone).map(|(id, _)| id).collect()
    }

    /// What it says of itself when it connects.
    pub fn claim(&self) -> Claim {
        Claim {
            node_id: NodeId(self.id),
            incarnation: self.incarnation,
            membership_index: self.members.index(),
        }
    }

    /// The data folder is gone, and an empty one is in its place. No process may run.
    pub fn wipe(&mut self, disk: Disk, bootstrap: Membership) {
        assert!(self.process.is_none(), "a data folder vanishes under its process");
        self.lost = Some((self.incarnation, std::mem::replace(&mut self.disk, disk)));
        (self.incarnation, self.bootstrap) = (0, bootstrap);
        self.life += 1;
    }

    /// Whether its disk holds the entry, or did when it still was the one that this membership knows.
    pub fn holds(&self, id: EntryId, membership: &Membership) -> bool {
        let bound = membership.incarnations.get(&NodeId(self.id));
        let lost = self.lost.as_ref().filter(|(number, _)| Some(number) == bound);
        self.disk.held(id) || lost.is_some_and(|(_, disk)| disk.held(id))
    }

    /// What the node's clocks show.
    pub fn now(&self, now_us: u64) -> Now {
        Now {
            ticks: Ticks(self.clock.show_us(now_us) / 1000),
            wall_ms: (EPOCH_MS + now_us / 1000).saturating_add_signed(self.wall_offset_ms),
        }
    }

    /// When the node's monotonic clock shows that, or a little later.
    pub fn time_of(&self, ticks: Ticks) -> u64 {
        self.clock.time_of(ticks.0.saturating_mul(1000))
    }

    /// The monotonic clock runs at another pace from now on.
    pub fn set_drift(&mut self, now_us: u64, drift_ppm: i64) {
        self.clock = Clock {
            shown_us: self.clock.show_us(now_us),
            since_us: now_us,
            drift_ppm,
        };
    }

    /// Tells the machine all that has happened and lets it work once. Whether there is more to do.
    /// `Err`: the disk has failed, and the process has to end.
    pub fn turn(&mut self, now_us: u64) -> Result<bool, String> {
        let now = self.now(now_us);
        let process = self.process.as_mut().expect("a process");
        let Process { machine, effects, .. } = process;
        machine.tick(now);
        for done in process.done.drain(..) {
            match done {
                Done::Persisted => machine.on_persisted(),
                Done::Snapshot(event) => machine.on_snapshot(event, effects),
                Done::FreeSpace(bytes) => machine.on_free_space(bytes),
                Done::MarkedRebuild => {
                    machine.on_rebuild_marked();
                    return Err("it is to be rebuilt".into());
                }
                Done::Chunk(_) => panic!("the world sends chunks"),
                Done::Failed(reason) => return Err(reason),
            }
        }
        for input in process.inputs.drain(..) {
            match input {
                Input::Connected(peer, incarnation) => machine.on_connected(NodeId(peer), incarnation),
                Input::Unreachable(peer) => machine.on_unreachable(NodeId(peer)),
                Input::Refused(peer, refusal) => machine.on_refused(NodeId(peer), refusal),
                Input::Disconnected { peer, by_peer } => machine.on_disconnected(NodeId(peer), by_peer),
                Input::Message(envelope) => machine.on_message(envelope),
                Input::Call(call, order) => machine.on_call(call, &order, effects),
                Input::Answer(sequence, result) => machine.on_answer(sequence, result),
                Input::StateHash { from, index, hash } => machine.on_state_hash(NodeId(from), index, hash),
            }
        }
        for submission in process.submissions.drain(..) {
            machine.submit(submission, effects);
        }
        Ok(machine.work(effects).expect("an entry that can be read"))
    }

    /// What the machine wanted done since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        let process = self.process.as_mut();
        process.map_or(Vec::new(), |process| std::mem::take(&mut process.effects.list))
    }

    /// The process stops in order: everything that waits gets its answer.
    pub fn stop(&mut self) {
        if let Some(process) = &mut self.process {
            process.machine.stop(&mut process.effects);
        }
    }

    pub fn is_leader(&self) -> bool {
        self.process
            .as_ref()
            .is_some_and(|process| process.machine.is_leader())
    }
}

/// Where a node is found; the `n`-th time that it is added, elsewhere.
pub fn addresses(id: u64, n: u64) -> Addresses {
    Addresses {
        peer: format!("n{id}-{n}:7239"),
        client: format!("n{id}-{n}:7238"),
    }
}

/// The membership of the configuration.
pub fn first_membership(nodes: u64) -> Membership {
    Membership {
        voters: (1..=nodes).map(NodeId).collect(),
        addresses: (1..=nodes).map(|id| (NodeId(id), addresses(id, 0))).collect(),
        ..Membership::default()
    }
}

fn raft_options(setup: &Setup, id: u64, seed: u64) -> raft::Options {
    let bytes = |tight, roomy| if setup.is_tight { tight } else { roomy };
    raft::Options {
        id: NodeId(id),
        election_timeout_ms: setup.election_timeout_ms,
        heartbeat_interval_ms: setup.election_timeout_ms / 10,
        max_append_bytes: bytes(1, 256 << 10),
        max_batch_bytes: if setup.has_small_batches {
            300
        } else {
            bytes(300, 4 << 20)
        },
        window: Window {
            max_requests: bytes(4, 64),
            max_bytes: bytes(1000, 16 << 20),
            gather_bytes: bytes(100, 64 << 10),
        },
        max_uncommitted_bytes: bytes(2000, 64 << 20),
        max_apply_bytes: bytes(100, 4 << 20),
        seed,
        promises_lease: false,
        max_clock_drift_percent: 20,
        disk_stall_timeout_ms: 2000,
        max_log_bytes: setup.max_log_bytes,
    }
}
