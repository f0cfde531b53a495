//! What a container may use.

use super::json;
use crate::drivers::seams::{DriverError, DriverResult, ErrorKind};
use crate::model::{CgroupPath, container};
use crate::spec::resources::{CpuQuota, HugepageLimit, Resources};
use crate::spec::{self, Node};
use std::ops::RangeInclusive;

/// The kernel's, of a quota without a word about its period.
const DEFAULT_PERIOD_US: u64 = 100_000;

pub(super) fn resources(asked: &container::Resources, pids_limit: Option<u64>, memory_minimum_bytes: u64) -> Resources {
    // In CRI -1 says unlimited, which is also what leaving it out says.
    let positive = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
    let words = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Resources {
        cpu_period_us: asked.cpu_period_us,
        cpu_quota: asked
            .cpu_quota_us
            .map(|us| u64::try_from(us).map_or(CpuQuota::Unlimited, CpuQuota::PerPeriodUs)),
        cpu_shares: asked.cpu_shares,
        cpuset_cpus: words(&asked.cpuset_cpus),
        cpuset_mems: words(&asked.cpuset_mems),
        memory_limit_bytes: positive(asked.memory_limit_bytes),
        memory_swap_limit_bytes: positive(asked.memory_swap_limit_bytes),
        hugepage_limits: asked
            .hugepage_limits
            .iter()
            .map(|(page_size, limit_bytes)| HugepageLimit {
                page_size: page_size.clone(),
                limit_bytes: *limit_bytes,
            })
            .collect(),
        pids_limit,
        unified: asked.unified.clone(),
        memory_minimum_bytes,
    }
}

/// A runtime that fails over a file of version 2 that was asked for by its name: it is the request that is wrong.
pub(in crate::lifecycle) fn blame_named_file(asked: &container::Resources, failed: DriverError) -> DriverError {
    let named = asked.unified.keys().any(|file| failed.message.contains(file.as_str()));
    let kind = if named { ErrorKind::Invalid } else { failed.kind };
    DriverError { kind, ..failed }
}

/// On version 1 the kernel takes no CPU outside the parent's and no quota above it, and says only "permission denied" or
/// "invalid argument": what the parent has is added, where it is the reason.
pub(in crate::lifecycle) fn blame_parent(
    asked: &container::Resources,
    parent: &CgroupPath,
    has: &container::Resources,
    failed: DriverError,
) -> DriverError {
    let outside = [
        ("cpuset.cpus", "cpuset_cpus", &asked.cpuset_cpus, &has.cpuset_cpus),
        ("cpuset.mems", "cpuset_mems", &asked.cpuset_mems, &has.cpuset_mems),
    ];
    let outside = outside.into_iter().find_map(|(file, name, asked, has)| {
        let blamed = failed.message.contains(file) && !asked.is_empty() && !has.is_empty() && !is_within(asked, has);
        blamed.then(|| format!("{name} {asked:?} is not within {has:?}"))
    });
    let above = || {
        let (asked, has) = (share_of_cpu(asked)?, share_of_cpu(has)?);
        let blamed = ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
            .iter()
            .any(|file| failed.message.contains(file));
        (blamed && asked > has).then(|| format!("a cpu_quota of {asked:.2} CPUs is above {has:.2}"))
    };
    match outside.or_else(above) {
        Some(why) => {
            let message = format!("{}: {why}, which its parent {parent} has", failed.message);
            DriverError::new(ErrorKind::Invalid, message)
        }
        None => failed,
    }
}

/// Quota by period, in CPUs; `None`: no limit.
fn share_of_cpu(of: &container::Resources) -> Option<f64> {
    let quota = of.cpu_quota_us.and_then(|us| u32::try_from(us).ok())?;
    let period = of.cpu_period_us.filter(|us| *us > 0).unwrap_or(DEFAULT_PERIOD_US);
    Some(f64::from(quota) / period as f64)
}

