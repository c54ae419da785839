//! raftline beside Redis on the same disk and the same cores, in one run:
//!
//! ```sh
//! cargo bench --bench compare                     # three rounds of 3 s for each load
//! cargo bench --bench compare -- --rounds 7 --seconds 10
//! ```
//!
//! Three nodes of `raftline dev`, and one `redis-server` with `appendfsync always` (Debian's package), take the same
//! loads of `raftline bench` in turn, so that a busy minute meets both; what is printed are medians, and the ratio to
//! Redis in the same run. Beside them what one durable write to this disk takes. Without redis-server on the PATH
//! raftline is measured alone.
//!
//! Missing: etcd, which needs a client that speaks gRPC.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};

#[derive(Parser)]
struct Arguments {
    /// How often each load is run on each server
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long each run is
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

const LOADS: [(&str, &[&str]); 6] = [
    ("1 client", &["-c", "1"]),
    ("64 clients", &["-c", "64"]),
    ("256 clients", &["-c", "256"]),
    ("64 clients × 16 deep", &["-c", "64", "-p", "16"]),
    ("64 readers", &["-c", "64", "--reads", "100"]),
    (
        "64 readers × 16 deep",
        &["-c", "64", "-p", "16", "--reads", "100"],
    ),
];

/// A process that ends with its owner.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::INT);
        let _ = self.0.wait();
    }
}

/// Requests per second, and the p50 in µs, of each run.
type Runs = Vec<(f64, f64)>;

fn main() {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir().unwrap();
    println!(
        "one write of 4 KiB and fdatasync, one at a time: p50 {} µs",
        sync_us(folder.path())
    );
    let (_cluster, cluster_address) = cluster(folder.path());
    let redis = redis(folder.path());
    let mut servers = vec![("raftline", cluster_address, ["--to", "leader"].as_slice())];
    match &redis {
        Some((_, address)) => servers.push(("redis", address.clone(), &[])),
        None => println!("redis-server is not here, so there is nothing to compare with"),
    }
    println!(
        "{:<22} {:>28} {:>28} {:>7}",
        "", "raftline, 3 nodes", "redis, 1 node", "ratio"
    );
    for (name, load) in LOADS {
        let mut runs: BTreeMap<&str, Runs> = BTreeMap::new();
        for _ in 0..arguments.rounds {
            for (server, address, more) in &servers {
                let run = bench(address, &[load, more].concat(), arguments.seconds);
                runs.entry(*server).or_default().push(run);
            }
        }
        let shown = |server: &str| {
            let runs = runs.get(server)?;
            Some((
                median(runs.iter().map(|run| run.0)),
                median(runs.iter().map(|run| run.1)),
            ))
        };
        let text = |run: Option<(f64, f64)>| {
            run.map_or(String::new(), |(rate, p50)| {
                format!("{rate:.0}/s, p50 {p50:.0} µs")
            })
        };
        let (ours, theirs) = (shown("raftline"), shown("redis"));
        let ratio = ours.zip(theirs).map_or(String::new(), |(ours, theirs)| {
            format!("{:.2}", ours.0 / theirs.0)
        });
        println!("{name:<22} {:>28} {:>28} {ratio:>7}", text(ours), text(theirs));
    }
}

/// One load on one server.
fn bench(address: &str, load: &[&str], seconds: u64) -> (f64, f64) {
    let output = Command::new(env!("CARGO_BIN_EXE_raftline"))
        .args([
            "bench",
            "--json",
            "--warmup",
            "500ms",
            "--addr",
            address,
            "--duration",
        ])
        .arg(format!("{seconds}s"))
        .args(load)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "the load did not run");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["failed"], &json["lost"]), (&0.into(), &0.into()), "{json}");
    (
        json["rate"].as_f64().unwrap(),
        json["latency"]["p50"].as_f64().unwrap(),
    )
}

/// Three nodes, and the client address of one.
fn cluster(folder: &Path) -> (Server, String) {
    let port = free_port();
    let mut dev = Command::new(env!("CARGO_BIN_EXE_raftline"))
        .args(["dev", "--base-port", &port.to_string(), "--dir"])
        .arg(folder.join("raftline"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(dev.stdout.take().unwrap());
    let server = Server(dev);
    let mut lines = said.lines().map_while(Result::ok);
    assert!(
        lines.any(|line| line.starts_with("ready")),
        "the cluster does not start"
    );
    // Whoever is not read from blocks one day.
    std::thread::spawn(move || lines.for_each(drop));
    (server, format!("127.0.0.1:{port}"))
}

fn redis(folder: &Path) -> Option<(Server, String)> {
    let folder = folder.join("redis");
    std::fs::create_dir(&folder).unwrap();
    let port = free_port().to_string();
    let arguments = [
        "--port",
        &port,
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--save",
        "",
        "--dir",
    ];
    let child = Command::new("redis-server")
        .args(arguments)
        .arg(&folder)
        .stdout(Stdio::null())
        .spawn();
    let server = Server(child.ok()?);
    let address = format!("127.0.0.1:{port}");
    let begin = Instant::now();
    while std::net::TcpStream::connect(&address).is_err() {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "redis-server does not start"
        );
        std::thread::yield_now();
    }
    Some((server, address))
}

/// The first of 30 ports, all of which were free a moment ago: each node takes ten.
fn free_port() -> u16 {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let from = |port: &u16| (0..30).all(|n| is_free(port + n));
    (21_000..29_000).step_by(30).find(from).expect("free ports")
}

/// What one durable write takes where the servers write.
fn sync_us(folder: &Path) -> u128 {
    const WRITES: u64 = 500;
    let file = File::create(folder.join("sync")).unwrap();
    let page = [7; 4096];
    (0..WRITES).for_each(|n| file.write_all_at(&page, n * 4096).unwrap());
    file.sync_all().unwrap();
    let time = |n: u64| {
        let begin = Instant::now();
        file.write_all_at(&page, n * 4096).unwrap();
        file.sync_data().unwrap();
        begin.elapsed().as_micros()
    };
    median((0..WRITES).map(|n| time(n) as f64)) as u128
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
