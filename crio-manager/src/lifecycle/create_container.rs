//! CreateContainer: record, root file system, bundle, monitor: each step with its undo.

use super::Lifecycle;
use super::cell::{ContainerCell, Held, SandboxCell};
use super::error::{CreateFailed, Error, InStep, StepFailed};
use super::release;
use super::undo::Undo;
use crate::drivers::seams::{DriverResult, Launched, MonitorLaunch, Readers, ResolvedImage};
use crate::model::name::UniqueName;
use crate::model::record::{ContainerFacts, ContainerRecord, Progress};
use crate::model::{ContainerId, ContainerPlan, ContainerState, SandboxState};
use std::path::Path;
use std::sync::Arc;
use tracing::info;

const WHAT: &str = "create container";

impl Lifecycle {
    /// Creates a container, or leaves nothing of it behind. A retry gets the one that is there or on its way.
    ///
    /// Errors: `NoSuchSandbox`, `SandboxNotReady`; `Step` when the image is not there; `Create` when a step failed.
    pub async fn create_container(&self, sandbox: Arc<SandboxCell>, plan: ContainerPlan) -> Result<ContainerId, Error> {
        let (this, name) = (self.clone(), UniqueName::container(&plan.metadata, &plan.pod));
        let work = async move { this.make_container(&sandbox, plan).await };
        self.registry().container_names.make_once(WHAT, name, work).await
    }

    async fn make_container(&self, sandbox: &SandboxCell, plan: ContainerPlan) -> Result<ContainerId, Error> {
        ready(sandbox)?;
        let d = self.drivers();
        let image = d.image.resolve(&plan.image).await.in_step("resolve image")?;
        let mut undo = Undo::default();
        match self.container_steps(sandbox, &plan, &image, &mut undo).await {
            Ok((facts, held)) => {
                let id = plan.id.clone();
                let cell = Arc::new(ContainerCell::new(
                    plan,
                    sandbox.handler.clone(),
                    sandbox.cgroup_parent.clone(),
                    facts,
                    d.clock.boot_id(),
                    held,
                ));
                self.registry().insert_container(cell.clone());
                self.observe_container(&cell);
                // A stop of the pod looks at the containers that are visible; this one became so just now.
                if let Err(stopped) = ready(sandbox) {
                    self.remove_cell(&cell).await?;
                    return Err(stopped);
                }
                info!(container_id = %id, sandbox_id = %sandbox.plan.id, "container created");
                Ok(id)
            }
            Err(StepFailed { step, cause }) => {
                let leftovers = undo.run().await;
                if leftovers.is_empty() {
                    self.forget_container(&plan.id).await;
                }
                Err(Arc::new(CreateFailed {
                    what: WHAT,
                    step,
                    cause,
                    leftovers,
                })
                .into())
            }
        }
    }

    async fn container_steps(
        &self,
        sandbox: &SandboxCell,
        plan: &ContainerPlan,
        image: &ResolvedImage,
        undo: &mut Undo,
    ) -> Result<(ContainerFacts, Held), StepFailed> {
        let d = self.drivers();
        let (handler, parent) = (&sandbox.handler, &sandbox.cgroup_parent);
        let mut record = ContainerRecord {
            plan: plan.clone(),
            handler: handler.clone(),
            cgroup_parent: parent.clone(),
            progress: Progress::Making,
            boot_id: d.clock.boot_id(),
        };
        d.store.save_container(&record).await.in_step("record intent")?;

        release::push_rootfs(undo, d, &plan.id);
        let rootfs = d
            .image
            .mount_rootfs(&plan.id, &image.id)
            .await
            .in_step("mount rootfs")?;

        release::push_bundle(undo, d, &plan.id);
        let built = self.specify(sandbox, plan, image, &rootfs).await?;
        for directory in &built.rootfs_dirs {
            d.image
                .ensure_dir(&rootfs, directory)
                .await
                .in_step("make working directory")?;
        }
        for directory in &built.volume_dirs {
            d.bundle
                .make_dir(&plan.id, directory)
                .await
                .in_step("make image volume")?;
        }
        for (name, content) in &built.files {
            d.bundle
                .write(&plan.id, name, content, Readers::Everybody)
                .await
                .in_step("write account files")?;
        }
        d.bundle
            .write(&plan.id, "config.json", &built.json, Readers::Root)
            .await
            .in_step("write bundle")?;

        if let Some(log) = &plan.log_path {
            let directory = log.parent().unwrap_or(Path::new("/"));
            d.host.ensure_dir(directory).await.in_step("make log directory")?;
            if !d.host.exists(log).await {
                let (host, log) = (d.host.clone(), log.clone());
                undo.push("remove log", async move { host.remove_file(&log).await });
            }
        }

        release::push_process(undo, d, handler, parent, &plan.id);
        let launch = MonitorLaunch {
            id: plan.id.clone(),
            name: plan.metadata.name.clone(),
            handler: handler.clone(),
            bundle: d.bundle.path(&plan.id),
            log_path: plan.log_path.clone(),
            tty: plan.tty,
            stdin: plan.stdin,
            leave_stdin_open: plan.stdin && !plan.stdin_once,
            monitor_cgroup: parent.monitor(&plan.id),
        };
        let Launched { process, monitor } = self.launch(launch).await.in_step("launch monitor")?;
        let held = Held {
            process: d.process.hold(process),
            monitor: monitor.and_then(|monitor| d.process.hold(monitor)),
        };

        let facts = ContainerFacts {
            state: ContainerState::Created { process },
            monitor,
            image_id: image.id.clone(),
            image_ref: image.image_ref.clone(),
            stop_signal: built.stop_signal,
            user: built.user,
        };
        record.progress = Progress::Made(facts.clone());
        d.store.save_container(&record).await.in_step("record container")?;
        Ok((facts, held))
    }

    /// Launches a monitor in its own cgroup.
    pub(super) async fn launch(&self, launch: MonitorLaunch) -> DriverResult<Launched> {
        let (cgroups, cgroup) = (self.drivers().cgroup.clone(), launch.monitor_cgroup.clone());
        let limit = launch.handler.create_timeout;
        let place = Box::new(move |monitor| {
            Box::pin(async move { cgroups.place(&cgroup, monitor).await }) as futures::future::BoxFuture<'static, _>
        });
        self.drivers().monitor.create(launch, place, limit).await
    }

    /// Forgets a record when nothing is left that it stands for; a failure only means that the next start looks again.
    pub(super) async fn forget_container(&self, id: &ContainerId) {
        if let Err(error) = self.drivers().store.forget_container(id).await {
            tracing::warn!(container_id = %id, %error, "forget record, ignoring: the next start does");
        }
    }
}

fn ready(sandbox: &SandboxCell) -> Result<(), Error> {
    match sandbox.state() {
        SandboxState::Ready => Ok(()),
        SandboxState::NotReady => Err(Error::SandboxNotReady(sandbox.plan.id.short().to_owned())),
    }
}
