//! Fuzz targets: what clients send, and what they get.

use bytes::{Bytes, BytesMut};

use crate::base::fuzzing::pieces;
use crate::kv::{Error, Reply, decode_command, decode_reply, encode_command};

use super::codec::{Decoded, Decoder, Limits};
use super::reply::{Encoding, Response};
use super::table::{self, Action};

/// Small, so that short inputs reach them.
const LIMITS: Limits = Limits {
    request_max_bytes: 4096,
    words_max: 64,
};

const ENCODINGS: [Encoding; 3] = [Encoding::Line, Encoding::Resp2, Encoding::Resp3];

/// Requests in both dialects, up to what they ask for and how they are refused.
pub fn requests(data: &[u8]) {
    let (pieces, whole) = pieces(data);
    let all = decode(pieces);
    assert_eq!(
        all,
        decode(std::iter::once(whole)),
        "the pieces are not the whole"
    );
    for one in all {
        match one {
            Decoded::Request(_, words) => request(&words),
            Decoded::Refused(_, text) | Decoded::Fatal(_, text) => refusal(&table::err(text)),
        }
    }
}

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Decoded> {
    let mut decoder = Decoder::new(LIMITS);
    let mut buffer = BytesMut::new();
    let mut all = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while let Some(decoded) = decoder.decode(&mut buffer) {
            let is_fatal = matches!(decoded, Decoded::Fatal(..));
            all.push(decoded);
            if is_fatal {
                return all;
            }
        }
    }
    all
}

fn request(words: &[Bytes]) {
    assert!((1..=LIMITS.words_max).contains(&words.len()));
    match table::parse(words) {
        Ok(action) => {
            action.kind();
            if let Action::Write(command) | Action::Repeatable(_, command) = action {
                let encoded = encode_command(&command);
                assert_eq!(decode_command(encoded), Ok(command), "the leader can't read it");
            }
        }
        Err(error) => refusal(&error),
    }
}

/// An error is one line in every encoding.
fn refusal(error: &Error) {
    for encoding in ENCODINGS {
        let mut out = BytesMut::new();
        encoding.put_response(&Response::Reply(Reply::Error(error.clone())), &mut out);
        let text = out.strip_prefix(b"-").and_then(|text| text.strip_suffix(b"\r\n"));
        assert!(text.is_some_and(|text| !text.contains(&b'\n')), "{out:?}");
    }
}

/// The reply that these bytes are between nodes, if they are one, in every encoding.
pub fn answers(data: &[u8]) -> Option<[BytesMut; 3]> {
    let reply = decode_reply(Bytes::copy_from_slice(data)).ok()?;
    Some(ENCODINGS.map(|encoding| {
        let mut out = BytesMut::new();
        encoding.put(&reply, &mut out);
        out
    }))
}

#[cfg(test)]
mod tests {
    use crate::base::fuzzing::play;

    #[test]
    fn cases_of_requests() {
        play(
            include_str!("../../fuzz/cases/requests.txt"),
            20_000,
            super::requests,
        );
    }
}
