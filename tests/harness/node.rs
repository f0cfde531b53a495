//! One node: a temporary root, namespaces of its own, the daemon in them, and a registry when a test asks for an image.

mod cgroups;
mod held;
mod layout;
mod recipes;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use cgroups::CgroupManager;
pub use recipes::payload;

use layout::{make_directories, preparation, write_configuration};

use crate::POLL;
use crate::client::Client;
use crate::leaks;
use crate::namespaces::{KEEPER, Namespaces, child_of, pid_of};
use crate::registry::Registry;
use crate::service_manager::ServiceManager;

/// The bridge that the CNI configuration makes; it outlives its pods by design.
pub const BRIDGE: &str = "e2e0";
/// The network of the pods, and the node's own address in it.
pub const SUBNET: &str = "10.88.0.0/24";
pub const GATEWAY: &str = "10.88.0.1";
pub const REGISTRY_PORT: u16 = 5000;

const READY_LIMIT: Duration = Duration::from_secs(20);
/// A daemon promises to be gone 35 seconds after SIGTERM.
const EXIT_LIMIT: Duration = Duration::from_secs(45);
/// How long the kernel and the monitors may take to be gone after the last removal.
const SETTLE_LIMIT: Duration = Duration::from_secs(3);
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    Runc,
    Crun,
}

impl Runtime {
    pub fn name(self) -> &'static str {
        match self {
            Runtime::Runc => "runc",
            Runtime::Crun => "crun",
        }
    }
}

/// How a node is made.
pub struct Setup {
    pub runtime: Runtime,
    /// Where its state goes; `None` is a temporary directory that is removed with the node.
    pub directory: Option<PathBuf>,
}

impl Setup {
    pub fn new(runtime: Runtime) -> Self {
        Setup {
            runtime,
            directory: None,
        }
    }
}

pub struct Node {
    pub runtime: Runtime,
    pub client: Client,
    pub namespaces: Namespaces,
    pub cgroup_manager: CgroupManager,
    /// All pods' cgroups are beneath this one.
    pub cgroup_parent: String,
    root: PathBuf,
    daemon: Option<Daemon>,
    registry: Option<Registry>,
    service_manager: Option<ServiceManager>,
    pods_made: AtomicU32,
    /// Ids whose leftovers are not the daemon's fault.
    given_up: Vec<String>,
    _temporary: Option<tempfile::TempDir>,
}

struct Daemon {
    /// `nsenter`, which waits for the daemon.
    outer: Child,
    pid: Pid,
}

impl Node {
    pub async fn start(setup: Setup) -> anyhow::Result<Self> {
        let (root, temporary) = match setup.directory {
            Some(directory) => (directory, None),
            None => {
                let temporary = tempfile::Builder::new().prefix("crio-e2e-").tempdir_in("/var/tmp")?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        make_directories(&root)?;
        let cgroup_manager = CgroupManager::of_this_run();
        write_configuration(&root, setup.runtime, cgroup_manager)?;
        let preparation = preparation(setup.runtime, cgroup_manager);
        let namespaces = match cgroup_manager {
            CgroupManager::Cgroupfs => Namespaces::create(&preparation)?,
            CgroupManager::Systemd => Namespaces::among_the_machines_processes(&preparation)?,
        };
        let (client, daemon) = start_daemon(&namespaces, &root, None).await?;
        Ok(Node {
            runtime: setup.runtime,
            client,
            namespaces,
            cgroup_manager,
            cgroup_parent: cgroup_manager.unique_parent(),
            root,
            daemon: Some(daemon),
            registry: None,
            service_manager: None,
            pods_made: AtomicU32::new(0),
            given_up: Vec::new(),
            _temporary: temporary,
        })
    }

    /// A path beneath the node's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("crio.sock")
    }

    /// All that the daemon has logged, over all its lives.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("daemon.log")).unwrap_or_default()).into_owned()
    }

    /// The daemon's number outside its namespace; 0 when it is not running.
    pub fn daemon_pid(&self) -> i32 {
        self.daemon.as_ref().map_or(0, |daemon| daemon.pid.as_raw())
    }

    /// SIGKILL, and no daemon until [`Node::restart`].
    pub async fn kill9(&mut self) -> anyhow::Result<()> {
        self.end_daemon(Signal::SIGKILL).await
    }

