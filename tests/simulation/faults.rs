//! What goes wrong in a world, by itself and by its operator: links, connections, processes, disks and clocks.

use raftline::base::rng::Rng;
use raftline::node::{Operation, Request, Submission};
use raftline::raft::NodeId;

use super::{Event, MS, Mark, World};
use crate::disk::{End, LANES, Lane};
use crate::node::Node;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    CutOneWay,
    CutBothWays,
    Isolate,
    Halves,
    /// Two halves, and one node that reaches both.
    Bridge,
    /// Any links at all, each way on its own.
    Patchy,
    Heal,
    Close,
    PowerFailure,
    Kill,
    Stop,
    Blackout,
    SlowDisk,
    /// What is being written takes many seconds more.
    HungDisk,
    /// One of the threads that write hangs, and the others go on.
    HungLane,
    /// The disk is slow, the power fails, and again while the node has hardly begun.
    Flicker,
    FailingDisk,
    FullDisk,
    /// A node ends, and bits of its log or of a snapshot flip before it starts again.
    Damage,
    /// A node is to throw away what it has and to fetch it anew.
    Rebuild,
    Pause,
    Jump,
    /// A clock runs faster or slower.
    Drift,
    /// The leader is cut off while its clock is slow and those of the others are fast: it leads for longer than they
    /// wait. Half of the clients stay with it.
    SlowLeader,
    /// The leader is cut off and stands still until another may lead.
    PausedLeader,
    /// All connections of the leader end as if its process had, and perhaps it is cut off: another may lead at once.
    Reset,
    /// The leader and one follower, whose disk hangs, are cut off from all others.
    Pair,
    /// What was said long ago is heard again, perhaps by the next process.
    Echo,
    /// A follower is cut off until its leader has let go of what it lacks; and while it is sent the snapshot, the
    /// leader goes.
    Straggler,
    /// Nobody asks for anything, a follower loses touch with its leader alone, and asks for votes; and the processes of
    /// all others end and begin.
    Rival,
}

const FAULTS: [Fault; 30] = [
    Fault::CutOneWay,
    Fault::CutBothWays,
    Fault::Isolate,
    Fault::Halves,
    Fault::Bridge,
    Fault::Patchy,
    Fault::Heal,
    Fault::Close,
    Fault::PowerFailure,
    Fault::Kill,
    Fault::Stop,
    Fault::Blackout,
    Fault::SlowDisk,
    Fault::HungDisk,
    Fault::HungLane,
    Fault::Flicker,
    Fault::FailingDisk,
    Fault::FullDisk,
    Fault::Damage,
    Fault::Rebuild,
    Fault::Pause,
    Fault::Jump,
    Fault::Drift,
    Fault::SlowLeader,
    Fault::PausedLeader,
    Fault::Reset,
    Fault::Pair,
    Fault::Echo,
    Fault::Straggler,
    Fault::Rival,
];

/// What a world is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    Anything,
    /// Leases, on clocks that are as far apart as they may be, and leaders that lose touch.
    Clocks,
    /// Disks that are slow, hang and fail, and processes that end in the midst of writing.
    Disks,
    /// Snapshots all the time, and followers that need them.
    Snapshots,
    /// Leaders that are replaced before they know, and clients who stay with them.
    Leaders,
}

impl Theme {
    pub fn any(rng: &mut Rng) -> Theme {
        match rng.below(12) {
            0..2 => Theme::Clocks,
            2..4 => Theme::Disks,
            4..7 => Theme::Snapshots,
            7 => Theme::Leaders,
            _ => Theme::Anything,
        }
    }

