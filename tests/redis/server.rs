//! The two servers, and connections to them.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::waiting::wait_for;

/// How long a server may take to start, or to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server of either kind, which ends with this value.
pub struct Server {
    process: Child,
    address: Address,
    _folder: TempDir,
}

enum Address {
    Tcp(u16),
    Socket(PathBuf),
}

/// What a server says, with its parts still as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A type byte and the rest of the line.
    Line(u8, Vec<u8>),
    /// A type byte and the bytes of a string.
    Bulk(u8, Vec<u8>),
    /// A type byte and what is in it.
    List(u8, Vec<Reply>),
    /// A type byte and no value.
    Null(u8),
}

trait Stream: Read + Write {}

impl Stream for TcpStream {}
impl Stream for UnixStream {}

pub struct Connection(BufReader<Box<dyn Stream>>);

impl Server {
    /// Redis as it comes, but without files; nobody else can reach it.
    pub fn redis() -> Server {
        let folder = TempDir::with_prefix("raftline-redis-").unwrap();
        let socket = folder.path().join("socket");
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Server::start(process, Address::Socket(socket), folder)
    }

    /// A cluster of one node with the default settings.
    pub fn raftline() -> Server {
        let folder = TempDir::with_prefix("raftline-redis-").unwrap();
        // Held at the same time, so that they differ.
        let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [client, peer] = free.map(|free| free.local_addr().unwrap());
        let config = folder.path().join("raftline.toml");
        let data = folder.path().join("data");
        let text = format!(
            "[node]\nid = 1\ndata_dir = {data:?}\n[listen]\nclient = \"{client}\"\npeer = \"{peer}\"\n\
             [cluster]\nname = \"redis\"\nmembers = [{{ id = 1, peer = \"{peer}\", client = \"{client}\" }}]\n"
        );
        fs::write(&config, text).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_raftline"))
            .args([Path::new("serve"), Path::new("--config"), &config])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Server::start(process, Address::Tcp(client.port()), folder)
    }

    fn start(process: Child, address: Address, folder: TempDir) -> Server {
        let server = Server {
            process,
            address,
            _folder: folder,
        };
        let ok = Reply::Line(b'+', b"OK".to_vec());
        wait_for("a server that serves", PATIENCE, || {
            let mut connection = server.connect().ok()?;
            connection.send(b"*1\r\n$8\r\nFLUSHALL\r\n").ok()?;
            (connection.receive().ok()? == ok).then_some(())
        });
        server
    }

    pub fn connect(&self) -> io::Result<Connection> {
        let stream: Box<dyn Stream> = match &self.address {
            Address::Tcp(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Box::new(stream)
            }
            Address::Socket(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Box::new(stream)
            }
        };
        Ok(Connection(BufReader::new(stream)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Connection {
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    pub fn receive(&mut self) -> io::Result<Reply> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line)?;
        let Some((kind, rest)) = line.strip_suffix(b"\r\n").and_then(|line| line.split_first()) else {
            let text = format!("{} is no reply", line.escape_ascii());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        };
        let length = || {
            std::str::from_utf8(rest)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
        };
        let counted = matches!(kind, b'$' | b'=' | b'*' | b'~' | b'%')
            .then(length)
            .flatten();
        match (*kind, counted) {
            (kind, Some(-1)) => Ok(Reply::Null(kind)),
            (kind @ (b'$' | b'='), Some(length)) => {
                let mut bytes = vec![0; length as usize + 2];
                self.0.read_exact(&mut bytes)?;
                bytes.truncate(length as usize);
                Ok(Reply::Bulk(kind, bytes))
            }
            (kind, Some(count)) => {
                let count = if kind == b'%' { 2 * count } else { count };
                let items = (0..count).map(|_| self.receive()).collect::<io::Result<_>>()?;
                Ok(Reply::List(kind, items))
            }
            (b'_', None) => Ok(Reply::Null(b'_')),
            (kind, None) => Ok(Reply::Line(kind, rest.to_vec())),
        }
    }
}
