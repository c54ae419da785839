//! Starts, ends, stops and watches the processes of one cluster.
//!
//! Nothing here sleeps for a time and hopes: everything waits for a state, with a deadline. Every cluster has
//! a loopback host of its own (127.0.0.0/8 has sixteen million), so that clusters of tests that run at the
//! same time, and connections that go out from 127.0.0.1, never take each other's ports, also while a node
//! is down.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use serde::Deserialize;
use tempfile::TempDir;

use crate::client::{Client, Reply};
use crate::proxy::Proxy;

pub use waiting::{wait_for, wait_until};

#[path = "../common/waiting.rs"]
mod waiting;

/// What every wait that should be quick is given, so that a loaded machine does not fail a test.
pub const SOON: Duration = Duration::from_secs(20);
/// `limits.request_timeout` by default, and what a busy machine may add to it.
pub const REQUEST_TIMEOUT: Duration = Duration::from_millis(4000 + 2000);

/// Lets time pass, where time itself is what matters: how long the network is bad, how much an idle node uses.
pub fn let_pass(time: Duration) {
    thread::sleep(time);
}

/// What a cluster should be like; `start` makes it.
#[derive(Clone)]
pub struct Builder {
    nodes: u64,
    proxied: bool,
    alone: bool,
    settings: BTreeMap<&'static str, Vec<String>>,
}

/// A running cluster; its processes end with this value.
pub struct Cluster {
    nodes: Vec<Node>,
    proxy: Option<Proxy>,
    host: Host,
    builder: Builder,
    folder: TempDir,
    _turn: Turn,
}

struct Node {
    id: u64,
    client: SocketAddr,
    peer: SocketAddr,
    admin: SocketAddr,
    config: PathBuf,
    log: PathBuf,
    process: Option<Child>,
    stopped: bool,
}

/// The part of RAFT STATUS that tests look at.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    pub node: u64,
    pub role: String,
    pub term: u64,
    pub leader: Option<u64>,
    pub commit: u64,
    pub applied: u64,
    pub first_index: u64,
    pub last_index: u64,
    pub snapshot_index: u64,
    pub keys: u64,
    pub state_hash: String,
}

impl Builder {
    /// Sets a key of the configuration: `("raft", "heartbeat_interval = \"1s\"")`.
    pub fn set(mut self, section: &'static str, line: &str) -> Builder {
        self.settings.entry(section).or_default().push(line.into());
        self
    }

    /// Puts a [`Proxy`] between the nodes.
    pub fn proxied(mut self) -> Builder {
        self.proxied = true;
        self
    }

    /// For what is measured in time: no other cluster of this process runs meanwhile.
    pub fn alone(mut self) -> Builder {
        self.alone = true;
        self
    }

    /// Starts all nodes and waits for a leader that all of them follow.
    pub fn start(self) -> Cluster {
        let turn = Turn::wait(self.alone);
        let folder = TempDir::with_prefix("raftline-test-").unwrap();
        let host = Host::reserve();
        let mut nodes: Vec<Node> = (1..=self.nodes)
            .map(|id| Node::new(id, &host, folder.path()))
            .collect();
        let doors: Vec<_> = nodes
            .iter()
            .map(|node| (node.id, host.address(node.id * 4), node.peer))
            .collect();
        let proxy = self.proxied.then(|| Proxy::start(&doors));
        let mut members = String::new();
        for (node, (_, door, _)) in nodes.iter().zip(&doors) {
            let peer = if self.proxied { door } else { &node.peer };
            writeln!(
                members,
                "  {{ id = {}, peer = \"{peer}\", client = \"{}\" }},",
                node.id, node.client
            )
            .unwrap();
        }
        for node in &mut nodes {
            fs::write(&node.config, self.config(node, &members)).unwrap();
            node.spawn();
        }
        let cluster = Cluster {
            nodes,
            proxy,
            host,
            builder: self,
            folder,
            _turn: turn,
        };
        cluster.leader();
        cluster
    }

    fn config(&self, node: &Node, members: &str) -> String {
        let mut sections = self.settings.clone();
        let mut add = |section, lines: &[String]| {
            sections.entry(section).or_default().extend_from_slice(lines);
        };
        let data = node.config.with_extension("data");
        add(
            "node",
            &[
                format!("id = {}", node.id),
                format!("data_dir = {:?}", data.display().to_string()),
            ],
        );
        add(
            "listen",
            &[
                format!("client = \"{}\"", node.client),
                format!("peer = \"{}\"", node.peer),
                format!("admin = \"{}\"", node.admin),
            ],
        );
        let members = match members.is_empty() {
            true => "join = true".into(),
            false => format!("members = [\n{members}]"),
        };
        add("cluster", &["name = \"test\"".into(), members]);
        if !self.settings.contains_key("storage") {
            // Small segments, so that tests fill and recycle some.
            add("storage", &["segment_size = \"1MiB\"".into()]);
        }
        let section = |(name, lines): (&&str, &Vec<String>)| format!("[{name}]\n{}\n", lines.join("\n"));
        sections.iter().map(section).collect::<Vec<_>>().join("\n")
    }
}

