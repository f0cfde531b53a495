//! A pod sandbox: what was asked, and its state.

use super::name::{Pairs, PodMetadata};
use super::security::{Namespaces, Profile, SelinuxOptions};
use super::{Refused, SandboxId, Timestamp};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// What RunPodSandbox asked for, parsed and checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxPlan {
    /// The id it gets.
    pub id: SandboxId,
    /// What the client calls it.
    pub metadata: PodMetadata,
    /// Hostname; empty on the host's network.
    pub hostname: String,
    /// Where its containers' logs go; `None` when the client keeps none.
    pub log_directory: Option<PathBuf>,
    /// Name servers; `None` takes the host's resolv.conf.
    pub dns: Option<Dns>,
    /// Host ports.
    pub port_mappings: Vec<PortMapping>,
    /// Labels, as sent.
    pub labels: Pairs,
    /// Annotations, as sent.
    pub annotations: Pairs,
    /// The kubelet's cgroup for this pod, in the driver's syntax; empty takes the default.
    pub cgroup_parent: String,
    /// Namespaced kernel settings.
    pub sysctls: Pairs,
    /// Namespaces.
    pub namespaces: Namespaces,
    /// Whether privileged containers are allowed in it.
    pub privileged: bool,
    /// SELinux label of the pod.
    pub selinux: SelinuxOptions,
    /// System call filter of the pod's own process, where it has one; `None` takes the daemon's own.
    #[serde(default)]
    pub seccomp: Option<Profile>,
    /// Limits of its traffic.
    #[serde(default)]
    pub bandwidth: Option<Bandwidth>,
    /// Runtime handler; empty takes the default.
    pub runtime_handler: String,
    /// When it was asked for.
    pub created_at: Timestamp,
}

impl SandboxPlan {
    /// The pod has a network namespace of its own.
    pub fn has_own_network(&self) -> bool {
        self.namespaces.network != super::security::NamespaceMode::Node
    }
}

/// resolv.conf in parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// `search` words.
    pub searches: Vec<String>,
    /// `options` words.
    pub options: Vec<String>,
}

/// Limits of a pod's traffic, in bits per second; `None` is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Into the pod.
    pub ingress: Option<u64>,
    /// Out of it.
    pub egress: Option<u64>,
}

/// A port of the node that leads into the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Protocol.
    pub protocol: PortProtocol,
    /// Port in the pod.
    pub container_port: u16,
    /// Port on the node; never 0.
    pub host_port: u16,
    /// Only on this address of the node.
    pub host_ip: Option<IpAddr>,
}

/// Protocol of a host port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl PortProtocol {
    /// As CNI spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// ```text
///   Ready ──Stopped──▶ NotReady
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxState {
    /// Its namespaces and network are there.
    Ready,
    /// It was stopped, its own process ended, or the node was rebooted.
    NotReady,
}

/// What changes a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxEvent {
    /// Asked to stop, or found ended.
    Stopped,
}

/// The only way a sandbox changes. Pure.
pub fn apply(state: SandboxState, event: SandboxEvent) -> Result<SandboxState, Refused> {
    match (state, event) {
        (SandboxState::Ready | SandboxState::NotReady, SandboxEvent::Stopped) => Ok(SandboxState::NotReady),
    }
}
