//! The one form of every record on disk: a line of header, `{"version":1,"sha256":"…"}`, and the record as JSON, of which
//! the sum is. Written aside and renamed: a reader, or a restart after a crash, sees the old one or the new one, whole.
//!
//! All of it blocks.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::model::users::Owner;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A reader refuses any other. It changes with what an earlier daemon would misunderstand; fields that one may do without
/// come and go as they are.
const VERSION: u32 = 1;
/// The longest header that is looked at alone, in bytes.
const MAX_HEADER: u64 = 4096;
/// The largest record that is read, in bytes: a request is at most 16 MiB, an image's configuration, escaped, less.
const MAX_BYTES: u64 = 64 << 20;
/// What a write that did not come to its rename is called.
const ASIDE: &str = "tmp";

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    sha256: String,
}

/// How much a record has to outlive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survives {
    /// The daemon.
    Crash,
    /// The node too: file and directory are synced.
    PowerLoss,
}

/// Why a record that is there cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error(transparent)]
    Io(#[from] Error),
    #[error("it is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("it has no header")]
    NoHeader,
    #[error("it has version {0}, this daemon knows {VERSION}")]
    Version(u32),
    #[error("its checksum does not match")]
    Checksum,
    #[error("{0}")]
    Malformed(#[from] serde_json::Error),
}

impl Unreadable {
    /// Whether there is no such record at all.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == ErrorKind::NotFound)
    }
}

/// Writes `record` as the file `path`, mode 0600.
pub fn write(path: &Path, record: &impl Serialize, survives: Survives) -> Result<()> {
    let record = serde_json::to_vec(record)?;
    let header = Header {
        version: VERSION,
        sha256: sum(&record),
    };
    let mut content = serde_json::to_vec(&header)?;
    content.push(b'\n');
    content.extend_from_slice(&record);
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new()
        .suffix(&format!(".{ASIDE}"))
        .tempfile_in(directory)?;
    file.write_all(&content)?;
    if survives == Survives::PowerLoss {
        file.as_file().sync_data()?;
    }
    file.persist(path).map_err(|error| error.error)?;
    match survives {
        Survives::PowerLoss => std::fs::File::open(directory)?.sync_all(),
        Survives::Crash => Ok(()),
    }
}

pub fn read<R: DeserializeOwned>(path: &Path) -> std::result::Result<R, Unreadable> {
    let mut content = Vec::new();
    std::fs::File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut content)?;
    if content.len() as u64 > MAX_BYTES {
        return Err(Unreadable::TooLarge);
    }
    let mut parts = content.splitn(2, |byte| *byte == b'\n');
    let (Some(header), Some(record)) = (parts.next(), parts.next()) else {
        return Err(Unreadable::NoHeader);
    };
    let header: Header = serde_json::from_slice(header)?;
    if header.sha256 != sum(record) {
        return Err(Unreadable::Checksum);
    }
    if header.version != VERSION {
        return Err(Unreadable::Version(header.version));
    }
    Ok(serde_json::from_slice(record)?)
}

/// A record in `directory` that a later daemon wrote, and its version. To put it aside, as if it were damaged, would lose
/// what that daemon knows; a damaged one is none.
pub fn of_later_version(directory: &Path) -> Result<Option<(PathBuf, u32)>> {
    for path in list(directory)? {
        let mut line = Vec::new();
        let file = std::fs::File::open(&path)?;
        BufReader::new(file.take(MAX_HEADER)).read_until(b'\n', &mut line)?;
        let claims = serde_json::from_slice(&line).is_ok_and(|header: Header| header.version > VERSION);
        if claims && let Err(Unreadable::Version(version)) = read::<IgnoredAny>(&path) {
            return Ok(Some((path, version)));
        }
    }
    Ok(None)
}

