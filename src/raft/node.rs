//! `Raft`: the state of one server, and the dispatch of what happens to it. What happens then is in
//! `election`, `leader`, `follower`, `snapshot` and `read`.

use std::collections::VecDeque;

use bytes::Bytes;

use super::catch_up::CatchUpStatus;
use super::election::Candidate;
use super::follower::Follower;
use super::leader::Leader;
use super::lease::Promise;
use super::log::Log;
use super::membership::Memberships;
use super::message::{Envelope, Message};
use super::progress::Window;
use super::read::Reads;
use super::ready::{Durability, Needs, ReadReady, Ready};
use super::recovering::Recovering;
use super::snapshot::Chunks;
use super::types::{
    Entry, EntryId, HardState, Index, Membership, NodeId, Payload, SnapshotHeader, Term, Ticks,
};
use crate::base::mutant::{self, Mutant};
use crate::base::rng::Rng;

/// How one server behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// This server.
    pub id: NodeId,
    /// The shortest wait for a leader; each wait is drawn from `[1x, 2x)` (Raft 5.2). Milliseconds.
    pub election_timeout_ms: u64,
    /// The time between two heartbeats; well below the election timeout. Milliseconds.
    pub heartbeat_interval_ms: u64,
    /// Entries of one AppendEntries, in bytes; one entry may be larger.
    pub max_append_bytes: usize,
    /// Entries of one write to the disk, in bytes; one entry may be larger.
    pub max_batch_bytes: usize,
    /// AppendEntries under way to one follower.
    pub window: Window,
    /// Entries that a leader has accepted and not yet committed, in bytes; proposals beyond are refused
    /// (trap 3.26).
    pub max_uncommitted_bytes: usize,
    /// Committed entries given out in one [`Ready`], in bytes; one entry may be larger.
    pub max_apply_bytes: usize,
    /// The randomness of the timeouts, and of the number from which elections, sessions and questions are
    /// counted: another one with each start, so that no number of the process before is used again.
    pub seed: u64,
    /// Whether this server promises to vote for nobody else within an election timeout of hearing its leader, so that
    /// a leader may hold a lease on it (Diss. 6.4.1): it then withholds its vote after a start too, and an election
    /// never begins early.
    pub promises_lease: bool,
    /// By how much one clock may run faster than another: 20 is a fifth. A lease is shorter by so much.
    pub max_clock_drift_percent: u64,
    /// A write to the disk that takes so long makes a leader step down, and this server does not campaign until it is
    /// done (trap 3.28). Milliseconds; 0: never.
    pub disk_stall_timeout_ms: u64,
    /// The committed part of the log in memory beyond which a leader refuses proposals and a follower takes no entries,
    /// in bytes: room for snapshots that take long, and no more. The rest is bounded by `max_uncommitted_bytes`; it
    /// does not count here, because no snapshot can free it, and a log full of it could never commit.
    pub max_log_bytes: usize,
}

/// What a server starts from.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: HardState,
    /// The last entry that the snapshot covers, and with it committed and applied; 0@0 without one.
    pub snapshot: EntryId,
    /// The membership at the snapshot; of the bootstrap, without one.
    pub membership: Membership,
    /// The index of the entry that brought it; 0 for that of the bootstrap.
    pub membership_index: Index,
    /// What this server acknowledged before may be lost: it neither votes nor counts until it has fetched everything
    /// anew (trap 3.31).
    pub recovering: bool,
    /// The entries after the snapshot.
    pub entries: Vec<Entry>,
    /// The number that was made with the data folder; 0 where there is none.
    pub incarnation: u64,
}

/// Why a proposal was not accepted. Nothing of it was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposeError {
    /// This server does not lead.
    NotLeader,
    /// Leadership is being handed over.
    Transferring,
    /// Too much is uncommitted: `max_uncommitted_bytes`.
    TooMuchUncommitted,
    /// The log takes too much memory, until a snapshot is taken: `max_log_bytes`.
    LogFull,
}

/// Why leadership can't be handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferError {
    /// This server does not lead.
    NotLeader,
    /// No such voter, or none but this server.
    NoSuchVoter,
}

/// What a server is at the moment (Raft figure 4).
#[derive(Debug)]
pub(super) enum Role {
    Follower(Follower),
    Candidate(Candidate),
    Leader(Box<Leader>),
}

