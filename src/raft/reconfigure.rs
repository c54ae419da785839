//! Changes of the membership (Diss. 4): joint consensus for every change of voters, learners first.
//!
//! - A new server is added as a **learner**: one entry, no joint configuration, for no quorum changes. When it has
//!   caught up (`catch_up`) the leader makes it a voter by itself.
//! - **Voters** change by two entries (Diss. 4.3): the joint configuration, and, when that is committed, its end, which
//!   the leader appends, also one that finds a joint configuration of its predecessor's (trap 3.46).
//! - One change at a time, and only after an entry of the leader's own term is committed (trap 3.1).
//! - A member that was **wiped** is another server with the same number (trap 3.37): it leaves the voters, its data
//!   folder is forgotten, and it comes back as a learner. What was known of its log is forgotten whenever its
//!   incarnation changes; and as long as its data folder is not known it is not made a voter, for what it acknowledges
//!   could be another folder's.
//! - A server that **leaves** is sent the log until it knows that it is gone, or for some time (trap 3.5). A leader
//!   that leaves leads to the end of the change, hands over, and steps down (trap 3.47).

use std::collections::{BTreeMap, BTreeSet};

use super::catch_up::{CatchUp, CatchUpStatus};
use super::node::{ProposeError, Raft, Role};
use super::progress::Progress;
use super::types::{Addresses, Index, Membership, NodeId, Ticks};
use crate::base::mutant::{self, Mutant};

/// For how many election timeouts a leader goes on telling a server that it is no member any more.
const FAREWELL_TIMEOUTS: u64 = 4;

/// A change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new server, as a learner that is promoted when it has caught up (Diss. 4.2.1). For a member that was wiped or
    /// does not answer: it begins anew, with another data folder.
    Add {
        /// Its number.
        id: NodeId,
        /// Where it listens.
        addresses: Addresses,
    },
    /// A learner that has caught up becomes a voter.
    Promote(NodeId),
    /// A member goes.
    Remove(NodeId),
    /// This is the member's data folder, by the number that was made with it.
    Bind(NodeId, u64),
}

/// Why a change was not begun. Nothing was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// This server does not lead, or does not know yet what is committed (trap 3.1).
    NotLeader,
    /// Leadership is being handed over.
    Transferring,
    /// Another change is not finished: its last entry is not committed.
    InProgress,
    /// Too much is uncommitted.
    TooMuchUncommitted,
    /// It would not do, and why: a sentence with the arithmetic.
    Refused(String),
}

/// What a leader knows of servers that come, go or recover.
#[derive(Debug, Default)]
pub(super) struct Reconfiguration {
    /// Followers that count for nothing until they have fetched what they lost (trap 3.31).
    pub recovering: BTreeSet<NodeId>,
    /// The learners.
    catch_up: BTreeMap<NodeId, CatchUp>,
    /// Servers that are no members any more and may not know it yet.
    leaving: BTreeMap<NodeId, Leaving>,
    /// No learner is made a voter before: a refusal does not change from one moment to the next.
    promotion_due: Ticks,
    /// The leader is no voter any more and has tried to hand over.
    is_retiring: bool,
}

/// A server that is no member any more.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    /// The entry without it.
    index: Index,
    /// Set when that is committed: when it is left alone in any case.
    until: Option<Ticks>,
    /// Set when it holds that entry: a round in which it is told that the entry is committed.
    round: Option<u64>,
}

fn refused<T>(why: impl Into<String>) -> Result<T, ChangeError> {
    Err(ChangeError::Refused(why.into()))
}

