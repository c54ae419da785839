//! One node's disk: the real storage on a simulated file system, and the jobs of the threads that write to it, each
//! of which takes a while.
//!
//! There are three lanes, as there are three threads: the log's, the chunks' and that of the own snapshots. Each does
//! one job at a time. A snapshot is written chunk by chunk while the log goes on, and a crash may fall between any
//! two steps of it, or into one of each lane.
//!
//! A [`Disk`] outlives the processes that use it. It remembers what it has said to be durable, so that every start
//! can be compared with it: a recovered log is exactly that, with or without the batch that was being written, and
//! with or without the snapshot that was just getting its name. Only a disk whose bits were flipped, or whose node
//! was to be rebuilt, may have forgotten it, and must then say so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use raftline::base::rng::Rng;
use raftline::kv::View;
use raftline::node::{Filled, Incoming, Loaded, Outgoing, SnapshotEvent, Stored, open, persist_batch};
use raftline::raft::{
    self, Batch, EntryId, Envelope, HardState, Index, Membership, Message, NodeId, SnapshotHeader,
};
use raftline::storage::fs::{Fs, SimFs};
use raftline::storage::{Committed, Options, SnapshotWriter, Storage, Superfluous};

/// What a disk is asked for.
pub enum Job {
    Persist(Batch),
    Adopt(Committed, EntryId),
    SetClusterId([u8; 16]),
    MeasureFreeSpace,
    MarkRebuild,
    ClearRecovering,
    /// Fills a chunk in.
    SendChunk(Envelope),
    StoreChunk(Envelope),
    Take(Box<Taking>),
    Remove(Superfluous<SimFs>),
}

/// A snapshot being written.
pub struct Taking {
    header: SnapshotHeader,
    view: View,
    /// What there is of it, once it has begun.
    writer: Option<SnapshotWriter<SimFs>>,
}

impl Taking {
    pub fn new(header: SnapshotHeader, view: View) -> Taking {
        Taking {
            header,
            view,
            writer: None,
        }
    }
}

/// Jobs that wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    Log,
    Chunks,
    Snapshots,
}

pub const LANES: [Lane; 3] = [Lane::Log, Lane::Chunks, Lane::Snapshots];

impl Job {
    pub fn lane(&self) -> Lane {
        match self {
            Job::SendChunk(_) | Job::StoreChunk(_) => Lane::Chunks,
            Job::Take(_) | Job::Remove(_) => Lane::Snapshots,
            _ => Lane::Log,
        }
    }
}

/// What came of a job.
pub enum Done {
    Persisted,
    FreeSpace(u64),
    MarkedRebuild,
    Snapshot(SnapshotEvent),
    /// Is to be sent.
    Chunk(Envelope),
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
    /// The newest snapshot.
    pub snapshot: EntryId,
    /// The log begins after this entry, which a snapshot covers.
    pub base: EntryId,
    /// The names of all its entries.
    pub log: Vec<EntryId>,
}

impl Durable {
    fn of(recovered: &raft::Recovered) -> Durable {
        Durable {
            hard_state: recovered.hard_state,
            snapshot: recovered.snapshot,
            base: recovered.snapshot,
            log: recovered.entries.iter().map(|entry| entry.id).collect(),
        }
    }

    /// The entry at an index; `None` where there is none, or only in a snapshot.
    pub fn at(&self, index: Index) -> Option<EntryId> {
        match index.0.checked_sub(self.base.index.0)? {
            0 => Some(self.base),
            offset => self.log.get(offset as usize - 1).copied(),
        }
    }

    /// Whether the entry is in the log, or before it: a snapshot covers nothing but what is committed.
    pub fn holds(&self, id: EntryId) -> bool {
        id.index < self.base.index || self.at(id.index) == Some(id)
    }

    pub fn last(&self) -> EntryId {
        self.log.last().copied().unwrap_or(self.base)
    }

    /// A leader's snapshot takes the place of the log, unless that holds its last entry. What goes.
    fn install(&mut self, last: EntryId) -> Vec<EntryId> {
        if last.index > self.snapshot.index {
            self.snapshot = last;
        }
        if self.holds(last) {
            return Vec::new();
        }
        self.base = last;
        if last.term > self.hard_state.term {
            self.hard_state = HardState {
                term: last.term,
                vote: None,
            };
        }
        let gone = std::mem::take(&mut self.log);
        gone.into_iter().filter(|id| id.index > last.index).collect()
    }

