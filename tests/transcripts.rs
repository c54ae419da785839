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

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a node may take until it serves.
const START_MAX: Duration = Duration::from_secs(20);

/// A `raftline serve` that leads a cluster of its own; ends with this value.
struct Server {
    process: Child,
    client: SocketAddr,
    _folder: TempDir,
}

impl Server {
    fn start() -> Server {
        let folder = TempDir::with_prefix("raftline-transcripts-").unwrap();
        // Held at the same time, so that they differ.
        let free: Vec<TcpListener> = (0..2)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let [client, peer] = [0, 1].map(|at: usize| free[at].local_addr().unwrap());
        drop(free);
        let config = folder.path().join("raftline.toml");
        let data = folder.path().join("data");
        let text = format!(
            "[node]\nid = 1\ndata_dir = {data:?}\n\
             [listen]\nclient = \"{client}\"\npeer = \"{peer}\"\n\
             [cluster]\nname = \"transcripts\"\nmembers = [{{ id = 1, peer = \"{peer}\", client = \"{client}\" }}]\n"
        );
        fs::write(&config, text).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_raftline"))
            .args([Path::new("serve"), Path::new("--config"), &config])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let server = Server {
            process,
            client,
            _folder: folder,
        };
        let start = Instant::now();
        while server.flush().is_none() {
            assert!(start.elapsed() < START_MAX, "the node does not serve");
            thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// Deletes every key; `None` if that did not work.
    fn flush(&self) -> Option<()> {
        let mut stream = TcpStream::connect(self.client).ok()?;
        stream.set_read_timeout(Some(START_MAX)).ok()?;
        stream.write_all(b"FLUSHALL\n").ok()?;
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).ok()?;
        (reply == "+OK\r\n").then_some(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[test]
fn transcripts() {
    let server = Server::start();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut played = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        server.flush().expect("FLUSHALL between two conversations");
        let name = path.file_name().unwrap().to_string_lossy();
        let text = fs::read_to_string(&path).unwrap();
        runner::play(&name, &text, || TcpStream::connect(server.client).unwrap());
        played += 1;
    }
    assert!(played > 0, "no conversation was found");
}
