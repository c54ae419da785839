//! Snapshot files: the state as of one entry, in one file that is there whole or not at all.
//!
//! ```text
//! file      | head | chunk | chunk | ... | end |
//! head      | "raftsnap" | version u32 | length u32 | header, `length` bytes | crc32c u32 |
//! chunk     | length u32, not 0 | raw length u32 | lz4 block, `length` bytes | crc32c u32 |
//! end       | 0 u32 | chunks u64 | raw bytes u64 | crc32c u32 |
//! ```
//!
//! Numbers are little-endian; the header is `SnapshotHeader` of `disk.proto`. A checksum covers all bytes of
//! its part before it and starts from the checksum of the part before, the first from 0: parts cannot be
//! left out, doubled or exchanged, and the last one says that all are there. What a chunk holds is not
//! looked at here.
//!
//! A file is written under a temporary name, synced, renamed, and its folder synced. So a file that has a
//! snapshot's name was whole once, and is damaged if it is not.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::error::{Damage, DiskError, OpenError};
use super::fs::{File, Fs, RealFs};
use super::segment::{sync, sync_dir};
use crate::raft::{EntryId, Index, Term};
use crate::wire::disk::{SnapshotHeader, decode_snapshot_header, encode_snapshot_header};

/// The version of this format.
const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"raftsnap";

/// A chunk has 1 to this many bytes.
pub const CHUNK_MAX_BYTES: usize = 4 << 20;

/// Far above a header of hundreds of servers.
const HEADER_MAX_BYTES: usize = 1 << 20;

/// How much is gathered for one write.
const WRITE_BYTES: usize = 256 * 1024;

/// How much is written before the next sync: an append to the log waits behind no more than this.
const SYNC_BYTES: u64 = 1024 * 1024;

const HEAD_BYTES: usize = 16;
const CHUNK_HEAD_BYTES: usize = 8;
const END_BYTES: usize = 20;
const CRC_BYTES: usize = 4;

/// The folder of a node's snapshots. Clones are handles to the same one; for any thread.
pub struct Snapshots<F: Fs = RealFs> {
    fs: F,
    pub(super) dir: PathBuf,
    fsync: bool,
    /// The data folder stays locked until nothing writes to it any more.
    _lock: Arc<F::Lock>,
}

impl<F: Fs> Clone for Snapshots<F> {
    fn clone(&self) -> Self {
        Snapshots {
            fs: self.fs.clone(),
            dir: self.dir.clone(),
            fsync: self.fsync,
            _lock: Arc::clone(&self._lock),
        }
    }
}

impl<F: Fs> Snapshots<F> {
    pub(super) fn new(fs: F, dir: PathBuf, fsync: bool, lock: Arc<F::Lock>) -> Snapshots<F> {
        Snapshots {
            fs,
            dir,
            fsync,
            _lock: lock,
        }
    }

    /// Begins a snapshot file, under a temporary name.
    ///
    /// # Errors
    /// The operating system's. Nothing is left of the file then, nor has the log been harmed: the node may
    /// go on and try again later.
    pub fn begin(&self, header: &SnapshotHeader) -> Result<SnapshotWriter<F>, DiskError> {
        let (file, path) = self.create(header.last)?;
        let mut payload = BytesMut::new();
        encode_snapshot_header(header, &mut payload);
        let mut writer = SnapshotWriter {
            snapshots: self.clone(),
            last: header.last,
            file,
            path,
            buffer: Vec::new(),
            compressed: Vec::new(),
            written: 0,
            unsynced: 0,
            crc: 0,
            chunks: 0,
            raw_bytes: 0,
            committed: false,
        };
        writer.buffer.extend_from_slice(MAGIC);
        writer.buffer.put_u32_le(VERSION);
        writer.buffer.put_u32_le(to_u32(payload.len()));
        writer.buffer.extend_from_slice(&payload);
        writer.finish_part(0);
        Ok(writer)
    }

