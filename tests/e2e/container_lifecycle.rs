//! Containers: created, started, stopped, removed; what they get, and how their end is told.

use std::time::{Duration, Instant};

use cri::v1::*;
use e2e::client::{labels, pod_security, security};
use e2e::{Node, TestImage, container, eventually, refused, run_on, sh};
use serde_json::json;
use tonic::Code;

run_on!(runc, crun:
    a_container_runs_and_its_exit_code_is_known,
    a_container_that_ends_at_once_keeps_its_code,
    a_stop_sends_the_stop_signal_and_kills_after_the_grace,
    the_end_of_a_container_is_that_of_its_process,
    a_container_out_of_memory_is_said_to_be_so,
    a_container_gets_the_user_environment_and_directory_asked_for,
    limits_reach_the_cgroup,
    mounts_appear_as_asked_for,
    a_terminal_is_a_terminal,
);
run_on!(runc:
    the_same_name_gives_the_same_container,
    the_stop_signal_of_the_image_is_used,
    a_later_stop_shortens_an_earlier_one,
    a_running_container_can_be_removed,
    a_container_is_started_once,
    containers_are_filtered_by_id_pod_state_and_labels,
    a_created_container_holds_no_more_than_it_needs_and_can_be_removed,
    security_is_as_asked_for,
    an_image_can_be_named_by_its_id,
    many_containers_at_once_are_no_trouble,
    a_failed_start_says_why,
);

const SOON: Duration = Duration::from_secs(20);

async fn a_container_runs_and_its_exit_code_is_known(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_pod("codes").await?;
    for (code, reason) in [(0, "Completed"), (7, "Error"), (255, "Error")] {
        let mut config = sh(&format!("exits-{code}"), &pod.image, &format!("sleep 0.2; exit {code}"));
        config.labels = labels(&[("a", "b")]);
        config.annotations = labels(&[("c", "d")]);
        let id = pod.create(&config).await?;
        let created = node.client.status(&id).await?;
        assert_eq!(created.state(), ContainerState::ContainerCreated);
        assert_eq!((created.started_at, created.finished_at), (0, 0));
        node.client.start(&id).await?;
        let running = node.client.status(&id).await?;
        assert_eq!(running.state(), ContainerState::ContainerRunning);
        assert!(running.started_at >= created.created_at);
        let exited = node.client.exited(&id, SOON).await?;
        assert_eq!((exited.exit_code, exited.reason.as_str()), (code, reason));
        assert!(exited.finished_at >= exited.started_at && exited.started_at >= exited.created_at);
        assert_eq!((exited.labels, exited.annotations), (config.labels, config.annotations));
        assert_eq!(exited.metadata, config.metadata);
        assert!(
            exited.log_path.ends_with(&format!("exits-{code}.log")),
            "{}",
            exited.log_path
        );
    }
    assert_eq!(
        node.client.containers(None).await?.len(),
        3,
        "exited containers are listed until they are removed"
    );
    Ok(())
}

async fn a_container_that_ends_at_once_keeps_its_code(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("quick").await?;
    for round in 0..8 {
        let status = pod
            .ran(&container(&format!("c{round}"), &pod.image, &["sh", "-c", "exit 42"]))
            .await?;
        assert_eq!(
            (status.exit_code, status.reason.as_str()),
            (42, "Error"),
            "in round {round}"
        );
    }
    Ok(())
}

