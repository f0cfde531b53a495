//! Model → reply.

use crate::lifecycle::cell::{ContainerCell, SandboxCell};
use crate::lifecycle::events::{Event, What};
use crate::model::container::{MountPlan, MountSource, Propagation, Resources};
use crate::model::name::{ContainerMetadata, Pairs, PodMetadata};
use crate::model::security::{NamespaceMode, Namespaces};
use crate::model::users::{IdRange, UserMappings};
use crate::model::{ContainerState, SandboxState};
use bytes::Bytes;
use cri::v1;
use std::collections::HashMap;

pub(super) fn map(pairs: &Pairs) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

pub(super) fn pod_metadata(metadata: &PodMetadata) -> v1::PodSandboxMetadata {
    v1::PodSandboxMetadata {
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        namespace: metadata.namespace.clone(),
        attempt: metadata.attempt,
    }
}

pub(super) fn container_metadata(metadata: &ContainerMetadata) -> v1::ContainerMetadata {
    v1::ContainerMetadata {
        name: metadata.name.clone(),
        attempt: metadata.attempt,
    }
}

/// CRI's number of a sandbox's state.
pub fn sandbox_state(state: SandboxState) -> i32 {
    match state {
        SandboxState::Ready => v1::PodSandboxState::SandboxReady.into(),
        SandboxState::NotReady => v1::PodSandboxState::SandboxNotready.into(),
    }
}

/// CRI's number of a container's state.
pub fn container_state(state: &ContainerState) -> i32 {
    match state {
        ContainerState::Created { .. } | ContainerState::Checkpointed => v1::ContainerState::ContainerCreated.into(),
        ContainerState::Running { .. } => v1::ContainerState::ContainerRunning.into(),
        ContainerState::Exited { .. } => v1::ContainerState::ContainerExited.into(),
    }
}

/// A line of ListPodSandbox, encoded. Of a line nothing but the state changes.
pub fn sandbox_line(cell: &SandboxCell) -> Bytes {
    let state = sandbox_state(cell.state());
    cell.line.of(state, || cri::encoded(&sandbox(cell, state)))
}

fn sandbox(cell: &SandboxCell, state: i32) -> v1::PodSandbox {
    v1::PodSandbox {
        id: cell.plan.id.to_string(),
        metadata: Some(pod_metadata(&cell.plan.metadata)),
        state,
        created_at: cell.plan.created_at.nanos(),
        labels: map(&cell.plan.labels),
        annotations: map(&cell.plan.annotations),
        runtime_handler: cell.plan.runtime_handler.clone(),
    }
}

/// PodSandboxStatus, as it is now.
pub fn sandbox_status(cell: &SandboxCell) -> v1::PodSandboxStatus {
    sandbox_status_in(cell, cell.state())
}

/// PodSandboxStatus of one that is, or was, in this state.
fn sandbox_status_in(cell: &SandboxCell, state: SandboxState) -> v1::PodSandboxStatus {
    let mut ips = cell.facts().ips.into_iter().map(|ip| ip.to_string());
    v1::PodSandboxStatus {
        id: cell.plan.id.to_string(),
        metadata: Some(pod_metadata(&cell.plan.metadata)),
        state: sandbox_state(state),
        created_at: cell.plan.created_at.nanos(),
        network: Some(v1::PodSandboxNetworkStatus {
            ip: ips.next().unwrap_or_default(),
            additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
        }),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace {
                options: Some(namespaces(&cell.plan.namespaces)),
            }),
        }),
        labels: map(&cell.plan.labels),
        annotations: map(&cell.plan.annotations),
        runtime_handler: cell.plan.runtime_handler.clone(),
    }
}

fn namespaces(namespaces: &Namespaces) -> v1::NamespaceOption {
    let mode = |mode: &NamespaceMode| match mode {
        NamespaceMode::Pod => v1::NamespaceMode::Pod.into(),
        NamespaceMode::Container => v1::NamespaceMode::Container.into(),
        NamespaceMode::Node => v1::NamespaceMode::Node.into(),
        NamespaceMode::Target(_) => v1::NamespaceMode::Target.into(),
    };
    v1::NamespaceOption {
        network: mode(&namespaces.network),
        pid: mode(&namespaces.pid),
        ipc: mode(&namespaces.ipc),
        target_id: match &namespaces.pid {
            NamespaceMode::Target(id) => id.clone(),
            NamespaceMode::Pod | NamespaceMode::Container | NamespaceMode::Node => String::new(),
        },
        userns_options: namespaces.users.as_ref().map(|users| v1::UserNamespace {
            mode: v1::NamespaceMode::Pod.into(),
            uids: vec![id_mapping(&users.uids)],
            gids: vec![id_mapping(&users.gids)],
        }),
    }
}

fn id_mapping(range: &IdRange) -> v1::IdMapping {
    v1::IdMapping {
        host_id: range.first,
        container_id: 0,
        length: range.length,
    }
}

fn image_spec(cell: &ContainerCell) -> v1::ImageSpec {
    v1::ImageSpec {
        image: cell.plan.image.clone(),
        user_specified_image: cell.plan.user_specified_image.clone(),
        image_ref: cell.made_of.image_id.clone(),
        ..v1::ImageSpec::default()
    }
}

/// A line of ListContainers, encoded. Of a line nothing but the state changes.
pub fn container_line(cell: &ContainerCell) -> Bytes {
    let state = container_state(&cell.state());
    cell.line.of(state, || cri::encoded(&container(cell, state)))
}

