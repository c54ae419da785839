//! A leader (Raft 5.3, 5.4): appends, replicates, counts, commits, steps down when it has lost its quorum,
//! and hands over when asked to.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::lease::Lease;
use super::message::{
    AppendEntries, AppendEntriesResponse, Heartbeat, HeartbeatResponse, Message, TimeoutNow,
};
use super::node::{ProposeError, Raft, Role, TransferError};
use super::progress::{Progress, Sent, State};
use super::quorum;
use super::read::Rounds;
use super::reconfigure::Reconfiguration;
use super::types::{EntryId, Index, NodeId, Payload, Ticks};
use crate::base::mutant::{self, Mutant};

/// A server that leads its term.
#[derive(Debug)]
pub(super) struct Leader {
    /// The others.
    pub progress: BTreeMap<NodeId, Progress>,
    /// The entry with which the term began; once it is committed, the commit index is known (Raft 8).
    pub term_start: Index,
    /// When the next heartbeat is due.
    pub heartbeat_due: Ticks,
    /// When to see whether a quorum still answers.
    pub quorum_check_due: Ticks,
    /// The size of the entries after the commit index.
    pub uncommitted_bytes: usize,
    /// ReadIndex.
    pub rounds: Rounds,
    /// What lets it read without asking.
    pub lease: Lease,
    /// The hand-over under way.
    pub transfer: Option<Transfer>,
    /// Servers that come, go or recover.
    pub reconfiguration: Reconfiguration,
}

/// A hand-over of leadership (Diss. 3.10). While it lasts, nothing is proposed and no round of reads begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    target: NodeId,
    /// When it is given up.
    deadline: Ticks,
    /// TimeoutNow is on its way.
    is_sent: bool,
}

impl Leader {
    /// When this leader has something to do next.
    pub fn deadline(&self) -> Ticks {
        let due = self.heartbeat_due.min(self.quorum_check_due);
        self.transfer.map_or(due, |transfer| transfer.deadline.min(due))
    }
}

impl Raft {
    /// The election is won (Raft 5.2). The term begins with an entry of its own, because only such an entry
    /// lets the leader learn what is committed (Raft 5.4.2, 8).
    pub(super) fn become_leader(&mut self) {
        let now = self.now;
        let next_index = self.log.last().index.next();
        let uncommitted_bytes = self.log.size_bytes(self.commit_index, self.log.last().index);
        self.role = Role::Leader(Box::new(Leader {
            progress: BTreeMap::new(),
            term_start: next_index,
            heartbeat_due: now,
            quorum_check_due: now.after(self.options.election_timeout_ms),
            uncommitted_bytes,
            rounds: Rounds::starting_after(self.next_number()),
            lease: Lease::new(self.options.election_timeout_ms),
            transfer: None,
            reconfiguration: Reconfiguration::default(),
        }));
        self.begin_progress();
        tracing::info!(term = %self.hard_state.term, last_index = %self.log.last().index, "became leader");
        self.append_unchecked(Payload::Noop);
        self.reads.ask_again();
        self.tick_leader();
    }

    /// Appends an entry to the leader's log, if there is room.
    pub(super) fn lead_append(&mut self, payload: Payload) -> Result<EntryId, ProposeError> {
        match &self.role {
            Role::Leader(leader) if leader.transfer.is_some() => Err(ProposeError::Transferring),
            Role::Leader(leader) if leader.uncommitted_bytes > self.options.max_uncommitted_bytes => {
                Err(ProposeError::TooMuchUncommitted)
            }
            Role::Leader(_) if self.log_is_full() => Err(ProposeError::LogFull),
            Role::Leader(_) => Ok(self.append_unchecked(payload)),
            Role::Follower(_) | Role::Candidate(_) => Err(ProposeError::NotLeader),
        }
    }

    pub(super) fn append_unchecked(&mut self, payload: Payload) -> EntryId {
        if let Payload::Membership(membership) = &payload {
            self.enter_membership(self.log.last().index.next(), (**membership).clone());
        }
        let id = self.log.append(self.hard_state.term, payload);
        let bytes = self.log.entry(id.index).map_or(0, |entry| entry.size_bytes());
        if let Role::Leader(leader) = &mut self.role {
            leader.uncommitted_bytes += bytes;
        }
        id
    }

    pub(super) fn tick_leader(&mut self) {
        self.check_quorum();
        self.check_disk();
        self.abandon_overdue_transfer();
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if leader.heartbeat_due <= self.now {
            leader.start_round(self.now);
            self.probe_the_silent();
            self.broadcast_heartbeat();
        }
    }

