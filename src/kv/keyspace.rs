//! The ordered map of keys, and what is counted along with every change to it: bytes, expiries, the hash.
//!
//! - `bytes` is the sum of the lengths of all keys and values.
//! - `expiries` has (expiry, key) for exactly the keys that have an expiry.
//! - `sum` is the wrapping sum of [`Record::weight`] over all keys. A sum, so that one change costs one
//!   subtraction and one addition and the order of the changes leaves no trace.

use std::collections::BTreeSet;
use std::num::NonZeroU64;

use bytes::Bytes;
use imbl::OrdMap;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::feed::Changes;
use super::key::Key;

/// A value shorter than this is copied out of the entry it came in. A slice would keep its whole buffer
/// alive, which may be a frame of many entries: a store of small values could hold hundreds of times its
/// own size. From here on the copy would cost more than is lost.
const COPY_BELOW_BYTES: usize = 64 << 10;

/// What the map holds for a key.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) value: Bytes,
    /// The index of the last write, at least 1.
    pub(super) revision: u64,
    /// When the key goes: milliseconds since 1970-01-01 UTC.
    pub(super) expiry: Option<NonZeroU64>,
    /// [`digest`] of key and value, kept so that deleting a large value needs no second pass over it.
    pub(super) digest: u64,
}

impl Record {
    /// Whether the key is gone at this time, though nothing may have removed it yet.
    pub(super) fn is_expired(&self, time_ms: u64) -> bool {
        self.expiry.is_some_and(|at| at.get() <= time_ms)
    }

    /// What the key adds to the state's hash.
    pub(super) fn weight(&self) -> u64 {
        let mut words = [0; 24];
        let expiry = self.expiry.map_or(0, NonZeroU64::get);
        for (to, word) in words
            .chunks_exact_mut(8)
            .zip([self.digest, self.revision, expiry])
        {
            to.copy_from_slice(&word.to_le_bytes());
        }
        xxh3_64(&words)
    }
}

/// A hash of key and value; hashed one by one, so that moving a byte from one to the other changes it.
pub(super) fn digest(key: &[u8], value: &[u8]) -> u64 {
    xxh3_64_with_seed(value, xxh3_64(key))
}

/// The map and its counters.
#[derive(Clone, Debug, Default)]
pub(super) struct Keyspace {
    map: OrdMap<Key, Record>,
    expiries: BTreeSet<(NonZeroU64, Key)>,
    bytes: u64,
    sum: u64,
    /// What was done since the last entry.
    changes: Changes,
}

impl Keyspace {
    pub(super) fn get(&self, key: &[u8]) -> Option<&Record> {
        self.map.get(key)
    }

    /// Writes a key, whatever was there.
    pub(super) fn put(&mut self, key: &[u8], value: &Bytes, revision: u64, expiry: Option<NonZeroU64>) {
        let value = compact(value);
        self.changes.set(key, value.clone());
        self.place(key, value, revision, expiry);
    }

    /// Writes a key of a state that is read from somewhere: that is no change. The record keeps nothing of the buffer
    /// that `value` is a slice of.
    pub(super) fn restore(&mut self, key: &[u8], value: &Bytes, revision: u64, expiry: Option<NonZeroU64>) {
        let value = if value.len() >= COPY_BELOW_BYTES && value.is_unique() {
            value.clone()
        } else {
            Bytes::copy_from_slice(value)
        };
        self.place(key, value, revision, expiry);
    }

    fn place(&mut self, key: &[u8], value: Bytes, revision: u64, expiry: Option<NonZeroU64>) {
        let (length, digest) = (value.len() as u64, digest(key, &value));
        let record = Record {
            value,
            revision,
            expiry,
            digest,
        };
        self.sum = self.sum.wrapping_add(record.weight());
        self.bytes += length;
        let old_expiry = match self.map.get_mut(key) {
            Some(slot) => {
                let old = std::mem::replace(slot, record);
                self.sum = self.sum.wrapping_sub(old.weight());
                self.bytes -= old.value.len() as u64;
                old.expiry
            }
            None => {
                self.bytes += key.len() as u64;
                self.map.insert(Key::new(key), record);
                None
            }
        };
        self.index_expiry(key, old_expiry, expiry);
    }

