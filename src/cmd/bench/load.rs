//! The loop: one thread, all connections, one `epoll`.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::connection::Connection;
use super::record::Outcome;
use super::requests::Requests;
use super::{Pace, Plan, UNDER_WAY_MAX};

const SECOND: Duration = Duration::from_secs(1);

/// A connection that ended is opened again after this time.
const RECONNECT: Duration = Duration::from_millis(100);

struct Load<'a> {
    plan: &'a Plan,
    epoll: OwnedFd,
    connections: Vec<Option<Connection>>,
    /// Connections that are to be opened again, and when, the earliest first.
    broken: VecDeque<(Instant, usize)>,
    requests: Requests,
    outcome: Outcome,
    /// The open loop's first request, and how many it has sent.
    begin: Instant,
    sent: u64,
    /// How many connections were opened again, or tried to be.
    reopened: usize,
    /// The last reason for which a connection could not be used.
    trouble: Option<anyhow::Error>,
}

/// Runs the load to its end.
///
/// # Errors
/// Where not all connections can be opened at the start, or none is left.
pub(super) fn run(plan: &Plan) -> anyhow::Result<Outcome> {
    let mut load = Load::open(plan)?;
    let bar = progress(plan);
    let begin = Instant::now();
    load.start(begin);
    load.run_until(begin + plan.warmup, &bar)?;
    load.outcome = Outcome::new();
    let (measured, cpu) = (Instant::now(), cpu_time());
    let end = measured + plan.duration;
    let mut next = measured;
    while next < end {
        next = (next + SECOND).min(end);
        load.run_until(next, &bar)?;
        load.outcome.end_second();
        let last = load.outcome.seconds.last();
        let (done, p50) = last.map_or((0, 0), |second| (second.done, second.p50_us));
        bar.set_message(format!("{done} requests/s, p50 {p50} µs"));
    }
    load.outcome.elapsed = measured.elapsed();
    load.outcome.cpu = cpu_time().saturating_sub(cpu);
    bar.finish_and_clear();
    // What is still under way is not measured: its answers would be missing elsewhere.
    Ok(load.outcome)
}

impl<'a> Load<'a> {
    fn open(plan: &'a Plan) -> anyhow::Result<Load<'a>> {
        let mut load = Load {
            plan,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            connections: Vec::new(),
            broken: VecDeque::new(),
            requests: Requests::new(&plan.workload),
            outcome: Outcome::new(),
            begin: Instant::now(),
            sent: 0,
            reopened: 0,
            trouble: None,
        };
        for n in 0..plan.connections {
            let connection = load
                .connect(n, load.server(n))
                .with_context(|| format!("{n} of {} connections are open", plan.connections))?;
            load.connections.push(Some(connection));
        }
        Ok(load)
    }

    fn server(&self, n: usize) -> SocketAddr {
        let servers = &self.plan.servers;
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        servers
            .get(n % servers.len().max(1))
            .copied()
            .unwrap_or(unspecified)
    }

    fn connect(&self, n: usize, server: SocketAddr) -> anyhow::Result<Connection> {
        let connection = Connection::open(server, self.plan.greeting.clone())?;
        epoll::add(
            &self.epoll,
            &connection.stream,
            EventData::new_u64(n as u64),
            EventFlags::IN,
        )?;
        Ok(connection)
    }

    fn start(&mut self, now: Instant) {
        self.begin = now;
        for n in 0..self.connections.len() {
            self.fill(n, now);
        }
    }

    /// Gives a connection of a closed loop as many requests as may be under way, and writes what there is.
    fn fill(&mut self, n: usize, now: Instant) {
        let Some(Some(connection)) = self.connections.get_mut(n) else {
            return;
        };
        if let Pace::Closed(depth) = self.plan.pace {
            while connection.under_way() < depth {
                connection.ask(now, &mut self.requests);
            }
        }
        let had_output = connection.waits_for_room;
        let written = connection.write().and_then(|()| {
            if connection.waits_for_room == had_output {
                return Ok(());
            }
            // The socket tells when it takes more, as long as there is more.
            let flags = if had_output {
                EventFlags::IN
            } else {
                EventFlags::IN | EventFlags::OUT
            };
            Ok(epoll::modify(
                &self.epoll,
                &connection.stream,
                EventData::new_u64(n as u64),
                flags,
            )?)
        });
        if let Err(error) = written {
            self.lose(n, error.into());
        }
    }

    fn run_until(&mut self, end: Instant, bar: &ProgressBar) -> anyhow::Result<()> {
        let mut events = Vec::with_capacity(1024);
        loop {
            let now = Instant::now();
            if now >= end {
                bar.set_position(self.begin.elapsed().as_millis() as u64);
                return Ok(());
            }
            self.reopen(now)?;
            let due = self.send_due(now);
            let wake = due
                .into_iter()
                .chain(self.broken.front().map(|(at, _)| *at))
                .fold(end, Ord::min);
            self.wait(&mut events, wake.saturating_duration_since(Instant::now()))?;
        }
    }

    fn wait(&mut self, events: &mut Vec<epoll::Event>, timeout: Duration) -> anyhow::Result<()> {
        let timeout = Timespec::try_from(timeout)?;
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let (data, flags) = (event.data, event.flags);
            self.on_event(data.u64() as usize, flags);
        }
        Ok(())
    }

