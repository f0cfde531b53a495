//! What the kubelet's pod metrics are made of: usage, and what else the kernel counts.

use super::Lifecycle;
use super::cell::SandboxCell;
use super::stats::{ContainerUsage, SandboxUsage};
use crate::drivers::cgroup::Counters;
use crate::drivers::seams::{InterfaceTraffic, Space};
use crate::model::container::Resources;
use crate::model::{ContainerState, Timestamp};
use futures::StreamExt;
use std::sync::Arc;
use tracing::debug;

/// Containers that one call looks at at the same time.
const READ_AT_ONCE: usize = 4;

/// Of a container that has not exited.
pub struct ContainerMetrics {
    /// What it uses.
    pub usage: ContainerUsage,
    /// What else is counted of it.
    pub counters: Counters,
    /// Its limits.
    pub limits: Resources,
    /// `None` before its start.
    pub started_at: Option<Timestamp>,
    /// Where its writable layer is.
    pub space: Space,
}

/// Of a pod that is ready.
pub struct SandboxMetrics {
    /// Which.
    pub cell: Arc<SandboxCell>,
    /// When it was read.
    pub at: Timestamp,
    /// Its interfaces; empty on the host's network.
    pub network: Vec<InterfaceTraffic>,
    /// Its containers that have not exited.
    pub containers: Vec<ContainerMetrics>,
}

impl Lifecycle {
    /// The metrics of all pods that are ready. What ends meanwhile is left out.
    pub async fn metrics(&self) -> Vec<SandboxMetrics> {
        let (sandboxes, _) = self.registry().snapshot();
        let space = self.drivers().image.space().await;
        let space = space
            .inspect_err(|error| debug!(%error, "left out of the metrics"))
            .unwrap_or_default();
        let usages = self.sandbox_usages(sandboxes).await;
        let mut all = Vec::with_capacity(usages.len());
        for SandboxUsage {
            cell,
            at,
            network,
            containers,
            ..
        } in usages
        {
            let read = futures::stream::iter(containers).map(|usage| self.container_metrics(usage, space));
            all.push(SandboxMetrics {
                cell,
                at,
                network,
                containers: read
                    .buffered(READ_AT_ONCE)
                    .filter_map(std::future::ready)
                    .collect()
                    .await,
            });
        }
        all
    }

    async fn container_metrics(&self, usage: ContainerUsage, space: Space) -> Option<ContainerMetrics> {
        let cell = &usage.cell;
        let cgroup = cell.cgroup_parent.container(&cell.plan.id);
        let counters = self.drivers().cgroup.counters(&cgroup).await;
        let counters = counters
            .inspect_err(|error| debug!(%error, "left out of the metrics"))
            .ok()?;
        let started_at = match cell.state() {
            ContainerState::Created { .. } => None,
            ContainerState::Running { started_at, .. } => Some(started_at),
            ContainerState::Checkpointed | ContainerState::Exited { .. } => return None,
        };
        let limits = cell.resources();
        Some(ContainerMetrics {
            usage,
            counters,
            limits,
            started_at,
            space,
        })
    }
}
