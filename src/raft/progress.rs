//! One follower as its leader sees it (Raft figure 2, "volatile state on leaders").

use std::collections::VecDeque;

use super::types::{EntryId, Index, SnapshotHeader, Ticks};
use crate::base::mutant::{self, Mutant};

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
    /// What the follower needs next is not in the log any more: it gets the snapshot (Raft 7).
    Snapshot(Box<Sending>),
}

/// A snapshot on its way to a follower.
///
/// Chunks go out in order, several at a time, and the answers say which one is wanted next. In
/// `[acked, acked + CHUNKS_UNDER_WAY]` lies `next_chunk`.
#[derive(Clone, Debug)]
pub struct Sending {
    /// The snapshot.
    pub header: SnapshotHeader,
    /// The follower wants this chunk next: it has stored all before.
    acked: u64,
    /// The next chunk to send.
    next_chunk: u64,
    /// The follower has stored the last chunk, and works on it.
    is_complete: bool,
    /// What the follower has is not known, as after a silence or with a new connection: one chunk goes out, and the
    /// answer says where to go on, be it further back.
    is_asking: bool,
    /// What is under way was sent again, because the chunk that is wanted was lost. Once only for each that is wanted.
    is_rewound: bool,
    /// When the follower last came further, or was asked.
    at: Ticks,
}

/// So many chunks may be under way to one follower: enough to keep a connection busy while a disk writes, and few
/// enough that heartbeats do not wait long behind them.
const CHUNKS_UNDER_WAY: u64 = 4;

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
    /// While `EAGER_REQUESTS` are under way, the next one waits until it has so many bytes of entries, or until one
    /// of them is answered.
    pub gather_bytes: usize,
}

/// One that the follower writes to its disk, and one that it finds when it is done: a third would wait there just as
/// well as here, where it may still grow. Fewer and larger requests cost both sides less, and delay nothing.
const EAGER_REQUESTS: usize = 2;

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
        let after_match = next_index.max(self.match_index.next());
        self.next_index = mutant::pick(Mutant::NextBelowMatch, after_match, next_index);
        self.state = State::Probe { outstanding: None };
    }

    /// What was under way is lost. Where the logs agree is tried again where it was tried, or, once it was
    /// known, from there.
    pub fn restart(&mut self) {
        match self.state {
            State::Probe { .. } => self.probe_from(self.next_index),
            State::Replicate { .. } => self.probe_from(self.match_index.next()),
            State::Snapshot(ref mut sending) => sending.ask(),
        }
    }

    /// What comes after `match_index` is not in the log: the snapshot goes out instead.
    pub fn send_snapshot(&mut self, header: SnapshotHeader, now: Ticks) {
        self.state = State::Snapshot(Box::new(Sending::new(header, now)));
    }

    /// The snapshot on its way to this follower.
    pub fn sending(&self) -> Option<&Sending> {
        match &self.state {
            State::Snapshot(sending) => Some(sending),
            State::Probe { .. } | State::Replicate { .. } => None,
        }
    }

    /// The same.
    pub fn sending_mut(&mut self) -> Option<&mut Sending> {
        match &mut self.state {
            State::Snapshot(sending) => Some(sending),
            State::Probe { .. } | State::Replicate { .. } => None,
        }
    }

    /// The follower holds everything up to `index` durably, from a snapshot or otherwise.
    pub fn holds_up_to(&mut self, index: Index) {
        let greatest = self.match_index.max(index);
        self.match_index = mutant::pick(Mutant::MatchIndexFalls, greatest, index);
        self.next_index = self.next_index.max(self.match_index.next());
    }

    /// A snapshot that the follower has is no longer sent. If the log, which begins after `base`, has what comes next,
    /// the follower gets entries again.
    pub fn end_snapshot(&mut self, base: Index) {
        let Some(last) = self.sending().map(Sending::last) else {
            return;
        };
        if self.match_index >= base {
            self.next_index = self.match_index.next();
            self.state = State::Replicate {
                inflight: VecDeque::new(),
            };
        } else if self.match_index >= last.index {
            self.probe_from(self.match_index.next());
        }
    }

    /// A follower that has been silent, and is being sent a snapshot after which the log no longer goes on, gets
    /// nothing more of it: it would need the next one all the same.
    pub fn leave_snapshot_before(&mut self, base: Index) {
        if self
            .sending()
            .is_some_and(|sending| sending.is_asking && sending.last().index < base)
        {
            self.probe_from(self.next_index);
        }
    }

    /// Whether there is something to send to a follower while the log ends at `last_index`: entries, or the
    /// question whether it still holds what it was sent.
    pub fn lacks(&self, last_index: Index) -> bool {
        (self.next_index <= last_index && self.sending().is_none())
            || (matches!(self.state, State::Probe { .. }) && self.match_index < last_index)
    }

    /// Whether another request may be sent, if so many bytes of entries wait for it.
    pub fn may_send(&self, window: Window, waiting_bytes: usize) -> bool {
        match &self.state {
            State::Probe { outstanding } => outstanding.is_none(),
            State::Replicate { inflight } if inflight.is_empty() => true,
            State::Replicate { inflight } => {
                inflight.len() < window.max_requests
                    && inflight.iter().map(|sent| sent.bytes).sum::<usize>() < window.max_bytes
                    && (inflight.len() < EAGER_REQUESTS || waiting_bytes >= window.gather_bytes)
            }
            State::Snapshot(_) => false,
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
            State::Snapshot(_) => {}
        }
    }

    /// The follower holds everything up to `last_index`. True whenever it arrives, late or twice, as long as
    /// the session is the same: a follower takes nothing back within a term.
    pub fn accepted(&mut self, sequence: u64, last_index: Index) {
        self.holds_up_to(last_index);
        match &mut self.state {
            State::Probe { .. } => {
                self.state = State::Replicate {
                    inflight: VecDeque::new(),
                }
            }
            State::Replicate { inflight } => {
                inflight.retain(|sent| sent.sequence != sequence && sent.last_index > last_index);
            }
            State::Snapshot(_) => {}
        }
    }

    /// Whether the rejection of a request with this `prev_log` says something new: of the question that is being
    /// asked, whichever copy of it was answered, or of a pipelined request. What is known to match is never
    /// given up for it (trap 3.14).
    pub fn is_rejected_by(&self, prev_log_index: Index) -> bool {
        (prev_log_index > self.match_index || mutant::is(Mutant::NextBelowMatch))
            && match &self.state {
                State::Probe { .. } => prev_log_index == self.next_index.prev(),
                State::Replicate { .. } => true,
                State::Snapshot(_) => false,
            }
    }

    /// When the oldest request under way was sent, or a snapshot last came further.
    pub fn waits_since(&self) -> Option<Ticks> {
        match &self.state {
            State::Probe { outstanding } => outstanding.map(|sent| sent.at),
            State::Replicate { inflight } => inflight.front().map(|sent| sent.at),
            State::Snapshot(sending) => Some(sending.at),
        }
    }

    /// How many requests are under way.
    pub fn inflight(&self) -> usize {
        match &self.state {
            State::Probe { outstanding } => usize::from(outstanding.is_some()),
            State::Replicate { inflight } => inflight.len(),
            State::Snapshot(sending) => sending.next_chunk.saturating_sub(sending.acked) as usize,
        }
    }
}

