//! Snapshots (Raft 7): the log behind one is dropped, and a follower that needs what was dropped gets the snapshot.
//!
//! The core knows what a snapshot covers and which chunk a follower wants next; the bytes are the driver's. The
//! leader's core asks for chunks to be sent (`Ready::chunks_to_send`), the follower's for chunks to be stored
//! (`Ready::chunks_to_store`). The driver stores them in order and answers each with the one that it wants next
//! ([`Raft::chunk_stored`]), so a transfer goes on where it was, whatever was lost. When the last one is stored and
//! the whole is durable and read, the driver offers it ([`Raft::install_snapshot`]): log, memberships and commit index
//! change in that moment, and the disk follows with the next batch (`Batch::install`).

use super::message::{Envelope, InstallSnapshot, InstallSnapshotResponse, Message};
use super::node::{Raft, Role};
use super::progress::{Progress, State};
use super::ready::Needs;
use super::types::{EntryId, Index, NodeId, SnapshotHeader};
use crate::base::mutant::{self, Mutant};

/// Chunks on their way between the core and the driver.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// Bounded by the window of each follower.
    pub to_send: Vec<Envelope>,
    /// Bounded by [`CHUNKS_TO_STORE_MAX`].
    pub to_store: Vec<Envelope>,
}

/// So many chunks may wait for the driver: more than an honest leader has under way. What is dropped is sent again.
const CHUNKS_TO_STORE_MAX: usize = 16;

/// A follower that was silent for so many election timeouts is not waited for with compaction.
const PATIENCE_TIMEOUTS: u64 = 3;

impl Raft {
    /// What a snapshot of the state after `applied` says of itself; `None` if the core does not know that entry any
    /// more, or not yet as committed.
    pub fn snapshot_header(&self, applied: Index) -> Option<SnapshotHeader> {
        if applied == Index(0) || applied > self.commit_index {
            return None;
        }
        let term = self.log.term_at(applied)?;
        let upto = mutant::pick(Mutant::SnapshotOfLaterMembership, applied, self.log.last().index);
        let (membership_index, membership) = self.memberships.at(upto)?;
        Some(SnapshotHeader {
            last: EntryId { term, index: applied },
            membership: membership.clone(),
            membership_index,
        })
    }

    /// The newest snapshot: of this server's own state, or the leader's; `last` is 0@0 where there is none.
    pub fn snapshot(&self) -> &SnapshotHeader {
        &self.snapshot
    }

    /// What the log takes in memory, in bytes.
    pub fn log_bytes(&self) -> usize {
        self.log.size_bytes_held()
    }

    /// The size of what is committed after the newest snapshot: how much of the log another one would replace.
    pub fn log_bytes_after_snapshot(&self) -> usize {
        self.log.size_bytes(self.snapshot.last.index, self.commit_index)
    }

    /// Whether nothing more may be appended until a snapshot is taken.
    pub(super) fn log_is_full(&self) -> bool {
        self.log.size_bytes(Index(0), self.commit_index) > self.options.max_log_bytes
    }

    /// The last index at which the log after it, as far as committed, is at least `bytes` long; for the `keep_after`
    /// of [`Raft::snapshot_taken`].
    pub fn index_before_last_bytes(&self, bytes: usize) -> Index {
        self.log.index_before_last_bytes(self.commit_index, bytes)
    }

    /// A snapshot of this server's own state is durable: the log in memory up to `keep_after` is dropped; at most up
    /// to the snapshot's last entry. One that is older than the newest changes nothing but that.
    pub fn snapshot_taken(&mut self, header: SnapshotHeader, keep_after: Index) {
        let last = header.last;
        if last.index > self.handed_index || !self.log.holds(last) {
            tracing::error!(%last, commit_index = %self.commit_index, "a snapshot of what was not applied; ignored");
            return;
        }
        if last.index >= self.snapshot.last.index {
            self.snapshot = header;
            self.snapshot_is_lost = false;
        }
        // What was applied need not be on this disk yet: the log keeps what is still to be written.
        let written = mutant::pick(Mutant::UnwrittenDropped, self.durability.log_handed(), last.index);
        let upto = last.index.min(keep_after).min(written);
        self.log.compact(upto.min(self.needed_after_snapshots()));
    }