/// One server of the cluster.
///
/// A deterministic value: the same calls in the same order give the same results. After any number of calls
/// of the other methods, call [`ready`](Raft::ready) until it is empty, and [`tick`](Raft::tick) again no
/// later than [`deadline`](Raft::deadline) says.
#[derive(Debug)]
pub struct Raft {
    pub(super) options: Options,
    pub(super) rng: Rng,
    pub(super) now: Ticks,
    /// The data folder's number; 0 where there is none.
    pub(super) incarnation: u64,
    pub(super) hard_state: HardState,
    pub(super) log: Log,
    pub(super) memberships: Memberships,
    /// Whether this server was in a committed membership, ever, as far as is known here.
    pub(super) was_member: bool,
    /// `commitIndex`: the greatest index known to be committed; in `[snapshot, last_index]`.
    pub(super) commit_index: Index,
    /// Entries up to here were given out for application; at most `commit_index`.
    pub(super) handed_index: Index,
    /// The newest snapshot.
    pub(super) snapshot: SnapshotHeader,
    /// That snapshot can't be read: followers wait for a newer one.
    pub(super) snapshot_is_lost: bool,
    /// Chunks to send and to store.
    pub(super) chunks: Chunks,
    pub(super) role: Role,
    pub(super) durability: Durability,
    pub(super) reads: Reads,
    pub(super) ready_reads: Vec<ReadReady>,
    /// Set while this server may lack what it once acknowledged.
    pub(super) recovering: Option<Recovering>,
    /// It was noticed while running that acknowledged entries are gone; the driver is still to be told.
    pub(super) has_lost_entries: bool,
    /// Not to vote for others while a leader may hold a lease.
    pub(super) promise: Promise,
    /// Since when the disk works on the batch that it was given.
    pub(super) disk_busy_since: Option<Ticks>,
    /// Elections, sessions and questions are numbered; no number is used twice, also over restarts.
    pub(super) numbers: u64,
}

impl Raft {
    /// A server that starts as a follower with what it has recovered (Raft 5.2).
    ///
    /// # Panics
    /// If the recovered entries do not follow the snapshot: recovery has checked them.
    pub fn new(options: Options, recovered: Recovered, now: Ticks) -> Raft {
        let snapshot = SnapshotHeader {
            last: recovered.snapshot,
            membership: recovered.membership,
            membership_index: recovered.membership_index,
        };
        let mut memberships = Memberships::new(snapshot.membership_index, snapshot.membership.clone());
        for entry in &recovered.entries {
            if let Payload::Membership(membership) = &entry.payload {
                memberships.append(entry.id.index, (**membership).clone());
            }
        }
        let log = Log::new(recovered.snapshot, recovered.entries);
        let mut rng = Rng::new(options.seed);
        let mut raft = Raft {
            numbers: mutant::pick(Mutant::NumbersBeginAgain, rng.below(1 << 48), 0),
            rng,
            now,
            incarnation: recovered.incarnation,
            hard_state: recovered.hard_state,
            durability: Durability::new(&log),
            log,
            was_member: false,
            memberships,
            commit_index: recovered.snapshot.index,
            handed_index: recovered.snapshot.index,
            snapshot,
            snapshot_is_lost: false,
            chunks: Chunks::default(),
            role: Role::Follower(Follower::default()),
            reads: Reads::default(),
            ready_reads: Vec::new(),
            recovering: recovered.recovering.then(Recovering::default),
            has_lost_entries: false,
            promise: Promise {
                to: None,
                until: mutant::pick(
                    Mutant::PromiseForgotten,
                    now.after(options.election_timeout_ms),
                    now,
                ),
            },
            disk_busy_since: None,
            options,
        };
        raft.become_follower(raft.hard_state.term, None);
        raft.begin_recovery();
        raft
    }

    /// The time has come to `now`; it never goes back. Timers that start from here on start from it. None runs
    /// out: what has arrived meanwhile is to be heard first, or a process that was held up would take the answers
    /// that wait for it for silence.
    pub fn advance(&mut self, now: Ticks) {
        self.now = self.now.max(now);
    }

    /// As [`advance`](Raft::advance), and timers run out.
    pub fn tick(&mut self, now: Ticks) {
        self.advance(now);
        match &self.role {
            Role::Follower(follower) if follower.election_deadline <= self.now => self.on_election_timeout(),
            Role::Candidate(candidate) if candidate.deadline <= self.now => self.on_election_timeout(),
            Role::Leader(_) => self.tick_leader(),
            Role::Follower(_) | Role::Candidate(_) => {}
        }
        self.retry_reads();
    }

    /// When `tick` is needed next.
    pub fn deadline(&self) -> Ticks {
        let role = match &self.role {
            Role::Follower(follower) => follower.election_deadline,
            Role::Candidate(candidate) => candidate.deadline,
            Role::Leader(leader) => leader.deadline().min(self.disk_stall_at()),
        };
        self.reads.deadline().map_or(role, |reads| reads.min(role))
    }

