//! manager.v1: what an administrator may ask of a running daemon that CRI has no call for.

use super::status::{driver_status, status};
use super::{local, parse};
use crate::lifecycle::{Lifecycle, Look};
use crate::model::{ContainerState, SandboxState};
use anyhow::Context as _;
use cri::manager::v1::manager_client::ManagerClient;
use cri::manager::v1::{LoadImageRequest, LoadImageResponse, LoadedImage, StatusRequest, StatusResponse, Verb};
use std::path::Path;
use tokio::net::UnixStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// manager.v1 on a node.
#[derive(Clone)]
pub struct Manager {
    lifecycle: Lifecycle,
}

impl Manager {
    /// Serves this node.
    pub fn new(lifecycle: Lifecycle) -> Self {
        Self { lifecycle }
    }
}

#[tonic::async_trait]
impl cri::manager::v1::manager_server::Manager for Manager {
    async fn load_image(&self, request: Request<LoadImageRequest>) -> Result<Response<LoadImageResponse>, Status> {
        let path = parse::absolute("path", request.into_inner().path).map_err(|wrong| *wrong)?;
        let loaded = self.lifecycle.load_images(&path).await.map_err(status)?;
        let images = loaded.into_iter().map(|(id, tags)| LoadedImage { id, tags }).collect();
        Ok(Response::new(LoadImageResponse { images }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let (pods, containers) = self.lifecycle.registry().snapshot();
        let image = &self.lifecycle.drivers().image;
        let mut answer = StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            images: count(image.list().map_err(driver_status)?.len()),
            image_bytes: image.usage().used_bytes,
            under_way: self.lifecycle.under_way().into_iter().map(verb).collect(),
            ..StatusResponse::default()
        };
        for pod in pods {
            match pod.state() {
                SandboxState::Ready => answer.pods_ready += 1,
                SandboxState::NotReady => answer.pods_not_ready += 1,
            }
        }
        for container in containers {
            match container.state() {
                ContainerState::Created { .. } | ContainerState::Checkpointed => answer.containers_created += 1,
                ContainerState::Running { .. } => answer.containers_running += 1,
                ContainerState::Exited { .. } => answer.containers_exited += 1,
            }
        }
        Ok(Response::new(answer))
    }
}

fn verb(look: Look) -> Verb {
    Verb {
        what: look.what.to_owned(),
        step: look.step.to_owned(),
        elapsed_ms: u64::try_from(look.since.as_millis()).unwrap_or(u64::MAX),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A client of the daemon on this socket; `None` when none listens there.
pub async fn client(socket: &Path) -> anyhow::Result<Option<ManagerClient<Channel>>> {
    use std::io::ErrorKind;
    match UnixStream::connect(socket).await {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("socket {}", socket.display())),
    }
    Ok(Some(ManagerClient::new(local::connect(socket).await?)))
}
