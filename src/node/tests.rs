//! Machines on a network that works when a test says so, with disks that write at once.

mod leases;
mod once;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::host::{Host, Now, SnapshotEvent};
use super::machine::{Machine, Options};
use super::persist::persist_batch;
use super::request::{Answer, MembershipChange, Operation, Outcome, ReadMode, Request, Submission};
use super::transfer::{Filled, Incoming, Outgoing, read_snapshot, write_snapshot};
use crate::kv::{
    self, Code, Command, Condition, Garbage, Moment, Query, Reply, SetAnswer, SetExpiry, Store, View,
};
use crate::raft::{
    self, Batch, EntryId, Envelope, Heartbeat, HeartbeatResponse, Index, Membership, Message, NodeId, Raft,
    SnapshotHeader, Ticks, Window,
};
use crate::storage::fs::SimFs;
use crate::storage::{self, Committed, Recovered, Storage};
use crate::transport::{CallError, Claim, Members, Refusal};

/// A node's disk, and what the threads beside it would do.
struct Disk {
    fs: SimFs,
    storage: Storage<SimFs>,
    outgoing: Outgoing<SimFs>,
    incoming: Incoming<SimFs>,
}

impl Disk {
    fn open(id: u64, fs: &SimFs) -> (Disk, Recovered<SimFs>) {
        let options = storage::Options {
            dir: PathBuf::from("data"),
            node_id: NodeId(id),
            segment_size_bytes: 8 << 10,
            fsync: true,
        };
        let (storage, recovered) = Storage::open(fs.clone(), &options, id).unwrap();
        let disk = Disk {
            fs: fs.clone(),
            outgoing: Outgoing::new(storage.snapshots()),
            incoming: Incoming::new(storage.snapshots()),
            storage,
        };
        (disk, recovered)
    }
}

/// What one machine had done for it.
struct Effects {
    id: u64,
    disk: Disk,
    sent: Vec<Envelope>,
    persisting: bool,
    /// What has become of snapshots.
    snapshots: Vec<SnapshotEvent>,
    /// Snapshots are written, but their end is not told.
    holds_snapshots: bool,
    /// How many chunks were stored.
    chunks: usize,
    /// Calls to other nodes: to whom, under which number, and what.
    calls: Vec<(NodeId, u64, Bytes)>,
    /// Answers to others' calls: whose, under which number, and what.
    answers: Vec<((u64, u64), Bytes)>,
    hashes: Vec<(Index, u64)>,
    /// Of the last heartbeat to each.
    sessions: BTreeMap<NodeId, u64>,
    cluster_id: Option<[u8; 16]>,
    /// The latest membership, and the number of its entry.
    membership: (Index, Membership),
    /// The connections are not as that says yet.
    news: bool,
    incarnation: u64,
    /// To whom there is a connection.
    connected: BTreeSet<u64>,
    measured: usize,
    rebuilding: bool,
}

impl Effects {
    fn new(id: u64, incarnation: u64, disk: Disk) -> Effects {
        Effects {
            id,
            disk,
            sent: Vec::new(),
            persisting: false,
            snapshots: Vec::new(),
            holds_snapshots: false,
            chunks: 0,
            calls: Vec::new(),
            answers: Vec::new(),
            hashes: Vec::new(),
            sessions: BTreeMap::new(),
            cluster_id: None,
            membership: (Index(0), Membership::default()),
            news: false,
            incarnation,
            connected: BTreeSet::new(),
            measured: 0,
            rebuilding: false,
        }
    }

    /// Whether anything is to be carried on.
    fn has_any(&self) -> bool {
        self.persisting
            || !self.sent.is_empty()
            || !self.snapshots.is_empty()
            || !self.calls.is_empty()
            || !self.answers.is_empty()
            || !self.hashes.is_empty()
            || self.news
    }
}

impl Host for Effects {
    type CallId = (u64, u64);

