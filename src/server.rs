//! One node as a process: listeners, wiring, signals, and the graceful stop.
//!
//! Everything runs on one current-thread runtime (see `docs/architecture.md`); the disk has a thread of its own.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{future, io};

use tokio::net::{TcpListener, lookup_host};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Metrics};
use crate::config::{Config, Listen};
use crate::logging::Logging;
use crate::node::Node;
use crate::systemd::{Systemd, Watchdog};

/// The longest graceful stop; with what comes before and after it, a stop takes less than 5 s.
const STOP_MAX: Duration = Duration::from_millis(4500);

/// Why a server ended, other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The runtime or the signal handlers could not be made.
    #[error("cannot start: {0}")]
    Start(#[source] io::Error),
    /// A listener could not be made.
    #[error("{key}: cannot listen on {address}: {source}")]
    Listen {
        /// The key of the configuration.
        key: &'static str,
        /// Its value.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The node could not start, or ended by itself.
    #[error("{0}")]
    Node(Box<dyn std::error::Error + Send + Sync>),
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
        running = wire(parts) => running?,
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
        () = next(&mut signals.interrupt) => Err(ServerError::Interrupted),
    }
}

/// Makes the parts and connects them. The listeners are bound; nothing has been accepted yet. Everything
/// that is spawned here ends when `parts.stop` is cancelled.
// the lead wires here
async fn wire(parts: Parts) -> Result<Running, ServerError> {
    let (node, mut queue) = Node::channel(parts.config.limits.max_pending);
    let Parts {
        config,
        client,
        peer,
        stop,
        mut watchdog,
    } = parts;
    let ended = async move {
        let _listeners = (client, peer);
        loop {
            let pulse = async {
                match watchdog.interval() {
                    Some(interval) => tokio::time::sleep(interval / 2).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = pulse => watchdog.ping(Instant::now()),
                Some(submission) = queue.recv() => placeholder::answer(&config, submission),
            }
        }
    };
    Ok(Running {
        node,
        metrics: Metrics::new(),
        ended: Box::pin(ended),
    })
}

/// Stands where the driver will be: it says who it is and refuses everything.
mod placeholder {
    use crate::config::Config;
    use crate::kv::{Code, Reply};
    use crate::node::{Answer, Member, Operation, Outcome, Status, Submission};

    pub(super) fn answer(config: &Config, submission: Submission) {
        for request in submission.requests {
            let outcome = match request.operation {
                Operation::Status => Outcome::Status(Box::new(status(config))),
                _ => Outcome::Reply(Reply::error(Code::ClusterDown, "the node is not built yet")),
            };
            let answer = Answer {
                ticket: request.ticket,
                outcome,
            };
            submission.answers.send(answer).ok();
        }
    }

    fn status(config: &Config) -> Status {
        let members = config.cluster.members.iter().map(|member| Member {
            id: member.id,
            voter: true,
            peer: member.peer.clone(),
            client: member.client.clone(),
            progress: None,
        });
        Status {
            cluster: config.cluster.name.clone(),
            node: config.node.id,
            members: members.collect(),
            ..Status::default()
        }
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
    let bound = async {
        let mut refused = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for candidate in lookup_host(address).await? {
            match TcpListener::bind(candidate).await {
                Ok(listener) => return Ok((listener.local_addr()?, listener)),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    };
    match bound.await {
        Ok((address, listener)) => {
            tracing::info!(%address, "{key}");
            Ok(listener)
        }
        Err(source) => Err(ServerError::Listen {
            key,
            address: address.into(),
            source,
        }),
    }
}

/// What a signal asks for.
enum Asked {
    /// A graceful stop, by this signal.
    Stop(&'static str),
    /// To read the configuration again.
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits until the process is asked for something.
    async fn next(&mut self) -> Asked {
        tokio::select! {
            () = next(&mut self.terminate) => Asked::Stop("SIGTERM"),
            () = next(&mut self.interrupt) => Asked::Stop("SIGINT"),
            () = next(&mut self.hangup) => Asked::Reload,
        }
    }

    /// Waits until the process is asked to stop, and says by what.
    async fn stop(&mut self) -> &'static str {
        loop {
            if let Asked::Stop(reason) = self.next().await {
                return reason;
            }
        }
    }
}

/// Waits for a signal. A stream that has ended (the runtime is going down) never gives one.
async fn next(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        future::pending().await
    }
}
