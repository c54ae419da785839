//! Commands about the connection, most of them for client libraries that were written for Redis.

use crate::kv::{Code, Error, Reply};
use crate::node::ReadMode;

use super::{Action, Args, ConnectionAction, Flag, Keys, Row, answer, err};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "READ",
        arity: 2,
        flags: &[Flag::Connection, Flag::Fast],
        keys: Keys::NONE,
        parse: read_mode,
        syntax: "quorum|lease|stale",
        summary: "how this connection reads from now on; stale reads this node's own state at once",
    },
    Row {
        name: "PING",
        arity: -1,
        flags: &[Flag::Connection, Flag::Fast],
        keys: Keys::NONE,
        parse: |args| match args.len() {
            1 => answer(Reply::Text("PONG".into())),
            2 => answer(Reply::Value(args.word(1))),
            _ => Err(args.wrong_number()),
        },
        syntax: "[message]",
        summary: "+PONG, or the message",
    },
    Row {
        name: "ECHO",
        arity: 2,
        flags: &[Flag::Connection, Flag::Fast],
        keys: Keys::NONE,
        parse: |args| answer(Reply::Value(args.word(1))),
        syntax: "message",
        summary: "the message",
    },
    Row {
        name: "TIME",
        arity: 1,
        flags: &[Flag::Fast],
        keys: Keys::NONE,
        parse: |_| connection(ConnectionAction::Time),
        syntax: "",
        summary: "this node's clock: seconds since 1970, and microseconds",
    },
    Row {
        name: "QUIT",
        arity: -1,
        flags: &[Flag::Connection, Flag::Fast],
        keys: Keys::NONE,
        parse: |_| connection(ConnectionAction::Quit),
        syntax: "",
        summary: "+OK, then the connection closes",
    },
    Row {
        name: "RESET",
        arity: 1,
        flags: &[Flag::Connection, Flag::Fast],
        keys: Keys::NONE,
        parse: |_| connection(ConnectionAction::Reset),
        syntax: "",
        summary: "the connection as it was at its start",
    },
    Row {
        name: "SELECT",
        arity: 2,
        flags: &[Flag::Connection, Flag::Fast],
        keys: Keys::NONE,
        parse: |args| match args.integer(1)? {
            0 => answer(Reply::Ok),
            _ => Err(err("DB index is out of range")),
        },
        syntax: "0",
        summary: "there is one database, number 0",
    },
    Row {
        name: "HELLO",
        arity: -1,
        flags: &[Flag::Connection, Flag::Fast],
        keys: Keys::NONE,
        parse: hello,
        syntax: "[2|3 [AUTH user password] [SETNAME name]]",
        summary: "chooses the RESP version; who the server is",
    },
    Row {
        name: "AUTH",
        arity: -2,
        flags: &[Flag::Connection, Flag::Fast],
        keys: Keys::NONE,
        parse: |args| match args.len() {
            2 | 3 => Err(no_users()),
            _ => Err(args.syntax(3)),
        },
        syntax: "[user] password",
        summary: "logs in; an error while no users are configured",
    },
    Row {
        name: "READONLY",
        arity: 1,
        flags: &[Flag::Connection, Flag::Fast],
        keys: Keys::NONE,
        parse: |_| connection(ConnectionAction::ReadMode(ReadMode::Stale)),
        syntax: "",
        summary: "READ stale: this connection reads this node's own state",
    },
    Row {
        name: "READWRITE",
        arity: 1,
        flags: &[Flag::Connection, Flag::Fast],
        keys: Keys::NONE,
        parse: |_| connection(ConnectionAction::DefaultReadMode),
        syntax: "",
        summary: "this connection reads as raft.read_mode says again",
    },
    super::client::ROW,
    super::command::ROW,
];

pub(super) fn connection(action: ConnectionAction) -> Result<Action, Error> {
    Ok(Action::Connection(action))
}

fn read_mode(args: &Args<'_>) -> Result<Action, Error> {
    let mode = match args.bytes(1).to_ascii_lowercase().as_slice() {
        b"quorum" => ReadMode::Quorum,
        b"lease" => ReadMode::Lease,
        b"stale" => ReadMode::Stale,
        _ => return Err(args.syntax(1)),
    };
    connection(ConnectionAction::ReadMode(mode))
}

fn no_users() -> Error {
    err(
        "AUTH called without any password configured for the default user. \
         Are you sure your configuration is correct?",
    )
}

fn hello(args: &Args<'_>) -> Result<Action, Error> {
    let resp3 = match (args.len(), args.bytes(1)) {
        (1, _) => None,
        (_, b"2") => Some(false),
        (_, b"3") => Some(true),
        _ if args.integer(1).is_err() => {
            return Err(err("Protocol version is not an integer or out of range"));
        }
        _ => {
            return Err(Error {
                code: Code::NoProto,
                text: "unsupported protocol version".into(),
            });
        }
    };
    let mut name = None;
    let mut at = 2;
    while at < args.len() {
        if args.is(at, "AUTH") && at + 2 < args.len() {
            return Err(no_users());
        } else if args.is(at, "SETNAME") && at + 1 < args.len() {
            name = Some(client_text(args, at + 1, "names")?);
            at += 2;
        } else {
            return Err(err(format!("Syntax error in HELLO option '{}'", args.shown(at))));
        }
    }
    connection(ConnectionAction::Hello { resp3, name })
}

/// A name that CLIENT INFO can show: no blanks, nothing that does not print.
pub(super) fn client_text(args: &Args<'_>, at: usize, what: &str) -> Result<String, Error> {
    if !args.bytes(at).iter().all(u8::is_ascii_graphic) {
        return Err(err(format!(
            "Client {what} cannot contain spaces, newlines or special characters."
        )));
    }
    if args.bytes(at).len() > 256 {
        return Err(err(format!("Client {what} cannot be longer than 256 bytes.")));
    }
    Ok(args.text(at))
}
