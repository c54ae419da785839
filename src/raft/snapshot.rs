//! Snapshots (Raft 7): the log behind one is dropped, and a follower that needs what was dropped gets the snapshot.
//!
//! The core knows what a snapshot covers and which chunk a follower wants next; the bytes are the driver's. The
//! leader's core asks for chunks to be sent (`Ready::chunks_to_send`), the follower's for chunks to be stored
//! (`Ready::chunks_to_store`).

use super::message::InstallSnapshotResponse;
use super::node::Raft;
use super::types::{EntryId, Index, NodeId, SnapshotHeader};

impl Raft {
    /// What a snapshot of the state after `applied` says of itself; `None` if the core does not know that entry any
    /// more, or not yet as committed.
    pub fn snapshot_header(&self, applied: Index) -> Option<SnapshotHeader> {
        let _ = applied;
        None
    }

    /// A snapshot of this server's own state is durable: the log in memory up to `keep_after` is dropped; at most up
    /// to the snapshot's last entry.
    pub fn snapshot_taken(&mut self, header: SnapshotHeader, keep_after: Index) {
        let _ = (header, keep_after);
    }

    /// The snapshot up to `last` can't be read for being sent: followers get a newer one, or none until there is one.
    pub fn snapshot_lost(&mut self, last: EntryId) {
        let _ = last;
    }

    /// The driver has stored a chunk of `chunks_to_store`, or knows already what comes next: tells the leader.
    pub fn chunk_stored(&mut self, to: NodeId, request_id: u64, response: InstallSnapshotResponse) {
        let _ = (to, request_id, response);
    }

    /// The leader's snapshot is here: durable as a file, and read into a state. `true`: it takes the place of the log
    /// up to its last entry, and the caller has to take its state over at once; a batch that says so follows, and when
    /// that is durable the leader is told. `false`: what is here is as new, and the snapshot is to be forgotten.
    #[must_use]
    pub fn install_snapshot(&mut self, header: SnapshotHeader) -> bool {
        let _ = header;
        false
    }
}
