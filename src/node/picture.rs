//! How a node sees itself and its cluster: fills in a [`Status`], and says what is wrong and what to do.

use super::machine::Machine;
use super::status::{Member, MemberProgress, Role, Status};
use crate::raft::RoleName;

/// Without a leader for so long is reported.
const LEADERLESS_MS: u64 = 2000;

/// Whether this node was removed, as far as it can tell.
fn left(raft: &crate::raft::Status<'_>) -> bool {
    raft.is_removed || raft.is_struck_out && raft.leader.is_none()
}

impl<C> Machine<C> {
    /// This node's picture at the moment.
    pub fn status(&self) -> Status {
        let raft = self.raft.status();
        let is_voter = raft.membership.is_voter(self.raft.id());
        let progress = |id| {
            if Some(id) == raft.leader && self.raft.is_leader() {
                let match_index = raft.log_durable;
                return Some(MemberProgress {
                    match_index,
                    next_index: raft.last_log.index.next(),
                    inflight: 0,
                });
            }
            raft.followers
                .iter()
                .find(|follower| follower.id == id)
                .map(|follower| MemberProgress {
                    match_index: follower.match_index,
                    next_index: follower.next_index,
                    inflight: follower.inflight,
                })
        };
        let member = |(id, addresses): (&crate::raft::NodeId, &crate::raft::Addresses)| Member {
            id: *id,
            voter: raft.membership.is_voter(*id),
            peer: addresses.peer.clone(),
            client: addresses.client.clone(),
            progress: progress(*id),
        };
        Status {
            cluster: self.options.cluster_name.clone(),
            cluster_id: self.store.cluster_id(),
            node: self.raft.id(),
            incarnation: self.options.incarnation,
            role: match raft.role {
                RoleName::Leader => Role::Leader,
                RoleName::Candidate => Role::Candidate,
                RoleName::Follower if is_voter => Role::Follower,
                RoleName::Follower => Role::Learner,
            },
            term: raft.hard_state.term,
            leader: raft.leader,
            commit: raft.commit_index,
            applied: crate::raft::Index(self.store.applied()),
            first_index: raft.first_index,
            last_index: raft.last_log.index,
            snapshot_index: self.raft.snapshot().last.index,
            snapshot_ms: self.compaction.written_ms(),
            keys: self.store.len() as u64,
            bytes: self.store.bytes(),
            expiring_keys: self.store.expiring_len() as u64,
            leases: self.store.leases_len() as u64,
            sessions: self.store.sessions_len() as u64,
            tokens: self.store.tokens_len() as u64,
            state_hash: self.store.hash(),
            members: raft.membership.addresses.iter().map(member).collect(),
            pending: self.pending() as u64,
            feeds: self.feeds.len() as u64,
            problems: self.problems(&raft),
        }
    }

    /// Why this node is no member as the others are.
    fn standing_problem(&self, raft: &crate::raft::Status<'_>) -> Option<String> {
        if self.waits_to_be_added() {
            return Some(format!(
                "waiting to be added: run {} on a member of the cluster",
                self.add_command(self.raft.id())
            ));
        }
        if raft.is_recovering {
            return Some(
                "this node has lost data and fetches it anew from the others; until it has done so it does not vote, \
                 and no other node should be stopped"
                    .into(),
            );
        }
        left(raft).then(|| {
            "this node was removed from its cluster and serves nothing: stop it; to join again it needs an empty data \
             folder, cluster.join = true, and RAFT ADD on a member"
                .into()
        })
    }

    fn problems(&self, raft: &crate::raft::Status<'_>) -> Vec<String> {
        let mut problems = Vec::new();
        problems.extend(self.standing_problem(raft));
        if let Some(index) = self.diverged_at {
            problems.push(format!(
                "the state of this node differs from the leader's at index {index}; it serves nothing: keep a copy of \
                 its data folder and log for analysis, and run RAFT REBUILD on it; if several nodes say so, it may be \
                 the leader that is wrong: look with RAFT VERIFY first"
            ));
        }
        let leaderless_ms = self.now.ticks.since(self.leader_seen);
        if leaderless_ms >= LEADERLESS_MS && !left(raft) && !self.waits_to_be_added() {
            problems.push(format!(
                "no leader for {} s: see that a majority of the members runs and that their peer addresses can be \
                 reached from here",
                leaderless_ms / 1000
            ));
        }
        if self.raft.is_disk_stalled() {
            problems.push(
                "the disk has not finished a write for longer than raft.disk_stall_timeout: this node neither leads \
                 nor campaigns until it does; see whether the disk or what it is attached by hangs"
                    .into(),
            );
        }
        if self.free_space_bytes < self.options.min_free_space_bytes {
            problems.push(format!(
                "{} bytes are free on the disk, less than storage.min_free_space ({}): writes are refused; make room",
                self.free_space_bytes, self.options.min_free_space_bytes
            ));
        }
        if let Some(reason) = self.compaction.failure() {
            problems.push(format!(
                "no snapshot can be written, and the log grows: {reason}; when that is mended, RAFT SNAPSHOT tries \
                 again at once"
            ));
        }
        self.member_problems(raft, &mut problems);
        problems
    }
}
