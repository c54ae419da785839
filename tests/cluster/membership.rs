//! Nodes come, go, and come back with nothing, while clients work.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::client::{Client, Reply};
use crate::harness::{Cluster, REQUEST_TIMEOUT, SOON, wait_for, wait_until};
use crate::workload::{Writers, meanwhile};

/// `RAFT ADD … VOTER` waits for at least so long.
const PROMOTION_TIMEOUT: Duration = Duration::from_secs(70);

/// The longest time without an acknowledged write.
struct Gaps {
    last: Mutex<(Instant, Duration)>,
}

impl Gaps {
    fn new() -> Gaps {
        Gaps {
            last: Mutex::new((Instant::now(), Duration::ZERO)),
        }
    }

    fn acknowledged(&self) {
        let (last, longest) = &mut *self.last.lock().unwrap();
        *longest = last.elapsed().max(*longest);
        *last = Instant::now();
    }

    fn longest(&self) -> Duration {
        self.last.lock().unwrap().1
    }
}

/// Asks node `id` for a change, again while another one is on its way, and expects that it is done.
pub fn change(cluster: &Cluster, id: u64, line: &str) {
    let reply = wait_until(line, SOON + PROMOTION_TIMEOUT, || {
        let mut client = Client::connect(cluster.client_address(id), PROMOTION_TIMEOUT).unwrap();
        let reply = client.call(line).unwrap();
        // Refused with the arithmetic, while a node that has just come has not caught up.
        if matches!(reply.code(), Some("CONFLICT" | "ERR" | "TRYAGAIN")) {
            return Err(reply);
        }
        Ok(reply)
    });
    assert_eq!(reply, Reply::ok(), "node {id}, {line}");
}

fn wait_for_voters(cluster: &Cluster, asked: u64, voters: &[u64]) {
    wait_until("the voters", SOON, || {
        let seen = cluster.voters(asked);
        if seen == voters { Ok(()) } else { Err(seen) }
    });
}

pub fn wait_for_page(cluster: &Cluster, id: u64, part: &str) {
    wait_until(part, SOON, || {
        let page = cluster.page(id);
        if page.contains(part) { Ok(()) } else { Err(page) }
    });
}

/// /readyz says no, and why.
pub fn assert_not_ready(cluster: &Cluster, id: u64, why: &str) {
    let answer = cluster.readyz(id);
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains(why),
        "{answer}"
    );
}

/// Clients write through `through` while `events` happens; none of their writes fails.
fn nothing_fails(cluster: &Cluster, through: &[u64], what: &str, events: impl FnOnce(&Writers)) {
    const CLIENTS: usize = 16;
    let addresses: Vec<_> = through.iter().map(|id| cluster.client_address(*id)).collect();
    let (writers, gaps) = (Writers::new(&addresses, CLIENTS), Gaps::new());
    meanwhile(
        CLIENTS,
        |n| {
            let before = writers.acknowledged();
            writers.write(n);
            if writers.acknowledged() > before {
                gaps.acknowledged();
            }
        },
        || {
            writers.wait_for_more(100);
            events(&writers);
            writers.wait_for_more(100);
        },
    );
    println!(
        "{what}: {} writes, the longest gap {} ms",
        writers.acknowledged(),
        gaps.longest().as_millis()
    );
    assert_eq!(writers.failed(), 0, "{what}: writes failed");
    writers.assert_all_there(cluster, through[0]);
}

#[test]
fn three_nodes_grow_to_five_and_shrink_to_three_others_while_clients_write() {
    let mut cluster = Cluster::builder(3).alone().start();
    let (four, five) = (cluster.join(), cluster.join());
    nothing_fails(&cluster, &[1, 2, 3], "growing", |writers| {
        for id in [four, five] {
            change(
                &cluster,
                id % 3 + 1,
                &format!("{} VOTER", cluster.add_command(id)),
            );
            writers.wait_for_more(100);
        }
    });
    wait_for_voters(&cluster, five, &[1, 2, 3, 4, 5]);
    nothing_fails(&cluster, &[3, four, five], "shrinking", |writers| {
        for gone in [1, 2] {
            // One of them may lead; then it hands over.
            change(&cluster, four, &format!("RAFT REMOVE {gone}"));
            writers.wait_for_more(100);
        }
    });
    wait_for_voters(&cluster, five, &[3, 4, 5]);
    change(&cluster, 3, "RAFT VERIFY");
}

