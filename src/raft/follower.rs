//! A follower (Raft 5.3): accepts or refuses entries, and learns what is committed.

use super::message::{
    AppendEntries, AppendEntriesResponse, Conflict, Heartbeat, HeartbeatResponse, InstallSnapshotResponse,
    Message, ReadIndexResponse,
};
use super::node::{Raft, Role};
use super::ready::Needs;
use super::types::{Entry, Index, NodeId, Payload, Term, Ticks};
use crate::base::mutant::{self, Mutant};

/// A server that follows a leader, or waits for one.
#[derive(Debug, Default)]
pub(super) struct Follower {
    /// The leader of the term, once heard.
    pub leader: Option<NodeId>,
    /// When the leader was last heard.
    pub last_heard: Ticks,
    /// When to ask for votes.
    pub election_deadline: Ticks,
    /// The log is known to be the leader's up to here; what lies beyond may be replaced, and is not committed
    /// on the word of a commit index alone (trap 3.16). Starts at 0 with each leader.
    pub matched: Index,
    /// The last chunk of a snapshot that this leader has sent: session and request, to answer when it is installed.
    pub snapshot_request: (u64, u64),
    /// The greatest commit index that this leader has named. What it covers is committed as soon as it is known to
    /// match, also when the entries come after the commit index.
    pub leader_commit: Index,
}

/// The answer to a request of an earlier term; its envelope carries the current one. It names no session and
/// no round, for those of that term are over: it tells the term and confirms nothing (trap 3.15).
pub(super) fn refusal(request: &Message) -> Option<Message> {
    match request {
        Message::AppendEntries(request) => Some(Message::AppendEntriesResponse(AppendEntriesResponse {
            conflict: Some(Conflict {
                term: Term(0),
                first_index: Index(0),
                last_index: Index(0),
            }),
            session: 0,
            read_round: 0,
            ..answer_to(request)
        })),
        Message::Heartbeat(_) => Some(Message::HeartbeatResponse(HeartbeatResponse {
            session: 0,
            read_round: 0,
            recovering: false,
            promises_lease: false,
        })),
        Message::InstallSnapshot(request) => {
            Some(Message::InstallSnapshotResponse(InstallSnapshotResponse {
                session: 0,
                last: request.header.last,
                next_chunk: 0,
                complete: false,
                installed: false,
            }))
        }
        Message::ReadIndex(request) => Some(Message::ReadIndexResponse(ReadIndexResponse {
            id: request.id,
            read_index: None,
        })),
        _ => None,
    }
}

/// "Your request is stored", with everything by which the leader knows which one.
fn answer_to(request: &AppendEntries) -> AppendEntriesResponse {
    AppendEntriesResponse {
        session: request.session,
        sequence: request.sequence,
        prev_log_index: request.prev_log.index,
        last_index: request
            .entries
            .last()
            .map_or(request.prev_log.index, |entry| entry.id.index),
        read_round: request.read_round,
        conflict: None,
        recovering: false,
    }
}

impl Raft {
    /// A message of this term's leader arrived. `false` if this server leads the term itself: two leaders of
    /// one term would break Election Safety (Raft 5.2), so nothing is believed.
    pub(super) fn hear_leader(&mut self, from: NodeId) -> bool {
        match &mut self.role {
            Role::Leader(_) => {
                tracing::error!(%from, term = %self.hard_state.term, "another leader in this term; message dropped");
                return false;
            }
            Role::Follower(follower) if follower.leader.is_none_or(|leader| leader == from) => {
                let is_new = follower.leader.is_none();
                follower.leader = Some(from);
                follower.last_heard = self.now;
                if is_new {
                    self.reads.ask_again();
                }
            }
            Role::Follower(follower) => {
                tracing::error!(%from, leader = ?follower.leader, "two leaders in one term; message dropped");
                return false;
            }
            Role::Candidate(_) => self.become_follower(self.hard_state.term, Some(from)),
        }
        self.restart_election_timer();
        self.renew_promise(from);
        true
    }

