//! Whose data a folder holds, and whether its log can be relied on: a small text file, replaced as a whole.
//!
//! ```text
//! raftline data folder, format 3
//! node_id = 3
//! cluster_id = 6f1e4a0c9b7d4c53a1f00d5e2b9c8d71
//! incarnation = 8f1c62a9d0b34e57
//! fsync = always
//! log = whole
//! term = 0
//! vote = none
//! checksum = 1a2b3c4d
//! ```
//!
//! `cluster_id` is `unknown` until the first leader's first entry is committed. `fsync` is `was off` from the
//! first start without fsync on: such a folder has been exposed to losing acknowledged writes (trap 3.32).
//! `log` is a [`LogState`]; `term` and `vote` are what the node knew when its log was set aside. The checksum is
//! the crc32c of all bytes before its line. Formats 1 and 2 do not have the lines from `log` to `vote`.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use super::error::{Damage, DiskError, OpenError};
use super::format::{VERSION, VERSION_MIN};
use super::fs::{File, Fs};
use crate::raft::{HardState, NodeId, Term};

const NAME: &str = "raftline.identity";
const SIZE_MAX_BYTES: u64 = 4096;
const TITLE: &str = "raftline data folder, format ";
const UNKNOWN: &str = "unknown";
const FSYNC_ALWAYS: &str = "always";
const FSYNC_WAS_OFF: &str = "was off";
const NO_VOTE: &str = "none";
/// The first format that says what the log is.
const WITH_LOG_STATE: u32 = 3;

/// Whether the log and the snapshots of a folder can be relied on. Any other than [`LogState::Whole`] says that the
/// node is recovering: what it once acknowledged may be missing (trap 3.31), or is wrong and is to be replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogState {
    /// They hold all that the node promised to remember.
    #[default]
    Whole,
    /// They are to be set aside at the next start.
    Rejected,
    /// They are being set aside: a part of them may be elsewhere already.
    Leaving,
    /// They were set aside. What is here now came after that, from the other nodes.
    Refetching,
}

impl LogState {
    const NAMES: [(LogState, &str); 4] = [
        (LogState::Whole, "whole"),
        (LogState::Rejected, "to be set aside"),
        (LogState::Leaving, "being set aside"),
        (LogState::Refetching, "being fetched again"),
    ];

    fn name(self) -> &'static str {
        let found = LogState::NAMES.iter().find(|(state, _)| *state == self);
        found.map_or("", |(_, name)| name)
    }

    fn parse(name: &str) -> Option<LogState> {
        let found = LogState::NAMES.iter().find(|(_, known)| *known == name);
        found.map(|(state, _)| *state)
    }
}

/// Who made a data folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; `None` until it is known. Never changes after that.
    pub cluster_id: Option<[u8; 16]>,
    /// The node. Never changes.
    pub node_id: NodeId,
    /// A random number made with the folder: tells it from another folder of the same node.
    pub incarnation: u64,
    /// Whether this folder was ever written without fsync.
    pub fsync_was_off: bool,
    /// Whether the log can be relied on.
    pub log: LogState,
    /// Term and vote that the node must not forget although its log was set aside. The default where the log is
    /// whole.
    pub known: HardState,
}

/// The identity file of a data folder.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

/// Reads the identity and the format it says; `None` where there is none.
pub(super) fn read<F: Fs>(fs: &F, dir: &Path) -> Result<Option<(Identity, u32)>, OpenError> {
    let path = path(dir);
    let file = match fs.open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(DiskError::with("open", &path))?,
    };
    let size = file.size_bytes().map_err(DiskError::with("read", &path))?;
    let mut bytes = vec![0; usize::try_from(size.min(SIZE_MAX_BYTES)).unwrap_or_default()];
    file.read_at(&mut bytes, 0)
        .map_err(DiskError::with("read", &path))?;
    let version = match title(&bytes) {
        Some(Ok(version)) => version,
        Some(Err(found)) => {
            return Err(OpenError::Format {
                path,
                found,
                supported: VERSION,
            });
        }
        None => VERSION,
    };
    let identity = parse(&bytes, version).ok_or_else(|| {
        Damage::new(
            &path,
            0,
            "this is no identity file with a right checksum; was it edited?",
        )
    })?;
    Ok(Some((identity, version)))
}

/// Writes the identity so that a crash leaves the old one or the new one. `tmp` of an earlier crash is
/// replaced.
pub(super) fn write<F: Fs>(fs: &F, dir: &Path, identity: &Identity) -> Result<(), DiskError> {
    let path = path(dir);
    let tmp = path.with_extension("tmp");
    match fs.remove(&tmp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(DiskError::with("remove", &tmp)(e)),
        _ => {}
    }
    let mut file = fs.create(&tmp).map_err(DiskError::with("create", &tmp))?;
    file.write_at(format(identity, VERSION).as_bytes(), 0)
        .map_err(DiskError::with("write", &tmp))?;
    file.sync_data().map_err(DiskError::with("sync", &tmp))?;
    super::fs::durable_rename(fs, &tmp, &path).map_err(DiskError::with("rename into place", &tmp))
}

