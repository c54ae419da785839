//! Clients: each asks one node, a few requests at a time, and notes what it is told; after an error it tries again
//! elsewhere.
//!
//! Every value that is written is written by one request only and its repetitions, so that the log can be compared
//! with what the clients were told. Some writes have a token, or a number of a session: those are asked again until
//! they are answered, and then count as one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use raftline::base::rng::Rng;
use raftline::kv::{Code, Command, Condition, Moment, Query, Reply, SetAnswer, SetExpiry};
use raftline::node::{self, Answer, ReadMode, Request, Submission};
use raftline::raft::{Index, NodeId};
use tokio::sync::mpsc::{self, error::TryRecvError};

use crate::linearizable::{Action, Operation, Outcome};
use crate::world::Theme;

/// What a client waits for.
pub struct Waiting {
    /// Which process was asked.
    pub node: u64,
    pub boot: u64,
    pub since: u64,
    /// How long its node had been paused by then.
    pub paused_us: u64,
    /// What was committed by then.
    committed: Index,
    inbox: mpsc::UnboundedReceiver<Answer>,
    /// What has come out of it and was not taken yet.
    heard: VecDeque<Answer>,
    /// What was asked under the ticket, and has no answer yet.
    asked: BTreeMap<u64, Asked>,
}

impl Waiting {
    /// Whether answers have come that were not taken yet.
    pub fn has_answers(&self) -> bool {
        !self.inbox.is_empty() || !self.heard.is_empty()
    }

    /// Looks at the answers that the node has just given, from a state that has applied this index. A read shows all
    /// that was committed when it was asked: that is more than the history of its key may reveal.
    pub fn hear(&mut self, applied: Index) {
        while let Ok(answer) = self.inbox.try_recv() {
            let asked = self.asked.get(&answer.ticket);
            let is_read = matches!(
                asked,
                Some(Asked::Register(wish)) if wish.action == Action::Get
            );
            let is_shown = matches!(
                &answer.outcome,
                node::Outcome::Reply(Reply::Value(_) | Reply::Nil)
            );
            assert!(
                !is_read || !is_shown || applied >= self.committed,
                "reads are up to date: node {} has answered {asked:?} from its state at {applied}, and {} was \
                 committed when it was asked",
                self.node,
                self.committed
            );
            self.heard.push_back(answer);
        }
    }

    /// What has no answer yet, for people.
    pub fn describe(&self) -> String {
        let asked = self.asked.values().map(|asked| match asked {
            Asked::Register(wish) => format!("{:?} {} {:?}", wish.action, wish.key, wish.once),
            Asked::Lease => "LEASE GRANT".into(),
            Asked::Session => "SESSION OPEN".into(),
            Asked::Other => "something".into(),
        });
        asked.collect::<Vec<_>>().join(", ")
    }
}

#[derive(Clone, Debug)]
enum Asked {
    /// For the history.
    Register(Wish),
    /// To have one from then on.
    Lease,
    Session,
    /// For the state's sake.
    Other,
}

/// Something for the history.
#[derive(Clone, Debug)]
struct Wish {
    key: String,
    action: Action,
    once: Option<Once>,
    /// When it was asked first.
    since: u64,
}

/// By what its repetitions are known.
#[derive(Clone, Copy, Debug)]
enum Once {
    Token(u64),
    Seq { session: u64, n: u64 },
}

#[derive(Default)]
pub struct Client {
    node: u64,
    pub waiting: Option<Waiting>,
    /// What is asked again: certainly not done, or perhaps.
    again: Vec<Wish>,
    /// The last lease that it was granted, and the session that it has with the last number used.
    lease: u64,
    session: Option<(u64, u64)>,
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
    /// One request in so many more is none for the history; 0 is none.
    others_one_in: u64,
    /// One value in so many is longer than a page of the disk, of those that the history does not judge.
    long_one_in: u64,
    pub pause_us: u64,
    /// Which nodes have done a read and a write that began after this time.
    pub served_since: u64,
    pub served: BTreeSet<(u64, bool)>,
}

impl Clients {
    pub fn new(nodes: u64, theme: Theme, rng: &mut Rng) -> Clients {
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
            others_one_in: match theme {
                Theme::Disks => 2,
                _ => [0, 0, 3][rng.below(3) as usize],
            },
            long_one_in: if theme == Theme::Disks { 2 } else { 8 },
            pause_us: match theme {
                Theme::Leaders => 5_000,
                _ => [5_000, 50_000, 200_000][rng.below(3) as usize],
            },
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

    /// What client `n` asks next of the node that it chose, while so much is committed. Its answers are waited for.
    pub fn ask(&mut self, n: usize, nodes: &[u64], now: u64, committed: Index, rng: &mut Rng) -> Submission {
        let (answers, inbox) = mpsc::unbounded_channel();
        let (mut requests, mut asked) = (Vec::new(), BTreeMap::new());
        let again = std::mem::take(&mut self.list[n].again);
        let fresh = if again.is_empty() {
            1 + rng.below(self.burst)
        } else {
            0
        };
        for wish in again {
            requests.push(request(&wish, rng));
            asked.insert(requests.len() as u64, Asked::Register(wish));
        }
        for _ in 0..fresh {
            let draw = if rng.one_in(self.others_one_in) {
                5
            } else {
                rng.below(36)
            };
            let (operation, what) = match draw {
                0 | 1 => lease(self.list[n].lease, rng),
                2 if self.list[n].session.is_none() => (
                    // Longer than clocks jump.
                    node::Operation::Write(Command::OpenSession { life_ms: WINDOW_MS }),
                    Asked::Session,
                ),
                2..6 => (other(nodes, self.long_one_in, rng), Asked::Other),
                _ => {
                    let wish = self.any_wish(n, now, rng);
                    (request(&wish, rng), Asked::Register(wish))
                }
            };
            requests.push(operation);
            asked.insert(requests.len() as u64, what);
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
            committed,
            inbox,
            heard: VecDeque::new(),
            asked,
        });
        Submission {
            requests: requests.collect(),
            answers,
        }
    }

