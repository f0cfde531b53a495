//! Every key: where it stands, the sentence that explains it, how it enters [`Config`] and how it is printed. Reading,
//! flags, environment and `crio-manager config` all walk these lists.

use super::value::{
    Setting, Value, bytes, log_size, message_size, port, program, seconds, socket, stream_address, stream_idle_timeout,
    stream_port, sysctls,
};
use super::{Config, RuntimeHandler};

/// A key of the daemon.
pub struct Key {
    pub table: &'static str,
    pub name: &'static str,
    pub sentence: &'static str,
    /// CRI-O's name on the command line where it is not the key's own.
    other_flag: Option<&'static str>,
    pub(super) read: fn(&mut Config, &Value) -> Result<(), String>,
    pub(super) write: fn(&Config) -> String,
}

/// A key of one runtime handler.
pub struct HandlerKey {
    pub name: &'static str,
    pub sentence: &'static str,
    pub(super) read: fn(&mut RuntimeHandler, &Value) -> Result<(), String>,
    pub(super) write: fn(&RuntimeHandler) -> String,
}

impl Key {
    /// The name with its tables: `crio.runtime.log_level`.
    pub fn path(&self) -> String {
        format!("{}.{}", self.table, self.name)
    }

    pub fn flag(&self) -> String {
        self.other_flag
            .map_or_else(|| self.name.replace('_', "-"), str::to_owned)
    }

    pub fn environment(&self) -> String {
        format!("CONTAINER_{}", self.flag().replace('-', "_").to_ascii_uppercase())
    }

    /// Whether a reload is enough for a change of it.
    pub fn is_live(&self) -> bool {
        LIVE.contains(&(self.table, self.name))
    }

    /// The sentence, and what a change of the key needs.
    pub fn explanation(&self) -> String {
        let needs = if self.is_live() {
            " Live: a reload is enough."
        } else {
            ""
        };
        format!("{}{needs}", self.sentence)
    }

    /// Whether the flag may stand without a value, for `true`.
    pub fn is_switch(&self) -> bool {
        matches!((self.write)(&Config::default()).as_str(), "true" | "false")
    }
}

/// What the command line and the environment can set.
pub fn command_line_keys() -> impl Iterator<Item = &'static Key> {
    KEYS.iter()
}

/// The keys that differ between two configurations and that no reload changes.
pub fn restart_needed(running: &Config, new: &Config) -> Vec<String> {
    let keys = KEYS.iter().filter(|key| !key.is_live());
    let mut differ: Vec<_> = keys
        .filter(|key| (key.write)(running) != (key.write)(new))
        .map(Key::path)
        .collect();
    if running.runtimes != new.runtimes {
        differ.push("crio.runtime.runtimes".to_owned());
    }
    differ
}

macro_rules! key {
    ($table:literal, $name:literal, $part:ident.$field:ident, $sentence:literal $(, flag $flag:literal)?) => {
        Key {
            table: $table,
            name: $name,
            sentence: $sentence,
            other_flag: key!(@flag $($flag)?),
            read: |config, value| { config.$part.$field = Setting::read(value)?; Ok(()) },
            write: |config| config.$part.$field.write(),
        }
    };
    ($table:literal, $name:literal, $part:ident.$field:ident as $codec:ident, $sentence:literal) => {
        Key {
            table: $table,
            name: $name,
            sentence: $sentence,
            other_flag: None,
            read: |config, value| { config.$part.$field = $codec::read(value)?; Ok(()) },
            write: |config| $codec::write(&config.$part.$field),
        }
    };
    (@flag) => { None };
    (@flag $flag:literal) => { Some($flag) };
}

macro_rules! handler_key {
    ($name:literal, $field:ident, $sentence:literal) => {
        HandlerKey {
            name: $name,
            sentence: $sentence,
            read: |handler, value| {
                handler.$field = Setting::read(value)?;
                Ok(())
            },
            write: |handler| handler.$field.write(),
        }
    };
    ($name:literal, $field:ident as $codec:ident, $sentence:literal) => {
        HandlerKey {
            name: $name,
            sentence: $sentence,
            read: |handler, value| {
                handler.$field = $codec::read(value)?;
                Ok(())
            },
            write: |handler| $codec::write(&handler.$field),
        }
    };
}

