//! Crashes and damage where snapshots are taken and installed, the log's head is dropped and segments are
//! used again: a snapshot and all that comes after it are there, or the node refuses.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::crash_tests::{SEGMENT_BYTES, entry, in_term, log_path, open, options};
use super::fs::{File, Fs, SimFs};
use super::opening::segment_ids;
use super::*;
use crate::base::rng::Rng;
use crate::raft::{Index, Membership, Term};

const SNAPSHOTS: &str = "data/snapshots";

pub(super) fn id(index: u64, term: u64) -> EntryId {
    EntryId {
        term: Term(term),
        index: Index(index),
    }
}

pub(super) fn header(last: EntryId) -> SnapshotHeader {
    SnapshotHeader {
        last,
        membership: Membership {
            voters: [NodeId(1 + last.index.0 % 3)].into(),
            ..Membership::default()
        },
        membership_index: Index(last.index.0 / 2),
    }
}

/// What the snapshot up to this entry holds.
pub(super) fn content(last: EntryId) -> Vec<Bytes> {
    let mut rng = Rng::new(last.index.0 << 8 | last.term.0);
    let count = 1 + rng.below(3);
    let chunk = |rng: &mut Rng| (0..1 + rng.below(600)).map(|_| rng.below(200) as u8).collect();
    (0..count).map(|_| chunk(&mut rng)).collect()
}

pub(super) fn write(storage: &Storage<SimFs>, last: EntryId) -> Result<Committed, DiskError> {
    let mut writer = storage.snapshots().begin(&header(last))?;
    for chunk in content(last) {
        writer.write_chunk(&chunk)?;
    }
    writer.commit()
}

/// A snapshot of the node's own state.
pub(super) fn take(storage: &mut Storage<SimFs>, last: EntryId) {
    let committed = write(storage, last).unwrap();
    storage.adopt_snapshot(committed);
}

pub(super) fn check_content(reader: &mut SnapshotReader<SimFs>) -> EntryId {
    let last = reader.header().last;
    assert_eq!(reader.header(), &header(last));
    for chunk in content(last) {
        assert_eq!(reader.next_chunk().unwrap(), Some(chunk));
    }
    assert_eq!(reader.next_chunk().unwrap(), None);
    last
}

/// What a folder should hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    pub(super) hard_state: HardState,
    pub(super) snapshot: EntryId,
    /// After the snapshot.
    entries: Vec<Entry>,
}

impl Model {
    pub(super) fn of(recovered: &mut Recovered<SimFs>) -> Model {
        assert!(recovered.damaged_snapshots.is_empty());
        Model {
            hard_state: recovered.hard_state,
            snapshot: recovered.snapshot.as_mut().map_or(id(0, 0), check_content),
            entries: recovered.entries.clone(),
        }
    }

    fn last(&self) -> EntryId {
        self.entries.last().map_or(self.snapshot, |entry| entry.id)
    }

    fn persisted(&self, batch: &Batch) -> Model {
        let mut model = self.clone();
        model.hard_state = batch.hard_state.unwrap_or(model.hard_state);
        for entry in &batch.entries {
            model.entries.retain(|old| old.id.index < entry.id.index);
            model.entries.push(entry.clone());
        }
        model
    }

    fn taken(&self, last: EntryId) -> Model {
        let mut model = self.clone();
        model.snapshot = last;
        model.entries.retain(|entry| entry.id.index > last.index);
        model
    }

    fn installed(&self, last: EntryId) -> Model {
        let mut model = self.taken(last);
        if self.snapshot != last && !self.entries.iter().any(|entry| entry.id == last) {
            model.entries.clear();
            if last.term > model.hard_state.term {
                model.hard_state = HardState {
                    term: last.term,
                    vote: None,
                };
            }
        }
        model
    }

