//! The operating system's file system.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, FlockOperation, OFlags};

use super::{File, Fs};

/// The operating system's files. What it makes can be read by its own user only: values are in there.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

/// An open file of the operating system.
#[derive(Debug)]
pub struct RealFile {
    file: fs::File,
    direct: Direct,
}

/// The same file, opened so that a write goes to the disk without a copy in memory and is durable when it returns:
/// one call instead of two, and with several nodes on one disk a third less time.
#[derive(Debug)]
enum Direct {
    Untried,
    /// With room for an aligned copy of what is written.
    Open(fs::File, Vec<u8>),
    /// The file system does not do it.
    Unavailable,
}

/// What a direct write's place, length and memory must be multiples of, for any disk there is.
const SECTOR_BYTES: usize = 512;
const MEMORY_ALIGN_BYTES: usize = 4096;
/// A larger write is not copied.
const DIRECT_MAX_BYTES: usize = 1024 * 1024;

/// A locked file; the lock goes with it, and with the process however it ends.
#[derive(Debug)]
pub struct RealLock(#[allow(dead_code)] fs::File);

const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(FILE_MODE);
    options
}

/// The parent that an operating system call accepts: `a` is in `.`.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

impl Fs for RealFs {
    type File = RealFile;
    type Lock = RealLock;

    fn open(&self, path: &Path) -> io::Result<RealFile> {
        options().open(path).map(RealFile::new)
    }

    fn create(&self, path: &Path) -> io::Result<RealFile> {
        options().create_new(true).open(path).map(RealFile::new)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if dir.as_os_str().is_empty() || dir.is_dir() {
            return Ok(());
        }
        self.create_dir_all(parent_of(dir))?;
        match DirBuilder::new().mode(DIR_MODE).create(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists || !dir.is_dir() => return Err(e),
            _ => {}
        }
        self.sync_dir(parent_of(dir))
    }

    fn free_space_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        // `f_bavail`: without the share that is kept for root.
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<RealLock>> {
        let file = options().create(true).truncate(false).open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(RealLock(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl RealFile {
    fn new(file: fs::File) -> RealFile {
        RealFile {
            file,
            direct: Direct::Untried,
        }
    }

    /// Writes past the page cache, durably. `false` if that can't be had here; any part may have been written then.
    fn write_direct_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<bool> {
        if let Direct::Untried = self.direct {
            self.direct = open_direct(&self.file).unwrap_or(Direct::Unavailable);
        }
        let Direct::Open(file, room) = &mut self.direct else {
            return Ok(false);
        };
        room.resize(bytes.len().max(room.len()) + MEMORY_ALIGN_BYTES, 0);
        let start = room.as_ptr().align_offset(MEMORY_ALIGN_BYTES);
        let Some(aligned) = room.get_mut(start..start.saturating_add(bytes.len())) else {
            return Ok(false);
        };
        aligned.copy_from_slice(bytes);
        let written = file.write_at(aligned, offset);
        room.truncate(room.len() - MEMORY_ALIGN_BYTES);
        match written {
            Ok(written) => Ok(written == bytes.len()),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.direct = Direct::Unavailable;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// By its descriptor, for the file may have another name by now.
fn open_direct(file: &fs::File) -> io::Result<Direct> {
    let flags = OFlags::DIRECT | OFlags::DSYNC;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    Ok(Direct::Open(file, Vec::new()))
}

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn write_durably_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let is_aligned =
            bytes.len().is_multiple_of(SECTOR_BYTES) && offset.is_multiple_of(SECTOR_BYTES as u64);
        if is_aligned && bytes.len() <= DIRECT_MAX_BYTES && self.write_direct_at(bytes, offset)? {
            return Ok(());
        }
        self.write_at(bytes, offset)?;
        self.sync_data()
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durable_writes_of_any_length_and_place_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = RealFs.create(&dir.path().join("file")).unwrap();
        let mut twin = vec![0; 8 << 20];
        file.write_at(&twin, 0).unwrap();
        file.sync_data().unwrap();
        let places = [
            (0, 512),
            (512, 4096),
            (4608, 100),
            (4608, 512),
            (1 << 20, 3 << 20),
            (5632, 9 * 512),
        ];
        for (n, (offset, len)) in places.into_iter().enumerate() {
            let bytes = vec![n as u8 + 1; len];
            file.write_durably_at(&bytes, offset as u64).unwrap();
            twin[offset..offset + len].copy_from_slice(&bytes);
            let mut read = vec![0; twin.len()];
            file.read_at(&mut read, 0).unwrap();
            assert!(read == twin, "after {len} bytes at {offset}");
        }
    }

    #[test]
    fn files_folders_and_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        RealFs.create_dir_all(&inner).unwrap();
        RealFs.create_dir_all(&inner).unwrap();
        assert!(RealFs.free_space_bytes(&inner).unwrap() > 0);

        let path = inner.join("file");
        let mut file = RealFs.create(&path).unwrap();
        assert_eq!(
            RealFs.create(&path).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        file.write_at(b"hello", 3).unwrap();
        file.sync_data().unwrap();
        file.drop_cache().unwrap();
        let mut buf = [0; 8];
        file.read_at(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"\0\0\0hello");
        assert_eq!(
            file.read_at(&mut buf, 1).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );

        super::super::durable_rename(&RealFs, &path, &inner.join("other")).unwrap();
        assert_eq!(RealFs.list(&inner).unwrap(), ["other"]);

        let lock = RealFs.lock(&inner.join("lock")).unwrap();
        assert!(lock.is_some());
        assert!(RealFs.lock(&inner.join("lock")).unwrap().is_none());
        drop(lock);
        assert!(RealFs.lock(&inner.join("lock")).unwrap().is_some());
    }
}
