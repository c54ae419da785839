//! The state machine: what the committed log means.
//!
//! A [`Store`] is a value. Each log entry is applied to it in the order of the log, and the same entries give
//! the same replies and the same state on every node: there is no clock here, no thread, socket, file or
//! global randomness, and nothing that depends on where an object lies in memory. Whether that holds is
//! checked all the time: [`Store::hash`] is a function of the state alone, kept up to date with each write,
//! and nodes compare it at the same index.
//!
//! **Time** comes inside entries, stamped by the leader. The store's time is the largest seen so far: a new
//! leader whose clock is behind does not turn it back. A key whose expiry is at or before the store's time is
//! absent: for a write, which first removes such keys where it meets them, as for a read, which takes the
//! store's time too and never a local clock, so that two nodes at one index answer alike. Keys that nobody
//! meets go by [`Command::ExpireDue`], which the leader proposes; it names no keys but looks at the expiries
//! as they are when it is applied, so a key that was given a longer life meanwhile stays.
//!
//! **Revisions** are indexes of the log. A write that writes gives the keys it touches the index of its entry
//! as their revision, even if the value is the same as before; one that does not write (a failed condition, a
//! DEL of an absent key, an error) leaves no trace.
//!
//! **Copies.** [`Store::view`] is O(1): the map is a tree whose nodes are shared between copies until one
//! of them changes. Long reads and snapshots walk a [`View`] while writes go on.
//!
//! To be read in this order: `command` (what is asked and answered), this file, `keyspace` with `key` (the
//! map), `strings` with `decimal` and `expiry` (the commands), `lease` with `timed` (what ends at times of its
//! own), `transaction` (several steps in one entry), `view` (long reads), `feed` (what has changed), `encoding`
//! (the bytes in the log), `snapshot` (a state as a stream of chunks).
//!
//! Missing: a cluster-wide feature level, so that nodes of different versions interpret an entry alike
//! (until then a change of what a command means needs a new command tag, see `encoding`).

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

mod answer;
mod command;
mod decimal;
mod encoding;
mod expiry;
mod feed;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod key;
mod keyspace;
mod lease;
mod once;
#[cfg(test)]
mod scripts;
mod session;
mod snapshot;
mod strings;
mod timed;
mod transaction;
#[cfg(test)]
mod twin;
mod view;

pub use answer::ANSWERS_MAX_BYTES;
pub use command::{
    Code, Command, Condition, Error, ExpireCondition, Moment, Query, Reply, Scan, SetAnswer, SetExpiry, Step,
};
pub use encoding::{
    Malformed, decode_command, decode_entry, decode_reply, encode_command, encode_entry, encode_reply, stamp,
};
pub use feed::{Cursor, EVENTS_MAX, Event, HISTORY_MAX_BYTES, History};
pub use lease::{LEASE_KEYS_MAX, LEASES_MAX, LIFE_MAX_MS};
pub use once::TOKEN_MAX_BYTES;
pub use session::{SEQ_WINDOW, SESSIONS_MAX};
pub use snapshot::{CHUNK_MAX_BYTES, Restore, RestoreError};
pub use transaction::{REPLY_MAX_BYTES, STEPS_MAX};
pub use view::{View, prefix_end};

use keyspace::{Keyspace, Record};
use lease::Leases;
use once::Tokens;
use session::Sessions;

/// A key has 1 to this many bytes.
pub const KEY_MAX_BYTES: usize = 4096;

/// A value has at most this many bytes.
pub const VALUE_MAX_BYTES: usize = 4 << 20;

/// The replicated state.
#[derive(Clone, Default)]
pub struct Store {
    keys: Keyspace,
    leases: Leases,
    sessions: Sessions,
    tokens: Tokens,
    /// Milliseconds since 1970-01-01 UTC, as stamped by leaders; never goes back; 0 before the first entry.
    time_ms: u64,
    /// `lastApplied` (Raft figure 2): 0 before the first entry.
    applied: u64,
    /// Named once, by the first [`Command::Bootstrap`].
    cluster_id: Option<[u8; 16]>,
    /// What a FLUSHALL left, until the next entry.
    garbage: Option<Garbage>,
}

/// The keys that a FLUSHALL removed, or of a state that is gone. Dropping a million of them takes a good part of
/// a second.
#[derive(Clone)]
pub struct Garbage {
    _keys: Keyspace,
    _rest: Option<(Leases, Sessions, Tokens)>,
}

impl From<Store> for Garbage {
    /// A state that another one has taken the place of.
    fn from(store: Store) -> Garbage {
        Garbage {
            _keys: store.keys,
            _rest: Some((store.leases, store.sessions, store.tokens)),
        }
    }
}

impl Store {
    /// The state before the first entry.
    pub fn new() -> Store {
        Store::default()
    }