impl Sending {
    fn new(header: SnapshotHeader, now: Ticks) -> Sending {
        Sending {
            header,
            acked: 0,
            next_chunk: 0,
            is_complete: false,
            is_asking: true,
            is_rewound: false,
            at: now,
        }
    }

    /// The snapshot's last entry.
    pub fn last(&self) -> EntryId {
        self.header.last
    }

    /// The next chunk to send, if there is room for one; counted as sent. Where there are fewer chunks, nothing
    /// comes of it.
    pub fn take_chunk(&mut self, now: Ticks) -> Option<u64> {
        let most = if self.is_asking { 1 } else { CHUNKS_UNDER_WAY };
        if self.is_complete || self.next_chunk >= self.acked.saturating_add(most) {
            return None;
        }
        if self.next_chunk == self.acked {
            self.at = now;
        }
        let chunk = self.next_chunk;
        self.next_chunk = chunk.saturating_add(1);
        Some(chunk)
    }

    /// What was under way is lost, or nothing has come back: sends the chunk that is wanted once more, or the last
    /// one where the follower has them all, to hear how far it is. If that was asked in vain, the first one, which
    /// there is whatever the follower has said.
    fn ask(&mut self) {
        if self.is_asking {
            self.acked = 0;
        } else if self.is_complete {
            self.acked = self.acked.saturating_sub(1);
        }
        self.is_complete = false;
        self.next_chunk = self.acked;
        self.is_asking = true;
        self.is_rewound = false;
    }

