//! What MULTI and WATCH gather on a connection until EXEC makes one log entry of it.
//!
//! Commands between MULTI and EXEC are read at once: one that is wrong, or that no transaction can hold, is refused
//! then, and EXEC refuses the whole. WATCH asks the node for the keys' revisions, which EXEC sends along.
//!
//! EXEC under ONCE or SEQ is the same write under a token or a number. The connection that repeats it gathers the same
//! commands again; what it watches matters only if the first one has not arrived.
//!
//! **Bounds.** What is gathered counts as one request: all of it together stays within `limits.max_request`, each
//! step and each watched key with [`STEP_BYTES`] more than it took on the wire. So the entry is not longer than that
//! of one request may be, for the encoding of a step is no longer than its words and that.

use bytes::Bytes;

use crate::kv::{Code, Command, Error, Reply, STEPS_MAX, Step};

use super::reply::Response;
use super::table::{Action, ConnectionAction, Repeat, TransactionAction, err};

/// What a step or a watched key counts for beside its own bytes.
const STEP_BYTES: usize = 16;

/// The transaction of one connection.
#[derive(Debug)]
pub(crate) struct Transaction {
    max_bytes: usize,
    /// Bytes gathered, see the bounds above.
    bytes: usize,
    /// Between MULTI and EXEC.
    queue: Option<Queue>,
    /// Keys, and the revisions that WATCH has found.
    watched: Vec<(Bytes, u64)>,
    /// A WATCH has failed: who did not read its answer must not believe that the keys are watched.
    is_unwatched: bool,
}

#[derive(Debug, Default)]
struct Queue {
    steps: Vec<Step>,
    /// Replies that need no node, each with its place among all.
    locals: Vec<(usize, Reply)>,
    /// A command was refused.
    is_spoiled: bool,
}

/// What the node is to be asked.
#[derive(Debug)]
pub(crate) enum Begun {
    /// The revisions of these keys.
    Watch(Vec<Bytes>),
    /// To do this; then these replies belong among those of the steps.
    Exec(Repeat, Command, Vec<(usize, Reply)>),
}

impl Transaction {
    /// None yet; it may gather so many bytes.
    pub(crate) fn new(max_bytes: usize) -> Transaction {
        Transaction {
            max_bytes,
            bytes: 0,
            queue: None,
            watched: Vec::new(),
            is_unwatched: false,
        }
    }

    /// How many bytes it has gathered.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether this is to be queued rather than done now.
    pub(crate) fn queues(&self, action: &Action) -> bool {
        let is_done_now = match action {
            Action::Transaction(action) => *action != TransactionAction::Unwatch,
            Action::Connection(action) => {
                matches!(action, ConnectionAction::Quit | ConnectionAction::Reset)
            }
            _ => false,
        };
        self.queue.is_some() && !is_done_now
    }

    /// Queues an action whose request had so many bytes.
    pub(crate) fn queue(&mut self, action: Action, bytes: usize) -> Response {
        let bytes = self.bytes.saturating_add(bytes + STEP_BYTES);
        let Some(queue) = &mut self.queue else {
            return err("internal: nothing is queued without MULTI").into();
        };
        if queue.steps.len() + queue.locals.len() >= STEPS_MAX {
            queue.is_spoiled = true;
            return err(format!("a transaction has at most {STEPS_MAX} commands")).into();
        }
        if bytes > self.max_bytes {
            queue.is_spoiled = true;
            return too_large(self.max_bytes).into();
        }
        self.bytes = bytes;
        let place = queue.steps.len() + queue.locals.len();
        match action {
            Action::Write(command) if command.may_be_step() => queue.steps.push(Step::Write(command)),
            Action::Query(query) => queue.steps.push(Step::Read(query)),
            Action::Answer(Response::Reply(reply)) => queue.locals.push((place, reply)),
            // EXEC forgets what was watched in any case.
            Action::Transaction(TransactionAction::Unwatch) => queue.locals.push((place, Reply::Ok)),
            _ => {
                queue.is_spoiled = true;
                return err(
                    "this command cannot be part of a transaction: only those can that read or write some keys \
                     and answer at once",
                )
                .into();
            }
        }
        Reply::Text("QUEUED".into()).into()
    }

