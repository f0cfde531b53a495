//! Cgroups by their file system: version 1 hierarchies as they are mounted, version 2, or both beside each other.
//!
//! On a hybrid node a cgroup is made in every hierarchy, the version 2 one included: its `cgroup.kill` ends all
//! processes at once, where version 1 must freeze, signal and thaw.

mod counters;
mod limits;
mod pressure;
mod wait_ahead;

use crate::model::CgroupPath;
use crate::model::container::Resources;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::error::Error as FsError;
use cgroups_rs::fs::freezer::FreezerController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Controller, MaxValue};
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::time::Instant;

use super::{CgroupHost, Counters, Error, Limits, MemoryUsage, Mode, Result, SwapUsage, Usage};

/// The kernel frees a cgroup a moment after its last process has been reaped.
const REMOVE_WAIT: Duration = Duration::from_secs(2);
/// No event tells the end of a version 1 cgroup's last process.
const RECHECK_FIRST: Duration = Duration::from_millis(1);
const RECHECK_MAX: Duration = Duration::from_millis(50);
/// A process in uninterruptible sleep cannot be frozen; killing it must not wait for that.
const FREEZE_TRIES: usize = 20;
/// Nobody nests cgroups deeper; a walk that does follows something else.
const DEPTH_MAX: usize = 64;

/// The controllers of version 2 that are switched on for our cgroups where the kernel has them.
const V2_CONTROLLERS: [&str; 6] = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"];

#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    /// Version 1: its controllers, or `name=systemd`. Version 2: what `cgroup.controllers` offers.
    controllers: BTreeSet<String>,
    v2: bool,
}

/// The driver for nodes where nobody else owns the cgroup tree.
#[derive(Debug, Clone)]
pub struct Cgroupfs {
    tree: Arc<Tree>,
}

#[derive(Debug, Clone)]
struct Tree {
    hierarchies: Vec<Hierarchy>,
    host: CgroupHost,
    owner: Owner,
}

/// Who decides which controllers are on where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Us,
    Systemd,
}

impl Cgroupfs {
    /// Looks where this process sees cgroups mounted.
    pub fn detect() -> Result<Cgroupfs> {
        let path = PathBuf::from("/proc/self/mountinfo");
        let text = fs::read_to_string(&path).map_err(|source| Error::File {
            path,
            action: "read",
            source,
        })?;
        Cgroupfs::from_mountinfo(&text)
    }

    /// `text` in the format of `/proc/<pid>/mountinfo`; only mounts named there are ever used.
    pub fn from_mountinfo(text: &str) -> Result<Cgroupfs> {
        let hierarchies = parse_mountinfo(text);
        let v1 = hierarchies
            .iter()
            .any(|h| !h.v2 && h.controllers.iter().any(|name| !name.starts_with("name=")));
        let v2 = hierarchies.iter().any(|h| h.v2);
        let mode = match (v1, v2) {
            (true, true) => Mode::Hybrid,
            (true, false) => Mode::V1,
            (false, true) => Mode::V2,
            (false, false) => return Err(Error::NoCgroups),
        };
        let controllers: BTreeSet<String> = hierarchies
            .iter()
            .flat_map(|hierarchy| hierarchy.controllers.iter().cloned())
            .filter(|name| !name.starts_with("name="))
            .collect();
        // OCI runtimes look on one side only: beside version 1 they leave the unified mount alone.
        let hugetlb = hierarchies
            .iter()
            .any(|h| h.v2 != v1 && h.controllers.contains("hugetlb"));
        Ok(Cgroupfs {
            tree: Arc::new(Tree {
                hierarchies,
                host: CgroupHost {
                    mode,
                    controllers,
                    hugetlb,
                },
                owner: Owner::Us,
            }),
        })
    }

    /// The same tree, in which systemd switches controllers on and off.
    #[must_use]
    pub fn owned_by_systemd(self) -> Cgroupfs {
        let Tree { hierarchies, host, .. } = (*self.tree).clone();
        Cgroupfs {
            tree: Arc::new(Tree {
                hierarchies,
                host,
                owner: Owner::Systemd,
            }),
        }
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Tree) -> Result<T> + Send + 'static) -> Result<T> {
        let tree = Arc::clone(&self.tree);
        let done = tokio::task::spawn_blocking(move || work(&tree)).await;
        done.map_err(|error| Error::Thread {
            reason: error.to_string(),
        })?
    }
}

