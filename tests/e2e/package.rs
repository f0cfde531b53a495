//! The life of the Debian package on a systemd host: installed, upgraded and downgraded under a running container, purged.
//! What an administrator would type, and what is answered, is printed.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use cri::v1::{ContainerState, LinuxPodSandboxConfig, NamespaceMode, PodSandboxConfig, PodSandboxMetadata};
use e2e::client::{RunningPod, pod_security};
use e2e::{Client, SystemdHost, TestImage, eventually, sh};
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(60);
const UNIT: &str = "crio-manager.service";
const IMAGE: &str = "e2e.test/busybox:1";
/// Inside; on a real file system, see tests/hosts/systemd.sh.
const PACKAGES: &str = "/var/lib/packages";

/// Of each kind of file that the package is to have.
const DELIVERED: [&str; 15] = [
    "/usr/bin/crio-manager",
    "/usr/bin/conmon-rs",
    "/usr/bin/crio-pause",
    "/usr/lib/systemd/system/crio-manager.service",
    "/usr/lib/systemd/system/crio-manager.socket",
    "/etc/crio/crio.conf",
    "/etc/crictl.yaml",
    "/usr/share/man/man8/crio-manager.8.gz",
    "/usr/share/man/man8/conmon-rs.8.gz",
    "/usr/share/man/man5/crio.conf.5.gz",
    "/usr/share/bash-completion/completions/crio-manager",
    "/usr/share/zsh/vendor-completions/_crio-manager",
    "/usr/share/fish/vendor_completions.d/crio-manager.fish",
    "/usr/share/doc/crio-manager/examples/10-bridge.conflist",
    "/usr/share/doc/crio-manager/copyright",
];
/// Containers that are left running of those that are made while a package is installed.
const KEPT: usize = 5;
/// How often a call is made that is cut off.
const ATTEMPTS: usize = 5;

