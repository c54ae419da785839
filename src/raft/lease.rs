//! Lease reads (Diss. 6.4.1): a leader that a quorum has promised not to vote for anybody else reads its own state,
//! without asking. The one place where safety rests on clocks, so it is off unless every voter is configured for it.
//!
//! **The promise.** A voter that promises votes for nobody else within an election timeout of hearing its leader,
//! whatever term it learns of meanwhile, and for nobody within an election timeout of its own start, because it may
//! have promised before (trap 3.4). It says so in its answers to heartbeats; only such answers count.
//!
//! **The lease** runs from the moment when a round was *sent* that a quorum has confirmed, and is shorter than the
//! promise by `max_clock_drift_percent` (trap 3.12). From the first TimeoutNow of a term on there is none in that
//! term: it tells voters to break their promise, however late it arrives (trap 3.9).

use std::collections::VecDeque;

use super::node::{Raft, Role};
use super::quorum;
use super::types::{Index, NodeId, Ticks};
use crate::base::mutant::{self, Mutant};

/// What a voter has promised to its leader.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Promise {
    /// The leader; nobody after a start, when whom it was is forgotten.
    pub to: Option<NodeId>,
    /// Until when.
    pub until: Ticks,
}

/// A leader's lease. As many rounds are remembered as begin within an election timeout: without promises none is ever
/// confirmed here, and an older one could not extend the lease any more.
#[derive(Debug)]
pub(super) struct Lease {
    election_timeout_ms: u64,
    /// Rounds that a quorum has not confirmed, and when each began.
    started: VecDeque<(u64, Ticks)>,
    /// When the latest round began that a quorum with promises has confirmed.
    held_from: Option<Ticks>,
    /// A TimeoutNow was sent.
    is_revoked: bool,
}

impl Lease {
    /// None yet.
    pub fn new(election_timeout_ms: u64) -> Lease {
        Lease {
            election_timeout_ms,
            started: VecDeque::new(),
            held_from: None,
            is_revoked: false,
        }
    }

    /// A round begins.
    pub fn round_started(&mut self, round: u64, now: Ticks) {
        while let Some((_, began)) = self.started.front()
            && now.since(*began) >= self.election_timeout_ms
        {
            self.started.pop_front();
        }
        self.started.push_back((round, now));
    }

    /// No lease in this term any more.
    pub fn revoke(&mut self) {
        self.is_revoked = true;
    }

    fn confirmed(&mut self, round: u64, now: Ticks) {
        while let Some((started, began)) = self.started.front().copied()
            && started <= round
        {
            self.started.pop_front();
            self.held_from = Some(mutant::pick(Mutant::LeaseFromAnswer, began, now));
        }
    }
}

impl Raft {
    /// From which index on this server may answer a read at once: where it leads and holds a lease at the time that it
    /// was last told. Otherwise [`Raft::read`] is the way.
    pub fn lease_read(&self) -> Option<Index> {
        let is_held = self.lease_until().is_some_and(|until| self.now < until);
        is_held.then_some(self.commit_index)
    }

    /// Until when this server, which leads, may read without asking: nobody else is elected before. `None` without a
    /// lease; one that has run out is still told.
    pub fn lease_until(&self) -> Option<Ticks> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let drift_percent = mutant::pick(Mutant::NoDriftMargin, self.options.max_clock_drift_percent, 0);
        let kept_percent = 100_u64.saturating_sub(drift_percent);
        let length_ms = self.options.election_timeout_ms * kept_percent / 100;
        let is_left = leader.lease.is_revoked || leader.transfer.is_some();
        let is_left = is_left && !mutant::is(Mutant::LeaseOutlivesTransfer);
        let held_from = leader
            .lease
            .held_from
            .filter(|_| !is_left && self.has_committed_in_term());
        held_from.map(|from| from.after(length_ms))
    }

    /// A voter hears its leader.
    pub(super) fn renew_promise(&mut self, leader: NodeId) {
        self.promise = Promise {
            to: Some(leader),
            until: self.now.after(self.options.election_timeout_ms),
        };
    }

    /// Whether a vote for this server would break a promise to another one.
    pub(super) fn has_promised_other(&self, than: NodeId) -> bool {
        self.options.promises_lease && self.promise.to != Some(than) && self.now < self.promise.until
    }

    /// Which round a quorum has confirmed, of voters that promise.
    pub(super) fn extend_lease(&mut self) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let own = (self.options.id, leader.rounds.latest());
        let promised_in = |peer| {
            if peer == own.0 {
                return own.1;
            }
            let progress = leader.counting(peer);
            progress
                .filter(|progress| progress.promises_lease)
                .map_or(0, |progress| progress.read_round)
        };
        let round = quorum::majority_value(self.memberships.latest(), promised_in).unwrap_or(0);
        leader.lease.confirmed(round, self.now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_that_nobody_confirms_with_a_promise_are_forgotten() {
        let mut lease = Lease::new(1000);
        for round in 1..=100_000 {
            lease.round_started(round, Ticks(round * 10));
            assert!(lease.started.len() <= 100);
        }
        lease.confirmed(1, Ticks(1_000_000));
        assert_eq!(lease.held_from, None, "too long ago");
        lease.confirmed(99_950, Ticks(1_000_000));
        assert_eq!(lease.held_from, Some(Ticks(999_500)));
    }
}
