//! The seams between `lifecycle` and the outside: one trait per outside thing, as wide as its caller needs.
//!
//! Every `release`-like call (delete, remove, unmount, unpin, teardown, forget) is idempotent and accepts half-made
//! things, so undo, Remove and restore are the same calls.

use crate::drivers::cgroup::{Counters, Usage};
use crate::drivers::image::PullRequest;
use crate::model::cdi::CdiName;
use crate::model::container::{ImageMount, Resources};
use crate::model::record::{ContainerRecord, Handler, PinnedNamespaces, SandboxFiles, SandboxRecord};
use crate::model::selinux::{Label, View};
use crate::model::users::{Owner, PodUsers};
use crate::model::{CgroupPath, ContainerId, Exit, ExitStatus, ProcessId, SandboxId, SandboxPlan, Timestamp};
use crate::spec::ContainerPath;
use crate::spec::cdi::Edits;
use crate::spec::hooks::HookFile;
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

/// What went wrong outside, in the words of whoever knows, and of what kind it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DriverError {
    /// What a caller may do about it.
    pub kind: ErrorKind,
    /// The cause, one line.
    pub message: String,
}

/// Kinds of failures that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// What was asked for cannot be: the request or the image is wrong.
    Invalid,
    /// The thing named does not exist.
    NotFound,
    /// A deadline passed.
    TimedOut,
    /// A service of the outside (registry, CNI) does not answer or is not configured.
    Unavailable,
    /// Credentials are missing or refused, or the outside does not allow it.
    Denied,
    /// The image is not signed as the policy wants it.
    Untrusted,
    /// Disk, memory, pids or addresses ran out.
    Exhausted,
    /// Something still uses it.
    InUse,
    /// This node cannot do it, whatever the request.
    Unsupported,
    /// Anything else.
    Failed,
}

impl ErrorKind {
    /// For what counts failures by their kind.
    pub fn word(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::TimedOut => "timed_out",
            Self::Unavailable => "unavailable",
            Self::Denied => "denied",
            Self::Untrusted => "untrusted",
            Self::Exhausted => "exhausted",
            Self::InUse => "in_use",
            Self::Unsupported => "unsupported",
            Self::Failed => "failed",
        }
    }
}

