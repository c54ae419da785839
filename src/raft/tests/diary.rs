//! What the first system's diary records as having gone wrong, where the core is concerned.

use super::super::{AppendEntries, EntryId, Envelope, Index, Message, NodeId, RequestVote, Term};
use super::world::{ELECTION_TIMEOUT_MS, HEARTBEAT_INTERVAL_MS, World, entries};
use crate::base::rng::Rng;

fn id(index: u64, term: u64) -> EntryId {
    EntryId {
        term: Term(term),
        index: Index(index),
    }
}

/// An AppendEntries of server 1, with the part of a log, given by terms, that follows `prev`; and the answer.
fn append(world: &mut World, term: u64, prev: u64, log: &[u64], leader_commit: u64) -> Option<Envelope> {
    let message = Message::AppendEntries(AppendEntries {
        session: 1,
        sequence: 1,
        prev_log: id(prev, prev.checked_sub(1).map_or(0, |i| log[i as usize])),
        entries: entries(log).split_off(prev as usize),
        leader_commit: Index(leader_commit),
        read_round: 0,
    });
    world.arrive(Envelope {
        from: NodeId(1),
        to: NodeId(2),
        term: Term(term),
        request_id: 0,
        message,
    });
    world.network.pop()
}

fn is_success(answer: &Option<Envelope>, holds: u64) -> bool {
    matches!(answer.as_ref().map(|envelope| &envelope.message), Some(Message::AppendEntriesResponse(answer))
        if answer.conflict.is_none() && answer.last_index == Index(holds))
}

/// Raft 5.4.1: the last entry's term decides, and the index only where the terms are the same.
#[test]
fn diary_up_to_date_compares_term_then_index() {
    let cases: &[(&[u64], EntryId, bool)] = &[
        (&[1, 1, 1], id(3, 1), true),
        (&[1, 1, 1], id(4, 1), true),
        (&[1, 1, 1], id(2, 1), false),
        (&[1, 1, 1], id(1, 2), true),
        (&[1, 2], id(9, 1), false),
        (&[], id(0, 0), true),
        (&[1], id(0, 0), false),
    ];
    for (log, last_log, granted) in cases {
        let request = RequestVote {
            round: 1,
            last_log: *last_log,
            leadership_transfer: false,
        };
        for message in [Message::PreVote(request), Message::RequestVote(request)] {
            let mut world = World::new(3, 0);
            world.preset(2, log);
            world.arrive(Envelope {
                from: NodeId(1),
                to: NodeId(2),
                term: Term(5),
                request_id: 0,
                message,
            });
            let answer = world.network.pop().expect("an answer").message;
            let (Message::PreVoteResponse(vote) | Message::RequestVoteResponse(vote)) = answer else {
                panic!("{answer:?}");
            };
            assert_eq!(vote.vote_granted, *granted, "{log:?} asked with {last_log}");
        }
    }
}

/// Raft 5.3: a leader's shorter log may win, and replaces what others have beyond it, from the first conflict on;
/// never what is committed.
#[test]
fn diary_uncommitted_tail_is_replaced() {
    let mut world = World::new(3, 0);
    world.preset(2, &[1, 1, 2, 2, 2]);
    let answer = append(&mut world, 3, 1, &[1, 1, 3], 2);
    assert!(is_success(&answer, 3));
    assert_eq!((world.terms(2), world.commit_index(2)), (vec![1, 1, 3], 2));
    assert_eq!(world.server(2).disk.entries, entries(&[1, 1, 3]));
    // A leader that contradicts what is committed can't be one; nothing of it is believed.
    assert_eq!(append(&mut world, 4, 1, &[1, 4], 2), None);
    assert_eq!(world.terms(2), [1, 1, 3]);
}

/// Raft 5.3, receiver's step 3: entries are removed where they conflict, and not because a request ends earlier.
#[test]
fn diary_matching_old_append_changes_nothing() {
    let mut world = World::new(3, 0);
    world.preset(2, &[1, 1, 2]);
    assert!(is_success(&append(&mut world, 3, 0, &[1, 1, 2, 3, 3], 3), 5));
    for (prev, end) in [(0, 2), (1, 2), (2, 2), (3, 4), (5, 5), (0, 0)] {
        let log = &[1, 1, 2, 3, 3][..end];
        assert!(
            is_success(&append(&mut world, 3, prev, log, 1), end as u64),
            "{prev} {end}"
        );
        assert_eq!((world.terms(2), world.commit_index(2)), (vec![1, 1, 2, 3, 3], 3));
    }
}

/// Raft 5.1: who leads an earlier term is refused with the current one, and steps down.
#[test]
fn diary_lower_term_append_is_refused() {
    let mut world = World::with_leader(3);
    world.isolate(1);
    world.propose(1, "nobody hears it").unwrap();
    world.tick_one(3, ELECTION_TIMEOUT_MS);
    world.campaign(2);
    world.settle();
    assert!(world.raft(1).is_leader() && world.raft(2).is_leader());
    world.heal();
    let before = (world.terms(2), world.raft(2).term());
    let answer = append(&mut world, 1, 1, &[1, 1], 0).expect("an answer");
    assert_eq!((world.terms(2), world.raft(2).term()), before);
    assert_eq!(
        (answer.term, answer.message.name()),
        (before.1, "AppendEntriesResponse")
    );
    world.arrive(answer);
    assert!(!world.raft(1).is_leader());
    assert_eq!(world.raft(1).term(), before.1);
    world.pass(2 * ELECTION_TIMEOUT_MS);
    assert_eq!(world.terms(1), world.terms(2));
}

/// Answers in any order, late, twice, from earlier sessions and terms. That `match_index` never falls and
/// `next_index` stays above it is checked by the world after every step; here, that the commit index goes on.
#[test]
fn diary_heartbeat_and_append_out_of_order() {
    for seed in 0..100 {
        let mut rng = Rng::new(seed);
        let mut world = World::with_leader(3);
        let mut old: Vec<Envelope> = Vec::new();
        for round in 0..60 {
            let leader = world.leader().expect("a leader");
            match rng.below(30) {
                0 => world.connect(leader, 1 + leader % 3),
                1 => world.campaign(1 + rng.below(3)),
                _ => {}
            }
            let _ = world.propose(leader, &format!("command {round}"));
            world.tick(rng.below(HEARTBEAT_INTERVAL_MS));
            for _ in 0..rng.below(12) {
                if !old.is_empty() && rng.one_in(3) {
                    let again = old[rng.below(old.len() as u64) as usize].clone();
                    world.arrive(again);
                } else if !world.network.is_empty() {
                    let pick = rng.below(world.network.len() as u64) as usize;
                    old.push(world.network[pick].clone());
                    world.deliver(pick);
                }
            }
            if world.leader().is_none() {
                world.pass(4 * ELECTION_TIMEOUT_MS);
            }
        }
        let committed = world.invariants.commit_index();
        world.pass(4 * ELECTION_TIMEOUT_MS);
        let leader = world.leader().expect("a leader");
        let last = world.raft(leader).status().last_log.index;
        assert!(committed > Index(10), "seed {seed}: nothing moved: {committed}");
        assert_eq!(world.invariants.commit_index(), last, "seed {seed}");
    }
}
