//! CreateContainer and StopContainer.

use super::device::{cdi_devices, device};
use super::mount::mount;
use super::name::{container_metadata, id};
use super::namespaces::nothing_of_the_node;
use super::path::{absolute, log_path};
use super::resources::resources;
use super::security::{security, unspoken_security};
use super::{Parsed, enum_value, no_nul, pairs, required, wrong};
use crate::model::container::ContainerPlan;
use crate::model::security::{NamespaceMode, Namespaces};
use crate::model::users::UserMappings;
use crate::model::{ContainerId, SandboxPlan, Timestamp, signal};
use cri::v1;
use std::path::PathBuf;
use std::time::Duration;

/// CreateContainer, but for its sandbox, which gives the rest.
pub fn create_container(
    request: v1::CreateContainerRequest,
    sandbox: &SandboxPlan,
    random: [u8; 32],
    created_at: Timestamp,
) -> Parsed<ContainerPlan> {
    let config = required("config", request.config)?;
    let metadata = container_metadata(config.metadata)?;
    let image = required("config.image", config.image)?;
    if image.image.is_empty() {
        return Err(wrong("config.image.image", "empty"));
    }
    let linux = config.linux.unwrap_or_default();
    let speaks_of_users = linux.security_context.as_ref().is_some_and(speaks_of_users);
    let mut security = match linux.security_context {
        Some(asked) => security(asked)?,
        None => unspoken_security()?,
    };
    if security.privileged && !sandbox.privileged {
        return Err(wrong(
            "linux.security_context.privileged",
            "the pod sandbox is not privileged",
        ));
    }
    not_beyond_the_pod("network", &security.namespaces.network, &sandbox.namespaces.network)?;
    not_beyond_the_pod("ipc", &security.namespaces.ipc, &sandbox.namespaces.ipc)?;
    not_beyond_the_pod("pid", &security.namespaces.pid, &sandbox.namespaces.pid)?;
    has_the_pods_users(&mut security.namespaces, sandbox.namespaces.users, speaks_of_users)?;
    let cdi_devices = cdi_devices(config.cdi_devices, &config.annotations)?;
    let words = |field: &str, values: Vec<String>| -> Parsed<Vec<String>> {
        values.into_iter().map(|word| no_nul(field, word)).collect()
    };
    let stop_signal = match enum_value::<v1::Signal>("config.stop_signal", config.stop_signal)? {
        v1::Signal::RuntimeDefault => None,
        asked => Some(
            signal::number(asked.as_str_name())
                .ok_or_else(|| wrong("config.stop_signal", format!("{} is unknown", asked.as_str_name())))?,
        ),
    };
    Ok(ContainerPlan {
        id: ContainerId::from_bytes(random),
        sandbox_id: sandbox.id.clone(),
        metadata,
        pod: sandbox.metadata.clone(),
        image: image.image,
        user_specified_image: image.user_specified_image,
        command: words("config.command", config.command)?,
        args: words("config.args", config.args)?,
        working_dir: no_nul("config.working_dir", config.working_dir)?,
        envs: envs(config.envs)?,
        mounts: config
            .mounts
            .into_iter()
            .map(|asked| mount(asked, sandbox.namespaces.users.as_ref()))
            .collect::<Parsed<_>>()?,
        devices: config.devices.into_iter().map(device).collect::<Parsed<_>>()?,
        cdi_devices,
        labels: pairs("config.labels", config.labels)?,
        annotations: pairs("config.annotations", config.annotations)?,
        log_path: log_path(sandbox.log_directory.as_deref(), &config.log_path)?,
        log_path_asked: config.log_path,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        resources: linux.resources.map(resources).transpose()?.unwrap_or_default(),
        security,
        stop_signal,
        created_at,
    })
}

/// A container shares with the node no more than its pod does: one alone cannot have the node's namespace.
fn not_beyond_the_pod(namespace: &str, asked: &NamespaceMode, of_pod: &NamespaceMode) -> Parsed<()> {
    match (asked, of_pod) {
        (NamespaceMode::Node, of_pod) if *of_pod != NamespaceMode::Node => Err(wrong(
            &format!("linux.security_context.namespace_options.{namespace}"),
            "NODE in a pod that has its own",
        )),
        _ => Ok(()),
    }
}

