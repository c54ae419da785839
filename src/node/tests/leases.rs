//! Leases and who may end them (trap 3.48).

use super::*;

fn on_lease(key: &'static str, id: u64) -> Operation {
    Operation::Write(Command::Set {
        key: Bytes::from_static(key.as_bytes()),
        value: Bytes::from_static(b"v"),
        condition: Condition::Always,
        expiry: SetExpiry::Lease(id),
        answer: SetAnswer::Status,
    })
}

fn grant(world: &mut World, node: u64, ttl_ms: u64) -> u64 {
    match world.reply(node, Operation::Write(Command::GrantLease { ttl_ms })) {
        Reply::Integer(id) => id as u64,
        other => panic!("no lease: {other:?}"),
    }
}

fn keep_alive(world: &mut World, node: u64, id: u64) -> Reply {
    world.reply(node, Operation::Write(Command::RenewLease { id }))
}

#[test]
fn keys_go_with_their_lease_unless_it_is_kept_alive() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    let other = 1 + leader % 3;
    let id = grant(&mut world, other, 500);
    for key in ["a", "b"] {
        assert_eq!(world.reply(other, on_lease(key, id)), Reply::Ok);
    }
    for _ in 0..5 {
        world.pass(300);
        assert_eq!(keep_alive(&mut world, other, id), Reply::Integer(500));
    }
    assert_eq!(world.reply(other, get("a")), value("v"));
    world.pass(700);
    assert_eq!(code(Some(keep_alive(&mut world, other, id))), Some(Code::Err));
    for node in 1..=3 {
        assert_eq!(world.machine(node).status().keys, 0, "node {node}");
    }
}

/// The leader is cut off, its clock and all others jump, it believes the lease to be due; so does the next leader, as
/// soon as it leads. Neither ends it before its whole life has passed with nobody to renew it.
#[test]
fn trap_3_48_a_new_leader_starts_leases_anew_and_the_old_one_ends_none() {
    let (mut world, old) = World::with_leader(3, |_| {});
    let id = grant(&mut world, old, 800);
    assert_eq!(world.reply(old, on_lease("k", id)), Reply::Ok);
    let last_before = world.machine(old).status().last_index;
    world.cut = vec![old];
    world.now.wall_ms += 10_000;
    world.pass(20);
    assert!(
        world.machine(old).status().last_index > last_before,
        "the old leader proposes to end the lease"
    );
    let new = world.wait_for_leader();
    world.pass(600);
    assert_eq!(world.reply(new, get("k")), value("v"), "started anew");
    assert_eq!(keep_alive(&mut world, new, id), Reply::Integer(800));
    world.cut.clear();
    world.pass(600);
    assert_eq!(world.reply(old, get("k")), value("v"), "the old one ends nothing");
    world.pass(600);
    for node in 1..=3 {
        assert_eq!(world.machine(node).status().keys, 0, "node {node}");
    }
}

/// The lease is not applied yet where the next leader is elected.
#[test]
fn a_lease_that_the_next_leader_learns_of_when_it_leads_starts_anew_too() {
    let (mut world, old) = World::with_leader(3, |_| {});
    let id = grant(&mut world, old, 800);
    assert_eq!(world.reply(old, on_lease("k", id)), Reply::Ok);
    for node in (1..=3).filter(|node| *node != old) {
        world.restart(node);
    }
    world.cut = vec![old];
    world.now.wall_ms += 10_000;
    let new = world.wait_for_leader();
    world.pass(600);
    assert_eq!(world.reply(new, get("k")), value("v"));
    world.pass(600);
    assert_eq!(world.reply(new, get("k")), Reply::Nil);
}
