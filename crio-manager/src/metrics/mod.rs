//! What the daemon counts, for Prometheus: CRI-O's names where it has one, `crio_manager_…` for the rest.
//!
//! - `names`: every metric, its labels and the sentence that explains it
//! - `calls`: CRI calls, counted around the service; `seams`: what drivers are asked for, counted around the seams
//! - `node`: what is there at the moment of a scrape; `exposition`: all of it as text; `server`: over HTTP
//!
//! What only the inside sees is counted there, in plain counters (`lifecycle::tally`, `drivers::image::transfers`). The
//! values of labels are words of this program, as their type has it: nothing that came from outside can become one.

mod calls;
mod exposition;
pub mod names;
mod node;
mod seams;
mod server;

pub use calls::CountedCalls;
pub(crate) use calls::operation;
pub use exposition::Exposition;
pub use seams::counted;
pub use server::Server;

use crate::drivers::cgroup::systemd::Calls;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Names and values of labels.
pub type Labels<const N: usize> = [(&'static str, &'static str); N];

/// A gauge of seconds.
type Seconds = Gauge<f64, AtomicU64>;

/// Upper bounds of latencies, in seconds: from what is answered from memory to the limits of creations.
const LATENCY_BOUNDS: [f64; 13] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0,
];

fn latencies() -> Histogram {
    Histogram::new(LATENCY_BOUNDS)
}

/// A histogram of latencies for each value of a label.
type Latencies = Family<Labels<1>, Histogram, fn() -> Histogram>;

/// What is counted around the service and around the drivers. A clone counts on.
#[derive(Debug, Clone)]
pub struct Counts {
    calls: Family<Labels<1>, Counter>,
    call_errors: Family<Labels<1>, Counter>,
    call_latencies: Latencies,
    last_latency: Family<Labels<1>, Seconds>,
    runtime: Invocations,
    cni: Invocations,
    /// Counted by the driver itself.
    pub(crate) systemd: Calls,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            calls: Family::default(),
            call_errors: Family::default(),
            call_latencies: Latencies::new_with_constructor(latencies),
            last_latency: Family::default(),
            runtime: Invocations::default(),
            cni: Invocations::default(),
            systemd: Calls::default(),
        }
    }
}

impl Counts {
    /// An operation took this long.
    fn took(&self, operation: &'static str, elapsed: Duration) {
        let labels = [("operation", operation)];
        self.call_latencies
            .get_or_create(&labels)
            .observe(elapsed.as_secs_f64());
        self.last_latency.get_or_create(&labels).set(elapsed.as_secs_f64());
    }
}

/// Programs that are run, by what for.
#[derive(Debug, Clone)]
struct Invocations {
    results: Family<Labels<2>, Counter>,
    latencies: Latencies,
}

impl Default for Invocations {
    fn default() -> Self {
        Self {
            results: Family::default(),
            latencies: Latencies::new_with_constructor(latencies),
        }
    }
}
