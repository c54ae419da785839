//! What servers say to each other: one variant for each RPC of the paper and each answer, with the
//! paper's field names.
//!
//! An answer says for itself which request it answers, so that answers may come late, twice, in any order
//! or from an earlier connection and are still understood or dropped (traps 3.8, 3.11, 3.14, 3.15).

use bytes::Bytes;

use super::types::{Entry, EntryId, Index, NodeId, SnapshotHeader, Term};

/// A message on its way from one server to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The sender.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
    /// The sender's current term (Raft 5.1).
    pub term: Term,
    /// The transport's number for a request, which the core copies into the answer and otherwise ignores.
    /// 0 in a request that the core makes: the transport fills it in.
    pub request_id: u64,
    /// What is said.
    pub message: Message,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// "Would you vote for me in the term after mine?" Changes nothing at the receiver (Diss. 9.6).
    PreVote(RequestVote),
    /// The answer to `PreVote`.
    PreVoteResponse(VoteResponse),
    /// RequestVote (Raft 5.2, 5.4.1); the envelope's term is the term voted on.
    RequestVote(RequestVote),
    /// The answer to `RequestVote`.
    RequestVoteResponse(VoteResponse),
    /// AppendEntries (Raft 5.3). Never a mere heartbeat: see `Heartbeat` and trap 3.22.
    AppendEntries(AppendEntries),
    /// The answer to `AppendEntries`, sent when the entries are durable.
    AppendEntriesResponse(AppendEntriesResponse),
    /// The leader's sign of life; carries the commit index and a round of ReadIndex (Diss. 6.4).
    Heartbeat(Heartbeat),
    /// The answer to `Heartbeat`.
    HeartbeatResponse(HeartbeatResponse),
    /// InstallSnapshot (Raft figure 13): one chunk of the leader's snapshot.
    InstallSnapshot(InstallSnapshot),
    /// The answer to `InstallSnapshot`.
    InstallSnapshotResponse(InstallSnapshotResponse),
    /// Leadership transfer: "start an election now" (Diss. 3.10).
    TimeoutNow(TimeoutNow),
    /// A follower's question: "from which index on may I answer a read?" (Diss. 6.4).
    ReadIndex(ReadIndex),
    /// The answer to `ReadIndex`.
    ReadIndexResponse(ReadIndexResponse),
}

/// The arguments of `PreVote` and `RequestVote`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestVote {
    /// The sender's number for this election; an answer of another round is dropped (trap 3.8).
    pub round: u64,
    /// The candidate's last entry: `lastLogIndex`, `lastLogTerm`.
    pub last_log: EntryId,
    /// The election was asked for by the leader: voters do not hold it against the candidate that they
    /// still hear that leader (Diss. 3.10, 4.2.3).
    pub leadership_transfer: bool,
}

/// The answer to `PreVote` and `RequestVote`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteResponse {
    /// The round of the request.
    pub round: u64,
    /// Whether the vote is given.
    pub vote_granted: bool,
}

/// The arguments of `AppendEntries`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendEntries {
    /// The leader's session with this follower: new with every connection and every term (trap 3.15).
    pub session: u64,
    /// The leader's number for this request, growing by one with each (trap 3.14).
    pub sequence: u64,
    /// The entry before `entries`: `prevLogIndex`, `prevLogTerm`.
    pub prev_log: EntryId,
    /// Consecutive entries from `prev_log.index + 1` on; empty in a probe.
    pub entries: Vec<Entry>,
    /// The leader's commit index: `leaderCommit`.
    pub leader_commit: Index,
    /// The latest ReadIndex round when this was sent.
    pub read_round: u64,
}

/// The answer to `AppendEntries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendEntriesResponse {
    /// The session of the request.
    pub session: u64,
    /// The number of the request.
    pub sequence: u64,
    /// The `prev_log.index` of the request.
    pub prev_log_index: Index,
    /// The index of the last entry of the request; `prev_log_index` where it had none.
    pub last_index: Index,
    /// The ReadIndex round of the request.
    pub read_round: u64,
    /// `None`: the log holds everything up to `last_index`, durably. `Some`: the log does not hold
    /// `prev_log`, and this is where it might agree.
    pub conflict: Option<Conflict>,
    /// As in [`HeartbeatResponse`].
    pub recovering: bool,
}

