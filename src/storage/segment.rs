//! One file of the log. Its length never changes once it is a segment, so that an append changes nothing but
//! bytes that were written before: no block to allocate, no metadata to sync.

use std::path::{Path, PathBuf};

use super::error::{Damage, DiskError, OpenError};
use super::format::{Header, HeaderError, PAGE_SECTORS, SECTOR_BYTES, VERSION};
use super::fs::{File, Fs};
use crate::base::mutant::{self, Mutant};

/// What a file is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// A segment of the log.
    Segment(u32),
    /// A file ready to become one.
    Spare(u32),
    /// Unfinished; of no use after a crash.
    Temporary,
}

impl Name {
    pub(super) fn parse(name: &str) -> Option<Name> {
        let (stem, kind) = name.rsplit_once('.')?;
        let number = stem.parse().ok();
        match kind {
            "log" => Some(Name::Segment(number?)),
            "spare" => Some(Name::Spare(number?)),
            "tmp" => Some(Name::Temporary),
            _ => None,
        }
    }

    pub(super) fn segment(dir: &Path, id: u32) -> PathBuf {
        dir.join(format!("{id:010}.log"))
    }

    pub(super) fn spare(dir: &Path, number: u32) -> PathBuf {
        dir.join(format!("{number:010}.spare"))
    }
}

/// An open segment.
pub(super) struct Segment<F: File> {
    pub(super) file: F,
    pub(super) path: PathBuf,
    /// Its number: 1, 2, 3, ... without gaps. What an earlier use of the file left has a smaller one.
    pub(super) id: u32,
    /// The file's length.
    pub(super) sectors: u32,
    /// Where the next batch goes. Starts at 1, behind the header.
    pub(super) next: u32,
}

/// The offset of a sector.
pub(super) fn offset(sector: u32) -> u64 {
    u64::from(sector) * SECTOR_BYTES as u64
}

/// Makes what was written durable, unless the node runs without fsync.
pub(super) fn sync<F: File>(file: &mut F, path: &Path, fsync: bool) -> Result<(), DiskError> {
    if fsync {
        file.sync_data().map_err(DiskError::with("sync", path))?;
    }
    Ok(())
}

/// As [`sync`], for names.
pub(super) fn sync_dir<F: Fs>(fs: &F, dir: &Path, fsync: bool) -> Result<(), DiskError> {
    if fsync {
        fs.sync_dir(dir).map_err(DiskError::with("sync", dir))?;
    }
    Ok(())
}

impl<F: File> Segment<F> {
    /// Turns the file at `from`, which is full of zeroes or of an earlier segment, into an empty segment.
    /// When this returns it will be found after any crash.
    pub(super) fn begin<S: Fs<File = F>>(
        fs: &S,
        from: &Path,
        dir: &Path,
        id: u32,
        header: &Header,
        fsync: bool,
    ) -> Result<Segment<F>, DiskError> {
        let mut file = fs.open(from).map_err(DiskError::with("open", from))?;
        // The header is durable before the name: a segment without a header is damage.
        file.write_at(&header.write(id), 0)
            .map_err(DiskError::with("write", from))?;
        sync(&mut file, from, fsync)?;
        let path = Name::segment(dir, id);
        fs.rename(from, &path).map_err(DiskError::with("rename", from))?;
        sync_dir(fs, dir, fsync && !mutant::is(Mutant::NameNotSynced))?;
        Ok(Segment {
            file,
            path,
            id,
            sectors: sectors_in(header.size_bytes),
            next: 1,
        })
    }

    /// Opens a segment and reads its header.
    pub(super) fn open<S: Fs<File = F>>(
        fs: &S,
        dir: &Path,
        id: u32,
    ) -> Result<(Segment<F>, Header), OpenError> {
        let path = Name::segment(dir, id);
        let file = fs.open(&path).map_err(DiskError::with("open", &path))?;
        let size_bytes = file.size_bytes().map_err(DiskError::with("read", &path))?;
        let mut sector = [0; SECTOR_BYTES];
        if size_bytes < SECTOR_BYTES as u64 {
            let found = format!("the file ends after {size_bytes} bytes, before the end of its header");
            return Err(Damage::new(&path, size_bytes, found).into());
        }
        file.read_at(&mut sector, 0)
            .map_err(DiskError::with("read", &path))?;
        let header = match Header::read(&sector, id) {
            Ok(header) => header,
            Err(HeaderError::Malformed(found)) => return Err(Damage::new(&path, 0, found).into()),
            Err(HeaderError::Version(version)) => {
                return Err(OpenError::Format {
                    path,
                    found: version.to_string(),
                    supported: VERSION,
                });
            }
        };
        if header.size_bytes != size_bytes {
            let found = format!(
                "the file is {size_bytes} bytes long and was made with {}; its length never changes",
                header.size_bytes
            );
            return Err(Damage::new(&path, size_bytes.min(header.size_bytes), found).into());
        }
        let segment = Segment {
            file,
            path,
            id,
            sectors: sectors_in(size_bytes),
            next: 1,
        };
        Ok((segment, header))
    }

    /// Whether a batch of so many sectors fits, and a seal after it.
    pub(super) fn has_room(&self, sectors: u32) -> bool {
        u64::from(self.next) + u64::from(sectors) < u64::from(self.sectors)
    }

    /// Writes a batch's sectors behind the last batch, in one write, and makes them durable.
    pub(super) fn append(&mut self, bytes: &mut Vec<u8>, fsync: bool) -> Result<(), DiskError> {
        let sectors = u32::try_from(bytes.len() / SECTOR_BYTES).unwrap_or(u32::MAX);
        let end = self.next.saturating_add(sectors);
        // A page that is written whole need not be read first; in a recycled file it often is not in memory.
        let page_end = end.next_multiple_of(PAGE_SECTORS).min(self.sectors);
        let padding = page_end.saturating_sub(end) as usize * SECTOR_BYTES;
        bytes.resize(bytes.len() + padding, 0);
        let at = offset(self.next);
        let mut written = if fsync && !mutant::is(Mutant::SyncSkipped) {
            self.file.write_durably_at(bytes, at)
        } else {
            self.file.write_at(bytes, at)
        };
        if mutant::is(Mutant::SyncRetried) {
            written = written.or_else(|_| self.file.sync_data());
        }
        written.map_err(DiskError::with("write", &self.path))?;
        // Our picture changes after the disk did.
        self.next = end;
        Ok(())
    }
}

/// Whole sectors in a file; one too long for 32 bits is used as far as they go.
fn sectors_in(size_bytes: u64) -> u32 {
    u32::try_from(size_bytes / SECTOR_BYTES as u64).unwrap_or(u32::MAX)
}
