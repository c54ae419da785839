//! Writes that wait for their outcome: proposed here, passed to the leader, or parked until there is one.
//!
//! Each write gets exactly one answer. What the answer may claim depends on where the write is: a parked one
//! was never proposed, a proposed one may be committed as long as no other entry is known to be in its place.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::request::{Answer, Answers, Outcome};
use crate::base::mutant::{self, Mutant};
use crate::kv::Reply;
use crate::raft::{EntryId, Index, NodeId, Ticks};

/// Who waits.
#[derive(Debug)]
pub enum Origin<C> {
    /// A connection of this node.
    Local(Local),
    /// Another node that passed the write on.
    Remote(C),
}

/// A request of a connection of this node.
#[derive(Debug)]
pub struct Local {
    /// Where the answer goes.
    pub answers: Answers,
    /// The request's number.
    pub ticket: u64,
}

impl Local {
    /// Answers the request. A connection that is gone no longer listens.
    pub fn answer(self, reply: Reply) {
        self.answer_with(Outcome::Reply(reply));
    }

    /// Answers the request with something other than a reply.
    pub fn answer_with(self, outcome: Outcome) {
        let _ = self.answers.send(Answer {
            ticket: self.ticket,
            outcome,
        });
    }
}

/// A write that was not proposed yet.
#[derive(Debug)]
pub struct Parked<C> {
    /// Its place among the writes of this node.
    pub sequence: u64,
    /// When it is given up.
    pub deadline: Ticks,
    /// What to do, encoded for the leader.
    pub order: Bytes,
    /// Who waits.
    pub origin: Origin<C>,
}

/// A write that was passed to the leader.
#[derive(Debug)]
pub struct Forwarded {
    /// To whom.
    pub to: NodeId,
    /// When it is given up.
    pub deadline: Ticks,
    /// What was passed on, to be passed on again if it is certain that nothing came of it.
    pub order: Bytes,
    /// Who waits.
    pub local: Local,
}

/// All writes that wait. Bounded by `max_pending`, which the caller checks against `len`.
#[derive(Debug)]
pub struct Waiters<C> {
    /// By index and term: a later leader may have proposed another entry at the same index.
    proposed: BTreeMap<EntryKey, Origin<C>>,
    /// By their sequence.
    forwarded: BTreeMap<u64, Forwarded>,
    /// By their sequence.
    parked: BTreeMap<u64, Parked<C>>,
    /// When each of those is given up: some may take longer than what comes after them.
    parked_until: BTreeSet<(Ticks, u64)>,
    /// In order; those already answered are skipped when they come to the front.
    deadlines: VecDeque<(Ticks, Waiting)>,
}

/// An `EntryId` in the order of the log.
type EntryKey = (Index, crate::raft::Term);

#[derive(Clone, Copy, Debug)]
enum Waiting {
    Proposed(EntryKey),
    Forwarded(u64),
}

/// A write whose time is up.
#[derive(Debug)]
pub enum Overdue<C> {
    /// Its entry may still be committed.
    Proposed(Origin<C>),
    /// The leader may have proposed it.
    Forwarded(u64, Forwarded),
    /// Never proposed.
    Parked(Parked<C>),
}

impl<C> Default for Waiters<C> {
    fn default() -> Self {
        Waiters {
            proposed: BTreeMap::new(),
            forwarded: BTreeMap::new(),
            parked: BTreeMap::new(),
            parked_until: BTreeSet::new(),
            deadlines: VecDeque::new(),
        }
    }
}

impl<C> Waiters<C> {
    /// How many writes wait.
    pub fn len(&self) -> usize {
        self.proposed.len() + self.forwarded.len() + self.parked.len()
    }

    /// Whether writes are parked.
    pub fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// The write was appended to the log as this entry.
    pub fn proposed(&mut self, id: EntryId, deadline: Ticks, origin: Origin<C>) {
        let key = (id.index, id.term);
        self.proposed.insert(key, origin);
        self.note_deadline(deadline, Waiting::Proposed(key));
    }

    /// The write was passed to the leader.
    pub fn forwarded(&mut self, sequence: u64, forwarded: Forwarded) {
        self.note_deadline(forwarded.deadline, Waiting::Forwarded(sequence));
        self.forwarded.insert(sequence, forwarded);
    }

    /// What was passed to another node than `leader` is given up at `deadline`, if not before.
    pub fn hasten(&mut self, leader: NodeId, deadline: Ticks) {
        let others = self
            .forwarded
            .iter()
            .filter(|(_, forwarded)| forwarded.to != leader);
        let sequences: Vec<u64> = others.map(|(sequence, _)| *sequence).collect();
        for sequence in sequences {
            self.note_deadline(deadline, Waiting::Forwarded(sequence));
        }
    }

