//! A state as a stream of chunks, and a state out of such a stream (Raft 7).
//!
//! ```text
//! head      1 │ 1 │ applied │ time │ 0, or 1 and the cluster id │ count │ bytes │ hash u64 │ check u64
//! chunk     1 │ kind │ the rest of a value │ item │ item │ ... │ item, perhaps without the end of its value
//! items     4: lease │ 5: session │ 6: answer of a session │ 7: token │ 2 or 3: record
//! lease     number │ life │ deadline
//! session   number │ life │ deadline
//! answer    number of the session │ its own number │ fingerprint u64 │ reply
//! token     token │ deadline │ fingerprint u64 │ reply
//! record    key │ revision │ expiry, 0 for none │ in chunks of kind 3: lease, 0 for none │ value
//! ```
//!
//! The first 1 of a chunk is the version of this form. The head comes first, then the items in the order of that
//! line, each kind in the order of its first fields, cut into chunks wherever one is full; only a value or a reply is
//! ever cut. Records are of kind 3 if there is any lease, else of kind 2. Numbers are varints, byte strings come after
//! their length, `hash`, `check` and fingerprints are 8 bytes, little-endian. `count` is that of the keys. `hash` is
//! [`Store::hash`], which covers everything but the applied index; `check` is a hash of the head's bytes before it,
//! which covers that one too.
//!
//! **Trust.** Chunks come from a disk or from another node. Each is checked as it comes, the whole when it
//! has come: a [`Restore`] gives the state that the stream was made of, or a reason, and takes memory for what
//! has arrived and not for what was announced.
//!
//! **Memory.** A [`View`] is O(1); a chunk is made when it is asked for, and nothing else is copied. What
//! writes overwrite meanwhile stays in memory as long as the view does.

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;

use std::iter::Peekable;
use std::num::NonZeroU64;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::answer::Answer;
use super::encoding::fields::{Malformed, Reader, put_bytes, put_number};
use super::key::Key;
use super::keyspace::{Life, Record};
use super::lease::{LEASES_MAX, Lease};
use super::once::{TOKEN_MAX_BYTES, Token};
use super::session::{SESSIONS_MAX, Session};
use super::{KEY_MAX_BYTES, Store, VALUE_MAX_BYTES, View, decode_reply};
use crate::base::mutant::{self, Mutant};

