//! The daemon ends, by SIGTERM or by SIGKILL, and comes back: nothing of the containers may notice.

use std::time::{Duration, Instant};

use cri::v1::{ContainerState, PodSandboxState};
use e2e::{Node, refused, run_on, sh};
use tonic::Code;

run_on!(runc, crun:
    containers_survive_a_killed_manager,
    exits_that_happened_meanwhile_are_known,
);
run_on!(runc:
    a_stopped_manager_leaves_containers_running,
    a_creation_cut_off_by_a_kill_leaves_nothing,
    stopped_pods_and_exited_containers_stay_what_they_were,
    a_container_removed_after_a_restart_leaves_nothing,
    a_garbage_record_harms_nobody_else,
    images_are_still_there,
    a_stop_under_way_is_finished_by_the_next_manager,
);

const SOON: Duration = Duration::from_secs(20);

async fn containers_survive_a_killed_manager(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_pod("survivor").await?;
    let id = pod
        .sh("c", "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.02; done")
        .await?;
    let created = pod.create(&sh("created", &pod.image, "exit 9")).await?;
    let pid = node.client.pid(&id).await?;
    let (pods, status) = (node.client.pods(None).await?, node.client.status(&id).await?);
    let network = node.client.pod_status(&pod.id).await?.network;

    node.kill9().await?;
    let before = node.said("survivor", "c", "stdout")?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(
        node.said("survivor", "c", "stdout")?.len() > before.len(),
        "the log flows without a manager"
    );
    node.restart().await?;

    assert_eq!(node.client.pods(None).await?, pods);
    assert_eq!(node.client.status(&id).await?, status);
    assert_eq!(node.client.pid(&id).await?, pid, "the same process");
    assert_eq!(node.client.pod_status(&pod.id).await?.network, network);
    assert_eq!(node.client.output(&id, &["echo", "alive"]).await?, "alive\n");
    assert_eq!(
        node.client.run_pod(&pod.config).await?,
        pod.id,
        "its name is still taken"
    );
    node.client.start(&created).await?;
    assert_eq!(node.client.exited(&created, SOON).await?.exit_code, 9);

    node.client.stop(&id, 0).await?;
    assert_eq!(node.client.status(&id).await?.exit_code, 137);
    let said = node.said("survivor", "c", "stdout")?;
    let lines: Vec<_> = said.lines().collect();
    let expected: Vec<_> = (0..lines.len()).map(|n| format!("line {n}")).collect();
    assert_eq!(lines, expected, "no line is lost or doubled");
    Ok(())
}

async fn exits_that_happened_meanwhile_are_known(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("meanwhile").await?;
    let mut ids = Vec::new();
    for code in [0, 5] {
        let script = format!("while ! [ -e /tmp/go ] && ! [ -e /go/now ]; do sleep 0.02; done; exit {code}");
        let mut config = sh(&format!("c{code}"), &pod.image, &script);
        config.mounts = vec![cri::v1::Mount {
            container_path: "/go".to_owned(),
            host_path: node.path("go").display().to_string(),
            ..Default::default()
        }];
        ids.push((code, pod.run(&config).await?));
    }
    node.kill9().await?;
    std::fs::write(node.path("go/now"), "")?;
    while !node.processes_with("/go/now").is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let restarted = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_nanos();
    node.restart().await?;
    for (code, id) in ids {
        let status = node.client.exited(&id, SOON).await?;
        assert_eq!(
            (status.exit_code, status.reason.as_str()),
            (code, if code == 0 { "Completed" } else { "Error" })
        );
        assert!(status.finished_at > status.started_at);
        assert!(
            u128::try_from(status.finished_at)? < restarted,
            "the time of the exit, not of its discovery"
        );
    }
    Ok(())
}

async fn a_stopped_manager_leaves_containers_running(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_pod("steady").await?;
    let id = pod.sh("c", "sleep 6666").await?;
    node.stop().await?;
    assert_eq!(
        node.processes_with("sleep 6666").len(),
        node.processes_with("sh -c sleep 6666").len().max(1)
    );
    assert!(!node.socket().exists(), "a stopped daemon takes its socket along");
    node.restart().await?;
    assert_eq!(node.client.status(&id).await?.state(), ContainerState::ContainerRunning);
    Ok(())
}

