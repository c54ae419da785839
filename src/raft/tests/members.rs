//! Changes of the membership, and servers that recover: by traps, and by the sentences of the dissertation.

use std::collections::BTreeSet;

use super::super::{
    Change, ChangeError, Envelope, Index, Membership, Message, NodeId, Payload, RequestVote, Term,
};
use super::operator::add;
use super::world::{ELECTION_TIMEOUT_MS, HEARTBEAT_INTERVAL_MS, World};

fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

/// The membership in force at a server.
fn members(world: &World, id: u64) -> Membership {
    world.raft(id).status().membership.clone()
}

/// A cluster of `n` led by server 1, whose data folders are bound.
fn bound(n: u64) -> World {
    let mut world = World::with_leader(n);
    world.finish_changes();
    assert_eq!(members(&world, 1).incarnations.len() as u64, n);
    world
}

fn why(result: Result<(), ChangeError>) -> String {
    match result {
        Err(ChangeError::Refused(why)) => why,
        other => panic!("not refused: {other:?}"),
    }
}

/// Names of servers to which this message is under way.
fn receivers(world: &World, name: &str) -> BTreeSet<NodeId> {
    let sent = world
        .network
        .iter()
        .filter(|envelope| envelope.message.name() == name);
    sent.map(|envelope| envelope.to).collect()
}

/// A leader changes nothing before an entry of its own term is committed, and one change at a time.
#[test]
fn trap_3_1_no_change_before_the_term_has_committed_and_one_at_a_time() {
    let mut world = bound(3);
    world.new_server(4, Membership::default());
    world.campaign(2);
    while !world.raft(2).is_leader() {
        let i = world
            .network
            .iter()
            .position(|envelope| envelope.message.name() != "AppendEntries");
        match i {
            Some(i) => world.deliver(i),
            None => world.campaign(2),
        }
        world.tick_one(3, ELECTION_TIMEOUT_MS);
    }
    assert_eq!(world.change(2, add(4)), Err(ChangeError::NotLeader));
    world.settle();
    world.isolate(3);
    assert_eq!(world.change(2, add(4)), Ok(()));
    assert_eq!(world.change(2, add(5)), Err(ChangeError::InProgress));
    assert_eq!(
        world.change(2, Change::Bind(NodeId(3), 9)),
        Err(ChangeError::InProgress)
    );
    world.settle();
    assert_eq!(world.change(2, Change::Remove(NodeId(4))), Ok(()));
    assert_eq!(world.change(1, add(5)), Err(ChangeError::NotLeader));
}

/// A membership is in force when it is appended and out of force when it is replaced, also at the leader that appended
/// it: its votes are then counted without it.
#[test]
fn trap_3_2_a_change_that_is_replaced_leaves_nothing() {
    let mut world = bound(3);
    world.isolate(1);
    world.change(1, Change::Remove(NodeId(3))).unwrap();
    assert_eq!(members(&world, 1).voters, ids(&[1, 2]));
    assert_eq!(members(&world, 1).outgoing, ids(&[1, 2, 3]));
    world.pass(4 * ELECTION_TIMEOUT_MS);
    let leader = world.leader().expect("a leader");
    assert_ne!(leader, 1);
    world.heal();
    world.pass(2 * ELECTION_TIMEOUT_MS);
    for id in 1..=3 {
        assert_eq!(
            (members(&world, id).voters, members(&world, id).is_joint()),
            (ids(&[1, 2, 3]), false)
        );
    }
    assert!(!world.raft(leader).is_changing());
}

/// The leader tells a server that it was removed, which then knows, asks nobody for votes and is sent nothing more. One
/// that does not answer is given up.
#[test]
fn trap_3_5_a_removed_server_is_told_and_then_left_alone() {
    for answers in [true, false] {
        let mut world = bound(4);
        if !answers {
            world.isolate(4);
        }
        world.change(1, Change::Remove(NodeId(4))).unwrap();
        world.finish_changes();
        assert_eq!(members(&world, 1).voters, ids(&[1, 2, 3]));
        if !answers {
            assert!(world.raft(1).status().followers.iter().any(|f| f.id == NodeId(4)));
        }
        world.pass(6 * ELECTION_TIMEOUT_MS);
        assert!(world.raft(1).status().followers.iter().all(|f| f.id != NodeId(4)));
        assert_eq!(world.raft(4).is_removed(), answers);
        assert!((1..=3).all(|id| !world.raft(id).is_removed()));
        if answers {
            let (term, clock) = (world.raft(4).term(), world.servers[&4].clock);
            for i in 0..20 {
                world.server(4).clock = clock.after(i * ELECTION_TIMEOUT_MS);
                world.with(4, |_| ());
                assert_eq!(world.network, [], "it has nothing to say");
            }
            assert_eq!(world.raft(4).term(), term);
        }
    }
}

