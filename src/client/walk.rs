//! Reads of many keys: RANGE, PREFIX, KEYS, SCAN and RANDOMKEY walk a view of the state piece by piece, so that neither
//! the node nor the connection ever stands still for, or holds, a million replies.
//!
//! A list begins with its length. A short walk is encoded while it is counted; a long one is walked twice,
//! which gives the same keys both times, because a view does not change.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};

use bytes::{Bytes, BytesMut};

use crate::base::glob::Glob;
use crate::kv::{Error, Scan, View};

use super::reply::Encoding;
use super::table::{ScanStep, Walk, err};

/// How many keys are looked at in one piece: some 50 µs.
const PIECE_KEYS: usize = 512;

/// A walk whose replies fit into this many bytes and one piece is not walked twice.
const SHORT_BYTES: usize = 16 << 10;

/// A walk on its way.
#[derive(Debug)]
pub(crate) struct Walker {
    view: View,
    scan: Scan,
    glob: Option<Glob>,
    values: bool,
    /// What is left of the pass that is under way.
    rest: Option<Scan>,
}

/// What the first piece showed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// Everything: the number of replies, which are encoded.
    All(u64),
    /// A part: count on, then walk again.
    Some(u64),
}

impl Walker {
    /// A walk over this view.
    pub(crate) fn new(view: View, walk: &Walk) -> Walker {
        Walker {
            view,
            scan: walk.scan.clone(),
            glob: walk.pattern.as_deref().map(Glob::new),
            values: walk.values,
            rest: None,
        }
    }

    /// Encodes and counts the first piece.
    pub(crate) fn first(&mut self, encoding: Encoding, out: &mut BytesMut) -> First {
        self.restart();
        let mut count = 0;
        self.encode(encoding, SHORT_BYTES, &mut count, out);
        match self.rest {
            None => First::All(count),
            Some(_) => First::Some(count),
        }
    }

    /// Begins a pass over all keys.
    pub(crate) fn restart(&mut self) {
        self.rest = Some(self.scan.clone());
    }

    /// Counts the replies of one piece; `None` after the last one.
    pub(crate) fn count(&mut self) -> Option<u64> {
        let scan = self.rest.take()?;
        let (glob, per_key) = (self.glob.as_ref(), self.per_key());
        let mut count = 0;
        self.rest = self.view.visit(&scan, PIECE_KEYS, |key, _| {
            count += if is_match(glob, key) { per_key } else { 0 };
            true
        });
        Some(count)
    }

    /// Encodes one piece, or less when `out` has `max_bytes`; whether there was one.
    pub(crate) fn piece(&mut self, encoding: Encoding, max_bytes: usize, out: &mut BytesMut) -> bool {
        self.encode(encoding, max_bytes, &mut 0, out)
    }

    fn encode(&mut self, encoding: Encoding, max_bytes: usize, count: &mut u64, out: &mut BytesMut) -> bool {
        let Some(scan) = self.rest.take() else {
            return false;
        };
        let (glob, per_key, values) = (self.glob.as_ref(), self.per_key(), self.values);
        self.rest = self.view.visit(&scan, PIECE_KEYS, |key, value| {
            if is_match(glob, key) {
                *count += per_key;
                encoding.put_value(key, out);
                if values {
                    encoding.put_value(value, out);
                }
            }
            out.len() < max_bytes
        });
        true
    }

    fn per_key(&self) -> u64 {
        if self.values { 2 } else { 1 }
    }
}

/// The walk of one step of SCAN, and the key where the next step begins, if there is one.
#[derive(Debug)]
pub(crate) struct ScanWalk {
    view: View,
    left: u64,
    rest: Option<Scan>,
    from: Bytes,
    step: ScanStep,
    /// Where the next step begins.
    next: Option<Bytes>,
}

impl ScanWalk {
    /// The step that begins at `from`.
    pub(crate) fn new(view: View, from: Bytes, step: ScanStep) -> ScanWalk {
        let rest = (!step.nothing).then(|| Scan {
            from: from.clone(),
            to: None,
            limit: None,
        });
        ScanWalk {
            view,
            left: step.count,
            rest,
            from,
            step,
            next: None,
        }
    }

    /// Walks one piece to find the end of the step; `false` when it is found.
    pub(crate) fn seek(&mut self) -> bool {
        let Some(scan) = self.rest.take() else {
            return false;
        };
        let (left, next) = (&mut self.left, &mut self.next);
        let rest = self.view.visit(&scan, PIECE_KEYS, |key, _| {
            if *left == 0 {
                *next = Some(Bytes::copy_from_slice(key));
                return false;
            }
            *left -= 1;
            true
        });
        self.rest = rest.filter(|_| self.next.is_none());
        self.rest.is_some()
    }

    /// The key where the next step begins, and the walk over the keys of this one.
    pub(crate) fn finish(self) -> (Option<Bytes>, Walker) {
        // A step over nothing ends where it begins, and the scan with it.
        let to = if self.step.nothing {
            Some(self.from.clone())
        } else {
            self.next.clone()
        };
        let scan = Scan {
            from: self.from,
            to,
            limit: None,
        };
        let walk = Walk {
            scan,
            pattern: self.step.pattern,
            values: false,
        };
        (self.next, Walker::new(self.view, &walk))
    }
}

/// The walk to one key, any of them with the same chance, as long as no expired ones are among them.
#[derive(Debug)]
pub(crate) struct Draw {
    view: View,
    rest: Option<Scan>,
    /// How many keys are still to be passed.
    left: u64,
    /// How many keys this pass has found.
    live: u64,
    key: Option<Bytes>,
}

