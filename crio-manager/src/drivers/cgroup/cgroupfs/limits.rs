//! The limits that a cgroup has now, in CRI's words, whoever set them; and those that OCI runtimes do not set as asked.

use super::{Tree, below, read_number, write};
use crate::drivers::cgroup::{Error, Limits, Mode, Result};
use crate::model::CgroupPath;
use crate::model::container::Resources;
use crate::model::name::Pairs;
use std::fs;
use std::path::Path;

const SWAP_MAX: &str = "memory.swap.max";

/// What OCI runtimes do not set as asked: crun 1.8 takes no quota away on version 1; with systemd crun counts memory as
/// swap too, and runc says nothing to systemd of swap that is not allowed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    no_quota: bool,
    /// `u64::MAX` is no limit, as for systemd.
    pub(super) swap_bytes: Option<u64>,
    files: Pairs,
}

impl Tree {
    /// Every field said, as far as the kernel has it; of the files of version 2 those named in `unified`.
    pub(super) fn limits(&self, cgroup: &CgroupPath, unified: &[String]) -> Result<Resources> {
        if self.directories(cgroup).next().is_none() {
            return Err(Error::Missing(cgroup.clone()));
        }
        let at = |controller: &str| self.with(controller).map(|h| (below(cgroup, &h.mount), h.v2));
        let mut limits = Resources::default();
        if let Some((dir, v2)) = at("cpu") {
            read_cpu(&dir, v2, &mut limits);
        }
        if let Some((dir, _)) = at("cpuset") {
            limits.cpuset_cpus = read_word(&dir.join("cpuset.cpus")).unwrap_or_default();
            limits.cpuset_mems = read_word(&dir.join("cpuset.mems")).unwrap_or_default();
        }
        if let Some((dir, v2)) = at("memory") {
            read_memory(&dir, v2, &mut limits);
        }
        if let Some((dir, v2)) = at("hugetlb") {
            limits.hugepage_limits = hugepages(&dir, if v2 { ".max" } else { ".limit_in_bytes" });
        }
        if let Some(v2) = self.hierarchies.iter().find(|hierarchy| hierarchy.v2) {
            let dir = below(cgroup, &v2.mount);
            limits.unified = unified
                .iter()
                .filter(|name| !name.contains('/'))
                .filter_map(|name| Some((name.clone(), read_word(&dir.join(name))?)))
                .collect();
        }
        Ok(limits)
    }

    /// What is left to set of these limits; `None` where nothing is.
    pub(super) fn left_out(&self, asked: &Resources) -> Option<LeftOut> {
        let v2 = self.host.mode == Mode::V2;
        let rest = LeftOut {
            no_quota: asked.cpu_quota_us.is_some_and(|us| us < 0),
            swap_bytes: swap_max(asked).filter(|_| v2),
            files: if v2 { asked.unified.clone() } else { Pairs::new() },
        };
        (rest != LeftOut::default()).then_some(rest)
    }

    /// Writes what is not there yet.
    pub(super) fn complete(&self, cgroup: &CgroupPath, rest: &LeftOut) -> Result<()> {
        if rest.no_quota {
            let none = Limits {
                cpu_quota_us: Some(-1),
                ..Limits::default()
            };
            self.set_limits(cgroup, &none)?;
        }
        let Some(v2) = self.hierarchies.first().filter(|_| self.host.mode == Mode::V2) else {
            return Ok(());
        };
        let dir = below(cgroup, &v2.mount);
        if let Some(bytes) = rest.swap_bytes
            && dir.join(SWAP_MAX).exists()
        {
            let word = if bytes == u64::MAX {
                "max".to_owned()
            } else {
                bytes.to_string()
            };
            set(&dir, SWAP_MAX, &word)?;
        }
        for (name, value) in rest.files.iter().filter(|(name, _)| !name.contains('/')) {
            set(&dir, name, value)?;
        }
        Ok(())
    }
}

/// Without a word about it, a memory limit means none.
fn swap_max(asked: &Resources) -> Option<u64> {
    let Ok(memory) = u64::try_from(asked.memory_limit_bytes?) else {
        return Some(u64::MAX);
    };
    Some(match asked.memory_swap_limit_bytes.map(u64::try_from) {
        None => 0,
        Some(Ok(both)) => both.saturating_sub(memory),
        Some(Err(_none)) => u64::MAX,
    })
}

fn set(dir: &Path, name: &str, value: &str) -> Result<()> {
    let path = dir.join(name);
    if read_word(&path).as_deref() == Some(value) {
        return Ok(());
    }
    write(&path, value).map_err(|source| Error::NamedFile {
        name: name.to_owned(),
        value: value.to_owned(),
        source,
    })
}

fn read_cpu(dir: &Path, v2: bool, limits: &mut Resources) {
    if !v2 {
        limits.cpu_shares = read_number(&dir.join("cpu.shares"));
        limits.cpu_quota_us = read_word(&dir.join("cpu.cfs_quota_us")).and_then(|us| us.parse().ok());
        limits.cpu_period_us = read_number(&dir.join("cpu.cfs_period_us"));
        return;
    }
    limits.cpu_shares = read_number(&dir.join("cpu.weight")).map(shares_of_weight);
    if let Some(max) = read_word(&dir.join("cpu.max"))
        && let Some((quota, period)) = max.split_once(' ')
    {
        limits.cpu_quota_us = if quota == "max" { Some(-1) } else { quota.parse().ok() };
        limits.cpu_period_us = period.parse().ok();
    }
}

