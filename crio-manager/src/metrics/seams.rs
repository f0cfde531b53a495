//! Seams with a count around them: what the OCI runtime and the CNI plugins are asked for, how it ended, how long it took.

use super::{Counts, Invocations};
use crate::drivers::seams::{
    CheckpointPlace, DriverResult, Drivers, ExecLaunch, ExecOutcome, HandlerHealth, Launched, Monitor, MonitorLaunch,
    OciRuntime, PodNetworks, Streamed,
};
use crate::model::record::Handler;
use crate::model::{ContainerId, Exit, ProcessId, SandboxId, SandboxPlan, Timestamp};
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// The same drivers, counted.
pub fn counted(drivers: Drivers, counts: &Counts) -> Drivers {
    let invocations = counts.runtime.clone();
    Drivers {
        runtime: Arc::new(CountedRuntime(drivers.runtime, invocations.clone())),
        monitor: Arc::new(CountedMonitor(drivers.monitor, invocations)),
        network: Arc::new(CountedNetworks(drivers.network, counts.clone())),
        ..drivers
    }
}

impl Invocations {
    async fn count<T>(&self, verb: &'static str, work: impl Future<Output = DriverResult<T>>) -> DriverResult<T> {
        let began = Instant::now();
        let outcome = work.await;
        self.latencies
            .get_or_create(&[("verb", verb)])
            .observe(began.elapsed().as_secs_f64());
        let result = outcome.as_ref().err().map_or("ok", |error| error.kind.word());
        self.results.get_or_create(&[("verb", verb), ("result", result)]).inc();
        outcome
    }
}

struct CountedRuntime(Arc<dyn OciRuntime>, Invocations);

#[async_trait]
impl OciRuntime for CountedRuntime {
    fn handler(&self, name: &str) -> DriverResult<Handler> {
        self.0.handler(name)
    }

    async fn start(&self, handler: &Handler, id: &ContainerId, process: ProcessId) -> DriverResult<()> {
        self.1.count("start", self.0.start(handler, id, process)).await
    }

    async fn update(&self, handler: &Handler, id: &ContainerId, resources_json: Vec<u8>) -> DriverResult<()> {
        self.1.count("update", self.0.update(handler, id, resources_json)).await
    }

    async fn can_checkpoint(&self, handler: &Handler) -> DriverResult<()> {
        self.0.can_checkpoint(handler).await
    }

    async fn pause(&self, handler: &Handler, id: &ContainerId) -> DriverResult<()> {
        self.1.count("pause", self.0.pause(handler, id)).await
    }

    async fn resume(&self, handler: &Handler, id: &ContainerId) -> DriverResult<()> {
        self.1.count("resume", self.0.resume(handler, id)).await
    }

    async fn checkpoint(&self, handler: &Handler, id: &ContainerId, place: &CheckpointPlace) -> DriverResult<()> {
        self.1.count("checkpoint", self.0.checkpoint(handler, id, place)).await
    }

    async fn delete(&self, handler: &Handler, id: &ContainerId) -> DriverResult<()> {
        self.1.count("delete", self.0.delete(handler, id)).await
    }

    async fn forget(&self, handler: &Handler, id: &ContainerId) -> DriverResult<()> {
        self.0.forget(handler, id).await
    }

    fn handlers(&self) -> Vec<Handler> {
        self.0.handlers()
    }

    fn started_at(&self, handler: &Handler, id: &ContainerId) -> Option<Timestamp> {
        self.0.started_at(handler, id)
    }

    fn health(&self) -> Vec<HandlerHealth> {
        self.0.health()
    }
}

struct CountedMonitor(Arc<dyn Monitor>, Invocations);

#[async_trait]
impl Monitor for CountedMonitor {
    async fn create(&self, launch: MonitorLaunch) -> DriverResult<Launched> {
        self.1.count("create", self.0.create(launch)).await
    }

    async fn exec(&self, exec: ExecLaunch) -> DriverResult<ExecOutcome> {
        self.1.count("exec", self.0.exec(exec)).await
    }

    async fn exec_attached(&self, exec: ExecLaunch) -> DriverResult<Streamed> {
        self.1.count("exec_attached", self.0.exec_attached(exec)).await
    }

    fn attach(&self, bundle: &Path) -> DriverResult<Streamed> {
        self.0.attach(bundle)
    }

    async fn reopen_log(&self, bundle: &Path, log_path: &Path) -> DriverResult<()> {
        self.0.reopen_log(bundle, log_path).await
    }

    async fn exit_recorded(&self, id: &ContainerId) {
        self.0.exit_recorded(id).await;
    }

    async fn recorded_exit(&self, id: &ContainerId, bundle: &Path) -> DriverResult<Option<Exit>> {
        self.0.recorded_exit(id, bundle).await
    }

    async fn saw_oom(&self, bundle: &Path) -> bool {
        self.0.saw_oom(bundle).await
    }

    async fn forget_exit(&self, id: &ContainerId) -> DriverResult<()> {
        self.0.forget_exit(id).await
    }
}

struct CountedNetworks(Arc<dyn PodNetworks>, Counts);

#[async_trait]
impl PodNetworks for CountedNetworks {
    fn ready(&self) -> Result<(), String> {
        self.0.ready()
    }

    async fn admit(&self, plan: &SandboxPlan) -> DriverResult<()> {
        self.0.admit(plan).await
    }

    async fn connect(&self, plan: &SandboxPlan, netns: &Path) -> DriverResult<Vec<IpAddr>> {
        let began = Instant::now();
        let outcome = self.1.cni.count("add", self.0.connect(plan, netns)).await;
        // CRI-O has it among the operations.
        self.1.took("network_setup_pod", began.elapsed());
        outcome
    }

    async fn disconnect(&self, id: &SandboxId, netns: Option<&Path>) -> DriverResult<()> {
        self.1.cni.count("del", self.0.disconnect(id, netns)).await
    }

    async fn keep_only(&self, pods: BTreeSet<String>) -> DriverResult<()> {
        self.0.keep_only(pods).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::seams::{DriverError, ErrorKind};

    #[tokio::test]
    async fn what_fails_is_counted_by_the_kind_of_its_error_with_its_time() {
        let invocations = Invocations::default();
        invocations.count("start", async { Ok(()) }).await.unwrap();
        let failed = invocations.count::<()>("start", async { Err(DriverError::new(ErrorKind::TimedOut, "slow")) });
        assert!(failed.await.is_err());
        let counted = |result| {
            let labels = [("verb", "start"), ("result", result)];
            invocations.results.get_or_create(&labels).get()
        };
        assert_eq!((counted("ok"), counted("timed_out"), counted("failed")), (1, 1, 0));
        assert_eq!(invocations.latencies.get_or_create(&[("verb", "start")]).count(), 2);
    }
}
