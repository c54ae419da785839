//! A state as a stream of chunks, and a state out of such a stream (Raft 7).
//!
//! ```text
//! head      1 │ 1 │ applied │ time │ 0, or 1 and the cluster id │ count │ bytes │ hash u64 │ check u64
//! leases    1 │ 4 │ lease │ lease │ ... │ lease
//! lease     number │ life │ deadline
//! records   1 │ 2 or 3 │ the rest of a value │ record │ ... │ record, perhaps without the end of its value
//! record    key │ revision │ expiry, 0 for none │ in chunks of kind 3: lease, 0 for none │ value
//! ```
//!
//! The first 1 of a chunk is the version of this form, the number behind it the kind of the chunk. The head comes
//! first, then the leases in the order of their numbers, then records in the order of their keys, cut into chunks
//! wherever one is full; only a value is ever cut. Records are of kind 3 if there is any lease. Numbers are varints,
//! keys and values come after their length, `hash` and `check` are 8 bytes, little-endian. `count` is that of the
//! keys. `hash` is [`Store::hash`], which covers everything but the applied index; `check` is a hash of the head's
//! bytes before it, which covers that one too.
//!
//! **Trust.** Chunks come from a disk or from another node. Each is checked as it comes, the whole when it
//! has come: a [`Restore`] gives the state that the stream was made of, or a reason, and takes memory for what
//! has arrived and not for what was announced.
//!
//! **Memory.** A [`View`] is O(1); a chunk is made when it is asked for, and nothing else is copied. What
//! writes overwrite meanwhile stays in memory as long as the view does.

use std::iter::Peekable;
use std::num::NonZeroU64;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::encoding::fields::{Malformed, Reader, put_bytes, put_number};
use super::key::Key;
use super::keyspace::{Life, Record};
use super::lease::{LEASES_MAX, Lease};
use super::{KEY_MAX_BYTES, Store, VALUE_MAX_BYTES, View};

const VERSION: u8 = 1;
const HEAD: u8 = 1;
const RECORDS: u8 = 2;
const RECORDS_AND_LEASES: u8 = 3;
const LEASES: u8 = 4;

/// A chunk is full from here on. It may exceed this by a record without its value.
const CHUNK_BYTES: usize = 128 << 10;

/// The longest record without its value: a key and its length, and at most four numbers.
const RECORD_HEAD_MAX_BYTES: usize = KEY_MAX_BYTES + 50;

/// The longest chunk that a [`View`] gives.
pub const CHUNK_MAX_BYTES: usize = CHUNK_BYTES + RECORD_HEAD_MAX_BYTES;

/// Why a stream of chunks gives no state. The [`Restore`] is of no use any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A chunk that no state makes, or not at this place.
    #[error("chunk {chunk} of the snapshot is {malformed}")]
    Malformed {
        /// Its number; the first is 1.
        chunk: u64,
        /// What is wrong with it.
        malformed: Malformed,
    },

    /// The stream ended too early.
    #[error("the snapshot ends after {found} of {expected} keys")]
    Incomplete {
        /// How many keys have come whole.
        found: u64,
        /// How many the head announced; 0 when not even the head has come.
        expected: u64,
    },

    /// All keys came, and together they are not what was written.
    #[error("the snapshot's keys have the hash {found:016x}, and its head says {expected:016x}")]
    Hash {
        /// The hash of what came.
        found: u64,
        /// The hash in the head.
        expected: u64,
    },
}

impl View {
    /// The state in chunks of about 128 KiB, each made when it is asked for. The same state gives the same
    /// chunks on every node. At least one.
    pub fn chunks(&self) -> impl Iterator<Item = Bytes> + Send + use<'_> {
        let kind = if self.leases().is_empty() {
            RECORDS
        } else {
            RECORDS_AND_LEASES
        };
        let leases = self.leases().iter().map(|(id, lease)| Item::Lease(*id, lease));
        let records = self
            .all()
            .map(move |(key, record)| Item::Record(kind, key, record));
        Chunks {
            head: Some(head(self)),
            items: leases.chain(records).peekable(),
            kind,
            value: Bytes::new(),
        }
    }
}

fn head(view: &View) -> Bytes {
    let mut out = vec![VERSION, HEAD];
    put_number(&mut out, view.applied());
    put_number(&mut out, view.time_ms());
    match view.cluster_id() {
        None => out.push(0),
        Some(id) => {
            out.push(1);
            out.extend_from_slice(&id);
        }
    }
    put_number(&mut out, view.len() as u64);
    put_number(&mut out, view.bytes());
    out.extend_from_slice(&view.hash().to_le_bytes());
    let check = xxh3_64(&out);
    out.extend_from_slice(&check.to_le_bytes());
    out.into()
}

