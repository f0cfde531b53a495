//! Whom we believe to be a registry: the system's certificate authorities and those configured for that registry.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::error::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    On,
    /// For registries that the configuration calls insecure.
    Off,
}

/// TLS settings for `registry` (`host[:port]`); `certs_dir` has a directory of `*.crt` files per registry.
pub async fn client_config(
    registry: &str,
    certs_dir: Option<PathBuf>,
    verification: Verification,
) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Tls {
            registry: registry.to_owned(),
            cause: error.to_string(),
        })?;
    if verification == Verification::Off {
        let builder = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer { provider }));
        return Ok(builder.with_no_client_auth());
    }
    let directory = certs_dir.map(|directory| directory.join(registry));
    let roots = tokio::task::spawn_blocking(move || roots(directory.as_deref()))
        .await
        .map_err(|_| Error::TaskDied("reading certificates"))??;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn roots(directory: Option<&Path>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!(%error, "system certificate cannot be read, ignoring");
    }
    roots.add_parsable_certificates(system.certs);
    let Some(directory) = directory else { return Ok(roots) };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(roots),
        Err(error) => return Err(Error::io("list", directory, error)),
    };
    for entry in entries {
        let path = entry.map_err(|error| Error::io("list", directory, error))?.path();
        if path.extension().is_none_or(|extension| extension != "crt") {
            continue;
        }
        let text = std::fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
        let mut found = false;
        for certificate in CertificateDer::pem_slice_iter(&text) {
            let added = certificate.ok().map(|certificate| roots.add(certificate));
            if !matches!(added, Some(Ok(()))) {
                return Err(unusable(&path, "not a certificate"));
            }
            found = true;
        }
        if !found {
            return Err(unusable(&path, "no PEM certificate in it"));
        }
    }
    Ok(roots)
}

fn unusable(path: &Path, reason: &'static str) -> Error {
    Error::InvalidSetting {
        setting: "certs_dir",
        value: path.display().to_string(),
        reason,
    }
}

/// Believes any certificate, though the server must hold its key.
#[derive(Debug)]
struct AnyServer {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