#[test]
fn trap_3_47_a_removed_leader_hands_over() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let others = cluster.ids_without(leader);
    nothing_fails(&cluster, &others, "removing the leader", |_| {
        change(&cluster, others[0], &format!("RAFT REMOVE {leader}"));
        wait_for("another leader", SOON, || {
            cluster.status(others[0])?.leader.filter(|id| *id != leader)
        });
    });
    wait_for_page(&cluster, leader, "this node was removed from its cluster");
}

#[test]
fn trap_3_5_a_removed_node_says_so_and_disturbs_nobody() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let gone = cluster.ids_without(leader)[0];
    change(&cluster, leader, &format!("RAFT REMOVE {gone}"));
    wait_for_page(&cluster, gone, "this node was removed from its cluster");
    let mut client = cluster.client(gone);
    assert_eq!(client.call("GET a").unwrap().code(), Some("CLUSTERDOWN"));
    assert_eq!(client.call("SET a b").unwrap().code(), Some("CLUSTERDOWN"));
    let term = cluster.status(leader).unwrap().term;
    // Also one that starts anew, and thinks of itself as a member of old, brings no election about.
    cluster.kill_9(gone);
    cluster.restart(gone);
    wait_for_page(&cluster, gone, "this node was removed from its cluster");
    assert_not_ready(&cluster, gone, "this node was removed from its cluster");
    change(&cluster, leader, "RAFT VERIFY");
    nothing_fails(&cluster, &[leader], "beside a removed node", |writers| {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            writers.wait_for_more(10);
        }
    });
    assert_eq!(cluster.status(leader).unwrap().term, term);
}

#[test]
fn trap_3_37_a_wiped_node_is_refused_and_rejoins_by_one_command() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let wiped = cluster.ids_without(leader)[0];
    assert_eq!(cluster.call(leader, "SET a b"), Reply::ok());
    // The term's first entry, the cluster's identity, the membership with the leader's own data folder, a folder for
    // each of the two others, and the write.
    wait_for("every member bound to its folder", SOON, || {
        cluster.status(leader).filter(|status| status.commit >= 6)
    });
    cluster.kill_9(wiped);
    cluster.wipe(wiped);
    cluster.restart(wiped);
    let add = cluster.add_command(wiped);
    wait_for_page(
        &cluster,
        leader,
        &format!("node {wiped} came back with an empty data folder: run {add} "),
    );
    wait_for_page(&cluster, wiped, &format!("run '{add}' on any other node"));
    assert_eq!(cluster.call(wiped, "GET a").code(), Some("CLUSTERDOWN"));
    change(&cluster, leader, &format!("{add} VOTER"));
    assert_eq!(cluster.call(wiped, "GET a"), Reply::text("b"));
    wait_for_voters(&cluster, wiped, &[1, 2, 3]);
    cluster.whole();
}

#[test]
fn a_node_that_joins_waits_and_says_for_what() {
    let mut cluster = Cluster::start(3);
    let four = cluster.join();
    let add = cluster.add_command(four);
    wait_for_page(
        &cluster,
        four,
        &format!("waiting to be added: run {add} on a member"),
    );
    let start = Instant::now();
    let refused = cluster.call(four, "SET a b");
    assert_eq!(refused.code(), Some("CLUSTERDOWN"));
    assert!(
        start.elapsed() < REQUEST_TIMEOUT,
        "at once, for waiting would not help"
    );
    change(&cluster, 1, &add);
    wait_for_voters(&cluster, four, &[1, 2, 3, 4]);
    assert_eq!(cluster.call(four, "SET a b"), Reply::ok());
    cluster.whole();
}

#[test]
fn two_changes_at_once_are_one_and_a_conflict() {
    let mut cluster = Cluster::start(3);
    let (four, five) = (cluster.join(), cluster.join());
    let leader = cluster.leader();
    // In one write, so that both are there at the same time: the second finds the first on its way.
    let mut client = cluster.client(leader);
    let both = format!("{}\n{}", cluster.add_command(four), cluster.add_command(five));
    client.send(&both).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::ok());
    assert_eq!(client.receive().unwrap().code(), Some("CONFLICT"));
    let refused = cluster.call(leader, "RAFT REMOVE 9");
    assert!(matches!(refused.code(), Some("ERR")), "{refused:?}");
}
