//! Who leads, and that it does not matter to clients.

use std::time::{Duration, Instant};

use crate::client::Reply;
use crate::harness::{Cluster, REQUEST_TIMEOUT, SOON, wait_for};
use crate::with_three_and_five_nodes;
use crate::workload::{Writers, meanwhile};

with_three_and_five_nodes!(
    set_and_get_through_each_node,
    one_leader_and_all_agree_on_it,
    leadership_is_transferred,
    a_stopped_leader_is_replaced_and_comes_back_as_a_follower,
);

fn set_and_get_through_each_node(nodes: u64) {
    let cluster = Cluster::start(nodes);
    for writer in cluster.ids() {
        assert_eq!(
            cluster.call(writer, &format!("SET from:{writer} {writer}")),
            Reply::ok()
        );
        for reader in cluster.ids() {
            // Linearizable from any node: no waiting between the two.
            let value = cluster.call(reader, &format!("GET from:{writer}"));
            assert_eq!(
                value,
                Reply::text(writer.to_string()),
                "{writer} wrote, {reader} read"
            );
        }
    }
    assert_eq!(cluster.call(1, "GET nothing"), Reply::Nothing);
    assert_eq!(cluster.whole().keys, nodes);
}

fn one_leader_and_all_agree_on_it(nodes: u64) {
    let cluster = Cluster::start(nodes);
    let leader = cluster.leader();
    wait_for("everybody to know the leader", SOON, || {
        let statuses: Vec<_> = cluster
            .ids()
            .iter()
            .filter_map(|id| cluster.status(*id))
            .collect();
        assert!(
            statuses.iter().filter(|s| s.role == "leader").count() <= 1,
            "two leaders of one term"
        );
        (statuses.len() as u64 == nodes && statuses.iter().all(|s| s.leader == Some(leader))).then_some(())
    });
    let Reply::List(members) = cluster.call(cluster.follower(), "RAFT MEMBERS") else {
        panic!("a list")
    };
    assert_eq!(members.len() as u64, nodes);
}

fn leadership_is_transferred(nodes: u64) {
    let cluster = Cluster::start(nodes);
    let target = cluster.follower();
    // Asked of a follower: it passes the request on like any other.
    assert_eq!(
        cluster.call(target, &format!("RAFT TRANSFER {target}")),
        Reply::ok()
    );
    wait_for("the new leader", SOON, || {
        (cluster.leader() == target).then_some(())
    });
    assert_eq!(cluster.call(target, "SET a b"), Reply::ok());
    cluster.whole();
}

fn a_stopped_leader_is_replaced_and_comes_back_as_a_follower(nodes: u64) {
    let mut cluster = Cluster::start(nodes);
    let old = cluster.leader();
    let others = cluster.ids_without(old);
    assert_eq!(cluster.call(old, "SET key before"), Reply::ok());
    let mut client = cluster.client(old);
    cluster.stop(old);
    let new = cluster.leader_among(&others);
    assert_eq!(cluster.call(new, "SET key after"), Reply::ok());
    // Asked while it stands still, answered when it wakes up: still in the belief that it leads, perhaps.
    client.send("GET key").unwrap();
    cluster.cont(old);
    let start = Instant::now();
    match client.receive().unwrap() {
        Reply::Text(value) => assert_eq!(value, "after", "a stale read"),
        error => assert!(error.refused(), "{error:?}"),
    }
    assert!(start.elapsed() < REQUEST_TIMEOUT, "{:?}", start.elapsed());
    cluster.whole();
    assert_ne!(
        cluster.leader(),
        old,
        "a node that was away does not push the leader out"
    );
}

/// A node that was cut off, and campaigned in vain all the time, does not depose the leader when it is back
/// (pre-vote; Diss. 9.6).
#[test]
fn a_node_that_returns_does_not_disturb() {
    let cluster = Cluster::builder(3).proxied().start();
    let leader = cluster.leader();
    let away = cluster.ids_without(leader)[0];
    let term = cluster.whole().term;
    cluster.proxy().set_cut(away, cluster.ids(), true);
    wait_for("the lonely node to give its leader up", SOON, || {
        cluster.status(away).filter(|s| s.leader.is_none())
    });
    // Several election timeouts, told by what the others do meanwhile.
    let writers = Writers::new(&[cluster.client_address(leader)], 1);
    let start = Instant::now();
    meanwhile(
        1,
        |n| writers.write(n),
        || {
            while start.elapsed() < Duration::from_secs(2) {
                writers.wait_for_more(10);
            }
        },
    );
    cluster.proxy().mend_all();
    assert_eq!(cluster.whole().term, term);
    writers.assert_all_there(&cluster, away);
}
