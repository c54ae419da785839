//! What is remembered of a request that must be carried out once: its command, as a hash, and its reply.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::keyspace::hash_words;
use super::{Code, Command, Reply, decode_reply, encode_command, encode_reply};

/// So many bytes of answers are remembered for ONCE, and as many for SEQ; the last reply may pass it. When they are
/// there, new requests are refused: to forget an answer early would let a late repeat through.
pub const ANSWERS_MAX_BYTES: u64 = 256 << 20;

/// What an answer takes beside its reply and the token.
const ANSWER_BYTES: u64 = 200;

/// An answer that a repeat gets.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// A hash of the command.
    pub(super) fingerprint: u64,
    /// The reply, encoded.
    pub(super) reply: Bytes,
}

impl Answer {
    pub(super) fn new(command: &Command, reply: &Reply) -> Answer {
        Answer {
            fingerprint: fingerprint(command),
            reply: encode_reply(reply),
        }
    }

    /// The same reply for the same command. Another one is refused: its sender has mixed something up.
    pub(super) fn repeat(&self, command: &Command) -> Reply {
        if fingerprint(command) != self.fingerprint {
            let text = "this token or number has been used for another command; nothing was done";
            return Reply::error(Code::Err, text);
        }
        decode_reply(self.reply.clone()).unwrap_or_else(|_| {
            // It was encoded here, or read back when a snapshot was restored.
            Reply::error(
                Code::UnknownResult,
                "the command was done before, and its reply can't be read",
            )
        })
    }

    pub(super) fn weight(&self) -> u64 {
        hash_words([self.fingerprint, xxh3_64(&self.reply)])
    }

    pub(super) fn bytes(&self) -> u64 {
        self.reply.len() as u64 + ANSWER_BYTES
    }
}

/// Of a transaction its steps alone: a repeat on another connection has watched other revisions, or none.
fn fingerprint(command: &Command) -> u64 {
    let Command::Transaction { watched, steps } = command else {
        return xxh3_64(&encode_command(command));
    };
    if watched.is_empty() {
        return xxh3_64(&encode_command(command));
    }
    let (watched, steps) = (Vec::new(), steps.clone());
    xxh3_64(&encode_command(&Command::Transaction { watched, steps }))
}

/// The refusal when too much is remembered.
pub(super) fn no_room(what: &str) -> Reply {
    let text = format!(
        "the answers remembered for {what} fill {} MiB, the most there may be; nothing was done, try again later",
        ANSWERS_MAX_BYTES >> 20
    );
    Reply::error(Code::Busy, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Query, Step};

    #[test]
    fn what_a_transaction_has_watched_may_differ_and_its_steps_may_not() {
        let transaction = |revision: Option<u64>, key: &'static str| Command::Transaction {
            watched: revision
                .map(|revision| (Bytes::from("w"), revision))
                .into_iter()
                .collect(),
            steps: vec![Step::Read(Query::Get(key.into()))],
        };
        let answer = Answer::new(&transaction(Some(7), "k"), &Reply::Nil);
        for again in [Some(7), Some(8), None] {
            assert_eq!(answer.repeat(&transaction(again, "k")), Reply::Nil);
        }
        assert!(matches!(
            answer.repeat(&transaction(Some(7), "l")),
            Reply::Error(_)
        ));
    }
}
