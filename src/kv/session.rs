//! SESSION and SEQ: the numbered commands of a session are carried out once each.
//!
//! A session remembers the replies to its newest numbers. A number below them is refused, whether or not it ever came,
//! and so is everything of a session that has ended: however late a repeat comes, it does nothing. A session ends
//! when it was not used for its life, by the time of the log. What it takes is bounded by its window, so that SEQ goes
//! on for as long as one likes, where ONCE fills its table.
//!
//! The number of a session is the index of the entry that opened it, so it is never given twice.

use imbl::OrdMap;

use super::answer::{ANSWERS_MAX_BYTES, Answer, no_room};
use super::keyspace::hash_words;
use super::timed::{Table, Timed};
use super::{Code, Command, Reply, Store, Write, integer};

/// So many sessions at most.
pub const SESSIONS_MAX: usize = 10_000;

/// A session remembers the replies to so many of its newest numbers, and takes them in any order.
pub const SEQ_WINDOW: u64 = 128;

/// What a session takes beside its answers: one node of its map.
const SESSION_BYTES: u64 = 4096;

/// Sessions by their numbers.
pub(super) type Sessions = Table<u64, Session>;

/// A session.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// Its life when nobody uses it, in milliseconds.
    pub(super) life_ms: u64,
    /// When it ends: milliseconds since 1970-01-01 UTC.
    pub(super) deadline_ms: u64,
    /// The greatest number that has come; 0 before the first.
    newest: u64,
    /// Of numbers above `newest` - [`SEQ_WINDOW`].
    answers: OrdMap<u64, Answer>,
    /// The wrapping sum of the weights of the answers, and the sum of their bytes.
    sum: u64,
    bytes: u64,
}

impl Timed<u64> for Session {
    fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    fn weight(&self, id: &u64) -> u64 {
        let tag = u64::from_le_bytes(*b"session\0");
        hash_words([tag, *id, self.life_ms, self.deadline_ms, self.newest, self.sum])
    }

    fn bytes(&self, _id: &u64) -> u64 {
        self.bytes + SESSION_BYTES
    }
}

impl Session {
    /// A session of which only this is known.
    pub(super) fn new(life_ms: u64, deadline_ms: u64) -> Session {
        Session {
            life_ms,
            deadline_ms,
            newest: 0,
            answers: OrdMap::default(),
            sum: 0,
            bytes: 0,
        }
    }

    /// The answers by their numbers.
    pub(super) fn answers(&self) -> &OrdMap<u64, Answer> {
        &self.answers
    }

    /// Remembers an answer and forgets those that fall out of the window.
    pub(super) fn remember(&mut self, n: u64, answer: Answer) {
        self.newest = self.newest.max(n);
        self.sum = self.sum.wrapping_add(weight(n, &answer));
        self.bytes += answer.bytes();
        self.answers.insert(n, answer);
        while let Some((n, _)) = self.answers.get_min().filter(|(n, _)| self.is_too_old(*n)) {
            let n = *n;
            if let Some(old) = self.answers.remove(&n) {
                self.sum = self.sum.wrapping_sub(weight(n, &old));
                self.bytes -= old.bytes();
            }
        }
    }

    fn is_too_old(&self, n: u64) -> bool {
        n.saturating_add(SEQ_WINDOW) <= self.newest
    }

    /// The same, with everything counted anew.
    pub(super) fn recounted(&self) -> Session {
        let mut again = Session::new(self.life_ms, self.deadline_ms);
        for (n, answer) in &self.answers {
            again.remember(*n, answer.clone());
        }
        again
    }
}

fn weight(n: u64, answer: &Answer) -> u64 {
    hash_words([n, answer.weight()])
}

impl Write<'_> {
    pub(super) fn open_session(&mut self, life_ms: u64) -> Reply {
        if self.sessions.len() >= SESSIONS_MAX {
            let text = format!("there are {SESSIONS_MAX} sessions, the most there may be; nothing was done");
            return Reply::error(Code::Busy, text);
        }
        let deadline_ms = self.time_ms.saturating_add(life_ms);
        self.sessions.put(self.index, Session::new(life_ms, deadline_ms));
        integer(self.index)
    }

    pub(super) fn close_session(&mut self, id: u64) -> Reply {
        match self.sessions.remove(&id) {
            Some(session) if session.deadline_ms > self.time_ms => Reply::Ok,
            _ => no_session(id),
        }
    }
}

