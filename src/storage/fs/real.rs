//! The operating system's file system.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, FlockOperation};

use super::{File, Fs};

/// The operating system's files. What it makes can be read by its own user only: values are in there.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

/// An open file of the operating system.
#[derive(Debug)]
pub struct RealFile(fs::File);

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
        options().open(path).map(RealFile)
    }

    fn create(&self, path: &Path) -> io::Result<RealFile> {
        options().create_new(true).open(path).map(RealFile)
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

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.0, 0, None, Advice::DontNeed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
