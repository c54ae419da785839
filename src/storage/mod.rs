//! The log on disk: what a node promised to remember, and how it is found again after any crash.
//!
//! A [`Storage`] is the data folder of one node. [`Storage::open`] reads it and says what the node was; after
//! that [`Storage::persist`] makes one batch of term, vote and entries durable, in one write and one sync.
//! Everything blocks; one thread owns it. Terms, votes and entries are one serial log (trap 3.33), cut into
//! segments that are made full length before they are used, so that an append changes no metadata. The next
//! segment is made ready beside it, by a [`SparePreparer`] on another thread.
//!
//! **Snapshots** are files of their own, written beside the log by a [`SnapshotWriter`] on any thread. Taken
//! here: [`Storage::adopt_snapshot`], then [`Storage::drop_head`]. Sent by the leader:
//! [`Storage::install_snapshot`]. Either way the file is durable first and the log follows, so that every
//! crash leaves a snapshot and all that comes after it.
//!
//! **Damage.** Where log or snapshots are damaged, [`Storage::open`] refuses, and [`Storage::open_or_set_aside`]
//! moves them away and says that the node is recovering: it has forgotten what it acknowledged, and gets it from
//! the other nodes again. It stays so over restarts until [`Storage::clear_recovering`].
//!
//! In the order of reading: `format` (bytes), `segment` (one file), `wal` (the sequence), `snapshot`,
//! `recovery` (what a crash may leave, told apart from damage), `opening`, `set_aside`, `salvage`, `spares`,
//! `terms`, `identity`. `docs/disk-format.md` has the whole story.

pub mod fs;

mod error;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod identity;
mod opening;
mod recovery;
mod salvage;
mod segment;
mod set_aside;
mod snapshot;
mod spares;
mod terms;
mod wal;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod snapshot_tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use self::fs::{Fs, RealFs};
use self::opening::Folder;
use self::wal::Wal;
use crate::raft::{Batch, Entry, EntryId, HardState, Membership, NodeId};

pub use self::error::{Damage, DiskError, OpenError, PersistError};
pub use self::identity::{Identity, LogState};
pub use self::recovery::Torn;
pub use self::snapshot::{CHUNK_MAX_BYTES, Committed, SnapshotReader, SnapshotWriter, Snapshots};
pub use self::spares::SparePreparer;
pub use crate::wire::disk::SnapshotHeader;

const LOCK_NAME: &str = "lock";
const LOG_DIR_NAME: &str = "log";
const SNAPSHOTS_DIR_NAME: &str = "snapshots";

/// How a data folder is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data folder; made where it is missing.
    pub dir: PathBuf,
    /// Whose it is.
    pub node_id: NodeId,
    /// The length of a segment of the log: rounded up to 4 KiB, and at least 8 KiB. May change between
    /// starts.
    pub segment_size_bytes: u64,
    /// Whether a batch is durable before [`Storage::persist`] returns. Without it a power failure loses
    /// acknowledged writes or damages the log; the identity then says so for ever (trap 3.32).
    pub fsync: bool,
}

/// What a data folder holds.
#[derive(Debug)]
pub struct Recovered<F: Fs = RealFs> {
    /// Whose it is. `cluster_id` is `None` until [`Storage::set_cluster_id`].
    pub identity: Identity,
    /// The latest term and vote; the default for a new folder.
    pub hard_state: HardState,
    /// The newest snapshot, ready to be read; every byte of it has been checked once.
    pub snapshot: Option<SnapshotReader<F>>,
    /// The log after the snapshot, or the whole one: indexes without holes from the snapshot's, or 0, on.
    /// Terms never fall, and none is above `hard_state.term`.
    pub entries: Vec<Entry>,
    /// Newer snapshots that are damaged: nothing is lost, for `snapshot` and `entries` cover all, but the
    /// disk is not to be trusted, and that is worth a line in the log.
    pub damaged_snapshots: Vec<Damage>,
    /// The batch that a crash interrupted, where it did: dropped, and worth a line in the log.
    pub torn: Option<Torn>,
    /// Whether the node has lost what it acknowledged, or is to replace it, and has not yet got it back from the
    /// others: until [`Storage::clear_recovering`] it must not vote, and what it acknowledges must not be counted.
    pub recovering: bool,
    /// The damage for which log and snapshots were set aside just now: worth a line in the log.
    pub set_aside: Option<Damage>,
}

