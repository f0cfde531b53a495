//! A client's way to the daemon on this node.

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use std::path::Path;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Connects to the daemon on this socket. Errors: nothing listens there, or it may not be asked.
pub async fn connect(socket: &Path) -> anyhow::Result<Channel> {
    let path = socket.to_owned();
    let connect = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The address is not looked at: the connector knows the socket.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connect)
        .await
        .with_context(|| format!("connect to the daemon on {}", socket.display()))
}
