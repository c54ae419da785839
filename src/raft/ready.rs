//! What the driver has to do next, and in which order.
//!
//! The order of effects is what Raft's safety rests on. A follower or candidate may say something only when
//! what it says is durable (Raft figure 2: "respond after updating stable storage"): each such message waits
//! here for the part of the disk that it speaks of. A leader sends its entries at once and counts itself when
//! they are durable (Diss. 10.2.1).
//!
//! One batch is with the disk at a time; what gathers meanwhile is the next one.

use super::log::Log;
use super::message::Envelope;
use super::types::{Batch, Entry, EntryId, HardState, Index};
use crate::base::mutant::{self, Mutant};

/// What the driver has to do next. The fields may be worked on in any order, and at the same time: what must
/// wait for the disk is not in `messages` yet.
#[derive(Debug, Default)]
pub struct Ready {
    /// To be sent. Losing them is allowed.
    pub messages: Vec<Envelope>,
    /// To be made durable, then reported with [`Raft::persisted`](super::Raft::persisted). `None` while the
    /// batch before is with the disk.
    pub batch: Option<Batch>,
    /// Committed entries, to be applied in this order.
    pub committed: Vec<Entry>,
    /// Reads that are confirmed.
    pub reads: Vec<ReadReady>,
    /// What this server had lost is here again: it counts from now on, and what was noted of its loss is to be
    /// forgotten, durably (trap 3.31).
    pub recovered: bool,
    /// This server has noticed that it lacks what it once acknowledged: it is recovering from now on, which is to be
    /// written down (trap 3.38).
    pub recovering: bool,
    /// InstallSnapshot without its chunk: to be filled in from the file of the snapshot that it names, and sent. One
    /// with a chunk past the end is dropped. May be lost.
    pub chunks_to_send: Vec<Envelope>,
    /// InstallSnapshot that came from the leader, to be stored and answered with
    /// [`Raft::chunk_stored`](super::Raft::chunk_stored). May be lost.
    pub chunks_to_store: Vec<Envelope>,
}

/// Reads that may be answered once `read_index` is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadReady {
    /// The number given to [`Raft::read`](super::Raft::read).
    pub ticket: u64,
    /// The commit index when a quorum confirmed the leader, or later.
    pub read_index: Index,
}

impl Ready {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.batch.is_none()
            && self.committed.is_empty()
            && self.reads.is_empty()
            && !self.recovered
            && !self.recovering
            && self.chunks_to_send.is_empty()
            && self.chunks_to_store.is_empty()
    }
}

/// What a message says about this server's disk, and so has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Term and vote as they are now.
    HardState,
    /// Term and vote, and the log up to here.
    Log(Index),
}

/// How many messages may wait for the disk. One that hangs must not fill the memory with answers to heartbeats; what
/// is dropped here is asked for again.
const WAITING_MAX: usize = 4096;

/// What of the core's state is durable, and the messages that wait for it.
#[derive(Debug, Default)]
pub(super) struct Durability {
    /// Versions of the hard state: each change is a new one.
    hard_now: u64,
    hard_handed: u64,
    hard_durable: u64,
    /// The log is with the disk up to here, or already on it.
    log_handed: Index,
    /// The log is durable up to here.
    log_durable: Index,
    /// The next batch installs the snapshot up to this entry.
    install: Option<EntryId>,
    in_flight: Option<InFlight>,
    /// Messages for now, and those that wait with the hard state version that they need.
    messages: Vec<Envelope>,
    waiting: Vec<(u64, Index, Envelope)>,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    hard: u64,
    log: Index,
}

impl Durability {
    /// Everything recovered is durable.
    pub fn new(log: &Log) -> Durability {
        let last = log.last().index;
        Durability {
            log_handed: last,
            log_durable: last,
            ..Durability::default()
        }
    }

    /// The log is with the disk up to here, or already on it.
    pub fn log_handed(&self) -> Index {
        self.log_handed
    }

    /// The greatest index up to which the log is durable here.
    pub fn log_durable(&self) -> Index {
        self.log_durable
    }

    /// Whether term and vote are durable as they are now.
    pub fn hard_state_is_durable(&self) -> bool {
        self.hard_durable == self.hard_now
    }

    /// Term or vote changed. Messages that wait speak for an earlier term or vote, when entries may have been
    /// acknowledged that are no longer here: they are dropped.
    pub fn hard_state_changed(&mut self) {
        self.hard_now += 1;
        if !mutant::is(Mutant::AnswerOutlivesTerm) {
            self.waiting.clear();
        }
    }