/// The tables in the order in which they are printed, each with its heading.
pub static TABLES: [(&str, &str); 8] = [
    ("crio", "Where things are kept."),
    ("crio.api", "The CRI socket."),
    ("crio.runtime", "What every container gets, and who runs it."),
    ("crio.image", "Images."),
    ("crio.network", "The pod network."),
    ("crio.metrics", "What Prometheus scrapes; docs/metrics.md lists it."),
    (
        "crio.tracing",
        "Spans of calls, for OpenTelemetry; docs/tracing.md has what they say.",
    ),
    ("crio_manager", "Keys of crio-manager's own."),
];

/// The keys that a reload (SIGHUP) changes; all others, and the handlers, need a restart. Whatever is here reaches the
/// daemon in `reload`.
static LIVE: [(&str, &str); 17] = [
    ("crio.runtime", "add_inheritable_capabilities"),
    ("crio.runtime", "cdi_spec_dirs"),
    ("crio.runtime", "default_capabilities"),
    ("crio.runtime", "default_env"),
    ("crio.runtime", "default_mounts_file"),
    ("crio.runtime", "default_ulimits"),
    ("crio.runtime", "hooks_dir"),
    ("crio.runtime", "log_level"),
    ("crio.runtime", "pids_limit"),
    ("crio.runtime", "read_only"),
    ("crio.runtime", "seccomp_profile"),
    ("crio.image", "image_volumes"),
    ("crio_manager", "default_workload_trust"),
    ("crio_manager", "log_targets"),
    ("crio_manager", "pause_path"),
    ("crio_manager", "restore_from_images"),
    ("crio_manager", "untrusted_runtime"),
];