async fn a_stop_sends_the_stop_signal_and_kills_after_the_grace(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("stopping").await?;
    let polite = pod
        .sh("polite", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")
        .await?;
    let deaf = pod
        .sh("deaf", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
        .await?;
    let started = Instant::now();
    node.client.stop(&polite, 10).await?;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(node.client.status(&polite).await?.exit_code, 3);

    let started = Instant::now();
    node.client.stop(&deaf, 1).await?;
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
    let status = node.client.status(&deaf).await?;
    assert_eq!(
        (status.state(), status.exit_code),
        (ContainerState::ContainerExited, 137)
    );
    node.client.stop(&deaf, 1).await?; // it has ended already

    let deaf = pod.sh("deafer", "trap '' TERM; while :; do sleep 0.05; done").await?;
    let started = Instant::now();
    node.client.stop(&deaf, 0).await?;
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "no grace means now: {:?}",
        started.elapsed()
    );
    Ok(())
}

/// What its descendants still have to say is waited for, and is no part of its life.
async fn the_end_of_a_container_is_that_of_its_process(node: &mut Node) -> anyhow::Result<()> {
    let mut config = node.pod("survived");
    // Where the container's first process is not the first of its namespace, others outlive it.
    let mut security = pod_security(NamespaceMode::Node);
    security.namespace_options.as_mut().unwrap().pid = NamespaceMode::Pod.into();
    config.linux.as_mut().unwrap().security_context = Some(security);
    let pod = node.running("", config).await?;
    let mut container = sh("c", &pod.image, "sleep 1.5 & exit 3");
    let security = container.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap().pid = NamespaceMode::Pod.into();
    let id = pod.run(&container).await?;
    let status = node.client.exited(&id, Duration::from_secs(20)).await?;
    assert_eq!(status.exit_code, 3);
    let written = std::fs::metadata(node.path("exits").join(&id))?.modified()?;
    let written = i64::try_from(written.duration_since(std::time::UNIX_EPOCH)?.as_nanos())?;
    let late = Duration::from_nanos(u64::try_from(written - status.finished_at)?);
    assert!(
        late >= Duration::from_millis(900),
        "the exit file came {late:?} after the end"
    );
    Ok(())
}

async fn a_container_out_of_memory_is_said_to_be_so(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("hungry").await?;
    let mut config = container("c", &pod.image, &["tail", "/dev/zero"]);
    config.linux.as_mut().unwrap().resources = Some(LinuxContainerResources {
        memory_limit_in_bytes: 20 << 20,
        ..Default::default()
    });
    let status = pod.ran(&config).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    Ok(())
}

async fn a_container_gets_the_user_environment_and_directory_asked_for(node: &mut Node) -> anyhow::Result<()> {
    let image = TestImage::busybox()?
        .declaring("User", json!("user"))
        .declaring("WorkingDir", json!("/home"))
        .declaring("Env", json!(["PATH=/bin", "A=image", "B=image"]))
        .declaring("Entrypoint", json!(["sh", "-c"]))
        .declaring("Cmd", json!(["echo $A $B; pwd; id -u; id -g"]));
    let image = node.pulled("e2e/declares:1", &image).await?;
    let pod = node.running_host_pod("asked").await?;

    let mut config = container("defaults", &image, &[]);
    config.envs = vec![KeyValue {
        key: "B".to_owned(),
        value: b"asked".to_vec(),
    }];
    assert_eq!(pod.ran(&config).await?.exit_code, 0);
    assert_eq!(
        node.said("asked", "defaults", "stdout")?,
        "image asked\n/home\n1000\n1000\n"
    );

    let mut config = container("asked", &image, &["sh", "-c"]);
    config.args = vec!["pwd; id -u; id -g; id -G".to_owned()];
    config.working_dir = "/made/on/demand".to_owned();
    config.linux.as_mut().unwrap().security_context = Some(LinuxContainerSecurityContext {
        run_as_user: Some(Int64Value { value: 1234 }),
        run_as_group: Some(Int64Value { value: 5678 }),
        supplemental_groups: vec![77],
        ..security()
    });
    assert_eq!(pod.ran(&config).await?.exit_code, 0);
    assert_eq!(
        node.said("asked", "asked", "stdout")?,
        "/made/on/demand\n1234\n5678\n5678 77\n"
    );
    Ok(())
}

async fn limits_reach_the_cgroup(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("limited").await?;
    let mut config = sh("c", &pod.image, "sleep 1000");
    config.linux.as_mut().unwrap().resources = Some(LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        cpu_shares: 512,
        cpu_period: 100_000,
        cpu_quota: 50_000,
        ..Default::default()
    });
    let id = pod.run(&config).await?;
    let read = |controller: &str, file: &str| {
        let path = format!("/sys/fs/cgroup/{controller}{}/{file}", node.container_cgroup(&id));
        std::fs::read_to_string(&path)
            .map(|text| text.trim().to_owned())
            .map_err(|error| anyhow::anyhow!("{path}: {error}"))
    };
    if std::path::Path::new("/sys/fs/cgroup/memory").is_dir() {
        assert_eq!(read("memory", "memory.limit_in_bytes")?, (64 << 20).to_string());
        assert_eq!(read("cpu", "cpu.shares")?, "512");
        assert_eq!(read("cpu", "cpu.cfs_quota_us")?, "50000");
    } else {
        assert_eq!(read("", "memory.max")?, (64 << 20).to_string());
        assert_eq!(read("", "cpu.max")?, "50000 100000");
    }
    let reported = node.client.status(&id).await?.resources.unwrap().linux.unwrap();
    assert_eq!((reported.memory_limit_in_bytes, reported.cpu_shares), (64 << 20, 512));
    Ok(())
}

