//! Transports over real sockets, with each other and with peers that do not behave. Every wait is for a
//! state and has a deadline.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use super::codec::FrameReader;
use super::*;
use crate::raft::{
    Addresses, AppendEntries, Entry, EntryId, Heartbeat, HeartbeatResponse, Membership, Message, Payload,
    ReadIndex, ReadIndexResponse, Term, VoteResponse,
};
use crate::wire::peer::{Hello, Welcome, decode, encode};

const LONG: Duration = Duration::from_secs(20);

fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { timeout(2 * LONG, future).await.expect("the test takes too long") })
}

fn options(id: u64) -> Options {
    let backoff_max = Duration::from_millis(100);
    Options {
        backoff_max,
        incarnation: 1000 + id,
        ..Options::new("test", NodeId(id))
    }
}

async fn listener() -> (TcpListener, String) {
    let listener = crate::net::listen("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// These are the members, as the configuration says; at index 0 of the log nobody is refused.
fn members(peers: &[(u64, &str)]) -> Members {
    members_at(0, peers, &[])
}

/// Members that the log names, with the data folders that are bound to them.
fn members_at(index: u64, peers: &[(u64, &str)], incarnations: &[(u64, u64)]) -> Members {
    let addresses = |peer: &str| Addresses {
        peer: peer.to_owned(),
        client: "client".into(),
    };
    let membership = Membership {
        addresses: peers
            .iter()
            .map(|(id, peer)| (NodeId(*id), addresses(peer)))
            .collect(),
        incarnations: incarnations
            .iter()
            .map(|(id, number)| (NodeId(*id), *number))
            .collect(),
        ..Membership::default()
    };
    Members::new(Index(index), membership)
}

/// A transport with its events.
struct Node {
    transport: Transport,
    events: EventReceiver,
    address: String,
}

impl Node {
    async fn start(options: Options, peers: &[(u64, &str)]) -> Node {
        let (listener, address) = listener().await;
        let (transport, events) = Transport::start(options, listener, members(peers), 7);
        Node {
            transport,
            events,
            address,
        }
    }

    async fn event(&mut self) -> Event {
        timeout(LONG, self.events.recv())
            .await
            .expect("no event")
            .expect("the end of events")
    }

    /// The first event that `pick` picks; those before it are dropped.
    async fn until<T>(&mut self, pick: impl Fn(&Event) -> Option<T>) -> T {
        loop {
            let event = self.event().await;
            if let Some(picked) = pick(&event) {
                return picked;
            }
        }
    }

    async fn connected(&mut self) {
        self.until(|event| matches!(event, Event::Connected { .. }).then_some(()))
            .await;
    }

    async fn disconnected(&mut self) -> bool {
        let by_peer = |event: &Event| match event {
            Event::Disconnected { by_peer, .. } => Some(*by_peer),
            _ => None,
        };
        self.until(by_peer).await
    }

    async fn answered(&mut self) -> (u64, Result<Bytes, CallError>) {
        let answer = |event: &Event| match event {
            Event::Answer { token, result } => Some((*token, result.clone())),
            _ => None,
        };
        self.until(answer).await
    }

    async fn called(&mut self) -> (CallId, Bytes) {
        let call = |event: &Event| match event {
            Event::Call { id, command, .. } => Some((*id, command.clone())),
            _ => None,
        };
        self.until(call).await
    }

    fn call(&self, to: u64, token: u64, command: impl Into<Bytes>) {
        self.transport
            .call(NodeId(to), token, command.into(), Instant::now() + LONG);
    }

    fn counter(&self, pick: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        pick(self.transport.counters()).load(Ordering::Relaxed)
    }

    /// Waits until the counter is at least `least`, while events are taken.
    async fn counts(&mut self, least: u64, pick: impl Fn(&Counters) -> &AtomicU64) {
        let deadline = Instant::now() + LONG;
        while self.counter(&pick) < least {
            assert!(
                Instant::now() < deadline,
                "the counter stands at {}",
                self.counter(&pick)
            );
            let _ = timeout(Duration::from_millis(2), self.events.recv()).await;
        }
    }
}

/// Two nodes, connected both ways.
async fn pair(one: Options, two: Options) -> (Node, Node) {
    let (ids, mut a) = ([one.node_id, two.node_id], Node::start(one, &[]).await);
    let mut b = Node::start(two, &[(ids[0].0, &a.address)]).await;
    a.transport.set_members(members(&[(ids[1].0, &b.address)]));
    a.connected().await;
    b.connected().await;
    (a, b)
}

/// A peer made by hand, that does what the test wants.
struct Fake {
    stream: TcpStream,
    reader: FrameReader,
}

fn hello(from: u64, to: u64) -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        cluster_name: "test".into(),
        cluster_id: None,
        node_id: NodeId(from),
        incarnation: 5,
        to_node_id: NodeId(to),
        frame_max_bytes: 10_000_000,
        membership_index: Index(0),
    }
}