const VERSION: u8 = 1;
const HEAD: u8 = 1;
const RECORDS: u8 = 2;
const RECORDS_AND_LEASES: u8 = 3;
const LEASES: u8 = 4;
const SESSIONS: u8 = 5;
const ANSWERS: u8 = 6;
const TOKENS: u8 = 7;

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
        self.chunks_of(CHUNK_BYTES)
    }

    /// The same in chunks of another size: each is full from so many bytes on, from 3 bytes to 128 KiB.
    pub fn chunks_of(&self, bytes: usize) -> impl Iterator<Item = Bytes> + Send + use<'_> {
        let kind = if self.leases().is_empty() {
            RECORDS
        } else {
            RECORDS_AND_LEASES
        };
        let leases = self.leases().iter().map(|(id, lease)| Item::Lease(*id, lease));
        let records = self
            .all()
            .map(move |(key, record)| Item::Record(kind, key, record));
        let sessions = self.sessions().iter();
        let answers = sessions.clone().flat_map(|(id, session)| {
            let answers = session.answers().iter();
            answers.map(|(n, answer)| Item::Answer(*id, *n, answer))
        });
        let sessions = sessions.map(|(id, session)| Item::Session(*id, session));
        let tokens = self.tokens().iter().map(|(token, then)| Item::Token(token, then));
        let tables = leases.chain(sessions).chain(answers).chain(tokens);
        Chunks {
            head: Some(head(self)),
            items: tables.chain(records).peekable(),
            kind,
            value: Bytes::new(),
            full_bytes: bytes.clamp(3, CHUNK_BYTES),
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
    Session(u64, &'a Session),
    Answer(u64, u64, &'a Answer),
    Token(&'a Key, &'a Token),
    /// With the kind of its chunk.
    Record(u8, &'a Key, &'a Record),
}

impl Item<'_> {
    /// The kind of the chunk that it may stand in.
    fn kind(&self) -> u8 {
        match self {
            Item::Lease(..) => LEASES,
            Item::Session(..) => SESSIONS,
            Item::Answer(..) => ANSWERS,
            Item::Token(..) => TOKENS,
            Item::Record(kind, ..) => *kind,
        }
    }

    /// Writes all but the bytes of the value, and gives those.
    fn put(&self, out: &mut Vec<u8>) -> Bytes {
        match self {
            Item::Lease(id, lease) => {
                put_numbers(out, [id.get(), lease.ttl_ms, lease.deadline_ms]);
                Bytes::new()
            }
            Item::Session(id, session) => {
                put_numbers(out, [*id, session.life_ms, session.deadline_ms]);
                Bytes::new()
            }
            Item::Answer(session, n, answer) => {
                put_numbers(out, [*session, *n]);
                put_answer(out, answer)
            }
            Item::Token(token, then) => {
                put_bytes(out, token.as_slice());
                put_number(out, then.deadline_ms);
                put_answer(out, &then.answer)
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

fn put_numbers<const N: usize>(out: &mut Vec<u8>, numbers: [u64; N]) {
    numbers.into_iter().for_each(|number| put_number(out, number));
}

fn put_answer(out: &mut Vec<u8>, answer: &Answer) -> Bytes {
    out.extend_from_slice(&answer.fingerprint.to_le_bytes());
    put_number(out, answer.reply.len() as u64);
    answer.reply.clone()
}

struct Chunks<I: Iterator> {
    head: Option<Bytes>,
    items: Peekable<I>,
    /// The kind of the last chunk.
    kind: u8,
    /// What it had no room for.
    value: Bytes,
    /// A chunk is full from here on.
    full_bytes: usize,
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
        let mut out = Vec::with_capacity(self.full_bytes + RECORD_HEAD_MAX_BYTES);
        out.extend_from_slice(&[VERSION, self.kind]);
        loop {
            let room = self.full_bytes.saturating_sub(out.len());
            let part = self.value.split_to(self.value.len().min(room));
            out.extend_from_slice(&part);
            if out.len() >= self.full_bytes {
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
    partial: Option<Partial>,
    chunks: u64,
}

#[derive(Debug)]
struct Head {
    count: u64,
    bytes: u64,
    hash: u64,
}

/// An item whose value has not come whole.
#[derive(Debug)]
struct Partial {
    start: Start,
    value: Vec<u8>,
    /// How much is still to come.
    rest: usize,
}

/// What comes before the value of an item.
#[derive(Debug)]
enum Start {
    Answer {
        session: u64,
        n: u64,
        fingerprint: u64,
    },
    Token {
        token: Key,
        deadline_ms: u64,
        fingerprint: u64,
    },
    Record {
        kind: u8,
        key: Bytes,
        revision: u64,
        life: Life,
    },
}

impl Start {
    /// The kind of chunks in which the value goes on.
    fn kind(&self) -> u8 {
        match self {
            Start::Answer { .. } => ANSWERS,
            Start::Token { .. } => TOKENS,
            Start::Record { kind, .. } => *kind,
        }
    }
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
        if mutant::is(Mutant::ChunkOutOfOrder) {
            return Ok(self.store);
        }
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
            (kind @ RECORDS..=TOKENS, Some(head)) => {
                let keys_max = head.count;
                self.read_items(&mut reader, kind, keys_max)
            }
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

    fn read_items(&mut self, reader: &mut Reader, kind: u8, keys_max: u64) -> Result<(), Malformed> {
        if reader.is_empty() {
            return Err(reader.malformed("a chunk of nothing"));
        }
        if let Some(partial) = self.partial.take() {
            if partial.start.kind() != kind {
                return Err(
                    reader.malformed("a chunk of another kind than the value that it should go on with")
                );
            }
            self.take_value(partial, reader)?;
        }
        while !reader.is_empty() {
            let start = match kind {
                LEASES => {
                    self.read_lease(reader)?;
                    continue;
                }
                SESSIONS => {
                    self.read_session(reader)?;
                    continue;
                }
                ANSWERS => self.start_of_answer(reader)?,
                TOKENS => self.start_of_token(reader)?,
                _ if self.len() >= keys_max => return Err(reader.malformed("more keys than the head says")),
                _ => self.start_of_record(reader, kind)?,
            };
            let rest = usize::try_from(reader.number()?).unwrap_or(usize::MAX);
            if rest > VALUE_MAX_BYTES && matches!(start, Start::Record { .. }) {
                return Err(reader.malformed("a value longer than a value may be"));
            }
            let value = Vec::new();
            self.take_value(Partial { start, value, rest }, reader)?;
        }
        // A slice would keep the chunk alive.
        self.last_key = Bytes::copy_from_slice(&self.last_key);
        Ok(())
    }

    fn read_lease(&mut self, reader: &mut Reader) -> Result<(), Malformed> {
        let last = self.store.leases.last().map_or(0, |id| id.get());
        let id = self.next_number(reader, last)?;
        if self.store.leases.len() >= LEASES_MAX {
            return Err(reader.malformed("more leases than there may be"));
        }
        let lease = Lease {
            ttl_ms: reader.number()?,
            deadline_ms: reader.number()?,
        };
        self.store.leases.put(id, lease);
        Ok(())
    }

    fn read_session(&mut self, reader: &mut Reader) -> Result<(), Malformed> {
        let last = self.store.sessions.last().copied().unwrap_or(0);
        let id = self.next_number(reader, last)?;
        if self.store.sessions.len() >= SESSIONS_MAX {
            return Err(reader.malformed("more sessions than there may be"));
        }
        let session = Session::new(reader.number()?, reader.number()?);
        self.store.sessions.put(id.get(), session);
        Ok(())
    }

    /// The number of a lease or session: an index of the log behind the last one.
    fn next_number(&self, reader: &mut Reader, last: u64) -> Result<NonZeroU64, Malformed> {
        let number = reader.number()?;
        let is_next = last < number && number <= self.store.applied;
        NonZeroU64::new(number)
            .filter(|_| is_next)
            .ok_or_else(|| reader.malformed("a number outside the log, or not behind the one before it"))
    }

    fn start_of_answer(&self, reader: &mut Reader) -> Result<Start, Malformed> {
        let (session, n) = (reader.number()?, reader.number()?);
        let known = self.store.sessions.get(&session);
        let newest = known.map(|known| known.answers().get_max().map_or(0, |(n, _)| *n));
        if newest.is_none_or(|newest| n <= newest) {
            return Err(reader.malformed("an answer of no session, or not behind the one before it"));
        }
        let fingerprint = u64::from_le_bytes(reader.array()?);
        Ok(Start::Answer {
            session,
            n,
            fingerprint,
        })
    }

    fn start_of_token(&self, reader: &mut Reader) -> Result<Start, Malformed> {
        let token = reader.bytes()?;
        if !(1..=TOKEN_MAX_BYTES).contains(&token.len()) {
            return Err(reader.malformed("a token longer than a token may be, or of no bytes"));
        }
        let token = Key::new(&token);
        if self.store.tokens.last().is_some_and(|last| token <= *last) {
            return Err(reader.malformed("a token that is not behind the one before it"));
        }
        Ok(Start::Token {
            token,
            deadline_ms: reader.number()?,
            fingerprint: u64::from_le_bytes(reader.array()?),
        })
    }

    fn start_of_record(&self, reader: &mut Reader, kind: u8) -> Result<Start, Malformed> {
        let key = reader.bytes()?;
        if key.len() > KEY_MAX_BYTES {
            return Err(reader.malformed("a key longer than a key may be"));
        }
        if key <= self.last_key && !mutant::is(Mutant::ChunkOutOfOrder) {
            return Err(reader.malformed("a key that is not behind the one before it"));
        }
        let revision = reader.number()?;
        if revision == 0 || revision > self.store.applied {
            return Err(reader.malformed("a revision outside the log"));
        }
        let expiry = NonZeroU64::new(reader.number()?);
        let lease = match kind {
            RECORDS => None,
            _ => NonZeroU64::new(reader.number()?),
        };
        if lease.is_some_and(|id| self.store.leases.get(&id).is_none()) {
            return Err(reader.malformed("a key on a lease that did not come"));
        }
        let life = Life { expiry, lease };
        Ok(Start::Record {
            kind,
            key,
            revision,
            life,
        })
    }

    /// Takes the value, or as much of it as is there.
    fn take_value(&mut self, mut partial: Partial, reader: &mut Reader) -> Result<(), Malformed> {
        let part = reader.up_to(partial.rest);
        partial.rest -= part.len();
        let value = if partial.rest > 0 {
            partial.value.extend_from_slice(&part);
            if let Start::Record { key, .. } = &mut partial.start {
                *key = Bytes::copy_from_slice(key);
                self.last_key = key.clone();
            }
            self.partial = Some(partial);
            return Ok(());
        } else if partial.value.is_empty() {
            part
        } else {
            partial.value.extend_from_slice(&part);
            // Exactly as long as it need be, for it stays.
            partial.value.into_boxed_slice().into()
        };
        self.take_item(partial.start, value, reader)
    }

    fn take_item(&mut self, start: Start, value: Bytes, reader: &Reader) -> Result<(), Malformed> {
        let answer = |fingerprint| {
            decode_reply(value.clone()).map_err(|_| reader.malformed("a reply that can't be read"))?;
            // A slice would keep the chunk alive.
            let reply = Bytes::copy_from_slice(&value);
            Ok(Answer { fingerprint, reply })
        };
        match start {
            Start::Answer {
                session,
                n,
                fingerprint,
            } => {
                let answer = answer(fingerprint)?;
                let sessions = &mut self.store.sessions;
                sessions.update(&session, |session| session.remember(n, answer));
            }
            Start::Token {
                token,
                deadline_ms,
                fingerprint,
            } => {
                let answer = answer(fingerprint)?;
                self.store.tokens.put(token, Token { deadline_ms, answer });
            }
            Start::Record {
                key, revision, life, ..
            } => {
                self.store.keys.restore(&key, &value, revision, life);
                self.last_key = key;
            }
        }
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
        again.sessions.check();
        again.tokens.check();
        let counts = |store: &Store| (store.leases_len(), store.sessions_len(), store.tokens_len());
        assert_eq!(counts(again), counts(store));
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
        // The head, leases, sessions, their answers, tokens, records.
        let mut wholes = (0..).map(|seed| chunks(&any_store(seed, 60)));
        let whole = wholes.find(|whole| whole.len() == 6).unwrap();
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

    #[test]
    fn golden_with_answers() {
        let mut store = Store::new();
        let get_set = |value: Bytes| Command::Set {
            key: Bytes::from("k"),
            value,
            condition: crate::kv::Condition::Always,
            expiry: crate::kv::SetExpiry::Clear,
            answer: crate::kv::SetAnswer::OldValue,
        };
        store.apply(1, 300, &Command::OpenSession { life_ms: 1000 });
        let seq = |n, value| Command::Seq {
            session: 1,
            n,
            command: Box::new(get_set(value)),
        };
        store.apply(2, 300, &seq(2, Bytes::from("v")));
        let once = Command::Once {
            token: Bytes::from("t"),
            window_ms: 500,
            command: Box::new(get_set(Bytes::new())),
        };
        store.apply(3, 300, &once);
        let whole = chunks(&store);
        assert_eq!(whole[1][..], b"\x01\x05\x01\xe8\x07\x94\x0a"[..]);
        assert_eq!(
            whole[2][..],
            b"\x01\x06\x01\x02\x9b\xa8\x26\x15\x9e\x08\x14\xe1\x02\x01\x05"[..]
        );
        assert_eq!(
            whole[3][..],
            b"\x01\x07\x01t\xa0\x06\x08\x06\xcc\x1c\x9d\x0a\x97\x23\x04\x01\x04\x01v"[..]
        );
        assert_eq!(whole[4][..], b"\x01\x02\x01k\x03\0\0"[..]);
        assert_eq!(store.hash(), 2_146_748_682_210_663_808);
        assert_equal(&store, &restore(&whole).unwrap());

        // A reply that spans chunks, whose end comes in chunks of its kind only.
        store.apply(4, 300, &seq(3, Bytes::from(vec![7; 300_000])));
        store.apply(5, 300, &seq(4, Bytes::new()));
        let whole = chunks(&store);
        assert_eq!(whole.len(), 7);
        assert_equal(&store, &restore(&whole).unwrap());
        let mut broken = whole.clone();
        broken.swap(3, 5);
        assert!(restore(&broken).is_err());
        for missing in 0..whole.len() {
            let mut broken = whole.clone();
            broken.remove(missing);
            assert!(restore(&broken).is_err(), "without chunk {missing}");
        }
    }
}
