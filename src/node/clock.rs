//! The driver's time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use super::host::Now;
use crate::raft::Ticks;

/// Counts from when the process began, and goes on while the machine sleeps: a lease, and a promise, must not outlive
/// a night in which others went on (trap 3.12).
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Duration,
}

impl Clock {
    /// A clock that shows 0 now.
    pub fn start() -> Clock {
        Clock { origin: boot_time() }
    }

    /// What it shows now.
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            ticks: self.ticks(),
            wall_ms: wall.as_millis() as u64,
        }
    }

    fn ticks(&self) -> Ticks {
        Ticks(boot_time().saturating_sub(self.origin).as_millis() as u64)
    }

    /// When it will show that, as timers count; at once where it is past.
    pub fn instant(&self, ticks: Ticks) -> Instant {
        Instant::now() + Duration::from_millis(ticks.since(self.ticks()))
    }
}

fn boot_time() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