/// In a joint configuration a candidate needs both majorities (Diss. 4.3), whichever the voters believe in.
#[test]
fn trap_3_5_the_entry_that_removes_a_server_reaches_it_when_it_is_committed() {
    let mut world = bound(4);
    world.change(1, Change::Remove(NodeId(4))).unwrap();
    while members(&world, 1).is_joint() {
        world.deliver(0);
    }
    world.isolate(2);
    world.isolate(3);
    world.settle();
    world.tick_one(1, HEARTBEAT_INTERVAL_MS);
    world.settle();
    assert!(
        members(&world, 4).is_joint(),
        "servers 2 and 3 may still need its vote"
    );
    world.heal();
    world.pass(ELECTION_TIMEOUT_MS);
    assert_eq!(members(&world, 4).voters, ids(&[1, 2, 3]));
    assert!(!members(&world, 4).is_joint());
}

#[test]
fn trap_3_8_votes_are_counted_by_both_configurations() {
    let mut world = bound(3);
    world.join(1, 4);
    world.finish_changes();
    assert_eq!(members(&world, 1).voters, ids(&[1, 2, 3, 4]));
    // Servers 1 and 2 have the joint configuration in which 1 leaves: {2, 3, 4} and {1, 2, 3, 4}.
    world.isolate(3);
    world.isolate(4);
    world.change(1, Change::Remove(NodeId(1))).unwrap();
    world.settle();
    assert!(members(&world, 2).is_joint());
    world.crash(1);
    world.heal();
    world.tick(2 * ELECTION_TIMEOUT_MS);
    world.network.clear();
    world.cut(2, 4);
    world.campaign(2);
    world.settle();
    assert!(
        !world.raft(2).is_leader(),
        "2 and 3 are a majority of the new voters, and not of the old ones"
    );
    world.heal();
    world.pass(4 * ELECTION_TIMEOUT_MS);
    let leader = world.leader().expect("2, 3 and 4 are a majority of both");
    assert_eq!(members(&world, leader).voters, ids(&[2, 3, 4]));
    assert!(!members(&world, leader).is_joint());
}

/// Which server of three has lost its log while the entry 'x' is on it and the leader only.
fn with_lost_log() -> World {
    let mut world = bound(3);
    world.isolate(2);
    world.propose(1, "x").unwrap();
    world.settle();
    world.damaged = Some(3);
    world.lose_log(3);
    world
}

/// As [`with_lost_log`], and server 3 is back and hears its leader, which hears nobody else.
fn recovering() -> World {
    let mut world = with_lost_log();
    world.heal();
    world.isolate(2);
    world.restart(3);
    world.tick(HEARTBEAT_INTERVAL_MS);
    world.settle();
    world
}

/// What was committed on the word of a server that has lost it must not be lost: it votes for nobody, is counted for
/// nothing, and is as good as any when it has fetched everything anew.
#[test]
fn trap_3_31_a_recovering_server_votes_for_nobody_and_then_recovers() {
    let mut world = with_lost_log();
    let last = world.raft(1).status().last_log.index;
    assert_eq!(world.commit_index(1), last.0);
    world.restart(3);
    assert!(world.raft(3).status().is_recovering);
    // With its vote server 2, which lacks 'x', would lead.
    world.isolate(1);
    world.cut.retain(|(a, b)| *a == 1 || *b == 1);
    world.pass(8 * ELECTION_TIMEOUT_MS);
    assert!(!world.raft(2).is_leader() && !world.raft(3).is_leader());
    world.heal();
    world.pass(6 * ELECTION_TIMEOUT_MS);
    assert_eq!(world.leader(), Some(1));
    assert!(!world.raft(3).status().is_recovering && !world.servers[&3].disk.recovering);
    assert!(world.raft(1).status().followers.iter().all(|f| !f.is_recovering));
    // From now on it counts, and votes.
    world.isolate(2);
    let entry = world.propose(1, "y").unwrap();
    world.settle();
    assert_eq!(world.commit_index(1), entry.index.0);
    world.heal();
    world.isolate(1);
    world.pass(6 * ELECTION_TIMEOUT_MS);
    assert_eq!(world.leader(), Some(3), "2 lacks 'y'");
}

