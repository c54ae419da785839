//! Where the lines typed at the prompt are kept: for this user alone, and without passwords.

use std::env;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::session::name;

/// `$XDG_STATE_HOME/raftline/cli_history`, by default under `~/.local/state`; `None` for a user without a home.
pub(super) fn path() -> Option<PathBuf> {
    let folder = |variable: &str| {
        env::var_os(variable)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?;
    Some(state.join("raftline/cli_history"))
}

/// Makes the file, with its folder, if it is not there, and readable for its owner only.
///
/// # Errors
/// What the system says.
pub(super) fn prepare(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))
}

/// Whether a request may be kept: not one that has a password in it.
pub(super) fn may_be_kept(words: &[Bytes]) -> bool {
    let is_auth = |word: &Bytes| word.eq_ignore_ascii_case(b"AUTH");
    !(name(words) == b"AUTH" || name(words) == b"HELLO" && words.iter().any(is_auth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/history");
        for _ in 0..2 {
            prepare(&path).unwrap();
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let mode = fs::metadata(path.parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn passwords_are_not_kept() {
        let kept = |line: &str| {
            let words: Vec<Bytes> = line
                .split(' ')
                .map(|word| Bytes::from(word.to_string()))
                .collect();
            may_be_kept(&words)
        };
        assert!(kept("SET auth x") && kept("HELLO 3"));
        assert!(!kept("auth x") && !kept("hello 3 AUTH u p"));
    }
}
