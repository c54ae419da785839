//! How long a start takes: makes a data folder with a snapshot of 1 million keys of 128 bytes and a log of 100,000
//! entries behind it, and reads it, step by step. `cargo run --release --example restart [-- FOLDER]`

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftline::base::rng::Rng;
use raftline::kv::{Command, Restore, Store};
use raftline::raft::{Batch, Entry, EntryId, HardState, Index, Membership, NodeId, Payload, Term};
use raftline::storage::fs::RealFs;
use raftline::storage::{Options, SnapshotHeader, Storage};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: u64 = 1_000_000;
const ENTRIES: u64 = 100_000;
const KEYS_AT_ONCE: u64 = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let temporary = tempfile::tempdir()?;
    let options = Options {
        dir: folder.unwrap_or_else(|| temporary.path().into()).join("restart"),
        node_id: NodeId(1),
        segment_size_bytes: 16 << 20,
        fsync: true,
    };
    make(&options)?;
    for _ in 0..3 {
        read(&options)?;
    }
    std::fs::remove_dir_all(&options.dir)?;
    Ok(())
}

fn random_bytes(rng: &mut Rng, length: usize) -> Bytes {
    (0..length).map(|_| b'a' + rng.below(16) as u8).collect()
}

fn id(index: u64) -> EntryId {
    EntryId {
        term: Term(1),
        index: Index(index),
    }
}

fn some_pairs(rng: &mut Rng) -> Command {
    let pair = |rng: &mut Rng| (random_bytes(rng, 16), random_bytes(rng, 128));
    Command::MultiSet {
        pairs: (0..KEYS_AT_ONCE).map(|_| pair(rng)).collect(),
    }
}

fn make(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut rng = Rng::new(1);
    let mut store = Store::new();
    for index in 1..=KEYS / KEYS_AT_ONCE {
        store.apply(index, index, &some_pairs(&mut rng));
    }
    let (mut storage, _) = Storage::open(RealFs, options, 1)?;
    let last = id(store.applied());
    let header = SnapshotHeader {
        last,
        membership: Membership::default(),
        membership_index: Index(0),
    };
    let start = Instant::now();
    let mut writer = storage.snapshots().begin(&header)?;
    for chunk in store.view().chunks() {
        writer.write_chunk(&chunk)?;
    }
    let committed = writer.commit()?;
    println!(
        "snapshot of {} keys: {} MB written in {:?}",
        store.len(),
        committed.size_bytes >> 20,
        start.elapsed()
    );
    storage.install_snapshot(committed)?;
    for first in (1..=ENTRIES).step_by(1000) {
        let entry = |n: u64, rng: &mut Rng| Entry {
            id: id(last.index.0 + n),
            payload: Payload::Command(random_bytes(rng, 150)),
        };
        storage.persist(&Batch {
            hard_state: Some(HardState {
                term: Term(1),
                vote: None,
            }),
            entries: (first..first + 1000).map(|n| entry(n, &mut rng)).collect(),
            ..Batch::default()
        })?;
    }
    Ok(())
}

fn read(options: &Options) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let (_storage, recovered) = Storage::open(RealFs, options, 1)?;
    let opened = start.elapsed();
    let mut reader = recovered.snapshot.ok_or("no snapshot")?;
    let mut restore = Restore::new();
    let mut reading = Duration::ZERO;
    loop {
        let at = Instant::now();
        let chunk = reader.next_chunk()?;
        reading += at.elapsed();
        match chunk {
            Some(chunk) => restore.push(chunk)?,
            None => break,
        }
    }
    let store = restore.finish()?;
    println!(
        "open, with {} entries: {opened:?}; {} keys: {:?}, of which reading {reading:?}; in all {:?}",
        recovered.entries.len(),
        store.len(),
        start.elapsed() - opened,
        start.elapsed()
    );
    Ok(())
}
