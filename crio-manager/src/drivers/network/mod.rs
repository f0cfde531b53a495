//! Pods on the network, through CNI plugins.
//!
//! `setup` records the intent, runs ADD, records the result; `teardown` runs DEL from the record and forgets it.
//! Whatever fails or dies in between, a teardown of the same id finishes it, also when the namespace is gone.
//! `status` answers from memory: a task of our own watches the configuration and plugin directories.
//!
//! Host ports are the work of the network's port-mapping plugin (capability `portMappings`); a network that has none
//! gives pods no host ports, and `setup` says so in the log.

mod cni;
mod config;
mod plugin;
mod pod;
mod record;
pub mod seam;
mod watch;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::RwLock;
use tokio::time::Instant;

pub use cni::{ChainError, Command};
pub use config::{BrokenFile, CniVersion, NetworkList, PluginConfig};
pub use plugin::{PluginError, STDOUT_MAX_BYTES};
pub use pod::{Attachment, Bandwidth, Dns, POD_INTERFACE, PodNetwork, PortMapping, Protocol, Unspeakable};
pub use record::RecordError;

use cni::{Plugins, Subject};
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
}

impl Default for NetworkConfig {
    fn default() -> NetworkConfig {
        NetworkConfig {
            conf_dir: PathBuf::from("/etc/cni/net.d"),
            plugin_dirs: vec![PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")],
            default_network: None,
            cache_dir: PathBuf::from("/var/lib/crio/cni"),
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

/// What `gc` did.
#[derive(Debug, Default)]
pub struct Collected {
    pub released: Vec<String>,
    /// Still held; the next start tries again.
    pub failed: Vec<(String, Error)>,
}

#[derive(Debug)]
pub struct Network {
    plugins: Plugins,
    records: Records,
    watched: Watched,
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
        let watched = Watched::start(config.conf_dir, config.default_network, plugins.clone())
            .await
            .map_err(|source| Error::Watch { source })?;
        Ok(Network {
            plugins,
            records,
            watched,
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
        let runtime_config = pod.runtime_config();
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
        if runtime_config.contains_key("portMappings")
            && !network.plugins.iter().any(|p| p.has_capability("portMappings"))
        {
            tracing::warn!(sandbox_id = %pod.sandbox_id, network = %network.name, "no plugin for host ports, ignoring them");
        }
        let mut record = Record {
            sandbox_id: pod.sandbox_id.clone(),
            interface: POD_INTERFACE.to_owned(),
            network: NetworkList::clone(&network),
            args,
            runtime_config,
            netns: pod.netns.clone(),
            result: None,
        };
        self.records.write(&record).await?;
        let result = self
            .plugins
            .add(&network, subject(&record, Some(&pod.netns)), deadline)
            .await?;
        record.result = Some(result.clone());
        self.records.write(&record).await?;
        Ok(Attachment::from_result(&network.name, POD_INTERFACE, result))
    }

    /// Takes a pod off the network: `Ok` if it is not on it, or never fully was.
    ///
    /// `netns` as far as the caller knows it; if it is absent, or no namespace any more, plugins release what they hold
    /// elsewhere (addresses, rules). After a failure the record stays and the next call tries again.
    pub async fn teardown(&self, sandbox_id: &str, netns: Option<&Path>, deadline: Instant) -> Result<()> {
        check_sandbox_id(sandbox_id)?;
        let record = match self.records.read(sandbox_id).await {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(()),
            Err(error @ RecordError::Broken { .. }) => {
                return self.teardown_without_record(sandbox_id, netns, error, deadline).await;
            }
            Err(error) => return Err(error.into()),
        };
        let netns = living_netns(netns.unwrap_or(&record.netns)).await;
        let subject = subject(&record, netns.as_deref());
        self.plugins
            .del(&record.network, subject, record.result.as_ref(), deadline)
            .await?;
        self.records.forget(sandbox_id).await?;
        Ok(())
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

    /// What is on the network and belongs to no pod of `valid`.
    ///
    /// For the start of the node, before the first setup: later it is an error, because a pod being set up is in
    /// nobody's list yet.
    pub async fn orphans(&self, valid: &BTreeSet<String>) -> Result<Vec<String>> {
        let _alone = self.setups.write().await;
        if self.any_setup.load(Ordering::Acquire) {
            return Err(Error::TooLateToCollect);
        }
        let known = self.records.list().await?;
        Ok(known.into_iter().filter(|id| !valid.contains(id)).collect())
    }

    /// Releases them, then tells networks with GC (1.1) what remains. Pods may be set up meanwhile.
    ///
    /// `deadline_each` bounds one pod's release, not the whole.
    pub async fn gc(&self, orphans: Vec<String>, deadline_each: Duration) -> Result<Collected> {
        let mut collected = Collected::default();
        for id in orphans {
            match self.teardown(&id, None, Instant::now() + deadline_each).await {
                Ok(()) => collected.released.push(id),
                Err(error) => collected.failed.push((id, error)),
            }
        }
        self.tell_plugins_what_remains(deadline_each).await?;
        Ok(collected)
    }

    /// Every record is an attachment that a plugin must keep; what could not be released included.
    async fn tell_plugins_what_remains(&self, deadline_each: Duration) -> Result<()> {
        let _alone = self.setups.write().await; // an address given out during GC would be taken away again
        let mut networks: Vec<Arc<NetworkList>> = self.watched.chosen().into_iter().collect();
        let mut attached: Vec<(String, (String, String))> = Vec::new();
        for id in self.records.list().await? {
            match self.records.read(&id).await {
                Ok(Some(record)) => {
                    attached.push((record.network.name.clone(), (id, record.interface)));
                    if !networks.iter().any(|known| known.name == record.network.name) {
                        networks.push(Arc::new(record.network));
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(sandbox_id = %id, %error, "network record unreadable, no plugin is asked to clean up");
                    return Ok(());
                }
            }
        }
        for network in networks {
            let valid = attached.iter().filter(|(name, _)| *name == network.name);
            let valid: Vec<(String, String)> = valid.map(|(_, attachment)| attachment.clone()).collect();
            if let Err(error) = self.plugins.gc(&network, &valid, Instant::now() + deadline_each).await {
                tracing::warn!(network = %network.name, error = %with_causes(&error), "cni GC, ignoring");
            }
        }
        Ok(())
    }
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
