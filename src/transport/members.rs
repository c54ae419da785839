//! Whom a node lets in: the members of its latest membership, each with the data folder that belongs to it.
//!
//! A server that comes back with an empty data folder has forgotten its votes and what it acknowledged: under its
//! old id it could vote twice and let committed entries go (Diss. 3.8, trap 3.37). A server that was removed would
//! campaign for ever (trap 3.5). Both are turned away, and told what to do, because a human reads it at night.
//!
//! Only a node that knows a later membership than the other may refuse it for that: a node that lags behind must
//! never refuse one whose membership it has not heard of, or the cluster could not form or heal. So a node without
//! any membership, which waits to be added, lets everybody in.

use crate::base::mutant::{self, Mutant};
use crate::raft::{Addresses, Index, Membership, NodeId};

/// A membership, and where in the log it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    index: Index,
    membership: Membership,
}

/// What a node says of itself when it connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its number.
    pub node_id: NodeId,
    /// Its data folder's random number.
    pub incarnation: u64,
    /// The index of the latest membership in its log; 0 where there is none.
    pub membership_index: Index,
}

/// Why there is no connection with a member, though both are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The member does not take this node, and says why.
    ByPeer(String),
    /// This node does not take the member: its data folder is not the one that it had.
    Wiped,
    /// This node does not take the member, and why.
    ByUs(String),
}

impl Members {
    /// The membership of the entry at `index`. Every server in its `addresses` counts as a member: one that is on
    /// its way out may be kept there until it knows.
    pub fn new(index: Index, membership: Membership) -> Members {
        Members { index, membership }
    }

    /// Where in the log this membership stands; 0 for none, and for that of the configuration.
    pub fn index(&self) -> Index {
        self.index
    }

    /// Where each member is reached by other nodes.
    pub(super) fn peers(&self) -> impl Iterator<Item = (NodeId, &str)> {
        let addresses = self.membership.addresses.iter();
        addresses.map(|(id, addresses)| (*id, addresses.peer.as_str()))
    }

    /// Whether this server is a member.
    pub fn contains(&self, id: NodeId) -> bool {
        self.membership.addresses.contains_key(&id)
    }

    /// Whether the server must be turned away.
    pub fn refuses(&self, claim: &Claim) -> bool {
        self.refuses_stranger(claim) || self.refuses_wiped(claim)
    }

    /// It is no member, and knows less than this node.
    fn refuses_stranger(&self, claim: &Claim) -> bool {
        claim.membership_index < self.index && !self.contains(claim.node_id)
    }

    /// It is a member with another data folder, and knows less than this node.
    pub(super) fn refuses_wiped(&self, claim: &Claim) -> bool {
        if mutant::is(Mutant::WipedIsLetIn) {
            return false;
        }
        let bound = self.membership.incarnations.get(&claim.node_id);
        claim.membership_index < self.index && bound.is_some_and(|bound| *bound != claim.incarnation)
    }

    /// Why the server is turned away, for whoever runs it; `None`: it is not.
    pub(super) fn objection(&self, claim: &Claim) -> Option<String> {
        let id = claim.node_id;
        if self.refuses_wiped(claim) {
            return Some(format!(
                "node {id} comes with another data folder than it had in this cluster, so it has forgotten its votes \
                 and what it acknowledged, and must not take part as it is: run {} on any other node; it then \
                 fetches everything and votes again by itself",
                self.add_command(id)
            ));
        }
        if !self.refuses_stranger(claim) {
            return None;
        }
        let add = self.add_command(id);
        Some(if claim.membership_index == Index(0) {
            format!("node {id} is not a member of this cluster: to add it, run {add} on a member")
        } else {
            format!(
                "node {id} is no longer a member of this cluster, it was removed: stop it; to let it join again, give \
                 it an empty data folder, start it with cluster.join = true, and run {add} on a member"
            )
        })
    }

    /// The command that lets the server in (again).
    fn add_command(&self, id: NodeId) -> String {
        match self.membership.addresses.get(&id) {
            Some(Addresses { peer, client }) => format!("'RAFT ADD {id} {peer} {client}'"),
            None => {
                format!("'RAFT ADD {id} PEER CLIENT' with the addresses of its peer port and its client port")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes 1 to 3, of which 3 has no data folder bound yet.
    fn members(index: u64) -> Members {
        let addresses = |id: u64| Addresses {
            peer: format!("h{id}:7239"),
            client: format!("h{id}:7238"),
        };
        let membership = Membership {
            voters: (1..=3).map(NodeId).collect(),
            addresses: (1..=3).map(|id| (NodeId(id), addresses(id))).collect(),
            incarnations: [(NodeId(1), 11), (NodeId(2), 22)].into(),
            ..Membership::default()
        };
        Members::new(Index(index), membership)
    }

    fn claim(id: u64, incarnation: u64, index: u64) -> Claim {
        Claim {
            node_id: NodeId(id),
            incarnation,
            membership_index: Index(index),
        }
    }

    #[test]
    fn trap_3_37_a_wiped_member_is_refused_and_told_what_to_do() {
        let reason = members(9).objection(&claim(2, 23, 0)).unwrap();
        assert!(reason.contains("'RAFT ADD 2 h2:7239 h2:7238'"), "{reason}");
        assert_eq!(
            members(9).objection(&claim(2, 22, 0)),
            None,
            "its own folder, lagging"
        );
        assert_eq!(
            members(9).objection(&claim(3, 99, 0)),
            None,
            "no folder is bound yet"
        );
    }

    #[test]
    fn trap_3_5_a_removed_node_is_refused_and_told_so() {
        let reason = members(9).objection(&claim(4, 44, 8)).unwrap();
        assert!(reason.contains("was removed: stop it"), "{reason}");
        let reason = members(9).objection(&claim(4, 44, 0)).unwrap();
        assert!(
            reason.contains("not a member") && reason.contains("'RAFT ADD 4 "),
            "{reason}"
        );
    }

    #[test]
    fn who_knows_no_more_than_the_other_refuses_nobody() {
        for index in [9, 10] {
            for stranger in [claim(2, 23, index), claim(4, 44, index)] {
                assert!(!members(9).refuses(&stranger) && members(9).objection(&stranger).is_none());
            }
        }
        assert!(!Members::default().refuses(&claim(2, 23, 0)), "waits to be added");
    }
}
