//! The replies of a node, as its clients read them: RESP2 and RESP3, for the tools of this program.
//!
//! A reply may arrive in pieces of any size. What has arrived of it is taken off the buffer at once, so that
//! no byte is looked at twice, however long a list is.
//!
//! **Bounds.** One reply has at most [`REPLY_MAX_BYTES`] and is nested at most [`DEPTH_MAX`] deep; a length is
//! believed only as far as bytes arrive. Any bytes are a reply, the start of one, or an error; none panics.
//!
//! Missing: the streamed types of RESP3 and its attributes, which no node sends.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

use crate::client::resp::{encode_bulk, head, integer};

/// The most bytes of one reply, with its framing: what Redis allows one value.
pub(super) const REPLY_MAX_BYTES: usize = 512 << 20;
/// How deep lists stand in lists.
const DEPTH_MAX: usize = 32;
/// The longest line: of a text, an error or a number.
const LINE_MAX_BYTES: usize = 4 << 20;
/// How many items are made room for before they arrive.
const ITEMS_AHEAD: usize = 1024;

/// A reply, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// `+`: a word or a sentence of the server.
    Text(Bytes),
    /// `$`: bytes that somebody stored, or a page.
    Value(Bytes),
    /// `:`.
    Integer(i64),
    /// `#`.
    Boolean(bool),
    /// `,` and `(`: a number as it is written.
    Number(Bytes),
    /// `-`: a code, a blank, a sentence.
    Error(Bytes),
    /// `_`, and the two of RESP2.
    Nil,
    /// `*`.
    List(Vec<Reply>),
    /// `~`.
    Set(Vec<Reply>),
    /// `%`: keys and values in turn.
    Map(Vec<Reply>),
    /// `>`: what comes unasked.
    Push(Vec<Reply>),
}

/// Why bytes are no reply: whoever sent them is no node, or the connection is out of step.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadReply(String);

/// A list of which a part has arrived.
#[derive(Debug)]
struct Open {
    kind: u8,
    left: usize,
    items: Vec<Reply>,
}

/// One thing that was read.
enum Item {
    Whole(Reply),
    Open(Open),
}

/// Reads replies, one after the other.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The lists that are not whole yet, outermost first.
    open: Vec<Open>,
    /// Bytes of this reply that were taken.
    taken: usize,
    /// Bytes at the start of the buffer that hold no line end.
    searched: usize,
}

