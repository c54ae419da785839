//! Frames between nodes: bytes ⇄ our own types; malformed values are refused here, with a reason.
//!
//! A frame on the wire is a 4-byte big-endian length and that many bytes of a protobuf `Frame`
//! (`proto/peer.proto`). [`encode`] writes both at the end of a buffer, [`decode`] takes the bytes after
//! the length; cutting the stream into frames and bounding the length is the transport's.
//!
//! What [`decode`] lets through has been checked as far as one frame can be checked by itself: every
//! oneof is set, no node has id 0, an entry's name is whole (index 0 goes with term 0), entries follow one
//! another from `prev_log.index + 1` on, their terms never fall and never exceed the message's. What needs
//! a second look at the receiver's state (is this my leader? do I hold `prev_log`?) is the core's.
//!
//! Memory: a decoded frame shares the buffer it came in, and keeps all of it. What is beside that buffer is
//! bounded by the frame's length: no entry on the wire is shorter than 8 bytes, and each becomes an
//! [`Entry`] of about 110. Entries that no log can hold may be as short as 2 bytes; they take some 60 times
//! the frame's length until [`decode`] refuses them.
//!
//! Missing: frames are of protocol version 1 only.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;

use super::disk::{entry_from_proto, entry_to_proto, snapshot_header_from_proto, snapshot_header_to_proto};
use super::proto::peer as proto;
use super::proto::peer::frame::Kind;
use super::proto::peer::raft::Message as Raft;
use crate::raft::{
    AppendEntries, AppendEntriesResponse, Conflict, Heartbeat, HeartbeatResponse, InstallSnapshot,
    InstallSnapshotResponse, Message, ReadIndex, ReadIndexResponse, RequestVote, TimeoutNow, VoteResponse,
};
use crate::raft::{Entry, EntryId, Index, NodeId, Term};

/// The oldest version of the protocol that this program speaks.
pub const VERSION_MIN: u32 = 1;

/// The newest version of the protocol that this program speaks.
pub const VERSION_MAX: u32 = 1;

/// The bytes of the length in front of every frame.
pub const LENGTH_BYTES: usize = 4;

/// The longest frame, in bytes, before a handshake is complete; no node may announce a smaller limit.
pub const HANDSHAKE_MAX_BYTES: usize = 4096;

/// The longest name of a cluster, in bytes.
pub const CLUSTER_NAME_MAX_BYTES: usize = 255;

/// The longest reason of a refusal, in bytes; longer ones are cut.
const REASON_MAX_BYTES: usize = 1024;

/// 128 bits that tell a cluster from every other one, however it is named.
pub type ClusterId = [u8; 16];

/// What one node says to another.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// The first frame of the side that dialed.
    Hello(Hello),
    /// The first frame back: the connection is good.
    Welcome(Welcome),
    /// The first and only frame back: the connection is refused, and why.
    Refused {
        /// Why, in words for the log of the node that dialed.
        reason: String,
    },
    /// A message of the core, without the two ends, which the connection knows.
    Raft {
        /// The sender's term.
        term: Term,
        /// What is said.
        message: Message,
    },
    /// A client's write, passed on to the leader.
    Forward {
        /// A command of the state machine, encoded.
        command: Bytes,
    },
    /// The answer to `Forward`.
    ForwardResponse {
        /// A reply of the state machine, encoded.
        reply: Bytes,
    },
    /// The state's hash after an entry was applied, for the receiver to compare with its own.
    StateHash {
        /// The entry's index.
        index: Index,
        /// The hash.
        hash: u64,
    },
    /// "Are you there?"
    Ping,
    /// "I am."
    Pong,
}

/// Who dials, whom it means to reach, and what it speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The oldest version that the sender speaks; at least 1.
    pub version_min: u32,
    /// The newest version that the sender speaks; at least `version_min`.
    pub version_max: u32,
    /// The cluster's name, at most 255 bytes.
    pub cluster_name: String,
    /// `None` while the sender does not know it yet.
    pub cluster_id: Option<ClusterId>,
    /// The sender.
    pub node_id: NodeId,
    /// Random, made with the sender's data folder.
    pub incarnation: u64,
    /// The node that the sender means to reach.
    pub to_node_id: NodeId,
    /// The largest frame, in bytes without the length in front, that the sender accepts; at least 4096.
    pub frame_max_bytes: u32,
    /// The index of the latest membership in the sender's log; 0 where there is none.
    pub membership_index: Index,
}

/// Who was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version to be spoken on this connection.
    pub version: u32,
    /// `None` while the sender does not know it yet.
    pub cluster_id: Option<ClusterId>,
    /// The sender.
    pub node_id: NodeId,
    /// Random, made with the sender's data folder.
    pub incarnation: u64,
    /// The largest frame, in bytes without the length in front, that the sender accepts; at least 4096.
    pub frame_max_bytes: u32,
    /// The index of the latest membership in the sender's log; 0 where there is none.
    pub membership_index: Index,
}

/// Why bytes are not a frame, in words that go into the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadFrame(String);