impl Cluster {
    /// A cluster of this many nodes, numbered from 1, to be configured.
    pub fn builder(nodes: u64) -> Builder {
        Builder {
            nodes,
            proxied: false,
            alone: false,
            settings: BTreeMap::new(),
        }
    }

    /// A cluster of this many nodes with the default configuration.
    pub fn start(nodes: u64) -> Cluster {
        Cluster::builder(nodes).start()
    }

    /// The numbers of all nodes.
    pub fn ids(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    /// The numbers of all nodes but one.
    pub fn ids_without(&self, id: u64) -> Vec<u64> {
        self.ids().into_iter().filter(|other| *other != id).collect()
    }

    /// How many nodes decide.
    pub fn majority(&self) -> usize {
        self.nodes.len() / 2 + 1
    }

    /// Where clients reach the nodes, by number.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.client).collect()
    }

    /// Where clients reach node `id`.
    pub fn client_address(&self, id: u64) -> SocketAddr {
        self.node(id).client
    }

    /// Where node `id` listens for other nodes, behind any proxy.
    pub fn peer_address(&self, id: u64) -> SocketAddr {
        self.node(id).peer
    }

    /// The proxy of a proxied cluster.
    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("the cluster was built with a proxy")
    }

    /// A folder that goes with the cluster, on the disk that its nodes write to.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The data folder of node `id`.
    pub fn data_folder(&self, id: u64) -> PathBuf {
        self.node(id).config.with_extension("data")
    }

    /// The lines of node `id`'s log that say all of that.
    pub fn logged(&self, id: u64, texts: &[&str]) -> Vec<String> {
        let log = fs::read_to_string(&self.node(id).log).unwrap();
        let says = |line: &&str| texts.iter().all(|text| line.contains(text));
        log.lines().filter(says).map(String::from).collect()
    }

    /// How many they are.
    pub fn log_lines(&self, id: u64, texts: &[&str]) -> usize {
        self.logged(id, texts).len()
    }

    /// A new connection to node `id`.
    pub fn client(&self, id: u64) -> Client {
        wait_for("a client connection", SOON, || {
            Client::connect(self.node(id).client, SOON).ok()
        })
    }

    /// One request to node `id` on a connection of its own.
    pub fn call(&self, id: u64, line: &str) -> Reply {
        self.client(id)
            .call(line)
            .unwrap_or_else(|error| panic!("node {id}, {line}: {error}"))
    }

    /// What node `id` says of itself; `None` while it does not answer.
    pub fn status(&self, id: u64) -> Option<Status> {
        let node = self.node(id);
        if node.process.is_none() || node.stopped {
            return None;
        }
        node.assert_runs();
        let mut client = Client::connect(node.client, Duration::from_secs(2)).ok()?;
        match client.call("RAFT STATUS").ok()? {
            Reply::Text(json) => Some(serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e}: {json}"))),
            _ => None,
        }
    }

    /// The leader, once there is one that knows it is and that a majority follows.
    pub fn leader(&self) -> u64 {
        self.leader_among(&self.ids())
    }

    /// As [`leader`](Self::leader), while only these nodes are asked.
    pub fn leader_among(&self, ids: &[u64]) -> u64 {
        wait_for("a leader that a majority follows", SOON + SOON, || {
            self.agreed_leader(ids)
        })
    }

    fn agreed_leader(&self, ids: &[u64]) -> Option<u64> {
        let statuses: Vec<Status> = ids.iter().filter_map(|id| self.status(*id)).collect();
        let leaders = statuses.iter().filter(|status| status.role == "leader");
        let leader = leaders.max_by_key(|status| status.term)?;
        let follows = |status: &&Status| status.leader == Some(leader.node) && status.term == leader.term;
        (statuses.iter().filter(follows).count() >= self.majority()).then_some(leader.node)
    }

    /// A node that does not lead at the moment.
    pub fn follower(&self) -> u64 {
        let leader = self.leader();
        self.ids_without(leader)[0]
    }

    /// Waits until node `id` has applied all that was committed when this was called.
    pub fn caught_up(&self, id: u64) {
        let leader = self.leader();
        let commit = wait_for("the leader's commit index", SOON, || self.status(leader)).commit;
        wait_for("a node that has caught up", SOON, || {
            self.status(id).filter(|s| s.applied >= commit)
        });
    }

    /// Waits until every node runs and all have applied all of the same log; panics if they then differ.
    pub fn whole(&self) -> Status {
        let statuses = wait_until("all nodes at the same index", SOON + SOON, || {
            let statuses: Vec<Status> = self
                .nodes
                .iter()
                .filter_map(|node| self.status(node.id))
                .collect();
            let same = |s: &Status| {
                (s.term, s.applied, s.last_index) == (statuses[0].term, statuses[0].applied, s.applied)
                    && s.leader.is_some()
            };
            let well = statuses.len() == self.nodes.len() && statuses.iter().all(same);
            if well { Ok(statuses) } else { Err(statuses) }
        });
        for status in &statuses {
            assert_eq!(
                status.state_hash, statuses[0].state_hash,
                "the states differ: {statuses:?}"
            );
        }
        statuses[0].clone()
    }

    /// `kill -9`, and waits for the end.
    pub fn kill_9(&mut self, id: u64) {
        self.signal(id, Signal::KILL);
        self.exit_status(id);
    }

    /// Sends SIGTERM and waits for the end: its status, and how long it took.
    pub fn terminate(&mut self, id: u64) -> (ExitStatus, Duration) {
        let start = Instant::now();
        self.signal(id, Signal::TERM);
        (self.exit_status(id), start.elapsed())
    }

    /// SIGSTOP, and waits until the process stands still.
    pub fn stop(&mut self, id: u64) {
        self.signal(id, Signal::STOP);
        let pid = self.pid(id);
        wait_for("a stopped process", SOON, || {
            (process_stat(pid)?.first()? == "T").then_some(())
        });
        self.node_mut(id).stopped = true;
    }

    /// SIGCONT.
    pub fn cont(&mut self, id: u64) {
        self.signal(id, Signal::CONT);
        self.node_mut(id).stopped = false;
    }

    /// Starts a node that has ended, on the data it left.
    pub fn restart(&mut self, id: u64) {
        self.node_mut(id).spawn();
    }

    /// Changes the configuration of node `id`, which its next start reads.
    pub fn reconfigure(&self, id: u64, from: &str, to: &str) {
        let path = &self.node(id).config;
        let config = fs::read_to_string(path).unwrap();
        assert!(config.contains(from), "{config}");
        fs::write(path, config.replace(from, to)).unwrap();
    }

    /// Waits until node `id` has ended by itself.
    pub fn ended(&mut self, id: u64) -> ExitStatus {
        self.exit_status(id)
    }

    /// What /readyz of node `id` answers.
    pub fn readyz(&self, id: u64) -> String {
        let mut stream = TcpStream::connect(self.node(id).admin).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Starts one more node, which waits to be added; its number.
    pub fn join(&mut self) -> u64 {
        let id = self.nodes.len() as u64 + 1;
        let mut node = Node::new(id, &self.host, self.folder.path());
        fs::write(&node.config, self.builder.config(&node, "")).unwrap();
        node.spawn();
        self.nodes.push(node);
        self.client(id);
        id
    }

    /// Empties the data folder of a node that has ended.
    pub fn wipe(&mut self, id: u64) {
        assert!(self.node(id).process.is_none(), "node {id} runs");
        fs::remove_dir_all(self.node(id).config.with_extension("data")).unwrap();
    }

    /// The command that adds node `id`.
    pub fn add_command(&self, id: u64) -> String {
        let node = self.node(id);
        format!("RAFT ADD {id} {} {}", node.peer, node.client)
    }

    /// The numbers of the voters, as node `id` says.
    pub fn voters(&self, id: u64) -> Vec<u64> {
        let Reply::List(members) = self.call(id, "RAFT MEMBERS") else {
            panic!("a list")
        };
        let voter = |member: &Reply| match member {
            Reply::List(fields) => match fields.as_slice() {
                [Reply::Integer(id), Reply::Text(role), ..] if role != "learner" => Some(*id as u64),
                _ => None,
            },
            _ => panic!("a list of lists"),
        };
        members.iter().filter_map(voter).collect()
    }

    /// STATUS of node `id`, as one text.
    pub fn page(&self, id: u64) -> String {
        let Reply::List(lines) = self.call(id, "STATUS") else {
            // Still reading its data folder.
            return String::new();
        };
        let line = |reply: &Reply| match reply {
            Reply::Text(line) => format!("{line}\n"),
            other => panic!("{other:?}"),
        };
        lines.iter().map(line).collect()
    }

    /// The process of node `id`.
    pub fn pid(&self, id: u64) -> u32 {
        self.node(id).process.as_ref().expect("the node runs").id()
    }

    /// Panics unless every node that was started and not ended by the test still runs.
    pub fn assert_all_run(&self) {
        self.nodes.iter().for_each(Node::assert_runs);
    }

    fn signal(&self, id: u64, signal: Signal) {
        let process = self.node(id).process.as_ref().expect("the node runs");
        kill_process(Pid::from_child(process), signal).unwrap();
    }

    fn exit_status(&mut self, id: u64) -> ExitStatus {
        let mut process = self.node_mut(id).process.take().expect("the node runs");
        let status = wait_for("the end of a process", SOON, || process.try_wait().unwrap());
        self.node_mut(id).stopped = false;
        status
    }

    fn node(&self, id: u64) -> &Node {
        &self.nodes[id as usize - 1]
    }

    fn node_mut(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
        if thread::panicking() {
            for node in &self.nodes {
                let log = fs::read_to_string(&node.log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(80)..];
                println!("--- node {}, the end of its log:\n{}", node.id, last.join("\n"));
            }
        }
    }
}

