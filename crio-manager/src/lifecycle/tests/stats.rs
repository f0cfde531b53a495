//! Statistics wait for nothing but the kernel's counters.

use super::*;
use crate::drivers::cgroup::Usage;

fn used(cpu_usage_ns: u64) -> Usage {
    Usage {
        cpu_usage_ns: Some(cpu_usage_ns),
        tasks: Some(1),
        ..Usage::default()
    }
}

#[tokio::test]
async fn a_walk_that_hangs_holds_no_statistics_up() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let cell = running(&lifecycle).await;
    node.stuck_at.send_replace("measure layer");
    let walk = tokio::spawn({
        let lifecycle = lifecycle.clone();
        async move { lifecycle.measure_layers().await }
    });
    tokio::task::yield_now().await;
    let usage = lifecycle.container_usage(cell.clone()).await.unwrap();
    assert_eq!(usage.layer, None, "nothing is known yet, and nothing is invented");
    assert!(!walk.is_finished());

    node.stuck_at.send_replace("");
    walk.await.unwrap();
    let layer = lifecycle.container_usage(cell).await.unwrap().layer.unwrap();
    assert_eq!((layer.usage.used_bytes, layer.usage.used_inodes), (4096, 1));
}

#[tokio::test]
async fn the_exited_have_no_statistics_and_are_left_out_of_lists() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let cell = running(&lifecycle).await;
    assert_eq!(lifecycle.container_usages(vec![cell.clone()]).await.len(), 1);
    node.end(&cell.plan.id, 0);
    cell.exited().await;
    assert!(lifecycle.container_usages(vec![cell.clone()]).await.is_empty());
    let error = lifecycle.container_usage(cell).await.err().unwrap();
    assert!(matches!(error, Error::NotRunning { .. }), "{error}");
}

#[tokio::test]
async fn a_pod_in_a_shared_cgroup_uses_what_its_containers_do() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let cell = running(&lifecycle).await;
    *node.usage.lock().unwrap() = used(700);
    let pod = lifecycle.registry().sandbox(cell.plan.sandbox_id.as_str()).unwrap();
    let second = ContainerPlan {
        metadata: ContainerMetadata {
            name: "second".into(),
            attempt: 0,
        },
        ..container_plan(3, &pod.plan.id)
    };
    lifecycle.create_container(pod.clone(), second).await.unwrap();
    let usage = lifecycle.sandbox_usage(pod.clone()).await.unwrap();
    assert_eq!((usage.usage.cpu_usage_ns, usage.usage.tasks), (Some(1400), Some(2)));
    assert_eq!(usage.containers.len(), 2);

    lifecycle.stop_sandbox(pod.clone()).await.unwrap();
    let error = lifecycle.sandbox_usage(pod.clone()).await.err().unwrap();
    assert!(matches!(error, Error::SandboxNotReady(_)), "{error}");
    assert!(lifecycle.sandbox_usages(vec![pod]).await.is_empty());
}
