//! Whether a command is tried again, and when: the rules, without a clock or a socket.
//!
//! - A node that cannot be reached has done nothing: the next address is tried at once, and after a round of
//!   all of them the next round begins a little later. Before any node was ever reached there is one round
//!   only: a wrong address is to be told at once.
//! - A reply whose code says "not done, try again" moves on likewise.
//! - When the connection is lost after the request went out, or the reply is `UNKNOWNRESULT`, the command may
//!   have been done. It is repeated only if that does no harm: a read, or a write under a token.
//! - What holds only on this connection, or is meant for this node, is never moved elsewhere.

use std::time::Duration;

/// The pause after the first round in vain; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a command may bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Safety {
    /// It may be sent again even if it was done: a read, or a write under a token.
    Repeatable,
    /// It may be sent again only if it was certainly not done.
    Once,
    /// It means something on this connection or this node only: never sent again.
    Bound,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome<'a> {
    /// No connection: nothing was sent.
    NotConnected,
    /// The connection was lost, or the node was silent, after the request went out.
    Lost,
    /// A reply with this error code came.
    Error(&'a [u8]),
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Try the next address after this pause.
    Elsewhere(Duration),
    /// It stays at this outcome.
    Stop,
}

/// The attempts of one command.
#[derive(Clone, Debug)]
pub(super) struct Attempts {
    safety: Safety,
    addresses: usize,
    /// Whether a node was ever reached.
    reached: bool,
    /// How long all of it may take.
    limit: Duration,
    failures: usize,
    pause: Duration,
}

impl Attempts {
    /// A command that has not been tried, at so many addresses (at least one).
    pub(super) fn new(safety: Safety, addresses: usize, reached: bool, limit: Duration) -> Attempts {
        Attempts {
            safety,
            addresses: addresses.max(1),
            reached,
            limit,
            failures: 0,
            pause: PAUSE_MIN,
        }
    }

    /// What follows an attempt that ended so, `elapsed` after the first one began.
    pub(super) fn next(&mut self, outcome: Outcome<'_>, elapsed: Duration) -> Next {
        self.failures += 1;
        let round_is_over = self.failures.is_multiple_of(self.addresses);
        let may_go_on = match outcome {
            Outcome::NotConnected => self.reached || !round_is_over,
            Outcome::Lost | Outcome::Error(b"UNKNOWNRESULT") => self.safety == Safety::Repeatable,
            Outcome::Error(b"CLUSTERDOWN" | b"TRYAGAIN" | b"LOADING" | b"BUSY") => {
                self.safety != Safety::Bound
            }
            // One node may be shutting down; if all refuse, their disks are full.
            Outcome::Error(b"READONLY") => self.safety != Safety::Bound && self.failures < self.addresses,
            Outcome::Error(_) => false,
        };
        self.reached |= outcome != Outcome::NotConnected;
        let pause = if round_is_over { self.pause } else { Duration::ZERO };
        if !may_go_on || elapsed + pause >= self.limit {
            return Next::Stop;
        }
        if round_is_over {
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
        Next::Elsewhere(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);
    const NOW: Next = Next::Elsewhere(Duration::ZERO);

    fn attempts(safety: Safety, addresses: usize) -> Attempts {
        Attempts::new(safety, addresses, true, LIMIT)
    }

    fn goes_on(safety: Safety, outcome: Outcome<'_>) -> bool {
        attempts(safety, 3).next(outcome, Duration::ZERO) != Next::Stop
    }

    #[test]
    fn what_was_perhaps_done_is_repeated_only_where_that_does_no_harm() {
        for outcome in [Outcome::Lost, Outcome::Error(b"UNKNOWNRESULT")] {
            assert!(goes_on(Safety::Repeatable, outcome));
            assert!(!goes_on(Safety::Once, outcome));
            assert!(!goes_on(Safety::Bound, outcome));
        }
    }

    #[test]
    fn what_was_certainly_not_done_is_tried_elsewhere() {
        for code in [&b"CLUSTERDOWN"[..], b"TRYAGAIN", b"LOADING", b"BUSY", b"READONLY"] {
            assert!(goes_on(Safety::Repeatable, Outcome::Error(code)));
            assert!(goes_on(Safety::Once, Outcome::Error(code)));
            assert!(!goes_on(Safety::Bound, Outcome::Error(code)));
        }
        for code in [&b"ERR"[..], b"OOM", b"CONFLICT", b"NOPERM", b"EXECABORT", b""] {
            assert!(!goes_on(Safety::Repeatable, Outcome::Error(code)));
        }
        assert!(goes_on(Safety::Bound, Outcome::NotConnected));
    }

    #[test]
    fn a_pause_comes_after_each_round_and_grows() {
        let mut attempts = attempts(Safety::Repeatable, 2);
        let pauses = (0..20).map(|_| attempts.next(Outcome::NotConnected, Duration::ZERO));
        let pauses: Vec<Next> = pauses.collect();
        assert_eq!(pauses[0], NOW);
        assert_eq!(pauses[1], Next::Elsewhere(Duration::from_millis(50)));
        assert_eq!(pauses[2], NOW);
        assert_eq!(pauses[3], Next::Elsewhere(Duration::from_millis(100)));
        assert_eq!(pauses[19], Next::Elsewhere(Duration::from_secs(1)));
    }

    #[test]
    fn a_cluster_that_was_never_reached_is_tried_once_all_round() {
        let mut attempts = Attempts::new(Safety::Repeatable, 2, false, LIMIT);
        assert_eq!(attempts.next(Outcome::NotConnected, Duration::ZERO), NOW);
        assert_eq!(attempts.next(Outcome::NotConnected, Duration::ZERO), Next::Stop);
        // One that answered, if only to say that it cannot, is worth waiting for.
        let mut attempts = Attempts::new(Safety::Repeatable, 2, false, LIMIT);
        assert_eq!(attempts.next(Outcome::NotConnected, Duration::ZERO), NOW);
        assert_ne!(
            attempts.next(Outcome::Error(b"LOADING"), Duration::ZERO),
            Next::Stop
        );
        assert_eq!(attempts.next(Outcome::NotConnected, Duration::ZERO), NOW);
        assert_ne!(attempts.next(Outcome::NotConnected, Duration::ZERO), Next::Stop);
    }

    #[test]
    fn it_ends_at_the_limit() {
        let mut attempts = attempts(Safety::Repeatable, 1);
        assert_ne!(
            attempts.next(Outcome::Lost, LIMIT - Duration::from_secs(1)),
            Next::Stop
        );
        assert_eq!(attempts.next(Outcome::Lost, LIMIT), Next::Stop);
    }

    #[test]
    fn full_disks_everywhere_are_told_after_one_round() {
        let mut attempts = attempts(Safety::Repeatable, 2);
        assert_eq!(attempts.next(Outcome::Error(b"READONLY"), Duration::ZERO), NOW);
        assert_eq!(
            attempts.next(Outcome::Error(b"READONLY"), Duration::ZERO),
            Next::Stop
        );
    }
}
