//! What is written down about an object: intent before the first act, facts once it stands.

use super::container::Resources;
use super::{CgroupPath, ContainerId, ContainerPlan, ContainerState, ProcessId, SandboxPlan, SandboxState};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How far a creation has come. What a restart finds half-made it removes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress<T> {
    /// Asked for; acts may be under way.
    Making,
    /// It stands.
    Made(T),
}

/// A configured OCI runtime. Records carry it whole: a configuration that changes does not lose what runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handler {
    /// Its name in the configuration.
    pub name: String,
    /// The binary.
    pub path: PathBuf,
    /// Where it keeps its own state.
    pub root: PathBuf,
    /// How long a create may take.
    pub create_timeout: Duration,
    /// Its cgroups are made through systemd.
    pub systemd_cgroup: bool,
    /// Where the cgroups of its monitors are made; `None` is where the containers' are.
    #[serde(default)]
    pub monitor_parent: Option<CgroupPath>,
    /// The monitor of its containers.
    pub monitor_path: PathBuf,
    /// Added to the environment of the monitor. A record written before there was the field has none.
    #[serde(default)]
    pub monitor_env: BTreeMap<String, String>,
    /// The log is not synced when a container ends.
    pub no_sync_log: bool,
    /// The monitor keeps its capabilities and its view of the file system.
    #[serde(default)]
    pub unconfined_monitor: bool,
    /// It moves the root file system into place where it cannot pivot.
    #[serde(default)]
    pub no_pivot: bool,
    /// Smallest memory limit that it can start with, in bytes.
    pub min_memory_bytes: u64,
    /// Annotations that may reach it, whole keys.
    pub allowed_annotations: BTreeSet<String>,
    /// Annotations of its containers, weaker than those of pod and container.
    #[serde(default)]
    pub default_annotations: BTreeMap<String, String>,
    /// Privileged containers get no devices of the host.
    pub privileged_without_host_devices: bool,
}

impl Handler {
    /// The cgroup of a monitor, of a container whose own is made in `parent`.
    pub fn monitor_cgroup(&self, parent: &CgroupPath, id: &ContainerId) -> CgroupPath {
        self.monitor_parent.as_ref().unwrap_or(parent).monitor(id)
    }
}

/// Everything remembered about a pod sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// What was asked.
    pub plan: SandboxPlan,
    /// The runtime of its containers.
    pub handler: Handler,
    /// Where its cgroups are made.
    pub cgroup_parent: CgroupPath,
    /// How far it came, and what it is made of.
    pub progress: Progress<SandboxFacts>,
    /// The boot it was made in, as `/proc/sys/kernel/random/boot_id` says.
    pub boot_id: String,
}

/// What a sandbox is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxFacts {
    /// Ready or not.
    pub state: SandboxState,
    /// Its addresses, the primary one first; empty on the host's network.
    pub ips: Vec<IpAddr>,
    /// Its pinned namespaces.
    pub namespaces: PinnedNamespaces,
    /// Files that its containers mount.
    pub files: SandboxFiles,
    /// The process that holds the pod's shared PID namespace, when it has one.
    pub infra: Option<MonitoredProcess>,
    /// The pod's limits, as the client last told them. A record written before there was the field has none.
    #[serde(default)]
    pub resources: PodResources,
}

/// Limits of a whole pod, which its client sets in the pod's cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodResources {
    /// What the pod costs beside its containers.
    pub overhead: Resources,
    /// What its containers may use together.
    pub resources: Resources,
}

/// Files that hold a pod's namespaces open; `None` means the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedNamespaces {
    /// Network.
    pub net: Option<PathBuf>,
    /// IPC.
    pub ipc: Option<PathBuf>,
    /// Hostname.
    pub uts: Option<PathBuf>,
    /// Users. A record written before there was the field has none.
    #[serde(default)]
    pub user: Option<PathBuf>,
}

/// Files of a pod on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxFiles {
    /// Mounted at `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Mounted at `/etc/hosts` where the client brings none.
    pub hosts: PathBuf,
    /// Mounted at `/etc/hostname`.
    pub hostname: PathBuf,
    /// A tmpfs, mounted at `/dev/shm`; `None` with the host's IPC.
    pub shm: Option<PathBuf>,
}

/// A process and the monitor that watches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitoredProcess {
    /// The container's first process.
    pub process: ProcessId,
    /// Its conmon-rs; `None` if it was gone before it could be identified.
    pub monitor: Option<ProcessId>,
}

/// Everything remembered about a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// What was asked.
    pub plan: ContainerPlan,
    /// The runtime it runs with: its pod's.
    pub handler: Handler,
    /// Where its cgroup is made: its pod's.
    pub cgroup_parent: CgroupPath,
    /// How far it came, and what it is made of.
    pub progress: Progress<ContainerFacts>,
    /// The boot it was made in.
    pub boot_id: String,
}

/// What a container is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerFacts {
    /// Created, running, exited.
    pub state: ContainerState,
    /// Its monitor; `None` if it was gone before it could be identified.
    pub monitor: Option<ProcessId>,
    /// The image's id.
    pub image_id: String,
    /// A digest reference of the image where one is known, else its id.
    pub image_ref: String,
    /// What a stop sends first: the request's, the image's, else SIGTERM; a number 1–64.
    pub stop_signal: i32,
    /// The user it runs as.
    pub user: RunningUser,
    /// The ids of the images that are its volumes, by the path in the container.
    #[serde(default)]
    pub volume_images: BTreeMap<String, String>,
}

impl ContainerFacts {
    /// The ids of the images that it needs: its own, and those that are its volumes.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        let volumes = self.volume_images.values();
        std::iter::once(&self.image_id).chain(volumes).map(String::as_str)
    }
}

/// Numbers of the user a container's first process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningUser {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}
