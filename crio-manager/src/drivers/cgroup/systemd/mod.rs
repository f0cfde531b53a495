//! Cgroups on a node whose tree is systemd's: containers and monitors are in scopes, in the slice of their pod.
//!
//! A container's scope is made by its OCI runtime, a monitor's here. A scope is made around a process that is there, so
//! a small one of ours, the holder, is what systemd gets; the monitor is then born in the scope's cgroup as it is in any
//! other, and the holder ends. Systemd takes an empty scope away by itself, also when nobody of us is left.
//!
//! Killing, counting and reading go by the file system: a scope is delegated to us.

mod bus;
mod calls;

pub use calls::Calls;

use super::cgroupfs::{Cgroupfs, is_gone};
use super::{Counters, Error as CgroupError, Usage};
use crate::drivers::child;
use crate::drivers::seams::{CgroupManager, CgroupSummary, Cgroups, DriverError, DriverResult, Entrance, ErrorKind};
use crate::model::CgroupPath;
use crate::model::cgroup::Scope;
use crate::model::container::Resources;
use crate::model::slice::Slice;
use async_trait::async_trait;
use bus::{Bus, Start};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, oneshot};

/// From the request for a scope to the end of its job. Systemd needs milliseconds; a bus that hangs costs a request this.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How often a cgroup is made that is taken away again.
const HOLD_TRIES: usize = 10;

/// A transient unit has a file in here for as long as systemd knows it.
///
/// Source: systemd.unit(5), "Unit File Load Path".
const TRANSIENT_UNITS: &str = "/run/systemd/transient";

/// The scope of the monitors that have none each, and who keeps it when there is none.
const DELEGATED_SLICE: &str = "crio.slice";
const DELEGATED_SCOPE: &str = "crio-monitors.scope";
const HOLDER: &str = "holder";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("D-Bus cannot be reached: {what}")]
    Unreachable { what: String, source: Box<zbus::Error> },
    #[error("D-Bus: the connection was lost: {what}")]
    Lost { what: String },
    #[error("D-Bus: no answer from systemd within {limit:?}: {what}")]
    Slow { what: String, limit: Duration },
    #[error("systemd: {what}")]
    Refused {
        what: String,
        kind: ErrorKind,
        source: Box<zbus::Error>,
    },
    #[error("systemd: {what}: its job ended as {result:?}")]
    Job { what: String, result: String },
    #[error("systemd has made {unit} elsewhere than at {cgroup}")]
    Elsewhere { unit: String, cgroup: CgroupPath },
    #[error("systemd: start {unit}: a unit of this name is there already, {found}, and does not go; stop it")]
    Exists { unit: String, found: String },
    #[error("{}, which holds a scope until its monitor is there", path.display())]
    Holder { path: PathBuf, source: std::io::Error },
}

impl Error {
    /// For whoever asked.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } => ErrorKind::Unavailable,
            Self::Slow { .. } => ErrorKind::TimedOut,
            Self::Refused { kind, .. } => *kind,
            Self::Exists { .. } => ErrorKind::InUse,
            Self::Job { .. } | Self::Elsewhere { .. } | Self::Holder { .. } => ErrorKind::Failed,
        }
    }
}

impl From<Error> for DriverError {
    fn from(error: Error) -> Self {
        DriverError::chain(error.kind(), &error)
    }
}

/// The driver for nodes whose cgroup tree is systemd's.
#[derive(Debug)]
pub struct Systemd {
    files: Cgroupfs,
    bus: Arc<Bus>,
    calls: Calls,
    /// A program that does nothing until it is ended.
    holder: PathBuf,
    /// Keeps the delegated scope for as long as this daemon lives. Locked while that scope is made.
    delegated: Mutex<Option<Child>>,
}

/// Where the monitors go that have no scope each.
pub fn delegated() -> CgroupPath {
    let slice = Slice::parse(DELEGATED_SLICE).expect("the name of a slice");
    CgroupPath::from(&slice).leaf(DELEGATED_SCOPE)
}

/// Whether systemd may know a scope still. In the usual case it has forgotten it by itself, and needs no call for that;
/// where its files cannot be seen it is asked.
async fn may_be_known(unit: &str) -> bool {
    let directory = Path::new(TRANSIENT_UNITS);
    let there = async |path: &Path| tokio::fs::try_exists(path).await;
    !there(directory).await.is_ok_and(|seen| seen) || there(&directory.join(unit)).await.unwrap_or(true)
}

