//! A monitor over a runtime that does next to nothing: it leaves the container's process and its pid.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Far longer than anything takes.
const DEADLINE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(2);
/// In the environment of all that a stage starts: its directory.
const MARK: &str = "BENCH_STAGE";

#[derive(Debug, Clone)]
pub struct Monitor {
    pub program: PathBuf,
}

/// Ours and Debian's.
pub fn both() -> anyhow::Result<[Monitor; 2]> {
    let directory = std::env::var_os("CRIO_MANAGER_BIN_DIR").map_or_else(|| "target/bin".into(), PathBuf::from);
    let programs = [directory.join("conmon-rs").canonicalize()?, "/usr/bin/conmon".into()];
    for program in &programs {
        ensure!(program.exists(), "{} is missing", program.display());
    }
    Ok(programs.map(|program| Monitor { program }))
}

pub struct Stage {
    directory: tempfile::TempDir,
    count: usize,
    /// Processes that end with the stage: the containers' own. Their monitors follow.
    containers: Vec<Pid>,
}

/// A monitor that has started its container.
pub struct Started {
    pub monitor: Pid,
    pub container: Pid,
    pub directory: PathBuf,
    /// The monitor, where it stayed our child.
    child: Option<Child>,
}

impl Stage {
    /// In memory, so that no disk is measured.
    pub fn new() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("bench-").tempdir_in("/dev/shm")?;
        let runtime = directory.path().join("runtime");
        fs::write(
            &runtime,
            "#!/bin/sh\nwhile [ $# -gt 0 ]; do [ \"$1\" = --pid-file ] && file=$2; shift; done\n\
             $CONTAINER &\necho -n $! > \"$file\"\n",
        )?;
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755))?;
        Ok(Stage {
            directory,
            count: 0,
            containers: Vec::new(),
        })
    }

    pub fn runtime(&self) -> PathBuf {
        self.directory.path().join("runtime")
    }

    /// A monitor's command line, and the directory that is its bundle. `container` is what the runtime leaves running.
    pub fn command(&mut self, monitor: &Monitor, container: &str) -> anyhow::Result<(Command, PathBuf)> {
        self.count += 1;
        let id = format!("{:064}", self.count);
        let bundle = self.directory.path().join(self.count.to_string());
        fs::create_dir(&bundle)?;
        let mut command = Command::new(&monitor.program);
        command
            .args(["-c", &id, "-u", &id, "-n", "bench", "--full-attach", "-r"])
            .arg(self.runtime())
            .arg("-b")
            .arg(&bundle)
            .arg("-p")
            .arg(bundle.join("pidfile"))
            .arg("-P")
            .arg(bundle.join("monitor-pidfile"))
            .arg("-l")
            .arg(format!("k8s-file:{}", bundle.join("log").display()))
            .arg("--exit-dir")
            .arg(&bundle)
            .env("CONTAINER", container)
            .env(MARK, self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok((command, bundle))
    }

    /// Starts a monitor as a daemon and waits for its container.
    pub fn start(&mut self, monitor: &Monitor, container: &str) -> anyhow::Result<Started> {
        let (mut command, bundle) = self.command(monitor, container)?;
        ensure!(command.status()?.success(), "{monitor:?} did not start");
        let started = Started {
            container: pid_in(&bundle.join("pidfile"))?,
            monitor: pid_in(&bundle.join("monitor-pidfile"))?,
            directory: bundle,
            child: None,
        };
        self.containers.push(started.container);
        Ok(started)
    }

    /// Starts an exec, whose monitor has no bundle.
    pub fn exec(&mut self, monitor: &Monitor, container: &str) -> anyhow::Result<Started> {
        let (mut command, bundle) = self.command(monitor, container)?;
        fs::write(bundle.join("process.json"), "{}")?;
        let child = command
            .args(["--sync", "-e", "--exec-process-spec"])
            .arg(bundle.join("process.json"))
            .spawn()?;
        let started = Started {
            container: pid_in(&bundle.join("pidfile"))?,
            monitor: Pid::from_raw(i32::try_from(child.id())?),
            directory: bundle,
            child: Some(child),
        };
        self.containers.push(started.container);
        Ok(started)
    }
}

impl Started {
    pub fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Waits until the last line is in the log, and all before it.
    pub fn all_logged(&self, streams: &[&str]) -> anyhow::Result<()> {
        // Which stream's end comes last nobody knows.
        let tail_is_there = |stream: &str| {
            let end = format!(" {stream} F END\n");
            tail(&self.log()).map(|tail| String::from_utf8_lossy(&tail).contains(&end))
        };
        until("the whole output is in the log", || {
            Ok(streams.iter().all(|stream| tail_is_there(stream).unwrap_or(false)))
        })
    }

    /// Kills the container and waits until its monitor is gone.
    pub fn end(mut self) -> anyhow::Result<()> {
        kill(self.container, Signal::SIGKILL)?;
        if let Some(child) = &mut self.child {
            child.wait()?;
        }
        let monitor = PathBuf::from(format!("/proc/{}", self.monitor));
        until("the monitor ends with its container", || Ok(!runs(&monitor)))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for container in &self.containers {
            // Only what is still ours: the number may be another's by now.
            let environment = fs::read(format!("/proc/{container}/environ")).unwrap_or_default();
            let mark = format!("{MARK}={}\0", self.directory.path().display());
            if environment.windows(mark.len()).any(|window| window == mark.as_bytes()) {
                let _ = kill(*container, Signal::SIGKILL);
            }
        }
    }
}

/// Whether a process runs: it is there, and no zombie.
fn runs(process: &Path) -> bool {
    fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

pub fn until(what: &str, mut is_so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let started = Instant::now();
    while !is_so()? {
        ensure!(started.elapsed() < DEADLINE, "after {DEADLINE:?} still not: {what}");
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn pid_in(path: &Path) -> anyhow::Result<Pid> {
    let mut pid = None;
    until(&format!("a pid is in {}", path.display()), || {
        pid = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
        Ok(pid.is_some())
    })?;
    Ok(Pid::from_raw(pid.context("a pid")?))
}

/// The last megabyte of a file.
fn tail(path: &Path) -> anyhow::Result<Vec<u8>> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(1 << 20)))?;
    let mut last = Vec::new();
    file.read_to_end(&mut last)?;
    Ok(last)
}
