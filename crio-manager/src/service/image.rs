//! ImageService: one short method per RPC: parse → call → present.

use super::parse;
use super::portions::{Portions, portions};
use super::status::{driver_status, status};
use crate::drivers::seams::{ErrorKind, ImageSummary};
use crate::lifecycle::{Error, Lifecycle};
use cri::v1;
use cri::v1::image_service_server::ImageService;
use std::collections::HashMap;
use tonic::{Request, Response, Status};

/// CRI's ImageService on a node.
#[derive(Clone)]
pub struct Images {
    lifecycle: Lifecycle,
}

impl Images {
    /// Serves this node.
    pub fn new(lifecycle: Lifecycle) -> Self {
        Self { lifecycle }
    }

    fn asked_for(&self, filter: Option<v1::ImageFilter>) -> Result<Vec<v1::Image>, Status> {
        let asked = filter.and_then(|filter| filter.image).unwrap_or_default().image;
        let driver = &self.lifecycle.drivers().image;
        let images = if asked.is_empty() {
            driver.list().map_err(driver_status)?
        } else {
            driver.find(&asked).map_err(driver_status)?.into_iter().collect()
        };
        Ok(images.into_iter().map(present).collect())
    }
}

type Reply<T> = Result<Response<T>, Status>;

fn present(image: ImageSummary) -> v1::Image {
    // USER may name a group too, which is nobody's business here.
    let user = image.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<u32>().ok().map(|uid| v1::Int64Value { value: uid.into() });
    v1::Image {
        username: if uid.is_none() { user.to_owned() } else { String::new() },
        uid,
        spec: Some(v1::ImageSpec {
            image: image.id.clone(),
            ..v1::ImageSpec::default()
        }),
        id: image.id,
        repo_tags: image.tags,
        repo_digests: image.digests,
        // Clients take 0 for "not there".
        size: image.size_bytes.max(1),
        pinned: image.pinned,
    }
}

/// The words at the beginning of a message by which the kubelet knows why a pull failed.
fn pull_status(error: Error) -> Status {
    let word = match &error {
        Error::Step { cause, .. } => match cause.kind {
            ErrorKind::Unavailable => "RegistryUnavailable: ",
            ErrorKind::Untrusted => "SignatureValidationFailed: ",
            _ => "",
        },
        _ => "",
    };
    let status = status(error);
    Status::new(status.code(), format!("{word}{}", status.message()))
}

#[tonic::async_trait]
impl ImageService for Images {
    async fn list_images(&self, request: Request<v1::ListImagesRequest>) -> Reply<v1::ListImagesResponse> {
        Ok(Response::new(v1::ListImagesResponse {
            images: self.asked_for(request.into_inner().filter)?,
        }))
    }

    async fn image_status(&self, request: Request<v1::ImageStatusRequest>) -> Reply<v1::ImageStatusResponse> {
        let request = request.into_inner();
        let asked = parse::image(request.image).map_err(|wrong| *wrong)?;
        let found = self.lifecycle.drivers().image.find(&asked).map_err(driver_status)?;
        let info = match &found {
            Some(image) if request.verbose => HashMap::from([("info".to_owned(), image.config.clone())]),
            _ => HashMap::new(),
        };
        Ok(Response::new(v1::ImageStatusResponse {
            image: found.map(present),
            info,
        }))
    }

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Reply<v1::PullImageResponse> {
        let request = parse::pull_image(request.into_inner()).map_err(|wrong| *wrong)?;
        let image_ref = self.lifecycle.pull_image(request).await.map_err(pull_status)?;
        Ok(Response::new(v1::PullImageResponse { image_ref }))
    }

    async fn remove_image(&self, request: Request<v1::RemoveImageRequest>) -> Reply<v1::RemoveImageResponse> {
        let image = parse::image(request.into_inner().image).map_err(|wrong| *wrong)?;
        self.lifecycle.remove_image(image).await.map_err(status)?;
        Ok(Response::new(v1::RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<v1::ImageFsInfoRequest>) -> Reply<v1::ImageFsInfoResponse> {
        let usage = self.lifecycle.drivers().image.usage();
        let filesystem = v1::FilesystemUsage {
            timestamp: usage.at.nanos(),
            fs_id: Some(v1::FilesystemIdentifier {
                mountpoint: usage.mountpoint.display().to_string(),
            }),
            used_bytes: Some(v1::UInt64Value {
                value: usage.used_bytes,
            }),
            inodes_used: Some(v1::UInt64Value {
                value: usage.used_inodes,
            }),
        };
        Ok(Response::new(v1::ImageFsInfoResponse {
            image_filesystems: vec![filesystem.clone()],
            // Writable layers are on the same file system.
            container_filesystems: vec![filesystem],
        }))
    }

    type StreamImagesStream = Portions<v1::StreamImagesResponse>;
    async fn stream_images(&self, request: Request<v1::StreamImagesRequest>) -> Reply<Self::StreamImagesStream> {
        let images = self.asked_for(request.into_inner().filter)?;
        Ok(Response::new(portions(images, |images| v1::StreamImagesResponse {
            images,
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::seams::DriverError;

    #[test]
    fn the_kubelet_is_told_why_a_pull_failed_in_its_own_words() {
        for (kind, begins) in [
            (ErrorKind::Unavailable, "RegistryUnavailable: "),
            (ErrorKind::Untrusted, "SignatureValidationFailed: "),
            (ErrorKind::Denied, "pull: why"),
        ] {
            let cause = DriverError::new(kind, "why");
            let status = pull_status(Error::Step { step: "pull", cause });
            assert!(status.message().starts_with(begins), "{status}");
        }
    }
}
