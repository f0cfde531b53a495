//! Root file systems: an image's layers, read-only, under a container's own writable layer, joined by overlayfs.
//!
//! `containers/<id>/{rootfs.json,upper,work,merged,volumes}`. The record says which layers are below, and is there before
//! the mount and until after it: as long as it is, nobody removes those layers. The images that are a container's volumes
//! are mounted read-only at `volumes/<number>`, and come and go with its root file system.
//! `layers` is there while something of a pod with users of its own is being mounted.
//! A checkpoint has `checkpoint` there, as long as it is made or waits for its start.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

use super::beneath;
use super::digest::{DiffId, Digest, ImageId, is_lower_hex};
use super::durable;
use super::error::{Error, Result};
use super::layers;
use crate::drivers::idmap::{self, Depth};
use crate::drivers::record_file;
use crate::model::selinux::{Label, View};
use crate::model::users::{Owner, PodUsers, UserMappings};

const CONTAINERS: &str = "containers";
const EMPTY_LAYER: &str = "empty";
const RECORD: &str = "rootfs.json";
const UPPER: &str = "upper";
const WORK: &str = "work";
const MERGED: &str = "merged";
/// Where the layers have the owners of a pod, for as long as it takes overlayfs to find them.
const MAPPED: &str = "layers";
const CHECKPOINT: &str = "checkpoint";
const VOLUMES: &str = "volumes";
/// How a volume is mounted, in the words of the one call and of the other.
const VOLUME_ATTRIBUTES: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV);
const VOLUME_FLAGS: MountFlags = MountFlags::RDONLY.union(MountFlags::NOSUID).union(MountFlags::NODEV);

const CONTAINER_ID_DIGITS: usize = 64;
/// A mount point can be mounted over; more often than this is somebody's loop.
const MAX_UNMOUNTS: usize = 64;

/// A root file system that is there for a container, mounted or, after a reboot, only its writable layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRootfs {
    pub container: String,
    /// `None` if the record is lost and only the mount tells of it.
    pub image: Option<ImageId>,
    /// From the bottom up.
    pub layers: Vec<DiffId>,
    /// Images that are mounted beside it.
    #[serde(default)]
    pub volumes: Vec<Volume>,
}

/// An image that is mounted read-only for a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Tells the volumes of one container apart.
    pub number: usize,
    pub image: ImageId,
    /// From the bottom up.
    pub layers: Vec<DiffId>,
}

impl ContainerRootfs {
    /// The layers that something of the container lies on.
    pub fn all_layers(&self) -> impl Iterator<Item = &DiffId> {
        self.layers
            .iter()
            .chain(self.volumes.iter().flat_map(|volume| &volume.layers))
    }

    /// The images that they are of, as far as it is known.
    pub fn images(&self) -> impl Iterator<Item = &ImageId> {
        self.image.iter().chain(self.volumes.iter().map(|volume| &volume.image))
    }
}

/// Where a container's root file system is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedRootfs {
    pub path: PathBuf,
}

/// What makes an overlay writable.
#[derive(Clone, Copy)]
struct Writable<'a> {
    upper: &'a Path,
    work: &'a Path,
}

/// Blocking; callers run it where blocking is allowed, one call per container at a time.
pub struct Overlays {
    containers: PathBuf,
    layers: PathBuf,
    empty_layer: PathBuf,
    has_index_option: bool,
}

impl Overlays {
    pub fn open(root: &Path) -> Result<Self> {
        let overlays = Self {
            containers: root.join(CONTAINERS),
            layers: root.join(layers::LAYERS),
            empty_layer: root.join(EMPTY_LAYER),
            has_index_option: Path::new("/sys/module/overlay/parameters/index").exists(),
        };
        durable::make_passable_dir(&overlays.containers)?;
        durable::make_private_dir(&overlays.empty_layer)?;
        Ok(overlays)
    }