/// A recovering server is no part of a quorum: nothing is committed with it, no read confirmed, and its leader steps
/// down, however fast it answers.
#[test]
fn trap_3_31_a_recovering_server_counts_for_nothing() {
    let mut world = recovering();
    let status = world.raft(1).status();
    let follower = status.followers.iter().find(|f| f.id == NodeId(3)).unwrap();
    assert!(follower.is_recovering);
    let commit_index = world.commit_index(1);
    let entry = world.propose(1, "y").unwrap();
    world.read(1, 1);
    world.settle();
    assert_eq!(
        world.terms(3).len() as u64,
        entry.index.0,
        "it is sent everything"
    );
    assert_eq!((world.commit_index(1), world.reads.len()), (commit_index, 0));
    assert!(world.raft(3).status().is_recovering);
    assert!(world.with(1, |raft| raft.transfer(Some(NodeId(3)))).is_err());
    world.pass(2 * ELECTION_TIMEOUT_MS);
    assert!(!world.raft(1).is_leader(), "no quorum answers");
}

/// A server may lose its log again while it recovers. What it has acknowledged meanwhile is forgotten too: the same
/// leader sends it everything once more, and does not take it for a holder of what is gone.
#[test]
fn trap_3_31_a_log_that_is_lost_twice_is_fetched_twice() {
    let mut world = recovering();
    let entry = world.propose(1, "y").unwrap();
    world.settle();
    assert_eq!(
        world.terms(3).len() as u64,
        entry.index.0,
        "it has fetched everything"
    );
    assert!(
        world.raft(3).status().is_recovering,
        "and nobody confirms that this is all"
    );
    world.lose_log(3);
    world.restart(3);
    world.connect(1, 3);
    world.settle();
    assert!(
        world.commit_index(1) < entry.index.0,
        "'y' was never on two servers that count"
    );
    world.heal();
    world.pass(6 * ELECTION_TIMEOUT_MS);
    assert_eq!(world.leader(), Some(1));
    assert!(!world.raft(3).status().is_recovering);
    assert_eq!(world.terms(3), world.terms(1));
}

/// An acknowledgement of the process before, still under way, is not believed once the server has asked what it has
/// to fetch: or it would be told too little.
#[test]
fn trap_3_31_late_acknowledgements_of_the_process_before_do_not_count() {
    let mut world = bound(3);
    world.isolate(2);
    let entry = world.propose(1, "x").unwrap();
    let sent: Vec<Envelope> = world.network.drain(..).collect();
    for envelope in sent {
        world.arrive(envelope);
    }
    let late: Vec<Envelope> = world.network.drain(..).collect();
    assert!(
        late.iter()
            .any(|envelope| envelope.message.name() == "AppendEntriesResponse")
    );
    world.damaged = Some(3);
    world.lose_log(3);
    world.restart(3);
    // The leader hears the question first, and then the acknowledgement.
    let question = Message::ReadIndex(super::super::ReadIndex {
        id: 1,
        recovering: true,
    });
    world.arrive(Envelope {
        from: NodeId(3),
        to: NodeId(1),
        term: world.raft(1).term(),
        request_id: 0,
        message: question,
    });
    for envelope in late {
        world.arrive(envelope);
    }
    assert!(world.commit_index(1) < entry.index.0, "'x' is on server 1 only");
}