impl DriverError {
    /// A failure of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// An error with its causes, in one line: `what: because: because`.
    pub fn chain(kind: ErrorKind, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut full = false;
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Many errors already say their cause.
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            full |= error.downcast_ref().is_some_and(is_full);
            cause = error.source();
        }
        Self::new(if full { ErrorKind::Exhausted } else { kind }, message)
    }

    /// An I/O error in doing `what`; a full disk is told apart.
    pub fn io(what: impl std::fmt::Display, error: &std::io::Error) -> Self {
        let kind = if is_full(error) {
            ErrorKind::Exhausted
        } else {
            ErrorKind::Failed
        };
        Self::new(kind, format!("{what}: {error}"))
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// What a driver's call returns.
pub type DriverResult<T> = Result<T, DriverError>;

/// All seams of a node.
#[derive(Clone)]
pub struct Drivers {
    /// runc, crun.
    pub runtime: Arc<dyn OciRuntime>,
    /// conmon-rs.
    pub monitor: Arc<dyn Monitor>,
    /// Processes of this host.
    pub process: Arc<dyn Processes>,
    /// Control groups.
    pub cgroup: Arc<dyn Cgroups>,
    /// Pinned namespaces.
    pub namespaces: Arc<dyn NamespacePins>,
    /// CNI.
    pub network: Arc<dyn PodNetworks>,
    /// Images and root file systems.
    pub image: Arc<dyn Images>,
    /// Checkpoints of containers.
    pub checkpoint: Arc<dyn Checkpoints>,
    /// Bundles and the files of pods.
    pub bundle: Arc<dyn Bundles>,
    /// Files of the host that requests name.
    pub host: Arc<dyn HostFiles>,
    /// Files of the node that add to containers.
    pub additions: Arc<dyn NodeAdditions>,
    /// Durable records.
    pub store: Arc<dyn Records>,
    /// Time and chance.
    pub clock: Arc<dyn Clock>,
}

/// The OCI runtime's commands beside create and exec, which the monitor runs.
#[async_trait]
pub trait OciRuntime: Send + Sync {
    /// The handler of this name (empty: the default). `NotFound` names those there are.
    fn handler(&self, name: &str) -> DriverResult<Handler>;

    /// Starts a created container; returns once its own program runs, or the process is gone.
    async fn start(&self, handler: &Handler, id: &ContainerId, process: ProcessId) -> DriverResult<()>;

    /// Changes the limits of a container that stands; `resources_json` is OCI's `LinuxResources`.
    async fn update(&self, handler: &Handler, id: &ContainerId, resources_json: Vec<u8>) -> DriverResult<()>;

    /// Whether containers of this handler can be checkpointed and restored here; `Unsupported`, with the reason, if not.
    async fn can_checkpoint(&self, handler: &Handler) -> DriverResult<()>;

    /// Freezes all its processes.
    async fn pause(&self, handler: &Handler, id: &ContainerId) -> DriverResult<()>;

    /// Lets them go on.
    async fn resume(&self, handler: &Handler, id: &ContainerId) -> DriverResult<()>;

    /// Writes down the processes of a container, which go on afterwards as they were: running, or frozen.
    async fn checkpoint(&self, handler: &Handler, id: &ContainerId, place: &CheckpointPlace) -> DriverResult<()>;

    /// Deletes it with force; `Ok` when the runtime knows nothing of it.
    async fn delete(&self, handler: &Handler, id: &ContainerId) -> DriverResult<()>;

    /// Removes the runtime's own state of a container that it cannot delete, and of which nothing lives any more.
    async fn forget(&self, handler: &Handler, id: &ContainerId) -> DriverResult<()>;

    /// All configured runtimes.
    fn handlers(&self) -> Vec<Handler>;

    /// When a container that stands was started, as the runtime's own state says; `None` before. Runs nothing.
    fn started_at(&self, handler: &Handler, id: &ContainerId) -> Option<Timestamp>;

    /// Whether each configured runtime answers, from memory.
    fn health(&self) -> Vec<HandlerHealth>;
}

/// What a probe of a runtime found last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerHealth {
    /// Its name in the configuration.
    pub name: String,
    /// It is the one used when a pod names none.
    pub is_default: bool,
    /// Its version line, or why there is none.
    pub version: Result<String, String>,
    /// What it says it can do.
    pub features: Features,
}

/// What an OCI runtime can do. One that cannot say (runc before 1.1, crun 1.8) is taken to do none of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// It takes the mount option `rro`.
    pub recursive_read_only: bool,
    /// It says that it knows no user namespaces. Every one that cannot say does.
    pub without_user_namespaces: bool,
}

/// What to launch a monitor for.
#[derive(Debug)]
pub struct MonitorLaunch {
    /// The container.
    pub id: ContainerId,
    /// Its name, for logs.
    pub name: String,
    /// The runtime that makes it.
    pub handler: Handler,
    /// Its bundle: config.json and the monitor's own files.
    pub bundle: PathBuf,
    /// The log file; `None` keeps no log.
    pub log_path: Option<PathBuf>,
    /// A terminal.
    pub tty: bool,
    /// It has a user namespace.
    pub own_users: bool,
    /// Standard input stays open for clients.
    pub stdin: bool,
    /// Standard input stays open when the first client goes.
    pub leave_stdin_open: bool,
    /// The monitor's cgroup.
    pub entrance: Entrance,
    /// criu's images: the container is made from them, and runs at once.
    pub restore: Option<PathBuf>,
}

/// A container that stands: its first process, waiting to be started, and its monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launched {
    /// The container's first process.
    pub process: ProcessId,
    /// The monitor; `None` if it ended at once.
    pub monitor: Option<ProcessId>,
}

