//! Request → plan: every string from outside is looked at here, once. The only source of INVALID_ARGUMENT.

use crate::model::container::{ContainerPlan, DevicePlan, MountPlan, Propagation, Resources};
use crate::model::name::{ContainerMetadata, NAME_BYTES, Pairs, PodMetadata};
use crate::model::sandbox::{Dns, PortMapping, PortProtocol, SandboxPlan};
use crate::model::security::{GroupsPolicy, NamespaceMode, Namespaces, Profile, RunAs, Security, SelinuxOptions};
use crate::model::{ContainerId, SandboxId, Timestamp, signal};
use crate::spec::{self, ContainerPath};
use cri::v1;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use tonic::Status;

/// What a parser returns: the value, or what is wrong with which field.
pub type Parsed<T> = Result<T, Box<Status>>;

/// Longest host name, in bytes: what the kernel takes.
const HOSTNAME_BYTES: usize = 64;

/// Longest file name and path, in bytes, the closing NUL of a path included: what the kernel takes.
const FILE_NAME_BYTES: usize = 255;
const PATH_BYTES: usize = 4096;

/// Limits of `oom_score_adj`.
const OOM_SCORE: std::ops::RangeInclusive<i64> = -1000..=1000;

/// The largest uid or gid.
const LAST_UID: i64 = crate::spec::user::ID_MAX as i64;

fn wrong(field: &str, why: impl std::fmt::Display) -> Box<Status> {
    Box::new(Status::invalid_argument(format!("{field}: {why}")))
}

fn required<T>(field: &str, value: Option<T>) -> Parsed<T> {
    value.ok_or_else(|| wrong(field, "missing"))
}

/// An id, or the unique beginning of one. Whether it exists is for the registry to say.
pub fn id(field: &str, value: String) -> Parsed<String> {
    if value.is_empty() {
        Err(wrong(field, "empty"))
    } else {
        Ok(value)
    }
}

/// A part of a name: it becomes a file's name in logs and a word in others.
fn name(field: &str, value: String) -> Parsed<String> {
    if value.is_empty() {
        return Err(wrong(field, "empty"));
    }
    if value.len() > NAME_BYTES {
        return Err(wrong(field, format!("longer than {NAME_BYTES} bytes")));
    }
    if value == "." || value == ".." || value.contains('/') || value.chars().any(char::is_control) {
        return Err(wrong(
            field,
            format!("{value:?} is not a name: no slash, no control character, not . or .."),
        ));
    }
    Ok(value)
}

fn no_nul(field: &str, value: String) -> Parsed<String> {
    if value.contains('\0') {
        Err(wrong(field, "holds a NUL"))
    } else {
        Ok(value)
    }
}

/// An absolute path of the host without `..`.
pub fn absolute(field: &str, value: String) -> Parsed<PathBuf> {
    let path = PathBuf::from(no_nul(field, value)?);
    if !path.is_absolute() {
        return Err(wrong(field, format!("{} is not an absolute path", path.display())));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(wrong(field, format!("{} holds ..", path.display())));
    }
    Ok(path)
}

fn pairs(values: HashMap<String, String>) -> Pairs {
    values.into_iter().collect()
}

fn enum_value<E: TryFrom<i32>>(field: &str, value: i32) -> Parsed<E> {
    E::try_from(value).map_err(|_| wrong(field, format!("unknown value {value}")))
}

fn pod_metadata(metadata: Option<v1::PodSandboxMetadata>) -> Parsed<PodMetadata> {
    let metadata = required("metadata", metadata)?;
    Ok(PodMetadata {
        name: name("metadata.name", metadata.name)?,
        uid: name("metadata.uid", metadata.uid)?,
        namespace: name("metadata.namespace", metadata.namespace)?,
        attempt: metadata.attempt,
    })
}

fn container_metadata(metadata: Option<v1::ContainerMetadata>) -> Parsed<ContainerMetadata> {
    let metadata = required("config.metadata", metadata)?;
    Ok(ContainerMetadata {
        name: name("config.metadata.name", metadata.name)?,
        attempt: metadata.attempt,
    })
}

