//! Reopening a log: the monitor is told, and its new file waited for.

use super::INOTIFY_BUFFER_BYTES;
use crate::drivers::readiness;
use crate::drivers::seams::{DriverError, DriverResult, ErrorKind};
use conmon_rs::contract;
use rustix::fs::inotify;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// How long a monitor may take to open a log anew.
const REOPEN_LIMIT: Duration = Duration::from_secs(10);

/// Has the log file of the monitor with this bundle opened anew; returns once it exists.
pub(super) async fn reopen_log(bundle: &Path, log_path: &Path) -> DriverResult<()> {
    let what = || format!("reopen {}", log_path.display());
    let (directory, name) = match (log_path.parent(), log_path.file_name()) {
        (Some(directory), Some(name)) => (directory, name),
        _ => {
            return Err(DriverError::new(
                ErrorKind::Invalid,
                format!("{}: not a file's path", what()),
            ));
        }
    };
    let watch = || -> std::io::Result<_> {
        let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(
            &changes,
            directory,
            inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO,
        )?;
        readiness::watch(changes)
    };
    let made = watch().map_err(|error| DriverError::io(what(), &error))?;
    let mut control = tokio::net::unix::pipe::OpenOptions::new()
        .open_sender(bundle.join(contract::CONTROL_FIFO))
        .map_err(|error| DriverError::io(format!("{}: the monitor does not listen", what()), &error))?;
    control
        .write_all(contract::REOPEN_LOG)
        .await
        .map_err(|error| DriverError::io(what(), &error))?;
    let appears = async {
        let mut buffer = [std::mem::MaybeUninit::uninit(); INOTIFY_BUFFER_BYTES];
        let mut events = inotify::Reader::new(made.get_ref(), &mut buffer);
        loop {
            let mut ready = made.readable().await?;
            match events.next() {
                Ok(event) if event.file_name().is_some_and(|made| made.to_bytes() == name.as_bytes()) => {
                    return Ok(());
                }
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(std::io::Error::from(error)),
            }
        }
    };
    match timeout(REOPEN_LIMIT, appears).await {
        Ok(done) => done.map_err(|error| DriverError::io(what(), &error)),
        Err(_elapsed) => {
            let why = format!("{}: the monitor made no new file within {REOPEN_LIMIT:?}", what());
            Err(DriverError::new(ErrorKind::TimedOut, why))
        }
    }
}
