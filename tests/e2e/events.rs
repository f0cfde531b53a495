//! Who watches the node hears of everything that happens on it, in order, with the pod as it was then.

use std::time::Duration;

use anyhow::Context as _;
use cri::v1::ContainerEventType::{
    ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted, ContainerStartedEvent as Started,
    ContainerStoppedEvent as Stopped,
};
use cri::v1::*;
use e2e::{Node, run_on, sh};
use tokio::time::timeout;
use tonic::Streaming;

run_on!(runc, crun:
    a_life_is_told_from_beginning_to_end,
);
run_on!(runc:
    everybody_who_watches_hears_the_same,
    an_exit_is_told_though_nobody_calls,
    a_failed_start_is_told_as_an_end,
    watchers_do_not_keep_a_manager_from_stopping,
);

/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(120);

struct Watch(Streaming<ContainerEventResponse>);

impl Watch {
    async fn begin(node: &Node) -> anyhow::Result<Self> {
        let mut runtime = node.client.runtime.clone();
        Ok(Self(
            runtime.get_container_events(GetEventsRequest {}).await?.into_inner(),
        ))
    }

    async fn next(&mut self) -> anyhow::Result<ContainerEventResponse> {
        let event = timeout(PATIENCE, self.0.message()).await.context("no event")??;
        event.context("the stream has ended")
    }

    /// The next events: which, and of what.
    async fn hears(&mut self, expected: &[(&str, ContainerEventType)]) -> anyhow::Result<()> {
        for (id, kind) in expected {
            let event = self.next().await?;
            assert_eq!(
                (event.container_id.as_str(), event.container_event_type()),
                (*id, *kind)
            );
        }
        Ok(())
    }
}

async fn a_life_is_told_from_beginning_to_end(node: &mut Node) -> anyhow::Result<()> {
    let mut watch = Watch::begin(node).await?;
    let before = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_nanos() as i64;
    let pod = node.running_pod("told").await?;

    let event = watch.next().await?;
    assert_eq!((&event.container_id, event.container_event_type()), (&pod.id, Created));
    assert!(event.created_at >= before);
    let sandbox = event.pod_sandbox_status.context("the pod's status")?;
    assert_eq!(sandbox, node.client.pod_status(&pod.id).await?);
    assert_eq!(event.containers_statuses, []);
    watch.hears(&[(&pod.id, Started)]).await?;

    let id = pod.create(&sh("c", &pod.image, "exit 7")).await?;
    let created = watch.next().await?;
    assert_eq!((&created.container_id, created.container_event_type()), (&id, Created));
    assert_eq!(created.containers_statuses[0].state(), ContainerState::ContainerCreated);
    node.client.start(&id).await?;
    watch.hears(&[(&id, Started)]).await?;
    let stopped = watch.next().await?;
    assert_eq!((&stopped.container_id, stopped.container_event_type()), (&id, Stopped));
    let status = &stopped.containers_statuses[0];
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 7));
    assert_eq!(*status, node.client.status(&id).await?);

    node.client.remove(&id).await?;
    let deleted = watch.next().await?;
    assert_eq!((&deleted.container_id, deleted.container_event_type()), (&id, Deleted));
    assert_eq!(deleted.containers_statuses, []);
    node.client.stop_pod(&pod.id).await?;
    let stopped = watch.next().await?;
    assert_eq!(
        (&stopped.container_id, stopped.container_event_type()),
        (&pod.id, Stopped)
    );
    assert_eq!(
        stopped.pod_sandbox_status.context("the pod's status")?.state(),
        PodSandboxState::SandboxNotready
    );
    node.client.remove_pod(&pod.id).await?;
    watch.hears(&[(&pod.id, Deleted)]).await
}

async fn everybody_who_watches_hears_the_same(node: &mut Node) -> anyhow::Result<()> {
    let mut watches = [Watch::begin(node).await?, Watch::begin(node).await?];
    let pod = node.running_host_pod("told").await?;
    // In the order of the calls, however many are made.
    let ids = [pod.sh("a", "exit 1").await?, pod.sh("b", "exit 2").await?];
    for id in &ids {
        node.client.exited(id, PATIENCE).await?;
    }
    let mut heard = Vec::new();
    for watch in &mut watches {
        let mut events = Vec::new();
        for _ in 0..8 {
            let event = watch.next().await?;
            events.push((event.container_id.clone(), event.container_event_type()));
        }
        for id in &ids {
            let of_one: Vec<_> = events
                .iter()
                .filter(|(of, _)| of == id)
                .map(|(_, kind)| *kind)
                .collect();
            assert_eq!(of_one, [Created, Started, Stopped]);
        }
        heard.push(events);
    }
    assert_eq!(heard[0], heard[1]);
    Ok(())
}

async fn an_exit_is_told_though_nobody_calls(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("told").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    node.kill9().await?;
    node.restart().await?;
    let mut watch = Watch::begin(node).await?;
    let pid = node.client.pid(&id).await?;
    node.namespaces.run("kill", &["-KILL", &pid.to_string()])?;
    let event = watch.next().await?;
    assert_eq!((&event.container_id, event.container_event_type()), (&id, Stopped));
    assert_eq!(event.containers_statuses[0].exit_code, 137);
    Ok(())
}

async fn a_failed_start_is_told_as_an_end(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("told").await?;
    let mut watch = Watch::begin(node).await?;
    let id = pod.create(&sh("c", &pod.image, "exit 0")).await?;
    watch.hears(&[(&id, Created)]).await?;
    // Its process is gone before the start.
    let pid = node.client.pid(&id).await?;
    node.namespaces.run("kill", &["-KILL", &pid.to_string()])?;
    let event = watch.next().await?;
    assert_eq!((&event.container_id, event.container_event_type()), (&id, Stopped));
    assert!(node.client.start(&id).await.is_err());
    node.client.remove(&id).await?;
    watch.hears(&[(&id, Deleted)]).await
}

async fn watchers_do_not_keep_a_manager_from_stopping(node: &mut Node) -> anyhow::Result<()> {
    let mut watch = Watch::begin(node).await?;
    node.stop().await?;
    let end = timeout(PATIENCE, watch.0.message()).await?;
    assert!(matches!(end, Ok(None) | Err(_)), "{end:?}");
    node.restart().await?;
    Ok(())
}
