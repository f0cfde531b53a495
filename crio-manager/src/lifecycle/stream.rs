//! Exec, Attach and PortForward: a client at a command, a container or a port, for as long as both stay.

use super::Lifecycle;
use super::error::{Error, Step};
use super::under_way::PATIENCE;
use crate::drivers::seams::{ExecLaunch, Session, Streamed};
use crate::model::{ContainerId, SandboxId, SandboxState};
use tokio::net::TcpStream;
use tracing::Instrument;

impl Lifecycle {
    /// The container that an exec shall run in. Errors: `NoSuchContainer`; `NotRunning`.
    pub fn running_container(&self, id: &str) -> Result<ContainerId, Error> {
        Ok(self.running(id)?.plan.id.clone())
    }

    /// The container to attach to, and whether it has a terminal. Errors: `NoSuchContainer`; `NotRunning`.
    pub fn attachable(&self, id: &str) -> Result<(ContainerId, bool), Error> {
        let cell = self.running(id)?;
        Ok((cell.plan.id.clone(), cell.plan.tty))
    }

    /// The pod whose ports are asked for. Errors: `NoSuchSandbox`; `SandboxNotReady`.
    pub fn ready_sandbox(&self, id: &str) -> Result<SandboxId, Error> {
        let cell = self.registry().sandbox(id)?;
        match cell.state() {
            SandboxState::Ready => Ok(cell.plan.id.clone()),
            SandboxState::NotReady => Err(Error::SandboxNotReady(cell.plan.id.short().to_owned())),
        }
    }

    /// Runs a command with a client at its standard streams; returns once it runs.
    ///
    /// Errors: `NoSuchContainer`; `NotRunning`; `Step` with the runtime's words when the command cannot be run.
    pub async fn exec_attached(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        tty: bool,
        stdin: bool,
    ) -> Result<Session, Error> {
        let cell = self.running(id.as_str())?;
        let this = self.clone();
        self.run_to_end("exec", Some(PATIENCE), async move {
            let launch = this.exec_launch(&cell, &command, tty).await?;
            let launch = ExecLaunch { stdin, ..launch };
            let streamed = this.drivers().monitor.exec_attached(launch).step("exec").await?;
            Ok(this.carry(streamed))
        })
        .await
    }

    /// Puts a client at the standard streams of a container. Several may be there at once; nothing is replayed.
    pub fn attach(&self, id: &ContainerId) -> Result<Session, Error> {
        let d = self.drivers();
        let cell = self.running(id.as_str())?;
        let streamed = d.monitor.attach(&d.bundle.path(&cell.plan.id));
        let streamed = streamed.map_err(|cause| Error::Step { step: "attach", cause })?;
        Ok(self.carry(streamed))
    }

    /// Connects to a port of a pod, on its loopback interface.
    pub async fn dial(&self, id: &SandboxId, port: u16) -> Result<TcpStream, Error> {
        self.ready_sandbox(id.as_str())?;
        let netns = self.registry().sandbox(id.as_str())?.facts().namespaces.net;
        let dialled = self.drivers().namespaces.dial(netns.as_deref(), port).await;
        dialled.map_err(|cause| Error::Step {
            step: "connect to the port",
            cause,
        })
    }

    /// Sees to it that the session's work is done, and that the daemon does not leave before it is.
    fn carry(&self, streamed: Streamed) -> Session {
        let Streamed { session, work } = streamed;
        self.room.tasks.spawn(work.in_current_span());
        session
    }
}
