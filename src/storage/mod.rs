//! The log on disk: what a node promised to remember, and how it is found again after any crash.
//!
//! A [`Storage`] is the data folder of one node. [`Storage::open`] reads it and says what the node was; after
//! that [`Storage::persist`] is all there is: it makes one batch of term, vote and entries durable, in one
//! write and one sync. Everything blocks; one thread owns it. Terms, votes and entries are one serial log
//! (trap 3.33), cut into segments that are made full length before they are used, so that an append changes
//! no metadata. The next segment is made ready beside it, by a [`SparePreparer`] on another thread.
//!
//! In the order of reading: `format` (bytes), `segment` (one file), `wal` (the sequence), `recovery` (what a
//! crash may leave, told apart from damage), `spares`, `identity`. `docs/disk-format.md` has the whole story.
//!
//! Missing: snapshots, and dropping the log's head behind them; repairing damage from the other nodes.

pub mod fs;

mod error;
mod format;
mod identity;
mod recovery;
mod segment;
mod spares;
mod wal;

#[cfg(test)]
mod crash_tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::fs::{Fs, RealFs};
use self::segment::Name;
use self::wal::{Place, Wal};
use crate::raft::{Batch, Entry, HardState, NodeId};

pub use self::error::{Damage, DiskError, OpenError, PersistError};
pub use self::identity::Identity;
pub use self::recovery::Torn;
pub use self::spares::SparePreparer;

const LOCK_NAME: &str = "lock";
const LOG_DIR_NAME: &str = "log";

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
pub struct Recovered {
    /// Whose it is. `cluster_id` is `None` until [`Storage::set_cluster_id`].
    pub identity: Identity,
    /// The latest term and vote; the default for a new folder.
    pub hard_state: HardState,
    /// The whole log: indexes 1, 2, 3, ... Terms never fall, and none is above `hard_state.term`.
    pub entries: Vec<Entry>,
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
    ) -> Result<(Storage<F>, Recovered), OpenError> {
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
        let identity = open_identity(&fs, options, &place, new_incarnation)?;

        let names = list(&fs, &place.dir)?;
        let recovery = recovery::recover(&fs, &place.dir, &segment_ids(&names), &identity, options.fsync)?;
        let pool = spares::find(&fs, &place.dir, place.segment_size_bytes, &names)?;
        let lock = Arc::new(lock);
        let preparer = SparePreparer::new(fs.clone(), &place, pool.clone(), Arc::clone(&lock));
        let wal = Wal::new(
            fs.clone(),
            place,
            identity.clone(),
            &recovery.replay,
            recovery.active,
            pool,
        );
        let recovered = Recovered {
            identity: identity.clone(),
            hard_state: recovery.replay.hard_state,
            entries: recovery.replay.entries,
            torn: recovery.torn,
        };
        let storage = Storage {
            fs,
            options: options.clone(),
            identity,
            wal,
            preparer: Some(preparer),
            poisoned: None,
            _lock: lock,
        };
        Ok((storage, recovered))
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
        if let Err(PersistError::Disk(error)) = &done {
            self.poisoned = Some(error.to_string());
        }
        done
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

/// Reads who the folder belongs to; makes log and identity where the folder is empty.
fn open_identity<F: Fs>(
    fs: &F,
    options: &Options,
    place: &Place,
    new_incarnation: u64,
) -> Result<Identity, OpenError> {
    let dir = &options.dir;
    let Some(mut identity) = identity::read(fs, dir)? else {
        return initialise(fs, options, place, new_incarnation);
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
    Ok(identity)
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
