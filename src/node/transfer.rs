//! A snapshot on its way: written from a state, read in chunks for a follower, put together from a leader's chunks.
//!
//! These are values on storage's [`Fs`], and do nothing by themselves: the threads of `snapshots` run them on a
//! real disk, the simulation on one of its own. They take long, so they are kept away from the driver.
//!
//! A state that arrives is built while its chunks are stored, and the file gets its name only when the state is whole
//! and its hash is right: no start ever finds a snapshot that cannot be read. Both states are then in memory, the old
//! one and the one that comes; nothing else is.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::base::mutant::{self, Mutant};
use crate::kv::{Restore, RestoreError, Store, View};
use crate::raft::{EntryId, Envelope, Index, InstallSnapshot, InstallSnapshotResponse, Message, NodeId};
use crate::raft::{SnapshotHeader, Term};
use crate::storage::fs::{Fs, RealFs};
use crate::storage::{Committed, DiskError, OpenError, SnapshotReader, SnapshotWriter, Snapshots};

/// Why a snapshot was not written, or gives no state.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It could not be written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It could not be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its chunks are whole, and are no state.
    #[error("{0}; it was written by a mistake, or by a newer version")]
    State(#[from] RestoreError),
    /// Its chunks are the state of another index than its header says.
    #[error("the snapshot says that it ends with entry {last}, and its state is that of index {applied}")]
    OtherIndex {
        /// What the header says.
        last: EntryId,
        /// What the state says.
        applied: Index,
    },
    /// The node is shutting down.
    #[error("the node is shutting down")]
    Stopped,
}

/// Writes a snapshot of a state, durably. `go_on` is asked now and then; on `false` nothing is left.
///
/// # Errors
/// [`SnapshotError::Disk`], [`SnapshotError::Stopped`].
pub fn write_snapshot<F: Fs>(
    snapshots: &Snapshots<F>,
    header: &SnapshotHeader,
    view: &View,
    go_on: impl Fn() -> bool,
) -> Result<Committed, SnapshotError> {
    let mut writer = snapshots.begin(header)?;
    for chunk in view.chunks() {
        if !go_on() {
            return Err(SnapshotError::Stopped);
        }
        writer.write_chunk(&chunk)?;
    }
    Ok(writer.commit()?)
}

/// The state that a snapshot holds.
///
/// # Errors
/// [`SnapshotError`], but for `Stopped`.
pub fn read_snapshot<F: Fs>(mut reader: SnapshotReader<F>) -> Result<Store, SnapshotError> {
    let mut restore = Restore::new();
    while let Some(chunk) = reader.next_chunk()? {
        restore.push(chunk)?;
    }
    finish(restore, reader.header().last)
}

fn finish(restore: Restore, last: EntryId) -> Result<Store, SnapshotError> {
    let store = restore.finish()?;
    let applied = Index(store.applied());
    if applied != last.index {
        return Err(SnapshotError::OtherIndex { last, applied });
    }
    Ok(store)
}

/// The snapshots that followers are being sent: one open file for each follower, which reads on from chunk to chunk,
/// also when newer snapshots have made the file superfluous. Memory: a chunk for each follower, and the one that is
/// read.
#[derive(Debug)]
pub struct Outgoing<F: Fs = RealFs> {
    snapshots: Snapshots<F>,
    open: BTreeMap<NodeId, Place<F>>,
}

/// What became of an InstallSnapshot that was to be filled in.
#[derive(Debug)]
pub enum Filled {
    /// It is to be sent.
    Chunk(Envelope),
    /// The snapshot has no such chunk: there is nothing to be sent.
    PastTheEnd,
    /// The snapshot is gone or damaged.
    Lost(EntryId, OpenError),
}

/// A place in a snapshot's file, one chunk read ahead: the last one is to be known as the last.
#[derive(Debug)]
struct Place<F: Fs> {
    reader: SnapshotReader<F>,
    ahead: Option<Bytes>,
}

impl<F: Fs> Outgoing<F> {
    /// Nothing is being sent.
    pub fn new(snapshots: Snapshots<F>) -> Outgoing<F> {
        Outgoing {
            snapshots,
            open: BTreeMap::new(),
        }
    }

