//! Plan + image + pod → the OCI spec's input. The decisions are here, their wording in `spec`.

mod additions;
mod container;
mod exec;
mod infra;
mod mounts;
mod namespaces;
mod resources;
mod security;
mod selinux;

pub(super) use exec::specify_exec;
pub(super) use namespaces::pod_users;
pub(super) use resources::{blame_named_file, blame_parent, specify_update};

use super::Lifecycle;
use crate::drivers::seams::{DriverError, ErrorKind};
use crate::model::selinux::{BadLabel, HostLabels};
#[cfg(test)]
use crate::model::trust::Trust;
use crate::model::trust::TrustPolicy;
use crate::spec::process::{EnvVar, Rlimit};
use crate::spec::security::Inheritable;
use crate::spec::{Node, SpecError};
use oci_spec::runtime::Capabilities;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

/// What the configuration and the node decide about every spec.
#[derive(Debug, Clone)]
pub struct SpecDefaults {
    /// What this node can do.
    pub node: Node,
    /// The node's name, for pods that share its UTS namespace.
    pub node_name: String,
    /// Capabilities of a container that asks for nothing.
    pub capabilities: Capabilities,
    /// Environment weaker than the image's.
    pub env: Vec<EnvVar>,
    /// Limits of every process.
    pub rlimits: Vec<Rlimit>,
    /// Most processes of a container.
    pub pids_limit: Option<u64>,
    /// Replaces the built-in seccomp profile.
    pub seccomp_profile: Option<Vec<u8>>,
    /// Every root file system is read-only.
    pub read_only: bool,
    /// Which of its capabilities a container's programs inherit.
    pub inheritable: Inheritable,
    /// What becomes of the volumes of images.
    pub image_volumes: ImageVolumes,
    /// Where CDI devices are described; the last directory wins.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Where hooks are configured; the last directory wins.
    pub hooks_dirs: Vec<PathBuf>,
    /// Lists of what is copied from the host into every container; the first wins.
    pub default_mounts_files: Vec<PathBuf>,
    /// The program that holds a pod's PID namespace.
    pub pause_path: PathBuf,
    /// The kernel has AppArmor on.
    pub apparmor: bool,
    /// What SELinux gives containers here; `None` where it is off.
    pub selinux: Option<HostLabels>,
    /// Whether pods can have user namespaces, or why not.
    pub user_namespaces: Result<(), String>,
    /// Which runtime handler untrusted pods get.
    pub trust: TrustPolicy,
    /// An image may be the checkpoint of a container.
    pub restore_from_images: bool,
}

/// What becomes of a volume that an image declares and the client does not mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageVolumes {
    /// A directory in the root file system.
    MadeInRootfs,
    /// A directory of the bundle, empty at first and gone with the container.
    Bound,
    /// Nothing.
    Ignored,
}

impl Lifecycle {
    pub(super) fn defaults(&self) -> Arc<SpecDefaults> {
        self.room
            .defaults
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, SpecError> {
    Ok(serde_json::to_vec(value).expect("OCI types have string keys and no failing parts"))
}

impl From<SpecError> for DriverError {
    fn from(refused: SpecError) -> Self {
        Self::new(ErrorKind::Invalid, refused.to_string())
    }
}

impl From<BadLabel> for DriverError {
    fn from(refused: BadLabel) -> Self {
        Self::new(ErrorKind::Invalid, refused.to_string())
    }
}

#[cfg(test)]
impl SpecDefaults {
    /// A node that can do everything.
    pub fn for_tests() -> Self {
        Self {
            node: crate::spec::tests::node(),
            node_name: "node".to_owned(),
            capabilities: Capabilities::default(),
            env: Vec::new(),
            rlimits: Vec::new(),
            pids_limit: None,
            seccomp_profile: None,
            read_only: false,
            inheritable: Inheritable::Ambient,
            image_volumes: ImageVolumes::MadeInRootfs,
            cdi_spec_dirs: Vec::new(),
            hooks_dirs: Vec::new(),
            default_mounts_files: vec!["/secrets".into()],
            pause_path: "/pause".into(),
            apparmor: false,
            selinux: None,
            user_namespaces: Ok(()),
            trust: TrustPolicy {
                untrusted_handler: None,
                unsaid: Trust::Trusted,
            },
            restore_from_images: false,
        }
    }
}
