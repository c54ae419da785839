//! Networks that are cut, one-way, slow, or confused.

use std::time::{Duration, Instant};

use raftline::base::rng::Rng;

use crate::client::Reply;
use crate::harness::{Cluster, REQUEST_TIMEOUT, SOON, let_pass, wait_for};
use crate::history::assert_linearizable;
use crate::proxy::Proxy;
use crate::with_three_and_five_nodes;
use crate::workload::{Recorders, Writers, meanwhile};

with_three_and_five_nodes!(
    an_isolated_leader_steps_down_and_acknowledges_nothing,
    a_minority_with_the_leader_serves_nothing_and_heals,
    a_leader_that_hears_nobody_steps_down,
    a_bad_network_leaves_a_linearizable_history,
);

fn an_isolated_leader_steps_down_and_acknowledges_nothing(nodes: u64) {
    let cluster = Cluster::builder(nodes).proxied().start();
    let old = cluster.leader();
    let others = cluster.ids_without(old);
    assert_eq!(cluster.call(old, "SET key before"), Reply::ok());
    let (mut reader, mut writer) = (cluster.client(old), cluster.client(old));
    cluster.proxy().set_cut(old, cluster.ids(), true);
    // At once, while it still believes that it leads: proposed, never to be committed.
    writer.send("SET key isolated").unwrap();
    let new = cluster.leader_among(&others);
    assert_eq!(cluster.call(new, "SET key after"), Reply::ok());
    match reader.call("GET key").unwrap() {
        Reply::Text(value) => panic!("an isolated node answered {value}"),
        error => assert!(error.refused(), "{error:?}"),
    }
    let reply = writer.receive().unwrap();
    assert_eq!(
        reply.code(),
        Some("UNKNOWNRESULT"),
        "it was proposed, and nobody knows more: {reply:?}"
    );
    wait_for("the isolated leader to step down", SOON, || {
        cluster
            .status(old)
            .filter(|status| status.role != "leader" && status.leader.is_none())
    });
    let start = Instant::now();
    let reply = cluster.call(old, "SET key isolated");
    assert_eq!(reply.code(), Some("CLUSTERDOWN"), "{reply:?}");
    assert!(start.elapsed() < REQUEST_TIMEOUT, "{:?}", start.elapsed());
    cluster.proxy().mend_all();
    cluster.whole();
    assert_eq!(cluster.call(old, "GET key"), Reply::text("after"));
}

fn a_minority_with_the_leader_serves_nothing_and_heals(nodes: u64) {
    let cluster = Cluster::builder(nodes).proxied().start();
    let old = cluster.leader();
    let (mut few, mut many) = (vec![old], cluster.ids_without(old));
    while few.len() + 1 < cluster.majority() {
        few.extend(many.pop());
    }
    for id in &few {
        cluster.proxy().set_cut(*id, many.iter().copied(), true);
    }
    let writers = Writers::new(
        &few.iter()
            .map(|id| cluster.client_address(*id))
            .collect::<Vec<_>>(),
        2,
    );
    meanwhile(
        2,
        |n| writers.write(n),
        || {
            let new = cluster.leader_among(&many);
            assert_eq!(cluster.call(new, "SET key majority"), Reply::ok());
        },
    );
    assert_eq!(writers.acknowledged(), 0, "a minority acknowledged writes");
    cluster.proxy().mend_all();
    cluster.whole();
    assert_eq!(cluster.call(old, "GET key"), Reply::text("majority"));
}

/// It sends and is heard, so nobody else campaigns; it must see by itself that it is of no use (trap 3.6).
fn a_leader_that_hears_nobody_steps_down(nodes: u64) {
    let cluster = Cluster::builder(nodes).proxied().start();
    let old = cluster.leader();
    let others = cluster.ids_without(old);
    for id in &others {
        cluster.proxy().change(*id, old, |link| link.cut = true);
    }
    let new = cluster.leader_among(&others);
    assert_eq!(cluster.call(new, "SET key value"), Reply::ok());
    cluster.proxy().mend_all();
    cluster.whole();
}

/// Two nodes that cannot reach each other, and a third that reaches both: whoever leads, there is progress.
#[test]
fn a_bridge_is_enough() {
    let cluster = Cluster::builder(3).proxied().start();
    let leader = cluster.leader();
    let cut_off = cluster.ids_without(leader)[0];
    let bridge = cluster.ids_without(leader)[1];
    cluster.proxy().set_cut(leader, [cut_off], true);
    let writers = Writers::new(&[cluster.client_address(bridge)], 1);
    let start = Instant::now();
    meanwhile(
        1,
        |n| writers.write(n),
        || {
            while start.elapsed() < Duration::from_secs(3) {
                writers.wait_for_more(10);
            }
        },
    );
    cluster.proxy().mend_all();
    cluster.whole();
    writers.assert_all_there(&cluster, cut_off);
}

fn a_bad_network_leaves_a_linearizable_history(nodes: u64) {
    let cluster = Cluster::builder(nodes).proxied().start();
    let recorders = Recorders::new(&cluster.addresses());
    let progress = Writers::new(&cluster.addresses(), 1);
    let mut rng = Rng::new(nodes);
    let work = |n: usize| {
        if n < Recorders::COUNT {
            recorders.work(n)
        } else {
            progress.write(0)
        }
    };
    meanwhile(Recorders::COUNT + 1, work, || {
        for _ in 0..12 {
            disturb(cluster.proxy(), nodes, &mut rng);
            // Sometimes shorter, sometimes longer than an election takes.
            let_pass(Duration::from_millis(rng.below(2000)));
            if rng.one_in(2) {
                cluster.proxy().mend_all();
                cluster.leader();
                progress.wait_for_more(10);
            }
        }
        cluster.proxy().mend_all();
    });
    cluster.whole();
    progress.assert_all_there(&cluster, 1);
    assert_linearizable(recorders.finish(&cluster, 1));
}

/// Does one bad thing to the network.
fn disturb(proxy: &Proxy, nodes: u64, rng: &mut Rng) {
    let a = rng.below(nodes) + 1;
    let b = (a + rng.below(nodes - 1)) % nodes + 1;
    match rng.below(7) {
        0 => proxy.set_cut(a, 1..=nodes, true),
        1 => proxy.set_cut(a, [b], true),
        2 => proxy.change(a, b, |link| link.cut = true),
        3 => proxy.reset(a, b),
        4 => proxy.duplicate(a, b),
        5 => proxy.change(a, b, |link| link.bytes_per_second = Some(20_000)),
        _ => {
            for other in (1..=nodes).filter(|other| *other != a) {
                proxy.change(a, other, |link| {
                    link.delay = Duration::from_millis(rng.below(80));
                    link.spread = Duration::from_millis(60);
                });
                // The spread is drawn by new connections, so there must be some.
                proxy.reset(a, other);
            }
        }
    }
}
