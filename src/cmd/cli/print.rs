//! Replies as people and programs read them.
//!
//! - **Terminal**: as redis-cli prints them: `"quoted"`, `(integer) 2`, `(nil)`, `(error) …`, numbered lists.
//!   Quoted text is a word of the line dialect again. Pages for people (INFO, STATUS, HELP) are printed as they are.
//! - **Raw**: the bytes alone, each reply ended by LF, the items of a list too.
//! - **JSON**: one value in one line. Bytes that are no UTF-8 are `{"base64":"…"}`, an error is
//!   `{"error":"CODE","message":"…"}`, nothing is `null`.

use std::io::{self, Write};

use super::session::name;
use crate::base::escape;
use crate::cmd::resp::Reply;
use bytes::Bytes;

/// How replies are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// For people.
    Terminal,
    /// For shell scripts.
    Raw,
    /// For programs.
    Json,
}

/// A change, as FEED tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// The revision.
    pub(super) revision: i64,
    /// `set`, `del`, `expire` or `mark`.
    pub(super) kind: Bytes,
    /// The key; a mark has none.
    pub(super) key: Option<Bytes>,
    /// Its value, if it still has one.
    pub(super) value: Option<Bytes>,
}

/// Whether the replies to this command are pages for people.
pub(super) fn is_page(words: &[Bytes]) -> bool {
    let under = |list: &[&[u8]]| {
        words
            .get(1)
            .is_some_and(|word| list.contains(&word.to_ascii_uppercase().as_slice()))
    };
    match name(words).as_slice() {
        b"HELP" | b"INFO" | b"STATUS" => true,
        b"RAFT" => under(&[b"STATUS", b"HELP"]),
        b"CLIENT" => under(&[b"INFO", b"LIST", b"HELP"]),
        b"COMMAND" | b"CONFIG" | b"LEASE" | b"SESSION" => under(&[b"HELP"]),
        _ => false,
    }
}

impl Style {
    /// Prints a reply.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn reply(self, reply: &Reply, is_page: bool, out: &mut impl Write) -> io::Result<()> {
        match self {
            Style::Json => {
                json(reply, out)?;
                out.write_all(b"\n")
            }
            Style::Terminal if is_page => page(reply, out),
            Style::Terminal => terminal(reply, "", out),
            Style::Raw => {
                raw(reply, out)?;
                out.write_all(b"\n")
            }
        }
    }

    /// Prints a change in one line. Marks are for programs: they say that a revision is complete.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn event(self, event: &Event, out: &mut impl Write) -> io::Result<()> {
        let kind = String::from_utf8_lossy(&event.kind);
        if self == Style::Json {
            write!(out, "{{\"revision\":{},\"event\":", event.revision)?;
            json_text(&event.kind, out)?;
            for (name, field) in [("key", &event.key), ("value", &event.value)] {
                write!(out, ",\"{name}\":")?;
                match field {
                    Some(bytes) => json_text(bytes, out)?,
                    None => out.write_all(b"null")?,
                }
            }
            return out.write_all(b"}\n");
        }
        if event.kind == "mark" {
            return Ok(());
        }
        write!(out, "{}\t{kind}", event.revision)?;
        for field in [&event.key, &event.value].into_iter().flatten() {
            out.write_all(b"\t")?;
            let mut shown = Vec::new();
            match self {
                Style::Terminal => escape::quote(field, &mut shown),
                _ => escape::escape(field, &mut shown),
            }
            out.write_all(&shown)?;
        }
        out.write_all(b"\n")
    }
}

/// As redis-cli prints it; `indent` stands before all lines but the first.
fn terminal(reply: &Reply, indent: &str, out: &mut impl Write) -> io::Result<()> {
    match reply {
        Reply::Text(text) | Reply::Error(text) => {
            if matches!(reply, Reply::Error(_)) {
                out.write_all(b"(error) ")?;
            }
            out.write_all(&sentence(text))?;
        }
        Reply::Value(value) => {
            let mut quoted = Vec::new();
            escape::quote(value, &mut quoted);
            out.write_all(&quoted)?;
        }
        Reply::Integer(number) => write!(out, "(integer) {number}")?,
        Reply::Boolean(truth) => write!(out, "({truth})")?,
        Reply::Number(text) => {
            out.write_all(b"(double) ")?;
            out.write_all(&sentence(text))?;
        }
        Reply::Nil => out.write_all(b"(nil)")?,
        Reply::List(items) | Reply::Push(items) => {
            return lines(items, 1, ")", "(empty array)", indent, out);
        }
        Reply::Set(items) => return lines(items, 1, "~", "(empty set)", indent, out),
        Reply::Map(items) => return lines(items, 2, "#", "(empty hash)", indent, out),
    }
    out.write_all(b"\n")
}

