//! A conversation with a registry (the OCI distribution protocol, reading side).
//!
//! Of our own on an HTTP client, because what the ready-made client lacks is what a node needs: bodies bounded before they
//! are in memory, an authentication failure that says why, identity tokens, and no panic on a token the server made up.

mod auth;
mod failures;
mod insecure;

pub use insecure::InsecureRegistry;

use auth::secret_header;
use failures::{is_transient, root_cause};
use insecure::{address_of, host_of};

use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Response, StatusCode};
use tokio::io::{AsyncSeekExt, AsyncWriteExt, BufWriter};
use tokio::sync::Mutex;

use super::config::MAX_DOCUMENT_BYTES;
use super::credentials::Credentials;
use super::digest::{Digest, Hasher};
use super::error::{Error, Result};
use super::manifest::{self, Descriptor};
use super::reference::DEFAULT_REGISTRY;
use super::registries::Source;
use super::tls::{self, Verification};

/// How long a registry may send nothing before the transfer is given up.
pub const DEFAULT_PROGRESS_TIMEOUT: Duration = Duration::from_secs(10);
/// What stands in for a timeout that is switched off.
const LONGEST_PROGRESS_TIMEOUT: Duration = Duration::from_secs(3600);
/// A manifest, a configuration or a token, whole: a registry that sends a byte now and then makes progress too.
const DOCUMENT_DEADLINE: Duration = Duration::from_secs(60);

const DOCUMENT_ATTEMPTS: u32 = 3;
const LAYER_ATTEMPTS: u32 = 5;
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(200);
const MAX_REDIRECTS: usize = 10;
const MAX_TOKEN_BYTES: u64 = 64 << 10;
const MAX_ERROR_BYTES: u64 = 16 << 10;
const MAX_ERROR_CHARS: usize = 300;
const SPOOL_BUFFER_BYTES: usize = 1 << 20;

const USER_AGENT: &str = concat!("crio-manager/", env!("CARGO_PKG_VERSION"));
const CLIENT_ID: &str = "crio-manager";
/// Where the images of the default registry really are.
const DEFAULT_REGISTRY_HOST: &str = "registry-1.docker.io";

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct RegistrySettings {
    pub insecure: Vec<InsecureRegistry>,
    /// Directory with a directory per `host[:port]`, whose `*.crt` files are trusted for that registry.
    pub certs_dir: Option<PathBuf>,
    pub progress_timeout: Duration,
}

/// A manifest as the registry sent it, its digest verified.
pub struct FetchedManifest {
    pub bytes: Vec<u8>,
    pub digest: Digest,
    pub media_type: Option<String>,
}

/// One repository of one registry, for the time of one pull.
pub struct Registry {
    client: reqwest::Client,
    /// `scheme://host/v2/path`
    base: String,
    plain_http: bool,
    registry: String,
    path: String,
    credentials: Option<Credentials>,
    /// The header that was accepted last. Held while a new one is fetched, so that parallel layers fetch one.
    authorization: Mutex<Option<HeaderValue>>,
    progress_timeout: Duration,
}

impl Registry {
    /// Prepares to talk to a registry. Sends nothing, except to an insecure one: to learn if it has TLS.
    pub async fn connect(
        source: &Source,
        settings: &RegistrySettings,
        credentials: Option<Credentials>,
    ) -> Result<Self> {
        let registry = source.host.clone();
        let host = if registry == DEFAULT_REGISTRY {
            DEFAULT_REGISTRY_HOST
        } else {
            &source.host
        };
        let authorization = match &credentials {
            Some(Credentials::RegistryToken(token)) => Some(secret_header(format!("Bearer {token}"))?),
            _ => None,
        };
        let progress_timeout = match settings.progress_timeout {
            Duration::ZERO => LONGEST_PROGRESS_TIMEOUT,
            timeout => timeout,
        };
        let insecure = source.insecure || settings.insecure.iter().any(|listed| listed.means(&registry));
        let verification = if insecure { Verification::Off } else { Verification::On };
        let tls = tls::client_config(&registry, settings.certs_dir.clone(), verification).await?;
        let client = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .tls_backend_preconfigured(tls)
            .connect_timeout(progress_timeout)
            .redirect(redirects());
        // A proxy is not meant for the registry on this very machine.
        let is_local = host_of(host) == "localhost" || address_of(host_of(host)).is_some_and(|ip| ip.is_loopback());
        let client = if is_local { client.no_proxy() } else { client };
        let client = client.build().map_err(|error| Error::Transfer {
            registry: registry.clone(),
            what: "HTTP client".to_owned(),
            cause: root_cause(&error),
        })?;
        let mut connected = Self {
            client,
            base: format!("https://{host}/v2"),
            plain_http: false,
            path: source.path.clone(),
            registry,
            credentials,
            authorization: Mutex::new(authorization),
            progress_timeout,
        };
        if insecure && connected.probe().await.is_err() {
            connected.base = format!("http://{host}/v2");
            connected.plain_http = true;
        }
        Ok(connected)
    }

