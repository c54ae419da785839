//! The change feed: what has become of the keys, in the order of the log, as far back as is kept.
//!
//! The keyspace notes each change as it is made ([`Changes`]), whatever command made it; [`Store::record_changes`]
//! moves them into a [`History`] after each entry. All events of one entry carry its index as their revision.
//! Readers have a [`Cursor`] each and take what their prefix asks for, in pieces.
//!
//! **Where a reader may resume.** A revision is complete for a reader when a later one or its mark has been seen: a
//! mark follows the last event of a revision that has more than one event for this reader. Whoever resumes from the
//! last complete revision misses nothing and sees only the events of the one after it again.
//!
//! **Bounds.** A history holds at most [`EVENTS_MAX`] events and [`HISTORY_MAX_BYTES`]; the oldest go first. Values
//! are shared with the map. One of 64 KiB or more is a slice of the entry that it came in, as in the map, and may keep
//! up to 16 times its size alive. A FLUSHALL of more keys than fit is not kept: the history begins anew behind it.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use imbl::OrdMap;

use super::key::Key;
use super::keyspace::Record;
use super::{Code, Error, Store};

/// So many events are kept at most.
pub const EVENTS_MAX: usize = 100_000;

/// So many bytes of keys, values and what is around them are kept at most.
pub const HISTORY_MAX_BYTES: usize = 16 << 20;

/// What an event takes beside its key and value.
const EVENT_BYTES: usize = 96;

/// So many events are looked at in one piece: less than 100 µs.
const PIECE_EVENTS: usize = 4096;

/// A piece ends when it shows so many events, or so many bytes of keys and values.
const BATCH_EVENTS: usize = 512;
const BATCH_BYTES: usize = 64 << 10;

/// Room for so many changes of an entry is kept from one entry to the next.
const KEPT_CAPACITY: usize = 1024;

/// What entries have done to the keys since it was last taken, in order. Bounded by what one entry can do.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    list: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Set(Key, Bytes),
    Delete(Key),
    Expire(Key),
    /// FLUSHALL: these keys are gone.
    Clear(OrdMap<Key, Record>),
}

impl Changes {
    pub(super) fn set(&mut self, key: &[u8], value: Bytes) {
        self.list.push(Change::Set(Key::new(key), value));
    }

    pub(super) fn delete(&mut self, key: &[u8]) {
        self.list.push(Change::Delete(Key::new(key)));
    }

    pub(super) fn expire(&mut self, key: &[u8]) {
        self.list.push(Change::Expire(Key::new(key)));
    }

    pub(super) fn clear(&mut self, keys: OrdMap<Key, Record>) {
        self.list.push(Change::Clear(keys));
    }

    /// What was not taken is forgotten.
    pub(super) fn forget(&mut self) {
        self.list.clear();
        self.list.shrink_to(KEPT_CAPACITY);
    }
}

impl Store {
    /// Moves the changes of the last entry into the history. To be called after each entry, and before what it left to
    /// be dropped is taken.
    pub fn record_changes(&mut self, history: &mut History) {
        history.extend(self.applied, self.keys.changes().list.drain(..));
    }
}

/// What a reader of a feed is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    revision: u64,
    what: What,
}

#[derive(Clone, PartialEq, Eq)]
enum What {
    Set(Key, Bytes),
    Delete(Key),
    Expire(Key),
    Mark,
}

impl Event {
    /// Says that everything up to this revision has been shown.
    pub fn mark(revision: u64) -> Event {
        let what = What::Mark;
        Event { revision, what }
    }

    /// The index of the entry that made the change; of a mark, that up to which all has been shown.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// `set`, `del`, `expire` or `mark`.
    pub fn kind(&self) -> &'static str {
        match self.what {
            What::Set(..) => "set",
            What::Delete(_) => "del",
            What::Expire(_) => "expire",
            What::Mark => "mark",
        }
    }

    /// The key; none of a mark.
    pub fn key(&self) -> Option<&[u8]> {
        match &self.what {
            What::Set(key, _) | What::Delete(key) | What::Expire(key) => Some(key.as_slice()),
            What::Mark => None,
        }
    }

    /// The key's new value, where it has one.
    pub fn value(&self) -> Option<&Bytes> {
        match &self.what {
            What::Set(_, value) => Some(value),
            What::Delete(_) | What::Expire(_) | What::Mark => None,
        }
    }

    fn bytes(&self) -> usize {
        self.key().map_or(0, <[u8]>::len) + self.value().map_or(0, Bytes::len) + EVENT_BYTES
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.revision, self.kind())?;
        let words = self.key().into_iter().chain(self.value().map(Bytes::as_ref));
        words
            .into_iter()
            .try_for_each(|word| write!(f, " {}", word.escape_ascii()))
    }
}

/// The last changes of a state.
///
/// - `events` are all changes of the revisions above `oldest` up to `newest`, and perhaps some of `oldest`.
/// - Each event has a sequence number, that of the first one in `events` is `first`. Numbers are left out where the
///   history begins anew, so that no cursor from before fits.
#[derive(Debug)]
pub struct History {
    events: VecDeque<Event>,
    first: u64,
    bytes: usize,
    oldest: u64,
    newest: u64,
}

