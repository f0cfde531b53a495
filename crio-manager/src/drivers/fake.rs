//! The whole node in memory, able to fail at the nth call. For tests of the order of things, never shipped.

mod files;

use super::cgroup::{Counters, Usage};
use super::seams::*;
use crate::model::container::Resources;
use crate::model::record::{ContainerRecord, Handler, PinnedNamespaces, SandboxRecord};
use crate::model::{CgroupPath, ContainerId, Exit, ExitStatus, ProcessId, SandboxId, SandboxPlan, Timestamp};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Which call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fails {
    /// None.
    Never,
    /// The nth that makes something, counted from 0. It makes it, then says it failed: the worst case.
    Making(usize),
    /// The nth that gives something back, counted from 0. It gives nothing back.
    Releasing(usize),
}

/// A node in memory.
pub struct FakeNode {
    me: Weak<FakeNode>,
    fails: Fails,
    state: Mutex<State>,
    random: AtomicU32,
    time: AtomicI64,
    /// Creates wait here, when set: a runtime that hangs.
    pub hang_creates: AtomicBool,
    /// Lets hanging creates go on.
    pub go_on: Notify,
    /// What a process does with its stop signal.
    pub on_stop: Mutex<OnStop>,
    /// The call of this name does not come back until it is another one: a kernel that hangs.
    pub stuck_at: watch::Sender<&'static str>,
    /// Looks at processes fail, when set.
    pub blind: AtomicBool,
    boots: AtomicU32,
    /// Signals that were sent: process and number.
    pub signals: Mutex<Vec<(u32, i32)>>,
    /// Processes of which a hold is to outlive the daemon.
    pub kept: Mutex<BTreeSet<NonZeroU32>>,
    /// What the runtime was asked to change, as OCI JSON.
    pub updates: Mutex<Vec<serde_json::Value>>,
    /// The next update fails, when set.
    pub fails_update: AtomicBool,
    /// What every cgroup uses.
    pub usage: Mutex<Usage>,
    /// The limits that every cgroup has.
    pub limits: Mutex<Resources>,
    /// What every handler allows.
    pub allowed_annotations: Mutex<BTreeSet<String>>,
}

/// What a fake process does with a stop signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// Ends with 0.
    Ends,
    /// Goes on.
    Ignores,
    /// Has no handler at first: the first signal is lost, and then it has one.
    HandlesTheSecond,
}

#[derive(Default)]
struct State {
    calls: usize,
    held: BTreeSet<String>,
    sandboxes: BTreeMap<SandboxId, SandboxRecord>,
    containers: BTreeMap<ContainerId, ContainerRecord>,
    unreadable: BTreeSet<ContainerId>,
    specs: BTreeMap<ContainerId, Vec<u8>>,
    /// Paths that were given a label of SELinux.
    labels: BTreeMap<std::path::PathBuf, String>,
    /// The same paths, as often as it was done.
    relabelled: Vec<std::path::PathBuf>,
    processes: BTreeMap<u32, Arc<FakeProcess>>,
    exits: BTreeMap<String, Exit>,
    next_pid: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Container,
    Monitor,
}

struct FakeProcess {
    node: Weak<FakeNode>,
    id: ProcessId,
    container: ContainerId,
    role: Role,
    ended: watch::Sender<bool>,
    catches: AtomicBool,
}

impl FakeNode {
    /// What has been given a label of SELinux, and which.
    pub fn labels(&self) -> BTreeMap<std::path::PathBuf, String> {
        self.state.lock().unwrap().labels.clone()
    }

    /// How often this was given a label of SELinux, with all that is in it.
    pub fn times_relabelled(&self, path: &std::path::Path) -> usize {
        let state = self.state.lock().unwrap();
        state.relabelled.iter().filter(|&other| other == path).count()
    }

