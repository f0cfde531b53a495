//! One node: a temporary root, namespaces of its own, the daemon in them, and a registry when a test asks for an image.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use cri::v1::{LinuxPodSandboxConfig, NamespaceMode, PodSandboxConfig, PodSandboxMetadata};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::{Client, RunningPod, pod_security};
use crate::image::{Blob, TestImage};
use crate::leaks::{self, Kind, Snapshot};
use crate::namespaces::{KEEPER, Namespaces, child_of, pid_of};
use crate::registry::{Access, Registry};
use crate::{POLL, eventually};

/// The bridge that the CNI configuration makes; it outlives its pods by design.
pub const BRIDGE: &str = "e2e0";
/// The network of the pods, and the node's own address in it.
pub const SUBNET: &str = "10.88.0.0/24";
pub const GATEWAY: &str = "10.88.0.1";
pub const REGISTRY_PORT: u16 = 5000;

const READY_LIMIT: Duration = Duration::from_secs(20);
const EXIT_LIMIT: Duration = Duration::from_secs(20);
/// How long the kernel and the monitors may take to be gone after the last removal.
const SETTLE_LIMIT: Duration = Duration::from_secs(3);
/// A layer that is left has hundreds of files; the first few tell enough.
const REPORTED_LEAKS: usize = 20;

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
    /// All pods' cgroups are beneath this one.
    pub cgroup_parent: String,
    root: PathBuf,
    daemon: Option<Daemon>,
    registry: Option<Registry>,
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
        write_configuration(&root, setup.runtime)?;
        let namespaces = Namespaces::create(&preparation(setup.runtime))?;
        let (client, daemon) = start_daemon(&namespaces, &root).await?;
        Ok(Node {
            runtime: setup.runtime,
            client,
            namespaces,
            cgroup_parent: unique_cgroup(),
            root,
            daemon: Some(daemon),
            registry: None,
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

    // ---- the daemon's life

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
        let (client, daemon) = start_daemon(&self.namespaces, &self.root).await?;
        (self.client, self.daemon) = (client, Some(daemon));
        Ok(())
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

    // ---- recipes

    /// A pod with logs, a cgroup parent and a uid of its own.
    pub fn pod(&self, name: &str) -> PodSandboxConfig {
        let number = self.pods_made.fetch_add(1, Ordering::Relaxed);
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}-{number}"),
                namespace: "e2e".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.path("logs").join(name).display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup_parent.clone(),
                security_context: Some(pod_security(NamespaceMode::Pod)),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// The same in the node's own network, which makes it quicker to start.
    pub fn host_network_pod(&self, name: &str) -> PodSandboxConfig {
        let mut pod = self.pod(name);
        pod.hostname = String::new();
        if let Some(linux) = &mut pod.linux {
            linux.security_context = Some(pod_security(NamespaceMode::Node));
        }
        pod
    }

    /// A pod of busybox containers, in a network of its own.
    pub async fn running_pod(&mut self, name: &str) -> anyhow::Result<RunningPod> {
        let config = self.pod(name);
        self.running("", config).await
    }

    /// The same in the node's network.
    pub async fn running_host_pod(&mut self, name: &str) -> anyhow::Result<RunningPod> {
        let config = self.host_network_pod(name);
        self.running("", config).await
    }

    /// The same as configured, with a runtime handler.
    pub async fn running(&mut self, handler: &str, config: PodSandboxConfig) -> anyhow::Result<RunningPod> {
        let image = self.busybox().await?;
        let id = self.client.run_pod_with(handler, &config).await?;
        Ok(RunningPod {
            id,
            config,
            image,
            client: self.client.clone(),
        })
    }

    /// What a container of a pod has logged.
    pub fn container_log(&self, pod: &str, container: &str) -> anyhow::Result<String> {
        let path = self.path("logs").join(pod).join(format!("{container}.log"));
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Runs a container that answers SIGTERM with `not yet`, and goes on; returns when it does.
    pub async fn deaf(&self, pod: &RunningPod, name: &str) -> anyhow::Result<String> {
        let id = pod
            .sh(
                name,
                "trap 'echo not yet' TERM; echo ready; while :; do sleep 0.05; done",
            )
            .await?;
        let pod = &pod.config.metadata.as_ref().context("a pod has a name")?.name;
        eventually("the trap is set", || {
            Ok(self.said(pod, name, "stdout")?.contains("ready"))
        })
        .await?;
        Ok(id)
    }

    /// The payload of a container's log: what was said on a stream, without times and marks.
    pub fn said(&self, pod: &str, container: &str, stream: &str) -> anyhow::Result<String> {
        let mut text = String::new();
        for line in self.container_log(pod, container)?.lines() {
            let mut parts = line.splitn(4, ' ');
            let (Some(_), Some(from), Some(mark), Some(payload)) =
                (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                bail!("a line that is not in the CRI format: {line:?}");
            };
            if from == stream {
                text.push_str(payload);
                if mark == "F" {
                    text.push('\n');
                }
            }
        }
        Ok(text)
    }

    /// Pushes busybox to the node's registry, pulls it over CRI, and gives its reference.
    pub async fn busybox(&mut self) -> anyhow::Result<String> {
        self.pulled("e2e/busybox:1", &TestImage::busybox()?).await
    }

    /// Pushes an image and pulls it over CRI.
    pub async fn pulled(&mut self, name: &str, image: &TestImage) -> anyhow::Result<String> {
        let reference = self.pushed(name, image)?;
        self.client
            .pull(&reference)
            .await
            .with_context(|| format!("pulling {reference}"))?;
        Ok(reference)
    }

    /// Pushes an image to the node's registry and gives its reference.
    pub fn pushed(&mut self, name: &str, image: &TestImage) -> anyhow::Result<String> {
        self.registry()?;
        let registry = self.registry.as_ref().context("no registry")?;
        registry.push(&self.namespaces, name, image)
    }

    /// Pushes a manifest alone, such as an index over images that are there.
    pub fn pushed_manifest(
        &mut self,
        repository: &str,
        tag: &str,
        media_type: &str,
        manifest: &Blob,
    ) -> anyhow::Result<()> {
        self.registry()?;
        let registry = self.registry.as_ref().context("no registry")?;
        registry.push_manifest(&self.namespaces, repository, tag, media_type, manifest)
    }

    /// Runs `crio-manager` with the node's configuration to its end and gives its output.
    pub fn manager(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = daemon_command(&self.namespaces, &self.root).args(arguments).output()?;
        if !output.status.success() {
            bail!(
                "crio-manager {arguments:?}: {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The node's registry, started when it is first asked for.
    pub fn registry(&mut self) -> anyhow::Result<&Registry> {
        if self.registry.is_none() {
            let directory = self.path("registry");
            self.registry = Some(Registry::start(
                &self.namespaces,
                &directory,
                REGISTRY_PORT,
                Access::Open,
            )?);
        }
        self.registry.as_ref().context("no registry")
    }

    /// One more registry over the same storage, which asks more of its clients.
    pub fn another_registry(&self, port: u16, access: Access) -> anyhow::Result<Registry> {
        Registry::start(&self.namespaces, &self.path("registry"), port, access)
    }

    /// A runtime handler `name` whose runtime is a shell script around the node's own one. In it, `$verb` is the OCI
    /// command (create, start, …), `$REAL` the real runtime and `$DIR` the node's directory; it ends by running the
    /// real one unless the body did something else.
    pub async fn wrap_runtime(&mut self, name: &str, body: &str, create_timeout: u32) -> anyhow::Result<()> {
        let real = find_program(self.runtime.name())?;
        let script = format!(
            "#!/bin/sh\nREAL={}\nDIR={}\nverb=\nfor word; do case $word in\n\
             create|start|kill|delete|state|exec|features) verb=$word; break;;\nesac; done\n{body}\nexec $REAL \"$@\"\n",
            real.display(),
            self.root.display()
        );
        let path = self.path("bin").join(name);
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        let toml = format!(
            "[crio.runtime.runtimes.{name}]\nruntime_path = \"{}\"\nruntime_root = \"{}\"\ncontainer_create_timeout = {create_timeout}\n",
            path.display(),
            self.path("oci").display()
        );
        self.configure(&format!("50-{name}.conf"), &toml).await
    }

    /// A CNI plugin of the test's own, ahead of the real ones. It gets the real one's path in `$REAL`.
    pub fn wrap_plugin(&self, name: &str, body: &str) -> anyhow::Result<()> {
        let path = self.path("plugins").join(name);
        fs::write(
            &path,
            format!(
                "#!/bin/sh\nREAL=/usr/lib/cni/{name}\nDIR={}\n{body}\nexec $REAL\n",
                self.root.display()
            ),
        )?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    // ---- leaks

    /// All that the node holds now.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.add(Kind::Mount, self.namespaces.mounts());
        let interfaces = self.namespaces.interfaces().into_iter().filter(|name| name != BRIDGE);
        snapshot.add(Kind::Interface, interfaces);
        snapshot.add(Kind::Cgroup, leaks::cgroups(&self.cgroup_parent));
        let processes = self.namespaces.processes().into_iter();
        let others = processes.filter(|process| process.pid != 1 && !is_of_the_node(&process.command_line));
        snapshot.add(Kind::Process, others.map(|process| process.command_line));
        let kept = [
            "root",
            "runroot",
            "exits",
            "attach",
            "ns",
            "state",
            "oci",
            "ipam",
            "cni-cache",
        ];
        let directories: Vec<PathBuf> = kept
            .iter()
            .map(|name| self.namespaces.inside(self.path(name)))
            .collect();
        let prefix = self.namespaces.inside("/").display().to_string();
        let names = leaks::files(&directories)
            .into_iter()
            .map(|name| name.replace(prefix.as_str(), "/"));
        snapshot.add(Kind::File, names.filter(|name| !is_layout(&self.root, name)));
        snapshot.add(Kind::Descriptor, leaks::descriptors(self.daemon_pid()));
        snapshot
    }

    /// Removes over CRI what the test left, and compares.
    ///
    /// Errors: something can't be removed; something more is held than before, [`SETTLE_LIMIT`] after the last removal.
    pub async fn remove_everything_and_compare(&mut self, before: &Snapshot) -> anyhow::Result<()> {
        if self.daemon.is_none() {
            self.restart().await?;
        }
        self.client.remove_everything().await?;
        self.nothing_more_than(before).await
    }

    /// Errors: something more is held than before, [`SETTLE_LIMIT`] from now.
    pub async fn nothing_more_than(&self, before: &Snapshot) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let mut more = self.snapshot().more_than(before);
            more.retain(|line| !self.given_up.iter().any(|id| line.contains(id.as_str())));
            if more.is_empty() {
                return Ok(());
            }
            if started.elapsed() > SETTLE_LIMIT {
                let shown = more
                    .iter()
                    .take(REPORTED_LEAKS)
                    .cloned()
                    .collect::<Vec<_>>()
                    .join("\n  ");
                bail!("{} things left behind:\n  {shown}", more.len());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Kills what runs for a container that the daemon can't know of any more because the test spoiled its record, and
    /// does not count what is left of it.
    pub fn give_up(&mut self, id: &str) -> anyhow::Result<()> {
        for process in self.namespaces.processes() {
            if process.cgroup.contains(id) || process.command_line.contains(id) {
                self.namespaces.run("kill", &["-9", &process.pid.to_string()])?;
            }
        }
        for mount in self.namespaces.mounts().iter().filter(|mount| mount.contains(id)) {
            self.namespaces.run("umount", &["-l", mount])?;
        }
        self.given_up.push(id.to_owned());
        Ok(())
    }

    /// SIGKILL for the monitor of a container; returns when it is gone.
    pub async fn kill9_monitor(&self, id: &str) -> anyhow::Result<()> {
        let is_monitor = |line: &str| line.contains("conmon-rs") && line.contains(id);
        let mut monitors = self.namespaces.processes();
        monitors.retain(|process| is_monitor(&process.command_line));
        if monitors.is_empty() {
            bail!("the container {id} has no monitor");
        }
        for monitor in monitors {
            self.namespaces.run("kill", &["-9", &monitor.pid.to_string()])?;
        }
        eventually("the monitor is gone", || {
            Ok(!self.processes_with(id).iter().any(|line| is_monitor(line)))
        })
        .await
    }

    /// The processes inside whose command line contains a text.
    pub fn processes_with(&self, text: &str) -> Vec<String> {
        let all = self
            .namespaces
            .processes()
            .into_iter()
            .map(|process| process.command_line);
        all.filter(|line| line.contains(text)).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = kill(daemon.pid, Signal::SIGKILL);
            let _ = daemon.outer.wait();
        }
        self.registry = None;
        for process in self.namespaces.processes() {
            if process.pid != 1 && process.command_line != KEEPER {
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

/// The node's own layout, which stays when the last pod and image are gone: directories beneath the ones that the test
/// made, but for those that bear the id of something.
fn is_layout(root: &Path, path: &str) -> bool {
    let path = Path::new(path);
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let depth = path.strip_prefix(root).map_or(0, |rest| rest.components().count());
    // host-local remembers the last address it gave, per network and range.
    let host_local = name.starts_with("last_reserved_ip") || name == "lock";
    host_local || (depth <= 2 && name.len() < 64)
}

fn make_directories(root: &Path) -> anyhow::Result<()> {
    for name in [
        "bin",
        "plugins",
        "crio.conf.d",
        "cni",
        "logs",
        "root",
        "runroot",
        "exits",
        "attach",
        "ns",
        "state",
        "oci",
    ] {
        fs::create_dir_all(root.join(name))?;
    }
    // Processes of containers, which are not root, must get through to what is bound into them.
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn write_configuration(root: &Path, runtime: Runtime) -> anyhow::Result<()> {
    let at = |name: &str| root.join(name).display().to_string();
    let mut toml = String::new();
    let name = runtime.name();
    write!(
        toml,
        "[crio]\nroot = \"{}\"\nrunroot = \"{}\"\n\
         [crio.api]\nlisten = \"{}\"\n\
         [crio.runtime]\ndefault_runtime = \"{name}\"\ncontainer_exits_dir = \"{}\"\ncontainer_attach_socket_dir = \"{}\"\n\
         namespaces_dir = \"{}\"\nlog_level = \"debug\"\n\
         [crio.runtime.runtimes.{name}]\nruntime_path = \"{}\"\nruntime_root = \"{}\"\n\
         [crio.image]\ninsecure_registries = [\"127.0.0.1:{REGISTRY_PORT}\", \"127.0.0.1:5001\", \"127.0.0.1:5003\"]\npull_progress_timeout = \"3s\"\n\
         [crio.network]\nnetwork_dir = \"{}\"\nplugin_dirs = [\"{}\", \"/opt/cni/bin\", \"/usr/lib/cni\"]\n\
         [crio_manager]\nstate_dir = \"{}\"\ncni_timeout = \"5s\"\nregistry_certs_dir = \"{}\"\n\
         registries_conf = \"{}\"\n",
        at("root"),
        at("runroot"),
        at("crio.sock"),
        at("exits"),
        at("attach"),
        at("ns"),
        find_program(name)?.display(),
        at("oci"),
        at("cni"),
        at("plugins"),
        at("state"),
        at("certs"),
        at("registries.conf"),
    )?;
    fs::write(root.join("crio.conf"), toml)?;
    let network = serde_json::json!({
        "cniVersion": "1.0.0", "name": "e2e",
        "plugins": [
            {
                "type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "dataDir": at("ipam"),
                    "ranges": [[{ "subnet": SUBNET }]], "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
        ],
    });
    fs::write(root.join("cni/10-e2e.conflist"), network.to_string())?;
    Ok(())
}

/// What must be so inside the namespaces before the daemon starts: `/run` is a place of the node's own, loopback is up,
/// and crun 1.8, which takes a cgroup2 mount beside v1 controllers for an unknown layout, sees none.
fn preparation(runtime: Runtime) -> String {
    let mut script =
        "mount -t tmpfs -o mode=755 tmpfs /run\nmkdir -p /run/netns /run/lock\nip link set lo up".to_owned();
    if runtime == Runtime::Crun {
        script += "\nif mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi";
    }
    script
}

/// Names of cgroups are the machine's own, not the namespace's.
fn unique_cgroup() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!(
        "/crio-e2e-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

fn daemon_command(namespaces: &Namespaces, root: &Path) -> std::process::Command {
    let directory = std::env::var_os("CRIO_MANAGER_BIN_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bin"),
        PathBuf::from,
    );
    let mut command = namespaces.command(directory.join("crio-manager"));
    command
        .arg("--config")
        .arg(root.join("crio.conf"))
        .arg("--config-dir")
        .arg(root.join("crio.conf.d"));
    command
}

async fn start_daemon(namespaces: &Namespaces, root: &Path) -> anyhow::Result<(Client, Daemon)> {
    let path = root.join("daemon.log");
    let log = fs::File::options().create(true).append(true).open(&path)?;
    let mut outer = daemon_command(namespaces, root)
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

/// Whether a process is there as long as the node is: what holds its namespaces, the registry, the daemon.
fn is_of_the_node(command_line: &str) -> bool {
    let (program, arguments) = command_line.split_once(' ').unwrap_or((command_line, ""));
    let name = program.rsplit('/').next().unwrap_or(program);
    command_line == KEEPER
        || (name == "docker-registry" && arguments.starts_with("serve "))
        || (name == "crio-manager" && arguments.starts_with("--config "))
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
