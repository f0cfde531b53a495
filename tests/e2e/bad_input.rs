//! What nobody should send, and some do: a clear error of the right code, nothing lost, nothing left.
//!
//! Layers that reach outside, truncated blobs and stalling registries are in `images`, plugins that misbehave in
//! `network`, garbage records in `restart`.

use cri::v1::*;
use e2e::client::{image_spec, security};
use e2e::{Node, TestImage, container, refused, run_on, sh};
use serde_json::json;
use std::time::{Duration, Instant};
use tonic::Code;

run_on!(runc:
    unknown_ids_are_not_found_or_already_gone,
    empty_ids_are_refused,
    strange_ids_lead_nowhere,
    names_that_are_no_names_are_refused,
    missing_parts_are_refused,
    numbers_out_of_range_are_refused,
    paths_of_logs_stay_beneath_the_pods_directory,
    an_image_cannot_choose_a_working_directory_of_the_host,
    a_user_that_is_no_user_is_refused,
    an_unknown_handler_is_refused_and_a_missing_binary_is_told,
    a_socket_path_too_long_stops_the_start,
    a_second_daemon_is_refused_and_told_by_whom,
    a_full_disk_loses_nothing,
    a_mount_that_makes_no_sense_is_refused,
    a_flood_of_calls_is_refused_and_questions_are_answered,
);

async fn unknown_ids_are_not_found_or_already_gone(node: &mut Node) -> anyhow::Result<()> {
    let client = &node.client;
    let id = "0".repeat(64);
    assert_eq!(refused(client.status(&id).await), Code::NotFound);
    assert_eq!(refused(client.pod_status(&id).await), Code::NotFound);
    assert_eq!(refused(client.start(&id).await), Code::NotFound);
    assert_eq!(refused(client.exec(&id, &["true"], 1).await), Code::NotFound);
    assert_eq!(refused(client.reopen_log(&id).await), Code::NotFound);
    let pod = node.pod("p");
    assert_eq!(
        refused(client.create(&id, &container("c", "x", &[]), &pod).await),
        Code::NotFound
    );
    client.stop(&id, 1).await?;
    client.remove(&id).await?;
    client.stop_pod(&id).await?;
    client.remove_pod(&id).await?;
    client.remove_image(&id).await?;
    Ok(())
}

async fn empty_ids_are_refused(node: &mut Node) -> anyhow::Result<()> {
    let client = &node.client;
    assert_eq!(refused(client.status("").await), Code::InvalidArgument);
    assert_eq!(refused(client.pod_status("").await), Code::InvalidArgument);
    assert_eq!(refused(client.start("").await), Code::InvalidArgument);
    assert_eq!(refused(client.stop("", 1).await), Code::InvalidArgument);
    assert_eq!(refused(client.remove("").await), Code::InvalidArgument);
    assert_eq!(refused(client.stop_pod("").await), Code::InvalidArgument);
    assert_eq!(refused(client.remove_pod("").await), Code::InvalidArgument);
    assert_eq!(refused(client.exec("", &["true"], 1).await), Code::InvalidArgument);
    assert_eq!(refused(client.reopen_log("").await), Code::InvalidArgument);
    assert_eq!(refused(client.remove_image("").await), Code::InvalidArgument);
    Ok(())
}

async fn strange_ids_lead_nowhere(node: &mut Node) -> anyhow::Result<()> {
    let client = node.client.clone();
    let pod = node.running_host_pod("innocent").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let before = node.snapshot();
    let long = "a".repeat(10_000);
    for strange in [
        "../../../etc",
        "/etc/passwd",
        ".",
        "..",
        "a/b",
        "a\0b",
        "--help",
        "\u{202e}x",
        &long,
    ] {
        for code in [
            refused(client.status(strange).await),
            refused(client.pod_status(strange).await),
            refused(client.start(strange).await),
            refused(client.exec(strange, &["true"], 1).await),
        ] {
            assert!(
                [Code::NotFound, Code::InvalidArgument].contains(&code),
                "{code:?} for {strange:?}"
            );
        }
        // Whether these refuse or find nothing to do, they touch nothing.
        let _ = client.stop(strange, 0).await;
        let _ = client.remove(strange).await;
        let _ = client.remove_pod(strange).await;
    }
    assert_eq!(client.status(&id).await?.state(), ContainerState::ContainerRunning);
    node.nothing_more_than(&before).await
}

