//! Whether one copy of the data could have answered clients so.
//!
//! A history is linearizable when each operation can be given one moment between its start and its end such
//! that the operations, in the order of those moments, are what a single register would have answered. Keys
//! are independent of each other, so each is checked alone. The search is that of Wing and Gong with Lowe's
//! memory of the configurations already refuted: small, exact, and quick as long as no more than some eight
//! clients work on one key at a time.

use std::collections::{BTreeMap, HashSet};

/// What a client asks of one key that holds a number or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// `SET key value`: returns nothing.
    Set(u64),
    /// `GET key`: returns the value.
    Get,
    /// `INCR key`: returns the value it made.
    Incr,
    /// `SET key new IFEQ old`: returns 1 when it was done, nothing when the key held something else.
    Swap {
        /// What the key must hold.
        old: u64,
        /// What it holds then.
        new: u64,
    },
    /// `SET key value NX`: returns 1 when it was done, nothing when the key was there.
    Create(u64),
    /// `GETSET key value`: returns what the key held.
    Exchange(u64),
    /// `DEL key`: returns how many keys there were.
    Delete,
    /// `DELIFEQ key value`: returns 1 when it was done, else 0.
    DeleteIf(u64),
}

/// How an operation ended, for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done, and this is what it returned.
    Done(Option<u64>),
    /// It was certainly not done.
    Failed,
    /// It may be done: before now, later, or never.
    Unknown,
}

/// One operation of a history. Times are in any unit, since the history began.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The key.
    pub key: String,
    /// What was asked.
    pub action: Action,
    /// How it ended.
    pub outcome: Outcome,
    /// Before the request was sent.
    pub start: u64,
    /// After the reply was read.
    pub end: u64,
}

impl Action {
    /// What a register in `state` answers, and its state afterwards.
    fn apply(self, state: Option<u64>) -> (Option<u64>, Option<u64>) {
        match self {
            Action::Set(value) => (None, Some(value)),
            Action::Get => (state, state),
            Action::Incr => {
                let value = Some(state.unwrap_or(0) + 1);
                (value, value)
            }
            Action::Swap { old, new } if state == Some(old) => (Some(1), Some(new)),
            Action::Swap { .. } => (None, state),
            Action::Create(value) if state.is_none() => (Some(1), Some(value)),
            Action::Create(_) => (None, state),
            Action::Exchange(value) => (state, Some(value)),
            Action::Delete => (Some(u64::from(state.is_some())), None),
            Action::DeleteIf(value) if state == Some(value) => (Some(1), None),
            Action::DeleteIf(_) => (Some(0), state),
        }
    }
}

/// Panics with the operations on the first key whose history is not linearizable. Every key starts empty.
pub fn assert_linearizable(operations: Vec<Operation>) {
    for (key, operations) in by_key(operations) {
        assert!(
            linearizable(operations.clone()),
            "{}",
            describe(&key, &operations)
        );
    }
}

/// The history of each key.
pub fn by_key(operations: Vec<Operation>) -> BTreeMap<String, Vec<Operation>> {
    let mut keys: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
    for operation in operations {
        keys.entry(operation.key.clone()).or_default().push(operation);
    }
    keys
}

/// A history that is not linearizable, for people.
pub fn describe(key: &str, operations: &[Operation]) -> String {
    let mut lines: Vec<String> = operations
        .iter()
        .map(|o| format!("{:>12} {:>12} {:?} {:?}", o.start, o.end, o.action, o.outcome))
        .collect();
    lines.sort();
    format!(
        "the history of key {key} is not linearizable:\n{}",
        lines.join("\n")
    )
}

/// Whether the history of one key, empty at first, is linearizable.
pub fn linearizable(operations: Vec<Operation>) -> bool {
    linearizable_within(operations, u64::MAX).expect("no search takes so many steps")
}

/// Whether the history of one key, empty at first, is linearizable; `None` if that was not found out in so many
/// steps.
pub fn linearizable_within(operations: Vec<Operation>, steps_max: u64) -> Option<bool> {
    let mut search = Search::new(operations);
    for _ in 0..steps_max {
        if search.complete() {
            return Some(true);
        }
        if !search.forward() && !search.back() {
            return Some(false);
        }
    }
    None
}

/// A depth-first search for an order.
struct Search {
    /// Those of a known outcome by their start, then those of an unknown one by theirs. What failed, and
    /// reads of unknown outcome, are left out.
    operations: Vec<Operation>,
    /// How many have a known outcome.
    known: usize,
    /// Which ones have their place in the order.
    placed: Vec<bool>,
    /// The first operation of a known outcome without a place; `known` when all have one.
    low: usize,
    /// The order so far: the operation, and the state before it.
    order: Vec<(usize, Option<u64>)>,
    /// The register's state after `order`.
    state: Option<u64>,
    /// Where `forward` looks for the next operation to place.
    next: usize,
    /// The configurations that were reached already: they are on the path being looked at, or lead nowhere.
    seen: HashSet<Configuration>,
}

