//! When a node takes a snapshot, how much of the log stays behind it, and what happens when a leader's snapshot takes
//! the place of its state (Raft 7).
//!
//! An own snapshot goes: the core says what the snapshot will say of itself, a thread writes a view of the state, the
//! log's disk takes notice of the file and drops its head, and then the core drops the log in memory, a piece in each
//! turn. What fails leaves everything as it was, and is tried again later (trap 3.42).

use super::host::{Host, SnapshotEvent};
use super::machine::Machine;
use super::transfer::Received;
use super::waiters::Local;
use crate::base::mutant::{self, Mutant};
use crate::kv::{Code, Reply};
use crate::raft::{EntryId, Index, SnapshotHeader, Ticks};
use crate::storage::Committed;

/// How long after a failure the next snapshot is tried unasked.
const RETRY_MS: u64 = 10_000;

/// So many entries leave the memory in one turn of the driver: less than a millisecond's work.
const DROP_MAX: u64 = 4096;

/// The snapshots of a node.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    /// Being written, or waiting for the log's disk.
    under_way: Option<UnderWay>,
    /// What the log in memory is still to lose: up to this index.
    dropping: Option<(SnapshotHeader, Index)>,
    /// The newest snapshot can't be sent: there is to be another one, whatever the log's size.
    is_lost: bool,
    /// Why the last one failed, and when to try again.
    failure: Option<String>,
    not_before: Ticks,
    /// Who waits for a snapshot.
    waiting: Vec<Waiting>,
    /// When the newest snapshot was written here; of one that was found at the start, the time of its last entry.
    written_ms: u64,
}

#[derive(Debug)]
struct UnderWay {
    header: SnapshotHeader,
    /// The log stays behind this index.
    keep_after: Index,
}

/// Somebody who asked for a snapshot of at least what was applied then.
#[derive(Debug)]
struct Waiting {
    upto: Index,
    deadline: Ticks,
    local: Local,
}

impl Compaction {
    /// There is a snapshot from this time, or none (0).
    pub fn new(written_ms: u64) -> Compaction {
        Compaction {
            written_ms,
            ..Compaction::default()
        }
    }

    /// When the newest snapshot was written, in milliseconds since 1970-01-01 UTC; 0 without one.
    pub fn written_ms(&self) -> u64 {
        self.written_ms
    }

    /// How many wait for a snapshot.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Why there is no newer snapshot, where the last one failed.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// There is a snapshot up to this index: those who wait for no later one are answered.
    fn there_is(&mut self, last: Index) {
        self.is_lost = false;
        self.failure = None;
        for waiting in self.waiting.extract_if(.., |waiting| waiting.upto <= last) {
            waiting.local.answer(Reply::Ok);
        }
    }

    fn answer_all(&mut self, reply: &Reply) {
        for waiting in self.waiting.drain(..) {
            waiting.local.answer(reply.clone());
        }
    }

    /// Those whose time is up: the snapshot goes on.
    fn give_up_overdue(&mut self, now: Ticks) {
        let overdue = self.waiting.extract_if(.., |waiting| waiting.deadline <= now);
        for waiting in overdue {
            let text = "the snapshot is still being written; it is done when snapshot_index of RAFT STATUS has moved";
            waiting.local.answer(Reply::error(Code::UnknownResult, text));
        }
    }

    /// The node stops.
    pub fn stop(&mut self) {
        let text = "the node is shutting down before the snapshot was written";
        self.answer_all(&Reply::error(Code::TryAgain, text));
    }
}

impl<C> Machine<C> {
    /// RAFT SNAPSHOT: a snapshot of at least what is applied here now.
    pub(super) fn ask_for_snapshot(&mut self, local: Local) {
        let upto = Index(self.store.applied());
        if self.raft.snapshot().last.index >= upto {
            return local.answer(Reply::Ok);
        }
        let deadline = self.request_deadline();
        let waiting = Waiting {
            upto,
            deadline,
            local,
        };
        self.compaction.waiting.push(waiting);
    }

    /// Whether there should be a snapshot, though nobody asks for it.
    fn snapshot_is_due(&self) -> bool {
        let log_bytes = self.raft.log_bytes_after_snapshot() as u64;
        // A state that is known to be wrong is not to outlive its log.
        self.diverged_at.is_none() && (self.compaction.is_lost || log_bytes > self.options.snapshot_log_bytes)
    }

    /// When there is something to do about snapshots, if nothing else happens.
    pub(super) fn snapshot_deadline(&self) -> Option<Ticks> {
        let compaction = &self.compaction;
        let is_late = compaction.under_way.is_none() && compaction.not_before > self.now.ticks;
        let retry = (is_late && self.snapshot_is_due()).then_some(compaction.not_before);
        let waiting = compaction.waiting.iter().map(|waiting| waiting.deadline);
        retry.into_iter().chain(waiting).min()
    }

    /// Takes a snapshot where there should be one, and lets go of the log behind the last one. Whether there is more to
    /// do.
    pub(super) fn compact(&mut self, host: &mut impl Host<CallId = C>) -> bool {
        self.compaction.give_up_overdue(self.now.ticks);
        let compaction = &self.compaction;
        let may_begin = compaction.not_before <= self.now.ticks;
        let is_wanted = !compaction.waiting.is_empty() || (may_begin && self.snapshot_is_due());
        if compaction.under_way.is_none() && is_wanted {
            self.begin_snapshot(host);
        }
        self.drop_some_of_the_log()
    }

