//! Which namespaces a pod or a container shares, and with whom.

use super::{Parsed, enum_value, wrong};
use crate::model::security::{NamespaceMode, Namespaces};
use cri::v1;

pub(super) fn namespaces(options: Option<v1::NamespaceOption>) -> Parsed<Namespaces> {
    let options = options.unwrap_or_default();
    if let Some(user) = options.userns_options
        && enum_value::<v1::NamespaceMode>("userns_options.mode", user.mode)? != v1::NamespaceMode::Node
    {
        return Err(wrong(
            "userns_options.mode",
            "user namespaces are not supported by this version",
        ));
    }
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
    Ok(Namespaces {
        network: shared("namespace_options.network", options.network)?,
        pid: match mode("namespace_options.pid", options.pid)? {
            NamespaceMode::Target(target) if target.is_empty() => {
                return Err(wrong("namespace_options.target_id", "empty"));
            }
            pid => pid,
        },
        ipc: shared("namespace_options.ipc", options.ipc)?,
    })
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