pub(super) fn format(identity: &Identity, version: u32) -> String {
    let cluster_id = match identity.cluster_id {
        Some(id) => format!("{:032x}", u128::from_be_bytes(id)),
        None => UNKNOWN.to_owned(),
    };
    let fsync = if identity.fsync_was_off {
        FSYNC_WAS_OFF
    } else {
        FSYNC_ALWAYS
    };
    let mut text = format!(
        "{TITLE}{version}\nnode_id = {}\ncluster_id = {cluster_id}\nincarnation = {:016x}\nfsync = {fsync}\n",
        identity.node_id, identity.incarnation
    );
    // Writing to a string does not fail.
    if version >= WITH_LOG_STATE {
        let vote = identity.known.vote.map(|id| id.to_string());
        let _ = writeln!(
            text,
            "log = {}\nterm = {}\nvote = {}",
            identity.log.name(),
            identity.known.term,
            vote.as_deref().unwrap_or(NO_VOTE)
        );
    }
    let checksum = crc32c::crc32c(text.as_bytes());
    let _ = writeln!(text, "checksum = {checksum:08x}");
    text
}

/// The format in the title; as an error where it is not ours. Looked at first: a later format may sum
/// differently.
fn title(bytes: &[u8]) -> Option<Result<u32, String>> {
    let line = bytes.split(|b| *b == b'\n').next()?;
    let version = std::str::from_utf8(line).ok()?.strip_prefix(TITLE)?;
    if version.is_empty() || !version.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let known = (VERSION_MIN..=VERSION).find(|known| known.to_string() == version);
    Some(known.ok_or_else(|| version.to_owned()))
}

fn parse(bytes: &[u8], version: u32) -> Option<Identity> {
    let text = std::str::from_utf8(bytes).ok()?;
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))
    };
    let cluster_id = match value("cluster_id")? {
        UNKNOWN => None,
        id => Some(u128::from_str_radix(id, 16).ok()?.to_be_bytes()),
    };
    let (mut log, mut known) = (LogState::Whole, HardState::default());
    if version >= WITH_LOG_STATE {
        log = LogState::parse(value("log")?)?;
        known.term = Term(value("term")?.parse().ok()?);
        known.vote = match value("vote")? {
            NO_VOTE => None,
            id => Some(NodeId(id.parse().ok()?)),
        };
    }
    let identity = Identity {
        cluster_id,
        node_id: NodeId(value("node_id")?.parse().ok()?),
        incarnation: u64::from_str_radix(value("incarnation")?, 16).ok()?,
        fsync_was_off: value("fsync")? == FSYNC_WAS_OFF,
        log,
        known,
    };
    // The one text that says this, checksum included: nothing else passes.
    (format(&identity, version) == text).then_some(identity)
}

#[cfg(test)]
mod tests {
    use super::super::fs::SimFs;
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster_id: Some([0x0f; 16]),
            node_id: NodeId(3),
            incarnation: 0xfeed,
            fsync_was_off: false,
            log: LogState::Whole,
            known: HardState::default(),
        }
    }

    #[test]
    fn it_comes_back_and_any_flipped_bit_is_seen() {
        let dir = Path::new("data");
        for (number, (log, _)) in (0..).zip(LogState::NAMES) {
            let fs = SimFs::new();
            fs.create_dir_all(dir).unwrap();
            assert_eq!(read(&fs, dir).unwrap(), None);
            let identity = Identity {
                cluster_id: identity().cluster_id.filter(|_| number > 0),
                log,
                known: HardState {
                    term: Term(number),
                    vote: (number > 1).then_some(NodeId(number)),
                },
                ..identity()
            };
            write(&fs, dir, &identity).unwrap();
            assert_eq!(read(&fs, dir).unwrap(), Some((identity.clone(), VERSION)));
            for bit in 0..format(&identity, VERSION).len() * 8 {
                fs.flip(&path(dir), bit / 8, 1 << (bit % 8));
                assert!(read(&fs, dir).is_err(), "bit {bit}");
                fs.flip(&path(dir), bit / 8, 1 << (bit % 8));
            }
        }
    }

    /// When this fails, folders can no longer be read.
    #[test]
    fn the_bytes_of_versions_1_to_3() {
        let old = "raftline data folder, format 2\nnode_id = 3\n\
                   cluster_id = 0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f\n\
                   incarnation = 000000000000feed\nfsync = always\nchecksum = ";
        let text = format(&identity(), 2);
        assert_eq!(text[..old.len()], *old);
        assert_eq!(parse(text.as_bytes(), 2), Some(identity()));
        assert_eq!(format(&identity(), 1), {
            let old = old.replace("format 2", "format 1");
            let sum = crc32c::crc32c(old.strip_suffix("checksum = ").unwrap().as_bytes());
            format!("{old}{sum:08x}\n")
        });
        let recovering = Identity {
            log: LogState::Refetching,
            known: HardState {
                term: Term(7),
                vote: Some(NodeId(2)),
            },
            ..identity()
        };
        let text = format(&recovering, 3);
        assert!(
            text.contains("fsync = always\nlog = being fetched again\nterm = 7\nvote = 2\nchecksum = "),
            "{text}"
        );
        assert!(format(&identity(), 3).contains("\nlog = whole\nterm = 0\nvote = none\n"));
    }

    #[test]
    fn a_crash_leaves_the_old_or_the_new_one() {
        let dir = Path::new("data");
        let new = Identity {
            node_id: NodeId(4),
            ..identity()
        };
        for n in 1..=5 {
            for seed in 0..20 {
                let fs = SimFs::new();
                fs.create_dir_all(dir).unwrap();
                write(&fs, dir, &identity()).unwrap();
                fs.power_fails_at(n);
                let written = write(&fs, dir, &new).is_ok();
                fs.crash(seed);
                let (found, _) = read(&fs, dir).unwrap().unwrap();
                assert!(found == new || (!written && found == identity()));
            }
        }
    }
}
