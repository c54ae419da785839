//! Pages made of the node's status: INFO for programs, STATUS for people, RAFT MEMBERS for both.

use std::fmt::Write;

use bytes::Bytes;

use crate::kv::Reply;
use crate::node::{Member, Role, Status};

use super::Service;
use super::reply::Response;
use super::session::REDIS_VERSION;
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

/// The sections of INFO, in their order: name, title, lines.
type Section = (&'static str, &'static str, fn(&Status, &Service) -> Vec<String>);

const SECTIONS: [Section; 10] = [
    ("server", "Server", server),
    ("clients", "Clients", clients),
    ("memory", "Memory", memory),
    ("persistence", "Persistence", |_, _| vec!["loading:0".into()]),
    ("stats", "Stats", stats),
    ("replication", "Replication", replication),
    ("cluster", "Cluster", |_, _| vec!["cluster_enabled:0".into()]),
    ("raft", "Raft", raft),
    ("errorstats", "Errorstats", |_, service| {
        vec![format!("errorstat_all:count={}", service.counters().errors())]
    }),
    ("keyspace", "Keyspace", keyspace),
];

/// INFO: all sections, or those that were asked for.
fn info(asked: &[String], status: &Status, service: &Service) -> Vec<String> {
    let all = asked.is_empty()
        || asked
            .iter()
            .any(|s| matches!(s.as_str(), "all" | "everything" | "default"));
    let mut page = Vec::new();
    for (name, title, fields) in SECTIONS {
        if all || asked.iter().any(|section| section == name) {
            if !page.is_empty() {
                page.push(String::new());
            }
            page.push(format!("# {title}"));
            page.extend(fields(status, service));
        }
    }
    page
}

fn server(status: &Status, service: &Service) -> Vec<String> {
    let uptime = service.uptime().as_secs();
    vec![
        format!("redis_version:{REDIS_VERSION}"),
        format!("raftline_version:{}", env!("CARGO_PKG_VERSION")),
        "redis_mode:standalone".into(),
        format!("os:{} {}", std::env::consts::OS, std::env::consts::ARCH),
        format!("arch_bits:{}", usize::BITS),
        format!("process_id:{}", std::process::id()),
        format!("run_id:{:024x}{:016x}", status.node.0, status.incarnation),
        format!("tcp_port:{}", service.options().tcp_port),
        format!("uptime_in_seconds:{uptime}"),
        format!("uptime_in_days:{}", uptime / 86400),
    ]
}

fn clients(_: &Status, service: &Service) -> Vec<String> {
    vec![
        format!("connected_clients:{}", service.counters().connections()),
        format!("maxclients:{}", service.options().max_connections),
        "blocked_clients:0".into(),
    ]
}

fn memory(status: &Status, _: &Service) -> Vec<String> {
    vec![
        format!("used_memory:{}", status.bytes),
        format!("used_memory_dataset:{}", status.bytes),
        "maxmemory:0".into(),
        "maxmemory_policy:noeviction".into(),
    ]
}

fn stats(_: &Status, service: &Service) -> Vec<String> {
    let counters = service.counters();
    vec![
        format!("total_connections_received:{}", counters.connections_received()),
        format!("total_commands_processed:{}", counters.commands()),
        format!("rejected_connections:{}", counters.connections_rejected()),
        format!("total_net_input_bytes:{}", counters.bytes_in()),
        format!("total_net_output_bytes:{}", counters.bytes_out()),
        format!("total_error_replies:{}", counters.errors()),
        format!("keyspace_hits:{}", counters.hits()),
        format!("keyspace_misses:{}", counters.misses()),
        "evicted_keys:0".into(),
    ]
}

fn replication(status: &Status, _: &Service) -> Vec<String> {
    let leads = status.role == Role::Leader;
    let others = status.members.iter().filter(|member| member.id != status.node);
    let mut section = vec![format!("role:{}", if leads { "master" } else { "slave" })];
    if leads {
        section.push(format!("connected_slaves:{}", others.count()));
    } else {
        let leader = status
            .members
            .iter()
            .find(|member| Some(member.id) == status.leader);
        let (host, port) = leader
            .and_then(|leader| leader.client.rsplit_once(':'))
            .unwrap_or(("", "0"));
        section.push(format!("master_host:{host}"));
        section.push(format!("master_port:{port}"));
        section.push(format!(
            "master_link_status:{}",
            if leader.is_some() { "up" } else { "down" }
        ));
        section.push("slave_read_only:0".into());
        section.push("connected_slaves:0".into());
    }
    let cluster_id = u128::from_be_bytes(status.cluster_id.unwrap_or_default());
    section.push(format!("master_replid:{cluster_id:040x}"));
    section.push(format!("master_repl_offset:{}", status.commit));
    section
}

fn raft(status: &Status, _: &Service) -> Vec<String> {
    vec![
        format!("raft_cluster:{}", status.cluster),
        format!("raft_node:{}", status.node),
        format!("raft_role:{}", status.role.as_str()),
        format!("raft_term:{}", status.term),
        format!("raft_leader:{}", status.leader.unwrap_or_default()),
        format!("raft_commit_index:{}", status.commit),
        format!("raft_last_applied:{}", status.applied),
        format!("raft_first_index:{}", status.first_index),
        format!("raft_last_index:{}", status.last_index),
        format!("raft_snapshot_index:{}", status.snapshot_index),
        format!("raft_members:{}", status.members.len()),
        format!("raft_pending:{}", status.pending),
        format!("raft_state_hash:{:016x}", status.state_hash),
    ]
}

fn keyspace(status: &Status, _: &Service) -> Vec<String> {
    if status.keys == 0 {
        return vec![];
    }
    vec![format!(
        "db0:keys={},expires={},avg_ttl=0",
        status.keys, status.expiring_keys
    )]
}
