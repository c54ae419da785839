//! Nodes that come, go, come back with nothing, and come back late, while clients work.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, Reply};
use crate::harness::{Cluster, SOON, cpu_time, let_pass, wait_for, wait_until};
use crate::{VALUE_BYTES, load, median, take_snapshot, wait_for_log_after};

const CLIENTS: usize = 16;
/// Changes that wait for a node to catch up take a while.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(70);

/// What the clients saw.
#[derive(Default)]
struct Seen {
    acknowledged: AtomicU64,
    failed: AtomicU64,
    /// When the last write was acknowledged, and the longest time without one.
    gap: Mutex<Option<(Instant, Duration)>>,
    slowest: Mutex<Duration>,
}

impl Seen {
    fn acknowledged(&self, took: Duration) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let gap = &mut *self.gap.lock().unwrap();
        let longest = gap.map_or(Duration::ZERO, |(last, longest)| longest.max(now - last));
        *gap = Some((now, longest));
        let slowest = &mut *self.slowest.lock().unwrap();
        *slowest = took.max(*slowest);
    }
}

/// The value dropped, the work ends, also when a check has failed.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Sixteen clients write through some nodes while `events` happens. Prints what they saw; not one write may fail.
fn while_clients_write(
    cluster: &mut Cluster,
    through: &[u64],
    what: &str,
    events: impl FnOnce(&mut Cluster),
) {
    const GAP: Duration = Duration::from_secs(1);
    let addresses: Vec<_> = through.iter().map(|id| cluster.client_address(*id)).collect();
    let (seen, stopped) = (Seen::default(), AtomicBool::new(false));
    let value = "v".repeat(VALUE_BYTES);
    let write = |n: usize| {
        let mut client = Client::connect(addresses[n % addresses.len()], SOON).unwrap();
        for i in 0_u64.. {
            if stopped.load(Ordering::SeqCst) {
                return;
            }
            let start = Instant::now();
            match client.call(&format!("SET {n}:{} {value}", i % 1000)).unwrap() {
                Reply::Text(_) => seen.acknowledged(start.elapsed()),
                refused => {
                    println!("refused: {refused:?}");
                    seen.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    };
    thread::scope(|scope| {
        let _stop = Stop(&stopped);
        for n in 0..CLIENTS {
            let write = &write;
            scope.spawn(move || write(n));
        }
        let_pass(Duration::from_secs(1));
        events(cluster);
        let_pass(Duration::from_secs(1));
    });
    let (_, gap) = seen.gap.into_inner().unwrap().expect("a write");
    println!(
        "{what:>28}: {:>6} writes, {} failed, longest gap {:>4} ms, slowest write {:>4} ms",
        seen.acknowledged.into_inner(),
        seen.failed.load(Ordering::Relaxed),
        gap.as_millis(),
        seen.slowest.into_inner().unwrap().as_millis(),
    );
    assert_eq!(seen.failed.into_inner(), 0, "not one write may fail");
    assert!(gap < GAP, "no gap of {GAP:?}");
}

/// Asks for a change until it is done: another may be on its way, or a node may not have caught up yet.
fn change(cluster: &Cluster, by: u64, line: &str) {
    let reply = wait_until(line, CHANGE_TIMEOUT, || {
        let mut client = Client::connect(cluster.client_address(by), CHANGE_TIMEOUT).unwrap();
        match client.call(line).unwrap() {
            reply if reply == Reply::ok() => Ok(reply),
            reply => Err(reply),
        }
    });
    assert_eq!(reply, Reply::ok());
}

/// Three nodes grow to five and shrink to three others; then one of those loses its disk and comes back.
pub fn membership() {
    const ROUNDS: usize = 3;
    for _ in 0..ROUNDS {
        let mut cluster = crate::cluster();
        let (four, five) = (cluster.join(), cluster.join());
        while_clients_write(&mut cluster, &[1, 2, 3], "3 nodes grow to 5", |cluster| {
            change(cluster, 2, &format!("{} VOTER", cluster.add_command(four)));
            change(cluster, 3, &format!("{} VOTER", cluster.add_command(five)));
        });
        while_clients_write(
            &mut cluster,
            &[3, four, five],
            "5 nodes shrink to 3 others",
            |cluster| {
                change(cluster, four, "RAFT REMOVE 1");
                change(cluster, five, "RAFT REMOVE 2");
            },
        );
        assert_eq!(cluster.voters(3), [3, 4, 5]);
        cluster.kill_9(1);
        cluster.kill_9(2);
        let leader = cluster.status(3).unwrap().leader.unwrap();
        let (wiped, other) = match leader {
            3 => (four, five),
            4 => (five, 3),
            _ => (3, four),
        };
        while_clients_write(
            &mut cluster,
            &[leader, other],
            "a wiped node comes back",
            |cluster| {
                cluster.kill_9(wiped);
                cluster.wipe(wiped);
                cluster.restart(wiped);
                change(cluster, leader, &format!("{} VOTER", cluster.add_command(wiped)));
            },
        );
        assert_eq!(cluster.voters(wiped), [3, 4, 5]);
        change(&cluster, leader, "RAFT VERIFY");
    }
}

/// The longest time between two answers to a client that reads what a node has, until it is told to end. It pauses
/// between two reads: one that asks all the time takes a third of a core with its node, which the writes then lack.
fn stale_reads(cluster: &Cluster, id: u64, during: impl FnOnce()) -> Duration {
    const PAUSE: Duration = Duration::from_millis(2);
    let stopped = AtomicBool::new(false);
    let mut client = cluster.client(id);
    thread::scope(|scope| {
        let _stop = Stop(&stopped);
        let reader = scope.spawn(|| {
            assert_eq!(client.call("READ stale").unwrap(), Reply::ok());
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !stopped.load(Ordering::SeqCst) {
                let reply = client.call("STRLEN key:7").unwrap();
                assert!(matches!(reply, Reply::Integer(_)), "{reply:?}");
                longest = longest.max(last.elapsed());
                last = Instant::now();
                let_pass(PAUSE);
            }
            longest
        });
        during();
        stopped.store(true, Ordering::SeqCst);
        reader.join().unwrap()
    })
}

/// A snapshot of a million keys is installed on a follower, which answers READ stale meanwhile.
pub fn install() {
    const KEYS: usize = 1_000_000;
    const GAP: Duration = Duration::from_millis(100);
    for _ in 0..3 {
        let mut cluster = crate::cluster_with("32MiB");
        let behind = cluster.follower();
        let leader = cluster.leader();
        let before = cluster.status(behind).unwrap().applied;
        cluster.stop(behind);
        load(&mut cluster.client(leader), KEYS);
        take_snapshot(&cluster, leader);
        wait_for_log_after(&cluster, leader, before);
        cluster.cont(behind);
        let commit = cluster.status(leader).unwrap().commit;
        let start = Instant::now();
        let longest = stale_reads(&cluster, behind, || {
            wait_for("a node with the snapshot", SOON + SOON, || {
                cluster.status(behind).filter(|status| status.applied >= commit)
            });
        });
        assert!(cluster.log_lines(behind, &["the leader sends a snapshot"]) > 0);
        println!(
            "a snapshot of {KEYS} keys: there after {:.2} s, longest gap between two stale reads {:.1} ms",
            start.elapsed().as_secs_f64(),
            longest.as_secs_f64() * 1e3
        );
        assert!(longest < GAP, "no gap of {GAP:?}");
    }
}

/// Writes a second in each interval from now on until something is so.
fn rates_until(count: &AtomicU64, mut is_so: impl FnMut() -> bool) -> Vec<f64> {
    const INTERVAL: Duration = Duration::from_millis(250);
    let (mut rates, deadline) = (vec![], Instant::now() + Duration::from_secs(600));
    while rates.is_empty() || !is_so() {
        assert!(Instant::now() < deadline, "it takes too long");
        let (before, start) = (count.load(Ordering::Relaxed), Instant::now());
        let_pass(INTERVAL);
        let more = count.load(Ordering::Relaxed) - before;
        rates.push(more as f64 / start.elapsed().as_secs_f64());
    }
    rates
}

/// A follower is cut off for a million writes and catches up, while the writes go on; and again, because a node catches
/// up in seconds, and what else the machine does then weighs as much.
pub fn catch_up() {
    const ROUNDS: usize = 3;
    const KEPT: f64 = 0.7;
    const PERIOD: Duration = Duration::from_secs(10);
    let mut cluster = crate::cluster_with("32MiB");
    let (leader, behind) = (cluster.leader(), cluster.follower());
    let address = cluster.client_address(leader);
    let (count, stopped) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let _stop = Stop(&stopped);
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(crate::write_keys_until(&stopped, address, &count, CUT_OFF_WRITES));
        });
        let_pass(Duration::from_secs(2));
        let three_nodes = |when: &str| {
            let start = Instant::now();
            let rates = rates_until(&count, || start.elapsed() > PERIOD);
            println!("writes/s with three nodes, {when}: {:.0}", median(&rates));
        };
        three_nodes("at first");
        println!("a node cut off for {CUT_OFF_WRITES} writes; writes/s are medians of quarters of a second:");
        let kept: Vec<f64> = (0..ROUNDS)
            .map(|_| catch_up_once(&mut cluster, behind, &count))
            .collect();
        assert_eq!(cluster.leader(), leader, "the leader changed meanwhile");
        three_nodes("afterwards");
        println!(
            "kept while it catches up, median: {:.0} % of the rate just before; the goal is {:.0} %",
            100.0 * median(&kept),
            100.0 * KEPT
        );
    });
}