/// A command to run in a container.
#[derive(Debug)]
pub struct ExecLaunch {
    /// The container.
    pub id: ContainerId,
    /// The runtime that made it.
    pub handler: Handler,
    /// The process, as OCI JSON.
    pub process_json: Vec<u8>,
    /// A terminal.
    pub tty: bool,
    /// The container has a user namespace.
    pub own_users: bool,
    /// Standard input is open. (A terminal's always is.)
    pub stdin: bool,
    /// Kill it after this; `None` waits for ever.
    pub timeout: Option<Duration>,
    /// The cgroup of its monitor: that of the container's monitor.
    pub entrance: Entrance,
}

/// What became of an exec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutcome {
    /// It ended.
    Ended {
        /// 0–255; 128 + signal.
        exit_code: i32,
        /// What it wrote.
        output: ExecOutput,
    },
    /// It took too long and was killed, with all it had started.
    TimedOut,
}

/// What a command wrote, at most `EXEC_OUTPUT_BYTES` of both streams together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// There was more, or may have been.
    pub is_cut: bool,
}

/// What a client sends to a command or a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Standard input, or keys.
    Stdin(Bytes),
    /// There is no more of it.
    End,
    /// The terminal has this many columns and rows now.
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
}

/// What a command or a container sends to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Standard output; of a terminal, everything.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// The command ended: 0–255; 128 + signal.
    ExitCode(i32),
    /// The container's streams were closed.
    Closed,
}

/// A client's side of a session. Who drops it has left: a command is hung up then, and ended if it does not hear that.
#[derive(Debug)]
pub struct Session {
    /// To the container.
    pub input: mpsc::Sender<Input>,
    /// From it, until its streams are closed.
    pub output: mpsc::Receiver<Output>,
    /// How it ended, after the last output.
    pub ended: oneshot::Receiver<DriverResult<SessionEnd>>,
}

/// A session, and the work that it needs somebody to do.
pub struct Streamed {
    /// For the client.
    pub session: Session,
    /// Carries bytes until the session has ended, whichever side ends it.
    pub work: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// conmon-rs.
#[async_trait]
pub trait Monitor: Send + Sync {
    /// Launches a monitor and waits until the container is created, at most the handler's create timeout.
    ///
    /// On any error the creator that this call started is dead or in the monitor's cgroup, for the caller to kill. The
    /// same holds if the call is dropped.
    async fn create(&self, launch: MonitorLaunch) -> DriverResult<Launched>;

    /// Runs a command to its end.
    async fn exec(&self, exec: ExecLaunch) -> DriverResult<ExecOutcome>;

    /// Runs a command with a client at its standard streams; returns once it runs.
    async fn exec_attached(&self, exec: ExecLaunch) -> DriverResult<Streamed>;

    /// Puts a client at the standard streams of the container with this bundle.
    fn attach(&self, bundle: &Path) -> DriverResult<Streamed>;

    /// Has the log file opened anew; returns once it exists.
    async fn reopen_log(&self, bundle: &Path, log_path: &Path) -> DriverResult<()>;

    /// Waits until the monitor has written about the container's end. A monitor lives on for a while after that.
    async fn exit_recorded(&self, id: &ContainerId);

    /// What the monitor wrote about the container's end; `None` when it wrote nothing.
    async fn recorded_exit(&self, id: &ContainerId, bundle: &Path) -> DriverResult<Option<Exit>>;

    /// Whether the monitor has noted an out-of-memory kill.
    async fn saw_oom(&self, bundle: &Path) -> bool;

    /// Removes what the monitor wrote about the end.
    async fn forget_exit(&self, id: &ContainerId) -> DriverResult<()>;
}

/// Processes, by identity and never by pid alone.
pub trait Processes: Send + Sync {
    /// Takes hold of a process; `None` when it is gone, or its pid belongs to another now. An error says neither.
    ///
    /// A hold that an earlier daemon asked to [keep](ProcessHandle::keep) is taken even of a process that is gone.
    fn hold(&self, id: ProcessId) -> DriverResult<Option<Arc<dyn ProcessHandle>>>;

