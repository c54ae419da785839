//! Transactions: several steps in one entry, and nothing of another client between them.
//!
//! The watched revisions are compared when the entry is applied: is one of them another than the client has seen,
//! no step is done. A step that fails does not undo the others, as in Redis; all that write give their keys the
//! entry's revision.
//!
//! One entry must neither stop the node nor answer with more than one frame between nodes holds. What a few bytes
//! can ask for (APPEND to a large value, GET of one) is therefore counted, the same on every node, and a step that
//! would pass the bounds is refused.

use bytes::Bytes;

use super::{Code, Command, Query, Reply, SetAnswer, Step, Store, VALUE_MAX_BYTES, refusal};

/// A transaction has at most this many steps.
pub const STEPS_MAX: usize = 16_384;

/// The encoding of a reply to a [`Command`] has at most this many bytes: a value, or what the steps of a transaction
/// answer with.
pub const REPLY_MAX_BYTES: usize = 7 << 20;

/// The values that the steps of one transaction answer with, in bytes. Replies without a value are short; 2 MiB are
/// left for so many of them as there may be steps.
const ANSWERED_MAX_BYTES: usize = REPLY_MAX_BYTES - (2 << 20);

/// The values that the steps of one transaction write or read through, in bytes: some 50 ms.
const HANDLED_MAX_BYTES: usize = 64 << 20;

/// What is left for the steps to come.
struct Room {
    answered: usize,
    handled: usize,
}

impl Room {
    fn take(&mut self, handled: usize, answered: usize) -> bool {
        let fits = handled <= self.handled && answered <= self.answered;
        if fits {
            self.handled -= handled;
            self.answered -= answered;
        }
        fits
    }
}

impl Store {
    pub(super) fn transaction(&mut self, watched: &[(Bytes, u64)], steps: &[Step]) -> Reply {
        if watched
            .iter()
            .any(|(key, revision)| self.revision(key) != *revision)
        {
            return Reply::Nil;
        }
        let mut room = Room {
            answered: ANSWERED_MAX_BYTES,
            handled: HANDLED_MAX_BYTES,
        };
        Reply::List(steps.iter().map(|step| self.step(step, &mut room)).collect())
    }

    fn step(&mut self, step: &Step, room: &mut Room) -> Reply {
        match step {
            Step::Write(command) => {
                if room.take(self.handles(command), self.answers(command)) {
                    return refusal(command).unwrap_or_else(|| self.carry_out(command));
                }
            }
            Step::Read(query) => {
                let reply = self.query(query, self.time_ms);
                if room.take(0, length(&reply)) {
                    return reply;
                }
            }
        }
        Reply::error(
            Code::Err,
            "too many bytes for one transaction; this step was not done",
        )
    }

    /// How many bytes of values a command writes or reads through, at most.
    fn handles(&self, command: &Command) -> usize {
        match command {
            Command::Set { value, .. } => value.len(),
            Command::MultiSet { pairs } | Command::MultiSetIfAbsent { pairs } => {
                pairs.iter().map(|(_, value)| value.len()).sum()
            }
            Command::Append { key, value } => self.length(key) + value.len(),
            Command::SetRange { key, offset, value } => {
                let end =
                    usize::try_from(*offset).map_or(usize::MAX, |offset| offset.saturating_add(value.len()));
                // Beyond the longest value it is an error and writes nothing.
                self.length(key).max(end.min(VALUE_MAX_BYTES))
            }
            Command::DeleteIfEqual { key, .. } | Command::IncrementFloat { key, .. } => self.length(key),
            Command::Rename { from, .. } | Command::Copy { from, .. } => self.length(from),
            _ => 0,
        }
    }

    /// How many bytes of values a command answers with, at most.
    fn answers(&self, command: &Command) -> usize {
        match command {
            Command::Set { key, answer, .. } if *answer == SetAnswer::OldValue => self.length(key),
            Command::GetDelete { key } | Command::GetExpire { key, .. } => self.length(key),
            _ => 0,
        }
    }

    fn length(&self, key: &[u8]) -> usize {
        self.get(key).map_or(0, |record| record.value.len())
    }

    /// By how much the bytes may grow, see [`Store::growth`].
    pub(super) fn growth_of_steps(&self, steps: &[Step]) -> u64 {
        let growth = |step: &Step| match step {
            // What it copies may have been made by a step before it.
            Step::Write(Command::Copy { to, .. }) => (to.len() + VALUE_MAX_BYTES) as u64,
            Step::Write(command) => self.growth(command),
            Step::Read(_) => 0,
        };
        steps.iter().map(growth).fold(0, u64::saturating_add)
    }
}

/// About how many bytes a reply takes.
fn length(reply: &Reply) -> usize {
    match reply {
        Reply::Value(value) => value.len(),
        Reply::List(replies) => replies.iter().map(|reply| length(reply) + 10).sum(),
        Reply::Ok | Reply::Text(_) | Reply::Integer(_) | Reply::Nil | Reply::Error(_) => 0,
    }
}

/// Why a transaction is refused as a whole.
pub(super) fn refusal_of_steps(steps: &[Step]) -> Option<Reply> {
    if steps.len() > STEPS_MAX {
        let text = format!("a transaction has at most {STEPS_MAX} steps; nothing was done");
        return Some(Reply::error(Code::Err, text));
    }
    let is_step = |step: &Step| match step {
        Step::Write(command) => command.may_be_step(),
        Step::Read(_) => true,
    };
    let text = "this command may not be part of a transaction; nothing was done";
    (!steps.iter().all(is_step)).then(|| Reply::error(Code::Err, text))
}

