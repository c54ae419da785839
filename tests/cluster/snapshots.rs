//! Snapshots of real processes: the log stays small, a restart reads snapshot and log, and who was away for long gets
//! the snapshot, whatever the network does meanwhile.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use raftline::base::rng::Rng;

use crate::client::{Client, Reply};
use crate::harness::{Builder, Cluster, SOON, wait_for, wait_until};
use crate::with_three_and_five_nodes;
use crate::workload::{Writers, meanwhile};

with_three_and_five_nodes!(
    the_log_stays_small_and_a_restart_reads_snapshot_and_log,
    who_was_down_for_long_catches_up_by_snapshot_while_writes_go_on,
    a_transfer_goes_on_after_its_connection_broke,
);

/// The smallest log that the configuration allows.
pub fn small_log(nodes: u64) -> Builder {
    Cluster::builder(nodes)
        .set("storage", "snapshot_log_bytes = \"64KiB\"")
        .set("storage", "segment_size = \"64KiB\"")
}

/// Writes keys of some size, so that the log grows: `count` writes to fifty keys, by way of one node. On a busy machine
/// the leader may change meanwhile; what is refused then is written again.
pub fn churn(cluster: &Cluster, by: u64, count: usize, length: usize) {
    let mut client = cluster.client(by);
    let value = "v".repeat(length);
    let line = |n: usize| format!("SET churned:{} {value}{n}", n % 50);
    for n in 0..count {
        client.send(&line(n)).unwrap();
    }
    let replies: Vec<Reply> = (0..count).map(|_| client.receive().unwrap()).collect();
    for (n, _) in replies
        .iter()
        .enumerate()
        .filter(|(_, reply)| **reply != Reply::ok())
    {
        put(&mut client, &line(n));
    }
}

/// Writes until it is done.
pub fn put(client: &mut Client, line: &str) {
    wait_until("a write", SOON, || match client.call(line).unwrap() {
        reply if reply == Reply::ok() => Ok(()),
        reply => Err(reply),
    });
}

/// Waits until every node has a snapshot of so much.
fn all_have_snapshots(cluster: &Cluster, index: u64) {
    wait_until("snapshots on all nodes", SOON, || {
        let statuses: Vec<_> = cluster
            .ids()
            .into_iter()
            .filter_map(|id| cluster.status(id))
            .collect();
        let done =
            statuses.len() == cluster.ids().len() && statuses.iter().all(|s| s.snapshot_index >= index);
        if done { Ok(()) } else { Err(statuses) }
    });
}

fn the_log_stays_small_and_a_restart_reads_snapshot_and_log(nodes: u64) {
    let mut cluster = small_log(nodes).start();
    let writers = Writers::new(&cluster.addresses(), 4);
    for round in 1..=2 {
        churn(&cluster, 1, 2000, 100);
        all_have_snapshots(&cluster, round * 1500);
        meanwhile(
            4,
            |n| writers.write(n),
            || {
                writers.wait_for_more(100);
                for id in cluster.ids() {
                    cluster.kill_9(id);
                }
            },
        );
        for id in cluster.ids() {
            cluster.restart(id);
        }
        cluster.leader();
        let status = cluster.whole();
        assert!(status.snapshot_index >= round * 1500);
        assert!(status.first_index > status.last_index - 1500, "{status:?}");
        for id in cluster.ids() {
            writers.assert_all_there(&cluster, id);
        }
    }
    for id in cluster.ids() {
        let log = cluster.data_folder(id).join("log");
        let bytes: u64 = fs::read_dir(log)
            .unwrap()
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum();
        assert!(bytes < 20 * 64 * 1024, "{bytes} bytes of log on node {id}");
        let snapshots = fs::read_dir(cluster.data_folder(id).join("snapshots"))
            .unwrap()
            .count();
        assert!((1..=3).contains(&snapshots), "{snapshots} snapshots on node {id}");
    }
}

fn who_was_down_for_long_catches_up_by_snapshot_while_writes_go_on(nodes: u64) {
    let mut cluster = small_log(nodes).start();
    let down = cluster.follower();
    let before = cluster.status(down).expect("it runs").last_index;
    let up = cluster.ids_without(down);
    cluster.kill_9(down);
    let leader = cluster.leader_among(&up);
    churn(&cluster, leader, 3000, 1000);
    wait_for("a log that begins later", SOON, || {
        up.iter()
            .all(|id| cluster.status(*id).is_some_and(|s| s.first_index > before + 100))
            .then_some(())
    });
    let others: Vec<_> = up.iter().map(|id| cluster.client_address(*id)).collect();
    let writers = Writers::new(&others, 2);
    meanwhile(
        2,
        |n| writers.write(n),
        || {
            writers.wait_for_more(50);
            cluster.restart(down);
            wait_for("a node with the snapshot", SOON, || {
                cluster.status(down).filter(|s| s.applied > before + 3000)
            });
            writers.wait_for_more(50);
        },
    );
    cluster.whole();
    writers.assert_all_there(&cluster, down);
    // What was installed is durable.
    cluster.kill_9(down);
    cluster.restart(down);
    cluster.whole();
}

