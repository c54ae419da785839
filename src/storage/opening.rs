//! Opens a data folder: whose it is, what is in it, and what to do where that is damaged.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Damage, DiskError, OpenError, PersistError};
use super::format;
use super::fs::Fs;
use super::identity::{self, Identity, LogState};
use super::recovery::{self, Covered};
use super::salvage::{self, Salvaged};
use super::segment::{self, Name};
use super::set_aside;
use super::snapshot::{self, Snapshots};
use super::spares::{self, SparePreparer};
use super::wal::{self, Place, Wal};
use super::{LOCK_NAME, LOG_DIR_NAME, Options, Recovered, SNAPSHOTS_DIR_NAME, Storage};
use crate::raft::{Batch, HardState, Membership};

/// A data folder that is locked.
pub(super) struct Folder<'a, F: Fs> {
    pub(super) fs: F,
    pub(super) options: &'a Options,
    pub(super) place: Place,
    lock: Arc<F::Lock>,
}

type Opened<F> = (Storage<F>, Recovered<F>);

impl<'a, F: Fs> Folder<'a, F> {
    pub(super) fn lock(fs: F, options: &'a Options) -> Result<Folder<'a, F>, OpenError> {
        let dir = &options.dir;
        fs.create_dir_all(dir).map_err(DiskError::with("create", dir))?;
        let lock_path = dir.join(LOCK_NAME);
        let lock = fs.lock(&lock_path).map_err(DiskError::with("lock", &lock_path))?;
        let lock = lock.ok_or_else(|| OpenError::Locked { dir: dir.clone() })?;
        let place = Place {
            dir: dir.join(LOG_DIR_NAME),
            segment_size_bytes: segment_size(options.segment_size_bytes),
            fsync: options.fsync,
        };
        Ok(Folder {
            fs,
            options,
            place,
            lock: Arc::new(lock),
        })
    }

    /// The folder of the snapshots.
    pub(super) fn snapshots_dir(&self) -> PathBuf {
        self.options.dir.join(SNAPSHOTS_DIR_NAME)
    }

    /// Opens the folder; goes on with what an earlier start began. Damage is set aside where there are others to
    /// fetch from again, as `has_others` says, or where nothing here counts anyway.
    pub(super) fn open(
        &self,
        new_incarnation: u64,
        has_others: impl FnOnce(Option<&Membership>) -> bool,
    ) -> Result<Opened<F>, OpenError> {
        let (mut identity, version) = self.open_identity(new_incarnation)?;
        match identity.log {
            LogState::Rejected => {
                let known = match self.recover_and_settle(&identity, version) {
                    Err(OpenError::Damage(_)) => self.salvage(&identity)?.known,
                    opened => opened?.1.hard_state,
                };
                set_aside::begin(self, &mut identity, known)?;
                set_aside::finish(self, &mut identity)?;
            }
            LogState::Leaving => set_aside::finish(self, &mut identity)?,
            LogState::Whole | LogState::Refetching => {}
        }
        if identity.log == LogState::Refetching {
            self.begin_log(&identity)?;
        }
        let damage = match self.recover_and_settle(&identity, version) {
            Err(OpenError::Damage(damage)) => damage,
            opened => return opened,
        };
        let salvaged = self.salvage(&identity)?;
        if identity.log == LogState::Refetching {
            set_aside::discard(self, &mut identity, salvaged.known)?;
        } else if has_others(salvaged.membership.as_ref()) {
            set_aside::begin(self, &mut identity, salvaged.known)?;
            set_aside::finish(self, &mut identity)?;
        } else {
            return Err(damage.into());
        }
        self.begin_log(&identity)?;
        let (storage, mut recovered) = self.recover_and_settle(&identity, format::VERSION)?;
        recovered.set_aside = Some(damage);
        Ok((storage, recovered))
    }

    fn recover_and_settle(&self, identity: &Identity, version: u32) -> Result<Opened<F>, OpenError> {
        let (storage, recovered) = self.recover(identity.clone())?;
        if version < format::VERSION {
            // Before anything that the older version cannot read is written.
            identity::write(&self.fs, &self.options.dir, identity)?;
        }
        storage.settle(recovered)
    }

    /// What can be known of a damaged log's term and vote.
    fn salvage(&self, identity: &Identity) -> Result<Salvaged, DiskError> {
        let mut salvaged = salvage::read(&self.fs, &self.place.dir, &self.snapshots_dir(), identity)?;
        salvaged.know(identity.known);
        // The vote of that term may have been in what is damaged: it counts as given, to nobody else.
        salvaged.know(HardState {
            term: salvaged.known.term,
            vote: Some(identity.node_id),
        });
        Ok(salvaged)
    }

    /// Makes a log where there is none, because it was set aside.
    fn begin_log(&self, identity: &Identity) -> Result<(), OpenError> {
        let dir = &self.place.dir;
        if segment_ids(&list(&self.fs, dir)?).is_empty() {
            self.fs
                .create_dir_all(dir)
                .map_err(DiskError::with("create", dir))?;
            set_aside::remove_useless(&self.fs, dir)?;
            wal::create(&self.fs, &self.place, identity)?;
        }
        Ok(())
    }

    /// Reads everything, and makes the log's end ready to be written.
    fn recover(&self, identity: Identity) -> Result<Opened<F>, OpenError> {
        let Folder {
            fs,
            options,
            place,
            lock,
        } = self;
        let snapshots_dir = self.snapshots_dir();
        let names = list(fs, &snapshots_dir)?;
        if !names.is_empty() {
            // A name that a killed process gave may not be durable yet.
            segment::sync_dir(fs, &snapshots_dir, options.fsync)?;
        }
        let found = snapshot::find(fs, &snapshots_dir, &names)?;
        let covered = Covered {
            snapshot: found.newest.as_ref().map(|reader| reader.header().last),
            damaged: &found.damage,
        };
        let names = list(fs, &place.dir)?;
        let ids = segment_ids(&names);
        let recovery = recovery::recover(fs, &place.dir, &ids, &identity, covered, options.fsync)?;
        let newest = covered.snapshot;
        let pool = spares::find(fs, &place.dir, place.segment_size_bytes, &names)?;
        fs.create_dir_all(&snapshots_dir)
            .map_err(DiskError::with("create", &snapshots_dir))?;
        for path in &found.leftovers {
            fs.remove(path).map_err(DiskError::with("remove", path))?;
        }
        let preparer = SparePreparer::new(fs.clone(), place, pool.clone(), Arc::clone(lock));
        let mut replay = recovery.replay;
        let owner = identity.clone();
        let (active, place) = (recovery.active, place.clone());
        let wal = Wal::new(fs.clone(), place, owner, &mut replay, active, pool);
        let recovered = Recovered {
            recovering: identity.log != LogState::Whole,
            identity: identity.clone(),
            hard_state: replay.hard_state,
            snapshot: found.newest,
            entries: replay.entries,
            damaged_snapshots: found.damage,
            torn: recovery.torn,
            set_aside: None,
        };
        let storage = Storage {
            snapshots: Snapshots::new(fs.clone(), snapshots_dir, options.fsync, Arc::clone(lock)),
            fs: fs.clone(),
            options: (*options).clone(),
            identity,
            wal,
            preparer: Some(preparer),
            newest,
            known: found.known,
            damaged: found.damaged,
            poisoned: None,
            _lock: Arc::clone(lock),
        };
        Ok((storage, recovered))
    }

    /// Reads who the folder belongs to, and in which format; makes log and identity where the folder is empty.
    fn open_identity(&self, new_incarnation: u64) -> Result<(Identity, u32), OpenError> {
        let dir = &self.options.dir;
        let Some((mut identity, version)) = identity::read(&self.fs, dir)? else {
            return Ok((self.initialise(new_incarnation)?, format::VERSION));
        };
        if identity.node_id != self.options.node_id {
            return Err(OpenError::WrongNode {
                dir: dir.clone(),
                found: identity.node_id,
                configured: self.options.node_id,
            });
        }
        if !self.options.fsync && !identity.fsync_was_off {
            identity.fsync_was_off = true;
            identity::write(&self.fs, dir, &identity)?;
        }
        Ok((identity, version))
    }

    /// Makes the log first and the identity last: an identity without a log is damage, and a log without an
    /// identity is a start that did not finish if nothing was ever written to it.
    fn initialise(&self, new_incarnation: u64) -> Result<Identity, OpenError> {
        let Folder {
            fs, options, place, ..
        } = self;
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
            log: LogState::Whole,
            known: HardState::default(),
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
}

impl<F: Fs> Storage<F> {
    /// Does what a crash kept the last process from doing.
    fn settle(mut self, mut recovered: Recovered<F>) -> Result<Opened<F>, OpenError> {
        let snapshot = self.newest.filter(|last| !self.wal.holds(*last));
        if let Some(last) = snapshot {
            // It was being installed: the log was to begin anew after it.
            let path = snapshot::path(&self.snapshots.dir, last);
            self.wal.restart_after(last).map_err(at_start(&path))?;
            recovered.entries.clear();
        }
        let (found, known) = (self.wal.hard_state(), self.identity.known);
        if (known.term, known.vote.is_some()) > (found.term, found.vote.is_some()) {
            // The log that was set aside knew more than the one that took its place.
            let batch = Batch {
                hard_state: Some(known),
                ..Batch::default()
            };
            let path = identity::path(&self.options.dir);
            self.wal.append(&batch).map_err(at_start(&path))?;
        }
        recovered.hard_state = self.wal.hard_state();
        Ok((self, recovered))
    }
}

/// What a write that fails at the start means; one that is refused contradicts what this file says.
fn at_start(path: &Path) -> impl FnOnce(PersistError) -> OpenError {
    move |error| match error {
        PersistError::Disk(error) => OpenError::Disk(error),
        other => Damage::new(path, 0, other.to_string()).into(),
    }
}

pub(super) fn list<F: Fs>(fs: &F, dir: &Path) -> Result<Vec<String>, DiskError> {
    match fs.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(DiskError::with("list", dir)),
    }
}

/// The numbers of the segments in a list of names, in their order.
pub(super) fn segment_ids(names: &[String]) -> Vec<u32> {
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
