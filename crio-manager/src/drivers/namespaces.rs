//! A pod's namespaces, kept alive without a process: each is a bind mount of `/proc/<tid>/ns/<kind>` onto
//! `<dir>/<kind>ns/<sandbox id>`.
//!
//! They are made by a thread of their own that unshares, prepares what is inside (loopback, host name, sysctls),
//! pins, and ends: no thread of the caller ever changes its namespaces. Those of a pod with a user namespace belong to it:
//! a child makes them, and the thread joins it.

mod dial;
mod sysctl;
pub mod user_namespaces;
mod users;

pub use sysctl::{Sysctl, SysctlRefused};

use crate::drivers::seams::{DriverError, DriverResult, ErrorKind, InterfaceTraffic, NamespacePins};
use crate::drivers::traffic;
use crate::model::record::PinnedNamespaces;
use crate::model::security::NamespaceMode;
use crate::model::users::UserMappings;
use crate::model::{SandboxId, SandboxPlan};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use sysctl::with_defaults;
use tokio::net::TcpStream;
use users::Holder;

/// The longest host name Linux takes (`__NEW_UTS_LEN`).
const HOSTNAME_MAX_BYTES: usize = 64;
/// A pin is one mount; an interrupted attempt may have left a second on top. More than this is not ours.
const STACKED_MOUNTS_MAX: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("sandbox id {0:?} cannot name a pinned namespace")]
    BadSandboxId(String),
    #[error("host name {name:?}: {reason}")]
    BadHostname { name: String, reason: &'static str },
    #[error("sysctl {name}: the pod has no {needs} namespace of its own")]
    SysctlOfHost { name: String, needs: Kind },
    #[error("sysctl {name} = {value:?}")]
    WriteSysctl {
        name: String,
        value: String,
        source: io::Error,
    },
    #[error("host name {0:?} without a uts namespace of its own")]
    HostnameOfHost(String),
    #[error("set host name {name:?}")]
    SetHostname { name: String, source: io::Error },
    #[error("new namespaces")]
    Unshare { source: io::Error },
    #[error("user namespace: {action}")]
    UserNamespace { action: &'static str, source: io::Error },
    #[error("bring up loopback: {reason}")]
    Loopback { reason: String },
    #[error("{}: {action}", path.display())]
    Pin {
        path: PathBuf,
        action: &'static str,
        source: io::Error,
    },
    #[error("thread for new namespaces: {reason}")]
    Thread { reason: String },
}

type Result<T> = std::result::Result<T, Error>;

/// A kind of namespace that a pod's containers share and that we can keep without a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Net,
    Ipc,
    Uts,
    User,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Net, Kind::Ipc, Kind::Uts, Kind::User];

    /// The name under `/proc/<pid>/ns`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Net => "net",
            Kind::Ipc => "ipc",
            Kind::Uts => "uts",
            Kind::User => "user",
        }
    }

    fn clone_flag(self) -> CloneFlags {
        match self {
            Kind::Net => CloneFlags::CLONE_NEWNET,
            Kind::Ipc => CloneFlags::CLONE_NEWIPC,
            Kind::Uts => CloneFlags::CLONE_NEWUTS,
            Kind::User => CloneFlags::CLONE_NEWUSER,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Where the pin of this kind is noted.
fn slot(pinned: &mut PinnedNamespaces, kind: Kind) -> &mut Option<PathBuf> {
    match kind {
        Kind::Net => &mut pinned.net,
        Kind::Ipc => &mut pinned.ipc,
        Kind::Uts => &mut pinned.uts,
        Kind::User => &mut pinned.user,
    }
}

/// What a pod's new namespaces shall be like.
#[derive(Debug, Clone, Default)]
pub struct NamespacePlan {
    /// But `Kind::User`, which `users` stands for.
    pub kinds: Vec<Kind>,
    /// The user namespace that all of them belong to; `None` is the node's.
    pub users: Option<UserMappings>,
    /// Needs `Kind::Uts`.
    pub hostname: Option<String>,
    pub sysctls: Vec<Sysctl>,
}

impl NamespacePlan {
    fn check(&self) -> Result<()> {
        if let Some(name) = &self.hostname {
            check_hostname(name)?;
            if !self.kinds.contains(&Kind::Uts) {
                return Err(Error::HostnameOfHost(name.clone()));
            }
        }
        for sysctl in &self.sysctls {
            if !self.kinds.contains(&sysctl.namespace()) {
                return Err(Error::SysctlOfHost {
                    name: sysctl.name().to_owned(),
                    needs: sysctl.namespace(),
                });
            }
        }
        Ok(())
    }
}

fn check_hostname(name: &str) -> Result<()> {
    let bad = |reason| {
        Err(Error::BadHostname {
            name: name.to_owned(),
            reason,
        })
    };
    if name.is_empty() {
        return bad("is empty");
    }
    if name.len() > HOSTNAME_MAX_BYTES {
        return bad("is longer than 64 bytes");
    }
    if !name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
    {
        return bad("has a character other than letters, digits, '-', '_' and '.'");
    }
    Ok(())
}

/// The pinned namespaces of this node's pods.
#[derive(Debug, Clone)]
pub struct Namespaces {
    dir: PathBuf,
    default_sysctls: Vec<Sysctl>,
    /// The program that holds new user namespaces until they are pinned.
    pause_path: PathBuf,
}

impl Namespaces {
    /// `dir` must not survive a reboot: namespaces do not.
    pub fn new(dir: impl Into<PathBuf>) -> Namespaces {
        Namespaces {
            dir: dir.into(),
            default_sysctls: Vec::new(),
            pause_path: PathBuf::new(),
        }
    }

    /// With the program that can hold new user namespaces until they are pinned: one that waits to be killed.
    pub fn held_by(self, pause_path: impl Into<PathBuf>) -> Namespaces {
        Namespaces {
            pause_path: pause_path.into(),
            ..self
        }
    }

    /// As [`Self::new`], and makes the directories of the pins. A pod gets those of `default_sysctls` whose namespace
    /// it has to itself and which it does not set.
    pub fn open(dir: impl Into<PathBuf>, default_sysctls: Vec<Sysctl>) -> io::Result<Namespaces> {
        let this = Namespaces {
            default_sysctls,
            ..Self::new(dir)
        };
        for kind in Kind::ALL {
            fs::create_dir_all(this.dir.join(format!("{kind}ns")))?;
        }
        Ok(this)
    }

    /// Makes the namespaces of a pod and pins them, or leaves nothing of them behind.
    ///
    /// Errors: the plan asks for a sysctl or host name outside the new namespaces; a pin of that id exists already.
    pub async fn pin(&self, sandbox_id: &str, plan: NamespacePlan) -> Result<PinnedNamespaces> {
        check_sandbox_id(sandbox_id)?;
        plan.check()?;
        let this = self.clone();
        let id = sandbox_id.to_owned();
        let (done, outcome) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("new-namespaces".to_owned())
            .spawn(move || {
                let pinned = this.pin_on_this_thread(&id, &plan);
                if let Err(Ok(_)) = done.send(pinned) {
                    this.unpin_for_nobody(&id);
                }
            })
            .map_err(|error| Error::Thread {
                reason: error.to_string(),
            })?;
        outcome.await.map_err(|_| Error::Thread {
            reason: "ended without an answer".to_owned(),
        })?
    }

    /// The caller has gone while its namespaces were made: nobody will ask for them.
    fn unpin_for_nobody(&self, sandbox_id: &str) {
        for kind in Kind::ALL {
            if let Err(error) = unpin_one(&self.path(sandbox_id, kind)) {
                tracing::warn!(sandbox_id, %error, "unpin what nobody waits for, ignoring");
            }
        }
    }

    /// The calling thread is left in the new namespaces: only for a thread that ends afterwards.
    fn pin_on_this_thread(&self, sandbox_id: &str, plan: &NamespacePlan) -> Result<PinnedNamespaces> {
        let flags = plan
            .kinds
            .iter()
            .fold(CloneFlags::empty(), |flags, kind| flags | kind.clone_flag());
        let holder = match &plan.users {
            None => {
                nix::sched::unshare(flags).map_err(|errno| Error::Unshare { source: errno.into() })?;
                None
            }
            Some(mappings) => {
                let holder = Holder::start(&self.pause_path, mappings, flags)?;
                holder.join(&plan.kinds)?;
                Some(holder)
            }
        };
        if plan.kinds.contains(&Kind::Net) {
            bring_up_loopback()?;
        }
        if let Some(name) = &plan.hostname {
            nix::unistd::sethostname(name).map_err(|errno| Error::SetHostname {
                name: name.clone(),
                source: errno.into(),
            })?;
        }
        match &holder {
            None => write_sysctls(&plan.sysctls)?,
            Some(holder) => {
                // Those of a network are written by who has power over it, which the node's root has; the others by nobody
                // but the root of the namespace.
                let is_networks = |sysctl: &Sysctl| sysctl.namespace() == Kind::Net;
                let (of_network, others): (Vec<_>, Vec<_>) = plan.sysctls.iter().cloned().partition(is_networks);
                write_sysctls(&of_network)?;
                if !others.is_empty() {
                    holder.as_its_root(|| write_sysctls(&others))??;
                }
            }
        }
        let own = |kind: Kind| (kind, PathBuf::from(format!("/proc/thread-self/ns/{kind}")));
        let mut sources: Vec<_> = plan.kinds.iter().copied().map(own).collect();
        sources.extend(holder.iter().map(|holder| (Kind::User, holder.namespace(Kind::User))));
        let mut pinned = PinnedNamespaces::default();
        for (kind, source) in sources {
            match self.pin_one(sandbox_id, kind, &source) {
                Ok(path) => *slot(&mut pinned, kind) = Some(path),
                Err(error) => {
                    for made in Kind::ALL.iter().filter_map(|kind| slot(&mut pinned, *kind).clone()) {
                        if let Err(error) = unpin_one(&made) {
                            tracing::warn!(%error, "unpin after a failed pin, ignoring");
                        }
                    }
                    return Err(error);
                }
            }
        }
        Ok(pinned)
    }

    fn pin_one(&self, sandbox_id: &str, kind: Kind, source: &Path) -> Result<PathBuf> {
        let path = self.path(sandbox_id, kind);
        let failed = |action| {
            let path = path.clone();
            move |source: io::Error| Error::Pin { path, action, source }
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed("make directory"))?;
        }
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(failed("make file to pin on"))?;
        if let Err(errno) = rustix::mount::mount_bind(source, &path) {
            let _ = fs::remove_file(&path); // made just above, nothing is mounted on it
            return Err(failed("pin namespace")(errno.into()));
        }
        Ok(path)
    }

    /// Lets go of a pod's namespaces, whichever of them exist; half-made pins and empty files included.
    pub async fn unpin(&self, sandbox_id: &str) -> Result<()> {
        check_sandbox_id(sandbox_id)?;
        let paths = Kind::ALL.map(|kind| self.path(sandbox_id, kind));
        blocking(move || {
            let outcomes = paths.iter().map(|path| unpin_one(path)).collect::<Vec<_>>(); // all, then the first error
            outcomes.into_iter().collect()
        })
        .await
    }

    /// Every pod that has something pinned, half-made pins included: what a restart must look at.
    pub async fn list(&self) -> Result<BTreeMap<String, PinnedNamespaces>> {
        let this = self.clone();
        blocking(move || this.list_blocking()).await
    }

    fn list_blocking(&self) -> Result<BTreeMap<String, PinnedNamespaces>> {
        let mut all: BTreeMap<String, PinnedNamespaces> = BTreeMap::new();
        for kind in Kind::ALL {
            let dir = self.dir.join(format!("{kind}ns"));
            let failed = |source| Error::Pin {
                path: dir.clone(),
                action: "list",
                source,
            };
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            for entry in entries {
                let entry = entry.map_err(failed)?;
                match entry.file_name().into_string() {
                    Ok(id) if check_sandbox_id(&id).is_ok() => {
                        *slot(all.entry(id).or_default(), kind) = Some(entry.path());
                    }
                    Ok(_) | Err(_) => tracing::warn!(path = %entry.path().display(), "not a pin of ours, ignoring"),
                }
            }
        }
        Ok(all)
    }

    fn path(&self, sandbox_id: &str, kind: Kind) -> PathBuf {
        self.dir.join(format!("{kind}ns")).join(sandbox_id)
    }
}

/// An id becomes a file name, so it may hold nothing that leads elsewhere.
fn check_sandbox_id(id: &str) -> Result<()> {
    let fits = (1..=128).contains(&id.len()) && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if fits {
        Ok(())
    } else {
        Err(Error::BadSandboxId(id.to_owned()))
    }
}

fn unpin_one(path: &Path) -> Result<()> {
    for _ in 0..STACKED_MOUNTS_MAX {
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL) => break, // nothing is mounted there
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(errno) => {
                return Err(Error::Pin {
                    path: path.to_owned(),
                    action: "unmount",
                    source: errno.into(),
                });
            }
        }
    }
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Pin {
            path: path.to_owned(),
            action: "remove",
            source,
        }),
    }
}

