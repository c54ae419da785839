//! Bytes of the log: sectors, batches, records and the header of a segment. `docs/disk-format.md` says why.
//!
//! ```text
//! segment   | sector 0: header | batch | batch | ... | seal | never written, or left over |
//!
//! sector    0                    492         500          504            508        512
//!           | data, 492 bytes    | batch u64 | segment u32 | remaining u32 | crc32c u32 |
//!
//! batch     the data of its sectors, one after the other:
//!           | length u32 | record | record | ... | zeroes to the end of the sector |
//!
//! record    | type u8 | length u32 | payload, `length` bytes |
//!
//! header    | "raftlog\n" | version u32 | 0 u32 | size u64 | node id u64 | incarnation u64 |
//!           | term u64 | vote u64 | last index u64 | last term u64 | zeroes |
//! ```
//!
//! Numbers are little-endian. `remaining` is how many sectors of the same batch follow. The checksum covers
//! the 508 bytes before it and starts from the sector's number in the file, so that a sector found elsewhere
//! than where it was written does not verify.
//!
//! Version 2 added the record of type 4, and a log that does not begin with segment 1; version 3 lines of the
//! identity. Nothing that an earlier version wrote changed its meaning, so all are read.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::raft::{Entry, EntryId, HardState, Index, NodeId, Term};
use crate::wire::disk::{Malformed, decode_entry, decode_hard_state, encode_entry, encode_hard_state};

/// The version of this format, in every header and in the identity file.
pub(super) const VERSION: u32 = 3;

/// The first version, which is read too.
pub(super) const VERSION_MIN: u32 = 1;

/// What a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;

/// What a write is padded to where there is room: whole pages are written without reading them first.
pub(super) const PAGE_SECTORS: u32 = 8;

/// The largest batch, in bytes of its records. Far above anything the core makes.
pub(super) const BATCH_MAX_BYTES: usize = 256 * 1024 * 1024;

/// The smallest segment: a header, a batch and a seal fit.
pub(super) const SEGMENT_MIN_BYTES: u64 = 8 * 1024;

const DATA_BYTES: usize = 492;
const CHECKED_BYTES: usize = 508;
const MAGIC: &[u8; 8] = b"raftlog\n";

const TYPE_HARD_STATE: u8 = 1;
const TYPE_ENTRY: u8 = 2;
const TYPE_SEAL: u8 = 3;
const TYPE_BASE: u8 = 4;

/// What a sector turns out to be, for one who reads it as a part of a certain segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sector<'a> {
    /// All zeroes.
    Unwritten,
    /// A sector of this segment.
    Current {
        /// The batch it belongs to.
        batch: u64,
        /// How many sectors of that batch follow.
        remaining: u32,
        /// Its share of the batch.
        data: &'a [u8],
    },
    /// Left over from an earlier use of the file.
    Earlier,
    /// A sector of a segment that comes after this one, which cannot be.
    Later(u32),
    /// Nothing that raftline writes.
    Unreadable,
}

/// Reads the sector that has this number in the file of this segment.
pub(super) fn read_sector(bytes: &[u8; SECTOR_BYTES], segment: u32, number: u32) -> Sector<'_> {
    if bytes == &[0; SECTOR_BYTES] {
        return Sector::Unwritten;
    }
    let (checked, mut crc) = bytes.split_at(CHECKED_BYTES);
    if crc.get_u32_le() != crc32c::crc32c_append(number, checked) {
        return Sector::Unreadable;
    }
    let (data, mut trailer) = checked.split_at(DATA_BYTES);
    let batch = trailer.get_u64_le();
    let found = trailer.get_u32_le();
    let remaining = trailer.get_u32_le();
    match found.cmp(&segment) {
        std::cmp::Ordering::Less => Sector::Earlier,
        std::cmp::Ordering::Greater => Sector::Later(found),
        std::cmp::Ordering::Equal => Sector::Current {
            batch,
            remaining,
            data,
        },
    }
}

/// How many sectors a batch of so many bytes takes.
pub(super) fn sectors_for(batch_bytes: usize) -> u32 {
    u32::try_from(batch_bytes.div_ceil(DATA_BYTES)).unwrap_or(u32::MAX)
}

