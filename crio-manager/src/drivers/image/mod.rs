//! Images: pulled or loaded, kept, and mounted as root file systems.
//!
//! ```text
//! registry ─ pull ─┐
//!                  ├─ layers (unpacked, by digest) ─ overlay ─ a container's root file system
//! archive ── load ─┘      └─ store (one record per image)
//! ```
//!
//! What there is, is in memory ([`State`], behind a short lock) and answers every question; the disk is written first and
//! holds whole things only, so what a crash leaves is removed by the next [`ImageStore::open`]. A layer is kept as long as
//! an image has it, a pull under way wants it, or a container's root file system lies on it.

mod auth_file;
pub mod beneath;
mod compression;
pub mod config;
pub mod credentials;
pub mod digest;
mod durable;
pub mod error;
mod keyed_locks;
mod layers;
mod load;
mod manifest;
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
pub mod unpack;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, Mode, OFlags};
use tokio::sync::{RwLock, Semaphore, oneshot};
use tokio::task::JoinSet;

pub use config::{ImageConfig, Untrusted};
pub use credentials::Credentials;
pub use digest::{DiffId, Digest, ImageId};
pub use error::{Error, Result};
pub use load::LoadedImage;
pub use overlay::{ContainerRootfs, MountedRootfs};
pub use reference::ImageRef;
pub use rootfs::FileOwner;
pub use sources::{PullFiles, PullRequest};
pub use unpack::Limits;

use config::ConfigDocument;
use keyed_locks::KeyedLocks;
use layers::{LayerSize, LayerStore};
use overlay::Overlays;
use pull::SharedPulls;
use registry::{InsecureRegistry, RegistrySettings};
use sources::Sources;
use store::{ImageIndex, ImageRecord};

