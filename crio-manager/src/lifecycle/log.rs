//! ReopenContainerLog: the monitor goes on in a new file, after somebody renamed the old one.

use super::Lifecycle;
use super::error::{Error, Step};
use super::under_way::PATIENCE;
use crate::model::ContainerState;

impl Lifecycle {
    /// Has the container's log file opened anew, after somebody renamed it; returns once the new file is there.
    ///
    /// Errors: `NoSuchContainer`; `NotRunning`, and then no file is made.
    pub async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        let cell = self.registry().container(id)?;
        let state = cell.state();
        if !matches!(state, ContainerState::Running { .. }) {
            return Err(Error::NotRunning {
                id: cell.plan.id.short().to_owned(),
                state: state.word(),
            });
        }
        let this = self.clone();
        self.run_to_end("reopen log", Some(PATIENCE), async move {
            let Some(log_path) = &cell.plan.log_path else {
                return Ok(());
            };
            let d = this.drivers();
            let bundle = d.bundle.path(&cell.plan.id);
            Ok(d.monitor.reopen_log(&bundle, log_path).step("reopen log").await?)
        })
        .await
    }
}
