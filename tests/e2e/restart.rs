//! The daemon ends, by SIGTERM or by SIGKILL, and comes back: nothing of the containers may notice.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use cri::v1::{ContainerState, PodSandboxState};
use e2e::{Node, eventually, refused, run_on, sh};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tonic::Code;

run_on!(runc, crun:
    containers_survive_a_killed_manager,
    copies_of_a_killed_managers_locks_keep_nobody_out,
    exits_that_happened_meanwhile_are_known,
    a_spoilt_exit_record_costs_no_exit_code,
);
run_on!(runc:
    a_stopped_manager_does_not_wait_for_a_call_that_hangs,
    a_stopped_manager_leaves_containers_running,
    a_creation_cut_off_by_a_kill_leaves_nothing,
    stopped_pods_and_exited_containers_stay_what_they_were,
    a_container_removed_after_a_restart_leaves_nothing,
    a_garbage_record_harms_nobody_else,
    a_garbage_record_of_a_pod_harms_no_container,
    records_of_an_earlier_and_of_a_later_daemon_are_read,
    what_only_a_later_daemon_understands_is_left_to_it,
    after_a_reboot_nothing_runs_and_all_can_be_removed,
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
    eventually("the log flows without a manager", || {
        Ok(node.said("survivor", "c", "stdout")?.len() > before.len())
    })
    .await?;
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

/// A child that was about to begin its program when its daemon was killed has copies of all descriptors.
async fn copies_of_a_killed_managers_locks_keep_nobody_out(node: &mut Node) -> anyhow::Result<()> {
    let pid = rustix::process::Pid::from_raw(node.daemon_pid()).context("no daemon runs")?;
    let daemon = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let mut copies = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{}/fd", node.daemon_pid()))? {
        let entry = entry?;
        if std::fs::read_link(entry.path())?.ends_with("crio-manager.lock") {
            let number = entry.file_name().into_string().unwrap().parse()?;
            copies.push(rustix::process::pidfd_getfd(
                &daemon,
                number,
                rustix::process::PidfdGetfdFlags::empty(),
            )?);
        }
    }
    assert_eq!(copies.len(), 2, "one of the root and one of the state directory");
    node.kill9().await?;
    assert_eq!(node.manager(&["wipe"])?, "");
    node.restart().await
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
    for (_, id) in &ids {
        let file = node.path("exits").join(id);
        eventually("the monitor leaves an exit file", || Ok(file.exists())).await?;
    }
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

/// The exit record says more than the exit file; where it cannot be read, the exit file is believed.
async fn a_spoilt_exit_record_costs_no_exit_code(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("spoilt").await?;
    let id = pod
        .sh("c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done")
        .await?;
    eventually("the trap is set", || {
        Ok(node.said("spoilt", "c", "stdout")?.contains("ready"))
    })
    .await?;
    let pid = node.client.pid(&id).await?;
    node.kill9().await?;
    node.namespaces.run("kill", &["-TERM", &pid.to_string()])?;
    let file = node.path("exits").join(&id);
    let record = node.path("exits").join(format!("{id}.json"));
    eventually("the monitor leaves an exit file", || Ok(file.exists())).await?;
    let text = std::fs::read_to_string(&record)?;
    assert!(text.contains("\"exit_code\":7"), "{text}");
    std::fs::write(&record, text.replace("\"exit_code\":7", "\"exit_code\":0,"))?;
    node.restart().await?;
    let status = node.client.exited(&id, SOON).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
    node.client.remove(&id).await?;
    assert!(!record.exists() && !file.exists(), "both go with the container");
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
    eventually("the runtime is reached", || Ok(node.path("reached").exists())).await?;
    node.kill9().await?;
    refused(creation.await?);
    std::fs::remove_file(node.path("slow"))?;
    node.restart().await?;
    assert!(node.client.containers(None).await?.is_empty());
    node.nothing_more_than(&before).await?;
    node.client.run(&pod.id, &container, &pod.config).await?;
    Ok(())
}

/// A call that never ends is left behind, within the time that the release notes promise, and its work is undone.
async fn a_stopped_manager_does_not_wait_for_a_call_that_hangs(node: &mut Node) -> anyhow::Result<()> {
    let body = "if [ $verb = create ] && [ -e $DIR/hang ]; then touch $DIR/reached; exec sleep 5555; fi";
    node.wrap_runtime("stuck", body, 600).await?;
    let config = node.pod("stuck");
    let pod = node.running("stuck", config).await?;
    let before = node.snapshot();
    std::fs::write(node.path("hang"), "")?;
    let container = sh("c", &pod.image, "exit 0");
    let creation = tokio::spawn({
        let (client, id, container, config) = (
            pod.client.clone(),
            pod.id.clone(),
            container.clone(),
            pod.config.clone(),
        );
        async move { client.create(&id, &container, &config).await }
    });
    eventually("the runtime is reached", || Ok(node.path("reached").exists())).await?;
    let started = std::time::Instant::now();
    node.stop().await?;
    assert!(started.elapsed() < Duration::from_secs(36), "{:?}", started.elapsed());
    refused(creation.await?);
    std::fs::remove_file(node.path("hang"))?;
    node.restart().await?;
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
    eventually("the lost container is removed", || {
        Ok(node.log().contains("half-made object removed"))
    })
    .await?;
    assert!(!node.namespaces.mounts().iter().any(|mount| mount.contains(&bad)));
    // What cannot be read is kept for whoever wants to look at it.
    node.give_up(&bad)
}

async fn a_garbage_record_of_a_pod_harms_no_container(node: &mut Node) -> anyhow::Result<()> {
    node.busybox().await?;
    let before = node.snapshot();
    let (pod, other) = (node.running_pod("lost").await?, node.running_pod("kept").await?);
    let (id, neighbour) = (pod.sh("c", "sleep 1000").await?, other.sh("c", "sleep 1000").await?);
    let (pid, status) = (node.client.pid(&id).await?, node.client.status(&id).await?);
    node.kill9().await?;
    std::fs::write(record(node, "sandboxes", &pod.id), b"\x00\xffnot a record{{{")?;
    node.restart().await?;

    assert_eq!(node.client.status(&id).await?, status);
    assert_eq!(node.client.pid(&id).await?, pid, "the same process");
    assert_eq!(node.client.output(&id, &["echo", "alive"]).await?, "alive\n");
    assert!(node.log().contains(&pod.id), "the log names what was put aside");
    let state = async |id: &str| node.client.pod_status(id).await.map(|status| status.state());
    assert_eq!(state(&pod.id).await?, PodSandboxState::SandboxNotready);
    assert_eq!(state(&other.id).await?, PodSandboxState::SandboxReady);
    assert_eq!(
        node.client.status(&neighbour).await?.state(),
        ContainerState::ContainerRunning
    );

    remove_pod(node, &pod.id).await?;
    assert_eq!(refused(node.client.pod_status(&pod.id).await), Code::NotFound);
    assert_eq!(refused(node.client.status(&id).await), Code::NotFound);
    remove_pod(node, &other.id).await?;
    std::fs::remove_file(record(node, "quarantine", &pod.id))?;
    node.nothing_more_than(&before).await
}

/// The node was not really rebooted: what ran then still runs, which makes the removal's work only harder.
async fn after_a_reboot_nothing_runs_and_all_can_be_removed(node: &mut Node) -> anyhow::Result<()> {
    node.busybox().await?;
    let before = node.snapshot();
    let pod = node.running_pod("rebooted").await?;
    let over = pod.ran_sh("over", "exit 4").await?;
    let created = pod.create(&sh("created", &pod.image, "sleep 3331")).await?;
    let running = pod.sh("running", "sleep 3332 & sleep 3333").await?;
    node.kill9().await?;
    another_boot(&record(node, "sandboxes", &pod.id))?;
    for id in [&over.id, &created, &running] {
        another_boot(&record(node, "containers", id))?;
    }
    node.restart().await?;

    assert_eq!(
        node.client.pod_status(&pod.id).await?.state(),
        PodSandboxState::SandboxNotready
    );
    assert_eq!(node.client.status(&over.id).await?, over, "its end was known before");
    for id in [&created, &running] {
        let status = node.client.status(id).await?;
        assert_eq!(
            (status.state(), status.exit_code, status.reason.as_str()),
            (ContainerState::ContainerExited, 255, "Unknown")
        );
        assert!(status.message.contains("rebooted"), "{}", status.message);
        refused(node.client.start(id).await);
        refused(node.client.exec(id, &["true"], 5).await);
    }
    assert!(
        !node.processes_with("sleep 3333").is_empty(),
        "it was not ended by the restart"
    );
    refused(
        node.client
            .create(&pod.id, &sh("new", &pod.image, "exit 0"), &pod.config)
            .await,
    );
    // As the kubelet does it: a new attempt beside the old one, which goes afterwards.
    let mut config = pod.config.clone();
    config.metadata.as_mut().unwrap().attempt += 1;
    let again = node.running("", config).await?;
    assert_ne!(again.id, pod.id);
    assert_eq!(again.ran_sh("c", "exit 0").await?.exit_code, 0);

    remove_pod(node, &pod.id).await?;
    assert_eq!(node.processes_with("sleep 333"), [""; 0]);
    again.remove().await?;
    node.nothing_more_than(&before).await
}

/// By the client that the node has now; a pod's own is of the daemon that made it.
async fn remove_pod(node: &Node, id: &str) -> anyhow::Result<()> {
    node.client.stop_pod(id).await?;
    Ok(node.client.remove_pod(id).await?)
}

fn record(node: &Node, kind: &str, id: &str) -> PathBuf {
    node.path("state/records").join(kind).join(format!("{id}.json"))
}

/// Changes a record, with the checksum of what it then is.
fn rewrite(path: &Path, version: u32, change: impl FnOnce(&mut Value)) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path)?;
    let (_, body) = text.split_once('\n').context("a record has a header")?;
    let mut body: Value = serde_json::from_str(body)?;
    change(&mut body);
    let body = body.to_string();
    let sum: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    let header = serde_json::json!({ "version": version, "sha256": sum });
    Ok(std::fs::write(path, format!("{header}\n{body}"))?)
}