/// Read-only mounts are left out: nothing can be placed there.
fn parse_mountinfo(text: &str) -> Vec<Hierarchy> {
    let mut hierarchies: Vec<Hierarchy> = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let mut left = left.split(' ').skip(4);
        let mut right = right.split(' ');
        let (Some(mount), Some(mount_options)) = (left.next(), left.next()) else {
            continue;
        };
        let (Some(kind), Some(options)) = (right.next(), right.nth(1)) else {
            continue;
        };
        if mount_options.split(',').any(|option| option == "ro") {
            continue;
        }
        let mount = PathBuf::from(unescape(mount));
        let (controllers, v2) = match kind {
            "cgroup" => (
                options
                    .split(',')
                    .filter(|option| is_controller(option))
                    .map(str::to_owned)
                    .collect(),
                false,
            ),
            "cgroup2" => {
                let offered = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
                (offered.split_whitespace().map(str::to_owned).collect(), true)
            }
            _ => continue,
        };
        let known = hierarchies
            .iter()
            .any(|h| h.v2 == v2 && (v2 || h.controllers == controllers));
        if !known {
            hierarchies.push(Hierarchy { mount, controllers, v2 });
        }
    }
    hierarchies
}

/// Super block options of a version 1 mount are its controllers and a few that are not.
fn is_controller(option: &str) -> bool {
    !matches!(
        option,
        "rw" | "ro" | "xattr" | "clone_children" | "noprefix" | "cpuset_v2_mode" | "favordynmods" | "all"
    ) && !option.starts_with("release_agent=")
}

/// mountinfo writes blanks in paths as octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

fn file_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, action, source }
}

/// A process or cgroup that has gone in the meantime.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

impl Tree {
    fn with(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies
            .iter()
            .find(|hierarchy| hierarchy.controllers.contains(controller))
    }