    fn send(&mut self, envelope: Envelope) {
        if let Message::Heartbeat(heartbeat) = &envelope.message {
            self.sessions.insert(envelope.to, heartbeat.session);
        }
        self.sent.push(envelope);
    }
    fn persist(&mut self, batch: Batch) {
        let superfluous = persist_batch(&mut self.disk.storage, &batch).unwrap();
        superfluous.into_iter().for_each(|files| files.remove().unwrap());
        self.persisting = true;
    }
    fn send_chunk(&mut self, envelope: Envelope) {
        match self.disk.outgoing.fill(envelope) {
            Filled::Chunk(envelope) => self.sent.push(envelope),
            Filled::PastTheEnd => {}
            Filled::Lost(last, _) => self.snapshots.push(SnapshotEvent::Lost(last)),
        }
    }
    fn store_chunk(&mut self, envelope: Envelope) {
        let Message::InstallSnapshot(install) = envelope.message else {
            panic!("no chunk: {envelope:?}")
        };
        self.chunks += 1;
        let (to, request_id) = (envelope.from, envelope.request_id);
        let stored = self.disk.incoming.store(envelope.term, install).unwrap();
        self.snapshots
            .extend(stored.response.map(|response| SnapshotEvent::Stored {
                to,
                request_id,
                response,
            }));
        let received = stored.received.map(Box::new).map(SnapshotEvent::Received);
        self.snapshots.extend(received);
    }
    fn take_snapshot(&mut self, header: SnapshotHeader, view: View) {
        let written = write_snapshot(&self.disk.storage.snapshots(), &header, &view, || true);
        let result = written.map_err(|error| error.to_string());
        self.snapshots.push(SnapshotEvent::Written { header, result });
    }
    fn adopt_snapshot(&mut self, committed: Committed, drop_upto: EntryId) {
        self.disk.storage.adopt_snapshot(committed);
        self.disk.storage.drop_head(drop_upto).unwrap().remove().unwrap();
        self.snapshots.push(SnapshotEvent::Adopted(committed.last));
    }
    fn measure_free_space(&mut self) {
        self.measured += 1;
    }
    fn discard(&mut self, _: Garbage) {}
    fn call(&mut self, to: NodeId, sequence: u64, order: Bytes, _: Ticks) {
        self.calls.push((to, sequence, order));
    }
    fn cancel(&mut self, sequence: u64) {
        self.calls.retain(|(_, other, _)| *other != sequence);
    }
    fn answer(&mut self, call: (u64, u64), reply: Bytes) {
        self.answers.push((call, reply));
    }
    fn tell_state_hash(&mut self, index: Index, hash: u64) {
        self.hashes.push((index, hash));
    }
    fn adopt_membership(&mut self, index: Index, membership: &Membership) {
        self.membership = (index, membership.clone());
        self.news = true;
    }
    fn mark_rebuild(&mut self) {
        self.rebuilding = true;
    }
    fn clear_recovering(&mut self) {}
    fn adopt_cluster_id(&mut self, cluster_id: [u8; 16]) {
        self.cluster_id = Some(cluster_id);
    }
    fn mint_cluster_id(&mut self) -> [u8; 16] {
        [self.id as u8; 16]
    }
}

struct World {
    now: Now,
    membership: Membership,
    change: Box<dyn Fn(&mut Options)>,
    nodes: BTreeMap<u64, (Machine<(u64, u64)>, Effects)>,
    /// Nodes that nothing reaches and from which nothing comes.
    cut: Vec<u64>,
}

impl World {
    fn new(n: u64, change: impl Fn(&mut Options) + 'static) -> World {
        let now = Now {
            ticks: Ticks(0),
            wall_ms: 1_000_000,
        };
        let voters = (1..=n).map(NodeId).collect();
        let addresses = (1..=n).map(|id| (NodeId(id), addresses(id))).collect();
        let membership = Membership {
            voters,
            addresses,
            ..Membership::default()
        };
        let mut world = World {
            now,
            membership,
            change: Box::new(change),
            nodes: BTreeMap::new(),
            cut: Vec::new(),
        };
        (1..=n).for_each(|id| world.start(id, &SimFs::new()));
        world
    }

    /// A node starts on what its disk holds.
    fn start(&mut self, id: u64, fs: &SimFs) {
        self.start_as(id, fs, id, self.membership.clone());
    }

    fn start_as(&mut self, id: u64, fs: &SimFs, incarnation: u64, membership: Membership) {
        let mut options = Options {
            incarnation,
            ..machine_options(id)
        };
        (self.change)(&mut options);
        let (disk, found) = Disk::open(id, fs);
        let mut recovered = raft::Recovered {
            hard_state: found.hard_state,
            membership,
            entries: found.entries,
            incarnation,
            ..Default::default()
        };
        let mut store = Store::new();
        if let Some(snapshot) = found.snapshot {
            recovered.snapshot = snapshot.header().last;
            recovered.membership = snapshot.header().membership.clone();
            recovered.membership_index = snapshot.header().membership_index;
            store = read_snapshot(snapshot).unwrap();
        }
        let raft = Raft::new(raft_options(id), recovered, self.now.ticks);
        let machine = Machine::new(options, raft, store, self.now);
        self.nodes
            .insert(id, (machine, Effects::new(id, incarnation, disk)));
    }

    /// A node's process is killed, and starts again.
    fn restart(&mut self, id: u64) {
        let (_, effects) = self.nodes.remove(&id).unwrap();
        let fs = effects.disk.fs.clone();
        drop(effects);
        fs.kill_process();
        self.disconnect(id);
        self.start(id, &fs);
    }

    /// Starts a node that waits to be added; also for one that was there, with an empty data folder of this number.
    fn join(&mut self, id: u64, incarnation: u64) {
        self.disconnect(id);
        self.start_as(id, &SimFs::new(), incarnation, Membership::default());
    }

    /// The others lose their connections with a node, and look for it.
    fn disconnect(&mut self, id: u64) {
        for (machine, effects) in self.nodes.values_mut() {
            effects.connected.remove(&id);
            effects.news = true;
            machine.on_unreachable(NodeId(id));
        }
    }