async fn names_that_are_no_names_are_refused(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("p").await?;
    let before = node.snapshot();
    let long = "a".repeat(10_000);
    for name in ["", "a/b", "..", "../x", "a\0b", &long] {
        let mut config = node.host_network_pod("x");
        config.metadata.as_mut().unwrap().name = name.to_owned();
        assert_eq!(
            refused(node.client.run_pod(&config).await),
            Code::InvalidArgument,
            "the pod's name {name:.20?}"
        );
        let mut config = node.host_network_pod("x");
        config.metadata.as_mut().unwrap().uid = name.to_owned();
        assert_eq!(
            refused(node.client.run_pod(&config).await),
            Code::InvalidArgument,
            "the pod's uid {name:.20?}"
        );
        let mut config = sh("x", &pod.image, "exit 0");
        config.metadata.as_mut().unwrap().name = name.to_owned();
        let created = node.client.create(&pod.id, &config, &pod.config).await;
        assert_eq!(
            refused(created),
            Code::InvalidArgument,
            "the container's name {name:.20?}"
        );
    }
    let mut config = node.host_network_pod("x");
    config.hostname = "h".repeat(65);
    assert_eq!(refused(node.client.run_pod(&config).await), Code::InvalidArgument);
    node.nothing_more_than(&before).await
}

async fn missing_parts_are_refused(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("p").await?;
    let mut runtime = node.client.runtime.clone();
    let request = RunPodSandboxRequest {
        config: None,
        runtime_handler: String::new(),
    };
    assert_eq!(refused(runtime.run_pod_sandbox(request).await), Code::InvalidArgument);
    let nameless = PodSandboxConfig {
        metadata: None,
        ..node.host_network_pod("x")
    };
    assert_eq!(refused(node.client.run_pod(&nameless).await), Code::InvalidArgument);
    for (config, sandbox_config) in [
        (None, Some(pod.config.clone())),
        (
            Some(ContainerConfig {
                metadata: None,
                ..sh("c", &pod.image, "exit")
            }),
            Some(pod.config.clone()),
        ),
        (
            Some(ContainerConfig {
                image: None,
                ..sh("c", &pod.image, "exit")
            }),
            Some(pod.config.clone()),
        ),
    ] {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config,
            sandbox_config,
        };
        assert_eq!(refused(runtime.create_container(request).await), Code::InvalidArgument);
    }
    let mut images = node.client.images.clone();
    let pull = PullImageRequest {
        image: None,
        ..Default::default()
    };
    assert_eq!(refused(images.pull_image(pull).await), Code::InvalidArgument);
    let status = ImageStatusRequest {
        image: None,
        verbose: false,
    };
    assert_eq!(refused(images.image_status(status).await), Code::InvalidArgument);
    let strange = ImageStatusRequest {
        image: Some(image_spec("a\0b")),
        verbose: false,
    };
    assert!(images.image_status(strange).await.is_err());
    Ok(())
}

async fn numbers_out_of_range_are_refused(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("p").await?;
    let id = pod.sh("deaf", "sleep 1000").await?;
    assert_eq!(
        refused(node.client.exec(&id, &["true"], -1).await),
        Code::InvalidArgument
    );
    assert_eq!(
        node.client.exec(&id, &["true"], i64::MAX).await?.exit_code,
        0,
        "a very long time is long enough"
    );

    let before = node.snapshot();
    let with = |resources: LinuxContainerResources| {
        let mut config = sh("c", &pod.image, "exit 0");
        config.linux.as_mut().unwrap().resources = Some(resources);
        config
    };
    for resources in [
        LinuxContainerResources {
            memory_limit_in_bytes: -5,
            ..Default::default()
        },
        LinuxContainerResources {
            memory_limit_in_bytes: 1000,
            ..Default::default()
        },
        LinuxContainerResources {
            cpu_shares: -1,
            ..Default::default()
        },
        LinuxContainerResources {
            cpu_period: -1,
            ..Default::default()
        },
        LinuxContainerResources {
            cpuset_cpus: "zero".to_owned(),
            ..Default::default()
        },
    ] {
        let told = format!("{resources:?}");
        let created = node.client.create(&pod.id, &with(resources), &pod.config).await;
        assert_eq!(refused(created), Code::InvalidArgument, "{told}");
    }
    // Only the kernel knows which processors there are.
    let absent = LinuxContainerResources {
        cpuset_cpus: "0-9999999".to_owned(),
        ..Default::default()
    };
    refused(node.client.create(&pod.id, &with(absent), &pod.config).await);
    for (container_port, host_port) in [(70_000, 80), (80, 70_000), (-1, 80), (80, -1)] {
        let mut config = node.pod("ports");
        config.port_mappings = vec![PortMapping {
            container_port,
            host_port,
            ..Default::default()
        }];
        assert_eq!(
            refused(node.client.run_pod(&config).await),
            Code::InvalidArgument,
            "{container_port} {host_port}"
        );
    }
    node.nothing_more_than(&before).await?;
    // A kubelet never asks for a negative grace; nobody is hurt by one.
    if node.client.stop(&id, -1).await.is_err() {
        node.client.stop(&id, 0).await?;
    }
    Ok(())
}

