//! A pod's namespaces, kept alive without a process: each is a bind mount of `/proc/<tid>/ns/<kind>` onto
//! `<dir>/<kind>ns/<sandbox id>`.
//!
//! They are made by a thread of their own that unshares, prepares what is inside (loopback, host name, sysctls),
//! pins, and ends: no thread of the caller ever changes its namespaces.

use crate::drivers::seams::{DriverError, DriverResult, ErrorKind, NamespacePins};
use crate::model::record::PinnedNamespaces;
use crate::model::security::NamespaceMode;
use crate::model::{SandboxId, SandboxPlan};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::sched::CloneFlags;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

/// The longest host name Linux takes (`__NEW_UTS_LEN`).
const HOSTNAME_MAX_BYTES: usize = 64;
/// A sysctl's value is a few numbers; anything near a page is not one.
const SYSCTL_VALUE_MAX_BYTES: usize = 1024;
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
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Net, Kind::Ipc, Kind::Uts];

    /// The name under `/proc/<pid>/ns`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Net => "net",
            Kind::Ipc => "ipc",
            Kind::Uts => "uts",
        }
    }

    fn clone_flag(self) -> CloneFlags {
        match self {
            Kind::Net => CloneFlags::CLONE_NEWNET,
            Kind::Ipc => CloneFlags::CLONE_NEWIPC,
            Kind::Uts => CloneFlags::CLONE_NEWUTS,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("sysctl {name:?}: {reason}")]
pub struct SysctlRefused {
    pub name: String,
    pub reason: &'static str,
}

/// A kernel setting that belongs to a namespace, with its new value. Settings of the whole node cannot be expressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    name: String,
    segments: Vec<String>,
    value: String,
    namespace: Kind,
}

