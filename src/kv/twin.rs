//! A naive twin of the store: the plainest code that should mean the same, and random commands for both.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::base::rng::Rng;

#[derive(Clone, Debug, PartialEq)]
struct Row {
    value: Vec<u8>,
    revision: u64,
    expiry: Option<i64>,
    lease: Option<u64>,
}

#[derive(Clone)]
struct Session {
    life: i64,
    deadline: i64,
    answers: BTreeMap<u64, (Command, Reply)>,
}

#[derive(Clone, Default)]
struct Twin {
    rows: BTreeMap<Vec<u8>, Row>,
    /// Lives and deadlines.
    leases: BTreeMap<u64, (i64, i64)>,
    sessions: BTreeMap<u64, Session>,
    /// Until when they are remembered, and what was done and answered.
    tokens: BTreeMap<Vec<u8>, (i64, Command, Reply)>,
    time: i64,
    index: u64,
}

impl Twin {
    fn apply(&mut self, index: u64, time_ms: u64, command: &Command) -> Reply {
        self.index = index;
        self.time = self.time.max(time_ms as i64);
        if command.keys().any(|key| key.is_empty() || key.len() > 4096) {
            return Reply::error(Code::Err, "a key is 1 to 4096 bytes long");
        }
        match command {
            Command::Once {
                token,
                window_ms,
                command,
            } => self.once(token, *window_ms as i64, command),
            Command::Seq { session, n, command } => self.seq(*session, *n, command),
            command => self.carry_out(command),
        }
    }

    fn once(&mut self, token: &[u8], window_ms: i64, command: &Command) -> Reply {
        match self.tokens.get(token) {
            Some((deadline, then, reply)) if *deadline > self.time => {
                if then == command {
                    return reply.clone();
                }
                let text = "this token or number has been used for another command; nothing was done";
                return Reply::error(Code::Err, text);
            }
            _ => {}
        }
        let reply = self.carry_out(command);
        let row = (self.time + window_ms, command.clone(), reply.clone());
        self.tokens.insert(token.to_vec(), row);
        reply
    }

    fn seq(&mut self, id: u64, n: u64, command: &Command) -> Reply {
        let time = self.time;
        let Some(session) = self
            .sessions
            .get_mut(&id)
            .filter(|session| session.deadline > time)
        else {
            return no_session(id);
        };
        let newest = session.answers.keys().last().copied().unwrap_or(0);
        let known = session.answers.get(&n).cloned();
        if known.is_none() && n + 128 <= newest {
            let text = format!(
                "number {n} of session {id} is 128 or more behind {newest}, the newest: whether it was done before is \
                 not remembered; now nothing was done"
            );
            return Reply::error(Code::Err, text);
        }
        session.deadline = time + session.life;
        match known {
            Some((then, reply)) if then == *command => return reply,
            Some(_) => {
                let text = "this token or number has been used for another command; nothing was done";
                return Reply::error(Code::Err, text);
            }
            None => {}
        }
        let reply = self.carry_out(command);
        // It may have closed itself.
        if let Some(session) = self.sessions.get_mut(&id) {
            session.answers.insert(n, (command.clone(), reply.clone()));
            let newest = newest.max(n);
            session.answers.retain(|n, _| n + 128 > newest);
        }
        reply
    }

