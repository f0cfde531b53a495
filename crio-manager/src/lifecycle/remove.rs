//! RemoveContainer and RemovePodSandbox: stop, release everything, then forget.

use super::cell::{ContainerCell, SandboxCell, Written};
use super::error::Error;
use super::events::What;
use super::under_way::{self, PATIENCE};
use super::undo::Undo;
use super::{Lifecycle, release};
use std::sync::Arc;
use std::time::Duration;
use tracing::info;

impl Lifecycle {
    /// Removes a container, killing it if it runs. What cannot be released is named, and a retry goes on there.
    pub async fn remove_container(&self, cell: Arc<ContainerCell>) -> Result<(), Error> {
        let this = self.clone();
        self.run_to_end("remove container", Some(PATIENCE), async move {
            this.remove_cell(&cell).await
        })
        .await
    }

    pub(super) async fn remove_cell(&self, cell: &Arc<ContainerCell>) -> Result<(), Error> {
        self.stop_container(cell, Duration::ZERO).await?;
        under_way::at("wait for its other verbs");
        let _operation = cell.operation.lock().await;
        let mut undo = Undo::default();
        release::push_container(
            &mut undo,
            self.drivers(),
            &cell.handler,
            &cell.cgroup_parent,
            &cell.plan.id,
        );
        let leftovers = undo.run().await;
        if !leftovers.is_empty() {
            return Err(Error::Leftovers {
                what: "remove container",
                leftovers,
            });
        }
        *cell.written.lock().await = Written::Forgotten;
        self.forget_container(&cell.plan.id).await;
        self.registry().remove_container(cell);
        self.tell_of_container(What::Deleted, cell);
        info!(container_id = %cell.plan.id, "container removed");
        Ok(())
    }

    /// Removes a pod sandbox and all containers in it, stopping what runs.
    pub async fn remove_sandbox(&self, cell: Arc<SandboxCell>) -> Result<(), Error> {
        let this = self.clone();
        self.run_to_end("remove pod sandbox", Some(PATIENCE), async move {
            this.remove_pod(&cell).await
        })
        .await
    }

    async fn remove_pod(&self, cell: &Arc<SandboxCell>) -> Result<(), Error> {
        self.stop_pod(cell).await?;
        let containers = self.registry().containers_of(&cell.plan.id);
        for removed in futures::future::join_all(containers.iter().map(|container| self.remove_cell(container))).await {
            removed?;
        }
        under_way::at("wait for its other verbs");
        let _operation = cell.operation.lock().await;
        let mut undo = Undo::default();
        let pins = cell.facts().namespaces;
        release::push_sandbox(
            &mut undo,
            self.drivers(),
            &cell.plan,
            &pins,
            &cell.handler,
            &cell.cgroup_parent,
        );
        let leftovers = undo.run().await;
        if !leftovers.is_empty() {
            return Err(Error::Leftovers {
                what: "remove pod sandbox",
                leftovers,
            });
        }
        *cell.written.lock().await = Written::Forgotten;
        self.forget_sandbox(&cell.plan.id).await;
        self.registry().remove_sandbox(cell);
        self.tell_of_sandbox(What::Deleted, cell);
        info!(sandbox_id = %cell.plan.id, "pod sandbox removed");
        Ok(())
    }
}
