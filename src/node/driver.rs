//! The one task that owns Raft and the state machine. It waits for anything to happen, takes all that has
//! happened, lets the [`Machine`] work, and waits again.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::host::{Host, SnapshotEvent};
use super::machine::{self, Machine, UnreadableEntry};
use super::persist::{Disk, Done};
use super::request::{Answer, Outcome, Submission};
use super::snapshots::SnapshotThreads;
use super::transfer::{SnapshotError, read_snapshot};
use crate::kv::{Code, Garbage, Reply, Store, View};
use crate::raft::{self, Batch, EntryId, Envelope, Index, Membership, NodeId, Raft, SnapshotHeader, Ticks};
use crate::storage::fs::{Fs, RealFs};
use crate::storage::{self, Committed, Storage};
use crate::transport::{self, CallId, Event, EventReceiver, Members, Transport};

/// Everything a node is made of.
#[derive(Debug)]
pub struct Options {
    /// The requests' part.
    pub machine: machine::Options,
    /// The core's part; its seed is replaced by a random one.
    pub raft: raft::Options,
    /// The disk's part.
    pub storage: storage::Options,
    /// The peers' part; identity is filled in from the data folder.
    pub transport: transport::Options,
    /// The first membership; what the log says later wins.
    pub membership: Membership,
    /// Called at least this often while the driver is well.
    pub pulse: Option<Pulse>,
}

/// A sign of life of the driver, for a watchdog.
pub struct Pulse {
    /// How often it is called at least.
    pub interval: Duration,
    /// What is called; must not wait.
    pub beat: Box<dyn FnMut() + Send>,
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pulse")
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}

/// Why a node ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data folder can't be used.
    #[error(transparent)]
    Open(#[from] storage::OpenError),
    /// The snapshot of the data folder gives no state.
    #[error("the data folder's snapshot can't be used: {0}")]
    Snapshot(#[from] SnapshotError),
    /// A write to the disk failed.
    #[error("{0}; the node stops, because it no longer knows what its disk holds")]
    Disk(String),
    /// RAFT REBUILD was asked for.
    #[error(
        "as RAFT REBUILD asks, the data folder is marked to be fetched anew: start this node again (systemd does it), \
         and it fetches everything from the others"
    )]
    Rebuild,
    /// The log holds what this version can't read.
    #[error(transparent)]
    Unreadable(#[from] UnreadableEntry),
    /// The operating system refused something.
    #[error("{what}: {error}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        error: std::io::Error,
    },
}

/// Runs a node until `stop`, or until it can't go on. Requests that come while the data folder is read are
/// answered LOADING.
///
/// # Errors
/// Why it can't go on.
pub async fn run(
    mut options: Options,
    listener: TcpListener,
    mut queue: mpsc::Receiver<Submission>,
    stop: CancellationToken,
    counters: impl FnOnce(Arc<Transport>),
) -> Result<(), NodeError> {
    let Loaded {
        storage,
        identity,
        recovered,
        store,
    } = load(&options, &mut queue).await?;
    options.machine.incarnation = identity.incarnation;
    options.raft.seed = random_u64()?;
    options.transport.cluster_id = identity.cluster_id;
    options.transport.incarnation = identity.incarnation;
    let clock = Clock::start();
    let raft = Raft::new(options.raft, recovered, clock.now().ticks);
    let (index, membership) = (raft.membership_index(), raft.membership().clone());
    let peers = membership.addresses.keys().copied().collect();
    let members = Members::new(index, membership);
    let (transport, events) = Transport::start(options.transport, listener, members, random_u64()?);
    let transport = Arc::new(transport);
    counters(Arc::clone(&transport));
    let (snapshots, snapshot_events) = {
        let transport = Arc::clone(&transport);
        // Dropped where there is no room or no connection: Raft sends again.
        let send = move |envelope| {
            transport.send(envelope);
        };
        SnapshotThreads::start(storage.snapshots(), send).map_err(no_thread)?
    };
    let (disk, done) = Disk::start(storage, snapshots.remover()).map_err(no_thread)?;
    let mut driver = Driver {
        machine: Machine::new(options.machine, raft, store, clock.now()),
        links: Links {
            clock,
            transport,
            disk,
            snapshots,
            peers,
        },
        events,
        queue,
        done,
        snapshot_events,
        pulse: options.pulse,
        next_pulse: Instant::now(),
    };
    let result = driver.run(stop).await;
    driver.machine.stop(&mut driver.links);
    driver.links.transport.shutdown().await;
    driver.links.disk.stop();
    driver.links.snapshots.stop();
    result
}