    /// All processes of the records are held: what else was kept for us is not needed.
    fn all_held(&self);
}

/// A hold on one process: a pidfd.
#[async_trait]
pub trait ProcessHandle: Send + Sync {
    /// Waits for its end.
    async fn ended(&self);

    /// How it ended, as far as the kernel tells somebody who is not its parent.
    ///
    /// Source: `PIDFD_GET_INFO` (only with its mask bit), else the zombie's field 52 in `/proc/<pid>/stat`.
    fn exit_status(&self) -> Option<ExitStatus>;

    /// Has this hold outlive the daemon, where somebody can keep it. Not waited for, and no promise.
    fn keep(&self);

    /// Nobody will ask it any more.
    fn let_go(&self);

    /// Sends a signal, 1–64; `Ok` when it is gone already.
    fn signal(&self, signal: i32) -> DriverResult<()>;

    /// It handles this signal itself. The first process of a PID namespace loses every other signal but SIGKILL.
    fn catches(&self, signal: i32) -> bool;
}

/// The way into a cgroup, for one process.
#[derive(Debug, Default)]
pub struct Entrance {
    /// Its `cgroup.procs` in every hierarchy, open for writing: who writes 0 there is in it.
    pub doors: Vec<OwnedFd>,
    /// Keeps the cgroup there until the process is in; it ends with this.
    pub holder: Option<tokio::process::Child>,
}

/// Control groups.
#[async_trait]
pub trait Cgroups: Send + Sync {
    /// A cgroup parent as the client wrote it (empty: the default), checked. `Invalid` when it is the other driver's syntax.
    fn parent(&self, asked: &str) -> DriverResult<CgroupPath>;

    /// Somebody will enter a cgroup in a moment: what the kernel has to wait for before that begins now. Nobody waits here.
    fn expect_entry(&self);

    /// Makes a cgroup and opens its doors.
    async fn entrance(&self, cgroup: &CgroupPath) -> DriverResult<Entrance>;

    /// Kills all processes in it and beneath, thaws it, waits until it is empty, at most `limit`.
    async fn kill(&self, cgroup: &CgroupPath, limit: Duration) -> DriverResult<()>;

    /// Removes it and those beneath; `Ok` when it is gone.
    async fn remove(&self, cgroup: &CgroupPath) -> DriverResult<()>;

    /// What it and those beneath it use.
    async fn usage(&self, cgroup: &CgroupPath) -> DriverResult<Usage>;

    /// What is counted of it and those beneath it, for metrics.
    async fn counters(&self, cgroup: &CgroupPath) -> DriverResult<Counters>;

    /// The limits it has now, every one that the kernel has; of the files of cgroup v2 those named in `unified`.
    async fn limits(&self, cgroup: &CgroupPath, unified: Vec<String>) -> DriverResult<Resources>;

    /// Sets, of the limits that the OCI runtime was asked for, those that runtimes leave out or set otherwise: a quota that
    /// is taken away; on version 2 also swap and the files asked for by their names.
    async fn complete_limits(&self, cgroup: &CgroupPath, asked: &Resources) -> DriverResult<()>;

    /// Sets the `oom_score_adj` of every process in it.
    async fn set_oom_score_adj(&self, cgroup: &CgroupPath, value: i32) -> DriverResult<()>;

    /// Whether memory, hugetlb and so on can be limited here; a sentence for Status.
    fn describe(&self) -> CgroupSummary;
}

/// Who makes the cgroups of containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CgroupManager {
    /// The OCI runtime, by mkdir.
    #[default]
    Cgroupfs,
    /// systemd, asked by the OCI runtime.
    Systemd,
}

impl CgroupManager {
    /// As the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }
}

