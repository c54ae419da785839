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
//! In the order of reading: `format` (bytes), `segment` (one file), `wal` (the sequence), `snapshot`,
//! `recovery` (what a crash may leave, told apart from damage), `spares`, `terms`, `identity`.
//! `docs/disk-format.md` has the whole story.
//!
//! Missing: repairing damage from the other nodes; a reserve of space for snapshots on a disk that is nearly
//! full (trap 3.34).

pub mod fs;

mod error;
mod format;
mod identity;
mod recovery;
mod segment;
mod snapshot;
mod spares;
mod terms;
mod wal;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod snapshot_tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::fs::{Fs, RealFs};
use self::recovery::Covered;
use self::segment::Name;
use self::wal::{Place, Wal};
use crate::raft::{Batch, Entry, EntryId, HardState, NodeId};

pub use self::error::{Damage, DiskError, OpenError, PersistError};
pub use self::identity::Identity;
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
        let dir = &options.dir;
        let place = Place {
            dir: dir.join(LOG_DIR_NAME),
            segment_size_bytes: segment_size(options.segment_size_bytes),
            fsync: options.fsync,
        };
        fs.create_dir_all(dir).map_err(DiskError::with("create", dir))?;
        let lock_path = dir.join(LOCK_NAME);
        let lock = fs.lock(&lock_path).map_err(DiskError::with("lock", &lock_path))?;
        let lock = lock.ok_or_else(|| OpenError::Locked { dir: dir.clone() })?;
        let (identity, version) = open_identity(&fs, options, &place, new_incarnation)?;
        let lock = Arc::new(lock);
        let folder = Folder {
            fs,
            options,
            place,
            lock,
        };
        let (storage, recovered) = folder.recover(identity)?;
        if version < format::VERSION {
            // Before anything that the older version cannot read is written.
            identity::write(&storage.fs, dir, &storage.identity)?;
        }
        storage.settle(recovered)
    }

    /// Makes a batch durable: all of it, or the node has to end. An entry whose index the log already holds
    /// replaces that one and all after it. An empty batch costs nothing.
    ///
    /// # Errors
    /// See [`PersistError`]. After any error from the disk every later call fails.
    pub fn persist(&mut self, batch: &Batch) -> Result<(), PersistError> {
        self.refuse_if_poisoned()?;
        if batch.is_empty() {
            return Ok(());
        }
        let done = self.wal.append(batch);
        self.remember_failure(done)
    }

    /// Marks the data folder, durably, to be emptied with the next start and fetched anew from the other nodes.
    ///
    /// # Errors
    /// As of [`Storage::persist`].
    pub fn mark_recovering(&mut self) -> Result<(), PersistError> {
        Err(PersistError::Refused(
            "rebuilding a data folder is not built yet".into(),
        ))
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
        let written = identity::write(&self.fs, &self.options.dir, &identity);
        self.remember_failure(written.map_err(PersistError::from))?;
        self.identity = identity;
        Ok(())
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
    /// As of [`Storage::persist`]; [`PersistError::Refused`] for one older than the newest (trap 3.42).
    pub fn install_snapshot(&mut self, committed: Committed) -> Result<bool, PersistError> {
        self.refuse_if_poisoned()?;
        let last = committed.last;
        if let Some(newest) = self.newest.filter(|newest| newest.index > last.index) {
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

    /// Does what a crash kept the last process from doing, and removes what it left.
    fn settle(mut self, mut recovered: Recovered<F>) -> Result<(Storage<F>, Recovered<F>), OpenError> {
        let snapshot = self.newest.filter(|last| !self.wal.holds(*last));
        if let Some(last) = snapshot {
            // It was being installed: the log was to begin anew after it.
            self.wal.restart_after(last).map_err(|error| match error {
                PersistError::Disk(error) => OpenError::Disk(error),
                other => Damage::new(&snapshot::path(&self.snapshots.dir, last), 0, other.to_string()).into(),
            })?;
            recovered.hard_state = self.wal.hard_state();
            recovered.entries.clear();
        }
        Ok((self, recovered))
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

/// A data folder that is locked and known to be this node's.
struct Folder<'a, F: Fs> {
    fs: F,
    options: &'a Options,
    place: Place,
    lock: Arc<F::Lock>,
}

impl<F: Fs> Folder<'_, F> {
    /// Reads everything, and makes the log's end ready to be written.
    fn recover(self, identity: Identity) -> Result<(Storage<F>, Recovered<F>), OpenError> {
        let Folder {
            fs,
            options,
            place,
            lock,
        } = self;
        let snapshots_dir = options.dir.join(SNAPSHOTS_DIR_NAME);
        let names = list(&fs, &snapshots_dir)?;
        if !names.is_empty() {
            // A name that a killed process gave may not be durable yet.
            segment::sync_dir(&fs, &snapshots_dir, options.fsync)?;
        }
        let found = snapshot::find(&fs, &snapshots_dir, &names)?;
        let covered = Covered {
            snapshot: found.newest.as_ref().map(|reader| reader.header().last),
            damaged: &found.damage,
        };
        let names = list(&fs, &place.dir)?;
        let ids = segment_ids(&names);
        let recovery = recovery::recover(&fs, &place.dir, &ids, &identity, covered, options.fsync)?;
        let newest = covered.snapshot;
        let pool = spares::find(&fs, &place.dir, place.segment_size_bytes, &names)?;
        fs.create_dir_all(&snapshots_dir)
            .map_err(DiskError::with("create", &snapshots_dir))?;
        for path in &found.leftovers {
            fs.remove(path).map_err(DiskError::with("remove", path))?;
        }
        let preparer = SparePreparer::new(fs.clone(), &place, pool.clone(), Arc::clone(&lock));
        let mut replay = recovery.replay;
        let owner = identity.clone();
        let wal = Wal::new(fs.clone(), place, owner, &mut replay, recovery.active, pool);
        let recovered = Recovered {
            identity: identity.clone(),
            hard_state: replay.hard_state,
            snapshot: found.newest,
            entries: replay.entries,
            damaged_snapshots: found.damage,
            torn: recovery.torn,
        };
        let storage = Storage {
            snapshots: Snapshots::new(fs.clone(), snapshots_dir, options.fsync, Arc::clone(&lock)),
            fs,
            options: options.clone(),
            identity,
            wal,
            preparer: Some(preparer),
            newest,
            known: found.known,
            damaged: found.damaged,
            poisoned: None,
            _lock: lock,
        };
        Ok((storage, recovered))
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

/// Reads who the folder belongs to, and in which format; makes log and identity where the folder is empty.
fn open_identity<F: Fs>(
    fs: &F,
    options: &Options,
    place: &Place,
    new_incarnation: u64,
) -> Result<(Identity, u32), OpenError> {
    let dir = &options.dir;
    let Some((mut identity, version)) = identity::read(fs, dir)? else {
        let made = initialise(fs, options, place, new_incarnation)?;
        return Ok((made, format::VERSION));
    };
    if identity.node_id != options.node_id {
        return Err(OpenError::WrongNode {
            dir: dir.clone(),
            found: identity.node_id,
            configured: options.node_id,
        });
    }
    if !options.fsync && !identity.fsync_was_off {
        identity.fsync_was_off = true;
        identity::write(fs, dir, &identity)?;
    }
    Ok((identity, version))
}

/// Makes the log first and the identity last: an identity without a log is damage, and a log without an
/// identity is a start that did not finish if nothing was ever written to it.
fn initialise<F: Fs>(
    fs: &F,
    options: &Options,
    place: &Place,
    new_incarnation: u64,
) -> Result<Identity, OpenError> {
    let names = list(fs, &place.dir)?;
    if !segment_ids(&names).is_empty() && !wal::is_unused(fs, &place.dir, &names)? {
        let found = "this file is missing, and the folder holds a log";
        return Err(Damage::new(&identity::path(&options.dir), 0, found).into());
    }
    let identity = Identity {
        cluster_id: None,
        node_id: options.node_id,
        incarnation: new_incarnation,
        fsync_was_off: !options.fsync,
    };
    fs.create_dir_all(&place.dir)
        .map_err(DiskError::with("create", &place.dir))?;
    for name in names.iter().filter(|name| Name::parse(name).is_some()) {
        let path = place.dir.join(name);
        fs.remove(&path).map_err(DiskError::with("remove", &path))?;
    }
    wal::create(fs, place, &identity)?;
    identity::write(fs, &options.dir, &identity)?;
    Ok(identity)
}

fn list<F: Fs>(fs: &F, dir: &Path) -> Result<Vec<String>, DiskError> {
    match fs.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(DiskError::with("list", dir)),
    }
}

/// The numbers of the segments in a sorted list of names.
fn segment_ids(names: &[String]) -> Vec<u32> {
    let mut ids: Vec<u32> = names
        .iter()
        .filter_map(|name| match Name::parse(name) {
            Some(Name::Segment(id)) => Some(id),
            _ => None,
        })
        .collect();
    ids.sort_unstable();
    ids
}

/// Whole pages, and at least what a header, a batch and a seal take.
fn segment_size(bytes: u64) -> u64 {
    bytes
        .max(format::SEGMENT_MIN_BYTES)
        .div_ceil(4096)
        .saturating_mul(4096)
}
