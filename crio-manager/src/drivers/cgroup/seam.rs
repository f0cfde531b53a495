//! cgroupfs as the lifecycle sees it.

use super::cgroupfs::Cgroupfs;
use super::{Counters, Error, Mode, Usage};
use crate::drivers::seams::{CgroupManager, CgroupSummary, Cgroups, DriverError, DriverResult, Entrance, ErrorKind};
use crate::model::CgroupPath;
use crate::model::container::Resources;
use async_trait::async_trait;
use std::time::Duration;
use tokio::time::Instant;

impl From<Error> for DriverError {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::NoCgroups | Error::Missing(_) | Error::File { .. } | Error::Limit { .. } | Error::Thread { .. } => {
                ErrorKind::Failed
            }
            Error::Unkillable { .. } => ErrorKind::TimedOut,
            Error::Busy { .. } => ErrorKind::InUse,
            Error::NamedFile { .. } => ErrorKind::Invalid,
        };
        DriverError::chain(kind, &error)
    }
}

#[async_trait]
impl Cgroups for Cgroupfs {
    fn parent(&self, asked: &str) -> DriverResult<CgroupPath> {
        CgroupPath::parse_parent(asked).map_err(|bad| DriverError::new(ErrorKind::Invalid, bad.to_string()))
    }

    fn expect_entry(&self) {
        self.wait_ahead();
    }

    async fn entrance(&self, cgroup: &CgroupPath) -> DriverResult<Entrance> {
        Ok(Entrance {
            doors: Cgroupfs::entrance(self, cgroup).await?,
            holder: None,
        })
    }

    async fn kill(&self, cgroup: &CgroupPath, limit: Duration) -> DriverResult<()> {
        Ok(Cgroupfs::kill(self, cgroup, Instant::now() + limit).await?)
    }

    async fn remove(&self, cgroup: &CgroupPath) -> DriverResult<()> {
        Ok(Cgroupfs::remove(self, cgroup).await?)
    }

    async fn usage(&self, cgroup: &CgroupPath) -> DriverResult<Usage> {
        Ok(Cgroupfs::usage(self, cgroup).await?)
    }

    async fn counters(&self, cgroup: &CgroupPath) -> DriverResult<Counters> {
        Ok(Cgroupfs::counters(self, cgroup).await?)
    }

    async fn limits(&self, cgroup: &CgroupPath, unified: Vec<String>) -> DriverResult<Resources> {
        Ok(Cgroupfs::limits(self, cgroup, unified).await?)
    }

    async fn complete_limits(&self, cgroup: &CgroupPath, asked: &Resources) -> DriverResult<()> {
        Ok(Cgroupfs::complete_limits(self, cgroup, asked).await?)
    }

    async fn set_oom_score_adj(&self, cgroup: &CgroupPath, value: i32) -> DriverResult<()> {
        Ok(Cgroupfs::set_oom_score_adj(self, cgroup, value).await?)
    }

    fn describe(&self) -> CgroupSummary {
        let host = self.host();
        let version = match host.mode {
            Mode::V1 => "v1",
            Mode::V2 => "v2",
            Mode::Hybrid => "hybrid",
        };
        CgroupSummary {
            manager: CgroupManager::Cgroupfs,
            version: version.to_owned(),
            controllers: host.controllers.iter().cloned().collect(),
            hugetlb: host.hugetlb,
        }
    }
}
