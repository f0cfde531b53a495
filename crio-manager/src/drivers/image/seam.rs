//! The image store as the lifecycle sees it.

use super::config::{ImageConfig, Untrusted};
use super::overlay::MountedRootfs;
use super::{Error, Image, ImageStore, Kind, PullRequest};
use crate::drivers::seams::{
    DriverError, DriverResult, ErrorKind, ImageFsUsage, ImageSummary, Images, InUse, LayerUsage, MountedImage,
    ResolvedImage, Space,
};
use crate::model::ContainerId;
use crate::model::container::ImageMount;
use crate::model::selinux::View;
use crate::model::users::Owner;
use crate::spec;
use async_trait::async_trait;
use std::path::{Path, PathBuf};

impl From<Error> for DriverError {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::InvalidReference { .. }
            | Error::AmbiguousId { .. }
            | Error::InvalidCredentials(_)
            | Error::InvalidSetting { .. }
            | Error::InvalidContainerId(_)
            | Error::InvalidPath { .. }
            | Error::FileTooLarge { .. }
            | Error::OnlyAVolume(_)
            | Error::UnsupportedMediaType { .. }
            | Error::NoPlatform { .. } => ErrorKind::Invalid,
            Error::NoSuchImage(_) | Error::NotFound { .. } => ErrorKind::NotFound,
            Error::InUse(_) | Error::StillMounted(_) => ErrorKind::InUse,
            Error::Unreachable { .. } | Error::Tls { .. } => ErrorKind::Unavailable,
            Error::Unauthorized { .. } | Error::Blocked(_) => ErrorKind::Denied,
            Error::Untrusted { .. } => ErrorKind::Untrusted,
            Error::Stalled { .. } => ErrorKind::TimedOut,
            Error::DiskFull(_) => ErrorKind::Exhausted,
            Error::Refused { .. }
            | Error::Transfer { .. }
            | Error::DigestMismatch { .. }
            | Error::SizeMismatch { .. }
            | Error::TooLarge { .. }
            | Error::InvalidImage { .. }
            | Error::Unpack { .. }
            | Error::Io { .. }
            | Error::InvalidFile { .. }
            | Error::NoRootfs(_)
            | Error::UnusableRoot { .. }
            | Error::MountedFromOther { .. }
            | Error::TaskDied(_) => ErrorKind::Failed,
        };
        DriverError::chain(kind, &error)
    }
}

fn rootfs(path: &Path) -> MountedRootfs {
    MountedRootfs { path: path.to_owned() }
}

fn summary(image: &Image) -> ImageSummary {
    ImageSummary {
        id: image.id.to_string(),
        tags: image.tags.clone(),
        digests: image.digests.clone(),
        size_bytes: image.size_bytes,
        pinned: image.pinned,
        user: image.config.as_untrusted().user.clone(),
        config: image.config_text.to_string(),
    }
}

/// What of an image's config its own container's spec may look at.
fn spec_config(config: &Untrusted<ImageConfig>) -> spec::ImageConfig {
    let config = config.as_untrusted();
    spec::ImageConfig {
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        env: config.env.clone(),
        working_dir: config.working_dir.clone().unwrap_or_default(),
        user: config.user.clone(),
        volumes: config.volumes.clone(),
    }
}

#[async_trait]
impl Images for ImageStore {
    async fn resolve(&self, image: &str) -> DriverResult<ResolvedImage> {
        let image = ImageStore::resolve(self, image)?;
        if image.kind == Kind::Artifact {
            return Err(Error::OnlyAVolume(image.id.clone()).into());
        }
        let id = image.id.to_string();
        Ok(ResolvedImage {
            image_ref: image.digests.first().cloned().unwrap_or_else(|| id.clone()),
            config: spec_config(&image.config),
            is_checkpoint: image.kind == Kind::Checkpoint,
            stop_signal: image.config.as_untrusted().stop_signal.clone().unwrap_or_default(),
            id,
        })
    }

    async fn mount_rootfs(&self, id: &ContainerId, image_id: &str, view: &View) -> DriverResult<PathBuf> {
        let image = ImageStore::resolve(self, image_id)?;
        Ok(ImageStore::mount_rootfs(self, id.as_str(), &image.id, view).await?.path)
    }

    async fn mount_image(
        &self,
        id: &ContainerId,
        number: usize,
        image: &ImageMount,
        view: &View,
    ) -> DriverResult<MountedImage> {
        let of = ImageStore::resolve(self, &image.image)?;
        Ok(MountedImage {
            image_id: of.id.to_string(),
            path: self
                .mount_volume(id.as_str(), number, &of.id, &image.sub_path, view)
                .await?,
        })
    }

    async fn unmount_rootfs(&self, id: &ContainerId) -> DriverResult<()> {
        Ok(ImageStore::unmount_rootfs(self, id.as_str()).await?)
    }

    async fn read_file(&self, path: &Path, file: &str) -> DriverResult<Option<Vec<u8>>> {
        Ok(ImageStore::read_file(self, &rootfs(path), file).await?)
    }

    async fn ensure_dir(&self, path: &Path, directory: &str, owner: Owner) -> DriverResult<()> {
        Ok(ImageStore::ensure_dir(self, &rootfs(path), directory, owner.uid, owner.gid).await?)
    }

    async fn pull(&self, request: PullRequest) -> DriverResult<String> {
        Ok(ImageStore::pull(self, request).await?.to_string())
    }

    async fn load(&self, path: &Path) -> DriverResult<Vec<(String, Vec<String>)>> {
        let loaded = ImageStore::load(self, path).await?;
        Ok(loaded
            .into_iter()
            .map(|image| (image.id.to_string(), image.tags))
            .collect())
    }

    fn find(&self, image: &str) -> DriverResult<Option<ImageSummary>> {
        Ok(self.status(image)?.map(|image| summary(&image)))
    }

    fn list(&self) -> DriverResult<Vec<ImageSummary>> {
        Ok(ImageStore::list(self, None)?
            .iter()
            .map(|image| summary(image))
            .collect())
    }

    async fn remove(&self, image: &str, in_use: InUse) -> DriverResult<()> {
        Ok(ImageStore::remove(self, image, move |id| in_use(&id.to_string())).await?)
    }

    fn usage(&self) -> ImageFsUsage {
        let info = self.fs_info();
        ImageFsUsage {
            mountpoint: info.mountpoint,
            used_bytes: info.used_bytes,
            used_inodes: info.used_inodes,
            at: info.timestamp.into(),
        }
    }

    async fn space(&self) -> DriverResult<Space> {
        let mountpoint = self.fs_info().mountpoint;
        let look = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&mountpoint));
        let failed =
            |error: String| DriverError::new(ErrorKind::Failed, format!("size of the layers' file system: {error}"));
        let found = look.await.map_err(|error| failed(error.to_string()))?;
        let found = found.map_err(|error| failed(error.to_string()))?;
        Ok(Space {
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            total_inodes: found.f_files,
            free_inodes: found.f_ffree,
        })
    }

    async fn layer_usage(&self, id: &ContainerId) -> DriverResult<LayerUsage> {
        ImageStore::layer_usage(self, id.as_str()).await
    }
}
