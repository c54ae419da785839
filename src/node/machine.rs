//! What a node does, without waiting for anything: Raft and the state machine, and between them the requests.
//!
//! The driver tells the machine what happened and then calls [`Machine::work`] until nothing is left to do.
//! Everything that needs a socket, the disk or a clock is asked of the [`Host`]. The same inputs give the same
//! effects, so the simulation runs this code as it is.

use bytes::Bytes;

use super::changes::Changes;
use super::compaction::Compaction;
use super::feeds::Feeds;
use super::forward::{Order, is_write};
use super::hashes::Hashes;
use super::host::{Host, Now};
use super::members::Roster;
use super::reads::{Read, ReadQueue, Wanted};
use super::request::{Operation, Outcome, ReadMode, Request, Submission};
use super::verify::Verifications;
use super::waiters::{Local, Origin, Overdue, Waiters};
use crate::base::mutant::{self, Mutant};
use crate::kv::{self, Code, Command, Error, Reply, Store};
use crate::raft::{Addresses, Entry, Envelope, Index, NodeId, Payload, Raft, Ready, Term, Ticks};

/// How a node treats its requests.
#[derive(Clone, Debug)]
pub struct Options {
    /// `cluster.name` of the configuration.
    pub cluster_name: String,
    /// This data folder's random number.
    pub incarnation: u64,
    /// Where others reach this node, as far as its configuration says.
    pub addresses: Addresses,
    /// How long a request may take before it gets an error.
    pub request_timeout_ms: u64,
    /// How many requests may wait for their outcome.
    pub max_pending: usize,
    /// Bytes of keys and values beyond which writes that grow are refused; 0 is no bound.
    pub max_memory_bytes: u64,
    /// Free bytes on the disk below which writes are refused.
    pub min_free_space_bytes: u64,
    /// Bytes of the log behind the last snapshot beyond which the next one is taken.
    pub snapshot_log_bytes: u64,
}

/// A committed entry that this version can't read: it must not be skipped, or the states would differ.
#[derive(Debug, thiserror::Error)]
#[error(
    "the committed log entry {index} can't be read ({reason}); it was probably written by a newer version: \
     start this node with the version that the other nodes run"
)]
pub struct UnreadableEntry {
    /// Its index.
    pub index: Index,
    /// What is wrong.
    pub reason: String,
}

/// A node.
#[derive(Debug)]
pub struct Machine<C> {
    pub(super) options: Options,
    pub(super) now: Now,
    pub(super) raft: Raft,
    pub(super) store: Store,
    pub(super) waiters: Waiters<C>,
    pub(super) reads: ReadQueue,
    pub(super) transfers: Vec<PendingTransfer<C>>,
    pub(super) compaction: Compaction,
    pub(super) changes: Changes<C>,
    pub(super) verifications: Verifications<C>,
    /// Who waits for the data folder to be marked.
    pub(super) rebuilds: Vec<Local>,
    pub(super) hashes: Hashes,
    pub(super) feeds: Feeds,
    /// Since when the state here is known to differ from the leader's.
    pub(super) diverged_at: Option<Index>,
    /// What the host last said is free on the disk, and when it was last asked.
    pub(super) free_space_bytes: u64,
    pub(super) free_space_asked: Ticks,
    pub(super) sequence: u64,
    /// The term and leader for which forwarded writes were last looked at.
    pub(super) hastened_for: Option<(Term, NodeId)>,
    /// When parked writes are tried again, and the leader they were last tried with.
    pub(super) retry_parked_at: Ticks,
    pub(super) tried_leader: Option<(Term, NodeId)>,
    chores: Chores,
    pub(super) roster: Roster,
    /// When this node last knew a leader.
    pub(super) leader_seen: Ticks,
}

