//! RunPodSandbox: record, files, namespaces, network, and a process of its own where the pod needs one.

use super::Lifecycle;
use super::cell::SandboxCell;
use super::error::{Error, InStep, Step, StepFailed};
use super::events::What;
use super::reap::HalfMade;
use super::release;
use super::under_way::PATIENCE;
use super::undo::Undo;
use crate::drivers::seams::{DriverError, DriverResult, ErrorKind, Launched, MonitorLaunch, Readers};
use crate::model::record::{
    Handler, MonitoredProcess, PinnedNamespaces, PodResources, Progress, SandboxFacts, SandboxRecord,
};
use crate::model::security::NamespaceMode;
use crate::model::selinux::Labels;
use crate::model::trust::{NoHandler, Trust};
use crate::model::users::Owner;
use crate::model::{ContainerId, SandboxId, SandboxPlan, SandboxState};
use std::sync::Arc;
use tracing::info;

const WHAT: &str = "run pod sandbox";

impl Lifecycle {
    /// Runs a pod sandbox, or leaves nothing of it behind. A retry gets the one that is there or on its way.
    ///
    /// Errors: `Step` for what can be told before anything is made (an unknown runtime handler, none for an untrusted
    /// pod, a cgroup parent in the wrong syntax, a host port that another pod has), `Create` when a step failed.
    pub async fn run_sandbox(&self, plan: SandboxPlan) -> Result<SandboxId, Error> {
        let (this, name) = (self.clone(), plan.metadata.clone());
        // A handler that cannot be chosen is refused at once.
        let limit = self
            .choose_handler(&plan)
            .map_or(PATIENCE, |(_, handler)| handler.create_timeout.saturating_add(PATIENCE));
        let exists = |id: &SandboxId| self.registry().sandbox(id.as_str()).is_ok();
        let work = async move { this.make_sandbox(plan).await };
        let names = &self.registry().sandbox_names;
        let made = names.make_once(&self.room.tasks, WHAT, name, exists, limit, work).await;
        self.note_stall(made)
    }

    /// By what the pod asks for, and by how far it is trusted.
    fn choose_handler(&self, plan: &SandboxPlan) -> DriverResult<(Trust, Handler)> {
        let (trust, name) = self.defaults().trust.decide(plan)?;
        Ok((trust, self.drivers().runtime.handler(&name)?))
    }

    async fn make_sandbox(&self, plan: SandboxPlan) -> Result<SandboxId, Error> {
        let drivers = self.drivers();
        let (trust, handler) = self.choose_handler(&plan).in_step("choose runtime")?;
        let plan = SandboxPlan {
            trust: Some(trust),
            ..plan
        };
        let parent = drivers
            .cgroup
            .parent(&plan.cgroup_parent)
            .in_step("check cgroup parent")?;
        if plan.namespaces.users.is_some() {
            self.has_user_namespaces(&handler.name)?;
        }
        if plan.has_own_network() {
            drivers.network.admit(&plan).step("check host ports").await?;
        }
        let mut plan = plan;
        let categories = self.claim_categories(&mut plan).in_step("choose SELinux label")?;
        let mut undo = Undo::default();
        let record = SandboxRecord {
            plan,
            handler,
            cgroup_parent: parent,
            progress: Progress::Making,
            boot_id: drivers.clock.boot_id(),
        };
        match self.sandbox_steps(&record, &mut undo).await {
            Ok(facts) => {
                let id = record.plan.id.clone();
                let SandboxRecord {
                    plan,
                    handler,
                    cgroup_parent,
                    boot_id,
                    ..
                } = record;
                let cell = Arc::new(SandboxCell::new(
                    plan,
                    handler,
                    cgroup_parent,
                    facts,
                    boot_id,
                    categories,
                ));
                self.observe_sandbox(&cell);
                self.registry().insert_sandbox(cell.clone());
                self.tell_of_sandbox(What::Created, &cell);
                self.tell_of_sandbox(What::Started, &cell);
                info!(sandbox_id = %id, "pod sandbox ready");
                Ok(id)
            }
            Err(failed) => Err(self
                .undo_creation(WHAT, failed, undo, HalfMade::Sandbox(Box::new(record)))
                .await),
        }
    }

