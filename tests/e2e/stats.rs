//! What containers and pods use, as the kernel counts it; and the lists in portions.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cri::v1::*;
use e2e::client::labels;
use e2e::{Node, refused, run_on, sh};
use tonic::Code;

run_on!(runc, crun:
    a_containers_statistics_are_the_kernels,
    a_containers_pressure_is_the_kernels,
);
run_on!(runc:
    a_pods_statistics_have_its_network_and_its_containers,
    statistics_are_filtered_and_leave_the_exited_out,
    lists_in_portions_are_the_same_lists,
    every_announced_metric_of_a_pod_is_there_with_its_labels,
);

const MIB: u64 = 1 << 20;
/// Writable layers are walked in the background.
const A_WALK: Duration = Duration::from_secs(60);

fn number(value: &Option<UInt64Value>) -> Option<u64> {
    value.as_ref().map(|value| value.value)
}

async fn container_stats(node: &Node, id: &str) -> anyhow::Result<ContainerStats> {
    let request = ContainerStatsRequest {
        container_id: id.to_owned(),
    };
    let answer = node.client.runtime.clone().container_stats(request).await?.into_inner();
    answer.stats.context("an answer without statistics")
}

async fn list(node: &Node, filter: Option<ContainerStatsFilter>) -> anyhow::Result<Vec<String>> {
    let request = ListContainerStatsRequest { filter };
    let answer = node
        .client
        .runtime
        .clone()
        .list_container_stats(request)
        .await?
        .into_inner();
    let ids = answer
        .stats
        .into_iter()
        .map(|stats| stats.attributes.unwrap_or_default().id);
    Ok(ids.collect())
}

async fn a_containers_statistics_are_the_kernels(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("busy").await?;
    let mut config = sh(
        "c",
        &pod.image,
        "head -c 5242880 /dev/zero > /written; echo written; while :; do :; done",
    );
    config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 96 << 20,
        ..Default::default()
    });
    let id = pod.run(&config).await?;
    let log = node.path("logs").join("busy").join("c.log");
    e2e::eventually("the container has written its file", || {
        Ok(std::fs::read_to_string(&log).is_ok_and(|log| log.contains("written")))
    })
    .await?;

    let first = container_stats(node, &id).await?;
    let attributes = first.attributes.context("attributes")?;
    assert_eq!(
        (attributes.id.as_str(), attributes.metadata.unwrap().name.as_str()),
        (id.as_str(), "c")
    );
    let (cpu, memory, swap) = (first.cpu.unwrap(), first.memory.unwrap(), first.swap.unwrap());
    assert!(cpu.timestamp > 0 && memory.timestamp > 0);
    let (usage, working_set) = (
        number(&memory.usage_bytes).unwrap(),
        number(&memory.working_set_bytes).unwrap(),
    );
    assert!(
        0 < working_set && working_set <= usage && usage < 64 * MIB,
        "{memory:?}"
    );
    assert_eq!(number(&memory.available_bytes), Some(64 * MIB - working_set));
    assert_eq!(
        number(&swap.swap_available_bytes).unwrap() + number(&swap.swap_usage_bytes).unwrap(),
        32 * MIB
    );
    assert!(
        number(&cpu.usage_nano_cores).unwrap() > 0,
        "a rate from the first call on: {cpu:?}"
    );

    // It burns what it can get; on a busy machine that may be little.
    let started = Instant::now();
    let used = number(&cpu.usage_core_nano_seconds).unwrap();
    loop {
        let now = container_stats(node, &id).await?.cpu.unwrap();
        if number(&now.usage_core_nano_seconds).unwrap() >= used + 50_000_000 {
            assert!(now.timestamp > cpu.timestamp);
            break;
        }
        anyhow::ensure!(started.elapsed() < A_WALK, "no CPU time is counted: {now:?}");
    }
    let layer = loop {
        if let Some(layer) = container_stats(node, &id).await?.writable_layer {
            break layer;
        }
        anyhow::ensure!(started.elapsed() < A_WALK, "the writable layer is not measured");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(number(&layer.used_bytes).unwrap() >= 5 * MIB, "{layer:?}");
    assert!(
        number(&layer.inodes_used).unwrap() >= 1 && layer.timestamp > 0,
        "{layer:?}"
    );
    let mountpoint = layer.fs_id.unwrap().mountpoint;
    assert!(Path::new(&mountpoint).is_absolute(), "{mountpoint}");

    node.client.stop(&id, 0).await?;
    let request = ContainerStatsRequest { container_id: id };
    let code = refused(node.client.runtime.clone().container_stats(request).await);
    assert_eq!(code, Code::FailedPrecondition);
    Ok(())
}