/// What a leader does unasked.
#[derive(Debug, Default)]
struct Chores {
    /// The removal of expired keys is proposed and not applied yet.
    expiring: Option<(Term, Index)>,
    /// After a removal could not be proposed: when to try again.
    expire_not_before: Ticks,
    /// The term in which it was seen to that the log names cluster and members.
    founded_in: Option<Term>,
    /// The term of the last entry applied.
    applied_in: Term,
    /// The term in which it was seen to that all leases start anew.
    renewed_in: Option<Term>,
    next_hash_at: Ticks,
}

/// A hand-over of leadership that somebody waits for.
#[derive(Debug)]
pub(super) struct PendingTransfer<C> {
    pub target: Option<NodeId>,
    pub deadline: Ticks,
    pub origin: Origin<C>,
}

/// Keys removed by one entry at most, so that expiry of many at once stalls nobody.
const EXPIRE_LIMIT: u32 = 1000;
const EXPIRE_RETRY_MS: u64 = 20;
const HASH_INTERVAL_MS: u64 = 1000;

impl<C> Machine<C> {
    /// A node with what was recovered: `store` is what the snapshot holds, or empty without one.
    pub fn new(options: Options, raft: Raft, store: Store, now: Now) -> Machine<C> {
        Machine {
            compaction: Compaction::new(store.time_ms()),
            roster: Roster::new(raft.id(), raft.membership(), now.ticks),
            options,
            now,
            raft,
            feeds: Feeds::new(store.applied()),
            store,
            waiters: Waiters::default(),
            reads: ReadQueue::default(),
            transfers: Vec::new(),
            changes: Changes::default(),
            verifications: Verifications::default(),
            rebuilds: Vec::new(),
            hashes: Hashes::default(),
            diverged_at: None,
            free_space_bytes: u64::MAX,
            free_space_asked: now.ticks,
            sequence: 0,
            hastened_for: None,
            retry_parked_at: Ticks(0),
            tried_leader: None,
            chores: Chores::default(),
            leader_seen: now.ticks,
        }
    }

    /// Time has passed. To be called before anything else in each turn of the driver. Timers run out in `work`, after
    /// what has arrived was heard.
    pub fn tick(&mut self, now: Now) {
        self.now = now;
        self.raft.advance(now.ticks);
        if self.raft.leader().is_some() {
            self.leader_seen = now.ticks;
        }
    }

    /// When `tick` and `work` are needed next, if nothing else happens.
    pub fn deadline(&self) -> Ticks {
        let expiry = self.next_expiry_at();
        let parked = self.waiters.has_parked().then_some(self.retry_parked_at);
        let snapshots = self.snapshot_deadline();
        let transfers = self.transfers.iter().map(|transfer| transfer.deadline).min();
        let others = [
            self.waiters.deadline(),
            self.reads.deadline(),
            self.changes.deadline(),
            self.verifications.deadline(),
            expiry,
            parked,
            snapshots,
            transfers,
        ];
        others.into_iter().flatten().fold(self.raft.deadline(), Ord::min)
    }

    fn next_expiry_at(&self) -> Option<Ticks> {
        let may_expire =
            self.raft.has_committed_in_term() && self.chores.renewed_in == Some(self.raft.term());
        if !may_expire || self.chores.expiring.is_some() {
            return None;
        }
        let expiry = self.store.next_expiry()?;
        let at = self.now.ticks.after(expiry.saturating_sub(self.now.wall_ms));
        Some(at.max(self.chores.expire_not_before))
    }