    fn carry_out(&mut self, command: &Command) -> Reply {
        match command {
            Command::OpenSession { life_ms } => {
                let life = *life_ms as i64;
                let session = Session {
                    life,
                    deadline: self.time + life,
                    answers: BTreeMap::new(),
                };
                self.sessions.insert(self.index, session);
                Reply::Integer(self.index as i64)
            }
            Command::CloseSession { id } => match self.sessions.remove(id) {
                Some(session) if session.deadline > self.time => Reply::Ok,
                _ => no_session(*id),
            },
            Command::Once { .. } | Command::Seq { .. } => unreachable!("nothing is wrapped twice"),
            Command::Set { .. } => self.set(command),
            Command::Delete { keys } => {
                Reply::Integer(keys.iter().filter_map(|key| self.take(key)).count() as i64)
            }
            Command::DeleteIfEqual { key, old } => match self.row(key) {
                Some(row) if row.value == *old => {
                    self.rows.remove(&key[..]);
                    Reply::Integer(1)
                }
                _ => Reply::Integer(0),
            },
            Command::GetDelete { key } => value(self.take(key)),
            Command::GetExpire { key, at } => self.get_expire(key, *at),
            Command::IncrementFloat { key, by } => self.increment_float(key, by),
            Command::SetRange { key, offset, value } => self.set_range(key, *offset as usize, value),
            Command::MultiSetIfAbsent { pairs } => {
                let free = pairs.iter().all(|(key, _)| self.row(key).is_none());
                for (key, value) in pairs.iter().filter(|_| free) {
                    self.write(key, value, None, None);
                }
                Reply::Integer(free as i64)
            }
            Command::Rename { from, to, if_absent } => match self.row(from) {
                None => Reply::error(Code::Err, "no such key"),
                Some(_) if *if_absent && self.row(to).is_some() => Reply::Integer(0),
                Some(row) => {
                    if from != to {
                        self.rows.remove(&from[..]);
                        self.write(to, &row.value, row.expiry, row.lease);
                    }
                    if *if_absent { Reply::Integer(1) } else { Reply::Ok }
                }
            },
            Command::Copy { from, to, .. } if from == to => {
                Reply::error(Code::Err, "source and destination objects are the same")
            }
            Command::Copy { from, to, replace } => match self.row(from) {
                Some(row) if *replace || self.row(to).is_none() => {
                    self.write(to, &row.value, row.expiry, None);
                    Reply::Integer(1)
                }
                _ => Reply::Integer(0),
            },
            Command::Increment { key, by } => self.increment(key, *by),
            Command::Append { key, value } => {
                let row = self.row(key);
                let mut whole = row.as_ref().map_or(Vec::new(), |row| row.value.clone());
                whole.extend_from_slice(value);
                self.write_on(key, &whole, row);
                Reply::Integer(whole.len() as i64)
            }
            Command::MultiSet { pairs } => {
                for (key, value) in pairs {
                    self.write(key, value, None, None);
                }
                Reply::Ok
            }
            Command::Expire { key, at, condition } => self.expire(key, *at, *condition),
            Command::Persist { key } => match self.row(key) {
                Some(row) if row.expiry.is_some() => {
                    self.write(key, &row.value, None, row.lease);
                    Reply::Integer(1)
                }
                _ => Reply::Integer(0),
            },
            Command::Transaction { watched, steps } => {
                let changed = |(key, revision): &(Bytes, u64)| {
                    let row = self.live().find(|(live, _)| *live == key);
                    row.map_or(0, |(_, row)| row.revision) != *revision
                };
                if watched.iter().any(changed) {
                    return Reply::Nil;
                }
                let step = |step: &Step| match step {
                    Step::Write(command) => self.carry_out(command),
                    Step::Read(query) => self.query(query, self.time as u64),
                };
                Reply::List(steps.iter().map(step).collect())
            }
            Command::FlushAll => {
                self.rows.clear();
                Reply::Ok
            }
            Command::GrantLease { .. }
            | Command::RenewLease { .. }
            | Command::RevokeLease { .. }
            | Command::RenewLeases => self.lease(command),
            Command::ExpireDue { limit } => self.expire_due(*limit),
            Command::Bootstrap { .. } => Reply::Ok,
        }
    }

    fn set(&mut self, command: &Command) -> Reply {
        let Command::Set {
            key,
            value: new,
            condition,
            expiry,
            answer,
        } = command
        else {
            unreachable!("called for SET");
        };
        let at = match expiry {
            SetExpiry::At(Moment::At(at)) => Some(*at),
            SetExpiry::At(Moment::In(ms)) => match self.time.checked_add(*ms) {
                Some(at) => Some(at),
                None => return Reply::error(Code::Err, "invalid expire time in 'set' command"),
            },
            SetExpiry::Lease(id) if !self.leases.contains_key(id) => return no_lease(*id),
            _ => None,
        };
        let old = self.row(key);
        let holds = match condition {
            Condition::Always => true,
            Condition::IfAbsent => old.is_none(),
            Condition::IfPresent => old.is_some(),
            Condition::IfEqual(value) => old.as_ref().map(|row| &row.value[..]) == Some(value),
            Condition::IfRevision(n) => old.as_ref().map_or(0, |row| row.revision) == *n,
        };
        if holds {
            let kept = old.as_ref().map_or((None, None), |row| (row.expiry, row.lease));
            let (at, lease) = match expiry {
                SetExpiry::Keep => kept,
                SetExpiry::Lease(id) => (None, Some(*id)),
                _ => (at, None),
            };
            self.write(key, new, at, lease);
        }
        match answer {
            SetAnswer::Status if holds => Reply::Ok,
            SetAnswer::Status => Reply::Nil,
            SetAnswer::OldValue => value(old),
            SetAnswer::Count => Reply::Integer(holds as i64),
        }
    }

