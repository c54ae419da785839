//! One client: decode, look up, ask the node, encode, in order.
//!
//! One task does it all in turns: take as many requests as may be under way, submit them, write what is
//! ready, and only then wait for answers or more bytes. While it writes it reads nothing, so a client that
//! does not read its replies stops itself, and is cut after a time.

mod feed;
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

use crate::kv::{Code, Command, Error, Query, Reply, View};
use crate::node::{Answer, Feed, Operation, Outcome, ReadMode, Request, Submission};

use super::budget::Share;
use super::codec::{Decoded, Decoder, Dialect, Limits};
use super::reply::{Encoding, Response};
use super::session::Session;
use super::stats::Ending;
use super::table::{self, Action, ConnectionAction, Kind, Page, Repeat, ScanStep, Walk, err};
use super::transaction::{Begun, Transaction, with_locals};
use super::{Service, pages, slowlog};
use feed::Following;

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

/// Where a connection comes from and where it arrived, for people; the latter may be empty.
#[derive(Clone, Debug)]
pub struct Ends {
    /// The client's address.
    pub client: String,
    /// The address that it connected to.
    pub local: String,
}

/// Serves one client until it leaves, breaks the protocol, is killed, or `shutdown` comes and its last answer is out.
pub async fn serve_connection<S>(service: Arc<Service>, stream: S, ends: Ends, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let _connected = service.counters.on_connected();
    let mode = service.options.read_mode;
    let registered = service.clients.register(ends.client, ends.local, mode);
    let session = Session::new(Arc::clone(registered.client()), mode);
    let mut connection = Connection::new(&service, stream, session);
    let ended = tokio::select! {
        biased;
        () = registered.client().killed.cancelled() => {
            service.counters.on_killed();
            Err(io::Error::new(io::ErrorKind::ConnectionAborted, "killed by CLIENT KILL"))
        }
        ended = connection.run(&shutdown) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(client = registered.client().id, %error, "connection ended");
    }
}

/// One client.
struct Connection<'a, S> {
    service: &'a Arc<Service>,
    stream: S,
    session: Session,
    transaction: Transaction,
    decoder: Decoder,
    input: BytesMut,
    /// How much to read at once.
    read_bytes: usize,
    output: BytesMut,
    /// The requests under way, oldest first.
    slots: VecDeque<Slot>,
    /// The ticket of the first slot; the others follow without gaps.
    first_ticket: u64,
    /// Bytes of the requests in `slots`, and of those answers that are no values of the store.
    slots_bytes: usize,
    /// What all of this counts for among all connections.
    share: Share<'a>,
    /// Since when nothing is read for want of room among all connections.
    starved_since: Option<Instant>,
    /// Requests that the node has not answered yet, of each kind. At most one of the two is not 0.
    writes: usize,
    reads: usize,
    /// A request that must wait for those of the other kind.
    held: Option<Parsed>,
    answers: mpsc::UnboundedSender<Answer>,
    inbox: mpsc::UnboundedReceiver<Answer>,
    /// The change feed, while it is on.
    feed: Option<Following>,
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
    trace: Trace,
}

/// A request under way.
struct Slot {
    encoding: Encoding,
    /// Whether the client does not want the reply.
    is_silent: bool,
    bytes: usize,
    state: State,
    /// UNFEED, RESET.
    ends_feed: bool,
    trace: Trace,
}

/// What is to be said of a request when it is answered.
struct Trace {
    /// The command, if there is one of that name.
    place: Option<table::Place>,
    /// For SLOWLOG.
    words: Vec<Bytes>,
    begun: Instant,
}

enum State {
    /// The node has it.
    Waiting(Then),
    /// Answered.
    Ready(Response),
    /// A feed begins when its turn comes.
    Feed(Feed),
    /// A view is there, to be walked when its turn comes.
    Walk(Box<View>, Walk),
    /// The same for SCAN.
    Scan(Box<View>, Bytes, ScanStep),
    /// The same for RANDOMKEY.
    Draw(Box<View>),
}

