use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::harness::{Stage, eventually};

/// A memory cgroup of our own, with 16 MiB; gone at the end.
struct Cgroup(PathBuf);

impl Cgroup {
    /// Each test has one by its own name, because they run side by side. `None` where the host allows none.
    fn new(test: &str) -> Option<Cgroup> {
        let name = format!("conmon-rs-test-{}-{test}", std::process::id());
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let (root, limit) = if v1.join("cgroup.event_control").exists() {
            (v1, "memory.limit_in_bytes")
        } else {
            (Path::new("/sys/fs/cgroup"), "memory.max")
        };
        let directory = root.join(name);
        match fs::create_dir(&directory) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => panic!("{}: {error}", directory.display()),
            Err(_) => return None,
        }
        let cgroup = Cgroup(directory);
        fs::write(cgroup.0.join(limit), (16 << 20).to_string()).ok()?;
        let _ = fs::write(cgroup.0.join("memory.swap.max"), "0");
        Some(cgroup)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        eventually("the cgroup is empty", || match fs::remove_dir(&self.0) {
            Ok(()) => Some(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Some(()),
            Err(_) => None,
        });
    }
}

#[test]
fn a_container_killed_for_lack_of_memory_leaves_word_in_both_places() {
    let Some(cgroup) = Cgroup::new("killed") else {
        eprintln!("SKIPPED a_container_killed_for_lack_of_memory: no memory cgroup can be made here");
        return;
    };
    let stage = Stage::new();
    let runtime = format!("echo $$ > {}/cgroup.procs; start", cgroup.0.display());
    let container = "while [ ! -e $stage/go ]; do sleep 0.01; done; exec tail /dev/zero";
    let mut monitor = stage.create_with_runtime(&runtime, container).start();
    monitor.created();
    assert!(!stage.path("bundle/oom").exists());
    stage.go();
    assert_eq!(monitor.wait(), 137);
    assert_eq!(
        (stage.read("bundle/oom"), stage.read("persist/oom")),
        (String::new(), String::new())
    );
}

fn has_eventfd(pid: impl std::fmt::Display) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut links = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.any(|link| link == Path::new("anon_inode:[eventfd]"))
}

#[test]
fn an_ordinary_exit_and_the_removal_of_the_cgroup_are_no_lack_of_memory() {
    let Some(cgroup) = Cgroup::new("removed") else {
        eprintln!(
            "SKIPPED an_ordinary_exit_and_the_removal_of_the_cgroup_are_no_lack_of_memory: no memory cgroup can be made here"
        );
        return;
    };
    let stage = Stage::new();
    // The container leaves the cgroup, which is then removed under the monitor's eyes.
    let root = cgroup.0.parent().unwrap().display();
    let runtime = format!(
        "echo $$ > {}/cgroup.procs; start; echo $$ > {root}/cgroup.procs",
        cgroup.0.display()
    );
    let container = format!(
        "while [ ! -e $stage/go ]; do sleep 0.01; done; echo $$ > {root}/cgroup.procs
        rmdir {} && echo removed; while [ ! -e $stage/seen ]; do sleep 0.01; done",
        cgroup.0.display()
    );
    let mut monitor = stage.create_with_runtime(&runtime, &container).start();
    monitor.created();
    // On v1 the removal is an event too. The monitor has an eventfd until it has dealt with that.
    let v1 = cgroup.0.join("cgroup.event_control").exists();
    let eventfd_is_there = |wanted| {
        eventually("the memory events", || {
            (!v1 || has_eventfd(monitor.pid()) == wanted).then_some(())
        });
    };
    eventfd_is_there(true);
    stage.go();
    eventfd_is_there(false);
    fs::write(stage.path("seen"), "").unwrap();
    assert_eq!(monitor.wait(), 0);
    assert_eq!(stage.log(), ["stdout F removed"]);
    assert!(!stage.path("bundle/oom").exists() && !stage.path("persist/oom").exists());
}

#[test]
fn a_memory_cgroup_that_cannot_be_watched_is_no_reason_to_stop() {
    let stage = Stage::new();
    let launch = stage.create("exit 5").wrapped_in(&[
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs tmpfs /sys/fs/cgroup && exec \"$0\" \"$@\"",
    ]);
    assert_eq!(launch.run(), 5);
    assert_eq!(stage.read("persist/exit"), "5");
}
