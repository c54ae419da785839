//! Changes of the membership that somebody asked for, on their way through the leader.
//!
//! The core does one change at a time, and some of them by itself: it promotes learners, finishes what it finds, and
//! binds data folders. A request waits for those; while another request is on its way it gets CONFLICT. It is answered
//! when what it wants is in the committed membership, and so it is true whoever leads by then.

use super::forward::Order;
use super::host::Host;
use super::machine::Machine;
use super::request::MembershipChange;
use super::waiters::{Origin, Parked};
use crate::kv::{Code, Reply};
use crate::raft::{Change, ChangeError, Index, Membership, NodeId, Term, Ticks};

/// How long `RAFT ADD … VOTER` waits at least for the learner to catch up.
const PROMOTION_MS: u64 = 60_000;

/// The changes that somebody waits for: at most one is on its way, and those of `VOTER` wait for more. Bounded by
/// `max_pending`, which the caller checks against `len`.
#[derive(Debug)]
pub(super) struct Changes<C> {
    pending: Vec<Pending<C>>,
}

#[derive(Debug)]
struct Pending<C> {
    change: MembershipChange,
    deadline: Ticks,
    origin: Origin<C>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not begun: the core is busy with a change of its own.
    Waiting,
    /// Its first entry has this index and term. `bound`: the data folder that the member had before.
    Begun {
        index: Index,
        term: Option<Term>,
        bound: Option<u64>,
    },
    /// The learner is in, and is to become a voter.
    Promoting,
}

/// What comes of looking at a change.
enum Step {
    Stay,
    Go(Stage),
    Answer(Reply),
    /// This node does not lead, and has not begun it.
    PassOn,
}

impl<C> Default for Changes<C> {
    fn default() -> Self {
        Changes { pending: Vec::new() }
    }
}

impl<C> Changes<C> {
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether one waits to be begun.
    pub(super) fn is_waiting(&self) -> bool {
        self.pending.iter().any(|pending| pending.stage == Stage::Waiting)
    }

    pub(super) fn deadline(&self) -> Option<Ticks> {
        self.pending.iter().map(|pending| pending.deadline).min()
    }

    /// What is on its way, in words.
    fn under_way(&self) -> Option<String> {
        let pending = self
            .pending
            .iter()
            .find(|pending| pending.stage != Stage::Promoting)?;
        Some(pending.change.to_string())
    }
}

impl MembershipChange {
    fn to_core(&self) -> Change {
        match self {
            MembershipChange::Add { id, addresses, .. } => Change::Add {
                id: *id,
                addresses: addresses.clone(),
            },
            MembershipChange::Promote(id) => Change::Promote(*id),
            MembershipChange::Remove(id) => Change::Remove(*id),
        }
    }

    fn id(&self) -> NodeId {
        match self {
            MembershipChange::Add { id, .. }
            | MembershipChange::Promote(id)
            | MembershipChange::Remove(id) => *id,
        }
    }

    fn waits_for_voter(&self) -> bool {
        matches!(self, MembershipChange::Add { voter: true, .. })
    }

    /// Whether the committed membership is as wanted. `bound`: the data folder that the member had before.
    fn is_done(&self, committed: &Membership, bound: Option<u64>) -> bool {
        let id = self.id();
        if committed.outgoing.contains(&id) && !matches!(self, MembershipChange::Promote(_)) {
            return false;
        }
        match self {
            MembershipChange::Add { addresses, .. } => {
                let is_new = bound.is_none() || committed.incarnations.get(&id) != bound.as_ref();
                let is_in = committed.learners.contains(&id) || committed.voters.contains(&id);
                is_in && is_new && committed.addresses.get(&id) == Some(addresses)
            }
            MembershipChange::Promote(_) => is_settled_voter(committed, id),
            MembershipChange::Remove(_) => {
                !committed.voters.contains(&id) && !committed.learners.contains(&id)
            }
        }
    }
}

fn is_settled_voter(committed: &Membership, id: NodeId) -> bool {
    committed.voters.contains(&id) && committed.outgoing.is_empty()
}

impl<C> Machine<C> {
    /// When a request for this change is given up.
    pub(super) fn change_deadline(&self, order: &Order) -> Ticks {
        let timeout_ms = self.options.request_timeout_ms;
        match order {
            Order::Change(change) if change.waits_for_voter() => {
                self.now.ticks.after(timeout_ms.max(PROMOTION_MS))
            }
            _ => self.now.ticks.after(timeout_ms),
        }
    }

    /// This node leads, and somebody wants the membership changed.
    pub(super) fn lead_change(
        &mut self,
        change: MembershipChange,
        deadline: Ticks,
        origin: Origin<C>,
        host: &mut impl Host<CallId = C>,
    ) {
        if let Some(other) = self.changes.under_way() {
            let text = format!("{other} is on its way; nothing was done, try again when it is finished");
            return self.finish(origin, Reply::error(Code::Conflict, text), host);
        }
        self.changes.pending.push(Pending {
            change,
            deadline,
            origin,
            stage: Stage::Waiting,
        });
        self.advance_changes(host);
    }