    /// Opens the snapshot that ends with this entry.
    ///
    /// # Errors
    /// It is not there, or its header is damaged.
    pub fn open(&self, last: EntryId) -> Result<SnapshotReader<F>, OpenError> {
        SnapshotReader::open(&self.fs, &self.dir, last)
    }

    /// A temporary file of its own: a snapshot of the same entry may just be arriving from the leader.
    fn create(&self, last: EntryId) -> Result<(F::File, PathBuf), DiskError> {
        let mut number = 1;
        loop {
            let path = path(&self.dir, last).with_extension(format!("{number}.tmp"));
            match self.fs.create(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && number < 1000 => number += 1,
                other => return Ok((other.map_err(DiskError::with("create", &path))?, path)),
            }
        }
    }
}

impl<F: Fs> std::fmt::Debug for Snapshots<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshots")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// A snapshot being written. Dropped before [`SnapshotWriter::commit`], it leaves nothing.
pub struct SnapshotWriter<F: Fs = RealFs> {
    snapshots: Snapshots<F>,
    last: EntryId,
    file: F::File,
    path: PathBuf,
    /// What the file does not have yet.
    buffer: Vec<u8>,
    compressed: Vec<u8>,
    written: u64,
    unsynced: u64,
    /// Of the part written last.
    crc: u32,
    chunks: u64,
    raw_bytes: u64,
    committed: bool,
}

impl<F: Fs> SnapshotWriter<F> {
    /// Appends a chunk of 1 to [`CHUNK_MAX_BYTES`] bytes. After an error the writer is of no use.
    ///
    /// # Errors
    /// The operating system's, or a chunk of another length.
    pub fn write_chunk(&mut self, chunk: &[u8]) -> Result<(), DiskError> {
        if chunk.is_empty() || chunk.len() > CHUNK_MAX_BYTES {
            let text = format!("a chunk of {} bytes", chunk.len());
            let error = io::Error::new(io::ErrorKind::InvalidInput, text);
            return Err(DiskError::with("write", &self.path)(error));
        }
        self.compressed
            .resize(lz4_flex::block::get_maximum_output_size(chunk.len()), 0);
        let length = lz4_flex::block::compress_into(chunk, &mut self.compressed)
            .map_err(|e| DiskError::with("compress", &self.path)(io::Error::other(e)))?;
        let at = self.buffer.len();
        self.buffer.put_u32_le(to_u32(length));
        self.buffer.put_u32_le(to_u32(chunk.len()));
        let compressed = self.compressed.get(..length).unwrap_or_default();
        self.buffer.extend_from_slice(compressed);
        self.finish_part(at);
        self.chunks += 1;
        self.raw_bytes += chunk.len() as u64;
        if self.buffer.len() >= WRITE_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Makes the snapshot durable under its name. From here on a start will find it: [`Storage`] must be told,
    /// by `adopt_snapshot` or `install_snapshot`. One that has this name already is replaced.
    ///
    /// # Errors
    /// The operating system's. The snapshot may be there or not; it counts from the next start on if it is.
    ///
    /// [`Storage`]: super::Storage
    pub fn commit(mut self) -> Result<Committed, DiskError> {
        let at = self.buffer.len();
        self.buffer.put_u32_le(0);
        self.buffer.put_u64_le(self.chunks);
        self.buffer.put_u64_le(self.raw_bytes);
        self.finish_part(at);
        self.flush()?;
        let Snapshots { fs, dir, fsync, .. } = &self.snapshots;
        sync(&mut self.file, &self.path, *fsync)?;
        let path = path(dir, self.last);
        let renamed = fs.rename(&self.path, &path);
        renamed.map_err(DiskError::with("rename", &self.path))?;
        self.committed = true;
        sync_dir(fs, dir, *fsync)?;
        Ok(Committed {
            last: self.last,
            size_bytes: self.written,
        })
    }

    /// How many chunks there are so far: where to go on after a broken connection.
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// The last entry that the snapshot covers.
    pub fn last(&self) -> EntryId {
        self.last
    }

    /// Appends the checksum of the part that begins at `at` in the buffer.
    fn finish_part(&mut self, at: usize) {
        let part = self.buffer.get(at..).unwrap_or_default();
        self.crc = crc32c::crc32c_append(self.crc, part);
        self.buffer.put_u32_le(self.crc);
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        let written = self.file.write_at(&self.buffer, self.written);
        written.map_err(DiskError::with("write", &self.path))?;
        let length = self.buffer.len() as u64;
        self.buffer.clear();
        self.written += length;
        self.unsynced += length;
        if self.unsynced >= SYNC_BYTES {
            sync(&mut self.file, &self.path, self.snapshots.fsync)?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

impl<F: Fs> Drop for SnapshotWriter<F> {
    fn drop(&mut self) {
        if !self.committed {
            // If this fails, the next start removes it.
            let _ = self.snapshots.fs.remove(&self.path);
        }
    }
}

impl<F: Fs> std::fmt::Debug for SnapshotWriter<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotWriter")
            .field("path", &self.path)
            .field("chunks", &self.chunks)
            .finish_non_exhaustive()
    }
}

/// A snapshot that is durable and that [`Storage`](super::Storage) is to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Committed {
    /// The last entry it covers.
    pub last: EntryId,
    /// The length of its file.
    pub size_bytes: u64,
}

/// Reads a snapshot chunk by chunk. Goes on reading if the file is removed meanwhile.
pub struct SnapshotReader<F: Fs = RealFs> {
    file: F::File,
    path: PathBuf,
    header: SnapshotHeader,
    size_bytes: u64,
    /// Where the next part begins.
    at: u64,
    /// Of the part before.
    crc: u32,
    chunks: u64,
    raw_bytes: u64,
    ended: bool,
}

/// A part that has been read, and its checksum.
struct Part {
    body: Bytes,
    crc: u32,
}

impl<F: Fs> SnapshotReader<F> {
    pub(super) fn open(fs: &F, dir: &Path, last: EntryId) -> Result<SnapshotReader<F>, OpenError> {
        let path = path(dir, last);
        let file = fs.open(&path).map_err(DiskError::with("open", &path))?;
        let size_bytes = file.size_bytes().map_err(DiskError::with("read", &path))?;
        let mut reader = SnapshotReader {
            file,
            path,
            header: SnapshotHeader::default(),
            size_bytes,
            at: 0,
            crc: 0,
            chunks: 0,
            raw_bytes: 0,
            ended: false,
        };
        reader.read_head()?;
        if reader.header.last != last {
            let found = format!("this is the snapshot that ends with entry {}", reader.header.last);
            return Err(Damage::new(&reader.path, 0, found).into());
        }
        Ok(reader)
    }

