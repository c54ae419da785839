//! Fuzz target: what nodes answer, as the tools of this program read it.

use bytes::BytesMut;

use crate::base::fuzzing::pieces;
use crate::client::fuzzing::answers;

use super::resp::{Decoder, Reply};

/// Any bytes, in pieces, as replies; and every reply of a node, which must be read whole.
pub fn replies(data: &[u8]) {
    let (pieces, whole) = pieces(data);
    assert_eq!(
        decode(pieces),
        decode(std::iter::once(whole)),
        "the pieces are not the whole"
    );
    for mut encoded in answers(whole).into_iter().flatten() {
        let decoded = Decoder::default().decode(&mut encoded);
        assert!(matches!(decoded, Ok(Some(_))), "{decoded:?}");
        assert!(encoded.is_empty(), "{encoded:?} is left");
    }
}

/// The replies up to the first error, and whether there was one.
fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Reply>, bool) {
    let mut decoder = Decoder::default();
    let mut buffer = BytesMut::new();
    let mut all = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(reply)) => all.push(reply),
                Ok(None) => break,
                Err(_) => return (all, true),
            }
        }
    }
    (all, false)
}

#[cfg(test)]
mod tests {
    use crate::base::fuzzing::play;

    #[test]
    fn cases_of_replies() {
        play(
            include_str!("../../fuzz/cases/replies.txt"),
            20_000,
            super::replies,
        );
    }
}