    /// Fetches the manifest `version`: a tag or a digest.
    pub async fn manifest(&self, version: &str) -> Result<FetchedManifest> {
        let what = format!("manifest {}/{}:{version}", self.registry, self.path);
        let url = format!("{}/{}/manifests/{version}", self.base, self.path);
        let accept = HeaderValue::from_str(&manifest::ACCEPTED.join(", ")).ok();
        let (headers, bytes) = self.document(&what, &url, accept, MAX_DOCUMENT_BYTES).await?;
        let expected = Digest::parse(version).ok();
        let digest = match &expected {
            Some(expected) => expected.of_same_kind(&bytes),
            None => Digest::sha256_of(&bytes),
        };
        let announced = text_of(&headers, "docker-content-digest").and_then(|text| Digest::parse(&text).ok());
        for expected in expected.iter().chain(&announced) {
            let actual = expected.of_same_kind(&bytes);
            if actual != *expected {
                return Err(Error::DigestMismatch {
                    what,
                    expected: expected.clone(),
                    actual,
                });
            }
        }
        Ok(FetchedManifest {
            bytes,
            digest,
            media_type: text_of(&headers, "content-type"),
        })
    }

    /// Fetches a small blob into memory, verified.
    pub async fn small_blob(&self, blob: &Descriptor) -> Result<Vec<u8>> {
        let what = format!("blob {}", blob.digest);
        let url = self.blob_url(blob);
        let (_, bytes) = self
            .document(&what, &url, None, blob.size.min(MAX_DOCUMENT_BYTES))
            .await?;
        check_blob(&what, blob, blob.digest.of_same_kind(&bytes), bytes.len() as u64)?;
        Ok(bytes)
    }

    /// Downloads a blob into `spool`, verified, and returns the file, to be read from its beginning. A transfer that breaks
    /// off is resumed where it was, up to `LAYER_ATTEMPTS` times.
    pub async fn download(&self, blob: &Descriptor, spool: std::fs::File) -> Result<std::fs::File> {
        let what = format!("blob {}", blob.digest);
        let mut transfer = Transfer {
            file: BufWriter::with_capacity(SPOOL_BUFFER_BYTES, tokio::fs::File::from_std(spool)),
            hasher: Hasher::new(blob.digest.algorithm()),
            received: 0,
        };
        let mut attempt = 1;
        loop {
            let before = transfer.received;
            let error = match self.receive(blob, &what, &mut transfer).await {
                Ok(()) => break,
                Err(error) => error,
            };
            let stalled_at_once = matches!(error, Error::Stalled { .. }) && transfer.received == before;
            if attempt >= LAYER_ATTEMPTS || stalled_at_once || !is_transient(&error) {
                return Err(error);
            }
            tracing::debug!(%error, attempt, received = transfer.received, "layer transfer broke off, resuming");
            wait_before_retry(attempt).await;
            attempt += 1;
        }
        let Transfer {
            mut file,
            hasher,
            received,
        } = transfer;
        check_blob(&what, blob, hasher.finish(), received)?;
        let failed = |error| Error::io("write", &what, error);
        file.flush().await.map_err(failed)?;
        file.rewind().await.map_err(failed)?;
        Ok(file.into_inner().into_std().await)
    }

    async fn receive(&self, blob: &Descriptor, what: &str, transfer: &mut Transfer) -> Result<()> {
        let range = (transfer.received > 0).then(|| format!("bytes={}-", transfer.received));
        let mut response = self
            .get(what, &self.blob_url(blob), |request| match &range {
                Some(range) => request.header(RANGE, range),
                None => request,
            })
            .await?;
        if transfer.received > 0 {
            let resumes_at = format!("bytes {}-", transfer.received);
            let resumed = response.status() == StatusCode::PARTIAL_CONTENT
                && text_of(response.headers(), CONTENT_RANGE.as_str())
                    .is_some_and(|range| range.starts_with(&resumes_at));
            if !resumed {
                transfer
                    .restart(blob)
                    .await
                    .map_err(|error| Error::io("write", what, error))?;
                if response.status() == StatusCode::PARTIAL_CONTENT {
                    return Err(self.transfer_error(what, "it resumed at another place than asked for".to_owned()));
                }
            }
        }
        while let Some(chunk) = self.progress(what, response.chunk()).await? {
            transfer.received += chunk.len() as u64;
            if transfer.received > blob.size {
                let what = what.to_owned();
                return Err(Error::SizeMismatch {
                    what,
                    expected: blob.size,
                    actual: transfer.received,
                });
            }
            transfer.hasher.update(&chunk);
            transfer
                .file
                .write_all(&chunk)
                .await
                .map_err(|error| Error::io("write", what, error))?;
        }
        if transfer.received < blob.size {
            let cause = format!("it ended after {} of {} bytes", transfer.received, blob.size);
            return Err(self.transfer_error(what, cause));
        }
        Ok(())
    }

