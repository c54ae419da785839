//! The log in memory: the entries after the last snapshot.
//!
//! The core reads its log from here and never from the disk, so that it cannot fail. What is durable is
//! tracked beside it, in `ready`.
//!
//! Invariants: indexes are consecutive from `base.index + 1`; terms never fall; an entry at or below the
//! commit index is never replaced. What a snapshot covers is dropped from the front ([`Log::compact`]), or with all
//! that does not follow it ([`Log::install`]).

use std::collections::VecDeque;

use super::message::Conflict;
use super::types::{Entry, EntryId, Index, Payload, Term};
use crate::base::mutant::{self, Mutant};

/// The entries of the log, in memory.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// The entry before the first one held, which a snapshot covers; 0@0 without one.
    base: EntryId,
    entries: VecDeque<Entry>,
    /// For each entry held, the size of all that were ever held up to and with it; so that the size of any part is a
    /// difference.
    ends: VecDeque<u64>,
    /// The same at `base`.
    base_end: u64,
}

/// Room for so many entries is never given back.
const SPARE_ENTRIES: usize = 1024;

/// An AppendEntries that would replace a committed entry: a leader that breaks Leader Completeness
/// (Raft 5.4.3), so nothing of it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommittedConflict {
    /// The committed entry.
    pub ours: EntryId,
    /// The entry that was to take its place.
    pub theirs: EntryId,
}

impl Log {
    /// A log that begins after `base`.
    ///
    /// # Panics
    /// If the entries are not consecutive: recovery has checked them.
    pub fn new(base: EntryId, entries: Vec<Entry>) -> Log {
        let mut log = Log {
            base,
            ..Log::default()
        };
        for entry in entries {
            log.push(entry);
        }
        log
    }

    fn push(&mut self, entry: Entry) {
        let last = self.last();
        assert!(
            entry.id.index == last.index.next() && entry.id.term >= last.term,
            "entry {} cannot follow {last}",
            entry.id
        );
        let end = self.end(last.index) + entry.size_bytes() as u64;
        self.ends.push_back(end);
        self.entries.push_back(entry);
    }

    /// Removes the entries from this position on.
    fn truncate(&mut self, position: usize) {
        self.entries.truncate(position);
        self.ends.truncate(position);
    }

    /// The entry before the first one held.
    pub fn base(&self) -> EntryId {
        self.base
    }

    /// The index of the first entry held, or of the next one where none is.
    pub fn first_index(&self) -> Index {
        self.base.index.next()
    }

    /// The last entry: `lastLogIndex`, `lastLogTerm`.
    pub fn last(&self) -> EntryId {
        self.entries.back().map_or(self.base, |entry| entry.id)
    }

    fn position(&self, index: Index) -> Option<usize> {
        index
            .0
            .checked_sub(self.base.index.0 + 1)
            .map(|offset| offset as usize)
    }