impl Sysctl {
    /// Takes `net.ipv4.ip_forward` or `net/ipv4/ip_forward`. A name with both separators is refused: it reads
    /// differently to different tools. An interface with a dot in its name is reachable by the second form.
    pub fn parse(name: &str, value: &str) -> std::result::Result<Sysctl, SysctlRefused> {
        let refused = |reason| SysctlRefused {
            name: name.to_owned(),
            reason,
        };
        let separator = match (name.contains('.'), name.contains('/')) {
            (true, true) if !name.starts_with("net/") => {
                return Err(refused("name mixes '.' and '/' as separators"));
            }
            (_, true) => '/',
            (_, false) => '.',
        };
        let segments: Vec<String> = name.split(separator).map(str::to_owned).collect();
        for segment in &segments {
            if segment.is_empty() || segment.starts_with('.') || segment.contains("..") {
                return Err(refused("name has an empty or relative part"));
            }
            if !segment
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
            {
                return Err(refused("name has a character no kernel setting has"));
            }
        }
        let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
        let namespace = match parts.as_slice() {
            ["net", _, ..] => Kind::Net,
            ["kernel", "sem"] | ["fs", "mqueue", _] => Kind::Ipc,
            ["kernel", last] if last.starts_with("shm") || last.starts_with("msg") => Kind::Ipc,
            _ => return Err(refused("not a setting of a namespace, it would change the whole node")),
        };
        if value.is_empty() || value.len() > SYSCTL_VALUE_MAX_BYTES {
            return Err(refused("value is empty or too long"));
        }
        if !value.chars().all(|c| matches!(c, ' '..='~' | '\t')) {
            return Err(refused("value has a line break or another control character"));
        }
        Ok(Sysctl {
            name: name.to_owned(),
            segments,
            value: value.to_owned(),
            namespace,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn value(&self) -> &str {
        &self.value
    }

    /// The namespace that must be the pod's own for this setting.
    pub fn namespace(&self) -> Kind {
        self.namespace
    }

    fn path(&self) -> PathBuf {
        let mut path = PathBuf::from("/proc/sys");
        path.extend(&self.segments);
        path
    }
}

impl FromStr for Sysctl {
    type Err = SysctlRefused;

    /// `name=value`, as configuration files write it.
    fn from_str(text: &str) -> std::result::Result<Sysctl, SysctlRefused> {
        let (name, value) = text.split_once('=').ok_or_else(|| SysctlRefused {
            name: text.to_owned(),
            reason: "is not of the form name=value",
        })?;
        Sysctl::parse(name.trim(), value.trim())
    }
}

/// `asked`, and the defaults of these kinds of namespaces that it leaves alone, however it spells its names.
fn with_defaults(mut asked: Vec<Sysctl>, defaults: &[Sysctl], kinds: &[Kind]) -> Vec<Sysctl> {
    let left_alone = |default: &&Sysctl| asked.iter().all(|sysctl| sysctl.segments != default.segments);
    let own = |default: &&Sysctl| kinds.contains(&default.namespace);
    let added: Vec<Sysctl> = defaults.iter().filter(own).filter(left_alone).cloned().collect();
    asked.extend(added);
    asked
}

/// Where the pin of this kind is noted.
fn slot(pinned: &mut PinnedNamespaces, kind: Kind) -> &mut Option<PathBuf> {
    match kind {
        Kind::Net => &mut pinned.net,
        Kind::Ipc => &mut pinned.ipc,
        Kind::Uts => &mut pinned.uts,
    }
}

/// What a pod's new namespaces shall be like.
#[derive(Debug, Clone, Default)]
pub struct NamespacePlan {
    pub kinds: Vec<Kind>,
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
            if !self.kinds.contains(&sysctl.namespace) {
                return Err(Error::SysctlOfHost {
                    name: sysctl.name.clone(),
                    needs: sysctl.namespace,
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
}

impl Namespaces {
    /// `dir` must not survive a reboot: namespaces do not.
    pub fn new(dir: impl Into<PathBuf>) -> Namespaces {
        Namespaces {
            dir: dir.into(),
            default_sysctls: Vec::new(),
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
        nix::sched::unshare(flags).map_err(|errno| Error::Unshare { source: errno.into() })?;
        if plan.kinds.contains(&Kind::Net) {
            bring_up_loopback()?;
        }
        if let Some(name) = &plan.hostname {
            nix::unistd::sethostname(name).map_err(|errno| Error::SetHostname {
                name: name.clone(),
                source: errno.into(),
            })?;
        }
        for sysctl in &plan.sysctls {
            // /proc/sys answers for the namespaces of the thread that opens the file.
            fs::OpenOptions::new()
                .write(true)
                .open(sysctl.path())
                .and_then(|mut file| file.write_all(sysctl.value.as_bytes()))
                .map_err(|source| Error::WriteSysctl {
                    name: sysctl.name.clone(),
                    value: sysctl.value.clone(),
                    source,
                })?;
        }
        let mut pinned = PinnedNamespaces::default();
        for kind in &plan.kinds {
            match self.pin_one(sandbox_id, *kind) {
                Ok(path) => *slot(&mut pinned, *kind) = Some(path),
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

    fn pin_one(&self, sandbox_id: &str, kind: Kind) -> Result<PathBuf> {
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
        let source = format!("/proc/thread-self/ns/{kind}");
        if let Err(errno) = rustix::mount::mount_bind(source.as_str(), &path) {
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
                hostname,
                sysctls,
            },
        )
        .await?)
    }

    async fn unpin(&self, id: &SandboxId) -> DriverResult<()> {
        Ok(Namespaces::unpin(self, id.as_str()).await?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn defaults_are_weaker_than_the_pods_own_and_never_reach_the_host() {
        let parse = |texts: &[&str]| -> Vec<Sysctl> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let defaults = parse(&["net.core.somaxconn=1024", "net.ipv4.ip_forward=1", "kernel.shmmax=4096"]);
        let set = |asked: &[&str], kinds: &[Kind]| {
            let sysctls = with_defaults(parse(asked), &defaults, kinds);
            let words = sysctls
                .iter()
                .map(|sysctl| format!("{}={}", sysctl.name(), sysctl.value()));
            words.collect::<Vec<_>>()
        };
        assert_eq!(
            set(&["net/ipv4/ip_forward=0"], &Kind::ALL),
            ["net/ipv4/ip_forward=0", "net.core.somaxconn=1024", "kernel.shmmax=4096"]
        );
        assert_eq!(set(&[], &[Kind::Ipc]), ["kernel.shmmax=4096"]);
        assert_eq!(set(&[], &[]), [""; 0]);
    }

    #[test]
    fn settings_of_a_namespace_are_taken_and_all_others_refused() {
        for (name, namespace) in [
            ("net.ipv4.ip_unprivileged_port_start", Kind::Net),
            ("net/ipv4/conf/eth0.100/forwarding", Kind::Net),
            ("kernel.shmmax", Kind::Ipc),
            ("kernel.shm_rmid_forced", Kind::Ipc),
            ("kernel.msgmnb", Kind::Ipc),
            ("kernel.sem", Kind::Ipc),
            ("fs.mqueue.msg_max", Kind::Ipc),
        ] {
            assert_eq!(Sysctl::parse(name, "1").unwrap().namespace(), namespace, "{name}");
        }
        for name in [
            "",
            "net",
            "net.",
            ".net.x",
            "kernel.core_pattern",
            "kernel.sem.x",
            "vm.swappiness",
            "fs.mqueue",
            "net..x",
            "net/../kernel/core_pattern",
            "net.ipv4/../../x",
            "kernel/../kernel/core_pattern",
            "net/ipv4/..",
            "net. x",
            "net.ipv4\0",
            "kernel.shm/x",
            "/net/ipv4",
            "net.ipv4.conf.eth0/100.forwarding",
            "kernelxshm",
            "fs.mqueue.a.b",
        ] {
            assert!(Sysctl::parse(name, "1").is_err(), "{name:?} was taken");
        }
        assert!(Sysctl::parse("net.core.somaxconn", "32768\t60999").is_ok());
        for value in ["", "1\n2", "1\0", "é"] {
            assert!(
                Sysctl::parse("net.core.somaxconn", value).is_err(),
                "{value:?} was taken"
            );
        }
    }

    proptest! {
        #[test]
        fn no_name_leads_outside_the_namespaced_settings(name in "(net|kernel|fs)?[./a-z\\n]{0,24}") {
            if let Ok(sysctl) = Sysctl::parse(&name, "1") {
                let path = sysctl.path();
                prop_assert!(path.components().all(|c| !matches!(c, std::path::Component::ParentDir)));
                let inside = ["net/", "kernel/shm", "kernel/msg", "kernel/sem", "fs/mqueue/"]
                    .iter()
                    .any(|prefix| path.to_str().unwrap().starts_with(&format!("/proc/sys/{prefix}")));
                prop_assert!(inside, "{}", path.display());
            }
        }
    }

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
