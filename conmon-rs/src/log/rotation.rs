//! A new file in place of the old one, which somebody else has renamed or which is kept as `.1`.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::cri::options;
use crate::args::Rotation;

/// Leaves a new, empty file at the path and returns it. After an error the old file is where it was.
pub fn replace(path: &Path, rotation: Option<&Rotation>) -> io::Result<File> {
    let aside = match rotation {
        None => beside(path, ".tmp"),
        Some(rotation) => {
            rotation.check(path)?;
            beside(path, ".new")
        }
    };
    remove(&aside)?;
    let file = options().create_new(true).open(&aside)?;
    let kept = rotation.map_or(Ok(()), |rotation| rotation.keep_old_files(path));
    match kept.and_then(|()| fs::rename(&aside, path)) {
        Ok(()) => Ok(file),
        Err(error) => {
            let _ = fs::remove_file(&aside); // the first error is the one to tell
            Err(error)
        }
    }
}

impl Rotation {
    /// Whether files may be moved about here. A log that is not there is only made anew where nobody else could have
    /// prepared something, and where the caller allows it.
    fn check(&self, path: &Path) -> io::Result<()> {
        let refuse = |reason: &str| Err(io::Error::other(format!("not rotated: {reason}")));
        if path.components().any(|component| component == Component::ParentDir) {
            return refuse("the path contains ..");
        }
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_file() => return Ok(()),
            Ok(_) => return refuse("it is no regular file"),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let path = std::path::absolute(path)?;
        let Some(directory) = path.parent() else {
            return refuse("it has no directory");
        };
        if fs::metadata(directory)?.mode() & 0o002 != 0 {
            return refuse("everybody may write to its directory");
        }
        let mut allowed = self.allowed_directories.iter();
        if !self.allowed_directories.is_empty() && !allowed.any(|allowed| path.starts_with(allowed)) {
            return refuse("its directory is not allowed");
        }
        Ok(())
    }

    /// `.1` becomes `.2` and so on, the log itself `.1`. A log that somebody else has renamed is not kept twice.
    fn keep_old_files(&self, path: &Path) -> io::Result<()> {
        if !path.try_exists()? {
            return Ok(());
        }
        for number in (1..self.max_files).rev() {
            rename(
                &beside(path, &format!(".{number}")),
                &beside(path, &format!(".{}", number + 1)),
            )?;
        }
        rename(path, &beside(path, ".1"))
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.to_owned().into_os_string();
    path.push(ending);
    PathBuf::from(path)
}

/// What is not there need not be removed, nor renamed.
fn remove(path: &Path) -> io::Result<()> {
    unless_missing(fs::remove_file(path))
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    unless_missing(fs::rename(from, to))
}

fn unless_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