/// Makes a record one of another boot.
fn another_boot(path: &Path) -> anyhow::Result<()> {
    rewrite(path, 1, |body| {
        assert!(body["boot_id"].is_string());
        body["boot_id"] = "00000000-0000-0000-0000-000000000000".into();
    })
}

/// What has no fields of ours: names and values, and a time that serde itself writes.
const NOT_OURS: [&str; 6] = [
    "labels",
    "annotations",
    "default_annotations",
    "monitor_env",
    "sysctls",
    "create_timeout",
];

/// What a later daemon has to say besides. An object with one field may be a choice and its name.
fn add_unknown_fields(to: &mut Value) {
    let Some(fields) = to.as_object_mut() else {
        return to.as_array_mut().into_iter().flatten().for_each(add_unknown_fields);
    };
    let known = fields.iter_mut().filter(|(name, _)| !NOT_OURS.contains(&name.as_str()));
    known.for_each(|(_, value)| add_unknown_fields(value));
    if fields.len() > 1 {
        fields.insert("of_a_later_version".to_owned(), serde_json::json!({ "kind": [1, 2] }));
    }
}

/// What the first daemon did not write yet.
const ADDED_SINCE: [&str; 7] = [
    "monitor_parent",
    "monitor_env",
    "unconfined_monitor",
    "no_pivot",
    "default_annotations",
    "user",
    "volume_images",
];