    /// Entries from `index` on were replaced in memory; whatever the disk holds there no longer counts.
    pub fn log_changed_from(&mut self, index: Index) {
        let kept = index.prev();
        if mutant::is(Mutant::ConflictStaysOnDisk) {
            return;
        }
        self.log_handed = self.log_handed.min(kept);
        self.log_durable = self.log_durable.min(kept);
        if let Some(in_flight) = &mut self.in_flight
            && !mutant::is(Mutant::ReplacedWriteCounts)
        {
            in_flight.log = in_flight.log.min(kept);
        }
    }

    /// A snapshot, durable as a file, takes the place of the log up to `last`, with the next batch. If the log went
    /// on after that entry in memory, then what is with the disk of that is there to stay. If not, nothing on the
    /// disk counts any more but what was committed before: what was with the disk is not the log, and after `last`
    /// there is nothing.
    pub fn installs(&mut self, last: EntryId, log_stays: bool, was_committed: Index) {
        self.install = Some(last);
        if log_stays || mutant::is(Mutant::InstallKeepsDurable) {
            self.log_handed = self.log_handed.max(last.index);
            return;
        }
        self.log_changed_from(was_committed.next());
        self.log_handed = last.index;
    }

    /// Sends at once.
    pub fn send(&mut self, envelope: Envelope) {
        self.messages.push(envelope);
    }

    /// Sends when that is durable, at once if it is.
    pub fn send_when_durable(&mut self, needs: Needs, envelope: Envelope) {
        let log = match needs {
            Needs::HardState => Index(0),
            Needs::Log(index) => index,
        };
        if self.hard_state_is_durable() && log <= self.log_durable {
            self.messages.push(envelope);
        } else if self.waiting.len() < WAITING_MAX {
            self.waiting.push((self.hard_now, log, envelope));
        }
    }

    pub fn take_messages(&mut self) -> Vec<Envelope> {
        std::mem::take(&mut self.messages)
    }

    /// What is to be written next, unless a batch is with the disk. A single entry may exceed `max_bytes`.
    pub fn take_batch(&mut self, hard_state: HardState, log: &Log, max_bytes: usize) -> Option<Batch> {
        if self.in_flight.is_some() {
            return None;
        }
        let mut batch = Batch {
            install: self.install.take(),
            hard_state: (self.hard_now > self.hard_handed).then_some(hard_state),
            entries: log.slice(self.log_handed.next(), log.last().index, max_bytes),
        };
        if mutant::is(Mutant::VoteNotWritten) {
            batch.hard_state = batch.hard_state.map(|hard| HardState { vote: None, ..hard });
        }
        if mutant::is(Mutant::TermAfterEntries) && !batch.entries.is_empty() {
            batch.hard_state = None;
        }
        if batch.is_empty() {
            return None;
        }
        if batch.hard_state.is_some() {
            self.hard_handed = self.hard_now;
        }
        self.log_handed = batch
            .entries
            .last()
            .map_or(self.log_handed, |entry| entry.id.index);
        self.in_flight = Some(InFlight {
            hard: self.hard_handed,
            log: self.log_handed,
        });
        Some(batch)
    }

