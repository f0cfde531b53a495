//! The order of things, on a node in memory that fails where it is told to.

mod checkpoint;
mod hangs;
mod selinux;
mod stats;
mod trust;
mod update;
mod wipe;

use super::Lifecycle;
use super::SpecDefaults;
use super::error::Error;
use crate::drivers::fake::{Fails, FakeNode, OnStop};
use crate::model::container::Resources;
use crate::model::name::{ContainerMetadata, PodMetadata};
use crate::model::record::PodResources;
use crate::model::security::{GroupsPolicy, NamespaceMode, Namespaces, Profile, RunAs, Security, SelinuxOptions};
use crate::model::{ContainerId, ContainerPlan, ContainerState, SandboxId, SandboxPlan, SandboxState, Timestamp};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const NOTHING: [&str; 0] = [];

/// More releases than a pod with a container has.
const MORE_THAN_ALL_STEPS: usize = 40;

fn pod() -> PodMetadata {
    PodMetadata {
        name: "pod".into(),
        uid: "uid".into(),
        namespace: "default".into(),
        attempt: 0,
    }
}

fn namespaces() -> Namespaces {
    // A shared PID namespace, so that creation has all its steps.
    Namespaces {
        network: NamespaceMode::Pod,
        pid: NamespaceMode::Pod,
        ipc: NamespaceMode::Pod,
        users: None,
    }
}

pub(super) fn sandbox_plan(number: u8) -> SandboxPlan {
    SandboxPlan {
        id: SandboxId::from_bytes([number; 32]),
        metadata: pod(),
        hostname: "pod".into(),
        log_directory: None,
        dns: None,
        port_mappings: Vec::new(),
        labels: Default::default(),
        annotations: Default::default(),
        cgroup_parent: String::new(),
        sysctls: Default::default(),
        namespaces: namespaces(),
        privileged: false,
        selinux: SelinuxOptions::default(),
        seccomp: None,
        bandwidth: None,
        runtime_handler: String::new(),
        trust: None,
        created_at: Timestamp::from_nanos(1),
    }
}

pub(super) fn container_plan(number: u8, sandbox: &SandboxId) -> ContainerPlan {
    ContainerPlan {
        id: ContainerId::from_bytes([number; 32]),
        sandbox_id: sandbox.clone(),
        metadata: ContainerMetadata {
            name: "main".into(),
            attempt: 0,
        },
        pod: pod(),
        image: "image".into(),
        user_specified_image: String::new(),
        command: vec!["sleep".into()],
        args: Vec::new(),
        working_dir: String::new(),
        envs: Vec::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        cdi_devices: Vec::new(),
        labels: Default::default(),
        annotations: Default::default(),
        log_path: None,
        log_path_asked: String::new(),
        stdin: false,
        stdin_once: false,
        tty: false,
        resources: Resources::default(),
        security: Security {
            privileged: false,
            readonly_rootfs: false,
            no_new_privs: false,
            run_as: RunAs::Image,
            run_as_group: None,
            supplemental_groups: Vec::new(),
            groups_policy: GroupsPolicy::Merge,
            add_capabilities: Vec::new(),
            drop_capabilities: Vec::new(),
            add_ambient_capabilities: Vec::new(),
            namespaces: namespaces(),
            seccomp: Profile::RuntimeDefault,
            apparmor: Profile::Unconfined,
            selinux: SelinuxOptions::default(),
            masked_paths: Vec::new(),
            readonly_paths: Vec::new(),
        },
        stop_signal: None,
        created_at: Timestamp::from_nanos(2),
    }
}

fn lifecycle(node: &Arc<FakeNode>) -> Lifecycle {
    Lifecycle::new(node.drivers(), SpecDefaults::for_tests())
}

/// A pod and a container in it, both new.
async fn pod_with_container(lifecycle: &Lifecycle) -> Result<ContainerId, Error> {
    let id = lifecycle.run_sandbox(sandbox_plan(1)).await?;
    let sandbox = lifecycle.registry().sandbox(id.as_str())?;
    lifecycle.create_container(sandbox, container_plan(2, &id)).await
}

async fn running(lifecycle: &Lifecycle) -> Arc<super::cell::ContainerCell> {
    let id = pod_with_container(lifecycle).await.unwrap();
    lifecycle.start_container(id.as_str()).await.unwrap();
    lifecycle.registry().container(id.as_str()).unwrap()
}

