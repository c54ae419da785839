//! The configuration of one node: a TOML file, and the environment, which wins over it.
//!
//! [`Config::load`] gives plain values in plain units; the wiring in [`server`](crate::server) turns them
//! into each module's own `Options`, so that no lower layer knows the file. A configuration that is wrong
//! gives all that is wrong with it at once, each line naming the file and line (or the variable), the key,
//! what was found and what was expected.
//!
//! The file is walked by hand over the parser's spanned tree instead of through serde: serde's errors name a
//! key or a place but not both, end at the first one, and cannot tell the file from the environment.
//!
//! What is missing: `[tls]` and `[auth]` are read, checked and then refused as not built yet.

mod check;
mod read;
mod source;

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, fs};

use crate::raft::NodeId;

/// Everything a node is told when it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[node]`: who this is.
    pub node: Identity,
    /// `[listen]`: where this node listens.
    pub listen: Listen,
    /// `[cluster]`: whom it belongs to.
    pub cluster: Cluster,
    /// `[raft]`: the protocol's timers and windows.
    pub raft: Raft,
    /// `[storage]`: the disk.
    pub storage: Storage,
    /// `[limits]`: what clients may ask for.
    pub limits: Limits,
    /// `[log]`: what is logged and how.
    pub log: Log,
}

/// `[node]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// This node's number: at least 1, never reused in a cluster. No default.
    pub id: NodeId,
    /// The folder of the log and the snapshots; default `/var/lib/raftline`.
    pub data_dir: PathBuf,
}

/// `[listen]`. Each address is `host:port` with a host that can be bound; port 0 lets the system choose.
#[derive(Clone, Debug, PartialEq)]
pub struct Listen {
    /// For clients; default `0.0.0.0:7238`.
    pub client: String,
    /// For the other nodes; default `0.0.0.0:7239`.
    pub peer: String,
    /// For the admin HTTP; `None` (the default) switches it off.
    pub admin: Option<String>,
}

/// `[cluster]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// A peer of another name is refused at the handshake; default `raftline`.
    pub name: String,
    /// Whether the node starts without a membership and waits for RAFT ADD; ignored once `data_dir` holds state.
    /// Default false.
    pub join: bool,
    /// The first membership, by id; empty if the node joins; ignored once `data_dir` holds state. No default.
    pub members: Vec<Member>,
}

/// One server of the first membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: NodeId,
    /// `host:port` where other nodes reach it.
    pub peer: String,
    /// `host:port` where clients reach it.
    pub client: String,
}

/// `[raft]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Raft {
    /// How often an idle leader is heard; 1 ms to 10 min, at most half of `election_timeout`, default 50 ms.
    pub heartbeat_interval: Duration,
    /// Each wait is drawn from 1 to 2 times this; 2 ms to 1 h, default 500 ms.
    pub election_timeout: Duration,
    /// AppendEntries in flight to one peer; 1 to 65536, default 256.
    pub max_inflight: usize,
    /// Bytes of entries in one AppendEntries; 1 KiB to 64 MiB, default 1 MiB.
    pub max_batch_bytes: u64,
    /// A leader whose disk finishes nothing for so long steps down; 10 ms to 1 h, default 2 s.
    pub disk_stall_timeout: Duration,
    /// `read_mode = "lease"`: connections read by the leader's lease unless they say otherwise, and this node gives the
    /// promise that leases rest on.
    pub lease_reads: bool,
    /// By how much one clock may run faster than another, from 0 to below 1; only for leases.
    pub max_clock_drift: f64,
}

/// `[storage]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// Whether a write waits for the disk; default true. False loses acknowledged writes at power loss.
    pub fsync: bool,
    /// The size of one log file; 64 KiB to 4 GiB, default 64 MiB.
    pub segment_size: u64,
    /// Snapshot when the log behind the last one is larger; 64 KiB or more, default 256 MiB.
    pub snapshot_log_bytes: u64,
    /// Below this much free space writes are refused; default 256 MiB, 0 never refuses.
    pub min_free_space: u64,
}

/// `[limits]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// One line, or one RESP request, in bytes; 1 KiB to 64 MiB, default 1 MiB.
    pub max_request: u64,
    /// Client connections; 1 to 1,000,000, default 10,000.
    pub max_connections: usize,
    /// Requests waiting for commit; 1 to 16,777,216, default 65,536.
    pub max_pending: usize,
    /// Bytes of keys and values, `None` without a bound (the default, written "0").
    pub max_memory: Option<u64>,
    /// How long a request may wait for its answer; 10 ms to 10 min, default 4 s.
    pub request_timeout: Duration,
    /// How long ONCE tokens are remembered; 1 s to 30 days, default 1 h.
    pub once_window: Duration,
    /// A client connection idle for so long is closed; `None` never (the default, written "0s").
    pub idle_timeout: Option<Duration>,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level (`info`) or a filter (`info,raftline::raft=debug`); default `info`.
    pub level: String,
    /// How a line is written; default text.
    pub format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people, on stderr.
    #[default]
    Text,
    /// One JSON object a line, on stderr.
    Json,
    /// To the journal, with its fields.
    Journald,
}

/// Why a configuration was refused: one line for each thing that is wrong, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<String>,
}

impl Config {
    /// Reads `path` and the `RAFTLINE_SECTION__KEY` variables of this process.
    ///
    /// # Errors
    /// The file cannot be read, or something in it or in the environment is wrong.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = fs::read_to_string(path).map_err(|error| ConfigError {
            problems: vec![format!("{}: cannot read it: {error}", path.display())],
        })?;
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        });
        Config::parse(&path.display().to_string(), &text, environment)
    }

    /// Reads `text`, which messages call `file`, and the `RAFTLINE_SECTION__KEY` variables among `environment`.
    ///
    /// # Errors
    /// Something in one of them is wrong.
    pub fn parse(
        file: &str,
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        let mut source = source::Source::new(file, text, environment)?;
        let config = read::config(&mut source);
        if let Some(config) = &config {
            check::config(&mut source, config);
        }
        let problems = source.into_problems();
        config
            .filter(|_| problems.is_empty())
            .ok_or(ConfigError { problems })
    }

    /// One line for people: who this node is and where it listens.
    pub fn summary(&self) -> String {
        let members = match self.cluster.members.len() {
            0 => "joining".into(),
            1 => "with 1 member".into(),
            count => format!("with {count} members"),
        };
        format!(
            "node {} of cluster \"{}\" {members}; clients on {}, peers on {}, admin {}; data in {}",
            self.node.id,
            self.cluster.name,
            self.listen.client,
            self.listen.peer,
            match &self.listen.admin {
                Some(address) => format!("on {address}"),
                None => "off".into(),
            },
            self.node.data_dir.display(),
        )
    }
}

impl ConfigError {
    /// One line for each thing that is wrong.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for ConfigError {}
