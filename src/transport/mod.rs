//! Long-lived connections between nodes: sending never waits, and one stream of events says what arrives.
//!
//! Every node dials every other member and keeps that connection; a pair of nodes has two, one for each
//! direction. A node's requests go out on the connection that it dialed, and the answers come back on it.
//! What arrives on a connection that the peer dialed are the peer's requests, and our answers go back there.
//! A peer that dials anew has lost its old connection, so the newer one replaces the older.
//!
//! A connection begins with a handshake (`handshake`): version, cluster, node, and which node was meant.
//! Then it carries requests of all kinds, each with an id that its answer repeats; answers come in any
//! order. Messages of the core are sent and forgotten, because Raft sends again: [`Transport::send`] drops
//! what has no place. Forwarded commands are calls ([`Transport::call`]): each ends in exactly one event,
//! which tells "never sent" from "perhaps done". Small frames overtake large ones (`outbox`). Silence is
//! answered with a ping on the side that dialed, and with the kernel's keepalive on both (`connection`). A
//! connection that ends is dialed again after a back-off (`peer`). Whoever dials us is believed only
//! after the handshake, and bounded before and after (`inbound`).
//!
//! A peer that floods, stalls, lies about lengths or speaks another protocol costs its own connection: its
//! frames wait for room in the driver's queue in turn with everybody else's (`event`), its lengths are
//! checked before anything is kept for them (`codec`), and a frame that is not one ends the connection.
//!
//! In which order to read: `event`, `connection`, `outbox`, `calls`, `members`, `handshake`, `peer`, `inbound`.
//!
//! Memory: `events_max_bytes` for what the driver has not taken; for each connection two lanes of
//! `queue_max_bytes`, `calls_max` calls, and buffers of about two frames of the limit and 320 KiB; as many
//! connections as `inbound` and the membership allow.
//!
//! Missing: TLS.

mod calls;
mod codec;
mod connection;
mod event;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod handshake;
mod inbound;
mod members;
mod outbox;
mod peer;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::connection::Link;
use self::event::EventSender;
pub use self::event::{CallError, CallId, Event, EventReceiver};
use self::handshake::{Identity, cluster_ids_differ};
use self::inbound::STRANGERS_MAX;
pub use self::members::{Claim, Members, Refusal};
use self::peer::{Dialer, Member};
use crate::net::{LogLimit, SocketOptions};
use crate::raft::{Envelope, Index, NodeId};
pub use crate::wire::peer::ClusterId;
use crate::wire::peer::{Frame, HANDSHAKE_MAX_BYTES};

/// How large a frame of many entries should be at most: as much as one write gathers. Whoever makes
/// AppendEntries stops before it, and puts in at least one entry.
pub const FRAME_TARGET_BYTES: usize = outbox::GATHER_BYTES;

/// How much of a frame is not the entry in it, generously.
const FRAME_OVERHEAD_BYTES: usize = 4096;

/// How long [`Transport::shutdown`] waits for what is queued.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// How many bytes may wait in the kernel before they are on their way; see [`SocketOptions`].
const UNSENT_MAX_BYTES: u32 = 128 * 1024;

/// The settings of a [`Transport`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster's name; a node of another one is refused.
    pub cluster_name: String,
    /// The cluster's id, once this node knows it.
    pub cluster_id: Option<ClusterId>,
    /// This node.
    pub node_id: NodeId,
    /// Random, made with the data folder.
    pub incarnation: u64,
    /// The longest frame that is accepted; at least 4096. [`frame_max_bytes`] says how long it must be.
    pub frame_max_bytes: u32,
    /// How many bytes may wait in each of the two lanes of a connection.
    pub queue_max_bytes: usize,
    /// How many frames may wait in each of the two lanes of a connection.
    pub queue_max_frames: usize,
    /// How many calls may wait for their answers on a connection.
    pub calls_max: usize,
    /// How many bytes of events may wait for the driver.
    pub events_max_bytes: usize,
    /// How long connecting and the handshake may take together.
    pub handshake_timeout: Duration,
    /// After how much silence on a connection that we dialed the peer is asked whether it is there; not 0.
    pub ping_interval: Duration,
    /// How long it then may take to say anything before the connection is closed.
    pub ping_timeout: Duration,
    /// After how much silence the kernel asks the peer's kernel, on both sides; at least 1 s.
    pub keepalive: Duration,
    /// How long bytes that were sent may stay unacknowledged by the peer's kernel.
    pub user_timeout: Duration,
    /// The first wait before dialing again.
    pub backoff_min: Duration,
    /// The longest wait before dialing again.
    pub backoff_max: Duration,
}

