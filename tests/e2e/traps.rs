//! Traps that other runtimes were seen to fall into. Host ports on loopback are in `network`, exit codes over a restart
//! in `restart`, execs that outlive their time limit in `exec`.

use std::time::{Duration, Instant};

use cri::v1::*;
use e2e::client::security;
use e2e::{Node, container, eventually, run_on, sh};

run_on!(runc, crun:
    a_stop_right_after_the_start_is_not_lost,
    unlimited_processes_are_no_limit,
    a_privileged_container_gets_what_the_node_has,
    an_oom_score_that_cannot_be_had_is_clamped,
);
run_on!(runc:
    limits_beyond_the_nodes_own_are_clamped,
    hugepage_limits_of_zero_are_no_demand,
    what_the_user_called_the_image_need_not_be_said,
    a_stop_takes_no_longer_than_the_container,
    whole_lines_are_not_cut,
    a_container_that_handles_no_signal_is_killed_in_time,
);

/// `runc start` returns before the payload runs; a signal sent then is lost, because process 1 has no handler yet.
async fn a_stop_right_after_the_start_is_not_lost(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("hasty").await?;
    for round in 0..10 {
        let script = "trap 'exit 0' TERM; while :; do sleep 0.02; done";
        let id = pod.create(&sh(&format!("c{round}"), &pod.image, script)).await?;
        node.client.start(&id).await?;
        let started = Instant::now();
        node.client.stop(&id, 15).await?;
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "in round {round}: {:?}",
            started.elapsed()
        );
        assert_eq!(node.client.status(&id).await?.exit_code, 0, "in round {round}");
    }
    Ok(())
}

async fn unlimited_processes_are_no_limit(node: &mut Node) -> anyhow::Result<()> {
    node.configure("60-pids.conf", "[crio.runtime]\npids_limit = -1\n")
        .await?;
    let pod = node.running_host_pod("unlimited").await?;
    assert_eq!(pod.ran_sh("c", "exit 0").await?.exit_code, 0);
    node.configure("60-pids.conf", "[crio.runtime]\npids_limit = 12\n")
        .await?;
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do sleep 5 & done; echo all";
    pod.ran_sh("limited", script).await?;
    assert_eq!(node.said("unlimited", "limited", "stdout")?, "");
    Ok(())
}

/// "All capabilities" is what is in our bounding set: asking for one that we don't have fails the create.
async fn a_privileged_container_gets_what_the_node_has(node: &mut Node) -> anyhow::Result<()> {
    let mut config = node.host_network_pod("privileged");
    if let Some(context) = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
        context.privileged = true;
    }
    let pod = node.running("", config).await?;
    let mut privileged = sh(
        "c",
        &pod.image,
        "grep CapEff /proc/self/status; test -e /dev/full && mount -t tmpfs x /mnt; echo $?",
    );
    privileged.linux.as_mut().unwrap().security_context = Some(LinuxContainerSecurityContext {
        privileged: true,
        ..security()
    });
    assert_eq!(pod.ran(&privileged).await?.exit_code, 0);
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.daemon_pid()))?;
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
    let said = node.said("privileged", "c", "stdout")?;
    assert!(said.contains(bounding), "{bounding} is not in {said}");

    let mut all = sh("all", &pod.image, "grep CapEff /proc/self/status");
    all.linux.as_mut().unwrap().security_context = Some(LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: vec!["ALL".to_owned()],
            ..Default::default()
        }),
        ..security()
    });
    pod.ran(&all).await?;
    assert!(node.said("privileged", "all", "stdout")?.contains(bounding));
    Ok(())
}

