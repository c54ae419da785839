//! MULTI and EXEC: several commands that take effect together.

use super::{Action, Flag, Keys, Repeat, Row, TransactionAction};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "MULTI",
        arity: 1,
        flags: &[Flag::Fast],
        keys: Keys::NONE,
        parse: |_| Ok(Action::Transaction(TransactionAction::Multi)),
        syntax: "",
        summary: "what follows is queued, and done by EXEC, all at once and nothing in between",
    },
    Row {
        name: "EXEC",
        arity: 1,
        flags: &[],
        keys: Keys::NONE,
        parse: |_| Ok(Action::Transaction(TransactionAction::Exec(Repeat::No))),
        syntax: "",
        summary: "does what is queued; a list of replies, or _ and nothing was done if a watched key has changed",
    },
    Row {
        name: "DISCARD",
        arity: 1,
        flags: &[Flag::Fast],
        keys: Keys::NONE,
        parse: |_| Ok(Action::Transaction(TransactionAction::Discard)),
        syntax: "",
        summary: "forgets what is queued and watched",
    },
    Row {
        name: "WATCH",
        arity: -2,
        flags: &[Flag::Read, Flag::Fast],
        keys: Keys::ALL,
        parse: |args| Ok(Action::Transaction(TransactionAction::Watch(args.rest(1)))),
        syntax: "key …",
        summary: "the next EXEC does nothing if one of the keys has another revision by then",
    },
    Row {
        name: "UNWATCH",
        arity: 1,
        flags: &[Flag::Fast],
        keys: Keys::NONE,
        parse: |_| Ok(Action::Transaction(TransactionAction::Unwatch)),
        syntax: "",
        summary: "forgets what is watched",
    },
];
