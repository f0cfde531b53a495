//! Control groups: a place for each container's processes, their limits, their usage, and their certain end.
//!
//! `CgroupDriver` is as wide as its callers need. A cgroup has one writer: what an OCI runtime creates below ours is
//! the runtime's, until we remove what it left.

pub mod cgroupfs;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use tokio::time::Instant;

/// Where pods go that name no parent.
pub const DEFAULT_PARENT: &str = "/crio";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cgroup parent {0:?} is systemd's syntax, this node uses cgroupfs")]
    SystemdSyntax(String),
    #[error("cgroup parent {parent:?}: {reason}")]
    BadParent { parent: String, reason: &'static str },
    #[error("id {0:?} cannot name a cgroup")]
    BadId(String),
    #[error("no cgroup file system is mounted")]
    NoCgroups,
    #[error("cgroup {0} does not exist")]
    Missing(CgroupPath),
    #[error("{}: {action}", path.display())]
    File {
        path: PathBuf,
        action: &'static str,
        source: io::Error,
    },
    #[error("cgroup {cgroup}: set {limit}")]
    Limit {
        cgroup: CgroupPath,
        limit: &'static str,
        source: cgroups_rs::fs::error::Error,
    },
    #[error("cgroup {cgroup}: processes {pids:?} outlive SIGKILL")]
    Unkillable { cgroup: CgroupPath, pids: Vec<u32> },
    #[error("cgroup {cgroup} cannot be removed, processes in it: {pids:?}")]
    Busy {
        cgroup: CgroupPath,
        pids: Vec<u32>,
        source: io::Error,
    },
    #[error("cgroup work ended without an answer: {reason}")]
    Thread { reason: String },
}

pub type Result<T> = std::result::Result<T, Error>;

/// A cgroup below the root, the same in every hierarchy: `/a/b`. Never the root itself, never with `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupPath(String);

impl CgroupPath {
    /// Takes the `cgroup_parent` of a pod, in cgroupfs syntax. An empty one, or the root, is `DEFAULT_PARENT`.
    pub fn parse_parent(parent: &str) -> Result<CgroupPath> {
        let bad = |reason| {
            Err(Error::BadParent {
                parent: parent.to_owned(),
                reason,
            })
        };
        let trimmed = parent.trim_end_matches('/');
        if trimmed.is_empty() {
            return Ok(CgroupPath(DEFAULT_PARENT.to_owned()));
        }
        if trimmed.ends_with(".slice") {
            return Err(Error::SystemdSyntax(parent.to_owned()));
        }
        let Some(relative) = trimmed.strip_prefix('/') else {
            return bad("is not absolute");
        };
        if relative.chars().any(char::is_control) {
            return bad("has a control character");
        }
        if relative
            .split('/')
            .any(|part| part.is_empty() || part == "." || part == ".." || part.len() > 255)
        {
            return bad("has an empty, relative or too long part");
        }
        Ok(CgroupPath(trimmed.to_owned()))
    }

    /// `<parent>/crio-<id>`: a container, or the sandbox of a pod that has no process of its own.
    pub fn container(&self, id: &str) -> Result<CgroupPath> {
        self.child("crio-", id)
    }

    /// `<parent>/crio-conmon-<id>`: the monitor of a container.
    pub fn monitor(&self, id: &str) -> Result<CgroupPath> {
        self.child("crio-conmon-", id)
    }

    fn child(&self, prefix: &str, id: &str) -> Result<CgroupPath> {
        let fits =
            (1..=128).contains(&id.len()) && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        if fits {
            Ok(CgroupPath(format!("{}/{prefix}{id}", self.0)))
        } else {
            Err(Error::BadId(id.to_owned()))
        }
    }

    /// As an OCI runtime takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn below(&self, mount: &Path) -> PathBuf {
        mount.join(self.0.trim_start_matches('/'))
    }
}

impl std::fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Controllers in hierarchies of version 1 only.
    V1,
    /// One hierarchy for everything.
    V2,
    /// Controllers in version 1, and a version 2 mount beside them.
    Hybrid,
}

