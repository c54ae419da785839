//! Sockets, for peers and clients alike: listen, accept, connect, and the options that every one gets.
//!
//! [`listen`] binds an address and names it when that fails. [`Acceptor`] hands out connections and never
//! fails: where the system is out of descriptors it waits a little and tries again, and it counts what is
//! open, so that its owner can refuse the one too many with words of its own dialect. [`SocketOptions`]
//! makes a connection answer at once (TCP_NODELAY) and notice a peer that is gone (SO_KEEPALIVE,
//! TCP_USER_TIMEOUT). [`LogLimit`] keeps one bad peer from filling the log.
//!
//! Memory: an [`Acceptor`] holds nothing but a semaphore; what waits in the backlog is the kernel's.
//!
//! Missing: TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// How long to wait after a failed accept, which mostly means that file descriptors are used up.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// An address that could not be listened on, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}")]
pub struct ListenError {
    /// The address as it was given.
    pub address: String,
    /// What the system says.
    pub error: io::Error,
}

/// Listens on `host:port`; port 0 takes a free one. The port may be taken again while connections of an
/// earlier process still linger (SO_REUSEADDR).
pub async fn listen(address: &str) -> Result<TcpListener, ListenError> {
    let failed = |error| ListenError {
        address: address.to_owned(),
        error,
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in lookup_host(address).await.map_err(failed)? {
        match listen_on(candidate) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What every connection is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// After how much silence the kernel asks whether the other host is still there (SO_KEEPALIVE), and how
    /// long it waits between questions; three without an answer end the connection. At least 1 s.
    pub keepalive: Duration,
    /// How long written bytes may stay unacknowledged before the connection ends (TCP_USER_TIMEOUT); also
    /// how long the other side may keep its window closed.
    pub user_timeout: Option<Duration>,
    /// How many bytes the kernel takes beyond those it is sending (TCP_NOTSENT_LOWAT). What is in the
    /// kernel can no longer be overtaken, so little of it may be there (trap 3.27). `None`: as much as it
    /// likes.
    pub unsent_max_bytes: Option<u32>,
}

impl SocketOptions {
    /// Sets the options, and TCP_NODELAY.
    pub fn apply(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        let keepalive = TcpKeepalive::new()
            .with_time(self.keepalive)
            .with_interval(self.keepalive)
            .with_retries(3);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(self.user_timeout)?;
        if let Some(bytes) = self.unsent_max_bytes {
            socket.set_tcp_notsent_lowat(bytes)?;
        }
        Ok(())
    }
}

/// Whether the error says that the other side's kernel has closed the connection, as it does when the
/// process there ends; a timeout, by contrast, says nothing about the other process.
pub fn is_closed_by_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

/// A listener that hands out connections and counts those that are open.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    connections_max: usize,
    limit: LogLimit,
}

/// A connection that has arrived.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: TcpStream,
    /// Where it comes from.
    pub from: SocketAddr,
    /// To be kept as long as the connection. `None`: as many connections as may be are open, and this one
    /// is to be refused.
    pub slot: Option<Slot>,
}

/// One of the places that an [`Acceptor`] has; free again when dropped.
#[derive(Debug)]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
}

impl Acceptor {
    /// Accepts from `listener`, with at most `connections_max` open at a time.
    pub fn new(listener: TcpListener, connections_max: usize) -> Acceptor {
        let connections_max = connections_max.min(Semaphore::MAX_PERMITS);
        let slots = Arc::new(Semaphore::new(connections_max));
        Acceptor {
            listener,
            slots,
            connections_max,
            limit: LogLimit::default(),
        }
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.connections_max - self.slots.available_permits()
    }

    /// The next connection. Errors are waited out and logged. Nothing is lost if the future is dropped.
    pub async fn accept(&self) -> Accepted {
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    let slot = Arc::clone(&self.slots).try_acquire_owned().ok();
                    return Accepted {
                        stream,
                        from,
                        slot: slot.map(|_permit| Slot { _permit }),
                    };
                }
                // The caller went away before we came: the listener is as good as before.
                Err(error) if is_closed_by_peer(&error) => {}
                Err(error) => {
                    if let Some(unsaid) = self.limit.allow() {
                        tracing::warn!(%error, unsaid, "cannot accept connections; trying again");
                    }
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }
}

/// Lets one line in five seconds into the log and counts the others.
#[derive(Debug, Default)]
pub struct LogLimit {
    state: Mutex<(Option<Instant>, u64)>,
}

impl LogLimit {
    const INTERVAL: Duration = Duration::from_secs(5);

    /// `Some` if the line may be logged, with the number of lines left out since the last one.
    pub fn allow(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if state
            .0
            .is_some_and(|last| now.duration_since(last) < LogLimit::INTERVAL)
        {
            state.1 += 1;
            return None;
        }
        let unsaid = state.1;
        *state = (Some(now), 0);
        Some(unsaid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(20), future)
                .await
                .unwrap()
        })
    }

    #[test]
    fn a_taken_address_is_named() {
        run(async {
            let first = listen("127.0.0.1:0").await.unwrap();
            let address = first.local_addr().unwrap().to_string();
            let error = listen(&address).await.unwrap_err().to_string();
            assert!(error.contains(&format!("cannot listen on {address}")), "{error}");
            assert!(
                listen("no port")
                    .await
                    .unwrap_err()
                    .to_string()
                    .contains("no port")
            );
        });
    }

    #[test]
    fn one_connection_too_many_gets_no_slot() {
        run(async {
            let listener = listen("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let acceptor = Acceptor::new(listener, 1);
            let _clients = [
                TcpStream::connect(address).await.unwrap(),
                TcpStream::connect(address).await.unwrap(),
            ];
            let first = acceptor.accept().await;
            assert!(first.slot.is_some());
            assert!(acceptor.accept().await.slot.is_none());
            drop(first);
            let _third = TcpStream::connect(address).await.unwrap();
            assert!(acceptor.accept().await.slot.is_some());
        });
    }

    #[test]
    fn options_are_set() {
        run(async {
            let listener = listen("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let options = SocketOptions {
                keepalive: Duration::from_secs(5),
                user_timeout: Some(Duration::from_secs(9)),
                unsent_max_bytes: Some(100_000),
            };
            options.apply(&stream).unwrap();
            let socket = SockRef::from(&stream);
            assert!(stream.nodelay().unwrap() && socket.keepalive().unwrap());
            assert_eq!(socket.tcp_user_timeout().unwrap(), options.user_timeout);
            assert_eq!(socket.tcp_notsent_lowat().unwrap(), 100_000);
        });
    }

    #[test]
    fn the_log_gets_one_line() {
        let limit = LogLimit::default();
        assert_eq!(limit.allow(), Some(0));
        assert!((0..1000).all(|_| limit.allow().is_none()));
    }
}
