//! Reads the log at start: what a crash may leave is told apart from damage.
//!
//! One batch is in flight at a time, and it is written behind all others. So a crash can leave exactly one
//! thing: some of that batch's sectors, the others being as they were before, unwritten or left over. That
//! batch was never acknowledged and is dropped. Any other sector is damage, and the node must not start:
//! cutting the log there could drop what was acknowledged (trap 3.31, "Protocol-Aware Recovery", FAST '18).
//!
//! The log's head may be gone, if a snapshot covers it: then the first segment's header says what the log
//! was before it.

use std::fmt;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

use super::error::{Damage, DiskError, OpenError};
use super::format::{self, Header, Record, SECTOR_BYTES, Sector};
use super::fs::{File, Fs};
use super::identity::Identity;
use super::segment::{self, Segment};
use super::terms::Terms;
use crate::base::mutant::{self, Mutant};
use crate::raft::{Entry, EntryId, HardState, Index};

/// How much is read at once.
const WINDOW_SECTORS: u32 = 2048;

/// The unfinished last batch that a crash left and recovery dropped. It was never acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The segment's file.
    pub path: PathBuf,
    /// Where the batch began, in bytes.
    pub offset: u64,
    /// How many bytes of it were there.
    pub found_bytes: u64,
}

impl fmt::Display for Torn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, byte {}: a crash interrupted the last write here, and {} bytes of it were found; it was \
             never acknowledged and has been dropped",
            self.path.display(),
            self.offset,
            self.found_bytes
        )
    }
}

/// One segment, as the log sees it.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// Its number.
    pub(super) id: u32,
    /// The length of its file.
    pub(super) size_bytes: u64,
    /// The last entry before it; what is in it comes after that or replaces something.
    pub(super) after: EntryId,
    /// No entry in it that may be needed has a larger index.
    pub(super) max: Index,
}

impl Part {
    pub(super) fn new(id: u32, header: &Header) -> Part {
        Part {
            id,
            size_bytes: header.size_bytes,
            after: header.last,
            max: Index(0),
        }
    }
}

/// Notes that the log begins anew after `base`, in the last of these parts: nothing before is needed.
pub(super) fn restart_parts(parts: &mut [Part], base: EntryId) {
    if let Some((current, before)) = parts.split_last_mut() {
        before.iter_mut().for_each(|part| part.max = Index(0));
        current.max = base.index;
    }
}

/// The newest snapshot that can be read, and what is wrong with newer ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Covered<'a> {
    pub(super) snapshot: Option<EntryId>,
    pub(super) damaged: &'a [Damage],
}

impl Covered<'_> {
    fn index(&self) -> Index {
        self.snapshot.unwrap_or_default().index
    }
}

/// What the log says, from its beginning up to some batch.
///
/// Invariants: the indexes of `entries` have no holes, and all are above the snapshot's; their terms never
/// fall; none is above `hard_state`'s.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) hard_state: HardState,
    /// The entries behind the snapshot.
    pub(super) entries: Vec<Entry>,
    /// The terms of all entries that the log holds.
    pub(super) terms: Terms,
    /// The number of the batch that comes next; the first is 1.
    pub(super) next_batch: u64,
    /// The segments read so far.
    pub(super) parts: Vec<Part>,
    /// The log holds all entries after this index, up to its end.
    begin: Index,
    /// What the snapshot covers: entries up to here are not kept.
    covered: Index,
}

/// What is known of the log's end; enough to check what is appended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    pub(super) hard_state: HardState,
    pub(super) last: EntryId,
}

impl End {
    /// Takes a new term and vote, or says why they cannot follow (Raft figure 2, 5.2).
    pub(super) fn accept_hard_state(&mut self, new: HardState) -> Result<(), String> {
        let old = self.hard_state;
        if new.term < old.term {
            return Err(format!("term {} after term {}", new.term, old.term));
        }
        if new.term == old.term && old.vote.is_some() && new.vote != old.vote {
            return Err(format!("a second vote in term {}", new.term));
        }
        self.hard_state = new;
        Ok(())
    }

    /// Takes it that the log is empty and goes on after this entry, or says why it cannot.
    pub(super) fn accept_base(&mut self, base: EntryId) -> Result<(), String> {
        if base.index == Index(0) || base.term > self.hard_state.term {
            return Err(format!(
                "a log after entry {base} in term {}",
                self.hard_state.term
            ));
        }
        self.last = base;
        Ok(())
    }

