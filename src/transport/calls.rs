//! The calls of one connection that wait for an answer: request id → waiter, with deadlines.
//!
//! A call is in the table from the moment it is queued until exactly one of these: its answer, its
//! deadline, its cancellation, the end of the connection. `written` turns true just before its bytes are
//! handed to the socket for the first time, so that "not written" is certain and "written" means "perhaps".
//!
//! Memory: at most `max` calls.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// The table.
#[derive(Debug)]
pub(super) struct Calls {
    waiters: HashMap<u64, Waiter>,
    by_token: HashMap<u64, u64>,
    by_deadline: BTreeSet<(Instant, u64)>,
    max: usize,
}

#[derive(Debug)]
struct Waiter {
    token: u64,
    deadline: Instant,
    written: bool,
}

/// A call that will get no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// The caller's name for it.
    pub(super) token: u64,
    /// Whether bytes of it may have left.
    pub(super) written: bool,
}

impl Calls {
    /// An empty table.
    pub(super) fn new(max: usize) -> Calls {
        Calls {
            waiters: HashMap::new(),
            by_token: HashMap::new(),
            by_deadline: BTreeSet::new(),
            max,
        }
    }

    /// Whether no more calls may be entered.
    pub(super) fn is_full(&self) -> bool {
        self.waiters.len() >= self.max
    }

    /// Enters a call; `true` if its deadline is now the earliest.
    pub(super) fn insert(&mut self, request_id: u64, token: u64, deadline: Instant) -> bool {
        let earliest = self.next_deadline().is_none_or(|first| deadline < first);
        self.waiters.insert(
            request_id,
            Waiter {
                token,
                deadline,
                written: false,
            },
        );
        self.by_token.insert(token, request_id);
        self.by_deadline.insert((deadline, request_id));
        earliest
    }

    /// The call's bytes are about to be handed to the socket; `false` if it no longer waits, and then they
    /// must not be.
    pub(super) fn begin_write(&mut self, request_id: u64) -> bool {
        match self.waiters.get_mut(&request_id) {
            Some(waiter) => {
                waiter.written = true;
                true
            }
            None => false,
        }
    }

    /// Takes the call out: its answer is here, or it cannot be written. `None` if it no longer waits.
    pub(super) fn take(&mut self, request_id: u64) -> Option<u64> {
        let waiter = self.waiters.remove(&request_id)?;
        self.by_deadline.remove(&(waiter.deadline, request_id));
        // A token that its owner has used again belongs to the later call.
        if self.by_token.get(&waiter.token) == Some(&request_id) {
            self.by_token.remove(&waiter.token);
        }
        Some(waiter.token)
    }

    /// Takes the call out that its caller no longer waits for; `false` if there is none.
    pub(super) fn cancel(&mut self, token: u64) -> bool {
        match self.by_token.get(&token).copied() {
            Some(request_id) => self.take(request_id).is_some(),
            None => false,
        }
    }

    /// When the next call's time is up.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first().map(|first| first.0)
    }

    /// Takes out the calls whose time is up.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Failed> {
        let mut failed = Vec::new();
        while let Some(&(deadline, request_id)) = self.by_deadline.first()
            && deadline <= now
        {
            self.by_deadline.pop_first();
            let written = self.waiters.get(&request_id).is_some_and(|waiter| waiter.written);
            failed.extend(self.take(request_id).map(|token| Failed { token, written }));
        }
        failed
    }

    /// Takes all out, in the order in which they were made.
    pub(super) fn fail_all(&mut self) -> Vec<Failed> {
        let mut waiters: Vec<_> = self.waiters.drain().collect();
        self.by_token.clear();
        self.by_deadline.clear();
        waiters.sort_unstable_by_key(|(request_id, _)| *request_id);
        let failed = |(_, waiter): (u64, Waiter)| Failed {
            token: waiter.token,
            written: waiter.written,
        };
        waiters.into_iter().map(failed).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_call_ends_once() {
        let now = Instant::now();
        let at = |s| now + Duration::from_secs(s);
        let mut calls = Calls::new(5);
        assert!(calls.insert(1, 101, at(5)));
        assert!(calls.insert(2, 102, at(3)), "the earliest now");
        assert!(!calls.insert(3, 103, at(4)));
        assert!(!calls.insert(4, 104, at(9)) && !calls.is_full());
        assert!(!calls.insert(5, 105, at(9)) && calls.is_full());
        assert!(calls.begin_write(1) && calls.begin_write(3));
        assert_eq!(calls.take(1), Some(101));
        assert_eq!(calls.take(1), None, "a second answer finds nobody");
        assert!(calls.cancel(105) && !calls.cancel(105) && !calls.begin_write(5));
        assert_eq!(calls.next_deadline(), Some(at(3)));
        let failed = |token, written| Failed { token, written };
        assert_eq!(calls.expire(at(4)), [failed(102, false), failed(103, true)]);
        assert_eq!(calls.fail_all(), [failed(104, false)]);
        assert!(calls.next_deadline().is_none() && calls.by_token.is_empty());
    }
}
