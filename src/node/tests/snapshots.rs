//! Snapshots of whole nodes: taken, started from, sent and installed.

use std::path::Path;

use super::*;
use crate::storage::fs::Fs;

const LOG_BYTES: u64 = 40_000;

fn small_log(options: &mut Options) {
    options.snapshot_log_bytes = LOG_BYTES;
    options.request_timeout_ms = 100_000;
}

fn put(n: usize, length: usize) -> Command {
    let pairs = vec![(
        Bytes::from(format!("key {}", n % 100)),
        vec![n as u8; length].into(),
    )];
    Command::MultiSet { pairs }
}

impl World {
    /// So many writes of a kilobyte, by way of this node.
    fn fill(&mut self, id: u64, writes: usize) {
        for n in 0..writes {
            let mut inbox = self.write(id, put(n, 1000));
            self.settle();
            assert_eq!(answer(&mut inbox), Some(Reply::Ok), "write {n}");
        }
    }

    fn snapshot_index(&mut self, id: u64) -> u64 {
        self.machine(id).status().snapshot_index.0
    }

    /// Everybody has applied the same, and has the same state.
    fn assert_agreement(&mut self) {
        self.pass(2000);
        let all: Vec<_> = self
            .nodes
            .values()
            .map(|(machine, _)| machine.applied())
            .collect();
        assert!(all.iter().all(|applied| *applied == all[0]), "{all:?}");
    }
}

#[test]
fn a_snapshot_is_taken_when_asked_for() {
    let (mut world, leader) = World::with_leader(3, small_log);
    let follower = 1 + leader % 3;
    world.fill(leader, 30);
    for id in [leader, follower] {
        let applied = world.machine(id).status().applied;
        assert_eq!(world.reply(id, Operation::Snapshot), Reply::Ok);
        let status = world.machine(id).status();
        assert_eq!(status.snapshot_index, applied);
        let kept = status.last_index.0 - status.first_index.0;
        assert!((5..12).contains(&kept), "a quarter of the bound stays: {kept}");
        let again = world.reply(id, Operation::Snapshot);
        assert_eq!(again, Reply::Ok, "there is one of what is applied");
    }
    assert_eq!(world.snapshot_index(1 + follower % 3), 0, "only where asked");
}

#[test]
fn the_log_stays_bounded_and_a_restart_reads_snapshot_and_log() {
    for n in [1, 3] {
        let (mut world, leader) = World::with_leader(n, small_log);
        world.fill(leader, 300);
        for id in 1..=n {
            let machine = world.machine(id);
            assert!(machine.raft().snapshot().last.index.0 > 200);
            assert!(
                machine.raft().log_bytes() < 60_000,
                "{}",
                machine.raft().log_bytes()
            );
        }
        let before = world.machine(leader).applied();
        world.restart(leader);
        assert!(world.snapshot_index(leader) > 200);
        assert_eq!(
            world.machine(leader).status().members.len(),
            n as usize,
            "also those that only the snapshot knows"
        );
        let leader = world.wait_for_leader();
        world.assert_agreement();
        assert!(world.machine(leader).applied() >= before);
        assert_eq!(
            world.reply(leader, get("key 7")),
            Reply::Value(vec![207; 1000].into())
        );
    }
}

#[test]
fn a_follower_far_behind_gets_the_snapshot_while_writes_go_on() {
    let (mut world, leader) = World::with_leader(3, small_log);
    let behind = 1 + leader % 3;
    world.fill(leader, 10);
    world.cut = vec![behind];
    // Several chunks of state.
    for n in 0..40 {
        let pairs = vec![(Bytes::from(format!("large {n}")), vec![n; 20_000].into())];
        world.write(leader, Command::MultiSet { pairs });
        world.settle();
    }
    world.fill(leader, 100);
    assert!(world.machine(leader).status().first_index > world.machine(behind).status().last_index);
    world.cut.clear();
    let mut read = world.ask(behind, get("large 7"));
    for _ in 0..20 {
        world.fill(leader, 1);
        world.pass(10);
    }
    assert_eq!(answer(&mut read), Some(Reply::Value(vec![7; 20_000].into())));
    assert!(world.nodes[&behind].1.chunks > 5, "in several chunks");
    world.assert_agreement();
    assert_eq!(
        world.nodes[&behind].1.cluster_id,
        world.nodes[&leader].1.cluster_id
    );
    let installed = world.snapshot_index(behind);
    world.restart(behind);
    assert!(world.snapshot_index(behind) >= installed, "durable");
    world.assert_agreement();
}

#[test]
fn a_write_that_a_snapshot_covers_is_of_unknown_fate() {
    let (mut world, leader) = World::with_leader(3, small_log);
    world.cut = vec![leader];
    let mut write = world.write(leader, set("k", "lost"));
    let second = world.wait_for_leader();
    world.fill(second, 100);
    world.cut.clear();
    world.pass(1000);
    assert_eq!(code(answer(&mut write)), Some(Code::UnknownResult));
    assert_eq!(world.reply(leader, get("k")), Reply::Nil);
    world.assert_agreement();
}

