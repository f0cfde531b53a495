//! Which namespaces a container joins.

use crate::drivers::seams::{DriverError, ErrorKind};
use crate::lifecycle::Lifecycle;
use crate::lifecycle::cell::SandboxCell;
use crate::model::ProcessId;
use crate::model::container::ContainerPlan;
use crate::model::record::PinnedNamespaces;
use crate::model::security::NamespaceMode;
use crate::model::users::{PodUsers, UserMappings};
use crate::spec;
use crate::spec::namespaces::{IdMappings, IdRange, Namespace, Namespaces, UserNamespace};
use std::path::PathBuf;

impl Lifecycle {
    /// Which processes the container sees.
    pub(super) fn pid_namespace(
        &self,
        sandbox: &SandboxCell,
        plan: &ContainerPlan,
    ) -> Result<(Namespace, Option<ProcessId>), DriverError> {
        let of = |process: ProcessId| {
            let path = format!("/proc/{}/ns/pid", process.pid);
            (Namespace::Path(path.into()), Some(process))
        };
        let wrong = |why: String| DriverError::new(ErrorKind::Invalid, why);
        match &plan.security.namespaces.pid {
            NamespaceMode::Container => Ok((Namespace::New, None)),
            NamespaceMode::Node => Ok((Namespace::Host, None)),
            NamespaceMode::Pod => match sandbox.infra() {
                Some(infra) => Ok(of(infra.process)),
                None => Err(wrong("the pod was made without a shared PID namespace".to_owned())),
            },
            NamespaceMode::Target(id) => {
                let target = self
                    .registry()
                    .container(id)
                    .map_err(|error| wrong(error.to_string()))?;
                match target.state().process() {
                    Some(process) if target.plan.sandbox_id == sandbox.plan.id => Ok(of(process)),
                    Some(_) => Err(wrong(format!("target container {id} is in another pod"))),
                    None => Err(wrong(format!("target container {id} has exited"))),
                }
            }
        }
    }

    pub(super) fn namespaces(
        &self,
        pins: &PinnedNamespaces,
        users: Option<&PodUsers>,
        pid: Namespace,
        privileged: bool,
    ) -> Namespaces {
        let pinned = |pin: &Option<PathBuf>| pin.clone().map_or(Namespace::Host, Namespace::Path);
        let v2 = self.defaults().node.cgroup == spec::resources::CgroupVersion::V2;
        Namespaces {
            pid,
            network: pinned(&pins.net),
            ipc: pinned(&pins.ipc),
            uts: pinned(&pins.uts),
            cgroup: if v2 && !privileged {
                Namespace::New
            } else {
                Namespace::Host
            },
            user: users.map_or(UserNamespace::Host, |users| {
                UserNamespace::Path(users.namespace.clone(), id_mappings(&users.mappings))
            }),
        }
    }
}

/// The user namespace of a pod that has one.
pub(in crate::lifecycle) fn pod_users(asked: Option<UserMappings>, pins: &PinnedNamespaces) -> Option<PodUsers> {
    Some(PodUsers {
        namespace: pins.user.clone()?,
        mappings: asked?,
    })
}

fn id_mappings(mappings: &UserMappings) -> IdMappings {
    let range = |range: crate::model::users::IdRange| IdRange {
        inside: 0,
        outside: range.first,
        length: range.length,
    };
    IdMappings {
        uids: vec![range(mappings.uids)],
        gids: vec![range(mappings.gids)],
    }
}
