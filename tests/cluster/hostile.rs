//! Strangers on both ports, while another client works and should notice nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use raftline::base::rng::Rng;

use crate::client::{Client, Reply};
use crate::harness::{self, Cluster, SOON};
use crate::workload::{Writers, meanwhile};

const MIB: u64 = 1024 * 1024;

/// Runs `attack` on the client port and the peer port of the leader, and of a follower, while clients write
/// through all nodes. They must not fail once, nobody may end, and the memory of no node may grow by more than
/// `growth_bytes` while it lasts. The connections that `attack` returns stay open meanwhile.
fn withstand(growth_bytes: u64, attack: impl Fn(SocketAddr) -> Vec<TcpStream>) {
    harness::raise_file_limit();
    // Alone: what another test's cluster takes from this machine is nothing that the attack did.
    let cluster = Cluster::builder(3).alone().start();
    let leader = cluster.leader();
    let writers = Writers::new(&cluster.addresses(), 3);
    meanwhile(
        3,
        |n| writers.write(n),
        || {
            writers.wait_for_more(100);
            for id in [leader, cluster.ids_without(leader)[0]] {
                let before = harness::resident_bytes(cluster.pid(id));
                let mut held = attack(cluster.client_address(id));
                held.extend(attack(cluster.peer_address(id)));
                writers.wait_for_more(100);
                let grown = harness::resident_bytes(cluster.pid(id)).saturating_sub(before);
                assert!(
                    grown < growth_bytes,
                    "node {id} has grown by {} KiB",
                    grown / 1024
                );
                // Idle strangers leave one after the other, not ten thousand in the same moment.
                while !held.is_empty() {
                    held.truncate(held.len().saturating_sub(500));
                    writers.wait_for_more(5);
                }
            }
        },
    );
    assert_eq!(writers.failed(), 0, "other clients noticed");
    cluster.assert_all_run();
    assert_eq!(cluster.leader(), leader);
    cluster.whole();
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, SOON).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    stream
}

/// A connection that has said this, as far as it was listened to.
fn send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = connect(address);
    let _ = stream.write_all(bytes);
    stream
}

#[test]
fn random_bytes() {
    withstand(64 * MIB, |address| {
        let rubbish = |seed| {
            let mut rng = Rng::new(seed);
            let bytes: Vec<u8> = (0..4096).flat_map(|_| rng.next_u64().to_be_bytes()).collect();
            // It may be refused half way, and that is fine.
            send(address, &bytes)
        };
        (0..50).map(rubbish).collect()
    });
}

#[test]
fn endless_lines() {
    withstand(64 * MIB, |address| {
        let mut stream = connect(address);
        let chunk = [b'a'; 64 * 1024];
        let taken = (0..1024).take_while(|_| stream.write_all(&chunk).is_ok()).count();
        assert!(taken < 1024, "64 MiB of a line without an end were taken");
        vec![stream]
    });
}

#[test]
fn lengths_that_lie() {
    let requests: [&[u8]; 9] = [
        b"*1000000000\r\n",
        b"*-7\r\n$1\r\n",
        b"*1\r\n$999999999999999999999\r\n",
        b"*2\r\n$3\r\nGET\r\n$2000000000\r\nshort",
        b"\xff\xff\xff\xff",
        b"\x10\x00\x00\x00ten bytes.",
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x08\x12\xff\xff\xff\xff\xff\xff\x0f",
        b"\x00\x00\x00\x02\x12\x7f",
    ];
    withstand(64 * MIB, |address| {
        requests
            .iter()
            .cycle()
            .take(90)
            .map(|bytes| send(address, bytes))
            .collect()
    });
}

#[test]
fn half_a_request_and_then_silence() {
    withstand(64 * MIB, |address| {
        let halves = [&b"SET half "[..], b"\x00\x00\x00\x40\x12\x3e", b"*2\r\n$3\r\n"];
        halves
            .iter()
            .cycle()
            .take(200)
            .map(|half| send(address, half))
            .collect()
    });
}

#[test]
fn five_thousand_idle_connections() {
    // On both ports at once: for each there is one end here and one in the node, which inherits the limit.
    let count = 5000.min((harness::raise_file_limit() as usize - 2000) / 2);
    if count < 5000 {
        println!("the system allows no more than {count} connections here");
    }
    withstand(256 * MIB, |address| {
        (0..count).map(|_| connect(address)).collect()
    });
}

/// Asks for far more than it ever reads.
#[test]
fn a_client_that_does_not_read_its_answers() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let value = "v".repeat(100_000);
    assert_eq!(cluster.call(leader, &format!("SET large {value}")), Reply::ok());
    let mut streams: Vec<TcpStream> = (0..4).map(|_| connect(cluster.client_address(leader))).collect();
    let before = harness::resident_bytes(cluster.pid(leader));
    let requests = b"GET large\n".repeat(1000);
    for stream in &mut streams {
        // 40,000 answers of 100 kB would be 4 GB. The node stops reading at some point, and a write times out.
        let _ = (0..40).try_for_each(|_| stream.write_all(&requests));
    }
    let mut other = Client::connect(cluster.client_address(leader), SOON).unwrap();
    for n in 0..100 {
        assert_eq!(other.call(&format!("SET other {n}")).unwrap(), Reply::ok());
    }
    let grown = harness::resident_bytes(cluster.pid(leader)).saturating_sub(before);
    assert!(grown < 256 * MIB, "grown by {} MiB", grown / MIB);
    // Who reads after all gets what it asked for.
    let mut start = [0; 8];
    streams[0].read_exact(&mut start).unwrap();
    assert_eq!(&start, b"+vvvvvvv");
}
