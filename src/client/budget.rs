//! What all connections together may hold in memory: requests that have arrived and are not answered, and replies that
//! are not yet read.
//!
//! A connection has bounds of its own; ten thousand of them at their bounds would be tens of gigabytes. So
//! everything that a connection holds beyond a small allowance is counted here. While the sum is over the limit,
//! connections within their allowance are served as ever, and the others are refused with BUSY, or not read from,
//! until there is room.
//!
//! Values on their way to a client are not counted: they are the store's own bytes, not a copy.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// What a connection may hold without being counted. Ten thousand of these are 160 MiB.
pub(crate) const ALLOWANCE_BYTES: usize = 16 << 10;

/// The sum over all connections.
#[derive(Debug)]
pub(crate) struct Budget {
    max_bytes: usize,
    used: AtomicUsize,
    /// Told when the sum falls below the limit.
    freed: Notify,
}

/// What one connection has of it.
#[derive(Debug)]
pub(crate) struct Share<'a> {
    budget: &'a Budget,
    held: usize,
}

impl Budget {
    /// Nothing is held yet.
    pub(crate) fn new(max_bytes: usize) -> Budget {
        Budget {
            max_bytes,
            used: AtomicUsize::new(0),
            freed: Notify::new(),
        }
    }

    /// What is held beyond the allowances, in bytes.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The limit.
    pub(crate) fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Whether the sum is over the limit.
    pub(crate) fn is_over(&self) -> bool {
        self.used() > self.max_bytes
    }

    /// A share in which nothing is held.
    pub(crate) fn share(&self) -> Share<'_> {
        Share {
            budget: self,
            held: 0,
        }
    }

    /// Waits until the sum is within the limit.
    pub(crate) async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            if !self.is_over() {
                return;
            }
            freed.await;
        }
    }
}

impl Share<'_> {
    /// The connection holds so much now.
    pub(crate) fn set(&mut self, held: usize) {
        let counted = |held: usize| held.saturating_sub(ALLOWANCE_BYTES);
        let (before, now) = (counted(self.held), counted(held));
        self.held = held;
        let used = &self.budget.used;
        if now >= before {
            used.fetch_add(now - before, Ordering::Relaxed);
            return;
        }
        let sum = used.fetch_sub(before - now, Ordering::Relaxed);
        let max = self.budget.max_bytes;
        if sum > max && sum - (before - now) <= max {
            self.budget.freed.notify_waiters();
        }
    }

    /// Whether the connection may go on holding what it does: the sum is within the limit, or its part within the
    /// allowance.
    pub(crate) fn is_welcome(&self) -> bool {
        self.held <= ALLOWANCE_BYTES || !self.budget.is_over()
    }

    /// How much the connection may read at once when it would read `wanted`: within its allowance while the sum is over
    /// the limit.
    pub(crate) fn may_read(&self, wanted: usize) -> usize {
        if self.budget.is_over() {
            wanted.min(ALLOWANCE_BYTES.saturating_sub(self.held))
        } else {
            wanted
        }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_beyond_the_allowance_counts_until_it_is_let_go() {
        let budget = Budget::new(100);
        let (mut first, mut second) = (budget.share(), budget.share());
        first.set(ALLOWANCE_BYTES);
        assert_eq!(budget.used(), 0);
        first.set(ALLOWANCE_BYTES + 100);
        assert!(!budget.is_over() && first.is_welcome());
        second.set(ALLOWANCE_BYTES + 1);
        assert!(budget.is_over() && !first.is_welcome() && !second.is_welcome());
        assert_eq!(second.may_read(5), 0);
        second.set(ALLOWANCE_BYTES - 3);
        budget.room().await;
        first.set(ALLOWANCE_BYTES + 200);
        assert!(second.is_welcome(), "the allowance is everybody's");
        assert_eq!((second.may_read(5), first.may_read(5)), (3, 0));
        let (room, ()) = tokio::join!(budget.room(), async { drop(first) });
        assert_eq!((room, budget.used()), ((), 0));
        assert_eq!(second.may_read(5), 5);
    }
}
