//! What the store does to directories and records, with errors in its own words.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::Serialize;

use super::error::{Error, Result};
use crate::drivers::record_file::{self, Survives};

/// Writes `record` as the file `path`; it survives a power loss.
pub fn write_record(path: &Path, record: &impl Serialize) -> Result<()> {
    record_file::write(path, record, Survives::PowerLoss).map_err(|error| Error::io("write", path, error))
}

/// Makes `path` with its parents, readable by us only.
pub fn make_private_dir(path: &Path) -> Result<()> {
    record_file::make_private_dir(path).map_err(|error| Error::io("make directory", path, error))
}

/// Makes `path` with its parents, which everybody may pass and only we read.
pub fn make_passable_dir(path: &Path) -> Result<()> {
    record_file::make_passable_dir(path).map_err(|error| Error::io("make directory", path, error))
}

/// Makes the new directory `path` with exactly `mode`, whatever the umask.
pub fn make_dir(path: &Path, mode: u32) -> Result<()> {
    fs::create_dir(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(|error| Error::io("make directory", path, error))
}

pub fn sync_dir(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| Error::io("sync", path, error))
}

pub fn sync_file_system(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|directory| Ok(rustix::fs::syncfs(&directory)?))
        .map_err(|error| Error::io("sync the file system of", path, error))
}