    /// Applies the entry at `index`, which must be the one after [`Store::applied`]: an index left out or
    /// applied twice is how replicas part (etcd's 3.5 incident), and ends the process here. `time_ms` is the
    /// time stamped into the entry.
    pub fn apply(&mut self, index: u64, time_ms: u64, command: &Command) -> Reply {
        self.advance(index);
        self.time_ms = self.time_ms.max(time_ms);
        if let Some(refusal) = refusal(command) {
            return refusal;
        }
        match command {
            Command::Once {
                token,
                window_ms,
                command,
            } => self.once(token, *window_ms, command),
            Command::Seq { session, n, command } => self.seq(*session, *n, command),
            command => self.carry_out(command),
        }
    }

    /// Does what a command says that is no repeat, or a step of a transaction.
    fn carry_out(&mut self, command: &Command) -> Reply {
        let mut write = Write {
            keys: &mut self.keys,
            leases: &mut self.leases,
            sessions: &mut self.sessions,
            tokens: &mut self.tokens,
            index: self.applied,
            time_ms: self.time_ms,
        };
        match command {
            Command::Set {
                key,
                value,
                condition,
                expiry,
                answer,
            } => write.set(key, value, condition, *expiry, *answer),
            Command::Delete { keys } => write.delete(keys),
            Command::DeleteIfEqual { key, old } => write.delete_if_equal(key, old),
            Command::GetDelete { key } => write.get_delete(key),
            Command::GetExpire { key, at } => write.get_expire(key, *at),
            Command::Increment { key, by } => write.increment(key, *by),
            Command::IncrementFloat { key, by } => write.increment_float(key, by),
            Command::Append { key, value } => write.append(key, value),
            Command::SetRange { key, offset, value } => write.set_range(key, *offset, value),
            Command::MultiSet { pairs } => write.multi_set(pairs),
            Command::MultiSetIfAbsent { pairs } => write.multi_set_if_absent(pairs),
            Command::Rename { from, to, if_absent } => write.rename(from, to, *if_absent),
            Command::Copy { from, to, replace } => write.copy(from, to, *replace),
            Command::Expire { key, at, condition } => write.expire(key, *at, *condition),
            Command::Persist { key } => write.persist(key),
            Command::GrantLease { ttl_ms } => write.grant_lease(*ttl_ms),
            Command::RenewLease { id } => write.renew_lease(*id),
            Command::RevokeLease { id } => write.revoke_lease(*id),
            Command::OpenSession { life_ms } => write.open_session(*life_ms),
            Command::CloseSession { id } => write.close_session(*id),
            Command::RenewLeases => write.renew_leases(),
            Command::ExpireDue { limit } => write.expire_due(*limit),
            Command::FlushAll => {
                let _keys = self.keys.clear();
                // Of several in one entry the first one leaves what is worth to be dropped elsewhere.
                self.garbage.get_or_insert(Garbage { _keys, _rest: None });
                Reply::Ok
            }
            Command::Transaction { watched, steps } => self.transaction(watched, steps),
            Command::Bootstrap { cluster_id } => {
                self.cluster_id.get_or_insert(*cluster_id);
                Reply::Ok
            }
            Command::Once { .. } | Command::Seq { .. } => not_wrapped(),
        }
    }

    /// Passes an entry that holds no command: a no-op, a membership. As strict about `index` as
    /// [`Store::apply`].
    pub fn advance(&mut self, index: u64) {
        assert_eq!(
            index,
            self.applied + 1,
            "entries are applied one by one, in the order of the log"
        );
        self.applied = index;
        self.garbage = None;
        self.keys.changes().forget();
    }

    /// Answers a read. `now_ms` is the asked node's clock; it serves only to say how long a key still has,
    /// not whether it is there.
    pub fn query(&self, query: &Query, now_ms: u64) -> Reply {
        match query {
            Query::Get(key) => self.value(key),
            Query::MultiGet(keys) => Reply::List(keys.iter().map(|key| self.value(key)).collect()),
            Query::Exists(keys) => integer(keys.iter().filter(|key| self.get(key).is_some()).count()),
            Query::Length(key) => integer(self.get(key).map_or(0, |record| record.value.len())),
            Query::Type(key) => Reply::Text(self.get(key).map_or("none", |_| "string").into()),
            Query::TimeToLive { key, milliseconds } => {
                // The clock may be behind the leader's; nobody was promised more than from the store's time on.
                expiry::time_to_live(self.get(key), now_ms.max(self.time_ms), *milliseconds)
            }
            Query::Slice { key, start, end } => {
                let value = self.get(key).map(|record| record.value.clone());
                Reply::Value(strings::slice(value.unwrap_or_default(), *start, *end))
            }
            Query::ExpireTime { key, milliseconds } => expiry::expire_time(self.get(key), *milliseconds),
            Query::Revision(key) => integer(self.revision(key)),
            Query::Revisions(keys) => {
                Reply::List(keys.iter().map(|key| integer(self.revision(key))).collect())
            }
            Query::Size => integer(self.keys.len()),
            Query::Lease(id) => lease::describe(self, *id, now_ms.max(self.time_ms)),
        }
    }

