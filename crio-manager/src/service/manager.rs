//! manager.v1: what an administrator may ask of a running daemon that CRI has no call for.

use super::status::status;
use super::{local, parse};
use crate::lifecycle::Lifecycle;
use anyhow::Context as _;
use cri::manager::v1::manager_client::ManagerClient;
use cri::manager::v1::{LoadImageRequest, LoadImageResponse, LoadedImage};
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
