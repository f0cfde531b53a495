//! A pod's user namespace. Only what a kubelet asks for is taken: one range of users and one of groups, from 0 on.

use super::{Parsed, enum_value, wrong};
use crate::model::users::{IdRange, UserMappings};
use cri::v1;

/// The user namespace asked for; `None` is the node's.
pub(super) fn users(asked: Option<v1::UserNamespace>) -> Parsed<Option<UserMappings>> {
    let Some(asked) = asked else { return Ok(None) };
    let field = "namespace_options.userns_options.mode";
    match enum_value::<v1::NamespaceMode>(field, asked.mode)? {
        v1::NamespaceMode::Pod => Ok(Some(UserMappings {
            uids: only_range("namespace_options.userns_options.uids", &asked.uids)?,
            gids: only_range("namespace_options.userns_options.gids", &asked.gids)?,
        })),
        v1::NamespaceMode::Node if asked.uids.is_empty() && asked.gids.is_empty() => Ok(None),
        v1::NamespaceMode::Node => Err(wrong(field, "NODE, with mappings that only a pod's own can have")),
        v1::NamespaceMode::Container | v1::NamespaceMode::Target => Err(wrong(field, "only POD or NODE")),
    }
}

/// What a mount says of its owners: nothing, or the pod's own mappings.
pub(super) fn is_id_mapped(
    field: &str,
    (uids, gids): (&[v1::IdMapping], &[v1::IdMapping]),
    of_pod: Option<&UserMappings>,
) -> Parsed<bool> {
    if uids.is_empty() && gids.is_empty() {
        return Ok(false);
    }
    let asked = UserMappings {
        uids: only_range(&format!("{field}.uidMappings"), uids)?,
        gids: only_range(&format!("{field}.gidMappings"), gids)?,
    };
    match of_pod {
        Some(of_pod) if *of_pod == asked => Ok(true),
        Some(_) => Err(wrong(
            field,
            "its id mappings are not those of the pod's user namespace",
        )),
        None => Err(wrong(field, "id mappings in a pod without a user namespace")),
    }
}