fn namespaces(options: Option<v1::NamespaceOption>) -> Parsed<Namespaces> {
    let options = options.unwrap_or_default();
    if let Some(user) = options.userns_options
        && enum_value::<v1::NamespaceMode>("userns_options.mode", user.mode)? != v1::NamespaceMode::Node
    {
        return Err(wrong(
            "userns_options.mode",
            "user namespaces are not supported by this version",
        ));
    }
    let mode = |field: &str, value: i32| -> Parsed<NamespaceMode> {
        Ok(match enum_value::<v1::NamespaceMode>(field, value)? {
            v1::NamespaceMode::Pod => NamespaceMode::Pod,
            v1::NamespaceMode::Container => NamespaceMode::Container,
            v1::NamespaceMode::Node => NamespaceMode::Node,
            v1::NamespaceMode::Target => NamespaceMode::Target(options.target_id.clone()),
        })
    };
    let shared = |field: &str, value: i32| match mode(field, value)? {
        shared @ (NamespaceMode::Pod | NamespaceMode::Node) => Ok(shared),
        NamespaceMode::Container | NamespaceMode::Target(_) => Err(wrong(field, "only POD or NODE")),
    };
    Ok(Namespaces {
        network: shared("namespace_options.network", options.network)?,
        pid: match mode("namespace_options.pid", options.pid)? {
            NamespaceMode::Target(target) if target.is_empty() => {
                return Err(wrong("namespace_options.target_id", "empty"));
            }
            pid => pid,
        },
        ipc: shared("namespace_options.ipc", options.ipc)?,
    })
}

fn selinux(options: Option<v1::SeLinuxOption>) -> SelinuxOptions {
    let options = options.unwrap_or_default();
    SelinuxOptions {
        user: options.user,
        role: options.role,
        type_: options.r#type,
        level: options.level,
    }
}

/// RunPodSandbox.
pub fn run_pod_sandbox(
    request: v1::RunPodSandboxRequest,
    random: [u8; 32],
    created_at: Timestamp,
) -> Parsed<SandboxPlan> {
    let config = required("config", request.config)?;
    let metadata = pod_metadata(config.metadata)?;
    let linux = config.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let namespaces = namespaces(security.namespace_options)?;
    if matches!(namespaces.pid, NamespaceMode::Target(_)) {
        return Err(wrong("namespace_options.pid", "TARGET is for containers"));
    }
    let host_network = namespaces.network == NamespaceMode::Node;
    let handler = request.runtime_handler;
    if handler.len() > NAME_BYTES || handler.chars().any(|c| c.is_control() || c == '/') {
        return Err(wrong("runtime_handler", "not a handler's name"));
    }
    let hostname = hostname(config.hostname)?;
    Ok(SandboxPlan {
        id: SandboxId::from_bytes(random),
        // A pod always has a name to itself; without one asked for, it is called like the pod.
        hostname: if host_network || !hostname.is_empty() {
            hostname
        } else {
            shortened(&metadata.name)
        },
        metadata,
        log_directory: match config.log_directory {
            none if none.is_empty() => None,
            directory => Some(absolute("log_directory", directory)?),
        },
        dns: config.dns_config.map(dns).transpose()?,
        port_mappings: port_mappings(config.port_mappings)?,
        labels: pairs(config.labels),
        annotations: pairs(config.annotations),
        cgroup_parent: no_nul("linux.cgroup_parent", linux.cgroup_parent)?,
        sysctls: sysctls(linux.sysctls, &namespaces)?,
        namespaces,
        privileged: security.privileged,
        selinux: selinux(security.selinux_options),
        runtime_handler: handler,
        created_at,
    })
}

fn shortened(name: &str) -> String {
    name.chars()
        .take(HOSTNAME_BYTES - 1)
        .collect::<String>()
        .trim_end_matches(['.', '-'])
        .to_owned()
}