impl Store {
    pub(super) fn seq(&mut self, id: u64, n: u64, command: &Command) -> Reply {
        let session = self.sessions.get(&id);
        let Some(session) = session.filter(|session| session.deadline_ms > self.time_ms) else {
            return no_session(id);
        };
        if let Some(answer) = session.answers.get(&n) {
            let reply = answer.repeat(command);
            self.renew(id);
            return reply;
        }
        if session.is_too_old(n) {
            let text = format!(
                "number {n} of session {id} is {SEQ_WINDOW} or more behind {}, the newest: whether it was done before \
                 is not remembered; now nothing was done",
                session.newest
            );
            return Reply::error(Code::Err, text);
        }
        if self.sessions.bytes() >= ANSWERS_MAX_BYTES {
            return no_room("SEQ");
        }
        let reply = self.carry_out(command);
        let answer = Answer::new(command, &reply);
        self.sessions.update(&id, |session| session.remember(n, answer));
        self.renew(id);
        reply
    }

    fn renew(&mut self, id: u64) {
        let time_ms = self.time_ms;
        self.sessions.update(&id, |session| {
            session.deadline_ms = time_ms.saturating_add(session.life_ms);
        });
    }
}

fn no_session(id: u64) -> Reply {
    let text = format!("there is no session {id}: it has ended or was never opened; nothing was done");
    Reply::error(Code::NoSession, text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use super::*;
    use crate::base::rng::Rng;
    use crate::kv::Error;

    /// Numbers in any order, many of them again, around a front that moves: each is done once, or refused.
    #[test]
    fn each_number_counts_once() {
        let mut rng = Rng::new(9);
        let mut store = Store::new();
        store.apply(1, 0, &Command::OpenSession { life_ms: 1000 });
        let increment = || Command::Increment {
            key: Bytes::from_static(b"k"),
            by: 1,
        };
        let (mut count, mut newest) = (0, 0);
        let mut replies = BTreeMap::new();
        for index in 2..5000 {
            let front = index / 4;
            let n = (front + rng.below(40)).saturating_sub(rng.below(220)).max(1);
            let seq = Command::Seq {
                session: 1,
                n,
                command: Box::new(increment()),
            };
            let reply = store.apply(index, index, &seq);
            if n + SEQ_WINDOW <= newest {
                assert!(
                    matches!(&reply, Reply::Error(error) if error.code == Code::Err),
                    "{n}: {reply:?}"
                );
                continue;
            }
            newest = newest.max(n);
            let first = replies.entry(n).or_insert_with(|| {
                count += 1;
                Reply::Integer(count)
            });
            assert_eq!(reply, *first, "{n} at {index}");
            let session = store.sessions.get(&1).unwrap();
            assert!(session.answers.len() <= SEQ_WINDOW as usize);
            let again = session.recounted();
            assert_eq!((session.sum, session.bytes), (again.sum, again.bytes));
        }
        assert!(count > 1000 && replies.len() < 4000);
        assert_eq!(store.hash(), store.view().recompute_hash());
        store.sessions.check();
    }

    #[test]
    fn a_session_that_closes_itself_is_gone() {
        let mut store = Store::new();
        store.apply(1, 0, &Command::OpenSession { life_ms: 1000 });
        let close = Command::Seq {
            session: 1,
            n: 1,
            command: Box::new(Command::CloseSession { id: 1 }),
        };
        assert_eq!(store.apply(2, 0, &close), Reply::Ok);
        assert_eq!(store.apply(3, 0, &close), no_session(1));
        assert_eq!((store.sessions_len(), store.sessions.sum()), (0, 0));
    }

    #[test]
    fn sessions_and_what_they_remember_are_bounded() {
        let mut store = Store::new();
        let mut index = 0;
        let mut apply = |store: &mut Store, command: &Command| {
            index += 1;
            store.apply(index, 0, command)
        };
        for _ in 0..SESSIONS_MAX {
            apply(&mut store, &Command::OpenSession { life_ms: 1 });
        }
        let busy = |reply| matches!(reply, Reply::Error(Error { code: Code::Busy, .. }));
        assert!(busy(apply(&mut store, &Command::OpenSession { life_ms: 1 })));
        let seq = |n| Command::Seq {
            session: 1,
            n,
            command: Box::new(Command::FlushAll),
        };
        store
            .sessions
            .fill(ANSWERS_MAX_BYTES - store.sessions.bytes() - 300);
        assert_eq!(apply(&mut store, &seq(1)), Reply::Ok);
        assert_eq!(apply(&mut store, &seq(2)), Reply::Ok);
        assert!(busy(apply(&mut store, &seq(3))));
        assert_eq!(apply(&mut store, &seq(2)), Reply::Ok, "remembered");
    }
}