#[tokio::test]
async fn a_failure_at_any_step_leaves_nothing_behind() {
    for step in 0.. {
        let node = FakeNode::new(Fails::Making(step)); // worst case: it makes, then reports failure
        let lifecycle = lifecycle(&node);
        let sandbox = match lifecycle.run_sandbox(sandbox_plan(1)).await {
            Err(error) => {
                assert!(matches!(error, Error::Create(_)), "{error}");
                assert_eq!(node.held(), NOTHING, "after a failure at step {step}: {error}");
                continue;
            }
            Ok(id) => lifecycle.registry().sandbox(id.as_str()).unwrap(),
        };
        let before = node.held();
        let created = lifecycle
            .create_container(sandbox.clone(), container_plan(2, &sandbox.plan.id))
            .await;
        let Err(error) = created else {
            assert!(step > 10, "every step has had its turn: {step}");
            return;
        };
        assert!(matches!(error, Error::Create(_)), "{error}");
        assert_eq!(node.held(), before, "after a failure at step {step}: {error}");
        // The name is free at once, and the retry succeeds.
        lifecycle
            .create_container(sandbox.clone(), container_plan(3, &sandbox.plan.id))
            .await
            .unwrap();
        lifecycle.remove_sandbox(sandbox).await.unwrap();
        assert_eq!(node.held(), NOTHING, "after the removal that follows step {step}");
    }
}

