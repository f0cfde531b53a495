//! Whether an image is signed as the policy demands. Signatures are found where cosign leaves them: in the repository, under
//! the tag `sha256-<digest>.sig`.

use std::sync::Arc;

use serde::Deserialize;

use super::blocking;
use super::digest::Digest;
use super::error::{Error, Result};
use super::manifest::Descriptor;
use super::policy::{Policy, Signature, Verdict};
use super::reference::ImageRef;
use super::registry::Registry;
use super::sources::Wanted;

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// Signatures of one manifest that are looked at.
const MAX_SIGNATURES: usize = 32;

/// What an image still has to show before it is let in.
pub struct Admission(Option<(Arc<Policy>, Verdict)>);

/// Asks the policy. Errors: `Untrusted` for what no signature would help; those of the policy's files.
pub async fn admission(wanted: &Wanted) -> Result<Admission> {
    let Some(policy) = wanted.policy().await? else {
        return Ok(Admission(None));
    };
    let image = wanted.image.clone();
    blocking("reading keys of the signature policy", move || {
        let verdict = policy.verdict(&image)?;
        Ok(Admission(Some((policy, verdict))))
    })
    .await
}

impl Admission {
    /// Checks the signatures of `image`, whose manifests, from the list to the image's own, are these. A signature of any of
    /// them is one of the image: each names the next by its digest. Errors: `Untrusted`; those of the registry.
    pub async fn check(&self, registry: &Registry, image: &ImageRef, manifests: &[Digest]) -> Result<()> {
        let Some((policy, Verdict::Signed(demands))) = &self.0 else {
            return Ok(());
        };
        let mut signatures = Vec::new();
        for manifest in manifests {
            signatures.extend(fetch(registry, manifest).await?);
        }
        for demand in demands {
            let mut reason = "it has no signature".to_owned();
            let is_met = signatures.iter().any(|signature| {
                let outcome = demand.is_met_by(signature, image, manifests);
                outcome.map_err(|why| reason = why).is_ok()
            });
            if !is_met {
                return Err(policy.refuse(image, reason));
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Signatures {
    #[serde(default)]
    layers: Vec<Descriptor>,
}

async fn fetch(registry: &Registry, manifest: &Digest) -> Result<Vec<Signature>> {
    let tag = format!("{}.sig", manifest.to_string().replace(':', "-"));
    let document = match registry.manifest(&tag).await {
        Ok(document) => document,
        Err(Error::NotFound { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let found: Signatures = serde_json::from_slice(&document.bytes).map_err(|error| Error::InvalidImage {
        what: tag,
        reason: error.to_string(),
    })?;
    let mut signatures = Vec::new();
    for layer in found.layers.iter().take(MAX_SIGNATURES) {
        let signature = layer
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(SIGNATURE));
        if let (PAYLOAD, Some(signature)) = (layer.media_type.as_str(), signature) {
            signatures.push(Signature {
                payload: registry.small_blob(layer).await?,
                signature: signature.clone(),
            });
        }
    }
    Ok(signatures)
}
