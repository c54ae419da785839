//! Answers made of the node's status: STATUS for people, RAFT MEMBERS, ROLE and their like for programs. INFO is in
//! `info`.

use std::fmt::Write;

use bytes::Bytes;

use crate::kv::Reply;
use crate::node::{Member, Role, Status};

use super::Service;
use super::info::{Memory, info};
use super::reply::{Response, value};
use super::table::Page;

/// The page's answer.
pub(crate) fn render(page: &Page, status: &Status, service: &Service) -> Response {
    match page {
        Page::Info(sections) => Response::Page(info(sections, status, service)),
        Page::Status => Response::Reply(lines(overview(status, service))),
        Page::Json => Response::Reply(Reply::Value(Bytes::from(status.to_json()))),
        Page::Members => {
            let members = status.members.iter().map(|member| entry(status, member));
            Response::Reply(Reply::List(members.collect()))
        }
        Page::Role => role(status).into(),
        Page::Wait => Reply::Integer(replicas(status)).into(),
        Page::LastSave => Reply::Integer((status.snapshot_ms / 1000) as i64).into(),
        Page::MemoryStats => memory_stats(status, service),
    }
}

/// One member of RAFT MEMBERS: id, role, peer address, client address, match index or nothing.
fn entry(status: &Status, member: &Member) -> Reply {
    let matched = member
        .progress
        .map(|progress| Reply::Integer(progress.match_index.0 as i64));
    Reply::List(vec![
        Reply::Integer(member.id.0 as i64),
        Reply::Text(status.member_role(member).into()),
        Reply::Value(Bytes::from(member.peer.clone())),
        Reply::Value(Bytes::from(member.client.clone())),
        matched.unwrap_or(Reply::Nil),
    ])
}

/// ROLE, as Redis answers it on a master or on a slave.
fn role(status: &Status) -> Reply {
    let offset = Reply::Integer(status.commit.0 as i64);
    if status.role != Role::Leader {
        let (host, port) = leader_address(status);
        let is_known = status.leader.is_some();
        return Reply::List(vec![
            value("slave"),
            value(host),
            Reply::Integer(port.into()),
            value(if is_known { "connected" } else { "connect" }),
            offset,
        ]);
    }
    let others = status.members.iter().filter(|member| member.id != status.node);
    let others = others.map(|member| {
        let (host, port) = split_address(&member.client);
        let matched = member.progress.map_or(0, |progress| progress.match_index.0);
        Reply::List(vec![value(host), value(port), value(matched.to_string())])
    });
    Reply::List(vec![value("master"), offset, Reply::List(others.collect())])
}

/// Host and port of the leader for clients; empty and 0 while none is known.
pub(super) fn leader_address(status: &Status) -> (&str, u16) {
    let leader = status
        .members
        .iter()
        .find(|member| Some(member.id) == status.leader);
    let (host, port) = leader.map_or(("", "0"), |leader| split_address(&leader.client));
    (host, port.parse().unwrap_or(0))
}

fn split_address(address: &str) -> (&str, &str) {
    address.rsplit_once(':').unwrap_or((address, "0"))
}

/// On how many nodes beside the leader everything surely is that was answered before: what the leader knows of each,
/// and elsewhere the rest of a majority.
fn replicas(status: &Status) -> i64 {
    let voters = status.members.iter().filter(|member| member.voter).count();
    if status.role != Role::Leader {
        return (voters / 2) as i64;
    }
    let others = status.members.iter().filter(|member| member.id != status.node);
    let has_all = |member: &&Member| {
        member
            .progress
            .is_some_and(|progress| progress.match_index >= status.commit)
    };
    others.filter(has_all).count().max(voters / 2) as i64
}

/// MEMORY STATS: those of Redis's figures that are known here.
fn memory_stats(status: &Status, service: &Service) -> Response {
    let integer = |number: u64| Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    let per_key = status.bytes.checked_div(status.keys).unwrap_or(0);
    let mut stats = vec![
        ("keys.count", integer(status.keys)),
        ("keys.bytes-per-key", integer(per_key)),
        ("dataset.bytes", integer(status.bytes)),
        ("clients.normal", integer(service.budget.used() as u64)),
    ];
    if let Some(memory) = Memory::of_this_process() {
        stats.push(("resident.bytes", integer(memory.resident_bytes)));
        stats.push(("peak.resident.bytes", integer(memory.peak_bytes)));
    }
    Response::map(stats)
}

fn lines(lines: Vec<String>) -> Reply {
    Reply::List(
        lines
            .into_iter()
            .map(|line| Reply::Value(Bytes::from(line)))
            .collect(),
    )
}

/// One screen about this node and its cluster.
fn overview(status: &Status, service: &Service) -> Vec<String> {
    let leader = match status.leader {
        Some(leader) if leader == status.node => "this node leads".into(),
        Some(leader) => format!("node {leader} leads"),
        None => "no leader is known".into(),
    };
    let counters = service.counters();
    let mut page = vec![
        format!(
            "raftline {} · cluster {} · node {} ({})",
            env!("CARGO_PKG_VERSION"),
            status.cluster,
            status.node,
            status.role.as_str()
        ),
        format!("term {}, {leader}", status.term),
        format!(
            "log: {} to {}, committed {}, applied {}, snapshot {}",
            status.first_index, status.last_index, status.commit, status.applied, status.snapshot_index
        ),
        format!(
            "state: {} keys ({} with expiry), {} bytes, hash {:016x}",
            status.keys, status.expiring_keys, status.bytes, status.state_hash
        ),
        format!(
            "remembered: {} leases, {} sessions, {} tokens",
            status.leases, status.sessions, status.tokens
        ),
        format!(
            "clients: {} connected, {} commands, {} waiting for an answer",
            counters.connections(),
            counters.commands(),
            status.pending
        ),
    ];
    page.extend(status.members.iter().map(|member| member_line(status, member)));
    if status.problems.is_empty() {
        page.push("all is well".into());
    }
    page.extend(
        status
            .problems
            .iter()
            .map(|problem| format!("PROBLEM: {problem}")),
    );
    page
}

fn member_line(status: &Status, member: &Member) -> String {
    let mut line = format!(
        "member {}: {}, clients {}, peers {}",
        member.id,
        status.member_role(member),
        member.client,
        member.peer
    );
    if let Some(progress) = member.progress {
        let behind = status.last_index.0.saturating_sub(progress.match_index.0);
        // Writing to a string cannot fail.
        let _ = write!(
            line,
            ", has {} ({behind} behind), {} in flight",
            progress.match_index, progress.inflight
        );
    }
    line
}
