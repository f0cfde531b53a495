//! CreateContainer: record, root file system, bundle, monitor: each step with its undo.

use super::Lifecycle;
use super::cell::{ContainerCell, Held, SandboxCell};
use super::error::{Error, InStep, Step, StepFailed, stopped_meanwhile};
use super::events::What;
use super::from_checkpoint::MadeFrom;
use super::reap::HalfMade;
use super::release;
use super::specify::pod_users;
use super::under_way::{self, PATIENCE};
use super::undo::Undo;
use crate::drivers::seams::{
    DriverError, DriverResult, Drivers, ErrorKind, Launched, MonitorLaunch, ProcessHandle, Readers,
};
use crate::model::record::{ContainerFacts, ContainerRecord, Progress};
use crate::model::selinux::View;
use crate::model::users::Owner;
use crate::model::{ContainerId, ContainerPlan, ContainerState, ProcessId, SandboxState};
use crate::spans;
use crate::spec::Support;
use std::path::PathBuf;
use std::sync::Arc;
use tracing::info;

const WHAT: &str = "create container";

/// The processes of a container that was made just now.
pub(super) struct MadeProcesses {
    pub(super) process: ProcessId,
    pub(super) monitor: Option<ProcessId>,
    pub(super) held: Held,
}

impl Lifecycle {
    /// Creates a container, or leaves nothing of it behind. A retry gets the one that is there or on its way.
    ///
    /// Errors: `NoSuchSandbox`, `SandboxNotReady`; `NoRecursiveReadOnly`; `Step` when the image is not there; `Create` when a step failed.
    pub async fn create_container(&self, sandbox: Arc<SandboxCell>, plan: ContainerPlan) -> Result<ContainerId, Error> {
        let (this, name) = (self.clone(), plan.name());
        let limit = sandbox.handler.create_timeout.saturating_add(PATIENCE);
        let exists = |id: &ContainerId| self.registry().container(id.as_str()).is_ok();
        let work = async move { this.make_container(&sandbox, plan).await };
        let names = &self.registry().container_names;
        let made = names.make_once(&self.room.tasks, WHAT, name, exists, limit, work).await;
        self.note_stall(made)
    }

    async fn make_container(&self, sandbox: &SandboxCell, plan: ContainerPlan) -> Result<ContainerId, Error> {
        // A stop of the pod waits for this, then looks at the containers that are there.
        let _creating = sandbox.creating.read().await;
        if sandbox.state() == SandboxState::NotReady {
            return Err(Error::SandboxNotReady(sandbox.plan.id.short().to_owned()));
        }
        let d = self.drivers();
        d.cgroup.expect_entry();
        if let Some(mount) = plan.mounts.iter().find(|mount| mount.recursive_read_only)
            && self.recursive_read_only(&sandbox.handler.name) == Support::Absent
        {
            return Err(Error::NoRecursiveReadOnly {
                path: mount.container_path.clone(),
                handler: sandbox.handler.name.clone(),
            });
        }
        let made_from = self.named(sandbox, &plan).await?;
        let plan = ContainerPlan {
            image: made_from.image_name.clone(),
            ..plan
        };
        let mut undo = Undo::default();
        let record = ContainerRecord {
            plan,
            handler: sandbox.handler.clone(),
            cgroup_parent: sandbox.cgroup_parent.clone(),
            progress: Progress::Making,
            boot_id: d.clock.boot_id(),
        };
        match self.container_steps(sandbox, &record, &made_from, &mut undo).await {
            Ok((facts, held)) => {
                let id = record.plan.id.clone();
                let cell = Arc::new(ContainerCell::new(
                    record.plan,
                    record.handler,
                    record.cgroup_parent,
                    facts,
                    record.boot_id,
                    held,
                ));
                self.registry().insert_container(cell.clone());
                self.tell_of_container(What::Created, &cell);
                self.observe_container(&cell);
                info!(container_id = %id, sandbox_id = %sandbox.plan.id, "container created");
                Ok(id)
            }
            Err(failed) => Err(self
                .undo_creation(WHAT, failed, undo, HalfMade::Container(Box::new(record)))
                .await),
        }
    }

