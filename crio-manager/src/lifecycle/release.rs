//! Giving back. Undo, Remove and restore are these same calls: each is idempotent and accepts half-made things.

use super::undo::Undo;
use crate::drivers::seams::{DriverResult, Drivers};
use crate::model::record::{Handler, PinnedNamespaces};
use crate::model::security::NamespaceMode;
use crate::model::{CgroupPath, ContainerId, SandboxId, SandboxPlan};
use std::time::Duration;

/// How long killed processes may take to leave their cgroup.
pub const KILL_WAIT: Duration = Duration::from_secs(10);

/// Ends whatever makes, watches or is the container, and has the OCI runtime forget it.
///
/// The creator first: a delete that races a create under way leaves a container behind.
pub async fn process(drivers: Drivers, handler: Handler, parent: CgroupPath, id: ContainerId) -> DriverResult<()> {
    let (monitor, container) = (handler.monitor_cgroup(&parent, &id), parent.container(&id));
    let creator_killed = drivers.cgroup.kill(&monitor, KILL_WAIT).await;
    drivers.cgroup.kill(&container, KILL_WAIT).await?;
    creator_killed?;
    if let Err(error) = drivers.runtime.delete(&handler, &id).await {
        // Nothing of it lives: a runtime that cannot delete must not keep it on the node's books for ever.
        tracing::warn!(container_id = %id, %error, "delete, forgetting the runtime's state instead");
        drivers.runtime.forget(&handler, &id).await?;
    }
    drivers.cgroup.remove(&container).await?;
    drivers.cgroup.remove(&monitor).await?;
    drivers.monitor.forget_exit(&id).await
}

/// Pushes the releases of a container in the order of its making.
pub fn push_container(undo: &mut Undo, drivers: &Drivers, handler: &Handler, parent: &CgroupPath, id: &ContainerId) {
    push_rootfs(undo, drivers, id);
    push_bundle(undo, drivers, id);
    push_process(undo, drivers, handler, parent, id);
}

/// Pushes the release of the root file system.
pub fn push_rootfs(undo: &mut Undo, drivers: &Drivers, id: &ContainerId) {
    let (drivers, id) = (drivers.clone(), id.clone());
    undo.push("unmount rootfs", async move { drivers.image.unmount_rootfs(&id).await });
}

/// Pushes the release of the bundle.
pub fn push_bundle(undo: &mut Undo, drivers: &Drivers, id: &ContainerId) {
    let (drivers, id) = (drivers.clone(), id.clone());
    undo.push("remove bundle", async move { drivers.bundle.remove(&id).await });
}

/// Pushes the release of monitor and process.
pub fn push_process(undo: &mut Undo, drivers: &Drivers, handler: &Handler, parent: &CgroupPath, id: &ContainerId) {
    undo.push(
        "end processes",
        process(drivers.clone(), handler.clone(), parent.clone(), id.clone()),
    );
}

/// Pushes the releases of a sandbox in the order of its making.
pub fn push_sandbox(
    undo: &mut Undo,
    drivers: &Drivers,
    plan: &SandboxPlan,
    pins: &PinnedNamespaces,
    handler: &Handler,
    parent: &CgroupPath,
) {
    push_sandbox_files(undo, drivers, &plan.id);
    push_namespaces(undo, drivers, &plan.id);
    if plan.has_own_network() {
        push_network(undo, drivers, &plan.id, pins);
    }
    if plan.namespaces.pid == NamespaceMode::Pod {
        let infra: ContainerId = plan.id.cast();
        push_bundle(undo, drivers, &infra);
        push_process(undo, drivers, handler, parent, &infra);
    }
}

/// Pushes the release of a pod's files.
pub fn push_sandbox_files(undo: &mut Undo, drivers: &Drivers, id: &SandboxId) {
    let (drivers, id) = (drivers.clone(), id.clone());
    undo.push(
        "remove pod files",
        async move { drivers.bundle.remove_sandbox(&id).await },
    );
}

/// Pushes the release of pinned namespaces.
pub fn push_namespaces(undo: &mut Undo, drivers: &Drivers, id: &SandboxId) {
    let (drivers, id) = (drivers.clone(), id.clone());
    undo.push("unpin namespaces", async move { drivers.namespaces.unpin(&id).await });
}

/// Pushes the release of addresses and ports.
pub fn push_network(undo: &mut Undo, drivers: &Drivers, id: &SandboxId, pins: &PinnedNamespaces) {
    let (drivers, id, netns) = (drivers.clone(), id.clone(), pins.net.clone());
    undo.push("disconnect network", async move {
        drivers.network.disconnect(&id, netns.as_deref()).await
    });
}