    fn get_expire(&mut self, key: &[u8], at: Option<Moment>) -> Reply {
        let at = match at {
            Some(Moment::In(ms)) => match self.time.checked_add(ms) {
                Some(at) => Some(at),
                None => return Reply::error(Code::Err, "invalid expire time in 'getex' command"),
            },
            Some(Moment::At(at)) => Some(at),
            None => None,
        };
        let row = self.row(key);
        if let Some(row) = &row
            && (at.is_some() || row.expiry.is_some())
        {
            self.write(key, &row.value, at, row.lease);
        }
        value(row)
    }

    fn increment_float(&mut self, key: &[u8], by: &[u8]) -> Reply {
        let row = self.row(key);
        let old = row.as_ref().map_or(Ok(0), |row| float(&row.value));
        let sum = match old.and_then(|old| Ok(old + float(by)?)) {
            Ok(sum) if sum.abs() < 10i128.pow(38) => sum,
            Ok(_) => return Reply::error(Code::Err, "a float has at most 21 digits before the point"),
            Err(text) => return Reply::error(Code::Err, text),
        };
        let digits = format!("{:018}", sum.abs());
        let (whole, fraction) = digits.split_at(digits.len() - 17);
        let text = format!("{}{whole}.{fraction}", ["", "-"][(sum < 0) as usize]);
        let text = text.trim_end_matches('0').trim_end_matches('.').to_owned();
        self.write_on(key, text.as_bytes(), row);
        Reply::Value(text.into())
    }

    fn set_range(&mut self, key: &[u8], offset: usize, value: &[u8]) -> Reply {
        let row = self.row(key);
        let mut whole = row.as_ref().map_or(vec![], |row| row.value.clone());
        for (at, byte) in value.iter().enumerate() {
            while whole.len() <= offset + at {
                whole.push(0);
            }
            whole[offset + at] = *byte;
        }
        if !value.is_empty() {
            self.write_on(key, &whole, row);
        }
        Reply::Integer(whole.len() as i64)
    }

    fn expire(&mut self, key: &[u8], at: Moment, condition: ExpireCondition) -> Reply {
        let at = match at {
            Moment::At(at) => at,
            Moment::In(ms) => match self.time.checked_add(ms) {
                Some(at) => at,
                None => return Reply::error(Code::Err, "invalid expire time in 'expire' command"),
            },
        };
        let Some(row) = self.row(key) else {
            return Reply::Integer(0);
        };
        let current = row.expiry.unwrap_or(i64::MAX);
        let holds = match condition {
            ExpireCondition::Always => true,
            ExpireCondition::IfNone => row.expiry.is_none(),
            ExpireCondition::IfSome => row.expiry.is_some(),
            ExpireCondition::IfLater => row.expiry.is_some() && at > current,
            ExpireCondition::IfSomeAndEarlier => at < row.expiry.unwrap_or(i64::MIN),
            ExpireCondition::IfEarlier => row.expiry.is_none() || at < current,
        };
        if holds {
            self.write(key, &row.value, Some(at), row.lease);
        }
        Reply::Integer(holds as i64)
    }

    fn increment(&mut self, key: &[u8], by: i64) -> Reply {
        let row = self.row(key);
        let text = row.as_ref().map_or(b"0".to_vec(), |row| row.value.clone());
        let text = String::from_utf8_lossy(&text).into_owned();
        match text.parse::<i64>() {
            Ok(number) if number.to_string() == text => match number.checked_add(by) {
                Some(sum) => {
                    self.write_on(key, sum.to_string().as_bytes(), row);
                    Reply::Integer(sum)
                }
                None => Reply::error(Code::Err, "increment or decrement would overflow"),
            },
            _ => Reply::error(Code::Err, "value is not an integer or out of range"),
        }
    }