    fn next_batch(&self, rng: &mut Rng) -> Batch {
        let mut hard_state = self.hard_state;
        let changed = hard_state.term == Term(0) || rng.one_in(5);
        if changed {
            hard_state.term = hard_state.term.next();
            hard_state.vote = rng.one_in(2).then_some(NodeId(1 + rng.below(3)));
        }
        let mut index = self.last().index.0 + 1;
        if changed && rng.one_in(2) {
            index -= rng.below(4).min(self.entries.len() as u64);
        }
        let size = if rng.one_in(20) { 18_000 } else { 900 };
        let entries = (index..index + rng.below(6))
            .map(|index| entry(index, hard_state.term.0, rng.below(size) as usize))
            .collect();
        Batch {
            hard_state: changed.then_some(hard_state),
            entries,
            ..Batch::default()
        }
    }
}

/// Does something to the storage; the state after it, or why it failed.
fn act(storage: &mut Storage<SimFs>, model: &Model, rng: &mut Rng) -> (Model, Result<(), String>) {
    let text = |error: &dyn std::error::Error| error.to_string();
    match rng.below(10) {
        0 | 1 if !model.entries.is_empty() => {
            let at = rng.below(model.entries.len() as u64) as usize;
            let last = model.entries[at].id;
            let done = write(storage, last).map(|committed| storage.adopt_snapshot(committed));
            (model.taken(last), done.map_err(|e| text(&e)))
        }
        2 => {
            // Of an entry that the log holds, of one that conflicts, or of one far beyond.
            let span = model.last().index.0 - model.snapshot.index.0 + 9;
            let index = model.snapshot.index.0 + 1 + rng.below(span);
            let held = model.entries.iter().find(|entry| entry.id.index.0 == index);
            let last = match held {
                Some(entry) if rng.one_in(2) => entry.id,
                _ => id(index, model.hard_state.term.0 + 1),
            };
            let done = write(storage, last).map_err(|e| text(&e)).and_then(|committed| {
                let installed = storage.install_snapshot(committed);
                installed.map(drop).map_err(|e| text(&e))
            });
            (model.installed(last), done)
        }
        3 | 4 if model.snapshot.index > Index(0) => {
            let dropped = storage.drop_head(model.snapshot);
            let done = dropped.map_err(|e| text(&e)).and_then(|superfluous| {
                let removed = if rng.one_in(4) {
                    Ok(())
                } else {
                    superfluous.remove()
                };
                removed.map_err(|e| text(&e))
            });
            (model.clone(), done)
        }
        _ => {
            let batch = model.next_batch(rng);
            let done = storage.persist(&batch);
            (model.persisted(&batch), done.map_err(|e| text(&e)))
        }
    }
}

/// Acts until something fails: the state before that, and the one after it.
pub(super) fn run(storage: &mut Storage<SimFs>, mut model: Model, rng: &mut Rng, acts: u64) -> [Model; 2] {
    let preparer = storage.take_preparer().unwrap();
    for _ in 0..acts {
        let (after, done) = act(storage, &model, rng);
        if let Err(error) = done {
            assert!(error.contains("simulated"), "{error}");
            return [model, after];
        }
        model = after;
        if rng.one_in(6) {
            let _ = preparer.prepare();
        }
    }
    [model.clone(), model]
}

#[test]
fn trap_3_32_whatever_was_acknowledged_is_there_after_a_power_failure_at_any_moment() {
    for seed in 0..4 {
        let fs = SimFs::new();
        let (mut storage, mut recovered) = open(&fs).unwrap();
        run(&mut storage, Model::of(&mut recovered), &mut Rng::new(seed), 60);
        let operations = fs.operations();
        assert!(operations > 150, "{operations}");
        assert!(segments(&fs)[0] > 3, "seed {seed}: segments were dropped");
        for n in 1..=operations {
            survives_power_failures(seed, n);
        }
    }
}

