//! `raftline dev`: a whole cluster on this machine, each node a real `serve` process.
//!
//! The nodes are in process groups of their own, so that Ctrl-C in the terminal reaches this process alone, which
//! stops them in an orderly way; and each is tied to this process's life by the kernel, so that none stays
//! behind even if this one is killed. A node that dies is told of and left as it is.

mod folder;
mod nodes;
mod watch;

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Failure, say};
use folder::Folder;
use nodes::{Nodes, Plan};

/// Arguments of `raftline dev`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  raftline dev                              three nodes, a temporary folder
  raftline dev --nodes 5 --dir ./cluster    five nodes; ./cluster is kept, and used again next time
  raftline dev --slow 10                    every Raft timer ten times longer, for watching")]
pub(super) struct Arguments {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Where configurations, data and logs go; kept and used again
    /// [default: a new temporary folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Node 1's client port; its peer port is the next, its admin port the one after, and node k adds 10·(k−1)
    #[arg(long, value_name = "P", default_value_t = 7238)]
    base_port: u16,
    /// Stretch every Raft timer by this factor, 0.1 to 100
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = slow)]
    slow: f64,
}

fn slow(text: &str) -> Result<f64, String> {
    let factor = text.parse::<f64>().ok();
    factor
        .filter(|factor| (0.1..=100.0).contains(factor))
        .ok_or_else(|| "expected a number from 0.1 to 100".into())
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let plans = plan(&arguments)?;
    ports_are_free(&plans)?;
    let folder = Folder::open(arguments.dir, &plans, arguments.slow)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Work(error.into()))?;
    runtime.block_on(cluster(&plans, &folder))
}

/// Who listens where.
fn plan(arguments: &Arguments) -> Result<Vec<Plan>, Failure> {
    let base = arguments.base_port;
    let last = 10 * (arguments.nodes - 1) + 2;
    if base == 0 || base.checked_add(last).is_none() {
        let highest = u16::MAX - last;
        return Err(Failure::Usage(anyhow!(
            "--base-port: found {base}, expected 1 to {highest} for {} nodes",
            arguments.nodes
        )));
    }
    let plan = |id: u16| {
        let port = base + 10 * (id - 1);
        Plan {
            id,
            client: port,
            peer: port + 1,
            admin: port + 2,
        }
    };
    Ok((1..=arguments.nodes).map(plan).collect())
}

/// Binds each port for a moment: a port in use is better named here than found in three logs.
fn ports_are_free(plans: &[Plan]) -> Result<(), Failure> {
    for plan in plans {
        for (what, port) in [
            ("client", plan.client),
            ("peer", plan.peer),
            ("admin", plan.admin),
        ] {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port))
                .with_context(|| {
                    format!(
                        "port {port}, the {what} port of node {}, cannot be used (choose others with --base-port)",
                        plan.id
                    )
                })
                .map_err(Failure::Work)?;
        }
    }
    Ok(())
}

async fn cluster(plans: &[Plan], folder: &Folder) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(|error| Failure::Work(error.into()))?;
    let mut nodes = Nodes::start(plans, folder).map_err(Failure::Work)?;
    greet(&nodes, folder);
    let ran = run_until_asked(&mut nodes, plans, &mut signals).await;
    say(format_args!(
        "{}stopping {} nodes",
        if ran.is_ok() { "\n" } else { "" },
        nodes.alive()
    ));
    let stopped = stop(&mut nodes, &mut signals).await;
    ran.and(stopped)
}

/// Tells of leaders and of deaths until a signal comes.
async fn run_until_asked(nodes: &mut Nodes, plans: &[Plan], signals: &mut Signals) -> Result<(), Failure> {
    let mut since = Instant::now();
    let mut is_ready = false;
    let mut leader = Box::pin(watch::leader(plans));
    let mut is_watching = true;
    loop {
        tokio::select! {
            event = signals.next() => {
                if matches!(event, Event::Stop) {
                    return Ok(());
                }
                let dead = nodes.reap();
                for death in &dead {
                    say(death);
                }
                if !is_ready && dead.iter().any(|death| death.is_failure()) {
                    return Err(Failure::Work(anyhow!("a node could not start")));
                }
                if !dead.is_empty() {
                    say(nodes.prospects());
                    since = Instant::now();
                    leader = Box::pin(watch::leader(plans));
                    is_watching = true;
                }
            }
            found = leader.as_mut(), if is_watching => {
                is_watching = false;
                let word = if is_ready { "again" } else { "ready" };
                is_ready = true;
                let seconds = since.elapsed().as_secs_f64();
                say(format_args!("{word}: node {} leads in term {} ({seconds:.1} s)", found.id, found.term));
            }
        }
    }
}

/// Asks every node to stop and waits for all; at a second signal, or after too long, kills them.
async fn stop(nodes: &mut Nodes, signals: &mut Signals) -> Result<(), Failure> {
    const PATIENCE: Duration = Duration::from_secs(6);
    nodes.terminate();
    let deadline = tokio::time::sleep(PATIENCE);
    tokio::pin!(deadline);
    loop {
        for death in nodes.reap() {
            if death.is_failure() {
                say(death);
            }
        }
        if nodes.alive() == 0 {
            say("stopped");
            return Ok(());
        }
        tokio::select! {
            event = signals.next() => if matches!(event, Event::Stop) {
                nodes.kill();
                return Err(Failure::Interrupted);
            },
            () = &mut deadline => {
                let ids = nodes.kill();
                return Err(Failure::Work(anyhow!("nodes {ids:?} did not stop in time and were killed")));
            }
        }
    }
}

fn greet(nodes: &Nodes, folder: &Folder) {
    say(format_args!("{folder}\n"));
    say(nodes);
    say(format_args!(
        "In another terminal:\n\n  {}\n\nCtrl-C stops all.\n",
        nodes.line_to_paste()
    ));
}

/// What a signal says.
enum Event {
    /// Ctrl-C, SIGTERM, or the end of the terminal.
    Stop,
    /// A node may have ended.
    Child,
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    child: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            child: signal(SignalKind::child())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            () = next(&mut self.interrupt) => Event::Stop,
            () = next(&mut self.terminate) => Event::Stop,
            () = next(&mut self.hangup) => Event::Stop,
            () = next(&mut self.child) => Event::Child,
        }
    }
}

/// Waits for a signal. A stream that has ended (the runtime is going down) never gives one.
async fn next(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        std::future::pending().await
    }
}
