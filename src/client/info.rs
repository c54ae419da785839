//! INFO: figures of this node for programs, named as Redis names them. What is not known is left out, never made up.

use std::fs;

use crate::kv::Code;
use crate::node::{Role, Status};

use super::Service;
use super::pages::leader_address;
use super::session::REDIS_VERSION;

/// The sections of INFO, in their order: name, title, lines.
type Section = (&'static str, &'static str, fn(&Status, &Service) -> Vec<String>);

const SECTIONS: [Section; 12] = [
    ("server", "Server", server),
    ("clients", "Clients", clients),
    ("memory", "Memory", memory),
    ("persistence", "Persistence", persistence),
    ("stats", "Stats", stats),
    ("replication", "Replication", replication),
    ("cpu", "CPU", cpu),
    ("raft", "Raft", raft),
    ("commandstats", "Commandstats", commandstats),
    ("errorstats", "Errorstats", errorstats),
    ("cluster", "Cluster", |_, _| vec!["cluster_enabled:0".into()]),
    ("keyspace", "Keyspace", keyspace),
];

/// What INFO shows only when it is asked for, because it may be long.
const NOT_BY_DEFAULT: &str = "commandstats";

/// INFO: the usual sections, all, or those that were asked for, in small letters.
pub(super) fn info(asked: &[String], status: &Status, service: &Service) -> Vec<String> {
    let is_asked = |name: &str| {
        let by_default = name != NOT_BY_DEFAULT;
        asked.is_empty() && by_default
            || asked.iter().any(|section| match section.as_str() {
                "all" | "everything" => true,
                "default" => by_default,
                section => section == name,
            })
    };
    let mut page = Vec::new();
    for (name, title, fields) in SECTIONS {
        if is_asked(name) {
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

fn clients(status: &Status, service: &Service) -> Vec<String> {
    vec![
        format!("connected_clients:{}", service.counters().connections()),
        format!("change_feeds:{}", status.feeds),
        format!("maxclients:{}", service.settings.max_connections()),
        // No command waits for another client.
        "blocked_clients:0".into(),
    ]
}

fn memory(status: &Status, service: &Service) -> Vec<String> {
    let mut section = vec![
        format!("used_memory:{}", status.bytes),
        format!("used_memory_human:{}", human(status.bytes)),
        format!("used_memory_dataset:{}", status.bytes),
        format!("mem_clients_normal:{}", service.budget.used()),
        format!("maxmemory:{}", service.options().max_memory_bytes),
        format!("maxmemory_human:{}", human(service.options().max_memory_bytes)),
        "maxmemory_policy:noeviction".into(),
    ];
    if let Some(memory) = Memory::of_this_process() {
        section.push(format!("used_memory_rss:{}", memory.resident_bytes));
        section.push(format!("used_memory_rss_human:{}", human(memory.resident_bytes)));
        section.push(format!("used_memory_rss_peak:{}", memory.peak_bytes));
    }
    section
}

/// As Redis writes sizes for people: `1.50M`.
fn human(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "K", "M", "G"] {
        if size < 1024.0 {
            return if unit == "B" {
                format!("{bytes}B")
            } else {
                format!("{size:.2}{unit}")
            };
        }
        size /= 1024.0;
    }
    format!("{size:.2}T")
}

/// What the system says of this process's memory.
pub(super) struct Memory {
    pub(super) resident_bytes: u64,
    /// The most that was ever resident.
    pub(super) peak_bytes: u64,
}

impl Memory {
    /// `None` where the system does not say.
    pub(super) fn of_this_process() -> Option<Memory> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let bytes = |field: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
            Some(kilobytes * 1024)
        };
        Some(Memory {
            resident_bytes: bytes("VmRSS:")?,
            peak_bytes: bytes("VmHWM:")?,
        })
    }
}

