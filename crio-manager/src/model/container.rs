//! A container: what was asked, its state, and the events that change it.

use super::cdi::CdiName;
use super::name::{ContainerMetadata, ContainerName, Pairs, PodMetadata};
use super::security::Security;
use super::{ContainerId, Exit, ExitStatus, ProcessId, Refused, SandboxId, Timestamp};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What CreateContainer asked for, parsed and checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// The id it gets.
    pub id: ContainerId,
    /// The pod it belongs to.
    pub sandbox_id: SandboxId,
    /// What the client calls it.
    pub metadata: ContainerMetadata,
    /// What the client calls its pod.
    pub pod: PodMetadata,
    /// The image as the request named it: an id, a tag or a digest.
    pub image: String,
    /// The image as the user named it, when the client says so.
    pub user_specified_image: String,
    /// Replaces the image's entrypoint.
    pub command: Vec<String>,
    /// Replaces the image's arguments.
    pub args: Vec<String>,
    /// Replaces the image's working directory; empty keeps it.
    pub working_dir: String,
    /// Variables, in order; a later one wins.
    pub envs: Vec<(String, String)>,
    /// Bind mounts.
    pub mounts: Vec<MountPlan>,
    /// Devices of the host.
    pub devices: Vec<DevicePlan>,
    /// Devices that files on the node describe, each once.
    #[serde(default)]
    pub cdi_devices: Vec<CdiName>,
    /// Labels, as sent.
    pub labels: Pairs,
    /// Annotations, as sent.
    pub annotations: Pairs,
    /// The log file; `None` when the client keeps none.
    pub log_path: Option<PathBuf>,
    /// The log file as the request named it, below the pod's log directory.
    pub log_path_asked: String,
    /// Keeps standard input open for attaching clients.
    pub stdin: bool,
    /// Closes standard input when the first client goes.
    pub stdin_once: bool,
    /// Gives it a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: Resources,
    /// What it may do.
    pub security: Security,
    /// Replaces the image's stop signal: 1–64.
    pub stop_signal: Option<i32>,
    /// When it was asked for.
    pub created_at: Timestamp,
}

impl ContainerPlan {
    /// The name it has on this node.
    pub fn name(&self) -> ContainerName {
        (self.sandbox_id.clone(), self.metadata.clone())
    }
}

/// A mount into the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// Absolute path in the container.
    pub container_path: String,
    /// What appears there.
    #[serde(flatten)]
    pub source: MountSource,
    /// Not writable.
    pub readonly: bool,
    /// And neither is what is mounted beneath it.
    #[serde(default)]
    pub recursive_read_only: bool,
    /// Who sees mounts made beneath it.
    pub propagation: Propagation,
    /// Relabel for SELinux.
    pub selinux_relabel: bool,
    /// Its owners are those of the pod's user namespace: 0 there is the pod's root.
    #[serde(default)]
    pub id_mapped: bool,
}

/// Where the files of a mount come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MountSource {
    /// From the host.
    Host {
        /// Absolute path there.
        host_path: PathBuf,
    },
    /// From an image: read-only and private.
    Image {
        /// Which.
        image: ImageMount,
    },
}

/// An image, or a part of one, as a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMount {
    /// As the request named it: an id, a tag or a digest.
    pub image: String,
    /// As the user named it, when the client says so.
    pub user_specified_image: String,
    /// A file or directory in it; empty for all of it.
    pub sub_path: String,
}

/// Mount propagation. CRI `MountPropagation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// None.
    Private,
    /// Mounts of the host appear in the container.
    HostToContainer,
    /// And the other way round.
    Bidirectional,
}

/// A device of the host in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePlan {
    /// Absolute path in the container.
    pub container_path: String,
    /// Absolute path on the host.
    pub host_path: PathBuf,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
}

/// Limits as CRI gives them. `None` and empty mean: no limit of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// CFS period in microseconds.
    pub cpu_period_us: Option<u64>,
    /// CFS quota in microseconds.
    pub cpu_quota_us: Option<i64>,
    /// Relative weight, v1 scale 2–262144.
    pub cpu_shares: Option<u64>,
    /// CPUs it may run on, in list form.
    pub cpuset_cpus: String,
    /// Memory nodes it may use, in list form.
    pub cpuset_mems: String,
    /// Memory limit in bytes.
    pub memory_limit_bytes: Option<i64>,
    /// Memory and swap together, in bytes.
    pub memory_swap_limit_bytes: Option<i64>,
    /// Whom the kernel kills first, -1000–1000.
    pub oom_score_adj: i32,
    /// Page size, in the kernel's spelling, and limit in bytes.
    pub hugepage_limits: Vec<(String, u64)>,
    /// Files of cgroup v2, verbatim.
    pub unified: Pairs,
}

