//! The parts of a node, made from the configuration and connected; and the order in which they stop.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Parts, Running, ServerError};
use crate::admin::Metrics;
use crate::base::address::is_unspecified;
use crate::client::{self, Service};
use crate::config::Config;
use crate::kv::{self, Code, Reply};
use crate::node::{self, MachineOptions, Node, NodeError, Operation, Outcome, Pulse, ReadMode};
use crate::raft::{self, Addresses, Membership, Window};
use crate::storage;
use crate::systemd::Watchdog;
use crate::transport::{self, Transport};

/// How long a leader that stops waits for its successor.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);
/// How long clients may take to get their last answers when the node ends by itself.
const LAST_ANSWERS_MAX: Duration = Duration::from_secs(1);
/// How many submissions may wait for the driver; a connection has a few under way at most.
const SUBMISSIONS_MAX: usize = 65_536;
/// What the log's encoding adds to a request, generously: names, lengths, time.
const ENTRY_OVERHEAD_BYTES: usize = 64 * 1024;
/// Entries accepted and not yet committed, in bytes.
const UNCOMMITTED_MAX_BYTES: usize = 64 * 1024 * 1024;
/// Entries under way to one follower, in bytes.
const INFLIGHT_MAX_BYTES: usize = 8 * 1024 * 1024;
/// A request that is one of several under way to a follower waits for so many bytes of entries. From here on its own
/// cost is small beside that of its bytes.
const GATHER_BYTES: usize = 64 * 1024;
/// Committed entries applied in one turn of the driver, in bytes: about a millisecond's work.
const APPLY_MAX_BYTES: usize = 256 * 1024;

/// Makes the parts and connects them. The listeners are bound; nothing has been accepted yet. Everything that is
/// spawned here ends when `parts.stop` is cancelled.
pub(super) async fn assemble(parts: Parts) -> Result<Running, ServerError> {
    let Parts {
        config,
        client,
        peer,
        stop,
        watchdog,
    } = parts;
    let (node, queue) = Node::channel(SUBMISSIONS_MAX);
    let tcp_port = client.local_addr().map_or(0, |address| address.port());
    let service = Service::new(node.clone(), client_options(&config, tcp_port));
    let transport = Arc::new(OnceLock::new());
    let metrics = metrics(&service, &transport);

    let (stop_clients, stop_node) = (CancellationToken::new(), CancellationToken::new());
    let clients = tokio::spawn(client::serve(client, service, stop_clients.clone()));
    let started = move |made| drop(transport.set(made));
    let run = node::run(
        node_options(&config, watchdog),
        peer,
        queue,
        stop_node.clone(),
        started,
    );
    let handle = node.clone();
    let ended = async move {
        tokio::pin!(run);
        let clients_end = async {
            stop_clients.cancel();
            if let Err(error) = clients.await {
                tracing::error!(%error, "the client port failed");
            }
        };
        tokio::pin!(clients_end);
        let graceful = async {
            stop.cancelled().await;
            hand_over(&handle).await;
            clients_end.as_mut().await;
            stop_node.cancel();
            std::future::pending::<()>().await;
        };
        let result = tokio::select! {
            result = &mut run => result,
            () = graceful => Ok(()),
        };
        if let Err(NodeError::Rebuild) = &result {
            // Whoever asked for it is to hear that it is done.
            let _ = timeout(LAST_ANSWERS_MAX, clients_end).await;
        }
        result.map_err(ServerError::from)
    };
    Ok(Running {
        node,
        metrics,
        ended: Box::pin(ended),
    })
}

/// A leader that stops hands over first, so that nobody has to notice its silence. Requests are served on
/// meanwhile.
async fn hand_over(node: &Node) {
    let leads = match node.ask(Operation::Status).await {
        Some(Outcome::Status(status)) => status.leader == Some(status.node) && status.members.len() > 1,
        _ => false,
    };
    if !leads {
        return;
    }
    match timeout(HAND_OVER_MAX, node.ask(Operation::Transfer(None))).await {
        Ok(Some(Outcome::Reply(Reply::Ok))) => tracing::info!("leadership handed over"),
        Ok(Some(Outcome::Reply(Reply::Error(error)))) => {
            tracing::warn!("leadership was not handed over: {error}")
        }
        _ => tracing::warn!("leadership was not handed over in {} s", HAND_OVER_MAX.as_secs()),
    }
}

