//! Commands about the process: what operators and the tools written for Redis ask of a server.

use crate::client::administration::Administration;
use crate::client::reply::{Response, value};
use crate::kv::{Error, Query, Reply};
use crate::node::Operation;

use super::{Action, Args, Flag, Keys, Page, Row, Under, acl, answer, err, help_of};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "CONFIG",
        arity: -2,
        flags: &[Flag::Admin],
        keys: Keys::NONE,
        parse: config,
        syntax: "GET|SET|RESETSTAT|HELP",
        summary: "settings by Redis's names; the configuration itself is a file",
    },
    Row {
        name: "ROLE",
        arity: 1,
        flags: &[Flag::Fast],
        keys: Keys::NONE,
        parse: |_| Ok(Action::Page(Page::Role)),
        syntax: "",
        summary: "master, commit index and followers; or slave, the leader's address, its state, commit index",
    },
    Row {
        name: "WAIT",
        arity: 3,
        flags: &[Flag::Connection],
        keys: Keys::NONE,
        parse: |args| match (args.integer(1), args.integer(2)) {
            (Ok(_), Ok(ms)) if ms < 0 => Err(err("timeout is negative")),
            (count, ms) => count.and(ms).map(|_| Action::Page(Page::Wait)),
        },
        syntax: "count ms",
        summary: "on how many other nodes all answered writes surely are; at once: a majority always has them",
    },
    Row {
        name: "SLOWLOG",
        arity: -2,
        flags: &[Flag::Admin],
        keys: Keys::NONE,
        parse: slowlog,
        syntax: "GET|LEN|RESET|HELP",
        summary: "the last commands that took longer than CONFIG slowlog-log-slower-than",
    },
    Row {
        name: "LATENCY",
        arity: -2,
        flags: &[Flag::Admin],
        keys: Keys::NONE,
        parse: latency,
        syntax: "HISTOGRAM|LATEST|HISTORY|RESET|DOCTOR|HELP",
        summary: "how long commands take, from their words to their answer",
    },
    Row {
        name: "MEMORY",
        arity: -2,
        flags: &[Flag::Read],
        keys: Keys::NONE,
        parse: memory,
        syntax: "USAGE|STATS|DOCTOR|HELP",
        summary: "what keys take in memory",
    },
    Row {
        name: "OBJECT",
        arity: -2,
        flags: &[Flag::Read],
        keys: Keys::NONE,
        parse: object,
        syntax: "ENCODING|REFCOUNT|IDLETIME|FREQ|HELP",
        summary: "how a value is kept: as it came",
    },
    Row {
        name: "MODULE",
        arity: -2,
        flags: &[Flag::Admin],
        keys: Keys::NONE,
        parse: |args| match args.is(1, "LIST") {
            true => answer(Reply::List(vec![])),
            false => Err(err("modules can't be loaded; MODULE LIST is empty")),
        },
        syntax: "LIST",
        summary: "an empty list",
    },
    Row {
        name: "BGSAVE",
        arity: -1,
        flags: &[Flag::Admin],
        keys: Keys::NONE,
        parse: |args| match args.len() == 1 || (args.len() == 2 && args.is(1, "SCHEDULE")) {
            true => Ok(Action::Administer(Administration::SaveInBackground)),
            false => Err(args.syntax(1)),
        },
        syntax: "[SCHEDULE]",
        summary: "begins a snapshot on this node, as RAFT SNAPSHOT does, without waiting for its end",
    },
    Row {
        name: "SAVE",
        arity: 1,
        flags: &[Flag::Admin],
        keys: Keys::NONE,
        parse: |_| Ok(Action::Operate(Operation::Snapshot)),
        syntax: "",
        summary: "RAFT SNAPSHOT: this node writes a snapshot now; +OK when done",
    },
    Row {
        name: "LASTSAVE",
        arity: 1,
        flags: &[Flag::Admin, Flag::Fast],
        keys: Keys::NONE,
        parse: |_| Ok(Action::Page(Page::LastSave)),
        syntax: "",
        summary: "when this node's newest snapshot was written, in seconds since 1970; 0 without one",
    },
    Row {
        name: "ACL",
        arity: -2,
        flags: &[Flag::Admin],
        keys: Keys::NONE,
        parse: acl::acl,
        syntax: "WHOAMI|LIST|USERS|CAT|HELP",
        summary: "users and permissions",
    },
    Row {
        name: "CLUSTER",
        arity: -2,
        flags: &[Flag::Admin],
        keys: Keys::NONE,
        parse: |_| Err(err("This instance has cluster support disabled")),
        syntax: "INFO|NODES|SLOTS|…",
        summary: "an error: there are no slots, every node takes every key; see RAFT MEMBERS",
    },
    Row {
        name: "DEBUG",
        arity: -2,
        flags: &[Flag::Admin],
        keys: Keys::NONE,
        parse: |_| {
            Err(err(
                "DEBUG command not allowed. raftline has none; see STATUS and RAFT STATUS",
            ))
        },
        syntax: "…",
        summary: "an error: STATUS and RAFT STATUS tell about a node",
    },
    Row {
        name: "SHUTDOWN",
        arity: -1,
        flags: &[Flag::Admin],
        keys: Keys::NONE,
        parse: |_| {
            Err(err(
                "a node is not stopped by a client: send its process SIGTERM, or systemctl stop; nothing was done",
            ))
        },
        syntax: "",
        summary: "an error: a node is stopped by SIGTERM, or systemctl stop",
    },
];