    /// What is named twice happens twice as often.
    fn faults(self) -> &'static [Fault] {
        match self {
            Theme::Anything => &FAULTS,
            Theme::Clocks => &[
                Fault::SlowLeader,
                Fault::SlowLeader,
                Fault::PausedLeader,
                Fault::PausedLeader,
                Fault::PausedLeader,
                Fault::Rival,
                Fault::Rival,
                Fault::Rival,
                Fault::Pause,
                Fault::Drift,
                Fault::Reset,
                Fault::Kill,
                Fault::PowerFailure,
                Fault::Isolate,
                Fault::CutOneWay,
                Fault::CutBothWays,
                Fault::Bridge,
                Fault::Patchy,
            ],
            Theme::Disks => &[
                Fault::PowerFailure,
                Fault::Flicker,
                Fault::Flicker,
                Fault::Flicker,
                Fault::Blackout,
                Fault::Kill,
                Fault::SlowDisk,
                Fault::HungDisk,
                Fault::HungLane,
                Fault::FailingDisk,
                Fault::FullDisk,
                Fault::Damage,
                Fault::Rebuild,
            ],
            Theme::Snapshots => &[
                Fault::Straggler,
                Fault::Straggler,
                Fault::Straggler,
                Fault::HungLane,
                Fault::SlowDisk,
                Fault::Kill,
                Fault::PowerFailure,
                Fault::Reset,
                Fault::Close,
                Fault::Damage,
                Fault::Rebuild,
            ],
            Theme::Leaders => &[
                Fault::Reset,
                Fault::Reset,
                Fault::Reset,
                Fault::PausedLeader,
                Fault::Stop,
                Fault::Kill,
                Fault::Pair,
                Fault::Isolate,
                Fault::Rival,
            ],
        }
    }

    /// How long nothing happens between two faults, about; long enough for what takes some time to come about.
    pub fn pause_us(self, election_timeout_ms: u64, rng: &mut Rng) -> u64 {
        let timeout_us = election_timeout_ms * MS;
        match self {
            Theme::Anything | Theme::Disks => [100 * MS, 500 * MS, 2000 * MS][rng.below(3) as usize],
            Theme::Leaders => timeout_us,
            Theme::Clocks | Theme::Snapshots => [2 * timeout_us, 4 * timeout_us][rng.below(2) as usize],
        }
    }

    /// The kinds of faults of one world, and what ends some of them.
    pub fn some_faults(self, rng: &mut Rng) -> Vec<Fault> {
        let least = if self == Theme::Anything { 1 } else { 3 };
        let chance = least + rng.below(5 - least);
        let is_chosen = |_: &Fault| rng.below(4) < chance;
        let mut faults: Vec<Fault> = self.faults().iter().copied().filter(is_chosen).collect();
        faults.push(Fault::Heal);
        faults
    }
}

impl World {
    pub(super) fn on_fault(&mut self) {
        if self.is_calm {
            return;
        }
        let pause = self.fault_pause_us;
        self.after(pause / 4, 2 * pause, Event::Fault);
        let fault = self.faults[self.rng.below(self.faults.len() as u64) as usize];
        let leader = self.newest_leader();
        let any = self.any_node();
        let id = leader.filter(|_| self.rng.one_in(2)).unwrap_or(any);
        let other = self.any_node();
        self.say(Mark::Fault, |_| {
            format!("FAULT {fault:?}: node {id}, and perhaps {other}")
        });
        self.strike(fault, id, other);
    }

    /// Something goes wrong with a node, and perhaps with another one.
    pub(super) fn strike(&mut self, fault: Fault, id: u64, other: u64) {
        if self.is_calm {
            return;
        }
        let leader = self.newest_leader();
        match fault {
            Fault::Close => {
                let by = [None, Some(id), Some(other)][self.rng.below(3) as usize];
                self.break_connection(id, other, by);
            }
            Fault::PowerFailure | Fault::Kill | Fault::Stop | Fault::Blackout => self.end_some(fault, id),
            Fault::Flicker => self.flicker(id),
            Fault::SlowDisk | Fault::HungDisk | Fault::HungLane | Fault::FailingDisk | Fault::FullDisk => {
                self.harm_disk(fault, id);
                self.node(other).disk.mend();
            }
            Fault::Damage => self.damage(id),
            Fault::Rebuild => self.rebuild(id),
            Fault::Pause => {
                let pause = self.rng.below(3000) * MS;
                self.pause(id, pause);
            }
            Fault::Jump => {
                let most = [200, 20_000, 200_000_000][self.rng.below(3) as usize];
                self.node(id).wall_offset_ms += self.rng_between(most);
            }
            Fault::Drift => {
                let ppm = self.rng_between(2 * self.setup.drift_max_ppm);
                self.set_drift(id, ppm);
            }
            Fault::SlowLeader => self.slow_leader(leader.unwrap_or(id)),
            Fault::Reset => self.reset(leader.unwrap_or(id)),
            Fault::Pair => self.pair(leader.unwrap_or(id), other),
            Fault::Echo => self.echo(id),
            Fault::PausedLeader => self.pause_leader(leader.unwrap_or(id)),
            Fault::Straggler => self.outpace(leader.unwrap_or(id), other),
            Fault::Rival => self.rival(leader.unwrap_or(id), other),
            _ => self.change_links(fault, id, other),
        }
    }

