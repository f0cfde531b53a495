//! The configuration, in CRI-O's dialect: `/etc/crio/crio.conf`, the drop-in files of `/etc/crio/crio.conf.d`, the
//! environment, the command line, in this order, the last one wins.
//!
//! Every default stands in this file; every key, with the sentence that explains it, in `keys`. An unknown key is a
//! warning, because one file may serve several versions and CRI-O itself; a wrong value is an error, because a guess
//! about a limit or a path is worse than no start.

mod keys;
mod layers;
mod metrics;
mod print;
#[cfg(test)]
mod tests;
mod traces;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::slice::Slice;
use crate::model::trust::Trust;

use oci_spec::runtime::Capability;
use thiserror::Error;

pub use keys::{Key, command_line_keys, restart_needed};
pub use layers::{Sources, load};
pub use metrics::{Collector, MetricsConfig};
pub use print::{DESCRIPTION, commented_defaults, described, effective, in_force};
pub use traces::TracingConfig;
pub use value::SOCKET_PATH_MAX;
use value::{Setting, Value, one_of};

/// Everything that can be configured, checked. Fields have their keys' names.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub crio: CrioConfig,
    pub api: ApiConfig,
    pub runtime: RuntimeConfig,
    /// By handler name; never empty once loaded, and `runtime.default_runtime` is one of them.
    pub runtimes: BTreeMap<String, RuntimeHandler>,
    pub image: ImageConfig,
    pub network: NetworkConfig,
    pub metrics: MetricsConfig,
    pub tracing: TracingConfig,
    pub manager: ManagerConfig,
}

/// `[crio]`
#[derive(Debug, Clone, PartialEq)]
pub struct CrioConfig {
    pub root: PathBuf,
    pub runroot: PathBuf,
}

/// `[crio.api]`
#[derive(Debug, Clone, PartialEq)]
pub struct ApiConfig {
    /// At most [`SOCKET_PATH_MAX`] bytes.
    pub listen: PathBuf,
    pub grpc_max_send_msg_size: usize,
    pub grpc_max_recv_msg_size: usize,
    pub stream_address: IpAddr,
    /// 0: a free one.
    pub stream_port: u16,
    pub stream_idle_timeout: Duration,
    pub stream_enable_tls: bool,
    /// There with `stream_enable_tls`, as is the key.
    pub stream_tls_cert: Option<PathBuf>,
    pub stream_tls_key: Option<PathBuf>,
    /// `None`: clients need no certificate.
    pub stream_tls_ca: Option<PathBuf>,
}

/// `[crio.runtime]`
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeConfig {
    pub default_runtime: String,
    pub cgroup_manager: CgroupManager,
    /// The monitor of handlers that name none of their own.
    pub conmon: PathBuf,
    pub container_exits_dir: PathBuf,
    pub container_attach_socket_dir: PathBuf,
    pub namespaces_dir: PathBuf,
    pub default_capabilities: Vec<Capability>,
    pub add_inheritable_capabilities: bool,
    pub default_sysctls: BTreeMap<String, String>,
    pub default_ulimits: Vec<Ulimit>,
    pub default_env: Vec<EnvVariable>,
    pub pids_limit: Limit,
    pub log_size_max: Limit,
    pub log_level: LogLevel,
    /// `None`: the built-in profile.
    pub seccomp_profile: Option<PathBuf>,
    pub selinux: bool,
    pub hostnetwork_disable_selinux: bool,
    pub read_only: bool,
    pub no_pivot: bool,
    pub disable_hostport_mapping: bool,
    pub cdi_spec_dirs: Vec<PathBuf>,
    pub hooks_dir: Vec<PathBuf>,
    /// `None`: the system's two.
    pub default_mounts_file: Option<PathBuf>,
    pub enable_criu_support: bool,
}

