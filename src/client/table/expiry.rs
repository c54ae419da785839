//! Commands on the expiry of keys.

use crate::kv::{Command, Error, ExpireCondition, Moment, Query};

use super::{Action, Args, Flag, Keys, Row, err};

/// No expiry may be further away, so that sums with the time of day stay in range.
const MOMENT_MAX_MS: i64 = i64::MAX / 2;

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "EXPIRE",
        arity: -3,
        flags: &[Flag::Write, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| expire(args, b"EX"),
        syntax: "key seconds [NX|XX|GT|LT]",
        summary: "lets the key go after so many seconds; 1 if it will, else 0",
    },
    Row {
        name: "PEXPIRE",
        arity: -3,
        flags: &[Flag::Write, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| expire(args, b"PX"),
        syntax: "key milliseconds [NX|XX|GT|LT]",
        summary: "lets the key go after so many milliseconds; 1 if it will, else 0",
    },
    Row {
        name: "EXPIREAT",
        arity: -3,
        flags: &[Flag::Write, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| expire(args, b"EXAT"),
        syntax: "key unix-seconds [NX|XX|GT|LT]",
        summary: "lets the key go at this time; 1 if it will, else 0",
    },
    Row {
        name: "PEXPIREAT",
        arity: -3,
        flags: &[Flag::Write, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| expire(args, b"PXAT"),
        syntax: "key unix-milliseconds [NX|XX|GT|LT]",
        summary: "lets the key go at this time; 1 if it will, else 0",
    },
    Row {
        name: "TTL",
        arity: 2,
        flags: &[Flag::Read, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| Ok(time_to_live(args, false)),
        syntax: "key",
        summary: "seconds the key has left; -1 without expiry, -2 if there is no such key",
    },
    Row {
        name: "PTTL",
        arity: 2,
        flags: &[Flag::Read, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| Ok(time_to_live(args, true)),
        syntax: "key",
        summary: "milliseconds the key has left; -1 without expiry, -2 if there is no such key",
    },
    Row {
        name: "EXPIRETIME",
        arity: 2,
        flags: &[Flag::Read, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| Ok(expire_time(args, false)),
        syntax: "key",
        summary: "when the key goes, in seconds since 1970; -1 without expiry, -2 if there is no such key",
    },
    Row {
        name: "PEXPIRETIME",
        arity: 2,
        flags: &[Flag::Read, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| Ok(expire_time(args, true)),
        syntax: "key",
        summary: "when the key goes, in milliseconds since 1970; -1 without expiry, -2 if there is no such key",
    },
    Row {
        name: "PERSIST",
        arity: 2,
        flags: &[Flag::Write, Flag::Fast],
        keys: Keys::FIRST,
        parse: |args| Ok(Action::Write(Command::Persist { key: args.word(1) })),
        syntax: "key",
        summary: "takes the expiry away; 1 if there was one, else 0",
    },
];

/// What a number means after EX, PX, EXAT or PXAT; `None` for another word. The number gives `None` when it
/// is out of range.
pub(super) fn expiry_unit(word: &[u8]) -> Option<fn(i64) -> Option<Moment>> {
    match word.to_ascii_uppercase().as_slice() {
        b"EX" => Some(|n| n.checked_mul(1000).map(Moment::In)),
        b"PX" => Some(|n| Some(Moment::In(n))),
        b"EXAT" => Some(|n| n.checked_mul(1000).map(Moment::At)),
        b"PXAT" => Some(|n| Some(Moment::At(n))),
        _ => None,
    }
}

/// The moment, unless it is missing or so far away that sums would overflow.
pub(super) fn expiry_moment(args: &Args<'_>, moment: Option<Moment>) -> Result<Moment, Error> {
    match moment {
        Some(m @ (Moment::In(ms) | Moment::At(ms))) if ms.unsigned_abs() <= MOMENT_MAX_MS as u64 => Ok(m),
        _ => Err(err(format!(
            "invalid expire time in '{}' command",
            args.lower_name()
        ))),
    }
}

fn expire(args: &Args<'_>, unit: &[u8]) -> Result<Action, Error> {
    let condition = expire_condition(args)?;
    let number = args.integer(2)?;
    let at = expiry_moment(args, expiry_unit(unit).and_then(|unit| unit(number)))?;
    Ok(Action::Write(Command::Expire {
        key: args.word(1),
        at,
        condition,
    }))
}

/// NX, XX, GT, LT in the combinations that do not exclude each other: XX with GT is GT, because a key without expiry
/// is never later.
fn expire_condition(args: &Args<'_>) -> Result<ExpireCondition, Error> {
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for at in 3..args.len() {
        match args.bytes(at).to_ascii_uppercase().as_slice() {
            b"NX" => nx = true,
            b"XX" => xx = true,
            b"GT" => gt = true,
            b"LT" => lt = true,
            _ => return Err(err(format!("Unsupported option {}", args.shown(at)))),
        }
    }
    match (nx, xx, gt, lt) {
        (false, false, false, false) => Ok(ExpireCondition::Always),
        (true, false, false, false) => Ok(ExpireCondition::IfNone),
        (false, true, false, false) => Ok(ExpireCondition::IfSome),
        (false, _, true, false) => Ok(ExpireCondition::IfLater),
        (false, false, false, true) => Ok(ExpireCondition::IfEarlier),
        (false, true, false, true) => Ok(ExpireCondition::IfSomeAndEarlier),
        (true, ..) => Err(err(
            "NX and XX, GT or LT options at the same time are not compatible",
        )),
        (_, _, true, true) => Err(err("GT and LT options at the same time are not compatible")),
    }
}

fn time_to_live(args: &Args<'_>, milliseconds: bool) -> Action {
    Action::Query(Query::TimeToLive {
        key: args.word(1),
        milliseconds,
    })
}

fn expire_time(args: &Args<'_>, milliseconds: bool) -> Action {
    Action::Query(Query::ExpireTime {
        key: args.word(1),
        milliseconds,
    })
}
