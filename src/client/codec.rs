//! Bytes to requests: the first byte of each picks its dialect, and both give words.
//!
//! The decoder never looks twice at a byte, however slowly a request arrives, and checks the limits before
//! it waits for, or keeps, what would break them. The words are slices of the read buffer.

use bytes::{Buf, Bytes, BytesMut};

use super::{line, resp};

/// What a request may measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of one line, or of one RESP request with its framing.
    pub(crate) request_max_bytes: usize,
    /// Words of one request.
    pub(crate) words_max: usize,
}

/// How a request was written, and so how its reply is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// One line.
    Line,
    /// A RESP array.
    Resp,
}

/// What the decoder found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// A request of one word or more.
    Request(Dialect, Vec<Bytes>),
    /// Something that is no request: the sentence to answer with; the connection goes on.
    Refused(Dialect, String),
    /// As `Refused`, but what follows cannot be understood either: answer and close.
    Fatal(Dialect, String),
}

/// The state between two pieces of input of one connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    limits: Limits,
    /// How much of the buffer is known to hold no LF, while a line arrives.
    searched: usize,
    /// The RESP request that is arriving.
    partial: Option<resp::Partial>,
}

impl Decoder {
    /// A decoder at the start of a connection.
    pub(crate) fn new(limits: Limits) -> Decoder {
        Decoder {
            limits,
            searched: 0,
            partial: None,
        }
    }

    /// Takes the next request off the buffer; `None` if it is not complete. After `Fatal` there is no next.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Option<Decoded> {
        loop {
            let first = *buffer.first()?;
            let decoded = match first {
                b'*' => self.decode_resp(buffer)?,
                b'\t' | b'\r' | b'\n' | b' '.. => self.decode_line(buffer)?,
                _ => Decoded::Fatal(Dialect::Line, foreign(first)),
            };
            match decoded {
                // An empty line or an empty array asks for nothing.
                Decoded::Request(_, words) if words.is_empty() => {}
                decoded => return Some(decoded),
            }
        }
    }

    fn decode_resp(&mut self, buffer: &mut BytesMut) -> Option<Decoded> {
        let partial = self.partial.get_or_insert_default();
        let decoded = match partial.decode(buffer, &self.limits) {
            Ok(None) => return None,
            Ok(Some(words)) => Decoded::Request(Dialect::Resp, words),
            Err(error) => Decoded::Fatal(Dialect::Resp, format!("Protocol error: {error}")),
        };
        self.partial = None;
        Some(decoded)
    }

    fn decode_line(&mut self, buffer: &mut BytesMut) -> Option<Decoded> {
        let max = self.limits.request_max_bytes;
        let unsearched = buffer.get(self.searched..).unwrap_or_default();
        let Some(found) = unsearched.iter().position(|b| *b == b'\n') else {
            self.searched = buffer.len();
            // The last byte may be the CR before an LF that is still to come.
            return (buffer.len() > max + 1).then(|| too_long(max));
        };
        let mut line = buffer.split_to(self.searched + found).freeze();
        buffer.advance(1);
        self.searched = 0;
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        if line.len() > max {
            return Some(too_long(max));
        }
        if line::is_http(&line) {
            return Some(Decoded::Fatal(Dialect::Line, HTTP_HINT.into()));
        }
        Some(match line::words(&line, self.limits.words_max) {
            Ok(words) => Decoded::Request(Dialect::Line, words),
            Err(error) => Decoded::Refused(Dialect::Line, error.to_string()),
        })
    }
}

const HTTP_HINT: &str = "this port does not speak HTTP: it takes one command a line (try PING, or HELP), or RESP; \
                         HTTP is on the admin port (listen.admin)";

fn too_long(max: usize) -> Decoded {
    Decoded::Fatal(
        Dialect::Line,
        format!("the line is longer than {max} bytes (limits.max_request)"),
    )
}