impl Options {
    /// The defaults, for entries of up to 1 MiB.
    pub fn new(cluster_name: &str, node_id: NodeId) -> Options {
        Options {
            cluster_name: cluster_name.to_owned(),
            cluster_id: None,
            node_id,
            incarnation: 0,
            frame_max_bytes: frame_max_bytes(1024 * 1024),
            queue_max_bytes: 16 * 1024 * 1024,
            queue_max_frames: 65_536,
            calls_max: 65_536,
            events_max_bytes: 16 * 1024 * 1024,
            handshake_timeout: Duration::from_secs(2),
            ping_interval: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(5),
            keepalive: Duration::from_secs(5),
            user_timeout: Duration::from_secs(15),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
        }
    }

    fn check(&self) {
        let limit = self.frame_max_bytes as usize;
        assert!(
            limit >= HANDSHAKE_MAX_BYTES,
            "a node accepts frames of 4096 bytes at least"
        );
        assert!(
            self.keepalive >= Duration::from_secs(1),
            "the kernel counts keepalive in whole seconds"
        );
        assert!(
            !self.ping_interval.is_zero(),
            "pings without a pause would be a polling loop"
        );
        assert!(self.node_id.0 > 0, "node ids begin with 1");
    }

    fn socket(&self) -> SocketOptions {
        SocketOptions {
            keepalive: self.keepalive,
            user_timeout: Some(self.user_timeout),
            unsent_max_bytes: Some(UNSENT_MAX_BYTES),
        }
    }
}

/// The limit of a frame where an entry may carry up to `entry_max_bytes`: 256 KiB and the largest entry
/// (trap 3.25).
pub const fn frame_max_bytes(entry_max_bytes: usize) -> u32 {
    let bytes = FRAME_TARGET_BYTES + FRAME_OVERHEAD_BYTES + entry_max_bytes;
    if bytes > u32::MAX as usize {
        u32::MAX
    } else {
        bytes as u32
    }
}

/// What has happened since the start; each only grows.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frames received after handshakes.
    pub frames_in: AtomicU64,
    /// Frames written after handshakes.
    pub frames_out: AtomicU64,
    /// Bytes received after handshakes.
    pub bytes_in: AtomicU64,
    /// Bytes written after handshakes.
    pub bytes_out: AtomicU64,
    /// Messages and answers that found no connection or a full queue, or were too large for the peer.
    pub sends_dropped: AtomicU64,
    /// Connections of others that were not kept: wrong cluster, wrong node, no handshake in time, too many.
    pub handshakes_refused: AtomicU64,
    /// Connections that ended because of what came on them.
    pub malformed_frames: AtomicU64,
    /// Answers that nobody waits for on their connection: late, or of an earlier connection.
    pub answers_unmatched: AtomicU64,
    opened: Mutex<BTreeMap<NodeId, u64>>,
}

impl Counters {
    /// How many connections with this node have come through their handshake, counting both directions: 2
    /// for as long as nothing breaks.
    pub fn connections_opened(&self, peer: NodeId) -> u64 {
        lock(&self.opened).get(&peer).copied().unwrap_or(0)
    }

    /// [`Counters::connections_opened`] of every node.
    pub fn connections_opened_by_peer(&self) -> BTreeMap<NodeId, u64> {
        lock(&self.opened).clone()
    }

