//! Waiting for a state, with a deadline, in place of sleeping for a time and hoping.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

/// Looks again and again until there is something to see.
pub fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    wait_until(what, deadline, || look().ok_or(""))
}

/// Looks again and again until all is well. `Err` is what is seen meanwhile; the last of it is told when the
/// wait was in vain.
pub fn wait_until<T, E: fmt::Debug>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<T, E>,
) -> T {
    const PAUSE: Duration = Duration::from_millis(5);
    let start = Instant::now();
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(seen) if start.elapsed() > deadline => {
                panic!("waited {deadline:?} in vain for: {what}; the last look: {seen:#?}")
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}