    /// Takes an entry that replaces the one of its index and all after it, or says why it cannot.
    /// `prev` is the entry before it, where the caller knows it.
    pub(super) fn accept_entry(&mut self, id: EntryId, prev: Option<EntryId>) -> Result<(), String> {
        if id.index == Index(0) || id.index > self.last.index.next() {
            return Err(format!("entry {id} after entry {}", self.last));
        }
        if prev.is_some_and(|prev| id.term < prev.term) {
            return Err(format!("entry {id} of an earlier term than the one before it"));
        }
        // Term, vote and entries are one serial log: an entry's term is durable before the entry is
        // (trap 3.33).
        if id.term > self.hard_state.term {
            return Err(format!("entry {id} while the term is {}", self.hard_state.term));
        }
        self.last = id;
        Ok(())
    }
}

impl Replay {
    /// Of a log whose first segment has this number and header. That of a log from the beginning is
    /// checked against the defaults, as others are against what comes before them.
    fn new(first_id: u32, first: &Header, covered: Index) -> Replay {
        let mut replay = Replay {
            hard_state: HardState::default(),
            entries: Vec::new(),
            terms: Terms::default(),
            next_batch: 1,
            parts: Vec::new(),
            begin: Index(0),
            covered,
        };
        if first_id != 1 {
            replay.hard_state = first.hard_state;
            replay.terms = Terms::after(first.last);
            replay.next_batch = first.first_batch;
            replay.begin = first.last.index;
        }
        replay
    }

    pub(super) fn end(&self) -> End {
        End {
            hard_state: self.hard_state,
            last: self.terms.last(),
        }
    }

    fn put(&mut self, entry: Entry) {
        let index = entry.id.index;
        self.begin = self.begin.min(index.prev());
        self.terms.put(entry.id);
        if let Some(part) = self.parts.last_mut() {
            part.max = part.max.max(index);
        }
        let first = self.entries.first().map_or(index, |first| first.id.index);
        let kept = index.0.saturating_sub(first.0);
        self.entries.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        if index > self.covered {
            self.entries.push(entry);
        }
    }

    fn restart_after(&mut self, base: EntryId) {
        self.begin = base.index;
        self.terms = Terms::after(base);
        self.entries.clear();
        restart_parts(&mut self.parts, base);
    }

    /// Takes the records of the next batch. The segment that follows, where they say that this one ends.
    fn apply(&mut self, records: Vec<Record>) -> Result<Option<u32>, String> {
        let mut sealed = None;
        for record in records {
            let mut end = self.end();
            if sealed.is_some() {
                return Err("a record behind the segment's end".into());
            }
            match record {
                Record::HardState(hard_state) => {
                    end.accept_hard_state(hard_state)?;
                    self.hard_state = hard_state;
                }
                Record::Entry(entry) => {
                    end.accept_entry(entry.id, self.terms.before(entry.id.index))?;
                    self.put(entry);
                }
                Record::Base(base) => {
                    end.accept_base(base)?;
                    self.restart_after(base);
                }
                Record::Seal(next) => sealed = Some(next),
            }
        }
        self.next_batch = self.next_batch.saturating_add(1);
        Ok(sealed)
    }
}

/// A log that was read to its end.
pub(super) struct Recovery<F: File> {
    /// The last segment, ready for the next batch.
    pub(super) active: Segment<F>,
    pub(super) replay: Replay,
    pub(super) torn: Option<Torn>,
}

/// How a segment ends.
enum Tail {
    /// With a seal: the log goes on in the next one.
    Sealed,
    /// Open; perhaps with a torn batch that takes the sectors up to `until`.
    Open { torn: Option<Torn>, until: u32 },
}

