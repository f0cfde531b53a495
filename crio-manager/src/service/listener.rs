//! The unix socket, and a span per call.

use crate::around::{Answer, Around};
use crate::drivers::fd_store::{self, FdStore, FileIdentity};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tokio::net::{UnixListener, UnixStream};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::Service;
use tracing::{Instrument, warn};

/// The longest path of a unix socket, in bytes.
pub const SOCKET_PATH_BYTES: usize = 107;

/// Mode of the socket: its owner and group.
const SOCKET_MODE: u32 = 0o660;

/// A socket that takes connections, and whose its file is.
#[derive(Debug)]
pub struct Socket {
    /// Takes connections.
    pub listener: UnixListener,
    /// The path by which clients find it.
    pub file: SocketFile,
}

/// Whose the file of a socket is.
#[derive(Debug, PartialEq, Eq)]
pub enum SocketFile {
    /// The service manager's, which listens before us and after us.
    HandedOver,
    /// Made here, and given into the service manager's store, which then listens after us.
    Stored(PathBuf, FileIdentity),
    /// Made here: its path, and how to know it again.
    Made(PathBuf, FileIdentity),
}

fn identity(path: &Path) -> std::io::Result<FileIdentity> {
    let file = std::fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino(), file.mtime(), file.mtime_nsec()))
}

impl SocketFile {
    /// Whether somebody is to listen when we have left.
    pub fn outlives_us(&self) -> bool {
        !matches!(self, SocketFile::Made(..))
    }

    /// Removes a file that was made here, unless another has taken its place, once this process does not listen any
    /// more. One on which the service manager listens on stays: clients wait there for the next daemon.
    pub async fn remove(self) {
        let (path, made) = match self {
            SocketFile::HandedOver => return,
            SocketFile::Stored(path, made) => match UnixStream::connect(&path).await {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => (path, made), // it has no store
                _ => return,
            },
            SocketFile::Made(path, made) => (path, made),
        };
        remove_file(&path, made);
    }
}

/// Removes the file of a socket, if it still is that.
fn remove_file(path: &Path, made: FileIdentity) {
    if identity(path).is_ok_and(|now| now == made) {
        // Already gone if somebody cleaned up.
        let _ = std::fs::remove_file(path);
    }
}

/// What the service manager hands over to listen on.
#[derive(Debug, Default)]
pub struct HandedSockets {
    /// By a socket unit.
    pub of_unit: Vec<OwnedFd>,
    /// Made by an earlier daemon, which had it stored, by name.
    pub own: Vec<(String, OwnedFd)>,
}

/// Listens on a unix socket: the one that a socket unit handed over, else the one that an earlier daemon left in the
/// store, else one made here, which goes into the store where there is one.
///
/// Errors: what was handed over is not the socket of this path; and as [`make`].
pub async fn listen(path: &Path, handed: HandedSockets, store: Option<&FdStore>) -> std::io::Result<Socket> {
    let mut of_unit = handed.of_unit.into_iter();
    let unit = of_unit.next();
    if of_unit.next().is_some() {
        return Err(wrong(
            path,
            "the service manager handed over more than one socket".to_owned(),
        ));
    }
    let stored = take_up(path, handed.own, unit.is_none(), store);
    if let Some(socket) = unit {
        let listener = adopt(path, socket)?;
        return Ok(Socket {
            listener,
            file: SocketFile::HandedOver,
        });
    }
    if let Some(socket) = stored {
        return Ok(socket);
    }
    let made = make(path).await?;
    match (store, made.file) {
        (Some(store), SocketFile::Made(path, file)) => {
            store.keep_socket(file, made.listener.as_fd().try_clone_to_owned()?);
            Ok(Socket {
                listener: made.listener,
                file: SocketFile::Stored(path, file),
            })
        }
        (_, file) => Ok(Socket { file, ..made }),
    }
}

/// Of the sockets that an earlier daemon stored, the one whose file still stands at this path. Nobody waits at another:
/// it is let go of, with its file.
fn take_up(path: &Path, own: Vec<(String, OwnedFd)>, wanted: bool, store: Option<&FdStore>) -> Option<Socket> {
    let mut taken = None;
    for (name, socket) in own {
        let file = fd_store::file_of_socket(&name);
        if let Some(file) = file.filter(|file| wanted && identity(path).is_ok_and(|now| now == *file)) {
            match socket.try_clone().and_then(|socket| adopt(path, socket)) {
                Ok(listener) => {
                    let file = SocketFile::Stored(path.to_owned(), file);
                    taken = Some(Socket { listener, file });
                    continue;
                }
                Err(error) => warn!(%error, "the stored socket, making another"),
            }
        }
        let bound = std::os::unix::net::UnixListener::from(socket).local_addr();
        if let (Some(file), Ok(bound)) = (file, bound)
            && let Some(bound) = bound.as_pathname()
        {
            remove_file(bound, file);
        }
        if let Some(store) = store {
            store.let_go_of(name);
        }
    }
    taken
}

