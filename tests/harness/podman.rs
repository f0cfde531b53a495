//! Debian's Podman with a monitor of our choice: namespaces, storage and configuration of a test's own, and the check
//! that nothing is left.
//!
//! `PODMAN_TEST_MONITOR` names another monitor than the one that was built. With Debian's conmon a test that fails
//! tells of Podman or of the test; one that fails with ours alone tells of ours.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::image::TestImage;
use crate::leaks::{self, Kind, Snapshot};
use crate::namespaces::{KEEPER, Namespaces};
use crate::node::Runtime;
use crate::terminal::Terminal;
use crate::{POLL, SURELY};

/// The image that is there from the beginning.
pub const IMAGE: &str = "localhost/busybox:1";
/// The bridge of Podman's default network stays.
const BRIDGE: &str = "cni-podman0";
/// A copy of the monitor under test, in the test's directory.
const MONITOR: &str = "monitor";
/// What no `podman` takes; it is then ended, and the test fails.
const COMMAND_LIMIT_SECONDS: &str = "90";
/// How long cleanup in the background may take.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

/// Makes one `#[test]` of each function for both runtimes.
#[macro_export]
macro_rules! with_podman {
    ($($test:ident),+ $(,)?) => {
        $(mod $test {
            #[test] fn with_runc() { $crate::podman::with_podman($crate::Runtime::Runc, super::$test); }
            #[test] fn with_crun() { $crate::podman::with_podman($crate::Runtime::Crun, super::$test); }
        })+
    };
}

