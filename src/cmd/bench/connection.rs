//! One connection of a load.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use bytes::{Bytes, BytesMut};

use super::answers::{self, Answer};
use super::record::Outcome;
use super::requests::{Requests, encode};
use crate::cmd::resp::{Decoder, Reply};

/// How long connecting, or the answer to one question, may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Request {
    /// When it was sent, or in an open loop when it was due.
    since: Instant,
    is_read: bool,
}

/// A connection and what is under way on it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) server: SocketAddr,
    pub(super) stream: TcpStream,
    under_way: VecDeque<Request>,
    output: BytesMut,
    /// How much of `output` is written.
    written: usize,
    /// The socket did not take all of it.
    pub(super) waits_for_room: bool,
    input: Vec<u8>,
    /// Replies that are no answers to requests of the load: to the greeting.
    unasked: usize,
}

impl Connection {
    /// Connects. `greeting` is said first, and its answer is not measured.
    pub(super) fn open(server: SocketAddr, greeting: Option<BytesMut>) -> anyhow::Result<Connection> {
        let stream = connect(server)?;
        stream.set_nonblocking(true)?;
        Ok(Connection {
            server,
            stream,
            under_way: VecDeque::new(),
            unasked: usize::from(greeting.is_some()),
            output: greeting.unwrap_or_default(),
            written: 0,
            waits_for_room: false,
            input: Vec::new(),
        })
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// One more request, due at that time.
    pub(super) fn ask(&mut self, since: Instant, requests: &mut Requests) {
        let is_read = requests.put(&mut self.output);
        self.under_way.push_back(Request { since, is_read });
    }

    /// Writes as much as the socket takes.
    pub(super) fn write(&mut self) -> io::Result<()> {
        while let Some(rest) = self.output.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.waits_for_room = true;
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        (self.written, self.waits_for_room) = (0, false);
        Ok(())
    }

    /// Reads what has come, once, and records the answers in it.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub(super) fn read(&mut self, outcome: &mut Outcome) -> anyhow::Result<()> {
        let before = self.input.len();
        self.input.resize(before + READ_BYTES, 0);
        let read = self.stream.read(self.input.get_mut(before..).unwrap_or_default());
        self.input.truncate(before + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => bail!("the server has closed the connection"),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        let (now, mut taken) = (Instant::now(), 0);
        while let Some((answer, bytes)) = answers::next(self.input.get(taken..).unwrap_or_default())? {
            taken += bytes;
            if self.unasked > 0 {
                self.unasked -= 1;
                if let Answer::Error(text) = answer {
                    bail!("the server does not take the read mode: {text}");
                }
                continue;
            }
            let Some(request) = self.under_way.pop_front() else {
                bail!("the server sent a reply that nobody asked for");
            };
            outcome.add(request.is_read, now - request.since, answer);
        }
        self.input.drain(..taken);
        Ok(())
    }
}

fn connect(server: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, PATIENCE)
        .with_context(|| format!("cannot connect to {server}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One question on a connection of its own, answered by a string.
pub(super) fn ask(server: SocketAddr, words: &[&[u8]]) -> anyhow::Result<Bytes> {
    let mut stream = connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&encode(words))?;
    let (mut decoder, mut input, mut piece) = (Decoder::default(), BytesMut::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut piece).context("no answer")?;
        if count == 0 {
            bail!("the server has closed the connection");
        }
        input.extend_from_slice(piece.get(..count).unwrap_or_default());
        match decoder.decode(&mut input).map_err(|bad| anyhow!("{bad}"))? {
            None => {}
            Some(Reply::Value(value) | Reply::Text(value)) => return Ok(value),
            Some(Reply::Error(text)) => bail!("{}", String::from_utf8_lossy(&text)),
            Some(_) => bail!("the answer is no string"),
        }
    }
}