#[tokio::test]
async fn a_removal_that_fails_anywhere_is_finished_by_the_next() {
    for step in 0..MORE_THAN_ALL_STEPS {
        let node = FakeNode::new(Fails::Releasing(step));
        let lifecycle = lifecycle(&node);
        let container = running(&lifecycle).await;
        let sandbox = lifecycle
            .registry()
            .sandbox(container.plan.sandbox_id.as_str())
            .unwrap();
        let first = lifecycle.remove_sandbox(sandbox.clone()).await;
        if first.is_err() {
            assert_ne!(node.held(), NOTHING, "what is left is known: {step}");
            lifecycle.remove_sandbox(sandbox).await.unwrap();
        }
        assert_eq!(node.held(), NOTHING, "step {step}");
        assert!(lifecycle.registry().snapshot().0.is_empty() && lifecycle.registry().snapshot().1.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_that_runs_into_its_timeout_leaves_nothing_and_a_retry_succeeds() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let mut plan = sandbox_plan(1);
    plan.namespaces.pid = NamespaceMode::Container;
    let id = lifecycle.run_sandbox(plan).await.unwrap();
    let sandbox = lifecycle.registry().sandbox(id.as_str()).unwrap();
    let before = node.held();
    node.hang_creates.store(true, Ordering::SeqCst);
    let alone = |number| {
        let mut plan = container_plan(number, &id);
        plan.security.namespaces.pid = NamespaceMode::Container;
        plan
    };
    let error = lifecycle.create_container(sandbox.clone(), alone(2)).await.unwrap_err();
    assert_eq!(error.to_string(), "create container: launch monitor: the runtime hangs");
    assert_eq!(node.held(), before);
    node.hang_creates.store(false, Ordering::SeqCst);
    lifecycle.create_container(sandbox, alone(3)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_an_undo_cannot_give_back_is_told_and_given_back_later() {
    let mut told = 0;
    for release in 0..MORE_THAN_ALL_STEPS {
        let node = FakeNode::new(Fails::Releasing(release));
        let lifecycle = lifecycle(&node);
        let mut plan = sandbox_plan(1);
        plan.namespaces.pid = NamespaceMode::Container;
        let id = lifecycle.run_sandbox(plan).await.unwrap();
        let sandbox = lifecycle.registry().sandbox(id.as_str()).unwrap();
        let before = node.held();
        let create = |number| {
            let mut plan = container_plan(number, &id);
            plan.security.namespaces.pid = NamespaceMode::Container;
            lifecycle.create_container(sandbox.clone(), plan)
        };
        node.hang_creates.store(true, Ordering::SeqCst);
        let Err(Error::Create(failed)) = create(2).await else {
            panic!("created")
        };
        if !failed.leftovers.is_empty() {
            assert!(failed.to_string().contains("left behind: "), "{failed}");
            told += 1;
        }
        // The name is free meanwhile.
        node.hang_creates.store(false, Ordering::SeqCst);
        let next = create(3).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(
            !node.held().iter().any(|held| held.contains("0202")),
            "{:?}",
            node.held()
        );
        let next = lifecycle.registry().container(next.as_str()).unwrap();
        if lifecycle.remove_container(next.clone()).await.is_err() {
            lifecycle.remove_container(next).await.unwrap();
        }
        assert_eq!(node.held(), before, "release {release}");
    }
    assert!(told >= 4, "two cgroups, a bundle, a root file system: {told}");
}

#[tokio::test]
async fn the_same_metadata_gives_the_same_object() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let first = pod_with_container(&lifecycle).await.unwrap();
    assert_eq!(
        lifecycle.run_sandbox(sandbox_plan(9)).await.unwrap(),
        SandboxId::from_bytes([1; 32])
    );
    let sandbox = lifecycle
        .registry()
        .sandbox(SandboxId::from_bytes([1; 32]).as_str())
        .unwrap();
    let again = lifecycle
        .create_container(sandbox.clone(), container_plan(8, &sandbox.plan.id))
        .await
        .unwrap();
    assert_eq!(again, first);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_being_made_is_not_seen() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    node.hang_creates.store(true, Ordering::SeqCst);
    let making = tokio::spawn({
        let lifecycle = lifecycle.clone();
        async move { lifecycle.run_sandbox(sandbox_plan(1)).await }
    });
    while lifecycle.registry().sandbox_names.making() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(lifecycle.registry().snapshot().0.is_empty());
    assert!(
        lifecycle
            .registry()
            .sandbox(SandboxId::from_bytes([1; 32]).as_str())
            .is_err()
    );
    node.hang_creates.store(false, Ordering::SeqCst);
    node.go_on.notify_one();
    making.await.unwrap().unwrap();
    assert_eq!(lifecycle.registry().snapshot().0.len(), 1);
}

#[tokio::test]
async fn an_exit_is_noted_with_its_code() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let cell = running(&lifecycle).await;
    node.end(&cell.plan.id, 7);
    cell.exited().await;
    let ContainerState::Exited { exit, started_at } = cell.state() else {
        panic!("not exited")
    };
    assert_eq!(exit.status.code(), 7);
    assert!(started_at.unwrap() <= exit.at);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_at_once_when_the_container_does() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let cell = running(&lifecycle).await;
    let began = tokio::time::Instant::now();
    lifecycle.stop_container(&cell, Duration::from_secs(30)).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1));
    lifecycle.stop_container(&cell, Duration::from_secs(30)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ignores_its_stop_signal_is_killed_after_the_grace() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    *node.on_stop.lock().unwrap() = OnStop::Ignores;
    let cell = running(&lifecycle).await;
    let began = tokio::time::Instant::now();
    lifecycle.stop_container(&cell, Duration::from_secs(30)).await.unwrap();
    assert!((30..31).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    let ContainerState::Exited { exit, .. } = cell.state() else {
        panic!("not exited")
    };
    assert_eq!(exit.status.code(), 137);
}

#[tokio::test(start_paused = true)]
async fn a_later_stop_brings_the_end_forward_and_never_puts_it_off() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    *node.on_stop.lock().unwrap() = OnStop::Ignores;
    let cell = running(&lifecycle).await;
    let began = tokio::time::Instant::now();
    let (first, second, third) = tokio::join!(
        lifecycle.stop_container(&cell, Duration::from_secs(600)),
        lifecycle.stop_container(&cell, Duration::from_secs(5)),
        lifecycle.stop_container(&cell, Duration::from_secs(300)),
    );
    for stopped in [first, second, third] {
        stopped.unwrap();
    }
    assert_eq!(began.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_stop_signal_that_came_too_early_is_sent_again() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    *node.on_stop.lock().unwrap() = OnStop::HandlesTheSecond;
    let cell = running(&lifecycle).await;
    let began = tokio::time::Instant::now();
    lifecycle.stop_container(&cell, Duration::from_secs(30)).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let terms = node
        .signals
        .lock()
        .unwrap()
        .iter()
        .filter(|(_, signal)| *signal == libc::SIGTERM)
        .count();
    assert_eq!(terms, 2);
}

#[tokio::test(start_paused = true)]
async fn status_and_lists_answer_while_a_stop_and_a_create_are_stuck() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    *node.on_stop.lock().unwrap() = OnStop::Ignores;
    let cell = running(&lifecycle).await;
    node.hang_creates.store(true, Ordering::SeqCst);
    let sandbox = lifecycle.registry().sandbox(cell.plan.sandbox_id.as_str()).unwrap();
    let mut other = container_plan(3, &sandbox.plan.id);
    other.metadata.name = "other".into();
    let mut stuck = (
        Box::pin(lifecycle.stop_container(&cell, Duration::from_secs(1000))),
        Box::pin(lifecycle.create_container(sandbox, other)),
    );
    assert!(futures::FutureExt::now_or_never(&mut stuck.0).is_none());
    assert!(futures::FutureExt::now_or_never(&mut stuck.1).is_none());
    // None of these can wait: they are no futures.
    assert!(lifecycle.registry().container(cell.plan.id.as_str()).is_ok());
    assert_eq!(lifecycle.registry().snapshot().1.len(), 1);
    assert!(lifecycle.health().runtime_ready().is_ok());
}

#[tokio::test]
async fn a_pod_that_was_stopped_takes_no_container() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let id = lifecycle.run_sandbox(sandbox_plan(1)).await.unwrap();
    let sandbox = lifecycle.registry().sandbox(id.as_str()).unwrap();
    lifecycle.stop_sandbox(sandbox.clone()).await.unwrap();
    assert_eq!(sandbox.state(), SandboxState::NotReady);
    let error = lifecycle
        .create_container(sandbox.clone(), container_plan(2, &id))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::SandboxNotReady(_)), "{error}");
    lifecycle.stop_sandbox(sandbox.clone()).await.unwrap();
    lifecycle.remove_sandbox(sandbox.clone()).await.unwrap();
    lifecycle.remove_sandbox(sandbox).await.unwrap();
    assert_eq!(node.held(), NOTHING);
}