    fn lease(&mut self, command: &Command) -> Reply {
        Reply::Integer(match command {
            Command::GrantLease { ttl_ms } => {
                let ttl = *ttl_ms as i64;
                self.leases.insert(self.index, (ttl, self.time + ttl));
                self.index as i64
            }
            Command::RenewLease { id } => match self.leases.get_mut(id) {
                Some((ttl, deadline)) => {
                    *deadline = self.time + *ttl;
                    *ttl
                }
                None => return no_lease(*id),
            },
            Command::RevokeLease { id } if self.leases.contains_key(id) => self.end_lease(*id),
            Command::RevokeLease { id } => return no_lease(*id),
            _ => {
                for (ttl, deadline) in self.leases.values_mut() {
                    *deadline = self.time + *ttl;
                }
                self.leases.len() as i64
            }
        })
    }

    fn end_lease(&mut self, id: u64) -> i64 {
        let count = self.live().filter(|(_, row)| row.lease == Some(id)).count();
        self.rows.retain(|_, row| row.lease != Some(id));
        self.leases.remove(&id);
        count as i64
    }

    fn expire_due(&mut self, limit: u32) -> Reply {
        let mut due: Vec<(i64, Vec<u8>)> = Vec::new();
        for (key, row) in &self.rows {
            if let Some(at) = row.expiry.filter(|at| *at <= self.time) {
                due.push((at, key.clone()));
            }
        }
        due.sort();
        due.truncate(limit as usize);
        due.iter().for_each(|(_, key)| drop(self.rows.remove(key)));
        let mut count = due.len() as i64;
        while count < limit as i64 {
            let due = self
                .leases
                .iter()
                .map(|(id, (_, deadline))| (*deadline, *id))
                .min();
            let Some((_, id)) = due.filter(|(deadline, _)| *deadline <= self.time) else {
                break;
            };
            count += 1 + self.end_lease(id);
        }
        while count < limit as i64 {
            let due = self
                .sessions
                .iter()
                .map(|(id, session)| (session.deadline, *id))
                .min();
            let Some((_, id)) = due.filter(|(deadline, _)| *deadline <= self.time) else {
                break;
            };
            count += 1;
            self.sessions.remove(&id);
        }
        while count < limit as i64 {
            let due = self
                .tokens
                .iter()
                .map(|(token, row)| (row.0, token.clone()))
                .min();
            let Some((_, token)) = due.filter(|(deadline, _)| *deadline <= self.time) else {
                break;
            };
            count += 1;
            self.tokens.remove(&token);
        }
        Reply::Integer(count)
    }

    /// The row, unless it has expired; then it goes.
    fn row(&mut self, key: &[u8]) -> Option<Row> {
        let row = self.rows.get(key).cloned()?;
        if row.expiry.is_some_and(|at| at <= self.time) {
            self.rows.remove(key);
            return None;
        }
        Some(row)
    }

    fn take(&mut self, key: &[u8]) -> Option<Row> {
        let row = self.row(key);
        self.rows.remove(key);
        row
    }

    /// Writes a value and leaves what ends the key.
    fn write_on(&mut self, key: &[u8], value: &[u8], row: Option<Row>) {
        let (expiry, lease) = row.map_or((None, None), |row| (row.expiry, row.lease));
        self.write(key, value, expiry, lease);
    }

    fn write(&mut self, key: &[u8], value: &[u8], expiry: Option<i64>, lease: Option<u64>) {
        let (value, revision) = (value.to_vec(), self.index);
        if expiry.is_some_and(|at| at <= self.time) {
            self.rows.remove(key);
        } else {
            let row = Row {
                value,
                revision,
                expiry,
                lease,
            };
            self.rows.insert(key.to_vec(), row);
        }
    }

    fn live(&self) -> impl Iterator<Item = (&Vec<u8>, &Row)> {
        let live = |row: &Row| row.expiry.is_none_or(|at| at > self.time);
        self.rows.iter().filter(move |(_, row)| live(row))
    }