fn only_range(field: &str, ranges: &[v1::IdMapping]) -> Parsed<IdRange> {
    let [range] = ranges else {
        return Err(wrong(
            field,
            format!("{} mappings, only one is supported", ranges.len()),
        ));
    };
    if range.container_id != 0 {
        return Err(wrong(
            field,
            format!("begins with {}, only 0 is supported", range.container_id),
        ));
    }
    if range.length == 0 {
        return Err(wrong(field, "maps no id"));
    }
    // The largest number stands for "no id".
    if range.host_id.checked_add(range.length).is_none() {
        return Err(wrong(field, "ends beyond the last id of the node"));
    }
    if range.host_id == 0 {
        return Err(wrong(field, "would have the node's root in the pod"));
    }
    Ok(IdRange {
        first: range.host_id,
        length: range.length,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{parsed_pod, parsed_pods_container, refused};
    use super::*;
    use v1::NamespaceMode::{Container, Node, Pod, Target};

    fn range(container_id: u32, host_id: u32, length: u32) -> v1::IdMapping {
        v1::IdMapping {
            container_id,
            host_id,
            length,
        }
    }

    fn options(mode: v1::NamespaceMode, mappings: &[v1::IdMapping]) -> v1::NamespaceOption {
        v1::NamespaceOption {
            userns_options: Some(v1::UserNamespace {
                mode: mode.into(),
                uids: mappings.to_vec(),
                gids: mappings.to_vec(),
            }),
            ..Default::default()
        }
    }

    fn pod(options: v1::NamespaceOption) -> Parsed<crate::model::SandboxPlan> {
        parsed_pod(|pod| {
            let linux = pod.linux.get_or_insert_default();
            linux.security_context.get_or_insert_default().namespace_options = Some(options);
        })
    }

    #[test]
    fn one_range_from_zero_on_is_taken_and_nothing_else() {
        let usual = range(0, 100_000, 65_536);
        let plan = pod(options(Pod, &[usual])).unwrap();
        let of_pod = IdRange {
            first: 100_000,
            length: 65_536,
        };
        let mappings = UserMappings {
            uids: of_pod,
            gids: of_pod,
        };
        assert_eq!(plan.namespaces.users, Some(mappings));
        assert_eq!(pod(options(Node, &[])).unwrap().namespaces.users, None);

        refused(pod(options(Node, &[usual])), "userns_options.mode");
        refused(pod(options(Container, &[usual])), "userns_options.mode");
        refused(pod(options(Target, &[usual])), "userns_options.mode");
        for (mappings, why) in [
            (vec![], "0 mappings"),
            (vec![usual, range(65_536, 200_000, 1)], "2 mappings"),
            (vec![range(1, 100_000, 65_536)], "begins with 1"),
            (vec![range(0, 100_000, 0)], "no id"),
            (vec![range(0, u32::MAX, 1)], "beyond"),
            (vec![range(0, 0, 65_536)], "node's root"),
        ] {
            refused(pod(options(Pod, &mappings)), why);
            refused(pod(options(Pod, &mappings)), "userns_options.uids");
        }
        assert!(pod(options(Pod, &[range(0, u32::MAX - 1, 1)])).is_ok(), "the last id");
    }

    #[test]
    fn what_the_node_owns_is_not_shared_with_a_pod_of_other_users() {
        let with = |change: fn(&mut v1::NamespaceOption)| {
            let mut options = options(Pod, &[range(0, 100_000, 65_536)]);
            change(&mut options);
            pod(options)
        };
        refused(
            with(|options| options.network = Node.into()),
            "namespace_options.network",
        );
        refused(with(|options| options.pid = Node.into()), "namespace_options.pid");
        refused(with(|options| options.ipc = Node.into()), "namespace_options.ipc");
    }

    #[test]
    fn a_container_has_its_pods_users_or_does_not_speak_of_them() {
        let usual = range(0, 100_000, 65_536);
        let of_pod = pod(options(Pod, &[usual])).unwrap();
        let container = |options: Option<v1::NamespaceOption>| {
            parsed_pods_container(&of_pod, |container| {
                let linux = container.linux.get_or_insert_default();
                linux.security_context.get_or_insert_default().namespace_options = options;
            })
        };
        assert_eq!(
            container(None).unwrap().security.namespaces.users,
            of_pod.namespaces.users
        );
        let same = container(Some(options(Pod, &[usual]))).unwrap();
        assert_eq!(same.security.namespaces.users, of_pod.namespaces.users);
        refused(container(Some(options(Pod, &[range(0, 1000, 10)]))), "userns_options");
        refused(container(Some(options(Node, &[]))), "userns_options");
        let sees_the_node = v1::NamespaceOption {
            pid: Node.into(),
            ..Default::default()
        };
        refused(container(Some(sees_the_node)), "namespace_options.pid");

        let plain = pod(v1::NamespaceOption::default()).unwrap();
        let alone = parsed_pods_container(&plain, |container| {
            let linux = container.linux.get_or_insert_default();
            linux.security_context.get_or_insert_default().namespace_options = Some(options(Pod, &[usual]));
        });
        refused(alone, "userns_options");
    }

    #[test]
    fn a_mount_has_its_pods_owners_or_the_nodes() {
        let usual = range(0, 100_000, 65_536);
        let of_pod = pod(options(Pod, &[usual])).unwrap();
        let mounted = |plan: &crate::model::SandboxPlan, mappings: &[v1::IdMapping]| {
            parsed_pods_container(plan, |container| {
                container.mounts.push(v1::Mount {
                    container_path: "/inside".into(),
                    host_path: "/outside".into(),
                    uid_mappings: mappings.to_vec(),
                    gid_mappings: mappings.to_vec(),
                    ..Default::default()
                });
            })
        };
        assert!(mounted(&of_pod, &[usual]).unwrap().mounts[0].id_mapped);
        assert!(!mounted(&of_pod, &[]).unwrap().mounts[0].id_mapped);
        refused(mounted(&of_pod, &[range(0, 1000, 10)]), "not those of the pod");
        refused(mounted(&of_pod, &[usual, usual]), "uidMappings");
        let plain = pod(v1::NamespaceOption::default()).unwrap();
        refused(mounted(&plain, &[usual]), "without a user namespace");
    }
}
