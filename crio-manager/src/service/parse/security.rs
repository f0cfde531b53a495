//! Security contexts.

use super::namespaces::namespaces;
use super::path::absolute;
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

#[expect(deprecated, reason = "older clients say their profiles in the older fields")]
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
    // A profile that nobody asked for is none: so the field has it.
    let seccomp = seccomp(asked.seccomp, &asked.seccomp_profile_path)?.unwrap_or(Profile::Unconfined);
    let apparmor = apparmor(asked.apparmor, &asked.apparmor_profile)?.unwrap_or(Profile::Unconfined);
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
        seccomp,
        apparmor,
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

/// The seccomp profile asked for: in the field, else in the older one. A localhost profile is an absolute path.
pub(super) fn seccomp(asked: Option<v1::SecurityProfile>, older: &str) -> Parsed<Option<Profile>> {
    let name = "linux.security_context.seccomp";
    let profile = profile((name, asked), ("linux.security_context.seccomp_profile_path", older))?;
    if let Some(Profile::Localhost(path)) = &profile {
        absolute(name, path.clone())?;
    }
    Ok(profile)
}

/// The AppArmor profile asked for: in the field, else in the older one.
pub(super) fn apparmor(asked: Option<v1::SecurityProfile>, older: &str) -> Parsed<Option<Profile>> {
    let field = "linux.security_context.apparmor";
    profile((field, asked), ("linux.security_context.apparmor_profile", older))
}

/// What the older fields put before the name of a profile of the node; clients put it into the newer one as well.
const LOCALHOST: &str = "localhost/";

fn profile(
    (field, asked): (&str, Option<v1::SecurityProfile>),
    (older_field, older): (&str, &str),
) -> Parsed<Option<Profile>> {
    use v1::security_profile::ProfileType;
    let localhost = |field: &str, name: &str| match name.strip_prefix(LOCALHOST).unwrap_or(name) {
        "" => Err(wrong(field, "a localhost profile without a name")),
        name => Ok(Profile::Localhost(no_nul(field, name.to_owned())?)),
    };
    let profile = match (asked, older) {
        (Some(asked), _) => match enum_value::<ProfileType>(field, asked.profile_type)? {
            ProfileType::RuntimeDefault => Profile::RuntimeDefault,
            ProfileType::Unconfined => Profile::Unconfined,
            ProfileType::Localhost => localhost(field, &asked.localhost_ref)?,
        },
        (None, "") => return Ok(None),
        (None, "runtime/default" | "docker/default") => Profile::RuntimeDefault,
        (None, "unconfined") => Profile::Unconfined,
        (None, name) if name.starts_with(LOCALHOST) => localhost(older_field, name)?,
        (None, other) => {
            let why = format!(
                "{}: only runtime/default, unconfined, {LOCALHOST}NAME",
                spec::excerpt(other)
            );
            return Err(wrong(older_field, why));
        }
    };
    Ok(Some(profile))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::parse::tests::{parsed_container, refused};

    fn asked(profile_type: i32, localhost_ref: &str) -> Option<v1::SecurityProfile> {
        Some(v1::SecurityProfile {
            profile_type,
            localhost_ref: localhost_ref.to_owned(),
        })
    }

    #[test]
    fn a_profile_may_be_asked_for_in_the_older_words_and_the_newer_ones_win() {
        let of_node = Profile::Localhost("/p.json".to_owned());
        for (newer, older, expected) in [
            (None, "", None),
            (None, "unconfined", Some(Profile::Unconfined)),
            (None, "runtime/default", Some(Profile::RuntimeDefault)),
            (None, "docker/default", Some(Profile::RuntimeDefault)),
            (None, "localhost//p.json", Some(of_node.clone())),
            (asked(0, ""), "unconfined", Some(Profile::RuntimeDefault)),
            (asked(1, ""), "nonsense", Some(Profile::Unconfined)),
            (asked(2, "/p.json"), "", Some(of_node.clone())),
            (asked(2, "localhost//p.json"), "localhost//other", Some(of_node)),
        ] {
            assert_eq!(seccomp(newer.clone(), older).unwrap(), expected, "{newer:?} {older:?}");
        }
        let name = Profile::Localhost("crio-default".to_owned());
        assert_eq!(apparmor(None, "localhost/crio-default").unwrap(), Some(name));
    }

    #[test]
    fn a_profile_that_is_none_is_refused() {
        refused(seccomp(asked(17, ""), ""), "security_context.seccomp");
        refused(seccomp(asked(2, ""), ""), "without a name");
        refused(seccomp(asked(2, "relative.json"), ""), "absolute");
        refused(seccomp(None, "localhost/"), "seccomp_profile_path");
        refused(seccomp(None, "default"), "seccomp_profile_path");
        refused(apparmor(asked(2, "a\0b"), ""), "NUL");
        refused(apparmor(None, "crio-default"), "apparmor_profile");
    }

    #[test]
    fn a_container_shares_with_the_node_no_more_than_its_pod() {
        let in_a_pod_of_its_own = |options: v1::NamespaceOption| {
            parsed_container(|c| {
                let linux = c.linux.get_or_insert_default();
                linux.security_context.get_or_insert_default().namespace_options = Some(options);
            })
        };
        let node = v1::NamespaceMode::Node.into();
        let network = v1::NamespaceOption {
            network: node,
            ..Default::default()
        };
        refused(in_a_pod_of_its_own(network), "namespace_options.network");
        let ipc = v1::NamespaceOption {
            ipc: node,
            ..Default::default()
        };
        refused(in_a_pod_of_its_own(ipc), "namespace_options.ipc");
        let pid = v1::NamespaceOption {
            pid: node,
            ..Default::default()
        };
        refused(in_a_pod_of_its_own(pid), "namespace_options.pid");
    }

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
