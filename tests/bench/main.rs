//! `make bench`: the monitor beside Debian's conmon and the node beside Debian's containerd, in one run on one machine.
//!
//! `bench [--quick] [monitors] [node] [scopes]`; without a name all. Quote the ratios: the absolute figures are the machine's.

mod containerd;
mod floor;
mod host;
mod log_rate;
mod memory;
mod node;
mod parts;
mod scopes;
mod stage;
mod start_up;
mod table;

use std::process::ExitCode;

use anyhow::Context as _;

/// How much is done. A quick run shows that everything works; its figures say little.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    pub quick: bool,
}

impl Effort {
    pub fn or<T>(self, quick: T, whole: T) -> T {
        if self.quick { quick } else { whole }
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> anyhow::Result<()> {
    // Programs that the bench itself starts.
    match words {
        ["container", "write", shape, bytes] => return parts::write(shape, bytes.parse()?),
        ["container", "floor", directory, rounds] => return floor::measure(directory.as_ref(), rounds.parse()?),
        _ => {}
    }
    let effort = Effort {
        quick: words.contains(&"--quick"),
    };
    let named = |name: &str| words.contains(&name) || !words.iter().any(|word| !word.starts_with("--"));
    println!("{}", machine());
    if named("monitors") {
        memory::compare(effort).context("memory of monitors")?;
        log_rate::compare(effort).context("the log path")?;
        start_up::compare(effort).context("start and idling of monitors")?;
    }
    if named("node") {
        node::compare(effort).context("the node")?;
    }
    if named("scopes") {
        scopes::compare(effort).context("systemd's scopes")?;
    }
    Ok(())
}

/// What the figures were taken on, and how busy it was.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "bench: Linux {}, {cores} cores, load {}",
        read("/proc/sys/kernel/osrelease"),
        read("/proc/loadavg")
    )
}
