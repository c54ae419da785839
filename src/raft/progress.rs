//! One follower as its leader sees it (Raft figure 2, "volatile state on leaders").

use std::collections::VecDeque;

use super::types::{Index, Ticks};

/// What a leader knows of one follower.
///
/// Always `match_index < next_index`; `match_index` only grows while the leader leads (trap 3.14).
#[derive(Clone, Debug)]
pub struct Progress {
    /// The greatest index up to which the follower is known to hold the leader's log durably; in
    /// `[0, last_index]`.
    pub match_index: Index,
    /// The next entry to send; in `[match_index + 1, last_index + 1]`.
    pub next_index: Index,
    /// How entries are sent.
    pub state: State,
    /// The current session: an answer of another one is dropped (trap 3.15).
    pub session: u64,
    /// When an answer of this follower last arrived; the start of the leadership at first. For check-quorum.
    pub last_answer: Ticks,
    /// The latest ReadIndex round that the follower has confirmed.
    pub read_round: u64,
    /// Whether the follower votes for nobody else while it hears this leader.
    pub promises_lease: bool,
}

/// How entries are sent to a follower.
#[derive(Clone, Debug)]
pub enum State {
    /// Where the logs agree is not known: one request at a time.
    Probe {
        /// The request under way.
        outstanding: Option<Sent>,
    },
    /// The logs agree up to `next_index - 1` unless something was lost: requests are pipelined.
    Replicate {
        /// The requests under way, oldest first; bounded by the options' window.
        inflight: VecDeque<Sent>,
    },
}

/// An AppendEntries that was sent and not answered.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Its number.
    pub sequence: u64,
    /// Its last entry.
    pub last_index: Index,
    /// The size of its entries.
    pub bytes: usize,
    /// When it was sent.
    pub at: Ticks,
}

/// How much may be under way to one follower.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Requests.
    pub max_requests: usize,
    /// Bytes of entries; one request may always be under way.
    pub max_bytes: usize,
}

impl Progress {
    /// A follower of which nothing is known but where to try first.
    pub fn new(next_index: Index, session: u64, now: Ticks) -> Progress {
        Progress {
            match_index: Index(0),
            next_index,
            state: State::Probe { outstanding: None },
            session,
            last_answer: now,
            read_round: 0,
            promises_lease: false,
        }
    }

    /// Starts over from what is certain: after a rejection, a silence or a new connection.
    pub fn probe_from(&mut self, next_index: Index) {
        self.next_index = next_index.max(self.match_index.next());
        self.state = State::Probe { outstanding: None };
    }

    /// What was under way is lost. Where the logs agree is tried again where it was tried, or, once it was
    /// known, from there.
    pub fn restart(&mut self) {
        match self.state {
            State::Probe { .. } => self.probe_from(self.next_index),
            State::Replicate { .. } => self.probe_from(self.match_index.next()),
        }
    }

    /// Whether there is something to send to a follower while the log ends at `last_index`: entries, or the
    /// question whether it still holds what it was sent.
    pub fn lacks(&self, last_index: Index) -> bool {
        self.next_index <= last_index
            || (matches!(self.state, State::Probe { .. }) && self.match_index < last_index)
    }

    /// Whether another request may be sent.
    pub fn may_send(&self, window: Window) -> bool {
        match &self.state {
            State::Probe { outstanding } => outstanding.is_none(),
            State::Replicate { inflight } => {
                inflight.len() < window.max_requests
                    && (inflight.is_empty()
                        || inflight.iter().map(|sent| sent.bytes).sum::<usize>() < window.max_bytes)
            }
        }
    }

    /// Notes a request that was just sent.
    pub fn sent(&mut self, sent: Sent) {
        match &mut self.state {
            State::Probe { outstanding } => *outstanding = Some(sent),
            State::Replicate { inflight } => {
                inflight.push_back(sent);
                self.next_index = sent.last_index.next();
            }
        }
    }

