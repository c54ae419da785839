//! What must hold, looked at after everything that happens. What does not ends the world with a panic, whose text
//! begins with the property's name.
//!
//! Beside the properties of `raft::invariants`: what a node says is true of its disk when it leaves; what counts as
//! committed is on a majority of the disks; whoever has applied the same index has the same state; and what the log
//! holds in the end is what the clients were told.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use raftline::kv::{self, Command, SetExpiry};
use raftline::raft::invariants::Invariants;
use raftline::raft::{Entry, EntryId, Envelope, Index, Membership, Message, NodeId, Payload, Raft, Status};

use crate::disk::Durable;
use crate::elections::Elections;
use crate::linearizable::{Action, Operation, Outcome, by_key, describe, linearizable_within};
use crate::node::Node;

#[derive(Default)]
pub struct Checker {
    pub invariants: Invariants,
    /// What the state hashes to after each index.
    hashes: BTreeMap<Index, u64>,
    pub elections: Elections,
    /// How often each value of the clients was written by a committed entry.
    written: BTreeMap<u64, u64>,
    /// The memberships that were committed, that of the configuration first.
    pub memberships: Vec<Membership>,
    /// The cluster's identity.
    cluster_id: Option<[u8; 16]>,
}

impl Checker {
    /// The cluster begins with this membership.
    pub fn new(first: Membership, elections: Elections) -> Checker {
        Checker {
            elections,
            memberships: vec![first],
            ..Checker::default()
        }
    }

    /// Something has happened to a node. Returns the range of indexes that are committed for the first time.
    #[must_use]
    pub fn observe(&mut self, node: &Node) -> RangeInclusive<Index> {
        let Some(process) = &node.process else {
            return Index(1)..=Index(0);
        };
        let machine = &process.machine;
        let before = self.invariants.commit_index().next();
        if let Err(violation) = self.invariants.observe(machine.raft()) {
            panic!("{violation}");
        }
        let (index, hash) = machine.applied();
        self.on_hash(node.id, index, hash);
        let durable = machine.raft().status().log_durable;
        let name = machine.raft().log().entry(durable).map(|entry| entry.id);
        assert!(
            name.is_none_or(|name| node.disk.durable().holds(name)),
            "durability: node {} takes its log for durable up to {name:?}, and its disk has {:?}",
            node.id,
            node.disk.durable().last(),
        );
        before..=self.invariants.commit_index()
    }

    /// These indexes are committed for the first time, and this node knows it: no crash may ever take them back.
    pub fn on_committed(&mut self, indexes: RangeInclusive<Index>, node: &Node, nodes: &BTreeMap<u64, Node>) {
        let Some(process) = node.process.as_ref().filter(|_| !indexes.is_empty()) else {
            return;
        };
        let raft = process.machine.raft();
        for index in (indexes.start().0..=indexes.end().0).map(Index) {
            let entry = raft.log().entry(index);
            assert!(
                entry.is_some(),
                "commit: node {} is the first to know that {index} is committed, and does not hold it",
                node.id
            );
            if let Some((value, is_once)) = entry.and_then(value_of) {
                let times = self.written.entry(value).or_default();
                *times = if is_once { 1 } else { *times + 1 };
            }
            if let Some(Payload::Membership(membership)) = entry.map(|entry| &entry.payload) {
                self.memberships.push((**membership).clone());
            }
            let id = self.invariants.committed_at(index).expect("it is committed");
            let decided_by = |membership: &Membership| is_on_quorum(id, membership, nodes);
            assert!(
                decided_by(raft.status().membership) || may_decide(raft, index).any(decided_by),
                "durability: entry {id} counts as committed and is not durable on a quorum of {:?}",
                raft.status().membership
            );
        }
    }

    /// A node adopts the identity of its cluster: there is but one.
    pub fn on_cluster_id(&mut self, node: u64, cluster_id: [u8; 16]) {
        let known = *self.cluster_id.get_or_insert(cluster_id);
        assert!(known == cluster_id, "one cluster: node {node} is of another one");
    }

    /// The latest membership that was ever committed.
    pub fn membership(&self) -> &Membership {
        self.memberships.last().expect("that of the configuration")
    }

    /// What a leader believes of a follower that counts is on the follower's disk: what that has said in this term, it
    /// takes back for a later leader only.
    pub fn check_followers(&self, node: &Node, nodes: &BTreeMap<u64, Node>) {
        let Some(process) = node.process.as_ref().filter(|_| node.is_leader()) else {
            return;
        };
        let raft = process.machine.raft();
        let (status, base) = (raft.status(), raft.log().base());
        for follower in status.followers.iter().filter(|follower| !follower.is_recovering) {
            let (index, folder) = (
                follower.match_index,
                status.membership.incarnations.get(&follower.id),
            );
            let Some(other) = nodes
                .get(&follower.id.0)
                .filter(|other| folder == Some(&other.incarnation))
            else {
                continue;
            };
            let id = raft.log().term_at(index).map(|term| EntryId { term, index });
            let Some(id) = id.filter(|_| index >= base.index && index > Index(0)) else {
                continue;
            };
            let is_later = other.disk.durable().hard_state.term > raft.term();
            assert!(
                is_later || other.holds(id, status.membership),
                "acknowledgements are true: leader {} of term {} believes that node {} holds {id}, and its disk has {}",
                node.id,
                raft.term(),
                other.id,
                other.disk.durable().describe()
            );
        }
    }

