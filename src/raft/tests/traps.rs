//! One test for each trap of production systems that the core can fall into. Those that a part can show alone
//! are with the part: 3.2 in `membership`, 3.14 in `progress`, 3.19 and 3.21 in `log`, 3.24 in `quorum`, 3.33 in
//! `ready`; 3.41 and 3.42 are in `snapshots`. Many are stories in `testscripts/`, too.

use bytes::Bytes;

use super::super::{
    AppendEntries, Entry, EntryId, Envelope, Heartbeat, Index, Message, NodeId, ProposeError, Raft,
    Recovered, RequestVote, Term, Ticks, TimeoutNow,
};
use super::world::{ELECTION_TIMEOUT_MS, HEARTBEAT_INTERVAL_MS, World, entries, membership, options};
use crate::base::rng::Rng;

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
    for _ in 0..1000 {
        if !world.network.iter().any(is_it) {
            world.deliver(0);
        }
    }
    take(world, name, to)
}

fn envelope(from: u64, to: u64, term: u64, message: Message) -> Envelope {
    Envelope {
        from: NodeId(from),
        to: NodeId(to),
        term: Term(term),
        request_id: 0,
        message,
    }
}

fn id(index: u64, term: u64) -> EntryId {
    EntryId {
        term: Term(term),
        index: Index(index),
    }
}

/// An AppendEntries with the entries of a log by terms that follow `prev`.
fn append(prev: u64, log: &[u64], leader_commit: u64) -> Message {
    let terms = &log[..prev as usize];
    Message::AppendEntries(AppendEntries {
        session: 1,
        sequence: 1,
        prev_log: id(prev, terms.last().copied().unwrap_or(0)),
        entries: entries(log).split_off(prev as usize),
        leader_commit: Index(leader_commit),
        read_round: 0,
    })
}

/// A server of three that starts with this log, in the term of its last entry, and hears server 1 lead `term`.
fn follower(log: &[u64], term: u64) -> World {
    let mut world = World::new(3, 0);
    world.preset(2, log);
    let heartbeat = Message::Heartbeat(Heartbeat {
        session: 1,
        read_round: 0,
        leader_commit: Index(0),
    });
    world.arrive(envelope(1, 2, term, heartbeat));
    world.network.clear();
    world
}

/// A pre-vote changes nothing where it is refused or granted; the asker learns a higher term from a refusal; and
/// those who still name a restarted leader grant it its own pre-vote.
#[test]
fn trap_3_3_pre_votes_end_in_an_election() {
    let mut world = World::new(3, 0);
    world.preset(2, &[4]);
    let before = world.raft(2).status().hard_state;
    world.campaign(1);
    let pre_vote = take(&mut world, "PreVote", 2);
    world.network.clear();
    world.arrive(pre_vote);
    assert_eq!(world.raft(2).status().hard_state, before);
    world.settle();
    assert_eq!(world.raft(1).term(), Term(4));

    let mut world = World::with_leader(3);
    world.crash(1);
    world.restart(1);
    world.campaign(1);
    world.settle();
    assert!(world.raft(1).is_leader() && world.raft(1).term() == Term(2));
}

/// Within the shortest election timeout of hearing a leader a vote request does nothing, however high its term,
/// unless the leader has asked for it. (The rule's second half, after a restart, is about lease reads.)
#[test]
fn trap_3_4_a_voter_sticks_to_the_leader_it_hears() {
    let mut world = World::with_leader(3);
    let request = |leadership_transfer| {
        let request = RequestVote {
            round: 7,
            last_log: id(9, 8),
            leadership_transfer,
        };
        envelope(3, 2, 9, Message::RequestVote(request))
    };
    world.tick_one(2, ELECTION_TIMEOUT_MS - HEARTBEAT_INTERVAL_MS - 1);
    world.arrive(request(false));
    assert_eq!(
        (world.raft(2).term(), world.raft(2).leader()),
        (Term(1), Some(NodeId(1)))
    );
    world.arrive(request(true));
    assert_eq!(world.raft(2).status().hard_state.vote, Some(NodeId(3)));

    let mut world = World::with_leader(3);
    world.server(2).clock = world.server(2).clock.after(ELECTION_TIMEOUT_MS);
    world.arrive(request(false));
    assert_eq!(world.raft(2).status().hard_state.vote, Some(NodeId(3)));
}

/// A server that is not in the membership does not campaign. (Tombstones come with changes of the membership.)
#[test]
fn trap_3_5_a_removed_server_disturbs_nobody() {
    let recovered = Recovered {
        membership: membership(3),
        ..Recovered::default()
    };
    let mut raft = Raft::new(options(4, 1), recovered, Ticks(0));
    for s in 0..60 {
        raft.tick(Ticks(s * 1000));
        assert!(raft.ready().is_empty());
        assert!(raft.deadline() > Ticks(s * 1000), "no busy loop either");
    }
}

