//! Fuzz target: what comes from other nodes.

use bytes::{Bytes, BytesMut};
use futures::FutureExt;

use crate::base::fuzzing::pieces;
use crate::wire::peer::{HANDSHAKE_MAX_BYTES, LENGTH_BYTES, decode, encode};

use super::codec::FrameReader;

/// Small, so that short inputs reach it.
const FRAME_MAX_BYTES: usize = 64 << 10;

/// Any bytes as one frame; and, in pieces, as a stream of frames.
pub fn frames(data: &[u8]) {
    let (pieces, whole) = pieces(data);
    frame(Bytes::copy_from_slice(whole));
    let all = stream(pieces);
    assert_eq!(
        all,
        stream(std::iter::once(whole)),
        "the pieces are not the whole"
    );
    all.into_iter().for_each(frame);
}

/// The frames up to the first one that is too long.
fn stream<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Bytes> {
    let mut reader = FrameReader::new(HANDSHAKE_MAX_BYTES);
    let mut all = Vec::new();
    for mut piece in pieces {
        while !piece.is_empty() {
            // A slice never makes its reader wait.
            reader.fill(&mut piece).now_or_never();
            loop {
                match reader.next() {
                    Ok(Some(frame)) => all.push(frame),
                    Ok(None) => break,
                    Err(_) => return all,
                }
                reader.set_max_bytes(FRAME_MAX_BYTES);
            }
        }
    }
    all
}

/// What is read of a frame is what its sender could have meant: written and read again it is the same.
fn frame(bytes: Bytes) {
    let Ok((request_id, frame)) = decode(bytes) else {
        return;
    };
    let mut out = BytesMut::new();
    let written = encode(request_id, &frame, usize::MAX, &mut out);
    assert_eq!(written, Ok(()));
    let again = decode(out.split_off(LENGTH_BYTES).freeze());
    assert_eq!(again, Ok((request_id, frame)));
}

#[cfg(test)]
mod tests {
    use crate::base::fuzzing::play;

    #[test]
    fn cases_of_frames() {
        play(include_str!("../../fuzz/cases/frames.txt"), 20_000, super::frames);
    }
}
