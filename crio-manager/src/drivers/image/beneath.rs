//! Paths that come from an image or a container, walked beneath a directory of ours.
//!
//! The kernel does the walking (`openat2` with `RESOLVE_IN_ROOT`): symbolic links and `..` stay inside, magic links are
//! refused, and what was checked is what is used, because a file descriptor cannot be swapped.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How often a walk is repeated that the kernel could not finish because something was renamed meanwhile.
const WALK_ATTEMPTS: usize = 64;
/// Deeper directories are moved up before they are removed, so that depth costs neither stack nor descriptors.
const REMOVE_DEPTH: usize = 64;

/// A directory that is `/` for every path given to it.
pub struct Root(OwnedFd);

impl Root {
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Opens `path`; symbolic links on the way are followed inside the root.
    pub fn open_at(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..WALK_ATTEMPTS {
            match rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                result => return result.map_err(Into::into),
            }
        }
        Err(Errno::AGAIN.into())
    }

    pub fn open_dir(&self, path: &[u8]) -> io::Result<OwnedFd> {
        self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Opens the directory `path`, creating what is missing of it. `created` is told of each directory made, just after
    /// it was made with mode 0755.
    pub fn make_dirs(&self, path: &[u8], mut created: impl FnMut(&OwnedFd) -> io::Result<()>) -> io::Result<OwnedFd> {
        match self.open_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        let mut directory = self.open_dir(b"")?;
        let mut end = 0;
        for component in components(path) {
            end += component.len() + usize::from(end > 0);
            // From the root each time: a component may be a link to anywhere inside.
            let so_far = path.get(..end).unwrap_or(path);
            directory = match self.open_dir(so_far) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match rustix::fs::mkdirat(&directory, component, Mode::from_raw_mode(0o755)) {
                        Ok(()) => {}
                        // A link that leads nowhere, or somebody was faster: the next open tells.
                        Err(Errno::EXIST) => {
                            directory = self.open_dir(so_far)?;
                            continue;
                        }
                        Err(error) => return Err(error.into()),
                    }
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let made = rustix::fs::openat(&directory, component, flags, Mode::empty())?;
                    rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?; // whatever the umask is
                    created(&made)?;
                    made
                }
                Err(error) => return Err(error),
            };
        }
        Ok(directory)
    }
}

/// The path without leading and doubled slashes and without `.`; `None` if it has a `..` or a NUL.
pub fn clean(path: &[u8]) -> Option<Vec<u8>> {
    if path.contains(&0) {
        return None;
    }
    let mut cleaned = Vec::with_capacity(path.len());
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return None,
            component => {
                if !cleaned.is_empty() {
                    cleaned.push(b'/');
                }
                cleaned.extend_from_slice(component);
            }
        }
    }
    Some(cleaned)
}

/// The components of a cleaned path.
pub fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|component| !component.is_empty())
}

/// Splits a cleaned path into its directory and its last component; `None` for the root.
pub fn split_last(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => Some((path.get(..slash)?, path.get(slash + 1..)?)),
        None => Some((b"", path)),
    }
}

/// Too many symbolic links on the way.
pub fn is_link_loop(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// The file behind a descriptor, as a path: for the calls that take none. Links through it cannot be swapped.
pub fn path_of(fd: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// Removes the directory `path` and all below it; `Ok` if there is none. Follows no symbolic link and does not leave the
/// mount: a mount point below is an error (`EXDEV` or `EBUSY`), what is mounted stays untouched.
pub fn remove_dir_all(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(parent, flags, Mode::empty()) {
        Ok(parent) => remove_at(parent.as_fd(), name.as_bytes()),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes `name` in `directory`, whatever it is, and all below it; `Ok` if there is none. See [`remove_dir_all`].
pub fn remove_at(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let name = CString::new(name)?;
    match open_below(directory, &name) {
        Ok(top) => empty_tree(&top)?,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    match rustix::fs::unlinkat(directory, &name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn open_below(directory: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve)
}

/// Empties the directory `top`. Directories below [`REMOVE_DEPTH`] are moved to its top and found in the next round.
fn empty_tree(top: &OwnedFd) -> io::Result<()> {
    let mut moved = 0_u64;
    loop {
        let moved_before = moved;
        empty_level(top, top, 0, &mut moved)?;
        if moved == moved_before {
            return Ok(());
        }
    }
}

fn empty_level(top: &OwnedFd, directory: &OwnedFd, depth: usize, moved: &mut u64) -> io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let is_dir = match entry.file_type() {
            FileType::Directory => true,
            FileType::Unknown => {
                let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            }
            _ => false,
        };
        if !is_dir {
            ignore_missing(rustix::fs::unlinkat(directory, name, AtFlags::empty()))?;
            continue;
        }
        if rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR).is_ok() {
            continue;
        }
        if depth >= REMOVE_DEPTH {
            move_to_top(top, directory, name, moved)?;
            continue;
        }
        empty_level(top, &open_below(directory, name)?, depth + 1, moved)?;
        ignore_missing(rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR))?;
    }
    Ok(())
}

fn move_to_top(top: &OwnedFd, directory: &OwnedFd, name: &CStr, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        let target = format!(".removing-{moved}");
        let no_replace = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(directory, name, top, target.as_str(), no_replace) {
            Err(Errno::EXIST) => {}
            result => return result.map_err(Into::into),
        }
    }
}

fn ignore_missing(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_keeps_names_and_refuses_steps_upwards() {
        assert_eq!(clean(b"./a//b/./c/").unwrap(), b"a/b/c");
        assert_eq!(clean(b"/etc/passwd").unwrap(), b"etc/passwd");
        assert_eq!(clean(b"./").unwrap(), b"");
        assert_eq!(clean(b"a/../b"), None);
        assert_eq!(clean(b".."), None);
        assert_eq!(clean(b"a\0b"), None);
        assert_eq!(clean(b"..a/b..").unwrap(), b"..a/b..");
    }

    #[test]
    fn links_lead_to_places_inside_the_root_only() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        let inside = outside.path().join("root");
        std::fs::create_dir(&inside).unwrap();
        std::os::unix::fs::symlink("../../../..", inside.join("up")).unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.join("out")).unwrap();
        let root = Root::open(&inside).unwrap();
        assert!(root.open_at(b"out/secret", OFlags::RDONLY).is_err());
        assert!(root.open_at(b"up/secret", OFlags::RDONLY).is_err());
        assert!(
            root.make_dirs(b"out/made", |_| Ok(())).is_err(),
            "the link leads nowhere inside"
        );
        root.make_dirs(b"up/made/deep", |_| Ok(())).unwrap();
        assert!(inside.join("made/deep").is_dir());
        assert!(!outside.path().join("made").exists());
    }

    #[test]
    fn a_very_deep_tree_is_removed_without_following_links() {
        let scratch = tempfile::tempdir().unwrap();
        let kept = scratch.path().join("kept");
        std::fs::create_dir(&kept).unwrap();
        std::fs::write(kept.join("file"), "x").unwrap();
        let top = scratch.path().join("tree");
        std::fs::create_dir(&top).unwrap();
        std::os::unix::fs::symlink(&kept, top.join("link")).unwrap();
        let mut level = rustix::fs::open(&top, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&level, "d", Mode::from_raw_mode(0o700)).unwrap();
            level = rustix::fs::openat(&level, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        drop(level);
        remove_dir_all(&top).unwrap();
        assert!(!top.exists());
        assert!(kept.join("file").exists());
        remove_dir_all(&top).expect("removing again is fine");
    }
}
