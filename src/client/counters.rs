//! What has happened on the client port, for INFO and metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::kv::Code;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of the client port; all begin at 0 and only `connections` goes down again.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($name: Counter,)*
            /// Error replies by their code, in the order of [`Code::ALL`].
            errors: [Counter; Code::ALL.len()],
        }

        impl Counters {
            $($(#[$doc])* pub fn $name(&self) -> u64 { self.$name.load() })*
        }
    };
}

counters! {
    /// Clients that are connected.
    connections,
    /// Clients that ever connected, those refused not counted.
    connections_received,
    /// Clients refused because of `limits.max_connections`.
    connections_rejected,
    /// Requests that were read, refused ones included.
    commands,
    /// Connections closed because of what is no request, or is too large.
    protocol_errors,
    /// Connections that CLIENT KILL closed.
    killed,
    /// Connections closed because nothing came for `limits.idle_timeout`.
    idle_closed,
    /// Connections cut because their clients did not read their replies.
    stalled,
    /// Requests that were refused because all connections together held too much, see `budget`.
    over_budget,
    /// Reads of a key that was there.
    hits,
    /// Reads of a key that was not.
    misses,
    /// Bytes read from clients.
    bytes_in,
    /// Bytes written to clients.
    bytes_out,
}

#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(super) fn on_rejected(&self) {
        self.connections_rejected.add(1);
    }

    /// Counts a client as connected until the guard is dropped.
    pub(super) fn on_connected(&self) -> Connected<'_> {
        self.connections_received.add(1);
        self.connections.add(1);
        Connected(self)
    }

    pub(super) fn on_command(&self) {
        self.commands.add(1);
    }

    /// Error replies that were made.
    pub fn errors(&self) -> u64 {
        self.errors.iter().map(Counter::load).sum()
    }

    /// Error replies with this code.
    pub fn errors_of(&self, code: Code) -> u64 {
        let by_code = Code::ALL.iter().zip(&self.errors);
        by_code
            .filter(|(of, _)| **of == code)
            .map(|(_, counter)| counter.load())
            .sum()
    }

    pub(super) fn on_error(&self, code: Code) {
        let place = Code::ALL.iter().position(|of| *of == code);
        if let Some(counter) = place.and_then(|place| self.errors.get(place)) {
            counter.add(1);
        }
    }

    pub(super) fn on_protocol_error(&self) {
        self.protocol_errors.add(1);
    }

    pub(super) fn on_killed(&self) {
        self.killed.add(1);
    }

    pub(super) fn on_idle_closed(&self) {
        self.idle_closed.add(1);
    }

    pub(super) fn on_stalled(&self) {
        self.stalled.add(1);
    }

    pub(super) fn on_over_budget(&self) {
        self.over_budget.add(1);
    }

    /// CONFIG RESETSTAT: all at 0 but those that say what is now.
    pub(super) fn reset(&self) {
        let counters = [
            &self.connections_received,
            &self.connections_rejected,
            &self.commands,
            &self.hits,
            &self.misses,
            &self.bytes_in,
            &self.bytes_out,
        ];
        counters
            .into_iter()
            .chain(&self.errors)
            .for_each(|counter| counter.0.store(0, Ordering::Relaxed));
    }

    pub(super) fn on_lookup(&self, found: bool) {
        if found {
            self.hits.add(1)
        } else {
            self.misses.add(1)
        }
    }

    pub(super) fn on_read(&self, bytes: usize) {
        self.bytes_in.add(bytes as u64);
    }

    pub(super) fn on_written(&self, bytes: usize) {
        self.bytes_out.add(bytes as u64);
    }
}

/// A connected client.
#[derive(Debug)]
pub(super) struct Connected<'a>(&'a Counters);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.connections.0.fetch_sub(1, Ordering::Relaxed);
    }
}
