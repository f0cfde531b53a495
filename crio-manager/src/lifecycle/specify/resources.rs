//! What a container may use.

use crate::model::container;
use crate::spec::resources::{CpuQuota, HugepageLimit, Resources};

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