    /// A world whose leader is known everywhere.
    fn with_leader(n: u64, change: impl Fn(&mut Options) + 'static) -> (World, u64) {
        let mut world = World::new(n, change);
        let leader = world.wait_for_leader();
        world.pass(200);
        (world, leader)
    }

    fn wait_for_leader(&mut self) -> u64 {
        for _ in 0..1000 {
            self.pass(10);
            let leads = |(id, (machine, _)): (&u64, &(Machine<_>, Effects))| {
                (!self.cut.contains(id) && machine.is_leader()).then_some(*id)
            };
            if let Some(leader) = self.nodes.iter().find_map(leads) {
                return leader;
            }
        }
        panic!("no leader in 10 s");
    }

    /// So much time passes, and everything that travels arrives.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(10) {
            self.now.ticks = self.now.ticks.after(10);
            self.now.wall_ms += 10;
            self.settle();
        }
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            let ids: Vec<u64> = self.nodes.keys().copied().collect();
            let mut moved = false;
            for id in ids {
                let (machine, effects) = self.nodes.get_mut(&id).unwrap();
                machine.tick(self.now);
                while machine.work(effects).unwrap() {}
                moved |= effects.has_any();
                if std::mem::take(&mut effects.persisting) {
                    machine.on_persisted();
                }
                if !effects.holds_snapshots {
                    for event in std::mem::take(&mut effects.snapshots) {
                        machine.on_snapshot(event, effects);
                    }
                }
                moved |= self.carry(id);
            }
            if !moved {
                break;
            }
        }
    }

    /// Connects a node with those that its transport is told of.
    fn connect(&mut self, id: u64) {
        let numbers: BTreeMap<u64, u64> = self
            .nodes
            .iter()
            .map(|(id, (_, effects))| (*id, effects.incarnation))
            .collect();
        let (machine, effects) = self.nodes.get_mut(&id).unwrap();
        let (index, membership) = &effects.membership;
        let members = Members::new(*index, membership.clone());
        effects.connected.retain(|peer| members.contains(NodeId(*peer)));
        let wanted = membership.addresses.keys().filter(|peer| peer.0 != id);
        for peer in wanted {
            let Some(incarnation) = numbers.get(&peer.0).copied() else {
                continue;
            };
            let claim = Claim {
                node_id: *peer,
                incarnation,
                membership_index: Index(0),
            };
            if members.refuses(&claim) && !effects.connected.contains(&peer.0) {
                machine.on_refused(*peer, Refusal::Wiped);
            } else if effects.connected.insert(peer.0) {
                machine.on_connected(*peer, incarnation);
            }
        }
    }

    /// Carries everything that a node has sent to where it goes; whether there was anything.
    fn carry(&mut self, id: u64) -> bool {
        let news = std::mem::take(&mut self.nodes.get_mut(&id).unwrap().1.news);
        if news {
            self.connect(id);
        }
        let connected: BTreeSet<u64> = self
            .nodes
            .iter()
            .filter(|(_, (_, effects))| effects.connected.contains(&id))
            .map(|(other, _)| *other)
            .chain(self.nodes[&id].1.connected.iter().copied())
            .collect();
        let effects = &mut self.nodes.get_mut(&id).unwrap().1;
        let (sent, calls) = (
            std::mem::take(&mut effects.sent),
            std::mem::take(&mut effects.calls),
        );
        let (answers, hashes) = (
            std::mem::take(&mut effects.answers),
            std::mem::take(&mut effects.hashes),
        );
        let cut = self.cut.clone();
        let reaches = move |to: u64| connected.contains(&to) && !cut.contains(&id) && !cut.contains(&to);
        let news = news || !(sent.is_empty() && calls.is_empty() && answers.is_empty() && hashes.is_empty());
        for envelope in sent.into_iter().filter(|envelope| reaches(envelope.to.0)) {
            if let Some((machine, _)) = self.nodes.get_mut(&envelope.to.0) {
                machine.on_message(envelope);
            }
        }
        for (to, sequence, order) in calls {
            if reaches(to.0) {
                let (machine, effects) = self.nodes.get_mut(&to.0).unwrap();
                machine.on_call((id, sequence), &order, effects);
            } else {
                self.machine(id).on_answer(sequence, Err(CallError::NotSent));
            }
        }
        for ((to, sequence), reply) in answers.into_iter().filter(|((to, _), _)| reaches(*to)) {
            self.machine(to).on_answer(sequence, Ok(reply));
        }
        for (index, hash) in hashes {
            for (_, (machine, _)) in self
                .nodes
                .iter_mut()
                .filter(|(to, _)| **to != id && reaches(**to))
            {
                machine.on_state_hash(NodeId(id), index, hash);
            }
        }
        news
    }

    fn machine(&mut self, id: u64) -> &mut Machine<(u64, u64)> {
        &mut self.nodes.get_mut(&id).unwrap().0
    }

    fn ask(&mut self, id: u64, operation: Operation) -> mpsc::UnboundedReceiver<Answer> {
        let (answers, inbox) = mpsc::unbounded_channel();
        let requests = vec![Request { ticket: 7, operation }];
        let (machine, effects) = self.nodes.get_mut(&id).unwrap();
        machine.submit(Submission { requests, answers }, effects);
        inbox
    }

    fn write(&mut self, id: u64, command: Command) -> mpsc::UnboundedReceiver<Answer> {
        self.ask(id, Operation::Write(command))
    }

    fn reply(&mut self, id: u64, operation: Operation) -> Reply {
        let mut inbox = self.ask(id, operation);
        self.pass(50);
        answer(&mut inbox).expect("an answer within 50 ms")
    }
}

