//! Listens, finds what a token stands for, answers the upgrade, and runs the session.

use super::idle::Idle;
use super::tls::{Certificates, TlsFiles};
use super::token::{Tokens, TooMany};
use super::upgrade::{Answer, Protocol, agree, refusal};
use super::{Asked, port_forward, remote_command, spdy, websocket};
use crate::lifecycle::Lifecycle;
use crate::spans;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// Connections at once, sessions among them; more wait in the kernel.
const CONNECTIONS_AT_ONCE: usize = 4096;

/// How long a client may take to say what it wants.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// The largest head of a request, in bytes.
const REQUEST_BYTES: usize = 16 * 1024;

/// How long a client may take to read the end of a session and to close the connection.
const LINGER: Duration = Duration::from_secs(5);

/// After this much silence the kernel asks whether the other side is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How long sessions may take to end at SIGTERM.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// Where to listen; port 0 takes a free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Of this host.
    pub ip: IpAddr,
    /// TCP.
    pub port: u16,
}

/// Makes URLs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Urls {
    tokens: Arc<Tokens<Waiting>>,
    /// `http://host:port`
    base: String,
}

impl Urls {
    /// A URL that is good once, within a minute; its token is made of `random`.
    pub fn issue(&self, asked: Asked, random: [u8; 32]) -> Result<String, TooMany> {
        let path = asked.path();
        let token = self.tokens.issue((asked, spans::origin()), random)?;
        Ok(format!("{}/{path}/{token}", self.base))
    }
}

/// What was asked, and the call that asked.
type Waiting = (Asked, spans::Origin);

/// A socket that listens.
pub struct Server {
    listener: TcpListener,
    certificates: Option<Certificates>,
    idle_limit: Duration,
    urls: Urls,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken, or not of this host.
    #[error("streaming: listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The certificates are missing or of no use.
    #[error("streaming: {0}")]
    Certificates(#[from] super::tls::Unusable),
}

impl Server {
    /// Listens; nobody is answered before `serve`.
    pub async fn listen(address: Address, tls: Option<TlsFiles>, idle_limit: Duration) -> Result<Self, Error> {
        let certificates = tls.map(Certificates::load).transpose()?;
        let address = SocketAddr::new(address.ip, address.port);
        let failed = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let mut reached = listener.local_addr().map_err(failed)?;
        // Clients are on this node, and a URL needs a host.
        match reached.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => reached.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => reached.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let scheme = if certificates.is_some() { "https" } else { "http" };
        Ok(Self {
            listener,
            certificates,
            idle_limit,
            urls: Urls {
                tokens: Arc::new(Tokens::new()),
                base: format!("{scheme}://{reached}"),
            },
        })
    }

    /// Makes its URLs.
    pub fn urls(&self) -> Urls {
        self.urls.clone()
    }

    /// Serves until `stop`, then ends all sessions.
    pub async fn serve(self, lifecycle: Lifecycle, stop: CancellationToken) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_AT_ONCE));
        let tasks = TaskTracker::new();
        let desk = Arc::new(Desk {
            lifecycle,
            tokens: self.urls.tokens.clone(),
            idle_limit: self.idle_limit,
            tasks: tasks.clone(),
            stop: stop.clone(),
        });
        let accept = async {
            loop {
                // The semaphore is never closed.
                let Ok(place) = room.clone().acquire_owned().await else {
                    return;
                };
                let socket = match self.listener.accept().await {
                    Ok((socket, _)) => socket,
                    Err(error) => {
                        // Out of descriptors, most likely: give somebody time to free some.
                        tracing::warn!(%error, "streaming: accept, trying again");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        continue;
                    }
                };
                let (desk, certificates) = (desk.clone(), self.certificates.clone());
                tasks.spawn(async move { desk.connection(socket, certificates, Arc::new(place)).await });
            }
        };
        tokio::select! {
            () = accept => {}
            () = stop.cancelled() => {}
        }
        tasks.close();
        if timeout(LEAVE_LIMIT, tasks.wait()).await.is_err() {
            tracing::warn!(sessions = tasks.len(), "streaming: sessions do not end, leaving");
        }
    }
}

/// A place among the connections; free when both the connection and its session are over.
type Place = Arc<OwnedSemaphorePermit>;

