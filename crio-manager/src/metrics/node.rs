//! What is there at the moment of a scrape: asked of the registry, which answers from memory, and of `/proc`.

use super::exposition::Chosen;
use super::{Labels, Seconds};
use crate::drivers::seams::ProcessHandle;
use crate::lifecycle::Lifecycle;
use crate::model::{ContainerState, SandboxState};
use futures::FutureExt;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use std::sync::atomic::AtomicU64;

/// Gauges that are set at each scrape.
#[derive(Debug, Clone, Default)]
pub struct NodeGauges {
    build: Family<Labels<1>, Gauge>,
    pods: Family<Labels<1>, Gauge>,
    containers: Family<Labels<1>, Gauge>,
    monitors: Gauge,
    ready: Family<Labels<1>, Gauge>,
    under_way: Family<Labels<1>, Gauge>,
    oldest: Family<Labels<2>, Seconds>,
    images: Gauge,
    image_bytes: Gauge,
    defunct: Gauge,
    cpu_seconds: Counter<f64, AtomicU64>,
    resident: Gauge,
    virtual_memory: Gauge,
    open_files: Gauge,
    max_files: Gauge,
    threads: Gauge,
}

impl NodeGauges {
    pub(super) fn add_to(&self, chosen: &mut Chosen<'_>) {
        chosen.add("crio_manager_build_info", self.build.clone());
        chosen.add("crio_manager_pods", self.pods.clone());
        chosen.add("crio_manager_containers", self.containers.clone());
        chosen.add("crio_manager_monitors", self.monitors.clone());
        chosen.add("crio_manager_ready", self.ready.clone());
        chosen.add("crio_manager_under_way", self.under_way.clone());
        chosen.add("crio_manager_under_way_oldest_seconds", self.oldest.clone());
        chosen.add("crio_manager_images", self.images.clone());
        chosen.add("crio_manager_image_bytes", self.image_bytes.clone());
        chosen.add("container_runtime_crio_processes_defunct", self.defunct.clone());
        chosen.add("process_cpu_seconds_total", self.cpu_seconds.clone());
        chosen.add("process_resident_memory_bytes", self.resident.clone());
        chosen.add("process_virtual_memory_bytes", self.virtual_memory.clone());
        chosen.add("process_open_fds", self.open_files.clone());
        chosen.add("process_max_fds", self.max_files.clone());
        chosen.add("process_threads", self.threads.clone());
    }

    /// Sets all of them.
    pub(super) fn look(&self, lifecycle: &Lifecycle) {
        self.build
            .get_or_create(&[("version", env!("CARGO_PKG_VERSION"))])
            .set(1);
        self.look_at_objects(lifecycle);
        self.look_at_verbs(lifecycle);
        let health = lifecycle.health();
        for (condition, holds) in [("runtime", health.runtime_ready()), ("network", health.network_ready)] {
            self.ready
                .get_or_create(&[("condition", condition)])
                .set(holds.is_ok().into());
        }
        let image = &lifecycle.drivers().image;
        self.images.set(count(image.list().map_or(0, |images| images.len())));
        self.image_bytes
            .set(image.usage().used_bytes.try_into().unwrap_or(i64::MAX));
        self.defunct.set(count(defunct()));
        self.look_at_ourselves();
    }

    fn look_at_objects(&self, lifecycle: &Lifecycle) {
        let (pods, containers) = lifecycle.registry().snapshot();
        let ready = pods.iter().filter(|pod| pod.state() == SandboxState::Ready).count();
        self.pods.get_or_create(&[("state", "ready")]).set(count(ready));
        self.pods
            .get_or_create(&[("state", "not_ready")])
            .set(count(pods.len() - ready));
        let (mut created, mut running, mut exited, mut monitors) = (0, 0, 0, 0);
        for container in containers {
            match container.state() {
                ContainerState::Created { .. } | ContainerState::Checkpointed => created += 1,
                ContainerState::Running { .. } => running += 1,
                ContainerState::Exited { .. } => {
                    exited += 1;
                    continue;
                }
            }
            let monitor = container.held().monitor;
            monitors += i64::from(monitor.as_deref().is_some_and(lives));
        }
        for (state, number) in [("created", created), ("running", running), ("exited", exited)] {
            self.containers.get_or_create(&[("state", state)]).set(number);
        }
        self.monitors.set(monitors);
    }

