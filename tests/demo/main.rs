//! What `make demo` shows: a pod from an image in a registry to its removal, with runc and with crun, how long each step
//! took, and what the two programs weigh.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use cri::v1::{ContainerState, PodSandboxState};
use e2e::{Node, Runtime, Setup, TestImage, sh};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let directory = PathBuf::from(std::env::args_os().nth(1).unwrap_or_else(|| "target/demo".into()));
    match run(&directory).await {
        Ok(()) => {
            println!("\ndemo: everything worked, and nothing was left behind");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("\ndemo: FAILED: {error:#}");
            println!("demo: the node's log is kept in {}", directory.display());
            ExitCode::FAILURE
        }
    }
}

async fn run(directory: &Path) -> anyhow::Result<()> {
    let mut timeline = Timeline::default();
    for runtime in [Runtime::Runc, Runtime::Crun] {
        println!("\n==== a node with {}", runtime.name());
        let root = directory.join(runtime.name());
        if root.exists() {
            std::fs::remove_dir_all(&root)?;
        }
        std::fs::create_dir_all(&root)?;
        let root = root.canonicalize()?;
        show(runtime, &root, &mut timeline).await?;
        left_on_the_machine(&root)?;
        std::fs::remove_dir_all(&root)?;
    }
    timeline.print();
    Ok(())
}

async fn show(runtime: Runtime, root: &Path, timeline: &mut Timeline) -> anyhow::Result<()> {
    let mut clock = Clock {
        runtime,
        timeline,
        since: Instant::now(),
    };
    let mut node = Node::start(Setup {
        runtime,
        directory: Some(root.to_owned()),
    })
    .await?;
    clock.lap("start the node");
    let client = node.client.clone();
    let version = client.version().await?;
    println!(
        "  {} {}, socket {}",
        version.runtime_name,
        version.runtime_version,
        node.socket().display()
    );
    for kind in ["RuntimeReady", "NetworkReady"] {
        let condition = client.condition(kind).await?;
        println!("  {kind}: {} {}", condition.status, condition.message);
        ensure!(condition.status, "{kind} does not hold: {}", condition.message);
    }

    let image = TestImage::busybox()?;
    clock.reset();
    let reference = node.pushed("demo/busybox:1", &image)?;
    clock.lap("start a registry, push an image");
    let before = node.snapshot();
    clock.reset();
    let image_id = client.pull(&reference).await?;
    clock.lap("pull the image");
    println!("  image {reference} = {}", short(&image_id));

    let config = node.pod("demo");
    clock.reset();
    let pod = client.run_pod(&config).await?;
    clock.lap("RunPodSandbox, CNI bridge");
    let web = client
        .create(
            &pod,
            &sh(
                "web",
                &reference,
                "trap exit TERM; echo serving; while :; do echo hello from the pod | nc -l -p 8080 & wait $!; done",
            ),
            &config,
        )
        .await?;
    clock.lap("CreateContainer");
    client.start(&web).await?;
    clock.lap("StartContainer");
    let script = "trap 'echo stopping; exit 7' TERM; echo working; sleep 1000 & wait";
    let worker = client.run(&pod, &sh("worker", &reference, script), &config).await?;
    clock.lap("create and start a second one");

    let status = client.pod_status(&pod).await?;
    ensure!(status.state() == PodSandboxState::SandboxReady, "the pod is not ready");
    let ip = status.network.unwrap_or_default().ip;
    println!("  pod {} is ready at {ip}", short(&pod));
    for container in client.containers(None).await? {
        let name = container.metadata.clone().unwrap_or_default().name;
        println!("  container {} {name}: {:?}", short(&container.id), container.state());
        ensure!(
            container.state() == ContainerState::ContainerRunning,
            "{name} is not running"
        );
    }

    clock.reset();
    let answer = client
        .exec(&worker, &["sh", "-c", &format!("nc -w 5 {ip} 8080; id -u")], 10)
        .await?;
    clock.lap("ExecSync");
    let said = String::from_utf8_lossy(&answer.stdout).into_owned();
    println!("  exec in worker, exit code {}: {said:?}", answer.exit_code);
    ensure!(
        answer.exit_code == 0 && said == "hello from the pod\n0\n",
        "the exec said something else"
    );

    weigh(&node, clock.timeline)?;

    clock.reset();
    client.stop(&worker, 10).await?;
    clock.lap("StopContainer, ends at once");
    let ended = client.status(&worker).await?;
    println!("  worker ended with code {}, {}", ended.exit_code, ended.reason);
    ensure!(ended.exit_code == 7, "the exit code should have been 7");
    for name in ["web", "worker"] {
        for line in node.container_log("demo", name)?.lines() {
            println!("  log of {name}: {line}");
        }
    }
    clock.reset();
    client.remove(&worker).await?;
    clock.lap("RemoveContainer");
    client.stop_pod(&pod).await?;
    clock.lap("StopPodSandbox");
    client.remove_pod(&pod).await?;
    clock.lap("RemovePodSandbox");
    ensure!(
        client.pods(None).await?.is_empty() && client.containers(None).await?.is_empty(),
        "something is still listed"
    );
    client.remove_image(&reference).await?;
    clock.lap("RemoveImage");
    node.nothing_more_than(&before).await?;
    println!("  removed: no mount, interface, cgroup, process, file or descriptor more than before");
    clock.reset();
    node.stop().await?;
    clock.lap("stop the node");
    Ok(())
}

