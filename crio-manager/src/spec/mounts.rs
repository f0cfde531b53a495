//! What is mounted inside the container, and in which order.
//!
//! Five sources, the stronger one keeping a place that two want: what is added, the request's mounts, our own files (resolv.conf,
//! hosts …), the standard ones (/proc, /sys, /dev …), directories for the image's volumes. All are then sorted by
//! depth, so that no mount hides one beneath it.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount as OciMount, MountBuilder};

use super::additions::AddedMount;
use super::error::{SpecError, excerpt, without_nul};
use super::namespaces::{Namespaces, UserNamespace};
use super::path::ContainerPath;
use super::security::Privilege;
use super::{ImageConfig, Node, Support};

/// More volumes than this no image needs.
pub const IMAGE_VOLUMES_MAX: usize = 1024;

#[derive(Clone, Debug, Default)]
pub struct MountRequest {
    pub mounts: Vec<Mount>,
    /// Files that we wrote for the pod or container.
    pub own_files: Vec<OwnFile>,
    /// Directories that stand in for the image's volumes; none where they are made in the root filesystem or ignored.
    pub image_volumes: Vec<ImageVolume>,
    pub shm: Shm,
    /// Of /sys/fs/cgroup in a container that is not privileged; there it is always writable.
    pub cgroup: Access,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Access {
    ReadWrite,
    #[default]
    ReadOnly,
}

/// A file or directory of the node, shown inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub container_path: ContainerPath,
    /// Exists, with its symlinks resolved.
    pub host_path: PathBuf,
    pub access: MountAccess,
    pub propagation: Propagation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountAccess {
    ReadWrite,
    /// The mount itself; what the node has mounted beneath it stays writable.
    ReadOnly,
    /// Needs private propagation and a node that can do it.
    ReadOnlyRecursive,
    /// Somebody's files: read-only, and without devices and set-user-ID programs.
    ReadOnlyImage,
}

/// Whether mounts made on one side later are seen on the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Private,
    HostToContainer,
    Bidirectional,
}

/// A file of ours, shown inside: resolv.conf, hosts, hostname, passwd, group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnFile {
    pub container_path: ContainerPath,
    pub host_path: PathBuf,
    pub access: Access,
}

/// An empty directory of ours in place of a volume that the image declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageVolume {
    pub container_path: ContainerPath,
    pub host_path: PathBuf,
}

/// /dev/shm
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shm {
    /// The pod's, or the node's /dev/shm where the pod shares its IPC namespace.
    Shared(PathBuf),
    Own {
        size_bytes: u64,
    },
}

impl Default for Shm {
    /// 64 MiB of its own.
    fn default() -> Self {
        Shm::Own { size_bytes: 64 << 20 }
    }
}

/// The mounts in order, and what the propagation of the root mount has to be for them.
pub(super) fn mounts(
    request: &MountRequest,
    added: &[AddedMount],
    privilege: Privilege,
    namespaces: &Namespaces,
    node: &Node,
) -> Result<(Vec<OciMount>, Option<String>), SpecError> {
    let mut placed = Placed::default();
    let mut root_propagation = None;
    for mount in added {
        placed.always(&mount.container_path, mount.to_oci())?;
    }
    let of_additions = placed.places();
    for mount in &request.mounts {
        if of_additions.contains(&mount.container_path) {
            continue;
        }
        placed.always(&mount.container_path, bind(mount, node)?)?;
        root_propagation = root_propagation.max(needed_at_the_root(mount.propagation));
    }
    let asked = placed.places();
    for file in &request.own_files {
        placed.unless_taken(&file.container_path, own_file(file)?, &asked)?;
    }
    for (path, mount) in standard(request, privilege, namespaces)? {
        placed.unless_taken(&path, mount, &asked)?;
    }
    let taken = placed.places();
    for volume in &request.image_volumes {
        placed.unless_taken(&volume.container_path, image_volume(volume)?, &taken)?;
    }
    Ok((placed.in_order(), root_propagation.map(|p| p.as_option().to_owned())))
}