/// What stands in a chunk.
enum Item<'a> {
    Lease(NonZeroU64, &'a Lease),
    /// With the kind of its chunk.
    Record(u8, &'a Key, &'a Record),
}

impl Item<'_> {
    /// The kind of the chunk that it may stand in.
    fn kind(&self) -> u8 {
        match self {
            Item::Lease(..) => LEASES,
            Item::Record(kind, ..) => *kind,
        }
    }

    /// Writes all but the bytes of the value, and gives those.
    fn put(&self, out: &mut Vec<u8>) -> Bytes {
        match self {
            Item::Lease(id, lease) => {
                put_number(out, id.get());
                put_number(out, lease.ttl_ms);
                put_number(out, lease.deadline_ms);
                Bytes::new()
            }
            Item::Record(kind, key, record) => {
                put_bytes(out, key.as_slice());
                put_number(out, record.revision);
                put_number(out, record.life.expiry.map_or(0, NonZeroU64::get));
                if *kind == RECORDS_AND_LEASES {
                    put_number(out, record.life.lease.map_or(0, NonZeroU64::get));
                }
                put_number(out, record.value.len() as u64);
                record.value.clone()
            }
        }
    }
}

struct Chunks<I: Iterator> {
    head: Option<Bytes>,
    items: Peekable<I>,
    /// The kind of the last chunk.
    kind: u8,
    /// What it had no room for.
    value: Bytes,
}

impl<'a, I: Iterator<Item = Item<'a>>> Iterator for Chunks<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if let Some(head) = self.head.take() {
            return Some(head);
        }
        if self.value.is_empty() {
            self.kind = self.items.peek()?.kind();
        }
        let mut out = Vec::with_capacity(CHUNK_MAX_BYTES);
        out.extend_from_slice(&[VERSION, self.kind]);
        loop {
            let room = CHUNK_BYTES.saturating_sub(out.len());
            let part = self.value.split_to(self.value.len().min(room));
            out.extend_from_slice(&part);
            if out.len() >= CHUNK_BYTES {
                break;
            }
            let Some(item) = self.items.next_if(|item| item.kind() == self.kind) else {
                break;
            };
            self.value = item.put(&mut out);
        }
        Some(out.into())
    }
}

/// A state being built from its chunks.
#[derive(Debug, Default)]
pub struct Restore {
    head: Option<Head>,
    store: Store,
    /// The last key that came.
    last_key: Bytes,
    last_lease: u64,
    partial: Option<Partial>,
    chunks: u64,
}

#[derive(Debug)]
struct Head {
    count: u64,
    bytes: u64,
    hash: u64,
}

/// A record whose value has not come whole.
#[derive(Debug)]
struct Partial {
    key: Bytes,
    revision: u64,
    life: Life,
    value: Vec<u8>,
    /// How much is still to come.
    rest: usize,
}

impl Restore {
    /// Nothing yet.
    pub fn new() -> Restore {
        Restore::default()
    }

    /// Takes the next chunk. Values are copied out of it.
    ///
    /// # Errors
    /// [`RestoreError::Malformed`].
    pub fn push(&mut self, chunk: Bytes) -> Result<(), RestoreError> {
        self.chunks += 1;
        self.read(chunk).map_err(|malformed| RestoreError::Malformed {
            chunk: self.chunks,
            malformed,
        })
    }

    /// How many keys have come whole.
    pub fn len(&self) -> u64 {
        self.store.len() as u64
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.store.is_empty()
    }

    /// The state, when all of it has come.
    ///
    /// # Errors
    /// [`RestoreError::Incomplete`], [`RestoreError::Hash`].
    pub fn finish(self) -> Result<Store, RestoreError> {
        let found = self.len();
        let Some(head) = self.head else {
            return Err(RestoreError::Incomplete { found, expected: 0 });
        };
        if found != head.count || self.partial.is_some() {
            let expected = head.count;
            return Err(RestoreError::Incomplete { found, expected });
        }
        let hash = self.store.hash();
        if hash != head.hash || self.store.bytes() != head.bytes {
            return Err(RestoreError::Hash {
                found: hash,
                expected: head.hash,
            });
        }
        Ok(self.store)
    }

