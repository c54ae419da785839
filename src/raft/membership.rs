//! Which servers there are, as the log says: a membership is in force from the moment its entry is appended
//! and out of force when the entry is replaced (Diss. 4.1, trap 3.2).

use super::types::{Index, Membership, NodeId, SnapshotHeader};
use crate::base::mutant::{self, Mutant};

/// The memberships of the log, oldest first: one that is committed, and those that may still be replaced.
#[derive(Clone, Debug)]
pub struct Memberships {
    /// Never empty; indexes grow.
    history: Vec<(Index, Membership)>,
}

impl Memberships {
    /// Begins with the membership at `index`: of the snapshot, or of the bootstrap (index 0).
    pub fn new(index: Index, membership: Membership) -> Memberships {
        Memberships {
            history: vec![(index, membership)],
        }
    }

    /// The membership in force.
    pub fn latest(&self) -> &Membership {
        // The history is never empty; an empty membership decides nothing and so is safe.
        static NONE: Membership = Membership::NONE;
        let latest = mutant::pick(
            Mutant::MembershipOnCommit,
            self.history.last(),
            self.history.first(),
        );
        latest.map_or(&NONE, |(_, membership)| membership)
    }

    /// The index of the entry that brought the membership in force; 0 for that of the bootstrap.
    pub fn latest_index(&self) -> Index {
        self.history.last().map_or(Index(0), |(index, _)| *index)
    }

    /// The newest membership that has this server, of those that may be in force: the last one up to `commit_index`,
    /// and all that may still be replaced.
    pub fn newest_with(&self, id: NodeId, commit_index: Index) -> Option<&Membership> {
        let is_old = |(at, _): &(Index, Membership)| *at <= commit_index;
        let committed = self.history.iter().rposition(is_old).unwrap_or(0);
        let mut newest_first = self.history.iter().skip(committed).rev();
        let found = newest_first.find(|(_, membership)| membership.contains(id));
        found.map(|(_, membership)| membership)
    }

    /// Whether a membership up to `index`, of those that are still known, has this server.
    pub fn had(&self, id: NodeId, index: Index) -> bool {
        let mut before = self.history.iter().take_while(|(at, _)| *at <= index);
        before.any(|(_, membership)| membership.contains(id))
    }

    /// The membership in force when the entry at `index` was the last one, and the index of the entry that brought it;
    /// `None` where that is forgotten.
    pub fn at(&self, index: Index) -> Option<(Index, &Membership)> {
        let found = self.history.iter().rev().find(|(at, _)| *at <= index);
        found.map(|(at, membership)| (*at, membership))
    }

    /// A snapshot takes the place of the log up to `last`: what was known up to there is forgotten for what the
    /// snapshot says (trap 3.41), and what came later too unless the log after `last` stays.
    pub fn install(&mut self, header: &SnapshotHeader, log_stays: bool) {
        self.history
            .retain(|(at, _)| log_stays && *at > header.last.index);
        self.history
            .insert(0, (header.membership_index, header.membership.clone()));
    }

    /// Whether the log or the snapshot names the membership in force; `false` for that of the bootstrap.
    pub fn is_recorded(&self) -> bool {
        self.history.last().is_some_and(|(index, _)| *index > Index(0))
    }

    /// An entry with a membership was appended.
    pub fn append(&mut self, index: Index, membership: Membership) {
        self.truncate(index);
        self.history.push((index, membership));
    }

    /// The log was cut: entries from `index` on are gone.
    pub fn truncate(&mut self, index: Index) {
        while self.history.len() > 1 && self.history.last().is_some_and(|(at, _)| *at >= index) {
            self.history.pop();
        }
    }

    /// Entries up to `index` are committed, and no snapshot of less will be taken: what was in force before is no
    /// longer needed.
    pub fn commit(&mut self, index: Index) {
        let committed = self.history.iter().rposition(|(at, _)| *at <= index).unwrap_or(0);
        self.history.drain(..committed);
    }
}

impl Membership {
    /// No servers at all.
    pub const NONE: Membership = Membership {
        voters: std::collections::BTreeSet::new(),
        outgoing: std::collections::BTreeSet::new(),
        learners: std::collections::BTreeSet::new(),
        addresses: std::collections::BTreeMap::new(),
        incarnations: std::collections::BTreeMap::new(),
    };

    /// Whether this server's vote counts.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// Whether the server is one of the cluster, voter or not.
    pub fn contains(&self, id: NodeId) -> bool {
        self.is_voter(id) || self.learners.contains(&id)
    }

    /// Whether it is a joint configuration (Diss. 4.3), which does not stay.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// The end of a joint configuration.
    #[must_use]
    pub fn without_outgoing(&self) -> Membership {
        let mut next = self.clone();
        next.outgoing.clear();
        next.forget_strangers();
        next
    }

    /// Drops what is known of servers that are no members any more.
    pub fn forget_strangers(&mut self) {
        let members = self.clone();
        self.addresses.retain(|id, _| members.contains(*id));
        self.incarnations.retain(|id, _| members.contains(*id));
    }

    /// Whether `next` may come after this one: the voters change only by way of a joint configuration, one server at a
    /// time, and a joint one is followed by its own end (Diss. 4.3).
    pub fn may_become(&self, next: &Membership) -> bool {
        if self.is_joint() || !next.is_joint() {
            return next.voters == self.voters && !next.is_joint();
        }
        next.outgoing == self.voters && next.voters.symmetric_difference(&self.voters).count() == 1
    }

    /// Every server but this one, in the order of their numbers.
    pub fn others(&self, than: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let mut all: Vec<NodeId> = self
            .voters
            .iter()
            .chain(&self.outgoing)
            .chain(&self.learners)
            .copied()
            .collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter().filter(move |id| *id != than)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ids: &[u64]) -> Membership {
        Membership {
            voters: ids.iter().copied().map(NodeId).collect(),
            ..Membership::default()
        }
    }

    #[test]
    fn trap_3_2_in_force_on_append_and_back_on_truncation() {
        let mut memberships = Memberships::new(Index(0), of(&[1]));
        memberships.append(Index(5), of(&[1, 2]));
        memberships.append(Index(9), of(&[1, 2, 3]));
        assert_eq!(memberships.latest(), &of(&[1, 2, 3]));
        memberships.truncate(Index(9));
        assert_eq!(memberships.latest(), &of(&[1, 2]));
        memberships.commit(Index(7));
        memberships.truncate(Index(1));
        assert_eq!(memberships.latest(), &of(&[1, 2]), "a committed membership stays");
    }
}
