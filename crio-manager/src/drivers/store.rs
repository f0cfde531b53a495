//! Durable records: one file an object, written aside and renamed; synced where it must survive a power loss.
//!
//! A file is one line of header (`{"version":1,"sha256":"…"}`, the sum of what follows) and the record as JSON. What
//! cannot be read is moved to `quarantine/` with a warning: a broken record never keeps the daemon from starting.

use super::seams::{DriverError, DriverResult, ErrorKind, Loaded, Records};
use crate::model::record::{ContainerRecord, SandboxRecord};
use crate::model::{ContainerId, Id, SandboxId};
use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tracing::warn;

/// The version of record files. A reader refuses a later one.
const VERSION: u32 = 1;

/// Size of the file that a probe writes: a page takes a block of its own on any file system.
const PROBE_BYTES: usize = 4096;

/// How long that write may take before the directory counts as not writable.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// The largest record file that is read, in bytes: a request is at most 16 MiB.
const RECORD_BYTES: u64 = 64 * 1024 * 1024;

/// Records below one directory.
#[derive(Debug, Clone)]
pub struct RecordFiles {
    root: PathBuf,
    writable: Arc<RwLock<Result<(), String>>>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    sha256: String,
}

impl RecordFiles {
    /// Makes the directories, and removes what a crash left half-written.
    pub fn open(root: PathBuf) -> DriverResult<Self> {
        for name in ["sandboxes", "containers", "quarantine"] {
            let directory = root.join(name);
            make_private_dir(&directory).map_err(|error| DriverError::io(directory.display(), &error))?;
            for entry in list(&directory)? {
                if entry.extension().is_some_and(|extension| extension == "tmp") {
                    std::fs::remove_file(&entry).map_err(|error| DriverError::io(entry.display(), &error))?;
                }
            }
        }
        Ok(Self {
            root,
            writable: Arc::new(RwLock::new(Ok(()))),
        })
    }

    /// Tries now and again to write, for as long as the daemon runs; `writable` gives the last outcome.
    pub async fn keep_probing(self, every: Duration) {
        loop {
            let root = self.root.clone();
            let written = blocking(move || {
                let mut file = tempfile::Builder::new()
                    .suffix(".tmp")
                    .tempfile_in(root.join("quarantine"))?;
                file.write_all(&[0; PROBE_BYTES])?;
                file.as_file().sync_data()
            });
            tokio::pin!(written);
            let mut outcome = tokio::time::timeout(PROBE_LIMIT, &mut written).await;
            if outcome.is_err() {
                let why = format!("a write takes longer than {PROBE_LIMIT:?}");
                *self.writable.write().unwrap_or_else(PoisonError::into_inner) = Err(why);
                outcome = Ok(written.await);
            }
            let outcome = outcome.map_or(Ok(()), |written| written.map_err(|error| error.to_string()));
            *self.writable.write().unwrap_or_else(PoisonError::into_inner) = outcome;
            tokio::time::sleep(every).await;
        }
    }

    fn file(&self, kind: &str, id: &str) -> PathBuf {
        self.root.join(kind).join(format!("{id}.json"))
    }

    async fn save(&self, path: PathBuf, record: Vec<u8>) -> DriverResult<()> {
        blocking(move || {
            let header = Header {
                version: VERSION,
                sha256: sum(&record),
            };
            let mut content = serde_json::to_vec(&header).map_err(std::io::Error::from)?;
            content.push(b'\n');
            content.extend_from_slice(&record);
            write_aside(&path, &content)
        })
        .await
    }

    async fn forget(&self, path: PathBuf) -> DriverResult<()> {
        blocking(move || match std::fs::remove_file(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            done => done,
        })
        .await
    }

    /// The records of a kind, and the ids of those that cannot be read.
    fn load_kind<R, K>(&self, kind: &str, id_of: impl Fn(&R) -> &Id<K>) -> DriverResult<(Vec<R>, Vec<Id<K>>)>
    where
        R: DeserializeOwned,
    {
        let (mut records, mut lost) = (Vec::new(), Vec::new());
        for path in list(&self.root.join(kind))? {
            let why = match read::<R>(&path) {
                Ok(record) if self.file(kind, id_of(&record).as_str()) == path => {
                    records.push(record);
                    continue;
                }
                Ok(_) => "it is another object's record".to_owned(),
                Err(why) => why,
            };
            lost.extend(path.file_stem().and_then(|name| name.to_str()?.parse().ok()));
            self.quarantine(&path, &why);
        }
        Ok((records, lost))
    }