    /// Fills the chunk into an InstallSnapshot of the core.
    pub fn fill(&mut self, mut envelope: Envelope) -> Filled {
        let Message::InstallSnapshot(install) = &mut envelope.message else {
            return Filled::PastTheEnd;
        };
        match self.read(envelope.to, install.header.last, install.chunk) {
            Ok(Some((data, done))) => {
                (install.data, install.done) = (data, done);
                Filled::Chunk(envelope)
            }
            Ok(None) => Filled::PastTheEnd,
            Err(error) => Filled::Lost(install.header.last, error),
        }
    }

    /// The chunk of this number and whether it is the last one; `None` where there is none. After an error the file is
    /// closed.
    fn read(&mut self, to: NodeId, last: EntryId, chunk: u64) -> Result<Option<(Bytes, bool)>, OpenError> {
        let same = |place: &Place<F>| place.reader.header().last == last;
        let mut place = match self.open.remove(&to).filter(same) {
            Some(place) => place,
            None => Place {
                reader: self.snapshots.open(last)?,
                ahead: None,
            },
        };
        let read = place.read(chunk)?;
        self.open.insert(to, place);
        Ok(read)
    }

    /// Closes all files. What is asked for next is found again, if it is there.
    pub fn close(&mut self) {
        self.open.clear();
    }
}

impl<F: Fs> Place<F> {
    fn read(&mut self, chunk: u64) -> Result<Option<(Bytes, bool)>, OpenError> {
        if chunk < self.next_chunk() {
            self.ahead = None;
            self.reader.rewind()?;
        }
        while self.next_chunk() < chunk {
            if self.ahead.take().is_none() && !self.reader.skip_chunk()? {
                return Ok(None);
            }
        }
        let ahead = self.ahead.take();
        let Some(data) = ahead.map_or_else(|| self.reader.next_chunk(), |data| Ok(Some(data)))? else {
            return Ok(None);
        };
        self.ahead = self.reader.next_chunk()?;
        let done = self.ahead.is_none();
        Ok(Some((data, done)))
    }

    fn next_chunk(&self) -> u64 {
        self.reader.chunks() - u64::from(self.ahead.is_some())
    }
}

/// The snapshot that a leader sends: its file, and the state that is built along with it.
#[derive(Debug)]
pub struct Incoming<F: Fs = RealFs> {
    snapshots: Snapshots<F>,
    transfer: Option<Transfer<F>>,
}

/// What became of a chunk.
#[derive(Debug, Default)]
pub struct Stored {
    /// It was the first one of a snapshot.
    pub began: bool,
    /// What the leader is told.
    pub response: Option<InstallSnapshotResponse>,
    /// With the last chunk: the whole.
    pub received: Option<Received>,
}

/// A snapshot that has come whole: durable under its name, and a state.
#[derive(Debug)]
pub struct Received {
    /// What it says of itself.
    pub header: SnapshotHeader,
    /// Its file.
    pub committed: Committed,
    /// Its state.
    pub store: Store,
}

#[derive(Debug)]
struct Transfer<F: Fs> {
    /// The term of the leader that sends it.
    term: Term,
    header: SnapshotHeader,
    next_chunk: u64,
    /// `None` when it has come whole.
    parts: Option<Parts<F>>,
}

#[derive(Debug)]
struct Parts<F: Fs> {
    writer: SnapshotWriter<F>,
    restore: Restore,
}

impl<F: Fs> Incoming<F> {
    /// Nothing is being received.
    pub fn new(snapshots: Snapshots<F>) -> Incoming<F> {
        Incoming {
            snapshots,
            transfer: None,
        }
    }

    /// Takes a chunk of a leader of this term, if it is the one that comes next, and says what is wanted now.
    ///
    /// # Errors
    /// It can't be stored, or is no part of a state. What has come so far is forgotten, and the leader gets no
    /// answer: it asks again after a while, and then the transfer begins anew.
    pub fn store(&mut self, term: Term, install: InstallSnapshot) -> Result<Stored, SnapshotError> {
        let InstallSnapshot {
            session,
            header,
            chunk,
            data,
            done,
        } = install;
        let last = header.last;
        let response = |next_chunk, complete| InstallSnapshotResponse {
            session,
            last,
            next_chunk,
            complete,
            installed: false,
        };
        let mut began = false;
        match &mut self.transfer {
            // Of an earlier leader, or sent before what it sends now.
            Some(transfer) if transfer.is_before(term, last) => return Ok(Stored::default()),
            // Another leader's snapshot of the same entry has the same chunks.
            Some(transfer) if transfer.header == header => transfer.term = term,
            _ if chunk > 0 => {
                let response = Some(response(0, false));
                return Ok(Stored {
                    response,
                    ..Stored::default()
                });
            }
            _ => {
                self.begin(term, header)?;
                began = true;
            }
        }
        let received = match &self.transfer {
            Some(transfer) if transfer.parts.is_some() && transfer.is_next(chunk) => {
                self.take(&data, done)?
            }
            _ => None,
        };
        let transfer = self.transfer.as_ref();
        Ok(Stored {
            began,
            response: transfer.map(|transfer| response(transfer.next_chunk, transfer.parts.is_none())),
            received,
        })
    }