/// Which operations are placed, as `low` and those placed beyond it, and the state that they led to.
type Configuration = (usize, Vec<usize>, Option<u64>);

impl Search {
    fn new(mut operations: Vec<Operation>) -> Search {
        operations.retain(|o| match o.outcome {
            Outcome::Failed => false,
            Outcome::Unknown => o.action != Action::Get,
            Outcome::Done(_) => true,
        });
        operations.sort_by_key(|o| (o.outcome == Outcome::Unknown, o.start));
        let known = operations
            .iter()
            .filter(|o| o.outcome != Outcome::Unknown)
            .count();
        let placed = vec![false; operations.len()];
        let (order, seen) = (vec![], HashSet::new());
        Search {
            operations,
            known,
            placed,
            low: 0,
            order,
            state: None,
            next: 0,
            seen,
        }
    }

    fn complete(&self) -> bool {
        self.low == self.known
    }

    /// Places one more operation, the first possible one from `next` on.
    fn forward(&mut self) -> bool {
        let first_end = self.first_end();
        self.next = self.next.max(self.low);
        while self.next < self.operations.len() {
            let chosen = self.next;
            self.next += 1;
            if self.operations[chosen].start > first_end {
                if chosen >= self.known {
                    return false;
                }
                self.next = self.known;
            } else if !self.placed[chosen] && self.try_place(chosen, first_end) {
                self.next = 0;
                return true;
            }
        }
        false
    }

    /// Takes the last operation out again; the search goes on with those after it.
    fn back(&mut self) -> bool {
        let Some((chosen, state)) = self.order.pop() else {
            return false;
        };
        self.placed[chosen] = false;
        if chosen < self.known {
            self.low = self.low.min(chosen);
        }
        self.state = state;
        self.next = chosen + 1;
        true
    }

    fn try_place(&mut self, chosen: usize, first_end: u64) -> bool {
        let operation = &self.operations[chosen];
        let (returned, state) = operation.action.apply(self.state);
        let contradicts = matches!(operation.outcome, Outcome::Done(seen) if seen != returned);
        if contradicts || self.has_earlier_twin(chosen) {
            return false;
        }
        let low = self.low;
        self.placed[chosen] = true;
        while self.low < self.known && self.placed[self.low] {
            self.low += 1;
        }
        if !self.seen.insert(self.configuration(state, first_end)) {
            self.placed[chosen] = false;
            self.low = low;
            return false;
        }
        self.order.push((chosen, self.state));
        self.state = state;
        true
    }

    /// Nothing may be placed that started after an unplaced operation had ended. An operation of unknown
    /// outcome never ends.
    fn first_end(&self) -> u64 {
        let mut end = u64::MAX;
        for (operation, placed) in self
            .operations
            .iter()
            .zip(&self.placed)
            .take(self.known)
            .skip(self.low)
        {
            if operation.start > end {
                break;
            }
            if !placed {
                end = end.min(operation.end);
            }
        }
        end
    }

    /// What is placed never started after `first_end`, so the scan may end there.
    fn configuration(&self, state: Option<u64>, first_end: u64) -> Configuration {
        let near = (self.low..self.known).take_while(|i| self.operations[*i].start <= first_end);
        let unknown = self.known..self.operations.len();
        (
            self.low,
            near.chain(unknown).filter(|i| self.placed[*i]).collect(),
            state,
        )
    }

    /// Of equal operations of unknown outcome any may stand for any other, so the earliest goes first.
    /// Without this, twenty lost INCRs would mean a million sets to look at.
    fn has_earlier_twin(&self, chosen: usize) -> bool {
        let action = self.operations[chosen].action;
        chosen >= self.known
            && (self.known..chosen).any(|i| !self.placed[i] && self.operations[i].action == action)
    }
}

#[cfg(test)]
mod tests {
    use super::Action::{Create, Delete, DeleteIf, Exchange, Get, Incr, Set, Swap};
    use super::Outcome::{Done, Failed, Unknown};
    use super::*;

    fn check(operations: &[(u64, u64, Action, Outcome)]) -> bool {
        let operation = |&(start, end, action, outcome)| Operation {
            key: "k".into(),
            action,
            outcome,
            start,
            end,
        };
        linearizable(operations.iter().map(operation).collect())
    }

