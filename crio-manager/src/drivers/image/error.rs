//! What can go wrong with an image, in the words of whoever can act on it.
//!
//! The enum is `Clone` because several callers may wait for one pull and all of them get its outcome.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::digest::{Digest, ImageId};
use super::unpack::UnpackError;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("invalid image reference {reference:?}: {reason}")]
    InvalidReference { reference: String, reason: &'static str },
    #[error("{prefix:?} is the beginning of more than one image id")]
    AmbiguousId { prefix: String },
    #[error("no image {0:?} on this node")]
    NoSuchImage(String),
    #[error("{0} is an artifact: files for a volume, and no image for a container")]
    OnlyAVolume(ImageId),
    #[error("image {0} is in use")]
    InUse(ImageId),

    /// The registry could not be talked to at all: refused, unreachable, no such host.
    #[error("registry {registry} is unreachable: {cause}")]
    Unreachable { registry: String, cause: String },
    #[error("registry {registry}: TLS: {cause}")]
    Tls { registry: String, cause: String },
    #[error("registry {registry} denies access: {reason}")]
    Unauthorized { registry: String, reason: String },
    #[error("{what} is not in the registry")]
    NotFound { what: String },
    #[error("registry {registry} answered {status} for {what}: {message}")]
    Refused {
        registry: String,
        what: String,
        status: u16,
        message: String,
    },
    #[error("registry {registry}: {what}: {cause}")]
    Transfer {
        registry: String,
        what: String,
        cause: String,
    },
    #[error("registry {registry}: {what}: no progress for {limit:?}")]
    Stalled {
        registry: String,
        what: String,
        limit: Duration,
    },
    #[error("{0} is blocked by registries.conf")]
    Blocked(String),
    #[error("{path}: {reason}")]
    InvalidFile { path: PathBuf, reason: String },
    /// The policy for signatures does not let the image in.
    #[error("{image} is refused by {policy}: {reason}")]
    Untrusted {
        image: String,
        policy: PathBuf,
        reason: String,
    },
    #[error("credentials: {0}")]
    InvalidCredentials(&'static str),

    #[error("{what}: digest is {actual}, expected {expected}")]
    DigestMismatch {
        what: String,
        expected: Digest,
        actual: Digest,
    },
    #[error("{what}: size is {actual} bytes, expected {expected}")]
    SizeMismatch { what: String, expected: u64, actual: u64 },
    #[error("{what}: unsupported media type {media_type:?}")]
    UnsupportedMediaType { what: String, media_type: String },
    #[error("{what} has no image for {wanted}, only for {offered}")]
    NoPlatform {
        what: String,
        wanted: String,
        offered: String,
    },
    #[error("{what} is larger than {limit} bytes")]
    TooLarge { what: String, limit: u64 },
    #[error("{what}: {reason}")]
    InvalidImage { what: String, reason: String },
    #[error("layer {layer}: {source}")]
    Unpack { layer: Digest, source: UnpackError },

    #[error("no space left on the file system of {0}")]
    DiskFull(PathBuf),
    #[error("{action} {path}: {source}")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: Arc<io::Error>,
    },
    #[error("image store {root}: {reason}")]
    UnusableRoot { root: PathBuf, reason: &'static str },
    #[error("setting {setting}: {value:?}: {reason}")]
    InvalidSetting {
        setting: &'static str,
        value: String,
        reason: &'static str,
    },

    #[error("container id {0:?} is not 64 lowercase hex digits")]
    InvalidContainerId(String),
    #[error("container {container} has its root file system from image {mounted}, not {wanted}")]
    MountedFromOther {
        container: String,
        mounted: ImageId,
        wanted: ImageId,
    },
    #[error("container {0} has no root file system yet")]
    NoRootfs(String),
    #[error("{0} is still mounted")]
    StillMounted(PathBuf),
    #[error("path {path:?} in the root file system: {reason}")]
    InvalidPath { path: String, reason: &'static str },
    #[error("file {path:?} in the root file system is larger than {limit} bytes")]
    FileTooLarge { path: String, limit: u64 },

    /// A task of ours died: a defect, already logged where it happened.
    #[error("{0} ended without an answer")]
    TaskDied(&'static str),
}

impl Error {
    /// Wraps an I/O error; a full file system becomes [`Error::DiskFull`].
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        if is_disk_full(&source) {
            return Self::DiskFull(path.as_ref().to_owned());
        }
        Self::Io {
            action,
            path: path.as_ref().to_owned(),
            source: Arc::new(source),
        }
    }

    /// Wraps a failure to unpack `layer` into a directory under `root`.
    pub fn unpack(layer: &Digest, root: &Path, source: UnpackError) -> Self {
        match source {
            UnpackError::Io { source, .. } if is_disk_full(&source) => Self::DiskFull(root.to_owned()),
            source => Self::Unpack {
                layer: layer.clone(),
                source,
            },
        }
    }
}

fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
