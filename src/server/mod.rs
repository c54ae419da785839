//! One node as a process: listeners, wiring, signals, and the graceful stop.
//!
//! Everything runs on one current-thread runtime (see `docs/architecture.md`); the disk has a thread of its own.

mod assemble;
mod signals;

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Metrics};
use crate::config::{Config, Listen};
use crate::logging::Logging;
use crate::net::{self, ListenError};
use crate::node::{Node, NodeError};
use crate::systemd::{Systemd, Watchdog};

use self::assemble::assemble;
use self::signals::{Asked, Signals};

/// The longest graceful stop; with what comes before and after it, a stop takes less than 5 s.
const STOP_MAX: Duration = Duration::from_millis(4500);

/// Why a server ended, other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The runtime or the signal handlers could not be made.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// A listener could not be made.
    #[error("{key}: {error}")]
    Listen {
        /// The key of the configuration.
        key: &'static str,
        /// The address, and what the system said.
        error: ListenError,
    },
    /// The node could not start, or ended by itself.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The graceful stop took too long. Everything acknowledged is on disk all the same.
    #[error("the graceful stop took longer than {} ms", STOP_MAX.as_millis())]
    StopLate,
    /// SIGINT came again while stopping.
    #[error("interrupted while stopping")]
    Interrupted,
}

/// What the parts of a node are made from.
struct Parts {
    config: Arc<Config>,
    client: TcpListener,
    peer: TcpListener,
    /// Cancelled when the process is to end: hand leadership over, answer what is in flight, sync, close.
    stop: CancellationToken,
    /// To be pinged by the driver.
    watchdog: Watchdog,
}

/// A node at work.
struct Running {
    node: Node,
    metrics: Metrics,
    /// Ends when all parts have ended: after `stop` was cancelled, or with the error that ended them.
    ended: Pin<Box<dyn Future<Output = Result<(), ServerError>>>>,
}

/// Runs a node until SIGTERM or SIGINT. `config_file` is read again at SIGHUP.
///
/// # Errors
/// The node could not start, ended by itself, or did not stop in time.
pub fn run(config_file: &Path, config: Config, logging: Logging) -> Result<(), ServerError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServerError::Start)?;
    let result = runtime.block_on(serve(config_file, config, logging));
    // A blocking task that hangs must not hold the exit up.
    runtime.shutdown_background();
    result
}

async fn serve(config_file: &Path, config: Config, logging: Logging) -> Result<(), ServerError> {
    let mut signals = Signals::new().map_err(ServerError::Start)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        "starting {}",
        config.summary()
    );
    if !config.storage.fsync {
        tracing::warn!("storage.fsync is false: acknowledged writes are lost at power loss");
    }
    let config = Arc::new(config);
    let (client, peer, admin) = bind(&config.listen).await?;
    let systemd = Arc::new(Systemd::from_environment());
    systemd.status("reading the data folder");
    let stop = CancellationToken::new();
    let parts = Parts {
        config,
        client,
        peer,
        stop: stop.clone(),
        watchdog: Watchdog::from_environment(),
    };
    let running = tokio::select! {
        running = assemble(parts) => running?,
        reason = signals.stop() => {
            tracing::info!("{reason} while starting: stopping");
            return Ok(());
        }
    };
    let announcer = Arc::clone(&systemd);
    let node = running.node.clone();
    tokio::spawn(async move { announcer.announce(&node).await });
    let mut ended = start_admin(running, admin, stop.clone());
    let reason = loop {
        tokio::select! {
            ended = ended.as_mut() => return ended,
            asked = signals.next() => match asked {
                Asked::Stop(reason) => break reason,
                Asked::Reload => {
                    systemd.reloading();
                    reload(config_file, &logging);
                    systemd.reloaded();
                }
            },
        }
    };
    tracing::info!("{reason}: handing over and stopping");
    systemd.stopping(reason);
    stop.cancel();
    stopped(ended, signals).await
}

/// Waits for the graceful stop, but not for ever.
async fn stopped(
    ended: impl Future<Output = Result<(), ServerError>>,
    mut signals: Signals,
) -> Result<(), ServerError> {
    let start = Instant::now();
    tokio::select! {
        ended = timeout(STOP_MAX, ended) => match ended {
            Ok(result) => {
                tracing::info!(elapsed_ms = start.elapsed().as_millis(), "stopped");
                result
            }
            Err(_) => {
                tracing::error!("{}; leaving anyway", ServerError::StopLate);
                Err(ServerError::StopLate)
            }
        },
        () = signals.interrupted() => Err(ServerError::Interrupted),
    }
}

/// Starts the admin HTTP, if it is wanted, beside the node. The result ends when both have ended, or at once
/// with the node's error.
fn start_admin(
    running: Running,
    listener: Option<TcpListener>,
    stop: CancellationToken,
) -> Pin<Box<dyn Future<Output = Result<(), ServerError>>>> {
    let Running { node, metrics, ended } = running;
    let admin = listener.map(|listener| {
        tokio::spawn(admin::serve(
            listener,
            node,
            metrics,
            admin::Options::default(),
            stop,
        ))
    });
    Box::pin(async move {
        ended.await?;
        if let Some(admin) = admin
            && let Err(error) = admin.await
        {
            tracing::error!(%error, "admin: failed");
        }
        Ok(())
    })
}

/// Reads the configuration again and takes over what can change while running: the log level.
fn reload(config_file: &Path, logging: &Logging) {
    let reloaded = Config::load(config_file)
        .map_err(|error| error.to_string())
        .and_then(|config| {
            let level = config.log.level;
            logging.set_level(&level).map_err(|error| error.to_string())?;
            Ok(level)
        });
    let file: PathBuf = config_file.into();
    match reloaded {
        Ok(level) => tracing::info!(level, ?file, "reloaded"),
        Err(error) => tracing::error!(?file, "not reloaded, all stays as it was: {error}"),
    }
}

/// Binds the listeners of clients, peers and admin, so that a port in use is known before the disk is touched.
async fn bind(listen: &Listen) -> Result<(TcpListener, TcpListener, Option<TcpListener>), ServerError> {
    let client = bind_one("listen.client", &listen.client).await?;
    let peer = bind_one("listen.peer", &listen.peer).await?;
    let admin = match &listen.admin {
        Some(address) => Some(bind_one("listen.admin", address).await?),
        None => None,
    };
    Ok((client, peer, admin))
}

async fn bind_one(key: &'static str, address: &str) -> Result<TcpListener, ServerError> {
    let listener = net::listen(address)
        .await
        .map_err(|error| ServerError::Listen { key, error })?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "{key}");
    }
    Ok(listener)
}