impl Node {
    fn new(id: u64, host: &Host, folder: &Path) -> Node {
        Node {
            id,
            client: host.address(id * 4 + 1),
            peer: host.address(id * 4 + 2),
            admin: host.address(id * 4 + 3),
            config: folder.join(format!("node{id}.toml")),
            log: folder.join(format!("node{id}.log")),
            process: None,
            stopped: false,
        }
    }

    /// A child that has ended is a zombie until it is waited for.
    fn assert_runs(&self) {
        if let Some(process) = &self.process {
            let stat = process_stat(process.id());
            let state = stat.as_ref().and_then(|fields| fields.first());
            assert_ne!(
                state.map(String::as_str),
                Some("Z"),
                "node {} ended by itself",
                self.id
            );
        }
    }

    fn spawn(&mut self) {
        assert!(self.process.is_none(), "node {} runs already", self.id);
        let log: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap();
        let mut command = Command::new(crate::raftline());
        command
            .arg("serve")
            .arg("--config")
            .arg(&self.config)
            .env_remove("NOTIFY_SOCKET");
        // The environment wins over the file, and a person may have set something for another node.
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("RAFTLINE_"))
        {
            command.env_remove(key);
        }
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.process = Some(command.spawn().expect("the binary starts"));
    }
}

/// A loopback address and a range of 64 ports on it that nobody else uses.
pub struct Host {
    ip: Ipv4Addr,
    port: u16,
}

