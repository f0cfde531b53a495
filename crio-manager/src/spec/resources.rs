//! Limits in the cgroup. What is not said, or means "no limit", is left out: runtimes differ in what they make of it.

use std::collections::{BTreeMap, HashMap};

use oci_spec::runtime::{
    LinuxCpu, LinuxHugepageLimit, LinuxHugepageLimitBuilder, LinuxMemory, LinuxPids, LinuxPidsBuilder, LinuxResources,
};

use super::error::{SpecError, excerpt};
use super::{Adjustment, Node, Support};

/// What is asked; `None` is "not said".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu_period_us: Option<u64>,
    pub cpu_quota: Option<CpuQuota>,
    /// A weight, 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// A list like "0-2,7".
    pub cpuset_cpus: Option<String>,
    /// A list like "0,1".
    pub cpuset_mems: Option<String>,
    pub memory_limit_bytes: Option<u64>,
    /// Memory and swap together.
    pub memory_swap_limit_bytes: Option<u64>,
    pub hugepage_limits: Vec<HugepageLimit>,
    pub pids_limit: Option<u64>,
    /// Files of cgroup v2 and what is written into them.
    pub unified: BTreeMap<String, String>,
    /// What the runtime itself needs to start; smaller memory limits are refused. 0 for none.
    pub memory_minimum_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuQuota {
    Unlimited,
    /// Microseconds in each period.
    PerPeriodUs(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HugepageLimit {
    /// As the kernel writes it: "2MB", "1GB".
    pub page_size: String,
    pub limit_bytes: u64,
}

/// The cgroup hierarchy of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupVersion {
    V1,
    V2,
}

/// Limits for a container that is made now.
pub fn create(asked: &Resources, node: &Node, adjustments: &mut Vec<Adjustment>) -> Result<LinuxResources, SpecError> {
    let quota = match asked.cpu_quota {
        Some(CpuQuota::PerPeriodUs(us)) => Some(signed(us)),
        Some(CpuQuota::Unlimited) | None => None,
    };
    limits(asked, quota, node, adjustments)
}

/// Changes to a container that exists: what is not said stays as it is, and "unlimited" has to be said.
pub fn update(asked: &Resources, node: &Node, adjustments: &mut Vec<Adjustment>) -> Result<LinuxResources, SpecError> {
    let quota = match asked.cpu_quota {
        Some(CpuQuota::PerPeriodUs(us)) => Some(signed(us)),
        Some(CpuQuota::Unlimited) => Some(-1),
        None => None,
    };
    limits(asked, quota, node, adjustments)
}

fn limits(
    asked: &Resources,
    quota: Option<i64>,
    node: &Node,
    adjustments: &mut Vec<Adjustment>,
) -> Result<LinuxResources, SpecError> {
    let mut resources = LinuxResources::default();
    resources
        .set_cpu(cpu(asked, quota)?)
        .set_memory(memory(asked, node)?)
        .set_hugepage_limits(hugepages(asked, node, adjustments))
        .set_pids(asked.pids_limit.map(pids))
        .set_unified(unified(asked, node, adjustments)?)
        .set_devices(None);
    Ok(resources)
}

fn cpu(asked: &Resources, quota: Option<i64>) -> Result<Option<LinuxCpu>, SpecError> {
    check_list("cpuset cpus", asked.cpuset_cpus.as_deref())?;
    check_list("cpuset mems", asked.cpuset_mems.as_deref())?;
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(asked.cpu_shares)
        .set_quota(quota)
        .set_period(asked.cpu_period_us)
        .set_cpus(asked.cpuset_cpus.clone())
        .set_mems(asked.cpuset_mems.clone());
    Ok((cpu != LinuxCpu::default()).then_some(cpu))
}

/// Digits, hyphens and commas: the kernel judges the rest.
fn check_list(what: &'static str, list: Option<&str>) -> Result<(), SpecError> {
    let good = |list: &str| !list.is_empty() && list.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b','));
    match list.is_none_or(good) {
        true => Ok(()),
        false => Err(SpecError::Resource {
            what: what.to_owned(),
            reason: "not a list of numbers",
        }),
    }
}

