//! Log records: bytes ⇄ entries and hard state; and the headers of snapshots.
//!
//! What a record looks like around these bytes (lengths, types, checksums) is `storage::format`'s affair.
//! Entries and memberships travel between nodes in the same encoding, so `wire::peer` uses the
//! conversions from here. Everything that arrives is checked here, before any other code sees it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::proto::disk as proto;
pub use crate::raft::SnapshotHeader;
use crate::raft::{Addresses, Entry, EntryId, HardState, Index, Membership, NodeId, Payload, Term};

/// Bytes that are not what they should be, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {reason}")]
pub struct Malformed {
    /// What is wrong, in words for the log.
    pub reason: String,
}

impl Malformed {
    /// Malformed, for this reason.
    pub fn new(reason: impl Into<String>) -> Malformed {
        Malformed {
            reason: reason.into(),
        }
    }
}

/// Appends the entry's encoding to `out`.
pub fn encode_entry(entry: &Entry, out: &mut BytesMut) {
    encode(&entry_to_proto(entry), out);
}

/// Reads what [`encode_entry`] wrote. A command shares the buffer of `bytes`.
///
/// # Errors
/// The bytes are no entry, or one that no leader makes.
pub fn decode_entry(bytes: Bytes) -> Result<Entry, Malformed> {
    let entry = proto::Entry::decode(bytes).map_err(|e| Malformed::new(format!("entry: {e}")))?;
    entry_from_proto(entry)
}

/// Appends the hard state's encoding to `out`.
pub fn encode_hard_state(hard_state: &HardState, out: &mut BytesMut) {
    let message = proto::HardState {
        term: hard_state.term.0,
        vote: hard_state.vote.map_or(0, |id| id.0),
    };
    encode(&message, out);
}

/// Reads what [`encode_hard_state`] wrote.
///
/// # Errors
/// The bytes are no hard state.
pub fn decode_hard_state(bytes: Bytes) -> Result<HardState, Malformed> {
    let message = proto::HardState::decode(bytes).map_err(|e| Malformed::new(format!("hard state: {e}")))?;
    Ok(HardState {
        term: Term(message.term),
        vote: (message.vote != 0).then_some(NodeId(message.vote)),
    })
}

/// Appends the header's encoding to `out`.
pub fn encode_snapshot_header(header: &SnapshotHeader, out: &mut BytesMut) {
    encode(&snapshot_header_to_proto(header), out);
}

/// Reads what [`encode_snapshot_header`] wrote.
///
/// # Errors
/// The bytes are no header, or one that no snapshot has.
pub fn decode_snapshot_header(bytes: Bytes) -> Result<SnapshotHeader, Malformed> {
    let message = proto::SnapshotHeader::decode(bytes)
        .map_err(|e| Malformed::new(format!("header of a snapshot: {e}")))?;
    snapshot_header_from_proto(message)
}

pub(in crate::wire) fn snapshot_header_to_proto(header: &SnapshotHeader) -> proto::SnapshotHeader {
    proto::SnapshotHeader {
        last_included_term: header.last.term.0,
        last_included_index: header.last.index.0,
        membership: Some(membership_to_proto(&header.membership)),
        membership_index: header.membership_index.0,
    }
}

pub(in crate::wire) fn snapshot_header_from_proto(
    message: proto::SnapshotHeader,
) -> Result<SnapshotHeader, Malformed> {
    let last = EntryId {
        term: Term(message.last_included_term),
        index: Index(message.last_included_index),
    };
    if last.term == Term(0) || last.index == Index(0) {
        return Err(Malformed::new(format!("a snapshot that ends with entry {last}")));
    }
    let membership_index = Index(message.membership_index);
    if membership_index > last.index {
        return Err(Malformed::new(format!(
            "a snapshot that ends with entry {last} and has the membership of index {membership_index}"
        )));
    }
    let membership = message.membership;
    let membership = membership.ok_or_else(|| Malformed::new("a snapshot without a membership"))?;
    Ok(SnapshotHeader {
        last,
        membership: membership_from_proto(membership)?,
        membership_index,
    })
}

fn encode(message: &impl Message, out: &mut BytesMut) {
    out.reserve(message.encoded_len());
    // Fails only for want of room, and `BytesMut` grows.
    let encoded = message.encode(out);
    debug_assert!(encoded.is_ok(), "a growing buffer has room");
}

pub(in crate::wire) fn entry_to_proto(entry: &Entry) -> proto::Entry {
    let payload = match &entry.payload {
        Payload::Noop => proto::entry::Payload::Noop(proto::Noop {}),
        Payload::Command(bytes) => proto::entry::Payload::Command(bytes.clone()),
        Payload::Membership(membership) => proto::entry::Payload::Membership(membership_to_proto(membership)),
    };
    proto::Entry {
        term: entry.id.term.0,
        index: entry.id.index.0,
        payload: Some(payload),
    }
}

pub(in crate::wire) fn entry_from_proto(entry: proto::Entry) -> Result<Entry, Malformed> {
    if entry.index == 0 {
        return Err(Malformed::new("entry of index 0"));
    }
    let id = EntryId {
        term: Term(entry.term),
        index: Index(entry.index),
    };
    let payload = match entry.payload {
        // Also what an older version sees of a kind of entry that a newer one invented: it must not guess.
        None => {
            return Err(Malformed::new(format!(
                "entry {id} holds nothing that this version knows"
            )));
        }
        Some(proto::entry::Payload::Noop(proto::Noop {})) => Payload::Noop,
        Some(proto::entry::Payload::Command(bytes)) => Payload::Command(bytes),
        Some(proto::entry::Payload::Membership(membership)) => {
            let membership = membership_from_proto(membership)
                .map_err(|e| Malformed::new(format!("entry {id}: {}", e.reason)))?;
            membership.into()
        }
    };
    Ok(Entry { id, payload })
}