fn machine_options(id: u64) -> Options {
    Options {
        cluster_name: "test".into(),
        incarnation: id,
        addresses: addresses(id),
        request_timeout_ms: 4000,
        max_pending: 100,
        max_memory_bytes: 0,
        min_free_space_bytes: 1000,
        snapshot_log_bytes: 1 << 40,
    }
}

fn addresses(id: u64) -> raft::Addresses {
    raft::Addresses {
        peer: format!("peer{id}"),
        client: format!("client{id}"),
    }
}

fn raft_options(id: u64) -> raft::Options {
    raft::Options {
        id: NodeId(id),
        election_timeout_ms: 500,
        heartbeat_interval_ms: 50,
        max_append_bytes: 1 << 18,
        max_batch_bytes: 1 << 20,
        window: Window {
            max_requests: 256,
            gather_bytes: 0,
            max_bytes: 1 << 22,
        },
        max_uncommitted_bytes: 1 << 26,
        max_apply_bytes: 1 << 20,
        seed: id,
        promises_lease: false,
        max_clock_drift_percent: 20,
        disk_stall_timeout_ms: 2000,
        max_log_bytes: usize::MAX,
    }
}

fn answer(inbox: &mut mpsc::UnboundedReceiver<Answer>) -> Option<Reply> {
    match inbox.try_recv().ok()?.outcome {
        Outcome::Reply(reply) => Some(reply),
        other => panic!("{other:?}"),
    }
}

fn code(reply: Option<Reply>) -> Option<Code> {
    match reply? {
        Reply::Error(error) => Some(error.code),
        other => panic!("not an error: {other:?}"),
    }
}

fn set(key: &'static str, value: &'static str) -> Command {
    Command::Set {
        key: Bytes::from_static(key.as_bytes()),
        value: Bytes::from_static(value.as_bytes()),
        condition: Condition::Always,
        expiry: SetExpiry::Clear,
        answer: SetAnswer::Status,
    }
}

fn get(key: &'static str) -> Operation {
    Operation::Query(Query::Get(Bytes::from_static(key.as_bytes())), ReadMode::Quorum)
}

fn value(text: &'static str) -> Reply {
    Reply::Value(Bytes::from_static(text.as_bytes()))
}

#[test]
fn any_node_takes_any_request() {
    for n in [1, 3, 5] {
        let (mut world, _) = World::with_leader(n, |_| {});
        for id in 1..=n {
            assert_eq!(world.reply(id, Operation::Write(set("k", "v"))), Reply::Ok);
            for reader in 1..=n {
                assert_eq!(
                    world.reply(reader, get("k")),
                    value("v"),
                    "{n} nodes, {id} to {reader}"
                );
            }
        }
    }
}

#[test]
fn a_new_cluster_names_itself_once_and_writes_down_its_members() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    let named: Vec<_> = world
        .nodes
        .values()
        .map(|(_, effects)| effects.cluster_id)
        .collect();
    assert_eq!(named, vec![Some([leader as u8; 16]); 3]);
    assert!(
        world
            .nodes
            .values()
            .all(|(_, effects)| effects.membership.1.voters.len() == 3)
    );
    world.cut = vec![leader];
    let second = world.wait_for_leader();
    world.pass(1000);
    assert_ne!(leader, second);
    assert_eq!(world.nodes[&second].1.cluster_id, Some([leader as u8; 16]));
}

#[test]
fn without_a_leader_requests_wait_and_then_say_that_nothing_was_done() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    world.cut = (1..=3).collect();
    world.pass(2000);
    let mut write = world.write(others[0], set("k", "v"));
    let mut read = world.ask(others[1], get("k"));
    world.pass(3900);
    assert_eq!((answer(&mut write), answer(&mut read)), (None, None));
    world.pass(200);
    assert_eq!(code(answer(&mut write)), Some(Code::ClusterDown));
    assert_eq!(code(answer(&mut read)), Some(Code::ClusterDown));
    let problems = world.machine(others[0]).status().problems;
    assert!(problems[0].starts_with("no leader for "), "{problems:?}");
}

