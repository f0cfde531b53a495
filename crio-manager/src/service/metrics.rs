//! The kubelet's pod metrics, by the names cadvisor gave them. One table says which there are, and what their values are.

use crate::drivers::cgroup::{BlockIo, Stalls};
use crate::drivers::seams::InterfaceTraffic;
use crate::lifecycle::metrics::{ContainerMetrics, SandboxMetrics};
use cri::v1;
use cri::v1::MetricType::{Counter, Gauge};

/// Who a metric is of: the first labels of each.
const WHO: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// A nanosecond's part of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// A value, and the labels that tell it from others of the same metric.
type Value = (Vec<String>, u64);

/// Metrics of containers.
struct OfContainer {
    name: &'static str,
    help: &'static str,
    kind: v1::MetricType,
    /// Labels after those of `WHO`.
    labels: &'static [&'static str],
    values: fn(&ContainerMetrics) -> Vec<Value>,
}

/// Metrics of a pod's interfaces.
struct OfInterface {
    name: &'static str,
    help: &'static str,
    value: fn(&InterfaceTraffic) -> u64,
}

const fn of_container(
    kind: v1::MetricType,
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    values: fn(&ContainerMetrics) -> Vec<Value>,
) -> OfContainer {
    OfContainer {
        name,
        help,
        kind,
        labels,
        values,
    }
}

fn one(value: u64) -> Vec<Value> {
    vec![(Vec::new(), value)]
}

fn unsigned(value: Option<i64>) -> u64 {
    value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0)
}

fn by_device(of: &ContainerMetrics, value: fn(&BlockIo) -> u64) -> Vec<Value> {
    let devices = of.counters.block_io.iter();
    devices
        .map(|device| (vec![device.device.clone()], value(device)))
        .collect()
}

/// Where the kernel tells.
fn stalled(stalls: &Option<Stalls>, ns: fn(&Stalls) -> u64) -> Vec<Value> {
    stalls.iter().flat_map(|stalls| one(ns(stalls) / SECOND_NS)).collect()
}