/// Resident and proportional memory of the manager, of a monitor, and of Debian's conmon doing the same.
fn weigh(node: &Node, timeline: &mut Timeline) -> anyhow::Result<()> {
    let of = |path: PathBuf| -> anyhow::Result<(u64, u64)> {
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
                .unwrap_or_default()
        };
        Ok((field("Rss:"), field("Pss:")))
    };
    let inside = |program: &str| -> anyhow::Result<Vec<(u64, u64)>> {
        let processes = node.processes().into_iter();
        let matching = processes.filter(|process| {
            let first = process.command_line.split(' ').next().unwrap_or_default();
            Path::new(first).file_name().is_some_and(|name| name == program)
        });
        matching
            .map(|process| of(node.namespaces.inside(format!("/proc/{}/smaps_rollup", process.pid))))
            .collect()
    };
    let (rss, pss) = of(PathBuf::from(format!("/proc/{}/smaps_rollup", node.daemon_pid())))?;
    timeline.weight("crio-manager", rss, pss);
    let ours = inside("conmon-rs")?;
    ensure!(ours.len() == 2, "two containers have two monitors, not {}", ours.len());
    let _theirs = start_conmons(node, ours.len())?;
    for (name, sizes) in [
        ("conmon-rs, a container", ours),
        ("Debian's conmon, a container", inside("conmon")?),
    ] {
        let count = u64::try_from(sizes.len())?.max(1);
        let sum = sizes.iter().fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1));
        timeline.weight(name, sum.0 / count, sum.1 / count);
    }
    Ok(())
}

/// conmon processes that watch over a sleeper each; they end when this is dropped.
struct Conmons<'a> {
    node: &'a Node,
}

impl Drop for Conmons<'_> {
    fn drop(&mut self) {
        for process in self.node.processes() {
            if process.command_line.contains("conmon-for-comparison") || process.command_line == "sleep 3333" {
                let _ = self.node.namespaces.run("kill", &["-9", &process.pid.to_string()]);
            }
        }
    }
}

fn start_conmons(node: &Node, count: usize) -> anyhow::Result<Conmons<'_>> {
    let directory = node.path("conmon-for-comparison");
    std::fs::create_dir_all(&directory)?;
    let runtime = directory.join("runtime");
    std::fs::write(
        &runtime,
        "#!/bin/sh\nwhile [ $# -gt 0 ]; do [ \"$1\" = --pid-file ] && file=$2; shift; done\n\
         [ -n \"$file\" ] || exit 0\nsleep 3333 &\necho -n $! >\"$file\"\n",
    )?;
    std::fs::set_permissions(&runtime, std::fs::Permissions::from_mode(0o755))?;
    let conmons = Conmons { node };
    for number in 0..count {
        let bundle = directory.join(number.to_string());
        std::fs::create_dir_all(&bundle)?;
        let at = |name: &str| bundle.join(name).display().to_string();
        let id = format!("{number:064}");
        node.namespaces.run(
            "conmon",
            &[
                "-c",
                &id,
                "-u",
                &id,
                "-n",
                "comparison",
                "-r",
                &runtime.display().to_string(),
                "-b",
                &at(""),
                "-p",
                &at("pidfile"),
                "-P",
                &at("conmon-pidfile"),
                "-l",
                &format!("k8s-file:{}", at("log")),
                "--exit-dir",
                &at(""),
                "--full-attach",
            ],
        )?;
    }
    let started = Instant::now();
    while (0..count).any(|number| !directory.join(number.to_string()).join("pidfile").exists()) {
        ensure!(
            started.elapsed() < Duration::from_secs(5),
            "conmon did not start its sleeper"
        );
    }
    Ok(conmons)
}

/// The node's end is the end of all it made on this machine.
fn left_on_the_machine(root: &Path) -> anyhow::Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let root = root.display().to_string();
    ensure!(!mounts.contains(&root), "a mount beneath {root} is left");
    ensure!(
        e2e::leaks::cgroup_parents(&format!("crio-e2e-{}-0", std::process::id())).is_empty(),
        "a cgroup is left"
    );
    Ok(())
}

fn short(id: &str) -> &str {
    id.trim_start_matches("sha256:").get(..12).unwrap_or(id)
}

/// Milliseconds by step, kilobytes by program, for each runtime.
#[derive(Default)]
struct Timeline {
    steps: Vec<&'static str>,
    took: BTreeMap<(&'static str, &'static str), Duration>,
    weights: Vec<(String, u64, u64)>,
}

struct Clock<'a> {
    runtime: Runtime,
    timeline: &'a mut Timeline,
    since: Instant,
}

impl Clock<'_> {
    fn reset(&mut self) {
        self.since = Instant::now();
    }

    fn lap(&mut self, step: &'static str) {
        let took = self.since.elapsed();
        if !self.timeline.steps.contains(&step) {
            self.timeline.steps.push(step);
        }
        self.timeline.took.insert((step, self.runtime.name()), took);
        println!("  [{:>8.1} ms] {step}", took.as_secs_f64() * 1000.0);
        self.since = Instant::now();
    }
}

impl Timeline {
    fn weight(&mut self, name: &str, rss: u64, pss: u64) {
        self.weights.push((name.to_owned(), rss, pss));
    }

    fn print(&self) {
        println!(
            "\n==== how long it took, in milliseconds\n  {:<34}{:>10}{:>10}",
            "", "runc", "crun"
        );
        for step in &self.steps {
            let cell = |runtime| {
                let took = self.took.get(&(*step, runtime));
                took.map_or("-".to_owned(), |took| format!("{:.1}", took.as_secs_f64() * 1000.0))
            };
            println!("  {step:<34}{:>10}{:>10}", cell("runc"), cell("crun"));
        }
        println!(
            "\n==== memory with two containers, in KiB\n  {:<34}{:>10}{:>10}",
            "", "RSS", "PSS"
        );
        for (name, rss, pss) in &self.weights {
            println!("  {name:<34}{rss:>10}{pss:>10}");
        }
    }
}
