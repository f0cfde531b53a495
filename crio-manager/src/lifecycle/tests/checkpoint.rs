//! Checkpoints, and containers from them.

use super::*;
use crate::lifecycle::cell::ContainerCell;
use std::path::PathBuf;

const ARCHIVE: &str = "/checkpoints/c.tar";

async fn checkpoint(lifecycle: &Lifecycle, cell: &ContainerCell, limit: Option<Duration>) -> Result<(), Error> {
    let id = cell.plan.id.as_str();
    lifecycle.checkpoint_container(id, ARCHIVE.into(), limit).await
}

fn archive() -> String {
    format!("archive {ARCHIVE}")
}

/// A pod, and the plan of a container with a PID namespace of its own that is to be made from a checkpoint.
async fn pod_and_plan(
    lifecycle: &Lifecycle,
    image: &str,
) -> Result<(Arc<super::super::cell::SandboxCell>, ContainerPlan), Error> {
    let id = lifecycle.run_sandbox(sandbox_plan(1)).await?;
    let mut plan = container_plan(2, &id);
    plan.security.namespaces.pid = NamespaceMode::Container;
    plan.image = image.to_owned();
    Ok((lifecycle.registry().sandbox(id.as_str())?, plan))
}

async fn from_checkpoint(lifecycle: &Lifecycle) -> Result<Arc<ContainerCell>, Error> {
    let (sandbox, plan) = pod_and_plan(lifecycle, ARCHIVE).await?;
    let id = lifecycle.create_container(sandbox, plan).await?;
    lifecycle.registry().container(id.as_str())
}

#[tokio::test]
async fn a_container_goes_on_after_a_checkpoint_that_fails_anywhere() {
    for step in 0.. {
        let node = FakeNode::new(Fails::Making(step));
        let lifecycle = lifecycle(&node);
        let Ok(id) = pod_with_container(&lifecycle).await else {
            continue;
        };
        if lifecycle.start_container(id.as_str()).await.is_err() {
            continue;
        }
        let cell = lifecycle.registry().container(id.as_str()).unwrap();
        let before = node.held();
        let done = checkpoint(&lifecycle, &cell, None).await;
        let mut held = node.held();
        held.retain(|held| *held != archive());
        assert_eq!(held, before, "step {step}: {done:?}");
        assert!(matches!(cell.state(), ContainerState::Running { .. }));
        assert_eq!(node.held().contains(&archive()), done.is_ok(), "step {step}");
        if done.is_ok() {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_takes_too_long_is_thrown_away_and_the_container_goes_on() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let cell = running(&lifecycle).await;
    let before = node.held();
    node.stuck_at.send_replace("write down the processes");
    // The archive is given up by the clock of the machine, which tests cannot pause: none is the shortest there is.
    let error = checkpoint(&lifecycle, &cell, Some(Duration::ZERO)).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    node.stuck_at.send_replace("");
    // The next one waits for what is left of it.
    checkpoint(&lifecycle, &cell, None).await.unwrap();
    let mut held = node.held();
    held.retain(|held| *held != archive());
    assert_eq!(held, before);
}

#[tokio::test]
async fn only_what_runs_is_checkpointed() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let id = pod_with_container(&lifecycle).await.unwrap();
    let error = lifecycle
        .checkpoint_container(id.as_str(), PathBuf::from(ARCHIVE), None)
        .await;
    assert!(matches!(error, Err(Error::NotRunning { .. })), "{error:?}");
    let error = lifecycle
        .checkpoint_container("none", PathBuf::from(ARCHIVE), None)
        .await;
    assert!(matches!(error, Err(Error::NoSuchContainer(_))), "{error:?}");
}

#[tokio::test]
async fn a_container_from_a_checkpoint_has_no_process_before_its_start() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let cell = from_checkpoint(&lifecycle).await.unwrap();
    let process = format!("process {}", cell.plan.id.short());
    let place = format!("checkpoint {}", cell.plan.id.short());
    assert_eq!(cell.state(), ContainerState::Checkpointed);
    assert_eq!(
        cell.plan.image, "sha256:1",
        "the image is the one that the checkpoint names"
    );
    assert!(!node.held().contains(&process) && node.held().contains(&place));
    let updated = lifecycle
        .update_container(cell.plan.id.as_str(), Resources::default())
        .await;
    assert!(matches!(updated, Err(Error::NotRunning { .. })), "{updated:?}");
    assert!(lifecycle.container_usages(vec![cell.clone()]).await.is_empty());
    lifecycle.start_container(cell.plan.id.as_str()).await.unwrap();
    assert!(matches!(cell.state(), ContainerState::Running { .. }));
    assert!(node.held().contains(&process) && !node.held().contains(&place));
    assert!(
        lifecycle.start_container(cell.plan.id.as_str()).await.is_err(),
        "it starts once"
    );
    lifecycle.stop_container(&cell, Duration::from_secs(10)).await.unwrap();
    assert!(cell.state().is_exited());
    let sandbox = lifecycle.registry().sandbox(cell.plan.sandbox_id.as_str()).unwrap();
    lifecycle.remove_sandbox(sandbox).await.unwrap();
    assert_eq!(node.held(), NOTHING);
}

