//! Conversations with a real node as text, in both dialects: `tests/transcripts/*.txt`. How they are written
//! is said in `tests/transcripts/runner.rs`. The unit tests of `client` play the same ones with a node that
//! has neither disk nor peers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "transcripts/runner.rs"]
mod runner;
#[path = "common/waiting.rs"]
mod waiting;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use waiting::wait_for;

/// How long a node may take until it serves.
const START_MAX: Duration = Duration::from_secs(20);

/// How many nodes the cluster has.
const NODES: usize = 2;

/// A cluster of `raftline serve` processes, which end with this value.
struct Cluster {
    processes: Vec<Child>,
    clients: Vec<SocketAddr>,
    _folder: TempDir,
}

impl Cluster {
    fn start() -> Cluster {
        let folder = TempDir::with_prefix("raftline-transcripts-").unwrap();
        // Held at the same time, so that they differ.
        let free: Vec<TcpListener> = (0..2 * NODES)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let addresses: Vec<SocketAddr> = free.iter().map(|free| free.local_addr().unwrap()).collect();
        drop(free);
        let (clients, peers) = addresses.split_at(NODES);
        let members: Vec<String> = (0..NODES)
            .map(|at| {
                let (id, peer, client) = (at + 1, peers[at], clients[at]);
                format!("{{ id = {id}, peer = \"{peer}\", client = \"{client}\" }}")
            })
            .collect();
        let start = |at: usize| {
            let (id, peer, client) = (at + 1, peers[at], clients[at]);
            let config = folder.path().join(format!("{id}.toml"));
            let data = folder.path().join(format!("{id}"));
            let text = format!(
                "[node]\nid = {id}\ndata_dir = {data:?}\n\
                 [listen]\nclient = \"{client}\"\npeer = \"{peer}\"\n\
                 [cluster]\nname = \"transcripts\"\nmembers = [{}]\n",
                members.join(", ")
            );
            fs::write(&config, text).unwrap();
            Command::new(env!("CARGO_BIN_EXE_raftline"))
                .args([Path::new("serve"), Path::new("--config"), &config])
                .stdin(Stdio::null())
                .spawn()
                .unwrap()
        };
        let cluster = Cluster {
            processes: (0..NODES).map(start).collect(),
            clients: clients.to_vec(),
            _folder: folder,
        };
        wait_for("a cluster that serves", START_MAX, || {
            cluster
                .clients
                .iter()
                .all(|client| flush(*client).is_some())
                .then_some(())
        });
        cluster
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            process.kill().ok();
            process.wait().ok();
        }
    }
}

/// Deletes every key; `None` if that did not work.
fn flush(node: SocketAddr) -> Option<()> {
    let mut stream = TcpStream::connect(node).ok()?;
    stream.set_read_timeout(Some(START_MAX)).ok()?;
    stream.write_all(b"FLUSHALL\n").ok()?;
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply).ok()?;
    (reply == "+OK\r\n").then_some(())
}

/// Every conversation is held with each node: one of the two leads, the other one follows.
#[test]
fn transcripts() {
    let cluster = Cluster::start();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut played = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy();
        let text = fs::read_to_string(&path).unwrap();
        for client in &cluster.clients {
            flush(*client).expect("FLUSHALL between two conversations");
            runner::play(&name, &text, || TcpStream::connect(client).unwrap());
        }
        played += 1;
    }
    assert!(played > 0, "no conversation was found");
}
