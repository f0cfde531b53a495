//! What the kubelet calls a pod and a container, and what of it is a name on this node.

use super::SandboxId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest pod, namespace, uid or container name accepted, in bytes: Kubernetes' own limit.
pub const NAME_BYTES: usize = 253;

/// What the client calls a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodMetadata {
    /// Pod name.
    pub name: String,
    /// Pod uid, as the API server gave it.
    pub uid: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// How many sandboxes of this pod there were before.
    pub attempt: u32,
}

/// What the client calls a container within its pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContainerMetadata {
    /// Container name.
    pub name: String,
    /// How many containers of this name the pod had before.
    pub attempt: u32,
}

/// The name under which a container exists at most once. A pod sandbox's is its `PodMetadata`.
pub type ContainerName = (SandboxId, ContainerMetadata);

/// Labels or annotations: returned exactly as sent.
pub type Pairs = BTreeMap<String, String>;
