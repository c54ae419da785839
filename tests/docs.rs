//! The examples of the documentation, run against a real node: each page with a node of its own, from its first
//! example to its last one.
//!
//! | a block of | is |
//! | --- | --- |
//! | `transcript` | a conversation as in `tests/transcripts`, on a connection of its own |
//! | `console`, with `$ nc …` or `$ telnet …` alone | a conversation through it: a reply is told by its first byte |
//! | `console` | commands of bash, and what each prints; `…` stands for anything |
//! | `bash` | a file; its second line begins with its name |
//! | `sh` | for operators: builds, installs, changes the membership. Other tests do that |
//!
//! The pages are written for readers, so: the node's port is 7238 and its address any of 10.0.0.x; a number of four
//! digits that begins with 47 is one that the node chooses, from where it first comes in a reply.
//!
//! A program that is not installed is said to be missing; with `RAFTLINE_REQUIRE_CLIENTS` it must be there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "common/nodes.rs"]
mod nodes;
#[path = "docs/page.rs"]
mod page;
#[path = "docs/programs.rs"]
mod programs;
#[path = "transcripts/runner.rs"]
mod runner;
#[path = "common/waiting.rs"]
mod waiting;

use std::collections::BTreeSet;
use std::net::TcpStream;

use nodes::{Cluster, ask_all};
use page::{Block, blocks};
use programs::Shell;

const PROTOCOL: &str = "docs/protocol.md";

#[test]
fn readme() {
    play("README.md");
}

#[test]
fn protocol() {
    play(PROTOCOL);
}

#[test]
fn shell() {
    play("docs/shell.md");
}

fn play(page: &str) {
    let cluster = Cluster::start(1);
    let node = cluster.clients[0];
    let shell = Shell::new(node);
    let mut played = 0;
    for block in blocks(page) {
        match block.kind.as_str() {
            "transcript" => runner::play(page, &block.conversation(), || TcpStream::connect(node).unwrap()),
            "console" => shell.play(&block),
            "bash" => shell.keep(&block),
            // Figures and files.
            "sh" | "text" | "toml" => continue,
            kind => panic!("{page}:{}: who runs blocks of '{kind}'?", block.line),
        }
        played += 1;
    }
    assert!(played > 0, "{page} has no examples");
}

/// Every row of the command table, and every command under one.
#[test]
fn every_command_has_an_example() {
    let cluster = Cluster::start(1);
    let node = cluster.clients[0];
    let shown = commands_shown(blocks(PROTOCOL));
    let mut missing = Vec::new();
    for name in ask_all(node, "COMMAND LIST") {
        for help in ask_all(node, &format!("HELP {name}")) {
            let mut words = help.split(' ').take_while(|word| *word != "-");
            let under = words.next().map(|_| words.next().unwrap_or_default());
            let name = name.to_uppercase();
            // The line of the row itself, or one for each command under it.
            let is_under =
                |word: &&str| word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase() || c == '-');
            let example = match under.filter(is_under) {
                Some(under) => format!("{name} {under}"),
                None => name,
            };
            // Each family has its own HELP, all alike.
            if !shown.contains(&example) && !example.ends_with(" HELP") {
                missing.push(example);
            }
        }
    }
    assert!(missing.is_empty(), "{PROTOCOL} has no example of {missing:?}");
}

/// The names of the commands that the blocks send, alone and with the word behind them.
fn commands_shown(blocks: Vec<Block>) -> BTreeSet<String> {
    let mut shown = BTreeSet::new();
    for line in blocks
        .iter()
        .filter(|block| block.kind == "transcript")
        .flat_map(|block| &block.lines)
    {
        let Some(request) = line.strip_prefix("> ") else {
            continue;
        };
        let words: Vec<String> = request.split_whitespace().map(str::to_uppercase).collect();
        for at in 0..words.len() {
            // A command in another one has an example too.
            if at == 0 || (words[0] == "ONCE" && at == 2) || (words[0] == "SEQ" && at == 3) {
                shown.insert(words[at].clone());
                shown.insert(words[at..words.len().min(at + 2)].join(" "));
            }
        }
    }
    shown
}
