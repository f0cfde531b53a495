//! A layer's tar becomes a directory that overlayfs takes as a lower layer.
//!
//! The archive is hostile until proved otherwise. Paths are cleaned (a `..` is refused), parents are walked by the kernel
//! inside the root ([`super::beneath`]), the last component is never followed, and whatever is in the way is replaced, not
//! written through. Whiteouts become what overlayfs understands: a character device 0:0, or an attribute on the directory.
//! The archive's own `trusted.overlay.*` attributes are dropped: they could redirect a directory to another.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::beneath::{self, Root};
use super::tar_stream::{Entries, Entry, Kind, Mtime};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Names of the file system that invented whiteouts; only the opaque mark means anything to others.
const WHITEOUT_RESERVED_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";

const COPY_BUFFER_BYTES: usize = 1 << 17;
/// What one inode is taken to occupy: a block for its data or its entries.
const BLOCK_BYTES: u64 = 4096;

/// How much one layer may cost. The defaults are far above what images in use need.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of the uncompressed tar.
    pub tar_bytes: u64,
    pub entries: u64,
    /// Bytes in one path or link: what the kernel takes.
    pub path_bytes: usize,
    /// Bytes in one PAX or GNU extension header.
    pub extension_bytes: u64,
    pub xattrs_per_entry: usize,
    /// Memory for directory times that are set at the end; directories beyond it keep the time of unpacking.
    pub directory_time_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tar_bytes: 64 << 30,
            entries: 1_000_000,
            path_bytes: 4095,
            extension_bytes: 1 << 20,
            xattrs_per_entry: 128,
            directory_time_bytes: 32 << 20,
        }
    }
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum UnpackError {
    #[error("the archive ends too early")]
    Truncated,
    #[error("not a tar archive: bad {field}")]
    NotATar { field: &'static str },
    #[error("entry {entry:?}: {reason}")]
    InvalidEntry { entry: String, reason: &'static str },
    #[error("entry {entry:?}: {what} are not supported")]
    Unsupported { entry: String, what: &'static str },
    #[error("more than {limit} {what}")]
    Limit { what: &'static str, limit: u64 },
    #[error("read: {0}")]
    Source(Arc<io::Error>),
    #[error("{action} {entry:?}: {source}")]
    Io {
        action: &'static str,
        entry: String,
        source: Arc<io::Error>,
    },
}

/// What the unpacked layer takes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unpacked {
    pub bytes: u64,
    pub inodes: u64,
}

/// Unpacks the uncompressed tar `source` into the empty directory `into`, reading it to its last byte.
///
/// After an error the directory holds whatever was written so far: the caller removes it.
pub fn unpack(source: impl Read, into: &Path, limits: &Limits) -> Result<Unpacked, UnpackError> {
    let root = Root::open(into).map_err(|error| io_error("open", b"/", error))?;
    let mut unpacker = Unpacker {
        root,
        limits,
        parent: None,
        directory_times: Vec::new(),
        directory_time_bytes: 0,
        written: Unpacked {
            bytes: BLOCK_BYTES,
            inodes: 1,
        },
        buffer: vec![0; COPY_BUFFER_BYTES],
    };
    let mut entries = Entries::new(source, limits);
    while let Some(entry) = entries.next_entry()? {
        unpacker.add(&entry, &mut entries)?;
    }
    entries.drain()?;
    unpacker.set_directory_times();
    Ok(unpacker.written)
}

struct Unpacker<'l> {
    root: Root,
    limits: &'l Limits,
    /// The directory of the entry before: archives list a directory's files together. Forgotten whenever a name is
    /// replaced or a link is made, so it never stands for a path that has come to mean something else.
    parent: Option<(Vec<u8>, OwnedFd)>,
    directory_times: Vec<(Vec<u8>, Mtime)>,
    directory_time_bytes: usize,
    written: Unpacked,
    buffer: Vec<u8>,
}

impl Unpacker<'_> {
    fn add<R: Read>(&mut self, entry: &Entry, data: &mut Entries<'_, R>) -> Result<(), UnpackError> {
        let refuse = |reason| {
            Err(UnpackError::InvalidEntry {
                entry: shown(&entry.path),
                reason,
            })
        };
        let Some(path) = beneath::clean(&entry.path) else {
            return refuse("the path has a '..' or a NUL");
        };
        if entry.xattrs.len() > self.limits.xattrs_per_entry {
            return Err(UnpackError::Limit {
                what: "extended attributes of one entry",
                limit: self.limits.xattrs_per_entry as u64,
            });
        }
        let Some((parent_path, name)) = beneath::split_last(&path) else {
            return match entry.kind {
                Kind::Directory => {
                    let root = self
                        .root
                        .open_dir(b"")
                        .map_err(|error| io_error("open", &path, error))?;
                    self.finish_directory(&root, entry, &path)
                }
                _ => refuse("the root must be a directory"),
            };
        };
        if let Some(reserved) = beneath::components(&path).find(|part| part.starts_with(WHITEOUT_RESERVED_PREFIX)) {
            if reserved == OPAQUE_MARK && name == OPAQUE_MARK {
                let parent = self.parent(parent_path)?;
                return mark_opaque(&parent).map_err(|error| io_error("mark opaque", parent_path, error));
            }
            return Ok(());
        }
        if beneath::components(parent_path).any(|part| part.starts_with(WHITEOUT_PREFIX)) {
            return refuse("a whiteout is not a directory");
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) {
            if matches!(hidden, b"" | b"." | b"..") {
                return refuse("the whiteout names no file");
            }
            return self.whiteout(parent_path, hidden, &path);
        }
        let parent = self.parent(parent_path)?;
        match entry.kind {
            Kind::Directory => self.directory(&parent, name, entry, &path),
            Kind::File => self.file(&parent, name, entry, &path, data),
            Kind::HardLink => self.hard_link(&parent, name, entry, &path),
            Kind::Symlink => self.symlink(&parent, name, entry, &path),
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => self.node(&parent, name, entry, &path),
        }
    }

    /// The directory `path`, made where the archive did not list it.
    fn parent(&mut self, path: &[u8]) -> Result<OwnedFd, UnpackError> {
        if let Some((known, directory)) = &self.parent
            && known == path
        {
            return directory
                .try_clone()
                .map_err(|error| io_error("open directory", path, error));
        }
        let mut made = 0;
        let count = |_: &OwnedFd| {
            made += 1;
            Ok(())
        };
        let directory = match self.root.make_dirs(path, count) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => self.parent_through_whiteouts(path),
            result => result,
        }
        .map_err(|error| io_error("open directory", path, error))?;
        self.written.inodes += made;
        self.written.bytes += made * BLOCK_BYTES;
        let kept = directory
            .try_clone()
            .map_err(|error| io_error("open directory", path, error))?;
        self.parent = Some((path.to_vec(), kept));
        Ok(directory)
    }

    /// A whiteout on the way hides what lower layers had there; the directory that takes its place must go on hiding it.
    fn parent_through_whiteouts(&mut self, path: &[u8]) -> io::Result<OwnedFd> {
        let mut end = 0;
        for component in beneath::components(path) {
            let above = path.get(..end.max(1) - 1).unwrap_or_default();
            end += component.len() + 1;
            let directory = self.root.open_dir(above)?;
            if let Some(stat) = lstat(&directory, component)?
                && is_whiteout(&stat)
            {
                beneath::remove_at(directory.as_fd(), component)?;
                rustix::fs::mkdirat(&directory, component, Mode::from_raw_mode(0o755))?;
                mark_opaque(&open_dir_at(&directory, component)?)?;
            }
        }
        self.root.make_dirs(path, |_| Ok(()))
    }

    fn directory(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry, path: &[u8]) -> Result<(), UnpackError> {
        let failed = |error| io_error("make directory", path, error);
        let existing = lstat(parent, name).map_err(failed)?;
        let is_dir = existing
            .as_ref()
            .is_some_and(|stat| file_type(stat) == FileType::Directory);
        let hides_lower = existing.as_ref().is_some_and(is_whiteout);
        if !is_dir {
            if existing.is_some() {
                self.remove(parent, name, path)?;
            }
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)).map_err(|error| failed(error.into()))?;
            self.count(0);
        }
        let directory = open_dir_at(parent, name).map_err(failed)?;
        if hides_lower {
            mark_opaque(&directory).map_err(failed)?;
        }
        self.finish_directory(&directory, entry, path)
    }

    fn finish_directory(&mut self, directory: &OwnedFd, entry: &Entry, path: &[u8]) -> Result<(), UnpackError> {
        set_owner_mode_and_xattrs(directory, entry, path)?;
        let cost = path.len() + size_of::<(Vec<u8>, Mtime)>();
        if self.directory_time_bytes + cost <= self.limits.directory_time_bytes {
            self.directory_time_bytes += cost;
            self.directory_times.push((path.to_vec(), entry.mtime));
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        path: &[u8],
        data: &mut Entries<'_, R>,
    ) -> Result<(), UnpackError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600));
        let file = match create() {
            Err(Errno::EXIST) => {
                self.remove(parent, name, path)?;
                create()
            }
            result => result,
        };
        let mut file = File::from(file.map_err(|error| io_error("create", path, error.into()))?);
        loop {
            let count = data.read_data(&mut self.buffer)?;
            if count == 0 {
                break;
            }
            let part = self.buffer.get(..count).unwrap_or_default();
            file.write_all(part).map_err(|error| io_error("write", path, error))?;
        }
        let file = OwnedFd::from(file);
        set_owner_mode_and_xattrs(&file, entry, path)?;
        rustix::fs::futimens(&file, &times(entry.mtime))
            .map_err(|error| io_error("set the time of", path, error.into()))?;
        self.count(entry.size);
        Ok(())
    }

    /// Another name for a file of this layer. Its owner and mode are that file's: they are not set through the link.
    fn hard_link(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry, path: &[u8]) -> Result<(), UnpackError> {
        let refuse = |reason| UnpackError::InvalidEntry {
            entry: shown(&entry.path),
            reason,
        };
        let target = beneath::clean(&entry.link).ok_or_else(|| refuse("the link has a '..' or a NUL"))?;
        let (target_parent, target_name) =
            beneath::split_last(&target).ok_or_else(|| refuse("the link leads to the root"))?;
        if target == path {
            return Err(refuse("the link leads to itself"));
        }
        let failed = |error| io_error("link", path, error);
        let target_parent = self.root.open_dir(target_parent).map_err(failed)?;
        match lstat(&target_parent, target_name).map_err(failed)? {
            None => return Err(refuse("the link leads to a file that this layer has not")),
            Some(stat) if file_type(&stat) == FileType::Directory => {
                return Err(refuse("the link leads to a directory"));
            }
            Some(_) => {}
        }
        let link = || rustix::fs::linkat(&target_parent, target_name, parent, name, AtFlags::empty());
        match link() {
            Err(Errno::EXIST) => {
                // Two names of one file, or two ways to one name: removing first could remove the target itself.
                if same_file(&target_parent, target_name, parent, name).map_err(failed)? {
                    return Ok(());
                }
                self.remove(parent, name, path)?;
                link()
            }
            result => result,
        }
        .map_err(|error| failed(error.into()))
    }

    fn symlink(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry, path: &[u8]) -> Result<(), UnpackError> {
        if entry.link.is_empty() || entry.link.contains(&0) {
            return Err(UnpackError::InvalidEntry {
                entry: shown(&entry.path),
                reason: "the link is empty or has a NUL",
            });
        }
        self.parent = None;
        let link = || rustix::fs::symlinkat(&*entry.link, parent, name);
        match link() {
            Err(Errno::EXIST) => {
                self.remove(parent, name, path)?;
                link()
            }
            result => result,
        }
        .and_then(|()| {
            let (uid, gid) = owner(entry);
            rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            rustix::fs::utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
        })
        .map_err(|error| io_error("make link", path, error.into()))?;
        self.count(0);
        Ok(())
    }

    fn node(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry, path: &[u8]) -> Result<(), UnpackError> {
        let kind = match entry.kind {
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        let make = || rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device);
        match make() {
            Err(Errno::EXIST) => {
                self.remove(parent, name, path)?;
                make()
            }
            result => result,
        }
        .and_then(|()| {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let node = rustix::fs::openat(parent, name, flags, Mode::empty())?;
            let (uid, gid) = owner(entry);
            rustix::fs::chownat(&node, "", uid, gid, AtFlags::EMPTY_PATH)?;
            rustix::fs::chmod(beneath::path_of(&node), Mode::from_raw_mode(entry.mode))?;
            rustix::fs::utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
        })
        .map_err(|error| io_error("make node", path, error.into()))?;
        self.count(0);
        Ok(())
    }

    /// Hides `hidden` of the layers below. What this layer itself has under that name stays.
    fn whiteout(&mut self, parent_path: &[u8], hidden: &[u8], path: &[u8]) -> Result<(), UnpackError> {
        let parent = self.parent(parent_path)?;
        let failed = |error| io_error("white out", path, error);
        match lstat(&parent, hidden).map_err(failed)? {
            None => {
                let no_device = rustix::fs::makedev(0, 0);
                rustix::fs::mknodat(&parent, hidden, FileType::CharacterDevice, Mode::empty(), no_device)
                    .map_err(|error| failed(error.into()))?;
                self.count(0);
                Ok(())
            }
            Some(stat) if file_type(&stat) == FileType::Directory => open_dir_at(&parent, hidden)
                .and_then(|directory| mark_opaque(&directory))
                .map_err(failed),
            Some(_) => Ok(()),
        }
    }

    fn remove(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), UnpackError> {
        self.parent = None;
        beneath::remove_at(parent.as_fd(), name).map_err(|error| io_error("replace", path, error))
    }

    fn count(&mut self, data_bytes: u64) {
        self.written.inodes += 1;
        self.written.bytes += data_bytes.next_multiple_of(BLOCK_BYTES).max(BLOCK_BYTES);
    }

    /// Last, because every file made in a directory changes its time. A directory replaced since is passed over.
    fn set_directory_times(&self) {
        for (path, mtime) in self.directory_times.iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            if let Ok(directory) = self.root.open_at(path, flags)
                && let Err(error) = rustix::fs::futimens(&directory, &times(*mtime))
            {
                tracing::debug!(%error, path = %shown(path), "set the time of a directory, ignoring");
            }
        }
    }
}

