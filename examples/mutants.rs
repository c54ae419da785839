//! Puts one known bug after the other into the nodes, and lets simulated worlds run until one of them shows it:
//!
//! ```sh
//! cargo run --release --features mutants --example mutants            # writes docs/mutation-table.md
//! cargo run --release --features mutants --example mutants -- --only ReadWithoutQuorum
//! ```
//!
//! It fails if the worlds of `--seeds` seeds do not show a bug: then the simulation is too kind, or the bug is none.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::cell::RefCell;
use std::fmt::Write;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use clap::Parser;
use raftline::base::mutant::{self, Mutant};

#[path = "../tests/simulation/checker.rs"]
mod checker;
#[path = "../tests/simulation/clients.rs"]
mod clients;
#[path = "../tests/simulation/disk.rs"]
mod disk;
#[allow(dead_code)] // The other users need more of it.
#[path = "../tests/cluster/linearizable.rs"]
mod linearizable;
#[path = "../tests/simulation/network.rs"]
mod network;
#[path = "../tests/simulation/node.rs"]
mod node;
#[path = "../tests/simulation/world.rs"]
mod world;

#[derive(Parser)]
struct Arguments {
    /// How many worlds a bug may need.
    #[arg(long, default_value_t = 2000)]
    seeds: u64,
    /// How many bugs are looked for at the same time.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    jobs: usize,
    /// Only the bugs whose name contains one of these, with commas between; no table is written.
    #[arg(long)]
    only: Option<String>,
}

/// The seed that showed a bug, and the property that did not hold.
type Found = Option<(u64, String)>;

const TABLE: &str = "docs/mutation-table.md";

thread_local! {
    /// What the last panic said.
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    std::panic::set_hook(Box::new(|info| {
        SAID.set(text_of(info.payload()));
    }));
    let is_wanted = |mutant: &&Mutant| {
        let only = arguments.only.as_deref().unwrap_or("");
        only.split(',').any(|name| format!("{mutant:?}").contains(name))
    };
    let wanted: Vec<Mutant> = Mutant::ALL.iter().filter(is_wanted).copied().collect();
    let begin = Instant::now();
    let found = search(&wanted, arguments.seeds, arguments.jobs);
    let missed = found.iter().filter(|found| found.is_none()).count();
    println!(
        "{} of {} bugs found in {:.0} s",
        wanted.len() - missed,
        wanted.len(),
        begin.elapsed().as_secs_f64()
    );
    if arguments.only.is_none() {
        std::fs::write(TABLE, table(&wanted, &found, arguments.seeds)).expect("the table can be written");
    }
    if missed > 0 {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Looks for each bug, `jobs` at a time.
fn search(wanted: &[Mutant], seeds: u64, jobs: usize) -> Vec<Found> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(vec![None; wanted.len()]);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(mutant) = wanted.get(n) else {
                        return;
                    };
                    let begin = Instant::now();
                    let one = find(*mutant, seeds);
                    let seconds = begin.elapsed().as_secs_f64();
                    match &one {
                        Some((seed, property)) => {
                            println!("{mutant:?}: seed {seed}, {seconds:.1} s: {property}");
                        }
                        None => println!("{mutant:?}: MISSED by {seeds} seeds, {seconds:.1} s"),
                    }
                    found.lock().expect("nobody panics with it")[n] = one;
                }
            });
        }
    });
    found.into_inner().expect("nobody panics with it")
}

fn find(mutant: Mutant, seeds: u64) -> Found {
    mutant::choose(Some(mutant));
    for seed in 0..seeds {
        let nodes = [3, 5, 7][(seed % 3) as usize];
        if world::run_named(seed, nodes, false).is_err() {
            return Some((seed, property(&SAID.take())));
        }
    }
    None
}

/// The name of the property that did not hold; of an assertion of the nodes themselves, what it says.
fn property(said: &str) -> String {
    const CHARS_MAX: usize = 80;
    let line = said.lines().next().unwrap_or_default();
    let name = line.split_once(':').map_or(line, |(name, _)| name);
    name.chars().take(CHARS_MAX).collect()
}

fn table(mutants: &[Mutant], found: &[Found], seeds: u64) -> String {
    let mut text = format!(
        "# Mutation table\n\n\
         Known bugs, each put into the nodes by a switch of `base::mutant`, and what the simulation makes of them:\n\
         which property was found not to hold, and how many worlds had to run until then, of 3, 5 and 7 nodes in\n\
         turn, at most {seeds}. Written by\n\n\
         ```sh\ncargo run --release --features mutants --example mutants\n```\n\n\
         | bug | where | what is wrong | found by | seeds |\n| --- | --- | --- | --- | --- |\n"
    );
    for (mutant, found) in mutants.iter().zip(found) {
        let (area, what) = mutant.describe();
        let (property, needed) = match found {
            Some((seed, property)) => (property.as_str(), (seed + 1).to_string()),
            None => ("", "missed".into()),
        };
        let _ = writeln!(text, "| {mutant:?} | `{area}` | {what} | {property} | {needed} |");
    }
    text
}

fn text_of(payload: &dyn std::any::Any) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_default()
}
