//! The keys, their types, ranges and defaults: one function for each section of the file.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::base::address::is_address;
use crate::base::units;
use crate::raft::NodeId;

use super::source::{Item, Source, Table};
use super::{Cluster, Config, Identity, Limits, Listen, Log, LogFormat, Member, Raft, Storage};

/// Every section, for the message about an unknown one.
const SECTIONS: &[&str] = &[
    "node", "listen", "cluster", "raft", "storage", "limits", "tls", "auth", "log",
];

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// More than any disk, and far from overflow.
const SIZE_MAX: u64 = 1 << 50;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Reads the whole configuration; `None` where a key without a default is absent or wrong.
pub(super) fn config(source: &mut Source) -> Option<Config> {
    let node = node(source);
    let listen = listen(source);
    let cluster = cluster(source);
    let raft = raft(source);
    let storage = storage(source);
    let limits = limits(source);
    let log = log(source);
    tls(source);
    auth(source);
    source.refuse_rest(SECTIONS);
    Some(Config {
        node: node?,
        listen,
        cluster,
        raft,
        storage,
        limits,
        log,
    })
}

fn node(source: &mut Source) -> Option<Identity> {
    let mut table = source.section("node", &["id", "data_dir"]);
    let data_dir = source
        .read(&mut table, "data_dir", "the path of a folder", |item| {
            item.string().filter(|path| !path.is_empty()).map(PathBuf::from)
        })
        .unwrap_or_else(|| "/var/lib/raftline".into());
    let id = source.require(&mut table, "id", "a whole number above 0", node_id)?;
    Some(Identity { id, data_dir })
}

fn listen(source: &mut Source) -> Listen {
    const EXPECTED: &str = "\"HOST:PORT\" to listen on, such as \"0.0.0.0:7238\" or \"[::]:7238\"";
    let mut table = source.section("listen", &["client", "peer", "admin"]);
    let mut read = |key| source.read(&mut table, key, EXPECTED, |item| address(item, 0));
    Listen {
        client: read("client").unwrap_or_else(|| "0.0.0.0:7238".into()),
        peer: read("peer").unwrap_or_else(|| "0.0.0.0:7239".into()),
        admin: read("admin"),
    }
}

fn cluster(source: &mut Source) -> Cluster {
    let mut table = source.section("cluster", &["name", "join", "members"]);
    let name = source
        .read(
            &mut table,
            "name",
            "a name of 1 to 64 letters, digits, '.', '_' or '-'",
            |item| item.string().filter(|name| is_name(name)).map(String::from),
        )
        .unwrap_or_else(|| "raftline".into());
    let join = source.read(&mut table, "join", "true or false", Item::boolean);
    let join = join.unwrap_or(false);
    let members = members(source, &mut table, join);
    Cluster { name, join, members }
}

fn members(source: &mut Source, table: &mut Table, join: bool) -> Vec<Member> {
    const EXPECTED: &str = "a list of { id = …, peer = \"HOST:PORT\", client = \"HOST:PORT\" }";
    let Some(item) = source.take(table, "members") else {
        if !join {
            source.miss(table, "members", EXPECTED);
        }
        return Vec::new();
    };
    let elements = source.list(&item, EXPECTED).unwrap_or_default();
    elements
        .iter()
        .filter_map(|element| {
            let mut table = source.table(element, &["id", "peer", "client"])?;
            let id = source.require(&mut table, "id", "a whole number above 0", node_id);
            let mut address = |key| {
                const EXPECTED: &str = "\"HOST:PORT\" where others reach this member";
                source.require(&mut table, key, EXPECTED, |item| address(item, 1))
            };
            let (peer, client) = (address("peer"), address("client"));
            Some(Member {
                id: id?,
                peer: peer?,
                client: client?,
            })
        })
        .collect()
}