    /// A request was refused; if it was to be queued, there will be no EXEC.
    pub(crate) fn spoil(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.is_spoiled = true;
        }
    }

    /// Does what is to be done now, or says what the node is to be asked.
    pub(crate) fn perform(&mut self, action: TransactionAction) -> Result<Begun, Response> {
        match action {
            TransactionAction::Multi if self.queue.is_some() => {
                Err(err("MULTI calls can not be nested").into())
            }
            TransactionAction::Multi => {
                self.queue = Some(Queue::default());
                Err(Reply::Ok.into())
            }
            TransactionAction::Discard if self.queue.is_none() => Err(err("DISCARD without MULTI").into()),
            TransactionAction::Discard | TransactionAction::Unwatch => {
                self.reset();
                Err(Reply::Ok.into())
            }
            TransactionAction::Watch(_) if self.queue.is_some() => {
                Err(err("WATCH inside MULTI is not allowed").into())
            }
            TransactionAction::Watch(keys) => self.watch(keys),
            TransactionAction::Exec(repeat) => self.exec(repeat),
        }
    }

    /// As if neither MULTI nor WATCH had been said.
    pub(crate) fn reset(&mut self) {
        *self = Transaction::new(self.max_bytes);
    }

    /// What the node says about the keys of a WATCH.
    pub(crate) fn on_watched(&mut self, keys: Vec<Bytes>, reply: Reply) -> Response {
        let revisions = match reply {
            Reply::List(revisions) if revisions.len() == keys.len() => revisions,
            refused => {
                self.is_unwatched = true;
                return refused.into();
            }
        };
        for (key, revision) in keys.into_iter().zip(revisions) {
            match revision {
                Reply::Integer(revision) => self.watched.push((key, revision.unsigned_abs())),
                _ => self.is_unwatched = true,
            }
        }
        Reply::Ok.into()
    }

    fn watch(&mut self, keys: Vec<Bytes>) -> Result<Begun, Response> {
        let bytes: usize = keys.iter().map(|key| key.len() + STEP_BYTES).sum();
        if self.bytes.saturating_add(bytes) > self.max_bytes {
            self.is_unwatched = true;
            return Err(too_large(self.max_bytes).into());
        }
        self.bytes += bytes;
        Ok(Begun::Watch(keys))
    }

    fn exec(&mut self, repeat: Repeat) -> Result<Begun, Response> {
        let Some(queue) = self.queue.take() else {
            return Err(err("EXEC without MULTI").into());
        };
        let watched = std::mem::take(&mut self.watched);
        let is_unwatched = self.is_unwatched;
        self.reset();
        if queue.is_spoiled {
            return Err(abort("Transaction discarded because of previous errors.").into());
        }
        if is_unwatched {
            return Err(abort("Transaction discarded because a WATCH before it has failed.").into());
        }
        if queue.steps.is_empty() && watched.is_empty() {
            return Err(with_locals(Reply::List(vec![]), queue.locals));
        }
        let steps = queue.steps;
        let command = Command::Transaction { watched, steps };
        Ok(Begun::Exec(repeat, command, queue.locals))
    }
}

/// The reply to EXEC: that of the node, and among it what needed no node.
pub(crate) fn with_locals(reply: Reply, locals: Vec<(usize, Reply)>) -> Response {
    match reply {
        Reply::List(replies) => {
            let mut all = Vec::with_capacity(replies.len() + locals.len());
            let mut replies = replies.into_iter();
            for (place, local) in locals {
                let before = place.saturating_sub(all.len());
                all.extend(replies.by_ref().take(before));
                all.push(local);
            }
            all.extend(replies);
            Reply::List(all).into()
        }
        Reply::Nil => Response::NoList,
        other => other.into(),
    }
}

fn too_large(max_bytes: usize) -> Error {
    err(format!(
        "a transaction and what it watches have at most {max_bytes} bytes (limits.max_request), {STEP_BYTES} for each \
         command and key beside its own"
    ))
}

