//! The ordered map of keys, and what is counted along with every change to it: bytes, expiries, the hash.
//!
//! - `bytes` is the sum of the lengths of all keys and values.
//! - `expiries` has (expiry, key) for exactly the keys that have an expiry.
//! - `leased` has exactly the keys that hang on a lease, by lease; no lease without keys.
//! - `sum` is the wrapping sum of [`Record::weight`] over all keys. A sum, so that one change costs one
//!   subtraction and one addition and the order of the changes leaves no trace.

use std::collections::{BTreeMap, BTreeSet};
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
    /// How long the key stays.
    pub(super) life: Life,
    /// [`digest`] of key and value, kept so that deleting a large value needs no second pass over it.
    pub(super) digest: u64,
}

/// What ends a key, whichever comes first; without either it stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Life {
    /// When the key goes: milliseconds since 1970-01-01 UTC.
    pub(super) expiry: Option<NonZeroU64>,
    /// The lease with which it goes.
    pub(super) lease: Option<NonZeroU64>,
}

impl Life {
    /// Until this time, or for good.
    pub(super) fn until(expiry: Option<NonZeroU64>) -> Life {
        Life { expiry, lease: None }
    }
}

impl Record {
    /// Whether the key is gone at this time, though nothing may have removed it yet. A lease that is due does not
    /// make it so: it may still be renewed.
    pub(super) fn is_expired(&self, time_ms: u64) -> bool {
        self.life.expiry.is_some_and(|at| at.get() <= time_ms)
    }

    /// What the key adds to the state's hash.
    pub(super) fn weight(&self) -> u64 {
        let expiry = self.life.expiry.map_or(0, NonZeroU64::get);
        match self.life.lease {
            None => hash_words([self.digest, self.revision, expiry]),
            Some(lease) => hash_words([self.digest, self.revision, expiry, lease.get()]),
        }
    }
}

/// A hash of a few numbers.
pub(super) fn hash_words<const N: usize>(words: [u64; N]) -> u64 {
    xxh3_64(words.map(u64::to_le_bytes).as_flattened())
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
    leased: BTreeMap<NonZeroU64, BTreeSet<Key>>,
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
    pub(super) fn put(&mut self, key: &[u8], value: &Bytes, revision: u64, life: Life) {
        let value = compact(value);
        self.changes.set(key, value.clone());
        self.place(key, value, revision, life);
    }

    /// Writes a key of a state that is read from somewhere: that is no change. The record keeps nothing of the buffer
    /// that `value` is a slice of.
    pub(super) fn restore(&mut self, key: &[u8], value: &Bytes, revision: u64, life: Life) {
        let value = if value.len() >= COPY_BELOW_BYTES && value.is_unique() {
            value.clone()
        } else {
            Bytes::copy_from_slice(value)
        };
        self.place(key, value, revision, life);
    }

    fn place(&mut self, key: &[u8], value: Bytes, revision: u64, life: Life) {
        let (length, digest) = (value.len() as u64, digest(key, &value));
        let record = Record {
            value,
            revision,
            life,
            digest,
        };
        self.sum = self.sum.wrapping_add(record.weight());
        self.bytes += length;
        let old_life = match self.map.get_mut(key) {
            Some(slot) => {
                let old = std::mem::replace(slot, record);
                self.sum = self.sum.wrapping_sub(old.weight());
                self.bytes -= old.value.len() as u64;
                old.life
            }
            None => {
                self.bytes += key.len() as u64;
                self.map.insert(Key::new(key), record);
                Life::default()
            }
        };
        self.index_life(key, old_life, life);
    }

    /// Gives a key another expiry, and leaves its lease; nothing if the key is absent.
    pub(super) fn set_expiry(&mut self, key: &[u8], revision: u64, expiry: Option<NonZeroU64>) {
        let Some(record) = self.map.get_mut(key) else {
            return;
        };
        self.sum = self.sum.wrapping_sub(record.weight());
        let old_life = record.life;
        let life = Life { expiry, ..old_life };
        (record.life, record.revision) = (life, revision);
        self.sum = self.sum.wrapping_add(record.weight());
        self.changes.set(key, record.value.clone());
        self.index_life(key, old_life, life);
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
        self.index_life(key, old.life, Life::default());
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

    /// The keys that hang on this lease, in their order.
    pub(super) fn leased(&self, lease: NonZeroU64) -> impl Iterator<Item = &Key> {
        self.leased.get(&lease).into_iter().flatten()
    }

    /// How many they are.
    pub(super) fn leased_len(&self, lease: NonZeroU64) -> usize {
        self.leased.get(&lease).map_or(0, BTreeSet::len)
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

    fn index_life(&mut self, key: &[u8], old: Life, new: Life) {
        if old == new {
            return;
        }
        let key = Key::new(key);
        if old.expiry != new.expiry {
            if let Some(at) = new.expiry {
                self.expiries.insert((at, key.clone()));
            }
            if let Some(at) = old.expiry {
                self.expiries.remove(&(at, key.clone()));
            }
        }
        if old.lease != new.lease {
            if let Some(lease) = old.lease
                && let Some(keys) = self.leased.get_mut(&lease)
            {
                keys.remove(&key);
                if keys.is_empty() {
                    self.leased.remove(&lease);
                }
            }
            if let Some(lease) = new.lease {
                self.leased.entry(lease).or_default().insert(key);
            }
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
            again.restore(key.as_slice(), &record.value, record.revision, record.life);
        }
        assert_eq!(self.bytes, again.bytes);
        assert_eq!(self.sum, again.sum);
        assert_eq!(self.expiries, again.expiries);
        assert_eq!(self.leased, again.leased);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_value_does_not_keep_its_entry_alive() {
        let entry = Bytes::from(vec![7; 1 << 20]);
        let mut keys = Keyspace::default();
        keys.put(b"small", &entry.slice(..100), 1, Life::default());
        assert!(entry.is_unique());
        keys.put(b"large", &entry.slice(..100_000), 2, Life::default());
        assert!(!entry.is_unique());
        keys.check();
    }

    #[test]
    fn every_part_of_a_record_weighs() {
        let mut sums = Vec::new();
        let (stays, nine) = (Life::default(), NonZeroU64::new(9));
        let lease = Life { lease: nine, ..stays };
        for (key, value, revision, life) in [
            ("ab", "c", 1, stays),
            ("a", "bc", 1, stays),
            ("ab", "d", 1, stays),
            ("ab", "c", 2, stays),
            ("ab", "c", 1, Life::until(nine)),
            ("ab", "c", 1, lease),
            ("ab", "c", 9, stays),
        ] {
            let mut keys = Keyspace::default();
            keys.put(key.as_bytes(), &Bytes::from(value), revision, life);
            keys.check();
            sums.push(keys.sum());
            keys.remove(key.as_bytes());
            assert_eq!((keys.sum(), keys.bytes(), keys.expiring_len()), (0, 0, 0));
            assert_eq!(keys.leased.len(), 0);
        }
        sums.sort_unstable();
        sums.dedup();
        assert_eq!(sums.len(), 7);
    }
}