    /// Requests of one connection.
    pub fn submit(&mut self, submission: Submission, host: &mut impl Host<CallId = C>) {
        for Request { ticket, operation } in submission.requests {
            let local = Local {
                answers: submission.answers.clone(),
                ticket,
            };
            if let Some(refusal) = self.refusal(&operation) {
                local.answer(refusal);
                continue;
            }
            match operation {
                Operation::Write(command) => self.write(command, Origin::Local(local), host),
                Operation::Query(query, mode) => self.query(Wanted::Query(query), mode, local),
                Operation::View(mode) => self.query(Wanted::View, mode, local),
                Operation::Feed { prefix, from, mode } => match from {
                    Some(_) => self.start_feed(prefix, from, local),
                    None => self.query(Wanted::Feed(prefix), mode, local),
                },
                Operation::Transfer(target) => self.order(&Order::Transfer(target), local, host),
                Operation::Snapshot => self.ask_for_snapshot(local),
                Operation::Change(change) => self.order(&Order::Change(change), local, host),
                Operation::Verify => self.order(&Order::Verify, local, host),
                Operation::Rebuild => self.rebuild(local, host),
                Operation::Status => local.answer_with(Outcome::Status(Box::new(self.status()))),
            }
        }
    }

    /// Why this node can't take the request at all.
    fn refusal(&self, operation: &Operation) -> Option<Reply> {
        if matches!(operation, Operation::Status | Operation::Rebuild) {
            return None;
        }
        if let Some(reply) = self.unfit() {
            return Some(reply);
        }
        if self.pending() >= self.options.max_pending {
            let text = format!(
                "{} requests wait on this node, its limits.max_pending; nothing was done, try again later",
                self.pending()
            );
            return Some(Reply::error(Code::Busy, text));
        }
        None
    }

    /// Why this node serves nothing.
    fn unfit(&self) -> Option<Reply> {
        if self.raft.is_removed() && !self.raft.is_leader() {
            let text = "this node was removed from its cluster and serves nothing; ask another node; nothing was done";
            return Some(Reply::error(Code::ClusterDown, text));
        }
        if self.waits_to_be_added() {
            let text = format!(
                "this node waits to be added to a cluster: run {} on a member; nothing was done",
                self.add_command(self.raft.id())
            );
            return Some(Reply::error(Code::ClusterDown, text));
        }
        if self.diverged_at.is_some() {
            let text = "the state of this node differs from the leader's, so it serves nothing; ask another \
                        node; nothing was done";
            return Some(Reply::error(Code::ClusterDown, text));
        }
        None
    }

    pub(super) fn pending(&self) -> usize {
        let orders = self.transfers.len() + self.changes.len() + self.verifications.len();
        self.waiters.len() + self.reads.len() + orders + self.compaction.waiting()
    }

    fn query(&mut self, wanted: Wanted, mode: ReadMode, local: Local) {
        let read = Read { wanted, local };
        match mode {
            ReadMode::Stale => self.answer_read(read),
            ReadMode::Quorum => self.reads.push(read),
            // Without a lease a quorum confirms the read, which is always right (Diss. 6.4).
            ReadMode::Lease => match self.raft.lease_read() {
                Some(index) => self.reads.push_confirmed(read, index, self.request_deadline()),
                None => self.reads.push(read),
            },
        }
    }

    fn answer_read(&self, read: Read) {
        match read.wanted {
            Wanted::Query(query) => read.local.answer(self.store.query(&query, self.now.wall_ms)),
            Wanted::View => read.local.answer_with(Outcome::View(Box::new(self.store.view()))),
            Wanted::Feed(prefix) => self.start_feed(prefix, None, read.local),
        }
    }

    fn start_feed(&self, prefix: Bytes, from: Option<u64>, local: Local) {
        // Also of a feed that has waited to begin.
        if let Some(refusal) = self.unfit() {
            return local.answer(refusal);
        }
        if self.raft.is_recovering() {
            let text = "this node fetches everything from the others again and feeds nothing until it has it; ask \
                        another node";
            return local.answer(Reply::error(Code::ClusterDown, text));
        }
        match self.feeds.start(prefix, from) {
            Ok(feed) => local.answer_with(Outcome::Feed(feed)),
            Err(error) => local.answer(Reply::Error(error)),
        }
    }

    /// Ends all change feeds; `why` goes before the advice.
    pub(super) fn end_feeds(&self, code: Code, why: &str) {
        let text = format!("{why}: the feed ends; resume it on another node");
        self.feeds.end(&Error {
            code,
            text: text.into(),
        });
    }

