//! Whole clusters under a seed: loss, duplication, reordering, crashes that lose what was not durable, slow disks,
//! partitions of one or both ways, closed connections, hand-overs and reads. The world checks safety after every
//! step; when the faults stop, the cluster must come back to life.
//!
//! A seed that fails prints itself; `SEED=…` runs it alone.

use std::collections::BTreeMap;

use super::super::{Envelope, NodeId};
use super::world::{ELECTION_TIMEOUT_MS, HEARTBEAT_INTERVAL_MS, World};
use crate::base::rng::Rng;

const SEEDS: u64 = 200;
const STEPS: u64 = 800;

#[test]
fn random_worlds_of_three_are_safe_and_live() {
    run_seeds(3);
}

#[test]
fn random_worlds_of_five_are_safe_and_live() {
    run_seeds(5);
}

fn run_seeds(n: u64) {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|value: String| value.parse().expect("a number"))
    };
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    };
    let mut installs = BTreeMap::<(bool, bool), u64>::new();
    let all = seeds.end - seeds.start >= SEEDS;
    for seed in seeds {
        match std::panic::catch_unwind(|| Chaos::new(n, seed).run()) {
            Ok(seen) => {
                for (way, count) in seen {
                    *installs.entry(way).or_default() += count;
                }
            }
            Err(panic) => {
                println!("SEED={seed} with {n} servers fails");
                std::panic::resume_unwind(panic);
            }
        }
    }
    let seen = [(false, false), (false, true)].map(|way| installs.contains_key(&way));
    assert!(
        !all || seen == [true, true],
        "snapshots were installed only {installs:?}"
    );
}

struct Chaos {
    world: World,
    rng: Rng,
    n: u64,
    /// How bad the network of this seed is: a message in so many is lost, or comes twice.
    loss: u64,
    /// The server, if any, for which time stands still: it still believes what the others have given up.
    slow: Option<u64>,
    /// Copies that come when nobody expects them any more, also after restarts.
    late: Vec<Envelope>,
    tickets: u64,
    proposals: u64,
}

impl Chaos {
    fn new(n: u64, seed: u64) -> Chaos {
        let mut rng = Rng::new(seed);
        let loss = [0, 5, 20, 100][rng.below(4) as usize];
        let mut world = World::new(n, seed);
        if rng.one_in(4) {
            world.max_log_bytes = 600;
        }
        if rng.one_in(2) {
            world.max_append_bytes = 1;
            for id in 1..=n {
                world.crash(id);
                world.restart(id);
            }
        }
        Chaos {
            world,
            rng,
            n,
            loss,
            slow: None,
            late: Vec::new(),
            tickets: 0,
            proposals: 0,
        }
    }

    /// Says in which ways snapshots were installed.
    fn run(mut self) -> BTreeMap<(bool, bool), u64> {
        for _ in 0..STEPS {
            self.step();
        }
        self.recover();
        self.world.installs
    }

    fn any(&mut self) -> u64 {
        1 + self.rng.below(self.n)
    }

