//! What a process may do, and which namespaces it has to itself.

use super::users::UserMappings;
use serde::{Deserialize, Serialize};

/// Who shares a namespace with whom. CRI `NamespaceMode`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceMode {
    /// All containers of the pod.
    Pod,
    /// Nobody: the container's own.
    Container,
    /// The host.
    Node,
    /// The container with this id, of the same pod.
    Target(String),
}

/// The choices of a pod or a container. UTS follows the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Network: `Pod` or `Node`.
    pub network: NamespaceMode,
    /// Process ids.
    pub pid: NamespaceMode,
    /// System V IPC and POSIX queues: `Pod` or `Node`.
    pub ipc: NamespaceMode,
    /// The pod's user namespace; `None` is the node's. A record written before there was the field has none.
    #[serde(default)]
    pub users: Option<UserMappings>,
}

/// A seccomp or AppArmor choice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// The daemon's own.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A file (seccomp) or a loaded profile (AppArmor) of the node.
    Localhost(String),
}

/// Which user the container's first process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunAs {
    /// What the image says, else root.
    #[default]
    Image,
    /// This uid.
    Uid(u32),
    /// This user of the image's `/etc/passwd`.
    Name(String),
}

/// Whether groups that the image gives the user count too. CRI `SupplementalGroupsPolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupsPolicy {
    /// The image's groups and the asked ones.
    #[default]
    Merge,
    /// Only the asked ones.
    Strict,
}

/// SELinux label parts, as CRI gives them; all empty means none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelinuxOptions {
    /// User part.
    pub user: String,
    /// Role part.
    pub role: String,
    /// Type part.
    pub type_: String,
    /// Level part.
    pub level: String,
}

/// A container's security context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// All devices, all capabilities of the daemon, nothing masked.
    pub privileged: bool,
    /// The root file system cannot be written.
    pub readonly_rootfs: bool,
    /// No gain of privileges by exec.
    pub no_new_privs: bool,
    /// Which user.
    pub run_as: RunAs,
    /// Which primary group; needs a user.
    pub run_as_group: Option<u32>,
    /// Further groups.
    pub supplemental_groups: Vec<u32>,
    /// Whether the image's groups count.
    pub groups_policy: GroupsPolicy,
    /// Capabilities added to the default set; `ALL` means all the daemon has.
    pub add_capabilities: Vec<String>,
    /// Capabilities taken away; `ALL` means all.
    pub drop_capabilities: Vec<String>,
    /// Ambient capabilities.
    pub add_ambient_capabilities: Vec<String>,
    /// Namespaces.
    pub namespaces: Namespaces,
    /// System call filter.
    pub seccomp: Profile,
    /// AppArmor profile.
    pub apparmor: Profile,
    /// SELinux label.
    pub selinux: SelinuxOptions,
    /// Paths that show nothing.
    pub masked_paths: Vec<String>,
    /// Paths that cannot be written.
    pub readonly_paths: Vec<String>,
}
