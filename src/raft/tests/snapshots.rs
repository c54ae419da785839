//! Snapshots (Raft 7): what is dropped, sent, stored and installed, and what is lost on the way.

use super::super::{
    AppendEntriesResponse, Entry, EntryId, Envelope, HardState, Index, InstallSnapshot, Membership, Message,
    NodeId, ProposeError, Raft, Recovered, SnapshotHeader, Term, Ticks, VoteResponse,
};
use super::world::{ELECTION_TIMEOUT_MS, HEARTBEAT_INTERVAL_MS, World, entries, membership, options};
use crate::base::rng::Rng;

fn id(index: u64, term: u64) -> EntryId {
    EntryId {
        term: Term(term),
        index: Index(index),
    }
}

fn header(last: EntryId, membership_index: u64, n: u64) -> SnapshotHeader {
    SnapshotHeader {
        last,
        membership: membership(n),
        membership_index: Index(membership_index),
    }
}

/// Server 1 leads; server 3 has nothing of the `commands` that follow, and its leader's log begins after them.
fn lagging(commands: u64) -> World {
    let mut world = World::with_leader(3);
    world.isolate(3);
    for i in 0..commands {
        world.propose(1, &format!("command {i}")).unwrap();
        world.settle();
    }
    world.take_snapshot(1, 0);
    assert!(world.raft(1).log().is_empty());
    world.heal();
    world.connect(1, 3);
    world
}

/// The numbers of the chunks under way to server 3.
fn chunks(world: &World) -> Vec<u64> {
    let chunk = |envelope: &Envelope| match &envelope.message {
        Message::InstallSnapshot(request) => Some(request.chunk),
        _ => None,
    };
    world.network.iter().filter_map(chunk).collect()
}

fn is_there(world: &World) -> bool {
    let (leader, follower) = (&world.servers[&1], &world.servers[&3]);
    leader.applied == follower.applied
}

/// Delivers until `done`, with time going on when nothing is under way.
fn deliver_until(world: &mut World, done: impl Fn(&World) -> bool) {
    for _ in 0..10_000 {
        if done(world) {
            return;
        }
        match world.network.is_empty() {
            true => world.tick(HEARTBEAT_INTERVAL_MS / 4),
            false => world.deliver(0),
        }
    }
    panic!("it never comes: {:?}", world.network);
}

#[test]
fn several_chunks_are_under_way() {
    let mut world = lagging(39);
    let mut most = 0;
    while !is_there(&world) {
        most = most.max(chunks(&world).len());
        match world.network.is_empty() {
            true => world.tick(HEARTBEAT_INTERVAL_MS / 4),
            false => world.deliver(0),
        }
    }
    assert_eq!(most, 4);
    let follower = world
        .raft(1)
        .status()
        .followers
        .into_iter()
        .find(|f| f.id == NodeId(3));
    assert_eq!(
        follower.and_then(|f| f.snapshot),
        Some(Index(40)),
        "it is not yet durable there"
    );
    world.settle();
    let follower = world
        .raft(1)
        .status()
        .followers
        .into_iter()
        .find(|f| f.id == NodeId(3));
    assert_eq!(
        follower.map(|f| (f.match_index, f.snapshot)),
        Some((Index(40), None))
    );
}

/// A new connection, and the chunks that are stored are not sent again.
#[test]
fn a_transfer_goes_on_after_a_broken_connection() {
    let mut world = lagging(39);
    deliver_until(&mut world, |world| chunks(world).contains(&6));
    world.network.clear();
    world.connect(1, 3);
    let first = chunks(&world);
    assert!(first.len() == 1 && first[0] >= 3, "{first:?}");
    deliver_until(&mut world, is_there);
}

/// A process that is new has stored nothing, and says so.
#[test]
fn a_transfer_begins_anew_with_a_new_process() {
    let mut world = lagging(39);
    deliver_until(&mut world, |world| chunks(world).contains(&6));
    world.network.clear();
    world.crash(3);
    world.restart(3);
    world.connect(1, 3);
    deliver_until(&mut world, is_there);
}

/// Chunks and answers in any order, twice or not at all; also over several connections.
#[test]
fn lost_repeated_and_reordered_chunks_do_no_harm() {
    for seed in 0..100 {
        let mut rng = Rng::new(seed);
        let mut world = lagging(10 + rng.below(40));
        for round in 0.. {
            assert!(round < 20_000, "seed {seed}: it never comes");
            if is_there(&world) {
                break;
            }
            if rng.one_in(200) {
                world.connect(1, 3);
            }
            if world.network.is_empty() {
                world.tick(HEARTBEAT_INTERVAL_MS / 2);
                continue;
            }
            let pick = rng.below(world.network.len() as u64) as usize;
            match rng.below(10) {
                0 => drop(world.network.remove(pick)),
                1 => world.network.push(world.network[pick].clone()),
                _ => world.deliver(pick),
            }
        }
    }
}