#[tokio::test]
async fn a_creation_or_a_start_from_a_checkpoint_that_fails_anywhere_leaves_nothing() {
    for step in 0.. {
        let node = FakeNode::new(Fails::Making(step));
        let lifecycle = lifecycle(&node);
        let Ok((sandbox, plan)) = pod_and_plan(&lifecycle, ARCHIVE).await else {
            continue;
        };
        let before = node.held();
        match lifecycle.create_container(sandbox.clone(), plan).await {
            Err(error) => assert_eq!(node.held(), before, "after a failure at step {step}: {error}"),
            Ok(id) => {
                let started = lifecycle.start_container(id.as_str()).await;
                let cell = lifecycle.registry().container(id.as_str()).unwrap();
                assert_eq!(cell.state().is_exited(), started.is_err(), "step {step}");
                lifecycle.remove_sandbox(sandbox).await.unwrap();
                assert_eq!(node.held(), NOTHING, "step {step}: {started:?}");
                if started.is_ok() {
                    return;
                }
            }
        }
    }
}

#[tokio::test]
async fn what_was_not_started_before_a_restart_can_be_started_after_it() {
    let node = FakeNode::new(Fails::Never);
    let id = from_checkpoint(&lifecycle(&node)).await.unwrap().plan.id.clone();
    let after = lifecycle(&node);
    after.restore().await.unwrap();
    let cell = after.registry().container(id.as_str()).unwrap();
    assert_eq!(cell.state(), ContainerState::Checkpointed);
    after.start_container(id.as_str()).await.unwrap();
    assert!(matches!(cell.state(), ContainerState::Running { .. }));
}

#[tokio::test]
async fn what_was_never_started_is_stopped_without_a_process() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let cell = from_checkpoint(&lifecycle).await.unwrap();
    lifecycle.stop_container(&cell, Duration::from_secs(10)).await.unwrap();
    let ContainerState::Exited { exit, started_at } = cell.state() else {
        panic!("{:?}", cell.state())
    };
    assert_eq!((exit.status.code(), started_at), (255, None), "nobody saw a code");
    assert!(lifecycle.start_container(cell.plan.id.as_str()).await.is_err());
}

#[tokio::test]
async fn a_container_whose_checkpoint_was_cut_off_goes_on() {
    let node = FakeNode::new(Fails::Never);
    let id = {
        let before = lifecycle(&node);
        let cell = running(&before).await;
        node.stuck_at.send_replace("write archive");
        let (before, told) = (before.clone(), cell.clone());
        tokio::spawn(async move { checkpoint(&before, &told, None).await });
        cell.plan.id.clone()
    };
    let frozen = format!("frozen {}", id.short());
    while !node.held().contains(&frozen) {
        tokio::task::yield_now().await;
    }
    let after = lifecycle(&node);
    after.restore().await.unwrap();
    while node.held().contains(&frozen) {
        tokio::task::yield_now().await;
    }
    assert!(!node.held().contains(&archive()));
}

#[tokio::test]
async fn mounts_of_the_checkpoint_that_the_request_has_not_are_named() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let (sandbox, plan) = pod_and_plan(&lifecycle, "/mounts.tar").await.unwrap();
    let before = node.held();
    let error = lifecycle.create_container(sandbox, plan).await.unwrap_err().to_string();
    assert!(
        error.contains("mounts nothing at \"/data\"") || error.contains("mounts nothing at /data"),
        "{error}"
    );
    assert_eq!(node.held(), before);
}

#[tokio::test]
async fn an_image_that_is_a_checkpoint_makes_a_container_that_goes_on_where_that_is_allowed() {
    let node = FakeNode::new(Fails::Never);
    let refusing = lifecycle(&node);
    let (sandbox, plan) = pod_and_plan(&refusing, "checkpoint").await.unwrap();
    let before = node.held();
    let error = refusing.create_container(sandbox, plan).await.unwrap_err().to_string();
    assert!(error.contains("crio_manager.restore_from_images is false"), "{error}");
    assert_eq!(node.held(), before);

    let node = FakeNode::new(Fails::Never);
    let defaults = SpecDefaults {
        restore_from_images: true,
        ..SpecDefaults::for_tests()
    };
    let lifecycle = Lifecycle::new(node.drivers(), defaults);
    let (sandbox, plan) = pod_and_plan(&lifecycle, "checkpoint").await.unwrap();
    let before = node.held();
    let mut nested = plan.clone();
    nested.image = "checkpoint-of-checkpoint".to_owned();
    let error = lifecycle
        .create_container(sandbox.clone(), nested)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("is itself one"), "{error}");
    assert_eq!(node.held(), before);

    let id = lifecycle.create_container(sandbox, plan).await.unwrap();
    let cell = lifecycle.registry().container(id.as_str()).unwrap();
    assert!(matches!(cell.state(), ContainerState::Checkpointed));
    assert_eq!(
        (cell.plan.image.as_str(), cell.made_of.image_id.as_str()),
        ("sha256:1", "sha256:1")
    );
    lifecycle.start_container(id.as_str()).await.unwrap();
    assert!(matches!(cell.state(), ContainerState::Running { .. }));
}
