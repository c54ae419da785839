//! `raftline bench`: a load generator for anything that speaks RESP: a raftline cluster, or a Redis to compare with.
//!
//! **Closed loop** (the default): each connection keeps as many requests under way as `--pipeline` says and sends the
//! next one when an answer comes, so the rate is what the server makes of it. **Open loop** (`--rate`): requests are
//! due at a constant rate whatever the answers do, and latency counts from when a request was due and not from when
//! there was a chance to send it: a server that stalls is charged for everybody who would have waited.
//!
//! `load` is the loop, one thread on all connections; `connection` one of them; `answers` counts replies in bytes;
//! `record` is what was measured; `report` and `plot` show it.
//!
//! Missing: other commands than SET, GET, INCR and PING; keys that are not chosen uniformly; TLS.

mod answers;
mod connection;
mod load;
mod plot;
mod record;
mod report;
mod requests;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::BytesMut;
use clap::{Args, ValueEnum};
use serde::Deserialize;

use super::{Failure, say};
use crate::base::units::{parse_duration, parse_size};
use connection::ask;
use requests::{Command, Workload};

/// Arguments of `raftline bench`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Servers, with commas between; connections are spread over them
    #[arg(
        long,
        default_value = "127.0.0.1:7238",
        value_name = "HOST:PORT[,…]",
        value_delimiter = ','
    )]
    addr: Vec<String>,
    /// Whom to ask: every server that --addr names, all nodes of the cluster, or the node that leads when it begins
    #[arg(long, value_enum, default_value_t = Target::Named)]
    to: Target,
    /// What the requests that are no reads do
    #[arg(long, value_enum, default_value_t = Command::Set)]
    command: Command,
    /// How many percent of the requests are GETs
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    reads: u8,
    /// How reads are made: what READ takes; left out, as the server does it
    #[arg(long, value_enum)]
    read_mode: Option<ReadMode>,
    /// How many connections
    #[arg(short, long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// How many requests each connection keeps under way (closed loop)
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pipeline: u32,
    /// Requests per second in all (open loop)
    #[arg(short, long, conflicts_with = "pipeline", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// The size of the values
    #[arg(long, default_value = "128B", value_parser = size)]
    value_size: usize,
    /// How many keys there are to choose from
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// How long to measure
    #[arg(short, long, default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// How long to run before that
    #[arg(long, default_value = "2s", value_parser = duration)]
    warmup: Duration,
    /// What the choice of keys and of reads begins with
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// Draw throughput and latency over time
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  raftline bench                                          64 connections write as fast as they are answered
  raftline bench -c 64 -p 16 --reads 90                   16 requests under way on each, 9 of 10 are reads
  raftline bench --rate 5000 -d 60s --plot bench.svg      a constant rate, and what it is like to wait
  raftline bench --to all --addr 10.0.0.1:7238            all nodes of the cluster
  raftline bench --addr 127.0.0.1:6379                    a Redis, for comparison";

/// Whom to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// The servers that --addr names.
    Named,
    /// All voters of the cluster.
    All,
    /// The node that leads when it begins.
    Leader,
}

/// What READ takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ReadMode {
    Quorum,
    Lease,
    Stale,
}

/// What is to be done, with all names resolved.
#[derive(Debug)]
struct Plan {
    servers: Vec<SocketAddr>,
    connections: usize,
    workload: Workload,
    /// Requests under way on each connection, or requests per second in all.
    pace: Pace,
    /// What each connection says first.
    greeting: Option<BytesMut>,
    warmup: Duration,
    duration: Duration,
}

/// What makes requests go out.
#[derive(Clone, Copy, Debug)]
enum Pace {
    /// An answer: so many are under way on each connection.
    Closed(usize),
    /// The clock: so many a second in all.
    Open(u64),
}

