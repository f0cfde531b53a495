//! Directories and records that survive a crash: private modes, write aside, sync, rename, checksum.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::digest::Digest;
use super::error::{Error, Result};

const VERSION: u32 = 1;
/// The largest record that is read: an image's configuration at its limit, escaped, and then some.
const MAX_RECORD_BYTES: u64 = 64 << 20;

/// The form of every record: the checksum is over the payload's bytes as they stand in the file.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    sha256: String,
    payload: Box<RawValue>,
}

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not a record: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("written by another version ({0})")]
    Version(u32),
    #[error("its checksum does not fit its content")]
    Checksum,
    #[error("larger than {MAX_RECORD_BYTES} bytes")]
    TooLarge,
}

/// Writes `payload` as the record `path`: a reader, or a restart after a crash, sees the old one or the new one, whole.
pub fn write_record(path: &Path, payload: &impl Serialize) -> Result<()> {
    let failed = |error: io::Error| Error::io("write", path, error);
    let payload = serde_json::value::to_raw_value(payload).map_err(|error| failed(error.into()))?;
    let sha256 = Digest::sha256_of(payload.get().as_bytes()).hex().to_owned();
    let text = serde_json::to_vec(&Record {
        version: VERSION,
        sha256,
        payload,
    })
    .map_err(|error| failed(error.into()))?;
    let aside = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)
        .map_err(failed)?;
    let written = file
        .write_all(&text)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&aside, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&aside); // the first error is the one that matters
        return Err(failed(error));
    }
    match path.parent() {
        Some(directory) => sync_dir(directory),
        None => Ok(()),
    }
}

pub fn read_record<T: DeserializeOwned>(path: &Path) -> std::result::Result<T, RecordError> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_RECORD_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_RECORD_BYTES {
        return Err(RecordError::TooLarge);
    }
    let record: Record = serde_json::from_slice(&text)?;
    if record.version != VERSION {
        return Err(RecordError::Version(record.version));
    }
    if Digest::sha256_of(record.payload.get().as_bytes()).hex() != record.sha256 {
        return Err(RecordError::Checksum);
    }
    Ok(serde_json::from_str(record.payload.get())?)
}

/// Makes `path` with its parents, readable by us only.
pub fn make_private_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o700)))
        .map_err(|error| Error::io("make directory", path, error))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_and_a_changed_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("one.json");
        write_record(&path, &vec!["ä", "\n", "\""]).unwrap();
        assert_eq!(read_record::<Vec<String>>(&path).unwrap(), ["ä", "\n", "\""]);

        let text = fs::read_to_string(&path).unwrap();
        for (damaged, why) in [
            (text.replace('ä', "b"), "checksum"),
            (text.replace("\"version\":1", "\"version\":9"), "version"),
            (text.get(..text.len() / 2).unwrap().to_owned(), "torn"),
            (String::new(), "empty"),
        ] {
            fs::write(&path, damaged).unwrap();
            assert!(read_record::<Vec<String>>(&path).is_err(), "{why}");
        }
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "nothing is left aside");
    }
}
