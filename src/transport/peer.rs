//! One member as we dial it: connect, shake hands, keep the connection, and after its end dial anew, with a
//! back-off that grows up to a second and has jitter, so that a restarted node is not met by all the others
//! at once. A member that dials us is there, so then the wait is cut short.
//!
//! The log says when a connection comes and goes and why there is none, but not each time in a loop.
//!
//! Memory: one connection at a time, and the last reason that was logged.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::codec::FrameReader;
use super::connection::{Connection, End, Link, PeerInfo, Side};
use super::event::{Event, Room};
use super::handshake::{self, HandshakeError};
use super::members::Refusal;
use super::{Shared, lock};
use crate::base::rng::Rng;
use crate::net::LogLimit;
use crate::raft::NodeId;
use crate::wire::peer::HANDSHAKE_MAX_BYTES;

/// How long the same complaint about a member is not repeated.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// So much longer than the longest back-off a refused node waits: until the member is told to take it, and dials it.
const REFUSED_PAUSES: u32 = 5;

/// A member, as [`super::Transport`] and its dialer share it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) address: String,
    /// Why there is none, where one of the two refuses the other, as the driver was told.
    pub(super) refusal: Mutex<Option<Refusal>>,
    /// The connection that we dialed, while it is through its handshake.
    pub(super) link: Mutex<Option<Arc<Link>>>,
    /// The member has just dialed us, so it is there: no need to wait any longer.
    pub(super) is_there: Notify,
    /// No longer a member, or at another address: stop dialing and close.
    pub(super) gone: CancellationToken,
}

/// The task that dials one member.
pub(super) struct Dialer {
    shared: Arc<Shared>,
    peer: NodeId,
    member: Arc<Member>,
    backoff: Backoff,
    said: Option<(String, Instant)>,
    /// For what the log says of a connection that comes and goes.
    log_limit: LogLimit,
    /// The last connection did not last: the log says little of the next ones.
    flaps: bool,
    /// One of the two refuses the other: that takes a human to change.
    refused: bool,
}

impl Dialer {
    pub(super) fn new(shared: &Arc<Shared>, peer: NodeId, member: &Arc<Member>) -> Dialer {
        let options = &shared.options;
        // The two ids make the waits of every pair differ, also where all nodes have one seed.
        let seed = shared.seed ^ peer.0.rotate_left(32) ^ options.node_id.0;
        let backoff = Backoff::new(options.backoff_min, options.backoff_max, seed);
        Dialer {
            shared: Arc::clone(shared),
            peer,
            member: Arc::clone(member),
            backoff,
            said: None,
            log_limit: LogLimit::default(),
            flaps: false,
            refused: false,
        }
    }

    /// Dials until shutdown, or until the member is gone.
    pub(super) async fn run(mut self) {
        let (drain, gone) = (self.shared.drain.clone(), self.member.gone.clone());
        loop {
            let connected = tokio::select! {
                biased;
                () = drain.cancelled() => return,
                () = gone.cancelled() => return,
                connected = self.connect() => connected,
            };
            match connected {
                Ok(Some(connected)) => self.serve(connected).await,
                Ok(None) => return,
                Err(error) => self.on_error(&error).await,
            }
            tokio::select! {
                biased;
                () = drain.cancelled() => return,
                () = gone.cancelled() => return,
                () = self.pause() => {}
            }
        }
    }

    /// `None`: nobody listens to events any more.
    async fn connect(&self) -> Result<Option<Connected>, HandshakeError> {
        let (Some(come), Some(go)) = (
            self.shared.events.room_for_news().await,
            self.shared.events.room_for_news().await,
        ) else {
            return Ok(None);
        };
        let attempt = timeout(self.shared.options.handshake_timeout, self.dial());
        let (stream, reader, info) = attempt.await.map_err(|_| HandshakeError::TimedOut)??;
        Ok(Some(Connected {
            stream,
            reader,
            info,
            come,
            go,
        }))
    }

    async fn dial(&self) -> Result<(TcpStream, FrameReader, PeerInfo), HandshakeError> {
        let mut stream = TcpStream::connect(&self.member.address).await?;
        self.shared.options.socket().apply(&stream)?;
        let mut reader = FrameReader::new(HANDSHAKE_MAX_BYTES);
        let us = self.shared.identity();
        let welcome = handshake::dial(&us, self.peer, &mut stream, &mut reader).await?;
        let info = PeerInfo {
            node_id: self.peer,
            cluster_id: welcome.cluster_id,
            incarnation: welcome.incarnation,
            membership_index: welcome.membership_index,
            frame_max_bytes: welcome.frame_max_bytes,
        };
        Ok((stream, reader, info))
    }

    async fn serve(&mut self, connected: Connected) {
        let Connected {
            stream,
            reader,
            info,
            come,
            go,
        } = connected;
        let started = Instant::now();
        let (peer, incarnation) = (self.peer, info.incarnation);
        let link = Link::new(&self.shared, Side::Dialed, info, self.member.gone.child_token());
        *lock(&self.member.link) = Some(Arc::clone(&link));
        *lock(&self.member.refusal) = None;
        self.refused = false;
        self.shared.close_if_unfit(&link);
        self.shared.counters.opened(self.peer);
        self.said = None;
        self.report("connected");
        self.shared
            .events
            .push(Event::Connected { peer, incarnation }, Some(come));
        let end = Connection::new(&self.shared, &link)
            .run(stream, reader, Some(go))
            .await;
        *lock(&self.member.link) = None;
        if let End::Malformed(reason) = &end {
            self.shared.on_malformed(&format!("node {}", self.peer), reason);
        }
        self.report(&format!("disconnected: {end}"));
        // A connection that never lasts is dialed less and less often, though each handshake is good.
        self.flaps = started.elapsed() < self.shared.options.backoff_max;
        if !self.flaps {
            self.backoff.reset();
        }
    }

