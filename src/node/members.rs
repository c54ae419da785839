//! The other members as this node meets them: who is connected, with which data folder, who refuses whom, and which
//! membership the transport goes by. And the chore that binds each member to its data folder.

use std::collections::BTreeMap;

use super::host::Host;
use super::machine::Machine;
use crate::kv::Code;
use crate::raft::{Addresses, Change, FollowerStatus, Index, Membership, NodeId, Status, Ticks};
use crate::transport::Refusal;

/// A member that cannot be asked, or does not answer, for so long is reported.
const SILENT_MS: u64 = 2000;
/// A change of the membership that is not committed for so long is reported.
const CHANGING_MS: u64 = 5000;
/// A learner that has not caught up for so long is reported.
const LEARNING_MS: u64 = 60_000;

/// What is known of the other members. Bounded by the membership.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// The membership that the host was told last: its index, and whether this node needs no connection any more.
    told: Option<(Index, bool)>,
    /// Where the members of that membership are found.
    addresses: BTreeMap<NodeId, Addresses>,
    /// Former members that are still spoken with, and where: the leader tells one that it is removed (trap 3.5), and
    /// a removed leader still answers what was passed to it.
    parting: BTreeMap<NodeId, Addresses>,
    /// The members to which there is a connection, each with its data folder's number.
    connected: BTreeMap<NodeId, u64>,
    /// Those to which there is none, and since when.
    unconnected: BTreeMap<NodeId, Ticks>,
    /// Those with which there is none because one refuses the other.
    refusals: BTreeMap<NodeId, Refusal>,
    /// The learners, and since when this node knows them as such.
    learning: BTreeMap<NodeId, Ticks>,
    /// Since when a change of the membership is not committed.
    changing: Option<Ticks>,
    /// The log says already that this node was removed.
    said_removed: bool,
}

impl Roster {
    /// Begins with the membership that was recovered: news of connections may come before anything else.
    pub(super) fn new(own: NodeId, membership: &Membership, now: Ticks) -> Roster {
        let mut roster = Roster::default();
        roster.follow(own, membership, now);
        roster
    }

    fn connected(&mut self, peer: NodeId, incarnation: u64) {
        self.unconnected.remove(&peer);
        self.refusals.remove(&peer);
        self.connected.insert(peer, incarnation);
    }

    fn unreachable(&mut self, peer: NodeId, now: Ticks) {
        self.connected.remove(&peer);
        if self.addresses.contains_key(&peer) {
            self.unconnected.entry(peer).or_insert(now);
        }
    }

    /// The log has another membership now.
    fn follow(&mut self, own: NodeId, latest: &Membership, now: Ticks) {
        let gone = std::mem::replace(&mut self.addresses, latest.addresses.clone());
        self.parting.extend(gone);
        let members = &self.addresses;
        self.parting.retain(|id, _| !members.contains_key(id));
        self.unconnected.retain(|id, _| members.contains_key(id));
        self.refusals.retain(|id, _| members.contains_key(id));
        for id in members.keys().filter(|id| **id != own) {
            if !self.connected.contains_key(id) {
                self.unconnected.entry(*id).or_insert(now);
            }
        }
        self.learning.retain(|id, _| latest.learners.contains(id));
        for id in &latest.learners {
            self.learning.entry(*id).or_insert(now);
        }
    }

    /// A data folder that is not bound to its member yet, of this node or of one that is connected and answers: of one
    /// that does not, the connection may be a dead process's, with a folder that was given up since (trap 3.37).
    fn unbound(&self, own: (NodeId, u64), raft: &Status<'_>) -> Option<(NodeId, u64)> {
        let latest = raft.membership;
        let answers = |id| {
            raft.followers
                .iter()
                .any(|follower| follower.id == id && follower.has_answered)
        };
        let seen = |id: NodeId| {
            if id == own.0 {
                Some(own.1)
            } else {
                self.connected.get(&id).copied().filter(|_| answers(id))
            }
        };
        let unbound = latest
            .addresses
            .keys()
            .filter(|id| !latest.incarnations.contains_key(id));
        unbound
            .copied()
            .find_map(|id| seen(id).map(|incarnation| (id, incarnation)))
    }
}