    fn opened(&self, peer: NodeId) {
        const PEERS_MAX: usize = 1024;
        let mut opened = lock(&self.opened);
        // A stranger may say that it is any node: there must be an end to that.
        if opened.len() < PEERS_MAX || opened.contains_key(&peer) {
            *opened.entry(peer).or_default() += 1;
        }
    }
}

/// The connections of this node with all others. Dropping it closes them at once.
#[derive(Debug)]
pub struct Transport {
    shared: Arc<Shared>,
    _kill: DropGuard,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    options: Options,
    seed: u64,
    counters: Counters,
    events: EventSender,
    log_refused: LogLimit,
    log_malformed: LogLimit,
    log_too_large: LogLimit,
    next_request_id: AtomicU64,
    next_connection: AtomicU64,
    state: Mutex<State>,
    tasks: TaskTracker,
    /// Begin nothing, write what is queued, and close.
    drain: CancellationToken,
    /// Close.
    kill: CancellationToken,
}

#[derive(Debug)]
struct State {
    cluster_id: Option<ClusterId>,
    /// Who is let in.
    membership: Arc<Members>,
    /// Who is dialed.
    members: BTreeMap<NodeId, Arc<Member>>,
    /// The newest connection that each node has dialed.
    inbound: BTreeMap<NodeId, Arc<Link>>,
    /// Those being shaken hands with, oldest first; cancelled when they are through, or must make place.
    handshakes: VecDeque<CancellationToken>,
}

impl Transport {
    /// Accepts from `listener` and dials the members (this node itself is left out). `seed`
    /// decides the jitter of the back-off. To be called within a tokio runtime. Panics where the options are
    /// outside the ranges that they name, which is a mistake of the caller.
    pub fn start(
        options: Options,
        listener: TcpListener,
        members: Members,
        seed: u64,
    ) -> (Transport, EventReceiver) {
        options.check();
        let (events, receiver) = event::queue(options.events_max_bytes);
        let kill = CancellationToken::new();
        let state = State {
            cluster_id: options.cluster_id,
            membership: Arc::default(),
            members: BTreeMap::new(),
            inbound: BTreeMap::new(),
            handshakes: VecDeque::new(),
        };
        let shared = Arc::new(Shared {
            options,
            seed,
            counters: Counters::default(),
            events,
            log_refused: LogLimit::default(),
            log_malformed: LogLimit::default(),
            log_too_large: LogLimit::default(),
            next_request_id: AtomicU64::new(1),
            next_connection: AtomicU64::new(1),
            state: Mutex::new(state),
            tasks: TaskTracker::new(),
            drain: kill.child_token(),
            kill: kill.clone(),
        });
        shared.tasks.spawn(inbound::accept(Arc::clone(&shared), listener));
        let transport = Transport {
            shared,
            _kill: kill.drop_guard(),
        };
        transport.set_members(members);
        (transport, receiver)
    }

    /// Dials these from now on, and no others; and handshakes are held against them. A connection to a node that is
    /// not among them, or is at another address now, is closed, and so is one with a member that came with another
    /// data folder than is bound to it; what a node dials that is no longer a member is left to it.
    pub fn set_members(&self, members: Members) {
        let own = self.shared.options.node_id;
        let members = Arc::new(members);
        let others = members.peers().filter(|(id, _)| *id != own);
        let peers: BTreeMap<NodeId, String> = others.map(|(id, peer)| (id, peer.to_owned())).collect();
        let mut state = self.shared.state();
        state.membership = Arc::clone(&members);
        let links = state.links().into_iter();
        links
            .filter(|link| members.refuses_wiped(&link.peer.claim()))
            .for_each(|link| link.close.cancel());
        state.members.retain(|id, member| {
            let stays = peers.get(id) == Some(&member.address);
            if !stays {
                member.gone.cancel();
            }
            stays
        });
        for (id, address) in peers {
            state.members.entry(id).or_insert_with(|| {
                let (link, is_there) = (Mutex::new(None), Notify::new());
                let gone = self.shared.kill.child_token();
                let member = Arc::new(Member {
                    address,
                    refusal: Mutex::default(),
                    link,
                    is_there,
                    gone,
                });
                self.shared
                    .tasks
                    .spawn(Dialer::new(&self.shared, id, &member).run());
                member
            });
        }
    }

