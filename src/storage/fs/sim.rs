//! A file system in memory that behaves as badly as a real one may.
//!
//! What was written and not synced can be read back, and a crash loses any part of it: each sector of 512
//! bytes on its own, so that a write may arrive with holes. Names not made durable by `sync_dir` go
//! likewise, the last ones first. A failed sync loses what it should have saved although it can still be
//! read, and the next sync says all is well: that is what Linux does (trap 3.29). Not simulated: folders
//! themselves, which are durable at once, and locks, which are always free.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{File, Fs};
use crate::base::rng::Rng;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// A simulated file system; clones are handles to the same one.
#[derive(Clone, Debug, Default)]
pub struct SimFs(Arc<Mutex<Disk>>);

/// An open simulated file. It fails after the crash or the death of the process that held it.
#[derive(Debug)]
pub struct SimFile {
    disk: Arc<Mutex<Disk>>,
    id: u64,
    boot: u64,
}

#[derive(Debug, Default)]
struct Disk {
    files: BTreeMap<u64, Content>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    unsynced_names: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    /// Grows when handles become invalid.
    boot: u64,
    /// Changes so far: writes, syncs, names.
    operations: u64,
    syncs: u64,
    power_fails_at: Option<u64>,
    powerless: bool,
    write_fails_at: Option<u64>,
    writes: u64,
    sync_fails_at: Option<u64>,
    free_space_bytes: Option<u64>,
}

#[derive(Debug, Default)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug)]
enum NameChange {
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl SimFs {
    /// An empty disk without bounds.
    pub fn new() -> SimFs {
        SimFs::default()
    }

    /// The power fails and comes back: all that was not synced is lost or not, as the seed decides.
    /// Every open file is dead. Injected failures are over.
    pub fn crash(&self, seed: u64) {
        let mut rng = Rng::new(seed);
        let mut disk = self.disk();
        disk.lose_names(&mut rng);
        for content in disk.files.values_mut() {
            content.lose(&mut rng);
        }
        disk.reboot();
    }

    /// The process dies and the system lives: nothing is lost, every open file is dead.
    pub fn kill_process(&self) {
        self.disk().reboot();
    }

    /// The power fails during the `n`-th change from now on (1 is the next): that one and all after it are
    /// errors, until [`SimFs::crash`].
    pub fn power_fails_at(&self, n: u64) {
        let mut disk = self.disk();
        disk.power_fails_at = Some(disk.operations + n);
    }

    /// The `n`-th write from now on (1 is the next) is an error, and half of its sectors are done.
    pub fn write_fails_at(&self, n: u64) {
        let mut disk = self.disk();
        disk.write_fails_at = Some(disk.writes + n);
    }

    /// The `n`-th sync of a file from now on (1 is the next) is an error and loses what it should have saved.
    pub fn sync_fails_at(&self, n: u64) {
        let mut disk = self.disk();
        disk.sync_fails_at = Some(disk.syncs + n);
    }

    /// How much files may still grow; `None` is no bound.
    pub fn set_free_space_bytes(&self, bytes: Option<u64>) {
        self.disk().free_space_bytes = bytes;
    }

    /// How many changes there were: writes, syncs of files and folders, and changes of names.
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// How many syncs of files there were.
    pub fn syncs(&self) -> u64 {
        self.disk().syncs
    }

    /// Inverts bits of one byte, on the disk and in memory: what a failing disk does. `false` when there is
    /// no such byte.
    pub fn flip(&self, path: &Path, offset: usize, bits: u8) -> bool {
        let mut disk = self.disk();
        let Some(content) = disk.content_at(path) else {
            return false;
        };
        let Content { seen, durable, .. } = content;
        for bytes in [seen, durable] {
            let Some(byte) = bytes.get_mut(offset) else {
                return false;
            };
            *byte ^= bits;
        }
        true
    }

    /// Inverts one bit, as [`SimFs::flip`] does, of one of the files that `which` picks; the same for the same state of
    /// `rng`. Says where it was; `None` when there is no byte in any of them.
    pub fn flip_bit(&self, rng: &mut Rng, which: impl Fn(&Path) -> bool) -> Option<(PathBuf, usize)> {
        let files: Vec<(PathBuf, usize)> = {
            let disk = self.disk();
            let size = |id| {
                disk.files
                    .get(id)
                    .map_or(0, |c| c.seen.len().min(c.durable.len()))
            };
            let sizes = disk.names.iter().map(|(path, id)| (path.clone(), size(id)));
            sizes.filter(|(path, size)| *size > 0 && which(path)).collect()
        };
        let chosen = usize::try_from(rng.below(files.len().max(1) as u64)).ok()?;
        let (path, size) = files.into_iter().nth(chosen)?;
        let offset = usize::try_from(rng.below(size as u64)).ok()?;
        self.flip(&path, offset, 1 << rng.below(8))
            .then_some((path, offset))
    }

    /// Cuts a file, on the disk and in memory. `false` when there is no such file.
    pub fn truncate(&self, path: &Path, size_bytes: usize) -> bool {
        let mut disk = self.disk();
        let Some(content) = disk.content_at(path) else {
            return false;
        };
        content.seen.truncate(size_bytes);
        content.durable.truncate(size_bytes);
        true
    }

    /// An independent copy of the disk as it is now.
    pub fn copy(&self) -> SimFs {
        let disk = self.disk();
        let copied = |content: &Content| Content {
            seen: content.seen.clone(),
            durable: content.durable.clone(),
            unsynced: content.unsynced.clone(),
        };
        let mut copy = Disk {
            files: disk.files.iter().map(|(&id, c)| (id, copied(c))).collect(),
            names: disk.names.clone(),
            durable_names: disk.durable_names.clone(),
            dirs: disk.dirs.clone(),
            ..Disk::default()
        };
        for change in &disk.unsynced_names {
            copy.unsynced_names.push(change.copied());
        }
        SimFs(Arc::new(Mutex::new(copy)))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, disk: &Disk, id: u64) -> SimFile {
        SimFile {
            disk: Arc::clone(&self.0),
            id,
            boot: disk.boot,
        }
    }
}

impl Disk {
    /// Counts a change. `Err` when the power fails during it: it is recorded as under way, and may or may
    /// not survive.
    fn operation(&mut self) -> io::Result<()> {
        if self.powerless {
            return Err(io::Error::other("simulated: no power"));
        }
        self.operations += 1;
        if self.power_fails_at == Some(self.operations) {
            self.powerless = true;
            return Err(io::Error::other("simulated: the power fails"));
        }
        Ok(())
    }