    /// What the snapshot says of itself.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// The length of the file.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// How many chunks were read or passed over.
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// The next chunk, checked; `None` at the end, which is checked too.
    ///
    /// # Errors
    /// The operating system's, or damage.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, OpenError> {
        let offset = self.at;
        let Some((part, raw_length)) = self.next_part()? else {
            return Ok(None);
        };
        let raw = lz4_flex::block::decompress(&part.body, raw_length)
            .ok()
            .filter(|raw| raw.len() == raw_length);
        let raw = raw.ok_or_else(|| {
            // The checksum is right, so this was written so: by a mistake.
            Damage::new(&self.path, offset, "this chunk does not decompress")
        })?;
        Ok(Some(raw.into()))
    }

    /// Passes over a chunk, without reading more than its length; `false` at the end. What is passed over
    /// is checked as far as the next chunk's checksum starts from this one's.
    ///
    /// # Errors
    /// As of [`SnapshotReader::next_chunk`].
    pub fn skip_chunk(&mut self) -> Result<bool, OpenError> {
        let offset = self.at;
        if self.ended || self.bytes_at(offset, CRC_BYTES)?.as_ref() == [0; 4] {
            return Ok(self.next_part()?.is_some());
        }
        let (length, raw_length) = self.chunk_lengths()?;
        let crc_at = offset + (CHUNK_HEAD_BYTES + length) as u64;
        self.crc = self.bytes_at(crc_at, CRC_BYTES)?.get_u32_le();
        self.at = crc_at + CRC_BYTES as u64;
        self.chunks += 1;
        self.raw_bytes += raw_length as u64;
        Ok(true)
    }