/// Whether each number of one list (`0-3,8`) is in the other. What is no list is in none.
fn is_within(list: &str, of: &str) -> bool {
    let (Some(list), Some(of)) = (ranges(list), ranges(of)) else {
        return false;
    };
    // The other may have neighbours in two ranges: each number is looked for, and there are at most 65536.
    list.into_iter().all(|range| {
        range
            .into_iter()
            .all(|number| of.iter().any(|range| range.contains(&number)))
    })
}

fn ranges(list: &str) -> Option<Vec<RangeInclusive<u16>>> {
    let words = list.split(',').map(str::trim).filter(|word| !word.is_empty());
    let range = |word: &str| {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    words.map(range).collect()
}

/// Changes to the limits of a container that stands, as OCI JSON. "Unlimited" has to be said here, but
/// for a quota, which `Cgroups` lifts.
pub(in crate::lifecycle) fn specify_update(
    asked: &container::Resources,
    node: &Node,
    memory_minimum_bytes: u64,
) -> DriverResult<Vec<u8>> {
    let unlimited = |value: Option<i64>| value.map(|value| u64::try_from(value).unwrap_or(u64::MAX));
    let changes = Resources {
        cpu_quota: asked
            .cpu_quota_us
            .and_then(|us| u64::try_from(us).ok())
            .map(CpuQuota::PerPeriodUs),
        memory_limit_bytes: unlimited(asked.memory_limit_bytes),
        memory_swap_limit_bytes: unlimited(asked.memory_swap_limit_bytes),
        ..resources(asked, None, memory_minimum_bytes)
    };
    let mut adjustments = Vec::new();
    let changes = spec::resources::update(&changes, node, &mut adjustments)?;
    for adjustment in adjustments {
        tracing::warn!("{adjustment}");
    }
    Ok(json(&changes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blamed(asked: &container::Resources, has: &container::Resources, message: &str) -> DriverError {
        let parent = CgroupPath::parse_parent("/pod").unwrap();
        blame_parent(asked, &parent, has, DriverError::new(ErrorKind::Failed, message))
    }

    #[test]
    fn a_limit_that_the_parent_does_not_allow_is_named_with_the_parents() {
        let of = |cpus: &str, quota| container::Resources {
            cpuset_cpus: cpus.to_owned(),
            cpu_quota_us: quota,
            ..Default::default()
        };
        let error = blamed(
            &of("0-1", None),
            &of("0,2-3", None),
            "write cpuset.cpus: permission denied",
        );
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert_eq!(
            error.message,
            "write cpuset.cpus: permission denied: cpuset_cpus \"0-1\" is not within \"0,2-3\", which its parent /pod has"
        );
        let (asked, has) = (of("", Some(150_000)), of("0", Some(50_000)));
        let error = blamed(&asked, &has, "write cpu.cfs_quota_us: invalid argument");
        assert!(error.message.contains("1.50 CPUs is above 0.50"), "{error}");

        for (asked, has, message) in [
            (of("2-3", None), of("0,2-3", None), "write cpuset.cpus: no space left"),
            (of("1", None), of("0", None), "no such file: sh"),
            (
                of("", Some(50_000)),
                of("", Some(-1)),
                "write cpu.cfs_quota_us: invalid argument",
            ),
            (
                of("", None),
                of("", Some(1)),
                "write cpu.cfs_quota_us: invalid argument",
            ),
        ] {
            let error = blamed(&asked, &has, message);
            assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Failed, message));
        }
    }

    #[test]
    fn lists_of_cpus_are_compared_number_by_number() {
        for (list, of, within) in [
            ("0", "0-1", true),
            ("0-3", "0-1,2-3", true),
            ("0-3", "0-1,3", false),
            ("", "0", true),
            ("1,,2", " 1, 2", true),
            ("a", "0", false),
            ("5-2", "0", true),
            ("0-99999", "0", false),
        ] {
            assert_eq!(is_within(list, of), within, "{list:?} in {of:?}");
        }
    }
}
