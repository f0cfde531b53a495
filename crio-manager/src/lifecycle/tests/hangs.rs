//! Calls that do not come back: a kernel that hangs in a mount, in a sync, over a process. Callers are told, nobody else
//! is held, and when the kernel lets go nothing is left.

use super::super::under_way::{PATIENCE, PULL_PATIENCE};
use super::*;
use crate::drivers::image::PullRequest;
use tokio::time::Instant;

/// What the verb says once its caller has waited long enough: the step it is at. Other calls are answered meanwhile.
async fn told<T: std::fmt::Debug>(
    lifecycle: &Lifecycle,
    limit: Duration,
    verb: impl Future<Output = Result<T, Error>>,
) -> &'static str {
    let began = Instant::now();
    let mut verb = Box::pin(verb);
    let early = tokio::time::timeout(limit - Duration::from_secs(1), &mut verb).await;
    assert!(early.is_err(), "too early: {early:?}");
    let _ = lifecycle.registry().snapshot();
    assert!(lifecycle.health().runtime_ready().is_ok());
    let Err(Error::UnderWay { step, .. }) = verb.await else {
        panic!("no word of what it is at")
    };
    assert_eq!(began.elapsed().as_secs(), limit.as_secs());
    step
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_hangs_in_a_mount_is_told_and_joined_by_the_next() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let id = lifecycle.run_sandbox(sandbox_plan(1)).await.unwrap();
    let sandbox = lifecycle.registry().sandbox(id.as_str()).unwrap();
    node.stuck_at.send_replace("mount rootfs");
    let limit = sandbox.handler.create_timeout + PATIENCE;
    let create = |number| lifecycle.create_container(sandbox.clone(), container_plan(number, &id));
    assert_eq!(told(&lifecycle, limit, create(2)).await, "mount rootfs");
    // The pod beside it is made.
    let mut other = sandbox_plan(9);
    other.metadata.name = "other".into();
    lifecycle.run_sandbox(other).await.unwrap();
    let (retry, ()) = tokio::join!(create(3), async {
        node.stuck_at.send_replace("");
    });
    assert_eq!(retry.unwrap(), ContainerId::from_bytes([2; 32]), "the one under way");
}

/// Its own time limit ends a runtime that hangs, unless it cannot be killed.
#[tokio::test(start_paused = true)]
async fn a_creator_that_cannot_be_killed_is_told_and_given_up_with_its_pod() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let id = lifecycle.run_sandbox(sandbox_plan(1)).await.unwrap();
    let sandbox = lifecycle.registry().sandbox(id.as_str()).unwrap();
    node.stuck_at.send_replace("launch monitor");
    let limit = sandbox.handler.create_timeout + PATIENCE;
    let create = lifecycle.create_container(sandbox.clone(), container_plan(2, &id));
    assert_eq!(told(&lifecycle, limit, create).await, "launch monitor");
    lifecycle.remove_sandbox(sandbox).await.unwrap();
    assert_eq!(node.held(), NOTHING);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_hangs_at_its_namespaces_is_told_and_joined_by_the_next() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    node.stuck_at.send_replace("pin namespaces");
    let limit = Duration::from_secs(240) + PATIENCE;
    let step = told(&lifecycle, limit, lifecycle.run_sandbox(sandbox_plan(1))).await;
    assert_eq!(step, "pin namespaces");
    node.stuck_at.send_replace("");
    let id = lifecycle.run_sandbox(sandbox_plan(2)).await.unwrap();
    assert_eq!(id, SandboxId::from_bytes([1; 32]), "the one under way");
}