/// What to tell whoever opens with a byte that starts no line.
fn foreign(first: u8) -> String {
    match first {
        0x16 => "this looks like TLS, which is not switched on for this port".into(),
        byte => format!("a request starts with a command or with '*' (RESP), not with byte 0x{byte:02x}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        request_max_bytes: 64,
        words_max: 8,
    };

    /// Everything that comes out when the input arrives in pieces of these sizes.
    fn decode_pieces(input: &[u8], mut sizes: impl Iterator<Item = usize>) -> Vec<Decoded> {
        let mut decoder = Decoder::new(LIMITS);
        let mut buffer = BytesMut::new();
        let mut rest = input;
        let mut all = Vec::new();
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(sizes.next().unwrap_or(rest.len()).clamp(1, rest.len()));
            buffer.extend_from_slice(piece);
            rest = later;
            while let Some(decoded) = decoder.decode(&mut buffer) {
                let end = matches!(decoded, Decoded::Fatal(..));
                all.push(decoded);
                if end {
                    return all;
                }
            }
        }
        all
    }

    fn decode(input: &[u8]) -> Vec<Decoded> {
        decode_pieces(input, std::iter::empty())
    }

    fn request(dialect: Dialect, words: &[&'static str]) -> Decoded {
        Decoded::Request(
            dialect,
            words.iter().map(|w| Bytes::from_static(w.as_bytes())).collect(),
        )
    }

    #[test]
    fn dialects_mix_and_empty_requests_are_skipped() {
        assert_eq!(
            decode(b"\r\n\nGET a\r\n*1\r\n$4\r\nPING\r\n*0\r\n  \nGET b\nGET c"),
            [
                request(Dialect::Line, &["GET", "a"]),
                request(Dialect::Resp, &["PING"]),
                request(Dialect::Line, &["GET", "b"]),
            ]
        );
    }

    #[test]
    fn a_bad_line_is_refused_and_the_next_one_counts() {
        let all = decode(b"GET \"a\nGET b\n");
        assert!(matches!(&all[0], Decoded::Refused(Dialect::Line, text) if text.contains("column 5")));
        assert_eq!(all[1], request(Dialect::Line, &["GET", "b"]));
    }

    #[test]
    fn other_protocols_get_a_hint_and_the_door() {
        for input in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"POST x\n",
            b"host: a\r\n",
            b"\x16\x03\x01",
            b"\0\0\0\x10",
        ] {
            assert!(matches!(&decode(input)[..], [Decoded::Fatal(..)]), "{input:?}");
        }
        assert!(
            matches!(&decode(b"*1\r\nx")[..], [Decoded::Fatal(Dialect::Resp, text)]
            if text.starts_with("Protocol error: expected '$'"))
        );
    }

    #[test]
    fn a_line_may_be_as_long_as_the_limit_and_no_longer() {
        let line = |len: usize, end: &str| format!("{}{end}", "x".repeat(len));
        for end in ["\n", "\r\n"] {
            assert!(matches!(
                &decode(line(64, end).as_bytes())[..],
                [Decoded::Request(..)]
            ));
            assert!(matches!(
                &decode(line(65, end).as_bytes())[..],
                [Decoded::Fatal(..)]
            ));
        }
        assert!(decode(line(65, "").as_bytes()).is_empty());
        assert!(
            matches!(&decode(line(66, "").as_bytes())[..], [Decoded::Fatal(_, text)] if text.contains("64 bytes"))
        );
    }

    #[test]
    fn a_resp_request_counts_with_its_framing() {
        assert!(matches!(
            &decode(b"*1\r\n$65\r\n")[..],
            [Decoded::Fatal(Dialect::Resp, _)]
        ));
        assert!(matches!(&decode(b"*1\r\n$50\r\n")[..], []));
    }

    /// Input that looks enough like requests to get somewhere.
    fn input() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n".to_vec()),
            Just(b"*1\r\n$4\r\nPING\r\n".to_vec()),
            Just(b"GET \"a b\"\r\n".to_vec()),
            Just(b"SET a 'x\n".to_vec()),
            "[*$0-9a\r\n\"' ]{0,12}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..8),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn pieces_give_the_same_as_the_whole(input in input(), sizes in prop::collection::vec(1usize..9, 0..80)) {
            prop_assert_eq!(decode_pieces(&input, sizes.into_iter()), decode(&input));
        }

        #[test]
        fn one_byte_at_a_time_too(input in input()) {
            prop_assert_eq!(decode_pieces(&input, std::iter::repeat(1)), decode(&input));
        }
    }
}