#[test]
fn parked_writes_go_to_the_next_leader_in_their_order() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    let other = 1 + leader % 3;
    world.cut = vec![leader];
    let mut first = world.write(other, set("k", "1"));
    let mut second = world.write(other, set("k", "2"));
    world.wait_for_leader();
    world.pass(200);
    assert_eq!(
        (answer(&mut first), answer(&mut second)),
        (Some(Reply::Ok), Some(Reply::Ok))
    );
    assert_eq!(world.reply(other, get("k")), value("2"));
}

#[test]
fn a_leader_that_lost_its_quorum_does_not_claim_an_outcome() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    world.cut = vec![leader];
    let mut write = world.write(leader, set("k", "lost"));
    let mut read = world.ask(leader, get("k"));
    world.pass(4100);
    assert_eq!(code(answer(&mut write)), Some(Code::UnknownResult));
    assert_eq!(code(answer(&mut read)), Some(Code::ClusterDown));
}

#[test]
fn a_write_whose_entry_was_replaced_is_known_not_to_be_done() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    world.cut = vec![leader];
    let mut write = world.write(leader, set("k", "lost"));
    let second = world.wait_for_leader();
    assert_eq!(world.reply(second, Operation::Write(set("k", "kept"))), Reply::Ok);
    world.cut.clear();
    world.pass(1000);
    assert_eq!(code(answer(&mut write)), Some(Code::TryAgain));
    assert_eq!(world.reply(leader, get("k")), value("kept"));
}

/// A leader that is stopped answers nothing and closes nothing: whoever waits for it learns that it is no longer
/// the leader soon after there is another, not when the whole request timeout has passed.
#[test]
fn a_write_passed_to_a_leader_that_hangs_is_given_up_when_another_leads() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    let other = 1 + leader % 3;
    let mut write = world.write(other, set("k", "v"));
    world.nodes.get_mut(&other).unwrap().1.calls.clear();
    world.cut = vec![leader];
    world.wait_for_leader();
    assert_eq!(answer(&mut write), None);
    world.pass(150);
    assert_eq!(code(answer(&mut write)), Some(Code::UnknownResult));
}

/// A process that was held up hears first what has arrived meanwhile, and then looks at its timers.
#[test]
fn answers_that_waited_are_heard_before_timers_run_out() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    let follower = 1 + leader % 3;
    for id in [leader, follower] {
        world.now.ticks = world.now.ticks.after(10_000);
        let now = world.now;
        let others: Vec<u64> = (1..=3).filter(|other| *other != id).collect();
        // The others were not held up: what they had to say is there.
        let term = world.machine(id).status().term;
        let message = |from| Envelope {
            from: NodeId(from),
            to: NodeId(id),
            term,
            request_id: 0,
            message: if from == leader {
                let (session, read_round, leader_commit) = (0, 0, Index(0));
                Message::Heartbeat(Heartbeat {
                    session,
                    read_round,
                    leader_commit,
                })
            } else {
                let session = session_with(&world.nodes[&leader].1, from);
                Message::HeartbeatResponse(HeartbeatResponse {
                    session,
                    read_round: 0,
                    recovering: false,
                    promises_lease: false,
                })
            },
        };
        let heard: Vec<Envelope> = others.iter().map(|from| message(*from)).collect();
        let (machine, effects) = world.nodes.get_mut(&id).unwrap();
        machine.tick(now);
        heard
            .into_iter()
            .for_each(|envelope| machine.on_message(envelope));
        machine.work(effects).unwrap();
        assert_eq!(machine.status().leader, Some(NodeId(leader)), "as {id} sees it");
    }
}

/// The session of the leader's last heartbeat to this follower.
fn session_with(effects: &Effects, follower: u64) -> u64 {
    effects.sessions[&NodeId(follower)]
}

#[test]
fn trap_3_50_a_forwarded_write_of_unknown_fate_is_not_sent_again() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    let other = 1 + leader % 3;
    let mut lost = world.write(other, set("k", "1"));
    let mut unsent = world.write(other, set("k", "2"));
    let calls = std::mem::take(&mut world.nodes.get_mut(&other).unwrap().1.calls);
    world.machine(other).on_answer(calls[0].1, Err(CallError::Lost));
    world
        .machine(other)
        .on_answer(calls[1].1, Err(CallError::NotSent));
    world.pass(100);
    assert_eq!(code(answer(&mut lost)), Some(Code::UnknownResult));
    assert_eq!(answer(&mut unsent), Some(Reply::Ok));
}

#[test]
fn bounds_are_kept_and_named() {
    let (mut world, leader) = World::with_leader(3, |options| {
        options.max_pending = 2;
        options.max_memory_bytes = 5;
    });
    world.machine(leader).on_free_space(10);
    let mut full = world.write(leader, set("k", "v"));
    assert_eq!(code(answer(&mut full)), Some(Code::ReadOnly));
    world.pass(1000);
    world.write(leader, set("k", "v"));
    assert!(world.nodes[&leader].1.measured > 0, "the disk is looked at again");
    world.machine(leader).on_free_space(10_000);
    assert_eq!(
        code(Some(world.reply(leader, Operation::Write(set("key", "value"))))),
        Some(Code::Oom)
    );
    assert_eq!(world.reply(leader, Operation::Write(set("k", "v"))), Reply::Ok);
    let _waiting = [world.ask(leader, get("k")), world.ask(leader, get("k"))];
    let mut third = world.ask(leader, get("k"));
    assert_eq!(code(answer(&mut third)), Some(Code::Busy));
}