async fn pod_stats(node: &Node, id: &str) -> anyhow::Result<LinuxPodSandboxStats> {
    let request = PodSandboxStatsRequest {
        pod_sandbox_id: id.to_owned(),
    };
    let answer = node
        .client
        .runtime
        .clone()
        .pod_sandbox_stats(request)
        .await?
        .into_inner();
    let stats = answer.stats.context("an answer without statistics")?;
    assert_eq!(stats.attributes.unwrap_or_default().id, id);
    stats.linux.context("statistics of Linux")
}

async fn a_pods_statistics_have_its_network_and_its_containers(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_pod("talking").await?;
    let empty = pod_stats(node, &pod.id).await?;
    assert!(empty.containers.is_empty());
    let id = pod.sh("c", "sleep 1000").await?;

    let before = pod_stats(node, &pod.id).await?;
    assert_eq!(before.containers[0].attributes.as_ref().unwrap().id, id);
    assert!(number(&before.process.unwrap().process_count).unwrap() >= 1);
    assert!(number(&before.memory.unwrap().working_set_bytes).unwrap() > 0);
    assert!(number(&before.cpu.unwrap().usage_core_nano_seconds).unwrap() > 0);
    let sent = |network: Option<NetworkUsage>| {
        let interface = network.unwrap().default_interface.unwrap();
        assert_eq!(interface.name, "eth0");
        (
            number(&interface.tx_bytes).unwrap(),
            number(&interface.tx_errors).unwrap(),
        )
    };
    let interfaces: Vec<_> = before.network.clone().unwrap().interfaces;
    assert_eq!(
        interfaces.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(),
        ["eth0"]
    );
    let (before, _) = sent(before.network);
    // Its gateway: the first address of the pod's network. Whether it answers or not, the question has gone out.
    let address = node.client.pod_status(&pod.id).await?.network.unwrap_or_default().ip;
    let (network, _) = address.rsplit_once('.').context("an IPv4 address")?;
    let script = format!("echo question | nc -w 2 {network}.1 9; true");
    node.client.output(&id, &["sh", "-c", &script]).await?;
    let (after, errors) = sent(pod_stats(node, &pod.id).await?.network);
    assert!(after > before && errors == 0, "{before} {after}");

    let host = node.running_host_pod("host").await?;
    assert_eq!(
        pod_stats(node, &host.id).await?.network,
        None,
        "the node's traffic is no pod's"
    );

    let mut runtime = node.client.runtime.clone();
    let filter = |id: &str| ListPodSandboxStatsRequest {
        filter: Some(PodSandboxStatsFilter {
            id: id.to_owned(),
            ..Default::default()
        }),
    };
    let listed = runtime
        .list_pod_sandbox_stats(filter(&pod.id))
        .await?
        .into_inner()
        .stats;
    assert_eq!(listed.len(), 1);
    let all = runtime
        .list_pod_sandbox_stats(ListPodSandboxStatsRequest::default())
        .await?;
    assert_eq!(all.into_inner().stats.len(), 2);
    node.client.stop_pod(&pod.id).await?;
    assert!(
        runtime
            .list_pod_sandbox_stats(filter(&pod.id))
            .await?
            .into_inner()
            .stats
            .is_empty()
    );
    let request = |pod: &str| PodSandboxStatsRequest {
        pod_sandbox_id: pod.to_owned(),
    };
    let stopped = refused(runtime.pod_sandbox_stats(request(&pod.id)).await);
    let unknown = refused(runtime.pod_sandbox_stats(request("nobody")).await);
    assert_eq!((stopped, unknown), (Code::FailedPrecondition, Code::NotFound));
    Ok(())
}

async fn statistics_are_filtered_and_leave_the_exited_out(node: &mut Node) -> anyhow::Result<()> {
    let (one, two) = (node.running_host_pod("one").await?, node.running_host_pod("two").await?);
    let mut labelled = sh("a", &one.image, "sleep 1000");
    labelled.labels = labels(&[("foo", "bar")]);
    let a = one.run(&labelled).await?;
    let b = one.create(&sh("b", &one.image, "true")).await?;
    let c = two.sh("c", "sleep 1000").await?;
    let ended = two.sh("ended", "exit 0").await?;
    node.client.exited(&ended, Duration::from_secs(30)).await?;

    let sorted = |mut ids: Vec<String>| {
        ids.sort();
        ids
    };
    assert_eq!(
        sorted(list(node, None).await?),
        sorted(vec![a.clone(), b.clone(), c.clone()])
    );
    let of_pod = ContainerStatsFilter {
        pod_sandbox_id: one.id.clone(),
        ..Default::default()
    };
    assert_eq!(sorted(list(node, Some(of_pod)).await?), sorted(vec![a.clone(), b]));
    for (value, found) in [("bar", vec![a.clone()]), ("baz", vec![])] {
        let of_label = ContainerStatsFilter {
            label_selector: labels(&[("foo", value)]),
            ..Default::default()
        };
        assert_eq!(list(node, Some(of_label)).await?, found, "{value}");
    }
    for (id, found) in [
        (c[..20].to_owned(), vec![c.clone()]),
        ("nobody".to_owned(), vec![]),
        (ended, vec![]),
    ] {
        let of_id = ContainerStatsFilter {
            id,
            ..Default::default()
        };
        assert_eq!(list(node, Some(of_id)).await?, found);
    }
    Ok(())
}

