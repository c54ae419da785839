//! The way of a write through a node: proposed here if this node leads, passed to the leader if another does,
//! parked while nobody does. And the way of a hand-over, which is the same but for its end.
//!
//! A write is tried again only while it is certain that nothing came of it (trap 3.50).

use bytes::Bytes;

use super::forward::{self, Order};
use super::host::Host;
use super::machine::{Machine, PendingTransfer, unknown_order};
use super::waiters::{Forwarded, Local, Origin, Parked};
use crate::base::mutant::{self, Mutant};
use crate::kv::{self, Code, Command, Reply};
use crate::raft::{EntryId, NodeId, ProposeError, Ticks, TransferError};
use crate::transport::CallError;

/// How long a parked write waits before it is tried again with the same leader.
const RETRY_MS: u64 = 20;
/// How long a leader may still answer after another one is known.
const GRACE_MS: u64 = 100;
/// How often a disk that is too full is looked at again.
const MEASURE_INTERVAL_MS: u64 = 1000;

impl<C> Machine<C> {
    /// A client's write.
    pub(super) fn write(&mut self, command: Command, origin: Origin<C>, host: &mut impl Host<CallId = C>) {
        let refusal = self.no_room_on_disk(host).or_else(|| self.no_time());
        if let Some(refusal) = refusal {
            return self.finish(origin, refusal, host);
        }
        // What is parked goes first, so that one connection's writes keep their order.
        if self.raft.is_leader() && !self.waiters.has_parked() {
            let deadline = self.request_deadline();
            self.lead(Order::Write(command), deadline, origin, host);
        } else {
            let deadline = self.request_deadline();
            self.pass_on(Order::Write(command).encode(), deadline, origin, host);
        }
    }

    fn no_room_on_disk(&mut self, host: &mut impl Host<CallId = C>) -> Option<Reply> {
        let (free, least) = (self.free_space_bytes, self.options.min_free_space_bytes);
        if free >= least {
            return None;
        }
        if self.now.ticks.since(self.free_space_asked) >= MEASURE_INTERVAL_MS {
            self.free_space_asked = self.now.ticks;
            host.measure_free_space();
        }
        let text = format!(
            "{free} bytes are free on the disk of node {}, less than storage.min_free_space ({least}); nothing was \
             written",
            self.raft.id()
        );
        Some(Reply::error(Code::ReadOnly, text))
    }

    /// A leader whose oldest write has waited for half of its time takes no more of them: under more load than it can
    /// bear, every write would otherwise be done too late for its answer, and none be acknowledged.
    fn no_time(&mut self) -> Option<Reply> {
        let half = self.now.ticks.after(self.options.request_timeout_ms / 2);
        let is_late = |deadline: Ticks| deadline <= half;
        if !self.raft.is_leader() || !self.waiters.first_proposed_deadline().is_some_and(is_late) {
            return None;
        }
        let text = "writes wait on the leader for more than half of limits.request_timeout; nothing was done, \
                    try again later";
        Some(Reply::error(Code::Busy, text))
    }

    /// What a client wants of the leader beside writes.
    pub(super) fn order(&mut self, order: &Order, local: Local, host: &mut impl Host<CallId = C>) {
        let deadline = self.change_deadline(order);
        self.pass_on(order.encode(), deadline, Origin::Local(local), host);
    }

    /// To the leader, or into the queue until there is one.
    fn pass_on(
        &mut self,
        order: Bytes,
        deadline: Ticks,
        origin: Origin<C>,
        host: &mut impl Host<CallId = C>,
    ) {
        self.sequence += 1;
        let parked = Parked {
            sequence: self.sequence,
            deadline,
            order,
            origin,
        };
        if self.waiters.has_parked() {
            self.waiters.park(parked);
        } else {
            self.try_parked(parked, host);
        }
    }