fn client_options(config: &Config, tcp_port: u16) -> client::Options {
    client::Options {
        max_connections: config.limits.max_connections,
        max_request_bytes: to_usize(config.limits.max_request),
        idle_timeout: config.limits.idle_timeout.unwrap_or_default(),
        once_window: config.limits.once_window,
        read_mode: if config.raft.lease_reads {
            ReadMode::Lease
        } else {
            ReadMode::Quorum
        },
        tcp_port,
        max_pending: config.limits.max_pending,
        max_memory_bytes: config.limits.max_memory.unwrap_or(0),
        request_timeout: config.limits.request_timeout,
        fsync: config.storage.fsync,
        ..client::Options::default()
    }
}

fn node_options(config: &Config, mut watchdog: Watchdog) -> node::Options {
    // Frames carry entries, and the replies to a follower's writes: an old value, what a transaction has read.
    let entry_max_bytes = to_usize(config.limits.max_request)
        .max(kv::REPLY_MAX_BYTES)
        .saturating_add(ENTRY_OVERHEAD_BYTES);
    let frame_max_bytes = transport::frame_max_bytes(entry_max_bytes);
    // A leader must never hold an entry that it can't send (trap 3.25).
    assert!(
        frame_max_bytes as usize > entry_max_bytes,
        "the largest entry fits into a frame"
    );
    node::Options {
        machine: MachineOptions {
            cluster_name: config.cluster.name.clone(),
            incarnation: 0,
            addresses: own_addresses(config),
            request_timeout_ms: to_ms(config.limits.request_timeout),
            max_pending: config.limits.max_pending,
            max_memory_bytes: config.limits.max_memory.unwrap_or(0),
            min_free_space_bytes: config.storage.min_free_space,
            snapshot_log_bytes: config.storage.snapshot_log_bytes,
        },
        raft: raft_options(config),
        storage: storage::Options {
            dir: config.node.data_dir.clone(),
            node_id: config.node.id,
            segment_size_bytes: config.storage.segment_size,
            fsync: config.storage.fsync,
        },
        transport: transport::Options {
            frame_max_bytes,
            ..transport::Options::new(&config.cluster.name, config.node.id)
        },
        membership: first_membership(config),
        pulse: watchdog.interval().map(|interval| Pulse {
            interval: interval / 2,
            beat: Box::new(move || watchdog.ping(Instant::now())),
        }),
    }
}

fn raft_options(config: &Config) -> raft::Options {
    let max_batch_bytes = to_usize(config.raft.max_batch_bytes);
    raft::Options {
        id: config.node.id,
        election_timeout_ms: to_ms(config.raft.election_timeout),
        heartbeat_interval_ms: to_ms(config.raft.heartbeat_interval),
        max_append_bytes: max_batch_bytes.min(transport::FRAME_TARGET_BYTES),
        max_batch_bytes,
        window: Window {
            max_requests: config.raft.max_inflight,
            max_bytes: INFLIGHT_MAX_BYTES,
            gather_bytes: GATHER_BYTES,
        },
        max_uncommitted_bytes: UNCOMMITTED_MAX_BYTES,
        max_apply_bytes: APPLY_MAX_BYTES,
        seed: 0,
        promises_lease: config.raft.lease_reads,
        // Rounded up: the lease may be shorter than it must be, not longer.
        max_clock_drift_percent: (config.raft.max_clock_drift * 100.0).ceil() as u64,
        disk_stall_timeout_ms: to_ms(config.raft.disk_stall_timeout),
        max_log_bytes: to_usize(config.storage.snapshot_log_bytes)
            .saturating_mul(4)
            .max(UNCOMMITTED_MAX_BYTES),
    }
}

/// Where others reach this node, as far as the configuration knows: for the command that adds it.
fn own_addresses(config: &Config) -> Addresses {
    let own = config
        .cluster
        .members
        .iter()
        .find(|member| member.id == config.node.id);
    if let Some(member) = own {
        return Addresses {
            peer: member.peer.clone(),
            client: member.client.clone(),
        };
    }
    let reached = |listen: &str| match listen.rsplit_once(':') {
        Some((_, port)) if is_unspecified(listen) => format!("THIS-HOST:{port}"),
        _ => listen.to_owned(),
    };
    Addresses {
        peer: reached(&config.listen.peer),
        client: reached(&config.listen.client),
    }
}