    /// The entry at an index, where it is held.
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        self.entries.get(self.position(index)?)
    }

    /// The term of the entry at an index; known also for `base`.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            Some(self.base.term)
        } else {
            self.entry(index).map(|e| e.id.term)
        }
    }

    /// Whether the log holds this entry. What the snapshot covers is committed and so matches by definition
    /// (trap 3.19).
    pub fn holds(&self, id: EntryId) -> bool {
        id.index < self.base.index || self.term_at(id.index) == Some(id.term)
    }

    /// Appends a leader's own entry and names it.
    pub fn append(&mut self, term: Term, payload: Payload) -> EntryId {
        let id = EntryId {
            term,
            index: self.last().index.next(),
        };
        self.push(Entry { id, payload });
        id
    }

    /// Takes over a leader's entries, which follow an entry that this log holds (Raft 5.3, receiver's steps
    /// 3 and 4): nothing changes up to the first true conflict, everything from there on is replaced
    /// (traps 3.17, 3.18). Returns the first index that changed.
    ///
    /// # Errors
    /// If that would replace an entry at or below `commit_index`; the log is then as before.
    pub fn merge(
        &mut self,
        mut entries: Vec<Entry>,
        commit_index: Index,
    ) -> Result<Option<Index>, CommittedConflict> {
        let end = self.last().index;
        let is_held = |entry: &&Entry| {
            let cuts = mutant::is(Mutant::TruncateAlways) && entry.id.index > commit_index;
            let keeps = mutant::is(Mutant::ConflictIsKept) && entry.id.index <= end;
            (self.holds(entry.id) && !cuts) || keeps
        };
        let held = entries.iter().take_while(is_held).count();
        let fresh = entries.split_off(held);
        let Some(first) = fresh.first().map(|entry| entry.id) else {
            return Ok(None);
        };
        if first.index <= commit_index {
            let ours = EntryId {
                term: self.term_at(first.index).unwrap_or_default(),
                index: first.index,
            };
            return Err(CommittedConflict { ours, theirs: first });
        }
        self.truncate(self.position(first.index).unwrap_or(0));
        for entry in fresh {
            self.push(entry);
        }
        Ok(Some(first.index))
    }

    /// Consecutive entries from `from` on, up to `to`: at least one where there is one, then as many as
    /// `max_bytes` allows.
    pub fn slice(&self, from: Index, to: Index, max_bytes: usize) -> Vec<Entry> {
        let Some(start) = self.position(from) else {
            return Vec::new();
        };
        let mut bytes = 0;
        self.entries
            .iter()
            .skip(start)
            .take_while(|entry| {
                let first = bytes == 0;
                bytes += entry.size_bytes();
                entry.id.index <= to && (first || bytes <= max_bytes)
            })
            .cloned()
            .collect()
    }

    /// The size of the entries after `after`, up to `to`, as far as they are held.
    pub fn size_bytes(&self, after: Index, to: Index) -> usize {
        self.end(to).saturating_sub(self.end(after)) as usize
    }

    /// The size of all entries held.
    pub fn size_bytes_held(&self) -> usize {
        self.size_bytes(self.base.index, self.last().index)
    }

    /// The size of all entries up to this one, dropped ones included; of the nearest one held, where it is not.
    fn end(&self, index: Index) -> u64 {
        let held = index.min(self.last().index);
        let end = self.position(held).and_then(|position| self.ends.get(position));
        end.copied().unwrap_or(self.base_end)
    }

    /// The last index with at least `bytes` of entries between it and `to`; `base` where there are fewer.
    pub fn index_before_last_bytes(&self, to: Index, bytes: usize) -> Index {
        let to = to.min(self.last().index);
        let most = self.end(to).saturating_sub(bytes as u64);
        if most < self.base_end {
            return self.base.index;
        }
        let fits = self.ends.partition_point(|end| *end <= most);
        Index(self.base.index.0 + fits as u64)
    }

    /// Drops the entries up to `upto`, which a snapshot covers. What is not held is not dropped.
    pub fn compact(&mut self, upto: Index) {
        let Some(base) = self.entry(upto).map(|entry| entry.id) else {
            return;
        };
        let dropped = self.position(upto.next()).unwrap_or(0);
        self.base_end = self.end(upto);
        self.base = base;
        self.entries.drain(..dropped);
        self.ends.drain(..dropped);
        // A log that was once long does not keep its memory for ever.
        if self.entries.capacity() > 4 * self.entries.len().max(SPARE_ENTRIES) {
            self.entries.shrink_to(2 * self.entries.len());
            self.ends.shrink_to(2 * self.entries.len());
        }
    }

    /// A snapshot takes the place of everything up to `last`. If the log holds that entry, what follows it stays;
    /// if not, nothing does (Raft figure 13, receiver's steps 6 and 7). Says whether it stayed.
    pub fn install(&mut self, last: EntryId) -> bool {
        let here = self.term_at(last.index);
        if here == Some(last.term) || here.is_some() && mutant::is(Mutant::InstallKeepsConflict) {
            self.compact(last.index);
            return true;
        }
        *self = Log::new(last, Vec::new());
        false
    }

    /// Where this log, which does not hold `prev_log`, might agree with the asker's (trap 3.21).
    pub fn conflict_at(&self, prev_log_index: Index) -> Conflict {
        let last_index = prev_log_index.min(self.last().index);
        let term = self.term_at(last_index).unwrap_or_default();
        let mut first_index = last_index;
        while first_index > self.first_index() && self.term_at(first_index.prev()) == Some(term) {
            first_index = first_index.prev();
        }
        Conflict {
            term,
            first_index,
            last_index,
        }
    }

    /// The last index at which this leader's log can agree with a follower that named this conflict.
    ///
    /// The follower holds `conflict.term` from `first_index` to `last_index` and lower terms before; terms
    /// never fall along a log. So they agree either inside that run, where this log has that term too, or
    /// before it.
    pub fn agreement_with(&self, conflict: Conflict) -> Index {
        let mut index = conflict.last_index.min(self.last().index);
        while index > self.base.index && self.term_at(index).is_some_and(|term| term > conflict.term) {
            index = index.prev();
        }
        if self.term_at(index) == Some(conflict.term) {
            return index;
        }
        index.min(conflict.first_index.prev())
    }

    /// How many entries are held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no entry is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(first: u64, terms: &[u64]) -> Vec<Entry> {
        let id = |(i, t): (usize, &u64)| EntryId {
            term: Term(*t),
            index: Index(first + i as u64),
        };
        terms
            .iter()
            .enumerate()
            .map(id)
            .map(|id| Entry {
                id,
                payload: Payload::Noop,
            })
            .collect()
    }

    fn log(terms: &[u64]) -> Log {
        Log::new(EntryId::default(), entries(1, terms))
    }

    fn terms(log: &Log) -> Vec<u64> {
        log.entries.iter().map(|e| e.id.term.0).collect()
    }

    #[test]
    fn merge_replaces_from_the_first_conflict_only() {
        type Terms = &'static [u64];
        let cases: [(Terms, u64, Terms, Option<u64>, Terms); 6] = [
            (&[1, 1, 2], 1, &[1, 1], None, &[1, 1, 2]),
            (&[1, 1, 2], 2, &[], None, &[1, 1, 2]),
            (&[1, 1, 2], 3, &[2, 2], Some(4), &[1, 1, 2, 2]),
            (&[1, 1, 2, 2], 3, &[3], Some(3), &[1, 1, 3]),
            (&[1, 1, 2, 2], 2, &[1, 2, 3], Some(4), &[1, 1, 2, 3]),
            (&[], 1, &[4], Some(1), &[4]),
        ];
        for (have, first, come, changed, want) in cases {
            let mut log = log(have);
            assert_eq!(log.merge(entries(first, come), Index(0)), Ok(changed.map(Index)));
            assert_eq!(terms(&log), want);
        }
    }

    #[test]
    fn merge_never_replaces_a_committed_entry() {
        let mut log = log(&[1, 1, 2]);
        let refused = log.merge(entries(2, &[3]), Index(2)).unwrap_err();
        assert_eq!((refused.ours.term, refused.theirs.term), (Term(1), Term(3)));
        assert_eq!(terms(&log), [1, 1, 2]);
    }

    #[test]
    fn trap_3_19_what_the_snapshot_covers_matches() {
        let base = EntryId {
            term: Term(3),
            index: Index(10),
        };
        let mut log = Log::new(base, entries(11, &[3, 4]));
        assert!(log.holds(EntryId {
            term: Term(1),
            index: Index(5)
        }));
        assert!(log.holds(base));
        assert!(!log.holds(EntryId {
            term: Term(2),
            index: Index(10)
        }));
        assert_eq!(
            log.merge(entries(9, &[2, 3, 3, 4, 4]), Index(10)),
            Ok(Some(Index(13)))
        );
        assert_eq!(terms(&log), [3, 4, 4]);
    }

    #[test]
    fn a_compacted_log_goes_on_where_it_was() {
        let mut log = log(&[1, 1, 2, 3]);
        let size = log.entry(Index(1)).unwrap().size_bytes();
        log.compact(Index(2));
        assert_eq!((terms(&log), log.first_index()), (vec![2, 3], Index(3)));
        assert_eq!(log.term_at(Index(2)), Some(Term(1)), "the base is known");
        assert_eq!(log.term_at(Index(1)), None);
        assert_eq!(log.size_bytes_held(), 2 * size);
        log.compact(Index(2));
        log.compact(Index(9));
        assert_eq!(log.len(), 2, "what is not held is not dropped");
        log.compact(Index(4));
        assert_eq!((log.last().index, log.size_bytes_held()), (Index(4), 0));
        assert_eq!(log.append(Term(3), Payload::Noop).index, Index(5));
        assert_eq!(log.size_bytes_held(), size);
    }

    #[test]
    fn an_installed_snapshot_keeps_what_follows_it_and_nothing_else() {
        let last = EntryId {
            term: Term(2),
            index: Index(3),
        };
        let mut held = log(&[1, 1, 2, 2]);
        assert!(held.install(last));
        assert_eq!((terms(&held), held.base()), (vec![2], last));
        for other in [&[1, 1, 1, 3][..], &[1, 1]] {
            let mut other = log(other);
            assert!(!other.install(last));
            assert_eq!((other.len(), other.last()), (0, last));
            assert_eq!(other.size_bytes_held(), 0);
        }
    }

    /// The size of any part is the sum of its entries, whatever was appended, replaced and dropped before.
    #[test]
    fn sizes_are_sums() {
        let mut rng = crate::base::rng::Rng::new(7);
        let mut log = Log::default();
        for round in 1..500 {
            let command = Payload::Command(vec![0; rng.below(50) as usize].into());
            log.append(Term(round), command);
            if rng.one_in(9) {
                log.compact(Index(rng.below(log.last().index.0 + 2)));
            }
            if rng.one_in(9) && !log.is_empty() {
                let first = log.first_index().0 + rng.below(log.len() as u64);
                log.merge(entries(first, &[round]), Index(0)).unwrap();
            }
            let (after, to) = (rng.below(round + 3), rng.below(round + 3));
            let part = log
                .entries
                .iter()
                .filter(|e| (after + 1..=to).contains(&e.id.index.0));
            let sum: usize = part.map(Entry::size_bytes).sum();
            assert_eq!(log.size_bytes(Index(after), Index(to)), sum, "{after} to {to}");
            assert_eq!(
                log.size_bytes_held(),
                log.entries.iter().map(Entry::size_bytes).sum::<usize>()
            );
        }
    }

    #[test]
    fn slices_hold_at_least_one_entry_and_respect_both_ends() {
        let log = log(&[1, 1, 1, 1]);
        let size = log.entry(Index(1)).unwrap().size_bytes();
        assert_eq!(log.slice(Index(2), Index(9), 0).len(), 1);
        assert_eq!(log.slice(Index(1), Index(9), size * 2).len(), 2);
        assert_eq!(log.slice(Index(1), Index(3), usize::MAX).len(), 3);
        assert_eq!(log.slice(Index(5), Index(9), usize::MAX).len(), 0);
    }

    /// All pairs of logs over three terms and up to five entries: the leader must end at the true point of
    /// agreement, in as many steps as there are terms.
    #[test]
    fn trap_3_21_backtracking_takes_a_step_for_each_term() {
        let logs = all_logs(5, 3);
        for ours in &logs {
            for theirs in logs.iter().filter(|theirs| match_as_logs_do(ours, theirs)) {
                let (leader, follower) = (log(ours), log(theirs));
                let agree = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count() as u64;
                let mut prev = leader.last().index;
                let mut steps = 0;
                let id = |index| EntryId {
                    term: leader.term_at(index).unwrap(),
                    index,
                };
                while !follower.holds(id(prev)) {
                    let next = leader.agreement_with(follower.conflict_at(prev));
                    assert!(next < prev, "no progress: {ours:?} {theirs:?}");
                    prev = next;
                    steps += 1;
                }
                assert!(steps <= 4, "{steps} steps: {ours:?} {theirs:?}");
                assert!(prev.0 <= agree, "{ours:?} {theirs:?}");
                assert!(prev.0 == agree || ours.len() > agree as usize);
            }
        }
    }

    /// Log Matching (Raft 5.3): the same term at an index, the same log up to there.
    fn match_as_logs_do(a: &[u64], b: &[u64]) -> bool {
        let agree = a.iter().zip(b).take_while(|(a, b)| a == b).count();
        a.iter().zip(b).skip(agree).all(|(a, b)| a != b)
    }

    fn all_logs(length: usize, max_term: u64) -> Vec<Vec<u64>> {
        let mut logs = vec![vec![]];
        let mut last = logs.clone();
        for _ in 0..length {
            last = last
                .iter()
                .flat_map(|log: &Vec<u64>| {
                    (log.last().copied().unwrap_or(1)..=max_term).map(|t| [&log[..], &[t]].concat())
                })
                .collect();
            logs.extend(last.clone());
        }
        logs
    }
}
