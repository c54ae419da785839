//! Reads what can be read of a damaged log, to learn what the node must not forget: the highest term, its vote in
//! that term, and who the members were. Nothing else is taken from it: no entry of a damaged log counts.
//!
//! A sector by itself says which batch it belongs to and how many follow, not whether it is the batch's first. And a
//! batch read from its middle could say anything, for clients choose the bytes. So a batch is read only where its
//! beginning is certain: where the one before it ends, or where as many sectors are unreadable as batches are missing.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::{DiskError, OpenError};
use super::format::{self, Header, Record, SECTOR_BYTES, Sector};
use super::fs::{File, Fs};
use super::identity::Identity;
use super::opening::{list, segment_ids};
use super::recovery::{Reader, read_batch};
use super::segment::{Name, Segment};
use super::snapshot::{self, SnapshotReader};
use crate::raft::{EntryId, HardState, Index, Membership, Payload, Term};

/// What is known of a log.
#[derive(Debug, Default)]
pub(super) struct Salvaged {
    /// The highest term, and the vote in it where that was found.
    pub(super) known: HardState,
    /// The latest membership that was found.
    pub(super) membership: Option<Membership>,
    /// All that were found, by the indexes of their entries.
    memberships: BTreeMap<Index, Membership>,
}

/// Reads the segments and the heads of the snapshots. Changes nothing.
///
/// # Errors
/// The operating system's.
pub(super) fn read<F: Fs>(
    fs: &F,
    log: &Path,
    snapshots: &Path,
    identity: &Identity,
) -> Result<Salvaged, DiskError> {
    let mut salvaged = Salvaged::default();
    for last in list(fs, snapshots)?
        .iter()
        .filter_map(|name| snapshot::parse(name))
    {
        match SnapshotReader::open(fs, snapshots, last) {
            Ok(reader) => {
                let header = reader.header();
                salvaged.know_term(header.last.term);
                let membership = header.membership.clone();
                salvaged.memberships.insert(header.membership_index, membership);
            }
            Err(OpenError::Disk(error)) => return Err(error),
            Err(_) => {}
        }
    }
    for id in segment_ids(&list(fs, log)?) {
        salvaged.read_segment(&open(fs, log, id)?, identity)?;
    }
    salvaged.membership = salvaged.memberships.pop_last().map(|(_, last)| last);
    Ok(salvaged)
}

/// Opens a segment whatever is in it.
fn open<F: Fs>(fs: &F, dir: &Path, id: u32) -> Result<Segment<F::File>, DiskError> {
    let path = Name::segment(dir, id);
    let file = fs.open(&path).map_err(DiskError::with("open", &path))?;
    let size_bytes = file.size_bytes().map_err(DiskError::with("read", &path))?;
    Ok(Segment {
        file,
        path,
        id,
        sectors: u32::try_from(size_bytes / SECTOR_BYTES as u64).unwrap_or(u32::MAX),
        next: 1,
    })
}

fn read_header<F: File>(segment: &Segment<F>) -> Result<Option<Header>, DiskError> {
    let mut sector = [0; SECTOR_BYTES];
    if segment.sectors == 0 {
        return Ok(None);
    }
    segment
        .file
        .read_at(&mut sector, 0)
        .map_err(DiskError::with("read", &segment.path))?;
    Ok(Header::read(&sector, segment.id).ok())
}

impl Salvaged {
    /// Takes notice of a term and a vote in it.
    pub(super) fn know(&mut self, found: HardState) {
        if found.term > self.known.term {
            self.known = found;
        } else if found.term == self.known.term {
            self.known.vote = self.known.vote.or(found.vote);
        }
    }

    fn know_term(&mut self, term: Term) {
        self.know(HardState { term, vote: None });
    }

    fn read_segment<F: File>(&mut self, segment: &Segment<F>, identity: &Identity) -> Result<(), DiskError> {
        let sectors = segment.sectors;
        let mut begins = Begins::default();
        if let Some(header) = read_header(segment)? {
            if (header.node_id, header.incarnation) != (identity.node_id, identity.incarnation) {
                return Ok(());
            }
            self.know(header.hard_state);
            self.know_term(header.last.term);
            begins.next = Some((1, header.first_batch));
        }
        let mut reader = Reader::new(segment);
        let mut at = 1;
        while at < sectors {
            let Sector::Current { batch, remaining, .. } = reader.sector(at)? else {
                at += 1;
                continue;
            };
            let begun = begins.at(at, batch);
            begins.next = Some((
                at.saturating_add(remaining).saturating_add(1),
                batch.saturating_add(1),
            ));
            let whole = if begun {
                read_batch(&mut reader, at, batch)?
            } else {
                None
            };
            at += whole.map_or(1, |(data, length)| {
                // Where it can't be read, a mistake wrote it.
                let records = format::read_batch(data).unwrap_or_default();
                records.into_iter().for_each(|record| self.take(record));
                length
            });
        }
        Ok(())
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::HardState(hard_state) => self.know(hard_state),
            Record::Base(EntryId { term, .. }) => self.know_term(term),
            Record::Seal(_) => {}
            Record::Entry(entry) => {
                self.know_term(entry.id.term);
                self.memberships.split_off(&entry.id.index);
                if let Payload::Membership(membership) = entry.payload {
                    self.memberships.insert(entry.id.index, *membership);
                }
            }
        }
    }
}

/// Where the batches of a segment begin.
#[derive(Default)]
struct Begins {
    /// A sector and the batch that begins there.
    next: Option<(u32, u64)>,
}

impl Begins {
    /// Whether it is certain that this sector is the first of its batch. Where as many batches are missing before it
    /// as sectors are, each of them took one.
    fn at(&self, sector: u32, batch: u64) -> bool {
        let Some((next_sector, next_batch)) = self.next else {
            return sector == 1;
        };
        let missing = sector.checked_sub(next_sector).map(u64::from);
        missing.is_some() && missing == batch.checked_sub(next_batch)
    }
}