fn abort(text: &'static str) -> Error {
    Error {
        code: Code::ExecAbort,
        text: text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::table;
    use crate::kv::encode_entry;

    fn request(transaction: &mut Transaction, line: &str) -> Result<Begun, Response> {
        let words: Vec<Bytes> = line.split(' ').map(|word| Bytes::from(word.to_owned())).collect();
        match table::parse(&words).unwrap() {
            action if transaction.queues(&action) => Err(transaction.queue(action, line.len() + 1)),
            Action::Transaction(action) => transaction.perform(action),
            other => panic!("{other:?}"),
        }
    }

    fn text(response: Result<Begun, Response>) -> String {
        match response.unwrap_err() {
            Response::Reply(Reply::Error(error)) => error.to_string(),
            Response::Reply(Reply::Text(text)) => text.into_owned(),
            other => format!("{other:?}"),
        }
    }

    /// The shortest requests make the longest entries.
    #[test]
    fn an_entry_is_not_longer_than_a_request_may_be() {
        for line in [
            "SET k v",
            "SET k v PX 1",
            "GET k",
            "DEL k",
            "EXPIRE k 1",
            "SETRANGE k 0 v",
            "COPY a b",
        ] {
            let mut transaction = Transaction::new(20_000);
            let _ = request(&mut transaction, "MULTI");
            while text(request(&mut transaction, line)) == "QUEUED" {}
            transaction.queue.as_mut().unwrap().is_spoiled = false;
            let Ok(Begun::Exec(_, command, _)) = request(&mut transaction, "EXEC") else {
                panic!("{line}")
            };
            let length = encode_entry(u64::MAX, &command).len();
            assert!(length <= 20_000 + 64, "{line}: {length}");
        }
    }

    #[test]
    fn a_watch_that_failed_lets_no_exec_through() {
        let mut transaction = Transaction::new(1000);
        let Ok(Begun::Watch(keys)) = request(&mut transaction, "WATCH a b") else {
            panic!("asks for revisions")
        };
        let refused = Reply::error(Code::ClusterDown, "no leader");
        assert_eq!(transaction.on_watched(keys, refused.clone()), refused.into());
        let _ = request(&mut transaction, "MULTI");
        let _ = request(&mut transaction, "SET a 1");
        assert_eq!(
            text(request(&mut transaction, "EXEC")),
            "EXECABORT Transaction discarded because a WATCH before it has failed."
        );
        let _ = request(&mut transaction, "MULTI");
        let _ = request(&mut transaction, "SET a 1");
        assert!(request(&mut transaction, "EXEC").is_ok(), "only the next one");
    }

    #[test]
    fn what_is_gathered_is_bounded() {
        let mut transaction = Transaction::new(100);
        assert!(request(&mut transaction, "WATCH a b c").is_ok());
        assert!(text(request(&mut transaction, "WATCH d e f")).contains("at most 100 bytes"));
        let _ = request(&mut transaction, "UNWATCH");
        let _ = request(&mut transaction, "MULTI");
        for _ in 0..4 {
            assert_eq!(text(request(&mut transaction, "GET a")), "QUEUED");
        }
        assert!(text(request(&mut transaction, "GET a")).contains("at most 100 bytes"));
        assert!(text(request(&mut transaction, "EXEC")).starts_with("EXECABORT"));
        assert_eq!(transaction.bytes, 0);
    }

    #[test]
    fn replies_that_need_no_node_come_in_their_places() {
        let mut transaction = Transaction::new(1000);
        for line in ["MULTI", "PING", "GET a", "ECHO x", "UNWATCH", "GET b", "PING"] {
            let _ = request(&mut transaction, line);
        }
        let Ok(Begun::Exec(_, _, locals)) = request(&mut transaction, "EXEC") else {
            panic!("asks the node")
        };
        let replies = with_locals(Reply::List(vec![Reply::Integer(1), Reply::Integer(2)]), locals);
        let pong = || Reply::Text("PONG".into());
        let echo = Reply::Value("x".into());
        let expected = vec![
            pong(),
            Reply::Integer(1),
            echo,
            Reply::Ok,
            Reply::Integer(2),
            pong(),
        ];
        assert_eq!(replies, Reply::List(expected).into());
    }
}
