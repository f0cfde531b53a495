//! Who a container runs as, and what that user may do.

use super::SpecDefaults;
use super::selinux::selinux_labels;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::error::{InStep, StepFailed};
use crate::model::security::{GroupsPolicy, Profile, RunAs, Security};
use crate::model::selinux::Labels;
use crate::spec::seccomp::{PROFILE_MAX_BYTES, SeccompRequest};
use crate::spec::security::{AppArmor, CapabilityList, CapabilityRequest, NewPrivileges, Privilege, SecurityRequest};
use crate::spec::user::{self, Identity, UserRequest};
use crate::spec::{self, ContainerPath, SpecError};
use std::path::Path;

impl Lifecycle {
    /// The system call filter, with the profile it names.
    pub(super) async fn seccomp_request(&self, asked: &Profile) -> Result<SeccompRequest, StepFailed> {
        Ok(match asked {
            Profile::Unconfined => SeccompRequest::Unconfined,
            Profile::RuntimeDefault => match &self.defaults().seccomp_profile {
                Some(profile) => SeccompRequest::Localhost(profile.clone()),
                None => SeccompRequest::RuntimeDefault,
            },
            Profile::Localhost(path) => {
                let read = self.drivers().host.read(Path::new(path), PROFILE_MAX_BYTES as u64);
                SeccompRequest::Localhost(read.await.in_step("read seccomp profile")?)
            }
        })
    }
}

pub(super) fn user_request(asked: &Security) -> UserRequest {
    UserRequest {
        identity: match &asked.run_as {
            RunAs::Image => Identity::Image,
            RunAs::Uid(uid) => Identity::Id(*uid),
            RunAs::Name(name) => Identity::Name(name.clone()),
        },
        gid: asked.run_as_group,
        supplemental_groups: asked.supplemental_groups.clone(),
        policy: match asked.groups_policy {
            GroupsPolicy::Merge => user::GroupsPolicy::Merge,
            GroupsPolicy::Strict => user::GroupsPolicy::Strict,
        },
    }
}

pub(super) fn security_request(
    asked: &Security,
    defaults: &SpecDefaults,
    seccomp: SeccompRequest,
    selinux: &Labels,
) -> Result<SecurityRequest, SpecError> {
    let paths = |paths: &[String]| {
        paths
            .iter()
            .map(|path| {
                ContainerPath::parse(path).map_err(|fault| SpecError::Path {
                    what: "masked or read-only path",
                    path: spec::excerpt(path),
                    fault,
                })
            })
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(SecurityRequest {
        privilege: if asked.privileged {
            Privilege::Privileged
        } else {
            Privilege::Confined
        },
        capabilities: CapabilityRequest {
            defaults: defaults.capabilities.clone(),
            add: CapabilityList::parse(&asked.add_capabilities)?,
            drop: CapabilityList::parse(&asked.drop_capabilities)?,
            ambient: CapabilityList::parse(&asked.add_ambient_capabilities)?.named,
            inheritable: defaults.inheritable,
        },
        new_privileges: if asked.no_new_privs {
            NewPrivileges::Forbidden
        } else {
            NewPrivileges::Allowed
        },
        masked_paths: paths(&asked.masked_paths)?,
        readonly_paths: paths(&asked.readonly_paths)?,
        seccomp,
        apparmor: match &asked.apparmor {
            Profile::Localhost(name) if !defaults.apparmor => {
                return Err(SpecError::NoAppArmor {
                    profile: spec::excerpt(name),
                });
            }
            Profile::Localhost(name) => AppArmor::Profile(name.clone()),
            Profile::Unconfined if defaults.apparmor => AppArmor::Unconfined,
            Profile::Unconfined | Profile::RuntimeDefault => AppArmor::Absent,
        },
        selinux: selinux_labels(selinux),
    })
}
