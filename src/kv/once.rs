//! ONCE: a command with a token is carried out once, however often it comes and by whichever way.
//!
//! The token and the reply are part of the state. A repeat is an entry like any other, also when it is proposed
//! before the first one is applied: whichever is applied second finds the token and is answered from memory. A token
//! is remembered for its window, by the time of the log, and never forgotten before: when there is no more room, new
//! tokens are refused.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::answer::{ANSWERS_MAX_BYTES, Answer, no_room};
use super::key::Key;
use super::keyspace::hash_words;
use super::timed::{Table, Timed};
use super::{Command, Reply, Store};

/// A token has 1 to this many bytes.
pub const TOKEN_MAX_BYTES: usize = 256;

/// Tokens by their bytes.
pub(super) type Tokens = Table<Key, Token>;

/// A token that has come.
#[derive(Clone, Debug)]
pub(super) struct Token {
    /// Until when it is remembered: milliseconds since 1970-01-01 UTC.
    pub(super) deadline_ms: u64,
    pub(super) answer: Answer,
}

impl Timed<Key> for Token {
    fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    fn weight(&self, token: &Key) -> u64 {
        hash_words([xxh3_64(token.as_slice()), self.deadline_ms, self.answer.weight()])
    }

    fn bytes(&self, token: &Key) -> u64 {
        token.as_slice().len() as u64 + self.answer.bytes()
    }
}

impl Store {
    pub(super) fn once(&mut self, token: &Bytes, window_ms: u64, command: &Command) -> Reply {
        let token = Key::new(token);
        let known = self.tokens.get(&token);
        if let Some(known) = known.filter(|known| known.deadline_ms > self.time_ms) {
            return known.answer.repeat(command);
        }
        if self.tokens.bytes() >= ANSWERS_MAX_BYTES {
            return no_room("ONCE within limits.once_window");
        }
        let reply = self.carry_out(command);
        let token_then = Token {
            deadline_ms: self.time_ms.saturating_add(window_ms),
            answer: Answer::new(command, &reply),
        };
        self.tokens.put(token, token_then);
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Code, Error};

    #[test]
    fn what_is_remembered_is_bounded_and_no_token_goes_early() {
        let mut store = Store::new();
        let once = |token: u64| Command::Once {
            token: Bytes::from(format!("{token:0>256}")),
            window_ms: 1000,
            command: Box::new(Command::Increment {
                key: Bytes::from_static(b"k"),
                by: 1,
            }),
        };
        let apply = |store: &mut Store, time_ms, command: &Command| {
            let index = store.applied() + 1;
            store.apply(index, time_ms, command)
        };
        // Room for about ten tokens more.
        store.tokens.fill(ANSWERS_MAX_BYTES - 10 * 458);
        let is_busy = |reply: &Reply| matches!(reply, Reply::Error(Error { code: Code::Busy, .. }));
        let done = (0..20)
            .take_while(|n| !is_busy(&apply(&mut store, 1, &once(*n))))
            .count();
        assert!((9..=11).contains(&done), "{done}");
        assert_eq!(apply(&mut store, 1, &once(0)), Reply::Integer(1), "remembered");
        assert_eq!(
            apply(&mut store, 1001, &Command::ExpireDue { limit: 100 }),
            Reply::Integer(done as i64)
        );
        assert_eq!(
            apply(&mut store, 1001, &once(0)),
            Reply::Integer(done as i64 + 1),
            "forgotten"
        );
    }
}