fn no_thread(error: std::io::Error) -> NodeError {
    let what = "start a thread";
    NodeError::System { what, error }
}

/// What a node starts from.
#[derive(Debug)]
pub struct Loaded<F: Fs = RealFs> {
    /// The data folder.
    pub storage: Storage<F>,
    /// Whose it is.
    pub identity: storage::Identity,
    /// What the core starts from.
    pub recovered: raft::Recovered,
    /// The state that the snapshot holds.
    pub store: Store,
}

/// A leader knows its own data folder, which then needs no entry of its own in the log.
fn bind_own(first: &mut Membership, own: NodeId, incarnation: u64) {
    if first.addresses.contains_key(&own) {
        first.incarnations.insert(own, incarnation);
    }
}

/// Opens the data folder on a thread of its own, for a long log and a large snapshot take a while to read.
async fn load(options: &Options, queue: &mut mpsc::Receiver<Submission>) -> Result<Loaded, NodeError> {
    let (incarnation, membership) = (random_u64()?, options.membership.clone());
    let storage = options.storage.clone();
    let open = move || open(RealFs, &storage, incarnation, membership);
    let mut opening = tokio::task::spawn_blocking(open);
    loop {
        tokio::select! {
            opened = &mut opening => {
                let opened = opened.map_err(|error| NodeError::System {
                    what: "read the data folder",
                    error: std::io::Error::other(error),
                })?;
                return opened;
            }
            Some(submission) = queue.recv() => answer_loading(submission),
        }
    }
}

/// Reads what there is. `membership` is that of the configuration, which counts as long as nothing else does.
///
/// # Errors
/// [`NodeError::Open`], [`NodeError::Snapshot`].
pub fn open<F: Fs>(
    fs: F,
    options: &storage::Options,
    incarnation: u64,
    mut membership: Membership,
) -> Result<Loaded<F>, NodeError> {
    let own = options.node_id;
    let has_others = |known: Option<&Membership>| {
        // Without a majority of others nothing would ever be fetched, and the damage is all there is.
        let voters = &known.unwrap_or(&membership).voters;
        2 * voters.iter().filter(|voter| **voter != own).count() > voters.len()
    };
    let (storage, found) = Storage::open_or_set_aside(fs, options, incarnation, has_others)?;
    if let Some(damage) = &found.set_aside {
        tracing::error!(
            %damage,
            "the data folder is damaged: log and snapshots are moved to its folder `damaged`, everything is fetched \
             from the other nodes again, and until then this node does not vote; the disk is not to be trusted",
        );
    } else if found.recovering {
        tracing::warn!(
            "this node fetches everything from the others again, and does not vote until it has it"
        );
    }
    bind_own(&mut membership, own, found.identity.incarnation);
    if let Some(torn) = &found.torn {
        tracing::warn!(
            file = %torn.path.display(), offset = torn.offset, bytes = torn.found_bytes,
            "a crash interrupted the last write to the log; it was never acknowledged and is dropped",
        );
    }
    for damage in &found.damaged_snapshots {
        tracing::warn!(
            file = %damage.path.display(), offset = damage.offset, found = damage.found,
            "a snapshot is damaged; an older one and the log make up for it, but the disk is not to be trusted",
        );
    }
    let mut recovered = raft::Recovered {
        hard_state: found.hard_state,
        membership,
        entries: found.entries,
        recovering: found.recovering,
        incarnation: found.identity.incarnation,
        ..raft::Recovered::default()
    };
    let mut store = Store::new();
    if let Some(snapshot) = found.snapshot {
        let header = snapshot.header().clone();
        recovered.snapshot = header.last;
        recovered.membership = header.membership;
        recovered.membership_index = header.membership_index;
        store = read_snapshot(snapshot)?;
        tracing::info!(last = %header.last, keys = store.len(), "snapshot read");
    }
    Ok(Loaded {
        storage,
        identity: found.identity,
        recovered,
        store,
    })
}

fn answer_loading(submission: Submission) {
    for request in submission.requests {
        let text = "the node is reading its data folder; nothing was done, try again soon";
        let outcome = Outcome::Reply(Reply::error(Code::Loading, text));
        let _ = submission.answers.send(Answer {
            ticket: request.ticket,
            outcome,
        });
    }
}