    fn any_up(&mut self) -> Option<u64> {
        let id = self.any();
        self.world.is_up(id).then_some(id)
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..50 => self.network(),
            50..60 => self.time(),
            60..72 => {
                let id = self.any();
                self.world.persist(id);
            }
            72..83 => self.client(),
            83..86 => self.snapshot(),
            86..93 => self.link(),
            93..96 => self.silence(),
            _ => self.process(),
        }
    }

    /// Everything under way is lost, and time goes on until somebody asks for votes; some of those who had lost
    /// their leader before lead now, with logs that end differently.
    fn silence(&mut self) {
        let slow = self.world.leader().filter(|_| self.rng.one_in(2));
        self.slow = slow.or(self.slow).filter(|_| !self.rng.one_in(3));
        if let Some(id) = slow.filter(|_| self.rng.one_in(2)) {
            self.world.isolate(id);
        }
        let kept = self.rng.below(1 + self.world.network.len() as u64);
        self.late
            .extend(self.world.network.drain(kept as usize..).take(3));
        self.pass(ELECTION_TIMEOUT_MS + self.rng.clone().below(ELECTION_TIMEOUT_MS));
        for _ in 0..self.rng.below(12 * self.n) {
            self.network();
        }
    }

    fn pass(&mut self, ms: u64) {
        for id in self.world.ids() {
            if self.slow != Some(id) {
                self.world.tick_one(id, ms);
            }
        }
    }

    /// One of the first few messages arrives, or is lost, or comes again later.
    fn network(&mut self) {
        if self.rng.one_in(20) && !self.late.is_empty() {
            let pick = self.rng.below(self.late.len() as u64) as usize;
            let envelope = self.late.swap_remove(pick);
            return self.world.arrive(envelope);
        }
        let reach = if self.rng.one_in(4) { u64::MAX } else { 3 };
        let pick = self.rng.below(reach.min(self.world.network.len() as u64)) as usize;
        if self.world.network.is_empty() {
            return;
        }
        if self.rng.one_in(self.loss) {
            self.world.network.remove(pick);
        } else if self.rng.one_in(self.loss) {
            let again = self.world.network[pick].clone();
            match self.rng.below(2) {
                0 => self.world.network.push(again),
                _ => self.late.push(again),
            }
        } else {
            self.world.deliver(pick);
        }
    }

    fn time(&mut self) {
        let ms = if self.rng.one_in(8) {
            ELECTION_TIMEOUT_MS
        } else {
            60
        };
        let ms = 1 + self.rng.below(ms);
        if self.rng.one_in(3) {
            let id = self.any();
            self.world.tick_one(id, ms);
        } else {
            self.pass(ms);
        }
    }

    fn client(&mut self) {
        let Some(id) = self.any_up() else { return };
        let leads = |id: &u64| self.world.is_up(*id) && self.world.raft(*id).is_leader();
        let leaders: Vec<u64> = self.world.ids().into_iter().filter(leads).collect();
        let id = match self.rng.below(1 + leaders.len() as u64) as usize {
            0 => id,
            i => leaders[i - 1],
        };
        match self.rng.below(10) {
            0..5 => {
                self.proposals += 1;
                let _ = self.world.propose(id, &format!("command {}", self.proposals));
            }
            5..9 => {
                self.tickets += 1;
                self.world.read(id, self.tickets);
            }
            _ => {
                let target = Some(NodeId(self.any())).filter(|_| self.rng.one_in(2));
                let _ = self.world.with(id, |raft| raft.transfer(target));
            }
        }
    }

    /// Somebody takes a snapshot, or its process ends between the file and the log; what has arrived is installed or
    /// has to wait.
    fn snapshot(&mut self) {
        let Some(id) = self.any_up() else { return };
        let kept = if self.rng.one_in(2) { 0 } else { self.rng.below(12) };
        match self.rng.below(12) {
            0 => {
                self.world.write_snapshot(id);
                self.world.crash(id);
            }
            1 | 2 => self.world.server(id).holds_install = true,
            3..5 => self.world.release_install(id),
            5 => {
                let last = self.world.raft(id).snapshot().last;
                self.world.with(id, |raft| raft.snapshot_lost(last));
            }
            6 => self.lag(id),
            _ => self.world.take_snapshot(id, kept),
        }
    }

    /// What is under way to this server is lost, the others go on, and its leader drops what it would need; its disk
    /// may be slow and what arrives may have to wait, while another leader, with another log, comes.
    fn lag(&mut self, id: u64) {
        self.end_faults();
        let leads = |world: &World| {
            let leader = world.leader()?;
            world.raft(leader).has_committed_in_term().then_some(leader)
        };
        for _ in 0..60 {
            if leads(&self.world).is_none() {
                self.world.tick(ELECTION_TIMEOUT_MS / 10);
                self.world.settle();
            }
        }
        let Some(leader) = leads(&self.world).filter(|leader| *leader != id) else {
            return;
        };
        self.world.server(id).holds_install = self.rng.one_in(2);
        self.world.server(id).disk.is_held = self.rng.one_in(2);
        for _ in 0..1 + self.rng.below(4) {
            let _ = self.world.propose(leader, "more");
            self.world.network.retain(|envelope| envelope.to.0 != id);
            self.world.settle_without(id);
        }
        self.world.take_snapshot(leader, 0);
        self.world.connect(leader, id);
        self.burst();
        let next = self.any();
        if self.rng.one_in(2) && next != id && self.world.is_up(next) {
            let _ = self.world.with(leader, |raft| raft.transfer(Some(NodeId(next))));
            self.burst();
        }
        self.world.release_install(id);
    }

    fn link(&mut self) {
        let (a, b) = (self.any(), self.any());
        match self.rng.below(10) {
            _ if a == b => {}
            0..2 => self.world.cut(a, b),
            2 => {
                self.world.cut(a, b);
                self.world.cut(b, a);
            }
            3 => self.world.isolate(a),
            4..7 => self.world.heal(),
            7..9 => self.world.connect(a, b),
            _ if self.world.is_up(a) => self.world.closed(a, b),
            _ => {}
        }
    }

    fn process(&mut self) {
        let id = self.any();
        match (self.world.is_up(id), self.rng.below(6)) {
            (true, 0) => self.world.crash(id),
            (true, 1) => self.world.crash_after_write(id),
            (true, 2 | 3) => self.world.server(id).disk.is_held = true,
            (true, _) => self.world.release_disk(id),
            (false, _) => self.world.restart(id),
        }
    }

    /// Much is delivered in a short time.
    fn burst(&mut self) {
        for _ in 0..self.rng.below(150) {
            if self.rng.one_in(30) {
                self.pass(HEARTBEAT_INTERVAL_MS);
            }
            self.network();
        }
    }

    /// The faults stop. Within ten election timeouts there is a leader, what it is given is committed
    /// everywhere, and every read is answered.
    fn recover(&mut self) {
        self.end_faults();
        self.idle(6 * ELECTION_TIMEOUT_MS);
        let leader = self.world.leader().expect("no leader");
        let all = self.world.raft(leader).status().last_log.index.0;
        for id in self.world.ids() {
            assert_eq!(
                self.world.commit_index(id),
                all,
                "server {id} does not learn what is committed"
            );
            self.tickets += 1;
            self.world.read(id, self.tickets);
        }
        self.world.settle();
        for id in self.world.ids() {
            assert!(
                self.world.reads.iter().any(|read| read.0 == id),
                "server {id} can't read"
            );
        }
        let entry = self
            .world
            .propose(leader, "the end")
            .expect("the leader takes no proposal");
        self.idle(4 * ELECTION_TIMEOUT_MS);
        for id in self.world.ids() {
            assert_eq!(
                self.world.commit_index(id),
                entry.index.0,
                "server {id} does not commit"
            );
            assert_eq!(self.world.server(id).applied.len() as u64, entry.index.0);
        }
        assert_eq!(self.world.invariants.commit_index(), entry.index);
    }

    fn end_faults(&mut self) {
        self.world.heal();
        for id in self.world.ids() {
            if !self.world.is_up(id) {
                self.world.restart(id);
            }
            self.world.release_disk(id);
            self.world.release_install(id);
        }
        self.world.settle();
    }

    fn idle(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.world.tick(10);
            self.world.settle();
            self.world.take_needed_snapshots();
        }
    }
}
