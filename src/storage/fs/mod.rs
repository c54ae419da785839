//! The file system as storage sees it: a few operations, each with a real and a simulated meaning.
//!
//! [`RealFs`] is the operating system's. [`SimFs`] is memory that forgets, under a seed, whatever was not
//! synced, and fails where it is told to. Names are paths; a folder is listed by the names in it.

mod real;
mod sim;

use std::io;
use std::path::Path;

pub use real::{RealFile, RealFs, RealLock};
pub use sim::{SimFile, SimFs};

/// A file system. Clones are handles to the same one.
pub trait Fs: Clone + Send + 'static {
    /// An open file.
    type File: File;
    /// A folder that is ours as long as this value lives.
    type Lock: Send + Sync;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// As the operating system says; `NotFound` when there is none.
    fn open(&self, path: &Path) -> io::Result<Self::File>;

    /// Makes a file that is not there yet. Its name is durable after [`Fs::sync_dir`].
    ///
    /// # Errors
    /// `AlreadyExists`, or as the operating system says.
    fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Gives a file another name, replacing what had it. Durable after [`Fs::sync_dir`].
    ///
    /// # Errors
    /// As the operating system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable after [`Fs::sync_dir`].
    ///
    /// # Errors
    /// As the operating system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names in a folder, sorted. Names that are not Unicode are left out: none of ours is like that.
    ///
    /// # Errors
    /// As the operating system says; `NotFound` when there is no such folder.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// As the operating system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes a folder and those above it, durably. One that is there already is left alone.
    ///
    /// # Errors
    /// As the operating system says.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// How much may still be written on the disk that holds `path`.
    ///
    /// # Errors
    /// As the operating system says.
    fn free_space_bytes(&self, path: &Path) -> io::Result<u64>;

    /// Takes the lock file of that name, made where it is missing; `None` when another process holds it.
    ///
    /// # Errors
    /// As the operating system says.
    fn lock(&self, path: &Path) -> io::Result<Option<Self::Lock>>;
}

/// An open file. Offsets and lengths are in bytes.
pub trait File: Send {
    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before; else as the operating system says.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes`. Durable after [`File::sync_data`].
    ///
    /// # Errors
    /// As the operating system says; any part may have been written then.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written durable, and as much of the file's description as is needed to read it.
    ///
    /// # Errors
    /// As the operating system says. What was written may then be lost although it can still be read, and
    /// a second call may succeed all the same: do not call again, end the process (trap 3.29).
    fn sync_data(&mut self) -> io::Result<()>;

    /// As [`File::write_at`] and then [`File::sync_data`]; where the file already has these bytes' blocks there is
    /// often a shorter way.
    ///
    /// # Errors
    /// As those two.
    fn write_durably_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(bytes, offset)?;
        self.sync_data()
    }

    /// The file's length.
    ///
    /// # Errors
    /// As the operating system says.
    fn size_bytes(&self) -> io::Result<u64>;

    /// Makes the next reads come from the disk instead of from memory, as far as that can be had: what a
    /// failed sync left in memory is not what the disk holds. Only for files without unsynced writes.
    ///
    /// # Errors
    /// As the operating system says.
    fn drop_cache(&self) -> io::Result<()>;
}

/// Renames so that after a crash there is the old file or the new one, each whole, and so that once this
/// returns there is the new one. The file's own content must be synced before.
///
/// # Errors
/// As the operating system says.
pub fn durable_rename<F: Fs>(fs: &F, from: &Path, to: &Path) -> io::Result<()> {
    fs.rename(from, to)?;
    fs.sync_dir(to.parent().unwrap_or(Path::new(".")))
}