    /// Goes back to the first chunk. Works also when the file was removed meanwhile.
    ///
    /// # Errors
    /// As of [`SnapshotReader::next_chunk`].
    pub fn rewind(&mut self) -> Result<(), OpenError> {
        (self.at, self.crc, self.chunks, self.raw_bytes, self.ended) = (0, 0, 0, 0, false);
        self.read_head()
    }

    /// Reads everything once, without decompressing it.
    pub(super) fn verify(mut self) -> Result<(), OpenError> {
        while self.next_part()?.is_some() {}
        Ok(())
    }

    fn read_head(&mut self) -> Result<(), OpenError> {
        let mut head = self.bytes_at(0, HEAD_BYTES)?;
        if !head.starts_with(MAGIC) {
            return Err(self.damage(0, "this is no snapshot").into());
        }
        head.advance(MAGIC.len());
        let version = head.get_u32_le();
        let length = head.get_u32_le() as usize;
        if length > HEADER_MAX_BYTES {
            return Err(self.damage(0, "the header's length is wrong").into());
        }
        let part = self.part(0, HEAD_BYTES, length)?;
        // A version is believed only if it was written.
        if version != VERSION {
            return Err(OpenError::Format {
                path: self.path.clone(),
                found: version.to_string(),
                supported: VERSION,
            });
        }
        let decoded = decode_snapshot_header(part.body);
        self.header = decoded.map_err(|e| self.damage(0, e.reason))?;
        self.pass((HEAD_BYTES + length) as u64, part.crc);
        Ok(())
    }

    /// The next chunk as it is in the file, with its length when decompressed; `None` at the end.
    fn next_part(&mut self) -> Result<Option<(Part, usize)>, OpenError> {
        if self.ended {
            return Ok(None);
        }
        if self.bytes_at(self.at, CRC_BYTES)?.as_ref() == [0; 4] {
            return self.read_end().map(|()| None);
        }
        let (length, raw_length) = self.chunk_lengths()?;
        let part = self.part(self.at, CHUNK_HEAD_BYTES, length)?;
        self.pass((CHUNK_HEAD_BYTES + length) as u64, part.crc);
        self.chunks += 1;
        self.raw_bytes += raw_length as u64;
        Ok(Some((part, raw_length)))
    }

    fn read_end(&mut self) -> Result<(), OpenError> {
        let offset = self.at;
        let mut part = self.part(offset, 0, END_BYTES)?;
        part.body.advance(4);
        if (part.body.get_u64_le(), part.body.get_u64_le()) != (self.chunks, self.raw_bytes) {
            return Err(self.damage(offset, "chunks are missing before this end").into());
        }
        self.pass(END_BYTES as u64, part.crc);
        if self.at != self.size_bytes {
            return Err(self
                .damage(self.at, "the snapshot ends here, and the file goes on")
                .into());
        }
        self.ended = true;
        Ok(())
    }

    fn chunk_lengths(&self) -> Result<(usize, usize), OpenError> {
        let mut head = self.bytes_at(self.at, CHUNK_HEAD_BYTES)?;
        let (length, raw_length) = (head.get_u32_le() as usize, head.get_u32_le() as usize);
        let most = lz4_flex::block::get_maximum_output_size(CHUNK_MAX_BYTES);
        if length > most || raw_length == 0 || raw_length > CHUNK_MAX_BYTES {
            return Err(self.damage(self.at, "a chunk's length is wrong").into());
        }
        Ok((length, raw_length))
    }

    /// A part with `head` bytes before its body; the body, if the checksum is right.
    fn part(&self, offset: u64, head: usize, length: usize) -> Result<Part, OpenError> {
        let mut bytes = self.bytes_at(offset, head + length + CRC_BYTES)?;
        let mut stored = bytes.split_off(head + length);
        let crc = crc32c::crc32c_append(self.crc, &bytes);
        if stored.get_u32_le() != crc {
            return Err(self
                .damage(offset, "what begins here has a wrong checksum")
                .into());
        }
        bytes.advance(head);
        Ok(Part { body: bytes, crc })
    }