async fn lists_in_portions_are_the_same_lists(node: &mut Node) -> anyhow::Result<()> {
    let (one, two) = (node.running_host_pod("one").await?, node.running_host_pod("two").await?);
    one.sh("a", "sleep 1000").await?;
    two.create(&sh("b", &two.image, "true")).await?;
    let (mut runtime, mut images) = (node.client.runtime.clone(), node.client.images.clone());

    let mut pods = Vec::new();
    let mut stream = runtime
        .stream_pod_sandboxes(StreamPodSandboxesRequest::default())
        .await?
        .into_inner();
    while let Some(portion) = stream.message().await? {
        pods.extend(portion.pod_sandboxes);
    }
    assert_eq!((pods.len(), pods), (2, node.client.pods(None).await?));

    let mut containers = Vec::new();
    let mut stream = runtime
        .stream_containers(StreamContainersRequest::default())
        .await?
        .into_inner();
    while let Some(portion) = stream.message().await? {
        containers.extend(portion.containers);
    }
    assert_eq!((containers.len(), containers), (2, node.client.containers(None).await?));

    let mut listed = Vec::new();
    let mut stream = images.stream_images(StreamImagesRequest::default()).await?.into_inner();
    while let Some(portion) = stream.message().await? {
        listed.extend(portion.images);
    }
    assert_eq!((listed.len(), listed), (1, node.client.list_images().await?));

    let mut stats = Vec::new();
    let mut stream = runtime
        .stream_container_stats(StreamContainerStatsRequest::default())
        .await?
        .into_inner();
    while let Some(portion) = stream.message().await? {
        let ids = portion
            .container_stats
            .into_iter()
            .map(|one| one.attributes.unwrap_or_default().id);
        stats.extend(ids);
    }
    assert_eq!((stats.len(), stats), (2, list(node, None).await?));

    let request = StreamPodSandboxStatsRequest {
        filter: Some(PodSandboxStatsFilter {
            id: one.id.clone(),
            ..Default::default()
        }),
    };
    let mut stream = runtime.stream_pod_sandbox_stats(request).await?.into_inner();
    let portion = stream.message().await?.context("one portion")?;
    assert_eq!(portion.pod_sandbox_stats[0].attributes.as_ref().unwrap().id, one.id);
    assert_eq!((portion.pod_sandbox_stats.len(), stream.message().await?), (1, None));

    let request = StreamContainersRequest {
        filter: Some(ContainerFilter {
            state: Some(ContainerStateValue { state: 99 }),
            ..Default::default()
        }),
    };
    assert_eq!(refused(runtime.stream_containers(request).await), Code::InvalidArgument);
    Ok(())
}

/// Those that the kernel may have no numbers for: huge pages, pressure, devices.
fn may_lack(name: &str) -> bool {
    let parts = ["hugetlb", "pressure", "blkio", "fs_reads", "fs_writes"];
    parts.iter().any(|part| name.contains(part))
}