    /// A message of another node's core.
    pub fn on_message(&mut self, envelope: Envelope) {
        self.raft.step(envelope);
    }

    /// A connection with this peer has ended; `by_peer` if the peer's own kernel ended it.
    pub fn on_disconnected(&mut self, peer: NodeId, by_peer: bool) {
        if by_peer {
            self.raft.peer_closed(peer);
        }
    }

    /// The leader says what its state's hash is at an index.
    pub fn on_state_hash(&mut self, from: NodeId, index: Index, hash: u64) {
        if self.raft.leader() == Some(from) && !self.raft.is_leader() && !self.hashes.claimed(index, hash) {
            self.diverge(index);
        }
    }

    fn diverge(&mut self, index: Index) {
        if self.diverged_at.is_none() {
            tracing::error!(
                %index,
                "the state here differs from the leader's at this index: this node stops serving; keep a copy of \
                 its data folder and its log for analysis, and run RAFT REBUILD on it. If several nodes say so, it \
                 may be the leader that is wrong: see who differs from the most with RAFT VERIFY first",
            );
            self.diverged_at = Some(index);
            self.end_feeds(
                Code::ClusterDown,
                "the state of this node differs from the leader's",
            );
        }
    }

    /// The batch that the host was given is durable.
    pub fn on_persisted(&mut self) {
        self.raft.persisted();
    }

    /// So much is free on the disk.
    pub fn on_free_space(&mut self, bytes: u64) {
        self.free_space_bytes = bytes;
    }

    /// Does what there is to do. `true` if there is more: call again, after looking at new inputs.
    ///
    /// # Errors
    /// If a committed entry can't be read. The node must stop.
    pub fn work(&mut self, host: &mut impl Host<CallId = C>) -> Result<bool, UnreadableEntry> {
        self.raft.tick(self.now.ticks);
        self.hasten_forwarded();
        self.give_up_overdue(host);
        self.do_chores(host);
        self.retry_parked(host);
        if let Some(ticket) = self.reads.start_batch(self.request_deadline()) {
            self.raft.read(ticket);
        }
        let Ready {
            messages,
            batch,
            committed,
            reads,
            chunks_to_send,
            chunks_to_store,
            recovered,
            recovering,
        } = self.raft.ready();
        if recovered {
            host.clear_recovering();
        }
        if recovering {
            host.mark_rebuild();
        }
        let more = !committed.is_empty();
        for envelope in messages {
            host.send(envelope);
        }
        if let Some(batch) = batch {
            host.persist(batch);
        }
        chunks_to_send
            .into_iter()
            .for_each(|chunk| host.send_chunk(chunk));
        chunks_to_store
            .into_iter()
            .for_each(|chunk| host.store_chunk(chunk));
        for entry in committed {
            self.apply(entry, host)?;
        }
        self.feeds.tell();
        for ready in reads {
            self.reads.confirmed(ready);
        }
        for read in self.reads.take_ready(Index(self.store.applied())) {
            self.answer_read(read);
        }
        self.settle_transfers(host);
        self.advance_changes(host);
        self.settle_verifications(host);
        self.follow_membership(host);
        self.notice_removal();
        let more_to_drop = self.compact(host);
        Ok(more || more_to_drop)
    }

    pub(super) fn request_deadline(&self) -> Ticks {
        self.now.ticks.after(self.options.request_timeout_ms)
    }

