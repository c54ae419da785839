//! COMMAND: the table itself, for programs.

use bytes::Bytes;

use crate::base::glob::Glob;
use crate::client::reply::{Response, value};
use crate::kv::{Error, Reply};

use super::syntax::arguments;
use super::{
    Action, Args, Flag, Keys, Row, Under, err, find, group, help_of, leases, node, once, parse, rows, server,
};

pub(super) const ROW: Row = Row {
    name: "COMMAND",
    arity: -1,
    flags: &[Flag::Connection],
    keys: Keys::NONE,
    parse: command,
    syntax: "[COUNT|LIST|INFO [name …]|DOCS [name …]|GETKEYS command …|HELP]",
    summary: "this table, for programs",
};

/// The commands under COMMAND.
pub(super) const UNDER: &[Under] = &[
    Under("COUNT", "", "how many commands there are"),
    Under("LIST", "[FILTERBY ACLCAT|PATTERN|MODULE filter]", "their names"),
    Under(
        "INFO",
        "[name …]",
        "arity, flags and keys of these commands, or of all",
    ),
    Under("DOCS", "[name …]", "what these commands do, or all"),
    Under("GETKEYS", "command …", "the keys in a command"),
    Under("HELP", "", "this list"),
];

/// The categories of permission, as Redis names them.
const CATEGORIES: [&str; 9] = [
    "read",
    "write",
    "keyspace",
    "string",
    "admin",
    "dangerous",
    "fast",
    "slow",
    "connection",
];

fn shown() -> impl Iterator<Item = &'static Row> {
    rows().filter(|row| row.is_built())
}

fn command(args: &Args<'_>) -> Result<Action, Error> {
    let response = match args.bytes(1).to_ascii_uppercase().as_slice() {
        _ if args.len() == 1 => Response::List(shown().map(info).collect()),
        b"COUNT" => {
            args.expect_len(2)?;
            Reply::Integer(shown().count() as i64).into()
        }
        b"LIST" => list(args)?,
        b"INFO" if args.len() == 2 => Response::List(shown().map(info).collect()),
        b"INFO" => {
            let asked = |at| find(args.bytes(at)).map_or(Reply::Nil.into(), info);
            Response::List((2..args.len()).map(asked).collect())
        }
        b"DOCS" if args.len() == 2 => Response::Map(shown().map(docs).collect()),
        b"DOCS" => {
            let asked = (2..args.len()).filter_map(|at| find(args.bytes(at)));
            Response::Map(asked.filter(|row| row.is_built()).map(docs).collect())
        }
        b"GETKEYS" if args.len() < 3 => return Err(args.wrong_number_under()),
        b"GETKEYS" => keys(&args.rest(2))?,
        b"HELP" => help_of("COMMAND", UNDER),
        _ => return Err(args.unknown_under()),
    };
    Ok(Action::Answer(response))
}

fn list(args: &Args<'_>) -> Result<Response, Error> {
    let names = |is_listed: &dyn Fn(&Row) -> bool| {
        let listed = shown().filter(|row| is_listed(row));
        Response::words(listed.map(|row| row.name.to_ascii_lowercase()))
    };
    if args.len() == 2 {
        return Ok(names(&|_| true));
    }
    if args.len() != 5 || !args.is(2, "FILTERBY") {
        return Err(err("syntax error"));
    }
    match args.bytes(3).to_ascii_uppercase().as_slice() {
        b"MODULE" => Ok(names(&|_| false)),
        b"ACLCAT" => {
            let category = args.text(4).to_ascii_lowercase();
            Ok(names(&|row| categories(row).any(|of_row| of_row == category)))
        }
        b"PATTERN" => {
            let glob = Glob::new(&args.bytes(4).to_ascii_lowercase());
            Ok(names(&|row| {
                glob.matches(row.name.to_ascii_lowercase().as_bytes())
            }))
        }
        _ => Err(err("syntax error")),
    }
}

/// The keys in a command, which is checked as if it were to be done.
fn keys(words: &[Bytes]) -> Result<Response, Error> {
    let name = words.first().map(Bytes::as_ref).unwrap_or_default();
    let Some(row) = find(name) else {
        return Err(err("Invalid command specified"));
    };
    if row.keys.step == 0 {
        return Err(err("The command has no key arguments"));
    }
    if !row.takes(words.len()) {
        return Err(err("Invalid number of arguments specified for command"));
    }
    parse(words)?;
    let keys = row.keys.places(words.len()).filter_map(|at| words.get(at));
    Ok(Reply::List(keys.cloned().map(Reply::Value).collect()).into())
}

/// Redis's ten: name, arity, flags, first key, last key, step, categories, tips, key specifications, subcommands.
fn info(row: &'static Row) -> Response {
    let words = |words: Vec<String>| Response::Set(words.into_iter().map(word).collect());
    let flags = row.flags.iter().filter_map(|flag| match flag {
        Flag::Write => Some("write"),
        Flag::Read => Some("readonly"),
        Flag::Admin => Some("admin"),
        Flag::Fast => Some("fast"),
        Flag::Connection => None,
    });
    let integer = |number: i32| Reply::Integer(number.into()).into();
    let under = under(row.name).iter().map(|under| info_under(row, under));
    Response::List(vec![
        value(row.name.to_ascii_lowercase()).into(),
        integer(row.arity),
        words(flags.map(String::from).collect()),
        integer(row.keys.first),
        integer(row.keys.last),
        integer(row.keys.step),
        words(categories(row).map(|category| format!("@{category}")).collect()),
        Response::Set(vec![]),
        Response::Set(key_spec(row).into_iter().collect()),
        Response::List(under.collect()),
    ])
}