/// Without a word about swap, a memory limit means none of it where the node can tell.
fn memory(asked: &Resources, node: &Node) -> Result<Option<LinuxMemory>, SpecError> {
    let refused = |reason| SpecError::Resource {
        what: "memory and swap limit".to_owned(),
        reason,
    };
    let Resources {
        memory_limit_bytes: limit,
        memory_swap_limit_bytes: swap,
        memory_minimum_bytes: minimum,
        ..
    } = *asked;
    if let Some(bytes) = limit.filter(|bytes| *bytes < minimum) {
        return Err(SpecError::MemoryTooSmall { bytes, minimum });
    }
    let swap = match (limit, swap, node.swap_limit) {
        (_, _, Support::Absent) | (None, None, Support::Present) => None,
        (None, Some(_), Support::Present) => return Err(refused("given without a memory limit")),
        (Some(limit), Some(swap), Support::Present) if swap < limit => {
            return Err(refused("below the memory limit that it contains"));
        }
        (Some(_), Some(swap), Support::Present) => Some(swap),
        (Some(limit), None, Support::Present) => Some(limit),
    };
    let mut memory = LinuxMemory::default();
    memory.set_limit(limit.map(signed)).set_swap(swap.map(signed));
    Ok((memory != LinuxMemory::default()).then_some(memory))
}

/// The kubelet sends a limit of 0 for every page size it has heard of; one that this node doesn't have can't be used.
fn hugepages(asked: &Resources, node: &Node, adjustments: &mut Vec<Adjustment>) -> Option<Vec<LinuxHugepageLimit>> {
    let mut limits = Vec::new();
    for HugepageLimit { page_size, limit_bytes } in &asked.hugepage_limits {
        if node.hugepage_sizes.contains(page_size) {
            let limit = LinuxHugepageLimitBuilder::default()
                .page_size(page_size.clone())
                .limit(signed(*limit_bytes));
            limits.push(limit.build().expect("every field has a default"));
        } else if *limit_bytes > 0 {
            adjustments.push(Adjustment::HugepageLimitIgnored {
                page_size: excerpt(page_size),
            });
        }
    }
    (!limits.is_empty()).then_some(limits)
}

fn pids(limit: u64) -> LinuxPids {
    LinuxPidsBuilder::default()
        .limit(signed(limit))
        .build()
        .expect("every field has a default")
}

/// Only files of controllers: those of the cgroup itself move or kill processes.
fn unified(
    asked: &Resources,
    node: &Node,
    adjustments: &mut Vec<Adjustment>,
) -> Result<Option<HashMap<String, String>>, SpecError> {
    const CONTROLLERS: [&str; 8] = ["cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma"];
    for (file, value) in &asked.unified {
        let refused = |reason| SpecError::Resource {
            what: format!("unified {}", excerpt(file)),
            reason,
        };
        let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_');
        let (controller, _) = file
            .split_once('.')
            .ok_or_else(|| refused("not a file of a controller"))?;
        if !CONTROLLERS.contains(&controller) || !file.bytes().all(name) {
            return Err(refused("not a file of a controller"));
        }
        if value.contains(['\0', '\n']) {
            return Err(refused("its value is more than one line"));
        }
    }
    match (asked.unified.is_empty(), node.cgroup) {
        (true, _) => Ok(None),
        (false, CgroupVersion::V1) => {
            adjustments.push(Adjustment::UnifiedIgnored);
            Ok(None)
        }
        (false, CgroupVersion::V2) => Ok(Some(asked.unified.clone().into_iter().collect())),
    }
}

