//! The network between the nodes: connections that break and are made again, links that are cut one way or both,
//! and packets that are late, lost, doubled or overtaken.
//!
//! Each pair of nodes has two connections, as in `raftline::transport`: requests travel on the one that their sender
//! dialed, answers go back on it. In some worlds the network is no worse than TCP: messages of the core keep their
//! order and are lost only with their connection or on a cut link. In the others they may be lost, doubled and
//! overtaken at any time, and arrive after their connection has ended and its ends have been restarted: the core
//! claims to bear all of that. Calls are promised more, so they always behave as on TCP.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use raftline::base::rng::Rng;
use raftline::raft::{Envelope, Index};
use raftline::transport::Claim;

/// What travels.
#[derive(Clone)]
pub struct Packet {
    pub from: u64,
    pub to: u64,
    /// Which process it is for.
    pub boot: u64,
    /// Which data folders are at both ends.
    pub lives: (u64, u64),
    /// The connection that carries it, or did when it left.
    pub connection: u64,
    pub body: Body,
}

#[derive(Clone)]
pub enum Body {
    Message(Envelope),
    Call { sequence: u64, order: Bytes },
    Answer { sequence: u64, reply: Bytes },
    StateHash(Index, u64),
}

/// How the network of one world is.
#[derive(Clone, Debug)]
pub struct Style {
    /// A packet takes at least this long, and at most that long.
    pub delay_us: (u64, u64),
    /// One packet in so many takes up to 50 times as long.
    pub late_one_in: u64,
    /// One message in so many is lost, and one comes twice; 0 is never.
    pub lost_one_in: u64,
    pub twice_one_in: u64,
    /// Messages keep their order.
    pub is_tcp: bool,
}

#[derive(Clone, Copy)]
struct Connection {
    number: u64,
    /// Which processes are at its ends.
    boots: (u64, u64),
    /// What they said of themselves.
    claims: (Claim, Claim),
}

/// A connection that has ended.
pub struct Closed {
    /// Which processes were at its ends.
    pub boots: (u64, u64),
    /// The dialer's calls that end with it, and whether they may have arrived.
    pub calls: Vec<(u64, bool)>,
}

/// A call that waits for its answer.
struct Call {
    connection: u64,
    written: bool,
}

pub struct Network {
    pub style: Style,
    /// Links, from and to, on which nothing arrives.
    cut: BTreeSet<(u64, u64)>,
    /// By who dialed whom.
    connections: BTreeMap<(u64, u64), Connection>,
    connections_made: u64,
    /// When the last message of an ordered link arrives.
    last_arrival: BTreeMap<(u64, u64), u64>,
    /// By caller and sequence.
    calls: BTreeMap<(u64, u64), Call>,
    /// Some messages of the past, where they may be heard again.
    said: VecDeque<Packet>,
}

/// So many messages are remembered.
const SAID_MAX: usize = 400;

impl Network {
    pub fn new(rng: &mut Rng) -> Network {
        let is_tcp = rng.one_in(2);
        let bad = [0, 200, 30, 8];
        let mut pick = |of: &[u64]| of[rng.below(of.len() as u64) as usize];
        let style = Style {
            delay_us: (50, pick(&[200, 1000, 5000, 30_000])),
            late_one_in: pick(&[0, 1000, 100, 20]),
            lost_one_in: if is_tcp { 0 } else { pick(&bad) },
            twice_one_in: if is_tcp { 0 } else { pick(&bad) },
            is_tcp,
        };
        Network {
            style,
            cut: BTreeSet::new(),
            connections: BTreeMap::new(),
            connections_made: 0,
            last_arrival: BTreeMap::new(),
            calls: BTreeMap::new(),
            said: VecDeque::new(),
        }
    }

    /// Remembers a message, if messages may be heard twice here.
    pub fn remember(&mut self, packet: &Packet, rng: &mut Rng) {
        if self.style.twice_one_in == 0 || !rng.one_in(8) {
            return;
        }
        self.said.push_back(packet.clone());
        if self.said.len() > SAID_MAX {
            self.said.pop_front();
        }
    }

    /// What was said to this node and may be heard again.
    pub fn said_to(&self, node: u64) -> Vec<Packet> {
        self.said
            .iter()
            .filter(|packet| packet.to == node)
            .cloned()
            .collect()
    }

    pub fn delay_us(&self, rng: &mut Rng) -> u64 {
        let (least, most) = self.style.delay_us;
        let delay = least + rng.below(most - least);
        if rng.one_in(self.style.late_one_in) {
            delay * (1 + rng.below(50))
        } else {
            delay
        }
    }

