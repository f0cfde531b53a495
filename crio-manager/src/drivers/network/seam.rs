//! CNI as the lifecycle sees it.

use super::hostports::HostPortError;
use super::pod::{Bandwidth, Dns, PodNetwork};
use super::{Error, Network, NetworkStatus, with_causes};
use crate::drivers::seams::{DriverError, DriverResult, ErrorKind, PodNetworks};
use crate::model::{SandboxId, SandboxPlan};
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

impl From<Error> for DriverError {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::NetworkNotReady { .. } => ErrorKind::Unavailable,
            Error::BadSandboxId(_) | Error::Unspeakable(_) => ErrorKind::Invalid,
            Error::NotAttached(_) => ErrorKind::NotFound,
            Error::HostPorts(HostPortError::Taken { .. }) => ErrorKind::InUse,
            Error::HostPorts(HostPortError::NoAddress { .. }) => ErrorKind::Invalid,
            Error::HostPorts(HostPortError::Unusable { .. }) => ErrorKind::Unavailable,
            Error::HostPorts(HostPortError::Table { .. }) => ErrorKind::Failed,
            Error::TooLateToCollect
            | Error::AlreadyAttached(_)
            | Error::Record(_)
            | Error::Chain(_)
            | Error::Watch { .. } => ErrorKind::Failed,
        };
        DriverError::chain(kind, &error)
    }
}

/// CNI with the time that one connect or disconnect may take.
pub struct Cni {
    network: Arc<Network>,
    limit: Duration,
}

impl Cni {
    /// Bounds every chain of plugins by `limit`.
    pub fn new(network: Network, limit: Duration) -> Self {
        Self {
            network: Arc::new(network),
            limit,
        }
    }
}

#[async_trait]
impl PodNetworks for Cni {
    fn ready(&self) -> Result<(), String> {
        match self.network.status() {
            NetworkStatus::Ready { .. } => Ok(()),
            NetworkStatus::NotReady { reason } => Err(reason),
        }
    }

    async fn admit(&self, plan: &SandboxPlan) -> DriverResult<()> {
        Ok(self.network.admit(&plan.port_mappings).await?)
    }

    async fn connect(&self, plan: &SandboxPlan, netns: &Path) -> DriverResult<Vec<IpAddr>> {
        let pod = PodNetwork {
            sandbox_id: plan.id.to_string(),
            name: plan.metadata.name.clone(),
            namespace: plan.metadata.namespace.clone(),
            uid: plan.metadata.uid.clone(),
            netns: netns.to_owned(),
            port_mappings: plan.port_mappings.clone(),
            bandwidth: plan.bandwidth.map(|limits| Bandwidth {
                ingress_bits_per_second: limits.ingress,
                egress_bits_per_second: limits.egress,
            }),
            dns: plan.dns.as_ref().map(|dns| Dns {
                servers: dns.servers.clone(),
                searches: dns.searches.clone(),
                options: dns.options.clone(),
            }),
            cgroup_parent: plan.cgroup_parent.clone(),
            annotations: plan.annotations.clone(),
            mac: None,
            ip_ranges: None,
        };
        Ok(self.network.setup(&pod, Instant::now() + self.limit).await?.ips)
    }

    async fn disconnect(&self, id: &SandboxId, netns: Option<&Path>) -> DriverResult<()> {
        Ok(self
            .network
            .teardown(id.as_str(), netns, Instant::now() + self.limit)
            .await?)
    }

    async fn keep_only(&self, pods: BTreeSet<String>) -> DriverResult<()> {
        let orphans = self.network.orphans(&pods).await?;
        let (network, limit) = (self.network.clone(), self.limit);
        // What is left undone is found again by the next start.
        tokio::spawn(async move {
            if let Err(error) = network.keep_host_ports_of(&pods).await {
                tracing::warn!(error = %with_causes(&error), "host ports may lead to pods that are gone");
            }
            match network.gc(orphans, limit).await {
                Ok(collected) => {
                    for id in collected.released {
                        tracing::info!(sandbox_id = %id, "no such pod any more, taken off the network");
                    }
                    for (id, error) in collected.failed {
                        tracing::warn!(sandbox_id = %id, error = %with_causes(&error), "no such pod any more, still on the network");
                    }
                }
                Err(error) => tracing::warn!(error = %with_causes(&error), "cannot tell what is on the network"),
            }
        });
        Ok(())
    }
}
