//! The state's hash at the last few indexes, to be compared with what the leader says of its own: two nodes
//! that have applied the same index must have the same state.

use std::collections::VecDeque;

use crate::raft::Index;

/// How many indexes are remembered: at 16 bytes each, 64 KiB.
const REMEMBERED_MAX: usize = 4096;

/// The hashes at the last indexes, and the leader's claim if it is about a later one.
#[derive(Debug, Default)]
pub struct Hashes {
    /// At consecutive indexes, the last one at the back.
    recent: VecDeque<u64>,
    last: Index,
    claim: Option<(Index, u64)>,
}

impl Hashes {
    /// The state after this index has this hash. `false` if the leader has claimed another one.
    #[must_use]
    pub fn applied(&mut self, index: Index, hash: u64) -> bool {
        if index != self.last.next() {
            self.recent.clear();
        }
        self.last = index;
        self.recent.push_back(hash);
        if self.recent.len() > REMEMBERED_MAX {
            self.recent.pop_front();
        }
        let claim = self.claim.take_if(|(claimed, _)| *claimed <= index);
        claim.is_none_or(|(claimed, other)| claimed != index || other == hash)
    }

    /// Another state has taken the place of this one.
    pub fn jumped_to(&mut self, index: Index, hash: u64) {
        self.recent.clear();
        self.recent.push_back(hash);
        self.last = index;
        self.claim.take_if(|(claimed, _)| *claimed <= index);
    }

    /// The hash at this index, unless that is to come or long past.
    pub fn at(&self, index: Index) -> Option<u64> {
        let back = self.last.0.checked_sub(index.0)?;
        let position = (self.recent.len() as u64).checked_sub(back + 1)?;
        self.recent.get(position as usize).copied()
    }

    /// The leader claims this hash at this index. `false` if it is another one here; a claim about an index
    /// to come is checked when it comes, one about an index long past can't be.
    #[must_use]
    pub fn claimed(&mut self, index: Index, hash: u64) -> bool {
        if index > self.last {
            self.claim = Some((index, hash));
            return true;
        }
        self.at(index).is_none_or(|ours| ours == hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_checked_past_and_to_come() {
        let mut hashes = Hashes::default();
        for index in 1..=5000 {
            assert!(hashes.applied(Index(index), index * 7));
        }
        assert!(hashes.claimed(Index(4000), 28000));
        assert_eq!(
            (hashes.at(Index(5000)), hashes.at(Index(5001))),
            (Some(35000), None)
        );
        assert!(!hashes.claimed(Index(4000), 28001));
        assert!(hashes.claimed(Index(1), 0), "too long ago to say");
        assert!(hashes.claimed(Index(5002), 1));
        assert!(hashes.applied(Index(5001), 0));
        assert!(!hashes.applied(Index(5002), 2));
    }

    #[test]
    fn after_a_jump_only_what_is_known_counts() {
        let mut hashes = Hashes::default();
        assert!(hashes.applied(Index(1), 7));
        assert!(hashes.claimed(Index(11), 1));
        hashes.jumped_to(Index(10), 70);
        assert!(hashes.claimed(Index(1), 8), "no longer known");
        assert!(hashes.claimed(Index(10), 70) && !hashes.claimed(Index(10), 71));
        assert!(!hashes.applied(Index(11), 2), "claimed before the jump");
    }
}