/// The same universe with a power failure at the n-th change of the disk, another during the recovery, and
/// more of both.
fn survives_power_failures(seed: u64, n: u64) {
    let mut rng = Rng::new(seed);
    let mut chaos = Rng::new(seed << 32 | n);
    let fs = SimFs::new();
    let mut possible = [Model::default(), Model::default()];
    fs.power_fails_at(n);
    for round in 0..5 {
        match open(&fs) {
            Ok((mut storage, mut recovered)) => {
                let model = Model::of(&mut recovered);
                assert!(
                    possible.contains(&model),
                    "seed {seed}, power fails at {n}, round {round}: {:?} {:?}, not {:?}",
                    model.hard_state,
                    model.snapshot,
                    possible.map(|model| (model.hard_state, model.snapshot, model.last()))
                );
                possible = run(&mut storage, model, &mut rng, 12 + 48 * u64::from(round == 0));
            }
            Err(OpenError::Disk(_)) => {}
            Err(error) => panic!("seed {seed}, power fails at {n}, round {round}: {error}"),
        }
        if chaos.one_in(4) {
            fs.kill_process();
        } else {
            fs.crash(chaos.next_u64());
        }
        fs.power_fails_at(1 + chaos.below(8 << (round * 2)));
    }
}

/// Entries 1 to 30 of term 1, about seven to a segment, in six batches of five.
pub(super) fn log_of_30(fs: &SimFs) -> Storage<SimFs> {
    let (mut storage, _) = open(fs).unwrap();
    for batch in 0..6 {
        let entries = (1..=5).map(|n| entry(batch * 5 + n, 1, 900)).collect();
        storage.persist(&in_term(1, entries)).unwrap();
    }
    storage
}

pub(super) fn segments(fs: &SimFs) -> Vec<u32> {
    segment_ids(&fs.list(Path::new("data/log")).unwrap())
}

pub(super) fn snapshot_path(last: EntryId) -> PathBuf {
    snapshot::path(Path::new(SNAPSHOTS), last)
}

pub(super) fn indexes(recovered: &Recovered<SimFs>) -> Vec<u64> {
    recovered.entries.iter().map(|entry| entry.id.index.0).collect()
}

#[test]
fn the_head_is_dropped_and_its_segments_are_used_again() {
    let fs = SimFs::new();
    let mut storage = log_of_30(&fs);
    assert_eq!(segments(&fs), [1, 2, 3, 4, 5, 6]);
    let early = storage.drop_head(id(1, 1));
    assert!(matches!(early, Err(PersistError::Refused(_))), "no snapshot yet");
    take(&mut storage, id(23, 1));
    let beyond = storage.drop_head(id(24, 1));
    assert!(matches!(beyond, Err(PersistError::Refused(_))), "not covered");
    storage.drop_head(id(9, 1)).unwrap().remove().unwrap();
    assert_eq!(segments(&fs), [2, 3, 4, 5, 6], "entry 10 is in segment 2");
    storage.drop_head(id(23, 1)).unwrap().remove().unwrap();
    assert_eq!(segments(&fs), [5, 6]);
    let spares = || {
        let names = fs.list(Path::new("data/log")).unwrap();
        names.iter().filter(|name| name.ends_with(".spare")).count()
    };
    assert_eq!(spares(), 4);
    for index in 31..=60 {
        storage.persist(&in_term(2, vec![entry(index, 2, 900)])).unwrap();
    }
    assert_eq!(spares(), 0);
    drop(storage);
    fs.crash(1);
    let (_, mut recovered) = open(&fs).unwrap();
    assert_eq!(check_content(recovered.snapshot.as_mut().unwrap()), id(23, 1));
    assert!(indexes(&recovered).into_iter().eq(24..=60));
}

#[test]
fn more_segments_than_are_of_use_are_removed() {
    let fs = SimFs::new();
    let (mut storage, _) = open(&fs).unwrap();
    for index in 1..=40 {
        storage.persist(&in_term(1, vec![entry(index, 1, 3000)])).unwrap();
    }
    take(&mut storage, id(40, 1));
    let superfluous = storage.drop_head(id(40, 1)).unwrap();
    let names = || fs.list(Path::new("data/log")).unwrap();
    assert_eq!(segments(&fs).len(), 1);
    assert!(names().len() > 10);
    let again = fs.copy();
    superfluous.remove().unwrap();
    assert_eq!(names().len(), 5, "one segment, four spares");
    open(&again).unwrap();
    assert_eq!(
        again.list(Path::new("data/log")).unwrap(),
        names(),
        "removed at the next start"
    );
}

