//! Builds the drivers from the configuration, hands them to the rooms, and serves until SIGTERM.

use crate::around::Each;
use crate::config::{
    self, CgroupManager, Config, EnvVariable, Limit, MetricsConfig, MonitorCgroup, RuntimeHandler, ShortNameMode,
    Ulimit,
};
use crate::drivers::additions::NodeFiles;
use crate::drivers::bundle::BundleDirs;
use crate::drivers::cgroup::Mode;
use crate::drivers::cgroup::cgroupfs::Cgroupfs;
use crate::drivers::cgroup::systemd::{Calls, Systemd, delegated};
use crate::drivers::child;
use crate::drivers::clock::HostClock;
use crate::drivers::fd_store::FdStore;
use crate::drivers::host::Host;
use crate::drivers::image::{ImageStore, ImageStoreConfig, PullFiles};
use crate::drivers::monitor::ConmonRs;
use crate::drivers::namespaces::user_namespaces;
use crate::drivers::namespaces::{Namespaces, Sysctl};
use crate::drivers::network::seam::Cni;
use crate::drivers::network::{Network, NetworkConfig};
use crate::drivers::process::{self, HostProcesses};
use crate::drivers::record_file::{self, make_private_dir};
use crate::drivers::runtime::{CommandLine, Criu};
use crate::drivers::seams::{Cgroups, Drivers};
use crate::drivers::selinux;
use crate::drivers::store::RecordFiles;
use crate::lifecycle::{ImageVolumes, Lifecycle, SpecDefaults};
use crate::metrics::{self, CountedCalls, Exposition};
use crate::model::CgroupPath;
use crate::model::record::Handler;
use crate::model::selinux::HostLabels;
use crate::model::trust::TrustPolicy;
use crate::reload::Reload;
use crate::service::admission::{Admission, CALLS_AT_ONCE, STREAMS_AT_ONCE};
use crate::service::image::Images;
use crate::service::inspect::{Inspection, Told};
use crate::service::listener::{self, CallSpans};
use crate::service::manager::{self, Manager};
use crate::service::runtime::Runtime;
use crate::spans::{self, TracedCalls};
use crate::spec::process::{EnvVar, Rlimit};
use crate::spec::resources::CgroupVersion;
use crate::spec::seccomp::{Arch, KernelVersion};
use crate::spec::security::{Inheritable, capabilities_of_mask};
use crate::spec::{Node, Support};
use crate::streaming::{Address, Server, TlsFiles};
use crate::systemd::{self, HandedOver};
use anyhow::Context as _;
use cri::manager::v1::LoadImageRequest;
use cri::manager::v1::manager_server::ManagerServer;
use cri::v1::image_service_server::ImageServiceServer;
use cri::v1::runtime_service_server::RuntimeServiceServer;
use futures::StreamExt as _;
use nix::sys::resource::{Resource, getrlimit};
use oci_spec::runtime::{Capability, PosixRlimitType};
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Below the configured roots, which other programs with the same settings share: what is in here is ours alone.
const OURS: &str = "crio-manager";

/// How often runtimes and the state directory are looked at.
const PROBE_EVERY: Duration = Duration::from_secs(30);

/// How often memory is given back that work has left.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(30);

/// How long verbs under way may take to end after SIGTERM.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// How long a client that was accepted just before the stop has to say its first words, where the socket goes on without
/// us: a connection that ends before them is a refused call.
const GREETING: Duration = Duration::from_millis(500);

/// How long work that blocks may take to end after that.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// Worker threads: what blocks is on threads of its own, and what is left is little.
const WORKER_THREADS: usize = 2;

/// Serves until SIGTERM or SIGINT. Containers go on running.
///
/// Errors: another daemon has the same root or socket; a directory cannot be made; the records cannot be listed.
pub fn serve(config: Config, reload: Reload, handed: HandedOver) -> anyhow::Result<()> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    if let Err(error) = child::raise_open_files() {
        warn!(%error, "raise the limit of open files, ignoring");
    }
    process::share_heap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .context("start the async runtime")?;
    let served = runtime.block_on(run(config, reload, handed));
    // What blocks in the kernel cannot be broken off, and must not keep the daemon from leaving.
    runtime.shutdown_timeout(LEAVE_LIMIT);
    served
}

