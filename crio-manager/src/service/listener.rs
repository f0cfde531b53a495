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
            pid = tracing::field::Empty,
            step = tracing::field::Empty,
        );
        let began = Instant::now();
        let answer = span.in_scope(|| self.inner.call(request));
        Box::pin(
            async move {
                let response = answer.await?;
                let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::seams::{DriverError, ErrorKind};
    use crate::lifecycle::Error;
    use std::io::Write;
    use std::sync::{Arc, Mutex};
    use tower::{Layer, Service};
    use tracing_subscriber::fmt::MakeWriter;

    /// A log in memory.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[tokio::test]
    async fn a_refused_call_is_one_line_with_its_method_objects_step_and_error() {
        let lines = Lines::default();
        let log = tracing_subscriber::fmt().json().with_writer(lines.clone()).finish();
        let _guard = tracing::subscriber::set_default(log);
        let refuse = tower::service_fn(|_: Request<Body>| async {
            tracing::Span::current().record("sandbox_id", "5b");
            let cause = DriverError::new(ErrorKind::Failed, "no such plugin");
            let status = crate::service::status::status(Error::Step {
                step: "connect network",
                cause,
            });
            Ok::<_, std::convert::Infallible>(status.into_http::<Body>())
        });
        let request = Request::builder()
            .uri("/runtime.v1.RuntimeService/RunPodSandbox")
            .body(Body::empty())
            .unwrap();
        CallSpans.layer(refuse).call(request).await.unwrap();

        let written = lines.0.lock().unwrap().clone();
        let line: serde_json::Value = serde_json::from_slice(&written).expect("one line of JSON");
        assert_eq!(line["span"]["rpc"], "RunPodSandbox");
        assert_eq!(line["span"]["sandbox_id"], "5b");
        assert_eq!(line["span"]["step"], "connect network");
        assert_eq!(line["fields"]["error"], "connect network: no such plugin");
        assert!(line["fields"]["elapsed_ms"].is_number(), "{line}");
    }
}