    /// Gives a key another expiry; nothing if the key is absent.
    pub(super) fn set_expiry(&mut self, key: &[u8], revision: u64, expiry: Option<NonZeroU64>) {
        let Some(record) = self.map.get_mut(key) else {
            return;
        };
        self.sum = self.sum.wrapping_sub(record.weight());
        let old_expiry = std::mem::replace(&mut record.expiry, expiry);
        record.revision = revision;
        self.sum = self.sum.wrapping_add(record.weight());
        self.changes.set(key, record.value.clone());
        self.index_expiry(key, old_expiry, expiry);
    }

    /// Takes a key away and gives its value.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Bytes> {
        let value = self.take(key)?;
        self.changes.delete(key);
        Some(value)
    }

    /// Takes a key away because its time is up.
    pub(super) fn expire(&mut self, key: &[u8]) {
        if self.take(key).is_some() {
            self.changes.expire(key);
        }
    }

    /// Takes all keys away and gives them.
    pub(super) fn clear(&mut self) -> Keyspace {
        let mut changes = std::mem::take(&mut self.changes);
        changes.clear(self.map.clone());
        std::mem::replace(
            self,
            Keyspace {
                changes,
                ..Keyspace::default()
            },
        )
    }

    fn take(&mut self, key: &[u8]) -> Option<Bytes> {
        let old = self.map.remove(key)?;
        self.sum = self.sum.wrapping_sub(old.weight());
        self.bytes -= (key.len() + old.value.len()) as u64;
        self.index_expiry(key, old.expiry, None);
        Some(old.value)
    }

    /// Removes the first key by (expiry, key) whose expiry is at or before this time.
    pub(super) fn remove_first_due(&mut self, time_ms: u64) -> bool {
        match self.expiries.first() {
            Some((at, key)) if at.get() <= time_ms => {
                let key = key.clone();
                self.expire(key.as_slice());
                true
            }
            _ => false,
        }
    }

    pub(super) fn next_expiry(&self) -> Option<u64> {
        self.expiries.first().map(|(at, _)| at.get())
    }

    /// What was done since the last entry.
    pub(super) fn changes(&mut self) -> &mut Changes {
        &mut self.changes
    }

    pub(super) fn map(&self) -> &OrdMap<Key, Record> {
        &self.map
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn expiring_len(&self) -> usize {
        self.expiries.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn sum(&self) -> u64 {
        self.sum
    }

    fn index_expiry(&mut self, key: &[u8], old: Option<NonZeroU64>, new: Option<NonZeroU64>) {
        if old == new {
            return;
        }
        let key = Key::new(key);
        if let Some(at) = new {
            self.expiries.insert((at, key.clone()));
        }
        if let Some(at) = old {
            self.expiries.remove(&(at, key));
        }
    }
}

fn compact(value: &Bytes) -> Bytes {
    if value.len() < COPY_BELOW_BYTES {
        Bytes::copy_from_slice(value)
    } else {
        value.clone()
    }
}

#[cfg(test)]
impl Keyspace {
    /// Counts everything again and compares.
    pub(super) fn check(&self) {
        let mut again = Keyspace::default();
        for (key, record) in &self.map {
            assert_eq!(record.digest, digest(key.as_slice(), &record.value));
            again.restore(key.as_slice(), &record.value, record.revision, record.expiry);
        }
        assert_eq!(self.bytes, again.bytes);
        assert_eq!(self.sum, again.sum);
        assert_eq!(self.expiries, again.expiries);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_value_does_not_keep_its_entry_alive() {
        let entry = Bytes::from(vec![7; 1 << 20]);
        let mut keys = Keyspace::default();
        keys.put(b"small", &entry.slice(..100), 1, None);
        assert!(entry.is_unique());
        keys.put(b"large", &entry.slice(..100_000), 2, None);
        assert!(!entry.is_unique());
        keys.check();
    }

    #[test]
    fn every_part_of_a_record_weighs() {
        let mut sums = Vec::new();
        let expiry = NonZeroU64::new(9);
        for (key, value, revision, expiry) in [
            ("ab", "c", 1, None),
            ("a", "bc", 1, None),
            ("ab", "d", 1, None),
            ("ab", "c", 2, None),
            ("ab", "c", 1, expiry),
            ("ab", "c", 9, None),
        ] {
            let mut keys = Keyspace::default();
            keys.put(key.as_bytes(), &Bytes::from(value), revision, expiry);
            sums.push(keys.sum());
            keys.remove(key.as_bytes());
            assert_eq!((keys.sum(), keys.bytes(), keys.expiring_len()), (0, 0, 0));
        }
        sums.sort_unstable();
        sums.dedup();
        assert_eq!(sums.len(), 6);
    }
}
