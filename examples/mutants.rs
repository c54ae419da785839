//! Puts one known bug after the other into the nodes, and lets simulated worlds run until one of them shows it:
//!
//! ```sh
//! cargo run --release --features mutants --example mutants            # writes docs/mutation-table.md
//! cargo run --release --features mutants --example mutants -- --only ReadWithoutQuorum
//! cargo run --release --features mutants --example mutants -- --resume --seconds 60
//! ```
//!
//! The table is written after each bug. With `--resume` what it says was found is not looked for again, so it can be
//! made in several goes. First some worlds run without a bug: they must not show one.
//!
//! It fails if the worlds of `--seeds` seeds do not show a bug: then the simulation is too kind, or the bug is none.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::cell::RefCell;
use std::collections::BTreeMap;
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

#[derive(Parser)]
struct Arguments {
    /// How many worlds a bug may need.
    #[arg(long, default_value_t = 5000)]
    seeds: u64,
    /// How many bugs are looked for at the same time.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    jobs: usize,
    /// No bug is looked for longer than this.
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// Keep the rows of the table whose bug was found.
    #[arg(long)]
    resume: bool,
    /// Only the bugs whose name contains one of these, with commas between; no table is written without `--resume`.
    #[arg(long)]
    only: Option<String>,
}

/// Worlds that run without a bug.
const SOUND_WORLDS: u64 = 300;

/// The rows of the table, by bug.
type Rows = BTreeMap<String, String>;

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
    for seed in 0..SOUND_WORLDS {
        assert!(
            run(seed).is_none(),
            "seed {seed} fails without a bug: {}",
            SAID.take()
        );
    }
    let rows = if arguments.resume {
        rows_found()
    } else {
        Rows::new()
    };
    let is_wanted = |mutant: &&Mutant| {
        let only = arguments.only.as_deref().unwrap_or("");
        let name = format!("{mutant:?}");
        only.split(',').any(|part| name.contains(part)) && !rows.contains_key(&name)
    };
    let wanted: Vec<Mutant> = Mutant::ALL.iter().filter(is_wanted).copied().collect();
    let begin = Instant::now();
    let missed = search(&wanted, rows, &arguments);
    println!(
        "{} of {} bugs found in {:.0} s",
        wanted.len() - missed,
        wanted.len(),
        begin.elapsed().as_secs_f64()
    );
    if missed > 0 {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The rows of the table that is there, but for the bugs that were missed.
fn rows_found() -> Rows {
    let text = std::fs::read_to_string(TABLE).unwrap_or_default();
    let row = |line: &str| {
        let name = line.strip_prefix("| ")?.split(' ').next()?.to_string();
        let is_one = Mutant::ALL.iter().any(|mutant| format!("{mutant:?}") == name);
        (is_one && !line.contains("| missed")).then(|| (name, line.to_string()))
    };
    text.lines().filter_map(row).collect()
}

/// Looks for each bug, some at a time, and writes the table after each. How many were missed.
fn search(wanted: &[Mutant], rows: Rows, arguments: &Arguments) -> usize {
    let next = AtomicUsize::new(0);
    let missed = AtomicUsize::new(0);
    let rows = Mutex::new(rows);
    let writes = arguments.resume || arguments.only.is_none();
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            scope.spawn(|| {
                while let Some(mutant) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begin = Instant::now();
                    let (found, seeds) = find(*mutant, arguments);
                    let seconds = begin.elapsed().as_secs_f64();
                    let (property, needed) = match found {
                        Some(property) => (property, seeds.to_string()),
                        None => {
                            missed.fetch_add(1, Ordering::Relaxed);
                            (String::new(), format!("missed in {seeds}"))
                        }
                    };
                    println!("{mutant:?}: {needed}, {seconds:.1} s: {property}");
                    let (area, what) = mutant.describe();
                    let row = format!("| {mutant:?} | `{area}` | {what} | {property} | {needed} |");
                    let mut rows = rows.lock().expect("nobody panics with it");
                    rows.insert(format!("{mutant:?}"), row);
                    if writes {
                        std::fs::write(TABLE, table(&rows, arguments.seeds))
                            .expect("the table can be written");
                    }
                }
            });
        }
    });
    missed.into_inner()
}

/// Which property the bug breaks, and after how many worlds; or in how many it was not seen.
fn find(mutant: Mutant, arguments: &Arguments) -> (Option<String>, u64) {
    mutant::choose(Some(mutant));
    let begin = Instant::now();
    for seed in 0..arguments.seeds {
        if begin.elapsed().as_secs() >= arguments.seconds {
            return (None, seed);
        }
        if let Some(property) = run(seed) {
            return (Some(property), seed + 1);
        }
    }
    (None, arguments.seeds)
}

/// Runs one world, and says which property did not hold.
fn run(seed: u64) -> Option<String> {
    let nodes = [3, 5, 7][(seed % 3) as usize];
    let result = world::run_named(seed, nodes, false);
    result.is_err().then(|| property(&SAID.take()))
}

/// The name of the property that did not hold; of an assertion of the nodes themselves, what it says.
fn property(said: &str) -> String {
    const CHARS_MAX: usize = 80;
    let line = said.lines().next().unwrap_or_default();
    let name = line.split_once(':').map_or(line, |(name, _)| name);
    name.chars().take(CHARS_MAX).collect()
}

fn table(rows: &Rows, seeds: u64) -> String {
    let mut text = format!(
        "# Mutation table\n\n\
         Known bugs, each put into the nodes by a switch of `base::mutant`, and what the simulation makes of them:\n\
         which property was found not to hold, and how many worlds had to run until then, of 3, 5 and 7 nodes in\n\
         turn; {seeds} at most. Written by\n\n\
         ```sh\ncargo run --release --features mutants --example mutants\n```\n\n\
         `--resume --seconds 60` goes on with those that are missing, for a minute each.\n\n\
         | bug | where | what is wrong | found by | worlds |\n| --- | --- | --- | --- | --- |\n"
    );
    for row in Mutant::ALL
        .iter()
        .filter_map(|mutant| rows.get(&format!("{mutant:?}")))
    {
        text.push_str(row);
        text.push('\n');
    }
    text
}

fn text_of(payload: &dyn std::any::Any) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_default()
}