/// Appends the sectors of a batch to `out`; the first one has this number in the file of this segment.
pub(super) fn write_sectors(batch_bytes: &[u8], segment: u32, first: u32, batch: u64, out: &mut Vec<u8>) {
    let count = sectors_for(batch_bytes.len());
    out.reserve(count as usize * SECTOR_BYTES);
    for (position, data) in (0..count).zip(batch_bytes.chunks(DATA_BYTES)) {
        let start = out.len();
        out.extend_from_slice(data);
        out.resize(start + DATA_BYTES, 0);
        out.put_u64_le(batch);
        out.put_u32_le(segment);
        out.put_u32_le(count - position - 1);
        let checked = out.get(start..).unwrap_or_default();
        let crc = crc32c::crc32c_append(first.wrapping_add(position), checked);
        out.put_u32_le(crc);
    }
}

/// One thing that a batch says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// Term and vote from here on.
    HardState(HardState),
    /// An entry; it replaces the one of its index and all after that.
    Entry(Entry),
    /// Nothing more in this segment; the log goes on in that one.
    Seal(u32),
    /// The log is empty here and goes on after this entry, which a snapshot covers.
    Base(EntryId),
}

/// Starts a batch in `out`, which is emptied.
pub(super) fn begin_batch(out: &mut BytesMut) {
    out.clear();
    out.put_u32_le(0);
}

/// Appends term and vote to the batch.
pub(super) fn put_hard_state(hard_state: &HardState, out: &mut BytesMut) {
    put_record(TYPE_HARD_STATE, out, |out| {
        encode_hard_state(hard_state, out);
    });
}

/// Appends an entry to the batch.
pub(super) fn put_entry(entry: &Entry, out: &mut BytesMut) {
    put_record(TYPE_ENTRY, out, |out| encode_entry(entry, out));
}

/// Appends the end of the segment to the batch.
pub(super) fn put_seal(next_segment: u32, out: &mut BytesMut) {
    put_record(TYPE_SEAL, out, |out| out.put_u32_le(next_segment));
}

/// Appends to the batch that the log begins anew after this entry.
pub(super) fn put_base(base: EntryId, out: &mut BytesMut) {
    put_record(TYPE_BASE, out, |out| {
        out.put_u64_le(base.index.0);
        out.put_u64_le(base.term.0);
    });
}

/// Ends the batch: its length is known now.
pub(super) fn finish_batch(out: &mut BytesMut) {
    put_length_at(0, out);
}

fn put_record(kind: u8, out: &mut BytesMut, payload: impl FnOnce(&mut BytesMut)) {
    out.put_u8(kind);
    let at = out.len();
    out.put_u32_le(0);
    payload(out);
    put_length_at(at, out);
}

/// Fills the length at `at` with the number of bytes that follow it. `BATCH_MAX_BYTES` keeps it in 32 bits.
fn put_length_at(at: usize, out: &mut BytesMut) {
    let length = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
    if let Some(mut place) = out.get_mut(at..at + 4) {
        place.put_u32_le(length);
    }
}

/// Reads the records of a batch, given the data of its sectors.
pub(super) fn read_batch(mut bytes: Bytes) -> Result<Vec<Record>, Malformed> {
    let short = |_| Malformed::new("a batch that ends too early");
    let length = bytes.try_get_u32_le().map_err(short)? as usize;
    if length > bytes.len() {
        return Err(Malformed::new("a batch longer than its sectors"));
    }
    bytes.truncate(length);
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let kind = bytes.try_get_u8().map_err(short)?;
        let length = bytes.try_get_u32_le().map_err(short)? as usize;
        if length > bytes.len() {
            return Err(Malformed::new("a record longer than its batch"));
        }
        let mut payload = bytes.split_to(length);
        records.push(match kind {
            TYPE_HARD_STATE => Record::HardState(decode_hard_state(payload)?),
            TYPE_ENTRY => Record::Entry(decode_entry(payload)?),
            TYPE_SEAL => Record::Seal(payload.try_get_u32_le().map_err(short)?),
            TYPE_BASE => {
                let index = Index(payload.try_get_u64_le().map_err(short)?);
                let term = Term(payload.try_get_u64_le().map_err(short)?);
                Record::Base(EntryId { term, index })
            }
            _ => {
                return Err(Malformed::new(format!(
                    "a record of type {kind}, which this version does not know"
                )));
            }
        });
    }
    Ok(records)
}