/// Partial partitions: a leader that sends but does not receive goes, and the one server that reaches a quorum wins.
#[test]
fn trap_3_6_the_server_that_reaches_a_quorum_wins() {
    for one_way in [false, true] {
        let mut world = World::with_leader(5);
        for other in [2, 4, 5] {
            world.cut(other, 1);
            if !one_way {
                world.cut(1, other);
            }
        }
        // The other three reach nobody but server 3.
        for (a, b) in [(2, 4), (2, 5), (4, 5)] {
            world.cut(a, b);
            world.cut(b, a);
        }
        world.pass(8 * ELECTION_TIMEOUT_MS);
        assert_eq!(world.leader(), Some(3));
        world.propose(3, "x").unwrap();
        world.settle();
        assert_eq!(world.commit_index(3), world.raft(3).status().last_log.index.0);
    }
}

/// The time that a follower's disk takes is not its leader's silence, and each wait is drawn anew.
#[test]
fn trap_3_7_the_timer_restarts_when_the_write_ends() {
    let mut world = World::with_leader(3);
    world.server(2).disk.is_held = true;
    world.propose(1, "x").unwrap();
    world.settle();
    world.tick_one(2, ELECTION_TIMEOUT_MS - 1);
    let mut waits = std::collections::BTreeSet::new();
    world.persist(2);
    for _ in 0..20 {
        let wait = world.raft(2).deadline().since(world.servers[&2].clock);
        assert!(
            (ELECTION_TIMEOUT_MS..2 * ELECTION_TIMEOUT_MS).contains(&wait),
            "{wait}"
        );
        waits.insert(wait);
        world.tick(HEARTBEAT_INTERVAL_MS);
        world.settle();
    }
    assert!(waits.len() > 15, "{waits:?}");
}