/// The spec's numbers are signed; beyond their end there is no memory either.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::tests::node;
    use super::*;

    fn build(asked: &Resources) -> Result<LinuxResources, SpecError> {
        create(asked, &node(), &mut Vec::new())
    }

    #[test]
    fn what_is_not_said_is_left_out() {
        let none = build(&Resources::default()).expect("good");
        assert_eq!(serde_json::to_value(none).expect("plain"), serde_json::json!({}));
    }

    #[test]
    fn limits_are_taken_over() {
        let asked = Resources {
            cpu_period_us: Some(100_000),
            cpu_quota: Some(CpuQuota::PerPeriodUs(20_000)),
            cpu_shares: Some(1024),
            cpuset_cpus: Some("0-1,3".into()),
            cpuset_mems: Some("0".into()),
            memory_limit_bytes: Some(64 << 20),
            pids_limit: Some(100),
            ..Resources::default()
        };
        assert_eq!(
            serde_json::to_value(build(&asked).expect("good")).expect("plain"),
            serde_json::json!({
                "cpu": {"shares": 1024, "quota": 20000, "period": 100000, "cpus": "0-1,3", "mems": "0"},
                "memory": {"limit": 64 << 20, "swap": 64 << 20},
                "pids": {"limit": 100},
            })
        );
    }

    #[test]
    fn an_unlimited_quota_is_said_in_an_update_only() {
        let asked = Resources {
            cpu_quota: Some(CpuQuota::Unlimited),
            ..Resources::default()
        };
        assert_eq!(build(&asked).expect("good").cpu(), &None);
        let update = update(&asked, &node(), &mut Vec::new()).expect("good");
        assert_eq!(update.cpu().as_ref().and_then(LinuxCpu::quota), Some(-1));
    }

    #[test]
    fn swap_follows_the_memory_limit_where_the_node_can_limit_it() {
        for (limit, swap, here, expected) in [
            (Some(10), None, Support::Present, Some(10)),
            (Some(10), Some(30), Support::Present, Some(30)),
            (Some(10), Some(30), Support::Absent, None),
            (None, Some(30), Support::Absent, None),
        ] {
            let mut node = node();
            node.swap_limit = here;
            let asked = Resources {
                memory_limit_bytes: limit,
                memory_swap_limit_bytes: swap,
                ..Resources::default()
            };
            let got = create(&asked, &node, &mut Vec::new()).expect("good");
            assert_eq!(got.memory().and_then(|m| m.swap()), expected, "{asked:?}");
        }
        for (limit, swap) in [(None, 30), (Some(31), 30)] {
            let asked = Resources {
                memory_limit_bytes: limit,
                memory_swap_limit_bytes: Some(swap),
                ..Resources::default()
            };
            assert!(matches!(build(&asked), Err(SpecError::Resource { .. })), "{asked:?}");
        }
    }

    #[test]
    fn a_memory_limit_too_small_to_start_in_is_refused() {
        let asked = |bytes| Resources {
            memory_limit_bytes: Some(bytes),
            memory_minimum_bytes: 12 << 20,
            ..Resources::default()
        };
        assert_eq!(
            build(&asked(1 << 20)),
            Err(SpecError::MemoryTooSmall {
                bytes: 1 << 20,
                minimum: 12 << 20
            })
        );
        assert!(build(&asked(12 << 20)).is_ok());
    }

    #[test]
    fn a_number_beyond_the_specs_range_is_its_end() {
        let asked = Resources {
            memory_limit_bytes: Some(u64::MAX),
            ..Resources::default()
        };
        assert_eq!(
            build(&asked).expect("good").memory().and_then(|m| m.limit()),
            Some(i64::MAX)
        );
    }

    #[test]
    fn limits_of_huge_pages_that_the_node_lacks_are_ignored() {
        let limit = |size: &str, limit_bytes| HugepageLimit {
            page_size: size.into(),
            limit_bytes,
        };
        let mut node = node();
        node.hugepage_sizes = vec!["2MB".into()];
        let mut adjustments = Vec::new();
        let asked = Resources {
            hugepage_limits: vec![limit("2MB", 0), limit("1GB", 0), limit("64KB", 5)],
            ..Resources::default()
        };
        let got = create(&asked, &node, &mut adjustments).expect("good");
        let sizes: Vec<_> = got
            .hugepage_limits()
            .iter()
            .flatten()
            .map(|l| l.page_size().clone())
            .collect();
        assert_eq!(sizes, ["2MB"]);
        assert_eq!(
            adjustments,
            [Adjustment::HugepageLimitIgnored {
                page_size: "\"64KB\"".into()
            }]
        );

        node.hugepage_sizes.clear();
        assert_eq!(
            create(&asked, &node, &mut Vec::new()).expect("good").hugepage_limits(),
            &None
        );
    }

    #[test]
    fn cpu_sets_are_lists_of_numbers() {
        for bad in ["", "0;1", "a", "0\n1", " 0"] {
            let cpus = Resources {
                cpuset_cpus: Some(bad.into()),
                ..Resources::default()
            };
            let mems = Resources {
                cpuset_mems: Some(bad.into()),
                ..Resources::default()
            };
            assert!(build(&cpus).is_err() && build(&mems).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn unified_settings_are_files_of_controllers_on_v2() {
        let asked = |file: &str, value: &str| Resources {
            unified: BTreeMap::from([(file.to_owned(), value.to_owned())]),
            ..Resources::default()
        };
        let mut node = node();
        node.cgroup = CgroupVersion::V2;
        let good = create(&asked("memory.oom.group", "1"), &node, &mut Vec::new()).expect("good");
        assert_eq!(
            good.unified(),
            &Some(HashMap::from([("memory.oom.group".into(), "1".into())]))
        );
        for (file, value) in [
            ("cgroup.kill", "1"),
            ("cgroup.procs", "1"),
            ("../memory.max", "1"),
            ("memory/../cgroup.procs", "1"),
            ("memory", "1"),
            ("", "1"),
            ("memory.max", "1\n2"),
            ("memory.max\0", "1"),
        ] {
            assert!(create(&asked(file, value), &node, &mut Vec::new()).is_err(), "{file:?}");
        }

        node.cgroup = CgroupVersion::V1;
        let mut adjustments = Vec::new();
        let ignored = create(&asked("memory.high", "1"), &node, &mut adjustments).expect("good");
        assert_eq!(
            (ignored.unified(), adjustments),
            (&None, vec![Adjustment::UnifiedIgnored])
        );
    }
}