/// Owner first: changing it clears the setuid bit and the file capabilities.
fn set_owner_mode_and_xattrs(fd: &OwnedFd, entry: &Entry, path: &[u8]) -> Result<(), UnpackError> {
    let (uid, gid) = owner(entry);
    rustix::fs::fchown(fd, uid, gid).map_err(|error| io_error("change the owner of", path, error.into()))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode))
        .map_err(|error| io_error("change the mode of", path, error.into()))?;
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_kept_xattr(name)) {
        match rustix::fs::fsetxattr(fd, &**name, value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::PERM) => {
                tracing::debug!(path = %shown(path), name = %shown(name), "extended attribute not supported here, left out");
            }
            // Attributes share one block: its end is no sign of a full disk.
            Err(Errno::NOSPC | Errno::TOOBIG | Errno::RANGE | Errno::INVAL) => {
                return Err(UnpackError::InvalidEntry {
                    entry: shown(path),
                    reason: "an extended attribute is malformed or too large",
                });
            }
            Err(error) => return Err(io_error("set an attribute of", path, error.into())),
        }
    }
    Ok(())
}

/// Attributes that mean the same wherever the file is: not those of overlayfs, and not labels, which are the host's choice.
pub(super) fn is_kept_xattr(name: &[u8]) -> bool {
    (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
        || name == b"security.capability"
        || name.starts_with(b"system.posix_acl_")
}

fn mark_opaque(directory: &OwnedFd) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(
        directory,
        OPAQUE_ATTRIBUTE,
        b"y",
        XattrFlags::empty(),
    )?)
}

