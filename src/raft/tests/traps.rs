//! One test for each trap of production systems that the core can fall into. Those that a part can show alone
//! are with the part: 3.2 in `membership`, 3.19 and 3.21 in `log`, 3.24 in `quorum`.

use super::super::{Envelope, Message, NodeId, Term};
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
