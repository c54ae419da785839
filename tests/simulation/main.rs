//! Whole clusters of real nodes under a seed, on a simulated network, simulated disks and simulated clocks.
//!
//! Each node is the node of production: `raftline::node::Machine` on `raftline::storage::Storage`. `world` has the
//! events and the faults, `network`, `disk` and `node` what the nodes run on, `clients` those who use them, and
//! `checker` what must hold. A world is made by its seed alone: `SEED=… NODES=…` runs that one, `TRACE=1` tells what
//! happens in it, and `SEEDS=n` runs so many. `examples/simulate.rs` runs many more.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod checker;
mod clients;
mod disk;
mod elections;
#[path = "../cluster/linearizable.rs"]
#[allow(dead_code)] // The other users need more of it.
mod linearizable;
mod network;
mod node;
mod world;

use world::Report;

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().expect("a number"))
}

fn run(seed: u64, nodes: u64) -> Report {
    let trace = number("TRACE").is_some_and(|trace| trace > 0);
    world::run_named(seed, nodes, trace).unwrap_or_else(|again| panic!("{again}"))
}

fn run_seeds(nodes: u64, count: u64) {
    if number("NODES").is_some_and(|wanted| wanted != nodes) {
        return;
    }
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(count),
    };
    let count = seeds.end - seeds.start;
    let (mut done, mut all, mut undecided) = (0, 0, 0);
    for seed in seeds {
        let report = run(seed, nodes);
        done += report.done;
        all += report.done + report.failed + report.unknown;
        undecided += report.undecided;
    }
    // Worlds in which nothing ever succeeds would prove nothing.
    assert!(
        count < 10 || 2 * done > all,
        "{done} of {all} requests were carried out"
    );
    assert!(
        count < 10 || (undecided as u64) < count / 10,
        "{undecided} histories of {count} worlds were not judged"
    );
}

#[test]
fn worlds_of_three_nodes() {
    run_seeds(3, 350);
}

#[test]
fn worlds_of_five_nodes() {
    run_seeds(5, 120);
}

#[test]
fn worlds_of_seven_nodes() {
    run_seeds(7, 30);
}

/// Worlds, by seed and nodes, that have found something; they need not find it any more since worlds have changed.
const KEPT: [(u64, u64); 20] = [
    (351, 3),
    (455, 3),
    (469, 3),
    (712, 3),
    (714, 3),
    (1146, 3),
    (5195, 3),
    (5382, 3),
    (5385, 3),
    (5389, 3),
    (1496, 7),
    (2648, 7),
    (4394, 7),
    (5650, 5),
    (6804, 3),
    (7110, 3),
    (8273, 7),
    (10615, 5),
    (11849, 7),
    (26520, 3),
];

#[test]
fn worlds_that_have_found_something() {
    for (seed, nodes) in KEPT {
        run(seed, nodes);
    }
}

#[test]
fn a_seed_makes_the_same_world_every_time() {
    for seed in 0..3 {
        assert_eq!(run(seed, 3), run(seed, 3), "seed {seed}");
    }
}
