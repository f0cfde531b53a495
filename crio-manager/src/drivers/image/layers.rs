//! The unpacked layers on disk, one directory per layer: `layers/<diff-id>/{diff,layer.json}`.
//!
//! A layer is unpacked under `tmp/`, synced, given its `layer.json`, and renamed into place: under `layers/` there are whole
//! layers only. A crash leaves something under `tmp/` at most, which [`LayerStore::open`] removes.

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::beneath;
use super::compression::{LimitedReader, uncompressed};
use super::digest::{Algorithm, DiffId, Digest, HashingReader};
use super::durable;
use super::error::{Error, Result};
use super::tar_stream::source_error;
use super::unpack::{Limits, unpack};
use crate::drivers::record_file;

pub(super) const LAYERS: &str = "layers";
const SCRATCH: &str = "tmp";
const CONTENT: &str = "diff";
const RECORD: &str = "layer.json";
const NEW_FILE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What a layer takes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerSize {
    pub bytes: u64,
    pub inodes: u64,
}

#[derive(Serialize, Deserialize)]
struct LayerRecord {
    diff_id: DiffId,
    #[serde(flatten)]
    size: LayerSize,
}

/// Blocking; callers run it where blocking is allowed.
pub struct LayerStore {
    root: PathBuf,
    next_scratch: AtomicU64,
}

impl LayerStore {
    /// Opens the layers under `root` and tells which there are. Leftovers of a crash are removed.
    pub fn open(root: &Path) -> Result<(Self, HashMap<DiffId, LayerSize>)> {
        let store = Self {
            root: root.to_owned(),
            next_scratch: AtomicU64::new(0),
        };
        let scratch = root.join(SCRATCH);
        beneath::remove_dir_all(&scratch).map_err(|error| Error::io("remove", &scratch, error))?;
        durable::make_private_dir(&scratch)?;
        let layers = root.join(LAYERS);
        durable::make_private_dir(&layers)?;
        let mut found = HashMap::new();
        for entry in fs::read_dir(&layers).map_err(|error| Error::io("list", &layers, error))? {
            let entry = entry.map_err(|error| Error::io("list", &layers, error))?;
            match store.read_record(&entry.path()) {
                Some(record) => {
                    found.insert(record.diff_id, record.size);
                }
                None => {
                    tracing::warn!(path = %entry.path().display(), "not a whole layer, removing it");
                    store.discard(&entry.path())?;
                }
            }
        }
        Ok((store, found))
    }

    /// The directory that is the layer's content.
    pub fn content(&self, layer: &DiffId) -> PathBuf {
        self.directory(layer).join(CONTENT)
    }

    /// Unpacks `blob`, compressed or not, as `layer`. Fails, leaving nothing, if its content is not what `layer` names.
    pub fn add(&self, layer: &DiffId, blob: impl Read, limits: &Limits) -> Result<LayerSize> {
        let failed = |source| Error::unpack(layer.digest(), &self.root, source);
        self.place(layer, |content| {
            let tar = uncompressed(blob).map_err(|error| failed(source_error(error)))?;
            let mut tar = HashingReader::new(LimitedReader::new(tar, limits.tar_bytes), Algorithm::Sha256);
            let unpacked = unpack(&mut tar, content, limits).map_err(failed)?;
            let (actual, _) = tar.finish();
            if actual != *layer.digest() {
                let expected = layer.digest().clone();
                return Err(Error::DigestMismatch {
                    what: format!("content of layer {layer}"),
                    expected,
                    actual,
                });
            }
            Ok(LayerSize {
                bytes: unpacked.bytes,
                inodes: unpacked.inodes,
            })
        })
    }