/// Where a follower's log, which does not hold `prev_log`, might agree with the leader's (Raft 5.3, the
/// remark on fewer rejected requests; trap 3.21).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The term of the follower's entry at `prev_log.index`; of its last entry, where it has none there.
    pub term: Term,
    /// The first index of that term in the follower's log.
    pub first_index: Index,
    /// The follower's last index, at most `prev_log.index`.
    pub last_index: Index,
}

/// The leader's sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The leader's session with this follower.
    pub session: u64,
    /// The latest ReadIndex round; strictly increasing (trap 3.11).
    pub read_round: u64,
    /// The smaller of the leader's commit index and this follower's match index (trap 3.16).
    pub leader_commit: Index,
}

/// The answer to `Heartbeat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatResponse {
    /// The session of the request.
    pub session: u64,
    /// The round of the request.
    pub read_round: u64,
    /// The follower has lost what it once acknowledged and fetches it anew: it counts for nothing, and what was
    /// known to match no longer is (trap 3.31).
    pub recovering: bool,
    /// The follower will vote for nobody else within an election timeout of this request: the leader may hold a
    /// lease on its word (Diss. 6.4.1).
    pub promises_lease: bool,
}

/// The arguments of `InstallSnapshot`. Chunks are numbered; what a chunk holds is the state machine's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallSnapshot {
    /// The leader's session with this follower.
    pub session: u64,
    /// What the snapshot says of itself: `lastIncludedIndex`, `lastIncludedTerm`, the membership.
    pub header: SnapshotHeader,
    /// The number of the chunk, from 0 on: `offset`.
    pub chunk: u64,
    /// The chunk. The core leaves it empty; the driver fills it in from the snapshot's file.
    pub data: Bytes,
    /// Whether this is the last chunk. Filled in with `data`.
    pub done: bool,
}

/// The answer to `InstallSnapshot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstallSnapshotResponse {
    /// The session of the request.
    pub session: u64,
    /// The snapshot's last entry.
    pub last: EntryId,
    /// The chunk that the follower wants next: all before it are stored. After a broken connection the transfer goes
    /// on from here.
    pub next_chunk: u64,
    /// The last chunk is stored; what remains is the follower's work.
    pub complete: bool,
    /// The follower has everything up to `last`, durably.
    pub installed: bool,
}

/// The arguments of `TimeoutNow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutNow {
    /// The leader's last entry. The receiver campaigns only if it holds this entry durably (trap 3.9).
    pub last_log: EntryId,
}

/// The arguments of `ReadIndex`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadIndex {
    /// The follower's number for its question; never used twice by one process.
    pub id: u64,
    /// As in [`HeartbeatResponse`]. The answer to a server that recovers names what may be committed without it, so the
    /// leader has to know before it answers.
    pub recovering: bool,
}

/// The answer to `ReadIndex`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadIndexResponse {
    /// The number of the question.
    pub id: u64,
    /// The reads may be answered once this index is applied; `None`: the receiver does not lead.
    pub read_index: Option<Index>,
}

impl Message {
    /// Whether this is a request; the others are answers, and go back the way their request came.
    pub fn is_request(&self) -> bool {
        match self {
            Message::PreVote(_)
            | Message::RequestVote(_)
            | Message::AppendEntries(_)
            | Message::Heartbeat(_)
            | Message::InstallSnapshot(_)
            | Message::TimeoutNow(_)
            | Message::ReadIndex(_) => true,
            Message::PreVoteResponse(_)
            | Message::RequestVoteResponse(_)
            | Message::AppendEntriesResponse(_)
            | Message::HeartbeatResponse(_)
            | Message::InstallSnapshotResponse(_)
            | Message::ReadIndexResponse(_) => false,
        }
    }

    /// The message's name, for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Message::PreVote(_) => "PreVote",
            Message::PreVoteResponse(_) => "PreVoteResponse",
            Message::RequestVote(_) => "RequestVote",
            Message::RequestVoteResponse(_) => "RequestVoteResponse",
            Message::AppendEntries(_) => "AppendEntries",
            Message::AppendEntriesResponse(_) => "AppendEntriesResponse",
            Message::Heartbeat(_) => "Heartbeat",
            Message::HeartbeatResponse(_) => "HeartbeatResponse",
            Message::InstallSnapshot(_) => "InstallSnapshot",
            Message::InstallSnapshotResponse(_) => "InstallSnapshotResponse",
            Message::TimeoutNow(_) => "TimeoutNow",
            Message::ReadIndex(_) => "ReadIndex",
            Message::ReadIndexResponse(_) => "ReadIndexResponse",
        }
    }
}
