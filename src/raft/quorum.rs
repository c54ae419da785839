//! Majorities. Dumb on purpose: every value is tried and every voter counted (trap 3.24).

use std::collections::{BTreeMap, BTreeSet};

use super::types::{Membership, NodeId};
use crate::base::mutant::{self, Mutant};

/// How an election stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteResult {
    /// A majority has granted.
    Won,
    /// A majority can no longer be reached.
    Lost,
    /// Not decided.
    Pending,
}

/// How an election stands; in a joint configuration both majorities are needed (Diss. 4.3).
pub fn vote_result(membership: &Membership, votes: &BTreeMap<NodeId, bool>) -> VoteResult {
    let results = configurations(membership).map(|voters| majority_vote(voters, votes));
    results.fold(VoteResult::Won, |all, one| match (all, one) {
        (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
        (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
        _ => VoteResult::Pending,
    })
}

/// The greatest value that a majority has reached or passed, each voter's own given by `value`; the smaller
/// one of both configurations while they are joint. With match indexes this is the commit rule of Raft 5.3.
///
/// `None` without voters: nothing is decided by nobody.
pub fn majority_value<T: Ord + Copy>(membership: &Membership, value: impl Fn(NodeId) -> T) -> Option<T> {
    let mut least = None;
    for voters in configurations(membership) {
        let reached = voters
            .iter()
            .map(|id| value(*id))
            .filter(|v| {
                let learners = mutant::is(Mutant::LearnerCounts).then_some(&membership.learners);
                let counted = voters.iter().chain(learners.into_iter().flatten());
                let count = counted.filter(|id| value(**id) >= *v).count();
                2 * mutant::pick(Mutant::MinorityCommits, count, count + 1) > voters.len()
            })
            .max()?;
        least = Some(least.map_or(reached, |other: T| other.min(reached)));
    }
    least
}

/// The sets of voters of which each must agree: one, or two while joint.
fn configurations(membership: &Membership) -> impl Iterator<Item = &BTreeSet<NodeId>> {
    let is_left = membership.outgoing.is_empty() || mutant::is(Mutant::OutgoingIgnored);
    let outgoing = Some(&membership.outgoing).filter(|_| !is_left);
    std::iter::once(&membership.voters).chain(outgoing)
}

fn majority_vote(voters: &BTreeSet<NodeId>, votes: &BTreeMap<NodeId, bool>) -> VoteResult {
    let count = |wanted| voters.iter().filter(|id| votes.get(id) == Some(&wanted)).count();
    let granted = mutant::pick(Mutant::MinorityElects, count(true), count(true) + 1);
    if 2 * granted > voters.len() {
        VoteResult::Won
    } else if 2 * count(false) >= voters.len() {
        VoteResult::Lost
    } else {
        VoteResult::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    fn ids(range: std::ops::Range<u64>) -> BTreeSet<NodeId> {
        range.map(NodeId).collect()
    }

    /// The twin sorts and picks; the real one counts. Every assignment of four values to up to seven voters.
    #[test]
    fn trap_3_24_majority_value_agrees_with_a_sorting_twin() {
        for n in 1..=7u32 {
            let membership = Membership {
                voters: ids(1..u64::from(n) + 1),
                ..Membership::default()
            };
            for case in 0..4u64.pow(n) {
                let value = |id: NodeId| case / 4u64.pow(id.0 as u32 - 1) % 4;
                let mut sorted: Vec<u64> = membership.voters.iter().map(|id| value(*id)).collect();
                sorted.sort_unstable();
                let twin = sorted[(sorted.len() - 1) / 2];
                assert_eq!(
                    majority_value(&membership, value),
                    Some(twin),
                    "{n} voters, case {case}"
                );
            }
        }
    }

    #[test]
    fn joint_needs_both_majorities() {
        let mut rng = Rng::new(3);
        for _ in 0..20_000 {
            let (a, b) = (1 + rng.below(7), 1 + rng.below(7));
            let start = rng.below(5) + 1;
            let (voters, outgoing) = (ids(1..a + 1), ids(start..start + b));
            let joint = Membership {
                voters: voters.clone(),
                outgoing: outgoing.clone(),
                ..Membership::default()
            };
            let single = |voters: &BTreeSet<NodeId>| Membership {
                voters: voters.clone(),
                ..joint_none()
            };
            let values: Vec<u64> = (0..16).map(|_| rng.below(5)).collect();
            let value = |id: NodeId| values[id.0 as usize];
            let twin = majority_value(&single(&voters), value).min(majority_value(&single(&outgoing), value));
            assert_eq!(majority_value(&joint, value), twin);
            let votes = (1..13)
                .filter(|_| rng.one_in(2))
                .map(|i| (NodeId(i), values[i as usize] > 1))
                .collect();
            let both = [
                vote_result(&single(&voters), &votes),
                vote_result(&single(&outgoing), &votes),
            ];
            let twin = if both.contains(&VoteResult::Lost) {
                VoteResult::Lost
            } else if both == [VoteResult::Won; 2] {
                VoteResult::Won
            } else {
                VoteResult::Pending
            };
            assert_eq!(vote_result(&joint, &votes), twin);
        }
    }

    fn joint_none() -> Membership {
        Membership::default()
    }

    #[test]
    fn nobody_decides_nothing() {
        assert_eq!(majority_value(&Membership::default(), |_| 1), None);
        assert_eq!(
            vote_result(&Membership::default(), &BTreeMap::new()),
            VoteResult::Lost
        );
    }
}
