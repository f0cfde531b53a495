//! Ports of the node that lead to pods: who has which, and the table in the kernel that makes it so.
//!
//! A port is claimed before anything is made for its pod, so that no two pods have the same, whoever turns the packets:
//! a plugin of the network, or our own table of nftables (`ruleset`). That one is always written whole from all claims,
//! in one transaction; what it held before does not matter, so a start, a change and a repair are the same act.

mod conntrack;
mod loopback;
mod nft;
mod ruleset;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use nft::NftError;
pub use ruleset::{PodAddress, pod_addresses};

use super::with_causes;
use crate::model::sandbox::PortMapping;
use ruleset::Lead;

/// How often the table is looked for, while it leads to a pod: reloading a firewall's rules often takes all others away.
const LOOK_EVERY: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub enum HostPortError {
    #[error("host port {port}: pod sandbox {holder} has {held}")]
    Taken {
        port: PortMapping,
        holder: String,
        held: PortMapping,
    },
    #[error("host port {port}: the pod has no address of that family")]
    NoAddress { port: PortMapping },
    #[error("host ports cannot be made here, and no plugin of the network does")]
    Unusable { source: NftError },
    #[error("table of host ports")]
    Table { source: NftError },
}

type Result<T> = std::result::Result<T, HostPortError>;

/// Who turns the packets of a pod's host ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keeper {
    /// Our own table.
    Table,
    /// A plugin of the pod's network.
    Plugin,
}

/// The host ports of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPortClaim {
    pub keeper: Keeper,
    pub mappings: Vec<PortMapping>,
}

#[derive(Debug)]
struct Held {
    claim: HostPortClaim,
    /// Where they lead; nowhere while the pod has no address.
    addresses: Vec<PodAddress>,
}

/// The host ports of this node.
#[derive(Debug, Default)]
pub struct HostPorts {
    held: Mutex<BTreeMap<String, Held>>,
    /// What the kernel has been told; absent while that is not known. Held while it is told.
    told: tokio::sync::Mutex<Option<BTreeSet<Lead>>>,
    usable: AtomicBool,
}