    fn content_at(&mut self, path: &Path) -> Option<&mut Content> {
        let id = *self.names.get(path)?;
        self.files.get_mut(&id)
    }

    fn change_name(&mut self, change: NameChange) -> io::Result<()> {
        if self.powerless {
            return self.operation();
        }
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
        self.operation()
    }

    fn sync_names(&mut self, dir: &Path) {
        let changes = std::mem::take(&mut self.unsynced_names);
        for change in changes {
            if change.dir() == dir {
                change.apply(&mut self.durable_names);
            } else {
                self.unsynced_names.push(change);
            }
        }
    }

    /// In each folder the first few changes survive: a journal keeps their order.
    fn lose_names(&mut self, rng: &mut Rng) {
        let changes = std::mem::take(&mut self.unsynced_names);
        let mut lost: BTreeSet<PathBuf> = BTreeSet::new();
        for change in changes {
            if lost.contains(change.dir()) || rng.one_in(3) {
                lost.insert(change.dir().to_path_buf());
            } else {
                change.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|id, _| named.contains(id));
    }

    fn reboot(&mut self) {
        self.boot += 1;
        self.powerless = false;
        self.power_fails_at = None;
        self.write_fails_at = None;
        self.sync_fails_at = None;
    }

    fn take_space(&mut self, bytes: u64) -> io::Result<()> {
        if let Some(free) = &mut self.free_space_bytes {
            *free = free
                .checked_sub(bytes)
                .ok_or_else(|| io::Error::from(io::ErrorKind::StorageFull))?;
        }
        Ok(())
    }
}

impl NameChange {
    fn dir(&self) -> &Path {
        let (NameChange::Create(path, _) | NameChange::Rename(_, path) | NameChange::Remove(path)) = self;
        path.parent().unwrap_or(Path::new(""))
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            NameChange::Create(path, id) => {
                names.insert(path.clone(), *id);
            }
            NameChange::Rename(from, to) => {
                if let Some(id) = names.remove(from) {
                    names.insert(to.clone(), id);
                }
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
        }
    }

    fn copied(&self) -> NameChange {
        match self {
            NameChange::Create(path, id) => NameChange::Create(path.clone(), *id),
            NameChange::Rename(from, to) => NameChange::Rename(from.clone(), to.clone()),
            NameChange::Remove(path) => NameChange::Remove(path.clone()),
        }
    }
}

impl Content {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        put(&mut self.seen, bytes, offset);
        self.unsynced.push((offset, bytes.to_vec()));
    }

    fn sync(&mut self) {
        for (offset, bytes) in self.unsynced.drain(..) {
            put(&mut self.durable, &bytes, offset);
        }
    }

