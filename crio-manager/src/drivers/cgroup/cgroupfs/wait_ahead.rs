//! What the kernel waits for before a process changes its cgroup, waited for ahead of time.
//!
//! The first write to a `cgroup.procs` in a while waits until all processors have passed a point (RCU), some
//! milliseconds; those that follow within about as long do not. Source: `cgroup_threadgroup_rwsem` in the kernel's
//! `kernel/cgroup/cgroup.c`, a `percpu_rw_semaphore`.

use super::{Hierarchy, Tree, write};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, TryLockError};

/// Held while somebody waits: one is enough.
static WAITING: Mutex<()> = Mutex::new(());

impl Tree {
    /// Has the kernel wait, and changes nothing: this process is told to go where it is. Blocks. A failure only means
    /// that whoever comes next waits.
    pub(super) fn wait_ahead(&self) {
        let _waiting = match WAITING.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(guard)) => guard.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = self.hierarchies.iter().filter_map(|one| own_procs(one, &cgroups));
        let _ = own.map(|procs| stay(&procs)).find(Result::is_ok);
    }
}

/// The `cgroup.procs` of the own cgroup in this hierarchy, after the text of `/proc/self/cgroup`.
fn own_procs(hierarchy: &Hierarchy, cgroups: &str) -> Option<PathBuf> {
    let path = cgroups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let same = if hierarchy.v2 {
            controllers.is_empty()
        } else {
            controllers.split(',').any(|name| hierarchy.controllers.contains(name))
        };
        same.then_some(path)
    })?;
    Some(hierarchy.mount.join(path.trim_start_matches('/')).join("cgroup.procs"))
}

/// Errors: this process is not in there. (A path is seen from a cgroup namespace and a mount, which need not agree.)
fn stay(procs: &Path) -> io::Result<()> {
    let own = std::process::id().to_string();
    if !fs::read_to_string(procs)?.lines().any(|pid| pid == own) {
        return Err(io::ErrorKind::NotFound.into());
    }
    write(procs, "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_found_in_each_kind_of_hierarchy() {
        let cgroups = "9:name=systemd:/a\n7:cpu,cpuacct:/b/c\n0::/d\n";
        let own = |names: &[&str], v2| {
            let hierarchy = Hierarchy {
                mount: "/mount".into(),
                controllers: names.iter().map(|&name| name.to_owned()).collect(),
                v2,
            };
            own_procs(&hierarchy, cgroups)
        };
        assert_eq!(own(&["name=systemd"], false), Some("/mount/a/cgroup.procs".into()));
        assert_eq!(own(&["cpu", "cpuacct"], false), Some("/mount/b/c/cgroup.procs".into()));
        assert_eq!(own(&["memory", "pids"], true), Some("/mount/d/cgroup.procs".into()));
        assert_eq!(own(&["pids"], false), None);
    }

    #[test]
    fn a_cgroup_without_this_process_is_not_entered() {
        let directory = tempfile::tempdir().unwrap();
        let procs = directory.path().join("cgroup.procs");
        fs::write(&procs, format!("1\n{}0\n", std::process::id())).unwrap();
        assert!(stay(&procs).is_err());
        assert!(
            fs::read_to_string(&procs).unwrap().starts_with("1\n"),
            "nothing was written"
        );
    }
}
