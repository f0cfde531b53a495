//! Pods on the network, through CNI plugins.
//!
//! `setup` records the intent, runs ADD, records the result; `teardown` runs DEL from the record and forgets it.
//! Whatever fails or dies in between, a teardown of the same id finishes it, also when the namespace is gone.
//! `status` answers from memory: a task of our own watches the configuration and plugin directories.
//!
//! Host ports are the work of the network's port-mapping plugin (capability `portMappings`) where it has one, else of a
//! table of our own (`hostports`).

mod cni;
mod config;
mod gc;
mod hostports;
mod plugin;
mod pod;
mod program;
mod record;
pub mod seam;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::RwLock;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use cni::{ChainError, Command};
pub use config::load as look;
pub use config::{BrokenFile, CniVersion, NetworkList, PluginConfig};
pub use gc::Collected;
pub use hostports::{HostPortError, probe as probe_host_ports};
pub use plugin::PluginError;
pub use pod::{Attachment, Bandwidth, Dns, POD_INTERFACE, PodNetwork, PortMapping, Protocol, Unspeakable};
pub use program::{ProgramError, STDOUT_MAX_BYTES};
pub use record::RecordError;

use cni::{Plugins, Subject};
use hostports::{HostPortClaim, HostPorts, Keeper, pod_addresses};
use record::{Record, Records};
use watch::Watched;

/// How long a chain may take when its caller sets no deadline of its own.
pub const PLUGIN_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("network not ready: {reason}")]
    NetworkNotReady { reason: String },
    #[error("sandbox id {0:?} cannot name a network record")]
    BadSandboxId(String),
    #[error("sandbox {0} is on the network already")]
    AlreadyAttached(String),
    #[error("sandbox {0} is not on the network")]
    NotAttached(String),
    #[error(transparent)]
    Unspeakable(#[from] Unspeakable),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error(transparent)]
    HostPorts(#[from] HostPortError),
    #[error("pods have been set up already, what no pod owns cannot be told any more")]
    TooLateToCollect,
    #[error("watch network configuration")]
    Watch { source: std::io::Error },
}

type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, Clone)]
pub struct NetworkConfig {
    pub conf_dir: PathBuf,
    pub plugin_dirs: Vec<PathBuf>,
    /// The network that pods get; absent: the first valid one by file name.
    pub default_network: Option<String>,
    /// Should survive a reboot, as the address leases of many plugins do.
    pub cache_dir: PathBuf,
    /// Host ports of pods whose network has no plugin for them are our work.
    pub own_host_ports: bool,
    /// How long plugins may refuse before the network is said not to be ready.
    pub status_grace: Duration,
}

impl Default for NetworkConfig {
    fn default() -> NetworkConfig {
        NetworkConfig {
            conf_dir: PathBuf::from("/etc/cni/net.d"),
            plugin_dirs: vec![PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")],
            default_network: None,
            cache_dir: PathBuf::from("/var/lib/crio/cni"),
            own_host_ports: true,
            status_grace: Duration::ZERO,
        }
    }
}

/// Whether a new pod could be put on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkStatus {
    Ready { network: String },
    NotReady { reason: String },
}

impl NetworkStatus {
    pub fn is_ready(&self) -> bool {
        matches!(self, NetworkStatus::Ready { .. })
    }
}

#[derive(Debug)]
pub struct Network {
    plugins: Plugins,
    records: Records,
    watched: Watched,
    host_ports: Arc<HostPorts>,
    own_host_ports: bool,
    keeps_host_ports: JoinHandle<()>,
    /// Held shared by each setup, and alone while the list of what exists must not grow.
    setups: RwLock<()>,
    /// A pod set up by this process may be in nobody's list of valid ids yet.
    any_setup: AtomicBool,
}

impl Network {
    /// Reads the configuration once and keeps watching it. A node without a network yet opens too: it is not ready.
    pub async fn open(config: NetworkConfig) -> Result<Network> {
        let plugins = Plugins {
            dirs: config.plugin_dirs.clone(),
        };
        let records = Records::new(config.cache_dir);
        let host_ports = Arc::new(remembered_host_ports(&records).await?);
        let watched = Watched::start(
            config.conf_dir,
            config.default_network,
            plugins.clone(),
            config.status_grace,
        )
        .await
        .map_err(|source| Error::Watch { source })?;
        Ok(Network {
            plugins,
            records,
            watched,
            keeps_host_ports: HostPorts::keep(&host_ports),
            host_ports,
            own_host_ports: config.own_host_ports,
            setups: RwLock::default(),
            any_setup: AtomicBool::new(false),
        })
    }

    /// From memory.
    pub fn status(&self) -> NetworkStatus {
        self.watched.status()
    }