impl Fake {
    fn new(stream: TcpStream) -> Fake {
        Fake {
            stream,
            reader: FrameReader::new(10_000_000),
        }
    }

    /// Dials and says hello.
    async fn dial(address: &str, hello: Hello) -> Fake {
        let mut fake = Fake::new(TcpStream::connect(address).await.unwrap());
        fake.send(0, Frame::Hello(hello)).await;
        fake
    }

    /// Dials node 1 as node `from` and is welcome.
    async fn welcome_at(address: &str, from: u64) -> Fake {
        let mut fake = Fake::dial(address, hello(from, 1)).await;
        assert!(matches!(fake.recv().await, Some((0, Frame::Welcome(_)))));
        fake
    }

    /// Waits to be dialed and welcomes as node 2, with this limit for frames.
    async fn accept(listener: &TcpListener, frame_max_bytes: u32) -> Fake {
        let (stream, _) = timeout(LONG, listener.accept())
            .await
            .expect("nobody dials")
            .unwrap();
        let mut fake = Fake::new(stream);
        assert!(matches!(fake.recv().await, Some((0, Frame::Hello(_)))));
        let (version, node_id) = (1, NodeId(2));
        let welcome = Welcome {
            version,
            cluster_id: None,
            node_id,
            incarnation: 5,
            frame_max_bytes,
            membership_index: Index(0),
        };
        fake.send(0, Frame::Welcome(welcome)).await;
        fake
    }

    async fn send(&mut self, request_id: u64, frame: Frame) {
        let mut buffer = BytesMut::new();
        encode(request_id, &frame, usize::MAX, &mut buffer).unwrap();
        self.stream.write_all(&buffer).await.unwrap();
    }