/// A wiped member is another server with the same number: one command makes it a learner, what was known of its log is
/// forgotten, and it is a voter again when it has caught up.
#[test]
fn trap_3_37_a_wiped_member_begins_anew() {
    let mut world = bound(3);
    world.propose(1, "x").unwrap();
    world.settle();
    world.pass(HEARTBEAT_INTERVAL_MS);
    let late = Envelope {
        ..world
            .raft(3)
            .status()
            .leader
            .map(|_| ack_of_everything(&world))
            .unwrap()
    };
    world.damaged = Some(3);
    world.wipe(3);
    world.restart(3);
    assert!(why(world.change(1, add(3))).contains("already a member"));
    world.pass(ELECTION_TIMEOUT_MS);
    world.change(1, add(3)).unwrap();
    let joint = members(&world, 1);
    assert_eq!((joint.voters, joint.outgoing), (ids(&[1, 2]), ids(&[1, 2, 3])));
    assert_eq!(joint.learners, ids(&[3]));
    assert!(!joint.incarnations.contains_key(&NodeId(3)));
    world.arrive(late);
    let match_index = |world: &World| {
        let status = world.raft(1).status();
        status
            .followers
            .iter()
            .find(|f| f.id == NodeId(3))
            .unwrap()
            .match_index
    };
    assert_eq!(match_index(&world), Index(0), "that was another data folder's");
    // As long as its data folder is not bound it stays a learner, though it has caught up.
    world.pass(4 * ELECTION_TIMEOUT_MS);
    assert_eq!(match_index(&world), world.raft(1).status().last_log.index);
    assert_eq!(members(&world, 1).learners, ids(&[3]));
    assert!(why(world.change(1, Change::Promote(NodeId(3)))).contains("has not been connected"));
    let folder = world.servers[&3].incarnation;
    world.change(1, Change::Bind(NodeId(3), folder)).unwrap();
    assert_eq!(match_index(&world), Index(0));
    world.finish_changes();
    assert_eq!(members(&world, 3).voters, ids(&[1, 2, 3]));
    assert!(why(world.change(1, Change::Bind(NodeId(3), folder + 1))).contains("another data folder"));
    assert!(why(world.change(1, Change::Bind(NodeId(9), folder))).contains("not a member"));
    assert_eq!(world.change(1, Change::Bind(NodeId(3), folder)), Ok(()));
    assert!(!world.raft(1).is_changing(), "it is so already");
}

/// An acknowledgement of server 3 in the leader's present session.
fn ack_of_everything(world: &World) -> Envelope {
    let mut twin = World::with_leader(3);
    twin.propose(1, "x").unwrap();
    while !matches!(twin.network[0].message, Message::AppendEntriesResponse(_)) {
        twin.deliver(0);
    }
    let mut envelope = twin.network.remove(0);
    let last = world.raft(1).status().last_log;
    if let Message::AppendEntriesResponse(answer) = &mut envelope.message {
        answer.last_index = last.index;
    }
    Envelope {
        from: NodeId(3),
        term: last.term,
        ..envelope
    }
}

/// A voter learns that it is one from the log, which may come late: a server answers whoever asks for its vote.
#[test]
fn trap_3_43_learners_vote_and_do_not_campaign() {
    let mut world = bound(3);
    world.join(1, 4);
    world.settle();
    world.bind(1);
    while !members(&world, 4).incarnations.contains_key(&NodeId(4)) {
        world.deliver(0);
    }
    world.network.clear();
    assert_eq!(members(&world, 4).learners, ids(&[4]));
    world.tick_one(4, 3 * ELECTION_TIMEOUT_MS);
    assert_eq!(world.network, [], "a learner does not ask for votes");
    let request = RequestVote {
        round: 1,
        last_log: world.raft(1).status().last_log,
        leadership_transfer: true,
    };
    world.arrive(Envelope {
        from: NodeId(2),
        to: NodeId(4),
        term: Term(9),
        request_id: 0,
        message: Message::RequestVote(request),
    });
    assert!(world.network.iter().any(grants));
}

fn grants(envelope: &Envelope) -> bool {
    match &envelope.message {
        Message::RequestVoteResponse(vote) | Message::PreVoteResponse(vote) => vote.vote_granted,
        _ => false,
    }
}

/// A server that finds itself in no membership may have been a member and have forgotten everything.
#[test]
fn trap_3_37_a_server_that_knows_no_membership_grants_no_vote() {
    let mut world = bound(3);
    world.wipe(3);
    world.restart(3);
    world.isolate(1);
    let last_log = world.raft(2).status().last_log;
    let request = RequestVote {
        round: 1,
        last_log,
        leadership_transfer: true,
    };
    for message in [Message::PreVote(request), Message::RequestVote(request)] {
        world.with(3, |raft| {
            raft.step(Envelope {
                from: NodeId(2),
                to: NodeId(3),
                term: Term(9),
                request_id: 0,
                message,
            });
        });
    }
    assert_eq!(world.network.len(), 2);
    assert!(!world.network.iter().any(grants));
}

