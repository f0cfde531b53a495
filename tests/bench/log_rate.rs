//! How fast a container's output gets into its log, at which cost, and which lines are cut needlessly.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use nix::unistd::Pid;

use crate::Effort;
use crate::parts::SHAPES;
use crate::stage::{Monitor, Stage, both};
use crate::table::{Samples, Table};

#[derive(Default)]
struct Rate {
    megabytes_per_second: Samples,
    cpu_seconds_per_gigabyte: Samples,
    partial_records: Samples,
}

pub fn compare(effort: Effort) -> anyhow::Result<()> {
    let bytes = effort.or(128, 1024) * 1_000_000;
    let title = format!(
        "The log path, {} MB each, medians of {}",
        bytes / 1_000_000,
        effort.or(1, 3)
    );
    let table = Table::head(&title, "conmon-rs", "conmon", false);
    for (shape, name) in SHAPES {
        let mut rates = [Rate::default(), Rate::default()];
        for _ in 0..effort.or(1, 3) {
            for (monitor, rate) in both()?.iter().zip(&mut rates) {
                run(monitor, shape, bytes, rate)?;
            }
        }
        let [ours, theirs] = &rates;
        let row =
            |what: &str, of: &dyn Fn(&Rate) -> Option<f64>| table.row(&format!("{name}: {what}"), of(ours), of(theirs));
        row("MB/s", &|rate| rate.megabytes_per_second.median());
        row("CPU s/GB", &|rate| rate.cpu_seconds_per_gigabyte.median());
        // Lines of 10 KiB need not be cut either: what is cut needlessly is any of these.
        if shape != "endless" {
            row("P records, none needed", &|rate| rate.partial_records.median());
        }
    }
    Ok(())
}

fn run(monitor: &Monitor, shape: &str, bytes: usize, rate: &mut Rate) -> anyhow::Result<()> {
    let mut stage = Stage::new()?;
    let program = std::env::current_exe()?;
    let began = Instant::now();
    let started = stage.start(
        monitor,
        &format!("{} container write {shape} {bytes}", program.display()),
    )?;
    started.all_logged(if shape == "two" {
        &["stdout", "stderr"]
    } else {
        &["stdout"]
    })?;
    let took = began.elapsed().as_secs_f64();
    let cpu = cpu_seconds(started.monitor)?;
    // So many bytes are exact in a float.
    let bytes = bytes as f64;
    rate.megabytes_per_second.add(bytes / 1e6 / took);
    rate.cpu_seconds_per_gigabyte.add(cpu / (bytes / 1e9));
    let log = started.log();
    let partial = partial_records(&log)?;
    rate.partial_records.add(f64::from(partial));
    started.end()
}

/// User and system time of a process, without its children's.
fn cpu_seconds(pid: Pid) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let nanoseconds: f64 = stat.split(' ').next().context("an empty schedstat")?.parse()?;
    Ok(nanoseconds / 1e9)
}

fn partial_records(log: &Path) -> anyhow::Result<u32> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(log)?);
    let mut line = Vec::new();
    let mut count = 0;
    while reader.read_until(b'\n', &mut line)? > 0 {
        if line.splitn(4, |byte| *byte == b' ').nth(2) == Some(b"P") {
            count += 1;
        }
        line.clear();
    }
    Ok(count)
}
