//! The lines of the first system's diary that only whole processes can show; those about the protocol alone
//! are tests of `raft`.

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::client::{Client, Reply};
use crate::harness::{self, Cluster, REQUEST_TIMEOUT, SOON, Status, let_pass, wait_for, wait_until};
use crate::workload::{Roaming, Writers, meanwhile};

/// How much more everything costs without the compiler's optimisation. The diary's number is about the
/// optimised binary.
const UNOPTIMISED: u32 = if cfg!(debug_assertions) { 3 } else { 1 };

/// One node stopped answering, and a missing reply ended every other process.
#[test]
fn diary_dead_peer_harms_nobody() {
    for nodes in [3, 5] {
        let mut cluster = Cluster::start(nodes);
        let leader = cluster.leader();
        let (sick, other) = (cluster.ids_without(leader)[0], cluster.ids_without(leader)[1]);
        let writes = |cluster: &Cluster, what: &str| {
            for id in [leader, other] {
                for n in 0..50 {
                    let reply = cluster.call(id, &format!("SET dead:{id}:{n} {n}"));
                    assert_eq!(reply, Reply::ok(), "through {id}, while a node {what}");
                }
            }
            cluster.assert_all_run();
            assert_eq!(cluster.leader(), leader, "while a node {what}");
        };
        cluster.stop(sick);
        writes(&cluster, "hangs");
        cluster.cont(sick);
        cluster.kill_9(sick);
        writes(&cluster, "is dead");
        let rubbish = Rubbish::listen(cluster.peer_address(sick));
        wait_for("calls to the node that talks rubbish", SOON, || {
            (rubbish.calls() >= 2).then_some(())
        });
        writes(&cluster, "talks rubbish");
        drop(rubbish);
        cluster.restart(sick);
        cluster.whole();
    }
}