    fn query(&self, query: &Query, now_ms: u64) -> Reply {
        let rows: BTreeMap<&[u8], &Row> = self.live().map(|(key, row)| (&key[..], row)).collect();
        let get = |key: &Bytes| rows.get(&key[..]).copied();
        match query {
            Query::Get(key) => value(get(key).cloned()),
            Query::MultiGet(keys) => Reply::List(keys.iter().map(|key| value(get(key).cloned())).collect()),
            Query::Exists(keys) => Reply::Integer(keys.iter().filter_map(get).count() as i64),
            Query::Length(key) => Reply::Integer(get(key).map_or(0, |row| row.value.len() as i64)),
            Query::Type(key) => Reply::Text(if get(key).is_some() { "string" } else { "none" }.into()),
            Query::TimeToLive { key, milliseconds } => Reply::Integer(match get(key).map(|row| row.expiry) {
                None => -2,
                Some(None) => -1,
                Some(Some(at)) => {
                    let left = (at - self.time.max(now_ms as i64)).max(1);
                    if *milliseconds {
                        left
                    } else {
                        (left as i128 + 500).div_euclid(1000) as i64
                    }
                }
            }),
            Query::Slice { key, start, end } => {
                let value = get(key).map_or(vec![], |row| row.value.clone());
                let length = value.len() as i64;
                let place = |at: i64| if at < 0 { (at + length).max(0) } else { at };
                let within = |at: i64| {
                    place(*start) <= at && at <= place(*end) && (*start >= 0 || *end >= 0 || start <= end)
                };
                let piece: Vec<u8> = (0..length)
                    .filter(|at| within(*at))
                    .map(|at| value[at as usize])
                    .collect();
                Reply::Value(piece.into())
            }
            Query::ExpireTime { key, milliseconds } => Reply::Integer(match get(key).map(|row| row.expiry) {
                None => -2,
                Some(None) => -1,
                Some(Some(at)) if *milliseconds => at,
                Some(Some(at)) => (at as i128 + 500).div_euclid(1000) as i64,
            }),
            Query::Revision(key) => Reply::Integer(get(key).map_or(0, |row| row.revision as i64)),
            Query::Revisions(keys) => {
                let revision = |key| Reply::Integer(get(key).map_or(0, |row| row.revision as i64));
                Reply::List(keys.iter().map(revision).collect())
            }
            Query::Size => Reply::Integer(self.rows.len() as i64),
            Query::Lease(id) => self.describe(*id, now_ms),
        }
    }
}

impl Twin {
    fn describe(&self, id: u64, now_ms: u64) -> Reply {
        let Some((ttl, deadline)) = self.leases.get(&id) else {
            return no_lease(id);
        };
        let text = |text: &[u8]| Reply::Value(Bytes::copy_from_slice(text));
        let keys = self.live().filter(|(_, row)| row.lease == Some(id));
        let left = (deadline - self.time.max(now_ms as i64)).max(0);
        Reply::List(vec![
            text(b"ttl"),
            Reply::Integer(*ttl),
            text(b"remaining"),
            Reply::Integer(left),
            text(b"keys"),
            Reply::List(keys.map(|(key, _)| text(key)).collect()),
        ])
    }
}

fn no_session(id: u64) -> Reply {
    let text = format!("there is no session {id}: it has ended or was never opened; nothing was done");
    Reply::error(Code::NoSession, text)
}

fn no_lease(id: u64) -> Reply {
    let text = format!("there is no lease {id}: it has ended or was never granted; nothing was done");
    Reply::error(Code::Err, text)
}

/// A number without exponent, in units of the 17th digit behind the point.
fn float(text: &[u8]) -> Result<i128, &'static str> {
    let invalid = "value is not a valid float";
    let text = std::str::from_utf8(text).map_err(|_| invalid)?;
    let (sign, text) = match text.strip_prefix('-') {
        Some(text) => (-1, text),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{whole}{fraction:0<18}");
    if whole.len() + fraction.len() == 0 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid);
    }
    let whole = whole.trim_start_matches('0');
    if whole.len() > 21 {
        return Err("a float has at most 21 digits before the point");
    }
    let kept: i128 = format!("0{whole}{}", &format!("{fraction:0<17}")[..17])
        .parse()
        .unwrap();
    Ok(sign * (kept + fraction.as_bytes().get(17).is_some_and(|digit| *digit >= b'5') as i128))
}