fn hostname(value: String) -> Parsed<String> {
    let fits = value
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    if value.len() > HOSTNAME_BYTES || !fits {
        return Err(wrong(
            "hostname",
            format!("at most {HOSTNAME_BYTES} letters, digits, dots and hyphens"),
        ));
    }
    Ok(value)
}

fn dns(config: v1::DnsConfig) -> Parsed<Dns> {
    let words = |field: &str, values: Vec<String>| -> Parsed<Vec<String>> {
        match values
            .iter()
            .find(|word| word.is_empty() || word.contains(|c: char| c.is_whitespace() || c.is_control()))
        {
            Some(word) => Err(wrong(field, format!("{word:?} is not one word"))),
            None => Ok(values),
        }
    };
    Ok(Dns {
        servers: words("dns_config.servers", config.servers)?,
        searches: words("dns_config.searches", config.searches)?,
        options: words("dns_config.options", config.options)?,
    })
}

fn port_mappings(mappings: Vec<v1::PortMapping>) -> Parsed<Vec<PortMapping>> {
    let port = |field: &str, value: i32| u16::try_from(value).map_err(|_| wrong(field, format!("{value} is no port")));
    let mut parsed = Vec::new();
    for mapping in mappings {
        let host_port = port("port_mappings.host_port", mapping.host_port)?;
        let container_port = port("port_mappings.container_port", mapping.container_port)?;
        let protocol = match enum_value::<v1::Protocol>("port_mappings.protocol", mapping.protocol)? {
            v1::Protocol::Tcp => PortProtocol::Tcp,
            v1::Protocol::Udp => PortProtocol::Udp,
            v1::Protocol::Sctp => PortProtocol::Sctp,
        };
        let host_ip = match mapping.host_ip.as_str() {
            "" => None,
            ip => Some(
                ip.parse()
                    .map_err(|_| wrong("port_mappings.host_ip", format!("{ip:?} is no address")))?,
            ),
        };
        // The kubelet also lists ports that are not mapped.
        if host_port == 0 {
            continue;
        }
        if container_port == 0 {
            return Err(wrong("port_mappings.container_port", "0 is no port"));
        }
        parsed.push(PortMapping {
            protocol,
            container_port,
            host_port,
            host_ip,
        });
    }
    Ok(parsed)
}

/// Only what a namespace of the pod holds: on the host's namespaces these would be settings of the host.
fn sysctls(values: HashMap<String, String>, namespaces: &Namespaces) -> Parsed<Pairs> {
    for (key, value) in &values {
        let host_namespace = match key.split('.').next() {
            Some("net") => namespaces.network == NamespaceMode::Node,
            Some("kernel" | "fs") => namespaces.ipc == NamespaceMode::Node,
            _ => false,
        };
        if host_namespace {
            return Err(wrong(
                "linux.sysctls",
                format!("{key:?} would change the host: the pod shares its namespace"),
            ));
        }
        if value.contains(|c: char| c.is_control()) {
            return Err(wrong(
                "linux.sysctls",
                format!("the value of {key:?} holds a control character"),
            ));
        }
    }
    Ok(pairs(values))
}

