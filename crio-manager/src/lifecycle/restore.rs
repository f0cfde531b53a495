//! After a start: records and the kernel become cells; what was half-made is left to `reap`.
//!
//! Records are intent, the kernel is the truth. No runtime process is run for what stands, and nothing here waits for
//! what hangs.

use super::Lifecycle;
use super::cell::{ContainerCell, Held, SandboxCell};
use super::create_container::hold;
use super::error::{Error, InStep};
use super::reap::HalfMade;
use crate::model::record::{
    ContainerFacts, ContainerRecord, PinnedNamespaces, Progress, SandboxFacts, SandboxFiles, SandboxRecord,
};
use crate::model::security::{NamespaceMode, Namespaces, SelinuxOptions};
use crate::model::{ContainerState, Exit, ExitStatus, SandboxPlan, SandboxState};
use std::path::PathBuf;
use std::sync::Arc;
use tracing::{info, warn};

/// What a restore found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Pod sandboxes that stand.
    pub sandboxes: usize,
    /// Containers that stand, exited ones included.
    pub containers: usize,
    /// Half-made objects, which are being removed.
    pub half_made: usize,
}

/// Labels by which a kubelet knows its pods.
const KUBELET_LABELS: [&str; 3] = [
    "io.kubernetes.pod.name",
    "io.kubernetes.pod.namespace",
    "io.kubernetes.pod.uid",
];

impl Lifecycle {
    /// Takes up what an earlier daemon left. Fails only when the records cannot be listed at all.
    pub async fn restore(&self) -> Result<Restored, Error> {
        let (restored, half_made) = self.take_up().await?;
        for what in half_made {
            self.reap(what);
        }
        Ok(restored)
    }

    /// Makes cells of what stands; what is half-made is for the caller to remove.
    pub(super) async fn take_up(&self) -> Result<(Restored, Vec<HalfMade>), Error> {
        let loaded = self.drivers().store.load().await.in_step("load records")?;
        let mut half_made = Vec::new();
        for record in loaded.sandboxes {
            match record.progress.clone() {
                Progress::Made(facts) => self.restore_sandbox(record, facts).await,
                Progress::Making => half_made.push(HalfMade::Sandbox(Box::new(record))),
            }
        }
        for record in loaded.containers {
            match record.progress.clone() {
                Progress::Made(facts) => self.restore_container(record, facts).await,
                Progress::Making => half_made.push(HalfMade::Container(Box::new(record))),
            }
        }
        self.drivers().process.all_held();
        half_made.extend(loaded.lost_containers.into_iter().map(HalfMade::LostContainer));
        for id in loaded.lost_sandboxes {
            if self.registry().sandbox(id.as_str()).is_ok() {
                // Its containers stand for it now.
                self.set_aside_sandbox(&id).await;
            } else {
                half_made.push(HalfMade::LostSandbox(id));
            }
        }

        let (sandboxes, containers) = self.registry().snapshot();
        let restored = Restored {
            sandboxes: sandboxes.len(),
            containers: containers.len(),
            half_made: half_made.len(),
        };
        info!(?restored, "restored");
        let unfinished = half_made.iter().filter_map(HalfMade::sandbox);
        let pods = sandboxes.iter().map(|cell| &cell.plan.id).chain(unfinished);
        // Nobody is kept waiting for pods by what earlier ones have left.
        if let Err(error) = self
            .drivers()
            .network
            .keep_only(pods.map(ToString::to_string).collect())
            .await
        {
            warn!(%error, "cannot tell which pods are on the network");
        }
        Ok((restored, half_made))
    }

    async fn restore_sandbox(&self, record: SandboxRecord, mut facts: SandboxFacts) {
        let d = self.drivers();
        let rebooted = record.boot_id != d.clock.boot_id();
        // No failed look is taken for an end.
        let ended = facts
            .infra
            .is_some_and(|infra| matches!(d.process.hold(infra.process), Ok(None)));
        if rebooted || ended {
            facts.state = SandboxState::NotReady;
        }
        self.registry()
            .sandbox_names
            .adopt(record.plan.metadata.clone(), record.plan.id.clone());
        let mut plan = record.plan;
        // One that was made without SELinux gets a level for what is made in it from now on.
        let categories = self.claim_categories(&mut plan).unwrap_or_else(|error| {
            warn!(sandbox_id = %plan.id, %error, "it goes on without categories of its own");
            None
        });
        let cell = Arc::new(SandboxCell::new(
            plan,
            record.handler,
            record.cgroup_parent,
            facts,
            record.boot_id,
            categories,
        ));
        if cell.state() == SandboxState::Ready {
            self.observe_sandbox(&cell);
        }
        self.registry().insert_sandbox(cell);
    }