    #[test]
    fn good_histories_pass() {
        assert!(check(&[]), "nothing");
        assert!(
            check(&[(0, 1, Set(1), Done(None)), (2, 3, Get, Done(Some(1)))]),
            "one after the other"
        );
        let concurrent = [
            (0, 9, Set(1), Done(None)),
            (1, 2, Get, Done(None)),
            (3, 4, Get, Done(Some(1))),
        ];
        assert!(check(&concurrent), "a write that happens between two reads");
        let crossed = [
            (0, 9, Set(1), Done(None)),
            (1, 8, Set(2), Done(None)),
            (10, 11, Get, Done(Some(1))),
        ];
        assert!(check(&crossed), "of two writes at once either may be the last");
        let lost = [
            (0, 1, Set(1), Unknown),
            (5, 6, Get, Done(None)),
            (7, 8, Get, Done(Some(1))),
        ];
        assert!(
            check(&lost),
            "a write of unknown outcome happens long after the client gave up"
        );
        assert!(
            check(&[(0, 1, Set(1), Failed), (2, 3, Get, Done(None))]),
            "what failed was not done"
        );
        let counter = [
            (0, 5, Incr, Done(Some(2))),
            (0, 5, Incr, Done(Some(1))),
            (1, 9, Incr, Done(Some(3))),
        ];
        assert!(check(&counter), "a counter");
        let swaps = [
            (0, 1, Set(1), Done(None)),
            (2, 6, Swap { old: 1, new: 2 }, Done(Some(1))),
            (2, 6, Swap { old: 1, new: 3 }, Done(None)),
        ];
        assert!(check(&swaps), "of two swaps one wins");
        let lives = [
            (0, 1, Create(1), Done(Some(1))),
            (2, 3, Create(2), Done(None)),
            (4, 5, DeleteIf(2), Done(Some(0))),
            (6, 7, DeleteIf(1), Done(Some(1))),
            (8, 9, Delete, Done(Some(0))),
            (10, 11, Exchange(3), Done(None)),
            (12, 13, Exchange(4), Done(Some(3))),
            (14, 15, Delete, Done(Some(1))),
        ];
        assert!(check(&lives), "keys that come and go");
    }

    #[test]
    fn bad_histories_are_found() {
        assert!(
            !check(&[(0, 1, Set(1), Done(None)), (2, 3, Get, Done(None))]),
            "a lost write"
        );
        assert!(!check(&[(0, 1, Get, Done(Some(1)))]), "a value out of nowhere");
        assert!(
            !check(&[(0, 1, Set(1), Failed), (2, 3, Get, Done(Some(1)))]),
            "failed, but done"
        );
        let stale = [
            (0, 1, Set(1), Done(None)),
            (2, 3, Set(2), Done(None)),
            (4, 5, Get, Done(Some(1))),
        ];
        assert!(!check(&stale), "a stale read");
        let back = [
            (0, 9, Set(1), Done(None)),
            (1, 2, Get, Done(Some(1))),
            (3, 4, Get, Done(None)),
        ];
        assert!(!check(&back), "two reads that go back in time");
        let twice = [
            (0, 1, Set(7), Unknown),
            (2, 3, Get, Done(Some(7))),
            (4, 5, Set(8), Done(None)),
        ];
        let again = [&twice[..], &[(6, 7, Get, Done(Some(7)))]].concat();
        assert!(
            check(&twice) && !check(&again),
            "a write of unknown outcome is done once at most"
        );
        assert!(
            !check(&[(0, 1, Incr, Done(Some(1))), (0, 1, Incr, Done(Some(1)))]),
            "an increment is lost"
        );
        assert!(
            !check(&[(0, 1, Incr, Unknown), (2, 3, Incr, Done(Some(3)))]),
            "an increment done twice"
        );
        let swaps = [
            (0, 1, Set(1), Done(None)),
            (2, 6, Swap { old: 1, new: 2 }, Done(Some(1))),
            (2, 6, Swap { old: 1, new: 3 }, Done(Some(1))),
        ];
        assert!(!check(&swaps), "both swaps win");
        assert!(
            !check(&[(0, 1, Set(1), Done(None)), (2, 3, Create(2), Done(Some(1)))]),
            "a key is there and absent"
        );
        assert!(!check(&[(0, 1, Delete, Done(Some(1)))]), "nothing was deleted");
    }

    /// Eight clients at once, many operations, many of them lost: good, then bad by one answer.
    #[test]
    fn long_histories_are_quick() {
        let mut operations = vec![];
        for n in 0..400_u64 {
            let outcome = if n % 10 == 9 { Unknown } else { Done(Some(n + 1)) };
            operations.push((n * 10, n * 10 + 75, Incr, outcome));
        }
        assert!(check(&operations));
        operations[300].3 = Done(Some(1));
        assert!(!check(&operations));
    }
}