/// How many requests may be under way on one connection in an open loop. Behind it they wait, and the clock runs on.
const UNDER_WAY_MAX: usize = 10_000;

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.duration.is_zero() {
        return Err(Failure::Usage(anyhow!(
            "--duration: there is nothing to measure in 0s"
        )));
    }
    let plan = plan(arguments).map_err(Failure::Work)?;
    let outcome = load::run(&plan).map_err(Failure::Work)?;
    if arguments.json {
        say(report::json(&plan, &outcome));
    } else {
        say(report::text(&plan, &outcome));
    }
    if let Some(file) = &arguments.plot {
        let title = report::headline(&plan);
        plot::draw(file, &title, &outcome.seconds)
            .with_context(|| format!("cannot draw {}", file.display()))
            .map_err(Failure::Work)?;
    }
    if outcome.done() == 0 {
        return Err(Failure::Work(anyhow!("no request was carried out")));
    }
    Ok(())
}

fn plan(arguments: &Arguments) -> anyhow::Result<Plan> {
    let named = resolve(&arguments.addr)?;
    let servers = match arguments.to {
        Target::Named => named,
        Target::All => resolve(&cluster(&named)?.all)?,
        Target::Leader => resolve(&[cluster(&named)?.leader])?,
    };
    let pace = match arguments.rate {
        Some(rate) => Pace::Open(rate),
        None => Pace::Closed(arguments.pipeline as usize),
    };
    let greeting = arguments.read_mode.map(|mode| {
        let mode = format!("{mode:?}").to_lowercase();
        requests::encode(&[b"READ", mode.as_bytes()])
    });
    Ok(Plan {
        servers,
        connections: arguments.connections as usize,
        workload: Workload {
            command: arguments.command,
            reads_percent: arguments.reads,
            value_bytes: arguments.value_size,
            keys: arguments.keys,
            seed: arguments.seed,
        },
        pace,
        greeting,
        warmup: arguments.warmup,
        duration: arguments.duration,
    })
}

fn resolve(names: &[String]) -> anyhow::Result<Vec<SocketAddr>> {
    names
        .iter()
        .map(|name| {
            let mut found = name
                .to_socket_addrs()
                .with_context(|| format!("'{name}' is not HOST:PORT"))?;
            found.next().with_context(|| format!("'{name}' has no address"))
        })
        .collect()
}

/// The client addresses of a cluster.
struct Cluster {
    all: Vec<String>,
    leader: String,
}

/// Asks the first server that answers who is in its cluster.
fn cluster(servers: &[SocketAddr]) -> anyhow::Result<Cluster> {
    let mut failed = anyhow!("no server is named");
    for server in servers {
        match ask(*server, &[b"RAFT", b"STATUS"]).and_then(|json| cluster_of(&json)) {
            Ok(cluster) => return Ok(cluster),
            Err(error) => failed = error.context(format!("{server} does not tell who is in its cluster")),
        }
    }
    Err(failed)
}

/// The part of RAFT STATUS that is needed here.
#[derive(Deserialize)]
struct Status {
    leader: Option<u64>,
    members: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    id: u64,
    role: String,
    client: String,
}

fn cluster_of(json: &[u8]) -> anyhow::Result<Cluster> {
    let status: Status = serde_json::from_slice(json).context("RAFT STATUS is not as expected")?;
    let leader = status
        .members
        .iter()
        .find(|member| Some(member.id) == status.leader);
    let leader = leader.context("it knows no leader")?.client.clone();
    let voters = status
        .members
        .into_iter()
        .filter(|member| member.role != "learner");
    Ok(Cluster {
        all: voters.map(|member| member.client).collect(),
        leader,
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "not a duration such as 10s or 1m30s".into())
}

fn size(text: &str) -> Result<usize, String> {
    parse_size(text)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .filter(|bytes| *bytes <= crate::kv::VALUE_MAX_BYTES)
        .ok_or_else(|| {
            format!(
                "not a size such as 128B or 16KiB, up to {} bytes",
                crate::kv::VALUE_MAX_BYTES
            )
        })
}
