//! What a container may use.

use super::json;
use crate::drivers::seams::{DriverError, DriverResult, ErrorKind};
use crate::model::container;
use crate::spec::resources::{CpuQuota, HugepageLimit, Resources};
use crate::spec::{self, Node};

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
