//! More load than a cluster can bear.

use std::time::Duration;

use crate::client::{Client, Reply};
use crate::harness::Cluster;

const SOON: Duration = Duration::from_secs(20);
const REQUESTS: usize = 2000;

/// What comes beyond `max_pending` is refused with BUSY and not done; the rest is done, by the leader that leads.
#[test]
fn what_is_too_much_is_refused_and_the_rest_is_done() {
    let cluster = Cluster::builder(3).set("limits", "max_pending = 50").start();
    let leader = cluster.leader();
    let term = cluster.status(leader).unwrap().term;
    // Through a follower as well: its refusals are as good.
    let nodes = [leader, leader, cluster.follower()];
    let mut clients: Vec<Client> = nodes
        .iter()
        .map(|node| Client::connect(cluster.client_address(*node), SOON).unwrap())
        .collect();
    for (at, client) in clients.iter_mut().enumerate() {
        client
            .send(&vec![format!("INCR n{at}"); REQUESTS].join("\n"))
            .unwrap();
    }
    let replies = clients.iter_mut().map(|client| {
        let (mut done, mut busy) = (0, 0);
        for _ in 0..REQUESTS {
            match client.receive().unwrap() {
                Reply::Integer(_) => done += 1,
                Reply::Error { code, .. } if code == "BUSY" => busy += 1,
                other => panic!("{other:?}"),
            }
        }
        (done, busy)
    });
    // Only when nothing waits any more is nobody refused who asks.
    let replies: Vec<(i64, i64)> = replies.collect();
    for (at, (client, (done, busy))) in clients.iter_mut().zip(&replies).enumerate() {
        let counted = client.call(&format!("INCR n{at}")).unwrap();
        assert_eq!(counted, Reply::Integer(done + 1), "{busy} refused");
    }
    let all_done: i64 = replies.iter().map(|(done, _)| done).sum();
    let all_busy: i64 = replies.iter().map(|(_, busy)| busy).sum();
    assert!(
        all_done > 0 && all_busy > 0,
        "{all_done} done, {all_busy} refused"
    );
    let status = cluster.status(leader).unwrap();
    assert_eq!((cluster.leader(), status.term), (leader, term));
}
