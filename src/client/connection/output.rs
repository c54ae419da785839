//! The way out: replies leave in the order of their requests, everything that is ready in one write.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::client::reply::{Encoding, Response};
use crate::client::table::err;
use crate::client::walk::{Draw, First, ScanWalk, Walker, random};
use crate::kv::Reply;
use crate::node::Feed;

use super::feed::Following;
use super::{Connection, Phase, READ_MIN_BYTES, State, timed_out};

/// Output is written when it has so many bytes, even if more is ready.
const WRITE_BYTES: usize = 128 << 10;

/// The same while all connections together hold too much.
const WRITE_SHORT_BYTES: usize = 8 << 10;

/// How long a closing connection is read on, so that the last reply is not lost with what was unread.
const LINGER: Duration = Duration::from_secs(1);

/// How much of it is read on.
const LINGER_MAX_BYTES: usize = 16 << 20;

/// The same when the node shuts down and the client has done nothing wrong.
const LINGER_DRAINED: Duration = Duration::from_millis(100);

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    /// Writes the replies of the oldest requests as far as they are there; how many it was.
    pub(super) async fn write_ready(&mut self) -> io::Result<usize> {
        let mut answered = 0;
        while self
            .slots
            .front()
            .is_some_and(|slot| !matches!(slot.state, State::Waiting(_)))
        {
            let Some(slot) = self.slots.pop_front() else { break };
            self.first_ticket += 1;
            self.slots_bytes -= slot.bytes;
            answered += 1;
            if slot.ends_feed {
                self.feed = None;
            }
            match slot.state {
                State::Waiting(_) => {}
                _ if slot.is_silent => {}
                State::Ready(response) => self.put(slot.encoding, &response).await?,
                State::Feed(feed) => self.begin_feed(slot.encoding, feed).await?,
                State::Walk(view, walk) => self.put_walk(slot.encoding, Walker::new(*view, &walk)).await?,
                State::Scan(view, from, step) => {
                    self.put_scan(slot.encoding, ScanWalk::new(*view, from, step))
                        .await?;
                }
                State::Draw(view) => self.put_draw(slot.encoding, Draw::new(*view, random())).await?,
            }
        }
        self.flush().await?;
        Ok(answered)
    }

    async fn begin_feed(&mut self, encoding: Encoding, feed: Feed) -> io::Result<()> {
        if self.feed.is_some() {
            let text = "a change feed is on; nothing was done: UNFEED first, or use another connection";
            return self.put(encoding, &err(text).into()).await;
        }
        let mark_interval = self.service.options.mark_interval;
        self.feed = Some(Following::new(feed, encoding, mark_interval));
        self.put(encoding, &Reply::Ok.into()).await
    }

    async fn put(&mut self, encoding: Encoding, response: &Response) -> io::Result<()> {
        match response {
            // A long list of large values is never in memory as a whole.
            Response::Reply(Reply::List(replies)) => {
                encoding.put_list_head(replies.len() as u64, &mut self.output);
                for reply in replies {
                    match reply {
                        Reply::Value(value) => self.put_value(encoding, value).await?,
                        reply => encoding.put(reply, &mut self.output),
                    }
                    self.flush_if_full().await?;
                }
            }
            Response::Reply(Reply::Value(value)) => self.put_value(encoding, value).await?,
            other => encoding.put_response(other, &mut self.output),
        }
        self.flush_if_full().await
    }

    /// A large value is never copied as a whole.
    async fn put_value(&mut self, encoding: Encoding, value: &[u8]) -> io::Result<()> {
        let mut from = Some(0);
        while let Some(at) = from {
            self.flush_if_full().await?;
            from = encoding.put_piece(value, at, &mut self.output);
        }
        Ok(())
    }

    async fn put_walk(&mut self, encoding: Encoding, mut walker: Walker) -> io::Result<()> {
        let mut body = BytesMut::new();
        let mut count = match walker.first(encoding, &mut body) {
            First::All(count) => {
                encoding.put_list_head(count, &mut self.output);
                self.output.extend_from_slice(&body);
                return self.flush_if_full().await;
            }
            First::Some(count) => count,
        };
        drop(body);
        while let Some(more) = walker.count() {
            count += more;
            yield_now().await;
        }
        encoding.put_list_head(count, &mut self.output);
        walker.restart();
        while walker.piece(encoding, WRITE_BYTES, &mut self.output) {
            self.flush_if_full().await?;
            yield_now().await;
        }
        Ok(())
    }

    async fn put_scan(&mut self, encoding: Encoding, mut scan: ScanWalk) -> io::Result<()> {
        while scan.seek() {
            yield_now().await;
        }
        let (next, walker) = scan.finish();
        let cursor = next.map_or(0, |key| self.service.remember_cursor(key));
        encoding.put_list_head(2, &mut self.output);
        encoding.put_value(cursor.to_string().as_bytes(), &mut self.output);
        self.put_walk(encoding, walker).await
    }

    async fn put_draw(&mut self, encoding: Encoding, mut draw: Draw) -> io::Result<()> {
        while draw.walk() {
            yield_now().await;
        }
        let reply = draw.key().map_or(Reply::Nil, Reply::Value);
        self.put(encoding, &reply.into()).await
    }

    pub(super) async fn flush_if_full(&mut self) -> io::Result<()> {
        let is_full = match self.service.budget.is_over() {
            true => self.output.len() >= WRITE_SHORT_BYTES,
            false => self.output.len() >= WRITE_BYTES,
        };
        if !is_full { Ok(()) } else { self.flush().await }
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        self.settle();
        let mut rest = self.output.as_ref();
        while !rest.is_empty() {
            let written = timeout(self.service.options.stall_timeout, self.stream.write(rest)).await;
            let written = written.map_err(|_| {
                self.service.counters.on_stalled();
                timed_out("the client does not read its replies")
            })??;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.service.counters.on_written(written);
            self.session.client().on_written(written);
            rest.advance(written);
        }
        self.output.clear();
        if self.output.capacity() > 2 * WRITE_BYTES {
            self.output = BytesMut::new();
        }
        self.stream.flush().await
    }

    /// Ends the connection so that the client gets the last reply: closing a socket with unread input would
    /// throw away what is on its way to the client.
    pub(super) async fn close(&mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        if self.phase == Phase::HalfClosed {
            return Ok(());
        }
        let mut left = LINGER_MAX_BYTES;
        let read_on = async {
            while left > 0 {
                self.input.clear();
                self.input.reserve(READ_MIN_BYTES);
                match self.stream.read_buf(&mut self.input).await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
            Ok(())
        };
        let linger = if self.phase == Phase::Draining {
            LINGER_DRAINED
        } else {
            LINGER
        };
        timeout(linger, read_on).await.unwrap_or(Ok(()))
    }
}