    /// Tries what is parked, when the leader has changed or enough time has passed.
    pub(super) fn retry_parked(&mut self, host: &mut impl Host<CallId = C>) {
        if !self.waiters.has_parked() {
            return;
        }
        let leader = self.raft.leader().map(|leader| (self.raft.term(), leader));
        if leader == self.tried_leader && self.now.ticks < self.retry_parked_at {
            return;
        }
        self.tried_leader = leader;
        self.retry_parked_at = self.now.ticks.after(RETRY_MS);
        for parked in self.waiters.take_parked() {
            self.try_parked(parked, host);
        }
    }

    fn try_parked(&mut self, parked: Parked<C>, host: &mut impl Host<CallId = C>) {
        let transferring = self.raft.is_transferring();
        match (self.raft.leader(), parked) {
            (Some(leader), parked) if leader == self.raft.id() && !transferring => {
                self.lead_order(&parked.order, parked.deadline, parked.origin, host);
            }
            (
                Some(leader),
                Parked {
                    sequence,
                    deadline,
                    order,
                    origin: Origin::Local(local),
                },
            ) if leader != self.raft.id() => {
                host.call(leader, sequence, order.clone(), deadline);
                self.waiters.forwarded(
                    sequence,
                    Forwarded {
                        to: leader,
                        deadline,
                        order,
                        local,
                    },
                );
            }
            // Another node passed this on, and this node does not lead (any more): that node tries again.
            (Some(leader), Parked { origin, .. }) if leader != self.raft.id() => {
                self.finish(origin, not_leader(), host);
            }
            (
                _,
                Parked {
                    origin: origin @ Origin::Remote(_),
                    ..
                },
            ) if self.raft.is_removed() || self.is_retiring() => self.finish(origin, not_leader(), host),
            (None, Parked { origin, .. }) if self.raft.is_removed() => {
                let text = "this node was removed from its cluster; ask another node; nothing was done";
                self.finish(origin, Reply::error(Code::ClusterDown, text), host);
            }
            (_, parked) => self.park(parked),
        }
    }

    /// Another node leads now: the one before, which may hang, has a little time left to answer what was passed to
    /// it. A leader that handed over answers at once, so its writes lose nothing.
    pub(super) fn hasten_forwarded(&mut self) {
        let leader = self.raft.leader().map(|leader| (self.raft.term(), leader));
        if let Some((_, id)) = leader
            && leader != self.hastened_for
        {
            self.hastened_for = leader;
            self.waiters.hasten(id, self.now.ticks.after(GRACE_MS));
        }
    }

    pub(super) fn park(&mut self, parked: Parked<C>) {
        if !self.waiters.has_parked() {
            self.tried_leader = self.raft.leader().map(|leader| (self.raft.term(), leader));
            self.retry_parked_at = self.now.ticks.after(RETRY_MS);
        }
        self.waiters.park(parked);
    }

    /// Whether this node leads for the last moments after its own removal, and takes nothing any more: it will not
    /// hear who leads then, so whoever passes something on to it is to try again, there.
    fn is_retiring(&self) -> bool {
        self.raft.is_transferring() && !self.raft.membership().addresses.contains_key(&self.raft.id())
    }

    /// Another node passes something on to this one, which it believes to lead; or a leader asks it something.
    pub fn on_call(&mut self, call: C, order: &Bytes, host: &mut impl Host<CallId = C>) {
        let origin = Origin::Remote(call);
        if self.pending() >= self.options.max_pending {
            let text = "too many requests wait on the leader; nothing was done, try again later";
            return self.finish(origin, Reply::error(Code::Busy, text), host);
        }
        if forward::is_for_all(order) {
            return self.lead_order(order, self.request_deadline(), origin, host);
        }
        if forward::is_write(order)
            && let Some(refusal) = self.no_room_on_disk(host).or_else(|| self.no_time())
        {
            return self.finish(origin, refusal, host);
        }
        // What a state that differs would answer may be wrong: such a leader is about to hand over.
        if !self.raft.is_leader() || self.is_retiring() || self.diverged_at.is_some() {
            return self.finish(origin, not_leader(), host);
        }
        let deadline = if forward::is_write(order) {
            self.request_deadline()
        } else {
            Order::decode(order).map_or(self.now.ticks, |order| self.change_deadline(&order))
        };
        if self.waiters.has_parked() || self.raft.is_transferring() {
            self.pass_on(order.clone(), deadline, origin, host);
        } else {
            self.lead_order(order, deadline, origin, host);
        }
    }

