//! The spec of a pod's own process: the pause program and nothing else.

use super::json;
use super::namespaces::pod_users;
use super::selinux::selinux_labels;
use crate::drivers::seams::DriverError;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::error::{InStep, StepFailed};
use crate::model::record::PinnedNamespaces;
use crate::model::security::Profile;
use crate::model::selinux::Labels;
use crate::model::{CgroupPath, SandboxPlan};
use crate::spec::annotations::AnnotationRequest;
use crate::spec::mounts::{Access, Mount, MountAccess, MountRequest};
use crate::spec::namespaces::Namespace;
use crate::spec::process::ProcessRequest;
use crate::spec::resources::Resources;
use crate::spec::security::{AppArmor, CapabilityRequest, NewPrivileges, Privilege, SecurityRequest};
use crate::spec::user::ResolvedUser;
use crate::spec::{self, ContainerPath, ImageConfig, Kind, Rootfs, SpecInput};
use std::path::Path;

/// The pod's own process is killed for want of memory after everything else in the pod.
const INFRA_OOM_SCORE_ADJ: i32 = -998;

impl Lifecycle {
    /// The spec of a pod's own process: the pause program and nothing else.
    pub(in crate::lifecycle) async fn specify_infra(
        &self,
        plan: &SandboxPlan,
        pins: &PinnedNamespaces,
        rootfs: &Path,
        parent: &CgroupPath,
        labels: &Labels,
    ) -> Result<Vec<u8>, StepFailed> {
        // Nobody asked for the pause program, so that where nothing is said it has a filter all the same.
        let asked = plan.seccomp.as_ref().unwrap_or(&Profile::RuntimeDefault);
        let seccomp = self.seccomp_request(asked).await?;
        let defaults = self.defaults();
        let pause = ContainerPath::parse("/pause").unwrap_or_else(|_| ContainerPath::root());
        let input = SpecInput {
            id: plan.id.to_string(),
            kind: Kind::Sandbox,
            node: defaults.node.clone(),
            rootfs: Rootfs {
                path: rootfs.to_owned(),
                access: Access::ReadOnly,
            },
            image: ImageConfig::default(),
            process: ProcessRequest {
                command: vec![pause.as_str().to_owned()],
                oom_score_adj: Some(INFRA_OOM_SCORE_ADJ),
                ..ProcessRequest::default()
            },
            user: ResolvedUser::root(),
            security: SecurityRequest {
                privilege: Privilege::Confined,
                capabilities: CapabilityRequest::default(),
                new_privileges: NewPrivileges::Forbidden,
                masked_paths: spec::security::default_masked_paths(),
                readonly_paths: spec::security::default_readonly_paths(),
                seccomp,
                apparmor: AppArmor::Absent,
                selinux: selinux_labels(labels),
            },
            namespaces: self.namespaces(
                pins,
                pod_users(plan.namespaces.users, pins).as_ref(),
                Namespace::New,
                false,
            ),
            hostname: plan.hostname.clone(),
            sysctls: Default::default(),
            mounts: MountRequest {
                mounts: vec![Mount {
                    container_path: pause,
                    host_path: defaults.pause_path.clone(),
                    access: MountAccess::ReadOnly,
                    propagation: spec::mounts::Propagation::Private,
                }],
                ..MountRequest::default()
            },
            devices: Vec::new(),
            resources: Resources::default(),
            cgroups_path: parent.container_for_runtime(&plan.id.cast()),
            annotations: AnnotationRequest::default(),
            additions: Default::default(),
        };
        let config = spec::build(&input).and_then(|built| json(&built.spec));
        config.map_err(DriverError::from).in_step("build pause spec")
    }
}