    /// Looks at each change that somebody waits for.
    pub(super) fn advance_changes(&mut self, host: &mut impl Host<CallId = C>) {
        for mut pending in std::mem::take(&mut self.changes.pending) {
            loop {
                match self.step_change(&pending) {
                    Step::Go(stage) => pending.stage = stage,
                    Step::Stay => {
                        self.changes.pending.push(pending);
                        break;
                    }
                    Step::Answer(reply) => {
                        self.finish(pending.origin, reply, host);
                        break;
                    }
                    Step::PassOn => {
                        self.sequence += 1;
                        let (sequence, order) = (self.sequence, Order::Change(pending.change).encode());
                        self.park(Parked {
                            sequence,
                            deadline: pending.deadline,
                            order,
                            origin: pending.origin,
                        });
                        break;
                    }
                }
            }
        }
    }

    fn step_change(&mut self, pending: &Pending<C>) -> Step {
        let overdue = pending.deadline <= self.now.ticks;
        let change = &pending.change;
        let raft = self.raft.status();
        match pending.stage {
            Stage::Waiting if !self.raft.is_leader() => Step::PassOn,
            Stage::Waiting if overdue => Step::Answer(Reply::error(
                Code::Conflict,
                "another change of the membership is not finished; nothing was done, STATUS says what it needs",
            )),
            Stage::Waiting => self.begin_change(change),
            Stage::Begun { index, term, bound } => {
                let done = raft.commit_index >= index && change.is_done(raft.committed_membership, bound);
                match (done, change.waits_for_voter()) {
                    (true, true) => Step::Go(Stage::Promoting),
                    (true, false) => Step::Answer(Reply::Ok),
                    (false, _) if self.is_replaced(index, term) => Step::Answer(Reply::error(
                        Code::TryAgain,
                        "another leader's entry took the place of this change; nothing was done",
                    )),
                    (false, _) if overdue => Step::Answer(unfinished(change)),
                    (false, _) => Step::Stay,
                }
            }
            Stage::Promoting if is_settled_voter(raft.committed_membership, change.id()) => {
                Step::Answer(Reply::Ok)
            }
            Stage::Promoting if overdue || !raft.membership.addresses.contains_key(&change.id()) => {
                Step::Answer(unpromoted(change.id()))
            }
            Stage::Promoting => Step::Stay,
        }
    }

    /// Whether it is certain that the entry of this index and term will never be committed.
    fn is_replaced(&self, index: Index, term: Option<Term>) -> bool {
        let there = self.raft.log().term_at(index);
        self.raft.commit_index() >= index && there.is_some() && there != term
    }

    fn begin_change(&mut self, change: &MembershipChange) -> Step {
        let before = self.raft.membership().incarnations.get(&change.id()).copied();
        match self.raft.change_membership(change.to_core()) {
            Ok(()) => {
                tracing::info!("the membership changes: {change}");
                let index = self.raft.membership_index();
                let term = self.raft.log().term_at(index);
                Step::Go(Stage::Begun {
                    index,
                    term,
                    bound: before,
                })
            }
            // A leader that has not committed anything in its term yet, or may stay one, goes on later.
            Err(ChangeError::InProgress | ChangeError::NotLeader | ChangeError::Transferring) => Step::Stay,
            Err(ChangeError::TooMuchUncommitted) => Step::Answer(Reply::error(
                Code::Busy,
                "the leader waits for too many bytes to be committed; nothing was done, try again later",
            )),
            Err(ChangeError::Refused(text)) => {
                Step::Answer(Reply::error(Code::Err, format!("{text}; nothing was done")))
            }
        }
    }

    /// The node stops: nobody waits any longer.
    pub(super) fn stop_changes(&mut self, host: &mut impl Host<CallId = C>) {
        for pending in std::mem::take(&mut self.changes.pending) {
            let reply = match pending.stage {
                Stage::Waiting => {
                    Reply::error(Code::TryAgain, "the leader is shutting down; nothing was done")
                }
                Stage::Begun { .. } => unfinished(&pending.change),
                Stage::Promoting => unpromoted(pending.change.id()),
            };
            self.finish(pending.origin, reply, host);
        }
    }
}

fn unfinished(change: &MembershipChange) -> Reply {
    let text = format!(
        "{change} was begun, but it is not known to be committed; whoever leads finishes it or undoes it, RAFT \
         MEMBERS shows what came of it"
    );
    Reply::error(Code::UnknownResult, text)
}

fn unpromoted(id: NodeId) -> Reply {
    let text = format!(
        "node {id} was added as a learner and is not known to be a voter yet; it is promoted by itself when it has \
         caught up, RAFT MEMBERS shows it"
    );
    Reply::error(Code::UnknownResult, text)
}
