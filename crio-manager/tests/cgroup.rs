//! The cgroupfs driver on this node's real hierarchies, below a parent that only the test uses.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crio_manager::drivers::cgroup::cgroupfs::Cgroupfs;
use crio_manager::drivers::cgroup::{Error, Limits, Mode};
use crio_manager::model::{CgroupPath, ContainerId};
use tokio::time::Instant;

const GENEROUS: Duration = Duration::from_secs(60);

/// One parent cgroup, gone with everything in it at the end, also after a failure.
struct Place {
    driver: Cgroupfs,
    everywhere: Cgroupfs,
    parent: CgroupPath,
    children: Vec<Child>,
}

/// Which of the node's mounts the driver under test may see.
#[derive(Clone, Copy, PartialEq)]
enum Mounts {
    All,
    V1,
    V2,
}

impl Place {
    fn new(test: &str, mounts: Mounts) -> Option<Place> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED {test}: needs root");
            return None;
        }
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let wanted = |line: &&str| match mounts {
            Mounts::All => true,
            Mounts::V1 => !line.contains(" - cgroup2 "),
            Mounts::V2 => line.contains(" - cgroup2 "),
        };
        let seen: String = mountinfo
            .lines()
            .filter(wanted)
            .map(|line| format!("{line}\n"))
            .collect();
        let (Ok(driver), Ok(everywhere)) = (Cgroupfs::from_mountinfo(&seen), Cgroupfs::detect()) else {
            eprintln!("SKIPPED {test}: no such cgroup mounts on this node");
            return None;
        };
        let name = format!(
            "/crio-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        Some(Place {
            driver,
            everywhere,
            parent: CgroupPath::parse_parent(&name).unwrap(),
            children: Vec::new(),
        })
    }

    async fn spawn(&mut self, cgroup: &CgroupPath, script: &str) -> u32 {
        // Waits to be told before it does anything: all that it starts is born in the cgroup.
        let mut child = Command::new("sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        let stdin = child.stdin.take();
        self.children.push(child);
        self.driver.place(cgroup, pid).await.unwrap();
        std::io::Write::write_all(&mut stdin.unwrap(), b"\n").unwrap();
        pid
    }

    async fn wait_for(&self, cgroup: &CgroupPath, enough: impl Fn(&[u32]) -> bool) {
        while !enough(&self.driver.pids(cgroup).await.unwrap()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn clean_up(&mut self) {
        self.everywhere
            .kill(&self.parent, Instant::now() + GENEROUS)
            .await
            .unwrap();
        for child in &mut self.children {
            child.wait().unwrap();
        }
        self.everywhere.remove(&self.parent).await.unwrap();
        assert_eq!(directories(&self.parent), [] as [PathBuf; 0]);
    }
}

/// Wherever this node has the cgroup, whoever made it.
fn directories(cgroup: &CgroupPath) -> Vec<PathBuf> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mountinfo
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .map(|line| line.split(' ').nth(4).unwrap());
    mounts
        .map(|mount| Path::new(mount).join(&cgroup.as_str()[1..]))
        .filter(|dir| dir.exists())
        .collect()
}

/// Runs the body, then cleans up whether or not it failed.
fn run<F>(test: &str, mounts: Mounts, body: F)
where
    F: AsyncFnOnce(&mut Place),
{
    let Some(mut place) = Place::new(test, mounts) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(body(&mut place))));
    runtime.block_on(place.clean_up());
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn soon() -> Instant {
    Instant::now() + GENEROUS
}