fn value(row: Option<Row>) -> Reply {
    row.map_or(Reply::Nil, |row| Reply::Value(row.value.into()))
}

fn any_key(rng: &mut Rng) -> Bytes {
    match rng.below(100) {
        0 => Bytes::new(),
        1 => Bytes::from(vec![b'k'; 4097]),
        2 => Bytes::from(vec![b'k'; 4096]),
        n => Bytes::from(format!(
            "{}{}",
            "long".repeat((n % 3) as usize * 4),
            rng.below(12)
        )),
    }
}

fn any_value(rng: &mut Rng) -> Bytes {
    match rng.below(8) {
        0 => Bytes::new(),
        1 => Bytes::from(vec![b'v'; rng.below(1000) as usize]),
        2 => Bytes::from((i64::MAX - rng.below(3) as i64).to_string()),
        3 => Bytes::from((i64::MIN + rng.below(3) as i64).to_string()),
        4 => Bytes::from_static(&[b" 1", b"-0", b"01", b"+1"][rng.below(4) as usize][..]),
        5 => any_float(rng),
        _ => Bytes::from(rng.below(5).to_string()),
    }
}

fn any_float(rng: &mut Rng) -> Bytes {
    let sign = if rng.one_in(2) { "-" } else { "" };
    Bytes::from(format!("{sign}{}.{:03}", rng.below(3), rng.below(1000)))
}

fn any_moment(rng: &mut Rng, now_ms: u64) -> Moment {
    let near = rng.below(200) as i64 - 40;
    match rng.below(12) {
        0 => Moment::In(i64::MAX - rng.below(2000) as i64),
        1 => Moment::At(i64::MAX),
        2 => Moment::At(i64::MIN),
        3 => Moment::In(i64::MIN / 2),
        4..8 => Moment::At((now_ms as i64).saturating_add(near)),
        _ => Moment::In(near),
    }
}

/// Some command, about a dozen keys and at some time around `now_ms`; often one that has a token or a number.
pub(super) fn any_command(rng: &mut Rng, now_ms: u64) -> Command {
    let command = any_plain_command(rng, now_ms);
    if !command.may_be_wrapped() {
        return command;
    }
    // The same command comes again only if it is a small one.
    let command = Box::new(if rng.one_in(2) {
        command
    } else {
        Command::Increment {
            key: Bytes::from_static(b"1"),
            by: 1,
        }
    });
    match rng.below(6) {
        0 => Command::Once {
            token: Bytes::from(format!("token{}", rng.below(20))),
            window_ms: rng.below(300),
            command,
        },
        1 | 2 => Command::Seq {
            session: any_id(rng),
            n: match rng.below(8) {
                0 => 1 + rng.below(500),
                _ => 1 + rng.below(5),
            },
            command,
        },
        _ => *command,
    }
}