/// What this node's kernel and mounts offer; read once at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupHost {
    pub mode: Mode,
    pub controllers: BTreeSet<String>,
    /// Without it, hugepage limits (the kubelet always sends some) must be left out.
    pub hugetlb: bool,
}

/// Limits in typed units; absent is "leave as it is", −1 is "no limit".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    pub memory_bytes: Option<i64>,
    /// Memory and swap together, as OCI and CRI count it.
    pub memory_and_swap_bytes: Option<i64>,
    /// 2 to 262144; translated into a weight on version 2.
    pub cpu_shares: Option<u64>,
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    pub pids: Option<i64>,
    /// Version 2 files by name, written as they are; ignored on version 1.
    pub unified: BTreeMap<String, String>,
}

/// What a cgroup and everything below it uses; absent is "no controller for it".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    pub memory: Option<MemoryUsage>,
    pub cpu_usage_ns: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    pub usage_bytes: u64,
    /// Usage without the file cache that the kernel can drop at once.
    pub working_set_bytes: u64,
    pub rss_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
}

/// What the lifecycle needs of cgroups, whoever owns them on this node.
#[async_trait]
pub trait CgroupDriver: Send + Sync {
    fn host(&self) -> &CgroupHost;

    /// Makes the cgroup in every hierarchy; one that exists is fine.
    async fn create(&self, cgroup: &CgroupPath) -> Result<()>;

    /// Makes the cgroup if need be and moves the process there, in every hierarchy.
    async fn place(&self, cgroup: &CgroupPath, pid: u32) -> Result<()>;

    async fn set_limits(&self, cgroup: &CgroupPath, limits: &Limits) -> Result<()>;

    async fn usage(&self, cgroup: &CgroupPath) -> Result<Usage>;

    /// How often the kernel killed in this cgroup or below for want of memory.
    async fn oom_kill_count(&self, cgroup: &CgroupPath) -> Result<u64>;

    /// The processes in this cgroup and below; none in one that does not exist.
    async fn pids(&self, cgroup: &CgroupPath) -> Result<Vec<u32>>;

    /// Kills everything in this cgroup and below, and returns once nothing is left. Frozen ones are thawed to die.
    async fn kill(&self, cgroup: &CgroupPath, deadline: Instant) -> Result<()>;

    /// Removes this cgroup and those below; one that does not exist is fine. Kills nothing.
    async fn remove(&self, cgroup: &CgroupPath) -> Result<()>;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parents_are_cgroupfs_paths() {
        for (text, parsed) in [
            ("", "/crio"),
            ("/", "/crio"),
            ("/kubepods/burstable/pod1", "/kubepods/burstable/pod1"),
            ("/a/", "/a"),
        ] {
            assert_eq!(CgroupPath::parse_parent(text).unwrap().as_str(), parsed);
        }
        for text in ["a", "a/b", "/../a", "/a/../b", "/a/./b", "//a", "/a//b", "/a\nb"] {
            assert!(
                matches!(CgroupPath::parse_parent(text), Err(Error::BadParent { .. })),
                "{text:?}"
            );
        }
        let error = CgroupPath::parse_parent("kubepods-pod1.slice").unwrap_err();
        assert_eq!(
            error.to_string(),
            "cgroup parent \"kubepods-pod1.slice\" is systemd's syntax, this node uses cgroupfs"
        );
    }

    #[test]
    fn names_are_those_that_tools_know() {
        let parent = CgroupPath::parse_parent("/pods/p").unwrap();
        assert_eq!(parent.container("5b").unwrap().as_str(), "/pods/p/crio-5b");
        assert_eq!(parent.monitor("5b").unwrap().as_str(), "/pods/p/crio-conmon-5b");
        assert!(matches!(parent.container("../x"), Err(Error::BadId(_))));
    }

    proptest! {
        #[test]
        fn no_parent_leads_out_of_the_hierarchy_or_is_its_root(text in "[/.a-z\\n]{0,16}") {
            if let Ok(path) = CgroupPath::parse_parent(&text) {
                let below = path.below(Path::new("/sys/fs/cgroup/x"));
                prop_assert!(below.components().all(|c| !matches!(c, std::path::Component::ParentDir)));
                prop_assert!(below.components().count() > 5, "{}", below.display());
            }
        }
    }
}
