//! StartContainer: what was created runs its own program.

use super::cell::{ContainerCell, Written};
use super::error::{Error, InStep};
use super::under_way::{self, PATIENCE};
use super::{Lifecycle, release};
use crate::model::{ContainerEvent, ContainerState, ProcessId, Refused};
use crate::spans;
use std::sync::Arc;
use tracing::{info, warn};

impl Lifecycle {
    /// Starts a created container; returns once its own program runs, so that no stop signal sent after it is lost.
    ///
    /// Errors: `NoSuchContainer`; `WrongState` when it is not created; `Step` with the runtime's words, and then the
    /// container has exited with reason `StartError`.
    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        let (this, cell) = (self.clone(), self.registry().container(id)?);
        let limit = match cell.state() {
            ContainerState::Checkpointed => cell.handler.create_timeout.saturating_add(PATIENCE),
            _ => PATIENCE,
        };
        self.run_to_end(
            "start container",
            Some(limit),
            async move { this.start_cell(&cell).await },
        )
        .await
    }

    async fn start_cell(&self, cell: &Arc<ContainerCell>) -> Result<(), Error> {
        under_way::at("wait for its other verbs");
        let _operation = cell.operation.lock().await;
        let state = cell.state();
        let (ContainerState::Created { .. } | ContainerState::Checkpointed) = state else {
            return Err(Refused {
                state: state.word(),
                event: "start",
            }
            .into());
        };
        under_way::at("start");
        self.begin_start(cell);
        let outcome = match state.process() {
            Some(process) => self.start_process(cell, process).await,
            None => self.start_from_checkpoint(cell).await,
        };
        self.end_start(cell);
        outcome
    }

    async fn start_process(&self, cell: &ContainerCell, process: ProcessId) -> Result<(), Error> {
        let d = self.drivers();
        match spans::within("start", d.runtime.start(&cell.handler, &cell.plan.id, process)).await {
            Ok(()) => {
                cell.apply(ContainerEvent::Started { at: d.clock.now() })?;
                self.save(cell).await;
                info!(container_id = %cell.plan.id, "container started");
                Ok(())
            }
            Err(cause) => {
                cell.apply(ContainerEvent::StartFailed {
                    why: cause.message.clone(),
                    at: d.clock.now(),
                })?;
                let cgroup = cell.cgroup_parent.container(&cell.plan.id);
                if let Err(error) = d.cgroup.kill(&cgroup, release::KILL_WAIT).await {
                    warn!(container_id = %cell.plan.id, %error, "kill what did not start, ignoring: its removal does");
                }
                self.save(cell).await;
                Err(cause).in_step("start")?
            }
        }
    }

    /// Writes a container's state down. A full disk does not stop the state from changing: the kernel is the truth,
    /// and the next start asks it.
    pub(super) async fn save(&self, cell: &ContainerCell) {
        let written = cell.written.lock().await;
        if *written == Written::Forgotten {
            return;
        }
        if let Err(error) = self.drivers().store.save_container(&cell.record()).await {
            warn!(container_id = %cell.plan.id, %error, "write record, ignoring: the kernel is asked at the next start");
        }
    }
}