    fn begin_snapshot(&mut self, host: &mut impl Host<CallId = C>) {
        let applied = Index(self.store.applied());
        let upto = mutant::pick(Mutant::SnapshotAhead, applied, self.raft.commit_index());
        let Some(header) = self.raft.snapshot_header(upto) else {
            self.compaction.not_before = self.now.ticks.after(RETRY_MS);
            let text = "no snapshot can be taken at the moment; try again later";
            return self.compaction.answer_all(&Reply::error(Code::TryAgain, text));
        };
        // For followers that lag a little. More may be committed than is applied.
        let kept_bytes = usize::try_from(self.options.snapshot_log_bytes / 4).unwrap_or(usize::MAX);
        let keep_after = self
            .raft
            .index_before_last_bytes(kept_bytes)
            .min(header.last.index);
        self.compaction.under_way = Some(UnderWay {
            header: header.clone(),
            keep_after,
        });
        host.take_snapshot(header, self.store.view());
    }

    fn drop_some_of_the_log(&mut self) -> bool {
        let Some((header, upto)) = &self.compaction.dropping else {
            return false;
        };
        let first = self.raft.log().first_index();
        let piece = Index(first.0 + DROP_MAX - 1).min(*upto);
        self.raft.snapshot_taken(header.clone(), piece);
        let more = piece < *upto && self.raft.log().first_index() > first;
        if !more {
            self.compaction.dropping = None;
        }
        more
    }

    /// Something has become of a snapshot.
    pub fn on_snapshot(&mut self, event: SnapshotEvent, host: &mut impl Host<CallId = C>) {
        match event {
            SnapshotEvent::Stored {
                to,
                request_id,
                response,
            } => self.raft.chunk_stored(to, request_id, response),
            SnapshotEvent::Received(received) => self.on_received(*received, host),
            SnapshotEvent::Lost(last) => {
                self.raft.snapshot_lost(last);
                self.compaction.is_lost |= last == self.raft.snapshot().last;
            }
            SnapshotEvent::Written { header, result } => self.on_written(&header, result, host),
            SnapshotEvent::Adopted(last) => self.on_adopted(last),
        }
    }

    fn on_written(
        &mut self,
        header: &SnapshotHeader,
        result: Result<Committed, String>,
        host: &mut impl Host<CallId = C>,
    ) {
        match result {
            Ok(committed) => {
                tracing::info!(last = %header.last, bytes = committed.size_bytes, "snapshot written");
                self.compaction.written_ms = self.now.wall_ms;
                let under_way = self.compaction.under_way.as_ref();
                let index = under_way.map_or(Index(0), |under_way| under_way.keep_after);
                let term = self.raft.log().term_at(index).unwrap_or_default();
                host.adopt_snapshot(committed, EntryId { term, index });
            }
            Err(reason) => {
                tracing::warn!(last = %header.last, reason, "no snapshot could be written; the log stays as it is");
                self.compaction.under_way = None;
                self.compaction.not_before = self.now.ticks.after(RETRY_MS);
                let text = format!("no snapshot could be written ({reason}); the log stays as it is");
                self.compaction.answer_all(&Reply::error(Code::Err, text));
                self.compaction.failure = Some(reason);
            }
        }
    }

    fn on_adopted(&mut self, last: EntryId) {
        let is_ours = |under_way: &mut UnderWay| under_way.header.last == last;
        if let Some(under_way) = self.compaction.under_way.take_if(is_ours) {
            self.compaction.dropping = Some((under_way.header, under_way.keep_after));
            // The core is told at once, whatever the log has to lose.
            self.drop_some_of_the_log();
        }
        self.compaction.there_is(last.index);
    }

    /// The leader's snapshot is here. It takes the place of the state, unless the log was faster.
    fn on_received(&mut self, received: Received, host: &mut impl Host<CallId = C>) {
        let Received {
            header,
            committed,
            store,
        } = received;
        let last = header.last;
        if !self.raft.install_snapshot(header) {
            host.discard(store.into());
            if self.raft.log().holds(last) {
                // The file is as good as one of this node's own.
                host.adopt_snapshot(committed, EntryId::default());
            }
            return;
        }
        tracing::info!(%last, keys = store.len(), "the leader's snapshot takes the place of the state here");
        let old = std::mem::replace(&mut self.store, store);
        host.discard(old.into());
        self.feeds.jump(last.index.0);
        self.hashes.jumped_to(last.index, self.store.hash());
        for origin in self.waiters.covered(last.index) {
            let text = "the write was proposed, and a snapshot came in place of the log that says what became of it; \
                        read to see, or repeat it if doing it twice is harmless";
            self.finish(origin, Reply::error(Code::UnknownResult, text), host);
        }
        self.compaction.dropping = None;
        self.compaction.written_ms = self.now.wall_ms;
        self.compaction.there_is(last.index);
        if let Some(cluster_id) = self.store.cluster_id() {
            host.adopt_cluster_id(cluster_id);
        }
    }
}
