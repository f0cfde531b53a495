//! The node beside Debian's containerd: the same CRI calls on the same image, by turns.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use cri::v1::security_profile::ProfileType;
use cri::v1::{ContainerConfig, ListContainerStatsRequest, NamespaceMode, PodSandboxConfig};
use e2e::{TestImage, container, sh};
use futures::future::try_join_all;

use crate::Effort;
use crate::floor;
use crate::host::{Host, filter};
use crate::memory::weigh;
use crate::table::{Samples, Table};

/// Samples by what was measured.
type Figures = BTreeMap<&'static str, Samples>;

const AT_ONCE: usize = 8;
const CONTAINERS_A_POD: usize = 2;
const LAYERS: usize = 10;
const LAYER_BYTES: usize = 2_000_000;

const CREATE_AND_START: &str = "Create + Start";
const STOP_AND_REMOVE: &str = "Stop + Remove";
const RESTART: &str = "restart of the daemon, 100 containers running";

/// Answers its stop signal at once.
const OBEDIENT: &str = "trap 'exit 0' TERM; echo ready; sleep 1000 & wait";

pub fn compare(effort: Effort) -> anyhow::Result<()> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio.block_on(run(effort))
}

async fn run(effort: Effort) -> anyhow::Result<()> {
    let mut hosts = [Host::ours().await?, Host::theirs().await?];
    let mut figures = [Figures::new(), Figures::new()];
    for (host, figures) in hosts.iter().zip(&mut figures) {
        note_memory(host, figures, "daemon, idle: RSS", "daemon, idle: PSS", None)?;
    }
    for (host, figures) in hosts.iter_mut().zip(&mut figures) {
        pulls(host, figures, effort).await?;
    }
    let busybox = TestImage::busybox()?;
    let mut image = String::new();
    for host in &mut hosts {
        image = host.push("bench/busybox:1", &busybox)?;
        host.client().pull(&image).await?;
        // The first of everything is not measured.
        life(host, &image, &mut Figures::new(), 1).await?;
    }
    for _ in 0..effort.or(3, 20) {
        for (host, figures) in hosts.iter().zip(&mut figures) {
            life(host, &image, figures, 3).await?;
        }
    }
    for _ in 0..effort.or(1, 3) {
        for (host, figures) in hosts.iter().zip(&mut figures) {
            lives_at_once(host, &image, figures, effort.or(1, 4)).await?;
            execs_at_once(host, &image, figures, effort.or(3, 20)).await?;
        }
    }
    for (host, figures) in hosts.iter_mut().zip(&mut figures) {
        many(host, &image, figures, effort).await?;
    }
    let [ours, theirs] = hosts;
    theirs.stop().await?;
    let floor = bare_programs(&ours, &image, effort).await?;
    ours.stop().await?;
    print(&figures, &floor, effort);
    Ok(())
}

/// One pod from its start to its end, each call on its own.
async fn life(host: &Host, image: &str, figures: &mut Figures, execs: usize) -> anyhow::Result<()> {
    let client = host.client();
    let config = host.pod(NamespaceMode::Pod);
    let mut clock = Clock::new(figures);
    let pod = client.run_pod(&config).await?;
    clock.lap("RunPodSandbox");
    let pod_took = clock.sum;
    let id = client
        .create(&pod, &filtered(sh("c", image, OBEDIENT)), &config)
        .await?;
    clock.lap("CreateContainer");
    client.start(&id).await?;
    clock.lap("StartContainer");
    clock.note(CREATE_AND_START, clock.sum - pod_took);
    clock.sum("pod up: the three");
    // A signal before the trap is set would not be answered.
    let log = Path::new(&config.log_directory).join("c.log");
    e2e::eventually("the container is ready", || {
        Ok(std::fs::read_to_string(&log).unwrap_or_default().contains("ready"))
    })
    .await?;
    for _ in 0..execs {
        clock.reset();
        let answer = client.exec(&id, &["true"], 30).await?;
        clock.lap("ExecSync");
        ensure!(answer.exit_code == 0, "the exec failed");
    }
    clock.reset();
    client.stop(&id, 30).await?;
    clock.lap("StopContainer, ends at once");
    client.remove(&id).await?;
    clock.lap("RemoveContainer");
    clock.note(STOP_AND_REMOVE, clock.sum);
    client.stop_pod(&pod).await?;
    clock.lap("StopPodSandbox");
    client.remove_pod(&pod).await?;
    clock.lap("RemovePodSandbox");
    clock.sum("pod down: the four");
    Ok(())
}

