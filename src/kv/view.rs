//! Reads of many keys, on a copy, so that writes go on meanwhile.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::Bound;

use bytes::Bytes;
use imbl::OrdMap;

use super::key::Key;
use super::keyspace::{Record, digest};
use super::lease::Lease;
use super::once::Token;
use super::session::Session;
use super::timed::{Timed, weigh};
use super::{Scan, Store, state_hash};

/// An O(1) copy of all keys as they were when one entry had been applied. It holds on to what was overwritten
/// since; drop it when done, and a big one where nobody waits.
#[derive(Clone)]
pub struct View {
    map: OrdMap<Key, Record>,
    leases: OrdMap<NonZeroU64, Lease>,
    sessions: OrdMap<u64, Session>,
    tokens: OrdMap<Key, Token>,
    time_ms: u64,
    applied: u64,
    cluster_id: Option<[u8; 16]>,
    bytes: u64,
    hash: u64,
}

impl View {
    pub(super) fn new(store: &Store) -> View {
        View {
            map: store.keys.map().clone(),
            leases: store.leases.map().clone(),
            sessions: store.sessions.map().clone(),
            tokens: store.tokens.map().clone(),
            time_ms: store.time_ms,
            applied: store.applied,
            cluster_id: store.cluster_id,
            bytes: store.bytes(),
            hash: store.hash(),
        }
    }

    /// The keys of a scan with their values, in byte order, without those that have expired by the view's
    /// time. Lazy: a key costs its time when the iterator comes to it.
    pub fn scan<'a>(&'a self, scan: &Scan) -> impl Iterator<Item = (Bytes, Bytes)> + use<'a> {
        let limit = scan.limit.map_or(usize::MAX, to_usize);
        self.records(scan)
            .filter(|(_, record)| !record.is_expired(self.time_ms))
            .map(|(key, record)| (Bytes::copy_from_slice(key.as_slice()), record.value.clone()))
            .take(limit)
    }

    /// Walks a piece of a scan: shows each key and value to `visit` until that answers `false`, or after
    /// `keys_max` keys, at least one (expired ones are not shown but counted, for they cost time too). Gives
    /// what is left to scan; `None` when nothing is. O(log n) to start with, so pieces may be small.
    pub fn visit(
        &self,
        scan: &Scan,
        keys_max: usize,
        mut visit: impl FnMut(&[u8], &Bytes) -> bool,
    ) -> Option<Scan> {
        let mut left = scan.limit;
        let mut on = true;
        for (count, (key, record)) in self.records(scan).enumerate() {
            if left == Some(0) {
                return None;
            }
            if !on || count == keys_max.max(1) {
                return Some(Scan {
                    from: Bytes::copy_from_slice(key.as_slice()),
                    to: scan.to.clone(),
                    limit: left,
                });
            }
            if record.is_expired(self.time_ms) {
                continue;
            }
            on = visit(key.as_slice(), &record.value);
            left = left.map(|left| left - 1);
        }
        None
    }

    /// How many keys there are, expired ones that were not removed included.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The store's time when the view was taken.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// The index of the last entry that the view shows the effect of.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// [`Store::cluster_id`] when the view was taken.
    pub fn cluster_id(&self) -> Option<[u8; 16]> {
        self.cluster_id
    }

    /// [`Store::bytes`] when the view was taken.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// [`Store::hash`] when the view was taken.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The hash counted anew from every byte; another one than [`View::hash`] means that memory or this
    /// program is broken. Takes as long as reading all values.
    pub fn recompute_hash(&self) -> u64 {
        let mut sum = weigh(&self.leases).wrapping_add(weigh(&self.tokens));
        for (id, session) in &self.sessions {
            sum = sum.wrapping_add(session.recounted().weight(id));
        }
        for (key, record) in &self.map {
            let counted = Record {
                digest: digest(key.as_slice(), &record.value),
                ..record.clone()
            };
            sum = sum.wrapping_add(counted.weight());
        }
        state_hash(sum, self.time_ms, self.cluster_id)
    }

    /// All keys in byte order, expired ones that were not removed included.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Key, &Record)> + Send {
        self.map.iter()
    }

    /// All leases by their numbers.
    pub(super) fn leases(&self) -> &OrdMap<NonZeroU64, Lease> {
        &self.leases
    }

    /// All sessions by their numbers.
    pub(super) fn sessions(&self) -> &OrdMap<u64, Session> {
        &self.sessions
    }

    /// All tokens in the order of their bytes.
    pub(super) fn tokens(&self) -> &OrdMap<Key, Token> {
        &self.tokens
    }

    fn records<'a>(&'a self, scan: &Scan) -> impl Iterator<Item = (&'a Key, &'a Record)> + use<'a> {
        let empty = scan.to.as_ref().is_some_and(|to| *to <= scan.from);
        let to = match &scan.to {
            // No key is before itself.
            _ if empty => Bound::Excluded(&scan.from[..]),
            Some(to) => Bound::Excluded(&to[..]),
            None => Bound::Unbounded,
        };
        self.map.range::<_, [u8]>((Bound::Included(&scan.from[..]), to))
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("applied", &self.applied)
            .field("time_ms", &self.time_ms)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// The first key behind all those that begin with `prefix`; `None` where there is none, because it is empty
