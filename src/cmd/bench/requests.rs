//! The requests of a load, in RESP.

use bytes::BytesMut;
use clap::ValueEnum;

use crate::base::rng::Rng;
use crate::client::resp::{encode_bulk, head};

/// What requests that are no reads do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Command {
    /// SET key value
    Set,
    /// INCR key
    Incr,
    /// PING, which costs a server nothing but the exchange
    Ping,
}

/// What the requests are like.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    pub(super) command: Command,
    pub(super) reads_percent: u8,
    pub(super) value_bytes: usize,
    /// How many keys there are.
    pub(super) keys: u64,
    pub(super) seed: u64,
}

/// Makes one request after the other.
#[derive(Debug)]
pub(super) struct Requests {
    workload: Workload,
    rng: Rng,
    value: Vec<u8>,
}

impl Requests {
    pub(super) fn new(workload: &Workload) -> Requests {
        let mut rng = Rng::new(workload.seed);
        // Letters and digits at random: nothing that a disk or a log could make shorter for nothing.
        let letter = |_| {
            b"abcdefghijklmnopqrstuvwxyz012345"
                .get(rng.below(32) as usize)
                .copied()
        };
        let value = (0..workload.value_bytes).filter_map(letter).collect();
        Requests {
            workload: workload.clone(),
            rng,
            value,
        }
    }

    /// Puts the next request behind `out`; whether it is a read.
    pub(super) fn put(&mut self, out: &mut BytesMut) -> bool {
        let is_read = self.rng.below(100) < u64::from(self.workload.reads_percent);
        if !is_read && self.workload.command == Command::Ping {
            put(out, &[b"PING"]);
            return false;
        }
        let key = format!("key:{:012}", self.rng.below(self.workload.keys));
        match self.workload.command {
            _ if is_read => put(out, &[b"GET", key.as_bytes()]),
            Command::Set => put(out, &[b"SET", key.as_bytes(), &self.value]),
            // A value of SET is no number.
            Command::Incr | Command::Ping => put(out, &[b"INCR", format!("count:{key}").as_bytes()]),
        }
        is_read
    }
}

/// One request of these words.
pub(super) fn encode(words: &[&[u8]]) -> BytesMut {
    let mut out = BytesMut::new();
    put(&mut out, words);
    out
}

fn put(out: &mut BytesMut, words: &[&[u8]]) {
    head(b'*', words.len() as u64, out);
    words.iter().for_each(|word| encode_bulk(word, out));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_that_were_asked_for() {
        let workload = Workload {
            command: Command::Set,
            reads_percent: 30,
            value_bytes: 3,
            keys: 5,
            seed: 7,
        };
        let mut requests = Requests::new(&workload);
        let (mut reads, mut out) = (0, BytesMut::new());
        for _ in 0..1000 {
            out.clear();
            let is_read = requests.put(&mut out);
            reads += usize::from(is_read);
            let text = String::from_utf8_lossy(&out).into_owned();
            let head = if is_read {
                "*2\r\n$3\r\nGET\r\n"
            } else {
                "*3\r\n$3\r\nSET\r\n"
            };
            assert!(
                text.starts_with(&format!("{head}$16\r\nkey:00000000000")),
                "{text:?}"
            );
        }
        assert!((200..400).contains(&reads), "{reads}");
        assert_eq!(encode(&[b"PING", b""]), &b"*2\r\n$4\r\nPING\r\n$0\r\n\r\n"[..]);
        assert_eq!(encode(&[&[b'x'; 1234]])[..12], *b"*1\r\n$1234\r\nx");
    }
}
