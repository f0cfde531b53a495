//! What we asked of the network for each pod, and what we got: one JSON file per pod.
//!
//! The file is there before the first plugin runs and goes after the last DEL, so that whatever dies in between, the
//! next start knows what to release. It holds all that DEL needs: the configuration may be gone or changed by then.
//! No fsync: after a power cut the namespaces are gone too, and a lost record costs at most an address that GC frees.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::config::NetworkList;

const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    format: u32,
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
}

impl Record {
    pub fn intent(
        sandbox_id: &str,
        interface: &str,
        network: NetworkList,
        args: String,
        runtime_config: Map<String, Value>,
        netns: PathBuf,
    ) -> Record {
        Record {
            format: FORMAT,
            sandbox_id: sandbox_id.to_owned(),
            interface: interface.to_owned(),
            network,
            args,
            runtime_config,
            netns,
            result: None,
        }
    }
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
    Broken { path: PathBuf, source: serde_json::Error },
    #[error("{}: network record of format {format}, only {FORMAT} is known", path.display())]
    UnknownFormat { path: PathBuf, format: u32 },
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
        let path = self.path(&record.sandbox_id);
        let aside = self.dir.join(format!(".{}.json.new", record.sandbox_id));
        let failed = |action| {
            let path = path.clone();
            move |source| RecordError::File { path, action, source }
        };
        let text = serde_json::to_vec(record).map_err(|error| failed("encode")(error.into()))?;
        tokio::fs::create_dir_all(&self.dir)
            .await
            .map_err(failed("make directory"))?;
        tokio::fs::write(&aside, text).await.map_err(failed("write"))?;
        tokio::fs::rename(&aside, &path).await.map_err(failed("put in place"))
    }

    pub async fn read(&self, sandbox_id: &str) -> Result<Option<Record>, RecordError> {
        let path = self.path(sandbox_id);
        let text = match tokio::fs::read(&path).await {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(RecordError::File {
                    path,
                    action: "read",
                    source,
                });
            }
        };
        parse(&path, &text).map(Some)
    }

    /// Forgetting what is not known is success.
    pub async fn forget(&self, sandbox_id: &str) -> Result<(), RecordError> {
        let path = self.path(sandbox_id);
        match tokio::fs::remove_file(&path).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RecordError::File {
                path,
                action: "remove",
                source: error,
            }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Puts a record that cannot be read out of the way, for the administrator to see.
    pub async fn quarantine(&self, sandbox_id: &str) -> Result<PathBuf, RecordError> {
        let path = self.path(sandbox_id);
        let aside = self.dir.join(format!("{sandbox_id}.broken"));
        match tokio::fs::rename(&path, &aside).await {
            Ok(()) => Ok(aside),
            Err(source) => Err(RecordError::File {
                path,
                action: "put aside",
                source,
            }),
        }
    }

    /// The sandbox ids of all records, readable or not.
    pub async fn list(&self) -> Result<Vec<String>, RecordError> {
        let failed = |source| RecordError::File {
            path: self.dir.clone(),
            action: "list",
            source,
        };
        let mut entries = match tokio::fs::read_dir(&self.dir).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut ids = Vec::new();
        while let Some(entry) = entries.next_entry().await.map_err(failed)? {
            let name = entry.file_name().into_string().unwrap_or_default();
            if let Some(id) = name.strip_suffix(".json")
                && !id.starts_with('.')
            {
                ids.push(id.to_owned());
            }
        }
        ids.sort();
        Ok(ids)
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<Record, RecordError> {
    #[derive(Deserialize)]
    struct Envelope {
        format: u32,
    }
    let broken = |source| RecordError::Broken {
        path: path.to_owned(),
        source,
    };
    let envelope: Envelope = serde_json::from_slice(text).map_err(broken)?;
    if envelope.format != FORMAT {
        return Err(RecordError::UnknownFormat {
            path: path.to_owned(),
            format: envelope.format,
        });
    }
    serde_json::from_slice(text).map_err(broken)
}