/// A wiped member that is let in again is still one of the voters that are being left. It may have voted before, so it
/// does not vote for them: nobody counts on its vote before its new data folder is bound.
#[test]
fn trap_3_37_a_wiped_member_votes_for_no_configuration_that_it_leaves() {
    let mut world = bound(3);
    world.damaged = Some(3);
    world.wipe(3);
    world.restart(3);
    world.pass(ELECTION_TIMEOUT_MS);
    world.change(1, add(3)).unwrap();
    world.isolate(2);
    for _ in 0..20 {
        world.tick_one(1, HEARTBEAT_INTERVAL_MS / 2);
        world.settle();
    }
    let membership = members(&world, 3);
    assert_eq!(
        (membership.outgoing, membership.learners),
        (ids(&[1, 2, 3]), ids(&[3]))
    );
    let request = RequestVote {
        round: 1,
        last_log: world.raft(1).status().last_log,
        leadership_transfer: true,
    };
    world.heal();
    for message in [Message::PreVote(request), Message::RequestVote(request)] {
        world.arrive(Envelope {
            from: NodeId(2),
            to: NodeId(3),
            term: Term(9),
            request_id: 0,
            message,
        });
    }
    assert!(!world.network.iter().any(grants));
}

/// Servers 3 and 4 do not hear how 5 is removed, wiped and added again. While 5 fetches the log it passes through the
/// membership in which it, with its old data folder, was a voter: what it says there would be the third vote.
#[test]
fn trap_3_37_a_server_that_passes_through_its_own_past_grants_no_vote() {
    let mut world = bound(5);
    let folder = world.servers[&5].incarnation;
    world.crash(5);
    let past = std::mem::take(&mut world.servers.get_mut(&5).unwrap().disk);
    world.wipe(5);
    world.servers.get_mut(&5).unwrap().disk = past;
    assert_ne!(world.servers[&5].incarnation, folder);
    world.restart(5);
    assert!(members(&world, 5).voters.contains(&NodeId(5)));
    world.network.clear();
    let last_log = world.raft(3).status().last_log;
    let request = RequestVote {
        round: 1,
        last_log,
        leadership_transfer: true,
    };
    for message in [Message::PreVote(request), Message::RequestVote(request)] {
        world.with(5, |raft| {
            raft.step(Envelope {
                from: NodeId(3),
                to: NodeId(5),
                term: Term(9),
                request_id: 0,
                message,
            });
        });
    }
    assert_eq!(world.network.len(), 2);
    assert!(!world.network.iter().any(grants));
    world.network.clear();
    world.campaign(5);
    assert!(world.network.is_empty(), "nor does it ask for votes");
}

/// A learner is made a voter when it has caught up, by itself; before, it is refused with the reason, and what is
/// committed does not wait for it.
#[test]
fn trap_3_43_a_learner_is_promoted_when_it_has_caught_up() {
    let mut world = bound(3);
    world.join(1, 4);
    world.settle();
    world.bind(1);
    world.isolate(4);
    world.settle();
    for i in 0..20 {
        world.propose(1, &format!("command {i}")).unwrap();
        world.settle();
    }
    world.pass(ELECTION_TIMEOUT_MS);
    let last = world.raft(1).status().last_log.index;
    assert_eq!(world.commit_index(1), last.0);
    assert!(why(world.change(1, Change::Promote(NodeId(4)))).contains("has not answered"));
    let catch_up = |world: &World| {
        let status = world.raft(1).status();
        status
            .followers
            .iter()
            .find(|f| f.id == NodeId(4))
            .unwrap()
            .catch_up
    };
    assert!(catch_up(&world).is_some_and(|c| c.lacks >= 20 && !c.is_caught_up));
    assert_eq!(members(&world, 1).learners, ids(&[4]));
    world.heal();
    world.finish_changes();
    assert_eq!(members(&world, 4).voters, ids(&[1, 2, 3, 4]));
    assert_eq!(catch_up(&world), None, "it learns no more");
    assert!(why(world.change(1, Change::Promote(NodeId(4)))).contains("already a voter"));
}