/// What a package leaves could be in these; what else changes there, systemd, dpkg and the journal do.
const LOOKED_AT: [&str; 7] = ["/etc", "/usr", "/opt", "/root", "/run", "/var/lib", "/var/cache"];
const OF_THE_HOST: [&str; 9] = [
    "/run/systemd",
    "/run/user",
    "/run/log",
    "/run/lock",
    "/run/dbus",
    "/run/host",
    "/var/lib/dpkg",
    "/var/lib/systemd",
    PACKAGES,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_package_is_installed_upgraded_downgraded_and_purged_around_a_running_container() {
    let Some(host) = SystemdHost::start(&[]).unwrap() else {
        return;
    };
    let packages = host.inside(PACKAGES);
    fs::create_dir(&packages).unwrap();
    // The tree was made without manuals; a package is installed with all it has.
    fs::remove_file(host.inside("/etc/dpkg/dpkg.cfg.d/99mmdebstrap")).unwrap();
    let (old, new) = (
        built("0.1.0-1", &packages).unwrap(),
        built("0.1.0-2", &packages).unwrap(),
    );
    let machine = Machine { host };
    if let Err(error) = life(&machine, &old, &new).await {
        panic!(
            "{error:#}\n{}",
            machine.host.run("journalctl", &["--no-pager", "-u", UNIT]).unwrap()
        );
    }
    machine.host.stop().unwrap();
}

async fn life(machine: &Machine, old: &str, new: &str) -> anyhow::Result<()> {
    let before = machine.traces()?;
    // crun 1.8 refuses version 1 with a version 2 mount beside it.
    let drop_in = machine.host.inside("/etc/crio/crio.conf.d");
    fs::create_dir_all(&drop_in)?;
    fs::write(
        drop_in.join("10-test.conf"),
        "[crio.runtime]\ndefault_runtime = \"runc\"\n",
    )?;

    machine.types(&format!("dpkg -i {old}"))?;
    let version = machine.types("dpkg-query -W crio-manager")?;
    ensure!(version.ends_with("\t0.1.0-1\n"), "{version}");
    ensure!(machine.types("systemctl is-enabled crio-manager")? == "enabled\n");
    ensure!(machine.types("systemctl is-active crio-manager crio-manager.socket")? == "active\nactive\n");
    ensure!(machine.types("systemctl is-enabled crio-manager.socket")? == "enabled\n");
    ensure!(
        machine.types("dpkg --verify crio-manager")?.is_empty(),
        "files differ from the package's"
    );
    let installed = machine.host.run("dpkg", &["-L", "crio-manager"])?;
    for path in DELIVERED {
        ensure!(installed.lines().any(|line| line == path), "no {path} in {installed}");
    }

    TestImage::busybox()?.write_docker_archive(&machine.host.inside("/var/lib/packages/busybox.tar"), IMAGE)?;
    machine.types("crio-manager image load /var/lib/packages/busybox.tar")?;
    let client = machine.connected().await?;
    let pod = running_pod(&client).await?;
    let script = |end: &str, code: u8| format!("while [ ! -e /{end} ]; do sleep 0.05; done; exit {code}");
    let (first, second) = (
        pod.sh("first", &script("end", 7)).await?,
        pod.sh("second", &script("end", 9)).await?,
    );
    let pids = (client.pid(&first).await?, client.pid(&second).await?);
    println!(
        "# container {first} has pid {}, container {second} pid {}",
        pids.0, pids.1
    );
    let daemon = machine.main_pid()?;

    let creating = Creations::start(machine, pod_of(&client, &pod), "up");
    machine.types(&format!("dpkg -i {new}"))?;
    let upgraded = machine.main_pid()?;
    ensure!(upgraded != daemon && upgraded != "0", "the daemon is still {daemon}");
    let client = machine.connected().await?;
    creating.stand().await?;
    ensure!(
        (client.pid(&first).await?, client.pid(&second).await?) == pids,
        "other processes"
    );
    end(&client, &first).await?;
    let exit = client.exited(&first, SOON).await?.exit_code;
    ensure!(exit == 7, "{exit}");
    println!(
        "# upgraded: daemon {daemon} is {upgraded} now; the pids are the same; {first} was ended by an exec: exit code 7"
    );

    let creating = Creations::start(machine, pod_of(&client, &pod), "down");
    machine.types(&format!("dpkg -i {old}"))?;
    let downgraded = machine.main_pid()?;
    ensure!(
        downgraded != upgraded && downgraded != "0",
        "the daemon is still {upgraded}"
    );
    let client = machine.connected().await?;
    creating.stand().await?;
    ensure!(
        client.status(&first).await?.exit_code == 7,
        "the exit code is known to each daemon"
    );
    ensure!(client.pid(&second).await? == pids.1, "another process");
    end(&client, &second).await?;
    let exit = client.exited(&second, SOON).await?.exit_code;
    ensure!(exit == 9, "{exit}");
    println!(
        "# downgraded: daemon {upgraded} is {downgraded} now; the pid is the same; {second} was ended: exit code 9"
    );

    let last = pod_of(&client, &pod).sh("last", "sleep 100000").await?;
    println!("# container {last} runs");
    machine.types("crio-manager status")?;
    machine.types("dpkg --purge crio-manager")?;
    let after = machine.traces()?;
    let left: Vec<_> = after.difference(&before).collect();
    ensure!(left.is_empty(), "left behind: {left:#?}");
    // The socket was stopped before the service, or a call would have started what is no longer there.
    let units = machine.types("systemctl list-units --all --plain --no-legend 'crio*'")?;
    ensure!(units.is_empty(), "{units}");
    println!("# no file, mount, cgroup or process more than before the installation");
    ensure!(machine.types("systemctl is-system-running")? == "running\n");
    Ok(())
}

/// Containers that are made, started and removed one after the other while something else happens.
struct Creations {
    over: Arc<AtomicBool>,
    made: JoinHandle<anyhow::Result<Creator>>,
}

/// As a kubelet does it: who is cut off connects and asks again.
struct Creator {
    pod: RunningPod,
    socket: PathBuf,
    /// The last ones made, with their first processes.
    kept: VecDeque<(String, i32)>,
    asked_again: usize,
}

impl Creator {
    async fn again<T, F: Future<Output = anyhow::Result<T>>>(
        &mut self,
        ask: impl Fn(RunningPod) -> F,
    ) -> anyhow::Result<T> {
        for _ in 1..ATTEMPTS {
            if let Ok(answer) = ask(pod_of(&self.pod.client, &self.pod)).await {
                return Ok(answer);
            }
            self.asked_again += 1;
            self.pod.client = Client::connect(&self.socket).await?;
        }
        ask(pod_of(&self.pod.client, &self.pod)).await
    }

    async fn make(&mut self, name: String) -> anyhow::Result<()> {
        let config = sh(&name, &self.pod.image, "sleep 100000");
        let made = self.again(|pod| {
            let config = config.clone();
            async move {
                let id = pod.create(&config).await?;
                if pod.client.status(&id).await?.state() != ContainerState::ContainerRunning {
                    pod.client.start(&id).await?;
                }
                let pid = pod.client.pid(&id).await?;
                Ok((id, pid))
            }
        });
        let made = made.await.with_context(|| format!("make {name}"))?;
        self.kept.push_back(made);
        Ok(())
    }

    async fn remove_oldest(&mut self) -> anyhow::Result<()> {
        let Some((id, _)) = self.kept.pop_front() else {
            return Ok(());
        };
        let removed = self.again(|pod| {
            let id = id.clone();
            async move { Ok(pod.client.remove(&id).await?) }
        });
        removed.await.with_context(|| format!("remove {id}"))
    }
}

impl Creations {
    fn start(machine: &Machine, pod: RunningPod, names: &'static str) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut creator = Creator {
            pod,
            socket: machine.socket(),
            kept: VecDeque::new(),
            asked_again: 0,
        };
        let ended = over.clone();
        let made = tokio::spawn(async move {
            let mut number = 0;
            while !ended.load(Ordering::SeqCst) {
                creator.make(format!("{names}-{number}")).await?;
                number += 1;
                if creator.kept.len() > KEPT {
                    creator.remove_oldest().await?;
                }
            }
            ensure!(number > 1, "nothing was created meanwhile");
            println!(
                "# {number} containers were made meanwhile; {} calls were asked again",
                creator.asked_again
            );
            Ok(creator)
        });
        Self { over, made }
    }

    /// Every creation had its result, and what is left of them runs, the same processes.
    async fn stand(self) -> anyhow::Result<()> {
        self.over.store(true, Ordering::SeqCst);
        let mut creator = self.made.await??;
        // Over a new connection: the last one may be to the daemon that left.
        creator.pod.client = Client::connect(&creator.socket).await?;
        for (id, pid) in creator.kept.clone() {
            let found = creator.pod.client.pid(&id).await?;
            ensure!(found == pid, "another process: {found}, was {pid}");
            ensure!(creator.pod.client.output(&id, &["echo", "alive"]).await? == "alive\n");
            creator.remove_oldest().await?;
        }
        Ok(())
    }
}

