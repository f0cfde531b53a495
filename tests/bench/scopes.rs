//! What a pod costs where systemd owns the cgroups: a scope for each monitor, or one delegated scope for all of them. The
//! machine is Debian 12 under its own systemd, the client the same for both.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::Context as _;
use e2e::service_host::SYSTEMD;
use e2e::{ServiceHost, eventually, sh};

use crate::Effort;
use crate::table::{Samples, Table};

const DELEGATED: &str = "[crio.runtime.runtimes.runc]\nmonitor_cgroup = \"delegated\"\n";
const SLICE: &str = "kubepods-bench.slice";
/// What is asked of systemd after the last pod: all calls before it have been seen then.
const MARK: &str = "bench_mark.slice";

/// Of one pod with one container.
#[derive(Default)]
struct Figures {
    up: Samples,
    down: Samples,
    /// Calls to systemd by method, of the daemon and of its OCI runtimes.
    calls: BTreeMap<String, usize>,
}

pub fn compare(effort: Effort) -> anyhow::Result<()> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pods = effort.or(3, 30);
    let delegated = format!("{SYSTEMD}{DELEGATED}");
    let one = tokio.block_on(measured(&delegated, pods))?;
    let other = tokio.block_on(measured(SYSTEMD, pods))?;
    let (Some(delegated), Some(scopes)) = (one, other) else {
        return Ok(());
    };
    let table = Table::head(
        "A pod under systemd, runc",
        "one delegated scope",
        "a scope a monitor",
        false,
    );
    table.row("up (run, create, start), ms", delegated.up.median(), scopes.up.median());
    table.row(
        "down (stop, remove, both levels), ms",
        delegated.down.median(),
        scopes.down.median(),
    );
    let methods: std::collections::BTreeSet<_> = delegated.calls.keys().chain(scopes.calls.keys()).collect();
    #[allow(clippy::cast_precision_loss)]
    let a_pod = |calls: usize| Some(calls as f64 / pods as f64);
    let of = |figures: &Figures, method: &str| a_pod(figures.calls.get(method).copied().unwrap_or_default());
    for method in methods {
        table.row(&format!("D-Bus, {method}"), of(&delegated, method), of(&scopes, method));
    }
    let all = |figures: &Figures| a_pod(figures.calls.values().sum());
    table.row("D-Bus calls in all", all(&delegated), all(&scopes));
    Ok(())
}

/// `None` where no such machine can be had; the reason has been said.
async fn measured(configuration: &str, pods: usize) -> anyhow::Result<Option<Figures>> {
    let Some(host) = ServiceHost::start(configuration).await? else {
        return Ok(None);
    };
    // The first of everything is not measured.
    life(&host, &mut Figures::default()).await?;
    let mut figures = Figures::default();
    let bus = Bus::listen(&host).await?;
    for _ in 0..pods {
        life(&host, &mut figures).await?;
    }
    figures.calls = bus.calls(&host).await?;
    host.finish().await?;
    Ok(Some(figures))
}

async fn life(host: &ServiceHost, figures: &mut Figures) -> anyhow::Result<()> {
    let began = Instant::now();
    let pod = host.running_pod(SLICE).await?;
    let id = pod.run(&sh("c", &pod.image, "sleep 1000")).await?;
    figures.up.add_ms(began.elapsed());
    let began = Instant::now();
    host.client.stop(&id, 0).await?;
    host.client.remove(&id).await?;
    pod.remove().await?;
    figures.down.add_ms(began.elapsed());
    Ok(())
}

/// Who listens to what systemd is asked over the bus.
struct Bus {
    monitor: Child,
}

impl Bus {
    const HEARD: &'static str = "/var/lib/bus";

    async fn listen(host: &ServiceHost) -> anyhow::Result<Self> {
        let file = File::create(host.host.inside(Self::HEARD))?;
        let matched = "type='method_call',destination='org.freedesktop.systemd1'";
        let mut command: Command = host.host.command("busctl");
        let monitor = command
            .args(["monitor", "--system", "--match", matched])
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("busctl")?;
        let bus = Bus { monitor };
        bus.mark(host).await?;
        Ok(bus)
    }

    /// Returns when a question of our own has been heard, so that everything before it has.
    async fn mark(&self, host: &ServiceHost) -> anyhow::Result<()> {
        let before = heard(host)?.matches(MARK).count();
        eventually("the bus is listened to", || {
            // systemctl would ask over a socket of its own. There is no such unit.
            let manager = [
                "org.freedesktop.systemd1",
                "/org/freedesktop/systemd1",
                "org.freedesktop.systemd1.Manager",
            ];
            let _ = host
                .host
                .command("busctl")
                .arg("call")
                .args(manager)
                .args(["GetUnit", "s", MARK])
                .output();
            Ok(heard(host)?.matches(MARK).count() > before)
        })
        .await
    }

    /// The calls between the marks, by method.
    async fn calls(mut self, host: &ServiceHost) -> anyhow::Result<BTreeMap<String, usize>> {
        self.mark(host).await?;
        self.monitor.kill()?;
        self.monitor.wait()?;
        let text = heard(host)?;
        let mut calls = BTreeMap::new();
        for message in text.split("Type=method_call").filter(|message| !message.contains(MARK)) {
            let Some(method) = message
                .split("Member=")
                .nth(1)
                .and_then(|rest| rest.split_whitespace().next())
            else {
                continue;
            };
            *calls.entry(method.to_owned()).or_default() += 1;
        }
        Ok(calls)
    }
}

fn heard(host: &ServiceHost) -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(host.host.inside(Bus::HEARD))?)
}