/// Reads the segments of these numbers, in their order, and makes the last one ready to be written.
pub(super) fn recover<F: Fs>(
    fs: &F,
    dir: &Path,
    ids: &[u32],
    identity: &Identity,
    covered: Covered<'_>,
    fsync: bool,
) -> Result<Recovery<F::File>, OpenError> {
    check_numbers(dir, ids, covered)?;
    // Names that a killed process gave may not be durable yet, and what follows relies on them.
    segment::sync_dir(fs, dir, fsync)?;
    let mut begun: Option<Replay> = None;
    let mut previous: Option<(Segment<F::File>, Tail)> = None;
    for (left, &id) in (0..ids.len()).rev().zip(ids) {
        let (mut segment, header) = Segment::open(fs, dir, id)?;
        let replay = begun.get_or_insert_with(|| Replay::new(id, &header, covered.index()));
        if left < 2 || identity.fsync_was_off {
            // The last batch went to one of these. What is read of it must be what the disk holds: a killed
            // process may have left it in memory only (trap 3.13), and so may a failed sync (trap 3.29).
            segment::sync(&mut segment.file, &segment.path, fsync)?;
            let dropped = segment.file.drop_cache();
            dropped.map_err(DiskError::with("read again", &segment.path))?;
        }
        if let Some((before, tail @ Tail::Open { .. })) = previous {
            check_header(&segment, &header, identity, replay, 1)?;
            check_interrupted(&before, &tail, &mut segment, left, replay.next_batch)?;
            check_covered(dir, replay, covered)?;
            replay.parts.push(Part::new(id, &header));
            return finish_interrupted(before, segment, begun, fsync);
        }
        check_header(&segment, &header, identity, replay, 0)?;
        replay.parts.push(Part::new(id, &header));
        let tail = read_segment(&mut segment, replay)?;
        previous = Some((segment, tail));
    }
    match (previous, begun) {
        (Some((mut active, Tail::Open { torn, until })), Some(replay)) => {
            check_covered(dir, &replay, covered)?;
            if torn.is_some() && !mutant::is(Mutant::TornBatchStays) {
                neutralise(&mut active, until, fsync)?;
            }
            Ok(Recovery { active, replay, torn })
        }
        (Some((last, Tail::Sealed)), _) => {
            let found = format!(
                "segment {} ends here and the log goes on in the next one, {}, which is missing",
                last.id,
                segment::Name::segment(dir, last.id.saturating_add(1)).display()
            );
            Err(Damage::new(&last.path, segment::offset(last.next), found).into())
        }
        _ => Err(no_segment(dir).into()),
    }
}

fn no_segment(dir: &Path) -> Damage {
    Damage::new(dir, 0, "no segment of the log is there")
}

/// Segments are dropped from the first on, and only where a snapshot covers what is in them.
fn check_numbers(dir: &Path, ids: &[u32], covered: Covered<'_>) -> Result<(), Damage> {
    let Some(&lowest) = ids.first() else {
        let path = segment::Name::segment(dir, 1);
        return Err(Damage::new(
            &path,
            0,
            "this segment is missing, and no other is there",
        ));
    };
    if lowest != 1 && covered.snapshot.is_none() {
        let path = segment::Name::segment(dir, 1);
        let found = format!("this segment is missing, and segment {lowest} is there");
        return Err(not_covered(covered, Damage::new(&path, 0, found)));
    }
    for (expected, &id) in (lowest..).zip(ids) {
        if id != expected {
            let path = segment::Name::segment(dir, expected);
            return Err(Damage::new(
                &path,
                0,
                format!("this segment is missing, and segment {id} is there"),
            ));
        }
    }
    Ok(())
}

/// The log must hold every entry behind the snapshot; without one, every entry.
fn check_covered(dir: &Path, replay: &Replay, covered: Covered<'_>) -> Result<(), Damage> {
    if replay.begin <= covered.index() {
        return Ok(());
    }
    let newest = match covered.snapshot {
        Some(last) => format!("the newest snapshot ends with entry {last}"),
        None => "there is no snapshot".into(),
    };
    let found = format!(
        "the log begins after index {}, and {newest}: what is between is missing",
        replay.begin
    );
    let first = replay.parts.first().map_or(0, |part| part.id);
    let gap = Damage::new(&segment::Name::segment(dir, first), 0, found);
    Err(not_covered(covered, gap))
}

/// Names the damaged snapshot that would have covered it, where there is one.
fn not_covered(covered: Covered<'_>, gap: Damage) -> Damage {
    match covered.damaged.first() {
        Some(newest) => {
            let found = format!(
                "{}; and no other snapshot can take this one's place ({}: {})",
                newest.found,
                gap.path.display(),
                gap.found
            );
            Damage::new(&newest.path, newest.offset, found)
        }
        None => gap,
    }
}

/// The header must continue what the segments before it said; `seals` is 1 where a seal is still to be
/// written between the two.
fn check_header<F: File>(
    segment: &Segment<F>,
    header: &Header,
    identity: &Identity,
    replay: &Replay,
    seals: u64,
) -> Result<(), Damage> {
    let damage = |found: String| Err(Damage::new(&segment.path, 0, found));
    if (header.node_id, header.incarnation) != (identity.node_id, identity.incarnation) {
        return damage(format!(
            "the segment belongs to another data folder, of node {} and incarnation {:016x}; this one is of \
             node {} and incarnation {:016x}",
            header.node_id, header.incarnation, identity.node_id, identity.incarnation
        ));
    }
    let expected = replay.next_batch.saturating_add(seals);
    if header.first_batch != expected {
        return damage(format!(
            "the segment begins with batch {}, and the one before it leads to batch {expected}",
            header.first_batch
        ));
    }
    let end = replay.end();
    if header.hard_state != end.hard_state || header.last != end.last {
        return damage(format!(
            "the segment was begun after entry {} in term {}, and the one before it ends with entry {} in \
             term {}",
            header.last, header.hard_state.term, end.last, end.hard_state.term
        ));
    }
    Ok(())
}

