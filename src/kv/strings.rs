//! Values: SET and its kin, DEL and its kin, INCR, APPEND, MSET, pieces of values, RENAME and COPY.

use bytes::Bytes;

use super::decimal::{Decimal, NoDecimal};
use super::keyspace::{Life, Record};
use super::{
    Code, Condition, Reply, SetAnswer, SetExpiry, VALUE_MAX_BYTES, Write, integer, value_or_nil,
    value_too_long,
};

impl Write<'_> {
    pub(super) fn set(
        &mut self,
        key: &[u8],
        value: &Bytes,
        condition: &Condition,
        expiry: SetExpiry,
        answer: SetAnswer,
    ) -> Reply {
        let end = match self.set_end(key, expiry) {
            Ok(end) => end,
            Err(refusal) => return refusal,
        };
        // A plain SET, which most are, need not look before it writes.
        let plain =
            *condition == Condition::Always && expiry != SetExpiry::Keep && answer != SetAnswer::OldValue;
        let old = if plain { None } else { self.get(key) };
        let holds = condition.holds(old);
        let kept = old.map(|record| record.life).unwrap_or_default();
        let reply = match (answer, holds) {
            (SetAnswer::OldValue, _) => value_or_nil(old),
            (SetAnswer::Status, true) => Reply::Ok,
            (SetAnswer::Status, false) => Reply::Nil,
            (SetAnswer::Count, _) => Reply::Integer(holds.into()),
        };
        if holds {
            match end {
                SetEnd::Kept => self.keys.put(key, value, self.index, kept),
                SetEnd::Given(life) => self.keys.put(key, value, self.index, life),
                SetEnd::Passed => drop(self.keys.remove(key)),
            }
        }
        reply
    }

    /// What a SET makes of the key's life; or why no SET of this key may ask for that.
    fn set_end(&self, key: &[u8], expiry: SetExpiry) -> Result<SetEnd, Reply> {
        Ok(match expiry {
            SetExpiry::Clear => SetEnd::Given(Life::default()),
            SetExpiry::Keep => SetEnd::Kept,
            SetExpiry::Lease(lease) => SetEnd::Given(self.on_lease(key, lease)?),
            SetExpiry::At(moment) => match self.resolve(moment) {
                Some(at_ms) => match self.to_come(at_ms) {
                    Some(at) => SetEnd::Given(Life::until(Some(at))),
                    None => SetEnd::Passed,
                },
                None => {
                    return Err(Reply::error(Code::Err, "invalid expire time in 'set' command"));
                }
            },
        })
    }

    pub(super) fn delete(&mut self, keys: &[Bytes]) -> Reply {
        let mut count = 0usize;
        for key in keys {
            if self.get(key).is_some() {
                self.keys.remove(key);
                count += 1;
            }
        }
        integer(count)
    }

    pub(super) fn delete_if_equal(&mut self, key: &[u8], old: &[u8]) -> Reply {
        let equal = self.get(key).is_some_and(|record| record.value == old);
        if equal {
            self.keys.remove(key);
        }
        Reply::Integer(equal.into())
    }

    pub(super) fn get_delete(&mut self, key: &[u8]) -> Reply {
        // First, so that an expired key is removed but not answered.
        if self.get(key).is_none() {
            return Reply::Nil;
        }
        self.keys.remove(key).map_or(Reply::Nil, Reply::Value)
    }

    pub(super) fn increment(&mut self, key: &[u8], by: i64) -> Reply {
        let old = self.get(key);
        let kept = old.map(|record| record.life).unwrap_or_default();
        let Some(number) = old.map_or(Some(0), |record| parse_integer(&record.value)) else {
            return Reply::error(Code::Err, "value is not an integer or out of range");
        };
        let Some(sum) = number.checked_add(by) else {
            return Reply::error(Code::Err, "increment or decrement would overflow");
        };
        self.keys
            .put(key, &Bytes::from(sum.to_string()), self.index, kept);
        Reply::Integer(sum)
    }

    pub(super) fn increment_float(&mut self, key: &[u8], by: &[u8]) -> Reply {
        let old = self.get(key);
        let kept = old.map(|record| record.life).unwrap_or_default();
        match sum_of_floats(old, by) {
            Ok(sum) => {
                let sum = Bytes::from(sum.to_string());
                self.keys.put(key, &sum, self.index, kept);
                Reply::Value(sum)
            }
            Err(problem) => Reply::error(Code::Err, problem.text()),
        }
    }

    pub(super) fn append(&mut self, key: &[u8], value: &Bytes) -> Reply {
        let old = self.get(key);
        let kept = old.map(|record| record.life).unwrap_or_default();
        let old = old.map_or(&[][..], |record| &record.value);
        let length = old.len() + value.len();
        if length > VALUE_MAX_BYTES {
            return value_too_long();
        }
        let whole = Bytes::from([old, value].concat());
        self.keys.put(key, &whole, self.index, kept);
        integer(length)
    }

    pub(super) fn set_range(&mut self, key: &[u8], offset: u64, value: &[u8]) -> Reply {
        let old = self.get(key);
        let kept = old.map(|record| record.life).unwrap_or_default();
        let old = old.map_or(&[][..], |record| &record.value);
        if value.is_empty() {
            return integer(old.len());
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(value.len());
        if end > VALUE_MAX_BYTES {
            return value_too_long();
        }
        let mut whole = old.to_vec();
        whole.resize(old.len().max(end), 0);
        if let Some(piece) = whole.get_mut(start..end) {
            piece.copy_from_slice(value);
        }
        let length = whole.len();
        self.keys.put(key, &Bytes::from(whole), self.index, kept);
        integer(length)
    }

    pub(super) fn multi_set(&mut self, pairs: &[(Bytes, Bytes)]) -> Reply {
        for (key, value) in pairs {
            self.keys.put(key, value, self.index, Life::default());
        }
        Reply::Ok
    }

    pub(super) fn multi_set_if_absent(&mut self, pairs: &[(Bytes, Bytes)]) -> Reply {
        let absent = pairs.iter().all(|(key, _)| self.get(key).is_none());
        if absent {
            self.multi_set(pairs);
        }
        Reply::Integer(absent.into())
    }

    pub(super) fn rename(&mut self, from: &[u8], to: &[u8], if_absent: bool) -> Reply {
        if self.get(from).is_none() {
            return Reply::error(Code::Err, "no such key");
        }
        // A key that keeps its name is not written.
        let moves = from != to && !(if_absent && self.get(to).is_some());
        if moves && let Some(Record { value, life, .. }) = self.get(from).cloned() {
            // First, so that there is never one more on a lease than may be.
            self.keys.remove(from);
            self.keys.put(to, &value, self.index, life);
        }
        if if_absent {
            Reply::Integer(moves.into())
        } else {
            Reply::Ok
        }
    }

    pub(super) fn copy(&mut self, from: &[u8], to: &[u8], replace: bool) -> Reply {
        if from == to {
            return Reply::error(Code::Err, "source and destination objects are the same");
        }
        let Some(Record { value, life, .. }) = self.get(from).cloned() else {
            return Reply::Integer(0);
        };
        let copies = replace || self.get(to).is_none();
        if copies {
            self.keys.put(to, &value, self.index, Life::until(life.expiry));
        }
        Reply::Integer(copies.into())
    }
}

