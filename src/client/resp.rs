//! The RESP dialect: for programs. RESP2 until `HELLO 3`, then RESP3; binary safe.
//!
//! A request is an array of bulk strings. What is no such thing is a protocol error, worded as Redis words
//! it, after which the connection closes, because nobody knows where the next request starts.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::kv::Reply;

use super::codec::Limits;

/// The longest head line (`*n` or `$n`) without its end.
const HEAD_MAX_BYTES: usize = 24;

/// A request of which a part has arrived: where the next unread byte is, and the words before it. Each byte
/// is looked at once, however small the pieces are in which they come.
#[derive(Debug, Default)]
pub(crate) struct Partial {
    at: usize,
    words_left: Option<usize>,
    word_len: Option<usize>,
    words: Vec<Range<usize>>,
}

impl Partial {
    /// Reads on: the whole request, cut off `buffer`; or `None` if more bytes are needed. An empty array is
    /// no words.
    ///
    /// # Errors
    /// What is wrong with the request, as Redis says it.
    pub(crate) fn decode(
        &mut self,
        buffer: &mut BytesMut,
        limits: &Limits,
    ) -> Result<Option<Vec<Bytes>>, String> {
        loop {
            if self.words_left.is_none() {
                let Some(count) = self.head(buffer, b'*', "multibulk")? else {
                    return Ok(None);
                };
                self.words_left = Some(self.word_count(count, limits)?);
            }
            if self.words_left == Some(0) {
                return Ok(Some(self.take_words(buffer)));
            }
            if self.word_len.is_none() {
                let Some(len) = self.head(buffer, b'$', "bulk")? else {
                    return Ok(None);
                };
                self.word_len = Some(self.checked_word_len(len, limits)?);
            }
            if !self.word(buffer)? {
                return Ok(None);
            }
        }
    }

    /// Reads a head line of the given kind.
    fn head(&mut self, buffer: &[u8], kind: u8, name: &str) -> Result<Option<i64>, String> {
        let rest = buffer.get(self.at..).unwrap_or_default();
        let Some(first) = rest.first() else {
            return Ok(None);
        };
        if *first != kind {
            return Err(format!(
                "expected '{}', got '{}'",
                char::from(kind),
                first.escape_ascii()
            ));
        }
        let window = rest.get(..rest.len().min(HEAD_MAX_BYTES)).unwrap_or_default();
        let Some(end) = window.iter().position(|b| *b == b'\n') else {
            return match window.len() {
                HEAD_MAX_BYTES => Err(format!("invalid {name} length")),
                _ => Ok(None),
            };
        };
        let number = window
            .get(1..end)
            .and_then(|text| text.strip_suffix(b"\r"))
            .and_then(integer)
            .ok_or_else(|| format!("invalid {name} length"))?;
        self.at += end + 1;
        Ok(Some(number))
    }

    fn word_count(&mut self, count: i64, limits: &Limits) -> Result<usize, String> {
        let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
        if count > limits.words_max {
            return Err(format!(
                "invalid multibulk length: {count} words, at most {} are allowed",
                limits.words_max
            ));
        }
        // The sender's number is believed only as far as bytes arrive.
        self.words.reserve(count.min(16));
        Ok(count)
    }

    fn checked_word_len(&self, len: i64, limits: &Limits) -> Result<usize, String> {
        let len = usize::try_from(len).map_err(|_| "invalid bulk length".to_string())?;
        if self.at.saturating_add(len) > limits.request_max_bytes {
            return Err(format!(
                "invalid bulk length: the request is larger than {} bytes (limits.max_request)",
                limits.request_max_bytes
            ));
        }
        Ok(len)
    }

    /// Notes the word of `word_len` bytes at `at`, if it has arrived with its CR LF.
    fn word(&mut self, buffer: &[u8]) -> Result<bool, String> {
        let len = self.word_len.unwrap_or(0);
        let end = self.at + len;
        let Some(crlf) = buffer.get(end..end + 2) else {
            return Ok(false);
        };
        if crlf != b"\r\n" {
            return Err(format!("expected CRLF after a bulk string of {len} bytes"));
        }
        self.words.push(self.at..end);
        self.at = end + 2;
        self.word_len = None;
        self.words_left = self.words_left.map(|left| left.saturating_sub(1));
        Ok(true)
    }

    fn take_words(&mut self, buffer: &mut BytesMut) -> Vec<Bytes> {
        let done = std::mem::take(self);
        if done.words.is_empty() {
            buffer.advance(done.at);
            return Vec::new();
        }
        let request = buffer.split_to(done.at).freeze();
        done.words.into_iter().map(|range| request.slice(range)).collect()
    }
}