#[test]
fn expiry_is_an_entry_and_comes_by_itself() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    let expiry = SetExpiry::At(Moment::In(500));
    let Command::Set {
        key,
        value: text,
        condition,
        answer,
        ..
    } = set("k", "v")
    else {
        unreachable!()
    };
    let command = Command::Set {
        key,
        value: text,
        condition,
        expiry,
        answer,
    };
    assert_eq!(world.reply(leader, Operation::Write(command)), Reply::Ok);
    assert_eq!(world.reply(1 + leader % 3, get("k")), value("v"));
    world.pass(700);
    for id in 1..=3 {
        assert_eq!(world.machine(id).status().keys, 0, "node {id}");
    }
}

#[test]
fn transfer_is_answered_when_another_leads() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    let target = 1 + leader % 3;
    let asker = 1 + target % 3;
    let mut inbox = world.ask(asker, Operation::Transfer(Some(NodeId(target))));
    world.pass(100);
    assert_eq!(answer(&mut inbox), Some(Reply::Ok));
    assert!(world.machine(target).is_leader());
    assert_eq!(
        code(Some(world.reply(asker, Operation::Transfer(Some(NodeId(9)))))),
        Some(Code::Err)
    );
}

/// Hand-overs that follow each other must not make the first one wait for the last.
#[test]
fn a_transfer_is_answered_in_the_time_of_a_request_however_long_it_takes() {
    let (mut world, leader) = World::with_leader(3, |options| options.request_timeout_ms = 100);
    let target = 1 + leader % 3;
    world.cut = vec![target];
    let mut inbox = world.ask(leader, Operation::Transfer(Some(NodeId(target))));
    world.pass(50);
    assert_eq!(answer(&mut inbox), None);
    world.pass(60);
    assert_eq!(code(answer(&mut inbox)), Some(Code::UnknownResult));
    assert!(world.machine(leader).raft().is_transferring());
}

#[test]
fn a_node_whose_state_differs_serves_nothing_and_says_so() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    let other = 1 + leader % 3;
    world.reply(leader, Operation::Write(set("k", "v")));
    world.pass(100);
    let applied = world.machine(other).status().applied;
    world.machine(other).on_state_hash(NodeId(leader), applied, 1);
    assert_eq!(code(Some(world.reply(other, get("k")))), Some(Code::ClusterDown));
    assert!(world.machine(other).status().problems[0].contains("differs from the leader's"));
    assert_eq!(world.reply(leader, get("k")), value("v"));
}

/// Or the others would find that theirs differs from its own, and nobody would serve any more.
#[test]
fn trap_3_35_a_leader_whose_state_differs_claims_nothing_and_hands_over() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    let other = 1 + leader % 3;
    let (applied, hash) = world.machine(other).applied();
    world
        .machine(other)
        .on_state_hash(NodeId(leader), applied, hash + 1);
    world.nodes.get_mut(&other).unwrap().1.hashes.clear();
    let to_other = Operation::Transfer(Some(NodeId(other)));
    assert_eq!(world.reply(leader, to_other), Reply::Ok);
    world.pass(2000);
    assert!(!world.machine(other).is_leader());
    assert_eq!(world.nodes[&other].1.hashes, []);
    let leader = world.wait_for_leader();
    assert_eq!(world.reply(leader, Operation::Write(set("a", "1"))), Reply::Ok);
}

#[test]
fn members_that_cannot_be_reached_are_named() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    let (asked, dead) = (1 + leader % 3, 1 + (leader + 1) % 3);
    world.machine(asked).on_unreachable(NodeId(dead));
    world.pass(1900);
    assert_eq!(world.machine(asked).status().problems, [""; 0]);
    world.pass(2000);
    let problems = world.machine(asked).status().problems;
    let named = problems
        .iter()
        .filter(|problem| problem.contains(&format!("node {dead} ")));
    assert_eq!((named.count(), problems.len()), (1, 1), "{problems:?}");
}

#[test]
fn a_stopping_node_answers_everything() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    world.cut = vec![leader];
    let mut write = world.write(leader, set("k", "v"));
    let mut read = world.ask(leader, get("k"));
    let (machine, effects) = world.nodes.get_mut(&leader).unwrap();
    machine.stop(effects);
    assert_eq!(code(answer(&mut write)), Some(Code::UnknownResult));
    assert_eq!(code(answer(&mut read)), Some(Code::ReadOnly));
}