#[tokio::test]
async fn a_missing_image_is_told_before_anything_is_made() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let id = lifecycle.run_sandbox(sandbox_plan(1)).await.unwrap();
    let sandbox = lifecycle.registry().sandbox(id.as_str()).unwrap();
    let before = node.held();
    let mut plan = container_plan(2, &id);
    plan.image = "missing".into();
    let error = lifecycle.create_container(sandbox, plan).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Step {
                step: "resolve image",
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(node.held(), before);
}

#[tokio::test]
async fn a_restart_finds_what_stands_with_the_exits_that_happened_meanwhile() {
    let node = FakeNode::new(Fails::Never);
    let (id, sandbox_id) = {
        let before = lifecycle(&node);
        let cell = running(&before).await;
        (cell.plan.id.clone(), cell.plan.sandbox_id.clone())
    };
    let after = lifecycle(&node);
    let restored = after.restore().await.unwrap();
    assert_eq!((restored.sandboxes, restored.containers, restored.half_made), (1, 1, 0));
    let cell = after.registry().container(id.as_str()).unwrap();
    assert!(matches!(cell.state(), ContainerState::Running { .. }));
    assert_eq!(
        after.registry().sandbox(sandbox_id.as_str()).unwrap().state(),
        SandboxState::Ready
    );
    node.end(&id, 42);
    let last = lifecycle(&node);
    last.restore().await.unwrap();
    let cell = last.registry().container(id.as_str()).unwrap();
    cell.exited().await;
    let ContainerState::Exited { exit, .. } = cell.state() else {
        panic!("not exited")
    };
    assert_eq!(exit.status.code(), 42);
}

#[tokio::test(start_paused = true)]
async fn a_restart_in_the_middle_of_a_create_removes_what_was_half_made() {
    let node = FakeNode::new(Fails::Never);
    let before = lifecycle(&node);
    node.hang_creates.store(true, Ordering::SeqCst);
    let mut creating = Box::pin(before.run_sandbox(sandbox_plan(1)));
    assert!(futures::FutureExt::now_or_never(&mut creating).is_none());
    while !node.held().iter().any(|held| held.starts_with("runtime state")) {
        tokio::task::yield_now().await;
    }
    let after = lifecycle(&node);
    let restored = after.restore().await.unwrap();
    assert_eq!((restored.sandboxes, restored.half_made), (0, 1));
    // Removed in the background, so that nothing of it keeps the daemon from answering.
    while !node.held().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_of_the_pod_ends_the_creations_under_way_in_it() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let mut plan = sandbox_plan(1);
    plan.namespaces.pid = NamespaceMode::Container;
    let id = lifecycle.run_sandbox(plan).await.unwrap();
    let sandbox = lifecycle.registry().sandbox(id.as_str()).unwrap();
    node.hang_creates.store(true, Ordering::SeqCst);
    let mut alone = container_plan(2, &id);
    alone.security.namespaces.pid = NamespaceMode::Container;
    let creating = lifecycle.create_container(sandbox.clone(), alone);
    let began = tokio::time::Instant::now();
    let (created, removed) = tokio::join!(creating, lifecycle.remove_sandbox(sandbox.clone()));
    removed.unwrap();
    let error = created.unwrap_err();
    assert!(error.to_string().contains("stopped"), "{error}");
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "it waited for the runtime that hangs"
    );
    assert_eq!(node.held(), NOTHING);
    assert!(lifecycle.registry().snapshot().1.is_empty());
}

