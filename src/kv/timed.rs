//! A table whose entries end at times of their own: leases, sessions, tokens.
//!
//! - `deadlines` has (deadline, key) for exactly the entries of the map.
//! - `sum` is the wrapping sum of [`Timed::weight`] over all of them, as in `keyspace`.

use std::collections::BTreeSet;

use imbl::OrdMap;

/// What a table holds.
pub(super) trait Timed<K>: Clone {
    /// When the entry ends, unless something comes before: milliseconds since 1970-01-01 UTC.
    fn deadline_ms(&self) -> u64;

    /// What the entry adds to the state's hash.
    fn weight(&self, key: &K) -> u64;
}

/// The table, and what is counted along with every change to it.
#[derive(Clone)]
pub(super) struct Table<K, V> {
    map: OrdMap<K, V>,
    deadlines: BTreeSet<(u64, K)>,
    sum: u64,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Table<K, V> {
        Table {
            map: OrdMap::default(),
            deadlines: BTreeSet::new(),
            sum: 0,
        }
    }
}

impl<K: Ord + Clone, V: Timed<K>> Table<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.map.get(key)
    }

    /// Writes an entry, whatever was there.
    pub(super) fn put(&mut self, key: K, value: V) {
        self.sum = self.sum.wrapping_add(value.weight(&key));
        let deadline = value.deadline_ms();
        if let Some(old) = self.map.insert(key.clone(), value) {
            self.sum = self.sum.wrapping_sub(old.weight(&key));
            if old.deadline_ms() == deadline {
                return;
            }
            self.deadlines.remove(&(old.deadline_ms(), key.clone()));
        }
        self.deadlines.insert((deadline, key));
    }

    /// Takes an entry away.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let old = self.map.remove(key)?;
        self.sum = self.sum.wrapping_sub(old.weight(key));
        self.deadlines.remove(&(old.deadline_ms(), key.clone()));
        Some(old)
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

    pub(super) fn sum(&self) -> u64 {
        self.sum
    }
}

impl<K: Ord + Clone, V: Timed<K>> FromIterator<(K, V)> for Table<K, V> {
    /// All at once, which takes a tenth of the time of as many `put`s where the entries come in their order.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Table<K, V> {
        let map: OrdMap<K, V> = entries.into_iter().collect();
        Table {
            deadlines: map
                .iter()
                .map(|(key, value)| (value.deadline_ms(), key.clone()))
                .collect(),
            sum: weigh(&map),
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
    /// Counts everything again and compares.
    pub(super) fn check(&self) {
        let again: Table<K, V> = self.map.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_eq!(self.deadlines, again.deadlines);
        assert_eq!(self.sum, again.sum);
    }
}