/// The data folder of one node, locked.
pub struct Storage<F: Fs = RealFs> {
    fs: F,
    options: Options,
    identity: Identity,
    wal: Wal<F>,
    preparer: Option<SparePreparer<F>>,
    snapshots: Snapshots<F>,
    /// The newest snapshot that is whole.
    newest: Option<EntryId>,
    /// All snapshots that there are, by index, but for damaged ones.
    known: Vec<EntryId>,
    /// Those.
    damaged: Vec<EntryId>,
    /// Why nothing more is accepted.
    poisoned: Option<String>,
    _lock: Arc<F::Lock>,
}

impl<F: Fs> Storage<F> {
    /// Opens a data folder, or makes it where there is none: then `new_incarnation`, a random number, becomes
    /// its incarnation. The log's entries are read into memory.
    ///
    /// # Errors
    /// [`OpenError`]: the process ends with its text. Nothing was changed unless it is
    /// [`OpenError::Disk`], and then only as far as a crash at that moment would have.
    pub fn open(
        fs: F,
        options: &Options,
        new_incarnation: u64,
    ) -> Result<(Storage<F>, Recovered<F>), OpenError> {
        Storage::open_or_set_aside(fs, options, new_incarnation, |_| false)
    }

    /// As [`Storage::open`]; but where log or snapshots are damaged and the cluster has other voters to fetch them
    /// from again, they are moved into the folder `damaged`, in the place of what was moved there before, and the
    /// folder opens empty and [`Recovered::recovering`] (trap 3.31). It keeps its identity and the highest term and
    /// the vote that can be read; where that vote can't be known, it counts as given. `has_others` is asked when
    /// there is damage, with the latest membership that can still be read of it.
    ///
    /// # Errors
    /// As of [`Storage::open`]. Damage of the identity is always one.
    pub fn open_or_set_aside(
        fs: F,
        options: &Options,
        new_incarnation: u64,
        has_others: impl FnOnce(Option<&Membership>) -> bool,
    ) -> Result<(Storage<F>, Recovered<F>), OpenError> {
        Folder::lock(fs, options)?.open(new_incarnation, has_others)
    }

    /// Makes a batch durable: all of it, or the node has to end. An entry whose index the log already holds
    /// replaces that one and all after it. An empty batch costs nothing.
    ///
    /// Where the batch installs a snapshot, that comes first, as [`Storage::install_snapshot`] does it: its file
    /// must have been committed.
    ///
    /// # Errors
    /// See [`PersistError`]. After any error from the disk every later call fails.
    pub fn persist(&mut self, batch: &Batch) -> Result<(), PersistError> {
        self.refuse_if_poisoned()?;
        if let Some(last) = batch.install {
            let file = self.snapshots.open(last).map_err(|error| match error {
                OpenError::Disk(error) if error.error.kind() != io::ErrorKind::NotFound => error.into(),
                other => PersistError::Refused(format!("a snapshot up to entry {last} to install: {other}")),
            });
            let size_bytes = match file {
                Ok(file) => file.size_bytes(),
                Err(error) => return Err(self.failed(error)),
            };
            self.install_snapshot(Committed { last, size_bytes })?;
        }
        if batch.hard_state.is_none() && batch.entries.is_empty() {
            return Ok(());
        }
        let done = self.wal.append(batch);
        self.remember_failure(done)
    }

    /// Notes durably that log and snapshots are to be set aside at the next start, and fetched from the others again
    /// (RAFT REBUILD). Whatever happens from now on, the node is [`Recovered::recovering`] then. The caller makes
    /// sure that there are others.
    ///
    /// # Errors
    /// As of [`Storage::persist`].
    pub fn mark_recovering(&mut self) -> Result<(), PersistError> {
        let identity = Identity {
            log: LogState::Rejected,
            ..self.identity.clone()
        };
        self.replace_identity(identity)
    }

