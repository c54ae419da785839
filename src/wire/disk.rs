//! Log records: bytes ⇄ entries and hard state. (A stand-in until the storage layer's is merged.)

use std::fmt;

use super::proto::disk as proto;
use crate::raft::{Addresses, Entry, EntryId, Index, Membership, NodeId, Payload, Term};

/// Why bytes are not a value of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

pub(super) fn entry_to_proto(entry: &Entry) -> proto::Entry {
    let payload = match &entry.payload {
        Payload::Noop => proto::entry::Payload::Noop(proto::Noop {}),
        Payload::Command(command) => proto::entry::Payload::Command(command.clone()),
        Payload::Membership(m) => proto::entry::Payload::Membership(proto::Membership {
            voters: m.voters.iter().map(|id| id.0).collect(),
            outgoing: m.outgoing.iter().map(|id| id.0).collect(),
            learners: m.learners.iter().map(|id| id.0).collect(),
            servers: m
                .addresses
                .iter()
                .map(|(id, a)| proto::Server {
                    id: id.0,
                    peer: a.peer.clone(),
                    client: a.client.clone(),
                })
                .collect(),
        }),
    };
    proto::Entry {
        term: entry.id.term.0,
        index: entry.id.index.0,
        payload: Some(payload),
    }
}

pub(super) fn entry_from_proto(entry: proto::Entry) -> Result<Entry, Malformed> {
    let ids = |ids: Vec<u64>| ids.into_iter().map(NodeId).collect();
    let payload = match entry.payload {
        None => return Err(Malformed("an entry without a payload".into())),
        Some(proto::entry::Payload::Noop(_)) => Payload::Noop,
        Some(proto::entry::Payload::Command(command)) => Payload::Command(command),
        Some(proto::entry::Payload::Membership(m)) => Payload::Membership(Membership {
            voters: ids(m.voters),
            outgoing: ids(m.outgoing),
            learners: ids(m.learners),
            addresses: m
                .servers
                .into_iter()
                .map(|s| {
                    (
                        NodeId(s.id),
                        Addresses {
                            peer: s.peer,
                            client: s.client,
                        },
                    )
                })
                .collect(),
        }),
    };
    Ok(Entry {
        id: EntryId {
            term: Term(entry.term),
            index: Index(entry.index),
        },
        payload,
    })
}
