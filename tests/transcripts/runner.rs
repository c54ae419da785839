//! Plays a conversation with a server and compares what it says.
//!
//! | a line begins with | it is |
//! | --- | --- |
//! | `# ` | a comment |
//! | `> ` | a line to send; the line feed is added |
//! | `>> ` | bytes to send, with the escapes `\r \n \t \\ \xHH` |
//! | `< ` | a line that must come, ended by CR LF; `…` stands for anything |
//! | `<< ` | bytes that must come, with the same escapes; `…` stands for anything |
//! | `:= ` | a name: a number must come, and from here on `{name}` stands for it |
//! | `=` | the server must close the connection |
//! | `--` | a new connection |

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// What nothing that comes may take longer than.
const SOON: Duration = Duration::from_secs(20);

/// Plays the conversation, which stands in the file `name`; each connection comes from `connect`.
pub fn play(name: &str, conversation: &str, connect: impl Fn() -> TcpStream) {
    let connect = || {
        let stream = connect();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    };
    let mut stream = connect();
    let mut numbers: Vec<(String, String)> = Vec::new();
    for (number, line) in conversation.lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        let known = |text: String, (name, value): &(String, String)| text.replace(name, value);
        let rest = &numbers.iter().fold(rest.to_owned(), known);
        match kind {
            ":=" => numbers.push((format!("{{{rest}}}"), expect_number(&mut stream, &place))),
            "" | "#" => {}
            "--" => stream = connect(),
            ">" => stream.write_all(format!("{rest}\n").as_bytes()).expect(&place),
            ">>" => stream.write_all(&unescape(rest.as_bytes())).expect(&place),
            "<" => expect(&mut stream, [rest.as_bytes(), b"\r\n"].concat(), &place),
            "<<" => expect(&mut stream, unescape(rest.as_bytes()), &place),
            "=" => expect_end(&mut stream, &place),
            _ => panic!("{place}: this line begins with none of the marks"),
        }
    }
}

fn expect(stream: &mut TcpStream, expected: Vec<u8>, place: &str) {
    const ANYTHING: &[u8] = "…".as_bytes();
    let gap = expected
        .windows(ANYTHING.len())
        .position(|bytes| bytes == ANYTHING);
    let (start, end) = match gap {
        Some(at) => (&expected[..at], &expected[at + ANYTHING.len()..]),
        None => (&expected[..], &b""[..]),
    };
    let mut came = Vec::new();
    let is_all = |came: &[u8]| {
        let behind = came.get(start.len()..);
        behind.is_some_and(|behind| gap.is_none() || behind.ends_with(end))
    };
    while !is_all(&came) {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => came.push(byte[0]),
            end => panic!(
                "{place}: expected\n  {}\nbut after\n  {}\ncame {end:?}",
                show(&expected),
                show(&came)
            ),
        }
        let compared = came.len().min(start.len());
        if came[..compared] != start[..compared] {
            // The rest of the line tells more than its first wrong byte.
            stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let mut more = [0; 200];
            let len = stream.read(&mut more).unwrap_or(0);
            came.extend_from_slice(&more[..len]);
            panic!(
                "{place}: expected\n  {}\nbut came\n  {}",
                show(&expected),
                show(&came)
            );
        }
    }
}

fn expect_number(stream: &mut TcpStream, place: &str) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).ok(), Some(1), "{place}: expected a number");
        line.push(byte[0]);
    }
    let text = show(&line);
    let digits = text
        .strip_prefix(':')
        .and_then(|text| text.strip_suffix("\\r\\n"));
    let number = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    number
        .unwrap_or_else(|| panic!("{place}: expected a number, but came\n  {text}"))
        .to_owned()
}

fn expect_end(stream: &mut TcpStream, place: &str) {
    let mut more = [0; 200];
    match stream.read(&mut more) {
        Ok(0) => {}
        Ok(len) => panic!("{place}: expected the end, but came\n  {}", show(&more[..len])),
        Err(error) => panic!("{place}: expected the end, but came {error}"),
    }
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.iter().copied();
    while let Some(byte) = rest.next() {
        let escape = if byte == b'\\' { rest.next() } else { None };
        bytes.push(match escape {
            None => byte,
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'x') => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            Some(other) => other,
        });
    }
    bytes
}
