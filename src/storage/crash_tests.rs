//! Crashes and damage: whatever happens to the disk, what was acknowledged is there, or the node refuses.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::fs::{File, Fs, RealFs, SimFs};
use super::segment::Name;
use super::*;
use crate::base::rng::Rng;
use crate::raft::{EntryId, Index, Payload, Term};

pub(super) const SEGMENT_BYTES: u64 = 8 * 1024;

pub(super) fn options() -> Options {
    Options {
        dir: PathBuf::from("data"),
        node_id: NodeId(3),
        segment_size_bytes: SEGMENT_BYTES,
        fsync: true,
    }
}

pub(super) fn open(fs: &SimFs) -> Result<(Storage<SimFs>, Recovered<SimFs>), OpenError> {
    Storage::open(fs.clone(), &options(), 0xfeed)
}

pub(super) fn log_path(id: u32) -> PathBuf {
    Name::segment(Path::new("data/log"), id)
}

pub(super) fn entry(index: u64, term: u64, size: usize) -> Entry {
    Entry {
        id: EntryId {
            term: Term(term),
            index: Index(index),
        },
        payload: Payload::Command(Bytes::from(vec![index as u8 | 1; size])),
    }
}

pub(super) fn in_term(term: u64, entries: Vec<Entry>) -> Batch {
    let hard_state = Some(HardState {
        term: Term(term),
        vote: None,
    });
    Batch {
        hard_state,
        entries,
        ..Batch::default()
    }
}

/// What a log should say: the naive twin of the whole module.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    hard_state: HardState,
    entries: Vec<Entry>,
}

impl Model {
    fn of<F: Fs>(recovered: &Recovered<F>) -> Model {
        Model {
            hard_state: recovered.hard_state,
            entries: recovered.entries.clone(),
        }
    }

    fn after(&self, batch: &Batch) -> Model {
        let mut model = self.clone();
        model.hard_state = batch.hard_state.unwrap_or(model.hard_state);
        for entry in &batch.entries {
            model.entries.truncate(entry.id.index.0 as usize - 1);
            model.entries.push(entry.clone());
        }
        model
    }

    /// Some batch that may follow: votes, appends, replaced tails, once in a while a large one.
    fn next_batch(&self, rng: &mut Rng) -> Batch {
        let mut hard_state = self.hard_state;
        let changed = hard_state.term == Term(0) || rng.one_in(5);
        if changed {
            hard_state.term = hard_state.term.next();
            hard_state.vote = rng.one_in(2).then_some(NodeId(1 + rng.below(3)));
        }
        let mut index = self.entries.len() as u64 + 1;
        if changed && rng.one_in(2) {
            index -= rng.below(index.min(4));
        }
        let count = if changed { rng.below(4) } else { 1 + rng.below(6) };
        let size = if rng.one_in(20) { 18_000 } else { 700 };
        let entries = (index..index + count)
            .map(|index| entry(index, hard_state.term.0, rng.below(size) as usize))
            .collect();
        Batch {
            hard_state: changed.then_some(hard_state),
            entries,
            ..Batch::default()
        }
    }
}

/// A few batches, and whether each was acknowledged. Ends with the first one that was not: the state before
/// it, and the one after it.
fn run(fs: &SimFs, storage: &mut Storage<SimFs>, start: Model, rng: &mut Rng, batches: u32) -> [Model; 2] {
    let preparer = storage.take_preparer();
    let mut model = start;
    for _ in 0..batches {
        let batch = model.next_batch(rng);
        let after = model.after(&batch);
        if storage.persist(&batch).is_err() {
            return [model, after];
        }
        model = after;
        if rng.one_in(3) {
            let _ = preparer.as_ref().unwrap().prepare();
        }
        if rng.one_in(8) {
            leave_stale_spare(fs);
        }
    }
    [model.clone(), model]
}

