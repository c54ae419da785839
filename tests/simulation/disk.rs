//! One node's disk: the real storage on a simulated file system, one job at a time, each of which takes a while.
//!
//! A [`Disk`] outlives the processes that use it. It remembers what it has said to be durable, so that every start
//! can be compared with it: a recovered log is exactly that, with or without the batch that was being written.

use std::collections::VecDeque;
use std::path::PathBuf;

use raftline::base::rng::Rng;
use raftline::raft::{Batch, EntryId, HardState, Index, NodeId};
use raftline::storage::fs::SimFs;
use raftline::storage::{Options, Recovered, Storage};

/// What a disk is asked for.
pub enum Job {
    Persist(Batch),
    SetClusterId([u8; 16]),
    MeasureFreeSpace,
}

/// What came of a job.
pub enum Done {
    Persisted,
    ClusterIdSet,
    FreeSpace(u64),
    /// The process has to end.
    Failed(String),
}

/// How a process ended, as the disk sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// What was not synced is lost, any of it.
    PowerFailed,
    /// The kernel lives and keeps what was written.
    Killed,
}

/// What was said to be durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    pub hard_state: HardState,
    /// The names of all entries, from index 1 on.
    pub log: Vec<EntryId>,
}

pub struct Disk {
    fs: SimFs,
    options: Options,
    storage: Option<Storage<SimFs>>,
    jobs: VecDeque<Job>,
    durable: Durable,
    /// What the last write has replaced.
    pub replaced: Vec<EntryId>,
    /// A failure was asked for, or there is little room.
    fails: bool,
    is_full: bool,
    /// What the last process was writing when it ended.
    interrupted: Option<Durable>,
    /// A job takes at least this long, and at most that long.
    pub latency_us: (u64, u64),
    /// When the job at hand is done.
    due: Option<u64>,
    /// The job at hand, or the next one, takes so much longer.
    hangs_us: u64,
}

impl Durable {
    fn of(recovered: &Recovered<SimFs>) -> Durable {
        Durable {
            hard_state: recovered.hard_state,
            log: recovered.entries.iter().map(|entry| entry.id).collect(),
        }
    }

    fn with(&self, batch: &Batch) -> Durable {
        let mut after = self.clone();
        after.take(batch);
        after
    }

    /// What the batch replaces.
    fn take(&mut self, batch: &Batch) -> Vec<EntryId> {
        self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
        let Some(first) = batch.entries.first() else {
            return Vec::new();
        };
        let kept = first.id.index.prev().0 as usize;
        assert!(kept <= self.log.len(), "log: a batch leaves a hole in it");
        let replaced = self.log.split_off(kept);
        self.log.extend(batch.entries.iter().map(|entry| entry.id));
        replaced.into_iter().filter(|id| !self.holds(*id)).collect()
    }

    pub fn holds(&self, id: EntryId) -> bool {
        id.index == Index(0) || self.log.get(id.index.prev().0 as usize) == Some(&id)
    }
}

impl Disk {
    pub fn new(node: u64, rng: &mut Rng) -> Disk {
        let options = Options {
            dir: PathBuf::from("data"),
            node_id: NodeId(node),
            segment_size_bytes: [8 << 10, 16 << 10, 64 << 10][rng.below(3) as usize],
            fsync: true,
        };
        Disk {
            fs: SimFs::new(),
            options,
            storage: None,
            jobs: VecDeque::new(),
            durable: Durable::default(),
            replaced: Vec::new(),
            fails: false,
            is_full: false,
            interrupted: None,
            latency_us: (0, 0),
            due: None,
            hangs_us: 0,
        }
    }

    /// A process opens the data folder. `Err`: the disk refused, which it may while a failure was asked for.
    pub fn open(&mut self, rng: &mut Rng) -> Result<Recovered<SimFs>, String> {
        let opened = Storage::open(self.fs.clone(), &self.options, rng.next_u64());
        let (storage, recovered) = opened.map_err(|error| error.to_string())?;
        self.fails = false;
        let found = Durable::of(&recovered);
        let interrupted = self.interrupted.take();
        assert!(
            found == self.durable || Some(&found) == interrupted.as_ref(),
            "recovery: node {} recovered {:?} with {} entries up to {:?}; durable was {:?} with {} entries up to {:?}",
            self.options.node_id,
            found.hard_state,
            found.log.len(),
            found.log.last(),
            self.durable.hard_state,
            self.durable.log.len(),
            self.durable.log.last(),
        );
        self.durable = found;
        self.storage = Some(storage);
        Ok(recovered)
    }