async fn run(mut config: Config, reload: Reload, handed: HandedOver) -> anyhow::Result<()> {
    let started_with = config.clone();
    resolve_roots(&mut config)?;
    lock_images(&config)?;
    lock_records(&config)?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP")?;

    let spans = spans::Export::start(&config.tracing)?;
    let store = systemd::notify_socket().map(|socket| Arc::new(FdStore::open(socket, handed.processes)));
    let counts = metrics::Counts::default();
    let (drivers, images) = drivers(&config, store.clone(), &counts.systemd).await?;
    let lifecycle = Lifecycle::new(metrics::counted(drivers, &counts), spec_defaults(&config)?);
    lifecycle.restore().await.context("restore")?;
    tokio::spawn(lifecycle.clone().keep_measuring_layers());

    let socket = listener::listen(&config.api.listen, handed.sockets, store.as_deref()).await?;
    let (receive, send) = (config.api.grpc_max_recv_msg_size, config.api.grpc_max_send_msg_size);
    let streaming = streaming_server(&config).await?;
    let runtime = RuntimeServiceServer::new(Runtime::new(lifecycle.clone(), streaming.urls()))
        .max_decoding_message_size(receive)
        .max_encoding_message_size(send);
    let image = ImageServiceServer::new(Images::new(lifecycle.clone()))
        .max_decoding_message_size(receive)
        .max_encoding_message_size(send);
    let stop_streaming = CancellationToken::new();
    if let Some(server) = metrics_server(&config.metrics).await? {
        let collectors: Vec<_> = config.metrics.metrics_collectors.iter().map(|name| name.0).collect();
        let exposition = Exposition::new(lifecycle.clone(), &counts, images.transfers(), &collectors);
        tokio::spawn(server.serve(exposition, stop_streaming.clone()));
    }
    let streams = tokio::spawn(streaming.serve(lifecycle.clone(), stop_streaming.clone()));
    info!(socket = %config.api.listen.display(), version = env!("CARGO_PKG_VERSION"), "serving");
    let (in_force, configuration) = tokio::sync::watch::channel(config::effective(&started_with));
    let told = Told {
        storage_root: config.crio.root.clone(),
        configuration,
    };
    let (stop, mut stopping) = tokio::sync::watch::channel(false);
    let (mut stopped, mut closed) = (stopping.clone(), stopping.clone());
    let greeting = if socket.file.outlives_us() {
        GREETING
    } else {
        Duration::ZERO
    };
    // Whoever comes after the stop is not accepted: on a socket that outlives us the next daemon does that.
    let connections = UnixListenerStream::new(socket.listener)
        .take_until(async move {
            // The sender lives until the server has ended.
            let _ = closed.wait_for(|stop| *stop).await;
        })
        .chain(futures::stream::pending());
    let server = tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_AT_ONCE)
        .accept_http1(true)
        .layer(Each(Inspection::new(lifecycle.clone(), told)))
        .layer(Each(TracedCalls::new(spans.is_wanted())))
        .layer(Each(CallSpans))
        .layer(Each(CountedCalls::new(counts)))
        .layer(Each(Admission::new(CALLS_AT_ONCE)))
        .add_service(runtime)
        .add_service(image)
        .add_service(ManagerServer::new(Manager::new(lifecycle.clone())))
        .serve_with_incoming_shutdown(connections, async move {
            let _ = stopped.wait_for(|stop| *stop).await;
            tokio::time::sleep(greeting).await;
        });
    tokio::spawn(keep_giving_back_memory());
    let (told_wrong, wrong) = tokio::sync::watch::channel(None);
    let signals = async {
        systemd::ready(&lifecycle, &wrong).await;
        loop {
            tokio::select! {
                _ = terminate.recv() => break info!("SIGTERM"),
                _ = interrupt.recv() => break info!("SIGINT"),
                _ = hangup.recv() => {
                    systemd::reloading().await;
                    let reloaded = reload.run(&started_with, &lifecycle).await;
                    if let Ok(reloaded) = &reloaded {
                        in_force.send_replace(config::in_force(&started_with, reloaded));
                    }
                    told_wrong.send_replace(reloaded.err());
                    systemd::ready(&lifecycle, &wrong).await;
                }
            }
        }
        systemd::stopping().await;
        stop.send_replace(true);
        // Whoever watches would keep the server from ending.
        lifecycle.close_events();
        std::future::pending::<()>().await;
    };
    let told = async {
        tokio::join!(
            systemd::keep_status(lifecycle.clone(), wrong.clone()),
            systemd::keep_watchdog(config.api.listen.clone())
        );
    };
    // Calls under way are waited for, but not one that never ends.
    let too_long = async {
        let _ = stopping.wait_for(|stop| *stop).await;
        tokio::time::sleep(DRAIN_LIMIT).await;
    };
    tokio::select! {
        served = server => served.context("serve")?,
        () = signals => {}
        () = told => {}
        () = too_long => warn!("calls are still under way, leaving; their callers may ask again"),
    }
    stop_streaming.cancel();
    if let Err(error) = streams.await {
        warn!(%error, "the streaming server ended before its time");
    }
    lifecycle.drain(DRAIN_LIMIT).await;
    if tokio::time::timeout(DRAIN_LIMIT, images.shutdown()).await.is_err() {
        warn!("the image store is still busy, leaving; the next start removes what is half-made");
    }
    spans.stop().await;
    socket.file.remove().await;
    info!("stopped; containers go on");
    Ok(())
}

