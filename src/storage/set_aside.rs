//! Sets a log and its snapshots aside that can't be relied on, so that the node can fetch them from the others
//! again (trap 3.31).
//!
//! Before the first file moves, the identity says durably that the node is recovering, and what it knew of terms
//! and votes. So a crash at any moment leaves a node that claims to remember nothing of the log, rather than one
//! that has forgotten and does not know it.

use std::path::{Path, PathBuf};

use super::error::DiskError;
use super::fs::Fs;
use super::identity::{self, Identity, LogState};
use super::opening::{Folder, list};
use super::segment::Name;
use super::snapshot;
use crate::raft::HardState;

/// Where damaged logs and snapshots go, in the data folder.
const DIR_NAME: &str = "damaged";

fn dir<F: Fs>(folder: &Folder<'_, F>) -> PathBuf {
    folder.options.dir.join(DIR_NAME)
}

/// Notes that log and snapshots are to leave. What was set aside earlier is removed.
pub(super) fn begin<F: Fs>(
    folder: &Folder<'_, F>,
    identity: &mut Identity,
    known: HardState,
) -> Result<(), DiskError> {
    let (fs, aside) = (&folder.fs, dir(folder));
    fs.create_dir_all(&aside)
        .map_err(DiskError::with("create", &aside))?;
    remove(fs, &aside, is_data)?;
    identity.log = LogState::Leaving;
    identity.known = known;
    identity::write(fs, &folder.options.dir, identity)
}

/// Moves what is still there. When this returns, the folder has no log and no snapshots, and knows why.
pub(super) fn finish<F: Fs>(folder: &Folder<'_, F>, identity: &mut Identity) -> Result<(), DiskError> {
    let (fs, aside) = (&folder.fs, dir(folder));
    fs.create_dir_all(&aside)
        .map_err(DiskError::with("create", &aside))?;
    for from in [&folder.place.dir, &folder.snapshots_dir()] {
        remove_useless(fs, from)?;
        for name in list(fs, from)?.iter().filter(|name| is_data(name)) {
            let path = from.join(name);
            fs.rename(&path, &aside.join(name))
                .map_err(DiskError::with("move aside", &path))?;
        }
        fs.sync_dir(&aside).map_err(DiskError::with("sync", &aside))?;
        sync(fs, from)?;
    }
    identity.log = LogState::Refetching;
    identity::write(fs, &folder.options.dir, identity)
}

/// Removes log and snapshots of a node that is recovering: they are copies, and what was set aside first is more
/// worth keeping.
pub(super) fn discard<F: Fs>(
    folder: &Folder<'_, F>,
    identity: &mut Identity,
    known: HardState,
) -> Result<(), DiskError> {
    identity.known = known;
    identity::write(&folder.fs, &folder.options.dir, identity)?;
    for from in [&folder.snapshots_dir(), &folder.place.dir] {
        remove_useless(&folder.fs, from)?;
        remove(&folder.fs, from, is_data)?;
    }
    Ok(())
}

/// Removes spares and unfinished files. Spares first of all: they hold what segments with larger numbers than those
/// of a new log left in them.
pub(super) fn remove_useless<F: Fs>(fs: &F, dir: &Path) -> Result<(), DiskError> {
    remove(fs, dir, |name| {
        matches!(Name::parse(name), Some(Name::Spare(_) | Name::Temporary))
    })
}

fn is_data(name: &str) -> bool {
    matches!(Name::parse(name), Some(Name::Segment(_))) || snapshot::parse(name).is_some()
}

/// Removes the files with such names, durably.
fn remove<F: Fs>(fs: &F, dir: &Path, which: impl Fn(&str) -> bool) -> Result<(), DiskError> {
    for name in list(fs, dir)?.iter().filter(|name| which(name)) {
        let path = dir.join(name);
        fs.remove(&path).map_err(DiskError::with("remove", &path))?;
    }
    sync(fs, dir)
}

/// Makes a folder's names durable, where there is such a folder. Also without fsync: this happens once.
fn sync<F: Fs>(fs: &F, dir: &Path) -> Result<(), DiskError> {
    match fs.sync_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(DiskError::with("sync", dir)),
    }
}
