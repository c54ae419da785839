//! RAFT VERIFY: the leader asks every member what its state hashes to at one index, and compares.

use std::collections::BTreeMap;

use super::forward::Order;
use super::host::Host;
use super::machine::Machine;
use super::members::list;
use super::waiters::Origin;
use crate::kv::{self, Code, Reply};
use crate::raft::{Index, NodeId, Ticks};
use crate::transport::CallError;

use bytes::Bytes;

/// The comparisons under way, and the questions of others that wait until this node has applied an index. Bounded by
/// `max_pending`, which the caller checks against `len`.
#[derive(Debug)]
pub(super) struct Verifications<C> {
    running: Vec<Verification<C>>,
    asked: Vec<Asked<C>>,
}

#[derive(Debug)]
struct Verification<C> {
    index: Index,
    deadline: Ticks,
    origin: Origin<C>,
    /// The calls that are not answered yet, by their sequence.
    waiting: BTreeMap<u64, NodeId>,
    hashes: BTreeMap<NodeId, u64>,
    /// Those that gave no hash, and why.
    failed: BTreeMap<NodeId, String>,
}

/// Another node wants to know the hash here.
#[derive(Debug)]
struct Asked<C> {
    index: Index,
    deadline: Ticks,
    call: C,
}

impl<C> Default for Verifications<C> {
    fn default() -> Self {
        Verifications {
            running: Vec::new(),
            asked: Vec::new(),
        }
    }
}

impl<C> Verifications<C> {
    pub(super) fn len(&self) -> usize {
        self.running.len() + self.asked.len()
    }

    pub(super) fn deadline(&self) -> Option<Ticks> {
        let running = self.running.iter().map(|verification| verification.deadline);
        running.chain(self.asked.iter().map(|asked| asked.deadline)).min()
    }
}

impl<C> Machine<C> {
    /// This node leads, and somebody wants all states compared.
    pub(super) fn lead_verify(
        &mut self,
        deadline: Ticks,
        origin: Origin<C>,
        host: &mut impl Host<CallId = C>,
    ) {
        let (index, own) = (Index(self.store.applied()), self.raft.id());
        // The answer has to be back before whoever asked this node gives up.
        let left_ms = deadline.since(self.now.ticks);
        let deadline = self.now.ticks.after(left_ms - left_ms / 4);
        let mut verification = Verification {
            index,
            deadline,
            origin,
            waiting: BTreeMap::new(),
            hashes: [(own, self.store.hash())].into(),
            failed: BTreeMap::new(),
        };
        let order = Order::HashAt(index).encode();
        let members: Vec<NodeId> = self.raft.membership().others(own).collect();
        for member in members {
            self.sequence += 1;
            verification.waiting.insert(self.sequence, member);
            host.call(member, self.sequence, order.clone(), deadline);
        }
        self.verifications.running.push(verification);
        self.conclude_verifications(host);
    }

    /// A member's answer to one of the questions; `false`: it is none.
    pub(super) fn on_hash_answer(&mut self, sequence: u64, result: &Result<Bytes, CallError>) -> bool {
        for verification in &mut self.verifications.running {
            let Some(member) = verification.waiting.remove(&sequence) else {
                continue;
            };
            match result.as_ref().map(|reply| kv::decode_reply(reply.clone())) {
                Ok(Ok(Reply::Integer(hash))) => {
                    verification.hashes.insert(member, hash as u64);
                }
                Ok(Ok(Reply::Error(error))) => {
                    verification.failed.insert(member, error.text.into_owned());
                }
                Ok(_) => {
                    verification
                        .failed
                        .insert(member, "its answer can't be read".into());
                }
                Err(error) => {
                    verification.failed.insert(member, error.to_string());
                }
            }
            return true;
        }
        false
    }

    /// Another node wants to know what the state here hashes to at an index.
    pub(super) fn on_hash_question(&mut self, index: Index, call: C, host: &mut impl Host<CallId = C>) {
        let deadline = self.request_deadline();
        self.verifications.asked.push(Asked {
            index,
            deadline,
            call,
        });
        self.answer_hash_questions(host);
    }

    /// Answers what can be answered by now.
    pub(super) fn settle_verifications(&mut self, host: &mut impl Host<CallId = C>) {
        if self.verifications.len() > 0 {
            self.answer_hash_questions(host);
            self.conclude_verifications(host);
        }
    }

