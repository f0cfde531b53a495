//! A machine under systemd, made of namespaces and the kernel that is there: what `tests/hosts/tree.sh` installed, booted
//! by `tests/hosts/systemd.sh`, in cgroups beneath our own.
//!
//! It is used as a machine is: files by [`SystemdHost::inside`], commands by [`SystemdHost::run`], services by systemctl.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::process::{PidfdFlags, pidfd_open};
use tempfile::TempDir;

use crate::namespaces::{child_of, pid_of};

/// From start to all units of the target.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// From the request to the last process.
const POWEROFF_LIMIT: Duration = Duration::from_secs(120);
/// A cgroup is busy until its last process has been reaped.
const CGROUP_LIMIT: Duration = Duration::from_secs(20);
/// Between two looks at a busy cgroup, of which no event tells.
const POLL: Duration = Duration::from_millis(5);
const SUITE: &str = "bookworm";
/// Names another root file system than the one of `tests/hosts/tree.sh`.
const TREE: &str = "E2E_HOST_TREE";
/// In a host's cgroup of version 2, where processes have to be in a leaf: those that enter.
const ENTERED: &str = "entered";

/// The outer process dies with the thread that started the host, and takes the host along. It stays out of the host's
/// cgroups: systemd, to which it is not visible, could not move it out of their roots.
const BOOT: &str = r#"exec setpriv --pdeathsig KILL unshare --pid --fork --kill-child=SIGKILL --mount \
    --propagation private --net --uts --ipc sh -c 'set -e
for cgroup in $CGROUPS; do echo 0 >"$cgroup/cgroup.procs"; done
exec unshare --cgroup bash "$@"' boot "$@""#;
/// A process that enters must be in the host's cgroups first: from outside they cannot be reached.
const ENTER: &str = r#"set -e
for cgroup in $CGROUPS; do echo 0 >"$cgroup/cgroup.procs"; done
exec nsenter --target "$FIRST" --all -- env -i HOME=/root LANG=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@""#;

pub struct SystemdHost {
    /// `unshare`, which waits for systemd.
    outer: Child,
    systemd: Pid,
    /// One in each hierarchy of the machine; the roots of the host's.
    cgroups: Vec<PathBuf>,
    state: TempDir,
}

impl SystemdHost {
    /// Boots, and returns when systemd says that all is up; `None`, with the reason on standard error, where no such
    /// host can be had. `binds` are directories of the machine and their places inside.
    pub fn start(binds: &[(&Path, &str)]) -> anyhow::Result<Option<Self>> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
        let Some(tree) = tree(&repository) else {
            skipped("target/hosts has no Debian root file system (`make setup` makes it, and says why if it cannot)");
            return Ok(None);
        };
        if !rustix::process::geteuid().is_root() {
            skipped("only root can make namespaces");
            return Ok(None);
        }

        // Where files are on a disk: the host's /var/lib is there.
        let state = tempfile::Builder::new().prefix("crio-host-").tempdir_in("/var/tmp")?;
        let ready = UnixDatagram::bind(state.path().join("ready"))?;
        let console = fs::File::create(state.path().join("console"))?;
        let cgroups = make_cgroups()?;
        let mut arguments = vec![
            repository.join("tests/hosts/systemd.sh").display().to_string(),
            tree.display().to_string(),
            state.path().display().to_string(),
        ];
        arguments.extend(binds.iter().map(|(from, to)| format!("{}:{to}", from.display())));
        let outer = Command::new("sh")
            .args(["-c", BOOT, "boot"])
            .args(arguments)
            .env("CGROUPS", in_words(&cgroups))
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .spawn()
            .context("sh")?;
        // From here on a failure ends what there is.
        let mut host = SystemdHost {
            systemd: pid_of(&outer),
            outer,
            cgroups,
            state,
        };
        host.await_ready(&ready)
            .with_context(|| format!("the systemd host did not start; its console:\n{}", host.console()))?;
        host.systemd = child_of(pid_of(&host.outer)).context("unshare has no child")?;
        Ok(Some(host))
    }

    fn await_ready(&self, ready: &UnixDatagram) -> anyhow::Result<()> {
        let started = Instant::now();
        let outer = pidfd_of(pid_of(&self.outer))?;
        loop {
            let left = BOOT_LIMIT.saturating_sub(started.elapsed());
            match first_readable(&[ready.as_fd(), outer.as_fd()], left)? {
                Some(0) => {
                    let mut message = [0; 4096];
                    let length = ready.recv(&mut message)?;
                    let text = String::from_utf8_lossy(&message[..length]);
                    if text.lines().any(|line| line == "READY=1") {
                        return Ok(());
                    }
                }
                Some(_) => bail!("it ended"),
                None => bail!("not up after {BOOT_LIMIT:?}"),
            }
        }
    }

    /// A command that will run inside, as root, with an environment of the host's.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", ENTER, "enter"])
            .arg(program.as_ref())
            .env("CGROUPS", in_words(&entrances(&self.cgroups)))
            .env("FIRST", self.systemd.to_string());
        command
    }

    /// Runs a command inside to its end and gives its standard output.
    pub fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(program).args(arguments).output().context("sh")?;
        ensure!(
            output.status.success(),
            "{program} {arguments:?}: {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A path of the host, seen from outside.
    pub fn inside(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        Path::new("/proc")
            .join(self.systemd.to_string())
            .join("root")
            .join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What systemd and the units without a place of their own have said.
    pub fn console(&self) -> String {
        fs::read(self.state.path().join("console")).map_or_else(
            |error| error.to_string(),
            |text| String::from_utf8_lossy(&text).into_owned(),
        )
    }

    /// Where the host's cgroups are on the machine.
    pub fn cgroups(&self) -> &[PathBuf] {
        &self.cgroups
    }

    /// Powers off: systemd stops every unit, then nothing is left of the host on the machine.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.power_off()
            .with_context(|| format!("the host's console:\n{}", self.console()))
    }

    fn power_off(&mut self) -> anyhow::Result<()> {
        if self.outer.try_wait()?.is_none() {
            let outer = pidfd_of(pid_of(&self.outer))?;
            // The signal for it, see systemd(1): it needs no bus.
            let sent = Command::new("kill")
                .args(["-s", "RTMIN+4", &self.systemd.to_string()])
                .status()?;
            ensure!(sent.success(), "kill: {sent}");
            if first_readable(&[outer.as_fd()], POWEROFF_LIMIT)?.is_none() {
                bail!("not off after {POWEROFF_LIMIT:?}");
            }
            self.outer.wait()?;
        }
        remove_cgroups(&self.cgroups)
    }
}