/// A listener that answers everything with bytes that mean nothing.
struct Rubbish {
    address: SocketAddr,
    calls: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Rubbish {
    const END: u64 = u64::MAX / 2;

    fn listen(address: SocketAddr) -> Rubbish {
        let listener = TcpListener::bind(address).unwrap();
        let calls = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&calls);
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if counted.fetch_add(1, Ordering::SeqCst) >= Rubbish::END {
                    return;
                }
                // A frame of 64 bytes that decodes to nothing, and then one that is four gigabytes long.
                let frames = [&[0, 0, 0, 64][..], &[0xa5; 64], &[0xff; 64]].concat();
                let _ = stream.and_then(|mut stream| stream.write_all(&frames));
            }
        });
        Rubbish {
            address,
            calls,
            thread: Some(thread),
        }
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Drop for Rubbish {
    /// Frees the address before it returns.
    fn drop(&mut self) {
        self.calls.fetch_add(Rubbish::END, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

/// An empty loop starved the whole process.
///
/// Idle nodes use under 1 % of a core each. A loop that polls shows in every window, and what another
/// process does to the caches of this machine does not.
#[test]
fn diary_idle_costs_nothing() {
    const WINDOW: Duration = Duration::from_secs(5);
    const WINDOWS: usize = 3;
    let cluster = Cluster::builder(3).alone().start();
    cluster.whole();
    let used = (0..WINDOWS).map(|_| {
        let now = || {
            cluster
                .ids()
                .into_iter()
                .map(|id| harness::cpu_time(cluster.pid(id)))
        };
        let before: Vec<Duration> = now().collect();
        let_pass(WINDOW);
        now()
            .zip(before)
            .map(|(after, before)| after - before)
            .max()
            .unwrap()
    });
    let least = used.min().unwrap();
    assert!(
        least < WINDOW / 100 * UNOPTIMISED,
        "a node uses {least:?} of {WINDOW:?}, with nothing to do"
    );
}

/// A connection per call ate the bandwidth.
#[test]
fn diary_connections_are_kept() {
    for nodes in [3, 5] {
        let cluster = Cluster::builder(nodes).proxied().start();
        let writers = Writers::new(&cluster.addresses(), 4);
        meanwhile(4, |n| writers.write(n), || writers.wait_for_more(1000));
        for id in cluster.ids() {
            cluster.call(id, "GET written:0");
        }
        cluster.whole();
        for from in cluster.ids() {
            for to in cluster.ids_without(from) {
                let dialed = cluster.proxy().dialed(from, to);
                assert_eq!(dialed, 1, "connections from {from} to {to}, of {nodes} nodes");
            }
        }
    }
}

/// Sending and counting only at every tick gave 50 operations a second.
///
/// Here nothing ticks: heartbeats are ten minutes apart and elections an hour away, so a single write that waits for
/// a tick fails, however fast or slow this machine is. How long the writes take, `examples/measure.rs` says.
#[test]
fn diary_writes_do_not_wait_for_the_tick() {
    let mut cluster = Cluster::builder(3)
        .set("raft", "heartbeat_interval = \"50ms\"")
        .set("raft", "election_timeout = \"500ms\"")
        .start();
    let ticking = cluster.leader();
    let others = cluster.ids_without(ticking);
    for id in &others {
        cluster.kill_9(*id);
        cluster.reconfigure(*id, "\"50ms\"", "\"10m\"");
        cluster.reconfigure(*id, "\"500ms\"", "\"1h\"");
        cluster.restart(*id);
        cluster.caught_up(*id);
    }
    let [leader, follower] = others[..] else {
        panic!("two others")
    };
    wait_until("a leader that does not tick", SOON, || {
        match cluster.call(ticking, &format!("RAFT TRANSFER {leader}")) {
            reply if reply == Reply::ok() => Ok(()),
            reply => Err(reply),
        }
    });
    assert_eq!(cluster.leader(), leader);
    cluster.kill_9(ticking);
    write_and_read_back(&cluster, leader, 1000);
    write_and_read_back(&cluster, follower, 200);
    assert_eq!(cluster.leader_among(&others), leader);
}

/// So many writes by one client, one after the other; what they wrote is there afterwards.
fn write_and_read_back(cluster: &Cluster, id: u64, count: u32) {
    let mut client = cluster.client(id);
    for n in 1..=count {
        assert_eq!(
            client.call(&format!("SET tick {n}")).unwrap(),
            Reply::ok(),
            "write {n}"
        );
    }
    assert_eq!(client.call("GET tick").unwrap(), Reply::text(count.to_string()));
}

/// A follower that forwarded a command deadlocked the commit check.
#[test]
fn diary_forwarding_holds_no_lock() {
    for nodes in [3, 5] {
        let mut cluster = Cluster::start(nodes);
        let addresses = cluster.addresses();
        let clients: Vec<_> = (0..4 * addresses.len())
            .map(|n| Mutex::new(Roaming::new(&addresses, n)))
            .collect();
        let answered = AtomicU64::new(0);
        let work = |n: usize| {
            answered.fetch_add(pipeline(&mut clients[n].lock().unwrap()), Ordering::Relaxed);
        };
        let more = |count| {
            let before = answered.load(Ordering::Relaxed);
            wait_for("answers", SOON, || {
                (answered.load(Ordering::Relaxed) >= before + count).then_some(())
            });
        };
        meanwhile(clients.len(), work, || {
            more(500);
            for _ in 0..8 {
                let target = cluster.follower();
                // An error is fine: the cluster is busy, and leadership may move by itself meanwhile.
                cluster.call(target, &format!("RAFT TRANSFER {target}"));
                more(200);
            }
            for _ in 0..2 {
                let leader = cluster.leader();
                cluster.kill_9(leader);
                more(200);
                cluster.restart(leader);
                more(200);
            }
        });
        cluster.whole();
    }
}

/// Ten requests at once on one connection: how many were answered. Panics if one is left without an answer for
/// longer than the node itself would wait.
fn pipeline(roaming: &mut Roaming) -> u64 {
    let Some(client) = roaming.client() else {
        let_pass(Duration::from_millis(2));
        return 0;
    };
    let start = Instant::now();
    let mut answered = 0;
    let mut result = client.send(&["INCR forwarded", "GET forwarded"].repeat(5).join("\n"));
    while result.is_ok() && answered < 10 {
        result = client.receive().map(|_| answered += 1);
    }
    if let Err(error) = result {
        let late = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        assert!(
            !late,
            "no answer after {:?}, {answered} of 10 came",
            start.elapsed()
        );
        roaming.leave(); // the node was killed
    }
    assert!(
        start.elapsed() < REQUEST_TIMEOUT,
        "{answered} answers took {:?}",
        start.elapsed()
    );
    answered
}

/// Five nodes are the reference size: two may be missed, the third may not. (The other cluster tests run with
/// three and with five.)
#[test]
fn diary_five_nodes() {
    let mut cluster = Cluster::start(5);
    let writers = Writers::new(&cluster.addresses(), 4);
    let mut down = vec![];
    meanwhile(
        4,
        |n| writers.write(n),
        || {
            for _ in 0..2 {
                let leader = cluster.leader();
                cluster.kill_9(leader);
                down.push(leader);
                writers.wait_for_more(50);
            }
        },
    );
    let leader = cluster.leader();
    let third = cluster
        .ids()
        .into_iter()
        .find(|id| *id != leader && !down.contains(id))
        .unwrap();
    cluster.kill_9(third);
    let reply = cluster.call(leader, "SET two of five");
    assert!(
        reply.code().is_some(),
        "two of five acknowledged a write: {reply:?}"
    );
    for id in down.into_iter().chain([third]) {
        cluster.restart(id);
    }
    cluster.leader();
    cluster.whole();
    for id in cluster.ids() {
        writers.assert_all_there(&cluster, id);
    }
}

/// Timers were stretched from milliseconds to seconds to see anything: `dev --slow` does that.
#[test]
fn diary_slow_motion() {
    const SLOW: u32 = 5;
    const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);
    const HEARTBEAT: Duration = Duration::from_millis(50);
    let dev = Dev::start(SLOW);
    let old = dev.leader();
    let process = dev.node_process(old.node);
    kill_process(process, Signal::STOP).unwrap();
    let start = Instant::now();
    wait_for("a new leader", SOON, || {
        dev.statuses()
            .into_iter()
            .find(|s| s.role == "leader" && s.term > old.term)
    });
    let took = start.elapsed();
    // Not before the shortest election timeout after the last heartbeat. Without --slow it is all over by then.
    assert!(
        took > (ELECTION_TIMEOUT - HEARTBEAT) * SLOW,
        "a new leader after {took:?} only"
    );
    kill_process(process, Signal::CONT).unwrap();
    let nodes: Vec<Pid> = (1..=3).map(|id| dev.node_process(id)).collect();
    drop(dev);
    for node in nodes {
        let gone = || {
            harness::process_stat(node.as_raw_nonzero().get() as u32)
                .is_none()
                .then_some(())
        };
        wait_for("the nodes to end with dev", SOON, gone);
    }
}

/// `raftline dev` with three nodes.
struct Dev {
    process: Child,
    base_port: u16,
    _folder: tempfile::TempDir,
}

impl Dev {
    fn start(slow: u32) -> Dev {
        let folder = tempfile::TempDir::with_prefix("raftline-test-").unwrap();
        let base_port = free_base_port();
        let mut command = Command::new(crate::raftline());
        command.args([
            "dev",
            "--slow",
            &slow.to_string(),
            "--base-port",
            &base_port.to_string(),
            "--dir",
        ]);
        command.arg(folder.path().join("dev")).stdin(Stdio::null());
        command.stdout(fs::File::create(folder.path().join("dev.log")).unwrap());
        Dev {
            process: command.spawn().unwrap(),
            base_port,
            _folder: folder,
        }
    }

    /// What those nodes say that answer at once.
    fn statuses(&self) -> Vec<Status> {
        let status = |k: u16| {
            let address = (Ipv4Addr::LOCALHOST, self.base_port + 10 * k).into();
            let mut client = Client::connect(address, Duration::from_millis(300)).ok()?;
            match client.call("RAFT STATUS").ok()? {
                Reply::Text(json) => serde_json::from_str(&json).ok(),
                _ => None,
            }
        };
        (0..3).filter_map(status).collect()
    }

    fn leader(&self) -> Status {
        wait_for("a leader of dev", SOON + SOON, || {
            self.statuses().into_iter().find(|s| s.role == "leader")
        })
    }

    /// The child of dev whose configuration says that it is this node.
    fn node_process(&self, id: u64) -> Pid {
        let dev = self.process.id().to_string();
        let all = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        let mut children = all.filter_map(|name| name.parse::<u32>().ok()).filter(|pid| {
            harness::process_stat(*pid).is_some_and(|stat| stat[1] == dev) && node_of(*pid) == Some(id)
        });
        let pid = children
            .next()
            .unwrap_or_else(|| panic!("dev has no child that is node {id}"));
        Pid::from_raw(pid as i32).unwrap()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.process);
        let _ = kill_process(pid, Signal::INT);
        let start = Instant::now();
        while start.elapsed() < SOON && self.process.try_wait().is_ok_and(|status| status.is_none()) {
            let_pass(Duration::from_millis(5));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Which node a process is, by the configuration that its command line names.
fn node_of(pid: u32) -> Option<u64> {
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    let config = command
        .split('\0')
        .skip_while(|word| *word != "--config")
        .nth(1)?;
    let table: toml::Table = fs::read_to_string(Path::new(config)).ok()?.parse().ok()?;
    u64::try_from(table.get("node")?.get("id")?.as_integer()?).ok()
}

/// A port of 127.0.0.1 below those that connections get, with the 29 after it free as well.
fn free_base_port() -> u16 {
    let first = 10_000 + (std::process::id() % 500) as u16 * 40;
    let free = |base: &u16| (0..30).all(|n| TcpListener::bind((Ipv4Addr::LOCALHOST, base + n)).is_ok());
    (first..32_000).step_by(40).find(free).expect("thirty free ports")
}
