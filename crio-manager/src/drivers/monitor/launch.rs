//! The command line, the environment and the pipes that a monitor is spawned with.

use super::{CONTAINER_PID_FILE, ConmonRs, MONITOR_PID_FILE, RUNTIME_LOG};
use crate::drivers::child;
use crate::drivers::runtime::missing;
use crate::drivers::seams::{DriverError, DriverResult, Entrance, ErrorKind, MonitorLaunch};
use crate::model::record::Handler;
use command_fds::CommandFdExt;
use command_fds::FdMapping;
use conmon_rs::contract;
use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// The descriptor that the monitor finds its sync pipe at.
const SYNC_FD: i32 = 3;

/// For containers with a user namespace: crun gives what it finds at its standard streams to the pod's root, were it the
/// node's own `/dev/null`.
pub(super) const NO_DEV_NULL: &str = "--no-dev-null";

/// Whether a process that was spawned goes on when this daemon is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outlives {
    /// It does not. (A monitor that has forked itself off always does.)
    Nobody,
    /// It does: the monitor of an exec keeps to the exec's time limit.
    TheDaemon,
}

/// A pipe that the monitor is told of beside the sync pipe.
pub(super) struct Pipe {
    /// The variable that has its number.
    pub(super) variable: &'static str,
    /// The monitor's end.
    pub(super) end: std::os::unix::net::UnixStream,
}

/// The manager's ends of a monitor that is starting.
pub(super) struct Starting {
    pub(super) child: Child,
    pub(super) sync: UnixStream,
    /// Where the OCI runtime delivers a terminal. A monitor that is killed leaves its socket there.
    pub(super) temporary: tempfile::TempDir,
}

impl ConmonRs {
    /// Spawns the monitor with its sync pipe and a small environment, inside its cgroup.
    pub(super) fn spawn(
        &self,
        handler: &Handler,
        arguments: Vec<OsString>,
        directory: &Path,
        entrance: Entrance,
        outlives: Outlives,
    ) -> DriverResult<Starting> {
        self.spawn_with(handler, arguments, directory, entrance, outlives, Vec::new())
    }

    /// The same with more pipes.
    pub(super) fn spawn_with(
        &self,
        handler: &Handler,
        arguments: Vec<OsString>,
        directory: &Path,
        entrance: Entrance,
        outlives: Outlives,
        pipes: Vec<Pipe>,
    ) -> DriverResult<Starting> {
        let pair = || -> std::io::Result<_> {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            Ok((UnixStream::from_std(ours)?, theirs))
        };
        let (sync, theirs) = pair().map_err(|error| DriverError::io("pipe to the monitor", &error))?;
        let temporary = tempfile::Builder::new()
            .prefix("monitor-")
            .tempdir_in(&self.exec_dir)
            .map_err(|error| DriverError::io("directory for the monitor's socket", &error))?;
        let mut command = Command::new(&handler.monitor_path);
        set_environment(&mut command, handler, temporary.path());
        command
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        child::born_in(&mut command, entrance);
        if outlives == Outlives::Nobody {
            child::dies_with_us(&mut command);
        }
        let mut mappings = vec![FdMapping {
            parent_fd: theirs.into(),
            child_fd: SYNC_FD,
        }];
        for (pipe, child_fd) in pipes.into_iter().zip(SYNC_FD + 1..) {
            command.env(pipe.variable, child_fd.to_string());
            mappings.push(FdMapping {
                parent_fd: pipe.end.into(),
                child_fd,
            });
        }
        command
            .fd_mappings(mappings)
            .map_err(|error| DriverError::new(ErrorKind::Failed, error.to_string()))?;
        let child = command
            .spawn()
            .map_err(|error| missing(&handler.monitor_path, &error))?;
        Ok(Starting { child, sync, temporary })
    }

    pub(super) fn create_arguments(&self, launch: &MonitorLaunch) -> Vec<OsString> {
        let mut arguments = Arguments::default();
        let file = |name| launch.bundle.join(name);
        arguments.option("--cid", launch.id.as_str());
        arguments.option("--cuuid", launch.id.as_str());
        arguments.option("--name", &launch.name);
        arguments.option("--bundle", &launch.bundle);
        arguments.option("--conmon-pidfile", file(MONITOR_PID_FILE));
        arguments.option("--container-pidfile", file(CONTAINER_PID_FILE));
        arguments.option("--exit-dir", &self.exits_dir);
        arguments.flag("--exit-record");
        arguments.option("--socket-dir-path", &self.socket_dir);
        arguments.flag("--full-attach");
        arguments.option("--log-level", "warning");
        match &launch.log_path {
            Some(path) => arguments.option("--log-path", prefixed("k8s-file:", path.as_os_str())),
            None => arguments.option("--log-path", "none"),
        }
        if let Some(bytes) = self.log_size_max {
            arguments.option("--log-size-max", bytes.to_string());
        }
        if launch.handler.no_sync_log {
            arguments.flag("--no-sync-log");
        }
        if !launch.handler.unconfined_monitor {
            arguments.flag("--drop-capabilities");
            arguments.flag("--landlock");
        }
        if launch.own_users {
            arguments.flag(NO_DEV_NULL);
        }
        if launch.tty {
            arguments.flag("--terminal");
        } else if launch.stdin {
            arguments.flag("--stdin");
            if launch.leave_stdin_open {
                arguments.flag("--leave-stdin-open");
            }
        }
        arguments.runtime(&launch.handler, &file(RUNTIME_LOG));
        if launch.handler.no_pivot {
            arguments.flag("--no-pivot");
        }
        if let Some(images) = &launch.restore {
            arguments.option("--restore", images);
        }
        arguments.0
    }
}

