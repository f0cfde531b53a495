//! Checkpoints of containers: made and unpacked in a directory of the container's root file system, on its disk, and told
//! as archives of the form that CRI-O, Podman and checkpointctl know. An image whose layers hold the same files is as good.
//!
//! ```text
//! checkpoint/        the processes, as criu writes them       → <container>/checkpoint/images
//! rootfs-diff.tar    files that the container has written     ← its writable layer; → its root file system
//! deleted.files      files of its image that it has removed   ← whiteouts of its writable layer
//! config.dump, spec.dump, bind.mounts                         what it is, for whoever restores it
//! dump.log, stats-dump                                        what criu says of its work
//! ```

mod diff;
mod export;
mod import;
mod layers;

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::catalog::Lease;
use super::{ImageStore, beneath, blocking};
use crate::drivers::seams::{
    CheckpointExport, CheckpointHead, CheckpointPlace, CheckpointSource, Checkpoints, DriverError, DriverResult,
};
use crate::model::ContainerId;
use layers::Layers;

const CONFIG_DUMP: &str = "config.dump";
const SPEC_DUMP: &str = "spec.dump";
const BIND_MOUNTS: &str = "bind.mounts";
const PROCESSES: &str = "checkpoint";
const ROOTFS_DIFF: &str = "rootfs-diff.tar";
const DELETED_FILES: &str = "deleted.files";

/// Names in the place of a checkpoint.
const IMAGES: &str = "images";
const WORK: &str = "work";

#[async_trait]
impl Checkpoints for ImageStore {
    async fn make_place(&self, id: &ContainerId) -> DriverResult<CheckpointPlace> {
        let directory = self.node.overlays.checkpoint(id.as_str())?;
        in_background("making room for a checkpoint", move || make_place(&directory)).await
    }

    fn place(&self, id: &ContainerId) -> Option<CheckpointPlace> {
        let directory = self.node.overlays.checkpoint(id.as_str()).ok()?;
        directory.is_dir().then(|| place_in(&directory))
    }

    async fn remove_place(&self, id: &ContainerId) -> DriverResult<()> {
        let directory = self.node.overlays.checkpoint(id.as_str())?;
        in_background("removing a checkpoint", move || remove(&directory)).await
    }

    async fn export(&self, id: &ContainerId, export: CheckpointExport) -> DriverResult<()> {
        let directory = self.node.overlays.checkpoint(id.as_str())?;
        let upper = self.node.overlays.upper(id.as_str())?;
        let layers = self
            .node
            .state()
            .rootfs
            .get(id.as_str())
            .map(|rootfs| rootfs.layers.clone());
        let layers = layers.unwrap_or_default();
        let layers: Vec<PathBuf> = layers.iter().map(|layer| self.node.layers.content(layer)).collect();
        in_background("writing a checkpoint", move || {
            export::write(&directory, &upper, &layers, export)
        })
        .await
    }

    async fn inspect(&self, from: &CheckpointSource) -> DriverResult<CheckpointHead> {
        let (opened, limits) = (self.checkpoint_at(from)?, self.node.limits.clone());
        in_background("reading a checkpoint", move || match opened {
            Opened::Archive(archive) => import::head(&archive, &limits),
            Opened::Image { id, layers, _lease } => Layers::open(&id, &layers)?.head(),
        })
        .await
    }

    async fn import(&self, id: &ContainerId, from: &CheckpointSource, rootfs: &Path) -> DriverResult<CheckpointPlace> {
        let directory = self.node.overlays.checkpoint(id.as_str())?;
        let (opened, rootfs, limits) = (self.checkpoint_at(from)?, rootfs.to_owned(), self.node.limits.clone());
        in_background("unpacking a checkpoint", move || {
            let place = make_place(&directory)?;
            match opened {
                Opened::Archive(archive) => import::unpack(&archive, &directory, &place, &rootfs, &limits)?,
                Opened::Image { id, layers, _lease } => Layers::open(&id, &layers)?.unpack(&place, &rootfs, &limits)?,
            }
            Ok(place)
        })
        .await
    }
}

/// Where a checkpoint is read from.
enum Opened {
    Archive(PathBuf),
    Image {
        id: String,
        /// Directories, from the top down, that stay as long as the lease does.
        layers: Vec<PathBuf>,
        _lease: Lease,
    },
}

impl ImageStore {
    fn checkpoint_at(&self, from: &CheckpointSource) -> DriverResult<Opened> {
        Ok(match from {
            CheckpointSource::Archive(path) => Opened::Archive(path.clone()),
            CheckpointSource::Image(id) => {
                let image = self.resolve(id)?;
                let _lease = self.node.lease(&image.layers);
                let layers = image.layers.iter().rev().map(|layer| self.node.layers.content(layer));
                Opened::Image {
                    id: id.clone(),
                    layers: layers.collect(),
                    _lease,
                }
            }
        })
    }
}

async fn in_background<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> DriverResult<T> + Send + 'static,
) -> DriverResult<T> {
    blocking(what, move || Ok(work())).await?
}

fn place_in(directory: &Path) -> CheckpointPlace {
    CheckpointPlace {
        images: directory.join(IMAGES),
        work: directory.join(WORK),
    }
}

fn make_place(directory: &Path) -> DriverResult<CheckpointPlace> {
    remove(directory)?;
    let place = place_in(directory);
    for made in [directory, &place.images, &place.work] {
        let done = fs::DirBuilder::new().mode(0o700).create(made);
        done.map_err(|error| DriverError::io(format!("make {}", made.display()), &error))?;
    }
    Ok(place)
}

fn remove(directory: &Path) -> DriverResult<()> {
    beneath::remove_dir_all(directory)
        .map_err(|error| DriverError::io(format!("remove {}", directory.display()), &error))
}

#[cfg(test)]
mod tests;
