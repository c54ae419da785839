//! A node for tests: a task that owns a `kv::Store` and answers submissions, without Raft, disk or peers.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::kv::{Reply, Store};
use crate::node::{
    Answer, Feeds, Member, MemberProgress, Node, Operation, Outcome, ReadMode, Role, Status, Submission,
};
use crate::raft::{Index, NodeId, Term};

use super::{Ends, Options, Service, serve_connection};

/// The time of all entries: 2026-01-01.
const NOW_MS: u64 = 1_767_225_600_000;

/// What tests can see and steer.
#[derive(Debug)]
pub(super) struct Fake {
    pub(super) service: Arc<Service>,
    pub(super) shutdown: CancellationToken,
    /// The sizes of the submissions, in their order.
    pub(super) batches: mpsc::UnboundedReceiver<usize>,
}

impl Fake {
    /// A node that answers each submission after `delay`, the requests of one in reverse order.
    pub(super) fn start(options: Options, delay: Duration) -> Fake {
        let (node, queue) = Node::channel(16);
        // Bounded by what one test sends.
        let (seen, batches) = mpsc::unbounded_channel();
        tokio::spawn(drive(queue, seen, delay));
        let service = Service::new(node, options);
        Fake {
            service,
            shutdown: CancellationToken::new(),
            batches,
        }
    }

    /// A new client.
    pub(super) fn connect(&self) -> DuplexStream {
        self.connect_with(1 << 16)
    }

    /// A new client over a pipe that holds so many bytes.
    pub(super) fn connect_with(&self, pipe_bytes: usize) -> DuplexStream {
        let (client, server) = duplex(pipe_bytes);
        let (service, shutdown) = (self.service.clone(), self.shutdown.clone());
        let ends = Ends {
            client: "test:1".into(),
            local: "test:2".into(),
        };
        tokio::spawn(serve_connection(service, server, ends, shutdown));
        client
    }

    /// What a client gets that sends this, closes its sending half, and reads to the end.
    pub(super) async fn talk(&self, input: impl AsRef<[u8]>) -> String {
        let (mut reader, mut writer) = tokio::io::split(self.connect());
        let input = input.as_ref().to_vec();
        tokio::spawn(async move {
            writer.write_all(&input).await.ok();
            writer.shutdown().await.ok();
        });
        let mut output = Vec::new();
        reader.read_to_end(&mut output).await.unwrap();
        String::from_utf8_lossy(&output).into_owned()
    }
}

async fn drive(mut queue: mpsc::Receiver<Submission>, seen: mpsc::UnboundedSender<usize>, delay: Duration) {
    let (mut store, feeds) = (Store::new(), Feeds::new(0));
    while let Some(submission) = queue.recv().await {
        seen.send(submission.requests.len()).ok();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let answers = submission.requests.into_iter().map(|request| Answer {
            ticket: request.ticket,
            outcome: outcome(&mut store, &feeds, request.operation),
        });
        let answers: Vec<Answer> = answers.collect();
        feeds.tell();
        for answer in answers.into_iter().rev() {
            submission.answers.send(answer).ok();
        }
    }
}

fn outcome(store: &mut Store, feeds: &Feeds, operation: Operation) -> Outcome {
    match operation {
        Operation::Write(command) => {
            let reply = store.apply(store.applied() + 1, NOW_MS, &command);
            feeds.record(store);
            Outcome::Reply(reply)
        }
        Operation::Query(query, _) => Outcome::Reply(store.query(&query, NOW_MS)),
        Operation::View(ReadMode::Quorum | ReadMode::Lease | ReadMode::Stale) => {
            Outcome::View(Box::new(store.view()))
        }
        Operation::Feed { prefix, from, .. } => match feeds.start(prefix, from) {
            Ok(feed) => Outcome::Feed(feed),
            Err(error) => Outcome::Reply(Reply::Error(error)),
        },
        Operation::Transfer(_)
        | Operation::Snapshot
        | Operation::Change(_)
        | Operation::Verify
        | Operation::Rebuild => Outcome::Reply(Reply::Ok),
        Operation::Status => Outcome::Status(Box::new(status(store))),
    }
}

fn status(store: &Store) -> Status {
    let member = |id, progress| Member {
        id: NodeId(id),
        voter: id < 3,
        peer: format!("10.0.0.{id}:7239"),
        client: format!("10.0.0.{id}:7238"),
        progress,
    };
    let progress = MemberProgress {
        match_index: Index(7),
        ..MemberProgress::default()
    };
    Status {
        cluster: "test".into(),
        node: NodeId(1),
        role: Role::Leader,
        term: Term(3),
        leader: Some(NodeId(1)),
        applied: Index(store.applied()),
        keys: store.len() as u64,
        bytes: store.bytes(),
        expiring_keys: store.expiring_len() as u64,
        members: vec![member(1, Some(progress)), member(2, None), member(3, None)],
        problems: vec!["the disk is slow; buy a faster one".into()],
        ..Status::default()
    }
}
