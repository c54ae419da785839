//! Commands on keys and their values.

use bytes::Bytes;

use crate::kv::{Command, Condition, Error, Moment, Query, SetAnswer, SetExpiry};

use super::expiry::{expiry_moment, expiry_unit};
use super::leases::lease_id;
use super::{Action, Args, Flag, Keys, Row, err};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "GET",
        arity: 2,
        flags: &[Flag::Read, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| Ok(Action::Query(Query::Get(args.word(1)))),
        syntax: "key",
        summary: "the key's value, or _ if there is none",
    },
    Row {
        name: "MGET",
        arity: -2,
        flags: &[Flag::Read, Flag::Fast],
        keys: Keys::ALL,
        parse: |args| Ok(Action::Query(Query::MultiGet(args.rest(1)))),
        syntax: "key …",
        summary: "the values of several keys, all of one moment",
    },
    Row {
        name: "EXISTS",
        arity: -2,
        flags: &[Flag::Read, Flag::Fast],
        keys: Keys::ALL,
        parse: |args| Ok(Action::Query(Query::Exists(args.rest(1)))),
        syntax: "key …",
        summary: "how many of the keys are there",
    },
    Row {
        name: "STRLEN",
        arity: 2,
        flags: &[Flag::Read, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| Ok(Action::Query(Query::Length(args.word(1)))),
        syntax: "key",
        summary: "the value's length in bytes, 0 if there is none",
    },
    Row {
        name: "GETRANGE",
        arity: 4,
        flags: &[Flag::Read],
        keys: Keys::FIRST,
        parse: slice,
        syntax: "key start end",
        summary: "a piece of the value, both ends included; -1 is its last byte",
    },
    Row {
        name: "SUBSTR",
        arity: 4,
        flags: &[Flag::Read],
        keys: Keys::FIRST,
        parse: slice,
        syntax: "key start end",
        summary: "the same as GETRANGE",
    },
    Row {
        name: "TYPE",
        arity: 2,
        flags: &[Flag::Read, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| Ok(Action::Query(Query::Type(args.word(1)))),
        syntax: "key",
        summary: "string, or none if there is no such key",
    },
    Row {
        name: "REV",
        arity: 2,
        flags: &[Flag::Read, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| Ok(Action::Query(Query::Revision(args.word(1)))),
        syntax: "key",
        summary: "the revision of the key's last write, 0 if there is no such key",
    },
    Row {
        name: "SET",
        arity: -3,
        flags: &[Flag::Write],
        keys: Keys::FIRST,
        parse: set,
        syntax: "key value [NX|XX|IFEQ old|IFREV n] [EX s|PX ms|EXAT s|PXAT ms|KEEPTTL|LEASE id] [GET]",
        summary: "writes; +OK, or _ when the condition failed; with GET the old value",
    },
    Row {
        name: "SETNX",
        arity: 3,
        flags: &[Flag::Write, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| {
            let plain = plain_set(args, 2);
            Ok(write(Set {
                condition: Condition::IfAbsent,
                answer: SetAnswer::Count,
                ..plain
            }))
        },
        syntax: "key value",
        summary: "writes if the key is absent; 1 if it did, else 0",
    },
    Row {
        name: "SETEX",
        arity: 4,
        flags: &[Flag::Write],
        keys: Keys::FIRST,
        parse: set_with_expiry,
        syntax: "key seconds value",
        summary: "writes a value that goes after so many seconds",
    },
    Row {
        name: "PSETEX",
        arity: 4,
        flags: &[Flag::Write],
        keys: Keys::FIRST,
        parse: set_with_expiry,
        syntax: "key milliseconds value",
        summary: "writes a value that goes after so many milliseconds",
    },
    Row {
        name: "GETSET",
        arity: 3,
        flags: &[Flag::Write, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| {
            Ok(write(Set {
                answer: SetAnswer::OldValue,
                ..plain_set(args, 2)
            }))
        },
        syntax: "key value",
        summary: "writes and answers the old value, or _",
    },
    Row {
        name: "MSET",
        arity: -3,
        flags: &[Flag::Write],
        keys: Keys::PAIRS,
        parse: |args| Ok(Action::Write(Command::MultiSet { pairs: pairs(args)? })),
        syntax: "key value …",
        summary: "writes several keys at once",
    },
    Row {
        name: "MSETNX",
        arity: -3,
        flags: &[Flag::Write],
        keys: Keys::PAIRS,
        parse: |args| Ok(Action::Write(Command::MultiSetIfAbsent { pairs: pairs(args)? })),
        syntax: "key value …",
        summary: "writes several keys if none of them is there; 1 if it did, else 0",
    },
    Row {
        name: "APPEND",
        arity: 3,
        flags: &[Flag::Write, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| {
            Ok(Action::Write(Command::Append {
                key: args.word(1),
                value: args.word(2),
            }))
        },
        syntax: "key value",
        summary: "appends to the value; the new length",
    },
    Row {
        name: "SETRANGE",
        arity: 4,
        flags: &[Flag::Write],
        keys: Keys::FIRST,
        parse: set_range,
        syntax: "key offset value",
        summary: "writes over a piece of the value, filling up with zeros; the new length",
    },
    Row {
        name: "INCR",
        arity: 2,
        flags: &[Flag::Write, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| Ok(increment(args, 1)),
        syntax: "key",
        summary: "adds 1; the new value",
    },
    Row {
        name: "DECR",
        arity: 2,
        flags: &[Flag::Write, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| Ok(increment(args, -1)),
        syntax: "key",
        summary: "subtracts 1; the new value",
    },
    Row {
        name: "INCRBY",
        arity: 3,
        flags: &[Flag::Write, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| Ok(increment(args, args.integer(2)?)),
        syntax: "key n",
        summary: "adds n; the new value",
    },
    Row {
        name: "DECRBY",
        arity: 3,
        flags: &[Flag::Write, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| {
            let by = args
                .integer(2)?
                .checked_neg()
                .ok_or_else(|| err("decrement would overflow"))?;
            Ok(increment(args, by))
        },
        syntax: "key n",
        summary: "subtracts n; the new value",
    },
    Row {
        name: "INCRBYFLOAT",
        arity: 3,
        flags: &[Flag::Write, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| {
            Ok(Action::Write(Command::IncrementFloat {
                key: args.word(1),
                by: args.word(2),
            }))
        },
        syntax: "key number",
        summary: "adds a decimal, exact to 17 digits behind the point; the new value",
    },
    Row {
        name: "DEL",
        arity: -2,
        flags: &[Flag::Write],
        keys: Keys::ALL,
        parse: |args| Ok(Action::Write(Command::Delete { keys: args.rest(1) })),
        syntax: "key …",
        summary: "deletes; how many keys there were",
    },
    Row {
        name: "UNLINK",
        arity: -2,
        flags: &[Flag::Write, Flag::Fast],
        keys: Keys::ALL,
        parse: |args| Ok(Action::Write(Command::Delete { keys: args.rest(1) })),
        syntax: "key …",
        summary: "the same as DEL",
    },
    Row {
        name: "DELIFEQ",
        arity: 3,
        flags: &[Flag::Write, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| {
            Ok(Action::Write(Command::DeleteIfEqual {
                key: args.word(1),
                old: args.word(2),
            }))
        },
        syntax: "key old",
        summary: "deletes if the value is old; 1 if it did, else 0",
    },
    Row {
        name: "GETDEL",
        arity: 2,
        flags: &[Flag::Write, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| Ok(Action::Write(Command::GetDelete { key: args.word(1) })),
        syntax: "key",
        summary: "deletes and answers the old value, or _",
    },
    Row {
        name: "GETEX",
        arity: -2,
        flags: &[Flag::Write, Flag::Fast],
        keys: Keys::FIRST,
        parse: get_expire,
        syntax: "key [EX s|PX ms|EXAT s|PXAT ms|PERSIST]",
        summary: "the value, or _, and a new expiry for the key",
    },
];

/// The parts of a SET while its words are read.
struct Set {
    key: Bytes,
    value: Bytes,
    condition: Condition,
    expiry: SetExpiry,
    answer: SetAnswer,
}

fn plain_set(args: &Args<'_>, value_at: usize) -> Set {
    Set {
        key: args.word(1),
        value: args.word(value_at),
        condition: Condition::Always,
        expiry: SetExpiry::Clear,
        answer: SetAnswer::Status,
    }
}

fn write(set: Set) -> Action {
    let Set {
        key,
        value,
        condition,
        expiry,
        answer,
    } = set;
    Action::Write(Command::Set {
        key,
        value,
        condition,
        expiry,
        answer,
    })
}

fn set(args: &Args<'_>) -> Result<Action, Error> {
    let mut set = plain_set(args, 2);
    let mut at = 3;
    while at < args.len() {
        let used = match set_condition(args, at)? {
            Some((condition, used)) if set.condition == Condition::Always || set.condition == condition => {
                set.condition = condition;
                used
            }
            Some(_) => return Err(args.syntax(at)),
            None => set_option(args, at, &mut set)?,
        };
        at += used;
    }
    Ok(write(set))
}

/// The condition that starts at this word, if one does, and its number of words.
fn set_condition(args: &Args<'_>, at: usize) -> Result<Option<(Condition, usize)>, Error> {
    let operand = || {
        if at + 1 < args.len() {
            Ok(args.word(at + 1))
        } else {
            Err(args.syntax(at + 1))
        }
    };
    Ok(match args.bytes(at).to_ascii_uppercase().as_slice() {
        b"NX" => Some((Condition::IfAbsent, 1)),
        b"XX" => Some((Condition::IfPresent, 1)),
        b"IFEQ" => Some((Condition::IfEqual(operand()?), 2)),
        b"IFREV" => {
            operand()?;
            let revision = u64::try_from(args.integer(at + 1)?)
                .map_err(|_| err("a revision is a number from 0 on, see REV"))?;
            Some((Condition::IfRevision(revision), 2))
        }
        _ => None,
    })
}

/// Reads what is no condition; answers how many words it was.
fn set_option(args: &Args<'_>, at: usize, set: &mut Set) -> Result<usize, Error> {
    if args.is(at, "GET") {
        set.answer = SetAnswer::OldValue;
        return Ok(1);
    }
    let (expiry, used) = match new_expiry(args, at)? {
        _ if args.is(at, "KEEPTTL") => (SetExpiry::Keep, 1),
        _ if args.is(at, "LEASE") && at + 1 >= args.len() => return Err(args.syntax(at + 1)),
        _ if args.is(at, "LEASE") => (SetExpiry::Lease(lease_id(args, at + 1)?), 2),
        Some(moment) => (SetExpiry::At(moment), 2),
        None => return Err(args.syntax(at)),
    };
    if set.expiry != SetExpiry::Clear {
        return Err(args.syntax(at));
    }
    set.expiry = expiry;
    Ok(used)
}

/// What the word at this place and the number behind it say about the expiry, unless it is another word.
fn new_expiry(args: &Args<'_>, at: usize) -> Result<Option<Moment>, Error> {
    match expiry_unit(args.bytes(at)) {
        None => Ok(None),
        Some(_) if at + 1 >= args.len() => Err(args.syntax(at + 1)),
        Some(unit) => positive(args, unit(args.integer(at + 1)?)).map(Some),
    }
}

fn get_expire(args: &Args<'_>) -> Result<Action, Error> {
    let key = args.word(1);
    if args.len() == 2 {
        return Ok(Action::Query(Query::Get(key)));
    }
    let at = new_expiry(args, 2)?;
    let used = match at {
        Some(_) => 2,
        None if args.is(2, "PERSIST") => 1,
        None => return Err(args.syntax(2)),
    };
    if args.len() > 2 + used {
        return Err(args.syntax(2 + used));
    }
    Ok(Action::Write(Command::GetExpire { key, at }))
}

/// Refuses an expiry that is not after the epoch, or not after now, as Redis does for SET.
fn positive(args: &Args<'_>, moment: Option<Moment>) -> Result<Moment, Error> {
    expiry_moment(
        args,
        moment.filter(|m| matches!(m, Moment::In(1..) | Moment::At(1..))),
    )
}

fn set_with_expiry(args: &Args<'_>) -> Result<Action, Error> {
    let unit = expiry_unit(if args.row.name == "SETEX" { b"EX" } else { b"PX" });
    let number = args.integer(2)?;
    let moment = positive(args, unit.and_then(|unit| unit(number)))?;
    Ok(write(Set {
        expiry: SetExpiry::At(moment),
        ..plain_set(args, 3)
    }))
}

fn pairs(args: &Args<'_>) -> Result<Vec<(Bytes, Bytes)>, Error> {
    let words = args.rest(1);
    let (pairs, rest) = words.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(args.wrong_number());
    }
    let pairs = pairs.iter().map(|[key, value]| (key.clone(), value.clone()));
    Ok(pairs.collect())
}

fn slice(args: &Args<'_>) -> Result<Action, Error> {
    let (start, end) = (args.integer(2)?, args.integer(3)?);
    let key = args.word(1);
    Ok(Action::Query(Query::Slice { key, start, end }))
}

fn set_range(args: &Args<'_>) -> Result<Action, Error> {
    let offset = u64::try_from(args.integer(2)?).map_err(|_| err("offset is out of range"))?;
    Ok(Action::Write(Command::SetRange {
        key: args.word(1),
        offset,
        value: args.word(3),
    }))
}

fn increment(args: &Args<'_>, by: i64) -> Action {
    Action::Write(Command::Increment {
        key: args.word(1),
        by,
    })
}
