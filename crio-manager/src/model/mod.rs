//! The nouns of a node: what was asked for, what state it is in, and what may change that. No I/O, no clock.

pub mod cdi;
pub mod cgroup;
pub mod container;
pub mod exit;
pub mod id;
pub mod name;
pub mod rate;
pub mod record;
pub mod sandbox;
pub mod security;
pub mod selinux;
pub mod signal;
pub mod slice;
pub mod time;
pub mod trust;
pub mod users;

pub use cgroup::CgroupPath;
pub use container::{ContainerEvent, ContainerPlan, ContainerState};
pub use exit::{Exit, ExitStatus};
pub use id::{ContainerId, Id, SandboxId};
pub use sandbox::{SandboxEvent, SandboxPlan, SandboxState};
pub use time::Timestamp;

/// An event that an object in this state cannot take. Carries the names of both, for the caller who asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{event} is not possible: it is {state}")]
pub struct Refused {
    /// The state the object is in, as a lower-case word.
    pub state: &'static str,
    /// The event that was refused, as a lower-case word.
    pub event: &'static str,
}

/// One process of this boot: the pid alone may be re-used, the pair is not.
///
/// `start_ticks` is field 22 of `/proc/<pid>/stat`, in clock ticks since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProcessId {
    /// The pid in the host's namespace; never 0.
    pub pid: std::num::NonZeroU32,
    /// When the kernel started it, in clock ticks since boot.
    pub start_ticks: u64,
}