impl Host {
    /// The address is made from the process number, the ports from a counter.
    pub fn reserve() -> Host {
        static NEXT_PORT: AtomicU16 = AtomicU16::new(10_000);
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, 64 + high % 64, middle, low);
        loop {
            let host = Host {
                ip,
                port: NEXT_PORT.fetch_add(64, Ordering::Relaxed),
            };
            if (0..64).all(|n| TcpListener::bind(host.address(n)).is_ok()) {
                return host;
            }
        }
    }

    /// One of its 64 addresses.
    pub fn address(&self, n: u64) -> SocketAddr {
        assert!(n < 64);
        (self.ip, self.port + n as u16).into()
    }
}

/// Keeps as many clusters running at once as there are cores, or one alone where time is measured.
struct Turn {
    weight: usize,
}

static TURNS: Mutex<Turns> = Mutex::new(Turns {
    taken: 0,
    alone_waits: 0,
});
static TURN_ENDED: Condvar = Condvar::new();

struct Turns {
    taken: usize,
    alone_waits: usize,
}

impl Turn {
    fn wait(alone: bool) -> Turn {
        let room = thread::available_parallelism().map_or(1, |n| n.get());
        let weight = if alone { room } else { 1 };
        let mut turns = TURNS.lock().unwrap();
        turns.alone_waits += usize::from(alone);
        while turns.taken + weight > room || (!alone && turns.alone_waits > 0) {
            turns = TURN_ENDED.wait(turns).unwrap();
        }
        turns.alone_waits -= usize::from(alone);
        turns.taken += weight;
        drop(turns);
        TURN_ENDED.notify_all();
        Turn { weight }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TURNS.lock().unwrap().taken -= self.weight;
        TURN_ENDED.notify_all();
    }
}

/// The fields of /proc/PID/stat from the third on (state, parent, …); `None` when there is no such process.
pub fn process_stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_whitespace().map(String::from).collect())
}

/// The processor time that a process has used, its threads together. (`stat` counts in hundredths of a second,
/// which is too coarse for a process that does nothing.)
pub fn cpu_time(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let nanoseconds = |thread: fs::DirEntry| {
        let schedstat = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        schedstat
            .split_whitespace()
            .next()
            .and_then(|field| field.parse().ok())
            .unwrap_or(0)
    };
    Duration::from_nanos(threads.map(|thread| nanoseconds(thread.unwrap())).sum())
}

/// The memory of a process that is in RAM, in bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Lets this process and those it starts open as many files as the system allows; how many that is.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(1 << 20);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(most),
            maximum: limit.maximum,
        },
    )
    .unwrap();
    most
}
