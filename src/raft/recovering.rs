//! A server that has lost part of what it once acknowledged, and knows it (trap 3.31).
//!
//! What was committed on its word may be missing here, so until it has fetched everything anew it grants no vote, does
//! not campaign, and its answers say that it counts for nothing. Everything: what a leader had committed, without this
//! server's word, when this server asked. So it asks for a read index, and has recovered when its log holds the
//! leader's up to there, durably. Its term and vote it must still have: a server that has lost those too is another one
//! (Diss. 3.8), see `reconfigure`.
//!
//! The leader, from the first sign on, forgets what was known to match and begins a new session: an acknowledgement of
//! the earlier process that is still under way is not believed. It learns this from the question itself at the latest,
//! before it notes the index to answer with.

use super::node::{Raft, Role};
use super::types::{Index, Membership, NodeId};
use crate::base::mutant::{self, Mutant};

/// The question of a server that recovers, among those of its reads; no caller comes to that number.
const TICKET: u64 = u64::MAX;

/// What a recovering server waits for.
#[derive(Debug, Default)]
pub(super) struct Recovering {
    /// Everything up to here is to be fetched; `None` before a leader has said.
    until: Option<Index>,
    /// The log here is not the one that was acknowledged: an acknowledgement says nothing about it.
    is_other_log: bool,
}

impl Raft {
    /// Whether this server may lack what it once acknowledged.
    pub fn is_recovering(&self) -> bool {
        self.recovering.is_some()
    }

    /// Whether a vote of this server can mean anything: it lacks nothing that it acknowledged, and finds itself in its
    /// membership, be it as a learner whose data folder is bound (trap 3.43). Whoever counts on its vote has seen it
    /// hold such a membership; one that does not may be a member whose disk was wiped, asked by a server that does not
    /// know it yet, or as one of the voters that are being left (trap 3.37).
    pub(super) fn may_vote(&self) -> bool {
        let is_whole = !self.is_recovering() || mutant::is(Mutant::RecoveringVotes);
        is_whole && self.own_membership().is_some_and(|own| self.is_meant_by(own))
    }

    /// The membership in force. A leader that is being removed has appended the one without it, perhaps nowhere else:
    /// as long as that is not known to be committed, the others may be unable to elect anybody without the vote, or
    /// the log, of this server, so that the one before counts (Diss. 4.2.2, trap 3.47).
    pub(super) fn own_membership(&self) -> Option<&Membership> {
        self.memberships.newest_with(self.options.id, self.commit_index)
    }

    /// Whether the member of this number is this data folder, as far as the log here says. A server that was wiped or
    /// removed and came back passes through its own past while it fetches the log: there it is a voter, and is not the
    /// one who was meant. A server that lags behind could win an election with such votes (trap 3.37).
    fn is_meant_by(&self, membership: &Membership) -> bool {
        let id = self.options.id;
        match membership.incarnations.get(&id) {
            Some(bound) => self.incarnation == 0 || *bound == self.incarnation,
            None => !membership.learners.contains(&id),
        }
    }

    pub(super) fn begin_recovery(&mut self) {
        if self.is_recovering() {
            self.read(TICKET);
        }
    }

    /// A leader's heartbeat names no index that this server has not acknowledged to it, in the same term. Where the log
    /// ends before it, the data folder is an older copy of itself, and other promises are lost with it (trap 3.38).
    pub(super) fn notice_lost_entries(&mut self, acknowledged: Index) {
        if acknowledged > self.log.last().index {
            self.has_lost(acknowledged);
        }
    }

    /// The same, of a term that this server has not heard of: it was durable here before anything was acknowledged.
    pub(super) fn notice_lost_term(&mut self, acknowledged: Index) {
        if acknowledged > Index(0) {
            self.has_lost(acknowledged);
        }
    }

    fn has_lost(&mut self, acknowledged: Index) {
        if !self.is_recovering() {
            tracing::error!(
                %acknowledged, last = %self.log.last(),
                "this server has acknowledged more than it holds: its data folder was put back to an earlier state, or \
                 its disk has lost writes. It fetches everything anew, and does not vote until then",
            );
            self.recovering = Some(Recovering {
                is_other_log: true,
                ..Recovering::default()
            });
            self.has_lost_entries = true;
            self.begin_recovery();
        }
    }

    /// Whether the log here is the one that this server has acknowledged, as far as it knows.
    pub(super) fn trusts_acknowledgements(&self) -> bool {
        !self
            .recovering
            .as_ref()
            .is_some_and(|recovering| recovering.is_other_log)
    }

    /// A question with these tickets was answered. Takes out the one that is no caller's.
    pub(super) fn take_recovery_ticket(&mut self, mut tickets: Vec<u64>, read_index: Index) -> Vec<u64> {
        if let Some(recovering) = self.recovering.as_mut()
            && tickets.contains(&TICKET)
        {
            tickets.retain(|ticket| *ticket != TICKET);
            recovering.until = Some(read_index);
        }
        tickets
    }

    /// Whether this server has recovered just now.
    pub(super) fn end_recovery(&mut self) -> bool {
        let until = self.recovering.as_ref().and_then(|recovering| recovering.until);
        let held = self.commit_index.min(self.durability.log_durable());
        let held = mutant::pick(Mutant::RecoveryEndsEarly, held, Index(u64::MAX));
        if until.is_none_or(|until| held < until) || !self.spend_vote() {
            return false;
        }
        tracing::info!(index = %held, "recovered: what was lost is here again");
        self.recovering = None;
        true
    }

    /// The vote of this term may be what was lost, so it counts as given: to the leader, or to this server itself.
    /// Whether that is durable.
    fn spend_vote(&mut self) -> bool {
        if self.hard_state.vote.is_none() {
            self.hard_state.vote = self.leader().or(Some(self.options.id));
            self.durability.hard_state_changed();
        }
        self.durability.hard_state_is_durable()
    }

    /// An answer of a follower in its present session says whether it is recovering.
    pub(super) fn note_answer_of_recovering(&mut self, from: NodeId, session: u64, is_recovering: bool) {
        if let Role::Leader(leader) = &mut self.role
            && let Some(progress) = leader.progress.get(&from)
            && progress.session == session
        {
            if is_recovering {
                self.note_recovering(from, true);
            } else {
                leader.reconfiguration.recovering.remove(&from);
            }
        }
    }

    /// A follower says that it is recovering: the first time, what it has acknowledged before is forgotten.
    pub(super) fn note_recovering(&mut self, from: NodeId, is_recovering: bool) {
        if let Role::Leader(leader) = &mut self.role
            && is_recovering
            && leader.progress.contains_key(&from)
            && leader.reconfiguration.recovering.insert(from)
        {
            tracing::warn!(peer = %from, "has lost what it acknowledged, and counts for nothing until it has it again");
            if !mutant::is(Mutant::RecoveringKeepsMatch) {
                self.renew_progress(from);
            }
        }
    }
}