/// A frame that is longer than its receiver accepts. Nothing of it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {len_bytes} bytes, where the receiver accepts {max_bytes}")]
pub struct FrameTooLarge {
    /// The frame's length without the 4 bytes in front.
    pub len_bytes: usize,
    /// The receiver's limit.
    pub max_bytes: usize,
}

impl Frame {
    /// The frame's name, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Frame::Hello(_) => "Hello",
            Frame::Welcome(_) => "Welcome",
            Frame::Refused { .. } => "Refused",
            Frame::Raft { message, .. } => message.name(),
            Frame::Forward { .. } => "Forward",
            Frame::ForwardResponse { .. } => "ForwardResponse",
            Frame::StateHash { .. } => "StateHash",
            Frame::Ping => "Ping",
            Frame::Pong => "Pong",
        }
    }

    /// How many bytes the frame counts for in every bound: what it carries and a fixed share for the rest.
    pub fn size_bytes(&self) -> usize {
        const OVERHEAD_BYTES: usize = 128;
        OVERHEAD_BYTES
            + match self {
                Frame::Raft {
                    message: Message::AppendEntries(append),
                    ..
                } => append.entries.iter().map(Entry::size_bytes).sum(),
                Frame::Raft {
                    message: Message::InstallSnapshot(install),
                    ..
                } => install.size_bytes(),
                Frame::Forward { command: bytes } | Frame::ForwardResponse { reply: bytes } => bytes.len(),
                _ => 0,
            }
    }
}

/// Appends the frame, its length in front, to `out`. Refuses, and leaves `out` as it was, if the frame is
/// longer than `max_bytes`.
pub fn encode(
    request_id: u64,
    frame: &Frame,
    max_bytes: usize,
    out: &mut BytesMut,
) -> Result<(), FrameTooLarge> {
    let frame = proto::Frame {
        request_id,
        kind: Some(kind_to_proto(frame)),
    };
    let len_bytes = frame.encoded_len();
    let too_large = FrameTooLarge { len_bytes, max_bytes };
    if len_bytes > max_bytes {
        return Err(too_large);
    }
    let length = u32::try_from(len_bytes).map_err(|_| too_large)?;
    out.reserve(LENGTH_BYTES + len_bytes);
    out.put_u32(length);
    // `BytesMut` grows as needed, so this has no way to fail.
    frame.encode(out).map_err(|_| too_large)
}

/// The request id and the frame of these bytes, the length in front already taken off.
pub fn decode(bytes: Bytes) -> Result<(u64, Frame), BadFrame> {
    let proto::Frame { request_id, kind } =
        proto::Frame::decode(bytes).map_err(|error| bad(format!("not protobuf of ours: {error}")))?;
    let kind = kind.ok_or_else(|| bad("a frame of no kind that this version knows"))?;
    let frame = match kind {
        Kind::Hello(hello) => Frame::Hello(hello_from_proto(hello)?),
        Kind::Welcome(welcome) => Frame::Welcome(welcome_from_proto(welcome)?),
        Kind::Refused(refused) => Frame::Refused {
            reason: printable(&refused.reason),
        },
        Kind::Raft(raft) => raft_from_proto(raft)?,
        Kind::Forward(forward) => Frame::Forward {
            command: forward.command,
        },
        Kind::ForwardResponse(response) => Frame::ForwardResponse {
            reply: response.reply,
        },
        Kind::StateHash(state) => Frame::StateHash {
            index: Index(state.index),
            hash: state.hash,
        },
        Kind::Ping(_) => Frame::Ping,
        Kind::Pong(_) => Frame::Pong,
    };
    if request_id == 0 && matches!(frame, Frame::Forward { .. } | Frame::ForwardResponse { .. }) {
        return Err(bad(format!("{} without a request id", frame.name())));
    }
    Ok((request_id, frame))
}

fn bad(reason: impl Into<String>) -> BadFrame {
    BadFrame(reason.into())
}

// ---- Encoding

fn kind_to_proto(frame: &Frame) -> Kind {
    match frame {
        Frame::Hello(hello) => Kind::Hello(proto::Hello {
            version_min: hello.version_min,
            version_max: hello.version_max,
            cluster_name: hello.cluster_name.clone(),
            cluster_id: cluster_id_to_proto(hello.cluster_id),
            node_id: hello.node_id.0,
            incarnation: hello.incarnation,
            to_node_id: hello.to_node_id.0,
            frame_max_bytes: hello.frame_max_bytes,
            membership_index: hello.membership_index.0,
        }),
        Frame::Welcome(welcome) => Kind::Welcome(proto::Welcome {
            version: welcome.version,
            cluster_id: cluster_id_to_proto(welcome.cluster_id),
            node_id: welcome.node_id.0,
            incarnation: welcome.incarnation,
            frame_max_bytes: welcome.frame_max_bytes,
            membership_index: welcome.membership_index.0,
        }),
        Frame::Refused { reason } => Kind::Refused(proto::Refused {
            reason: printable(reason),
        }),
        Frame::Raft { term, message } => Kind::Raft(proto::Raft {
            term: term.0,
            message: Some(message_to_proto(message)),
        }),
        Frame::Forward { command } => Kind::Forward(proto::Forward {
            command: command.clone(),
        }),
        Frame::ForwardResponse { reply } => {
            Kind::ForwardResponse(proto::ForwardResponse { reply: reply.clone() })
        }
        Frame::StateHash { index, hash } => Kind::StateHash(proto::StateHash {
            index: index.0,
            hash: *hash,
        }),
        Frame::Ping => Kind::Ping(proto::Ping {}),
        Frame::Pong => Kind::Pong(proto::Pong {}),
    }
}

