//! What a request is answered with, and its way into bytes of either dialect.

use bytes::{BufMut, Bytes, BytesMut};

use crate::base::escape;
use crate::kv::{Error, Event, Reply};

use super::codec::Dialect;
use super::{line, resp};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Response {
    /// As it is.
    Reply(Reply),
    /// A page of lines for people, which programs get as one string: INFO.
    Page(Vec<String>),
    /// As a page, with lines that end as those of CLIENT LIST do.
    Lines(Vec<String>),
    /// No list: what RESP2 tells apart from no value.
    NoList,
    /// Names and values: a map in RESP3, else a list of both in turn.
    Map(Vec<(String, Response)>),
    /// Several answers, where some are more than a reply.
    List(Vec<Response>),
    /// Several answers in no order: a set in RESP3, else a list.
    Set(Vec<Response>),
}

/// How a reply is written: the dialect of its request, and the RESP version at the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// One line each.
    Line,
    /// RESP2.
    Resp2,
    /// RESP3.
    Resp3,
}

impl Encoding {
    /// The encoding of a reply to a request in `dialect`.
    pub(crate) fn of(dialect: Dialect, resp3: bool) -> Encoding {
        match (dialect, resp3) {
            (Dialect::Line, _) => Encoding::Line,
            (Dialect::Resp, false) => Encoding::Resp2,
            (Dialect::Resp, true) => Encoding::Resp3,
        }
    }

    /// The same dialect in this version of RESP.
    pub(crate) fn at_version(self, resp3: bool) -> Encoding {
        match self {
            Encoding::Line => Encoding::Line,
            Encoding::Resp2 | Encoding::Resp3 => Encoding::of(Dialect::Resp, resp3),
        }
    }

    /// Appends a reply.
    pub(crate) fn put(self, reply: &Reply, out: &mut BytesMut) {
        match self {
            Encoding::Line => line::encode(reply, out),
            Encoding::Resp2 | Encoding::Resp3 => resp::encode(reply, self == Encoding::Resp3, out),
        }
    }

    /// Appends the head of a list of `len` replies, which are to follow.
    pub(crate) fn put_list_head(self, len: u64, out: &mut BytesMut) {
        resp::head(b'*', len, out);
    }

    /// Appends that there is no list.
    pub(crate) fn put_no_list(self, out: &mut BytesMut) {
        match self {
            Encoding::Resp2 => out.extend_from_slice(b"*-1\r\n"),
            Encoding::Line | Encoding::Resp3 => self.put(&Reply::Nil, out),
        }
    }

    /// Appends an event of a change feed: revision, kind, key, value.
    pub(crate) fn put_event(self, event: &Event, out: &mut BytesMut) {
        // RESP2 knows no messages beside the replies.
        let head = if self == Encoding::Resp2 { b'*' } else { b'>' };
        resp::head(head, 4, out);
        let revision = i64::try_from(event.revision()).unwrap_or(i64::MAX);
        self.put(&Reply::Integer(revision), out);
        self.put(&Reply::Text(event.kind().into()), out);
        for bytes in [event.key(), event.value().map(AsRef::as_ref)] {
            match bytes {
                Some(bytes) => self.put_value(bytes, out),
                None => self.put(&Reply::Nil, out),
            }
        }
    }

    /// Appends bytes as a value.
    pub(crate) fn put_value(self, value: &[u8], out: &mut BytesMut) {
        match self {
            Encoding::Line => line::encode_value(value, out),
            Encoding::Resp2 | Encoding::Resp3 => resp::encode_bulk(value, out),
        }
    }