/// CreateContainer, but for its sandbox, which gives the rest.
pub fn create_container(
    request: v1::CreateContainerRequest,
    sandbox: &SandboxPlan,
    random: [u8; 32],
    created_at: Timestamp,
) -> Parsed<ContainerPlan> {
    let config = required("config", request.config)?;
    let metadata = container_metadata(config.metadata)?;
    let image = required("config.image", config.image)?;
    if image.image.is_empty() {
        return Err(wrong("config.image.image", "empty"));
    }
    let linux = config.linux.unwrap_or_default();
    let security = match linux.security_context {
        Some(asked) => security(asked)?,
        None => unspoken_security()?,
    };
    if security.privileged && !sandbox.privileged {
        return Err(wrong(
            "linux.security_context.privileged",
            "the pod sandbox is not privileged",
        ));
    }
    if !config.cdi_devices.is_empty() {
        return Err(wrong("config.cdi_devices", "not supported by this version"));
    }
    let words = |field: &str, values: Vec<String>| -> Parsed<Vec<String>> {
        values.into_iter().map(|word| no_nul(field, word)).collect()
    };
    let stop_signal = match enum_value::<v1::Signal>("config.stop_signal", config.stop_signal)? {
        v1::Signal::RuntimeDefault => None,
        asked => Some(
            signal::number(asked.as_str_name())
                .ok_or_else(|| wrong("config.stop_signal", format!("{} is unknown", asked.as_str_name())))?,
        ),
    };
    Ok(ContainerPlan {
        id: ContainerId::from_bytes(random),
        sandbox_id: sandbox.id.clone(),
        metadata,
        pod: sandbox.metadata.clone(),
        image: image.image,
        user_specified_image: image.user_specified_image,
        command: words("config.command", config.command)?,
        args: words("config.args", config.args)?,
        working_dir: no_nul("config.working_dir", config.working_dir)?,
        envs: envs(config.envs)?,
        mounts: config.mounts.into_iter().map(mount).collect::<Parsed<_>>()?,
        devices: config.devices.into_iter().map(device).collect::<Parsed<_>>()?,
        labels: pairs(config.labels),
        annotations: pairs(config.annotations),
        log_path: log_path(sandbox.log_directory.as_deref(), &config.log_path)?,
        log_path_asked: config.log_path,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        resources: linux.resources.map(resources).transpose()?.unwrap_or_default(),
        security,
        stop_signal,
        created_at,
    })
}

fn envs(values: Vec<v1::KeyValue>) -> Parsed<Vec<(String, String)>> {
    let field = "config.envs";
    let pair = |env: v1::KeyValue| {
        if env.key.is_empty() || env.key.contains('=') {
            return Err(wrong(field, format!("{:?} is not a variable's name", env.key)));
        }
        let value = String::from_utf8(env.value).map_err(|_| wrong(field, format!("{} is not UTF-8", env.key)))?;
        Ok((no_nul(field, env.key)?, no_nul(field, value)?))
    };
    values.into_iter().map(pair).collect()
}

/// Below the pod's log directory, and nowhere else.
fn log_path(directory: Option<&Path>, asked: &str) -> Parsed<Option<PathBuf>> {
    let Some(directory) = directory.filter(|_| !asked.is_empty()) else {
        return Ok(None);
    };
    let relative = Path::new(asked);
    let plain = relative.components().all(|part| match part {
        Component::Normal(name) => name.len() <= FILE_NAME_BYTES,
        Component::CurDir => true,
        Component::Prefix(_) | Component::RootDir | Component::ParentDir => false,
    });
    let plain = plain && directory.as_os_str().len() + asked.len() < PATH_BYTES;
    if !plain || asked.contains(|c: char| c.is_control()) || asked.ends_with('/') {
        return Err(wrong(
            "config.log_path",
            format!("{asked:?} is not a file below the pod's log directory"),
        ));
    }
    Ok(Some(directory.join(relative)))
}

fn mount(mount: v1::Mount) -> Parsed<MountPlan> {
    let field = "config.mounts";
    if mount.image.is_some_and(|image| !image.image.is_empty()) {
        return Err(wrong(field, "image volumes are not supported by this version"));
    }
    if mount.recursive_read_only {
        return Err(wrong(
            field,
            "recursive read-only mounts are not supported by this version",
        ));
    }
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(wrong(field, "id-mapped mounts are not supported by this version"));
    }
    let container_path = no_nul("config.mounts.container_path", mount.container_path)?;
    if !container_path.starts_with('/') {
        return Err(wrong(
            "config.mounts.container_path",
            format!("{container_path:?} is not an absolute path"),
        ));
    }
    Ok(MountPlan {
        container_path,
        host_path: absolute("config.mounts.host_path", mount.host_path)?,
        readonly: mount.readonly,
        propagation: match enum_value::<v1::MountPropagation>("config.mounts.propagation", mount.propagation)? {
            v1::MountPropagation::PropagationPrivate => Propagation::Private,
            v1::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
            v1::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
        },
        selinux_relabel: mount.selinux_relabel,
    })
}

