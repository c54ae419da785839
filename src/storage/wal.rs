//! The log: a sequence of segments of which the last one is written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;

use super::error::{DiskError, PersistError};
use super::format::{self, BATCH_MAX_BYTES, Header, SECTOR_BYTES};
use super::fs::Fs;
use super::identity::Identity;
use super::recovery::{End, Part, Replay, restart_parts, seal};
use super::segment::{self, Name, Segment};
use super::spares::{self, Pool};
use super::terms::Terms;
use crate::raft::{Batch, EntryId, HardState, Index};

/// The log's length at first: made while the node starts, so short.
const FIRST_SEGMENT_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// What a segment needs to know of the folder it is in.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The folder of the segments.
    pub(super) dir: PathBuf,
    /// The length of a segment, unless a batch needs a longer one.
    pub(super) segment_size_bytes: u64,
    pub(super) fsync: bool,
}

/// The log, open for writing.
pub(super) struct Wal<F: Fs> {
    fs: F,
    place: Place,
    identity: Identity,
    active: Segment<F::File>,
    /// The number of the next batch.
    next_batch: u64,
    end: End,
    terms: Terms,
    /// The segments, the active one last.
    parts: Vec<Part>,
    pool: Arc<Pool>,
    /// The batch being encoded; kept for its room.
    records: BytesMut,
    /// The same in sectors.
    sectors: Vec<u8>,
}

/// Makes the first segment of a new log. A crash leaves none, or an empty one.
pub(super) fn create<F: Fs>(fs: &F, place: &Place, identity: &Identity) -> Result<(), DiskError> {
    let size_bytes = place.segment_size_bytes.min(FIRST_SEGMENT_MAX_BYTES);
    let pool = Pool::new(Vec::new(), 1);
    let spare = spares::make_now(fs, &place.dir, size_bytes, place.fsync, &pool)?;
    let header = header(size_bytes, identity, 1, End::default());
    Segment::begin(fs, &spare, &place.dir, 1, &header, place.fsync)?;
    Ok(())
}