    /// Appends a value of any size piece by piece, beginning at `from`; where the next piece begins, `None` after the
    /// last one.
    pub(crate) fn put_piece(self, value: &[u8], from: usize, out: &mut BytesMut) -> Option<usize> {
        let to = piece_end(value, from);
        let piece = value.get(from..to).unwrap_or_default();
        match self {
            Encoding::Line => {
                if from == 0 {
                    out.put_u8(b'+');
                }
                escape::escape(piece, out);
            }
            Encoding::Resp2 | Encoding::Resp3 => {
                if from == 0 {
                    resp::head(b'$', value.len() as u64, out);
                }
                out.put_slice(piece);
            }
        }
        if to < value.len() {
            return Some(to);
        }
        out.put_slice(b"\r\n");
        None
    }

    /// Appends an answer.
    pub(crate) fn put_response(self, response: &Response, out: &mut BytesMut) {
        match response {
            Response::Reply(reply) => self.put(reply, out),
            Response::NoList => self.put_no_list(out),
            Response::Page(lines) => self.put_page(lines, "\r\n", out),
            Response::Lines(lines) => self.put_page(lines, "\n", out),
            Response::Map(pairs) => self.put_map(pairs, out),
            Response::List(all) => self.put_all(b'*', all, out),
            Response::Set(all) if self == Encoding::Resp3 => self.put_all(b'~', all, out),
            Response::Set(all) => self.put_all(b'*', all, out),
        }
    }

    fn put_all(self, kind: u8, all: &[Response], out: &mut BytesMut) {
        resp::head(kind, all.len() as u64, out);
        all.iter().for_each(|response| self.put_response(response, out));
    }

    fn put_page(self, lines: &[String], end: &str, out: &mut BytesMut) {
        if self == Encoding::Line {
            self.put_list_head(lines.len() as u64, out);
            lines
                .iter()
                .for_each(|text| line::encode_value(text.as_bytes(), out));
            return;
        }
        let text: String = lines.iter().flat_map(|line| [line, end]).collect();
        match self {
            Encoding::Resp3 => resp::encode_verbatim(&text, out),
            _ => resp::encode_bulk(text.as_bytes(), out),
        }
    }

    fn put_map(self, pairs: &[(String, Response)], out: &mut BytesMut) {
        match self {
            Encoding::Resp3 => resp::head(b'%', pairs.len() as u64, out),
            _ => self.put_list_head(pairs.len() as u64 * 2, out),
        }
        for (name, response) in pairs {
            self.put_value(name.as_bytes(), out);
            self.put_response(response, out);
        }
    }
}

/// How much of a large value is encoded at once.
pub(crate) const PIECE_BYTES: usize = 64 << 10;

/// Where the piece that begins at `from` ends: never inside a character, whose bytes are one to the line dialect.
fn piece_end(value: &[u8], from: usize) -> usize {
    let end = from + PIECE_BYTES;
    let is_inside = |at: &usize| value.get(*at).is_some_and(|byte| byte & 0xc0 == 0x80);
    match value.len() {
        len if len <= end => len,
        // A character has at most three bytes behind its first one; longer runs are no characters.
        _ => (end - 3..=end).rev().find(|at| !is_inside(at)).unwrap_or(end),
    }
}

