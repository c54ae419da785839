//! Change feeds: one history of the node's state, and its readers.
//!
//! The machine records what each entry has changed, and tells once a turn the readers that a change concerns. It finds
//! them by their prefixes, so that a reader whose keys do not change costs a write nothing. Each connection pulls
//! from the history what it can pass on: nothing is queued for a reader, and one that is too slow finds its place gone
//! from the history, is told so, and keeps nobody waiting.
//!
//! A lock is held for a piece of the history at most. Bounds: the history's own; one entry in two tables for each
//! feed, of which a connection has at most one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::kv::{Cursor, Error, Event, History, Store};

/// What one piece for one reader takes of the node's thread, about: to wake it and to write, and for each byte.
const PIECE_NS: u64 = 20_000;
const BYTE_NS: u64 = 3;

/// All feeds of a node together take one part in so many of that thread: past it each one waits a little longer and
/// gets more at once, or finds its place gone. What a write costs does not grow with their number then.
const SHARE: u64 = 8;

/// No feed waits longer for that reason.
const PACE_MAX: Duration = Duration::from_secs(10);

/// The feeds of a node.
#[derive(Debug)]
pub(crate) struct Feeds {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    history: History,
    /// The number of the first event that readers have not been told of.
    untold: u64,
    readers: BTreeMap<u64, Reader>,
    by_prefix: BTreeMap<Bytes, BTreeSet<u64>>,
    numbers: u64,
}

#[derive(Debug)]
struct Reader {
    prefix: Bytes,
    cursor: Cursor,
    /// There may be something to be read at the cursor; nothing before it concerns this reader.
    has_news: bool,
    /// Why the feed has ended.
    end: Option<Error>,
    news: Arc<Notify>,
}

impl Feeds {
    /// No readers, of a state that has applied this index.
    pub fn new(applied: u64) -> Feeds {
        let history = History::new(applied);
        Feeds {
            shared: Arc::new(Mutex::new(Shared {
                untold: history.end(),
                history,
                readers: BTreeMap::new(),
                by_prefix: BTreeMap::new(),
                numbers: 0,
            })),
        }
    }

    /// Records what the last entry has changed.
    pub fn record(&self, store: &mut Store) {
        store.record_changes(&mut lock(&self.shared).history);
    }

    /// A snapshot has taken the place of the state.
    pub fn jump(&self, index: u64) {
        lock(&self.shared).history.jump(index);
    }

    /// Tells the readers what was recorded since the last time.
    pub fn tell(&self) {
        lock(&self.shared).tell();
    }

