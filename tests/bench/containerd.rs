//! Debian's containerd as a node: namespaces, root, state and socket of its own, the same runc, the same CNI network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use e2e::image::file;
use e2e::leaks;
use e2e::namespaces::{Namespaces, child_of, pid_of};
use e2e::registry::{Access, Registry};
use e2e::{Client, TestImage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const READY_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
const PAUSE: &str = "127.0.0.1:5000/bench/pause:1";

pub struct Containerd {
    pub client: Client,
    pub namespaces: Namespaces,
    pub cgroup_parent: String,
    registry: Registry,
    /// `nsenter`, which waits for the daemon.
    outer: Child,
    pid: Pid,
    directory: tempfile::TempDir,
}

impl Containerd {
    pub async fn start() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("bench-").tempdir_in("/var/tmp")?;
        let root = directory.path();
        for name in ["root", "state", "cni", "logs"] {
            fs::create_dir(root.join(name))?;
        }
        write_configuration(root)?;
        let namespaces = Namespaces::create(
            "mount -t tmpfs -o mode=755 tmpfs /run\nmkdir -p /run/netns /run/lock\nip link set lo up",
        )?;
        let registry = Registry::start(&namespaces, &root.join("registry"), 5000, Access::Open)?;
        let (client, outer, pid) = start_daemon(&namespaces, root).await?;
        let containerd = Containerd {
            client,
            namespaces,
            cgroup_parent: format!("/bench-{}", std::process::id()),
            registry,
            outer,
            pid,
            directory,
        };
        containerd.push("bench/pause:1", &pause()?)?;
        Ok(containerd)
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn push(&self, name: &str, image: &TestImage) -> anyhow::Result<String> {
        self.registry.push(&self.namespaces, name, image)
    }

    /// Starts the daemon again, once it is stopped.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        (self.client, self.outer, self.pid) = start_daemon(&self.namespaces, self.directory.path()).await?;
        Ok(())
    }

    /// Ends the daemon alone; what runs goes on.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        kill(self.pid, Signal::SIGTERM)?;
        let started = Instant::now();
        while self.outer.try_wait()?.is_none() {
            if started.elapsed() > READY_LIMIT {
                bail!("containerd does not end");
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if matches!(self.outer.try_wait(), Ok(None)) {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = self.outer.wait();
        }
        leaks::remove_cgroups(&self.cgroup_parent);
    }
}

async fn start_daemon(namespaces: &Namespaces, root: &Path) -> anyhow::Result<(Client, Child, Pid)> {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(root.join("daemon.log"))?;
    let mut outer = namespaces
        .command("containerd")
        .arg("--config")
        .arg(root.join("config.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    match ready(&root.join("containerd.sock"), &mut outer).await {
        Ok((client, pid)) => Ok((client, outer, pid)),
        Err(error) => {
            if let Some(pid) = child_of(pid_of(&outer)) {
                let _ = kill(pid, Signal::SIGKILL);
            }
            let _ = outer.wait();
            let log = fs::read_to_string(root.join("daemon.log")).unwrap_or_default();
            Err(error.context(log))
        }
    }
}

async fn ready(socket: &Path, outer: &mut Child) -> anyhow::Result<(Client, Pid)> {
    let started = Instant::now();
    loop {
        if let Some(status) = outer.try_wait()? {
            bail!("containerd ended with {status}");
        }
        if let Ok(client) = Client::connect(socket).await
            && client.version().await.is_ok()
            && let Some(pid) = child_of(pid_of(outer))
        {
            return Ok((client, pid));
        }
        if started.elapsed() > READY_LIMIT {
            bail!("containerd does not answer");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What containerd runs in each pod: here the smallest there is, our own.
fn pause() -> anyhow::Result<TestImage> {
    let program = std::env::var_os("CRIO_MANAGER_BIN_DIR").map_or_else(|| "target/bin".into(), PathBuf::from);
    let program = program.join("crio-pause");
    let bytes = fs::read(&program).with_context(|| program.display().to_string())?;
    Ok(TestImage::busybox()?
        .with_layer(|archive| file(archive, "pause", 0o755, &bytes))?
        .declaring("Entrypoint", serde_json::json!(["/pause"]))
        .declaring("Cmd", serde_json::json!([])))
}

fn write_configuration(root: &Path) -> anyhow::Result<()> {
    let at = |name: &str| root.join(name).display().to_string();
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    // A score below our own can't be had without CAP_SYS_RESOURCE.
    fs::write(
        root.join("config.toml"),
        format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\n[grpc]\naddress = \"{}\"\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{}\"\n\
             [{cri}]\nsandbox_image = \"{PAUSE}\"\nrestrict_oom_score_adj = true\n\
             [{cri}.cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = \"{}\"\n\
             [{cri}.containerd]\nsnapshotter = \"overlayfs\"\ndefault_runtime_name = \"runc\"\n\
             [{cri}.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n",
            at("root"),
            at("state"),
            at("containerd.sock"),
            at("opt"),
            at("cni")
        ),
    )?;
    fs::write(
        root.join("cni/10-bench.conflist"),
        crate::floor::network(root).to_string(),
    )?;
    Ok(())
}