    /// The cgroup's directories that exist.
    fn directories<'a>(&'a self, cgroup: &'a CgroupPath) -> impl Iterator<Item = (&'a Hierarchy, PathBuf)> {
        let all = self
            .hierarchies
            .iter()
            .map(|hierarchy| (hierarchy, below(cgroup, &hierarchy.mount)));
        all.filter(|(_, dir)| dir.is_dir())
    }

    fn create(&self, cgroup: &CgroupPath) -> Result<()> {
        for hierarchy in &self.hierarchies {
            let dir = below(cgroup, &hierarchy.mount);
            fs::create_dir_all(&dir).map_err(file_error(&dir, "make cgroup"))?;
            if hierarchy.v2 && self.owner == Owner::Us {
                switch_on_controllers(hierarchy, cgroup);
            } else if !hierarchy.v2 && hierarchy.controllers.contains("cpuset") {
                // A version 1 cpuset starts empty and takes no process before it has been given cpus and memory nodes.
                let cpuset = CpuSetController::new(dir, hierarchy.mount.clone(), false);
                cpuset.create().map_err(limit_error(cgroup, "cpuset of parent"))?;
            }
        }
        Ok(())
    }

    fn place(&self, cgroup: &CgroupPath, pid: u32) -> Result<()> {
        self.create(cgroup)?;
        for hierarchy in &self.hierarchies {
            let procs = below(cgroup, &hierarchy.mount).join("cgroup.procs");
            write(&procs, &pid.to_string()).map_err(file_error(&procs, "place process"))?;
        }
        Ok(())
    }

    fn entrance(&self, cgroup: &CgroupPath) -> Result<Vec<OwnedFd>> {
        let open = |hierarchy: &Hierarchy| {
            let procs = below(cgroup, &hierarchy.mount).join("cgroup.procs");
            let door = std::fs::OpenOptions::new().write(true).open(&procs);
            door.map(OwnedFd::from).map_err(file_error(&procs, "open for writing"))
        };
        let doors = || -> Result<Vec<OwnedFd>> { self.hierarchies.iter().map(open).collect() };
        // An exec's is there already, and whole: the container's monitor went in after it was made.
        doors().or_else(|_| {
            self.create(cgroup)?;
            doors()
        })
    }

    fn set_limits(&self, cgroup: &CgroupPath, limits: &Limits) -> Result<()> {
        let at = |controller: &str| {
            let hierarchy = self.with(controller)?;
            Some((below(cgroup, &hierarchy.mount), hierarchy.mount.clone(), hierarchy.v2))
        };
        if let Some((dir, root, v2)) = at("cpu") {
            let cpu = CpuController::new(dir, root, v2);
            if let Some(shares) = limits.cpu_shares {
                let value = if v2 { weight_of_shares(shares) } else { shares.max(2) };
                cpu.set_shares(value).map_err(limit_error(cgroup, "cpu shares"))?;
            }
            if limits.cpu_quota_us.is_some() || limits.cpu_period_us.is_some() {
                cpu.set_cfs_quota_and_period(limits.cpu_quota_us, limits.cpu_period_us)
                    .map_err(limit_error(cgroup, "cpu quota"))?;
            }
        }
        if let Some((dir, root, v2)) = at("cpuset") {
            let cpuset = CpuSetController::new(dir, root, v2);
            if let Some(cpus) = limits.cpuset_cpus.as_deref().filter(|cpus| !cpus.is_empty()) {
                cpuset.set_cpus(cpus).map_err(limit_error(cgroup, "cpuset cpus"))?;
            }
            if let Some(mems) = limits.cpuset_mems.as_deref().filter(|mems| !mems.is_empty()) {
                cpuset.set_mems(mems).map_err(limit_error(cgroup, "cpuset mems"))?;
            }
        }
        if let Some((dir, root, v2)) = at("memory") {
            set_memory(cgroup, dir, root, v2, limits)?;
        }
        if let (Some((dir, root, v2)), Some(max)) = (at("pids"), limits.pids) {
            let max = if max < 0 { MaxValue::Max } else { MaxValue::Value(max) };
            PidController::new(dir, root, v2)
                .set_pid_max(max)
                .map_err(limit_error(cgroup, "pids"))?;
        }
        if let Some(unified) = self
            .hierarchies
            .iter()
            .find(|h| h.v2)
            .filter(|_| self.host.mode == Mode::V2)
        {
            for (name, value) in &limits.unified {
                let path = below(cgroup, &unified.mount).join(name);
                if name.contains('/') || name.starts_with("cgroup.") {
                    let source = io::Error::from(io::ErrorKind::InvalidInput);
                    return Err(Error::File {
                        path,
                        action: "not a controller's file",
                        source,
                    });
                }
                write(&path, value).map_err(file_error(&path, "set"))?;
            }
        }
        Ok(())
    }

    fn usage(&self, cgroup: &CgroupPath) -> Result<Usage> {
        if self.directories(cgroup).next().is_none() {
            return Err(Error::Missing(cgroup.clone()));
        }
        let at = |controller: &str| self.with(controller).map(|h| (below(cgroup, &h.mount), h.v2));
        let memory = at("memory").and_then(|(dir, v2)| memory_usage(&dir, v2));
        let swap = at("memory").and_then(|(dir, v2)| swap_usage(&dir, v2, memory?));
        let v2_root = self.hierarchies.iter().find(|h| h.v2).map(|h| below(cgroup, &h.mount));
        let pressure = v2_root.as_deref().map(pressure::read).unwrap_or_default();
        // Version 2 counts cpu time with or without the controller, but only for who is inside.
        let cpu_usage_ns = match at("cpuacct") {
            Some((dir, false)) => read_number(&dir.join("cpuacct.usage")),
            Some((_, true)) | None => v2_root.and_then(|dir| {
                let stat = read_keyed(&dir.join("cpu.stat"))?;
                stat.get("usage_usec").map(|us| us.saturating_mul(1000))
            }),
        };
        let tasks = at("pids").and_then(|(dir, _)| read_number(&dir.join("pids.current")));
        Ok(Usage {
            memory,
            swap,
            cpu_usage_ns,
            tasks,
            pressure,
        })
    }

    fn oom_kill_count(&self, cgroup: &CgroupPath) -> Result<u64> {
        let Some(hierarchy) = self.with("memory") else {
            return Ok(0);
        };
        let dir = below(cgroup, &hierarchy.mount);
        if !dir.is_dir() {
            return Err(Error::Missing(cgroup.clone()));
        }
        if hierarchy.v2 {
            let events = read_keyed(&dir.join("memory.events")).unwrap_or_default();
            return Ok(events.get("oom_kill").copied().unwrap_or(0));
        }
        // Version 1 counts each cgroup by itself.
        let counts = with_descendants(&dir)
            .into_iter()
            .filter_map(|dir| read_keyed(&dir.join("memory.oom_control")));
        Ok(counts.filter_map(|counts| counts.get("oom_kill").copied()).sum())
    }

    /// Whom the kernel kills first, for every process that is in the cgroup.
    fn set_oom_score_adj(&self, cgroup: &CgroupPath, value: i32) -> Result<()> {
        let mut open = Vec::new();
        for pid in self.pids(cgroup)? {
            let path = PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
            match fs::OpenOptions::new().write(true).open(&path) {
                Ok(file) => open.push((pid, path, file)),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(file_error(&path, "open for writing")(error)),
            }
        }
        // Still listed after it was opened: the file is of the process in here, not of a later one of its number.
        let listed: BTreeSet<u32> = self.pids(cgroup)?.into_iter().collect();
        for (_, path, mut file) in open.into_iter().filter(|(pid, ..)| listed.contains(pid)) {
            match io::Write::write_all(&mut file, value.to_string().as_bytes()) {
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                written => written.map_err(file_error(&path, "write"))?,
            }
        }
        Ok(())
    }

    fn pids(&self, cgroup: &CgroupPath) -> Result<Vec<u32>> {
        let mut pids = BTreeSet::new();
        for (_, dir) in self.directories(cgroup) {
            for dir in with_descendants(&dir) {
                let path = dir.join("cgroup.procs");
                match fs::read_to_string(&path) {
                    // 0 stands for a process that this pid namespace cannot see.
                    Ok(text) => pids.extend(
                        text.lines()
                            .filter_map(|line| line.parse().ok())
                            .filter(|pid: &u32| *pid != 0),
                    ),
                    Err(error) if is_gone(&error) => {}
                    Err(source) => {
                        return Err(Error::File {
                            path,
                            action: "read",
                            source,
                        });
                    }
                }
            }
        }
        Ok(pids.into_iter().collect())
    }

    /// One round: whoever is there now gets SIGKILL. Answers with who was.
    fn kill_once(&self, cgroup: &CgroupPath) -> Result<Vec<u32>> {
        let pids = self.pids(cgroup)?;
        if pids.is_empty() {
            self.thaw(cgroup);
            return Ok(pids);
        }
        for (_, dir) in self.directories(cgroup).filter(|(hierarchy, _)| hierarchy.v2) {
            let file = dir.join("cgroup.kill");
            match write(&file, "1") {
                Err(error) if !is_gone(&error) => return Err(file_error(&file, "kill")(error)),
                Ok(()) | Err(_) => {} // a kernel without cgroup.kill is served by what follows
            }
        }
        let frozen = self.freeze(cgroup);
        let outcome = self.signal_all(cgroup);
        if frozen {
            self.thaw(cgroup);
        }
        outcome.map(|()| pids)
    }

    fn signal_all(&self, cgroup: &CgroupPath) -> Result<()> {
        let mut held = Vec::new();
        for pid in self.pids(cgroup)? {
            let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
                continue;
            };
            if let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
                held.push((pid, pidfd));
            }
        }
        // Still listed after the pidfd was opened: the pidfd is of the process in here, not of a later one of its number.
        let listed: BTreeSet<u32> = self.pids(cgroup)?.into_iter().collect();
        for (pid, pidfd) in held {
            if listed.contains(&pid.as_raw_nonzero().get().unsigned_abs())
                && let Err(errno) = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL)
            {
                tracing::debug!(?pid, %errno, "kill, ignoring");
            }
        }
        Ok(())
    }

    /// Stops forking while signals go out. Version 1 only: version 2 has `cgroup.kill`.
    fn freeze(&self, cgroup: &CgroupPath) -> bool {
        let Some(hierarchy) = self.with("freezer").filter(|hierarchy| !hierarchy.v2) else {
            return false;
        };
        let dir = below(cgroup, &hierarchy.mount);
        if !dir.is_dir() {
            return false;
        }
        let freezer = FreezerController::new(dir.clone(), hierarchy.mount.clone(), false);
        if let Err(error) = freezer.freeze() {
            tracing::debug!(%cgroup, %error, "freeze, ignoring");
            return true; // it may have taken effect
        }
        for _ in 0..FREEZE_TRIES {
            match fs::read_to_string(dir.join("freezer.state")) {
                Ok(state) if state.trim() == "FREEZING" => std::thread::sleep(RECHECK_FIRST),
                Ok(_) | Err(_) => break,
            }
        }
        true
    }

    /// Thaws the cgroup and everything below, whoever froze it.
    fn thaw(&self, cgroup: &CgroupPath) {
        for (hierarchy, dir) in self.directories(cgroup) {
            if !hierarchy.v2 && !hierarchy.controllers.contains("freezer") {
                continue;
            }
            for dir in with_descendants(&dir) {
                if let Err(error) = FreezerController::new(dir, hierarchy.mount.clone(), hierarchy.v2).thaw() {
                    tracing::debug!(%cgroup, %error, "thaw, ignoring");
                }
            }
        }
    }

    /// One try in every hierarchy; the first obstacle is the answer.
    fn remove_once(&self, cgroup: &CgroupPath) -> io::Result<()> {
        let mut outcome = Ok(());
        for (_, dir) in self.directories(cgroup) {
            for dir in with_descendants(&dir).into_iter().rev() {
                match fs::remove_dir(&dir) {
                    Err(error) if !is_gone(&error) => outcome = outcome.and(Err(error)),
                    Ok(()) | Err(_) => {}
                }
            }
        }
        outcome
    }
}

