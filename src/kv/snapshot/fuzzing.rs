//! Fuzz target: a snapshot of anything.

use bytes::Bytes;

use super::{Head, Restore};
use crate::base::fuzzing::parts;
use crate::kv::fuzzing::same_from_snapshot;
use crate::kv::{Command, decode_entry};

/// Any parts as the chunks of a snapshot. The head, whose hashes guessing does not get past, is made for what came; and
/// a state that is taken in is one that the store can go on with.
pub fn chunks(data: &[u8]) {
    let mut restore = Restore::new();
    if let Some(first) = parts(data).next() {
        restore.push(Bytes::copy_from_slice(first)).ok();
    }
    let mut restore = Restore::new();
    restore.store.applied = 1 << 20;
    restore.head = Some(Head {
        count: u64::MAX,
        bytes: 0,
        hash: 0,
    });
    let mut taken = Vec::new();
    for part in parts(data) {
        let chunk = Bytes::copy_from_slice(part);
        if let Ok(entry) = decode_entry(chunk.clone()) {
            taken.push(entry);
        } else if restore.push(chunk).is_err() {
            return;
        }
    }
    restore.head = Some(Head {
        count: restore.len(),
        bytes: restore.store.bytes(),
        hash: restore.store.hash(),
    });
    let Ok(mut store) = restore.finish() else {
        return;
    };
    same_from_snapshot(&store);
    for (time_ms, command) in taken {
        store.apply(store.applied() + 1, time_ms, &command);
    }
    store.apply(
        store.applied() + 1,
        u64::MAX >> 1,
        &Command::ExpireDue { limit: 1000 },
    );
    same_from_snapshot(&store);
}