/// What this host's cgroups can do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupSummary {
    /// Who makes them.
    pub manager: CgroupManager,
    /// `v1`, `v2` or `hybrid`.
    pub version: String,
    /// Controllers.
    pub controllers: Vec<String>,
    /// There is a hugetlb controller that the OCI runtime can use.
    pub hugetlb: bool,
}

/// Namespaces that outlive processes.
#[async_trait]
pub trait NamespacePins: Send + Sync {
    /// Makes and pins what the pod has to itself; loopback is up, hostname and sysctls are set.
    async fn pin(&self, plan: &SandboxPlan) -> DriverResult<PinnedNamespaces>;

    /// Unpins all of the pod's.
    async fn unpin(&self, id: &SandboxId) -> DriverResult<()>;

    /// Connects to a port on the loopback interface of this network namespace; `None` is the host's.
    async fn dial(&self, netns: Option<&Path>, port: u16) -> DriverResult<TcpStream>;

    /// The interfaces of a pinned network namespace but `lo`, the first one first.
    async fn traffic(&self, namespace: &Path) -> DriverResult<Vec<InterfaceTraffic>>;
}

/// What has gone through an interface since it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceTraffic {
    /// `eth0`.
    pub name: String,
    /// Received.
    pub received_bytes: u64,
    /// Received.
    pub received_packets: u64,
    /// In receiving.
    pub receive_errors: u64,
    /// Received and dropped, packets.
    pub receive_dropped: u64,
    /// Sent.
    pub sent_bytes: u64,
    /// Sent.
    pub sent_packets: u64,
    /// In sending.
    pub send_errors: u64,
    /// Dropped instead of sent, packets.
    pub send_dropped: u64,
}

/// Pod networks.
#[async_trait]
pub trait PodNetworks: Send + Sync {
    /// `Ok` when pods can be connected, else why not; from memory.
    fn ready(&self) -> Result<(), String>;

    /// Whether it can have the host ports it asks for; to be asked before anything is made.
    ///
    /// Errors: `InUse` when another pod has one; `Unavailable` when this node can make none.
    async fn admit(&self, plan: &SandboxPlan) -> DriverResult<()>;

    /// Connects a pod; its addresses, the primary one first.
    async fn connect(&self, plan: &SandboxPlan, netns: &Path) -> DriverResult<Vec<IpAddr>>;

    /// Disconnects it, also when its namespace is gone already.
    async fn disconnect(&self, id: &SandboxId, netns: Option<&Path>) -> DriverResult<()>;

    /// Takes off the network whatever is on it and has none of these ids, in the background. Before the first `connect`.
    async fn keep_only(&self, pods: BTreeSet<String>) -> DriverResult<()>;
}

/// Images and root file systems.
#[async_trait]
pub trait Images: Send + Sync {
    /// The image that a container request names.
    async fn resolve(&self, image: &str) -> DriverResult<ResolvedImage>;

    /// Mounts a root file system of the image for the container; its path. Files of id 0 in the image belong to the root
    /// of the view's users, and so on.
    async fn mount_rootfs(&self, id: &ContainerId, image_id: &str, view: &View) -> DriverResult<PathBuf>;

    /// Mounts an image read-only beside the root file system, as the container's volume of this number.
    async fn mount_image(
        &self,
        id: &ContainerId,
        number: usize,
        image: &ImageMount,
        view: &View,
    ) -> DriverResult<MountedImage>;

    /// Unmounts and removes it, and the images that are the container's volumes.
    async fn unmount_rootfs(&self, id: &ContainerId) -> DriverResult<()>;

    /// A small regular file of the root file system; `None` when there is none. Never leaves the root.
    async fn read_file(&self, rootfs: &Path, path: &str) -> DriverResult<Option<Vec<u8>>>;

    /// Makes a directory inside the root file system, with what is missing above it.
    async fn ensure_dir(&self, rootfs: &Path, path: &str, owner: Owner) -> DriverResult<()>;