pub static KEYS: [Key; 70] = [
    key!(
        "crio",
        "root",
        crio.root,
        "The store of images and containers; it survives a reboot."
    ),
    key!(
        "crio",
        "runroot",
        crio.runroot,
        "Mounts and bundles of running containers; gone after a reboot by nature."
    ),
    key!(
        "crio.api",
        "listen",
        api.listen as socket,
        "The unix socket that the kubelet and crictl talk to; a path of at most 107 bytes."
    ),
    key!(
        "crio.api",
        "grpc_max_send_msg_size",
        api.grpc_max_send_msg_size as message_size,
        "The largest answer, in bytes."
    ),
    key!(
        "crio.api",
        "grpc_max_recv_msg_size",
        api.grpc_max_recv_msg_size as message_size,
        "The largest request, in bytes."
    ),
    key!(
        "crio.api",
        "stream_address",
        api.stream_address as stream_address,
        "The address on which exec, attach and port-forward are served to the kubelet; \"\" is 127.0.0.1."
    ),
    key!(
        "crio.api",
        "stream_port",
        api.stream_port as stream_port,
        "Its port; \"0\" takes a free one."
    ),
    key!(
        "crio.api",
        "stream_idle_timeout",
        api.stream_idle_timeout as stream_idle_timeout,
        "After this much silence a stream is closed, as \"30s\" or \"1h30m\"; \"\" is 4h."
    ),
    key!(
        "crio.api",
        "stream_enable_tls",
        api.stream_enable_tls,
        "Serve streams over TLS. Certificates are read anew when their files change."
    ),
    key!(
        "crio.api",
        "stream_tls_cert",
        api.stream_tls_cert,
        "The certificate for it, with those that lead to an authority; PEM."
    ),
    key!(
        "crio.api",
        "stream_tls_key",
        api.stream_tls_key,
        "The certificate's private key; PEM."
    ),
    key!(
        "crio.tracing",
        "enable_tracing",
        tracing.enable_tracing,
        "Send spans of CRI calls to a collector."
    ),
    key!(
        "crio.tracing",
        "tracing_endpoint",
        tracing.tracing_endpoint,
        "The collector, HOST:PORT; it is spoken to in OTLP over gRPC, without TLS."
    ),
    key!(
        "crio.tracing",
        "tracing_sampling_rate_per_million",
        tracing.tracing_sampling_rate_per_million,
        "How many of a million calls are traced whose caller says nothing of it; a caller's traceparent goes first."
    ),
    key!(
        "crio.api",
        "stream_tls_ca",
        api.stream_tls_ca,
        "Authorities of which a client must bring a certificate; \"\" asks for none."
    ),
    key!(
        "crio.runtime",
        "default_runtime",
        runtime.default_runtime,
        "The handler of pods that ask for none; \"\" takes crun, else runc, else the first one configured."
    ),
    key!(
        "crio.runtime",
        "cgroup_manager",
        runtime.cgroup_manager,
        "Who makes the cgroups: \"cgroupfs\" or \"systemd\"; the kubelet's cgroupDriver must be the same."
    ),
    key!(
        "crio.runtime",
        "conmon",
        runtime.conmon as program,
        "The monitor of handlers without monitor_path; \"\" takes conmon-rs from beside crio-manager, else from PATH."
    ),
    key!(
        "crio.runtime",
        "container_exits_dir",
        runtime.container_exits_dir,
        "Where monitors leave the exit files of containers."
    ),
    key!(
        "crio.runtime",
        "container_attach_socket_dir",
        runtime.container_attach_socket_dir,
        "Where monitors put their attach sockets."
    ),
    key!(
        "crio.runtime",
        "namespaces_dir",
        runtime.namespaces_dir,
        "The namespaces of pods are pinned beneath it, in netns, ipcns, utsns and userns."
    ),
    key!(
        "crio.runtime",
        "default_capabilities",
        runtime.default_capabilities,
        "Capabilities of a container before its own add and drop."
    ),
    key!(
        "crio.runtime",
        "add_inheritable_capabilities",
        runtime.add_inheritable_capabilities,
        "Make a container's capabilities inheritable too: program files that name them there keep them."
    ),
    key!(
        "crio.runtime",
        "default_sysctls",
        runtime.default_sysctls as sysctls,
        "Sysctls of every pod that has their namespace (network or IPC) to itself, as NAME=VALUE; a pod's own win."
    ),
    key!(
        "crio.runtime",
        "default_ulimits",
        runtime.default_ulimits,
        "Resource limits of every container, as NAME=SOFT:HARD; none means those of the daemon."
    ),
    key!(
        "crio.runtime",
        "default_env",
        runtime.default_env,
        "Environment of every container, as NAME=VALUE; the image and the pod win."
    ),
    key!(
        "crio.runtime",
        "pids_limit",
        runtime.pids_limit,
        "How many processes a container may have; -1 is unlimited."
    ),
    key!(
        "crio.runtime",
        "log_size_max",
        runtime.log_size_max as log_size,
        "Bytes after which a container's log file starts anew, 8192 or more; -1 leaves rotation to the kubelet."
    ),
    key!(
        "crio.runtime",
        "log_level",
        runtime.log_level,
        "The daemon's own log: error, warn, info, debug or trace."
    ),
    key!(
        "crio.runtime",
        "seccomp_profile",
        runtime.seccomp_profile,
        "The seccomp profile of RuntimeDefault, a JSON file; \"\" is the built-in one."
    ),
    key!(
        "crio.runtime",
        "selinux",
        runtime.selinux,
        "Label containers and their files where the host has SELinux."
    ),
    key!(
        "crio.runtime",
        "hostnetwork_disable_selinux",
        runtime.hostnetwork_disable_selinux,
        "Give processes on the node's network no label of their own."
    ),
    key!(
        "crio.runtime",
        "read_only",
        runtime.read_only,
        "Make every container's root filesystem read-only."
    ),
    key!(
        "crio.runtime",
        "no_pivot",
        runtime.no_pivot,
        "Let the runtime use MS_MOVE where pivot_root can't be had, as on a ramdisk."
    ),
    key!(
        "crio.runtime",
        "disable_hostport_mapping",
        runtime.disable_hostport_mapping,
        "Make no host ports: another program does. Without it they are made here where the network has no plugin for them."
    ),
    key!(
        "crio.runtime",
        "cdi_spec_dirs",
        runtime.cdi_spec_dirs,
        "Where CDI files (*.json, *.yaml) describe devices; of two directories with the same device the later one wins. Read for each container that asks for one."
    ),
    key!(
        "crio.runtime",
        "hooks_dir",
        runtime.hooks_dir,
        "Where OCI hooks are configured (oci-hooks(5), 1.0.0): *.json by their names; a file in a later directory takes the place of one of the same name. Read for each container."
    ),
    key!(
        "crio.runtime",
        "default_mounts_file",
        runtime.default_mounts_file,
        "What is copied from the host into every container, a line each: SOURCE:PATH, or PATH for both. \"\" takes /etc/containers/mounts.conf and /usr/share/containers/mounts.conf."
    ),
    key!(
        "crio.runtime",
        "enable_criu_support",
        runtime.enable_criu_support,
        "Checkpoint containers, and make containers from checkpoints, where criu and the runtime can."
    ),
    key!(
        "crio.image",
        "default_transport",
        image.default_transport,
        "How images are fetched: \"docker://\"."
    ),
    key!(
        "crio.image",
        "pinned_images",
        image.pinned_images,
        "Images that the kubelet must not collect: exact names, or with * at the end, or *between*."
    ),
    key!("crio.image", "insecure_registries", image.insecure_registries, "Registries (HOST[:PORT]) that may be spoken to over HTTP, or with a certificate nobody vouches for.", flag "insecure-registry"),
    key!(
        "crio.image",
        "pull_progress_timeout",
        image.pull_progress_timeout,
        "A pull that receives nothing for this long is given up; \"0s\" waits for ever."
    ),
    key!(
        "crio.image",
        "image_volumes",
        image.image_volumes,
        "The VOLUMEs of an image: mkdir (a directory in the container), bind (an empty directory beneath runroot, gone with the container) or ignore."
    ),
    key!(
        "crio.image",
        "short_name_mode",
        image.short_name_mode,
        "A name without a registry that several may have is refused (enforcing), or looked for in one after the other (disabled)."
    ),
    key!(
        "crio.image",
        "global_auth_file",
        image.global_auth_file,
        "Credentials for registries, as docker login writes them, for pulls that bring none; \"\" has none. Read for every pull."
    ),
    key!(
        "crio.image",
        "namespaced_auth_dir",
        image.namespaced_auth_dir,
        "Where credentials for one pull each are left: NAMESPACE-SHA256.json, of the image's name as it is asked for. They are removed as they are read. \"\" looks nowhere."
    ),
    key!(
        "crio.image",
        "signature_policy",
        image.signature_policy,
        "The policy.json that says which images need which signature; \"\" takes /etc/containers/policy.json where it is there, and else lets every image in. Read for every pull."
    ),
    key!(
        "crio.image",
        "signature_policy_dir",
        image.signature_policy_dir,
        "NAMESPACE.json in it takes the place of signature_policy for pods of that namespace."
    ),
    key!(
        "crio.network",
        "cni_default_network",
        network.cni_default_network,
        "The name of the CNI network of pods; \"\" takes the first configuration file."
    ),
    key!("crio.network", "network_dir", network.network_dir, "Where CNI configuration files are; a change there needs no restart.", flag "cni-config-dir"),
    key!("crio.network", "plugin_dirs", network.plugin_dirs, "Where CNI plugins are looked for, in this order.", flag "cni-plugin-dir"),
    key!(
        "crio.network",
        "cni_status_grace_period",
        network.cni_status_grace_period,
        "How long plugins may answer to STATUS that they cannot serve before the node says that its network is not ready."
    ),
    key!(
        "crio.metrics",
        "enable_metrics",
        metrics.enable_metrics,
        "Serve metrics over HTTP at /metrics."
    ),
    key!(
        "crio.metrics",
        "metrics_collectors",
        metrics.metrics_collectors,
        "Which of them, by their names, with or without what CRI-O's begin with."
    ),
    key!(
        "crio.metrics",
        "metrics_host",
        metrics.metrics_host as stream_address,
        "The address they are served on; \"\" is 127.0.0.1."
    ),
    key!(
        "crio.metrics",
        "metrics_port",
        metrics.metrics_port as port,
        "Its port; 0 takes a free one, which the log names."
    ),
    key!(
        "crio.metrics",
        "metrics_socket",
        metrics.metrics_socket,
        "A unix socket that serves them too; \"\" is none."
    ),
    key!(
        "crio.metrics",
        "metrics_cert",
        metrics.metrics_cert,
        "Serve them over TLS, with this certificate; PEM, read anew when it changes."
    ),
    key!(
        "crio.metrics",
        "metrics_key",
        metrics.metrics_key,
        "The certificate's private key; PEM."
    ),
    key!(
        "crio_manager",
        "state_dir",
        manager.state_dir,
        "The records of pods and containers, and the lock that keeps a second daemon away."
    ),
    key!(
        "crio_manager",
        "pause_path",
        manager.pause_path as program,
        "The pause program of pods that share a process namespace; \"\" takes crio-pause from beside crio-manager, else from PATH."
    ),
    key!(
        "crio_manager",
        "log_format",
        manager.log_format,
        "The daemon's own log: text (under systemd entries of the journal, with a field for each value), or json."
    ),
    key!(
        "crio_manager",
        "log_targets",
        manager.log_targets,
        "Log levels of single parts, which win over log_level: \"crio_manager::drivers=debug,tonic=warn\"."
    ),
    key!(
        "crio_manager",
        "cni_timeout",
        manager.cni_timeout,
        "How long adding a pod to its network or taking it off may take, all plugins of the chain together, before the one that runs is killed."
    ),
    key!(
        "crio_manager",
        "registries_conf",
        manager.registries_conf,
        "Where image names lead: search list, aliases, mirrors, blocked and insecure registries; with the drop-ins of the directory of its name and .d. Read for every pull. \"\" reads none."
    ),
    key!(
        "crio_manager",
        "registry_certs_dir",
        manager.registry_certs_dir,
        "Certificates per registry: HOST[:PORT]/*.crt are trusted authorities, *.cert and *.key our own."
    ),
    key!(
        "crio_manager",
        "untrusted_runtime",
        manager.untrusted_runtime,
        "The handler of pods that say they are untrusted (annotation io.kubernetes.cri.untrusted-workload \"true\", or io.kubernetes.cri-o.TrustedSandbox \"false\"); they get no other, and nothing of the node's; \"\" refuses such pods."
    ),
    key!(
        "crio_manager",
        "default_workload_trust",
        manager.default_workload_trust,
        "\"trusted\" or \"untrusted\": what a pod is that says nothing, names no handler, is not privileged and shares no namespace with the node."
    ),
    key!(
        "crio_manager",
        "restore_from_images",
        manager.restore_from_images,
        "Whether an image may be the checkpoint of a container, which goes on when it is started. criu gives its processes the rights that the checkpoint records, whatever the pod is allowed: only for nodes on which nobody chooses images who may not have them."
    ),
];

