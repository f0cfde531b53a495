//! The daemon as a service of a systemd host: the delivered unit, a configuration, an image, and a client.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use cri::v1::{LinuxPodSandboxConfig, NamespaceMode, PodSandboxConfig, PodSandboxMetadata};

use crate::client::{Client, RunningPod, pod_security};
use crate::image::TestImage;
use crate::systemd_host::SystemdHost;
use crate::{eventually, node};

pub const UNIT: &str = "crio-manager.service";
/// What the daemon is configured with to have cgroups by systemd.
pub const SYSTEMD: &str = "cgroup_manager = \"systemd\"\n";
/// The slice of a pod, as the kubelet names it, and the cgroup that it is.
pub const SLICE: &str = "kubepods-burstable-pod1.slice";
pub const SLICE_CGROUP: &str = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice";
/// Its socket, which the service wants.
const SOCKET_UNIT: &str = "crio-manager.socket";
const SOCKET: &str = "/run/crio/crio.sock";
const DROP_INS: &str = "/etc/crio/crio.conf.d";
const IMAGE: &str = "e2e.test/busybox:1";

/// crun 1.8 refuses version 1 with a version 2 mount beside it.
const RUNC: &str = "default_runtime = \"runc\"\nlog_level = \"debug\"\n";

/// A host with this configuration of `[crio.runtime]`. No systemd, no test: the reason has been said.
#[macro_export]
macro_rules! service_host {
    ($configuration:expr) => {
        match $crate::ServiceHost::start($configuration).await.unwrap() {
            Some(host) => host,
            None => return,
        }
    };
}

pub fn container_scope(id: &str) -> String {
    format!("crio-{id}.scope")
}

pub fn monitor_scope(id: &str) -> String {
    format!("crio-conmon-{id}.scope")
}

pub struct ServiceHost {
    pub host: SystemdHost,
    pub client: Client,
    pods_made: AtomicU32,
}

impl ServiceHost {
    /// Boots a host and starts the daemon there; `runtime` is what the configuration says in `[crio.runtime]` besides.
    /// `None` where no such host can be had.
    pub async fn start(runtime: &str) -> anyhow::Result<Option<Self>> {
        let Some(host) = SystemdHost::start(&[(&node::programs(), "/usr/local/bin")])? else {
            return Ok(None);
        };
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/systemd");
        for unit in [UNIT, SOCKET_UNIT] {
            fs::copy(units.join(unit), host.inside("/etc/systemd/system").join(unit))?;
        }
        let drop_ins = host.inside(DROP_INS);
        fs::create_dir_all(&drop_ins)?;
        fs::write(
            drop_ins.join("10-test.conf"),
            format!("[crio.runtime]\n{RUNC}{runtime}"),
        )?;
        host.run("systemctl", &["daemon-reload"])?;
        host.run("systemctl", &["start", UNIT])?;
        let client = connected(&host).await?;
        TestImage::busybox()?.write_docker_archive(&host.inside("/var/lib/busybox.tar"), IMAGE)?;
        host.run("crio-manager", &["image", "load", "/var/lib/busybox.tar"])?;
        Ok(Some(ServiceHost {
            host,
            client,
            pods_made: AtomicU32::new(0),
        }))
    }