    /// A feed of the keys that begin with `prefix` and change after this revision, or from now on.
    ///
    /// # Errors
    /// COMPACTED.
    pub fn start(&self, prefix: Bytes, from: Option<u64>) -> Result<Feed, Error> {
        let mut shared = lock(&self.shared);
        let news = Arc::new(Notify::new());
        let reader = Reader {
            cursor: shared.history.cursor(from)?,
            prefix: prefix.clone(),
            has_news: true,
            end: None,
            news: Arc::clone(&news),
        };
        news.notify_one();
        shared.numbers += 1;
        let number = shared.numbers;
        shared.readers.insert(number, reader);
        shared.by_prefix.entry(prefix).or_default().insert(number);
        Ok(Feed {
            shared: Arc::clone(&self.shared),
            number,
            news,
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        lock(&self.shared).readers.len()
    }

    /// Ends all feeds: their readers are told why.
    pub fn end(&self, error: &Error) {
        for reader in lock(&self.shared).readers.values_mut() {
            reader.end.get_or_insert_with(|| error.clone());
            reader.news.notify_one();
        }
    }
}

impl Shared {
    fn tell(&mut self) {
        let end = self.history.end();
        let untold = std::mem::replace(&mut self.untold, end);
        if self.readers.is_empty() || untold == end {
            return;
        }
        // Some may have left the history before anybody was told: nobody may go on without a look.
        let is_gap = self
            .history
            .since(untold)
            .next()
            .is_none_or(|(first, _)| first > untold);
        if is_gap {
            self.readers.values_mut().for_each(Reader::tell_of_gap);
        }
        let mut told = BTreeSet::new();
        for (sequence, event) in self.history.since(untold) {
            for (prefix, numbers) in matching(&self.by_prefix, event.key().unwrap_or_default()) {
                if told.contains(prefix) {
                    continue;
                }
                let mut all = true;
                for number in numbers {
                    if let Some(reader) = self.readers.get_mut(number) {
                        all &= reader.tell(sequence, event.revision());
                    }
                }
                if all {
                    told.insert(prefix);
                }
            }
        }
    }
}

impl Reader {
    /// This event is the reader's. Whether it knows that there is something to be read.
    fn tell(&mut self, sequence: u64, revision: u64) -> bool {
        if !self.has_news && revision > self.cursor.complete() {
            self.cursor.skip_to(sequence, revision);
            self.has_news = true;
            self.news.notify_one();
        }
        self.has_news
    }

    fn tell_of_gap(&mut self) {
        self.has_news = true;
        self.news.notify_one();
    }
}

/// The entries whose prefix this key begins with, the longest first. Each step looks at the last prefix up to a bound
/// and lowers the bound to what it shares with the key, so that there are not many more steps than results.
fn matching<'a, T>(
    by_prefix: &'a BTreeMap<Bytes, T>,
    key: &[u8],
) -> impl Iterator<Item = (&'a Bytes, &'a T)> {
    let mut bound = Some(key);
    std::iter::from_fn(move || {
        loop {
            let upto = Bound::Included(bound?);
            let (prefix, found) = by_prefix.range::<[u8], _>((Bound::Unbounded, upto)).next_back()?;
            let common = prefix.iter().zip(key).take_while(|(a, b)| a == b).count();
            if common == prefix.len() {
                bound = common.checked_sub(1).and_then(|shorter| key.get(..shorter));
                return Some((prefix, found));
            }
            bound = key.get(..common);
        }
    })
}

/// One reader's place in the history; dropped, the feed ends.
pub struct Feed {
    shared: Arc<Mutex<Shared>>,
    number: u64,
    news: Arc<Notify>,
}

impl Feed {
    /// Appends the next events, a piece of them; whether there are more to be read now. Where there are none the feed
    /// has shown everything up to [`Feed::complete`].
    ///
    /// # Errors
    /// Why the feed has ended: COMPACTED, or what the node says of itself.
    pub fn read(&self, events: &mut Vec<Event>) -> Result<bool, Error> {
        let mut shared = lock(&self.shared);
        let Shared {
            history,
            readers,
            untold,
            ..
        } = &mut *shared;
        let Some(reader) = readers.get_mut(&self.number) else {
            return Ok(false);
        };
        if let Some(end) = &reader.end {
            return Err(end.clone());
        }
        if !reader.has_news {
            if *untold == history.end() {
                reader.cursor.skip_to(history.end(), history.newest() + 1);
            }
            return Ok(false);
        }
        let more = history.read(&mut reader.cursor, &reader.prefix, events)?;
        reader.has_news = more;
        Ok(more)
    }

    /// Everything up to this revision has been shown: where to resume.
    pub fn complete(&self) -> u64 {
        let shared = lock(&self.shared);
        let reader = shared.readers.get(&self.number);
        reader.map_or(0, |reader| reader.cursor.complete())
    }

    /// Waits until there may be something to be read.
    pub async fn changed(&self) {
        self.news.notified().await;
    }

    /// How long to wait after a piece of so many bytes, so that all feeds together leave room for everything else.
    pub fn pace(&self, bytes: usize) -> Duration {
        let readers = lock(&self.shared).readers.len() as u64;
        let took_ns = (bytes as u64).saturating_mul(BYTE_NS).saturating_add(PIECE_NS);
        Duration::from_nanos(took_ns.saturating_mul(readers * SHARE)).min(PACE_MAX)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        let Some(reader) = shared.readers.remove(&self.number) else {
            return;
        };
        if let Some(numbers) = shared.by_prefix.get_mut(&reader.prefix) {
            numbers.remove(&self.number);
            if numbers.is_empty() {
                shared.by_prefix.remove(&reader.prefix);
            }
        }
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Nothing panics while it holds the lock; if it did, the history would still be whole.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