static OF_CONTAINERS: [OfContainer; 46] = [
    of_container(
        Counter,
        "container_blkio_device_usage_total",
        "Bytes read from and written to a block device.",
        &["device", "operation"],
        |of| {
            let both = |io: &BlockIo| {
                [("Read", io.read_bytes), ("Write", io.written_bytes)]
                    .map(|(way, bytes)| (vec![io.device.clone(), way.to_owned()], bytes))
            };
            of.counters.block_io.iter().flat_map(both).collect()
        },
    ),
    of_container(
        Counter,
        "container_cpu_cfs_periods_total",
        "Periods of the CPU quota that have passed.",
        &[],
        |of| one(of.counters.cfs_periods),
    ),
    of_container(
        Counter,
        "container_cpu_cfs_throttled_periods_total",
        "Periods in which the CPU quota was used up.",
        &[],
        |of| one(of.counters.cfs_throttled_periods),
    ),
    of_container(
        Counter,
        "container_cpu_cfs_throttled_seconds_total",
        "Seconds for which the CPU quota was used up.",
        &[],
        |of| one(of.counters.cfs_throttled_ns / SECOND_NS),
    ),
    of_container(
        Counter,
        "container_cpu_system_seconds_total",
        "Seconds of CPU time in the kernel.",
        &[],
        |of| one(of.counters.cpu_system_ns / SECOND_NS),
    ),
    of_container(
        Counter,
        "container_cpu_usage_seconds_total",
        "Seconds of CPU time.",
        &[],
        |of| one(of.usage.usage.cpu_usage_ns.unwrap_or(0) / SECOND_NS),
    ),
    of_container(
        Counter,
        "container_cpu_user_seconds_total",
        "Seconds of CPU time in programs.",
        &[],
        |of| one(of.counters.cpu_user_ns / SECOND_NS),
    ),
    of_container(
        Gauge,
        "container_file_descriptors",
        "Descriptors that its processes have open.",
        &[],
        |of| one(of.counters.file_descriptors),
    ),
    of_container(
        Gauge,
        "container_fs_inodes_free",
        "Inodes that are free where its writable layer is.",
        &[],
        |of| one(of.space.free_inodes),
    ),
    of_container(
        Gauge,
        "container_fs_inodes_total",
        "Inodes that there are where its writable layer is.",
        &[],
        |of| one(of.space.total_inodes),
    ),
    of_container(
        Gauge,
        "container_fs_limit_bytes",
        "Size of the file system of its writable layer, in bytes.",
        &[],
        |of| one(of.space.total_bytes),
    ),
    of_container(
        Counter,
        "container_fs_reads_bytes_total",
        "Bytes read from a block device.",
        &["device"],
        |of| by_device(of, |io| io.read_bytes),
    ),
    of_container(
        Counter,
        "container_fs_reads_total",
        "Reads from a block device.",
        &["device"],
        |of| by_device(of, |io| io.reads),
    ),
    of_container(
        Gauge,
        "container_fs_usage_bytes",
        "Bytes of its writable layer when it was measured last; 0 before.",
        &[],
        |of| one(of.usage.layer.map_or(0, |layer| layer.usage.used_bytes)),
    ),
    of_container(
        Counter,
        "container_fs_writes_bytes_total",
        "Bytes written to a block device.",
        &["device"],
        |of| by_device(of, |io| io.written_bytes),
    ),
    of_container(
        Counter,
        "container_fs_writes_total",
        "Writes to a block device.",
        &["device"],
        |of| by_device(of, |io| io.writes),
    ),
    of_container(
        Gauge,
        "container_hugetlb_max_usage_bytes",
        "Most bytes in huge pages that it has used.",
        &["pagesize"],
        |of| {
            let pages = of.counters.hugepages.iter();
            pages
                .filter_map(|pages| Some((vec![pages.size.clone()], pages.max_usage_bytes?)))
                .collect()
        },
    ),
    of_container(
        Gauge,
        "container_hugetlb_usage_bytes",
        "Bytes in huge pages.",
        &["pagesize"],
        |of| {
            of.counters
                .hugepages
                .iter()
                .map(|pages| (vec![pages.size.clone()], pages.usage_bytes))
                .collect()
        },
    ),
    of_container(
        Gauge,
        "container_last_seen",
        "When this was read, in seconds since 1970.",
        &[],
        |of| one(unsigned(Some(of.usage.at.nanos())) / SECOND_NS),
    ),
    of_container(
        Gauge,
        "container_memory_cache",
        "Bytes of files in memory.",
        &[],
        |of| one(of.counters.memory_cache_bytes),
    ),
    of_container(
        Counter,
        "container_memory_failcnt",
        "How often the memory limit was in the way.",
        &[],
        |of| one(of.counters.memory_failures),
    ),
    of_container(
        Counter,
        "container_memory_failures_total",
        "Page faults.",
        &["failure_type", "scope"],
        |of| {
            let all = of.usage.usage.memory.unwrap_or_default();
            let counts = [
                ("pgfault", "container", of.counters.own_page_faults),
                ("pgmajfault", "container", of.counters.own_major_page_faults),
                ("pgfault", "hierarchy", all.page_faults),
                ("pgmajfault", "hierarchy", all.major_page_faults),
            ];
            counts
                .map(|(kind, scope, count)| (vec![kind.to_owned(), scope.to_owned()], count))
                .into()
        },
    ),
    of_container(
        Gauge,
        "container_memory_kernel_usage",
        "Bytes of memory that the kernel has for it.",
        &[],
        |of| one(of.counters.memory_kernel_bytes),
    ),
    of_container(
        Gauge,
        "container_memory_mapped_file",
        "Bytes of files mapped into memory.",
        &[],
        |of| one(of.counters.memory_mapped_file_bytes),
    ),
    of_container(
        Gauge,
        "container_memory_max_usage_bytes",
        "Most bytes of memory that it has used.",
        &[],
        |of| one(of.counters.memory_max_bytes),
    ),
    of_container(
        Gauge,
        "container_memory_rss",
        "Bytes of memory that belong to no file.",
        &[],
        |of| one(of.usage.usage.memory.map_or(0, |memory| memory.rss_bytes)),
    ),
    of_container(Gauge, "container_memory_swap", "Bytes in swap.", &[], |of| {
        one(of.counters.memory_swap_bytes)
    }),
    of_container(
        Gauge,
        "container_memory_usage_bytes",
        "Bytes of memory, files in memory included.",
        &[],
        |of| one(of.usage.usage.memory.map_or(0, |memory| memory.usage_bytes)),
    ),
    of_container(
        Gauge,
        "container_memory_working_set_bytes",
        "Bytes of memory without files that the kernel can drop at once.",
        &[],
        |of| one(of.usage.usage.memory.map_or(0, |memory| memory.working_set_bytes)),
    ),
    of_container(
        Counter,
        "container_oom_events_total",
        "How often the kernel killed in it for want of memory.",
        &[],
        |of| one(of.counters.oom_kills),
    ),
    of_container(
        Counter,
        "container_pressure_cpu_stalled_seconds_total",
        "Seconds in which all tasks waited for a CPU.",
        &[],
        |of| stalled(&of.usage.usage.pressure.cpu, |stalls| stalls.full.total_ns),
    ),
    of_container(
        Counter,
        "container_pressure_cpu_waiting_seconds_total",
        "Seconds in which a task waited for a CPU.",
        &[],
        |of| stalled(&of.usage.usage.pressure.cpu, |stalls| stalls.some.total_ns),
    ),
    of_container(
        Counter,
        "container_pressure_io_stalled_seconds_total",
        "Seconds in which all tasks waited for a disk.",
        &[],
        |of| stalled(&of.usage.usage.pressure.io, |stalls| stalls.full.total_ns),
    ),
    of_container(
        Counter,
        "container_pressure_io_waiting_seconds_total",
        "Seconds in which a task waited for a disk.",
        &[],
        |of| stalled(&of.usage.usage.pressure.io, |stalls| stalls.some.total_ns),
    ),
    of_container(
        Counter,
        "container_pressure_memory_stalled_seconds_total",
        "Seconds in which all tasks waited for memory.",
        &[],
        |of| stalled(&of.usage.usage.pressure.memory, |stalls| stalls.full.total_ns),
    ),
    of_container(
        Counter,
        "container_pressure_memory_waiting_seconds_total",
        "Seconds in which a task waited for memory.",
        &[],
        |of| stalled(&of.usage.usage.pressure.memory, |stalls| stalls.some.total_ns),
    ),
    of_container(Gauge, "container_processes", "Processes in it.", &[], |of| {
        one(of.counters.processes)
    }),
    of_container(
        Gauge,
        "container_sockets",
        "Sockets that its processes have open.",
        &[],
        |of| one(of.counters.sockets),
    ),
    of_container(
        Gauge,
        "container_spec_cpu_period",
        "Period of its CPU quota, in microseconds; 0: the kernel's.",
        &[],
        |of| one(of.limits.cpu_period_us.unwrap_or(0)),
    ),
    of_container(
        Gauge,
        "container_spec_cpu_quota",
        "Its CPU quota, in microseconds a period.",
        &[],
        |of| {
            of.limits
                .cpu_quota_us
                .and_then(|quota| u64::try_from(quota).ok())
                .map(one)
                .unwrap_or_default()
        },
    ),
    of_container(
        Gauge,
        "container_spec_cpu_shares",
        "Its share of CPU time, 1024 being a CPU's; 0: the kernel's.",
        &[],
        |of| one(of.limits.cpu_shares.unwrap_or(0)),
    ),
    of_container(
        Gauge,
        "container_spec_memory_limit_bytes",
        "Its memory limit in bytes; 0: none.",
        &[],
        |of| one(unsigned(of.limits.memory_limit_bytes)),
    ),
    of_container(
        Gauge,
        "container_spec_memory_swap_limit_bytes",
        "Its limit of memory and swap in bytes; 0: none.",
        &[],
        |of| one(unsigned(of.limits.memory_swap_limit_bytes)),
    ),
    of_container(
        Gauge,
        "container_start_time_seconds",
        "When it was started, in seconds since 1970; 0 before.",
        &[],
        |of| one(unsigned(of.started_at.map(|at| at.nanos())) / SECOND_NS),
    ),
    of_container(Gauge, "container_threads", "Threads in it.", &[], |of| {
        one(of.counters.threads)
    }),
    of_container(
        Gauge,
        "container_threads_max",
        "Threads that it may have; 0: no limit.",
        &[],
        |of| one(of.counters.threads_max),
    ),
];