#[test]
fn trap_3_34_temporary_names_are_removed_at_start() {
    let fs = SimFs::new();
    let storage = log_of_30(&fs);
    let mut writer = storage.snapshots().begin(&header(id(5, 1))).unwrap();
    writer.write_chunk(b"half").unwrap();
    fs.kill_process();
    drop((storage, std::mem::ManuallyDrop::new(writer)));
    assert_eq!(fs.list(Path::new(SNAPSHOTS)).unwrap().len(), 1);
    let (_, recovered) = open(&fs).unwrap();
    assert!(recovered.snapshot.is_none() && recovered.entries.len() == 30);
    assert!(fs.list(Path::new(SNAPSHOTS)).unwrap().is_empty());
}

#[test]
fn trap_3_42_a_snapshot_whose_last_entry_the_log_holds_keeps_what_follows() {
    let fs = SimFs::new();
    let mut storage = log_of_30(&fs);
    let committed = write(&storage, id(20, 1)).unwrap();
    assert!(!storage.install_snapshot(committed).unwrap());
    let older = write(&storage, id(19, 1)).unwrap();
    assert!(matches!(
        storage.install_snapshot(older),
        Err(PersistError::Refused(_))
    ));
    drop(storage);
    let (_, recovered) = open(&fs).unwrap();
    assert!(indexes(&recovered).into_iter().eq(21..=30));
}

#[test]
fn trap_3_41_a_snapshot_that_the_log_does_not_hold_begins_it_anew() {
    for (last, next) in [
        (id(20, 2), 21),
        (id(30, 2), 31),
        (id(500, 1), 501),
        (id(500, 3), 501),
    ] {
        let fs = SimFs::new();
        let mut storage = log_of_30(&fs);
        let committed = write(&storage, last).unwrap();
        // As it is before the log knows.
        let unfinished = fs.copy();
        assert!(storage.install_snapshot(committed).unwrap());
        let hole = in_term(4, vec![entry(next + 1, 4, 10)]);
        assert!(matches!(storage.persist(&hole), Err(PersistError::Refused(_))));
        storage.persist(&in_term(4, vec![entry(next, 4, 10)])).unwrap();
        storage.drop_head(last).unwrap().remove().unwrap();
        assert_eq!(segments(&fs), [6]);
        drop(storage);
        let (_, recovered) = open(&fs).unwrap();
        assert_eq!(indexes(&recovered), [next]);
        for _ in 0..2 {
            let (storage, mut recovered) = open(&unfinished).unwrap();
            assert_eq!(check_content(recovered.snapshot.as_mut().unwrap()), last);
            assert!(recovered.entries.is_empty());
            assert_eq!(recovered.hard_state.term, last.term.max(Term(1)));
            drop(storage);
        }
    }
}

#[test]
fn trap_3_31_every_flipped_byte_of_a_snapshot_is_noticed() {
    let fs = SimFs::new();
    let mut storage = log_of_30(&fs);
    take(&mut storage, id(23, 1));
    storage.drop_head(id(23, 1)).unwrap().remove().unwrap();
    drop(storage);
    let path = snapshot_path(id(23, 1));
    let size = fs.open(&path).unwrap().size_bytes().unwrap() as usize;
    for offset in 0..size {
        assert!(fs.flip(&path, offset, 1 << (offset % 8)));
        match open(&fs) {
            Err(OpenError::Damage(damage)) => assert_eq!(damage.path, path),
            other => panic!("byte {offset}: {other:?}"),
        }
        fs.flip(&path, offset, 1 << (offset % 8));
    }
    assert!(open(&fs).is_ok());
    fs.remove(&path).unwrap();
    let Err(OpenError::Damage(damage)) = open(&fs) else {
        panic!("a snapshot is missing");
    };
    assert!(damage.found.contains("missing"), "{damage}");
}

