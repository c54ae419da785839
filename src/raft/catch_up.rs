//! How a learner catches up (Diss. 4.2.1): in rounds, each of which brings it what the log held when the round began.
//! A round that was shorter than an election timeout shows that the cluster would not wait long for it as a voter.
//!
//! A learner that never gets there stays a learner (trap 3.43); the status says so.

use super::types::{Index, Ticks};

/// After how many rounds a learner counts as one that may never catch up (Diss. 4.2.1 has ten).
const ROUNDS_EXPECTED: u32 = 10;

/// A learner's rounds as its leader sees them.
#[derive(Clone, Copy, Debug)]
pub(super) struct CatchUp {
    /// The last index when the round under way began.
    round_end: Index,
    round_began: Ticks,
    /// How long the last full round took, in milliseconds.
    last_round_ms: Option<u64>,
    /// Full rounds.
    rounds: u32,
}

/// How a learner gets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUpStatus {
    /// How many entries it lacks.
    pub lacks: u64,
    /// Full rounds so far.
    pub rounds: u32,
    /// How long the last full round took, in milliseconds.
    pub last_round_ms: Option<u64>,
    /// Whether it would be made a voter, were nothing else in the way.
    pub is_caught_up: bool,
    /// Whether it has had all the rounds in which a server is expected to catch up, and has not. It stays a learner and
    /// is still made a voter when it does.
    pub is_overdue: bool,
}

impl CatchUp {
    /// The first round begins.
    pub fn new(last_index: Index, now: Ticks) -> CatchUp {
        CatchUp {
            round_end: last_index,
            round_began: now,
            last_round_ms: None,
            rounds: 0,
        }
    }

    /// The learner holds the log up to `match_index`, which ends at `last_index`.
    pub fn observe(&mut self, match_index: Index, last_index: Index, now: Ticks) {
        if match_index >= self.round_end {
            *self = CatchUp {
                last_round_ms: Some(now.since(self.round_began)),
                rounds: self.rounds.saturating_add(1),
                ..CatchUp::new(last_index, now)
            };
        }
    }

    /// Whether the last round was short enough, and the one under way may still be.
    pub fn is_caught_up(&self, now: Ticks, election_timeout_ms: u64) -> bool {
        let is_short = |ms: u64| ms < election_timeout_ms;
        self.last_round_ms.is_some_and(is_short) && is_short(now.since(self.round_began))
    }

    /// For the status.
    pub fn status(&self, lacks: u64, now: Ticks, election_timeout_ms: u64) -> CatchUpStatus {
        let is_caught_up = self.is_caught_up(now, election_timeout_ms);
        CatchUpStatus {
            lacks,
            rounds: self.rounds,
            last_round_ms: self.last_round_ms,
            is_caught_up,
            is_overdue: self.rounds >= ROUNDS_EXPECTED && !is_caught_up,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap_3_43_a_learner_that_only_keeps_its_distance_is_overdue() {
        let mut catch_up = CatchUp::new(Index(100), Ticks(0));
        for round in 1..=12_u64 {
            catch_up.observe(
                Index(round * 100 - 1),
                Index(round * 100 + 100),
                Ticks(round * 2000),
            );
            assert_eq!(catch_up.rounds as u64, round - 1, "the round is not full");
            catch_up.observe(Index(round * 100), Index(round * 100 + 100), Ticks(round * 2000));
            let status = catch_up.status(100, Ticks(round * 2000), 1000);
            assert_eq!((status.is_caught_up, status.is_overdue), (false, round >= 10));
        }
        catch_up.observe(Index(1300), Index(1300), Ticks(24_999));
        assert!(catch_up.is_caught_up(Ticks(25_000), 1000));
        assert!(
            !catch_up.is_caught_up(Ticks(25_999), 1000),
            "silent for a whole timeout"
        );
    }
}
