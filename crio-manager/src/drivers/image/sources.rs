//! What an administrator's files say of a pull: where from, as whom, and what has to be signed. Read anew for every pull,
//! so that a change needs no restart.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::auth_file::AuthFile;
use super::blocking;
use super::credentials::Credentials;
use super::digest::Digest;
use super::error::{Error, Result};
use super::policy::Policy;
use super::reference::ImageRef;
use super::registries::{self, Registries, Source};

/// What to pull, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequest {
    /// As the client wrote it.
    pub image: String,
    pub credentials: Option<Credentials>,
    /// The Kubernetes namespace of the pod that wants it, where one is known.
    pub namespace: Option<String>,
}

impl PullRequest {
    /// For nobody in particular, as nobody in particular.
    pub fn of(image: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            credentials: None,
            namespace: None,
        }
    }

    /// As somebody.
    pub fn with(self, credentials: Option<Credentials>) -> Self {
        Self { credentials, ..self }
    }
}

/// Where those files are; none is needed.
#[derive(Debug, Clone, Default)]
pub struct PullFiles {
    /// `registries.conf`; drop-ins beside it, in a directory of its name and `.d`.
    pub registries: Option<PathBuf>,
    /// Refuse a short name that several registries may have.
    pub refuse_ambiguous_names: bool,
    pub auth: Option<PathBuf>,
    /// Credentials for one pull, which are removed as they are read: `<namespace>-<sha256 of the image's name>.json`.
    pub namespaced_auth_dir: Option<PathBuf>,
    pub policy: Option<PathBuf>,
    /// Stands in for it where none is named and this is there.
    pub system_policy: Option<PathBuf>,
    /// `<namespace>.json` takes the place of the policy for pods of that namespace.
    pub namespaced_policy_dir: Option<PathBuf>,
    /// `registries.d`: where simple signatures lie.
    pub lookaside_dir: Option<PathBuf>,
}

/// One reference to pull, and by what rules. Who has the same ones shares the transfer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    pub image: ImageRef,
    /// From the request: for the registry itself, never for a mirror.
    credentials: Option<Credentials>,
    /// The first that has any counts.
    auths: Vec<AuthFile>,
    policy: Option<PathBuf>,
    pub lookaside_dir: Option<PathBuf>,
}

impl Wanted {
    /// Who to be towards this source.
    pub fn credentials_for(&self, source: &Source) -> Result<Option<Credentials>> {
        if let Some(credentials) = self.credentials.clone().filter(|_| !source.is_mirror) {
            return Ok(Some(credentials));
        }
        for auths in &self.auths {
            if let Some(credentials) = auths.credentials(&source.name())? {
                return Ok(Some(credentials));
            }
        }
        Ok(None)
    }

    /// The policy that holds, if there is one.
    pub async fn policy(&self) -> Result<Option<Arc<Policy>>> {
        let Some(path) = self.policy.clone() else {
            return Ok(None);
        };
        let policy = blocking("reading the signature policy", move || Policy::read(&path)).await?;
        Ok(Some(Arc::new(policy)))
    }
}

/// The files, and what `registries.conf` said last.
#[derive(Debug)]
pub struct Sources {
    files: PullFiles,
    registries: Mutex<Arc<Registries>>,
}

impl Sources {
    /// Blocks. Errors: those of [`registries::load`].
    pub fn open(files: PullFiles) -> Result<Self> {
        let registries = load(&files)?;
        Ok(Self {
            files,
            registries: Mutex::new(Arc::new(registries)),
        })
    }

    /// As it was read last. From memory.
    pub fn registries(&self) -> Arc<Registries> {
        Arc::clone(&self.registries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files anew: what to try for this request, in order. Errors: `InvalidReference` also for an ambiguous
    /// name; those of the files.
    pub async fn wanted(self: &Arc<Self>, request: PullRequest) -> Result<Vec<Wanted>> {
        let this = Arc::clone(self);
        blocking("reading the files for a pull", move || {
            let registries = Arc::new(load(&this.files)?);
            *this.registries.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&registries);
            let images = registries.candidates(&request.image)?;
            if this.files.refuse_ambiguous_names && images.len() > 1 {
                return Err(Error::InvalidReference {
                    reference: request.image,
                    reason: "a short name that more than one registry may have; name the registry, or an alias in registries.conf",
                });
            }
            let auths = this.auths(&request)?;
            let policy = this.policy(request.namespace.as_deref());
            let wanted = |image| Wanted {
                image,
                credentials: request.credentials.clone(),
                auths: auths.clone(),
                policy: policy.clone(),
                lookaside_dir: this.files.lookaside_dir.clone(),
            };
            Ok(images.into_iter().map(wanted).collect())
        })
        .await
    }

    fn auths(&self, request: &PullRequest) -> Result<Vec<AuthFile>> {
        let mut auths = Vec::new();
        if let (Some(directory), Some(namespace)) = (&self.files.namespaced_auth_dir, &request.namespace) {
            let digest = Digest::sha256_of(request.image.as_bytes()).to_string();
            let name = digest.trim_start_matches("sha256:");
            let path = directory.join(format!("{namespace}-{name}.json"));
            auths.extend(AuthFile::read(&path)?);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", &path, error));
                }
                _ => {}
            }
        }
        if let Some(path) = &self.files.auth {
            auths.extend(AuthFile::read(path)?);
        }
        Ok(auths)
    }

    fn policy(&self, namespace: Option<&str>) -> Option<PathBuf> {
        let of_namespace = self
            .files
            .namespaced_policy_dir
            .as_ref()
            .zip(namespace)
            .map(|(directory, namespace)| directory.join(format!("{namespace}.json")))
            .filter(|path| path.exists());
        let of_system = || self.files.system_policy.clone().filter(|path| path.exists());
        of_namespace.or_else(|| self.files.policy.clone()).or_else(of_system)
    }
}

fn load(files: &PullFiles) -> Result<Registries> {
    files
        .registries
        .as_deref()
        .map_or_else(|| Ok(Registries::default()), registries::load)
}
