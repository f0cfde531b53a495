//! The spec of a container.

use super::ImageVolumes;
use super::additions::Added;
use super::json;
use super::resources::resources;
use super::security::{security_request, user_request};
use crate::drivers::seams::{DriverError, ErrorKind, HostDevice, ResolvedImage};
use crate::lifecycle::Lifecycle;
use crate::lifecycle::cell::SandboxCell;
use crate::lifecycle::error::{InStep, StepFailed};
use crate::model::container::ContainerPlan;
use crate::model::name::Pairs;
use crate::model::record::{Handler, RunningUser};
use crate::model::selinux::{Label, Labels, View};
use crate::model::users::PodUsers;
use crate::model::{ProcessId, signal};
use crate::spec::annotations::AnnotationRequest;
use crate::spec::devices::{Device, DeviceAccess};
use crate::spec::mounts::{Access, ImageVolume, Mount, MountRequest, OwnFile, Shm, image_volume_paths};
use crate::spec::namespaces::Namespace;
use crate::spec::passwd::{Accounts, appended, extra_group_line, extra_passwd_line};
use crate::spec::process::{EnvVar, ProcessRequest, Terminal, home};
use crate::spec::seccomp::SeccompRequest;
use crate::spec::user;
use crate::spec::{self, ContainerPath, Kind, Node, Rootfs, SpecError, SpecInput};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What creation needs of a built spec.
pub(in crate::lifecycle) struct Specified {
    /// config.json.
    pub json: Vec<u8>,
    /// Directories to make in the root file system.
    pub rootfs_dirs: Vec<String>,
    /// Directories to make in the bundle, relative to it.
    pub volume_dirs: Vec<PathBuf>,
    /// Files and directories of the host to copy into the bundle: where from, and where to, relative to it.
    pub copies: Vec<(PathBuf, PathBuf)>,
    /// Files to write into the bundle, by name.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// What a stop sends first, 1–64.
    pub stop_signal: i32,
    /// What of these the process may change, and their label, where they need one.
    pub label: Option<(Label, Vec<PathBuf>)>,
    /// Who it runs as.
    pub user: RunningUser,
    /// The ids of the images that are its volumes, by the path in the container.
    pub volume_images: BTreeMap<String, String>,
    /// Whose PID namespace it joins, if it has none of its own.
    pub joined_pid_namespace: Option<ProcessId>,
}

/// Names of the account files in a bundle.
const PASSWD: &str = "passwd";
const GROUP: &str = "group";

/// The directory of a bundle in which each copy of a default mount has its place.
const COPIES: &str = "mounts";

/// The directory of a bundle in which each bound volume of the image has one.
const VOLUMES: &str = "volumes";

impl Lifecycle {
    /// Builds the spec of a container whose root file system is mounted.
    pub(in crate::lifecycle) async fn specify(
        &self,
        sandbox: &SandboxCell,
        plan: &ContainerPlan,
        image: &ResolvedImage,
        rootfs: &Path,
        view: &View,
    ) -> Result<Specified, StepFailed> {
        let d = self.drivers();
        let passwd = d
            .image
            .read_file(rootfs, "/etc/passwd")
            .await
            .in_step("read users of image")?;
        let group = d
            .image
            .read_file(rootfs, "/etc/group")
            .await
            .in_step("read groups of image")?;

        let (mounts, volume_images) = self.asked_mounts(sandbox, plan, view).await?;
        let seccomp = self.seccomp_request(&plan.security.seccomp).await?;
        let mut devices = Vec::new();
        if plan.security.privileged && !sandbox.handler.privileged_without_host_devices {
            for found in d.host.all_devices().await.in_step("list devices")? {
                let path = found.path.display().to_string();
                devices.push(device(found, &path, DeviceAccess::all())?);
            }
        }
        for asked in &plan.devices {
            let access = DeviceAccess::parse(&asked.permissions).unwrap_or_else(DeviceAccess::all);
            for found in d.host.devices(&asked.host_path).await.in_step("find device")? {
                let below = found.path.strip_prefix(&asked.host_path).unwrap_or(Path::new(""));
                let inside = Path::new(&asked.container_path).join(below).display().to_string();
                devices.push(device(found, inside.trim_end_matches('/'), access.clone())?);
            }
        }

        let bundle = d.bundle.path(&plan.id);
        let (pid, joined_pid_namespace) = self.pid_namespace(sandbox, plan).in_step("choose PID namespace")?;
        let outside = Outside {
            rootfs,
            users: view.users.as_ref(),
            bundle: &bundle,
            mounts,
            devices,
            added: self.added(&sandbox.plan, plan).await?,
            seccomp,
            labels: self.container_labels(&sandbox.plan, &plan.security)?,
            pid,
            joined_pid_namespace,
            passwd,
            group,
        };
        let built = self.build(sandbox, plan, image, outside);
        let built = built.map_err(DriverError::from).in_step("build spec")?;
        Ok(Specified { volume_images, ..built })
    }

