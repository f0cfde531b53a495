//! Requests and connections by which a hostile or broken client would have the daemon fall, fill up, or reach where it
//! should not: errors of the right code, memory that stays, nothing left.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cri::v1::*;
use e2e::{Node, eventually, refused, run_on, sh};
use tonic::{Code, Status};

run_on!(runc:
    requests_without_anything_in_them_are_answered,
    numbers_that_name_no_choice_are_refused,
    a_million_labels_are_refused_and_cost_no_memory,
    what_is_odd_in_an_annotation_is_returned_and_reaches_nobody_else,
    malformed_image_references_are_refused_everywhere,
    sources_of_mounts_that_lead_nowhere_are_refused,
    links_as_sources_lead_where_they_lead_when_the_container_is_made,
    ten_thousand_idle_connections_keep_nobody_out,
);

/// What the daemon has in memory, in KiB.
fn memory(node: &Node) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.daemon_pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    Ok(line.context("RssAnon")?.trim().trim_end_matches(" kB").parse()?)
}

async fn requests_without_anything_in_them_are_answered(node: &mut Node) -> anyhow::Result<()> {
    let before = node.snapshot();
    let (mut r, mut i) = (node.client.runtime.clone(), node.client.images.clone());
    /// The code of the answer to a request that is all defaults.
    macro_rules! codes {
        ($client:ident: $($method:ident $request:ident),+ $(,)?) => {
            [$((stringify!($method), $client.$method($request::default()).await.err().map(|status: Status| status.code()))),+]
        };
    }
    let need_something = codes!(r:
        run_pod_sandbox RunPodSandboxRequest, stop_pod_sandbox StopPodSandboxRequest,
        remove_pod_sandbox RemovePodSandboxRequest, pod_sandbox_status PodSandboxStatusRequest,
        create_container CreateContainerRequest, start_container StartContainerRequest,
        stop_container StopContainerRequest, remove_container RemoveContainerRequest,
        container_status ContainerStatusRequest, update_container_resources UpdateContainerResourcesRequest,
        update_pod_sandbox_resources UpdatePodSandboxResourcesRequest, reopen_container_log ReopenContainerLogRequest,
        exec_sync ExecSyncRequest, exec ExecRequest, attach AttachRequest, port_forward PortForwardRequest,
        container_stats ContainerStatsRequest, pod_sandbox_stats PodSandboxStatsRequest,
        checkpoint_container CheckpointContainerRequest,
    );
    for (method, code) in need_something {
        assert_eq!(code, Some(Code::InvalidArgument), "{method}");
    }
    let need_an_image = codes!(i:
        pull_image PullImageRequest, image_status ImageStatusRequest, remove_image RemoveImageRequest,
    );
    for (method, code) in need_an_image {
        assert_eq!(code, Some(Code::InvalidArgument), "{method}");
    }
    let need_nothing = codes!(r:
        version VersionRequest, status StatusRequest, list_pod_sandbox ListPodSandboxRequest,
        list_containers ListContainersRequest, list_container_stats ListContainerStatsRequest,
        list_pod_sandbox_stats ListPodSandboxStatsRequest, runtime_config RuntimeConfigRequest,
        update_runtime_config UpdateRuntimeConfigRequest, list_metric_descriptors ListMetricDescriptorsRequest,
        list_pod_sandbox_metrics ListPodSandboxMetricsRequest,
    );
    for (method, code) in need_nothing {
        assert_eq!(code, None, "{method}");
    }
    for (method, code) in codes!(i: list_images ListImagesRequest, image_fs_info ImageFsInfoRequest) {
        assert_eq!(code, None, "{method}");
    }
    node.nothing_more_than(&before).await
}

async fn numbers_that_name_no_choice_are_refused(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("p").await?;
    let before = node.snapshot();
    for value in [-1, 1717, i32::MAX, i32::MIN] {
        let mut config = node.pod("x");
        config.port_mappings = vec![PortMapping {
            protocol: value,
            container_port: 80,
            host_port: 80,
            ..Default::default()
        }];
        assert_eq!(
            refused(node.client.run_pod(&config).await),
            Code::InvalidArgument,
            "protocol {value}"
        );
        type OfContainer = fn(&mut ContainerConfig, i32);
        let changes: [(&str, OfContainer); 2] = [
            ("stop_signal", |config, value| config.stop_signal = value),
            ("propagation", |config, value| {
                config.mounts = vec![Mount {
                    container_path: "/in".to_owned(),
                    host_path: "/tmp".to_owned(),
                    propagation: value,
                    ..Default::default()
                }];
            }),
        ];
        for (field, change) in changes {
            let mut config = sh("c", &pod.image, "exit 0");
            change(&mut config, value);
            let error = node.client.create(&pod.id, &config, &pod.config).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{field} {value}: {error}");
            assert!(error.message().contains(field), "{field}: {error}");
        }
        let pods = PodSandboxFilter {
            state: Some(PodSandboxStateValue { state: value }),
            ..Default::default()
        };
        assert_eq!(refused(node.client.pods(Some(pods)).await), Code::InvalidArgument);
        let containers = ContainerFilter {
            state: Some(ContainerStateValue { state: value }),
            ..Default::default()
        };
        assert_eq!(
            refused(node.client.containers(Some(containers)).await),
            Code::InvalidArgument
        );
    }
    node.nothing_more_than(&before).await
}

