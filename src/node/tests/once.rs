//! Writes that are sent again (traps 3.49 and 3.50).

use super::*;

fn increment() -> Command {
    Command::Increment {
        key: Bytes::from_static(b"n"),
        by: 1,
    }
}

fn once(token: &'static str) -> Operation {
    Operation::Write(Command::Once {
        token: Bytes::from_static(token.as_bytes()),
        window_ms: 60_000,
        command: Box::new(increment()),
    })
}

#[test]
fn two_at_once_on_two_nodes_have_one_effect_and_equal_answers() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    world.reply(leader, Operation::Write(increment()));
    let mut inboxes: Vec<_> = (1..=3).map(|id| world.ask(id, once("t"))).collect();
    world.pass(100);
    for inbox in &mut inboxes {
        assert_eq!(answer(inbox), Some(Reply::Integer(2)));
    }
    assert_eq!(world.reply(leader, get("n")), value("2"));
}

#[test]
fn a_repeat_after_an_unknown_result_is_harmless_with_the_next_leader() {
    let (mut world, old) = World::with_leader(3, |_| {});
    let session = match world.reply(old, Operation::Write(Command::OpenSession { life_ms: 60_000 })) {
        Reply::Integer(id) => id as u64,
        other => panic!("no session: {other:?}"),
    };
    let seq = || {
        Operation::Write(Command::Seq {
            session,
            n: 1,
            command: Box::new(increment()),
        })
    };
    // Whether the answers arrive is nobody's business.
    let asked = 1 + old % 3;
    drop([world.ask(asked, once("t")), world.ask(asked, seq())]);
    world.pass(50);
    assert_eq!(world.reply(old, get("n")), value("2"));
    world.cut = vec![old];
    let new = world.wait_for_leader();
    world.pass(200);
    for id in (1..=3).filter(|id| *id != old) {
        assert_eq!(world.reply(id, once("t")), Reply::Integer(1), "node {id}");
        assert_eq!(world.reply(id, seq()), Reply::Integer(2), "node {id}");
    }
    assert_eq!(world.reply(new, get("n")), value("2"));
}

#[test]
fn tokens_and_sessions_go_by_themselves_when_their_time_is_up() {
    let (mut world, leader) = World::with_leader(3, |_| {});
    let token = Operation::Write(Command::Once {
        token: Bytes::from_static(b"t"),
        window_ms: 500,
        command: Box::new(Command::OpenSession { life_ms: 700 }),
    });
    let reply = world.reply(leader, token.clone());
    assert_eq!(world.reply(leader, token.clone()), reply);
    world.pass(1000);
    for id in 1..=3 {
        let store = &world.machine(id).store;
        assert_eq!((store.tokens_len(), store.sessions_len()), (0, 0), "node {id}");
    }
    assert_ne!(world.reply(leader, token), reply);
}