    fn apply(&mut self, entry: Entry, host: &mut impl Host<CallId = C>) -> Result<(), UnreadableEntry> {
        let index = entry.id.index;
        self.chores.applied_in = entry.id.term;
        let reply = match entry.payload {
            Payload::Command(bytes) => {
                let (time_ms, command) = kv::decode_entry(bytes).map_err(|error| UnreadableEntry {
                    index,
                    reason: error.to_string(),
                })?;
                let time_ms = mutant::pick(Mutant::LocalTimeApplied, time_ms, self.now.wall_ms);
                let reply = self.store.apply(index.0, time_ms, &command);
                self.applied_own(&command, entry.id.term, index, host);
                self.feeds.record(&mut self.store);
                if let Some(garbage) = self.store.take_garbage() {
                    host.discard(garbage);
                }
                Some(reply)
            }
            // A membership is in force since it was appended; see `members`.
            Payload::Noop | Payload::Membership(_) => {
                self.store.advance(index.0);
                self.feeds.record(&mut self.store);
                None
            }
        };
        if !self.hashes.applied(index, self.store.hash()) {
            self.diverge(index);
        }
        let (own, replaced) = self.waiters.applied(entry.id);
        for origin in replaced {
            let text = "another leader's entry took the place of this write; nothing was written";
            self.finish(origin, Reply::error(Code::TryAgain, text), host);
        }
        if let (Some(origin), Some(reply)) = (own, reply) {
            self.finish(origin, reply, host);
        }
        Ok(())
    }

    /// What follows from the commands that nodes give themselves.
    fn applied_own(&mut self, command: &Command, term: Term, index: Index, host: &mut impl Host<CallId = C>) {
        match command {
            Command::Bootstrap { .. } => {
                if let Some(cluster_id) = self.store.cluster_id() {
                    host.adopt_cluster_id(cluster_id);
                }
            }
            Command::ExpireDue { .. } => {
                self.chores
                    .expiring
                    .take_if(|expiring| *expiring == (term, index));
            }
            _ => {}
        }
    }

    /// What a leader does unasked, once it knows what is committed.
    fn do_chores(&mut self, host: &mut impl Host<CallId = C>) {
        if !self.raft.has_committed_in_term() {
            self.chores.expiring = None;
            return;
        }
        self.found_cluster(host);
        if self.chores.founded_in == Some(self.raft.term()) {
            self.bind_members();
        }
        self.renew_leases();
        self.expire_due();
        self.tell_hash(host);
    }

    /// A new cluster gets its identity and its membership as entries of the log.
    fn found_cluster(&mut self, host: &mut impl Host<CallId = C>) {
        let term = self.raft.term();
        if self.chores.founded_in == Some(term) {
            return;
        }
        let named = self.store.cluster_id().is_some() || {
            let cluster_id = host.mint_cluster_id();
            self.propose(&Command::Bootstrap { cluster_id }).is_ok()
        };
        if named && self.raft.record_membership().is_ok() {
            self.chores.founded_in = Some(term);
        }
    }

    /// A new leader starts all leases anew before it lets any end: nobody could renew one while there was no leader,
    /// and this clock may be ahead of the one before. That is decided once an entry of its own is applied, behind all
    /// that earlier leaders have granted.
    fn renew_leases(&mut self) {
        let term = self.raft.term();
        if self.chores.renewed_in == Some(term) || self.chores.applied_in != term {
            return;
        }
        if self.store.leases_len() == 0 || self.propose(&Command::RenewLeases).is_ok() {
            self.chores.renewed_in = Some(term);
        }
    }

    /// Removes what has expired: expiry is an entry of the log (trap 3.48).
    fn expire_due(&mut self) {
        if self.next_expiry_at().is_none_or(|at| at > self.now.ticks) {
            return;
        }
        match self.propose(&Command::ExpireDue { limit: EXPIRE_LIMIT }) {
            Ok(id) => self.chores.expiring = Some((id.term, id.index)),
            Err(_) => self.chores.expire_not_before = self.now.ticks.after(EXPIRE_RETRY_MS),
        }
    }