impl Decoder {
    /// The next reply, cut off `buffer`; `None` if more bytes are needed.
    ///
    /// # Errors
    /// The bytes are no reply; the connection is of no more use.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Reply>, BadReply> {
        loop {
            let Some(item) = self.item(buffer)? else {
                return Ok(None);
            };
            let mut whole = match item {
                Item::Whole(reply) => reply,
                Item::Open(open) if open.left == 0 => open.close(),
                Item::Open(_) if self.open.len() == DEPTH_MAX => {
                    return Err(BadReply(format!("lists more than {DEPTH_MAX} deep")));
                }
                Item::Open(open) => {
                    self.open.push(open);
                    continue;
                }
            };
            // The end of one list may be the end of those around it.
            loop {
                let Some(mut around) = self.open.pop() else {
                    self.taken = 0;
                    return Ok(Some(whole));
                };
                around.items.push(whole);
                around.left -= 1;
                if around.left > 0 {
                    self.open.push(around);
                    break;
                }
                whole = around.close();
            }
        }
    }

    fn item(&mut self, buffer: &mut BytesMut) -> Result<Option<Item>, BadReply> {
        let Some(end) = self.line_end(buffer)? else {
            return Ok(None);
        };
        let line = buffer.get(..end).unwrap_or_default();
        let Some((&kind, rest)) = line.split_first() else {
            return Err(BadReply("an empty line".into()));
        };
        match kind {
            b'$' | b'=' | b'!' => return self.bulk(buffer, kind, end),
            b'*' | b'~' | b'%' | b'>' => {
                let open = length(line)?.map(|len| Open::new(kind, len));
                self.take(buffer, end + 2)?;
                return Ok(Some(open.map_or(Item::Whole(Reply::Nil), Item::Open)));
            }
            _ => {}
        }
        let simple = match (kind, rest) {
            (b':', _) => Reply::Integer(integer(rest).ok_or_else(|| unexpected(line))?),
            (b'#', b"t") => Reply::Boolean(true),
            (b'#', b"f") => Reply::Boolean(false),
            (b'_', b"") => Reply::Nil,
            (b'+' | b'-' | b',' | b'(', _) => {
                let text = self.take(buffer, end + 2)?.slice(1..end);
                return Ok(Some(Item::Whole(match kind {
                    b'+' => Reply::Text(text),
                    b'-' => Reply::Error(text),
                    _ => Reply::Number(text),
                })));
            }
            _ => return Err(unexpected(line)),
        };
        self.take(buffer, end + 2)?;
        Ok(Some(Item::Whole(simple)))
    }

    /// A string of a length that its head line, which ends at `end`, tells.
    fn bulk(&mut self, buffer: &mut BytesMut, kind: u8, end: usize) -> Result<Option<Item>, BadReply> {
        let line = buffer.get(..end).unwrap_or_default();
        let Some(len) = length(line)? else {
            self.take(buffer, end + 2)?;
            return Ok(Some(Item::Whole(Reply::Nil)));
        };
        let whole = end + 2 + len + 2;
        self.check(whole)?;
        if buffer.len() < whole {
            // The head line is looked for again when more has come; it is short.
            self.searched = 0;
            return Ok(None);
        }
        let taken = self.take(buffer, whole)?;
        if taken.get(whole - 2..) != Some(b"\r\n") {
            return Err(BadReply(format!("no line end after a string of {len} bytes")));
        }
        let text = taken.slice(end + 2..whole - 2);
        Ok(Some(Item::Whole(match kind {
            b'!' => Reply::Error(text),
            // The text's kind, three letters and a colon, stands before it.
            b'=' => Reply::Value(text.slice(text.len().min(4)..)),
            _ => Reply::Value(text),
        })))
    }

    /// Where the first line ends, before its CR LF.
    fn line_end(&mut self, buffer: &[u8]) -> Result<Option<usize>, BadReply> {
        let fresh = buffer.get(self.searched..).unwrap_or_default();
        let Some(at) = fresh.iter().position(|byte| *byte == b'\n') else {
            self.searched = buffer.len();
            if buffer.len() > LINE_MAX_BYTES {
                return Err(BadReply(format!("a line of more than {LINE_MAX_BYTES} bytes")));
            }
            return Ok(None);
        };
        let line = buffer.get(..self.searched + at).unwrap_or_default();
        match line.strip_suffix(b"\r") {
            Some(line) => Ok(Some(line.len())),
            None => Err(unexpected(line)),
        }
    }

    /// Takes so many bytes off the buffer.
    fn take(&mut self, buffer: &mut BytesMut, len: usize) -> Result<Bytes, BadReply> {
        self.check(len)?;
        self.taken += len;
        self.searched = 0;
        Ok(buffer.split_to(len.min(buffer.remaining())).freeze())
    }

    /// Refuses a reply that would be too large with so many bytes more.
    fn check(&self, len: usize) -> Result<(), BadReply> {
        if self.taken.saturating_add(len) > REPLY_MAX_BYTES {
            return Err(BadReply(format!("a reply of more than {REPLY_MAX_BYTES} bytes")));
        }
        Ok(())
    }
}

impl Open {
    fn new(kind: u8, len: usize) -> Open {
        let left = if kind == b'%' { len * 2 } else { len };
        Open {
            kind,
            left,
            items: Vec::with_capacity(left.min(ITEMS_AHEAD)),
        }
    }

    fn close(self) -> Reply {
        match self.kind {
            b'~' => Reply::Set(self.items),
            b'%' => Reply::Map(self.items),
            b'>' => Reply::Push(self.items),
            _ => Reply::List(self.items),
        }
    }
}

/// The length that a head line tells; `None` for -1, which is nothing.
fn length(line: &[u8]) -> Result<Option<usize>, BadReply> {
    match line.get(1..).and_then(integer) {
        Some(-1) => Ok(None),
        Some(len) if (0..=REPLY_MAX_BYTES as i64).contains(&len) => Ok(usize::try_from(len).ok()),
        _ => Err(unexpected(line)),
    }
}

fn unexpected(line: &[u8]) -> BadReply {
    BadReply(format!("'{}'", crate::base::escape::excerpt(line, 40)))
}

impl fmt::Display for BadReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not the reply of a raftline node: {}", self.0)
    }
}

impl Reply {
    /// The code of an error: its first word.
    pub(super) fn code(&self) -> Option<&[u8]> {
        match self {
            Reply::Error(text) => text.split(|byte| *byte == b' ').next(),
            _ => None,
        }
    }

    /// An error that did not come from a node.
    pub(super) fn error(text: impl Into<String>) -> Reply {
        Reply::Error(Bytes::from(text.into()))
    }
}