    fn answer_hash_questions(&mut self, host: &mut impl Host<CallId = C>) {
        let applied = Index(self.store.applied());
        for asked in std::mem::take(&mut self.verifications.asked) {
            let reply = if asked.index <= applied {
                match self.hashes.at(asked.index) {
                    Some(hash) => Reply::Integer(hash as i64),
                    None => Reply::error(Code::Err, "it does not remember that index any more"),
                }
            } else if asked.deadline <= self.now.ticks {
                let text = format!("it has applied {applied} so far");
                Reply::error(Code::Err, text)
            } else {
                self.verifications.asked.push(asked);
                continue;
            };
            host.answer(asked.call, kv::encode_reply(&reply));
        }
    }

    fn conclude_verifications(&mut self, host: &mut impl Host<CallId = C>) {
        for mut verification in std::mem::take(&mut self.verifications.running) {
            if verification.deadline > self.now.ticks && !verification.waiting.is_empty() {
                self.verifications.running.push(verification);
                continue;
            }
            for (sequence, member) in std::mem::take(&mut verification.waiting) {
                host.cancel(sequence);
                verification.failed.insert(member, "no answer in time".into());
            }
            let reply = verdict(verification.index, &verification.hashes, &verification.failed);
            self.finish(verification.origin, reply, host);
        }
    }

    /// The node stops: nobody waits any longer.
    pub(super) fn stop_verifications(&mut self, host: &mut impl Host<CallId = C>) {
        for verification in std::mem::take(&mut self.verifications.running) {
            let text = "the leader is shutting down before all states were compared";
            self.finish(verification.origin, Reply::error(Code::TryAgain, text), host);
        }
        for asked in std::mem::take(&mut self.verifications.asked) {
            let reply = Reply::error(Code::Err, "it is shutting down");
            host.answer(asked.call, kv::encode_reply(&reply));
        }
    }
}

/// `+OK` when all members have the same hash, else which differ and which said nothing.
fn verdict(index: Index, hashes: &BTreeMap<NodeId, u64>, failed: &BTreeMap<NodeId, String>) -> Reply {
    let mut by_hash: BTreeMap<u64, Vec<NodeId>> = BTreeMap::new();
    for (id, hash) in hashes {
        by_hash.entry(*hash).or_default().push(*id);
    }
    let mut complaints = Vec::new();
    if by_hash.len() > 1 {
        let has = |(hash, ids): (&u64, &Vec<NodeId>)| format!("{hash:016x} on {}", list(ids.iter()));
        let all: Vec<String> = by_hash.iter().map(has).collect();
        let mut text = format!("the states differ at index {index}: {}", all.join(", "));
        let members = hashes.len() + failed.len();
        if let Some((right, _)) = by_hash.iter().find(|(_, ids)| ids.len() * 2 > members) {
            let wrong: Vec<&NodeId> = hashes
                .iter()
                .filter(|(_, hash)| *hash != right)
                .map(|(id, _)| id)
                .collect();
            text += &format!(
                "; keep a copy of the data folder of {} for analysis, then run RAFT REBUILD there",
                list(wrong.into_iter())
            );
        }
        complaints.push(text);
    }
    if !failed.is_empty() {
        let silent = |(id, why): (&NodeId, &String)| format!("node {id} gave no hash ({why})");
        complaints.extend(failed.iter().map(silent));
        if by_hash.len() == 1 {
            complaints.push(format!("{} agree at index {index}", list(hashes.keys())));
        }
    }
    if complaints.is_empty() {
        return Reply::Ok;
    }
    Reply::error(Code::Err, complaints.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(hashes: &[(u64, u64)], failed: &[u64]) -> String {
        let hashes = hashes.iter().map(|(id, hash)| (NodeId(*id), *hash)).collect();
        let failed = failed.iter().map(|id| (NodeId(*id), "why".into())).collect();
        match verdict(Index(7), &hashes, &failed) {
            Reply::Error(error) => error.text.into_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn those_that_differ_and_those_that_say_nothing_are_named() {
        assert_eq!(text(&[(1, 5), (2, 5), (3, 5)], &[]), "Ok");
        let said = text(&[(1, 5), (2, 6), (3, 5)], &[]);
        assert!(
            said.contains("0000000000000006 on node 2") && said.contains("data folder of node 2 "),
            "{said}"
        );
        let said = text(&[(1, 5), (2, 6)], &[3]);
        assert!(
            !said.contains("REBUILD") && said.contains("node 3 gave no hash (why)"),
            "{said}"
        );
        let said = text(&[(1, 5), (2, 5)], &[3]);
        assert!(said.contains("nodes 1, 2 agree at index 7"), "{said}");
    }
}