#[test]
fn what_a_peer_passes_on_may_be_rubbish() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    let (machine, effects) = world.nodes.get_mut(&leader).unwrap();
    machine.on_call((9, 1), &Bytes::from_static(&[200, 1, 2]), effects);
    let ((to, _), reply) = effects.answers.pop().unwrap();
    assert_eq!(to, 9);
    assert_eq!(code(kv::decode_reply(reply).ok()), Some(Code::Err));
}

fn add(id: u64, voter: bool) -> Operation {
    let addresses = addresses(id);
    let id = NodeId(id);
    Operation::Change(MembershipChange::Add { id, addresses, voter })
}

fn remove(id: u64) -> Operation {
    Operation::Change(MembershipChange::Remove(NodeId(id)))
}

impl World {
    fn membership(&self, id: u64) -> Membership {
        self.nodes[&id].0.raft().status().committed_membership.clone()
    }

    fn problems(&self, id: u64) -> String {
        self.nodes[&id].0.status().problems.join("\n")
    }

    fn passes_until(&mut self, what: &str, is_so: impl Fn(&World) -> bool) {
        for _ in 0..2000 {
            if is_so(self) {
                return;
            }
            self.pass(10);
        }
        panic!("20 s in vain for: {what}");
    }
}

#[test]
fn members_are_bound_to_their_data_folders_by_themselves() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    world.passes_until("all bound", |world| {
        world.membership(leader).incarnations.len() == 3
    });
    let bound = world.membership(leader).incarnations;
    assert_eq!(bound, (1..=3).map(|id| (NodeId(id), id)).collect());
}

#[test]
fn a_node_is_added_through_any_node_and_votes_by_itself() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    world.join(4, 4);
    world.pass(100);
    let waiting = world.problems(4);
    assert!(
        waiting.contains("waiting to be added: run RAFT ADD 4 peer4 client4"),
        "{waiting}"
    );
    let refused = code(Some(world.reply(4, Operation::Write(set("k", "v")))));
    assert_eq!(refused, Some(Code::ClusterDown));
    let mut inbox = world.ask(1 + leader % 3, add(4, true));
    world.passes_until("a voter", |world| world.membership(leader).voters.len() == 4);
    world.pass(100);
    assert_eq!(answer(&mut inbox), Some(Reply::Ok));
    assert_eq!(world.reply(4, Operation::Write(set("k", "v"))), Reply::Ok);
    assert_eq!(world.problems(4), "");
}

#[test]
fn one_change_at_a_time_and_the_second_asker_is_told() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    world.passes_until("all bound", |world| {
        world.membership(leader).incarnations.len() == 3
    });
    let mut first = world.ask(leader, add(4, false));
    let mut second = world.ask(leader, add(5, false));
    world.pass(50);
    assert_eq!(answer(&mut first), Some(Reply::Ok));
    assert_eq!(code(answer(&mut second)), Some(Code::Conflict));
    let mut wrong = world.ask(leader, remove(9));
    world.pass(50);
    assert_eq!(code(answer(&mut wrong)), Some(Code::Err));
}

#[test]
fn a_change_without_a_quorum_does_not_claim_an_outcome() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    world.passes_until("all bound", |world| {
        world.membership(leader).incarnations.len() == 3
    });
    world.cut = vec![leader];
    let mut change = world.ask(leader, add(4, false));
    world.pass(3900);
    assert_eq!(answer(&mut change), None);
    world.pass(200);
    assert_eq!(code(answer(&mut change)), Some(Code::UnknownResult));
}

#[test]
fn a_learner_that_never_comes_is_unknown_at_the_deadline_of_voter() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    let mut change = world.ask(leader, add(4, true));
    world.pass(59_000);
    assert_eq!(answer(&mut change), None);
    world.pass(2000);
    assert_eq!(code(answer(&mut change)), Some(Code::UnknownResult));
    let problems = world.problems(leader);
    assert!(
        problems.contains("no connection to node 4") && problems.contains("is a learner for"),
        "{problems}"
    );
}

#[test]
fn a_wiped_member_is_named_and_one_command_brings_it_back() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    world.passes_until("all bound", |world| {
        world.membership(leader).incarnations.len() == 3
    });
    let wiped = 1 + leader % 3;
    world.join(wiped, 77);
    world.pass(2000);
    let problems = world.problems(leader);
    let told = format!(
        "node {wiped} came back with an empty data folder: run RAFT ADD {wiped} peer{wiped} client{wiped}"
    );
    assert!(problems.contains(&told), "{problems}");
    let mut inbox = world.ask(leader, add(wiped, true));
    world.passes_until("a voter again", |world| {
        let membership = world.membership(leader);
        membership.voters.len() == 3 && membership.incarnations.get(&NodeId(wiped)) == Some(&77)
    });
    world.pass(100);
    assert_eq!(answer(&mut inbox), Some(Reply::Ok));
    assert_eq!(world.problems(leader), "");
}

