//! Clients: each asks one node, a few requests at a time, and notes what it is told; after an error it tries again
//! elsewhere.
//!
//! Every value that is written is written by one request only and its repetitions, so that the log can be compared
//! with what the clients were told.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use raftline::base::rng::Rng;
use raftline::kv::{Code, Command, Condition, Moment, Query, Reply, SetAnswer, SetExpiry};
use raftline::node::{self, Answer, ReadMode, Request, Submission};
use raftline::raft::NodeId;
use tokio::sync::mpsc::{self, error::TryRecvError};

use crate::linearizable::{Action, Operation, Outcome};

/// What a client waits for.
pub struct Waiting {
    /// Which process was asked.
    pub node: u64,
    pub boot: u64,
    pub since: u64,
    /// How long its node had been paused by then.
    pub paused_us: u64,
    inbox: mpsc::UnboundedReceiver<Answer>,
    /// What was asked under the ticket, and has no answer yet.
    asked: BTreeMap<u64, Asked>,
}

impl Waiting {
    /// Whether answers have come that were not taken yet.
    pub fn has_answers(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// What has no answer yet, for people.
    pub fn describe(&self) -> String {
        let asked = self.asked.values().map(|asked| match asked {
            Asked::Register { key, action } => format!("{action:?} {key}"),
            Asked::Other => "something".into(),
        });
        asked.collect::<Vec<_>>().join(", ")
    }
}

#[derive(Clone, Debug)]
enum Asked {
    /// For the history.
    Register { key: String, action: Action },
    /// For the state's sake.
    Other,
}

#[derive(Default)]
pub struct Client {
    node: u64,
    pub waiting: Option<Waiting>,
    /// What is asked again: certainly not done, or perhaps.
    again: Vec<(String, Action)>,
    /// The value last seen of each key.
    seen: BTreeMap<String, u64>,
}

/// How the clients of one world are.
pub struct Clients {
    pub list: Vec<Client>,
    pub history: Vec<Operation>,
    keys: u64,
    values: u64,
    /// Requests that come together at most.
    burst: u64,
    pub pause_us: u64,
    /// Which nodes have done a read and a write that began after this time.
    pub served_since: u64,
    pub served: BTreeSet<(u64, bool)>,
}

impl Clients {
    pub fn new(nodes: u64, rng: &mut Rng) -> Clients {
        let count = nodes + 1 + rng.below(3);
        let client = |n| Client {
            node: 1 + n % nodes,
            ..Client::default()
        };
        Clients {
            list: (0..count).map(client).collect(),
            history: Vec::new(),
            keys: 2 + rng.below(3),
            values: 0,
            burst: 1 + rng.below(3),
            pause_us: [5_000, 50_000, 200_000][rng.below(3) as usize],
            served_since: u64::MAX,
            served: BTreeSet::new(),
        }
    }

    /// Which node client `n` asks next: the last one, until it fails.
    pub fn choose(&mut self, n: usize, nodes: &[u64], rng: &mut Rng) -> u64 {
        let client = &mut self.list[n];
        if client.node == 0 || rng.one_in(10) || self.served_since < u64::MAX {
            client.node = nodes[rng.below(nodes.len() as u64) as usize];
        }
        client.node
    }

    /// Every second client goes to this node, and the others anywhere.
    pub fn gather(&mut self, node: u64) {
        for (n, client) in self.list.iter_mut().enumerate() {
            client.node = if n % 2 == 0 { node } else { 0 };
        }
    }

    /// Client `n` goes elsewhere.
    pub fn leave(&mut self, n: usize) {
        self.list[n].node = 0;
    }

