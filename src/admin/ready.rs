//! Whether a node can serve linearizable reads: it does one.

use std::time::Duration;

use tokio::time::timeout;

use crate::kv::{self, Query, Reply};
use crate::node::{Node, Operation, Outcome, ReadMode};

/// Why a node cannot serve linearizable reads at the moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// The read was refused.
    #[error("a quorum read was refused: {0}")]
    Refused(kv::Error),
    /// The read was not answered in time.
    #[error("a quorum read took longer than {} ms", .0.as_millis())]
    Late(Duration),
    /// Too many requests wait already.
    #[error("the node's queue is full")]
    Busy,
    /// The driver has ended.
    #[error("the node has stopped")]
    Stopped,
}

/// Does one linearizable read, which a quorum must confirm (Diss. 6.4), within `patience`.
///
/// # Errors
/// The node cannot serve such reads now.
pub async fn probe(node: &Node, patience: Duration) -> Result<(), NotReady> {
    let read = node.ask(Operation::Query(Query::Size, ReadMode::Quorum));
    match timeout(patience, read).await {
        Err(_) => Err(NotReady::Late(patience)),
        Ok(Some(Outcome::Reply(Reply::Error(error)))) => Err(NotReady::Refused(error)),
        Ok(Some(_)) => Ok(()),
        Ok(None) if node.is_stopped() => Err(NotReady::Stopped),
        Ok(None) => Err(NotReady::Busy),
    }
}
