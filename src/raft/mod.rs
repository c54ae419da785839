//! The Raft protocol as a value that is stepped: no clock, thread, socket, file or global randomness, and
//! nothing that can fail.
//!
//! One [`Raft`] is one server. It is told what happens ([`tick`](Raft::tick), [`step`](Raft::step),
//! [`propose`](Raft::propose), [`read`](Raft::read), [`persisted`](Raft::persisted)) and asked what there is to
//! do ([`ready`](Raft::ready)). The same calls give the same results, which is what the simulation rests on.
//!
//! The protocol, by the sections of the paper ("Raft") and the dissertation ("Diss."):
//!
//! - **Elections** (Raft 5.2, 5.4.1; `election`). A follower that hears no leader for a random time asks for
//!   pre-votes, then for votes of a new term. Voters that hear a leader refuse. The leader of a term begins it
//!   with an entry of its own.
//! - **Replication** (Raft 5.3; `leader`, `follower`, `progress`). The leader sends what each follower lacks,
//!   many requests at a time; answers may come in any order. A follower whose log differs says where it might
//!   agree, and the leader starts from there.
//! - **Commitment** (Raft 5.4; `leader`, `quorum`). An entry of the current term that is durable on a majority
//!   is committed, and with it all before it.
//! - **Reads** (Diss. 6.4; `read`). A server asks the leader for its commit index, the leader makes sure that it
//!   still leads, and the reader waits until it has applied that much.
//! - **Effects** (`ready`). What a message says about the disk is said when it is true.
//!
//! Where this differs from the paper, `docs/divergence.md` says why.
//!
//! Not here yet: snapshots (Raft 7), changes of the membership (Diss. 4; the log already carries and rolls back
//! memberships, and every quorum is counted as joint), lease reads (Diss. 6.4.1).

mod catch_up;
mod election;
mod follower;
pub mod invariants;
mod leader;
mod lease;
mod log;
mod membership;
mod message;
mod node;
mod progress;
mod quorum;
mod read;
mod ready;
mod reconfigure;
mod recovering;
mod snapshot;
mod types;

#[cfg(test)]
mod tests;

pub use catch_up::CatchUpStatus;
pub use log::{CommittedConflict, Log};
pub use message::{
    AppendEntries, AppendEntriesResponse, Conflict, Envelope, Heartbeat, HeartbeatResponse, InstallSnapshot,
    InstallSnapshotResponse, Message, ReadIndex, ReadIndexResponse, RequestVote, TimeoutNow, VoteResponse,
};
pub use node::{FollowerStatus, Options, ProposeError, Raft, Recovered, RoleName, Status, TransferError};
pub use progress::Window;
pub use ready::{ReadReady, Ready};
pub use reconfigure::{Change, ChangeError};
pub use types::{
    Addresses, Batch, Entry, EntryId, HardState, Index, Membership, NodeId, Payload, SnapshotHeader, Term,
    Ticks,
};