    /// Wakes at every change of the status, for who must wait for a network until a deadline.
    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<NetworkStatus> {
        self.watched.subscribe()
    }

    /// Files in the configuration directory that cannot be used, from memory.
    pub fn broken_files(&self) -> Vec<BrokenFile> {
        self.watched.broken_files()
    }

    /// Puts a pod on the network. After a failure its caller calls `teardown`.
    pub async fn setup(&self, pod: &PodNetwork, deadline: Instant) -> Result<Attachment> {
        check_sandbox_id(&pod.sandbox_id)?;
        let args = pod.args()?;
        let mut runtime_config = pod.runtime_config();
        let network = self
            .watched
            .reread()
            .await
            .map_err(|reason| Error::NetworkNotReady { reason })?;
        let _shared = self.setups.read().await;
        self.any_setup.store(true, Ordering::Release);
        if self.records.read(&pod.sandbox_id).await?.is_some() {
            return Err(Error::AlreadyAttached(pod.sandbox_id.clone()));
        }
        // Annotations may be large: the record keeps what a plugin gets.
        runtime_config.retain(|name, _| network.plugins.iter().any(|plugin| plugin.has_capability(name)));
        let claim = self.claim(&network, &pod.port_mappings);
        if claim.is_none() && !pod.port_mappings.is_empty() {
            tracing::warn!(sandbox_id = %pod.sandbox_id, network = %network.name, "nobody makes host ports here, ignoring them");
        }
        if let Some(claim) = &claim {
            self.host_ports.claim(&pod.sandbox_id, claim.clone())?;
        }
        let mut record = Record {
            sandbox_id: pod.sandbox_id.clone(),
            interface: POD_INTERFACE.to_owned(),
            network: NetworkList::clone(&network),
            args,
            runtime_config,
            netns: pod.netns.clone(),
            result: None,
            host_ports: claim,
        };
        self.records.write(&record).await?;
        let result = self
            .plugins
            .add(&network, subject(&record, Some(&pod.netns)), deadline)
            .await?;
        record.result = Some(result.clone());
        self.records.write(&record).await?;
        let attachment = Attachment::from_result(&network.name, POD_INTERFACE, result);
        let addresses = pod_addresses(&attachment.ips, &attachment.result);
        self.host_ports.publish(&pod.sandbox_id, addresses).await?;
        Ok(attachment)
    }

    /// Whether a new pod could have these host ports.
    pub async fn admit(&self, ports: &[PortMapping]) -> Result<()> {
        let claim = self.watched.chosen().and_then(|network| self.claim(&network, ports));
        match claim {
            Some(claim) => Ok(self.host_ports.admit(&claim).await?),
            None => Ok(()),
        }
    }

    /// These ports, and who keeps them on this network; `None` if nobody does, or there are none.
    fn claim(&self, network: &NetworkList, ports: &[PortMapping]) -> Option<HostPortClaim> {
        let mappings: Vec<PortMapping> = ports.iter().filter(|port| port.host_port != 0).cloned().collect();
        let by_plugin = network
            .plugins
            .iter()
            .any(|plugin| plugin.has_capability("portMappings"));
        let keeper = match (by_plugin, self.own_host_ports) {
            (true, _) => Keeper::Plugin,
            (false, true) => Keeper::Table,
            (false, false) => return None,
        };
        (!mappings.is_empty()).then_some(HostPortClaim { keeper, mappings })
    }

    /// Takes a pod off the network: `Ok` if it is not on it, or never fully was.
    ///
    /// `netns` as far as the caller knows it; if it is absent, or no namespace any more, plugins release what they hold
    /// elsewhere (addresses, rules). After a failure the record stays and the next call tries again.
    pub async fn teardown(&self, sandbox_id: &str, netns: Option<&Path>, deadline: Instant) -> Result<()> {
        check_sandbox_id(sandbox_id)?;
        self.host_ports.withdraw(sandbox_id).await?;
        let record = match self.records.read(sandbox_id).await {
            Ok(Some(record)) => record,
            Ok(None) => {
                self.host_ports.forget(sandbox_id);
                return Ok(());
            }
            Err(error @ RecordError::Broken { .. }) => {
                return self.teardown_without_record(sandbox_id, netns, error, deadline).await;
            }
            Err(error) => return Err(error.into()),
        };
        let record = self.without_own_ports(record).await?;
        let netns = living_netns(netns.unwrap_or(&record.netns)).await;
        let subject = subject(&record, netns.as_deref());
        self.plugins
            .del(&record.network, subject, record.result.as_ref(), deadline)
            .await?;
        self.records.forget(sandbox_id).await?;
        self.host_ports.forget(sandbox_id);
        Ok(())
    }

