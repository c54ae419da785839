//! A blocking client of the line dialect, as small as netcat and as strict as a program.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// One reply, its escapes undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+text`
    Text(String),
    /// `:42`
    Integer(i64),
    /// `-CODE sentence`
    Error {
        /// The first word: what programs look at.
        code: String,
        /// The rest: what people read.
        message: String,
    },
    /// `_`
    Nothing,
    /// `*n` and n replies.
    List(Vec<Reply>),
    /// `>n` and n replies.
    Event(Vec<Reply>),
}

/// A connection. After an I/O error (a timeout included) it is of no more use: a reply may be half read.
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects; `timeout` holds for the connect and for each reply.
    pub fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Client {
            reader: BufReader::new(stream),
        })
    }

    /// Sends one request and waits for its reply.
    pub fn call(&mut self, line: &str) -> io::Result<Reply> {
        self.send(line)?;
        self.receive()
    }

    /// Sends one request, or several separated by LF, and does not wait.
    pub fn send(&mut self, line: &str) -> io::Result<()> {
        self.reader.get_mut().write_all(format!("{line}\n").as_bytes())
    }

    /// The next reply.
    pub fn receive(&mut self) -> io::Result<Reply> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        let text = String::from_utf8(line).map_err(|_| bad("a reply line that is not UTF-8"))?;
        self.reply(&text)
    }

    fn reply(&mut self, line: &str) -> io::Result<Reply> {
        let kind = line.chars().next().ok_or_else(|| bad("an empty reply line"))?;
        let rest = line.get(kind.len_utf8()..).unwrap_or_default();
        match kind {
            '+' => Ok(Reply::Text(unescape(rest))),
            '_' if rest.is_empty() => Ok(Reply::Nothing),
            ':' => rest.parse().map(Reply::Integer).map_err(|_| bad(line)),
            '-' => {
                let (code, message) = rest.split_once(' ').unwrap_or((rest, ""));
                Ok(Reply::Error {
                    code: code.into(),
                    message: message.into(),
                })
            }
            '*' | '>' => {
                let count: usize = rest.parse().map_err(|_| bad(line))?;
                let replies = (0..count).map(|_| self.receive()).collect::<io::Result<_>>()?;
                Ok(if kind == '*' {
                    Reply::List(replies)
                } else {
                    Reply::Event(replies)
                })
            }
            _ => Err(bad(line)),
        }
    }
}

impl Reply {
    /// `+OK`.
    pub fn ok() -> Reply {
        Reply::text("OK")
    }

    /// `+text`.
    pub fn text(text: impl Into<String>) -> Reply {
        Reply::Text(text.into())
    }

    /// The code of an error reply.
    pub fn code(&self) -> Option<&str> {
        match self {
            Reply::Error { code, .. } => Some(code),
            _ => None,
        }
    }

    /// Whether this is an error that says that nothing was done (interface, section 3, "Errors").
    pub fn refused(&self) -> bool {
        self.code().is_some_and(|code| code != "UNKNOWNRESULT")
    }
}

fn bad(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a reply: {line}"))
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let escaped = if byte == b'\\' { rest.next() } else { None };
        bytes.push(match escaped {
            None => byte,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'x') => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&digits, 16).unwrap_or(b'?')
            }
            Some(other) => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    const SOON: Duration = Duration::from_secs(5);

    /// A server that says `replies` to whoever connects, whatever they say.
    fn parrot(replies: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || listener.accept().unwrap().0.write_all(replies).unwrap());
        address
    }

    #[test]
    fn replies_are_understood() {
        let address = parrot(b"+a\\n\\\\\\x41\r\n:-7\n-BUSY later on\n_\n*2\n+x\n*1\n_\n");
        let mut client = Client::connect(address, SOON).unwrap();
        assert_eq!(client.receive().unwrap(), Reply::text("a\n\\A"));
        assert_eq!(client.receive().unwrap(), Reply::Integer(-7));
        assert_eq!(client.receive().unwrap().code(), Some("BUSY"));
        assert_eq!(client.receive().unwrap(), Reply::Nothing);
        let inner = Reply::List(vec![Reply::Nothing]);
        assert_eq!(
            client.receive().unwrap(),
            Reply::List(vec![Reply::text("x"), inner])
        );
        assert_eq!(client.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for rubbish in [&b"hello\n"[..], b"\n", b":x\n", b"*x\n", b"+half"] {
            let mut client = Client::connect(parrot(rubbish), SOON).unwrap();
            assert!(client.receive().is_err(), "{rubbish:?}");
        }
    }
}