fn cluster_id_to_proto(id: Option<ClusterId>) -> Bytes {
    id.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id))
}

fn message_to_proto(message: &Message) -> Raft {
    match message {
        Message::PreVote(vote) => Raft::PreVote(request_vote_to_proto(vote)),
        Message::PreVoteResponse(vote) => Raft::PreVoteResponse(vote_response_to_proto(vote)),
        Message::RequestVote(vote) => Raft::RequestVote(request_vote_to_proto(vote)),
        Message::RequestVoteResponse(vote) => Raft::RequestVoteResponse(vote_response_to_proto(vote)),
        Message::AppendEntries(append) => Raft::AppendEntries(append_entries_to_proto(append)),
        Message::AppendEntriesResponse(response) => {
            Raft::AppendEntriesResponse(append_entries_response_to_proto(response))
        }
        Message::Heartbeat(beat) => Raft::Heartbeat(proto::Heartbeat {
            session: beat.session,
            read_round: beat.read_round,
            leader_commit: beat.leader_commit.0,
        }),
        Message::HeartbeatResponse(beat) => Raft::HeartbeatResponse(proto::HeartbeatResponse {
            session: beat.session,
            read_round: beat.read_round,
            recovering: beat.recovering,
            promises_lease: beat.promises_lease,
        }),
        Message::InstallSnapshot(install) => Raft::InstallSnapshot(proto::InstallSnapshot {
            session: install.session,
            header: Some(snapshot_header_to_proto(&install.header)),
            chunk: install.chunk,
            data: install.data.clone(),
            done: install.done,
        }),
        Message::InstallSnapshotResponse(response) => {
            Raft::InstallSnapshotResponse(proto::InstallSnapshotResponse {
                session: response.session,
                last_included_index: response.last.index.0,
                last_included_term: response.last.term.0,
                next_chunk: response.next_chunk,
                complete: response.complete,
                installed: response.installed,
            })
        }
        Message::TimeoutNow(now) => Raft::TimeoutNow(proto::TimeoutNow {
            last_log_index: now.last_log.index.0,
            last_log_term: now.last_log.term.0,
        }),
        Message::ReadIndex(read) => Raft::ReadIndex(proto::ReadIndex {
            id: read.id,
            recovering: read.recovering,
        }),
        Message::ReadIndexResponse(read) => Raft::ReadIndexResponse(proto::ReadIndexResponse {
            id: read.id,
            read_index: read.read_index.map_or(0, |index| index.0),
        }),
    }
}

fn request_vote_to_proto(vote: &RequestVote) -> proto::RequestVote {
    proto::RequestVote {
        round: vote.round,
        last_log_index: vote.last_log.index.0,
        last_log_term: vote.last_log.term.0,
        leadership_transfer: vote.leadership_transfer,
    }
}

fn vote_response_to_proto(vote: &VoteResponse) -> proto::VoteResponse {
    proto::VoteResponse {
        round: vote.round,
        vote_granted: vote.vote_granted,
    }
}

fn append_entries_to_proto(append: &AppendEntries) -> proto::AppendEntries {
    proto::AppendEntries {
        session: append.session,
        sequence: append.sequence,
        prev_log_index: append.prev_log.index.0,
        prev_log_term: append.prev_log.term.0,
        entries: append.entries.iter().map(entry_to_proto).collect(),
        leader_commit: append.leader_commit.0,
        read_round: append.read_round,
    }
}

fn append_entries_response_to_proto(response: &AppendEntriesResponse) -> proto::AppendEntriesResponse {
    proto::AppendEntriesResponse {
        session: response.session,
        sequence: response.sequence,
        prev_log_index: response.prev_log_index.0,
        last_index: response.last_index.0,
        read_round: response.read_round,
        conflict: response.conflict.map(|conflict| proto::Conflict {
            term: conflict.term.0,
            first_index: conflict.first_index.0,
            last_index: conflict.last_index.0,
        }),
        recovering: response.recovering,
    }
}

// ---- Decoding

fn hello_from_proto(hello: proto::Hello) -> Result<Hello, BadFrame> {
    if hello.version_min == 0 || hello.version_min > hello.version_max {
        return Err(bad(format!(
            "versions from {} to {}",
            hello.version_min, hello.version_max
        )));
    }
    if hello.cluster_name.len() > CLUSTER_NAME_MAX_BYTES {
        return Err(bad(format!(
            "a cluster name of {} bytes",
            hello.cluster_name.len()
        )));
    }
    Ok(Hello {
        version_min: hello.version_min,
        version_max: hello.version_max,
        cluster_name: hello.cluster_name,
        cluster_id: cluster_id_from_proto(&hello.cluster_id)?,
        node_id: node_id_from_proto(hello.node_id)?,
        incarnation: hello.incarnation,
        to_node_id: node_id_from_proto(hello.to_node_id)?,
        frame_max_bytes: frame_max_from_proto(hello.frame_max_bytes)?,
        membership_index: Index(hello.membership_index),
    })
}

