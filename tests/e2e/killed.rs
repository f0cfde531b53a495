//! The monitor of a container ends by SIGKILL, alone or with the daemon: the container goes on, its end is what the
//! kernel still tells of it or honestly unknown, and its removal leaves nothing.

use std::time::Duration;

use cri::v1::{ContainerConfig, ContainerState, ContainerStatus, Mount};
use e2e::{Node, RunningPod, eventually, run_on, sh};

run_on!(runc, crun:
    an_exit_without_a_monitor_has_the_kernels_code,
    a_kill_without_a_monitor_is_a_kill,
    an_exit_without_monitor_and_manager_is_true_or_unknown,
    a_container_without_a_monitor_is_removed_without_trace,
);
run_on!(runc:
    a_container_goes_on_without_its_monitor,
    an_exit_after_the_manager_came_back_alone_has_the_kernels_code,
    a_container_can_be_started_without_its_monitor,
);

const SOON: Duration = Duration::from_secs(30);

/// A container that exits with 7 when the file `go/now` is there. It says nothing: nobody reads it any more.
fn waiting(node: &Node, name: &str, pod: &RunningPod) -> ContainerConfig {
    let mut config = sh(name, &pod.image, "while ! [ -e /go/now ]; do sleep 0.02; done; exit 7");
    config.mounts = vec![Mount {
        container_path: "/go".to_owned(),
        host_path: node.path("go").display().to_string(),
        ..Default::default()
    }];
    config
}

/// Whether the kernel tells the status of a reaped process to who holds its pidfd: Linux 6.15 and later.
fn kernel_remembers() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(|character: char| !character.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap_or_default());
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

/// The kernel was there to be asked: the code is true, or, where the kernel is too old, honestly unknown.
fn assert_known(status: &ContainerStatus, code: i32) {
    if kernel_remembers() {
        assert_eq!((status.exit_code, status.reason.as_str()), (code, "Error"));
    } else {
        assert_true_or_unknown(status, code);
    }
    assert!(status.started_at > 0 && status.finished_at >= status.started_at);
}

fn assert_true_or_unknown(status: &ContainerStatus, code: i32) {
    match status.reason.as_str() {
        "Error" => assert_eq!(status.exit_code, code),
        "Unknown" => {
            assert_eq!(status.exit_code, 255);
            assert!(!status.message.is_empty(), "it is said why nobody knows");
        }
        other => panic!("{other:?}, {}", status.exit_code),
    }
}

async fn an_exit_without_a_monitor_has_the_kernels_code(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("alone").await?;
    let id = pod.run(&waiting(node, "c", &pod)).await?;
    node.kill9_monitor(&id).await?;
    std::fs::write(node.path("go/now"), "")?;
    assert_known(&node.client.exited(&id, SOON).await?, 7);
    let status = node.client.status(&id).await?;
    node.restart().await?;
    assert_eq!(node.client.status(&id).await?, status, "it is written down");
    Ok(())
}

async fn a_kill_without_a_monitor_is_a_kill(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("shot").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let pid = node.client.pid(&id).await?.to_string();
    node.kill9_monitor(&id).await?;
    node.namespaces.run("kill", &["-9", &pid])?;
    assert_known(&node.client.exited(&id, SOON).await?, 137);
    Ok(())
}

async fn an_exit_without_monitor_and_manager_is_true_or_unknown(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("nobody").await?;
    let id = pod.run(&waiting(node, "c", &pod)).await?;
    node.kill9_monitor(&id).await?;
    node.kill9().await?;
    std::fs::write(node.path("go/now"), "")?;
    eventually("the container ends", || Ok(node.processes_with("/go/now").is_empty())).await?;
    node.restart().await?;
    let status = node.client.exited(&id, SOON).await?;
    assert_true_or_unknown(&status, 7);
    node.restart().await?;
    assert_eq!(node.client.status(&id).await?, status, "it is said once and for all");
    Ok(())
}

async fn a_container_without_a_monitor_is_removed_without_trace(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("removed").await?;
    let before = node.snapshot();
    let created = pod.create(&sh("created", &pod.image, "sleep 1001")).await?;
    let running = pod.sh("running", "sleep 1002 & sleep 1003").await?;
    let exited = pod.sh("exited", "sleep 1004").await?;
    for id in [&created, &running, &exited] {
        node.kill9_monitor(id).await?;
    }
    node.client.stop(&exited, 0).await?;
    assert_known(&node.client.exited(&exited, SOON).await?, 137);
    for id in [&created, &running, &exited] {
        node.client.remove(id).await?;
    }
    node.nothing_more_than(&before).await
}

async fn a_container_goes_on_without_its_monitor(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_pod("orphan").await?;
    let id = pod.sh("c", "trap 'exit 3' TERM; while :; do sleep 0.02; done").await?;
    let (pid, status) = (node.client.pid(&id).await?, node.client.status(&id).await?);
    node.kill9_monitor(&id).await?;
    assert_eq!(node.client.output(&id, &["echo", "alive"]).await?, "alive\n");
    node.kill9().await?;
    node.restart().await?;
    assert_eq!(node.client.output(&id, &["echo", "alive"]).await?, "alive\n");
    assert_eq!(node.client.status(&id).await?, status);
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    assert_eq!(node.client.pid(&id).await?, pid, "the same process");
    node.client.stop(&id, 20).await?;
    assert_known(&node.client.status(&id).await?, 3);
    Ok(())
}

async fn an_exit_after_the_manager_came_back_alone_has_the_kernels_code(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("back").await?;
    let id = pod.run(&waiting(node, "c", &pod)).await?;
    node.kill9_monitor(&id).await?;
    node.kill9().await?;
    node.restart().await?;
    assert_eq!(node.client.status(&id).await?.state(), ContainerState::ContainerRunning);
    std::fs::write(node.path("go/now"), "")?;
    assert_known(&node.client.exited(&id, SOON).await?, 7);
    Ok(())
}

async fn a_container_can_be_started_without_its_monitor(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("between").await?;
    let id = pod.create(&sh("c", &pod.image, "exit 7")).await?;
    node.kill9_monitor(&id).await?;
    node.client.start(&id).await?;
    assert_known(&node.client.exited(&id, SOON).await?, 7);
    Ok(())
}