async fn mounts_appear_as_asked_for(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("mounted").await?;
    let host = node.path("volume");
    std::fs::create_dir(&host)?;
    std::fs::write(host.join("note"), "from the host")?;
    let mount = |container_path: &str, host_path: std::path::PathBuf, readonly| Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.display().to_string(),
        readonly,
        ..Default::default()
    };
    let mut config = sh(
        "c",
        &pod.image,
        "cat /in/note && echo written > /in/answer && ! touch /fixed/x && test -d /missing && grep -c ' /in ' /proc/mounts",
    );
    config.mounts = vec![
        mount("/in", host.clone(), false),
        mount("/fixed", host.clone(), true),
        mount("/missing", node.path("made"), false),
    ];
    let status = pod.ran(&config).await?;
    assert_eq!(status.exit_code, 0, "{}", node.container_log("mounted", "c")?);
    assert_eq!(std::fs::read_to_string(host.join("answer"))?, "written\n");
    assert!(node.path("made").is_dir(), "a missing source is made");
    assert_eq!(status.mounts.len(), 3);
    Ok(())
}

async fn a_terminal_is_a_terminal(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("terminal").await?;
    let mut config = sh(
        "c",
        &pod.image,
        "test -t 0 && test -t 1 && test -t 2 && echo \"on a terminal, $TERM\"",
    );
    config.tty = true;
    config.stdin = true;
    assert_eq!(pod.ran(&config).await?.exit_code, 0);
    let log = node.said("terminal", "c", "stdout")?;
    assert_eq!(log.trim_end(), "on a terminal, xterm");
    Ok(())
}

async fn the_same_name_gives_the_same_container(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("twin").await?;
    let config = sh("c", &pod.image, "sleep 1000");
    let (one, two) = tokio::join!(pod.create(&config), pod.create(&config));
    let (one, two) = (one?, two?);
    assert_eq!(one, two);
    assert_eq!(pod.create(&config).await?, one);
    assert_eq!(node.client.containers(None).await?.len(), 1);
    node.client.remove(&one).await?;
    assert_ne!(
        pod.create(&config).await?,
        one,
        "a removed container's name is free again"
    );
    Ok(())
}