impl Cgroupfs {
    /// What this node offers.
    pub fn host(&self) -> &CgroupHost {
        &self.tree.host
    }

    /// Makes the cgroup in every hierarchy; one that exists is fine.
    pub async fn create(&self, cgroup: &CgroupPath) -> Result<()> {
        let cgroup = cgroup.clone();
        self.blocking(move |tree| tree.create(&cgroup)).await
    }

    /// Makes the cgroup if need be and moves the process there, in every hierarchy.
    pub async fn place(&self, cgroup: &CgroupPath, pid: u32) -> Result<()> {
        let cgroup = cgroup.clone();
        self.blocking(move |tree| tree.place(&cgroup, pid)).await
    }

    /// Makes the cgroup if need be and opens its `cgroup.procs` for writing, in every hierarchy.
    pub async fn entrance(&self, cgroup: &CgroupPath) -> Result<Vec<OwnedFd>> {
        let cgroup = cgroup.clone();
        self.blocking(move |tree| tree.entrance(&cgroup)).await
    }

    /// Begins, aside, what the kernel waits for before a process enters another cgroup.
    pub fn wait_ahead(&self) {
        let tree = Arc::clone(&self.tree);
        drop(tokio::task::spawn_blocking(move || tree.wait_ahead()));
    }

    /// Sets what is given and leaves the rest as it is.
    pub async fn set_limits(&self, cgroup: &CgroupPath, limits: &Limits) -> Result<()> {
        let (cgroup, limits) = (cgroup.clone(), limits.clone());
        self.blocking(move |tree| tree.set_limits(&cgroup, &limits)).await
    }

