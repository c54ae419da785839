//! One socket after its handshake: a reader, a writer, the deadlines of its calls, and on the side that
//! dialed a question after silence. All of them are one task, so that they end together.
//!
//! [`Link`] is what others hold of a connection: its queues, and the means to close it. The requests of the
//! side that dialed go one way and the answers to them the other; anything else is a fault of the
//! other side and ends the connection.
//!
//! Memory: the outbox's bounds, one write of about 256 KiB and one frame, and the reader's buffer.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::calls::Failed;
use super::codec::FrameReader;
use super::event::{CallError, CallId, Event, Room};
use super::lock;
use super::members::Claim;
use super::outbox::{GATHER_BYTES, Outbox, Outgoing};
use crate::net::is_closed_by_peer;
use crate::raft::{Envelope, Index, Message, NodeId, Term};
use crate::wire::peer::{ClusterId, Frame, FrameTooLarge, decode, encode};

/// Above this the writer's buffer is given back when there is nothing to write.
const BUFFER_KEPT_BYTES: usize = 64 * 1024;

/// How long what the peer said before it closed may take to be read, once writing has failed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Who dialed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// We did: our requests go out, answers come in.
    Dialed,
    /// The peer did: its requests come in, our answers go out.
    Accepted,
}

/// What the handshake said of the other side.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerInfo {
    pub(super) node_id: NodeId,
    pub(super) cluster_id: Option<ClusterId>,
    pub(super) incarnation: u64,
    /// Where in the log its latest membership stood at the handshake.
    pub(super) membership_index: Index,
    /// The largest frame that it accepts.
    pub(super) frame_max_bytes: u32,
}

impl PeerInfo {
    pub(super) fn claim(&self) -> Claim {
        Claim {
            node_id: self.node_id,
            incarnation: self.incarnation,
            membership_index: self.membership_index,
        }
    }
}

/// A connection as others see it.
#[derive(Debug)]
pub(super) struct Link {
    /// Never used twice in this process.
    pub(super) number: u64,
    pub(super) side: Side,
    pub(super) peer: PeerInfo,
    /// Request ids below it belong to earlier connections.
    first_request_id: u64,
    outbox: Mutex<Outbox>,
    /// There is something to write.
    ready: Notify,
    /// The earliest deadline is earlier than it was.
    deadline: Notify,
    /// Ends the connection, whatever is queued.
    pub(super) close: CancellationToken,
}

impl Link {
    pub(super) fn new(shared: &Shared, side: Side, peer: PeerInfo, close: CancellationToken) -> Arc<Link> {
        Arc::new(Link {
            number: shared.next_connection.fetch_add(1, Ordering::Relaxed),
            side,
            peer,
            first_request_id: shared.next_request_id.load(Ordering::Relaxed),
            outbox: Mutex::new(Outbox::new(&shared.options)),
            ready: Notify::new(),
            deadline: Notify::new(),
            close,
        })
    }

    /// Queues a frame; `false` if there is no place for it.
    pub(super) fn push(&self, request_id: u64, frame: Frame) -> bool {
        let taken = self.outbox().push(Outgoing { request_id, frame });
        if taken {
            self.ready.notify_one();
        }
        taken
    }

    /// Queues a call; `false` if there is no place for it.
    pub(super) fn push_call(&self, request_id: u64, command: Bytes, token: u64, deadline: Instant) -> bool {
        let outgoing = Outgoing {
            request_id,
            frame: Frame::Forward { command },
        };
        let Some(earliest) = self.outbox().push_call(outgoing, token, deadline) else {
            return false;
        };
        if earliest {
            self.deadline.notify_one();
        }
        self.ready.notify_one();
        true
    }

    /// Forgets a call; `false` if it is not here.
    pub(super) fn cancel(&self, token: u64) -> bool {
        self.outbox().calls.cancel(token)
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        lock(&self.outbox)
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The peer's kernel closed it.
    #[error("closed by the peer")]
    ByPeer,
    /// We closed it: shutdown, a newer connection, the peer is no longer a member.
    #[error("closed by this node")]
    ByUs,
    /// Nothing came for too long.
    #[error("no answer to a ping; is the host reachable, and does the process run?")]
    Silent,
    /// The peer sent what no peer sends.
    #[error("{0}")]
    Malformed(String),
    /// The socket failed.
    #[error("{0}")]
    Io(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        if is_closed_by_peer(&error) {
            End::ByPeer
        } else {
            End::Io(error)
        }
    }
}

/// A connection as its own task sees it.
pub(super) struct Connection {
    shared: Arc<Shared>,
    link: Arc<Link>,
    started: Instant,
    /// Milliseconds after `started` at which something came last.
    heard_ms: AtomicU64,
    /// The reader waits for the driver, so silence is no news.
    held_up: AtomicBool,
}

impl Connection {
    pub(super) fn new(shared: &Arc<Shared>, link: &Arc<Link>) -> Connection {
        Connection {
            shared: Arc::clone(shared),
            link: Arc::clone(link),
            started: Instant::now(),
            heard_ms: AtomicU64::new(0),
            held_up: AtomicBool::new(false),
        }
    }