    /// Notes durably that the node has got back all that it ever acknowledged: the next start is not
    /// [`Recovered::recovering`]. Nothing where it was not; [`Storage::mark_recovering`] stays.
    ///
    /// # Errors
    /// As of [`Storage::persist`].
    pub fn clear_recovering(&mut self) -> Result<(), PersistError> {
        if self.identity.log != LogState::Refetching {
            return self.refuse_if_poisoned();
        }
        let identity = Identity {
            log: LogState::Whole,
            known: HardState::default(),
            ..self.identity.clone()
        };
        self.replace_identity(identity)
    }

    /// Writes down the cluster that this node belongs to, durably. Saying the same again changes nothing.
    ///
    /// # Errors
    /// As of [`Storage::persist`]; [`PersistError::Refused`] when the folder belongs to another cluster.
    pub fn set_cluster_id(&mut self, cluster_id: [u8; 16]) -> Result<(), PersistError> {
        self.refuse_if_poisoned()?;
        match self.identity.cluster_id {
            Some(known) if known == cluster_id => return Ok(()),
            Some(known) => {
                return Err(PersistError::Refused(format!(
                    "the data folder {} belongs to cluster {:032x}, not to {:032x}",
                    self.options.dir.display(),
                    u128::from_be_bytes(known),
                    u128::from_be_bytes(cluster_id)
                )));
            }
            None => {}
        }
        let identity = Identity {
            cluster_id: Some(cluster_id),
            ..self.identity.clone()
        };
        self.replace_identity(identity)
    }

    /// The folder of snapshots: to write one, on any thread, or to read one.
    pub fn snapshots(&self) -> Snapshots<F> {
        self.snapshots.clone()
    }

    /// Takes notice of a snapshot of this node's own state, which agrees with its log. The log stays as it
    /// is: see [`Storage::drop_head`].
    pub fn adopt_snapshot(&mut self, committed: Committed) {
        let last = committed.last;
        if self.newest.is_none_or(|newest| newest.index <= last.index) {
            self.newest = Some(last);
        }
        self.known.retain(|known| *known != last);
        self.damaged.retain(|damaged| *damaged != last);
        self.known.push(last);
        self.known.sort_by_key(|known| (known.index, known.term));
    }

    /// Takes notice of a snapshot that the leader sent (Raft figure 13). If the log holds the snapshot's last
    /// entry, it and what follows it stay; if not, nothing in the log counts any more, and it begins anew
    /// after that entry, durably. Says whether it did. A crash before that is completed at the next start.
    ///
    /// A term above the log's becomes the node's, without a vote.
    ///
    /// # Errors
    /// As of [`Storage::persist`]; [`PersistError::Refused`] for one older than the newest (trap 3.42), unless the
    /// log has not come to that one yet: then it was taken after this one was received.
    pub fn install_snapshot(&mut self, committed: Committed) -> Result<bool, PersistError> {
        self.refuse_if_poisoned()?;
        let last = committed.last;
        let newer = self.newest.filter(|newest| newest.index > last.index);
        if let Some(newest) = newer.filter(|newest| self.wal.holds(*newest)) {
            let text = format!("the snapshot up to entry {last}, after the one up to {newest}");
            return Err(PersistError::Refused(text));
        }
        let held = self.wal.holds(last);
        if !held {
            let done = self.wal.restart_after(last);
            self.remember_failure(done)?;
        }
        self.adopt_snapshot(committed);
        Ok(!held)
    }