async fn a_million_labels_are_refused_and_cost_no_memory(node: &mut Node) -> anyhow::Result<()> {
    /// A request is in memory while it is looked at, and the allocator keeps some of that for each of its arenas.
    const ROUNDS_UNTIL_KEPT: usize = 4;
    /// KiB.
    const GROWTH: u64 = 48 << 10;
    let pod = node.running_host_pod("p").await?;
    let before = node.snapshot();
    let many: std::collections::HashMap<_, _> =
        (0..1_000_000).map(|n| (format!("label-{n}"), "x".to_owned())).collect();
    let mut kept = 0;
    for round in 0..2 * ROUNDS_UNTIL_KEPT {
        let asked = if round % 2 == 0 {
            let mut config = node.host_network_pod("many");
            config.labels.clone_from(&many);
            node.client.run_pod(&config).await
        } else {
            let mut config = sh("c", &pod.image, "exit 0");
            config.annotations.clone_from(&many);
            node.client.create(&pod.id, &config, &pod.config).await
        };
        assert_eq!(refused(asked), Code::InvalidArgument);
        // The answer may be there before the request has been let go of.
        if round < ROUNDS_UNTIL_KEPT {
            kept = kept.max(memory(node)?);
        } else {
            let what = format!("round {round} needs no more than the first ones, {kept} KiB");
            eventually(&what, || Ok(memory(node)? < kept + GROWTH)).await?;
        }
    }
    node.nothing_more_than(&before).await?;
    // What Kubernetes allows is far from it.
    let mut config = node.host_network_pod("large");
    config.annotations.insert("large".to_owned(), "x".repeat(256 << 10));
    let id = node.client.run_pod(&config).await?;
    assert_eq!(node.client.pod_status(&id).await?.annotations, config.annotations);
    Ok(())
}

async fn what_is_odd_in_an_annotation_is_returned_and_reaches_nobody_else(node: &mut Node) -> anyhow::Result<()> {
    let odd = [
        ("a\nb", "c\n[crio]\nroot = \"/\""),
        ("", "no key"),
        ("no value", ""),
        ("=;", "a=b;IgnoreUnknown=0"),
        ("tab\t\u{1b}[31m", "\u{202e}nus\u{7}"),
    ];
    let odd: std::collections::HashMap<_, _> = odd
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into_iter()
        .collect();
    let mut config = node.pod("odd");
    (config.annotations, config.labels) = (odd.clone(), odd.clone());
    let pod = node.running("", config).await?;
    let mut config = sh("c", &pod.image, "sleep 1000");
    (config.annotations, config.labels) = (odd.clone(), odd.clone());
    let id = pod.run(&config).await?;
    node.restart().await?;
    let status = node.client.pod_status(&pod.id).await?;
    assert_eq!((&status.annotations, &status.labels), (&odd, &odd));
    let status = node.client.status(&id).await?;
    assert_eq!((&status.annotations, &status.labels), (&odd, &odd));
    let selector = PodSandboxFilter {
        label_selector: odd,
        ..Default::default()
    };
    assert_eq!(node.client.pods(Some(selector)).await?.len(), 1);
    assert!(
        !node.log().contains("\u{1b}[31m"),
        "no escape sequence reaches a terminal by the log"
    );
    Ok(())
}

async fn malformed_image_references_are_refused_everywhere(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("p").await?;
    let before = node.snapshot();
    let long = format!("127.0.0.1:5000/{}", "a".repeat(10_000));
    let half = format!("sha256:{}", "a".repeat(63));
    let digest = format!("app@{half}");
    for reference in [
        ":tag",
        "/app",
        "app/",
        "a//b",
        "App",
        "my app",
        "app:",
        "app:-x",
        "app\0",
        "app@",
        "app@sha256:12",
        &digest,
        "../app",
        "127.0.0.1:port/app",
        "127.0.0.1:5000/",
        "http://127.0.0.1:5000/app",
        "app\n",
        "app:a\nb",
        "[::1/app",
        "@sha256:aa",
        &long,
        "äpp",
        "a/../b",
        "--help",
    ] {
        let shown: String = reference.chars().take(30).collect();
        assert_eq!(
            refused(node.client.pull(reference).await),
            Code::InvalidArgument,
            "pull of {shown:?}"
        );
        let created = node
            .client
            .create(&pod.id, &sh("c", reference, "exit 0"), &pod.config)
            .await;
        let code = refused(created);
        assert!(
            [Code::InvalidArgument, Code::FailedPrecondition].contains(&code),
            "creation from {shown:?}: {code:?}"
        );
        // For these two, what is no image is not there.
        for code in [
            node.client
                .image(reference)
                .await
                .map(|image| assert!(image.is_none()))
                .err(),
            node.client.remove_image(reference).await.err(),
        ] {
            assert!(
                code.as_ref()
                    .is_none_or(|status| status.code() == Code::InvalidArgument),
                "{shown:?}: {code:?}"
            );
        }
    }
    assert_eq!(node.client.list_images().await?.len(), 1);
    node.nothing_more_than(&before).await
}