    /// What is there from before a restart, mounted or not. Disturbs nothing.
    pub fn restore(&self) -> Result<Vec<ContainerRootfs>> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo")
            .map_err(|error| Error::io("read", "/proc/self/mountinfo", error))?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.containers).map_err(|error| Error::io("list", &self.containers, error))? {
            let entry = entry.map_err(|error| Error::io("list", &self.containers, error))?;
            let Some(container) = entry
                .file_name()
                .to_str()
                .filter(|name| is_container_id(name))
                .map(str::to_owned)
            else {
                tracing::warn!(path = %entry.path().display(), "not a container's directory, leaving it alone");
                continue;
            };
            found.push(match record_file::read::<ContainerRootfs>(&entry.path().join(RECORD)) {
                Ok(record) if record.container == container => record,
                Ok(_) | Err(_) => {
                    let layers = layers_of_mounts(&mountinfo, &entry.path());
                    tracing::warn!(
                        container_id = container,
                        layers = layers.len(),
                        "no record of the root file system"
                    );
                    ContainerRootfs {
                        container,
                        image: None,
                        layers,
                        volumes: Vec::new(),
                    }
                }
            });
        }
        Ok(found)
    }

    /// Mounts the root file system; `content` is where its layers are, from the bottom up. `Ok` if it is mounted already.
    ///
    /// With users in `view`, what is in the layers belongs to those; what the container writes is on disk as it is on the node.
    pub fn mount(&self, rootfs: &ContainerRootfs, content: &[PathBuf], view: &View) -> Result<MountedRootfs> {
        let users = view.users.as_ref();
        let directory = self.directory(&rootfs.container)?;
        durable::make_private_dir(&directory)?;
        let mappings = users.map(|users| &users.mappings);
        record_file::let_pass(&directory, Owner::root_of(mappings))
            .map_err(|error| Error::io("open to the pod's users", &directory, error))?;
        durable::write_record(&directory.join(RECORD), rootfs)?;
        let merged = directory.join(MERGED);
        if is_mount_point(&merged)? {
            return Ok(MountedRootfs { path: merged });
        }
        let mut lower = top_down(content);
        self.make_upper(&directory.join(UPPER), lower.first().copied(), mappings)?;
        if lower.is_empty() {
            lower.push(&self.empty_layer);
        }
        for name in [WORK, MERGED] {
            make_dir_if_missing(&directory.join(name), 0o700)?;
        }
        let (upper, work) = (directory.join(UPPER), directory.join(WORK));
        let writable = Some(Writable {
            upper: &upper,
            work: &work,
        });
        let mapped = users.filter(|_| !content.is_empty());
        self.mount_overlay(&directory, &lower, writable, mapped, view.label.as_ref(), &merged)?;
        Ok(MountedRootfs { path: merged })
    }

    /// Mounts the volume `number` of `rootfs`, read-only; `content` is where its layers are, from the bottom up. `Ok` if it
    /// is mounted already. With users in `view`, what is in the layers belongs to those.
    pub fn mount_volume(
        &self,
        rootfs: &ContainerRootfs,
        number: usize,
        content: &[PathBuf],
        view: &View,
    ) -> Result<PathBuf> {
        let users = view.users.as_ref();
        let directory = self.directory(&rootfs.container)?;
        durable::write_record(&directory.join(RECORD), rootfs)?;
        let target = directory.join(VOLUMES).join(number.to_string());
        if is_mount_point(&target)? {
            return Ok(target);
        }
        for directory in [&directory.join(VOLUMES), &target] {
            make_dir_if_missing(directory, 0o700)?;
            record_file::let_pass(directory, Owner::root_of(users.map(|users| &users.mappings)))
                .map_err(|error| Error::io("open to the pod's users", directory, error))?;
        }
        let mut lower = top_down(content);
        // Without a writable layer overlayfs wants two. An empty one below hides what one layer says of those below it.
        lower.push(&self.empty_layer);
        self.mount_overlay(&directory, &lower, None, users, view.label.as_ref(), &target)?;
        Ok(target)
    }

    /// `directory` is the container's.
    fn mount_overlay(
        &self,
        directory: &Path,
        lower: &[&Path],
        writable: Option<Writable<'_>>,
        users: Option<&PodUsers>,
        label: Option<&Label>,
        target: &Path,
    ) -> Result<()> {
        let mapped = directory.join(MAPPED);
        let moved = match users {
            Some(users) => self.map_layers(lower, users, &mapped)?,
            None => Vec::new(),
        };
        let moved: Vec<&Path> = moved.iter().map(PathBuf::as_path).collect();
        let lower = if users.is_some() { &moved } else { lower };
        let mounted = match self.mount_by_fd(lower, writable, label, target) {
            Err(Errno::NOSYS | Errno::INVAL) => self.mount_by_options(lower, writable, label, target),
            result => result,
        };
        // Overlayfs has its own hold on them.
        if users.is_some() {
            unmount(&mapped)?;
        }
        mounted.map_err(|error| Error::io("mount", target, error))
    }

    /// Mounts all layers at `mapped`, with the owners of the pod; where those in `lower` are then.
    fn map_layers(&self, lower: &[&Path], users: &PodUsers, mapped: &Path) -> Result<Vec<PathBuf>> {
        let namespace = fs::File::open(&users.namespace).map_err(|error| Error::io("open", &users.namespace, error))?;
        make_dir_if_missing(mapped, 0o700)?;
        idmap::mount(&self.layers, &namespace, Depth::One, mapped)
            .map_err(|error| Error::io("give the pod's owners to", &self.layers, error))?;
        let moved = lower.iter().map(|layer| {
            let below = layer.strip_prefix(&self.layers);
            below.map_or_else(|_| (*layer).to_owned(), |below| mapped.join(below))
        });
        Ok(moved.collect())
    }

    /// Unmounts the root file system and removes the container's directory; `Ok` if there is none, whole or half-made.
    pub fn unmount(&self, container: &str) -> Result<()> {
        let directory = self.directory(container)?;
        for name in [MERGED, MAPPED] {
            unmount(&directory.join(name))?;
        }
        let volumes = directory.join(VOLUMES);
        match fs::read_dir(&volumes) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => return Err(Error::io("list", volumes, error)),
            Ok(entries) => {
                for entry in entries {
                    unmount(&entry.map_err(|error| Error::io("list", &volumes, error))?.path())?;
                }
            }
        }
        match beneath::remove_dir_all(&directory) {
            Ok(()) => Ok(()),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::CrossesDevices | io::ErrorKind::ResourceBusy
                ) =>
            {
                Err(Error::StillMounted(directory))
            }
            Err(error) => Err(Error::io("remove", directory, error)),
        }
    }

    /// Where the root file system of `container` is or would be.
    pub fn merged(&self, container: &str) -> Result<PathBuf> {
        Ok(self.directory(container)?.join(MERGED))
    }

    /// Where its writable layer is or would be.
    pub fn upper(&self, container: &str) -> Result<PathBuf> {
        Ok(self.directory(container)?.join(UPPER))
    }

    /// Where a checkpoint of it is made, or lies unpacked.
    pub fn checkpoint(&self, container: &str) -> Result<PathBuf> {
        Ok(self.directory(container)?.join(CHECKPOINT))
    }

    fn directory(&self, container: &str) -> Result<PathBuf> {
        match is_container_id(container) {
            true => Ok(self.containers.join(container)),
            false => Err(Error::InvalidContainerId(
                container.chars().take(CONTAINER_ID_DIGITS).collect(),
            )),
        }
    }

    /// The writable layer; its own owner and mode are what the container sees of `/`, so they are those of the top layer.
    /// As the pod has it: an id of the layer that has no place there is the pod's root.
    fn make_upper(&self, upper: &Path, top: Option<&Path>, mappings: Option<&UserMappings>) -> Result<()> {
        if !make_dir_if_missing(upper, 0o755)? {
            return Ok(());
        }
        let root = Owner::root_of(mappings);
        let made = match top {
            None => chown(upper, Some(root.uid), Some(root.gid)),
            Some(top) => fs::metadata(top).and_then(|of| {
                let (uid, gid) = match mappings {
                    None => (of.uid(), of.gid()),
                    Some(mappings) => (
                        mappings.uids.on_node(of.uid()).unwrap_or(root.uid),
                        mappings.gids.on_node(of.gid()).unwrap_or(root.gid),
                    ),
                };
                chown(upper, Some(uid), Some(gid))?;
                fs::set_permissions(upper, fs::Permissions::from_mode(of.mode() & 0o7777))
            }),
        };
        made.map_err(|error| Error::io("make directory", upper, error))
    }

    /// By the mount API that takes one layer at a time: no limit on their number, no characters to escape.
    fn mount_by_fd(
        &self,
        lower: &[&Path],
        writable: Option<Writable<'_>>,
        label: Option<&Label>,
        target: &Path,
    ) -> rustix::io::Result<()> {
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let configured = (|| {
            rustix::mount::fsconfig_set_string(&context, "source", "overlay")?;
            for layer in lower {
                rustix::mount::fsconfig_set_string(&context, "lowerdir+", *layer)?;
            }
            if let Some(Writable { upper, work }) = writable {
                rustix::mount::fsconfig_set_string(&context, "upperdir", upper)?;
                rustix::mount::fsconfig_set_string(&context, "workdir", work)?;
            }
            if self.has_index_option {
                rustix::mount::fsconfig_set_string(&context, "index", "off")?;
            }
            if let Some(label) = label {
                rustix::mount::fsconfig_set_string(&context, "context", label.to_string())?;
            }
            rustix::mount::fsconfig_create(&context)
        })();
        if let Err(error) = configured {
            log_mount_messages(&context, error);
            return Err(error);
        }
        let attributes = match writable {
            Some(_) => MountAttrFlags::empty(),
            None => VOLUME_ATTRIBUTES,
        };
        let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        rustix::mount::move_mount(&mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    }

    /// For older kernels: all layers in one page of options, so they are named by descriptor.
    fn mount_by_options(
        &self,
        lower: &[&Path],
        writable: Option<Writable<'_>>,
        label: Option<&Label>,
        target: &Path,
    ) -> rustix::io::Result<()> {
        let open =
            |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let lower = lower
            .iter()
            .map(|path| open(path))
            .collect::<rustix::io::Result<Vec<_>>>()?;
        let name = |fd: &OwnedFd| beneath::path_of(&fd.as_fd()).display().to_string();
        let mut options = format!("lowerdir={}", lower.iter().map(name).collect::<Vec<_>>().join(":"));
        // Open until the kernel has read their names.
        let opened = match writable {
            Some(Writable { upper, work }) => Some((open(upper)?, open(work)?)),
            None => None,
        };
        if let Some((upper, work)) = &opened {
            options.push_str(&format!(",upperdir={},workdir={}", name(upper), name(work)));
        }
        if self.has_index_option {
            options.push_str(",index=off");
        }
        if let Some(label) = label {
            options.push_str(&format!(",context=\"{label}\""));
        }
        let flags = match writable {
            Some(_) => MountFlags::empty(),
            None => VOLUME_FLAGS,
        };
        let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
        rustix::mount::mount("overlay", target, "overlay", flags, options.as_c_str())
    }
}

