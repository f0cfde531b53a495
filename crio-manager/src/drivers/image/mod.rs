//! Images: pulled or loaded, kept, and mounted as root file systems.
//!
//! ```text
//! registry ─ pull ─┐
//!                  ├─ layers (unpacked, by digest) ─ overlay ─ a container's root file system
//! archive ── load ─┘      └─ store (one record per image)
//! ```
//!
//! What there is, is in memory (`State`, behind a short lock) and answers every question; the disk is written first and
//! holds whole things only, so what a crash leaves is removed by the next [`ImageStore::open`]. A layer is kept as long as
//! an image has it, a pull under way wants it, or a container's root file system lies on it.

mod artifact;
mod auth_file;
pub mod beneath;
mod catalog;
mod changes;
mod checkpoint;
mod compression;
pub mod config;
pub mod credentials;
pub mod digest;
mod durable;
pub mod error;
mod keyed_locks;
mod layers;
mod load;
mod lookaside;
mod manifest;
mod openpgp;
mod overlay;
mod policy;
mod pull;
pub mod reference;
mod registries;
pub mod registry;
pub mod rootfs;
mod seam;
mod signature;
mod sources;
mod store;
mod tar_stream;
mod tls;
mod transfers;
pub mod unpack;
mod upper;
mod volume;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{RwLock, Semaphore, oneshot};
use tokio::task::JoinSet;

pub use config::{ImageConfig, Kind, Untrusted};
pub use credentials::Credentials;
pub use digest::{DiffId, Digest, ImageId};
pub use error::{Error, Result};
pub use load::LoadedImage;
pub use overlay::{ContainerRootfs, MountedRootfs};
pub use reference::ImageRef;
pub use rootfs::FileOwner;
pub use sources::{PullFiles, PullRequest};
pub use transfers::Transfers;
pub use unpack::Limits;

use crate::drivers::seams::{DriverError, DriverResult, ErrorKind, LayerUsage};
use crate::model::selinux::View;
use keyed_locks::KeyedLocks;
use layers::{LayerSize, LayerStore};
use overlay::Overlays;
use pull::SharedPulls;
use registry::{InsecureRegistry, RegistrySettings};
use sources::Sources;
use store::ImageIndex;

/// How many layers are unpacked at once, whoever wants them: each may need a window of 128 MiB, and there is one disk.
const PARALLEL_UNPACKS: usize = 4;
/// A file that a container's set-up reads whole, such as its passwd.
pub const MAX_ROOTFS_FILE_BYTES: u64 = 1 << 20;

/// Where images are and how they come there.
#[derive(Debug, Clone)]
pub struct ImageStoreConfig {
    pub root: PathBuf,
    /// Hosts (`host[:port]`) and address ranges that may be reached without a certificate or without TLS.
    pub insecure_registries: Vec<String>,
    pub pull_files: PullFiles,
    pub certs_dir: Option<PathBuf>,
    /// How long a registry may send nothing; zero for as long as it likes.
    pub progress_timeout: Duration,
    /// Names that are never to be removed as unused: exact, `prefix*`, or `*part*`.
    pub pinned_images: Vec<String>,
    pub limits: Limits,
}

impl ImageStoreConfig {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            insecure_registries: Vec::new(),
            pull_files: PullFiles::default(),
            certs_dir: None,
            progress_timeout: registry::DEFAULT_PROGRESS_TIMEOUT,
            pinned_images: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// An image on this node.
#[derive(Debug, Clone)]
pub struct Image {
    pub id: ImageId,
    pub kind: Kind,
    /// `registry/path:tag`
    pub tags: Vec<String>,
    /// `registry/path@digest`
    pub digests: Vec<String>,
    /// Unpacked, with layers that other images have too.
    pub size_bytes: u64,
    pub pinned: bool,
    pub layers: Vec<DiffId>,
    pub config: Arc<Untrusted<ImageConfig>>,
    /// The configuration document, of an artifact the manifest, as it came.
    pub config_text: Arc<str>,
    tagged_at_ns: u64,
}

/// What the layers take, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsInfo {
    pub mountpoint: PathBuf,
    pub used_bytes: u64,
    pub used_inodes: u64,
    pub timestamp: SystemTime,
}

