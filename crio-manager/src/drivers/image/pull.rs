//! A pull from beginning to end, and the sharing of one between callers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;

use super::artifact::Artifact;
use super::catalog::Lease;
use super::config::ConfigDocument;
use super::digest::{Digest, ImageId};
use super::error::{Error, Result};
use super::manifest::{Descriptor, Document, Manifest, choose_platform, host_architecture};
use super::reference::ImageRef;
use super::registries::Source;
use super::registry::Registry;
use super::sources::Wanted;
use super::{ImageStore, Node, signature};
use crate::spans;

/// How many layers of one image are fetched and unpacked at once.
const PARALLEL_LAYERS: usize = 3;
/// How many lists may lie between a name and its image.
const MAX_LIST_DEPTH: usize = 2;

type Outcome = watch::Receiver<Option<Result<ImageId>>>;

/// The pulls under way. Another's credentials open no door: only who brings the same ones joins.
#[derive(Default)]
pub struct SharedPulls(Mutex<HashMap<Wanted, Outcome>>);

impl SharedPulls {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<Wanted, Outcome>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Takes a pull off the list when it ends, however it ends.
struct Listed {
    node: Arc<Node>,
    wanted: Wanted,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.node.pulls.with(|pulls| pulls.remove(&self.wanted));
    }
}

impl ImageStore {
    /// Joins the pull of the same that is under way, or begins one.
    pub(super) async fn pull_one(&self, wanted: Wanted) -> Result<ImageId> {
        let mut outcome = self.node.pulls.with(|pulls| {
            if let Some(outcome) = pulls.get(&wanted) {
                return outcome.clone();
            }
            let (tell, outcome) = watch::channel(None);
            pulls.insert(wanted.clone(), outcome.clone());
            let listed = Listed {
                node: Arc::clone(&self.node),
                wanted,
            };
            self.node.spawn(spans::carried(async move {
                let result = pull(&listed.node, &listed.wanted).await;
                listed.node.transfers.ended(&result);
                drop(listed); // before the outcome is known: who asks after it begins anew
                tell.send_replace(Some(result));
            }));
            outcome
        });
        match outcome.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Err(Error::TaskDied("pulling an image"))),
            Err(_) => Err(Error::TaskDied("pulling an image")),
        }
    }
}

async fn pull(node: &Arc<Node>, wanted: &Wanted) -> Result<ImageId> {
    let result = from_any_source(node, wanted).await;
    // Layers of a pull that failed are kept for the next try, unless they are what is in the way.
    if matches!(result, Err(Error::DiskFull(_)))
        && let Err(error) = node.remove_unused_layers().await
    {
        tracing::warn!(%error, "remove unused layers from a full disk, ignoring");
    }
    result
}

/// Tries the mirrors, then the registry itself, whose failure is the one that is told.
async fn from_any_source(node: &Arc<Node>, wanted: &Wanted) -> Result<ImageId> {
    let mut outcome = Err(Error::NoSuchImage(wanted.image.to_string()));
    for source in node.sources.registries().sources(&wanted.image)? {
        outcome = fetch(node, wanted, &source).await;
        match &outcome {
            Err(error) if source.is_mirror && !matches!(error, Error::DiskFull(_)) => {
                tracing::warn!(%error, mirror = source.name(), "pull from a mirror, trying the next place");
            }
            _ => break,
        }
    }
    outcome
}

async fn fetch(node: &Arc<Node>, wanted: &Wanted, source: &Source) -> Result<ImageId> {
    let image = &wanted.image;
    // Before anything is asked of the registry: what is rejected outright is not even looked at.
    let admission = signature::admission(wanted).await?;
    let registry = Registry::connect(source, &node.registries, wanted.credentials_for(source)?).await?;
    let (found, manifests) = find_manifest(&registry, image).await?;
    admission.check(&registry, &node.registries, wanted, &manifests).await?;
    let document = match found {
        Found::Image(manifest) => fetch_image(node, &registry, image, manifest).await?,
        Found::Artifact(artifact) => fetch_artifact(node, &registry, artifact).await?,
    };
    // The digest that was asked for, or that the tag stood for: of a list, not of its part for this machine.
    let digest = manifests.first().map(|digest| format!("{}@{digest}", image.name()));
    let (document, _lease) = document;
    node.record_image(
        document,
        image.tagged_name().into_iter().collect(),
        digest.into_iter().collect(),
    )
    .await
}