/// A change that leaves no quorum, or that the present voters can't commit, is refused, with the arithmetic.
#[test]
fn trap_3_44_changes_without_a_quorum_are_refused() {
    let mut world = bound(2);
    world.isolate(2);
    world.pass(ELECTION_TIMEOUT_MS / 2);
    let sentence = why(world.change(1, Change::Remove(NodeId(2))));
    assert!(
        sentence.contains("the present voters are 2, a majority is 2, and only 1"),
        "{sentence}"
    );
    assert!(sentence.contains("node 2 has not answered for"), "{sentence}");

    let mut world = bound(3);
    world.isolate(3);
    world.pass(ELECTION_TIMEOUT_MS / 2);
    let sentence = why(world.change(1, Change::Remove(NodeId(2))));
    assert!(
        sentence.contains("the new voters are 2, a majority is 2, and only 1"),
        "{sentence}"
    );
    world.change(1, Change::Remove(NodeId(3))).unwrap();
    world.finish_changes();
    world.change(1, Change::Remove(NodeId(2))).unwrap();
    world.finish_changes();
    assert!(why(world.change(1, Change::Remove(NodeId(1)))).contains("last voter"));
    world.propose(1, "x").unwrap();
    assert_eq!(world.commit_index(1), world.raft(1).status().last_log.index.0);
    assert!(why(world.change(1, Change::Remove(NodeId(2)))).contains("not a member"));
}

/// Two members behind one address would be one server with two voices.
#[test]
fn trap_3_45_an_address_belongs_to_one_member() {
    let mut world = bound(3);
    world.join(1, 4);
    world.settle();
    let Change::Add { addresses, .. } = add(4) else {
        unreachable!()
    };
    let again = Change::Add {
        id: NodeId(5),
        addresses,
    };
    assert!(why(world.change(1, again)).contains("node 4 already has"));
}

/// A leader finishes the joint configuration that it finds: committed or not, its own or not.
#[test]
fn trap_3_46_every_leader_finishes_the_change_it_finds() {
    for reached in [2..=2, 2..=4] {
        let mut world = bound(4);
        for id in (2..=4).filter(|id| !reached.contains(id)) {
            world.isolate(id);
        }
        world.change(1, Change::Remove(NodeId(4))).unwrap();
        let sent: Vec<Envelope> = world.network.drain(..).collect();
        for envelope in sent {
            world.arrive(envelope);
        }
        world.crash(1);
        world.network.clear();
        world.heal();
        world.pass(6 * ELECTION_TIMEOUT_MS);
        let leader = world.leader().expect("a leader");
        let now = members(&world, leader);
        assert!(!now.is_joint() && !world.raft(leader).is_changing());
        if *reached.end() == 4 {
            assert_eq!(now.voters, ids(&[1, 2, 3]));
        }
    }
}

/// A leader that is removed leads the change to its end, without counting itself, hands over, and goes; also when
/// nobody takes over in time.
#[test]
fn trap_3_47_a_removed_leader_hands_over_and_goes() {
    for takes_over in [true, false] {
        let mut world = bound(3);
        world.change(1, Change::Remove(NodeId(1))).unwrap();
        let removed = |world: &World| {
            let status = world.raft(1).status();
            !status.is_changing && !status.membership.contains(NodeId(1))
        };
        for _ in 0..100 {
            if removed(&world) {
                break;
            }
            world.deliver(0);
        }
        assert!(removed(&world));
        if !takes_over {
            let is_other = |envelope: &Envelope| envelope.message.name() != "TimeoutNow";
            for _ in 0..2 * ELECTION_TIMEOUT_MS {
                world.tick(1);
                world.network.retain(is_other);
                world.settle_but("TimeoutNow");
            }
        } else {
            world.settle();
            assert!([2, 3].contains(&world.leader().expect("a leader at once")));
        }
        assert!(!world.raft(1).is_leader());
        world.pass(4 * ELECTION_TIMEOUT_MS);
        let leader = world.leader().expect("a leader");
        assert_eq!(members(&world, leader).voters, ids(&[2, 3]));
        assert!(world.raft(1).is_removed());
    }
}