    /// A node on which this call fails.
    pub fn new(fails: Fails) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            fails,
            state: Mutex::default(),
            random: AtomicU32::new(1),
            time: AtomicI64::new(1),
            hang_creates: AtomicBool::new(false),
            go_on: Notify::new(),
            on_stop: Mutex::new(OnStop::Ends),
            stuck_at: watch::channel("").0,
            blind: AtomicBool::new(false),
            boots: AtomicU32::new(1),
            signals: Mutex::default(),
            kept: Mutex::default(),
            updates: Mutex::default(),
            fails_update: AtomicBool::new(false),
            usage: Mutex::default(),
            limits: Mutex::default(),
            allowed_annotations: Mutex::default(),
        })
    }

    /// Its seams.
    pub fn drivers(self: &Arc<Self>) -> Drivers {
        let node = || self.clone();
        Drivers {
            runtime: node(),
            monitor: node(),
            process: node(),
            cgroup: node(),
            namespaces: node(),
            network: node(),
            image: node(),
            checkpoint: node(),
            bundle: node(),
            host: node(),
            additions: node(),
            store: node(),
            clock: node(),
        }
    }

    /// Everything somebody would have to give back, records included.
    pub fn held(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let records = state
            .sandboxes
            .keys()
            .map(|id| format!("sandbox record {}", id.short()));
        let more = state
            .containers
            .keys()
            .map(|id| format!("container record {}", id.short()));
        state.held.iter().cloned().chain(records).chain(more).collect()
    }

    /// Ends a container's process with this code, as the kernel and the monitor would report it.
    pub fn end(&self, id: &ContainerId, code: u8) {
        let processes: Vec<_> = {
            let mut state = self.state.lock().unwrap();
            let exit = Exit {
                status: ExitStatus::Code(code),
                oom_killed: false,
                at: self.now(),
            };
            state.exits.entry(id.to_string()).or_insert(exit);
            state.held.remove(&format!("process {}", id.short()));
            state
                .processes
                .values()
                .filter(|process| process.container == *id)
                .cloned()
                .collect()
        };
        for process in processes {
            process.ended.send_replace(true);
        }
    }

    /// Forgets the records of pods, as if they could not be read.
    pub fn lose_sandbox_records(&self) {
        self.state.lock().unwrap().sandboxes.clear();
    }

    /// Makes the record of a container one that cannot be read.
    pub fn spoil_container_record(&self, id: &ContainerId) {
        let mut state = self.state.lock().unwrap();
        state.containers.remove(id);
        state.unreadable.insert(id.clone());
    }

    /// Ends all processes without a word from their monitors, and boots anew.
    pub fn reboot(&self) {
        let mut state = self.state.lock().unwrap();
        state.processes.clear();
        state.held.retain(|held| !held.starts_with("process "));
        self.boots.fetch_add(1, Ordering::SeqCst);
    }

    async fn enter(&self, call: &'static str) {
        // The sender lives as long as this node.
        let _ = self.stuck_at.subscribe().wait_for(|stuck| *stuck != call).await;
    }

    fn make(&self, what: impl Into<String>) -> DriverResult<()> {
        let what = what.into();
        let mut state = self.state.lock().unwrap();
        let call = state.calls;
        state.held.insert(what.clone());
        if let Fails::Making(at) = self.fails {
            state.calls += 1;
            if at == call {
                return Err(DriverError::new(ErrorKind::Failed, format!("{what}: failed as asked")));
            }
        }
        Ok(())
    }

    fn release(&self, what: impl Into<String>) -> DriverResult<()> {
        let what = what.into();
        let mut state = self.state.lock().unwrap();
        if let Fails::Releasing(at) = self.fails {
            let call = state.calls;
            state.calls += 1;
            if at == call {
                return Err(DriverError::new(ErrorKind::Failed, format!("{what}: failed as asked")));
            }
        }
        state.held.remove(&what);
        Ok(())
    }

    /// A record is held by the object it stands for, and listed as such.
    fn write_record(&self) -> DriverResult<()> {
        let made = self.make("a record");
        self.state.lock().unwrap().held.remove("a record");
        made
    }

    fn spawn(&self, role: Role, container: ContainerId) -> ProcessId {
        let mut state = self.state.lock().unwrap();
        state.next_pid += 1;
        let pid = NonZeroU32::new(1000 + state.next_pid).unwrap();
        let id = ProcessId {
            pid,
            start_ticks: u64::from(pid.get()),
        };
        let catches = *self.on_stop.lock().unwrap() != OnStop::HandlesTheSecond;
        let process = Arc::new(FakeProcess {
            node: self.me.clone(),
            id,
            container,
            role,
            ended: watch::channel(false).0,
            catches: AtomicBool::new(catches),
        });
        state.processes.insert(pid.get(), process);
        id
    }
}