fn welcome_from_proto(welcome: proto::Welcome) -> Result<Welcome, BadFrame> {
    Ok(Welcome {
        version: welcome.version,
        cluster_id: cluster_id_from_proto(&welcome.cluster_id)?,
        node_id: node_id_from_proto(welcome.node_id)?,
        incarnation: welcome.incarnation,
        frame_max_bytes: frame_max_from_proto(welcome.frame_max_bytes)?,
        membership_index: Index(welcome.membership_index),
    })
}

fn cluster_id_from_proto(bytes: &[u8]) -> Result<Option<ClusterId>, BadFrame> {
    if bytes.is_empty() {
        return Ok(None);
    }
    match bytes.try_into() {
        Ok(id) => Ok(Some(id)),
        Err(_) => Err(bad(format!("a cluster id of {} bytes", bytes.len()))),
    }
}

fn node_id_from_proto(id: u64) -> Result<NodeId, BadFrame> {
    if id == 0 {
        Err(bad("node id 0"))
    } else {
        Ok(NodeId(id))
    }
}

fn frame_max_from_proto(bytes: u32) -> Result<u32, BadFrame> {
    if (bytes as usize) < HANDSHAKE_MAX_BYTES {
        return Err(bad(format!("a frame limit of {bytes} bytes")));
    }
    Ok(bytes)
}

/// A text from the other side as it may stand in our log: one line, of bounded length.
fn printable(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if out.len() + c.len_utf8() > REASON_MAX_BYTES {
            break;
        }
        out.push(c);
    }
    out
}

fn raft_from_proto(raft: proto::Raft) -> Result<Frame, BadFrame> {
    let term = Term(raft.term);
    let message = raft
        .message
        .ok_or_else(|| bad("a Raft message of no kind that this version knows"))?;
    let message = match message {
        Raft::PreVote(vote) => Message::PreVote(request_vote_from_proto(vote, term)?),
        Raft::PreVoteResponse(vote) => Message::PreVoteResponse(vote_response_from_proto(vote)),
        Raft::RequestVote(vote) => Message::RequestVote(request_vote_from_proto(vote, term)?),
        Raft::RequestVoteResponse(vote) => Message::RequestVoteResponse(vote_response_from_proto(vote)),
        Raft::AppendEntries(append) => Message::AppendEntries(append_entries_from_proto(append, term)?),
        Raft::AppendEntriesResponse(response) => {
            Message::AppendEntriesResponse(append_entries_response_from_proto(response, term)?)
        }
        Raft::Heartbeat(beat) => Message::Heartbeat(Heartbeat {
            session: beat.session,
            read_round: beat.read_round,
            leader_commit: Index(beat.leader_commit),
        }),
        Raft::HeartbeatResponse(beat) => Message::HeartbeatResponse(HeartbeatResponse {
            session: beat.session,
            read_round: beat.read_round,
            recovering: beat.recovering,
            promises_lease: beat.promises_lease,
        }),
        Raft::InstallSnapshot(install) => {
            Message::InstallSnapshot(install_snapshot_from_proto(install, term)?)
        }
        Raft::InstallSnapshotResponse(response) => {
            Message::InstallSnapshotResponse(InstallSnapshotResponse {
                session: response.session,
                last: entry_id_from_proto(response.last_included_term, response.last_included_index, term)?,
                next_chunk: response.next_chunk,
                complete: response.complete,
                installed: response.installed,
            })
        }
        Raft::TimeoutNow(now) => Message::TimeoutNow(TimeoutNow {
            last_log: entry_id_from_proto(now.last_log_term, now.last_log_index, term)?,
        }),
        Raft::ReadIndex(proto::ReadIndex { id, recovering }) => {
            Message::ReadIndex(ReadIndex { id, recovering })
        }
        Raft::ReadIndexResponse(read) => Message::ReadIndexResponse(ReadIndexResponse {
            id: read.id,
            read_index: (read.read_index != 0).then_some(Index(read.read_index)),
        }),
    };
    // Only an elected leader, or a candidate past its first election, says these (Raft 5.1).
    let needs_term = matches!(
        message,
        Message::RequestVote(_)
            | Message::AppendEntries(_)
            | Message::Heartbeat(_)
            | Message::InstallSnapshot(_)
            | Message::TimeoutNow(_)
    );
    if needs_term && term == Term(0) {
        return Err(bad(format!("{} in term 0", message.name())));
    }
    Ok(Frame::Raft { term, message })
}

/// An entry's name in a message of term `max`: index 0 goes with term 0, and no log is ahead of its owner.
fn entry_id_from_proto(term: u64, index: u64, max: Term) -> Result<EntryId, BadFrame> {
    let id = EntryId {
        term: Term(term),
        index: Index(index),
    };
    if (term == 0) != (index == 0) {
        return Err(bad(format!("entry {id}, where index 0 goes with term 0")));
    }
    if id.term > max {
        return Err(bad(format!("entry {id} in a message of term {max}")));
    }
    Ok(id)
}

