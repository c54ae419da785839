//! Changes of the membership in `world`: what an operator does, what the node does by itself (data folders are bound),
//! and what the transport refuses.

use super::super::{Addresses, Change, ChangeError, Membership, NodeId};
use super::disk::Disk;
use super::world::World;
use crate::base::rng::Rng;

/// Servers in a random world, members or not.
const SERVERS_MAX: u64 = 7;

pub fn add(id: u64) -> Change {
    Change::Add {
        id: NodeId(id),
        addresses: Addresses {
            peer: format!("peer {id}"),
            client: format!("client {id}"),
        },
    }
}

impl World {
    pub fn change(&mut self, leader: u64, change: Change) -> Result<(), ChangeError> {
        self.with(leader, |raft| raft.change_membership(change))
    }

    /// A server with an empty disk, and the leader is told to add it.
    pub fn join(&mut self, leader: u64, id: u64) {
        self.new_server(id, Membership::default());
        self.change(leader, add(id)).expect("the leader adds a learner");
    }

    /// The leader binds the data folder of one member, if there is one that is not bound.
    pub fn bind(&mut self, leader: u64) {
        let members = self.raft(leader).status().membership.clone();
        let unbound = self.ids().into_iter().find(|id| {
            let id = NodeId(*id);
            members.contains(id) && !members.incarnations.contains_key(&id)
        });
        if let Some(id) = unbound {
            let _ = self.change(leader, Change::Bind(NodeId(id), self.servers[&id].incarnation));
        }
    }

    /// Binds whatever there is to bind, and waits until no change is under way.
    pub fn finish_changes(&mut self) {
        for _ in 0..500 {
            self.pass(10);
            if let Some(leader) = self.leader() {
                self.bind(leader);
                let status = self.raft(leader).status();
                let all_bound = status.membership.incarnations.len() >= status.membership.voters.len();
                if !status.is_changing && all_bound && status.membership.learners.is_empty() {
                    return;
                }
            }
        }
        panic!("the change does not come to its end");
    }

    /// As `settle`, and messages of this name are lost.
    pub fn settle_but(&mut self, name: &str) {
        while !self.network.is_empty() {
            self.network.retain(|envelope| envelope.message.name() != name);
            if !self.network.is_empty() {
                self.deliver(0);
            }
        }
    }

    /// The process ends, and its data folder is emptied.
    pub fn wipe(&mut self, id: u64) {
        self.crash(id);
        let server = self.server(id);
        server.disk = Disk::default();
        server.incarnation += 1;
        server.bootstrap = Membership::default();
        let is_dead = |to: &NodeId, from: &NodeId| to.0 == id || from.0 == id;
        self.network
            .retain(|envelope| !is_dead(&envelope.to, &envelope.from));
    }

    /// The process ends, its log is damaged, and what remains is that it knows (trap 3.31).
    pub fn lose_log(&mut self, id: u64) {
        self.crash(id);
        let disk = &mut self.server(id).disk;
        *disk = Disk {
            hard_state: disk.hard_state,
            recovering: true,
            ..Disk::default()
        };
    }

    /// Whether one side of a connection refuses the other: its data folder is not the one of the member. A server
    /// whose membership is older refuses nobody.
    pub fn is_refused(&self, from: u64, to: u64) -> bool {
        let refuses = |one: u64, other: u64| {
            let Some(raft) = self.servers[&one].raft.as_ref() else {
                return false;
            };
            let other_index = match self.servers[&other].raft.as_ref() {
                Some(raft) => raft.status().membership_index,
                None => return false,
            };
            let status = raft.status();
            let bound = status.membership.incarnations.get(&NodeId(other));
            status.membership_index > other_index
                && bound.is_some_and(|bound| *bound != self.servers[&other].incarnation)
        };
        refuses(from, to) || refuses(to, from)
    }

    /// The leader of the highest term of all, if it knows what is committed and no change is under way.
    fn settled_leader(&self) -> Option<u64> {
        let id = self.leader()?;
        let status = self.raft(id).status();
        let mut disks = self.servers.values().map(|server| server.disk.hard_state.term);
        let is_newest = disks.all(|term| term <= self.raft(id).term());
        (is_newest && status.has_committed_in_term && !status.is_changing).then_some(id)
    }

    /// A server that had lost its disk has it again, or is not counted on any more.
    fn forget_damage(&mut self) {
        let (Some(id), Some(leader)) = (self.damaged, self.settled_leader()) else {
            return;
        };
        let is_member = self.raft(leader).status().membership.contains(NodeId(id));
        let bound = self
            .raft(leader)
            .status()
            .membership
            .incarnations
            .get(&NodeId(id))
            .copied();
        let is_bound = bound == Some(self.servers[&id].incarnation);
        if !is_member || is_bound && !self.servers[&id].disk.recovering {
            self.damaged = None;
        }
    }

    /// Somebody changes the membership, or damages a disk.
    pub fn operate(&mut self, rng: &mut Rng) {
        self.forget_damage();
        let Some(leader) = self.leader() else {
            return;
        };
        self.bind(leader);
        let id = 1 + rng.below(self.servers.len() as u64);
        if let Some(damaged) = self.damaged {
            let _ = self.change(leader, add(damaged));
            return;
        }
        match rng.below(12) {
            0..2 if (self.servers.len() as u64) < SERVERS_MAX => {
                let new = self.servers.len() as u64 + 1;
                self.new_server(new, Membership::default());
                let _ = self.change(leader, add(new));
            }
            0..5 => {
                let _ = self.change(leader, add(id));
            }
            5..8 => {
                let _ = self.change(leader, Change::Remove(NodeId(id)));
            }
            8 => {
                let _ = self.change(leader, Change::Promote(NodeId(id)));
            }
            _ => self.damage(id, rng),
        }
    }

    /// A server loses its disk, if the others can do without it.
    fn damage(&mut self, id: u64, rng: &mut Rng) {
        let Some(leader) = self.settled_leader() else {
            return;
        };
        let membership = self.raft(leader).status().membership.clone();
        let is_bound = membership.incarnations.get(&NodeId(id)) == Some(&self.servers[&id].incarnation);
        // A member that does not know yet which data folder belongs to a number can be deceived.
        let knows = |other: &u64| {
            self.is_up(*other)
                && self
                    .raft(*other)
                    .status()
                    .membership
                    .incarnations
                    .get(&NodeId(id))
                    == Some(&self.servers[&id].incarnation)
        };
        let mut others = membership.others(NodeId(id)).map(|other| other.0);
        if !is_bound
            || !others.all(|other| knows(&other))
            || membership.is_voter(NodeId(id)) && membership.voters.len() < 3
        {
            return;
        }
        self.damaged = Some(id);
        match rng.below(2) {
            0 => self.wipe(id),
            _ => self.lose_log(id),
        }
    }

    /// The faults have stopped: one more step of an operator who wants every member to be well. Whether it is done.
    pub fn mend(&mut self) -> bool {
        self.forget_damage();
        let Some(leader) = self.settled_leader() else {
            return false;
        };
        let members = self.raft(leader).status().membership.clone();
        self.bind(leader);
        let stranger = members
            .incarnations
            .iter()
            .find(|(id, bound)| self.servers[&id.0].incarnation != **bound);
        if let Some((id, _)) = stranger {
            let _ = self.change(leader, add(id.0));
        }
        let is_well = |id: &NodeId| !self.servers[&id.0].disk.recovering;
        stranger.is_none()
            && members.learners.is_empty()
            && members.voters.len() == members.incarnations.len()
            && members.voters.iter().all(is_well)
    }
}
