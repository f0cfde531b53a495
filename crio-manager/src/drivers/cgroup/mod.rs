//! Control groups: a place for each container's processes, their limits, their usage, and their certain end.
//!
//! A cgroup has one writer: a container's is made and limited by its OCI runtime, a monitor's by us. We kill in both, and
//! remove both.

pub mod cgroupfs;
mod seam;
pub mod systemd;

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
    #[error("unified {name}: set it to {value:?}")]
    NamedFile {
        name: String,
        value: String,
        source: io::Error,
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
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    pub memory: Option<MemoryUsage>,
    /// Absent also where the kernel does not count it.
    pub swap: Option<SwapUsage>,
    pub cpu_usage_ns: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
    pub pressure: Pressure,
}

impl Usage {
    /// Both together. Pressures and limits do not add up: those are absent.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        fn both<T>(one: Option<T>, other: Option<T>, add: impl FnOnce(T, T) -> T) -> Option<T> {
            match (one, other) {
                (Some(one), Some(other)) => Some(add(one, other)),
                (one, other) => one.or(other),
            }
        }
        let mut sum = Self {
            memory: both(self.memory, other.memory, |one, other| MemoryUsage {
                usage_bytes: one.usage_bytes + other.usage_bytes,
                working_set_bytes: one.working_set_bytes + other.working_set_bytes,
                limit_bytes: None,
                rss_bytes: one.rss_bytes + other.rss_bytes,
                page_faults: one.page_faults + other.page_faults,
                major_page_faults: one.major_page_faults + other.major_page_faults,
            }),
            swap: both(self.swap, other.swap, |one, other| SwapUsage {
                usage_bytes: one.usage_bytes + other.usage_bytes,
                limit_bytes: None,
            }),
            cpu_usage_ns: both(self.cpu_usage_ns, other.cpu_usage_ns, |one, other| one + other),
            tasks: both(self.tasks, other.tasks, |one, other| one + other),
            pressure: Pressure::default(),
        };
        // What only one of them has is a part of both all the same.
        if let Some(memory) = &mut sum.memory {
            memory.limit_bytes = None;
        }
        if let Some(swap) = &mut sum.swap {
            swap.limit_bytes = None;
        }
        sum
    }
}

/// What the kernel counts of a cgroup and everything below it; what it does not count is 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    pub cpu_user_ns: u64,
    pub cpu_system_ns: u64,
    /// Periods of the CPU quota, and those in which it was used up.
    pub cfs_periods: u64,
    pub cfs_throttled_periods: u64,
    pub cfs_throttled_ns: u64,
    pub memory_cache_bytes: u64,
    pub memory_mapped_file_bytes: u64,
    pub memory_swap_bytes: u64,
    pub memory_kernel_bytes: u64,
    /// The most that was ever used.
    pub memory_max_bytes: u64,
    /// How often the limit was in the way.
    pub memory_failures: u64,
    /// Page faults of this cgroup without those below it.
    pub own_page_faults: u64,
    pub own_major_page_faults: u64,
    pub oom_kills: u64,
    pub block_io: Vec<BlockIo>,
    pub hugepages: Vec<Hugepages>,
    pub processes: u64,
    pub threads: u64,
    /// 0: no limit.
    pub threads_max: u64,
    pub file_descriptors: u64,
    /// Of the descriptors.
    pub sockets: u64,
}

/// What went to and from a block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockIo {
    /// `major:minor`.
    pub device: String,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

impl BlockIo {
    fn of(device: &str) -> Self {
        Self {
            device: device.to_owned(),
            ..Self::default()
        }
    }
}

/// Huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hugepages {
    /// `2MB`.
    pub size: String,
    pub usage_bytes: u64,
    /// Absent where the kernel does not count it.
    pub max_usage_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SwapUsage {
    pub usage_bytes: u64,
    /// Absent where there is none.
    pub limit_bytes: Option<u64>,
}

/// How long tasks waited for want of something; absent where the kernel does not tell (version 1 never does).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pressure {
    pub cpu: Option<Stalls>,
    pub memory: Option<Stalls>,
    pub io: Option<Stalls>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stalls {
    /// At least one task waited.
    pub some: Stall,
    /// All tasks waited.
    pub full: Stall,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    pub total_ns: u64,
    /// Of the last 10 seconds, and so on.
    pub avg10_percent: f64,
    pub avg60_percent: f64,
    pub avg300_percent: f64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    pub usage_bytes: u64,
    /// Usage without the file cache that the kernel can drop at once.
    pub working_set_bytes: u64,
    /// Absent where there is none.
    pub limit_bytes: Option<u64>,
    pub rss_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
}