    /// SIGTERM, as systemd does it.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.end_daemon(Signal::SIGTERM).await
    }

    /// Starts the daemon again, after stopping it where it runs.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.stop().await?;
        let (client, daemon) = start_daemon(&self.namespaces, &self.root, self.service_manager.as_ref()).await?;
        (self.client, self.daemon) = (client, Some(daemon));
        Ok(())
    }

    /// Starts the daemon again, as the service of a service manager that wants a ping in this time.
    pub async fn restart_as_a_service(&mut self, watchdog: Duration) -> anyhow::Result<ServiceManager> {
        let manager = ServiceManager::listen(&self.path("notify.sock"), watchdog)?;
        self.service_manager = Some(manager.clone());
        self.restart().await?;
        Ok(manager)
    }

    /// Has the daemon read a drop-in file, in place, with SIGHUP.
    pub fn reload_with(&self, name: &str, toml: &str) -> anyhow::Result<()> {
        fs::write(self.path("crio.conf.d").join(name), toml)?;
        let daemon = self.daemon.as_ref().context("no daemon runs")?;
        Ok(kill(daemon.pid, Signal::SIGHUP)?)
    }

    /// Adds a drop-in file to the configuration and restarts the daemon with it.
    pub async fn configure(&mut self, name: &str, toml: &str) -> anyhow::Result<()> {
        fs::write(self.path("crio.conf.d").join(name), toml)?;
        self.restart().await
    }

    /// Starts a second daemon on the same directory and gives its complaint. It must end by itself.
    pub async fn second_daemon(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let log = self.path("second.log");
        let file = fs::File::create(&log)?;
        let mut process = daemon_command(&self.namespaces, &self.root)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()?;
        let ended = wait_for_end(&mut process).await;
        if ended.is_err() {
            if let Some(inner) = child_of(pid_of(&process)) {
                let _ = kill(inner, Signal::SIGKILL);
            }
            let _ = process.wait();
        }
        let text = fs::read_to_string(&log)?;
        match ended {
            Ok(status) if !status.success() => Ok(text),
            Ok(_) => bail!("the daemon ended with success: {text}"),
            Err(_) => bail!("the daemon did not refuse to start: {text}"),
        }
    }

    async fn end_daemon(&mut self, signal: Signal) -> anyhow::Result<()> {
        let Some(mut daemon) = self.daemon.take() else {
            return Ok(());
        };
        kill(daemon.pid, signal)?;
        if wait_for_end(&mut daemon.outer).await.is_err() {
            let _ = kill(daemon.pid, Signal::SIGKILL);
            let _ = daemon.outer.wait();
            bail!("the daemon outlived {signal} by {EXIT_LIMIT:?}");
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = kill(daemon.pid, Signal::SIGKILL);
            let _ = daemon.outer.wait();
        }
        self.registry = None;
        for process in self.processes() {
            if process.command_line != KEEPER {
                let _ = self.namespaces.run("kill", &["-9", &process.pid.to_string()]);
            }
        }
        // A killed process is in its cgroup until it has been reaped.
        let started = Instant::now();
        while !leaks::cgroup_parents(&self.cgroup_parent).is_empty() && started.elapsed() < SETTLE_LIMIT {
            leaks::remove_cgroups(&self.cgroup_parent);
        }
    }
}

/// Where the programs under test are.
pub fn programs() -> PathBuf {
    std::env::var_os("CRIO_MANAGER_BIN_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bin"),
        PathBuf::from,
    )
}

fn daemon_command(namespaces: &Namespaces, root: &Path) -> std::process::Command {
    let mut command = namespaces.command(programs().join("crio-manager"));
    command
        .arg("--config")
        .arg(root.join("crio.conf"))
        .arg("--config-dir")
        .arg(root.join("crio.conf.d"));
    command
}

async fn start_daemon(
    namespaces: &Namespaces,
    root: &Path,
    service_manager: Option<&ServiceManager>,
) -> anyhow::Result<(Client, Daemon)> {
    let path = root.join("daemon.log");
    let log = fs::File::options().create(true).append(true).open(&path)?;
    let mut command = daemon_command(namespaces, root);
    if let Some(manager) = service_manager {
        command.env("NOTIFY_SOCKET", &manager.socket);
        command.env("WATCHDOG_USEC", manager.watchdog.as_micros().to_string());
    }
    let mut outer = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("nsenter")?;
    let started = Instant::now();
    let socket = root.join("crio.sock");
    loop {
        if let Some(status) = outer.try_wait()? {
            bail!(
                "the daemon ended with {status}: {}",
                fs::read_to_string(&path).unwrap_or_default()
            );
        }
        if let Ok(client) = Client::connect(&socket).await
            && client.version().await.is_ok()
            && let Some(pid) = child_of(pid_of(&outer))
        {
            return Ok((client, Daemon { outer, pid }));
        }
        if started.elapsed() > READY_LIMIT {
            if let Some(pid) = child_of(pid_of(&outer)) {
                let _ = kill(pid, Signal::SIGKILL);
            }
            let _ = outer.wait();
            bail!(
                "the daemon does not answer: {}",
                fs::read_to_string(&path).unwrap_or_default()
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn wait_for_end(process: &mut Child) -> anyhow::Result<std::process::ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = process.try_wait()? {
            return Ok(status);
        }
        if started.elapsed() > EXIT_LIMIT {
            bail!("still running");
        }
        tokio::time::sleep(POLL).await;
    }
}

fn find_program(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into(), "/sbin".into()]);
    places
        .map(|place| place.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("{name} is not installed"))
}
