//! A pod sandbox: what was asked, and its state.

use super::name::{Pairs, PodMetadata};
use super::security::{Namespaces, Profile, SelinuxOptions};
use super::trust::Trust;
use super::{Refused, SandboxId, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;
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
    /// SELinux label of the pod; once it is made, with the level that it was given.
    pub selinux: SelinuxOptions,
    /// System call filter of the pod's own process, where it has one; `None` takes the daemon's own.
    #[serde(default)]
    pub seccomp: Option<Profile>,
    /// Limits of its traffic.
    #[serde(default)]
    pub bandwidth: Option<Bandwidth>,
    /// Runtime handler; empty takes the default.
    pub runtime_handler: String,
    /// What it says of what runs in it; once it is made, what was decided. A record written before there was the field
    /// has neither.
    #[serde(default)]
    pub trust: Option<Trust>,
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

impl PortMapping {
    /// Some packet to the node would be for both of them.
    pub fn overlaps(&self, other: &Self) -> bool {
        let same_port = (self.protocol, self.host_port) == (other.protocol, other.host_port);
        same_port
            && match (self.host_ip, other.host_ip) {
                (None, _) | (_, None) => true,
                (Some(one), Some(two)) => {
                    let every = one.is_unspecified() || two.is_unspecified();
                    one == two || (every && one.is_ipv4() == two.is_ipv4())
                }
            }
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (port, protocol) = (self.host_port, self.protocol.as_str());
        match self.host_ip {
            None => write!(f, "{port}/{protocol}"),
            Some(ip) => write!(f, "{}/{protocol}", std::net::SocketAddr::new(ip, port)),
        }
    }
}

/// Protocol of a host port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_overlap_where_a_packet_would_be_for_both() {
        let port = |host_ip: &str, protocol, host_port| PortMapping {
            protocol,
            container_port: 80,
            host_port,
            host_ip: host_ip.parse().ok(),
        };
        let tcp = |host_ip| port(host_ip, PortProtocol::Tcp, 8080);
        for (one, two, overlap) in [
            ("", "", true),
            ("", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("0.0.0.0", "10.0.0.1", true),
            ("0.0.0.0", "fd00::1", false),
            ("::", "fd00::1", true),
            ("::", "0.0.0.0", false),
            ("", "::", true),
        ] {
            assert_eq!(tcp(one).overlaps(&tcp(two)), overlap, "{one:?} {two:?}");
            assert_eq!(tcp(two).overlaps(&tcp(one)), overlap, "{two:?} {one:?}");
        }
        assert!(!tcp("").overlaps(&port("", PortProtocol::Udp, 8080)));
        assert!(!tcp("").overlaps(&port("", PortProtocol::Tcp, 8081)));
        assert_eq!(tcp("").to_string(), "8080/tcp");
        assert_eq!(tcp("fd00::1").to_string(), "[fd00::1]:8080/tcp");
    }
}