/// Answers requests.
struct Desk {
    lifecycle: Lifecycle,
    tokens: Arc<Tokens<Waiting>>,
    idle_limit: Duration,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Desk {
    async fn connection(self: Arc<Self>, socket: TcpStream, certificates: Option<Certificates>, place: Place) {
        if let Err(error) = prepare(&socket) {
            tracing::debug!(%error, "streaming: a connection was lost at once");
            return;
        }
        let stop = self.stop.clone();
        let conversation = async {
            match certificates {
                None => self.converse(socket, place).await,
                Some(certificates) => {
                    // Looks at files.
                    let Ok(acceptor) = tokio::task::spawn_blocking(move || certificates.acceptor()).await else {
                        return;
                    };
                    match timeout(REQUEST_LIMIT, acceptor.accept(socket)).await {
                        Ok(Ok(socket)) => self.converse(socket, place).await,
                        Ok(Err(error)) => tracing::debug!(%error, "streaming: no TLS"),
                        Err(_elapsed) => tracing::debug!("streaming: TLS took too long"),
                    }
                }
            }
        };
        tokio::select! {
            () = conversation => {}
            () = stop.cancelled() => {}
        }
    }

    /// Requests, until one is upgraded: its session has a task of its own.
    async fn converse(self: Arc<Self>, socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, place: Place) {
        let answer = service_fn(move |request| {
            let (desk, place) = (self.clone(), place.clone());
            async move { Ok::<_, Infallible>(desk.answer(request, place)) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_LIMIT)
            .max_buf_size(REQUEST_BYTES)
            .serve_connection(TokioIo::new(socket), answer)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "streaming: a connection ended");
        }
    }

    fn answer(self: Arc<Self>, mut request: Request<Incoming>, place: Place) -> Answer {
        if ![Method::GET, Method::POST].contains(request.method()) {
            return refusal(StatusCode::METHOD_NOT_ALLOWED, "GET or POST");
        }
        let unknown = || {
            refusal(
                StatusCode::NOT_FOUND,
                "no such stream: a URL is good once, for a minute",
            )
        };
        let Some((path, token)) = request.uri().path().trim_start_matches('/').split_once('/') else {
            return unknown();
        };
        let redeemed = self.tokens.redeem(token);
        let Some((asked, call)) = redeemed.filter(|(asked, _)| asked.path() == path) else {
            return unknown();
        };
        let (protocol, answer) = match agree(&request, &asked) {
            Ok(agreed) => agreed,
            Err(refused) => return *refused,
        };
        let upgrade = hyper::upgrade::on(&mut request);
        let span = tracing::info_span!("stream", kind = asked.path());
        let (tasks, desk, name) = (self.tasks.clone(), self, asked.span());
        let session = async move {
            let _place = place;
            match upgrade.await {
                Ok(io) => {
                    let session = async {
                        asked.note();
                        desk.session(TokioIo::new(io), asked, protocol).await
                    };
                    // How it ended was told to the client, and is in the log.
                    let _ = call.within(name, session).await;
                }
                Err(error) => tracing::debug!(%error, "the upgrade failed"),
            }
        };
        tasks.spawn(session.instrument(span));
        answer
    }

    /// Errors: how it ended, where neither side has ended it.
    async fn session(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send,
        asked: Asked,
        protocol: Protocol,
    ) -> Result<(), &'static str> {
        let idle = Idle::new(self.idle_limit);
        let lifecycle = &self.lifecycle;
        tracing::debug!(?protocol, "begins");
        let outcome = match (asked, protocol) {
            (Asked::Command(command), Protocol::SpdyCommand(version)) => {
                let (connection, work) = spdy::connect(io, idle.clone(), |_| true);
                let talk = remote_command::over_spdy(lifecycle, command, version, connection);
                self.attend(ends(work), talk, idle).await
            }
            (Asked::Command(command), Protocol::Channels { version, base64 }) => {
                let (incoming, outgoing, work) = websocket::channels(io, idle.clone(), base64).await;
                let talk = remote_command::over_websocket(lifecycle, command, version, incoming, outgoing);
                self.attend(work, talk, idle).await
            }
            (Asked::Ports { id, .. }, Protocol::SpdyPorts) => {
                let (connection, work) = spdy::connect(io, idle.clone(), port_forward::is_of_a_port);
                let talk = port_forward::over_spdy(lifecycle, id, connection);
                self.attend(ends(work), talk, idle).await
            }
            (Asked::Ports { id, .. }, Protocol::TunnelledPorts) => {
                let (io, carry) = websocket::tunnel(io).await;
                let (connection, work) = spdy::connect(io, idle.clone(), port_forward::is_of_a_port);
                let work = async {
                    tokio::join!(carry, ends(work));
                };
                let talk = port_forward::over_spdy(lifecycle, id, connection);
                self.attend(work, talk, idle).await
            }
            (Asked::Ports { id, ports }, Protocol::Channels { base64, .. }) => {
                let (incoming, outgoing, work) = websocket::channels(io, idle.clone(), base64).await;
                let talk = port_forward::over_channels(lifecycle, id, ports, incoming, outgoing);
                self.attend(work, talk, idle).await
            }
            (Asked::Command(_), Protocol::SpdyPorts | Protocol::TunnelledPorts)
            | (Asked::Ports { .. }, Protocol::SpdyCommand(_)) => {
                unreachable_protocol();
                Ok(())
            }
        };
        tracing::debug!("ended");
        outcome
    }

    /// Does the work of a connection while it is talked on, and for a moment longer, so that the client reads the end.
    /// Whatever ends first drops the other.
    async fn attend(
        &self,
        work: impl Future<Output = ()>,
        talk: impl Future<Output = ()>,
        idle: Idle,
    ) -> Result<(), &'static str> {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            () = &mut work => tracing::debug!("the client has left"),
            () = talk => {
                if timeout(LINGER, work).await.is_err() {
                    tracing::debug!("the client does not close the connection");
                }
            }
            () = idle.expired() => {
                tracing::info!(limit = ?self.idle_limit, "nothing came or went, closing");
                return Err("nothing came or went");
            }
            () = self.stop.cancelled() => return Err("the daemon leaves"),
        }
        Ok(())
    }
}

/// `agree` never agrees to a protocol that is not of what was asked.
fn unreachable_protocol() {
    tracing::error!("a protocol was agreed upon that does not fit");
}

/// The end of a connection, noted.
async fn ends(work: impl Future<Output = Result<(), spdy::Ended>>) {
    if let Err(error) = work.await {
        tracing::debug!(%error, "a SPDY connection ended");
    }
}

/// Small frames shall not wait for others, and a client whose host is gone shall not be waited for.
fn prepare(socket: &TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE / 4)?;
    Ok(())
}