    /// A follower that is being sent a snapshot needs the log after it, as long as there is room: or the next snapshot
    /// would make the one before useless, and a follower of a busy cluster would never arrive.
    fn needed_after_snapshots(&self) -> Index {
        let all = Index(u64::MAX);
        let Role::Leader(leader) = &self.role else {
            return all;
        };
        if self.log.size_bytes_held() > self.options.max_log_bytes / 2 {
            return all;
        }
        let patience_ms = PATIENCE_TIMEOUTS * self.options.election_timeout_ms;
        let answers = |progress: &&Progress| self.now.since(progress.last_answer) < patience_ms;
        let sending = leader
            .progress
            .values()
            .filter(answers)
            .filter_map(Progress::sending);
        sending.map(|sending| sending.last().index).min().unwrap_or(all)
    }

    /// The snapshot up to `last` can't be read for being sent: followers get a newer one, or none until there is one.
    pub fn snapshot_lost(&mut self, last: EntryId) {
        self.snapshot_is_lost |= self.snapshot.last == last;
        if let Role::Leader(leader) = &mut self.role {
            for progress in leader.progress.values_mut() {
                if progress.sending().is_some_and(|sending| sending.last() == last) {
                    progress.probe_from(progress.next_index);
                }
            }
        }
    }

    /// Whether a snapshot is needed whatever the size of the log: the newest one can't be read, and followers may be
    /// waiting for what it covers. One of the same state will do.
    pub fn wants_snapshot(&self) -> bool {
        self.snapshot_is_lost
    }

    /// Whether this follower gets entries or, because what it needs next is not in the log, the snapshot (trap 3.20).
    pub(super) fn choose_log_or_snapshot(&mut self, peer: NodeId) {
        let (base, last_index) = (self.log.base().index, self.log.last().index);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(progress) = leader.progress.get_mut(&peer) else {
            return;
        };
        progress.end_snapshot(base);
        progress.leave_snapshot_before(base);
        let is_cut_off = progress.next_index <= base
            && progress.may_send(self.options.window, usize::MAX)
            && progress.lacks(last_index);
        if is_cut_off && !self.snapshot_is_lost && self.snapshot.last.index >= base {
            tracing::info!(%peer, last = %self.snapshot.last, "sending the snapshot");
            progress.send_snapshot(self.snapshot.clone(), self.now);
        }
    }

    /// Asks the driver to send one chunk, if there is one to send and room for it.
    pub(super) fn send_chunk(&mut self, peer: NodeId) -> bool {
        let Role::Leader(leader) = &mut self.role else {
            return false;
        };
        let Some(progress) = leader.progress.get_mut(&peer) else {
            return false;
        };
        let (session, now) = (progress.session, self.now);
        let State::Snapshot(sending) = &mut progress.state else {
            return false;
        };
        let Some(chunk) = sending.take_chunk(now) else {
            return false;
        };
        let request = InstallSnapshot {
            session,
            header: sending.header.clone(),
            chunk,
            data: bytes::Bytes::new(),
            done: false,
        };
        let envelope = self.envelope(peer, 0, Message::InstallSnapshot(request));
        self.chunks.to_send.push(envelope);
        true
    }

    /// A chunk of the leader's snapshot. What this server has anyway it need not store.
    pub(super) fn on_install_snapshot(&mut self, from: NodeId, request_id: u64, request: InstallSnapshot) {
        let last = request.header.last;
        if !self.hear_leader(from) || self.contradicts(last) {
            return;
        }
        if let Role::Follower(follower) = &mut self.role {
            follower.snapshot_request = (request.session, request_id);
        }
        if last.index <= self.commit_index || self.log.term_at(last.index) == Some(last.term) {
            // Committed here or in the log: then all before is as at the leader, for whom it is committed.
            self.learn_commit_index(last.index, last.index);
            self.tell_installed(last);
        } else if self.chunks.to_store.len() < CHUNKS_TO_STORE_MAX {
            let envelope = self.envelope(from, request_id, Message::InstallSnapshot(request));
            self.chunks.to_store.push(Envelope {
                from,
                to: self.options.id,
                ..envelope
            });
        }
    }