/// Whether this is a first segment into which nothing was ever written.
pub(super) fn is_unused<F: Fs>(fs: &F, dir: &Path, names: &[String]) -> Result<bool, DiskError> {
    use super::fs::File;
    let segments = names.iter().filter_map(|name| match Name::parse(name) {
        Some(Name::Segment(id)) => Some(id),
        _ => None,
    });
    if segments.ne([1]) {
        return Ok(false);
    }
    let path = Name::segment(dir, 1);
    let file = fs.open(&path).map_err(DiskError::with("open", &path))?;
    let size = file.size_bytes().map_err(DiskError::with("read", &path))?;
    if size > FIRST_SEGMENT_MAX_BYTES {
        return Ok(false);
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    file.read_at(&mut bytes, 0)
        .map_err(DiskError::with("read", &path))?;
    Ok(bytes.iter().skip(SECTOR_BYTES).all(|byte| *byte == 0))
}

fn header(size_bytes: u64, identity: &Identity, first_batch: u64, end: End) -> Header {
    Header {
        size_bytes,
        node_id: identity.node_id,
        incarnation: identity.incarnation,
        first_batch,
        hard_state: end.hard_state,
        last: end.last,
    }
}

impl<F: Fs> Wal<F> {
    pub(super) fn new(
        fs: F,
        place: Place,
        identity: Identity,
        replay: &mut Replay,
        active: Segment<F::File>,
        pool: Arc<Pool>,
    ) -> Wal<F> {
        Wal {
            fs,
            place,
            identity,
            end: replay.end(),
            terms: std::mem::take(&mut replay.terms),
            parts: std::mem::take(&mut replay.parts),
            next_batch: replay.next_batch,
            active,
            pool,
            records: BytesMut::new(),
            sectors: Vec::new(),
        }
    }

    /// Makes a batch durable. Nothing of it was written when it is [`PersistError::Refused`].
    pub(super) fn append(&mut self, batch: &Batch) -> Result<(), PersistError> {
        let end = check(self.end, &self.terms, batch).map_err(PersistError::Refused)?;
        self.encode(batch)?;
        self.write()?;
        // Our picture changes after the disk did.
        self.end = end;
        for entry in &batch.entries {
            self.terms.put(entry.id);
            if let Some(part) = self.parts.last_mut() {
                part.max = part.max.max(entry.id.index);
            }
        }
        Ok(())
    }

    /// Begins the log anew after an entry that a durable snapshot covers: nothing it held counts any more.
    /// A term that the log has not heard of becomes the node's, without a vote: none was given in it, for
    /// that would have been written.
    pub(super) fn restart_after(&mut self, base: EntryId) -> Result<(), PersistError> {
        let mut end = self.end;
        format::begin_batch(&mut self.records);
        if base.term > end.hard_state.term {
            end.hard_state = HardState {
                term: base.term,
                vote: None,
            };
            format::put_hard_state(&end.hard_state, &mut self.records);
        }
        end.accept_base(base).map_err(PersistError::Refused)?;
        format::put_base(base, &mut self.records);
        format::finish_batch(&mut self.records);
        self.write()?;
        self.end = end;
        self.terms = Terms::after(base);
        restart_parts(&mut self.parts, base);
        Ok(())
    }

    /// Gives away the segments from the first on that hold nothing behind this index. The header of the one
    /// that is then the first says what is to be known of them. The files that are of no use are given back:
    /// of temporary names, to be removed where nobody waits.
    pub(super) fn drop_head(&mut self, upto: Index) -> Result<Vec<PathBuf>, DiskError> {
        let Place { dir, fsync, .. } = &self.place;
        let mut useless = Vec::new();
        while let [part, after, ..] = self.parts.as_slice() {
            if part.max > upto {
                break;
            }
            let usual = part.size_bytes == self.place.segment_size_bytes;
            let recycled = usual.then(|| self.pool.reserve_for_recycled(dir)).flatten();
            let from = Name::segment(dir, part.id);
            let to = match &recycled {
                Some(spare) => spare.clone(),
                None => self.pool.reserve(dir).with_extension("tmp"),
            };
            // One after the other: a crash may only leave a log without its first segments, not one with a
            // hole. And a spare must not be written to while a crash can make it a segment again.
            let renamed = self.fs.rename(&from, &to);
            renamed.map_err(DiskError::with("rename", &from))?;
            segment::sync_dir(&self.fs, dir, *fsync)?;
            self.terms.forget_before(after.after.index);
            self.parts.remove(0);
            match recycled {
                Some(spare) => self.pool.put(spare),
                None => useless.push(to),
            }
        }
        Ok(useless)
    }

    /// Takes the spares that are not needed next out of use.
    pub(super) fn release_spares(&self) -> Vec<PathBuf> {
        self.pool.release()
    }

    /// The log holds every entry behind this one, or a snapshot covers those that it does not hold.
    pub(super) fn begin(&self) -> EntryId {
        self.parts.first().map_or(EntryId::default(), |part| part.after)
    }

    /// Whether the log holds this entry, or held it when its head was dropped.
    pub(super) fn holds(&self, id: EntryId) -> bool {
        self.terms.holds(id)
    }

    /// Term and vote, as they are on disk.
    pub(super) fn hard_state(&self) -> HardState {
        self.end.hard_state
    }

    /// Writes the encoded batch.
    fn write(&mut self) -> Result<(), DiskError> {
        let count = format::sectors_for(self.records.len());
        // A batch never spans segments, so that a torn one is looked for in one file only.
        if !self.active.has_room(count) {
            self.begin_segment(count)?;
        }
        self.sectors.clear();
        format::write_sectors(
            &self.records,
            self.active.id,
            self.active.next,
            self.next_batch,
            &mut self.sectors,
        );
        self.active.append(&mut self.sectors, self.place.fsync)?;
        self.next_batch += 1;
        self.give_back_room();
        Ok(())
    }

    fn encode(&mut self, batch: &Batch) -> Result<(), PersistError> {
        let bytes: usize = batch.entries.iter().map(|entry| entry.size_bytes()).sum();
        if bytes > BATCH_MAX_BYTES {
            return Err(PersistError::Refused(format!(
                "it has {bytes} bytes, and {BATCH_MAX_BYTES} is the most"
            )));
        }
        format::begin_batch(&mut self.records);
        // Before the entries: they may be of this term (trap 3.33).
        if let Some(hard_state) = &batch.hard_state {
            format::put_hard_state(hard_state, &mut self.records);
        }
        for entry in &batch.entries {
            format::put_entry(entry, &mut self.records);
        }
        format::finish_batch(&mut self.records);
        Ok(())
    }

    /// Goes on in a new segment with room for a batch of so many sectors. The order is what recovery relies
    /// on: the new segment is durable and empty, then the old one is sealed, then the new one is written.
    fn begin_segment(&mut self, sectors: u32) -> Result<(), DiskError> {
        let Place { dir, fsync, .. } = &self.place;
        // The header, the batch, the seal.
        let needed_bytes = (u64::from(sectors) + 2) * SECTOR_BYTES as u64;
        let usual_bytes = self.place.segment_size_bytes;
        let size_bytes = needed_bytes.max(usual_bytes).next_multiple_of(4096);
        let ready = (size_bytes == usual_bytes).then(|| self.pool.take()).flatten();
        let spare = match ready {
            Some(path) => path,
            None => spares::make_now(&self.fs, dir, size_bytes, *fsync, &self.pool)?,
        };
        let id = self.active.id.saturating_add(1);
        let header = header(size_bytes, &self.identity, self.next_batch + 1, self.end);
        let segment = Segment::begin(&self.fs, &spare, dir, id, &header, *fsync)?;
        seal(&mut self.active, id, self.next_batch, *fsync)?;
        self.next_batch += 1;
        self.parts.push(Part::new(id, &header));
        self.active = segment;
        Ok(())
    }

    /// One giant batch must not hold its room for ever.
    fn give_back_room(&mut self) {
        const KEPT_BYTES: usize = 8 * 1024 * 1024;
        if self.sectors.capacity() > KEPT_BYTES {
            self.sectors = Vec::new();
            self.records = BytesMut::new();
        }
    }
}

impl<F: Fs> Drop for Wal<F> {
    fn drop(&mut self) {
        self.pool.close();
    }
}

/// What the log's end is after this batch, or why the batch cannot follow. What would be damage when it is
/// read is never written.
fn check(mut end: End, terms: &Terms, batch: &Batch) -> Result<End, String> {
    if let Some(hard_state) = batch.hard_state {
        end.accept_hard_state(hard_state)?;
    }
    let mut prev = None;
    for entry in &batch.entries {
        if prev.is_some() && entry.id.index != end.last.index.next() {
            return Err(format!("entry {} right after entry {}", entry.id, end.last));
        }
        end.accept_entry(entry.id, prev.or_else(|| terms.before(entry.id.index)))?;
        prev = Some(entry.id);
    }
    Ok(end)
}
