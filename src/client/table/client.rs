//! CLIENT: the connections of this node, and what clients say of themselves.

use crate::client::administration::Administration;
use crate::client::registry::Filter;
use crate::kv::{Error, Reply};

use super::connection::{client_text, connection};
use super::{Action, Args, ConnectionAction, Flag, Keys, LibraryField, Row, Under, answer, err, help_of};

pub(super) const ROW: Row = Row {
    name: "CLIENT",
    arity: -2,
    flags: &[Flag::Connection],
    keys: Keys::NONE,
    parse: client,
    syntax: "ID|INFO|LIST|KILL|GETNAME|SETNAME|SETINFO|REPLY|NO-EVICT|NO-TOUCH|HELP",
    summary: "the connections of this node, and what this one says of itself",
};

/// The commands under CLIENT.
pub(super) const UNDER: &[Under] = &[
    Under("ID", "", "the number of this connection"),
    Under("INFO", "", "what the node knows of this connection"),
    Under(
        "LIST",
        "[TYPE normal|master|replica|pubsub] [ID id …]",
        "a line for each connection of this node",
    ),
    Under(
        "KILL",
        "address | [ID id] [ADDR address] [LADDR address] [TYPE type] [USER user] [MAXAGE s] [SKIPME YES|NO]",
        "closes connections; how many, or +OK for an address alone",
    ),
    Under("GETNAME", "", "the name of this connection"),
    Under(
        "SETNAME",
        "name",
        "gives this connection a name, for CLIENT LIST and SLOWLOG",
    ),
    Under(
        "SETINFO",
        "LIB-NAME|LIB-VER value",
        "what a client library says of itself",
    ),
    Under(
        "REPLY",
        "ON|OFF|SKIP",
        "whether this connection gets replies; SKIP: not to the next command",
    ),
    Under(
        "NO-EVICT",
        "ON|OFF",
        "+OK: no connection is closed to save memory",
    ),
    Under("NO-TOUCH", "ON|OFF", "+OK: no time of access is kept"),
    Under("UNBLOCK", "id", "0: no command blocks a connection"),
    Under("UNPAUSE", "", "+OK: connections are never paused"),
    Under("GETREDIR", "", "-1: nothing is tracked"),
    Under("HELP", "", "this list"),
];

fn client(args: &Args<'_>) -> Result<Action, Error> {
    let under = args.bytes(1).to_ascii_uppercase();
    args.expect_len(match under.as_slice() {
        b"ID" | b"INFO" | b"GETNAME" | b"UNPAUSE" | b"GETREDIR" | b"HELP" => 2,
        b"SETNAME" | b"NO-EVICT" | b"NO-TOUCH" | b"REPLY" => 3,
        b"SETINFO" => 4,
        _ => args.len(),
    })?;
    match under.as_slice() {
        b"ID" => connection(ConnectionAction::Id),
        b"INFO" => connection(ConnectionAction::Info),
        b"GETNAME" => connection(ConnectionAction::Name),
        b"SETNAME" => connection(ConnectionAction::SetName(client_text(args, 2, "names")?)),
        b"SETINFO" => set_info(args),
        b"LIST" => list(args),
        b"KILL" if args.len() < 3 => Err(args.wrong_number_under()),
        b"KILL" => kill(args),
        b"REPLY" => match args.bytes(2).to_ascii_uppercase().as_slice() {
            b"ON" => connection(ConnectionAction::Replies(true)),
            b"OFF" => connection(ConnectionAction::Replies(false)),
            b"SKIP" => connection(ConnectionAction::SkipReply),
            _ => Err(err("syntax error")),
        },
        // Nothing is ever evicted here, and no time of access is kept, so both are as wished.
        b"NO-EVICT" | b"NO-TOUCH" if args.is(2, "ON") || args.is(2, "OFF") => answer(Reply::Ok),
        b"NO-EVICT" | b"NO-TOUCH" => Err(err("syntax error")),
        b"UNPAUSE" => answer(Reply::Ok),
        b"GETREDIR" => answer(Reply::Integer(-1)),
        b"UNBLOCK" if args.len() < 3 => Err(args.wrong_number_under()),
        b"UNBLOCK" => args.integer(2).and_then(|_| answer(Reply::Integer(0))),
        b"HELP" => Ok(Action::Answer(help_of("CLIENT", UNDER))),
        b"TRACKING" | b"CACHING" | b"TRACKINGINFO" => Err(err(
            "client-side caching is not there: FEED tells of every change of a key",
        )),
        b"PAUSE" => Err(err("connections can't be paused here; nothing was done")),
        _ => Err(args.unknown_under()),
    }
}

