//! What waits to be written on one connection, in two lanes, and the calls that wait for answers there.
//!
//! The urgent lane holds what is small and keeps the cluster together: votes, heartbeats, answers. The bulk
//! lane holds entries, chunks of snapshots and forwarded commands, first in, first out. Each write takes
//! everything urgent and then as much of the bulk lane as fits into [`GATHER_BYTES`], and at least one frame of
//! it: a small frame waits for one such write at most (trap 3.27), and a large one is never starved.
//!
//! Memory: each lane is bounded by `queue_max_bytes` and `queue_max_frames`, the calls by `calls_max`. What
//! does not fit is not taken; nobody waits here.

use std::collections::VecDeque;
use std::time::Instant;

use super::Options;
use super::calls::{Calls, Failed};
use crate::raft::Message;
use crate::wire::peer::Frame;

/// About how many bytes one write gathers.
pub(super) const GATHER_BYTES: usize = 256 * 1024;

/// How much of a write the urgent lane may take while the bulk lane has something.
const GATHER_URGENT_BYTES: usize = GATHER_BYTES / 2;

/// The longest reply of a forwarded command that counts as small.
const SMALL_REPLY_BYTES: usize = 4096;

/// A frame to be written.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) request_id: u64,
    pub(super) frame: Frame,
}

/// The lanes and the calls.
#[derive(Debug)]
pub(super) struct Outbox {
    urgent: Lane,
    bulk: Lane,
    pub(super) calls: Calls,
    open: bool,
}

#[derive(Debug)]
struct Lane {
    frames: VecDeque<Outgoing>,
    bytes: usize,
    max_frames: usize,
    max_bytes: usize,
}

impl Lane {
    fn new(options: &Options) -> Lane {
        let (max_frames, max_bytes) = (options.queue_max_frames, options.queue_max_bytes);
        Lane {
            frames: VecDeque::new(),
            bytes: 0,
            max_frames,
            max_bytes,
        }
    }

    fn push(&mut self, outgoing: Outgoing) -> bool {
        let bytes = self.bytes + outgoing.frame.size_bytes();
        // A frame larger than the whole lane still goes when nothing else is there.
        if self.frames.len() >= self.max_frames || (bytes > self.max_bytes && !self.frames.is_empty()) {
            return false;
        }
        self.bytes = bytes;
        self.frames.push_back(outgoing);
        true
    }

    fn pop(&mut self) -> Option<Outgoing> {
        let outgoing = self.frames.pop_front()?;
        self.bytes -= outgoing.frame.size_bytes();
        Some(outgoing)
    }
}

impl Outbox {
    /// Empty and open.
    pub(super) fn new(options: &Options) -> Outbox {
        let calls = Calls::new(options.calls_max);
        Outbox {
            urgent: Lane::new(options),
            bulk: Lane::new(options),
            calls,
            open: true,
        }
    }

    /// Queues the frame; `false` if its lane is full or the connection has ended.
    pub(super) fn push(&mut self, outgoing: Outgoing) -> bool {
        let lane = if is_bulk(&outgoing.frame) {
            &mut self.bulk
        } else {
            &mut self.urgent
        };
        self.open && lane.push(outgoing)
    }

    /// Queues a call. `None`: refused, as in [`Outbox::push`]; otherwise whether its deadline is now the
    /// earliest.
    pub(super) fn push_call(&mut self, outgoing: Outgoing, token: u64, deadline: Instant) -> Option<bool> {
        let request_id = outgoing.request_id;
        if self.calls.is_full() || !self.push(outgoing) {
            return None;
        }
        Some(self.calls.insert(request_id, token, deadline))
    }

    /// Takes the frames of the next write. Calls among them count as written from here on; those that
    /// nobody waits for any more are left out.
    pub(super) fn gather(&mut self, batch: &mut Vec<Outgoing>) {
        let mut bytes = 0;
        let urgent_bytes = if self.bulk.frames.is_empty() {
            GATHER_BYTES
        } else {
            GATHER_URGENT_BYTES
        };
        while bytes < urgent_bytes
            && let Some(outgoing) = self.urgent.pop()
        {
            bytes += outgoing.frame.size_bytes();
            batch.push(outgoing);
        }
        while bytes < GATHER_BYTES
            && let Some(outgoing) = self.bulk.pop()
        {
            if matches!(outgoing.frame, Frame::Forward { .. }) && !self.calls.begin_write(outgoing.request_id)
            {
                continue;
            }
            bytes += outgoing.frame.size_bytes();
            batch.push(outgoing);
        }
    }

