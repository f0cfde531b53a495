//! conmon-rs from the manager's side: launches it, reads its sync pipe and its files.

mod attached;
mod exec;
mod exits;
mod launch;
mod reopen;
mod stream;
mod sync;

pub use exec::EXEC_OUTPUT_BYTES;
pub use exits::ExitsAwaited;

use super::process;
use super::runtime::with_words_of_criu;
use super::seams::{
    DriverError, DriverResult, ErrorKind, ExecLaunch, ExecOutcome, Launched, Monitor, MonitorLaunch, Streamed,
};
use crate::model::{ContainerId, Exit, ExitStatus, Timestamp};
use async_trait::async_trait;
use conmon_rs::contract::{self, SyncMessage};
use conmon_rs::exit_record::{EXIT_RECORD_SUFFIX, ExitRecord};
use launch::{Outlives, Starting};
use std::io::ErrorKind as IoErrorKind;
use std::path::{Path, PathBuf};
use sync::{end, foreground_end, read_bounded, read_sync, refused, runtime_words};
use tokio::time::timeout;

/// Room for an event and the longest file name.
const INOTIFY_BUFFER_BYTES: usize = 4096;

/// Most that is read of a file which the monitor or the runtime wrote for us, in bytes.
const FILE_BYTES: u64 = 64 * 1024;

/// Names in a bundle beside the monitor's own.
const MONITOR_PID_FILE: &str = "conmon-pidfile";
const CONTAINER_PID_FILE: &str = "pidfile";
const RUNTIME_LOG: &str = "runtime.log";
const RESTORE_LOG: &str = "restore.log";

/// conmon-rs, and where its files go.
#[derive(Debug, Clone)]
pub struct ConmonRs {
    /// Exit files, named by container id.
    pub exits_dir: PathBuf,
    /// Short names of attach sockets.
    pub socket_dir: PathBuf,
    /// A directory per exec under way, and one per monitor that is being spoken to.
    pub exec_dir: PathBuf,
    /// Size at which a log file starts anew, in bytes.
    pub log_size_max: Option<u64>,
    /// Who waits for an exit file.
    pub exits: ExitsAwaited,
}

impl ConmonRs {
    /// Makes its directories and removes what execs of an earlier daemon left.
    pub fn open(self) -> std::io::Result<Self> {
        match std::fs::remove_dir_all(&self.exec_dir) {
            Err(error) if error.kind() != IoErrorKind::NotFound => return Err(error),
            _ => {}
        }
        for directory in [&self.exits_dir, &self.socket_dir, &self.exec_dir] {
            crate::drivers::record_file::make_private_dir(directory)?;
        }
        self.exits.watch(&self.exits_dir)?;
        Ok(self)
    }

    /// From the spawned monitor to the created container.
    async fn birth(&self, starting: &mut Starting, bundle: &Path) -> DriverResult<Launched> {
        foreground_end(&mut starting.child).await?;
        let pid = match read_sync(&mut starting.sync).await? {
            SyncMessage::Pid(pid) => pid.get(),
            SyncMessage::Failed { message } => return Err(refused(bundle, message.as_bytes()).await),
            SyncMessage::ExitCode(_) | SyncMessage::TimedOut => {
                return Err(DriverError::new(
                    ErrorKind::Failed,
                    "the monitor answers a create with an exec's message",
                ));
            }
        };
        let process = process::identify(pid)
            .ok_or_else(|| DriverError::new(ErrorKind::Failed, "the container ended before it was started"))?;
        let monitor = read_bounded(&bundle.join(MONITOR_PID_FILE)).await?;
        let monitor = monitor.and_then(|pid| String::from_utf8_lossy(&pid).trim().parse().ok());
        Ok(Launched {
            process,
            monitor: monitor.and_then(process::identify),
        })
    }
}