impl Resources {
    /// What holds once `asked` has been set: what it does not say (`None`, empty, an `oom_score_adj` of 0) stays. A
    /// memory limit without a word about swap stands for both.
    pub fn updated_by(&self, asked: &Self) -> Self {
        let word = |new: &str, old: &str| if new.is_empty() { old } else { new }.to_owned();
        let mut hugepage_limits = asked.hugepage_limits.clone();
        let of_before = self.hugepage_limits.iter();
        hugepage_limits.extend(
            of_before
                .filter(|(size, _)| asked.hugepage_limits.iter().all(|(new, _)| new != size))
                .cloned(),
        );
        let mut unified = self.unified.clone();
        unified.extend(asked.unified.clone());
        Self {
            cpu_period_us: asked.cpu_period_us.or(self.cpu_period_us),
            cpu_quota_us: asked.cpu_quota_us.or(self.cpu_quota_us),
            cpu_shares: asked.cpu_shares.or(self.cpu_shares),
            cpuset_cpus: word(&asked.cpuset_cpus, &self.cpuset_cpus),
            cpuset_mems: word(&asked.cpuset_mems, &self.cpuset_mems),
            memory_limit_bytes: asked.memory_limit_bytes.or(self.memory_limit_bytes),
            memory_swap_limit_bytes: match asked.memory_limit_bytes {
                Some(_) => asked.memory_swap_limit_bytes,
                None => asked.memory_swap_limit_bytes.or(self.memory_swap_limit_bytes),
            },
            oom_score_adj: match asked.oom_score_adj {
                0 => self.oom_score_adj,
                asked => asked,
            },
            hugepage_limits,
            unified,
        }
    }
}

/// ```text
///                ┌────────────── Exited ──────────────┐
///   Created ─────┤                                    ▼
///      │         └──────────── StartFailed ────────▶ Exited
///      └── Started ──▶ Running ────── Exited ─────────▲
///      ┌── Restored ──▶   │                           │
///   Checkpointed ─────── Exited, StartFailed ─────────┘
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// Made; its first process waits for the start.
    Created {
        /// That process.
        process: ProcessId,
    },
    /// Unpacked from a checkpoint. It has no process: its start makes those that it had.
    Checkpointed,
    /// Started.
    Running {
        /// Its first process.
        process: ProcessId,
        /// When it was started.
        started_at: Timestamp,
    },
    /// Ended.
    Exited {
        /// How and when.
        exit: Exit,
        /// `None` if it ended before a start.
        started_at: Option<Timestamp>,
    },
}

/// What changes a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerEvent {
    /// The OCI runtime started it.
    Started {
        /// When.
        at: Timestamp,
    },
    /// The OCI runtime made its processes again.
    Restored {
        /// The first one.
        process: ProcessId,
        /// When.
        at: Timestamp,
    },
    /// The OCI runtime refused to start it.
    StartFailed {
        /// The runtime's words.
        why: String,
        /// When.
        at: Timestamp,
    },
    /// Its first process ended.
    Exited(Exit),
}

impl ContainerState {
    /// The state as a lower-case word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Created { .. } | Self::Checkpointed => "created",
            Self::Running { .. } => "running",
            Self::Exited { .. } => "exited",
        }
    }

    /// Its first process, while there is one.
    pub fn process(&self) -> Option<ProcessId> {
        match self {
            Self::Created { process } | Self::Running { process, .. } => Some(*process),
            Self::Checkpointed | Self::Exited { .. } => None,
        }
    }

    /// It has ended.
    pub fn is_exited(&self) -> bool {
        matches!(self, Self::Exited { .. })
    }
}