    /// The next frame; `None` at the end of the connection.
    async fn recv(&mut self) -> Option<(u64, Frame)> {
        loop {
            if let Some(bytes) = self.reader.next().unwrap() {
                return Some(decode(bytes).unwrap());
            }
            let read = timeout(LONG, self.reader.fill(&mut self.stream))
                .await
                .expect("no frame");
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// A frame that is no ping.
    async fn forwarded(&mut self) -> u64 {
        match self.recv().await {
            Some((id, Frame::Forward { .. })) => id,
            other => panic!("{other:?}"),
        }
    }
}

fn envelope(from: u64, to: u64, request_id: u64, message: Message) -> Envelope {
    Envelope {
        from: NodeId(from),
        to: NodeId(to),
        term: Term(5),
        request_id,
        message,
    }
}

fn heartbeat(read_round: u64) -> Message {
    Message::Heartbeat(Heartbeat {
        session: 1,
        read_round,
        leader_commit: Index(0),
    })
}

fn append(sequence: u64, len: usize) -> Message {
    let id = EntryId {
        term: Term(5),
        index: Index(1),
    };
    Message::AppendEntries(AppendEntries {
        session: 1,
        sequence,
        prev_log: EntryId::default(),
        entries: vec![Entry {
            id,
            payload: Payload::Command(vec![7; len].into()),
        }],
        leader_commit: Index(0),
        read_round: 0,
    })
}

async fn raft(node: &mut Node) -> Envelope {
    let raft = |event: &Event| match event {
        Event::Raft(envelope) => Some(envelope.clone()),
        _ => None,
    };
    node.until(raft).await
}

#[test]
fn two_nodes_exchange_all_kinds() {
    run(async {
        let (mut a, mut b) = pair(options(1), options(2)).await;
        for message in [
            heartbeat(3),
            append(1, 100_000),
            Message::ReadIndex(ReadIndex {
                id: 9,
                recovering: false,
            }),
        ] {
            assert!(a.transport.send(envelope(1, 2, 0, message.clone())));
            let request = raft(&mut b).await;
            assert_eq!(request, envelope(1, 2, request.request_id, message));
            assert!(request.request_id > 0);
            let answer = HeartbeatResponse {
                session: 1,
                read_round: 3,
                recovering: false,
                promises_lease: false,
            };
            let answer = envelope(2, 1, request.request_id, Message::HeartbeatResponse(answer));
            assert!(b.transport.send(answer.clone()));
            assert_eq!(raft(&mut a).await, answer);
        }
        a.call(2, 77, "SET k v");
        let (id, command) = b.called().await;
        assert_eq!(command, "SET k v");
        assert!(b.transport.answer(id, "+OK".into()));
        assert_eq!(a.answered().await, (77, Ok("+OK".into())));
        assert!(b.transport.tell_state_hash(NodeId(1), Index(4), 0xabc));
        assert_eq!(
            a.event().await,
            Event::StateHash {
                from: NodeId(2),
                index: Index(4),
                hash: 0xabc
            }
        );
        assert_eq!(
            a.transport.counters().connections_opened(NodeId(2)),
            2,
            "one for each direction"
        );
        assert_eq!(a.transport.incarnation(NodeId(2)), Some(1002));
        assert_eq!(a.counter(|c| &c.answers_unmatched), 0);
    });
}

#[test]
fn answers_come_in_any_order() {
    run(async {
        let (mut a, mut b) = pair(options(1), options(2)).await;
        for token in 1..=100 {
            a.call(2, token, format!("{token}"));
        }
        let mut calls = Vec::new();
        for token in 1..=100 {
            let (id, command) = b.called().await;
            assert_eq!(command, format!("{token}"), "commands stay in order");
            calls.push((id, command));
        }
        for (id, command) in calls.into_iter().rev() {
            assert!(b.transport.answer(id, command));
        }
        for token in (1..=100).rev() {
            assert_eq!(a.answered().await, (token, Ok(format!("{token}").into())));
        }
    });
}

#[test]
fn the_wrong_cluster_or_node_is_refused_with_a_reason() {
    run(async {
        let mut node = Node::start(
            Options {
                cluster_id: Some([1; 16]),
                ..options(1)
            },
            &[],
        )
        .await;
        for (reason, hello) in [
            (
                "of cluster \"test\"",
                Hello {
                    cluster_name: "other".into(),
                    ..hello(2, 1)
                },
            ),
            (
                "two clusters",
                Hello {
                    cluster_id: Some([2; 16]),
                    ..hello(2, 1)
                },
            ),
            ("meant to reach node 3", hello(2, 3)),
            ("both sides are node 1", hello(1, 1)),
            (
                "upgrade",
                Hello {
                    version_min: 2,
                    version_max: 2,
                    ..hello(2, 1)
                },
            ),
        ] {
            let mut fake = Fake::dial(&node.address, hello).await;
            let Some((_, Frame::Refused { reason: said })) = fake.recv().await else {
                panic!("{reason}")
            };
            assert!(said.contains(reason), "{said}");
            assert!(fake.recv().await.is_none(), "and closed");
        }
        node.counts(5, |c| &c.handshakes_refused).await;
        let mut good = Fake::dial(
            &node.address,
            Hello {
                cluster_id: Some([1; 16]),
                ..hello(2, 1)
            },
        )
        .await;
        assert!(matches!(good.recv().await, Some((_, Frame::Welcome(_)))));
    });
}

/// What node 1 says to one that comes with this.
async fn refused_by(node: &Node, hello: Hello) -> Option<String> {
    match Fake::dial(&node.address, hello).await.recv().await {
        Some((_, Frame::Refused { reason })) => Some(reason),
        Some((_, Frame::Welcome(_))) => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn trap_3_37_a_wiped_or_removed_node_is_refused_a_newer_one_is_not() {
    run(async {
        let (_nobody, address) = listener().await;
        let mut node = Node::start(options(1), &[]).await;
        let wiped = |index| Hello {
            membership_index: Index(index),
            ..hello(2, 1)
        };
        assert_eq!(refused_by(&node, wiped(0)).await, None, "it waits to be added");
        node.transport
            .set_members(members_at(9, &[(2, &address)], &[(2, 6)]));
        let reason = refused_by(&node, wiped(0)).await.unwrap();
        assert!(
            reason.contains(&format!("'RAFT ADD 2 {address} client'")),
            "{reason}"
        );
        let refusal = |event: &Event| match event {
            Event::Refused { peer, refusal } => Some((*peer, refusal.clone())),
            _ => None,
        };
        assert_eq!(node.until(refusal).await, (NodeId(2), Refusal::Wiped));
        assert_eq!(refused_by(&node, wiped(9)).await, None, "it may know better");
        let removed = Hello {
            membership_index: Index(8),
            ..hello(3, 1)
        };
        let reason = refused_by(&node, removed).await.unwrap();
        assert!(reason.contains("node 3 is no longer a member"), "{reason}");
    });
}

#[test]
fn a_dialer_hears_why_it_is_refused_and_is_taken_when_that_has_changed() {
    run(async {
        let mut old = Node::start(options(1), &[]).await;
        old.transport.set_members(members_at(9, &[], &[]));
        let mut node = Node::start(options(2), &[(1, &old.address)]).await;
        let refusal = |event: &Event| match event {
            Event::Refused {
                peer: NodeId(1),
                refusal,
            } => Some(refusal.clone()),
            _ => None,
        };
        let Refusal::ByPeer(reason) = node.until(refusal).await else {
            panic!("the other side refuses")
        };
        assert!(reason.contains("RAFT ADD 2"), "{reason}");
        // Added, it is dialed by the others, and so need not wait until it is its turn to dial.
        old.transport
            .set_members(members_at(10, &[(2, &node.address)], &[]));
        node.connected().await;
        old.connected().await;
    });
}

#[test]
fn a_dialer_refuses_a_wiped_member_and_closes_what_it_had_with_it() {
    run(async {
        let (mut a, mut b) = pair(options(1), options(2)).await;
        a.transport
            .set_members(members_at(9, &[(2, &b.address)], &[(2, 1002)]));
        exchange(&mut a, &mut b, 1).await;
        let other = members_at(10, &[(2, &b.address)], &[(2, 7)]);
        a.transport.set_members(other);
        assert!(!a.disconnected().await);
        let wiped = |event: &Event| {
            matches!(
                event,
                Event::Refused {
                    refusal: Refusal::Wiped,
                    ..
                }
            )
            .then_some(())
        };
        a.until(wiped).await;
        assert!(!a.transport.is_connected(NodeId(2)));
    });
}

#[test]
fn a_dialer_does_not_take_the_wrong_node() {
    run(async {
        let three = Node::start(options(3), &[]).await;
        let mut other = three;
        let one = Node::start(options(1), &[(2, &other.address)]).await;
        other.counts(2, |c| &c.handshakes_refused).await;
        assert!(!one.transport.is_connected(NodeId(2)));
        assert!(!one.transport.send(envelope(1, 2, 0, heartbeat(1))));
        assert_eq!(one.counter(|c| &c.sends_dropped), 1);
    });
}

#[test]
fn trap_3_39_a_cluster_id_learned_later_counts() {
    run(async {
        let (mut a, b) = pair(
            options(1),
            Options {
                cluster_id: Some([2; 16]),
                ..options(2)
            },
        )
        .await;
        assert!(b.transport.is_connected(NodeId(1)));
        a.transport.set_cluster_id([1; 16]);
        assert!(!a.disconnected().await, "our own decision");
        a.counts(1, |c| &c.handshakes_refused).await;
        let (a, _b) = pair(
            options(1),
            Options {
                cluster_id: Some([2; 16]),
                ..options(2)
            },
        )
        .await;
        a.transport.set_cluster_id([2; 16]);
        a.call(2, 1, "still here");
        assert!(a.transport.is_connected(NodeId(2)));
    });
}

#[test]
fn a_cut_connection_is_dialed_again() {
    run(async {
        let (listener, address) = listener().await;
        let mut node = Node::start(options(1), &[(2, &address)]).await;
        for round in 1..=5 {
            let mut fake = Fake::accept(&listener, 1_000_000).await;
            let (peer, incarnation) = (NodeId(2), 5);
            assert_eq!(node.event().await, Event::Connected { peer, incarnation });
            assert!(node.transport.send(envelope(1, 2, 0, heartbeat(round))));
            assert!(matches!(fake.recv().await, Some((_, Frame::Raft { .. }))));
            assert_eq!(node.transport.counters().connections_opened(NodeId(2)), round);
            if round % 2 == 0 {
                // A reset instead of an end.
                fake.stream.set_zero_linger().unwrap();
            }
            drop(fake);
            assert_eq!(
                node.event().await,
                Event::Disconnected {
                    peer: NodeId(2),
                    by_peer: true
                }
            );
        }
    });
}

#[test]
fn not_sent_is_told_from_lost() {
    run(async {
        let (listener, address) = listener().await;
        let mut node = Node::start(options(1), &[(2, &address)]).await;
        node.call(2, 1, "no connection yet");
        node.call(9, 2, "nobody of that number");
        assert_eq!(node.answered().await, (1, Err(CallError::NotSent)));
        assert_eq!(node.answered().await, (2, Err(CallError::NotSent)));
        let mut fake = Fake::accept(&listener, 1_000_000).await;
        node.connected().await;
        node.call(2, 3, "lost");
        fake.forwarded().await;
        drop(fake);
        assert_eq!(node.answered().await, (3, Err(CallError::Lost)));
        assert!(node.disconnected().await);
    });
}

#[test]
fn what_waits_behind_a_stalled_peer_is_not_sent() {
    run(async {
        let (listener, address) = listener().await;
        let mut node = with_deep_queues(&address).await;
        let fake = Fake::accept(&listener, 1_000_000).await;
        node.connected().await;
        for token in 1..=100 {
            node.call(2, token, vec![7; 500_000]);
        }
        // The kernel takes some, and the peer reads none.
        node.counts(1, |c| &c.frames_out).await;
        drop(fake);
        let mut results = Vec::new();
        for token in 1..=100 {
            let (answered, result) = node.answered().await;
            assert_eq!(answered, token);
            results.push(result);
        }
        let sent = results.iter().take_while(|r| **r == Err(CallError::Lost)).count();
        assert!((1..100).contains(&sent), "{sent}");
        assert!(results[sent..].iter().all(|r| *r == Err(CallError::NotSent)));
    });
}

#[test]
fn a_full_queue_refuses_at_once() {
    run(async {
        let (listener, address) = listener().await;
        let bounds = Options {
            queue_max_bytes: 10_000,
            queue_max_frames: 5,
            ..options(1)
        };
        let mut node = Node::start(bounds, &[(2, &address)]).await;
        let _fake = Fake::accept(&listener, 1_000_000).await;
        node.connected().await;
        // Nothing is written before we wait for something.
        for token in 1..=8 {
            node.call(2, token, "x");
        }
        for token in 6..=8 {
            assert_eq!(node.answered().await, (token, Err(CallError::NotSent)));
        }
        assert!(
            node.transport.send(envelope(1, 2, 0, heartbeat(1))),
            "the other lane has place"
        );
    });
}

#[test]
fn calls_end_by_deadline_and_by_cancel() {
    run(async {
        let (listener, address) = listener().await;
        let mut node = Node::start(options(1), &[(2, &address)]).await;
        let mut fake = Fake::accept(&listener, 1_000_000).await;
        node.connected().await;
        let soon = Instant::now() + Duration::from_millis(30);
        node.call(2, 1, "cancelled before it is written");
        node.transport.cancel(1);
        node.call(2, 2, "cancelled later");
        node.transport.call(NodeId(2), 3, "slow".into(), soon);
        let cancelled = fake.forwarded().await;
        let slow = fake.forwarded().await;
        node.transport.cancel(2);
        let written = true;
        assert_eq!(
            node.answered().await,
            (3, Err(CallError::DeadlineExceeded { written }))
        );
        assert!(Instant::now() >= soon);
        // Answers that come too late find nobody.
        for id in [cancelled, slow] {
            fake.send(id, Frame::ForwardResponse { reply: "late".into() })
                .await;
        }
        node.counts(2, |c| &c.answers_unmatched).await;
        node.call(2, 4, "in time");
        let id = fake.forwarded().await;
        fake.send(id, Frame::ForwardResponse { reply: "good".into() })
            .await;
        assert_eq!(node.answered().await, (4, Ok("good".into())));
    });
}

/// Node 1, which dials node 2 at `address` and has room for many large frames.
async fn with_deep_queues(address: &str) -> Node {
    let options = Options {
        queue_max_bytes: 64_000_000,
        ..options(1)
    };
    Node::start(options, &[(2, address)]).await
}

#[test]
fn a_call_that_expires_unwritten_is_never_written() {
    run(async {
        let (listener, address) = listener().await;
        let mut node = with_deep_queues(&address).await;
        let mut fake = Fake::accept(&listener, 1_000_000).await;
        node.connected().await;
        for token in 1..=60 {
            node.call(2, token, vec![7; 500_000]);
        }
        let soon = Instant::now() + Duration::from_millis(30);
        node.transport.call(NodeId(2), 61, "too late".into(), soon);
        let written = false;
        assert_eq!(
            node.answered().await,
            (61, Err(CallError::DeadlineExceeded { written }))
        );
        node.call(2, 62, "last");
        loop {
            let Some((_, Frame::Forward { command })) = fake.recv().await else {
                panic!("no command")
            };
            assert_ne!(command, "too late");
            if command == "last" {
                break;
            }
        }
    });
}

#[test]
fn trap_3_27_a_small_frame_overtakes_large_ones() {
    run(async {
        let (listener, address) = listener().await;
        let mut node = with_deep_queues(&address).await;
        let mut fake = Fake::accept(&listener, 1_000_000).await;
        node.connected().await;
        for sequence in 1..=200 {
            assert!(node.transport.send(envelope(1, 2, 0, append(sequence, 200_000))));
        }
        node.counts(1, |c| &c.frames_out).await;
        assert!(node.transport.send(envelope(1, 2, 0, heartbeat(1))));
        let mut before = 0;
        while let Some((
            _,
            Frame::Raft {
                message: Message::AppendEntries(append),
                ..
            },
        )) = fake.recv().await
        {
            before += 1;
            assert_eq!(append.sequence, before, "large ones stay in order");
        }
        // What the two kernels hold cannot be overtaken, nor the write under way; the other megabytes can.
        assert!((1..50).contains(&before), "{before} of 200");
    });
}

#[test]
fn trap_3_25_a_frame_larger_than_the_limit_ends_the_connection() {
    run(async {
        let mut node = Node::start(options(1), &[]).await;
        let mut fake = Fake::welcome_at(&node.address, 2).await;
        fake.send(
            1,
            Frame::Forward {
                command: vec![7; 1_000_000].into(),
            },
        )
        .await;
        assert_eq!(node.called().await.1.len(), 1_000_000);
        fake.stream.write_all(&[0x10, 0, 0, 0]).await.unwrap();
        assert!(fake.recv().await.is_none());
        assert!(!node.disconnected().await, "our own decision");
        assert_eq!(node.counter(|c| &c.malformed_frames), 1);
    });
}

#[test]
fn trap_3_25_a_frame_larger_than_the_peers_limit_is_not_sent() {
    run(async {
        let (listener, address) = listener().await;
        let mut node = Node::start(options(1), &[(2, &address)]).await;
        let mut fake = Fake::accept(&listener, 5_000).await;
        node.connected().await;
        node.call(2, 1, vec![7; 10_000]);
        node.call(2, 2, "small");
        assert_eq!(node.answered().await, (1, Err(CallError::NotSent)));
        assert!(matches!(fake.recv().await, Some((_, Frame::Forward { command })) if command == "small"));
    });
}

#[test]
fn a_newer_connection_replaces_the_older_and_answers_do_not_cross() {
    run(async {
        let mut node = Node::start(options(1), &[]).await;
        let mut old = Fake::welcome_at(&node.address, 2).await;
        old.send(
            1,
            Frame::Forward {
                command: "old".into(),
            },
        )
        .await;
        let (old_call, _) = node.called().await;
        let mut new = Fake::welcome_at(&node.address, 2).await;
        assert!(old.recv().await.is_none(), "closed");
        assert!(!node.disconnected().await);
        new.send(
            1,
            Frame::Forward {
                command: "new".into(),
            },
        )
        .await;
        let (new_call, _) = node.called().await;
        assert!(!node.transport.answer(old_call, "for the old".into()));
        assert!(node.transport.answer(new_call, "for the new".into()));
        let reply = Frame::ForwardResponse {
            reply: "for the new".into(),
        };
        assert_eq!(new.recv().await, Some((1, reply)));
    });
}

#[test]
fn a_silent_peer_is_asked_and_then_given_up() {
    run(async {
        let (listener, address) = listener().await;
        let (ping_interval, ping_timeout) = (Duration::from_millis(30), Duration::from_millis(100));
        let mut node = Node::start(
            Options {
                ping_interval,
                ping_timeout,
                ..options(1)
            },
            &[(2, &address)],
        )
        .await;
        let mut fake = Fake::accept(&listener, 1_000_000).await;
        node.connected().await;
        for _ in 0..3 {
            assert_eq!(fake.recv().await, Some((0, Frame::Ping)));
            fake.send(0, Frame::Pong).await;
        }
        assert_eq!(fake.recv().await, Some((0, Frame::Ping)));
        assert!(
            !node.disconnected().await,
            "a timeout says nothing about the process"
        );
        assert!(fake.recv().await.is_none());
        drop(fake);
        Fake::accept(&listener, 1_000_000).await;
        node.connected().await;
    });
}

#[test]
fn shutdown_writes_what_is_queued() {
    run(async {
        let (a, mut b) = pair(options(1), options(2)).await;
        for round in 1..=100 {
            assert!(a.transport.send(envelope(1, 2, 0, heartbeat(round))));
        }
        let begun = Instant::now();
        a.transport.shutdown().await;
        assert!(begun.elapsed() < FLUSH_TIMEOUT, "nobody had to be waited for");
        for round in 1..=100 {
            assert_eq!(raft(&mut b).await.message, heartbeat(round));
        }
        assert!(b.disconnected().await, "as if the process had ended");
        assert!(!a.transport.send(envelope(1, 2, 0, heartbeat(1))));
    });
}

#[test]
fn shutdown_does_not_wait_for_a_stalled_peer() {
    run(async {
        let (listener, address) = listener().await;
        let mut node = Node::start(options(1), &[(2, &address)]).await;
        let _fake = Fake::accept(&listener, 10_000_000).await;
        node.connected().await;
        for token in 1..=30 {
            node.call(2, token, vec![7; 500_000]);
        }
        timeout(LONG, node.transport.shutdown()).await.unwrap();
        for _ in 1..=30 {
            assert!(node.answered().await.1.is_err());
        }
    });
}

#[test]
fn a_member_that_is_gone_is_not_dialed() {
    run(async {
        let (mut a, mut b) = pair(options(1), options(2)).await;
        a.transport.set_members(Members::default());
        assert!(!a.disconnected().await);
        assert!(b.disconnected().await);
        a.call(2, 1, "to nobody");
        assert_eq!(a.answered().await, (1, Err(CallError::NotSent)));
        a.transport.set_members(members(&[(2, &b.address)]));
        a.connected().await;
        a.call(2, 2, "back");
        assert_eq!(b.called().await.1, "back");
    });
}

/// Calls back and forth between two nodes; each must be answered soon.
async fn exchange(a: &mut Node, b: &mut Node, rounds: u64) {
    for token in 1..=rounds {
        a.call(2, token, "x");
        let (id, _) = b.called().await;
        assert!(b.transport.answer(id, "y".into()));
        assert_eq!(a.answered().await, (token, Ok("y".into())));
    }
}

#[test]
fn diary_dead_peer_harms_nobody() {
    run(async {
        let (mut a, mut b) = pair(options(1), options(2)).await;
        // One that welcomes and then neither reads nor answers.
        let (listener, stalled) = listener().await;
        a.transport
            .set_members(members(&[(2, &b.address), (3, &stalled)]));
        let (stream, _) = listener.accept().await.unwrap();
        let mut fake = Fake::new(stream);
        assert!(matches!(fake.recv().await, Some((0, Frame::Hello(_)))));
        let (version, node_id) = (1, NodeId(3));
        let welcome = Welcome {
            version,
            cluster_id: None,
            node_id,
            incarnation: 5,
            frame_max_bytes: 1 << 20,
            membership_index: Index(0),
        };
        fake.send(0, Frame::Welcome(welcome)).await;
        a.connected().await;
        let sent = (0..1000)
            .filter(|n| a.transport.send(envelope(1, 3, 0, append(*n, 100_000))))
            .count();
        assert!(sent < 1000, "its queue is full, and that is all");
        exchange(&mut a, &mut b, 100).await;
        // One that answers what nobody asked, and one that answers rubbish.
        let mut odd = Fake::welcome_at(&a.address, 7).await;
        odd.send(
            3,
            Frame::ForwardResponse {
                reply: "what?".into(),
            },
        )
        .await;
        assert!(odd.recv().await.is_none());
        let response = VoteResponse {
            round: 1,
            vote_granted: true,
        };
        let mut odd = Fake::welcome_at(&a.address, 7).await;
        odd.send(
            3,
            Frame::Raft {
                term: Term(9),
                message: Message::RequestVoteResponse(response),
            },
        )
        .await;
        assert!(odd.recv().await.is_none());
        let mut rubbish = Fake::welcome_at(&a.address, 8).await;
        rubbish
            .stream
            .write_all(&[0, 0, 0, 5, 255, 255, 255, 255, 255])
            .await
            .unwrap();
        assert!(rubbish.recv().await.is_none());
        a.counts(3, |c| &c.malformed_frames).await;
        exchange(&mut a, &mut b, 100).await;
        assert_eq!(
            a.transport.counters().connections_opened(NodeId(2)),
            2,
            "and none was made anew"
        );
    });
}

#[test]
fn strange_tcp_peers_harm_nobody() {
    run(async {
        let quick = Options {
            handshake_timeout: Duration::from_millis(300),
            ..options(1)
        };
        let (mut a, mut b) = pair(quick, options(2)).await;
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"\xff\xff\xff\xff",
            b"\0\0\x10\x01",
            b"\0\0\0\x02\x08\x01",
        ] {
            let mut stream = TcpStream::connect(&a.address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let end = timeout(LONG, stream.read(&mut [0; 100]))
                .await
                .expect("still open");
            assert!(matches!(end, Ok(0) | Err(_)), "nothing is said to it");
        }
        // Many that say nothing: the oldest make place, and all are gone in time.
        let mut silent = Vec::new();
        for _ in 0..300 {
            silent.push(TcpStream::connect(&a.address).await.unwrap());
        }
        exchange(&mut a, &mut b, 50).await;
        let mut newcomer = Fake::welcome_at(&a.address, 5).await;
        newcomer.send(9, Frame::Ping).await;
        assert_eq!(newcomer.recv().await, Some((9, Frame::Pong)));
        a.counts(300, |c| &c.handshakes_refused).await;
        exchange(&mut a, &mut b, 50).await;
    });
}

#[test]
fn a_flooding_peer_is_held_back_and_the_others_get_their_turns() {
    run(async {
        let small = Options {
            events_max_bytes: 100_000,
            ..options(1)
        };
        let (mut a, mut b) = pair(small, options(2)).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(16 * 1024).unwrap();
        let mut fake = Fake::new(socket.connect(a.address.parse().unwrap()).await.unwrap());
        fake.send(0, Frame::Hello(hello(3, 1))).await;
        assert!(matches!(fake.recv().await, Some((0, Frame::Welcome(_)))));
        let flood = tokio::spawn(async move {
            let mut sent = 0_u64;
            let mut buffer = BytesMut::new();
            let beat = Frame::Raft {
                term: Term(5),
                message: heartbeat(1),
            };
            while buffer.len() < 60_000 {
                encode(1, &beat, usize::MAX, &mut buffer).unwrap();
            }
            while fake.stream.write_all(&buffer).await.is_ok() {
                sent += buffer.len() as u64;
            }
            sent
        });
        exchange(&mut a, &mut b, 20).await;
        // While nothing is taken, the queue fills up to its bound and the flood waits.
        let deadline = Instant::now() + LONG;
        while a.transport.shared.events.free_bytes() >= 256 {
            assert!(Instant::now() < deadline, "there is still room");
            tokio::task::yield_now().await;
        }
        let queued: usize = std::iter::from_fn(|| a.events.try_recv())
            .map(|event| event.size_bytes())
            .sum();
        assert!((90_000..=100_000).contains(&queued), "{queued}");
        assert!(!flood.is_finished());
        flood.abort();
    });
}

#[test]
fn unmatched_answers_are_passed_on_and_counted() {
    run(async {
        let (listener, address) = listener().await;
        let mut node = Node::start(options(1), &[(2, &address)]).await;
        let mut fake = Fake::accept(&listener, 1_000_000).await;
        node.connected().await;
        let answer = Message::ReadIndexResponse(ReadIndexResponse {
            id: 4,
            read_index: None,
        });
        fake.send(
            4711,
            Frame::Raft {
                term: Term(5),
                message: answer.clone(),
            },
        )
        .await;
        assert_eq!(raft(&mut node).await, envelope(2, 1, 4711, answer));
        assert_eq!(node.counter(|c| &c.answers_unmatched), 1);
    });
}

#[test]
fn strangers_are_bounded_and_members_are_not_kept_out() {
    run(async {
        let mut node = Node::start(options(1), &[(2, "127.0.0.1:1")]).await;
        let mut strangers = Vec::new();
        for id in 100..100 + STRANGERS_MAX as u64 {
            strangers.push(Fake::welcome_at(&node.address, id).await);
        }
        let mut one_more = Fake::welcome_at(&node.address, 99).await;
        assert!(one_more.recv().await.is_none());
        node.counts(1, |c| &c.handshakes_refused).await;
        let mut member = Fake::welcome_at(&node.address, 2).await;
        member.send(3, Frame::Ping).await;
        assert_eq!(member.recv().await, Some((3, Frame::Pong)));
    });
}

#[test]
fn events_come_many_at_a_time_and_in_order() {
    run(async {
        let mut node = Node::start(options(1), &[]).await;
        let mut fake = Fake::welcome_at(&node.address, 2).await;
        for round in 0..500 {
            fake.send(
                round + 1,
                Frame::Raft {
                    term: Term(5),
                    message: heartbeat(round),
                },
            )
            .await;
        }
        drop(fake);
        node.counts_frames(500).await;
        let mut events = Vec::new();
        while !matches!(events.last(), Some(Event::Disconnected { by_peer: true, .. })) {
            timeout(LONG, node.events.recv_many(&mut events, 100))
                .await
                .unwrap();
        }
        assert_eq!(events.len(), 501, "its end comes after all that it brought");
    });
}

impl Node {
    /// Waits until so many frames have come, while no event is taken.
    async fn counts_frames(&self, least: u64) {
        let deadline = Instant::now() + LONG;
        while self.counter(|c| &c.frames_in) < least {
            assert!(Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
    }
}