impl Systemd {
    /// Nothing is asked of systemd before the first pod. `holder` is a program that does nothing until it is ended.
    pub fn new(files: Cgroupfs, holder: PathBuf, calls: Calls) -> Self {
        Self {
            files,
            bus: Arc::default(),
            calls,
            holder,
            delegated: Mutex::default(),
        }
    }

    fn spawn_holder(&self) -> Result<Child, Error> {
        let mut command = Command::new(&self.holder);
        command
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        child::dies_with_us(&mut command);
        command.spawn().map_err(|source| Error::Holder {
            path: self.holder.clone(),
            source,
        })
    }

    /// Makes the scope around a holder. One of the name that is there already is told, not an error.
    ///
    /// A request that systemd answers after `START_LIMIT` is not left to itself: the holder lives until the answer, so
    /// that its number is nobody else's, and then the scope goes with it.
    async fn start_scope(&self, scope: &Scope) -> Result<(Start, Child), Error> {
        let holder = self.spawn_holder()?;
        let pid = holder.id().unwrap_or_default(); // nobody has waited for it
        let (bus, unit, slice) = (self.bus.clone(), scope.unit.clone(), scope.slice.clone());
        let calls = self.calls.clone();
        let (done, answer) = oneshot::channel();
        tokio::spawn(async move {
            let started = calls.count("start", bus.start_scope(&unit, &slice, pid)).await;
            // Whoever asked may have left: then both ends here.
            let _ = done.send(started.map(|start| (start, holder)));
        });
        let what = || format!("start {}", scope.unit);
        match tokio::time::timeout(START_LIMIT, answer).await {
            Ok(Ok(started)) => started,
            Ok(Err(_ended)) => Err(Error::Lost { what: what() }),
            Err(_elapsed) => Err(Error::Slow {
                what: what(),
                limit: START_LIMIT,
            }),
        }
    }

    async fn forget(&self, unit: &str) -> Result<(), Error> {
        self.calls.count("forget", self.bus.forget(unit)).await
    }

    /// A new scope for one monitor, which the answer keeps there.
    async fn fresh_scope(&self, scope: &Scope) -> DriverResult<Child> {
        let holder = match self.start_scope(scope).await? {
            (Start::Made, holder) => holder,
            (Start::Exists, _) => {
                // Nobody is in it: left by a daemon that was killed here, or about to go.
                self.forget(&scope.unit).await?;
                match self.start_scope(scope).await? {
                    (Start::Made, holder) => holder,
                    (Start::Exists, _) => return Err(self.in_the_way(scope).await?.into()),
                }
            }
        };
        self.is_inside(&holder, scope).await?;
        self.hold_everywhere(&holder, scope).await?;
        Ok(holder)
    }

    /// What to say of a unit that has the name of one that is to be made.
    async fn in_the_way(&self, scope: &Scope) -> Result<Error, Error> {
        let found = match self.bus.cgroup_of(&scope.unit).await? {
            Some(cgroup) => format!("at {cgroup}"),
            None => "without a cgroup".to_owned(),
        };
        let unit = scope.unit.clone();
        Ok(Error::Exists { unit, found })
    }

    /// The holder is in the scope's cgroup of every hierarchy, so that none is taken away before the monitor is there. On
    /// version 1 empty ones go while systemd arranges their neighbours, between making and entering too: then it is done
    /// again.
    async fn hold_everywhere(&self, holder: &Child, scope: &Scope) -> DriverResult<()> {
        let pid = holder.id().unwrap_or_default(); // nobody has waited for it
        for _ in 1..HOLD_TRIES {
            match self.files.place(&scope.cgroup, pid).await {
                Err(CgroupError::File { source, path, .. }) if is_gone(&source) => {
                    tracing::debug!(path = %path.display(), "taken away meanwhile, making it again");
                }
                placed => return Ok(placed?),
            }
        }
        Ok(self.files.place(&scope.cgroup, pid).await?)
    }

    /// Systemd that is told to keep its units elsewhere would have us count and kill in the wrong place.
    async fn is_inside(&self, holder: &Child, scope: &Scope) -> DriverResult<()> {
        let inside = self.files.pids(&scope.cgroup).await?;
        if holder.id().is_some_and(|pid| inside.contains(&pid)) {
            return Ok(());
        }
        let (unit, cgroup) = (scope.unit.clone(), scope.cgroup.clone());
        Err(Error::Elsewhere { unit, cgroup }.into())
    }