    async fn sandbox_steps(&self, record: &SandboxRecord, undo: &mut Undo) -> Result<SandboxFacts, StepFailed> {
        let d = self.drivers();
        let plan = &record.plan;
        let labels = self.pod_labels(plan)?;
        d.store.save_sandbox(record).step("record intent").await?;

        if let Some(directory) = &plan.log_directory {
            // The kubelet owns it and removes it: there is nothing to undo.
            d.host.ensure_dir(directory).step("make log directory").await?;
        }

        release::push_sandbox_files(undo, d, &plan.id);
        let files = d
            .bundle
            .make_sandbox(plan, labels.file.as_ref())
            .step("write pod files")
            .await?;

        release::push_namespaces(undo, d, &plan.id);
        let namespaces = d.namespaces.pin(plan).step("pin namespaces").await?;

        let ips = match &namespaces.net {
            Some(netns) => {
                release::push_network(undo, d, &plan.id, &namespaces);
                d.network.connect(plan, netns).step("connect network").await?
            }
            None => Vec::new(),
        };
        // Of the pod's own process, and of the containers, which are created as soon as the pod is there.
        d.cgroup.expect_entry();
        d.bundle.write_hosts(plan, &ips).step("write hosts").await?;
        if let Some(label) = &labels.file {
            for path in [&files.resolv_conf, &files.hosts, &files.hostname] {
                d.host.relabel(path, label).step("label pod files").await?;
            }
        }

        let infra = match plan.namespaces.pid {
            NamespaceMode::Pod => Some(self.start_infra(record, &namespaces, &labels, undo).await?),
            NamespaceMode::Container | NamespaceMode::Node | NamespaceMode::Target(_) => None,
        };

        let facts = SandboxFacts {
            state: SandboxState::Ready,
            ips,
            namespaces,
            files,
            infra,
            resources: PodResources::default(),
        };
        let made = SandboxRecord {
            progress: Progress::Made(facts.clone()),
            ..record.clone()
        };
        d.store.save_sandbox(&made).step("record pod sandbox").await?;
        Ok(facts)
    }

    /// Starts the process that holds the pod's shared PID namespace.
    async fn start_infra(
        &self,
        record: &SandboxRecord,
        pins: &PinnedNamespaces,
        labels: &Labels,
        undo: &mut Undo,
    ) -> Result<MonitoredProcess, StepFailed> {
        let d = self.drivers();
        let (plan, handler, parent) = (&record.plan, &record.handler, &record.cgroup_parent);
        let id: ContainerId = plan.id.cast();

        release::push_bundle(undo, d, &id);
        let rootfs = d
            .bundle
            .make_infra_rootfs(&plan.id, Owner::root_of(plan.namespaces.users.as_ref()))
            .step("make pause rootfs")
            .await?;
        let config = self.specify_infra(plan, pins, &rootfs, parent, labels).await?;
        d.bundle
            .write(&id, "config.json", &config, Readers::Root)
            .step("write pause bundle")
            .await?;

        release::push_process(undo, d, handler, parent, &id);
        let launch = MonitorLaunch {
            id: id.clone(),
            name: "POD".to_owned(),
            handler: handler.clone(),
            bundle: d.bundle.path(&id),
            log_path: None,
            tty: false,
            own_users: plan.namespaces.users.is_some(),
            stdin: false,
            leave_stdin_open: false,
            restore: None,
            entrance: d
                .cgroup
                .entrance(&handler.monitor_cgroup(parent, &id))
                .step("make monitor cgroup")
                .await?,
        };
        let Launched { process, monitor } = d.monitor.create(launch).step("launch pause monitor").await?;
        d.runtime
            .start(handler, &id, process)
            .step("start pause process")
            .await?;
        Ok(MonitoredProcess { process, monitor })
    }

    /// Forgets a record when nothing is left that it stands for; a failure only means that the next start looks again.
    pub(super) async fn forget_sandbox(&self, id: &SandboxId) {
        if let Err(error) = self.drivers().store.forget_sandbox(id).await {
            tracing::warn!(sandbox_id = %id, %error, "forget record, ignoring: the next start does");
        }
    }
}

impl From<NoHandler> for DriverError {
    fn from(refused: NoHandler) -> Self {
        let kind = match refused {
            NoHandler::NoneForUntrusted => ErrorKind::Unsupported,
            NoHandler::Contradicts { .. } => ErrorKind::Invalid,
        };
        Self::new(kind, refused.to_string())
    }
}