    /// Anything from minus a half of `range` to half of it.
    fn rng_between(&mut self, range: u64) -> i64 {
        self.rng.below(range + 1) as i64 - (range / 2) as i64
    }

    fn change_links(&mut self, fault: Fault, id: u64, other: u64) {
        let all = self.ids();
        let pairs = all.iter().flat_map(|a| all.iter().map(move |b| (*a, *b)));
        let side = self.rng.next_u64();
        let is_left = |id: u64| side >> id & 1 == 0;
        match fault {
            Fault::CutOneWay => self.network.cut(id, other),
            Fault::CutBothWays => {
                self.network.cut(id, other);
                self.network.cut(other, id);
            }
            Fault::Isolate => self.cut_off(id),
            Fault::Halves | Fault::Bridge => {
                let is_bridge = |node: u64| fault == Fault::Bridge && node == id;
                for (a, b) in pairs {
                    if is_left(a) != is_left(b) && !is_bridge(a) && !is_bridge(b) {
                        self.network.cut(a, b);
                    }
                }
            }
            Fault::Patchy => {
                if self.rng.one_in(2) {
                    self.network.heal();
                }
                let one_in = 2 + self.rng.below(4);
                for (a, b) in pairs {
                    if self.rng.one_in(one_in) {
                        self.network.cut(a, b);
                    }
                }
            }
            _ => self.network.heal(),
        }
    }

    /// Nothing reaches the node, or nothing that it sends arrives, or both.
    fn cut_off(&mut self, id: u64) {
        let (hears, speaks) =
            [(false, false), (false, false), (true, false), (false, true)][self.rng.below(4) as usize];
        for peer in self.ids().into_iter().filter(|peer| *peer != id) {
            if !speaks {
                self.network.cut(id, peer);
            }
            if !hears {
                self.network.cut(peer, id);
            }
        }
    }

    fn pause(&mut self, id: u64, pause: u64) {
        let until = self.now + pause;
        let node = self.node(id);
        node.paused_us += pause;
        node.paused_until = node.paused_until.max(until);
    }

    /// It is cut off while it stands still; what has arrived by then it hears when it goes on.
    fn pause_leader(&mut self, id: u64) {
        let timeout_us = self.setup.election_timeout_ms * MS;
        let pause = self.rng.below(3 * timeout_us);
        self.pause(id, pause);
        if self.rng.one_in(2) {
            self.cut_off(id);
        } else {
            self.after(0, timeout_us / 5, Event::Strike(Fault::Isolate, id));
        }
        self.clients.gather(id);
        self.after(pause, pause + 2 * timeout_us, Event::Heal);
    }

    fn outpace(&mut self, leader: u64, follower: u64) {
        if leader == follower {
            return;
        }
        for peer in self.ids().into_iter().filter(|peer| *peer != follower) {
            self.network.cut(follower, peer);
            self.network.cut(peer, follower);
        }
        let timeout_us = self.setup.election_timeout_ms * MS;
        let away_us = timeout_us + self.rng.below(3 * timeout_us);
        self.order(leader, Operation::Snapshot, (away_us / 2, away_us));
        self.at(self.now + away_us, Event::Strike(Fault::Heal, follower));
        let (jobs, hang_us) = (self.rng.below(4), 2 * timeout_us + self.rng.below(4 * timeout_us));
        self.node(follower).disk.hang_after(Lane::Chunks, jobs, hang_us);
        let fault =
            [Fault::Kill, Fault::PowerFailure, Fault::Reset, Fault::Isolate][self.rng.below(4) as usize];
        self.after(
            away_us + 50 * MS,
            away_us + 800 * MS,
            Event::Strike(fault, leader),
        );
    }

