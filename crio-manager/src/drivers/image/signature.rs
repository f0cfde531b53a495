//! Whether an image is signed as the policy demands. Signatures are found where cosign leaves them: in the repository, under
//! the tag `sha256-<digest>.sig`; simple ones beside the registry ([`lookaside`]).

use std::sync::Arc;

use serde::Deserialize;

use super::blocking;
use super::digest::Digest;
use super::error::{Error, Result};
use super::manifest::Descriptor;
use super::policy::{Demand, Policy, Signature, Verdict};
use super::reference::ImageRef;
use super::registry::{Registry, RegistrySettings};
use super::sources::Wanted;
use super::{lookaside, openpgp};

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const UNSIGNED: &str = "it has no signature";
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
    pub async fn check(
        &self,
        registry: &Registry,
        settings: &RegistrySettings,
        wanted: &Wanted,
        manifests: &[Digest],
    ) -> Result<()> {
        let Some((policy, Verdict::Signed(demands))) = &self.0 else {
            return Ok(());
        };
        let image = &wanted.image;
        let (mut attached, mut simple) = (Vec::new(), Vec::new());
        if demands.iter().any(|demand| demand.openpgp_keys().is_none()) {
            for manifest in manifests {
                attached.extend(fetch(registry, manifest).await?);
            }
        }
        if demands.iter().any(|demand| demand.openpgp_keys().is_some()) {
            let (directory, name) = (wanted.lookaside_dir.clone(), image.clone());
            let base = blocking("reading registries.d", move || {
                lookaside::base_for(directory.as_deref(), &name)
            })
            .await?;
            for manifest in manifests {
                simple.extend(lookaside::fetch(&base, settings, image, manifest).await?);
            }
        }
        for demand in demands {
            let met = match demand.openpgp_keys() {
                None => is_attached(demand, &attached, image, manifests),
                Some(keys) => is_simply_signed(demand, keys, &simple, image, manifests).await,
            };
            met.map_err(|reason| policy.refuse(image, reason))?;
        }
        Ok(())
    }
}

/// Whether one of the signatures meets the demand. If not, why the last does not.
fn is_attached(
    demand: &Demand,
    signatures: &[Signature],
    image: &ImageRef,
    manifests: &[Digest],
) -> std::result::Result<(), String> {
    let mut outcome = Err(UNSIGNED.to_owned());
    for signature in signatures {
        outcome = demand.is_met_by(signature, image, manifests);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// The same for simple signatures.
async fn is_simply_signed(
    demand: &Demand,
    keys: &[u8],
    signatures: &[Vec<u8>],
    image: &ImageRef,
    manifests: &[Digest],
) -> std::result::Result<(), String> {
    let mut outcome = Err(UNSIGNED.to_owned());
    for signature in signatures {
        outcome = match openpgp::signed_content(keys, signature).await {
            Ok(claim) => demand.is_met_by_claim(&claim, image, manifests),
            Err(reason) => Err(reason),
        };
        if outcome.is_ok() {
            break;
        }
    }
    outcome
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