/// `[crio.runtime.runtimes.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeHandler {
    pub runtime_path: PathBuf,
    pub runtime_type: RuntimeType,
    pub runtime_root: PathBuf,
    pub monitor_path: PathBuf,
    pub monitor_cgroup: MonitorCgroup,
    pub monitor_env: Vec<EnvVariable>,
    /// How long creating a container may take before the creator is killed.
    pub container_create_timeout: Duration,
    pub container_min_memory: u64,
    pub allowed_annotations: Vec<String>,
    pub default_annotations: BTreeMap<String, String>,
    pub privileged_without_host_devices: bool,
    pub no_sync_log: bool,
    pub unconfined_monitor: bool,
}

/// `[crio.image]`
#[derive(Debug, Clone, PartialEq)]
pub struct ImageConfig {
    pub default_transport: Transport,
    pub pinned_images: Vec<String>,
    pub insecure_registries: Vec<String>,
    /// Zero: no limit.
    pub pull_progress_timeout: Duration,
    pub image_volumes: ImageVolumes,
    pub short_name_mode: ShortNameMode,
    pub global_auth_file: Option<PathBuf>,
    pub namespaced_auth_dir: Option<PathBuf>,
    /// `None`: the system's, where it is there.
    pub signature_policy: Option<PathBuf>,
    pub signature_policy_dir: PathBuf,
}

/// `[crio.network]`
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkConfig {
    /// Empty: the first usable file of `network_dir`.
    pub cni_default_network: String,
    pub network_dir: PathBuf,
    pub plugin_dirs: Vec<PathBuf>,
    pub cni_status_grace_period: Duration,
}

/// `[crio_manager]`: what CRI-O has no key for.
#[derive(Debug, Clone, PartialEq)]
pub struct ManagerConfig {
    pub state_dir: PathBuf,
    pub pause_path: PathBuf,
    pub log_format: LogFormat,
    /// `target=level` directives that refine `log_level`.
    pub log_targets: String,
    pub cni_timeout: Duration,
    pub registries_conf: Option<PathBuf>,
    pub registry_certs_dir: PathBuf,
    /// A configured handler once loaded; empty: untrusted pods are refused.
    pub untrusted_runtime: String,
    pub default_workload_trust: Trust,
    pub restore_from_images: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            crio: CrioConfig {
                root: "/var/lib/containers/storage".into(),
                runroot: "/var/run/containers/storage".into(),
            },
            api: ApiConfig {
                listen: "/var/run/crio/crio.sock".into(),
                grpc_max_send_msg_size: 80 << 20,
                grpc_max_recv_msg_size: 80 << 20,
                stream_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
                stream_port: 0,
                stream_idle_timeout: Duration::from_secs(4 * 60 * 60),
                stream_enable_tls: false,
                stream_tls_cert: None,
                stream_tls_key: None,
                stream_tls_ca: None,
            },
            runtime: RuntimeConfig {
                default_runtime: String::new(),
                cgroup_manager: CgroupManager::Cgroupfs,
                conmon: PathBuf::new(),
                container_exits_dir: "/var/run/crio/exits".into(),
                container_attach_socket_dir: "/var/run/crio".into(),
                namespaces_dir: "/var/run".into(),
                default_capabilities: vec![
                    Capability::Chown,
                    Capability::DacOverride,
                    Capability::Fsetid,
                    Capability::Fowner,
                    Capability::Setgid,
                    Capability::Setuid,
                    Capability::Setpcap,
                    Capability::NetBindService,
                    Capability::Kill,
                ],
                add_inheritable_capabilities: false,
                default_sysctls: BTreeMap::new(),
                default_ulimits: Vec::new(),
                default_env: Vec::new(),
                pids_limit: Limit::Unlimited,
                log_size_max: Limit::Unlimited,
                log_level: LogLevel::Info,
                seccomp_profile: None,
                selinux: true,
                hostnetwork_disable_selinux: true,
                read_only: false,
                no_pivot: false,
                disable_hostport_mapping: false,
                cdi_spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
                hooks_dir: vec!["/usr/share/containers/oci/hooks.d".into()],
                default_mounts_file: None,
                enable_criu_support: true,
            },
            runtimes: BTreeMap::new(),
            image: ImageConfig {
                default_transport: Transport::Docker,
                pinned_images: Vec::new(),
                insecure_registries: Vec::new(),
                pull_progress_timeout: Duration::from_secs(60),
                image_volumes: ImageVolumes::Mkdir,
                short_name_mode: ShortNameMode::Enforcing,
                global_auth_file: None,
                namespaced_auth_dir: None,
                signature_policy: None,
                signature_policy_dir: "/etc/crio/policies".into(),
            },
            network: NetworkConfig {
                cni_default_network: String::new(),
                network_dir: "/etc/cni/net.d".into(),
                plugin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
                cni_status_grace_period: Duration::ZERO,
            },
            metrics: MetricsConfig::default(),
            tracing: TracingConfig::default(),
            manager: ManagerConfig {
                state_dir: "/var/lib/crio".into(),
                pause_path: PathBuf::new(),
                log_format: LogFormat::Text,
                log_targets: String::new(),
                cni_timeout: Duration::from_secs(60),
                registries_conf: Some("/etc/containers/registries.conf".into()),
                registry_certs_dir: "/etc/containers/certs.d".into(),
                untrusted_runtime: String::new(),
                default_workload_trust: Trust::Trusted,
                restore_from_images: false,
            },
        }
    }
}