fn raft(source: &mut Source) -> Raft {
    let mut table = source.section(
        "raft",
        &[
            "heartbeat_interval",
            "election_timeout",
            "read_mode",
            "max_clock_drift",
            "max_inflight",
            "max_batch_bytes",
            "disk_stall_timeout",
        ],
    );
    let table = &mut table;
    const MODES: &str = "\"quorum\" or \"lease\"";
    let mode = source.read(table, "read_mode", MODES, |item| {
        item.string()
            .filter(|mode| ["quorum", "lease"].contains(mode))
            .map(String::from)
    });
    let drift = source.read(table, "max_clock_drift", "a number from 0 to below 1", |item| {
        item.number().filter(|drift| (0.0..1.0).contains(drift))
    });
    let ms = Duration::from_millis;
    Raft {
        heartbeat_interval: span(source, table, "heartbeat_interval", ms(1)..=10 * MINUTE, ms(50)),
        election_timeout: span(source, table, "election_timeout", ms(2)..=HOUR, ms(500)),
        max_inflight: count(source, table, "max_inflight", 1..=65_536, 256),
        max_batch_bytes: size(source, table, "max_batch_bytes", KIB..=64 * MIB, MIB),
        lease_reads: mode.as_deref() == Some("lease"),
        max_clock_drift: drift.unwrap_or(0.2),
        disk_stall_timeout: span(source, table, "disk_stall_timeout", ms(10)..=HOUR, ms(2000)),
    }
}

fn storage(source: &mut Source) -> Storage {
    let known = ["fsync", "segment_size", "snapshot_log_bytes", "min_free_space"];
    let mut table = source.section("storage", &known);
    let table = &mut table;
    Storage {
        fsync: source
            .read(table, "fsync", "true or false", Item::boolean)
            .unwrap_or(true),
        segment_size: size(source, table, "segment_size", 64 * KIB..=4 * GIB, 64 * MIB),
        snapshot_log_bytes: size(
            source,
            table,
            "snapshot_log_bytes",
            64 * KIB..=SIZE_MAX,
            256 * MIB,
        ),
        min_free_space: size(source, table, "min_free_space", 0..=SIZE_MAX, 256 * MIB),
    }
}

fn limits(source: &mut Source) -> Limits {
    let mut table = source.section(
        "limits",
        &[
            "max_request",
            "max_connections",
            "max_pending",
            "max_memory",
            "request_timeout",
            "once_window",
            "idle_timeout",
        ],
    );
    let table = &mut table;
    let ms = Duration::from_millis;
    let max_memory = size(source, table, "max_memory", 0..=SIZE_MAX, 0);
    let idle_timeout = span(source, table, "idle_timeout", Duration::ZERO..=365 * DAY, ms(0));
    Limits {
        max_request: size(source, table, "max_request", KIB..=64 * MIB, MIB),
        max_connections: count(source, table, "max_connections", 1..=1_000_000, 10_000),
        max_pending: count(source, table, "max_pending", 1..=1 << 24, 65_536),
        max_memory: (max_memory > 0).then_some(max_memory),
        request_timeout: span(source, table, "request_timeout", ms(10)..=10 * MINUTE, ms(4000)),
        once_window: span(source, table, "once_window", ms(1000)..=30 * DAY, HOUR),
        idle_timeout: (!idle_timeout.is_zero()).then_some(idle_timeout),
    }
}

fn log(source: &mut Source) -> Log {
    const LEVELS: &str =
        "error, warn, info, debug, trace or off, or a filter such as \"info,raftline::raft=debug\"";
    let mut table = source.section("log", &["level", "format"]);
    let level = source.read(&mut table, "level", LEVELS, |item| {
        item.string().filter(|level| is_filter(level)).map(String::from)
    });
    let format = source.read(
        &mut table,
        "format",
        "\"text\", \"json\" or \"journald\"",
        |item| match item.string()? {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            "journald" => Some(LogFormat::Journald),
            _ => None,
        },
    );
    Log {
        level: level.unwrap_or_else(|| "info".into()),
        format: format.unwrap_or_default(),
    }
}