fn membership_to_proto(membership: &Membership) -> proto::Membership {
    let ids = |set: &BTreeSet<NodeId>| set.iter().map(|id| id.0).collect();
    proto::Membership {
        voters: ids(&membership.voters),
        outgoing: ids(&membership.outgoing),
        learners: ids(&membership.learners),
        servers: membership
            .addresses
            .iter()
            .map(|(id, addresses)| proto::Server {
                id: id.0,
                peer: addresses.peer.clone(),
                client: addresses.client.clone(),
                incarnation: membership.incarnations.get(id).copied().unwrap_or(0),
            })
            .collect(),
    }
}

fn membership_from_proto(message: proto::Membership) -> Result<Membership, Malformed> {
    let (mut addresses, mut incarnations) = (BTreeMap::new(), BTreeMap::new());
    for server in message.servers {
        if server.incarnation != 0 {
            incarnations.insert(NodeId(server.id), server.incarnation);
        }
        let at = Addresses {
            peer: server.peer,
            client: server.client,
        };
        if addresses.insert(node_id(server.id)?, at).is_some() {
            return Err(Malformed::new(format!(
                "membership with two addresses for server {}",
                server.id
            )));
        }
    }
    Ok(Membership {
        voters: node_ids(&message.voters)?,
        outgoing: node_ids(&message.outgoing)?,
        learners: node_ids(&message.learners)?,
        addresses,
        incarnations,
    })
}

fn node_ids(ids: &[u64]) -> Result<BTreeSet<NodeId>, Malformed> {
    let mut set = BTreeSet::new();
    for &id in ids {
        if !set.insert(node_id(id)?) {
            return Err(Malformed::new(format!("membership with server {id} twice")));
        }
    }
    Ok(set)
}

fn node_id(id: u64) -> Result<NodeId, Malformed> {
    if id == 0 {
        return Err(Malformed::new("membership with a server 0"));
    }
    Ok(NodeId(id))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(payload: Payload) -> Entry {
        let id = EntryId {
            term: Term(3),
            index: Index(7),
        };
        Entry { id, payload }
    }

    fn membership() -> Membership {
        let at = |n: u64| Addresses {
            peer: format!("10.0.0.{n}:7239"),
            client: format!("10.0.0.{n}:7238"),
        };
        Membership {
            voters: [NodeId(1), NodeId(2)].into(),
            outgoing: [NodeId(3)].into(),
            learners: [NodeId(4)].into(),
            addresses: (1..=4).map(|n| (NodeId(n), at(n))).collect(),
            incarnations: [(NodeId(1), u64::MAX), (NodeId(4), 7)].into(),
        }
    }

    #[test]
    fn entries_and_hard_state_come_back_as_they_went() {
        for payload in [
            Payload::Noop,
            Payload::Command(Bytes::from_static(b"SET k v")),
            Payload::Command(Bytes::new()),
            membership().into(),
            Membership::default().into(),
        ] {
            let entry = entry(payload);
            let mut bytes = BytesMut::new();
            encode_entry(&entry, &mut bytes);
            assert_eq!(decode_entry(bytes.freeze()), Ok(entry));
        }
        for vote in [None, Some(NodeId(5))] {
            let hard_state = HardState { term: Term(9), vote };
            let mut bytes = BytesMut::new();
            encode_hard_state(&hard_state, &mut bytes);
            assert_eq!(decode_hard_state(bytes.freeze()), Ok(hard_state));
        }
    }

    #[test]
    fn headers_of_snapshots_come_back_and_wrong_ones_are_refused() {
        let id = |term, index| EntryId {
            term: Term(term),
            index: Index(index),
        };
        for (last, membership_index, right) in [
            (id(3, 70), 70, true),
            (id(3, 70), 0, true),
            (id(3, 70), 71, false),
            (id(0, 70), 0, false),
            (id(3, 0), 0, false),
        ] {
            let header = SnapshotHeader {
                last,
                membership: membership(),
                membership_index: Index(membership_index),
            };
            let mut bytes = BytesMut::new();
            encode_snapshot_header(&header, &mut bytes);
            let again = decode_snapshot_header(bytes.freeze());
            assert_eq!(again.is_ok(), right, "{header:?}");
            assert!(!right || again == Ok(header));
        }
        assert!(decode_snapshot_header(Bytes::from_static(&[8, 1, 16, 1])).is_err());
    }

    #[test]
    fn what_no_leader_makes_is_refused() {
        let mut message = entry_to_proto(&entry(Payload::Noop));
        message.index = 0;
        assert!(entry_from_proto(message).is_err());

        let mut message = entry_to_proto(&entry(Payload::Noop));
        message.payload = None;
        assert!(entry_from_proto(message).is_err());

        let mut message = membership_to_proto(&membership());
        message.voters.push(1);
        assert!(membership_from_proto(message).is_err());

        let mut message = membership_to_proto(&membership());
        message.servers.push(proto::Server::default());
        assert!(membership_from_proto(message).is_err());

        let mut message = membership_to_proto(&membership());
        message.servers.extend(message.servers.clone());
        assert!(membership_from_proto(message).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_entry_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_entry(Bytes::from(bytes.clone()));
            let _ = decode_snapshot_header(Bytes::from(bytes.clone()));
            let _ = decode_hard_state(Bytes::from(bytes));
        }
    }
}
