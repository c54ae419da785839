//! The processes of a `dev` cluster.

use std::fs::{self, OpenOptions};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::{env, fmt, process};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use super::folder::Folder;

/// Where one node listens, all on 127.0.0.1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub id: u16,
    pub client: u16,
    pub peer: u16,
    pub admin: u16,
}

/// All nodes that were started. Those still running are killed when this value goes.
pub(super) struct Nodes {
    program: PathBuf,
    nodes: Vec<Node>,
}

struct Node {
    plan: Plan,
    pid: u32,
    /// `None` once it has ended.
    process: Option<Child>,
    config: PathBuf,
    log: PathBuf,
}

/// How a node ended, for people.
pub(super) struct Death {
    status: ExitStatus,
    text: String,
}

impl Nodes {
    /// Starts one process for each plan.
    pub(super) fn start(plans: &[Plan], folder: &Folder) -> anyhow::Result<Nodes> {
        let program = env::current_exe().context("cannot find this program's own file")?;
        let mut nodes = Nodes {
            program,
            nodes: Vec::new(),
        };
        for plan in plans {
            let (config, log) = (folder.config(plan.id), folder.log(plan.id));
            let process = spawn(&nodes.program, &config, &log)
                .with_context(|| format!("cannot start node {}", plan.id))?;
            nodes.nodes.push(Node {
                plan: *plan,
                pid: process.id(),
                process: Some(process),
                config,
                log,
            });
        }
        Ok(nodes)
    }

    /// How many run.
    pub(super) fn alive(&self) -> usize {
        self.nodes.iter().filter(|node| node.process.is_some()).count()
    }

    /// Collects the nodes that have ended.
    pub(super) fn reap(&mut self) -> Vec<Death> {
        let mut deaths = Vec::new();
        for node in &mut self.nodes {
            let Some(process) = &mut node.process else {
                continue;
            };
            if let Ok(Some(status)) = process.try_wait() {
                node.process = None;
                let text = node.obituary(status, &self.program);
                deaths.push(Death { status, text });
            }
        }
        deaths
    }

    /// What can be expected of the nodes that are left.
    pub(super) fn prospects(&self) -> String {
        let (alive, all) = (self.alive(), self.nodes.len());
        let verdict = match alive * 2 > all {
            true => "a majority: reads and writes go on",
            false => "no majority: nothing can be read or written until more are started",
        };
        format!("{alive} of {all} nodes run, {verdict}")
    }

    /// A line for a shell that writes and reads something. QUIT ends it with every netcat, of which some
    /// do not close their sending half at the end of input.
    pub(super) fn line_to_paste(&self) -> String {
        let port = self.nodes.first().map_or(0, |node| node.plan.client);
        format!("printf 'SET hello world\\nGET hello\\nQUIT\\n' | nc 127.0.0.1 {port}")
    }

    /// Asks every node to stop.
    pub(super) fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// Ends every node at once, and says which those were.
    pub(super) fn kill(&mut self) -> Vec<u16> {
        self.signal(Signal::KILL);
        let mut killed = Vec::new();
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                process.wait().ok();
                killed.push(node.plan.id);
            }
        }
        killed
    }

    fn signal(&self, signal: Signal) {
        for process in self.nodes.iter().filter_map(|node| node.process.as_ref()) {
            // It has not been waited for, so its number is still its own.
            kill_process(Pid::from_child(process), signal).ok();
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.kill();
    }
}

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in &self.nodes {
            let Plan {
                id,
                client,
                peer,
                admin,
            } = node.plan;
            writeln!(
                f,
                "  node {id}   clients 127.0.0.1:{client}   peers 127.0.0.1:{peer}   \
                 page http://127.0.0.1:{admin}/   pid {}   log {}",
                node.pid,
                node.log.display()
            )?;
        }
        Ok(())
    }
}

impl Node {
    fn obituary(&self, status: ExitStatus, program: &Path) -> String {
        let mut text = format!("node {} (pid {}) ended: {status}", self.plan.id, self.pid);
        if status.signal().is_none() {
            for line in last_lines(&self.log, 3) {
                text.push_str(&format!("\n    {line}"));
            }
        }
        text.push_str(&format!(
            "\n  to start it again: {} serve --config {}",
            quoted(program),
            quoted(&self.config)
        ));
        text
    }
}

impl Death {
    /// Whether it ended by itself and badly.
    pub(super) fn is_failure(&self) -> bool {
        self.status.code().is_some_and(|code| code != 0)
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn spawn(program: &Path, config: &Path, log: &Path) -> anyhow::Result<Child> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| log.display().to_string())?;
    let mut command = Command::new(program);
    command
        .args(["serve", "--config"])
        .arg(config)
        .args(["--exit-with-parent", &process::id().to_string()])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    // What is ours alone, or would make all nodes the same one.
    let is_ours = |name: &str| {
        ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"].contains(&name)
            || ["RAFTLINE_NODE__", "RAFTLINE_LISTEN__", "RAFTLINE_CLUSTER__"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
    };
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_ours) {
            command.env_remove(name);
        }
    }
    Ok(command.spawn()?)
}

fn last_lines(file: &Path, count: usize) -> Vec<String> {
    let bytes = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<_> = text.lines().rev().take(count).map(String::from).collect();
    lines.reverse();
    lines
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    match text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}