    fn read(&mut self, chunk: Bytes) -> Result<(), Malformed> {
        let mut reader = Reader::new(chunk.clone());
        reader.version(VERSION)?;
        match (reader.byte()?, &self.head) {
            (HEAD, None) => self.read_head(&chunk, &mut reader),
            (HEAD, Some(_)) => Err(reader.malformed("a second head")),
            (_, None) => Err(reader.malformed("a chunk before the head")),
            (_, Some(_)) if reader.is_empty() => Err(reader.malformed("a chunk of nothing")),
            (kind @ (RECORDS | RECORDS_AND_LEASES), Some(head)) => {
                let count = head.count;
                self.read_records(&mut reader, kind, count)
            }
            (LEASES, Some(_)) => self.read_leases(&mut reader),
            _ => Err(reader.malformed("an unknown kind of chunk")),
        }
    }

    fn read_head(&mut self, chunk: &[u8], reader: &mut Reader) -> Result<(), Malformed> {
        let (bytes, check) = chunk
            .split_last_chunk::<8>()
            .ok_or_else(|| reader.malformed("cut short"))?;
        if *check != xxh3_64(bytes).to_le_bytes() {
            return Err(reader.malformed("a head with a wrong checksum"));
        }
        self.store.applied = reader.number()?;
        self.store.time_ms = reader.number()?;
        self.store.cluster_id = match reader.byte()? {
            0 => None,
            1 => Some(reader.array()?),
            _ => return Err(reader.malformed("neither a cluster id nor none")),
        };
        let head = Head {
            count: reader.number()?,
            bytes: reader.number()?,
            hash: u64::from_le_bytes(reader.array()?),
        };
        reader.array::<8>()?;
        reader.end()?;
        self.head = Some(head);
        Ok(())
    }

    fn read_leases(&mut self, reader: &mut Reader) -> Result<(), Malformed> {
        while !reader.is_empty() {
            let id = reader.number()?;
            if id <= self.last_lease || id > self.store.applied {
                return Err(reader.malformed("a lease outside the log, or not behind the one before it"));
            }
            if self.store.leases.len() >= LEASES_MAX {
                return Err(reader.malformed("more leases than there may be"));
            }
            self.last_lease = id;
            let lease = Lease {
                ttl_ms: reader.number()?,
                deadline_ms: reader.number()?,
            };
            if let Some(id) = NonZeroU64::new(id) {
                self.store.leases.put(id, lease);
            }
        }
        Ok(())
    }

    fn read_records(&mut self, reader: &mut Reader, kind: u8, count: u64) -> Result<(), Malformed> {
        if let Some(partial) = self.partial.take() {
            self.take_value(partial, reader)?;
        }
        while !reader.is_empty() {
            if self.len() >= count {
                return Err(reader.malformed("more keys than the head says"));
            }
            let key = reader.bytes()?;
            if key.len() > KEY_MAX_BYTES {
                return Err(reader.malformed("a key longer than a key may be"));
            }
            if key <= self.last_key {
                return Err(reader.malformed("a key that is not behind the one before it"));
            }
            let revision = reader.number()?;
            if revision == 0 || revision > self.store.applied {
                return Err(reader.malformed("a revision outside the log"));
            }
            let life = Life {
                expiry: NonZeroU64::new(reader.number()?),
                lease: self.lease_of_record(reader, kind)?,
            };
            let length = usize::try_from(reader.number()?).unwrap_or(usize::MAX);
            if length > VALUE_MAX_BYTES {
                return Err(reader.malformed("a value longer than a value may be"));
            }
            let partial = Partial {
                key,
                revision,
                life,
                value: Vec::new(),
                rest: length,
            };
            self.take_value(partial, reader)?;
        }
        // A slice would keep the chunk alive.
        self.last_key = Bytes::copy_from_slice(&self.last_key);
        Ok(())
    }

    fn lease_of_record(&self, reader: &mut Reader, kind: u8) -> Result<Option<NonZeroU64>, Malformed> {
        if kind == RECORDS {
            return Ok(None);
        }
        let lease = NonZeroU64::new(reader.number()?);
        if lease.is_some_and(|id| self.store.leases.get(&id).is_none()) {
            return Err(reader.malformed("a key on a lease that did not come"));
        }
        Ok(lease)
    }