impl Step {
    /// The keys it names.
    pub fn keys(&self) -> Box<dyn Iterator<Item = &Bytes> + '_> {
        match self {
            Step::Write(command) => Box::new(command.keys()),
            Step::Read(query) => Box::new(query.keys()),
        }
    }
}

impl Query {
    /// The keys it names, in the order in which it names them.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        let (one, many): (Option<&Bytes>, &[Bytes]) = match self {
            Query::Get(key)
            | Query::Length(key)
            | Query::Type(key)
            | Query::TimeToLive { key, .. }
            | Query::Slice { key, .. }
            | Query::ExpireTime { key, .. }
            | Query::Revision(key) => (Some(key), &[]),
            Query::MultiGet(keys) | Query::Exists(keys) | Query::Revisions(keys) => (None, keys),
            Query::Size | Query::Lease(_) => (None, &[]),
        };
        one.into_iter().chain(many)
    }
}

impl Command {
    /// Whether it may be a step of a transaction: what a client can send, but no transaction.
    pub fn may_be_step(&self) -> bool {
        match self {
            Command::Set { .. }
            | Command::Delete { .. }
            | Command::DeleteIfEqual { .. }
            | Command::GetDelete { .. }
            | Command::GetExpire { .. }
            | Command::Increment { .. }
            | Command::IncrementFloat { .. }
            | Command::Append { .. }
            | Command::SetRange { .. }
            | Command::MultiSet { .. }
            | Command::MultiSetIfAbsent { .. }
            | Command::Rename { .. }
            | Command::Copy { .. }
            | Command::Expire { .. }
            | Command::Persist { .. }
            | Command::FlushAll
            | Command::RenewLease { .. }
            | Command::RevokeLease { .. } => true,
            // The number of a lease or a session is the entry's index, so one entry makes one at most.
            Command::GrantLease { .. }
            | Command::OpenSession { .. }
            | Command::CloseSession { .. }
            | Command::Once { .. }
            | Command::Seq { .. }
            | Command::Transaction { .. }
            | Command::RenewLeases
            | Command::ExpireDue { .. }
            | Command::Bootstrap { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::encode_reply;

    fn transaction(steps: Vec<Step>) -> Command {
        let watched = vec![];
        Command::Transaction { watched, steps }
    }

    fn append(bytes: usize) -> Step {
        let (key, value) = (Bytes::from("k"), Bytes::from(vec![b'v'; bytes]));
        Step::Write(Command::Append { key, value })
    }

    fn refused(reply: &Reply) -> usize {
        let Reply::List(replies) = reply else {
            panic!("{reply:?}")
        };
        let too_many =
            |reply: &&Reply| matches!(reply, Reply::Error(error) if error.text.starts_with("too many bytes"));
        replies.iter().filter(too_many).count()
    }

    #[test]
    fn replies_stay_within_their_bound_and_what_is_refused_is_not_done() {
        let mut store = Store::new();
        let key = Bytes::from("k");
        store.apply(1, 0, &transaction(vec![append(VALUE_MAX_BYTES)]));
        let get = Step::Read(Query::Get(key.clone()));
        let reply = store.apply(2, 0, &transaction(vec![get.clone(), get, append(1)]));
        assert_eq!(refused(&reply), 1);
        assert!(encode_reply(&reply).len() <= REPLY_MAX_BYTES);
        let take = Step::Write(Command::GetDelete { key: key.clone() });
        let piece = Step::Read(Query::Slice {
            key: key.clone(),
            start: 0,
            end: 2 << 20,
        });
        let reply = store.apply(3, 0, &transaction(vec![piece, take]));
        assert_eq!(refused(&reply), 1);
        assert_eq!(store.len(), 1);
        // The longest errors there are.
        let fails = Step::Write(Command::SetRange {
            key,
            offset: u64::MAX,
            value: Bytes::from("x"),
        });
        let reply = store.apply(4, 0, &transaction(vec![fails; STEPS_MAX]));
        assert!(encode_reply(&reply).len() <= REPLY_MAX_BYTES);
    }

    #[test]
    fn a_large_value_is_not_written_over_and_over() {
        let mut store = Store::new();
        store.apply(1, 0, &transaction(vec![append(VALUE_MAX_BYTES - 100)]));
        let reply = store.apply(2, 0, &transaction(vec![append(1); 50]));
        let done = 50 - refused(&reply);
        assert_eq!(store.length(b"k"), VALUE_MAX_BYTES - 100 + done);
        assert!((10..20).contains(&done), "{done}");
    }

    #[test]
    fn what_may_be_no_step_refuses_the_whole() {
        let mut store = Store::new();
        for step in [
            transaction(vec![]),
            Command::GrantLease { ttl_ms: 5 },
            Command::RenewLeases,
        ] {
            let reply = store.apply(
                store.applied() + 1,
                0,
                &transaction(vec![append(1), Step::Write(step)]),
            );
            assert!(matches!(reply, Reply::Error(_)), "{reply:?}");
            assert!(store.is_empty());
        }
        let reply = store.apply(4, 0, &transaction(vec![append(1); STEPS_MAX + 1]));
        assert!(matches!(reply, Reply::Error(_)), "{reply:?}");
    }

    #[test]
    fn growth_counts_copies_of_what_the_transaction_makes() {
        let mut store = Store::new();
        let copy = |to: usize| {
            Step::Write(Command::Copy {
                from: Bytes::from("k"),
                to: Bytes::from(to.to_string()),
                replace: true,
            })
        };
        let steps = [append(VALUE_MAX_BYTES), copy(1), copy(2)];
        let command = transaction(steps.to_vec());
        let growth = store.growth(&command);
        store.apply(1, 0, &command);
        assert!(store.bytes() > 3 * VALUE_MAX_BYTES as u64);
        assert!(store.bytes() <= growth);
    }
}