/// Sets them in the calling thread's namespaces: `/proc/sys` answers for those of the thread that opens the file.
fn write_sysctls(sysctls: &[Sysctl]) -> Result<()> {
    for sysctl in sysctls {
        fs::OpenOptions::new()
            .write(true)
            .open(sysctl.path())
            .and_then(|mut file| file.write_all(sysctl.value().as_bytes()))
            .map_err(|source| Error::WriteSysctl {
                name: sysctl.name().to_owned(),
                value: sysctl.value().to_owned(),
                source,
            })?;
    }
    Ok(())
}

/// Sets `lo` up in the calling thread's network namespace. Its index there is always 1.
fn bring_up_loopback() -> Result<()> {
    const LOOPBACK_INDEX: u32 = 1;
    let failed = |reason: String| Error::Loopback { reason };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|e| failed(e.to_string()))?;
    runtime.block_on(async {
        let (connection, netlink, _) = rtnetlink::new_connection().map_err(|e| failed(e.to_string()))?;
        let connection = tokio::spawn(connection);
        let up = rtnetlink::LinkUnspec::new_with_index(LOOPBACK_INDEX).up().build();
        let outcome = netlink.link().set(up).execute().await;
        connection.abort();
        outcome.map_err(|e| failed(e.to_string()))
    })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Thread {
        reason: error.to_string(),
    })?
}