    fn on_event(&mut self, n: usize, flags: EventFlags) {
        let Some(Some(connection)) = self.connections.get_mut(n) else {
            return;
        };
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR)
            && let Err(error) = connection.read(&mut self.outcome)
        {
            return self.lose(n, error);
        }
        self.fill(n, Instant::now());
    }

    /// Sends what is due in an open loop; when the next one is.
    fn send_due(&mut self, now: Instant) -> Option<Instant> {
        let Pace::Open(rate) = self.plan.pace else {
            return None;
        };
        let mut touched = Vec::new();
        let next = loop {
            let due = self.begin
                + Duration::from_nanos((u128::from(self.sent) * 1_000_000_000 / u128::from(rate)) as u64);
            if due > now {
                break due;
            }
            let Some(n) = self.next_open() else {
                // All are full or broken: the clock runs on, and the next answer makes room.
                break now + Duration::from_millis(1);
            };
            if let Some(Some(connection)) = self.connections.get_mut(n) {
                connection.ask(due, &mut self.requests);
                self.sent += 1;
                touched.push(n);
            }
        };
        touched.sort_unstable();
        touched.dedup();
        touched.into_iter().for_each(|n| self.fill(n, now));
        Some(next)
    }

    /// The connection whose turn it is, or the next one with room.
    fn next_open(&self) -> Option<usize> {
        let count = self.connections.len();
        let first = (self.sent % count.max(1) as u64) as usize;
        (0..count).map(|n| (first + n) % count).find(|n| {
            let connection = self.connections.get(*n).and_then(Option::as_ref);
            connection.is_some_and(|connection| connection.under_way() < UNDER_WAY_MAX)
        })
    }

    /// A connection is of no more use; what was under way on it is lost.
    fn lose(&mut self, n: usize, error: anyhow::Error) {
        if let Some(connection) = self.connections.get_mut(n).and_then(Option::take) {
            self.outcome.lost += connection.under_way() as u64;
            self.trouble = Some(error.context(connection.server));
            self.broken.push_back((Instant::now() + RECONNECT, n));
        }
    }

    fn reopen(&mut self, now: Instant) -> anyhow::Result<()> {
        while let Some((_, n)) = self.broken.front().copied().filter(|(at, _)| *at <= now) {
            self.broken.pop_front();
            // Another server, if there is one: this one may be gone.
            self.reopened += 1;
            match self.connect(n, self.server(n + self.reopened)) {
                Ok(connection) => {
                    if let Some(place) = self.connections.get_mut(n) {
                        *place = Some(connection);
                    }
                    self.fill(n, now);
                }
                Err(error) => {
                    self.trouble = Some(error);
                    self.broken.push_back((Instant::now() + RECONNECT, n));
                }
            }
        }
        if self.broken.len() == self.connections.len() {
            let trouble = self
                .trouble
                .take()
                .unwrap_or_else(|| anyhow::anyhow!("no connection"));
            return Err(trouble.context("no connection is left"));
        }
        Ok(())
    }
}

fn progress(plan: &Plan) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new((plan.warmup + plan.duration).as_millis() as u64);
    let style = ProgressStyle::with_template("{bar:40} {percent:>3} % {msg}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.set_message("warming up");
    bar
}

/// Processor time of this process so far.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