const CONFIG: &[Under] = &[
    Under("GET", "pattern …", "the settings whose names match"),
    Under(
        "SET",
        "name value …",
        "changes settings until the node stops: maxclients, timeout, slowlog-…",
    ),
    Under("RESETSTAT", "", "the figures of INFO begin at 0 again"),
    Under("HELP", "", "this list"),
];

const SLOWLOG: &[Under] = &[
    Under(
        "GET",
        "[count]",
        "id, time, microseconds, words, client, its name; the newest first, 10, -1 for all",
    ),
    Under("LEN", "", "how many are kept"),
    Under("RESET", "", "forgets them"),
    Under("HELP", "", "this list"),
];

const LATENCY: &[Under] = &[
    Under(
        "HISTOGRAM",
        "[command …]",
        "calls, and how many took at most so many microseconds",
    ),
    Under(
        "LATEST",
        "",
        "an empty list: no events are watched, see HISTOGRAM and SLOWLOG",
    ),
    Under("HISTORY", "event", "an empty list"),
    Under("RESET", "[event …]", "0"),
    Under("DOCTOR", "", "where to look"),
    Under("HELP", "", "this list"),
];

const MEMORY: &[Under] = &[
    Under(
        "USAGE",
        "key [SAMPLES count]",
        "about how many bytes the key takes, _ if absent",
    ),
    Under("STATS", "", "figures of this node's memory"),
    Under("DOCTOR", "", "where to look"),
    Under("HELP", "", "this list"),
];

const OBJECT: &[Under] = &[
    Under("ENCODING", "key", "raw, or _ if absent"),
    Under("REFCOUNT", "key", "1, or _ if absent"),
    Under("IDLETIME", "key", "an error: it is not kept"),
    Under("FREQ", "key", "an error: it is not kept"),
    Under("HELP", "", "this list"),
];

/// The commands under one of these.
pub(super) fn under(name: &str) -> Option<&'static [Under]> {
    Some(match name {
        "CONFIG" => CONFIG,
        "SLOWLOG" => SLOWLOG,
        "LATENCY" => LATENCY,
        "MEMORY" => MEMORY,
        "OBJECT" => OBJECT,
        "ACL" => acl::UNDER,
        _ => return None,
    })
}

fn administer(asked: Administration) -> Result<Action, Error> {
    Ok(Action::Administer(asked))
}

fn helped(name: &str, under: &'static [Under]) -> Result<Action, Error> {
    Ok(Action::Answer(help_of(name, under)))
}

fn config(args: &Args<'_>) -> Result<Action, Error> {
    match args.bytes(1).to_ascii_uppercase().as_slice() {
        b"GET" if args.len() < 3 => Err(args.wrong_number_under()),
        b"GET" => {
            let patterns = (2..args.len()).map(|at| args.bytes(at).to_ascii_lowercase());
            administer(Administration::ConfigGet(patterns.collect()))
        }
        b"SET" if args.len() < 4 || args.len() % 2 == 1 => Err(args.wrong_number_under()),
        b"SET" => {
            let pairs = (2..args.len()).step_by(2);
            let pairs = pairs.map(|at| (args.shown(at).to_ascii_lowercase(), args.text(at + 1)));
            administer(Administration::ConfigSet(pairs.collect()))
        }
        b"RESETSTAT" => args
            .expect_len(2)
            .and_then(|()| administer(Administration::ResetStat)),
        b"REWRITE" => Err(err(
            "the configuration file belongs to you: a node never writes it; nothing was done",
        )),
        b"HELP" => helped("CONFIG", CONFIG),
        _ => Err(args.unknown_under()),
    }
}

