//! Files of the host that requests name: mount sources, devices, profiles.

use super::seams::{DriverError, DriverResult, ErrorKind, HostDevice, HostFiles};
use super::selinux;
use crate::model::selinux::Label;
use crate::spec::devices::DeviceKind;
use async_trait::async_trait;
use std::io::{ErrorKind as IoErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What a privileged container makes itself, or would take from the host: its terminals, its shared memory.
const NOT_PASSED_ON: [&str; 8] = [
    "/dev/pts",
    "/dev/shm",
    "/dev/mqueue",
    "/dev/console",
    "/dev/ptmx",
    "/dev/fd",
    "/dev/.lxc",
    "/dev/.udev",
];

/// Most devices that are passed on.
const DEVICES_MAX: usize = 10_000;

/// The host's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

#[async_trait]
impl HostFiles for Host {
    async fn ensure_dir(&self, path: &Path) -> DriverResult<PathBuf> {
        blocking(path, |path| match std::fs::canonicalize(path) {
            Err(error) if error.kind() == IoErrorKind::NotFound => {
                std::fs::create_dir_all(path)?;
                std::fs::canonicalize(path)
            }
            resolved => resolved,
        })
        .await
    }

    async fn exists(&self, path: &Path) -> bool {
        tokio::fs::symlink_metadata(path).await.is_ok()
    }

    async fn remove_file(&self, path: &Path) -> DriverResult<()> {
        blocking(path, |path| match std::fs::remove_file(path) {
            Err(error) if error.kind() == IoErrorKind::NotFound => Ok(()),
            done => done,
        })
        .await
    }

    async fn devices(&self, path: &Path) -> DriverResult<Vec<HostDevice>> {
        blocking(path, |path| {
            let found = std::fs::canonicalize(path)?;
            if !found.is_dir() {
                let device =
                    device(&found)?.ok_or_else(|| std::io::Error::new(IoErrorKind::InvalidInput, "not a device"))?;
                return Ok(vec![HostDevice {
                    path: path.to_owned(),
                    ..device
                }]);
            }
            let mut devices = Vec::new();
            for entry in std::fs::read_dir(&found)? {
                let entry = entry?;
                let named = path.join(entry.file_name());
                devices.extend(device(&entry.path())?.map(|device| HostDevice { path: named, ..device }));
            }
            Ok(devices)
        })
        .await
    }

    async fn all_devices(&self) -> DriverResult<Vec<HostDevice>> {
        blocking(Path::new("/dev"), |dev| {
            let mut devices = Vec::new();
            let mut directories = vec![dev.to_owned()];
            while let Some(directory) = directories.pop() {
                for entry in std::fs::read_dir(directory)? {
                    let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
                    if NOT_PASSED_ON.iter().any(|other| path.starts_with(other)) || devices.len() >= DEVICES_MAX {
                        continue;
                    }
                    if kind.is_dir() {
                        directories.push(path);
                    } else {
                        devices.extend(device(&path)?);
                    }
                }
            }
            Ok(devices)
        })
        .await
    }

    async fn has_label(&self, path: &Path, label: &Label) -> DriverResult<bool> {
        let label = label.to_string();
        blocking(path, move |path| selinux::has_label(path, &label)).await
    }

    async fn relabel(&self, path: &Path, label: &Label) -> DriverResult<()> {
        selinux::relabel(path, label).await
    }

    async fn read(&self, path: &Path, limit: u64) -> DriverResult<Vec<u8>> {
        blocking(path, move |path| read_regular(path, limit)).await
    }
}

/// A regular file, at most `limit` bytes.
pub(super) fn read_regular(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    // Opening a FIFO would wait for its other end.
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::new(IoErrorKind::InvalidInput, "not a regular file"));
    }
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(std::io::Error::new(
            IoErrorKind::InvalidInput,
            format!("larger than {limit} bytes"),
        ));
    }
    Ok(content)
}

/// The device node at a path, symlinks not followed; `None` for anything else, and for what has just gone.
fn device(path: &Path) -> std::io::Result<Option<HostDevice>> {
    let node = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(None),
        node => node?,
    };
    let kind = match node.file_type() {
        kind if kind.is_char_device() => DeviceKind::Character,
        kind if kind.is_block_device() => DeviceKind::Block,
        _ => return Ok(None),
    };
    Ok(Some(HostDevice {
        path: path.to_owned(),
        kind,
        numbers: (rustix::fs::major(node.rdev()), rustix::fs::minor(node.rdev())),
        mode: node.mode() & 0o7777,
        owner: (node.uid(), node.gid()),
    }))
}

async fn blocking<T, W>(path: &Path, work: W) -> DriverResult<T>
where
    T: Send + 'static,
    W: FnOnce(&Path) -> std::io::Result<T> + Send + 'static,
{
    let owned = path.to_owned();
    let done = tokio::task::spawn_blocking(move || work(&owned)).await;
    done.unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)))
        .map_err(|error| match error.kind() {
            IoErrorKind::NotFound => DriverError::new(ErrorKind::NotFound, format!("{}: {error}", path.display())),
            IoErrorKind::InvalidInput => DriverError::new(ErrorKind::Invalid, format!("{}: {error}", path.display())),
            _ => DriverError::io(path.display(), &error),
        })
}