    /// Whether something was passed to this node and is not answered.
    pub fn is_forwarded_to(&self, id: NodeId) -> bool {
        self.forwarded.values().any(|forwarded| forwarded.to == id)
    }

    /// The write has to wait for a leader.
    pub fn park(&mut self, parked: Parked<C>) {
        self.parked_until.insert((parked.deadline, parked.sequence));
        self.parked.insert(parked.sequence, parked);
    }

    /// Deadlines come nearly in order, because all writes may take equally long.
    fn note_deadline(&mut self, deadline: Ticks, waiting: Waiting) {
        self.drop_answered();
        if self.deadlines.back().is_none_or(|(last, _)| *last <= deadline) {
            self.deadlines.push_back((deadline, waiting));
        } else {
            let place = self.deadlines.partition_point(|(other, _)| *other <= deadline);
            self.deadlines.insert(place, (deadline, waiting));
        }
    }

    fn drop_answered(&mut self) {
        while let Some((_, front)) = self.deadlines.front().copied()
            && !self.waits(front)
        {
            self.deadlines.pop_front();
        }
    }

    fn waits(&self, waiting: Waiting) -> bool {
        match waiting {
            Waiting::Proposed(key) => self.proposed.contains_key(&key),
            Waiting::Forwarded(sequence) => self.forwarded.contains_key(&sequence),
        }
    }

    /// When the time is up of the write that was proposed first; `None` while none waits, or while another is to be
    /// given up before it.
    pub fn first_proposed_deadline(&mut self) -> Option<Ticks> {
        self.drop_answered();
        match self.deadlines.front() {
            Some((deadline, Waiting::Proposed(_))) => Some(*deadline),
            _ => None,
        }
    }

    /// The entry of this name was applied: who waits for it, and who waited for other entries at or below its
    /// index, which now can never be committed.
    pub fn applied(&mut self, id: EntryId) -> (Option<Origin<C>>, Vec<Origin<C>>) {
        let mut replaced = Vec::new();
        while let Some(first) = self.proposed.first_entry() {
            let (index, term) = *first.key();
            let is_it = term == id.term || mutant::is(Mutant::OtherEntryAnswers);
            match (index.cmp(&id.index), is_it) {
                (std::cmp::Ordering::Greater, _) => break,
                (std::cmp::Ordering::Equal, true) => {
                    let origin = first.remove();
                    // A later term's entry at this index, if any waits, comes after it in the map.
                    while let Some(next) = self.proposed.first_entry()
                        && next.key().0 == id.index
                    {
                        replaced.push(next.remove());
                    }
                    return (Some(origin), replaced);
                }
                _ => replaced.push(first.remove()),
            }
        }
        (None, replaced)
    }

    /// A snapshot covers the log up to this index: who waits for entries there, of which nobody will say whether they
    /// are among those that it covers.
    pub fn covered(&mut self, index: Index) -> Vec<Origin<C>> {
        let mut covered = Vec::new();
        while let Some(first) = self.proposed.first_entry()
            && first.key().0 <= index
        {
            covered.push(first.remove());
        }
        covered
    }

    /// The leader answered.
    pub fn take_forwarded(&mut self, sequence: u64) -> Option<Forwarded> {
        self.forwarded.remove(&sequence)
    }

    /// The writes that are parked, in order.
    pub fn take_parked(&mut self) -> impl Iterator<Item = Parked<C>> + use<C> {
        self.parked_until.clear();
        std::mem::take(&mut self.parked).into_values()
    }

    /// When the next write's time is up.
    pub fn deadline(&self) -> Option<Ticks> {
        let waiting = self.deadlines.front().map(|(deadline, _)| *deadline);
        let parked = self.parked_until.first().map(|(deadline, _)| *deadline);
        waiting.into_iter().chain(parked).min()
    }

    /// The next write whose time is up.
    pub fn take_overdue(&mut self, now: Ticks) -> Option<Overdue<C>> {
        if let Some((deadline, sequence)) = self.parked_until.first().copied()
            && deadline <= now
        {
            self.parked_until.pop_first();
            return self.parked.remove(&sequence).map(Overdue::Parked);
        }
        while self
            .deadlines
            .front()
            .is_some_and(|(deadline, _)| *deadline <= now)
        {
            let overdue = match self.deadlines.pop_front()?.1 {
                Waiting::Proposed(key) => self.proposed.remove(&key).map(Overdue::Proposed),
                Waiting::Forwarded(sequence) => self
                    .forwarded
                    .remove(&sequence)
                    .map(|forwarded| Overdue::Forwarded(sequence, forwarded)),
            };
            if overdue.is_some() {
                return overdue;
            }
        }
        None
    }