const CUT_OFF_WRITES: u64 = 1_000_000;

/// What the writers keep of their rate while a node catches up that was cut off.
fn catch_up_once(cluster: &mut Cluster, behind: u64, count: &AtomicU64) -> f64 {
    let leader = cluster.leader();
    let snapshots = |cluster: &Cluster| cluster.log_lines(behind, &["the leader sends a snapshot"]);
    let (at, snapshots_before) = (cluster.status(behind).unwrap().applied, snapshots(cluster));
    cluster.stop(behind);
    let began = count.load(Ordering::Relaxed);
    let cut_off = rates_until(count, || count.load(Ordering::Relaxed) > began + CUT_OFF_WRITES);
    wait_for_log_after(cluster, leader, at);
    cluster.cont(behind);
    let (start, cpu) = (Instant::now(), cpu_time(cluster.pid(behind)));
    let mut catching_up = vec![];
    let longest = stale_reads(cluster, behind, || {
        catching_up = rates_until(count, || {
            let leads = cluster.status(leader).unwrap().commit;
            // What is written while one asks, at most.
            cluster
                .status(behind)
                .is_some_and(|status| status.applied + 5_000 > leads)
        });
    });
    // A million writes are many; what else this machine does may have changed since they began.
    let before = median(&cut_off[cut_off.len().saturating_sub(40)..]);
    let kept = median(&catching_up) / before;
    let cpu = cpu_time(cluster.pid(behind)) - cpu;
    let snapshots = snapshots(cluster) - snapshots_before;
    println!(
        "{before:>8.0} in the last 10 s, {:.0} while it catches up ({:.0} %): in {:.1} s, {:.1} s of processor time \
         there, {snapshots} snapshots, longest gap between two stale reads {:.1} ms",
        median(&catching_up),
        100.0 * kept,
        start.elapsed().as_secs_f64(),
        cpu.as_secs_f64(),
        longest.as_secs_f64() * 1e3
    );
    assert!(snapshots > 0, "it caught up without a snapshot");
    if std::env::var_os("RAW").is_some() {
        println!("{catching_up:.0?}");
    }
    kept
}
