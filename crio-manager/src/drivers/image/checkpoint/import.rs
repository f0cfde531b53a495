//! An archive becomes a checkpoint again. It comes from outside: sizes are bounded, names are cleaned, nothing in it is
//! written anywhere but into the container's own place and, by the way that layers go, into its root file system.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use serde::Deserialize;
use serde_json::Value;

use super::super::beneath::{self, Root};
use super::super::compression::{LimitedReader, uncompressed};
use super::super::tar_stream::{Entries, Entry, Kind};
use super::super::unpack::{self, Limits, UnpackError};
use super::{CONFIG_DUMP, DELETED_FILES, PROCESSES, ROOTFS_DIFF, SPEC_DUMP};
use crate::drivers::seams::{CheckpointHead, CheckpointPlace, DriverError, DriverResult, ErrorKind};

/// The largest document that is read, in bytes: a spec is at most as large as a request, and removed files are many.
pub(super) const DOCUMENT_BYTES: u64 = 64 << 20;
/// criu makes a file for each kind of thing and each process.
pub(super) const PROCESS_FILES_MAX: usize = 200_000;
/// What criu writes in every case.
const INVENTORY: &str = "inventory.img";
const COPY_BUFFER_BYTES: usize = 1 << 17;

/// config.dump, as far as it matters.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    rootfs_image: String,
    #[serde(default)]
    rootfs_image_ref: String,
    #[serde(default)]
    rootfs_image_name: String,
}

/// What the archive says of its container.
pub(super) fn head(archive: &Path, limits: &Limits) -> DriverResult<CheckpointHead> {
    let mut entries = Entries::new(open(archive, limits)?, limits);
    let (mut config, mut spec) = (None, None);
    while config.is_none() || spec.is_none() {
        let Some(entry) = entries.next_entry().map_err(|error| refused(archive, error))? else {
            let what = if config.is_none() { CONFIG_DUMP } else { SPEC_DUMP };
            return Err(invalid(archive, &format!("not a checkpoint: it has no {what}")));
        };
        match name_of(&entry).as_deref() {
            Some(CONFIG_DUMP) => config = Some(document(archive, &entry, &mut entries)?),
            Some(SPEC_DUMP) => spec = Some(document(archive, &entry, &mut entries)?),
            _ => {}
        }
    }
    head_of(archive, &config.unwrap_or_default(), &spec.unwrap_or_default())
}

/// What these two documents say.
pub(super) fn head_of(archive: &Path, config: &[u8], spec: &[u8]) -> DriverResult<CheckpointHead> {
    let config: Config =
        serde_json::from_slice(config).map_err(|error| invalid(archive, &format!("{CONFIG_DUMP}: {error}")))?;
    let spec: Value =
        serde_json::from_slice(spec).map_err(|error| invalid(archive, &format!("{SPEC_DUMP}: {error}")))?;
    let names = [config.rootfs_image_ref, config.rootfs_image_name, config.rootfs_image];
    let mounts = spec.get("mounts").and_then(Value::as_array).into_iter().flatten();
    let text = |mount: &Value, key: &str| mount.get(key).and_then(Value::as_str).map(str::to_owned);
    Ok(CheckpointHead {
        images: names.into_iter().filter(|name| !name.is_empty()).collect(),
        mounts: mounts
            .filter(|mount| text(mount, "type").as_deref() == Some("bind"))
            .filter_map(|mount| text(mount, "destination"))
            .collect(),
    })
}

/// Unpacks the processes into `place`, and the changes into the root file system that is mounted at `rootfs`.
pub(super) fn unpack(
    archive: &Path,
    directory: &Path,
    place: &CheckpointPlace,
    rootfs: &Path,
    limits: &Limits,
) -> DriverResult<()> {
    let mut entries = Entries::new(open(archive, limits)?, limits);
    let (mut unpacked, mut files) = (Unpacked::default(), 0);
    while let Some(entry) = entries.next_entry().map_err(|error| refused(archive, error))? {
        let Some(name) = name_of(&entry) else { continue };
        match name.as_str() {
            ROOTFS_DIFF => {
                let spooled = spool(archive, &directory.join(ROOTFS_DIFF), &entry, &mut entries)?;
                unpacked.diff = Some(spooled);
            }
            DELETED_FILES => {
                unpacked.deleted = deleted_of(archive, &document(archive, &entry, &mut entries)?)?;
            }
            name => {
                let Some(file) = name.strip_prefix(PROCESSES).and_then(|name| name.strip_prefix('/')) else {
                    continue;
                };
                files += 1;
                if file.contains('/') || files > PROCESS_FILES_MAX {
                    return Err(invalid(archive, "directories or too many files among the processes"));
                }
                spool(archive, &place.images.join(file), &entry, &mut entries)?;
            }
        }
    }
    unpacked.apply(archive, place, rootfs, limits)
}