impl Raft {
    /// Begins a change of the membership. It is done when [`Raft::is_changing`] is false and the membership is as
    /// wanted; a leader that follows finishes what it finds (trap 3.46). Nothing is appended where it is so already.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub fn change_membership(&mut self, change: Change) -> Result<(), ChangeError> {
        let may_change =
            self.has_committed_in_term() || (mutant::is(Mutant::ChangeBeforeNoop) && self.is_leader());
        if !may_change {
            return Err(ChangeError::NotLeader);
        }
        if self.is_transferring() {
            return Err(ChangeError::Transferring);
        }
        if self.is_changing() && !mutant::is(Mutant::ChangeWhileChanging) {
            return Err(ChangeError::InProgress);
        }
        let next = match change {
            Change::Add { id, addresses } => self.membership_with(id, addresses)?,
            Change::Promote(id) => self.membership_promoting(id)?,
            Change::Remove(id) => self.membership_without(id)?,
            Change::Bind(id, incarnation) => self.membership_binding(id, incarnation)?,
        };
        if next == *self.memberships.latest() {
            return Ok(());
        }
        let Membership {
            voters,
            outgoing,
            learners,
            ..
        } = &next;
        tracing::info!(?voters, ?outgoing, ?learners, "membership changes");
        match self.lead_append(next.into()) {
            Ok(_) => Ok(()),
            Err(ProposeError::NotLeader) => Err(ChangeError::NotLeader),
            Err(ProposeError::Transferring) => Err(ChangeError::Transferring),
            Err(_) => Err(ChangeError::TooMuchUncommitted),
        }
    }

    /// Whether a change of the membership is not committed to its end, as far as this server knows.
    pub fn is_changing(&self) -> bool {
        self.memberships.latest_index() > self.commit_index || self.memberships.latest().is_joint()
    }

    /// Whether this server was a member, is none any more as far as is committed, and hears of no leader. Not for ever:
    /// a server that is added again under its old number passes through its own removal while it fetches the log, and
    /// hears its leader meanwhile.
    pub fn is_removed(&self) -> bool {
        let hears_leader = match &self.role {
            Role::Follower(follower) => {
                follower.leader.is_some()
                    && self.now.since(follower.last_heard) < self.options.election_timeout_ms
            }
            Role::Candidate(_) | Role::Leader(_) => true,
        };
        let id = self.options.id;
        let is_member = self.committed_membership().contains(id) || self.memberships.latest().contains(id);
        self.was_member && !is_member && !hears_leader
    }

    /// See [`Status::is_struck_out`](super::node::Status::is_struck_out).
    pub(super) fn is_struck_out(&self) -> bool {
        let (id, latest) = (self.options.id, self.memberships.latest_index());
        !self.memberships.latest().contains(id) && self.memberships.had(id, latest)
    }

    /// The latest membership that is committed.
    pub(super) fn committed_membership(&self) -> &Membership {
        static NONE: Membership = Membership::NONE;
        let known = self.memberships.at(self.commit_index);
        known.map_or(&NONE, |(_, membership)| membership)
    }

    /// A new server, or a member that begins anew.
    fn membership_with(&self, id: NodeId, addresses: Addresses) -> Result<Membership, ChangeError> {
        let latest = self.memberships.latest();
        let silent_ms = match &self.role {
            Role::Leader(leader) => leader.progress.get(&id).map(|p| self.now.since(p.last_answer)),
            Role::Follower(_) | Role::Candidate(_) => None,
        };
        let answers = silent_ms.is_none_or(|ms| ms < self.options.election_timeout_ms);
        if latest.contains(id) && answers {
            return refused(format!("node {id} is already a member, and answers"));
        }
        let is_taken = |other: &Addresses| other.peer == addresses.peer || other.client == addresses.client;
        let mut others = latest.addresses.iter().filter(|(other, _)| **other != id);
        if let Some((other, _)) = others.find(|(_, theirs)| is_taken(theirs)) {
            // Two members behind one address: messages for one would reach the other (trap 3.45).
            return refused(format!("node {other} already has one of these addresses"));
        }
        let mut next = latest.clone();
        next.learners.insert(id);
        next.addresses.insert(id, addresses);
        next.incarnations.remove(&id);
        if next.voters.remove(&id) {
            self.make_joint(&mut next)?;
        }
        Ok(next)
    }

    fn membership_promoting(&self, id: NodeId) -> Result<Membership, ChangeError> {
        let latest = self.memberships.latest();
        if latest.voters.contains(&id) {
            return refused(format!("node {id} is already a voter"));
        }
        if !latest.learners.contains(&id) {
            return refused(format!("node {id} is not a member"));
        }
        if !latest.incarnations.contains_key(&id) {
            return refused(format!("node {id} has not been connected since it was added"));
        }
        if let Some(why) = self.why_not_up_to_date(id) {
            return refused(format!("node {id} {why}"));
        }
        if !self.knows_its_membership(id) {
            return refused(format!("node {id} does not hold the membership in force yet"));
        }
        let mut next = latest.clone();
        next.learners.remove(&id);
        next.voters.insert(id);
        self.make_joint(&mut next)?;
        Ok(next)
    }

    fn membership_without(&self, id: NodeId) -> Result<Membership, ChangeError> {
        let latest = self.memberships.latest();
        if !latest.contains(id) {
            return refused(format!("node {id} is not a member"));
        }
        let mut next = latest.clone();
        if next.voters.remove(&id) {
            if next.voters.is_empty() {
                return refused(format!("node {id} is the last voter"));
            }
            self.make_joint(&mut next)?;
        } else {
            next.learners.remove(&id);
            next.forget_strangers();
        }
        Ok(next)
    }

    fn membership_binding(&self, id: NodeId, incarnation: u64) -> Result<Membership, ChangeError> {
        let latest = self.memberships.latest();
        if !latest.contains(id) {
            return refused(format!("node {id} is not a member"));
        }
        match latest.incarnations.get(&id) {
            Some(bound) if *bound != incarnation => {
                refused(format!("node {id} is bound to another data folder"))
            }
            _ => {
                let mut next = latest.clone();
                next.incarnations.insert(id, incarnation);
                Ok(next)
            }
        }
    }

    /// The present voters are left by way of a joint configuration. Refused where the one or the other could not commit
    /// it, or nothing after it: a majority must answer and be up to date (traps 3.43, 3.44).
    fn make_joint(&self, next: &mut Membership) -> Result<(), ChangeError> {
        next.outgoing = self.memberships.latest().voters.clone();
        if mutant::is(Mutant::NoJointStep) {
            next.outgoing.clear();
        }
        for (voters, which) in [(&next.outgoing, "present"), (&next.voters, "new")] {
            let (able, unable): (Vec<NodeId>, Vec<NodeId>) = voters
                .iter()
                .partition(|id| self.why_not_up_to_date(**id).is_none());
            if 2 * able.len() <= voters.len() {
                let majority = voters.len() / 2 + 1;
                let reasons: Vec<String> = unable
                    .into_iter()
                    .filter_map(|id| Some(format!("node {id} {}", self.why_not_up_to_date(id)?)))
                    .collect();
                return refused(format!(
                    "the {which} voters are {}, a majority is {majority}, and only {} can be counted on: {}",
                    voters.len(),
                    able.len(),
                    reasons.join("; ")
                ));
            }
        }
        Ok(())
    }

    /// Whether a follower has the membership in force: one that doesn't find itself there grants no votes.
    fn knows_its_membership(&self, id: NodeId) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        let held = leader.progress.get(&id).map(|progress| progress.match_index);
        held.is_some_and(|held| held >= self.memberships.latest_index())
    }

    /// Why a quorum should not rest on a server; `None` if it may.
    fn why_not_up_to_date(&self, id: NodeId) -> Option<String> {
        let Role::Leader(leader) = &self.role else {
            return Some("is not led from here".to_string());
        };
        if id == self.options.id {
            return None;
        }
        let Some(progress) = leader.progress.get(&id) else {
            return Some("is not a member".to_string());
        };
        if leader.reconfiguration.recovering.contains(&id) {
            return Some("is recovering what it has lost".to_string());
        }
        let silent_ms = self.now.since(progress.last_answer);
        if silent_ms > 3 * self.options.heartbeat_interval_ms {
            return Some(format!("has not answered for {silent_ms} ms"));
        }
        let (held, last) = (progress.match_index, self.log.last().index);
        let lacks_bytes = self.log.size_bytes(held, last);
        let is_near =
            held.next() >= self.log.first_index() && lacks_bytes <= self.options.max_uncommitted_bytes;
        if held >= leader.term_start && is_near {
            return None;
        }
        Some(format!("holds entries up to {held} of {last}"))
    }

    /// Goes on with what a leader does about the membership by itself, when there is something to go on with.
    pub(super) fn continue_change(&mut self) {
        self.was_member |= self.memberships.had(self.options.id, self.commit_index);
        self.observe_learners();
        self.take_leave();
        if !self.has_committed_in_term() || self.is_transferring() {
            return;
        }
        let latest = self.memberships.latest();
        if self.memberships.latest_index() > self.commit_index && !mutant::is(Mutant::JointEndsAtOnce) {
            // Wait for it.
        } else if latest.is_joint() {
            let next = latest.without_outgoing();
            tracing::info!(voters = ?next.voters, learners = ?next.learners, "end of the joint configuration");
            self.append_unchecked(next.into());
        } else if !latest.voters.contains(&self.options.id) && !mutant::is(Mutant::RemovedLeaderStays) {
            self.retire();
        } else {
            self.promote_learner();
        }
    }

    /// This leader is no voter any more, as is committed: it hands over and goes, and goes also if nobody takes over.
    fn retire(&mut self) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let has_tried = std::mem::replace(&mut leader.reconfiguration.is_retiring, true);
        if has_tried || self.transfer(None).is_err() {
            self.become_follower(self.hard_state.term, None);
        }
    }

    fn observe_learners(&mut self) {
        let (last_index, now) = (self.log.last().index, self.now);
        if let Role::Leader(leader) = &mut self.role {
            for (id, catch_up) in &mut leader.reconfiguration.catch_up {
                if let Some(progress) = leader.progress.get(id) {
                    catch_up.observe(progress.match_index, last_index, now);
                }
            }
        }
    }

    fn promote_learner(&mut self) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        if self.now < leader.reconfiguration.promotion_due {
            return;
        }
        let (now, timeout_ms) = (self.now, self.options.election_timeout_ms);
        let bound = &self.memberships.latest().incarnations;
        let mut learners = leader.reconfiguration.catch_up.iter();
        let fit = learners.find(|(id, catch_up)| {
            catch_up.is_caught_up(now, timeout_ms)
                && bound.contains_key(id)
                && self.why_not_up_to_date(**id).is_none()
                && self.knows_its_membership(**id)
        });
        let Some((id, _)) = fit else {
            return;
        };
        let (id, due) = (*id, now.after(self.options.heartbeat_interval_ms));
        if let Err(error) = self.change_membership(Change::Promote(id)) {
            tracing::debug!(%id, ?error, "a learner that has caught up is not made a voter yet");
            if let Role::Leader(leader) = &mut self.role {
                leader.reconfiguration.promotion_due = due;
            }
        }
    }

    /// Servers that are no members any more are told so: they are sent the entry and a round of heartbeats that says
    /// that it is committed. Then, or when they do not answer for long, nothing more (trap 3.5).
    fn take_leave(&mut self) {
        let (now, commit_index) = (self.now, self.commit_index);
        let until = now.after(FAREWELL_TIMEOUTS * self.options.election_timeout_ms);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if leader.reconfiguration.leaving.is_empty() {
            return;
        }
        let next_round = leader.rounds.latest() + 1;
        let (mut is_told_now, mut gone) = (false, Vec::new());
        for (id, leaving) in &mut leader.reconfiguration.leaving {
            let Some(progress) = leader.progress.get(id) else {
                gone.push(*id);
                continue;
            };
            if commit_index < leaving.index {
                continue;
            }
            let is_over = *leaving.until.get_or_insert(until) <= now;
            if is_over || leaving.round.is_some_and(|round| progress.read_round >= round) {
                gone.push(*id);
            } else if leaving.round.is_none() && progress.match_index >= leaving.index {
                leaving.round = Some(next_round);
                is_told_now = true;
            }
        }
        for id in gone {
            leader.progress.remove(&id);
            leader.reconfiguration.leaving.remove(&id);
            leader.reconfiguration.recovering.remove(&id);
        }
        if is_told_now {
            leader.start_round(now);
            self.broadcast_heartbeat();
        }
    }

    /// A leader appends an entry with a membership: in force from now on (Diss. 4.1).
    pub(super) fn enter_membership(&mut self, index: Index, next: Membership) {
        let before = self.memberships.latest().clone();
        self.memberships.append(index, next);
        let latest = self.memberships.latest().clone();
        for id in latest.others(self.options.id) {
            let is_same = before.incarnations.get(&id) == latest.incarnations.get(&id);
            if !(is_same || mutant::is(Mutant::WipedIsThought)) || !before.contains(id) {
                self.renew_progress(id);
            }
        }
        self.sort_followers(&latest);
    }

    /// A leader begins: with all servers of the membership in force, and with those that it takes out, if that may
    /// not be known yet.
    pub(super) fn begin_progress(&mut self) {
        let (latest, id) = (self.memberships.latest().clone(), self.options.id);
        let before = self.committed_membership().others(id);
        let all: BTreeSet<NodeId> = before.chain(latest.others(id)).collect();
        for id in all {
            self.renew_progress(id);
        }
        self.sort_followers(&latest);
    }

    /// Nothing is known of a follower: another data folder, or one that has lost something. Answers that are still
    /// under way are another session's (traps 3.15, 3.37).
    pub(super) fn renew_progress(&mut self, id: NodeId) {
        let (next_index, session) = (self.log.last().index.next(), self.next_number());
        if let Role::Leader(leader) = &mut self.role {
            let progress = Progress::new(next_index, session, self.now);
            leader.progress.insert(id, progress);
            if let Some(catch_up) = leader.reconfiguration.catch_up.get_mut(&id) {
                *catch_up = CatchUp::new(next_index.prev(), self.now);
            }
            leader.heartbeat_due = self.now;
        }
    }

    /// Who learns, and who leaves.
    fn sort_followers(&mut self, latest: &Membership) {
        let (last_index, now) = (self.log.last().index, self.now);
        let index = self.memberships.latest_index();
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Reconfiguration {
            catch_up, leaving, ..
        } = &mut leader.reconfiguration;
        catch_up.retain(|id, _| latest.learners.contains(id));
        for id in &latest.learners {
            catch_up.entry(*id).or_insert(CatchUp::new(last_index, now));
        }
        leaving.retain(|id, _| !latest.contains(*id));
        for id in leader.progress.keys().filter(|id| !latest.contains(**id)) {
            leaving.entry(*id).or_insert(Leaving {
                index,
                until: None,
                round: None,
            });
        }
    }

    pub(super) fn catch_up_status(&self, id: NodeId) -> Option<CatchUpStatus> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let held = leader.progress.get(&id)?.match_index;
        let lacks = self.log.last().index.0.saturating_sub(held.0);
        let catch_up = leader.reconfiguration.catch_up.get(&id)?;
        Some(catch_up.status(lacks, self.now, self.options.election_timeout_ms))
    }
}