/// The same for a command under a command; of its words no more is known than that it has them.
fn info_under(row: &Row, under: &Under) -> Response {
    let Under(name, syntax, _) = under;
    let name = format!("{}|{}", row.name, name).to_ascii_lowercase();
    let arity = if syntax.is_empty() { 2 } else { -2 };
    let integer = |number: i64| Response::from(Reply::Integer(number));
    let categories = categories(row).map(|category| word(format!("@{category}")));
    Response::List(vec![
        value(name).into(),
        integer(arity),
        Response::Set(vec![]),
        integer(0),
        integer(0),
        integer(0),
        Response::Set(categories.collect()),
        Response::Set(vec![]),
        Response::Set(vec![]),
        Response::List(vec![]),
    ])
}

/// Where the keys are, as Redis 7 says it: an index where they begin, and how they go on.
fn key_spec(row: &Row) -> Option<Response> {
    let keys = row.keys;
    if keys.step == 0 {
        return None;
    }
    let integer = |number: i32| Response::from(Reply::Integer(number.into()));
    let last = if keys.last < 0 {
        keys.last
    } else {
        keys.last - keys.first
    };
    let access = if row.flags.contains(&Flag::Write) {
        "RW"
    } else {
        "RO"
    };
    let begin = Response::map([
        ("type", value("index").into()),
        ("spec", Response::map([("index", integer(keys.first))])),
    ]);
    let range = [
        ("lastkey", integer(last)),
        ("keystep", integer(keys.step)),
        ("limit", integer(0)),
    ];
    let find = Response::map([("type", value("range").into()), ("spec", Response::map(range))]);
    Some(Response::map([
        ("flags", Response::Set(vec![word(access.into())])),
        ("begin_search", begin),
        ("find_keys", find),
    ]))
}

fn word(text: String) -> Response {
    Reply::Text(text.into()).into()
}

/// A command's name and what is to be said of it.
fn docs(row: &'static Row) -> (String, Response) {
    let mut fields: Vec<(&'static str, Response)> = vec![
        ("summary", value(row.summary).into()),
        ("since", value(SINCE).into()),
        ("group", value(group(row)).into()),
        ("syntax", value(row.syntax).into()),
        ("arguments", arguments(row.syntax)),
    ];
    let under = under(row.name);
    if !under.is_empty() {
        let docs = under.iter().map(|under| docs_under(row, under));
        fields.push(("subcommands", Response::Map(docs.collect())));
    }
    (row.name.to_ascii_lowercase(), Response::map(fields))
}

fn docs_under(row: &Row, under: &Under) -> (String, Response) {
    let Under(name, syntax, summary) = under;
    let fields: [(&'static str, Response); 5] = [
        ("summary", value(*summary).into()),
        ("since", value(SINCE).into()),
        ("group", value(group(row)).into()),
        ("syntax", value(*syntax).into()),
        ("arguments", arguments(syntax)),
    ];
    let name = format!("{}|{}", row.name, name).to_ascii_lowercase();
    (name, Response::map(fields))
}

/// The version of raftline that this table belongs to.
const SINCE: &str = env!("CARGO_PKG_VERSION");

/// What stands under a command.
pub(super) fn under(name: &str) -> &'static [Under] {
    match name {
        "CLIENT" => super::client::UNDER,
        "COMMAND" => UNDER,
        "LEASE" => leases::UNDER,
        "RAFT" => node::RAFT_UNDER,
        "SESSION" => once::UNDER,
        _ => server::under(name).unwrap_or_default(),
    }
}

/// The categories of permission that a command belongs to.
pub(super) fn categories(row: &Row) -> impl Iterator<Item = &'static str> {
    let has = |flag| row.flags.contains(&flag);
    let belongs = [
        has(Flag::Read),
        has(Flag::Write),
        group(row) == "generic",
        group(row) == "string",
        has(Flag::Admin),
        has(Flag::Admin) || row.name == "KEYS" || row.name.starts_with("FLUSH"),
        has(Flag::Fast),
        !has(Flag::Fast),
        has(Flag::Connection),
    ];
    CATEGORIES
        .into_iter()
        .zip(belongs)
        .filter(|(_, belongs)| *belongs)
        .map(|(name, _)| name)
}

/// ACL CAT: all categories, or the commands of one.
///
/// # Errors
/// There is no such category.
pub(super) fn category(name: Option<&str>) -> Result<Response, Error> {
    let Some(name) = name else {
        return Ok(Response::words(CATEGORIES));
    };
    if !CATEGORIES.contains(&name) {
        return Err(err(format!("Unknown category '{name}'")));
    }
    let members = shown().filter(|row| categories(row).any(|of_row| of_row == name));
    Ok(Response::words(members.map(|row| row.name.to_ascii_lowercase())))
}