    fn lead_order(
        &mut self,
        order: &Bytes,
        deadline: Ticks,
        origin: Origin<C>,
        host: &mut impl Host<CallId = C>,
    ) {
        match Order::decode(order) {
            Ok(order) => self.lead(order, deadline, origin, host),
            Err(reason) => {
                let text =
                    format!("the leader can't read what this node passed on ({reason}); nothing was done");
                self.finish(origin, Reply::error(Code::Err, text), host);
            }
        }
    }

    /// The deadline is that of the request, however long it has been parked.
    fn lead(&mut self, order: Order, deadline: Ticks, origin: Origin<C>, host: &mut impl Host<CallId = C>) {
        match order {
            Order::Write(command) => self.lead_write(command, deadline, origin, host),
            Order::Transfer(target) => self.lead_transfer(target, deadline, origin, host),
            Order::Change(change) => self.lead_change(change, deadline, origin, host),
            Order::Verify => self.lead_verify(deadline, origin, host),
            Order::HashAt(index) => match origin {
                Origin::Remote(call) => self.on_hash_question(index, call, host),
                // Nobody here asks itself.
                Origin::Local(local) => local.answer(unknown_order()),
            },
        }
    }

    fn lead_write(
        &mut self,
        command: Command,
        deadline: Ticks,
        origin: Origin<C>,
        host: &mut impl Host<CallId = C>,
    ) {
        let (most, growth) = (self.options.max_memory_bytes, self.store.growth(&command));
        if most > 0 && growth > 0 && self.store.bytes().saturating_add(growth) > most {
            let text = "keys and values fill limits.max_memory; nothing was written; delete something first";
            return self.finish(origin, Reply::error(Code::Oom, text), host);
        }
        match self.propose(&command) {
            Ok(_) if mutant::is(Mutant::AnswerWhenProposed) => {
                let index = self.store.applied() + 1;
                let reply = self.store.clone().apply(index, self.now.wall_ms, &command);
                self.finish(origin, reply, host);
            }
            Ok(id) => self.waiters.proposed(id, deadline, origin),
            Err(ProposeError::TooMuchUncommitted) => {
                let text = "the leader waits for too many bytes to be committed; nothing was written, try again later";
                self.finish(origin, Reply::error(Code::Busy, text), host);
            }
            Err(ProposeError::LogFull) => {
                let text =
                    "the leader's log is full until its next snapshot; nothing was written, try again later";
                self.finish(origin, Reply::error(Code::Busy, text), host);
            }
            Err(ProposeError::NotLeader | ProposeError::Transferring) => {
                self.sequence += 1;
                let order = Order::Write(command).encode();
                self.park(Parked {
                    sequence: self.sequence,
                    deadline,
                    order,
                    origin,
                });
            }
        }
    }

    /// Stamps the command with the leader's time, which never goes back (trap 3.48), and appends it.
    pub(super) fn propose(&mut self, command: &Command) -> Result<EntryId, ProposeError> {
        let time_ms = self.now.wall_ms.max(self.store.time_ms());
        self.raft.propose(kv::encode_entry(time_ms, command))
    }