    /// What client `n` asks next of the node that it chose. Its answers are waited for.
    pub fn ask(&mut self, n: usize, nodes: &[u64], now: u64, rng: &mut Rng) -> Submission {
        let (answers, inbox) = mpsc::unbounded_channel();
        let (mut requests, mut asked) = (Vec::new(), BTreeMap::new());
        let again = std::mem::take(&mut self.list[n].again);
        let fresh = if again.is_empty() {
            1 + rng.below(self.burst)
        } else {
            0
        };
        for (key, action) in again {
            requests.push(request(&key, action, rng));
            asked.insert(requests.len() as u64, Asked::Register { key, action });
        }
        for _ in 0..fresh {
            let is_for_the_history = !rng.one_in(6);
            if is_for_the_history {
                let (key, action) = self.any_action(n, rng);
                requests.push(request(&key, action, rng));
                asked.insert(requests.len() as u64, Asked::Register { key, action });
            } else {
                requests.push(other(nodes, rng));
                asked.insert(requests.len() as u64, Asked::Other);
            }
        }
        let requests = requests
            .into_iter()
            .zip(1..)
            .map(|(operation, ticket)| Request { ticket, operation });
        let client = &mut self.list[n];
        client.waiting = Some(Waiting {
            node: client.node,
            boot: 0,
            since: now,
            paused_us: 0,
            inbox,
            asked,
        });
        Submission {
            requests: requests.collect(),
            answers,
        }
    }

    fn any_action(&mut self, n: usize, rng: &mut Rng) -> (String, Action) {
        let key = format!("k{}", rng.below(self.keys));
        self.values += 1;
        // Far apart, so that no INCR makes what another request writes.
        let value = self.values * 1_000_000;
        let seen = self.list[n].seen.get(&key).copied().unwrap_or(0);
        let action = match rng.below(20) {
            0..7 => Action::Get,
            7..10 => Action::Set(value),
            10..13 => Action::Incr,
            13..15 => Action::Swap {
                old: seen,
                new: value,
            },
            15 => Action::Create(value),
            16..18 => Action::Exchange(value),
            18 => Action::Delete,
            _ => Action::DeleteIf(seen),
        };
        (key, action)
    }

    /// Takes the answers that have come for client `n`; `true` if it waits for none any more. `alive`: the process
    /// that was asked still runs.
    pub fn collect(&mut self, n: usize, now: u64, alive: bool, rng: &mut Rng) -> bool {
        let client = &mut self.list[n];
        let Some(waiting) = &mut client.waiting else {
            return true;
        };
        let mut ended = Vec::new();
        loop {
            match waiting.inbox.try_recv() {
                Ok(Answer { ticket, outcome }) => {
                    let asked = waiting.asked.remove(&ticket);
                    let asked = asked.unwrap_or_else(|| {
                        panic!("one answer for each request: ticket {ticket} was answered twice")
                    });
                    ended.push((asked, Some(outcome)));
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    assert!(
                        !alive || waiting.asked.is_empty(),
                        "answers in time: node {} never answers {:?}",
                        waiting.node,
                        waiting.asked
                    );
                    break;
                }
            }
        }
        if !alive {
            let lost = std::mem::take(&mut waiting.asked);
            ended.extend(lost.into_values().map(|asked| (asked, None)));
        }
        let (start, is_done, node) = (waiting.since, waiting.asked.is_empty(), waiting.node);
        for (asked, outcome) in ended {
            if let Asked::Register { key, action } = asked {
                let outcome = outcome.map_or(Outcome::Unknown, |outcome| judge(action, outcome));
                client.learn(&key, action, outcome, rng);
                if start >= self.served_since && matches!(outcome, Outcome::Done(_)) {
                    self.served.insert((node, action == Action::Get));
                }
                self.history.push(Operation {
                    key,
                    action,
                    outcome,
                    start,
                    end: now,
                });
            }
        }
        if is_done {
            client.waiting = None;
            if !alive {
                client.node = 0;
            }
        }
        is_done
    }
}

impl Client {
    /// Whether its last requests were carried out.
    pub fn is_well(&self) -> bool {
        self.node != 0
    }