    /// The node stops: everything that still waits.
    pub fn take_all(&mut self) -> Vec<Overdue<C>> {
        let proposed = std::mem::take(&mut self.proposed)
            .into_values()
            .map(Overdue::Proposed);
        let forwarded = std::mem::take(&mut self.forwarded)
            .into_iter()
            .map(|(n, waiting)| Overdue::Forwarded(n, waiting));
        let parked = self.take_parked().map(Overdue::Parked);
        proposed.chain(forwarded).chain(parked).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Term;

    fn id(index: u64, term: u64) -> EntryId {
        EntryId {
            term: Term(term),
            index: Index(index),
        }
    }

    fn remotes(origins: Vec<Origin<u32>>) -> Vec<u32> {
        let number = |origin| if let Origin::Remote(n) = origin { n } else { 0 };
        origins.into_iter().map(number).collect()
    }

    #[test]
    fn an_applied_entry_answers_its_own_and_refutes_the_others_in_its_place() {
        let mut waiters = Waiters::default();
        for (n, id) in [id(5, 1), id(6, 1), id(6, 3), id(7, 3)].into_iter().enumerate() {
            waiters.proposed(id, Ticks(10), Origin::Remote(n as u32));
        }
        let (own, replaced) = waiters.applied(id(5, 2));
        assert!(own.is_none());
        assert_eq!(remotes(replaced), [0]);
        let (own, replaced) = waiters.applied(id(6, 3));
        assert_eq!(
            (remotes(own.into_iter().collect()), remotes(replaced)),
            (vec![2], vec![1])
        );
        assert_eq!(waiters.len(), 1);
    }

    #[test]
    fn a_snapshot_covers_whatever_waits_below() {
        let mut waiters = Waiters::default();
        for (n, id) in [id(5, 1), id(6, 3), id(7, 1)].into_iter().enumerate() {
            waiters.proposed(id, Ticks(10), Origin::Remote(n as u32));
        }
        assert_eq!(remotes(waiters.covered(Index(6))), [0, 1]);
        assert_eq!(waiters.len(), 1);
    }

    #[test]
    fn overdue_writes_come_out_in_time_also_when_noted_out_of_order() {
        let mut waiters = Waiters::default();
        waiters.proposed(id(1, 1), Ticks(10), Origin::Remote(1));
        waiters.proposed(id(2, 1), Ticks(30), Origin::Remote(2));
        waiters.proposed(id(3, 1), Ticks(20), Origin::Remote(3));
        // RAFT ADD … VOTER may take longer than the write behind it.
        for (sequence, deadline, n) in [(1, 60, 5), (2, 5, 4)] {
            waiters.park(Parked {
                sequence,
                deadline: Ticks(deadline),
                order: Bytes::new(),
                origin: Origin::Remote(n),
            });
        }
        assert_eq!(waiters.deadline(), Some(Ticks(5)));
        let mut overdue = Vec::new();
        while let Some(next) = waiters.take_overdue(Ticks(20)) {
            match next {
                Overdue::Proposed(Origin::Remote(n))
                | Overdue::Parked(Parked {
                    origin: Origin::Remote(n),
                    ..
                }) => {
                    overdue.push(n);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(overdue, [4, 1, 3]);
        assert_eq!(waiters.len(), 2);
    }

    #[test]
    fn the_first_proposed_write_is_the_oldest_that_waits() {
        let mut waiters = Waiters::default();
        assert_eq!(waiters.first_proposed_deadline(), None);
        waiters.proposed(id(1, 1), Ticks(10), Origin::Remote(1));
        waiters.proposed(id(2, 1), Ticks(20), Origin::Remote(2));
        assert_eq!(waiters.first_proposed_deadline(), Some(Ticks(10)));
        waiters.applied(id(1, 1));
        assert_eq!(waiters.first_proposed_deadline(), Some(Ticks(20)));
        waiters.applied(id(2, 1));
        assert_eq!(waiters.first_proposed_deadline(), None);
    }

    #[test]
    fn parked_writes_keep_their_order_when_one_comes_back() {
        let mut waiters: Waiters<u32> = Waiters::default();
        for sequence in [2, 3, 1] {
            let origin = Origin::Remote(sequence as u32);
            waiters.park(Parked {
                sequence,
                deadline: Ticks(5),
                order: Bytes::new(),
                origin,
            });
        }
        let order: Vec<u64> = waiters.take_parked().map(|parked| parked.sequence).collect();
        assert_eq!(order, [1, 2, 3]);
    }
}
