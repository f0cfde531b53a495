//! Who owns a node's tree of cgroups, and what follows from it.

use std::sync::atomic::{AtomicU32, Ordering};

use super::Node;

/// `E2E_CGROUP_MANAGER`: the same tests run with both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupManager {
    Cgroupfs,
    /// systemd knows processes by their numbers in its own namespace only, so the node shares that one.
    Systemd,
}

impl CgroupManager {
    pub fn of_this_run() -> Self {
        match std::env::var("E2E_CGROUP_MANAGER").as_deref() {
            Ok("systemd") => CgroupManager::Systemd,
            Ok("cgroupfs") | Err(_) => CgroupManager::Cgroupfs,
            Ok(other) => panic!("E2E_CGROUP_MANAGER: {other:?} is neither cgroupfs nor systemd"),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            CgroupManager::Cgroupfs => "cgroupfs",
            CgroupManager::Systemd => "systemd",
        }
    }

    /// A parent for all pods of a node, as their client names it. The names are the machine's own.
    pub(super) fn unique_parent(self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        match self {
            CgroupManager::Cgroupfs => format!("/crio-e2e-{process}-{number}"),
            // A dash would make it a child of another slice.
            CgroupManager::Systemd => format!("crioe2e{process}x{number}.slice"),
        }
    }

    /// Where the node's new `/run` must show systemd as before.
    pub(super) fn preparation(self, replace_run: &str) -> String {
        match self {
            CgroupManager::Cgroupfs => replace_run.to_owned(),
            CgroupManager::Systemd => format!(
                "mount --bind /run /mnt\n{replace_run}\nmkdir /run/dbus /run/systemd\n\
                 mount --bind /mnt/dbus /run/dbus\nmount --bind /mnt/systemd /run/systemd\numount /mnt"
            ),
        }
    }
}

impl Node {
    /// A container's cgroup, from the root of the tree.
    pub fn container_cgroup(&self, id: &str) -> String {
        let parent = self.cgroup_parent.trim_start_matches('/');
        match self.cgroup_manager {
            CgroupManager::Cgroupfs => format!("/{parent}/crio-{id}"),
            CgroupManager::Systemd => format!("/{parent}/crio-{id}.scope"),
        }
    }
}
