//! The numbers that the README speaks of, each on three real `raftline serve` processes with default timers:
//!
//! ```sh
//! cargo run --release --example measure -- failover     # the longest gap between two acknowledged writes
//! cargo run --release --example measure -- latency      # one client's writes beside fdatasync on the same disk
//! cargo run --release --example measure -- throughput   # 64 clients, through the leader and through all nodes
//! cargo run --release --example measure -- idle         # processor time of nodes with nothing to do
//! cargo run --release --example measure -- restart      # a million keys: a snapshot, and a restart
//! cargo run --release --example measure -- membership   # nodes come, go, and come back wiped; 16 clients notice?
//! cargo run --release --example measure -- catch-up     # a follower cut off for a million writes, and what others pay
//! cargo run --release --example measure -- install      # stale reads while a snapshot of a million keys is installed
//! cargo run --release --example measure -- feeds        # what 1000 change feeds on a node cost its writers
//! ```
//!
//! The nodes write below the folder for temporary files (`TMPDIR`), which should be on the disk in question.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use client::{Client, Reply};
use harness::{Cluster, SOON, cpu_time, let_pass, wait_for};
use raftline::base::rng::Rng;

#[allow(dead_code)]
#[path = "../tests/cluster/client.rs"]
mod client;
#[path = "measure/feeds.rs"]
mod feeds;
#[allow(dead_code)]
#[path = "../tests/cluster/harness.rs"]
mod harness;
#[path = "measure/members.rs"]
mod members;
#[allow(dead_code)]
#[path = "../tests/cluster/proxy.rs"]
mod proxy;

const VALUE_BYTES: usize = 128;

fn main() {
    build();
    let measurements: [(&str, fn()); 9] = [
        ("failover", failover),
        ("latency", latency),
        ("throughput", throughput),
        ("idle", idle),
        ("restart", restart),
        ("membership", members::membership),
        ("catch-up", members::catch_up),
        ("install", members::install),
        ("feeds", feeds::feeds),
    ];
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    for name in &wanted {
        match measurements.iter().find(|(known, _)| known == name) {
            Some((_, measure)) => measure(),
            None => panic!(
                "{name}? There are: {}",
                measurements.map(|(known, _)| known).join(", ")
            ),
        }
    }
    assert!(
        !wanted.is_empty(),
        "what? There are: {}",
        measurements.map(|(known, _)| known).join(", ")
    );
}

/// The release binary beside this example.
fn raftline() -> PathBuf {
    let example = std::env::current_exe().unwrap();
    example
        .parent()
        .and_then(|examples| examples.parent())
        .unwrap()
        .join("raftline")
}

/// An example does not bring the binary up to date by itself. Not run by cargo: what is there is measured.
fn build() {
    if let Some(cargo) = std::env::var_os("CARGO") {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let status = Command::new(cargo)
            .args([
                "build",
                "--release",
                "--bin",
                "raftline",
                "--manifest-path",
                manifest,
            ])
            .status();
        assert!(status.unwrap().success(), "the binary does not build");
    }
    assert!(
        raftline().exists(),
        "{} is missing: cargo build --release",
        raftline().display()
    );
}

fn cluster() -> Cluster {
    cluster_with("256MiB")
}

/// Three nodes that take a snapshot when the log behind the last one is larger than so much.
fn cluster_with(snapshot_log_bytes: &str) -> Cluster {
    let cluster = Cluster::builder(3)
        .set("storage", "segment_size = \"64MiB\"")
        .set("storage", &format!("snapshot_log_bytes = {snapshot_log_bytes:?}"))
        .start();
    cluster.whole();
    println!("three nodes below {}", cluster.folder().display());
    cluster
}

/// The value below which half of them are.
fn median<T: Copy + PartialOrd>(values: &[T]) -> T {
    percentile(values, 50)
}

fn percentile<T: Copy + PartialOrd>(values: &[T], percent: usize) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap());
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// What happens to the leader.
#[derive(Clone, Copy, Debug)]
enum Event {
    Sigterm,
    Kill9,
    Sigstop,
}

