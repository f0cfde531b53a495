//! The image index on disk: `images/<id>.json`, one record per image, and the quarantine for what cannot be read.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::artifact::Artifact;
use super::config::{ConfigDocument, Kind};
use super::digest::{DiffId, ImageId};
use super::durable;
use super::error::{Error, Result};
use crate::drivers::record_file;

const IMAGES: &str = "images";
const QUARANTINE: &str = "quarantine";

/// What is kept of an image. Its configuration is kept as the exact bytes that its id is the digest of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageRecord {
    pub id: ImageId,
    #[serde(default)]
    pub kind: Kind,
    pub config: String,
    /// From the bottom up.
    pub layers: Vec<DiffId>,
    /// `registry/path:tag`
    pub tags: Vec<String>,
    /// `registry/path@digest`, of the manifest and of the list it was chosen from.
    pub digests: Vec<String>,
    pub size_bytes: u64,
    /// When a tag was last given to this image, in nanoseconds since 1970: of two records with one tag, the later has it.
    pub tagged_at_ns: u64,
}

/// Blocking; callers run it where blocking is allowed, one writer at a time.
pub struct ImageIndex {
    images: PathBuf,
    quarantine: PathBuf,
}

impl ImageIndex {
    /// Opens the index under `root` and reads it. What cannot be read goes to the quarantine, with a warning; it never
    /// keeps the rest from being used.
    pub fn open(root: &Path) -> Result<(Self, Vec<(ImageRecord, ConfigDocument)>)> {
        let index = Self {
            images: root.join(IMAGES),
            quarantine: root.join(QUARANTINE),
        };
        durable::make_private_dir(&index.images)?;
        let mut records = Vec::new();
        for path in record_file::list(&index.images).map_err(|error| Error::io("list", &index.images, error))? {
            match read(&path) {
                Ok(record) => records.push(record),
                Err(reason) => index.set_aside(&path, &reason)?,
            }
        }
        Ok((index, records))
    }

    pub fn write(&self, record: &ImageRecord) -> Result<()> {
        durable::write_record(&self.path(&record.id), record)
    }

    /// Removes the record; `Ok` if there is none.
    pub fn remove(&self, id: &ImageId) -> Result<()> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Ok(()) => durable::sync_dir(&self.images),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("remove", path, error)),
        }
    }

    /// Moves the record of an image that cannot be used out of the way.
    pub fn quarantine(&self, id: &ImageId, reason: &str) -> Result<()> {
        self.set_aside(&self.path(id), reason)
    }

    fn set_aside(&self, path: &Path, reason: &str) -> Result<()> {
        let aside = record_file::set_aside(path, &self.quarantine, reason);
        aside.map(drop).map_err(|error| Error::io("set aside", path, error))
    }

    fn path(&self, id: &ImageId) -> PathBuf {
        self.images.join(format!("{}.json", id.hex()))
    }
}

fn read(path: &Path) -> std::result::Result<(ImageRecord, ConfigDocument), String> {
    let record: ImageRecord = record_file::read(path).map_err(|error| error.to_string())?;
    let text = record.config.clone().into_bytes();
    let document = match record.kind {
        Kind::Image | Kind::Checkpoint => ConfigDocument::read(text),
        Kind::Artifact => Artifact::read(text).map(|artifact| artifact.document),
    };
    let document = document.map_err(|error| error.to_string())?;
    if document.id != record.id || path.file_stem().and_then(|stem| stem.to_str()) != Some(record.id.hex()) {
        return Err("it is not the record of the image it is named for".to_owned());
    }
    if document.layers != record.layers {
        return Err("its layers are not those of its configuration".to_owned());
    }
    Ok((record, document))
}