impl HostPorts {
    /// Looks after the table for as long as the returned value is there.
    pub fn keep(this: &Arc<Self>) -> tokio::task::JoinHandle<()> {
        let weak = Arc::downgrade(this);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let Some(this) = weak.upgrade() else { return };
                if let Err(error) = this.mend().await {
                    tracing::warn!(error = %with_causes(&error), "cannot look after the table of host ports");
                }
            }
        })
    }

    /// A pod that had ports before this start.
    pub fn remember(&self, id: String, claim: HostPortClaim, addresses: Vec<PodAddress>) {
        self.lock().insert(id, Held { claim, addresses });
    }

    /// Whether these can be had: nobody has them, and where our table is to keep them, this node can have one.
    pub async fn admit(&self, claim: &HostPortClaim) -> Result<()> {
        free(&self.lock(), "", &claim.mappings)?;
        if claim.keeper == Keeper::Table && !claim.mappings.is_empty() && !self.usable.load(Ordering::Relaxed) {
            probe().await?;
            self.usable.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// From here on no other pod gets them, until `withdraw` and `forget`.
    pub fn claim(&self, id: &str, claim: HostPortClaim) -> Result<()> {
        let mut held = self.lock();
        free(&held, id, &claim.mappings)?;
        if !claim.mappings.is_empty() {
            let addresses = Vec::new();
            held.insert(id.to_owned(), Held { claim, addresses });
        }
        Ok(())
    }

    /// Has a pod's ports lead to it, where our table keeps them.
    pub async fn publish(&self, id: &str, addresses: Vec<PodAddress>) -> Result<()> {
        let mappings = match self.lock().get_mut(id) {
            Some(held) if held.claim.keeper == Keeper::Table => {
                let leads_nowhere = |port: &&PortMapping| Lead::all(port, &addresses).is_empty();
                if let Some(port) = held.claim.mappings.iter().find(leads_nowhere) {
                    return Err(HostPortError::NoAddress { port: port.clone() });
                }
                held.addresses.clone_from(&addresses);
                held.claim.mappings.clone()
            }
            _ => return Ok(()),
        };
        self.tell().await?;
        if mappings
            .iter()
            .any(|mapping| mapping.host_ip.is_none_or(is_loopback_or_all))
        {
            let_loopback_through(&addresses).await;
        }
        forget_flows(&mappings).await;
        Ok(())
    }

    /// Has a pod's ports lead nowhere, where our table keeps them: before its address may be another's.
    pub async fn withdraw(&self, id: &str) -> Result<()> {
        let mappings = match self.lock().get_mut(id) {
            Some(held) if held.claim.keeper == Keeper::Table => {
                held.addresses.clear();
                held.claim.mappings.clone()
            }
            _ => return Ok(()),
        };
        self.tell().await?;
        self.lock().remove(id);
        forget_flows(&mappings).await;
        Ok(())
    }

    /// A pod has no ports any more, whoever kept them.
    pub fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Drops the claims of all others, and writes the table anew.
    pub async fn keep_only(&self, pods: &BTreeSet<String>) -> Result<()> {
        self.lock()
            .retain(|id, held| held.claim.keeper == Keeper::Plugin || pods.contains(id));
        self.tell().await
    }

    /// Tells the kernel what is held now, unless it has been told.
    async fn tell(&self) -> Result<()> {
        let mut told = self.told.lock().await;
        let wanted = self.wanted();
        if told.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let table = |source| HostPortError::Table { source };
        // A node without host ports needs neither tool nor table.
        let nothing_to_do = wanted.is_empty() && told.is_none() && !nft::has_table().await.map_err(table)?;
        if !nothing_to_do {
            *told = None;
            nft::load(ruleset::script(&wanted)).await.map_err(table)?;
            tracing::debug!(leads = wanted.len(), "table of host ports written");
        }
        *told = Some(wanted);
        Ok(())
    }

    fn wanted(&self) -> BTreeSet<Lead> {
        let held = self.lock();
        let of_table = held.values().filter(|held| held.claim.keeper == Keeper::Table);
        of_table
            .flat_map(|held| {
                held.claim
                    .mappings
                    .iter()
                    .flat_map(|mapping| Lead::all(mapping, &held.addresses))
            })
            .collect()
    }

    /// Writes the table again where somebody took it away, or where that has failed.
    async fn mend(&self) -> Result<()> {
        let mut told = self.told.lock().await;
        if self.wanted().is_empty() {
            return Ok(());
        }
        if told.is_some()
            && !nft::has_table()
                .await
                .map_err(|source| HostPortError::Table { source })?
        {
            tracing::warn!("somebody removed the table of host ports, writing it again");
            *told = None;
        }
        drop(told);
        self.tell().await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Held>> {
        // Nothing panics while it is held.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this node can have a table of host ports: tool, kernel and permission.
pub async fn probe() -> Result<()> {
    let outcome = nft::try_out(ruleset::script(&BTreeSet::new())).await;
    outcome.map_err(|source| HostPortError::Unusable { source })
}

fn free(held: &BTreeMap<String, Held>, id: &str, asked: &[PortMapping]) -> Result<()> {
    let others = held.iter().filter(|(holder, _)| *holder != id);
    for (holder, other) in others {
        for held in &other.claim.mappings {
            if let Some(port) = asked.iter().find(|port| port.overlaps(held)) {
                return Err(HostPortError::Taken {
                    port: port.clone(),
                    holder: holder.clone(),
                    held: held.clone(),
                });
            }
        }
    }
    Ok(())
}

fn is_loopback_or_all(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified()
}

/// Without it all but 127.0.0.1 works: no reason to fail the pod.
async fn let_loopback_through(addresses: &[PodAddress]) {
    for PodAddress { ip, .. } in addresses {
        if let IpAddr::V4(ip) = ip
            && let Err(error) = loopback::let_through(*ip).await
        {
            tracing::warn!(%ip, %error, "host ports on 127.0.0.1 do not lead there");
        }
    }
}

async fn forget_flows(mappings: &[PortMapping]) {
    match conntrack::forget(mappings).await {
        Ok(0) => {}
        Ok(flows) => tracing::debug!(flows, "flows to changed host ports forgotten"),
        Err(error) => tracing::warn!(%error, "flows to changed host ports may go on where they went before"),
    }
}