/// What to do with the node's answer.
enum Then {
    /// Pass it on, of a write.
    Written,
    /// EXEC: put these replies among those of the steps.
    Executed(Vec<(usize, Reply)>),
    /// WATCH: keep the revisions of these keys.
    Watched(Vec<Bytes>),
    /// Pass it on, of a read.
    Read,
    /// Make something of the value of this key.
    OfValue(Bytes, fn(&[u8], &[u8]) -> Reply),
    Feed,
    Walk(Walk),
    /// With the key where the step begins.
    Scan(Bytes, ScanStep),
    Draw,
    Page(Page),
}

impl Then {
    fn is_write(&self) -> bool {
        matches!(self, Then::Written | Then::Executed(_))
    }
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Connection<'a, S> {
    fn new(service: &'a Arc<Service>, stream: S, session: Session) -> Connection<'a, S> {
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
            transaction: Transaction::new(service.options.max_request_bytes),
            decoder: Decoder::new(limits),
            input: BytesMut::new(),
            read_bytes: READ_MIN_BYTES,
            output: BytesMut::new(),
            slots: VecDeque::new(),
            first_ticket: 0,
            slots_bytes: 0,
            share: service.budget.share(),
            starved_since: None,
            writes: 0,
            reads: 0,
            held: None,
            answers,
            inbox,
            feed: None,
            phase: Phase::Open,
        }
    }

    async fn run(&mut self, shutdown: &CancellationToken) -> io::Result<()> {
        let mut cancelled = pin!(shutdown.cancelled());
        let mut last_input = Instant::now();
        loop {
            self.take_requests();
            let answered = self.write_ready().await?;
            self.settle();
            if answered > 0 {
                // There is room again for what is in the buffer.
                continue;
            }
            if self.is_done() {
                return self.close().await;
            }
            match self.wait(cancelled.as_mut(), &mut last_input).await? {
                Woken::Feed => self.write_events().await?,
                Woken::Shutdown => self.end_feed(stopping_feed()).await?,
                Woken::Other => {}
            }
        }
    }

    /// Whether there is nothing left to be said. A client that only closed its sending half still hears its feed.
    fn is_done(&self) -> bool {
        let is_over = match self.phase {
            Phase::Open => false,
            Phase::HalfClosed => self.feed.is_none(),
            Phase::Draining | Phase::Closing => true,
        };
        is_over && self.slots.is_empty() && self.held.is_none()
    }

    /// Waits until there is something to do.
    async fn wait(
        &mut self,
        cancelled: Pin<&mut impl Future<Output = ()>>,
        last_input: &mut Instant,
    ) -> io::Result<Woken> {
        let idle_timeout = self.service.settings.idle_timeout();
        let may_read = self.phase == Phase::Open && self.has_room() && self.held.is_none();
        let may_idle_out = !idle_timeout.is_zero() && self.slots.is_empty() && self.feed.is_none();
        let read_bytes = if may_read {
            self.share.may_read(self.read_bytes)
        } else {
            0
        };
        self.input.reserve(read_bytes);
        let is_starved = may_read && read_bytes == 0;
        let starved_since = *self.starved_since.get_or_insert_with(Instant::now);
        if !is_starved {
            self.starved_since = None;
        }
        let mut stream = (&mut self.stream).take(read_bytes as u64);
        let mut arrived = Vec::new();
        tokio::select! {
            biased;
            _ = self.inbox.recv_many(&mut arrived, REQUESTS_MAX), if !self.slots.is_empty() => {
                arrived.into_iter().for_each(|answer| self.on_answer(answer));
            }
            read = stream.read_buf(&mut self.input), if read_bytes > 0 => {
                self.on_read(read?);
                *last_input = Instant::now();
            }
            () = self.service.budget.room(), if is_starved => {}
            () = sleep_until(starved_since + self.service.options.stall_timeout), if is_starved => {
                self.refuse_unfinished();
            }
            () = cancelled, if matches!(self.phase, Phase::Open | Phase::HalfClosed) => {
                self.phase = Phase::Draining;
                return Ok(Woken::Shutdown);
            }
            () = feed_due(self.feed.as_ref()), if self.feed.is_some() && self.phase != Phase::Closing => {
                return Ok(Woken::Feed);
            }
            () = sleep_until(*last_input + idle_timeout), if may_idle_out => {
                self.service.counters.on_idle_closed();
                return Err(timed_out("idle for too long"));
            }
            () = sleep(DRAIN_MAX), if self.phase == Phase::Draining => {
                return Err(timed_out("no answer before the end"));
            }
            // Requests that are neither answered nor under way do not exist.
            else => return Err(io::Error::other("internal: a connection with nothing to wait for")),
        }
        Ok(Woken::Other)
    }