#[async_trait]
impl ProcessHandle for FakeProcess {
    async fn ended(&self) {
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    fn exit_status(&self) -> Option<ExitStatus> {
        None
    }

    fn keep(&self) {
        self.node.upgrade().unwrap().kept.lock().unwrap().insert(self.id.pid);
    }

    fn let_go(&self) {
        self.node.upgrade().unwrap().kept.lock().unwrap().remove(&self.id.pid);
    }

    fn signal(&self, signal: i32) -> DriverResult<()> {
        let node = self.node.upgrade().unwrap();
        node.signals.lock().unwrap().push((self.id.pid.get(), signal));
        let container = &self.container;
        if *self.ended.borrow() || self.role == Role::Monitor {
            return Ok(());
        }
        let on_stop = *node.on_stop.lock().unwrap();
        match (signal, on_stop) {
            (libc::SIGKILL, _) => node.end(container, 137),
            (_, OnStop::Ends) => node.end(container, 0),
            (_, OnStop::Ignores) => {}
            (_, OnStop::HandlesTheSecond) if self.catches.load(Ordering::SeqCst) => node.end(container, 0),
            (_, OnStop::HandlesTheSecond) => self.catches.store(true, Ordering::SeqCst),
        }
        Ok(())
    }

    fn catches(&self, _: i32) -> bool {
        self.catches.load(Ordering::SeqCst)
    }
}

impl Processes for FakeNode {
    fn hold(&self, id: ProcessId) -> DriverResult<Option<Arc<dyn ProcessHandle>>> {
        if self.blind.load(Ordering::SeqCst) {
            return Err(DriverError::new(ErrorKind::Failed, "too many open files"));
        }
        let process = self.state.lock().unwrap().processes.get(&id.pid.get()).cloned();
        Ok(process
            .filter(|process| !*process.ended.borrow())
            .map(|process| process as Arc<dyn ProcessHandle>))
    }

    fn all_held(&self) {}
}

impl Clock for FakeNode {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.time.fetch_add(1, Ordering::SeqCst))
    }

    fn random(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&self.random.fetch_add(1, Ordering::SeqCst).to_be_bytes());
        bytes
    }

    fn boot_id(&self) -> String {
        format!("boot {}", self.boots.load(Ordering::SeqCst))
    }
}

#[async_trait]
impl OciRuntime for FakeNode {
    fn handler(&self, name: &str) -> DriverResult<Handler> {
        match name {
            "" | "runc" | "vault" => Ok(Handler {
                name: if name.is_empty() { "runc" } else { name }.to_owned(),
                path: "/usr/sbin/runc".into(),
                root: "/run/runc".into(),
                create_timeout: Duration::from_secs(240),
                systemd_cgroup: false,
                monitor_parent: None,
                monitor_path: "/usr/bin/conmon-rs".into(),
                monitor_env: Default::default(),
                no_sync_log: false,
                unconfined_monitor: false,
                no_pivot: false,
                min_memory_bytes: 0,
                allowed_annotations: self.allowed_annotations.lock().unwrap().clone(),
                default_annotations: Default::default(),
                privileged_without_host_devices: false,
            }),
            unknown => Err(DriverError::new(
                ErrorKind::Invalid,
                format!("no runtime handler {unknown:?}"),
            )),
        }
    }

