//! After a start: records and the kernel become cells; what was half-made is removed.
//!
//! Records are intent, the kernel is the truth. No runtime process is run for what stands.

use super::cell::{ContainerCell, Held, SandboxCell};
use super::error::{Error, InStep};
use super::undo::Undo;
use super::{Lifecycle, release};
use crate::model::name::UniqueName;
use crate::model::record::{ContainerFacts, ContainerRecord, PinnedNamespaces, Progress, SandboxFacts, SandboxRecord};
use crate::model::{ContainerState, Exit, ExitStatus, SandboxState};
use std::sync::Arc;
use tracing::{info, warn};

/// What a restore found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Pod sandboxes that stand.
    pub sandboxes: usize,
    /// Containers that stand, exited ones included.
    pub containers: usize,
    /// Half-made objects that were removed.
    pub removed: usize,
}

impl Lifecycle {
    /// Takes up what an earlier daemon left. Fails only when the records cannot be listed at all.
    pub async fn restore(&self) -> Result<Restored, Error> {
        let (sandboxes, containers) = self.drivers().store.load().await.in_step("load records")?;
        let boot_id = self.drivers().clock.boot_id();
        let mut restored = Restored::default();
        for record in sandboxes {
            match record.progress.clone() {
                Progress::Made(facts) => {
                    self.restore_sandbox(record, facts, &boot_id);
                    restored.sandboxes += 1;
                }
                Progress::Making => {
                    restored.removed += 1;
                    self.remove_half_made_sandbox(record).await;
                }
            }
        }
        for record in containers {
            match record.progress.clone() {
                Progress::Made(facts) if self.registry().sandbox(record.plan.sandbox_id.as_str()).is_ok() => {
                    self.restore_container(record, facts, &boot_id);
                    restored.containers += 1;
                }
                // A container without its pod is of no use to anybody, and would confuse a kubelet.
                Progress::Made(_) | Progress::Making => {
                    restored.removed += 1;
                    self.remove_half_made_container(record).await;
                }
            }
        }
        info!(?restored, "restored");
        Ok(restored)
    }

    fn restore_sandbox(&self, record: SandboxRecord, mut facts: SandboxFacts, boot_id: &str) {
        let gone = record.boot_id != boot_id
            || facts
                .infra
                .is_some_and(|infra| self.drivers().process.hold(infra.process).is_none());
        if gone {
            facts.state = SandboxState::NotReady;
        }
        let parent = record.cgroup_parent;
        let name = UniqueName::sandbox(&record.plan.metadata);
        self.registry().sandbox_names.adopt(name, record.plan.id.clone());
        let cell = Arc::new(SandboxCell::new(
            record.plan,
            record.handler,
            parent,
            facts,
            record.boot_id,
        ));
        if !gone {
            self.observe_sandbox(&cell);
        }
        self.registry().insert_sandbox(cell);
    }

    fn restore_container(&self, record: ContainerRecord, mut facts: ContainerFacts, boot_id: &str) {
        let d = self.drivers();
        let mut held = Held::default();
        if record.boot_id != boot_id && !facts.state.is_exited() {
            let why = "the node was rebooted".to_owned();
            let exit = Exit {
                status: ExitStatus::Unknown(why),
                oom_killed: false,
                at: d.clock.now(),
            };
            let started_at = match facts.state {
                ContainerState::Running { started_at, .. } => Some(started_at),
                ContainerState::Created { .. } | ContainerState::Exited { .. } => None,
            };
            facts.state = ContainerState::Exited { exit, started_at };
        } else if let Some(process) = facts.state.process() {
            // The daemon may have died between the runtime's start and the record of it.
            if matches!(facts.state, ContainerState::Created { .. })
                && let Some(started_at) = d.runtime.started_at(&record.handler, &record.plan.id)
            {
                facts.state = ContainerState::Running { process, started_at };
            }
            held.process = d.process.hold(process);
            held.monitor = facts.monitor.and_then(|monitor| d.process.hold(monitor));
        }
        let parent = record.cgroup_parent;
        let name = UniqueName::container(&record.plan.metadata, &record.plan.pod);
        self.registry().container_names.adopt(name, record.plan.id.clone());
        let cell = Arc::new(ContainerCell::new(
            record.plan,
            record.handler,
            parent,
            facts,
            record.boot_id,
            held,
        ));
        self.observe_container(&cell);
        self.registry().insert_container(cell);
    }

    async fn remove_half_made_sandbox(&self, record: SandboxRecord) {
        let mut undo = Undo::default();
        let parent = record.cgroup_parent;
        let pins = PinnedNamespaces::default();
        release::push_sandbox(&mut undo, self.drivers(), &record.plan, &pins, &record.handler, &parent);
        let leftovers = undo.run().await;
        if leftovers.is_empty() {
            self.forget_sandbox(&record.plan.id).await;
            info!(sandbox_id = %record.plan.id, "half-made pod sandbox removed");
        } else {
            warn!(sandbox_id = %record.plan.id, ?leftovers, "half-made pod sandbox: the next start tries again");
        }
    }

    async fn remove_half_made_container(&self, record: ContainerRecord) {
        let mut undo = Undo::default();
        let parent = record.cgroup_parent;
        release::push_container(&mut undo, self.drivers(), &record.handler, &parent, &record.plan.id);
        let leftovers = undo.run().await;
        if leftovers.is_empty() {
            self.forget_container(&record.plan.id).await;
            info!(container_id = %record.plan.id, "half-made container removed");
        } else {
            warn!(container_id = %record.plan.id, ?leftovers, "half-made container: the next start tries again");
        }
    }
}