    /// Of the unsynced writes, all, none, or any sectors survive.
    fn lose(&mut self, rng: &mut Rng) {
        let (keep, of) = match rng.below(6) {
            0 => (0, 1),
            1 => (1, 1),
            2 => (1, 10),
            3 => (9, 10),
            _ => (1, 2),
        };
        for (start, bytes) in std::mem::take(&mut self.unsynced) {
            let mut offset = start;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let in_sector = SECTOR_BYTES - offset % SECTOR_BYTES;
                let (sector, after) = rest.split_at(in_sector.min(rest.len()));
                if rng.below(of) < keep {
                    put(&mut self.durable, sector, offset);
                }
                offset += sector.len();
                rest = after;
            }
        }
        self.seen = self.durable.clone();
    }

    fn reread(&mut self) {
        self.seen = self.durable.clone();
        for (offset, bytes) in &self.unsynced {
            put(&mut self.seen, bytes, *offset);
        }
    }
}

/// Writes into a vector as into a file: it grows, with zeroes where nothing was written.
fn put(content: &mut Vec<u8>, bytes: &[u8], offset: usize) {
    let end = offset.saturating_add(bytes.len());
    if content.len() < end {
        content.resize(end, 0);
    }
    if let Some(target) = content.get_mut(offset..end) {
        target.copy_from_slice(bytes);
    }
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("{} is not there", path.display()),
    )
}

impl Fs for SimFs {
    type File = SimFile;
    type Lock = ();

    fn open(&self, path: &Path) -> io::Result<SimFile> {
        let disk = self.disk();
        let id = *disk.names.get(path).ok_or_else(|| not_found(path))?;
        Ok(self.handle(&disk, id))
    }

    fn create(&self, path: &Path) -> io::Result<SimFile> {
        let mut disk = self.disk();
        if disk.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = disk.files.keys().next_back().map_or(0, |last| last + 1);
        disk.files.insert(id, Content::default());
        disk.change_name(NameChange::Create(path.to_path_buf(), id))?;
        Ok(self.handle(&disk, id))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        if !disk.names.contains_key(from) {
            return Err(not_found(from));
        }
        disk.change_name(NameChange::Rename(from.to_path_buf(), to.to_path_buf()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let size = disk.content_at(path).ok_or_else(|| not_found(path))?.seen.len();
        if let Some(free) = &mut disk.free_space_bytes {
            *free = free.saturating_add(size as u64);
        }
        disk.change_name(NameChange::Remove(path.to_path_buf()))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.disk();
        if !disk.dirs.contains(dir) {
            return Err(not_found(dir));
        }
        let in_dir = disk.names.keys().filter(|path| path.parent() == Some(dir));
        let names = in_dir.filter_map(|path| path.file_name()?.to_str());
        let folders = disk.dirs.iter().filter(|path| path.parent() == Some(dir));
        let folders = folders.filter_map(|path| path.file_name()?.to_str());
        let mut all: Vec<String> = names.chain(folders).map(str::to_owned).collect();
        all.sort();
        Ok(all)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.operation()?;
        disk.sync_names(dir);
        Ok(())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        for folder in dir.ancestors().filter(|path| !path.as_os_str().is_empty()) {
            disk.dirs.insert(folder.to_path_buf());
        }
        Ok(())
    }

    fn free_space_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.disk().free_space_bytes.unwrap_or(u64::MAX))
    }

    fn lock(&self, _path: &Path) -> io::Result<Option<()>> {
        Ok(Some(()))
    }
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if disk.boot != self.boot {
            return Err(io::Error::other("simulated: opened by a process that is no more"));
        }
        act(&mut disk)
    }
}