/// or only of bytes 255.
pub fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte < 255)?;
    let mut end = prefix.get(..=last)?.to_vec();
    *end.last_mut()? += 1;
    Some(end.into())
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Command, Condition, Moment, SetAnswer, SetExpiry};

    fn store(keys: &[(&'static str, Option<i64>)]) -> Store {
        let mut store = Store::new();
        for (key, at_ms) in keys {
            let command = Command::Set {
                key: Bytes::from(*key),
                value: Bytes::from(key.to_uppercase()),
                condition: Condition::Always,
                expiry: at_ms.map_or(SetExpiry::Clear, |at_ms| SetExpiry::At(Moment::At(at_ms))),
                answer: SetAnswer::Status,
            };
            store.apply(store.applied() + 1, 0, &command);
        }
        store
    }

    fn scan(from: &'static str, to: Option<&'static str>, limit: Option<u64>) -> Scan {
        Scan {
            from: Bytes::from(from),
            to: to.map(Bytes::from),
            limit,
        }
    }

    fn keys(view: &View, scan: &Scan) -> String {
        let keys: Vec<String> = view
            .scan(scan)
            .map(|(key, _)| String::from_utf8_lossy(&key).into_owned())
            .collect();
        keys.join(" ")
    }

    #[test]
    fn ranges() {
        let view = store(&[("b", None), ("a", None), ("c", None), ("ab", None)]).view();
        for (from, to, limit, expected) in [
            ("", None, None, "a ab b c"),
            ("a", Some("b"), None, "a ab"),
            ("aa", Some("c"), None, "ab b"),
            ("a", None, Some(2), "a ab"),
            ("a", None, Some(0), ""),
            ("b", Some("b"), None, ""),
            ("c", Some("a"), None, ""),
            ("d", None, None, ""),
            ("", Some(""), None, ""),
        ] {
            assert_eq!(
                keys(&view, &scan(from, to, limit)),
                expected,
                "{from} {to:?} {limit:?}"
            );
        }
        let empty = Store::new().view();
        assert_eq!(keys(&empty, &scan("c", Some("a"), None)), "");
    }

    #[test]
    fn pieces_make_up_the_whole() {
        let mut store = store(&[
            ("a", None),
            ("b", Some(5)),
            ("c", None),
            ("d", None),
            ("e", Some(9)),
        ]);
        store.apply(6, 5, &Command::ExpireDue { limit: 0 });
        let view = store.view();
        for (limit, expected) in [(None, "acde"), (Some(3), "acd"), (Some(0), "")] {
            for keys_max in 1..7 {
                let (mut rest, mut seen) = (Some(scan("", None, limit)), Vec::new());
                while let Some(scan) = rest {
                    rest = view.visit(&scan, keys_max, |key, value| {
                        assert_eq!(key.to_ascii_uppercase(), *value);
                        seen.extend_from_slice(key);
                        key != b"c"
                    });
                }
                assert_eq!(String::from_utf8(seen).unwrap(), expected);
            }
        }
    }

    #[test]
    fn a_view_stays_as_it_was() {
        let mut store = store(&[("a", None), ("b", Some(5))]);
        let view = store.view();
        store.apply(3, 100, &Command::ExpireDue { limit: 9 });
        store.apply(4, 100, &Command::FlushAll);
        assert!(store.is_empty());
        assert_eq!(keys(&view, &scan("", None, None)), "a b");
        assert_eq!((view.len(), view.applied(), view.time_ms()), (2, 2, 0));
        assert_eq!(view.hash(), view.recompute_hash());
        assert_ne!(view.hash(), store.hash());
    }

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(prefix_end(b"user:"), Some(Bytes::from("user;")));
        assert_eq!(prefix_end(b"a\xff\xff"), Some(Bytes::from("b")));
        assert_eq!(prefix_end(b"a\xfe"), Some(Bytes::from_static(b"a\xff")));
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