fn read_memory(dir: &Path, v2: bool, limits: &mut Resources) {
    let bytes = |file: &str| match read_word(&dir.join(file))?.as_str() {
        "max" => Some(-1),
        // Version 1 has a number for "no limit", which fits.
        bytes => bytes.parse::<i64>().ok(),
    };
    if !v2 {
        limits.memory_limit_bytes = bytes("memory.limit_in_bytes");
        limits.memory_swap_limit_bytes = bytes("memory.memsw.limit_in_bytes");
        return;
    }
    limits.memory_limit_bytes = bytes("memory.max");
    limits.memory_swap_limit_bytes = match (limits.memory_limit_bytes, bytes(SWAP_MAX)) {
        (Some(memory), Some(swap)) if memory >= 0 && swap >= 0 => Some(memory.saturating_add(swap)),
        (Some(_), Some(_)) => Some(-1),
        _ => None,
    };
}

/// Page sizes in the kernel's spelling, and their limits in bytes.
fn hugepages(dir: &Path, suffix: &str) -> Vec<(String, u64)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter_map(|name| {
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?;
            let plain = size.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let limit = read_word(&dir.join(&name))?.parse().unwrap_or(u64::MAX);
            plain.then(|| (size.to_owned(), limit))
        })
        .collect()
}

/// The smallest shares that OCI runtimes translate into this weight.
fn shares_of_weight(weight: u64) -> u64 {
    2 + ((weight.clamp(1, 10_000) - 1) * 262_142).div_ceil(9999)
}

fn read_word(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Cgroupfs, weight_of_shares};
    use super::*;

    #[test]
    fn a_weight_survives_the_way_through_shares() {
        for weight in 1..=10_000 {
            assert_eq!(weight_of_shares(shares_of_weight(weight)), weight);
        }
    }

    #[test]
    fn swap_of_version_2_is_what_is_allowed_beyond_memory() {
        let of = |memory, swap| {
            swap_max(&Resources {
                memory_limit_bytes: memory,
                memory_swap_limit_bytes: swap,
                ..Resources::default()
            })
        };
        assert_eq!(of(None, None), None);
        assert_eq!(of(Some(100), None), Some(0));
        assert_eq!(of(Some(100), Some(100)), Some(0));
        assert_eq!(of(Some(100), Some(150)), Some(50));
        assert_eq!(of(Some(100), Some(-1)), Some(u64::MAX));
        assert_eq!(of(Some(-1), None), Some(u64::MAX));
    }

    /// The files of version 2, on a plain file system.
    #[test]
    fn limits_of_version_2_are_read_in_the_words_of_cri() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpuset cpu memory hugetlb\n").unwrap();
        let tree = Cgroupfs::from_mountinfo(&format!("1 1 0:1 / {} rw - cgroup2 cgroup2 rw", root.path().display()))
            .unwrap()
            .tree;
        let cgroup = CgroupPath::parse_parent("/pod").unwrap();
        assert!(matches!(tree.limits(&cgroup, &[]), Err(Error::Missing(_))));
        let dir = root.path().join("pod");
        fs::create_dir(&dir).unwrap();
        for (file, text) in [
            ("cpu.weight", "39\n"),
            ("cpu.max", "max 100000\n"),
            ("cpuset.cpus", "0-1\n"),
            ("memory.max", "100\n"),
            ("memory.swap.max", "50\n"),
            ("memory.high", "70\n"),
            ("hugetlb.2MB.max", "max\n"),
        ] {
            fs::write(dir.join(file), text).unwrap();
        }
        let limits = tree.limits(&cgroup, &["memory.high".into(), "../x".into()]).unwrap();
        assert_eq!((limits.cpu_quota_us, limits.cpu_period_us), (Some(-1), Some(100_000)));
        assert_eq!(limits.cpu_shares.map(weight_of_shares), Some(39));
        assert_eq!((limits.cpuset_cpus.as_str(), limits.cpuset_mems.as_str()), ("0-1", ""));
        assert_eq!(
            (limits.memory_limit_bytes, limits.memory_swap_limit_bytes),
            (Some(100), Some(150))
        );
        assert_eq!(limits.hugepage_limits, [("2MB".to_owned(), u64::MAX)]);
        assert_eq!(limits.unified, [("memory.high".to_owned(), "70".to_owned())].into());
        fs::write(dir.join("memory.swap.max"), "max\n").unwrap();
        assert_eq!(tree.limits(&cgroup, &[]).unwrap().memory_swap_limit_bytes, Some(-1));

        let asked = Resources {
            cpu_quota_us: None,
            ..limits
        };
        let rest = tree.left_out(&asked).unwrap();
        fs::write(dir.join("memory.swap.max"), "0\n").unwrap();
        tree.complete(&cgroup, &rest).unwrap();
        assert_eq!(fs::read_to_string(dir.join("memory.swap.max")).unwrap(), "50");
        assert_eq!(tree.left_out(&Resources::default()), None);
    }
}
