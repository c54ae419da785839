//! Whose data a folder holds: a small text file, written once and once more when the cluster is known.
//!
//! ```text
//! raftline data folder, format 2
//! node_id = 3
//! cluster_id = 6f1e4a0c9b7d4c53a1f00d5e2b9c8d71
//! incarnation = 8f1c62a9d0b34e57
//! fsync = always
//! checksum = 1a2b3c4d
//! ```
//!
//! `cluster_id` is `unknown` until the first leader's first entry is committed. `fsync` is `was off` from the
//! first start without fsync on: such a folder has been exposed to losing acknowledged writes (trap 3.32).
//! The checksum is the crc32c of all bytes before its line. Format 1 differs in that number only.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use super::error::{Damage, DiskError, OpenError};
use super::format::{VERSION, VERSION_MIN};
use super::fs::{File, Fs};
use crate::raft::NodeId;

const NAME: &str = "raftline.identity";
const SIZE_MAX_BYTES: u64 = 4096;
const TITLE: &str = "raftline data folder, format ";
const UNKNOWN: &str = "unknown";
const FSYNC_ALWAYS: &str = "always";
const FSYNC_WAS_OFF: &str = "was off";

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
    let checksum = crc32c::crc32c(text.as_bytes());
    // Writing to a string does not fail.
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
    let identity = Identity {
        cluster_id,
        node_id: NodeId(value("node_id")?.parse().ok()?),
        incarnation: u64::from_str_radix(value("incarnation")?, 16).ok()?,
        fsync_was_off: value("fsync")? == FSYNC_WAS_OFF,
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
        }
    }

    #[test]
    fn it_comes_back_and_any_flipped_bit_is_seen() {
        let dir = Path::new("data");
        for cluster_id in [None, identity().cluster_id] {
            let fs = SimFs::new();
            fs.create_dir_all(dir).unwrap();
            assert_eq!(read(&fs, dir).unwrap(), None);
            let identity = Identity {
                cluster_id,
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
