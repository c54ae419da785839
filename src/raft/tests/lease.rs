//! Lease reads and the disk that stalls: what rests on clocks.

use super::super::{Index, Message, NodeId};
use super::world::{ELECTION_TIMEOUT_MS, HEARTBEAT_INTERVAL_MS, World};

/// How long a lease of these servers lasts: a fifth less than the promise.
const LEASE_MS: u64 = ELECTION_TIMEOUT_MS * 8 / 10;

/// A cluster whose servers promise, and whose server 1 leads.
fn with_leases(n: u64) -> World {
    let mut world = World::new(n, 0);
    world.promises_lease = true;
    for id in 1..=n {
        world.crash(id);
        world.restart(id);
    }
    world.tick(ELECTION_TIMEOUT_MS);
    world.campaign(1);
    world.settle();
    world.pass(2 * HEARTBEAT_INTERVAL_MS);
    assert!(world.raft(1).is_leader());
    world
}

#[test]
fn a_leader_reads_by_its_lease_and_nobody_else_does() {
    let mut world = with_leases(3);
    assert_eq!(world.raft(1).lease_read(), Some(Index(1)));
    assert_eq!(world.raft(2).lease_read(), None);
    world.propose(1, "x").unwrap();
    world.settle();
    assert_eq!(world.raft(1).lease_read(), Some(Index(2)));
    assert_eq!(
        World::with_leader(3).raft(1).lease_read(),
        None,
        "nobody has promised"
    );
}

#[test]
fn trap_3_12_a_lease_ends_before_the_promise_and_runs_from_the_sending() {
    let mut world = with_leases(3);
    // Heartbeats go out and are answered late: what counts is when they were sent.
    world.tick_one(1, HEARTBEAT_INTERVAL_MS);
    while world.network.iter().any(|envelope| envelope.from == NodeId(1)) {
        world.deliver(0);
    }
    let answers = std::mem::take(&mut world.network);
    world.tick_one(1, LEASE_MS / 2);
    world.network.clear();
    for answer in answers {
        world.arrive(answer);
    }
    world.isolate(1);
    world.tick_one(1, LEASE_MS / 2 - 1);
    assert!(world.with(1, |raft| raft.lease_read()).is_some());
    world.tick_one(1, 1);
    assert_eq!(world.with(1, |raft| raft.lease_read()), None);
}

/// The leader's clock is the slowest that is allowed for, and it hears nothing of the others.
#[test]
fn trap_3_12_no_other_leads_while_a_slow_leader_holds_its_lease() {
    for seed in 0..20 {
        let mut world = with_leases(5);
        world.tick(seed * 7);
        world.settle();
        world.isolate(1);
        for ms in 0..4 * ELECTION_TIMEOUT_MS {
            for id in 2..=5 {
                world.tick_one(id, 1);
            }
            if ms % 5 != 0 {
                world.tick_one(1, 1);
            }
            world.settle();
            let other = (2..=5).any(|id| world.raft(id).is_leader());
            let lease = world.with(1, |raft| raft.lease_read());
            assert!(!other || lease.is_none(), "after {ms} ms");
        }
        assert!(
            (2..=5).any(|id| world.raft(id).is_leader()),
            "the others never elect"
        );
    }
}

/// A greater term does not free a voter from its word, nor does the end of a connection.
#[test]
fn a_promise_outlives_the_term_it_was_made_in() {
    let mut world = with_leases(3);
    world.closed(2, 1);
    world.isolate(3);
    world.tick_one(3, 3 * ELECTION_TIMEOUT_MS);
    world.heal();
    world.cut(3, 1);
    world.cut(1, 3);
    // Server 3 asks for votes of a later term without a pre-vote, and server 2 learns of the term first.
    let vote = super::super::RequestVote {
        round: 77,
        last_log: world.raft(3).log().last(),
        leadership_transfer: false,
    };
    let later = world.raft(2).term().next().next();
    for message in [
        Message::RequestVoteResponse(super::super::VoteResponse {
            round: 1,
            vote_granted: false,
        }),
        Message::RequestVote(vote),
    ] {
        world.arrive(super::super::Envelope {
            from: NodeId(3),
            to: NodeId(2),
            term: later,
            request_id: 0,
            message,
        });
    }
    assert!(world.raft(1).lease_read().is_some());
    assert_eq!(
        world
            .raft(2)
            .status()
            .hard_state
            .vote
            .filter(|vote| *vote == NodeId(3)),
        None
    );
}

