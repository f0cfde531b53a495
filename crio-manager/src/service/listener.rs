//! The unix socket, and a span per call.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::net::{UnixListener, UnixStream};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tracing::Instrument;

/// The longest path of a unix socket, in bytes.
pub const SOCKET_PATH_BYTES: usize = 107;

/// Mode of the socket: its owner and group.
const SOCKET_MODE: u32 = 0o660;

/// Listens on a unix socket. One that a dead daemon left is replaced, one that answers is not.
///
/// Errors: the path is too long or taken; the directory cannot be made.
pub async fn listen(path: &Path) -> std::io::Result<UnixListener> {
    let wrong = |kind, why: String| std::io::Error::new(kind, format!("socket {}: {why}", path.display()));
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_BYTES {
        let why = format!("its path has {length} bytes, the kernel takes {SOCKET_PATH_BYTES}");
        return Err(wrong(std::io::ErrorKind::InvalidFilename, why));
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    match UnixStream::connect(path).await {
        Ok(_) => {
            return Err(wrong(
                std::io::ErrorKind::AddrInUse,
                "another daemon answers on it".to_owned(),
            ));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            use std::os::unix::fs::FileTypeExt;
            if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
                return Err(wrong(
                    std::io::ErrorKind::AlreadyExists,
                    "it is there and no socket".to_owned(),
                ));
            }
            std::fs::remove_file(path)?;
        }
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

/// Opens a span for every call: the method, and fields that the call fills in.
#[derive(Debug, Clone, Copy)]
pub struct CallSpans;

impl<S> tower::Layer<S> for CallSpans {
    type Service = SpannedCalls<S>;

    fn layer(&self, inner: S) -> SpannedCalls<S> {
        SpannedCalls { inner }
    }
}

/// A gRPC service with a span per call.
#[derive(Debug, Clone)]
pub struct SpannedCalls<S> {
    inner: S,
}

impl<S> tower::Service<Request<Body>> for SpannedCalls<S>
where
    S: tower::Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let span = tracing::info_span!(
            "call",
            rpc = method,
            pod = tracing::field::Empty,
            sandbox_id = tracing::field::Empty,
            container_id = tracing::field::Empty,
        );
        let began = Instant::now();
        let answer = span.in_scope(|| self.inner.call(request));
        Box::pin(
            async move {
                let response = answer.await?;
                let elapsed_ms = began.elapsed().as_millis();
                // An error without a body has its status in the headers.
                match tonic::Status::from_header_map(response.headers()) {
                    Some(status) if status.code() != tonic::Code::Ok => {
                        tracing::warn!(elapsed_ms, code = ?status.code(), error = status.message(), "refused");
                    }
                    _ => tracing::debug!(elapsed_ms, "answered"),
                }
                Ok(response)
            }
            .instrument(span),
        )
    }
}
