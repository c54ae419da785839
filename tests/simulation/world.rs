//! A world: nodes, the network between them, clients and faults, all under one seed and one clock.
//!
//! Nothing waits: what is to happen is a queue of events by their time, and time is whatever the next event says.
//! First there are faults, of a few kinds chosen by the seed; then they stop, and the cluster has to come back to
//! life and to account for everything that it has told its clients.
//!
//! `faults` has what goes wrong, and `operator` who changes the membership meanwhile.

use std::collections::BTreeMap;

use raftline::base::rng::Rng;
use raftline::node::{SnapshotEvent, Submission};
use raftline::raft::{Envelope, Index, Membership, Message, NodeId, RoleName, Term};
use raftline::transport::{CallError, Refusal};

use crate::checker::{self, Checker};
use crate::clients::Clients;
use crate::disk::{Done, End, Job, Lane};
use crate::elections::Elections;
use crate::linearizable::Outcome;
use crate::network::{Body, Closed, Network, Packet};
use crate::node::{self, CallId, Effect, Input, Node, Setup};

#[path = "faults.rs"]
mod faults;

#[path = "feeds.rs"]
mod feeds;

#[path = "operator.rs"]
mod operator;

use faults::Fault;
pub use faults::Theme;
use feeds::Readers;
use operator::Operator;

const MS: u64 = 1000;
/// How often is looked for what should have happened and did not.
const SWEEP_US: u64 = 250 * MS;
/// More never happens in a world, unless nodes keep each other busy for nothing.
const EVENTS_MAX: u64 = 20_000_000;
/// A process that ended starts again within this time.
const RESTART_US: u64 = 3000 * MS;

/// What is to happen.
enum Event {
    /// The process has something to do, or may have.
    Turn {
        node: u64,
        boot: u64,
    },
    /// The disk is done with the job at hand, or a step of it.
    Disk {
        node: u64,
        boot: u64,
        lane: Lane,
    },
    Arrive(Box<Packet>),
    /// A node tries to connect.
    Dial {
        from: u64,
        boot: u64,
        to: u64,
    },
    /// A connection breaks; one of its ends may have closed it.
    Break {
        from: u64,
        to: u64,
        number: u64,
        by: Option<u64>,
    },
    CallDeadline {
        from: u64,
        boot: u64,
        sequence: u64,
        connection: u64,
    },
    /// A client goes on.
    Client(usize),
    Submit {
        node: u64,
        boot: u64,
        submission: Submission,
    },
    /// Answers reach a client, or the end of its connection.
    Collect(usize),
    Fault,
    /// What follows from one that came before: with this node.
    Strike(Fault, u64),
    /// The operator does something.
    Operate,
    /// Links that were cut for a while carry again.
    Heal,
    Start(u64),
    Sweep,
}

/// What a line of the log is about.
#[derive(Clone, Copy)]
enum Mark {
    World,
    Fault,
    /// Who leads and who follows.
    Role,
    /// Processes that start and end, and their disks.
    Process,
    Client,
    /// Connections.
    Network,
    Message,
}

/// What came of a world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub simulated_us: u64,
    pub done: usize,
    pub failed: usize,
    pub unknown: usize,
    pub terms: u64,
    pub entries: u64,
    /// Changes of the membership that were committed.
    pub changes: usize,
    /// Snapshots that were installed, and nodes that had to fetch everything again.
    pub installed: u64,
    pub recoveries: u64,
    /// Keys whose history is too tangled to be judged.
    pub undecided: usize,
    /// Of everything that happened, and when.
    pub digest: u64,
}

pub struct World {
    setup: Setup,
    now: u64,
    rng: Rng,
    /// By time and number. Boxed: moving them about was the most expensive part of it.
    queue: BTreeMap<(u64, u64), Box<Event>>,
    scheduled: u64,
    nodes: BTreeMap<u64, Node>,
    network: Network,
    clients: Clients,
    operator: Operator,
    checker: Checker,
    readers: Readers,
    /// What can go wrong here.
    faults: Vec<Fault>,
    fault_pause_us: u64,
    /// No client asks for anything before this time.
    lull_until: u64,
    /// The faults have stopped.
    is_calm: bool,
    /// The clients have stopped.
    is_over: bool,
    digest: u64,
    trace: bool,
    /// What the log last said of each node.
    roles: BTreeMap<u64, (RoleName, Term)>,
}

/// Runs one world to its end. `Err`: something does not hold, as was printed; how to see it again.
pub fn run_named(seed: u64, nodes: u64, trace: bool) -> Result<Report, String> {
    std::panic::catch_unwind(|| run(seed, nodes, trace))
        .map_err(|_| format!("SEED={seed} NODES={nodes} cargo test --test simulation (TRACE=1 tells all)"))
}

