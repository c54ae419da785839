//! The configuration file and its variables: what is read, and what is said about what is wrong.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::Path;
use std::time::Duration;

use raftline::config::{Config, LogFormat, Member};
use raftline::raft::NodeId;

/// A good configuration in seven lines; tests append to it.
const GOOD: &str = "\
[node]
id = 1

[cluster]
members = [
  { id = 1, peer = \"a:7239\", client = \"a:7238\" },
]
";

fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let environment = environment.iter().map(|(n, v)| (n.to_string(), v.to_string()));
    Config::parse("c.toml", text, environment).map_err(|error| error.to_string())
}

/// What is said about `GOOD` with `text` after it.
fn refused(text: &str) -> String {
    parse(&format!("{GOOD}{text}"), &[]).expect_err(text)
}

#[test]
fn the_sample_is_good_and_names_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/raftline.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let sample = parse(&text, &[]).unwrap();
    assert_eq!(sample.cluster.members.len(), 3);
    assert_eq!(sample.listen.admin.as_deref(), Some("127.0.0.1:7240"));

    // What the sample spells out is what a file that leaves it out gets.
    let mut defaults = parse(GOOD, &[]).unwrap();
    assert_eq!(
        (&*defaults.cluster.name, &defaults.listen.admin),
        ("raftline", &None)
    );
    defaults.cluster = sample.cluster.clone();
    defaults.listen.admin = sample.listen.admin.clone();
    assert_eq!(defaults, sample);
}

#[test]
fn every_key_is_read() {
    let text = "\
[node]
id = 2
data_dir = \"/d\"
[listen]
client = \"[::1]:1\"
peer = \"localhost:2\"
admin = \"127.0.0.1:0\"
[cluster]
name = \"test\"
join = false
[[cluster.members]]
id = 2
peer = \"h:3\"
client = \"h:4\"
[raft]
heartbeat_interval = \"10s\"
election_timeout = \"1m\"
read_mode = \"quorum\"
max_clock_drift = 0
max_inflight = 7
max_batch_bytes = \"2MiB\"
disk_stall_timeout = \"3s\"
[storage]
fsync = false
segment_size = \"1MiB\"
snapshot_log_bytes = \"1GiB\"
min_free_space = \"0\"
[limits]
max_request = \"64KiB\"
max_connections = 5
max_pending = 6
max_memory = \"1GiB\"
request_timeout = \"1s\"
once_window = \"2h\"
idle_timeout = \"9s\"
[log]
level = \"info,raftline::raft=debug\"
format = \"json\"
";
    let config = parse(text, &[]).unwrap();
    assert_eq!(config.node.id, NodeId(2));
    assert_eq!(config.node.data_dir, Path::new("/d"));
    assert_eq!(config.listen.client, "[::1]:1");
    assert_eq!(config.listen.admin.as_deref(), Some("127.0.0.1:0"));
    let member = Member {
        id: NodeId(2),
        peer: "h:3".into(),
        client: "h:4".into(),
    };
    assert_eq!(config.cluster.members, [member]);
    assert_eq!(config.raft.heartbeat_interval, Duration::from_secs(10));
    assert_eq!(
        (config.raft.max_inflight, config.raft.max_batch_bytes),
        (7, 2 << 20)
    );
    assert!(!config.storage.fsync);
    assert_eq!(
        (config.storage.segment_size, config.storage.min_free_space),
        (1 << 20, 0)
    );
    assert_eq!((config.limits.max_connections, config.limits.max_pending), (5, 6));
    assert_eq!(config.limits.max_memory, Some(1 << 30));
    assert_eq!(config.limits.idle_timeout, Some(Duration::from_secs(9)));
    assert_eq!(config.log.format, LogFormat::Json);
}

