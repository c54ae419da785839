//! `raftline bench` on real nodes: what it counts is what was done.

use std::process::{Command, Output};

use serde_json::Value;

use crate::client::Reply;
use crate::harness::Cluster;
use crate::raftline;

fn bench(address: &str, arguments: &[&str]) -> Output {
    let command = [
        "bench",
        "--addr",
        address,
        "--warmup",
        "0s",
        "--duration",
        "300ms",
        "--json",
    ];
    Command::new(raftline())
        .args(command)
        .args(arguments)
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    let (said, told) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    serde_json::from_slice(said).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(said)))
}

#[test]
fn a_load_does_what_it_counts() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let address = cluster.client_address(cluster.follower()).to_string();

    let incremented = json(&bench(
        &address,
        &[
            "--command",
            "incr",
            "--keys",
            "1",
            "-c",
            "4",
            "-p",
            "3",
            "--to",
            "all",
        ],
    ));
    assert_eq!(
        (&incremented["failed"], &incremented["lost"]),
        (&0.into(), &0.into()),
        "{incremented}"
    );
    let done = incremented["done"].as_u64().unwrap();
    // What was under way at the end was not measured: 3 on each of 4 connections, and its answers may still come.
    let Reply::Text(counted) = cluster.call(leader, "GET count:key:000000000000") else {
        panic!("nothing was counted");
    };
    let counted: u64 = counted.parse().unwrap();
    assert!(
        (done..=done + 12).contains(&counted),
        "{done} measured, {counted} counted"
    );
    assert_eq!(
        incremented["servers"].as_array().map(Vec::len),
        Some(3),
        "{incremented}"
    );

    let plot = cluster.folder().join("plot.svg");
    let mixed = json(&bench(
        &address,
        &[
            "--rate",
            "500",
            "--reads",
            "50",
            "--read-mode",
            "stale",
            "--to",
            "leader",
            "--plot",
            plot.to_str().unwrap(),
        ],
    ));
    // What is due between the start and the first second of measuring is answered in it too.
    let due = 25 + (500.0 * mixed["seconds_measured"].as_f64().unwrap()) as u64;
    assert!(
        mixed["done"].as_u64() <= Some(due),
        "not more than was due: {mixed}"
    );
    assert!(mixed["read_latency"]["count"].as_u64() > Some(0), "{mixed}");
    assert!(mixed["write_latency"]["count"].as_u64() > Some(0), "{mixed}");
    assert_eq!(mixed["servers"][0], cluster.client_address(leader).to_string());
    let picture = std::fs::read_to_string(plot).unwrap();
    assert!(
        picture.starts_with("<svg") && picture.matches("<polyline").count() >= 4,
        "{picture}"
    );
}

#[test]
fn a_load_without_a_server_says_so() {
    let cluster = Cluster::start(1);
    let address = cluster.client_address(1).to_string();
    drop(cluster);
    let output = bench(&address, &[]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains(&address) && told.contains("cannot connect"),
        "{told}"
    );
    assert_eq!(bench(&address, &["--reads", "101"]).status.code(), Some(2));
}