    fn on_read(&mut self, bytes: usize) {
        self.service.counters.on_read(bytes);
        self.session.client().on_read(bytes);
        if bytes == 0 {
            self.phase = Phase::HalfClosed;
        } else if bytes >= self.read_bytes {
            self.read_bytes = (self.read_bytes * 2).min(READ_MAX_BYTES);
        } else if bytes < self.read_bytes / 4 {
            self.read_bytes = (self.read_bytes / 2).max(READ_MIN_BYTES);
        }
    }

    /// Tells how much this connection holds now.
    fn settle(&mut self) {
        let held = self.slots_bytes + self.transaction.bytes() + self.input.len() + self.output.len();
        self.share.set(held);
    }

    /// There was no room for the rest of a request for too long: what has come of it goes, and the connection with it,
    /// for nobody knows where the next request begins.
    fn refuse_unfinished(&mut self) {
        self.service.counters.on_over_budget();
        self.phase = Phase::Closing;
        let dialect = match self.input.first() {
            Some(b'*') => Dialect::Resp,
            _ => Dialect::Line,
        };
        self.input = BytesMut::new();
        let refused = Parsed {
            dialect,
            bytes: 0,
            action: Err(self.over_budget()),
            trace: Trace::none(),
        };
        // An error waits for no other request.
        self.admit(refused, &mut Vec::new());
    }