    async fn start(&self, _: &Handler, id: &ContainerId, _: ProcessId) -> DriverResult<()> {
        self.enter("start").await;
        self.make(format!("process {}", id.short()))
    }

    async fn update(&self, _: &Handler, _: &ContainerId, resources_json: Vec<u8>) -> DriverResult<()> {
        let mut updates = self.updates.lock().unwrap();
        updates.push(serde_json::from_slice(&resources_json).unwrap());
        if self.fails_update.swap(false, Ordering::SeqCst) {
            return Err(DriverError::new(ErrorKind::Failed, "device or resource busy"));
        }
        Ok(())
    }

    async fn can_checkpoint(&self, _: &Handler) -> DriverResult<()> {
        Ok(())
    }

    async fn pause(&self, _: &Handler, id: &ContainerId) -> DriverResult<()> {
        self.make(format!("frozen {}", id.short()))
    }

    async fn resume(&self, _: &Handler, id: &ContainerId) -> DriverResult<()> {
        self.release(format!("frozen {}", id.short()))
    }

    async fn checkpoint(&self, _: &Handler, _: &ContainerId, _: &CheckpointPlace) -> DriverResult<()> {
        self.enter("write down the processes").await;
        self.make("a dump")?;
        self.release("a dump")
    }

    async fn delete(&self, _: &Handler, id: &ContainerId) -> DriverResult<()> {
        self.release(format!("runtime state {}", id.short()))
    }

    async fn forget(&self, _: &Handler, id: &ContainerId) -> DriverResult<()> {
        self.release(format!("runtime state {}", id.short()))
    }

    fn handlers(&self) -> Vec<Handler> {
        self.handler("").into_iter().collect()
    }

    fn started_at(&self, _: &Handler, _: &ContainerId) -> Option<Timestamp> {
        None
    }

    fn health(&self) -> Vec<HandlerHealth> {
        vec![HandlerHealth {
            name: "runc".to_owned(),
            is_default: true,
            version: Ok("fake".to_owned()),
            features: Features {
                recursive_read_only: true,
                without_user_namespaces: false,
            },
        }]
    }
}

#[async_trait]
impl Monitor for FakeNode {
    async fn create(&self, launch: MonitorLaunch) -> DriverResult<Launched> {
        self.enter("launch monitor").await;
        let limit = launch.handler.create_timeout;
        let monitor = self.spawn(Role::Monitor, launch.id.clone());
        self.make(format!("runtime state {}", launch.id.short()))?;
        if self.hang_creates.load(Ordering::SeqCst) && tokio::time::timeout(limit, self.go_on.notified()).await.is_err()
        {
            return Err(DriverError::new(ErrorKind::TimedOut, "the runtime hangs"));
        }
        self.make(format!("process {}", launch.id.short()))?;
        Ok(Launched {
            process: self.spawn(Role::Container, launch.id),
            monitor: Some(monitor),
        })
    }

    async fn exec(&self, _: ExecLaunch) -> DriverResult<ExecOutcome> {
        Ok(ExecOutcome::TimedOut)
    }

    async fn exec_attached(&self, _: ExecLaunch) -> DriverResult<Streamed> {
        self.attach(Path::new(""))
    }

    fn attach(&self, _: &Path) -> DriverResult<Streamed> {
        Err(DriverError::new(ErrorKind::Unavailable, "the fake has no streams"))
    }

    async fn reopen_log(&self, _: &Path, _: &Path) -> DriverResult<()> {
        Ok(())
    }

    async fn exit_recorded(&self, _: &ContainerId) {
        // The fake's monitor ends with its container.
        std::future::pending().await
    }

