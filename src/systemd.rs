//! What the service manager is told: READY, STATUS, RELOADING, STOPPING, and the watchdog's pulse.
//!
//! Outside systemd (no NOTIFY_SOCKET) every function here does nothing and no timer runs. A notification is one
//! datagram to a socket that the service manager drains; it is sent from the runtime's thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::time::sleep;

use crate::admin;
use crate::node::{Node, Operation, Outcome, Status};

/// How long a cluster that has never had a leader may take to get one before its nodes call themselves started.
const FORMING_GRACE: Duration = Duration::from_secs(2);
/// How long one read may take that tells whether the node is ready.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest pause between two such reads.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The line to the service manager.
#[derive(Debug)]
pub struct Systemd {
    is_there: bool,
    /// Whether READY was said. RELOADING ends with another READY, which must not be the first.
    is_ready: AtomicBool,
}

/// The pulse that keeps `WatchdogSec=` from killing this process.
///
/// The driver calls [`ping`](Watchdog::ping) whenever its loop turns and sees to it that the loop turns at
/// least every [`interval`](Watchdog::interval); a driver that hangs is restarted.
#[derive(Debug)]
pub struct Watchdog {
    interval: Option<Duration>,
    pinged: Option<Instant>,
}

impl Systemd {
    /// The service manager that started this process, if one did.
    pub fn from_environment() -> Systemd {
        Systemd {
            is_there: std::env::var_os("NOTIFY_SOCKET").is_some(),
            is_ready: AtomicBool::new(false),
        }
    }

    /// Says READY when the node has served its first linearizable read, or, where the cluster has never had
    /// a leader, after a short grace, with a STATUS that says so. Returns when the read has been served.
    pub async fn announce(&self, node: &Node) {
        const PAUSE_MIN: Duration = Duration::from_millis(20);
        if !self.is_there {
            return;
        }
        let start = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            let probed = admin::probe(node, PATIENCE).await;
            let status = ask_status(node).await;
            match (probed, status) {
                (Ok(()), status) => return self.ready(&serving(status.as_deref())),
                (Err(why), Some(status)) if status.cluster_id.is_none() => {
                    let text = format!("listening; the cluster is still forming: {why}");
                    if start.elapsed() < FORMING_GRACE {
                        self.status(&text);
                    } else {
                        self.ready(&text);
                    }
                }
                (Err(why), _) => self.status(&format!("not ready: {why}")),
            }
            sleep(pause).await;
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    /// STATUS: one line for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.notify(&[NotifyState::Status(text)]);
    }

    /// RELOADING: SIGHUP came.
    pub fn reloading(&self) {
        if self.is_ready.load(Ordering::Relaxed)
            && let Ok(now) = NotifyState::monotonic_usec_now()
        {
            self.notify(&[NotifyState::Reloading, now]);
        }
    }

    /// READY again, after [`reloading`](Systemd::reloading).
    pub fn reloaded(&self) {
        if self.is_ready.load(Ordering::Relaxed) {
            self.notify(&[NotifyState::Ready]);
        }
    }

    /// STOPPING, and why.
    pub fn stopping(&self, why: &str) {
        self.notify(&[NotifyState::Stopping, NotifyState::Status(why)]);
    }

    fn ready(&self, status: &str) {
        if !self.is_ready.swap(true, Ordering::Relaxed) {
            tracing::info!(status, "ready");
        }
        self.notify(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    fn notify(&self, states: &[NotifyState<'_>]) {
        if self.is_there
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::warn!(%error, "the service manager cannot be told");
        }
    }
}

impl Watchdog {
    /// The watchdog that the service manager set on this process, if it did.
    pub fn from_environment() -> Watchdog {
        Watchdog {
            interval: sd_notify::watchdog_enabled().map(|limit| limit / 2),
            pinged: None,
        }
    }

    /// At least so often [`ping`](Watchdog::ping) must be called: half of `WatchdogSec=`. `None`: never.
    pub fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// The driver lives. Cheap: a datagram is sent only when half of the interval has passed since the last one.
    pub fn ping(&mut self, now: Instant) {
        let Some(interval) = self.interval else {
            return;
        };
        let is_due = self
            .pinged
            .is_none_or(|pinged| now.saturating_duration_since(pinged) >= interval / 2);
        if is_due {
            self.pinged = Some(now);
            if let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
                tracing::warn!(%error, "the watchdog cannot be fed");
            }
        }
    }
}

async fn ask_status(node: &Node) -> Option<Box<Status>> {
    match tokio::time::timeout(PATIENCE, node.ask(Operation::Status)).await {
        Ok(Some(Outcome::Status(status))) => Some(status),
        _ => None,
    }
}

fn serving(status: Option<&Status>) -> String {
    match status {
        Some(status) => format!(
            "serving as {} of cluster {} in term {}",
            status.role.as_str(),
            status.cluster,
            status.term
        ),
        None => "serving".into(),
    }
}
