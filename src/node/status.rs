//! One picture of a node and, on the leader, of its cluster, for RAFT STATUS, RAFT MEMBERS, STATUS, INFO and
//! the admin page alike.

use serde::Serialize;

use crate::raft::{Index, NodeId, Term};

/// What a node knows of itself and its cluster at one moment.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// `cluster.name` of the configuration.
    pub cluster: String,
    /// 128 bits minted at bootstrap; `None` before the first leader's first commit.
    pub cluster_id: Option<[u8; 16]>,
    /// This node.
    pub node: NodeId,
    /// This data folder's random number.
    pub incarnation: u64,
    /// What this node is at the moment.
    pub role: Role,
    /// `currentTerm`.
    pub term: Term,
    /// The leader of that term, where known.
    pub leader: Option<NodeId>,
    /// `commitIndex`.
    pub commit: Index,
    /// `lastApplied`.
    pub applied: Index,
    /// The first index of the log in memory.
    pub first_index: Index,
    /// The last index of the log.
    pub last_index: Index,
    /// The last index that the newest snapshot covers; 0 without one.
    pub snapshot_index: Index,
    /// When that snapshot was written here, in milliseconds since 1970-01-01 UTC; 0 without one.
    pub snapshot_ms: u64,
    /// How many keys there are.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// How many keys have an expiry.
    pub expiring_keys: u64,
    /// How many leases there are.
    pub leases: u64,
    /// How many sessions of SEQ are open.
    pub sessions: u64,
    /// How many tokens of ONCE are remembered.
    pub tokens: u64,
    /// A function of the applied state alone.
    pub state_hash: u64,
    /// Every member of the latest membership.
    pub members: Vec<Member>,
    /// Requests waiting for an answer.
    pub pending: u64,
    /// Change feeds that are read from this node.
    pub feeds: u64,
    /// What is wrong with this node or its cluster, each with what to do about it; empty when all is well.
    pub problems: Vec<String>,
}

/// What a node is at the moment (Raft 5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Leads its term.
    Leader,
    /// Follows a leader or waits for one.
    #[default]
    Follower,
    /// Asks for votes, or for pre-votes.
    Candidate,
    /// Receives the log and does not vote.
    Learner,
}

/// One member as this node sees it.
#[derive(Clone, Debug, Default)]
pub struct Member {
    /// Its number.
    pub id: NodeId,
    /// Whether it votes.
    pub voter: bool,
    /// Where other nodes reach it.
    pub peer: String,
    /// Where clients reach it.
    pub client: String,
    /// On the leader only: what is known of its log.
    pub progress: Option<MemberProgress>,
}

/// What a leader knows of one member's log (Raft figure 2, "volatile state on leaders").
#[derive(Clone, Copy, Debug, Default)]
pub struct MemberProgress {
    /// `matchIndex`.
    pub match_index: Index,
    /// `nextIndex`.
    pub next_index: Index,
    /// AppendEntries that were sent and not yet answered.
    pub inflight: usize,
}

impl Role {
    /// The role's name on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Learner => "learner",
        }
    }
}

impl Status {
    /// The role word of RAFT MEMBERS and of the JSON for one member.
    pub fn member_role(&self, member: &Member) -> &'static str {
        match (self.leader == Some(member.id), member.voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "learner",
        }
    }

    /// The JSON object of RAFT STATUS and `/status`, on one line.
    pub fn to_json(&self) -> String {
        let members = self
            .members
            .iter()
            .map(|m| JsonMember {
                id: m.id.0,
                role: if m.voter { "voter" } else { "learner" },
                peer: &m.peer,
                client: &m.client,
                match_index: m.progress.map(|p| p.match_index.0),
                next_index: m.progress.map(|p| p.next_index.0),
                inflight: m.progress.map(|p| p.inflight),
            })
            .collect();
        let json = JsonStatus {
            cluster: &self.cluster,
            node: self.node.0,
            role: self.role.as_str(),
            term: self.term.0,
            leader: self.leader.map(|l| l.0),
            commit: self.commit.0,
            applied: self.applied.0,
            first_index: self.first_index.0,
            last_index: self.last_index.0,
            snapshot_index: self.snapshot_index.0,
            keys: self.keys,
            state_hash: format!("{:016x}", self.state_hash),
            members,
            version: env!("CARGO_PKG_VERSION"),
        };
        // Serializing plain numbers and strings cannot fail; an empty object would show if it did.
        serde_json::to_string(&json).unwrap_or_else(|_| "{}".into())
    }
}

#[derive(Serialize)]
struct JsonStatus<'a> {
    cluster: &'a str,
    node: u64,
    role: &'a str,
    term: u64,
    leader: Option<u64>,
    commit: u64,
    applied: u64,
    first_index: u64,
    last_index: u64,
    snapshot_index: u64,
    keys: u64,
    state_hash: String,
    members: Vec<JsonMember<'a>>,
    version: &'a str,
}

#[derive(Serialize)]
struct JsonMember<'a> {
    id: u64,
    role: &'a str,
    peer: &'a str,
    client: &'a str,
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    match_index: Option<u64>,
    #[serde(rename = "next", skip_serializing_if = "Option::is_none")]
    next_index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inflight: Option<usize>,
}