fn a_transfer_goes_on_after_its_connection_broke(nodes: u64) {
    let cluster = small_log(nodes).proxied().start();
    let leader = cluster.leader();
    let behind = cluster.ids_without(leader)[0];
    let proxy = cluster.proxy();
    cluster.whole();
    proxy.set_cut(behind, cluster.ids(), true);
    let before = cluster.status(behind).expect("it runs").last_index;
    // About eighty chunks of state, which nothing makes smaller.
    let mut client = cluster.client(leader);
    let mut rng = Rng::new(5);
    let letters: String = (0..100_000)
        .map(|_| char::from(b'!' + rng.below(90) as u8))
        .collect();
    let value = letters.replace(['"', '\'', '\\'], "-");
    for n in 0..100 {
        let (end, start) = value.split_at(n * 997);
        put(&mut client, &format!("SET large:{n} {start}{end}"));
    }
    churn(&cluster, leader, 2000, 100);
    wait_for("a log that begins later", SOON, || {
        cluster.status(leader).filter(|s| s.first_index > before + 1)
    });
    // On a slow machine the leader may have begun with a snapshot of the first values already; it has some MiB too.
    // Slow enough that it can be broken on the way, and no slower than heartbeats can bear.
    for id in cluster.ids_without(behind) {
        proxy.change(id, behind, |link| link.bytes_per_second = Some(2 << 20));
    }
    proxy.set_cut(behind, cluster.ids(), false);
    for part in 1..=3 {
        wait_for("a part of the snapshot", SOON, || {
            (received_bytes(&cluster, behind) > part << 19).then_some(())
        });
        cluster
            .ids_without(behind)
            .into_iter()
            .for_each(|id| proxy.reset(id, behind));
    }
    let applied = cluster.status(behind).expect("it runs").applied;
    assert!(applied < before + 1000, "it is not there yet");
    wait_for("a node with the snapshot", SOON, || {
        cluster.status(behind).filter(|s| s.applied > before + 2000)
    });
    // Not the newest one: that may already be its own.
    let installed = cluster.logged(
        behind,
        &["the leader's snapshot takes the place of the state here"],
    );
    let [installed] = &installed[..] else {
        panic!("one snapshot was installed: {installed:#?}")
    };
    let which = installed
        .split(' ')
        .find(|field| field.starts_with("last="))
        .unwrap();
    let began = cluster.log_lines(behind, &["the leader sends a snapshot", which]);
    assert_eq!(began, 1, "it never began anew");
    proxy.mend_all();
    cluster.whole();
    assert_eq!(cluster.call(behind, "GET large:0"), Reply::text(value));
}

/// The size of what node `id` has stored of a snapshot that it is being sent.
fn received_bytes(cluster: &Cluster, id: u64) -> u64 {
    let folder = cluster.data_folder(id).join("snapshots");
    let files = fs::read_dir(folder).unwrap().flatten();
    let unfinished = files.filter(|file| file.path().extension().is_some_and(|e| e == "tmp"));
    unfinished
        .filter_map(|file| Some(file.metadata().ok()?.len()))
        .sum()
}

/// As with netcat: a line is written, the sending half is closed, and the answers are read.
#[test]
fn raft_snapshot_answers_when_it_is_done() {
    let mut cluster = Cluster::start(3);
    churn(&cluster, 1, 100, 100);
    for id in cluster.ids() {
        cluster.caught_up(id);
        let applied = cluster.status(id).expect("it runs").applied;
        let mut stream = TcpStream::connect(cluster.client_address(id)).unwrap();
        stream
            .write_all(b"RAFT SNAPSHOT\nraft snapshot\nRAFT SNAPSHOT now\n")
            .unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).unwrap();
        let lines: Vec<&str> = answers.lines().collect();
        assert_eq!(lines[..2], ["+OK", "+OK"]);
        assert!(lines[2].starts_with("-ERR "), "{lines:?}");
        let status = cluster.status(id).expect("it runs");
        assert!(status.snapshot_index >= applied, "{status:?}");
    }
    for id in cluster.ids() {
        cluster.kill_9(id);
        cluster.restart(id);
    }
    let status = cluster.whole();
    assert!(status.keys == 50 && status.snapshot_index > 50, "{status:?}");
}
