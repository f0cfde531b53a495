//! What a monitor weighs: idle, after much output, with clients, for an exec.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use nix::unistd::Pid;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::Effort;
use crate::stage::{Monitor, Stage, Started, both};
use crate::table::Table;

const SLEEPER: &str = "sleep 3333";

/// KiB.
#[derive(Debug, Clone, Copy)]
pub struct Weight {
    pub rss: f64,
    pub pss: f64,
    pub private: f64,
}

/// What a process weighs, from its `smaps_rollup`.
pub fn weigh(process: &Path) -> anyhow::Result<Weight> {
    let path = process.join("smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let field = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
            .unwrap_or_default()
    };
    Ok(Weight {
        rss: field("Rss:"),
        pss: field("Pss:"),
        private: field("Private_Clean:") + field("Private_Dirty:"),
    })
}

/// The mean of several processes.
fn mean(monitors: &[Pid]) -> anyhow::Result<Weight> {
    let mut sum = Weight {
        rss: 0.0,
        pss: 0.0,
        private: 0.0,
    };
    for pid in monitors {
        let weight = weigh(Path::new(&format!("/proc/{pid}")))?;
        sum.rss += weight.rss;
        sum.pss += weight.pss;
        sum.private += weight.private;
    }
    let count = f64::from(u32::try_from(monitors.len())?.max(1));
    Ok(Weight {
        rss: sum.rss / count,
        pss: sum.pss / count,
        private: sum.private / count,
    })
}

pub fn compare(effort: Effort) -> anyhow::Result<()> {
    let table = Table::head("Memory of a monitor, in KiB", "conmon-rs", "conmon", false);
    let [ours, theirs] = both()?;
    let rows = |what: &str, of: &dyn Fn(&Monitor) -> anyhow::Result<Weight>| -> anyhow::Result<()> {
        let (ours, theirs) = (of(&ours)?, of(&theirs)?);
        table.row(&format!("{what}: PSS"), Some(ours.pss), Some(theirs.pss));
        table.row(&format!("{what}: private"), Some(ours.private), Some(theirs.private));
        Ok(())
    };
    for count in [1, 20, 100] {
        rows(&format!("{count} idle, each"), &|monitor| idle(monitor, count))?;
    }
    let bytes = effort.or(64, 1024) * 1_000_000;
    rows(&format!("after {} MB of output", bytes / 1_000_000), &|monitor| {
        after_output(monitor, bytes)
    })?;
    rows("of an exec", &|monitor| {
        let mut stage = Stage::new()?;
        let exec = stage.exec(monitor, SLEEPER)?;
        let weight = mean(&[exec.monitor])?;
        exec.end()?;
        Ok(weight)
    })?;
    rows("with 5 attached clients", &attached)
}

fn idle(monitor: &Monitor, count: usize) -> anyhow::Result<Weight> {
    let mut stage = Stage::new()?;
    let started: Vec<Started> = (0..count)
        .map(|_| stage.start(monitor, SLEEPER))
        .collect::<anyhow::Result<_>>()?;
    let pids: Vec<Pid> = started.iter().map(|started| started.monitor).collect();
    let weight = mean(&pids)?;
    for started in started {
        started.end()?;
    }
    Ok(weight)
}

fn after_output(monitor: &Monitor, bytes: usize) -> anyhow::Result<Weight> {
    let mut stage = Stage::new()?;
    let program = std::env::current_exe()?;
    let started = stage.start(monitor, &format!("{} container write short {bytes}", program.display()))?;
    started.all_logged(&["stdout"])?;
    // Buffers of heavy output may be kept for a moment, in case there is more.
    std::thread::sleep(Duration::from_secs(3));
    let weight = mean(&[started.monitor])?;
    started.end()?;
    Ok(weight)
}

fn attached(monitor: &Monitor) -> anyhow::Result<Weight> {
    let mut stage = Stage::new()?;
    let started = stage.start(monitor, SLEEPER)?;
    let address = SocketAddrUnix::new(started.directory.join("attach"))?;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let client = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        connect(&client, &address)?;
        clients.push(client);
    }
    // Accepted is who has a descriptor in the monitor.
    let descriptors = format!("/proc/{}/fd", started.monitor);
    let sockets = || -> anyhow::Result<usize> {
        let entries = fs::read_dir(&descriptors)?.flatten();
        let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
        Ok(targets
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count())
    };
    crate::stage::until("five clients are accepted", || Ok(sockets()? >= 6))?;
    let weight = mean(&[started.monitor])?;
    drop(clients);
    started.end()?;
    Ok(weight)
}