/// One client writes through a follower all the time, while the leader goes.
fn failover() {
    const ROUNDS: usize = 20;
    let mut cluster = cluster();
    println!("longest gap between two acknowledged writes through a follower, {ROUNDS} rounds, ms:");
    println!("{:>8} {:>8} {:>8} {:>8}", "", "median", "min", "max");
    for event in [Event::Sigterm, Event::Kill9, Event::Sigstop] {
        let gaps: Vec<f64> = (0..ROUNDS)
            .map(|_| failover_round(&mut cluster, event).as_secs_f64() * 1e3)
            .collect();
        let name = format!("{event:?}");
        println!(
            "{name:>8} {:>8.1} {:>8.1} {:>8.1}",
            median(&gaps),
            percentile(&gaps, 0),
            percentile(&gaps, 100)
        );
    }
}

fn failover_round(cluster: &mut Cluster, event: Event) -> Duration {
    cluster.whole();
    let old = cluster.leader();
    let others = cluster.ids_without(old);
    let through = cluster.client_address(others[0]);
    let acknowledged = Mutex::new(Vec::new());
    let stopped = AtomicBool::new(false);
    let more = |count: usize| {
        let before = acknowledged.lock().unwrap().len();
        wait_for("acknowledged writes", SOON, || {
            (acknowledged.lock().unwrap().len() >= before + count).then_some(())
        });
    };
    thread::scope(|scope| {
        scope.spawn(|| write_until(&stopped, through, &acknowledged));
        more(100);
        match event {
            Event::Sigterm => drop(cluster.terminate(old)),
            Event::Kill9 => cluster.kill_9(old),
            Event::Sigstop => cluster.stop(old),
        }
        cluster.leader_among(&others);
        more(100);
        stopped.store(true, Ordering::SeqCst);
    });
    match event {
        Event::Sigstop => cluster.cont(old),
        Event::Sigterm | Event::Kill9 => cluster.restart(old),
    }
    let moments = acknowledged.into_inner().unwrap();
    moments
        .windows(2)
        .map(|pair: &[Instant]| pair[1] - pair[0])
        .max()
        .unwrap()
}

/// Writes one after the other, and notes when each was acknowledged. What is refused is tried again.
fn write_until(stopped: &AtomicBool, address: SocketAddr, acknowledged: &Mutex<Vec<Instant>>) {
    const BEFORE_NEXT_TRY: Duration = Duration::from_millis(1);
    let mut client = Client::connect(address, SOON).unwrap();
    for n in 0_u64.. {
        if stopped.load(Ordering::SeqCst) {
            return;
        }
        match client.call(&format!("SET failover {n}")).unwrap() {
            Reply::Text(_) => acknowledged.lock().unwrap().push(Instant::now()),
            _ => let_pass(BEFORE_NEXT_TRY),
        }
    }
}

/// One client's writes through the leader; after each one, as much is written and synced by this process.
fn latency() {
    const WRITES: usize = 3000;
    const WARM_UP: usize = 200;
    const RECORD_BYTES: usize = 160;
    let cluster = cluster();
    let mut client = cluster.client(cluster.leader());
    let file = zeroed_file(cluster.folder().join("floor"), (WRITES + WARM_UP) * RECORD_BYTES).unwrap();
    let value = "v".repeat(VALUE_BYTES);
    let (mut writes, mut syncs) = (vec![], vec![]);
    for n in 0..WRITES + WARM_UP {
        let start = Instant::now();
        assert_eq!(
            client.call(&format!("SET latency:{n} {value}")).unwrap(),
            Reply::ok()
        );
        writes.push(start.elapsed());
        let start = Instant::now();
        file.write_all_at(&[7; RECORD_BYTES], (n * RECORD_BYTES) as u64)
            .unwrap();
        file.sync_data().unwrap();
        syncs.push(start.elapsed());
    }
    let (writes, syncs) = (&writes[WARM_UP..], &syncs[WARM_UP..]);
    println!(
        "{WRITES} writes of {VALUE_BYTES} bytes, one client, beside fdatasync of {RECORD_BYTES} bytes, µs:"
    );
    println!("{:>10} {:>8} {:>8}", "", "median", "p99");
    for (name, times) in [("write", writes), ("fdatasync", syncs)] {
        println!(
            "{name:>10} {:>8} {:>8}",
            median(times).as_micros(),
            percentile(times, 99).as_micros()
        );
    }
    println!(
        "ratio of the medians: {:.2}",
        median(writes).as_secs_f64() / median(syncs).as_secs_f64()
    );
}

/// A file written through once, as a segment of the log is before it is used.
fn zeroed_file(path: PathBuf, bytes: usize) -> io::Result<File> {
    let mut file = OpenOptions::new().create_new(true).write(true).open(path)?;
    file.write_all(&vec![0; bytes])?;
    file.sync_all()?;
    Ok(file)
}

