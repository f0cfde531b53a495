//! One sandbox or container: what was asked, its state, who watches it, and the lock that orders its verbs.

use super::categories::Claim;
use super::events::Told;
use crate::drivers::seams::{LayerUsage, ProcessHandle};
use crate::model::container::Resources;
use crate::model::rate::Meter;
use crate::model::record::{
    ContainerFacts, ContainerRecord, Handler, MonitoredProcess, PodResources, Progress, SandboxFacts, SandboxRecord,
};
use crate::model::{
    CgroupPath, ContainerEvent, ContainerPlan, ContainerState, ProcessId, Refused, SandboxEvent, SandboxPlan,
    SandboxState, Timestamp,
};
use crate::model::{container, sandbox};
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use tokio::time::Instant;

/// A sandbox of this node.
pub struct SandboxCell {
    /// What was asked.
    pub plan: SandboxPlan,
    /// Its runtime.
    pub handler: Handler,
    /// Where its containers' cgroups are made.
    pub cgroup_parent: CgroupPath,
    /// What it is made of, as it was when it was made; the state in it is the first one.
    made_of: SandboxFacts,
    /// The boot it was made in.
    boot_id: String,
    state: watch::Sender<SandboxState>,
    /// How fast it uses CPU time.
    cpu: Mutex<Meter>,
    /// Its limits now.
    resources: Mutex<PodResources>,
    /// Orders stop and remove. Held across awaits, as `written` is, and nothing else.
    pub operation: tokio::sync::Mutex<()>,
    /// Creations in this pod share it; a stop takes it alone, to wait for them. Held across awaits.
    pub creating: tokio::sync::RwLock<()>,
    /// Orders writes of its record: a late one neither undoes a newer one nor brings a forgotten record back.
    pub written: tokio::sync::Mutex<Written>,
    /// Its line in lists.
    pub line: Line,
    /// Its categories of SELinux, which are free again when it is gone.
    _categories: Option<Claim>,
}

/// Whether an object's record is still kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Written {
    /// It follows the state.
    #[default]
    Kept,
    /// The object was removed: nothing is written any more.
    Forgotten,
}

impl SandboxCell {
    /// A sandbox that stands.
    pub fn new(
        plan: SandboxPlan,
        handler: Handler,
        cgroup_parent: CgroupPath,
        facts: SandboxFacts,
        boot_id: String,
        categories: Option<Claim>,
    ) -> Self {
        let (state, _) = watch::channel(facts.state);
        Self {
            cpu: Mutex::new(Meter::new(plan.created_at)),
            resources: Mutex::new(facts.resources.clone()),
            plan,
            handler,
            cgroup_parent,
            made_of: facts,
            boot_id,
            state,
            operation: tokio::sync::Mutex::default(),
            creating: tokio::sync::RwLock::default(),
            written: tokio::sync::Mutex::default(),
            line: Line::default(),
            _categories: categories,
        }
    }

    /// Waits until it is not ready any more.
    pub async fn stopped(&self) {
        let mut states = self.state.subscribe();
        // The sender lives in this cell, which the caller holds: the wait cannot fail.
        let _ = states.wait_for(|state| *state == SandboxState::NotReady).await;
    }

    /// What it is made of, and its state now.
    pub fn facts(&self) -> SandboxFacts {
        SandboxFacts {
            state: self.state(),
            resources: self.resources.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            ..self.made_of.clone()
        }
    }

    /// CPU time used until then, in nanoseconds; what that is a second of late.
    pub fn cpu_rate(&self, at: Timestamp, usage_ns: u64) -> Option<u64> {
        self.cpu
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .per_second(at, usage_ns)
    }

    /// Notes other limits.
    pub fn set_resources(&self, resources: PodResources) {
        *self.resources.lock().unwrap_or_else(PoisonError::into_inner) = resources;
    }

    /// Its own process, when it has one.
    pub fn infra(&self) -> Option<MonitoredProcess> {
        self.made_of.infra
    }