    /// When a message that is sent now arrives; none, one or two copies.
    pub fn arrivals(&mut self, now: u64, from: u64, to: u64, rng: &mut Rng) -> Vec<u64> {
        let at = now + self.delay_us(rng);
        if self.style.is_tcp {
            let last = self.last_arrival.entry((from, to)).or_default();
            *last = at.max(*last + 1);
            return vec![*last];
        }
        let mut arrivals = Vec::new();
        if !rng.one_in(self.style.lost_one_in) {
            arrivals.push(at);
        }
        if rng.one_in(self.style.twice_one_in) {
            let later = [1, 100, 3000][rng.below(3) as usize];
            arrivals.push(now + self.delay_us(rng) * later);
        }
        arrivals
    }

    pub fn cut(&mut self, from: u64, to: u64) {
        self.cut.insert((from, to));
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cut.contains(&(from, to))
    }

    fn is_cut_either_way(&self, a: u64, b: u64) -> bool {
        self.is_cut(a, b) || self.is_cut(b, a)
    }

    /// Whether packets pass both ways, and there is no connection yet.
    pub fn may_dial(&self, from: u64, to: u64) -> bool {
        !self.is_cut_either_way(from, to) && !self.connections.contains_key(&(from, to))
    }

    /// A connection is made.
    pub fn connect(&mut self, from: u64, to: u64, boots: (u64, u64), claims: (Claim, Claim)) {
        self.connections_made += 1;
        let connection = Connection {
            number: self.connections_made,
            boots,
            claims,
        };
        self.connections.insert((from, to), connection);
    }

    /// Each connection with a node, by who dialed whom, and what its other end has said of itself.
    pub fn partners(&self, id: u64) -> Vec<((u64, u64), Claim)> {
        let partner = |(pair, connection): (&(u64, u64), &Connection)| match *pair {
            (from, _) if from == id => Some((*pair, connection.claims.1)),
            (_, to) if to == id => Some((*pair, connection.claims.0)),
            _ => None,
        };
        self.connections.iter().filter_map(partner).collect()
    }

    /// The number of the connection that `from` has dialed.
    pub fn dialed(&self, from: u64, to: u64) -> Option<u64> {
        self.connections
            .get(&(from, to))
            .map(|connection| connection.number)
    }

    /// The pairs that are connected, who dialed first.
    pub fn connected(&self) -> Vec<(u64, u64)> {
        self.connections.keys().copied().collect()
    }

    /// The connections that do not notice by themselves that they lead nowhere: on a cut link, or with an end whose
    /// process is no more.
    pub fn stale(&self, boot: impl Fn(u64) -> Option<u64>) -> Vec<(u64, u64)> {
        let is_stale = |((from, to), connection): (&(u64, u64), &Connection)| {
            let (a, b) = connection.boots;
            self.is_cut_either_way(*from, *to) || boot(*from) != Some(a) || boot(*to) != Some(b)
        };
        let stale = self
            .connections
            .iter()
            .filter(|(pair, connection)| is_stale((pair, connection)));
        stale.map(|(pair, _)| *pair).collect()
    }

    /// The connection ends; `None` if there is none.
    pub fn close(&mut self, from: u64, to: u64) -> Option<Closed> {
        let closed = self.connections.remove(&(from, to))?;
        let ends = |(caller, call): (u64, &Call)| caller == from && call.connection == closed.number;
        let calls = self
            .calls
            .iter()
            .filter(|((caller, _), call)| ends((*caller, call)));
        let ended: Vec<(u64, bool)> = calls
            .map(|((_, sequence), call)| (*sequence, call.written))
            .collect();
        for (sequence, _) in &ended {
            self.calls.remove(&(from, *sequence));
        }
        Some(Closed {
            boots: closed.boots,
            calls: ended,
        })
    }

    pub fn call(&mut self, from: u64, sequence: u64, connection: u64, written: bool) {
        self.calls.insert((from, sequence), Call { connection, written });
    }

    /// The call is over; whether it may have arrived. `None` if it was over already.
    pub fn end_call(&mut self, from: u64, sequence: u64, connection: u64) -> Option<bool> {
        let call = self.calls.get(&(from, sequence))?;
        (call.connection == connection).then_some(())?;
        self.calls.remove(&(from, sequence)).map(|call| call.written)
    }

    pub fn cancel(&mut self, from: u64, sequence: u64) {
        self.calls.remove(&(from, sequence));
    }

    /// The process is gone, and with it what it waited for.
    pub fn forget(&mut self, node: u64) {
        self.calls.retain(|(caller, _), _| *caller != node);
    }
}
