//! One client: decode, look up, ask the node, encode, in order.
//!
//! One task does it all in turns: take as many requests as may be under way, submit them, write what is
//! ready, and only then wait for answers or more bytes. While it writes it reads nothing, so a client that
//! does not read its replies stops itself, and is cut after a time.

mod output;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::kv::{Code, Command, Error, Reply, View};
use crate::node::{Answer, Operation, Outcome, Request, Submission};

use super::codec::{Decoded, Decoder, Dialect, Limits};
use super::reply::{Encoding, Response};
use super::session::Session;
use super::table::{self, Action, ConnectionAction, Kind, Page, ScanStep, Walk, err};
use super::{Service, pages};

/// How many requests of one connection may be under way.
const REQUESTS_MAX: usize = 1024;

/// How many bytes they may have, beyond the one that passes it.
const REQUESTS_MAX_BYTES: usize = 4 << 20;

/// How many words one request may have.
const WORDS_MAX: usize = 1 << 20;

/// The bounds of one read from the socket; it grows while reads are full and shrinks when they are not, so
/// that ten thousand quiet clients cost little.
const READ_MIN_BYTES: usize = 1 << 10;
const READ_MAX_BYTES: usize = 64 << 10;

/// How long after `shutdown` answers are waited for; every request has one before that.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Serves one client until it leaves, breaks the protocol, or `shutdown` comes and its last answer is out.
/// `address` is the client's, for people.
pub async fn serve_connection<S>(
    service: Arc<Service>,
    stream: S,
    address: String,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let _connected = service.counters.on_connected();
    let id = service.next_client_id();
    let session = Session::new(id, address, service.options.read_mode);
    let mut connection = Connection::new(&service, stream, session);
    if let Err(error) = connection.run(&shutdown).await {
        tracing::debug!(client = id, %error, "connection ended");
    }
}

/// One client.
struct Connection<'a, S> {
    service: &'a Service,
    stream: S,
    session: Session,
    decoder: Decoder,
    input: BytesMut,
    /// How much to read at once.
    read_bytes: usize,
    output: BytesMut,
    /// The requests under way, oldest first.
    slots: VecDeque<Slot>,
    /// The ticket of the first slot; the others follow without gaps.
    first_ticket: u64,
    /// Bytes of the requests in `slots`.
    slots_bytes: usize,
    /// Requests that the node has not answered yet, of each kind. At most one of the two is not 0.
    writes: usize,
    reads: usize,
    /// A request that must wait for those of the other kind.
    held: Option<Parsed>,
    answers: mpsc::UnboundedSender<Answer>,
    inbox: mpsc::UnboundedReceiver<Answer>,
    phase: Phase,
}

/// How a connection comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Requests are read.
    Open,
    /// The client has sent all it wants to; what is in the buffer is still served.
    HalfClosed,
    /// The node shuts down: what is under way is answered, what needs the node is refused.
    Draining,
    /// After QUIT or a protocol error: no request is served any more.
    Closing,
}

/// A request whose words are understood, or the error in them.
struct Parsed {
    dialect: Dialect,
    bytes: usize,
    action: Result<Action, Error>,
}

/// A request under way.
struct Slot {
    encoding: Encoding,
    bytes: usize,
    state: State,
}

enum State {
    /// The node has it.
    Waiting(Then),
    /// Answered.
    Ready(Response),
    /// A view is there, to be walked when its turn comes.
    Walk(View, Walk),
    /// The same for SCAN.
    Scan(View, Bytes, ScanStep),
    /// The same for RANDOMKEY.
    Draw(View),
}

/// What to do with the node's answer.
enum Then {
    /// Pass it on, of a write.
    Written,
    /// Pass it on, of a read.
    Read,
    Walk(Walk),
    /// With the key where the step begins.
    Scan(Bytes, ScanStep),
    Draw,
    Page(Page),
}