    /// Nobody finds ports in it any more that our table has given up, also when a plugin fails now.
    async fn without_own_ports(&self, mut record: Record) -> Result<Record> {
        if record
            .host_ports
            .take_if(|claim| claim.keeper == Keeper::Table)
            .is_some()
        {
            self.records.write(&record).await?;
        }
        Ok(record)
    }

    /// The record is unreadable: the present configuration is the best guess of what the pod was attached to.
    async fn teardown_without_record(
        &self,
        sandbox_id: &str,
        netns: Option<&Path>,
        error: RecordError,
        deadline: Instant,
    ) -> Result<()> {
        tracing::warn!(sandbox_id, %error, "network record unreadable, releasing by the present configuration");
        let network = self
            .watched
            .reread()
            .await
            .map_err(|reason| Error::NetworkNotReady { reason })?;
        let netns = match netns {
            Some(path) => living_netns(path).await,
            None => None,
        };
        let pod = PodNetwork {
            sandbox_id: sandbox_id.to_owned(),
            ..PodNetwork::default()
        };
        let record = Record {
            sandbox_id: sandbox_id.to_owned(),
            interface: POD_INTERFACE.to_owned(),
            network: NetworkList::clone(&network),
            args: pod.args()?,
            runtime_config: pod.runtime_config(),
            netns: PathBuf::new(),
            result: None,
            host_ports: None,
        };
        self.plugins
            .del(&network, subject(&record, netns.as_deref()), None, deadline)
            .await?;
        Ok(self.records.quarantine(sandbox_id).await?)
    }

    /// Asks the plugins whether the pod is still as they left it.
    pub async fn check(&self, sandbox_id: &str, deadline: Instant) -> Result<()> {
        check_sandbox_id(sandbox_id)?;
        let record = self.records.read(sandbox_id).await?;
        let Some((record, result)) = record.and_then(|record| record.result.clone().map(|result| (record, result)))
        else {
            return Err(Error::NotAttached(sandbox_id.to_owned()));
        };
        self.plugins
            .check(
                &record.network,
                subject(&record, Some(&record.netns)),
                &result,
                deadline,
            )
            .await?;
        Ok(())
    }

    /// What a pod got, from its record: for a restart. Absent if its setup never came to its end.
    pub async fn cached(&self, sandbox_id: &str) -> Result<Option<Attachment>> {
        check_sandbox_id(sandbox_id)?;
        let record = self.records.read(sandbox_id).await?;
        Ok(record.and_then(|record| {
            let result = record.result?;
            Some(Attachment::from_result(&record.network.name, &record.interface, result))
        }))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.keeps_host_ports.abort();
    }
}

/// Those of the pods whose namespaces are there: after a reboot neither they nor a table is.
async fn remembered_host_ports(records: &Records) -> Result<HostPorts> {
    let host_ports = HostPorts::default();
    for id in records.list().await? {
        // One that cannot be read is told where it matters.
        let Ok(Some(record)) = records.read(&id).await else {
            continue;
        };
        let (Some(claim), Some(result)) = (record.host_ports, record.result) else {
            continue;
        };
        if living_netns(&record.netns).await.is_some() {
            let attachment = Attachment::from_result(&record.network.name, &record.interface, result);
            let addresses = pod_addresses(&attachment.ips, &attachment.result);
            host_ports.remember(id, claim, addresses);
        }
    }
    Ok(host_ports)
}

fn subject<'a>(record: &'a Record, netns: Option<&'a Path>) -> Subject<'a> {
    Subject {
        sandbox_id: &record.sandbox_id,
        interface: &record.interface,
        netns,
        args: &record.args,
        runtime_config: &record.runtime_config,
    }
}

/// The path, if it still is a namespace and not the empty file that a reboot or half a pin leaves.
async fn living_netns(path: &Path) -> Option<PathBuf> {
    const NSFS_MAGIC: u32 = 0x6e73_6673;
    const PROC_SUPER_MAGIC: u32 = 0x9fa0; // `/proc/<pid>/ns/net` before it is resolved
    let path = path.to_owned();
    let looked = tokio::task::spawn_blocking(move || {
        let kind = rustix::fs::statfs(&path).ok()?.f_type;
        let kind = u32::try_from(kind).ok()?;
        matches!(kind, NSFS_MAGIC | PROC_SUPER_MAGIC).then_some(path)
    });
    looked.await.ok().flatten()
}

/// An id becomes a file name and an argument, so it may hold nothing that leads elsewhere.
fn check_sandbox_id(id: &str) -> Result<()> {
    let fits = (1..=128).contains(&id.len()) && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if fits {
        Ok(())
    } else {
        Err(Error::BadSandboxId(id.to_owned()))
    }
}

/// `outer: cause: cause`.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