    /// This node has learned its cluster's id: from now on handshakes carry it, and connections with nodes
    /// of another cluster are closed.
    pub fn set_cluster_id(&self, id: ClusterId) {
        let links: Vec<_> = {
            let mut state = self.shared.state();
            state.cluster_id = Some(id);
            state.links()
        };
        links.iter().for_each(|link| self.shared.close_if_unfit(link));
    }

    /// Sends a message of the core, without waiting. A request goes out on the connection that we dialed,
    /// with a new `request_id` in place of the envelope's; an answer goes back on the newest connection that
    /// the receiver dialed. `false`: dropped, for there is no connection or its queue is full.
    pub fn send(&self, envelope: Envelope) -> bool {
        let Envelope {
            to,
            term,
            request_id,
            message,
            ..
        } = envelope;
        let (link, request_id) = if message.is_request() {
            (self.shared.state().dialed(to), self.shared.new_request_id())
        } else {
            (self.shared.state().inbound.get(&to).cloned(), request_id)
        };
        self.shared
            .count_drop(link.is_some_and(|link| link.push(request_id, Frame::Raft { term, message })))
    }

    /// Forwards a command to a node. Exactly one [`Event::Answer`] with `token` follows, unless the call
    /// is cancelled before. Commands to one node arrive in the order of the calls. No two calls in flight may
    /// have the same token.
    pub fn call(&self, to: NodeId, token: u64, command: Bytes, deadline: Instant) {
        let request_id = self.shared.new_request_id();
        let link = self.shared.state().dialed(to);
        if !link.is_some_and(|link| link.push_call(request_id, command, token, deadline)) {
            self.shared.fail_call(token, CallError::NotSent);
        }
    }

    /// Forgets a call: no event follows, but for one that waits in the queue already. A command that is
    /// not yet written will not be. Does nothing if the call has ended.
    pub fn cancel(&self, token: u64) {
        let links: Vec<_> = {
            let state = self.shared.state();
            state
                .members
                .values()
                .filter_map(|member| lock(&member.link).clone())
                .collect()
        };
        // The first that knows it; the others are not asked.
        let _ = links.iter().any(|link| link.cancel(token));
    }

    /// Answers a peer's call. `false`: dropped, for its connection has ended or its queue is full; the
    /// caller learns of that by its own end of the connection, or by its deadline.
    pub fn answer(&self, id: CallId, reply: Bytes) -> bool {
        let link = self.shared.state().inbound.get(&id.peer).cloned();
        let link = link.filter(|link| link.number == id.connection);
        self.shared
            .count_drop(link.is_some_and(|link| link.push(id.request_id, Frame::ForwardResponse { reply })))
    }

    /// Tells a node what our state hashes to after the entry at `index`. `false`: dropped, as in
    /// [`Transport::send`].
    pub fn tell_state_hash(&self, to: NodeId, index: Index, hash: u64) -> bool {
        let link = self.shared.state().dialed(to);
        self.shared
            .count_drop(link.is_some_and(|link| link.push(0, Frame::StateHash { index, hash })))
    }

    /// Whether the connection that we dialed to this node is there.
    pub fn is_connected(&self, peer: NodeId) -> bool {
        self.shared.state().dialed(peer).is_some()
    }

    /// The incarnation of the node at the other end of the connection that we dialed.
    pub fn incarnation(&self, peer: NodeId) -> Option<u64> {
        self.shared.state().dialed(peer).map(|link| link.peer.incarnation)
    }