/// The items of a list, numbered; `step` is 2 where keys and values take turns.
fn lines(
    items: &[Reply],
    step: usize,
    mark: &str,
    empty: &str,
    indent: &str,
    out: &mut impl Write,
) -> io::Result<()> {
    if items.is_empty() {
        return writeln!(out, "{empty}");
    }
    let width = items.len().div_ceil(step).to_string().len();
    let deeper = format!("{indent}{:1$}", "", width + mark.len() + 1);
    for (n, pair) in items.chunks(step).enumerate() {
        let before = if n == 0 { "" } else { indent };
        write!(out, "{before}{:>width$}{mark} ", n + 1)?;
        if let [key, value] = pair {
            let mut shown = Vec::new();
            terminal(key, &deeper, &mut shown)?;
            out.write_all(shown.trim_ascii_end())?;
            out.write_all(b" => ")?;
            terminal(value, &deeper, out)?;
        } else if let Some(item) = pair.first() {
            terminal(item, &deeper, out)?;
        }
    }
    Ok(())
}

/// Lines for people, as they are.
fn page(reply: &Reply, out: &mut impl Write) -> io::Result<()> {
    match reply {
        Reply::Value(text) | Reply::Text(text) => {
            for line in text.trim_ascii_end().split(|byte| *byte == b'\n') {
                out.write_all(&sentence(line.trim_ascii_end()))?;
                out.write_all(b"\n")?;
            }
            Ok(())
        }
        Reply::List(lines) => lines.iter().try_for_each(|line| page(line, out)),
        other => terminal(other, "", out),
    }
}

/// A line of text that cannot do anything to the terminal.
fn sentence(text: &[u8]) -> Vec<u8> {
    let mut shown = Vec::new();
    escape::sentence(&String::from_utf8_lossy(text), &mut shown);
    shown
}

fn raw(reply: &Reply, out: &mut impl Write) -> io::Result<()> {
    match reply {
        Reply::Text(bytes) | Reply::Value(bytes) | Reply::Error(bytes) | Reply::Number(bytes) => {
            out.write_all(bytes)
        }
        Reply::Integer(number) => write!(out, "{number}"),
        Reply::Boolean(truth) => write!(out, "{truth}"),
        Reply::Nil => Ok(()),
        Reply::List(items) | Reply::Push(items) | Reply::Set(items) | Reply::Map(items) => {
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.write_all(b"\n")?;
                }
                raw(item, out)?;
            }
            Ok(())
        }
    }
}

fn json(reply: &Reply, out: &mut impl Write) -> io::Result<()> {
    match reply {
        Reply::Text(bytes) | Reply::Value(bytes) | Reply::Number(bytes) => json_text(bytes, out),
        Reply::Integer(number) => write!(out, "{number}"),
        Reply::Boolean(truth) => write!(out, "{truth}"),
        Reply::Nil => out.write_all(b"null"),
        Reply::Error(text) => {
            let text = String::from_utf8_lossy(text);
            let (code, message) = text.split_once(' ').unwrap_or((text.as_ref(), ""));
            out.write_all(b"{\"error\":")?;
            json_text(code.as_bytes(), out)?;
            out.write_all(b",\"message\":")?;
            json_text(message.as_bytes(), out)?;
            out.write_all(b"}")
        }
        Reply::List(items) | Reply::Push(items) | Reply::Set(items) => {
            out.write_all(b"[")?;
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.write_all(b",")?;
                }
                json(item, out)?;
            }
            out.write_all(b"]")
        }
        Reply::Map(items) => {
            out.write_all(b"{")?;
            for (n, pair) in items.chunks(2).enumerate() {
                if n > 0 {
                    out.write_all(b",")?;
                }
                if let [key, value] = pair {
                    json_key(key, out)?;
                    out.write_all(b":")?;
                    json(value, out)?;
                }
            }
            out.write_all(b"}")
        }
    }
}

/// A member's name has to be a string, whatever it is.
fn json_key(key: &Reply, out: &mut impl Write) -> io::Result<()> {
    let mut text = Vec::new();
    raw(key, &mut text)?;
    Ok(serde_json::to_writer(out, &String::from_utf8_lossy(&text))?)
}

