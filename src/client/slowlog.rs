//! The last commands that took long: SLOWLOG.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::registry::Client;
use super::reply::{Response, value};
use crate::kv::Reply;

/// How many words of a command are kept, and how many bytes of each; Redis's bounds.
const WORDS_MAX: usize = 32;
const WORD_MAX_BYTES: usize = 128;

/// The most that `slowlog-max-len` may be set to: with the bounds above, some 20 MiB.
pub(crate) const LEN_MAX: usize = 4096;

/// The log. Bounded by `len_max`.
#[derive(Debug)]
pub(crate) struct Slowlog {
    /// From which time on a command is slow, in microseconds; `None` keeps none.
    pub(crate) threshold_micros: Option<u64>,
    /// How many are kept, at most [`LEN_MAX`].
    len_max: usize,
    next_id: u64,
    /// Newest first.
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    time_s: u64,
    micros: u64,
    words: Vec<Bytes>,
    address: String,
    name: String,
}

impl Slowlog {
    /// An empty log with Redis's settings: 10 ms, 128 commands.
    pub(crate) fn new() -> Slowlog {
        Slowlog {
            threshold_micros: Some(10_000),
            len_max: 128,
            next_id: 0,
            entries: VecDeque::new(),
        }
    }

    /// Keeps a command, if it took long enough.
    pub(crate) fn on_ended(&mut self, words: &[Bytes], took: Duration, client: &Client) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if self.threshold_micros.is_none_or(|least| micros < least) {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.entries.push_front(Entry {
            id: self.next_id,
            time_s: now.as_secs(),
            micros,
            words: words.iter().map(excerpt).collect(),
            address: client.address.clone(),
            name: client.details().name.clone(),
        });
        self.next_id += 1;
        self.entries.truncate(self.len_max);
    }

    /// How many are kept.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// `slowlog-max-len`.
    pub(crate) fn len_max(&self) -> usize {
        self.len_max
    }

    /// CONFIG SET slowlog-max-len.
    pub(crate) fn set_len_max(&mut self, len: usize) {
        self.len_max = len.min(LEN_MAX);
        self.entries.truncate(self.len_max);
    }

    /// SLOWLOG RESET.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// SLOWLOG GET: the newest ones.
    pub(crate) fn newest(&self, count: usize) -> Response {
        let entries = self.entries.iter().take(count).map(|entry| {
            Reply::List(vec![
                Reply::Integer(entry.id as i64),
                Reply::Integer(entry.time_s as i64),
                Reply::Integer(i64::try_from(entry.micros).unwrap_or(i64::MAX)),
                Reply::List(entry.words.iter().cloned().map(Reply::Value).collect()),
                value(entry.address.clone()),
                value(entry.name.clone()),
            ])
        });
        Reply::List(entries.collect()).into()
    }
}

/// What is kept of a command's words until it is answered. What has a password among them is not kept.
pub(crate) fn words_to_keep(mut words: Vec<Bytes>) -> Vec<Bytes> {
    let is = |name: &str| {
        words
            .first()
            .is_some_and(|word| word.eq_ignore_ascii_case(name.as_bytes()))
    };
    if is("AUTH") || is("HELLO") {
        return Vec::new();
    }
    if words.len() <= WORDS_MAX {
        return words;
    }
    let more = words.len() - (WORDS_MAX - 1);
    words.truncate(WORDS_MAX - 1);
    words.push(Bytes::from(format!("... ({more} more arguments)")));
    words.shrink_to_fit();
    words
}

/// A copy, so that the log holds on to no buffer.
fn excerpt(word: &Bytes) -> Bytes {
    match word.get(..WORD_MAX_BYTES) {
        Some(start) if word.len() > WORD_MAX_BYTES => {
            let more = format!("... ({} more bytes)", word.len() - WORD_MAX_BYTES);
            Bytes::from([start, more.as_bytes()].concat())
        }
        _ => Bytes::copy_from_slice(word),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::client::registry::Registry;
    use crate::node::ReadMode;

    #[test]
    fn slow_commands_are_kept_cut_and_counted() {
        let registry = Arc::new(Registry::default());
        let client = registry.register("a:1".into(), String::new(), ReadMode::Quorum);
        let mut log = Slowlog::new();
        log.set_len_max(2);
        let words = [Bytes::from_static(b"SET"), Bytes::from(vec![b'x'; 200])];
        log.on_ended(&words, Duration::from_micros(9_999), client.client());
        assert_eq!(log.len(), 0);
        for millis in [10, 20, 30] {
            log.on_ended(&words, Duration::from_millis(millis), client.client());
        }
        assert_eq!(log.len(), 2);
        let Response::Reply(Reply::List(entries)) = log.newest(1) else {
            panic!()
        };
        let Reply::List(newest) = &entries[0] else {
            panic!()
        };
        assert_eq!(
            (&newest[0], &newest[2]),
            (&Reply::Integer(2), &Reply::Integer(30_000))
        );
        let cut = format!("{}... (72 more bytes)", "x".repeat(128));
        assert_eq!(newest[3], Reply::List(vec![value("SET"), value(cut)]));
        log.threshold_micros = None;
        log.clear();
        log.on_ended(&words, Duration::from_secs(5), client.client());
        assert_eq!(log.len(), 0);
    }

    #[test]
    fn passwords_are_not_kept_and_long_commands_are_cut() {
        let words = |line: &str| line.split(' ').map(|word| Bytes::from(word.to_owned())).collect();
        assert!(words_to_keep(words("auth secret")).is_empty());
        assert!(words_to_keep(words("HELLO 3 AUTH me secret")).is_empty());
        let kept = words_to_keep(words(&["DEL"; 40].join(" ")));
        assert_eq!((kept.len(), &kept[31][..]), (32, &b"... (9 more arguments)"[..]));
    }
}