fn content(disk: &mut Disk, id: u64) -> io::Result<&mut Content> {
    disk.files
        .get_mut(&id)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|disk| {
            let start = position(offset)?;
            let seen = &content(disk, self.id)?.seen;
            let bytes = seen.get(start..start.saturating_add(buf.len()));
            buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(|disk| {
            if disk.powerless {
                return disk.operation();
            }
            let offset = position(offset)?;
            disk.writes += 1;
            let fails = disk.write_fails_at == Some(disk.writes);
            let bytes = if fails {
                // Whole sectors, here too.
                let end = (offset + bytes.len() / 2) / SECTOR_BYTES * SECTOR_BYTES;
                bytes.get(..end.saturating_sub(offset)).unwrap_or_default()
            } else {
                bytes
            };
            let size = content(disk, self.id)?.seen.len();
            let growth = offset.saturating_add(bytes.len()).saturating_sub(size);
            disk.take_space(growth as u64)?;
            content(disk, self.id)?.write(bytes, offset);
            disk.operation()?;
            if fails {
                return Err(io::Error::other("simulated: a failed write"));
            }
            Ok(())
        })
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.with(|disk| {
            disk.operation()?;
            disk.syncs += 1;
            let fails = disk.sync_fails_at == Some(disk.syncs);
            let content = content(disk, self.id)?;
            if fails {
                content.unsynced.clear();
                return Err(io::Error::other("simulated: a failed sync"));
            }
            content.sync();
            Ok(())
        })
    }

    fn size_bytes(&self) -> io::Result<u64> {
        self.with(|disk| Ok(content(disk, self.id)?.seen.len() as u64))
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.with(|disk| {
            content(disk, self.id)?.reread();
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> &'static Path {
        Path::new("d/f")
    }

    fn synced_file(fs: &SimFs, bytes: &[u8]) -> SimFile {
        fs.create_dir_all(Path::new("d")).unwrap();
        let mut file = fs.create(path()).unwrap();
        file.write_at(bytes, 0).unwrap();
        file.sync_data().unwrap();
        fs.sync_dir(Path::new("d")).unwrap();
        file
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_any_sectors_of_the_rest() {
        let mut kinds = BTreeSet::new();
        for seed in 0..100 {
            let fs = SimFs::new();
            let mut file = synced_file(&fs, &[1; 2048]);
            file.write_at(&[2; 1024], 512).unwrap();
            fs.crash(seed);
            assert!(file.size_bytes().is_err(), "an old handle is dead");
            let mut bytes = [0; 2048];
            fs.open(path()).unwrap().read_at(&mut bytes, 0).unwrap();
            assert!(
                bytes
                    .chunks(512)
                    .all(|sector| sector.iter().all(|b| *b == sector[0]))
            );
            assert_eq!((bytes[0], bytes[2047]), (1, 1));
            kinds.insert((bytes[512], bytes[1024]));
        }
        assert_eq!(kinds.len(), 4, "every subset is seen: {kinds:?}");
    }

    #[test]
    fn a_name_is_lost_unless_its_folder_was_synced() {
        let (mut kept, mut lost) = (0, 0);
        for seed in 0..20 {
            let fs = SimFs::new();
            synced_file(&fs, b"x");
            fs.create(Path::new("d/g")).unwrap();
            fs.crash(seed);
            let names = fs.list(Path::new("d")).unwrap();
            assert_eq!(names[0], "f");
            if names.len() == 2 { kept += 1 } else { lost += 1 }
        }
        assert!(kept > 0 && lost > 0);
    }

    #[test]
    fn a_failed_sync_loses_what_can_still_be_read() {
        let fs = SimFs::new();
        let mut file = synced_file(&fs, b"old");
        file.write_at(b"new", 0).unwrap();
        fs.sync_fails_at(1);
        assert!(file.sync_data().is_err());
        let mut bytes = [0; 3];
        file.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"new");
        file.sync_data().unwrap();
        file.drop_cache().unwrap();
        file.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"old");
    }

    #[test]
    fn a_bit_flips_in_a_file_that_was_picked() {
        let fs = SimFs::new();
        drop(synced_file(&fs, &[0; 100]));
        drop(fs.create(Path::new("d/empty")).unwrap());
        let mut rng = Rng::new(1);
        assert_eq!(fs.flip_bit(&mut rng, |path| path != self::path()), None);
        let (flipped, offset) = fs.flip_bit(&mut rng, |_| true).unwrap();
        assert_eq!(flipped, path());
        for _ in 0..2 {
            let mut bytes = [0; 100];
            fs.open(path()).unwrap().read_at(&mut bytes, 0).unwrap();
            let ones: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
            assert!(ones == 1 && bytes[offset] != 0);
            fs.crash(1);
        }
    }

    #[test]
    fn failures_come_when_they_are_asked_for() {
        let fs = SimFs::new();
        let mut file = synced_file(&fs, b"old");
        fs.write_fails_at(2);
        file.write_at(b"a", 0).unwrap();
        assert!(file.write_at(b"b", 0).is_err());
        fs.set_free_space_bytes(Some(2));
        assert_eq!(
            file.write_at(b"1234567", 0).unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        fs.power_fails_at(2);
        file.write_at(b"c", 0).unwrap();
        assert!(file.sync_data().is_err());
        assert!(file.write_at(b"d", 0).is_err());
        assert!(fs.rename(path(), Path::new("d/g")).is_err());
        fs.kill_process();
        assert_eq!(fs.list(Path::new("d")).unwrap(), ["f"]);
    }
}