fn open_dir_at(parent: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

fn lstat(parent: &OwnedFd, name: &[u8]) -> io::Result<Option<rustix::fs::Stat>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn same_file(parent: &OwnedFd, name: &[u8], other_parent: &OwnedFd, other_name: &[u8]) -> io::Result<bool> {
    let (one, other) = (lstat(parent, name)?, lstat(other_parent, other_name)?);
    Ok(one
        .zip(other)
        .is_some_and(|(one, other)| (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)))
}

fn file_type(stat: &rustix::fs::Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
}

fn times(mtime: Mtime) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.seconds,
        tv_nsec: mtime.nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn io_error(action: &'static str, path: &[u8], error: io::Error) -> UnpackError {
    match error.kind() {
        // The archive's fault, not the disk's.
        io::ErrorKind::NotADirectory => UnpackError::InvalidEntry {
            entry: shown(path),
            reason: "a file is in the place of its directory",
        },
        io::ErrorKind::NotFound => UnpackError::InvalidEntry {
            entry: shown(path),
            reason: "a link on the way leads nowhere in this layer",
        },
        _ if beneath::is_link_loop(&error) => UnpackError::InvalidEntry {
            entry: shown(path),
            reason: "the links on the way have no end",
        },
        io::ErrorKind::InvalidFilename => UnpackError::InvalidEntry {
            entry: shown(path),
            reason: "the name is too long",
        },
        _ => UnpackError::Io {
            action,
            entry: shown(path),
            source: Arc::new(error),
        },
    }
}

/// A path for a message: readable, and never longer than a line.
fn shown(path: &[u8]) -> String {
    const SHOWN_BYTES: usize = 120;
    match path.get(..SHOWN_BYTES) {
        Some(beginning) if path.len() > SHOWN_BYTES => format!("{}…", String::from_utf8_lossy(beginning)),
        _ => String::from_utf8_lossy(path).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::damage::damaged;
    use proptest::prelude::*;
    use tar::{EntryType, Header};

    /// A layer with an entry of most kinds, and links that would lead out.
    fn archive() -> Vec<u8> {
        let mut bytes = Vec::new();
        for (path, kind, link, data) in [
            ("a/", EntryType::Directory, "", &b""[..]),
            ("pax", EntryType::XHeader, "", b"12 path=a/f\n"),
            ("a/f", EntryType::Regular, "", b"content"),
            ("a/out", EntryType::Symlink, "../../canary", b""),
            ("a/hard", EntryType::Link, "a/f", b""),
            ("a/.wh.gone", EntryType::Regular, "", b""),
            ("././@LongLink", EntryType::GNULongName, "", b"a/long\0"),
            ("a/l", EntryType::Regular, "", b"x"),
            ("a/pipe", EntryType::Fifo, "", b""),
        ] {
            let mut header = Header::new_ustar();
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(kind);
            header.set_mode(0o644);
            header.set_size(data.len() as u64);
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    /// Headers whose sum is right again: a wrong sum would hide what else is wrong.
    fn with_sums(mut bytes: Vec<u8>) -> Vec<u8> {
        for block in bytes.chunks_exact_mut(512) {
            if &block[257..262] == b"ustar" {
                let mut header = Header::new_old();
                header.as_mut_bytes().copy_from_slice(block);
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
        bytes
    }

    #[test]
    fn the_archive_that_is_damaged_is_good() {
        let directory = tempfile::tempdir().unwrap();
        let written = unpack(&with_sums(archive())[..], directory.path(), &Limits::default());
        // Only root makes the device that is a whiteout.
        if rustix::process::geteuid().is_root() {
            assert_eq!(written.unwrap().inodes, 7);
        }
    }

    proptest! {
        #[test]
        fn a_damaged_archive_is_unpacked_or_refused_and_stays_inside(bytes in damaged(archive()).prop_map(with_sums)) {
            let directory = tempfile::tempdir().unwrap();
            let (root, canary) = (directory.path().join("root"), directory.path().join("canary"));
            std::fs::create_dir(&root).unwrap();
            std::fs::write(&canary, "host").unwrap();
            let _ = unpack(&bytes[..], &root, &Limits::default());
            prop_assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
            prop_assert_eq!(std::fs::read(&canary).unwrap(), b"host");
        }
    }
}