    /// Takes nothing any more; what is queued can still be gathered.
    pub(super) fn close(&mut self) {
        self.open = false;
    }

    /// Drops what is queued and takes nothing any more; the calls that now get no answer.
    pub(super) fn end(&mut self) -> Vec<Failed> {
        self.open = false;
        while self.urgent.pop().is_some() || self.bulk.pop().is_some() {}
        self.calls.fail_all()
    }
}

fn is_bulk(frame: &Frame) -> bool {
    match frame {
        Frame::Raft {
            message: Message::AppendEntries(_) | Message::InstallSnapshot(_),
            ..
        }
        | Frame::Forward { .. } => true,
        Frame::ForwardResponse { reply } => reply.len() > SMALL_REPLY_BYTES,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::raft::NodeId;

    fn outbox(queue_max_bytes: usize, queue_max_frames: usize) -> Outbox {
        let options = Options {
            queue_max_bytes,
            queue_max_frames,
            ..Options::new("test", NodeId(1))
        };
        Outbox::new(&options)
    }

    fn forward(request_id: u64, len: usize) -> Outgoing {
        Outgoing {
            request_id,
            frame: Frame::Forward {
                command: Bytes::from(vec![7; len]),
            },
        }
    }

    fn reply(request_id: u64, len: usize) -> Outgoing {
        Outgoing {
            request_id,
            frame: Frame::ForwardResponse {
                reply: Bytes::from(vec![7; len]),
            },
        }
    }

    fn gathered(outbox: &mut Outbox) -> Vec<u64> {
        let mut batch = Vec::new();
        outbox.gather(&mut batch);
        batch.iter().map(|outgoing| outgoing.request_id).collect()
    }

    fn ping() -> Outgoing {
        Outgoing {
            request_id: 0,
            frame: Frame::Ping,
        }
    }

    #[test]
    fn trap_3_27_small_frames_go_first_and_large_ones_are_not_starved() {
        let mut outbox = outbox(1 << 30, 1 << 20);
        for id in 1..=4 {
            assert!(outbox.push(reply(id, 200_000)));
        }
        assert!(outbox.push(ping()) && outbox.push(ping()));
        assert_eq!(gathered(&mut outbox), [0, 0, 1, 2], "about 256 KiB a write");
        for _ in 0..10_000 {
            assert!(outbox.push(ping()));
        }
        assert!(gathered(&mut outbox).contains(&3), "one large frame at least");
        outbox.gather(&mut Vec::new());
        while !gathered(&mut outbox).is_empty() {}
        assert_eq!((outbox.urgent.bytes, outbox.bulk.bytes), (0, 0));
    }

    #[test]
    fn a_full_lane_refuses_and_leaves_the_other_alone() {
        let mut outbox = outbox(300_000, 100);
        assert!(outbox.push(reply(1, 200_000)) && !outbox.push(reply(2, 200_000)));
        assert_eq!((0..200).filter(|_| outbox.push(ping())).count(), 100);
        outbox.gather(&mut Vec::new());
        assert!(
            outbox.push(reply(3, 999_999)),
            "larger than the lane, and alone in it"
        );
    }

    #[test]
    fn a_call_that_nobody_waits_for_is_not_written() {
        let later = Instant::now() + Duration::from_secs(60);
        let mut outbox = outbox(1 << 20, 100);
        for id in 1..=4 {
            assert!(outbox.push_call(forward(id, 10), 100 + id, later).is_some());
        }
        assert!(outbox.calls.cancel(102));
        assert_eq!(gathered(&mut outbox), [1, 3, 4]);
        assert!(outbox.push_call(forward(5, 10), 105, later).is_some());
        let written: Vec<_> = outbox.end().iter().map(|failed| failed.written).collect();
        assert_eq!(written, [true, true, true, false]);
        assert!(outbox.push_call(forward(6, 10), 106, later).is_none() && !outbox.push(ping()));
    }
}
