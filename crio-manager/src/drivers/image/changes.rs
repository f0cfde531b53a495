//! What changes what there is: the disk first, then the memory.

use super::config::ConfigDocument;
use super::digest::{DiffId, ImageId};
use super::layers::{LayerSize, LayerStore};
use super::overlay::{self, ContainerRootfs, MountedRootfs};
use super::store::ImageRecord;
use super::{Error, Image, Limits, Node, Result};
use crate::model::selinux::View;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

impl Node {
    /// Sees to it that `layer` is here; `fetch` gets its blob if it is not. The caller holds a lease on it.
    pub(super) async fn ensure_layer<B>(
        self: &Arc<Self>,
        layer: DiffId,
        fetch: impl Future<Output = Result<B>>,
    ) -> Result<()>
    where
        B: std::io::Read + Send + 'static,
    {
        self.ensure_layer_by(layer, fetch, |layers, layer, blob, limits| {
            layers.add(layer, blob, limits)
        })
        .await
    }

    /// As [`Self::ensure_layer`]; `add` makes the layer of what was fetched.
    pub(super) async fn ensure_layer_by<B: Send + 'static>(
        self: &Arc<Self>,
        layer: DiffId,
        fetch: impl Future<Output = Result<B>>,
        add: impl FnOnce(&LayerStore, &DiffId, B, &Limits) -> Result<LayerSize> + Send + 'static,
    ) -> Result<()> {
        let lock = self.layer_locks.lock(layer.clone()).await;
        if self.state().layers.contains_key(&layer) {
            return Ok(());
        }
        let blob = fetch.await?;
        let turn = Arc::clone(&self.unpacks).acquire_owned().await;
        // The memory is told where the disk is written: an aborted wait must not part them.
        self.blocking("unpacking a layer", move |node| {
            let (_turn, _lock) = (turn, lock); // as long as it writes, though nobody may wait for it any more
            let size = add(&node.layers, &layer, blob, &node.limits)?;
            node.state().layers.insert(layer, size);
            Ok(())
        })
        .await
    }

    /// Puts an image, whose layers are here and leased, into the index under these names.
    pub(super) async fn record_image(
        self: &Arc<Self>,
        document: ConfigDocument,
        tags: Vec<String>,
        digests: Vec<String>,
    ) -> Result<ImageId> {
        let writer = Arc::clone(&self.index_writer).lock_owned().await;
        let (id, kind) = (document.id.clone(), document.kind);
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
                        kind: document.kind,
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
            if !is_new && !has_new_names && image.kind == kind {
                return Ok(id);
            }
            // Manifests that differ in this alone lead to one configuration, which is the image: the last one counts.
            image.kind = kind;
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

    pub(super) async fn remove_image(self: &Arc<Self>, name: &str, in_use: impl Fn(&ImageId) -> bool) -> Result<()> {
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

    pub(super) async fn remove_unused_layers(self: &Arc<Self>) -> Result<()> {
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

    pub(super) async fn mount_rootfs(
        self: &Arc<Self>,
        container: String,
        image: ImageId,
        view: View,
    ) -> Result<MountedRootfs> {
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
                volumes: existing.map(|rootfs| rootfs.volumes.clone()).unwrap_or_default(),
            };
            state.rootfs.insert(container.clone(), rootfs.clone());
            rootfs
        };
        self.blocking("mounting a root file system", move |node| {
            let _lock = lock;
            let content: Vec<PathBuf> = rootfs.layers.iter().map(|layer| node.layers.content(layer)).collect();
            let mounted = node.overlays.mount(&rootfs, &content, &view);
            mounted.inspect_err(|_| match node.overlays.unmount(&container) {
                Ok(()) => drop(node.state().rootfs.remove(&container)),
                Err(error) => {
                    tracing::warn!(%error, container_id = container, "undo a failed mount, leaving it to the next try");
                }
            })
        })
        .await
    }

    pub(super) async fn unmount_rootfs(self: &Arc<Self>, container: String) -> Result<()> {
        let lock = self.container_locks.lock(container.clone()).await;
        let an_image_is_gone = self
            .blocking("unmounting a root file system", move |node| {
                let _lock = lock;
                node.overlays.unmount(&container)?;
                let mut state = node.state();
                let removed = state.rootfs.remove(&container);
                let images = removed.iter().flat_map(ContainerRootfs::images);
                Ok(images.into_iter().any(|image| !state.images.contains_key(image)))
            })
            .await?;
        if an_image_is_gone {
            self.remove_unused_layers().await?;
        }
        Ok(())
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

fn now_ns() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}
