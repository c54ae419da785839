//! A node: the one place that sees Raft, the state machine, the disk and the peers together.

mod request;
mod status;

use tokio::sync::mpsc;

pub use request::{Answer, Answers, Operation, Outcome, ReadMode, Request, Submission};
pub use status::{Member, MemberProgress, Role, Status};

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
