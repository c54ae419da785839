//! The line dialect: for people, netcat, telnet and shell scripts.
//!
//! A request is one line. Words are separated by spaces and tabs. `"…"` takes `\n \r \t \" \\ \xHH`, `'…'`
//! takes `\'` only; outside quotes a backslash is itself. As in Redis a quote may open in the middle of a
//! word, and a closing quote must be followed by a blank or the end of the line.
//!
//! A line that breaks these rules is answered with an error that names the column (counted in bytes, from 1)
//! and the connection goes on: a line is a complete unit, so the next one starts at a known place. (Redis
//! closes the connection here.)
//!
//! A reply is one line too, ended by CR LF, which makes it a valid RESP3 frame.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::base::escape;
use crate::kv::Reply;

/// What is wrong with a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LineError {
    /// A quote is opened at this column and never closed.
    Unbalanced(usize),
    /// Text follows a closing quote at this column.
    TextAfterQuote(usize),
    /// An escape that does not exist starts at this column.
    BadEscape(usize),
    /// More words than are allowed.
    TooManyWords(usize),
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LineError::Unbalanced(column) => {
                write!(
                    f,
                    "unbalanced quotes in request: the quote at column {column} is never closed"
                )
            }
            LineError::TextAfterQuote(column) => write!(
                f,
                "unbalanced quotes in request: text right after a closing quote at column {column}, \
                 where a blank is needed"
            ),
            LineError::BadEscape(column) => write!(
                f,
                "unknown escape in request at column {column}: inside \"…\" there are \\n \\r \\t \\\" \\\\ \\xHH"
            ),
            LineError::TooManyWords(max) => write!(f, "a request has at most {max} words"),
        }
    }
}

/// The words of a line without its end. Words without escapes are slices of the line.
pub(crate) fn words(line: &Bytes, words_max: usize) -> Result<Vec<Bytes>, LineError> {
    let mut words = Vec::new();
    let mut at = 0;
    loop {
        at += blanks(line.get(at..).unwrap_or_default());
        if at >= line.len() {
            return Ok(words);
        }
        if words.len() == words_max {
            return Err(LineError::TooManyWords(words_max));
        }
        let (word, end) = word(line, at)?;
        words.push(word);
        at = end;
    }
}

/// Whether the line is the start of an HTTP request, or what a browser can be made to send to any port.
pub(crate) fn is_http(line: &[u8]) -> bool {
    const METHODS: [&[u8]; 9] = [
        b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT",
    ];
    let mut words = line.split(|b| is_blank(*b)).filter(|w| !w.is_empty());
    let Some(first) = words.next() else { return false };
    if first.eq_ignore_ascii_case(b"post") || first.eq_ignore_ascii_case(b"host:") {
        return true;
    }
    // `GET key` is a command; three words with a protocol at the end are none.
    METHODS.contains(&first)
        && words.next().is_some()
        && words.next().is_some_and(|w| w.starts_with(b"HTTP/"))
        && words.next().is_none()
}

/// Appends the reply, each line ended by CR LF.
pub(crate) fn encode(reply: &Reply, out: &mut BytesMut) {
    match reply {
        Reply::Ok => out.put_slice(b"+OK"),
        Reply::Text(text) => encode_text(text.as_bytes(), out),
        Reply::Value(value) => encode_text(value, out),
        Reply::Integer(number) => super::resp::put_number(b':', *number, out),
        Reply::Nil => out.put_slice(b"_"),
        Reply::Error(error) => {
            out.put_u8(b'-');
            out.put_slice(error.code.as_str().as_bytes());
            out.put_u8(b' ');
            escape::sentence(&error.text, out);
        }
        Reply::List(replies) => {
            super::resp::head(b'*', replies.len() as u64, out);
            replies.iter().for_each(|reply| encode(reply, out));
            return;
        }
    }
    out.put_slice(b"\r\n");
}

/// Appends bytes as a line of text.
pub(crate) fn encode_value(text: &[u8], out: &mut BytesMut) {
    encode_text(text, out);
    out.put_slice(b"\r\n");
}

fn encode_text(text: &[u8], out: &mut BytesMut) {
    out.reserve(text.len() + 3);
    out.put_u8(b'+');
    escape::escape(text, out);
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn blanks(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|b| is_blank(**b)).count()
}

/// The word that starts at `start`, and where it ends.
fn word(line: &Bytes, start: usize) -> Result<(Bytes, usize), LineError> {
    let rest = line.get(start..).unwrap_or_default();
    let plain = rest
        .iter()
        .take_while(|b| !is_blank(**b) && **b != b'"' && **b != b'\'')
        .count();
    match rest.get(plain) {
        Some(b'"' | b'\'') => quoted_word(line, start, plain),
        _ => Ok((line.slice(start..start + plain), start + plain)),
    }
}

