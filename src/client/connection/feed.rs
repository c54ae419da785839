//! The connection's change feed: events leave between the replies.
//!
//! The feed is pulled, a piece at a time, and the next piece only when the last one is written. So a client that reads
//! too slowly stops its own feed and no other: when its place has left the history, or it reads nothing at all for
//! `stall_timeout`, the connection ends.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use crate::client::reply::Encoding;
use crate::kv::{Code, Error, Event, Reply};
use crate::node::Feed;

use super::{Connection, Phase};

/// A feed that is on.
pub(super) struct Following {
    feed: Feed,
    /// The encoding of the request, but for the version of RESP, which may change.
    encoding: Encoding,
    /// There is more to be read now.
    more: bool,
    /// Not read again before this.
    not_before: Instant,
    /// When a bookmark is sent, if nothing else is.
    mark_at: Instant,
}

impl Following {
    pub(super) fn new(feed: Feed, encoding: Encoding, mark_interval: Duration) -> Following {
        let now = Instant::now();
        Following {
            feed,
            encoding,
            more: true,
            not_before: now,
            mark_at: now + mark_interval,
        }
    }

    /// Waits until there is something to be sent, or may be. Nothing is lost if the wait is given up.
    pub(super) async fn due(&self) {
        if self.not_before > Instant::now() {
            sleep_until(self.not_before).await;
        }
        if self.more {
            // Others have their turn between two pieces.
            return yield_now().await;
        }
        tokio::select! {
            () = self.feed.changed() => {}
            () = sleep_until(self.mark_at) => {}
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    /// Sends the next events of the feed, or the bookmark that is due.
    pub(super) async fn write_events(&mut self) -> io::Result<()> {
        let Some(following) = &mut self.feed else {
            return Ok(());
        };
        let mut events = Vec::new();
        match following.feed.read(&mut events) {
            Ok(more) => following.more = more,
            Err(error) => return self.end_feed(error).await,
        }
        let now = Instant::now();
        if events.is_empty() && !following.more && now >= following.mark_at {
            events.push(Event::mark(following.feed.complete()));
        }
        if events.is_empty() {
            return Ok(());
        }
        following.mark_at = now + self.service.options.mark_interval;
        let encoding = following.encoding.at_version(self.session.resp3());
        let mut bytes = 0;
        for event in &events {
            let before = self.output.len();
            encoding.put_event(event, &mut self.output);
            bytes += self.output.len() - before;
            // One piece may hold large values.
            self.flush_if_full().await?;
        }
        if let Some(following) = &mut self.feed {
            following.not_before = now + following.feed.pace(bytes);
        }
        self.flush().await
    }

    /// The feed can't go on: the client is told why and from where on, and the connection closes.
    pub(super) async fn end_feed(&mut self, mut error: Error) -> io::Result<()> {
        let Some(following) = self.feed.take() else {
            return Ok(());
        };
        if error.code != Code::Compacted {
            error.text = format!("{}, FROM {}", error.text, following.feed.complete()).into();
        }
        if self.phase != Phase::Draining {
            self.phase = Phase::Closing;
        }
        self.service.counters.on_error(error.code);
        let encoding = following.encoding.at_version(self.session.resp3());
        encoding.put(&Reply::Error(error), &mut self.output);
        self.flush().await
    }
}