fn container(cell: &ContainerCell, state: i32) -> v1::Container {
    v1::Container {
        id: cell.plan.id.to_string(),
        pod_sandbox_id: cell.plan.sandbox_id.to_string(),
        metadata: Some(container_metadata(&cell.plan.metadata)),
        image: Some(image_spec(cell)),
        image_ref: cell.made_of.image_ref.clone(),
        state,
        created_at: cell.plan.created_at.nanos(),
        labels: map(&cell.plan.labels),
        annotations: map(&cell.plan.annotations),
        image_id: cell.made_of.image_id.clone(),
    }
}

/// ContainerStatus, as it is now.
pub fn container_status(cell: &ContainerCell) -> v1::ContainerStatus {
    container_status_in(cell, &cell.state())
}

/// ContainerStatus of one that is, or was, in this state.
fn container_status_in(cell: &ContainerCell, state: &ContainerState) -> v1::ContainerStatus {
    let plan = &cell.plan;
    let mut status = v1::ContainerStatus {
        id: plan.id.to_string(),
        metadata: Some(container_metadata(&plan.metadata)),
        state: container_state(state),
        created_at: plan.created_at.nanos(),
        image: Some(image_spec(cell)),
        image_ref: cell.made_of.image_ref.clone(),
        labels: map(&plan.labels),
        annotations: map(&plan.annotations),
        mounts: plan.mounts.iter().map(|asked| mount(asked, cell)).collect(),
        log_path: plan
            .log_path
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        resources: Some(v1::ContainerResources {
            linux: Some(resources(&cell.resources())),
            windows: None,
        }),
        image_id: cell.made_of.image_id.clone(),
        user: Some(v1::ContainerUser {
            linux: Some(v1::LinuxContainerUser {
                uid: cell.made_of.user.uid.into(),
                gid: cell.made_of.user.gid.into(),
                supplemental_groups: cell.made_of.user.groups.iter().copied().map(i64::from).collect(),
            }),
        }),
        ..v1::ContainerStatus::default()
    };
    match state {
        ContainerState::Created { .. } | ContainerState::Checkpointed => {}
        ContainerState::Running { started_at, .. } => status.started_at = started_at.nanos(),
        ContainerState::Exited { exit, started_at } => {
            // Never zero for what has exited, and never after the end.
            status.started_at = started_at.unwrap_or(exit.at).nanos();
            status.finished_at = exit.at.nanos().max(status.started_at);
            status.exit_code = exit.status.code();
            exit.reason().clone_into(&mut status.reason);
            exit.message().clone_into(&mut status.message);
        }
    }
    status
}

/// An event, with the pod as it was.
pub fn event(event: &Event) -> v1::ContainerEventResponse {
    let kind = match event.what {
        What::Created => v1::ContainerEventType::ContainerCreatedEvent,
        What::Started => v1::ContainerEventType::ContainerStartedEvent,
        What::Stopped => v1::ContainerEventType::ContainerStoppedEvent,
        What::Deleted => v1::ContainerEventType::ContainerDeletedEvent,
    };
    v1::ContainerEventResponse {
        container_id: event.id.clone(),
        container_event_type: kind.into(),
        created_at: event.at.nanos(),
        pod_sandbox_status: event
            .sandbox
            .as_ref()
            .map(|(cell, state)| sandbox_status_in(cell, *state)),
        containers_statuses: event
            .containers
            .iter()
            .map(|(cell, state)| container_status_in(cell, state))
            .collect(),
    }
}

fn mount(mount: &MountPlan, cell: &ContainerCell) -> v1::Mount {
    let users = cell.plan.security.namespaces.users.as_ref();
    let mappings = |range: fn(&UserMappings) -> &IdRange| {
        let of_mount = users.filter(|_| mount.id_mapped);
        of_mount.map(|users| id_mapping(range(users))).into_iter().collect()
    };
    let (host_path, image, image_sub_path) = match &mount.source {
        MountSource::Host { host_path } => (host_path.display().to_string(), None, String::new()),
        MountSource::Image { image } => {
            let spec = v1::ImageSpec {
                image: image.image.clone(),
                user_specified_image: image.user_specified_image.clone(),
                image_ref: cell
                    .made_of
                    .volume_images
                    .get(&mount.container_path)
                    .cloned()
                    .unwrap_or_default(),
                ..v1::ImageSpec::default()
            };
            (String::new(), Some(spec), image.sub_path.clone())
        }
    };
    v1::Mount {
        container_path: mount.container_path.clone(),
        host_path,
        image,
        image_sub_path,
        readonly: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        selinux_relabel: mount.selinux_relabel,
        propagation: match mount.propagation {
            Propagation::Private => v1::MountPropagation::PropagationPrivate.into(),
            Propagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer.into(),
            Propagation::Bidirectional => v1::MountPropagation::PropagationBidirectional.into(),
        },
        uid_mappings: mappings(|users| &users.uids),
        gid_mappings: mappings(|users| &users.gids),
    }
}

fn resources(resources: &Resources) -> v1::LinuxContainerResources {
    let number = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok()).unwrap_or_default();
    v1::LinuxContainerResources {
        cpu_period: number(resources.cpu_period_us),
        cpu_quota: resources.cpu_quota_us.unwrap_or_default(),
        cpu_shares: number(resources.cpu_shares),
        memory_limit_in_bytes: resources.memory_limit_bytes.unwrap_or_default(),
        oom_score_adj: resources.oom_score_adj.into(),
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepage_limits: resources
            .hugepage_limits
            .iter()
            .map(|(page_size, limit)| v1::HugepageLimit {
                page_size: page_size.clone(),
                limit: *limit,
            })
            .collect(),
        unified: map(&resources.unified),
        memory_swap_limit_in_bytes: resources.memory_swap_limit_bytes.unwrap_or_default(),
    }
}
