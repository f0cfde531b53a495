//! What a container may use.

use super::{Parsed, id, pairs, required, wrong};
use crate::model::container::Resources;
use crate::model::record::PodResources;
use cri::v1;

/// Limits of `oom_score_adj`.
const OOM_SCORE: std::ops::RangeInclusive<i64> = -1000..=1000;

pub(super) fn resources(asked: v1::LinuxContainerResources) -> Parsed<Resources> {
    let field = |name: &str| format!("linux.resources.{name}");
    let positive = |name: &str, value: i64| match value {
        0 => Ok(None),
        value => u64::try_from(value)
            .map(Some)
            .map_err(|_| wrong(&field(name), format!("{value} is negative"))),
    };
    if !OOM_SCORE.contains(&asked.oom_score_adj) {
        return Err(wrong(
            &field("oom_score_adj"),
            format!("{} is not within -1000 and 1000", asked.oom_score_adj),
        ));
    }
    let limit = |name: &str, value: i64| match value {
        0 => Ok(None),
        value if value >= -1 => Ok(Some(value)),
        value => Err(wrong(&field(name), format!("{value} is negative"))),
    };
    let cpus = |name: &str, value: String| {
        let fits = value
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b',' | b'-'));
        if fits {
            Ok(value)
        } else {
            Err(wrong(&field(name), format!("{value:?} is no list of numbers")))
        }
    };
    Ok(Resources {
        cpu_period_us: positive("cpu_period", asked.cpu_period)?,
        cpu_quota_us: limit("cpu_quota", asked.cpu_quota)?,
        cpu_shares: positive("cpu_shares", asked.cpu_shares)?,
        cpuset_cpus: cpus("cpuset_cpus", asked.cpuset_cpus)?,
        cpuset_mems: cpus("cpuset_mems", asked.cpuset_mems)?,
        memory_limit_bytes: limit("memory_limit_in_bytes", asked.memory_limit_in_bytes)?,
        memory_swap_limit_bytes: limit("memory_swap_limit_in_bytes", asked.memory_swap_limit_in_bytes)?,
        oom_score_adj: i32::try_from(asked.oom_score_adj).unwrap_or_default(),
        hugepage_limits: asked
            .hugepage_limits
            .into_iter()
            .map(|limit| (limit.page_size, limit.limit))
            .collect(),
        unified: pairs("resources.unified", asked.unified)?,
    })
}

/// UpdateContainerResources: the container, and what changes.
pub fn update_container(request: v1::UpdateContainerResourcesRequest) -> Parsed<(String, Resources)> {
    let container = id("container_id", request.container_id)?;
    Ok((container, resources(required("linux", request.linux)?)?))
}

/// UpdatePodSandboxResources: the pod, and its limits.
pub fn update_sandbox(request: v1::UpdatePodSandboxResourcesRequest) -> Parsed<(String, PodResources)> {
    let sandbox = id("pod_sandbox_id", request.pod_sandbox_id)?;
    let limits = PodResources {
        overhead: resources(request.overhead.unwrap_or_default())?,
        resources: resources(request.resources.unwrap_or_default())?,
    };
    Ok((sandbox, limits))
}

#[cfg(test)]
mod tests {
    use crate::service::parse::tests::{parsed_container, refused};
    use cri::v1;

    #[test]
    fn numbers_out_of_range_are_refused() {
        let resources = |change: fn(&mut v1::LinuxContainerResources)| {
            parsed_container(|c| change(c.linux.get_or_insert_default().resources.get_or_insert_default()))
        };
        refused(resources(|r| r.oom_score_adj = 1001), "oom_score_adj");
        refused(resources(|r| r.cpu_shares = -1), "cpu_shares");
        refused(resources(|r| r.memory_limit_in_bytes = -2), "memory_limit");
        refused(resources(|r| r.cpuset_cpus = "0-1;x".into()), "cpuset_cpus");
    }

    #[test]
    fn an_update_that_says_nothing_or_nonsense_is_refused() {
        let request = |linux| v1::UpdateContainerResourcesRequest {
            container_id: "x".into(),
            linux,
            ..Default::default()
        };
        refused(super::update_container(request(None)), "linux");
        let linux = v1::LinuxContainerResources {
            cpu_quota: -2,
            ..Default::default()
        };
        refused(super::update_container(request(Some(linux.clone()))), "cpu_quota");
        refused(
            super::update_sandbox(v1::UpdatePodSandboxResourcesRequest {
                pod_sandbox_id: "x".into(),
                resources: Some(linux),
                ..Default::default()
            }),
            "cpu_quota",
        );
    }
}
