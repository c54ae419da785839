//! The stream of one connection, cut into frames: the length is checked before anything is kept for it,
//! and the bytes go to [`crate::wire::peer`].

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::wire::peer::LENGTH_BYTES;

/// How much room a read has at least, once a connection is in use.
const READ_BYTES: usize = 64 * 1024;

/// Cuts a stream into frames.
///
/// The buffer grows with what arrives, by doubling, and not with what a length announces; it holds at most
/// one frame of the limit and what one read brought beyond it.
#[derive(Debug)]
pub(super) struct FrameReader {
    buffer: BytesMut,
    max_bytes: usize,
    read_bytes: usize,
}

/// A length above the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {len_bytes} bytes is announced, and {max_bytes} is the limit")]
pub(super) struct TooLong {
    len_bytes: usize,
    max_bytes: usize,
}

impl FrameReader {
    /// A reader of short frames; for the handshake.
    pub(super) fn new(max_bytes: usize) -> FrameReader {
        FrameReader {
            buffer: BytesMut::new(),
            max_bytes,
            read_bytes: 1024,
        }
    }

    /// From here on frames may be this long, and reads are large.
    pub(super) fn set_max_bytes(&mut self, max_bytes: usize) {
        self.max_bytes = max_bytes;
        self.read_bytes = READ_BYTES;
    }

    /// The bytes of the next frame, if all of them have been read. They share the reader's buffer.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, TooLong> {
        let Some(length) = self.buffer.first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let len_bytes = u32::from_be_bytes(*length) as usize;
        if len_bytes > self.max_bytes {
            return Err(TooLong {
                len_bytes,
                max_bytes: self.max_bytes,
            });
        }
        if self.buffer.len() < LENGTH_BYTES + len_bytes {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        Ok(Some(self.buffer.split_to(len_bytes).freeze()))
    }

    /// Reads once. 0 is the end of the stream. Nothing is lost if the future is dropped.
    pub(super) async fn fill(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        // A buffer with a little room left would be read into in small pieces.
        if self.buffer.capacity() - self.buffer.len() < self.read_bytes / 4 {
            self.buffer.reserve(self.read_bytes);
        }
        stream.read_buf(&mut self.buffer).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn frames_come_out_whole_however_they_are_cut() {
        let stream = b"\0\0\0\x03abc\0\0\0\0\0\0\0\x02de\0\0\0\x09tail";
        for cut in 1..stream.len() {
            let mut reader = FrameReader::new(100);
            let mut frames = Vec::new();
            for mut piece in stream.chunks(cut) {
                while run(reader.fill(&mut piece)).unwrap() > 0 {}
                while let Some(frame) = reader.next().unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, [&b"abc"[..], b"", b"de"], "in pieces of {cut}");
        }
    }

    #[test]
    fn trap_3_25_a_length_over_the_limit_is_refused_before_anything_is_kept() {
        let mut reader = FrameReader::new(100);
        run(reader.fill(&mut &b"\0\0\0\x65"[..])).unwrap();
        assert_eq!(
            reader.next(),
            Err(TooLong {
                len_bytes: 101,
                max_bytes: 100
            })
        );
        let mut reader = FrameReader::new(usize::MAX);
        run(reader.fill(&mut &b"\xff\xff\xff\xff...."[..])).unwrap();
        assert_eq!(reader.next(), Ok(None));
        run(reader.fill(&mut &b"...."[..])).unwrap();
        assert!(reader.buffer.capacity() < 10_000, "it grows with what arrives");
    }
}