/// All containers of a pod have its user namespace: one need not say so, but cannot say otherwise.
fn speaks_of_users(asked: &v1::LinuxContainerSecurityContext) -> bool {
    let options = asked.namespace_options.as_ref();
    options.is_some_and(|options| options.userns_options.is_some())
}

/// Who does not speak of users has the pod's.
fn has_the_pods_users(asked: &mut Namespaces, of_pod: Option<UserMappings>, speaks: bool) -> Parsed<()> {
    let field = "linux.security_context.namespace_options.userns_options";
    match (asked.users, of_pod) {
        (asked, of_pod) if asked == of_pod => Ok(()),
        (None, Some(_)) if !speaks => {
            asked.users = of_pod;
            nothing_of_the_node(asked)
        }
        _ => Err(wrong(field, "not those of the pod")),
    }
}

fn envs(values: Vec<v1::KeyValue>) -> Parsed<Vec<(String, String)>> {
    let field = "config.envs";
    let pair = |env: v1::KeyValue| {
        if env.key.is_empty() || env.key.contains('=') {
            return Err(wrong(field, format!("{:?} is not a variable's name", env.key)));
        }
        let value = String::from_utf8(env.value).map_err(|_| wrong(field, format!("{} is not UTF-8", env.key)))?;
        Ok((no_nul(field, env.key)?, no_nul(field, value)?))
    };
    values.into_iter().map(pair).collect()
}

/// StopContainer: id and grace.
pub fn stop_container(request: v1::StopContainerRequest) -> Parsed<(String, Duration)> {
    let grace =
        u64::try_from(request.timeout).map_err(|_| wrong("timeout", format!("{} is negative", request.timeout)))?;
    Ok((id("container_id", request.container_id)?, Duration::from_secs(grace)))
}

/// CheckpointContainer: id, the place of the archive, and how long it may take.
pub fn checkpoint_container(request: v1::CheckpointContainerRequest) -> Parsed<(String, PathBuf, Option<Duration>)> {
    let location = absolute("location", request.location)?;
    if location.file_name().is_none() {
        return Err(wrong("location", "names no file"));
    }
    let seconds =
        u64::try_from(request.timeout).map_err(|_| wrong("timeout", format!("{} is negative", request.timeout)))?;
    let limit = (seconds > 0).then(|| Duration::from_secs(seconds));
    Ok((id("container_id", request.container_id)?, location, limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::parse::tests::{parsed_container, refused};

    #[test]
    fn a_signal_that_is_none_is_refused() {
        refused(parsed_container(|c| c.stop_signal = 4711), "stop_signal");
    }

    #[test]
    fn a_checkpoint_needs_an_id_a_file_and_no_negative_time() {
        let asked = |id: &str, location: &str, timeout| {
            checkpoint_container(v1::CheckpointContainerRequest {
                container_id: id.into(),
                location: location.into(),
                timeout,
            })
        };
        refused(asked("", "/a.tar", 0), "empty");
        for location in ["", "a.tar", "/", "/a/../b", "/a\0b"] {
            refused(asked("x", location, 0), "location");
        }
        refused(asked("x", "/a.tar", -1), "timeout");
        let (_, location, limit) = asked("x", "/var/a.tar", 0).unwrap();
        assert_eq!((location.to_str().unwrap(), limit), ("/var/a.tar", None));
        assert_eq!(asked("x", "/var/a.tar", 7).unwrap().2, Some(Duration::from_secs(7)));
    }

    #[test]
    fn a_stop_needs_an_id_and_a_grace() {
        refused(
            stop_container(v1::StopContainerRequest {
                container_id: "x".into(),
                timeout: -1,
            }),
            "timeout",
        );
        refused(
            stop_container(v1::StopContainerRequest {
                container_id: String::new(),
                timeout: 1,
            }),
            "empty",
        );
    }
}
