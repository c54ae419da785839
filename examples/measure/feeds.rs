//! What a thousand change feeds on one node cost the writers of that node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::{closed_loop, cluster, median, percentile};

const FEEDS: usize = 1000;

/// What reader n asks for.
type Request = fn(usize) -> String;

/// 64 connections write to the leader, which feeds 1000 readers. The readers are a thread of this process, so what they
/// take to read competes with nodes and writers for the same cores; it is a part of what is printed. Where more is
/// written than a node has time to feed, feeds are cut off: how many in a run is printed too.
pub fn feeds() {
    const RUNS: usize = 3;
    let cluster = cluster();
    let leader = vec![cluster.client_address(cluster.leader())];
    let cases: [(&str, Request); 3] = [
        ("keys of others", |n| format!("FEED PREFIX other:{n}:\n")),
        ("one key each", |n| format!("FEED PREFIX load:{}\n", 10 + n % 54)),
        ("every key", |_| "FEED\n".into()),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut rates = vec![vec![]; cases.len() + 1];
    let mut costs = vec![vec![]; cases.len()];
    let cut: Vec<_> = cases.iter().map(|_| Arc::new(AtomicUsize::new(0))).collect();
    for _ in 0..RUNS {
        for (case, (_, command)) in cases.iter().enumerate() {
            let alone = runtime.block_on(closed_loop(&leader));
            let readers = Readers::start(leader[0], *command, Arc::clone(&cut[case]));
            let fed = runtime.block_on(closed_loop(&leader));
            readers.stop();
            rates[0].push(alone);
            rates[case + 1].push(fed);
            costs[case].push(100.0 * (1.0 - fed / alone));
        }
    }
    println!(
        "acknowledged writes/s, 64 connections to a node with {FEEDS} feeds, {RUNS} runs in turn with none:"
    );
    println!(
        "{:>16} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "", "median", "min", "max", "cost", "cut off"
    );
    let names = ["no feeds"].into_iter().chain(cases.map(|(name, _)| name));
    for (case, name) in names.enumerate() {
        let (rates, cost) = (
            &rates[case],
            case.checked_sub(1).map_or(0.0, |case| median(&costs[case])),
        );
        let (low, high) = (percentile(rates, 0), percentile(rates, 100));
        let cut = case
            .checked_sub(1)
            .map_or(0, |case| cut[case].load(Ordering::Relaxed))
            / RUNS;
        let rate = median(rates);
        println!("{name:>16} {rate:>8.0} {low:>8.0} {high:>8.0} {cost:>6.0} % {cut:>8}");
    }
}

struct Readers {
    stop: tokio::sync::oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Readers {
    /// Returns when all feeds have begun.
    fn start(address: SocketAddr, command: Request, cut: Arc<AtomicUsize>) -> Readers {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (begun, all_begun) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut readers = JoinSet::new();
                for n in 0..FEEDS {
                    let stream = begin(address, command(n)).await;
                    readers.spawn(read_forever(stream));
                }
                begun.send(()).unwrap();
                let _ = stopped.await;
                while readers.try_join_next().is_some() {}
                cut.fetch_add(FEEDS - readers.len(), Ordering::Relaxed);
            });
        });
        all_begun.recv().unwrap();
        Readers { stop, thread }
    }

    fn stop(self) {
        let _ = self.stop.send(());
        self.thread.join().unwrap();
    }
}

async fn begin(address: SocketAddr, command: String) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(command.as_bytes()).await.unwrap();
    let mut reply = [0; 5];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(&reply, b"+OK\r\n");
    stream
}

async fn read_forever(mut stream: TcpStream) {
    let mut events = vec![0; 16 << 10];
    while stream.read(&mut events).await.is_ok_and(|read| read > 0) {}
}