    fn pass(&mut self, bytes: u64, crc: u32) {
        self.at += bytes + CRC_BYTES as u64;
        self.crc = crc;
    }

    fn bytes_at(&self, offset: u64, length: usize) -> Result<Bytes, OpenError> {
        let end = offset.saturating_add(length as u64);
        if end > self.size_bytes {
            let found = "the file ends before the snapshot does";
            return Err(self.damage(self.size_bytes, found).into());
        }
        let mut bytes = vec![0; length];
        self.file
            .read_at(&mut bytes, offset)
            .map_err(DiskError::with("read", &self.path))?;
        Ok(bytes.into())
    }

    fn damage(&self, offset: u64, found: impl Into<String>) -> Damage {
        Damage::new(&self.path, offset, found)
    }
}

impl<F: Fs> std::fmt::Debug for SnapshotReader<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotReader")
            .field("path", &self.path)
            .field("header", &self.header)
            .field("chunks", &self.chunks)
            .finish_non_exhaustive()
    }
}

/// The file of the snapshot that ends with this entry.
pub(super) fn path(dir: &Path, last: EntryId) -> PathBuf {
    dir.join(format!("{:020}-{:020}.snapshot", last.index.0, last.term.0))
}

/// The last entry of the snapshot in a file of this name.
pub(super) fn parse(name: &str) -> Option<EntryId> {
    let (index, term) = name.strip_suffix(".snapshot")?.split_once('-')?;
    let last = EntryId {
        index: Index(index.parse().ok()?),
        term: Term(term.parse().ok()?),
    };
    (path(Path::new(""), last) == Path::new(name)).then_some(last)
}

/// What the folder of snapshots holds at a start.
pub(super) struct Found<F: Fs> {
    /// The newest snapshot of which every byte is right.
    pub(super) newest: Option<SnapshotReader<F>>,
    /// That one and the older ones, which were not read, by index.
    pub(super) known: Vec<EntryId>,
    /// Newer ones.
    pub(super) damaged: Vec<EntryId>,
    /// What is wrong with them.
    pub(super) damage: Vec<Damage>,
    /// Files that a crash left.
    pub(super) leftovers: Vec<PathBuf>,
}

/// Looks for the newest snapshot that can be read. Changes nothing.
pub(super) fn find<F: Fs>(fs: &F, dir: &Path, names: &[String]) -> Result<Found<F>, OpenError> {
    let mut found = Found {
        newest: None,
        known: names.iter().filter_map(|name| parse(name)).collect(),
        damaged: Vec::new(),
        damage: Vec::new(),
        leftovers: Vec::new(),
    };
    let unfinished = names.iter().filter(|name| name.ends_with(".tmp"));
    found.leftovers.extend(unfinished.map(|name| dir.join(name)));
    found.known.sort_by_key(|last| (last.index, last.term));
    while let Some(&last) = found.known.last() {
        let verified = SnapshotReader::open(fs, dir, last)
            .and_then(SnapshotReader::verify)
            .and_then(|()| SnapshotReader::open(fs, dir, last));
        match verified {
            Ok(reader) => {
                found.newest = Some(reader);
                break;
            }
            Err(OpenError::Damage(damage)) => {
                found.damage.push(damage);
                found.damaged.extend(found.known.pop());
            }
            Err(other) => return Err(other),
        }
    }
    Ok(found)
}

