//! Change feeds: the same events from every node, whatever becomes of the leader.

use crate::client::{Client, Reply};
use crate::harness::{Cluster, REQUEST_TIMEOUT, SOON, wait_for};
use crate::with_three_and_five_nodes;

with_three_and_five_nodes!(a_feed_goes_on_while_the_leader_is_killed_and_resumes_on_any_node);

/// Revision, kind, key and value.
type Event = (i64, String, String, Option<String>);

/// A feed that is on.
fn feed(cluster: &Cluster, node: u64, command: &str) -> Client {
    let mut client = cluster.client(node);
    assert_eq!(
        client.call(command).unwrap(),
        Reply::ok(),
        "{command} on node {node}"
    );
    client
}

/// The events up to the one about the key `last`, bookmarks and marks left out.
fn events_until(reader: &mut Client, last: &str) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    while events.last().is_none_or(|event| event.2 != last) {
        let Reply::Event(parts) = reader.receive().unwrap() else {
            panic!("an event")
        };
        let [Reply::Integer(revision), Reply::Text(kind), key, value] = &parts[..] else {
            panic!("revision, kind, key, value: {parts:?}");
        };
        let text = |reply: &Reply| match reply {
            Reply::Text(text) => Some(text.clone()),
            _ => None,
        };
        if let Some(key) = text(key) {
            events.push((*revision, kind.clone(), key, text(value)));
        }
    }
    events
}

/// Writes until it is done, by whichever node.
fn write(cluster: &Cluster, nodes: &[u64], command: &str) {
    let mut turn = nodes.iter().cycle();
    wait_for(command, SOON, || {
        let address = cluster.client_address(*turn.next()?);
        let reply = Client::connect(address, REQUEST_TIMEOUT * 2).and_then(|mut client| client.call(command));
        reply.is_ok_and(|reply| reply.code().is_none()).then_some(())
    });
}

fn a_feed_goes_on_while_the_leader_is_killed_and_resumes_on_any_node(nodes: u64) {
    let mut cluster = Cluster::start(nodes);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let living = cluster.ids_without(leader);
    write(&cluster, &living, "SET w/start 0");
    let Reply::Integer(start) = cluster.call(follower, "REV w/start") else {
        panic!("a revision")
    };
    let mut reader = feed(&cluster, follower, "FEED PREFIX w/");
    for n in 0..60 {
        if n == 20 {
            cluster.kill_9(leader);
        }
        write(&cluster, &living, &format!("SET w/{n} {n}"));
        write(&cluster, &living, &format!("MSET other {n} w/a {n} w/b {n}"));
    }
    write(&cluster, &living, "DEL w/a");
    write(&cluster, &living, "SET w/last 0");
    let events = events_until(&mut reader, "w/last");
    assert!(events.is_sorted_by_key(|event| event.0));
    for n in 0..60 {
        let key = format!("w/{n}");
        assert!(events.iter().any(|event| event.2 == key), "{key} is there");
    }
    cluster.restart(leader);
    cluster.caught_up(leader);
    let middle = events[events.len() / 2].0;
    for node in cluster.ids() {
        let mut again = feed(&cluster, node, &format!("FEED PREFIX w/ FROM {start}"));
        assert_eq!(
            events_until(&mut again, "w/last"),
            events,
            "from the start on node {node}"
        );
        let mut rest = feed(&cluster, node, &format!("FEED PREFIX w/ FROM {middle}"));
        let expected: Vec<_> = events.iter().filter(|event| event.0 > middle).cloned().collect();
        assert_eq!(
            events_until(&mut rest, "w/last"),
            expected,
            "from the middle on node {node}"
        );
    }
}

#[test]
fn a_slow_reader_is_cut_and_nobody_else_is_harmed() {
    let cluster = Cluster::start(3);
    let node = cluster.follower();
    let mut slow = feed(&cluster, node, "FEED");
    let mut quick = feed(&cluster, node, "FEED PREFIX small");
    // More than the history and the sockets hold.
    let value = "v".repeat(900_000);
    for n in 0..60 {
        assert_eq!(cluster.call(node, &format!("SET large:{n} {value}")), Reply::ok());
        assert_eq!(cluster.call(node, &format!("SET small:{n} {n}")), Reply::ok());
        let last = format!("small:{n}");
        assert_eq!(events_until(&mut quick, &last).len(), 1);
    }
    let end = loop {
        match slow.receive().expect("it is told before it is cut") {
            Reply::Event(_) => {}
            other => break other,
        }
    };
    assert_eq!(end.code(), Some("COMPACTED"), "{end:?}");
    assert!(slow.receive().is_err(), "the connection is closed");
}

#[test]
fn a_feed_ends_with_a_reason_when_its_node_stops_and_resumes_elsewhere() {
    let mut cluster = Cluster::start(3);
    let node = cluster.follower();
    let mut reader = feed(&cluster, node, "FEED");
    assert_eq!(cluster.call(node, "SET a 1"), Reply::ok());
    let seen = events_until(&mut reader, "a");
    cluster.terminate(node);
    let end = reader.receive().unwrap();
    assert_eq!(end.code(), Some("READONLY"), "{end:?}");
    let other = cluster.leader();
    let mut reader = feed(&cluster, other, &format!("FEED FROM {}", seen[0].0));
    assert_eq!(cluster.call(other, "SET b 2"), Reply::ok());
    let events = events_until(&mut reader, "b");
    assert_eq!(events.len(), 1, "{events:?}");
}