    /// What this cgroup and those below use.
    pub async fn usage(&self, cgroup: &CgroupPath) -> Result<Usage> {
        let cgroup = cgroup.clone();
        self.blocking(move |tree| tree.usage(&cgroup)).await
    }

    /// What is counted of it and those below it, for metrics.
    pub async fn counters(&self, cgroup: &CgroupPath) -> Result<Counters> {
        let cgroup = cgroup.clone();
        self.blocking(move |tree| Ok(tree.counters(&cgroup))).await
    }

    /// The limits that it has now; of the files of version 2 those named in `unified`.
    pub async fn limits(&self, cgroup: &CgroupPath, unified: Vec<String>) -> Result<Resources> {
        let cgroup = cgroup.clone();
        self.blocking(move |tree| tree.limits(&cgroup, &unified)).await
    }

    /// Sets what OCI runtimes leave out of the limits that they were asked for, or set otherwise.
    pub async fn complete_limits(&self, cgroup: &CgroupPath, asked: &Resources) -> Result<()> {
        let Some(rest) = self.tree.left_out(asked) else {
            return Ok(());
        };
        let cgroup = cgroup.clone();
        self.blocking(move |tree| tree.complete(&cgroup, &rest)).await
    }

    /// What `memory.swap.max` is to say of these limits, in bytes, `u64::MAX` for no limit; `None` where nothing is asked or
    /// version 1 counts.
    pub(super) fn swap_max(&self, asked: &Resources) -> Option<u64> {
        self.tree.left_out(asked)?.swap_bytes
    }

    /// Sets the `oom_score_adj` of every process in it.
    pub async fn set_oom_score_adj(&self, cgroup: &CgroupPath, value: i32) -> Result<()> {
        let cgroup = cgroup.clone();
        self.blocking(move |tree| tree.set_oom_score_adj(&cgroup, value)).await
    }

    /// How often the kernel killed in this cgroup or below for want of memory.
    pub async fn oom_kill_count(&self, cgroup: &CgroupPath) -> Result<u64> {
        let cgroup = cgroup.clone();
        self.blocking(move |tree| tree.oom_kill_count(&cgroup)).await
    }