impl Response {
    /// A map of these names and values.
    pub(crate) fn map<V: Into<Response>>(pairs: impl IntoIterator<Item = (&'static str, V)>) -> Response {
        let pairs = pairs.into_iter();
        Response::Map(pairs.map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// A list of words.
    pub(crate) fn words(words: impl IntoIterator<Item = impl Into<String>>) -> Response {
        Response::List(words.into_iter().map(|word| value(word).into()).collect())
    }

    /// The error in it, if it is one.
    pub(crate) fn error(&self) -> Option<&Error> {
        match self {
            Response::Reply(Reply::Error(error)) => Some(error),
            _ => None,
        }
    }

    /// The memory that it takes beside the bytes of its values: that of a list's places.
    pub(crate) fn overhead_bytes(&self) -> usize {
        match self {
            Response::Reply(Reply::List(replies)) => replies.len() * size_of::<Reply>(),
            _ => 0,
        }
    }

    /// Roughly the memory that it takes until it is written, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let all = |responses: &[Response]| responses.iter().map(Response::bytes).sum();
        let inner: usize = match self {
            Response::Reply(reply) => reply_bytes(reply),
            Response::NoList => 0,
            Response::Page(lines) | Response::Lines(lines) => lines.iter().map(|line| 24 + line.len()).sum(),
            Response::Map(pairs) => {
                let pair = |(name, value): &(String, Response)| 24 + name.len() + value.bytes();
                pairs.iter().map(pair).sum()
            }
            Response::List(responses) | Response::Set(responses) => all(responses),
        };
        size_of::<Response>() + inner
    }
}

fn reply_bytes(reply: &Reply) -> usize {
    match reply {
        Reply::Value(value) => value.len(),
        Reply::Text(text) => text.len(),
        Reply::Error(error) => error.text.len(),
        Reply::List(replies) => replies
            .iter()
            .map(|reply| size_of::<Reply>() + reply_bytes(reply))
            .sum(),
        Reply::Ok | Reply::Integer(_) | Reply::Nil => 0,
    }
}

/// A text as a value.
pub(crate) fn value(text: impl Into<String>) -> Reply {
    Reply::Value(Bytes::from(text.into()))
}

impl From<Reply> for Response {
    fn from(reply: Reply) -> Response {
        Response::Reply(reply)
    }
}

impl From<Error> for Response {
    fn from(error: Error) -> Response {
        Response::Reply(Reply::Error(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_lines_for_people_and_one_string_for_programs() {
        let page = Response::Page(vec!["# Server".into(), "a:1".into()]);
        let mut out = BytesMut::new();
        Encoding::Line.put_response(&page, &mut out);
        assert_eq!(out, "*2\r\n+# Server\r\n+a:1\r\n");
        out.clear();
        Encoding::Resp2.put_response(&page, &mut out);
        assert_eq!(out, "$15\r\n# Server\r\na:1\r\n\r\n");
        out.clear();
        Encoding::Resp3.put_response(&page, &mut out);
        assert_eq!(out, "=19\r\ntxt:# Server\r\na:1\r\n\r\n");
    }

    #[test]
    fn maps_and_sets_are_such_in_resp3_only() {
        let map = Response::map([("proto", Response::Set(vec![Reply::Integer(3).into()]))]);
        let mut out = BytesMut::new();
        Encoding::Resp3.put_response(&map, &mut out);
        Encoding::Resp2.put_response(&map, &mut out);
        Encoding::Line.put_response(&map, &mut out);
        assert_eq!(
            out,
            "%1\r\n$5\r\nproto\r\n~1\r\n:3\r\n\
             *2\r\n$5\r\nproto\r\n*1\r\n:3\r\n\
             *2\r\n+proto\r\n*1\r\n:3\r\n"
        );
    }

    #[test]
    fn pieces_make_the_same_as_the_whole() {
        let mut values = vec![
            vec![b'x'; 3 * PIECE_BYTES],
            vec![0xbf; PIECE_BYTES + 9],
            Vec::new(),
        ];
        // Characters of 2 to 4 bytes, at every place around the end of a piece.
        for (character, shift) in ["ä", "€", "😀"]
            .iter()
            .flat_map(|c| (0..4).map(move |shift| (c, shift)))
        {
            let text = format!("{}{}", "y".repeat(PIECE_BYTES - 8 + shift), character.repeat(9));
            values.push(text.into_bytes());
        }
        for value in values {
            for encoding in [Encoding::Line, Encoding::Resp2] {
                let (mut whole, mut pieces) = (BytesMut::new(), BytesMut::new());
                encoding.put_value(&value, &mut whole);
                let mut from = Some(0);
                while let Some(at) = from {
                    from = encoding.put_piece(&value, at, &mut pieces);
                }
                assert!(whole == pieces, "a value of {} bytes", value.len());
            }
        }
    }
}
