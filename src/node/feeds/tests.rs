//! Who is told of what, and what the readers then find.

use std::pin::pin;
use std::task::{Context, Waker};

use super::*;
use crate::base::rng::Rng;
use crate::kv::{Code, Command, EVENTS_MAX};

struct World {
    feeds: Feeds,
    store: Store,
}

impl World {
    fn new() -> World {
        World {
            feeds: Feeds::new(0),
            store: Store::new(),
        }
    }

    /// One entry, without telling anybody.
    fn write(&mut self, keys: &[&str]) {
        let pairs = keys
            .iter()
            .map(|key| (Bytes::copy_from_slice(key.as_bytes()), Bytes::from_static(b"1")));
        let pairs = pairs.collect();
        self.store
            .apply(self.store.applied() + 1, 0, &Command::MultiSet { pairs });
        self.feeds.record(&mut self.store);
    }

    fn start(&self, prefix: &str, from: Option<u64>) -> Feed {
        let feed = self
            .feeds
            .start(Bytes::copy_from_slice(prefix.as_bytes()), from)
            .unwrap();
        // What a new feed begins with.
        assert!(take_news(&feed));
        feed
    }
}

/// Whether the reader was woken since the last time.
fn take_news(feed: &Feed) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    pin!(feed.changed()).poll(&mut context).is_ready()
}

fn read(feed: &Feed) -> String {
    let mut events = Vec::new();
    while feed.read(&mut events).unwrap() {}
    format!("{events:?}")
}

#[test]
fn those_are_told_whom_a_change_concerns_and_once_until_they_read() {
    let mut world = World::new();
    let (all, a, b) = (
        world.start("", None),
        world.start("a", None),
        world.start("b", None),
    );
    for feed in [&all, &a, &b] {
        assert_eq!(read(feed), "[]");
    }
    world.write(&["a1"]);
    assert!(!take_news(&a), "not before the turn's end");
    world.write(&["a2"]);
    world.feeds.tell();
    assert_eq!([&all, &a, &b].map(take_news), [true, true, false]);
    world.write(&["a3", "b4"]);
    world.feeds.tell();
    assert_eq!([&all, &a, &b].map(take_news), [false, false, true]);
    assert_eq!(read(&a), "[1 set a1 1, 2 set a2 1, 3 set a3 1]");
    assert_eq!(read(&b), "[3 set b4 1]");
    assert_eq!(
        read(&all),
        "[1 set a1 1, 2 set a2 1, 3 set a3 1, 3 set b4 1, 3 mark]"
    );
    assert_eq!([&all, &a, &b].map(Feed::complete), [3, 3, 3]);
}

#[test]
fn a_reader_of_quiet_keys_loses_nothing_when_the_history_moves_on() {
    let mut world = World::new();
    let quiet = world.start("quiet", None);
    assert_eq!(read(&quiet), "[]");
    let busy = world.start("busy", None);
    for _ in 0..EVENTS_MAX / 50 + 9 {
        world.write(&["busy"; 50]);
        world.feeds.tell();
    }
    assert!(!take_news(&quiet));
    world.write(&["quiet"]);
    world.feeds.tell();
    let revision = world.store.applied();
    assert_eq!(read(&quiet), format!("[{revision} set quiet 1]"));
    let error = busy.read(&mut Vec::new()).unwrap_err();
    assert_eq!(error.code, Code::Compacted, "{error}");
}

#[test]
fn nobody_goes_on_over_a_gap_that_nobody_has_looked_at() {
    let world = World::new();
    let (quiet, later) = (world.start("quiet", None), world.start("", Some(1 << 40)));
    read(&quiet);
    read(&later);
    world.feeds.jump(77);
    world.feeds.tell();
    assert_eq!(quiet.read(&mut Vec::new()).unwrap_err().code, Code::Compacted);
    assert_eq!(read(&later), "[]");
    assert_eq!(later.complete(), 1 << 40);
    assert_eq!(world.start("", None).complete(), 77);
}

#[test]
fn an_end_is_told_to_all_and_a_reader_that_leaves_leaves_nothing() {
    let mut world = World::new();
    let (one, other) = (world.start("a", None), world.start("a", None));
    world.write(&["a"]);
    world.feeds.end(&Error {
        code: Code::ReadOnly,
        text: "over".into(),
    });
    for feed in [&one, &other] {
        assert!(take_news(feed));
        assert_eq!(
            feed.read(&mut Vec::new()).unwrap_err().to_string(),
            "READONLY over"
        );
    }
    drop(one);
    assert_eq!(world.feeds.len(), 1);
    drop(other);
    assert_eq!(world.feeds.len(), 0);
    assert!(lock(&world.feeds.shared).by_prefix.is_empty());
}

#[test]
fn prefixes_are_found_as_by_looking_at_all() {
    let mut rng = Rng::new(7);
    for _ in 0..2000 {
        let word = |rng: &mut Rng| -> Vec<u8> {
            let length = rng.below(6);
            (0..length)
                .map(|_| [0, b'a', b'b', 255][rng.below(4) as usize])
                .collect()
        };
        let table: BTreeMap<Bytes, ()> = (0..rng.below(12))
            .map(|_| (Bytes::from(word(&mut rng)), ()))
            .collect();
        let key = word(&mut rng);
        let found: Vec<&Bytes> = matching(&table, &key).map(|(prefix, ())| prefix).collect();
        let expected: Vec<&Bytes> = table.keys().rev().filter(|p| key.starts_with(p)).collect();
        assert_eq!(found, expected, "{key:?} in {table:?}");
    }
}
