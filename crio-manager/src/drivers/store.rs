//! The records of pods and containers: one file an object, synced. What cannot be read is told with a warning, and
//! moved to `quarantine/` once nothing is left of what it stands for: a broken record never keeps the daemon from starting.

use super::record_file::{self, Survives, make_private_dir};
use super::seams::{DriverError, DriverResult, ErrorKind, Loaded, Records};
use crate::model::record::{ContainerRecord, SandboxRecord};
use crate::model::{ContainerId, Id, SandboxId};
use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Where records go that cannot be read, and probes are written.
const QUARANTINE: &str = "quarantine";

/// Size of the file that a probe writes: a page takes a block of its own on any file system.
const PROBE_BYTES: usize = 4096;

/// How long that write may take before the directory counts as not writable.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// Records below one directory.
#[derive(Debug, Clone)]
pub struct RecordFiles {
    root: PathBuf,
    writable: Arc<RwLock<Result<(), String>>>,
}

impl RecordFiles {
    /// Makes the directories.
    pub fn open(root: PathBuf) -> DriverResult<Self> {
        for name in ["sandboxes", "containers", QUARANTINE] {
            let directory = root.join(name);
            make_private_dir(&directory).map_err(|error| DriverError::io(directory.display(), &error))?;
            // A probe that was cut off.
            list(&directory)?;
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
                    .tempfile_in(root.join(QUARANTINE))?;
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

    async fn save<R: Serialize + Clone + Send + 'static>(&self, path: PathBuf, record: &R) -> DriverResult<()> {
        let record = record.clone();
        blocking(move || record_file::write(&path, &record, Survives::PowerLoss)).await
    }

    async fn forget(&self, path: PathBuf) -> DriverResult<()> {
        blocking(move || record_file::remove(&path)).await
    }

    async fn set_aside(&self, path: PathBuf) -> DriverResult<()> {
        let quarantine = self.root.join(QUARANTINE);
        blocking(
            move || match record_file::set_aside(&path, &quarantine, "it could not be read") {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                moved => moved.map(drop),
            },
        )
        .await
    }

    /// The records of a kind, and the ids of those that cannot be read.
    fn load_kind<R, K>(&self, kind: &str, id_of: impl Fn(&R) -> &Id<K>) -> DriverResult<(Vec<R>, Vec<Id<K>>)>
    where
        R: DeserializeOwned,
    {
        let (mut records, mut lost) = (Vec::new(), Vec::new());
        for path in list(&self.root.join(kind))? {
            let why = match record_file::read::<R>(&path) {
                Ok(record) if self.file(kind, id_of(&record).as_str()) == path => {
                    records.push(record);
                    continue;
                }
                Ok(_) => "it is another object's record".to_owned(),
                Err(why) => why.to_string(),
            };
            match path.file_stem().and_then(|name| name.to_str()?.parse().ok()) {
                // It stands for what is there of the object, until that is given back.
                Some(id) => {
                    tracing::warn!(file = %path.display(), why, "record cannot be used");
                    lost.push(id);
                }
                // A failure is in the log; the record is met again at the next start.
                None => drop(record_file::set_aside(&path, &self.root.join(QUARANTINE), &why)),
            }
        }
        Ok((records, lost))
    }
}

#[async_trait]
impl Records for RecordFiles {
    async fn save_sandbox(&self, record: &SandboxRecord) -> DriverResult<()> {
        let path = self.file("sandboxes", record.plan.id.as_str());
        self.save(path, record).await
    }

    async fn forget_sandbox(&self, id: &SandboxId) -> DriverResult<()> {
        self.forget(self.file("sandboxes", id.as_str())).await
    }

    async fn save_container(&self, record: &ContainerRecord) -> DriverResult<()> {
        self.save(self.file("containers", record.plan.id.as_str()), record)
            .await
    }

    async fn forget_container(&self, id: &ContainerId) -> DriverResult<()> {
        self.forget(self.file("containers", id.as_str())).await
    }

    fn writable(&self) -> Result<(), String> {
        self.writable.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn set_aside_sandbox(&self, id: &SandboxId) -> DriverResult<()> {
        self.set_aside(self.file("sandboxes", id.as_str())).await
    }

    async fn set_aside_container(&self, id: &ContainerId) -> DriverResult<()> {
        self.set_aside(self.file("containers", id.as_str())).await
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

fn list(directory: &Path) -> DriverResult<Vec<PathBuf>> {
    record_file::list(directory).map_err(|error| DriverError::io(directory.display(), &error))
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
