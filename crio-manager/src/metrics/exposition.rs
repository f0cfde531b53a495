//! All metrics as text, in Prometheus' format 0.0.4.

use super::names::{Kind, NAMED, Named};
use super::node::NodeGauges;
use super::{Counts, Invocations};
use crate::drivers::cgroup::systemd::Calls;
use crate::drivers::image::Transfers;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::tally::Tally;
use prometheus_client::encoding::prometheus_text;
use prometheus_client::registry::{Metric, Registry};
use std::sync::{Mutex, PoisonError};

/// What is scraped.
pub struct Exposition {
    lifecycle: Lifecycle,
    registry: Registry,
    /// Names; of what has no value yet the text has none.
    #[cfg(test)]
    served: Vec<&'static str>,
    node: NodeGauges,
    /// One look at a time: gauges are of one moment.
    looking: Mutex<()>,
}

impl Exposition {
    /// Of this node, those metrics whose collectors are named.
    pub fn new(lifecycle: Lifecycle, counts: &Counts, transfers: &Transfers, collectors: &[&str]) -> Self {
        let mut chosen = Chosen {
            registry: Registry::default(),
            collectors,
            served: Vec::new(),
        };
        let node = NodeGauges::default();
        chosen.add_counts(counts);
        chosen.add_transfers(transfers);
        chosen.add_tally(lifecycle.tally());
        node.add_to(&mut chosen);
        tracing::debug!(served = ?chosen.served, "metrics");
        Self {
            lifecycle,
            registry: chosen.registry,
            #[cfg(test)]
            served: chosen.served,
            node,
            looking: Mutex::default(),
        }
    }

    /// Looks at the node, and writes everything down. Reads `/proc`: not for a thread that others wait for.
    pub fn text(&self) -> String {
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        self.node.look(&self.lifecycle);
        let mut text = String::new();
        // Writing into a string fails for no other reason than a metric that refuses; what was written so far stands.
        if let Err(error) = prometheus_text::encode(&mut text, &self.registry) {
            tracing::warn!(%error, "metrics cannot be written down whole");
        }
        text
    }
}

/// A registry of what was chosen.
pub(super) struct Chosen<'a> {
    registry: Registry,
    collectors: &'a [&'a str],
    served: Vec<&'static str>,
}

impl Chosen<'_> {
    /// Adds a metric that is in the table of names, if it is wanted.
    pub(super) fn add(&mut self, name: &'static str, metric: impl Metric) {
        let Some(named) = NAMED.iter().find(|named| named.name == name) else {
            debug_assert!(false, "{name} is not in the table");
            return;
        };
        if self.collectors.contains(&named.collector()) {
            self.registry.register(registered(named), named.help, metric);
            self.served.push(named.name);
        }
    }

    fn add_counts(&mut self, counts: &Counts) {
        self.add("container_runtime_crio_operations_total", counts.calls.clone());
        self.add(
            "container_runtime_crio_operations_errors_total",
            counts.call_errors.clone(),
        );
        self.add(
            "container_runtime_crio_operations_latency_seconds_total",
            counts.call_latencies.clone(),
        );
        self.add(
            "container_runtime_crio_operations_latency_seconds",
            counts.last_latency.clone(),
        );
        let Invocations { results, latencies } = counts.runtime.clone();
        self.add("crio_manager_runtime_invocations_total", results);
        self.add("crio_manager_runtime_invocation_seconds", latencies);
        let Invocations { results, latencies } = counts.cni.clone();
        self.add("crio_manager_cni_invocations_total", results);
        self.add("crio_manager_cni_invocation_seconds", latencies);
        let Calls { results, latencies } = counts.systemd.clone();
        self.add("crio_manager_systemd_calls_total", results);
        self.add("crio_manager_systemd_call_seconds", latencies);
    }

    fn add_transfers(&mut self, transfers: &Transfers) {
        let Transfers {
            succeeded,
            failed,
            fetched_bytes,
            layer_sizes,
            reused_layers,
            reused_bytes,
        } = transfers.clone();
        self.add("container_runtime_crio_image_pulls_success_total", succeeded);
        self.add("container_runtime_crio_image_pulls_failure_total", failed);
        self.add("container_runtime_crio_image_pulls_bytes_total", fetched_bytes);
        self.add("container_runtime_crio_image_pulls_layer_size", layer_sizes);
        self.add("container_runtime_crio_image_layer_reuse_total", reused_layers);
        self.add("container_runtime_crio_image_pulls_skipped_bytes_total", reused_bytes);
    }

    fn add_tally(&mut self, tally: &Tally) {
        let Tally {
            exits,
            out_of_memory,
            half_made,
            reap_retries,
            events_missed,
            stalled,
        } = tally.clone();
        self.add("crio_manager_exits_total", exits);
        self.add("container_runtime_crio_containers_oom_total", out_of_memory);
        self.add("crio_manager_half_made", half_made);
        self.add("crio_manager_reap_retries_total", reap_retries);
        self.add("container_runtime_crio_containers_events_dropped_total", events_missed);
        self.add("container_runtime_crio_resources_stalled_at_stage", stalled);
    }
}

/// The registry adds a counter's ending itself.
fn registered(named: &Named) -> &'static str {
    match named.kind {
        Kind::Counter => named.name.strip_suffix("_total").unwrap_or(named.name),
        Kind::Gauge | Kind::Histogram => named.name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::fake::{Fails, FakeNode};
    use crate::lifecycle::SpecDefaults;
    use std::collections::BTreeMap;

    fn exposition(collectors: &[&str]) -> Exposition {
        let lifecycle = Lifecycle::new(FakeNode::new(Fails::Never).drivers(), SpecDefaults::for_tests());
        let counts = Counts::default();
        counts.calls.get_or_create(&[("operation", "Version")]).inc();
        Exposition::new(lifecycle, &counts, &Transfers::default(), collectors)
    }

    #[tokio::test]
    async fn what_is_served_is_the_table_of_names() {
        let all: Vec<_> = NAMED.iter().map(Named::collector).collect();
        let exposition = exposition(&all);
        let mut served = exposition.served.clone();
        served.sort_unstable();
        let table: BTreeMap<_, _> = NAMED.iter().map(|named| (named.name, named.kind.word())).collect();
        assert_eq!(served, table.keys().copied().collect::<Vec<_>>());
        let text = exposition.text();
        let kinds = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let mut seen = 0;
        for (name, kind) in kinds {
            assert_eq!(table.get(name), Some(&kind), "{name}");
            seen += 1;
        }
        assert!(seen > 20, "{text}");
    }

    #[tokio::test]
    async fn only_what_is_wanted_is_served() {
        let text = exposition(&["operations_total", "crio_manager_images"]).text();
        let names: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next())
            .collect();
        assert_eq!(
            names,
            ["container_runtime_crio_operations_total", "crio_manager_images"]
        );
    }
}