impl Drop for SystemdHost {
    fn drop(&mut self) {
        if self.power_off().is_err() {
            let _ = kill(self.systemd, Signal::SIGKILL); // takes every process inside along
            let _ = self.outer.wait();
            let _ = remove_cgroups(&self.cgroups);
        }
    }
}

/// Past the capture of the test runner: what was not tested is always seen.
fn skipped(reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: no systemd host: {reason}");
}

/// The root file system that a host gets, if it has been made.
fn tree(repository: &Path) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(TREE) {
        return Some(PathBuf::from(named));
    }
    let tree = repository.join("target/hosts").join(SUITE);
    tree.with_extension("packages").exists().then_some(tree)
}

fn pidfd_of(pid: Pid) -> anyhow::Result<rustix::fd::OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid.as_raw()).context("no process")?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// The index of the first one that has something to tell; `None` when the time is over.
fn first_readable(watched: &[rustix::fd::BorrowedFd<'_>], limit: Duration) -> anyhow::Result<Option<usize>> {
    let mut polled: Vec<_> = watched.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    poll(&mut polled, Some(&Timespec::try_from(limit)?))?;
    Ok(polled.iter().position(|fd| !fd.revents().is_empty()))
}

fn in_words(paths: &[PathBuf]) -> String {
    let words: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    words.join(" ")
}

/// A cgroup in each hierarchy of the machine: beneath our own, or, where version 2 is alone, beneath its root with all the
/// controllers there are, because a cgroup with processes hands none down.
fn make_cgroups() -> anyhow::Result<Vec<PathBuf>> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "crio-host-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    );
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let unified = own.lines().count() == 1;
    let mut made = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let Some(mount) = mount_of(&mounts, controllers) else {
            continue;
        };
        let parent = if unified {
            hand_down_all(Path::new(mount))?;
            PathBuf::from(mount)
        } else {
            Path::new(mount).join(path.trim_start_matches('/'))
        };
        let cgroup = parent.join(&name);
        fs::create_dir(&cgroup).with_context(|| cgroup.display().to_string())?;
        if controllers.is_empty() {
            fs::create_dir(cgroup.join(ENTERED))?;
        }
        if controllers.split(',').any(|controller| controller == "cpuset") {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(cgroup.join(file), fs::read(parent.join(file))?)?;
            }
        }
        made.push(cgroup);
    }
    ensure!(!made.is_empty(), "no cgroup hierarchy is mounted");
    Ok(made)
}

fn hand_down_all(cgroup: &Path) -> anyhow::Result<()> {
    let controllers = fs::read_to_string(cgroup.join("cgroup.controllers"))?;
    let all: String = controllers.split_whitespace().map(|name| format!("+{name} ")).collect();
    let to = cgroup.join("cgroup.subtree_control");
    fs::write(&to, all).with_context(|| to.display().to_string())
}

/// Where in a host's cgroups a process comes in.
fn entrances(cgroups: &[PathBuf]) -> Vec<PathBuf> {
    let entrance = |cgroup: &PathBuf| Some(cgroup.join(ENTERED)).filter(|leaf| leaf.exists());
    cgroups
        .iter()
        .map(|cgroup| entrance(cgroup).unwrap_or_else(|| cgroup.clone()))
        .collect()
}

/// Where a hierarchy is mounted, by its controllers; without any it is version 2.
fn mount_of<'a>(mountinfo: &'a str, controllers: &str) -> Option<&'a str> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let (kind, options) = (right.split(' ').next()?, right.split(' ').next_back()?);
        let fits = if controllers.is_empty() {
            kind == "cgroup2"
        } else {
            kind == "cgroup" && controllers.split(',').all(|name| options.split(',').any(|o| o == name))
        };
        left.split(' ').nth(4).filter(|_| fits)
    })
}

fn remove_cgroups(cgroups: &[PathBuf]) -> anyhow::Result<()> {
    let started = Instant::now();
    for cgroup in cgroups {
        while cgroup.exists() {
            match remove_tree(cgroup) {
                Ok(()) => break,
                Err(error) if started.elapsed() > CGROUP_LIMIT => {
                    return Err(error).with_context(|| format!("{} stays", cgroup.display()));
                }
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }
    Ok(())
}

/// Innermost first; a cgroup's files go with it.
fn remove_tree(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