fn random_u64() -> Result<u64, NodeError> {
    let mut bytes = [0; 8];
    random_bytes(&mut bytes).map_err(|error| NodeError::System {
        what: "get random bytes",
        error,
    })?;
    Ok(u64::from_ne_bytes(bytes))
}

fn random_bytes(bytes: &mut [u8]) -> std::io::Result<()> {
    use std::io::Read;
    std::fs::File::open("/dev/urandom")?.read_exact(bytes)
}

/// What the machine has done for it.
struct Links {
    clock: Clock,
    transport: Arc<Transport>,
    disk: Disk,
    snapshots: SnapshotThreads,
    peers: BTreeSet<NodeId>,
}

impl Host for Links {
    type CallId = CallId;

    fn send(&mut self, envelope: Envelope) {
        // Dropped where there is no room or no connection: Raft sends again.
        self.transport.send(envelope);
    }

    fn persist(&mut self, batch: Batch) {
        self.disk.persist(batch);
    }

    fn send_chunk(&mut self, envelope: Envelope) {
        self.snapshots.send_chunk(envelope);
    }

    fn store_chunk(&mut self, envelope: Envelope) {
        self.snapshots.store_chunk(envelope);
    }

    fn take_snapshot(&mut self, header: SnapshotHeader, view: View) {
        self.snapshots.take(header, view);
    }

    fn adopt_snapshot(&mut self, committed: Committed, drop_upto: EntryId) {
        self.disk.adopt_snapshot(committed, drop_upto);
    }

    fn measure_free_space(&mut self) {
        self.disk.measure_free_space();
    }

    fn discard(&mut self, garbage: Garbage) {
        // Where there is no thread to be had, it is dropped here.
        let _ = std::thread::Builder::new()
            .name("discard".into())
            .spawn(move || drop(garbage));
    }

    fn call(&mut self, to: NodeId, sequence: u64, order: Bytes, deadline: Ticks) {
        self.transport
            .call(to, sequence, order, self.clock.instant(deadline));
    }

    fn cancel(&mut self, sequence: u64) {
        self.transport.cancel(sequence);
    }

    fn answer(&mut self, call: CallId, reply: Bytes) {
        self.transport.answer(call, reply);
    }

    fn tell_state_hash(&mut self, index: Index, hash: u64) {
        for peer in &self.peers {
            self.transport.tell_state_hash(*peer, index, hash);
        }
    }

    fn adopt_membership(&mut self, index: Index, membership: &Membership) {
        self.peers = membership.addresses.keys().copied().collect();
        self.transport
            .set_members(Members::new(index, membership.clone()));
    }

    fn mark_rebuild(&mut self) {
        self.disk.mark_rebuild();
    }

    fn clear_recovering(&mut self) {
        self.disk.clear_recovering();
    }

    fn adopt_cluster_id(&mut self, cluster_id: [u8; 16]) {
        self.transport.set_cluster_id(cluster_id);
        self.disk.set_cluster_id(cluster_id);
    }

    fn mint_cluster_id(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        if let Err(error) = random_bytes(&mut bytes) {
            // The clock and the address space are not random, but no two clusters start alike.
            tracing::warn!(%error, "no random bytes; the cluster id is made from the clock");
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            bytes = now.as_nanos().to_be_bytes();
        }
        bytes
    }
}

/// At most so many inputs of a kind in one turn, so that none keeps the others waiting.
const TURN_MAX: usize = 1024;

/// A timer that runs out so late shows that this process was held up.
const HELD_UP: Duration = Duration::from_millis(50);

struct Driver {
    machine: Machine<CallId>,
    links: Links,
    events: EventReceiver,
    queue: mpsc::Receiver<Submission>,
    done: mpsc::UnboundedReceiver<Done>,
    snapshot_events: mpsc::UnboundedReceiver<SnapshotEvent>,
    pulse: Option<Pulse>,
    next_pulse: Instant,
}

impl Driver {
    async fn run(&mut self, stop: CancellationToken) -> Result<(), NodeError> {
        let mut inputs = Inputs::default();
        let mut more = false;
        while !stop.is_cancelled() {
            if more {
                tokio::task::yield_now().await;
            } else {
                self.wait(&mut inputs, &stop).await;
            }
            self.drain(&mut inputs);
            more = self.turn(&mut inputs)?;
        }
        Ok(())
    }