/// The images of this node. A clone is the same store.
#[derive(Clone)]
pub struct ImageStore {
    node: Arc<Node>,
}

/// What all clones share.
struct Node {
    mountpoint: PathBuf,
    sources: Arc<Sources>,
    pinned_images: Vec<String>,
    limits: Limits,
    registries: RegistrySettings,
    layers: LayerStore,
    index: ImageIndex,
    overlays: Overlays,
    state: Mutex<State>,
    pulls: SharedPulls,
    transfers: Transfers,
    /// Held across the awaits of a change to the index: one writer at a time.
    index_writer: Arc<tokio::sync::Mutex<()>>,
    layer_locks: KeyedLocks<DiffId>,
    container_locks: KeyedLocks<String>,
    tasks: Mutex<JoinSet<()>>,
    unpacks: Arc<Semaphore>,
    /// Read by whatever blocks on behalf of the store: with the write lock, nothing does.
    busy: Arc<RwLock<()>>,
}

/// What there is. The lock on it crosses no await and no I/O.
#[derive(Default)]
struct State {
    images: BTreeMap<ImageId, Arc<Image>>,
    /// Tags and digests, in full, to the image.
    names: HashMap<String, ImageId>,
    layers: HashMap<DiffId, LayerSize>,
    /// Layers that a pull or load under way relies on, with how many do.
    leases: HashMap<DiffId, usize>,
    rootfs: HashMap<String, ContainerRootfs>,
}

impl ImageStore {
    /// Opens the store, restores what it holds and removes what a crash left half-made. Disturbs no mounted container.
    ///
    /// The root has one owner, who sees to it that it is opened once.
    pub async fn open(config: ImageStoreConfig) -> Result<Self> {
        let insecure = config
            .insecure_registries
            .iter()
            .map(|text| InsecureRegistry::parse(text))
            .collect::<Result<Vec<_>>>()?;
        let registries = RegistrySettings {
            insecure,
            certs_dir: config.certs_dir.clone(),
            progress_timeout: config.progress_timeout,
        };
        let node = blocking("opening the image store", move || Node::open(config, registries)).await?;
        let store = Self { node: Arc::new(node) };
        store
            .run_to_end("removing unused layers", |node| async move {
                node.remove_unused_layers().await
            })
            .await?;
        Ok(store)
    }