/// Takes over a socket that somebody else listens on. Its path may be spelled in another way, as long as it is the same
/// file.
fn adopt(path: &Path, socket: OwnedFd) -> std::io::Result<UnixListener> {
    use rustix::net::{SocketType, sockopt};
    if sockopt::socket_type(&socket)? != SocketType::STREAM || !sockopt::socket_acceptconn(&socket)? {
        return Err(wrong(
            path,
            "what the service manager handed over does not listen".to_owned(),
        ));
    }
    let listener = std::os::unix::net::UnixListener::from(socket);
    let bound = listener.local_addr()?;
    let bound = bound.as_pathname().unwrap_or(Path::new("(not a path)"));
    let inode = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino()));
    let same = bound == path || matches!((inode(bound), inode(path)), (Ok(bound), Ok(path)) if bound == path);
    if !same {
        let bound = bound.display();
        return Err(wrong(
            path,
            format!(
                "the service manager handed over {bound}: \
                 ListenStream= of the socket unit and crio.api.listen have to be the same"
            ),
        ));
    }
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Listens on a socket of our own. One that a dead daemon left is replaced, one that answers is not.
///
/// Errors: the path is too long or taken; the directory cannot be made.
pub async fn make(path: &Path) -> std::io::Result<Socket> {
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_BYTES {
        let why = format!("its path has {length} bytes, the kernel takes {SOCKET_PATH_BYTES}");
        return Err(wrong(path, why));
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    match UnixStream::connect(path).await {
        Ok(other) => {
            let who = listening_process(&other);
            return Err(wrong(path, format!("another daemon answers on it{who}")));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
                return Err(wrong(path, "it is there and no socket".to_owned()));
            }
            std::fs::remove_file(path)?;
        }
        Err(error) => return Err(wrong(path, error.to_string())),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    let file = SocketFile::Made(path.to_owned(), identity(path)?);
    Ok(Socket { listener, file })
}

/// ": process 12 (crio)", as far as the kernel tells who listens.
fn listening_process(connection: &UnixStream) -> String {
    let peer = connection.peer_cred().ok().and_then(|peer| peer.pid());
    // 0: of another PID namespace.
    let Some(pid) = peer.filter(|pid| *pid != 0) else {
        return String::new();
    };
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!(": process {pid} ({})", name.trim_end())
}

fn wrong(path: &Path, why: String) -> std::io::Error {
    std::io::Error::other(format!("socket {}: {why}", path.display()))
}

/// Opens a span for every call: the method, and fields that the call fills in.
#[derive(Debug, Clone, Copy)]
pub struct CallSpans;

impl Around for CallSpans {
    fn call<S>(&self, service: &mut S, request: Request<Body>) -> Answer<S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
    {
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
        let answer = span.in_scope(|| service.call(request));
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
    use crate::around::Each;
    use crate::drivers::seams::{DriverError, ErrorKind};
    use crate::lifecycle::Error;
    use std::io::Write;
    use std::sync::{Arc, Mutex};
    use tower::Layer;
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

    fn handed(socket: impl Into<OwnedFd>) -> HandedSockets {
        HandedSockets {
            of_unit: vec![socket.into()],
            own: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_socket_that_was_handed_over_is_taken_and_left_in_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("crio.sock");
        let systemds = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let spelled = directory.path().join(".").join("crio.sock");
        let socket = listen(&spelled, handed(systemds.try_clone().unwrap()), None)
            .await
            .unwrap();
        let _client = UnixStream::connect(&path).await.unwrap();
        socket.listener.accept().await.unwrap();
        drop(socket.listener);
        socket.file.remove().await;
        UnixStream::connect(&path).await.expect("waits for the next daemon");
    }

    #[tokio::test]
    async fn a_socket_of_another_path_or_that_does_not_listen_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (here, there) = (directory.path().join("here.sock"), directory.path().join("there.sock"));
        let elsewhere = std::os::unix::net::UnixListener::bind(&there).unwrap();
        let error = listen(&here, handed(elsewhere), None).await.unwrap_err().to_string();
        assert!(
            error.contains("here.sock: the service manager handed over") && error.contains("there.sock"),
            "{error}"
        );
        let (deaf, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let error = listen(&here, handed(deaf), None).await.unwrap_err().to_string();
        assert!(error.ends_with("does not listen"), "{error}");
    }

    /// The next thing that the service manager is told.
    async fn told(manager: &tokio::net::UnixDatagram) -> String {
        let mut text = vec![0; 256];
        let length = manager.recv(&mut text).await.unwrap();
        text.truncate(length);
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn a_socket_made_here_is_stored_and_taken_up_by_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("crio.sock"), directory.path().join("other.sock"));
        let notify = directory.path().join("notify");
        let manager = tokio::net::UnixDatagram::bind(&notify).unwrap();
        let store = FdStore::open(notify, Vec::new());
        let first = listen(&path, HandedSockets::default(), Some(&store)).await.unwrap();
        let said = told(&manager).await;
        let name = said
            .lines()
            .find_map(|line| line.strip_prefix("FDNAME="))
            .unwrap()
            .to_owned();
        assert!(
            said.starts_with("FDSTORE=1\n") && fd_store::is_own_socket(&name),
            "{said}"
        );
        let kept = first.listener.as_fd().try_clone_to_owned().unwrap();
        let own = |socket: &OwnedFd| HandedSockets {
            of_unit: Vec::new(),
            own: vec![(name.clone(), socket.try_clone().unwrap())],
        };
        drop(first.listener);
        first.file.remove().await;
        let _waiting = UnixStream::connect(&path).await.expect("waits for the next daemon");

        let second = listen(&path, own(&kept), Some(&store)).await.unwrap();
        assert!(matches!(second.file, SocketFile::Stored(..)));
        second.listener.accept().await.unwrap();
        drop(second);

        // A service manager without a store has dropped it.
        let alone = directory.path().join("alone.sock");
        let dropped = listen(&alone, HandedSockets::default(), Some(&store)).await.unwrap();
        assert!(told(&manager).await.starts_with("FDSTORE=1\n"));
        // What is told next is told when the copy on its way is closed.
        store.let_go_of("another".to_owned());
        told(&manager).await;
        drop(dropped.listener);
        dropped.file.remove().await;
        assert!(!alone.exists());

        // Another path, or another's file at this one: a new socket, and the old is let go of.
        let third = listen(&other, own(&kept), Some(&store)).await.unwrap();
        assert!(!path.exists(), "nobody listens there any more");
        let remove = format!("FDSTOREREMOVE=1\nFDNAME={name}\n");
        assert_eq!(told(&manager).await, remove);
        assert!(told(&manager).await.starts_with("FDSTORE=1\n"));
        drop(third);
        std::fs::write(&path, "another's").unwrap();
        let error = listen(&path, own(&kept), Some(&store)).await.unwrap_err().to_string();
        assert!(error.ends_with("it is there and no socket"), "{error}");
        assert_eq!(told(&manager).await, remove);
    }

    #[tokio::test]
    async fn a_path_that_is_taken_is_refused_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("crio.sock");
        std::fs::write(&path, "kept").unwrap();
        let error = make(&path).await.unwrap_err().to_string();
        assert!(error.ends_with("crio.sock: it is there and no socket"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept");
        std::fs::remove_file(&path).unwrap();

        let first = make(&path).await.unwrap();
        let error = make(&path).await.unwrap_err().to_string();
        let us = format!("another daemon answers on it: process {} (", std::process::id());
        assert!(error.contains(&us), "{error}");
        UnixStream::connect(&path).await.expect("the first is undisturbed");

        drop(first.listener);
        let second = make(&path).await.expect("what a dead daemon left is replaced");
        first.file.remove().await;
        UnixStream::connect(&path).await.expect("the file is the second's now");
        drop(second.listener);
        second.file.remove().await;
        assert!(!path.exists());
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
        Each(CallSpans).layer(refuse).call(request).await.unwrap();

        let written = lines.0.lock().unwrap().clone();
        let line: serde_json::Value = serde_json::from_slice(&written).expect("one line of JSON");
        assert_eq!(line["span"]["rpc"], "RunPodSandbox");
        assert_eq!(line["span"]["sandbox_id"], "5b");
        assert_eq!(line["span"]["step"], "connect network");
        assert_eq!(line["fields"]["error"], "connect network: no such plugin");
        assert!(line["fields"]["elapsed_ms"].is_number(), "{line}");
    }
}
