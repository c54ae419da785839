//! What users speak: two dialects on one port, one command table, one connection after the other.
//!
//! A request goes down and its reply comes up:
//!
//! 1. `connection` reads bytes; `codec` picks the dialect by the first byte of each request, `line` or `resp`
//!    give the words.
//! 2. `table` finds the command's row and makes an `Action` of the words, or an error that says what is wrong.
//! 3. What the node must answer is submitted to [`Node`], all that arrived together in one message; what
//!    concerns the connection alone is answered by `session`.
//! 4. Answers come back in any order and leave in the order of the requests; what is ready leaves in one
//!    write. Reads of many keys are walked here, piece by piece, by `walk`; `pages` makes INFO and STATUS.
//!
//! **Order.** A connection sees the effects of its own requests in their order, on any node: while writes are
//! under way, more writes may follow, but a read waits for their answers, and the other way round. Writes of
//! one connection are applied in their order because they travel to the leader in it.
//!
//! Between MULTI and EXEC nothing goes to the node: `transaction` gathers the commands, and EXEC is one write.
//!
//! **Feeds.** FEED makes the connection one on which events leave between the replies, for as long as its client
//! likes: other requests go on, but in RESP2, where a client could not tell their lists from events. A feed ends with
//! UNFEED or RESET; one that can't go on ends with an error, and the connection with it.
//!
//! **Bounds.** A connection has at most 1024 requests under way, and some MiB of them, and a transaction of the size of
//! one request; past it, and while its client does not read replies, nothing more is read from its socket. All
//! connections together have a bound of their own, see `budget`. Nothing that comes from a socket ends in a panic.
//!
//! **For operators.** `registry` knows all connections, `settings` what can change while the node runs, `stats` and
//! `slowlog` how long commands took; `administration` answers for them, `info` puts it on one page.
//!
//! This layer knows nothing of Raft, the log, or other nodes beyond what [`Node`] tells.
//!
//! Missing: users and permissions (the table's flags are there for them), TLS.

mod accept;
mod administration;
mod budget;
mod codec;
mod connection;
mod counters;
#[cfg(test)]
mod fake;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod info;
pub(crate) mod line;
mod pages;
mod registry;
mod reply;
pub(crate) mod resp;
mod session;
mod settings;
mod slowlog;
mod stats;
mod table;
mod transaction;
#[cfg(test)]
mod transcripts;
mod walk;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::kv::Error;
use crate::node::{Node, ReadMode};

pub use accept::serve;
pub use connection::{Ends, serve_connection};
pub use counters::Counters;

/// What the client layer is told by the configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// `limits.max_connections`: one more is told so and closed.
    pub max_connections: usize,
    /// `limits.max_request`: bytes of one line, or of one RESP request with its framing.
    pub max_request_bytes: usize,
    /// `limits.idle_timeout`: a connection that asks nothing for so long is closed; zero is never.
    pub idle_timeout: Duration,
    /// How long a client may take to read a piece of its replies before it is cut.
    pub stall_timeout: Duration,
    /// `limits.once_window`: how long tokens of ONCE are remembered.
    pub once_window: Duration,
    /// A change feed that has shown nothing for so long says how far it has read.
    pub mark_interval: Duration,
    /// `raft.read_mode`: how connections read that did not say READ.
    pub read_mode: ReadMode,
    /// The port of `listen.client`, for INFO.
    pub tcp_port: u16,
    /// `limits.max_pending`, for CONFIG GET; the node itself heeds it.
    pub max_pending: usize,
    /// `limits.max_memory` in bytes, 0 without a bound; for INFO and CONFIG GET, as the next two.
    pub max_memory_bytes: u64,
    /// `limits.request_timeout`.
    pub request_timeout: Duration,
    /// `storage.fsync`.
    pub fsync: bool,
    /// What all connections together may hold of requests and replies, beyond a small allowance for each.
    pub buffered_max_bytes: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            max_connections: 10_000,
            max_request_bytes: 1 << 20,
            idle_timeout: Duration::ZERO,
            stall_timeout: Duration::from_secs(30),
            once_window: Duration::from_secs(3600),
            mark_interval: Duration::from_secs(5),
            read_mode: ReadMode::Quorum,
            tcp_port: 7238,
            max_pending: 65_536,
            max_memory_bytes: 0,
            request_timeout: Duration::from_secs(4),
            fsync: true,
            buffered_max_bytes: 256 << 20,
        }
    }
}

/// What all connections of a node share.
#[derive(Debug)]
pub struct Service {
    node: Node,
    options: Options,
    counters: Counters,
    settings: settings::Settings,
    commands: stats::CommandStats,
    clients: Arc<registry::Registry>,
    slowlog: Mutex<slowlog::Slowlog>,
    snapshots: administration::Snapshots,
    budget: budget::Budget,
    cursors: Mutex<walk::Cursors>,
    started: Instant,
}

impl Service {
    /// The service of this node.
    pub fn new(node: Node, options: Options) -> Arc<Service> {
        Arc::new(Service {
            node,
            settings: settings::Settings::new(&options),
            budget: budget::Budget::new(options.buffered_max_bytes),
            options,
            counters: Counters::default(),
            commands: stats::CommandStats::new(),
            clients: Arc::default(),
            slowlog: Mutex::new(slowlog::Slowlog::new()),
            snapshots: administration::Snapshots::default(),
            cursors: Mutex::new(walk::Cursors::new()),
            started: Instant::now(),
        })
    }

    /// What has happened so far, for INFO and metrics.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The options it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What all connections together hold of requests and replies, beyond a small allowance for each, in bytes.
    pub fn buffered_bytes(&self) -> u64 {
        self.budget.used() as u64
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    fn remember_cursor(&self, key: Bytes) -> u64 {
        self.cursors().remember(key)
    }

    fn resolve_cursor(&self, cursor: u64) -> Result<Bytes, Error> {
        self.cursors().resolve(cursor)
    }

    fn cursors(&self) -> MutexGuard<'_, walk::Cursors> {
        lock(&self.cursors)
    }

    fn slowlog(&self) -> MutexGuard<'_, slowlog::Slowlog> {
        lock(&self.slowlog)
    }
}

/// Nothing panics while it holds one of these locks; if it did, what is inside would still be whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