async fn the_stop_signal_of_the_image_is_used(node: &mut Node) -> anyhow::Result<()> {
    let image = TestImage::busybox()?.declaring("StopSignal", json!("SIGUSR1"));
    let image = node.pulled("e2e/usr1:1", &image).await?;
    let pod = node.running_host_pod("signals").await?;
    let script = "trap 'exit 5' USR1; trap 'exit 6' TERM; trap 'exit 7' USR2; echo ready; while :; do sleep 0.05; done";
    let by_image = pod.run(&sh("image", &image, script)).await?;
    node.client.stop(&by_image, 10).await?;
    assert_eq!(node.client.status(&by_image).await?.exit_code, 5);
    let mut config = sh("asked", &image, script);
    config.stop_signal = Signal::Sigusr2.into();
    let asked = pod.run(&config).await?;
    node.client.stop(&asked, 10).await?;
    assert_eq!(node.client.status(&asked).await?.exit_code, 7);
    Ok(())
}

async fn a_later_stop_shortens_an_earlier_one(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("patience").await?;
    let id = node.deaf(&pod, "deaf").await?;
    let started = Instant::now();
    let long = tokio::spawn({
        let (client, id) = (node.client.clone(), id.clone());
        async move { client.stop(&id, 60).await }
    });
    eventually("the long stop has sent its signal", || {
        Ok(node.said("patience", "deaf", "stdout")?.contains("not yet"))
    })
    .await?;
    let listed = Instant::now();
    node.client.containers(None).await?;
    assert!(listed.elapsed() < Duration::from_secs(30), "a list waits for no stop");
    node.client.stop(&id, 1).await?;
    long.await??;
    assert!(started.elapsed() < Duration::from_secs(50), "{:?}", started.elapsed());
    assert_eq!(node.client.status(&id).await?.exit_code, 137);
    Ok(())
}

async fn a_running_container_can_be_removed(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("removal").await?;
    let id = pod.sh("c", "trap 'exit 0' TERM; while :; do sleep 0.05; done").await?;
    for _ in 0..2 {
        node.client.remove(&id).await?;
    }
    assert_eq!(refused(node.client.status(&id).await), Code::NotFound);
    assert!(node.client.containers(None).await?.is_empty());
    assert_eq!(node.processes_with(&id), [""; 0]);
    Ok(())
}

async fn a_container_is_started_once(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("once").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    assert_eq!(refused(node.client.start(&id).await), Code::FailedPrecondition);
    node.client.stop(&id, 0).await?;
    assert_eq!(refused(node.client.start(&id).await), Code::FailedPrecondition);
    node.client.stop_pod(&pod.id).await?;
    let created = node
        .client
        .create(&pod.id, &sh("late", &pod.image, "exit 0"), &pod.config)
        .await;
    assert_eq!(
        refused(created),
        Code::FailedPrecondition,
        "a stopped pod takes no containers"
    );
    Ok(())
}

async fn containers_are_filtered_by_id_pod_state_and_labels(node: &mut Node) -> anyhow::Result<()> {
    let (one, two) = (node.running_host_pod("one").await?, node.running_host_pod("two").await?);
    let mut config = sh("a", &one.image, "sleep 1000");
    config.labels = labels(&[("tier", "front")]);
    let a = one.run(&config).await?;
    let b = two.run(&config).await?;
    let c = two.create(&sh("c", &two.image, "exit 0")).await?;
    let client = node.client.clone();
    let ids = async |filter: ContainerFilter| -> anyhow::Result<Vec<String>> {
        let mut ids: Vec<String> = client
            .containers(Some(filter))
            .await?
            .into_iter()
            .map(|c| c.id)
            .collect();
        ids.sort();
        Ok(ids)
    };
    let sorted = |mut ids: Vec<&String>| {
        ids.sort();
        ids.into_iter().cloned().collect::<Vec<_>>()
    };
    let filter = ContainerFilter {
        label_selector: labels(&[("tier", "front")]),
        ..Default::default()
    };
    assert_eq!(ids(filter).await?, sorted(vec![&a, &b]));
    let filter = ContainerFilter {
        pod_sandbox_id: two.id.clone(),
        ..Default::default()
    };
    assert_eq!(ids(filter).await?, sorted(vec![&b, &c]));
    let filter = ContainerFilter {
        id: a[..12].to_owned(),
        ..Default::default()
    };
    assert_eq!(ids(filter).await?, sorted(vec![&a]));
    let state = Some(ContainerStateValue {
        state: ContainerState::ContainerCreated.into(),
    });
    assert_eq!(
        ids(ContainerFilter {
            state,
            ..Default::default()
        })
        .await?,
        sorted(vec![&c])
    );
    let filter = ContainerFilter {
        id: "no such container".to_owned(),
        ..Default::default()
    };
    assert_eq!(ids(filter).await?, [""; 0]);
    Ok(())
}

