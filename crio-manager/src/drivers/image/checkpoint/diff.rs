//! What a container has changed in its root file system, out of its writable layer: files as a tar, removed ones by name.
//!
//! The layer belongs to the container, which may have made anything in it. Every directory is opened beneath the one
//! before, no link is followed, and only what overlayfs itself has put there is understood as its marks.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use tar::{Builder, EntryType, Header};

/// Directories within directories; each holds a descriptor.
const DEPTH_MAX: usize = 512;
/// Files of more than one name that are told apart; beyond, each name is a file of its own.
const LINKED_FILES_MAX: usize = 100_000;
/// Removed files that are told by name.
const DELETED_MAX: usize = 1_000_000;
/// Names and values of a file's extended attributes.
const XATTR_BYTES: usize = 64 * 1024;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const OPAQUE: &str = "trusted.overlay.opaque";

/// Writes the changes in `upper`, a writable layer above `layers`, as a tar; what has been removed.
pub(super) fn write(upper: &Path, layers: &[PathBuf], into: impl Write) -> io::Result<Vec<String>> {
    let top = rustix::fs::openat(CWD, upper, DIRECTORY, Mode::empty())?;
    let mut diff = Diff {
        tar: Builder::new(into),
        layers,
        deleted: Vec::new(),
        linked: HashMap::new(),
    };
    diff.directory(top, &[], 0)?;
    diff.tar.into_inner()?.flush()?;
    Ok(diff.deleted)
}

struct Diff<'l, W: Write> {
    tar: Builder<W>,
    layers: &'l [PathBuf],
    deleted: Vec<String>,
    /// Device and inode to the name under which the file is in the tar.
    linked: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Diff<'_, W> {
    fn directory(&mut self, directory: OwnedFd, path: &[u8], depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other(format!("directories deeper than {DEPTH_MAX}")));
        }
        if depth > 0 && xattr(&directory, OPAQUE).is_some_and(|value| value == b"y") {
            self.hidden_by(&directory, path)?;
        }
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let path = joined(path, name.to_bytes());
            let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let below = rustix::fs::openat(&directory, name, DIRECTORY, Mode::empty())?;
                    self.extensions(&below)?;
                    self.add(&stat, EntryType::Directory, &path, io::empty())?;
                    self.directory(below, &path, depth + 1)?;
                }
                FileType::CharacterDevice if stat.st_rdev == 0 => self.delete(&path)?,
                kind => self.file(&directory, name, &stat, kind, &path)?,
            }
        }
        Ok(())
    }

    fn file(&mut self, directory: &OwnedFd, name: &CStr, stat: &Stat, kind: FileType, path: &[u8]) -> io::Result<()> {
        if stat.st_nlink > 1 && kind != FileType::Socket {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&inode).cloned() {
                let mut header = header_of(stat, EntryType::Link);
                return self.tar.append_link(&mut header, as_path(path), as_path(&first));
            }
            if self.linked.len() < LINKED_FILES_MAX {
                self.linked.insert(inode, path.to_vec());
            }
        }
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
                self.extensions(&file)?;
                self.add(stat, EntryType::Regular, path, File::from(file))
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
                let mut header = header_of(stat, EntryType::Symlink);
                self.tar
                    .append_link(&mut header, as_path(path), as_path(target.to_bytes()))
            }
            FileType::CharacterDevice => self.add(stat, EntryType::Char, path, io::empty()),
            FileType::BlockDevice => self.add(stat, EntryType::Block, path, io::empty()),
            FileType::Fifo => self.add(stat, EntryType::Fifo, path, io::empty()),
            // A socket is made by who listens on it: criu does that.
            _ => Ok(()),
        }
    }

    fn add(&mut self, stat: &Stat, kind: EntryType, path: &[u8], content: impl Read) -> io::Result<()> {
        let mut header = header_of(stat, kind);
        if kind != EntryType::Regular {
            return self.tar.append_data(&mut header, as_path(path), io::empty());
        }
        // As long as the header says, whatever becomes of the file meanwhile.
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        header.set_size(size);
        let content = content.take(size).chain(io::repeat(0)).take(size);
        self.tar.append_data(&mut header, as_path(path), content)
    }

    /// Attributes that mean something elsewhere, as PAX records before the entry.
    fn extensions(&mut self, file: &OwnedFd) -> io::Result<()> {
        let mut names = vec![0; XATTR_BYTES];
        let Ok(length) = rustix::fs::flistxattr(file, &mut names) else {
            return Ok(());
        };
        let names = names.get(..length).unwrap_or_default();
        let mut kept = Vec::new();
        for name in names
            .split(|byte| *byte == 0)
            .filter(|name| super::super::unpack::is_kept_xattr(name))
        {
            if let Ok(name) = std::str::from_utf8(name)
                && let Some(value) = xattr(file, name)
            {
                kept.push((format!("SCHILY.xattr.{name}"), value));
            }
        }
        if kept.is_empty() {
            return Ok(());
        }
        let records = kept.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        self.tar.append_pax_extensions(records)
    }

    fn delete(&mut self, path: &[u8]) -> io::Result<()> {
        if self.deleted.len() >= DELETED_MAX {
            return Err(io::Error::other(format!("more than {DELETED_MAX} removed files")));
        }
        let path = String::from_utf8(path.to_vec());
        let path = path.map_err(|_| io::Error::other("a removed file whose name is not UTF-8"))?;
        self.deleted.push(format!("/{path}"));
        Ok(())
    }

    /// A directory that was removed and made anew hides what its namesakes in the layers have.
    fn hidden_by(&mut self, directory: &OwnedFd, path: &[u8]) -> io::Result<()> {
        for layer in self.layers {
            let Ok(root) = super::super::beneath::Root::open(layer) else {
                continue;
            };
            let Ok(namesake) = root.open_at(path, DIRECTORY) else {
                continue;
            };
            for entry in Dir::read_from(&namesake)? {
                let entry = entry?;
                let name = entry.file_name();
                let stays = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
                if !matches!(name.to_bytes(), b"." | b"..") && !stays {
                    self.delete(&joined(path, name.to_bytes()))?;
                }
            }
        }
        Ok(())
    }
}

fn header_of(stat: &Stat, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    if matches!(kind, EntryType::Char | EntryType::Block) {
        // These fields every header of this kind has.
        let _ = header.set_device_major(rustix::fs::major(stat.st_rdev));
        let _ = header.set_device_minor(rustix::fs::minor(stat.st_rdev));
    }
    header
}

fn xattr(file: impl AsFd, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; XATTR_BYTES];
    let length = rustix::fs::fgetxattr(file, name, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = path.to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    joined
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
