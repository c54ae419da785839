//! The subcommands: arguments in, exit code out. 0 success, 1 the work failed, 2 the command line or the
//! configuration is wrong.

mod bench;
mod check_config;
mod cli;
mod dev;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod link;
mod resp;
mod serve;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A Raft-replicated key-value store you can talk to with netcat.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  raftline dev                                      three nodes on this machine
  raftline serve --config /etc/raftline.toml        one node, until SIGTERM
  raftline cli SET greeting hello                   one command; without one, a prompt
  raftline bench                                    how fast is it?
  raftline check-config /etc/raftline.toml          is this file good?

Exit codes: 0 success, 1 the work failed, 2 the command line or the configuration is wrong.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node in the foreground until SIGTERM or SIGINT
    Serve(serve::Arguments),
    /// Run a whole cluster on this machine, for trying things out
    Dev(dev::Arguments),
    /// Send commands to a cluster: one, many from a pipe, or at a prompt
    Cli(cli::Arguments),
    /// Measure what a cluster, or a Redis, can do under load
    Bench(Box<bench::Arguments>),
    /// Validate a configuration file
    CheckConfig(check_config::Arguments),
}

/// Why a subcommand failed, by exit code.
#[derive(Debug)]
enum Failure {
    /// 1: the work failed.
    Work(anyhow::Error),
    /// 2: the command line or the configuration is wrong.
    Usage(anyhow::Error),
    /// 1: the work failed, and it was said.
    Told,
    /// 130: a second Ctrl-C cut it short.
    Interrupted,
}

/// Runs the subcommand that the command line names.
pub fn run() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Dev(arguments) => dev::run(arguments),
        Command::Cli(arguments) => cli::run(arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::CheckConfig(arguments) => check_config::run(&arguments),
    };
    let (code, error) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Work(error)) => (1, error),
        Err(Failure::Usage(error)) => (2, error),
        Err(Failure::Told) => return ExitCode::from(1),
        Err(Failure::Interrupted) => return ExitCode::from(130),
    };
    // With stderr gone there is nobody left to tell.
    writeln!(io::stderr(), "raftline: {error:#}").ok();
    ExitCode::from(code)
}

/// Prints a line; a reader that has gone away (`| head -1`) is no reason to fail.
fn say(line: impl fmt::Display) {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).ok();
}
