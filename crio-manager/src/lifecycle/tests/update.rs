//! Changed limits: all of them or none, and known afterwards.

use super::*;
use crate::drivers::cgroup::{MemoryUsage, Usage};
use serde_json::json;

fn limits(memory_bytes: i64) -> Resources {
    Resources {
        memory_limit_bytes: Some(memory_bytes),
        ..Resources::default()
    }
}

#[tokio::test]
async fn changed_limits_are_known_after_a_restart() {
    let node = FakeNode::new(Fails::Never);
    let before = lifecycle(&node);
    let cell = running(&before).await;
    let id = cell.plan.id.to_string();
    before.update_container(&id, limits(4096)).await.unwrap();
    let asked = node.updates.lock().unwrap().clone();
    assert_eq!(asked[0]["memory"]["limit"], json!(4096));
    assert_eq!(asked[0].get("pids"), None, "what is not said stays");

    let after = lifecycle(&node);
    after.restore().await.unwrap();
    let cell = after.registry().container(&id).unwrap();
    assert_eq!(cell.resources().memory_limit_bytes, Some(4096));
}

#[tokio::test]
async fn a_limit_that_is_refused_in_the_middle_takes_all_back() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let cell = running(&lifecycle).await;
    *node.limits.lock().unwrap() = Resources {
        cpu_shares: Some(7),
        ..limits(-1)
    };
    node.fails_update.store(true, Ordering::SeqCst);
    let error = lifecycle.update_container(cell.plan.id.as_str(), limits(4096)).await;
    assert!(matches!(error, Err(Error::Step { step: "update", .. })), "{error:?}");
    let asked = node.updates.lock().unwrap().clone();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1]["memory"]["limit"], json!(i64::MAX), "no limit, as before");
    assert_eq!(asked[1]["cpu"]["shares"], json!(7), "all that there was");
    assert_eq!(cell.resources(), cell.plan.resources);
}

#[tokio::test]
async fn a_limit_below_what_is_in_use_is_refused_and_nothing_is_asked() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let cell = running(&lifecycle).await;
    *node.usage.lock().unwrap() = Usage {
        memory: Some(MemoryUsage {
            working_set_bytes: 4097,
            ..MemoryUsage::default()
        }),
        ..Usage::default()
    };
    let id = cell.plan.id.as_str();
    let error = lifecycle.update_container(id, limits(4096)).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::MemoryInUse {
                limit: 4096,
                used: 4097
            }
        ),
        "{error}"
    );
    assert!(node.updates.lock().unwrap().is_empty());
    lifecycle.update_container(id, limits(-1)).await.unwrap();
}

#[tokio::test]
async fn the_exited_are_not_changed() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let cell = running(&lifecycle).await;
    node.end(&cell.plan.id, 0);
    cell.exited().await;
    let error = lifecycle.update_container(cell.plan.id.as_str(), limits(4096)).await;
    assert!(matches!(error, Err(Error::NotRunning { .. })), "{error:?}");
}

#[tokio::test]
async fn a_pods_limits_are_noted_while_it_is_ready() {
    let node = FakeNode::new(Fails::Never);
    let before = lifecycle(&node);
    let cell = running(&before).await;
    let pod = cell.plan.sandbox_id.as_str();
    let asked = PodResources {
        resources: limits(4096),
        ..PodResources::default()
    };
    before.update_sandbox(pod, asked.clone()).await.unwrap();
    let after = lifecycle(&node);
    after.restore().await.unwrap();
    let sandbox = after.registry().sandbox(pod).unwrap();
    assert_eq!(sandbox.facts().resources, asked);
    after.stop_sandbox(sandbox).await.unwrap();
    let error = after.update_sandbox(pod, asked).await;
    assert!(matches!(error, Err(Error::SandboxNotReady(_))), "{error:?}");
}