pub static HANDLER_KEYS: [HandlerKey; 13] = [
    handler_key!(
        "runtime_path",
        runtime_path as program,
        "The OCI runtime's binary; \"\" takes the one of the handler's name from PATH."
    ),
    handler_key!("runtime_type", runtime_type, "The kind of handler: \"oci\"."),
    handler_key!(
        "runtime_root",
        runtime_root,
        "Where the OCI runtime keeps its state; /run/NAME unless set."
    ),
    handler_key!(
        "monitor_path",
        monitor_path as program,
        "The monitor's binary; \"\" takes crio.runtime.conmon."
    ),
    handler_key!(
        "monitor_cgroup",
        monitor_cgroup,
        "Where monitors are: \"pod\", beside their containers; with systemd also a slice, or \"delegated\", one scope for all."
    ),
    handler_key!(
        "monitor_env",
        monitor_env,
        "Environment of the monitor, as NAME=VALUE, besides a PATH of the system's directories."
    ),
    handler_key!(
        "container_create_timeout",
        container_create_timeout as seconds,
        "Seconds that creating a container may take before its creator is killed and all of it removed; any positive number."
    ),
    handler_key!(
        "container_min_memory",
        container_min_memory as bytes,
        "The least memory limit a container may have; 500KiB for crun, 12MiB for others."
    ),
    handler_key!(
        "allowed_annotations",
        allowed_annotations,
        "Annotations, by their whole names, that reach the OCI runtime: the container's, the pod's and default_annotations."
    ),
    handler_key!(
        "default_annotations",
        default_annotations,
        "Annotations of every container of this handler, where allowed_annotations names them; the pod's own win."
    ),
    handler_key!(
        "privileged_without_host_devices",
        privileged_without_host_devices,
        "Privileged containers do not see the host's devices."
    ),
    handler_key!(
        "no_sync_log",
        no_sync_log,
        "Do not sync a container's log file to disk when it ends."
    ),
    handler_key!(
        "unconfined_monitor",
        unconfined_monitor,
        "A monitor keeps all its capabilities and sees all files while its container runs."
    ),
];

