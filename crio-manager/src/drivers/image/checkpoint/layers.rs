//! A checkpoint that is an image: the same files, in its layers instead of an archive. They come from outside as well: a
//! file is one that is regular and where its name says, whatever links the layers have.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, OFlags};

use super::super::beneath::{self, Root};
use super::super::unpack::Limits;
use super::import::{self, DOCUMENT_BYTES, PROCESS_FILES_MAX, Unpacked};
use super::{CONFIG_DUMP, DELETED_FILES, PROCESSES, ROOTFS_DIFF, SPEC_DUMP};
use crate::drivers::seams::{CheckpointHead, CheckpointPlace, DriverError, DriverResult};

/// The layers of an image, which somebody keeps from being removed meanwhile.
pub(super) struct Layers {
    /// As it is told of.
    name: PathBuf,
    /// From the top down.
    roots: Vec<Root>,
}

impl Layers {
    /// Those in these directories, from the top down.
    pub(super) fn open(image: &str, directories: &[PathBuf]) -> DriverResult<Self> {
        let roots = directories.iter().map(|directory| {
            Root::open(directory).map_err(|error| DriverError::io(format!("open {}", directory.display()), &error))
        });
        Ok(Self {
            name: image.into(),
            roots: roots.collect::<DriverResult<_>>()?,
        })
    }

    /// What the image says of its container.
    pub(super) fn head(&self) -> DriverResult<CheckpointHead> {
        let wanted = |name: &str| {
            let missing = || import::invalid(&self.name, &format!("not a checkpoint: it has no {name}"));
            self.document(name)?.ok_or_else(missing)
        };
        import::head_of(&self.name, &wanted(CONFIG_DUMP)?, &wanted(SPEC_DUMP)?)
    }

    /// As [`import::unpack`].
    pub(super) fn unpack(&self, place: &CheckpointPlace, rootfs: &Path, limits: &Limits) -> DriverResult<()> {
        for name in self.processes()? {
            let below = format!("{PROCESSES}/{}", name.display());
            let Some(mut file) = self.file(&[PROCESSES.as_bytes(), name.as_os_str().as_bytes()].join(&b'/'))? else {
                continue;
            };
            let path = place.images.join(&name);
            let mut options = File::options();
            let made = options.write(true).create_new(true).mode(0o600).open(&path);
            let copied = made.and_then(|mut made| io::copy(&mut file, &mut made));
            copied.map_err(|error| DriverError::io(format!("copy {below} to {}", path.display()), &error))?;
        }
        let unpacked = Unpacked {
            diff: self.file(ROOTFS_DIFF.as_bytes())?,
            deleted: match self.document(DELETED_FILES)? {
                Some(content) => import::deleted_of(&self.name, &content)?,
                None => Vec::new(),
            },
        };
        unpacked.apply(&self.name, place, rootfs, limits)
    }

    /// A file: that of the topmost layer which has something of this name. `None` when that is no regular file, be it
    /// the mark of one that was removed.
    fn file(&self, path: &[u8]) -> DriverResult<Option<File>> {
        for root in &self.roots {
            let found = match root.open_at(path, OFlags::PATH | OFlags::NOFOLLOW) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
                found => found,
            };
            let opened = found.and_then(|found| {
                let stat = rustix::fs::fstat(&found)?;
                let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
                is_file.then(|| File::open(beneath::path_of(&found))).transpose()
            });
            return opened.map_err(|error| self.failed(path, &error));
        }
        Ok(None)
    }

    fn document(&self, name: &str) -> DriverResult<Option<Vec<u8>>> {
        let Some(file) = self.file(name.as_bytes())? else {
            return Ok(None);
        };
        let mut content = Vec::new();
        let read = file.take(DOCUMENT_BYTES + 1).read_to_end(&mut content);
        read.map_err(|error| self.failed(name.as_bytes(), &error))?;
        if content.len() as u64 > DOCUMENT_BYTES {
            return Err(import::too_large(&self.name));
        }
        Ok(Some(content))
    }

    /// The names of what lies beside the processes' files, in any layer.
    fn processes(&self) -> DriverResult<BTreeSet<PathBuf>> {
        let mut names = BTreeSet::new();
        for root in &self.roots {
            let directory = match root.open_dir(PROCESSES.as_bytes()) {
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    continue;
                }
                found => found.map_err(|error| self.failed(PROCESSES.as_bytes(), &error))?,
            };
            let entries =
                Dir::read_from(&directory).map_err(|error| self.failed(PROCESSES.as_bytes(), &error.into()))?;
            for entry in entries {
                let entry = entry.map_err(|error| self.failed(PROCESSES.as_bytes(), &error.into()))?;
                let name = entry.file_name().to_bytes();
                if !matches!(name, b"." | b"..") {
                    names.insert(PathBuf::from(OsStr::from_bytes(name)));
                }
                if names.len() > PROCESS_FILES_MAX {
                    return Err(import::invalid(&self.name, "too many files among the processes"));
                }
            }
        }
        Ok(names)
    }

    fn failed(&self, path: &[u8], error: &io::Error) -> DriverError {
        let path = String::from_utf8_lossy(path);
        DriverError::io(format!("read {path} of the checkpoint {}", self.name.display()), error)
    }
}
