//! A network between the nodes that can be slow, cut, one-way or confused.
//!
//! Every node is told the proxy's address of every other node. Who dials is learnt from the handshake, the
//! first frame of a connection, so that all nodes can have the same list of members. Each connection has two
//! pumps, one for each direction, and each pump obeys the [`Link`] of the direction that its bytes move in:
//! a cut link holds bytes back (the cable), it never loses some of a stream, which TCP would not do either.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use raftline::base::rng::Rng;

/// How bytes move from one node to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The cable is cut: nothing arrives, nothing is reset.
    pub cut: bool,
    /// What every byte waits.
    pub delay: Duration,
    /// Each new connection draws a further delay below this, so that connections overtake one another.
    pub spread: Duration,
    /// How many bytes pass in a second; `None`: all.
    pub bytes_per_second: Option<u32>,
}

/// A proxy in front of each node; ends with its value.
pub struct Proxy {
    shared: Arc<Shared>,
    doors: Vec<SocketAddr>,
}

/// From which node to which.
type Direction = (u64, u64);

struct Shared {
    state: Mutex<State>,
    /// Told of every change of `state`.
    changed: Condvar,
    stopped: AtomicBool,
}

struct State {
    links: HashMap<Direction, Link>,
    connections: Vec<Arc<Connection>>,
    /// How many connections each pair ever had, by dialer and dialed.
    dialed: HashMap<Direction, u64>,
    rng: Rng,
}

struct Connection {
    direction: Direction,
    dialer: TcpStream,
    dialed: TcpStream,
    /// The dialer's half is closed, and the dialed one is not to learn of it.
    dangling: AtomicBool,
}

/// One of the two ways through a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Out,
    Back,
}

/// Bytes and when they are due.
type Chunk = (Instant, Vec<u8>);

const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks on the way in one direction; beyond that the sender feels it, as with a full pipe.
const CHUNKS: usize = 256;

impl Proxy {
    /// For each node its number, where its proxy listens, and where it listens itself.
    pub fn start(nodes: &[(u64, SocketAddr, SocketAddr)]) -> Proxy {
        let state = State {
            links: HashMap::new(),
            connections: vec![],
            dialed: HashMap::new(),
            rng: Rng::new(7),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
        });
        for &(id, door, target) in nodes {
            let listener = TcpListener::bind(door).expect("the proxy's address is free");
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.accept(&listener, id, target));
        }
        Proxy {
            shared,
            doors: nodes.iter().map(|(_, door, _)| *door).collect(),
        }
    }

    /// Changes the link from `from` to `to`.
    pub fn change(&self, from: u64, to: u64, change: impl FnOnce(&mut Link)) {
        change(self.shared.lock().links.entry((from, to)).or_default());
        self.shared.changed.notify_all();
    }

    /// Cuts or mends the cable between `a` and each of `others`, both ways.
    pub fn set_cut(&self, a: u64, others: impl IntoIterator<Item = u64>, cut: bool) {
        for b in others.into_iter().filter(|b| *b != a) {
            self.change(a, b, |link| link.cut = cut);
            self.change(b, a, |link| link.cut = cut);
        }
    }

    /// Makes every link as good as new.
    pub fn mend_all(&self) {
        self.shared.lock().links.clear();
        self.shared.changed.notify_all();
    }

    /// Closes the connections between two nodes, for both of them.
    pub fn reset(&self, a: u64, b: u64) {
        let mut state = self.shared.lock();
        for connection in &state.connections {
            if connection.direction == (a, b) || connection.direction == (b, a) {
                connection.close();
            }
        }
        state
            .connections
            .retain(|c| c.direction != (a, b) && c.direction != (b, a));
    }

    /// Closes the connections that `from` made to `to`, for `from` only: it connects again, while for `to`
    /// the old connection is still there beside the new one and says nothing.
    pub fn duplicate(&self, from: u64, to: u64) {
        for connection in self
            .shared
            .lock()
            .connections
            .iter()
            .filter(|c| c.direction == (from, to))
        {
            connection.dangling.store(true, Ordering::SeqCst);
            let _ = connection.dialer.shutdown(Shutdown::Both);
        }
    }

    /// How many connections `from` ever made to `to` and shook hands on.
    pub fn dialed(&self, from: u64, to: u64) -> u64 {
        self.shared.lock().dialed.get(&(from, to)).copied().unwrap_or(0)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.lock().connections.iter().for_each(|c| c.close());
        self.shared.changed.notify_all();
        for door in &self.doors {
            let _ = TcpStream::connect(door); // `accept` returns once more, and sees `stopped`
        }
    }
}

impl Connection {
    fn close(&self) {
        let _ = self.dialer.shutdown(Shutdown::Both);
        let _ = self.dialed.shutdown(Shutdown::Both);
    }

    fn source(&self, way: Way) -> &TcpStream {
        if way == Way::Out {
            &self.dialer
        } else {
            &self.dialed
        }
    }