    fn blob_url(&self, blob: &Descriptor) -> String {
        format!("{}/{}/blobs/{}", self.base, self.path, blob.digest)
    }

    /// Whether anything speaks HTTP over TLS there. Carries no credentials.
    async fn probe(&self) -> Result<()> {
        let what = "probe for TLS";
        self.progress(what, self.client.get(format!("{}/", self.base)).send())
            .await
            .map(drop)
    }

    /// A whole body of at most `limit` bytes, fetched within [`DOCUMENT_DEADLINE`], tried again if the registry is unwell.
    async fn document(
        &self,
        what: &str,
        url: &str,
        accept: Option<HeaderValue>,
        limit: u64,
    ) -> Result<(HeaderMap, Vec<u8>)> {
        let mut attempt = 1;
        loop {
            let fetch = async {
                let response = self
                    .get(what, url, |request| match &accept {
                        Some(accept) => request.header(ACCEPT, accept),
                        None => request,
                    })
                    .await?;
                let headers = response.headers().clone();
                Ok((headers, self.body(what, response, limit).await?))
            };
            let result = match tokio::time::timeout(DOCUMENT_DEADLINE, fetch).await {
                Ok(result) => result,
                Err(_) => Err(self.stalled(what, DOCUMENT_DEADLINE)),
            };
            match result {
                Err(error)
                    if attempt < DOCUMENT_ATTEMPTS
                        && is_transient(&error)
                        && !matches!(error, Error::Stalled { .. }) =>
                {
                    tracing::debug!(%error, attempt, "trying again");
                    wait_before_retry(attempt).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// Sends a GET, authenticating when the registry asks for it. `Ok` is a success status.
    async fn get(
        &self,
        what: &str,
        url: &str,
        shape: impl Fn(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Result<Response> {
        let mut authorization = self.authorization.lock().await.clone();
        let mut asked = false;
        loop {
            let mut request = shape(self.client.get(url));
            if let Some(value) = &authorization {
                request = request.header(AUTHORIZATION, value);
            }
            let response = self.progress(what, request.send()).await?;
            match response.status() {
                status if status.is_success() => return Ok(response),
                StatusCode::UNAUTHORIZED if !asked => {
                    asked = true;
                    authorization = Some(self.authorize(response.headers(), authorization.as_ref()).await?);
                }
                status => return Err(self.refusal(what, status, response).await),
            }
        }
    }

    async fn body(&self, what: &str, mut response: Response, limit: u64) -> Result<Vec<u8>> {
        let too_large = || Error::TooLarge {
            what: what.to_owned(),
            limit,
        };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = self.progress(what, response.chunk()).await? {
            if body.len() as u64 + chunk.len() as u64 > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Waits for the next sign of life.
    async fn progress<T>(&self, what: &str, step: impl Future<Output = reqwest::Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.progress_timeout, step).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.broken(what, &error)),
            Err(_) => Err(self.stalled(what, self.progress_timeout)),
        }
    }
}

struct Transfer {
    file: BufWriter<tokio::fs::File>,
    hasher: Hasher,
    received: u64,
}

impl Transfer {
    async fn restart(&mut self, blob: &Descriptor) -> std::io::Result<()> {
        self.file.rewind().await?; // flushes first
        self.file.get_mut().set_len(0).await?;
        self.hasher = Hasher::new(blob.digest.algorithm());
        self.received = 0;
        Ok(())
    }
}

fn check_blob(what: &str, blob: &Descriptor, actual: Digest, size: u64) -> Result<()> {
    if size != blob.size {
        return Err(Error::SizeMismatch {
            what: what.to_owned(),
            expected: blob.size,
            actual: size,
        });
    }
    if actual != blob.digest {
        return Err(Error::DigestMismatch {
            what: what.to_owned(),
            expected: blob.digest.clone(),
            actual,
        });
    }
    Ok(())
}

async fn wait_before_retry(attempt: u32) {
    tokio::time::sleep(FIRST_RETRY_DELAY * 2_u32.saturating_pow(attempt.saturating_sub(1).min(6))).await;
}

/// Blobs are often elsewhere, so redirects are followed, but never from TLS to plain HTTP.
/// The client itself keeps the `Authorization` header from any other host.
fn redirects() -> reqwest::redirect::Policy {
    reqwest::redirect::Policy::custom(|attempt| {
        let was_secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
        if was_secure && attempt.url().scheme() != "https" {
            return attempt.error("redirected from TLS to plain HTTP");
        }
        if attempt.previous().len() > MAX_REDIRECTS {
            return attempt.error("redirected too often");
        }
        attempt.follow()
    })
}

fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}
