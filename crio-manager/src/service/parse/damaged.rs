//! Requests with every field filled, and then damaged: whatever decodes is parsed, or refused as the client's fault.

use super::tests::parsed_pod;
use super::*;
use crate::damage::damaged;
use crate::model::Timestamp;
use cri::v1;
use cri::v1::security_profile::ProfileType;
use proptest::prelude::*;
use prost::Message as _;
use std::collections::HashMap;

const SENTENCE: usize = 4096;

fn pairs() -> HashMap<String, String> {
    [
        ("kubernetes.io/ingress-bandwidth", "10M"),
        ("io.kubernetes.cri.untrusted-workload", "false"),
        ("a", "b"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn namespaces() -> Option<v1::NamespaceOption> {
    let ids = vec![v1::IdMapping {
        host_id: 65_536,
        container_id: 0,
        length: 65_536,
    }];
    Some(v1::NamespaceOption {
        userns_options: Some(v1::UserNamespace {
            uids: ids.clone(),
            gids: ids,
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn profile() -> Option<v1::SecurityProfile> {
    Some(v1::SecurityProfile {
        profile_type: ProfileType::RuntimeDefault.into(),
        localhost_ref: "/profile".into(),
    })
}

fn selinux() -> Option<v1::SeLinuxOption> {
    Some(v1::SeLinuxOption {
        level: "s0:c1,c2".into(),
        ..Default::default()
    })
}

fn resources() -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 1024,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: -5,
        cpuset_cpus: "0-3,7".into(),
        cpuset_mems: "0".into(),
        hugepage_limits: vec![v1::HugepageLimit {
            page_size: "2MB".into(),
            limit: 2 << 20,
        }],
        unified: [("memory.high".to_owned(), "max".to_owned())].into(),
        memory_swap_limit_in_bytes: 96 << 20,
    }
}

fn whole_pod() -> Vec<u8> {
    let mut request = super::tests::pod();
    let config = request.config.get_or_insert_default();
    config.hostname = "pod".into();
    config.dns_config = Some(v1::DnsConfig {
        servers: vec!["10.0.0.10".into()],
        searches: vec!["cluster.local".into()],
        options: vec!["ndots:5".into()],
    });
    config.port_mappings = vec![v1::PortMapping {
        container_port: 80,
        host_port: 8080,
        host_ip: "127.0.0.1".into(),
        ..Default::default()
    }];
    (config.labels, config.annotations) = (pairs(), pairs());
    config.linux = Some(v1::LinuxPodSandboxConfig {
        cgroup_parent: "/kubepods/pod1".into(),
        security_context: Some(v1::LinuxSandboxSecurityContext {
            namespace_options: namespaces(),
            selinux_options: selinux(),
            run_as_user: Some(v1::Int64Value { value: 1000 }),
            run_as_group: Some(v1::Int64Value { value: 1000 }),
            supplemental_groups: vec![1, 2],
            seccomp: profile(),
            apparmor: profile(),
            ..Default::default()
        }),
        sysctls: [("kernel.shm_rmid_forced".to_owned(), "1".to_owned())].into(),
        overhead: Some(resources()),
        resources: Some(resources()),
    });
    request.encode_to_vec()
}

fn whole_container() -> Vec<u8> {
    let mut request = super::tests::container();
    let config = request.config.get_or_insert_default();
    config.command = vec!["sh".into()];
    config.args = vec!["-c".into(), "true".into()];
    config.working_dir = "/work".into();
    config.envs = vec![v1::KeyValue {
        key: "KEY".into(),
        value: "value".into(),
    }];
    config.mounts = vec![
        v1::Mount {
            container_path: "/data".into(),
            host_path: "/var/lib/data".into(),
            readonly: true,
            selinux_relabel: true,
            recursive_read_only: true,
            ..Default::default()
        },
        v1::Mount {
            container_path: "/image".into(),
            readonly: true,
            image: Some(v1::ImageSpec {
                image: "volume".into(),
                ..Default::default()
            }),
            image_sub_path: "etc".into(),
            ..Default::default()
        },
    ];
    config.devices = vec![v1::Device {
        container_path: "/dev/given".into(),
        host_path: "/dev/null".into(),
        permissions: "rw".into(),
    }];
    config.cdi_devices = vec![v1::CdiDevice {
        name: "vendor.example/gpu=1".into(),
    }];
    (config.labels, config.annotations) = (pairs(), pairs());
    config.linux = Some(v1::LinuxContainerConfig {
        resources: Some(resources()),
        security_context: Some(v1::LinuxContainerSecurityContext {
            capabilities: Some(v1::Capability {
                add_capabilities: vec!["NET_ADMIN".into()],
                drop_capabilities: vec!["ALL".into()],
                add_ambient_capabilities: vec!["NET_ADMIN".into()],
            }),
            selinux_options: selinux(),
            run_as_user: Some(v1::Int64Value { value: 1000 }),
            run_as_group: Some(v1::Int64Value { value: 1000 }),
            supplemental_groups: vec![1, 2],
            masked_paths: vec!["/proc/kcore".into()],
            readonly_paths: vec!["/proc/sys".into()],
            seccomp: profile(),
            apparmor: profile(),
            ..Default::default()
        }),
    });
    request.encode_to_vec()
}

/// What comes of bytes that may be a request; `None` when they are none.
type Outcome = fn(&[u8]) -> Option<Parsed<()>>;

fn decoded<R: prost::Message + Default, T>(bytes: &[u8], parse: fn(R) -> Parsed<T>) -> Option<Parsed<()>> {
    Some(parse(R::decode(bytes).ok()?).map(drop))
}

/// The other requests of which more than an id is looked at.
fn others() -> Vec<(Vec<u8>, Outcome)> {
    let (id, cmd) = (String::from("0123"), vec!["true".to_owned()]);
    let states = v1::ContainerStateValue::default();
    vec![
        (
            v1::UpdateContainerResourcesRequest {
                container_id: id.clone(),
                linux: Some(resources()),
                ..Default::default()
            }
            .encode_to_vec(),
            |bytes| decoded(bytes, update_container),
        ),
        (
            v1::UpdatePodSandboxResourcesRequest {
                pod_sandbox_id: id.clone(),
                overhead: Some(resources()),
                resources: Some(resources()),
            }
            .encode_to_vec(),
            |bytes| decoded(bytes, update_sandbox),
        ),
        (
            v1::ExecSyncRequest {
                container_id: id.clone(),
                cmd: cmd.clone(),
                timeout: 10,
            }
            .encode_to_vec(),
            |bytes| decoded(bytes, exec_sync),
        ),
        (
            v1::ExecRequest {
                container_id: id.clone(),
                cmd,
                stdin: true,
                stdout: true,
                ..Default::default()
            }
            .encode_to_vec(),
            |bytes| decoded(bytes, exec),
        ),
        (
            v1::PortForwardRequest {
                pod_sandbox_id: id.clone(),
                port: vec![80, 443],
            }
            .encode_to_vec(),
            |bytes| decoded(bytes, port_forward),
        ),
        (
            v1::CheckpointContainerRequest {
                container_id: id.clone(),
                location: "/checkpoints/c.tar".into(),
                timeout: 30,
            }
            .encode_to_vec(),
            |bytes| decoded(bytes, checkpoint_container),
        ),
        (
            v1::PullImageRequest {
                image: Some(v1::ImageSpec {
                    image: "registry.example/app:1".into(),
                    ..Default::default()
                }),
                auth: Some(v1::AuthConfig {
                    auth: "bWU6cHc=".into(),
                    ..Default::default()
                }),
                sandbox_config: super::tests::pod().config,
            }
            .encode_to_vec(),
            |bytes| decoded(bytes, pull_image),
        ),
        (
            v1::ContainerFilter {
                id,
                state: Some(states),
                label_selector: pairs(),
                ..Default::default()
            }
            .encode_to_vec(),
            |bytes| decoded(bytes, |filter| container_filter(Some(filter))),
        ),
    ]
}

/// A refusal is the client's fault and names a field, in one sentence.
fn is_good<T>(outcome: Parsed<T>) -> Result<(), TestCaseError> {
    if let Err(status) = outcome {
        prop_assert_eq!(status.code(), tonic::Code::InvalidArgument);
        prop_assert!(
            !status.message().is_empty() && status.message().len() < SENTENCE,
            "{}",
            status.message()
        );
    }
    Ok(())
}

fn pod(bytes: &[u8]) -> Option<Parsed<crate::model::SandboxPlan>> {
    let request = v1::RunPodSandboxRequest::decode(bytes).ok()?;
    Some(run_pod_sandbox(request, [1; 32], Timestamp::from_nanos(1)))
}

fn container(bytes: &[u8]) -> Option<Parsed<crate::model::container::ContainerPlan>> {
    let request = v1::CreateContainerRequest::decode(bytes).ok()?;
    let sandbox = parsed_pod(|_| ()).unwrap();
    Some(create_container(request, &sandbox, [2; 32], Timestamp::from_nanos(1)))
}

#[test]
fn the_requests_that_are_damaged_are_good() {
    pod(&whole_pod()).unwrap().unwrap();
    container(&whole_container()).unwrap().unwrap();
    for (good, outcome) in others() {
        outcome(&good).unwrap().unwrap();
    }
}

/// One of the others, damaged.
fn a_damaged_other() -> impl Strategy<Value = (Vec<u8>, Outcome)> {
    (0..others().len()).prop_flat_map(|number| {
        let (good, outcome) = others().swap_remove(number);
        (damaged(good), Just(outcome))
    })
}

proptest! {
    #[test]
    fn a_damaged_pod_is_taken_or_refused_as_the_clients_fault(bytes in damaged(whole_pod())) {
        pod(&bytes).map_or(Ok(()), is_good)?;
    }

    #[test]
    fn a_damaged_container_is_taken_or_refused_as_the_clients_fault(bytes in damaged(whole_container())) {
        container(&bytes).map_or(Ok(()), is_good)?;
    }

    #[test]
    fn any_other_damaged_request_is_taken_or_refused_as_the_clients_fault((bytes, outcome) in a_damaged_other()) {
        outcome(&bytes).map_or(Ok(()), is_good)?;
    }
}
