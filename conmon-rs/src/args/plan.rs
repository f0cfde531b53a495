//! What the monitor is asked to do. Paths that are still of use when the runtime has been started are
//! absolute, because by then the monitor has left the caller's directory.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::log::journald::JournalPlan;

/// What the monitor is asked to do.
#[derive(Debug)]
pub struct MonitorPlan {
    pub task: Task,
    pub api: Api,
    /// The name of the exit file, and what the runtime calls the container.
    pub container_id: OsString,
    pub bundle: Option<PathBuf>,
    pub monitor_pidfile: Option<PathBuf>,
    pub container_pidfile: PathBuf,
    pub runtime: RuntimeCommand,
    pub exit_dir: Option<PathBuf>,
    pub exit_record: bool,
    pub persist_dir: Option<PathBuf>,
    pub exit_command: Option<ExitCommand>,
    pub stdio: StdioPlan,
    /// The runtime gets pipes that have ended where it would get /dev/null, of which some runtimes change the owner for a
    /// user namespace: the host's own.
    pub no_dev_null: bool,
    pub attach: AttachPlan,
    pub replace_listen_pid: bool,
    pub notify_socket: Option<PathBuf>,
    pub timeout: Option<Duration>,
    pub log: LogPlan,
    /// Of the log too, which is opened, and the rest of its plan used up, before anything else.
    pub log_file: Option<PathBuf>,
    pub confinement: Confinement,
    /// Become a daemon, or stay the caller's child.
    pub daemonize: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Task {
    Create,
    Restore { checkpoint: PathBuf },
    Exec { process_spec: PathBuf },
}

impl Task {
    /// A command in a container that is there already.
    pub fn is_exec(&self) -> bool {
        matches!(self, Task::Exec { .. })
    }
}

/// Which words the sync pipe speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// One message: the pid of a create, the exit code of an exec.
    Legacy,
    /// An exec reports its pid too.
    One,
}

#[derive(Debug)]
pub struct RuntimeCommand {
    pub path: PathBuf,
    pub global_arguments: Vec<OsString>,
    pub command_arguments: Vec<OsString>,
    pub systemd_cgroup: bool,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
}

#[derive(Debug)]
pub struct ExitCommand {
    pub path: PathBuf,
    pub arguments: Vec<OsString>,
    pub delay: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdioPlan {
    /// Three descriptors; stdin is /dev/null unless asked for.
    Pipes {
        stdin: bool,
    },
    Terminal,
    /// The container gets the monitor's own.
    Inherited,
}

/// How clients attach.
#[derive(Debug)]
pub struct AttachPlan {
    /// The directory and name of a link to the bundle, so that clients have a short path.
    pub link: Option<(PathBuf, OsString)>,
    /// When a client goes away, the container's stdin ends. A terminal without `--stdin` stays open for the next one.
    pub closes_stdin: bool,
    /// An exec waits for its client: the parent says when, on the start pipe.
    pub before_exec: bool,
}

#[derive(Debug, Default)]
pub struct LogPlan {
    pub file: Option<PathBuf>,
    pub journal: Option<JournalPlan>,
    pub size_max_bytes: Option<u64>,
    pub global_size_max_bytes: Option<u64>,
    pub sync_at_end: bool,
    pub rotation: Option<Rotation>,
}

/// Old logs are kept, as `.1`, `.2` and so on.
#[derive(Debug, PartialEq, Eq)]
pub struct Rotation {
    pub max_files: u32,
    /// Where a log that somebody has taken away may be made anew; everywhere if there is none.
    pub allowed_directories: Vec<PathBuf>,
}

/// What the monitor gives up once the container runs.
#[derive(Clone, Copy, Debug)]
pub struct Confinement {
    pub capabilities: bool,
    pub landlock: bool,
}