/// How many layers are unpacked at once, whoever wants them: each may need a window of 128 MiB, and there is one disk.
const PARALLEL_UNPACKS: usize = 4;
const LOCK_FILE: &str = "lock";
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
    /// `registry/path:tag`
    pub tags: Vec<String>,
    /// `registry/path@digest`
    pub digests: Vec<String>,
    /// Unpacked, with layers that other images have too.
    pub size_bytes: u64,
    pub pinned: bool,
    pub layers: Vec<DiffId>,
    pub config: Arc<Untrusted<ImageConfig>>,
    /// The configuration document as it came.
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
    /// Held across the awaits of a change to the index: one writer at a time.
    index_writer: Arc<tokio::sync::Mutex<()>>,
    layer_locks: KeyedLocks<DiffId>,
    container_locks: KeyedLocks<String>,
    tasks: Mutex<JoinSet<()>>,
    unpacks: Arc<Semaphore>,
    /// Read by whatever blocks on behalf of the store: with the write lock, nothing does.
    busy: Arc<RwLock<()>>,
    /// Held as long as the store is open: the root has one owner.
    _lock: OwnedFd,
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
    pub async fn mount_rootfs(&self, container: &str, image: &ImageId) -> Result<MountedRootfs> {
        let (container, image) = (container.to_owned(), image.clone());
        self.run_to_end("mounting a root file system", |node| async move {
            node.mount_rootfs(container, image).await
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
        durable::make_private_dir(&config.root)?;
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
        let lock = lock(&root)?;
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
            index_writer: Arc::default(),
            layer_locks: KeyedLocks::new(),
            container_locks: KeyedLocks::new(),
            tasks: Mutex::new(JoinSet::new()),
            unpacks: Arc::new(Semaphore::new(PARALLEL_UNPACKS)),
            busy: Arc::default(),
            _lock: lock,
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

    /// Names before ids: a name that looks like the beginning of an id is still that name.
    fn find(&self, name: &str) -> Result<Option<Arc<Image>>> {
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let is_hex = digest::is_lower_hex(hex);
        let state = self.state();
        if is_hex && let Ok(id) = Digest::parse(&format!("sha256:{hex}")).and_then(ImageId::try_from) {
            return Ok(state.images.get(&id).cloned());
        }
        let references = self.sources.registries().candidates(name);
        for reference in references.iter().flatten() {
            let found = reference
                .digested_name()
                .or_else(|| reference.tagged_name())
                .and_then(|n| state.names.get(&n));
            if let Some(image) = found.and_then(|id| state.images.get(id)) {
                return Ok(Some(Arc::clone(image)));
            }
        }
        if is_hex && hex.len() >= reference::MIN_ID_PREFIX {
            let mut matching = state.images.values().filter(|image| image.id.hex().starts_with(hex));
            return match (matching.next(), matching.next()) {
                (Some(_), Some(_)) => Err(Error::AmbiguousId {
                    prefix: name.to_owned(),
                }),
                (found, _) => Ok(found.cloned()),
            };
        }
        references.map(|_| None)
    }

    /// Keeps `layers` from being removed until the lease is dropped.
    fn lease(self: &Arc<Self>, layers: &[DiffId]) -> Lease {
        let mut state = self.state();
        for layer in layers {
            *state.leases.entry(layer.clone()).or_default() += 1;
        }
        Lease {
            node: Arc::clone(self),
            layers: layers.to_vec(),
        }
    }

    /// Sees to it that `layer` is here; `fetch` gets its blob if it is not. The caller holds a lease on it.
    async fn ensure_layer<B>(self: &Arc<Self>, layer: DiffId, fetch: impl Future<Output = Result<B>>) -> Result<()>
    where
        B: std::io::Read + Send + 'static,
    {
        let lock = self.layer_locks.lock(layer.clone()).await;
        if self.state().layers.contains_key(&layer) {
            return Ok(());
        }
        let blob = fetch.await?;
        let turn = Arc::clone(&self.unpacks).acquire_owned().await;
        // The memory is told where the disk is written: an aborted wait must not part them.
        self.blocking("unpacking a layer", move |node| {
            let (_turn, _lock) = (turn, lock); // as long as it writes, though nobody may wait for it any more
            let size = node.layers.add(&layer, blob, &node.limits)?;
            node.state().layers.insert(layer, size);
            Ok(())
        })
        .await
    }

    /// Puts an image, whose layers are here and leased, into the index under these names.
    async fn record_image(
        self: &Arc<Self>,
        document: ConfigDocument,
        tags: Vec<String>,
        digests: Vec<String>,
    ) -> Result<ImageId> {
        let writer = Arc::clone(&self.index_writer).lock_owned().await;
        let id = document.id.clone();
        let mut changed = Vec::new();
        {
            let state = self.state();
            let mut image = match state.images.get(&id) {
                Some(image) => Image::clone(image),
                None => {
                    let layer_bytes = document
                        .layers
                        .iter()
                        .filter_map(|layer| state.layers.get(layer))
                        .map(|l| l.bytes);
                    let record = ImageRecord {
                        id: id.clone(),
                        size_bytes: layer_bytes.sum::<u64>() + document.text.len() as u64,
                        config: document.text,
                        layers: document.layers,
                        tags: Vec::new(),
                        digests: Vec::new(),
                        tagged_at_ns: 0,
                    };
                    Image::new(record, document.config)
                }
            };
            let is_new = !state.images.contains_key(&id);
            let has_new_names = add_missing(&mut image.tags, &tags) | add_missing(&mut image.digests, &digests);
            if !is_new && !has_new_names {
                return Ok(id);
            }
            image.tagged_at_ns = now_ns().max(image.tagged_at_ns + 1);
            let losers = state
                .images
                .values()
                .filter(|other| other.id != id && other.tags.iter().any(|tag| tags.contains(tag)));
            let losers = losers.map(|other| {
                let mut other = Image::clone(other);
                other.tags.retain(|tag| !tags.contains(tag));
                other
            });
            changed.extend(losers);
            // First: after a crash in between, two images have the tag, and the later one counts.
            changed.insert(0, image);
        }
        self.blocking("writing the image index", move |node| {
            let _writer = writer;
            for image in &changed {
                node.index.write(&image.record())?;
            }
            let mut state = node.state();
            for image in changed {
                state.images.insert(image.id.clone(), Arc::new(image));
            }
            state.settle_names(&node.pinned_images);
            Ok(())
        })
        .await?;
        Ok(id)
    }

    async fn remove_image(self: &Arc<Self>, name: &str, in_use: impl Fn(&ImageId) -> bool) -> Result<()> {
        let writer = Arc::clone(&self.index_writer).lock_owned().await;
        let Some(image) = self.find(name)? else { return Ok(()) };
        if in_use(&image.id) {
            return Err(Error::InUse(image.id.clone()));
        }
        self.blocking("writing the image index", move |node| {
            let _writer = writer;
            node.index.remove(&image.id)?;
            let mut state = node.state();
            state.images.remove(&image.id);
            state.settle_names(&node.pinned_images);
            Ok(())
        })
        .await
    }

    async fn remove_unused_layers(self: &Arc<Self>) -> Result<()> {
        let unused = self.state().unused_layers();
        for layer in unused {
            let lock = self.layer_locks.lock(layer.clone()).await;
            self.blocking("removing a layer", move |node| {
                let _lock = lock;
                let Some(size) = node.state().forget_if_unused(&layer) else {
                    return Ok(());
                };
                let removed = node.layers.remove(&layer);
                if removed.is_err() && node.layers.content(&layer).exists() {
                    node.state().layers.insert(layer, size); // still there, so still counted and tried again
                }
                removed
            })
            .await?;
        }
        Ok(())
    }

    async fn mount_rootfs(self: &Arc<Self>, container: String, image: ImageId) -> Result<MountedRootfs> {
        if !overlay::is_container_id(&container) {
            return Err(Error::InvalidContainerId(container.chars().take(64).collect()));
        }
        let lock = self.container_locks.lock(container.clone()).await;
        let rootfs = {
            let mut state = self.state();
            let existing = state.rootfs.get(&container);
            match existing.and_then(|rootfs| rootfs.image.clone()) {
                Some(mounted) if mounted != image => {
                    return Err(Error::MountedFromOther {
                        container,
                        mounted,
                        wanted: image,
                    });
                }
                Some(_) => {}
                None if existing.is_some() => tracing::warn!(container_id = container, "mounting what has no record"),
                None => {}
            }
            let layers = match (existing, state.images.get(&image)) {
                (Some(existing), _) if existing.image.is_some() => existing.layers.clone(),
                (_, Some(image)) => image.layers.clone(),
                (_, None) => return Err(Error::NoSuchImage(image.to_string())),
            };
            let rootfs = ContainerRootfs {
                container: container.clone(),
                image: Some(image),
                layers,
            };
            state.rootfs.insert(container.clone(), rootfs.clone());
            rootfs
        };
        self.blocking("mounting a root file system", move |node| {
            let _lock = lock;
            let content: Vec<PathBuf> = rootfs.layers.iter().map(|layer| node.layers.content(layer)).collect();
            node.overlays.mount(&rootfs, &content).inspect_err(|_| {
                match node.overlays.unmount(&container) {
                    Ok(()) => drop(node.state().rootfs.remove(&container)),
                    Err(error) => {
                        tracing::warn!(%error, container_id = container, "undo a failed mount, leaving it to the next try");
                    }
                }
            })
        })
        .await
    }

    async fn unmount_rootfs(self: &Arc<Self>, container: String) -> Result<()> {
        let lock = self.container_locks.lock(container.clone()).await;
        let image_is_gone = self
            .blocking("unmounting a root file system", move |node| {
                let _lock = lock;
                node.overlays.unmount(&container)?;
                let mut state = node.state();
                let image = state.rootfs.remove(&container).and_then(|rootfs| rootfs.image);
                Ok(image.is_some_and(|image| !state.images.contains_key(&image)))
            })
            .await?;
        if image_is_gone {
            self.remove_unused_layers().await?;
        }
        Ok(())
    }
}

/// A claim on layers; see [`Node::lease`].
struct Lease {
    node: Arc<Node>,
    layers: Vec<DiffId>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.node.state();
        for layer in &self.layers {
            if let Some(count) = state.leases.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    state.leases.remove(layer);
                }
            }
        }
    }
}