/// Keys of CRI-O's that a file may carry and this version does nothing with.
pub static NOT_USED: [(&str, &[&str]); 8] = [
    (
        "crio",
        &[
            "imagestore",
            "log_dir",
            "storage_driver",
            "storage_option",
            "version_file",
            "version_file_persist",
            "clean_shutdown_file",
            "internal_wipe",
            "internal_repair",
        ],
    ),
    ("crio.api", &["tls_min_version", "tls_cipher_suites"]),
    (
        "crio.runtime",
        &[
            "conmon_cgroup",
            "conmon_env",
            "ctr_stop_timeout",
            "drop_infra_ctr",
            "min_injected_gomaxprocs",
            "privileged_seccomp_profile",
            "apparmor_profile",
            "blockio_config_file",
            "blockio_reload",
            "rdt_config_file",
            "irqbalance_config_file",
            "irqbalance_config_restore_file",
            "allowed_devices",
            "additional_devices",
            "device_ownership_from_security_context",
            "log_filter",
            "log_to_journald",
            "bind_mount_prefix",
            "uid_mappings",
            "gid_mappings",
            "minimum_mappable_uid",
            "minimum_mappable_gid",
            "infra_ctr_cpuset",
            "shared_cpuset",
            "pinns_path",
            "absent_mount_sources_to_reject",
            "enable_pod_events",
            "timezone",
            "decryption_keys_path",
        ],
    ),
    (
        "crio.image",
        &[
            "pause_image",
            "pause_image_auth_file",
            "pause_command",
            "big_files_temporary_dir",
            "separate_pull_cgroup",
            "auto_reload_registries",
            "oci_artifact_mount_support",
            "additional_artifact_stores",
        ],
    ),
    ("crio.network", &[]),
    ("crio.metrics", &[]),
    ("crio.tracing", &[]),
    ("crio_manager", &[]),
];