    /// Serves the connection until it ends, then ends its calls and reports with the `room` kept for that.
    pub(super) async fn run(self, mut stream: TcpStream, mut reader: FrameReader, room: Option<Room>) -> End {
        reader.set_max_bytes(self.shared.options.frame_max_bytes as usize);
        let (mut read, mut write) = stream.split();
        // The reader comes last: it uses up the task's budget when it is flooded, and the others would
        // never be polled behind it.
        let end = tokio::select! {
            biased;
            () = self.link.close.cancelled() => End::ByUs,
            end = self.write(&mut write) => end,
            end = self.expire_calls() => end,
            end = self.read(&mut read, &mut reader) => end,
            end = self.ask_after_silence(), if self.link.side == Side::Dialed => end,
        };
        drop(stream);
        for failed in self.link.outbox().end() {
            let error = if failed.written {
                CallError::Lost
            } else {
                CallError::NotSent
            };
            self.shared.fail_call(failed.token, error);
        }
        let peer = self.link.peer.node_id;
        self.shared.events.push(
            Event::Disconnected {
                peer,
                by_peer: matches!(end, End::ByPeer),
            },
            room,
        );
        end
    }

    // ---- Writing

    async fn write(&self, stream: &mut WriteHalf<'_>) -> End {
        let (mut batch, mut buffer) = (Vec::new(), BytesMut::new());
        loop {
            self.link.outbox().gather(&mut batch);
            if batch.is_empty() {
                if buffer.capacity() > BUFFER_KEPT_BYTES {
                    buffer = BytesMut::new();
                }
                self.wait_for_work(stream).await;
                continue;
            }
            self.encode(&mut batch, &mut buffer);
            let written = stream.write_all(&buffer).await;
            self.shared
                .counters
                .bytes_out
                .fetch_add(buffer.len() as u64, Ordering::Relaxed);
            buffer.clear();
            if let Err(error) = written {
                // What the peer said before it went away still waits to be read, and so does its end.
                sleep(LAST_WORDS).await;
                return error.into();
            }
        }
    }

    /// Waits for something to write. At shutdown there will be nothing: then says so to the peer, which
    /// closes its side, which ends the reader.
    async fn wait_for_work(&self, stream: &mut WriteHalf<'_>) {
        if !self.shared.drain.is_cancelled() {
            tokio::select! {
                () = self.link.ready.notified() => {}
                () = self.shared.drain.cancelled() => {}
            }
            return;
        }
        self.link.outbox().close();
        let _ = stream.shutdown().await;
        std::future::pending().await
    }

