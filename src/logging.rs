//! Where log lines go: stderr as text or JSON, or the journal with its fields.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{fmt, reload};

use crate::config::{Log, LogFormat};

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The level is no filter. [`Config`](crate::config::Config) lets none such pass.
    #[error("log.level: {0}")]
    Level(#[from] ParseError),
    /// This process logs already.
    #[error("logging was set up twice: {0}")]
    Twice(#[from] TryInitError),
    /// The subscriber is gone.
    #[error("the log level cannot be changed: {0}")]
    Reload(#[from] reload::Error),
}

/// Changes the level of a running process.
#[derive(Debug)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Logging {
    /// Sends this process's log lines where `log` says. Without a journal they go to stderr as text, and the
    /// first one says so.
    ///
    /// # Errors
    /// The level is no filter, or logging is set up already.
    pub fn start(log: &Log) -> Result<Logging, LoggingError> {
        let (filter, handle) = reload::Layer::new(EnvFilter::try_new(&log.level)?);
        let (lines, warning) = lines(log.format);
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .try_init()?;
        if let Some(error) = warning {
            tracing::warn!(%error, "no journal, logging to stderr as text");
        }
        Ok(Logging { filter: handle })
    }

    /// From now on logs what `level` says.
    ///
    /// # Errors
    /// The level is no filter, or the subscriber is gone.
    pub fn set_level(&self, level: &str) -> Result<(), LoggingError> {
        Ok(self.filter.reload(EnvFilter::try_new(level)?)?)
    }
}

type Lines<S> = Box<dyn Layer<S> + Send + Sync>;
type Filtered = tracing_subscriber::layer::Layered<reload::Layer<EnvFilter, Registry>, Registry>;

/// The layer that writes lines, and why it is not the one asked for.
fn lines(format: LogFormat) -> (Lines<Filtered>, Option<io::Error>) {
    match format {
        LogFormat::Text => (text(), None),
        LogFormat::Json => (fmt::layer().json().with_writer(io::stderr).boxed(), None),
        LogFormat::Journald => match tracing_journald::layer() {
            Ok(layer) => (layer.boxed(), None),
            Err(error) => (text(), Some(error)),
        },
    }
}

fn text() -> Lines<Filtered> {
    let is_terminal = io::stderr().is_terminal();
    let layer = fmt::layer().with_ansi(is_terminal).with_writer(io::stderr);
    // The journal stamps each line itself.
    match std::env::var_os("JOURNAL_STREAM").is_some() && !is_terminal {
        true => layer.without_time().boxed(),
        false => layer.boxed(),
    }
}