/// A small environment: what the handler adds may change PATH, but not the numbers of the pipes.
fn set_environment(command: &mut Command, handler: &Handler, temporary: &Path) {
    command
        .env_clear()
        .env("PATH", child::SEARCH_PATH)
        .envs(&handler.monitor_env)
        .env("TMPDIR", temporary)
        .env(contract::SYNC_PIPE_ENV, SYNC_FD.to_string());
}

/// A command line in the making.
#[derive(Default)]
pub(super) struct Arguments(pub(super) Vec<OsString>);

impl Arguments {
    pub(super) fn flag(&mut self, name: &str) {
        self.0.push(name.into());
    }

    pub(super) fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.push(name.into());
        self.0.push(value.into());
    }

    pub(super) fn runtime(&mut self, handler: &Handler, log: &Path) {
        self.option("--runtime", &handler.path);
        if handler.systemd_cgroup {
            self.flag("--systemd-cgroup");
        }
        for argument in [
            prefixed("--root=", handler.root.as_os_str()),
            prefixed("--log=", log.as_os_str()),
            OsString::from("--log-format=json"),
        ] {
            self.option("--runtime-arg", argument);
        }
    }
}

pub(super) fn prefixed(prefix: &str, value: &std::ffi::OsStr) -> OsString {
    let mut whole = OsString::from(prefix);
    whole.push(value);
    whole
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::ExitsAwaited;
    use super::*;
    use crate::drivers::fake::{Fails, FakeNode};
    use crate::drivers::seams::OciRuntime;
    use crate::model::ContainerId;

    fn handler() -> Handler {
        FakeNode::new(Fails::Never).handler("").unwrap()
    }

    fn arguments(handler: Handler) -> Vec<OsString> {
        let monitor = ConmonRs {
            exits_dir: "/exits".into(),
            socket_dir: "/sockets".into(),
            exec_dir: "/exec".into(),
            log_size_max: None,
            exits: ExitsAwaited::default(),
        };
        monitor.create_arguments(&MonitorLaunch {
            id: ContainerId::from_bytes([1; 32]),
            name: "main".to_owned(),
            handler,
            bundle: "/bundle".into(),
            log_path: None,
            tty: false,
            own_users: false,
            stdin: false,
            leave_stdin_open: false,
            entrance: Entrance::default(),
            restore: None,
        })
    }

    #[test]
    fn a_container_is_created_without_a_pivot_only_where_the_handler_says_so() {
        let no_pivot = |no_pivot| arguments(Handler { no_pivot, ..handler() }).contains(&"--no-pivot".into());
        assert!(no_pivot(true));
        assert!(!no_pivot(false));
    }

    #[test]
    fn the_environment_of_a_monitor_is_a_path_the_handlers_own_and_the_pipes() {
        let environment = |added: &[(&str, &str)]| {
            let monitor_env = added
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect();
            let mut command = Command::new("/monitor");
            set_environment(
                &mut command,
                &Handler {
                    monitor_env,
                    ..handler()
                },
                Path::new("/exec"),
            );
            let set = command.as_std().get_envs();
            set.map(|(name, value)| {
                (
                    name.to_str().unwrap().to_owned(),
                    value.unwrap().to_str().unwrap().to_owned(),
                )
            })
            .collect::<std::collections::BTreeMap<_, _>>()
        };
        let plain = environment(&[]);
        let names = ["PATH", "TMPDIR", contract::SYNC_PIPE_ENV];
        assert_eq!(plain.keys().collect::<Vec<_>>(), names);

        let added = environment(&[("PATH", "/own"), ("A", "b"), (contract::SYNC_PIPE_ENV, "9")]);
        assert_eq!((added["PATH"].as_str(), added["A"].as_str()), ("/own", "b"));
        assert_eq!(added[contract::SYNC_PIPE_ENV], plain[contract::SYNC_PIPE_ENV]);
    }
}