    /// What the batch replaces.
    fn take(&mut self, batch: &Batch) -> Vec<EntryId> {
        let mut replaced = batch.install.map_or(Vec::new(), |last| self.install(last));
        self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
        let Some(first) = batch.entries.first() else {
            return replaced;
        };
        let kept = first.id.index.prev().0.checked_sub(self.base.index.0);
        let kept = kept.expect("log: a batch replaces what a snapshot covers") as usize;
        assert!(kept <= self.log.len(), "log: a batch leaves a hole in it");
        replaced.extend(self.log.split_off(kept));
        self.log.extend(batch.entries.iter().map(|entry| entry.id));
        replaced.into_iter().filter(|id| !self.holds(*id)).collect()
    }

    /// What a start finds, if this is the newest snapshot: that one, and the log after it.
    fn starting_at(&self, last: EntryId) -> Durable {
        let mut after = self.clone();
        after.install(last);
        let begin = last.index.0.saturating_sub(after.base.index.0) as usize;
        after.log.drain(..begin.min(after.log.len()));
        (after.base, after.snapshot) = (last, last);
        after
    }
}

/// A step of writing a snapshot.
enum Step {
    Go(SnapshotWriter<SimFs>),
    End(Committed),
}

/// Whether something that is written once is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Written {
    #[default]
    No,
    Perhaps,
    Yes,
}

/// What a process does with its disk.
struct Running {
    storage: Storage<SimFs>,
    outgoing: Outgoing<SimFs>,
    incoming: Incoming<SimFs>,
}

pub struct Disk {
    fs: SimFs,
    options: Options,
    running: Option<Running>,
    jobs: BTreeMap<Lane, VecDeque<Job>>,
    /// When the job at hand of each lane is done.
    due: BTreeMap<Lane, u64>,
    durable: Durable,
    /// What the last write has replaced.
    pub replaced: Vec<EntryId>,
    /// A failure was asked for, or there is little room.
    fails: bool,
    is_full: bool,
    /// What may be there instead, because the last process was just writing it.
    interrupted: Vec<Durable>,
    /// Snapshots that may have got their names, and all that ever had one.
    perhaps: BTreeSet<EntryId>,
    named: BTreeSet<EntryId>,
    /// Bits were flipped since the last start; or in the log's folder, since the log was last set aside: no start reads
    /// what is behind a seal, or in a spare, before it is in the last segment.
    is_damaged: bool,
    is_log_damaged: bool,
    /// The node was to be rebuilt; the disk says so.
    pub was_asked_to_rebuild: bool,
    rejected: Written,
    /// What was lost is not here again; and whether the disk says no more so.
    is_recovering: bool,
    cleared: Written,
    /// What the node had acknowledged before it lost it, until it has it again; and whether it says that it lacks it,
    /// so that nothing else counts of what it has.
    lost: Option<Durable>,
    lacks: bool,
    pub recoveries: u64,
    pub installed: u64,
    /// A job takes at least this long, and at most that long; those of snapshots so many times as long.
    pub latency_us: (u64, u64),
    snapshots_slower: u64,
    /// After so many jobs of a lane, the next one takes so much longer.
    hangs: BTreeMap<Lane, (u64, u64)>,
    /// A chunk of a snapshot is full from here on.
    chunk_bytes: usize,
}

const NEVER: u64 = 1 << 40;

/// So many chunks may wait, as in production.
const CHUNKS_MAX: usize = 64;

impl Disk {
    pub fn new(node: u64, chunk_bytes: usize, rng: &mut Rng) -> Disk {
        let options = Options {
            dir: PathBuf::from("data"),
            node_id: NodeId(node),
            segment_size_bytes: [8 << 10, 16 << 10, 64 << 10][rng.below(3) as usize],
            fsync: true,
        };
        Disk {
            fs: SimFs::new(),
            options,
            running: None,
            jobs: BTreeMap::new(),
            due: BTreeMap::new(),
            durable: Durable::default(),
            replaced: Vec::new(),
            fails: false,
            is_full: false,
            interrupted: Vec::new(),
            perhaps: BTreeSet::new(),
            named: BTreeSet::new(),
            is_damaged: false,
            is_log_damaged: false,
            was_asked_to_rebuild: false,
            rejected: Written::No,
            is_recovering: false,
            cleared: Written::No,
            lost: None,
            lacks: false,
            recoveries: 0,
            installed: 0,
            latency_us: (0, 0),
            snapshots_slower: [1, 10, 100][rng.below(3) as usize],
            hangs: BTreeMap::new(),
            chunk_bytes,
        }
    }