    fn lead_transfer(
        &mut self,
        target: Option<NodeId>,
        deadline: Ticks,
        origin: Origin<C>,
        host: &mut impl Host<CallId = C>,
    ) {
        match self.raft.transfer(target) {
            Ok(()) if target == Some(self.raft.id()) => self.finish(origin, Reply::Ok, host),
            Ok(()) => self.transfers.push(PendingTransfer {
                target,
                deadline,
                origin,
            }),
            Err(TransferError::NotLeader) => self.finish(origin, not_leader(), host),
            Err(TransferError::NoSuchVoter) => {
                let text = match target {
                    Some(id) => format!("node {id} is not a voter of this cluster; see RAFT MEMBERS"),
                    None => "there is no other voter to hand leadership to".into(),
                };
                self.finish(origin, Reply::error(Code::Err, text), host);
            }
        }
    }

    /// Answers those who wait for a hand-over that has ended, one way or the other, or whose time is up: where one
    /// follows the other, its end may not be seen.
    pub(super) fn settle_transfers(&mut self, host: &mut impl Host<CallId = C>) {
        if self.transfers.is_empty() {
            return;
        }
        let (own, now, goes_on) = (self.raft.id(), self.now.ticks, self.raft.is_transferring());
        let leader = self.raft.leader();
        for transfer in std::mem::take(&mut self.transfers) {
            let reply = match leader {
                _ if transfer.deadline > now && (goes_on || leader.is_none()) => {
                    self.transfers.push(transfer);
                    continue;
                }
                _ if goes_on => Reply::error(
                    Code::UnknownResult,
                    "leadership is still being handed over; RAFT STATUS shows who leads in the end",
                ),
                None => Reply::error(
                    Code::UnknownResult,
                    "leadership was given up, but no new leader is known yet",
                ),
                Some(leader) if leader != own && transfer.target.is_none_or(|target| target == leader) => {
                    Reply::Ok
                }
                Some(leader) => Reply::error(
                    Code::TryAgain,
                    format!("leadership was not taken over within an election timeout; node {leader} leads"),
                ),
            };
            self.finish(transfer.origin, reply, host);
        }
    }

    /// The leader's answer to what this node passed on, or why there is none.
    pub fn on_answer(&mut self, sequence: u64, result: Result<Bytes, CallError>) {
        if self.on_hash_answer(sequence, &result) {
            return;
        }
        let Some(Forwarded {
            deadline,
            order,
            local,
            ..
        }) = self.waiters.take_forwarded(sequence)
        else {
            return;
        };
        let reply = match result.map(kv::decode_reply) {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the leader's reply can't be read");
                Reply::error(
                    Code::UnknownResult,
                    "the leader's reply can't be read; the write may have been done",
                )
            }
            Err(CallError::NotSent | CallError::DeadlineExceeded { written: false }) => not_leader(),
            Err(CallError::Lost) if mutant::is(Mutant::ForwardedTwice) => not_leader(),
            Err(_) if !forward::is_write(&order) => unknown_order(),
            Err(CallError::Lost | CallError::DeadlineExceeded { written: true }) => Reply::error(
                Code::UnknownResult,
                "the connection to the leader was lost before its answer came; the write may have been done",
            ),
        };
        if matches!(&reply, Reply::Error(error) if error.code == Code::TryAgain && error.text == NOT_LEADER) {
            self.park(Parked {
                sequence,
                deadline,
                order,
                origin: Origin::Local(local),
            });
        } else {
            local.answer(reply);
        }
    }

    pub(super) fn finish(&mut self, origin: Origin<C>, reply: Reply, host: &mut impl Host<CallId = C>) {
        match origin {
            Origin::Local(local) => local.answer(reply),
            Origin::Remote(call) => host.answer(call, kv::encode_reply(&reply)),
        }
    }
}

/// What a node says that was asked to lead and does not: nothing was done, and the asker tries again.
const NOT_LEADER: &str = "the leader is changing; nothing was written";

fn not_leader() -> Reply {
    Reply::error(Code::TryAgain, NOT_LEADER)
}