fn persistence(status: &Status, service: &Service) -> Vec<String> {
    let snapshots = &service.snapshots;
    vec![
        "loading:0".into(),
        format!(
            "rdb_changes_since_last_save:{}",
            status.applied.0.saturating_sub(status.snapshot_index.0)
        ),
        format!("rdb_bgsave_in_progress:{}", u8::from(snapshots.in_progress())),
        format!("rdb_last_save_time:{}", status.snapshot_ms / 1000),
        format!(
            "rdb_last_bgsave_status:{}",
            if snapshots.last_is_well() { "ok" } else { "err" }
        ),
        "aof_enabled:1".into(),
        // A write to the disk that fails ends the process.
        "aof_last_write_status:ok".into(),
    ]
}

/// The processor time of this process, in seconds; empty where the system does not say.
fn cpu(_: &Status, _: &Service) -> Vec<String> {
    let Ok(stat) = fs::read_to_string("/proc/self/stat") else {
        return vec![];
    };
    // The name of the program, in parentheses, may hold anything; the numbers begin behind it.
    let numbers = stat.rsplit_once(')').map_or("", |(_, numbers)| numbers);
    let mut ticks = numbers.split_whitespace().skip(11).map(str::parse::<u64>);
    let (Some(Ok(user)), Some(Ok(system))) = (ticks.next(), ticks.next()) else {
        return vec![];
    };
    let per_second = rustix::param::clock_ticks_per_second().max(1) as f64;
    vec![
        format!("used_cpu_sys:{:.6}", system as f64 / per_second),
        format!("used_cpu_user:{:.6}", user as f64 / per_second),
    ]
}

fn commandstats(_: &Status, service: &Service) -> Vec<String> {
    let seen = service.commands.seen();
    seen.map(|(name, stat)| format!("cmdstat_{name}:{}", stat.line()))
        .collect()
}

fn errorstats(_: &Status, service: &Service) -> Vec<String> {
    let counts = Code::ALL.map(|code| (code, service.counters().errors_of(code)));
    counts
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(code, count)| format!("errorstat_{}:count={count}", code.as_str()))
        .collect()
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
        // Nothing is ever evicted.
        "evicted_keys:0".into(),
        format!("slowlog_len:{}", service.slowlog().len()),
    ]
}

fn replication(status: &Status, _: &Service) -> Vec<String> {
    let leads = status.role == Role::Leader;
    let mut section = vec![format!("role:{}", if leads { "master" } else { "slave" })];
    if leads {
        let others = status.members.iter().filter(|member| member.id != status.node);
        section.push(format!("connected_slaves:{}", others.clone().count()));
        section.extend(others.enumerate().map(|(at, member)| {
            let (host, port) = member.client.rsplit_once(':').unwrap_or((&member.client, "0"));
            let offset = member.progress.map_or(0, |progress| progress.match_index.0);
            format!("slave{at}:ip={host},port={port},offset={offset}")
        }));
    } else {
        let (host, port) = leader_address(status);
        let link = if status.leader.is_some() { "up" } else { "down" };
        section.push(format!("master_host:{host}"));
        section.push(format!("master_port:{port}"));
        section.push(format!("master_link_status:{link}"));
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
        format!("raft_leases:{}", status.leases),
        format!("raft_sessions:{}", status.sessions),
        format!("raft_once_tokens:{}", status.tokens),
        format!("raft_state_hash:{:016x}", status.state_hash),
    ]
}

fn keyspace(status: &Status, _: &Service) -> Vec<String> {
    if status.keys == 0 {
        return vec![];
    }
    vec![format!(
        "db0:keys={},expires={}",
        status.keys, status.expiring_keys
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        assert_eq!(human(1023), "1023B");
        assert_eq!(human(1536), "1.50K");
        assert_eq!(human(3 << 40), "3.00T");
    }

    #[test]
    fn the_system_says_what_a_process_takes() {
        let memory = Memory::of_this_process().unwrap();
        assert!(memory.resident_bytes > 0 && memory.peak_bytes >= memory.resident_bytes);
        let status = Status::default();
        let (node, _queue) = crate::node::Node::channel(1);
        let service = Service::new(node, super::super::Options::default());
        let lines = cpu(&status, &service);
        assert!(lines[0].starts_with("used_cpu_sys:") && lines[1].starts_with("used_cpu_user:"));
    }
}