    /// A process opens the data folder. `Err`: the disk refused, which it may while a failure was asked for.
    /// `may_crash`: the power may fail meanwhile.
    pub fn open(
        &mut self,
        membership: Membership,
        may_crash: bool,
        rng: &mut Rng,
    ) -> Result<Loaded<SimFs>, String> {
        if may_crash && rng.one_in(8) {
            self.fs.power_fails_at(1 + rng.below(20));
        }
        let opened = open(self.fs.clone(), &self.options, rng.next_u64(), membership);
        self.fs.power_fails_at(NEVER);
        let loaded = opened.map_err(|error| {
            self.fs.crash(rng.next_u64());
            error.to_string()
        })?;
        self.fails = false;
        self.check_start(&loaded.recovered);
        self.interrupted.clear();
        self.perhaps.clear();
        (self.is_damaged, self.was_asked_to_rebuild) = (self.is_log_damaged, false);
        (self.rejected, self.cleared) = (Written::No, Written::No);
        Ok(loaded)
    }

    /// The process works with what it has opened.
    pub fn run(&mut self, storage: Storage<SimFs>) {
        let snapshots = storage.snapshots();
        self.running = Some(Running {
            storage,
            outgoing: Outgoing::new(snapshots.clone()),
            incoming: Incoming::new(snapshots),
        });
    }

    /// What was recovered is what was durable; or it is nothing at all, for a reason, and the disk says so.
    fn check_start(&mut self, recovered: &raft::Recovered) {
        let found = Durable::of(recovered);
        let same = self
            .states()
            .find(|(state, newest)| found == state.starting_at(*newest));
        let is_kept = same.is_some()
            && self.rejected != Written::Yes
            && if recovered.recovering {
                self.is_recovering && self.cleared != Written::Yes
            } else {
                !self.is_recovering || self.cleared != Written::No
            };
        let is_empty = found.base == EntryId::default() && found.log.is_empty();
        let may_forget = self.is_damaged || self.rejected != Written::No;
        let is_forgotten = recovered.recovering && is_empty && may_forget;
        let is_known = |(state, newest): (Durable, EntryId)| {
            [state.hard_state, state.starting_at(newest).hard_state].contains(&found.hard_state)
        };
        let knows = self.is_damaged || self.states().any(is_known);
        assert!(
            is_kept || is_forgotten && knows,
            "recovery: node {} recovered {}, recovering: {}; durable was {}, or one of {:?}; snapshots that may be \
             there: {:?}; damaged: {}, to be rebuilt: {:?}, recovering: {}, no more: {:?}",
            self.options.node_id,
            found.describe(),
            recovered.recovering,
            self.durable.describe(),
            self.interrupted.iter().map(Durable::describe).collect::<Vec<_>>(),
            self.perhaps,
            self.is_damaged,
            self.rejected,
            self.is_recovering,
            self.cleared,
        );
        if is_kept {
            let (mut state, newest) = same.expect("it is kept");
            if !state.holds(newest) {
                state = found;
            }
            (state.hard_state, state.snapshot) = (recovered.hard_state, newest);
            self.durable = state;
        } else {
            let lost = std::mem::replace(&mut self.durable, found);
            if !std::mem::replace(&mut self.lacks, true) {
                self.lost = Some(lost);
            }
            self.recoveries += 1;
            self.is_log_damaged = false;
        }
        self.is_recovering = recovered.recovering;
        if !self.is_recovering {
            (self.lost, self.lacks) = (None, false);
        }
    }

    /// What may be on the disk, each with a snapshot that may be the newest.
    fn states(&self) -> impl Iterator<Item = (Durable, EntryId)> {
        let states = std::iter::once(&self.durable).chain(&self.interrupted);
        let pairs = states.flat_map(|state| {
            let newer = self
                .perhaps
                .iter()
                .filter(|last| last.index > state.snapshot.index);
            let older = self.named.iter().filter(|last| {
                self.is_damaged && last.index < state.snapshot.index && last.index >= state.base.index
            });
            let none = EntryId::default();
            let whole = (self.is_damaged && state.base == none).then_some(none);
            let newest = std::iter::once(state.snapshot)
                .chain(newer.copied())
                .chain(older.copied());
            newest
                .chain(whole)
                .map(|newest| (state.clone(), newest))
                .collect::<Vec<_>>()
        });
        pairs.collect::<Vec<_>>().into_iter()
    }

