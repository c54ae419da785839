//! What the process is asked for by signals.

use std::{future, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
pub(super) enum Asked {
    /// A graceful stop, by this signal.
    Stop(&'static str),
    /// To read the configuration again.
    Reload,
}

pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits until the process is asked for something.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            () = next(&mut self.terminate) => Asked::Stop("SIGTERM"),
            () = next(&mut self.interrupt) => Asked::Stop("SIGINT"),
            () = next(&mut self.hangup) => Asked::Reload,
        }
    }

    /// Waits until the process is asked to stop, and says by what.
    pub(super) async fn stop(&mut self) -> &'static str {
        loop {
            if let Asked::Stop(reason) = self.next().await {
                return reason;
            }
        }
    }
}

impl Signals {
    /// Waits for another SIGINT.
    pub(super) async fn interrupted(&mut self) {
        next(&mut self.interrupt).await;
    }
}

/// Waits for a signal. A stream that has ended (the runtime is going down) never gives one.
async fn next(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        future::pending().await
    }
}