/// What the first sector of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The length of the file.
    pub(super) size_bytes: u64,
    /// Whose log it is.
    pub(super) node_id: NodeId,
    /// Of which data folder of that node.
    pub(super) incarnation: u64,
    /// The number of the segment's first batch.
    pub(super) first_batch: u64,
    /// Term and vote before that batch: the segments before this one are not needed for them.
    pub(super) hard_state: HardState,
    /// The last entry before that batch.
    pub(super) last: EntryId,
}

/// Why a header was not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// Another version of the format.
    Version(u32),
    /// No header of this segment.
    Malformed(String),
}

impl Header {
    /// The header's sector.
    pub(super) fn write(&self, segment: u32) -> Vec<u8> {
        let mut data = Vec::with_capacity(DATA_BYTES);
        data.put_slice(MAGIC);
        data.put_u32_le(VERSION);
        data.put_u32_le(0);
        data.put_u64_le(self.size_bytes);
        data.put_u64_le(self.node_id.0);
        data.put_u64_le(self.incarnation);
        data.put_u64_le(self.hard_state.term.0);
        data.put_u64_le(self.hard_state.vote.map_or(0, |id| id.0));
        data.put_u64_le(self.last.index.0);
        data.put_u64_le(self.last.term.0);
        let mut out = Vec::new();
        write_sectors(&data, segment, 0, self.first_batch, &mut out);
        out
    }

