//! What was left half-made is removed in the background, again and again until nothing of it is there.

use super::Lifecycle;
use super::error::{CreateFailed, Error, StepFailed};
use super::release;
use super::undo::Undo;
use crate::drivers::seams::DriverResult;
use crate::model::record::{ContainerRecord, PinnedNamespaces, SandboxRecord};
use crate::model::{CgroupPath, ContainerId, SandboxId};
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// First and longest pause between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Something that must not stay.
#[derive(Debug, Clone)]
pub enum HalfMade {
    /// A creation that did not end.
    Sandbox(Box<SandboxRecord>),
    /// A creation that did not end.
    Container(Box<ContainerRecord>),
    /// A pod whose record cannot be read, and of which no container is known.
    LostSandbox(SandboxId),
    /// A container whose record cannot be read: nobody could stop it.
    LostContainer(ContainerId),
}

impl HalfMade {
    /// The pod that it is.
    pub fn sandbox(&self) -> Option<&SandboxId> {
        match self {
            HalfMade::Sandbox(record) => Some(&record.plan.id),
            HalfMade::LostSandbox(id) => Some(id),
            HalfMade::Container(_) | HalfMade::LostContainer(_) => None,
        }
    }
}

impl Lifecycle {
    /// Removes it in a task of its own, with pauses between the tries. Its name is free meanwhile.
    pub(super) fn reap(&self, what: HalfMade) {
        let this = self.clone();
        tokio::spawn(async move {
            let (mut pause, longest) = PAUSE;
            this.tally().half_made.inc();
            loop {
                let leftovers = this.release_half_made(&what).await;
                if leftovers.is_empty() {
                    this.tally().half_made.dec();
                    return info!(what = what.id(), "half-made object removed");
                }
                warn!(what = what.id(), ?leftovers, again_in = ?pause, "half-made object cannot be removed yet");
                this.tally().reap_retries.inc();
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
        });
    }

    /// Gives back what it has; what is left is named, and its record stays.
    pub(super) async fn release_half_made(&self, what: &HalfMade) -> Vec<String> {
        let d = self.drivers();
        let mut undo = Undo::default();
        let pins = PinnedNamespaces::default();
        match what {
            HalfMade::Sandbox(record) => {
                let SandboxRecord {
                    plan,
                    handler,
                    cgroup_parent,
                    ..
                } = record.as_ref();
                release::push_sandbox(&mut undo, d, plan, &pins, handler, cgroup_parent);
            }
            HalfMade::Container(record) => {
                let ContainerRecord {
                    plan,
                    handler,
                    cgroup_parent,
                    ..
                } = record.as_ref();
                release::push_container(&mut undo, d, handler, cgroup_parent, &plan.id);
            }
            HalfMade::LostSandbox(id) => {
                release::push_sandbox_files(&mut undo, d, id);
                release::push_namespaces(&mut undo, d, id);
                release::push_network(&mut undo, d, id, &pins);
                self.push_lost_process(&mut undo, id.cast());
            }
            HalfMade::LostContainer(id) => {
                release::push_rootfs(&mut undo, d, id);
                self.push_lost_process(&mut undo, id.clone());
            }
        }
        let leftovers = undo.run().await;
        if leftovers.is_empty() {
            self.forget(what).await;
        }
        leftovers
    }

    /// Undoes a creation that failed. What cannot be given back now is told, and given back in the background.
    pub(super) async fn undo_creation(
        &self,
        what: &'static str,
        failed: StepFailed,
        undo: Undo,
        made: HalfMade,
    ) -> Error {
        let StepFailed { step, cause } = failed;
        let leftovers = undo.run().await;
        if leftovers.is_empty() {
            self.forget(&made).await;
        } else {
            self.reap(made);
        }
        let failed = CreateFailed {
            what,
            step,
            cause,
            leftovers,
        };
        Arc::new(failed).into()
    }

    /// Forgets the record of what is gone; one that nobody could read is kept for the administrator.
    async fn forget(&self, what: &HalfMade) {
        match what {
            HalfMade::Sandbox(record) => self.forget_sandbox(&record.plan.id).await,
            HalfMade::Container(record) => self.forget_container(&record.plan.id).await,
            HalfMade::LostSandbox(id) => self.set_aside_sandbox(id).await,
            HalfMade::LostContainer(id) => {
                if let Err(error) = self.drivers().store.set_aside_container(id).await {
                    warn!(container_id = %id, %error, "set record aside, ignoring: the next start does");
                }
            }
        }
    }

    pub(super) async fn set_aside_sandbox(&self, id: &SandboxId) {
        if let Err(error) = self.drivers().store.set_aside_sandbox(id).await {
            warn!(sandbox_id = %id, %error, "set record aside, ignoring: the next start does");
        }
    }

    /// Ends a container of which only the id is known: its bundle says where it is, and a runtime whose it is.
    fn push_lost_process(&self, undo: &mut Undo, id: ContainerId) {
        let this = self.clone();
        release::push_bundle(undo, self.drivers(), &id);
        undo.push("end processes", async move { this.end_lost_process(id).await });
    }

    async fn end_lost_process(&self, id: ContainerId) -> DriverResult<()> {
        let d = self.drivers();
        let spec = self.spec_json(&id).await;
        let cgroup = spec
            .pointer("/linux/cgroupsPath")
            .and_then(|path| path.as_str())
            .unwrap_or_default();
        let parent = CgroupPath::parent_for_runtime(cgroup);
        for handler in d.runtime.handlers() {
            match &parent {
                Some(parent) => release::process(d.clone(), handler, parent.clone(), id.clone()).await?,
                None => d.runtime.delete(&handler, &id).await?,
            }
        }
        Ok(())
    }
}

impl HalfMade {
    /// For the log.
    pub(super) fn id(&self) -> &str {
        match self {
            Self::Sandbox(record) => record.plan.id.as_str(),
            Self::Container(record) => record.plan.id.as_str(),
            Self::LostSandbox(id) => id.as_str(),
            Self::LostContainer(id) => id.as_str(),
        }
    }
}