async fn every_announced_metric_of_a_pod_is_there_with_its_labels(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_pod("measured").await?;
    let mut config = sh("c", &pod.image, "while :; do :; done");
    config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 20_000,
        cpu_shares: 1024,
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 64 << 20,
        ..Default::default()
    });
    let id = pod.run(&config).await?;
    let mut runtime = node.client.runtime.clone();
    let descriptors = runtime
        .list_metric_descriptors(ListMetricDescriptorsRequest {})
        .await?
        .into_inner()
        .descriptors;
    assert!(descriptors.len() > 50, "{} metrics", descriptors.len());
    let request = ListPodSandboxMetricsRequest {};
    let all = runtime
        .list_pod_sandbox_metrics(request)
        .await?
        .into_inner()
        .pod_metrics;
    let of_pod = all.iter().find(|of| of.pod_sandbox_id == pod.id).context("the pod")?;
    let container = of_pod.container_metrics.iter().find(|of| of.container_id == id);
    let container = container.context("the container")?;
    let found = |name: &str| {
        let both = of_pod.metrics.iter().chain(&container.metrics);
        both.filter(|metric| metric.name == name).collect::<Vec<_>>()
    };
    for descriptor in &descriptors {
        let metrics = found(&descriptor.name);
        assert!(
            may_lack(&descriptor.name) || !metrics.is_empty(),
            "{} has no value",
            descriptor.name
        );
        for metric in metrics {
            assert_eq!(metric.label_values.len(), descriptor.label_keys.len(), "{metric:?}");
        }
    }
    let value = |name: &str| number(&found(name)[0].value).unwrap();
    assert_eq!(value("container_spec_memory_limit_bytes"), 64 << 20);
    assert_eq!(value("container_spec_cpu_quota"), 20_000);
    assert_eq!(value("container_processes"), 1);
    assert!(value("container_memory_usage_bytes") > 0 && value("container_file_descriptors") >= 3);
    assert!(value("container_start_time_seconds") > 1_700_000_000);
    let labels = &found("container_last_seen")[0].label_values;
    assert_eq!(
        (labels[0].as_str(), labels[3].as_str(), labels[5].as_str()),
        ("c", id.as_str(), "measured")
    );

    let mut stream = runtime
        .stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest {})
        .await?
        .into_inner();
    let streamed = stream.message().await?.context("a portion")?.pod_sandbox_metrics;
    assert_eq!(streamed.len(), all.len());
    Ok(())
}

/// The total of a line, `some` or `full`, of a file like `cpu.pressure`, in nanoseconds.
fn stalled(directory: &Path, file: &str, kind: &str) -> Option<u64> {
    let text = std::fs::read_to_string(directory.join(file)).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
    let total: u64 = line.split_once("total=")?.1.trim().parse().ok()?;
    Some(total * 1000)
}

async fn a_containers_pressure_is_the_kernels(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("pressed").await?;
    // It is held back by its quota, which is pressure on its processor.
    let mut config = sh("c", &pod.image, "while :; do :; done");
    config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
        cpu_period: 10_000,
        cpu_quota: 1_000,
        ..Default::default()
    });
    let id = pod.run(&config).await?;
    let pid = node.client.pid(&id).await?;
    let of_version_2 = std::fs::read_to_string(node.namespaces.inside(format!("/proc/{pid}/cgroup")))?
        .lines()
        .find_map(|line| line.strip_prefix("0::").map(str::to_owned))
        .filter(|path| path.contains(&id));
    let Some(cgroup) = of_version_2 else {
        let stats = container_stats(node, &id).await?;
        assert!(stats.cpu.unwrap().psi.is_none() && stats.memory.unwrap().psi.is_none() && stats.io.is_none());
        eprintln!("SKIPPED: the container has no cgroup of version 2 here, and so no pressure");
        return Ok(());
    };
    let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .into_iter()
        .find(|root| Path::new(root).join("cgroup.controllers").exists());
    let directory = Path::new(root.context("no cgroups of version 2")?).join(cgroup.trim_start_matches('/'));
    if stalled(&directory, "cpu.pressure", "some ").is_none() {
        let stats = container_stats(node, &id).await?;
        assert!(
            stats.cpu.unwrap().psi.is_none(),
            "what the kernel does not count is not told"
        );
        eprintln!("SKIPPED: this kernel counts no pressure (psi=1 on its command line, or CONFIG_PSI)");
        return Ok(());
    }
    e2e::eventually("it is held back", || {
        Ok(stalled(&directory, "cpu.pressure", "some ").is_some_and(|total| total > 0))
    })
    .await?;
    let before = ["cpu.pressure", "memory.pressure", "io.pressure"].map(|file| stalled(&directory, file, "some "));
    // What the kernel sums up of its processors may be a little less at the next look.
    const UNEVEN_NS: u64 = 100_000_000;
    let stats = container_stats(node, &id).await?;
    let told = [
        stats.cpu.context("cpu")?.psi,
        stats.memory.context("memory")?.psi,
        stats.io.context("io")?.psi,
    ];
    for ((file, before), told) in ["cpu.pressure", "memory.pressure", "io.pressure"]
        .into_iter()
        .zip(before)
        .zip(told)
    {
        let told = told.with_context(|| format!("{file} is not told"))?;
        let (some, full) = (told.some.context("some")?, told.full.context("full")?);
        let after = stalled(&directory, file, "some ");
        assert!(
            before <= Some(some.total + UNEVEN_NS) && Some(some.total) <= after.map(|after| after + UNEVEN_NS),
            "{file}: {before:?}, then {}, then {after:?}",
            some.total
        );
        assert!(
            full.total <= some.total && (0.0..=100.0).contains(&some.avg10),
            "{file}: {some:?} {full:?}"
        );
    }
    Ok(())
}