    /// The processes in this cgroup and below; none in one that does not exist.
    pub async fn pids(&self, cgroup: &CgroupPath) -> Result<Vec<u32>> {
        let cgroup = cgroup.clone();
        self.blocking(move |tree| tree.pids(&cgroup)).await
    }

    /// Kills everything in this cgroup and below, and returns once nothing is left. Frozen ones are thawed to die.
    pub async fn kill(&self, cgroup: &CgroupPath, deadline: Instant) -> Result<()> {
        let mut pause = RECHECK_FIRST;
        loop {
            let target = cgroup.clone();
            let pids = self.blocking(move |tree| tree.kill_once(&target)).await?;
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::Unkillable {
                    cgroup: cgroup.clone(),
                    pids,
                });
            }
            tokio::time::sleep_until(deadline.min(Instant::now() + pause)).await;
            pause = (pause * 2).min(RECHECK_MAX);
        }
    }

    /// Removes this cgroup and those below; one that does not exist is fine. Kills nothing.
    pub async fn remove(&self, cgroup: &CgroupPath) -> Result<()> {
        let give_up = Instant::now() + REMOVE_WAIT;
        let mut pause = RECHECK_FIRST;
        loop {
            let target = cgroup.clone();
            let Err(source) = self.blocking(move |tree| Ok(tree.remove_once(&target))).await? else {
                return Ok(());
            };
            if Instant::now() >= give_up {
                let pids = self.pids(cgroup).await.unwrap_or_default(); // only to tell
                return Err(Error::Busy {
                    cgroup: cgroup.clone(),
                    pids,
                    source,
                });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RECHECK_MAX);
        }
    }
}

/// Where a cgroup is in a hierarchy.
fn below(cgroup: &CgroupPath, mount: &Path) -> PathBuf {
    mount.join(cgroup.as_str().trim_start_matches('/'))
}

/// Lets the cgroup have controllers, from the root down. A controller that can't be had is one without limits.
///
/// What is missing is asked for at once: a directory with processes may have some of them on its own only, and would
/// then refuse processes to what is below it.
fn switch_on_controllers(hierarchy: &Hierarchy, cgroup: &CgroupPath) {
    let mut dir = hierarchy.mount.clone();
    for part in cgroup.as_str().split('/').filter(|part| !part.is_empty()) {
        let names = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
        let (here, on) = (names("cgroup.controllers"), names("cgroup.subtree_control"));
        let has = |list: &str, name: &str| list.split_whitespace().any(|known| known == name);
        let missing: Vec<_> = V2_CONTROLLERS
            .iter()
            .filter(|name| has(&here, name) && !has(&on, name))
            .map(|name| format!("+{name}"))
            .collect();
        let missing = missing.join(" ");
        if !missing.is_empty()
            && let Err(error) = write(&dir.join("cgroup.subtree_control"), &missing)
        {
            tracing::debug!(path = %dir.display(), controllers = missing, %error, "switch on controllers, ignoring");
        }
        dir.push(part);
    }
}

/// Memory, and memory with swap, in the order that the kernel accepts: the smaller never above the larger.
fn set_memory(cgroup: &CgroupPath, dir: PathBuf, root: PathBuf, v2: bool, limits: &Limits) -> Result<()> {
    let swap_file = if v2 {
        "memory.swap.max"
    } else {
        "memory.memsw.limit_in_bytes"
    };
    let counts_swap = dir.join(swap_file).exists(); // a kernel option
    let memory = MemController::new(dir, root, v2);
    let set_limit = || match limits.memory_bytes {
        Some(bytes) => memory.set_limit(bytes),
        None => Ok(()),
    };
    let both = limits.memory_and_swap_bytes.filter(|_| counts_swap);
    let set_swap = || match (both, limits.memory_bytes) {
        (None, _) => Ok(()),
        (Some(both), Some(bytes)) if v2 && both >= 0 && bytes >= 0 => memory.set_memswap_limit((both - bytes).max(0)),
        (Some(both), _) => memory.set_memswap_limit(both),
    };
    if set_limit().is_err() {
        // Raising above the present limit of both: that one first.
        set_swap().map_err(limit_error(cgroup, "memory and swap"))?;
        return set_limit().map_err(limit_error(cgroup, "memory"));
    }
    set_swap().map_err(limit_error(cgroup, "memory and swap"))
}

