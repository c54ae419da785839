//! Commands on many keys.

use bytes::Bytes;

use crate::base::glob::Glob;
use crate::kv::{Command, Error, Query, Scan, prefix_end};

use super::{Action, Args, Flag, Keys, Row, ScanStep, Walk, err};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "RANGE",
        arity: -3,
        flags: &[Flag::Read],
        keys: Keys::NONE,
        parse: |args| range(args, args.word(1), Some(args.word(2)), 3),
        syntax: "from to [LIMIT n] [KEYS]",
        summary: "key, value, key, value … in byte order, from ≤ key < to; with KEYS the keys alone",
    },
    Row {
        name: "PREFIX",
        arity: -2,
        flags: &[Flag::Read],
        keys: Keys::NONE,
        parse: |args| range(args, args.word(1), prefix_end(args.bytes(1)), 2),
        syntax: "p [LIMIT n] [KEYS]",
        summary: "as RANGE, for all keys that begin with p",
    },
    Row {
        name: "SCAN",
        arity: -2,
        flags: &[Flag::Read],
        keys: Keys::NONE,
        parse: scan,
        syntax: "cursor [MATCH pattern] [COUNT n] [TYPE type]",
        summary: "the next cursor and some keys; begin with 0, the end is 0; each node has its own cursors",
    },
    Row {
        name: "KEYS",
        arity: 2,
        flags: &[Flag::Read],
        keys: Keys::NONE,
        parse: keys,
        syntax: "pattern",
        summary: "all keys that match, in byte order; * ? [a-z] \\",
    },
    Row {
        name: "DBSIZE",
        arity: 1,
        flags: &[Flag::Read, Flag::Fast],
        keys: Keys::NONE,
        parse: |_| Ok(Action::Query(Query::Size)),
        syntax: "",
        summary: "how many keys there are",
    },
    Row {
        name: "FLUSHALL",
        arity: -1,
        flags: &[Flag::Write],
        keys: Keys::NONE,
        parse: flush,
        syntax: "[ASYNC|SYNC]",
        summary: "deletes every key",
    },
    Row {
        name: "FLUSHDB",
        arity: -1,
        flags: &[Flag::Write],
        keys: Keys::NONE,
        parse: flush,
        syntax: "[ASYNC|SYNC]",
        summary: "the same as FLUSHALL",
    },
];

fn range(args: &Args<'_>, from: Bytes, to: Option<Bytes>, options_at: usize) -> Result<Action, Error> {
    let mut limit = None;
    let mut values = true;
    let mut at = options_at;
    while at < args.len() {
        if args.is(at, "KEYS") && values {
            values = false;
            at += 1;
        } else if args.is(at, "LIMIT") && limit.is_none() {
            if at + 1 >= args.len() {
                return Err(args.syntax(at + 1));
            }
            let number = u64::try_from(args.integer(at + 1)?);
            limit = Some(number.map_err(|_| err("LIMIT is a number from 0 on"))?);
            at += 2;
        } else {
            return Err(args.syntax(at));
        }
    }
    Ok(Action::Walk(Walk {
        scan: Scan { from, to, limit },
        pattern: None,
        values,
    }))
}

fn keys(args: &Args<'_>) -> Result<Action, Error> {
    let pattern = args.word(1);
    let from = Bytes::from(Glob::new(&pattern).prefix());
    let to = prefix_end(&from);
    Ok(Action::Walk(Walk {
        scan: Scan {
            from,
            to,
            limit: None,
        },
        pattern: Some(pattern),
        values: false,
    }))
}

fn scan(args: &Args<'_>) -> Result<Action, Error> {
    let cursor = std::str::from_utf8(args.bytes(1))
        .ok()
        .and_then(|text| text.parse().ok());
    let mut step = ScanStep {
        cursor: cursor.ok_or_else(|| err("invalid cursor"))?,
        pattern: None,
        count: 10,
        nothing: false,
    };
    let mut at = 2;
    while at < args.len() {
        if at + 1 >= args.len() {
            return Err(args.syntax(at + 1));
        }
        match args.bytes(at).to_ascii_uppercase().as_slice() {
            b"MATCH" => step.pattern = Some(args.word(at + 1)),
            b"COUNT" => {
                step.count = match u64::try_from(args.integer(at + 1)?) {
                    Ok(count) if count > 0 => count,
                    _ => return Err(err("syntax error: COUNT is a number from 1 on")),
                }
            }
            b"TYPE" => step.nothing = !args.is(at + 1, "STRING"),
            _ => return Err(args.syntax(at)),
        }
        at += 2;
    }
    Ok(Action::Scan(step))
}

fn flush(args: &Args<'_>) -> Result<Action, Error> {
    match args.len() {
        1 => Ok(Action::Write(Command::FlushAll)),
        2 if args.is(1, "ASYNC") || args.is(1, "SYNC") => Ok(Action::Write(Command::FlushAll)),
        _ => Err(args.syntax(if args.len() == 2 { 1 } else { 2 })),
    }
}