/// The start is the first burst of work.
async fn keep_giving_back_memory() {
    loop {
        if tokio::task::spawn_blocking(process::give_back_memory).await.is_err() {
            return; // the daemon ends
        }
        tokio::time::sleep(GIVE_BACK_EVERY).await;
    }
}

/// Brings the images of an archive or layout on this node into its image store: id and names of each.
///
/// The store has one owner: a daemon that runs is asked to do it, else it is done here.
pub fn load_images(config: &Config, file: &Path) -> anyhow::Result<Vec<(String, Vec<String>)>> {
    let file = std::path::absolute(file).context("current directory")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("start the async runtime")?.block_on(async {
        if let Some(mut daemon) = manager::client(&config.api.listen).await? {
            let path = file
                .to_str()
                .context("the path is not UTF-8, as a request to the daemon has to be")?
                .to_owned();
            let loaded = daemon.load_image(LoadImageRequest { path }).await;
            let loaded = loaded.map_err(|status| anyhow::anyhow!("the daemon says: {}", status.message()))?;
            return Ok(loaded
                .into_inner()
                .images
                .into_iter()
                .map(|image| (image.id, image.tags))
                .collect());
        }
        lock_images(config)?;
        let store = ImageStore::open(image_store_config(config))
            .await
            .context("open the image store")?;
        let loaded = store
            .load(&file)
            .await
            .with_context(|| format!("load {}", file.display()));
        store.shutdown().await;
        Ok(loaded?
            .into_iter()
            .map(|image| (image.id.to_string(), image.tags))
            .collect())
    })
}

async fn streaming_server(config: &Config) -> anyhow::Result<Server> {
    let api = &config.api;
    let address = Address {
        ip: api.stream_address,
        port: api.stream_port,
    };
    let tls = match (api.stream_enable_tls, &api.stream_tls_cert, &api.stream_tls_key) {
        (false, _, _) => None,
        (true, Some(certificate), Some(key)) => Some(TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            client_authorities: api.stream_tls_ca.clone(),
        }),
        (true, _, _) => anyhow::bail!("stream_enable_tls needs stream_tls_cert and stream_tls_key"),
    };
    Ok(Server::listen(address, tls, api.stream_idle_timeout).await?)
}

/// The one for metrics, where it is wanted.
async fn metrics_server(config: &MetricsConfig) -> anyhow::Result<Option<metrics::Server>> {
    if !config.enable_metrics {
        return Ok(None);
    }
    let tls = match (&config.metrics_cert, &config.metrics_key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            client_authorities: None,
        }),
        _ => anyhow::bail!("metrics_cert and metrics_key need each other"),
    };
    let address = SocketAddr::new(config.metrics_host, config.metrics_port);
    let server = metrics::Server::listen(address, config.metrics_socket.as_deref(), tls).await;
    server.map(Some).context("serve metrics")
}

/// Where the field's tools look for a signature policy.
const SYSTEM_POLICY: &str = "/etc/containers/policy.json";

/// Where they look for what says where simple signatures lie.
const LOOKASIDES: &str = "/etc/containers/registries.d";

/// The lists of default mounts that every container engine reads: the administrator's, and the distribution's.
const SYSTEM_MOUNTS: [&str; 2] = ["/etc/containers/mounts.conf", "/usr/share/containers/mounts.conf"];