/// Text after `GOOD` (which has seven lines), and what the message must contain.
const WRONG: &[(&str, &[&str])] = &[
    (
        "[raft]\nheartbeat = \"1s\"",
        &["c.toml:9: raft.heartbeat: unknown key", "heartbeat_interval"],
    ),
    (
        "[rafft]\nx = 1",
        &["c.toml:8: rafft: unknown section", "raft, storage"],
    ),
    (
        "[raft]\nmax_inflight = 0",
        &["c.toml:9: raft.max_inflight: found 0, expected a whole number from 1 to 65536"],
    ),
    (
        "[raft]\nmax_inflight = -1",
        &["c.toml:9: raft.max_inflight: found -1"],
    ),
    (
        "[raft]\nmax_inflight = \"many\"",
        &["c.toml:9: raft.max_inflight: found \"many\""],
    ),
    (
        "[raft]\nheartbeat_interval = 50",
        &[
            "c.toml:9: raft.heartbeat_interval: found 50, expected a duration from 1ms to 10m, such as \"50ms\"",
        ],
    ),
    (
        "[raft]\nheartbeat_interval = \"50\"",
        &["c.toml:9: raft.heartbeat_interval: found \"50\""],
    ),
    (
        "[raft]\nelection_timeout = \"1s\"\nheartbeat_interval = \"600ms\"",
        &["c.toml:10: raft.heartbeat_interval: found \"600ms\", \
             expected at most half of raft.election_timeout, which is \"1s\""],
    ),
    (
        "[raft]\nread_mode = \"any\"",
        &["c.toml:9: raft.read_mode: found \"any\", expected \"quorum\" or \"lease\""],
    ),
    (
        "[raft]\nmax_clock_drift = 1.0",
        &["c.toml:9: raft.max_clock_drift: found 1.0, expected a number from 0 to below 1"],
    ),
    (
        "[raft]\ndisk_stall_timeout = \"0s\"",
        &["c.toml:9: raft.disk_stall_timeout"],
    ),
    (
        "[storage]\nfsync = \"yes\"",
        &["c.toml:9: storage.fsync: found \"yes\", expected true or false"],
    ),
    (
        "[storage]\nsegment_size = \"1KiB\"",
        &["c.toml:9: storage.segment_size: found \"1KiB\", expected a size from 64KiB to 4GiB"],
    ),
    (
        "[limits]\nmax_request = \"1GiB\"",
        &["c.toml:9: limits.max_request: found \"1GiB\", expected a size from 1KiB to 64MiB"],
    ),
    (
        "[limits]\nmax_memory = 0",
        &["c.toml:9: limits.max_memory: found 0, expected a size"],
    ),
    (
        "[limits]\nrequest_timeout = \"0s\"",
        &["c.toml:9: limits.request_timeout"],
    ),
    (
        "[listen]\nclient = \"7238\"",
        &["c.toml:9: listen.client: found \"7238\", expected \"HOST:PORT\""],
    ),
    (
        "[listen]\nclient = \"h:70000\"",
        &["c.toml:9: listen.client: found \"h:70000\""],
    ),
    (
        "[listen]\nclient = \"::1:7238\"",
        &["c.toml:9: listen.client: found \"::1:7238\""],
    ),
    (
        "[listen]\npeer = \"0.0.0.0:7238\"",
        &[
            "c.toml:9: listen.peer: found \"0.0.0.0:7238\", expected an address of its own: listen.client has the same",
        ],
    ),
    (
        "[log]\nlevel = \"inof\"",
        &["c.toml:9: log.level: found \"inof\", expected error, warn"],
    ),
    (
        "[log]\nformat = \"xml\"",
        &["c.toml:9: log.format: found \"xml\", expected \"text\", \"json\" or \"journald\""],
    ),
    (
        "[tls]\nclient = { cert = \"a\" }",
        &[
            "c.toml:9: tls.client.key: missing",
            "c.toml:8: tls: found a section, expected none: TLS is not built yet",
        ],
    ),
    (
        "[auth]\nusers = []",
        &["c.toml:8: auth: found a section", "not built yet"],
    ),
    ("[log]\nlevel = ", &["c.toml:9: this is not TOML"]),
    (
        "[log]\nlevel = \"info\"\nlevel = \"info\"",
        &["c.toml:10: this is not TOML: duplicate key"],
    ),
];