    /// A message arrived.
    pub fn step(&mut self, envelope: Envelope) {
        if envelope.to != self.options.id || envelope.from == self.options.id {
            tracing::warn!(from = %envelope.from, to = %envelope.to, "message is not for this node; dropped");
            return;
        }
        let Envelope {
            from,
            term,
            request_id,
            message,
            ..
        } = envelope;
        if !self.accepts_term(from, term, request_id, &message) {
            return;
        }
        match message {
            Message::PreVote(request) => self.on_pre_vote(from, term, request_id, request),
            Message::PreVoteResponse(response) => self.on_pre_vote_response(from, response),
            Message::RequestVote(request) => self.on_request_vote(from, term, request_id, request),
            Message::RequestVoteResponse(response) => self.on_vote_response(from, response),
            Message::AppendEntries(request) => self.on_append_entries(from, request_id, request),
            Message::AppendEntriesResponse(response) => self.on_append_entries_response(from, response),
            Message::Heartbeat(request) => self.on_heartbeat(from, request_id, request),
            Message::HeartbeatResponse(response) => self.on_heartbeat_response(from, response),
            Message::InstallSnapshot(request) => self.on_install_snapshot(from, request_id, request),
            Message::InstallSnapshotResponse(response) => self.on_install_snapshot_response(from, response),
            Message::TimeoutNow(request) => self.on_timeout_now(from, request),
            Message::ReadIndex(request) => self.on_read_index(from, request_id, request),
            Message::ReadIndexResponse(response) => self.on_read_index_response(from, response),
        }
    }

    /// The rule for all servers (Raft 5.1): a greater term is taken over, a message of a smaller one does
    /// nothing but tell its sender. Votes have rules of their own, for stickiness (Diss. 4.2.3, 9.6).
    fn accepts_term(&mut self, from: NodeId, term: Term, request_id: u64, message: &Message) -> bool {
        let current = self.hard_state.term;
        match message {
            Message::PreVote(_) | Message::RequestVote(_) => true,
            // Granted by a server of any term: the term that counts is the one asked for, by its round.
            Message::PreVoteResponse(response) if response.vote_granted => true,
            _ if term > current => {
                let leads = matches!(
                    message,
                    Message::AppendEntries(_) | Message::Heartbeat(_) | Message::InstallSnapshot(_)
                );
                let leader = leads.then_some(from);
                self.become_follower(term, leader);
                if let Message::Heartbeat(heartbeat) = message {
                    self.notice_lost_term(heartbeat.leader_commit);
                }
                true
            }
            // A refusal counts whatever the voter's term, a vote only in the term for which it was given.
            Message::PreVoteResponse(_) => true,
            Message::RequestVoteResponse(response) if !response.vote_granted => true,
            Message::RequestVoteResponse(_) if mutant::is(Mutant::EarlierVoteCounts) => true,
            _ if term < current && !mutant::is(Mutant::OldTermIsHeard) => {
                self.tell_term(from, request_id, message);
                false
            }
            _ => true,
        }
    }