fn json_text(bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(serde_json::to_writer(out, text)?),
        Err(_) => write!(out, "{{\"base64\":\"{}\"}}", base64(bytes)),
    }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = (bits >> (18 - 6 * place)) & 63;
            let shown = DIGITS.get(digit as usize).filter(|_| place <= group.len());
            text.push(shown.map_or('=', |digit| char::from(*digit)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Reply {
        Reply::Value(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn shown(style: Style, reply: &Reply, is_page: bool) -> String {
        let mut out = Vec::new();
        style.reply(reply, is_page, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// One of everything.
    fn everything() -> Reply {
        Reply::List(vec![
            Reply::Text("OK".into()),
            value("say \"hi\"\n\u{1b}[1m ü"),
            Reply::Value(Bytes::from_static(b"\xff")),
            Reply::Integer(-2),
            Reply::Nil,
            Reply::error("ERR no\nway"),
            Reply::List(vec![]),
            Reply::List(vec![value("a"), Reply::List(vec![value("b"), value("c")])]),
            Reply::Map(vec![
                value("proto"),
                Reply::Integer(3),
                value("modules"),
                Reply::List(vec![]),
            ]),
            Reply::Boolean(true),
        ])
    }

    #[test]
    fn on_a_terminal_as_redis_cli_does() {
        let expected = r#" 1) OK
 2) "say \"hi\"\n\x1b[1m ü"
 3) "\xff"
 4) (integer) -2
 5) (nil)
 6) (error) ERR no\nway
 7) (empty array)
 8) 1) "a"
    2) 1) "b"
       2) "c"
 9) 1# "proto" => (integer) 3
    2# "modules" => (empty array)
10) (true)
"#;
        assert_eq!(shown(Style::Terminal, &everything(), false), expected);
        assert_eq!(shown(Style::Terminal, &Reply::Nil, false), "(nil)\n");
        assert_eq!(
            shown(Style::Terminal, &Reply::Map(vec![]), false),
            "(empty hash)\n"
        );
    }

    #[test]
    fn raw_is_the_bytes_alone() {
        let list = Reply::List(vec![
            value("a b\n"),
            Reply::Nil,
            Reply::Integer(1),
            Reply::List(vec![value("x")]),
        ]);
        assert_eq!(shown(Style::Raw, &list, false), "a b\n\n\n1\nx\n");
        assert_eq!(shown(Style::Raw, &Reply::error("ERR no"), false), "ERR no\n");
        assert_eq!(shown(Style::Raw, &Reply::Nil, false), "\n");
    }

    #[test]
    fn json_is_one_value_in_one_line() {
        let expected = concat!(
            r#"["OK","say \"hi\"\n\u001b[1m ü",{"base64":"/w=="},-2,null,{"error":"ERR","message":"no\nway"},[],"#,
            r#"["a",["b","c"]],{"proto":3,"modules":[]},true]"#,
            "\n"
        );
        let text = shown(Style::Json, &everything(), true);
        assert_eq!(text, expected);
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
    }

    #[test]
    fn base64_as_the_standard_has_it() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(b"\xfb\xff"), "+/8=");
    }

    #[test]
    fn pages_are_lines_as_they_are_but_harmless() {
        let list = Reply::List(vec![value("GET key - \"it\""), value("b\u{1b}[31m")]);
        assert_eq!(
            shown(Style::Terminal, &list, true),
            "GET key - \"it\"\nb\\x1b[31m\n"
        );
        let info = value("# Server\r\na:1\r\n\r\n# Stats\r\nb:2\r\n");
        assert_eq!(
            shown(Style::Terminal, &info, true),
            "# Server\na:1\n\n# Stats\nb:2\n"
        );
        let words = |line: &str| {
            line.split(' ')
                .map(|w| Bytes::from(w.to_string()))
                .collect::<Vec<_>>()
        };
        assert!(
            is_page(&words("help set")) && is_page(&words("RAFT help")) && is_page(&words("CLIENT HELP"))
        );
        assert!(!is_page(&words("GET HELP")) && !is_page(&words("RAFT MEMBERS")));
    }

    #[test]
    fn an_event_is_one_line() {
        let event = Event {
            revision: 7,
            kind: "set".into(),
            key: Some("a\tb".into()),
            value: Some("say \"hi\"".into()),
        };
        let mark = Event {
            revision: 8,
            kind: "mark".into(),
            key: None,
            value: None,
        };
        let shown = |style: Style| {
            let mut out = Vec::new();
            style.event(&event, &mut out).unwrap();
            style.event(&mark, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(Style::Terminal), "7\tset\t\"a\\tb\"\t\"say \\\"hi\\\"\"\n");
        assert_eq!(shown(Style::Raw), "7\tset\ta\\tb\tsay \"hi\"\n");
        assert_eq!(
            shown(Style::Json),
            "{\"revision\":7,\"event\":\"set\",\"key\":\"a\\tb\",\"value\":\"say \\\"hi\\\"\"}\n\
             {\"revision\":8,\"event\":\"mark\",\"key\":null,\"value\":null}\n"
        );
    }
}
