//! Who changes the membership of a world: adds new nodes, removes members, promotes, hands over, compares, wipes data
//! folders and lets their nodes rejoin, all at any node and several at a time. And judges what it is told: what is done
//! is in a committed membership, and of what is said not to be done there is no trace.

use std::collections::BTreeMap;

use raftline::base::rng::Rng;
use raftline::kv::{Code, Reply};
use raftline::node::{Answer, MembershipChange, Operation, Outcome, Request, Submission};
use raftline::raft::{Membership, NodeId};
use tokio::sync::mpsc::{self, error::TryRecvError};

use super::{Event, MS, Mark, World};
use crate::disk::{Disk, End};
use crate::node::{self, Node};

/// Nodes in a world, members or not.
const NODES_MAX: usize = 10;
/// Voters at most.
const VOTERS_MAX: u64 = 7;
/// Requests under way at most.
const ASKS_MAX: usize = 4;
/// How long RAFT ADD … VOTER may take.
pub const PROMOTION_US: u64 = 60_000 * MS;

pub struct Operator {
    /// How long it pauses; `None`: it only lets nodes rejoin.
    pause_us: Option<u64>,
    asks: Vec<Ask>,
    /// How many voters it wants.
    size: u64,
    /// Whether it takes voters out of a membership in which all is well.
    removes: bool,
    /// When it last asked for that, and when a data folder was last lost.
    removed_at: u64,
    lost_at: u64,
    /// How often it asked for an addition, each with an address of its own.
    additions: u64,
    /// What it was told, and of what it knows nothing, of additions by their address, of removals by the node.
    told: BTreeMap<String, Told>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    done: u64,
    unknown: u64,
}

/// What it waits for.
struct Ask {
    node: u64,
    boot: u64,
    since: u64,
    /// How long its node had been paused by then.
    paused_us: u64,
    inbox: mpsc::UnboundedReceiver<Answer>,
    wish: Wish,
    /// How many memberships had been committed.
    memberships: usize,
}

#[derive(Clone, Debug)]
enum Wish {
    Change(MembershipChange),
    Transfer(Option<NodeId>),
    Verify,
}

/// What it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Done,
    NotDone,
    Unknown,
}

impl Operator {
    pub fn new(rng: &mut Rng) -> Operator {
        Operator {
            pause_us: [None, Some(300 * MS), Some(1000 * MS), Some(3000 * MS)][rng.below(4) as usize],
            asks: Vec::new(),
            size: 1 + rng.below(VOTERS_MAX),
            removes: !rng.one_in(3),
            removed_at: 0,
            lost_at: 0,
            additions: 0,
            told: BTreeMap::new(),
        }
    }

    pub fn waits(&self) -> bool {
        !self.asks.is_empty()
    }

    fn waits_for(&self, id: u64) -> bool {
        let concerns = |ask: &Ask| match &ask.wish {
            Wish::Change(change) => subject(change) == id,
            Wish::Transfer(_) | Wish::Verify => false,
        };
        self.asks.iter().any(concerns)
    }

    /// At the end: each change that was committed had been asked for, and its asker was not told the contrary.
    pub fn check_changes(&self, memberships: &[Membership]) {
        let mut removals: BTreeMap<String, u64> = BTreeMap::new();
        for pair in memberships.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            for (id, addresses) in &after.addresses {
                let told = self.told.get(&addresses.peer).copied().unwrap_or_default();
                let is_old = before.addresses.get(id) == Some(addresses);
                assert!(
                    is_old || told.done + told.unknown > 0,
                    "changes that were refused are not made: {id} was added as {}",
                    addresses.peer
                );
            }
            for id in before
                .addresses
                .keys()
                .filter(|id| !after.addresses.contains_key(id))
            {
                *removals.entry(id.to_string()).or_default() += 1;
            }
        }
        for (id, count) in removals {
            let told = self.told.get(&id).copied().unwrap_or_default();
            assert!(
                count <= told.done + told.unknown,
                "changes that were refused are not made: {id} was removed {count} times, and those who asked were \
                 told {told:?}"
            );
        }
    }
}

fn subject(change: &MembershipChange) -> u64 {
    match change {
        MembershipChange::Add { id, .. } | MembershipChange::Promote(id) | MembershipChange::Remove(id) => {
            id.0
        }
    }
}