impl From<Error> for DriverError {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::BadSandboxId(_)
            | Error::BadHostname { .. }
            | Error::SysctlOfHost { .. }
            | Error::WriteSysctl { .. }
            | Error::HostnameOfHost(_) => ErrorKind::Invalid,
            Error::SetHostname { .. }
            | Error::Unshare { .. }
            | Error::UserNamespace { .. }
            | Error::Loopback { .. }
            | Error::Pin { .. }
            | Error::Thread { .. } => ErrorKind::Failed,
        };
        DriverError::chain(kind, &error)
    }
}

#[async_trait]
impl NamespacePins for Namespaces {
    async fn pin(&self, plan: &SandboxPlan) -> DriverResult<PinnedNamespaces> {
        let own = |mode: &NamespaceMode| *mode != NamespaceMode::Node;
        let mut kinds = Vec::new();
        if own(&plan.namespaces.network) {
            kinds.extend([Kind::Net, Kind::Uts]);
        }
        if own(&plan.namespaces.ipc) {
            kinds.push(Kind::Ipc);
        }
        let asked = plan.sysctls.iter().map(|(name, value)| Sysctl::parse(name, value));
        let asked = asked.collect::<std::result::Result<_, _>>();
        let asked = asked.map_err(|refused| DriverError::new(ErrorKind::Invalid, refused.to_string()))?;
        let sysctls = with_defaults(asked, &self.default_sysctls, &kinds);
        let hostname = (own(&plan.namespaces.network) && !plan.hostname.is_empty()).then(|| plan.hostname.clone());
        Ok(Namespaces::pin(
            self,
            plan.id.as_str(),
            NamespacePlan {
                kinds,
                users: plan.namespaces.users,
                hostname,
                sysctls,
            },
        )
        .await?)
    }