fn device(device: v1::Device) -> Parsed<DevicePlan> {
    let permissions = if device.permissions.is_empty() {
        "rwm".to_owned()
    } else {
        device.permissions
    };
    if !permissions.chars().all(|c| matches!(c, 'r' | 'w' | 'm')) {
        return Err(wrong(
            "config.devices.permissions",
            format!("{permissions:?}: any of r, w and m"),
        ));
    }
    let host_path = absolute("config.devices.host_path", device.host_path.clone())?;
    let container_path = if device.container_path.is_empty() {
        device.host_path
    } else {
        device.container_path
    };
    absolute("config.devices.container_path", container_path.clone())?;
    Ok(DevicePlan {
        container_path,
        host_path,
        permissions,
    })
}

fn resources(asked: v1::LinuxContainerResources) -> Parsed<Resources> {
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
        unified: pairs(asked.unified),
    })
}

fn security(asked: v1::LinuxContainerSecurityContext) -> Parsed<Security> {
    let field = |name: &str| format!("linux.security_context.{name}");
    let uid = |name: &str, value: i64| {
        if (0..=LAST_UID).contains(&value) {
            u32::try_from(value).map_err(|_| wrong(&field(name), format!("{value} is no id")))
        } else {
            Err(wrong(&field(name), format!("{value} is not within 0 and {LAST_UID}")))
        }
    };
    let run_as = match (asked.run_as_user, asked.run_as_username.as_str()) {
        (None, "") => RunAs::Image,
        (Some(user), "") => RunAs::Uid(uid("run_as_user", user.value)?),
        (None, name) => RunAs::Name(no_nul(&field("run_as_username"), name.to_owned())?),
        (Some(_), _) => return Err(wrong(&field("run_as_username"), "set together with run_as_user")),
    };
    let run_as_group = asked
        .run_as_group
        .map(|group| uid("run_as_group", group.value))
        .transpose()?;
    if run_as_group.is_some() && run_as == RunAs::Image {
        return Err(wrong(
            &field("run_as_group"),
            "set without run_as_user or run_as_username",
        ));
    }
    let policy = "supplemental_groups_policy";
    let groups_policy =
        match enum_value::<v1::SupplementalGroupsPolicy>(&field(policy), asked.supplemental_groups_policy)? {
            v1::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
            v1::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
        };
    let capabilities = asked.capabilities.unwrap_or_default();
    let groups = asked.supplemental_groups.into_iter();
    Ok(Security {
        privileged: asked.privileged,
        readonly_rootfs: asked.readonly_rootfs,
        no_new_privs: asked.no_new_privs,
        run_as,
        run_as_group,
        supplemental_groups: groups
            .map(|group| uid("supplemental_groups", group))
            .collect::<Parsed<_>>()?,
        groups_policy,
        add_capabilities: capabilities.add_capabilities,
        drop_capabilities: capabilities.drop_capabilities,
        add_ambient_capabilities: capabilities.add_ambient_capabilities,
        namespaces: namespaces(asked.namespace_options)?,
        seccomp: profile(&field("seccomp"), asked.seccomp)?,
        apparmor: profile(&field("apparmor"), asked.apparmor)?,
        selinux: selinux(asked.selinux_options),
        masked_paths: asked.masked_paths,
        readonly_paths: asked.readonly_paths,
    })
}

/// Nothing asked for: nothing of the node is shown. With a security context, its own lists count, empty ones too.
fn unspoken_security() -> Parsed<Security> {
    let texts = |paths: Vec<ContainerPath>| paths.iter().map(|path| path.as_str().to_owned()).collect();
    Ok(Security {
        masked_paths: texts(spec::security::default_masked_paths()),
        readonly_paths: texts(spec::security::default_readonly_paths()),
        ..security(v1::LinuxContainerSecurityContext::default())?
    })
}