/// A segment that is not sealed although another follows: the node went down between beginning the new
/// one and sealing the old one. Then nothing can have been written to the new one, and it is the last.
fn check_interrupted<F: File>(
    before: &Segment<F>,
    tail: &Tail,
    segment: &mut Segment<F>,
    left: usize,
    batch: u64,
) -> Result<(), OpenError> {
    let at = segment::offset(before.next);
    let incomplete = matches!(tail, Tail::Open { torn: Some(_), .. });
    if left > 0 || incomplete {
        let found = format!("batch {batch} should be here, and the segments after this one are there");
        return Err(Damage::new(&before.path, at, found).into());
    }
    let mut reader = Reader::new(segment);
    match read_tail(&mut reader, 1, batch.saturating_add(1))? {
        Tail::Open { torn: None, .. } => Ok(()),
        _ => {
            let found = "the end of this segment should be here, and the one after it holds data";
            Err(Damage::new(&before.path, at, found).into())
        }
    }
}

/// Does what the interrupted process would have done next.
fn finish_interrupted<F: File>(
    mut before: Segment<F>,
    active: Segment<F>,
    replay: Option<Replay>,
    fsync: bool,
) -> Result<Recovery<F>, OpenError> {
    let mut replay = replay.ok_or_else(|| no_segment(&active.path))?;
    seal(&mut before, active.id, replay.next_batch, fsync)?;
    replay.next_batch = replay.next_batch.saturating_add(1);
    Ok(Recovery {
        active,
        replay,
        torn: None,
    })
}

/// Writes that a segment ends here. One sector: it is there whole or not at all.
pub(super) fn seal<F: File>(
    segment: &mut Segment<F>,
    next_segment: u32,
    batch: u64,
    fsync: bool,
) -> Result<(), DiskError> {
    let (mut records, mut sectors) = (BytesMut::new(), Vec::new());
    format::begin_batch(&mut records);
    format::put_seal(next_segment, &mut records);
    format::finish_batch(&mut records);
    format::write_sectors(&records, segment.id, segment.next, batch, &mut sectors);
    segment.append(&mut sectors, fsync)
}

/// Overwrites a torn batch, durably. Its sectors would otherwise be there beside those of the next batch,
/// which gets the same number.
fn neutralise<F: File>(segment: &mut Segment<F>, until: u32, fsync: bool) -> Result<(), DiskError> {
    let zeroes = vec![0; WINDOW_SECTORS as usize * SECTOR_BYTES];
    let mut at = segment.next;
    while at < until {
        let count = (until - at).min(WINDOW_SECTORS);
        let bytes = zeroes.get(..count as usize * SECTOR_BYTES).unwrap_or_default();
        let written = segment.file.write_at(bytes, segment::offset(at));
        written.map_err(DiskError::with("write", &segment.path))?;
        at += count;
    }
    segment::sync(&mut segment.file, &segment.path, fsync)
}

/// Replays a segment's batches and sets where the next one goes.
fn read_segment<F: File>(segment: &mut Segment<F>, replay: &mut Replay) -> Result<Tail, OpenError> {
    let mut at = 1;
    let mut reader = Reader::new(segment);
    let tail = loop {
        let Some((data, sectors)) = read_batch(&mut reader, at, replay.next_batch)? else {
            break read_tail(&mut reader, at, replay.next_batch)?;
        };
        let (batch, offset) = (replay.next_batch, segment::offset(at));
        let damage = |found: String| {
            // The checksums are right, so this was written so: by a mistake, or by a newer version.
            Damage::new(
                &reader.segment.path,
                offset,
                format!("batch {batch} is whole but wrong: {found}"),
            )
        };
        let records = format::read_batch(data).map_err(|e| damage(e.reason))?;
        let sealed = replay.apply(records).map_err(damage)?;
        at += sectors;
        match sealed {
            Some(next) if next == reader.segment.id.saturating_add(1) => break Tail::Sealed,
            Some(next) => return Err(damage(format!("it leads to segment {next}")).into()),
            None => {}
        }
    };
    segment.next = at;
    Ok(tail)
}