fn any_plain_command(rng: &mut Rng, now_ms: u64) -> Command {
    let key = any_key(rng);
    match rng.below(66) {
        62.. => any_transaction(rng, now_ms),
        0..12 => Command::Set {
            key,
            value: any_value(rng),
            condition: match rng.below(8) {
                0 => Condition::IfAbsent,
                1 => Condition::IfPresent,
                2 => Condition::IfEqual(any_value(rng)),
                3 => Condition::IfRevision(rng.below(4) * rng.below(100)),
                _ => Condition::Always,
            },
            expiry: match rng.below(6) {
                0 => SetExpiry::Keep,
                1 => SetExpiry::Clear,
                2 | 3 => SetExpiry::Lease(any_id(rng)),
                _ => SetExpiry::At(any_moment(rng, now_ms)),
            },
            answer: [SetAnswer::Status, SetAnswer::OldValue, SetAnswer::Count][rng.below(3) as usize],
        },
        12..15 => Command::Delete {
            keys: (0..rng.below(4)).map(|_| any_key(rng)).collect(),
        },
        15 => Command::DeleteIfEqual {
            key,
            old: any_value(rng),
        },
        16 => Command::GetDelete { key },
        17..21 => Command::Increment {
            key,
            by: [1, -1, 7, i64::MAX, i64::MIN][rng.below(5) as usize],
        },
        21..24 => Command::Append {
            key,
            value: any_value(rng),
        },
        24..26 => Command::MultiSet {
            pairs: (0..rng.below(4))
                .map(|_| (any_key(rng), any_value(rng)))
                .collect(),
        },
        26..34 => Command::Expire {
            key,
            at: any_moment(rng, now_ms),
            condition: [
                ExpireCondition::Always,
                ExpireCondition::IfNone,
                ExpireCondition::IfSome,
                ExpireCondition::IfLater,
                ExpireCondition::IfEarlier,
                ExpireCondition::IfSomeAndEarlier,
            ][rng.below(6) as usize],
        },
        34..36 => Command::Persist { key },
        36..39 => Command::ExpireDue {
            limit: rng.below(4) as u32,
        },
        39..42 => Command::GetExpire {
            key,
            at: (!rng.one_in(4)).then(|| any_moment(rng, now_ms)),
        },
        42..45 => Command::IncrementFloat {
            key,
            by: if rng.one_in(8) {
                any_value(rng)
            } else {
                any_float(rng)
            },
        },
        45..47 => Command::SetRange {
            key,
            offset: rng.below(12),
            value: any_value(rng),
        },
        47 => Command::MultiSetIfAbsent {
            pairs: (0..rng.below(4))
                .map(|_| (any_key(rng), any_value(rng)))
                .collect(),
        },
        48..51 => Command::Rename {
            from: key,
            to: any_key(rng),
            if_absent: rng.one_in(2),
        },
        51..53 => Command::Copy {
            from: key,
            to: any_key(rng),
            replace: rng.one_in(2),
        },
        53 if rng.one_in(8) => Command::FlushAll,
        53 => Command::Bootstrap {
            cluster_id: [rng.below(256) as u8; 16],
        },
        _ => any_other_command(rng),
    }
}

/// Often one that was granted, as entries count from 1.
fn any_id(rng: &mut Rng) -> u64 {
    let below = 1 << rng.below(11);
    rng.below(below)
}

fn any_other_command(rng: &mut Rng) -> Command {
    let id = any_id(rng);
    match rng.below(26) {
        16..25 => Command::OpenSession {
            life_ms: 1 + rng.below(400),
        },
        25 => Command::CloseSession { id },
        0..9 => Command::GrantLease {
            ttl_ms: 1 + rng.below(400),
        },
        9..13 => Command::RenewLease { id },
        13 | 14 => Command::RevokeLease { id },
        _ => Command::RenewLeases,
    }
}

fn any_transaction(rng: &mut Rng, now_ms: u64) -> Command {
    let mut steps = Vec::new();
    while steps.len() < 5 && !rng.one_in(5) {
        if rng.one_in(3) {
            steps.push(Step::Read(any_query(rng)));
            continue;
        }
        let command = any_command(rng, now_ms);
        // A key that no command may have is an error of the whole.
        if command.may_be_step()
            && (command.keys().all(|key| (1..=4096).contains(&key.len())) || rng.one_in(8))
        {
            steps.push(Step::Write(command));
        }
    }
    // Mostly absent ones, or none: the last revision is not known here.
    let watched = (0..rng.below(8) / 6)
        .map(|_| (any_key(rng), rng.below(2) * rng.below(100)))
        .collect();
    Command::Transaction { watched, steps }
}

fn any_query(rng: &mut Rng) -> Query {
    let key = any_key(rng);
    let keys = vec![key.clone(), any_key(rng), key.clone()];
    match rng.below(15) {
        14 => Query::Revisions(keys),
        13 => Query::Lease(any_id(rng)),
        0 => Query::Get(key),
        9 | 10 => Query::Slice {
            key,
            start: rng.below(14) as i64 - 7,
            end: rng.below(14) as i64 - 7,
        },
        n @ (11 | 12) => Query::ExpireTime {
            key,
            milliseconds: n == 12,
        },
        1 => Query::MultiGet(keys),
        2 => Query::Exists(keys),
        3 => Query::Length(key),
        4 => Query::Type(key),
        5 => Query::Revision(key),
        6 => Query::Size,
        n => Query::TimeToLive {
            key,
            milliseconds: n == 7,
        },
    }
}