    fn encode(&self, batch: &mut Vec<Outgoing>, buffer: &mut BytesMut) {
        buffer.reserve(GATHER_BYTES.min(batch.iter().map(|outgoing| outgoing.frame.size_bytes()).sum()));
        let max_bytes = self.link.peer.frame_max_bytes as usize;
        for Outgoing { request_id, frame } in batch.drain(..) {
            match encode(request_id, &frame, max_bytes, buffer) {
                Ok(()) => {
                    self.shared.counters.frames_out.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => self.on_too_large(request_id, &frame, error),
            }
        }
    }

    fn on_too_large(&self, request_id: u64, frame: &Frame, error: FrameTooLarge) {
        self.shared.counters.sends_dropped.fetch_add(1, Ordering::Relaxed);
        if let Some(unsaid) = self.shared.log_too_large.allow() {
            let (peer, frame) = (self.link.peer.node_id, frame.name());
            tracing::error!(%peer, frame, %error, unsaid, "not sent; give all nodes the same limits");
        }
        let call = matches!(frame, Frame::Forward { .. }).then(|| self.link.outbox().calls.take(request_id));
        if let Some(token) = call.flatten() {
            self.shared.fail_call(token, CallError::NotSent);
        }
    }

    // ---- Reading

    async fn read(&self, stream: &mut ReadHalf<'_>, reader: &mut FrameReader) -> End {
        loop {
            loop {
                match reader.next() {
                    Ok(None) => break,
                    Ok(Some(bytes)) => {
                        if let Err(end) = self.on_bytes(bytes).await {
                            return end;
                        }
                    }
                    Err(error) => return End::Malformed(error.to_string()),
                }
            }
            match reader.fill(stream).await {
                Ok(0) => return End::ByPeer,
                Ok(count) => self.heard(count),
                Err(error) => return error.into(),
            }
        }
    }

    fn heard(&self, count: usize) {
        self.shared
            .counters
            .bytes_in
            .fetch_add(count as u64, Ordering::Relaxed);
        self.heard_ms
            .store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    async fn on_bytes(&self, bytes: Bytes) -> Result<(), End> {
        self.shared.counters.frames_in.fetch_add(1, Ordering::Relaxed);
        let (request_id, frame) = decode(bytes).map_err(|error| End::Malformed(error.to_string()))?;
        match self.link.side {
            Side::Dialed => self.on_answer(request_id, frame).await,
            Side::Accepted => self.on_request(request_id, frame).await,
        }
    }

    async fn on_request(&self, request_id: u64, frame: Frame) -> Result<(), End> {
        let from = self.link.peer.node_id;
        let event = match frame {
            Frame::Raft { term, message } if message.is_request() => self.raft(request_id, term, message),
            Frame::Forward { command } => {
                let id = CallId {
                    peer: from,
                    connection: self.link.number,
                    request_id,
                };
                Event::Call { id, from, command }
            }
            Frame::StateHash { index, hash } => Event::StateHash { from, index, hash },
            Frame::Ping => {
                self.link.push(request_id, Frame::Pong);
                return Ok(());
            }
            frame => return Err(self.out_of_place(&frame)),
        };
        self.deliver(event).await
    }

    async fn on_answer(&self, request_id: u64, frame: Frame) -> Result<(), End> {
        match frame {
            Frame::Raft { term, message } if !message.is_request() => {
                if !self.is_ours(request_id) {
                    self.shared
                        .counters
                        .answers_unmatched
                        .fetch_add(1, Ordering::Relaxed);
                }
                self.deliver(self.raft(request_id, term, message)).await
            }
            Frame::ForwardResponse { reply } => self.on_reply(request_id, reply).await,
            Frame::Pong => Ok(()),
            frame => Err(self.out_of_place(&frame)),
        }
    }

    /// Whether a request of this number has been made since the connection began.
    fn is_ours(&self, request_id: u64) -> bool {
        (self.link.first_request_id..self.shared.next_request_id.load(Ordering::Relaxed))
            .contains(&request_id)
    }

    async fn on_reply(&self, request_id: u64, reply: Bytes) -> Result<(), End> {
        let event = |token| Event::Answer {
            token,
            result: Ok(reply.clone()),
        };
        let room = self.room(event(0).size_bytes()).await?;
        // Only now: while there was no room, the call may have ended.
        match self.link.outbox().calls.take(request_id) {
            Some(token) => self.shared.events.push(event(token), Some(room)),
            None => {
                self.shared
                    .counters
                    .answers_unmatched
                    .fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn raft(&self, request_id: u64, term: Term, message: Message) -> Event {
        let (from, to) = (self.link.peer.node_id, self.shared.options.node_id);
        Event::Raft(Envelope {
            from,
            to,
            term,
            request_id,
            message,
        })
    }

    fn out_of_place(&self, frame: &Frame) -> End {
        let whose = if self.link.side == Side::Dialed {
            "this node"
        } else {
            "the peer"
        };
        End::Malformed(format!("{} on a connection that {whose} dialed", frame.name()))
    }

    async fn deliver(&self, event: Event) -> Result<(), End> {
        let room = self.room(event.size_bytes()).await?;
        self.shared.events.push(event, Some(room));
        Ok(())
    }

    async fn room(&self, size_bytes: usize) -> Result<Room, End> {
        self.held_up.store(true, Ordering::Relaxed);
        let room = self.shared.events.room(size_bytes).await;
        self.held_up.store(false, Ordering::Relaxed);
        room.ok_or(End::ByUs)
    }

    // ---- Time

    async fn expire_calls(&self) -> End {
        loop {
            let Some(deadline) = self.link.outbox().calls.next_deadline() else {
                self.link.deadline.notified().await;
                continue;
            };
            tokio::select! {
                () = self.link.deadline.notified() => {}
                () = sleep_until(deadline.into()) => {
                    let expired = self.link.outbox().calls.expire(Instant::now());
                    for Failed { token, written } in expired {
                        self.shared.fail_call(token, CallError::DeadlineExceeded { written });
                    }
                }
            }
        }
    }

    /// After `ping_interval` without a byte asks whether the peer is there, and gives it `ping_timeout`.
    /// While bytes come the timer is moved only when it fires, so a busy connection pays nothing.
    async fn ask_after_silence(&self) -> End {
        let options = &self.shared.options;
        loop {
            let heard = self.last_heard();
            sleep_until((heard + options.ping_interval).into()).await;
            if self.last_heard() > heard {
                continue;
            }
            let asked = Instant::now();
            self.link.push(0, Frame::Ping);
            sleep(options.ping_timeout).await;
            if self.held_up.load(Ordering::Relaxed) {
                self.heard(0);
            } else if self.last_heard() + Duration::from_millis(1) < asked {
                return End::Silent;
            }
        }
    }

    fn last_heard(&self) -> Instant {
        self.started + Duration::from_millis(self.heard_ms.load(Ordering::Relaxed))
    }
}
