//! What the kernel counts of a cgroup beyond its usage, for metrics.

use super::{Tree, below, read_keyed, read_number};
use crate::drivers::cgroup::{BlockIo, Counters, Hugepages};
use crate::model::CgroupPath;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

impl Tree {
    /// What is counted of a cgroup and everything below it. Where the kernel has no file for it, it is 0.
    pub(super) fn counters(&self, cgroup: &CgroupPath) -> Counters {
        let at = |controller: &str| self.with(controller).map(|h| (below(cgroup, &h.mount), h.v2));
        let v2_root = self.hierarchies.iter().find(|h| h.v2).map(|h| below(cgroup, &h.mount));
        let mut counters = Counters::default();
        match at("cpuacct") {
            Some((dir, false)) => cpu_v1(&mut counters, &dir, at("cpu").map(|(dir, _)| dir).as_deref()),
            Some((_, true)) | None => {
                if let Some(dir) = &v2_root {
                    cpu_v2(&mut counters, dir);
                }
            }
        }
        match at("memory") {
            Some((dir, false)) => memory_v1(&mut counters, &dir),
            Some((dir, true)) => memory_v2(&mut counters, &dir),
            None => {}
        }
        counters.block_io = match (at("blkio"), at("io")) {
            (Some((dir, false)), _) => block_io_v1(&dir),
            (_, Some((dir, true))) => block_io_v2(&dir),
            _ => Vec::new(),
        };
        if let Some((dir, v2)) = at("hugetlb") {
            counters.hugepages = hugepages(&dir, v2);
        }
        if let Some((dir, _)) = at("pids") {
            counters.threads = read_number(&dir.join("pids.current")).unwrap_or(0);
            counters.threads_max = read_number(&dir.join("pids.max")).unwrap_or(0); // "max"
        }
        counters.oom_kills = self.oom_kill_count(cgroup).unwrap_or(0);
        let pids = self.pids(cgroup).unwrap_or_default();
        counters.processes = pids.len() as u64;
        for pid in pids {
            descriptors(&mut counters, pid);
        }
        counters
    }
}

/// `stat` counts in ticks, of which Linux has 100 a second whatever its own clock is.
const TICK_NS: u64 = 10_000_000;

fn cpu_v1(counters: &mut Counters, accounting: &Path, controller: Option<&Path>) {
    let stat = read_keyed(&accounting.join("cpuacct.stat")).unwrap_or_default();
    counters.cpu_user_ns = number(&stat, "user") * TICK_NS;
    counters.cpu_system_ns = number(&stat, "system") * TICK_NS;
    let stat = controller
        .and_then(|dir| read_keyed(&dir.join("cpu.stat")))
        .unwrap_or_default();
    counters.cfs_periods = number(&stat, "nr_periods");
    counters.cfs_throttled_periods = number(&stat, "nr_throttled");
    counters.cfs_throttled_ns = number(&stat, "throttled_time");
}

fn cpu_v2(counters: &mut Counters, dir: &Path) {
    let stat = read_keyed(&dir.join("cpu.stat")).unwrap_or_default();
    counters.cpu_user_ns = number(&stat, "user_usec") * 1000;
    counters.cpu_system_ns = number(&stat, "system_usec") * 1000;
    counters.cfs_periods = number(&stat, "nr_periods");
    counters.cfs_throttled_periods = number(&stat, "nr_throttled");
    counters.cfs_throttled_ns = number(&stat, "throttled_usec") * 1000;
}

fn memory_v1(counters: &mut Counters, dir: &Path) {
    let stat = read_keyed(&dir.join("memory.stat")).unwrap_or_default();
    let file = |name: &str| read_number(&dir.join(name)).unwrap_or(0);
    counters.memory_cache_bytes = number(&stat, "total_cache");
    counters.memory_mapped_file_bytes = number(&stat, "total_mapped_file");
    counters.memory_swap_bytes = number(&stat, "total_swap");
    counters.memory_failures = file("memory.failcnt");
    counters.memory_kernel_bytes = file("memory.kmem.usage_in_bytes");
    counters.memory_max_bytes = file("memory.max_usage_in_bytes");
    counters.own_page_faults = number(&stat, "pgfault");
    counters.own_major_page_faults = number(&stat, "pgmajfault");
}

fn memory_v2(counters: &mut Counters, dir: &Path) {
    let stat = read_keyed(&dir.join("memory.stat")).unwrap_or_default();
    let file = |name: &str| read_number(&dir.join(name)).unwrap_or(0);
    counters.memory_cache_bytes = number(&stat, "file");
    counters.memory_mapped_file_bytes = number(&stat, "file_mapped");
    counters.memory_swap_bytes = file("memory.swap.current");
    counters.memory_failures = number(&read_keyed(&dir.join("memory.events")).unwrap_or_default(), "max");
    counters.memory_kernel_bytes = number(&stat, "kernel");
    counters.memory_max_bytes = file("memory.peak");
    counters.own_page_faults = number(&stat, "pgfault");
    counters.own_major_page_faults = number(&stat, "pgmajfault");
}

