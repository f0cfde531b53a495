//! The daemon about itself: version, conditions, metrics.

use anyhow::{Context as _, ensure};
use cri::v1::*;

use crate::case::{Case, lacks};

crate::specs!(info_01, info_02, metrics_01, metrics_02);

/// Version answers whatever the client calls its own, with every field.
async fn info_01(case: &Case<'_>) -> anyhow::Result<()> {
    let request = VersionRequest {
        version: "0.1.0".to_owned(),
    };
    let answer = case.client.runtime.clone().version(request).await?.into_inner();
    for field in [
        answer.version,
        answer.runtime_name,
        answer.runtime_version,
        answer.runtime_api_version,
    ] {
        ensure!(!field.is_empty(), "a field of the version is empty");
    }
    Ok(())
}

/// Both conditions are there and hold.
async fn info_02(case: &Case<'_>) -> anyhow::Result<()> {
    let status = case
        .client
        .runtime
        .clone()
        .status(StatusRequest { verbose: false })
        .await?
        .into_inner();
    let conditions = status.status.context("a status without a status")?.conditions;
    for wanted in ["RuntimeReady", "NetworkReady"] {
        let holds = conditions
            .iter()
            .any(|condition| condition.r#type == wanted && condition.status);
        ensure!(holds, "{wanted} does not hold: {conditions:?}");
    }
    Ok(())
}

/// Each name without its `container_`.
const METRICS: &[&str] = &[
    "blkio_device_usage_total",
    "cpu_cfs_periods_total",
    "cpu_cfs_throttled_periods_total",
    "cpu_cfs_throttled_seconds_total",
    "cpu_system_seconds_total",
    "cpu_usage_seconds_total",
    "cpu_user_seconds_total",
    "file_descriptors",
    "fs_inodes_free",
    "fs_inodes_total",
    "fs_limit_bytes",
    "fs_reads_bytes_total",
    "fs_reads_total",
    "fs_usage_bytes",
    "fs_writes_bytes_total",
    "fs_writes_total",
    "last_seen",
    "memory_cache",
    "memory_failcnt",
    "memory_failures_total",
    "memory_kernel_usage",
    "memory_mapped_file",
    "memory_max_usage_bytes",
    "memory_rss",
    "memory_swap",
    "memory_usage_bytes",
    "memory_working_set_bytes",
    "network_receive_bytes_total",
    "network_receive_errors_total",
    "network_receive_packets_dropped_total",
    "network_receive_packets_total",
    "network_transmit_bytes_total",
    "network_transmit_errors_total",
    "network_transmit_packets_dropped_total",
    "network_transmit_packets_total",
    "oom_events_total",
    "processes",
    "sockets",
    "spec_cpu_period",
    "spec_cpu_shares",
    "spec_memory_limit_bytes",
    "spec_memory_swap_limit_bytes",
    "start_time_seconds",
    "threads",
    "threads_max",
];
/// Announced where the host has them.
const UNCERTAIN: &[&str] = &[
    "hugetlb_max_usage_bytes",
    "hugetlb_usage_bytes",
    "pressure_cpu_stalled_seconds_total",
    "pressure_cpu_waiting_seconds_total",
    "pressure_io_stalled_seconds_total",
    "pressure_io_waiting_seconds_total",
    "pressure_memory_stalled_seconds_total",
    "pressure_memory_waiting_seconds_total",
    "spec_cpu_quota",
    "spec_memory_reservation_limit_bytes",
    "ulimits_soft",
];
/// Announced everywhere, and without a value where nothing was read or written.
const MAY_LACK_VALUES: &[&str] = &[
    "blkio_device_usage_total",
    "fs_reads_bytes_total",
    "fs_reads_total",
    "fs_writes_bytes_total",
    "fs_writes_total",
];

async fn descriptors(case: &Case<'_>) -> anyhow::Result<Vec<MetricDescriptor>> {
    let asked = case
        .client
        .runtime
        .clone()
        .list_metric_descriptors(ListMetricDescriptorsRequest {})
        .await;
    match asked {
        Err(status) if status.code() == tonic::Code::Unimplemented => lacks("pod metrics in the product"),
        asked => Ok(asked?.into_inner().descriptors),
    }
}

fn is_one_of(name: &str, list: &[&str]) -> bool {
    name.strip_prefix("container_").is_some_and(|rest| list.contains(&rest))
}

/// Every metric of the field is described.
async fn metrics_01(case: &Case<'_>) -> anyhow::Result<()> {
    let descriptors = descriptors(case).await?;
    for descriptor in &descriptors {
        ensure!(
            !descriptor.help.is_empty() && !descriptor.label_keys.is_empty(),
            "{descriptor:?}"
        );
    }
    for wanted in METRICS {
        let full = format!("container_{wanted}");
        ensure!(
            descriptors.iter().any(|descriptor| descriptor.name == full),
            "{full} is not described"
        );
    }
    Ok(())
}

/// Every metric that is described is there at once, with as many values as keys.
async fn metrics_02(case: &Case<'_>) -> anyhow::Result<()> {
    descriptors(case).await?;
    let pod = case.default_pod().await?;
    let mut config = case.top();
    config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 20_000,
        cpu_shares: 1024,
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 64 << 20,
        ..Default::default()
    });
    let id = case.started(&pod, &config).await?;
    let script =
        "mkdir -p /var/lib/mydisktest && for i in 0 1 2 3 4 5 6 7 8 9; do echo $i >/var/lib/mydisktest/$i; done; sync";
    case.output(&id, &["/bin/sh", "-c", script]).await?;
    let described = descriptors(case).await?;
    let request = ListPodSandboxMetricsRequest {};
    let answer = case
        .client
        .runtime
        .clone()
        .list_pod_sandbox_metrics(request)
        .await?
        .into_inner();
    let of_pod = answer
        .pod_metrics
        .into_iter()
        .find(|metrics| metrics.pod_sandbox_id == pod.id);
    let of_pod = of_pod.context("no metrics of the pod")?;
    let of_containers = of_pod
        .container_metrics
        .into_iter()
        .flat_map(|container| container.metrics);
    let metrics: Vec<Metric> = of_pod.metrics.into_iter().chain(of_containers).collect();
    let values = |name: &str| {
        let found = metrics.iter().filter(|metric| metric.name == name);
        found.map(|metric| metric.label_values.len()).find(|count| *count > 0)
    };
    for wanted in METRICS.iter().filter(|name| !MAY_LACK_VALUES.contains(name)) {
        let full = format!("container_{wanted}");
        ensure!(values(&full).is_some(), "{full} has no values");
    }
    for descriptor in described {
        match values(&descriptor.name) {
            Some(count) => ensure!(
                count == descriptor.label_keys.len(),
                "{count} values for {descriptor:?}"
            ),
            None => ensure!(
                is_one_of(&descriptor.name, UNCERTAIN) || is_one_of(&descriptor.name, MAY_LACK_VALUES),
                "{} is described and not there",
                descriptor.name
            ),
        }
    }
    Ok(())
}