    async fn is_in_place(&self, scope: &Scope) -> Result<bool, Error> {
        let cgroup = self.bus.cgroup_of(&scope.unit).await?;
        Ok(cgroup.is_some_and(|cgroup| cgroup == scope.cgroup.to_string()))
    }

    /// Sees to it that the delegated scope is there, and stays.
    async fn keep(&self, scope: &Scope) -> DriverResult<()> {
        let mut kept = self.delegated.lock().await;
        if kept
            .as_mut()
            .is_some_and(|holder| matches!(holder.try_wait(), Ok(None)))
        {
            return Ok(());
        }
        let (mut start, mut holder) = self.start_scope(scope).await?;
        // One that is in its place has monitors of an earlier daemon's in it. One that failed is in none, and what is
        // elsewhere is not stopped: monitors may be in it.
        if start == Start::Exists && !self.is_in_place(scope).await? {
            self.bus.reset_failed(&scope.unit).await?;
            (start, holder) = self.start_scope(scope).await?;
            if start == Start::Exists && !self.is_in_place(scope).await? {
                return Err(self.in_the_way(scope).await?.into());
            }
        }
        if start == Start::Made {
            self.is_inside(&holder, scope).await?;
        }
        let leaf = scope.cgroup.leaf(HOLDER);
        self.files.place(&leaf, holder.id().unwrap_or_default()).await?;
        *kept = Some(holder);
        Ok(())
    }
}

#[async_trait]
impl Cgroups for Systemd {
    fn parent(&self, asked: &str) -> DriverResult<CgroupPath> {
        let slice = Slice::parse(asked).map_err(|bad| DriverError::new(ErrorKind::Invalid, bad.to_string()))?;
        Ok(CgroupPath::from(&slice))
    }

    fn expect_entry(&self) {
        self.files.wait_ahead();
    }

    async fn entrance(&self, cgroup: &CgroupPath) -> DriverResult<Entrance> {
        let holder = match cgroup.scope() {
            Some(scope) if scope.cgroup != *cgroup => {
                self.keep(&scope).await?;
                None
            }
            // Who is inside already keeps it.
            Some(scope) if self.files.pids(cgroup).await?.is_empty() => Some(self.fresh_scope(&scope).await?),
            _ => None,
        };
        Ok(Entrance {
            doors: self.files.entrance(cgroup).await?,
            holder,
        })
    }

    async fn kill(&self, cgroup: &CgroupPath, limit: Duration) -> DriverResult<()> {
        Cgroups::kill(&self.files, cgroup, limit).await
    }

    async fn remove(&self, cgroup: &CgroupPath) -> DriverResult<()> {
        Cgroups::remove(&self.files, cgroup).await?;
        match cgroup.scope() {
            Some(scope) if scope.cgroup == *cgroup && may_be_known(&scope.unit).await => {
                Ok(self.forget(&scope.unit).await?)
            }
            _ => Ok(()),
        }
    }

    async fn usage(&self, cgroup: &CgroupPath) -> DriverResult<Usage> {
        Cgroups::usage(&self.files, cgroup).await
    }

    async fn counters(&self, cgroup: &CgroupPath) -> DriverResult<Counters> {
        Cgroups::counters(&self.files, cgroup).await
    }

    async fn limits(&self, cgroup: &CgroupPath, unified: Vec<String>) -> DriverResult<Resources> {
        Cgroups::limits(&self.files, cgroup, unified).await
    }

    /// Systemd is told first: it writes what it knows into the cgroup after its answer, and again when it is reloaded.
    async fn complete_limits(&self, cgroup: &CgroupPath, asked: &Resources) -> DriverResult<()> {
        let mut known = Vec::new();
        if asked.cpu_quota_us.is_some_and(|quota| quota < 0) {
            known.push(("CPUQuotaPerSecUSec", u64::MAX.into()));
        }
        if let Some(swap) = self.files.swap_max(asked) {
            known.push(("MemorySwapMax", swap.into()));
        }
        if let Some(scope) = cgroup.scope().filter(|_| !known.is_empty()) {
            let set = self.bus.set_properties(&scope.unit, &known);
            self.calls.count("set_properties", set).await?;
        }
        Cgroups::complete_limits(&self.files, cgroup, asked).await
    }

    async fn set_oom_score_adj(&self, cgroup: &CgroupPath, value: i32) -> DriverResult<()> {
        Cgroups::set_oom_score_adj(&self.files, cgroup, value).await
    }

    fn describe(&self) -> CgroupSummary {
        CgroupSummary {
            manager: CgroupManager::Systemd,
            ..self.files.describe()
        }
    }
}