    async fn container_steps(
        &self,
        sandbox: &SandboxCell,
        record: &ContainerRecord,
        made_from: &MadeFrom,
        undo: &mut Undo,
    ) -> Result<(ContainerFacts, Held), StepFailed> {
        let d = self.drivers();
        let MadeFrom { image, checkpoint, .. } = made_from;
        let (plan, handler, parent) = (&record.plan, &record.handler, &record.cgroup_parent);
        d.store.save_container(record).step("record intent").await?;

        release::push_rootfs(undo, d, &plan.id);
        let view = View {
            users: pod_users(plan.security.namespaces.users, &sandbox.facts().namespaces),
            label: self.container_labels(&sandbox.plan, &plan.security)?.file,
        };
        let owner = Owner::root_of(plan.security.namespaces.users.as_ref());
        let rootfs = d
            .image
            .mount_rootfs(&plan.id, &image.id, &view)
            .step("mount rootfs")
            .await?;

        if let Some(checkpoint) = checkpoint {
            d.checkpoint
                .import(&plan.id, &checkpoint.source, &rootfs)
                .step("unpack checkpoint")
                .await?;
        }

        release::push_bundle(undo, d, &plan.id);
        let built = self.specify(sandbox, plan, image, &rootfs, &view).await?;
        for directory in &built.rootfs_dirs {
            d.image
                .ensure_dir(&rootfs, directory, owner)
                .step("make working directory")
                .await?;
        }
        for directory in &built.volume_dirs {
            d.bundle
                .make_dir(&plan.id, directory, owner)
                .step("make image volume")
                .await?;
        }
        for (source, below) in &built.copies {
            d.bundle
                .copy(&plan.id, below, source)
                .step("copy default mount")
                .await?;
        }
        for (name, content) in &built.files {
            d.bundle
                .write(&plan.id, name, content, Readers::Everybody(owner))
                .step("write account files")
                .await?;
        }
        if let Some((label, made)) = &built.label {
            for path in made {
                d.host.relabel(path, label).step("label files").await?;
            }
        }
        d.bundle
            .write(&plan.id, "config.json", &built.json, Readers::Root)
            .step("write bundle")
            .await?;

        let (state, monitor, held) = match checkpoint {
            None => {
                self.launch_created(sandbox, record, built.joined_pid_namespace, undo)
                    .await?
            }
            Some(checkpoint) => {
                checkpoint.check_mounts(&built.json)?;
                if built.joined_pid_namespace.is_some() {
                    let why = "a container that shares a PID namespace cannot be made from a checkpoint";
                    return Err(DriverError::new(ErrorKind::Unsupported, why)).in_step("join the PID namespace");
                }
                release::push_process(undo, d, handler, parent, &plan.id);
                (ContainerState::Checkpointed, None, Held::default())
            }
        };

        let facts = ContainerFacts {
            state,
            monitor,
            image_id: image.id.clone(),
            image_ref: image.image_ref.clone(),
            stop_signal: built.stop_signal,
            user: built.user,
            volume_images: built.volume_images,
        };
        let made = ContainerRecord {
            progress: Progress::Made(facts.clone()),
            ..record.clone()
        };
        d.store.save_container(&made).step("record container").await?;
        Ok((facts, held))
    }

    /// The monitor has the OCI runtime make the container, whose first process waits for its start then.
    async fn launch_created(
        &self,
        sandbox: &SandboxCell,
        record: &ContainerRecord,
        joined_pid_namespace: Option<ProcessId>,
        undo: &mut Undo,
    ) -> Result<(ContainerState, Option<ProcessId>, Held), StepFailed> {
        let d = self.drivers();
        let log_path = self.prepare_log(sandbox, &record.plan).await?;
        if let Some(log) = &log_path
            && !d.host.exists(log).await
        {
            let (host, log) = (d.host.clone(), log.clone());
            undo.push("remove log", async move { host.remove_file(&log).await });
        }
        release::push_process(undo, d, &record.handler, &record.cgroup_parent, &record.plan.id);
        let MadeProcesses { process, monitor, held } = self.launch(sandbox, record, log_path, None).await?;
        if let Some(owner) = joined_pid_namespace {
            // Its pid cannot have been another's if it is still there: what was joined was its namespace.
            let still = hold(d, Some(owner)).in_step("look at the PID namespace")?;
            let gone = DriverError::new(
                ErrorKind::Failed,
                "the process whose PID namespace was to be shared has ended",
            );
            still.ok_or(gone).in_step("join the PID namespace")?;
        }
        Ok((ContainerState::Created { process }, monitor, held))
    }