/// What recycling will do: a spare that still holds what an earlier segment did.
fn leave_stale_spare(fs: &SimFs) {
    let Ok(segment) = fs.open(&log_path(2)) else {
        return;
    };
    let mut bytes = vec![0; SEGMENT_BYTES as usize];
    if segment.size_bytes().unwrap_or(0) != SEGMENT_BYTES || segment.read_at(&mut bytes, 0).is_err() {
        return;
    }
    if let Ok(mut spare) = fs.create(&Name::spare(Path::new("data/log"), 9_000)) {
        let _ = spare.write_at(&bytes, 0).and_then(|()| spare.sync_data());
    }
}

#[test]
fn trap_3_32_whatever_was_acknowledged_is_there_after_a_power_failure_at_any_moment() {
    for seed in 0..3 {
        let fs = SimFs::new();
        let (mut storage, recovered) = open(&fs).unwrap();
        run(&fs, &mut storage, Model::of(&recovered), &mut Rng::new(seed), 40);
        let operations = fs.operations();
        assert!(operations > 90, "{operations}");
        for n in 1..=operations {
            survives_power_failures(seed, n);
        }
    }
}

/// The same universe as above with a power failure at the n-th change of the disk, another during the
/// recovery, and more of both.
fn survives_power_failures(seed: u64, n: u64) {
    let mut rng = Rng::new(seed);
    let mut chaos = Rng::new(seed << 32 | n);
    let fs = SimFs::new();
    let mut possible = [Model::default(), Model::default()];
    fs.power_fails_at(n);
    for round in 0..5 {
        match open(&fs) {
            Ok((mut storage, recovered)) => {
                let model = Model::of(&recovered);
                assert!(
                    possible.contains(&model),
                    "seed {seed}, power fails at {n}, round {round}"
                );
                possible = run(
                    &fs,
                    &mut storage,
                    model,
                    &mut rng,
                    12 + 28 * u32::from(round == 0),
                );
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

/// A small log: two segments, the second one open, with replaced entries in it.
fn small_log() -> (SimFs, Vec<Model>) {
    let fs = SimFs::new();
    let (mut storage, _) = open(&fs).unwrap();
    let mut models = vec![Model::default()];
    let batches = [
        in_term(1, vec![entry(1, 1, 10), entry(2, 1, 600)]),
        in_term(1, vec![entry(3, 1, 4_600)]),
        in_term(2, vec![entry(3, 2, 10), entry(4, 2, 20)]),
        in_term(2, vec![entry(5, 2, 2000)]),
        in_term(4, vec![entry(5, 4, 700)]),
    ];
    for batch in batches {
        storage.persist(&batch).unwrap();
        models.push(models.last().unwrap().after(&batch));
    }
    drop(storage);
    assert_eq!(fs.list(Path::new("data/log")).unwrap().len(), 2);
    fs.crash(0);
    (fs, models)
}

#[test]
fn trap_3_31_a_flipped_byte_anywhere_in_the_log_is_refused() {
    let (fs, models) = small_log();
    let (_, recovered) = open(&fs).unwrap();
    assert_eq!(Some(&Model::of(&recovered)), models.last());
    let mut rng = Rng::new(1);
    for id in [1, 2] {
        for offset in 0..SEGMENT_BYTES as usize {
            let bits = 1 + rng.below(255) as u8;
            assert!(fs.flip(&log_path(id), offset, bits));
            match open(&fs) {
                // Behind its seal a closed segment is not read.
                Ok((_, recovered)) if id == 1 && offset >= 7680 => {
                    assert_eq!(Some(&Model::of(&recovered)), models.last());
                }
                Ok(_) => panic!("segment {id}, byte {offset}: not seen"),
                Err(OpenError::Damage(damage)) => {
                    assert_eq!(damage.path, log_path(id));
                    assert!(damage.offset <= offset as u64);
                }
                Err(error) => panic!("segment {id}, byte {offset}: {error}"),
            }
            fs.flip(&log_path(id), offset, bits);
        }
    }
}

#[test]
fn a_log_cut_at_any_byte_is_refused_and_one_unwritten_from_there_is_a_prefix() {
    let (fs, models) = small_log();
    let mut whole = vec![0; SEGMENT_BYTES as usize];
    fs.open(&log_path(2)).unwrap().read_at(&mut whole, 0).unwrap();
    for cut in (0..SEGMENT_BYTES as usize).rev() {
        if cut < 4096 || cut % 512 < 2 {
            let short = fs.copy();
            short.truncate(&log_path(2), cut);
            assert!(matches!(open(&short), Err(OpenError::Damage(_))), "cut at {cut}");
        }
        // The writes that should have filled the rest never came.
        let mut file = fs.open(&log_path(2)).unwrap();
        file.write_at(&[0], cut as u64).unwrap();
        file.sync_data().unwrap();
        if whole[cut] == 0 && cut % 512 != 0 {
            continue;
        }
        match open(&fs.copy()) {
            Ok((_, recovered)) => {
                let model = Model::of(&recovered);
                assert!(models.contains(&model), "unwritten from {cut}");
                let lost = models.last() != Some(&model);
                assert!(!lost || cut % 512 == 0, "half a sector passed at {cut}");
            }
            Err(OpenError::Damage(_)) => assert!(cut % 512 != 0 || cut == 0, "cut {cut}"),
            Err(error) => panic!("unwritten from {cut}: {error}"),
        }
    }
}

/// The last batch of `small_log` and the one before it: where they are, in sectors of segment 2.
fn last_two_batches(fs: &SimFs) -> (usize, usize, usize) {
    let file = fs.open(&log_path(2)).unwrap();
    let mut starts = vec![1];
    let mut sector = [0; 512];
    for number in 1.. {
        file.read_at(&mut sector, number as u64 * 512).unwrap();
        match format::read_sector(&sector, 2, number) {
            format::Sector::Current { remaining, .. } => {
                if remaining == 0 {
                    starts.push(number as usize + 1);
                }
            }
            _ => break,
        }
    }
    let [.., before, last, end] = starts[..] else {
        panic!("{starts:?}")
    };
    (before, last, end)
}

fn unwrite(fs: &SimFs, sector: usize) {
    let mut file = fs.open(&log_path(2)).unwrap();
    file.write_at(&[0; 512], sector as u64 * 512).unwrap();
    file.sync_data().unwrap();
}

#[test]
fn trap_3_31_a_hole_in_the_last_batch_is_torn_and_before_it_is_damage() {
    let (fs, models) = small_log();
    let (before, last, end) = last_two_batches(&fs);
    assert!(end - last >= 2 && last - before >= 4);
    for hole in before..end {
        let fs = fs.copy();
        unwrite(&fs, hole);
        match open(&fs) {
            Ok((_, recovered)) => {
                assert!(hole >= last, "sector {hole} was acknowledged");
                assert_eq!(Model::of(&recovered), models[models.len() - 2]);
                let torn = recovered.torn.unwrap();
                assert_eq!((torn.path, torn.offset), (log_path(2), last as u64 * 512));
                assert_eq!(torn.found_bytes as usize, (end - last - 1) * 512);
            }
            Err(OpenError::Damage(damage)) => {
                assert!(hole < last, "sector {hole} was not acknowledged");
                assert!(damage.offset >= before as u64 * 512);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn trap_3_31_a_torn_batch_never_comes_back() {
    let (fs, models) = small_log();
    let (_, last, end) = last_two_batches(&fs);
    unwrite(&fs, last);
    let (mut storage, recovered) = open(&fs).unwrap();
    assert!(recovered.torn.is_some());
    // A shorter batch goes where the torn one was; behind it nothing of that one may be left.
    storage.persist(&in_term(3, Vec::new())).unwrap();
    drop(storage);
    let mut sector = [1; 512];
    let file = fs.open(&log_path(2)).unwrap();
    file.read_at(&mut sector, (end as u64 - 1) * 512).unwrap();
    assert_eq!(sector, [0; 512]);
    for _ in 0..2 {
        fs.crash(7);
        let (_, recovered) = open(&fs).unwrap();
        assert_eq!(recovered.torn, None);
        assert_eq!(recovered.hard_state.term, Term(3));
        assert_eq!(recovered.entries, models[models.len() - 2].entries);
    }
}

#[test]
fn a_missing_segment_or_identity_is_damage() {
    for missing in [log_path(1), log_path(2), identity::path(Path::new("data"))] {
        let (fs, _) = small_log();
        fs.remove(&missing).unwrap();
        let Err(error @ OpenError::Damage(_)) = open(&fs) else {
            panic!("{} is not missed", missing.display());
        };
        let text = error.to_string();
        assert!(text.contains("missing"), "{text}");
        assert!(
            text.contains("RAFT ADD") && text.contains(&missing.display().to_string()),
            "{text}"
        );
    }
    let (fs, _) = small_log();
    fs.remove(&log_path(1)).unwrap();
    fs.remove(&log_path(2)).unwrap();
    assert!(
        matches!(open(&fs), Err(OpenError::Damage(_))),
        "an identity without a log"
    );
}

#[test]
fn a_segment_of_another_folder_is_refused() {
    let (fs, _) = small_log();
    let other = SimFs::new();
    Storage::open(other.clone(), &options(), 0xbeef).unwrap();
    let mut bytes = vec![0; SEGMENT_BYTES as usize];
    other.open(&log_path(1)).unwrap().read_at(&mut bytes, 0).unwrap();
    fs.open(&log_path(1)).unwrap().write_at(&bytes, 0).unwrap();
    let Err(OpenError::Damage(damage)) = open(&fs) else {
        panic!("accepted");
    };
    assert!(damage.found.contains("another data folder"), "{damage}");
}

#[test]
fn trap_3_29_after_a_failed_write_or_sync_nothing_more_is_accepted() {
    for fail in [SimFs::write_fails_at, SimFs::sync_fails_at] {
        let fs = SimFs::new();
        let (mut storage, _) = open(&fs).unwrap();
        storage.persist(&in_term(1, vec![entry(1, 1, 10)])).unwrap();
        fail(&fs, 1);
        let lost = in_term(1, vec![entry(2, 1, 3000)]);
        assert!(matches!(storage.persist(&lost), Err(PersistError::Disk(_))));
        assert!(matches!(storage.persist(&lost), Err(PersistError::Poisoned(_))));
        assert!(matches!(
            storage.set_cluster_id([1; 16]),
            Err(PersistError::Poisoned(_))
        ));
        drop(storage);
        // The system lives on, with pages in memory that the disk does not have.
        fs.kill_process();
        let (_, recovered) = open(&fs).unwrap();
        assert!(recovered.entries.len() <= 2);
        let read = Model::of(&recovered);
        drop(recovered);
        fs.crash(3);
        let (_, recovered) = open(&fs).unwrap();
        assert_eq!(Model::of(&recovered), read, "what a start reads is durable");
    }
}

#[test]
fn trap_3_13_what_a_start_reads_was_made_durable_first() {
    for seed in 0..20 {
        let fs = SimFs::new();
        let (mut storage, _) = open(&fs).unwrap();
        // Killed between the write and the end of the sync.
        fs.power_fails_at(2);
        assert!(storage.persist(&in_term(1, vec![entry(1, 1, 3000)])).is_err());
        fs.kill_process();
        let (_, recovered) = open(&fs).unwrap();
        assert_eq!(recovered.entries.len(), 1);
        fs.crash(seed);
        assert_eq!(open(&fs).unwrap().1.entries.len(), 1);
    }
}

#[test]
fn trap_3_33_the_term_is_durable_before_an_entry_of_it() {
    let (fs, _) = small_log();
    let (mut storage, _) = open(&fs).unwrap();
    let too_early = Batch {
        entries: vec![entry(6, 5, 10)],
        ..Batch::default()
    };
    assert!(matches!(
        storage.persist(&too_early),
        Err(PersistError::Refused(_))
    ));
    storage.persist(&in_term(5, too_early.entries)).unwrap();
    // Neither terms nor votes go back, nor does the log have holes.
    let vote = |term, id| Batch {
        hard_state: Some(HardState {
            term: Term(term),
            vote: Some(NodeId(id)),
        }),
        ..Batch::default()
    };
    storage.persist(&vote(5, 1)).unwrap();
    for wrong in [
        vote(5, 2),
        vote(4, 1),
        in_term(6, vec![entry(8, 6, 1)]),
        in_term(6, vec![entry(0, 6, 1)]),
        in_term(6, vec![entry(7, 4, 1)]),
        in_term(6, vec![entry(6, 6, 1), entry(6, 6, 1)]),
        in_term(6, vec![entry(7, 6, 1), entry(8, 5, 1)]),
    ] {
        assert!(
            matches!(storage.persist(&wrong), Err(PersistError::Refused(_))),
            "{wrong:?}"
        );
    }
    drop(storage);
    let (_, recovered) = open(&fs).unwrap();
    assert_eq!(recovered.hard_state.vote, Some(NodeId(1)));
    assert_eq!(recovered.entries.len(), 6);
}

#[test]
fn trap_3_34_a_full_disk_stops_no_append_while_a_spare_is_ready() {
    let fs = SimFs::new();
    let (mut storage, _) = open(&fs).unwrap();
    let preparer = storage.take_preparer().unwrap();
    preparer.prepare().unwrap();
    fs.set_free_space_bytes(Some(1000));
    assert_eq!(storage.free_space_bytes().unwrap(), 1000);
    let mut index = 0;
    let error = loop {
        index += 1;
        if let Err(error) = storage.persist(&in_term(1, vec![entry(index, 1, 1000)])) {
            break error;
        }
    };
    assert!(matches!(error, PersistError::Disk(_)));
    assert!(index > 8, "two segments were used: {index}");
    drop(storage);
    fs.crash(1);
    fs.set_free_space_bytes(None);
    assert_eq!(open(&fs).unwrap().1.entries.len() as u64, index - 1);
}

#[test]
fn the_folder_knows_its_node_and_its_cluster() {
    let fs = SimFs::new();
    let (mut storage, recovered) = open(&fs).unwrap();
    assert_eq!(
        (recovered.identity.incarnation, recovered.identity.cluster_id),
        (0xfeed, None)
    );
    storage.set_cluster_id([7; 16]).unwrap();
    storage.set_cluster_id([7; 16]).unwrap();
    assert!(matches!(
        storage.set_cluster_id([8; 16]),
        Err(PersistError::Refused(_))
    ));
    drop(storage);
    fs.crash(1);
    let (_, recovered) = Storage::open(fs.clone(), &options(), 1).unwrap();
    assert_eq!(recovered.identity.cluster_id, Some([7; 16]));
    assert_eq!(recovered.identity.incarnation, 0xfeed);
    let other = Options {
        node_id: NodeId(4),
        ..options()
    };
    let error = Storage::open(fs.clone(), &other, 1).unwrap_err().to_string();
    assert!(error.contains("node 3") && error.contains("node 4"), "{error}");
    let unsafe_options = Options {
        fsync: false,
        ..options()
    };
    for options in [unsafe_options, options()] {
        let (_, recovered) = Storage::open(fs.clone(), &options, 1).unwrap();
        assert!(
            recovered.identity.fsync_was_off,
            "trap 3.32: the folder is marked for ever"
        );
    }
}

#[test]
fn the_real_disk_large_batches_the_lock_and_a_second_start() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        dir: dir.path().join("data"),
        segment_size_bytes: 1 << 20,
        ..options()
    };
    let (mut storage, _) = Storage::open(RealFs, &options, 1).unwrap();
    let locked = Storage::open(RealFs, &options, 1).unwrap_err();
    assert!(matches!(locked, OpenError::Locked { .. }), "{locked}");
    let preparer = storage.take_preparer().unwrap();
    let thread = std::thread::spawn(move || preparer.run());
    let mut model = Model::default();
    for index in 1..=6 {
        // Larger than a segment, and smaller.
        let size = if index == 3 { 4 << 20 } else { 300_000 };
        let batch = in_term(1, vec![entry(index, 1, size)]);
        storage.persist(&batch).unwrap();
        model = model.after(&batch);
    }
    drop(storage);
    thread.join().unwrap().unwrap();
    let (_, recovered) = Storage::open(RealFs, &options, 2).unwrap();
    assert_eq!(Model::of(&recovered), model);
    assert_eq!(recovered.torn, None);
}
