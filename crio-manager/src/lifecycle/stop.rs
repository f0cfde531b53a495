//! StopContainer and StopPodSandbox: asked first, killed after the grace. A container has one stop, which later ones join.

use super::Lifecycle;
use super::cell::{ContainerCell, SandboxCell, Written};
use super::error::{Error, Step};
use super::events::What;
use super::release::{self, KILL_WAIT};
use super::under_way::{self, PATIENCE, UnderWay};
use crate::model::{ContainerId, ContainerState, SandboxEvent};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

/// The longest grace that is kept to; longer ones are this long.
const LONGEST_GRACE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// First and longest pause between looks whether a process has begun to handle its stop signal.
const HANDLER_LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

impl Lifecycle {
    /// Asks the container to stop, kills it after `grace`, returns once it has exited; `Ok` if it already had.
    ///
    /// A later stop can bring the end forward, never put it off. Errors: `TimedOut` if it outlives SIGKILL by
    /// `KILL_WAIT` (uninterruptible sleep). Source: CRI `StopContainer`.
    pub async fn stop_container(&self, cell: &Arc<ContainerCell>, grace: Duration) -> Result<(), Error> {
        if cell.state().is_exited() {
            return Ok(());
        }
        let deadline = Instant::now() + grace.min(LONGEST_GRACE);
        let mut deadlines = {
            let mut stopping = cell.stopping.lock().unwrap_or_else(PoisonError::into_inner);
            let sender = stopping.get_or_insert_with(|| {
                let (sender, deadlines) = watch::channel(deadline);
                self.room.tasks.spawn(self.clone().run_stop(cell.clone(), deadlines));
                sender
            });
            sender.send_if_modified(|current| deadline < *current && std::mem::replace(current, deadline) != deadline);
            sender.subscribe()
        };
        // Ends when the container has exited, or with the stop task, which then gave up.
        let ended = async {
            tokio::select! {
                biased;
                () = cell.exited() => Ok(()),
                () = async { while deadlines.changed().await.is_ok() {} } => {
                    if cell.state().is_exited() { Ok(()) } else {
                        Err(Error::TimedOut { what: "the end of the container after SIGKILL", limit: KILL_WAIT })
                    }
                }
            }
        };
        let limit = grace.saturating_add(PATIENCE);
        UnderWay::at("stop container", "end its processes")
            .within(Some(limit), ended)
            .await
    }

    /// The one stop of a container. Its end, by the drop of the slot's sender, is seen by those who wait.
    async fn run_stop(self, cell: Arc<ContainerCell>, mut deadlines: watch::Receiver<Instant>) {
        info!(container_id = %cell.plan.id, "stopping");
        let _entered = self
            .room
            .verbs
            .enter(&UnderWay::at("stop container", "end its processes"));
        if cell.state() == ContainerState::Checkpointed {
            self.end_unrestored(&cell).await;
        }
        if matches!(cell.state(), ContainerState::Running { .. }) {
            tokio::select! {
                () = cell.exited() => {}
                () = ask(&cell) => {}
                () = passed(&mut deadlines) => {}
            }
        }
        if !cell.state().is_exited() {
            let cgroup = cell.cgroup_parent.container(&cell.plan.id);
            if let Err(error) = self.drivers().cgroup.kill(&cgroup, KILL_WAIT).await {
                warn!(container_id = %cell.plan.id, %error, "kill by cgroup, trying its first process alone");
            }
            if let Some(process) = cell.held().process
                && let Err(error) = process.signal(libc::SIGKILL)
            {
                warn!(container_id = %cell.plan.id, %error, "kill its first process, ignoring");
            }
            if timeout(KILL_WAIT, cell.exited()).await.is_err() {
                warn!(container_id = %cell.plan.id, "still there after SIGKILL: in uninterruptible sleep?");
            }
        }
        cell.stopping.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Stops a pod: its containers are killed, as CRI has it, its network and namespaces given back. Again and again: `Ok`.
    pub async fn stop_sandbox(&self, cell: Arc<SandboxCell>) -> Result<(), Error> {
        let this = self.clone();
        self.run_to_end(
            "stop pod sandbox",
            Some(PATIENCE),
            async move { this.stop_pod(&cell).await },
        )
        .await
    }

    pub(super) async fn stop_pod(&self, cell: &Arc<SandboxCell>) -> Result<(), Error> {
        let d = self.drivers();
        let plan = &cell.plan;
        if cell.apply(SandboxEvent::Stopped)? {
            self.tell_of_sandbox(What::Stopped, cell);
        }
        under_way::at("wait for its other verbs");
        let _operation = cell.operation.lock().await;
        self.save_sandbox(cell).await;
        // What runs does not wait for a creation that hangs.
        under_way::at("stop the containers");
        self.stop_containers_of(cell).await?;
        // Creations under way see that the pod is stopped and undo themselves; those that were through are listed now.
        under_way::at("wait for the creations in it");
        drop(cell.creating.write().await);
        self.stop_containers_of(cell).await?;
        if cell.infra().is_some() {
            let infra: ContainerId = plan.id.cast();
            let end = release::process(d.clone(), cell.handler.clone(), cell.cgroup_parent.clone(), infra);
            end.step("end pause process").await?;
        }
        if plan.has_own_network() {
            let netns = cell.facts().namespaces.net;
            d.network
                .disconnect(&plan.id, netns.as_deref())
                .step("disconnect network")
                .await?;
        }
        d.namespaces.unpin(&plan.id).step("unpin namespaces").await?;
        info!(sandbox_id = %plan.id, "pod sandbox stopped");
        Ok(())
    }

    async fn stop_containers_of(&self, cell: &SandboxCell) -> Result<(), Error> {
        let containers = self.registry().containers_of(&cell.plan.id);
        let stops = containers
            .iter()
            .map(|container| self.stop_container(container, Duration::ZERO));
        let stopped = futures::future::join_all(stops).await;
        stopped.into_iter().collect()
    }

    /// Writes a sandbox's state down; as with containers, a full disk does not stop it.
    pub(super) async fn save_sandbox(&self, cell: &SandboxCell) {
        let written = cell.written.lock().await;
        if *written == Written::Forgotten {
            return;
        }
        if let Err(error) = self.drivers().store.save_sandbox(&cell.record()).await {
            warn!(sandbox_id = %cell.plan.id, %error, "write record, ignoring");
        }
    }
}

/// Sends the stop signal, and once more if the process begins to handle it only later: as first process of its PID
/// namespace it has lost the first one then. Never ends.
async fn ask(cell: &ContainerCell) {
    let signal = cell.made_of.stop_signal;
    let Some(process) = cell.held().process else {
        return std::future::pending().await;
    };
    let handled = process.catches(signal);
    if let Err(error) = process.signal(signal) {
        warn!(container_id = %cell.plan.id, signal, %error, "send stop signal, ignoring: the kill comes");
    }
    if !handled {
        let (mut pause, longest) = HANDLER_LOOK;
        while !process.catches(signal) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
        if let Err(error) = process.signal(signal) {
            warn!(container_id = %cell.plan.id, signal, %error, "send stop signal again, ignoring: the kill comes");
        }
    }
    std::future::pending().await
}

/// Waits until the deadline, which may be brought forward meanwhile, has passed.
async fn passed(deadlines: &mut watch::Receiver<Instant>) {
    loop {
        let deadline = *deadlines.borrow_and_update();
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => return,
            changed = deadlines.changed() => if changed.is_err() { return },
        }
    }
}
