//! A table whose entries end at times of their own: leases, sessions, tokens.
//!
//! - `deadlines` has (deadline, key) for exactly the entries of the map.
//! - `sum` is the wrapping sum of [`Timed::weight`] over all of them, as in `keyspace`; `bytes` that of
//!   [`Timed::bytes`].

use std::collections::BTreeSet;

use imbl::OrdMap;

/// What a table holds.
pub(super) trait Timed<K>: Clone {
    /// When the entry ends, unless something comes before: milliseconds since 1970-01-01 UTC.
    fn deadline_ms(&self) -> u64;

    /// What the entry adds to the state's hash.
    fn weight(&self, key: &K) -> u64;

    /// What the entry takes in memory, about, where the table's bound is in bytes.
    fn bytes(&self, _key: &K) -> u64 {
        0
    }
}

/// The table, and what is counted along with every change to it.
#[derive(Clone)]
pub(super) struct Table<K, V> {
    map: OrdMap<K, V>,
    deadlines: BTreeSet<(u64, K)>,
    sum: u64,
    bytes: u64,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Table<K, V> {
        Table {
            map: OrdMap::default(),
            deadlines: BTreeSet::new(),
            sum: 0,
            bytes: 0,
        }
    }
}

impl<K: Ord + Clone, V: Timed<K>> Table<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.map.get(key)
    }

    /// Writes an entry, whatever was there.
    pub(super) fn put(&mut self, key: K, value: V) {
        let deadline = value.deadline_ms();
        self.count(&key, &value);
        if let Some(old) = self.map.insert(key.clone(), value) {
            self.discount(&key, &old);
            if old.deadline_ms() == deadline {
                return;
            }
            self.deadlines.remove(&(old.deadline_ms(), key.clone()));
        }
        self.deadlines.insert((deadline, key));
    }

    /// Changes an entry, if it is there.
    pub(super) fn update(&mut self, key: &K, change: impl FnOnce(&mut V)) {
        let Some(value) = self.map.get_mut(key) else {
            return;
        };
        let (weight, bytes, deadline) = (value.weight(key), value.bytes(key), value.deadline_ms());
        change(value);
        self.sum = self.sum.wrapping_sub(weight).wrapping_add(value.weight(key));
        self.bytes = self.bytes.wrapping_sub(bytes).wrapping_add(value.bytes(key));
        if value.deadline_ms() != deadline {
            self.deadlines.remove(&(deadline, key.clone()));
            self.deadlines.insert((value.deadline_ms(), key.clone()));
        }
    }

    /// Takes an entry away.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let old = self.map.remove(key)?;
        self.discount(key, &old);
        self.deadlines.remove(&(old.deadline_ms(), key.clone()));
        Some(old)
    }

    /// Takes the first entry by (deadline, key) away, if it ends at or before this time.
    pub(super) fn remove_first_due(&mut self, time_ms: u64) -> bool {
        let due = self.first_due(time_ms);
        due.is_some_and(|key| self.remove(&key).is_some())
    }

    /// The first entry by (deadline, key), if it ends at or before this time.
    pub(super) fn first_due(&self, time_ms: u64) -> Option<K> {
        let (deadline, key) = self.deadlines.first()?;
        (*deadline <= time_ms).then(|| key.clone())
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// All entries, in the order of their keys; a copy is O(1).
    pub(super) fn map(&self) -> &OrdMap<K, V> {
        &self.map
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// The greatest key.
    pub(super) fn last(&self) -> Option<&K> {
        self.map.get_max().map(|(key, _)| key)
    }

    pub(super) fn sum(&self) -> u64 {
        self.sum
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn count(&mut self, key: &K, value: &V) {
        self.sum = self.sum.wrapping_add(value.weight(key));
        self.bytes = self.bytes.wrapping_add(value.bytes(key));
    }

    fn discount(&mut self, key: &K, value: &V) {
        self.sum = self.sum.wrapping_sub(value.weight(key));
        self.bytes = self.bytes.wrapping_sub(value.bytes(key));
    }
}

impl<K: Ord + Clone, V: Timed<K>> FromIterator<(K, V)> for Table<K, V> {
    /// All at once, which takes a tenth of the time of as many `put`s where the entries come in their order.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Table<K, V> {
        let map: OrdMap<K, V> = entries.into_iter().collect();
        let deadline = |(key, value): (&K, &V)| (value.deadline_ms(), key.clone());
        Table {
            deadlines: map.iter().map(deadline).collect(),
            sum: weigh(&map),
            bytes: map.iter().map(|(key, value)| value.bytes(key)).sum(),
            map,
        }
    }
}

/// The weight of all entries, counted anew.
pub(super) fn weigh<K: Ord + Clone, V: Timed<K>>(map: &OrdMap<K, V>) -> u64 {
    map.iter()
        .fold(0, |sum, (key, value)| sum.wrapping_add(value.weight(key)))
}

#[cfg(test)]
impl<K: Ord + Clone + std::fmt::Debug, V: Timed<K>> Table<K, V> {
    /// As if so many bytes more were there.
    pub(super) fn fill(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Counts everything again and compares.
    pub(super) fn check(&self) {
        let again: Table<K, V> = self.map.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_eq!(self.deadlines, again.deadlines);
        assert_eq!((self.sum, self.bytes), (again.sum, again.bytes));
    }
}
