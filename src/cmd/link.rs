//! One connection of a tool to a node: requests go out, replies come in.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::net::{RecvFlags, recv};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::resp::{Decoder, Reply, encode_request};

/// The words of a request.
pub(super) type Words = Vec<Bytes>;

/// How long a node that is gone without a word may stay unnoticed while nothing is expected of it.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How much is read at once.
const READ_BYTES: usize = 64 << 10;

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    stream: TcpStream,
    input: BytesMut,
    decoder: Decoder,
}

impl Link {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// What the system says; `TimedOut` after `patience`.
    pub(super) async fn connect(address: &str, patience: Duration) -> io::Result<Link> {
        let stream = timeout(patience, TcpStream::connect(address))
            .await
            .map_err(|_| timed_out(format_args!("no connection within {patience:?}")))??;
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE / 2);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(KEEPALIVE))?;
        Ok(Link {
            stream,
            input: BytesMut::new(),
            decoder: Decoder::default(),
        })
    }

    /// Sends requests.
    ///
    /// # Errors
    /// The connection is lost; some of them may have arrived.
    pub(super) async fn send(&mut self, requests: &[Words]) -> io::Result<()> {
        let mut out = BytesMut::new();
        requests.iter().for_each(|words| encode_request(words, &mut out));
        self.stream.write_all(&out).await
    }

    /// The next reply. A silence longer than `patience` is an error; `None` waits for good.
    ///
    /// # Errors
    /// The connection is lost, silent, or speaks something else; it is of no more use.
    pub(super) async fn receive(&mut self, patience: Option<Duration>) -> io::Result<Reply> {
        loop {
            let decoded = self.decoder.decode(&mut self.input);
            if let Some(reply) =
                decoded.map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad.to_string()))?
            {
                return Ok(reply);
            }
            self.input.reserve(READ_BYTES);
            let reading = self.stream.read_buf(&mut self.input);
            let count = match patience {
                Some(patience) => timeout(patience, reading)
                    .await
                    .map_err(|_| timed_out(format_args!("no answer within {patience:?}")))??,
                None => reading.await?,
            };
            if count == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the node closed the connection",
                ));
            }
        }
    }

    /// Whether the other side has closed it, or has said what nobody asked for: seen before a request is sent,
    /// for then it is certain that nothing was done.
    pub(super) fn is_gone(&self) -> bool {
        let mut byte = [0u8; 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        !self.input.is_empty() || recv(&self.stream, &mut byte, flags) != Err(rustix::io::Errno::AGAIN)
    }
}

fn timed_out(text: fmt::Arguments<'_>) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, text.to_string())
}