    fn build(
        &self,
        sandbox: &SandboxCell,
        plan: &ContainerPlan,
        image: &ResolvedImage,
        outside: Outside<'_>,
    ) -> Result<Specified, SpecError> {
        let defaults = self.defaults();
        let asked = &plan.security;
        let (passwd, group) = (outside.passwd.as_deref(), outside.group.as_deref());
        let accounts = Accounts::new(passwd, group)?;
        let user = user::resolve(&user_request(asked), &image.config.user, &accounts)?;
        let user = outside.added.with_groups(user);
        let process = ProcessRequest {
            command: plan.command.clone(),
            args: plan.args.clone(),
            default_env: defaults.env.clone(),
            env: plan
                .envs
                .iter()
                .map(|(name, value)| EnvVar {
                    name: name.clone(),
                    value: value.clone(),
                })
                .chain(outside.added.env.iter().cloned())
                .collect(),
            working_dir: match plan.working_dir.as_str() {
                "" => None,
                path => Some(ContainerPath::parse(path).map_err(|fault| SpecError::Path {
                    what: "working directory",
                    path: spec::excerpt(path),
                    fault,
                })?),
            },
            terminal: if plan.tty { Terminal::New } else { Terminal::None },
            rlimits: defaults.rlimits.clone(),
            oom_score_adj: Some(plan.resources.oom_score_adj),
        };
        let rootfs_access = if asked.readonly_rootfs || defaults.read_only {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        };

        let mut files = Vec::new();
        if let Some(line) = extra_passwd_line(&accounts, &user, home(&process, &image.config))? {
            files.push((PASSWD, appended(passwd.unwrap_or_default(), &line)));
        }
        if let Some(line) = extra_group_line(&accounts, &user) {
            files.push((GROUP, appended(group.unwrap_or_default(), &line)));
        }
        let pod = sandbox.facts();
        let own_file = |inside: &str, host_path: PathBuf| {
            let container_path = ContainerPath::parse(inside).unwrap_or_else(|_| ContainerPath::root());
            OwnFile {
                container_path,
                host_path,
                access: rootfs_access,
            }
        };
        let mut own_files = vec![
            own_file("/etc/resolv.conf", pod.files.resolv_conf),
            own_file("/etc/hosts", pod.files.hosts),
            own_file("/etc/hostname", pod.files.hostname),
        ];
        own_files.extend(
            files
                .iter()
                .map(|(name, _)| own_file(&format!("/etc/{name}"), outside.bundle.join(name))),
        );
        let mut copies = Vec::new();
        for (number, (source, container_path)) in outside.added.copies.iter().enumerate() {
            let below = Path::new(COPIES).join(number.to_string());
            own_files.push(OwnFile {
                container_path: container_path.clone(),
                host_path: outside.bundle.join(&below),
                access: Access::ReadWrite,
            });
            copies.push((source.clone(), below));
        }
        let paths = image_volume_paths(&image.config, &outside.mounts)?;
        let (mut rootfs_dirs, mut volume_dirs, mut image_volumes) = (Vec::new(), Vec::new(), Vec::new());
        match defaults.image_volumes {
            ImageVolumes::MadeInRootfs => rootfs_dirs.extend(paths.iter().map(|path| path.as_str().to_owned())),
            ImageVolumes::Bound => {
                for (number, container_path) in paths.into_iter().enumerate() {
                    let directory = Path::new(VOLUMES).join(number.to_string());
                    image_volumes.push(ImageVolume {
                        container_path,
                        host_path: outside.bundle.join(&directory),
                    });
                    volume_dirs.push(directory);
                }
            }
            ImageVolumes::Ignored => {}
        }
        let mounts = MountRequest {
            mounts: outside.mounts,
            own_files,
            image_volumes,
            shm: Shm::Shared(pod.files.shm.unwrap_or_else(|| "/dev/shm".into())),
            cgroup: Access::ReadOnly,
        };
        let host_uts = pod.namespaces.uts.is_none();
        let input = SpecInput {
            id: plan.id.to_string(),
            kind: Kind::Container {
                sandbox_id: plan.sandbox_id.to_string(),
            },
            node: Node {
                recursive_read_only: self.recursive_read_only(&sandbox.handler.name),
                ..defaults.node.clone()
            },
            rootfs: Rootfs {
                path: outside.rootfs.to_owned(),
                access: rootfs_access,
            },
            image: image.config.clone(),
            process,
            user: user.clone(),
            security: security_request(asked, &defaults, outside.seccomp, &outside.labels)?,
            namespaces: self.namespaces(&pod.namespaces, outside.users, outside.pid, asked.privileged),
            hostname: if host_uts {
                defaults.node_name.clone()
            } else {
                sandbox.plan.hostname.clone()
            },
            // The pod's are set where they live: in the namespaces that are pinned.
            sysctls: Default::default(),
            mounts,
            devices: outside.added.with_devices(outside.devices, &user),
            additions: outside.added.additions,
            resources: resources(&plan.resources, defaults.pids_limit, sandbox.handler.min_memory_bytes),
            cgroups_path: sandbox.cgroup_parent.container_for_runtime(&plan.id),
            annotations: AnnotationRequest {
                asked: annotations(&sandbox.handler, &sandbox.plan.annotations, &plan.annotations),
                allowed: sandbox.handler.allowed_annotations.clone(),
            },
        };
        let built = spec::build(&input)?;
        for adjustment in &built.adjustments {
            tracing::warn!(container_id = %plan.id, "{adjustment}");
        }
        let working_dir = built
            .spec
            .process()
            .as_ref()
            .map(|process| process.cwd().display().to_string());
        rootfs_dirs.extend(working_dir);
        let made = files.iter().map(|(name, _)| Path::new(name));
        let made = made.chain(volume_dirs.iter().map(PathBuf::as_path));
        let made = made.chain(copies.iter().map(|(_, below)| below.as_path()));
        let made = made.map(|below| outside.bundle.join(below)).collect();
        Ok(Specified {
            label: outside.labels.file.map(|label| (label, made)),
            json: json(&built.spec)?,
            rootfs_dirs,
            volume_dirs,
            copies,
            files,
            stop_signal: plan
                .stop_signal
                .or_else(|| signal::number(&image.stop_signal))
                .unwrap_or(libc::SIGTERM),
            user: RunningUser {
                uid: user.uid,
                gid: user.gid,
                groups: user.additional_gids,
            },
            volume_images: BTreeMap::new(),
            joined_pid_namespace: outside.joined_pid_namespace,
        })
    }
}