    /// Takes the value, or as much of it as is there.
    fn take_value(&mut self, mut partial: Partial, reader: &mut Reader) -> Result<(), Malformed> {
        let part = reader.up_to(partial.rest);
        partial.rest -= part.len();
        let value = if partial.rest > 0 {
            partial.value.extend_from_slice(&part);
            partial.key = Bytes::copy_from_slice(&partial.key);
            self.last_key = partial.key.clone();
            self.partial = Some(partial);
            return Ok(());
        } else if partial.value.is_empty() {
            part
        } else {
            partial.value.extend_from_slice(&part);
            // Exactly as long as it need be, for it stays.
            partial.value.into_boxed_slice().into()
        };
        let (revision, life) = (partial.revision, partial.life);
        self.store.keys.restore(&partial.key, &value, revision, life);
        self.last_key = partial.key;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::rng::Rng;
    use crate::kv::Command;
    use crate::kv::twin::any_command;

    fn any_store(seed: u64, steps: u64) -> Store {
        let mut rng = Rng::new(seed);
        let mut store = Store::new();
        for index in 1..=steps {
            let time_ms = 1000 + index;
            store.apply(index, time_ms, &any_command(&mut rng, time_ms));
        }
        store
    }

    fn with(pairs: &[(&str, usize)]) -> Store {
        let mut store = Store::new();
        for (key, length) in pairs {
            let bytes: Vec<u8> = (0..*length).map(|n| (n / 7) as u8).collect();
            let pairs = vec![(Bytes::copy_from_slice(key.as_bytes()), bytes.into())];
            store.apply(store.applied() + 1, 5, &Command::MultiSet { pairs });
        }
        store
    }

    fn chunks(store: &Store) -> Vec<Bytes> {
        store.view().chunks().collect()
    }

    fn restore(chunks: &[Bytes]) -> Result<Store, RestoreError> {
        let mut restore = Restore::new();
        for chunk in chunks {
            restore.push(chunk.clone())?;
        }
        restore.finish()
    }

    fn assert_equal(store: &Store, again: &Store) {
        assert_eq!(
            (again.hash(), again.applied(), again.time_ms(), again.cluster_id()),
            (store.hash(), store.applied(), store.time_ms(), store.cluster_id())
        );
        assert_eq!(
            (
                again.len(),
                again.bytes(),
                again.next_expiry(),
                again.expiring_len()
            ),
            (
                store.len(),
                store.bytes(),
                store.next_expiry(),
                store.expiring_len()
            )
        );
        assert_eq!(again.view().recompute_hash(), store.hash());
        again.keys.check();
        again.leases.check();
        assert_eq!(again.leases_len(), store.leases_len());
    }

    proptest! {
        #[test]
        fn a_store_comes_back_and_goes_on_alike(seed: u64, steps in 0u64..400) {
            let mut store = any_store(seed, steps);
            let mut again = restore(&chunks(&store)).unwrap();
            assert_equal(&store, &again);
            prop_assert_eq!(chunks(&again), chunks(&store));
            let mut rng = Rng::new(seed ^ 1);
            for index in steps + 1..steps + 50 {
                let command = any_command(&mut rng, index);
                prop_assert_eq!(again.apply(index, index, &command), store.apply(index, index, &command));
                prop_assert_eq!(again.hash(), store.hash());
            }
        }

        #[test]
        fn any_bytes_are_taken_or_refused(mut bytes: Vec<u8>) {
            let mut restore = Restore::new();
            restore.push(chunks(&with(&[("a", 9)]))[0].clone()).unwrap();
            bytes.splice(0..0, [VERSION, RECORDS]);
            let _ = restore.push(bytes.clone().into());
            bytes[1] = HEAD;
            let _ = Restore::new().push(bytes.into());
        }
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_seen() {
        // The head, leases, records.
        let whole = chunks(&any_store(11, 60));
        assert_eq!(whole.len(), 3);
        for (at, chunk) in whole.iter().enumerate() {
            for offset in 0..chunk.len() {
                for bits in [1, 0x10, 0x80, 0xff] {
                    let mut bytes = chunk.to_vec();
                    bytes[offset] ^= bits;
                    let mut broken = whole.clone();
                    broken[at] = bytes.into();
                    assert!(restore(&broken).is_err(), "chunk {at}, byte {offset}");
                }
                let mut broken = whole.clone();
                broken[at] = chunk.slice(..offset);
                assert!(restore(&broken).is_err(), "chunk {at} cut at {offset}");
            }
        }
    }

    #[test]
    fn large_values_span_chunks_and_chunks_keep_their_size() {
        let store = with(&[
            ("a", 10),
            ("b", 600_000),
            ("c", 0),
            ("d", VALUE_MAX_BYTES),
            ("e", 131_000),
        ]);
        let whole = chunks(&store);
        let (last, full) = whole[1..].split_last().unwrap();
        assert!(full.len() > 30);
        for chunk in full {
            assert!((CHUNK_BYTES..CHUNK_BYTES + RECORD_HEAD_MAX_BYTES).contains(&chunk.len()));
        }
        assert!(last.len() <= CHUNK_BYTES + RECORD_HEAD_MAX_BYTES);
        assert_equal(&store, &restore(&whole).unwrap());
        for missing in 0..whole.len() {
            let mut broken = whole.clone();
            broken.remove(missing);
            assert!(restore(&broken).is_err(), "without chunk {missing}");
            let mut broken = whole.clone();
            broken.insert(missing, whole[missing].clone());
            assert!(restore(&broken).is_err(), "chunk {missing} twice");
            assert!(restore(&whole[..missing]).is_err(), "only {missing} chunks");
        }
    }

    #[test]
    fn a_restored_value_does_not_keep_its_chunk_alive() {
        let chunks = chunks(&with(&[("a", 10), ("b", 100_000)]));
        let mut restore = Restore::new();
        for chunk in &chunks {
            restore.push(chunk.clone()).unwrap();
        }
        let store = restore.finish().unwrap();
        assert!(chunks.iter().all(Bytes::is_unique));
        assert_eq!(store.len(), 2);
    }

    #[test]
    fn what_was_announced_takes_no_memory() {
        let mut restore = Restore::new();
        restore
            .push(chunks(&with(&[("a", VALUE_MAX_BYTES)]))[0].clone())
            .unwrap();
        let mut chunk = vec![VERSION, RECORDS];
        put_bytes(&mut chunk, b"a");
        chunk.extend_from_slice(&[1, 0]);
        put_number(&mut chunk, VALUE_MAX_BYTES as u64);
        chunk.push(b'x');
        restore.push(chunk.into()).unwrap();
        assert!(restore.partial.as_ref().unwrap().value.capacity() < 100);
        let end = restore.finish().unwrap_err();
        assert_eq!(end.to_string(), "the snapshot ends after 0 of 1 keys");
    }

    /// If this fails, old snapshots are no longer readable: add a version, and leave these.
    #[test]
    fn golden() {
        let mut store = with(&[("a", 3), ("b", 0)]);
        let cluster_id = *b"0123456789abcdef";
        store.apply(3, 300, &Command::Bootstrap { cluster_id });
        store.apply(
            4,
            300,
            &Command::Expire {
                key: Bytes::from("b"),
                at: crate::kv::Moment::At(1000),
                condition: crate::kv::ExpireCondition::Always,
            },
        );
        let [head, records] = &chunks(&store)[..] else {
            panic!("two chunks");
        };
        assert_eq!(
            head[..],
            b"\x01\x01\x04\xac\x02\x010123456789abcdef\x02\x05\
              \x57\x0f\x19\x82\x4f\xba\x60\x09\x76\xd8\xa3\xd5\x72\x5f\x72\x40"[..]
        );
        assert_eq!(
            records[..],
            b"\x01\x02\x01a\x01\0\x03\0\0\0\x01b\x04\xe8\x07\0"[..]
        );
    }

    /// As above, for what came later.
    #[test]
    fn golden_with_leases() {
        let mut store = with(&[("a", 3)]);
        store.apply(2, 300, &Command::GrantLease { ttl_ms: 30_000 });
        let set = Command::Set {
            key: Bytes::from("b"),
            value: Bytes::new(),
            condition: crate::kv::Condition::Always,
            expiry: crate::kv::SetExpiry::Lease(2),
            answer: crate::kv::SetAnswer::Status,
        };
        store.apply(3, 300, &set);
        let chunks = chunks(&store);
        assert_eq!(chunks[0].len(), 24);
        assert_eq!(chunks[1][..], b"\x01\x04\x02\xb0\xea\x01\xdc\xec\x01"[..]);
        assert_eq!(
            chunks[2][..],
            b"\x01\x03\x01a\x01\0\0\x03\0\0\0\x01b\x03\0\x02\0"[..]
        );
        assert_eq!(store.hash(), 8_829_790_302_892_935_858);
        assert_equal(&store, &restore(&chunks).unwrap());
    }
}