    /// A pod in the host's network, with a cgroup parent.
    pub fn pod(&self, cgroup_parent: &str, processes: NamespaceMode) -> PodSandboxConfig {
        let name = format!("pod-{}", self.pods_made.fetch_add(1, Ordering::Relaxed));
        let mut security = pod_security(NamespaceMode::Node);
        if let Some(namespaces) = &mut security.namespace_options {
            namespaces.pid = processes.into();
        }
        PodSandboxConfig {
            log_directory: format!("/var/log/pods/{name}"),
            metadata: Some(PodSandboxMetadata {
                uid: format!("uid-{name}"),
                name,
                namespace: "e2e".to_owned(),
                attempt: 0,
            }),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: cgroup_parent.to_owned(),
                security_context: Some(security),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub async fn running_pod(&self, cgroup_parent: &str) -> anyhow::Result<RunningPod> {
        let config = self.pod(cgroup_parent, NamespaceMode::Container);
        Ok(RunningPod {
            id: self.client.run_pod(&config).await?,
            config,
            image: IMAGE.to_owned(),
            client: self.client.clone(),
        })
    }

    /// SIGKILL; systemd brings the daemon back.
    pub async fn kill9(&mut self) -> anyhow::Result<()> {
        let first = self.main_pid()?;
        self.host.run("kill", &["-KILL", &first])?;
        eventually("another daemon runs", || {
            Ok(!["0", first.as_str()].contains(&self.main_pid()?.as_str()))
        })
        .await?;
        self.client = connected(&self.host).await?;
        Ok(())
    }

    /// Adds a drop-in file to the daemon's unit.
    pub fn override_unit(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let directory = self.host.inside(format!("/etc/systemd/system/{UNIT}.d"));
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(name), text)?;
        self.host.run("systemctl", &["daemon-reload"])?;
        Ok(())
    }

    /// Takes a new connection to the daemon.
    pub async fn reconnect(&mut self) -> anyhow::Result<()> {
        self.client = connected(&self.host).await?;
        Ok(())
    }

    /// Adds a drop-in file to the daemon's configuration, which it reads when it is told to or restarted.
    pub fn configure(&self, name: &str, toml: &str) -> anyhow::Result<()> {
        Ok(fs::write(self.host.inside(DROP_INS).join(name), toml)?)
    }

    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.host.run("systemctl", &["restart", UNIT])?;
        self.client = connected(&self.host).await?;
        Ok(())
    }

    /// The CRI socket, seen from outside.
    pub fn socket(&self) -> PathBuf {
        self.host.inside(SOCKET)
    }

    pub fn journal(&self) -> anyhow::Result<String> {
        self.host.run("journalctl", &["--no-pager", "-u", UNIT])
    }

    pub fn main_pid(&self) -> anyhow::Result<String> {
        self.property(UNIT, "MainPID")
    }

    /// A property of a unit, as systemctl shows it.
    pub fn property(&self, unit: &str, name: &str) -> anyhow::Result<String> {
        let property = format!("--property={name}");
        let answer = self.host.run("systemctl", &["show", &property, "--value", unit])?;
        Ok(answer.trim().to_owned())
    }

    /// The scopes that systemd knows, in whichever state, of containers and monitors.
    pub fn scopes(&self) -> anyhow::Result<Vec<String>> {
        let list = [
            "list-units",
            "--all",
            "--plain",
            "--no-legend",
            "--type=scope",
            "crio-*",
        ];
        let answer = self.host.run("systemctl", &list)?;
        let names = answer.lines().filter_map(|line| line.split_whitespace().next());
        Ok(names.map(str::to_owned).collect())
    }

    /// The same without the scope that a daemon with `monitor_cgroup = "delegated"` has while it runs.
    fn scopes_of_pods(&self) -> anyhow::Result<Vec<String>> {
        let mut scopes = self.scopes()?;
        scopes.retain(|scope| scope != "crio-monitors.scope");
        Ok(scopes)
    }

    /// The processes of a cgroup, by its path below the root, wherever it exists.
    pub fn processes_in(&self, cgroup: &str) -> anyhow::Result<Vec<String>> {
        let script = "cat /sys/fs/cgroup/systemd\"$1\"/cgroup.procs /sys/fs/cgroup\"$1\"/cgroup.procs 2>/dev/null || :";
        let answer = self.host.run("sh", &["-c", script, "sh", cgroup])?;
        Ok(answer.lines().map(str::to_owned).collect())
    }

    /// All pods are removed, and systemd has nothing of theirs any more; then the host goes in order.
    pub async fn finish(self) -> anyhow::Result<()> {
        self.client
            .remove_everything()
            .await
            .with_context(|| self.journal().unwrap_or_default())?;
        let gone = eventually("no scope of a pod's is left", || Ok(self.scopes_of_pods()?.is_empty())).await;
        gone.with_context(|| format!("{:?}", self.scopes()))?;
        self.host.run("systemctl", &["stop", UNIT, SOCKET_UNIT])?;
        let socket = self.socket();
        anyhow::ensure!(!socket.exists(), "{} is left", socket.display());
        let state = self.host.run("systemctl", &["is-system-running"])?;
        anyhow::ensure!(state.trim() == "running", "{state}");
        self.host.stop()
    }
}

async fn connected(host: &SystemdHost) -> anyhow::Result<Client> {
    let socket = host.inside(SOCKET);
    eventually("the daemon takes calls", || Ok(UnixStream::connect(&socket).is_ok()))
        .await
        .with_context(|| host.run("journalctl", &["--no-pager", "-u", UNIT]).unwrap_or_default())?;
    Client::connect(&socket).await
}
