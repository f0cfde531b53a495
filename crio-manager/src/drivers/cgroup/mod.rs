//! Control groups: a place for each container's processes, their limits, their usage, and their certain end.
//!
//! A cgroup has one writer: a container's is made and limited by its OCI runtime, a monitor's by us. We kill in both, and
//! remove both.

pub mod cgroupfs;
mod seam;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use crate::model::CgroupPath;

#[derive(Debug, thiserror::Error)]
pub enum Error {
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