    async fn recorded_exit(&self, id: &ContainerId, _: &Path) -> DriverResult<Option<Exit>> {
        Ok(self.state.lock().unwrap().exits.get(id.as_str()).cloned())
    }

    async fn saw_oom(&self, _: &Path) -> bool {
        false
    }

    async fn forget_exit(&self, _: &ContainerId) -> DriverResult<()> {
        Ok(())
    }
}

#[async_trait]
impl Cgroups for FakeNode {
    fn parent(&self, asked: &str) -> DriverResult<CgroupPath> {
        CgroupPath::parse_parent(asked).map_err(|bad| DriverError::new(ErrorKind::Invalid, bad.to_string()))
    }

    fn expect_entry(&self) {}

    async fn entrance(&self, cgroup: &CgroupPath) -> DriverResult<Entrance> {
        self.make(format!("cgroup {}", cgroup.as_str()))?;
        Ok(Entrance::default())
    }

    async fn kill(&self, cgroup: &CgroupPath, _: Duration) -> DriverResult<()> {
        self.enter("kill").await;
        if let Some(id) = cgroup.as_str().rsplit_once("crio-").and_then(|(_, id)| id.parse().ok()) {
            self.end(&id, 137);
        }
        Ok(())
    }

    async fn remove(&self, cgroup: &CgroupPath) -> DriverResult<()> {
        self.release(format!("cgroup {}", cgroup.as_str()))
    }

    async fn usage(&self, _: &CgroupPath) -> DriverResult<Usage> {
        Ok(self.usage.lock().unwrap().clone())
    }

    async fn counters(&self, _: &CgroupPath) -> DriverResult<Counters> {
        Ok(Counters::default())
    }

    async fn limits(&self, _: &CgroupPath, _: Vec<String>) -> DriverResult<Resources> {
        Ok(self.limits.lock().unwrap().clone())
    }

    async fn complete_limits(&self, _: &CgroupPath, _: &Resources) -> DriverResult<()> {
        Ok(())
    }

    async fn set_oom_score_adj(&self, _: &CgroupPath, _: i32) -> DriverResult<()> {
        Ok(())
    }

    fn describe(&self) -> CgroupSummary {
        CgroupSummary::default()
    }
}

#[async_trait]
impl NamespacePins for FakeNode {
    async fn pin(&self, plan: &SandboxPlan) -> DriverResult<PinnedNamespaces> {
        self.enter("pin namespaces").await;
        self.make(format!("namespaces {}", plan.id.short()))?;
        Ok(PinnedNamespaces {
            net: plan.has_own_network().then(|| "/netns".into()),
            ..PinnedNamespaces::default()
        })
    }

    async fn traffic(&self, _: &Path) -> DriverResult<Vec<InterfaceTraffic>> {
        Ok(Vec::new())
    }

    async fn unpin(&self, id: &SandboxId) -> DriverResult<()> {
        self.enter("unpin namespaces").await;
        self.release(format!("namespaces {}", id.short()))
    }

    async fn dial(&self, _: Option<&Path>, _: u16) -> DriverResult<tokio::net::TcpStream> {
        Err(DriverError::new(ErrorKind::Unavailable, "the fake has no ports"))
    }
}

#[async_trait]
impl PodNetworks for FakeNode {
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    async fn admit(&self, _: &SandboxPlan) -> DriverResult<()> {
        Ok(())
    }

    async fn connect(&self, plan: &SandboxPlan, _: &Path) -> DriverResult<Vec<IpAddr>> {
        self.make(format!("address {}", plan.id.short()))?;
        Ok(vec![IpAddr::from([10, 0, 0, 1])])
    }

    async fn disconnect(&self, id: &SandboxId, _: Option<&Path>) -> DriverResult<()> {
        self.release(format!("address {}", id.short()))
    }

    async fn keep_only(&self, _: std::collections::BTreeSet<String>) -> DriverResult<()> {
        Ok(())
    }
}
