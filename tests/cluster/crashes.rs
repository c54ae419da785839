//! Processes that end: by kill -9, by SIGTERM, one, several, all.

use std::time::{Duration, Instant};

use raftline::base::rng::Rng;

use crate::client::{Client, Reply};
use crate::harness::{Cluster, SOON, wait_for};
use crate::history::assert_linearizable;
use crate::with_three_and_five_nodes;
use crate::workload::{Recorders, Writers, meanwhile};

with_three_and_five_nodes!(
    a_killed_leader_is_replaced_within_two_seconds,
    all_are_killed_and_nothing_acknowledged_is_lost,
    a_rolling_restart_loses_nothing,
    a_minority_is_not_missed_and_a_majority_is,
    kills_leave_a_linearizable_history,
);

fn a_killed_leader_is_replaced_within_two_seconds(nodes: u64) {
    let mut cluster = Cluster::start(nodes);
    let leader = cluster.leader();
    let others: Vec<_> = cluster
        .ids_without(leader)
        .iter()
        .map(|id| cluster.client_address(*id))
        .collect();
    let writers = Writers::new(&others, 2);
    meanwhile(
        2,
        |n| writers.write(n),
        || {
            writers.wait_for_more(50);
            cluster.kill_9(leader);
            let gap = writers.wait_for_more(50);
            assert!(gap < Duration::from_secs(2), "50 more writes took {gap:?}");
            cluster.restart(leader);
            // What it missed is more than what it has: it has to be sent, while new writes arrive.
            writers.wait_for_more(50);
        },
    );
    cluster.whole();
    writers.assert_all_there(&cluster, leader);
}

fn all_are_killed_and_nothing_acknowledged_is_lost(nodes: u64) {
    let mut cluster = Cluster::start(nodes);
    let writers = Writers::new(&cluster.addresses(), 4);
    for _ in 0..2 {
        meanwhile(
            4,
            |n| writers.write(n),
            || {
                writers.wait_for_more(200);
                for id in cluster.ids() {
                    cluster.kill_9(id);
                }
            },
        );
        for id in cluster.ids() {
            cluster.restart(id);
        }
        cluster.leader();
        cluster.whole();
        for id in cluster.ids() {
            writers.assert_all_there(&cluster, id);
        }
    }
}

fn a_rolling_restart_loses_nothing(nodes: u64) {
    let mut cluster = Cluster::start(nodes);
    let writers = Writers::new(&cluster.addresses(), 4);
    meanwhile(
        4,
        |n| writers.write(n),
        || {
            for id in cluster.ids() {
                writers.wait_for_more(20);
                let led = cluster.leader() == id;
                let (status, took) = cluster.terminate(id);
                assert_eq!(status.code(), Some(0), "node {id}, which led: {led}");
                assert!(
                    took < Duration::from_secs(5),
                    "node {id}, which led: {led}: {took:?}"
                );
                writers.wait_for_more(20);
                cluster.restart(id);
                cluster.caught_up(id);
            }
        },
    );
    cluster.whole();
    writers.assert_all_there(&cluster, 1);
}

/// A client whose request is under way when its node is told to end still gets an answer.
#[test]
fn a_terminated_node_answers_what_is_in_flight() {
    let mut cluster = Cluster::start(3);
    for id in [cluster.follower(), cluster.leader()] {
        let mut client = cluster.client(id);
        let requests: Vec<String> = (0..100).map(|n| format!("INCR inflight:{id}:{n}")).collect();
        client.send(&requests.join("\n")).unwrap();
        assert_eq!(client.receive().unwrap(), Reply::Integer(1), "the node is at it");
        let (status, _) = cluster.terminate(id);
        assert_eq!(status.code(), Some(0));
        for n in 1..100 {
            let reply = client
                .receive()
                .unwrap_or_else(|e| panic!("no answer to request {n} of {id}: {e}"));
            assert!(reply == Reply::Integer(1) || reply.code().is_some(), "{reply:?}");
        }
        cluster.restart(id);
        cluster.whole();
    }
}

fn a_minority_is_not_missed_and_a_majority_is(nodes: u64) {
    let mut cluster = Cluster::start(nodes);
    let leader = cluster.leader();
    let victims = cluster.ids_without(leader);
    let minority = nodes as usize - cluster.majority();
    for id in &victims[..minority] {
        cluster.kill_9(*id);
    }
    assert_eq!(cluster.call(leader, "SET key kept"), Reply::ok());
    cluster.kill_9(victims[minority]);
    for request in ["SET key lost", "GET key"] {
        let start = Instant::now();
        let reply = cluster.call(leader, request);
        assert!(
            reply.code().is_some(),
            "{request} was answered {reply:?} without a majority"
        );
        assert!(
            start.elapsed() < crate::harness::REQUEST_TIMEOUT,
            "{request}: {:?}",
            start.elapsed()
        );
    }
    for id in &victims[..=minority] {
        cluster.restart(*id);
    }
    cluster.leader();
    let value = cluster.call(victims[0], "GET key");
    // The second write was never refused for certain: UNKNOWNRESULT lets it happen.
    assert!(
        value == Reply::text("kept") || value == Reply::text("lost"),
        "{value:?}"
    );
    cluster.whole();
}

fn kills_leave_a_linearizable_history(nodes: u64) {
    let mut cluster = Cluster::start(nodes);
    let recorders = Recorders::new(&cluster.addresses());
    let mut rng = Rng::new(nodes);
    meanwhile(
        Recorders::COUNT,
        |n| recorders.work(n),
        || {
            for _ in 0..6 {
                let victim = if rng.one_in(2) {
                    cluster.leader()
                } else {
                    rng.below(nodes) + 1
                };
                cluster.kill_9(victim);
                cluster.leader();
                cluster.restart(victim);
                cluster.caught_up(victim);
            }
        },
    );
    cluster.whole();
    assert_linearizable(recorders.finish(&cluster, 1));
}

/// A node that is told twice to end, or is killed while it starts, leaves a folder that it starts from.
#[test]
fn a_node_may_be_killed_at_any_moment_of_its_start() {
    let mut cluster = Cluster::start(3);
    let id = cluster.follower();
    let writers = Writers::new(&[cluster.client_address(cluster.leader())], 2);
    meanwhile(
        2,
        |n| writers.write(n),
        || {
            for round in 0..10 {
                cluster.kill_9(id);
                cluster.restart(id);
                // From "not yet there" to "well under way", in equal steps of work done by others.
                if round > 0 {
                    writers.wait_for_more(round * 5);
                }
            }
        },
    );
    cluster.whole();
    writers.assert_all_there(&cluster, id);
}

/// A second process on a data folder in use ends with a message, and the first one does not notice.
#[test]
fn a_data_folder_belongs_to_one_process() {
    let cluster = Cluster::start(3);
    let config = cluster.folder().join("node1.toml");
    let mut second = std::process::Command::new(crate::raftline());
    second.arg("serve").arg("--config").arg(config);
    let mut process = second.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let status = wait_for("the second process to give up", SOON, || {
        process.try_wait().unwrap()
    });
    assert_eq!(status.code(), Some(1));
    let mut message = String::new();
    std::io::Read::read_to_string(&mut process.stderr.take().unwrap(), &mut message).unwrap();
    assert!(!message.is_empty());
    cluster.assert_all_run();
    let mut client = Client::connect(cluster.client_address(1), SOON).unwrap();
    assert_eq!(client.call("SET still here").unwrap(), Reply::ok());
}
