//! The snapshot threads: everything about snapshots that takes long, away from the driver and from the log's disk
//! thread. One moves chunks, for other nodes and from them; beside it one writes this node's own snapshots and removes
//! old ones, so that neither waits for the other.
//!
//! Chunks that find the queue full are dropped: Raft sends again. There is one own snapshot at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc as async_mpsc;

use super::host::SnapshotEvent;
use super::transfer::{Filled, Incoming, Outgoing, Stored, write_snapshot};
use crate::kv::View;
use crate::raft::{Envelope, Message, SnapshotHeader};
use crate::storage::{Snapshots, Superfluous};

/// How many chunks may wait: a few windows of the leader, and a bound on memory should a peer send more.
const CHUNKS_MAX: usize = 64;

/// After so long without a chunk, files are closed and what has come in part is forgotten.
const IDLE: Duration = Duration::from_secs(60);

/// What is logged about failures, at most so often.
const COMPLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// The threads, as the driver sees them.
#[derive(Debug)]
pub struct SnapshotThreads {
    chunks: mpsc::SyncSender<ChunkJob>,
    files: mpsc::Sender<FileJob>,
    stopping: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

#[derive(Debug)]
enum ChunkJob {
    Send(Envelope),
    Store(Envelope),
}

#[derive(Debug)]
enum FileJob {
    Take(SnapshotHeader, Box<View>),
    Remove(Superfluous),
}

impl SnapshotThreads {
    /// Starts the threads. `send` sends a chunk to another node, and must not wait.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(
        snapshots: Snapshots,
        send: impl Fn(Envelope) + Send + 'static,
    ) -> std::io::Result<(SnapshotThreads, async_mpsc::UnboundedReceiver<SnapshotEvent>)> {
        let (chunks, chunk_jobs) = mpsc::sync_channel(CHUNKS_MAX);
        let (files, file_jobs) = mpsc::channel();
        // Bounded by the jobs, which are: so many chunks, and one snapshot.
        let (events, results) = async_mpsc::unbounded_channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let mover = Mover {
            outgoing: Outgoing::new(snapshots.clone()),
            incoming: Incoming::new(snapshots.clone()),
            complained: None,
            send,
            events: events.clone(),
        };
        let stop = Arc::clone(&stopping);
        let move_chunks = move || mover.run(&chunk_jobs, &stop);
        let stop = Arc::clone(&stopping);
        let keep_files = move || keep_files(&snapshots, &file_jobs, &events, &stop);
        let threads = vec![
            thread::Builder::new().name("chunks".into()).spawn(move_chunks)?,
            thread::Builder::new()
                .name("snapshots".into())
                .spawn(keep_files)?,
        ];
        let threads = SnapshotThreads {
            chunks,
            files,
            stopping,
            threads,
        };
        Ok((threads, results))
    }

    /// Fills in an InstallSnapshot and sends it.
    pub fn send_chunk(&self, envelope: Envelope) {
        let _ = self.chunks.try_send(ChunkJob::Send(envelope));
    }

    /// Stores a leader's chunk; `SnapshotEvent::Stored` follows, if it is not dropped.
    pub fn store_chunk(&self, envelope: Envelope) {
        let _ = self.chunks.try_send(ChunkJob::Store(envelope));
    }

    /// Writes a snapshot; `SnapshotEvent::Written` follows.
    pub fn take(&self, header: SnapshotHeader, view: View) {
        let _ = self.files.send(FileJob::Take(header, Box::new(view)));
    }

    /// Removes files, some time.
    pub fn remover(&self) -> impl Fn(Superfluous) + Send + use<> {
        let files = self.files.clone();
        move |superfluous| drop(files.send(FileJob::Remove(superfluous)))
    }

    /// Ends the threads. What is half done is dropped. No remover may be left, or it waits for that one's end.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        drop((self.chunks, self.files));
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a snapshot thread has panicked");
            }
        }
    }
}

/// What the thread of the chunks has.
struct Mover<S> {
    outgoing: Outgoing,
    incoming: Incoming,
    /// What was logged last, and when.
    complained: Option<(String, Instant)>,
    send: S,
    events: async_mpsc::UnboundedSender<SnapshotEvent>,
}

impl<S: Fn(Envelope)> Mover<S> {
    fn run(mut self, jobs: &mpsc::Receiver<ChunkJob>, stopping: &AtomicBool) {
        let mut is_idle = true;
        while !stopping.load(Ordering::Relaxed) {
            let job = if is_idle {
                jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                jobs.recv_timeout(IDLE)
            };
            is_idle = job.is_err();
            match job {
                Ok(ChunkJob::Send(envelope)) => self.send(envelope),
                Ok(ChunkJob::Store(envelope)) => self.store(envelope),
                Err(RecvTimeoutError::Timeout) => {
                    self.outgoing.close();
                    self.incoming.forget();
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn send(&mut self, envelope: Envelope) {
        match self.outgoing.fill(envelope) {
            Filled::Chunk(envelope) => (self.send)(envelope),
            Filled::PastTheEnd => {}
            Filled::Lost(last, error) => {
                self.complain(format!("the snapshot up to entry {last} can't be sent: {error}"));
                let _ = self.events.send(SnapshotEvent::Lost(last));
            }
        }
    }

    fn store(&mut self, envelope: Envelope) {
        let Envelope {
            from,
            term,
            request_id,
            message,
            ..
        } = envelope;
        let Message::InstallSnapshot(install) = message else {
            return;
        };
        let last = install.header.last;
        match self.incoming.store(term, install) {
            Ok(Stored {
                began,
                response,
                received,
            }) => {
                if began {
                    tracing::info!(leader = %from, %last, "the leader sends a snapshot");
                }
                if let Some(response) = response {
                    let _ = self.events.send(SnapshotEvent::Stored {
                        to: from,
                        request_id,
                        response,
                    });
                }
                if let Some(received) = received {
                    let _ = self.events.send(SnapshotEvent::Received(Box::new(received)));
                }
            }
            Err(error) => self.complain(format!(
                "the leader's snapshot up to entry {last} can't be taken: {error}"
            )),
        }
    }

    fn complain(&mut self, text: String) {
        let is_new = |(said, at): &(String, Instant)| *said != text || at.elapsed() >= COMPLAIN_INTERVAL;
        if self.complained.as_ref().is_none_or(is_new) {
            tracing::warn!("{text}");
            self.complained = Some((text, Instant::now()));
        }
    }
}

fn keep_files(
    snapshots: &Snapshots,
    jobs: &mpsc::Receiver<FileJob>,
    events: &async_mpsc::UnboundedSender<SnapshotEvent>,
    stopping: &AtomicBool,
) {
    while let Ok(job) = jobs.recv() {
        match job {
            FileJob::Take(header, view) => {
                let go_on = || !stopping.load(Ordering::Relaxed);
                let written = write_snapshot(snapshots, &header, &view, go_on);
                // Whoever hears of the end may count on the view being gone, and with it what was overwritten.
                drop(view);
                let result = written.map_err(|error| error.to_string());
                let _ = events.send(SnapshotEvent::Written { header, result });
            }
            FileJob::Remove(superfluous) => {
                if let Err(error) = superfluous.remove() {
                    tracing::warn!(%error, "a file that nothing needs any more takes space");
                }
            }
        }
    }
}