    /// Makes `layer` of files that are there already, each with its relative path: clean, and apart from the others'.
    pub fn add_files(&self, layer: &DiffId, files: Vec<(String, fs::File)>) -> Result<LayerSize> {
        self.place(layer, |content| {
            let root = beneath::Root::open(content).map_err(|error| Error::io("open", content, error))?;
            let mut size = LayerSize { bytes: 0, inodes: 1 };
            for (path, mut file) in files {
                let failed = |error| Error::io("write", content.join(&path), error);
                let (parent, name) = beneath::split_last(path.as_bytes()).unwrap_or_default();
                let directory = root
                    .make_dirs(parent, |_| {
                        size.inodes += 1;
                        Ok(())
                    })
                    .map_err(failed)?;
                let mode = Mode::from_raw_mode(0o644);
                let made =
                    rustix::fs::openat(&directory, name, NEW_FILE, mode).map_err(|error| failed(error.into()))?;
                let mut made = fs::File::from(made);
                made.set_permissions(Permissions::from_mode(0o644)).map_err(failed)?; // whatever the umask is
                size.bytes += std::io::copy(&mut file, &mut made).map_err(failed)?;
                size.inodes += 1;
            }
            Ok(size)
        })
    }

    /// Puts a layer that `fill` makes in its place, whole, or leaves nothing.
    fn place(&self, layer: &DiffId, fill: impl FnOnce(&Path) -> Result<LayerSize>) -> Result<LayerSize> {
        let scratch = self.scratch()?;
        let content = scratch.path.join(CONTENT);
        durable::make_dir(&content, 0o755)?;
        let size = fill(&content)?;
        durable::sync_file_system(&content)?;
        durable::write_record(
            &scratch.path.join(RECORD),
            &LayerRecord {
                diff_id: layer.clone(),
                size,
            },
        )?;
        let target = self.directory(layer);
        self.discard(&target)?;
        fs::rename(&scratch.path, &target).map_err(|error| Error::io("rename into place", &target, error))?;
        durable::sync_dir(&self.root.join(LAYERS))?;
        Ok(size)
    }

    /// Removes `layer`; `Ok` if it is not there.
    pub fn remove(&self, layer: &DiffId) -> Result<()> {
        self.discard(&self.directory(layer))
    }

    /// A file under `tmp/` that is gone when it is closed, even by a crash.
    pub fn spool(&self) -> Result<fs::File> {
        let directory = self.root.join(SCRATCH);
        tempfile::tempfile_in(&directory).map_err(|error| Error::io("make a file in", &directory, error))
    }

    fn directory(&self, layer: &DiffId) -> PathBuf {
        self.root.join(LAYERS).join(layer.hex())
    }

    fn read_record(&self, directory: &Path) -> Option<LayerRecord> {
        let record: LayerRecord = record_file::read(&directory.join(RECORD)).ok()?;
        let named = directory.file_name()?.to_str()? == record.diff_id.hex();
        (named && directory.join(CONTENT).is_dir()).then_some(record)
    }

    /// Moves a directory out of sight, then removes it: a crash in between leaves it under `tmp/`.
    fn discard(&self, directory: &Path) -> Result<()> {
        let scratch = self.scratch()?;
        match fs::rename(directory, scratch.path.join("discarded")) {
            Ok(()) => scratch.remove(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => scratch.remove(),
            Err(error) => Err(Error::io("move away", directory, error)),
        }
    }

    fn scratch(&self) -> Result<Scratch> {
        let number = self.next_scratch.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join(SCRATCH).join(number.to_string());
        durable::make_dir(&path, 0o700)?;
        Ok(Scratch { path })
    }
}

/// A directory under `tmp/`, removed with its owner unless it was renamed away.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn remove(self) -> Result<()> {
        beneath::remove_dir_all(&self.path).map_err(|error| Error::io("remove", &self.path, error))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = beneath::remove_dir_all(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "remove what a failed layer left, ignoring until restart");
        }
    }
}

/// Checks that reading `blob` to its end gives `expected`; for blobs that are on disk already.
pub fn verify_blob(what: &str, blob: impl Read, expected: &Digest) -> Result<u64> {
    let mut blob = HashingReader::new(blob, expected.algorithm());
    std::io::copy(&mut blob, &mut std::io::sink()).map_err(|error| Error::io("read", what, error))?;
    let (actual, bytes) = blob.finish();
    if actual != *expected {
        return Err(Error::DigestMismatch {
            what: what.to_owned(),
            expected: expected.clone(),
            actual,
        });
    }
    Ok(bytes)
}