fn sum_of_floats(old: Option<&Record>, by: &[u8]) -> Result<Decimal, NoDecimal> {
    let number = old.map_or(Ok(Decimal::ZERO), |record| Decimal::parse(&record.value));
    match (number, Decimal::parse(by)) {
        // As in Redis, which adds what is infinite and then finds it in the sum.
        (Err(NoDecimal::Malformed), _) | (_, Err(NoDecimal::Malformed)) => Err(NoDecimal::Malformed),
        (number, by) => number?.add(by?),
    }
}

/// Redis's GETRANGE: both ends are part of the piece, and are moved into the value where they lie outside.
pub(super) fn slice(value: Bytes, start: i64, end: i64) -> Bytes {
    let length = value.len() as i64;
    let from_start = |at: i64| {
        if at < 0 {
            at.saturating_add(length).max(0)
        } else {
            at
        }
    };
    let (first, last) = (from_start(start), from_start(end).min(length - 1));
    // Two ends behind the end that are the wrong way round are no piece, also where both are moved to 0.
    if first > last || (start < 0 && end < 0 && start > end) {
        return Bytes::new();
    }
    value.slice(first as usize..=last as usize)
}

/// The life of the key that a SET writes.
enum SetEnd {
    /// As it was.
    Kept,
    Given(Life),
    /// It would have ended already.
    Passed,
}

impl Condition {
    /// Whether a SET writes over this record.
    fn holds(&self, old: Option<&Record>) -> bool {
        match self {
            Condition::Always => true,
            Condition::IfAbsent => old.is_none(),
            Condition::IfPresent => old.is_some(),
            Condition::IfEqual(value) => old.is_some_and(|record| record.value == value),
            Condition::IfRevision(revision) => old.map_or(0, |record| record.revision) == *revision,
        }
    }
}

/// Redis's string2ll: the one way to write a number. No sign but a minus, no blank, no zero in front.
fn parse_integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    match digits {
        [b'0'] if digits.len() == text.len() => Some(0),
        [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(text).ok()?.parse().ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_as_strict_as_redis() {
        let good = [
            ("0", 0),
            ("7", 7),
            ("-1", -1),
            ("100", 100),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ];
        for (text, number) in good {
            assert_eq!(parse_integer(text.as_bytes()), Some(number), "{text}");
        }
        for text in [
            "",
            "-",
            "-0",
            "+1",
            "01",
            "00",
            "-01",
            " 1",
            "1 ",
            "1.0",
            "1e3",
            "0x1",
            "--1",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999999999",
        ] {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text:?}");
        }
    }
}