    fn rival(&mut self, leader: u64, rival: u64) {
        self.network.cut(leader, rival);
        self.network.cut(rival, leader);
        let timeout_us = self.setup.election_timeout_ms * MS;
        let end_us = timeout_us + self.rng.below(2 * timeout_us);
        for other in self.ids() {
            if other != leader && other != rival {
                self.after(end_us, end_us + 20 * MS, Event::Strike(Fault::Flicker, other));
            }
        }
        self.lull_until = self.now + 4 * timeout_us;
        self.after(3 * timeout_us, 4 * timeout_us, Event::Heal);
    }

    fn flicker(&mut self, id: u64) {
        // What waits for a slow disk is written in large batches.
        let most_us = [2, 20, 100][self.rng.below(3) as usize] * MS;
        self.end_some(Fault::PowerFailure, id);
        self.set_disk_pace(id, (100, most_us));
        self.after(0, 20 * MS, Event::Start(id));
        if !self.rng.one_in(4) {
            self.after(20 * MS, 300 * MS, Event::Strike(Fault::Flicker, id));
        }
    }

    fn set_drift(&mut self, id: u64, ppm: i64) {
        let now = self.now;
        self.node(id).set_drift(now, ppm);
        // What it waits for may come sooner now.
        self.wake_soon(id);
    }

    fn slow_leader(&mut self, id: u64) {
        let ppm = self.setup.drift_max_ppm as i64;
        for node in self.ids() {
            self.set_drift(node, if node == id { -ppm } else { ppm });
        }
        self.cut_off(id);
        self.clients.gather(id);
        let timeout_us = self.setup.election_timeout_ms * MS;
        self.after(timeout_us, 5 * timeout_us, Event::Heal);
    }

    /// What was cut off meets those that went on without it. Perhaps their leader goes just then, and who comes next
    /// is decided between logs that differ.
    pub(super) fn on_heal(&mut self) {
        self.network.heal();
        let leader = self.newest_leader();
        let fault = [Fault::Kill, Fault::PowerFailure, Fault::Reset, Fault::Heal][self.rng.below(4) as usize];
        if let Some(id) = leader.filter(|_| !self.is_calm) {
            self.say(Mark::Fault, |_| {
                format!("the links are back, and {fault:?}: node {id}")
            });
            match fault {
                Fault::Reset => self.reset(id),
                Fault::Heal => {}
                _ => self.end_some(fault, id),
            }
        }
    }

    pub(super) fn newest_leader(&self) -> Option<u64> {
        let leaders = self.nodes.values().filter(|node| node.is_leader());
        let term = |node: &&Node| node.process.as_ref().map(|process| process.machine.raft().term());
        leaders.max_by_key(term).map(|node| node.id)
    }

    fn reset(&mut self, id: u64) {
        for peer in self.ids().into_iter().filter(|peer| *peer != id) {
            self.break_connection(id, peer, Some(id));
            self.break_connection(peer, id, Some(id));
        }
        if self.rng.one_in(2) {
            self.cut_off(id);
            self.clients.gather(id);
            let timeout_us = self.setup.election_timeout_ms * MS;
            self.after(timeout_us / 2, 3 * timeout_us, Event::Heal);
        }
    }

    /// What the follower takes from this leader is not on its disk when it takes something else from the next one.
    fn pair(&mut self, leader: u64, follower: u64) {
        for other in self.ids() {
            for one in [leader, follower]
                .into_iter()
                .filter(|_| other != leader && other != follower)
            {
                self.network.cut(one, other);
                self.network.cut(other, one);
            }
        }
        self.clients.gather(leader);
        let timeout_us = self.setup.election_timeout_ms * MS;
        let hang_us = 2 * timeout_us + self.rng.below(3 * timeout_us);
        if self.boot(follower).is_some() {
            let dues = self.node(follower).disk.hang(hang_us);
            self.expect_disk(follower, dues);
        }
        self.after(timeout_us, 3 * timeout_us, Event::Heal);
    }

    /// Only where the network may do so.
    fn echo(&mut self, to: u64) {
        if self.rng.one_in(2) {
            self.end_some(Fault::Kill, to);
        }
        for packet in self.network.said_to(to) {
            if self.rng.one_in(2) {
                self.after(0, 3000 * MS, Event::Arrive(Box::new(packet)));
            }
        }
    }