/// A whole number as Redis reads it: no sign but `-`, no leading zeros, no blanks.
pub(crate) fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let strict = match digits {
        [b'0'] => text.len() == 1,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !strict {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Appends `kind` and the number, without a line end.
pub(crate) fn put_number(kind: u8, number: i64, out: &mut BytesMut) {
    let mut digits = [0u8; 20];
    let mut left = number.unsigned_abs();
    let mut start = digits.len();
    for place in digits.iter_mut().rev() {
        *place = b'0' + (left % 10) as u8;
        left /= 10;
        start -= 1;
        if left == 0 {
            break;
        }
    }
    out.put_u8(kind);
    if number < 0 {
        out.put_u8(b'-');
    }
    out.put_slice(digits.get(start..).unwrap_or_default());
}

/// Appends the reply; `resp3` chooses the version.
pub(crate) fn encode(reply: &Reply, resp3: bool, out: &mut BytesMut) {
    match reply {
        Reply::Ok => out.put_slice(b"+OK\r\n"),
        Reply::Text(text) => encode_text(text, out),
        Reply::Value(value) => encode_bulk(value, out),
        Reply::Integer(number) => {
            put_number(b':', *number, out);
            out.put_slice(b"\r\n");
        }
        Reply::Nil => out.put_slice(if resp3 { b"_\r\n" } else { b"$-1\r\n" }),
        Reply::Error(error) => {
            out.put_u8(b'-');
            out.put_slice(error.code.as_str().as_bytes());
            out.put_u8(b' ');
            crate::base::escape::sentence(&error.text, out);
            out.put_slice(b"\r\n");
        }
        Reply::List(replies) => {
            head(b'*', replies.len() as u64, out);
            replies.iter().for_each(|reply| encode(reply, resp3, out));
        }
    }
}

/// Appends the head of a list (`*`), map (`%`), set (`~`), bulk (`$`) or verbatim string (`=`) of `len`.
pub(crate) fn head(kind: u8, len: u64, out: &mut BytesMut) {
    put_number(kind, i64::try_from(len).unwrap_or(i64::MAX), out);
    out.put_slice(b"\r\n");
}

/// Appends a bulk string.
pub(crate) fn encode_bulk(bytes: &[u8], out: &mut BytesMut) {
    out.reserve(bytes.len() + 24);
    head(b'$', bytes.len() as u64, out);
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

/// Appends a text as RESP3's verbatim string, which programs show as it is.
pub(crate) fn encode_verbatim(text: &str, out: &mut BytesMut) {
    head(b'=', text.len() as u64 + 4, out);
    out.put_slice(b"txt:");
    out.put_slice(text.as_bytes());
    out.put_slice(b"\r\n");
}

/// A simple string cannot hold a line end; a text that has one goes as a bulk string.
fn encode_text(text: &str, out: &mut BytesMut) {
    if text.bytes().any(|b| b == b'\r' || b == b'\n') {
        return encode_bulk(text.as_bytes(), out);
    }
    out.put_u8(b'+');
    out.put_slice(text.as_bytes());
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Code;

    const LIMITS: Limits = Limits {
        request_max_bytes: 100,
        words_max: 10,
    };

    fn decode(bytes: &[u8]) -> Result<Option<Vec<Bytes>>, String> {
        Partial::default().decode(&mut BytesMut::from(bytes), &LIMITS)
    }

    #[test]
    fn requests_are_arrays_of_bulk_strings() {
        let words = decode(b"*2\r\n$3\r\nGET\r\n$2\r\na\n\r\nrest").unwrap().unwrap();
        assert_eq!(words, ["GET", "a\n"]);
        assert_eq!(decode(b"*0\r\n").unwrap(), Some(vec![]));
        assert_eq!(decode(b"*-1\r\n").unwrap(), Some(vec![]));
        assert_eq!(decode(b"*1\r\n$0\r\n\r\n").unwrap(), Some(vec![Bytes::new()]));
        assert_eq!(decode(b"*1\r\n$4\r\nPIN").unwrap(), None);
    }

    #[test]
    fn protocol_errors_say_what_was_expected() {
        let error = |bytes: &[u8]| decode(bytes).unwrap_err();
        assert_eq!(error(b"*1\r\n:1\r\n"), "expected '$', got ':'");
        assert_eq!(error(b"*x\r\n"), "invalid multibulk length");
        assert_eq!(error(b"*1\n"), "invalid multibulk length");
        assert_eq!(error(b"*00000000000000000000000000"), "invalid multibulk length");
        assert!(error(b"*11\r\n").starts_with("invalid multibulk length"));
        assert_eq!(error(b"*1\r\n$-1\r\n"), "invalid bulk length");
        assert!(error(b"*1\r\n$1000000000000\r\n").contains("100 bytes"));
        assert!(error(b"*1\r\n$1\r\nabc").starts_with("expected CRLF"));
    }

    #[test]
    fn integers_are_strict() {
        assert_eq!(integer(b"0"), Some(0));
        assert_eq!(integer(b"-9223372036854775808"), Some(i64::MIN));
        for wrong in [
            "",
            "-",
            "+1",
            "01",
            "-0",
            " 1",
            "1 ",
            "1.0",
            "9223372036854775808",
            "x",
        ] {
            assert_eq!(integer(wrong.as_bytes()), None, "{wrong}");
        }
        for number in [0, 7, -10, i64::MAX, i64::MIN] {
            let mut out = BytesMut::new();
            put_number(b':', number, &mut out);
            assert_eq!(out, format!(":{number}"));
        }
    }

    #[test]
    fn replies_in_both_versions() {
        let list = Reply::List(vec![
            Reply::Ok,
            Reply::Text("a\nb".into()),
            Reply::Value(Bytes::from_static(b"\xff\r\n")),
            Reply::Nil,
            Reply::error(Code::Busy, "later"),
        ]);
        let mut out = BytesMut::new();
        encode(&list, false, &mut out);
        assert_eq!(
            &out[..],
            b"*5\r\n+OK\r\n$3\r\na\nb\r\n$3\r\n\xff\r\n\r\n$-1\r\n-BUSY later\r\n"
        );
        out.clear();
        encode(&Reply::Nil, true, &mut out);
        assert_eq!(out, "_\r\n");
    }
}