static OF_INTERFACES: [OfInterface; 8] = [
    OfInterface {
        name: "container_network_receive_bytes_total",
        help: "Bytes received.",
        value: |of| of.received_bytes,
    },
    OfInterface {
        name: "container_network_receive_errors_total",
        help: "Errors in receiving.",
        value: |of| of.receive_errors,
    },
    OfInterface {
        name: "container_network_receive_packets_dropped_total",
        help: "Packets received and dropped.",
        value: |of| of.receive_dropped,
    },
    OfInterface {
        name: "container_network_receive_packets_total",
        help: "Packets received.",
        value: |of| of.received_packets,
    },
    OfInterface {
        name: "container_network_transmit_bytes_total",
        help: "Bytes sent.",
        value: |of| of.sent_bytes,
    },
    OfInterface {
        name: "container_network_transmit_errors_total",
        help: "Errors in sending.",
        value: |of| of.send_errors,
    },
    OfInterface {
        name: "container_network_transmit_packets_dropped_total",
        help: "Packets dropped instead of sent.",
        value: |of| of.send_dropped,
    },
    OfInterface {
        name: "container_network_transmit_packets_total",
        help: "Packets sent.",
        value: |of| of.sent_packets,
    },
];

/// Every metric there is.
pub fn descriptors() -> Vec<v1::MetricDescriptor> {
    let descriptor = |name: &str, help: &str, labels: &[&str]| v1::MetricDescriptor {
        name: name.to_owned(),
        help: help.to_owned(),
        label_keys: WHO.iter().chain(labels).map(|&key| key.to_owned()).collect(),
    };
    let of_containers = OF_CONTAINERS.iter().map(|of| descriptor(of.name, of.help, of.labels));
    let of_interfaces = OF_INTERFACES
        .iter()
        .map(|of| descriptor(of.name, of.help, &["interface"]));
    of_containers.chain(of_interfaces).collect()
}

