//! A node under measurement: ours or containerd's, each in namespaces of its own, driven by the same calls.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use cri::v1::security_profile::ProfileType;
use cri::v1::{
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, PodSandboxConfig, PodSandboxMetadata,
    SecurityProfile,
};
use e2e::client::pod_security;
use e2e::namespaces::Namespaces;
use e2e::{Client, Node, Runtime, Setup, TestImage};

use crate::containerd::Containerd;

/// A filter of system calls: the default one is each node's own.
pub fn filter(kind: ProfileType) -> SecurityProfile {
    SecurityProfile {
        profile_type: kind.into(),
        ..Default::default()
    }
}

pub enum Host {
    Ours(Node),
    Theirs(Containerd),
}

impl Host {
    pub async fn ours() -> anyhow::Result<Self> {
        let mut node = Node::start(Setup::new(Runtime::Runc)).await?;
        // The tests want to know more than a node in use says.
        node.configure("90-bench.conf", "[crio.runtime]\nlog_level = \"info\"\n")
            .await?;
        Ok(Host::Ours(node))
    }

    pub async fn theirs() -> anyhow::Result<Self> {
        Ok(Host::Theirs(Containerd::start().await?))
    }

    pub fn client(&self) -> &Client {
        match self {
            Host::Ours(node) => &node.client,
            Host::Theirs(containerd) => &containerd.client,
        }
    }

    pub fn namespaces(&self) -> &Namespaces {
        match self {
            Host::Ours(node) => &node.namespaces,
            Host::Theirs(containerd) => &containerd.namespaces,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        match self {
            Host::Ours(node) => node.path(name),
            Host::Theirs(containerd) => containerd.path(name),
        }
    }

    fn cgroup_parent(&self) -> &str {
        match self {
            Host::Ours(node) => &node.cgroup_parent,
            Host::Theirs(containerd) => &containerd.cgroup_parent,
        }
    }

    pub fn push(&mut self, name: &str, image: &TestImage) -> anyhow::Result<String> {
        match self {
            Host::Ours(node) => node.pushed(name, image),
            Host::Theirs(containerd) => containerd.push(name, image),
        }
    }

    /// A pod of its own name; in a network of its own, or in the node's.
    pub fn pod(&self, network: NamespaceMode) -> PodSandboxConfig {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("pod{}", MADE.fetch_add(1, Ordering::Relaxed));
        PodSandboxConfig {
            hostname: if network == NamespaceMode::Pod {
                name.clone()
            } else {
                String::new()
            },
            log_directory: self.path("logs").join(&name).display().to_string(),
            metadata: Some(PodSandboxMetadata {
                uid: name.clone(),
                name,
                namespace: "bench".to_owned(),
                attempt: 0,
            }),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup_parent().to_owned(),
                security_context: Some(LinuxSandboxSecurityContext {
                    seccomp: Some(filter(ProfileType::RuntimeDefault)),
                    ..pod_security(network)
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// The daemon as /proc has it.
    pub fn daemon(&self) -> PathBuf {
        match self {
            Host::Ours(node) => format!("/proc/{}", node.daemon_pid()).into(),
            Host::Theirs(containerd) => format!("/proc/{}", containerd.pid()).into(),
        }
    }

    /// What runs for containers and pods beside them: monitors, shims, pause processes.
    pub fn companions(&self) -> Vec<PathBuf> {
        let wanted: &[&str] = match self {
            Host::Ours(_) => &["conmon-rs", "crio-pause"],
            Host::Theirs(_) => &["containerd-shim-runc-v2", "pause"],
        };
        let processes = self.namespaces().processes().into_iter();
        let companions = processes.filter(|process| {
            let program = process.command_line.split(' ').next().unwrap_or_default();
            let name = Path::new(program).file_name().unwrap_or_default();
            wanted.iter().any(|wanted| name == *wanted)
        });
        companions
            .map(|process| self.namespaces().inside(format!("/proc/{}", process.pid)))
            .collect()
    }

    /// Ends the daemon and starts it again; how long from then on until it has listed what runs.
    pub async fn restart(&mut self) -> anyhow::Result<Duration> {
        let before = self.client().containers(None).await?.len();
        let began = match self {
            Host::Ours(node) => {
                node.stop().await?;
                let began = Instant::now();
                node.restart().await?;
                began
            }
            Host::Theirs(containerd) => {
                containerd.stop().await?;
                let began = Instant::now();
                containerd.start_again().await?;
                began
            }
        };
        let after = self.client().containers(None).await?.len();
        let took = began.elapsed();
        ensure!(before == after, "{after} containers after a restart, {before} before");
        Ok(took)
    }

    pub async fn stop(self) -> anyhow::Result<()> {
        self.client().remove_everything().await?;
        match self {
            Host::Ours(mut node) => node.stop().await,
            Host::Theirs(mut containerd) => containerd.stop().await,
        }
    }
}