    /// Pulls an image; its id. Pulls of the same image share a transfer, which goes on when a caller leaves.
    async fn pull(&self, request: PullRequest) -> DriverResult<String>;

    /// Brings in the images of an archive or layout: id and names of each.
    async fn load(&self, path: &Path) -> DriverResult<Vec<(String, Vec<String>)>>;

    /// The image that a name, a digest or the beginning of an id means; from memory.
    fn find(&self, image: &str) -> DriverResult<Option<ImageSummary>>;

    /// All images; from memory.
    fn list(&self) -> DriverResult<Vec<ImageSummary>>;

    /// Removes an image with all its names, unless it is in use; `Ok` when there is none.
    async fn remove(&self, image: &str, in_use: InUse) -> DriverResult<()>;

    /// What the layers take; from memory.
    fn usage(&self) -> ImageFsUsage;

    /// How large the layers' file system is.
    async fn space(&self) -> DriverResult<Space>;

    /// What a container's writable layer takes: a walk, as long as it has files. `NotFound` when there is none.
    async fn layer_usage(&self, id: &ContainerId) -> DriverResult<LayerUsage>;
}

/// Checkpoints of containers: what their processes are, and what they have changed in their root file system.
#[async_trait]
pub trait Checkpoints: Send + Sync {
    /// Makes an empty place for this container's checkpoint, beside its writable layer: it goes with its root file system.
    async fn make_place(&self, id: &ContainerId) -> DriverResult<CheckpointPlace>;

    /// The place, if there is one.
    fn place(&self, id: &ContainerId) -> Option<CheckpointPlace>;

    /// Removes it; `Ok` when there is none.
    async fn remove_place(&self, id: &ContainerId) -> DriverResult<()>;

    /// Writes what is in the place and what the container has changed in its root file system as an archive: whole,
    /// or not at all. Nobody may change the root file system meanwhile.
    async fn export(&self, id: &ContainerId, export: CheckpointExport) -> DriverResult<()>;

    /// What a checkpoint says of its container. `Invalid` when it is none.
    async fn inspect(&self, from: &CheckpointSource) -> DriverResult<CheckpointHead>;

    /// Unpacks a checkpoint: the processes into the container's place, the changes into its mounted root file system.
    async fn import(&self, id: &ContainerId, from: &CheckpointSource, rootfs: &Path) -> DriverResult<CheckpointPlace>;
}

/// Where a checkpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckpointSource {
    /// In an archive on this node.
    Archive(PathBuf),
    /// In the layers of the image with this id.
    Image(String),
}

/// Where the checkpoint of a container is made, or lies unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointPlace {
    /// The processes, as criu writes them.
    pub images: PathBuf,
    /// criu's log and statistics.
    pub work: PathBuf,
}

/// What goes into an archive beside the processes and the changes, and where that is put.
#[derive(Debug)]
pub struct CheckpointExport {
    /// Files of the archive, by name.
    pub documents: Vec<(&'static str, Vec<u8>)>,
    /// Bind mounts: where from, and where in the container.
    pub binds: Vec<(PathBuf, String)>,
    /// The archive, absolute.
    pub location: PathBuf,
    /// After this it is not put there any more.
    pub until: std::time::Instant,
}

/// What a checkpoint says of its container; untrusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointHead {
    /// Names of its image, the most exact one first.
    pub images: Vec<String>,
    /// Where in it something is mounted.
    pub mounts: Vec<String>,
}

/// An image that is mounted as a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedImage {
    /// Its id.
    pub image_id: String,
    /// What of it is to be seen, without links on the way.
    pub path: PathBuf,
}

/// A file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total_bytes: u64,
    /// All of them; 0 where they are made as needed.
    pub total_inodes: u64,
    /// Not in use.
    pub free_inodes: u64,
}

/// What a container has written, on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerUsage {
    /// Blocks of its files and directories.
    pub used_bytes: u64,
    /// Files and directories.
    pub used_inodes: u64,
}