    /// Drops the segments, from the first on, that hold nothing behind `upto`, which a snapshot must cover,
    /// and gives them to the pool of spares. Snapshots that the log does not reach back to any more become
    /// superfluous, and all but the two newest. What is to be removed is given back: a large file takes a
    /// while. One rename and one sync of the folder for each segment.
    ///
    /// # Errors
    /// As of [`Storage::persist`]; [`PersistError::Refused`] when no snapshot covers `upto`.
    pub fn drop_head(&mut self, upto: EntryId) -> Result<Superfluous<F>, PersistError> {
        self.refuse_if_poisoned()?;
        if self.newest.is_none_or(|newest| newest.index < upto.index) {
            let text = format!("dropping the log up to entry {upto}, which no snapshot covers");
            return Err(PersistError::Refused(text));
        }
        let dropped = self.wal.drop_head(upto.index).map_err(PersistError::from);
        let mut files = match dropped {
            Ok(files) => files,
            Err(error) => return Err(self.failed(error)),
        };
        let (begin, newest) = (self.wal.begin().index, self.newest.unwrap_or_default());
        let older = |known: &&EntryId| known.index >= begin && known.index < newest.index;
        let older = self.known.iter().rev().find(older).copied();
        let dir = &self.snapshots.dir;
        self.known.retain(|known| {
            let kept = *known == newest || Some(*known) == older;
            if !kept {
                files.push(snapshot::path(dir, *known));
            }
            kept
        });
        let damaged = self.damaged.drain(..);
        files.extend(damaged.map(|last| snapshot::path(dir, last)));
        Ok(Superfluous {
            fs: self.fs.clone(),
            files,
        })
    }

    /// Gives up the files that are kept to be used again by the log, but for the next one. They are what can be
    /// given to a snapshot that found no room ([`DiskError::is_full`]), so that the log behind it can be dropped and
    /// the disk has room again (trap 3.34).
    pub fn release_spares(&mut self) -> Superfluous<F> {
        Superfluous {
            fs: self.fs.clone(),
            files: self.wal.release_spares(),
        }
    }

    /// The last entry of the newest snapshot.
    pub fn newest_snapshot(&self) -> Option<EntryId> {
        self.newest
    }

    /// Whose folder this is, as it is on disk.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How much may still be written on the data folder's disk. Appends need room only when a new segment
    /// has to be made; a spare that is ready needs none.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn free_space_bytes(&self) -> Result<u64, DiskError> {
        let dir = &self.options.dir;
        self.fs
            .free_space_bytes(dir)
            .map_err(DiskError::with("read the free space of", dir))
    }

    /// What makes the next segment ready, to be run on a thread of its own; `None` from the second call on.
    /// Without it the log makes its segments itself, and an append waits for that now and then.
    pub fn take_preparer(&mut self) -> Option<SparePreparer<F>> {
        self.preparer.take()
    }

    fn replace_identity(&mut self, identity: Identity) -> Result<(), PersistError> {
        self.refuse_if_poisoned()?;
        let written = identity::write(&self.fs, &self.options.dir, &identity);
        self.remember_failure(written.map_err(PersistError::from))?;
        self.identity = identity;
        Ok(())
    }

    fn refuse_if_poisoned(&self) -> Result<(), PersistError> {
        match &self.poisoned {
            Some(why) => Err(PersistError::Poisoned(why.clone())),
            None => Ok(()),
        }
    }

    fn remember_failure(&mut self, done: Result<(), PersistError>) -> Result<(), PersistError> {
        done.map_err(|error| self.failed(error))
    }

    fn failed(&mut self, error: PersistError) -> PersistError {
        if let PersistError::Disk(error) = &error {
            self.poisoned = Some(error.to_string());
        }
        error
    }
}

/// Files that nothing needs any more.
#[must_use = "files that are not removed take space until the next start or the next snapshot"]
pub struct Superfluous<F: Fs = RealFs> {
    fs: F,
    files: Vec<PathBuf>,
}

impl<F: Fs> Superfluous<F> {
    /// Removes them. For a thread that nobody waits for.
    ///
    /// # Errors
    /// The first of the operating system's; no harm but the space.
    pub fn remove(self) -> Result<(), DiskError> {
        let mut result = Ok(());
        for path in self.files {
            match self.fs.remove(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound && result.is_ok() => {
                    result = Err(DiskError::with("remove", &path)(e));
                }
                _ => {}
            }
        }
        result
    }
}

impl<F: Fs> std::fmt::Debug for Superfluous<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Superfluous")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl<F: Fs> std::fmt::Debug for Storage<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage")
            .field("options", &self.options)
            .field("identity", &self.identity)
            .field("poisoned", &self.poisoned)
            .finish_non_exhaustive()
    }
}