/// What had to be looked up for a container.
struct Outside<'a> {
    rootfs: &'a Path,
    users: Option<&'a PodUsers>,
    bundle: &'a Path,
    mounts: Vec<Mount>,
    devices: Vec<Device>,
    added: Added,
    seccomp: SeccompRequest,
    labels: Labels,
    pid: Namespace,
    joined_pid_namespace: Option<ProcessId>,
    passwd: Option<Vec<u8>>,
    group: Option<Vec<u8>>,
}

pub(super) fn container_path(path: &str) -> Result<ContainerPath, StepFailed> {
    ContainerPath::parse(path).map_err(|fault| StepFailed {
        step: "check paths",
        cause: DriverError::new(ErrorKind::Invalid, format!("{}: {fault}", spec::excerpt(path))),
    })
}

pub(super) fn device(found: HostDevice, inside: &str, access: DeviceAccess) -> Result<Device, StepFailed> {
    Ok(Device {
        container_path: container_path(inside)?,
        kind: found.kind,
        major: found.numbers.0,
        minor: found.numbers.1,
        mode: found.mode,
        uid: found.owner.0,
        gid: found.owner.1,
        access,
    })
}

/// What may reach the OCI runtime, the strongest last.
fn annotations(handler: &Handler, pod: &Pairs, container: &Pairs) -> Pairs {
    let mut all = handler.default_annotations.clone();
    all.extend(pod.clone());
    all.extend(container.clone());
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::drivers::fake::{Fails, FakeNode};
    use crate::lifecycle::SpecDefaults;
    use crate::lifecycle::tests::{container_plan, sandbox_plan};
    use crate::model::ContainerId;
    use crate::model::container::{MountPlan, MountSource, Propagation};
    use oci_spec::runtime::Spec;

    fn pairs(pairs: &[(&str, &str)]) -> Pairs {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    /// A container of an image with two volumes, one of which the client mounts.
    async fn specified(image_volumes: ImageVolumes) -> (Specified, Spec) {
        let node = FakeNode::new(Fails::Never);
        let defaults = SpecDefaults {
            image_volumes,
            ..SpecDefaults::for_tests()
        };
        let lifecycle = Lifecycle::new(node.drivers(), defaults);
        let id = lifecycle.run_sandbox(sandbox_plan(1)).await.unwrap();
        let sandbox = lifecycle.registry().sandbox(id.as_str()).unwrap();
        let mut image = node.drivers().image.resolve("image").await.unwrap();
        image.config.volumes = vec!["/data".to_owned(), "/given".to_owned()];
        image.config.working_dir = "/srv".to_owned();
        let mut plan = container_plan(2, &id);
        plan.mounts.push(MountPlan {
            container_path: "/given".to_owned(),
            source: MountSource::Host {
                host_path: "/host".into(),
            },
            readonly: false,
            recursive_read_only: false,
            propagation: Propagation::Private,
            selinux_relabel: false,
            id_mapped: false,
        });
        let built = lifecycle
            .specify(&sandbox, &plan, &image, Path::new("/rootfs"), &View::default())
            .await
            .unwrap();
        let spec = serde_json::from_slice(&built.json).unwrap();
        (built, spec)
    }

    fn source(spec: &Spec, inside: &str) -> Option<PathBuf> {
        let mounts = spec.mounts().as_ref().unwrap();
        let mount = mounts.iter().find(|mount| mount.destination() == Path::new(inside))?;
        mount.source().clone()
    }

    #[tokio::test]
    async fn volumes_of_an_image_are_directories_in_the_root_filesystem() {
        let (built, spec) = specified(ImageVolumes::MadeInRootfs).await;
        assert_eq!(built.rootfs_dirs, ["/data", "/srv"]);
        assert_eq!((built.volume_dirs.len(), source(&spec, "/data")), (0, None));
    }

    #[tokio::test]
    async fn bound_volumes_of_an_image_are_directories_of_the_bundle() {
        let (built, spec) = specified(ImageVolumes::Bound).await;
        assert_eq!(built.rootfs_dirs, ["/srv"]);
        assert_eq!(built.volume_dirs, [Path::new("volumes/0")]);
        let bundle = format!("/bundle/{}", ContainerId::from_bytes([2; 32]));
        assert_eq!(source(&spec, "/data"), Some(Path::new(&bundle).join("volumes/0")));
        assert_eq!(source(&spec, "/given"), Some("/host".into()), "the client's mount wins");
    }

    #[tokio::test]
    async fn ignored_volumes_of_an_image_leave_no_trace() {
        let (built, spec) = specified(ImageVolumes::Ignored).await;
        assert_eq!(built.rootfs_dirs, ["/srv"]);
        assert_eq!((built.volume_dirs.len(), source(&spec, "/data")), (0, None));
    }

    #[test]
    fn the_pods_annotations_beat_the_handlers_and_the_containers_beat_both() {
        let mut handler = FakeNode::new(Fails::Never).drivers().runtime.handler("").unwrap();
        handler.default_annotations = pairs(&[("a", "handler"), ("b", "handler"), ("c", "handler")]);
        let (pod, container) = (pairs(&[("b", "pod"), ("c", "pod")]), pairs(&[("c", "container")]));
        assert_eq!(
            annotations(&handler, &pod, &container),
            pairs(&[("a", "handler"), ("b", "pod"), ("c", "container")])
        );
    }
}