/// No part is as long as that; `CHUNK_MAX_BYTES` and what a header holds keep it in 32 bits.
fn to_u32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::fs::SimFs;
    use super::*;
    use crate::base::rng::Rng;
    use crate::raft::{Membership, NodeId};

    const DIR: &str = "data/snapshots";

    fn snapshots(fs: &SimFs) -> Snapshots<SimFs> {
        fs.create_dir_all(Path::new(DIR)).unwrap();
        Snapshots::new(fs.clone(), DIR.into(), true, Arc::new(()))
    }

    fn header(index: u64) -> SnapshotHeader {
        SnapshotHeader {
            last: EntryId {
                term: Term(2),
                index: Index(index),
            },
            membership: Membership {
                voters: [NodeId(1), NodeId(3)].into(),
                ..Membership::default()
            },
            membership_index: Index(1),
        }
    }

    fn write(fs: &SimFs, index: u64, chunks: &[Bytes]) -> Result<Committed, DiskError> {
        let mut writer = snapshots(fs).begin(&header(index))?;
        for chunk in chunks {
            writer.write_chunk(chunk)?;
        }
        assert_eq!(writer.chunks(), chunks.len() as u64);
        writer.commit()
    }

    fn read(fs: &SimFs, index: u64) -> Result<Vec<Bytes>, OpenError> {
        let mut reader = snapshots(fs).open(header(index).last)?;
        let mut chunks = Vec::new();
        while let Some(chunk) = reader.next_chunk()? {
            chunks.push(chunk);
        }
        assert_eq!(reader.header(), &header(index));
        assert!(reader.next_chunk()?.is_none());
        Ok(chunks)
    }

    fn some_chunks(seed: u64) -> Vec<Bytes> {
        let mut rng = Rng::new(seed);
        let count = rng.below(5);
        let chunk = |rng: &mut Rng| {
            let range = 1 + rng.below(255);
            (0..1 + rng.below(300)).map(|_| rng.below(range) as u8).collect()
        };
        (0..count).map(|_| chunk(&mut rng)).collect()
    }

    fn list(fs: &SimFs) -> Vec<String> {
        fs.list(Path::new(DIR)).unwrap()
    }

    #[test]
    fn a_snapshot_comes_back_from_any_chunk_on() {
        for seed in 0..30 {
            let fs = SimFs::new();
            let chunks = some_chunks(seed);
            let _ = write(&fs, 9, &chunks).unwrap();
            fs.crash(seed);
            assert_eq!(read(&fs, 9).unwrap(), chunks);
            for start in 0..=chunks.len() {
                let mut reader = snapshots(&fs).open(header(9).last).unwrap();
                for _ in 0..start {
                    assert!(reader.skip_chunk().unwrap());
                }
                for chunk in &chunks[start..] {
                    assert_eq!(reader.next_chunk().unwrap().as_ref(), Some(chunk));
                }
                assert!(!reader.skip_chunk().unwrap());
                assert!(reader.next_chunk().unwrap().is_none());
                assert!(!reader.skip_chunk().unwrap());
                fs.remove(&path(Path::new(DIR), header(9).last)).ok();
                reader.rewind().unwrap();
                assert_eq!(reader.chunks(), 0);
                for chunk in &chunks {
                    assert_eq!(reader.next_chunk().unwrap().as_ref(), Some(chunk));
                }
                assert!(reader.next_chunk().unwrap().is_none());
                let _ = write(&fs, 9, &chunks).unwrap();
            }
        }
    }

    #[test]
    fn large_chunks_come_back_and_larger_ones_are_refused() {
        let fs = SimFs::new();
        let mut rng = Rng::new(1);
        let noise: Bytes = (0..CHUNK_MAX_BYTES).map(|_| rng.below(256) as u8).collect();
        let chunks = [noise, Bytes::from(vec![7; CHUNK_MAX_BYTES])];
        let size = write(&fs, 9, &chunks).unwrap().size_bytes;
        assert_eq!(read(&fs, 9).unwrap(), chunks);
        assert!(size < 5 << 20, "{size} bytes");
        let mut writer = snapshots(&fs).begin(&header(10)).unwrap();
        assert!(writer.write_chunk(&[]).is_err());
        assert!(writer.write_chunk(&vec![0; CHUNK_MAX_BYTES + 1]).is_err());
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_noticed() {
        let fs = SimFs::new();
        let chunks = [Bytes::from(vec![1; 900]), Bytes::from_static(b"and another")];
        let size = write(&fs, 9, &chunks).unwrap().size_bytes as usize;
        let file = path(Path::new(DIR), header(9).last);
        for offset in 0..size {
            for bits in [1, 0x80, 0xff] {
                assert!(fs.flip(&file, offset, bits));
                assert!(read(&fs, 9).is_err(), "byte {offset}");
                let found = find(&fs, Path::new(DIR), &list(&fs)).unwrap();
                assert!(found.newest.is_none() && found.damage.len() == 1);
                fs.flip(&file, offset, bits);
            }
            let cut = fs.copy();
            cut.truncate(&file, offset);
            assert!(read(&cut, 9).is_err(), "cut at {offset}");
        }
        let mut longer = fs.open(&file).unwrap();
        longer.write_at(&[0], size as u64).unwrap();
        assert!(read(&fs, 9).is_err(), "a byte too many");
    }

    #[test]
    fn a_crash_leaves_the_whole_snapshot_or_none() {
        let chunks = vec![Bytes::from(vec![1; 900]), Bytes::from_static(b"and another")];
        for n in 1..=6 {
            for seed in 0..20 {
                let fs = SimFs::new();
                let _ = write(&fs, 5, &chunks).unwrap();
                fs.power_fails_at(n);
                let written = write(&fs, 9, &chunks).is_ok();
                assert_eq!(written, n > 5, "five changes of the disk");
                fs.crash(seed);
                let found = find(&fs, Path::new(DIR), &list(&fs)).unwrap();
                assert!(found.damage.is_empty());
                let newest = found.newest.unwrap().header().last.index.0;
                assert!(newest == 9 || !written);
                assert_eq!(read(&fs, newest).unwrap(), chunks);
                assert_eq!(read(&fs, 5).unwrap(), chunks);
            }
        }
    }

    #[test]
    fn trap_3_34_a_snapshot_that_fails_leaves_nothing() {
        let fs = SimFs::new();
        snapshots(&fs);
        fs.set_free_space_bytes(Some(100));
        let chunks = [Bytes::from(vec![1; 900]), Bytes::from(vec![2; 20_000])];
        assert!(write(&fs, 9, &chunks).is_err());
        assert!(list(&fs).is_empty());
        fs.set_free_space_bytes(None);
        fs.sync_fails_at(1);
        assert!(write(&fs, 9, &chunks).is_err());
        assert!(list(&fs).is_empty());
        let (first, second) = (snapshots(&fs).begin(&header(9)), snapshots(&fs).begin(&header(9)));
        assert_eq!(list(&fs).len(), 2, "two at a time do not meet");
        drop((first, second));
        assert!(list(&fs).is_empty());
    }

    /// What version 1 looks like on disk. When this fails, old snapshots can no longer be read.
    #[test]
    fn the_bytes_of_version_1() {
        let fs = SimFs::new();
        let size = write(&fs, 9, &[Bytes::from_static(b"state")]).unwrap().size_bytes as usize;
        let mut bytes = vec![0; size];
        let file = path(Path::new(DIR), header(9).last);
        assert_eq!(
            file.file_name().unwrap(),
            "00000000000000000009-00000000000000000002.snapshot"
        );
        fs.open(&file).unwrap().read_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes[..16], *b"raftsnap\x01\0\0\0\x0c\0\0\0");
        assert_eq!(
            bytes[16..28],
            *b"\x08\x02\x10\x09\x1a\x04\x0a\x02\x01\x03\x20\x01"
        );
        assert_eq!(bytes[32..46], *b"\x06\0\0\0\x05\0\0\0\x50state");
        assert_eq!(bytes[50..70], *b"\0\0\0\0\x01\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0");
        assert_eq!(bytes.len(), 74);
        assert_eq!(bytes[28..32], 3_031_290_731_u32.to_le_bytes());
        assert_eq!(bytes[46..50], 2_688_812_718_u32.to_le_bytes());
        assert_eq!(bytes[70..74], 3_579_480_874_u32.to_le_bytes());
    }
}
