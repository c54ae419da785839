//! What the machine has done for it: the disk, the peers, the identity. In the simulation these are simulated.

use bytes::Bytes;

use super::transfer::Received;
use crate::kv::{Garbage, View};
use crate::raft::{
    Batch, EntryId, Envelope, Index, InstallSnapshotResponse, Membership, NodeId, SnapshotHeader, Ticks,
};
use crate::storage::Committed;

/// The effects of a [`Machine`](super::machine::Machine), none of which waits.
pub trait Host {
    /// Names a call of another node, to answer it by.
    type CallId;

    /// Sends a message of the core; it may be lost.
    fn send(&mut self, envelope: Envelope);

    /// Makes a batch durable; the machine is told when it is. One at a time.
    fn persist(&mut self, batch: Batch);

    /// Fills the chunk into an InstallSnapshot and sends it: see [`Outgoing`](super::Outgoing). May be lost.
    fn send_chunk(&mut self, envelope: Envelope);

    /// Stores the chunk of an InstallSnapshot: see [`Incoming`](super::Incoming). [`SnapshotEvent::Stored`] follows,
    /// and [`SnapshotEvent::Received`] after the last one. May be lost.
    fn store_chunk(&mut self, envelope: Envelope);

    /// Writes a snapshot of this state: see [`write_snapshot`](super::write_snapshot). [`SnapshotEvent::Written`]
    /// follows. One at a time.
    fn take_snapshot(&mut self, header: SnapshotHeader, view: View);

    /// Tells the log's disk of a snapshot, and to drop the log up to an entry, in turn with the batches.
    /// [`SnapshotEvent::Adopted`] follows.
    fn adopt_snapshot(&mut self, committed: Committed, drop_upto: EntryId);

    /// Looks how much is free on the disk; the machine is told.
    fn measure_free_space(&mut self);

    /// Drops a large state, or what a FLUSHALL has left of it, where it keeps nobody waiting.
    fn discard(&mut self, garbage: Garbage);

    /// Asks a node to carry out an order. Exactly one answer comes back under `sequence`, unless the machine
    /// stops waiting for it with `cancel`.
    fn call(&mut self, to: NodeId, sequence: u64, order: Bytes, deadline: Ticks);

    /// The answer to a call is no longer wanted.
    fn cancel(&mut self, sequence: u64);

    /// Answers another node's call.
    fn answer(&mut self, call: Self::CallId, reply: Bytes);

    /// Tells every other node the state's hash at an index.
    fn tell_state_hash(&mut self, index: Index, hash: u64);

    /// The latest membership of the log, and its entry's index: connections are kept with every server in its
    /// `addresses`, which may name former members that are still spoken with. It may be taken back for an earlier one.
    fn adopt_membership(&mut self, index: Index, membership: &Membership);

    /// Marks the data folder, durably, to be emptied with the next start and fetched anew; the machine is told.
    fn mark_rebuild(&mut self);

    /// Notes durably that what this node had lost is here again (trap 3.31).
    fn clear_recovering(&mut self);

    /// The cluster has this identity.
    fn adopt_cluster_id(&mut self, cluster_id: [u8; 16]);

    /// 128 random bits for the identity of a new cluster.
    fn mint_cluster_id(&mut self) -> [u8; 16];
}

/// What has become of a snapshot.
#[derive(Debug)]
pub enum SnapshotEvent {
    /// A leader's chunk was stored, or is not the one that is wanted.
    Stored {
        /// The leader.
        to: NodeId,
        /// Of the request.
        request_id: u64,
        /// What it is told.
        response: InstallSnapshotResponse,
    },
    /// A leader's snapshot has come whole.
    Received(Box<Received>),
    /// A snapshot that followers were being sent is gone or damaged.
    Lost(EntryId),
    /// This node's own snapshot is durable, or why it is not.
    Written {
        /// What it says of itself.
        header: SnapshotHeader,
        /// Its file, or a sentence.
        result: Result<Committed, String>,
    },
    /// The log's disk knows of the snapshot up to this entry.
    Adopted(EntryId),
}

/// What the driver knows of time when it calls the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// For timeouts: monotonic.
    pub ticks: Ticks,
    /// For entries: milliseconds since 1970-01-01 UTC, and may jump.
    pub wall_ms: u64,
}