impl Then {
    fn is_write(&self) -> bool {
        matches!(self, Then::Written)
    }
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Connection<'a, S> {
    fn new(service: &'a Service, stream: S, session: Session) -> Connection<'a, S> {
        // Bounded by the requests under way, of which each has one answer: at most REQUESTS_MAX.
        let (answers, inbox) = mpsc::unbounded_channel();
        let limits = Limits {
            request_max_bytes: service.options.max_request_bytes,
            words_max: WORDS_MAX,
        };
        Connection {
            service,
            stream,
            session,
            decoder: Decoder::new(limits),
            input: BytesMut::new(),
            read_bytes: READ_MIN_BYTES,
            output: BytesMut::new(),
            slots: VecDeque::new(),
            first_ticket: 0,
            slots_bytes: 0,
            writes: 0,
            reads: 0,
            held: None,
            answers,
            inbox,
            phase: Phase::Open,
        }
    }

    async fn run(&mut self, shutdown: &CancellationToken) -> io::Result<()> {
        let mut cancelled = pin!(shutdown.cancelled());
        let mut last_input = Instant::now();
        loop {
            self.take_requests();
            let answered = self.write_ready().await?;
            if answered > 0 {
                // There is room again for what is in the buffer.
                continue;
            }
            if self.slots.is_empty() && self.held.is_none() && self.phase != Phase::Open {
                return self.close().await;
            }
            self.wait(cancelled.as_mut(), &mut last_input).await?;
        }
    }

    /// Waits until there is something to do.
    async fn wait(
        &mut self,
        cancelled: Pin<&mut impl Future<Output = ()>>,
        last_input: &mut Instant,
    ) -> io::Result<()> {
        let idle_timeout = self.service.options.idle_timeout;
        let may_read = self.phase == Phase::Open && self.has_room() && self.held.is_none();
        let may_idle_out = !idle_timeout.is_zero() && self.slots.is_empty();
        if may_read {
            self.input.reserve(self.read_bytes);
        }
        let mut arrived = Vec::new();
        tokio::select! {
            biased;
            _ = self.inbox.recv_many(&mut arrived, REQUESTS_MAX), if !self.slots.is_empty() => {
                arrived.into_iter().for_each(|answer| self.on_answer(answer));
            }
            read = self.stream.read_buf(&mut self.input), if may_read => {
                self.on_read(read?);
                *last_input = Instant::now();
            }
            () = cancelled, if matches!(self.phase, Phase::Open | Phase::HalfClosed) => {
                self.phase = Phase::Draining;
            }
            () = sleep_until(*last_input + idle_timeout), if may_idle_out => {
                return Err(timed_out("idle for too long"));
            }
            () = sleep(DRAIN_MAX), if self.phase == Phase::Draining => {
                return Err(timed_out("no answer before the end"));
            }
            // Requests that are neither answered nor under way do not exist.
            else => return Err(io::Error::other("internal: a connection with nothing to wait for")),
        }
        Ok(())
    }

    fn on_read(&mut self, bytes: usize) {
        self.service.counters.on_read(bytes);
        if bytes == 0 {
            self.phase = Phase::HalfClosed;
        } else if bytes >= self.read_bytes {
            self.read_bytes = (self.read_bytes * 2).min(READ_MAX_BYTES);
        } else if bytes < self.read_bytes / 4 {
            self.read_bytes = (self.read_bytes / 2).max(READ_MIN_BYTES);
        }
    }

    fn has_room(&self) -> bool {
        self.slots.len() < REQUESTS_MAX && self.slots_bytes < REQUESTS_MAX_BYTES
    }

    /// Takes requests off the input as far as they may be under way, and submits them together.
    fn take_requests(&mut self) {
        let mut batch = Vec::new();
        while self.has_room() {
            let Some(parsed) = self.held.take().or_else(|| self.next_request()) else {
                break;
            };
            if let Some(held) = self.admit(parsed, &mut batch) {
                self.held = Some(held);
                break;
            }
        }
        self.submit(batch);
    }

    /// The next request of the input.
    fn next_request(&mut self) -> Option<Parsed> {
        if self.phase == Phase::Closing {
            return None;
        }
        let before = self.input.len();
        let Some(decoded) = self.decoder.decode(&mut self.input) else {
            return self.unfinished();
        };
        self.service.counters.on_command();
        let (dialect, action) = match decoded {
            Decoded::Request(dialect, words) => (dialect, table::parse(&words)),
            Decoded::Refused(dialect, text) => (dialect, Err(err(text))),
            Decoded::Fatal(dialect, text) => {
                self.phase = Phase::Closing;
                (dialect, Err(err(text)))
            }
        };
        Some(Parsed {
            dialect,
            bytes: before - self.input.len(),
            action,
        })
    }

    /// A line that the client did not end before it closed may be cut off anywhere: it is not done, and
    /// whoever sent it is told.
    fn unfinished(&mut self) -> Option<Parsed> {
        if self.phase != Phase::HalfClosed || self.input.is_empty() {
            return None;
        }
        self.phase = Phase::Closing;
        let is_line = self.input.first() != Some(&b'*') && !self.input.trim_ascii().is_empty();
        is_line.then(|| Parsed {
            dialect: Dialect::Line,
            bytes: 0,
            action: Err(err(
                "the last line does not end with a line feed; it was not executed",
            )),
        })
    }

    /// Takes a request in, or gives it back because it must wait for those of the other kind.
    fn admit(&mut self, parsed: Parsed, batch: &mut Vec<Request>) -> Option<Parsed> {
        let others = match parsed.action.as_ref().map(Action::kind) {
            Ok(Kind::Write) => self.reads,
            Ok(Kind::Read) => self.writes,
            Ok(Kind::Local) | Err(_) => 0,
        };
        if others > 0 {
            return Some(parsed);
        }
        let state = match self.begin(parsed.action) {
            Ok((operation, then)) => {
                *self.under_way(then.is_write()) += 1;
                let ticket = self.first_ticket + self.slots.len() as u64;
                batch.push(Request { ticket, operation });
                State::Waiting(then)
            }
            Err(response) => State::Ready(response),
        };
        // HELLO speaks the version that it chose.
        let encoding = Encoding::of(parsed.dialect, self.session.resp3());
        self.slots_bytes += parsed.bytes;
        self.slots.push_back(Slot {
            encoding,
            bytes: parsed.bytes,
            state,
        });
        None
    }

    /// What to ask the node and what to do with its answer; or the answer, where the node is not needed.
    fn begin(&mut self, action: Result<Action, Error>) -> Result<(Operation, Then), Response> {
        let mode = self.session.mode();
        let begun = match action? {
            Action::Answer(response) => return Err(response),
            Action::Connection(action) => {
                if action == ConnectionAction::Quit {
                    self.phase = Phase::Closing;
                }
                return Err(self.session.perform(action));
            }
            Action::Write(command) => (Operation::Write(command), Then::Written),
            Action::Once { token, command } => {
                let once = Command::Once {
                    token,
                    window_ms: self.service.options.once_window.as_millis() as u64,
                    command: Box::new(command),
                };
                (Operation::Write(once), Then::Written)
            }
            Action::Operate(operation) => (operation, Then::Written),
            Action::Query(query) => (Operation::Query(query, mode), Then::Read),
            Action::Walk(walk) => (Operation::View(mode), Then::Walk(walk)),
            Action::Scan(step) => {
                let from = self.service.resolve_cursor(step.cursor)?;
                (Operation::View(mode), Then::Scan(from, step))
            }
            Action::RandomKey => (Operation::View(mode), Then::Draw),
            Action::Page(page) => (Operation::Status, Then::Page(page)),
        };
        if self.phase == Phase::Draining {
            Err(stopping().into())
        } else {
            Ok(begun)
        }
    }

    fn under_way(&mut self, is_write: bool) -> &mut usize {
        if is_write {
            &mut self.writes
        } else {
            &mut self.reads
        }
    }

    fn submit(&mut self, requests: Vec<Request>) {
        if requests.is_empty() {
            return;
        }
        let submission = Submission {
            requests,
            answers: self.answers.clone(),
        };
        let Err(refused) = self.service.node.submit(submission) else {
            return;
        };
        let error = if self.service.node.is_stopped() {
            stopping()
        } else {
            busy()
        };
        for request in refused.requests {
            let outcome = Outcome::Reply(Reply::Error(error.clone()));
            self.on_answer(Answer {
                ticket: request.ticket,
                outcome,
            });
        }
    }

    fn on_answer(&mut self, answer: Answer) {
        let place = answer.ticket.wrapping_sub(self.first_ticket);
        let slot = usize::try_from(place)
            .ok()
            .and_then(|place| self.slots.get_mut(place));
        let Some(slot) = slot else { return };
        // A second answer to the same request would be the node's mistake; the first one counts.
        let State::Waiting(then) = &mut slot.state else {
            return;
        };
        let then = std::mem::replace(then, Then::Read);
        let is_write = then.is_write();
        slot.state = match (then, answer.outcome) {
            (Then::Walk(walk), Outcome::View(view)) => State::Walk(view, walk),
            (Then::Scan(from, step), Outcome::View(view)) => State::Scan(view, from, step),
            (Then::Draw, Outcome::View(view)) => State::Draw(view),
            (Then::Page(page), Outcome::Status(status)) => {
                State::Ready(pages::render(&page, &status, self.service))
            }
            (_, Outcome::Reply(reply)) => {
                if !is_write {
                    count_lookups(self.service, &reply);
                }
                State::Ready(reply.into())
            }
            _ => State::Ready(err("internal: the node gave an answer of the wrong kind").into()),
        };
        let under_way = self.under_way(is_write);
        *under_way = under_way.saturating_sub(1);
    }
}

fn count_lookups(service: &Service, reply: &Reply) {
    match reply {
        Reply::Value(_) => service.counters.on_lookup(true),
        Reply::Nil => service.counters.on_lookup(false),
        Reply::List(replies) => replies.iter().for_each(|reply| count_lookups(service, reply)),
        _ => {}
    }
}

fn stopping() -> Error {
    let text = "the node is shutting down; nothing was done".into();
    Error {
        code: Code::ReadOnly,
        text,
    }
}

fn busy() -> Error {
    let text = "too many requests are waiting; nothing was done, try again later".into();
    Error {
        code: Code::Busy,
        text,
    }
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}