    fn over_budget(&self) -> Error {
        let text = format!(
            "the connections of this node hold more than {} bytes of requests and replies; nothing was done, try \
             again later",
            self.service.budget.max_bytes()
        );
        Error {
            code: Code::Busy,
            text: text.into(),
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

    /// For CLIENT LIST: a request came.
    fn note_request(&self, place: Option<table::Place>) {
        let mut details = self.session.client().details();
        details.commands += 1;
        details.input_bytes = self.input.len();
        if let Some(row) = place.and_then(table::at) {
            details.command = row.name;
        }
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
        let (dialect, action, trace) = match decoded {
            Decoded::Request(dialect, words) => {
                let place = table::place_of(&words);
                (dialect, table::parse_at(place, &words), Trace::of(place, words))
            }
            Decoded::Refused(dialect, text) => (dialect, Err(err(text)), Trace::none()),
            Decoded::Fatal(dialect, text) => {
                self.service.counters.on_protocol_error();
                self.phase = Phase::Closing;
                (dialect, Err(err(text)), Trace::none())
            }
        };
        self.note_request(trace.place);
        Some(Parsed {
            dialect,
            bytes: before - self.input.len(),
            action,
            trace,
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
            trace: Trace::none(),
        })
    }

    /// Takes a request in, or gives it back because it must wait for those of the other kind.
    fn admit(&mut self, mut parsed: Parsed, batch: &mut Vec<Request>) -> Option<Parsed> {
        // A walk holds on to a state that is being written over, and may hold large values.
        let is_walk = matches!(parsed.action, Ok(Action::Walk(_) | Action::Scan(_)));
        let is_refused = !self.share.is_welcome() || (is_walk && self.service.budget.is_over());
        // What EXEC needs is there, and after an EXEC that is refused a client believes that its MULTI is over.
        let is_exempt = matches!(parsed.action, Ok(Action::Transaction(_)) | Err(_));
        if is_refused && !is_exempt {
            self.service.counters.on_over_budget();
            parsed.action = Err(self.over_budget());
        }
        let is_queued = matches!(&parsed.action, Ok(action) if self.transaction.queues(action));
        let others = match parsed.action.as_ref().map(Action::kind) {
            _ if is_queued => 0,
            Ok(Kind::Write) => self.reads,
            Ok(Kind::Read) => self.writes,
            Ok(Kind::Local) | Err(_) => 0,
        };
        if others > 0 {
            return Some(parsed);
        }
        let is_understood = parsed.action.is_ok();
        let ends_feed = matches!(
            parsed.action,
            Ok(Action::Unfeed | Action::Connection(ConnectionAction::Reset))
        );
        let is_resp2 = Encoding::of(parsed.dialect, self.session.resp3()) == Encoding::Resp2;
        let is_fed = is_resp2 && self.feed.is_some() && !ends_feed;
        let begun = match parsed.action {
            Ok(action) if is_fed && action.kind() != Kind::Local => Err(feed_is_on().into()),
            action => self.begin(action, parsed.bytes),
        };
        let ends_feed = ends_feed && !matches!(begun, Err(Response::Reply(Reply::Error(_))));
        let state = match begun {
            Ok((operation, then)) => {
                *self.under_way(then.is_write()) += 1;
                let ticket = self.first_ticket + self.slots.len() as u64;
                batch.push(Request { ticket, operation });
                State::Waiting(then)
            }
            Err(response) => {
                parsed
                    .trace
                    .ended(self.service, &self.session, Some(&response), is_understood);
                // The words are done with, the answer waits for its turn.
                parsed.trace.words = Vec::new();
                parsed.bytes = response.bytes();
                State::Ready(response)
            }
        };
        let is_silent = self.session.is_silent();
        // HELLO speaks the version that it chose.
        let encoding = Encoding::of(parsed.dialect, self.session.resp3());
        self.slots_bytes += parsed.bytes;
        self.slots.push_back(Slot {
            encoding,
            is_silent,
            bytes: parsed.bytes,
            state,
            ends_feed,
            trace: parsed.trace,
        });
        self.settle();
        None
    }

    /// What to ask the node and what to do with its answer; or the answer, where the node is not needed.
    fn begin(&mut self, action: Result<Action, Error>, bytes: usize) -> Result<(Operation, Then), Response> {
        let mode = self.session.mode();
        let action = action.inspect_err(|_| self.transaction.spoil())?;
        if self.transaction.queues(&action) {
            return Err(self.transaction.queue(action, bytes));
        }
        let begun = match action {
            Action::Answer(response) => return Err(response),
            Action::Unfeed => return Err(Reply::Ok.into()),
            Action::Connection(action) => {
                match action {
                    ConnectionAction::Quit => self.phase = Phase::Closing,
                    ConnectionAction::Reset => self.transaction.reset(),
                    _ => {}
                }
                return Err(self.session.perform(action));
            }
            Action::Administer(asked) => {
                let response = self.service.administer(asked, self.session.client());
                if self.session.client().is_leaving() {
                    self.phase = Phase::Closing;
                }
                return Err(response);
            }
            Action::Transaction(action) => match self.transaction.perform(action)? {
                Begun::Watch(keys) => {
                    let query = Query::Revisions(keys.clone());
                    (Operation::Query(query, linearizable(mode)), Then::Watched(keys))
                }
                Begun::Exec(repeat, command, locals) => (self.write(repeat, command), Then::Executed(locals)),
            },
            Action::Write(command) => (Operation::Write(command), Then::Written),
            Action::Repeatable(repeat, command) => (self.write(repeat, command), Then::Written),
            Action::Operate(operation) => (operation, Then::Written),
            Action::Query(query) => (Operation::Query(query, mode), Then::Read),
            Action::OfValue(query, key, derive) => {
                (Operation::Query(query, mode), Then::OfValue(key, derive))
            }
            Action::Walk(walk) => (Operation::View(mode), Then::Walk(walk)),
            Action::Scan(step) => {
                let from = self.service.resolve_cursor(step.cursor)?;
                (Operation::View(mode), Then::Scan(from, step))
            }
            Action::RandomKey => (Operation::View(mode), Then::Draw),
            Action::Feed { prefix, from } => (Operation::Feed { prefix, from, mode }, Then::Feed),
            Action::Page(page) => (Operation::Status, Then::Page(page)),
        };
        if self.phase == Phase::Draining {
            Err(stopping().into())
        } else {
            Ok(begun)
        }
    }

    /// A write by its token or number; how long a token is remembered says the configuration.
    fn write(&self, repeat: Repeat, command: Command) -> Operation {
        Operation::Write(match repeat {
            Repeat::No => command,
            Repeat::Once(token) => Command::Once {
                token,
                window_ms: self.service.options.once_window.as_millis() as u64,
                command: Box::new(command),
            },
            Repeat::Seq { session, n } => Command::Seq {
                session,
                n,
                command: Box::new(command),
            },
        })
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
            (Then::Feed, Outcome::Feed(feed)) => State::Feed(feed),
            (Then::Page(page), Outcome::Status(status)) => {
                State::Ready(pages::render(&page, &status, self.service))
            }
            (Then::OfValue(key, derive), Outcome::Reply(Reply::Value(value))) => {
                State::Ready(derive(&key, &value).into())
            }
            (Then::Executed(locals), Outcome::Reply(reply)) => State::Ready(with_locals(reply, locals)),
            (Then::Watched(keys), Outcome::Reply(reply)) => {
                State::Ready(self.transaction.on_watched(keys, reply))
            }
            (_, Outcome::Reply(reply)) => {
                if !is_write {
                    count_lookups(self.service, &reply);
                }
                State::Ready(reply.into())
            }
            _ => State::Ready(err("internal: the node gave an answer of the wrong kind").into()),
        };
        let response = if let State::Ready(response) = &slot.state {
            Some(response)
        } else {
            None
        };
        slot.trace.ended(self.service, &self.session, response, true);
        // The words are done with; a value is the store's own, but a list of them is not.
        let bytes = size_of::<Slot>() + response.map_or(0, Response::overhead_bytes);
        slot.trace.words = Vec::new();
        self.slots_bytes = self.slots_bytes - slot.bytes + bytes;
        slot.bytes = bytes;
        let under_way = self.under_way(is_write);
        *under_way = under_way.saturating_sub(1);
    }
}

impl Trace {
    fn of(place: Option<table::Place>, words: Vec<Bytes>) -> Trace {
        Trace {
            place,
            words: slowlog::words_to_keep(words),
            begun: Instant::now(),
        }
    }