async fn a_creation_cut_off_by_a_kill_leaves_nothing(node: &mut Node) -> anyhow::Result<()> {
    node.wrap_runtime(
        "slow",
        "if [ $verb = create ] && [ -e $DIR/slow ]; then touch $DIR/reached; sleep 5; fi",
        60,
    )
    .await?;
    let config = node.pod("cut");
    let pod = node.running("slow", config).await?;
    let before = node.snapshot();
    std::fs::write(node.path("slow"), "")?;
    let container = sh("c", &pod.image, "sleep 1000");
    let creation = tokio::spawn({
        let (client, pod, container, config) = (
            node.client.clone(),
            pod.id.clone(),
            container.clone(),
            pod.config.clone(),
        );
        async move { client.create(&pod, &container, &config).await }
    });
    while !node.path("reached").exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.kill9().await?;
    refused(creation.await?);
    std::fs::remove_file(node.path("slow"))?;
    node.restart().await?;
    assert!(node.client.containers(None).await?.is_empty());
    node.nothing_more_than(&before).await?;
    node.client.run(&pod.id, &container, &pod.config).await?;
    Ok(())
}

async fn stopped_pods_and_exited_containers_stay_what_they_were(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_pod("over").await?;
    let status = pod.ran_sh("c", "exit 4").await?;
    node.client.stop_pod(&pod.id).await?;
    node.kill9().await?;
    node.restart().await?;
    assert_eq!(
        node.client.pod_status(&pod.id).await?.state(),
        PodSandboxState::SandboxNotready
    );
    assert_eq!(node.client.status(&status.id).await?, status);
    node.client.remove_pod(&pod.id).await?;
    node.kill9().await?;
    node.restart().await?;
    assert!(
        node.client.pods(None).await?.is_empty(),
        "what was removed does not come back"
    );
    Ok(())
}

async fn a_container_removed_after_a_restart_leaves_nothing(node: &mut Node) -> anyhow::Result<()> {
    let before = node.snapshot();
    let pod = node.running_pod("removed").await?;
    pod.sh("c", "sleep 1000").await?;
    node.kill9().await?;
    node.restart().await?;
    node.client.remove_everything().await?;
    node.nothing_more_than(&before).await
}

async fn a_garbage_record_harms_nobody_else(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("records").await?;
    let (good, bad) = (pod.sh("good", "sleep 1000").await?, pod.sh("bad", "sleep 1000").await?);
    node.kill9().await?;
    let mut spoiled = 0;
    for name in e2e::leaks::files(&[node.path("state")]) {
        let path = std::path::Path::new(&name);
        if name.contains(&bad) && path.is_file() {
            std::fs::write(path, b"\x00\xffnot a record{{{")?;
            spoiled += 1;
        }
    }
    assert!(spoiled > 0, "a container has a record that bears its id");
    node.restart().await?;
    assert_eq!(
        node.client.status(&good).await?.state(),
        ContainerState::ContainerRunning
    );
    assert_eq!(refused(node.client.status(&bad).await), Code::NotFound);
    assert!(node.log().contains(&bad), "the log names what was put aside");
    // Nobody could stop the lost one any more: the manager ends it and gives back what it had.
    let started = Instant::now();
    while !node.log().contains("half-made object removed") {
        assert!(started.elapsed() < Duration::from_secs(60), "the lost container stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!node.namespaces.mounts().iter().any(|mount| mount.contains(&bad)));
    // What cannot be read is kept for whoever wants to look at it.
    node.give_up(&bad)
}

async fn images_are_still_there(node: &mut Node) -> anyhow::Result<()> {
    node.busybox().await?;
    let before = node.client.list_images().await?;
    node.kill9().await?;
    node.restart().await?;
    assert_eq!(node.client.list_images().await?, before);
    Ok(())
}

async fn a_stop_under_way_is_finished_by_the_next_manager(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("halfway").await?;
    let id = pod.sh("deaf", "trap '' TERM; while :; do sleep 0.05; done").await?;
    let stop = tokio::spawn({
        let (client, id) = (node.client.clone(), id.clone());
        async move { client.stop(&id, 60).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    node.kill9().await?;
    refused(stop.await?);
    node.restart().await?;
    node.client.stop(&id, 0).await?;
    assert_eq!(node.client.status(&id).await?.exit_code, 137);
    Ok(())
}