    fn quarantine(&self, path: &Path, why: &str) {
        let aside = self.root.join("quarantine").join(path.file_name().unwrap_or_default());
        let moved = std::fs::rename(path, &aside);
        warn!(file = %path.display(), why, moved_to = %aside.display(), error = ?moved.err(), "record cannot be read, put aside");
    }
}

#[async_trait]
impl Records for RecordFiles {
    async fn save_sandbox(&self, record: &SandboxRecord) -> DriverResult<()> {
        let path = self.file("sandboxes", record.plan.id.as_str());
        self.save(path, json(record)?).await
    }

    async fn forget_sandbox(&self, id: &SandboxId) -> DriverResult<()> {
        self.forget(self.file("sandboxes", id.as_str())).await
    }

    async fn save_container(&self, record: &ContainerRecord) -> DriverResult<()> {
        self.save(self.file("containers", record.plan.id.as_str()), json(record)?)
            .await
    }

    async fn forget_container(&self, id: &ContainerId) -> DriverResult<()> {
        self.forget(self.file("containers", id.as_str())).await
    }

    fn writable(&self) -> Result<(), String> {
        self.writable.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn load(&self) -> DriverResult<Loaded> {
        let this = self.clone();
        let loaded = tokio::task::spawn_blocking(move || {
            let (sandboxes, lost_sandboxes) = this.load_kind("sandboxes", |record: &SandboxRecord| &record.plan.id)?;
            let (containers, lost_containers) =
                this.load_kind("containers", |record: &ContainerRecord| &record.plan.id)?;
            Ok(Loaded {
                sandboxes,
                containers,
                lost_sandboxes,
                lost_containers,
            })
        });
        loaded
            .await
            .map_err(|panicked| DriverError::new(ErrorKind::Failed, panicked.to_string()))?
    }
}

fn json<R: Serialize>(record: &R) -> DriverResult<Vec<u8>> {
    serde_json::to_vec_pretty(record).map_err(|error| DriverError::io("record", &error.into()))
}

fn sum(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn read<R: DeserializeOwned>(path: &Path) -> Result<R, String> {
    let text = |error: std::io::Error| error.to_string();
    if std::fs::metadata(path).map_err(text)?.len() > RECORD_BYTES {
        return Err(format!("it is larger than {RECORD_BYTES} bytes"));
    }
    let content = std::fs::read(path).map_err(text)?;
    let end = content
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or("it has no header")?;
    let (header, record) = (
        content.get(..end).unwrap_or_default(),
        content.get(end + 1..).unwrap_or_default(),
    );
    let header: Header = serde_json::from_slice(header).map_err(|error| format!("header: {error}"))?;
    if header.version > VERSION {
        return Err(format!(
            "it has version {}, this daemon knows {VERSION}",
            header.version
        ));
    }
    if header.sha256 != sum(record) {
        return Err("its checksum does not match".to_owned());
    }
    serde_json::from_slice(record).map_err(|error| error.to_string())
}

fn list(directory: &Path) -> DriverResult<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).map_err(|error| DriverError::io(directory.display(), &error))?;
    entries
        .map(|entry| {
            entry
                .map(|entry| entry.path())
                .map_err(|error| DriverError::io(directory.display(), &error))
        })
        .collect()
}

/// A directory that only root reads: records hold environment variables.
pub fn make_private_dir(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn write_aside(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new().suffix(".tmp").tempfile_in(directory)?;
    file.write_all(content)?;
    file.as_file().sync_data()?;
    file.persist(path).map_err(|error| error.error)?;
    std::fs::File::open(directory)?.sync_all()
}

async fn blocking<T, W>(work: W) -> DriverResult<T>
where
    T: Send + 'static,
    W: FnOnce() -> std::io::Result<T> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)));
    done.map_err(|error| DriverError::io("state directory", &error))
}
