//! Text escapes of the line dialect: any bytes as one printable line, and back.
//!
//! Escaped are control characters, the backslash and bytes that are no UTF-8, as `\n \r \t \\ \xHH` (lower-case
//! digits). Everything else is itself, so that text in any language stays readable. What [`escape`] writes, a
//! pair of double quotes around it makes a word of the dialect again, provided that a quote in it gets its
//! backslash too: [`quote`] does both.

use bytes::BufMut;

/// Appends `bytes`, escaped, to `out`.
pub fn escape(bytes: &[u8], out: &mut impl BufMut) {
    escape_with(bytes, out, false);
}

/// Appends `bytes` as one double-quoted word to `out`.
pub fn quote(bytes: &[u8], out: &mut impl BufMut) {
    out.put_u8(b'"');
    escape_with(bytes, out, true);
    out.put_u8(b'"');
}

/// `bytes`, escaped and cut after about `max` of them, for messages.
pub fn excerpt(bytes: &[u8], max: usize) -> String {
    let (shown, more) = match bytes.get(..max) {
        Some(start) if start.len() < bytes.len() => (start, "…"),
        _ => (bytes, ""),
    };
    let mut out = Vec::with_capacity(shown.len() + more.len());
    escape(shown, &mut out);
    out.extend_from_slice(more.as_bytes());
    // The escapes leave valid UTF-8 only.
    String::from_utf8_lossy(&out).into_owned()
}

/// Appends a sentence as one line: only its control characters are escaped, for it is read and not decoded.
pub fn sentence(text: &str, out: &mut impl BufMut) {
    if text.bytes().all(|b| is_plain(b, false) || b == b'\\') {
        out.put_slice(text.as_bytes());
        return;
    }
    for part in text.split_inclusive(char::is_control) {
        let printable = part.trim_end_matches(char::is_control);
        out.put_slice(printable.as_bytes());
        escape(part.get(printable.len()..).unwrap_or_default().as_bytes(), out);
    }
}

/// The value of a hexadecimal digit.
pub fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

fn escape_with(bytes: &[u8], out: &mut impl BufMut, quotes: bool) {
    if bytes.iter().all(|&b| is_plain(b, quotes)) {
        out.put_slice(bytes);
        return;
    }
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            let mut utf8 = [0; 4];
            let encoded = character.encode_utf8(&mut utf8).as_bytes();
            match character {
                '\n' => out.put_slice(b"\\n"),
                '\r' => out.put_slice(b"\\r"),
                '\t' => out.put_slice(b"\\t"),
                '\\' => out.put_slice(b"\\\\"),
                '"' if quotes => out.put_slice(b"\\\""),
                c if c.is_control() => escape_bytes(encoded, out),
                _ => out.put_slice(encoded),
            }
        }
        escape_bytes(chunk.invalid(), out);
    }
}

fn is_plain(byte: u8, quotes: bool) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'\\' && !(quotes && byte == b'"')
}

fn escape_bytes(bytes: &[u8], out: &mut impl BufMut) {
    for &byte in bytes {
        out.put_slice(&[b'\\', b'x', digit(byte >> 4), digit(byte & 15)]);
    }
}

fn digit(nibble: u8) -> u8 {
    match nibble {
        0..=9 => b'0' + nibble,
        _ => b'a' + nibble - 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        escape(bytes, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_what_would_harm_a_line_is_escaped() {
        assert_eq!(escaped(b"hello \"world\" it's"), "hello \"world\" it's");
        assert_eq!(escaped("grüße 漢字 🦀".as_bytes()), "grüße 漢字 🦀");
        assert_eq!(escaped(b"a\nb\rc\td\\e"), "a\\nb\\rc\\td\\\\e");
        assert_eq!(escaped(b"\0\x1b\x7f"), "\\x00\\x1b\\x7f");
        assert_eq!(escaped(b"\xff\xc3("), "\\xff\\xc3(");
        assert_eq!(escaped("\u{85}".as_bytes()), "\\xc2\\x85");
    }

    #[test]
    fn quoted_words_escape_the_quote() {
        let mut out = Vec::new();
        quote(b"say \"hi\"\n", &mut out);
        assert_eq!(out, b"\"say \\\"hi\\\"\\n\"");
    }

    #[test]
    fn sentences_stay_on_one_line() {
        let mut out = Vec::new();
        sentence("a\r\nb \\ ü\u{85}", &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "a\\r\\nb \\ ü\\xc2\\x85");
    }

    #[test]
    fn excerpts_are_cut_and_say_so() {
        assert_eq!(excerpt(b"abc", 3), "abc");
        assert_eq!(excerpt(b"abcd", 3), "abc…");
    }
}
