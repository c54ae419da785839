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

fn fingerprint(command: &Command) -> u64 {
    xxh3_64(&encode_command(command))
}

/// The refusal when too much is remembered.
pub(super) fn no_room(what: &str) -> Reply {
    let text = format!(
        "the answers remembered for {what} fill {} MiB, the most there may be; nothing was done, try again later",
        ANSWERS_MAX_BYTES >> 20
    );
    Reply::error(Code::Busy, text)
}