/// A machine that died all at once has closed no connection. The folder that is bound is the one that comes, not the
/// one at the end of what is left of that connection.
#[test]
fn trap_3_37_a_connection_of_the_folder_before_binds_nothing() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    world.passes_until("all bound", |world| {
        world.membership(leader).incarnations.len() == 3
    });
    let wiped = 1 + leader % 3;
    world.cut = vec![wiped];
    world.pass(1000);
    assert_eq!(world.reply(leader, add(wiped, false)), Reply::Ok);
    world.pass(1000);
    let bound = world.membership(leader).incarnations;
    assert_eq!(bound.get(&NodeId(wiped)), None);
    world.cut.clear();
    world.join(wiped, 77);
    world.passes_until("a voter again", |world| {
        let membership = world.membership(leader);
        membership.voters.len() == 3 && membership.incarnations.get(&NodeId(wiped)) == Some(&77)
    });
}

#[test]
fn a_removed_node_says_so_and_serves_nothing() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    let gone = 1 + leader % 3;
    let mut inbox = world.ask(leader, remove(gone));
    world.pass(200);
    assert_eq!(answer(&mut inbox), Some(Reply::Ok));
    world.pass(3000);
    assert!(
        world.problems(gone).contains("this node was removed"),
        "{}",
        world.problems(gone)
    );
    assert_eq!(code(Some(world.reply(gone, get("k")))), Some(Code::ClusterDown));
    assert!(
        world.nodes[&gone].1.membership.1.addresses.is_empty(),
        "it dials nobody"
    );
    assert!(
        !world.nodes[&leader]
            .1
            .membership
            .1
            .addresses
            .contains_key(&NodeId(gone))
    );
    assert_eq!(world.reply(leader, Operation::Write(set("k", "v"))), Reply::Ok);
}

#[test]
fn trap_3_47_a_leader_that_is_removed_answers_and_hands_over() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    let other = 1 + leader % 3;
    let mut inbox = world.ask(other, remove(leader));
    let mut write = world.write(other, set("k", "v"));
    world.pass(300);
    assert_eq!(
        (answer(&mut inbox), answer(&mut write)),
        (Some(Reply::Ok), Some(Reply::Ok))
    );
    world.passes_until("a successor", |world| {
        world
            .nodes
            .iter()
            .any(|(id, (machine, _))| *id != leader && machine.is_leader())
    });
    world.pass(1000);
    assert!(world.problems(leader).contains("this node was removed"));
    assert_eq!(world.reply(other, Operation::Write(set("k", "w"))), Reply::Ok);
}

#[test]
fn trap_3_35_verify_names_what_differs_and_a_hash_that_is_missing_is_no_pass() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    let other = 1 + leader % 3;
    world.reply(leader, Operation::Write(set("k", "v")));
    assert_eq!(world.reply(other, Operation::Verify), Reply::Ok);
    world.cut = vec![other];
    let mut inbox = world.ask(leader, Operation::Verify);
    world.pass(50);
    let Some(Reply::Error(error)) = answer(&mut inbox) else {
        panic!("one did not answer")
    };
    assert!(
        error.text.contains(&format!("node {other} gave no hash")),
        "{error}"
    );
}

#[test]
fn a_node_is_marked_to_be_rebuilt_unless_it_leads() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    let other = 1 + leader % 3;
    assert_eq!(
        code(Some(world.reply(leader, Operation::Rebuild))),
        Some(Code::Err)
    );
    let mut inbox = world.ask(other, Operation::Rebuild);
    assert!(world.nodes[&other].1.rebuilding);
    assert_eq!(answer(&mut inbox), None, "not before the mark is durable");
    world.machine(other).on_rebuild_marked();
    assert_eq!(answer(&mut inbox), Some(Reply::Ok));
    let (mut alone, leader) = World::with_leader(1, |_| {});
    assert_eq!(
        code(Some(alone.reply(leader, Operation::Rebuild))),
        Some(Code::Err)
    );
}

/// While it fetches everything anew it does not count, and one of two voters alone neither leads nor answers: nothing
/// could ever be fetched.
#[test]
fn one_of_two_voters_is_not_rebuilt() {
    let (mut world, leader) = World::with_leader(2, |_| {});
    let other = 3 - leader;
    assert_eq!(
        code(Some(world.reply(other, Operation::Rebuild))),
        Some(Code::Err)
    );
    assert!(!world.nodes[&other].1.rebuilding);
}

/// What a newer version may have written is not skipped: the states would differ from there on.
#[test]
fn trap_3_36_an_entry_that_cannot_be_read_stops_the_node() {
    let (mut world, leader) = World::with_leader(1, |_| {});
    let (machine, effects) = world.nodes.get_mut(&leader).unwrap();
    let before = machine.applied();
    machine.raft.propose(Bytes::from_static(&[255, 1, 2])).unwrap();
    machine.work(effects).unwrap();
    machine.on_persisted();
    let error = machine.work(effects).unwrap_err();
    assert!(error.to_string().contains("newer version"), "{error}");
    assert_eq!(machine.applied(), before);
}
