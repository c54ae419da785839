//! `raftline dev`: its nodes start, are told of when they die, and never outlive it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use waiting::wait_for;

#[path = "common/waiting.rs"]
mod waiting;

const NODES: u16 = 3;

struct Dev {
    process: Child,
    out: BufReader<ChildStdout>,
    base_port: u16,
    pids: Vec<i32>,
    said: String,
}

impl Dev {
    fn start(base_port: u16, arguments: &[&str]) -> Dev {
        let mut process = Command::new(env!("CARGO_BIN_EXE_raftline"))
            .args(["dev", "--base-port", &base_port.to_string()])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let mut dev = Dev {
            process,
            out,
            base_port,
            pids: Vec::new(),
            said: String::new(),
        };
        dev.read_until("Ctrl-C stops all.");
        let pids = dev.said.lines().filter_map(|line| line.split("   pid ").nth(1));
        dev.pids = pids
            .map(|rest| rest.split(' ').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(dev.pids.len(), usize::from(NODES), "{}", dev.said);
        dev
    }

    /// Reads what it says up to a line that contains `part`.
    fn read_until(&mut self, part: &str) {
        loop {
            let before = self.said.len();
            let count = self.out.read_line(&mut self.said).unwrap();
            assert_ne!(count, 0, "it ended without {part:?}:\n{}", self.said);
            if self.said[before..].contains(part) {
                return;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Waits until the nodes accept connections, so that their handlers are in place.
    fn wait_until_listening(&self) {
        wait_until("the nodes listen", || {
            (0..NODES).all(|k| TcpListener::bind(("127.0.0.1", self.base_port + 10 * k + 2)).is_err())
        });
    }

    fn assert_nothing_is_left(&self) {
        let is_gone = |pid: &i32| !Path::new(&format!("/proc/{pid}")).exists();
        wait_until("the nodes are gone", || self.pids.iter().all(is_gone));
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Waits until it is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    wait_for(what, Duration::from_secs(20), || is_so().then_some(()));
}

/// Ports from `base` on that nobody has; each test has a range of its own.
fn free_ports(base: u16) -> u16 {
    let offset = (std::process::id() % 100) as u16 * 40;
    (0..10)
        .map(|n| base + (offset + n * 400) % 4000)
        .find(|port| (0..23).all(|n| TcpListener::bind(("127.0.0.1", port + n)).is_ok()))
        .expect("free ports")
}

#[test]
fn the_line_to_paste_works_and_sigterm_stops_all_nodes_and_removes_the_folder() {
    let mut dev = Dev::start(free_ports(14_000), &[]);
    dev.wait_until_listening();
    let folder = dev
        .said
        .split(" in ")
        .nth(1)
        .unwrap()
        .split(" (temporary")
        .next()
        .unwrap()
        .to_string();
    assert!(
        Path::new(&folder).join("node-3/raftline.toml").exists(),
        "{folder}"
    );
    dev.read_until("ready: node ");
    let line = dev
        .said
        .lines()
        .find(|line| line.contains("| nc "))
        .unwrap()
        .trim();
    if Command::new("nc")
        .arg("-h")
        .stderr(Stdio::null())
        .status()
        .is_ok()
    {
        let output = Command::new("sh").args(["-c", line]).output().unwrap();
        let replies = String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n");
        assert_eq!(replies, "+OK\n+world\n+OK\n", "{line}");
    } else {
        println!("skipped: there is no nc to paste the line to");
    }
    dev.signal(Signal::TERM);
    dev.read_until("stopped");
    assert_eq!(dev.process.wait().unwrap().code(), Some(0), "{}", dev.said);
    dev.assert_nothing_is_left();
    assert!(!Path::new(&folder).exists(), "{folder}");
}

#[test]
fn no_node_outlives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let mut dev = Dev::start(free_ports(18_000), &["--dir", dir]);
    dev.wait_until_listening();
    dev.signal(Signal::KILL);
    dev.process.wait().unwrap();
    dev.assert_nothing_is_left();
}

/// One request to a node by its number, from 0; its reply's first line, empty where there is none.
fn ask(base_port: u16, node: u16, request: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", base_port + 10 * node)) else {
        return String::new();
    };
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(format!("{request}\n").as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok();
    line.trim_end().into()
}

#[test]
fn a_node_that_is_rebuilt_is_told_of_and_the_line_that_starts_it_again_works() {
    let base_port = free_ports(26_000);
    let mut dev = Dev::start(base_port, &[]);
    dev.read_until("ready: node ");
    assert_eq!(ask(base_port, 0, "SET hello world"), "+OK");
    // All but the leader take it, and one is enough.
    let rebuilt = (0..NODES)
        .find(|node| ask(base_port, *node, "RAFT REBUILD") == "+OK")
        .expect("a follower");
    dev.read_until("2 of 3 nodes run, a majority");
    let ended = format!(
        "node {} (pid {}) ended: exit status: 1",
        rebuilt + 1,
        dev.pids[usize::from(rebuilt)]
    );
    assert!(dev.said.contains(&ended), "{}", dev.said);
    assert!(dev.said.contains("as RAFT REBUILD asks"), "{}", dev.said);
    let line = dev.said.split("to start it again: ").nth(1).unwrap();
    let line = format!("exec {}", line.lines().next().unwrap());
    let mut again = Command::new("sh")
        .args(["-c", &line])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("it has everything again", || {
        ask(base_port, rebuilt, "GET hello") == "+world" && ask(base_port, rebuilt, "RAFT VERIFY") == "+OK"
    });
    again.kill().unwrap();
    again.wait().unwrap();
    dev.signal(Signal::TERM);
    dev.read_until("stopped");
    assert_eq!(dev.process.wait().unwrap().code(), Some(0), "{}", dev.said);
    dev.assert_nothing_is_left();
}

#[test]
fn a_death_is_told_and_a_given_folder_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let base_port = free_ports(22_000);
    let mut dev = Dev::start(base_port, &["--dir", dir, "--slow", "2"]);
    dev.wait_until_listening();
    kill_process(Pid::from_raw(dev.pids[1]).unwrap(), Signal::KILL).unwrap();
    dev.read_until("2 of 3 nodes run, a majority");
    assert!(dev.said.contains("ended: signal: 9 (SIGKILL)"), "{}", dev.said);
    assert!(
        dev.said.contains("to start it again: ") && dev.said.contains("serve --config "),
        "{}",
        dev.said
    );
    let config = std::fs::read_to_string(folder.path().join("node-2/raftline.toml")).unwrap();
    assert!(config.contains("election_timeout = \"1s\""), "{config}");

    // Its ports are taken, and the message names one.
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_raftline"));
        let output = command.arg("dev").args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, error) = run(&["--base-port", &base_port.to_string()]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains(&format!(
            "port {base_port}, the client port of node 1, cannot be used"
        )),
        "{error}"
    );

    dev.signal(Signal::INT);
    dev.read_until("stopped");
    assert_eq!(dev.process.wait().unwrap().code(), Some(0));
    dev.assert_nothing_is_left();
    let (code, error) = run(&[
        "--base-port",
        &base_port.to_string(),
        "--dir",
        dir,
        "--nodes",
        "1",
    ]);
    assert_eq!(code, Some(2));
    assert!(
        error.contains(&format!("use --nodes 3 --base-port {base_port}")),
        "{error}"
    );
}
