//! The terms of the log's entries, without the entries: enough to say whether the log holds one.

use crate::raft::{EntryId, Index, Term};

/// Invariants: the first indexes of the runs grow; `last` is not before the last of them. The first run may
/// begin with an entry that is not in the log: the one before its first.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// From this index on, up to the next run, entries are of this term.
    runs: Vec<(Index, Term)>,
    last: Index,
}

impl Terms {
    /// Of a log that is empty and begins after this entry.
    pub(super) fn after(base: EntryId) -> Terms {
        Terms {
            runs: vec![(base.index, base.term)],
            last: base.index,
        }
    }

    /// The term of the entry at this index; `None` behind the last one, and where it is not known any more.
    pub(super) fn term(&self, index: Index) -> Option<Term> {
        let run = self.runs.partition_point(|(first, _)| *first <= index);
        let (_, term) = self.runs.get(run.checked_sub(1)?)?;
        (index <= self.last).then_some(*term)
    }

    /// The entry before this index, where it is known.
    pub(super) fn before(&self, index: Index) -> Option<EntryId> {
        let before = index.prev();
        let term = self.term(before).filter(|_| before < index)?;
        Some(EntryId { term, index: before })
    }

    /// The last entry, or the one that the log begins after.
    pub(super) fn last(&self) -> EntryId {
        EntryId {
            term: self.runs.last().map_or(Term(0), |(_, term)| *term),
            index: self.last,
        }
    }

    /// Whether the log holds this entry, or held it when its head was dropped: that was committed.
    pub(super) fn holds(&self, id: EntryId) -> bool {
        id.index <= self.last && self.term(id.index).is_none_or(|term| term == id.term)
    }

    /// Puts an entry in the place of the one of its index and all after it.
    pub(super) fn put(&mut self, id: EntryId) {
        while self.runs.last().is_some_and(|(first, _)| *first >= id.index) {
            self.runs.pop();
        }
        if self.runs.last().is_none_or(|(_, term)| *term != id.term) {
            self.runs.push((id.index, id.term));
        }
        self.last = id.index;
    }

    /// Forgets terms of entries before this one.
    pub(super) fn forget_before(&mut self, index: Index) {
        let gone = self.runs.partition_point(|(first, _)| *first <= index);
        self.runs.drain(..gone.saturating_sub(1));
    }
}

impl Default for Terms {
    fn default() -> Terms {
        Terms::after(EntryId::default())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::rng::Rng;

    #[test]
    fn agrees_with_a_map() {
        let id = |index, term| EntryId {
            term: Term(term),
            index: Index(index),
        };
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let (mut terms, mut map, mut known) = (Terms::default(), BTreeMap::from([(0, 0)]), 0);
            for step in 1..200 {
                let last = *map.keys().next_back().unwrap();
                if rng.one_in(20) {
                    let base = last + rng.below(4);
                    terms = Terms::after(id(base, step));
                    (map, known) = (BTreeMap::from([(base, step)]), base);
                } else if rng.one_in(10) {
                    known = known.max(rng.below(last + 1));
                    terms.forget_before(Index(known));
                } else {
                    let at = last + 1 - rng.below(3).min(last);
                    map.split_off(&at);
                    map.insert(at, step / 9);
                    known = known.min(at);
                    terms.put(id(at, step / 9));
                }
                let (&last, &term) = map.last_key_value().unwrap();
                assert_eq!(terms.last(), id(last, term));
                for index in known..last + 3 {
                    let expected = map.get(&index).map(|term| Term(*term));
                    assert_eq!(terms.term(Index(index)), expected, "seed {seed}, {index}");
                    assert_eq!(terms.holds(id(index, 7)), expected == Some(Term(7)));
                }
            }
        }
    }
}