/// Where the image wants volumes: checked, each once, without those that the request or the node gives.
///
/// What lies at or beneath /dev, /proc or /sys is left out: an empty directory there would take something away.
pub fn image_volume_paths(image: &ImageConfig, mounts: &[Mount]) -> Result<Vec<ContainerPath>, SpecError> {
    if image.volumes.len() > IMAGE_VOLUMES_MAX {
        return Err(SpecError::TooManyVolumes {
            count: image.volumes.len(),
            limit: IMAGE_VOLUMES_MAX,
        });
    }
    let mut paths: Vec<ContainerPath> = Vec::new();
    for text in &image.volumes {
        let refused = |fault| SpecError::Path {
            what: "the image's volume",
            path: excerpt(text),
            fault,
        };
        let path = ContainerPath::parse(text).map_err(refused)?;
        let of_the_system = path.is_root() || ["/dev", "/proc", "/sys"].iter().any(|top| path.is_at_or_beneath(top));
        let given = mounts.iter().any(|mount| mount.container_path == path);
        if !of_the_system && !given && !paths.contains(&path) {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Mounts in the order in which they were placed, which is kept among those of one depth.
#[derive(Default)]
struct Placed(Vec<(ContainerPath, OciMount)>);

impl Placed {
    fn always(&mut self, path: &ContainerPath, mount: OciMount) -> Result<(), SpecError> {
        if path.is_root() {
            return Err(SpecError::Mount {
                path: excerpt(path.as_str()),
                reason: "would hide the root filesystem",
            });
        }
        self.0.push((path.clone(), mount));
        Ok(())
    }

    /// A whole /dev or /sys of somebody else stands for everything beneath it.
    fn unless_taken(
        &mut self,
        path: &ContainerPath,
        mount: OciMount,
        taken: &[ContainerPath],
    ) -> Result<(), SpecError> {
        let within =
            |top: &ContainerPath| matches!(top.as_str(), "/dev" | "/sys") && path.is_at_or_beneath(top.as_str());
        match taken.iter().any(|other| other == path || within(other)) {
            true => Ok(()),
            false => self.always(path, mount),
        }
    }

    fn places(&self) -> Vec<ContainerPath> {
        self.0.iter().map(|(path, _)| path.clone()).collect()
    }

    /// Parents first.
    fn in_order(self) -> Vec<OciMount> {
        let mut all = self.0;
        all.sort_by_key(|(path, _)| path.depth());
        all.into_iter().map(|(_, mount)| mount).collect()
    }
}

/// What the root mount must at least pass on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum RootPropagation {
    Slave,
    Shared,
}

impl RootPropagation {
    fn as_option(self) -> &'static str {
        match self {
            RootPropagation::Slave => "rslave",
            RootPropagation::Shared => "rshared",
        }
    }
}

fn needed_at_the_root(propagation: Propagation) -> Option<RootPropagation> {
    match propagation {
        Propagation::Private => None,
        Propagation::HostToContainer => Some(RootPropagation::Slave),
        Propagation::Bidirectional => Some(RootPropagation::Shared),
    }
}

fn bind(mount: &Mount, node: &Node) -> Result<OciMount, SpecError> {
    let refused = |reason| SpecError::Mount {
        path: excerpt(mount.container_path.as_str()),
        reason,
    };
    let access = match (mount.access, mount.propagation, node.recursive_read_only) {
        (MountAccess::ReadWrite, _, _) => &["rw"][..],
        (MountAccess::ReadOnly, _, _) => &["ro"],
        (MountAccess::ReadOnlyImage, _, _) => &["ro", "nosuid", "nodev"],
        (MountAccess::ReadOnlyRecursive, Propagation::Private, Support::Present) => &["rro"],
        (MountAccess::ReadOnlyRecursive, Propagation::Private, Support::Absent) => {
            return Err(refused("recursive read-only mounts are not supported by this runtime"));
        }
        (MountAccess::ReadOnlyRecursive, Propagation::HostToContainer | Propagation::Bidirectional, _) => {
            return Err(refused("recursive read-only needs private propagation"));
        }
    };
    let propagation = match mount.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let options = [&["rbind", propagation], access].concat();
    bound(&mount.container_path, &mount.host_path, &options)
}

fn own_file(file: &OwnFile) -> Result<OciMount, SpecError> {
    let access = match file.access {
        Access::ReadWrite => "rw",
        Access::ReadOnly => "ro",
    };
    bound(
        &file.container_path,
        &file.host_path,
        &["bind", "rprivate", "nosuid", "nodev", "noexec", access],
    )
}

fn image_volume(volume: &ImageVolume) -> Result<OciMount, SpecError> {
    bound(
        &volume.container_path,
        &volume.host_path,
        &["rbind", "rprivate", "nodev", "rw"],
    )
}

/// A bind mount.
fn bound(path: &ContainerPath, source: &Path, options: &[&str]) -> Result<OciMount, SpecError> {
    without_nul("a mount's host path", &source.to_string_lossy())?;
    if !source.is_absolute() {
        return Err(SpecError::Mount {
            path: excerpt(path.as_str()),
            reason: "its host path is not absolute",
        });
    }
    Ok(mount(path.as_str(), "bind", source, options))
}

fn mount(path: &str, kind: &str, source: &Path, options: &[&str]) -> OciMount {
    MountBuilder::default()
        .destination(path)
        .typ(kind)
        .source(source)
        .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        .build()
        .expect("no id mappings that could be half given")
}

/// The group of terminals on nearly every system.
const TTY_GID: u32 = 5;

/// What every container has.
fn standard(
    request: &MountRequest,
    privilege: Privilege,
    namespaces: &Namespaces,
) -> Result<Vec<(ContainerPath, OciMount)>, SpecError> {
    let (sys, cgroup) = match (privilege, request.cgroup) {
        (Privilege::Privileged, _) => ("rw", "rw"),
        (Privilege::Confined, Access::ReadWrite) => ("ro", "rw"),
        (Privilege::Confined, Access::ReadOnly) => ("ro", "ro"),
    };
    let mut terminals = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if namespaces
        .user
        .mappings()
        .is_none_or(|mappings| mappings.maps_gid(TTY_GID))
    {
        terminals.push("gid=5");
    }
    // The kernel gives a sysfs only to the user namespace that owns the network namespace.
    let sysfs = match (&namespaces.user, namespaces.network.is_host()) {
        (UserNamespace::New(_) | UserNamespace::Path(..), true) => mount(
            "/sys",
            "bind",
            Path::new("/sys"),
            &["rbind", "rprivate", "nosuid", "noexec", "nodev", sys],
        ),
        (_, _) => mount("/sys", "sysfs", Path::new("sysfs"), &["nosuid", "noexec", "nodev", sys]),
    };
    let all = [
        mount("/proc", "proc", Path::new("proc"), &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            Path::new("tmpfs"),
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount("/dev/pts", "devpts", Path::new("devpts"), &terminals),
        mount(
            "/dev/mqueue",
            "mqueue",
            Path::new("mqueue"),
            &["nosuid", "noexec", "nodev"],
        ),
        shm(&request.shm)?,
        sysfs,
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            Path::new("cgroup"),
            &["nosuid", "noexec", "nodev", "relatime", cgroup],
        ),
    ];
    let path = |mount: &OciMount| ContainerPath::parse(&mount.destination().to_string_lossy()).expect("a literal path");
    Ok(all.into_iter().map(|mount| (path(&mount), mount)).collect())
}

fn shm(shm: &Shm) -> Result<OciMount, SpecError> {
    const PATH: &str = "/dev/shm";
    match shm {
        Shm::Shared(source) => {
            let path = ContainerPath::parse(PATH).expect("a literal path");
            bound(&path, source, &["bind", "rprivate", "nosuid", "noexec", "nodev", "rw"])
        }
        Shm::Own { size_bytes } => {
            let size = format!("size={size_bytes}");
            Ok(mount(
                PATH,
                "tmpfs",
                Path::new("shm"),
                &["nosuid", "noexec", "nodev", "mode=1777", &size],
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::namespaces::{IdRange, Namespace};
    use super::super::tests::{namespaces, node, strings};
    use super::*;
    use crate::spec::namespaces::IdMappings;

    fn path(text: &str) -> ContainerPath {
        ContainerPath::parse(text).expect(text)
    }

    fn volume(container: &str) -> Mount {
        Mount {
            container_path: path(container),
            host_path: "/host".into(),
            access: MountAccess::ReadWrite,
            propagation: Propagation::Private,
        }
    }

    fn build(request: &MountRequest) -> Vec<OciMount> {
        mounts(request, &[], Privilege::Confined, &namespaces(), &node())
            .expect("good")
            .0
    }

    fn places(mounts: &[OciMount]) -> Vec<String> {
        mounts.iter().map(|m| m.destination().display().to_string()).collect()
    }

    fn options<'a>(mounts: &'a [OciMount], place: &str) -> &'a [String] {
        let found = mounts
            .iter()
            .find(|m| m.destination() == Path::new(place))
            .expect(place);
        found.options().as_deref().expect("all have options")
    }

    #[test]
    fn every_container_has_the_standard_mounts() {
        assert_eq!(
            places(&build(&MountRequest::default())),
            [
                "/proc",
                "/dev",
                "/sys",
                "/dev/pts",
                "/dev/mqueue",
                "/dev/shm",
                "/sys/fs/cgroup"
            ]
        );
    }

    #[test]
    fn parents_are_mounted_before_what_lies_beneath_them() {
        let request = MountRequest {
            mounts: ["/a/b/c", "/a", "/dev/termination-log", "/a/b"].map(volume).to_vec(),
            ..MountRequest::default()
        };
        let places = places(&build(&request));
        let at = |place: &str| places.iter().position(|p| p == place).expect(place);
        assert!(at("/a") < at("/a/b") && at("/a/b") < at("/a/b/c") && at("/dev") < at("/dev/termination-log"));
    }

    #[test]
    fn the_request_keeps_a_place_that_others_want() {
        let own = |place| OwnFile {
            container_path: path(place),
            host_path: "/own".into(),
            access: Access::ReadOnly,
        };
        let request = MountRequest {
            mounts: ["/etc/hosts", "/dev/shm", "/etc"].map(volume).to_vec(),
            own_files: vec![own("/etc/hosts"), own("/etc/resolv.conf")],
            image_volumes: ["/etc", "/data", "/etc/resolv.conf"]
                .map(|p| ImageVolume {
                    container_path: path(p),
                    host_path: "/v".into(),
                })
                .to_vec(),
            ..MountRequest::default()
        };
        let mounts = build(&request);
        let source = |place: &str| {
            let found: Vec<_> = mounts.iter().filter(|m| m.destination() == Path::new(place)).collect();
            assert_eq!(found.len(), 1, "{place}");
            found.first().and_then(|m| m.source().clone()).expect("has a source")
        };
        assert_eq!(source("/etc/hosts"), Path::new("/host"));
        assert_eq!(source("/dev/shm"), Path::new("/host"));
        assert_eq!(source("/etc"), Path::new("/host"));
        assert_eq!(source("/etc/resolv.conf"), Path::new("/own"));
        assert_eq!(source("/data"), Path::new("/v"));
    }

    #[test]
    fn a_whole_dev_or_sys_of_the_request_replaces_what_lies_beneath() {
        let dev = build(&MountRequest {
            mounts: vec![volume("/dev")],
            ..MountRequest::default()
        });
        assert_eq!(places(&dev), ["/dev", "/proc", "/sys", "/sys/fs/cgroup"]);
        let sys = build(&MountRequest {
            mounts: vec![volume("/sys")],
            ..MountRequest::default()
        });
        assert!(!places(&sys).contains(&"/sys/fs/cgroup".to_owned()));
        let other = build(&MountRequest {
            mounts: vec![volume("/devices")],
            ..MountRequest::default()
        });
        assert!(places(&other).contains(&"/dev/pts".to_owned()));
    }

    #[test]
    fn access_and_propagation_become_options() {
        use MountAccess::{ReadOnly, ReadOnlyImage, ReadOnlyRecursive, ReadWrite};
        use Propagation::{Bidirectional, HostToContainer, Private};
        for (access, propagation, expected, at_the_root) in [
            (ReadWrite, Private, "rbind rprivate rw", None),
            (ReadOnly, HostToContainer, "rbind rslave ro", Some("rslave")),
            (ReadWrite, Bidirectional, "rbind rshared rw", Some("rshared")),
            (ReadOnlyRecursive, Private, "rbind rprivate rro", None),
            (ReadOnlyImage, Private, "rbind rprivate ro nosuid nodev", None),
        ] {
            let request = MountRequest {
                mounts: vec![Mount {
                    access,
                    propagation,
                    ..volume("/a")
                }],
                ..MountRequest::default()
            };
            let (mounts, root) = mounts(&request, &[], Privilege::Confined, &namespaces(), &node()).expect("good");
            assert_eq!(options(&mounts, "/a").join(" "), expected);
            assert_eq!(root.as_deref(), at_the_root);
        }
    }

    #[test]
    fn the_widest_propagation_decides_that_of_the_root() {
        let with = |propagation, place| Mount {
            propagation,
            ..volume(place)
        };
        let both = [
            with(Propagation::Bidirectional, "/a"),
            with(Propagation::HostToContainer, "/b"),
        ];
        let request = MountRequest {
            mounts: both.to_vec(),
            ..MountRequest::default()
        };
        let (_, root) = mounts(&request, &[], Privilege::Confined, &namespaces(), &node()).expect("good");
        assert_eq!(root.as_deref(), Some("rshared"));
    }

    #[test]
    fn what_the_node_cannot_do_is_refused() {
        let mut node = node();
        node.recursive_read_only = Support::Absent;
        for mount in [
            Mount {
                access: MountAccess::ReadOnlyRecursive,
                ..volume("/a")
            },
            Mount {
                host_path: "relative".into(),
                ..volume("/a")
            },
            Mount {
                host_path: "/a\0".into(),
                ..volume("/a")
            },
            volume("/"),
            volume("/a/.."),
        ] {
            let request = MountRequest {
                mounts: vec![mount.clone()],
                ..MountRequest::default()
            };
            assert!(
                mounts(&request, &[], Privilege::Confined, &namespaces(), &node).is_err(),
                "{mount:?}"
            );
        }
    }

    #[test]
    fn recursive_read_only_needs_private_propagation() {
        for propagation in [Propagation::HostToContainer, Propagation::Bidirectional] {
            let mount = Mount {
                access: MountAccess::ReadOnlyRecursive,
                propagation,
                ..volume("/a")
            };
            assert!(bind(&mount, &node()).is_err());
        }
    }

    #[test]
    fn sys_and_cgroup_are_writable_with_privilege_only() {
        for (privilege, cgroup, sys, groups) in [
            (Privilege::Confined, Access::ReadOnly, "ro", "ro"),
            (Privilege::Confined, Access::ReadWrite, "ro", "rw"),
            (Privilege::Privileged, Access::ReadOnly, "rw", "rw"),
        ] {
            let request = MountRequest {
                cgroup,
                ..MountRequest::default()
            };
            let (mounts, _) = mounts(&request, &[], privilege, &namespaces(), &node()).expect("good");
            assert!(options(&mounts, "/sys").contains(&sys.to_owned()));
            assert!(options(&mounts, "/sys/fs/cgroup").contains(&groups.to_owned()));
        }
    }

    #[test]
    fn a_user_namespace_changes_terminals_and_sysfs_where_it_must() {
        let range = |length| {
            vec![IdRange {
                inside: 0,
                outside: 100_000,
                length,
            }]
        };
        let user = |length| {
            UserNamespace::New(IdMappings {
                uids: range(length),
                gids: range(length),
            })
        };
        for (user, network, tty, sysfs) in [
            (UserNamespace::Host, Namespace::Host, true, "sysfs"),
            (user(65536), Namespace::New, true, "sysfs"),
            (user(5), Namespace::New, false, "sysfs"),
            (user(65536), Namespace::Host, true, "bind"),
        ] {
            let namespaces = Namespaces {
                user,
                network,
                ..namespaces()
            };
            let (mounts, _) =
                mounts(&MountRequest::default(), &[], Privilege::Confined, &namespaces, &node()).expect("good");
            assert_eq!(options(&mounts, "/dev/pts").contains(&"gid=5".to_owned()), tty);
            let sys = mounts
                .iter()
                .find(|m| m.destination() == Path::new("/sys"))
                .expect("is there");
            assert_eq!(sys.typ().as_deref(), Some(sysfs));
        }
    }

    #[test]
    fn volumes_of_an_image_are_checked_and_named_once() {
        let image = |volumes: &[&str]| ImageConfig {
            volumes: strings(volumes),
            ..ImageConfig::default()
        };
        let given = [volume("/given")];
        let paths = image_volume_paths(
            &image(&[
                "/data",
                "/data/",
                "/../../etc",
                "/given",
                "/",
                "/dev/x",
                "/proc",
                "/sys/fs",
                "/a/..",
            ]),
            &given,
        );
        assert_eq!(paths, Ok(vec![path("/data"), path("/etc")]));
        for bad in ["data", "/a\0", ""] {
            assert!(
                matches!(image_volume_paths(&image(&[bad]), &[]), Err(SpecError::Path { .. })),
                "{bad:?}"
            );
        }
        let many = ImageConfig {
            volumes: vec!["/a".into(); IMAGE_VOLUMES_MAX + 1],
            ..ImageConfig::default()
        };
        assert!(matches!(
            image_volume_paths(&many, &[]),
            Err(SpecError::TooManyVolumes { .. })
        ));
    }
}