fn number(stat: &BTreeMap<String, u64>, name: &str) -> u64 {
    stat.get(name).copied().unwrap_or(0)
}

/// `8:0 Read 4096` in one file for bytes and one for operations.
fn block_io_v1(dir: &Path) -> Vec<BlockIo> {
    let mut devices: BTreeMap<String, BlockIo> = BTreeMap::new();
    for (file, is_bytes) in [
        ("blkio.throttle.io_service_bytes_recursive", true),
        ("blkio.throttle.io_serviced_recursive", false),
    ] {
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let (Some(device), Some(way), Some(count)) = (words.next(), words.next(), words.next()) else {
                continue; // the total
            };
            let count = count.parse().unwrap_or(0);
            let of = devices.entry(device.to_owned()).or_insert_with(|| BlockIo::of(device));
            match (way, is_bytes) {
                ("Read", true) => of.read_bytes = count,
                ("Write", true) => of.written_bytes = count,
                ("Read", false) => of.reads = count,
                ("Write", false) => of.writes = count,
                _ => {}
            }
        }
    }
    devices.into_values().collect()
}

/// `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`
fn block_io_v2(dir: &Path) -> Vec<BlockIo> {
    let text = fs::read_to_string(dir.join("io.stat")).unwrap_or_default();
    let line = |line: &str| {
        let (device, counts) = line.split_once(' ')?;
        let mut of = BlockIo::of(device);
        for (name, count) in counts.split(' ').filter_map(|word| word.split_once('=')) {
            let count = count.parse().unwrap_or(0);
            match name {
                "rbytes" => of.read_bytes = count,
                "wbytes" => of.written_bytes = count,
                "rios" => of.reads = count,
                "wios" => of.writes = count,
                _ => {}
            }
        }
        Some(of)
    };
    text.lines().filter_map(line).collect()
}

/// The file of each page size: `hugetlb.2MB.current`, on version 1 `hugetlb.2MB.usage_in_bytes`.
fn hugepages(dir: &Path, v2: bool) -> Vec<Hugepages> {
    let (usage, max) = if v2 {
        (".current", ".max_usage") // of which version 2 has none
    } else {
        (".usage_in_bytes", ".max_usage_in_bytes")
    };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let sizes = names.filter_map(|name| {
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(usage)?;
        (!size.contains('.')).then(|| size.to_owned())
    });
    let mut all: Vec<_> = sizes
        .map(|size| Hugepages {
            usage_bytes: read_number(&dir.join(format!("hugetlb.{size}{usage}"))).unwrap_or(0),
            max_usage_bytes: read_number(&dir.join(format!("hugetlb.{size}{max}"))),
            size,
        })
        .collect();
    all.sort_by(|one, other| one.size.cmp(&other.size));
    all
}

/// What a process has open; one that has just ended has nothing.
fn descriptors(counters: &mut Counters, pid: u32) {
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        counters.file_descriptors += 1;
        let is_socket = |target: std::path::PathBuf| target.to_string_lossy().starts_with("socket:");
        if fs::read_link(entry.path()).is_ok_and(is_socket) {
            counters.sockets += 1;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn block_io_is_told_by_device() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        file(
            "blkio.throttle.io_service_bytes_recursive",
            "8:0 Read 4096\n8:0 Write 10\n8:0 Total 4106\nTotal 4106\n",
        );
        file(
            "blkio.throttle.io_serviced_recursive",
            "8:0 Read 2\n8:0 Write 1\nTotal 3\n",
        );
        file("io.stat", "8:0 rbytes=4096 wbytes=10 rios=2 wios=1 dbytes=0 dios=0\n");
        let expected = BlockIo {
            device: "8:0".to_owned(),
            read_bytes: 4096,
            written_bytes: 10,
            reads: 2,
            writes: 1,
        };
        assert_eq!(block_io_v1(dir.path()), std::slice::from_ref(&expected));
        assert_eq!(block_io_v2(dir.path()), [expected]);
    }

    #[test]
    fn every_page_size_has_its_own_files() {
        let dir = tempfile::tempdir().unwrap();
        for (name, value) in [
            ("hugetlb.2MB.usage_in_bytes", "2097152"),
            ("hugetlb.2MB.max_usage_in_bytes", "4194304"),
            ("hugetlb.1GB.usage_in_bytes", "0"),
            ("hugetlb.2MB.rsvd.usage_in_bytes", "9"),
        ] {
            fs::write(dir.path().join(name), value).unwrap();
        }
        let found = hugepages(dir.path(), false);
        let sizes: Vec<_> = found
            .iter()
            .map(|of| (of.size.as_str(), of.usage_bytes, of.max_usage_bytes))
            .collect();
        assert_eq!(sizes, [("1GB", 0, None), ("2MB", 2_097_152, Some(4_194_304))]);
    }
}