/// By what traces of the change are found.
fn trace(change: &MembershipChange) -> Option<String> {
    match change {
        MembershipChange::Add { addresses, .. } => Some(addresses.peer.clone()),
        MembershipChange::Remove(id) => Some(id.to_string()),
        MembershipChange::Promote(_) => None,
    }
}

/// Whether a committed membership is as wanted.
fn is_as_wanted(change: &MembershipChange, membership: &Membership) -> bool {
    let votes = |id: &NodeId| membership.voters.contains(id) && membership.outgoing.is_empty();
    match change {
        MembershipChange::Add { id, voter: true, .. } | MembershipChange::Promote(id) => votes(id),
        MembershipChange::Add { id, addresses, .. } => membership.addresses.get(id) == Some(addresses),
        MembershipChange::Remove(id) => !membership.contains(*id),
    }
}

impl World {
    pub(super) fn on_operate(&mut self) {
        let pause_us = self.operator.pause_us.unwrap_or(1000 * MS);
        if self.is_over {
            return;
        }
        if self.is_calm {
            self.after(50 * MS, 300 * MS, Event::Operate);
            return self.mend_members();
        }
        self.after(pause_us / 4, 2 * pause_us, Event::Operate);
        if self.operator.asks.len() >= ASKS_MAX {
            return;
        }
        if self.operator.pause_us.is_some() {
            self.operate();
        } else if self.rng.one_in(3) {
            self.mend_members();
        }
    }

    fn operate(&mut self) {
        let members = self.members();
        let any = self.any_node();
        let member = members[self.rng.below(members.len() as u64) as usize];
        let leader = self.newest_leader().filter(|_| self.rng.one_in(3));
        let member = leader.unwrap_or(member);
        if self.rng.one_in(6) {
            self.operator.size = 1 + self.rng.below(VOTERS_MAX);
        }
        let voters = self.checker.membership().voters.len() as u64;
        match self.rng.below(16) {
            0..6 if voters < self.operator.size => self.add_node(),
            0..6 if voters > self.operator.size && self.may_remove() => {
                self.ask(Wish::Change(MembershipChange::Remove(NodeId(member))));
            }
            6 if self.may_remove() => self.ask(Wish::Change(MembershipChange::Remove(NodeId(any)))),
            7 => self.ask(Wish::Change(MembershipChange::Promote(NodeId(any)))),
            8 if !self.nodes[&any].is_retired && self.may_remove() => self.ask_to_add(any),
            9 => {
                let target = Some(NodeId(any)).filter(|_| self.rng.one_in(2));
                self.ask(Wish::Transfer(target));
            }
            10 => self.ask(Wish::Verify),
            11..14 => self.wipe_member(member),
            _ => self.mend_members(),
        }
    }

    /// Not just after a data folder was lost: the leader does not know yet that this voter is not to be counted on.
    fn may_remove(&mut self) -> bool {
        let timeout_us = self.setup.election_timeout_ms * MS;
        let may = self.operator.removes && self.operator.lost_at + timeout_us <= self.now;
        if may {
            self.operator.removed_at = self.now;
        }
        may
    }

    /// A node that was never there, or one that was removed and begins anew; or that one is switched off.
    fn add_node(&mut self) {
        let former = self.ids().into_iter().find(|id| self.is_forgotten(*id));
        if let Some(id) = former.filter(|_| self.rng.one_in(2)) {
            if self.rng.one_in(3) {
                self.switch_off(id);
                self.node(id).is_retired = true;
                return;
            }
            self.replace_disk(id, Membership::default());
            return self.ask_to_add(id);
        }
        if self.nodes.len() >= NODES_MAX {
            return;
        }
        let id = self.nodes.len() as u64 + 1;
        let node = Node::new(id, &self.setup, Membership::default(), &mut self.rng);
        self.nodes.insert(id, node);
        self.set_disk_pace(id, (100, 2 * MS));
        self.at(self.now, Event::Start(id));
        self.ask_to_add(id);
    }

    /// Whether nobody takes this node for a member, and nobody will.
    fn is_forgotten(&self, id: u64) -> bool {
        let forgets = |node: &&Node| {
            let process = node.process.as_ref();
            process.is_some_and(|process| !process.machine.raft().status().membership.contains(NodeId(id)))
        };
        let is_other = |node: &&Node| node.id != id && !node.is_retired;
        let node = &self.nodes[&id];
        !node.is_retired
            && node.members.index().0 > 0
            && !self.checker.membership().contains(NodeId(id))
            && !self.operator.waits_for(id)
            && self.nodes.values().filter(is_other).all(|node| forgets(&node))
    }