/// 64 connections, each with one write under way.
fn throughput() {
    const RUNS: usize = 5;
    let cluster = cluster();
    let leader = vec![cluster.client_address(cluster.leader())];
    let all = cluster.addresses();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    println!("acknowledged writes/s of {VALUE_BYTES} bytes, 64 connections, {RUNS} runs:");
    println!("{:>14} {:>8} {:>8} {:>8}", "", "median", "min", "max");
    let mut rates = [vec![], vec![]];
    for _ in 0..RUNS {
        for (addresses, rates) in [&leader, &all].into_iter().zip(&mut rates) {
            rates.push(runtime.block_on(closed_loop(addresses)));
        }
    }
    for (name, rates) in ["to the leader", "to all nodes"].into_iter().zip(&rates) {
        println!(
            "{name:>14} {:>8.0} {:>8.0} {:>8.0}",
            median(rates),
            percentile(rates, 0),
            percentile(rates, 100)
        );
    }
    assert_eq!(
        vec![cluster.client_address(cluster.leader())],
        leader,
        "the leader changed meanwhile"
    );
}

/// Writes a second from 64 connections that each wait for a reply before they write again.
async fn closed_loop(addresses: &[SocketAddr]) -> f64 {
    const CONNECTIONS: usize = 64;
    const WARM_UP: Duration = Duration::from_secs(1);
    const TIME: Duration = Duration::from_secs(5);
    let count = AtomicU64::new(0);
    let connections = (0..CONNECTIONS).map(|n| write_forever(addresses[n % addresses.len()], n, &count));
    let work = futures::future::try_join_all(connections);
    let measured = async {
        tokio::time::sleep(WARM_UP).await;
        let (before, start) = (count.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(TIME).await;
        (count.load(Ordering::Relaxed) - before) as f64 / start.elapsed().as_secs_f64()
    };
    tokio::select! {
        failed = work => panic!("a connection failed: {failed:?}"),
        rate = measured => rate,
    }
}

async fn write_forever(address: SocketAddr, connection: usize, count: &AtomicU64) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let request = format!("SET load:{connection} {}\n", "v".repeat(VALUE_BYTES));
    loop {
        write_one(&mut stream, &request).await?;
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// One write, to the end of its reply.
async fn write_one(stream: &mut TcpStream, request: &str) -> io::Result<()> {
    let mut reply = [0; 256];
    stream.write_all(request.as_bytes()).await?;
    let mut read = 0;
    while read == 0 || reply[read - 1] != b'\n' {
        match stream.read(&mut reply[read..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => read += more,
        }
    }
    if !reply.starts_with(b"+OK") {
        return Err(io::Error::other(
            String::from_utf8_lossy(&reply[..read]).into_owned(),
        ));
    }
    Ok(())
}

/// Nobody is connected, nothing is written. Ends with an error when a node breaks the promise of the README.
fn idle() {
    const WINDOW: Duration = Duration::from_secs(30);
    const PROMISED_PERCENT: f64 = 1.0;
    let cluster = cluster();
    let leader = cluster.leader();
    let before: Vec<Duration> = cluster
        .ids()
        .iter()
        .map(|id| cpu_time(cluster.pid(*id)))
        .collect();
    let_pass(WINDOW);
    println!("processor time in {WINDOW:?} with nothing to do, percent of one core:");
    for (id, before) in cluster.ids().into_iter().zip(before) {
        let used = cpu_time(cluster.pid(id)) - before;
        let percent = 100.0 * used.as_secs_f64() / WINDOW.as_secs_f64();
        println!(
            "node {id} ({}): {percent:.2}",
            if id == leader { "leader" } else { "follower" }
        );
        assert!(
            percent < PROMISED_PERCENT,
            "under {PROMISED_PERCENT} % is what the README promises"
        );
    }
}

/// What snapshots cost: the time to take one, what writes notice of it, and how long until a node that was killed
/// serves linearizable reads again. Ends with an error when a restart takes longer than it may.
fn restart() {
    const KEYS: usize = 1_000_000;
    const READY: Duration = Duration::from_secs(3);
    let mut cluster = cluster();
    let leader = cluster.leader();
    let start = Instant::now();
    load(&mut cluster.client(leader), KEYS);
    println!(
        "{KEYS} keys of {VALUE_BYTES} bytes: {:.1} s to load",
        start.elapsed().as_secs_f64()
    );
    let resident = |cluster: &Cluster| harness::resident_bytes(cluster.pid(leader)) >> 20;
    println!("memory of the leader: {} MiB", resident(&cluster));
    let quiet = longest_gap(&cluster, leader, || let_pass(Duration::from_secs(3)));
    let mut taken = Duration::ZERO;
    let busy = longest_gap(&cluster, leader, || taken = take_snapshot(&cluster, leader));
    println!("snapshot on the leader: {:.2} s", taken.as_secs_f64());
    println!("longest gap between two writes: {quiet:.1?} before, {busy:.1?} meanwhile");
    println!("memory of the leader: {} MiB", resident(&cluster));
    let node = cluster.follower();
    take_snapshot(&cluster, node);
    for _ in 0..3 {
        cluster.kill_9(node);
        let start = Instant::now();
        cluster.restart(node);
        wait_for("a read", SOON + SOON, || {
            let mut client = Client::connect(cluster.client_address(node), SOON).ok()?;
            matches!(client.call("STRLEN key:7"), Ok(Reply::Integer(128))).then_some(())
        });
        let ready = start.elapsed();
        println!(
            "restart until the first linearizable read: {:.2} s",
            ready.as_secs_f64()
        );
        assert!(ready < READY, "a node is ready within {READY:?}");
    }
}

/// A value that no other one resembles: of equal ones a snapshot would be a twentieth as large.
fn value(n: u64) -> String {
    let mut rng = Rng::new(n);
    (0..VALUE_BYTES / 16)
        .map(|_| format!("{:016x}", rng.next_u64()))
        .collect()
}

fn load(client: &mut Client, keys: usize) {
    const PIPELINE: usize = 2000;
    for first in (0..keys).step_by(PIPELINE) {
        let lines: Vec<String> = (first..first + PIPELINE)
            .map(|n| format!("SET key:{n} {}", value(n as u64)))
            .collect();
        client.send(&lines.join("\n")).unwrap();
        let replies: Vec<Reply> = lines.iter().map(|_| client.receive().unwrap()).collect();
        // A busy machine may change the leader meanwhile; what is refused then is written again.
        for (line, _) in lines
            .iter()
            .zip(replies)
            .filter(|(_, reply)| *reply != Reply::ok())
        {
            wait_for("a write", SOON, || {
                (client.call(line).unwrap() == Reply::ok()).then_some(())
            });
        }
    }
}

/// How long it takes until there is a snapshot of what is applied now.
fn take_snapshot(cluster: &Cluster, id: u64) -> Duration {
    let (start, applied) = (Instant::now(), cluster.status(id).unwrap().applied);
    let reply = cluster.call(id, "RAFT SNAPSHOT");
    assert!(
        reply == Reply::ok() || reply.code() == Some("UNKNOWNRESULT"),
        "{reply:?}"
    );
    wait_for("a snapshot", SOON, || {
        cluster
            .status(id)
            .filter(|status| status.snapshot_index >= applied)
    });
    start.elapsed()
}

/// Waits until the log of a node begins behind an index, so that who stands there needs the snapshot.
fn wait_for_log_after(cluster: &Cluster, id: u64, index: u64) {
    wait_for("a log that begins later", SOON, || {
        let status = cluster.status(id)?;
        (status.first_index > index + 1).then_some(())
    });
}

/// 64 connections, each with one write under way, to so many keys in turn.
async fn write_keys_until(stopped: &AtomicBool, address: SocketAddr, count: &AtomicU64, keys: u64) {
    const CONNECTIONS: usize = 64;
    let next = AtomicU64::new(0);
    let write = async |_| -> io::Result<()> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        while !stopped.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let line = format!("SET key:{} {}\n", n % keys, value(n));
            write_one(&mut stream, &line).await?;
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    futures::future::try_join_all((0..CONNECTIONS).map(write))
        .await
        .unwrap();
}

/// The longest time between two acknowledged writes of one client while something happens.
fn longest_gap(cluster: &Cluster, id: u64, event: impl FnOnce()) -> Duration {
    let (stopped, acknowledged) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let address = cluster.client_address(id);
    thread::scope(|scope| {
        scope.spawn(|| write_until(&stopped, address, &acknowledged));
        event();
        stopped.store(true, Ordering::SeqCst);
    });
    let moments = acknowledged.into_inner().unwrap();
    let gaps = moments.windows(2).map(|pair: &[Instant]| pair[1] - pair[0]);
    gaps.max().unwrap()
}