    /// Launches the monitor of a container, which has the OCI runtime make it; from criu's images, with the processes
    /// that it had.
    pub(super) async fn launch(
        &self,
        sandbox: &SandboxCell,
        record: &ContainerRecord,
        log_path: Option<PathBuf>,
        restore: Option<PathBuf>,
    ) -> Result<MadeProcesses, StepFailed> {
        let d = self.drivers();
        let (plan, handler, parent) = (&record.plan, &record.handler, &record.cgroup_parent);
        let launch = MonitorLaunch {
            id: plan.id.clone(),
            name: plan.metadata.name.clone(),
            handler: handler.clone(),
            bundle: d.bundle.path(&plan.id),
            log_path,
            tty: plan.tty,
            own_users: plan.security.namespaces.users.is_some(),
            stdin: plan.stdin,
            leave_stdin_open: plan.stdin && !plan.stdin_once,
            entrance: d
                .cgroup
                .entrance(&handler.monitor_cgroup(parent, &plan.id))
                .step("make monitor cgroup")
                .await?,
            restore,
        };
        under_way::at("launch monitor");
        // A pod that is stopped meanwhile does not wait for a runtime that hangs: the undo ends it.
        let launched = spans::within("launch monitor", async {
            tokio::select! {
                launched = d.monitor.create(launch) => launched,
                () = sandbox.stopped() => Err(stopped_meanwhile()),
            }
        })
        .await;
        let launched = match launched {
            Err(failed) => Err(self.blame_limits(&plan.resources, parent, failed).await),
            launched => launched,
        };
        let Launched { process, monitor } = launched.in_step("launch monitor")?;
        if plan.mounts.iter().any(|mount| mount.id_mapped) {
            d.bundle
                .unmount_copies(&plan.id)
                .step("unmount id-mapped copies")
                .await?;
        }
        let cgroup = parent.container(&plan.id);
        d.cgroup
            .complete_limits(&cgroup, &plan.resources)
            .step("complete limits")
            .await?;
        spans::note("pid", process.pid.get());
        let held = Held {
            process: hold(d, Some(process)).in_step("take hold of the process")?,
            monitor: hold(d, monitor).in_step("take hold of the monitor")?,
        };
        if sandbox.state() == SandboxState::NotReady {
            return Err(DriverError::new(ErrorKind::Failed, "it was stopped meanwhile")).in_step("join the pod");
        }
        Ok(MadeProcesses { process, monitor, held })
    }

    /// The container's log file, its directory made and found to be the pod's: symlinks must not lead elsewhere.
    pub(super) async fn prepare_log(
        &self,
        sandbox: &SandboxCell,
        plan: &ContainerPlan,
    ) -> Result<Option<PathBuf>, StepFailed> {
        let (Some(log), Some(of_pod)) = (&plan.log_path, &sandbox.plan.log_directory) else {
            return Ok(None);
        };
        let (Some(directory), Some(name)) = (log.parent(), log.file_name()) else {
            return Ok(None);
        };
        let host = &self.drivers().host;
        let of_pod = host.ensure_dir(of_pod).step("make log directory").await?;
        let directory = host.ensure_dir(directory).step("make log directory").await?;
        if !directory.starts_with(&of_pod) {
            let why = format!("{} leads out of the pod's log directory", log.display());
            return Err(DriverError::new(ErrorKind::Invalid, why)).in_step("make log directory");
        }
        Ok(Some(directory.join(name)))
    }

    /// Forgets a record when nothing is left that it stands for; a failure only means that the next start looks again.
    pub(super) async fn forget_container(&self, id: &ContainerId) {
        if let Err(error) = self.drivers().store.forget_container(id).await {
            tracing::warn!(container_id = %id, %error, "forget record, ignoring: the next start does");
        }
    }
}

/// Takes hold of a process; `None` for one that has ended.
pub(super) fn hold(d: &Drivers, process: Option<ProcessId>) -> DriverResult<Option<Arc<dyn ProcessHandle>>> {
    process.map_or(Ok(None), |process| d.process.hold(process))
}
