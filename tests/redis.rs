//! The same random conversations with a node and with a real Redis: the commands that both have are answered alike, but
//! for what `docs/protocol.md` lists. A difference is shown with the shortest conversation that was found to make it.
//!
//! `SEED=7 cargo test --test redis` replays a run; `CONVERSATIONS=100000` makes it longer.
//!
//! Needs `redis-server`, version 7. Without it it says so and passes, unless RAFTLINE_REQUIRE_REDIS=1.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "redis/compare.rs"]
mod compare;
#[path = "redis/generate.rs"]
mod generate;
#[path = "redis/server.rs"]
mod server;
#[path = "common/waiting.rs"]
mod waiting;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;
use std::time::SystemTime;

use compare::{alike, shown};
use generate::{Generator, Step};
use server::{Connection, Reply, Server};

/// How many conversations a run has, each of about thirty commands.
const CONVERSATIONS: u64 = 2000;

/// How many differences are told.
const DIFFERENCES_MAX: usize = 20;

/// Both servers, and two connections to each.
struct Pair {
    redis: [Connection; 2],
    raftline: [Connection; 2],
    _servers: [Server; 2],
}

#[test]
fn what_redis_knows_too_is_answered_as_redis_does() {
    let found = Command::new("redis-server").arg("--version").output();
    let Some(version) = found
        .ok()
        .map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
    else {
        assert!(
            std::env::var_os("RAFTLINE_REQUIRE_REDIS").is_none(),
            "there is no redis-server"
        );
        eprintln!("there is no redis-server, so nothing was compared with it");
        return;
    };
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let (seed, count) = (number("SEED", now), number("CONVERSATIONS", CONVERSATIONS));
    eprintln!("SEED={seed}, against {version}");
    let mut pair = Pair::start();
    let mut generator = Generator::new(seed);
    let mut differences = BTreeMap::new();
    for _ in 0..count {
        let conversation = generator.conversation();
        let Some(told) = pair.hold(&conversation) else {
            continue;
        };
        let found = last_step(&told);
        let told = pair.shrink(conversation, &found).unwrap_or(told);
        differences.insert(found, told);
        if differences.len() == DIFFERENCES_MAX {
            break;
        }
    }
    let all: Vec<String> = differences.into_values().collect();
    assert!(all.is_empty(), "differences (SEED={seed}):\n{}", all.join("\n"));
}

fn number(variable: &str, default: u64) -> u64 {
    let set = std::env::var(variable).ok();
    set.map_or(default, |text| text.parse().expect(variable))
}

impl Pair {
    fn start() -> Pair {
        let servers = [Server::redis(), Server::raftline()];
        let connect = |server: &Server| [(); 2].map(|()| server.connect().unwrap());
        Pair {
            redis: connect(&servers[0]),
            raftline: connect(&servers[1]),
            _servers: servers,
        }
    }

    /// Has the conversation with both, from the start on; what was said up to a difference, if there is one.
    fn hold(&mut self, conversation: &[Step]) -> Option<String> {
        for connections in [&mut self.redis, &mut self.raftline] {
            for connection in connections.iter_mut() {
                connection
                    .send(b"*1\r\n$5\r\nRESET\r\n*1\r\n$8\r\nFLUSHALL\r\n")
                    .unwrap();
                connection.receive().unwrap();
                connection.receive().unwrap();
            }
        }
        let mut told = String::new();
        for step in conversation {
            let bytes: Vec<u8> = step.requests.iter().flat_map(|request| request.bytes()).collect();
            let (redis, raftline) = (
                &mut self.redis[step.connection],
                &mut self.raftline[step.connection],
            );
            redis.send(&bytes).unwrap();
            raftline.send(&bytes).unwrap();
            let mut is_different = false;
            for request in &step.requests {
                let by = if request.is_line { " (as a line)" } else { "" };
                writeln!(told, "{}> {}{by}", step.connection, request.shown()).unwrap();
                // A reply that does not come is told with what was said before it.
                let (theirs, ours) = match (redis.receive(), raftline.receive()) {
                    (Ok(theirs), Ok(ours)) => (theirs, ours),
                    failed => panic!("{told}{failed:?}"),
                };
                if alike(request, &theirs, &ours) {
                    writeln!(told, "   {}", shown(&theirs)).unwrap();
                } else {
                    is_different = true;
                    writeln!(
                        told,
                        "   redis:    {}\n   raftline: {}",
                        shown(&theirs),
                        shown(&ours)
                    )
                    .unwrap();
                }
            }
            if is_different {
                return Some(told);
            }
        }
        None
    }

    /// What is told of the conversation without what this difference does not need; nothing if it needs all.
    fn shrink(&mut self, mut conversation: Vec<Step>, found: &str) -> Option<String> {
        let mut shortest = None;
        for at in (0..conversation.len()).rev() {
            let mut shorter = conversation.clone();
            shorter.remove(at);
            if let Some(told) = self.hold(&shorter).filter(|told| last_step(told) == found) {
                conversation = shorter;
                shortest = Some(told);
            }
        }
        shortest
    }
}

/// From the first difference on: the command and its two answers.
fn last_step(told: &str) -> String {
    let lines: Vec<&str> = told.lines().collect();
    let first = lines.iter().position(|line| line.starts_with("   redis:"));
    lines[first.map_or(0, |at| at - 1)..].join("\n")
}
