//! What has happened on the client port, for INFO and metrics.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of the client port; all begin at 0 and only `connections` goes down again.
        #[derive(Debug, Default)]
        pub struct Counters { $($name: Counter,)* }

        impl Counters {
            $($(#[$doc])* pub fn $name(&self) -> u64 { self.$name.0.load(Ordering::Relaxed) })*
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
    /// Error replies that were sent.
    errors,
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

    pub(super) fn on_error(&self) {
        self.errors.add(1);
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