/// While a batch is with the disk, the snapshot waits for the next one; the leader hears of it when that is durable.
#[test]
fn a_snapshot_is_installed_behind_the_batch_under_way() {
    let mut world = World::with_leader(3);
    world.server(3).disk.is_held = true;
    world.propose(1, "held").unwrap();
    world.settle();
    assert_eq!(
        world.servers[&3]
            .disk
            .in_flight
            .as_ref()
            .map(|batch| batch.entries.len()),
        Some(1)
    );
    world.isolate(3);
    for what in ["a", "b", "c"] {
        world.propose(1, what).unwrap();
        world.settle();
    }
    world.take_snapshot(1, 0);
    world.heal();
    world.connect(1, 3);
    world.settle();
    world.pass(2 * HEARTBEAT_INTERVAL_MS);
    assert!(is_there(&world), "memory does not wait");
    assert_eq!(world.raft(3).status().log_durable, Index(1));
    world.persist(3);
    let second = world.servers[&3].disk.in_flight.as_ref();
    assert_eq!(second.and_then(|batch| batch.install), Some(id(5, 1)));
    let matched = |world: &World| {
        world
            .raft(1)
            .status()
            .followers
            .iter()
            .find(|f| f.id == NodeId(3))
            .map(|f| f.match_index)
    };
    assert!(matched(&world) < Some(Index(5)));
    world.persist(3);
    assert_eq!(world.raft(3).status().log_durable, Index(5));
    world.settle();
    assert_eq!(matched(&world), Some(Index(5)));
}

/// A crash before the batch: the file is there, and the next start finishes what was begun.
#[test]
fn a_crash_between_file_and_log_is_finished_at_the_start() {
    let mut world = lagging(5);
    world.server(3).disk.is_held = true;
    deliver_until(&mut world, is_there);
    assert_eq!(world.servers[&3].disk.base, EntryId::default());
    world.crash(3);
    world.server(3).disk.is_held = false;
    world.restart(3);
    assert_eq!(world.raft(3).log().base(), id(6, 1));
    world.connect(1, 3);
    world.settle();
    world.pass(HEARTBEAT_INTERVAL_MS);
    assert_eq!(world.commit_index(3), 6);
}

fn follower(terms: &[u64], term: u64) -> Raft {
    let recovered = Recovered {
        hard_state: HardState {
            term: Term(term),
            vote: None,
        },
        membership: membership(3),
        entries: entries(terms),
        ..Recovered::default()
    };
    Raft::new(options(2, 0), recovered, Ticks(0))
}

fn chunk(last: EntryId) -> Message {
    Message::InstallSnapshot(InstallSnapshot {
        session: 7,
        header: header(last, 0, 3),
        chunk: 0,
        data: bytes::Bytes::new(),
        done: false,
    })
}

fn step(raft: &mut Raft, term: u64, message: Message) {
    raft.step(Envelope {
        from: NodeId(1),
        to: NodeId(2),
        term: Term(term),
        request_id: 9,
        message,
    });
}

/// Raft figure 13, receiver's steps 6 and 7.
#[test]
fn what_follows_the_snapshot_stays_if_the_log_holds_its_last_entry() {
    for (last, stays) in [(id(2, 1), true), (id(2, 2), false), (id(9, 2), false)] {
        let mut raft = follower(&[1, 1, 1, 2], 2);
        assert!(raft.install_snapshot(header(last, 0, 3)));
        assert_eq!(raft.status().commit_index, last.index);
        assert_eq!(raft.log().last(), if stays { id(4, 2) } else { last });
        assert_eq!(raft.status().log_durable, if stays { Index(4) } else { Index(0) });
        let batch = raft.ready().batch.unwrap();
        assert_eq!((batch.install, batch.entries.len()), (Some(last), 0));
        raft.persisted();
        assert_eq!(raft.status().log_durable, raft.log().last().index);
    }
}

/// A follower whose log has the snapshot's last entry needs no snapshot: the entry is committed.
#[test]
fn a_snapshot_of_what_the_log_holds_is_not_sent() {
    let mut raft = follower(&[1, 1, 2], 2);
    step(&mut raft, 2, chunk(id(2, 1)));
    let ready = raft.ready();
    assert!(ready.chunks_to_store.is_empty());
    let Message::InstallSnapshotResponse(answer) = ready.messages[0].message else {
        panic!("{:?}", ready.messages);
    };
    assert!(answer.installed && answer.session == 7 && ready.messages[0].request_id == 9);
    assert_eq!(raft.status().commit_index, Index(2));
}