    /// Its state now.
    pub fn state(&self) -> SandboxState {
        *self.state.borrow()
    }

    /// The only way its state changes. `Ok(false)`: nothing changed.
    pub fn apply(&self, event: SandboxEvent) -> Result<bool, Refused> {
        let mut outcome = Ok(false);
        self.state
            .send_if_modified(|state| match sandbox::apply(*state, event) {
                Ok(next) => {
                    let changed = std::mem::replace(state, next) != next;
                    outcome = Ok(changed);
                    changed
                }
                Err(refused) => {
                    outcome = Err(refused);
                    false
                }
            });
        outcome
    }

    /// What to write down about it now.
    pub fn record(&self) -> SandboxRecord {
        SandboxRecord {
            plan: self.plan.clone(),
            handler: self.handler.clone(),
            cgroup_parent: self.cgroup_parent.clone(),
            progress: Progress::Made(self.facts()),
            boot_id: self.boot_id.clone(),
        }
    }
}

/// What lists say of an object, kept from one list to the next.
#[derive(Default)]
pub struct Line(Mutex<Option<(i32, Bytes)>>);

impl Line {
    /// What is said in this state: what was said when last asked in the same one, else what `say` says.
    pub fn of(&self, state: i32, say: impl FnOnce() -> Bytes) -> Bytes {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((of, line)) if *of == state => line.clone(),
            _ => kept.insert((state, say())).1.clone(),
        }
    }
}

/// A container of this node.
pub struct ContainerCell {
    /// What was asked.
    pub plan: ContainerPlan,
    /// Its runtime.
    pub handler: Handler,
    /// Where its cgroup is.
    pub cgroup_parent: CgroupPath,
    /// What it is made of, as it was when it was made; the state in it is the first one.
    pub made_of: ContainerFacts,
    /// The boot it was made in.
    boot_id: String,
    /// Its processes; one from a checkpoint has none before its start.
    processes: Mutex<MadeProcesses>,
    state: watch::Sender<ContainerState>,
    /// Orders start and remove. Held across awaits, as `written` is, and nothing else. A stop never takes it.
    pub operation: tokio::sync::Mutex<()>,
    /// Orders writes of its record.
    pub written: tokio::sync::Mutex<Written>,
    /// How fast it uses CPU time.
    cpu: Mutex<Meter>,
    /// Its writable layer when it was measured last.
    layer: Mutex<Option<MeasuredLayer>>,
    /// Its limits now: those of the plan until they are changed.
    resources: Mutex<Resources>,
    /// What those who watch the node know of it.
    pub told: Mutex<Told>,
    /// Its line in lists.
    pub line: Line,
    /// The deadline of the stop under way, which later stops may bring forward.
    pub stopping: Mutex<Option<watch::Sender<Instant>>>,
}

/// A writable layer, and when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeasuredLayer {
    /// What it took.
    pub usage: LayerUsage,
    /// When.
    pub at: Timestamp,
}

/// The processes that a container was made with.
#[derive(Default)]
struct MadeProcesses {
    /// Its monitor.
    monitor: Option<ProcessId>,
    /// Both, held so that neither can be mistaken for another.
    held: Held,
}

/// Holds on the processes of a container; `None` once gone.
#[derive(Clone, Default)]
pub struct Held {
    /// Its first process.
    pub process: Option<Arc<dyn ProcessHandle>>,
    /// Its monitor.
    pub monitor: Option<Arc<dyn ProcessHandle>>,
}

impl Held {
    /// Does this with each that is held.
    pub fn each(&self, what: impl Fn(&dyn ProcessHandle)) {
        let held = [&self.process, &self.monitor];
        held.into_iter().flatten().for_each(|process| what(process.as_ref()));
    }
}