async fn a_created_container_holds_no_more_than_it_needs_and_can_be_removed(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("created").await?;
    let before = node.snapshot();
    let id = pod.create(&sh("c", &pod.image, "exit 0")).await?;
    assert_eq!(
        refused(node.client.exec(&id, &["true"], 5).await),
        Code::FailedPrecondition
    );
    node.client.remove(&id).await?;
    node.nothing_more_than(&before).await
}

async fn security_is_as_asked_for(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("secure").await?;
    let script = "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; touch /x && echo writable";
    let seccomp = |profile: security_profile::ProfileType| {
        Some(SecurityProfile {
            profile_type: profile.into(),
            localhost_ref: String::new(),
        })
    };
    let mut config = sh("plain", &pod.image, script);
    config.linux.as_mut().unwrap().security_context = Some(LinuxContainerSecurityContext {
        seccomp: seccomp(security_profile::ProfileType::RuntimeDefault),
        ..security()
    });
    assert_eq!(pod.ran(&config).await?.exit_code, 0);
    let said = node.said("secure", "plain", "stdout")?;
    assert!(said.contains("Seccomp:\t2"), "the default profile is a filter: {said}");

    let mut config = sh("strict", &pod.image, script);
    config.linux.as_mut().unwrap().security_context = Some(LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            drop_capabilities: vec!["ALL".to_owned()],
            ..Default::default()
        }),
        readonly_rootfs: true,
        no_new_privs: true,
        seccomp: seccomp(security_profile::ProfileType::Unconfined),
        masked_paths: vec!["/proc/kcore".to_owned()],
        ..security()
    });
    assert_ne!(pod.ran(&config).await?.exit_code, 0, "the root filesystem is read-only");
    let said = node.said("secure", "strict", "stdout")?;
    for expected in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t0"] {
        assert!(said.contains(expected), "{expected} is not in {said}");
    }
    Ok(())
}

async fn an_image_can_be_named_by_its_id(node: &mut Node) -> anyhow::Result<()> {
    let reference = node.busybox().await?;
    let image = node.client.image(&reference).await?.unwrap();
    let pod = node.running_host_pod("by-id").await?;
    let id = pod.run(&container("c", &image.id, &["sleep", "1000"])).await?;
    let status = node.client.status(&id).await?;
    assert_eq!(status.image_id, image.id);
    Ok(())
}

async fn many_containers_at_once_are_no_trouble(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_pod("many").await?;
    let configs: Vec<_> = (0..8)
        .map(|n| sh(&format!("c{n}"), &pod.image, &format!("exit {n}")))
        .collect();
    let statuses = futures::future::try_join_all(configs.iter().map(|config| pod.ran(config))).await?;
    assert_eq!(
        statuses.iter().map(|status| status.exit_code).collect::<Vec<_>>(),
        (0..8).collect::<Vec<_>>()
    );
    Ok(())
}

async fn a_failed_start_says_why(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("failing").await?;
    let config = container("c", &pod.image, &["/no/such/program"]);
    // runc refuses at create, others may at start; either way the words of the runtime arrive.
    let error = match node.client.create(&pod.id, &config, &pod.config).await {
        Err(error) => error,
        Ok(id) => node.client.start(&id).await.unwrap_err(),
    };
    assert!(error.message().contains("/no/such/program"), "{error:?}");
    Ok(())
}
