//! What a container's writable layer takes on disk. Its files belong to the container, which may change them meanwhile:
//! every directory is opened beneath the one before, and no link is followed.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};

use crate::drivers::seams::LayerUsage;

/// Directories within directories; each holds a descriptor. What is deeper is not counted.
const DEPTH_MAX: usize = 100;
/// Files of more than one name that are told apart. Beyond, each name counts.
const LINKED_FILES_MAX: usize = 100_000;
/// The unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;

/// Blocking, for as long as there are files.
pub(super) fn measure(upper: &Path) -> io::Result<LayerUsage> {
    let mut counted = Counted::default();
    let top = rustix::fs::openat(CWD, upper, DIRECTORY, Mode::empty())?;
    counted.directory(top, 0)?;
    Ok(counted.usage)
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

#[derive(Default)]
struct Counted {
    usage: LayerUsage,
    linked: HashSet<(u64, u64)>,
}

impl Counted {
    fn directory(&mut self, directory: OwnedFd, depth: usize) -> io::Result<()> {
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            // Gone since the directory was read: nothing to count.
            let Ok(stat) = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if !is_directory && stat.st_nlink > 1 {
                let known = self.linked.contains(&(stat.st_dev, stat.st_ino));
                if known {
                    continue;
                }
                if self.linked.len() < LINKED_FILES_MAX {
                    self.linked.insert((stat.st_dev, stat.st_ino));
                }
            }
            let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
            self.usage.used_bytes = self.usage.used_bytes.saturating_add(blocks.saturating_mul(BLOCK_BYTES));
            self.usage.used_inodes += 1;
            if is_directory
                && depth < DEPTH_MAX
                && let Ok(below) = rustix::fs::openat(&directory, name, DIRECTORY, Mode::empty())
            {
                self.directory(below, depth + 1)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_counts_once_and_links_lead_nowhere() {
        let (root, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(elsewhere.path().join("big"), vec![1; 1 << 20]).unwrap();
        let upper = root.path();
        fs::create_dir_all(upper.join("a/b")).unwrap();
        fs::write(upper.join("a/b/file"), vec![1; 100_000]).unwrap();
        let once = measure(upper).unwrap();
        assert_eq!(once.used_inodes, 3);
        assert!((100_000..200_000).contains(&once.used_bytes), "{once:?}");
        fs::hard_link(upper.join("a/b/file"), upper.join("again")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), upper.join("out")).unwrap();
        let more = measure(upper).unwrap();
        assert_eq!(more.used_inodes, 4, "the link itself, and nothing behind it");
        assert!(more.used_bytes < once.used_bytes + 10_000, "{more:?}");
        assert!(measure(&upper.join("nowhere")).is_err());
        assert!(measure(&upper.join("out")).is_err());
    }

    #[test]
    fn depth_is_bounded() {
        let root = tempfile::tempdir().unwrap();
        let mut deep = root.path().to_owned();
        for _ in 0..DEPTH_MAX + 20 {
            deep.push("d");
        }
        fs::create_dir_all(deep).unwrap();
        let counted = usize::try_from(measure(root.path()).unwrap().used_inodes).unwrap();
        assert_eq!(counted, DEPTH_MAX + 1);
    }
}
