//! Single files and directories of a mounted root file system, read and made on behalf of a container.
//!
//! What is in there belongs to whoever made the image, or to a container that is running right now. So nothing is opened
//! by its path on the host: the kernel walks inside the root, devices and pipes are never opened, reads are bounded.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};

use super::beneath::{self, Root, path_of};
use super::error::{Error, Result};

/// The longest path that is walked.
const MAX_PATH_BYTES: usize = 4095;

/// Owner and mode of a file to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileOwner {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

/// Reads the regular file `path` of at most `limit` bytes; `None` if there is no such file.
///
/// Directories on the way may be links (inside the root); the file itself may not be a link, a device, a pipe or a socket.
pub fn read_file(rootfs: &Path, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    let inside = inside(path)?;
    let root = Root::open(rootfs).map_err(|error| Error::io("open", rootfs, error))?;
    let found = match root.open_at(&inside, OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(found) => found,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(refused(path, error)),
    };
    require(&found, FileType::RegularFile, path, "not a regular file")?;
    // The descriptor holds the very file that was looked at; opening it by its own name cannot lead elsewhere.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path_of(&found), flags, Mode::empty()).map_err(|error| refused(path, error.into()))?;
    let mut content = Vec::new();
    File::from(file)
        .take(limit.saturating_add(1))
        .read_to_end(&mut content)
        .map_err(|error| refused(path, error))?;
    match content.len() as u64 > limit {
        true => Err(Error::FileTooLarge {
            path: shown(path),
            limit,
        }),
        false => Ok(Some(content)),
    }
}

/// Makes the directory `path` with what is missing above it, mode 0755, owned by `uid` and `gid`; `Ok` if it is there.
pub fn ensure_dir(rootfs: &Path, path: &str, uid: u32, gid: u32) -> Result<()> {
    let inside = inside(path)?;
    let root = Root::open(rootfs).map_err(|error| Error::io("open", rootfs, error))?;
    root.make_dirs(&inside, |made| {
        Ok(rustix::fs::fchown(
            made,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
        )?)
    })
    .map(drop)
    .map_err(|error| refused(path, error))
}

/// Writes the file `path`, whole or not at all. What was there, a link too, is replaced and never written through.
/// Directories missing above it are made, owned by root.
pub fn write_file(rootfs: &Path, path: &str, content: &[u8], owner: FileOwner) -> Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let inside = inside(path)?;
    let Some((parent, name)) = beneath::split_last(&inside) else {
        return Err(Error::InvalidPath {
            path: shown(path),
            reason: "it names no file",
        });
    };
    let root = Root::open(rootfs).map_err(|error| Error::io("open", rootfs, error))?;
    let failed = |error| refused(path, error);
    let parent = root.make_dirs(parent, |_| Ok(())).map_err(failed)?;
    let aside = format!(".{}-{}.new", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&parent, aside.as_str(), flags, Mode::from_raw_mode(0o600))
        .map_err(|error| failed(error.into()))?;
    let written = (|| {
        let mut file = File::from(file);
        file.write_all(content)?;
        rustix::fs::fchown(&file, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(owner.mode))?;
        rustix::fs::renameat(&parent, aside.as_str(), &parent, name)?;
        Ok(())
    })();
    written.map_err(|error| {
        let _ = rustix::fs::unlinkat(&parent, aside.as_str(), rustix::fs::AtFlags::empty()); // the first error matters
        failed(error)
    })
}

/// A container's path as it would name a file from `/`: `..` steps up, and stays at the top.
fn inside(path: &str) -> Result<Vec<u8>> {
    let refuse = |reason| {
        Err(Error::InvalidPath {
            path: shown(path),
            reason,
        })
    };
    if path.len() > MAX_PATH_BYTES {
        return refuse("it is too long");
    }
    if path.contains('\0') {
        return refuse("it has a NUL");
    }
    let mut components: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                components.pop();
            }
            component => components.push(component),
        }
    }
    Ok(components.join("/").into_bytes())
}

fn require(fd: &OwnedFd, wanted: FileType, path: &str, reason: &'static str) -> Result<()> {
    let stat = rustix::fs::fstat(fd).map_err(|error| refused(path, error.into()))?;
    match FileType::from_raw_mode(stat.st_mode) == wanted {
        true => Ok(()),
        false => Err(Error::InvalidPath {
            path: shown(path),
            reason,
        }),
    }
}

fn refused(path: &str, error: io::Error) -> Error {
    let reason = match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "a file is in the place of a directory",
        io::ErrorKind::NotFound => "a link on the way leads nowhere",
        _ if beneath::is_link_loop(&error) => "the links on the way have no end",
        io::ErrorKind::IsADirectory => "a directory is there",
        _ => return Error::io("use in the root file system", path, error),
    };
    Error::InvalidPath {
        path: shown(path),
        reason,
    }
}