/// The only way a container changes. Pure: no I/O, no clock, no lock.
pub fn apply(state: &ContainerState, event: ContainerEvent) -> Result<ContainerState, Refused> {
    use {ContainerEvent as E, ContainerState as S};
    match (state, event) {
        (S::Created { process }, E::Started { at }) => Ok(S::Running {
            process: *process,
            started_at: at,
        }),
        (S::Checkpointed, E::Restored { process, at }) => Ok(S::Running {
            process,
            started_at: at,
        }),
        (S::Created { .. } | S::Checkpointed, E::StartFailed { why, at }) => Ok(S::Exited {
            exit: Exit {
                status: ExitStatus::StartFailed(why),
                oom_killed: false,
                at,
            },
            started_at: None,
        }),
        (S::Created { .. } | S::Checkpointed, E::Exited(exit)) => Ok(S::Exited { exit, started_at: None }),
        (S::Running { started_at, .. }, E::Exited(exit)) => Ok(S::Exited {
            exit,
            started_at: Some(*started_at),
        }),
        (S::Running { .. }, E::Started { .. } | E::Restored { .. }) => Err(Refused {
            state: "running",
            event: "start",
        }),
        (S::Checkpointed, E::Started { .. }) => Err(Refused {
            state: "not made from its checkpoint yet",
            event: "start",
        }),
        (S::Created { .. }, E::Restored { .. }) => Err(Refused {
            state: "created",
            event: "restore",
        }),
        (S::Exited { .. }, E::Restored { .. }) => Err(Refused {
            state: "exited",
            event: "restore",
        }),
        (S::Running { .. }, E::StartFailed { .. }) => Err(Refused {
            state: "running",
            event: "a failed start",
        }),
        // It ended while the start was under way: both are true, and the end keeps its code.
        (S::Exited { exit, started_at: None }, E::Started { at }) => Ok(S::Exited {
            exit: exit.clone(),
            started_at: Some(at.min(exit.at)),
        }),
        (
            S::Exited {
                started_at: Some(_), ..
            },
            E::Started { .. },
        ) => Err(Refused {
            state: "exited",
            event: "start",
        }),
        // The monitor and a restore may both report it, and a kill follows a failed start: the first wins.
        (S::Exited { .. }, E::Exited(_) | E::StartFailed { .. }) => Ok(state.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn process() -> ProcessId {
        ProcessId {
            pid: NonZeroU32::new(42).unwrap(),
            start_ticks: 7,
        }
    }

    fn exit(code: u8, at: i64) -> Exit {
        Exit {
            status: ExitStatus::Code(code),
            oom_killed: false,
            at: Timestamp::from_nanos(at),
        }
    }

    #[test]
    fn the_first_exit_wins() {
        let running = ContainerState::Running {
            process: process(),
            started_at: Timestamp::from_nanos(1),
        };
        let first = apply(&running, ContainerEvent::Exited(exit(7, 2))).unwrap();
        let second = apply(&first, ContainerEvent::Exited(exit(0, 3))).unwrap();
        assert_eq!(first, second);
    }

    #[test]
    fn an_exit_seen_before_the_start_was_noted_keeps_its_code_and_gets_a_start() {
        let exited = apply(
            &ContainerState::Created { process: process() },
            ContainerEvent::Exited(exit(3, 5)),
        )
        .unwrap();
        let noted = apply(
            &exited,
            ContainerEvent::Started {
                at: Timestamp::from_nanos(6),
            },
        )
        .unwrap();
        assert_eq!(
            noted,
            ContainerState::Exited {
                exit: exit(3, 5),
                started_at: Some(Timestamp::from_nanos(5))
            }
        );
    }

    #[test]
    fn an_update_keeps_what_it_does_not_say() {
        let before = Resources {
            cpu_shares: Some(100),
            memory_limit_bytes: Some(64),
            memory_swap_limit_bytes: Some(128),
            cpuset_cpus: "0".into(),
            oom_score_adj: 5,
            hugepage_limits: vec![("2MB".into(), 1), ("1GB".into(), 2)],
            unified: [("memory.high".to_owned(), "1".to_owned())].into(),
            ..Resources::default()
        };
        let asked = Resources {
            cpu_quota_us: Some(-1),
            memory_limit_bytes: Some(96),
            hugepage_limits: vec![("2MB".into(), 7)],
            unified: [("io.weight".to_owned(), "2".to_owned())].into(),
            ..Resources::default()
        };
        let after = before.updated_by(&asked);
        assert_eq!((after.cpu_shares, after.cpu_quota_us), (Some(100), Some(-1)));
        assert_eq!(
            (after.memory_limit_bytes, after.memory_swap_limit_bytes),
            (Some(96), None)
        );
        assert_eq!((after.cpuset_cpus.as_str(), after.oom_score_adj), ("0", 5));
        assert_eq!(after.hugepage_limits, [("2MB".into(), 7), ("1GB".into(), 2)]);
        assert_eq!(after.unified.len(), 2);
    }

    #[test]
    fn a_container_from_a_checkpoint_runs_from_its_restoring_on_unless_it_was_stopped_before() {
        let at = Timestamp::from_nanos(4);
        let restored = || ContainerEvent::Restored { process: process(), at };
        let running = apply(&ContainerState::Checkpointed, restored()).unwrap();
        assert_eq!(running.process(), Some(process()));
        assert!(apply(&running, restored()).is_err());
        assert!(apply(&ContainerState::Checkpointed, ContainerEvent::Started { at }).is_err());
        let stopped = apply(&ContainerState::Checkpointed, ContainerEvent::Exited(exit(137, 3))).unwrap();
        assert!(apply(&stopped, restored()).is_err());
    }

    #[test]
    fn a_container_starts_once() {
        let running = ContainerState::Running {
            process: process(),
            started_at: Timestamp::from_nanos(1),
        };
        assert!(
            apply(
                &running,
                ContainerEvent::Started {
                    at: Timestamp::from_nanos(2)
                }
            )
            .is_err()
        );
        let exited = apply(&running, ContainerEvent::Exited(exit(0, 3))).unwrap();
        assert!(
            apply(
                &exited,
                ContainerEvent::Started {
                    at: Timestamp::from_nanos(4)
                }
            )
            .is_err()
        );
    }
}
