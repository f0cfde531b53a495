//! What a node holds, so that a test can compare before and after.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// Everything countable of a node, by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Kind and name → how many.
    held: BTreeMap<(Kind, String), usize>,
    /// Command lines of processes → who has them.
    pids: BTreeMap<String, BTreeSet<i32>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Mount,
    Interface,
    Cgroup,
    Process,
    File,
    Descriptor,
    Rule,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Mount => "mount",
            Kind::Interface => "network interface",
            Kind::Cgroup => "cgroup",
            Kind::Process => "process",
            Kind::File => "file",
            Kind::Descriptor => "descriptor of the daemon",
            Kind::Rule => "host port in nftables",
        })
    }
}

impl Snapshot {
    pub fn add(&mut self, kind: Kind, names: impl IntoIterator<Item = String>) {
        for name in names {
            *self.held.entry((kind, name)).or_default() += 1;
        }
    }

    pub fn add_processes(&mut self, processes: impl IntoIterator<Item = (i32, String)>) {
        for (pid, command_line) in processes {
            self.pids.entry(command_line.clone()).or_default().insert(pid);
            self.add(Kind::Process, [command_line]);
        }
    }

    /// What is held now and was not before, a line each. A process that has begun another program meanwhile, as a shell
    /// does with its last command, was there before.
    pub fn more_than(&self, before: &Snapshot) -> Vec<String> {
        let is_new = |pid: &i32| !before.pids.values().any(|pids| pids.contains(pid));
        let more = self.held.iter().filter_map(|(what, count)| {
            let had = before.held.get(what).copied().unwrap_or_default();
            let (kind, name) = what;
            let are_new = self.pids.get(name).is_none_or(|pids| pids.iter().any(is_new));
            (*count > had && (*kind != Kind::Process || are_new))
                .then(|| format!("{kind} {name} ({had} before, {count} now)"))
        });
        more.collect()
    }
}

/// The directories beneath `/PARENT` of every cgroup hierarchy that is mounted.
pub fn cgroups(parent: &str) -> Vec<String> {
    let mut found = Vec::new();
    for root in cgroup_parents(parent) {
        walk(&root, &mut |path| {
            if path.is_dir() {
                found.push(path.display().to_string());
            }
        });
    }
    found
}

/// Where a cgroup named `parent` exists, in every hierarchy.
pub fn cgroup_parents(parent: &str) -> Vec<PathBuf> {
    let parent = parent.trim_start_matches('/');
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join(parent));
    hierarchies
        .chain([root.join(parent)])
        .filter(|path| path.is_dir())
        .collect()
}

/// Removes the cgroups beneath and including `parent`, innermost first; what still holds a process stays.
pub fn remove_cgroups(parent: &str) {
    for root in cgroup_parents(parent) {
        let mut directories = vec![root.clone()];
        walk(&root, &mut |path| {
            if path.is_dir() {
                directories.push(path.to_owned());
            }
        });
        for directory in directories.iter().rev() {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// Every path beneath the directories, without following links or entering the mounts named.
pub fn files(directories: &[PathBuf]) -> Vec<String> {
    let mut found = Vec::new();
    for directory in directories {
        walk(directory, &mut |path| found.push(path.display().to_string()));
    }
    found
}

/// Directories before what is in them.
fn walk(directory: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        visit(&path);
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, visit);
        }
    }
}

/// What a process has open, without sockets (clients come and go) and the runtime's own wake-up descriptors.
pub fn descriptors(pid: i32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let names = targets.map(|target| {
        let name = target.display().to_string();
        name.split_once(":[").map_or(name.clone(), |(kind, rest)| {
            if kind == "anon_inode" {
                rest.trim_end_matches(']').to_owned()
            } else {
                kind.to_owned()
            }
        })
    });
    names
        .filter(|name| !["socket", "eventfd", "eventpoll"].contains(&name.as_str()))
        .collect()
}

/// What of a ruleset (`nft -j list ruleset`) is there for host ports of single pods: elements of our own table, whose
/// rules are always the same, and the chains of the plugin for them.
pub fn rules(ruleset: &str) -> Vec<String> {
    let ruleset: serde_json::Value = serde_json::from_str(ruleset).unwrap_or_default();
    let items = ruleset["nftables"].as_array().into_iter().flatten();
    let of_pods = items.flat_map(|item| {
        let chain = item["chain"]["name"].as_str().unwrap_or_default();
        if chain.starts_with("CNI-DN-") {
            return vec![chain.to_owned()];
        }
        let of_ours = [&item["map"], &item["set"]]
            .into_iter()
            .filter(|item| item["table"] == "crio_hostports");
        let elements = of_ours.filter_map(|item| Some((&item["name"], item["elem"].as_array()?)));
        let named =
            elements.flat_map(|(name, elements)| elements.iter().map(move |element| format!("{name} {element}")));
        named.collect()
    });
    of_pods.collect()
}