/// The image store's part of the configuration.
pub fn image_store_config(config: &Config) -> ImageStoreConfig {
    ImageStoreConfig {
        insecure_registries: config.image.insecure_registries.clone(),
        pull_files: PullFiles {
            registries: config.manager.registries_conf.clone(),
            refuse_ambiguous_names: config.image.short_name_mode == ShortNameMode::Enforcing,
            auth: config.image.global_auth_file.clone(),
            namespaced_auth_dir: config.image.namespaced_auth_dir.clone(),
            policy: config.image.signature_policy.clone(),
            system_policy: Some(SYSTEM_POLICY.into()),
            namespaced_policy_dir: Some(config.image.signature_policy_dir.clone()),
            lookaside_dir: Some(LOOKASIDES.into()),
        },
        certs_dir: Some(config.manager.registry_certs_dir.clone()),
        progress_timeout: config.image.pull_progress_timeout,
        pinned_images: config.image.pinned_images.clone(),
        ..ImageStoreConfig::new(config.crio.root.join(OURS))
    }
}

/// Keeps everybody else off the images.
pub(crate) fn lock_images(config: &Config) -> anyhow::Result<()> {
    let root = config.crio.root.join(OURS);
    lock(&root)?;
    refuse_later_versions(&root, &["images"])
}

/// Keeps everybody else off what is known of pods.
pub(crate) fn lock_records(config: &Config) -> anyhow::Result<()> {
    let root = &config.manager.state_dir;
    lock(root)?;
    refuse_later_versions(root, &["records/sandboxes", "records/containers", "networks"])
}

/// What a later daemon wrote is left to it, before anything is touched: after a downgrade nothing may be lost.
fn refuse_later_versions(root: &Path, directories: &[&str]) -> anyhow::Result<()> {
    for name in directories {
        let directory = root.join(name);
        let found = record_file::of_later_version(&directory).with_context(|| directory.display().to_string())?;
        if let Some((path, version)) = found {
            anyhow::bail!(
                "{} has version {version}: a later crio-manager wrote it, and only that one knows what it says; install it \
                 again. Nothing was changed, and containers go on",
                path.display()
            );
        }
    }
    Ok(())
}

/// Keeps a second daemon off the same root, until this process ends. The file names the holder.
///
/// The lock is the process's own: a child that has not yet begun its program, and outlives us, holds a copy of the
/// descriptor but not the lock.
fn lock(root: &Path) -> anyhow::Result<()> {
    make_private_dir(root).with_context(|| format!("root {}", root.display()))?;
    let path = root.join("crio-manager.lock");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path);
    let mut file = file.with_context(|| path.display().to_string())?;
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            file.set_len(0)?;
            write!(file, "{}", std::process::id())?;
            std::mem::forget(file); // what blocks in the kernel may still be at work when everything else has been dropped
            Ok(())
        }
        Err(Errno::AGAIN | Errno::ACCESS) => {
            let mut holder = String::new();
            file.take(32).read_to_string(&mut holder)?;
            anyhow::bail!("root {} belongs to the daemon with pid {holder}", root.display())
        }
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// runc takes no root file system with a link in its path, and `/var/run` is one on every node of today.
pub(crate) fn resolve_roots(config: &mut Config) -> anyhow::Result<()> {
    for root in [&mut config.crio.root, &mut config.crio.runroot] {
        // Others, too, pass on their way to what is theirs.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(&*root);
        let resolved = made.and_then(|()| root.canonicalize());
        *root = resolved.with_context(|| root.display().to_string())?;
    }
    Ok(())
}