#[test]
fn a_placed_process_is_in_every_hierarchy_and_so_are_its_children() {
    run(
        "a_placed_process_is_in_every_hierarchy_and_so_are_its_children",
        Mounts::All,
        async |place| {
            let cgroup = place.parent.container(&ContainerId::from_bytes([0x5b; 32]));
            let pid = place.spawn(&cgroup, "sleep 1000 & while :; do :; done").await;
            place.wait_for(&cgroup, |pids| pids.len() == 2).await;
            for line in std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap().lines() {
                assert!(line.ends_with(cgroup.as_str()), "{line}");
            }
            let deadline = soon();
            // A kernel that counts by ticks counts nothing until one has come.
            let usage = loop {
                let usage = place.driver.usage(&cgroup).await.unwrap();
                if usage.cpu_usage_ns.unwrap() > 0 {
                    break usage;
                }
                assert!(Instant::now() < deadline, "{usage:?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            let host = place.driver.host();
            assert_eq!(usage.memory.is_some(), host.controllers.contains("memory"));
            if host.controllers.contains("pids") {
                assert_eq!(usage.tasks, Some(2));
            }
            if let Some(memory) = usage.memory {
                assert!(
                    memory.usage_bytes > 0 && memory.usage_bytes >= memory.working_set_bytes,
                    "{memory:?}"
                );
            }
            assert_eq!(place.driver.oom_kill_count(&cgroup).await.unwrap(), 0);

            let error = place.driver.remove(&cgroup).await.unwrap_err();
            assert!(
                matches!(&error, Error::Busy { pids, .. } if pids.contains(&pid)),
                "{error}"
            );
            place.driver.kill(&cgroup, soon()).await.unwrap();
            place.children.pop().unwrap().wait().unwrap();
            place.driver.remove(&cgroup).await.unwrap();
            place.driver.remove(&cgroup).await.unwrap();
            assert!(matches!(place.driver.usage(&cgroup).await, Err(Error::Missing(_))));
            assert_eq!(directories(&cgroup), [] as [PathBuf; 0]);
        },
    );
}

/// A tree that keeps forking, below a sub-cgroup of its own, must be gone when `kill` returns.
async fn kills_what_forks(place: &mut Place) {
    let cgroup = place.parent.container(&ContainerId::from_bytes([0x5b; 32]));
    let below = CgroupPath::parse_parent(&format!("{cgroup}/a/b")).unwrap();
    // Where version 2 has controllers, processes are in leaves only.
    let beside = CgroupPath::parse_parent(&format!("{cgroup}/c")).unwrap();
    place.spawn(&beside, "while :; do sleep 1 & sleep 0.005; done").await;
    place.spawn(&below, "while :; do sleep 1 & sleep 0.005; done").await;
    place.wait_for(&cgroup, |pids| pids.len() > 10).await;
    place.driver.kill(&cgroup, soon()).await.unwrap();
    assert_eq!(place.driver.pids(&cgroup).await.unwrap(), [] as [u32; 0]);
    for mut child in place.children.drain(..) {
        child.wait().unwrap();
    }
    place.driver.remove(&cgroup).await.unwrap();
    place.driver.kill(&cgroup, soon()).await.unwrap(); // nothing there is nothing to do
    assert_eq!(directories(&cgroup), [] as [PathBuf; 0]);
}

#[test]
fn kill_ends_a_forking_tree_on_version_1() {
    run("kill_ends_a_forking_tree_on_version_1", Mounts::V1, kills_what_forks);
}

#[test]
fn kill_ends_a_forking_tree_on_version_2() {
    run("kill_ends_a_forking_tree_on_version_2", Mounts::V2, kills_what_forks);
}

#[test]
fn kill_ends_a_forking_tree_with_both_versions() {
    run(
        "kill_ends_a_forking_tree_with_both_versions",
        Mounts::All,
        kills_what_forks,
    );
}

/// On version 1 a kill has to thaw; on version 2 the kernel kills what is frozen.
#[test]
fn a_frozen_cgroup_can_be_killed() {
    let test = "a_frozen_cgroup_can_be_killed";
    for (mounts, file, frozen) in [
        (Mounts::V1, "freezer.state", "FROZEN"),
        (Mounts::V2, "cgroup.freeze", "1"),
    ] {
        run(test, mounts, async |place| {
            let cgroup = place.parent.container(&ContainerId::from_bytes([0x5b; 32]));
            let below = CgroupPath::parse_parent(&format!("{cgroup}/paused")).unwrap();
            place.spawn(&below, "sleep 1000").await;
            let mut freezers: Vec<_> = directories(&below).iter().map(|dir| dir.join(file)).collect();
            freezers.retain(|freezer| freezer.exists());
            if freezers.is_empty() {
                return eprintln!("SKIPPED {test}: no {file}");
            }
            for freezer in freezers {
                std::fs::write(freezer, frozen).unwrap();
            }
            place.driver.kill(&cgroup, soon()).await.unwrap();
        });
    }
}

#[test]
fn limits_are_what_the_kernel_then_says() {
    let test = "limits_are_what_the_kernel_then_says";
    run(test, Mounts::All, async |place| {
        if place.driver.host().mode == Mode::V2 || !place.driver.host().controllers.contains("memory") {
            return eprintln!("SKIPPED {test}: no memory controller on version 1");
        }
        let cgroup = place.parent.container(&ContainerId::from_bytes([0x5b; 32]));
        place.driver.create(&cgroup).await.unwrap();
        let read = |file: &str| {
            let paths = directories(&cgroup).into_iter().map(|dir| dir.join(file));
            paths
                .filter_map(|path| std::fs::read_to_string(path).ok())
                .next()
                .map(|text| text.trim().to_owned())
        };
        let small = Limits {
            memory_bytes: Some(64 << 20),
            memory_and_swap_bytes: Some(64 << 20),
            cpu_shares: Some(512),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            cpuset_cpus: Some("0".to_owned()),
            pids: Some(40),
            ..Limits::default()
        };
        let large = Limits {
            memory_bytes: Some(128 << 20),
            memory_and_swap_bytes: Some(128 << 20),
            cpu_quota_us: Some(-1),
            pids: Some(-1),
            ..Limits::default()
        };
        for (limits, memory, quota, pids) in [
            (&small, 64 << 20, "50000", "40"),
            (&large, 128 << 20, "-1", "max"),
            (&small, 64 << 20, "50000", "40"),
        ] {
            place.driver.set_limits(&cgroup, limits).await.unwrap();
            assert_eq!(read("memory.limit_in_bytes").unwrap(), memory.to_string());
            assert_eq!(read("cpu.cfs_quota_us").unwrap(), quota);
            assert_eq!(read("pids.max").unwrap(), pids);
            assert_eq!(read("cpu.shares").unwrap(), "512");
            assert_eq!(read("cpuset.cpus").unwrap(), "0");
        }
    });
}

#[test]
fn an_oom_kill_is_counted() {
    let test = "an_oom_kill_is_counted";
    run(test, Mounts::All, async |place| {
        if !place.driver.host().controllers.contains("memory") {
            return eprintln!("SKIPPED {test}: no memory controller");
        }
        let cgroup = place.parent.container(&ContainerId::from_bytes([0x5b; 32]));
        place.driver.create(&cgroup).await.unwrap();
        let bytes = Some(16 << 20);
        let limits = Limits {
            memory_bytes: bytes,
            memory_and_swap_bytes: bytes,
            ..Limits::default()
        };
        place.driver.set_limits(&cgroup, &limits).await.unwrap();
        place
            .spawn(&cgroup, "head -c 200000000 /dev/zero | tail -c 199999999; sleep 1000")
            .await;
        while place.driver.oom_kill_count(&cgroup).await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}