    pub(super) fn on_append_entries(&mut self, from: NodeId, request_id: u64, request: AppendEntries) {
        if !self.hear_leader(from) {
            return;
        }
        let answer = AppendEntriesResponse {
            recovering: self.is_recovering(),
            ..answer_to(&request)
        };
        let is_somewhere =
            mutant::is(Mutant::PrevTermUnchecked) && request.prev_log.index <= self.log.last().index;
        if !self.log.holds(request.prev_log) && !is_somewhere {
            let conflict = Some(self.log.conflict_at(request.prev_log.index));
            let refused = AppendEntriesResponse { conflict, ..answer };
            self.send(from, request_id, Message::AppendEntriesResponse(refused));
            return;
        }
        if self.is_full_for(&request.entries) {
            // No answer: what is committed is all that this request is good for, and it comes again.
            self.learn_commit_index(request.prev_log.index, request.leader_commit);
            return;
        }
        if !self.take_entries(request.entries) {
            return;
        }
        self.learn_commit_index(answer.last_index, request.leader_commit);
        let envelope = self.envelope(from, request_id, Message::AppendEntriesResponse(answer));
        let needs = Needs::Log(answer.last_index);
        let needs = mutant::pick(Mutant::AckBeforeSync, needs, Needs::HardState);
        self.durability.send_when_durable(needs, envelope);
    }

    /// Whether there is no room for these entries. Those that are held already need none, and those that replace
    /// others are taken, or a full log could never become another.
    fn is_full_for(&self, entries: &[Entry]) -> bool {
        let last_index = self.log.last().index;
        self.log_is_full()
            && entries.last().is_some_and(|entry| entry.id.index > last_index)
            && entries
                .iter()
                .all(|entry| entry.id.index > last_index || self.log.holds(entry.id))
    }

    fn take_entries(&mut self, entries: Vec<Entry>) -> bool {
        match self.log.merge(entries, self.commit_index) {
            Err(conflict) => {
                tracing::error!(
                    ours = %conflict.ours, theirs = %conflict.theirs,
                    "the leader would replace a committed entry; its message was dropped",
                );
                return false;
            }
            Ok(None) => {}
            Ok(Some(changed)) => {
                self.durability.log_changed_from(changed);
                if !mutant::is(Mutant::MembershipStays) {
                    self.memberships.truncate(changed);
                }
                self.note_memberships(changed);
            }
        }
        true
    }

    fn note_memberships(&mut self, from: Index) {
        let mut index = from;
        while let Some(entry) = self.log.entry(index) {
            if let Payload::Membership(membership) = &entry.payload {
                self.memberships.append(index, (**membership).clone());
            }
            index = index.next();
        }
    }

    /// The log is the leader's up to `matched`, and the leader has committed up to `leader_commit`.
    pub(super) fn learn_commit_index(&mut self, matched: Index, leader_commit: Index) {
        if let Role::Follower(follower) = &mut self.role {
            follower.matched = follower.matched.max(matched);
            follower.leader_commit = follower.leader_commit.max(leader_commit);
            let known = follower.matched.min(follower.leader_commit);
            self.commit_to(known);
        }
    }

    pub(super) fn on_heartbeat(&mut self, from: NodeId, request_id: u64, request: Heartbeat) {
        if !self.hear_leader(from) {
            return;
        }
        self.notice_lost_entries(request.leader_commit);
        // The leader names no index beyond what this server has acknowledged to it, so the log is the leader's
        // up to there, also where `matched` was forgotten: after a restart, or an election that came to nothing.
        let matched = match self.trusts_acknowledgements() {
            true => request.leader_commit,
            false => Index(0),
        };
        self.learn_commit_index(matched, request.leader_commit);
        let response = HeartbeatResponse {
            session: request.session,
            read_round: request.read_round,
            recovering: self.is_recovering(),
            promises_lease: self.options.promises_lease,
        };
        self.send(from, request_id, Message::HeartbeatResponse(response));
    }

    /// The leader's commit index, learned on the way.
    pub(super) fn learn_read_index(&mut self, from: NodeId, read_index: Index) {
        if matches!(&self.role, Role::Follower(follower) if follower.leader == Some(from)) {
            self.learn_commit_index(Index(0), read_index);
        }
    }
}
