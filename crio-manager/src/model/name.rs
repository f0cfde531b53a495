//! What the kubelet calls a pod and a container, and the one name on this node that follows from it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

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

/// The name under which an object exists at most once: `k8s_[container_]pod_namespace_uid_attempt`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UniqueName(String);

impl UniqueName {
    /// Of a pod sandbox.
    pub fn sandbox(pod: &PodMetadata) -> Self {
        Self(format!(
            "k8s_{}_{}_{}_{}",
            pod.name, pod.namespace, pod.uid, pod.attempt
        ))
    }

    /// Of a container in that pod.
    pub fn container(container: &ContainerMetadata, pod: &PodMetadata) -> Self {
        Self(format!(
            "k8s_{}_{}_{}_{}_{}",
            container.name, pod.name, pod.namespace, pod.uid, container.attempt
        ))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UniqueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Labels or annotations: returned exactly as sent.
pub type Pairs = BTreeMap<String, String>;
