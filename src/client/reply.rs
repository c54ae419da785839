//! What a request is answered with, and its way into bytes of either dialect.

use bytes::BytesMut;

use crate::kv::{Error, Reply};

use super::codec::Dialect;
use super::{line, resp};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Response {
    /// As it is.
    Reply(Reply),
    /// A page of lines for people, which programs get as one string: INFO.
    Page(Vec<String>),
    /// Names and values: a map in RESP3, else a list of both in turn.
    Map(Vec<(String, Reply)>),
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

    /// Appends bytes as a value.
    pub(crate) fn put_value(self, value: &[u8], out: &mut BytesMut) {
        match self {
            Encoding::Line => line::encode_value(value, out),
            Encoding::Resp2 | Encoding::Resp3 => resp::encode_bulk(value, out),
        }
    }

    /// Appends a page.
    pub(crate) fn put_page(self, lines: &[String], out: &mut BytesMut) {
        match self {
            Encoding::Line => {
                self.put_list_head(lines.len() as u64, out);
                lines
                    .iter()
                    .for_each(|text| line::encode_value(text.as_bytes(), out));
            }
            Encoding::Resp2 | Encoding::Resp3 => {
                let mut text = lines.join("\r\n");
                text.push_str("\r\n");
                resp::encode_bulk(text.as_bytes(), out);
            }
        }
    }

    /// Appends a map.
    pub(crate) fn put_map(self, pairs: &[(String, Reply)], out: &mut BytesMut) {
        match self {
            Encoding::Resp3 => resp::head(b'%', pairs.len() as u64, out),
            _ => self.put_list_head(pairs.len() as u64 * 2, out),
        }
        for (name, reply) in pairs {
            self.put_value(name.as_bytes(), out);
            self.put(reply, out);
        }
    }
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
        let lines = ["# Server".to_string(), "a:1".to_string()];
        let mut out = BytesMut::new();
        Encoding::Line.put_page(&lines, &mut out);
        assert_eq!(out, "*2\r\n+# Server\r\n+a:1\r\n");
        out.clear();
        Encoding::Resp2.put_page(&lines, &mut out);
        assert_eq!(out, "$15\r\n# Server\r\na:1\r\n\r\n");
    }

    #[test]
    fn maps_are_maps_in_resp3_only() {
        let pairs = [("proto".to_string(), Reply::Integer(3))];
        let mut out = BytesMut::new();
        Encoding::Resp3.put_map(&pairs, &mut out);
        Encoding::Resp2.put_map(&pairs, &mut out);
        Encoding::Line.put_map(&pairs, &mut out);
        assert_eq!(
            out,
            "%1\r\n$5\r\nproto\r\n:3\r\n*2\r\n$5\r\nproto\r\n:3\r\n*2\r\n+proto\r\n:3\r\n"
        );
    }
}
