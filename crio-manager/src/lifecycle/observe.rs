//! The one door by which facts from the kernel come in: exits become events.
//!
//! The truth ladder of an exit: what the monitor wrote; what the kernel tells about a process that is not ours;
//! unknown, with the reason. Nothing turns unknown into 0, and no failed look is taken for an end.

use super::cell::{ContainerCell, SandboxCell};
use super::events::What;
use super::{Lifecycle, release};
use crate::drivers::seams::ProcessHandle;
use crate::model::{ContainerEvent, ContainerId, Exit, ExitStatus, SandboxEvent};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// How long a monitor may take from the end of its container to its last word: it drains and syncs the log.
const LAST_WORD_WAIT: Duration = Duration::from_secs(20);

impl Lifecycle {
    /// Watches a container until it has exited, in a task of its own.
    pub(super) fn observe_container(&self, cell: &Arc<ContainerCell>) {
        // Nothing to watch: it has ended, or has not begun.
        if cell.state().process().is_none() {
            return;
        }
        let (this, cell) = (self.clone(), cell.clone());
        cell.held().each(|process| process.keep());
        // Not one of the tracked tasks: it lasts as long as the container, and a restart takes it up again.
        tokio::spawn(async move {
            let bundle = this.drivers().bundle.path(&cell.plan.id);
            let held = cell.held();
            let exit = this
                .find_exit(&cell.plan.id, &bundle, held.process.as_deref(), held.monitor.as_deref())
                .await;
            this.note_exit(&cell, exit).await;
            held.each(|process| process.let_go());
        });
    }

    /// Watches a pod's own process: its end makes the pod not ready.
    pub(super) fn observe_sandbox(&self, cell: &Arc<SandboxCell>) {
        let Some(infra) = cell.infra() else { return };
        let (this, cell) = (self.clone(), cell.clone());
        tokio::spawn(async move {
            match this.drivers().process.hold(infra.process) {
                Ok(Some(process)) => process.ended().await,
                Ok(None) => {}
                // No failed look is taken for an end.
                Err(error) => {
                    warn!(sandbox_id = %cell.plan.id, %error, "cannot watch the pod's own process");
                    return;
                }
            }
            info!(sandbox_id = %cell.plan.id, "the pod's own process ended");
            // Stopped is possible in every state.
            if let Ok(true) = cell.apply(SandboxEvent::Stopped) {
                this.tell_of_sandbox(What::Stopped, &cell);
            }
            this.save_sandbox(&cell).await;
        });
    }

    /// The end of a container, once it has ended.
    async fn find_exit(
        &self,
        id: &ContainerId,
        bundle: &Path,
        process: Option<&dyn ProcessHandle>,
        monitor: Option<&dyn ProcessHandle>,
    ) -> Exit {
        let monitor_ended = async {
            match monitor {
                Some(monitor) => monitor.ended().await,
                // Gone before it could be held: what it wrote is there, or never comes.
                None => process_ended(process).await,
            }
        };
        tokio::select! {
            () = self.drivers().monitor.exit_recorded(id) => {}
            () = monitor_ended => {}
            () = async { process_ended(process).await; tokio::time::sleep(LAST_WORD_WAIT).await } => {
                warn!(container_id = %id, "the container has ended, its monitor says nothing");
            }
        }
        if let Some(exit) = self.recorded_exit(id, bundle).await {
            return exit;
        }
        // No word from the monitor. If it was killed, the container goes on without it.
        process_ended(process).await;
        if let Some(exit) = self.recorded_exit(id, bundle).await {
            return exit;
        }
        let d = self.drivers();
        let mut status = process.and_then(ProcessHandle::exit_status);
        if let (None, Some(monitor)) = (&status, monitor) {
            // The kernel does not tell. As long as the monitor lives, its word is worth waiting for.
            tokio::select! {
                () = d.monitor.exit_recorded(id) => {}
                () = monitor.ended() => {}
            }
            if let Some(exit) = self.recorded_exit(id, bundle).await {
                return exit;
            }
            status = process.and_then(ProcessHandle::exit_status);
        }
        let status = status.unwrap_or_else(|| {
            ExitStatus::Unknown("its monitor left no record, and the kernel no longer tells".to_owned())
        });
        warn!(container_id = %id, ?status, "exit without a record of the monitor");
        Exit {
            status,
            oom_killed: d.monitor.saw_oom(bundle).await,
            at: d.clock.now(),
        }
    }

    async fn recorded_exit(&self, id: &ContainerId, bundle: &Path) -> Option<Exit> {
        match self.drivers().monitor.recorded_exit(id, bundle).await {
            Ok(exit) => exit,
            Err(error) => {
                warn!(container_id = %id, %error, "read exit record");
                None
            }
        }
    }

    async fn note_exit(&self, cell: &Arc<ContainerCell>, exit: Exit) {
        info!(container_id = %cell.plan.id, code = exit.status.code(), oom = exit.oom_killed, "container exited");
        let status = match exit.status {
            ExitStatus::Unknown(_) => "unknown",
            _ => "known",
        };
        self.tally().exits.get_or_create(&[("status", status)]).inc();
        if exit.oom_killed {
            self.tally().out_of_memory.inc();
        }
        // Processes outlive the first one where it does not rule its PID namespace; they end with the container.
        let cgroup = cell.cgroup_parent.container(&cell.plan.id);
        if let Err(error) = self.drivers().cgroup.kill(&cgroup, release::KILL_WAIT).await {
            warn!(container_id = %cell.plan.id, %error, "end what the container left running, ignoring: its removal does");
        }
        // An exit is possible in every state.
        let _ = cell.apply(ContainerEvent::Exited(exit));
        self.tell_container_state(cell);
        self.save(cell).await;
    }
}

async fn process_ended(process: Option<&dyn ProcessHandle>) {
    if let Some(process) = process {
        process.ended().await;
    }
}
