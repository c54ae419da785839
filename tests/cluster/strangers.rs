//! Clients that others have written, each with its default settings, in RESP2 and RESP3.
//!
//! The libraries are talked to by the scripts in `tests/clients`; RAFTLINE_CLIENTS names the folder in which
//! `.ci/run` has installed them. Without it the tests say so and pass.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::Deserialize;

use crate::client::{Client, Reply};
use crate::harness::{Cluster, SOON, wait_for};

/// A client library, as its script names its keys.
const LIBRARIES: [&str; 5] = ["redis", "valkey", "ioredis", "node-redis", "redis-rs"];
const PROTOCOLS: [u8; 2] = [2, 3];

/// What a script says it has counted.
#[derive(Debug, Deserialize)]
struct Told {
    /// Replies to INCR.
    plain: i64,
    /// Tokens that were answered.
    once: i64,
    /// Errors that the library has passed on.
    errors: u64,
}

/// The folder with the libraries; says so if there is none.
fn installed() -> Option<PathBuf> {
    let folder = std::env::var_os("RAFTLINE_CLIENTS").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: RAFTLINE_CLIENTS names no folder with client libraries");
    }
    folder
}

/// The script of a library, at work.
fn start(installed: &Path, library: &str, protocol: u8, address: SocketAddr, what: &str) -> Child {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let mut command = match library {
        "redis" | "valkey" => {
            let mut python = Command::new(installed.join("venv/bin/python"));
            python.arg(scripts.join("python_client.py")).arg(library);
            python
        }
        "redis-rs" => Command::new(installed.join("redis-rs/debug/redis-rs-client")),
        _ => {
            let mut node = Command::new("node");
            node.env("NODE_PATH", installed.join("node_modules"))
                .arg(scripts.join(format!("{}_client.js", library.replace('-', "_"))));
            node
        }
    };
    command
        .args([
            address.ip().to_string(),
            address.port().to_string(),
            protocol.to_string(),
        ])
        .arg(what)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Ends a script's input and waits for its end; what it has printed.
fn finish(who: &str, mut script: Child) -> String {
    drop(script.stdin.take());
    let status = wait_for(who, SOON + SOON, || script.try_wait().unwrap());
    let mut printed = String::new();
    script
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut printed)
        .unwrap();
    assert!(status.success(), "{who}: {status}\n{printed}");
    printed
}

#[test]
fn libraries_do_what_they_do_with_redis() {
    let Some(installed) = installed() else { return };
    let cluster = Cluster::start(3);
    let nodes = [cluster.leader(), cluster.follower()];
    for library in LIBRARIES {
        for (protocol, node) in PROTOCOLS.into_iter().zip(nodes) {
            let address = cluster.client_address(node);
            let script = start(&installed, library, protocol, address, "basics");
            finish(&format!("{library} in RESP{protocol}"), script);
        }
    }
    cluster.assert_all_run();
}

/// A library that sends again by itself may count too often, and never too seldom; under ONCE it counts right.
#[test]
fn leaders_are_killed_while_libraries_count() {
    let Some(installed) = installed() else { return };
    let mut cluster = Cluster::start(3);
    let addresses = cluster.addresses();
    let counters: Vec<(&str, u8)> = LIBRARIES
        .into_iter()
        .flat_map(|library| PROTOCOLS.map(|protocol| (library, protocol)))
        .collect();
    let scripts: Vec<Child> = counters
        .iter()
        .enumerate()
        .map(|(at, (library, protocol))| start(&installed, library, *protocol, addresses[at % 3], "count"))
        .collect();
    let keys: Vec<String> = counters
        .iter()
        .map(|(library, protocol)| format!("{library}:{protocol}:"))
        .collect();
    for _ in 0..2 {
        wait_for_more(&cluster, &keys);
        let leader = cluster.leader();
        cluster.kill_9(leader);
        cluster.leader();
        cluster.restart(leader);
        cluster.caught_up(leader);
    }
    wait_for_more(&cluster, &keys);
    let mut errors = 0;
    for (key, script) in keys.iter().zip(scripts) {
        let told: Told = serde_json::from_str(&finish(key, script)).unwrap();
        let (plain, once) = (number(&cluster, key, "plain"), number(&cluster, key, "once"));
        println!(
            "{key} {told:?}, of plain INCR {} more were done",
            plain - told.plain
        );
        assert!(told.plain <= plain, "{key} {told:?}, but {plain} were done");
        assert_eq!(told.once, once, "{key}");
        errors += told.errors;
    }
    assert!(errors > 0, "nobody has noticed anything");
}