    /// The follower holds everything up to `last_index`. True whenever it arrives, late or twice, as long as
    /// the session is the same: a follower takes nothing back within a term.
    pub fn accepted(&mut self, sequence: u64, last_index: Index) {
        self.match_index = self.match_index.max(last_index);
        self.next_index = self.next_index.max(self.match_index.next());
        match &mut self.state {
            State::Probe { .. } => {
                self.state = State::Replicate {
                    inflight: VecDeque::new(),
                }
            }
            State::Replicate { inflight } => {
                inflight.retain(|sent| sent.sequence != sequence && sent.last_index > last_index);
            }
        }
    }

    /// Whether the rejection of a request with this `prev_log` says something new: of the question that is being
    /// asked, whichever copy of it was answered, or of a pipelined request. What is known to match is never
    /// given up for it (trap 3.14).
    pub fn is_rejected_by(&self, prev_log_index: Index) -> bool {
        prev_log_index > self.match_index
            && match &self.state {
                State::Probe { .. } => prev_log_index == self.next_index.prev(),
                State::Replicate { .. } => true,
            }
    }

    /// The oldest request under way.
    pub fn oldest(&self) -> Option<Sent> {
        match &self.state {
            State::Probe { outstanding } => *outstanding,
            State::Replicate { inflight } => inflight.front().copied(),
        }
    }

    /// How many requests are under way.
    pub fn inflight(&self) -> usize {
        match &self.state {
            State::Probe { outstanding } => usize::from(outstanding.is_some()),
            State::Replicate { inflight } => inflight.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    fn sent(sequence: u64, last_index: u64) -> Sent {
        Sent {
            sequence,
            last_index: Index(last_index),
            bytes: 10,
            at: Ticks(0),
        }
    }

    #[test]
    fn trap_3_14_answers_in_any_order_move_both_indexes_rightly() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut progress = Progress::new(Index(1), 1, Ticks(0));
            progress.accepted(0, Index(0));
            let mut answers: Vec<u64> = (1..=20).collect();
            for i in 1..=20 {
                progress.sent(sent(i, i));
            }
            let mut highest = 0;
            while !answers.is_empty() {
                let pick = rng.below(answers.len() as u64) as usize;
                let i = if rng.one_in(3) {
                    answers[pick]
                } else {
                    answers.remove(pick)
                };
                progress.accepted(i, Index(i));
                highest = highest.max(i);
                assert_eq!(
                    (progress.match_index, progress.next_index),
                    (Index(highest), Index(21))
                );
            }
            assert_eq!(progress.inflight(), 0);
        }
    }

    #[test]
    fn a_rejection_counts_for_the_question_being_asked_only() {
        let mut progress = Progress::new(Index(10), 1, Ticks(0));
        progress.sent(sent(5, 12));
        assert!(!progress.may_send(Window {
            max_requests: 9,
            max_bytes: 100
        }));
        assert!(progress.is_rejected_by(Index(9)));
        assert!(!progress.is_rejected_by(Index(8)));
        progress.accepted(5, Index(12));
        assert!(progress.is_rejected_by(Index(13)));
        assert!(!progress.is_rejected_by(Index(12)));
        progress.probe_from(Index(3));
        assert_eq!(progress.next_index, Index(13));
        assert!(!progress.is_rejected_by(Index(12)));
    }

    #[test]
    fn the_window_bounds_requests_and_bytes() {
        let window = Window {
            max_requests: 3,
            max_bytes: 15,
        };
        let mut progress = Progress::new(Index(1), 1, Ticks(0));
        progress.accepted(0, Index(0));
        progress.sent(Sent {
            bytes: 100,
            ..sent(1, 1)
        });
        assert!(!progress.may_send(window));
        progress.accepted(1, Index(1));
        for i in 2..4 {
            assert!(progress.may_send(window));
            progress.sent(sent(i, i));
        }
        assert!(!progress.may_send(window));
    }
}