#[test]
fn trap_3_42_what_fails_is_said_and_tried_again() {
    let (mut world, leader) = World::with_leader(3, small_log);
    world.fill(leader, 30);
    let fs = world.nodes[&leader].1.disk.fs.clone();
    fs.set_free_space_bytes(Some(100));
    assert_eq!(
        code(Some(world.reply(leader, Operation::Snapshot))),
        Some(Code::Err)
    );
    assert_eq!(world.snapshot_index(leader), 0);
    let problems = world.machine(leader).status().problems;
    assert!(
        problems[0].starts_with("no snapshot can be written"),
        "{problems:?}"
    );
    fs.set_free_space_bytes(None);
    world.fill(leader, 20);
    assert_eq!(world.snapshot_index(leader), 0, "not again at once");
    world.pass(10_000);
    assert!(world.snapshot_index(leader) > 30);
    assert_eq!(world.machine(leader).status().problems, [""; 0]);
}

#[test]
fn who_waits_for_a_snapshot_is_answered_in_time() {
    let (mut world, leader) = World::with_leader(3, |options| {
        small_log(options);
        options.request_timeout_ms = 4000;
    });
    world.fill(leader, 10);
    world.nodes.get_mut(&leader).unwrap().1.holds_snapshots = true;
    let mut first = world.ask(leader, Operation::Snapshot);
    world.pass(3900);
    world.fill(leader, 1);
    let mut second = world.ask(leader, Operation::Snapshot);
    assert_eq!(answer(&mut first), None);
    world.pass(200);
    assert_eq!(code(answer(&mut first)), Some(Code::UnknownResult));
    world.nodes.get_mut(&leader).unwrap().1.holds_snapshots = false;
    world.settle();
    assert_eq!(answer(&mut second), Some(Reply::Ok), "one that has its write too");
    world.fill(leader, 1);
    world.nodes.get_mut(&leader).unwrap().1.holds_snapshots = true;
    let mut third = world.ask(leader, Operation::Snapshot);
    let (machine, effects) = world.nodes.get_mut(&leader).unwrap();
    machine.stop(effects);
    assert_eq!(code(answer(&mut third)), Some(Code::TryAgain));
}

/// The own snapshot is of an earlier state than the leader's that came meanwhile.
#[test]
fn trap_3_42_an_own_snapshot_and_the_leader_s_do_not_fight() {
    let (mut world, leader) = World::with_leader(3, small_log);
    let behind = 1 + leader % 3;
    world.fill(leader, 10);
    world.nodes.get_mut(&behind).unwrap().1.holds_snapshots = true;
    let mut own = world.ask(behind, Operation::Snapshot);
    world.settle();
    let held = std::mem::take(&mut world.nodes.get_mut(&behind).unwrap().1.snapshots);
    assert!(matches!(&held[..], [SnapshotEvent::Written { .. }]));
    world.nodes.get_mut(&behind).unwrap().1.holds_snapshots = false;
    world.cut = vec![behind];
    world.fill(leader, 100);
    world.cut.clear();
    world.pass(1000);
    let installed = world.snapshot_index(behind);
    assert!(installed > 50);
    assert_eq!(answer(&mut own), Some(Reply::Ok), "the leader's is as good");
    world.nodes.get_mut(&behind).unwrap().1.snapshots = held;
    world.settle();
    assert!(world.snapshot_index(behind) >= installed);
    world.fill(leader, 100);
    assert!(
        world.snapshot_index(behind) > installed,
        "and the next one is its own"
    );
    world.assert_agreement();
    world.restart(behind);
    world.assert_agreement();
}

#[test]
fn a_snapshot_that_is_lost_is_followed_by_another() {
    let (mut world, leader) = World::with_leader(3, small_log);
    let behind = 1 + leader % 3;
    world.cut = vec![behind];
    world.fill(leader, 100);
    let fs = world.nodes[&leader].1.disk.fs.clone();
    let dir = Path::new("data/snapshots");
    for name in fs.list(dir).unwrap() {
        assert!(fs.flip(&dir.join(name), 100, 1));
    }
    world.cut.clear();
    world.pass(2000);
    world.assert_agreement();
    world.restart(leader);
    world.assert_agreement();
}

/// What is wrong must not become what everybody starts from.
#[test]
fn a_node_whose_state_differs_takes_no_snapshot() {
    let (mut world, leader) = World::with_leader(3, small_log);
    let other = 1 + leader % 3;
    world.fill(leader, 10);
    let applied = world.machine(other).status().applied;
    world.machine(other).on_state_hash(NodeId(leader), applied, 1);
    world.fill(leader, 100);
    assert_eq!(world.snapshot_index(other), 0);
    assert_eq!(
        code(Some(world.reply(other, Operation::Snapshot))),
        Some(Code::ClusterDown)
    );
}
