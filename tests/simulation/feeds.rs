//! Readers of change feeds: each follows one node, and goes on at another one from the last revision that it knows to
//! be complete. What they see is what the committed log says, in its order, nothing lost and nothing twice.
//!
//! They only look, so a world takes the same course with and without them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use bytes::Bytes;
use raftline::base::rng::Rng;
use raftline::kv::{self, Code, Cursor, Event, History, Reply, Store};
use raftline::node::{Feed, Operation, Outcome, ReadMode, Request, Submission};
use raftline::raft::{Index, Payload};
use tokio::sync::mpsc;

use crate::node::{Effects, Node};

pub struct Readers {
    rng: Rng,
    list: Vec<Reader>,
    /// The state that the committed log makes, its history, and all events of it.
    store: Store,
    history: History,
    cursor: Cursor,
    events: Vec<Event>,
}

struct Reader {
    prefix: &'static str,
    /// Which process is read from.
    source: Option<Source>,
    /// What it has seen is complete from here on, without this revision.
    from: u64,
    /// Up to here, as a client knows it: by the marks, and by what came later.
    complete: u64,
    seen: Vec<Event>,
}

struct Source {
    node: u64,
    boot: u64,
    feed: Feed,
}

impl Readers {
    pub fn new(seed: u64) -> Readers {
        let history = History::new(0);
        let reader = |prefix| Reader {
            prefix,
            source: None,
            from: 0,
            complete: 0,
            seen: Vec::new(),
        };
        Readers {
            rng: Rng::new(!seed),
            list: ["", "", "k1", "other"].map(reader).into(),
            store: Store::new(),
            cursor: history.cursor(None).expect("the beginning is there"),
            history,
            events: Vec::new(),
        }
    }

    /// These indexes are committed for the first time, and this node knows it.
    pub fn on_committed(&mut self, indexes: RangeInclusive<Index>, node: &Node) {
        let Some(process) = &node.process else { return };
        for index in indexes.start().0..=indexes.end().0 {
            let entry = process
                .machine
                .raft()
                .log()
                .entry(Index(index))
                .expect("it holds it");
            match &entry.payload {
                Payload::Command(bytes) => {
                    let (time_ms, command) = kv::decode_entry(bytes.clone()).expect("a command");
                    self.store.apply(index, time_ms, &command);
                }
                Payload::Noop | Payload::Membership(_) => self.store.advance(index),
            }
            self.store.record_changes(&mut self.history);
            let (cursor, events) = (&mut self.cursor, &mut self.events);
            while self
                .history
                .read(cursor, b"", events)
                .expect("nobody is slow here")
            {}
        }
    }

    /// Everybody reads what there is, or looks for a node to read from.
    pub fn read(&mut self, nodes: &mut BTreeMap<u64, Node>) {
        for reader in &mut self.list {
            reader.source.take_if(|source| {
                let node = &nodes[&source.node];
                node.process.is_none() || node.boot != source.boot
            });
            if reader.source.is_none() || self.rng.one_in(4) {
                let place = self.rng.below(nodes.len() as u64) as usize;
                if let Some(node) = nodes.values_mut().nth(place) {
                    reader.start(node);
                }
            }
            reader.read();
        }
    }

    /// All members have applied the log, and each in turn serves all readers to the end of its own.
    pub fn check(&mut self, nodes: &mut BTreeMap<u64, Node>, members: &[u64]) {
        for member in members {
            for reader in &mut self.list {
                let node = nodes.get_mut(member).expect("a member");
                reader.start(node);
                reader.read();
                // The leader may have removed an expired key meanwhile.
                let process = node.process.as_ref().expect("all members run");
                reader.check(&self.events, process.machine.applied().0.0);
            }
        }
    }
}

impl Reader {
    /// Goes on at this node, if that serves feeds.
    fn start(&mut self, node: &mut Node) {
        let (id, boot) = (node.id, node.boot);
        let Some(process) = &mut node.process else { return };
        self.source = None;
        // What was seen of a revision that is not complete comes again.
        self.seen.retain(|event| event.revision() <= self.complete);
        let (answers, mut inbox) = mpsc::unbounded_channel();
        let operation = Operation::Feed {
            prefix: Bytes::from(self.prefix),
            from: Some(self.complete),
            mode: ReadMode::Stale,
        };
        let requests = vec![Request { ticket: 0, operation }];
        let submission = Submission { requests, answers };
        process.machine.submit(submission, &mut Effects::default());
        match inbox.try_recv().expect("an answer at once").outcome {
            Outcome::Feed(feed) => self.source = Some(Source { node: id, boot, feed }),
            Outcome::Reply(Reply::Error(error)) if error.code == Code::Compacted => {
                self.begin_anew(process.machine.applied().0.0);
            }
            Outcome::Reply(Reply::Error(error)) if error.code == Code::ClusterDown => {}
            Outcome::Reply(Reply::Error(error)) if error.code == Code::Busy => {}
            other => panic!("fitting answers: FEED was answered {other:?}"),
        }
    }

    /// What it has missed is no longer there: it would read the keys, and goes on from there.
    fn begin_anew(&mut self, applied: u64) {
        self.seen.clear();
        self.from = self.complete.max(applied);
        self.complete = self.from;
    }

    fn read(&mut self) {
        let Some(source) = &self.source else { return };
        let mut events = Vec::new();
        loop {
            match source.feed.read(&mut events) {
                Ok(true) => {}
                Ok(false) => {
                    // What the bookmark would say.
                    events.push(Event::mark(source.feed.complete()));
                    break;
                }
                // The next node will say what is to be done.
                Err(_) => break self.source = None,
            }
        }
        for event in events {
            if event.kind() == "mark" {
                self.complete = self.complete.max(event.revision());
            } else {
                self.complete = self.complete.max(event.revision() - 1);
                self.seen.push(event);
            }
        }
    }

    fn check(&self, events: &[Event], applied: u64) {
        let is_mine = |event: &&Event| {
            let key = event.key().unwrap_or_default();
            let is_asked_for = event.kind() != "mark" && key.starts_with(self.prefix.as_bytes());
            is_asked_for && event.revision() > self.from && event.revision() <= self.complete
        };
        let expected: Vec<&Event> = events.iter().filter(is_mine).collect();
        let seen: Vec<&Event> = self.seen.iter().collect();
        assert!(
            seen == expected,
            "feeds are complete: a reader of {:?} from {} on saw {seen:?}, and the log says {expected:?}",
            self.prefix,
            self.from
        );
        assert!(
            self.complete >= applied,
            "feeds are complete: a reader has read up to {}, and the node has applied {applied}",
            self.complete
        );
    }
}