/// The membership of a snapshot is the committed one at its index; and when one is installed, nothing that was known up
/// to there counts, nor what came later in a log that goes.
#[test]
fn trap_3_41_the_membership_of_a_snapshot_is_the_committed_one() {
    let single = Recovered {
        membership: membership(1),
        ..Recovered::default()
    };
    let mut raft = Raft::new(options(1, 0), single, Ticks(0));
    let persist_all = |raft: &mut Raft| {
        while raft.ready().batch.is_some() {
            raft.persisted()
        }
    };
    raft.tick(raft.deadline());
    persist_all(&mut raft);
    raft.ready();
    raft.record_membership().unwrap();
    let before = raft.snapshot_header(Index(1)).unwrap();
    assert_eq!(
        (before.membership_index, raft.snapshot_header(Index(2))),
        (Index(0), None)
    );
    persist_all(&mut raft);
    raft.ready();
    assert_eq!(raft.snapshot_header(Index(2)).unwrap().membership_index, Index(2));

    let uncommitted = |index, n| Entry {
        id: id(index, 1),
        payload: membership(n).into(),
    };
    for (last, expected) in [
        (id(1, 1), membership(5)),
        (id(2, 1), membership(5)),
        (id(3, 1), membership(2)),
        (id(3, 2), membership(2)),
    ] {
        let recovered = Recovered {
            hard_state: HardState {
                term: Term(2),
                vote: None,
            },
            membership: membership(3),
            entries: [entries(&[1]), vec![uncommitted(2, 4), uncommitted(3, 5)]].concat(),
            ..Recovered::default()
        };
        let mut raft = Raft::new(options(2, 0), recovered, Ticks(0));
        assert_eq!(raft.status().membership, &membership(5));
        assert!(raft.install_snapshot(header(last, 1, 2)));
        assert_eq!(raft.status().membership, &expected, "{last}");
        assert_eq!(raft.snapshot_header(last.index).unwrap(), header(last, 1, 2));
    }
}

/// A snapshot that contradicts what is committed is refused; one of what is committed already is ignored.
#[test]
fn trap_3_42_a_snapshot_never_replaces_what_is_committed() {
    let mut raft = follower(&[1, 2, 2], 2);
    step(&mut raft, 2, chunk(id(2, 2)));
    while raft.ready().batch.is_some() {
        raft.persisted();
    }
    assert_eq!(raft.status().commit_index, Index(2));
    for last in [id(1, 1), id(2, 2), id(2, 1), id(5, 1), id(5, 3), id(0, 0)] {
        assert!(!raft.install_snapshot(header(last, 0, 1)), "{last}");
        raft.ready();
    }
    for last in [id(2, 1), id(1, 2), id(5, 1), id(5, 3)] {
        step(&mut raft, 2, chunk(last));
        let ready = raft.ready();
        assert!(
            ready.messages.is_empty() && ready.chunks_to_store.is_empty() || last == id(1, 2),
            "{last}"
        );
    }
    assert_eq!(
        (raft.log().base(), raft.log().last()),
        (EntryId::default(), id(3, 2))
    );
    assert_eq!(raft.status().membership, &membership(3));
}

/// The leader can't read its snapshot any more: it sends nothing until there is another one, be it of the same state.
#[test]
fn a_lost_snapshot_is_waited_for() {
    let mut world = lagging(5);
    world.server(1).disk.snapshots.clear();
    world.settle();
    world.pass(ELECTION_TIMEOUT_MS);
    assert!(!is_there(&world) && world.raft(1).wants_snapshot());
    world.take_snapshot(1, 0);
    deliver_until(&mut world, is_there);
}

/// A follower that is being sent a snapshot gets what comes after it from the log, also if there is a newer one.
#[test]
fn the_log_after_a_snapshot_under_way_is_kept() {
    let mut world = lagging(20);
    deliver_until(&mut world, |world| chunks(world).contains(&3));
    let sent = world.raft(1).snapshot().last;
    world.propose(1, "more").unwrap();
    world.settle_without(3);
    world.take_snapshot(1, 0);
    assert!(world.raft(1).snapshot().last.index > sent.index);
    assert_eq!(world.raft(1).log().base(), sent);
    deliver_until(&mut world, is_there);
    assert_eq!(world.raft(3).log().base(), sent, "one snapshot was enough");
}

