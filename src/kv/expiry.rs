//! The life of keys: EXPIRE and its kin, PERSIST, GETEX, TTL, EXPIRETIME, and the leader's removal of what is due.

use std::num::NonZeroU64;

use super::keyspace::Record;
use super::{Code, ExpireCondition, Moment, Reply, Write, integer, value_or_nil};

impl Write<'_> {
    /// When a moment is, in milliseconds since 1970-01-01 UTC; 0 for all before that, which has passed in any
    /// case. `None` beyond 2^63.
    pub(super) fn resolve(&self, moment: Moment) -> Option<u64> {
        let at_ms = match moment {
            Moment::At(at_ms) => i128::from(at_ms),
            Moment::In(ms) => i128::from(self.time_ms) + i128::from(ms),
        };
        i64::try_from(at_ms.max(0)).ok()?.try_into().ok()
    }

    /// That time as an expiry, unless it has passed.
    pub(super) fn to_come(&self, at_ms: u64) -> Option<NonZeroU64> {
        NonZeroU64::new(at_ms).filter(|at| at.get() > self.time_ms)
    }

    pub(super) fn expire(&mut self, key: &[u8], at: Moment, condition: ExpireCondition) -> Reply {
        let Some(at_ms) = self.resolve(at) else {
            return Reply::error(Code::Err, "invalid expire time in 'expire' command");
        };
        let Some(record) = self.get(key) else {
            return Reply::Integer(0);
        };
        if !condition.holds(record.life.expiry.map(NonZeroU64::get), at_ms) {
            return Reply::Integer(0);
        }
        match self.to_come(at_ms) {
            Some(at) => self.keys.set_expiry(key, self.index, Some(at)),
            None => drop(self.keys.remove(key)),
        }
        Reply::Integer(1)
    }

    pub(super) fn get_expire(&mut self, key: &[u8], at: Option<Moment>) -> Reply {
        let at_ms = at.map(|moment| self.resolve(moment));
        if at_ms == Some(None) {
            return Reply::error(Code::Err, "invalid expire time in 'getex' command");
        }
        let value = value_or_nil(self.get(key));
        match at_ms.flatten().map(|at_ms| self.to_come(at_ms)) {
            Some(Some(at)) => self.keys.set_expiry(key, self.index, Some(at)),
            Some(None) => drop(self.keys.remove(key)),
            None => drop(self.persist(key)),
        }
        value
    }

    pub(super) fn persist(&mut self, key: &[u8]) -> Reply {
        let expiring = self.get(key).is_some_and(|record| record.life.expiry.is_some());
        if expiring {
            self.keys.set_expiry(key, self.index, None);
        }
        Reply::Integer(expiring.into())
    }

    /// Removes what is due: first keys, in the order of (expiry, key), then leases, sessions and tokens likewise, so
    /// that every node stops at the same place.
    pub(super) fn expire_due(&mut self, limit: u32) -> Reply {
        let limit = limit as usize;
        let mut count = 0;
        while count < limit && self.keys.remove_first_due(self.time_ms) {
            count += 1;
        }
        while count < limit
            && let Some(keys) = self.end_first_due_lease()
        {
            count += 1 + keys;
        }
        while count < limit && self.sessions.remove_first_due(self.time_ms) {
            count += 1;
        }
        while count < limit && self.tokens.remove_first_due(self.time_ms) {
            count += 1;
        }
        integer(count)
    }
}

impl ExpireCondition {
    /// Whether an EXPIRE to `at_ms` is done to a key with this expiry.
    fn holds(self, old_ms: Option<u64>, at_ms: u64) -> bool {
        match self {
            ExpireCondition::Always => true,
            ExpireCondition::IfNone => old_ms.is_none(),
            ExpireCondition::IfSome => old_ms.is_some(),
            ExpireCondition::IfLater => old_ms.is_some_and(|old_ms| at_ms > old_ms),
            ExpireCondition::IfSomeAndEarlier => old_ms.is_some_and(|old_ms| at_ms < old_ms),
            ExpireCondition::IfEarlier => old_ms.is_none_or(|old_ms| at_ms < old_ms),
        }
    }
}

/// What a key that is there still has; at least 1 ms, because it is there.
pub(super) fn time_to_live(record: Option<&Record>, now_ms: u64, milliseconds: bool) -> Reply {
    let Some(record) = record else {
        return Reply::Integer(-2);
    };
    let Some(at) = record.life.expiry else {
        return Reply::Integer(-1);
    };
    in_unit(at.get().saturating_sub(now_ms).max(1), milliseconds)
}

/// When a key goes.
pub(super) fn expire_time(record: Option<&Record>, milliseconds: bool) -> Reply {
    match record.map(|record| record.life.expiry) {
        None => Reply::Integer(-2),
        Some(None) => Reply::Integer(-1),
        Some(Some(at)) => in_unit(at.get(), milliseconds),
    }
}

/// Milliseconds, or seconds to the nearest one.
fn in_unit(ms: u64, milliseconds: bool) -> Reply {
    integer(if milliseconds {
        ms
    } else {
        ms.saturating_add(500) / 1000
    })
}
