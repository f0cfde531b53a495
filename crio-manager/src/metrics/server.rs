//! `GET /metrics`, over TCP and, where one is named, a unix socket.

use super::Exposition;
use crate::service::listener::{self, Socket};
use crate::streaming::{Certificates, TlsFiles};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::prometheus_text;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Scrapes at one time; more wait in the kernel.
const CONNECTIONS_AT_ONCE: usize = 16;

/// How long a connection may last: one scrape each.
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);

/// The largest head of a request, in bytes.
const REQUEST_BYTES: usize = 16 * 1024;

/// Sockets that listen.
pub struct Server {
    tcp: TcpListener,
    unix: Option<Socket>,
    certificates: Option<Certificates>,
}

impl Server {
    /// Listens; nobody is answered before `serve`. Errors: an address is taken; certificates are of no use.
    pub async fn listen(address: SocketAddr, socket: Option<&Path>, tls: Option<TlsFiles>) -> anyhow::Result<Self> {
        let failed = |error| anyhow::anyhow!("metrics: listen on {address}: {error}");
        let tcp = TcpListener::bind(address).await.map_err(failed)?;
        let address = tcp.local_addr().map_err(failed)?;
        let unix = match socket {
            Some(path) => Some(listener::make(path).await?),
            None => None,
        };
        let certificates = tls.map(Certificates::load).transpose()?;
        tracing::info!(%address, socket = ?socket, tls = certificates.is_some(), "serving metrics");
        Ok(Self {
            tcp,
            unix,
            certificates,
        })
    }

    /// Serves until `stop`.
    pub async fn serve(self, exposition: Exposition, stop: CancellationToken) {
        let desk = Arc::new(Desk {
            exposition,
            certificates: self.certificates,
            room: Arc::new(Semaphore::new(CONNECTIONS_AT_ONCE)),
        });
        let over_unix = async {
            match &self.unix {
                Some(Socket { listener, .. }) => {
                    desk.accept(|| async { listener.accept().await.map(|(socket, _)| socket) })
                        .await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = desk.accept(|| async { self.tcp.accept().await.map(|(socket, _)| socket) }) => {}
            () = over_unix => {}
            () = stop.cancelled() => {}
        }
        if let Some(socket) = self.unix {
            socket.file.remove().await;
        }
    }
}

type Answer = Response<Full<Bytes>>;

struct Desk {
    exposition: Exposition,
    certificates: Option<Certificates>,
    room: Arc<Semaphore>,
}

impl Desk {
    /// Takes connections for as long as it is polled.
    async fn accept<S, A>(self: &Arc<Self>, next: impl Fn() -> A)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        A: Future<Output = std::io::Result<S>>,
    {
        // The semaphore is never closed.
        while let Ok(place) = self.room.clone().acquire_owned().await {
            match next().await {
                Ok(socket) => {
                    let desk = self.clone();
                    tokio::spawn(async move {
                        if timeout(CONNECTION_LIMIT, desk.connection(socket)).await.is_err() {
                            tracing::debug!("metrics: a scrape took too long");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: give somebody time to free some.
                    tracing::warn!(%error, "metrics: accept, trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let Some(certificates) = self.certificates.clone() else {
            return self.converse(socket).await;
        };
        // Looks at files.
        let Ok(acceptor) = tokio::task::spawn_blocking(move || certificates.acceptor()).await else {
            return;
        };
        match acceptor.accept(socket).await {
            Ok(socket) => self.converse(socket).await,
            Err(error) => tracing::debug!(%error, "metrics: no TLS"),
        }
    }

    async fn converse(self: Arc<Self>, socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let answer = service_fn(move |request| {
            let desk = self.clone();
            async move { Ok::<_, Infallible>(desk.answer(&request).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(false)
            .max_buf_size(REQUEST_BYTES)
            .serve_connection(TokioIo::new(socket), answer)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "metrics: a connection ended");
        }
    }

    async fn answer<B>(self: Arc<Self>, request: &Request<B>) -> Answer {
        if request.uri().path() != "/metrics" {
            return plain(StatusCode::NOT_FOUND, "there is nothing but /metrics here\n");
        }
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
            answer
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match tokio::task::spawn_blocking(move || self.exposition.text()).await {
            Ok(text) => {
                let mut answer = Response::new(Full::from(text));
                let format = HeaderValue::from_static(prometheus_text::CONTENT_TYPE);
                answer.headers_mut().insert(CONTENT_TYPE, format);
                answer
            }
            Err(error) => {
                tracing::error!(%error, "metrics: no text");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be read\n")
            }
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer
}
