//! What can go wrong with the disk, in words for the person who is woken by it.

use std::io;
use std::path::{Path, PathBuf};

use crate::raft::NodeId;

/// An operation that the operating system refused or failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {error}", path.display())]
pub struct DiskError {
    /// What was tried: "write", "sync".
    pub action: &'static str,
    /// With which file or folder.
    pub path: PathBuf,
    /// What the operating system said.
    pub error: io::Error,
}

impl DiskError {
    /// Whether the disk, or the share of it that this user may have, is full.
    pub fn is_full(&self) -> bool {
        matches!(
            self.error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }

    /// For `map_err`: names what was tried, and with what.
    pub(super) fn with(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
        let path = path.to_path_buf();
        move |error| DiskError { action, path, error }
    }
}

/// Why a data folder was not opened. Nothing of it was changed, but for [`OpenError::Disk`].
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system failed or refused.
    #[error(transparent)]
    Disk(#[from] DiskError),

    /// Another process has the folder.
    #[error(
        "the data folder {} is in use by another process: stop that one first, or give this node a \
         data_dir of its own", dir.display()
    )]
    Locked {
        /// The data folder.
        dir: PathBuf,
    },

    /// The folder was made by another node.
    #[error(
        "the data folder {} belongs to node {found}, and this is node {configured}: correct node_id or \
         data_dir in the configuration. A node must never go on with another node's data",
        dir.display()
    )]
    WrongNode {
        /// The data folder.
        dir: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who opened it.
        configured: NodeId,
    },

    /// The folder is of a version that this program cannot read.
    #[error(
        "{} has format {found}, and this raftline reads format {supported}: start the version of raftline \
         that wrote it", path.display()
    )]
    Format {
        /// The file that says so.
        path: PathBuf,
        /// The version in the file.
        found: String,
        /// The version that this program reads.
        supported: u32,
    },

    /// What is there cannot be trusted, and there is nobody to fetch it from again.
    #[error(
        "{0}. This is damage, not the trace of a crash, so nothing was changed and the node does not start: \
         entries and votes that it has acknowledged may be gone, and a node that forgot them can make the whole \
         cluster lose writes. What to do: keep the data folder as it is, a copy of it is all there is to learn \
         from; look into the system's log for disk errors. If a majority of the cluster runs without this node, \
         nothing is lost: start it with an empty data folder and join = true, and give RAFT ADD with its id and \
         its addresses to another node; it fetches everything again. If no majority runs without it, keep the \
         folders of all nodes and ask for help before changing any"
    )]
    Damage(#[from] Damage),
}

/// Data that was durable once and is not what it was: not the trace of a crash, and therefore never
/// repaired by cutting it off. Entries that this node has acknowledged may be missing (trap 3.31).
#[derive(Debug, thiserror::Error)]
#[error("{}, byte {offset}: {found}", path.display())]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What was found there and what should have been.
    pub found: String,
}

impl Damage {
    pub(super) fn new(path: &Path, offset: u64, found: impl Into<String>) -> Damage {
        Damage {
            path: path.to_path_buf(),
            offset,
            found: found.into(),
        }
    }
}

/// Why a batch is not durable. After [`PersistError::Disk`] and [`PersistError::Poisoned`] the process has
/// to end: what the disk holds is known again only when it is read at the next start (trap 3.29).
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// A write or a sync failed just now. Some of the batch may be on disk.
    #[error(transparent)]
    Disk(#[from] DiskError),

    /// An earlier call failed; nothing was tried.
    #[error("the storage has failed before and accepts nothing more ({0})")]
    Poisoned(String),

    /// The batch breaks the order of the log, or a bound; nothing was written. A mistake of the caller.
    #[error("a batch that must not be written: {0}")]
    Refused(String),
}