impl<C> Machine<C> {
    /// A new connection to this peer is open; its data folder has this number.
    pub fn on_connected(&mut self, peer: NodeId, incarnation: u64) {
        self.roster.connected(peer, incarnation);
        self.raft.peer_connected(peer);
        self.retry_parked_at = self.now.ticks;
    }

    /// There is no connection any more on which this node could ask the peer something.
    pub fn on_unreachable(&mut self, peer: NodeId) {
        self.roster.unreachable(peer, self.now.ticks);
    }

    /// There is no connection with this member, because one of the two refuses the other.
    pub fn on_refused(&mut self, peer: NodeId, refusal: Refusal) {
        if self.roster.addresses.contains_key(&peer) {
            self.roster.refusals.insert(peer, refusal);
        }
    }

    /// Whether a client has reason to wait for this node to be added to a cluster.
    pub(super) fn waits_to_be_added(&self) -> bool {
        self.raft.membership().voters.is_empty()
    }

    /// Keeps the transport at the latest membership: in force from the moment it is appended (trap 3.2).
    pub(super) fn follow_membership(&mut self, host: &mut impl Host<CallId = C>) {
        let retired = self.raft.is_removed() && self.pending() == 0;
        let (now, index) = (self.now.ticks, self.raft.membership_index());
        match (self.raft.is_changing(), self.roster.changing) {
            (true, None) => self.roster.changing = Some(now),
            (false, Some(_)) => self.roster.changing = None,
            _ => {}
        }
        let news = self.roster.told != Some((index, retired));
        if !news && self.roster.parting.is_empty() {
            return;
        }
        let raft = self.raft.status();
        if news {
            self.roster.follow(self.raft.id(), raft.membership, now);
        }
        let before = self.roster.parting.len();
        let waiters = &self.waiters;
        self.roster.parting.retain(|id, _| {
            raft.followers.iter().any(|follower| follower.id == *id)
                || raft.leader == Some(*id)
                || waiters.is_forwarded_to(*id)
        });
        if !news && self.roster.parting.len() == before {
            return;
        }
        let mut membership = raft.membership.clone();
        if retired {
            membership.addresses.clear();
        } else {
            membership.addresses.extend(self.roster.parting.clone());
        }
        self.roster.told = Some((index, retired));
        host.adopt_membership(index, &membership);
    }

    /// Says once that this node was removed.
    pub(super) fn notice_removal(&mut self) {
        let removed = self.raft.is_removed();
        if removed && !self.roster.said_removed {
            tracing::warn!(
                "this node was removed from its cluster: it serves nothing any more; stop it. To join again it needs \
                 an empty data folder, cluster.join = true, and RAFT ADD on a member",
            );
            self.end_feeds(Code::ClusterDown, "this node was removed from its cluster");
        }
        self.roster.said_removed = removed;
    }

    /// A leader binds each member to the data folder with which it first connects (trap 3.37), one at a time, and
    /// not while somebody waits for another change.
    pub(super) fn bind_members(&mut self) {
        let latest = self.raft.membership();
        let all_bound = latest.incarnations.len() >= latest.addresses.len();
        let busy = self.changes.is_waiting() || self.raft.is_transferring() || self.raft.is_changing();
        if all_bound || busy {
            return;
        }
        let own = (self.raft.id(), self.options.incarnation);
        if let Some((id, incarnation)) = self.roster.unbound(own, &self.raft.status()) {
            // Where it is refused, it is tried again in the next turn.
            let bound = self.raft.change_membership(Change::Bind(id, incarnation));
            tracing::debug!(member = %id, ?bound, "its data folder is bound to it");
        }
    }