impl RuntimeHandler {
    /// A handler of which nothing but its name was said. Empty program paths are looked up when the loading ends.
    pub fn named(name: &str) -> Self {
        RuntimeHandler {
            runtime_path: PathBuf::new(),
            runtime_type: RuntimeType::Oci,
            runtime_root: Path::new("/run").join(name),
            monitor_path: PathBuf::new(),
            monitor_cgroup: MonitorCgroup::Pod,
            monitor_env: Vec::new(),
            container_create_timeout: Duration::from_secs(240),
            container_min_memory: if name == "crun" { 500 << 10 } else { 12 << 20 },
            allowed_annotations: Vec::new(),
            default_annotations: BTreeMap::new(),
            privileged_without_host_devices: false,
            no_sync_log: false,
            unconfined_monitor: false,
        }
    }
}

impl Config {
    /// The handler that a pod asks for; the empty name asks for the default one.
    pub fn handler(&self, name: &str) -> Option<&RuntimeHandler> {
        let name = if name.is_empty() {
            &self.runtime.default_runtime
        } else {
            name
        };
        self.runtimes.get(name)
    }
}

/// A number, or none at all (`-1` in the file).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Unlimited,
    At(u64),
}

/// An rlimit of every container, unless it brings its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// As in `ulimit`: `nofile`, `nproc`, …
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvVariable {
    pub name: String,
    pub value: String,
}

/// Who makes the cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupManager {
    Cgroupfs,
    Systemd,
}

/// Where the cgroups of monitors are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MonitorCgroup {
    /// Beside those of the containers.
    Pod,
    /// A scope each, in a slice.
    Slice(Slice),
    /// Leaves of one scope that systemd has delegated: it is not asked for each.
    Delegated,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeType {
    Oci,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Docker,
}

/// What becomes of a name without a registry that several registries may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShortNameMode {
    /// It is refused.
    Enforcing,
    /// They are tried one after the other.
    Disabled,
}

/// What becomes of the VOLUMEs that an image declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageVolumes {
    Mkdir,
    Bind,
    Ignore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Setting for CgroupManager {
    fn read(value: &Value) -> Result<Self, String> {
        let words = [
            ("cgroupfs", CgroupManager::Cgroupfs),
            ("systemd", CgroupManager::Systemd),
        ];
        one_of(value, &words)
    }
    fn write(&self) -> String {
        value::quote(match self {
            CgroupManager::Cgroupfs => "cgroupfs",
            CgroupManager::Systemd => "systemd",
        })
    }
}

impl Setting for MonitorCgroup {
    fn read(value: &Value) -> Result<Self, String> {
        match value.text()? {
            "" | "pod" => Ok(MonitorCgroup::Pod),
            "delegated" => Ok(MonitorCgroup::Delegated),
            slice if slice.ends_with(".slice") => Slice::parse(slice)
                .map(MonitorCgroup::Slice)
                .map_err(|error| error.to_string()),
            other => Err(format!(
                "{other:?} is not \"pod\", \"delegated\" or a slice of systemd's"
            )),
        }
    }
    fn write(&self) -> String {
        match self {
            MonitorCgroup::Pod => value::quote("pod"),
            MonitorCgroup::Delegated => value::quote("delegated"),
            MonitorCgroup::Slice(slice) => value::quote(&slice.to_string()),
        }
    }
}

