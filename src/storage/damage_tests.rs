//! Damage, and what a node does about it where it is not alone: its log is set aside, and however often it crashes
//! meanwhile, it knows that it has forgotten something (trap 3.31).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::crash_tests::{SEGMENT_BYTES, entry, in_term, log_path, open, options};
use super::fs::{File, Fs, SimFs};
use super::snapshot_tests::{
    Model, check_content, id, indexes, log_of_30, run, segments, snapshot_path, take, write,
};
use super::*;
use crate::base::rng::Rng;
use crate::raft::{Payload, Term};

const ASIDE: &str = "data/damaged";

type Opened = Result<(Storage<SimFs>, Recovered<SimFs>), OpenError>;

/// Opens a folder in a cluster with other voters.
fn open_with_others(fs: &SimFs) -> Opened {
    Storage::open_or_set_aside(fs.clone(), &options(), 0xbeef, |_| true)
}

fn vote(term: u64, vote: Option<u64>) -> HardState {
    HardState {
        term: Term(term),
        vote: vote.map(NodeId),
    }
}

fn voted(term: u64, id: u64, entries: Vec<Entry>) -> Batch {
    Batch {
        hard_state: Some(vote(term, Some(id))),
        entries,
        ..Batch::default()
    }
}

/// The files of a folder and what is in them, but for spares and unfinished ones.
fn files(fs: &SimFs, dir: &str) -> BTreeMap<String, Vec<u8>> {
    let dir = Path::new(dir);
    let names = fs.list(dir).unwrap_or_default();
    let data = names
        .into_iter()
        .filter(|name| name.ends_with(".log") || name.ends_with(".snapshot"));
    data.map(|name| {
        let file = fs.open(&dir.join(&name)).unwrap();
        let mut bytes = vec![0; file.size_bytes().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        (name, bytes)
    })
    .collect()
}

fn log_and_snapshots(fs: &SimFs) -> BTreeMap<String, Vec<u8>> {
    let mut all = files(fs, "data/log");
    all.extend(files(fs, "data/snapshots"));
    all
}

/// 30 entries and a snapshot in a folder that knows its cluster, the log damaged in its middle; where.
fn damaged() -> (SimFs, PathBuf, usize) {
    let fs = SimFs::new();
    let mut storage = log_of_30(&fs);
    take(&mut storage, id(4, 1));
    storage.set_cluster_id([7; 16]).unwrap();
    storage.persist(&voted(2, 1, vec![entry(31, 2, 9)])).unwrap();
    drop(storage);
    let (path, offset) = (log_path(3), 1500);
    assert!(fs.flip(&path, offset, 4));
    (fs, path, offset)
}

#[test]
fn trap_3_31_damage_in_the_middle_of_the_log_is_named_and_nothing_is_changed() {
    let (fs, path, offset) = damaged();
    let before = log_and_snapshots(&fs);
    for others in [false, true] {
        let opened = Storage::open_or_set_aside(fs.copy(), &options(), 1, |_| others);
        let damage = match opened {
            Err(OpenError::Damage(damage)) => damage,
            Ok((_, recovered)) => recovered.set_aside.unwrap(),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(damage.path, path);
        assert!(damage.offset / 512 <= offset as u64 / 512, "{damage}");
    }
    assert!(matches!(open(&fs), Err(OpenError::Damage(_))));
    assert_eq!(log_and_snapshots(&fs), before);
    assert!(
        fs.list(Path::new("data"))
            .unwrap()
            .iter()
            .all(|name| name != "damaged")
    );
}

#[test]
fn trap_3_31_a_damaged_log_is_set_aside_and_the_node_recovers() {
    let (fs, ..) = damaged();
    let before = log_and_snapshots(&fs);
    let (mut storage, recovered) = open_with_others(&fs).unwrap();
    assert!(recovered.recovering && recovered.set_aside.is_some());
    assert!(recovered.snapshot.is_none() && recovered.entries.is_empty());
    assert_eq!(recovered.hard_state, vote(2, Some(1)));
    let identity = &recovered.identity;
    assert_eq!(
        (identity.incarnation, identity.cluster_id),
        (0xfeed, Some([7; 16]))
    );
    assert_eq!(files(&fs, ASIDE), before);
    assert_eq!(segments(&fs), [1]);
    // What it fetches from now on it keeps, and it goes on recovering, until it is told.
    storage
        .persist(&in_term(3, vec![entry(1, 1, 900), entry(2, 1, 10)]))
        .unwrap();
    drop(storage);
    fs.crash(1);
    let (mut storage, recovered) = open(&fs).unwrap();
    assert!(recovered.recovering && recovered.set_aside.is_none());
    assert_eq!(
        (indexes(&recovered), recovered.hard_state.term),
        (vec![1, 2], Term(3))
    );
    storage.clear_recovering().unwrap();
    drop(storage);
    fs.crash(2);
    let (_, recovered) = open(&fs).unwrap();
    assert!(!recovered.recovering);
    assert_eq!(recovered.identity.known, HardState::default());
    assert_eq!(
        (indexes(&recovered), recovered.hard_state.term),
        (vec![1, 2], Term(3))
    );
    assert_eq!(files(&fs, ASIDE), before, "for whoever wants to learn from it");
}

#[test]
fn trap_3_31_a_damaged_snapshot_without_which_entries_are_missing_is_set_aside() {
    let fs = SimFs::new();
    let mut storage = log_of_30(&fs);
    take(&mut storage, id(23, 1));
    storage.drop_head(id(23, 1)).unwrap().remove().unwrap();
    drop(storage);
    assert!(fs.flip(&snapshot_path(id(23, 1)), 60, 1));
    let (_, recovered) = open_with_others(&fs).unwrap();
    assert_eq!(recovered.set_aside.unwrap().path, snapshot_path(id(23, 1)));
    assert!(recovered.recovering && recovered.snapshot.is_none());
    // The vote of term 1 is not in what can be read: it counts as given.
    assert_eq!(recovered.hard_state, vote(1, Some(3)));
    // A damaged one that nothing depends on costs nothing.
    let fs = SimFs::new();
    let mut storage = log_of_30(&fs);
    take(&mut storage, id(4, 1));
    take(&mut storage, id(23, 1));
    drop(storage);
    assert!(fs.flip(&snapshot_path(id(23, 1)), 60, 1));
    let (_, mut recovered) = open_with_others(&fs).unwrap();
    assert!(!recovered.recovering && recovered.damaged_snapshots.len() == 1);
    assert_eq!(check_content(recovered.snapshot.as_mut().unwrap()), id(4, 1));
    assert!(indexes(&recovered).into_iter().eq(5..=30));
}

/// One bit anywhere: the node starts with all it acknowledged, or knows that it did not.
#[test]
fn trap_3_31_no_flipped_bit_makes_a_node_forget_unknowingly() {
    let fs = SimFs::new();
    let mut storage = log_of_30(&fs);
    take(&mut storage, id(12, 1));
    take(&mut storage, id(20, 1));
    storage.drop_head(id(13, 1)).unwrap().remove().unwrap();
    drop(storage);
    let (mut recovering, mut whole) = (0, 0);
    for seed in 0..300 {
        let fs = fs.copy();
        let data = |path: &Path| !path.ends_with("raftline.identity");
        let (path, offset) = fs.flip_bit(&mut Rng::new(seed), data).unwrap();
        let (_, recovered) = open_with_others(&fs).unwrap();
        if recovered.recovering {
            assert!(recovered.entries.is_empty() && recovered.hard_state.term == Term(1));
            recovering += 1;
        } else {
            let first = recovered.entries.first().unwrap().id.index.0;
            assert!(first == 13 || first == 21, "{} byte {offset}", path.display());
            assert_eq!(recovered.entries.last().unwrap().id, id(30, 1));
            whole += 1;
        }
    }
    assert!(recovering > 50 && whole > 10, "{recovering} {whole}");
}

#[test]
fn others_are_looked_for_in_what_can_still_be_read() {
    let of = |ids: &[u64]| Membership {
        voters: ids.iter().map(|id| NodeId(*id)).collect(),
        ..Membership::default()
    };
    let membership = |index, ids: &[u64]| Entry {
        id: id(index, 1),
        payload: of(ids).into(),
    };
    let fs = SimFs::new();
    let (mut storage, _) = open(&fs).unwrap();
    for entry in [
        membership(1, &[3]),
        membership(2, &[1, 3]),
        membership(3, &[1, 2, 3]),
        entry(3, 1, 9),
        entry(4, 1, 9),
    ] {
        storage.persist(&in_term(1, vec![entry])).unwrap();
    }
    drop(storage);
    for (sector, expected) in [
        (5, Some(of(&[1, 3]))),
        (4, Some(of(&[1, 2, 3]))),
        (2, Some(of(&[3]))),
    ] {
        let fs = fs.copy();
        fs.flip(&log_path(1), sector * 512, 1);
        let mut asked = None;
        let opened = Storage::open_or_set_aside(fs.clone(), &options(), 1, |found| {
            asked = Some(found.cloned());
            false
        });
        assert!(matches!(opened, Err(OpenError::Damage(_))));
        assert_eq!(asked, Some(expected), "damage in sector {sector}");
    }
}

#[test]
fn trap_3_31_the_highest_term_that_can_be_read_is_kept() {
    let fs = SimFs::new();
    let (mut storage, _) = open(&fs).unwrap();
    // Batches of one sector and of some, in terms of their own.
    for term in 1..=20 {
        let size = [10, 30, 1200][term as usize % 3];
        storage
            .persist(&voted(term, 1 + term % 2, vec![entry(term, term, size)]))
            .unwrap();
    }
    let last = segments(&fs).into_iter().max().unwrap();
    drop(storage);
    let mut cut_off = 0;
    for segment in 1..=last {
        for sector in 1..SEGMENT_BYTES as usize / 512 {
            let fs = fs.copy();
            fs.flip(&log_path(segment), sector * 512 + 100, 1);
            let (_, recovered) = open_with_others(&fs).unwrap();
            if recovered.recovering && recovered.hard_state != vote(20, Some(1)) {
                assert_eq!(recovered.hard_state, vote(19, Some(2)), "{segment} {sector}");
                cut_off += 1;
            }
        }
    }
    assert_eq!(cut_off, 3, "the sectors of the last batch");
}

#[test]
fn trap_3_31_a_value_that_looks_like_a_batch_is_not_read_as_one() {
    // Where the second sector of the batch begins, the value says that a batch begins that has term 999.
    let mut fake = bytes::BytesMut::new();
    format::begin_batch(&mut fake);
    format::put_hard_state(&vote(999, Some(1)), &mut fake);
    format::finish_batch(&mut fake);
    let copies = |shift: usize| {
        let mut value = vec![0; shift];
        for _ in 0..3 {
            let start = value.len();
            value.extend_from_slice(&fake);
            value.resize(start + 492, 0);
        }
        Entry {
            id: id(2, 1),
            payload: Payload::Command(Bytes::from(value)),
        }
    };
    let mut hit = 0;
    for shift in 440..492 {
        let fs = SimFs::new();
        let (mut storage, _) = open(&fs).unwrap();
        storage.persist(&in_term(1, vec![entry(1, 1, 9)])).unwrap();
        storage.persist(&in_term(1, vec![copies(shift)])).unwrap();
        storage.persist(&in_term(2, vec![entry(3, 2, 9)])).unwrap();
        drop(storage);
        let mut bytes = [0; 13];
        fs.open(&log_path(1))
            .unwrap()
            .read_at(&mut bytes, 3 * 512)
            .unwrap();
        hit += u32::from(bytes[..] == fake[..13]);
        fs.flip(&log_path(1), 2 * 512 + 5, 1);
        let (_, recovered) = open_with_others(&fs).unwrap();
        assert_eq!(recovered.hard_state, vote(2, Some(3)), "shift {shift}");
    }
    assert_eq!(hit, 1, "one of the shifts puts it where a sector begins");
}

#[test]
fn trap_3_31_a_crash_while_a_damaged_log_is_set_aside_leaves_a_node_that_knows() {
    let (fs, ..) = damaged();
    let before = log_and_snapshots(&fs);
    let whole = fs.copy();
    let start = whole.operations();
    open_with_others(&whole).unwrap();
    let operations = whole.operations() - start;
    assert!(operations > 20, "{operations}");
    for n in 1..=operations {
        for seed in 0..6 {
            let fs = fs.copy();
            fs.power_fails_at(n);
            assert!(open_with_others(&fs).is_err());
            for round in 1..4 {
                fs.crash(seed << 16 | n << 2 | round);
                fs.power_fails_at((n * round + seed) % 29 + 1);
                // Without a word about others: what was begun is finished, and nothing else is.
                match open(&fs) {
                    Ok((_, recovered)) => assert!(recovered.recovering && recovered.entries.is_empty()),
                    Err(OpenError::Disk(_)) => {}
                    Err(OpenError::Damage(_)) => assert_eq!(log_and_snapshots(&fs), before),
                    Err(error) => panic!("{error}"),
                }
            }
            fs.crash(seed);
            let (_, recovered) = open_with_others(&fs).unwrap();
            assert!(recovered.recovering && recovered.entries.is_empty());
            assert_eq!(recovered.hard_state, vote(2, Some(1)), "power fails at {n}");
            assert_eq!(recovered.identity.cluster_id, Some([7; 16]));
            assert_eq!(files(&fs, ASIDE), before, "power fails at {n}");
        }
    }
}

#[test]
fn a_rebuild_is_done_at_the_next_start_wherever_the_power_fails() {
    let fs = SimFs::new();
    let mut storage = log_of_30(&fs);
    take(&mut storage, id(4, 1));
    storage.persist(&in_term(2, vec![entry(31, 2, 9)])).unwrap();
    drop(storage);
    let before = log_and_snapshots(&fs);
    for n in 1..40 {
        for seed in 0..4 {
            let fs = fs.copy();
            let (mut storage, _) = open(&fs).unwrap();
            fs.power_fails_at(n);
            let marked = storage.mark_recovering().is_ok();
            // It ends only after this, and what it acknowledges meanwhile is in its term.
            let persisted = marked && storage.persist(&in_term(3, Vec::new())).is_ok();
            drop(storage);
            let _ = open(&fs);
            fs.crash(seed);
            let (_, recovered) = open(&fs).unwrap();
            assert!(recovered.recovering || !marked);
            if recovered.recovering {
                let term = recovered.hard_state.term;
                assert!(term == Term(3) || (term == Term(2) && !persisted));
                assert_eq!(recovered.hard_state.vote, None, "it is known that none was given");
                assert!(recovered.snapshot.is_none() && recovered.entries.is_empty());
                assert!(files(&fs, ASIDE).keys().eq(before.keys()));
            } else {
                assert_eq!(recovered.entries.len(), 27);
            }
        }
    }
}

#[test]
fn a_node_that_recovers_keeps_what_it_has_fetched_and_knows_it_wherever_the_power_fails() {
    let (fs, ..) = damaged();
    drop(open_with_others(&fs).unwrap());
    for seed in 0..2 {
        let whole = fs.copy();
        let (mut storage, mut recovered) = open(&whole).unwrap();
        let start = whole.operations();
        run(&mut storage, Model::of(&mut recovered), &mut Rng::new(seed), 40);
        for n in 1..=whole.operations() - start {
            let fs = fs.copy();
            let mut rng = Rng::new(seed);
            let (mut storage, mut recovered) = open(&fs).unwrap();
            fs.power_fails_at(n);
            let possible = run(&mut storage, Model::of(&mut recovered), &mut rng, 40);
            drop((storage, recovered));
            fs.crash(n);
            let (mut storage, mut recovered) = open(&fs).unwrap();
            assert!(recovered.recovering, "seed {seed}, power fails at {n}");
            let model = Model::of(&mut recovered);
            assert!(possible.contains(&model), "seed {seed}, power fails at {n}");
            drop(recovered);
            // Whole again, all of it or not yet.
            fs.power_fails_at(1 + n % 7);
            let cleared = storage.clear_recovering().is_ok();
            drop(storage);
            fs.crash(n);
            let (_, mut recovered) = open(&fs).unwrap();
            assert!(!cleared || !recovered.recovering);
            assert_eq!(Model::of(&mut recovered), model);
        }
    }
}

#[test]
fn damage_while_recovering_costs_what_was_fetched_and_not_what_was_set_aside() {
    let (fs, ..) = damaged();
    let before = log_and_snapshots(&fs);
    let (mut storage, _) = open_with_others(&fs).unwrap();
    let preparer = storage.take_preparer().unwrap();
    for index in 1..=12 {
        storage.persist(&in_term(5, vec![entry(index, 1, 2500)])).unwrap();
        preparer.prepare().unwrap();
    }
    take(&mut storage, id(10, 1));
    storage.drop_head(id(9, 1)).unwrap().remove().unwrap();
    drop(storage);
    let last = segments(&fs).pop().unwrap();
    fs.flip(&log_path(last), 513, 1);
    for n in 1..60 {
        let fs = fs.copy();
        fs.power_fails_at(n);
        let _ = open(&fs);
        fs.crash(n);
        let (mut storage, recovered) = open(&fs).unwrap();
        assert!(recovered.recovering);
        assert_eq!(recovered.hard_state.term, Term(5));
        assert_eq!(files(&fs, ASIDE), before);
        // No spare of the earlier log is taken for a part of this one.
        let first = recovered
            .snapshot
            .map_or(1, |snapshot| snapshot.header().last.index.0 + 1);
        for index in first..first + 20 {
            storage.persist(&in_term(6, vec![entry(index, 1, 2500)])).unwrap();
        }
        drop(storage);
        assert_eq!(open(&fs).unwrap().1.entries.len(), 20);
    }
}

#[test]
fn what_was_set_aside_earlier_is_replaced() {
    let (fs, ..) = damaged();
    let (mut storage, _) = open_with_others(&fs).unwrap();
    storage.persist(&in_term(4, vec![entry(1, 1, 900)])).unwrap();
    storage.clear_recovering().unwrap();
    drop(storage);
    fs.flip(&log_path(1), 513, 1);
    let before = log_and_snapshots(&fs);
    let (_, recovered) = open_with_others(&fs).unwrap();
    assert!(recovered.recovering);
    assert_eq!(files(&fs, ASIDE), before);
}

/// No start reads a spare, so one that went bad looks well for as long as it is one. Where it is a segment it cannot be
/// told any more from a segment that went bad.
#[test]
fn trap_3_31_a_spare_that_went_bad_is_damage_once_it_is_a_segment() {
    let fs = SimFs::new();
    let mut storage = log_of_30(&fs);
    take(&mut storage, id(23, 1));
    storage.drop_head(id(23, 1)).unwrap().remove().unwrap();
    drop(storage);
    let names = fs.list(Path::new("data/log")).unwrap();
    for name in names.iter().filter(|name| name.ends_with(".spare")) {
        assert!(fs.flip(&Path::new("data/log").join(name), 7000, 1));
    }
    let (mut storage, recovered) = open(&fs).unwrap();
    assert_eq!(recovered.entries.last().unwrap().id, id(30, 1));
    let before = segments(&fs);
    for index in 31.. {
        storage.persist(&in_term(1, vec![entry(index, 1, 900)])).unwrap();
        if segments(&fs) != before {
            break;
        }
    }
    drop(storage);
    let bad = log_path(*segments(&fs).last().unwrap());
    match open(&fs) {
        Err(OpenError::Damage(damage)) => assert_eq!((&damage.path, damage.offset), (&bad, 6656)),
        _ => panic!("the sector was not looked at"),
    }
    let (_, recovered) = open_with_others(&fs).unwrap();
    assert!(recovered.recovering);
    assert_eq!(recovered.set_aside.unwrap().path, bad);
}

#[test]
fn a_damaged_identity_is_never_set_aside() {
    let (fs, ..) = damaged();
    fs.flip(&identity::path(Path::new("data")), 60, 1);
    assert!(matches!(open_with_others(&fs), Err(OpenError::Damage(_))));
}

#[test]
fn a_batch_installs_the_snapshot_first() {
    for (last, kept) in [(id(20, 1), 10), (id(500, 3), 0)] {
        let fs = SimFs::new();
        let mut storage = log_of_30(&fs);
        let next = if kept > 0 { 31 } else { last.index.0 + 1 };
        let mut batch = voted(4, 2, vec![entry(next, 4, 10)]);
        batch.install = Some(last);
        assert!(
            matches!(storage.persist(&batch), Err(PersistError::Refused(_))),
            "no such file"
        );
        let _ = write(&storage, last).unwrap();
        storage.persist(&batch).unwrap();
        assert_eq!(storage.newest_snapshot(), Some(last));
        drop(storage);
        let (_, mut recovered) = open(&fs).unwrap();
        assert_eq!(check_content(recovered.snapshot.as_mut().unwrap()), last);
        assert_eq!(recovered.entries.len(), kept + 1);
        assert_eq!(recovered.hard_state, vote(4, Some(2)));
    }
}

#[test]
fn trap_3_42_a_snapshot_of_its_own_state_may_overtake_the_batch_that_installs() {
    let fs = SimFs::new();
    let mut storage = log_of_30(&fs);
    let _ = write(&storage, id(500, 1)).unwrap();
    take(&mut storage, id(503, 1));
    let mut batch = in_term(1, (501..=502).map(|index| entry(index, 1, 10)).collect());
    batch.install = Some(id(500, 1));
    storage.persist(&batch).unwrap();
    let early = fs.copy();
    let rest = (503..=505).map(|index| entry(index, 1, 10)).collect();
    storage.persist(&in_term(1, rest)).unwrap();
    let mut older = in_term(1, Vec::new());
    older.install = Some(id(40, 1));
    let _ = write(&storage, id(40, 1)).unwrap();
    assert!(matches!(storage.persist(&older), Err(PersistError::Refused(_))));
    drop(storage);
    assert_eq!(indexes(&open(&fs).unwrap().1), [504, 505]);
    let (_, recovered) = open(&early).unwrap();
    assert_eq!(recovered.snapshot.unwrap().header().last, id(503, 1));
    assert!(recovered.entries.is_empty());
}

#[test]
fn trap_3_34_a_snapshot_that_finds_no_room_leaves_nothing_and_the_log_goes_on() {
    let fs = SimFs::new();
    let mut storage = log_of_30(&fs);
    storage.take_preparer().unwrap().prepare().unwrap();
    let names = fs.list(Path::new("data/snapshots")).unwrap();
    let mut index = 31;
    let mut free = 0;
    loop {
        fs.set_free_space_bytes(Some(free));
        match write(&storage, id(25, 1)) {
            Ok(committed) => {
                storage.adopt_snapshot(committed);
                break;
            }
            Err(error) => assert!(error.is_full(), "{error}"),
        }
        assert_eq!(fs.list(Path::new("data/snapshots")).unwrap(), names);
        assert_eq!(
            fs.free_space_bytes(Path::new("data")).unwrap(),
            free,
            "given back"
        );
        if free % 100 == 0 {
            storage.persist(&in_term(1, vec![entry(index, 1, 10)])).unwrap();
            index += 1;
        }
        free += 10;
    }
    assert!(free > 200, "{free}");
    drop(storage);
    fs.crash(1);
    fs.set_free_space_bytes(None);
    let (_, mut recovered) = open(&fs).unwrap();
    assert_eq!(check_content(recovered.snapshot.as_mut().unwrap()), id(25, 1));
    assert!(indexes(&recovered).into_iter().eq(26..index));
}

#[test]
fn trap_3_34_spares_make_room_for_a_snapshot_on_a_full_disk() {
    let fs = SimFs::new();
    let mut storage = log_of_30(&fs);
    take(&mut storage, id(20, 1));
    storage.drop_head(id(20, 1)).unwrap().remove().unwrap();
    let spares = || {
        let names = fs.list(Path::new("data/log")).unwrap();
        names.iter().filter(|name| name.ends_with(".spare")).count()
    };
    assert!(spares() >= 3);
    fs.set_free_space_bytes(Some(0));
    assert!(write(&storage, id(30, 1)).unwrap_err().is_full());
    storage.release_spares().remove().unwrap();
    assert_eq!(spares(), 1, "the one that the log needs next");
    take(&mut storage, id(30, 1));
    storage.drop_head(id(30, 1)).unwrap().remove().unwrap();
    storage.release_spares().remove().unwrap();
    assert_eq!(spares(), 1);
    drop(storage);
    assert_eq!(open(&fs).unwrap().1.snapshot.unwrap().header().last, id(30, 1));
}