/// Checks the shape of `[tls]`, then refuses it.
fn tls(source: &mut Source) {
    if !source.has_section("tls") {
        return;
    }
    let mut table = source.section("tls", &["client", "peer"]);
    for (key, ca_needed) in [("client", false), ("peer", true)] {
        let Some(item) = source.take(&mut table, key) else {
            continue;
        };
        let Some(mut files) = source.table(&item, &["cert", "key", "ca"]) else {
            continue;
        };
        for file in ["cert", "key", "ca"] {
            const EXPECTED: &str = "the path of a PEM file";
            let path = |item: &Item| item.string().filter(|path| !path.is_empty()).map(String::from);
            if file != "ca" || ca_needed {
                source.require(&mut files, file, EXPECTED, path);
            } else {
                source.read(&mut files, file, EXPECTED, path);
            }
        }
    }
    source.refuse_table(&table, "a section", "none: TLS is not built yet, leave [tls] out");
}

/// Checks the shape of `[auth]`, then refuses it.
fn auth(source: &mut Source) {
    if !source.has_section("auth") {
        return;
    }
    let mut table = source.section("auth", &["users"]);
    if let Some(item) = source.take(&mut table, "users") {
        let users = source.list(&item, "a list of { name, password_hash, keys, commands }");
        for user in users.unwrap_or_default() {
            user_entry(source, &user);
        }
    }
    source.refuse_table(
        &table,
        "a section",
        "none: passwords are not built yet, leave [auth] out",
    );
}

fn user_entry(source: &mut Source, user: &Item) {
    let Some(mut table) = source.table(user, &["name", "password_hash", "keys", "commands"]) else {
        return;
    };
    for key in ["name", "password_hash"] {
        source.require(&mut table, key, "a string", |item| {
            item.string().map(String::from)
        });
    }
    for key in ["keys", "commands"] {
        let Some(item) = source.take(&mut table, key) else {
            continue;
        };
        for word in source.list(&item, "a list of strings").unwrap_or_default() {
            if word.string().is_none() {
                source.refuse(&word, "a string");
            }
        }
    }
}

/// A duration in a range.
fn span(
    source: &mut Source,
    table: &mut Table,
    key: &str,
    range: RangeInclusive<Duration>,
    default: Duration,
) -> Duration {
    let expected = format!(
        "a duration from {} to {}, such as \"{}\"",
        units::duration(*range.start()),
        units::duration(*range.end()),
        units::duration(default),
    );
    let read = |item: &Item| units::parse_duration(item.string()?).filter(|value| range.contains(value));
    source.read(table, key, &expected, read).unwrap_or(default)
}

/// A size in a range.
fn size(source: &mut Source, table: &mut Table, key: &str, range: RangeInclusive<u64>, default: u64) -> u64 {
    let expected = format!(
        "a size from {} to {}, such as \"{}\"",
        units::size(*range.start()),
        units::size(*range.end()),
        units::size(default),
    );
    let read = |item: &Item| units::parse_size(item.string()?).filter(|value| range.contains(value));
    source.read(table, key, &expected, read).unwrap_or(default)
}

/// A number in a range.
fn count(
    source: &mut Source,
    table: &mut Table,
    key: &str,
    range: RangeInclusive<usize>,
    default: usize,
) -> usize {
    let expected = format!("a whole number from {} to {}", range.start(), range.end());
    let read = |item: &Item| {
        usize::try_from(item.integer()?)
            .ok()
            .filter(|value| range.contains(value))
    };
    source.read(table, key, &expected, read).unwrap_or(default)
}

fn node_id(item: &Item) -> Option<NodeId> {
    item.integer().filter(|id| *id > 0).map(NodeId)
}

/// `host:port` with a port of at least `port_min`.
fn address(item: &Item, port_min: u16) -> Option<String> {
    let text = item.string()?;
    is_address(text, port_min).then(|| text.to_string())
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

/// Whether the log filter means what its writer thinks: a lone word that is no level is refused, although the
/// filter's own syntax would take it for the name of a module.
fn is_filter(text: &str) -> bool {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let is_meant = |directive: &str| {
        directive.contains('=') || LEVELS.contains(&directive.trim().to_ascii_lowercase().as_str())
    };
    text.split(',').all(is_meant) && EnvFilter::try_new(text).is_ok()
}