    /// What has happened since the start.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Stops dialing and accepting, writes what is queued for at most half a second, and closes all. Calls
    /// end as when a connection breaks. Returns when the last task has ended.
    pub async fn shutdown(&self) {
        self.shared.drain.cancel();
        self.shared.tasks.close();
        if timeout(FLUSH_TIMEOUT, self.shared.tasks.wait()).await.is_err() {
            self.shared.kill.cancel();
            self.shared.tasks.wait().await;
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn cluster_id(&self) -> Option<ClusterId> {
        self.state().cluster_id
    }

    fn identity(&self) -> Identity {
        let (cluster_id, membership) = {
            let state = self.state();
            (state.cluster_id, Arc::clone(&state.membership))
        };
        Identity::new(&self.options, cluster_id, membership)
    }

    /// Tells the driver why there is no connection with a member, unless it knows.
    async fn report_refusal(&self, peer: NodeId, refusal: Refusal) {
        let Some(member) = self.state().members.get(&peer).cloned() else {
            return;
        };
        let known = lock(&member.refusal).replace(refusal.clone());
        if known.as_ref() != Some(&refusal) {
            let room = self.events.room_for_news().await;
            self.events.push(Event::Refused { peer, refusal }, room);
        }
    }

    fn new_request_id(&self) -> u64 {
        self.next_request_id.fetch_add(1, Ordering::Relaxed)
    }

    fn count_drop(&self, sent: bool) -> bool {
        if !sent {
            self.counters.sends_dropped.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    fn fail_call(&self, token: u64, error: CallError) {
        self.events.push(
            Event::Answer {
                token,
                result: Err(error),
            },
            None,
        );
    }

    /// For a connection whose handshake one side made before it knew what it knows now.
    fn close_if_unfit(&self, link: &Link) {
        let membership = Arc::clone(&self.state().membership);
        if membership.refuses_wiped(&link.peer.claim()) {
            link.close.cancel();
        }
        if cluster_ids_differ(self.cluster_id(), link.peer.cluster_id) {
            tracing::warn!(peer = %link.peer.node_id, "a node of another cluster of this name; closing");
            link.close.cancel();
        }
    }

    /// Counts and logs what no peer sends.
    fn on_malformed(&self, from: &str, reason: &str) {
        self.counters.malformed_frames.fetch_add(1, Ordering::Relaxed);
        if let Some(unsaid) = self.log_malformed.allow() {
            tracing::warn!(from, reason, unsaid, "bad frame; connection closed");
        }
    }
}

impl State {
    /// Every connection that is through its handshake, in both directions.
    fn links(&self) -> Vec<Arc<Link>> {
        let dialed = self
            .members
            .values()
            .filter_map(|member| lock(&member.link).clone());
        dialed.chain(self.inbound.values().cloned()).collect()
    }

    fn dialed(&self, peer: NodeId) -> Option<Arc<Link>> {
        self.members
            .get(&peer)
            .and_then(|member| lock(&member.link).clone())
    }

    /// Makes place for one more handshake; the token ends it.
    fn begin_handshake(&mut self, max: usize) -> CancellationToken {
        self.handshakes.retain(|handshake| !handshake.is_cancelled());
        if self.handshakes.len() >= max
            && let Some(oldest) = self.handshakes.pop_front()
        {
            oldest.cancel();
        }
        let hurry = CancellationToken::new();
        self.handshakes.push_back(hurry.clone());
        hurry
    }

    /// The connection is now the one on which its node is answered; the one before it is closed. `false`: not
    /// kept, for too many that are not members are connected.
    fn keep_inbound(&mut self, link: &Arc<Link>) -> bool {
        let peer = link.peer.node_id;
        let member = self.members.get(&peer);
        let strangers = self
            .inbound
            .keys()
            .filter(|id| !self.members.contains_key(id))
            .count();
        if member.is_none() && strangers >= STRANGERS_MAX && !self.inbound.contains_key(&peer) {
            return false;
        }
        if let Some(member) = member {
            member.is_there.notify_one();
        }
        if let Some(older) = self.inbound.insert(peer, Arc::clone(link)) {
            older.close.cancel();
        }
        true
    }

    fn drop_inbound(&mut self, link: &Link) {
        let peer = link.peer.node_id;
        if self
            .inbound
            .get(&peer)
            .is_some_and(|newest| newest.number == link.number)
        {
            self.inbound.remove(&peer);
        }
    }
}

/// Locks; what a thread that panicked left behind is still whole, for each change is one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