    /// A member loses its data folder, if the others can bear it: they know that it is another one that comes back.
    fn wipe_member(&mut self, id: u64) {
        let committed = self.checker.membership();
        let bound = committed.incarnations.get(&NodeId(id));
        let bears = bound == Some(&self.nodes[&id].incarnation) && self.bears_loss_of(id);
        if !bears || self.operator.waits_for(id) {
            return;
        }
        let others = self
            .nodes
            .values()
            .filter(|node| node.id != id && !node.is_retired);
        if !others
            .clone()
            .all(|node| knows_folder(node, id, self.nodes[&id].incarnation))
        {
            return;
        }
        // It comes back with the configuration that it had, or with one that lets it wait to be added.
        let is_only = self.nodes.values().all(|node| node.life == 0);
        let bootstrap = if is_only && self.rng.one_in(2) {
            self.nodes[&id].bootstrap.clone()
        } else {
            Membership::default()
        };
        self.say(Mark::Fault, |_| format!("the data folder of node {id} is wiped"));
        self.note_loss();
        self.replace_disk(id, bootstrap);
    }

    /// Whether no change that takes voters out, of those asked for before, may still be begun.
    pub(super) fn is_quiet(&self) -> bool {
        let timeout_us = (self.setup.request_timeout_ms + self.setup.election_timeout_ms) * MS;
        let quiet_at = self.operator.removed_at + node::slowest_us(timeout_us, self.setup.drift_max_ppm);
        self.operator.removed_at == 0 || quiet_at <= self.now
    }

    /// What a voter had is lost now.
    pub(super) fn note_loss(&mut self) {
        self.operator.lost_at = self.now;
    }

    fn switch_off(&mut self, id: u64) {
        if self.boot(id).is_some() {
            self.end(id, End::Killed);
        }
    }

    fn replace_disk(&mut self, id: u64, bootstrap: Membership) {
        self.switch_off(id);
        let disk = Disk::new(id, self.setup.chunk_bytes, &mut self.rng);
        self.node(id).wipe(disk, bootstrap);
        let pace = if self.is_calm { MS } else { 2 * MS };
        self.set_disk_pace(id, (100, pace));
    }

    /// Members that come with another data folder are added again, and those that are switched off start.
    fn mend_members(&mut self) {
        for id in self.members() {
            if std::mem::take(&mut self.node(id).is_retired) {
                self.at(self.now, Event::Start(id));
            }
        }
        let membership = self.checker.membership();
        let is_lost = |id: &NodeId| {
            let bound = membership.incarnations.get(id);
            let incarnation = self.nodes[&id.0].incarnation;
            bound.is_some_and(|bound| *bound != incarnation)
        };
        // Who asked a node that hears nobody is not answered soon, and asks another one.
        let patience_us = (self.setup.election_timeout_ms + self.setup.request_timeout_ms) * MS;
        let waiting = self.operator.asks.iter();
        let waiting = waiting.filter(|ask| self.now - ask.since < patience_us).count();
        let lost = membership.addresses.keys().copied().find(is_lost);
        if let Some(id) = lost.filter(|_| waiting < ASKS_MAX / 2) {
            self.ask_to_add(id.0);
        }
    }

    fn ask_to_add(&mut self, id: u64) {
        self.operator.additions += 1;
        let voter = self.rng.one_in(3) && !self.is_calm;
        let (id, addresses) = (NodeId(id), node::addresses(id, self.operator.additions));
        self.ask(Wish::Change(MembershipChange::Add { id, addresses, voter }));
    }

    fn ask(&mut self, wish: Wish) {
        let asked = self.whom_to_ask();
        let id = asked[self.rng.below(asked.len() as u64) as usize];
        let Some(boot) = self.boot(id) else {
            return;
        };
        self.say(Mark::Fault, |_| format!("the operator asks node {id}: {wish:?}"));
        let operation = match &wish {
            Wish::Change(change) => Operation::Change(change.clone()),
            Wish::Transfer(target) => Operation::Transfer(*target),
            Wish::Verify => Operation::Verify,
        };
        let (answers, inbox) = mpsc::unbounded_channel();
        let node = &self.nodes[&id];
        let left_us = node.paused_until.saturating_sub(self.now);
        self.operator.asks.push(Ask {
            node: id,
            boot,
            since: self.now,
            paused_us: node.paused_us.saturating_sub(left_us),
            inbox,
            wish,
            memberships: self.checker.memberships.len(),
        });
        let requests = vec![Request { ticket: 0, operation }];
        let submission = Submission { requests, answers };
        let node = id;
        self.after(
            50,
            2 * MS,
            Event::Submit {
                node,
                boot,
                submission,
            },
        );
    }