fn rows(view: &View) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let all = Scan {
        from: Bytes::new(),
        to: None,
        limit: None,
    };
    view.scan(&all)
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .collect()
}

fn live_rows(twin: &Twin) -> BTreeMap<Vec<u8>, Vec<u8>> {
    twin.live()
        .map(|(key, row)| (key.clone(), row.value.clone()))
        .collect()
}

/// Two stores, one through the bytes of the log and with copies held all the time, and the twin.
fn run(seed: u64, steps: u64) {
    let mut rng = Rng::new(seed);
    let (mut store, mut other, mut twin) = (Store::new(), Store::new(), Twin::default());
    let (mut view, mut then) = (other.view(), live_rows(&twin));
    let mut time_ms = rng.below(1 << 41);
    for index in 1..=steps {
        // Mostly forward, sometimes a leader whose clock is behind.
        time_ms = (time_ms + rng.below(30)).saturating_sub(rng.below(10));
        let command = any_command(&mut rng, time_ms);
        let (bytes, expiring) = (store.bytes(), store.expiring_len());
        let growth = store.growth(&command);
        let sum = store.sum();
        let reply = store.apply(index, time_ms, &command);
        let expected = twin.apply(index, time_ms, &command);
        assert_eq!(reply, expected, "seed {seed}, index {index}, {command:?}");
        assert!(store.bytes() <= bytes + growth);
        // Unless it met an expired key, which it took away, or is remembered.
        let is_remembered = matches!(command, Command::Once { .. } | Command::Seq { .. });
        if matches!(reply, Reply::Error(_)) && !is_remembered && store.expiring_len() == expiring {
            assert_eq!(store.sum(), sum, "an error changes nothing: {command:?}");
        }

        let (time_again, again) = decode_entry(encode_entry(time_ms, &command)).unwrap();
        assert_eq!(other.apply(index, time_again, &again), reply);
        assert_eq!(other.hash(), store.hash());

        let (query, now_ms) = (any_query(&mut rng), time_ms + rng.below(100));
        assert_eq!(
            store.query(&query, now_ms),
            twin.query(&query, now_ms),
            "seed {seed}, index {index}, {query:?}"
        );
        if index % 32 == 0 {
            store.keys.check();
            assert_eq!(store.hash(), store.view().recompute_hash());
            let (mut bytes, mut expiries) = (0, Vec::new());
            for (key, row) in &twin.rows {
                bytes += key.len() + row.value.len();
                expiries.extend(row.expiry);
            }
            expiries.extend(twin.leases.values().map(|(_, deadline)| *deadline));
            expiries.extend(twin.sessions.values().map(|session| session.deadline));
            expiries.extend(twin.tokens.values().map(|row| row.0));
            store.leases.check();
            store.sessions.check();
            store.tokens.check();
            assert_eq!(store.bytes(), bytes as u64);
            assert_eq!(store.next_expiry(), expiries.iter().min().map(|at| *at as u64));
            assert_eq!(rows(&view), then, "a copy changed");
            assert_eq!(view.hash(), view.recompute_hash());
            (view, then) = (other.view(), live_rows(&twin));
        }
    }
    assert_eq!(rows(&store.view()), live_rows(&twin));
}

#[test]
fn agrees_with_the_twin() {
    for seed in 0..60 {
        run(seed, 1000);
    }
}

/// Enough keys for a tree of several levels.
#[test]
fn agrees_with_a_map_of_many_keys() {
    let mut rng = Rng::new(5);
    let (mut store, mut twin) = (Store::new(), Twin::default());
    let mut views = Vec::new();
    for index in 1..=30_000 {
        let key = Bytes::from(format!("key{}", rng.below(8000)));
        let command = if rng.one_in(3) {
            Command::Delete { keys: vec![key] }
        } else {
            Command::MultiSet {
                pairs: vec![(key, any_value(&mut rng))],
            }
        };
        assert_eq!(store.apply(index, 0, &command), twin.apply(index, 0, &command));
        if index % 5000 == 0 {
            views.push((store.view(), live_rows(&twin)));
        }
    }
    store.keys.check();
    for (view, then) in views {
        assert_eq!(rows(&view), then);
        assert_eq!(view.hash(), view.recompute_hash());
    }
}