    /// The command that lets a member in (again).
    pub(super) fn add_command(&self, id: NodeId) -> String {
        let addresses = match self.raft.membership().addresses.get(&id) {
            Some(addresses) => addresses,
            None => &self.options.addresses,
        };
        format!("RAFT ADD {id} {} {}", addresses.peer, addresses.client)
    }

    /// What is wrong between this node and the others.
    pub(super) fn member_problems(&self, raft: &Status<'_>, problems: &mut Vec<String>) {
        for (id, addresses) in &raft.membership.addresses {
            let follower = raft.followers.iter().find(|follower| follower.id == *id);
            problems.extend(self.connection_problem(*id, addresses, follower));
            if let Some(follower) = follower {
                problems.extend(self.follower_problem(follower));
            }
        }
        let changing_ms = self
            .roster
            .changing
            .map_or(0, |since| self.now.ticks.since(since));
        if changing_ms >= CHANGING_MS {
            let mut needed = format!("a majority of {}", list(raft.membership.voters.iter()));
            if !raft.membership.outgoing.is_empty() {
                needed += &format!(" and of {}", list(raft.membership.outgoing.iter()));
            }
            problems.push(format!(
                "a change of the membership is not committed for {} s: it needs {needed}; see that they run",
                changing_ms / 1000
            ));
        }
    }

    fn connection_problem(
        &self,
        id: NodeId,
        addresses: &Addresses,
        follower: Option<&FollowerStatus>,
    ) -> Option<String> {
        match self.roster.refusals.get(&id) {
            Some(Refusal::Wiped) => {
                return Some(format!(
                    "node {id} came back with an empty data folder: run {} to let it rejoin",
                    self.add_command(id)
                ));
            }
            Some(Refusal::ByPeer(reason)) => return Some(format!("node {id} refuses this node: {reason}")),
            Some(Refusal::ByUs(reason)) => return Some(format!("this node refuses node {id}: {reason}")),
            None => {}
        }
        let since = self.roster.unconnected.get(&id);
        let unconnected_ms = since.map_or(0, |since| self.now.ticks.since(*since));
        let silent_ms = follower.map_or(0, |follower| follower.silent_ms);
        if unconnected_ms >= SILENT_MS {
            return Some(format!(
                "no connection to node {id} for {} s: see that it runs and that {} can be reached from here",
                unconnected_ms / 1000,
                addresses.peer
            ));
        }
        (silent_ms >= SILENT_MS).then(|| {
            format!(
                "node {id} is connected but has not answered for {} s: see whether its process hangs",
                silent_ms / 1000
            )
        })
    }

    fn follower_problem(&self, follower: &FollowerStatus) -> Option<String> {
        let id = follower.id;
        if follower.is_recovering {
            return Some(format!(
                "node {id} has lost data and fetches it anew; until it has done so it does not vote, and no other \
                 node should be stopped"
            ));
        }
        let catch_up = follower.catch_up?;
        let since = *self.roster.learning.get(&id)?;
        let learning_ms = self.now.ticks.since(since);
        let is_slow = catch_up.is_overdue || learning_ms >= LEARNING_MS;
        (is_slow && !catch_up.is_caught_up).then(|| {
            format!(
                "node {id} is a learner for {} s and lacks {} entries: it is promoted when it has caught up; see \
                 whether its disk and its network keep up, or run RAFT REMOVE {id}",
                learning_ms / 1000,
                catch_up.lacks
            )
        })
    }
}

/// Numbers of nodes, for a sentence.
pub(super) fn list<'a>(ids: impl Iterator<Item = &'a NodeId>) -> String {
    let ids: Vec<String> = ids.map(NodeId::to_string).collect();
    match ids.len() {
        1 => format!("node {}", ids.concat()),
        _ => format!("nodes {}", ids.join(", ")),
    }
}