#[test]
fn trap_3_4_a_voter_that_starts_again_withholds_its_vote() {
    let mut world = with_leases(3);
    world.isolate(1);
    world.crash(2);
    world.restart(2);
    // Server 3 campaigns as soon as it may; server 2 still owes server 1 what it promised before it started.
    world.tick_one(3, 2 * ELECTION_TIMEOUT_MS);
    world.settle();
    assert!(world.raft(1).lease_read().is_some() && !world.raft(3).is_leader());
    for id in [2, 3] {
        world.tick_one(id, ELECTION_TIMEOUT_MS);
    }
    world.tick_one(1, ELECTION_TIMEOUT_MS);
    for _ in 0..3 * ELECTION_TIMEOUT_MS {
        world.tick_one(2, 1);
        world.tick_one(3, 1);
        world.settle();
    }
    assert!(world.raft(2).is_leader() || world.raft(3).is_leader());
}

/// The voter's next process may be configured otherwise: no answer of it counts before one has promised.
#[test]
fn a_promise_of_the_process_before_extends_no_lease() {
    let mut world = with_leases(3);
    world.isolate(3);
    world.promises_lease = false;
    world.crash(2);
    world.restart(2);
    world.connect(1, 2);
    world.network.clear();
    world.tick_one(1, LEASE_MS);
    world.propose(1, "x").unwrap();
    world
        .network
        .retain(|envelope| envelope.message.name() != "Heartbeat");
    world.settle();
    assert_eq!(world.commit_index(1), 2, "server 2 has answered");
    assert_eq!(world.with(1, |raft| raft.lease_read()), None);
}

#[test]
fn trap_3_9_a_transfer_ends_the_lease_for_the_term() {
    let mut world = with_leases(3);
    world.with(1, |raft| raft.transfer(Some(NodeId(2)))).unwrap();
    assert_eq!(world.raft(1).lease_read(), None);
    // TimeoutNow is lost, or comes very late: the leader goes on, and has no lease that it could break.
    world.network.clear();
    world.pass(2 * ELECTION_TIMEOUT_MS);
    assert!(world.raft(1).is_leader() && !world.raft(1).is_transferring());
    assert_eq!(world.raft(1).lease_read(), None);
    world.read(1, 1);
    world.settle();
    assert_eq!(world.reads.len(), 1, "a quorum still confirms reads");
}

#[test]
fn trap_3_28_a_leader_whose_disk_hangs_hands_over() {
    for n in [3, 5] {
        let mut world = World::with_leader(n);
        world.server(1).disk.is_held = true;
        world.propose(1, "x").unwrap();
        world.pass(1900);
        assert!(world.raft(1).is_leader(), "slow is not stalled");
        assert_eq!(world.commit_index(1), 2, "the others have it on their disks");
        world.pass(300);
        assert!(!world.raft(1).is_leader());
        let leader = world.leader().unwrap();
        assert_ne!(leader, 1);
        world.propose(leader, "y").unwrap();
        world.pass(HEARTBEAT_INTERVAL_MS);
        assert_eq!(world.commit_index(leader), 4);
    }
}

#[test]
fn trap_3_28_a_server_with_a_stalled_disk_is_no_candidate_and_no_voter() {
    let mut world = World::with_leader(3);
    world.server(2).disk.is_held = true;
    world.propose(1, "x").unwrap();
    world.pass(2100);
    assert!(world.raft(2).is_disk_stalled());
    world.with(1, |raft| raft.transfer(Some(NodeId(2)))).unwrap();
    world.pass(2 * ELECTION_TIMEOUT_MS);
    assert!(world.raft(1).is_leader(), "the target can't take over");
    world.crash(1);
    world.pass(5 * ELECTION_TIMEOUT_MS);
    assert_eq!(world.raft(2).term(), world.raft(3).term());
    assert!(!world.raft(2).is_leader() && !world.raft(3).is_leader());
    world.release_disk(2);
    world.pass(4 * ELECTION_TIMEOUT_MS);
    assert!(world.raft(2).is_leader() || world.raft(3).is_leader());
}
