//! The numbers of Raft, each a type of its own, so that a term is never passed where an index is meant.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;

/// A server's number: at least 1, never reused in a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// A term (Raft 5.1): 0 before the first election, then only growing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// A place in the log (Raft 5.3): the first entry has index 1; 0 is the place before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u64);

/// A point on the driver's monotonic clock, in milliseconds since an origin that the driver chose.
/// The core is told the time and never asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticks(pub u64);

/// One entry's name. Two logs that hold an entry of the same name hold the same entry, and the same
/// entries before it (the Log Matching property, Raft 5.3).
///
/// The order compares the term first and the index second, which is the "more up-to-date" of Raft 5.4.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// The term of the leader that created the entry.
    pub term: Term,
    /// The entry's place in the log.
    pub index: Index,
}

/// One log entry (Raft 5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Term and index.
    pub id: EntryId,
    /// What the entry says.
    pub payload: Payload,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// The entry with which every leader begins its term (Raft 8, Diss. 6.4).
    Noop,
    /// A command of the state machine; the core never looks into it.
    Command(Bytes),
    /// A change of the membership (Diss. 4.3); in force from the moment it is appended.
    /// Boxed, since nearly all entries are commands, and each entry of the log takes as much as the largest kind.
    Membership(Box<Membership>),
}

impl From<Membership> for Payload {
    fn from(membership: Membership) -> Payload {
        Payload::Membership(Box::new(membership))
    }
}

/// The servers of a cluster. In a joint configuration (Diss. 4.3) `outgoing` is not empty, and every
/// decision needs a majority of `voters` and a majority of `outgoing`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The voters; of the new configuration, where one is being entered.
    pub voters: BTreeSet<NodeId>,
    /// The voters of the configuration being left; empty outside a joint configuration.
    pub outgoing: BTreeSet<NodeId>,
    /// Servers that receive the log and do not vote (Diss. 4.2.1).
    pub learners: BTreeSet<NodeId>,
    /// Where each server of the three sets is found.
    pub addresses: BTreeMap<NodeId, Addresses>,
    /// The data folder of each server, by the random number that was made with it, once it is known. A server
    /// that comes with another one was wiped, and has forgotten its votes and its log (Diss. 3.8, trap 3.37).
    pub incarnations: BTreeMap<NodeId, u64>,
}

/// Where a server listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// `host:port` for other servers.
    pub peer: String,
    /// `host:port` for clients.
    pub client: String,
}

/// What a snapshot says of itself, before the state (Raft figure 13).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The last entry that the snapshot covers; index and term at least 1.
    pub last: EntryId,
    /// The latest committed membership up to there (trap 3.41).
    pub membership: Membership,
    /// The index of the entry that brought it; 0 when there was none.
    pub membership_index: Index,
}

/// What a server must not forget over a restart, beside its log (Raft figure 2, "persistent state").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term this server has seen: `currentTerm`.
    pub term: Term,
    /// Whom it voted for in that term: `votedFor`.
    pub vote: Option<NodeId>,
}

/// One write to the disk, all of it durable or none of it acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The snapshot up to this entry, which came from the leader and is durable as a file, takes the place of the
    /// log up to there, and of all of the log if that does not hold this entry. Done before the rest.
    pub install: Option<EntryId>,
    /// Term and vote, where they changed. Written before the entries (trap 3.33).
    pub hard_state: Option<HardState>,
    /// Consecutive entries. The first one may have an index that the log already holds: it and all after
    /// it are then replaced by these.
    pub entries: Vec<Entry>,
}

impl Entry {
    /// How many bytes the entry counts for in every bound: its payload and a fixed share for the rest.
    pub fn size_bytes(&self) -> usize {
        const OVERHEAD_BYTES: usize = 32;
        OVERHEAD_BYTES
            + match &self.payload {
                Payload::Noop => 0,
                Payload::Command(bytes) => bytes.len(),
                Payload::Membership(membership) => membership
                    .addresses
                    .values()
                    .map(|a| 32 + a.peer.len() + a.client.len())
                    .sum(),
            }
    }
}

impl Batch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.install.is_none() && self.hard_state.is_none() && self.entries.is_empty()
    }
}

impl Index {
    /// The index after this one.
    #[must_use]
    pub fn next(self) -> Index {
        Index(self.0.saturating_add(1))
    }

    /// The index before this one; 0 stays 0.
    #[must_use]
    pub fn prev(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

impl Term {
    /// The term after this one.
    #[must_use]
    pub fn next(self) -> Term {
        Term(self.0.saturating_add(1))
    }
}

impl Ticks {
    /// The point `ms` milliseconds later.
    #[must_use]
    pub fn after(self, ms: u64) -> Ticks {
        Ticks(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to here; 0 if `earlier` is later.
    pub fn since(self, earlier: Ticks) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}
