//! Every metric there is. `docs/metrics.md` has the same table; a test compares the two.

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, and begins anew with the daemon.
    Counter,
    /// A value of the moment.
    Gauge,
    /// `_bucket`, `_sum` and `_count`.
    Histogram,
}

impl Kind {
    /// As the text format has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// As it is scraped.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// What all names of CRI-O's begin with.
const CRIO: &str = "container_runtime_crio_";

impl Named {
    /// Its name in `metrics_collectors`: CRI-O's without what all of them begin with.
    pub fn collector(&self) -> &'static str {
        self.name.strip_prefix(CRIO).unwrap_or(self.name)
    }
}

const fn named(name: &'static str, kind: Kind, labels: &'static [&'static str], help: &'static str) -> Named {
    Named {
        name,
        kind,
        labels,
        help,
    }
}

use Kind::{Counter, Gauge, Histogram};

/// CRI-O's first, then ours, then what every process has.
pub static NAMED: [Named; 38] = [
    named(
        "container_runtime_crio_operations_total",
        Counter,
        &["operation"],
        "CRI calls",
    ),
    named(
        "container_runtime_crio_operations_errors_total",
        Counter,
        &["operation"],
        "CRI calls that were answered with an error",
    ),
    named(
        "container_runtime_crio_operations_latency_seconds_total",
        Histogram,
        &["operation"],
        "Time until a CRI call was answered, and until a pod was connected (network_setup_pod)",
    ),
    named(
        "container_runtime_crio_operations_latency_seconds",
        Gauge,
        &["operation"],
        "Time until the last such call was answered",
    ),
    named(
        "container_runtime_crio_image_pulls_success_total",
        Counter,
        &[],
        "Pulls that ended well",
    ),
    named(
        "container_runtime_crio_image_pulls_failure_total",
        Counter,
        &["error"],
        "Pulls that did not, by the kind of error",
    ),
    named(
        "container_runtime_crio_image_pulls_bytes_total",
        Counter,
        &["mediatype"],
        "Bytes of layers that were fetched from registries",
    ),
    named(
        "container_runtime_crio_image_pulls_skipped_bytes_total",
        Counter,
        &[],
        "Bytes of layers that were here already",
    ),
    named(
        "container_runtime_crio_image_pulls_layer_size",
        Histogram,
        &[],
        "Sizes of the layers that were fetched, in bytes",
    ),
    named(
        "container_runtime_crio_image_layer_reuse_total",
        Counter,
        &[],
        "Layers of pulled images that were here already",
    ),
    named(
        "container_runtime_crio_containers_oom_total",
        Counter,
        &[],
        "Containers of which the kernel killed a process for lack of memory",
    ),
    named(
        "container_runtime_crio_containers_events_dropped_total",
        Counter,
        &[],
        "Events that a watcher has not read in time; it was told so",
    ),
    named(
        "container_runtime_crio_resources_stalled_at_stage",
        Gauge,
        &["stage"],
        "How often the caller of a creation was told that it is still under way, by the step it was at; never falls",
    ),
    named(
        "container_runtime_crio_processes_defunct",
        Gauge,
        &[],
        "Zombies in this PID namespace",
    ),
    named("crio_manager_build_info", Gauge, &["version"], "Always 1"),
    named(
        "crio_manager_pods",
        Gauge,
        &["state"],
        "Pod sandboxes: ready, not_ready",
    ),
    named(
        "crio_manager_containers",
        Gauge,
        &["state"],
        "Containers: created, running, exited",
    ),
    named(
        "crio_manager_monitors",
        Gauge,
        &[],
        "Monitors of what has not ended, as far as they were there when they were last looked for",
    ),
    named(
        "crio_manager_ready",
        Gauge,
        &["condition"],
        "1 if the condition of Status (runtime, network) holds",
    ),
    named(
        "crio_manager_under_way",
        Gauge,
        &["verb"],
        "What is being done at the moment",
    ),
    named(
        "crio_manager_under_way_oldest_seconds",
        Gauge,
        &["verb", "step"],
        "For how long the oldest of them has been under way, and the step it is at",
    ),
    named(
        "crio_manager_half_made",
        Gauge,
        &[],
        "Objects that are being removed in the background because a creation or its undo failed",
    ),
    named(
        "crio_manager_reap_retries_total",
        Counter,
        &[],
        "Times that such an object could not be removed yet",
    ),
    named(
        "crio_manager_exits_total",
        Counter,
        &["status"],
        "Containers that have ended: with a status that is known, or unknown",
    ),
    named("crio_manager_images", Gauge, &[], "Images"),
    named("crio_manager_image_bytes", Gauge, &[], "Bytes of all layers on disk"),
    named(
        "crio_manager_runtime_invocations_total",
        Counter,
        &["verb", "result"],
        "What the OCI runtime was asked for, by itself (start, update, pause, resume, checkpoint, delete) or by a monitor (create, exec, exec_attached); ok or the kind of error",
    ),
    named(
        "crio_manager_runtime_invocation_seconds",
        Histogram,
        &["verb"],
        "How long that took; exec until the command has ended",
    ),
    named(
        "crio_manager_cni_invocations_total",
        Counter,
        &["verb", "result"],
        "Chains of CNI plugins: add, del; ok or the kind of error",
    ),
    named(
        "crio_manager_cni_invocation_seconds",
        Histogram,
        &["verb"],
        "How long that took",
    ),
    named(
        "crio_manager_systemd_calls_total",
        Counter,
        &["verb", "result"],
        "What systemd was asked for over D-Bus: start (a transient scope, until its job has ended), forget (a unit that has ended is stopped), set_properties; done, exists, a job's result or the kind of error",
    ),
    named(
        "crio_manager_systemd_call_seconds",
        Histogram,
        &["verb"],
        "How long that took",
    ),
    named("process_cpu_seconds_total", Counter, &[], "CPU time of the daemon"),
    named("process_resident_memory_bytes", Gauge, &[], "Memory of the daemon"),
    named(
        "process_virtual_memory_bytes",
        Gauge,
        &[],
        "Address space of the daemon",
    ),
    named("process_open_fds", Gauge, &[], "Descriptors of the daemon"),
    named("process_max_fds", Gauge, &[], "How many it may have"),
    named("process_threads", Gauge, &[], "Threads of the daemon"),
];

/// What CRI-O has beside these: with names of containers as labels, or of what this daemon does not do.
pub static NOT_SERVED: [&str; 6] = [
    "containers_oom_count_total",
    "containers_seccomp_notifier_count_total",
    "containers_stopped_monitor_count",
    "default_runtime",
    "image_layer_dedup_duration_seconds",
    "image_layer_dedup_bytes_saved",
];

/// The collector of this name, with or without what CRI-O's names begin with.
pub fn collector(name: &str) -> Option<&'static str> {
    let bare = name.strip_prefix("container_runtime_").unwrap_or(name);
    let bare = bare
        .strip_prefix("crio_")
        .filter(|_| !bare.starts_with("crio_manager_"))
        .unwrap_or(bare);
    let served = NAMED.iter().map(Named::collector);
    served.chain(NOT_SERVED).find(|known| *known == bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collectors_are_known_by_all_their_names() {
        for name in [
            "operations_total",
            "crio_operations_total",
            "container_runtime_crio_operations_total",
        ] {
            assert_eq!(collector(name), Some("operations_total"), "{name}");
        }
        assert_eq!(collector("crio_manager_pods"), Some("crio_manager_pods"));
        assert_eq!(collector("default_runtime"), Some("default_runtime"));
        for unknown in ["", "crio_", "pods", "operations"] {
            assert_eq!(collector(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn the_documentation_has_the_same_table() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        let text = std::fs::read_to_string(path).unwrap();
        let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| `")).collect();
        let expected: Vec<_> = NAMED
            .iter()
            .map(|metric| {
                let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
                let labels = labels.join(", ");
                format!(
                    "| `{}` | {} | {labels} | {} |",
                    metric.name,
                    metric.kind.word(),
                    metric.help
                )
            })
            .collect();
        assert_eq!(rows, expected);
    }
}