    /// Whether a snapshot up to `last` can't be one of this log, because something else is committed here, or because
    /// nobody can have written that entry yet (trap 3.42).
    fn contradicts(&self, last: EntryId) -> bool {
        let committed = self.log.term_at(self.commit_index).unwrap_or_default();
        let here = self.log.term_at(last.index).unwrap_or(last.term);
        let contradicts = match last.index <= self.commit_index {
            true => here != last.term,
            false => last.term < committed || last.term > self.hard_state.term,
        };
        if contradicts || last.index == Index(0) {
            tracing::error!(%last, commit_index = %self.commit_index, "a snapshot of another log; ignored");
            return true;
        }
        false
    }

    /// Tells the leader that everything up to `last` is here, as soon as it is durable.
    fn tell_installed(&mut self, last: EntryId) {
        let Role::Follower(follower) = &self.role else {
            return;
        };
        let (Some(leader), (session, request_id)) = (follower.leader, follower.snapshot_request) else {
            return;
        };
        let response = InstallSnapshotResponse {
            session,
            last,
            next_chunk: 0,
            complete: true,
            installed: true,
        };
        let envelope = self.envelope(leader, request_id, Message::InstallSnapshotResponse(response));
        self.durability
            .send_when_durable(Needs::Log(last.index), envelope);
    }

    /// The driver has stored a chunk of `chunks_to_store`, or knows already what comes next: tells the leader.
    pub fn chunk_stored(&mut self, to: NodeId, request_id: u64, response: InstallSnapshotResponse) {
        let response = InstallSnapshotResponse {
            installed: false,
            ..response
        };
        self.send(to, request_id, Message::InstallSnapshotResponse(response));
    }

    /// The leader's snapshot is here: durable as a file, and read into a state. `true`: it takes the place of the log
    /// up to its last entry, and the caller has to take its state over at once; a batch that says so follows, and when
    /// that is durable the leader is told. `false`: what is here is as new, and the snapshot is to be forgotten.
    #[must_use]
    pub fn install_snapshot(&mut self, header: SnapshotHeader) -> bool {
        let last = header.last;
        if self.contradicts(last) {
            return false;
        }
        let is_old = last.index <= self.commit_index && !mutant::is(Mutant::OldSnapshotInstalled);
        if matches!(self.role, Role::Leader(_)) || is_old {
            self.tell_installed_if_committed(last);
            return false;
        }
        let was_committed = self.commit_index;
        let log_stays = self.log.install(last);
        tracing::info!(%last, %was_committed, log_stays, "snapshot installed");
        self.durability.installs(last, log_stays, was_committed);
        self.memberships.install(&header, log_stays);
        self.snapshot = header;
        self.snapshot_is_lost = false;
        self.commit_index = last.index;
        self.handed_index = last.index;
        self.learn_commit_index(last.index, last.index);
        self.tell_installed(last);
        true
    }

    fn tell_installed_if_committed(&mut self, last: EntryId) {
        if last.index <= self.commit_index {
            self.tell_installed(last);
        }
    }

    pub(super) fn on_install_snapshot_response(&mut self, from: NodeId, response: InstallSnapshotResponse) {
        let (now, last_index) = (self.now, self.log.last().index);
        let Some(progress) = self.answering(from, response.session) else {
            return;
        };
        if response.installed && response.last.index <= last_index {
            // True of every snapshot that was sent in this session, whichever is being sent now.
            progress.holds_up_to(response.last.index);
            self.followed_up(from);
        } else if let Some(sending) = progress.sending_mut()
            && sending.last() == response.last
            && !response.installed
        {
            sending.wants(response.next_chunk, response.complete, now);
        }
    }

    /// The follower holds more than was known.
    fn followed_up(&mut self, peer: NodeId) {
        self.choose_log_or_snapshot(peer);
        self.advance_commit_index();
        self.continue_transfer();
    }
}