    /// Tells the others what the state here hashes to, for them to compare. Also where nothing has changed: one that
    /// has just started has not heard it yet. A node whose state is known to differ claims nothing, or all the others
    /// would stop serving; it lets another one lead.
    fn tell_hash(&mut self, host: &mut impl Host<CallId = C>) {
        if self.chores.next_hash_at > self.now.ticks {
            return;
        }
        self.chores.next_hash_at = self.now.ticks.after(HASH_INTERVAL_MS);
        if self.diverged_at.is_some() {
            // Where there is no other voter, there is nobody to stop either.
            let _ = self.raft.transfer(None);
        } else {
            host.tell_state_hash(Index(self.store.applied()), self.store.hash());
        }
    }

    /// Requests whose time is up get the error that is true of them.
    fn give_up_overdue(&mut self, host: &mut impl Host<CallId = C>) {
        let now = self.now.ticks;
        while let Some(overdue) = self.waiters.take_overdue(now) {
            self.give_up(overdue, host);
        }
        if self.reads.deadline().is_some_and(|deadline| deadline <= now) {
            let (overdue, wanted) = self.reads.take_overdue(now);
            self.raft.forget_reads_below(wanted);
            let text = if self.raft.leader().is_some() {
                "no quorum confirmed the leader in time; nothing was read"
            } else {
                "no leader is known; nothing was read"
            };
            for read in overdue {
                read.local.answer(Reply::error(Code::ClusterDown, text));
            }
        }
    }

    fn give_up(&mut self, overdue: Overdue<C>, host: &mut impl Host<CallId = C>) {
        match overdue {
            Overdue::Proposed(origin) => self.finish(origin, unknown(), host),
            Overdue::Forwarded(sequence, forwarded) => {
                host.cancel(sequence);
                let reply = if is_write(&forwarded.order) {
                    unknown()
                } else {
                    unknown_order()
                };
                forwarded.local.answer(reply);
            }
            Overdue::Parked(parked) => {
                let text = if self.raft.leader().is_some() {
                    "the leader could not be reached in time; nothing was written"
                } else {
                    "no leader is known; nothing was written"
                };
                self.finish(parked.origin, Reply::error(Code::ClusterDown, text), host);
            }
        }
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.raft.is_leader()
    }

    /// The core, to be looked at.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The last applied index, and what the state there hashes to.
    pub fn applied(&self) -> (Index, u64) {
        (Index(self.store.applied()), self.store.hash())
    }

    /// Whether no request waits for its outcome.
    pub fn is_idle(&self) -> bool {
        self.pending() == 0
    }

    /// The node stops: everything that still waits gets its answer.
    pub fn stop(&mut self, host: &mut impl Host<CallId = C>) {
        for waiting in self.waiters.take_all() {
            self.give_up(waiting, host);
        }
        for read in self.reads.take_all() {
            let text = "the node is shutting down; nothing was read";
            read.local.answer(Reply::error(Code::ReadOnly, text));
        }
        self.end_feeds(Code::ReadOnly, "the node is shutting down");
        self.compaction.stop();
        for transfer in std::mem::take(&mut self.transfers) {
            let text = "the node is shutting down before leadership was handed over";
            self.finish(transfer.origin, Reply::error(Code::TryAgain, text), host);
        }
        self.stop_changes(host);
        self.stop_verifications(host);
        for local in std::mem::take(&mut self.rebuilds) {
            let text = "the node is shutting down; STATUS says after its next start whether it fetches everything anew";
            local.answer(Reply::error(Code::UnknownResult, text));
        }
    }
}

fn unknown() -> Reply {
    let text = "the write was proposed, but its outcome did not arrive in time; read to see, or repeat it if \
                doing it twice is harmless";
    let code = mutant::pick(Mutant::UnknownIsTryAgain, Code::UnknownResult, Code::TryAgain);
    Reply::error(code, text)
}

/// What is said when a leader gave no answer to anything but a write.
pub(super) fn unknown_order() -> Reply {
    let text = "the leader was asked, but its answer did not arrive in time; RAFT MEMBERS and STATUS show what came of \
                it";
    Reply::error(Code::UnknownResult, text)
}
