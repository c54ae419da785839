//! The disk of a server in `world`: a log, and snapshots as files that are durable from one moment to the next. Also
//! what the driver does with the chunks of a snapshot; here a chunk holds the names of a few applied entries.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::{Batch, Entry, EntryId, HardState, Index, InstallSnapshot, SnapshotHeader, Term};

/// What is durable, and the write under way.
#[derive(Clone, Default)]
pub struct Disk {
    pub hard_state: HardState,
    /// What was acknowledged before may be lost (trap 3.31).
    pub recovering: bool,
    /// The log begins after this entry.
    pub base: EntryId,
    pub entries: Vec<Entry>,
    /// The snapshots, the newest two at most.
    pub snapshots: BTreeMap<Index, Snapshot>,
    pub in_flight: Option<Batch>,
    /// Writes wait until they are told to end.
    pub is_held: bool,
}

/// A snapshot: the state is the list of what was applied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub header: SnapshotHeader,
    pub applied: Vec<EntryId>,
}

/// Names in one chunk.
const CHUNK_NAMES: usize = 4;

impl Snapshot {
    /// A chunk and whether it is the last one; `None` past the end.
    pub fn chunk(&self, number: u64) -> Option<(Bytes, bool)> {
        let chunks: Vec<&[EntryId]> = self.applied.chunks(CHUNK_NAMES).collect();
        let names = chunks.get(usize::try_from(number).ok()?)?;
        let text: String = names.iter().map(|name| format!("{name}\n")).collect();
        Some((text.into(), number + 1 == chunks.len() as u64))
    }

    fn read(header: SnapshotHeader, chunks: &[Bytes]) -> Snapshot {
        let name = |line: &str| {
            let (index, term) = line.split_once('@').expect("a name");
            EntryId {
                term: Term(term.parse().expect("a term")),
                index: Index(index.parse().expect("an index")),
            }
        };
        let text = |chunk: &Bytes| String::from_utf8(chunk.to_vec()).expect("text");
        let all: String = chunks.iter().map(text).collect();
        Snapshot {
            header,
            applied: all.lines().map(name).collect(),
        }
    }
}

/// A snapshot that arrives.
#[derive(Default)]
pub struct Receiving {
    header: SnapshotHeader,
    chunks: Vec<Bytes>,
    is_complete: bool,
}

impl Receiving {
    /// Takes a chunk, if it is the next one. Says which one is wanted next and whether that was all; `None`, for no
    /// answer, while another snapshot that is complete is being read.
    pub fn take(&mut self, request: &InstallSnapshot) -> Option<(u64, bool)> {
        if self.header.last != request.header.last {
            if self.is_complete {
                return None;
            }
            *self = Receiving {
                header: request.header.clone(),
                ..Receiving::default()
            };
        }
        if !self.is_complete && request.chunk == self.chunks.len() as u64 {
            self.chunks.push(request.data.clone());
            self.is_complete = request.done;
        }
        Some((self.chunks.len() as u64, self.is_complete))
    }

    /// The whole, once it is here; and then nothing is.
    pub fn take_complete(&mut self) -> Option<Snapshot> {
        if !self.is_complete {
            return None;
        }
        let done = std::mem::take(self);
        Some(Snapshot::read(done.header, &done.chunks))
    }
}

impl Disk {
    /// A write ends: all of it is durable.
    pub fn write(&mut self, batch: Batch) {
        if let Some(last) = batch.install {
            assert_eq!(
                self.snapshots
                    .get(&last.index)
                    .map(|snapshot| snapshot.header.last),
                Some(last),
                "what is installed is durable as a file"
            );
            self.restart_after(last);
        }
        self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
        if let Some(first) = batch.entries.first() {
            let kept = first.id.index.0.checked_sub(self.base.index.0 + 1);
            let kept = kept.expect("an entry that the snapshot covers is written") as usize;
            self.entries.truncate(kept);
            assert_eq!(self.entries.len(), kept, "a hole in the log");
        }
        self.entries.extend(batch.entries);
        let newest = self.entries.last().map_or(self.base.term, |entry| entry.id.term);
        assert!(
            newest <= self.hard_state.term,
            "an entry is durable before its term (trap 3.33)"
        );
    }

    /// The log stays if it holds this entry, and begins anew after it if not.
    fn restart_after(&mut self, last: EntryId) {
        if self.holds(last) {
            return;
        }
        self.base = last;
        self.entries.clear();
        if self.hard_state.term < last.term {
            self.hard_state = HardState {
                term: last.term,
                vote: None,
            };
        }
    }

    /// What a server starts from: the newest snapshot, and the log after it.
    pub fn recover(&mut self) -> (Snapshot, Vec<Entry>) {
        let newest = self
            .snapshots
            .last_key_value()
            .map(|(_, snapshot)| snapshot.clone())
            .unwrap_or_default();
        let last = newest.header.last;
        self.restart_after(last);
        let after = self.entries.iter().filter(|entry| entry.id.index > last.index);
        (newest, after.cloned().collect())
    }

    /// A snapshot is durable.
    pub fn keep(&mut self, snapshot: Snapshot) {
        self.snapshots.insert(snapshot.header.last.index, snapshot);
        while self.snapshots.len() > 2 {
            self.snapshots.pop_first();
        }
    }

    /// Drops the log up to `upto`, as far as the newest snapshot covers it.
    pub fn drop_head(&mut self, upto: Index) {
        let newest = self
            .snapshots
            .last_key_value()
            .map_or(Index(0), |(index, _)| *index);
        let dropped = upto.min(newest).0.saturating_sub(self.base.index.0) as usize;
        for entry in self.entries.drain(..dropped.min(self.entries.len())) {
            self.base = entry.id;
        }
    }

    /// Whether this entry is durable, in the log or in what was dropped of it.
    pub fn holds(&self, id: EntryId) -> bool {
        match id.index.0.checked_sub(self.base.index.0) {
            None => true,
            Some(0) => id == self.base,
            Some(offset) => self.entries.get(offset as usize - 1).is_some_and(|e| e.id == id),
        }
    }
}