/// Pre-votes that come after the pre-vote was won are not votes.
#[test]
fn trap_3_8_late_pre_votes_do_not_count() {
    let mut world = World::new(5, 0);
    world.campaign(1);
    let pre_votes: Vec<Envelope> = world.network.drain(..).collect();
    for pre_vote in pre_votes {
        world.arrive(pre_vote);
    }
    let answers: Vec<Envelope> = world.network.drain(..).collect();
    for answer in [answers.clone(), answers].concat() {
        world.arrive(answer);
    }
    assert_eq!(world.raft(1).term(), Term(1));
    assert!(!world.raft(1).is_leader());
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

/// In an idle cluster a dead voter's log is as long as anybody's: leadership goes to one that answers.
#[test]
fn trap_3_9_leadership_is_not_handed_to_the_dead() {
    for dead in [2, 3] {
        let mut world = World::with_leader(3);
        world.isolate(dead);
        world.pass(ELECTION_TIMEOUT_MS / 2);
        world.with(1, |raft| raft.transfer(None)).unwrap();
        world.settle();
        assert!(world.raft(5 - dead).is_leader(), "without {dead}");
    }
}

/// During a hand-over nothing is proposed and no read begun; the target campaigns only with everything durable; and
/// when it does not, the leader goes on after an election timeout.
#[test]
fn trap_3_9_a_transfer_waits_for_the_target_and_not_for_ever() {
    let mut world = World::with_leader(3);
    world.server(2).disk.is_held = true;
    world.propose(1, "x").unwrap();
    world.settle();
    world.with(1, |raft| raft.transfer(Some(NodeId(2)))).unwrap();
    assert_eq!(world.propose(1, "y"), Err(ProposeError::Transferring));
    world.read(1, 1);
    world.read(3, 2);
    world.settle();
    assert_eq!(world.reads, []);
    let early = Message::TimeoutNow(TimeoutNow { last_log: id(2, 1) });
    world.arrive(envelope(1, 2, 1, early));
    assert_eq!(
        world.raft(2).leader(),
        Some(NodeId(1)),
        "2@1 is not durable there"
    );
    world.pass(ELECTION_TIMEOUT_MS);
    assert!(world.raft(1).is_leader() && !world.raft(1).is_transferring());
    assert_eq!(world.reads.len(), 2);
    world.propose(1, "y").unwrap();
    world.settle();
    assert_eq!(world.commit_index(1), 3);
}

/// A new leader answers no read before the first entry of its term is committed, though a quorum confirms it.
#[test]
fn trap_3_10_reads_wait_for_the_first_commit_of_the_term() {
    let mut world = World::new(3, 0);
    for id in 1..=3 {
        world.preset(id, &[1, 1]);
    }
    world.campaign(1);
    while !world.raft(1).is_leader() {
        world.deliver(0);
    }
    world.read(1, 1);
    world.read(2, 2);
    for _ in 0..300 {
        world.tick(1);
        for envelope in std::mem::take(&mut world.network) {
            if envelope.message.name() != "AppendEntries" {
                world.arrive(envelope);
            }
        }
    }
    assert!(world.raft(1).is_leader());
    assert_eq!(world.reads, []);
    world.pass(ELECTION_TIMEOUT_MS);
    world.reads.sort_unstable();
    assert_eq!(world.reads, [(1, 1, Index(3)), (2, 2, Index(3))]);
}

/// Nothing is committed, and no read answered with it, before it is durable: not even where the leader is alone.
#[test]
fn trap_3_13_a_single_voter_counts_itself_when_durable() {
    let mut world = World::new(1, 0);
    world.campaign(1);
    assert_eq!(world.commit_index(1), 1);
    world.server(1).disk.is_held = true;
    world.propose(1, "x").unwrap();
    world.read(1, 1);
    assert_eq!((world.commit_index(1), world.server(1).applied.len()), (1, 1));
    assert_eq!(world.reads, [(1, 1, Index(1))]);
    world.persist(1);
    assert_eq!((world.commit_index(1), world.server(1).applied.len()), (2, 2));
}

/// After a reconnect answers of the old session are not believed, and the follower is probed with one request.
#[test]
fn trap_3_15_a_new_connection_is_a_new_session() {
    let mut world = World::with_leader(3);
    world.isolate(3);
    world.propose(1, "x").unwrap();
    world.propose(1, "y").unwrap();
    let old: Vec<Envelope> = world.network.drain(..).collect();
    for request in old {
        world.arrive(request);
    }
    let answers: Vec<Envelope> = world.network.drain(..).collect();
    assert_eq!(answers.len(), 2);
    world.connect(1, 2);
    for answer in answers {
        world.arrive(answer);
    }
    let follower = world.raft(1).status().followers[0];
    assert_eq!((follower.match_index, follower.inflight), (Index(1), 1));
    world.settle();
    assert_eq!(world.commit_index(1), 3);
}

/// A commit index commits what was compared with the leader's log, and nothing that lies beyond.
#[test]
fn trap_3_16_a_divergent_entry_is_not_committed() {
    let mut world = follower(&[1, 2, 2], 3);
    let heartbeat = Message::Heartbeat(Heartbeat {
        session: 1,
        read_round: 0,
        leader_commit: Index(0),
    });
    world.arrive(envelope(1, 2, 3, heartbeat));
    assert_eq!(world.commit_index(2), 0);
    world.arrive(envelope(1, 2, 3, append(1, &[1], 3)));
    assert_eq!(world.commit_index(2), 1, "only 1@1 was compared");
    world.arrive(envelope(1, 2, 3, append(1, &[1, 3], 2)));
    assert_eq!(world.commit_index(2), 2);
    world.arrive(envelope(1, 2, 3, append(2, &[1, 3, 3], 2)));
    assert_eq!(
        world.commit_index(2),
        3,
        "which the leader had named before, and now it is compared"
    );
}

/// The leader's side of it: a heartbeat names no index that its receiver has not acknowledged.
#[test]
fn trap_3_16_a_heartbeat_names_what_its_receiver_has() {
    let mut world = World::with_leader(3);
    world.cut(1, 3);
    world.propose(1, "x").unwrap();
    world.settle();
    world.heal();
    world.tick_one(1, HEARTBEAT_INTERVAL_MS);
    for (to, commit) in [(2, 2), (3, 1)] {
        let heartbeat = take(&mut world, "Heartbeat", to).message;
        assert!(
            matches!(heartbeat, Message::Heartbeat(h) if h.leader_commit == Index(commit)),
            "{heartbeat:?}"
        );
    }
}

/// An older request, arriving late, cuts nothing that a newer one brought.
#[test]
fn trap_3_17_nothing_is_cut_without_a_conflict() {
    let mut world = follower(&[1], 3);
    world.arrive(envelope(1, 2, 3, append(1, &[1, 3, 3, 3], 0)));
    for late in [
        append(1, &[1, 3], 0),
        append(0, &[1], 0),
        append(2, &[1, 3], 0),
        append(1, &[1, 3, 3], 0),
    ] {
        world.arrive(envelope(1, 2, 3, late));
        assert_eq!(world.terms(2), [1, 3, 3, 3]);
        assert_eq!(world.server(2).disk.entries.len(), 4);
    }
}

/// A conflict removes everything from there on, on the disk too, before it is acknowledged.
#[test]
fn trap_3_18_a_conflict_removes_the_whole_tail() {
    let mut world = follower(&[1, 2, 2, 2], 3);
    world.release_disk(2);
    world.server(2).disk.is_held = true;
    world.arrive(envelope(1, 2, 3, append(1, &[1, 3], 0)));
    assert_eq!(world.terms(2), [1, 3]);
    assert!(world.network.is_empty());
    assert_eq!(world.server(2).disk.entries.len(), 4);
    world.persist(2);
    assert_eq!(world.server(2).disk.entries, entries(&[1, 3]));
    assert_eq!(world.network.len(), 1);
}

/// What a snapshot covers matches by definition: a request from before it is no conflict, and nothing is cut.
#[test]
fn trap_3_19_a_request_from_before_the_snapshot_is_no_conflict() {
    let mut world = World::with_leader(3);
    for what in ["a", "b", "c"] {
        world.propose(1, what).unwrap();
        world.settle();
    }
    world.pass(HEARTBEAT_INTERVAL_MS);
    world.take_snapshot(2, 1);
    assert_eq!(world.raft(2).log().base(), id(3, 1));
    let mut request = append(1, &[1, 1, 1, 1], 4);
    let Message::AppendEntries(ref mut append) = request else {
        unreachable!();
    };
    append.entries = (2..=4)
        .filter_map(|index| world.raft(1).log().entry(Index(index)).cloned())
        .collect();
    world.arrive(envelope(1, 2, 1, request));
    let Message::AppendEntriesResponse(answer) = take(&mut world, "AppendEntriesResponse", 1).message else {
        panic!("no answer");
    };
    assert_eq!((answer.conflict, answer.last_index), (None, Index(4)));
    assert_eq!(world.terms(2), [1]);
}

/// A leader that has dropped its whole log, and a follower that it knows nothing of: there is no probe that could find
/// where they agree, so the snapshot goes out at once.
#[test]
fn trap_3_20_a_purged_log_and_an_unknown_follower() {
    let mut world = World::with_leader(3);
    world.isolate(3);
    for what in ["a", "b", "c", "d", "e"] {
        world.propose(1, what).unwrap();
    }
    world.settle();
    world.take_snapshot(1, 0);
    assert!(world.raft(1).log().is_empty());
    world.crash(1);
    world.restart(1);
    world.heal();
    world.preset(3, &[]);
    world.campaign(1);
    world.settle();
    world.pass(HEARTBEAT_INTERVAL_MS);
    assert_eq!((world.commit_index(1), world.commit_index(3)), (7, 7));
    assert_eq!(world.raft(3).log().base(), id(6, 1));
    assert_eq!(world.servers[&3].applied, world.servers[&1].applied);
}

#[test]
fn trap_3_22_a_heartbeat_is_not_a_probe() {
    for log in [&[][..], &[1, 2, 2]] {
        let mut world = follower(log, 3);
        let heartbeat = Message::Heartbeat(Heartbeat {
            session: 5,
            read_round: 6,
            leader_commit: Index(0),
        });
        world.arrive(envelope(1, 2, 3, heartbeat));
        assert_eq!(world.network.len(), 1);
        assert_eq!(world.network[0].message.name(), "HeartbeatResponse");
        assert_eq!(world.terms(2), log);
    }
}

/// For each split of an old tail over five servers: a leader commits it only with an entry of its own term.
#[test]
fn trap_3_23_an_earlier_term_is_not_committed_by_counting() {
    for holders in 0..8u64 {
        let mut world = World::new(5, holders);
        world.max_append_bytes = 1;
        world.preset(1, &[1, 2, 2]);
        for other in 2..=4 {
            let log: &[u64] = if holders >> (other - 2) & 1 == 1 {
                &[1, 2, 2]
            } else {
                &[1]
            };
            world.preset(other, log);
        }
        world.preset(5, &[1]);
        world.campaign(1);
        let carries_own = |envelope: &Envelope| {
            matches!(&envelope.message, Message::AppendEntries(append)
                if append.entries.iter().any(|entry| entry.id == id(4, 3)))
        };
        let mut kept = Vec::new();
        for _ in 0..100 {
            for envelope in std::mem::take(&mut world.network) {
                // The leader's own entry reaches nobody; whoever lacks the one before it may say so.
                let would_take = world.raft(envelope.to.0).log().last().index >= Index(3);
                match carries_own(&envelope) && would_take {
                    true => kept.push(envelope),
                    false => world.arrive(envelope),
                }
            }
        }
        assert!(world.raft(1).is_leader());
        assert_eq!(world.commit_index(1), 0, "holders {holders:b}");
        for envelope in kept {
            world.arrive(envelope);
        }
        world.settle();
        assert_eq!(world.commit_index(1), 4);
    }
}

/// What goes into one message or one write is bounded by size, is always at least one entry, and has no gaps.
#[test]
fn trap_3_25_batches_are_bounded_and_contiguous() {
    let sizes = |entries: &[Entry]| entries.iter().map(Entry::size_bytes).sum::<usize>();
    let is_contiguous = |entries: &[Entry]| entries.windows(2).all(|w| w[1].id.index == w[0].id.index.next());
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let mut world = World::with_leader(3);
        let limits = options(1, 0);
        world.isolate(3);
        for _ in 0..20 {
            let id = [1, 2][rng.below(2) as usize];
            world.server(id).disk.is_held = true;
            let size = [1, 50, 150, 400][rng.below(4) as usize];
            let _ = world.with(1, |raft| raft.propose(Bytes::from(vec![0; size])));
            for envelope in std::mem::take(&mut world.network) {
                if let Message::AppendEntries(append) = &envelope.message {
                    let first = append.entries.first().expect("at least one entry");
                    assert_eq!(first.id.index, append.prev_log.index.next());
                    assert!(append.entries.len() == 1 || sizes(&append.entries) <= limits.max_append_bytes);
                    assert!(is_contiguous(&append.entries));
                }
                world.arrive(envelope);
            }
            for id in [1, 2] {
                if let Some(batch) = &world.server(id).disk.in_flight {
                    assert!(batch.entries.len() <= 1 || sizes(&batch.entries) <= limits.max_batch_bytes);
                    assert!(is_contiguous(&batch.entries));
                }
                if rng.one_in(3) {
                    world.persist(id);
                }
            }
        }
        for _ in 0..40 {
            world.release_disk(1);
            world.release_disk(2);
            world.settle();
        }
        assert_eq!(world.commit_index(1), world.raft(1).status().last_log.index.0);
    }
}

