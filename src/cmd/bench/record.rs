//! What a load measures.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::answers::Answer;

/// Latencies are kept from 1 µs to this, with three digits.
const LATENCY_MAX: Duration = Duration::from_secs(3600);

/// Latencies in microseconds.
#[derive(Clone, Debug)]
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    fn new() -> Latencies {
        let bounds = Histogram::new_with_bounds(1, LATENCY_MAX.as_micros() as u64, 3);
        // The bounds are right, and constant.
        Latencies(bounds.unwrap_or_else(|error| unreachable!("{error}")))
    }

    fn add(&mut self, latency: Duration) {
        self.0.saturating_record(latency.as_micros() as u64);
    }

    /// The latency that so many percent do not exceed, in microseconds.
    pub(super) fn percentile_us(&self, percent: f64) -> u64 {
        self.0.value_at_percentile(percent)
    }

    pub(super) fn max_us(&self) -> u64 {
        self.0.max()
    }

    pub(super) fn mean_us(&self) -> f64 {
        self.0.mean()
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }
}

/// One second of a load, for the plot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Second {
    /// Requests carried out.
    pub(super) done: u64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) max_us: u64,
}

/// Everything that was measured after the warm-up.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) reads: Latencies,
    pub(super) writes: Latencies,
    /// Errors by code: how many, and the first of them.
    pub(super) errors: BTreeMap<String, (u64, String)>,
    /// Requests whose connection ended before their answer.
    pub(super) lost: u64,
    /// How long was measured.
    pub(super) elapsed: Duration,
    /// Processor time of this program in that time.
    pub(super) cpu: Duration,
    pub(super) seconds: Vec<Second>,
    second: Latencies,
}

impl Outcome {
    pub(super) fn new() -> Outcome {
        Outcome {
            reads: Latencies::new(),
            writes: Latencies::new(),
            errors: BTreeMap::new(),
            lost: 0,
            elapsed: Duration::ZERO,
            cpu: Duration::ZERO,
            seconds: Vec::new(),
            second: Latencies::new(),
        }
    }

    /// An answer has come.
    pub(super) fn add(&mut self, is_read: bool, latency: Duration, answer: Answer) {
        match answer {
            Answer::Done => {
                let kind = if is_read {
                    &mut self.reads
                } else {
                    &mut self.writes
                };
                kind.add(latency);
                self.second.add(latency);
            }
            Answer::Error(text) => {
                let code = text.split(' ').next().unwrap_or_default().to_owned();
                self.errors.entry(code).or_insert((0, text)).0 += 1;
            }
        }
    }

    /// A second has gone by.
    pub(super) fn end_second(&mut self) {
        self.seconds.push(Second {
            done: self.second.count(),
            p50_us: self.second.percentile_us(50.0),
            p99_us: self.second.percentile_us(99.0),
            max_us: self.second.max_us(),
        });
        self.second.0.reset();
    }

    /// Reads and writes together.
    pub(super) fn all(&self) -> Latencies {
        let mut all = self.reads.clone();
        all.0 += &self.writes.0;
        all
    }

    /// Requests carried out.
    pub(super) fn done(&self) -> u64 {
        self.reads.count() + self.writes.count()
    }

    pub(super) fn failed(&self) -> u64 {
        self.errors.values().map(|(count, _)| count).sum()
    }

    /// Requests carried out per second.
    pub(super) fn rate(&self) -> f64 {
        self.done() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// How many percent of one core this program used.
    pub(super) fn cpu_percent(&self) -> f64 {
        100.0 * self.cpu.as_secs_f64() / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}