#[tokio::test(start_paused = true)]
async fn a_stop_and_a_removal_that_hang_are_told_and_finished_by_the_next() {
    for stuck in ["kill", "unmount rootfs"] {
        let node = FakeNode::new(Fails::Never);
        let lifecycle = lifecycle(&node);
        *node.on_stop.lock().unwrap() = OnStop::Ignores;
        let cell = running(&lifecycle).await;
        node.stuck_at.send_replace(stuck);
        if stuck == "kill" {
            let grace = Duration::from_secs(5);
            let stop = lifecycle.stop_container(&cell, grace);
            assert_eq!(told(&lifecycle, grace + PATIENCE, stop).await, "end its processes");
        } else {
            let removal = lifecycle.remove_container(cell.clone());
            assert_eq!(told(&lifecycle, PATIENCE, removal).await, stuck);
        }
        let (removed, ()) = tokio::join!(lifecycle.remove_container(cell.clone()), async {
            node.stuck_at.send_replace("");
        });
        removed.unwrap();
        let sandbox = lifecycle.registry().sandbox(cell.plan.sandbox_id.as_str()).unwrap();
        lifecycle.remove_sandbox(sandbox).await.unwrap();
        assert_eq!(node.held(), NOTHING, "{stuck}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_stopped_beside_a_creation_that_hangs() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let cell = running(&lifecycle).await;
    let sandbox = lifecycle.registry().sandbox(cell.plan.sandbox_id.as_str()).unwrap();
    let before = node.held();
    node.stuck_at.send_replace("mount rootfs");
    let mut plan = container_plan(3, &sandbox.plan.id);
    plan.metadata.name = "other".into();
    let mut creation = Box::pin(lifecycle.create_container(sandbox.clone(), plan));
    let early = tokio::time::timeout(Duration::from_secs(1), &mut creation).await;
    assert!(early.is_err());
    let step = told(&lifecycle, PATIENCE, lifecycle.stop_sandbox(sandbox.clone())).await;
    assert_eq!(step, "wait for the creations in it");
    assert!(cell.state().is_exited(), "what runs does not wait for what hangs");
    node.stuck_at.send_replace("");
    assert!(matches!(creation.await, Err(Error::Create(_))));
    lifecycle.stop_sandbox(sandbox.clone()).await.unwrap();
    assert!(
        node.held().iter().all(|held| before.contains(held)),
        "{:?}",
        node.held()
    );
    lifecycle.remove_sandbox(sandbox).await.unwrap();
    assert_eq!(node.held(), NOTHING);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_hangs_is_told_and_the_container_can_be_stopped() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let id = pod_with_container(&lifecycle).await.unwrap();
    let cell = lifecycle.registry().container(id.as_str()).unwrap();
    node.stuck_at.send_replace("start");
    assert_eq!(
        told(&lifecycle, PATIENCE, lifecycle.start_container(id.as_str())).await,
        "start"
    );
    lifecycle.stop_container(&cell, Duration::ZERO).await.unwrap();
    assert!(cell.state().is_exited());
}

#[tokio::test(start_paused = true)]
async fn pulls_and_removals_of_images_that_hang_are_told() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    node.stuck_at.send_replace("pull");
    let pull = || lifecycle.pull_image(PullRequest::of("image"));
    assert_eq!(told(&lifecycle, PULL_PATIENCE, pull()).await, "pull");
    node.stuck_at.send_replace("remove image");
    pull().await.unwrap();
    let removal = lifecycle.remove_image("image".to_owned());
    assert_eq!(told(&lifecycle, PATIENCE, removal).await, "remove image");
}

/// A container whose record cannot be read is known by that record until nothing of it is left, over any restart.
#[tokio::test(start_paused = true)]
async fn a_lost_container_is_removed_by_the_next_start_if_this_one_could_not() {
    let node = FakeNode::new(Fails::Never);
    let (id, sandbox) = {
        let before = lifecycle(&node);
        let cell = running(&before).await;
        (cell.plan.id.clone(), cell.plan.sandbox_id.clone())
    };
    node.spoil_container_record(&id);
    node.stuck_at.send_replace("unmount rootfs");
    // Where its processes are would be in its bundle, which the fake does not keep.
    let rootfs = format!("rootfs {}", id.short());
    let stuck = lifecycle(&node);
    stuck.restore().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(node.held().contains(&rootfs));

    let next = lifecycle(&node);
    assert_eq!(next.restore().await.unwrap().half_made, 1);
    node.stuck_at.send_replace("");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!node.held().contains(&rootfs), "{:?}", node.held());
    let last = lifecycle(&node);
    assert_eq!(last.restore().await.unwrap().half_made, 0, "and then it is forgotten");
    let sandbox = last.registry().sandbox(sandbox.as_str()).unwrap();
    last.remove_sandbox(sandbox).await.unwrap();
}
