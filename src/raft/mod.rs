//! The Raft protocol as a value that is stepped: no clock, thread, socket, file or global randomness.

mod message;
mod types;

pub use message::{
    AppendEntries, AppendEntriesResponse, Conflict, Envelope, Heartbeat, HeartbeatResponse, Message,
    ReadIndex, ReadIndexResponse, RequestVote, TimeoutNow, VoteResponse,
};
pub use types::{
    Addresses, Batch, Entry, EntryId, HardState, Index, Membership, NodeId, Payload, Term, Ticks,
};
