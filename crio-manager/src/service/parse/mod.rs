//! Request → plan: every string from outside is looked at here, once. What is refused here is INVALID_ARGUMENT.

mod bandwidth;
mod container;
mod device;
mod exec;
mod filter;
mod image;
mod mount;
mod name;
mod namespaces;
mod path;
mod resources;
mod sandbox;
mod security;
mod trust;
mod users;

pub use container::{checkpoint_container, create_container, stop_container};
pub use exec::{attach, exec, exec_sync, port_forward};
pub use filter::{Filter, container_filter, container_stats_filter, sandbox_filter, sandbox_stats_filter};
pub use image::{image, pull_image};
pub use name::id;
pub use path::absolute;
pub use resources::{update_container, update_sandbox};
pub use sandbox::run_pod_sandbox;

use crate::model::name::Pairs;
use std::collections::HashMap;
use tonic::Status;

/// What a parser returns: the value, or what is wrong with which field.
pub type Parsed<T> = Result<T, Box<Status>>;

fn wrong(field: &str, why: impl std::fmt::Display) -> Box<Status> {
    Box::new(Status::invalid_argument(format!("{field}: {why}")))
}

fn required<T>(field: &str, value: Option<T>) -> Parsed<T> {
    value.ok_or_else(|| wrong(field, "missing"))
}

fn no_nul(field: &str, value: String) -> Parsed<String> {
    if value.contains('\0') {
        Err(wrong(field, "holds a NUL"))
    } else {
        Ok(value)
    }
}

/// Most bytes of the keys and values of one map: four times what Kubernetes lets a pod's annotations be. They are in
/// every record and every list.
const PAIRS_BYTES: usize = 1 << 20;

fn pairs(field: &str, values: HashMap<String, String>) -> Parsed<Pairs> {
    let bytes = values.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    if bytes > PAIRS_BYTES {
        return Err(wrong(field, format!("{bytes} bytes, more than {PAIRS_BYTES}")));
    }
    Ok(values.into_iter().collect())
}

fn enum_value<E: TryFrom<i32>>(field: &str, value: i32) -> Parsed<E> {
    E::try_from(value).map_err(|_| wrong(field, format!("unknown value {value}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod damaged;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::container::ContainerPlan;
    use crate::model::{SandboxPlan, Timestamp};
    use cri::v1;
    use std::path::Path;

    fn now() -> Timestamp {
        Timestamp::from_nanos(1)
    }

    pub(super) fn pod() -> v1::RunPodSandboxRequest {
        v1::RunPodSandboxRequest {
            config: Some(v1::PodSandboxConfig {
                metadata: Some(v1::PodSandboxMetadata {
                    name: "pod".into(),
                    uid: "uid".into(),
                    namespace: "default".into(),
                    attempt: 2,
                }),
                log_directory: "/var/log/pods/x".into(),
                ..Default::default()
            }),
            runtime_handler: String::new(),
        }
    }

    pub(super) fn container() -> v1::CreateContainerRequest {
        v1::CreateContainerRequest {
            pod_sandbox_id: "x".into(),
            config: Some(v1::ContainerConfig {
                metadata: Some(v1::ContainerMetadata {
                    name: "main".into(),
                    attempt: 0,
                }),
                image: Some(v1::ImageSpec {
                    image: "image".into(),
                    ..Default::default()
                }),
                log_path: "main/0.log".into(),
                ..Default::default()
            }),
            sandbox_config: None,
        }
    }

    pub(super) fn parsed_pod(change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Parsed<SandboxPlan> {
        let mut request = pod();
        change(request.config.as_mut().unwrap());
        run_pod_sandbox(request, [1; 32], now())
    }

    pub(super) fn parsed_container(change: impl FnOnce(&mut v1::ContainerConfig)) -> Parsed<ContainerPlan> {
        let mut request = container();
        change(request.config.as_mut().unwrap());
        create_container(request, &parsed_pod(|_| ()).unwrap(), [2; 32], now())
    }

    pub(super) fn parsed_pods_container(
        pod: &SandboxPlan,
        change: impl FnOnce(&mut v1::ContainerConfig),
    ) -> Parsed<ContainerPlan> {
        let mut request = container();
        change(request.config.as_mut().unwrap());
        create_container(request, pod, [2; 32], now())
    }

    pub(super) fn refused<T: std::fmt::Debug>(outcome: Parsed<T>, word: &str) {
        let status = outcome.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains(word), "{:?} says {word:?}", status.message());
    }

    #[test]
    fn a_plain_pod_and_container_pass() {
        let pod = parsed_pod(|_| ()).unwrap();
        assert_eq!((pod.hostname.as_str(), pod.metadata.attempt), ("pod", 2));
        let container = parsed_container(|_| ()).unwrap();
        assert_eq!(container.log_path.unwrap(), Path::new("/var/log/pods/x/main/0.log"));
        assert!(
            !container.security.masked_paths.is_empty(),
            "without a security context nothing of the node is shown"
        );
    }
}