    /// Forgets what has come. The leader is asked for it from the beginning, should it go on.
    pub fn forget(&mut self) {
        self.transfer = None;
    }

    /// Whether a snapshot has come in part.
    pub fn is_receiving(&self) -> bool {
        self.transfer
            .as_ref()
            .is_some_and(|transfer| transfer.parts.is_some())
    }

    fn begin(&mut self, term: Term, header: SnapshotHeader) -> Result<(), SnapshotError> {
        // What was there takes room on the disk and in memory.
        self.transfer = None;
        let parts = Some(Parts {
            writer: self.snapshots.begin(&header)?,
            restore: Restore::new(),
        });
        self.transfer = Some(Transfer {
            term,
            header,
            next_chunk: 0,
            parts,
        });
        Ok(())
    }

    /// Takes the chunk that comes next. After an error nothing is left of the transfer.
    fn take(&mut self, data: &Bytes, done: bool) -> Result<Option<Received>, SnapshotError> {
        let Some(mut transfer) = self.transfer.take() else {
            return Ok(None);
        };
        let Some(mut parts) = transfer.parts.take() else {
            return Ok(None);
        };
        parts.restore.push(data.clone())?;
        parts.writer.write_chunk(data)?;
        transfer.next_chunk += 1;
        if !done {
            transfer.parts = Some(parts);
            self.transfer = Some(transfer);
            return Ok(None);
        }
        let header = transfer.header.clone();
        let store = finish(parts.restore, header.last)?;
        let committed = parts.writer.commit()?;
        self.transfer = Some(transfer);
        Ok(Some(Received {
            header,
            committed,
            store,
        }))
    }
}

impl<F: Fs> Transfer<F> {
    fn is_next(&self, chunk: u64) -> bool {
        chunk == self.next_chunk || mutant::is(Mutant::ChunkOutOfOrder)
    }