impl State {
    /// Rebuilds what follows from the names of all images. A tag that two images have, as after a crash, belongs to the one
    /// tagged later.
    fn settle_names(&mut self, pinned_patterns: &[String]) {
        self.names.clear();
        let mut by_age: Vec<Arc<Image>> = self.images.values().cloned().collect();
        by_age.sort_by_key(|image| image.tagged_at_ns);
        for image in by_age {
            for name in image.tags.iter().chain(&image.digests) {
                let loser = self.names.insert(name.clone(), image.id.clone());
                if let Some(loser) = loser.and_then(|id| self.images.get_mut(&id)) {
                    Arc::make_mut(loser).tags.retain(|tag| tag != name);
                }
            }
        }
        for image in self.images.values_mut() {
            let pinned = is_pinned(&image.tags, pinned_patterns);
            if image.pinned != pinned {
                Arc::make_mut(image).pinned = pinned;
            }
        }
    }

    fn unused_layers(&self) -> Vec<DiffId> {
        let of_images = self.images.values().flat_map(|image| &image.layers);
        let of_containers = self.rootfs.values().flat_map(|rootfs| &rootfs.layers);
        let used: BTreeSet<&DiffId> = of_images.chain(of_containers).chain(self.leases.keys()).collect();
        self.layers
            .keys()
            .filter(|layer| !used.contains(layer))
            .cloned()
            .collect()
    }

