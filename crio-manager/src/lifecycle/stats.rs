//! What containers and pods use. Asked of the kernel at the call, but for the writable layers: those are walked in the
//! background, and told with the time of the walk.

use super::Lifecycle;
use super::cell::{ContainerCell, MeasuredLayer, SandboxCell};
use super::error::{Error, InStep};
use crate::drivers::cgroup::Usage;
use crate::drivers::seams::{ErrorKind, InterfaceTraffic};
use crate::model::{SandboxState, Timestamp};
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::debug;

/// Cgroups that one call reads at the same time.
const READ_AT_ONCE: usize = 4;

/// Least time between two walks of all writable layers.
const LAYERS_EVERY: Duration = Duration::from_secs(10);

/// The walks take at most one part in so many of the time.
const LAYERS_SHARE: u32 = 10;

/// What a container uses.
pub struct ContainerUsage {
    /// Which.
    pub cell: Arc<ContainerCell>,
    /// When its cgroup was read.
    pub at: Timestamp,
    /// As its cgroup has it.
    pub usage: Usage,
    /// CPU time now, in billionths of a CPU.
    pub nano_cores: Option<u64>,
    /// Its writable layer; `None` before the first walk.
    pub layer: Option<MeasuredLayer>,
}

/// What a pod uses.
pub struct SandboxUsage {
    /// Which.
    pub cell: Arc<SandboxCell>,
    /// When it was read.
    pub at: Timestamp,
    /// Of the pod's cgroup where it has one to itself, else the sum of its containers'.
    pub usage: Usage,
    /// CPU time now, in billionths of a CPU.
    pub nano_cores: Option<u64>,
    /// Its interfaces; empty on the host's network.
    pub network: Vec<InterfaceTraffic>,
    /// Its containers that have not exited.
    pub containers: Vec<ContainerUsage>,
}

impl Lifecycle {
    /// What a container that has not exited uses.
    ///
    /// Errors: `NotRunning`; `Step` when its cgroup cannot be read.
    pub async fn container_usage(&self, cell: Arc<ContainerCell>) -> Result<ContainerUsage, Error> {
        let exited = |cell: &ContainerCell| Error::NotRunning {
            id: cell.plan.id.short().to_owned(),
            state: cell.state().word(),
        };
        // It has ended, or is not made from its checkpoint yet.
        if cell.state().process().is_none() {
            return Err(exited(&cell));
        }
        let d = self.drivers();
        let cgroup = cell.cgroup_parent.container(&cell.plan.id);
        let usage = match d.cgroup.usage(&cgroup).await {
            Err(_) if cell.state().is_exited() => return Err(exited(&cell)),
            usage => usage.in_step("read its cgroup")?,
        };
        let at = d.clock.now();
        let nano_cores = usage.cpu_usage_ns.and_then(|count| cell.cpu_rate(at, count));
        Ok(ContainerUsage {
            at,
            nano_cores,
            layer: cell.layer(),
            usage,
            cell,
        })
    }

    /// The same of many. One that ends meanwhile is left out.
    pub async fn container_usages(&self, cells: Vec<Arc<ContainerCell>>) -> Vec<ContainerUsage> {
        let standing = cells.into_iter().filter(|cell| cell.state().process().is_some());
        let read = futures::stream::iter(standing).map(|cell| self.container_usage(cell));
        let read = read.buffered(READ_AT_ONCE);
        read.filter_map(|usage| async {
            usage
                .inspect_err(|error| debug!(%error, "left out of the statistics"))
                .ok()
        })
        .collect()
        .await
    }

    /// What a pod that is ready uses.
    ///
    /// Errors: `SandboxNotReady`; `Step` when its cgroup or its network cannot be read.
    pub async fn sandbox_usage(&self, cell: Arc<SandboxCell>) -> Result<SandboxUsage, Error> {
        if cell.state() == SandboxState::NotReady {
            return Err(Error::SandboxNotReady(cell.plan.id.short().to_owned()));
        }
        let d = self.drivers();
        let containers = self.registry().containers_of(&cell.plan.id);
        let containers = self.container_usages(containers).await;
        let usage = if self.has_cgroup_to_itself(&cell) {
            match d.cgroup.usage(&cell.cgroup_parent).await {
                // Made with the first container.
                Err(_) if containers.is_empty() => Usage::default(),
                usage => usage.in_step("read its cgroup")?,
            }
        } else {
            containers.iter().fold(Usage::default(), |sum, of| sum.plus(&of.usage))
        };
        let at = d.clock.now();
        let network = match &cell.facts().namespaces.net {
            Some(namespace) => d.namespaces.traffic(namespace).await.in_step("read its network")?,
            None => Vec::new(),
        };
        let nano_cores = usage.cpu_usage_ns.and_then(|count| cell.cpu_rate(at, count));
        Ok(SandboxUsage {
            at,
            usage,
            nano_cores,
            network,
            containers,
            cell,
        })
    }

    /// The same of many. One that is stopped meanwhile is left out.
    pub async fn sandbox_usages(&self, cells: Vec<Arc<SandboxCell>>) -> Vec<SandboxUsage> {
        let ready = cells.into_iter().filter(|cell| cell.state() == SandboxState::Ready);
        let read = futures::stream::iter(ready).map(|cell| self.sandbox_usage(cell));
        let read = read.buffered(READ_AT_ONCE);
        read.filter_map(|usage| async {
            usage
                .inspect_err(|error| debug!(%error, "left out of the statistics"))
                .ok()
        })
        .collect()
        .await
    }

    /// The kubelet gives each pod a cgroup of its own; other clients may have pods share one.
    fn has_cgroup_to_itself(&self, cell: &SandboxCell) -> bool {
        let (sandboxes, _) = self.registry().snapshot();
        let shares =
            |other: &Arc<SandboxCell>| other.plan.id != cell.plan.id && other.cgroup_parent == cell.cgroup_parent;
        !cell.plan.cgroup_parent.is_empty() && !sandboxes.iter().any(shares)
    }

    /// Walks the writable layers of all that has not exited, again and again, one at a time.
    pub async fn keep_measuring_layers(self) {
        loop {
            let began = Instant::now();
            self.measure_layers().await;
            tokio::time::sleep(LAYERS_EVERY.max(began.elapsed() * LAYERS_SHARE)).await;
        }
    }

    pub(super) async fn measure_layers(&self) {
        let (_, containers) = self.registry().snapshot();
        for cell in containers.iter().filter(|cell| !cell.state().is_exited()) {
            let d = self.drivers();
            match d.image.layer_usage(&cell.plan.id).await {
                Ok(usage) => cell.set_layer(MeasuredLayer {
                    usage,
                    at: d.clock.now(),
                }),
                // Removed meanwhile.
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => debug!(container_id = %cell.plan.id, %error, "measure writable layer, ignoring"),
            }
        }
    }
}