    /// A copy of all keys as they are now, in O(1).
    pub fn view(&self) -> View {
        View::new(self)
    }

    /// A hash of keys, values, revisions, expiries, leases, sessions, tokens, time and cluster id. The applied index is
    /// no part of it: nodes compare hashes at the same index.
    pub fn hash(&self) -> u64 {
        state_hash(self.sum(), self.time_ms, self.cluster_id)
    }

    /// The store's time in milliseconds since 1970-01-01 UTC: the largest an entry has carried, 0 before the
    /// first.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// `lastApplied` (Raft figure 2): the index of the last entry, 0 before the first.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// When the first of keys, leases, sessions and tokens is due, in milliseconds since 1970-01-01 UTC; it may have
    /// passed.
    pub fn next_expiry(&self) -> Option<u64> {
        let ends = [
            self.keys.next_expiry(),
            self.leases.next_deadline(),
            self.sessions.next_deadline(),
            self.tokens.next_deadline(),
        ];
        ends.into_iter().flatten().min()
    }

    /// How many keys there are; expired ones count until they are removed, as in Redis.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of all keys and values, without what the map takes around them (100 bytes a key and more).
    pub fn bytes(&self) -> u64 {
        self.keys.bytes()
    }

    /// How many keys have an expiry.
    pub fn expiring_len(&self) -> usize {
        self.keys.expiring_len()
    }

    /// How many leases there are.
    pub fn leases_len(&self) -> usize {
        self.leases.len()
    }

    /// How many sessions there are; ended ones count until they are removed.
    pub fn sessions_len(&self) -> usize {
        self.sessions.len()
    }

    /// How many tokens of ONCE are remembered; forgotten ones count until they are removed.
    pub fn tokens_len(&self) -> usize {
        self.tokens.len()
    }

    /// The cluster's name, once it was bootstrapped.
    pub fn cluster_id(&self) -> Option<[u8; 16]> {
        self.cluster_id
    }

    /// By how much [`Store::bytes`] may grow with this command, at most, if it is the next one: for the leader's
    /// check before it proposes. It does not count on what the command may overwrite, which may be gone by then.
    pub fn growth(&self, command: &Command) -> u64 {
        let bytes = match command.unwrapped() {
            Command::Transaction { steps, .. } => return self.growth_of_steps(steps),
            Command::Set { key, value, .. } | Command::Append { key, value } => key.len() + value.len(),
            Command::MultiSet { pairs } | Command::MultiSetIfAbsent { pairs } => {
                pairs.iter().map(|(key, value)| key.len() + value.len()).sum()
            }
            // The longest number: -9223372036854775808.
            Command::Increment { key, .. } => key.len() + 20,
            // A sign, 21 digits, a point, 17 digits.
            Command::IncrementFloat { key, .. } => key.len() + 40,
            Command::SetRange { key, offset, value } => {
                let length = (value.len() as u64).saturating_add(*offset);
                return if length > VALUE_MAX_BYTES as u64 {
                    0
                } else {
                    key.len() as u64 + length
                };
            }
            Command::Rename { from, to, .. } => to.len().saturating_sub(from.len()),
            Command::Copy { from, to, .. } => {
                self.get(from).map_or(0, |record| to.len() + record.value.len())
            }
            _ => 0,
        };
        bytes as u64
    }

    /// What the last entry left to be dropped. Taken right after [`Store::apply`] it can be dropped where
    /// nobody waits; if nobody takes it, the next entry drops it.
    pub fn take_garbage(&mut self) -> Option<Garbage> {
        self.garbage.take()
    }

    /// What everything but time and cluster id adds to the hash.
    fn sum(&self) -> u64 {
        let sums = [self.leases.sum(), self.sessions.sum(), self.tokens.sum()];
        sums.into_iter().fold(self.keys.sum(), u64::wrapping_add)
    }

    fn get(&self, key: &[u8]) -> Option<&Record> {
        self.keys
            .get(key)
            .filter(|record| !record.is_expired(self.time_ms))
    }

    fn revision(&self, key: &[u8]) -> u64 {
        self.get(key).map_or(0, |record| record.revision)
    }

    fn value(&self, key: &[u8]) -> Reply {
        value_or_nil(self.get(key))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("applied", &self.applied)
            .field("time_ms", &self.time_ms)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Garbage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Garbage").finish_non_exhaustive()
    }
}