#[test]
fn what_is_wrong_is_named_with_file_line_and_key() {
    for (text, parts) in WRONG {
        let message = refused(text);
        for part in *parts {
            assert!(
                message.contains(part),
                "{text}\n  gave: {message}\n  without: {part}"
            );
        }
    }
}

#[test]
fn wrong_nodes_and_members_are_named() {
    let members = |list: &str| format!("[node]\nid = 1\n[cluster]\nmembers = [\n{list}]\n");
    let one = "{ id = 1, peer = \"a:1\", client = \"a:2\" },\n";
    for (text, part) in [
        (
            "[cluster]\nmembers = []".into(),
            "c.toml: node.id: missing, expected a whole number above 0",
        ),
        (
            "[node]\ndata_dir = \"/d\"\n[cluster]\nmembers = []".into(),
            "c.toml:1: node.id: missing",
        ),
        (
            "[node]\nid = 0\n".into(),
            "c.toml:2: node.id: found 0, expected a whole number above 0",
        ),
        (
            "[node]\nid = 1".into(),
            "c.toml: cluster.members: missing, expected a list",
        ),
        (
            "[node]\nid = 1\n[cluster]\nname = \"x\"".into(),
            "c.toml:3: cluster.members: missing",
        ),
        (
            "[node]\nid = 1\n[cluster]\njoin = 1".into(),
            "c.toml:4: cluster.join: found 1, expected true or false",
        ),
        (
            format!("{}join = true\n", members(one)),
            "cluster.members: found 1 member, expected none with cluster.join = true",
        ),
        (
            "[node]\nid = 1\n[cluster]\nmembers = 5".into(),
            "c.toml:4: cluster.members: found 5, expected a list",
        ),
        (
            members(""),
            "c.toml:2: node.id: found 1, expected a member, but cluster.members is empty",
        ),
        (
            members(&one.replace("id = 1", "id = 2")),
            "c.toml:2: node.id: found 1, expected the id of one of cluster.members, which are 2",
        ),
        (
            members(&format!("{one}{one}")),
            "c.toml:6: cluster.members[2].id: found 1, expected an id of its own: cluster.members[1]",
        ),
        (
            members(&format!("{one}{}", one.replace("id = 1", "id = 2"))),
            "c.toml:6: cluster.members[2].peer: found \"a:1\", expected an address of its own: cluster.members[1].peer",
        ),
        (
            members(&one.replace("a:2", "a:0")),
            "c.toml:5: cluster.members[1].client: found \"a:0\"",
        ),
        (
            members(&one.replace("a:2", "0.0.0.0:2")),
            "expected an address that the other members can connect to",
        ),
        (
            members("{ id = 1, peer = \"a:1\" },\n"),
            "c.toml:5: cluster.members[1].client: missing",
        ),
        (
            members(&one.replace("peer", "pear")),
            "c.toml:5: cluster.members[1].pear: unknown key, expected one of id, peer, client",
        ),
    ] {
        let message = parse(&text, &[]).expect_err(&text);
        assert!(
            message.contains(part),
            "{text}\n  gave: {message}\n  without: {part}"
        );
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once_in_the_order_of_the_file() {
    let message = refused("[raft]\nmax_inflight = 0\n[limits]\nmax_pending = 0\n[log]\nlevel = \"x\"");
    let lines: Vec<_> = message
        .lines()
        .map(|line| line.split(": ").next().unwrap())
        .collect();
    assert_eq!(lines, ["c.toml:9", "c.toml:11", "c.toml:13"]);
}

#[test]
fn variables_win_over_the_file() {
    let members = "[{ id = 7, peer = \"p:1\", client = \"c:1\" }]";
    let config = parse(
        &format!("{GOOD}[listen]\nclient = \"wrong\"\n[log]\nlevel = \"info\""),
        &[
            ("RAFTLINE_NODE__ID", "7"),
            ("RAFTLINE_NODE__DATA_DIR", "/bare/path"),
            ("RAFTLINE_LISTEN__CLIENT", "127.0.0.1:1234"),
            ("RAFTLINE_CLUSTER__MEMBERS", members),
            ("RAFTLINE_LIMITS__MAX_MEMORY", "0"),
            ("RAFTLINE_LIMITS__MAX_PENDING", "12"),
            ("RAFTLINE_STORAGE__FSYNC", "false"),
            ("RAFTLINE_RAFT__ELECTION_TIMEOUT", "2s"),
            ("RAFTLINE_LOG__LEVEL", "\"debug\""),
            ("RAFTLINE_REQUIRE_SYSTEMD", "1"),
            ("OTHER_NODE__ID", "9"),
        ],
    )
    .unwrap();
    assert_eq!(config.node.id, NodeId(7));
    assert_eq!(config.node.data_dir, Path::new("/bare/path"));
    assert_eq!(config.listen.client, "127.0.0.1:1234");
    assert_eq!(config.cluster.members[0].peer, "p:1");
    assert_eq!(config.limits.max_pending, 12);
    assert!(!config.storage.fsync);
    assert_eq!(config.raft.election_timeout, Duration::from_secs(2));
    assert_eq!(config.log.level, "debug");
}

#[test]
fn wrong_variables_are_named() {
    for (name, value, part) in [
        (
            "RAFTLINE_NODE__ID",
            "0",
            "environment variable RAFTLINE_NODE__ID: node.id: found 0",
        ),
        (
            "RAFTLINE_NODE__ID",
            "x y",
            "RAFTLINE_NODE__ID: node.id: found \"x y\"",
        ),
        (
            "RAFTLINE_NODE__IDD",
            "1",
            "environment variable RAFTLINE_NODE__IDD: unknown variable: the configuration has no key node.idd",
        ),
        ("RAFTLINE_NOD__ID", "1", "RAFTLINE_NOD__ID: unknown variable"),
        (
            "RAFTLINE_TLS__CLIENT",
            "{}",
            "RAFTLINE_TLS__CLIENT: tls.client.cert: missing",
        ),
        (
            "RAFTLINE_CLUSTER__MEMBERS",
            "[{ id = 1, pear = 1 }]",
            "RAFTLINE_CLUSTER__MEMBERS: cluster.members[1].pear: unknown key",
        ),
    ] {
        let message = parse(GOOD, &[(name, value)]).expect_err(name);
        assert!(
            message.contains(part),
            "{name}={value}\n  gave: {message}\n  without: {part}"
        );
    }
}

/// Runs the binary without variables of its own; gives exit code, stdout and stderr.
fn raftline(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_raftline"))
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn check_config_and_serve_exit_with_2_and_say_why() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/config/raftline.toml");
    let (code, out, err) = raftline(&["check-config", sample]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(
        out.contains("OK: node 1 of cluster \"prod\" with 3 members"),
        "{out}"
    );

    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong.toml");
    std::fs::write(&wrong, format!("{GOOD}[raft]\nmax_inflight = 0\n")).unwrap();
    let wrong = wrong.to_str().unwrap();
    for arguments in [["check-config", wrong].as_slice(), &["serve", "--config", wrong]] {
        let (code, out, err) = raftline(arguments);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(err.contains("wrong.toml:9: raft.max_inflight: found 0"), "{err}");
    }
    for arguments in [
        ["check-config"].as_slice(),
        &["serve"],
        &["nothing"],
        &["dev", "--nodes", "0"],
        &[],
    ] {
        assert_eq!(raftline(arguments).0, Some(2), "{arguments:?}");
    }
    for arguments in [
        ["--version"].as_slice(),
        &["--help"],
        &["dev", "--help"],
        &["serve", "--help"],
    ] {
        assert_eq!(raftline(arguments).0, Some(0), "{arguments:?}");
    }
}