    /// A leader that no quorum answers may already be replaced, so it stops (check-quorum, Diss. 6.2). Only
    /// answers count: a leader that can send but not receive must go too (trap 3.6).
    fn check_quorum(&mut self) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if self.now < leader.quorum_check_due || mutant::is(Mutant::NoCheckQuorum) {
            return;
        }
        let (id, now, timeout_ms) = (self.options.id, self.now, self.options.election_timeout_ms);
        let last_answer = |peer| if peer == id { now } else { leader.last_answer(peer) };
        let heard = quorum::majority_value(self.memberships.latest(), last_answer).unwrap_or(now);
        if now.since(heard) >= timeout_ms {
            tracing::warn!(term = %self.hard_state.term, timeout_ms, "no quorum answers; stepping down");
            self.become_follower(self.hard_state.term, None);
        } else {
            leader.quorum_check_due = heard.after(timeout_ms);
        }
    }

    /// A leader whose disk finishes nothing goes: it could commit without itself and never learn that its disk is gone
    /// (Diss. 10.2.1, trap 3.28). Who has all of its log may begin at once.
    fn check_disk(&mut self) {
        if !matches!(self.role, Role::Leader(_)) || !self.is_disk_stalled() {
            return;
        }
        let timeout_ms = self.options.disk_stall_timeout_ms;
        tracing::error!(term = %self.hard_state.term, timeout_ms, "the disk finishes nothing; stepping down");
        if self.transfer(None).is_ok() {
            self.continue_transfer();
        }
        self.become_follower(self.hard_state.term, None);
    }

    /// A request that stays without answer was lost: send it again (Raft 5.3, "retries indefinitely").
    fn probe_the_silent(&mut self) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        for progress in leader.progress.values_mut() {
            let patience_ms = match progress.state {
                State::Probe { .. } => self.options.heartbeat_interval_ms,
                State::Replicate { .. } | State::Snapshot(_) => self.options.election_timeout_ms,
            };
            if progress
                .waits_since()
                .is_some_and(|since| self.now.since(since) >= patience_ms)
            {
                progress.restart();
            }
        }
    }

    pub(super) fn broadcast_heartbeat(&mut self) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        leader.heartbeat_due = self.now.after(self.options.heartbeat_interval_ms);
        let commit_index = self.commit_index;
        let read_round = leader.rounds.latest();
        let heartbeats: Vec<(NodeId, Heartbeat)> = leader
            .progress
            .iter()
            .map(|(id, progress)| {
                let least = commit_index.min(progress.match_index);
                let heartbeat = Heartbeat {
                    session: progress.session,
                    read_round,
                    leader_commit: mutant::pick(Mutant::HeartbeatCommitsAll, least, commit_index),
                };
                (*id, heartbeat)
            })
            .collect();
        for (peer, heartbeat) in heartbeats {
            let envelope = self.envelope(peer, 0, Message::Heartbeat(heartbeat));
            self.durability.send(envelope);
        }
        self.confirm_reads();
    }

    /// Sends each follower what it lacks, as far as its window allows.
    pub(super) fn replicate(&mut self) {
        let mut last = NodeId(0);
        while let Some(peer) = self.follower_after(last) {
            self.choose_log_or_snapshot(peer);
            while self.send_append_entries(peer) {}
            while self.send_chunk(peer) {}
            last = peer;
        }
    }

    fn follower_after(&self, peer: NodeId) -> Option<NodeId> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let after = (Bound::Excluded(peer), Bound::Unbounded);
        leader.progress.range(after).next().map(|(id, _)| *id)
    }

    /// Sends one AppendEntries, if there is something to send and room for it.
    fn send_append_entries(&mut self, peer: NodeId) -> bool {
        let Some(mut request) = self.next_append_entries(peer) else {
            return false;
        };
        request.sequence = self.next_number();
        let sent = Sent {
            sequence: request.sequence,
            last_index: request
                .entries
                .last()
                .map_or(request.prev_log.index, |entry| entry.id.index),
            bytes: request.entries.iter().map(|entry| entry.size_bytes()).sum(),
            at: self.now,
        };
        if let Role::Leader(leader) = &mut self.role
            && let Some(progress) = leader.progress.get_mut(&peer)
        {
            progress.sent(sent);
        }
        let envelope = self.envelope(peer, 0, Message::AppendEntries(request));
        self.durability.send(envelope);
        true
    }

    /// What comes next, without its number.
    fn next_append_entries(&self, peer: NodeId) -> Option<AppendEntries> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let progress = leader.progress.get(&peer)?;
        let last_index = self.last_index_for(peer);
        let prev_index = progress.next_index.prev();
        let waiting_bytes = self.log.size_bytes(prev_index, last_index);
        if !progress.may_send(self.options.window, waiting_bytes) || !progress.lacks(last_index) {
            return None;
        }
        // Dropped for a snapshot, where it is not held, and there is no snapshot to send.
        let prev_term = self.log.term_at(prev_index)?;
        Some(AppendEntries {
            session: progress.session,
            sequence: 0,
            prev_log: EntryId {
                term: prev_term,
                index: prev_index,
            },
            entries: self
                .log
                .slice(progress.next_index, last_index, self.options.max_append_bytes),
            leader_commit: self.commit_index,
            read_round: leader.rounds.latest(),
        })
    }

    /// How much of the log a follower is sent. One that is no member any more: what is committed. With the entry that
    /// removes it, it neither campaigns nor votes, and until that is committed the others may still need it.
    fn last_index_for(&self, peer: NodeId) -> Index {
        let last_index = self.log.last().index;
        if self.memberships.latest().contains(peer) {
            return last_index;
        }
        last_index.min(self.commit_index)
    }

    /// Whatever was under way on the old connection is lost, and answers that still come are not believed.
    pub(super) fn reset_progress(&mut self, peer: NodeId) {
        let (session, next_index) = (self.next_number(), self.log.last().index.next());
        let is_member = self.memberships.latest().contains(peer);
        if let Role::Leader(leader) = &mut self.role
            && let Some(progress) = leader.progress.get_mut(&peer)
        {
            // Of one that is no member nothing says any more which data folder was meant, and this may be a new one
            // (trap 3.37); one that recovers may have lost again what it has fetched so far (trap 3.31).
            if !is_member || leader.reconfiguration.recovering.contains(&peer) {
                *progress = Progress::new(next_index, session, self.now);
            }
            progress.session = session;
            // It may be another process, with another configuration.
            progress.promises_lease = false;
            progress.restart();
            leader.heartbeat_due = self.now;
        }
    }

    /// The follower's progress, if the answer belongs to the present session.
    pub(super) fn answering(&mut self, from: NodeId, session: u64) -> Option<&mut Progress> {
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else {
            return None;
        };
        let progress = leader
            .progress
            .get_mut(&from)
            .filter(|progress| progress.session == session)?;
        progress.last_answer = now;
        Some(progress)
    }

    pub(super) fn on_append_entries_response(&mut self, from: NodeId, response: AppendEntriesResponse) {
        let last_index = self.log.last().index;
        let agreement = response
            .conflict
            .map(|conflict| self.log.agreement_with(conflict));
        self.note_answer_of_recovering(from, response.session, response.recovering);
        let Some(progress) = self.answering(from, response.session) else {
            return;
        };
        progress.read_round = progress.read_round.max(response.read_round);
        match agreement {
            // A follower can't hold more than it was sent: nonsense, not an answer.
            None if response.last_index > last_index => return,
            None => progress.accepted(response.sequence, response.last_index),
            Some(agreement) => {
                if progress.is_rejected_by(response.prev_log_index) {
                    progress.probe_from(agreement.next().min(response.prev_log_index));
                }
            }
        }
        self.confirm_reads();
        self.advance_commit_index();
        self.continue_transfer();
    }

    pub(super) fn on_heartbeat_response(&mut self, from: NodeId, response: HeartbeatResponse) {
        self.note_answer_of_recovering(from, response.session, response.recovering);
        if let Some(progress) = self.answering(from, response.session) {
            progress.read_round = progress.read_round.max(response.read_round);
            progress.promises_lease = response.promises_lease;
            self.confirm_reads();
        }
    }

    /// The commit rule (Raft 5.3, 5.4.2): a majority holds it durably, and it is of this term; what comes
    /// before it is then committed too (figure 8, trap 3.23).
    pub(super) fn advance_commit_index(&mut self) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let (id, durable) = (self.options.id, self.durability.log_durable());
        let durable = mutant::pick(Mutant::LeaderCountsUnsynced, durable, self.log.last().index);
        let match_index = |peer| {
            if peer == id {
                durable
            } else {
                leader.match_index(peer)
            }
        };
        let Some(index) = quorum::majority_value(self.memberships.latest(), match_index) else {
            return;
        };
        let is_own = self.log.term_at(index) == Some(self.hard_state.term);
        if index <= self.commit_index || !(is_own || mutant::is(Mutant::EarlierTermCommits)) {
            return;
        }
        let knew = self.has_committed_in_term();
        let bytes = self.log.size_bytes(self.commit_index, index);
        self.commit_to(index);
        if let Role::Leader(leader) = &mut self.role {
            leader.uncommitted_bytes = leader.uncommitted_bytes.saturating_sub(bytes);
        }
        if !knew {
            self.on_commit_index_known();
        }
    }

    /// Whether this server leads and knows what is committed (Raft 8).
    pub fn has_committed_in_term(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if self.commit_index >= leader.term_start)
    }

    /// Hands leadership to this voter, or to the one whose log is longest. Done when another leader is heard;
    /// given up after an election timeout. Nothing is written meanwhile, so asking again, for the same or for
    /// another voter, gives it no more time.
    ///
    /// # Errors
    /// See [`TransferError`]; nothing has changed.
    pub fn transfer(&mut self, target: Option<NodeId>) -> Result<(), TransferError> {
        let id = self.options.id;
        let voters = self.memberships.latest().voters.clone();
        let deadline = self.now.after(self.options.election_timeout_ms);
        let Role::Leader(leader) = &mut self.role else {
            return Err(TransferError::NotLeader);
        };
        let deadline = leader.transfer.as_ref().map_or(deadline, |begun| begun.deadline);
        // In an idle cluster a dead voter's log is as long as any: one that answers comes first.
        let (now, patience_ms) = (self.now, 3 * self.options.heartbeat_interval_ms);
        let answers = |progress: &Progress| now.since(progress.last_answer) <= patience_ms;
        let recovering = &leader.reconfiguration.recovering;
        let may_lead = |peer: &NodeId| voters.contains(peer) && !recovering.contains(peer);
        let best = leader
            .progress
            .iter()
            .filter(|(peer, _)| may_lead(peer))
            .max_by_key(|(_, progress)| (answers(progress), progress.match_index, progress.last_answer))
            .map(|(peer, _)| *peer);
        let target = target
            .or(best)
            .filter(may_lead)
            .ok_or(TransferError::NoSuchVoter)?;
        if target != id {
            leader.transfer = Some(Transfer {
                target,
                deadline,
                is_sent: false,
            });
            self.continue_transfer();
        }
        Ok(())
    }

    pub(super) fn continue_transfer(&mut self) {
        let last_log = self.log.last();
        // One that is no member any more hears nothing afterwards: it waits until it knows what came of everything.
        let is_member = self.memberships.latest().contains(self.options.id);
        if !is_member && self.commit_index < last_log.index {
            return;
        }
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(transfer) = leader.transfer.as_mut().filter(|transfer| !transfer.is_sent) else {
            return;
        };
        let target = transfer.target;
        if leader
            .progress
            .get(&target)
            .is_some_and(|progress| progress.match_index == last_log.index)
        {
            transfer.is_sent = true;
            leader.lease.revoke();
            let envelope = self.envelope(target, 0, Message::TimeoutNow(TimeoutNow { last_log }));
            self.durability.send(envelope);
        }
    }

    fn abandon_overdue_transfer(&mut self) {
        if let Role::Leader(leader) = &mut self.role
            && let Some(transfer) = leader.transfer
            && transfer.deadline <= self.now
            && !mutant::is(Mutant::TransferNeverEnds)
        {
            tracing::warn!(target = %transfer.target, "leadership transfer did not finish in time; given up");
            leader.transfer = None;
        }
    }
}

impl Leader {
    /// The follower's progress, unless it counts for nothing: it recovers what it once acknowledged (trap 3.31).
    pub(super) fn counting(&self, peer: NodeId) -> Option<&Progress> {
        let recovering = &self.reconfiguration.recovering;
        let is_recovering = recovering.contains(&peer) && !mutant::is(Mutant::RecoveringCounts);
        self.progress.get(&peer).filter(|_| !is_recovering)
    }

    fn last_answer(&self, peer: NodeId) -> Ticks {
        self.counting(peer)
            .map_or(Ticks(0), |progress| progress.last_answer)
    }

    fn match_index(&self, peer: NodeId) -> Index {
        self.counting(peer)
            .map_or(Index(0), |progress| progress.match_index)
    }

    /// Begins a round of reads.
    pub(super) fn start_round(&mut self, now: Ticks) {
        self.rounds.start_next();
        self.lease.round_started(self.rounds.latest(), now);
    }

    pub(super) fn confirmed_round(&self, peer: NodeId) -> u64 {
        self.counting(peer).map_or(0, |progress| progress.read_round)
    }
}