fn request_vote_from_proto(vote: proto::RequestVote, term: Term) -> Result<RequestVote, BadFrame> {
    Ok(RequestVote {
        round: vote.round,
        last_log: entry_id_from_proto(vote.last_log_term, vote.last_log_index, term)?,
        leadership_transfer: vote.leadership_transfer,
    })
}

fn vote_response_from_proto(vote: proto::VoteResponse) -> VoteResponse {
    VoteResponse {
        round: vote.round,
        vote_granted: vote.vote_granted,
    }
}

fn append_entries_from_proto(append: proto::AppendEntries, term: Term) -> Result<AppendEntries, BadFrame> {
    let prev_log = entry_id_from_proto(append.prev_log_term, append.prev_log_index, term)?;
    let mut entries = Vec::with_capacity(append.entries.len());
    let mut last = prev_log;
    for entry in append.entries {
        let entry = entry_from_proto(entry)
            .map_err(|error| bad(format!("an entry after entry {last}: {}", error.reason)))?;
        let follows = last.index.0.checked_add(1) == Some(entry.id.index.0);
        if !follows || entry.id.term < last.term || entry.id.term > term || entry.id.term == Term(0) {
            return Err(bad(format!(
                "entry {} after entry {last} in a message of term {term}",
                entry.id
            )));
        }
        last = entry.id;
        entries.push(entry);
    }
    Ok(AppendEntries {
        session: append.session,
        sequence: append.sequence,
        prev_log,
        entries,
        leader_commit: Index(append.leader_commit),
        read_round: append.read_round,
    })
}

fn append_entries_response_from_proto(
    response: proto::AppendEntriesResponse,
    term: Term,
) -> Result<AppendEntriesResponse, BadFrame> {
    let (prev, last) = (response.prev_log_index, response.last_index);
    if last < prev {
        return Err(bad(format!("an answer to entries {prev} to {last}")));
    }
    let conflict = response.conflict.map(|conflict| Conflict {
        term: Term(conflict.term),
        first_index: Index(conflict.first_index),
        last_index: Index(conflict.last_index),
    });
    // An empty log's conflict is term 0, and its first index is the one after its last.
    if let Some(c) = conflict
        && (c.term > term || c.first_index > c.last_index.next() || c.last_index.0 > prev)
    {
        return Err(bad(format!(
            "{c:?} with entry {prev} in a message of term {term}"
        )));
    }
    Ok(AppendEntriesResponse {
        session: response.session,
        sequence: response.sequence,
        prev_log_index: Index(prev),
        last_index: Index(last),
        read_round: response.read_round,
        conflict,
        recovering: response.recovering,
    })
}