#[test]
fn trap_3_31_an_older_snapshot_and_the_log_take_the_place_of_a_damaged_one() {
    let fs = SimFs::new();
    let mut storage = log_of_30(&fs);
    take(&mut storage, id(8, 1));
    take(&mut storage, id(20, 1));
    take(&mut storage, id(28, 1));
    // The log still reaches back to the second of them, if not all of it is dropped.
    storage.drop_head(id(19, 1)).unwrap().remove().unwrap();
    assert_eq!(fs.list(Path::new(SNAPSHOTS)).unwrap().len(), 2);
    drop(storage);
    assert!(fs.flip(&snapshot_path(id(28, 1)), 50, 1));
    let (mut storage, mut recovered) = open(&fs).unwrap();
    assert_eq!(recovered.damaged_snapshots.len(), 1);
    assert_eq!(check_content(recovered.snapshot.as_mut().unwrap()), id(20, 1));
    assert!(indexes(&recovered).into_iter().eq(21..=30));
    // A new one sweeps the damaged one away.
    take(&mut storage, id(30, 1));
    storage.drop_head(id(30, 1)).unwrap().remove().unwrap();
    assert_eq!(fs.list(Path::new(SNAPSHOTS)).unwrap().len(), 1);
    drop(storage);
    assert!(open(&fs).unwrap().1.damaged_snapshots.is_empty());
}

#[test]
fn a_gap_between_snapshot_and_log_is_damage() {
    let fs = SimFs::new();
    let mut storage = log_of_30(&fs);
    take(&mut storage, id(14, 1));
    storage.drop_head(id(14, 1)).unwrap().remove().unwrap();
    assert_eq!(segments(&fs), [3, 4, 5, 6]);
    drop(storage);
    fs.remove(&log_path(3)).unwrap();
    let Err(OpenError::Damage(damage)) = open(&fs) else {
        panic!("entries 15 are missing");
    };
    assert_eq!(damage.path, log_path(4));
    assert!(damage.found.contains("entry 14@1"), "{damage}");
}

#[test]
fn a_folder_of_version_1_is_read_and_becomes_one_of_version_3() {
    let fs = SimFs::new();
    drop(log_of_30(&fs));
    for id in segments(&fs) {
        let mut file = fs.open(&log_path(id)).unwrap();
        let mut sector = [0; 512];
        file.read_at(&mut sector, 0).unwrap();
        let format::Sector::Current { batch, data, .. } = format::read_sector(&sector, id, 0) else {
            panic!("a header");
        };
        let (mut data, mut out) = (data.to_vec(), Vec::new());
        data[8] = 1;
        format::write_sectors(&data, id, 0, batch, &mut out);
        file.write_at(&out, 0).unwrap();
        file.sync_data().unwrap();
    }
    let path = identity::path(Path::new("data"));
    let (identity, version) = identity::read(&fs, Path::new("data")).unwrap().unwrap();
    assert_eq!(version, format::VERSION);
    fs.remove(&path).unwrap();
    let old = identity::format(&identity, 1);
    fs.create(&path).unwrap().write_at(old.as_bytes(), 0).unwrap();
    let (_, recovered) = open(&fs).unwrap();
    assert_eq!((recovered.entries.len(), recovered.identity), (30, identity));
    let (_, version) = identity::read(&fs, Path::new("data")).unwrap().unwrap();
    assert_eq!(version, format::VERSION);
    assert_eq!(open(&fs).unwrap().1.entries.len(), 30);
}

#[test]
fn the_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        dir: dir.path().join("data"),
        segment_size_bytes: SEGMENT_BYTES,
        ..options()
    };
    let (mut storage, _) = Storage::open(RealFs, &options, 1).unwrap();
    for index in 1..=30 {
        storage.persist(&in_term(1, vec![entry(index, 1, 900)])).unwrap();
    }
    let snapshots = storage.snapshots();
    let committed = std::thread::spawn(move || {
        let mut writer = snapshots.begin(&header(id(25, 1))).unwrap();
        for chunk in content(id(25, 1)) {
            writer.write_chunk(&chunk).unwrap();
        }
        writer.commit().unwrap()
    });
    storage.adopt_snapshot(committed.join().unwrap());
    storage.drop_head(id(25, 1)).unwrap().remove().unwrap();
    drop(storage);
    let (_, recovered) = Storage::open(RealFs, &options, 1).unwrap();
    let mut reader = recovered.snapshot.unwrap();
    for chunk in content(id(25, 1)) {
        assert_eq!(reader.next_chunk().unwrap(), Some(chunk));
    }
    assert_eq!(recovered.entries.len(), 5);
}
