//! Security contexts.

use super::namespaces::namespaces;
use super::{Parsed, enum_value, no_nul, wrong};
use crate::model::security::{GroupsPolicy, Profile, RunAs, Security, SelinuxOptions};
use crate::spec::{self, ContainerPath};
use cri::v1;

/// The largest uid or gid.
const LAST_UID: i64 = crate::spec::user::ID_MAX as i64;

pub(super) fn selinux(options: Option<v1::SeLinuxOption>) -> SelinuxOptions {
    let options = options.unwrap_or_default();
    SelinuxOptions {
        user: options.user,
        role: options.role,
        type_: options.r#type,
        level: options.level,
    }
}

pub(super) fn security(asked: v1::LinuxContainerSecurityContext) -> Parsed<Security> {
    let field = |name: &str| format!("linux.security_context.{name}");
    let uid = |name: &str, value: i64| {
        if (0..=LAST_UID).contains(&value) {
            u32::try_from(value).map_err(|_| wrong(&field(name), format!("{value} is no id")))
        } else {
            Err(wrong(&field(name), format!("{value} is not within 0 and {LAST_UID}")))
        }
    };
    let run_as = match (asked.run_as_user, asked.run_as_username.as_str()) {
        (None, "") => RunAs::Image,
        (Some(user), "") => RunAs::Uid(uid("run_as_user", user.value)?),
        (None, name) => RunAs::Name(no_nul(&field("run_as_username"), name.to_owned())?),
        (Some(_), _) => return Err(wrong(&field("run_as_username"), "set together with run_as_user")),
    };
    let run_as_group = asked
        .run_as_group
        .map(|group| uid("run_as_group", group.value))
        .transpose()?;
    if run_as_group.is_some() && run_as == RunAs::Image {
        return Err(wrong(
            &field("run_as_group"),
            "set without run_as_user or run_as_username",
        ));
    }
    let policy = "supplemental_groups_policy";
    let groups_policy =
        match enum_value::<v1::SupplementalGroupsPolicy>(&field(policy), asked.supplemental_groups_policy)? {
            v1::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
            v1::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
        };
    let capabilities = asked.capabilities.unwrap_or_default();
    let groups = asked.supplemental_groups.into_iter();
    Ok(Security {
        privileged: asked.privileged,
        readonly_rootfs: asked.readonly_rootfs,
        no_new_privs: asked.no_new_privs,
        run_as,
        run_as_group,
        supplemental_groups: groups
            .map(|group| uid("supplemental_groups", group))
            .collect::<Parsed<_>>()?,
        groups_policy,
        add_capabilities: capabilities.add_capabilities,
        drop_capabilities: capabilities.drop_capabilities,
        add_ambient_capabilities: capabilities.add_ambient_capabilities,
        namespaces: namespaces(asked.namespace_options)?,
        seccomp: profile(&field("seccomp"), asked.seccomp)?,
        apparmor: profile(&field("apparmor"), asked.apparmor)?,
        selinux: selinux(asked.selinux_options),
        masked_paths: asked.masked_paths,
        readonly_paths: asked.readonly_paths,
    })
}

/// Nothing asked for: nothing of the node is shown. With a security context, its own lists count, empty ones too.
pub(super) fn unspoken_security() -> Parsed<Security> {
    let texts = |paths: Vec<ContainerPath>| paths.iter().map(|path| path.as_str().to_owned()).collect();
    Ok(Security {
        masked_paths: texts(spec::security::default_masked_paths()),
        readonly_paths: texts(spec::security::default_readonly_paths()),
        ..security(v1::LinuxContainerSecurityContext::default())?
    })
}

/// No profile means none: so the field has it.
fn profile(field: &str, asked: Option<v1::SecurityProfile>) -> Parsed<Profile> {
    use v1::security_profile::ProfileType;
    let Some(asked) = asked else {
        return Ok(Profile::Unconfined);
    };
    Ok(match enum_value::<ProfileType>(field, asked.profile_type)? {
        ProfileType::RuntimeDefault => Profile::RuntimeDefault,
        ProfileType::Unconfined => Profile::Unconfined,
        ProfileType::Localhost if asked.localhost_ref.is_empty() => {
            return Err(wrong(field, "a localhost profile without a name"));
        }
        ProfileType::Localhost => Profile::Localhost(no_nul(field, asked.localhost_ref)?),
    })
}

#[cfg(test)]
mod tests {
    use crate::service::parse::tests::{parsed_container, refused};
    use cri::v1;

    #[test]
    fn an_id_out_of_range_is_refused() {
        let security = |change: fn(&mut v1::LinuxContainerSecurityContext)| {
            parsed_container(|c| {
                let linux = c.linux.get_or_insert_default();
                change(linux.security_context.get_or_insert_default());
            })
        };
        refused(
            security(|s| s.run_as_user = Some(v1::Int64Value { value: -1 })),
            "run_as_user",
        );
        refused(
            security(|s| s.run_as_user = Some(v1::Int64Value { value: 4_294_967_296 })),
            "run_as_user",
        );
        refused(
            security(|s| s.run_as_user = Some(v1::Int64Value { value: i64::MAX })),
            "run_as_user",
        );
        refused(
            security(|s| s.run_as_group = Some(v1::Int64Value { value: 5 })),
            "without run_as_user",
        );
        refused(security(|s| s.supplemental_groups = vec![-5]), "supplemental_groups");
    }

    #[test]
    fn a_container_is_no_more_privileged_than_its_pod() {
        refused(
            parsed_container(|c| {
                let linux = c.linux.get_or_insert_default();
                linux.security_context.get_or_insert_default().privileged = true;
            }),
            "not privileged",
        );
    }
}