pub(crate) async fn drivers(
    config: &Config,
    store: Option<Arc<FdStore>>,
    calls: &Calls,
) -> anyhow::Result<(Drivers, ImageStore)> {
    let (state, run) = (&config.manager.state_dir, &config.crio.runroot.join(OURS));
    make_private_dir(run).with_context(|| format!("runroot {}", run.display()))?;
    let records = RecordFiles::open(state.join("records")).context("records")?;
    let criu = if config.runtime.enable_criu_support {
        Criu::Allowed
    } else {
        Criu::SwitchedOff
    };
    let runtime = CommandLine::new(handlers(config), config.runtime.default_runtime.clone());
    let runtime = Arc::new(runtime.with_criu(criu));
    // The first answers are there before the first Status.
    runtime.probe().await;
    let monitor = ConmonRs {
        exits_dir: config.runtime.container_exits_dir.clone(),
        socket_dir: config.runtime.container_attach_socket_dir.clone(),
        exec_dir: run.join("exec"),
        log_size_max: limit(config.runtime.log_size_max),
        exits: Default::default(),
    };
    let images = ImageStore::open(image_store_config(config))
        .await
        .context("image store")?;
    make_private_dir(&state.join("networks")).context("network records")?;
    let network = Network::open(NetworkConfig {
        conf_dir: config.network.network_dir.clone(),
        plugin_dirs: config.network.plugin_dirs.clone(),
        default_network: Some(config.network.cni_default_network.clone()).filter(|name| !name.is_empty()),
        cache_dir: state.join("networks"),
        own_host_ports: !config.runtime.disable_hostport_mapping,
        status_grace: config.network.cni_status_grace_period,
    })
    .await
    .context("network")?;
    tokio::spawn(runtime.clone().keep_probing(PROBE_EVERY));
    tokio::spawn(records.clone().keep_probing(PROBE_EVERY));
    let drivers = Drivers {
        runtime,
        monitor: Arc::new(monitor.open().context("directories of the monitor")?),
        process: Arc::new(HostProcesses { store }),
        cgroup: cgroups(config, calls)?,
        namespaces: Arc::new(
            Namespaces::open(&config.runtime.namespaces_dir, default_sysctls(config)?)
                .context("namespaces_dir")?
                .held_by(&config.manager.pause_path),
        ),
        network: Arc::new(Cni::new(network, config.manager.cni_timeout)),
        image: Arc::new(images.clone()),
        checkpoint: Arc::new(images.clone()),
        bundle: Arc::new(BundleDirs::open(run.clone()).context("bundles")?),
        host: Arc::new(Host),
        additions: Arc::new(NodeFiles::default()),
        store: Arc::new(records),
        clock: Arc::new(HostClock::new().context("boot id")?),
    };
    Ok((drivers, images))
}

/// The configured runtimes.
pub fn handlers(config: &Config) -> BTreeMap<String, Handler> {
    let handlers = config.runtimes.iter();
    handlers
        .map(|(name, handler)| (name.clone(), handler_of(name, handler, config)))
        .collect()
}

fn cgroups(config: &Config, calls: &Calls) -> anyhow::Result<Arc<dyn Cgroups>> {
    let files = Cgroupfs::detect().context("cgroups")?;
    Ok(match config.runtime.cgroup_manager {
        CgroupManager::Cgroupfs => Arc::new(files),
        CgroupManager::Systemd => Arc::new(Systemd::new(
            files.owned_by_systemd(),
            config.manager.pause_path.clone(),
            calls.clone(),
        )),
    })
}

fn handler_of(name: &str, handler: &RuntimeHandler, config: &Config) -> Handler {
    Handler {
        name: name.to_owned(),
        path: handler.runtime_path.clone(),
        root: handler.runtime_root.clone(),
        create_timeout: handler.container_create_timeout,
        systemd_cgroup: config.runtime.cgroup_manager == CgroupManager::Systemd,
        monitor_parent: match &handler.monitor_cgroup {
            MonitorCgroup::Pod => None,
            MonitorCgroup::Slice(slice) => Some(CgroupPath::from(slice)),
            MonitorCgroup::Delegated => Some(delegated()),
        },
        monitor_path: handler.monitor_path.clone(),
        monitor_env: handler
            .monitor_env
            .iter()
            .map(|variable| (variable.name.clone(), variable.value.clone()))
            .collect(),
        no_sync_log: handler.no_sync_log,
        unconfined_monitor: handler.unconfined_monitor,
        no_pivot: config.runtime.no_pivot,
        min_memory_bytes: handler.container_min_memory,
        allowed_annotations: handler.allowed_annotations.iter().cloned().collect(),
        default_annotations: handler.default_annotations.clone(),
        privileged_without_host_devices: handler.privileged_without_host_devices,
    }
}

/// Errors: one that belongs to no namespace, and would change the node.
fn default_sysctls(config: &Config) -> anyhow::Result<Vec<Sysctl>> {
    let parsed = config.runtime.default_sysctls.iter();
    parsed
        .map(|(name, value)| Sysctl::parse(name, value))
        .collect::<Result<_, _>>()
        .context("default_sysctls")
}

