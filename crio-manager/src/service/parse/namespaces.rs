//! Which namespaces a pod or a container shares, and with whom.

use super::users::users;
use super::{Parsed, enum_value, wrong};
use crate::model::security::{NamespaceMode, Namespaces};
use cri::v1;

pub(super) fn namespaces(options: Option<v1::NamespaceOption>) -> Parsed<Namespaces> {
    let options = options.unwrap_or_default();
    let mode = |field: &str, value: i32| -> Parsed<NamespaceMode> {
        Ok(match enum_value::<v1::NamespaceMode>(field, value)? {
            v1::NamespaceMode::Pod => NamespaceMode::Pod,
            v1::NamespaceMode::Container => NamespaceMode::Container,
            v1::NamespaceMode::Node => NamespaceMode::Node,
            v1::NamespaceMode::Target => NamespaceMode::Target(options.target_id.clone()),
        })
    };
    let shared = |field: &str, value: i32| match mode(field, value)? {
        shared @ (NamespaceMode::Pod | NamespaceMode::Node) => Ok(shared),
        NamespaceMode::Container | NamespaceMode::Target(_) => Err(wrong(field, "only POD or NODE")),
    };
    let namespaces = Namespaces {
        network: shared("namespace_options.network", options.network)?,
        pid: match mode("namespace_options.pid", options.pid)? {
            NamespaceMode::Target(target) if target.is_empty() => {
                return Err(wrong("namespace_options.target_id", "empty"));
            }
            pid => pid,
        },
        ipc: shared("namespace_options.ipc", options.ipc)?,
        users: users(options.userns_options)?,
    };
    if namespaces.users.is_some() {
        nothing_of_the_node(&namespaces)?;
    }
    Ok(namespaces)
}

/// The users of a user namespace have no rights in what the node owns: its processes, network and queues.
pub(super) fn nothing_of_the_node(namespaces: &Namespaces) -> Parsed<()> {
    let fields = [
        ("namespace_options.network", &namespaces.network),
        ("namespace_options.pid", &namespaces.pid),
        ("namespace_options.ipc", &namespaces.ipc),
    ];
    match fields.iter().find(|(_, mode)| **mode == NamespaceMode::Node) {
        Some((field, _)) => Err(wrong(field, "NODE in a pod with a user namespace")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{parsed_pod, refused};
    use cri::v1;

    #[test]
    fn a_mode_that_is_none_is_refused() {
        refused(
            parsed_pod(|pod| {
                let security = pod
                    .linux
                    .get_or_insert_default()
                    .security_context
                    .get_or_insert_default();
                security.namespace_options = Some(v1::NamespaceOption {
                    network: 17,
                    ..Default::default()
                });
            }),
            "network",
        );
    }
}
