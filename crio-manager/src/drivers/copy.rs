//! Copies of files of the host, within bounds.

use std::fs;
use std::io::{Error, Result};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

/// Most that one copy takes: files of secrets, not data.
const BYTES_MAX: u64 = 64 << 20;
const ENTRIES_MAX: u64 = 10_000;
/// Links may lead in a circle.
const DEPTH_MAX: usize = 32;

/// What may still be copied.
struct Left {
    bytes: u64,
    entries: u64,
}

/// Copies a regular file or a directory with all below it to `target`, which is not there yet, with owners and modes. Links
/// are followed; what is neither is left out.
pub fn copy(source: &Path, target: &Path) -> Result<()> {
    let mut left = Left {
        bytes: BYTES_MAX,
        entries: ENTRIES_MAX,
    };
    left.copy(source, target, DEPTH_MAX)
}

impl Left {
    fn copy(&mut self, source: &Path, target: &Path, depth: usize) -> Result<()> {
        let metadata = fs::metadata(source)?;
        if !metadata.is_dir() && !metadata.is_file() {
            return Ok(());
        }
        let too_much = || Error::other(format!("{}: too much to be copied", source.display()));
        self.entries = self.entries.checked_sub(1).ok_or_else(too_much)?;
        if metadata.is_file() {
            self.bytes = self.bytes.checked_sub(metadata.len()).ok_or_else(too_much)?;
            fs::copy(source, target)?;
        } else {
            let depth = depth.checked_sub(1).ok_or_else(too_much)?;
            fs::create_dir(target)?;
            for entry in fs::read_dir(source)? {
                let entry = entry?;
                match self.copy(&entry.path(), &target.join(entry.file_name()), depth) {
                    // A link that leads nowhere, or a file that has gone meanwhile.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    done => done?,
                }
            }
        }
        chown(target, Some(metadata.uid()), Some(metadata.gid()))?;
        fs::set_permissions(target, metadata.permissions())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_tree_is_copied_with_what_its_links_lead_to_and_circles_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path();
        fs::create_dir_all(base.join("source/sub")).unwrap();
        fs::create_dir(base.join("elsewhere")).unwrap();
        fs::write(base.join("elsewhere/key"), "secret").unwrap();
        fs::set_permissions(base.join("elsewhere/key"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink(base.join("elsewhere"), base.join("source/sub/link")).unwrap();
        symlink("nowhere", base.join("source/dangling")).unwrap();
        copy(&base.join("source"), &base.join("target")).unwrap();
        let key = base.join("target/sub/link/key");
        assert_eq!(fs::read_to_string(&key).unwrap(), "secret");
        assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o640);
        assert!(!base.join("target/sub/link").is_symlink() && !base.join("target/dangling").exists());

        symlink("..", base.join("source/sub/circle")).unwrap();
        assert!(copy(&base.join("source"), &base.join("circle")).is_err());
        let large = fs::File::create(base.join("large")).unwrap();
        large.set_len(BYTES_MAX + 1).unwrap();
        assert!(copy(&base.join("large"), &base.join("copy")).is_err());
    }
}