/// A pod's metrics and its containers'.
pub fn sandbox(of: &SandboxMetrics) -> v1::PodSandboxMetrics {
    let (plan, at) = (&of.cell.plan, of.at.nanos());
    let who = [
        "",
        of.cell.cgroup_parent.as_str(),
        "",
        plan.id.as_str(),
        &plan.metadata.namespace,
        &plan.metadata.name,
    ];
    let interfaces = of.network.iter().flat_map(|interface| {
        let labels = labels(&who, std::slice::from_ref(&interface.name));
        OF_INTERFACES.iter().map(move |metric| v1::Metric {
            name: metric.name.to_owned(),
            timestamp: at,
            metric_type: Counter.into(),
            label_values: labels.clone(),
            value: Some(v1::UInt64Value {
                value: (metric.value)(interface),
            }),
        })
    });
    v1::PodSandboxMetrics {
        pod_sandbox_id: plan.id.to_string(),
        metrics: interfaces.collect(),
        container_metrics: of.containers.iter().map(container).collect(),
    }
}

fn container(of: &ContainerMetrics) -> v1::ContainerMetrics {
    let cell = &of.usage.cell;
    let plan = &cell.plan;
    let cgroup = cell.cgroup_parent.container(&plan.id);
    let who = [
        plan.metadata.name.as_str(),
        cgroup.as_str(),
        &plan.image,
        plan.id.as_str(),
        &plan.pod.namespace,
        &plan.pod.name,
    ];
    let metrics = OF_CONTAINERS.iter().flat_map(|metric| {
        let values = (metric.values)(of).into_iter();
        values.map(|(more, value)| v1::Metric {
            name: metric.name.to_owned(),
            timestamp: of.usage.at.nanos(),
            metric_type: metric.kind.into(),
            label_values: labels(&who, &more),
            value: Some(v1::UInt64Value { value }),
        })
    });
    v1::ContainerMetrics {
        container_id: plan.id.to_string(),
        metrics: metrics.collect(),
    }
}

fn labels(who: &[&str; WHO.len()], more: &[String]) -> Vec<String> {
    who.iter()
        .map(|&label| label.to_owned())
        .chain(more.iter().cloned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_metric_has_a_name_of_its_own_a_help_and_labels() {
        let all = descriptors();
        let names: BTreeSet<_> = all.iter().map(|of| &of.name).collect();
        assert_eq!(names.len(), all.len());
        for of in &all {
            assert!(of.name.starts_with("container_") && !of.help.is_empty() && of.label_keys.len() >= WHO.len());
        }
    }
}