    /// Of what is no request.
    fn none() -> Trace {
        Trace {
            place: None,
            words: Vec::new(),
            begun: Instant::now(),
        }
    }

    /// The answer is there, or a view of which it will be made. `is_understood`: the request was not refused for
    /// its words.
    fn ended(&self, service: &Service, session: &Session, response: Option<&Response>, is_understood: bool) {
        let error = response.and_then(Response::error);
        if let Some(error) = error {
            service.counters.on_error(error.code);
        }
        let ending = match error.map(|error| error.code) {
            None => Ending::Done,
            Some(Code::Busy) => Ending::Rejected,
            Some(_) if is_understood => Ending::Failed,
            Some(_) => Ending::Rejected,
        };
        let took = self.begun.elapsed();
        if let Some(place) = self.place {
            service.commands.on_ended(place, ending, took);
        }
        if !self.words.is_empty() {
            service.slowlog().on_ended(&self.words, took, session.client());
        }
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

/// The way of reading by which a client learns what it will write over.
fn linearizable(mode: ReadMode) -> ReadMode {
    match mode {
        ReadMode::Quorum | ReadMode::Stale => ReadMode::Quorum,
        ReadMode::Lease => ReadMode::Lease,
    }
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    Feed,
    Shutdown,
    Other,
}

async fn feed_due(feed: Option<&Following>) {
    if let Some(feed) = feed {
        feed.due().await;
    }
}

fn feed_is_on() -> Error {
    err(
        "a change feed is on, and in RESP2 its events could not be told from the reply; nothing was done: UNFEED \
         first, say HELLO 3, or use another connection",
    )
}

fn stopping_feed() -> Error {
    let text = "the node is shutting down: the feed ends; resume it on another node".into();
    Error {
        code: Code::ReadOnly,
        text,
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