fn mounting(pod: &e2e::RunningPod, source: &std::path::Path, script: &str) -> ContainerConfig {
    let mut config = sh("c", &pod.image, script);
    config.mounts = vec![Mount {
        container_path: "/in".to_owned(),
        host_path: source.display().to_string(),
        ..Default::default()
    }];
    config
}

async fn sources_of_mounts_that_lead_nowhere_are_refused(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("p").await?;
    let at = |name: &str| node.path("logs").join(name);
    std::fs::write(at("file"), "")?;
    std::os::unix::fs::symlink(at("loop-b"), at("loop-a"))?;
    std::os::unix::fs::symlink(at("loop-a"), at("loop-b"))?;
    let before = node.snapshot();
    let long = std::path::PathBuf::from(format!("/{}", "a".repeat(300)));
    for source in [at("file").join("below"), at("loop-a"), at("loop-a").join("below"), long] {
        let config = mounting(&pod, &source, "exit 0");
        let error = node.client.create(&pod.id, &config, &pod.config).await.unwrap_err();
        let code = error.code();
        assert!(
            [Code::InvalidArgument, Code::FailedPrecondition, Code::Internal].contains(&code),
            "{source:?}: {error}"
        );
        let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(error.message().contains(&name), "{source:?}: {error}");
    }
    let mut config = sh("c", &pod.image, "exit 0");
    config.devices = vec![Device {
        container_path: "/dev/x".to_owned(),
        host_path: "/dev/not-there".to_owned(),
        permissions: "rwm".to_owned(),
    }];
    let error = node.client.create(&pod.id, &config, &pod.config).await.unwrap_err();
    assert!(error.message().contains("/dev/not-there"), "{error}");
    assert!(
        [Code::InvalidArgument, Code::FailedPrecondition].contains(&error.code()),
        "{error}"
    );
    node.nothing_more_than(&before).await
}

async fn links_as_sources_lead_where_they_lead_when_the_container_is_made(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("p").await?;
    let at = |name: &str| node.path("logs").join(name);
    for (name, text) in [("one", "first"), ("other", "second")] {
        std::fs::create_dir(at(name))?;
        std::fs::write(at(name).join("note"), text)?;
    }
    std::os::unix::fs::symlink(at("one"), at("link"))?;
    let id = pod
        .create(&mounting(&pod, &at("link"), "cat /in/note; echo written >/in/answer"))
        .await?;
    // Whoever turns the link round afterwards turns nothing.
    std::fs::remove_file(at("link"))?;
    std::os::unix::fs::symlink(at("other"), at("link"))?;
    node.client.start(&id).await?;
    assert_eq!(node.client.exited(&id, Duration::from_secs(30)).await?.exit_code, 0);
    assert_eq!(node.said("p", "c", "stdout")?, "first");
    assert!(at("one").join("answer").exists() && !at("other").join("answer").exists());
    Ok(())
}

async fn ten_thousand_idle_connections_keep_nobody_out(node: &mut Node) -> anyhow::Result<()> {
    const CONNECTIONS: usize = 10_000;
    /// KiB for each, in the daemon: a task and its buffers.
    const EACH: u64 = 16;
    node.client.version().await?;
    let held =
        || -> anyhow::Result<usize> { Ok(std::fs::read_dir(format!("/proc/{}/fd", node.daemon_pid()))?.count()) };
    let (memory_before, held_before) = (memory(node)?, held()?);
    let mut idle = Vec::with_capacity(CONNECTIONS);
    let socket = node.socket();
    let begun = Instant::now();
    while idle.len() < CONNECTIONS {
        match UnixStream::connect(&socket) {
            Ok(connection) => idle.push(connection),
            // The queue is full for the moment.
            Err(error) => anyhow::ensure!(begun.elapsed() < Duration::from_secs(60), "{error}"),
        }
    }
    eventually("all are taken", || Ok(held()? >= held_before + CONNECTIONS)).await?;
    let asked = Instant::now();
    let newcomer = e2e::Client::connect(&socket).await?;
    newcomer.version().await?;
    assert!(newcomer.condition("RuntimeReady").await?.status);
    let pod = node.host_network_pod("beside");
    let id = newcomer.run_pod(&pod).await?;
    newcomer.remove_pod(&id).await?;
    assert!(asked.elapsed() < Duration::from_secs(60), "{:?}", asked.elapsed());
    let grown = memory(node)?.saturating_sub(memory_before);
    assert!(
        grown < CONNECTIONS as u64 * EACH,
        "{grown} KiB for {CONNECTIONS} connections"
    );
    drop(idle);
    eventually("all are closed", || Ok(held()? < held_before + 100)).await
}
