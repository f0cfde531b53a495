//! A conversation with a registry (the OCI distribution protocol, reading side).
//!
//! Of our own on an HTTP client, because what the ready-made client lacks is what a node needs: bodies bounded before they
//! are in memory, an authentication failure that says why, identity tokens, and no panic on a token the server made up.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use tokio::io::{AsyncSeekExt, AsyncWriteExt, BufWriter};
use tokio::sync::Mutex;

use super::config::MAX_DOCUMENT_BYTES;
use super::credentials::Credentials;
use super::digest::{Digest, Hasher};
use super::error::{Error, Result};
use super::manifest::{self, Descriptor};
use super::reference::{DEFAULT_REGISTRY, is_registry_host};
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

/// A registry that may be reached without proof of who it is: over TLS unverified or, without TLS, over plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InsecureRegistry {
    Host(String),
    Network { address: IpAddr, prefix: u32 },
}

impl InsecureRegistry {
    /// Reads `host`, `host:port` or an address range (`10.0.0.0/8`).
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |reason| Error::InvalidSetting {
            setting: "insecure_registries",
            value: text.to_owned(),
            reason,
        };
        if let Some((address, prefix)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| invalid("not an address range"))?;
            let longest = if address.is_ipv4() { 32 } else { 128 };
            let prefix = prefix.parse().ok().filter(|prefix| *prefix <= longest);
            return Ok(Self::Network {
                address,
                prefix: prefix.ok_or_else(|| invalid("not an address range"))?,
            });
        }
        if !is_registry_host(text) {
            return Err(invalid("neither a host with an optional port nor an address range"));
        }
        Ok(Self::Host(text.to_ascii_lowercase()))
    }

    /// Whether `registry` (`host[:port]`) is meant. A host without a port means every port of it.
    fn means(&self, registry: &str) -> bool {
        let host = host_of(registry);
        match self {
            Self::Host(listed) => listed == registry || listed == host,
            Self::Network { address, prefix } => match (address, address_of(host)) {
                (IpAddr::V4(network), Some(IpAddr::V4(host))) => {
                    let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
                    network.to_bits() & mask == host.to_bits() & mask
                }
                (IpAddr::V6(network), Some(IpAddr::V6(host))) => {
                    let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
                    network.to_bits() & mask == host.to_bits() & mask
                }
                _ => false,
            },
        }
    }
}

fn host_of(registry: &str) -> &str {
    match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => registry,
    }
}

fn address_of(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
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
    /// off is resumed where it was, up to [`LAYER_ATTEMPTS`] times.
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

    /// Answers the challenges of a 401 with a header to try.
    async fn authorize(&self, headers: &HeaderMap, refused: Option<&HeaderValue>) -> Result<HeaderValue> {
        let mut accepted = self.authorization.lock().await;
        if accepted.is_some() && accepted.as_ref() != refused {
            return accepted
                .clone()
                .ok_or_else(|| self.unauthorized("no credentials".to_owned()));
        }
        let header = match (self.challenge(headers)?, &self.credentials) {
            (_, Some(Credentials::RegistryToken(_))) => {
                return Err(self.unauthorized("the registry token is not accepted".to_owned()));
            }
            (Challenge::Basic, credentials) => match credentials.as_ref().and_then(Credentials::basic) {
                Some(basic) => secret_header(basic)?,
                None => return Err(self.unauthorized("it asks for a user name and password".to_owned())),
            },
            (Challenge::Bearer { realm, service }, credentials) => {
                self.token(&realm, service.as_deref(), credentials.as_ref()).await?
            }
        };
        *accepted = Some(header.clone());
        Ok(header)
    }

    fn challenge(&self, headers: &HeaderMap) -> Result<Challenge> {
        let mut basic = false;
        for header in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(text) = header.to_str() else { continue };
            let Ok(challenges) = http_auth::parse_challenges(text) else {
                continue;
            };
            for challenge in challenges {
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    let parameter = |name: &str| {
                        let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                        found.map(|(_, value)| value.to_unescaped())
                    };
                    if let Some(realm) = parameter("realm") {
                        return Ok(Challenge::Bearer {
                            realm,
                            service: parameter("service"),
                        });
                    }
                }
                basic |= challenge.scheme.eq_ignore_ascii_case("basic");
            }
        }
        match basic {
            true => Ok(Challenge::Basic),
            false => Err(self.unauthorized("it does not say how to log in".to_owned())),
        }
    }

    /// Asks the registry's token service for leave to read this repository.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        credentials: Option<&Credentials>,
    ) -> Result<HeaderValue> {
        let what = "token";
        let mut url =
            Url::parse(realm).map_err(|_| self.unauthorized("its token service is not an address".to_owned()))?;
        let is_allowed = url.scheme() == "https" || (url.scheme() == "http" && self.plain_http);
        if !is_allowed {
            return Err(self.unauthorized("its token service is not reached over TLS".to_owned()));
        }
        let scope = format!("repository:{}:pull", self.path);
        let request = match credentials {
            Some(Credentials::IdentityToken(token)) => {
                let mut form = url.clone();
                form.set_query(None);
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("service", service.unwrap_or_default())
                    .append_pair("client_id", CLIENT_ID)
                    .append_pair("scope", &scope)
                    .append_pair("refresh_token", token);
                self.client
                    .post(url)
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(form.query().unwrap_or_default().to_owned())
            }
            _ => {
                if let Some(service) = service {
                    url.query_pairs_mut().append_pair("service", service);
                }
                url.query_pairs_mut().append_pair("scope", &scope);
                if let Some(Credentials::Password { username, .. }) = credentials {
                    url.query_pairs_mut().append_pair("account", username);
                }
                let request = self.client.get(url);
                match credentials.and_then(Credentials::basic) {
                    Some(basic) => request.header(AUTHORIZATION, secret_header(basic)?),
                    None => request,
                }
            }
        };
        let response = self.progress(what, request.send()).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(match self.refusal(what, status, response).await {
                Error::Refused { message, status, .. } if (400..500).contains(&status) => self.unauthorized(message),
                Error::NotFound { .. } => self.unauthorized("it has no token service where it says".to_owned()),
                error => error,
            });
        }
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let body = self.body(what, response, MAX_TOKEN_BYTES).await?;
        let token: Token = serde_json::from_slice(&body)
            .map_err(|_| self.unauthorized("its token service answers something else".to_owned()))?;
        let token = token.token.or(token.access_token).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| self.unauthorized("its token service gives no token".to_owned()))?;
        secret_header(format!("Bearer {token}"))
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

    async fn refusal(&self, what: &str, status: StatusCode, mut response: Response) -> Error {
        let mut body = Vec::new();
        while (body.len() as u64) < MAX_ERROR_BYTES {
            match self.progress(what, response.chunk()).await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) | Err(_) => break, // the status says enough
            }
        }
        let message = error_message(&body).unwrap_or_else(|| status.to_string());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.unauthorized(message),
            StatusCode::NOT_FOUND => Error::NotFound { what: what.to_owned() },
            status => Error::Refused {
                registry: self.registry.clone(),
                what: what.to_owned(),
                status: status.as_u16(),
                message,
            },
        }
    }

    /// Waits for the next sign of life.
    async fn progress<T>(&self, what: &str, step: impl Future<Output = reqwest::Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.progress_timeout, step).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.broken(what, &error)),
            Err(_) => Err(self.stalled(what, self.progress_timeout)),
        }
    }

    fn broken(&self, what: &str, error: &reqwest::Error) -> Error {
        let registry = self.registry.clone();
        let cause = root_cause(error);
        if is_tls(error) {
            Error::Tls { registry, cause }
        } else if error.is_connect() {
            Error::Unreachable { registry, cause }
        } else {
            Error::Transfer {
                registry,
                what: what.to_owned(),
                cause,
            }
        }
    }

    fn transfer_error(&self, what: &str, cause: String) -> Error {
        Error::Transfer {
            registry: self.registry.clone(),
            what: what.to_owned(),
            cause,
        }
    }

    fn stalled(&self, what: &str, limit: Duration) -> Error {
        Error::Stalled {
            registry: self.registry.clone(),
            what: what.to_owned(),
            limit,
        }
    }

    fn unauthorized(&self, reason: String) -> Error {
        Error::Unauthorized {
            registry: self.registry.clone(),
            reason,
        }
    }
}

enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
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

fn is_transient(error: &Error) -> bool {
    match error {
        Error::Transfer { .. } | Error::Stalled { .. } => true,
        Error::Refused { status, .. } => *status == 429 || *status >= 500,
        _ => false,
    }
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

fn secret_header(value: String) -> Result<HeaderValue> {
    let mut header =
        HeaderValue::try_from(value).map_err(|_| Error::InvalidCredentials("they do not fit into a header"))?;
    header.set_sensitive(true);
    Ok(header)
}

fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// The first message of a registry's error document, made safe to show.
fn error_message(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        errors: Vec<Entry>,
        #[serde(default)]
        details: Option<String>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let text = match answer.errors.first() {
        Some(first) => format!("{}: {}", first.code, first.message),
        None => answer.details?,
    };
    Some(text.chars().filter(|c| !c.is_control()).take(MAX_ERROR_CHARS).collect())
}

fn sources(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| {
        error.source()
    })
}

/// The innermost message; the outer ones repeat the address or say "error sending request".
fn root_cause(error: &reqwest::Error) -> String {
    sources(error).last().map(ToString::to_string).unwrap_or_default()
}

fn is_tls(error: &reqwest::Error) -> bool {
    sources(error).any(|source| {
        // An I/O error hides what it wraps from the chain of sources.
        let mut wrapped: Option<&(dyn std::error::Error + 'static)> = Some(source);
        while let Some(error) = wrapped {
            if error.is::<rustls::Error>() {
                return true;
            }
            let io_error = error.downcast_ref::<std::io::Error>();
            wrapped = io_error.and_then(std::io::Error::get_ref).map(|inner| inner as _);
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insecure_registries_are_hosts_ports_and_ranges() {
        let means = |listed: &str, registry: &str| InsecureRegistry::parse(listed).unwrap().means(registry);
        assert!(means("127.0.0.1:5000", "127.0.0.1:5000"));
        assert!(!means("127.0.0.1:5000", "127.0.0.1:5001"));
        assert!(means("registry.local", "registry.local:5000"));
        assert!(!means("registry.local", "other.local:5000"));
        assert!(means("10.0.0.0/8", "10.9.8.7:5000"));
        assert!(!means("10.0.0.0/8", "11.9.8.7"));
        assert!(means("0.0.0.0/0", "1.2.3.4"));
        assert!(means("::1/128", "[::1]:5000"));
        assert!(!means("::1/128", "[::2]:5000"));
        assert!(!means("10.0.0.0/8", "ten.example"));
        for text in ["", "10.0.0.0/33", "http://x", "a/b", "-x"] {
            assert!(InsecureRegistry::parse(text).is_err(), "{text}");
        }
    }
}
