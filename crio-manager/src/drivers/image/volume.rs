//! Images as volumes of containers: all of one, or what lies at a path in it.

use super::beneath::{self, Root, path_of};
use super::overlay::Volume;
use super::{Error, ImageId, ImageStore, Node, Result};
use crate::model::selinux::View;
use rustix::fs::{FileType, OFlags};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl ImageStore {
    /// Mounts `image` read-only beside the root file system of a container, as its volume `number`, and tells where
    /// `sub_path` (empty for all of it) of it is. The unmount of the root file system takes it away.
    pub async fn mount_volume(
        &self,
        container: &str,
        number: usize,
        image: &ImageId,
        sub_path: &str,
        view: &View,
    ) -> Result<PathBuf> {
        let (container, image, sub_path) = (container.to_owned(), image.clone(), sub_path.to_owned());
        let view = view.clone();
        self.run_to_end("mounting an image", move |node| async move {
            node.mount_volume(container, number, image, sub_path, view).await
        })
        .await
    }
}

impl Node {
    async fn mount_volume(
        self: &Arc<Self>,
        container: String,
        number: usize,
        image: ImageId,
        sub_path: String,
        view: View,
    ) -> Result<PathBuf> {
        let lock = self.container_locks.lock(container.clone()).await;
        let (rootfs, layers) = {
            // In one moment: from then on nobody removes the layers.
            let mut state = self.state();
            let found = state.images.get(&image).map(|image| image.layers.clone());
            let layers = found.ok_or_else(|| Error::NoSuchImage(image.to_string()))?;
            if layers.is_empty() {
                return Err(Error::InvalidImage {
                    what: image.to_string(),
                    reason: "it holds no files: there is nothing to mount".to_owned(),
                });
            }
            let rootfs = state.rootfs.get_mut(&container);
            let rootfs = rootfs.ok_or_else(|| Error::NoRootfs(container.clone()))?;
            rootfs.volumes.retain(|volume| volume.number != number);
            rootfs.volumes.push(Volume {
                number,
                image,
                layers: layers.clone(),
            });
            (rootfs.clone(), layers)
        };
        self.blocking("mounting an image", move |node| {
            let _lock = lock;
            let content: Vec<PathBuf> = layers.iter().map(|layer| node.layers.content(layer)).collect();
            let mounted = node.overlays.mount_volume(&rootfs, number, &content, &view)?;
            inside(&mounted, &sub_path)
        })
        .await
    }
}

/// The file or directory `path` in a mounted image, links followed inside. What is there cannot be changed by anybody, so
/// the path that is found is the path that will be.
fn inside(mounted: &Path, path: &str) -> Result<PathBuf> {
    let refused = |reason| Error::InvalidPath {
        path: path.chars().take(120).collect(),
        reason,
    };
    let Some(cleaned) = beneath::clean(path.as_bytes()) else {
        return Err(refused("it steps upwards, or has a NUL"));
    };
    let root = Root::open(mounted).map_err(|error| Error::io("open", mounted, error))?;
    let found = root
        .open_at(&cleaned, OFlags::PATH)
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => refused("it is not there"),
            _ if beneath::is_link_loop(&error) => refused("the links on the way have no end"),
            _ => Error::io("look into", mounted, error),
        })?;
    let stat = rustix::fs::fstat(&found).map_err(|error| Error::io("look into", mounted, error))?;
    if !matches!(
        FileType::from_raw_mode(stat.st_mode),
        FileType::Directory | FileType::RegularFile
    ) {
        return Err(refused("it is neither a directory nor a regular file"));
    }
    let real = std::fs::read_link(path_of(&found)).map_err(|error| Error::io("look into", mounted, error))?;
    match real.starts_with(mounted) && real.to_str().is_some() {
        true => Ok(real),
        false => Err(refused("where it leads has no name that a mount can have")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_path_in_an_image_never_leads_out_of_it() {
        let outside = tempfile::tempdir().unwrap();
        let base = outside.path().canonicalize().unwrap();
        let image = base.join("image");
        std::fs::create_dir_all(image.join("srv/data")).unwrap();
        std::fs::write(base.join("secret"), "host").unwrap();
        std::fs::write(image.join("srv/file"), "").unwrap();
        symlink("/srv/data", image.join("absolute")).unwrap();
        symlink("../../../../srv", image.join("srv/data/up")).unwrap();
        symlink(base.join("secret"), image.join("out")).unwrap();
        symlink("../secret", image.join("up")).unwrap();
        symlink("loop", image.join("loop")).unwrap();
        symlink("/proc/self/root", image.join("magic")).unwrap();
        let fifo = image.join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, 0o600.into(), 0).unwrap();

        for (path, leads_to) in [
            ("", ""),
            ("/", ""),
            ("./srv//data/", "srv/data"),
            ("/srv/file", "srv/file"),
            ("absolute", "srv/data"),
            ("srv/data/up/file", "srv/file"),
        ] {
            assert_eq!(inside(&image, path).unwrap(), image.join(leads_to), "{path}");
        }
        for path in [
            "none",
            "out",
            "up",
            "loop",
            "magic",
            "fifo",
            "..",
            "srv/../..",
            "srv/file/x",
            "a\0b",
        ] {
            assert!(
                matches!(inside(&image, path), Err(Error::InvalidPath { .. })),
                "{path:?}"
            );
        }
    }
}