    /// What is certainly on the disk.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// Whether the node holds the entry and counts, or held it before it lost something.
    pub fn held(&self, id: EntryId) -> bool {
        let holds_again = self.durable.holds(id) && !self.lacks;
        holds_again || self.lost.as_ref().is_some_and(|lost| lost.holds(id))
    }

    /// The node believes that it has again what it had lost.
    pub fn lacks_nothing(&mut self) {
        self.lacks = false;
    }

    /// Whether the node lacks what it acknowledged, or will.
    pub fn is_impaired(&self) -> bool {
        self.is_damaged || self.was_asked_to_rebuild || self.rejected != Written::No || self.is_recovering
    }

    /// Whether the node has not fetched again what it has lost.
    pub fn is_recovering(&self) -> bool {
        self.is_recovering || self.rejected != Written::No
    }

    /// Takes a job. If it is the only one of its lane, it begins now; until when.
    pub fn push(&mut self, job: Job, now: u64, rng: &mut Rng) -> Option<u64> {
        let lane = job.lane();
        let jobs = self.jobs.entry(lane).or_default();
        if lane == Lane::Chunks && jobs.len() >= CHUNKS_MAX {
            return None;
        }
        jobs.push_back(job);
        if jobs.len() > 1 {
            return None;
        }
        self.begin(lane, now, rng);
        self.due(lane)
    }

    /// The job at the front begins, or its next step.
    fn begin(&mut self, lane: Lane, now: u64, rng: &mut Rng) {
        self.due.remove(&lane);
        if self.jobs.get(&lane).is_none_or(VecDeque::is_empty) {
            return;
        }
        let (least, most) = self.latency_us;
        let slower = if lane == Lane::Snapshots {
            self.snapshots_slower
        } else {
            1
        };
        let duration = (least + rng.below(1 + most - least)) * slower;
        let hangs_us = match self.hangs.get_mut(&lane) {
            Some((0, _)) => self.hangs.remove(&lane).map_or(0, |(_, us)| us),
            Some((jobs, _)) => {
                *jobs -= 1;
                0
            }
            None => 0,
        };
        self.due.insert(lane, now + duration + hangs_us);
    }

    /// When the job at hand is done.
    pub fn due(&self, lane: Lane) -> Option<u64> {
        self.due.get(&lane).copied()
    }

    /// One of the next jobs of this lane hangs, after so many others.
    pub fn hang_after(&mut self, lane: Lane, jobs: u64, us: u64) {
        self.hangs.insert(lane, (jobs, us));
    }

    /// What is at hand in every lane, or the next job, hangs. When what is at hand is done now.
    pub fn hang(&mut self, us: u64) -> Vec<(Lane, u64)> {
        for lane in LANES {
            match self.due.get_mut(&lane) {
                Some(due) => *due += us,
                None => self.hang_after(lane, 0, us),
            }
        }
        self.all_due()
    }

    /// What hangs goes on. When what is at hand is done now.
    pub fn hurry(&mut self, now: u64) -> Vec<(Lane, u64)> {
        const SOON_US: u64 = 1000;
        self.hangs.clear();
        self.due
            .values_mut()
            .for_each(|due| *due = (*due).min(now + SOON_US));
        self.all_due()
    }

    fn all_due(&self) -> Vec<(Lane, u64)> {
        self.due.iter().map(|(lane, due)| (*lane, *due)).collect()
    }

    /// The job at the front of the lane is done, or a step of it; and when the next is, where there is one.
    pub fn finish(&mut self, lane: Lane, now: u64, rng: &mut Rng) -> (Vec<Done>, Option<u64>) {
        let job = self.jobs.get_mut(&lane).and_then(VecDeque::pop_front);
        let mut done = Vec::new();
        if let Some(rest) = self.work(job.expect("a job ends that never began"), now, rng, &mut done) {
            self.jobs.entry(lane).or_default().push_front(rest);
        }
        self.begin(lane, now, rng);
        (done, self.due(lane))
    }

