//! Reads that wait until they are linearizable: confirmed by a quorum, and the state applied that far.

use std::collections::VecDeque;

use bytes::Bytes;

use super::waiters::Local;
use crate::base::mutant::{self, Mutant};
use crate::kv::Query;
use crate::raft::{Index, ReadReady, Ticks};

/// A read that waits.
#[derive(Debug)]
pub struct Read {
    /// What is asked.
    pub wanted: Wanted,
    /// Who waits.
    pub local: Local,
}

/// What is asked for of a linearizable state.
#[derive(Debug)]
pub enum Wanted {
    /// A few keys.
    Query(Query),
    /// A view of all keys.
    View,
    /// A change feed from now on, of the keys that begin with this.
    Feed(Bytes),
}

/// All reads that wait. Those that arrive together are confirmed together. Bounded by `max_pending`, which the
/// caller checks against `len`.
#[derive(Debug, Default)]
pub struct ReadQueue {
    gathering: Vec<Read>,
    batches: VecDeque<Batch>,
    tickets: u64,
    len: usize,
}

/// The ticket of batches that no quorum has to confirm.
const LEASED: u64 = 0;

#[derive(Debug)]
struct Batch {
    ticket: u64,
    deadline: Ticks,
    reads: Vec<Read>,
    /// From which index on the reads may be answered, once a quorum has confirmed it.
    read_index: Option<Index>,
}

impl ReadQueue {
    /// How many reads wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Another read.
    pub fn push(&mut self, read: Read) {
        self.gathering.push(read);
        self.len += 1;
    }

    /// A read that a lease has confirmed: it may be answered from a state that has applied this index.
    pub fn push_confirmed(&mut self, read: Read, read_index: Index, deadline: Ticks) {
        self.len += 1;
        match self.batches.back_mut() {
            Some(last) if last.ticket == LEASED && last.read_index == Some(read_index) => {
                last.reads.push(read)
            }
            _ => self.batches.push_back(Batch {
                ticket: LEASED,
                deadline,
                reads: vec![read],
                read_index: Some(read_index),
            }),
        }
    }

    /// The reads gathered so far become one batch; its ticket is to be confirmed.
    pub fn start_batch(&mut self, deadline: Ticks) -> Option<u64> {
        if self.gathering.is_empty() {
            return None;
        }
        self.tickets += 1;
        let reads = std::mem::take(&mut self.gathering);
        self.batches.push_back(Batch {
            ticket: self.tickets,
            deadline,
            reads,
            read_index: None,
        });
        Some(self.tickets)
    }

    /// A quorum has confirmed a batch.
    pub fn confirmed(&mut self, ready: ReadReady) {
        if let Some(batch) = self.batches.iter_mut().find(|batch| batch.ticket == ready.ticket) {
            batch.read_index = Some(ready.read_index);
        }
    }

    /// The reads that may be answered from a state that has applied this index.
    pub fn take_ready(&mut self, applied: Index) -> Vec<Read> {
        let is_ready = |batch: &Batch| {
            let suffices = |index| index <= applied || mutant::is(Mutant::ReadBeforeApplied);
            batch.read_index.is_some_and(suffices)
        };
        if !self.batches.iter().any(is_ready) {
            return Vec::new();
        }
        let (ready, waiting): (VecDeque<Batch>, _) = self.batches.drain(..).partition(is_ready);
        self.batches = waiting;
        self.emptied(ready.into_iter().flat_map(|batch| batch.reads).collect())
    }

    /// When the next batch's time is up.
    pub fn deadline(&self) -> Option<Ticks> {
        self.batches.front().map(|batch| batch.deadline)
    }

    /// The reads whose time is up, and the ticket below which none is wanted any more.
    pub fn take_overdue(&mut self, now: Ticks) -> (Vec<Read>, u64) {
        let count = self
            .batches
            .iter()
            .take_while(|batch| batch.deadline <= now)
            .count();
        let overdue = self
            .batches
            .drain(..count)
            .flat_map(|batch| batch.reads)
            .collect();
        let wanted = self
            .batches
            .iter()
            .find(|batch| batch.ticket != LEASED)
            .map_or(self.tickets + 1, |batch| batch.ticket);
        (self.emptied(overdue), wanted)
    }

    /// The node stops: everything that still waits.
    pub fn take_all(&mut self) -> Vec<Read> {
        let batches = std::mem::take(&mut self.batches)
            .into_iter()
            .flat_map(|batch| batch.reads);
        let all = batches.chain(std::mem::take(&mut self.gathering)).collect();
        self.emptied(all)
    }

    fn emptied(&mut self, reads: Vec<Read>) -> Vec<Read> {
        self.len -= reads.len();
        reads
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    fn read(ticket: u64) -> Read {
        let (answers, _) = mpsc::unbounded_channel();
        Read {
            wanted: Wanted::View,
            local: Local { answers, ticket },
        }
    }

    fn tickets(reads: Vec<Read>) -> Vec<u64> {
        reads.into_iter().map(|read| read.local.ticket).collect()
    }

    #[test]
    fn a_batch_waits_for_its_confirmation_and_for_the_state() {
        let mut queue = ReadQueue::default();
        queue.push(read(1));
        queue.push(read(2));
        let first = queue.start_batch(Ticks(10)).unwrap();
        assert_eq!(queue.start_batch(Ticks(10)), None);
        queue.push(read(3));
        let second = queue.start_batch(Ticks(20)).unwrap();
        assert!(queue.take_ready(Index(9)).is_empty());
        queue.confirmed(ReadReady {
            ticket: second,
            read_index: Index(5),
        });
        assert!(queue.take_ready(Index(4)).is_empty());
        assert_eq!(tickets(queue.take_ready(Index(5))), [3]);
        let (overdue, wanted) = queue.take_overdue(Ticks(10));
        assert_eq!(
            (tickets(overdue), wanted, queue.len()),
            (vec![1, 2], second + 1, 0)
        );
        queue.confirmed(ReadReady {
            ticket: first,
            read_index: Index(5),
        });
        assert!(queue.take_ready(Index(9)).is_empty());
    }
}
