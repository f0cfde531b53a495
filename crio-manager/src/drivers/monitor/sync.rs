//! What a monitor and the runtime under it say: the sync pipe, standard error, the runtime's log.

use super::{FILE_BYTES, RUNTIME_LOG};
use crate::drivers::runtime::words;
use crate::drivers::seams::{DriverError, DriverResult, ErrorKind};
use conmon_rs::contract::{self, SyncMessage};
use std::io::ErrorKind as IoErrorKind;
use std::path::Path;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::Child;

/// Waits for the process that was spawned: it checks its arguments, forks the monitor proper and ends.
pub(super) async fn foreground_end(child: &mut Child) -> DriverResult<()> {
    let mut said = Vec::new();
    let stderr = child.stderr.take();
    let read = async {
        if let Some(stderr) = stderr {
            // A read error ends the output; the exit status tells what matters.
            let _ = stderr.take(FILE_BYTES).read_to_end(&mut said).await;
        }
    };
    let (status, ()) = tokio::join!(child.wait(), read);
    let status = status.map_err(|error| DriverError::io("wait for the monitor", &error))?;
    if status.success() {
        return Ok(());
    }
    let why = words(&said).unwrap_or_else(|| "it said nothing".to_owned());
    Err(DriverError::new(ErrorKind::Failed, format!("monitor: {status}: {why}")))
}

/// Reads the one message of a create or an exec.
pub(super) async fn read_sync(sync: &mut UnixStream) -> DriverResult<SyncMessage> {
    let mut message = Vec::new();
    let mut chunk = [0; contract::SYNC_MESSAGE_LIMIT_BYTES];
    while message.len() < contract::SYNC_MESSAGE_LIMIT_BYTES && !message.ends_with(b"\n") {
        match sync.read(&mut chunk).await {
            Ok(0) => break,
            Ok(length) => message.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            Err(error) => return Err(DriverError::io("sync pipe of the monitor", &error)),
        }
    }
    SyncMessage::parse(&message).map_err(|error| {
        let what = if message.is_empty() {
            "the monitor ended without a word".to_owned()
        } else {
            error.to_string()
        };
        DriverError::new(ErrorKind::Failed, what)
    })
}

/// Kills the spawned process, if it is still there, and reaps it.
pub(super) async fn end(child: &mut Child) {
    if let Err(error) = child.kill().await {
        tracing::warn!(%error, "kill the monitor's first process, ignoring");
    }
}

/// Why the runtime refused: the words in its log, else those the monitor passed on.
pub(super) async fn refused(directory: &Path, passed_on: &[u8]) -> DriverError {
    let words = match runtime_words(directory).await {
        Some(logged) => logged,
        None => words(passed_on).unwrap_or_else(|| "the OCI runtime failed without a word".to_owned()),
    };
    DriverError::new(ErrorKind::Failed, words)
}

pub(super) async fn runtime_words(directory: &Path) -> Option<String> {
    words(&read_bounded(&directory.join(RUNTIME_LOG)).await.ok()??)
}

/// A small file's content; `None` when there is none.
pub(super) async fn read_bounded(path: &Path) -> DriverResult<Option<Vec<u8>>> {
    let read = async {
        let mut content = Vec::new();
        tokio::fs::File::open(path)
            .await?
            .take(FILE_BYTES)
            .read_to_end(&mut content)
            .await?;
        Ok(content)
    };
    match read.await {
        Ok(content) => Ok(Some(content)),
        Err(error) if IoErrorKind::NotFound == std::io::Error::kind(&error) => Ok(None),
        Err(error) => Err(DriverError::io(path.display(), &error)),
    }
}