    fn forget_if_unused(&mut self, layer: &DiffId) -> Option<LayerSize> {
        let is_used = self.leases.contains_key(layer)
            || self.images.values().any(|image| image.layers.contains(layer))
            || self.rootfs.values().any(|rootfs| rootfs.layers.contains(layer));
        if is_used { None } else { self.layers.remove(layer) }
    }
}

impl Image {
    fn new(record: ImageRecord, config: ImageConfig) -> Self {
        Self {
            id: record.id,
            tags: record.tags,
            digests: record.digests,
            size_bytes: record.size_bytes,
            pinned: false, // until its names are settled
            layers: record.layers,
            config: Arc::new(Untrusted::new(config)),
            config_text: record.config.into(),
            tagged_at_ns: record.tagged_at_ns,
        }
    }

    fn record(&self) -> ImageRecord {
        ImageRecord {
            id: self.id.clone(),
            config: self.config_text.to_string(),
            layers: self.layers.clone(),
            tags: self.tags.clone(),
            digests: self.digests.clone(),
            size_bytes: self.size_bytes,
            tagged_at_ns: self.tagged_at_ns,
        }
    }
}

/// Whether anything was missing.
fn add_missing(names: &mut Vec<String>, wanted: &[String]) -> bool {
    let before = names.len();
    for name in wanted {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names.len() > before
}

fn is_pinned(tags: &[String], patterns: &[String]) -> bool {
    patterns.iter().any(|pattern| {
        let matches = |tag: &String| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
            (Some(_), Some(_)) => tag.contains(pattern.trim_matches('*')),
            (None, Some(prefix)) => tag.starts_with(prefix),
            _ => tag == pattern || ImageRef::parse(pattern).is_ok_and(|name| name.to_string() == *tag),
        };
        tags.iter().any(matches)
    })
}

async fn blocking<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(Error::TaskDied(name)))
}

fn now_ns() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}

fn lock(root: &Path) -> Result<OwnedFd> {
    let path = root.join(LOCK_FILE);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).map_err(|e| Error::io("open", &path, e))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::StoreLocked(root.to_owned())),
        Err(error) => Err(Error::io("lock", &path, error)),
    }
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
    fn pinned_names_are_exact_or_begin_or_contain() {
        let tags = ["docker.io/library/pause:3.10".to_owned()];
        for (pattern, pins) in [
            ("docker.io/library/pause:3.10", true),
            ("pause:3.10", true),
            ("docker.io/library/pause:*", true),
            ("*pause*", true),
            ("pause:3.1", false),
            ("pause*", false),
            ("*other*", false),
        ] {
            assert_eq!(is_pinned(&tags, &[pattern.to_owned()]), pins, "{pattern}");
        }
    }

    #[test]
    fn the_mount_point_of_a_path_is_the_nearest_above() {
        assert_eq!(mountpoint_of(Path::new("/proc/self")).unwrap(), Path::new("/proc"));
    }
}
