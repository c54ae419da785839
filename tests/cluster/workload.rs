//! Clients that work while something happens to the cluster.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use raftline::base::rng::Rng;

use crate::client::{Client, Reply};
use crate::harness::{Cluster, REQUEST_TIMEOUT, SOON, let_pass, wait_for};
use crate::history::{Action, History, Operation, Outcome};

/// Runs `work` in `clients` threads, again and again, until `events` has ended. Each call of `work` gets the
/// number of its thread, from 0.
pub fn meanwhile<R>(clients: usize, work: impl Fn(usize) + Sync, events: impl FnOnce() -> R) -> R {
    let stopped = AtomicBool::new(false);
    thread::scope(|scope| {
        for client in 0..clients {
            let (work, stop) = (&work, Stop(&stopped));
            scope.spawn(move || {
                while !stop.is_asked_for() {
                    work(client);
                }
            });
        }
        let _stop = Stop(&stopped);
        events()
    })
}

/// Ends all the threads of `meanwhile` when one of them ends, be it by a failed assertion.
struct Stop<'a>(&'a AtomicBool);

impl Stop<'_> {
    /// A method, so that the thread's closure takes the whole value with it and not only the reference in it.
    fn is_asked_for(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A client that goes to the next node when its connection fails.
pub struct Roaming {
    addresses: Vec<SocketAddr>,
    at: usize,
    client: Option<Client>,
}

impl Roaming {
    /// Begins with the address of number `start`, modulo their count.
    pub fn new(addresses: &[SocketAddr], start: usize) -> Roaming {
        Roaming {
            addresses: addresses.to_vec(),
            at: start,
            client: None,
        }
    }

    /// A connection; `None` when the node whose turn it is takes none.
    pub fn client(&mut self) -> Option<&mut Client> {
        if self.client.is_none() {
            self.at += 1;
            let address = self.addresses[self.at % self.addresses.len()];
            self.client = Client::connect(address, REQUEST_TIMEOUT).ok();
        }
        self.client.as_mut()
    }

    /// Gives up the connection: the next one goes to the next node.
    pub fn leave(&mut self) {
        self.client = None;
    }

    /// One request; `None` when no reply came. After that, and after an error, the next node is asked.
    pub fn call(&mut self, line: &str) -> Option<Reply> {
        let reply = self.client()?.call(line).ok();
        if reply.as_ref().is_none_or(|reply| reply.code().is_some()) {
            self.leave();
        }
        reply
    }
}

/// Clients that each write new keys, and remember what was acknowledged.
pub struct Writers {
    clients: Vec<Mutex<Roaming>>,
    next: AtomicU64,
    acknowledged: Mutex<Vec<u64>>,
    failed: AtomicU64,
}

impl Writers {
    /// `count` clients, spread over the nodes.
    pub fn new(addresses: &[SocketAddr], count: usize) -> Writers {
        let clients = (0..count)
            .map(|n| Mutex::new(Roaming::new(addresses, n)))
            .collect();
        Writers {
            clients,
            next: AtomicU64::new(0),
            acknowledged: Mutex::default(),
            failed: AtomicU64::new(0),
        }
    }

    /// Client number `client` writes one key.
    pub fn write(&self, client: usize) {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let reply = self.clients[client]
            .lock()
            .unwrap()
            .call(&format!("SET written:{n} {n}"));
        if reply == Some(Reply::ok()) {
            self.acknowledged.lock().unwrap().push(n);
        } else {
            self.failed.fetch_add(1, Ordering::Relaxed);
            // Nobody is there to answer, or there is no leader: not worth a busy loop.
            let_pass(Duration::from_millis(2));
        }
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// How many writes were refused or had no answer so far.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Waits for this many more acknowledgements; how long it took.
    pub fn wait_for_more(&self, count: usize) -> Duration {
        let (start, before) = (Instant::now(), self.acknowledged());
        wait_for("acknowledged writes", SOON, || {
            (self.acknowledged() >= before + count).then_some(())
        });
        start.elapsed()
    }

    /// Panics unless every acknowledged write is there, read through node `id`.
    pub fn assert_all_there(&self, cluster: &Cluster, id: u64) {
        let acknowledged = self.acknowledged.lock().unwrap();
        assert!(!acknowledged.is_empty(), "nothing was ever acknowledged");
        let mut client = cluster.client(id);
        for some in acknowledged.chunks(200) {
            let keys: Vec<String> = some.iter().map(|n| format!("written:{n}")).collect();
            let reply = client.call(&format!("MGET {}", keys.join(" "))).unwrap();
            let there = Reply::List(some.iter().map(|n| Reply::text(n.to_string())).collect());
            assert_eq!(
                reply,
                there,
                "of {} acknowledged writes some are lost",
                acknowledged.len()
            );
        }
    }
}

/// Clients that do everything to few keys, and write down what they saw.
pub struct Recorders {
    clients: Vec<Mutex<Recorder>>,
    history: History,
    next: AtomicU64,
}

struct Recorder {
    roaming: Roaming,
    rng: Rng,
    seen: Option<u64>,
    done: u64,
}

impl Recorders {
    /// More clients at one key, and judging the history may take long.
    pub const COUNT: usize = 8;
    const KEYS: u64 = 3;
    /// After so many operations a client goes on to fresh keys, which keeps each key's history short.
    const OPERATIONS_PER_KEYS: u64 = 100;

    /// [`COUNT`](Self::COUNT) clients, spread over the nodes.
    pub fn new(addresses: &[SocketAddr]) -> Recorders {
        let recorder = |n: usize| {
            let roaming = Roaming::new(addresses, n);
            Mutex::new(Recorder {
                roaming,
                rng: Rng::new(n as u64),
                seen: None,
                done: 0,
            })
        };
        let clients = (0..Recorders::COUNT).map(recorder).collect();
        Recorders {
            clients,
            history: History::new(),
            next: AtomicU64::new(1),
        }
    }

    /// Client number `client` does one operation.
    pub fn work(&self, client: usize) {
        let recorder = &mut *self.clients[client].lock().unwrap();
        let fresh = self.next.fetch_add(1, Ordering::Relaxed) * 1_000_000;
        let key = format!(
            "k{}-{}",
            recorder.done / Recorders::OPERATIONS_PER_KEYS,
            recorder.rng.below(Recorders::KEYS)
        );
        let action = match (recorder.rng.below(10), recorder.seen) {
            (0..=3, _) => Action::Get,
            (4..=6, _) => Action::Incr,
            (7, Some(old)) => Action::Swap { old, new: fresh },
            _ => Action::Set(fresh),
        };
        let Some(connection) = recorder.roaming.client() else {
            let_pass(Duration::from_millis(2));
            return;
        };
        recorder.done += 1;
        match self.history.run(connection, &key, action) {
            Ok(Outcome::Done(value)) => recorder.seen = value.or(recorder.seen),
            Ok(_) | Err(_) => recorder.roaming.leave(),
        }
    }

    /// Reads every key once more through node `id`, so that a lost write shows, and ends the recording.
    pub fn finish(self, cluster: &Cluster, id: u64) -> Vec<Operation> {
        let most = self
            .clients
            .iter()
            .map(|c| c.lock().unwrap().done)
            .max()
            .unwrap_or(0);
        let mut client = cluster.client(id);
        for epoch in 0..=most / Recorders::OPERATIONS_PER_KEYS {
            for key in 0..Recorders::KEYS {
                self.history
                    .run(&mut client, &format!("k{epoch}-{key}"), Action::Get)
                    .unwrap();
            }
        }
        self.history.into_operations()
    }
}
