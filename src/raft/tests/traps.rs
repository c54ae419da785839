//! One test for each trap of production systems that the core can fall into. Those that a part can show alone
//! are with the part: 3.2 in `membership`, 3.19 and 3.21 in `log`, 3.24 in `quorum`.

use super::super::{Envelope, Index, Message, NodeId, Term};
use super::world::World;

/// Takes the first message of this name to this server off the network.
fn take(world: &mut World, name: &str, to: u64) -> Envelope {
    let is_it = |envelope: &Envelope| envelope.message.name() == name && envelope.to == NodeId(to);
    let at = world
        .network
        .iter()
        .position(is_it)
        .unwrap_or_else(|| panic!("no {name} to {to}"));
    world.network.remove(at)
}

/// Delivers until a message of this name to this server is sent, and takes it.
fn wait_for(world: &mut World, name: &str, to: u64) -> Envelope {
    let is_it = |envelope: &Envelope| envelope.message.name() == name && envelope.to == NodeId(to);
    while !world.network.iter().any(is_it) {
        world.deliver(0);
    }
    take(world, name, to)
}

/// A vote counts in the term in which it was given, also where a restarted candidate happens to use the number of
/// its election again.
#[test]
fn trap_3_8_a_vote_of_an_earlier_term_does_not_count() {
    let mut world = World::new(3, 0);
    world.campaign(1);
    let mut late = wait_for(&mut world, "RequestVoteResponse", 1);
    world.crash(1);
    world.restart(1);
    world.network.clear();
    world.campaign(1);
    let request = wait_for(&mut world, "RequestVote", 3);
    let Message::RequestVote(request) = request.message else {
        unreachable!()
    };
    let Message::RequestVoteResponse(answer) = &mut late.message else {
        unreachable!()
    };
    answer.round = request.round;
    assert!(answer.vote_granted);
    assert_eq!((late.term, world.raft(1).term()), (Term(1), Term(2)));
    world.network.clear();
    world.arrive(late);
    assert!(!world.raft(1).is_leader());
}

/// A question for a read index is not confused with one of the process before.
#[test]
fn trap_3_11_an_answer_to_the_process_before_confirms_nothing() {
    let mut world = World::with_leader(3);
    world.read(2, 1);
    let late = wait_for(&mut world, "ReadIndexResponse", 2);
    world.crash(2);
    world.restart(2);
    world.settle();
    world.propose(1, "x").unwrap();
    world.settle();
    world.pass(100);
    world.read(2, 2);
    world.network.clear();
    world.arrive(late);
    assert_eq!(world.reads, []);
    world.pass(1000);
    assert_eq!(world.reads, [(2, 2, Index(2))]);
}

/// A refusal tells the term and confirms no session: the same server may lead again, after a restart, with the same
/// numbers.
#[test]
fn trap_3_15_a_refusal_of_an_earlier_term_confirms_nothing() {
    let mut world = World::with_leader(3);
    world.propose(1, "x").unwrap();
    let old = take(&mut world, "AppendEntries", 2);
    let Message::AppendEntries(request) = &old.message else {
        unreachable!()
    };
    let session = request.session;
    world.isolate(1);
    world.campaign(2);
    world.pass(5000);
    assert!(world.raft(2).term() > old.term);
    world.heal();
    world.network.clear();
    world.arrive(old);
    let refusal = take(&mut world, "AppendEntriesResponse", 1);
    let Message::AppendEntriesResponse(answer) = refusal.message else {
        unreachable!()
    };
    assert!(answer.conflict.is_some());
    assert_ne!(answer.session, session);
    assert_eq!(answer.read_round, 0);
}
