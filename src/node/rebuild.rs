//! RAFT REBUILD: this node throws away what it has, with its next start, and fetches everything from the others.

use std::collections::BTreeSet;

use super::host::Host;
use super::machine::Machine;
use super::waiters::Local;
use crate::kv::{Code, Reply};
use crate::raft::NodeId;

impl<C> Machine<C> {
    /// Somebody wants this node rebuilt.
    pub(super) fn rebuild(&mut self, local: Local, host: &mut impl Host<CallId = C>) {
        if let Some(text) = self.rebuild_refusal() {
            return local.answer(Reply::error(Code::Err, text));
        }
        if self.rebuilds.is_empty() {
            tracing::warn!("the data folder is marked to be fetched anew, as RAFT REBUILD asks");
            host.mark_rebuild();
        }
        self.rebuilds.push(local);
    }

    fn rebuild_refusal(&self) -> Option<&'static str> {
        if self.raft.is_leader() {
            return Some("this node leads: run RAFT TRANSFER first; nothing was done");
        }
        let (membership, own) = (self.raft.membership(), self.raft.id());
        let (voters, outgoing) = (&membership.voters, &membership.outgoing);
        let suffice = |voters: &BTreeSet<NodeId>| {
            let others = voters.iter().filter(|id| **id != own).count();
            2 * others > voters.len()
        };
        if !suffice(voters) || !(outgoing.is_empty() || suffice(outgoing)) {
            return Some(
                "the other voters are no majority, and without one nothing can be fetched from them: add a voter \
                 first; nothing was done",
            );
        }
        None
    }

    /// The data folder is marked, durably: the next start begins anew, and until then nothing here counts.
    pub fn on_rebuild_marked(&mut self) {
        for local in std::mem::take(&mut self.rebuilds) {
            local.answer(Reply::Ok);
        }
    }
}