    fn any_wish(&mut self, n: usize, now: u64, rng: &mut Rng) -> Wish {
        let (key, action) = self.any_action(n, rng);
        let once = (action != Action::Get && rng.one_in(3)).then(|| match &mut self.list[n].session {
            Some((session, n)) if rng.one_in(2) => {
                *n += 1;
                Once::Seq {
                    session: *session,
                    n: *n,
                }
            }
            _ => Once::Token(self.values),
        });
        let since = now;
        Wish {
            key,
            action,
            once,
            since,
        }
    }

    /// The end: what was asked with a token and has no answer may have been done.
    pub fn give_up(&mut self, now: u64) {
        for client in &mut self.list {
            let left = std::mem::take(&mut client.again);
            let left = left.into_iter().filter(|wish| wish.once.is_some());
            self.history
                .extend(left.map(|wish| wish.ended(Outcome::Unknown, now)));
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
            match waiting
                .heard
                .pop_front()
                .map_or_else(|| waiting.inbox.try_recv(), Ok)
            {
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
            match (asked, outcome) {
                (Asked::Register(mut wish), outcome) => {
                    let outcome = outcome.map_or(Outcome::Unknown, |outcome| judge(wish.action, outcome));
                    client.learn(&wish, outcome, rng);
                    let is_done = matches!(outcome, Outcome::Done(_));
                    if start >= self.served_since && is_done {
                        self.served.insert((node, wish.action == Action::Get));
                    }
                    if wish.once.is_none() {
                        wish.since = start;
                    }
                    if wish.once.is_none() || is_done {
                        self.history.push(wish.ended(outcome, now));
                    }
                }
                (Asked::Lease, Some(outcome)) => {
                    client.lease = granted(outcome).unwrap_or(client.lease);
                }
                (Asked::Session, Some(outcome)) => {
                    client.session = granted(outcome).map(|session| (session, 0));
                }
                (Asked::Lease | Asked::Session | Asked::Other, _) => {}
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

    fn learn(&mut self, wish: &Wish, outcome: Outcome, rng: &mut Rng) {
        let (again, moves_on) = match outcome {
            Outcome::Done(_) => (false, false),
            _ if wish.once.is_some() => (true, true),
            Outcome::Failed => (!rng.one_in(4), true),
            Outcome::Unknown => (rng.one_in(4), true),
        };
        if again {
            self.again.push(wish.clone());
        }
        if moves_on {
            self.node = 0;
        }
        let value = match (wish.action, outcome) {
            (Action::Get | Action::Incr, Outcome::Done(Some(value))) => value,
            (Action::Set(value) | Action::Exchange(value), Outcome::Done(_)) => value,
            (Action::Swap { new: value, .. } | Action::Create(value), Outcome::Done(Some(_))) => value,
            _ => return,
        };
        self.seen.insert(wish.key.clone(), value);
    }
}

impl Wish {
    fn ended(self, outcome: Outcome, now: u64) -> Operation {
        Operation {
            key: self.key,
            action: self.action,
            outcome,
            start: self.since,
            end: now,
        }
    }
}

/// Longer than a world lasts and clocks jump, so that no token is forgotten.
const WINDOW_MS: u64 = 30 * 24 * 3600 * 1000;

/// The number that was asked for, where it is known.
fn granted(outcome: node::Outcome) -> Option<u64> {
    match outcome {
        node::Outcome::Reply(Reply::Integer(number)) => u64::try_from(number).ok(),
        _ => None,
    }
}

/// Something with a lease, which may have ended.
fn lease(id: u64, rng: &mut Rng) -> (node::Operation, Asked) {
    let (command, asked) = match rng.below(8) {
        0..3 => {
            let ttl_ms = 1 + rng.below(3000);
            (Command::GrantLease { ttl_ms }, Asked::Lease)
        }
        3 => (Command::RevokeLease { id }, Asked::Other),
        4 | 5 => (Command::RenewLease { id }, Asked::Other),
        _ => {
            let set = Command::Set {
                key: Bytes::from(format!("other{}", rng.below(5))),
                value: number(id),
                condition: Condition::Always,
                expiry: SetExpiry::Lease(id),
                answer: SetAnswer::Status,
            };
            (set, Asked::Other)
        }
    };
    (node::Operation::Write(command), asked)
}

fn number(value: u64) -> Bytes {
    Bytes::from(value.to_string())
}

fn request(wish: &Wish, rng: &mut Rng) -> node::Operation {
    let key = Bytes::from(wish.key.clone());
    let set = |value, condition, answer| Command::Set {
        key: key.clone(),
        value: number(value),
        condition,
        expiry: SetExpiry::Clear,
        answer,
    };
    let command = match wish.action {
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
    };
    node::Operation::Write(match wish.once {
        None => command,
        Some(Once::Token(token)) => Command::Once {
            token: number(token),
            window_ms: WINDOW_MS,
            command: Box::new(command),
        },
        Some(Once::Seq { session, n }) => Command::Seq {
            session,
            n,
            command: Box::new(command),
        },
    })
}

/// Something that the history can't judge: keys that expire, long values, all keys, snapshots, hand-overs.
fn other(nodes: &[u64], long_one_in: u64, rng: &mut Rng) -> node::Operation {
    let key = Bytes::from(format!("other{}", rng.below(5)));
    let longest = if rng.one_in(long_one_in) { 12_000 } else { 600 };
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