/// The records in `directory`; what a crash left half-written is removed. No directory holds none.
pub fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut records = Vec::new();
    for entry in entries {
        let path = entry?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => records.push(path),
            Some(ASIDE) => std::fs::remove_file(path)?,
            _ => {}
        }
    }
    records.sort();
    Ok(records)
}

/// Removes a record; one that is not there is fine.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Moves a record that cannot be used to `quarantine`, for the administrator, with a warning; where it is then.
pub fn set_aside(path: &Path, quarantine: &Path, why: &str) -> Result<PathBuf> {
    let aside = quarantine.join(path.file_name().unwrap_or_default());
    let moved = make_private_dir(quarantine).and_then(|()| std::fs::rename(path, &aside));
    tracing::warn!(file = %path.display(), why, moved_to = %aside.display(), error = ?moved.as_ref().err(), "record cannot be used, put aside");
    moved.map(|()| aside)
}

/// A directory, with what is missing above it, that only root reads: records hold environment variables.
pub fn make_private_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A directory, with what is missing above it, that everybody may pass and only root reads: the users of a pod with a user
/// namespace must come to what is theirs in there.
pub fn make_passable_dir(path: &Path) -> Result<()> {
    let mode = 0o711;
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

/// Lets the group of a pod's root pass a directory that nobody but root could.
pub fn let_pass(path: &Path, root: Owner) -> Result<()> {
    if root == Owner::default() {
        return Ok(());
    }
    std::os::unix::fs::chown(path, None, Some(root.gid))?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o710))
}

fn sum(content: &[u8]) -> String {
    let sum = Sha256::digest(content);
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_and_a_changed_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("one.json");
        write(&path, &vec!["ä", "\n", "\""], Survives::PowerLoss).unwrap();
        assert_eq!(read::<Vec<String>>(&path).unwrap(), ["ä", "\n", "\""]);

        let text = std::fs::read_to_string(&path).unwrap();
        for (damaged, why) in [
            (text.replace('ä', "b"), "checksum"),
            (text.replace("\"version\":1", "\"version\":9"), "version 9"),
            (text.get(..text.len() - 1).unwrap().to_owned(), "checksum"),
            (text.replacen('\n', "", 1), "no header"),
            (String::new(), "no header"),
        ] {
            std::fs::write(&path, damaged).unwrap();
            let error = read::<Vec<String>>(&path).unwrap_err().to_string();
            assert!(error.contains(why), "{why}: {error}");
        }
        assert!(read::<u8>(&directory.path().join("none.json")).unwrap_err().is_absent());
    }

    #[test]
    fn a_record_of_a_later_version_is_found_and_a_damaged_one_is_not_taken_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("one.json");
        write(&path, &"content", Survives::Crash).unwrap();
        assert_eq!(of_later_version(directory.path()).unwrap(), None);
        let text = std::fs::read_to_string(&path).unwrap();
        let later = text.replace("\"version\":1", "\"version\":2");
        for damaged in [later.replace("content", "contenu"), String::new(), "{".repeat(10_000)] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(of_later_version(directory.path()).unwrap(), None);
        }
        std::fs::write(&path, later).unwrap();
        assert_eq!(of_later_version(directory.path()).unwrap(), Some((path, 2)));
    }

    #[test]
    fn what_a_crash_left_half_written_is_no_record_and_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("one.json");
        write(&path, &1, Survives::Crash).unwrap();
        for name in ["half.tmp", "note.txt"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        assert_eq!(list(directory.path()).unwrap(), std::slice::from_ref(&path));
        assert!(!directory.path().join("half.tmp").exists());
        assert!(directory.path().join("note.txt").exists());

        let quarantine = directory.path().join("quarantine");
        let aside = set_aside(&path, &quarantine, "a test").unwrap();
        assert_eq!(read::<u8>(&aside).unwrap(), 1);
        assert!(list(directory.path()).unwrap().is_empty());
        assert!(list(&directory.path().join("none")).unwrap().is_empty());
    }
}