/// The layers as overlayfs wants them. Twice the same one: only its topmost place counts, and it takes a directory once.
fn top_down(content: &[PathBuf]) -> Vec<&Path> {
    let mut lower: Vec<&Path> = Vec::with_capacity(content.len() + 1);
    for path in content.iter().rev() {
        if !lower.contains(&path.as_path()) {
            lower.push(path);
        }
    }
    lower
}

/// Unmounts all that is mounted at `target`; `Ok` if nothing is, or it is not there.
fn unmount(target: &Path) -> Result<()> {
    for _ in 0..MAX_UNMOUNTS {
        match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => break,
            Err(Errno::BUSY) => {
                tracing::warn!(path = %target.display(), "busy, detaching it");
                rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
                    .map_err(|error| Error::io("detach", target, error))?;
            }
            Err(error) => return Err(Error::io("unmount", target, error)),
        }
    }
    match is_mount_point(target)? {
        true => Err(Error::StillMounted(target.to_owned())),
        false => Ok(()),
    }
}

pub fn is_container_id(text: &str) -> bool {
    text.len() == CONTAINER_ID_DIGITS && is_lower_hex(text)
}

/// `Ok(false)` for a path that is not there.
fn is_mount_point(path: &Path) -> Result<bool> {
    match rustix::fs::statx(
        CWD,
        path,
        AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT,
        StatxFlags::TYPE,
    ) {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(error) => Err(Error::io("look at", path, error)),
    }
}