/// What a name leads to.
enum Found {
    Image(Manifest),
    Artifact(Artifact),
}

/// Gets the files of an artifact, which are its only layer; as [`fetch_image`].
async fn fetch_artifact(node: &Arc<Node>, registry: &Registry, artifact: Artifact) -> Result<(ConfigDocument, Lease)> {
    let limit = node.limits.tar_bytes;
    if artifact.bytes() > limit {
        let what = format!("artifact {}", artifact.document.id);
        return Err(Error::TooLarge { what, limit });
    }
    let Artifact { document, files } = artifact;
    let lease = node.lease(&document.layers);
    let fetch = stream::iter(files)
        .map(|file| async move { Ok((file.path, download(node, registry, &file.blob).await?)) })
        .buffer_unordered(PARALLEL_LAYERS)
        .try_collect::<Vec<_>>();
    if let Some(layer) = document.layers.first().cloned() {
        node.ensure_layer_by(layer, fetch, |layers, layer, files, _| layers.add_files(layer, files))
            .await?;
    }
    Ok((document, lease))
}

/// Gets the layers of an image, which stay as long as the lease does.
async fn fetch_image(
    node: &Arc<Node>,
    registry: &Registry,
    image: &ImageRef,
    manifest: Manifest,
) -> Result<(ConfigDocument, Lease)> {
    let document = ConfigDocument {
        kind: manifest.kind,
        ..fetch_config(node, registry, &manifest).await?
    };
    if document.layers.len() != manifest.layers.len() {
        let reason = format!(
            "its manifest has {} layers, its configuration {}",
            manifest.layers.len(),
            document.layers.len()
        );
        return Err(Error::InvalidImage {
            what: image.to_string(),
            reason,
        });
    }
    let lease = node.lease(&document.layers);
    stream::iter(document.layers.clone().into_iter().zip(manifest.layers))
        .map(|(layer, blob)| {
            let is_here = AtomicBool::new(true);
            async move {
                let fetch = async {
                    is_here.store(false, Ordering::Relaxed);
                    let fetched = download(node, registry, &blob).await?;
                    node.transfers.fetched(&blob);
                    Ok(fetched)
                };
                spans::within("layer", async {
                    spans::note("digest", layer.to_string());
                    node.ensure_layer(layer, fetch).await
                })
                .await?;
                if is_here.into_inner() {
                    node.transfers.reused(&blob);
                }
                Ok(())
            }
        })
        .buffer_unordered(PARALLEL_LAYERS)
        .try_collect::<()>()
        .await?;
    Ok((document, lease))
}

async fn download(node: &Arc<Node>, registry: &Registry, blob: &Descriptor) -> Result<std::fs::File> {
    let spool = node.blocking("making a file", |node| node.layers.spool()).await?;
    registry.download(blob, spool).await
}

/// The manifest of the image for this machine, or the artifact, and the digests of those that lead to it, its own the last.
async fn find_manifest(registry: &Registry, image: &ImageRef) -> Result<(Found, Vec<Digest>)> {
    let what = image.to_string();
    let mut version = image.version();
    let mut digests = Vec::new();
    for _ in 0..=MAX_LIST_DEPTH {
        let fetched = registry.manifest(&version).await?;
        digests.push(fetched.digest);
        match Document::read(&what, fetched.media_type.as_deref(), &fetched.bytes)? {
            Document::Image(manifest) => return Ok((Found::Image(manifest), digests)),
            Document::Artifact(_) => return Ok((Found::Artifact(Artifact::read(fetched.bytes)?), digests)),
            Document::List(list) => version = choose_platform(&what, list, host_architecture())?.digest.to_string(),
        }
    }
    Err(Error::InvalidImage {
        what,
        reason: "its list leads to lists only".to_owned(),
    })
}

async fn fetch_config(node: &Node, registry: &Registry, manifest: &Manifest) -> Result<ConfigDocument> {
    let id = ImageId::try_from(manifest.config.digest.clone()).map_err(|_| Error::InvalidImage {
        what: format!("configuration {}", manifest.config.digest),
        reason: "it is not named by a sha256 digest".to_owned(),
    })?;
    let known = node
        .state()
        .images
        .get(&id)
        .map(|image| image.config_text.as_bytes().to_vec());
    let bytes = match known {
        Some(bytes) => bytes,
        None => registry.small_blob(&manifest.config).await?,
    };
    ConfigDocument::read(bytes)
}
