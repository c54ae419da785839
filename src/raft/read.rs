//! Linearizable reads by ReadIndex (Diss. 6.4), on any server.
//!
//! Reads gather while a question is under way; then one question is asked for all of them: to the leader, or,
//! on the leader, to itself. The leader notes its commit index, starts a round, and answers once a quorum has
//! confirmed that round or a later one: then no other leader had committed anything when the question came.
//! Questions that come while a round is under way share the next one.
//!
//! Rounds and questions have numbers that are never used twice (trap 3.11). A read has no effect, so one whose
//! answer is lost is simply asked again, also of another leader; the caller decides when to give up.

use std::collections::{BTreeMap, VecDeque};

use super::message::{Message, ReadIndex, ReadIndexResponse};
use super::node::{Raft, Role};
use super::quorum;
use super::ready::ReadReady;
use super::types::{Index, NodeId, Ticks};
use crate::base::mutant::{self, Mutant};

/// This server's own reads. Bounded by the caller's own bound on reads under way.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Not asked for yet.
    waiting: Vec<u64>,
    asked: Option<Asked>,
}

/// The question under way.
#[derive(Debug)]
struct Asked {
    id: u64,
    /// When to ask again.
    deadline: Ticks,
    tickets: Vec<u64>,
}

impl Reads {
    /// The question under way will not be answered, or not soon: ask again.
    pub fn ask_again(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.waiting.extend(asked.tickets);
        }
    }

    pub fn deadline(&self) -> Option<Ticks> {
        self.asked.as_ref().map(|asked| asked.deadline)
    }
}

/// ReadIndex on the leader.
#[derive(Debug)]
pub(super) struct Rounds {
    /// The last round started.
    latest: u64,
    /// Questions that wait for a round: the last one of each server, which has only one under way.
    fresh: BTreeMap<NodeId, Question>,
    /// Rounds under way, oldest first.
    pending: VecDeque<Round>,
}

#[derive(Debug)]
struct Round {
    number: u64,
    read_index: Index,
    questions: BTreeMap<NodeId, Question>,
}

#[derive(Clone, Copy, Debug)]
struct Question {
    request_id: u64,
    id: u64,
}

impl Rounds {
    /// Rounds of a new leader, numbered on from here.
    pub fn starting_after(latest: u64) -> Rounds {
        Rounds {
            latest,
            fresh: BTreeMap::new(),
            pending: VecDeque::new(),
        }
    }

    pub fn latest(&self) -> u64 {
        self.latest
    }

    /// Starts a round with no questions, whose answers confirm the earlier ones too.
    pub fn start_next(&mut self) {
        self.latest += 1;
    }
}

impl Raft {
    /// Asks from which index on a read may be answered. The answer comes out of [`ready`](Raft::ready) with
    /// this ticket, however often the leader changes meanwhile;
    /// [`forget_reads_below`](Raft::forget_reads_below) gives up.
    pub fn read(&mut self, ticket: u64) {
        self.reads.waiting.push(ticket);
    }

    /// The reads with tickets below this one are no longer wanted.
    pub fn forget_reads_below(&mut self, ticket: u64) {
        self.reads.waiting.retain(|waiting| *waiting >= ticket);
        if let Some(asked) = &mut self.reads.asked {
            asked.tickets.retain(|waiting| *waiting >= ticket);
        }
    }

    /// Asks for the reads that wait, and starts a round for the questions that wait.
    pub(super) fn flush_reads(&mut self) {
        self.ask_leader();
        let is_ready = self.has_committed_in_term() || mutant::is(Mutant::ReadBeforeFirstCommit);
        let commit_index = self.commit_index;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        // A leader that has not committed in its term does not know what is committed (trap 3.10); one that
        // hands over may already be replaced (trap 3.9). Questions wait.
        let rounds = &leader.rounds;
        if is_ready && leader.transfer.is_none() && rounds.pending.is_empty() && !rounds.fresh.is_empty() {
            if !mutant::is(Mutant::ReadRoundReused) {
                leader.start_round(self.now);
            }
            let rounds = &mut leader.rounds;
            let questions = std::mem::take(&mut rounds.fresh);
            rounds.pending.push_back(Round {
                number: rounds.latest,
                read_index: commit_index,
                questions,
            });
            self.broadcast_heartbeat();
        }
    }

