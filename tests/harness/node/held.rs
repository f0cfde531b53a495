//! What a node holds, and what must not be held any more.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::bail;

use super::{BRIDGE, Node, SETTLE_LIMIT};
use crate::leaks::{self, Kind, Snapshot};
use crate::namespaces::{KEEPER, Process};
use crate::{POLL, eventually};

/// A layer that is left has hundreds of files; the first few tell enough.
const REPORTED_LEAKS: usize = 20;

impl Node {
    // ---- leaks

    /// All that the node holds now.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.add(Kind::Mount, self.namespaces.mounts());
        let interfaces = self.namespaces.interfaces().into_iter().filter(|name| name != BRIDGE);
        snapshot.add(Kind::Interface, interfaces);
        snapshot.add(Kind::Cgroup, leaks::cgroups(&self.cgroup_parent));
        let processes = self.processes().into_iter();
        let others = processes.filter(|process| !is_of_the_node(&process.command_line));
        snapshot.add_processes(others.map(|process| (process.pid, process.command_line)));
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
        let ruleset = self.namespaces.run("nft", &["-j", "list", "ruleset"]);
        snapshot.add(Kind::Rule, leaks::rules(&ruleset.unwrap_or_default()));
        snapshot
    }

    /// Removes over CRI what the test left, and compares.
    ///
    /// Errors: something can't be removed; something more is held than before, `SETTLE_LIMIT` after the last removal.
    pub async fn remove_everything_and_compare(&mut self, before: &Snapshot) -> anyhow::Result<()> {
        if self.daemon.is_none() {
            self.restart().await?;
        }
        self.client.remove_everything().await?;
        self.nothing_more_than(before).await
    }

    /// Errors: something more is held than before, `SETTLE_LIMIT` from now.
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
        for process in self.processes() {
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
        let mut monitors = self.processes();
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

    /// The node's own processes, but for the first one that keeps its namespaces.
    pub fn processes(&self) -> Vec<Process> {
        let parent = self.cgroup_parent.trim_start_matches('/');
        let mut processes = self.namespaces.processes();
        processes.retain(|process| {
            !self.namespaces.keeps(process)
                && (process.cgroup.contains(parent) || self.namespaces.has_sight_of(process))
        });
        processes
    }

    /// The processes inside whose command line contains a text.
    pub fn processes_with(&self, text: &str) -> Vec<String> {
        let all = self.processes().into_iter().map(|process| process.command_line);
        all.filter(|line| line.contains(text)).collect()
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
    // Newer versions of crun keep the filters that they have compiled.
    let filters = path.components().any(|part| part.as_os_str() == ".cache");
    host_local || filters || (depth <= 2 && name.len() < 64)
}

/// Whether a process is there as long as the node is: what holds its namespaces, the registry, the daemon.
fn is_of_the_node(command_line: &str) -> bool {
    let (program, arguments) = command_line.split_once(' ').unwrap_or((command_line, ""));
    let name = program.rsplit('/').next().unwrap_or(program);
    command_line == KEEPER
        || (name == "docker-registry" && arguments.starts_with("serve "))
        || (name == "crio-manager" && arguments.starts_with("--config "))
}