    /// Whether a chunk of this term and snapshot was sent before those of this transfer: a leader's snapshots only
    /// grow.
    fn is_before(&self, term: Term, last: EntryId) -> bool {
        term < self.term || (term == self.term && last.index < self.header.last.index)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::kv::Command;
    use crate::storage::fs::SimFs;
    use crate::storage::{Options, Storage};

    fn disk(fs: &SimFs) -> Storage<SimFs> {
        let options = Options {
            dir: PathBuf::from("data"),
            node_id: NodeId(1),
            segment_size_bytes: 8 << 10,
            fsync: true,
        };
        Storage::open(fs.clone(), &options, 7).unwrap().0
    }

    fn store(keys: u64) -> Store {
        let mut store = Store::new();
        for index in 1..=keys {
            let pairs = vec![(
                Bytes::from(format!("key {index}")),
                vec![index as u8; 50_000].into(),
            )];
            store.apply(index, 1, &Command::MultiSet { pairs });
        }
        store
    }

    fn header(index: u64) -> SnapshotHeader {
        SnapshotHeader {
            last: EntryId {
                term: Term(2),
                index: Index(index),
            },
            ..SnapshotHeader::default()
        }
    }

    fn request(index: u64, chunk: u64) -> InstallSnapshot {
        InstallSnapshot {
            session: 5,
            header: header(index),
            chunk,
            data: Bytes::new(),
            done: false,
        }
    }

    fn envelope(to: u64, install: InstallSnapshot) -> Envelope {
        Envelope {
            from: NodeId(1),
            to: NodeId(to),
            term: Term(3),
            request_id: 0,
            message: Message::InstallSnapshot(install),
        }
    }

    /// A leader's disk with a snapshot of so many keys, and what it sends of it.
    struct Leader {
        fs: SimFs,
        outgoing: Outgoing<SimFs>,
        _storage: Storage<SimFs>,
    }

    impl Leader {
        fn with(keys: u64) -> Leader {
            let fs = SimFs::new();
            let storage = disk(&fs);
            let _ =
                write_snapshot(&storage.snapshots(), &header(keys), &store(keys).view(), || true).unwrap();
            Leader {
                fs,
                outgoing: Outgoing::new(storage.snapshots()),
                _storage: storage,
            }
        }

        fn chunk(&mut self, to: u64, index: u64, chunk: u64) -> Option<InstallSnapshot> {
            match self.outgoing.fill(envelope(to, request(index, chunk))) {
                Filled::Chunk(Envelope {
                    message: Message::InstallSnapshot(install),
                    ..
                }) => Some(install),
                Filled::PastTheEnd => None,
                other => panic!("{other:?}"),
            }
        }

        fn all(&mut self, index: u64) -> Vec<InstallSnapshot> {
            (0..).map_while(|chunk| self.chunk(2, index, chunk)).collect()
        }
    }

    fn wanted(stored: &Stored) -> Option<(u64, bool)> {
        let response = stored.response?;
        assert!(!response.installed && response.session == 5);
        Some((response.next_chunk, response.complete))
    }

    #[test]
    fn chunks_come_in_any_order_that_is_asked_for() {
        let mut leader = Leader::with(10);
        let all = leader.all(10);
        let count = all.len() as u64;
        assert!(count >= 5);
        let done: Vec<bool> = all.iter().map(|install| install.done).collect();
        assert_eq!(done.iter().filter(|done| **done).count(), 1);
        assert_eq!(done.last(), Some(&true));
        for (to, chunk) in [
            (2, 3),
            (3, 0),
            (2, 4),
            (2, 2),
            (3, 1),
            (3, count - 1),
            (2, 2),
            (2, 2),
        ] {
            assert_eq!(
                leader.chunk(to, 10, chunk).as_ref(),
                all.get(chunk as usize),
                "{chunk} for {to}"
            );
        }
        assert_eq!(leader.chunk(3, 10, count + 5), None, "past the end");
        leader.outgoing.close();
        assert_eq!(leader.chunk(3, 10, 1), all.get(1).cloned());
    }

    #[test]
    fn a_snapshot_that_is_gone_or_damaged_is_lost() {
        let mut leader = Leader::with(10);
        let lost = |leader: &mut Leader, index| {
            let filled = leader.outgoing.fill(envelope(2, request(index, 1)));
            matches!(filled, Filled::Lost(last, _) if last == header(index).last)
        };
        assert!(lost(&mut leader, 11));
        let path = PathBuf::from("data/snapshots/00000000000000000010-00000000000000000002.snapshot");
        assert!(leader.fs.flip(&path, 1000, 4));
        assert!(lost(&mut leader, 10));
    }

    #[test]
    fn a_snapshot_is_put_together_whatever_comes_in_between() {
        let all = Leader::with(10).all(10);
        let fs = SimFs::new();
        let storage = disk(&fs);
        let mut incoming = Incoming::new(storage.snapshots());
        let last = all.len() as u64 - 1;
        assert_eq!(
            wanted(&incoming.store(Term(3), all[2].clone()).unwrap()),
            Some((0, false))
        );
        for (n, install) in all.iter().enumerate() {
            let n = n as u64;
            let mut ahead = install.clone();
            ahead.chunk += 1;
            let wants = if n == 0 { (0, false) } else { (n, false) };
            assert_eq!(wanted(&incoming.store(Term(3), ahead).unwrap()), Some(wants));
            // A chunk of an earlier leader, and of an earlier snapshot.
            if n > 0 {
                assert_eq!(wanted(&incoming.store(Term(2), install.clone()).unwrap()), None);
                assert_eq!(wanted(&incoming.store(Term(3), request(9, 0)).unwrap()), None);
            }
            let stored = incoming.store(Term(3), install.clone()).unwrap();
            assert_eq!(wanted(&stored), Some((n + 1, n == last)));
            assert_eq!(stored.received.is_some(), n == last);
            assert_eq!(incoming.is_receiving(), n < last);
            if let Some(received) = stored.received {
                assert_eq!(received.header, header(10));
                assert_eq!(received.store.hash(), store(10).hash());
                let reader = storage.snapshots().open(received.committed.last).unwrap();
                assert_eq!(read_snapshot(reader).unwrap().hash(), store(10).hash());
            }
            let again = incoming.store(Term(3), install.clone()).unwrap();
            assert_eq!(wanted(&again), Some((n + 1, n == last)));
            assert!(again.received.is_none(), "handed out once");
        }
    }

    #[test]
    fn the_next_leader_goes_on_with_the_same_snapshot_and_replaces_another() {
        let (all, newer) = (Leader::with(10).all(10), Leader::with(12).all(12));
        let fs = SimFs::new();
        let storage = disk(&fs);
        let mut incoming = Incoming::new(storage.snapshots());
        for install in &all[..3] {
            incoming.store(Term(3), install.clone()).unwrap();
        }
        assert_eq!(
            wanted(&incoming.store(Term(4), all[3].clone()).unwrap()),
            Some((4, false))
        );
        assert_eq!(
            wanted(&incoming.store(Term(5), newer[1].clone()).unwrap()),
            Some((0, false))
        );
        assert_eq!(
            wanted(&incoming.store(Term(5), newer[0].clone()).unwrap()),
            Some((1, false))
        );
        // A leader with an older snapshot, which is its newest.
        for (n, install) in all.iter().enumerate() {
            let stored = incoming.store(Term(6), install.clone()).unwrap();
            assert_eq!(wanted(&stored).map(|(next, _)| next), Some(n as u64 + 1));
        }
        incoming.forget();
        assert_eq!(
            wanted(&incoming.store(Term(6), all[1].clone()).unwrap()),
            Some((0, false))
        );
    }

    #[test]
    fn what_is_no_state_gets_no_name() {
        let all = Leader::with(10).all(10);
        let fs = SimFs::new();
        let storage = disk(&fs);
        let mut incoming = Incoming::new(storage.snapshots());
        for broken in 0..all.len() {
            for install in &all[..broken] {
                incoming.store(Term(3), install.clone()).unwrap();
            }
            let mut install = all[broken].clone();
            let mut data = install.data.to_vec();
            *data.last_mut().unwrap() ^= 1;
            install.data = data.into();
            let is_seen = incoming.store(Term(3), install.clone()).is_err()
                || (broken + 1..all.len()).any(|n| incoming.store(Term(3), all[n].clone()).is_err());
            assert!(is_seen, "chunk {broken}");
            assert_eq!(
                wanted(&incoming.store(Term(3), all[1].clone()).unwrap()),
                Some((0, false))
            );
            assert!(storage.snapshots().open(header(10).last).is_err());
        }
        let mut early = all[0].clone();
        early.done = true;
        assert!(incoming.store(Term(3), early).is_err(), "not all keys have come");
        let other = all.iter().cloned().map(|mut install| {
            install.header = header(11);
            install
        });
        let results: Vec<_> = other.map(|install| incoming.store(Term(3), install)).collect();
        assert!(matches!(
            results.last(),
            Some(Err(SnapshotError::OtherIndex { .. }))
        ));
        assert!(storage.snapshots().open(header(11).last).is_err());
    }

    #[test]
    fn a_full_disk_stops_a_transfer_and_it_begins_anew() {
        let all = Leader::with(10).all(10);
        let fs = SimFs::new();
        let storage = disk(&fs);
        let mut incoming = Incoming::new(storage.snapshots());
        fs.set_free_space_bytes(Some(10));
        let results: Vec<_> = all
            .iter()
            .map(|install| incoming.store(Term(3), install.clone()))
            .collect();
        assert!(results.iter().any(Result::is_err));
        assert!(results.iter().flatten().all(|stored| stored.received.is_none()));
        fs.set_free_space_bytes(None);
        let mut stored = all
            .iter()
            .map(|install| incoming.store(Term(3), install.clone()).unwrap());
        assert!(stored.any(|stored| stored.received.is_some()));
    }

    #[test]
    fn writing_stops_when_told_to_and_leaves_nothing() {
        let fs = SimFs::new();
        let storage = disk(&fs);
        let written = write_snapshot(&storage.snapshots(), &header(10), &store(10).view(), || false);
        assert!(matches!(written, Err(SnapshotError::Stopped)));
        assert!(storage.snapshots().open(header(10).last).is_err());
    }

    /// Trap 3.25: a chunk with its header is far from the limit of a frame, whatever the members' addresses are.
    #[test]
    fn the_largest_chunk_fits_into_a_frame() {
        const ROOM_FOR_THE_HEADER: usize = 64 * 1024;
        const { assert!(crate::kv::CHUNK_MAX_BYTES + ROOM_FOR_THE_HEADER <= crate::transport::FRAME_TARGET_BYTES) }
    }
}