    /// Pulls the image that the request means and returns its id; `Ok` at once in content, if it is all here already.
    ///
    /// Pulls of one name with the same credentials share one transfer, which goes on when its callers leave.
    pub async fn pull(&self, request: PullRequest) -> Result<ImageId> {
        let name = request.image.clone();
        let mut first_error = None;
        for wanted in self.node.sources.wanted(request).await? {
            match self.pull_one(wanted).await {
                Ok(id) => return Ok(id),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        Err(first_error.unwrap_or(Error::NoSuchImage(name)))
    }

    /// What pulls have brought in.
    pub fn transfers(&self) -> &Transfers {
        &self.node.transfers
    }

    /// Loads the images of an OCI layout (directory or archive) or a Docker archive, compressed or not.
    pub async fn load(&self, path: impl Into<PathBuf>) -> Result<Vec<LoadedImage>> {
        let path = path.into();
        self.run_to_end(
            "loading an archive",
            |node| async move { load::load(&node, path).await },
        )
        .await
    }

    /// The image that `name` means: an id or the beginning of one, a tag, or a digest reference. From memory.
    pub fn status(&self, name: &str) -> Result<Option<Arc<Image>>> {
        self.node.find(name)
    }

    /// As [`Self::status`], but there has to be one.
    pub fn resolve(&self, name: &str) -> Result<Arc<Image>> {
        self.status(name)?.ok_or_else(|| Error::NoSuchImage(name.to_owned()))
    }

    /// All images, or the one that `name` means. From memory.
    pub fn list(&self, name: Option<&str>) -> Result<Vec<Arc<Image>>> {
        match name {
            Some(name) => Ok(self.status(name)?.into_iter().collect()),
            None => Ok(self.node.state().images.values().cloned().collect()),
        }
    }

    /// Removes the image that `name` means, with all its names, and the layers that nothing else needs; `Ok` if there is none.
    ///
    /// `in_use` says whether a container needs it; then it stays, and the error is [`Error::InUse`].
    pub async fn remove(&self, name: &str, in_use: impl Fn(&ImageId) -> bool + Send + 'static) -> Result<()> {
        let name = name.to_owned();
        self.run_to_end("removing an image", |node| async move {
            node.remove_image(&name, in_use).await?;
            node.remove_unused_layers().await
        })
        .await
    }

    /// What the layers take: a sum of what is known of each, not a walk.
    pub fn fs_info(&self) -> FsInfo {
        let (used_bytes, used_inodes) = self
            .node
            .state()
            .layers
            .values()
            .fold((0, 0), |(bytes, inodes), layer| {
                (bytes + layer.bytes, inodes + layer.inodes)
            });
        FsInfo {
            mountpoint: self.node.mountpoint.clone(),
            used_bytes,
            used_inodes,
            timestamp: SystemTime::now(),
        }
    }

    /// Mounts a root file system of `image` for a container (64 hex digits); `Ok` if that one is mounted already.
    ///
    /// With users in `view`, its files belong to those: 0 in a layer is the pod's root.
    pub async fn mount_rootfs(&self, container: &str, image: &ImageId, view: &View) -> Result<MountedRootfs> {
        let (container, image, view) = (container.to_owned(), image.clone(), view.clone());
        self.run_to_end("mounting a root file system", |node| async move {
            node.mount_rootfs(container, image, view).await
        })
        .await
    }

    /// Unmounts and removes a container's root file system with its writable layer; `Ok` if there is none or half of one.
    pub async fn unmount_rootfs(&self, container: &str) -> Result<()> {
        let container = container.to_owned();
        self.run_to_end("unmounting a root file system", |node| async move {
            node.unmount_rootfs(container).await
        })
        .await
    }

    /// What a container's writable layer takes on disk: walks it.
    pub async fn layer_usage(&self, container: &str) -> DriverResult<LayerUsage> {
        let upper = self.node.overlays.upper(container)?;
        let measured = tokio::task::spawn_blocking(move || upper::measure(&upper)).await;
        let measured = measured.map_err(|error| DriverError::new(ErrorKind::Failed, error.to_string()))?;
        measured.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => DriverError::new(ErrorKind::NotFound, "no writable layer"),
            _ => DriverError::io("writable layer", &error),
        })
    }

    /// The containers that have a root file system here, mounted or not: after a restart, those from before it too.
    pub fn containers(&self) -> Vec<String> {
        self.node.state().rootfs.keys().cloned().collect()
    }

    /// Where the root file system of a container is or would be.
    pub fn rootfs_path(&self, container: &str) -> Result<PathBuf> {
        self.node.overlays.merged(container)
    }

    /// Reads a regular file of a root file system, at most [`MAX_ROOTFS_FILE_BYTES`]; `None` if there is none.
    pub async fn read_file(&self, rootfs: &MountedRootfs, path: &str) -> Result<Option<Vec<u8>>> {
        let (rootfs, path) = (rootfs.path.clone(), path.to_owned());
        blocking("reading from a root file system", move || {
            rootfs::read_file(&rootfs, &path, MAX_ROOTFS_FILE_BYTES)
        })
        .await
    }

    /// Makes a directory of a root file system, with what is missing above it, owned by `uid` and `gid`.
    pub async fn ensure_dir(&self, rootfs: &MountedRootfs, path: &str, uid: u32, gid: u32) -> Result<()> {
        let (rootfs, path) = (rootfs.path.clone(), path.to_owned());
        blocking("making a directory in a root file system", move || {
            rootfs::ensure_dir(&rootfs, &path, uid, gid)
        })
        .await
    }

    /// Writes a file of a root file system, whole or not at all, replacing a link that is in its place.
    pub async fn write_file(
        &self,
        rootfs: &MountedRootfs,
        path: &str,
        content: Vec<u8>,
        owner: FileOwner,
    ) -> Result<()> {
        let (rootfs, path) = (rootfs.path.clone(), path.to_owned());
        blocking("writing into a root file system", move || {
            rootfs::write_file(&rootfs, &path, &content, owner)
        })
        .await
    }

