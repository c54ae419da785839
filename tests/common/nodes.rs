//! A small cluster of `raftline serve` processes, for tests that talk to a node as its clients do.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::waiting::wait_for;

/// How long a node may take until it serves.
const START_MAX: Duration = Duration::from_secs(20);

/// The cluster; its processes end with this value.
pub struct Cluster {
    processes: Vec<Child>,
    /// Where its nodes listen for clients.
    pub clients: Vec<SocketAddr>,
    _folder: TempDir,
}

impl Cluster {
    /// So many nodes, each of which serves.
    pub fn start(nodes: usize) -> Cluster {
        let folder = TempDir::with_prefix("raftline-nodes-").unwrap();
        // Held at the same time, so that they differ.
        let free: Vec<TcpListener> = (0..2 * nodes)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let addresses: Vec<SocketAddr> = free.iter().map(|free| free.local_addr().unwrap()).collect();
        drop(free);
        let (clients, peers) = addresses.split_at(nodes);
        let members: Vec<String> = (0..nodes)
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
                 [cluster]\nname = \"prod\"\nmembers = [{}]\n",
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
            processes: (0..nodes).map(start).collect(),
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
pub fn flush(node: SocketAddr) -> Option<()> {
    (ask(node, "FLUSHALL")? == "+OK\r\n").then_some(())
}

/// The first line of the reply to a line.
fn ask(node: SocketAddr, line: &str) -> Option<String> {
    let mut stream = TcpStream::connect(node).ok()?;
    stream.set_read_timeout(Some(START_MAX)).ok()?;
    stream.write_all(format!("{line}\n").as_bytes()).ok()?;
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply).ok()?;
    Some(reply)
}

/// The lines of the list that a line is answered with.
pub fn ask_all(node: SocketAddr, line: &str) -> Vec<String> {
    let mut stream = TcpStream::connect(node).unwrap();
    stream.set_read_timeout(Some(START_MAX)).unwrap();
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines().map(|line| line.unwrap());
    let head = lines.next().unwrap();
    let count = head.strip_prefix('*').and_then(|count| count.parse().ok());
    let count: usize = count.unwrap_or_else(|| panic!("{line}: no list, but {head}"));
    let text = |line: String| line.strip_prefix('+').unwrap_or(&line).to_owned();
    lines.take(count).map(text).collect()
}