/// What of a checkpoint changes the root file system, once the processes are in their place.
#[derive(Default)]
pub(super) struct Unpacked {
    /// rootfs-diff.tar.
    pub(super) diff: Option<File>,
    /// Paths of files that the container had removed.
    pub(super) deleted: Vec<String>,
}

impl Unpacked {
    /// Changes the root file system. Errors: the processes are not there, so this is no checkpoint.
    pub(super) fn apply(
        self,
        archive: &Path,
        place: &CheckpointPlace,
        rootfs: &Path,
        limits: &Limits,
    ) -> DriverResult<()> {
        if !place.images.join(INVENTORY).exists() {
            return Err(invalid(
                archive,
                &format!("not a checkpoint: it has no {PROCESSES}/{INVENTORY}"),
            ));
        }
        if let Some(mut diff) = self.diff {
            diff.rewind().map_err(|error| DriverError::io(ROOTFS_DIFF, &error))?;
            unpack::unpack(diff, rootfs, limits).map_err(|error| refused(archive, error))?;
        }
        remove_deleted(archive, rootfs, &self.deleted)
    }
}

/// deleted.files.
pub(super) fn deleted_of(archive: &Path, content: &[u8]) -> DriverResult<Vec<String>> {
    serde_json::from_slice(content).map_err(|error| invalid(archive, &format!("{DELETED_FILES}: {error}")))
}

/// Removes files of the image that the container had removed.
fn remove_deleted(archive: &Path, rootfs: &Path, deleted: &[String]) -> DriverResult<()> {
    let failed = |error: io::Error| DriverError::io(format!("{DELETED_FILES} of {}", archive.display()), &error);
    let root = Root::open(rootfs).map_err(failed)?;
    for path in deleted {
        let cleaned = beneath::clean(path.as_bytes());
        let Some((parent, name)) = cleaned.as_deref().and_then(beneath::split_last) else {
            return Err(invalid(archive, &format!("{DELETED_FILES} names {path:?}")));
        };
        match root.open_dir(parent) {
            Ok(parent) => beneath::remove_at(std::os::fd::AsFd::as_fd(&parent), name).map_err(failed)?,
            // Gone with a directory above it.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

fn open(archive: &Path, limits: &Limits) -> DriverResult<impl Read> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => DriverError::new(
            ErrorKind::NotFound,
            format!("checkpoint {}: {error}", archive.display()),
        ),
        _ => DriverError::io(format!("checkpoint {}", archive.display()), &error),
    };
    // Opening a FIFO would wait for its other end.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = File::options().read(true).custom_flags(nonblocking).open(archive);
    let file = file.map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(invalid(archive, "not a regular file"));
    }
    let tar = uncompressed(file).map_err(failed)?;
    Ok(LimitedReader::new(tar, limits.tar_bytes))
}

/// The cleaned name of a regular file; `None` for whatever else there is, which means nothing in a checkpoint.
fn name_of(entry: &Entry) -> Option<String> {
    if entry.kind != Kind::File {
        return None;
    }
    String::from_utf8(beneath::clean(&entry.path)?).ok()
}

fn document<R: Read>(archive: &Path, entry: &Entry, data: &mut Entries<'_, R>) -> DriverResult<Vec<u8>> {
    if entry.size > DOCUMENT_BYTES {
        return Err(too_large(archive));
    }
    let mut content = Vec::new();
    copy(archive, data, &mut content, Path::new("memory"))?;
    Ok(content)
}

/// Writes an entry as a new file of ours.
fn spool<R: Read>(archive: &Path, path: &Path, entry: &Entry, data: &mut Entries<'_, R>) -> DriverResult<File> {
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => invalid(archive, &format!("{} twice", String::from_utf8_lossy(&entry.path))),
        _ => DriverError::io(format!("write {}", path.display()), &error),
    })?;
    copy(archive, data, &mut file, path)?;
    Ok(file)
}

fn copy<R: Read>(archive: &Path, from: &mut Entries<'_, R>, into: &mut impl Write, path: &Path) -> DriverResult<()> {
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    loop {
        let count = from.read_data(&mut buffer).map_err(|error| refused(archive, error))?;
        if count == 0 {
            return Ok(());
        }
        let written = into.write_all(buffer.get(..count).unwrap_or_default());
        written.map_err(|error| DriverError::io(format!("write {}", path.display()), &error))?;
    }
}

fn refused(archive: &Path, error: UnpackError) -> DriverError {
    match &error {
        UnpackError::Io { source, .. } => DriverError::io(format!("checkpoint {}: {error}", archive.display()), source),
        _ => invalid(archive, &error.to_string()),
    }
}

pub(super) fn too_large(archive: &Path) -> DriverError {
    invalid(archive, &format!("a document of more than {DOCUMENT_BYTES} bytes"))
}

pub(super) fn invalid(archive: &Path, reason: &str) -> DriverError {
    DriverError::new(
        ErrorKind::Invalid,
        format!("checkpoint {}: {reason}", archive.display()),
    )
}