    /// Follows `leader`, or nobody yet, in this term (Raft 5.1).
    pub(super) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        if term > self.hard_state.term || mutant::is(Mutant::StepDownForgetsVote) {
            self.hard_state = HardState { term, vote: None };
            self.durability.hard_state_changed();
            if mutant::is(Mutant::PromiseEndsWithTerm) {
                self.promise = Promise::default();
            }
        }
        if let Role::Leader(_) = &self.role {
            tracing::info!(%term, "stepped down");
        }
        let timeout_ms = self.random_election_timeout_ms();
        self.role = Role::Follower(Follower {
            leader,
            last_heard: self.now,
            election_deadline: self.now.after(timeout_ms),
            ..Follower::default()
        });
        self.reads.ask_again();
    }

    /// When the write under way will have taken too long (trap 3.28).
    pub(super) fn disk_stall_at(&self) -> Ticks {
        match (self.disk_busy_since, self.options.disk_stall_timeout_ms) {
            (None, _) | (_, 0) => Ticks(u64::MAX),
            (Some(since), timeout_ms) => since.after(timeout_ms),
        }
    }

    /// Whether the disk has been at work on one write for too long: this server does not lead or campaign until that
    /// is done (trap 3.28).
    pub fn is_disk_stalled(&self) -> bool {
        self.disk_stall_at() <= self.now
    }

    /// A new connection to this peer is open: what was under way on the last one is lost.
    pub fn peer_connected(&mut self, peer: NodeId) {
        self.reset_progress(peer);
        self.reads.ask_again();
    }

    /// The peer's own kernel closed or reset a connection: its process is gone. See `election`.
    pub fn peer_closed(&mut self, peer: NodeId) {
        self.on_leader_gone(peer);
    }

    /// Appends a command to the log if this server leads (Raft 5.3). Whether it is committed shows when the
    /// entry of this name, or another one in its place, comes out of [`ready`](Raft::ready).
    ///
    /// # Errors
    /// See [`ProposeError`]; nothing was appended.
    pub fn propose(&mut self, command: Bytes) -> Result<EntryId, ProposeError> {
        self.lead_append(Payload::Command(command))
    }

    /// Appends the membership in force, unless the log or the snapshot names one already. So the membership of
    /// the bootstrap becomes part of the log, and what the configuration says later no longer matters.
    ///
    /// # Errors
    /// See [`ProposeError`]; nothing was appended. Before an entry of this term is committed, this server does
    /// not count as leading (trap 3.1).
    pub fn record_membership(&mut self) -> Result<(), ProposeError> {
        if self.memberships.is_recorded() {
            return Ok(());
        }
        if !self.has_committed_in_term() {
            return Err(ProposeError::NotLeader);
        }
        self.lead_append(self.memberships.latest().clone().into())
            .map(|_| ())
    }

    /// The batch that [`ready`](Raft::ready) gave out is durable.
    pub fn persisted(&mut self) {
        self.durability.persisted();
        self.disk_busy_since = None;
        match &mut self.role {
            // The time that the disk took is not the leader's silence (trap 3.7).
            Role::Follower(follower) if follower.leader.is_some() => self.restart_election_timer(),
            Role::Follower(_) => {}
            Role::Candidate(_) => self.count_own_vote(),
            Role::Leader(_) => self.advance_commit_index(),
        }
    }

    /// What there is to do now.
    pub fn ready(&mut self) -> Ready {
        self.continue_change();
        self.flush_reads();
        self.replicate();
        let committed = self.take_committed();
        let batch = self
            .durability
            .take_batch(self.hard_state, &self.log, self.options.max_batch_bytes);
        if batch.is_some() {
            self.disk_busy_since = Some(self.now);
        }
        Ready {
            batch,
            messages: self.durability.take_messages(),
            committed,
            reads: std::mem::take(&mut self.ready_reads),
            recovered: self.end_recovery(),
            recovering: std::mem::take(&mut self.has_lost_entries),
            chunks_to_send: std::mem::take(&mut self.chunks.to_send),
            chunks_to_store: std::mem::take(&mut self.chunks.to_store),
        }
    }

    fn take_committed(&mut self) -> Vec<Entry> {
        let upto = mutant::pick(Mutant::ApplyUncommitted, self.commit_index, self.log.last().index);
        let committed = self
            .log
            .slice(self.handed_index.next(), upto, self.options.max_apply_bytes);
        if let Some(last) = committed.last() {
            self.handed_index = last.id.index;
            self.memberships.commit(self.handed_index);
        }
        committed
    }

    /// The commit index moves on, never back.
    pub(super) fn commit_to(&mut self, index: Index) {
        let index = index.min(self.log.last().index);
        if index > self.commit_index {
            self.commit_index = index;
        }
    }

    /// A number that was not used before.
    pub(super) fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn envelope(&self, to: NodeId, request_id: u64, message: Message) -> Envelope {
        Envelope {
            from: self.options.id,
            to,
            term: self.hard_state.term,
            request_id,
            message,
        }
    }

    /// Sends what speaks of nothing but the term, once that is durable.
    pub(super) fn send(&mut self, to: NodeId, request_id: u64, message: Message) {
        let envelope = self.envelope(to, request_id, message);
        if mutant::is(Mutant::VoteBeforeDurable) {
            return self.durability.send(envelope);
        }
        self.durability.send_when_durable(Needs::HardState, envelope);
    }

    /// What this server is and knows at the moment.
    pub fn status(&self) -> Status<'_> {
        let (role, leader) = match &self.role {
            Role::Follower(follower) => (RoleName::Follower, follower.leader),
            Role::Candidate(_) => (RoleName::Candidate, None),
            Role::Leader(_) => (RoleName::Leader, Some(self.options.id)),
        };
        Status {
            role,
            leader,
            hard_state: self.hard_state,
            commit_index: self.commit_index,
            first_index: self.log.first_index(),
            snapshot_index: self.snapshot.last.index,
            log_bytes: self.log_bytes(),
            last_log: self.log.last(),
            log_durable: self.durability.log_durable(),
            membership: self.memberships.latest(),
            membership_index: self.memberships.latest_index(),
            committed_membership: self.committed_membership(),
            is_changing: self.is_changing(),
            is_removed: self.is_removed(),
            is_struck_out: self.is_struck_out(),
            is_recovering: self.is_recovering(),
            has_committed_in_term: self.has_committed_in_term(),
            followers: self.followers(),
        }
    }

    fn followers(&self) -> VecDeque<FollowerStatus> {
        let Role::Leader(leader) = &self.role else {
            return VecDeque::new();
        };
        let status = |(id, progress): (&NodeId, &super::progress::Progress)| FollowerStatus {
            id: *id,
            match_index: progress.match_index,
            next_index: progress.next_index,
            inflight: progress.inflight(),
            silent_ms: self.now.since(progress.last_answer),
            has_answered: progress.read_round > 0,
            is_recovering: leader.reconfiguration.recovering.contains(id),
            catch_up: self.catch_up_status(*id),
            snapshot: progress.sending().map(|sending| sending.last().index),
        };
        leader.progress.iter().map(status).collect()
    }

    /// This server's number.
    pub fn id(&self) -> NodeId {
        self.options.id
    }

    /// The membership in force: the latest in the log, committed or not.
    pub fn membership(&self) -> &Membership {
        self.memberships.latest()
    }

    /// The index of the entry that brought it; 0 for that of the bootstrap.
    pub fn membership_index(&self) -> Index {
        self.memberships.latest_index()
    }

    /// `commitIndex`.
    pub fn commit_index(&self) -> Index {
        self.commit_index
    }

    /// `currentTerm`.
    pub fn term(&self) -> Term {
        self.hard_state.term
    }

    /// The leader, where known; this server itself where it leads.
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower(follower) => follower.leader,
            Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.options.id),
        }
    }

    /// Whether this server leads.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Whether this server leads and is handing over.
    pub fn is_transferring(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.transfer.is_some())
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }
}