fn shown(path: &str) -> String {
    const SHOWN: usize = 120;
    path.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    const ROOT_OWNED: FileOwner = FileOwner {
        uid: 0,
        gid: 0,
        mode: 0o644,
    };

    /// A root file system, and beside it a file that must stay as it is.
    struct Node {
        directory: tempfile::TempDir,
    }

    impl Node {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            fs::create_dir(directory.path().join("rootfs")).unwrap();
            fs::write(directory.path().join("canary"), "host").unwrap();
            Self { directory }
        }

        fn rootfs(&self) -> std::path::PathBuf {
            self.directory.path().join("rootfs")
        }
    }

    impl Drop for Node {
        fn drop(&mut self) {
            let names: Vec<_> = fs::read_dir(self.directory.path())
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .collect();
            assert_eq!(names.len(), 2, "nothing was made outside the root: {names:?}");
            assert_eq!(
                fs::read_to_string(self.directory.path().join("canary")).unwrap(),
                "host"
            );
        }
    }

    #[test]
    fn only_a_regular_file_is_read_and_only_so_far() {
        let node = Node::new();
        let rootfs = node.rootfs();
        fs::create_dir(rootfs.join("etc")).unwrap();
        fs::write(rootfs.join("etc/passwd"), "root:x:0:0").unwrap();
        symlink("etc", rootfs.join("alias")).unwrap();
        symlink("../../canary", rootfs.join("etc/link")).unwrap();
        symlink("../..", rootfs.join("up")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            rootfs.join("etc/pipe"),
            FileType::Fifo,
            Mode::from_raw_mode(0o644),
            0,
        )
        .unwrap();
        let huge = fs::File::create(rootfs.join("etc/huge")).unwrap();
        huge.set_len(10 << 30).unwrap();

        let read = |path| read_file(&rootfs, path, 1 << 20);
        assert_eq!(read("/etc/passwd").unwrap().unwrap(), b"root:x:0:0");
        assert_eq!(read("/alias/../etc/./passwd").unwrap().unwrap(), b"root:x:0:0");
        assert_eq!(read("/alias/passwd").unwrap().unwrap(), b"root:x:0:0");
        assert_eq!(read("/etc/none").unwrap(), None);
        assert_eq!(read("/etc/passwd/none").unwrap(), None);
        assert_eq!(read("/up/canary").unwrap(), None, "up leads to the root itself");
        assert_eq!(read("/../canary").unwrap(), None);
        for path in ["/etc/link", "/etc/pipe", "/etc", "/"] {
            assert!(matches!(read(path), Err(Error::InvalidPath { .. })), "{path}");
        }
        assert!(matches!(read("/etc/huge"), Err(Error::FileTooLarge { .. })));
        assert!(matches!(
            read_file(&rootfs, "/etc/passwd", 9),
            Err(Error::FileTooLarge { .. })
        ));
        assert!(read_file(&rootfs, "/etc/passwd", 10).is_ok());
        assert!(read("/etc\0/x").is_err());
        assert!(read(&"/a".repeat(4000)).is_err());
    }

    #[test]
    fn a_working_directory_is_made_inside() {
        let node = Node::new();
        let rootfs = node.rootfs();
        symlink("/real", rootfs.join("dangling")).unwrap();
        symlink("../../..", rootfs.join("up")).unwrap();
        fs::write(rootfs.join("file"), "").unwrap();
        symlink("loop", rootfs.join("loop")).unwrap();

        ensure_dir(&rootfs, "/a/b/c", 7, 8).unwrap();
        ensure_dir(&rootfs, "/a/b/c", 9, 9).unwrap();
        let made = fs::metadata(rootfs.join("a/b")).unwrap();
        assert_eq!(
            (made.uid(), made.gid(), made.mode() & 0o7777),
            (7, 8, 0o755),
            "the second call changed nothing"
        );
        ensure_dir(&rootfs, "/up/d", 0, 0).unwrap();
        ensure_dir(&rootfs, "/../../e", 0, 0).unwrap();
        assert!(rootfs.join("d").is_dir() && rootfs.join("e").is_dir());
        ensure_dir(&rootfs, "/", 0, 0).unwrap();
        ensure_dir(&rootfs, "", 0, 0).unwrap();
        for path in ["/file", "/file/x", "/dangling", "/dangling/x", "/loop/x"] {
            assert!(
                matches!(ensure_dir(&rootfs, path, 0, 0), Err(Error::InvalidPath { .. })),
                "{path}"
            );
        }
        ensure_dir(&rootfs, "/proc/self/fd/3", 0, 0).expect("just a name in there");
        assert!(rootfs.join("proc/self/fd/3").is_dir());
    }

    #[test]
    fn a_written_file_replaces_a_link_and_follows_none() {
        let node = Node::new();
        let rootfs = node.rootfs();
        fs::create_dir(rootfs.join("etc")).unwrap();
        symlink("../../canary", rootfs.join("etc/hosts")).unwrap();
        symlink("../..", rootfs.join("out")).unwrap();
        write_file(
            &rootfs,
            "/etc/hosts",
            b"new",
            FileOwner {
                uid: 1,
                gid: 2,
                mode: 0o640,
            },
        )
        .unwrap();
        let written = fs::symlink_metadata(rootfs.join("etc/hosts")).unwrap();
        assert!(written.is_file());
        assert_eq!((written.uid(), written.gid(), written.mode() & 0o7777), (1, 2, 0o640));
        write_file(&rootfs, "/out/hostname", b"x", ROOT_OWNED).unwrap();
        assert!(rootfs.join("hostname").is_file());
        write_file(&rootfs, "/new/dir/file", b"x", ROOT_OWNED).unwrap();
        assert!(write_file(&rootfs, "/new/dir", b"x", ROOT_OWNED).is_err());
        assert!(write_file(&rootfs, "/", b"x", ROOT_OWNED).is_err());
        assert_eq!(
            fs::read_dir(rootfs.join("new")).unwrap().count(),
            1,
            "nothing is left aside"
        );
    }
}
