//! From the start of a monitor to the pid it tells, and what it does when nothing happens.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::unistd::Pid;

use crate::Effort;
use crate::stage::{Monitor, Stage, both};
use crate::table::{Samples, Table};

/// Ends by itself, so that nothing has to be ended.
const CONTAINER: &str = "sleep 0";

pub fn compare(effort: Effort) -> anyhow::Result<()> {
    let table = Table::head("Start and idling of a monitor", "conmon-rs", "conmon", true);
    let mut times = [Samples::default(), Samples::default()];
    let mut bare = Samples::default();
    let mut stage = Stage::new()?;
    for _ in 0..effort.or(10, 100) {
        for (monitor, samples) in both()?.iter().zip(&mut times) {
            samples.add_ms(until_the_pid(&mut stage, monitor)?);
        }
        let pidfile = stage.runtime().with_file_name("bare-pidfile");
        let began = Instant::now();
        let runtime = Command::new(stage.runtime())
            .arg("--pid-file")
            .arg(&pidfile)
            .env("CONTAINER", CONTAINER)
            .status()?;
        bare.add_ms(began.elapsed());
        ensure!(runtime.success(), "the runtime failed");
    }
    let [ours, theirs] = &times;
    for (name, part) in [("median", 0.5), ("9 of 10", 0.9)] {
        table.row_over(
            &format!("from exec to the pid, ms, {name}"),
            ours.quantile(part),
            theirs.quantile(part),
            bare.quantile(part),
        );
    }
    let [ours, theirs] = both()?;
    let wait = Duration::from_secs(if effort.quick { 3 } else { 30 });
    table.row(
        "wake-ups a minute, idle",
        Some(wake_ups(&ours, wait)?),
        Some(wake_ups(&theirs, wait)?),
    );
    Ok(())
}

/// The message comes by the descriptor 3; a shell puts it there and becomes the monitor.
fn until_the_pid(stage: &mut Stage, monitor: &Monitor) -> anyhow::Result<Duration> {
    let (inner, _) = stage.command(monitor, CONTAINER)?;
    let (reader, writer) = std::io::pipe()?;
    let mut outer = Command::new("sh");
    outer
        .args(["-c", "exec \"$@\" 3>&1 >/dev/null", "sh"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .arg("--sync")
        .env("CONTAINER", CONTAINER)
        .env("_OCI_SYNCPIPE", "3")
        .stdout(writer);
    let began = Instant::now();
    let mut child = outer.spawn()?;
    drop(outer); // it holds the pipe open
    let mut message = String::new();
    BufReader::new(reader).read_line(&mut message)?;
    let took = began.elapsed();
    child.wait()?;
    ensure!(message.starts_with("{\"pid\": "), "no pid: {message}");
    Ok(took)
}

/// How often a monitor ran while nothing happened, for a minute.
fn wake_ups(monitor: &Monitor, wait: Duration) -> anyhow::Result<f64> {
    let mut stage = Stage::new()?;
    let started = stage.start(monitor, "sleep 3333")?;
    let switches = |pid: Pid| -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
            .context("no count of switches")?;
        Ok(line.trim().parse()?)
    };
    // What it has to do after the start is done when it has gone to sleep for good.
    std::thread::sleep(Duration::from_millis(500));
    let before = switches(started.monitor)?;
    std::thread::sleep(wait);
    let after = switches(started.monitor)?;
    started.end()?;
    Ok((after - before) * 60.0 / wait.as_secs_f64())
}
