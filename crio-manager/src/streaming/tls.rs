//! Certificates from files, read anew when these have changed: a connection begins with those that are there.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_rustls::TlsAcceptor;

/// Where the certificates are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and what leads from it to an authority; PEM.
    pub certificate: PathBuf,
    /// Its private key; PEM.
    pub key: PathBuf,
    /// Authorities of which every client must bring a certificate; `None` asks for none.
    pub client_authorities: Option<PathBuf>,
}

/// Files that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct Unusable {
    path: PathBuf,
    why: String,
}

impl Unusable {
    fn new(path: &Path, why: impl std::fmt::Display) -> Self {
        Self {
            path: path.to_owned(),
            why: why.to_string(),
        }
    }
}

/// What tells that a file has changed: inode, length, modification time.
type Look = (u64, u64, i64, i64);

/// The certificates in use.
#[derive(Clone)]
pub struct Certificates {
    files: TlsFiles,
    current: Arc<Mutex<(Vec<Look>, TlsAcceptor)>>,
}

impl Certificates {
    /// Reads them. Errors: one is missing or of no use.
    pub fn load(files: TlsFiles) -> Result<Self, Unusable> {
        let look = look(&files)?;
        let acceptor = acceptor(&files)?;
        Ok(Self {
            files,
            current: Arc::new(Mutex::new((look, acceptor))),
        })
    }

    /// Those of now. New ones that are of no use change nothing, and are complained of.
    pub fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let looked = look(&self.files);
        if looked.as_ref().is_ok_and(|look| *look == current.0) {
            return current.1.clone();
        }
        match looked.and_then(|look| Ok((look, acceptor(&self.files)?))) {
            Ok(new) => {
                tracing::info!(certificate = %self.files.certificate.display(), "new certificates");
                *current = new;
            }
            Err(error) => tracing::warn!(%error, "new certificates cannot be used, keeping the old ones"),
        }
        current.1.clone()
    }
}

fn look(files: &TlsFiles) -> Result<Vec<Look>, Unusable> {
    let paths = [
        Some(&files.certificate),
        Some(&files.key),
        files.client_authorities.as_ref(),
    ];
    let looks = paths.into_iter().flatten().map(|path| {
        let file = std::fs::metadata(path).map_err(|error| Unusable::new(path, error))?;
        Ok((file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
    });
    looks.collect()
}

fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, Unusable> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| Unusable::new(&files.key, error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Unusable::new(&files.certificate, error))?;
    let builder = match &files.client_authorities {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut authorities = RootCertStore::empty();
            for authority in certificates(path)? {
                authorities.add(authority).map_err(|error| Unusable::new(path, error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(authorities.into(), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| Unusable::new(path, error))?)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| Unusable::new(&files.certificate, error))?;
    // An upgrade needs HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| Unusable::new(path, error))?;
    if found.is_empty() {
        return Err(Unusable::new(path, "there is no certificate in it"));
    }
    Ok(found)
}