/// No profile means none: so the field has it.
fn profile(field: &str, asked: Option<v1::SecurityProfile>) -> Parsed<Profile> {
    use v1::security_profile::ProfileType;
    let Some(asked) = asked else {
        return Ok(Profile::Unconfined);
    };
    Ok(match enum_value::<ProfileType>(field, asked.profile_type)? {
        ProfileType::RuntimeDefault => Profile::RuntimeDefault,
        ProfileType::Unconfined => Profile::Unconfined,
        ProfileType::Localhost if asked.localhost_ref.is_empty() => {
            return Err(wrong(field, "a localhost profile without a name"));
        }
        ProfileType::Localhost => Profile::Localhost(no_nul(field, asked.localhost_ref)?),
    })
}

/// StopContainer: id and grace.
pub fn stop_container(request: v1::StopContainerRequest) -> Parsed<(String, Duration)> {
    let grace =
        u64::try_from(request.timeout).map_err(|_| wrong("timeout", format!("{} is negative", request.timeout)))?;
    Ok((id("container_id", request.container_id)?, Duration::from_secs(grace)))
}

/// ExecSync: id, command, and the time-out, 0 for none.
pub fn exec_sync(request: v1::ExecSyncRequest) -> Parsed<(String, Vec<String>, Option<Duration>)> {
    let seconds =
        u64::try_from(request.timeout).map_err(|_| wrong("timeout", format!("{} is negative", request.timeout)))?;
    // The monitor counts seconds in 31 bits.
    let timeout = (seconds != 0).then(|| Duration::from_secs(seconds.min(i32::MAX as u64)));
    if request.cmd.is_empty() || request.cmd.first().is_some_and(String::is_empty) {
        return Err(wrong("cmd", "empty"));
    }
    let command = request
        .cmd
        .into_iter()
        .map(|word| no_nul("cmd", word))
        .collect::<Parsed<_>>()?;
    Ok((id("container_id", request.container_id)?, command, timeout))
}

/// Which objects a list asks for.
#[derive(Debug, Default)]
pub struct Filter {
    /// Beginning of the id; empty matches all.
    pub id: String,
    /// Beginning of the sandbox's id; empty matches all.
    pub sandbox_id: String,
    /// CRI's number of the state.
    pub state: Option<i32>,
    /// Labels that must all be there with these values.
    pub labels: Pairs,
}