/// Runs one test on a Podman of its own. Panics when it fails or leaves something behind.
pub fn with_podman(runtime: Runtime, test: impl FnOnce(&Podman) -> anyhow::Result<()>) {
    let podman = Podman::start(runtime).unwrap_or_else(|error| panic!("Podman could not be set up: {error:#}"));
    let before = podman.snapshot();
    match catch_unwind(AssertUnwindSafe(|| test(&podman))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{error:#}"),
        Err(_) => panic!("the test panicked, see above"),
    }
    if let Err(error) = podman.remove_everything_and_compare(&before) {
        panic!("{error:#}");
    }
}

pub struct Podman {
    pub namespaces: Namespaces,
    /// Where the entries for the journal arrive.
    journal: UnixDatagram,
    runtime: Runtime,
    cgroup_parent: String,
    directory: tempfile::TempDir,
}

impl Podman {
    fn start(runtime: Runtime) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Podman takes no runroot of more than 50 characters, so it must not depend on where the project is.
        let directory = tempfile::Builder::new().prefix("podman-").tempdir_in("/tmp")?;
        for name in ["root", "run", "libpod", "cni", "tmp", "home", "journal"] {
            fs::create_dir(directory.path().join(name))?;
        }
        write_configuration(directory.path())?;
        // What the namespaces hide may hold the project: then Podman would take the machine's conmon without a word.
        let from = monitor();
        fs::copy(&from, directory.path().join(MONITOR)).with_context(|| from.display().to_string())?;
        let journal = UnixDatagram::bind(directory.path().join("journal/socket"))?;
        journal.set_read_timeout(Some(SURELY))?;
        let namespaces = Namespaces::create(&preparation(directory.path()))?;
        let podman = Podman {
            namespaces,
            journal,
            runtime,
            cgroup_parent: format!(
                "/podman-test-{}-{}",
                std::process::id(),
                COUNT.fetch_add(1, Ordering::Relaxed)
            ),
            directory,
        };
        let archive = podman.path("image.tar");
        TestImage::busybox()?.write_docker_archive(&archive, IMAGE)?;
        podman.run(&["load", "-q", "-i", &archive.display().to_string()])?;
        Ok(podman)
    }

    /// The monitor that this Podman is told to use.
    pub fn monitor(&self) -> PathBuf {
        self.path(MONITOR)
    }

    /// A path beneath the test's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The file that tells the exit of a container, which is there until Podman has read it.
    pub fn exit_file(&self, id: &str) -> PathBuf {
        self.path("libpod/exits").join(id)
    }

    // ---- commands

    /// `podman` with these arguments, ended when it takes too long.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_after(&[], arguments)
    }

    fn command_after(&self, wrapper: &[&str], arguments: &[&str]) -> Command {
        let mut command = self.namespaces.command("env");
        for (variable, file) in [
            ("CONTAINERS_CONF", "containers.conf"),
            ("CONTAINERS_STORAGE_CONF", "storage.conf"),
            ("TMPDIR", "tmp"),
            ("HOME", "home"),
        ] {
            command.env(variable, self.path(file));
        }
        command
            .args(wrapper)
            .args(["timeout", "--foreground", "--kill-after=5", COMMAND_LIMIT_SECONDS])
            .arg("podman")
            .arg("--conmon")
            .arg(self.monitor())
            .args(["--runtime", self.runtime.name(), "--tmpdir"])
            .arg(self.path("libpod"))
            .stdin(Stdio::null());
        // Names of cgroups are the machine's own, so each test has its parent for them.
        let words = match arguments {
            ["run" | "create", ..] => 1,
            ["pod", "create", ..] => 2,
            _ => 0,
        };
        let (verb, rest) = arguments.split_at(words);
        command.args(verb);
        if words > 0 {
            command.args(["--cgroup-parent", &self.cgroup_parent]);
        }
        command.args(rest);
        command
    }

    pub fn output(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        Ok(self.command(arguments).output()?)
    }

    /// Its standard output without the last line end.
    ///
    /// Errors: it does not end with 0; what it said is part of the error.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.output(arguments)?;
        ensure!(output.status.success(), "podman {arguments:?}: {}", told(&output));
        Ok(String::from_utf8_lossy(&output.stdout)
            .trim_end_matches('\n')
            .to_owned())
    }

    /// Its exit code.
    pub fn code(&self, arguments: &[&str]) -> anyhow::Result<i32> {
        let output = self.output(arguments)?;
        output.status.code().context("no exit code")
    }

    /// What it writes when it reads `input`.
    pub fn fed(&self, arguments: &[&str], input: &[u8]) -> anyhow::Result<Output> {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        let input = input.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output()?;
        writer
            .join()
            .map_err(|_| anyhow::anyhow!("the writer panicked"))?
            .with_context(|| told(&output))?;
        Ok(output)
    }

    /// The same at a terminal.
    pub fn terminal(&self, arguments: &[&str], rows: u16, columns: u16) -> anyhow::Result<Terminal> {
        Terminal::run(self.command_after(&["setsid", "--ctty"], arguments), rows, columns)
    }

    // ---- what is so

    /// A field of a container as Podman tells it, by its Go template.
    pub fn inspect(&self, name: &str, field: &str) -> anyhow::Result<String> {
        self.run(&["inspect", name, "--format", &format!("{{{{{field}}}}}")])
    }

    /// Waits until the log of a container has this text.
    pub fn logs_have(&self, name: &str, text: &str) -> anyhow::Result<()> {
        self.until(&format!("the log of {name} has {text:?}"), || {
            Ok(self.run(&["logs", name])?.contains(text))
        })
    }

    pub fn until(&self, what: &str, mut is_so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let started = Instant::now();
        while !is_so()? {
            ensure!(started.elapsed() < SURELY, "after {SURELY:?} still not: {what}");
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// The next entry about a container that the journal was sent, by field. Podman's own are left out.
    pub fn journal_entry(&self) -> anyhow::Result<BTreeMap<String, String>> {
        loop {
            let mut packet = vec![0; 65536];
            let count = self
                .journal
                .recv(&mut packet)
                .context("nothing was sent to the journal")?;
            let entry = fields(packet.get(..count).unwrap_or_default()).context("an entry that is none")?;
            if entry.contains_key("CONTAINER_ID_FULL") && !entry.contains_key("PODMAN_EVENT") {
                return Ok(entry);
            }
        }
    }

    // ---- leaks

    /// Mounts, interfaces, cgroups and processes that there are now.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        // Podman mounts these for itself: the first for ever, the second while it works.
        let own = ["/run/netns".to_owned(), self.path("root/overlay").display().to_string()];
        let mounts = self.namespaces.mounts().into_iter();
        snapshot.add(Kind::Mount, mounts.filter(|mount| !own.contains(mount)));
        let interfaces = self.namespaces.interfaces().into_iter().filter(|name| name != BRIDGE);
        snapshot.add(Kind::Interface, interfaces);
        // All monitors of a parent are in one cgroup, which Podman keeps; so it does a pod's in systemd's hierarchy.
        let cgroups = leaks::cgroups(&self.cgroup_parent).into_iter();
        snapshot.add(
            Kind::Cgroup,
            cgroups.filter(|path| !path.ends_with("/conmon") && !path.contains("/systemd/")),
        );
        let processes = self.namespaces.processes().into_iter();
        let others = processes.filter(|process| process.pid != 1 && process.command_line != KEEPER);
        snapshot.add_processes(others.map(|process| (process.pid, process.command_line)));
        snapshot
    }

    fn remove_everything_and_compare(&self, before: &Snapshot) -> anyhow::Result<()> {
        self.run(&["pod", "rm", "--all", "--force", "--time", "0"])?;
        self.run(&["rm", "--all", "--force", "--time", "0"])?;
        let started = Instant::now();
        loop {
            let more = self.snapshot().more_than(before);
            if more.is_empty() {
                return Ok(());
            }
            if started.elapsed() > SETTLE_LIMIT {
                bail!("left behind:\n  {}", more.join("\n  "));
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        for process in self.namespaces.processes() {
            if process.pid != 1 && process.command_line != KEEPER {
                let _ = self.namespaces.run("kill", &["-9", &process.pid.to_string()]);
            }
        }
        // What was killed leaves its cgroup a moment later.
        let started = Instant::now();
        while !leaks::cgroup_parents(&self.cgroup_parent).is_empty() && started.elapsed() < SETTLE_LIMIT {
            leaks::remove_cgroups(&self.cgroup_parent);
            std::thread::sleep(POLL);
        }
    }
}

/// The fields of a journal entry: `NAME=value` and a line end; or the name, a line end, the length in eight bytes, the
/// value and a line end.
fn fields(mut rest: &[u8]) -> Option<BTreeMap<String, String>> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut fields = BTreeMap::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let (line, after) = (rest.get(..end)?, rest.get(end + 1..)?);
        let (name, value);
        if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            (name, value, rest) = (line.get(..equals)?, line.get(equals + 1..)?, after);
        } else {
            let length = usize::try_from(u64::from_le_bytes(after.get(..8)?.try_into().ok()?)).ok()?;
            (name, value, rest) = (line, after.get(8..8 + length)?, after.get(9 + length..)?);
        }
        fields.insert(text(name), text(value));
    }
    Some(fields)
}