    fn learn(&mut self, key: &str, action: Action, outcome: Outcome, rng: &mut Rng) {
        let (again, moves_on) = match outcome {
            Outcome::Done(_) => (false, false),
            Outcome::Failed => (!rng.one_in(4), true),
            Outcome::Unknown => (rng.one_in(4), true),
        };
        if again {
            self.again.push((key.to_owned(), action));
        }
        if moves_on {
            self.node = 0;
        }
        let value = match (action, outcome) {
            (Action::Get | Action::Incr, Outcome::Done(Some(value))) => value,
            (Action::Set(value) | Action::Exchange(value), Outcome::Done(_)) => value,
            (Action::Swap { new: value, .. } | Action::Create(value), Outcome::Done(Some(_))) => value,
            _ => return,
        };
        self.seen.insert(key.to_owned(), value);
    }
}

fn number(value: u64) -> Bytes {
    Bytes::from(value.to_string())
}

fn request(key: &str, action: Action, rng: &mut Rng) -> node::Operation {
    let key = Bytes::from(key.to_owned());
    let set = |value, condition, answer| Command::Set {
        key: key.clone(),
        value: number(value),
        condition,
        expiry: SetExpiry::Clear,
        answer,
    };
    node::Operation::Write(match action {
        Action::Get => {
            let mode = if rng.one_in(2) {
                ReadMode::Quorum
            } else {
                ReadMode::Lease
            };
            return node::Operation::Query(Query::Get(key), mode);
        }
        Action::Set(value) => set(value, Condition::Always, SetAnswer::Status),
        Action::Swap { old, new } => set(new, Condition::IfEqual(number(old)), SetAnswer::Status),
        Action::Create(value) => set(value, Condition::IfAbsent, SetAnswer::Status),
        Action::Exchange(value) => set(value, Condition::Always, SetAnswer::OldValue),
        Action::Incr => Command::Increment { key, by: 1 },
        Action::Delete => Command::Delete { keys: vec![key] },
        Action::DeleteIf(value) => Command::DeleteIfEqual {
            key,
            old: number(value),
        },
    })
}

/// Something that the history can't judge: keys that expire, long values, all keys, snapshots, hand-overs.
fn other(nodes: &[u64], rng: &mut Rng) -> node::Operation {
    let key = Bytes::from(format!("other{}", rng.below(5)));
    // Some are longer than a page of the disk.
    let longest = if rng.one_in(8) { 12_000 } else { 600 };
    let value = Bytes::from("x".repeat(rng.below(longest) as usize));
    let write = match rng.below(9) {
        0..3 => Command::Set {
            key,
            value,
            condition: Condition::Always,
            expiry: SetExpiry::At(Moment::In(1 + rng.below(3000) as i64)),
            answer: SetAnswer::Status,
        },
        3 => Command::MultiSet {
            pairs: vec![(key.clone(), value), (Bytes::from_static(b"other"), key)],
        },
        4 => Command::Persist { key },
        5 => return node::Operation::Query(Query::Size, ReadMode::Stale),
        6 => {
            return node::Operation::Query(
                Query::TimeToLive {
                    key,
                    milliseconds: true,
                },
                ReadMode::Quorum,
            );
        }
        7 => return node::Operation::Snapshot,
        _ => {
            let target = NodeId(nodes[rng.below(nodes.len() as u64) as usize]);
            return node::Operation::Transfer(Some(target).filter(|_| rng.one_in(2)));
        }
    };
    node::Operation::Write(write)
}

fn judge(action: Action, outcome: node::Outcome) -> Outcome {
    let node::Outcome::Reply(reply) = outcome else {
        panic!("fitting answers: {action:?} was answered {outcome:?}");
    };
    match (action, reply) {
        (_, Reply::Error(error)) => match error.code {
            Code::UnknownResult => Outcome::Unknown,
            Code::ClusterDown | Code::TryAgain | Code::Busy | Code::ReadOnly => Outcome::Failed,
            _ => panic!("fitting answers: {action:?} was answered {error}"),
        },
        (Action::Set(_), Reply::Ok) => Outcome::Done(None),
        (Action::Swap { .. } | Action::Create(_), Reply::Ok) => Outcome::Done(Some(1)),
        (Action::Swap { .. } | Action::Create(_) | Action::Get | Action::Exchange(_), Reply::Nil) => {
            Outcome::Done(None)
        }
        (Action::Get | Action::Exchange(_), Reply::Value(value)) => {
            let text = std::str::from_utf8(&value).expect("a number");
            Outcome::Done(Some(text.parse().expect("a number")))
        }
        (Action::Incr | Action::Delete | Action::DeleteIf(_), Reply::Integer(n)) => {
            Outcome::Done(Some(u64::try_from(n).expect("a count")))
        }
        (action, reply) => panic!("fitting answers: {action:?} was answered {reply:?}"),
    }
}
