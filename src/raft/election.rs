//! Elections (Raft 5.2, 5.4.1): pre-vote, votes, the election timeout, and the hand-over of leadership as its
//! receiver sees it (Diss. 3.10, 4.2.3, 9.6).
//!
//! A server first asks whether it would win (`PreVote`), which changes nothing anywhere. A voter that hears a
//! leader grants neither pre-vote nor vote (stickiness), unless the leader itself asked for the election.
//!
//! One addition to the paper, see `docs/divergence.md`: when the leader's own kernel closes its connection, the
//! process is gone, so its followers forget it at once and one of them asks after a short random wait instead
//! of a whole election timeout. A voter that still has its connection keeps refusing.

use std::collections::BTreeMap;

use super::message::{Message, RequestVote, TimeoutNow, VoteResponse};
use super::node::{Raft, Role};
use super::quorum::{self, VoteResult};
use super::types::{EntryId, HardState, NodeId, Term, Ticks};
use crate::base::mutant::{self, Mutant};

/// A server that asks for votes.
#[derive(Debug)]
pub(super) struct Candidate {
    /// What it asks for.
    pub phase: Phase,
    /// This election's number; answers of another one are dropped (trap 3.8).
    pub round: u64,
    /// Who has answered what.
    pub votes: BTreeMap<NodeId, bool>,
    /// When to start over.
    pub deadline: Ticks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    PreVote,
    Vote,
}

impl Raft {
    /// A wait drawn from `[1x, 2x)` of the election timeout (Raft 5.2), anew each time (trap 3.7).
    pub(super) fn random_election_timeout_ms(&mut self) -> u64 {
        let timeout_ms = self.options.election_timeout_ms;
        timeout_ms + self.rng.below(timeout_ms)
    }

    /// A short wait, long enough for the other voters to notice the same thing, and random so that two
    /// candidates seldom start together.
    fn random_short_wait_ms(&mut self) -> u64 {
        let unit = self.options.election_timeout_ms / 50;
        unit + self.rng.below(6 * unit + 1)
    }

    pub(super) fn restart_election_timer(&mut self) {
        let timeout_ms = self.random_election_timeout_ms();
        let deadline = self.now.after(timeout_ms);
        if let Role::Follower(follower) = &mut self.role {
            follower.election_deadline = deadline;
        }
    }

    pub(super) fn on_election_timeout(&mut self) {
        let id = self.options.id;
        let may_campaign = self.may_vote() && !self.is_disk_stalled() && !self.has_promised_other(id);
        if may_campaign && self.own_membership().is_some_and(|own| own.is_voter(id)) {
            self.campaign(Phase::PreVote, false);
        } else {
            self.restart_election_timer();
        }
    }

    /// The peer's process is gone. If it led, there is no leader now.
    pub(super) fn on_leader_gone(&mut self, peer: NodeId) {
        let wait_ms = self.random_short_wait_ms();
        let deadline = self.now.after(wait_ms);
        if self.options.promises_lease {
            return;
        }
        if let Role::Follower(follower) = &mut self.role
            && follower.leader == Some(peer)
        {
            follower.leader = None;
            follower.election_deadline = follower.election_deadline.min(deadline);
            self.reads.ask_again();
        }
    }

    /// Starts an election: asks first whether it would be won, or, in phase `Vote`, for votes of a new term.
    fn campaign(&mut self, phase: Phase, leadership_transfer: bool) {
        let round = self.next_number();
        let timeout_ms = self.random_election_timeout_ms();
        if phase == Phase::Vote {
            let term = self.hard_state.term.next();
            self.hard_state = HardState {
                term,
                vote: Some(self.options.id),
            };
            self.durability.hard_state_changed();
        }
        let deadline = self.now.after(timeout_ms);
        self.role = Role::Candidate(Candidate {
            phase,
            round,
            votes: BTreeMap::new(),
            deadline,
        });
        self.reads.ask_again();
        tracing::debug!(term = %self.hard_state.term, ?phase, "campaigning");
        let request = RequestVote {
            round,
            last_log: self.log.last(),
            leadership_transfer,
        };
        let message = match phase {
            Phase::PreVote => Message::PreVote(request),
            Phase::Vote => Message::RequestVote(request),
        };
        let others: Vec<NodeId> = self.memberships.latest().others(self.options.id).collect();
        for peer in others {
            self.send(peer, 0, message.clone());
        }
        self.count_own_vote();
    }

    /// A candidate's vote for itself counts when it is durable; a pre-vote promises nothing.
    pub(super) fn count_own_vote(&mut self) {
        let id = self.options.id;
        if let Role::Candidate(candidate) = &mut self.role
            && (candidate.phase == Phase::PreVote || self.durability.hard_state_is_durable())
        {
            candidate.votes.insert(id, true);
            self.decide_election();
        }
    }

    pub(super) fn on_pre_vote(&mut self, from: NodeId, term: Term, request_id: u64, request: RequestVote) {
        if mutant::is(Mutant::PreVoteChangesTerm) && term >= self.hard_state.term {
            self.become_follower(term.next(), None);
        }
        let vote_granted = term >= self.hard_state.term
            && self.is_up_to_date(request.last_log)
            && !self.hears_leader(from)
            && !self.is_disk_stalled()
            && self.may_vote();
        let response = VoteResponse {
            round: request.round,
            vote_granted,
        };
        self.send(from, request_id, Message::PreVoteResponse(response));
    }

