//! Mount, network and process namespaces of a node's own. Whatever runs in them ends when they are dropped, also when
//! the test is killed: their first process lives as long as a pipe that the test holds.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fd::AsFd as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The command line of what keeps the namespaces: no container of ours has the like.
pub const KEEPER: &str = "cat -- /dev/fd/3";

pub struct Namespaces {
    /// `unshare`, which waits for the first process.
    outer: Child,
    first: Pid,
    processes: Processes,
}

/// Whether the namespaces have one for processes among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Processes {
    Own,
    Shared,
}

impl Namespaces {
    /// `preparation` is shell text that runs inside before anything else.
    pub fn create(preparation: &str) -> anyhow::Result<Self> {
        Self::with(preparation, Processes::Own)
    }

    /// The same, but processes have the machine's numbers, and do not end with the namespaces.
    pub fn among_the_machines_processes(preparation: &str) -> anyhow::Result<Self> {
        Self::with(preparation, Processes::Shared)
    }

    fn with(preparation: &str, processes: Processes) -> anyhow::Result<Self> {
        // The shell reaps the orphans of the namespace while it waits for the keeper, which ends with the test.
        let script = format!("set -e\n{preparation}\nexec 3<&0\n{KEEPER} >/dev/null &\necho ready\nwait $!");
        let mut outer = Command::new("unshare")
            .args(["--mount", "--net", "--fork", "--propagation", "private"])
            .args(match processes {
                Processes::Own => &["--pid", "--mount-proc"][..],
                Processes::Shared => &[],
            })
            .args(["sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare")?;
        let mut line = String::new();
        let answer = outer.stdout.take().context("no standard output")?;
        BufReader::new(answer).read_line(&mut line)?;
        if line.trim() != "ready" {
            bail!(
                "the namespaces could not be made (this needs root): unshare ended with {}",
                outer.wait()?
            );
        }
        let first = child_of(pid_of(&outer)).context("unshare has no child")?;
        Ok(Namespaces {
            outer,
            first,
            processes,
        })
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first.to_string(), "--mount", "--net", "--pid", "--"]);
        command.arg(program.as_ref());
        command
    }

    /// Runs a command inside to its end and gives its standard output.
    pub fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self
            .command(program)
            .args(arguments)
            .output()
            .with_context(|| program.to_owned())?;
        if !output.status.success() {
            bail!(
                "{program} {arguments:?}: {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A path as it is inside, seen from outside.
    pub fn inside(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        Path::new("/proc")
            .join(self.first.to_string())
            .join("root")
            .join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The processes inside, by their numbers inside, with command line and cgroup; zombies are left out.
    pub fn processes(&self) -> Vec<Process> {
        let Ok(entries) = std::fs::read_dir(self.inside("/proc")) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| Process::read(&entry.path()))
            .collect()
    }

    /// Whether a process of [`Self::processes`] is the first one, or waits for one that was sent inside.
    pub fn keeps(&self, process: &Process) -> bool {
        let sender = format!("nsenter --target {} ", self.first);
        match self.processes {
            Processes::Own => process.pid == 1,
            Processes::Shared => process.pid == self.first.as_raw() || process.command_line.starts_with(&sender),
        }
    }

    /// Whether a process of [`Self::processes`] sees the mounts of these namespaces; all do whose numbers are inside.
    pub fn has_sight_of(&self, process: &Process) -> bool {
        let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        match self.processes {
            Processes::Own => true,
            Processes::Shared => namespace(process.pid) == namespace(self.first.as_raw()),
        }
    }

    pub fn mounts(&self) -> Vec<String> {
        let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", self.first)).unwrap_or_default();
        table
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .map(str::to_owned)
            .collect()
    }

    /// The network interfaces of the node.
    pub fn interfaces(&self) -> Vec<String> {
        let table = std::fs::read_to_string(format!("/proc/{}/net/dev", self.first)).unwrap_or_default();
        table
            .lines()
            .skip(2)
            .filter_map(|line| line.split(':').next())
            .map(|name| name.trim().to_owned())
            .collect()
    }

    /// A connection from inside the node's network.
    pub fn connect(&self, address: SocketAddr) -> anyhow::Result<TcpStream> {
        self.in_network(move || TcpStream::connect_timeout(&address, CONNECT_LIMIT))?
            .with_context(|| format!("connecting to {address} from inside the node"))
    }

    /// A listener inside the node's network.
    pub fn listen(&self, address: SocketAddr) -> anyhow::Result<TcpListener> {
        self.in_network(move || TcpListener::bind(address))?
            .with_context(|| format!("listening on {address}"))
    }

    /// A socket stays in the network in which it was made, so only its making needs a thread that has moved there.
    fn in_network<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
        let network = File::open(format!("/proc/{}/ns/net", self.first))?;
        let thread = std::thread::spawn(move || -> std::io::Result<T> {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(act())
        });
        Ok(thread
            .join()
            .map_err(|_| anyhow::anyhow!("the thread in the node's network panicked"))??)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // `unshare` first: it would complain about how its child ended.
        let _ = self.outer.kill();
        let _ = self.outer.wait();
        let _ = kill(self.first, Signal::SIGKILL); // takes every process inside along
    }
}

/// One process as /proc tells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub pid: i32,
    pub command_line: String,
    pub cgroup: String,
}

impl Process {
    fn read(directory: &Path) -> Option<Self> {
        let pid = directory.file_name()?.to_str()?.parse().ok()?;
        let status = std::fs::read_to_string(directory.join("status")).ok()?;
        if status
            .lines()
            .any(|line| line.starts_with("State:") && line.contains('Z'))
        {
            return None;
        }
        let words = std::fs::read(directory.join("cmdline")).ok()?;
        let command_line = String::from_utf8_lossy(&words).replace('\0', " ").trim().to_owned();
        let cgroup = std::fs::read_to_string(directory.join("cgroup")).ok()?;
        Some(Process {
            pid,
            command_line,
            cgroup,
        })
    }
}

pub fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// The one child of a process, by its number outside.
pub fn child_of(parent: Pid) -> Option<Pid> {
    let wanted = format!("PPid:\t{parent}");
    let statuses = std::fs::read_dir("/proc").ok()?.flatten();
    statuses
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse::<i32>().ok()?,
                entry.path().join("status"),
            ))
        })
        .find(|(_, status)| std::fs::read_to_string(status).is_ok_and(|text| text.lines().any(|line| line == wanted)))
        .map(|(pid, _)| Pid::from_raw(pid))
}