/// Runs one world to its end. Panics where something does not hold.
fn run(seed: u64, nodes: u64, trace: bool) -> Report {
    let mut world = World::new(seed, nodes, trace);
    let chaos_us = (4000 + world.rng.below(12_000)) * MS;
    world.run_until(chaos_us);
    world.calm_down();
    world.revive();
    world.wind_up()
}

impl World {
    fn new(seed: u64, nodes: u64, trace: bool) -> World {
        // Neighbouring seeds would begin alike.
        let mut rng = Rng::new(Rng::new(seed).next_u64() ^ nodes);
        let theme = Theme::any(&mut rng);
        let setup = Setup::any(theme, &mut rng);
        let faults = theme.some_faults(&mut rng);
        let fault_pause_us = theme.pause_us(setup.election_timeout_ms, &mut rng);
        let list: BTreeMap<u64, Node> = (1..=nodes)
            .map(|id| (id, Node::new(id, &setup, node::first_membership(nodes), &mut rng)))
            .collect();
        let elections = Elections::new(setup.election_timeout_ms, setup.drift_max_ppm);
        let mut world = World {
            setup,
            now: 0,
            queue: BTreeMap::new(),
            scheduled: 0,
            nodes: list,
            network: Network::new(&mut rng),
            clients: Clients::new(nodes, theme, &mut rng),
            operator: Operator::new(&mut rng),
            checker: Checker::new(node::first_membership(nodes), elections),
            readers: Readers::new(seed),
            faults,
            fault_pause_us,
            lull_until: 0,
            is_calm: false,
            is_over: false,
            digest: 0,
            trace,
            roles: BTreeMap::new(),
            rng,
        };
        world.say(Mark::World, |world| {
            format!(
                "{nodes} nodes, {theme:?}: {:?}, {:?}, faults every {} ms or so: {:?}",
                world.setup,
                world.network.style,
                world.fault_pause_us / MS,
                world.faults
            )
        });
        for id in 1..=nodes {
            world.set_disk_pace(id, (100, 2 * MS));
            world.at(0, Event::Start(id));
        }
        for n in 0..world.clients.list.len() {
            world.at(100 * MS, Event::Client(n));
        }
        world.at(500 * MS, Event::Fault);
        world.at(500 * MS, Event::Operate);
        world.at(SWEEP_US, Event::Sweep);
        world
    }

    /// A line of the log, if somebody reads it.
    fn say(&self, mark: Mark, what: impl FnOnce(&World) -> String) {
        if self.trace {
            let mark = match mark {
                Mark::World => "==",
                Mark::Fault => "!!",
                Mark::Role => "##",
                Mark::Process => "**",
                Mark::Client => "  c",
                Mark::Network => "  ~",
                Mark::Message => "  >",
            };
            println!("{:>11.3} ms {mark:<3} {}", self.now as f64 / 1000.0, what(self));
        }
    }

    fn at(&mut self, time: u64, event: Event) {
        self.scheduled += 1;
        let key = (time.max(self.now), self.scheduled);
        self.queue.insert(key, Box::new(event));
    }

    fn after(&mut self, least: u64, most: u64, event: Event) {
        let time = self.now + least + self.rng.below(1 + most - least);
        self.at(time, event);
    }

    /// All nodes there ever were.
    fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    fn any_node(&mut self) -> u64 {
        let ids = self.ids();
        ids[self.rng.below(ids.len() as u64) as usize]
    }

    fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node of this world")
    }

    /// The number of the process that runs on the node.
    fn boot(&self, id: u64) -> Option<u64> {
        let node = &self.nodes[&id];
        node.process.is_some().then_some(node.boot)
    }

    fn is_running(&self, id: u64, boot: u64) -> bool {
        self.boot(id) == Some(boot)
    }

    fn run_until(&mut self, end: u64) {
        assert!(
            self.scheduled < EVENTS_MAX,
            "rest: {EVENTS_MAX} things have happened in {} ms, and there is no end",
            self.now / MS
        );
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= end
        {
            let ((time, number), event) = entry.remove_entry();
            self.now = time;
            self.digest = (self.digest ^ time ^ (number << 40)).wrapping_mul(0x0100_0000_01b3);
            self.step(*event);
        }
        self.now = end;
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Turn { node, boot } => self.on_turn(node, boot),
            Event::Disk { node, boot, lane } => self.on_disk(node, boot, lane),
            Event::Arrive(packet) => self.on_arrive(*packet),
            Event::Dial { from, boot, to } => self.on_dial(from, boot, to),
            Event::Break { from, to, number, by } => {
                if self.network.dialed(from, to) == Some(number) {
                    self.break_connection(from, to, by);
                }
            }
            Event::CallDeadline {
                from,
                boot,
                sequence,
                connection,
            } => {
                if self.is_running(from, boot)
                    && let Some(written) = self.network.end_call(from, sequence, connection)
                {
                    let error = CallError::DeadlineExceeded { written };
                    self.input(from, Input::Answer(sequence, Err(error)));
                }
            }
            Event::Client(n) => self.on_client(n),
            Event::Submit {
                node,
                boot,
                submission,
            } => {
                if self.is_running(node, boot) {
                    let process = self.node(node).process.as_mut().expect("it runs");
                    process.submissions.push(submission);
                    self.wake_soon(node);
                }
            }
            Event::Collect(n) => self.on_collect(n),
            Event::Fault => self.on_fault(),
            Event::Strike(fault, id) => self.strike(fault, id, id),
            Event::Operate => self.on_operate(),
            Event::Heal => self.on_heal(),
            Event::Start(id) => self.on_start(id),
            Event::Sweep => self.on_sweep(),
        }
    }

    // --- a node's turns

    fn wake(&mut self, id: u64, time: u64) {
        let time = time.max(self.now);
        let node = self.node(id);
        let boot = node.boot;
        if let Some(process) = &mut node.process
            && time < process.turn_at
        {
            process.turn_at = time;
            self.at(time, Event::Turn { node: id, boot });
        }
    }

    fn wake_soon(&mut self, id: u64) {
        let time = self.now + 10 + self.rng.below(100);
        self.wake(id, time);
    }

    fn input(&mut self, id: u64, input: Input) {
        if let Some(process) = &mut self.node(id).process {
            process.inputs.push(input);
            self.wake_soon(id);
        }
    }

    fn on_turn(&mut self, id: u64, boot: u64) {
        let now = self.now;
        let node = self.node(id);
        let is_due = |node: &Node| {
            node.process
                .as_ref()
                .is_some_and(|process| process.turn_at == now)
        };
        if node.boot != boot || !is_due(node) {
            return;
        }
        let paused_until = node.paused_until;
        node.process.as_mut().expect("it is due").turn_at = u64::MAX;
        if paused_until > now {
            return self.wake(id, paused_until);
        }
        match node.turn(now) {
            Ok(more) => {
                let node = &self.nodes[&id];
                let committed = self.checker.observe(node);
                self.checker.on_committed(committed.clone(), node, &self.nodes);
                self.readers.on_committed(committed, node);
                self.checker.check_followers(node, &self.nodes);
                self.checker.elections.observe(node, &self.nodes, now);
                let deadline = node.process.as_ref().expect("it had a turn").machine.deadline();
                let due = node.time_of(deadline);
                self.say_role(id);
                self.carry(id);
                self.tell_clients(id);
                if more {
                    self.wake_soon(id);
                }
                self.wake(id, due.max(now + 100));
            }
            Err(reason) => {
                self.say(Mark::Process, |_| format!("node {id} ends: {reason}"));
                let is_expected = self.nodes[&id].disk.may_fail();
                assert!(is_expected, "only broken disks fail: node {id} ends: {reason}");
                self.node(id).stop();
                self.carry(id);
                self.end(id, End::Killed);
            }
        }
    }

    fn say_role(&mut self, id: u64) {
        if !self.trace {
            return;
        }
        let Some(process) = &self.nodes[&id].process else {
            return;
        };
        let status = process.machine.raft().status();
        let (role, term, leader) = (status.role, status.hard_state.term, status.leader);
        if self.roles.insert(id, (role, term)) != Some((role, term)) {
            let leader = leader.map_or("nobody".into(), |leader| leader.to_string());
            self.say(Mark::Role, |_| {
                format!("node {id} is {role:?} in term {term} and follows {leader}")
            });
        }
    }

    /// Has the effects of a node's turn done.
    fn carry(&mut self, id: u64) {
        for effect in self.node(id).take_effects() {
            match effect {
                Effect::Send(envelope) => self.send(envelope),
                Effect::Disk(job) => {
                    if let Job::SetClusterId(cluster_id) = &job {
                        self.checker.on_cluster_id(id, *cluster_id);
                    }
                    let (node, rng) = (self.nodes.get_mut(&id).expect("a node"), &mut self.rng);
                    if let Job::ClearRecovering = &job {
                        self.checker.on_recovered(node);
                        node.disk.lacks_nothing();
                    }
                    let (boot, lane) = (node.boot, job.lane());
                    if let Some(due) = node.disk.push(job, self.now, rng) {
                        self.at(due, Event::Disk { node: id, boot, lane });
                    }
                }
                Effect::Call {
                    to,
                    sequence,
                    order,
                    deadline,
                } => {
                    let deadline = self.nodes[&id].time_of(deadline);
                    self.say(Mark::Message, |_| {
                        format!("node {id} passes its order {sequence} on to {to}")
                    });
                    self.call(id, to, sequence, order, deadline);
                }
                Effect::Cancel(sequence) => self.network.cancel(id, sequence),
                Effect::Answer(call, reply) => {
                    let CallId {
                        caller,
                        connection,
                        sequence,
                    } = call;
                    self.say(Mark::Message, |_| {
                        format!("node {id} answers order {sequence} of {caller}")
                    });
                    self.dispatch(id, caller, connection, Body::Answer { sequence, reply });
                }
                Effect::StateHash(index, hash) => {
                    self.checker.on_hash(id, index, hash);
                    let peers: Vec<u64> = self.nodes[&id].peers.keys().copied().collect();
                    for to in peers {
                        if let Some(connection) = self.network.dialed(id, to) {
                            self.dispatch(id, to, connection, Body::StateHash(index, hash));
                        }
                    }
                }
                Effect::AdoptMembership(index, membership) => self.adopt_membership(id, index, membership),
            }
        }
    }

    fn on_disk(&mut self, id: u64, boot: u64, lane: Lane) {
        // A job that hangs is done later than was planned.
        if !self.is_running(id, boot) || self.nodes[&id].disk.due(lane) != Some(self.now) {
            return;
        }
        let (now, node, rng) = (self.now, self.nodes.get_mut(&id).expect("a node"), &mut self.rng);
        let before = node.disk.due(Lane::Snapshots);
        let (done, next) = node.disk.finish(lane, now, rng);
        let replaced = std::mem::take(&mut node.disk.replaced);
        // What a job of the log has made superfluous may be removed at once.
        let begun = node
            .disk
            .due(Lane::Snapshots)
            .filter(|due| lane != Lane::Snapshots && before != Some(*due));
        self.checker.on_replaced(id, &replaced, &self.nodes);
        let has_failed = done.iter().any(|done| matches!(done, Done::Failed(_)));
        let dues = [
            next.map(|due| (lane, due)),
            begun.map(|due| (Lane::Snapshots, due)),
        ];
        if !has_failed {
            self.expect_disk(id, dues.into_iter().flatten());
        }
        for done in done {
            match done {
                Done::Chunk(envelope) => self.send(envelope),
                done => {
                    self.say_disk(id, &done);
                    self.node(id).process.as_mut().expect("it runs").done.push(done);
                }
            }
        }
        self.wake_soon(id);
    }

    fn say_disk(&self, id: u64, done: &Done) {
        match done {
            Done::Snapshot(SnapshotEvent::Stored { .. }) => {}
            Done::Snapshot(event) => self.say(Mark::Process, |_| match event {
                SnapshotEvent::Received(received) => {
                    format!(
                        "node {id} has received the snapshot up to {}",
                        received.header.last
                    )
                }
                other => format!("node {id}, of a snapshot: {other:?}"),
            }),
            _ => {}
        }
    }

    /// The disk is done with something at these times.
    fn expect_disk(&mut self, id: u64, dues: impl IntoIterator<Item = (Lane, u64)>) {
        let boot = self.nodes[&id].boot;
        for (lane, due) in dues {
            self.at(due, Event::Disk { node: id, boot, lane });
        }
    }

    fn set_disk_pace(&mut self, id: u64, latency_us: (u64, u64)) {
        self.node(id).disk.latency_us = latency_us;
    }

    // --- the network

    fn send(&mut self, envelope: Envelope) {
        let (from, to) = (envelope.from.0, envelope.to.0);
        let receiver = self.nodes.get(&to).and_then(|node| node.process.as_ref());
        let receiver = receiver.map(|process| process.machine.raft());
        let sender = &self.nodes[&from];
        self.checker.on_send(&envelope, sender.disk.durable(), receiver);
        self.checker.elections.on_send(&envelope, sender.boot, self.now);
        let connection = if envelope.message.is_request() {
            self.network.dialed(from, to)
        } else {
            self.network.dialed(to, from)
        };
        let Some(connection) = connection else {
            return;
        };
        self.say_sent(&envelope);
        let (boot, lives) = (self.nodes[&to].boot, self.lives(from, to));
        for time in self.network.arrivals(self.now, from, to, &mut self.rng) {
            let packet = Packet {
                from,
                to,
                boot,
                lives,
                connection,
                body: Body::Message(envelope.clone()),
            };
            self.network.remember(&packet, &mut self.rng);
            self.at(time, Event::Arrive(Box::new(packet)));
        }
    }

    fn say_sent(&self, envelope: &Envelope) {
        if !matches!(
            envelope.message,
            Message::Heartbeat(_) | Message::HeartbeatResponse(_)
        ) {
            self.say(Mark::Message, |_| describe(envelope));
        }
    }

    /// Sends what is lost only with its connection.
    fn dispatch(&mut self, from: u64, to: u64, connection: u64, body: Body) {
        let (boot, lives) = (self.nodes[&to].boot, self.lives(from, to));
        let time = self.now + self.network.delay_us(&mut self.rng);
        self.at(
            time,
            Event::Arrive(Box::new(Packet {
                from,
                to,
                boot,
                lives,
                connection,
                body,
            })),
        );
    }

    /// Which data folders are at both ends.
    fn lives(&self, from: u64, to: u64) -> (u64, u64) {
        (self.nodes[&from].life, self.nodes[&to].life)
    }

    fn call(&mut self, from: u64, to: u64, sequence: u64, order: bytes::Bytes, deadline: u64) {
        let Some(connection) = self.network.dialed(from, to) else {
            return self.input(from, Input::Answer(sequence, Err(CallError::NotSent)));
        };
        // Now and then the socket takes nothing until the connection ends.
        let written = !self.rng.one_in(20);
        self.network.call(from, sequence, connection, written);
        if written {
            self.dispatch(from, to, connection, Body::Call { sequence, order });
        }
        let boot = self.nodes[&from].boot;
        let time = deadline + self.rng.below(20 * MS);
        self.at(
            time,
            Event::CallDeadline {
                from,
                boot,
                sequence,
                connection,
            },
        );
    }

    fn on_arrive(&mut self, packet: Packet) {
        let Packet {
            from,
            to,
            boot,
            lives,
            connection,
            ..
        } = packet;
        if lives != self.lives(from, to) {
            return;
        }
        let is_message = matches!(packet.body, Body::Message(_));
        if self.network.is_cut(from, to) {
            if !is_message {
                // TCP sends it again.
                self.after(100 * MS, 300 * MS, Event::Arrive(Box::new(packet)));
            }
            return;
        }
        let is_free = is_message && !self.network.style.is_tcp;
        let is_open =
            [self.network.dialed(from, to), self.network.dialed(to, from)].contains(&Some(connection));
        if !is_free && (!self.is_running(to, boot) || !(is_open || self.rng.one_in(3))) {
            return;
        }
        let input = match packet.body {
            Body::Message(envelope) => Input::Message(envelope),
            Body::Call { sequence, order } => {
                let call = CallId {
                    caller: from,
                    connection,
                    sequence,
                };
                Input::Call(call, order)
            }
            Body::Answer { sequence, reply } => {
                if self.network.end_call(to, sequence, connection).is_none() {
                    return;
                }
                Input::Answer(sequence, Ok(reply))
            }
            Body::StateHash(index, hash) => Input::StateHash { from, index, hash },
        };
        self.input(to, input);
    }

    fn on_dial(&mut self, from: u64, boot: u64, to: u64) {
        if !self.is_running(from, boot) {
            return;
        }
        if !self.nodes[&from].peers.contains_key(&to) {
            return;
        }
        let other = self.nodes.get(&to).and_then(|_| self.boot(to));
        let again = Event::Dial { from, boot, to };
        let Some(other) = other.filter(|_| self.network.may_dial(from, to)) else {
            if self.network.dialed(from, to).is_none() {
                self.after(50 * MS, 300 * MS, again);
            }
            return;
        };
        if let Some(refusal) = self.refusal(from, to) {
            self.say(Mark::Network, |_| {
                format!("node {from} does not get to {to}: {refusal:?}")
            });
            self.input(from, Input::Refused(to, refusal));
            return self.after(100 * MS, 1500 * MS, again);
        }
        let (own, theirs) = (self.nodes[&from].claim(), self.nodes[&to].claim());
        self.network.connect(from, to, (boot, other), (own, theirs));
        self.say(Mark::Network, |_| format!("node {from} has connected to {to}"));
        self.input(from, Input::Connected(to, theirs.incarnation));
    }

    /// Why the handshake fails, as the one who dials sees it.
    fn refusal(&self, from: u64, to: u64) -> Option<Refusal> {
        let (dialer, dialed) = (&self.nodes[&from], &self.nodes[&to]);
        if dialed.members.refuses(&dialer.claim()) {
            return Some(Refusal::ByPeer("a reason".into()));
        }
        dialer.members.refuses(&dialed.claim()).then(|| {
            if dialer.members.contains(NodeId(to)) {
                Refusal::Wiped
            } else {
                Refusal::ByUs("a reason".into())
            }
        })
    }

    /// A node keeps connections with other servers from now on; see `raftline::transport::Transport::set_members`.
    fn adopt_membership(&mut self, id: u64, index: Index, membership: Membership) {
        let gone = self.node(id).adopt_membership(index, membership);
        for to in gone {
            self.break_connection(id, to, Some(id));
        }
        for ((from, to), claim) in self.network.partners(id) {
            let members = &self.nodes[&id].members;
            if members.contains(claim.node_id) && members.refuses(&claim) {
                self.break_connection(from, to, Some(id));
            }
        }
        let boot = self.nodes[&id].boot;
        let peers: Vec<u64> = self.nodes[&id].peers.keys().copied().collect();
        for to in peers {
            if self.network.dialed(id, to).is_none() {
                self.after(0, 50 * MS, Event::Dial { from: id, boot, to });
            }
        }
    }

    /// The connection ends; `by` is the end that closed it, for the other one to see.
    fn break_connection(&mut self, from: u64, to: u64, by: Option<u64>) {
        let Some(Closed { boots, calls }) = self.network.close(from, to) else {
            return;
        };
        self.say(Mark::Network, |_| {
            format!("the connection of node {from} to {to} ends, closed by {by:?}")
        });
        if self.is_running(from, boots.0) {
            for (sequence, written) in calls {
                let error = if written {
                    CallError::Lost
                } else {
                    CallError::NotSent
                };
                self.input(from, Input::Answer(sequence, Err(error)));
            }
            self.input(
                from,
                Input::Disconnected {
                    peer: to,
                    by_peer: by == Some(to),
                },
            );
            self.input(from, Input::Unreachable(to));
            let boot = boots.0;
            self.after(20 * MS, 300 * MS, Event::Dial { from, boot, to });
        }
        if self.is_running(to, boots.1) {
            self.input(
                to,
                Input::Disconnected {
                    peer: from,
                    by_peer: by == Some(from),
                },
            );
        }
    }

    // --- processes

    fn on_start(&mut self, id: u64) {
        if self.nodes[&id].process.is_some() || self.nodes[&id].is_retired {
            return;
        }
        let (node, rng) = (self.nodes.get_mut(&id).expect("a node"), &mut self.rng);
        if let Err(reason) = node.start(&self.setup, self.now, !self.is_calm, rng) {
            assert!(!self.is_calm, "recovery: node {id} does not start: {reason}");
            node.disk.abandon(End::Killed, rng);
            self.say(Mark::Process, |_| format!("node {id} does not start: {reason}"));
            return self.after(100 * MS, RESTART_US, Event::Start(id));
        }
        let boot = node.boot;
        let committed = self.checker.invariants.commit_index();
        node.recovers_from = node.disk.is_recovering().then_some(committed);
        self.say(Mark::Process, |world| {
            let disk = &world.nodes[&id].disk;
            let recovering = if disk.is_recovering() {
                "; it is recovering"
            } else {
                ""
            };
            format!("node {id} starts with {}{recovering}", disk.durable().describe())
        });
        for (from, to) in self.network.connected() {
            if from == id || to == id {
                self.break_connection(from, to, Some(id));
            }
        }
        let peers: Vec<u64> = self.nodes[&id].peers.keys().copied().collect();
        for to in peers {
            self.after(0, 50 * MS, Event::Dial { from: id, boot, to });
        }
        self.wake_soon(id);
    }

    /// The process on a node is no more.
    fn end(&mut self, id: u64, end: End) {
        let (node, rng) = (self.nodes.get_mut(&id).expect("a node"), &mut self.rng);
        node.process = None;
        node.disk.abandon(end, rng);
        self.checker.invariants.stopped(raftline::raft::NodeId(id));
        self.roles.remove(&id);
        self.network.forget(id);
        if end == End::Killed {
            for (from, to) in self.network.connected() {
                if let (true, Some(number)) = (from == id || to == id, self.network.dialed(from, to)) {
                    let by = Some(id);
                    self.after(50, 2 * MS, Event::Break { from, to, number, by });
                }
            }
        }
        self.tell_clients(id);
        let most = [RESTART_US / 50, RESTART_US / 5, RESTART_US][self.rng.below(3) as usize];
        self.after(10 * MS, most, Event::Start(id));
    }

    // --- clients

    fn on_client(&mut self, n: usize) {
        if self.is_over {
            return;
        }
        if self.now < self.lull_until && !self.is_calm {
            return self.at(self.lull_until, Event::Client(n));
        }
        let (nodes, now) = (self.whom_to_ask(), self.now);
        let id = self.clients.choose(n, &nodes, &mut self.rng);
        let Some(boot) = self.boot(id) else {
            self.clients.leave(n);
            return self.after(MS, 50 * MS, Event::Client(n));
        };
        let committed = self.checker.invariants.commit_index();
        let submission = self.clients.ask(n, &nodes, now, committed, &mut self.rng);
        let node = &self.nodes[&id];
        // What is left of a pause is still to come.
        let paused_us = node
            .paused_us
            .saturating_sub(node.paused_until.saturating_sub(now));
        if let Some(waiting) = &mut self.clients.list[n].waiting {
            (waiting.boot, waiting.paused_us) = (boot, paused_us);
        }
        self.say(Mark::Client, |world| {
            let waiting = world.clients.list[n].waiting.as_ref();
            format!(
                "client {n} asks node {id}: {}",
                waiting.map(|w| w.describe()).unwrap_or_default()
            )
        });
        self.after(
            50,
            2 * MS,
            Event::Submit {
                node: id,
                boot,
                submission,
            },
        );
    }

    /// The members, and now and then any node.
    fn whom_to_ask(&mut self) -> Vec<u64> {
        let members = self.checker.membership().addresses.keys();
        let members: Vec<u64> = members.map(|id| id.0).collect();
        if members.is_empty() || self.rng.one_in(10) {
            return self.ids();
        }
        members
    }

    /// After something has happened to a node: those who wait for it may have answers.
    fn tell_clients(&mut self, id: u64) {
        let boot = self.boot(id);
        self.judge(id);
        let process = self.nodes[&id].process.as_ref();
        let applied = process.map(|process| process.machine.applied().0);
        for n in 0..self.clients.list.len() {
            let Some(waiting) = &mut self.clients.list[n].waiting else {
                continue;
            };
            if let Some(applied) = applied.filter(|_| waiting.node == id && boot == Some(waiting.boot)) {
                waiting.hear(applied);
            }
            if waiting.node == id && (waiting.has_answers() || boot != Some(waiting.boot)) {
                self.after(50, 2 * MS, Event::Collect(n));
            }
        }
    }

    fn on_collect(&mut self, n: usize) {
        let Some(waiting) = &self.clients.list[n].waiting else {
            return;
        };
        let alive = self.is_running(waiting.node, waiting.boot);
        let before = self.clients.history.len();
        let is_done = self.clients.collect(n, self.now, alive, &mut self.rng);
        for operation in self.clients.history.iter().skip(before) {
            self.say(Mark::Client, |_| {
                format!(
                    "client {n} sees: {:?} {}: {:?}",
                    operation.action, operation.key, operation.outcome
                )
            });
            self.checker.on_outcome(operation);
        }
        if is_done {
            // Who had no luck waits, or there would be more requests of unknown outcome than the search for an
            // order can bear.
            let is_well = self.clients.list[n].is_well();
            let pause = self.clients.pause_us.max(if is_well { 0 } else { 300 * MS });
            self.after(0, pause, Event::Client(n));
        }
    }

    /// What nobody else would notice: connections that lead nowhere, and answers that do not come.
    fn on_sweep(&mut self) {
        self.at(self.now + SWEEP_US, Event::Sweep);
        self.readers.read(&mut self.nodes);
        let stale = self.network.stale(|id| self.boot(id));
        for (from, to) in stale {
            if self.rng.one_in(6) {
                self.break_connection(from, to, None);
            }
        }
        for node in self.nodes.values().filter(|node| node.paused_until <= self.now) {
            checker::check_leader_is_heard(node, self.setup.election_timeout_ms);
        }
        self.check_operator();
        let timeout_us = self.setup.request_timeout_ms * MS;
        for client in &self.clients.list {
            let Some(waiting) = &client.waiting else {
                continue;
            };
            let node = &self.nodes[&waiting.node];
            let paused = node.paused_us.saturating_sub(waiting.paused_us);
            let timeout_us = node::slowest_us(timeout_us, self.setup.drift_max_ppm);
            let longest = timeout_us * 11 / 10 + 500 * MS + paused;
            assert!(
                self.now - waiting.since <= longest,
                "answers in time: node {} has not answered for {} ms, and a request may take {}: {}",
                waiting.node,
                (self.now - waiting.since) / MS,
                self.setup.request_timeout_ms,
                waiting.describe()
            );
        }
    }

    // --- the end

    fn calm_down(&mut self) {
        self.say(Mark::World, |_| "the faults stop".into());
        self.is_calm = true;
        self.network.heal();
        let style = &mut self.network.style;
        style.delay_us = (50, 500);
        (style.late_one_in, style.lost_one_in, style.twice_one_in) = (0, 0, 0);
        let now = self.now;
        for id in self.ids() {
            self.set_disk_pace(id, (100, MS));
            let node = self.node(id);
            node.set_drift(now, 0);
            node.disk.mend();
            node.paused_until = now;
            let dues = node.disk.hurry(now);
            self.expect_disk(id, dues);
            self.wake(id, now);
        }
    }

    /// Within a bound, all members vote and serve reads and writes.
    fn revive(&mut self) {
        self.clients.served_since = self.now;
        let timeout_us = self.setup.election_timeout_ms * MS;
        let each_us = 10 * timeout_us + 1000 * MS;
        let bound = RESTART_US
            + 15 * timeout_us
            + self.setup.request_timeout_ms * MS
            + each_us * self.nodes.len() as u64;
        let end = self.now + bound;
        while !self.is_well() {
            assert!(
                self.now < end,
                "liveness: {} ms after the faults have stopped, only these nodes serve writes (false) and reads \
                 (true): {:?}; committed is {:?}",
                bound / MS,
                self.clients.served,
                self.checker.membership()
            );
            self.run_until(self.now + 50 * MS);
        }
    }

    /// Every member votes, comes with its own data folder, and serves reads and writes.
    fn is_well(&self) -> bool {
        let membership = self.checker.membership();
        let is_itself = |(id, bound): (&NodeId, &u64)| self.nodes[&id.0].incarnation == *bound;
        let served = |id: &u64, read| self.clients.served.contains(&(*id, read));
        membership.outgoing.is_empty()
            && membership.learners.is_empty()
            && membership.incarnations.len() == membership.voters.len()
            && membership.incarnations.iter().all(is_itself)
            && membership
                .voters
                .iter()
                .all(|id| !self.nodes[&id.0].disk.is_recovering())
            && self
                .members()
                .iter()
                .all(|id| served(id, true) && served(id, false))
    }

    /// The members, as is committed.
    fn members(&self) -> Vec<u64> {
        let membership = self.checker.membership();
        membership.addresses.keys().map(|id| id.0).collect()
    }

    /// Nobody asks for anything: soon all members have applied the same, and none waits. And nobody disturbs them.
    fn agree(&mut self) {
        let timeout_us = self.setup.election_timeout_ms * MS;
        // What is under way since the time of the faults may be orders whose askers have given up.
        let mut packets = self
            .queue
            .iter()
            .filter(|(_, event)| matches!(***event, Event::Arrive(_)));
        let late = packets.next_back().map_or(self.now, |((time, _), _)| *time);
        self.run_until(late + 2 * timeout_us);
        // What was passed on for one who has gone meanwhile waits for its deadline; a voter may be long in coming.
        let waits_us = 2 * self.setup.request_timeout_ms * MS + operator::PROMOTION_US;
        let end = self.now + 5 * timeout_us + waits_us;
        let (members, term) = (self.members(), self.newest_term());
        loop {
            self.run_until(self.now + 50 * MS);
            let late = members.iter().filter(|id| !self.has_settled(**id));
            let late: Vec<u64> = late.copied().collect();
            if late.is_empty() {
                break;
            }
            assert!(
                self.now < end,
                "liveness: nobody asks for anything, and nodes {late:?} still wait, or have not applied all that is \
                 committed, up to {}: {:?}",
                self.checker.invariants.commit_index(),
                late.iter()
                    .filter_map(|id| self.nodes[id].process.as_ref())
                    .map(|process| (process.machine.applied().0, process.machine.is_idle()))
                    .collect::<Vec<_>>()
            );
        }
        self.run_until(self.now + 3 * timeout_us);
        assert!(
            self.newest_term() == term,
            "removed nodes disturb nobody: from {term} to {}, while nothing goes wrong",
            self.newest_term()
        );
    }

    fn newest_term(&self) -> Term {
        let processes = self.nodes.values().filter_map(|node| node.process.as_ref());
        let terms = processes.map(|process| process.machine.raft().term());
        terms.max().unwrap_or_default()
    }

    fn has_settled(&self, id: u64) -> bool {
        let committed = self.checker.invariants.commit_index();
        let process = self.nodes[&id].process.as_ref();
        process.is_some_and(|process| process.machine.applied().0 == committed && process.machine.is_idle())
    }

    /// Every request gets its answer; all nodes end up with the same state; and the history is what one copy of the
    /// data would have answered.
    fn wind_up(mut self) -> Report {
        self.is_over = true;
        while self.clients.list.iter().any(|client| client.waiting.is_some()) || self.operator.waits() {
            self.run_until(self.now + 50 * MS);
        }
        self.agree();
        let members = self.members();
        self.readers.check(&mut self.nodes, &members);
        self.clients.give_up(self.now);
        let mut history = std::mem::take(&mut self.clients.history);
        let node = &self.nodes[&self.members()[0]];
        let machine = &node.process.as_ref().expect("all members run").machine;
        let count = |wanted: fn(Outcome) -> bool| history.iter().filter(|o| wanted(o.outcome)).count();
        let report = Report {
            simulated_us: self.now,
            done: count(|outcome| matches!(outcome, Outcome::Done(_))),
            failed: count(|outcome| outcome == Outcome::Failed),
            unknown: count(|outcome| outcome == Outcome::Unknown),
            terms: machine.raft().term().0,
            entries: machine.applied().0.0,
            changes: self.checker.memberships.len() - 1,
            installed: self.nodes.values().map(|node| node.disk.installed).sum(),
            recoveries: self.nodes.values().map(|node| node.disk.recoveries).sum(),
            undecided: 0,
            digest: self.digest ^ machine.applied().1,
        };
        self.operator.check_changes(&self.checker.memberships);
        self.checker.check_log(&mut history);
        let undecided = checker::check_history(history);
        Report { undecided, ..report }
    }
}

fn describe(envelope: &Envelope) -> String {
    let (from, to, term) = (envelope.from, envelope.to, envelope.term);
    let what = match &envelope.message {
        Message::AppendEntries(append) => format!(
            "AppendEntries after {}, {} entries, commit {}",
            append.prev_log,
            append.entries.len(),
            append.leader_commit
        ),
        Message::AppendEntriesResponse(response) => match response.conflict {
            None => format!("AppendEntriesResponse: has up to {}", response.last_index),
            Some(conflict) => format!("AppendEntriesResponse: {conflict:?}"),
        },
        other => format!("{other:?}"),
    };
    format!("node {from} to {to} in term {term}: {what}")
}
