//! What the paper says in a sentence, and what follows from it; each with its section.

use super::super::types::{Index, NodeId};
use super::world::{HEARTBEAT_INTERVAL_MS, World};

/// Raft 5.3: "the leader keeps track of the highest index it knows to be committed, and it includes that index in
/// future AppendEntries RPCs (including heartbeats) so that the other servers eventually find out". Also those
/// that have restarted, or asked for votes in vain, while nothing new is written.
#[test]
fn an_idle_leader_s_heartbeats_tell_what_is_committed() {
    let mut world = World::with_leader(3);
    world.crash(2);
    world.restart(2);
    assert_eq!(world.commit_index(2), 0);
    world.connect(1, 2);
    world.pass(HEARTBEAT_INTERVAL_MS);
    assert_eq!(world.commit_index(2), 1);

    world.cut(1, 3);
    world.propose(1, "x").unwrap();
    world.settle();
    world.heal();
    world.pass(2000);
    assert_eq!((world.commit_index(1), world.commit_index(3)), (2, 2));
    world.propose(1, "y").unwrap();
    world.settle();
    world.campaign(3);
    world.network.clear();
    world.pass(HEARTBEAT_INTERVAL_MS);
    assert!(world.raft(1).is_leader());
    assert_eq!(world.commit_index(3), 3);
}

/// Raft 5.3: "after a rejection, the leader decrements nextIndex and retries [...] Eventually nextIndex will reach a
/// point where the leader and follower logs match". Also where an answer takes longer than a heartbeat interval, so
/// that the same question is under way several times.
#[test]
fn logs_come_to_agree_also_where_answers_are_slow() {
    let mut world = World::new(3, 0);
    world.preset(1, &[1, 1, 4, 4, 5]);
    world.preset(2, &[1, 1, 4, 4, 5]);
    world.preset(3, &[1, 1, 2, 2, 3, 3, 3]);
    world.cut(1, 3);
    world.campaign(1);
    world.settle();
    assert!(world.raft(1).is_leader());
    world.heal();
    for _ in 0..30 {
        let under_way = std::mem::take(&mut world.network);
        world.tick(HEARTBEAT_INTERVAL_MS);
        for envelope in under_way {
            world.arrive(envelope);
        }
    }
    assert_eq!(world.terms(3), [1, 1, 4, 4, 5, 6]);
}

/// Diss. 6.4: "the follower waits for its state machine to advance at least as far as the readIndex". The entries may
/// come after it, and then nothing else is waited for.
#[test]
fn a_read_index_counts_also_for_entries_that_come_after_it() {
    let mut world = World::with_leader(3);
    world.cut(1, 3);
    world.propose(1, "x").unwrap();
    world.settle();
    world.heal();
    world.read(3, 7);
    world.settle();
    assert_eq!(
        (world.reads.as_slice(), world.commit_index(3)),
        (&[(3, 7, Index(2))][..], 1)
    );
    world.with(1, |raft| raft.peer_connected(NodeId(3)));
    world.settle();
    assert_eq!(world.commit_index(3), 2, "without a heartbeat");
}
