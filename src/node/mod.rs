//! A node: the one place that sees Raft, the state machine, the disk and the peers together.
//!
//! The layers above hold a [`Node`] and submit requests; everything else is behind it. [`run`] is the node
//! itself: `driver` waits and wakes, `machine` decides, `persist` owns the disk. The machine is free of sockets,
//! files and clocks, so that the simulation can run it as it is. To read in this order: `request`, `machine`,
//! `writes`, `waiters`, `reads`, `driver`, `persist`; and for snapshots `compaction` (when, and what follows),
//! `transfer` (what is done to files) and `snapshots` (the threads that do it).
//!
//! `feeds` is what has changed lately, for those who follow it.
//!
//! `members` is whom this node knows and how they stand, `changes` what somebody wants changed there, `verify` the
//! comparison of all states.

mod changes;
mod clock;
mod compaction;
mod driver;
mod feeds;
mod forward;
mod hashes;
mod host;
mod machine;
mod members;
mod persist;
mod picture;
mod reads;
mod rebuild;
mod request;
mod snapshots;
mod status;
#[cfg(test)]
mod tests;
mod transfer;
mod verify;
mod waiters;
mod writes;

use tokio::sync::mpsc;

pub use driver::{Loaded, NodeError, Options, Pulse, open, run};
pub use feeds::Feed;
#[cfg(test)]
pub(crate) use feeds::Feeds;
pub use host::{Host, Now, SnapshotEvent};
pub use machine::{Machine, Options as MachineOptions, UnreadableEntry};
pub use persist::persist_batch;
pub use request::{Answer, Answers, MembershipChange, Operation, Outcome, ReadMode, Request, Submission};
pub use status::{Member, MemberProgress, Role, Status};
pub use transfer::{
    Filled, Incoming, Outgoing, Received, SnapshotError, Stored, read_snapshot, write_snapshot,
};

/// A handle to a running node; cheap to clone.
#[derive(Clone, Debug)]
pub struct Node {
    submissions: mpsc::Sender<Submission>,
}

impl Node {
    /// A handle, and the end of the queue that the driver reads. `queue_max` submissions may wait.
    pub fn channel(queue_max: usize) -> (Node, mpsc::Receiver<Submission>) {
        let (submissions, queue) = mpsc::channel(queue_max);
        (Node { submissions }, queue)
    }

    /// Asks the node; one wake-up of the driver for the whole submission.
    ///
    /// # Errors
    /// The submission comes back when the queue is full (answer BUSY) or the node has stopped
    /// (`is_stopped` tells them apart). Nothing of it was done.
    pub fn submit(&self, submission: Submission) -> Result<(), Submission> {
        self.submissions
            .try_send(submission)
            .map_err(|refused| match refused {
                mpsc::error::TrySendError::Full(s) | mpsc::error::TrySendError::Closed(s) => s,
            })
    }

    /// Asks one thing and waits for its answer; `None` when the queue is full or the node has stopped.
    pub async fn ask(&self, operation: Operation) -> Option<Outcome> {
        let (answers, mut inbox) = mpsc::unbounded_channel();
        let requests = vec![Request { ticket: 0, operation }];
        self.submit(Submission { requests, answers }).ok()?;
        inbox.recv().await.map(|answer| answer.outcome)
    }

    /// Whether the driver has ended.
    pub fn is_stopped(&self) -> bool {
        self.submissions.is_closed()
    }
}