/// Two servers, and the leader that is removed holds the end of the change alone when it loses its leadership: the
/// other one can't win, for the longer log refuses it, so the server that leaves has to lead once more (Diss. 4.2.2).
#[test]
fn trap_3_47_a_removed_leader_leads_again_if_only_it_has_the_whole_log() {
    for restarts in [false, true] {
        let mut world = bound(2);
        world.change(1, Change::Remove(NodeId(1))).unwrap();
        for _ in 0..100 {
            if !members(&world, 1).contains(NodeId(1)) {
                break;
            }
            world.deliver(0);
        }
        assert!(members(&world, 1).voters == ids(&[2]) && world.raft(1).is_changing());
        assert!(members(&world, 2).is_joint(), "server 2 has not got the end yet");
        world.network.clear();
        if restarts {
            world.crash(1);
            world.restart(1);
        } else {
            world.isolate(1);
            world.pass(4 * ELECTION_TIMEOUT_MS);
            world.heal();
        }
        assert_eq!(world.leader(), None);
        world.pass(12 * ELECTION_TIMEOUT_MS);
        assert_eq!(world.leader(), Some(2));
        assert_eq!(members(&world, 2).voters, ids(&[2]));
        assert!(world.raft(1).is_removed());
    }
}

/// A member is wiped, removed, and connects before the leader has given up telling it so: what the old data folder
/// acknowledged says nothing about this one.
#[test]
fn trap_3_37_a_wiped_server_that_is_being_removed_has_lost_nothing() {
    let mut world = bound(3);
    world.damaged = Some(3);
    world.wipe(3);
    world.pass(ELECTION_TIMEOUT_MS);
    world.change(1, Change::Remove(NodeId(3))).unwrap();
    world.settle();
    assert!(!members(&world, 1).contains(NodeId(3)) && !world.raft(1).is_changing());
    world.restart(3);
    world.connect(1, 3);
    world.pass(ELECTION_TIMEOUT_MS);
    assert!(!world.raft(3).status().is_recovering);
}

/// Diss. 4.3: a leader of the joint configuration commits by both majorities, and one that leaves does not count itself
/// in the new one.
#[test]
fn a_joint_configuration_commits_by_both_majorities() {
    let mut world = bound(3);
    world.isolate(3);
    world.change(1, Change::Remove(NodeId(1))).unwrap();
    world.settle();
    assert!(world.raft(1).is_changing(), "2 alone is no majority of 2 and 3");
    world.propose(1, "x").unwrap();
    world.settle();
    assert!(world.commit_index(1) < world.raft(1).status().last_log.index.0);
    world.heal();
    world.pass(4 * ELECTION_TIMEOUT_MS);
    assert_eq!(members(&world, world.leader().unwrap()).voters, ids(&[2, 3]));
}

/// Diss. 4.2.1: servers join one after the other, in any number, while commands are committed; the log of each ends as
/// the leader's.
#[test]
fn a_cluster_grows_from_one_and_shrinks_again() {
    let mut world = bound(1);
    for id in 2..=7 {
        world.join(1, id);
        world.propose(1, &format!("with {id}")).unwrap();
        world.finish_changes();
        assert_eq!(members(&world, id).voters.len() as u64, id);
    }
    world.pass(HEARTBEAT_INTERVAL_MS);
    for id in 1..=7 {
        assert_eq!(world.commit_index(id), world.raft(1).status().last_log.index.0);
    }
    for id in 1..=6 {
        let leader = world.leader().expect("a leader");
        world.change(leader, Change::Remove(NodeId(id))).unwrap();
        for _ in 0..100 {
            world.pass(HEARTBEAT_INTERVAL_MS);
            let leader = world.leader();
            if leader.is_some_and(|l| {
                !members(&world, l).contains(NodeId(id))
                    && !world.raft(l).is_changing()
                    && world.raft(l).has_committed_in_term()
                    && members(&world, l).contains(NodeId(l))
            }) {
                break;
            }
        }
        assert!(!members(&world, 7).contains(NodeId(id)), "{id}");
    }
    assert_eq!((world.leader(), members(&world, 7).voters), (Some(7), ids(&[7])));
}

/// Diss. 4.1: the membership is in the log, so a restart finds it there, and not in the configuration.
#[test]
fn a_restart_finds_the_membership_in_the_log() {
    let mut world = bound(3);
    world.join(1, 4);
    world.finish_changes();
    for id in 1..=4 {
        world.crash(id);
        world.restart(id);
        assert_eq!(members(&world, id).voters, ids(&[1, 2, 3, 4]));
    }
    let last = world.raft(4).log().last().index;
    let entries = (1..=last.0).filter_map(|i| world.raft(4).log().entry(Index(i)));
    let changes = entries.filter(|entry| matches!(entry.payload, Payload::Membership(_)));
    assert!(changes.count() >= 3);
    assert!(receivers(&world, "Heartbeat").is_empty());
}