async fn lives_at_once(host: &Host, image: &str, figures: &mut Figures, rounds: usize) -> anyhow::Result<()> {
    let began = Instant::now();
    let workers = (0..AT_ONCE).map(|_| async {
        let client = host.client();
        for _ in 0..rounds {
            let config = host.pod(NamespaceMode::Pod);
            let pod = client.run_pod(&config).await?;
            let id = client.run(&pod, &filtered(sh("c", image, OBEDIENT)), &config).await?;
            // The whole grace would be waited for where the signal comes too early.
            client.stop(&id, 0).await?;
            client.remove(&id).await?;
            client.stop_pod(&pod).await?;
            client.remove_pod(&pod).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(workers).await?;
    let pods = f64::from(u32::try_from(AT_ONCE * rounds)?);
    note(
        figures,
        "8 at once: pods up and down, a second",
        pods / began.elapsed().as_secs_f64(),
    );
    Ok(())
}

async fn execs_at_once(host: &Host, image: &str, figures: &mut Figures, rounds: usize) -> anyhow::Result<()> {
    let client = host.client();
    let config = host.pod(NamespaceMode::Node);
    let pod = client.run_pod(&config).await?;
    let id = client
        .run(&pod, &filtered(container("c", image, &["sleep", "1000"])), &config)
        .await?;
    let began = Instant::now();
    let workers = (0..AT_ONCE).map(|_| async {
        for _ in 0..rounds {
            client.exec(&id, &["true"], 30).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(workers).await?;
    let execs = f64::from(u32::try_from(AT_ONCE * rounds)?);
    note(
        figures,
        "8 at once: ExecSync, a second",
        execs / began.elapsed().as_secs_f64(),
    );
    client.stop_pod(&pod).await?;
    client.remove_pod(&pod).await?;
    Ok(())
}

async fn pulls(host: &mut Host, figures: &mut Figures, effort: Effort) -> anyhow::Result<()> {
    for round in 0..effort.or(1, 5) {
        let mut image = TestImage::busybox()?;
        for layer in 1..LAYERS {
            // Other bytes in each layer and round, which can't be compressed.
            let mut state = u64::try_from(round * LAYERS + layer)?.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let bytes: Vec<u8> = (0..LAYER_BYTES)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state.to_le_bytes()[3]
                })
                .collect();
            image = image.with_file(&format!("layer{layer}"), &bytes)?;
        }
        let reference = host.push(&format!("bench/layers:{round}"), &image)?;
        let began = Instant::now();
        host.client().pull(&reference).await?;
        figures
            .entry("PullImage, 10 layers, 18 MB")
            .or_default()
            .add_ms(began.elapsed());
        host.client().remove_image(&reference).await?;
    }
    Ok(())
}

/// What is asked and weighed with a number of containers.
struct Crowd {
    containers: usize,
    list: &'static str,
    pods: &'static str,
    status: &'static str,
    stats: &'static str,
    rss: &'static str,
    pss: &'static str,
    companions: &'static str,
}

macro_rules! crowd {
    ($containers:literal) => {
        Crowd {
            containers: $containers,
            list: concat!("ListContainers, ", $containers),
            pods: concat!("ListPodSandbox, ", $containers),
            status: concat!("ContainerStatus, ", $containers),
            stats: concat!("ListContainerStats, ", $containers),
            rss: concat!("daemon, ", $containers, " containers: RSS"),
            pss: concat!("daemon, ", $containers, " containers: PSS"),
            companions: concat!("monitors, shims and pauses, ", $containers, ": PSS a container"),
        }
    };
}

const CROWDS: [Crowd; 4] = [crowd!(10), crowd!(100), crowd!(500), crowd!(1000)];
/// So many of them are for the peer: its shims take too long and too much memory for the last.
const CROWDS_OF_THEIRS: usize = 3;
/// With so many containers the daemon is restarted.
const AT_RESTART: usize = 100;

/// Questions and memory with ever more containers.
async fn many(host: &mut Host, image: &str, figures: &mut Figures, effort: Effort) -> anyhow::Result<()> {
    let mut ids = Vec::new();
    let whole = match host {
        Host::Ours(_) => CROWDS.len(),
        Host::Theirs(_) => CROWDS_OF_THEIRS,
    };
    for crowd in CROWDS.iter().take(effort.or(2, whole)) {
        let client = host.client().clone();
        while ids.len() < crowd.containers {
            let config = unfiltered_pod(host.pod(NamespaceMode::Node));
            let pod = client.run_pod(&config).await?;
            for number in 0..CONTAINERS_A_POD {
                let plan = unfiltered(container(&format!("c{number}"), image, &["sleep", "1000"]));
                ids.push(client.run(&pod, &plan, &config).await?);
            }
        }
        for round in 0..effort.or(10, 100) {
            let mut clock = Clock::new(figures);
            let listed = client.containers(None).await?;
            clock.lap(crowd.list);
            ensure!(
                listed.len() == ids.len(),
                "{} containers, not {}",
                listed.len(),
                ids.len()
            );
            client.pods(None).await?;
            clock.lap(crowd.pods);
            client.status(ids.get(round % ids.len()).context("an id")?).await?;
            clock.lap(crowd.status);
            let mut runtime = client.runtime.clone();
            if runtime
                .list_container_stats(ListContainerStatsRequest::default())
                .await
                .is_ok()
            {
                clock.lap(crowd.stats);
            }
        }
        let companions = Some((crowd.companions, crowd.containers));
        note_memory(host, figures, crowd.rss, crowd.pss, companions)?;
        if crowd.containers == AT_RESTART {
            for _ in 0..effort.or(1, 5) {
                let took = host.restart().await?;
                figures.entry(RESTART).or_default().add_ms(took);
            }
        }
    }
    host.client().remove_everything().await
}

/// Without a system call filter: some kernels fall over when very many processes that have one end together.
fn unfiltered(mut config: ContainerConfig) -> ContainerConfig {
    if let Some(security) = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
        security.seccomp = Some(filter(ProfileType::Unconfined));
    }
    config
}

fn unfiltered_pod(mut config: PodSandboxConfig) -> PodSandboxConfig {
    if let Some(security) = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
        security.seccomp = Some(filter(ProfileType::Unconfined));
    }
    config
}

fn note_memory(
    host: &Host,
    figures: &mut Figures,
    rss: &'static str,
    pss: &'static str,
    companions: Option<(&'static str, usize)>,
) -> anyhow::Result<()> {
    let daemon = weigh(&host.daemon())?;
    note(figures, rss, daemon.rss);
    note(figures, pss, daemon.pss);
    if let Some((name, containers)) = companions {
        let mut sum = 0.0;
        for companion in host.companions() {
            sum += weigh(&companion)?.pss;
        }
        note(figures, name, sum / f64::from(u32::try_from(containers)?));
    }
    Ok(())
}

/// The container asks for a system call filter by name: who asks for none gets one from some and none from others.
fn filtered(mut config: ContainerConfig) -> ContainerConfig {
    if let Some(security) = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
        security.seccomp = Some(filter(ProfileType::RuntimeDefault));
    }
    config
}

/// The OCI spec that our node makes of a container.
async fn spec_of_a_container(host: &Host, image: &str) -> anyhow::Result<Vec<u8>> {
    let client = host.client();
    // Everything was removed by now.
    client.pull(image).await?;
    let config = host.pod(NamespaceMode::Node);
    let pod = client.run_pod(&config).await?;
    let plan = filtered(container("c", image, &["sleep", "1000"]));
    let id = client.create(&pod, &plan, &config).await?;
    let spec = std::fs::read(
        host.path("runroot/crio-manager/containers")
            .join(id)
            .join("config.json"),
    )?;
    client.stop_pod(&pod).await?;
    client.remove_pod(&pod).await?;
    Ok(spec)
}

/// Runs the bare programs inside the node's namespaces.
async fn bare_programs(host: &Host, image: &str, effort: Effort) -> anyhow::Result<BTreeMap<String, Samples>> {
    let directory = host.path("floor");
    let programs = directory.join("rootfs/bin");
    std::fs::create_dir_all(&programs)?;
    std::fs::write(directory.join(floor::OUR_SPEC), spec_of_a_container(host, image).await?)?;
    std::fs::copy("target/busybox/bin/busybox", programs.join("busybox"))?;
    for name in ["sleep", "true"] {
        symlink("busybox", programs.join(name))?;
    }
    let output = host
        .namespaces()
        .command(std::env::current_exe()?)
        .args(["container", "floor"])
        .arg(&directory)
        .arg(effort.or(3, 20).to_string())
        .output()?;
    ensure!(
        output.status.success(),
        "the floor: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut floor = BTreeMap::<String, Samples>::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let (name, value) = line.rsplit_once(' ').context("a name and a number")?;
        floor.entry(name.to_owned()).or_default().add(value.parse()?);
    }
    Ok(floor)
}

fn print(figures: &[Figures; 2], floor: &BTreeMap<String, Samples>, effort: Effort) {
    let [ours, theirs] = figures;
    let bare = |names: &[&str]| -> Option<f64> { names.iter().map(|name| floor.get(*name)?.median()).sum() };
    let title = format!("Pods, in ms, medians of {}", effort.or(3, 20));
    let both = |what: &str| {
        let of = |figures: &Figures| figures.get(what).and_then(Samples::median);
        (of(ours), of(theirs))
    };
    let table = Table::head(&title, "crio-manager", "containerd", true);
    for (what, programs) in [
        ("RunPodSandbox", &["cni add"][..]),
        ("CreateContainer", &["create"]),
        ("StartContainer", &["start"]),
        (CREATE_AND_START, &["create", "start"]),
        ("pod up: the three", &["cni add", "create", "start"]),
        ("ExecSync", &["exec"]),
        ("StopContainer, ends at once", &["kill"]),
        ("RemoveContainer", &["delete"]),
        (STOP_AND_REMOVE, &["kill", "delete"]),
        ("StopPodSandbox", &["cni del"]),
        ("RemovePodSandbox", &[]),
        ("pod down: the four", &["kill", "delete", "cni del"]),
        ("PullImage, 10 layers, 18 MB", &[]),
        (RESTART, &[]),
    ] {
        let (ours, theirs) = both(what);
        let floor = if programs.is_empty() { None } else { bare(programs) };
        table.row_over(what, ours, theirs, floor);
    }
    let rates = Table::head("Rates", "crio-manager", "containerd", false);
    for what in ["8 at once: pods up and down, a second", "8 at once: ExecSync, a second"] {
        let (ours, theirs) = both(what);
        rates.row(what, ours, theirs);
    }
    let table = Table::head("Questions, in ms", "crio-manager", "containerd", false);
    for kind in [
        "ListContainers",
        "ListPodSandbox",
        "ContainerStatus",
        "ListContainerStats",
    ] {
        for Crowd { containers, .. } in &CROWDS {
            let what = format!("{kind}, {containers}");
            for (name, part) in [("median", 0.5), ("99 of 100", 0.99)] {
                let of = |figures: &Figures| figures.get(what.as_str())?.quantile(part);
                // So many are not made in a quick run.
                if let Some(took) = of(ours) {
                    table.row(&format!("{what}: {name}"), Some(took), of(theirs));
                }
            }
        }
    }
    let table = Table::head("Memory, in KiB", "crio-manager", "containerd", false);
    for what in ours.keys().filter(|what| what.ends_with("SS") || what.contains("PSS")) {
        let (ours, theirs) = both(what);
        table.row(what, ours, theirs);
    }
}

fn note(figures: &mut Figures, what: &'static str, value: f64) {
    figures.entry(what).or_default().add(value);
}

/// Laps in milliseconds.
struct Clock<'a> {
    figures: &'a mut Figures,
    since: Instant,
    /// Of the laps since the last sum.
    sum: f64,
}

impl<'a> Clock<'a> {
    fn new(figures: &'a mut Figures) -> Self {
        Clock {
            figures,
            since: Instant::now(),
            sum: 0.0,
        }
    }

    fn reset(&mut self) {
        self.since = Instant::now();
        self.sum = 0.0;
    }

    fn lap(&mut self, what: &'static str) {
        let took = self.since.elapsed().as_secs_f64() * 1000.0;
        note(self.figures, what, took);
        self.sum += took;
        self.since = Instant::now();
    }

    fn sum(&mut self, what: &'static str) {
        self.note(what, self.sum);
        self.sum = 0.0;
    }

    fn note(&mut self, what: &'static str, took: f64) {
        note(self.figures, what, took);
    }
}
