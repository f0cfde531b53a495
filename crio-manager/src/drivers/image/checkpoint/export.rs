//! A checkpoint becomes an archive: written aside, synced, put in place.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::{BIND_MOUNTS, DELETED_FILES, PROCESSES, ROOTFS_DIFF, diff, place_in};
use crate::drivers::seams::{CheckpointExport, DriverError, DriverResult, ErrorKind};

/// Nobody else may read it: every page of the container's memory is in there.
const MODE: u32 = 0o600;

/// Mount points that every container has, which no restore has to be told of.
const OWN_MOUNTS: [&str; 5] = ["/dev", "/dev/shm", "/proc", "/run", "/sys"];

pub(super) fn write(directory: &Path, upper: &Path, layers: &[PathBuf], export: CheckpointExport) -> DriverResult<()> {
    let CheckpointExport {
        mut documents,
        binds,
        location,
        until,
    } = export;
    let binds = serde_json::to_vec(&bind_mounts(&binds)).unwrap_or_default();
    documents.push((BIND_MOUNTS, binds));

    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut => DriverError::new(ErrorKind::TimedOut, "the checkpoint took too long"),
        _ => DriverError::io(format!("write {}", location.display()), &error),
    };
    let parent = location.parent().unwrap_or(Path::new("/"));
    let mut aside = tempfile::Builder::new()
        .prefix(".checkpoint-")
        .tempfile_in(parent)
        .map_err(failed)?;
    let diff = directory.join(ROOTFS_DIFF);
    archive(aside.as_file_mut(), until, &mut documents, directory, || {
        let file = Timed {
            into: BufWriter::new(File::create_new(&diff)?),
            until,
        };
        let deleted = diff::write(upper, layers, file)?;
        Ok((diff.clone(), deleted))
    })
    .map_err(failed)?;
    aside.as_file().sync_all().map_err(failed)?;
    if Instant::now() >= until {
        return Err(failed(io::ErrorKind::TimedOut.into()));
    }
    aside.persist(&location).map_err(|error| failed(error.error))?;
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)
}

fn archive(
    file: &mut File,
    until: Instant,
    documents: &mut Vec<(&'static str, Vec<u8>)>,
    directory: &Path,
    changes: impl FnOnce() -> io::Result<(PathBuf, Vec<String>)>,
) -> io::Result<()> {
    let place = place_in(directory);
    let (diff, deleted) = changes()?;
    if !deleted.is_empty() {
        documents.push((DELETED_FILES, serde_json::to_vec(&deleted)?));
    }
    let mut tar = Builder::new(Timed {
        into: BufWriter::new(file),
        until,
    });
    // What is asked first of an archive comes first.
    for (name, content) in documents {
        tar.append_data(
            &mut header(EntryType::Regular, content.len() as u64),
            name,
            content.as_slice(),
        )?;
    }
    append_files(&mut tar, &place.work, Path::new(""))?;
    tar.append_data(&mut header(EntryType::Directory, 0), PROCESSES, io::empty())?;
    append_files(&mut tar, &place.images, Path::new(PROCESSES))?;
    append(&mut tar, &diff, Path::new(ROOTFS_DIFF))?;
    tar.into_inner()?.flush()
}

/// The regular files of a directory that criu has written into.
fn append_files<W: Write>(tar: &mut Builder<W>, from: &Path, below: &Path) -> io::Result<()> {
    let mut files = fs::read_dir(from)?.collect::<io::Result<Vec<_>>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    for file in files {
        if file.file_type()?.is_file() {
            append(tar, &file.path(), &below.join(file.file_name()))?;
        }
    }
    Ok(())
}

fn append<W: Write>(tar: &mut Builder<W>, from: &Path, name: &Path) -> io::Result<()> {
    let file = File::open(from)?;
    let size = file.metadata()?.size();
    let mut header = header(EntryType::Regular, size);
    tar.append_data(&mut header, name, io::Read::take(file, size))
}

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory { 0o700 } else { MODE });
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header
}

/// What a restore elsewhere has to find, and of what kind.
fn bind_mounts(binds: &[(PathBuf, String)]) -> Value {
    let told = binds
        .iter()
        .filter(|(_, inside)| !OWN_MOUNTS.contains(&inside.as_str()));
    told.filter_map(|(source, inside)| {
        let metadata = fs::metadata(source).ok()?;
        let kind = if metadata.is_dir() { "directory" } else { "file" };
        (!metadata.file_type().is_socket()).then(|| {
            json!({
                "source": source, "destination": inside, "file_type": kind,
                "permissions": metadata.mode() & 0o777,
            })
        })
    })
    .collect()
}

/// A writer that gives up when the time is over.
struct Timed<W> {
    into: W,
    until: Instant,
}

impl<W: Write> Write for Timed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if Instant::now() >= self.until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.into.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}
