//! What each command did and how long it took, for INFO commandstats and LATENCY HISTOGRAM.
//!
//! The time of a command is that from the moment its words were read to the moment its answer was there: of a
//! write it includes the way to the disks of a majority, and of a follower the way to the leader.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::table;

/// One figure for each power of two, in microseconds: up to 1, 2, 4, … µs; the last one takes what is longer.
const BUCKETS: usize = 32;

/// The figures of all commands of the table.
#[derive(Debug)]
pub(crate) struct CommandStats {
    /// By [`table::Place`].
    stats: Vec<Stat>,
}

/// The figures of one command. All begin at 0.
#[derive(Debug, Default)]
pub(crate) struct Stat {
    calls: AtomicU64,
    micros: AtomicU64,
    /// Refused before anything was tried: wrong words, no room.
    rejected: AtomicU64,
    /// Tried, and answered with an error.
    failed: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Answered.
    Done,
    /// Answered with an error.
    Failed,
    /// Refused before anything was tried.
    Rejected,
}

impl CommandStats {
    /// All at 0.
    pub(crate) fn new() -> CommandStats {
        let stats = table::sorted().iter().map(|_| Stat::default());
        CommandStats {
            stats: stats.collect(),
        }
    }

    /// Counts a command.
    pub(crate) fn on_ended(&self, place: table::Place, ending: Ending, took: Duration) {
        let Some(stat) = self.stats.get(place.0) else {
            return;
        };
        match ending {
            Ending::Rejected => return add(&stat.rejected, 1),
            Ending::Failed => add(&stat.failed, 1),
            Ending::Done => {}
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        add(&stat.calls, 1);
        add(&stat.micros, micros);
        if let Some(bucket) = stat.buckets.get(bucket_of(micros)) {
            add(bucket, 1);
        }
    }

    /// The commands that were ever sent, with their names in small letters, in the order of the alphabet.
    pub(crate) fn seen(&self) -> impl Iterator<Item = (String, &Stat)> {
        let named = table::sorted().iter().zip(&self.stats);
        named
            .filter(|(_, stat)| stat.calls() + load(&stat.rejected) > 0)
            .map(|(row, stat)| (row.name.to_ascii_lowercase(), stat))
    }

    /// All at 0 again.
    pub(crate) fn reset(&self) {
        for stat in &self.stats {
            let counters = [&stat.calls, &stat.micros, &stat.rejected, &stat.failed];
            for counter in counters.into_iter().chain(&stat.buckets) {
                counter.store(0, Ordering::Relaxed);
            }
        }
    }
}

impl Stat {
    /// How often it was tried.
    pub(crate) fn calls(&self) -> u64 {
        load(&self.calls)
    }

    /// Its line of INFO commandstats, without its name.
    pub(crate) fn line(&self) -> String {
        let (calls, micros) = (self.calls(), load(&self.micros));
        format!(
            "calls={calls},usec={micros},usec_per_call={:.2},rejected_calls={},failed_calls={}",
            micros as f64 / calls.max(1) as f64,
            load(&self.rejected),
            load(&self.failed)
        )
    }

    /// How many calls took at most so many microseconds, for each bound at which that number grows.
    pub(crate) fn histogram(&self) -> Vec<(u64, u64)> {
        let mut sum = 0;
        let mut histogram = Vec::new();
        for (power, bucket) in self.buckets.iter().enumerate() {
            let count = load(bucket);
            sum += count;
            if count > 0 {
                histogram.push((1 << power, sum));
            }
        }
        histogram
    }
}

/// The smallest power of two that is not below.
fn bucket_of(micros: u64) -> usize {
    let power = u64::BITS - micros.saturating_sub(1).leading_zeros();
    (power as usize).min(BUCKETS - 1)
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_cumulative() {
        for (micros, bound) in [(0, 1), (1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (1000, 1024)] {
            assert_eq!(1 << bucket_of(micros), bound, "{micros}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        let stats = CommandStats::new();
        let place = table::place(b"get").unwrap();
        for micros in [3, 1, 4, 700] {
            stats.on_ended(place, Ending::Done, Duration::from_micros(micros));
        }
        stats.on_ended(place, Ending::Failed, Duration::from_micros(4));
        stats.on_ended(place, Ending::Rejected, Duration::from_micros(4));
        let (name, stat) = stats.seen().next().unwrap();
        assert_eq!(name, "get");
        assert_eq!(stat.histogram(), [(1, 1), (4, 4), (1024, 5)]);
        assert_eq!(
            stat.line(),
            "calls=5,usec=712,usec_per_call=142.40,rejected_calls=1,failed_calls=1"
        );
        stats.reset();
        assert_eq!(stats.seen().count(), 0);
    }
}