    /// The follower wants `next_chunk`, or, if `complete`, has that many and all.
    ///
    /// An answer that wants less than is known to be stored is an old one, unless that was the question: a follower
    /// may have lost what it had stored. One that wants just what is known, while that is under way, shows that it
    /// was lost, for chunks arrive in the order in which they were sent.
    pub fn wants(&mut self, next_chunk: u64, complete: bool, now: Ticks) {
        if self.is_asking || next_chunk > self.acked || complete && !self.is_complete {
            let starts_here = self.is_asking || complete;
            self.next_chunk = if starts_here {
                next_chunk
            } else {
                self.next_chunk.max(next_chunk)
            };
            self.acked = next_chunk;
            self.is_complete = complete;
            self.is_asking = false;
            self.is_rewound = false;
            self.at = now;
        } else if next_chunk == self.acked && !self.is_complete && !self.is_rewound {
            self.next_chunk = next_chunk;
            self.is_rewound = true;
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
        assert!(!progress.may_send(
            Window {
                max_requests: 9,
                max_bytes: 100,
                gather_bytes: 0,
            },
            0
        ));
        assert!(progress.is_rejected_by(Index(9)));
        assert!(!progress.is_rejected_by(Index(8)));
        progress.accepted(5, Index(12));
        assert!(progress.is_rejected_by(Index(13)));
        assert!(!progress.is_rejected_by(Index(12)));
        progress.probe_from(Index(3));
        assert_eq!(progress.next_index, Index(13));
        assert!(!progress.is_rejected_by(Index(12)));
    }

    fn sending() -> Sending {
        Sending::new(SnapshotHeader::default(), Ticks(0))
    }

    fn chunks(sending: &mut Sending) -> Vec<u64> {
        std::iter::from_fn(|| sending.take_chunk(Ticks(0))).collect()
    }

    #[test]
    fn a_snapshot_begins_with_a_question_and_goes_on_with_a_window() {
        let mut sending = sending();
        assert_eq!(chunks(&mut sending), [0]);
        sending.wants(5, false, Ticks(0));
        assert_eq!(chunks(&mut sending), [5, 6, 7, 8], "some were stored before");
        sending.wants(7, false, Ticks(0));
        assert_eq!(chunks(&mut sending), [9, 10]);
        sending.wants(6, false, Ticks(0));
        assert_eq!(chunks(&mut sending), [0; 0], "an old answer");
        sending.wants(7, false, Ticks(0));
        sending.wants(7, false, Ticks(0));
        assert_eq!(
            chunks(&mut sending),
            [7, 8, 9, 10],
            "it was lost, and is sent again once"
        );
        sending.wants(11, true, Ticks(0));
        assert_eq!(chunks(&mut sending), [0; 0]);
    }

    #[test]
    fn a_silent_follower_is_asked_for_what_it_has() {
        let mut sending = sending();
        chunks(&mut sending);
        sending.wants(5, false, Ticks(0));
        chunks(&mut sending);
        sending.ask();
        assert_eq!(chunks(&mut sending), [5]);
        sending.wants(2, false, Ticks(0));
        assert_eq!(chunks(&mut sending), [2, 3, 4, 5], "it has lost some");
        sending.wants(6, true, Ticks(0));
        sending.ask();
        assert_eq!(chunks(&mut sending), [5], "the last one");
        sending.ask();
        assert_eq!(chunks(&mut sending), [0], "the one that there always is");
        sending.wants(u64::MAX, false, Ticks(0));
        assert!(chunks(&mut sending).len() <= 1, "nonsense ends somewhere");
    }

    #[test]
    fn the_window_bounds_requests_and_bytes() {
        let window = Window {
            max_requests: 3,
            max_bytes: 15,
            gather_bytes: 0,
        };
        let mut progress = Progress::new(Index(1), 1, Ticks(0));
        progress.accepted(0, Index(0));
        progress.sent(Sent {
            bytes: 100,
            ..sent(1, 1)
        });
        assert!(!progress.may_send(window, 0));
        progress.accepted(1, Index(1));
        for i in 2..4 {
            assert!(progress.may_send(window, 0));
            progress.sent(sent(i, i));
        }
        assert!(!progress.may_send(window, 0));
    }

    #[test]
    fn what_would_wait_at_the_follower_gathers_here() {
        let window = Window {
            max_requests: 9,
            max_bytes: 1000,
            gather_bytes: 50,
        };
        let mut progress = Progress::new(Index(1), 1, Ticks(0));
        progress.accepted(0, Index(0));
        for i in 1..=2 {
            assert!(progress.may_send(window, 10));
            progress.sent(sent(i, i));
        }
        assert!(!progress.may_send(window, 49));
        assert!(progress.may_send(window, 50), "nothing is gained by more");
        progress.accepted(1, Index(1));
        assert!(progress.may_send(window, 10));
    }
}