    /// Does a job, or a step of it; gives back what is left of it.
    fn work(&mut self, job: Job, now: u64, rng: &mut Rng, done: &mut Vec<Done>) -> Option<Job> {
        let result = match job {
            Job::Persist(batch) => self.persist(&batch).inspect(|_| done.push(Done::Persisted)),
            Job::Adopt(committed, drop_upto) => {
                let storage = &mut self.running.as_mut().expect("a process").storage;
                storage.adopt_snapshot(committed);
                done.push(Done::Snapshot(SnapshotEvent::Adopted(committed.last)));
                storage
                    .drop_head(drop_upto)
                    .map(Some)
                    .map_err(|error| error.to_string())
            }
            Job::SetClusterId(cluster_id) => {
                let storage = &mut self.running.as_mut().expect("a process").storage;
                let set = storage.set_cluster_id(cluster_id);
                set.map(|()| None).map_err(|error| error.to_string())
            }
            Job::MeasureFreeSpace => {
                let storage = &self.running.as_ref().expect("a process").storage;
                done.push(Done::FreeSpace(
                    storage.free_space_bytes().expect("it always says"),
                ));
                Ok(None)
            }
            Job::MarkRebuild => self.mark_rebuild(done),
            Job::ClearRecovering => self.clear_recovering(),
            Job::SendChunk(envelope) => {
                self.send_chunk(envelope, done);
                Ok(None)
            }
            Job::StoreChunk(envelope) => {
                self.store_chunk(envelope, rng, done);
                Ok(None)
            }
            Job::Take(taking) => return self.take(*taking, done).map(|rest| Job::Take(Box::new(rest))),
            Job::Remove(superfluous) => {
                let _ = superfluous.remove();
                Ok(None)
            }
        };
        match result {
            Ok(superfluous) => {
                if let Some(superfluous) = superfluous {
                    self.push(Job::Remove(superfluous), now, rng);
                }
            }
            Err(reason) => done.push(Done::Failed(reason)),
        }
        None
    }

    fn persist(&mut self, batch: &Batch) -> Result<Option<Superfluous<SimFs>>, String> {
        let storage = &mut self.running.as_mut().expect("a process").storage;
        let result = persist_batch(storage, batch);
        if result.is_ok() {
            self.replaced = self.durable.take(batch);
            self.installed += u64::from(batch.install.is_some());
        } else {
            self.may_have(batch);
        }
        result.map_err(|error| error.to_string())
    }

    /// A part of the batch may be there, each part whole.
    fn may_have(&mut self, batch: &Batch) {
        let mut after = self.durable.clone();
        if let Some(last) = batch.install {
            after.install(last);
            self.interrupted.push(after.clone());
        }
        after.take(batch);
        self.interrupted.push(after);
    }

    fn mark_rebuild(&mut self, done: &mut Vec<Done>) -> Result<Option<Superfluous<SimFs>>, String> {
        assert!(
            self.was_asked_to_rebuild,
            "recovery: node {} believes that it has lost what it acknowledged, and it has not",
            self.options.node_id
        );
        self.rejected = Written::Perhaps;
        let storage = &mut self.running.as_mut().expect("a process").storage;
        storage.mark_recovering().map_err(|error| error.to_string())?;
        self.rejected = Written::Yes;
        done.push(Done::MarkedRebuild);
        Ok(None)
    }

    fn clear_recovering(&mut self) -> Result<Option<Superfluous<SimFs>>, String> {
        self.cleared = Written::Perhaps;
        let storage = &mut self.running.as_mut().expect("a process").storage;
        storage.clear_recovering().map_err(|error| error.to_string())?;
        (self.is_recovering, self.cleared, self.lost) = (false, Written::No, None);
        Ok(None)
    }

    fn send_chunk(&mut self, envelope: Envelope, done: &mut Vec<Done>) {
        let outgoing = &mut self.running.as_mut().expect("a process").outgoing;
        match outgoing.fill(envelope) {
            Filled::Chunk(envelope) => done.push(Done::Chunk(envelope)),
            Filled::PastTheEnd => {}
            Filled::Lost(last, _) => done.push(Done::Snapshot(SnapshotEvent::Lost(last))),
        }
    }

    fn store_chunk(&mut self, envelope: Envelope, rng: &mut Rng, done: &mut Vec<Done>) {
        let (from, term, request_id) = (envelope.from, envelope.term, envelope.request_id);
        let Message::InstallSnapshot(install) = envelope.message else {
            panic!("a chunk");
        };
        let running = self.running.as_mut().expect("a process");
        if rng.one_in(50) {
            // Nothing has come for a while.
            running.incoming.forget();
            running.outgoing.close();
        }
        let last = install.header.last;
        let is_last = install.done;
        let stored = running.incoming.store(term, install);
        if is_last {
            self.named.insert(last);
        }
        let Ok(Stored {
            response, received, ..
        }) = stored
        else {
            self.perhaps.extend(is_last.then_some(last));
            return;
        };
        done.extend(response.map(|response| {
            Done::Snapshot(SnapshotEvent::Stored {
                to: from,
                request_id,
                response,
            })
        }));
        if let Some(received) = received {
            self.named_now(received.committed.last);
            done.push(Done::Snapshot(SnapshotEvent::Received(Box::new(received))));
        }
    }