/// What a server is and knows at one moment.
#[derive(Clone, Debug)]
pub struct Status<'a> {
    /// What it is.
    pub role: RoleName,
    /// The leader of its term, where known.
    pub leader: Option<NodeId>,
    /// Term and vote.
    pub hard_state: HardState,
    /// `commitIndex`.
    pub commit_index: Index,
    /// The first index of the log in memory.
    pub first_index: Index,
    /// The last entry that the newest snapshot covers; 0 without one. The log in memory may begin earlier.
    pub snapshot_index: Index,
    /// What the log takes in memory.
    pub log_bytes: usize,
    /// The last entry of the log.
    pub last_log: EntryId,
    /// The log is durable here up to this index.
    pub log_durable: Index,
    /// The membership in force: the latest in the log, committed or not.
    pub membership: &'a Membership,
    /// The index of the entry that brought it; 0 for that of the bootstrap.
    pub membership_index: Index,
    /// The latest membership that is committed.
    pub committed_membership: &'a Membership,
    /// [`Raft::is_changing`].
    pub is_changing: bool,
    /// [`Raft::is_removed`].
    pub is_removed: bool,
    /// Whether the membership in force lacks this server and an earlier one had it, committed or not: what a removed
    /// server that starts again has left to go by, for nobody tells it a commit index any more.
    pub is_struck_out: bool,
    /// Whether this server neither votes nor counts until it has fetched anew what it lost (trap 3.31).
    pub is_recovering: bool,
    /// Whether this server leads and has committed an entry of its term: only then does it know the commit
    /// index (Raft 8).
    pub has_committed_in_term: bool,
    /// On the leader: what it knows of the others.
    pub followers: VecDeque<FollowerStatus>,
}

/// What a leader knows of one follower.
#[derive(Clone, Copy, Debug)]
pub struct FollowerStatus {
    /// The follower.
    pub id: NodeId,
    /// `matchIndex`.
    pub match_index: Index,
    /// `nextIndex`.
    pub next_index: Index,
    /// AppendEntries under way.
    pub inflight: usize,
    /// For how long it has not answered, in milliseconds.
    pub silent_ms: u64,
    /// Whether it has answered at all: this leader, and since its data folder was forgotten.
    pub has_answered: bool,
    /// Whether it has lost what it once acknowledged and fetches it anew: it counts for nothing (trap 3.31).
    pub is_recovering: bool,
    /// For a learner: how it gets on.
    pub catch_up: Option<CatchUpStatus>,
    /// The last entry of the snapshot that it is being sent.
    pub snapshot: Option<Index>,
}

/// What a server is (Raft figure 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleName {
    /// Leads its term.
    Leader,
    /// Follows, or waits for a leader.
    Follower,
    /// Asks for pre-votes or votes.
    Candidate,
}