impl Setting for RuntimeType {
    fn read(value: &Value) -> Result<Self, String> {
        match one_of(value, &[("", "oci"), ("oci", "oci"), ("vm", "vm"), ("pod", "pod")])? {
            "oci" => Ok(RuntimeType::Oci),
            other => Err(format!("handlers of type {other:?} are not supported; use \"oci\"")),
        }
    }
    fn write(&self) -> String {
        match self {
            RuntimeType::Oci => value::quote("oci"),
        }
    }
}

impl Setting for Transport {
    fn read(value: &Value) -> Result<Self, String> {
        one_of(value, &[("docker://", Transport::Docker)])
    }
    fn write(&self) -> String {
        match self {
            Transport::Docker => value::quote("docker://"),
        }
    }
}

impl Setting for ShortNameMode {
    fn read(value: &Value) -> Result<Self, String> {
        let words = [
            ("enforcing", ShortNameMode::Enforcing),
            ("disabled", ShortNameMode::Disabled),
        ];
        one_of(value, &words)
    }
    fn write(&self) -> String {
        value::quote(match self {
            ShortNameMode::Enforcing => "enforcing",
            ShortNameMode::Disabled => "disabled",
        })
    }
}

impl Setting for ImageVolumes {
    fn read(value: &Value) -> Result<Self, String> {
        let words = [
            ("mkdir", ImageVolumes::Mkdir),
            ("bind", ImageVolumes::Bind),
            ("ignore", ImageVolumes::Ignore),
        ];
        one_of(value, &words)
    }
    fn write(&self) -> String {
        value::quote(match self {
            ImageVolumes::Mkdir => "mkdir",
            ImageVolumes::Bind => "bind",
            ImageVolumes::Ignore => "ignore",
        })
    }
}

impl Setting for Trust {
    fn read(value: &Value) -> Result<Self, String> {
        one_of(value, &[("trusted", Trust::Trusted), ("untrusted", Trust::Untrusted)])
    }
    fn write(&self) -> String {
        value::quote(match self {
            Trust::Trusted => "trusted",
            Trust::Untrusted => "untrusted",
        })
    }
}

impl Setting for LogFormat {
    fn read(value: &Value) -> Result<Self, String> {
        one_of(value, &[("text", LogFormat::Text), ("json", LogFormat::Json)])
    }
    fn write(&self) -> String {
        value::quote(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}

impl Setting for LogLevel {
    /// CRI-O also has `fatal` and `panic`; nothing of ours is above `error`.
    fn read(value: &Value) -> Result<Self, String> {
        let words = [
            ("fatal", LogLevel::Error),
            ("panic", LogLevel::Error),
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("trace", LogLevel::Trace),
        ];
        one_of(value, &words)
    }
    fn write(&self) -> String {
        value::quote(self.as_str())
    }
}

impl LogLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Default,
    File { path: PathBuf, line: usize },
    Environment(String),
    Flag(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Default => write!(f, "built-in default"),
            Place::File { path, line } => write!(f, "{}:{line}", path.display()),
            Place::Environment(name) => write!(f, "environment variable {name}"),
            Place::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// Something that the operator should know, and that does not stop the start. Returned, because the configuration is
/// read before the log it configures is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub place: Place,
    pub key: String,
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.key, self.message)
    }
}

/// Says them in the log.
pub fn log_warnings(warnings: Vec<Warning>) {
    for warning in warnings {
        tracing::warn!(place = %warning.place, key = warning.key, "configuration: {}", warning.message);
    }
}

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{}: can't be read: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{place}: not valid TOML: {reason}")]
    NotToml { place: Place, reason: String },
    #[error("{place}: {key}: {reason}")]
    WrongValue { place: Place, key: String, reason: String },
}