    /// After something has happened to a node: what the operator is told by it.
    pub(super) fn judge(&mut self, id: u64) {
        let boot = self.boot(id);
        for mut ask in std::mem::take(&mut self.operator.asks) {
            let alive = ask.node == id && boot == Some(ask.boot);
            if ask.node != id {
                self.operator.asks.push(ask);
                continue;
            }
            match ask.inbox.try_recv() {
                Ok(answer) => self.judge_answer(&ask, Some(answer.outcome)),
                Err(TryRecvError::Empty) if alive => self.operator.asks.push(ask),
                Err(TryRecvError::Disconnected) if alive => {
                    panic!("answers in time: node {id} never answers {:?}", ask.wish)
                }
                Err(_) => self.judge_answer(&ask, None),
            }
        }
    }

    fn judge_answer(&mut self, ask: &Ask, outcome: Option<Outcome>) {
        self.say(Mark::Fault, |_| {
            format!(
                "node {} tells the operator of {:?}: {outcome:?}",
                ask.node, ask.wish
            )
        });
        let verdict = verdict(&ask.wish, outcome);
        let Wish::Change(change) = &ask.wish else {
            return;
        };
        if verdict == Verdict::Done {
            // What was in force when it was asked counts too.
            let since = self.checker.memberships.iter().skip(ask.memberships - 1);
            assert!(
                since.clone().any(|membership| is_as_wanted(change, membership)),
                "changes that are done are committed: {change} is said to be done, and since it was asked for these \
                 were committed: {:?}",
                since.collect::<Vec<_>>()
            );
        }
        if let Some(trace) = trace(change) {
            let told = self.operator.told.entry(trace).or_default();
            match verdict {
                Verdict::Done => told.done += 1,
                Verdict::Unknown => told.unknown += 1,
                Verdict::NotDone => {}
            }
        }
    }

    /// Each request is answered in time.
    pub(super) fn check_operator(&self) {
        for ask in &self.operator.asks {
            let paused = self.nodes[&ask.node].paused_us.saturating_sub(ask.paused_us);
            let timeout_us = match &ask.wish {
                Wish::Change(MembershipChange::Add { voter: true, .. }) => PROMOTION_US,
                _ => self.setup.request_timeout_ms * MS,
            };
            let timeout_us = node::slowest_us(timeout_us, self.setup.drift_max_ppm);
            let longest = 2 * timeout_us + 500 * MS + paused;
            assert!(
                self.now - ask.since <= longest,
                "answers in time: node {} has not answered the operator for {} ms: {:?}",
                ask.node,
                (self.now - ask.since) / MS,
                ask.wish
            );
        }
    }
}

/// Whether a node that may vote knows this data folder as the one of its member, durably: then it takes no other one.
fn knows_folder(node: &Node, id: u64, incarnation: u64) -> bool {
    let Some(process) = &node.process else {
        return false;
    };
    let status = process.machine.raft().status();
    let knows = |membership: &Membership| {
        let bound = membership.incarnations.get(&NodeId(id));
        !membership.contains(NodeId(id)) || bound == Some(&incarnation)
    };
    let is_durable = status.log_durable >= status.commit_index;
    is_durable && knows(status.committed_membership) && knows(status.membership)
}

fn verdict(wish: &Wish, outcome: Option<Outcome>) -> Verdict {
    let reply = match outcome {
        None => return Verdict::Unknown,
        Some(Outcome::Reply(reply)) => reply,
        Some(other) => panic!("fitting answers: {wish:?} was answered {other:?}"),
    };
    let error = match reply {
        Reply::Ok => return Verdict::Done,
        Reply::Error(error) => error,
        other => panic!("fitting answers: {wish:?} was answered {other:?}"),
    };
    assert!(
        !error.text.contains("states differ"),
        "state hash: RAFT VERIFY says: {}",
        error.text
    );
    match error.code {
        Code::UnknownResult => Verdict::Unknown,
        Code::Conflict | Code::Err | Code::Busy | Code::TryAgain | Code::ClusterDown | Code::ReadOnly => {
            Verdict::NotDone
        }
        _ => panic!("fitting answers: {wish:?} was answered {error}"),
    }
}
