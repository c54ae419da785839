//! Commands on keys whatever their values: other names, copies, one of them at random.

use crate::kv::{Command, Error, Query};

use super::{Action, Args, Flag, Keys, Row, err};

/// The key that is read and the key that is written.
const FROM_AND_TO: Keys = Keys {
    first: 1,
    last: 2,
    step: 1,
};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "RENAME",
        arity: 3,
        flags: &[Flag::Write],
        keys: FROM_AND_TO,
        parse: |args| Ok(rename(args, false)),
        syntax: "key newkey",
        summary: "gives the key another name, over what has it; an error if there is no such key",
    },
    Row {
        name: "RENAMENX",
        arity: 3,
        flags: &[Flag::Write, Flag::Fast],
        keys: FROM_AND_TO,
        parse: |args| Ok(rename(args, true)),
        syntax: "key newkey",
        summary: "gives the key another name unless a key has it; 1 if it did, else 0",
    },
    Row {
        name: "COPY",
        arity: -3,
        flags: &[Flag::Write],
        keys: FROM_AND_TO,
        parse: copy,
        syntax: "key newkey [DB 0] [REPLACE]",
        summary: "copies value and expiry to a key that is absent, or is to be replaced; 1 if it did, else 0",
    },
    Row {
        name: "TOUCH",
        arity: -2,
        flags: &[Flag::Read, Flag::Fast],
        keys: Keys::ALL,
        parse: |args| Ok(Action::Query(Query::Exists(args.rest(1)))),
        syntax: "key …",
        summary: "the same as EXISTS, for nothing is evicted here",
    },
    Row {
        name: "RANDOMKEY",
        arity: 1,
        flags: &[Flag::Read],
        keys: Keys::NONE,
        parse: |_| Ok(Action::RandomKey),
        syntax: "",
        summary: "one of the keys, or _ if there is none; takes time in proportion to their number",
    },
];

fn rename(args: &Args<'_>, if_absent: bool) -> Action {
    Action::Write(Command::Rename {
        from: args.word(1),
        to: args.word(2),
        if_absent,
    })
}

fn copy(args: &Args<'_>) -> Result<Action, Error> {
    let mut replace = false;
    let mut at = 3;
    while at < args.len() {
        if args.is(at, "REPLACE") {
            replace = true;
            at += 1;
        } else if args.is(at, "DB") && at + 1 < args.len() {
            if args.integer(at + 1)? != 0 {
                return Err(err("DB index is out of range"));
            }
            at += 2;
        } else {
            return Err(args.syntax(at));
        }
    }
    let (from, to) = (args.word(1), args.word(2));
    if from == to {
        return Err(err("source and destination objects are the same"));
    }
    Ok(Action::Write(Command::Copy { from, to, replace }))
}