fn first_membership(config: &Config) -> Membership {
    let addresses = config.cluster.members.iter().map(|member| {
        let addresses = Addresses {
            peer: member.peer.clone(),
            client: member.client.clone(),
        };
        (member.id, addresses)
    });
    Membership {
        voters: config.cluster.members.iter().map(|member| member.id).collect(),
        addresses: addresses.collect(),
        ..Membership::default()
    }
}

/// The counters of the client and the peer port. The peer port's are 0 until the data folder is read.
fn metrics(service: &Arc<Service>, transport: &Arc<OnceLock<Arc<Transport>>>) -> Metrics {
    let mut metrics = Metrics::new();
    for (name, help, read) in CLIENT_COUNTERS {
        let service = Arc::clone(service);
        metrics.counter(name, help, move || read(service.counters()));
    }
    let clients = Arc::clone(service);
    metrics.gauge("client_connections", "Clients that are connected", move || {
        clients.counters().connections()
    });
    let clients = Arc::clone(service);
    let help =
        "What all connections together hold of requests and replies, beyond a small allowance for each";
    metrics.gauge("client_buffered_bytes", help, move || clients.buffered_bytes());
    for (name, help, read) in PEER_COUNTERS {
        let transport = Arc::clone(transport);
        metrics.counter(name, help, move || {
            transport.get().map_or(0, |transport| read(transport.counters()))
        });
    }
    metrics
}

type Row<C> = (&'static str, &'static str, fn(&C) -> u64);

const CLIENT_COUNTERS: [Row<client::Counters>; 14] = [
    (
        "client_connections_received",
        "Clients that ever connected",
        |c| c.connections_received(),
    ),
    (
        "client_connections_rejected",
        "Clients refused because of limits.max_connections",
        |c| c.connections_rejected(),
    ),
    ("client_commands", "Requests read from clients", |c| c.commands()),
    ("client_errors", "Error replies sent to clients", |c| c.errors()),
    ("client_received_bytes", "Bytes read from clients", |c| {
        c.bytes_in()
    }),
    ("client_sent_bytes", "Bytes written to clients", |c| c.bytes_out()),
    (
        "client_protocol_errors",
        "Connections closed because of what is no request, or is larger than limits.max_request",
        |c| c.protocol_errors(),
    ),
    (
        "client_idle_closed",
        "Connections closed after limits.idle_timeout",
        |c| c.idle_closed(),
    ),
    (
        "client_stalled",
        "Connections cut because their clients did not read their replies",
        |c| c.stalled(),
    ),
    ("client_killed", "Connections closed by CLIENT KILL", |c| {
        c.killed()
    }),
    (
        "client_over_budget",
        "Requests refused because all connections together held too much",
        |c| c.over_budget(),
    ),
    (
        "client_errors_busy",
        "BUSY replies: over limits.max_pending, or over what can be done in time",
        |c| c.errors_of(Code::Busy),
    ),
    ("client_errors_oom", "OOM replies: over limits.max_memory", |c| {
        c.errors_of(Code::Oom)
    }),
    (
        "client_errors_unknown_result",
        "UNKNOWNRESULT replies: the outcome did not arrive within limits.request_timeout, or leadership was lost",
        |c| c.errors_of(Code::UnknownResult),
    ),
];

const PEER_COUNTERS: [Row<transport::Counters>; 7] = [
    (
        "peer_connections_opened",
        "Connections with other nodes that came through their handshake",
        |c| c.connections_opened_by_peer().values().sum(),
    ),
    ("peer_received_frames", "Frames received from other nodes", |c| {
        load(&c.frames_in)
    }),
    ("peer_sent_frames", "Frames sent to other nodes", |c| {
        load(&c.frames_out)
    }),
    ("peer_received_bytes", "Bytes received from other nodes", |c| {
        load(&c.bytes_in)
    }),
    ("peer_sent_bytes", "Bytes sent to other nodes", |c| {
        load(&c.bytes_out)
    }),
    (
        "peer_sends_dropped",
        "Messages to other nodes dropped for want of a connection or of room",
        |c| load(&c.sends_dropped),
    ),
    (
        "peer_refused",
        "Connections of strangers and malformed frames on the peer port",
        |c| load(&c.handshakes_refused) + load(&c.malformed_frames),
    ),
];

fn load(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(std::sync::atomic::Ordering::Relaxed)
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn to_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