async fn paths_of_logs_stay_beneath_the_pods_directory(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("p").await?;
    let before = node.snapshot();
    let long = "a".repeat(10_000);
    for path in ["../outside.log", "a/../../outside.log", "a\0b", &long] {
        let mut config = sh("c", &pod.image, "echo x");
        config.log_path = path.to_owned();
        let created = node.client.create(&pod.id, &config, &pod.config).await;
        assert_eq!(refused(created), Code::InvalidArgument, "{path:.20?}");
    }
    assert!(!node.path("logs/outside.log").exists());
    let mut config = node.host_network_pod("relative");
    config.log_directory = "logs/relative".to_owned();
    assert_eq!(refused(node.client.run_pod(&config).await), Code::InvalidArgument);
    node.nothing_more_than(&before).await
}

async fn an_image_cannot_choose_a_working_directory_of_the_host(node: &mut Node) -> anyhow::Result<()> {
    let image = TestImage::busybox()?.declaring("WorkingDir", json!("/proc/self/fd/7"));
    let image = node.pulled("e2e/workdir:1", &image).await?;
    let pod = node.running_host_pod("p").await?;
    let before = node.snapshot();
    let code = refused(
        node.client
            .create(&pod.id, &sh("c", &image, "pwd; ls -la"), &pod.config)
            .await,
    );
    assert!(
        [Code::InvalidArgument, Code::FailedPrecondition].contains(&code),
        "{code:?}"
    );
    node.nothing_more_than(&before).await?;
    for directory in ["relative", "/a/../../../etc", "/x\0y"] {
        let mut config = sh("c", &pod.image, "pwd");
        config.working_dir = directory.to_owned();
        // Refused, or made inside; never the host's.
        if let Ok(id) = node.client.run(&pod.id, &config, &pod.config).await {
            node.client.remove(&id).await?;
        }
    }
    Ok(())
}

async fn a_user_that_is_no_user_is_refused(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("p").await?;
    let before = node.client.list_images().await?.len();
    for (tag, user) in [
        ("u1", "4294967296"),
        ("u2", "-1"),
        ("u3", "nobody-knows-me"),
        ("u4", "0:99999999999"),
    ] {
        let image = TestImage::busybox()?.declaring("User", json!(user));
        let image = node.pulled(&format!("e2e/user:{tag}"), &image).await?;
        let code = refused(node.client.create(&pod.id, &sh("c", &image, "id"), &pod.config).await);
        assert!(
            [Code::InvalidArgument, Code::FailedPrecondition].contains(&code),
            "{code:?} for USER {user}"
        );
    }
    assert_eq!(node.client.list_images().await?.len(), before + 4);
    for value in [-1, 4_294_967_296, i64::MAX] {
        let mut config = sh("c", &pod.image, "id");
        config.linux.as_mut().unwrap().security_context = Some(LinuxContainerSecurityContext {
            run_as_user: Some(Int64Value { value }),
            ..security()
        });
        let created = node.client.create(&pod.id, &config, &pod.config).await;
        assert_eq!(refused(created), Code::InvalidArgument, "{value}");
    }
    let mut config = sh("c", &pod.image, "id");
    config.linux.as_mut().unwrap().security_context = Some(LinuxContainerSecurityContext {
        run_as_group: Some(Int64Value { value: 5 }),
        ..security()
    });
    let created = node.client.create(&pod.id, &config, &pod.config).await;
    assert_eq!(refused(created), Code::InvalidArgument, "a group without a user");
    Ok(())
}

async fn an_unknown_handler_is_refused_and_a_missing_binary_is_told(node: &mut Node) -> anyhow::Result<()> {
    let code = refused(node.client.run_pod_with("no-such-handler", &node.pod("p")).await);
    assert!([Code::InvalidArgument, Code::NotFound].contains(&code), "{code:?}");
    let before = node.snapshot();
    let missing = "[crio.runtime]\ndefault_runtime = \"gone\"\n[crio.runtime.runtimes.gone]\nruntime_path = \"/no/such/runtime\"\n";
    node.configure("60-gone.conf", missing).await?;
    let condition = node.client.condition("RuntimeReady").await?;
    assert!(
        !condition.status && condition.message.contains("/no/such/runtime"),
        "{condition:?}"
    );
    let image = node.busybox().await?;
    let pod = node.host_network_pod("p");
    let error = match node.client.run_pod(&pod).await {
        Err(error) => error,
        Ok(id) => node
            .client
            .create(&id, &sh("c", &image, "exit 0"), &pod)
            .await
            .unwrap_err(),
    };
    assert!(error.message().contains("/no/such/runtime"), "{error}");
    node.client.remove_everything().await?;
    node.nothing_more_than(&before).await
}