impl ContainerCell {
    /// A container that stands.
    pub fn new(
        plan: ContainerPlan,
        handler: Handler,
        cgroup_parent: CgroupPath,
        facts: ContainerFacts,
        boot_id: String,
        held: Held,
    ) -> Self {
        let (state, _) = watch::channel(facts.state.clone());
        Self {
            told: Mutex::new(Told::of(&facts.state)),
            processes: Mutex::new(MadeProcesses {
                monitor: facts.monitor,
                held,
            }),
            cpu: Mutex::new(Meter::new(plan.created_at)),
            layer: Mutex::default(),
            resources: Mutex::new(plan.resources.clone()),
            plan,
            handler,
            cgroup_parent,
            made_of: facts,
            boot_id,
            state,
            operation: tokio::sync::Mutex::default(),
            written: tokio::sync::Mutex::default(),
            line: Line::default(),
            stopping: Mutex::default(),
        }
    }

    /// Its state now.
    pub fn state(&self) -> ContainerState {
        self.state.borrow().clone()
    }

    /// The only way its state changes. `Ok(false)`: nothing changed.
    pub fn apply(&self, event: ContainerEvent) -> Result<bool, Refused> {
        let mut outcome = Ok(false);
        self.state
            .send_if_modified(|state| match container::apply(state, event) {
                Ok(next) => {
                    let changed = *state != next;
                    *state = next;
                    outcome = Ok(changed);
                    changed
                }
                Err(refused) => {
                    outcome = Err(refused);
                    false
                }
            });
        outcome
    }

    /// The holds on its processes.
    pub fn held(&self) -> Held {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .held
            .clone()
    }

    /// Notes the processes that a start from a checkpoint has made.
    pub fn set_processes(&self, monitor: Option<ProcessId>, held: Held) {
        *self.processes.lock().unwrap_or_else(PoisonError::into_inner) = MadeProcesses { monitor, held };
    }

    /// CPU time used until then, in nanoseconds; what that is a second of late.
    pub fn cpu_rate(&self, at: Timestamp, usage_ns: u64) -> Option<u64> {
        self.cpu
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .per_second(at, usage_ns)
    }

    /// Its writable layer when it was measured last.
    pub fn layer(&self) -> Option<MeasuredLayer> {
        *self.layer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a measurement.
    pub fn set_layer(&self, measured: MeasuredLayer) {
        *self.layer.lock().unwrap_or_else(PoisonError::into_inner) = Some(measured);
    }

    /// Its limits now.
    pub fn resources(&self) -> Resources {
        self.resources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes limits that have been set.
    pub fn set_resources(&self, resources: Resources) {
        *self.resources.lock().unwrap_or_else(PoisonError::into_inner) = resources;
    }

    /// Waits until it has exited. Watching, not polling.
    pub async fn exited(&self) {
        let mut states = self.state.subscribe();
        // The sender lives in this cell, which the caller holds: the wait cannot fail.
        let _ = states.wait_for(ContainerState::is_exited).await;
    }

    /// What to write down about it now.
    pub fn record(&self) -> ContainerRecord {
        ContainerRecord {
            // The limits as they are, so that they are known after a restart.
            plan: ContainerPlan {
                resources: self.resources(),
                ..self.plan.clone()
            },
            handler: self.handler.clone(),
            cgroup_parent: self.cgroup_parent.clone(),
            progress: Progress::Made(ContainerFacts {
                state: self.state(),
                monitor: self.processes.lock().unwrap_or_else(PoisonError::into_inner).monitor,
                ..self.made_of.clone()
            }),
            boot_id: self.boot_id.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_said_anew_when_the_state_is_another() {
        let line = Line::default();
        let said = |state: i32, word: &'static str| line.of(state, || Bytes::from_static(word.as_bytes()));
        assert_eq!(said(0, "created"), "created");
        assert_eq!(said(0, "never asked"), "created");
        assert_eq!(said(1, "running"), "running");
        assert_eq!(said(0, "created again"), "created again");
    }
}
