//! What the kubelet takes for granted and no other file shows.

use std::time::{Duration, Instant};

use cri::v1::{LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxState};
use e2e::{Node, eventually, run_on};

run_on!(runc, crun: a_stop_without_grace_kills_at_once_and_stops_may_be_many);
run_on!(runc:
    a_pod_whose_process_dies_is_not_ready,
    the_exited_are_listed_with_their_times_and_reasons_until_they_are_removed,
    no_container_is_listed_without_its_pod,
);

async fn a_stop_without_grace_kills_at_once_and_stops_may_be_many(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("p").await?;
    let id = node.deaf(&pod, "c").await?;
    let started = Instant::now();
    let stops = (0..5).map(|_| node.client.stop(&id, 0));
    futures::future::try_join_all(stops).await?;
    let status = node.client.status(&id).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(
        !node.said("p", "c", "stdout")?.contains("not yet"),
        "it was asked before it was killed"
    );
    Ok(())
}

async fn a_pod_whose_process_dies_is_not_ready(node: &mut Node) -> anyhow::Result<()> {
    let mut config = node.host_network_pod("shared");
    if let Some(linux) = &mut config.linux {
        linux.security_context = Some(LinuxSandboxSecurityContext {
            namespace_options: Some(NamespaceOption {
                network: NamespaceMode::Node.into(),
                pid: NamespaceMode::Pod.into(),
                ..Default::default()
            }),
            ..Default::default()
        });
    }
    let pod = node.running("", config).await?;
    let first = || {
        let processes = node.processes().into_iter();
        processes
            .filter(|process| process.command_line.ends_with("pause"))
            .collect::<Vec<_>>()
    };
    let found = first();
    assert_eq!(found.len(), 1, "{found:?}");
    node.namespaces.run("kill", &["-KILL", &found[0].pid.to_string()])?;
    eventually("its process is gone", || Ok(first().is_empty())).await?;
    let started = Instant::now();
    while node.client.pod_status(&pod.id).await?.state() == PodSandboxState::SandboxReady {
        anyhow::ensure!(
            started.elapsed() < Duration::from_secs(30),
            "it is still said to be ready"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn the_exited_are_listed_with_their_times_and_reasons_until_they_are_removed(
    node: &mut Node,
) -> anyhow::Result<()> {
    let before = now();
    let pod = node.running_host_pod("p").await?;
    for (name, script, code, reason) in [("good", "exit 0", 0, "Completed"), ("bad", "exit 3", 3, "Error")] {
        let status = pod.ran_sh(name, script).await?;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason));
        let times = [before, status.created_at, status.started_at, status.finished_at, now()];
        assert!(times.is_sorted(), "nanoseconds in the order of things: {times:?}");
        let listed = node.client.containers(None).await?;
        assert!(
            listed.iter().any(|container| container.id == status.id),
            "{name} is listed"
        );
        node.client.remove(&status.id).await?;
        assert!(
            node.client.containers(None).await?.is_empty(),
            "{name} is not listed any more"
        );
    }
    Ok(())
}

fn now() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    i64::try_from(since.as_nanos()).unwrap()
}

/// Pods with a container come and go while somebody looks: what is listed between two lists of pods is in one of them.
async fn no_container_is_listed_without_its_pod(node: &mut Node) -> anyhow::Result<()> {
    node.busybox().await?;
    let mut looks = 0;
    for number in 0..5 {
        let pod = node.running_host_pod(&format!("p{number}")).await?;
        pod.sh("c", "sleep 1000").await?;
        let removal = pod.remove();
        tokio::pin!(removal);
        loop {
            let done = tokio::select! {
                biased;
                removed = &mut removal => { removed?; true }
                () = tokio::task::yield_now() => false,
            };
            let earlier = node.client.pods(None).await?;
            let containers = node.client.containers(None).await?;
            for container in &containers {
                assert!(
                    earlier.iter().any(|pod| pod.id == container.pod_sandbox_id),
                    "{} has no pod",
                    container.id
                );
            }
            looks += 1;
            if done {
                assert!(containers.is_empty());
                break;
            }
        }
    }
    assert!(looks > 5, "nobody looked while a pod was removed");
    Ok(())
}
