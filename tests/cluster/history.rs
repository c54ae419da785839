//! What clients did and saw, written down while they do it; `linearizable` judges it.

use std::sync::Mutex;
use std::time::Instant;

use crate::client::{Client, Reply};
pub use crate::linearizable::{Action, Operation, Outcome, assert_linearizable};

/// A history being recorded by several clients at once. Its times are nanoseconds.
pub struct History {
    origin: Instant,
    operations: Mutex<Vec<Operation>>,
}

impl Action {
    /// The request in the line dialect.
    pub fn request(self, key: &str) -> String {
        match self {
            Action::Set(value) => format!("SET {key} {value}"),
            Action::Get => format!("GET {key}"),
            Action::Incr => format!("INCR {key}"),
            Action::Swap { old, new } => format!("SET {key} {new} IFEQ {old}"),
            Action::Create(value) => format!("SET {key} {value} NX"),
            Action::Exchange(value) => format!("GETSET {key} {value}"),
            Action::Delete => format!("DEL {key}"),
            Action::DeleteIf(value) => format!("DELIFEQ {key} {value}"),
        }
    }

    fn outcome(self, reply: &Reply) -> Outcome {
        match (self, reply) {
            (_, Reply::Error { .. }) if reply.refused() => Outcome::Failed,
            (Action::Get, Reply::Error { .. }) => Outcome::Failed,
            (_, Reply::Error { .. }) => Outcome::Unknown,
            (Action::Set(_), Reply::Text(_)) => Outcome::Done(None),
            (Action::Swap { .. } | Action::Create(_), Reply::Text(_)) => Outcome::Done(Some(1)),
            (Action::Swap { .. } | Action::Create(_) | Action::Get | Action::Exchange(_), Reply::Nothing) => {
                Outcome::Done(None)
            }
            (Action::Get | Action::Exchange(_), Reply::Text(text)) => {
                Outcome::Done(Some(text.parse().expect("a number")))
            }
            (Action::Incr | Action::Delete | Action::DeleteIf(_), Reply::Integer(n)) => {
                Outcome::Done(Some(u64::try_from(*n).expect("positive")))
            }
            (action, reply) => panic!("{action:?} was answered {reply:?}"),
        }
    }
}

impl History {
    /// An empty history that begins now.
    pub fn new() -> History {
        History {
            origin: Instant::now(),
            operations: Mutex::default(),
        }
    }

    /// Does one operation and records it. `Err`: the connection is of no more use.
    pub fn run(&self, client: &mut Client, key: &str, action: Action) -> std::io::Result<Outcome> {
        let start = self.now();
        let result = client.call(&action.request(key));
        let outcome = match &result {
            Ok(reply) => action.outcome(reply),
            Err(_) => Outcome::Unknown,
        };
        let operation = Operation {
            key: key.into(),
            action,
            outcome,
            start,
            end: self.now(),
        };
        self.operations.lock().unwrap().push(operation);
        result.map(|_| outcome)
    }

    /// What was recorded.
    pub fn into_operations(self) -> Vec<Operation> {
        self.operations.into_inner().unwrap()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap()
    }
}