impl Draw {
    /// A walk to the key that this number draws.
    pub(crate) fn new(view: View, random: u64) -> Draw {
        let left = random % (view.len() as u64).max(1);
        Draw {
            view,
            rest: Some(everything()),
            left,
            live: 0,
            key: None,
        }
    }

    /// Walks one piece; `false` at the end of the walk.
    pub(crate) fn walk(&mut self) -> bool {
        let Some(scan) = self.rest.take() else {
            return false;
        };
        let (left, live, drawn) = (&mut self.left, &mut self.live, &mut self.key);
        let rest = self.view.visit(&scan, PIECE_KEYS, |key, _| {
            *live += 1;
            if *left == 0 {
                *drawn = Some(Bytes::copy_from_slice(key));
                return false;
            }
            *left -= 1;
            true
        });
        if self.key.is_some() {
            return false;
        }
        self.rest = rest;
        if self.rest.is_none() && self.live > 0 {
            // Expired keys were counted that nobody may see: once more, with those alone that were found.
            self.left %= self.live;
            self.live = 0;
            self.rest = Some(everything());
        }
        self.rest.is_some()
    }

    /// The key, unless there is none.
    pub(crate) fn key(self) -> Option<Bytes> {
        self.key
    }
}

/// A number that nobody can foretell.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn everything() -> Scan {
    Scan {
        from: Bytes::new(),
        to: None,
        limit: None,
    }
}

fn is_match(glob: Option<&Glob>, key: &[u8]) -> bool {
    glob.is_none_or(|glob| glob.matches(key))
}

/// The cursors that SCAN has handed out, shared by all connections of a node: each stands for the key where
/// the next step begins, and so stays right while keys come and go. The oldest are forgotten first.
#[derive(Debug)]
pub(crate) struct Cursors {
    /// The number of the oldest one in `keys`.
    first: u64,
    keys: VecDeque<Bytes>,
    bytes: usize,
}

/// How many cursors are remembered, and how many bytes of keys they may hold.
const CURSORS_MAX: usize = 65536;
const CURSORS_MAX_BYTES: usize = 8 << 20;

impl Cursors {
    /// None yet. The numbers begin at a random place, so that another node's, or those of the time before a
    /// restart, are not taken for own ones; they stay below 2^53, which every client can hold.
    pub(crate) fn new() -> Cursors {
        Cursors {
            first: (random() >> 12) + 1,
            keys: VecDeque::new(),
            bytes: 0,
        }
    }

    /// The cursor for the step that begins at this key.
    pub(crate) fn remember(&mut self, key: Bytes) -> u64 {
        self.bytes += key.len();
        self.keys.push_back(key);
        while self.keys.len() > CURSORS_MAX || self.bytes > CURSORS_MAX_BYTES {
            let Some(oldest) = self.keys.pop_front() else {
                break;
            };
            self.bytes -= oldest.len();
            self.first += 1;
        }
        self.first + self.keys.len() as u64 - 1
    }

    /// Where the step of this cursor begins.
    pub(crate) fn resolve(&self, cursor: u64) -> Result<Bytes, Error> {
        if cursor == 0 {
            return Ok(Bytes::new());
        }
        let place = cursor
            .checked_sub(self.first)
            .and_then(|place| usize::try_from(place).ok());
        place
            .and_then(|place| self.keys.get(place).cloned())
            .ok_or_else(|| err("this node does not know that cursor (any more); start again from 0"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Command, Condition, Moment, SetAnswer, SetExpiry, Store};

    fn drawn(view: &View, random: u64) -> Option<Bytes> {
        let mut draw = Draw::new(view.clone(), random);
        while draw.walk() {}
        draw.key()
    }

    #[test]
    fn every_number_draws_a_key_and_every_key_is_drawn() {
        let mut store = Store::new();
        assert_eq!(drawn(&store.view(), 7), None);
        for n in 0..1200u64 {
            // Two of three expire, and nothing has removed them when the view is taken.
            let at = if n % 3 == 0 { i64::MAX } else { 1000 };
            let set = Command::Set {
                key: n.to_string().into(),
                value: Bytes::new(),
                condition: Condition::Always,
                expiry: SetExpiry::At(Moment::At(at)),
                answer: SetAnswer::Status,
            };
            store.apply(n + 1, 0, &set);
        }
        store.apply(1201, 1000, &Command::ExpireDue { limit: 0 });
        let view = store.view();
        let mut keys: Vec<Bytes> = (0..1200).map(|random| drawn(&view, random).unwrap()).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 400);
        assert!(
            keys.iter()
                .all(|key| std::str::from_utf8(key).unwrap().parse::<u64>().unwrap() % 3 == 0)
        );
    }

    #[test]
    fn cursors_are_forgotten_oldest_first() {
        let mut cursors = Cursors::new();
        let first = cursors.remember(Bytes::from_static(b"a"));
        let second = cursors.remember(Bytes::from_static(b"b"));
        assert_eq!(cursors.resolve(0).unwrap(), "");
        assert_eq!(cursors.resolve(first).unwrap(), "a");
        assert_eq!(cursors.resolve(second).unwrap(), "b");
        assert!(cursors.resolve(second + 1).is_err());
        assert!(cursors.resolve(1).is_err());
        for _ in 0..CURSORS_MAX {
            cursors.remember(Bytes::from_static(b"c"));
        }
        assert!(cursors.resolve(second).is_err());
    }

    #[test]
    fn cursors_of_long_keys_are_bounded_by_their_bytes() {
        let mut cursors = Cursors::new();
        for _ in 0..3000 {
            cursors.remember(Bytes::from(vec![b'k'; 4096]));
        }
        assert!(cursors.bytes <= CURSORS_MAX_BYTES);
        assert_eq!(cursors.keys.len(), CURSORS_MAX_BYTES / 4096);
    }
}