/// The value of one of a script's two counters.
fn number(cluster: &Cluster, key: &str, kind: &str) -> i64 {
    match cluster.call(cluster.leader(), &format!("GET {key}{kind}")) {
        Reply::Text(number) => number.parse().unwrap(),
        Reply::Nothing => 0,
        other => panic!("{key}{kind}: {other:?}"),
    }
}

/// Waits until each script has counted some more.
fn wait_for_more(cluster: &Cluster, keys: &[String]) {
    for key in keys {
        let before = number(cluster, key, "once");
        wait_for(&format!("{key} counts on"), SOON + SOON, || {
            (number(cluster, key, "once") >= before + 20).then_some(())
        });
    }
}

/// What a program of redis-tools prints; `None` where there is no such program.
fn redis_tool(name: &str, arguments: &[&str], address: SocketAddr) -> Option<String> {
    let output = Command::new(name)
        .args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let Ok(output) = output else {
        assert!(
            std::env::var_os("RAFTLINE_CLIENTS").is_none(),
            "RAFTLINE_CLIENTS is set, but there is no {name}"
        );
        println!("skipped: there is no {name}");
        return None;
    };
    let error = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{name} {arguments:?}: {said}{error}");
    assert!(error.is_empty(), "{name} {arguments:?}: {error}");
    Some(said.replace('\r', "\n"))
}

#[test]
fn redis_cli_and_redis_benchmark_work() {
    let cluster = Cluster::start(3);
    for node in [cluster.leader(), cluster.follower()] {
        let address = cluster.client_address(node);
        for protocol in ["-2", "-3"] {
            for (words, reply) in [
                ("SET hello world", "OK\n"),
                ("GET hello", "world\n"),
                ("GET absent", "\n"),
                ("INCRBY number:x 0", "0\n"),
                ("MGET hello hello", "world\nworld\n"),
            ] {
                let mut arguments = vec![protocol];
                arguments.extend(words.split(' '));
                let Some(said) = redis_tool("redis-cli", &arguments, address) else {
                    return;
                };
                assert_eq!(said, reply, "{words}");
            }
        }
        for pipeline in ["1", "16"] {
            let tests = "ping,set,get,incr,mset";
            let arguments = ["-t", tests, "-n", "2000", "-P", pipeline, "--csv"];
            let Some(said) = redis_tool("redis-benchmark", &arguments, address) else {
                return;
            };
            for test in ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET"] {
                assert!(
                    said.contains(&format!("\"{test}")),
                    "no {test} with -P {pipeline}:\n{said}"
                );
            }
        }
    }
}

/// What one scrape of the Prometheus redis_exporter asks, and HAProxy's two checks (`option redis-check`, and
/// `tcp-check` with a line).
#[test]
fn what_watches_redis_sees_no_error() {
    let cluster = Cluster::start(3);
    for node in cluster.ids() {
        let mut client = cluster.client(node);
        for request in [
            "CLIENT SETNAME redis_exporter",
            "CONFIG GET *",
            "INFO ALL",
            "SELECT 0",
            "LATENCY LATEST",
            "LATENCY HISTOGRAM",
            "SLOWLOG LEN",
            "SLOWLOG GET 1",
            "COMMAND INFO COMMANDLOG",
            "CLIENT LIST",
            "DBSIZE",
            "MODULE LIST",
        ] {
            let reply = client.call(request).unwrap();
            assert_eq!(reply.code(), None, "{request}: {reply:?}");
        }
        assert_eq!(client.call("*1\r\n$4\r\nPING\r").unwrap(), Reply::text("PONG"));
        assert_eq!(client.call("PING\r").unwrap(), Reply::text("PONG"));
        assert_eq!(role(&mut client) == "role:master", node == cluster.leader());
    }
}

/// The line of INFO that HAProxy looks for.
fn role(client: &mut Client) -> String {
    let Reply::List(lines) = client.call("INFO replication\r").unwrap() else {
        panic!("a list of lines");
    };
    let text = |line: Reply| match line {
        Reply::Text(text) if text.starts_with("role:") => Some(text),
        _ => None,
    };
    lines.into_iter().find_map(text).expect("a role")
}