    /// The batch with the disk is durable: what waited for it may go.
    pub fn persisted(&mut self) {
        let Some(in_flight) = self.in_flight.take() else {
            return;
        };
        self.hard_durable = self.hard_durable.max(in_flight.hard);
        self.log_durable = self.log_durable.max(in_flight.log);
        let (hard, log) = (self.hard_durable, self.log_durable);
        for (needs_hard, needs_log, envelope) in std::mem::take(&mut self.waiting) {
            if needs_hard <= hard && needs_log <= log {
                self.messages.push(envelope);
            } else {
                self.waiting.push((needs_hard, needs_log, envelope));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{HeartbeatResponse, Message};
    use super::super::types::{EntryId, NodeId, Payload, Term};
    use super::*;

    fn envelope(n: u64) -> Envelope {
        let message = Message::HeartbeatResponse(HeartbeatResponse {
            session: n,
            read_round: 0,
            recovering: false,
            promises_lease: false,
        });
        Envelope {
            from: NodeId(1),
            to: NodeId(2),
            term: Term(1),
            request_id: 0,
            message,
        }
    }

    fn log(terms: &[u64]) -> Log {
        let mut log = Log::default();
        for term in terms {
            log.append(Term(*term), Payload::Noop);
        }
        log
    }

    fn take(durability: &mut Durability, log: &Log) -> Option<Batch> {
        durability.take_batch(HardState::default(), log, usize::MAX)
    }

    #[test]
    fn a_message_waits_for_what_it_speaks_of() {
        let mut durability = Durability::new(&Log::default());
        let log = log(&[1, 1]);
        durability.send_when_durable(Needs::Log(Index(2)), envelope(1));
        durability.send_when_durable(Needs::HardState, envelope(2));
        assert_eq!(durability.take_messages(), [envelope(2)]);
        assert_eq!(take(&mut durability, &log).unwrap().entries.len(), 2);
        assert!(durability.take_messages().is_empty());
        durability.persisted();
        assert_eq!(durability.take_messages(), [envelope(1)]);
    }

    #[test]
    fn a_new_term_takes_back_what_was_not_yet_said() {
        let mut durability = Durability::new(&Log::default());
        durability.send_when_durable(Needs::Log(Index(1)), envelope(1));
        take(&mut durability, &log(&[1]));
        durability.hard_state_changed();
        durability.persisted();
        assert!(durability.take_messages().is_empty());
    }

    #[test]
    fn a_disk_that_hangs_does_not_fill_the_memory() {
        let mut durability = Durability::new(&Log::default());
        durability.hard_state_changed();
        for n in 0..2 * WAITING_MAX as u64 {
            durability.send_when_durable(Needs::HardState, envelope(n));
        }
        take(&mut durability, &Log::default());
        durability.persisted();
        assert_eq!(durability.take_messages().len(), WAITING_MAX);
    }

    /// The log was replaced by a snapshot while a batch of it was with the disk: that batch counts for nothing, and
    /// nothing counts until the one that installs is durable.
    #[test]
    fn a_replaced_log_is_durable_with_the_batch_that_installs() {
        let last = EntryId {
            term: Term(2),
            index: Index(9),
        };
        let mut durability = Durability::new(&Log::default());
        take(&mut durability, &log(&[1, 1, 1]));
        durability.installs(last, false, Index(1));
        let mut installed = Log::new(last, Vec::new());
        installed.append(Term(2), Payload::Noop);
        durability.send_when_durable(Needs::Log(last.index), envelope(1));
        durability.persisted();
        assert_eq!(durability.log_durable(), Index(1), "as far as it was committed");
        let batch = take(&mut durability, &installed).unwrap();
        assert_eq!(
            (batch.install, batch.entries[0].id.index),
            (Some(last), Index(10))
        );
        assert!(durability.take_messages().is_empty());
        durability.persisted();
        assert_eq!(durability.take_messages(), [envelope(1)]);
        assert_eq!(durability.log_durable(), Index(10));
        assert!(take(&mut durability, &installed).is_none(), "installed once");
    }

    /// The log goes on after the snapshot: what the disk has of it stays, and what it has not is written behind it.
    #[test]
    fn a_log_that_stays_is_as_durable_as_before() {
        let last = EntryId {
            term: Term(1),
            index: Index(2),
        };
        for handed in [1, 3] {
            let mut durability = Durability::new(&log(&vec![1; handed]));
            let mut whole = log(&[1, 1, 1, 1]);
            durability.installs(last, whole.install(last), Index(0));
            let batch = take(&mut durability, &whole).unwrap();
            assert_eq!(batch.entries[0].id.index, Index(handed as u64 + 1).max(Index(3)));
            assert_eq!(durability.log_durable(), Index(handed as u64));
            durability.persisted();
            assert_eq!(durability.log_durable(), Index(4));
        }
    }

    #[test]
    fn trap_3_33_a_completed_write_of_replaced_entries_does_not_count() {
        let mut durability = Durability::new(&Log::default());
        take(&mut durability, &log(&[1, 1, 1]));
        durability.log_changed_from(Index(2));
        let replaced = log(&[1, 2, 2]);
        assert!(
            take(&mut durability, &replaced).is_none(),
            "one batch is with the disk at a time"
        );
        durability.persisted();
        assert_eq!(durability.log_durable(), Index(1));
        let next = take(&mut durability, &replaced).unwrap();
        assert_eq!(
            next.entries[0].id,
            EntryId {
                term: Term(2),
                index: Index(2)
            }
        );
        durability.persisted();
        assert_eq!(durability.log_durable(), Index(3));
    }
}