fn install_snapshot_from_proto(
    install: proto::InstallSnapshot,
    term: Term,
) -> Result<InstallSnapshot, BadFrame> {
    let header = install.header.ok_or_else(|| bad("a chunk of no snapshot"))?;
    let header = snapshot_header_from_proto(header).map_err(|error| bad(error.reason))?;
    if header.last.term > term {
        return Err(bad(format!(
            "a snapshot up to entry {} in a message of term {term}",
            header.last
        )));
    }
    Ok(InstallSnapshot {
        session: install.session,
        header,
        chunk: install.chunk,
        data: install.data,
        done: install.done,
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::raft::{Addresses, Membership, Payload, SnapshotHeader};

    fn term() -> impl Strategy<Value = Term> {
        (1_u64..1 << 40).prop_map(Term)
    }

    /// An entry's name that a message of term `max` may carry.
    fn entry_id(max: Term) -> impl Strategy<Value = EntryId> {
        prop_oneof![
            Just(EntryId::default()),
            (1..=max.0, 1_u64..1 << 50).prop_map(|(t, i)| EntryId {
                term: Term(t),
                index: Index(i)
            }),
        ]
    }

    fn payload() -> impl Strategy<Value = Payload> {
        let membership = || {
            let servers = [NodeId(1), NodeId(3)];
            let address = |id: NodeId| Addresses {
                peer: format!("a:{id}"),
                client: format!("b:{id}"),
            };
            Membership {
                voters: servers.into(),
                addresses: servers.into_iter().map(|id| (id, address(id))).collect(),
                ..Membership::default()
            }
            .into()
        };
        prop_oneof![
            Just(Payload::Noop),
            vec(any::<u8>(), 0..300).prop_map(|bytes| Payload::Command(bytes.into())),
            Just(membership()),
        ]
    }

    fn append_entries(term: Term) -> impl Strategy<Value = AppendEntries> {
        let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
        (entry_id(term), vec((payload(), any::<bool>()), 0..8), numbers).prop_map(
            move |(prev_log, entries, (session, sequence, commit, read_round))| {
                let mut last = EntryId {
                    term: prev_log.term.max(Term(1)),
                    ..prev_log
                };
                let entries = entries.into_iter().map(|(payload, newest)| {
                    last = EntryId {
                        term: if newest { term } else { last.term },
                        index: last.index.next(),
                    };
                    Entry { id: last, payload }
                });
                let entries = entries.collect();
                let leader_commit = Index(commit);
                AppendEntries {
                    session,
                    sequence,
                    prev_log,
                    entries,
                    leader_commit,
                    read_round,
                }
            },
        )
    }

    fn append_response(term: Term) -> impl Strategy<Value = AppendEntriesResponse> {
        let conflict = (0..=term.0, 0_u64..100, 100_u64..200);
        let conflict = proptest::option::of(conflict.prop_map(|(term, first, last)| Conflict {
            term: Term(term),
            first_index: Index(first),
            last_index: Index(last),
        }));
        (
            any::<u64>(),
            any::<u64>(),
            200_u64..1 << 60,
            0_u64..1000,
            any::<u64>(),
            conflict,
        )
            .prop_map(|(session, sequence, prev, more, read_round, conflict)| {
                AppendEntriesResponse {
                    session,
                    sequence,
                    prev_log_index: Index(prev),
                    last_index: Index(prev + more),
                    read_round,
                    recovering: conflict.is_some() && session % 2 == 0,
                    conflict,
                }
            })
    }

    fn install_snapshot(term: Term) -> impl Strategy<Value = InstallSnapshot> {
        (1..=term.0, 1_u64..1 << 50, any::<u64>(), vec(any::<u8>(), 0..300)).prop_map(
            move |(last_term, index, session, data)| InstallSnapshot {
                session,
                header: SnapshotHeader {
                    last: EntryId {
                        term: Term(last_term),
                        index: Index(index),
                    },
                    membership: Membership::default(),
                    membership_index: Index(index / 2),
                },
                chunk: session / 3,
                done: data.len() % 2 == 0,
                data: data.into(),
            },
        )
    }

    fn message(term: Term) -> impl Strategy<Value = Message> {
        let vote = || {
            (any::<u64>(), entry_id(term), any::<bool>()).prop_map(|(round, last_log, transfer)| {
                RequestVote {
                    round,
                    last_log,
                    leadership_transfer: transfer,
                }
            })
        };
        let voted = || {
            (any::<u64>(), any::<bool>())
                .prop_map(|(round, vote_granted)| VoteResponse { round, vote_granted })
        };
        let numbers = || (any::<u64>(), any::<u64>(), any::<u64>());
        prop_oneof![
            vote().prop_map(Message::PreVote),
            voted().prop_map(Message::PreVoteResponse),
            vote().prop_map(Message::RequestVote),
            voted().prop_map(Message::RequestVoteResponse),
            append_entries(term).prop_map(Message::AppendEntries),
            append_response(term).prop_map(Message::AppendEntriesResponse),
            numbers().prop_map(|(session, read_round, commit)| {
                Message::Heartbeat(Heartbeat {
                    session,
                    read_round,
                    leader_commit: Index(commit),
                })
            }),
            numbers().prop_map(|(session, read_round, _)| {
                Message::HeartbeatResponse(HeartbeatResponse {
                    session,
                    read_round,
                    recovering: session % 2 == 0,
                    promises_lease: session % 3 == 0,
                })
            }),
            install_snapshot(term).prop_map(Message::InstallSnapshot),
            (entry_id(term), any::<u64>(), any::<u64>()).prop_map(|(last, session, next_chunk)| {
                Message::InstallSnapshotResponse(InstallSnapshotResponse {
                    session,
                    last,
                    next_chunk,
                    complete: session % 2 == 0,
                    installed: session % 3 == 0,
                })
            }),
            entry_id(term).prop_map(|last_log| Message::TimeoutNow(TimeoutNow { last_log })),
            (any::<u64>(), any::<bool>())
                .prop_map(|(id, recovering)| Message::ReadIndex(ReadIndex { id, recovering })),
            (any::<u64>(), proptest::option::of(1..u64::MAX)).prop_map(|(id, index)| {
                Message::ReadIndexResponse(ReadIndexResponse {
                    id,
                    read_index: index.map(Index),
                })
            }),
        ]
    }

    fn hello() -> impl Strategy<Value = Hello> {
        let ids = (1..u64::MAX, any::<u64>(), 1..u64::MAX);
        (
            "[a-z]{0,20}",
            proptest::option::of(any::<ClusterId>()),
            ids,
            4096..u32::MAX,
        )
            .prop_map(
                |(cluster_name, cluster_id, (node, incarnation, to), frame_max_bytes)| Hello {
                    version_min: 1,
                    version_max: 3,
                    cluster_name,
                    cluster_id,
                    node_id: NodeId(node),
                    incarnation,
                    to_node_id: NodeId(to),
                    frame_max_bytes,
                    membership_index: Index(incarnation / 2),
                },
            )
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let bytes = || vec(any::<u8>(), 0..2000).prop_map(Bytes::from);
        let welcome = hello().prop_map(|hello| Welcome {
            version: 1,
            cluster_id: hello.cluster_id,
            node_id: hello.node_id,
            incarnation: hello.incarnation,
            frame_max_bytes: hello.frame_max_bytes,
            membership_index: hello.membership_index,
        });
        let raft = term()
            .prop_flat_map(|term| (Just(term), message(term)))
            .prop_map(|(term, message)| Frame::Raft { term, message });
        prop_oneof![
            hello().prop_map(Frame::Hello),
            welcome.prop_map(Frame::Welcome),
            "[ -~]{0,99}".prop_map(|reason| Frame::Refused { reason }),
            raft,
            bytes().prop_map(|command| Frame::Forward { command }),
            bytes().prop_map(|reply| Frame::ForwardResponse { reply }),
            (any::<u64>(), any::<u64>()).prop_map(|(index, hash)| Frame::StateHash {
                index: Index(index),
                hash
            }),
            Just(Frame::Ping),
            Just(Frame::Pong),
        ]
    }

    fn encoded(request_id: u64, frame: &Frame) -> Bytes {
        let mut out = BytesMut::new();
        encode(request_id, frame, usize::MAX, &mut out).unwrap();
        let length = u32::from_be_bytes(out[..LENGTH_BYTES].try_into().unwrap());
        assert_eq!(length as usize, out.len() - LENGTH_BYTES);
        out.freeze().slice(LENGTH_BYTES..)
    }

    fn refusal(frame: &Frame) -> String {
        decode(encoded(1, frame)).unwrap_err().to_string()
    }

    proptest! {
        #[test]
        fn every_frame_comes_back_as_it_was(id in 1_u64.., frame in frame()) {
            prop_assert_eq!(decode(encoded(id, &frame)).unwrap(), (id, frame));
        }

        #[test]
        fn any_bytes_give_a_frame_or_a_reason(bytes in vec(any::<u8>(), 0..200)) {
            let _ = decode(bytes.into());
        }

        #[test]
        fn a_changed_byte_gives_a_frame_or_a_reason(frame in frame(), at in any::<u16>(), to in any::<u8>()) {
            let mut bytes = encoded(1, &frame).to_vec();
            let at = usize::from(at) % bytes.len();
            bytes[at] = to;
            let decoded = decode(bytes.into());
            if let Ok((_, Frame::Raft { term, message: Message::AppendEntries(append) })) = decoded {
                let mut last = append.prev_log;
                for entry in append.entries {
                    prop_assert_eq!(entry.id.index, last.index.next());
                    prop_assert!(last.term <= entry.id.term && entry.id.term <= term);
                    last = entry.id;
                }
            }
        }
    }

    fn append(prev: (u64, u64), entries: &[(u64, u64)], term: u64) -> Frame {
        let id = |(term, index)| EntryId {
            term: Term(term),
            index: Index(index),
        };
        let entries = entries
            .iter()
            .map(|&e| Entry {
                id: id(e),
                payload: Payload::Noop,
            })
            .collect();
        let message = Message::AppendEntries(AppendEntries {
            session: 1,
            sequence: 1,
            prev_log: id(prev),
            entries,
            leader_commit: Index(0),
            read_round: 0,
        });
        Frame::Raft {
            term: Term(term),
            message,
        }
    }

    #[test]
    fn entries_that_no_log_can_hold_are_refused() {
        assert!(decode(encoded(1, &append((2, 7), &[(2, 8), (3, 9)], 3))).is_ok());
        for (prev, entries, term) in [
            ((2, 7), [(2, 9), (2, 10)], 3),         // a hole before the first
            ((2, 7), [(2, 8), (2, 10)], 3),         // a hole between
            ((2, 7), [(2, 8), (2, 8)], 3),          // twice the same
            ((2, 7), [(1, 8), (2, 9)], 3),          // a term below prev_log's
            ((2, 7), [(3, 8), (2, 9)], 3),          // a falling term
            ((2, 7), [(2, 8), (4, 9)], 3),          // a term above the message's
            ((0, 0), [(0, 1), (1, 2)], 3),          // term 0
            ((2, u64::MAX), [(2, 0), (2, 1)], 3),   // past the last index
            ((2, u64::MAX), [(2, u64::MAX); 2], 3), // the last index again
        ] {
            let reason = refusal(&append(prev, &entries, term));
            assert!(reason.contains("after entry"), "{prev:?} {entries:?}: {reason}");
        }
        assert!(refusal(&append((0, 7), &[], 3)).contains("index 0 goes with term 0"));
        assert!(refusal(&append((7, 0), &[], 9)).contains("index 0 goes with term 0"));
        assert!(refusal(&append((4, 7), &[], 3)).contains("in a message of term 3"));
        assert!(refusal(&append((0, 0), &[], 0)).contains("AppendEntries in term 0"));
    }

    #[test]
    fn missing_kinds_are_refused() {
        let bytes = |frame: proto::Frame| Bytes::from(frame.encode_to_vec());
        let empty = bytes(proto::Frame {
            request_id: 7,
            kind: None,
        });
        assert!(decode(empty).unwrap_err().to_string().contains("no kind"));
        let raft = Kind::Raft(proto::Raft {
            term: 1,
            message: None,
        });
        let raft = bytes(proto::Frame {
            request_id: 7,
            kind: Some(raft),
        });
        assert!(decode(raft).unwrap_err().to_string().contains("no kind"));
        let entries = vec![crate::wire::proto::disk::Entry {
            term: 1,
            index: 1,
            payload: None,
        }];
        let message = Some(Raft::AppendEntries(proto::AppendEntries {
            entries,
            ..Default::default()
        }));
        let kind = Some(Kind::Raft(proto::Raft { term: 1, message }));
        assert!(decode(bytes(proto::Frame { request_id: 7, kind })).is_err());
    }

    #[test]
    fn bad_handshakes_are_refused() {
        let good = Hello {
            version_min: 1,
            version_max: 1,
            cluster_name: "prod".into(),
            cluster_id: None,
            node_id: NodeId(1),
            incarnation: 5,
            to_node_id: NodeId(2),
            frame_max_bytes: 4096,
            membership_index: Index(0),
        };
        assert!(decode(encoded(0, &Frame::Hello(good.clone()))).is_ok());
        for (reason, hello) in [
            (
                "node id 0",
                Hello {
                    node_id: NodeId(0),
                    ..good.clone()
                },
            ),
            (
                "node id 0",
                Hello {
                    to_node_id: NodeId(0),
                    ..good.clone()
                },
            ),
            (
                "versions from 0",
                Hello {
                    version_min: 0,
                    ..good.clone()
                },
            ),
            (
                "versions from 2 to 1",
                Hello {
                    version_min: 2,
                    ..good.clone()
                },
            ),
            (
                "frame limit",
                Hello {
                    frame_max_bytes: 4095,
                    ..good.clone()
                },
            ),
            (
                "cluster name",
                Hello {
                    cluster_name: "x".repeat(256),
                    ..good.clone()
                },
            ),
        ] {
            assert!(refusal(&Frame::Hello(hello)).contains(reason), "{reason}");
        }
        let short = proto::Hello {
            cluster_id: Bytes::from_static(b"short"),
            ..Default::default()
        };
        let short = proto::Hello {
            version_min: 1,
            version_max: 1,
            ..short
        };
        let frame = proto::Frame {
            request_id: 0,
            kind: Some(Kind::Hello(short)),
        };
        let reason = decode(frame.encode_to_vec().into()).unwrap_err().to_string();
        assert!(reason.contains("a cluster id of 5 bytes"), "{reason}");
    }

    #[test]
    fn answers_that_contradict_themselves_are_refused() {
        let good = AppendEntriesResponse {
            session: 1,
            sequence: 1,
            prev_log_index: Index(7),
            last_index: Index(9),
            read_round: 0,
            recovering: false,
            conflict: None,
        };
        let conflict = Conflict {
            term: Term(2),
            first_index: Index(3),
            last_index: Index(7),
        };
        let frame = |response| Frame::Raft {
            term: Term(3),
            message: Message::AppendEntriesResponse(response),
        };
        assert!(
            decode(encoded(
                1,
                &frame(AppendEntriesResponse {
                    conflict: Some(conflict),
                    ..good
                })
            ))
            .is_ok()
        );
        for response in [
            AppendEntriesResponse {
                last_index: Index(6),
                ..good
            },
            AppendEntriesResponse {
                conflict: Some(Conflict {
                    term: Term(4),
                    ..conflict
                }),
                ..good
            },
            AppendEntriesResponse {
                conflict: Some(Conflict {
                    last_index: Index(8),
                    ..conflict
                }),
                ..good
            },
            AppendEntriesResponse {
                conflict: Some(Conflict {
                    first_index: Index(9),
                    ..conflict
                }),
                ..good
            },
        ] {
            assert!(decode(encoded(1, &frame(response))).is_err(), "{response:?}");
        }
    }

    #[test]
    fn a_decoded_command_shares_the_frame_s_buffer() {
        let bytes = encoded(
            1,
            &Frame::Forward {
                command: Bytes::from(vec![7; 1000]),
            },
        );
        let (_, frame) = decode(bytes.clone()).unwrap();
        let Frame::Forward { command } = frame else {
            panic!("{frame:?}")
        };
        assert!(bytes.as_ptr_range().contains(&command.as_ptr()));
        assert!(
            decode(encoded(0, &Frame::Forward { command })).is_err(),
            "it needs a request id"
        );
    }

    #[test]
    fn a_reason_from_the_other_side_is_one_short_line() {
        let reason = format!("one\ntwo\u{1b}[31m{}", "ä".repeat(2000));
        let (_, frame) = decode(encoded(0, &Frame::Refused { reason })).unwrap();
        let Frame::Refused { reason } = frame else {
            panic!("{frame:?}")
        };
        assert!(reason.starts_with("one two [31m") && reason.len() <= REASON_MAX_BYTES);
    }

    #[test]
    fn trap_3_25_a_frame_over_the_receivers_limit_is_not_written() {
        let mut out = BytesMut::from(&b"before"[..]);
        let frame = Frame::Forward {
            command: Bytes::from(vec![7; 5000]),
        };
        let refused = encode(1, &frame, 4096, &mut out).unwrap_err();
        assert!(refused.len_bytes > 5000 && refused.max_bytes == 4096);
        assert_eq!(&out[..], b"before");
    }
}