/// Whether it was made now.
fn make_dir_if_missing(path: &Path, mode: u32) -> Result<bool> {
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(Error::io("make directory", path, error)),
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| Error::io("make directory", path, error))?;
    Ok(true)
}

/// The kernel explains a refused mount on the descriptor of its context.
fn log_mount_messages(context: &OwnedFd, error: Errno) {
    const MESSAGES: usize = 8;
    let mut buffer = [0; 1024];
    for _ in 0..MESSAGES {
        let Ok(count) = rustix::io::read(context, &mut buffer) else {
            return;
        };
        let message = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()).into_owned();
        tracing::warn!(%error, message = message.trim_end(), "the kernel refuses the mount");
    }
}

/// The layers that what is mounted for a container is made of, as the mounts tell: every `/layers/<digest>/` in their
/// options.
fn layers_of_mounts(mountinfo: &str, directory: &Path) -> Vec<DiffId> {
    mountinfo
        .lines()
        .filter(|line| {
            line.split(' ')
                .nth(4)
                .is_some_and(|point| Path::new(point).starts_with(directory))
        })
        .flat_map(|line| line.split("/layers/").skip(1))
        .filter_map(|rest| rest.split('/').next())
        .filter_map(|hex| {
            Digest::parse(&format!("sha256:{hex}"))
                .ok()
                .and_then(|digest| DiffId::try_from(digest).ok())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_read_from_a_mount_whose_record_is_lost() {
        let [one, two, three] = ["1", "2", "3"].map(|digit| digit.repeat(64));
        let mountinfo = format!(
            "30 1 8:1 / / rw - ext4 /dev/vda rw\n\
             45 30 0:41 / /s/containers/c/merged rw - overlay overlay rw,lowerdir+=/s/layers/{two}/diff,\
             lowerdir+=/s/layers/{one}/diff,upperdir=/s/containers/c/upper\n\
             47 30 0:43 / /s/containers/c/volumes/0 ro - overlay overlay ro,lowerdir+=/s/layers/{three}/diff\n\
             46 30 0:42 / /s/containers/d/merged rw - overlay overlay rw,lowerdir=/s/layers/bad/diff\n"
        );
        let layers = layers_of_mounts(&mountinfo, Path::new("/s/containers/c"));
        assert_eq!(layers.iter().map(DiffId::hex).collect::<Vec<_>>(), [two, one, three]);
        assert!(layers_of_mounts(&mountinfo, Path::new("/s/containers/d")).is_empty());
    }

    #[test]
    fn a_mount_by_options_shows_the_same_as_one_by_descriptors() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        // In a mount namespace of its own, which ends with the thread.
        let thread = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            rustix::mount::mount_change(
                "/",
                rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
            )
            .unwrap();
            let directory = tempfile::tempdir().unwrap();
            let root = directory.path();
            let overlays = Overlays::open(root).unwrap();
            let lower: Vec<PathBuf> = (0..100)
                .map(|n| root.join(format!("layer-with-a-long-name-{}-{n}", "x".repeat(100))))
                .collect();
            for (number, layer) in lower.iter().enumerate() {
                fs::create_dir(layer).unwrap();
                fs::write(layer.join("top"), number.to_string()).unwrap();
            }
            let lower: Vec<&Path> = lower.iter().map(PathBuf::as_path).collect();
            let name = |name: &str| {
                let path = root.join(name);
                fs::create_dir(&path).unwrap();
                path
            };
            let (upper, work, merged) = (name("upper"), name("work"), name("merged"));
            let writable = Some(Writable {
                upper: &upper,
                work: &work,
            });
            overlays.mount_by_options(&lower, writable, None, &merged).unwrap();
            assert_eq!(
                fs::read_to_string(merged.join("top")).unwrap(),
                "0",
                "the first is the top"
            );
            fs::write(merged.join("new"), "x").unwrap();
            assert!(upper.join("new").exists());
            rustix::mount::unmount(&merged, UnmountFlags::empty()).unwrap();
            overlays.mount_by_fd(&lower, writable, None, &merged).unwrap();
            assert_eq!(fs::read_to_string(merged.join("top")).unwrap(), "0");
            assert!(is_mount_point(&merged).unwrap() && merged.join("new").exists());
            rustix::mount::unmount(&merged, UnmountFlags::empty()).unwrap();
            assert!(!is_mount_point(&merged).unwrap());

            let volume = |mounted: rustix::io::Result<()>| {
                mounted.unwrap();
                assert_eq!(fs::read_to_string(merged.join("top")).unwrap(), "0");
                assert!(fs::write(merged.join("other"), "x").is_err(), "it is read-only");
                let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
                let options = mounts.lines().find(|line| line.contains(merged.to_str().unwrap()));
                assert!(options.unwrap().contains("ro,nosuid,nodev"), "{options:?}");
                rustix::mount::unmount(&merged, UnmountFlags::empty()).unwrap();
            };
            volume(overlays.mount_by_options(&lower, None, None, &merged));
            volume(overlays.mount_by_fd(&lower, None, None, &merged));

            if !Path::new("/sys/fs/selinux/enforce").exists() {
                // A kernel without SELinux knows no such option, and says so.
                let label = Label::parse("system_u:object_r:container_file_t:s0:c1,c2").unwrap();
                for mount in [Overlays::mount_by_fd, Overlays::mount_by_options] {
                    let refused = mount(&overlays, &lower, writable, Some(&label), &merged);
                    assert_eq!(refused, Err(Errno::INVAL));
                }
            }
        });
        thread.join().unwrap();
    }

    #[test]
    fn only_a_full_id_names_a_container() {
        assert!(is_container_id(&"0a".repeat(32)));
        for text in ["", "0a", "..", &"0A".repeat(32), &"../".repeat(22), &"0".repeat(65)] {
            assert!(!is_container_id(text), "{text}");
        }
    }
}