/// Appends a request.
pub(super) fn encode_request(words: &[Bytes], out: &mut BytesMut) {
    head(b'*', words.len() as u64, out);
    words.iter().for_each(|word| encode_bulk(word, out));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8]) -> Result<Option<Reply>, BadReply> {
        Decoder::default().decode(&mut BytesMut::from(bytes))
    }

    fn one(bytes: &[u8]) -> Reply {
        decode(bytes).unwrap().unwrap()
    }

    fn value(text: &'static str) -> Reply {
        Reply::Value(text.into())
    }

    #[test]
    fn every_type_is_read() {
        assert_eq!(one(b"+OK\r\n"), Reply::Text("OK".into()));
        assert_eq!(one(b"-ERR no\r\n"), Reply::error("ERR no"));
        assert_eq!(one(b"!6\r\nERR no\r\n"), Reply::error("ERR no"));
        assert_eq!(one(b":-42\r\n"), Reply::Integer(-42));
        assert_eq!(one(b"$3\r\na\n\0\r\n"), value("a\n\0"));
        assert_eq!(one(b"=6\r\ntxt:ab\r\n"), value("ab"));
        for nil in [&b"_\r\n"[..], b"$-1\r\n", b"*-1\r\n"] {
            assert_eq!(one(nil), Reply::Nil);
        }
        assert_eq!(one(b"#t\r\n"), Reply::Boolean(true));
        assert_eq!(one(b",1.5\r\n"), Reply::Number("1.5".into()));
        assert_eq!(
            one(b"*2\r\n*1\r\n:1\r\n*0\r\n"),
            Reply::List(vec![Reply::List(vec![Reply::Integer(1)]), Reply::List(vec![])])
        );
        assert_eq!(
            one(b"%1\r\n+a\r\n~1\r\n_\r\n"),
            Reply::Map(vec![Reply::Text("a".into()), Reply::Set(vec![Reply::Nil])])
        );
        assert_eq!(one(b">1\r\n:7\r\n"), Reply::Push(vec![Reply::Integer(7)]));
    }

    #[test]
    fn pieces_of_any_size_give_the_same_replies() {
        let bytes = b"*3\r\n$5\r\nhello\r\n%1\r\n+k\r\n:1\r\n_\r\n+OK\r\n";
        let mut decoder = Decoder::default();
        let (mut buffer, mut replies) = (BytesMut::new(), vec![]);
        for byte in bytes {
            buffer.extend_from_slice(&[*byte]);
            replies.extend(decoder.decode(&mut buffer).unwrap());
        }
        let map = Reply::Map(vec![Reply::Text("k".into()), Reply::Integer(1)]);
        assert_eq!(replies[0], Reply::List(vec![value("hello"), map, Reply::Nil]));
        assert_eq!(replies[1], Reply::Text("OK".into()));
        assert!(buffer.is_empty());
    }

    #[test]
    fn what_is_no_reply_is_an_error_that_shows_it() {
        let text = |bytes: &[u8]| decode(bytes).unwrap_err().to_string();
        assert_eq!(
            text(b"HTTP/1.1 400 Bad Request\r\n"),
            "not the reply of a raftline node: 'HTTP/1.1 400 Bad Request'"
        );
        for rubbish in [
            &b"\r\n"[..],
            b"+no cr\n",
            b":x\r\n",
            b"$x\r\n",
            b"$-2\r\n",
            b"$1\r\nabc",
            b"#x\r\n",
            b"_1\r\n",
        ] {
            assert!(decode(rubbish).is_err(), "{rubbish:?}");
        }
        assert!(text(&b"*1\r\n".repeat(40)).contains("32 deep"));
        assert!(decode(b"$99999999999\r\n").is_err());
        assert!(decode(&vec![b'+'; LINE_MAX_BYTES + 1]).is_err());
    }

    #[test]
    fn requests_are_lists_of_strings() {
        let mut out = BytesMut::new();
        encode_request(&["GET".into(), "\r\n".into()], &mut out);
        assert_eq!(out, "*2\r\n$3\r\nGET\r\n$2\r\n\r\n\r\n");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_reply_or_an_error(pieces: Vec<Vec<u8>>) {
            let mut decoder = Decoder::default();
            let mut buffer = BytesMut::new();
            for piece in pieces {
                buffer.extend_from_slice(&piece);
                if decoder.decode(&mut buffer).is_err() {
                    break;
                }
            }
        }

        #[test]
        fn any_framing_is_a_reply_or_an_error(text in "([-+:$*%>_#~=!,]|[0-3]|\r\n|a){0,60}") {
            let mut buffer = BytesMut::from(text.as_bytes());
            let mut decoder = Decoder::default();
            while let Ok(Some(_)) = decoder.decode(&mut buffer) {}
        }
    }
}