    /// A node counts again: it holds what was committed when it began to ask.
    pub fn on_recovered(&self, node: &Node) {
        let committed = node
            .recovers_from
            .and_then(|index| self.invariants.committed_at(index));
        assert!(
            committed.is_none_or(|id| node.disk.durable().holds(id)),
            "who has recovered lacks nothing: node {} counts again, its disk has {}, and {committed:?} was committed \
             when it started",
            node.id,
            node.disk.durable().describe()
        );
    }

    /// A node's state after an index hashes to this.
    pub fn on_hash(&mut self, node: u64, index: Index, hash: u64) {
        let first = *self.hashes.entry(index).or_insert(hash);
        assert!(
            first == hash,
            "state hash: node {node} has another state at index {index} than the others had: {hash:x} and not {first:x}"
        );
    }

    /// A message leaves. `receiver`: the core that it is for, where it runs.
    pub fn on_send(&mut self, envelope: &Envelope, disk: &Durable, receiver: Option<&Raft>) {
        let (from, term) = (envelope.from, envelope.term);
        assert!(
            disk.hard_state.term >= term,
            "persist before answering: node {from} speaks of term {term}, and its disk knows of {:?}",
            disk.hard_state
        );
        match &envelope.message {
            Message::RequestVoteResponse(response) if response.vote_granted => {
                assert!(
                    disk.hard_state.term > term || disk.hard_state.vote == Some(envelope.to),
                    "persist before answering: node {from} votes for {} in term {term}, and its disk knows of {:?}",
                    envelope.to,
                    disk.hard_state
                );
            }
            Message::AppendEntriesResponse(response) if response.conflict.is_none() => {
                let index = response.last_index;
                let held = disk.at(index);
                let asker = receiver.filter(|raft| raft.is_leader() && raft.term() == term);
                let asked = asker
                    .and_then(|raft| raft.log().entry(index))
                    .map(|entry| entry.id);
                let is_right = |held: &EntryId| held.term <= term && asked.is_none_or(|asked| asked == *held);
                assert!(
                    index < disk.base.index || held.as_ref().is_some_and(is_right),
                    "persist before answering: node {from} acknowledges index {index}, and its disk has {held:?}; \
                     the leader's is {asked:?}",
                );
            }
            Message::InstallSnapshotResponse(response) if response.installed => {
                let last = response.last;
                assert!(
                    disk.holds(last),
                    "persist before answering: node {from} acknowledges the snapshot up to {last}, and its disk has {}",
                    disk.describe()
                );
            }
            Message::InstallSnapshot(install) => {
                let last = install.header.last;
                assert!(
                    self.invariants.committed_at(last.index) == Some(last),
                    "a snapshot covers what is committed: node {from} sends one up to {last}, and committed is {:?}",
                    self.invariants.committed_at(last.index)
                );
            }
            _ => {}
        }
    }

    /// A node's disk does not hold these entries any more. One of them may be committed, if a quorum holds it without
    /// this node: a leader that could not know of it was elected meanwhile, and what it sent was long under way.
    pub fn on_replaced(&self, node: u64, replaced: &[EntryId], nodes: &BTreeMap<u64, Node>) {
        for id in replaced {
            let is_committed = self.invariants.committed_at(id.index) == Some(*id);
            assert!(
                !is_committed || is_on_quorum(*id, self.membership(), nodes),
                "durability: the disk of node {node} has replaced the committed entry {id}, and no quorum has it now"
            );
        }
    }

    /// A client has seen the end of an operation: a write that is done is committed.
    pub fn on_outcome(&self, operation: &Operation) {
        let is_done = match (operation.action, operation.outcome) {
            (Action::Set(_) | Action::Exchange(_), Outcome::Done(_)) => true,
            (Action::Create(_) | Action::Swap { .. }, Outcome::Done(done)) => done.is_some(),
            _ => false,
        };
        if let Some(value) = written(operation.action).filter(|_| is_done) {
            assert!(
                self.written.contains_key(&value),
                "acknowledged writes are committed: {:?} {} is done, and no committed entry says so",
                operation.action,
                operation.key
            );
        }
    }
}

/// Whether a majority of the voters, of both sets in a joint configuration, holds an entry durably.
fn is_on_quorum(id: EntryId, membership: &Membership, nodes: &BTreeMap<u64, Node>) -> bool {
    [&membership.voters, &membership.outgoing]
        .into_iter()
        .all(|voters| {
            let holds = |voter: &&NodeId| nodes[&voter.0].holds(id, membership);
            voters.is_empty() || 2 * voters.iter().filter(holds).count() > voters.len()
        })
}