fn slowlog(args: &Args<'_>) -> Result<Action, Error> {
    match args.bytes(1).to_ascii_uppercase().as_slice() {
        b"GET" if args.len() > 3 => Err(args.wrong_number_under()),
        b"GET" => {
            let count = if args.len() == 3 { args.integer(2)? } else { 10 };
            if count < -1 {
                return Err(err("count should be greater than or equal to -1"));
            }
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            administer(Administration::SlowlogGet(count))
        }
        b"LEN" => args
            .expect_len(2)
            .and_then(|()| administer(Administration::SlowlogLen)),
        b"RESET" => args
            .expect_len(2)
            .and_then(|()| administer(Administration::SlowlogReset)),
        b"HELP" => helped("SLOWLOG", SLOWLOG),
        _ => Err(args.unknown_under()),
    }
}

fn latency(args: &Args<'_>) -> Result<Action, Error> {
    match args.bytes(1).to_ascii_uppercase().as_slice() {
        b"HISTOGRAM" => {
            let names = (2..args.len()).map(|at| args.text(at).to_ascii_lowercase());
            administer(Administration::LatencyHistogram(names.collect()))
        }
        b"LATEST" => args.expect_len(2).and_then(|()| answer(Reply::List(vec![]))),
        b"HISTORY" => args.expect_len(3).and_then(|()| answer(Reply::List(vec![]))),
        b"RESET" => answer(Reply::Integer(0)),
        b"DOCTOR" => {
            let text = "Events of latency are not watched here. LATENCY HISTOGRAM has the times of every command, \
                        SLOWLOG GET the slow ones, STATUS what is wrong with the node.";
            Ok(Action::Answer(Response::Lines(vec![text.into()])))
        }
        b"HELP" => helped("LATENCY", LATENCY),
        _ => Err(args.unknown_under()),
    }
}

/// What a key takes beside its bytes, about: its node in the map, its record, the headers of two allocations.
const KEY_OVERHEAD_BYTES: usize = 112;

fn memory(args: &Args<'_>) -> Result<Action, Error> {
    match args.bytes(1).to_ascii_uppercase().as_slice() {
        b"USAGE" if args.len() == 5 && args.is(3, "SAMPLES") => {
            args.integer(4)?;
            usage(args)
        }
        b"USAGE" if args.len() == 3 => usage(args),
        b"USAGE" => Err(args.wrong_number_under()),
        b"STATS" => args.expect_len(2).map(|()| Action::Page(Page::MemoryStats)),
        b"DOCTOR" => {
            let text = "The keys and values of all nodes are in memory: INFO memory has their size, limits.max_memory \
                        bounds it.";
            Ok(Action::Answer(Response::Lines(vec![text.into()])))
        }
        b"HELP" => helped("MEMORY", MEMORY),
        _ => Err(args.unknown_under()),
    }
}

fn usage(args: &Args<'_>) -> Result<Action, Error> {
    of_value(args, |key, value| {
        Reply::Integer((KEY_OVERHEAD_BYTES + key.len() + value.len()) as i64)
    })
}

fn object(args: &Args<'_>) -> Result<Action, Error> {
    let under = args.bytes(1).to_ascii_uppercase();
    if under.as_slice() == b"HELP" {
        return helped("OBJECT", OBJECT);
    }
    args.expect_len(3)?;
    match under.as_slice() {
        b"ENCODING" => of_value(args, |_, _| value("raw")),
        b"REFCOUNT" => of_value(args, |_, _| Reply::Integer(1)),
        b"IDLETIME" => Err(err(
            "An LRU maxmemory policy is not selected, idle time not tracked.",
        )),
        b"FREQ" => Err(err(
            "An LFU maxmemory policy is not selected, access frequency not tracked.",
        )),
        _ => Err(args.unknown_under()),
    }
}

/// What is made of the value of the key that is the third word; nothing if there is none.
fn of_value(args: &Args<'_>, derive: fn(&[u8], &[u8]) -> Reply) -> Result<Action, Error> {
    args.check_key(2)?;
    Ok(Action::OfValue(Query::Get(args.word(2)), args.word(2), derive))
}
