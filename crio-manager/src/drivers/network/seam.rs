//! CNI as the lifecycle sees it.

use super::pod::{Dns, PodNetwork, PortMapping, Protocol};
use super::{Error, Network, NetworkStatus};
use crate::drivers::seams::{DriverError, DriverResult, ErrorKind, PodNetworks};
use crate::model::sandbox::PortProtocol;
use crate::model::{SandboxId, SandboxPlan};
use async_trait::async_trait;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

impl From<Error> for DriverError {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::NetworkNotReady { .. } => ErrorKind::Unavailable,
            Error::BadSandboxId(_) | Error::Unspeakable(_) => ErrorKind::Invalid,
            Error::NotAttached(_) => ErrorKind::NotFound,
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
    network: Network,
    limit: Duration,
}

impl Cni {
    /// Bounds every chain of plugins by `limit`.
    pub fn new(network: Network, limit: Duration) -> Self {
        Self { network, limit }
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

    async fn connect(&self, plan: &SandboxPlan, netns: &Path) -> DriverResult<Vec<IpAddr>> {
        let pod = PodNetwork {
            sandbox_id: plan.id.to_string(),
            name: plan.metadata.name.clone(),
            namespace: plan.metadata.namespace.clone(),
            uid: plan.metadata.uid.clone(),
            netns: netns.to_owned(),
            port_mappings: plan
                .port_mappings
                .iter()
                .map(|mapping| PortMapping {
                    host_ip: mapping.host_ip,
                    host_port: mapping.host_port,
                    container_port: mapping.container_port,
                    protocol: match mapping.protocol {
                        PortProtocol::Tcp => Protocol::Tcp,
                        PortProtocol::Udp => Protocol::Udp,
                        PortProtocol::Sctp => Protocol::Sctp,
                    },
                })
                .collect(),
            bandwidth: None,
            dns: plan.dns.as_ref().map(|dns| Dns {
                servers: dns.servers.clone(),
                searches: dns.searches.clone(),
                options: dns.options.clone(),
            }),
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
}
