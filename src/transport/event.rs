//! What the transport tells the driver, and the one queue in which it does.
//!
//! Events keep their order: all that a connection brought comes before its end. What comes from outside
//! needs room in the queue, counted in bytes; a reader waits for it, in turn with the other readers, so a
//! full queue turns into back-pressure on each socket and a flooding peer gets no more than its turns.
//! What is our own (the end of a call, the end of a connection) never waits: a connection reserves the room
//! for the news of its end when it begins, and a call ends once.
//!
//! Memory: `events_max_bytes`, and one small event for each call that has ended without a reply.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::members::Refusal;
use crate::raft::{Envelope, Index, Message, NodeId};

/// What an event counts for beside the bytes it carries.
const EVENT_BYTES: usize = 256;

/// Something that happened on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The connection that we dialed to `peer` is through its handshake: requests can be sent.
    Connected {
        /// The node at the other end.
        peer: NodeId,
        /// Its data folder's random number.
        incarnation: u64,
    },
    /// A member is there, and there is no connection because one of the two refuses the other. Told when the reason is
    /// another than before; the next `Connected` ends it.
    Refused {
        /// The member.
        peer: NodeId,
        /// Who refuses whom, and why.
        refusal: Refusal,
    },
    /// One of the two connections with `peer` has ended. Answers that were waited for on it have ended
    /// before, as [`Event::Answer`].
    Disconnected {
        /// The node at the other end.
        peer: NodeId,
        /// The peer's own kernel closed it (end of stream, or a reset), as it does when the process there
        /// ends; `false` for a timeout, and where we closed it.
        by_peer: bool,
    },
    /// A message for the core. In a request, `request_id` is the number to copy into the answer.
    Raft(Envelope),
    /// A peer forwards a client's write; [`super::Transport::answer`] answers it.
    Call {
        /// The call's name.
        id: CallId,
        /// Who asks.
        from: NodeId,
        /// The command, encoded.
        command: Bytes,
    },
    /// A call of ours has ended; exactly one for each [`super::Transport::call`] that was not cancelled.
    Answer {
        /// The number given to `call`.
        token: u64,
        /// The reply, encoded, or why there is none.
        result: Result<Bytes, CallError>,
    },
    /// What a peer's state hashes to.
    StateHash {
        /// The node that says so.
        from: NodeId,
        /// The entry after which it does.
        index: Index,
        /// The hash.
        hash: u64,
    },
}

/// A peer's call. It belongs to one connection, and its answer goes nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId {
    pub(super) peer: NodeId,
    pub(super) connection: u64,
    pub(super) request_id: u64,
}

/// Why a call has no reply, and whether the peer may have seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Certainly no byte of the command left this process.
    #[error("the command was not sent")]
    NotSent,
    /// The command was handed to the connection, which then broke: the peer may or may not have it.
    #[error("the connection broke before the answer came")]
    Lost,
    /// The deadline passed.
    #[error("no answer in time")]
    DeadlineExceeded {
        /// Whether the peer may have the command; `false`: certainly no byte of it left this process, and
        /// none will.
        written: bool,
    },
}

impl Event {
    /// How many bytes the event counts for in the queue.
    pub(super) fn size_bytes(&self) -> usize {
        let carried = match self {
            Event::Raft(Envelope {
                message: Message::AppendEntries(append),
                ..
            }) => append.entries.iter().map(|entry| entry.size_bytes()).sum(),
            Event::Raft(Envelope {
                message: Message::InstallSnapshot(install),
                ..
            }) => install.size_bytes(),
            Event::Call { command: bytes, .. }
            | Event::Answer {
                result: Ok(bytes), ..
            } => bytes.len(),
            _ => 0,
        };
        EVENT_BYTES + carried
    }
}

/// Room for an event; given back when the event is taken out of the queue.
#[derive(Debug)]
pub(super) struct Room {
    _permit: OwnedSemaphorePermit,
}

/// The end of the queue that the connections have.
#[derive(Clone, Debug)]
pub(super) struct EventSender {
    queue: mpsc::UnboundedSender<(Event, Option<Room>)>,
    room: Arc<Semaphore>,
    max_bytes: u32,
}

/// The end of the queue that the driver has. Dropping it ends all connections.
#[derive(Debug)]
pub struct EventReceiver {
    queue: mpsc::UnboundedReceiver<(Event, Option<Room>)>,
    taken: Vec<(Event, Option<Room>)>,
    room: Arc<Semaphore>,
}

/// A queue with room for about `max_bytes`.
pub(super) fn queue(max_bytes: usize) -> (EventSender, EventReceiver) {
    let max_bytes = u32::try_from(max_bytes.clamp(EVENT_BYTES, Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
    let room = Arc::new(Semaphore::new(max_bytes as usize));
    // Bounded by the room that every event from outside needs, and by the calls that the driver itself has
    // made and not yet heard of: a call ends in one event.
    let (sender, receiver) = mpsc::unbounded_channel();
    let receiver = EventReceiver {
        queue: receiver,
        taken: Vec::new(),
        room: Arc::clone(&room),
    };
    (
        EventSender {
            queue: sender,
            room,
            max_bytes,
        },
        receiver,
    )
}

impl EventSender {
    /// Waits for room for an event of this size; one that is larger than the queue waits for all of it.
    /// `None`: nobody listens any more.
    pub(super) async fn room(&self, size_bytes: usize) -> Option<Room> {
        let permits = u32::try_from(size_bytes).unwrap_or(u32::MAX).min(self.max_bytes);
        let permit = Arc::clone(&self.room).acquire_many_owned(permits).await.ok()?;
        Some(Room { _permit: permit })
    }

    /// Room for the news that a connection has come or gone.
    pub(super) async fn room_for_news(&self) -> Option<Room> {
        self.room(EVENT_BYTES).await
    }

    /// How much room there is.
    #[cfg(test)]
    pub(super) fn free_bytes(&self) -> usize {
        self.room.available_permits()
    }

    /// Puts the event at the end. Without anybody to listen it is dropped.
    pub(super) fn push(&self, event: Event, room: Option<Room>) {
        let _ = self.queue.send((event, room));
    }
}

impl EventReceiver {
    /// The next event; `None` after shutdown, when all have been taken. Nothing is lost if the future is
    /// dropped.
    pub async fn recv(&mut self) -> Option<Event> {
        self.queue.recv().await.map(|(event, _room)| event)
    }

    /// Waits until there is at least one event and appends all that are there to `events`, at most `limit`.
    /// Returns how many; 0 after shutdown, when all have been taken. Nothing is lost if the future is
    /// dropped.
    pub async fn recv_many(&mut self, events: &mut Vec<Event>, limit: usize) -> usize {
        let count = self.queue.recv_many(&mut self.taken, limit).await;
        events.extend(self.taken.drain(..).map(|(event, _room)| event));
        count
    }

    /// The next event if there is one.
    pub fn try_recv(&mut self) -> Option<Event> {
        self.queue.try_recv().ok().map(|(event, _room)| event)
    }
}

impl Drop for EventReceiver {
    fn drop(&mut self) {
        // Readers that wait for room learn that there will be none.
        self.room.close();
    }
}
