//! What must hold, looked at after everything that happens.
//!
//! Beside the properties of `raft::invariants`: what a node says is true of its disk when it leaves; what counts as
//! committed is on a majority of the disks; whoever has applied the same index has the same state; and what the log
//! holds in the end is what the clients were told.

use std::collections::BTreeMap;

use raftline::kv::{self, Command};
use raftline::raft::invariants::Invariants;
use raftline::raft::{Envelope, Index, Log, Message, NodeId, Payload, Term};

use crate::disk::Durable;
use crate::linearizable::{Action, Operation, Outcome, by_key, describe, linearizable_within};
use crate::node::Node;

#[derive(Default)]
pub struct Checker {
    pub invariants: Invariants,
    /// What the state hashes to after each index.
    hashes: BTreeMap<Index, u64>,
    /// Whom a node told that it has its vote, ever.
    votes: BTreeMap<(NodeId, Term), NodeId>,
}

impl Checker {
    /// Something has happened to a node. Returns the range of indexes that are committed for the first time.
    #[must_use]
    pub fn observe(&mut self, node: &Node) -> std::ops::Range<usize> {
        let Some(process) = &node.process else {
            return 0..0;
        };
        let machine = &process.machine;
        let before = self.invariants.commit_index().0 as usize;
        if let Err(violation) = self.invariants.observe(machine.raft()) {
            panic!("{violation}");
        }
        let (index, hash) = machine.applied();
        self.on_hash(node.id, index, hash);
        let durable = machine.raft().status().log_durable;
        let name = machine.raft().log().entry(durable).map(|entry| entry.id);
        assert!(
            name.is_none_or(|name| node.disk.durable().holds(name)),
            "node {} takes its log for durable up to {name:?}, and its disk has {:?}",
            node.id,
            node.disk.durable().log.last(),
        );
        before..self.invariants.commit_index().0 as usize
    }

    /// These indexes are committed for the first time: no crash may ever take them back.
    pub fn on_committed<'a>(
        &self,
        indexes: std::ops::Range<usize>,
        disks: impl Iterator<Item = &'a Durable> + Clone,
    ) {
        let nodes = disks.clone().count();
        let count = indexes.len();
        for id in self.invariants.committed().skip(indexes.start).take(count) {
            let holders = disks.clone().filter(|disk| disk.holds(id)).count();
            assert!(
                2 * holders > nodes,
                "entry {id} counts as committed and is durable on {holders} of {nodes} nodes"
            );
        }
    }

    /// A node's state after an index hashes to this.
    pub fn on_hash(&mut self, node: u64, index: Index, hash: u64) {
        let first = *self.hashes.entry(index).or_insert(hash);
        assert!(
            first == hash,
            "node {node} has another state at index {index} than the others had: {hash:x} and not {first:x}"
        );
    }

    /// A message leaves.
    pub fn on_send(&mut self, envelope: &Envelope, disk: &Durable) {
        let (from, term) = (envelope.from, envelope.term);
        assert!(
            disk.hard_state.term >= term,
            "node {from} speaks of term {term}, and its disk knows of {:?}",
            disk.hard_state
        );
        match &envelope.message {
            Message::RequestVoteResponse(response) if response.vote_granted => {
                let voted = *self.votes.entry((from, term)).or_insert(envelope.to);
                assert!(
                    voted == envelope.to,
                    "node {from} votes for {voted} and {} in term {term}",
                    envelope.to
                );
                assert!(
                    disk.hard_state.term > term || disk.hard_state.vote == Some(envelope.to),
                    "node {from} votes for {} in term {term}, and its disk knows of {:?}",
                    envelope.to,
                    disk.hard_state
                );
            }
            Message::AppendEntriesResponse(response) if response.conflict.is_none() => assert!(
                response.last_index.0 <= disk.log.len() as u64,
                "node {from} acknowledges index {}, and its disk has {:?}",
                response.last_index,
                disk.log.last()
            ),
            _ => {}
        }
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
            Some(false) => panic!("{}", describe(&key, &operations)),
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

/// Each write of a value that is written only once: it is in the log as often as the clients were told. A write of
/// unknown outcome that is not there has certainly failed, which makes the history easier to judge.
pub fn check_log(log: &Log, operations: &mut [Operation]) {
    let mut in_log: BTreeMap<u64, u64> = BTreeMap::new();
    for index in 1..=log.last().index.0 {
        let payload = log.entry(Index(index)).map(|entry| &entry.payload);
        let Some(Payload::Command(bytes)) = payload else {
            continue;
        };
        let (_, command) = kv::decode_entry(bytes.clone()).expect("an entry that can be read");
        if let Command::Set { value, .. } = command
            && let Some(value) = std::str::from_utf8(&value)
                .ok()
                .and_then(|text| text.parse().ok())
        {
            *in_log.entry(value).or_default() += 1;
        }
    }
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
            "the write of {value} is in the log {times} times; its clients were told {certain} times that it is done, \
             and {perhaps} times that it may be"
        );
    }
}