    /// Ends pulls under way and waits until nothing is.
    pub async fn shutdown(&self) {
        let mut tasks = std::mem::take(&mut *self.node.tasks());
        tasks.shutdown().await;
        // What blocks, such as unpacking, cannot be broken off, but ends.
        drop(self.node.busy.write().await);
    }

    /// Runs `work` in a task of its own: a caller that leaves does not stop it half-way.
    async fn run_to_end<T, F>(&self, name: &'static str, work: impl FnOnce(Arc<Node>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let work = work(Arc::clone(&self.node));
        self.node.spawn(async move {
            let _ = answer.send(work.await); // nobody waits any more: fine
        });
        answered.await.unwrap_or(Err(Error::TaskDied(name)))
    }
}

impl Node {
    fn open(config: ImageStoreConfig, registries: RegistrySettings) -> Result<Self> {
        durable::make_passable_dir(&config.root)?;
        let root = config
            .root
            .canonicalize()
            .map_err(|error| Error::io("resolve", &config.root, error))?;
        // Overlay options separate and escape with these.
        if root
            .to_str()
            .is_none_or(|text| text.contains([':', ',', '\\', '\n', ' ']))
        {
            return Err(Error::UnusableRoot {
                root,
                reason: "its path has a character that mount options cannot hold",
            });
        }
        let (layers, found_layers) = LayerStore::open(&root)?;
        let (index, records) = ImageIndex::open(&root)?;
        let overlays = Overlays::open(&root)?;
        let mut state = State {
            layers: found_layers,
            ..State::default()
        };
        for rootfs in overlays.restore()? {
            state.rootfs.insert(rootfs.container.clone(), rootfs);
        }
        for (record, document) in records {
            if let Some(missing) = record.layers.iter().find(|layer| !state.layers.contains_key(*layer)) {
                index.quarantine(&record.id, &format!("its layer {missing} is not here"))?;
                continue;
            }
            let image = Image::new(record, document.config);
            state.images.insert(image.id.clone(), Arc::new(image));
        }
        state.settle_names(&config.pinned_images);
        Ok(Self {
            mountpoint: mountpoint_of(&root)?,
            sources: Arc::new(Sources::open(config.pull_files)?),
            pinned_images: config.pinned_images,
            limits: config.limits,
            registries,
            layers,
            index,
            overlays,
            state: Mutex::new(state),
            pulls: SharedPulls::default(),
            transfers: Transfers::default(),
            index_writer: Arc::default(),
            layer_locks: KeyedLocks::new(),
            container_locks: KeyedLocks::new(),
            tasks: Mutex::new(JoinSet::new()),
            unpacks: Arc::new(Semaphore::new(PARALLEL_UNPACKS)),
            busy: Arc::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {} // those that have ended; a panic among them is logged by its hook
        tasks.spawn(task);
    }

    /// Runs what blocks where blocking is allowed.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        name: &'static str,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let busy = Arc::clone(&self.busy).read_owned().await;
        let node = Arc::clone(self);
        blocking(name, move || {
            let result = work(&node);
            drop(node); // before it counts as done: after a shutdown nothing holds the store open
            drop(busy);
            result
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(Error::TaskDied(name)))
}

/// The mount point of the file system that `path` (absolute, without links) is on: the nearest one above it.
fn mountpoint_of(path: &Path) -> Result<PathBuf> {
    let mountinfo =
        fs::read_to_string("/proc/self/mountinfo").map_err(|error| Error::io("read", "/proc/self/mountinfo", error))?;
    let mounts: BTreeSet<&str> = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    let nearest = path
        .ancestors()
        .find(|above| above.to_str().is_some_and(|above| mounts.contains(above)));
    Ok(nearest.unwrap_or(Path::new("/")).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_point_of_a_path_is_the_nearest_above() {
        assert_eq!(mountpoint_of(Path::new("/proc/self")).unwrap(), Path::new("/proc"));
    }
}
