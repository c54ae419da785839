//! `raftline serve`: one node in the foreground.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use super::Failure;
use crate::config::Config;
use crate::logging::Logging;
use crate::server::{self, ServerError};

/// Arguments of `raftline serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Signals:
  SIGTERM, SIGINT   hand leadership over, answer what is in flight, sync, exit 0 (a second SIGINT exits at once)
  SIGHUP            read the log level again

Example:
  RAFTLINE_LOG__LEVEL=debug raftline serve --config /etc/raftline.toml")]
pub(super) struct Arguments {
    /// The configuration file; variables RAFTLINE_SECTION__KEY win over it
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Be killed when the process with this number, our parent, ends (used by dev)
    #[arg(long, hide = true, value_name = "PID")]
    exit_with_parent: Option<i32>,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    if let Some(parent) = arguments.exit_with_parent {
        exit_with_parent(parent).map_err(Failure::Work)?;
    }
    let config = Config::load(&arguments.config).map_err(|error| Failure::Usage(error.into()))?;
    let logging = Logging::start(&config.log).map_err(|error| Failure::Usage(error.into()))?;
    server::run(&arguments.config, config, logging).map_err(|error| match error {
        ServerError::Interrupted => Failure::Interrupted,
        error => Failure::Work(error.into()),
    })
}

/// Has the kernel kill this process when its parent ends, however that ends: even after kill -9 no node
/// stays behind.
fn exit_with_parent(parent: i32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot be tied to the parent process")?;
    // The parent may have ended before the line above.
    if getppid().map(Pid::as_raw_pid) != Some(parent) {
        bail!("process {parent}, which started this node, has ended");
    }
    Ok(())
}