/// Says of an image id whether a container needs it.
pub type InUse = Box<dyn Fn(&str) -> bool + Send>;

/// An image of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// `sha256:…` of the config.
    pub id: String,
    /// `registry/path:tag`.
    pub tags: Vec<String>,
    /// `registry/path@digest`.
    pub digests: Vec<String>,
    /// Unpacked, in bytes.
    pub size_bytes: u64,
    /// Never removed as unused.
    pub pinned: bool,
    /// USER as the image has it; untrusted.
    pub user: String,
    /// The config document; untrusted.
    pub config: String,
}

/// What images take on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFsUsage {
    /// Where their file system is mounted.
    pub mountpoint: PathBuf,
    /// Bytes of all layers.
    pub used_bytes: u64,
    /// Inodes of all layers.
    pub used_inodes: u64,
    /// When that was.
    pub at: Timestamp,
}

/// What a container takes from its image. The config comes from outside: it selects nothing on the host.
#[derive(Debug, Clone, Default)]
pub struct ResolvedImage {
    /// `sha256:…` of the config.
    pub id: String,
    /// A digest reference where one is known, else the id.
    pub image_ref: String,
    /// Entrypoint, environment, user and so on.
    pub config: crate::spec::ImageConfig,
    /// The signal it asks to be stopped with; empty for none.
    pub stop_signal: String,
    /// Whether its files are the checkpoint of a container, instead of a root file system.
    pub is_checkpoint: bool,
}

/// Who may read a file of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Only root: it holds the environment.
    Root,
    /// Every user of the container it is mounted into, whose root it belongs to.
    Everybody(Owner),
}

/// Bundles of containers and the files of pods.
#[async_trait]
pub trait Bundles: Send + Sync {
    /// Writes a pod's files and mounts its shared memory, which has this label.
    async fn make_sandbox(&self, plan: &SandboxPlan, label: Option<&Label>) -> DriverResult<SandboxFiles>;

    /// Fills in what is only known once the pod is connected.
    async fn write_hosts(&self, plan: &SandboxPlan, ips: &[IpAddr]) -> DriverResult<()>;

    /// Unmounts and removes them.
    async fn remove_sandbox(&self, id: &SandboxId) -> DriverResult<()>;

    /// Where a container's bundle is or will be.
    fn path(&self, id: &ContainerId) -> PathBuf;

    /// Writes a file of the bundle; makes the bundle.
    async fn write(&self, id: &ContainerId, name: &str, content: &[u8], readers: Readers) -> DriverResult<PathBuf>;

    /// Makes an empty directory of the bundle that every user of the container may read; makes the bundle.
    async fn make_dir(&self, id: &ContainerId, below: &Path, owner: Owner) -> DriverResult<()>;

    /// Mounts a copy of `source`, with all that is mounted beneath, whose files belong to these users; its path in the
    /// bundle, which it makes. It is there for the making of the container.
    async fn mount_for(
        &self,
        id: &ContainerId,
        number: usize,
        source: &Path,
        users: &PodUsers,
    ) -> DriverResult<PathBuf>;

    /// Unmounts those copies: a container that is made has its own.
    async fn unmount_copies(&self, id: &ContainerId) -> DriverResult<()>;

    /// Copies a file or a directory of the host into the bundle, links followed; makes the bundle.
    async fn copy(&self, id: &ContainerId, below: &Path, source: &Path) -> DriverResult<()>;

    /// Reads config.json back.
    async fn read_spec(&self, id: &ContainerId) -> DriverResult<Vec<u8>>;

    /// A root file system with nothing but the pause program, for a pod that needs a process of its own.
    async fn make_infra_rootfs(&self, id: &SandboxId, owner: Owner) -> DriverResult<PathBuf>;

    /// Removes the bundle.
    async fn remove(&self, id: &ContainerId) -> DriverResult<()>;
}

