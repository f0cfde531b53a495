//! `Options` → `MonitorPlan`: what goes together, in the order in which conmon complains.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{Access, access};

use super::log_path::{check_for_journald, log_drivers};
use super::options::Options;
use super::plan::{
    Api, AttachPlan, Confinement, ExitCommand, LogPlan, MonitorPlan, Rotation, RuntimeCommand, StdioPlan, Task,
};
use crate::contract::SyncKey;
use crate::log::journald::JournalPlan;
use crate::messages::{Level, errno_text};

const SOCKET_DIRECTORY: &str = "/var/run/crio";

/// A reason not to begin. `AtParse` ones carry conmon's name, the others its error prefix.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    AtParse(String),
    AtCheck(String),
}

impl Options {
    pub fn wants_help(&self) -> bool {
        self.help
    }

    pub fn wants_version(&self) -> bool {
        self.version
    }

    /// The key under which a refusal is reported to a parent that listens on the sync pipe.
    pub fn sync_key(&self) -> SyncKey {
        match (self.api_version, self.exec) {
            (true, _) => SyncKey::Data,
            (false, true) => SyncKey::ExitCode,
            (false, false) => SyncKey::Pid,
        }
    }

    /// Whether an attach pipe is to be looked for: not if it would be refused anyway.
    pub fn exec_attach(&self) -> bool {
        self.exec && self.exec_attach && self.api_version
    }

    /// What goes to syslog with every message, if anything does.
    pub fn syslog_subject(&self) -> Option<String> {
        let id = self.cid.as_ref()?.to_string_lossy();
        let tag = self
            .log_tag
            .as_ref()
            .map(|tag| format!(": {}", tag.to_string_lossy()))
            .unwrap_or_default();
        self.syslog.then(|| id.chars().take(20).chain(tag.chars()).collect())
    }

    /// How much to say; an unknown word is refused.
    pub fn log_level(&self) -> Result<Level, Refusal> {
        match &self.log_level {
            None => Ok(Level::Warning),
            Some(name) => Level::parse(name.as_bytes())
                .ok_or_else(|| Refusal::AtCheck(format!("No such log level {}", name.to_string_lossy()))),
        }
    }

    /// The checks that need no more than the words themselves and the name of the container.
    pub fn check_words(&self) -> Result<(), Refusal> {
        let refuse = |text: String| Err(Refusal::AtParse(text));
        let max_files = self.log_max_files.unwrap_or(1);
        if max_files < 0 {
            return refuse(format!("log-max-files must be non-negative, got {max_files}"));
        }
        if self.log_rotate && max_files == 0 {
            return refuse("log-max-files must be at least 1 when log-rotate is enabled, got 0".to_owned());
        }
        if self.cid.is_none() {
            return refuse("Container ID not provided. Use --cid".to_owned());
        }
        Ok(())
    }