    fn look_at_verbs(&self, lifecycle: &Lifecycle) {
        self.under_way.clear();
        self.oldest.clear();
        // The oldest first.
        for verb in lifecycle.under_way() {
            let number = self.under_way.get_or_create_owned(&[("verb", verb.what)]);
            if number.inc() == 0 {
                let labels = [("verb", verb.what), ("step", verb.step)];
                self.oldest.get_or_create(&labels).set(verb.since.as_secs_f64());
            }
        }
    }

    fn look_at_ourselves(&self) {
        let Some(own) = Own::read() else { return };
        self.cpu_seconds
            .inc_by((own.cpu_seconds - self.cpu_seconds.get()).max(0.0));
        self.resident.set(own.resident_bytes);
        self.virtual_memory.set(own.virtual_bytes);
        self.threads.set(own.threads);
        // One of them is the directory that is being read.
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1));
        self.open_files.set(count(open));
        let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        let limit = limit.map_or(0, |(soft, _)| soft);
        self.max_files.set(limit.try_into().unwrap_or(i64::MAX));
    }
}

fn count(number: usize) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// Whether nobody has heard of its end yet.
fn lives(process: &dyn ProcessHandle) -> bool {
    process.ended().now_or_never().is_none()
}

/// Zombies.
fn defunct() -> usize {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return 0;
    };
    let stats = processes.flatten().filter_map(|process| {
        let is_process = process.file_name().as_encoded_bytes().first()?.is_ascii_digit();
        is_process.then(|| std::fs::read(process.path().join("stat")).ok())?
    });
    stats.filter(|stat| fields(stat).next() == Some("Z")).count()
}

/// The fields of a `stat` file after the name, which may itself hold blanks and parentheses.
fn fields(stat: &[u8]) -> impl Iterator<Item = &str> {
    let after_name = stat.rsplitn(2, |byte| *byte == b')').next().unwrap_or_default();
    std::str::from_utf8(after_name)
        .unwrap_or_default()
        .split_ascii_whitespace()
}

/// This process.
struct Own {
    cpu_seconds: f64,
    threads: i64,
    virtual_bytes: i64,
    resident_bytes: i64,
}

impl Own {
    /// Source: proc_pid_stat(5).
    fn read() -> Option<Self> {
        let stat = std::fs::read("/proc/self/stat").ok()?;
        let fields: Vec<&str> = fields(&stat).collect();
        // The first is field 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
        let ticks = f64::from(u32::try_from(field(14)? + field(15)?).unwrap_or(u32::MAX));
        let per_second = f64::from(u32::try_from(rustix::param::clock_ticks_per_second()).ok()?);
        let page = i64::try_from(rustix::param::page_size()).ok()?;
        Some(Self {
            cpu_seconds: ticks / per_second,
            threads: field(20)?,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)?.saturating_mul(page),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zombie_is_seen_until_it_is_reaped_whatever_its_name() {
        assert_eq!(fields(b"1 (a) Z 2) S 0 7").collect::<Vec<_>>(), ["S", "0", "7"]);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let zombie = || {
            let stat = std::fs::read(format!("/proc/{}/stat", child.id())).unwrap();
            fields(&stat).next() == Some("Z")
        };
        let began = std::time::Instant::now();
        while !zombie() {
            assert!(began.elapsed() < std::time::Duration::from_secs(60), "it ends");
            std::thread::yield_now();
        }
        assert!(defunct() >= 1);
        child.wait().unwrap();
    }

    #[test]
    fn this_process_has_memory_threads_and_files() {
        let node = NodeGauges::default();
        node.look_at_ourselves();
        assert!(node.resident.get() > 1 << 20 && node.virtual_memory.get() > node.resident.get());
        assert!(node.threads.get() >= 1 && node.open_files.get() >= 3);
        assert!(node.max_files.get() >= node.open_files.get());
    }
}
