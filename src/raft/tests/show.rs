//! Servers and messages in a line each, for scripts and for whoever debugs a seed.

use super::super::{Envelope, Message, RoleName};
use super::world::World;

/// One line for each server.
pub fn states(world: &World) -> Vec<String> {
    let state = |id: u64| {
        let Some(raft) = world.servers[&id].raft.as_ref() else {
            return format!("{id}: down");
        };
        let status = raft.status();
        let role = match (status.role, status.leader) {
            (RoleName::Leader, _) if raft.is_transferring() => "leads, handing over".to_string(),
            (RoleName::Leader, _) => "leads".to_string(),
            (RoleName::Candidate, _) => "asks for votes".to_string(),
            (RoleName::Follower, Some(leader)) => format!("follows {leader}"),
            (RoleName::Follower, None) => "waits".to_string(),
        };
        let vote = status
            .hard_state
            .vote
            .map_or(String::new(), |vote| format!(", vote {vote}"));
        let base = match raft.log().base() {
            base if base.index.0 == 0 => String::new(),
            base => format!(" after {base}:"),
        };
        let log: String = world.terms(id).iter().map(|term| format!(" {term}")).collect();
        let durable = match status.log_durable == status.last_log.index {
            true => String::new(),
            false => format!(", durable {}", status.log_durable),
        };
        format!(
            "{id}: {role}, term {}{vote}, log{base}{log}{durable}, commit {}",
            raft.term(),
            status.commit_index
        )
    };
    world.ids().into_iter().map(state).collect()
}

/// One line for a message.
pub fn describe(envelope: &Envelope) -> String {
    let what = match &envelope.message {
        Message::PreVote(vote) | Message::RequestVote(vote) => {
            let transfer = if vote.leadership_transfer {
                ", handed over"
            } else {
                ""
            };
            format!("last {}{transfer}", vote.last_log)
        }
        Message::PreVoteResponse(vote) | Message::RequestVoteResponse(vote) => {
            if vote.vote_granted { "granted" } else { "refused" }.to_string()
        }
        Message::AppendEntries(append) => {
            let entries: String = append
                .entries
                .iter()
                .map(|entry| format!(" {}", entry.id))
                .collect();
            format!(
                "after {}:{entries}, commit {}",
                append.prev_log, append.leader_commit
            )
        }
        Message::AppendEntriesResponse(answer) => match answer.conflict {
            None => format!("holds up to {}", answer.last_index),
            Some(c) => format!(
                "conflict: {} to {} have term {}",
                c.first_index, c.last_index, c.term
            ),
        },
        Message::Heartbeat(heartbeat) => format!("commit {}", heartbeat.leader_commit),
        Message::HeartbeatResponse(_) | Message::ReadIndex(_) => String::new(),
        Message::InstallSnapshot(install) => {
            format!("up to {}, chunk {}", install.header.last, install.chunk)
        }
        Message::InstallSnapshotResponse(answer) => match (answer.installed, answer.complete) {
            (true, _) => format!("installed up to {}", answer.last),
            (false, true) => format!("complete up to {}", answer.last),
            (false, false) => format!("up to {}, wants chunk {}", answer.last, answer.next_chunk),
        },
        Message::TimeoutNow(timeout) => format!("last {}", timeout.last_log),
        Message::ReadIndexResponse(answer) => match answer.read_index {
            None => "does not lead".to_string(),
            Some(index) => format!("index {index}"),
        },
    };
    let (from, to, term, name) = (envelope.from, envelope.to, envelope.term, envelope.message.name());
    format!("{from} → {to}  term {term} {name} {what}")
        .trim_end()
        .to_string()
        + "\n"
}
