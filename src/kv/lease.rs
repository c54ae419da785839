//! Leases: keys that hang on one go with it, all in one entry.
//!
//! A lease lives for its time from the entry on that granted or last renewed it. When that time has passed it is
//! due, and still there: only [`Command::ExpireDue`] ends it, and looks at the deadline as it is then, so that a
//! lease that was renewed meanwhile stays (etcd#15247). A new leader first starts all leases anew with
//! [`Command::RenewLeases`]: its clock may be ahead of the one before, and nobody could renew while there was no
//! leader.
//!
//! [`Command::ExpireDue`]: super::Command::ExpireDue
//! [`Command::RenewLeases`]: super::Command::RenewLeases
//!
//! The number of a lease is the index of the entry that granted it, so it is never given twice and only grows.

use std::num::NonZeroU64;

use bytes::Bytes;

use super::key::Key;
use super::keyspace::{Life, hash_words};
use super::timed::{Table, Timed};
use super::{Code, Reply, Store, Write, integer};

/// So many leases at most: a new leader starts them all anew in one entry.
pub const LEASES_MAX: usize = 100_000;

/// So many keys hang on one lease at most: they go in one entry, which must not stall the others.
pub const LEASE_KEYS_MAX: usize = 10_000;

/// The longest life of a lease or a session in milliseconds: a hundred years.
pub const LIFE_MAX_MS: u64 = 100 * 365 * 24 * 3600 * 1000;

/// Leases by their numbers.
pub(super) type Leases = Table<NonZeroU64, Lease>;

/// A lease. How many keys hang on it is counted by `keyspace`.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    /// Its life when nobody renews it, in milliseconds.
    pub(super) ttl_ms: u64,
    /// When it is due: milliseconds since 1970-01-01 UTC.
    pub(super) deadline_ms: u64,
}

impl Lease {
    fn from(time_ms: u64, ttl_ms: u64) -> Lease {
        Lease {
            ttl_ms,
            deadline_ms: time_ms.saturating_add(ttl_ms),
        }
    }
}

impl Timed<NonZeroU64> for Lease {
    fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    fn weight(&self, id: &NonZeroU64) -> u64 {
        hash_words([
            u64::from_le_bytes(*b"lease\0\0\0"),
            id.get(),
            self.ttl_ms,
            self.deadline_ms,
        ])
    }
}

impl Write<'_> {
    pub(super) fn grant_lease(&mut self, ttl_ms: u64) -> Reply {
        if self.leases.len() >= LEASES_MAX {
            let text = format!("there are {LEASES_MAX} leases, the most there may be; nothing was done");
            return Reply::error(Code::Busy, text);
        }
        // Entries count from 1.
        if let Some(id) = NonZeroU64::new(self.index) {
            self.leases.put(id, Lease::from(self.time_ms, ttl_ms));
        }
        integer(self.index)
    }

    pub(super) fn renew_lease(&mut self, id: u64) -> Reply {
        let Some((id, lease)) = find(self.leases, id) else {
            return no_lease(id);
        };
        let ttl_ms = lease.ttl_ms;
        let anew = Lease::from(self.time_ms, ttl_ms);
        self.leases.update(&id, |lease| *lease = anew);
        integer(ttl_ms)
    }

    pub(super) fn renew_leases(&mut self) -> Reply {
        let anew = |(id, lease): (&NonZeroU64, &Lease)| (*id, Lease::from(self.time_ms, lease.ttl_ms));
        *self.leases = self.leases.map().iter().map(anew).collect();
        integer(self.leases.len())
    }

    pub(super) fn revoke_lease(&mut self, id: u64) -> Reply {
        match find(self.leases, id) {
            Some((id, _)) => integer(self.end_lease(id, false)),
            None => no_lease(id),
        }
    }

    /// Ends the first lease by (deadline, number) that is due, and answers how many keys went with it.
    pub(super) fn end_first_due_lease(&mut self) -> Option<usize> {
        let id = self.leases.first_due(self.time_ms)?;
        Some(self.end_lease(id, true))
    }

    /// Answers how many keys went with it.
    fn end_lease(&mut self, id: NonZeroU64, is_due: bool) -> usize {
        let keys: Vec<Key> = self.keys.leased(id).cloned().collect();
        let mut count = 0;
        for key in keys.iter().map(Key::as_slice) {
            // One whose own time is up goes with that.
            if self.get(key).is_none() {
                continue;
            }
            count += 1;
            if is_due {
                self.keys.expire(key);
            } else {
                self.keys.remove(key);
            }
        }
        self.leases.remove(&id);
        count
    }

    /// The life of a key that hangs on this lease; or why it can't.
    pub(super) fn on_lease(&self, key: &[u8], id: u64) -> Result<Life, Reply> {
        let Some((id, _)) = find(self.leases, id) else {
            return Err(no_lease(id));
        };
        let life = Life {
            expiry: None,
            lease: Some(id),
        };
        let is_new = self
            .keys
            .get(key)
            .is_none_or(|record| record.life.lease != life.lease);
        if is_new && self.keys.leased_len(id) >= LEASE_KEYS_MAX {
            let text = format!(
                "{LEASE_KEYS_MAX} keys hang on lease {id}, the most there may be; nothing was written"
            );
            return Err(Reply::error(Code::Err, text));
        }
        Ok(life)
    }
}

/// LEASE INFO at this time of the asked node's clock.
pub(super) fn describe(store: &Store, id: u64, now_ms: u64) -> Reply {
    let Some((id, lease)) = find(&store.leases, id) else {
        return no_lease(id);
    };
    let keys = store.keys.leased(id).map(Key::as_slice);
    let live = keys.filter(|key| store.get(key).is_some());
    let names = live.map(|key| Reply::Value(Bytes::copy_from_slice(key)));
    Reply::List(vec![
        name("ttl"),
        integer(lease.ttl_ms),
        name("remaining"),
        integer(lease.deadline_ms.saturating_sub(now_ms)),
        name("keys"),
        Reply::List(names.collect()),
    ])
}

fn name(name: &'static str) -> Reply {
    Reply::Value(Bytes::from_static(name.as_bytes()))
}

fn find(leases: &Leases, id: u64) -> Option<(NonZeroU64, &Lease)> {
    let id = NonZeroU64::new(id)?;
    leases.get(&id).map(|lease| (id, lease))
}

fn no_lease(id: u64) -> Reply {
    let text = format!("there is no lease {id}: it has ended or was never granted; nothing was done");
    Reply::error(Code::Err, text)
}