    /// What is certainly on the disk.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// Takes a job. If it is the only one, it begins now; until when.
    pub fn push(&mut self, job: Job, now: u64, rng: &mut Rng) -> Option<u64> {
        self.jobs.push_back(job);
        if self.jobs.len() > 1 {
            return None;
        }
        self.begin(now, rng);
        self.due
    }

    /// The job at the front begins.
    fn begin(&mut self, now: u64, rng: &mut Rng) {
        let (least, most) = self.latency_us;
        let hangs_us = std::mem::take(&mut self.hangs_us);
        let duration = least + rng.below(1 + most - least) + hangs_us;
        self.due = (!self.jobs.is_empty()).then_some(now + duration);
    }

    /// When the job at hand is done.
    pub fn due(&self) -> Option<u64> {
        self.due
    }

    /// The job at hand, or the next one, hangs. When the one at hand is done now.
    pub fn hang(&mut self, us: u64) -> Option<u64> {
        match &mut self.due {
            Some(due) => *due += us,
            None => self.hangs_us = us,
        }
        self.due
    }

    /// What hangs goes on. When the job at hand is done now.
    pub fn hurry(&mut self, now: u64) -> Option<u64> {
        const SOON_US: u64 = 1000;
        self.hangs_us = 0;
        self.due = self.due.map(|due| due.min(now + SOON_US));
        self.due
    }

    /// The job at the front is done; and when the next one is, where there is one.
    pub fn finish(&mut self, now: u64, rng: &mut Rng) -> (Done, Option<u64>) {
        let job = self.jobs.pop_front().expect("a job ends that never began");
        let storage = self.storage.as_mut().expect("a job of no process");
        let done = match job {
            Job::Persist(batch) => match storage.persist(&batch) {
                Ok(()) => {
                    self.replaced = self.durable.take(&batch);
                    Done::Persisted
                }
                Err(error) => {
                    self.interrupted = Some(self.durable.with(&batch));
                    Done::Failed(error.to_string())
                }
            },
            Job::SetClusterId(cluster_id) => match storage.set_cluster_id(cluster_id) {
                Ok(()) => Done::ClusterIdSet,
                Err(error) => Done::Failed(error.to_string()),
            },
            Job::MeasureFreeSpace => Done::FreeSpace(storage.free_space_bytes().expect("it always says")),
        };
        self.begin(now, rng);
        (done, self.due)
    }

    /// The process is gone, perhaps in the midst of a write.
    pub fn abandon(&mut self, end: End, rng: &mut Rng) {
        if let (Some(storage), Some(Job::Persist(batch))) = (&mut self.storage, self.jobs.front())
            && rng.one_in(2)
        {
            self.interrupted = Some(self.durable.with(batch));
            self.fs.power_fails_at(1 + rng.below(4));
            let _ = storage.persist(batch);
        }
        self.jobs.clear();
        (self.due, self.hangs_us) = (None, 0);
        self.storage = None;
        match end {
            End::PowerFailed => self.fs.crash(rng.next_u64()),
            End::Killed => self.fs.kill_process(),
        }
    }

    /// One of the next writes or syncs is an error.
    pub fn fail_soon(&mut self, rng: &mut Rng) {
        let n = 1 + rng.below(5);
        self.fails = true;
        if rng.one_in(2) {
            self.fs.write_fails_at(n);
        } else {
            self.fs.sync_fails_at(n);
        }
    }

    /// There is hardly any room left.
    pub fn fill(&mut self, rng: &mut Rng) {
        self.is_full = true;
        self.fs.set_free_space_bytes(Some(rng.below(20 << 10)));
    }

    /// Whether a failure since the process began was to be expected.
    pub fn may_fail(&self) -> bool {
        self.fails || self.is_full
    }

    /// Nothing that was asked for fails any more, and there is room again.
    pub fn mend(&mut self) {
        const NEVER: u64 = 1 << 40;
        self.fails |= self.is_full;
        self.is_full = false;
        self.fs.write_fails_at(NEVER);
        self.fs.sync_fails_at(NEVER);
        self.fs.set_free_space_bytes(None);
    }
}
