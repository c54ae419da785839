//! The pool of files that are ready to become the next segment.
//!
//! A segment is written through with zeroes before it is used, and that takes longer than an append may. So
//! one file is kept ready: [`SparePreparer`] makes it on a thread of its own. A segment that the log no
//! longer needs becomes a spare as it is: what it holds carries a smaller segment number and is told from new
//! data by that, so nothing has to be erased.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::error::DiskError;
use super::fs::{File, Fs};
use super::segment::{Name, sync, sync_dir};
use super::wal::Place;

/// How much is zeroed before the next sync: an append waits behind no more than this.
const STEP_BYTES: usize = 256 * 1024;

/// How many files are kept ready.
const WANTED: usize = 1;

/// How many files that were segments are kept at most, so that a log that grows and is cut again uses the
/// same ones.
const RECYCLED_MAX: usize = 4;

/// The spares of one log, shared between the log and the thread that makes them.
#[derive(Debug, Default)]
pub(super) struct Pool {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: Vec<PathBuf>,
    /// The number of the next spare, larger than that of any spare there is.
    next: u32,
    closed: bool,
}

impl Pool {
    /// A pool of these files.
    pub(super) fn new(ready: Vec<PathBuf>, next: u32) -> Arc<Pool> {
        let state = State {
            ready,
            next,
            closed: false,
        };
        Arc::new(Pool {
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file of its own for the caller, if one is ready.
    pub(super) fn take(&self) -> Option<PathBuf> {
        let taken = self.state().ready.pop();
        self.changed.notify_all();
        taken
    }

    /// A name that no spare has, nor an unfinished one.
    pub(super) fn reserve(&self, dir: &Path) -> PathBuf {
        let mut state = self.state();
        let number = state.next;
        state.next = number.saturating_add(1);
        Name::spare(dir, number)
    }

    /// A name for a segment that the log gives back: of a spare that is to be [`Pool::put`], or `None` where
    /// there are enough.
    pub(super) fn reserve_for_recycled(&self, dir: &Path) -> Option<PathBuf> {
        let enough = self.state().ready.len() >= RECYCLED_MAX;
        (!enough).then(|| self.reserve(dir))
    }

    /// Adds a spare, durable under its name.
    pub(super) fn put(&self, spare: PathBuf) {
        self.state().ready.push(spare);
        self.changed.notify_all();
    }

    /// Gives up all spares but as many as are kept ready anyway.
    pub(super) fn release(&self) -> Vec<PathBuf> {
        let mut state = self.state();
        let kept = WANTED.min(state.ready.len());
        state.ready.split_off(kept)
    }

    fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Ends the thread that makes spares, at its next step.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }
}

/// Makes the next segment's file ready before it is needed. One of these per log; to be run beside it.
pub struct SparePreparer<F: Fs> {
    fs: F,
    dir: PathBuf,
    size_bytes: u64,
    fsync: bool,
    pool: Arc<Pool>,
    /// The folder stays locked until nothing writes to it any more.
    _lock: Arc<F::Lock>,
}

impl<F: Fs> SparePreparer<F> {
    pub(super) fn new(fs: F, place: &Place, pool: Arc<Pool>, lock: Arc<F::Lock>) -> Self {
        SparePreparer {
            fs,
            dir: place.dir.clone(),
            size_bytes: place.segment_size_bytes,
            fsync: place.fsync,
            pool,
            _lock: lock,
        }
    }

    /// Makes spares whenever one is missing, until the storage is dropped. Blocks: for a thread of its own,
    /// to be joined before the folder is opened again in the same process: it is locked until then.
    ///
    /// # Errors
    /// A spare could not be made; what there was of it is gone again. The log is not harmed: it makes its
    /// own file, and waits for that, as long as no spare is ready. May be called again later.
    pub fn run(&self) -> Result<(), DiskError> {
        loop {
            {
                let state = self.pool.state();
                let lacks_none = |state: &mut State| !state.closed && state.ready.len() >= WANTED;
                let waited = self.pool.changed.wait_while(state, lacks_none);
                if waited.unwrap_or_else(PoisonError::into_inner).closed {
                    return Ok(());
                }
            }
            match self.prepare() {
                Err(_) if self.pool.is_closed() => return Ok(()),
                done => done?,
            };
        }
    }

    /// Makes one spare if one is missing, and says whether it did. Takes as long as a segment takes to write.
    ///
    /// # Errors
    /// As of [`SparePreparer::run`].
    pub fn prepare(&self) -> Result<bool, DiskError> {
        if self.pool.state().ready.len() >= WANTED {
            return Ok(false);
        }
        let path = make(
            &self.fs,
            &self.dir,
            self.size_bytes,
            self.fsync,
            STEP_BYTES,
            &self.pool,
        )?;
        self.pool.put(path);
        Ok(true)
    }
}

impl<F: Fs> std::fmt::Debug for SparePreparer<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SparePreparer")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// Makes a spare now, for one who cannot wait for the preparer. Not put into the pool.
pub(super) fn make_now<F: Fs>(
    fs: &F,
    dir: &Path,
    size_bytes: u64,
    fsync: bool,
    pool: &Pool,
) -> Result<PathBuf, DiskError> {
    // One sync at the end is the fastest; the caller waits for it anyway.
    let step = usize::try_from(size_bytes)
        .unwrap_or(STEP_BYTES)
        .min(4 * 1024 * 1024);
    make(fs, dir, size_bytes, fsync, step, pool)
}

fn make<F: Fs>(
    fs: &F,
    dir: &Path,
    size_bytes: u64,
    fsync: bool,
    step_bytes: usize,
    pool: &Pool,
) -> Result<PathBuf, DiskError> {
    let path = pool.reserve(dir);
    // Under a name that says it is unfinished: after a crash it is removed.
    let tmp = path.with_extension("tmp");
    let made = write_zeroes(fs, &tmp, size_bytes, fsync, step_bytes, pool).and_then(|()| {
        fs.rename(&tmp, &path).map_err(DiskError::with("rename", &tmp))?;
        sync_dir(fs, dir, fsync)
    });
    if let Err(error) = made {
        // Gives the space back on a full disk. If that fails too, the next start removes it.
        for name in [&tmp, &path] {
            let _ = fs.remove(name);
        }
        return Err(error);
    }
    Ok(path)
}

/// In steps with a sync after each, so that the disk's queue never holds much of it while the log's next
/// batch waits behind.
fn write_zeroes<F: Fs>(
    fs: &F,
    path: &Path,
    size_bytes: u64,
    fsync: bool,
    step_bytes: usize,
    pool: &Pool,
) -> Result<(), DiskError> {
    let mut file = fs.create(path).map_err(DiskError::with("create", path))?;
    let zeroes = vec![0; step_bytes];
    let mut at = 0;
    while at < size_bytes {
        if pool.is_closed() {
            let closed = io::Error::other("the storage was closed");
            return Err(DiskError::with("finish", path)(closed));
        }
        let step = usize::try_from(size_bytes - at).map_or(step_bytes, |rest| rest.min(step_bytes));
        let bytes = zeroes.get(..step).unwrap_or_default();
        file.write_at(bytes, at).map_err(DiskError::with("write", path))?;
        sync(&mut file, path, fsync)?;
        at += step as u64;
    }
    Ok(())
}

/// Finds the spares that an earlier process left and removes what is of no use.
pub(super) fn find<F: Fs>(
    fs: &F,
    dir: &Path,
    size_bytes: u64,
    names: &[String],
) -> Result<Arc<Pool>, DiskError> {
    let (mut ready, mut next) = (Vec::new(), 1);
    for name in names {
        let path = dir.join(name);
        let keep = match Name::parse(name) {
            Some(Name::Spare(number)) => {
                next = next.max(number.saturating_add(1));
                // Of another size: segment_size was changed.
                has_size(fs, &path, size_bytes).map_err(DiskError::with("read", &path))?
            }
            Some(Name::Temporary) => false,
            _ => continue,
        };
        if keep {
            ready.push(path);
        } else {
            fs.remove(&path).map_err(DiskError::with("remove", &path))?;
        }
    }
    Ok(Pool::new(ready, next))
}

fn has_size<F: Fs>(fs: &F, path: &Path, size_bytes: u64) -> io::Result<bool> {
    Ok(fs.open(path)?.size_bytes()? == size_bytes)
}

#[cfg(test)]
mod tests {
    use super::super::fs::SimFs;
    use super::*;

    fn preparer(fs: &SimFs) -> SparePreparer<SimFs> {
        let dir = Path::new("log");
        fs.create_dir_all(dir).unwrap();
        let place = Place {
            dir: dir.into(),
            segment_size_bytes: 1 << 20,
            fsync: true,
        };
        SparePreparer::new(fs.clone(), &place, Pool::new(Vec::new(), 1), Arc::new(()))
    }

    #[test]
    fn one_spare_is_kept_ready_and_found_again() {
        let fs = SimFs::new();
        let preparer = preparer(&fs);
        assert!(preparer.prepare().unwrap());
        assert!(!preparer.prepare().unwrap());
        fs.crash(1);
        let names = fs.list(Path::new("log")).unwrap();
        let pool = find(&fs, Path::new("log"), 1 << 20, &names).unwrap();
        let path = pool.take().unwrap();
        assert_eq!(fs.open(&path).unwrap().size_bytes().unwrap(), 1 << 20);
        assert!(pool.take().is_none());
    }

    #[test]
    fn an_unfinished_spare_or_one_of_another_size_is_removed() {
        let fs = SimFs::new();
        let preparer = preparer(&fs);
        preparer.prepare().unwrap();
        fs.create(Path::new("log/0000000007.tmp")).unwrap();
        let names = fs.list(Path::new("log")).unwrap();
        find(&fs, Path::new("log"), 1 << 21, &names).unwrap();
        assert!(fs.list(Path::new("log")).unwrap().is_empty());
    }

    #[test]
    fn a_full_disk_costs_the_spare_and_nothing_else() {
        let fs = SimFs::new();
        let preparer = preparer(&fs);
        fs.set_free_space_bytes(Some(700_000));
        assert!(preparer.prepare().is_err());
        assert!(fs.list(Path::new("log")).unwrap().is_empty());
        assert_eq!(fs.free_space_bytes(Path::new("log")).unwrap(), 700_000);
        fs.set_free_space_bytes(None);
        assert!(preparer.prepare().unwrap());
    }

    #[test]
    fn the_thread_fills_the_pool_and_ends_with_it() {
        let fs = SimFs::new();
        let preparer = preparer(&fs);
        let pool = Arc::clone(&preparer.pool);
        let thread = std::thread::spawn(move || preparer.run());
        for _ in 0..3 {
            let state = pool.state();
            let _ready = pool
                .changed
                .wait_while(state, |state| state.ready.is_empty())
                .unwrap();
            drop(_ready);
            assert!(pool.take().is_some());
        }
        pool.close();
        thread.join().unwrap().unwrap();
    }
}