/// A Guaranteed pod comes with -997; without CAP_SYS_RESOURCE no process can go below its own score.
async fn an_oom_score_that_cannot_be_had_is_clamped(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("score").await?;
    for (name, oom_score_adj) in [("low", -997), ("high", 900)] {
        let mut config = sh(name, &pod.image, "cat /proc/self/oom_score_adj");
        config.linux.as_mut().unwrap().resources = Some(LinuxContainerResources {
            oom_score_adj,
            ..Default::default()
        });
        assert_eq!(pod.ran(&config).await?.exit_code, 0);
    }
    assert_eq!(node.said("score", "high", "stdout")?, "900\n");
    let low: i32 = node.said("score", "low", "stdout")?.trim().parse()?;
    let own = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", node.daemon_pid()))?
        .trim()
        .parse::<i32>()?;
    assert!((-997..=own).contains(&low), "{low}, and the daemon's own is {own}");
    if low != -997 {
        assert!(node.log().contains("oom_score_adj"), "the log says that it was clamped");
    }
    Ok(())
}

async fn limits_beyond_the_nodes_own_are_clamped(node: &mut Node) -> anyhow::Result<()> {
    node.configure(
        "60-ulimits.conf",
        "[crio.runtime]\ndefault_ulimits = [\"nofile=1024:99999999\", \"core=-1\"]\n",
    )
    .await?;
    let pod = node.running_host_pod("ulimits").await?;
    assert_eq!(pod.ran_sh("c", "ulimit -Sn").await?.exit_code, 0);
    assert_eq!(node.said("ulimits", "c", "stdout")?, "1024\n");
    Ok(())
}

/// The kubelet sends one for every page size, also where there is no hugetlb controller.
async fn hugepage_limits_of_zero_are_no_demand(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("huge").await?;
    let mut config = sh("c", &pod.image, "exit 0");
    let limit = |size: &str| HugepageLimit {
        page_size: size.to_owned(),
        limit: 0,
    };
    config.linux.as_mut().unwrap().resources = Some(LinuxContainerResources {
        hugepage_limits: vec![limit("2MB"), limit("1GB")],
        ..Default::default()
    });
    assert_eq!(pod.ran(&config).await?.exit_code, 0);
    Ok(())
}

async fn what_the_user_called_the_image_need_not_be_said(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("called").await?;
    for called in ["", "busybox:latest"] {
        let mut config = sh(&format!("c{}", called.len()), &pod.image, "exit 0");
        config.image.as_mut().unwrap().user_specified_image = called.to_owned();
        let status = pod.ran(&config).await?;
        assert_eq!(status.exit_code, 0);
        assert_eq!(status.image.unwrap().user_specified_image, called);
    }
    Ok(())
}

async fn a_stop_takes_no_longer_than_the_container(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("prompt").await?;
    let mut best = Duration::MAX;
    for round in 0..5 {
        // `wait` is interrupted by the signal at once, as `sleep` in the shell is not.
        let script = "trap 'exit 0' TERM; echo ready; sleep 1000 & wait";
        let name = format!("c{round}");
        let id = pod.sh(&name, script).await?;
        eventually("it minds the signal", || {
            Ok(node.said("prompt", &name, "stdout")?.contains("ready"))
        })
        .await?;
        let started = Instant::now();
        node.client.stop(&id, 10).await?;
        best = best.min(started.elapsed());
    }
    assert!(
        best < Duration::from_secs(1), // how much less is the benchmark's to say
        "who looks once a second is slower than the exit: {best:?}"
    );
    Ok(())
}

async fn whole_lines_are_not_cut(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("lines").await?;
    // Each line is one write; what cuts one could only be a read.
    let line = "0123456789".repeat(8);
    pod.ran_sh(
        "c",
        &format!("i=0; while [ $i -lt 20000 ]; do echo {line}; i=$((i+1)); done"),
    )
    .await?;
    let log = node.container_log("lines", "c")?;
    assert_eq!(log.lines().filter(|line| line.contains(" stdout P ")).count(), 0);
    assert_eq!(log.lines().count(), 20_000);
    Ok(())
}

async fn a_container_that_handles_no_signal_is_killed_in_time(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("dull").await?;
    let id = pod.run(&container("c", &pod.image, &["sleep", "1000"])).await?;
    let started = Instant::now();
    node.client.stop(&id, 1).await?;
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert_eq!(node.client.status(&id).await?.exit_code, 137);
    Ok(())
}
