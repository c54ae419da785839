//! What a history shows: every kind of change, in pieces, from anywhere, and never with a gap.

use std::collections::BTreeMap;

use super::*;
use crate::base::rng::Rng;
use crate::kv::{Command, Condition, Moment, SetAnswer, SetExpiry};

fn bytes(text: impl Into<String>) -> Bytes {
    Bytes::from(text.into())
}

fn set(key: &str, value: &str, expiry: SetExpiry) -> Command {
    Command::Set {
        key: bytes(key),
        value: bytes(value),
        condition: Condition::Always,
        expiry,
        answer: SetAnswer::Status,
    }
}

fn pairs(keys: &[&str]) -> Command {
    let pairs = keys.iter().map(|key| (bytes(*key), bytes("1")));
    Command::MultiSet {
        pairs: pairs.collect(),
    }
}

/// A state and its history.
struct World {
    store: Store,
    history: History,
}

impl World {
    fn new() -> World {
        World {
            store: Store::new(),
            history: History::new(0),
        }
    }

    fn apply(&mut self, time_ms: u64, command: &Command) {
        self.store.apply(self.store.applied() + 1, time_ms, command);
        self.store.record_changes(&mut self.history);
    }

    fn read(&self, cursor: &mut Cursor, prefix: &str) -> Vec<Event> {
        let mut out = Vec::new();
        while self.history.read(cursor, prefix.as_bytes(), &mut out).unwrap() {}
        out
    }

    fn all(&self, from: u64, prefix: &str) -> String {
        let events = self.read(&mut self.history.cursor(Some(from)).unwrap(), prefix);
        format!("{events:?}")
    }
}

#[test]
fn each_kind_of_change_is_shown() {
    let mut world = World::new();
    world.apply(0, &set("a", "1", SetExpiry::Clear));
    world.apply(0, &set("b", "2", SetExpiry::At(Moment::In(10))));
    world.apply(0, &Command::Persist { key: bytes("a") });
    world.apply(
        10,
        &Command::Append {
            key: bytes("b"),
            value: bytes("3"),
        },
    );
    world.apply(
        10,
        &Command::Delete {
            keys: vec![bytes("a"), bytes("a"), bytes("absent")],
        },
    );
    world.apply(10, &set("c", "4", SetExpiry::At(Moment::In(5))));
    world.apply(20, &Command::ExpireDue { limit: 9 });
    world.apply(20, &set("b", "5", SetExpiry::At(Moment::In(0))));
    world.apply(20, &pairs(&["x", "y"]));
    world.apply(20, &Command::FlushAll);
    assert_eq!(
        world.all(0, ""),
        "[1 set a 1, 2 set b 2, 4 expire b, 4 set b 3, 4 mark, 5 del a, 6 set c 4, 7 expire c, 8 del b, \
         9 set x 1, 9 set y 1, 9 mark, 10 del x, 10 del y, 10 mark]"
    );
    assert_eq!(world.all(6, "x"), "[9 set x 1, 10 del x]");
}

#[test]
fn a_key_that_gets_another_expiry_has_another_revision() {
    let mut world = World::new();
    world.apply(0, &set("a", "1", SetExpiry::At(Moment::In(10))));
    world.apply(0, &Command::Persist { key: bytes("a") });
    world.apply(0, &Command::Persist { key: bytes("a") });
    assert_eq!(world.all(0, ""), "[1 set a 1, 2 set a 1]");
}

#[test]
fn a_feed_may_begin_with_a_revision_to_come() {
    let mut world = World::new();
    let mut cursor = world.history.cursor(Some(2)).unwrap();
    assert!(world.read(&mut cursor, "").is_empty());
    assert_eq!(cursor.complete(), 2);
    for key in ["a", "b", "c"] {
        world.apply(0, &set(key, "1", SetExpiry::Clear));
    }
    assert_eq!(format!("{:?}", world.read(&mut cursor, "")), "[3 set c 1]");
    assert_eq!(cursor.complete(), 3);
}

#[test]
fn what_is_not_kept_is_refused_and_never_skipped() {
    let mut world = World::new();
    let (mut idle, mut late) = (
        world.history.cursor(None).unwrap(),
        world.history.cursor(Some(0)).unwrap(),
    );
    let value = "v".repeat(1 << 20);
    for n in 0..40 {
        world.apply(0, &set(&format!("k{n}"), &value, SetExpiry::Clear));
        assert!(world.history.bytes <= HISTORY_MAX_BYTES);
    }
    let oldest = world.history.oldest();
    assert!((24..30).contains(&oldest), "{oldest}");
    let error = world.history.read(&mut late, b"", &mut Vec::new()).unwrap_err();
    assert_eq!(error.code, Code::Compacted);
    assert!(error.text.contains(&format!("is {oldest};")), "{}", error.text);
    assert!(world.history.cursor(Some(oldest - 1)).is_err());
    let first = world.read(&mut world.history.cursor(Some(oldest)).unwrap(), "");
    assert_eq!(first.first().map(Event::revision), Some(oldest + 1));
    // Whoever knows that nothing of it concerned him may go on.
    idle.skip_to(world.history.end(), world.history.newest() + 1);
    assert!(world.read(&mut idle, "").is_empty());
}