pub static HANDLER_KEYS_NOT_USED: [&str; 10] = [
    "runtime_config_path",
    "inherit_default_runtime",
    "monitor_exec_cgroup",
    "platform_runtime_paths",
    "runtime_pull_image",
    "stream_websockets",
    "exec_cpu_affinity",
    "seccomp_profile",
    "privileged_seccomp_profile",
    "runtime_features",
];

/// Whole tables of CRI-O's that this version does nothing with.
pub static TABLES_NOT_USED: [&str; 4] = [
    "crio.checkpoint_restore",
    "crio.nri",
    "crio.runtime.workloads",
    "crio.stats",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_live_exists() {
        for live in LIVE {
            assert!(KEYS.iter().any(|key| (key.table, key.name) == live), "{live:?}");
        }
    }

    #[test]
    fn a_restart_is_needed_for_what_is_not_live() {
        let mut new = Config::default();
        new.runtime.log_level = super::super::LogLevel::Trace;
        assert_eq!(restart_needed(&Config::default(), &new), [""; 0]);
        new.api.listen = "/run/other.sock".into();
        new.runtimes.insert("runc".to_owned(), RuntimeHandler::named("runc"));
        let needed = restart_needed(&Config::default(), &new);
        assert_eq!(needed, ["crio.api.listen", "crio.runtime.runtimes"]);
    }
}
