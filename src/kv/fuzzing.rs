//! Fuzz targets: what the state machine reads, and what becomes of it.

use bytes::Bytes;

use crate::base::fuzzing::parts;

use super::{
    Restore, Store, decode_command, decode_entry, decode_reply, encode_command, encode_entry, encode_reply,
};

pub use super::snapshot::fuzzing::chunks;

/// Any parts as entries of a log, which are applied, and as replies.
pub fn entries(data: &[u8]) {
    let mut store = Store::new();
    for part in parts(data) {
        let bytes = Bytes::copy_from_slice(part);
        if let Ok(command) = decode_command(bytes.clone()) {
            assert_eq!(encode_command(&command), bytes, "two encodings of one command");
        }
        if let Ok(reply) = decode_reply(bytes.clone()) {
            assert_eq!(encode_reply(&reply), bytes, "two encodings of one reply");
        }
        if let Ok((time_ms, command)) = decode_entry(bytes.clone()) {
            assert_eq!(
                encode_entry(time_ms, &command),
                bytes,
                "two encodings of one entry"
            );
            let reply = store.apply(store.applied() + 1, time_ms, &command);
            assert_eq!(decode_reply(encode_reply(&reply)), Ok(reply));
        }
    }
    same_from_snapshot(&store);
}

/// The state is whole, so its snapshot gives it again.
pub(super) fn same_from_snapshot(store: &Store) {
    let mut restore = Restore::new();
    for chunk in store.view().chunks() {
        let pushed = restore.push(chunk);
        assert_eq!(pushed, Ok(()));
    }
    let restored = restore.finish().map(|restored| restored.hash());
    assert_eq!(restored, Ok(store.hash()));
}

#[cfg(test)]
mod tests {
    use crate::base::fuzzing::play;

    #[test]
    fn cases_of_entries() {
        play(
            include_str!("../../fuzz/cases/entries.txt"),
            10_000,
            super::entries,
        );
    }

    #[test]
    fn cases_of_chunks() {
        play(include_str!("../../fuzz/cases/chunks.txt"), 10_000, super::chunks);
    }
}
