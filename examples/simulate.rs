//! Runs simulated clusters, one seed after the other, for as long as one likes:
//!
//! ```sh
//! cargo run --release --example simulate -- --seeds 100000                # of 3, 5 and 7 nodes in turn
//! cargo run --release --example simulate -- --seeds 1000 --nodes 5 --first 4711
//! ```
//!
//! The worlds are those of `tests/simulation`. It ends with the first seed that fails, and says how to see it again;
//! with `--keep-going` it runs them all, and lists those that failed at the end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::Parser;

#[path = "../tests/simulation/checker.rs"]
mod checker;
#[path = "../tests/simulation/clients.rs"]
mod clients;
#[path = "../tests/simulation/disk.rs"]
mod disk;
#[path = "../tests/simulation/elections.rs"]
mod elections;
#[allow(dead_code)] // The other users need more of it.
#[path = "../tests/cluster/linearizable.rs"]
mod linearizable;
#[path = "../tests/simulation/network.rs"]
mod network;
#[path = "../tests/simulation/node.rs"]
mod node;
#[path = "../tests/simulation/world.rs"]
mod world;

// As in the program. Half of the time goes into small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Arguments {
    /// How many worlds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// How many nodes; 3, 5 and 7 in turn where it is left out.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    nodes: Option<u64>,
    /// Tell all that happens.
    #[arg(long)]
    trace: bool,
    /// Do not end with the first seed that fails.
    #[arg(long)]
    keep_going: bool,
    /// How many worlds at the same time.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    jobs: usize,
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    simulated_us: u64,
    done: usize,
    failed: usize,
    unknown: usize,
    entries: u64,
    terms: u64,
    changes: usize,
    undecided: usize,
    installed: u64,
    recoveries: u64,
}

fn main() -> ExitCode {
    const TELL_EVERY: Duration = Duration::from_secs(10);
    let arguments = Arguments::parse();
    let begin = Instant::now();
    let (mut sum, mut told) = (Sum::default(), begin);
    let end = arguments.first + arguments.seeds;
    let next = AtomicU64::new(arguments.first);
    let (results, ended) = mpsc::channel();
    let mut failures = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            let results = results.clone();
            let (next, nodes, trace) = (&next, arguments.nodes, arguments.trace);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let nodes = nodes.unwrap_or([3, 5, 7][(seed % 3) as usize]);
                    if seed >= end || results.send(world::run_named(seed, nodes, trace)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(results);
        for result in ended {
            match result {
                Ok(report) => sum.add(&report),
                Err(again) => {
                    println!("to see it again: {again}");
                    if !arguments.keep_going {
                        std::process::exit(1);
                    }
                    failures.push(again);
                }
            }
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                sum.tell(begin);
            }
        }
    });
    sum.tell(begin);
    if failures.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("{} failed:\n{}", failures.len(), failures.join("\n"));
    ExitCode::FAILURE
}

impl Sum {
    fn add(&mut self, report: &world::Report) {
        self.seeds += 1;
        self.simulated_us += report.simulated_us;
        self.done += report.done;
        self.failed += report.failed;
        self.unknown += report.unknown;
        self.entries += report.entries;
        self.terms += report.terms;
        self.changes += report.changes;
        self.undecided += report.undecided;
        self.installed += report.installed;
        self.recoveries += report.recoveries;
    }

    fn tell(&self, begin: Instant) {
        let (real, simulated) = (begin.elapsed().as_secs_f64(), self.simulated_us as f64 / 1e6);
        println!(
            "{} seeds in {real:.0} s; {:.0} simulated seconds per second; {} requests done, {} failed, {} of unknown \
             outcome; {} entries, {} terms, {} changes of the membership, {} snapshots installed, {} recoveries; {} \
             histories not judged",
            self.seeds,
            simulated / real,
            self.done,
            self.failed,
            self.unknown,
            self.entries,
            self.terms,
            self.changes,
            self.installed,
            self.recoveries,
            self.undecided
        );
    }
}