fn set_info(args: &Args<'_>) -> Result<Action, Error> {
    let field = match args.bytes(2).to_ascii_uppercase().as_slice() {
        b"LIB-NAME" => LibraryField::Name,
        b"LIB-VER" => LibraryField::Version,
        _ => return Err(err(format!("Unrecognized option '{}'", args.shown(2)))),
    };
    let text = client_text(args, 3, "attributes")?;
    connection(ConnectionAction::SetLibrary(field, text))
}

fn list(args: &Args<'_>) -> Result<Action, Error> {
    let mut filter = Filter::default();
    let mut at = 2;
    while at < args.len() {
        if args.is(at, "TYPE") && at + 1 < args.len() {
            filter.nobody |= !is_normal(args, at + 1)?;
            at += 2;
        } else if args.is(at, "ID") && at + 1 < args.len() {
            let ids = (at + 1..args.len()).map(|at| id(args, at));
            filter.ids = Some(ids.collect::<Result<_, _>>()?);
            at = args.len();
        } else {
            return Err(err("syntax error"));
        }
    }
    Ok(Action::Administer(Administration::ListClients(filter)))
}

/// In the old form an address alone, else words and values in turn.
fn kill(args: &Args<'_>) -> Result<Action, Error> {
    if args.len() == 3 {
        return Ok(Action::Administer(Administration::KillClient(args.text(2))));
    }
    let mut filter = Filter::default();
    let mut skip_me = true;
    for at in (2..args.len()).step_by(2) {
        if at + 1 == args.len() {
            return Err(err("syntax error"));
        }
        match args.bytes(at).to_ascii_uppercase().as_slice() {
            b"ID" => filter.ids = Some(vec![id(args, at + 1)?]),
            b"ADDR" => filter.address = Some(args.text(at + 1)),
            b"LADDR" => filter.local_address = Some(args.text(at + 1)),
            b"TYPE" => filter.nobody |= !is_normal(args, at + 1)?,
            b"USER" => filter.nobody |= args.bytes(at + 1) != b"default",
            b"MAXAGE" => {
                let age = args.integer(at + 1)?;
                filter.age_min_s = Some(
                    age.try_into()
                        .map_err(|_| err("MAXAGE is not a positive number"))?,
                );
            }
            b"SKIPME" if args.is(at + 1, "YES") => skip_me = true,
            b"SKIPME" if args.is(at + 1, "NO") => skip_me = false,
            _ => return Err(err("syntax error")),
        }
    }
    Ok(Action::Administer(Administration::KillClients {
        filter,
        skip_me,
    }))
}

/// Whether this is the type that every client here has; the others exist for Redis alone.
fn is_normal(args: &Args<'_>, at: usize) -> Result<bool, Error> {
    match args.bytes(at).to_ascii_lowercase().as_slice() {
        b"normal" => Ok(true),
        b"master" | b"slave" | b"replica" | b"pubsub" => Ok(false),
        _ => Err(err(format!("Unknown client type '{}'", args.shown(at)))),
    }
}

fn id(args: &Args<'_>, at: usize) -> Result<u64, Error> {
    let id = args.integer(at).ok().and_then(|id| u64::try_from(id).ok());
    id.filter(|id| *id > 0)
        .ok_or_else(|| err("client-id should be greater than 0"))
}
