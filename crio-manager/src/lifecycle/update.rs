//! UpdateContainerResources, UpdatePodSandboxResources: other limits for what stands, all of them or none.

use super::Lifecycle;
use super::cell::ContainerCell;
use super::error::{Error, InStep, Step, StepFailed};
use super::specify::{blame_named_file, blame_parent, specify_update};
use super::under_way::{self, PATIENCE};
use crate::drivers::seams::{DriverError, DriverResult};
use crate::model::container::Resources;
use crate::model::record::PodResources;
use crate::model::{CgroupPath, SandboxState};
use std::sync::Arc;
use tracing::{info, warn};

/// A quota and its period are one file on version 2, where OCI runtimes forget the one that is not said. Systemd forgets
/// the period of a quota that is taken away.
fn whole_quota(asked: &Resources, known: &Resources) -> Resources {
    let mut asked = asked.clone();
    if asked.cpu_quota_us.is_some() || asked.cpu_period_us.is_some() {
        asked.cpu_quota_us = asked.cpu_quota_us.or(known.cpu_quota_us);
        asked.cpu_period_us = asked.cpu_period_us.or(known.cpu_period_us);
    }
    asked
}

impl Lifecycle {
    /// Changes the limits of a container that is created or running; what is not said stays.
    ///
    /// Errors: `NoSuchContainer`; `NotRunning` once it has exited; `MemoryInUse` when it uses more than the new limit;
    /// `Step` with the runtime's words, and then the limits are those of before.
    pub async fn update_container(&self, id: &str, asked: Resources) -> Result<(), Error> {
        let (this, cell) = (self.clone(), self.registry().container(id)?);
        self.run_to_end("update container", Some(PATIENCE), async move {
            this.update_cell(&cell, &asked).await
        })
        .await
    }

    async fn update_cell(&self, cell: &Arc<ContainerCell>, asked: &Resources) -> Result<(), Error> {
        under_way::at("wait for its other verbs");
        let _operation = cell.operation.lock().await;
        let gone = || Error::NotRunning {
            id: cell.plan.id.short().to_owned(),
            state: cell.state().word(),
        };
        if cell.state().process().is_none() {
            return Err(gone());
        }
        let d = self.drivers();
        let asked = &whole_quota(asked, &cell.resources());
        let json = self.changes(cell, asked).in_step("check limits")?;
        let cgroup = cell.cgroup_parent.container(&cell.plan.id);
        let usage = d.cgroup.usage(&cgroup).step("look at its use").await?;
        if let (Some(limit), Some(memory)) = (asked.memory_limit_bytes, usage.memory) {
            // -1 is no limit. What the kernel can drop at once stands in the way of none.
            if let Ok(limit) = u64::try_from(limit)
                && limit < memory.working_set_bytes
            {
                let used = memory.working_set_bytes;
                return Err(Error::MemoryInUse { limit, used });
            }
        }
        let files = asked.unified.keys().cloned().collect();
        let before = d.cgroup.limits(&cgroup, files).step("look at its limits").await?;
        if let Err(failed) = self.set_limits(cell, json, asked).await {
            if cell.state().is_exited() {
                return Err(gone());
            }
            self.undo_update(cell, asked, before).await;
            return Err(failed.into());
        }
        cell.set_resources(cell.resources().updated_by(asked));
        self.save(cell).await;
        info!(container_id = %cell.plan.id, "container's limits changed");
        Ok(())
    }

    /// By the runtime, but for what runtimes do not set as asked, and the score of processes that run.
    async fn set_limits(&self, cell: &ContainerCell, json: Vec<u8>, asked: &Resources) -> Result<(), StepFailed> {
        let d = self.drivers();
        let cgroup = cell.cgroup_parent.container(&cell.plan.id);
        if let Err(failed) = d.runtime.update(&cell.handler, &cell.plan.id, json).await {
            return Err(self.blame_limits(asked, &cell.cgroup_parent, failed).await).in_step("update");
        }
        d.cgroup.complete_limits(&cgroup, asked).step("complete limits").await?;
        if asked.oom_score_adj != 0 {
            let score = self.reachable_oom_score(asked.oom_score_adj);
            d.cgroup
                .set_oom_score_adj(&cgroup, score)
                .step("set oom_score_adj")
                .await?;
        }
        Ok(())
    }

    /// A runtime that fails over a limit: the request, or its parent's limits, are named where they are the reason.
    pub(super) async fn blame_limits(
        &self,
        asked: &Resources,
        parent: &CgroupPath,
        failed: DriverError,
    ) -> DriverError {
        let failed = blame_named_file(asked, failed);
        match self.drivers().cgroup.limits(parent, Vec::new()).await {
            Ok(has) => blame_parent(asked, parent, &has, failed),
            Err(_unreadable) => failed,
        }
    }

    /// Runtimes differ in what they take back when a limit in the middle is refused: all is set as it was.
    async fn undo_update(&self, cell: &ContainerCell, asked: &Resources, before: Resources) {
        let before = Resources {
            oom_score_adj: match asked.oom_score_adj {
                0 => 0,
                _ => cell.resources().oom_score_adj,
            },
            ..before
        };
        let undone = async {
            let json = self.changes(cell, &before).in_step("check limits")?;
            self.set_limits(cell, json, &before).await
        };
        if let Err(StepFailed { step, cause }) = undone.await {
            warn!(container_id = %cell.plan.id, step, error = %cause, "its limits are neither the old nor the new ones");
        }
    }

    fn changes(&self, cell: &ContainerCell, asked: &Resources) -> DriverResult<Vec<u8>> {
        specify_update(asked, &self.defaults().node, cell.handler.min_memory_bytes)
    }

    /// As at a creation: a daemon without CAP_SYS_RESOURCE gives no lower score than its own.
    fn reachable_oom_score(&self, asked: i32) -> i32 {
        let floor = self.defaults().node.oom_score_adj_floor;
        floor.map_or(asked, |floor| asked.max(floor))
    }

    /// Notes the limits that the client has given the pod. Its cgroup is the client's, who sets them there itself.
    ///
    /// Errors: `NoSuchSandbox`; `SandboxNotReady`.
    pub async fn update_sandbox(&self, id: &str, resources: PodResources) -> Result<(), Error> {
        let (this, cell) = (self.clone(), self.registry().sandbox(id)?);
        self.run_to_end("update pod sandbox", Some(PATIENCE), async move {
            if cell.state() == SandboxState::NotReady {
                return Err(Error::SandboxNotReady(cell.plan.id.short().to_owned()));
            }
            cell.set_resources(resources);
            this.save_sandbox(&cell).await;
            Ok(())
        })
        .await
    }
}