/// The data of the batch of this number at this sector, and how many sectors it takes; `None` unless all
/// of it is there.
pub(super) fn read_batch<F: File>(
    reader: &mut Reader<'_, F>,
    at: u32,
    number: u64,
) -> Result<Option<(Bytes, u32)>, DiskError> {
    let mut bytes = BytesMut::new();
    let mut sector = at;
    let mut expected = None;
    let most = reader.segment.sectors.saturating_sub(at);
    while sector < reader.segment.sectors {
        let Sector::Current {
            batch,
            remaining,
            data,
        } = reader.sector(sector)?
        else {
            return Ok(None);
        };
        if batch != number || expected.is_some_and(|expected| remaining != expected) {
            return Ok(None);
        }
        if expected.is_none() {
            // Entries keep this buffer alive: it has the size it needs. No segment holds more than that.
            bytes.reserve(remaining.saturating_add(1).min(most) as usize * data.len());
        }
        bytes.extend_from_slice(data);
        sector += 1;
        if remaining == 0 {
            return Ok(Some((bytes.freeze(), sector - at)));
        }
        expected = Some(remaining - 1);
    }
    Ok(None)
}

/// Looks at every sector from the end of the log to the end of the file. All must be unwritten, left over,
/// or of the one batch that was in flight; its sectors name the same last sector, each by its distance.
fn read_tail<F: File>(reader: &mut Reader<'_, F>, at: u32, number: u64) -> Result<Tail, OpenError> {
    let mut last = None;
    let mut count = 0;
    for sector in at..reader.segment.sectors {
        let found = match reader.sector(sector)? {
            Sector::Unwritten | Sector::Earlier => continue,
            Sector::Current { batch, remaining, .. }
                if batch == number && last.is_none_or(|last| last == sector.saturating_add(remaining)) =>
            {
                last = Some(sector.saturating_add(remaining));
                count += 1;
                continue;
            }
            Sector::Current { batch, .. } if batch > number => format!(
                "a part of batch {batch} is here, and batch {number}, which was written before it, is not \
                 whole at byte {}",
                segment::offset(at)
            ),
            Sector::Current { batch, .. } => {
                format!("a part of batch {batch} is here, where batch {number} or nothing should be")
            }
            Sector::Later(id) => format!("a part of segment {id} is here"),
            Sector::Unreadable => format!(
                "this sector is neither data with a right checksum nor unused; batch {number} may be what \
                 is broken here, or has been written before this"
            ),
        };
        let path = &reader.segment.path;
        return Err(Damage::new(path, segment::offset(sector), found).into());
    }
    let torn = last.map(|_| Torn {
        path: reader.segment.path.clone(),
        offset: segment::offset(at),
        found_bytes: segment::offset(count),
    });
    let until = last
        .map_or(at, |last| last.saturating_add(1))
        .min(reader.segment.sectors);
    Ok(Tail::Open { torn, until })
}

/// Reads a segment's sectors, many at a time.
pub(super) struct Reader<'a, F: File> {
    segment: &'a Segment<F>,
    window: Vec<u8>,
    /// The first sector in the window.
    start: u32,
}

impl<'a, F: File> Reader<'a, F> {
    pub(super) fn new(segment: &'a Segment<F>) -> Reader<'a, F> {
        Reader {
            segment,
            window: Vec::new(),
            start: 0,
        }
    }

    /// What this sector is. It must be one of the file's.
    pub(super) fn sector(&mut self, number: u32) -> Result<Sector<'_>, DiskError> {
        let in_window = |start: u32, window: &[u8]| {
            let at = number.checked_sub(start)? as usize * SECTOR_BYTES;
            window.get(at..at + SECTOR_BYTES).map(|_| at)
        };
        let at = match in_window(self.start, &self.window) {
            Some(at) => at,
            None => {
                let count = self.segment.sectors.saturating_sub(number).min(WINDOW_SECTORS);
                self.window.resize(count as usize * SECTOR_BYTES, 0);
                let read = self
                    .segment
                    .file
                    .read_at(&mut self.window, segment::offset(number));
                read.map_err(DiskError::with("read", &self.segment.path))?;
                self.start = number;
                0
            }
        };
        let bytes = self.window.get(at..).and_then(<[u8]>::first_chunk);
        Ok(match bytes {
            Some(bytes) => format::read_sector(bytes, self.segment.id, number),
            None => Sector::Unreadable,
        })
    }
}