    fn harm_disk(&mut self, fault: Fault, id: u64) {
        if self.boot(id).is_none() {
            return;
        }
        let hang_most_ms = [1000, 5000, 20_000][self.rng.below(3) as usize];
        let hang_us = self.rng.below(hang_most_ms) * MS;
        let most_us = [2, 50, 500, 3000][self.rng.below(4) as usize] * MS;
        let (node, rng) = (self.nodes.get_mut(&id).expect("a node"), &mut self.rng);
        match fault {
            Fault::SlowDisk => node.disk.latency_us = (100, most_us),
            Fault::FailingDisk => node.disk.fail_soon(rng),
            Fault::FullDisk => node.disk.fill(rng),
            Fault::HungLane => {
                let lane = LANES[rng.below(LANES.len() as u64) as usize];
                node.disk.hang_after(lane, rng.below(4), hang_us);
            }
            _ => {
                let dues = node.disk.hang(hang_us);
                self.expect_disk(id, dues);
            }
        }
    }

    /// Whether a quorum of the voters, of every membership that may be in force, still has what it acknowledged when
    /// this node has lost it too.
    pub(super) fn bears_loss_of(&self, id: u64) -> bool {
        let processes = self.nodes.values().filter_map(|node| node.process.as_ref());
        let latest = processes.map(|process| process.machine.raft().status().membership);
        self.is_quiet()
            && std::iter::once(self.checker.membership())
                .chain(latest)
                .all(|membership| {
                    let lacks = |voter: &&NodeId| {
                        let node = &self.nodes[&voter.0];
                        let bound = membership.incarnations.get(voter);
                        let is_wiped = bound.map_or(node.life > 0, |bound| *bound != node.incarnation);
                        voter.0 == id || is_wiped || node.disk.is_impaired()
                    };
                    let lacking = membership.voters.iter().filter(lacks).count();
                    !membership.is_joint()
                        && (membership.voters.is_empty() || 2 * lacking < membership.voters.len())
                })
    }

    fn damage(&mut self, id: u64) {
        let node = &self.nodes[&id];
        // A damaged node looks into its configuration for others to fetch from, if it finds nobody in its log. Without
        // an identity, before its first start has come to an end, it refuses, whoever there is.
        let may_be_repaired = node.bootstrap.voters.len() >= 2 && node.incarnation != 0;
        if !may_be_repaired || node.is_retired || !self.bears_loss_of(id) {
            return;
        }
        self.note_loss();
        let end = if self.rng.one_in(2) {
            End::PowerFailed
        } else {
            End::Killed
        };
        self.end(id, end);
        for _ in 0..1 + self.rng.below(3) {
            let (node, rng) = (self.nodes.get_mut(&id).expect("a node"), &mut self.rng);
            if let Some((path, at)) = node.disk.flip_bit(rng) {
                self.say(Mark::Fault, |_| {
                    format!("a bit flips in byte {at} of {}", path.display())
                });
            }
        }
    }

    fn rebuild(&mut self, id: u64) {
        if self.boot(id).is_none() || !self.bears_loss_of(id) {
            return;
        }
        self.note_loss();
        self.node(id).disk.was_asked_to_rebuild = true;
        self.order(id, Operation::Rebuild, (50, 2 * MS));
    }

    /// The node is told to do something, after a while, and nobody waits for the answer.
    fn order(&mut self, node: u64, operation: Operation, wait_us: (u64, u64)) {
        let Some(boot) = self.boot(node) else {
            return;
        };
        let (answers, _) = tokio::sync::mpsc::unbounded_channel();
        let requests = vec![Request { ticket: 0, operation }];
        let submission = Submission { requests, answers };
        self.after(
            wait_us.0,
            wait_us.1,
            Event::Submit {
                node,
                boot,
                submission,
            },
        );
    }

    fn end_some(&mut self, fault: Fault, id: u64) {
        let ids: Vec<u64> = match fault {
            Fault::Blackout => self.nodes.keys().copied().collect(),
            _ => vec![id],
        };
        let end = match fault {
            Fault::PowerFailure | Fault::Blackout => End::PowerFailed,
            _ => End::Killed,
        };
        for id in ids {
            if self.boot(id).is_none() {
                continue;
            }
            if fault == Fault::Stop {
                self.node(id).stop();
                self.carry(id);
            }
            self.end(id, end);
        }
    }
}