/// How far a reader has read.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    /// The next event to be looked at.
    sequence: u64,
    /// Everything up to this revision has been shown, or was not asked for.
    complete: u64,
    /// The revision being read, and how many events of it were shown.
    revision: u64,
    shown: usize,
}

impl Cursor {
    /// Everything up to this revision has been shown: where to resume.
    pub fn complete(&self) -> u64 {
        self.complete
    }

    /// Nothing that this reader asks for lies before the event with this number and revision.
    pub fn skip_to(&mut self, sequence: u64, revision: u64) {
        self.sequence = self.sequence.max(sequence);
        self.complete = self.complete.max(revision.saturating_sub(1));
    }

    /// The events of the revision that was being read have all been shown.
    fn finish_revision(&mut self, out: &mut Vec<Event>) {
        if self.shown > 1 {
            out.push(Event::mark(self.revision));
        }
        self.shown = 0;
    }
}

impl History {
    /// The history of a state that has applied this index, which is its beginning.
    pub fn new(applied: u64) -> History {
        History {
            events: VecDeque::new(),
            first: 0,
            bytes: 0,
            oldest: applied,
            newest: applied,
        }
    }

    /// The smallest revision that a reader may have read up to.
    pub fn oldest(&self) -> u64 {
        self.oldest
    }

    /// The index of the last entry whose changes are here.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// The sequence number of the next event.
    pub fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// The state jumps to this index, and nobody knows what lies between.
    pub fn jump(&mut self, index: u64) {
        self.begin_anew(index);
        self.newest = index;
    }

    fn extend(&mut self, revision: u64, changes: impl Iterator<Item = Change>) {
        self.newest = revision;
        for change in changes {
            match change {
                Change::Set(key, value) => self.push(revision, What::Set(key, value)),
                Change::Delete(key) => self.push(revision, What::Delete(key)),
                Change::Expire(key) => self.push(revision, What::Expire(key)),
                Change::Clear(keys) if keys.len() > EVENTS_MAX => self.begin_anew(revision),
                Change::Clear(keys) => keys
                    .keys()
                    .for_each(|key| self.push(revision, What::Delete(key.clone()))),
            }
        }
    }

    fn push(&mut self, revision: u64, what: What) {
        let event = Event { revision, what };
        self.bytes += event.bytes();
        self.events.push_back(event);
        while self.events.len() > EVENTS_MAX || self.bytes > HISTORY_MAX_BYTES {
            let Some(event) = self.events.pop_front() else {
                break;
            };
            self.bytes -= event.bytes();
            self.first += 1;
            self.oldest = event.revision;
        }
    }

    fn begin_anew(&mut self, index: u64) {
        self.first = self.end() + 1;
        self.events = VecDeque::new();
        self.bytes = 0;
        self.oldest = index;
    }

    /// The events from this number on as far as they are kept, each with its own.
    pub fn since(&self, sequence: u64) -> impl Iterator<Item = (u64, &Event)> {
        let place = sequence.saturating_sub(self.first).min(self.events.len() as u64);
        (self.first + place..).zip(self.events.range(place as usize..))
    }

    /// A cursor behind this revision, which may be one to come; `None` begins now.
    ///
    /// # Errors
    /// COMPACTED.
    pub fn cursor(&self, from: Option<u64>) -> Result<Cursor, Error> {
        let complete = from.unwrap_or(self.newest);
        if complete < self.oldest {
            return Err(self.compacted(complete));
        }
        let place = self.events.partition_point(|event| event.revision <= complete);
        Ok(Cursor {
            sequence: self.first + place as u64,
            complete,
            revision: 0,
            shown: 0,
        })
    }

    /// Appends the next events for a reader whose keys begin with `prefix`; whether there is more to be read now.
    ///
    /// # Errors
    /// COMPACTED: what comes next is no longer here. Nothing is appended then.
    pub fn read(&self, cursor: &mut Cursor, prefix: &[u8], out: &mut Vec<Event>) -> Result<bool, Error> {
        if cursor.sequence < self.first && cursor.complete < self.oldest {
            return Err(self.compacted(cursor.complete));
        }
        // Numbers may have been left out.
        cursor.skip_to(self.first, 0);
        let (mut bytes, full) = (0, out.len() + BATCH_EVENTS);
        for (sequence, event) in self.since(cursor.sequence).take(PIECE_EVENTS) {
            if out.len() >= full || bytes >= BATCH_BYTES {
                break;
            }
            if event.revision != cursor.revision {
                cursor.finish_revision(out);
                cursor.revision = event.revision;
            }
            cursor.skip_to(sequence + 1, event.revision);
            let is_new = event.revision > cursor.complete;
            if is_new && event.key().is_some_and(|key| key.starts_with(prefix)) {
                bytes += event.bytes();
                cursor.shown += 1;
                out.push(event.clone());
            }
        }
        if cursor.sequence < self.end() {
            return Ok(true);
        }
        cursor.finish_revision(out);
        cursor.skip_to(self.end(), self.newest + 1);
        Ok(false)
    }

    fn compacted(&self, complete: u64) -> Error {
        let text = format!(
            "the changes after revision {complete} are no longer kept on this node: the oldest revision to start FROM \
             is {}; begin a feed, read the keys, and go on from there",
            self.oldest
        );
        Error {
            code: Code::Compacted,
            text: text.into(),
        }
    }
}

#[cfg(test)]
mod tests;