    /// Whether a candidate whose log ends so has everything that may be committed (Raft 5.4.1).
    fn is_up_to_date(&self, last_log: EntryId) -> bool {
        if mutant::is(Mutant::VoteWithoutLogCheck) {
            return true;
        }
        if mutant::is(Mutant::LogLengthBeforeTerm) {
            return last_log.index >= self.log.last().index;
        }
        last_log >= self.log.last()
    }

    /// Whether this server leads, or has heard a leader, other than the one who asks, within the shortest
    /// election timeout (Diss. 4.2.3).
    fn hears_leader(&self, asker: NodeId) -> bool {
        if self.has_promised_other(asker) {
            return true;
        }
        match &self.role {
            Role::Leader(_) => true,
            Role::Candidate(_) => false,
            Role::Follower(follower) => {
                follower.leader.is_some_and(|leader| leader != asker)
                    && self.now.since(follower.last_heard) < self.options.election_timeout_ms
            }
        }
    }

    pub(super) fn on_pre_vote_response(&mut self, from: NodeId, response: VoteResponse) {
        self.on_vote(Phase::PreVote, from, response);
    }

    pub(super) fn on_request_vote(
        &mut self,
        from: NodeId,
        term: Term,
        request_id: u64,
        request: RequestVote,
    ) {
        let sticks = !request.leadership_transfer && self.hears_leader(from);
        let sticks = sticks && !(mutant::is(Mutant::PromiseEndsWithTerm) && term > self.hard_state.term);
        if term > self.hard_state.term && !sticks {
            self.become_follower(term, None);
        }
        let HardState { term: current, vote } = self.hard_state;
        let vote_granted = term == current
            && !sticks
            && self.may_vote()
            && vote.is_none_or(|voted_for| voted_for == from || mutant::is(Mutant::VoteTwice))
            && self.is_up_to_date(request.last_log);
        if vote_granted && vote.is_none() {
            self.hard_state.vote = Some(from);
            self.durability.hard_state_changed();
            if matches!(self.role, Role::Candidate(_)) {
                self.become_follower(current, None);
            }
            self.restart_election_timer();
        }
        let response = VoteResponse {
            round: request.round,
            vote_granted,
        };
        self.send(from, request_id, Message::RequestVoteResponse(response));
    }

    pub(super) fn on_vote_response(&mut self, from: NodeId, response: VoteResponse) {
        self.on_vote(Phase::Vote, from, response);
    }

    fn on_vote(&mut self, phase: Phase, from: NodeId, response: VoteResponse) {
        if let Role::Candidate(candidate) = &mut self.role
            && candidate.phase == phase
            && (candidate.round == response.round || mutant::is(Mutant::EarlierVoteCounts))
        {
            candidate.votes.insert(from, response.vote_granted);
            self.decide_election();
        }
    }

    fn decide_election(&mut self) {
        let Role::Candidate(candidate) = &self.role else {
            return;
        };
        let phase = candidate.phase;
        match (
            quorum::vote_result(self.memberships.latest(), &candidate.votes),
            phase,
        ) {
            (VoteResult::Pending, _) => {}
            (VoteResult::Won, Phase::PreVote) => self.campaign(Phase::Vote, false),
            (VoteResult::Won, Phase::Vote) => self.become_leader(),
            // Somebody hears a leader or has a better log: wait for them.
            (VoteResult::Lost, Phase::PreVote) => self.become_follower(self.hard_state.term, None),
            // There was no leader, or the pre-vote had not been won: two have split the votes. Whoever
            // waits less starts over; a whole election timeout would be lost time.
            (VoteResult::Lost, Phase::Vote) => {
                let wait_ms = self.random_short_wait_ms();
                let deadline = self.now.after(wait_ms);
                self.become_follower(self.hard_state.term, None);
                if let Role::Follower(follower) = &mut self.role {
                    follower.election_deadline = deadline;
                }
            }
        }
    }

    /// The leader hands over (Diss. 3.10): no pre-vote, and no stickiness at the voters. It says which entry
    /// the new leader must hold; a server that doesn't, or that does not know itself a voter, stays (trap 3.9).
    pub(super) fn on_timeout_now(&mut self, from: NodeId, request: TimeoutNow) {
        let Role::Follower(follower) = &self.role else {
            return;
        };
        let holds =
            self.log.holds(request.last_log) && self.durability.log_durable() >= request.last_log.index;
        let holds = holds && !self.is_disk_stalled() && self.may_vote();
        if follower.leader == Some(from) && holds && self.memberships.latest().is_voter(self.options.id) {
            self.campaign(Phase::Vote, true);
        }
    }

    /// Tells the sender of an outdated request the current term, so that it steps down or asks anew
    /// (Raft 5.1, trap 3.3).
    pub(super) fn tell_term(&mut self, to: NodeId, request_id: u64, outdated: &Message) {
        if let Some(answer) = super::follower::refusal(outdated) {
            self.send(to, request_id, answer);
        }
    }
}