fn remove_younger_fields(from: &mut Value) {
    if let Some(facts) = from.pointer_mut("/progress/made").and_then(Value::as_object_mut) {
        facts.remove("volume_images");
        facts.remove("resources");
        if let Some(pinned) = facts.get_mut("namespaces").and_then(Value::as_object_mut) {
            pinned.remove("user");
        }
    }
    let handler = from["handler"].as_object_mut();
    handler
        .into_iter()
        .for_each(|handler| handler.retain(|name, _| !ADDED_SINCE.contains(&name.as_str())));
}

/// An upgrade misses fields that it has, a downgrade finds some that it does not know.
async fn records_of_an_earlier_and_of_a_later_daemon_are_read(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_pod("versions").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let (pid, status) = (node.client.pid(&id).await?, node.client.status(&id).await?);
    let pods = node.client.pods(None).await?;
    for change in [add_unknown_fields as fn(&mut Value), remove_younger_fields] {
        node.kill9().await?;
        for path in [record(node, "sandboxes", &pod.id), record(node, "containers", &id)] {
            let before = std::fs::read(&path)?;
            rewrite(&path, 1, change)?;
            assert_ne!(std::fs::read(&path)?, before, "{}", path.display());
        }
        node.restart().await?;
        assert_eq!(node.client.pods(None).await?, pods);
        assert_eq!(node.client.status(&id).await?, status);
        assert_eq!(node.client.pid(&id).await?, pid, "the same process");
        assert_eq!(node.client.output(&id, &["echo", "alive"]).await?, "alive\n");
    }
    Ok(())
}

/// After a downgrade too far: the daemon does not start and says why, nothing is lost, and the later one goes on.
async fn what_only_a_later_daemon_understands_is_left_to_it(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_pod("later").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let (pid, status) = (node.client.pid(&id).await?, node.client.status(&id).await?);
    node.kill9().await?;
    let image = std::fs::read_dir(node.path("root/crio-manager/images"))?
        .next()
        .context("an image")??;
    let network = node.path("state/networks").join(format!("{}.json", pod.id));
    for path in [
        record(node, "sandboxes", &pod.id),
        record(node, "containers", &id),
        network,
        image.path(),
    ] {
        let whole = std::fs::read(&path)?;
        rewrite(&path, 2, |_| {})?;
        let later = std::fs::read(&path)?;
        let daemon = node.second_daemon(&[]).await?;
        let wipe = node.manager(&["wipe"]).unwrap_err().to_string();
        for complaint in [daemon, wipe] {
            for part in [
                &path.display().to_string(),
                "has version 2: a later crio-manager wrote it",
            ] {
                assert!(complaint.contains(part), "no {part:?}: {complaint}");
            }
        }
        assert_eq!(std::fs::read(&path)?, later, "as it was, where it was");
        std::fs::write(&path, whole)?;
    }
    node.restart().await?;
    assert_eq!(node.client.status(&id).await?, status);
    assert_eq!(node.client.pid(&id).await?, pid, "the same process");
    assert_eq!(node.client.output(&id, &["echo", "alive"]).await?, "alive\n");
    Ok(())
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
    let id = node.deaf(&pod, "deaf").await?;
    let stop = tokio::spawn({
        let (client, id) = (node.client.clone(), id.clone());
        async move { client.stop(&id, 60).await }
    });
    eventually("the stop has sent its signal", || {
        Ok(node.said("halfway", "deaf", "stdout")?.contains("not yet"))
    })
    .await?;
    node.kill9().await?;
    refused(stop.await?);
    node.restart().await?;
    node.client.stop(&id, 0).await?;
    assert_eq!(node.client.status(&id).await?.exit_code, 137);
    Ok(())
}
