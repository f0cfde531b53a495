//! What we asked of the network for each pod, and what we got: one record per pod.
//!
//! The record is there before the first plugin runs and goes after the last DEL, so that whatever dies in between, the
//! next start knows what to release. It holds all that DEL needs: the configuration may be gone or changed by then.
//! It need not survive a power cut: after one the namespaces are gone too, and it costs at most an address that GC frees.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::config::NetworkList;
use super::hostports::HostPortClaim;
use crate::drivers::record_file::{self, Survives, Unreadable};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub sandbox_id: String,
    pub interface: String,
    pub network: NetworkList,
    /// `CNI_ARGS`, as ADD got it.
    pub args: String,
    /// What plugins get if they declare the capability of that name.
    pub runtime_config: Map<String, Value>,
    pub netns: PathBuf,
    /// The result of the whole chain; absent while ADD has not succeeded.
    pub result: Option<Value>,
    /// Its host ports, and who keeps them.
    #[serde(default)]
    pub host_ports: Option<HostPortClaim>,
}

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{}: {action}", path.display())]
    File {
        path: PathBuf,
        action: &'static str,
        source: io::Error,
    },
    #[error("{}: not a network record", path.display())]
    Broken { path: PathBuf, source: Unreadable },
}

/// The directory of records. Should survive a reboot, because the address leases of many plugins do.
#[derive(Debug, Clone)]
pub struct Records {
    dir: PathBuf,
}

impl Records {
    pub fn new(dir: PathBuf) -> Records {
        Records { dir }
    }

    fn path(&self, sandbox_id: &str) -> PathBuf {
        self.dir.join(format!("{sandbox_id}.json"))
    }

    pub async fn write(&self, record: &Record) -> Result<(), RecordError> {
        let (dir, path, record) = (self.dir.clone(), self.path(&record.sandbox_id), record.clone());
        self.blocking("write", path.clone(), move || {
            record_file::make_private_dir(&dir)?;
            record_file::write(&path, &record, Survives::Crash)
        })
        .await
    }

    /// `None` if there is none. Errors: `Broken` when it cannot be used.
    pub async fn read(&self, sandbox_id: &str) -> Result<Option<Record>, RecordError> {
        let path = self.path(sandbox_id);
        let file = path.clone();
        let read = self
            .blocking("read", path.clone(), move || Ok(record_file::read(&file)))
            .await?;
        match read {
            Ok(record) => Ok(Some(record)),
            Err(absent) if absent.is_absent() => Ok(None),
            Err(Unreadable::Io(source)) => Err(RecordError::File {
                path,
                action: "read",
                source,
            }),
            Err(source) => Err(RecordError::Broken { path, source }),
        }
    }

    /// Forgetting what is not known is success.
    pub async fn forget(&self, sandbox_id: &str) -> Result<(), RecordError> {
        let path = self.path(sandbox_id);
        self.blocking("remove", path.clone(), move || record_file::remove(&path))
            .await
    }

    /// Puts a record that cannot be read out of the way.
    pub async fn quarantine(&self, sandbox_id: &str) -> Result<(), RecordError> {
        let (path, quarantine) = (self.path(sandbox_id), self.dir.join("quarantine"));
        let set_aside = self.blocking("put aside", path.clone(), move || {
            record_file::set_aside(&path, &quarantine, "its pod is released by the present configuration")
        });
        set_aside.await.map(drop)
    }

    /// The sandbox ids of all records, readable or not.
    pub async fn list(&self) -> Result<Vec<String>, RecordError> {
        let dir = self.dir.clone();
        let records = self
            .blocking("list", dir.clone(), move || record_file::list(&dir))
            .await?;
        let id = |path: PathBuf| path.file_stem()?.to_str().map(str::to_owned);
        Ok(records.into_iter().filter_map(id).collect())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        action: &'static str,
        path: PathBuf,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, RecordError> {
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
            .map_err(|source| RecordError::File { path, action, source })
    }
}
