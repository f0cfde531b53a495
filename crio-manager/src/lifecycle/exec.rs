//! ExecSync: a command in a running container, to its end or its time limit.

use super::Lifecycle;
use super::cell::ContainerCell;
use super::error::{Error, InStep, Step};
use super::specify::specify_exec;
use super::under_way::PATIENCE;
use crate::drivers::seams::{ExecLaunch, ExecOutcome};
use crate::model::{ContainerId, ContainerState};
use std::sync::Arc;
use std::time::Duration;

impl Lifecycle {
    /// The OCI spec that a container was made from; null once its bundle is gone.
    pub async fn spec_json(&self, id: &ContainerId) -> serde_json::Value {
        let config = self.drivers().bundle.read_spec(id).await.unwrap_or_default();
        serde_json::from_slice(&config).unwrap_or_default()
    }

    /// Runs a command in a running container, to its end or until `timeout`.
    ///
    /// Errors: `NoSuchContainer`; `NotRunning`; `Step` with the runtime's words when the command cannot be run.
    /// An exit code other than 0 is no error.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutcome, Error> {
        let cell = self.running(id)?;
        let this = self.clone();
        let limit = timeout.map(|timeout| timeout.saturating_add(PATIENCE));
        self.run_to_end("exec", limit, async move {
            let d = this.drivers();
            let launch = this.exec_launch(&cell, &command, cell.plan.tty).await?;
            let launch = ExecLaunch { timeout, ..launch };
            Ok(d.monitor.exec(launch).step("exec").await?)
        })
        .await
    }

    /// A container that runs.
    pub(super) fn running(&self, id: &str) -> Result<Arc<ContainerCell>, Error> {
        let cell = self.registry().container(id)?;
        let state = cell.state();
        if matches!(state, ContainerState::Running { .. }) {
            return Ok(cell);
        }
        Err(Error::NotRunning {
            id: cell.plan.id.short().to_owned(),
            state: state.word(),
        })
    }

    /// A command in this container, without input or time limit.
    pub(super) async fn exec_launch(
        &self,
        cell: &ContainerCell,
        command: &[String],
        tty: bool,
    ) -> Result<ExecLaunch, Error> {
        let d = self.drivers();
        let monitor_cgroup = cell.handler.monitor_cgroup(&cell.cgroup_parent, &cell.plan.id);
        let (config, entrance) = tokio::try_join!(
            d.bundle.read_spec(&cell.plan.id).step("read spec"),
            d.cgroup.entrance(&monitor_cgroup).step("make monitor cgroup"),
        )?;
        let process_json = specify_exec(&config, command, tty).in_step("build exec")?;
        Ok(ExecLaunch {
            id: cell.plan.id.clone(),
            handler: cell.handler.clone(),
            process_json,
            tty,
            own_users: cell.plan.security.namespaces.users.is_some(),
            stdin: false,
            timeout: None,
            entrance,
        })
    }
}