/// How a command ended and what it said.
pub fn told(output: &Output) -> String {
    format!(
        "{}, stdout {:?}, stderr {:?}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The monitor under test, where it was built.
fn monitor() -> PathBuf {
    if let Some(path) = std::env::var_os("PODMAN_TEST_MONITOR") {
        return path.into();
    }
    let directory = std::env::var_os("CRIO_MANAGER_BIN_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bin"),
        PathBuf::from,
    );
    directory.join("conmon-rs")
}

/// The locks of all Podmans of a machine are one file in /dev/shm, the leases of CNI beneath /var/lib: so both are the
/// test's own. crun refuses a machine that has both versions of cgroups.
fn preparation(directory: &Path) -> String {
    format!(
        "if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
for place in /run /dev/shm /var/lib /var/tmp; do mount -t tmpfs tmpfs $place; done
mkdir -p /run/netns /run/lock /run/systemd/journal
mount --bind {}/journal /run/systemd/journal
ip link set lo up",
        directory.display()
    )
}

fn write_configuration(directory: &Path) -> anyhow::Result<()> {
    let at = |name: &str| directory.join(name).display().to_string();
    fs::write(
        directory.join("containers.conf"),
        format!(
            "[containers]\nnetns = \"none\"\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
             infra_image = \"{IMAGE}\"\n[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"/usr/lib/cni\"]\n\
             network_config_dir = \"{}\"\n",
            at("cni")
        ),
    )?;
    fs::write(
        directory.join("storage.conf"),
        format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            at("root"),
            at("run")
        ),
    )?;
    Ok(())
}