    /// Decides what to do, or why not. Relative paths are the caller's.
    pub fn check(self) -> Result<MonitorPlan, Refusal> {
        let legacy_exec = self.exec && !self.api_version;
        if self.exec && self.restore.is_some() {
            return refuse("Cannot use 'exec' and 'restore' at the same time");
        }
        if self.exec_attach && !self.exec {
            return refuse("Attach can only be specified with exec");
        }
        if self.exec_attach && legacy_exec {
            return refuse("Attach can only be specified for a non-legacy exec session");
        }
        if self.cuuid.is_none() && !legacy_exec {
            return refuse("Container UUID not provided. Use --cuuid");
        }
        let runtime = self
            .runtime
            .ok_or(Refusal::AtCheck("Runtime path not provided. Use --runtime".to_owned()))?;
        if let Err(error) = access(&runtime, Access::EXEC_OK) {
            let reason = errno_text(&error.into());
            return refuse(format!(
                "Runtime path {} is not valid {reason}",
                runtime.to_string_lossy()
            ));
        }
        let task = match (self.exec, self.exec_process_spec) {
            (true, Some(process_spec)) => Task::Exec {
                process_spec: process_spec.into(),
            },
            (true, None) => return refuse("Exec process spec path not provided. Use --exec-process-spec"),
            (false, _) => match self.restore {
                Some(checkpoint) => Task::Restore {
                    checkpoint: checkpoint.into(),
                },
                None => Task::Create,
            },
        };
        let working_directory = std::env::current_dir()
            .map_err(|error| Refusal::AtCheck(format!("Failed to get working directory {}", errno_text(&error))))?;
        let Ok(exit_delay) = u64::try_from(self.exit_delay) else {
            return refuse("Delay before invoking exit command must be greater than or equal to 0");
        };
        let drivers = log_drivers(&self.log_path)?;
        let only_file = drivers.file.is_some() && !drivers.journald;
        if only_file && self.log_tag.is_some() {
            return refuse("k8s-file doesn't support --log-tag");
        }
        if only_file && !self.log_label.is_empty() {
            return refuse("k8s-file doesn't support --log-label");
        }
        if drivers.journald {
            check_for_journald(self.cid.as_deref().unwrap_or_default().as_bytes(), &self.log_label)?;
        }
        let absolute = |path: OsString| working_directory.join(path);
        let container_id = self.cid.unwrap_or_default();
        let container_pidfile = absolute(self.container_pidfile.unwrap_or_else(|| {
            let mut name = OsString::from("pidfile-");
            name.push(&container_id);
            name
        }));
        let bundle = match (self.bundle, self.exec) {
            (Some(bundle), _) => Some(absolute(bundle)),
            (None, true) => None,
            (None, false) => Some(working_directory.clone()),
        };
        if self.seccomp_notify.is_some() {
            crate::warning!("--seccomp-notify-socket and --seccomp-notify-plugins are ignored");
        }
        if self.no_container_partial_message && !drivers.journald {
            crate::warning!("--no-container-partial-message has no effect without journald log driver");
        }
        let socket_directory = absolute(self.socket_dir_path.unwrap_or_else(|| SOCKET_DIRECTORY.into()));
        let positive = |limit: Option<i64>| {
            limit
                .and_then(|limit| u64::try_from(limit).ok())
                .filter(|limit| *limit > 0)
        };
        let journal = drivers.journald.then(|| JournalPlan {
            container_id: container_id.clone(),
            name: self.name,
            tag: self.log_tag,
            labels: self.log_label,
            marks_partial: !self.no_container_partial_message,
        });
        let log_file = drivers.file.map(|path| absolute(path.into()));
        Ok(MonitorPlan {
            task,
            api: if self.api_version { Api::One } else { Api::Legacy },
            container_id,
            bundle,
            monitor_pidfile: self.conmon_pidfile.map(absolute),
            container_pidfile,
            runtime: RuntimeCommand {
                path: runtime.into(),
                global_arguments: self.runtime_arg,
                command_arguments: self.runtime_opt,
                systemd_cgroup: self.systemd_cgroup,
                no_pivot: self.no_pivot,
                no_new_keyring: self.no_new_keyring,
            },
            exit_dir: self.exit_dir.map(absolute),
            exit_record: self.exit_record,
            persist_dir: self.persist_dir.map(absolute),
            exit_command: self.exit_command.map(|path| ExitCommand {
                path: absolute(path),
                arguments: self.exit_command_arg,
                delay: Duration::from_secs(exit_delay),
            }),
            stdio: if drivers.passthrough {
                StdioPlan::Inherited
            } else if self.terminal {
                StdioPlan::Terminal
            } else {
                StdioPlan::Pipes { stdin: self.stdin }
            },
            no_dev_null: self.no_dev_null,
            attach: AttachPlan {
                link: if self.full_attach {
                    None
                } else {
                    self.cuuid.map(|name| (socket_directory, name))
                },
                closes_stdin: self.stdin && !self.leave_stdin_open,
                before_exec: self.exec_attach,
            },
            replace_listen_pid: self.replace_listen_pid,
            notify_socket: self.sdnotify_socket.map(|socket| match socket.as_bytes() {
                [b'@', ..] => PathBuf::from(socket), // no file at all
                _ => absolute(socket),
            }),
            timeout: u64::try_from(self.timeout)
                .ok()
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs),
            confinement: Confinement {
                capabilities: self.drop_capabilities,
                landlock: self.landlock,
            },
            log_file: log_file.clone(),
            log: LogPlan {
                file: log_file,
                journal,
                size_max_bytes: positive(self.log_size_max),
                global_size_max_bytes: positive(self.log_global_size_max),
                sync_at_end: !self.no_sync_log,
                rotation: self.log_rotate.then(|| Rotation {
                    max_files: self
                        .log_max_files
                        .and_then(|files| u32::try_from(files).ok())
                        .unwrap_or(1),
                    allowed_directories: self.log_allowlist_dir.into_iter().map(absolute).collect(),
                }),
            },
            daemonize: !self.sync,
        })
    }
}

pub(super) fn refuse<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::AtCheck(text.into()))
}