    async fn unpin(&self, id: &SandboxId) -> DriverResult<()> {
        Ok(Namespaces::unpin(self, id.as_str()).await?)
    }

    async fn dial(&self, netns: Option<&Path>, port: u16) -> DriverResult<TcpStream> {
        dial::dial(netns, port).await
    }

    async fn traffic(&self, namespace: &Path) -> DriverResult<Vec<InterfaceTraffic>> {
        traffic::of_namespace(namespace).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_plan_that_would_change_the_host_is_refused_before_anything_is_made() {
        let root = tempfile::tempdir().unwrap();
        let namespaces = Namespaces::new(root.path());
        let sysctl = Sysctl::parse("net.core.somaxconn", "1").unwrap();
        let plan = NamespacePlan {
            kinds: vec![Kind::Ipc],
            sysctls: vec![sysctl],
            ..Default::default()
        };
        assert!(matches!(
            namespaces.pin("a", plan).await,
            Err(Error::SysctlOfHost { needs: Kind::Net, .. })
        ));
        let plan = NamespacePlan {
            hostname: Some("web".to_owned()),
            ..Default::default()
        };
        assert!(matches!(namespaces.pin("a", plan).await, Err(Error::HostnameOfHost(_))));
        assert!(matches!(namespaces.unpin("../etc").await, Err(Error::BadSandboxId(_))));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn unpin_takes_what_was_never_made_or_only_half() {
        let root = tempfile::tempdir().unwrap();
        let namespaces = Namespaces::new(root.path());
        namespaces.unpin("nothing").await.unwrap();
        fs::create_dir_all(root.path().join("netns")).unwrap();
        fs::write(root.path().join("netns/half"), "").unwrap();
        assert_eq!(namespaces.list().await.unwrap().keys().collect::<Vec<_>>(), ["half"]);
        namespaces.unpin("half").await.unwrap();
        assert!(namespaces.list().await.unwrap().is_empty());
    }
}