/// One entry being applied.
struct Write<'a> {
    keys: &'a mut Keyspace,
    leases: &'a mut Leases,
    sessions: &'a mut Sessions,
    tokens: &'a mut Tokens,
    /// The entry's index: the revision of what it writes.
    index: u64,
    /// The store's time, the entry's taken in.
    time_ms: u64,
}

impl Write<'_> {
    /// The key's record, after removing the key if it has expired.
    fn get(&mut self, key: &[u8]) -> Option<&Record> {
        let expired = self.keys.get(key)?.is_expired(self.time_ms);
        if expired {
            self.keys.expire(key);
        }
        self.keys.get(key)
    }
}

/// The reply to a command that no state would accept.
fn refusal(command: &Command) -> Option<Reply> {
    if command
        .keys()
        .any(|key| key.is_empty() || key.len() > KEY_MAX_BYTES)
    {
        let text = format!("a key is 1 to {KEY_MAX_BYTES} bytes long");
        return Some(Reply::error(Code::Err, text));
    }
    match command {
        Command::Once { token, .. } if !(1..=TOKEN_MAX_BYTES).contains(&token.len()) => {
            let text = format!("a token is 1 to {TOKEN_MAX_BYTES} bytes long; nothing was done");
            return Some(Reply::error(Code::Err, text));
        }
        Command::Seq { n: 0, .. } => {
            let text = "the numbers of a session count from 1; nothing was done";
            return Some(Reply::error(Code::Err, text));
        }
        Command::Once { command, .. } | Command::Seq { command, .. } if !command.may_be_wrapped() => {
            return Some(not_wrapped());
        }
        _ => {}
    }
    let too_long = match command.unwrapped() {
        Command::Transaction { steps, .. } => return transaction::refusal_of_steps(steps),
        Command::GrantLease { ttl_ms: life_ms } | Command::OpenSession { life_ms } => {
            if (1..=LIFE_MAX_MS).contains(life_ms) {
                return None;
            }
            let text = format!("leases and sessions live for 1 to {LIFE_MAX_MS} ms; nothing was done");
            return Some(Reply::error(Code::Err, text));
        }
        Command::Set { value, .. } => value.len() > VALUE_MAX_BYTES,
        Command::MultiSet { pairs } | Command::MultiSetIfAbsent { pairs } => {
            pairs.iter().any(|(_, value)| value.len() > VALUE_MAX_BYTES)
        }
        _ => false,
    };
    too_long.then(value_too_long)
}

fn not_wrapped() -> Reply {
    Reply::error(
        Code::Err,
        "this command may not be within ONCE or SEQ; nothing was done",
    )
}

fn value_too_long() -> Reply {
    let text = format!("string exceeds maximum allowed size ({VALUE_MAX_BYTES} bytes)");
    Reply::error(Code::Err, text)
}

fn value_or_nil(record: Option<&Record>) -> Reply {
    record.map_or(Reply::Nil, |record| Reply::Value(record.value.clone()))
}

/// Counts, lengths and indexes are far below 2^63.
fn integer(number: impl TryInto<i64>) -> Reply {
    Reply::Integer(number.try_into().unwrap_or(i64::MAX))
}

/// The hash of a state in which everything else weighs `sum`.
fn state_hash(sum: u64, time_ms: u64, cluster_id: Option<[u8; 16]>) -> u64 {
    let mut rest = time_ms.to_le_bytes().to_vec();
    rest.extend(cluster_id.iter().flatten());
    sum.wrapping_add(xxh3_64(&rest))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn set(key: &'static str) -> Command {
        let pairs = vec![(Bytes::from(key), Bytes::from("1"))];
        Command::MultiSet { pairs }
    }

    #[test]
    #[should_panic(expected = "entries are applied one by one")]
    fn an_index_left_out_ends_the_process() {
        let mut store = Store::new();
        store.apply(1, 0, &set("a"));
        store.apply(3, 0, &set("b"));
    }

    #[test]
    #[should_panic(expected = "entries are applied one by one")]
    fn an_index_applied_twice_ends_the_process() {
        let mut store = Store::new();
        store.advance(1);
        store.advance(1);
    }

    #[test]
    fn what_flushall_leaves_is_given_out_once_or_dropped() {
        let mut store = Store::new();
        store.apply(1, 0, &set("a"));
        assert!(store.take_garbage().is_none());
        store.apply(2, 0, &Command::FlushAll);
        assert!(store.take_garbage().is_some());
        assert!(store.take_garbage().is_none());
        store.apply(3, 0, &Command::FlushAll);
        store.advance(4);
        assert!(store.take_garbage().is_none());
        assert_eq!((store.len(), store.bytes()), (0, 0));
    }

    #[test]
    fn a_store_and_its_view_may_go_to_another_thread() {
        fn sent<T: Send + Sync + 'static>() {}
        sent::<Store>();
        sent::<View>();
        sent::<Garbage>();
    }
}
