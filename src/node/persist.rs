//! The disk thread: makes one batch durable at a time. What the driver gathers meanwhile is the next batch,
//! which is all there is to group commit.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc as async_mpsc;

use crate::raft::{Batch, EntryId};
use crate::storage::fs::Fs;
use crate::storage::{Committed, PersistError, SparePreparer, Storage, Superfluous};

/// The disk thread, as the driver sees it. Its queue holds at most one batch and a few small jobs.
#[derive(Debug)]
pub struct Disk {
    jobs: mpsc::Sender<Job>,
    thread: thread::JoinHandle<()>,
}

/// What the disk thread has done.
#[derive(Debug, PartialEq, Eq)]
pub enum Done {
    /// The batch is durable.
    Persisted,
    /// The snapshot is known, and the log before it dropped.
    Adopted(EntryId),
    /// So many bytes are free on the disk.
    FreeSpace(u64),
    /// The data folder is marked to be fetched anew with the next start.
    MarkedRebuild,
    /// A write failed: the process must end, because what is on the disk is no longer known (trap 3.29).
    Failed(String),
}

#[derive(Debug)]
enum Job {
    Persist(Batch),
    Adopt(Committed, EntryId),
    SetClusterId([u8; 16]),
    MeasureFreeSpace,
    MarkRebuild,
    ClearRecovering,
}

const MEASURE_INTERVAL: Duration = Duration::from_secs(1);
const PREPARE_RETRY: Duration = Duration::from_secs(1);

impl Disk {
    /// Starts the thread, and beside it the one that makes segments ready before they are needed. `remove` is given
    /// the files that nothing needs any more, and must not wait.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start<F: Fs>(
        mut storage: Storage<F>,
        remove: impl Fn(Superfluous<F>) + Send + 'static,
    ) -> std::io::Result<(Disk, async_mpsc::UnboundedReceiver<Done>)> {
        if let Some(preparer) = storage.take_preparer() {
            thread::Builder::new()
                .name("segments".into())
                .spawn(move || prepare(&preparer))?;
        }
        let (jobs, queue) = mpsc::channel();
        // Bounded by the jobs, which are: one batch, one snapshot, and a measurement a second.
        let (done, results) = async_mpsc::unbounded_channel();
        let thread = thread::Builder::new().name("disk".into()).spawn(move || {
            if let Err(error) = work(&mut storage, &queue, &done, &remove) {
                let _ = done.send(Done::Failed(error));
            }
        })?;
        Ok((Disk { jobs, thread }, results))
    }

    /// Makes a batch durable; `Done::Persisted` follows.
    pub fn persist(&self, batch: Batch) {
        // Without the thread there is `Done::Failed`, which ends the driver.
        let _ = self.jobs.send(Job::Persist(batch));
    }

    /// Takes notice of a snapshot of this node's own state and drops the log up to an entry that it covers;
    /// `Done::Adopted` follows.
    pub fn adopt_snapshot(&self, committed: Committed, drop_upto: EntryId) {
        let _ = self.jobs.send(Job::Adopt(committed, drop_upto));
    }

    /// Writes the cluster's identity down.
    pub fn set_cluster_id(&self, cluster_id: [u8; 16]) {
        let _ = self.jobs.send(Job::SetClusterId(cluster_id));
    }

    /// Marks the data folder to be fetched anew with the next start; `Done::MarkedRebuild` follows.
    pub fn mark_rebuild(&self) {
        let _ = self.jobs.send(Job::MarkRebuild);
    }

    /// Notes that everything that was lost is here again.
    pub fn clear_recovering(&self) {
        let _ = self.jobs.send(Job::ClearRecovering);
    }

    /// Looks how much is free; `Done::FreeSpace` follows.
    pub fn measure_free_space(&self) {
        let _ = self.jobs.send(Job::MeasureFreeSpace);
    }

    /// Ends the thread when it has done what it was given.
    pub fn stop(self) {
        drop(self.jobs);
        if self.thread.join().is_err() {
            tracing::error!("the disk thread has panicked");
        }
    }
}

fn work<F: Fs>(
    storage: &mut Storage<F>,
    queue: &mpsc::Receiver<Job>,
    done: &async_mpsc::UnboundedSender<Done>,
    remove: &impl Fn(Superfluous<F>),
) -> Result<(), String> {
    let mut measured: Option<Instant> = None;
    while let Ok(job) = queue.recv() {
        let measure = match job {
            Job::Persist(batch) => {
                let superfluous = persist_batch(storage, &batch).map_err(|error| error.to_string())?;
                let _ = done.send(Done::Persisted);
                superfluous.into_iter().for_each(remove);
                measured.is_none_or(|at| at.elapsed() >= MEASURE_INTERVAL)
            }
            Job::Adopt(committed, drop_upto) => {
                storage.adopt_snapshot(committed);
                let superfluous = storage.drop_head(drop_upto).map_err(|error| error.to_string())?;
                let _ = done.send(Done::Adopted(committed.last));
                remove(superfluous);
                true
            }
            Job::SetClusterId(cluster_id) => {
                storage
                    .set_cluster_id(cluster_id)
                    .map_err(|error| error.to_string())?;
                false
            }
            Job::MeasureFreeSpace => true,
            Job::MarkRebuild => {
                storage.mark_recovering().map_err(|error| error.to_string())?;
                let _ = done.send(Done::MarkedRebuild);
                false
            }
            Job::ClearRecovering => {
                storage.clear_recovering().map_err(|error| error.to_string())?;
                false
            }
        };
        if measure {
            measured = Some(Instant::now());
            match storage.free_space_bytes() {
                Ok(bytes) => drop(done.send(Done::FreeSpace(bytes))),
                Err(error) => tracing::warn!(%error, "free space on the disk is not known"),
            }
        }
    }
    Ok(())
}

/// Makes a batch durable, a leader's snapshot before the rest of it. Gives back the files that nothing needs any more.
///
/// # Errors
/// The process must end.
pub fn persist_batch<F: Fs>(
    storage: &mut Storage<F>,
    batch: &Batch,
) -> Result<Option<Superfluous<F>>, PersistError> {
    storage.persist(batch)?;
    batch.install.map(|last| storage.drop_head(last)).transpose()
}

/// Runs until the storage is dropped. A failure only makes appends slower, so it is logged and tried again.
fn prepare<F: Fs>(preparer: &SparePreparer<F>) {
    while let Err(error) = preparer.run() {
        tracing::warn!(%error, "the next segment of the log could not be made ready");
        thread::sleep(PREPARE_RETRY);
    }
}