    /// Reads a header's sector.
    pub(super) fn read(bytes: &[u8; SECTOR_BYTES], segment: u32) -> Result<Header, HeaderError> {
        let Sector::Current { batch, data, .. } = read_sector(bytes, segment, 0) else {
            return Err(HeaderError::Malformed(format!(
                "the header of segment {segment} should be here and is not, or its checksum is wrong"
            )));
        };
        let mut data = match data.split_first_chunk::<8>() {
            Some((MAGIC, rest)) => rest,
            _ => return Err(HeaderError::Malformed("this is no header of a segment".into())),
        };
        let version = data.get_u32_le();
        if !(VERSION_MIN..=VERSION).contains(&version) {
            return Err(HeaderError::Version(version));
        }
        data.advance(4);
        let size_bytes = data.get_u64_le();
        let node_id = NodeId(data.get_u64_le());
        let incarnation = data.get_u64_le();
        let term = Term(data.get_u64_le());
        let vote = data.get_u64_le();
        let index = Index(data.get_u64_le());
        let last_term = Term(data.get_u64_le());
        Ok(Header {
            size_bytes,
            node_id,
            incarnation,
            first_batch: batch,
            hard_state: HardState {
                term,
                vote: (vote != 0).then_some(NodeId(vote)),
            },
            last: EntryId {
                term: last_term,
                index,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::raft::Payload;

    fn sectors(bytes: &[u8]) -> Vec<&[u8; SECTOR_BYTES]> {
        bytes
            .chunks(SECTOR_BYTES)
            .map(|c| c.try_into().unwrap())
            .collect()
    }

    fn header() -> Header {
        Header {
            size_bytes: 1 << 20,
            node_id: NodeId(3),
            incarnation: 0xfeed,
            first_batch: 17,
            hard_state: HardState {
                term: Term(4),
                vote: Some(NodeId(2)),
            },
            last: EntryId {
                term: Term(3),
                index: Index(99),
            },
        }
    }

    #[test]
    fn sectors_know_their_segment_place_and_batch() {
        let mut out = Vec::new();
        write_sectors(&[7; 1000], 5, 10, 42, &mut out);
        let written = sectors(&out);
        assert_eq!(written.len(), 3);
        for (position, sector) in (0..).zip(&written) {
            let Sector::Current { batch, remaining, .. } = read_sector(sector, 5, 10 + position) else {
                panic!("sector {position} does not verify");
            };
            assert_eq!((batch, remaining), (42, 2 - position));
        }
        assert_eq!(read_sector(written[0], 6, 10), Sector::Earlier);
        assert_eq!(read_sector(written[0], 4, 10), Sector::Later(5));
        assert_eq!(read_sector(written[0], 5, 11), Sector::Unreadable);
        assert_eq!(read_sector(&[0; SECTOR_BYTES], 5, 10), Sector::Unwritten);
    }

    #[test]
    fn any_flipped_bit_of_a_sector_is_seen() {
        let mut out = Vec::new();
        write_sectors(b"a command", 5, 10, 42, &mut out);
        for bit in 0..SECTOR_BYTES * 8 {
            let mut bytes: [u8; SECTOR_BYTES] = out.as_slice().try_into().unwrap();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read_sector(&bytes, 5, 10), Sector::Unreadable);
        }
    }

    #[test]
    fn a_header_comes_back_and_knows_its_segment_and_version() {
        let bytes = header().write(9);
        let sector = sectors(&bytes)[0];
        assert_eq!(Header::read(sector, 9), Ok(header()));
        assert!(matches!(Header::read(sector, 8), Err(HeaderError::Malformed(_))));

        let of_version = |version| {
            let mut data = bytes[..DATA_BYTES].to_vec();
            data[8] = version;
            let mut out = Vec::new();
            write_sectors(&data, 9, 0, 17, &mut out);
            out
        };
        assert_eq!(
            Header::read(sectors(&of_version(4))[0], 9),
            Err(HeaderError::Version(4))
        );
        assert_eq!(Header::read(sectors(&of_version(2))[0], 9), Ok(header()));
        let old = of_version(1);
        // Of all but the sector's own checksum: with it, the result would be the same for all sectors.
        assert_eq!(
            crc32c::crc32c(&old[..CHECKED_BYTES]),
            1_943_952_921,
            "what version 1 wrote"
        );
        assert_eq!(Header::read(sectors(&old)[0], 9), Ok(header()));
    }

    /// What versions 1 to 3 look like on disk. When this fails, old logs can no longer be read.
    #[test]
    fn the_bytes_of_versions_1_to_3() {
        let mut batch = BytesMut::new();
        begin_batch(&mut batch);
        put_hard_state(&header().hard_state, &mut batch);
        finish_batch(&mut batch);
        assert_eq!(batch[..], [9, 0, 0, 0, 1, 4, 0, 0, 0, 0x08, 4, 0x10, 2]);
        let mut out = Vec::new();
        write_sectors(&batch, 5, 10, 42, &mut out);
        assert_eq!(out[..13], batch[..]);
        assert_eq!(out[492..508], [42, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(crc32c::crc32c(&out[..CHECKED_BYTES]), 604_388_648);
        let mut written = header().write(9);
        assert_eq!(crc32c::crc32c(&written[..CHECKED_BYTES]), 2_555_488_087);
        written[8] = 2;
        assert_eq!(
            crc32c::crc32c(&written[..CHECKED_BYTES]),
            3_986_054_128,
            "what version 2 wrote"
        );
        begin_batch(&mut batch);
        put_base(header().last, &mut batch);
        finish_batch(&mut batch);
        assert_eq!(batch[..9], [21, 0, 0, 0, 4, 16, 0, 0, 0]);
        assert_eq!(batch[9..], [99, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_batch_of_records_comes_back() {
        let entry = Entry {
            id: EntryId {
                term: Term(1),
                index: Index(1),
            },
            payload: Payload::Command(Bytes::from(vec![3; 700])),
        };
        let hard_state = header().hard_state;
        let mut out = BytesMut::new();
        begin_batch(&mut out);
        put_hard_state(&hard_state, &mut out);
        put_entry(&entry, &mut out);
        put_base(header().last, &mut out);
        put_seal(8, &mut out);
        finish_batch(&mut out);
        out.put_bytes(0, 100);
        let expected = vec![
            Record::HardState(hard_state),
            Record::Entry(entry),
            Record::Base(header().last),
            Record::Seal(8),
        ];
        assert_eq!(read_batch(out.freeze()), Ok(expected));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_batch_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read_batch(Bytes::from(bytes));
        }

        #[test]
        fn any_bytes_are_some_kind_of_sector(bytes in proptest::collection::vec(any::<u8>(), SECTOR_BYTES)) {
            let sector: &[u8; SECTOR_BYTES] = bytes.as_slice().try_into().unwrap();
            let _ = Header::read(sector, 1);
        }
    }
}
