//! Commands about the node and its cluster.

use std::iter::once;

use bytes::Bytes;

use crate::base::address::{is_address, is_unspecified};
use crate::kv::{Error, Reply};
use crate::node::{MembershipChange, Operation};
use crate::raft::{Addresses, NodeId};

use super::{
    Action, Args, Flag, Keys, Page, Row, Under, answer, command, err, find, help_of, help_under, rows,
};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "HELP",
        arity: -1,
        flags: &[Flag::Fast],
        keys: Keys::NONE,
        parse: help,
        syntax: "[command]",
        summary: "this list, or one command of it",
    },
    Row {
        name: "STATUS",
        arity: 1,
        flags: &[Flag::Fast],
        keys: Keys::NONE,
        parse: |_| Ok(Action::Page(Page::Status)),
        syntax: "",
        summary: "this node and its cluster, what is wrong and what to do about it",
    },
    Row {
        name: "INFO",
        arity: -1,
        flags: &[Flag::Fast],
        keys: Keys::NONE,
        parse: |args| {
            let sections = (1..args.len()).map(|at| args.text(at).to_ascii_lowercase());
            Ok(Action::Page(Page::Info(sections.collect())))
        },
        syntax: "[section …]",
        summary: "figures of this node, named as Redis names them",
    },
    Row {
        name: "RAFT",
        arity: -2,
        flags: &[Flag::Admin],
        keys: Keys::NONE,
        parse: raft,
        syntax: "STATUS|MEMBERS|ADD|PROMOTE|REMOVE|TRANSFER|SNAPSHOT|VERIFY|REBUILD|HELP",
        summary: "the consensus underneath: its status, its members and their changes",
    },
];

/// The commands under RAFT.
pub(super) const RAFT_UNDER: &[Under] = &[
    Under(
        "STATUS",
        "",
        "this node's picture of itself and the cluster, one JSON object",
    ),
    Under(
        "MEMBERS",
        "",
        "a list per member: id, role, peer address, client address, match index (_ but on the leader)",
    ),
    Under(
        "ADD",
        "id peer client [VOTER]",
        "takes a node in, or back with an empty data folder; +OK when that is committed; it is a learner until it \
         has caught up, and with VOTER +OK waits for that, at least 60 s",
    ),
    Under(
        "PROMOTE",
        "id",
        "makes a learner that has caught up a voter, which also comes by itself; +OK when committed",
    ),
    Under(
        "REMOVE",
        "id",
        "takes a node out; +OK when committed; a leader hands over then",
    ),
    Under(
        "VERIFY",
        "",
        "compares the state of all nodes at one index; +OK when all are the same, else who differs",
    ),
    Under(
        "REBUILD",
        "",
        "on this node: marks its data to be fetched anew and ends it; started again, it fetches all from the others",
    ),
    Under(
        "TRANSFER",
        "[id]",
        "hands leadership to this voter, or to the most up-to-date one; +OK when done",
    ),
    Under(
        "SNAPSHOT",
        "",
        "this node writes a snapshot of its state now and drops the log behind it; +OK when done",
    ),
    Under("HELP", "", "this list"),
];

fn raft(args: &Args<'_>) -> Result<Action, Error> {
    match args.bytes(1).to_ascii_uppercase().as_slice() {
        b"STATUS" => args.expect_len(2).map(|()| Action::Page(Page::Json)),
        b"MEMBERS" => args.expect_len(2).map(|()| Action::Page(Page::Members)),
        b"HELP" => args
            .expect_len(2)
            .map(|()| Action::Answer(help_of("RAFT", RAFT_UNDER))),
        b"TRANSFER" if args.len() == 2 => Ok(Action::Operate(Operation::Transfer(None))),
        b"TRANSFER" => Ok(Action::Operate(Operation::Transfer(Some(only_id(args)?)))),
        b"ADD" => add(args),
        b"PROMOTE" => Ok(change(MembershipChange::Promote(only_id(args)?))),
        b"REMOVE" => Ok(change(MembershipChange::Remove(only_id(args)?))),
        b"VERIFY" => args.expect_len(2).map(|()| Action::Operate(Operation::Verify)),
        b"REBUILD" => args.expect_len(2).map(|()| Action::Operate(Operation::Rebuild)),
        b"SNAPSHOT" => args.expect_len(2).map(|()| Action::Operate(Operation::Snapshot)),
        _ => Err(args.unknown_under()),
    }
}

fn change(change: MembershipChange) -> Action {
    Action::Operate(Operation::Change(change))
}

/// RAFT ADD id peer client [VOTER].
fn add(args: &Args<'_>) -> Result<Action, Error> {
    if args.len() < 5 {
        return Err(args.wrong_number_under());
    }
    let voter = args.len() > 5;
    if voter && !(args.len() == 6 && args.is(5, "VOTER")) {
        let text = "syntax error: usage: RAFT ADD id peer client [VOTER]";
        return Err(err(text));
    }
    let id = id(args)?;
    let (peer, client) = (address(args, 3)?, address(args, 4)?);
    if peer == client {
        return Err(err(
            "the peer port and the client port are two, with two addresses",
        ));
    }
    let addresses = Addresses { peer, client };
    Ok(change(MembershipChange::Add { id, addresses, voter }))
}

/// The number of a node, and no word after it.
fn only_id(args: &Args<'_>) -> Result<NodeId, Error> {
    args.expect_len(3)?;
    id(args)
}

fn id(args: &Args<'_>) -> Result<NodeId, Error> {
    match u64::try_from(args.integer(2)?) {
        Ok(id) if id > 0 => Ok(NodeId(id)),
        _ => Err(err("a node's id is a number from 1 on, see RAFT MEMBERS")),
    }
}

/// Where others reach a node.
fn address(args: &Args<'_>, at: usize) -> Result<String, Error> {
    let text = args.text(at);
    if !is_address(&text, 1) || is_unspecified(&text) {
        return Err(err(format!(
            "'{}' is not HOST:PORT where others reach the node",
            args.shown(at)
        )));
    }
    Ok(text)
}

fn help(args: &Args<'_>) -> Result<Action, Error> {
    if args.len() == 1 {
        let lines = rows().filter(|row| row.is_built()).map(|row| line(row.help()));
        return answer(Reply::List(lines.collect()));
    }
    let Some(row) = find(args.bytes(1)).filter(|row| row.is_built()) else {
        return Err(err(format!(
            "there is no command '{}'; HELP lists all",
            args.shown(1)
        )));
    };
    let lines = once(row.help()).chain(help_under(row.name, command::under(row.name)));
    answer(Reply::List(lines.map(line).collect()))
}

fn line(text: String) -> Reply {
    Reply::Value(Bytes::from(text))
}