fn limit(limit: Limit) -> Option<u64> {
    match limit {
        Limit::Unlimited => None,
        Limit::At(value) => Some(value),
    }
}

/// What the configuration decides about every container.
///
/// Errors: a profile cannot be read; a limit has no such name.
pub fn spec_defaults(config: &Config) -> anyhow::Result<SpecDefaults> {
    let env = |variable: &EnvVariable| EnvVar {
        name: variable.name.clone(),
        value: variable.value.clone(),
    };
    let seccomp_profile = match &config.runtime.seccomp_profile {
        Some(path) => Some(std::fs::read(path).with_context(|| format!("seccomp_profile {}", path.display()))?),
        None => None,
    };
    let pause_path = config.manager.pause_path.clone();
    Ok(SpecDefaults {
        node: this_node()?,
        node_name: nix::unistd::gethostname()
            .context("host name")?
            .to_string_lossy()
            .into_owned(),
        capabilities: config.runtime.default_capabilities.iter().copied().collect(),
        env: config.runtime.default_env.iter().map(env).collect(),
        rlimits: config
            .runtime
            .default_ulimits
            .iter()
            .map(rlimit)
            .collect::<anyhow::Result<_>>()?,
        pids_limit: limit(config.runtime.pids_limit),
        seccomp_profile,
        read_only: config.runtime.read_only,
        inheritable: if config.runtime.add_inheritable_capabilities {
            Inheritable::Granted
        } else {
            Inheritable::Ambient
        },
        image_volumes: match config.image.image_volumes {
            config::ImageVolumes::Mkdir => ImageVolumes::MadeInRootfs,
            config::ImageVolumes::Bind => ImageVolumes::Bound,
            config::ImageVolumes::Ignore => ImageVolumes::Ignored,
        },
        cdi_spec_dirs: config.runtime.cdi_spec_dirs.clone(),
        hooks_dirs: config.runtime.hooks_dir.clone(),
        default_mounts_files: match &config.runtime.default_mounts_file {
            Some(file) => vec![file.clone()],
            None => SYSTEM_MOUNTS.map(Into::into).to_vec(),
        },
        // Bind mounts of a symlink's place are refused by some runtimes.
        pause_path: pause_path.canonicalize().unwrap_or(pause_path),
        apparmor: std::fs::read("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|enabled| enabled.starts_with(b"Y")),
        selinux: selinux_of_containers(config)?,
        user_namespaces: user_namespaces(config).inspect_err(|why| info!(why, "pods can have no user namespaces")),
        trust: TrustPolicy {
            untrusted_handler: Some(config.manager.untrusted_runtime.clone()).filter(|name| !name.is_empty()),
            unsaid: config.manager.default_workload_trust,
        },
        restore_from_images: config.manager.restore_from_images,
    })
}

/// What SELinux gives containers here.
fn selinux_of_containers(config: &Config) -> anyhow::Result<Option<HostLabels>> {
    if !config.runtime.selinux {
        return Ok(None);
    }
    let labels = selinux::detect().context("SELinux")?;
    Ok(labels.map(|mut labels| {
        labels.host_network_is_unconfined = config.runtime.hostnetwork_disable_selinux;
        labels
    }))
}

/// Whether pods can have user namespaces, or why not.
fn user_namespaces(config: &Config) -> Result<(), String> {
    let (images, run) = (config.crio.root.join(OURS), config.crio.runroot.join(OURS));
    user_namespaces::probe(&config.manager.pause_path, &images, &[&images, &run])
}

fn rlimit(ulimit: &Ulimit) -> anyhow::Result<Rlimit> {
    let name = format!("RLIMIT_{}", ulimit.name.to_ascii_uppercase());
    let resource = serde_json::from_value::<PosixRlimitType>(name.clone().into());
    let resource = resource.with_context(|| format!("default_ulimits: no limit is called {name}"))?;
    Ok(Rlimit {
        resource,
        soft: ulimit.soft,
        hard: ulimit.hard,
    })
}

/// What this kernel and this daemon's own rights allow.
fn this_node() -> anyhow::Result<Node> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .unwrap_or_default();
    let bounding = capabilities_of_mask(u64::from_str_radix(mask.trim(), 16).context("CapBnd of /proc/self/status")?);
    let release = nix::sys::utsname::uname()
        .context("uname")?
        .release()
        .to_string_lossy()
        .into_owned();
    let unbounded = bounding.contains(&Capability::SysResource);
    let cgroups = Cgroupfs::detect().context("cgroups")?;
    let cgroup = match cgroups.host().mode {
        Mode::V2 => CgroupVersion::V2,
        Mode::V1 | Mode::Hybrid => CgroupVersion::V1,
    };
    let oom_score_adj_floor = if unbounded {
        None
    } else {
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").context("/proc/self/oom_score_adj")?;
        info!(
            floor = own.trim(),
            "without CAP_SYS_RESOURCE: no lower oom_score_adj and no higher limits can be given"
        );
        Some(own.trim().parse().context("own oom_score_adj")?)
    };
    Ok(Node {
        arch: Arch::of_this_program(),
        kernel: KernelVersion::parse(&release).unwrap_or(KernelVersion { major: 0, minor: 0 }),
        bounding,
        oom_score_adj_floor,
        rlimit_ceilings: if unbounded { Vec::new() } else { own_hard_limits() },
        cgroup,
        hugepage_sizes: if cgroups.host().hugetlb {
            hugepage_sizes()
        } else {
            Vec::new()
        },
        swap_limit: if swap_limit() {
            Support::Present
        } else {
            Support::Absent
        },
        recursive_read_only: Support::Absent,
    })
}