    fn report(&self, news: &str) {
        let unsaid = if self.flaps {
            self.log_limit.allow()
        } else {
            Some(0)
        };
        if let Some(unsaid) = unsaid {
            tracing::info!(peer = %self.peer, address = self.member.address, unsaid, "{news}");
        }
    }

    async fn pause(&mut self) {
        let delay = if self.refused {
            self.shared.options.backoff_max * REFUSED_PAUSES
        } else {
            self.backoff.next()
        };
        let least = delay.min(self.shared.options.backoff_min);
        sleep(least).await;
        tokio::select! {
            () = sleep(delay - least) => {}
            () = self.member.is_there.notified() => {}
        }
    }

    async fn on_error(&mut self, error: &HandshakeError) {
        self.complain(&error.to_string());
        let refusal = match error {
            HandshakeError::RefusedByPeer(reason) => Some(Refusal::ByPeer(reason.clone())),
            HandshakeError::Wiped { .. } => Some(Refusal::Wiped),
            HandshakeError::Refused(reason) => Some(Refusal::ByUs(reason.clone())),
            HandshakeError::Io(_) | HandshakeError::TimedOut | HandshakeError::Malformed(_) => None,
        };
        self.refused = refusal.is_some();
        if let Some(refusal) = refusal {
            self.shared.report_refusal(self.peer, refusal).await;
        }
    }

    /// Logs why there is no connection: once, then again when the reason changes or a minute has passed.
    fn complain(&mut self, reason: &str) {
        let now = Instant::now();
        let repeated =
            |(said, at): &(String, Instant)| said == reason && now.duration_since(*at) < SAY_AGAIN_AFTER;
        if self.said.as_ref().is_some_and(repeated) {
            return;
        }
        tracing::warn!(peer = %self.peer, address = self.member.address, reason, "no connection; dialing on");
        self.said = Some((reason.to_owned(), now));
    }
}

/// A connection through its handshake, with the room for the news that it has come and gone.
struct Connected {
    stream: TcpStream,
    reader: FrameReader,
    info: PeerInfo,
    come: Room,
    go: Room,
}

/// How long to wait before dialing again: a random time between `min` and a ceiling that doubles from
/// `min` to `max`.
#[derive(Debug)]
struct Backoff {
    min: Duration,
    max: Duration,
    ceiling: Duration,
    rng: Rng,
}

impl Backoff {
    fn new(min: Duration, max: Duration, seed: u64) -> Backoff {
        Backoff {
            min,
            max: max.max(min),
            ceiling: min,
            rng: Rng::new(seed),
        }
    }

    fn next(&mut self) -> Duration {
        let spread = (self.ceiling - self.min).as_micros() as u64;
        let delay = self.min + Duration::from_micros(self.rng.below(spread.saturating_add(1)));
        self.ceiling = self.max.min(self.ceiling * 2);
        delay
    }

    fn reset(&mut self) {
        self.ceiling = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Members, Options, Transport};
    use super::*;

    #[test]
    fn the_back_off_grows_with_jitter_and_begins_anew() {
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(1));
        let mut backoff = Backoff::new(min, max, 7);
        let mut same = Backoff::new(min, max, 7);
        let delays: Vec<_> = (0..50).map(|_| backoff.next()).collect();
        assert!(
            delays.iter().all(|delay| *delay == same.next()),
            "the seed decides"
        );
        assert_eq!(delays[0], min, "the first is short");
        assert!(delays[1] <= 2 * min);
        assert!(delays.iter().all(|delay| (min..=max).contains(delay)));
        assert!(delays.iter().max() > Some(&(max / 2)));
        backoff.reset();
        assert_eq!(backoff.next(), min);
    }

    #[test]
    fn a_member_that_dials_cuts_the_wait_short() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = crate::net::listen("127.0.0.1:0").await.unwrap();
            let options = Options::new("test", NodeId(1));
            let (transport, _events) = Transport::start(options, listener, Members::default(), 7);
            let member = Arc::new(Member {
                address: String::new(),
                refusal: Mutex::default(),
                link: Mutex::new(None),
                is_there: Notify::new(),
                gone: CancellationToken::new(),
            });
            let mut dialer = Dialer::new(&transport.shared, NodeId(2), &member);
            let hours = Duration::from_secs(36_000);
            dialer.backoff = Backoff::new(Duration::from_millis(1), hours, 7);
            dialer.backoff.ceiling = hours;
            assert!(
                dialer.backoff.rng.clone().below(36_000) > 60,
                "it would take minutes"
            );
            member.is_there.notify_one();
            timeout(Duration::from_secs(20), dialer.pause())
                .await
                .expect("still waiting");
        });
    }
}