#[test]
fn a_revision_of_which_a_part_is_gone_is_incomplete() {
    let mut world = World::new();
    let mut cursor = world.history.cursor(None).unwrap();
    let keys: Vec<String> = (0..BATCH_EVENTS + 9).map(|n| format!("k{n:06}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    world.apply(0, &pairs(&keys));
    let mut out = Vec::new();
    assert!(world.history.read(&mut cursor, b"", &mut out).unwrap());
    assert_eq!((out.len(), cursor.complete()), (BATCH_EVENTS, 0));
    while world.history.first < cursor.sequence + 1 {
        world.apply(0, &set("x", &"v".repeat(1 << 20), SetExpiry::Clear));
    }
    assert!(world.history.read(&mut cursor, b"", &mut out).is_err());
}

#[test]
fn a_flushall_of_more_than_is_kept_begins_a_new_history() {
    let mut world = World::new();
    let keys: Vec<String> = (0..=EVENTS_MAX).map(|n| n.to_string()).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    world.apply(0, &pairs(&keys));
    let mut cursor = world.history.cursor(None).unwrap();
    world.apply(0, &Command::FlushAll);
    world.apply(0, &set("a", "1", SetExpiry::Clear));
    assert!(world.history.read(&mut cursor, b"", &mut Vec::new()).is_err());
    assert_eq!(world.all(2, ""), "[3 set a 1]");
}

#[test]
fn a_jump_of_the_state_begins_a_new_history() {
    let mut world = World::new();
    world.apply(0, &set("a", "1", SetExpiry::Clear));
    let mut cursors = [Some(0), Some(1), Some(6), Some(9)].map(|from| world.history.cursor(from).unwrap());
    world.history.jump(6);
    let results = cursors
        .each_mut()
        .map(|cursor| world.history.read(cursor, b"", &mut Vec::new()).ok());
    assert_eq!(results, [None, None, Some(false), Some(false)]);
}

/// A reader that keeps a map of its own by what it is shown.
struct Reader {
    prefix: &'static str,
    cursor: Cursor,
    keys: BTreeMap<Vec<u8>, Bytes>,
    seen: Vec<Event>,
}

impl Reader {
    fn read_some(&mut self, history: &History) -> bool {
        let mut out = Vec::new();
        let more = history
            .read(&mut self.cursor, self.prefix.as_bytes(), &mut out)
            .unwrap();
        for event in &out {
            match (event.key(), event.value()) {
                (Some(key), Some(value)) => drop(self.keys.insert(key.to_vec(), value.clone())),
                (Some(key), None) => drop(self.keys.remove(key)),
                (None, _) => {}
            }
        }
        self.seen.extend(out);
        more
    }
}

#[test]
fn whoever_follows_the_feed_has_the_state() {
    for seed in 0..50 {
        follow(Rng::new(seed));
    }
}

fn follow(mut rng: Rng) {
    let mut world = World::new();
    let mut readers = ["", "k1", "none"].map(|prefix| Reader {
        prefix,
        cursor: world.history.cursor(None).unwrap(),
        keys: BTreeMap::new(),
        seen: Vec::new(),
    });
    let mut time_ms = 0;
    for _ in 0..300 {
        time_ms += rng.below(3);
        world.apply(time_ms, &any_command(&mut rng));
        for reader in &mut readers {
            if rng.one_in(5) {
                reader.read_some(&world.history);
            }
            if rng.one_in(9) {
                // As on another node: from the last revision that is complete.
                let complete = reader.cursor.complete();
                reader.cursor = world.history.cursor(Some(complete)).unwrap();
                reader.seen.retain(|event| event.revision() <= complete);
            }
        }
    }
    world.apply(time_ms, &Command::ExpireDue { limit: 1000 });
    let view = world.store.view();
    for mut reader in readers {
        while reader.read_some(&world.history) {}
        let keys: BTreeMap<_, _> = view
            .all()
            .map(|(key, record)| (key.as_slice().to_vec(), record.value.clone()))
            .filter(|(key, _)| key.starts_with(reader.prefix.as_bytes()))
            .collect();
        assert_eq!(reader.keys, keys);
        let again = world.read(&mut world.history.cursor(Some(0)).unwrap(), reader.prefix);
        assert_eq!(reader.seen, again, "the same events, however they are read");
    }
}

fn any_command(rng: &mut Rng) -> Command {
    let key = format!("k{}", rng.below(20));
    match rng.below(12) {
        0..4 => set(&key, &rng.below(99).to_string(), SetExpiry::Clear),
        4..6 => set(&key, "short", SetExpiry::At(Moment::In(rng.below(9) as i64))),
        6 => Command::Increment {
            key: bytes(key),
            by: 1,
        },
        7 => Command::Delete {
            keys: vec![bytes(key), bytes("k1"), bytes("k1")],
        },
        8 => pairs(&[&key, "k3", "k3", "k11"]),
        9 => Command::Persist { key: bytes(key) },
        10 => Command::ExpireDue { limit: 2 },
        _ if rng.one_in(9) => Command::FlushAll,
        _ => Command::GetDelete { key: bytes(key) },
    }
}