    async fn restore_container(&self, record: ContainerRecord, mut facts: ContainerFacts) {
        let d = self.drivers();
        let mut held = Held::default();
        let mut changed = false;
        if record.boot_id != d.clock.boot_id() && !facts.state.is_exited() {
            let exit = Exit {
                status: ExitStatus::Unknown("the node was rebooted".to_owned()),
                oom_killed: false,
                at: d.clock.now(),
            };
            let started_at = match facts.state {
                ContainerState::Running { started_at, .. } => Some(started_at),
                ContainerState::Created { .. } | ContainerState::Checkpointed | ContainerState::Exited { .. } => None,
            };
            facts.state = ContainerState::Exited { exit, started_at };
            changed = true;
        } else if facts.state == ContainerState::Checkpointed && self.was_being_restored(&record).await {
            let exit = Exit {
                status: ExitStatus::Unknown("the daemon ended while it was made from its checkpoint".to_owned()),
                oom_killed: false,
                at: d.clock.now(),
            };
            facts.state = ContainerState::Exited { exit, started_at: None };
            changed = true;
        } else if let Some(process) = facts.state.process() {
            // The daemon may have died between the runtime's start and the record of it.
            if matches!(facts.state, ContainerState::Created { .. })
                && let Some(started_at) = d.runtime.started_at(&record.handler, &record.plan.id)
            {
                facts.state = ContainerState::Running { process, started_at };
                changed = true;
            }
            let (process, monitor) = (hold(d, Some(process)), hold(d, facts.monitor));
            match (process, monitor) {
                (Ok(process), Ok(monitor)) => held = Held { process, monitor },
                (Err(error), _) | (_, Err(error)) => {
                    // No failed look is taken for an end. The container goes on, the next start looks again.
                    return warn!(container_id = %record.plan.id, %error, "cannot take hold of it, leaving it alone");
                }
            }
        }
        if self.registry().sandbox(record.plan.sandbox_id.as_str()).is_err() {
            self.stand_in_for_sandbox(&record);
        }
        self.registry()
            .container_names
            .adopt(record.plan.name(), record.plan.id.clone());
        let (handler, parent) = (record.handler, record.cgroup_parent);
        let cell = Arc::new(ContainerCell::new(
            record.plan,
            handler,
            parent,
            facts,
            record.boot_id,
            held,
        ));
        if changed {
            self.save(&cell).await;
        }
        self.observe_container(&cell);
        self.finish_checkpoint(&cell);
        self.registry().insert_container(cell);
    }

    /// A pod that is not ready in place of one whose record is lost, so that its containers are not without a pod and
    /// whoever stops and removes it gives back what it had.
    fn stand_in_for_sandbox(&self, of: &ContainerRecord) {
        warn!(sandbox_id = %of.plan.sandbox_id, container_id = %of.plan.id, "its pod's record is lost, the pod is not ready");
        let labels = KUBELET_LABELS
            .iter()
            .filter_map(|label| of.plan.labels.get_key_value(*label));
        let plan = SandboxPlan {
            id: of.plan.sandbox_id.clone(),
            metadata: of.plan.pod.clone(),
            hostname: String::new(),
            log_directory: None,
            dns: None,
            port_mappings: Vec::new(),
            labels: labels.map(|(label, value)| (label.clone(), value.clone())).collect(),
            annotations: Default::default(),
            cgroup_parent: of.cgroup_parent.to_string(),
            sysctls: Default::default(),
            // All that a pod can have, so that all is given back.
            namespaces: Namespaces {
                network: NamespaceMode::Pod,
                pid: NamespaceMode::Pod,
                ipc: NamespaceMode::Pod,
                users: None,
            },
            privileged: false,
            selinux: SelinuxOptions::default(),
            seccomp: None,
            bandwidth: None,
            runtime_handler: String::new(),
            trust: None,
            created_at: of.plan.created_at,
        };
        let files = SandboxFiles {
            resolv_conf: PathBuf::new(),
            hosts: PathBuf::new(),
            hostname: PathBuf::new(),
            shm: None,
        };
        let facts = SandboxFacts {
            state: SandboxState::NotReady,
            ips: Vec::new(),
            namespaces: PinnedNamespaces::default(),
            files,
            infra: None,
            resources: Default::default(),
        };
        self.registry()
            .sandbox_names
            .adopt(plan.metadata.clone(), plan.id.clone());
        let (handler, parent) = (of.handler.clone(), of.cgroup_parent.clone());
        self.registry().insert_sandbox(Arc::new(SandboxCell::new(
            plan,
            handler,
            parent,
            facts,
            of.boot_id.clone(),
            None,
        )));
    }
}