impl Filter {
    /// Whether an object is asked for.
    pub fn matches(&self, id: &str, sandbox_id: &str, state: i32, labels: &Pairs) -> bool {
        id.starts_with(&self.id)
            && sandbox_id.starts_with(&self.sandbox_id)
            && self.state.is_none_or(|asked| asked == state)
            && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// ListPodSandbox.
pub fn sandbox_filter(filter: Option<v1::PodSandboxFilter>) -> Parsed<Filter> {
    let filter = filter.unwrap_or_default();
    let state = filter
        .state
        .map(|state| enum_value::<v1::PodSandboxState>("filter.state", state.state))
        .transpose()?;
    Ok(Filter {
        id: filter.id,
        sandbox_id: String::new(),
        state: state.map(i32::from),
        labels: pairs(filter.label_selector),
    })
}

/// ListContainers.
pub fn container_filter(filter: Option<v1::ContainerFilter>) -> Parsed<Filter> {
    let filter = filter.unwrap_or_default();
    let state = filter
        .state
        .map(|state| enum_value::<v1::ContainerState>("filter.state", state.state))
        .transpose()?;
    Ok(Filter {
        id: filter.id,
        sandbox_id: filter.pod_sandbox_id,
        state: state.map(i32::from),
        labels: pairs(filter.label_selector),
    })
}

/// The image that a request names; never empty.
pub fn image(spec: Option<v1::ImageSpec>) -> Parsed<String> {
    let image = required("image", spec)?.image;
    if image.is_empty() {
        Err(wrong("image.image", "empty"))
    } else {
        Ok(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn now() -> Timestamp {
        Timestamp::from_nanos(1)
    }

    fn pod() -> v1::RunPodSandboxRequest {
        v1::RunPodSandboxRequest {
            config: Some(v1::PodSandboxConfig {
                metadata: Some(v1::PodSandboxMetadata {
                    name: "pod".into(),
                    uid: "uid".into(),
                    namespace: "default".into(),
                    attempt: 2,
                }),
                log_directory: "/var/log/pods/x".into(),
                ..Default::default()
            }),
            runtime_handler: String::new(),
        }
    }

    fn container() -> v1::CreateContainerRequest {
        v1::CreateContainerRequest {
            pod_sandbox_id: "x".into(),
            config: Some(v1::ContainerConfig {
                metadata: Some(v1::ContainerMetadata {
                    name: "main".into(),
                    attempt: 0,
                }),
                image: Some(v1::ImageSpec {
                    image: "image".into(),
                    ..Default::default()
                }),
                log_path: "main/0.log".into(),
                ..Default::default()
            }),
            sandbox_config: None,
        }
    }

    fn parsed_pod(change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Parsed<SandboxPlan> {
        let mut request = pod();
        change(request.config.as_mut().unwrap());
        run_pod_sandbox(request, [1; 32], now())
    }

    fn parsed_container(change: impl FnOnce(&mut v1::ContainerConfig)) -> Parsed<ContainerPlan> {
        let mut request = container();
        change(request.config.as_mut().unwrap());
        create_container(request, &parsed_pod(|_| ()).unwrap(), [2; 32], now())
    }

    fn refused<T: std::fmt::Debug>(outcome: Parsed<T>, word: &str) {
        let status = outcome.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains(word), "{:?} says {word:?}", status.message());
    }

    #[test]
    fn a_plain_pod_and_container_pass() {
        let pod = parsed_pod(|_| ()).unwrap();
        assert_eq!((pod.hostname.as_str(), pod.metadata.attempt), ("pod", 2));
        let container = parsed_container(|_| ()).unwrap();
        assert_eq!(container.log_path.unwrap(), Path::new("/var/log/pods/x/main/0.log"));
        assert!(
            !container.security.masked_paths.is_empty(),
            "without a security context nothing of the node is shown"
        );
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for bad in ["", ".", "..", "a/b", "a\0b", "a\nb", &"a".repeat(10_000)] {
            refused(
                parsed_pod(|pod| pod.metadata.as_mut().unwrap().name = bad.into()),
                "metadata.name",
            );
            refused(
                parsed_pod(|pod| pod.metadata.as_mut().unwrap().uid = bad.into()),
                "metadata.uid",
            );
            refused(
                parsed_pod(|pod| pod.metadata.as_mut().unwrap().namespace = bad.into()),
                "metadata.namespace",
            );
            refused(
                parsed_container(|c| c.metadata.as_mut().unwrap().name = bad.into()),
                "metadata.name",
            );
        }
        refused(parsed_pod(|pod| pod.metadata = None), "missing");
        refused(parsed_container(|c| c.metadata = None), "missing");
        refused(parsed_container(|c| c.image = None), "missing");
    }

    #[test]
    fn logs_stay_below_the_directory_of_the_pod() {
        for bad in ["../x", "a/../../x", "/etc/passwd", "a\0b", "a\nb", "dir/"] {
            refused(parsed_container(|c| c.log_path = bad.into()), "log_path");
        }
        refused(parsed_pod(|pod| pod.log_directory = "relative".into()), "log_directory");
        refused(
            parsed_pod(|pod| pod.log_directory = "/var/../etc".into()),
            "log_directory",
        );
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let security = |change: fn(&mut v1::LinuxContainerSecurityContext)| {
            parsed_container(|c| {
                let linux = c.linux.get_or_insert_default();
                change(linux.security_context.get_or_insert_default());
            })
        };
        refused(
            security(|s| s.run_as_user = Some(v1::Int64Value { value: -1 })),
            "run_as_user",
        );
        refused(
            security(|s| s.run_as_user = Some(v1::Int64Value { value: 4_294_967_296 })),
            "run_as_user",
        );
        refused(
            security(|s| s.run_as_user = Some(v1::Int64Value { value: i64::MAX })),
            "run_as_user",
        );
        refused(
            security(|s| s.run_as_group = Some(v1::Int64Value { value: 5 })),
            "without run_as_user",
        );
        refused(security(|s| s.supplemental_groups = vec![-5]), "supplemental_groups");
        let resources = |change: fn(&mut v1::LinuxContainerResources)| {
            parsed_container(|c| change(c.linux.get_or_insert_default().resources.get_or_insert_default()))
        };
        refused(resources(|r| r.oom_score_adj = 1001), "oom_score_adj");
        refused(resources(|r| r.cpu_shares = -1), "cpu_shares");
        refused(resources(|r| r.memory_limit_in_bytes = -2), "memory_limit");
        refused(resources(|r| r.cpuset_cpus = "0-1;x".into()), "cpuset_cpus");
        let port = |host_port, container_port| {
            parsed_pod(|pod| {
                pod.port_mappings = vec![v1::PortMapping {
                    host_port,
                    container_port,
                    ..Default::default()
                }];
            })
        };
        refused(port(70_000, 80), "host_port");
        refused(port(-1, 80), "host_port");
        refused(port(80, 0), "container_port");
        assert!(port(0, 80).unwrap().port_mappings.is_empty(), "not mapped");
        refused(
            stop_container(v1::StopContainerRequest {
                container_id: "x".into(),
                timeout: -1,
            }),
            "timeout",
        );
        refused(
            stop_container(v1::StopContainerRequest {
                container_id: String::new(),
                timeout: 1,
            }),
            "empty",
        );
    }

    #[test]
    fn unknown_enum_values_are_refused() {
        refused(parsed_container(|c| c.stop_signal = 4711), "stop_signal");
        refused(
            parsed_pod(|pod| {
                let security = pod
                    .linux
                    .get_or_insert_default()
                    .security_context
                    .get_or_insert_default();
                security.namespace_options = Some(v1::NamespaceOption {
                    network: 17,
                    ..Default::default()
                });
            }),
            "network",
        );
        refused(
            sandbox_filter(Some(v1::PodSandboxFilter {
                state: Some(v1::PodSandboxStateValue { state: 9 }),
                ..Default::default()
            })),
            "state",
        );
    }

    #[test]
    fn settings_of_the_host_are_out_of_reach() {
        let on_the_host = |key: &str| {
            let key = key.to_owned();
            parsed_pod(move |pod| {
                let linux = pod.linux.get_or_insert_default();
                linux.sysctls.insert(key, "1".into());
                let node = v1::NamespaceMode::Node.into();
                linux.security_context.get_or_insert_default().namespace_options = Some(v1::NamespaceOption {
                    network: node,
                    ipc: node,
                    ..Default::default()
                });
            })
        };
        refused(on_the_host("net.ipv4.ip_forward"), "change the host");
        refused(on_the_host("kernel.shmmax"), "change the host");
        refused(
            parsed_pod(|pod| {
                pod.linux
                    .get_or_insert_default()
                    .sysctls
                    .insert("net.core.somaxconn".into(), "1\n2".into());
            }),
            "control character",
        );
        refused(
            parsed_container(|c| {
                let linux = c.linux.get_or_insert_default();
                linux.security_context.get_or_insert_default().privileged = true;
            }),
            "not privileged",
        );
    }

    proptest! {
        #[test]
        fn a_log_never_leaves_its_directory(path in "[a./\\\\]{0,12}|.{0,40}") {
            if let Ok(Some(parsed)) = log_path(Some(Path::new("/logs")), &path) {
                prop_assert!(parsed.starts_with("/logs"));
                prop_assert!(!parsed.components().any(|part| part == Component::ParentDir));
            }
        }
    }
}