#[tokio::test]
async fn a_container_belongs_to_its_sandbox_alone() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let first = pod_with_container(&lifecycle).await.unwrap();
    let mut again = sandbox_plan(5);
    again.metadata.attempt = 1;
    let id = lifecycle.run_sandbox(again).await.unwrap();
    let sandbox = lifecycle.registry().sandbox(id.as_str()).unwrap();
    let second = lifecycle
        .create_container(sandbox, container_plan(6, &id))
        .await
        .unwrap();
    assert_ne!(
        first, second,
        "same container name and attempt, another sandbox of the pod"
    );
}

#[tokio::test]
async fn containers_of_a_pod_whose_record_is_lost_go_on_and_can_be_removed_with_it() {
    let node = FakeNode::new(Fails::Never);
    let id = {
        let before = lifecycle(&node);
        let mut plan = sandbox_plan(1);
        plan.namespaces.pid = NamespaceMode::Container;
        let sandbox = before.run_sandbox(plan).await.unwrap();
        let mut plan = container_plan(2, &sandbox);
        plan.security.namespaces.pid = NamespaceMode::Container;
        let sandbox = before.registry().sandbox(sandbox.as_str()).unwrap();
        let id = before.create_container(sandbox, plan).await.unwrap();
        before.start_container(id.as_str()).await.unwrap();
        id
    };
    node.lose_sandbox_records();
    let after = lifecycle(&node);
    let restored = after.restore().await.unwrap();
    assert_eq!((restored.sandboxes, restored.containers, restored.half_made), (1, 1, 0));
    let cell = after.registry().container(id.as_str()).unwrap();
    assert!(
        matches!(cell.state(), ContainerState::Running { .. }),
        "nobody killed it"
    );
    let sandbox = after.registry().sandbox(cell.plan.sandbox_id.as_str()).unwrap();
    assert_eq!(sandbox.state(), SandboxState::NotReady);
    after.remove_sandbox(sandbox).await.unwrap();
    assert_eq!(node.held(), NOTHING);
}

#[tokio::test]
async fn a_failed_look_is_not_taken_for_an_end() {
    let node = FakeNode::new(Fails::Never);
    let id = {
        let before = lifecycle(&node);
        running(&before).await.plan.id.clone()
    };
    node.blind.store(true, Ordering::SeqCst);
    let after = lifecycle(&node);
    after.restore().await.unwrap();
    // Left alone: neither said to have ended nor killed.
    assert!(after.registry().container(id.as_str()).is_err());
    assert!(node.held().contains(&format!("process {}", id.short())));
    node.blind.store(false, Ordering::SeqCst);
    let last = lifecycle(&node);
    last.restore().await.unwrap();
    let cell = last.registry().container(id.as_str()).unwrap();
    assert!(matches!(cell.state(), ContainerState::Running { .. }));
}

#[tokio::test]
async fn holds_outlive_the_daemon_as_long_as_an_exit_is_not_noted() {
    let node = FakeNode::new(Fails::Never);
    let before = lifecycle(&node);
    let cell = running(&before).await;
    let kept = || node.kept.lock().unwrap().len();
    assert_eq!(kept(), 2, "of the container and of its monitor");
    before.stop_container(&cell, Duration::ZERO).await.unwrap();
    // Told after the exit is noted, by a task of its own.
    while kept() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_reboot_ends_what_ran_with_a_code_that_is_not_success() {
    let node = FakeNode::new(Fails::Never);
    let id = {
        let before = lifecycle(&node);
        running(&before).await.plan.id.clone()
    };
    node.reboot();
    let after = lifecycle(&node);
    after.restore().await.unwrap();
    let finished = |lifecycle: &Lifecycle| match lifecycle.registry().container(id.as_str()).unwrap().state() {
        ContainerState::Exited { exit, .. } => exit,
        other => panic!("{other:?}"),
    };
    let exit = finished(&after);
    assert_eq!((exit.status.code(), exit.reason()), (255, "Unknown"));
    let (sandboxes, _) = after.registry().snapshot();
    assert_eq!(sandboxes[0].state(), SandboxState::NotReady);
    let again = lifecycle(&node);
    again.restore().await.unwrap();
    assert_eq!(finished(&again), exit, "and stays ended when it did");
}
