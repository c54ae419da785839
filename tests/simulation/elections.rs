//! Elections and leases: each leader was voted for by a quorum in its own term, nobody breaks a promise that a lease
//! may rest on, and nobody is elected while another leader holds a lease. What a stale read would show once in a long
//! while is seen here whenever it could happen.

use std::collections::{BTreeMap, BTreeSet};

use raftline::raft::{Envelope, Message, NodeId, Raft, Term};

use crate::node::Node;

/// What was promised to a leader: no vote for anybody else before that time.
struct Promise {
    to: NodeId,
    term: Term,
    until_us: u64,
}

#[derive(Default)]
pub struct Elections {
    /// A promise lasts this long, on the fastest clock.
    promise_us: u64,
    /// The terms that a candidate has begun.
    begun: BTreeSet<Term>,
    /// Whom a node told that it has its vote, ever.
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// Elections that a leader asked for, by candidate and round.
    handed_over: BTreeSet<(NodeId, u64)>,
    /// The terms that somebody was seen to lead.
    led: BTreeSet<Term>,
    /// Which process has used each number of elections and of questions about reads.
    numbers: BTreeMap<(NodeId, u64), u64>,
    /// When each round of a leader's heartbeats was sent first.
    asked_us: BTreeMap<(NodeId, Term, u64), u64>,
    /// The latest promise of each node.
    promises: BTreeMap<NodeId, Promise>,
}

impl Elections {
    pub fn new(election_timeout_ms: u64, drift_max_ppm: u64) -> Elections {
        // A clock shows whole milliseconds.
        let shown_us = (election_timeout_ms - 2) * 1000;
        Elections {
            promise_us: shown_us * 1_000_000 / (1_000_000 + drift_max_ppm),
            ..Elections::default()
        }
    }

    /// Something has happened to a node.
    pub fn observe(&mut self, node: &Node, nodes: &BTreeMap<u64, Node>, now_us: u64) {
        let Some(process) = &node.process else {
            return;
        };
        let raft = process.machine.raft();
        self.check_term(raft);
        if !raft.is_leader() {
            return;
        }
        if self.led.insert(raft.term()) {
            self.check_votes(raft);
            for other in nodes.values() {
                self.check_lease(other, now_us);
            }
        }
        self.check_lease(node, now_us);
    }

    /// A term begins with a candidate that won a pre-vote: nothing else raises terms (Diss. 9.6).
    fn check_term(&mut self, raft: &Raft) {
        let hard_state = raft.status().hard_state;
        if hard_state.vote == Some(raft.id()) {
            self.begun.insert(hard_state.term);
        }
        assert!(
            hard_state.term == Term(0) || self.begun.contains(&hard_state.term),
            "terms begin with a candidate: node {} is in term {}, for which nobody asked for votes",
            raft.id(),
            hard_state.term
        );
    }

    /// Who leads has the votes of a majority, of both sets in a joint configuration, given in this term (Raft 5.2).
    fn check_votes(&self, raft: &Raft) {
        let (id, term, membership) = (raft.id(), raft.term(), raft.membership());
        let voted = |voter: &&NodeId| **voter == id || self.votes.get(&(**voter, term)) == Some(&id);
        let is_won = [&membership.voters, &membership.outgoing]
            .into_iter()
            .all(|voters| voters.is_empty() || 2 * voters.iter().filter(voted).count() > voters.len());
        assert!(
            is_won,
            "a leader is elected: node {id} leads term {term}, and no majority of {membership:?} has voted for it"
        );
    }

    /// A leader that may read without asking is the latest (Diss. 6.4.1). Its clock is asked, not what it was last
    /// told: it looks at its clock before it reads.
    fn check_lease(&self, node: &Node, now_us: u64) {
        let Some(process) = &node.process else {
            return;
        };
        let raft = process.machine.raft();
        let ticks = node.now(now_us).ticks;
        let holds_lease = raft.lease_until().is_some_and(|until| ticks < until);
        let latest = self.led.last().copied().unwrap_or_default();
        assert!(
            !holds_lease || latest <= raft.term(),
            "a lease excludes others: node {} leads term {} and holds a lease, and term {latest} has a leader",
            node.id,
            raft.term()
        );
    }

    /// A message of the node's `boot`-th process leaves.
    pub fn on_send(&mut self, envelope: &Envelope, boot: u64, now_us: u64) {
        let (from, to, term) = (envelope.from, envelope.to, envelope.term);
        match &envelope.message {
            Message::PreVote(request) => self.check_number(from, request.round, boot),
            Message::ReadIndex(question) => self.check_number(from, question.id, boot),
            Message::Heartbeat(heartbeat) => {
                let round = (from, term, heartbeat.read_round);
                self.asked_us.entry(round).or_insert(now_us);
            }
            Message::HeartbeatResponse(response) if response.promises_lease => {
                if let Some(asked_us) = self.asked_us.get(&(to, term, response.read_round)) {
                    let until_us = asked_us + self.promise_us;
                    self.promises.insert(from, Promise { to, term, until_us });
                }
            }
            Message::RequestVote(request) => {
                self.check_number(from, request.round, boot);
                if request.leadership_transfer {
                    self.handed_over.insert((from, request.round));
                }
                self.check_promise(from, from, term, request.round, now_us);
            }
            Message::RequestVoteResponse(response) if response.vote_granted => {
                let voted = *self.votes.entry((from, term)).or_insert(to);
                assert!(
                    voted == to,
                    "one vote for each term: node {from} votes for {voted} and {to} in term {term}"
                );
                self.check_promise(from, to, term, response.round, now_us);
            }
            _ => {}
        }
    }

    /// No process uses a number of the ones before: or their answers, still under way, would be taken for its own.
    fn check_number(&mut self, node: NodeId, number: u64, boot: u64) {
        let first = *self.numbers.entry((node, number)).or_insert(boot);
        assert!(
            first == boot,
            "no number is used twice: process {boot} of node {node} asks under {number}, as process {first} did"
        );
    }

    /// Who has promised a leader to vote for nobody else keeps to it, over restarts and whatever term it learns of;
    /// unless a leader has asked for the election itself.
    fn check_promise(&self, voter: NodeId, candidate: NodeId, term: Term, round: u64, now_us: u64) {
        let Some(promise) = self.promises.get(&voter) else {
            return;
        };
        let is_broken = promise.to != candidate && term > promise.term && now_us < promise.until_us;
        assert!(
            !is_broken || self.handed_over.contains(&(candidate, round)),
            "a promise is kept: node {voter} votes for {candidate} in term {term}, {} ms before it may, as it has told \
             {}, who leads term {}",
            (promise.until_us.saturating_sub(now_us)) / 1000,
            promise.to,
            promise.term
        );
    }
}