/// The memberships in force when an entry was appended, and after it: its leader counted by one of them.
fn may_decide(raft: &Raft, index: Index) -> impl Iterator<Item = &Membership> {
    let of = |at: u64| match &raft.log().entry(Index(at))?.payload {
        Payload::Membership(membership) => Some(&**membership),
        Payload::Noop | Payload::Command(_) => None,
    };
    let (first, last) = (raft.log().first_index().0, raft.log().last().index.0);
    let before = (first..=index.0).rev().find_map(of);
    let committed = Some(raft.status().committed_membership).filter(|_| before.is_none());
    before
        .into_iter()
        .chain((index.next().0..=last).filter_map(of))
        .chain(committed)
}

/// A leader that no quorum answers stops leading (check-quorum, Diss. 6.2).
pub fn check_leader_is_heard(node: &Node, election_timeout_ms: u64) {
    let Some(process) = node.process.as_ref().filter(|_| node.is_leader()) else {
        return;
    };
    let status = process.machine.raft().status();
    let silent_ms = |voter: &NodeId| {
        let follower = status.followers.iter().find(|follower| follower.id == *voter);
        follower.map_or(0, |follower| follower.silent_ms)
    };
    let quorum = |status: &Status<'_>| {
        let sets = [&status.membership.voters, &status.membership.outgoing];
        let silences = sets.map(|voters| {
            let mut silences: Vec<u64> = voters.iter().map(silent_ms).collect();
            silences.sort_unstable();
            silences.get(silences.len() / 2).copied().unwrap_or(0)
        });
        silences.into_iter().fold(0, u64::max)
    };
    let quorum = quorum(&status);
    assert!(
        quorum <= 2 * election_timeout_ms,
        "a leader has a quorum: node {} leads term {}, and for {quorum} ms no majority has answered",
        node.id,
        status.hard_state.term
    );
}

impl Checker {
    /// At the end: what is committed is what the clients were told.
    pub fn check_log(&self, operations: &mut [Operation]) {
        check_log(&self.written, operations);
    }
}

/// How far the search for an order goes, which may take for ever where many outcomes are unknown.
const SEARCH_STEPS_MAX: u64 = 100_000;

/// The history of each key is what one copy of the data would have answered. How many could not be judged.
pub fn check_history(history: Vec<Operation>) -> usize {
    let mut undecided = 0;
    for (key, operations) in by_key(history) {
        match linearizable_within(operations.clone(), SEARCH_STEPS_MAX) {
            Some(true) => {}
            Some(false) => panic!("linearizability: {}", describe(&key, &operations)),
            None => undecided += 1,
        }
    }
    undecided
}

/// The value that a request writes and, but for its repetitions, no other one.
fn written(action: Action) -> Option<u64> {
    match action {
        Action::Set(value)
        | Action::Create(value)
        | Action::Exchange(value)
        | Action::Swap { new: value, .. } => Some(value),
        Action::Get | Action::Incr | Action::Delete | Action::DeleteIf(_) => None,
    }
}

/// The number that an entry sets a key to, where it does, and whether that is done once however often it comes.
fn value_of(entry: &Entry) -> Option<(u64, bool)> {
    let Payload::Command(bytes) = &entry.payload else {
        return None;
    };
    let (_, command) = kv::decode_entry(bytes.clone()).expect("an entry that can be read");
    let is_once = matches!(command, Command::Once { .. } | Command::Seq { .. });
    let Command::Set { value, expiry, .. } = command.unwrapped() else {
        return None;
    };
    // What hangs on a lease is no register.
    if matches!(expiry, SetExpiry::Lease(_)) {
        return None;
    }
    Some((std::str::from_utf8(value).ok()?.parse().ok()?, is_once))
}

/// Each write of a value that is written only once: it is in the log as often as the clients were told. A write of
/// unknown outcome that is not there has certainly failed, which makes the history easier to judge.
fn check_log(in_log: &BTreeMap<u64, u64>, operations: &mut [Operation]) {
    // How often each value was certainly written, and perhaps.
    let mut told: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for operation in operations.iter_mut() {
        let Some(value) = written(operation.action) else {
            continue;
        };
        let (certain, perhaps) = told.entry(value).or_default();
        match operation.outcome {
            Outcome::Done(_) => *certain += 1,
            Outcome::Unknown => *perhaps += 1,
            Outcome::Failed => {}
        }
        if operation.outcome == Outcome::Unknown && !in_log.contains_key(&value) {
            operation.outcome = Outcome::Failed;
        }
    }
    for (value, (certain, perhaps)) in told {
        let times = in_log.get(&value).copied().unwrap_or(0);
        assert!(
            (certain..=certain + perhaps).contains(&times),
            "each write is done once: that of {value} is in the log {times} times; its clients \
             were told {certain} times that it is done, and {perhaps} times that it may be"
        );
    }
}