/// A data folder that was put back to an earlier state has forgotten what it acknowledged: it ends too early, is of an
/// earlier term than the leader's acknowledgement, and may hold what a dead leader never committed. Nothing of it is
/// committed, and it counts for nothing until it has everything again.
#[test]
fn trap_3_38_a_data_folder_that_was_put_back_is_noticed() {
    for (copy, term) in [(&[1][..], 2), (&[1], 1), (&[1, 1, 1, 1], 1), (&[1, 1, 1], 1)] {
        let mut world = World::new(3, 0);
        (1..=3).for_each(|id| world.preset(id, &[1]));
        world.campaign(1);
        world.settle();
        world.propose(1, "x").unwrap();
        world.settle();
        world.pass(HEARTBEAT_INTERVAL_MS);
        assert_eq!((world.terms(3), world.commit_index(3)), (vec![1, 2, 2], 3));
        world.damaged = Some(3);
        world.preset(3, copy);
        world.preset_term(3, term);
        world.tick(HEARTBEAT_INTERVAL_MS);
        let heartbeat = take(&mut world, "Heartbeat", 3);
        world.arrive(heartbeat);
        let status = world.raft(3).status();
        assert!(status.is_recovering, "{copy:?}");
        assert_eq!(status.commit_index, Index(0), "{copy:?}");
        world.pass(3 * ELECTION_TIMEOUT_MS);
        assert!(!world.raft(3).status().is_recovering, "{copy:?}");
        assert_eq!((world.terms(3), world.commit_index(3)), (vec![1, 2, 2], 3));
    }
}

/// A write that never ends, as one that has failed before the process is gone: what is said waits for it, and nobody
/// leads on the word of such a disk.
#[test]
fn trap_3_30_nobody_is_elected_on_the_word_of_a_disk_that_does_not_write() {
    let mut world = World::with_leader(3);
    world.crash(1);
    world.server(2).disk.is_held = true;
    world.server(3).disk.is_held = true;
    world.pass(6 * ELECTION_TIMEOUT_MS);
    assert_eq!(world.leader(), None);
    assert!(
        world.raft(2).term() > Term(1) || world.raft(3).term() > Term(1),
        "one has tried"
    );
    world.release_disk(3);
    world.pass(6 * ELECTION_TIMEOUT_MS);
    assert_eq!(world.leader(), None, "its own vote counts, the other's waits");
    world.release_disk(2);
    world.pass(6 * ELECTION_TIMEOUT_MS);
    assert!(world.leader().is_some());
}