    /// Waits until something has happened or is due.
    async fn wait(&mut self, inputs: &mut Inputs, stop: &CancellationToken) {
        let mut due = self.links.clock.instant(self.machine.deadline());
        if self.pulse.is_some() {
            due = due.min(self.next_pulse);
        }
        tokio::select! {
            () = stop.cancelled() => {}
            Some(done) = self.done.recv() => inputs.done.push(done),
            Some(event) = self.snapshot_events.recv() => inputs.snapshots.push(event),
            _ = self.events.recv_many(&mut inputs.events, TURN_MAX) => {}
            _ = self.queue.recv_many(&mut inputs.submissions, TURN_MAX) => {}
            () = tokio::time::sleep_until(due.into()) => {}
        }
        if due.elapsed() >= HELD_UP {
            self.catch_up().await;
        }
    }

    /// This process was held up, or stopped. What has arrived meanwhile is in the sockets: it is read before any
    /// timer runs out, so that nobody's answers are taken for silence.
    async fn catch_up(&mut self) {
        const ROUNDS: usize = 3; // for the sockets to be polled, their readers to run, and what those have woken
        for _ in 0..ROUNDS {
            tokio::task::yield_now().await;
        }
    }

    /// Takes what has happened beside what ended the wait.
    fn drain(&mut self, inputs: &mut Inputs) {
        while let Ok(done) = self.done.try_recv() {
            inputs.done.push(done);
        }
        while let Ok(event) = self.snapshot_events.try_recv() {
            inputs.snapshots.push(event);
        }
        while inputs.events.len() < TURN_MAX
            && let Some(event) = self.events.try_recv()
        {
            inputs.events.push(event);
        }
        while inputs.submissions.len() < TURN_MAX
            && let Ok(submission) = self.queue.try_recv()
        {
            inputs.submissions.push(submission);
        }
    }

    fn turn(&mut self, inputs: &mut Inputs) -> Result<bool, NodeError> {
        self.machine.tick(self.links.clock.now());
        for done in inputs.done.drain(..) {
            match done {
                Done::Persisted => self.machine.on_persisted(),
                Done::Adopted(last) => inputs.snapshots.push(SnapshotEvent::Adopted(last)),
                Done::FreeSpace(bytes) => self.machine.on_free_space(bytes),
                Done::MarkedRebuild => {
                    self.machine.on_rebuild_marked();
                    return Err(NodeError::Rebuild);
                }
                Done::Failed(reason) => return Err(NodeError::Disk(reason)),
            }
        }
        for event in inputs.snapshots.drain(..) {
            self.machine.on_snapshot(event, &mut self.links);
        }
        for event in inputs.events.drain(..) {
            self.on_event(event);
        }
        for submission in inputs.submissions.drain(..) {
            self.machine.submit(submission, &mut self.links);
        }
        let more = self.machine.work(&mut self.links)?;
        self.beat();
        Ok(more)
    }

    fn on_event(&mut self, event: Event) {
        let machine = &mut self.machine;
        match event {
            Event::Connected { peer, incarnation } => machine.on_connected(peer, incarnation),
            Event::Refused { peer, refusal } => machine.on_refused(peer, refusal),
            Event::Disconnected { peer, by_peer } => {
                machine.on_disconnected(peer, by_peer);
                if !self.links.transport.is_connected(peer) {
                    machine.on_unreachable(peer);
                }
            }
            Event::Raft(envelope) => machine.on_message(envelope),
            Event::Call { id, command, .. } => machine.on_call(id, &command, &mut self.links),
            Event::Answer { token, result } => machine.on_answer(token, result),
            Event::StateHash { from, index, hash } => machine.on_state_hash(from, index, hash),
        }
    }

    fn beat(&mut self) {
        if let Some(pulse) = &mut self.pulse
            && self.next_pulse <= Instant::now()
        {
            (pulse.beat)();
            self.next_pulse = Instant::now() + pulse.interval;
        }
    }
}

/// What has happened since the last turn.
#[derive(Debug, Default)]
struct Inputs {
    done: Vec<Done>,
    snapshots: Vec<SnapshotEvent>,
    events: Vec<Event>,
    submissions: Vec<Submission>,
}