/// The weight (1 to 10000) that stands for shares (2 to 262144): the translation all OCI runtimes use.
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn memory_usage(dir: &Path, v2: bool) -> Option<MemoryUsage> {
    let names = if v2 {
        ["memory.current", "inactive_file", "anon", "pgfault", "pgmajfault"]
    } else {
        [
            "memory.usage_in_bytes",
            "total_inactive_file",
            "total_rss",
            "total_pgfault",
            "total_pgmajfault",
        ]
    };
    let [usage, inactive, rss, faults, major] = names;
    let usage_bytes = read_number(&dir.join(usage))?;
    let stat = read_keyed(&dir.join("memory.stat")).unwrap_or_default();
    let of = |name: &str| stat.get(name).copied().unwrap_or(0);
    Some(MemoryUsage {
        usage_bytes,
        working_set_bytes: usage_bytes.saturating_sub(of(inactive)),
        limit_bytes: read_limit(&dir.join(if v2 { "memory.max" } else { "memory.limit_in_bytes" })),
        rss_bytes: of(rss),
        page_faults: of(faults),
        major_page_faults: of(major),
    })
}

/// Version 1 counts swap together with memory.
fn swap_usage(dir: &Path, v2: bool, memory: MemoryUsage) -> Option<SwapUsage> {
    if v2 {
        return Some(SwapUsage {
            usage_bytes: read_number(&dir.join("memory.swap.current"))?,
            limit_bytes: read_limit(&dir.join("memory.swap.max")),
        });
    }
    let both = read_number(&dir.join("memory.memsw.usage_in_bytes"))?;
    let limit = read_limit(&dir.join("memory.memsw.limit_in_bytes"));
    Some(SwapUsage {
        usage_bytes: both.saturating_sub(memory.usage_bytes),
        limit_bytes: limit.map(|both| both.saturating_sub(memory.limit_bytes.unwrap_or(0))),
    })
}

/// A limit in bytes; `None` for none, for which version 2 has a word and version 1 a number beyond all memory.
fn read_limit(path: &Path) -> Option<u64> {
    const BEYOND: u64 = 1 << 62;
    read_number(path).filter(|bytes| *bytes < BEYOND)
}

fn limit_error(cgroup: &CgroupPath, limit: &'static str) -> impl FnOnce(FsError) -> Error {
    let cgroup = cgroup.clone();
    move |source| Error::Limit { cgroup, limit, source }
}