/// A full log takes nothing more, at the leader and at a follower, until a snapshot frees it.
#[test]
fn trap_3_26_a_full_log_waits_for_a_snapshot() {
    let mut world = World::new(3, 0);
    world.max_log_bytes = 300;
    (1..=3).for_each(|id| world.restart(id));
    world.campaign(1);
    world.settle();
    let refused = loop {
        match world.propose(1, "0123456789") {
            Ok(_) => world.settle(),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, ProposeError::LogFull);
    world.pass(HEARTBEAT_INTERVAL_MS);
    let full = world.raft(1).status().last_log.index;
    world.take_snapshot(1, 0);
    world.propose(1, "one more").unwrap();
    world.pass(2 * HEARTBEAT_INTERVAL_MS);
    assert_eq!(
        world.raft(2).status().last_log.index,
        full,
        "the followers' logs are full"
    );
    world.take_snapshot(2, 0);
    world.pass(2 * ELECTION_TIMEOUT_MS);
    assert_eq!(world.commit_index(1), full.0 + 1);
    assert_eq!(world.raft(3).status().last_log.index, full);
}

/// Only of what is committed and still known.
#[test]
fn a_header_is_of_a_committed_entry_that_is_known() {
    let mut world = World::with_leader(3);
    world.settle();
    let header = world.raft(1).snapshot_header(Index(1)).unwrap();
    assert_ne!(header.membership, Membership::NONE);
    assert_eq!(world.raft(1).snapshot_header(Index(0)), None);
    assert_eq!(world.raft(1).snapshot_header(Index(2)), None, "not yet committed");
    world.propose(1, "a").unwrap();
    world.settle();
    world.take_snapshot(1, 0);
    assert_eq!(world.raft(1).snapshot_header(Index(1)), None, "no longer known");
    assert_eq!(
        world.raft(1).snapshot_header(Index(2)).as_ref(),
        Some(world.raft(1).snapshot())
    );
}

/// A leader may apply what only the others' disks hold yet: the log keeps what its own disk has still to write.
#[test]
fn what_is_still_to_be_written_is_not_dropped() {
    let mut world = World::with_leader(3);
    world.server(1).disk.is_held = true;
    for what in ["with the disk", "waits", "waits too"] {
        world.propose(1, what).unwrap();
        world.settle();
    }
    assert_eq!(world.commit_index(1), 4);
    world.take_snapshot(1, 0);
    assert_eq!(
        (world.raft(1).snapshot().last, world.raft(1).log().base()),
        (id(4, 1), id(2, 1))
    );
    world.release_disk(1);
    assert_eq!(world.raft(1).status().log_durable, Index(4));
}

/// A snapshot may end in the midst of a change: both majorities elect and commit, and the next leader ends the change.
#[test]
fn trap_3_41_a_joint_configuration_in_a_snapshot_is_finished() {
    let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
    let joint = Membership {
        voters: ids(&[2]),
        outgoing: ids(&[1, 2]),
        ..Membership::default()
    };
    let recovered = Recovered {
        hard_state: HardState {
            term: Term(3),
            vote: None,
        },
        snapshot: id(5, 3),
        membership: joint,
        membership_index: Index(5),
        ..Recovered::default()
    };
    let mut raft = Raft::new(options(2, 0), recovered, Ticks(0));
    raft.tick(raft.deadline());
    for _ in 0..2 {
        let asked = work(&mut raft);
        assert!(!raft.is_leader(), "server 1 has to agree");
        let (Message::PreVote(request) | Message::RequestVote(request)) = asked.message else {
            panic!("{asked:?}");
        };
        let vote = VoteResponse {
            round: request.round,
            vote_granted: true,
        };
        let answer = match asked.message {
            Message::PreVote(_) => Message::PreVoteResponse(vote),
            _ => Message::RequestVoteResponse(vote),
        };
        step(&mut raft, asked.term.0, answer);
    }
    assert!(raft.is_leader());
    let Message::AppendEntries(request) = work(&mut raft).message else {
        panic!("no entries");
    };
    assert!(raft.status().membership.is_joint(), "nothing is committed yet");
    let answer = AppendEntriesResponse {
        session: request.session,
        sequence: request.sequence,
        prev_log_index: Index(5),
        last_index: Index(6),
        read_round: request.read_round,
        conflict: None,
        recovering: false,
    };
    step(&mut raft, 4, Message::AppendEntriesResponse(answer));
    work(&mut raft);
    let status = raft.status();
    assert_eq!(
        (status.membership.voters.clone(), status.commit_index),
        (ids(&[2]), Index(7))
    );
    assert!(!status.membership.is_joint());
}

/// Does what there is to do, and gives back the last message to server 1.
fn work(raft: &mut Raft) -> Envelope {
    let mut last = None;
    loop {
        let ready = raft.ready();
        if ready.is_empty() {
            return last.expect("a message");
        }
        last = ready
            .messages
            .into_iter()
            .rfind(|envelope| !matches!(envelope.message, Message::Heartbeat(_)))
            .or(last);
        if ready.batch.is_some() {
            raft.persisted();
        }
    }
}