    /// The snapshot is durable under its name, whatever became of the last write to the log.
    fn named_now(&mut self, last: EntryId) {
        self.named.insert(last);
        for state in std::iter::once(&mut self.durable).chain(&mut self.interrupted) {
            if last.index > state.snapshot.index {
                state.snapshot = last;
            }
        }
    }

    /// The next step of writing a snapshot: what `write_snapshot` does, with pauses between. What is left to do.
    fn take(&mut self, mut taking: Taking, done: &mut Vec<Done>) -> Option<Taking> {
        let snapshots = self.running.as_ref().expect("a process").storage.snapshots();
        let last = taking.header.last;
        let result = match taking.writer.take() {
            None => snapshots.begin(&taking.header).map(Step::Go),
            Some(mut writer) => match taking
                .view
                .chunks_of(self.chunk_bytes)
                .nth(writer.chunks() as usize)
            {
                Some(chunk) => writer.write_chunk(&chunk).map(|()| Step::Go(writer)),
                None => writer.commit().map(Step::End),
            },
        };
        let result = match result {
            Ok(Step::Go(writer)) => {
                taking.writer = Some(writer);
                return Some(taking);
            }
            Ok(Step::End(committed)) => {
                self.named_now(last);
                Ok(committed)
            }
            Err(error) => {
                self.named.insert(last);
                self.perhaps.insert(last);
                Err(error.to_string())
            }
        };
        let header = taking.header;
        done.push(Done::Snapshot(SnapshotEvent::Written { header, result }));
        None
    }

    /// The process is gone, perhaps in the midst of some writes.
    pub fn abandon(&mut self, end: End, rng: &mut Rng) {
        if self.running.is_some() && rng.one_in(2) {
            self.fs.power_fails_at(1 + rng.below(6));
            let first = rng.below(3) as usize;
            for n in 0..LANES.len() {
                let lane = LANES[(first + n) % LANES.len()];
                if let Some(job) = self.jobs.get_mut(&lane).and_then(VecDeque::pop_front) {
                    let rest = self.work(job, 0, rng, &mut Vec::new());
                    self.jobs.entry(lane).or_default().extend(rest);
                }
            }
        }
        self.replaced.clear();
        // What a dead process has begun it cannot remove.
        self.fs.power_fails_at(1);
        let _ = self.fs.sync_dir(Path::new("nowhere"));
        self.jobs.clear();
        self.due.clear();
        self.hangs.clear();
        self.running = None;
        match end {
            End::PowerFailed => self.fs.crash(rng.next_u64()),
            End::Killed => self.fs.kill_process(),
        }
    }

    /// A bit of the log or of a snapshot flips while no process runs. Where.
    pub fn flip_bit(&mut self, rng: &mut Rng) -> Option<(PathBuf, usize)> {
        let folder = if rng.one_in(2) { "snapshots" } else { "log" };
        let is_wanted = |path: &Path| path.parent().is_some_and(|parent| parent.ends_with(folder));
        assert!(self.running.is_none(), "bits flip at rest");
        let flipped = self.fs.flip_bit(rng, is_wanted);
        if let Some((path, _)) = &flipped {
            self.is_damaged = true;
            self.is_log_damaged |= path.parent().is_some_and(|parent| parent.ends_with("log"));
        }
        flipped
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
        self.fails || self.is_full || self.rejected == Written::Yes
    }

    /// Nothing that was asked for fails any more, and there is room again.
    pub fn mend(&mut self) {
        self.fails |= self.is_full;
        self.is_full = false;
        self.fs.write_fails_at(NEVER);
        self.fs.sync_fails_at(NEVER);
        self.fs.set_free_space_bytes(None);
    }
}

impl Durable {
    /// For people.
    pub fn describe(&self) -> String {
        let HardState { term, vote } = self.hard_state;
        format!(
            "term {term}, vote {vote:?}, snapshot {}, {} entries after {} up to {}",
            self.snapshot,
            self.log.len(),
            self.base,
            self.last()
        )
    }
}
