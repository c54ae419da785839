//! `READ lease` and `READ stale`, and `read_mode = "lease"`: what they promise, and what not.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crate::client::{Client, Reply};
use crate::harness::{Builder, Cluster, REQUEST_TIMEOUT, SOON, wait_for, wait_until};
use crate::history::assert_linearizable;
use crate::snapshots::put;
use crate::with_three_and_five_nodes;
use crate::workload::{Recorders, Roaming, Writers, meanwhile};

with_three_and_five_nodes!(
    leases_leave_a_linearizable_history_while_leaders_stop_and_go,
    a_leader_that_went_on_after_a_stop_reads_nothing_stale,
);

fn with_leases(nodes: u64) -> Builder {
    Cluster::builder(nodes).set("raft", "read_mode = \"lease\"")
}

fn leases_leave_a_linearizable_history_while_leaders_stop_and_go(nodes: u64) {
    let mut cluster = with_leases(nodes).start();
    let recorders = Recorders::new(&cluster.addresses());
    meanwhile(
        Recorders::COUNT,
        |n| recorders.work(n),
        || {
            for round in 0..6 {
                let old = cluster.leader();
                match round % 3 {
                    0 => cluster.stop(old),
                    1 => cluster.kill_9(old),
                    _ => {
                        // The lease ends with the hand-over, not with the time.
                        cluster.call(old, "RAFT TRANSFER");
                        continue;
                    }
                }
                cluster.leader_among(&cluster.ids_without(old));
                match round % 3 {
                    0 => cluster.cont(old),
                    _ => cluster.restart(old),
                }
            }
        },
    );
    cluster.whole();
    assert_linearizable(recorders.finish(&cluster, 1));
}

/// It wakes up with reads in its sockets, and with a lease that was good when it fell asleep.
fn a_leader_that_went_on_after_a_stop_reads_nothing_stale(nodes: u64) {
    const READS: usize = 50;
    let mut cluster = with_leases(nodes).start();
    for _ in 0..3 {
        let old = cluster.leader();
        put(&mut cluster.client(old), "SET key old");
        let mut readers: Vec<Client> = (0..READS).map(|_| cluster.client(old)).collect();
        for reader in &mut readers {
            assert_eq!(reader.call("READ lease").unwrap(), Reply::ok());
            assert_eq!(reader.call("GET key").unwrap(), Reply::text("old"));
        }
        cluster.stop(old);
        let new = cluster.leader_among(&cluster.ids_without(old));
        put(&mut cluster.client(new), "SET key new");
        for reader in &mut readers {
            reader.send("GET key").unwrap();
        }
        cluster.cont(old);
        for reader in &mut readers {
            let reply = reader.receive().unwrap();
            assert!(
                reply == Reply::text("new") || reply.code().is_some(),
                "{reply:?}, and a newer write was acknowledged before"
            );
        }
        cluster.whole();
    }
}

/// Counts up through all nodes, and reads through each: never less than was acknowledged before the read began.
#[test]
fn leases_read_what_was_acknowledged_wherever_it_was_written() {
    const READERS: usize = 6;
    let mut cluster = with_leases(3).start();
    let addresses = cluster.addresses();
    let acknowledged = AtomicI64::new(0);
    let reads = AtomicI64::new(0);
    let work = |n: usize| {
        let mut roaming = Roaming::new(&addresses, n);
        for _ in 0..50 {
            let before = acknowledged.load(Ordering::SeqCst);
            let reply = roaming.call(if n < READERS {
                "GET counter"
            } else {
                "INCR counter"
            });
            let seen = match reply {
                Some(Reply::Integer(seen)) => seen,
                Some(Reply::Text(seen)) => seen.parse().unwrap(),
                Some(Reply::Nothing) => 0,
                _ => continue,
            };
            assert!(seen >= before, "{seen} after {before} was acknowledged");
            if n < READERS {
                reads.fetch_add(1, Ordering::SeqCst);
            } else {
                acknowledged.fetch_max(seen, Ordering::SeqCst);
            }
        }
    };
    let more = |count: i64| {
        let before = (acknowledged.load(Ordering::SeqCst), reads.load(Ordering::SeqCst));
        wait_for("reads and writes", SOON, || {
            let now = (acknowledged.load(Ordering::SeqCst), reads.load(Ordering::SeqCst));
            (now.0 >= before.0 + count && now.1 >= before.1 + count).then_some(())
        });
    };
    meanwhile(READERS + 2, work, || {
        for _ in 0..4 {
            more(200);
            let old = cluster.leader();
            cluster.stop(old);
            cluster.leader_among(&cluster.ids_without(old));
            more(50);
            cluster.cont(old);
            more(50);
        }
    });
    cluster.whole();
}

/// A leader that is cut off answers from its lease for as long as that lasts, and nothing afterwards.
#[test]
fn a_lease_needs_nobody_and_ends() {
    let cluster = with_leases(3).proxied().start();
    wait_until("a read without the others", SOON + SOON, || {
        let leader = cluster.leader();
        put(&mut cluster.client(leader), "SET key value");
        let mut client = cluster.client(leader);
        client.call("GET key").unwrap();
        cluster.proxy().set_cut(leader, cluster.ids(), true);
        let start = Instant::now();
        let reply = client.call("GET key").unwrap();
        let took = start.elapsed();
        // Without a lease it would be refused, after a while. On a busy machine the lease may be over already.
        let outcome = if reply == Reply::text("value") && took < Duration::from_millis(400) {
            wait_until("a read that is refused", REQUEST_TIMEOUT, || {
                match client.call("GET key").unwrap() {
                    reply if reply.code() == Some("CLUSTERDOWN") => Ok(()),
                    reply => Err(reply),
                }
            });
            Ok(())
        } else {
            Err((reply, took))
        };
        cluster.proxy().mend_all();
        outcome
    });
    cluster.whole();
}

/// As much as it was promised: what this node has applied, at once, also when nobody else is there.
#[test]
fn stale_reads_are_answered_by_a_node_that_is_cut_off() {
    let cluster = Cluster::builder(3).proxied().start();
    put(&mut cluster.client(1), "SET key old");
    cluster.whole();
    let alone = cluster.follower();
    cluster.proxy().set_cut(alone, cluster.ids(), true);
    let rest = cluster.ids_without(alone);
    let writers = Writers::new(&[cluster.client_address(cluster.leader_among(&rest))], 2);
    meanwhile(2, |n| writers.write(n), || writers.wait_for_more(50));
    put(&mut cluster.client(rest[0]), "SET key new");
    let mut client = cluster.client(alone);
    assert_eq!(client.call("READ stale").unwrap(), Reply::ok());
    for _ in 0..100 {
        let start = Instant::now();
        assert_eq!(client.call("GET key").unwrap(), Reply::text("old"));
        assert!(start.elapsed() < Duration::from_secs(2), "it waits for nobody");
    }
    assert_eq!(client.call("READ quorum").unwrap(), Reply::ok());
    assert_eq!(client.call("GET key").unwrap().code(), Some("CLUSTERDOWN"));
    cluster.proxy().mend_all();
    cluster.whole();
    assert_eq!(client.call("GET key").unwrap(), Reply::text("new"));
    assert_eq!(client.call("READ stale").unwrap(), Reply::ok());
    assert_eq!(client.call("GET key").unwrap(), Reply::text("new"));
}