/// Has a container end. It may take the command along before that has ended itself.
async fn end(client: &Client, id: &str) -> anyhow::Result<()> {
    client.exec(id, &["touch", "/end"], 0).await?;
    Ok(())
}

/// Builds the package, and gives its path inside.
fn built(version: &str, packages: &Path) -> anyhow::Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/deb.sh");
    let build = Command::new(script)
        .arg(packages)
        .arg(version)
        .env("BIN", e2e::node::programs())
        .env("COMPRESSION", "gzip")
        .output()?;
    let said = String::from_utf8_lossy(&build.stderr);
    ensure!(build.status.success(), "deb.sh: {said}");
    let path = String::from_utf8(build.stdout)?;
    let name = path.trim().rsplit('/').next().context("a path")?.to_owned();
    Ok(format!("{PACKAGES}/{name}"))
}

struct Machine {
    host: SystemdHost,
}

impl Machine {
    /// As an administrator at a shell: shown with what it answers.
    fn types(&self, line: &str) -> anyhow::Result<String> {
        println!("$ {line}");
        let answer = self.host.run("sh", &["-c", &format!("{line} 2>&1")])?;
        print!("{answer}");
        Ok(answer)
    }

    async fn connected(&self) -> anyhow::Result<Client> {
        let socket = self.socket();
        eventually("the daemon takes calls", || Ok(UnixStream::connect(&socket).is_ok())).await?;
        Client::connect(&socket).await
    }

    fn socket(&self) -> PathBuf {
        self.host.inside("/run/crio/crio.sock")
    }

    fn main_pid(&self) -> anyhow::Result<String> {
        let answer = self
            .host
            .run("systemctl", &["show", "--property=MainPID", "--value", UNIT])?;
        Ok(answer.trim().to_owned())
    }

    /// Files, mounts, cgroups and processes, as far as a container runtime could have to do with them.
    fn traces(&self) -> anyhow::Result<BTreeSet<String>> {
        let pruned = OF_THE_HOST.map(|path| format!("-path {path} -prune")).join(" -o ");
        let script = format!(
            "find {} \\( {pruned} \\) -o -printf 'file %p\\n'\n\
             cut -d' ' -f5 /proc/self/mountinfo | sed 's/^/mount /'\n\
             find /sys/fs/cgroup -type d \\( -name 'crio*' -o -name 'kubepods*' \\) -printf 'cgroup %p\\n'\n\
             ps -e -o comm= | grep -E '^(conmon|crio|pause|runc|sleep)' | sed 's/^/process /' || :",
            LOOKED_AT.join(" ")
        );
        let all = self.host.run("sh", &["-c", &script])?;
        Ok(all.lines().map(str::to_owned).collect())
    }
}

async fn running_pod(client: &Client) -> anyhow::Result<RunningPod> {
    // With a process of its own: the pause program and its monitor are of the package too.
    let mut security = pod_security(NamespaceMode::Node);
    if let Some(namespaces) = &mut security.namespace_options {
        namespaces.pid = NamespaceMode::Pod.into();
    }
    let config = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "lasting".to_owned(),
            uid: "uid-lasting".to_owned(),
            namespace: "e2e".to_owned(),
            attempt: 0,
        }),
        log_directory: "/var/log/pods/lasting".to_owned(),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(security),
            ..Default::default()
        }),
        ..Default::default()
    };
    Ok(RunningPod {
        id: client.run_pod(&config).await?,
        config,
        image: IMAGE.to_owned(),
        client: client.clone(),
    })
}

/// The same pod, by another daemon.
fn pod_of(client: &Client, pod: &RunningPod) -> RunningPod {
    RunningPod {
        id: pod.id.clone(),
        config: pod.config.clone(),
        image: pod.image.clone(),
        client: client.clone(),
    }
}