async fn a_socket_path_too_long_stops_the_start(node: &mut Node) -> anyhow::Result<()> {
    let path = node.path(&"s".repeat(120)).display().to_string();
    let complaint = node.second_daemon(&["--listen", &path]).await?;
    assert!(
        complaint.contains("107") && complaint.contains("crio.api.listen"),
        "{complaint}"
    );
    Ok(())
}

async fn a_second_daemon_is_refused_and_told_by_whom(node: &mut Node) -> anyhow::Result<()> {
    let socket = node.path("other.sock").display().to_string();
    let complaint = node.second_daemon(&["--listen", &socket]).await?;
    let holder = node
        .processes()
        .into_iter()
        .find(|process| process.command_line.contains("crio-manager"));
    let pid = holder.unwrap().pid.to_string();
    assert!(complaint.contains(&pid), "{pid} is not named in: {complaint}");
    node.client.version().await?;
    Ok(())
}

async fn a_full_disk_loses_nothing(node: &mut Node) -> anyhow::Result<()> {
    node.stop().await?;
    let state = node.path("state").display().to_string();
    node.namespaces
        .run("mount", &["-t", "tmpfs", "-o", "size=256k", "tmpfs", &state])?;
    node.restart().await?;
    let pod = node.running_host_pod("before").await?;
    let (id, other) = (pod.sh("c", "sleep 1000").await?, pod.sh("other", "sleep 1000").await?);
    let before = node.snapshot();
    let fill = format!("dd if=/dev/zero of={state}/fill bs=4096 2>/dev/null; true");
    node.namespaces.run("sh", &["-c", &fill])?;
    let error = node.client.run_pod(&node.host_network_pod("full")).await.unwrap_err();
    assert!(
        [Code::ResourceExhausted, Code::Internal].contains(&error.code()),
        "{error}"
    );
    assert!(error.message().contains("No space left"), "{error}");
    let asked = Instant::now();
    assert_eq!(node.client.status(&id).await?.state(), ContainerState::ContainerRunning);
    assert_eq!(node.client.containers(None).await?.len(), 2);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    // Ending things needs no room.
    node.client.stop(&other, 0).await?;
    assert_eq!(node.client.status(&other).await?.exit_code, 137);
    node.client.remove(&other).await?;
    node.namespaces.run("rm", &[&format!("{state}/fill")])?;
    node.nothing_more_than(&before).await?;
    node.client.run_pod(&node.host_network_pod("after")).await?;
    node.client.remove_everything().await?;
    node.stop().await?;
    node.namespaces.run("umount", &[&state])?;
    Ok(())
}

async fn a_mount_that_makes_no_sense_is_refused(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("p").await?;
    let before = node.snapshot();
    for (container_path, host_path) in [("", "/tmp"), ("/x", ""), ("/x", "relative"), ("/x\0y", "/tmp")] {
        let mut config = sh("c", &pod.image, "exit 0");
        config.mounts = vec![Mount {
            container_path: container_path.to_owned(),
            host_path: host_path.to_owned(),
            ..Default::default()
        }];
        let created = node.client.create(&pod.id, &config, &pod.config).await;
        let code = created.as_ref().err().map(tonic::Status::code);
        assert_eq!(code, Some(Code::InvalidArgument), "{container_path:?} {host_path:?}");
    }
    node.nothing_more_than(&before).await
}

/// More waiting calls than the daemon takes, all on one connection.
async fn a_flood_of_calls_is_refused_and_questions_are_answered(node: &mut Node) -> anyhow::Result<()> {
    const CALLS_AT_ONCE: usize = 1024;
    let pod = node.running_host_pod("flooded").await?;
    let id = node.deaf(&pod, "deaf").await?;
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..CALLS_AT_ONCE + 50 {
        let (client, id) = (node.client.clone(), id.clone());
        flood.spawn(async move { client.stop(&id, 600).await });
    }
    for _ in 0..50 {
        let refusal = flood.join_next().await.unwrap()?.unwrap_err();
        assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal}");
        assert!(refusal.message().contains("1024 calls"), "{refusal}");
    }
    let asked = Instant::now();
    assert!(node.client.condition("RuntimeReady").await?.status);
    assert_eq!(node.client.containers(None).await?.len(), 1);
    assert_eq!(node.client.status(&id).await?.state(), ContainerState::ContainerRunning);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    flood.shutdown().await;
    // The daemon learns of callers that have left, and there is room again.
    let begun = Instant::now();
    while let Err(refusal) = node.client.stop(&id, 0).await {
        assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal}");
        assert!(begun.elapsed() < Duration::from_secs(20), "still no room");
    }
    assert_eq!(node.client.status(&id).await?.exit_code, 137);
    Ok(())
}
