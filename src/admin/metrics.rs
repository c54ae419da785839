//! The metrics page: what the node's status says, and the counters that other layers registered.
//!
//! Lower layers know nothing of this module: they count in plain atomics, and whoever wires them together
//! registers a function that reads them.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::node::{Role, Status};

/// Put before every name.
const PREFIX: &str = "raftline";

/// Counters and gauges that are read whenever the page is asked for.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    Gauge,
}

struct Read<F> {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    read: F,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MemberLabels {
    member: u64,
}

impl Metrics {
    /// No metrics but those of the status.
    pub fn new() -> Metrics {
        Metrics {
            registry: Registry::with_prefix(PREFIX),
        }
    }

    /// Adds a number that only grows; the page shows it as `raftline_{name}_total`.
    pub fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        let kind = Kind::Counter;
        self.registry.register_collector(Box::new(Read {
            name,
            help,
            kind,
            read,
        }));
    }

    /// Adds a number that goes up and down; the page shows it as `raftline_{name}`.
    pub fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        let kind = Kind::Gauge;
        self.registry.register_collector(Box::new(Read {
            name,
            help,
            kind,
            read,
        }));
    }

    /// The page, in the OpenMetrics text format, which Prometheus reads in its own dialect too.
    ///
    /// # Errors
    /// A metric could not be written.
    pub fn page(&self, status: &Status) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode_registry(&mut page, &of_status(status))?;
        text::encode_registry(&mut page, &self.registry)?;
        text::encode_eof(&mut page)?;
        Ok(page)
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl<F> fmt::Debug for Read<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Read")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<F: Fn() -> u64 + Send + Sync + 'static> Collector for Read<F> {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let value = (self.read)();
        match self.kind {
            Kind::Counter => encode(&mut encoder, self.name, self.help, ConstCounter::new(value)),
            Kind::Gauge => encode(&mut encoder, self.name, self.help, ConstGauge::new(value)),
        }
    }
}

fn encode(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    metric: impl EncodeMetric,
) -> Result<(), fmt::Error> {
    let encoder = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
    metric.encode(encoder)
}

/// What the status says, as metrics; the words are those of the paper and of `/status`.
fn of_status(status: &Status) -> Registry {
    let mut registry = Registry::with_prefix(PREFIX);
    let info = vec![
        ("cluster", status.cluster.clone()),
        ("node", status.node.to_string()),
        ("version", env!("CARGO_PKG_VERSION").to_string()),
    ];
    registry.register("node", "Which node this is", Info::new(info));
    for (name, help, value) in numbers(status) {
        registry.register(name, help, ConstGauge::new(value));
    }
    of_members(&mut registry, status);
    registry
}

/// Name, help and value of each number of the status.
fn numbers(status: &Status) -> [(&'static str, &'static str, u64); 18] {
    [
        ("term", "The current term", status.term.0),
        (
            "is_leader",
            "1 while this node leads, else 0",
            u64::from(status.role == Role::Leader),
        ),
        (
            "has_leader",
            "1 while this node knows a leader, else 0",
            u64::from(status.leader.is_some()),
        ),
        (
            "leader",
            "The id of the leader, 0 while none is known",
            status.leader.map_or(0, |id| id.0),
        ),
        (
            "commit_index",
            "The highest index known to be committed",
            status.commit.0,
        ),
        (
            "last_applied",
            "The highest index applied to the state machine",
            status.applied.0,
        ),
        (
            "first_index",
            "The first index of the log in memory",
            status.first_index.0,
        ),
        ("last_index", "The last index of the log", status.last_index.0),
        (
            "snapshot_index",
            "The last index of the newest snapshot, 0 without one",
            status.snapshot_index.0,
        ),
        ("keys", "Keys in the state machine", status.keys),
        (
            "bytes",
            "Bytes of keys and values in the state machine",
            status.bytes,
        ),
        ("expiring_keys", "Keys that have an expiry", status.expiring_keys),
        (
            "leases",
            "Leases that were granted and have not ended",
            status.leases,
        ),
        ("sessions", "Open sessions of SEQ", status.sessions),
        ("once_tokens", "Tokens of ONCE that are remembered", status.tokens),
        ("pending", "Requests waiting for their answer", status.pending),
        ("feeds", "Change feeds that are read from this node", status.feeds),
        (
            "problems",
            "What is wrong with this node or its cluster, see STATUS",
            status.problems.len() as u64,
        ),
    ]
}

/// What the leader knows of each member; nothing on the others.
fn of_members(registry: &mut Registry, status: &Status) {
    let match_index = Family::<MemberLabels, Gauge>::default();
    let next_index = Family::<MemberLabels, Gauge>::default();
    let inflight = Family::<MemberLabels, Gauge>::default();
    for member in &status.members {
        let Some(progress) = member.progress else {
            continue;
        };
        let labels = MemberLabels { member: member.id.0 };
        let clamp = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        match_index
            .get_or_create(&labels)
            .set(clamp(progress.match_index.0));
        next_index
            .get_or_create(&labels)
            .set(clamp(progress.next_index.0));
        inflight
            .get_or_create(&labels)
            .set(clamp(progress.inflight as u64));
    }
    let families = [
        (
            "member_match_index",
            "The highest index known to be on the member (leader only)",
            match_index,
        ),
        (
            "member_next_index",
            "The next index to send to the member (leader only)",
            next_index,
        ),
        (
            "member_inflight",
            "AppendEntries sent to the member and not answered (leader only)",
            inflight,
        ),
    ];
    for (name, help, family) in families {
        registry.register(name, help, family);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Member, MemberProgress};
    use crate::raft::{Index, NodeId, Term};

    #[test]
    fn the_page_has_status_members_and_what_was_registered() {
        let status = Status {
            cluster: "c\"1".into(),
            node: NodeId(2),
            role: Role::Leader,
            term: Term(7),
            leader: Some(NodeId(2)),
            commit: Index(9),
            members: vec![Member {
                id: NodeId(3),
                progress: Some(MemberProgress {
                    match_index: Index(8),
                    next_index: Index(9),
                    inflight: 1,
                }),
                ..Member::default()
            }],
            ..Status::default()
        };
        let mut metrics = Metrics::new();
        metrics.counter("peer_connections", "Connections made", || 5);
        metrics.gauge("client_connections", "Connections open", || 6);
        let page = metrics.page(&status).unwrap();
        for line in [
            "# HELP raftline_term The current term",
            "# TYPE raftline_term gauge",
            "raftline_term 7",
            "raftline_is_leader 1",
            "raftline_commit_index 9",
            "raftline_member_match_index{member=\"3\"} 8",
            "# TYPE raftline_peer_connections counter",
            "raftline_peer_connections_total 5",
            "raftline_client_connections 6",
            "# EOF",
        ] {
            let found = page.lines().any(|l| l.trim_end_matches('.') == line);
            assert!(found, "no line {line:?} in:\n{page}");
        }
        assert!(page.contains("cluster=\"c\\\"1\""), "{page}");
    }
}