/// The directory and all below it, each before its children.
fn with_descendants(dir: &Path) -> Vec<PathBuf> {
    fn walk(dir: PathBuf, depth: usize, all: &mut Vec<PathBuf>) {
        let children: Vec<PathBuf> = fs::read_dir(&dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        all.push(dir);
        if depth < DEPTH_MAX {
            children.into_iter().for_each(|child| walk(child, depth + 1, all));
        }
    }
    let mut all = Vec::new();
    walk(dir.to_owned(), 0, &mut all);
    all
}

/// Never creates: a file that is not there is a cgroup that is gone, or a kernel without that file.
fn write(path: &Path, text: &str) -> io::Result<()> {
    io::Write::write_all(&mut fs::OpenOptions::new().write(true).open(path)?, text.as_bytes())
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Lines of `key number`.
fn read_keyed(path: &Path) -> Option<BTreeMap<String, u64>> {
    let text = fs::read_to_string(path).ok()?;
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    Some(
        pairs
            .filter_map(|(key, value)| Some((key.to_owned(), value.trim().parse().ok()?)))
            .collect(),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_taken_as_found() {
        let text = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /cg/cpu\\040and\\040acct rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /again rw,relatime - cgroup cgroup rw,cpu,cpuacct
34 31 0:30 / /cg/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
35 31 0:31 / /cg/memory ro,relatime - cgroup cgroup rw,memory
garbage
41 31 0:38 / /nonexistent/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate";
        let driver = Cgroupfs::from_mountinfo(text).unwrap();
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<BTreeSet<_>>();
        assert_eq!(driver.host().mode, Mode::Hybrid);
        assert_eq!(driver.host().controllers, names(&["cpu", "cpuacct"]));
        assert!(!driver.host().hugetlb);
        let mounts: Vec<_> = driver
            .tree
            .hierarchies
            .iter()
            .map(|h| (h.mount.to_str().unwrap(), h.v2))
            .collect();
        assert_eq!(
            mounts,
            [
                ("/cg/cpu and acct", false),
                ("/cg/systemd", false),
                ("/nonexistent/unified", true)
            ]
        );
        assert!(matches!(Cgroupfs::from_mountinfo(""), Err(Error::NoCgroups)));
    }

    #[test]
    fn a_named_hierarchy_beside_version_2_is_no_hybrid() {
        let text = "1 1 0:1 / /a rw - cgroup cgroup rw,name=systemd\n2 1 0:2 / /b rw - cgroup2 cgroup2 rw";
        assert_eq!(Cgroupfs::from_mountinfo(text).unwrap().host().mode, Mode::V2);
    }

    /// The files of version 2, on a plain file system: what is written, not what a kernel makes of it.
    #[test]
    fn limits_and_usage_speak_version_2() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpuset cpu memory pids\n").unwrap();
        fs::write(root.path().join("cgroup.subtree_control"), "").unwrap();
        let mountinfo = format!("41 31 0:38 / {} rw - cgroup2 cgroup2 rw", root.path().display());
        let tree = Cgroupfs::from_mountinfo(&mountinfo).unwrap().tree;
        let cgroup = CgroupPath::parse_parent("/pod").unwrap();
        tree.create(&cgroup).unwrap();
        let switched_on = fs::read_to_string(root.path().join("cgroup.subtree_control")).unwrap();
        assert!(switched_on.contains("+pids"), "{switched_on}");

        let dir = root.path().join("pod");
        for (file, text) in [
            ("cpu.max", "max 100000"),
            ("memory.swap.max", "max"),
            ("io.weight", ""),
            ("memory.current", "5000000\n"),
            ("memory.stat", "anon 3000000\ninactive_file 1000000\npgfault 7\n"),
            ("cpu.stat", "usage_usec 42\nuser_usec 1\n"),
            ("memory.swap.current", "7\n"),
            ("cpu.pressure", "some avg10=1.00 avg60=0.00 avg300=0.00 total=9\n"),
            ("pids.current", "3\n"),
            ("memory.events", "low 0\noom 2\noom_kill 1\n"),
        ] {
            fs::write(dir.join(file), text).unwrap();
        }
        let limits = Limits {
            memory_bytes: Some(100),
            memory_and_swap_bytes: Some(150),
            cpu_shares: Some(1024),
            cpu_quota_us: Some(50_000),
            pids: Some(-1),
            cpuset_cpus: Some(String::new()),
            unified: BTreeMap::from([("io.weight".to_owned(), "50".to_owned())]),
            ..Limits::default()
        };
        tree.set_limits(&cgroup, &limits).unwrap();
        let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap();
        assert_eq!(
            (read("memory.max"), read("memory.swap.max")),
            ("100".to_owned(), "50".to_owned())
        );
        assert_eq!(
            (read("cpu.weight"), read("cpu.max")),
            ("39".to_owned(), "50000 100000".to_owned())
        );
        assert_eq!(
            (read("pids.max"), read("io.weight")),
            ("max".to_owned(), "50".to_owned())
        );
        for name in ["../cgroup.procs", "cgroup.kill"] {
            let limits = Limits {
                unified: BTreeMap::from([(name.to_owned(), "1".to_owned())]),
                ..Limits::default()
            };
            assert!(tree.set_limits(&cgroup, &limits).is_err(), "{name}");
        }

        let usage = tree.usage(&cgroup).unwrap();
        let memory = usage.memory.unwrap();
        assert_eq!((memory.usage_bytes, memory.working_set_bytes), (5_000_000, 4_000_000));
        assert_eq!((memory.rss_bytes, memory.page_faults), (3_000_000, 7));
        assert_eq!((usage.cpu_usage_ns, usage.tasks), (Some(42_000), Some(3)));
        // The limits set above.
        assert_eq!(memory.limit_bytes, Some(100));
        assert_eq!(
            usage.swap.map(|swap| (swap.usage_bytes, swap.limit_bytes)),
            Some((7, Some(50)))
        );
        assert_eq!(usage.pressure.cpu.as_ref().map(|cpu| cpu.some.total_ns), Some(9000));
        let twice = usage.plus(&usage);
        assert_eq!((twice.cpu_usage_ns, twice.tasks), (Some(84_000), Some(6)));
        assert_eq!(
            twice.memory.map(|memory| (memory.rss_bytes, memory.limit_bytes)),
            Some((6_000_000, None))
        );
        assert_eq!(tree.oom_kill_count(&cgroup).unwrap(), 1);
    }

    #[test]
    fn shares_become_weights() {
        for (shares, weight) in [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
    }
}
