//! What a load measured, for people and for programs.

use std::fmt::Write;

use serde_json::json;

use super::record::{Latencies, Outcome};
use super::requests::Command;
use super::{Pace, Plan};
use crate::base::units::{duration, size};

/// What ran, in a line.
pub(super) fn headline(plan: &Plan) -> String {
    let servers: Vec<String> = plan.servers.iter().map(ToString::to_string).collect();
    let pace = match plan.pace {
        Pace::Closed(depth) => format!("closed loop, {depth} deep"),
        Pace::Open(rate) => format!("open loop, {rate} requests/s"),
    };
    let workload = &plan.workload;
    let name = match workload.command {
        Command::Set => format!("SET of {}", size(workload.value_bytes as u64)),
        Command::Incr => "INCR".into(),
        Command::Ping => "PING".into(),
    };
    let requests = match workload.reads_percent {
        0 => name,
        100 => "GET".into(),
        reads => format!("{reads} % GET, {} % {name}", 100 - reads),
    };
    format!(
        "{} connections to {}, {pace}: {requests}, {} keys; {} after {} of warm-up",
        plan.connections,
        servers.join(", "),
        workload.keys,
        duration(plan.duration),
        duration(plan.warmup)
    )
}

/// The table for people.
pub(super) fn text(plan: &Plan, outcome: &Outcome) -> String {
    let mut out = headline(plan);
    let mut line = |text: String| {
        // A String takes everything.
        let _ = write!(out, "\n{text}");
    };
    line(String::new());
    line(format!(
        "{:<8} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}   latency in µs",
        "", "requests", "/s", "p50", "p90", "p99", "p99.9", "max"
    ));
    let (reads, writes) = (&outcome.reads, &outcome.writes);
    for (name, latencies) in [("reads", reads), ("writes", writes)] {
        if latencies.count() > 0 {
            line(row(name, latencies, outcome));
        }
    }
    if reads.count() > 0 && writes.count() > 0 {
        line(row("all", &outcome.all(), outcome));
    }
    for (count, first) in outcome.errors.values() {
        line(format!("{count} errors such as: {first}"));
    }
    if outcome.lost > 0 {
        line(format!(
            "{} requests without an answer, since their connection ended",
            outcome.lost
        ));
    }
    line(format!(
        "this program used {:.0} % of one core",
        outcome.cpu_percent()
    ));
    out
}

fn row(name: &str, latencies: &Latencies, outcome: &Outcome) -> String {
    let rate = latencies.count() as f64 / outcome.elapsed.as_secs_f64();
    let [p50, p90, p99, p999] = [50.0, 90.0, 99.0, 99.9].map(|percent| latencies.percentile_us(percent));
    format!(
        "{name:<8} {:>10} {rate:>10.0} {p50:>10} {p90:>10} {p99:>10} {p999:>10} {:>10}",
        latencies.count(),
        latencies.max_us()
    )
}

/// One JSON object on one line. Latencies are in microseconds.
pub(super) fn json(plan: &Plan, outcome: &Outcome) -> String {
    let (depth, rate) = match plan.pace {
        Pace::Closed(depth) => (Some(depth), None),
        Pace::Open(rate) => (None, Some(rate)),
    };
    let errors: serde_json::Map<_, _> = outcome
        .errors
        .iter()
        .map(|(code, (count, first))| (code.clone(), json!({"count": count, "first": first})))
        .collect();
    let seconds: Vec<_> = outcome
        .seconds
        .iter()
        .map(|second| json!({"done": second.done, "p50": second.p50_us, "p99": second.p99_us, "max": second.max_us}))
        .collect();
    json!({
        "servers": plan.servers,
        "connections": plan.connections,
        "pipeline": depth,
        "target_rate": rate,
        "command": format!("{:?}", plan.workload.command).to_lowercase(),
        "reads_percent": plan.workload.reads_percent,
        "value_bytes": plan.workload.value_bytes,
        "keys": plan.workload.keys,
        "seconds_measured": outcome.elapsed.as_secs_f64(),
        "rate": outcome.rate(),
        "done": outcome.done(),
        "failed": outcome.failed(),
        "lost": outcome.lost,
        "errors": errors,
        "latency": latency(&outcome.all()),
        "read_latency": latency(&outcome.reads),
        "write_latency": latency(&outcome.writes),
        "cpu_percent": outcome.cpu_percent(),
        "seconds": seconds,
    })
    .to_string()
}

fn latency(latencies: &Latencies) -> serde_json::Value {
    if latencies.count() == 0 {
        return serde_json::Value::Null;
    }
    let at = |percent| latencies.percentile_us(percent);
    json!({
        "count": latencies.count(),
        "mean": latencies.mean_us(),
        "p50": at(50.0),
        "p90": at(90.0),
        "p99": at(99.0),
        "p99.9": at(99.9),
        "p99.99": at(99.99),
        "max": latencies.max_us(),
    })
}
