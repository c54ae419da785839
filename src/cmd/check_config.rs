//! `raftline check-config`: is this file good?

use std::path::PathBuf;

use clap::Args;

use super::{Failure, say};
use crate::config::Config;

/// Arguments of `raftline check-config`.
#[derive(Debug, Args)]
#[command(after_help = "Variables RAFTLINE_SECTION__KEY win over the file, here as in serve.")]
pub(super) struct Arguments {
    /// The configuration file
    file: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let config = Config::load(&arguments.file).map_err(|error| Failure::Usage(error.into()))?;
    say(format_args!(
        "{}: OK: {}",
        arguments.file.display(),
        config.summary()
    ));
    Ok(())
}
