//! Clusters of real `raftline serve` processes: they are killed, stopped, cut off from each other and talked
//! to by strangers, while clients write down what they see.
//!
//! `harness` starts and ends processes, `proxy` is the network between them, `client` speaks the line
//! dialect, `history` writes down what was seen and `linearizable` judges it. The tests are in the other files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod client;
mod harness;
mod history;
mod linearizable;
mod proxy;
mod workload;

mod bench;
mod cli;
mod crashes;
mod damage;
mod diary;
mod elections;
mod feeds;
mod hostile;
mod membership;
mod overload;
mod partitions;
mod reads;
mod repeats;
mod snapshots;
mod strangers;

/// The binary under test.
fn raftline() -> std::path::PathBuf {
    env!("CARGO_BIN_EXE_raftline").into()
}

/// A test for three nodes and one for five of a function that takes the number of nodes.
macro_rules! with_three_and_five_nodes {
    ($($name:ident),* $(,)?) => {
        mod three_nodes { $(#[test] fn $name() { super::$name(3) })* }
        mod five_nodes { $(#[test] fn $name() { super::$name(5) })* }
    };
}
use with_three_and_five_nodes;