/// Files of the host that requests name.
#[async_trait]
pub trait HostFiles: Send + Sync {
    /// Makes a directory where nothing is, and resolves symlinks: a log directory, or the source of a bind mount.
    async fn ensure_dir(&self, path: &Path) -> DriverResult<PathBuf>;

    /// Whether something is there.
    async fn exists(&self, path: &Path) -> bool;

    /// Removes a file; `Ok` when there is none.
    async fn remove_file(&self, path: &Path) -> DriverResult<()>;

    /// The device at this path, or those directly in this directory.
    async fn devices(&self, path: &Path) -> DriverResult<Vec<HostDevice>>;

    /// Every device of the host that a privileged container gets.
    async fn all_devices(&self) -> DriverResult<Vec<HostDevice>>;

    /// Whether a file or a directory, whatever is in it, has this label of SELinux.
    async fn has_label(&self, path: &Path, label: &Label) -> DriverResult<bool>;

    /// Gives a file or a directory, with all that is in it, this label of SELinux. `Invalid`: the node itself needs it.
    async fn relabel(&self, path: &Path, label: &Label) -> DriverResult<()>;

    /// A regular file, at most `limit` bytes: a seccomp profile.
    async fn read(&self, path: &Path, limit: u64) -> DriverResult<Vec<u8>>;
}

/// Files of the node that add to containers. Each call has them as they are now.
#[async_trait]
pub trait NodeAdditions: Send + Sync {
    /// What the CDI files in these directories say of the devices; what is in a later directory wins.
    async fn cdi(&self, directories: &[PathBuf], devices: &[CdiName]) -> DriverResult<Edits>;

    /// The hooks in these directories in the order of their names; what is in a later directory takes the place of a file
    /// of the same name.
    async fn hooks(&self, directories: &[PathBuf]) -> DriverResult<Vec<HookFile>>;

    /// What these files want mounted into every container, of what is there: where from, and where to.
    async fn default_mounts(&self, files: &[PathBuf]) -> DriverResult<Vec<(PathBuf, ContainerPath)>>;
}

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// Where.
    pub path: PathBuf,
    /// Character or block.
    pub kind: crate::spec::devices::DeviceKind,
    /// Numbers of driver and device.
    pub numbers: (u32, u32),
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
}

/// Durable records.
#[async_trait]
pub trait Records: Send + Sync {
    /// Writes it; it is there after a crash.
    async fn save_sandbox(&self, record: &SandboxRecord) -> DriverResult<()>;
    /// Forgets it; `Ok` when there is none.
    async fn forget_sandbox(&self, id: &SandboxId) -> DriverResult<()>;
    /// Writes it; it is there after a crash.
    async fn save_container(&self, record: &ContainerRecord) -> DriverResult<()>;
    /// Forgets it; `Ok` when there is none.
    async fn forget_container(&self, id: &ContainerId) -> DriverResult<()>;
    /// Whether the last probe could write; from memory.
    fn writable(&self) -> Result<(), String>;
    /// All there are. What cannot be read is told with a warning, touches nothing else, and stays until it is set aside.
    async fn load(&self) -> DriverResult<Loaded>;
    /// Puts a record that cannot be read where the administrator finds it, and no later start; `Ok` when there is none.
    async fn set_aside_sandbox(&self, id: &SandboxId) -> DriverResult<()>;
    /// The same for a container's.
    async fn set_aside_container(&self, id: &ContainerId) -> DriverResult<()>;
}

/// The records of an earlier daemon.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Of pod sandboxes.
    pub sandboxes: Vec<SandboxRecord>,
    /// Of containers.
    pub containers: Vec<ContainerRecord>,
    /// Pod sandboxes whose record cannot be read.
    pub lost_sandboxes: Vec<SandboxId>,
    /// Containers whose record cannot be read.
    pub lost_containers: Vec<ContainerId>,
}

/// Time and chance.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
    /// 32 random bytes.
    fn random(&self) -> [u8; 32];
    /// This boot, as the kernel names it.
    fn boot_id(&self) -> String;
}