    fn ask_leader(&mut self) {
        if self.reads.waiting.is_empty() || self.reads.asked.is_some() {
            return;
        }
        let Some(leader) = self.leader() else {
            return;
        };
        let id = self.next_number();
        let deadline = self.now.after(self.options.election_timeout_ms / 2);
        self.reads.asked = Some(Asked {
            id,
            deadline,
            tickets: std::mem::take(&mut self.reads.waiting),
        });
        if leader == self.options.id {
            self.note_question(leader, Question { request_id: 0, id });
        } else {
            let recovering = self.is_recovering();
            self.send(leader, 0, Message::ReadIndex(ReadIndex { id, recovering }));
        }
    }

    pub(super) fn retry_reads(&mut self) {
        if self.reads.deadline().is_some_and(|deadline| deadline <= self.now) {
            self.reads.ask_again();
        }
    }

    pub(super) fn on_read_index(&mut self, from: NodeId, request_id: u64, request: ReadIndex) {
        if matches!(self.role, Role::Leader(_)) {
            self.note_recovering(from, request.recovering);
            self.note_question(
                from,
                Question {
                    request_id,
                    id: request.id,
                },
            );
        } else {
            let response = ReadIndexResponse {
                id: request.id,
                read_index: None,
            };
            self.send(from, request_id, Message::ReadIndexResponse(response));
        }
    }

    fn note_question(&mut self, from: NodeId, question: Question) {
        if let Role::Leader(leader) = &mut self.role {
            leader.rounds.fresh.insert(from, question);
        }
    }

    /// The term's first entry is committed: the commit index is known, and questions need wait no longer.
    pub(super) fn on_commit_index_known(&mut self) {
        self.flush_reads();
    }

    /// Answers the questions of all rounds that a quorum has confirmed. A server has confirmed a round when it
    /// answered something that was sent after the round began.
    pub(super) fn confirm_reads(&mut self) {
        self.extend_lease();
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let (id, latest) = (self.options.id, leader.rounds.latest);
        let confirmed_by = |peer| {
            if peer == id {
                latest
            } else {
                leader.confirmed_round(peer)
            }
        };
        let confirmed = quorum::majority_value(self.memberships.latest(), confirmed_by).unwrap_or(0);
        let confirmed = mutant::pick(Mutant::ReadWithoutQuorum, confirmed, latest);
        let done = leader
            .rounds
            .pending
            .iter()
            .take_while(|round| round.number <= confirmed)
            .count();
        let rounds: Vec<Round> = leader.rounds.pending.drain(..done).collect();
        for round in rounds {
            for (peer, question) in round.questions {
                self.answer_question(peer, question, round.read_index);
            }
        }
    }

    fn answer_question(&mut self, peer: NodeId, question: Question, read_index: Index) {
        if peer == self.options.id {
            self.reads_confirmed(question.id, read_index);
        } else {
            let response = ReadIndexResponse {
                id: question.id,
                read_index: Some(read_index),
            };
            self.send(peer, question.request_id, Message::ReadIndexResponse(response));
        }
    }

    pub(super) fn on_read_index_response(&mut self, from: NodeId, response: ReadIndexResponse) {
        // Without an index the other does not lead; the question is asked again when its time is up, or as
        // soon as another leader is heard.
        if let Some(read_index) = response.read_index {
            self.learn_read_index(from, read_index);
            self.reads_confirmed(response.id, read_index);
        }
    }

    fn reads_confirmed(&mut self, id: u64, read_index: Index) {
        let is_it = |asked: &mut Asked| asked.id == id || mutant::is(Mutant::AnyReadAnswerCounts);
        if let Some(asked) = self.reads.asked.take_if(is_it) {
            let tickets = self.take_recovery_ticket(asked.tickets, read_index);
            let confirmed = tickets.into_iter().map(|ticket| ReadReady { ticket, read_index });
            self.ready_reads.extend(confirmed);
        }
    }
}