fn own_hard_limits() -> Vec<(PosixRlimitType, u64)> {
    [
        (PosixRlimitType::RlimitNofile, Resource::RLIMIT_NOFILE),
        (PosixRlimitType::RlimitNproc, Resource::RLIMIT_NPROC),
        (PosixRlimitType::RlimitCore, Resource::RLIMIT_CORE),
        (PosixRlimitType::RlimitMemlock, Resource::RLIMIT_MEMLOCK),
        (PosixRlimitType::RlimitStack, Resource::RLIMIT_STACK),
        (PosixRlimitType::RlimitFsize, Resource::RLIMIT_FSIZE),
        (PosixRlimitType::RlimitMsgqueue, Resource::RLIMIT_MSGQUEUE),
        (PosixRlimitType::RlimitRtprio, Resource::RLIMIT_RTPRIO),
        (PosixRlimitType::RlimitNice, Resource::RLIMIT_NICE),
    ]
    .into_iter()
    .filter_map(|(oci, own)| Some((oci, getrlimit(own).ok()?.1)))
    .collect()
}

/// Page sizes as cgroups spell them: `2MB`, `1GB`.
fn hugepage_sizes() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else {
        return Vec::new();
    };
    let spell = |kib: u64| match kib {
        kib if kib >= 1 << 20 => format!("{}GB", kib >> 20),
        kib if kib >= 1 << 10 => format!("{}MB", kib >> 10),
        kib => format!("{kib}KB"),
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter_map(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok())
        .map(spell)
        .collect()
}

fn swap_limit() -> bool {
    Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
        || Path::new("/sys/fs/cgroup/system.slice/memory.swap.max").exists()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_takes_its_keys_along() {
        let mut config = Config::default();
        config.runtime.no_pivot = true;
        let mut configured = RuntimeHandler::named("runc");
        configured.monitor_env = vec![EnvVariable {
            name: "A".to_owned(),
            value: "b".to_owned(),
        }];
        configured.default_annotations = [("c".to_owned(), "d".to_owned())].into();
        let handler = handler_of("runc", &configured, &config);
        assert!(handler.no_pivot);
        assert_eq!(handler.monitor_env, [("A".to_owned(), "b".to_owned())].into());
        assert_eq!(handler.default_annotations, configured.default_annotations);
    }

    #[test]
    fn a_default_sysctl_of_the_whole_node_stops_the_start() {
        let mut config = Config::default();
        config.runtime.default_sysctls = [("net.core.somaxconn".to_owned(), "1024".to_owned())].into();
        assert_eq!(default_sysctls(&config).unwrap().len(), 1);
        config.runtime.default_sysctls = [("vm.overcommit_memory".to_owned(), "1".to_owned())].into();
        let error = format!("{:#}", default_sysctls(&config).unwrap_err());
        assert!(
            error.starts_with("default_sysctls: sysctl \"vm.overcommit_memory\": "),
            "{error}"
        );
    }
}