#[async_trait]
impl Monitor for ConmonRs {
    async fn create(&self, launch: MonitorLaunch) -> DriverResult<Launched> {
        let arguments = self.create_arguments(&launch);
        let MonitorLaunch {
            bundle,
            handler,
            entrance,
            restore,
            ..
        } = launch;
        let limit = handler.create_timeout;
        let mut starting = self.spawn(&handler, arguments, &bundle, entrance, Outlives::Nobody)?;
        let outcome = match timeout(limit, self.birth(&mut starting, &bundle)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => {
                let said = runtime_words(&bundle)
                    .await
                    .map_or(String::new(), |words| format!(": {words}"));
                let what = format!("{}: the container was not created within {limit:?}{said}", handler.name);
                Err(DriverError::new(ErrorKind::TimedOut, what))
            }
        };
        match outcome {
            Ok(launched) => Ok(launched),
            Err(error) => {
                end(&mut starting.child).await;
                Err(match restore {
                    Some(_) => with_words_of_criu(error, &bundle.join(RESTORE_LOG)).await,
                    None => error,
                })
            }
        }
    }

    async fn exec(&self, exec: ExecLaunch) -> DriverResult<ExecOutcome> {
        self.run(exec).await
    }

    async fn exec_attached(&self, exec: ExecLaunch) -> DriverResult<Streamed> {
        self.run_attached(exec).await
    }

    fn attach(&self, bundle: &Path) -> DriverResult<Streamed> {
        self.attach_to(bundle)
    }

    async fn reopen_log(&self, bundle: &Path, log_path: &Path) -> DriverResult<()> {
        reopen::reopen_log(bundle, log_path).await
    }

    async fn exit_recorded(&self, id: &ContainerId) {
        self.exits.appears(&self.exits_dir, id).await;
    }

    async fn recorded_exit(&self, id: &ContainerId, bundle: &Path) -> DriverResult<Option<Exit>> {
        let path = self.exits_dir.join(id.as_str());
        if let Some(record) = self.exit_record(id).await? {
            return Ok(Some(Exit {
                status: exit_status(record.exit),
                oom_killed: record.oom_killed || self.saw_oom(bundle).await,
                at: Timestamp::from_nanos(i64::try_from(record.finished_ns).unwrap_or(i64::MAX)),
            }));
        }
        let Some(content) = read_bounded(&path).await? else {
            return Ok(None);
        };
        let written = tokio::fs::metadata(&path).await.and_then(|file| file.modified());
        let at = written.map_err(|error| DriverError::io(path.display(), &error))?.into();
        let status = match contract::ExitCode::parse(&content) {
            Some(exit) => exit_status(exit),
            None => ExitStatus::Unknown(format!("{} holds no exit code", path.display())),
        };
        Ok(Some(Exit {
            status,
            oom_killed: self.saw_oom(bundle).await,
            at,
        }))
    }

    async fn saw_oom(&self, bundle: &Path) -> bool {
        tokio::fs::try_exists(bundle.join(contract::OOM_FILE))
            .await
            .unwrap_or(false)
    }

    async fn forget_exit(&self, id: &ContainerId) -> DriverResult<()> {
        // The record first: it must not be taken for one without an exit file.
        for path in [self.exit_record_path(id), self.exits_dir.join(id.as_str())] {
            match tokio::fs::remove_file(&path).await {
                Err(error) if error.kind() != IoErrorKind::NotFound => {
                    return Err(DriverError::io(path.display(), &error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl ConmonRs {
    fn exit_record_path(&self, id: &ContainerId) -> PathBuf {
        self.exits_dir.join(format!("{id}{EXIT_RECORD_SUFFIX}"))
    }

    /// The exit record, `None` if there is none that can be read: the exit file says what matters most.
    async fn exit_record(&self, id: &ContainerId) -> DriverResult<Option<ExitRecord>> {
        let path = self.exit_record_path(id);
        let Some(content) = read_bounded(&path).await? else {
            return Ok(None);
        };
        match ExitRecord::parse(&content) {
            Ok(record) => Ok(Some(record)),
            Err(error) => {
                tracing::warn!(container_id = %id, path = %path.display(), %error, "exit record, going by the exit file");
                Ok(None)
            }
        }
    }
}

fn exit_status(exit: contract::ExitCode) -> ExitStatus {
    match exit {
        contract::ExitCode::Unknown => ExitStatus::Unknown("its monitor could not learn the status".into()),
        exit => u8::try_from(exit.number()).map_or_else(
            |_| ExitStatus::Unknown(format!("its monitor says {}", exit.number())),
            ExitStatus::Code,
        ),
    }
}