    fn sink(&self, way: Way) -> &TcpStream {
        if way == Way::Out {
            &self.dialed
        } else {
            &self.dialer
        }
    }

    /// From which node to which the bytes of one way move.
    fn link(&self, way: Way) -> Direction {
        let (dialer, dialed) = self.direction;
        if way == Way::Out {
            (dialer, dialed)
        } else {
            (dialed, dialer)
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn accept(self: Arc<Self>, listener: &TcpListener, to: u64, target: SocketAddr) {
        for dialer in listener.incoming() {
            if self.stopped() {
                return;
            }
            let Ok(dialer) = dialer else { continue };
            let shared = Arc::clone(&self);
            // An error is a connection that ended before it began: the dialer sees it closed.
            thread::spawn(move || shared.connect(dialer, to, target));
        }
    }

    fn connect(self: Arc<Self>, mut dialer: TcpStream, to: u64, target: SocketAddr) -> io::Result<()> {
        let hello = first_frame(&mut dialer)?;
        let direction = (node_id(&hello).unwrap_or(0), to);
        self.wait_for_cable(direction)?;
        let dialed = TcpStream::connect(target)?;
        dialer.set_nodelay(true)?;
        dialed.set_nodelay(true)?;
        let connection = Arc::new(Connection {
            direction,
            dialer,
            dialed,
            dangling: AtomicBool::new(false),
        });
        let spread = self.add(&connection);
        self.pump(&connection, Way::Out, spread, hello);
        self.pump(&connection, Way::Back, spread, vec![]);
        Ok(())
    }

    /// Counts a new connection, and draws how much more than its link's delay it waits.
    fn add(&self, connection: &Arc<Connection>) -> Duration {
        let mut state = self.lock();
        *state.dialed.entry(connection.direction).or_default() += 1;
        state.connections.push(Arc::clone(connection));
        let most = state
            .links
            .get(&connection.direction)
            .copied()
            .unwrap_or_default()
            .spread;
        Duration::from_micros(state.rng.below(most.as_micros() as u64))
    }

    /// Two threads that carry bytes one way: one takes them and says when they are due, one waits for that.
    fn pump(self: &Arc<Self>, connection: &Arc<Connection>, way: Way, spread: Duration, first: Vec<u8>) {
        let (chunks, queue) = mpsc::sync_channel(CHUNKS);
        chunks.send((Instant::now(), first)).expect("the queue is new");
        let (shared, taken) = (Arc::clone(self), Arc::clone(connection));
        thread::spawn(move || shared.take(&taken, way, spread, &chunks));
        let (shared, given) = (Arc::clone(self), Arc::clone(connection));
        thread::spawn(move || {
            // An error is an end like any other: of this connection, or of the proxy.
            let _ = shared.give(&given, way, &queue);
            shared.end(&given);
        });
    }

    fn take(&self, connection: &Connection, way: Way, spread: Duration, chunks: &SyncSender<Chunk>) {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(count @ 1..) = connection.source(way).read(&mut buffer) {
            let due = Instant::now() + self.link(connection.link(way)).delay + spread;
            if chunks.send((due, buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    }

    /// Ends when the source has ended and everything was given, or when the sink takes nothing any more.
    fn give(&self, connection: &Connection, way: Way, queue: &Receiver<Chunk>) -> io::Result<()> {
        let link = connection.link(way);
        for (due, bytes) in queue {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            self.wait_for_cable(link)?;
            connection.sink(way).write_all(&bytes)?;
            if let Some(rate) = self.link(link).bytes_per_second {
                thread::sleep(Duration::from_secs_f64(bytes.len() as f64 / f64::from(rate)));
            }
        }
        // That the source has ended is news that travels over the cable too.
        self.wait_for_cable(link)
    }

    /// Closes both halves of a connection, unless it is left to dangle: then the list keeps it open.
    fn end(&self, connection: &Arc<Connection>) {
        if !connection.dangling.load(Ordering::SeqCst) {
            connection.close();
            self.lock().connections.retain(|c| !Arc::ptr_eq(c, connection));
        }
    }

    fn link(&self, direction: Direction) -> Link {
        self.lock().links.get(&direction).copied().unwrap_or_default()
    }

    /// Returns when the link is not cut, or fails when the proxy ends.
    fn wait_for_cable(&self, direction: Direction) -> io::Result<()> {
        let cut = |state: &mut State| !self.stopped() && state.links.get(&direction).is_some_and(|l| l.cut);
        drop(self.changed.wait_while(self.lock(), cut).unwrap());
        if self.stopped() {
            Err(io::ErrorKind::Interrupted.into())
        } else {
            Ok(())
        }
    }
}

/// The first frame of a connection, its length included; at most 64 KiB.
fn first_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    stream.read_exact(&mut frame)?;
    let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    if length > 64 * 1024 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    frame.resize(4 + length, 0);
    stream.read_exact(&mut frame[4..])?;
    Ok(frame)
}

/// The field `node_id` (5) of the `Hello` (2) that a first frame holds; `None` for anything else.
fn node_id(frame: &[u8]) -> Option<u64> {
    let hello = field(frame.get(4..)?, 2)?;
    match field(hello, 5)? {
        [] => None,
        bytes => varint(&mut &*bytes),
    }
}

/// The last field of this number in a protobuf message: the content of a length-delimited one, the bytes of
/// a number.
fn field(mut message: &[u8], number: u64) -> Option<&[u8]> {
    let mut found = None;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let before = message;
        let content = match tag & 7 {
            0 => {
                varint(&mut message)?;
                &before[..before.len() - message.len()]
            }
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                let content = message.get(..length)?;
                message = &message[length..];
                content
            }
            _ => return None,
        };
        if tag >> 3 == number {
            found = Some(content);
        }
    }
    found
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness;

    const SOON: Duration = Duration::from_secs(5);

    /// A `Hello` of node `id`, as the transport sends it.
    fn hello(id: u8) -> Vec<u8> {
        let hello = [8, 1, 16, 1, 26, 1, b'x', 40, id, 56, 2];
        let frame = [&[18, hello.len() as u8][..], &hello].concat();
        [&(frame.len() as u32).to_be_bytes()[..], &frame].concat()
    }

    /// A proxy in front of node 2, which is a listener of the test.
    fn proxied() -> (Proxy, SocketAddr, TcpListener) {
        let host = harness::Host::reserve();
        let (door, target) = (host.address(0), host.address(1));
        let listener = TcpListener::bind(target).unwrap();
        (Proxy::start(&[(2, door, target)]), door, listener)
    }

    /// A connection of node 1 through the proxy: both ends, the handshake read.
    fn pair(door: SocketAddr, listener: &TcpListener) -> (TcpStream, TcpStream) {
        let mut near = TcpStream::connect(door).unwrap();
        near.set_read_timeout(Some(SOON)).unwrap();
        near.write_all(&hello(1)).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        far.set_read_timeout(Some(SOON)).unwrap();
        assert_eq!(read(&mut far, hello(1).len()), hello(1));
        (near, far)
    }

    fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn is_silent(stream: &mut TcpStream) -> bool {
        stream.set_read_timeout(Some(Duration::from_millis(60))).unwrap();
        let silent = stream
            .read(&mut [0])
            .is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock);
        stream.set_read_timeout(Some(SOON)).unwrap();
        silent
    }

    #[test]
    fn the_dialer_is_read_from_its_handshake() {
        assert_eq!(node_id(&hello(3)), Some(3));
        assert_eq!(node_id(b"\0\0\0\x04\x12\xff\xff\xff"), None, "a length that lies");
        assert_eq!(node_id(b"\0\0\0\0"), None);
    }

    #[test]
    fn bytes_pass_both_ways_and_so_does_the_end() {
        let (proxy, door, listener) = proxied();
        let (mut near, mut far) = pair(door, &listener);
        near.write_all(b"ask").unwrap();
        assert_eq!(read(&mut far, 3), b"ask");
        far.write_all(b"answer").unwrap();
        assert_eq!(read(&mut near, 6), b"answer");
        assert_eq!((proxy.dialed(1, 2), proxy.dialed(2, 1)), (1, 0));
        drop(far);
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_cut_cable_holds_bytes_one_way_until_it_is_mended() {
        let (proxy, door, listener) = proxied();
        let (mut near, mut far) = pair(door, &listener);
        proxy.change(1, 2, |link| link.cut = true);
        near.write_all(b"ask").unwrap();
        far.write_all(b"hello").unwrap();
        assert_eq!(read(&mut near, 5), b"hello", "the other way is open");
        assert!(is_silent(&mut far));
        proxy.mend_all();
        assert_eq!(read(&mut far, 3), b"ask");
    }

    #[test]
    fn a_slow_link_delays() {
        let (proxy, door, listener) = proxied();
        let (mut near, mut far) = pair(door, &listener);
        proxy.change(1, 2, |link| link.delay = Duration::from_secs(1));
        let start = Instant::now();
        near.write_all(b"a").unwrap();
        near.write_all(b"b").unwrap();
        assert_eq!(read(&mut far, 2), b"ab");
        assert!(
            (1000..2000).contains(&start.elapsed().as_millis()),
            "{:?}",
            start.elapsed()
        );
    }

    #[test]
    fn a_reset_closes_both_ends_and_a_duplicate_leaves_one_dangling() {
        let (proxy, door, listener) = proxied();
        let (mut near, mut far) = pair(door, &listener);
        proxy.reset(1, 2);
        assert_eq!(near.read(&mut [0]).unwrap() + far.read(&mut [0]).unwrap(), 0);
        let (mut near, mut far) = pair(door, &listener);
        proxy.duplicate(1, 2);
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
        assert!(is_silent(&mut far), "the far end knows of nothing");
        let (mut near, mut other) = pair(door, &listener);
        near.write_all(b"again").unwrap();
        assert_eq!(read(&mut other, 5), b"again");
        assert!(is_silent(&mut far));
    }
}