/// A word that has `plain` bytes before its first quote.
fn quoted_word(line: &Bytes, start: usize, plain: usize) -> Result<(Bytes, usize), LineError> {
    let open = start + plain;
    let quote = line.get(open).copied().unwrap_or(b'"');
    let inside = line.get(open + 1..).unwrap_or_default();
    // The common case needs no copy: the whole word in quotes, no backslash in it.
    let run = inside.iter().take_while(|b| **b != quote && **b != b'\\').count();
    if plain == 0 && inside.get(run) == Some(&quote) {
        let end = open + run + 2;
        after_quote(line, end)?;
        return Ok((line.slice(open + 1..open + 1 + run), end));
    }
    let mut word = line.get(start..open).unwrap_or_default().to_vec();
    let mut at = open + 1;
    loop {
        match (line.get(at), line.get(at + 1)) {
            (None, _) => return Err(LineError::Unbalanced(open + 1)),
            (Some(byte), _) if *byte == quote => break,
            (Some(b'\\'), Some(b'\'')) if quote == b'\'' => {
                word.push(b'\'');
                at += 2;
            }
            (Some(b'\\'), Some(_)) if quote == b'"' => {
                let (byte, len) =
                    escaped(line.get(at..).unwrap_or_default()).ok_or(LineError::BadEscape(at + 1))?;
                word.push(byte);
                at += len;
            }
            (Some(byte), _) => {
                word.push(*byte);
                at += 1;
            }
        }
    }
    after_quote(line, at + 1)?;
    Ok((Bytes::from(word), at + 1))
}

fn after_quote(line: &Bytes, end: usize) -> Result<(), LineError> {
    match line.get(end) {
        Some(byte) if !is_blank(*byte) => Err(LineError::TextAfterQuote(end + 1)),
        _ => Ok(()),
    }
}

/// The byte that the escape at the start of `text` stands for, and the escape's length.
fn escaped(text: &[u8]) -> Option<(u8, usize)> {
    match text.get(1)? {
        b'n' => Some((b'\n', 2)),
        b'r' => Some((b'\r', 2)),
        b't' => Some((b'\t', 2)),
        b'"' => Some((b'"', 2)),
        b'\\' => Some((b'\\', 2)),
        b'x' => {
            let high = escape::hex_digit(*text.get(2)?)?;
            let low = escape::hex_digit(*text.get(3)?)?;
            Some((high << 4 | low, 4))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kv::Code;

    fn split(line: &str) -> Result<Vec<String>, LineError> {
        let words = words(&Bytes::copy_from_slice(line.as_bytes()), 100)?;
        Ok(words
            .iter()
            .map(|w| String::from_utf8_lossy(w).into_owned())
            .collect())
    }

    #[test]
    fn words_are_split_at_blanks_and_quotes_hold_them_together() {
        assert_eq!(split("  set\ta  b ").unwrap(), ["set", "a", "b"]);
        assert_eq!(split(r#"set "a b" 'c d'"#).unwrap(), ["set", "a b", "c d"]);
        assert_eq!(split(r#""" ''"#).unwrap(), ["", ""]);
        assert_eq!(split(r#""\n\r\t\"\\\x41""#).unwrap(), ["\n\r\t\"\\A"]);
        assert_eq!(split(r"'it\'s \n \x41 \\ '").unwrap(), [r"it's \n \x41 \\ "]);
        assert_eq!(split(r"a\nb").unwrap(), [r"a\nb"]);
        assert_eq!(split(r#"foo"bar baz""#).unwrap(), ["foobar baz"]);
        assert_eq!(split("").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn errors_name_the_column() {
        assert_eq!(split(r#"set a "b c"#), Err(LineError::Unbalanced(7)));
        assert_eq!(split("set a don't"), Err(LineError::Unbalanced(10)));
        assert_eq!(split(r#"set a "b"c"#), Err(LineError::TextAfterQuote(10)));
        assert_eq!(split(r#"set a "b\q""#), Err(LineError::BadEscape(9)));
        assert_eq!(split(r#"set a "b\x4g""#), Err(LineError::BadEscape(9)));
        assert_eq!(split(r#"set a "b\"#), Err(LineError::Unbalanced(7)));
        assert_eq!(
            words(&Bytes::from_static(b"a b c"), 2),
            Err(LineError::TooManyWords(2))
        );
    }

    #[test]
    fn http_is_told_from_commands() {
        assert!(is_http(b"GET / HTTP/1.1"));
        assert!(is_http(b"OPTIONS * HTTP/1.0"));
        assert!(is_http(b"POST"));
        assert!(is_http(b"Host: localhost"));
        assert!(!is_http(b"GET key"));
        assert!(!is_http(b"GET HTTP/1.1"));
        assert!(!is_http(b"SET page HTTP/1.1"));
        assert!(!is_http(b""));
    }

    #[test]
    fn each_reply_is_one_line() {
        let list = Reply::List(vec![
            Reply::Ok,
            Reply::Text("a\r\nb".into()),
            Reply::Value(Bytes::from_static(b"\xff\\")),
            Reply::Integer(-42),
            Reply::Nil,
            Reply::error(Code::Err, "no\nway"),
            Reply::List(vec![]),
        ]);
        let mut out = BytesMut::new();
        encode(&list, &mut out);
        assert_eq!(
            &out[..],
            b"*7\r\n+OK\r\n+a\\r\\nb\r\n+\\xff\\\\\r\n:-42\r\n_\r\n-ERR no\\nway\r\n*0\r\n"
        );
    }

    proptest! {
        #[test]
        fn quoted_bytes_come_back(parts: Vec<Vec<u8>>) {
            let mut line = Vec::new();
            for part in &parts {
                escape::quote(part, &mut line);
                line.push(b' ');
            }
            prop_assert!(!line.contains(&b'\n'));
            prop_assert_eq!(words(&Bytes::from(line), 1000).unwrap(), parts);
        }

        #[test]
        fn any_line_is_words_or_an_error(line: Vec<u8>) {
            let _ = words(&Bytes::from(line.clone()), 1000);
            let _ = is_http(&line);
        }

        #[test]
        fn any_quoting_is_words_or_an_error(line in "[ab\"'\\\\xn4 ]{0,40}") {
            let _ = words(&Bytes::from(line), 1000);
        }
    }
}
