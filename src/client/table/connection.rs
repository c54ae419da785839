//! Commands about the connection, most of them for client libraries that were written for Redis.

use bytes::Bytes;

use crate::kv::{Code, Error, Reply};
use crate::node::ReadMode;

use super::{
    Action, Args, ConnectionAction, Flag, Keys, LibraryField, Response, Row, answer, err, find, later, rows,
};

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
        parse: |args| match args.integer(1) {
            Ok(0) => answer(Reply::Ok),
            Ok(_) => Err(err("DB index is out of range")),
            Err(_) => Err(err("invalid DB index")),
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
        name: "CLIENT",
        arity: -2,
        flags: &[Flag::Connection],
        keys: Keys::NONE,
        parse: client,
        syntax: "ID|INFO|GETNAME|SETNAME name|SETINFO LIB-NAME|LIB-VER value|NO-EVICT|NO-TOUCH ON|OFF",
        summary: "what the server knows of this connection",
    },
    Row {
        name: "COMMAND",
        arity: -1,
        flags: &[Flag::Connection],
        keys: Keys::NONE,
        parse: command,
        syntax: "[COUNT|LIST|INFO [name …]|DOCS [name …]]",
        summary: "this table, for programs",
    },
    Row {
        parse: |_| Err(err("This instance has cluster support disabled")),
        ..later("CLUSTER")
    },
];

fn connection(action: ConnectionAction) -> Result<Action, Error> {
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
fn client_text(args: &Args<'_>, at: usize, what: &str) -> Result<String, Error> {
    if args.bytes(at).len() > 256 || !args.bytes(at).iter().all(u8::is_ascii_graphic) {
        return Err(err(format!(
            "Client {what} cannot contain spaces, newlines or special characters, nor more than 256 of any."
        )));
    }
    Ok(args.text(at))
}

fn client(args: &Args<'_>) -> Result<Action, Error> {
    let under = args.bytes(1).to_ascii_uppercase();
    args.expect_len(match under.as_slice() {
        b"ID" | b"INFO" | b"GETNAME" => 2,
        b"SETNAME" | b"NO-EVICT" | b"NO-TOUCH" => 3,
        b"SETINFO" => 4,
        _ => return Err(args.unknown_under()),
    })?;
    match under.as_slice() {
        b"ID" => connection(ConnectionAction::Id),
        b"INFO" => connection(ConnectionAction::Info),
        b"GETNAME" => connection(ConnectionAction::Name),
        b"SETNAME" => connection(ConnectionAction::SetName(client_text(args, 2, "names")?)),
        b"SETINFO" => {
            let field = match args.bytes(2).to_ascii_uppercase().as_slice() {
                b"LIB-NAME" => LibraryField::Name,
                b"LIB-VER" => LibraryField::Version,
                _ => return Err(err(format!("Unrecognized option '{}'", args.shown(2)))),
            };
            connection(ConnectionAction::SetLibrary(
                field,
                client_text(args, 3, "attributes")?,
            ))
        }
        // Nothing is ever evicted here, so both are as wished.
        _ if args.is(2, "ON") || args.is(2, "OFF") => answer(Reply::Ok),
        _ => Err(args.syntax(2)),
    }
}

fn command(args: &Args<'_>) -> Result<Action, Error> {
    let shown = || rows().filter(|row| row.is_built());
    if args.len() == 1 {
        return answer(Reply::List(shown().map(command_info).collect()));
    }
    match args.bytes(1).to_ascii_uppercase().as_slice() {
        b"COUNT" => {
            args.expect_len(2)?;
            answer(Reply::Integer(shown().count() as i64))
        }
        b"LIST" => {
            args.expect_len(2)?;
            answer(Reply::List(
                shown().map(|row| text(row.name.to_ascii_lowercase())).collect(),
            ))
        }
        b"INFO" if args.len() == 2 => answer(Reply::List(shown().map(command_info).collect())),
        b"INFO" => {
            let info = |at| find(args.bytes(at)).map_or(Reply::Nil, command_info);
            answer(Reply::List((2..args.len()).map(info).collect()))
        }
        b"DOCS" if args.len() == 2 => Ok(Action::Answer(command_docs(shown()))),
        b"DOCS" => Ok(Action::Answer(command_docs(
            (2..args.len()).filter_map(|at| find(args.bytes(at))),
        ))),
        _ => Err(args.unknown_under()),
    }
}

/// Redis's six: name, arity, flags, first key, last key, step.
fn command_info(row: &'static Row) -> Reply {
    let flags = row.flags.iter().filter_map(|flag| {
        Some(Reply::Text(match flag {
            Flag::Write => "write".into(),
            Flag::Read => "readonly".into(),
            Flag::Admin => "admin".into(),
            Flag::Fast => "fast".into(),
            Flag::Connection => return None,
        }))
    });
    Reply::List(vec![
        text(row.name.to_ascii_lowercase()),
        Reply::Integer(row.arity.into()),
        Reply::List(flags.collect()),
        Reply::Integer(row.keys.first.into()),
        Reply::Integer(row.keys.last.into()),
        Reply::Integer(row.keys.step.into()),
    ])
}

fn command_docs(rows: impl Iterator<Item = &'static Row>) -> Response {
    let doc = |row: &'static Row| {
        let fields = [("summary", row.help()), ("group", "raftline".into())];
        let fields = fields
            .into_iter()
            .flat_map(|(name, value)| [text(name.into()), text(value)]);
        (row.name.to_ascii_lowercase(), Reply::List(fields.collect()))
    };
    Response::Map(rows.map(doc).collect())
}

fn text(text: String) -> Reply {
    Reply::Value(Bytes::from(text))
}
