//! Conversations with a real node as text, in both dialects: `tests/transcripts/*.txt`. How they are written
//! is said in `tests/transcripts/runner.rs`. The unit tests of `client` play the same ones with a node that
//! has neither disk nor peers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "common/nodes.rs"]
mod nodes;
#[path = "transcripts/runner.rs"]
mod runner;
#[path = "common/waiting.rs"]
mod waiting;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::path::Path;

use nodes::{Cluster, ask_all, flush};

/// Every conversation is held with each node: one of the two leads, the other one follows.
#[test]
fn transcripts() {
    let cluster = Cluster::start(2);
    for (name, text) in conversations() {
        for client in &cluster.clients {
            flush(*client).expect("FLUSHALL between two conversations");
            runner::play(&name, &text, || TcpStream::connect(client).unwrap());
        }
    }
}

/// Every row of the command table is said in each dialect.
#[test]
fn every_command_is_said_in_both_dialects() {
    let cluster = Cluster::start(1);
    let (mut lines, mut arrays) = (BTreeSet::new(), BTreeSet::new());
    for (_, text) in conversations() {
        for line in text.lines() {
            if let Some(request) = line.strip_prefix("> ") {
                lines.extend(request.split_whitespace().next().map(str::to_lowercase));
            }
            // `*1\r\n$4\r\nPING`: the word behind the first length.
            let parts: Vec<&str> = line
                .strip_prefix(">> ")
                .unwrap_or_default()
                .split("\\r\\n")
                .collect();
            let is_array = |part: &str| part.starts_with('*') && part[1..].parse::<u32>().is_ok();
            let arrays_here = parts
                .windows(3)
                .filter(|parts| is_array(parts[0]) && parts[1].starts_with('$'));
            arrays.extend(arrays_here.map(|parts| parts[2].to_lowercase()));
        }
    }
    let names = ask_all(cluster.clients[0], "COMMAND LIST");
    let missing = |said: &BTreeSet<String>| -> Vec<String> {
        names
            .iter()
            .filter(|name| !said.contains(*name))
            .cloned()
            .collect()
    };
    let (lines, arrays) = (missing(&lines), missing(&arrays));
    assert!(
        lines.is_empty() && arrays.is_empty(),
        "as a line {lines:?}, as an array {arrays:?}"
    );
}

/// The conversations, each with the name of its file.
fn conversations() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    for entry in fs::read_dir(root.join("tests/transcripts")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            all.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(!all.is_empty(), "no conversation was found");
    all
}
