//! What the layers above ask of a node, and how the answers come back.

use std::fmt;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::kv;
use crate::raft::{Addresses, NodeId};

use super::feeds::Feed;
use super::status::Status;

/// One request to the node. Requests that arrive together travel together: see [`Node::submit`](super::Node::submit).
#[derive(Debug)]
pub struct Request {
    /// The asker's own number for it, repeated in the [`Answer`].
    pub ticket: u64,
    /// What is asked.
    pub operation: Operation,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A write: proposed here if this node leads, else passed to the leader.
    Write(kv::Command),
    /// A read of a few keys.
    Query(kv::Query, ReadMode),
    /// A consistent view of all keys, to be walked by the asker.
    View(ReadMode),
    /// A change feed.
    Feed {
        /// Of the keys that begin with this.
        prefix: Bytes,
        /// What has changed after this revision, from this node's history; `None` is from now on.
        from: Option<u64>,
        /// What "now" is.
        mode: ReadMode,
    },
    /// Hand leadership to this voter, or to the most up-to-date one. Passed to the leader where need be.
    Transfer(Option<NodeId>),
    /// Take a snapshot of this node's state and drop the log behind it; answered when it is durable.
    Snapshot,
    /// Change the membership. Passed to the leader where need be, and answered when the change is committed.
    Change(MembershipChange),
    /// Compare the states of all members at one index. Passed to the leader where need be.
    Verify,
    /// Mark this node's data to be fetched anew from the others: the node then ends, and its next start begins so.
    Rebuild,
    /// This node's picture of itself and its cluster, at once.
    Status,
}

/// A change of the membership that a client can ask for (Diss. 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipChange {
    /// A server comes in, or comes back with an empty data folder: as a learner that becomes a voter by itself.
    Add {
        /// Its number.
        id: NodeId,
        /// Where it listens.
        addresses: Addresses,
        /// Answer only when it votes.
        voter: bool,
    },
    /// A learner that has caught up becomes a voter.
    Promote(NodeId),
    /// A member goes.
    Remove(NodeId),
}

impl fmt::Display for MembershipChange {
    /// The command that asks for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MembershipChange::Add { id, addresses, voter } => {
                let voter = if *voter { " VOTER" } else { "" };
                write!(f, "RAFT ADD {id} {} {}{voter}", addresses.peer, addresses.client)
            }
            MembershipChange::Promote(id) => write!(f, "RAFT PROMOTE {id}"),
            MembershipChange::Remove(id) => write!(f, "RAFT REMOVE {id}"),
        }
    }
}

/// How a read is made linearizable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// ReadIndex: a quorum confirms the leader after the read arrived (Diss. 6.4).
    #[default]
    Quorum,
    /// The leader's lease where it holds one, else as `Quorum` (Diss. 6.4.1).
    Lease,
    /// This node's own state, at once; not linearizable.
    Stale,
}

/// The answer to the request with this ticket. Each request gets exactly one, also when the node stops.
#[derive(Debug)]
pub struct Answer {
    /// The request's number.
    pub ticket: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a request.
#[derive(Debug)]
pub enum Outcome {
    /// A reply to pass on, an error included.
    Reply(kv::Reply),
    /// The answer to [`Operation::View`]: an O(1) copy of the state.
    View(Box<kv::View>),
    /// The answer to [`Operation::Feed`].
    Feed(Feed),
    /// The answer to [`Operation::Status`].
    Status(Box<Status>),
}

/// Where the answers go. Unbounded as a channel, bounded by the asker: it has at most as many requests
/// under way as it is willing to hold answers for.
pub type Answers = mpsc::UnboundedSender<Answer>;

/// Requests that arrived together from one asker, in their order.
#[derive(Debug)]
pub struct Submission {
    /// The requests; of a pipeline, as many as were ready.
    pub requests: Vec<Request>,
    /// Where the answers go.
    pub answers: Answers,
}
