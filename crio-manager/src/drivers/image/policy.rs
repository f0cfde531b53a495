//! `policy.json`: which images are let in, and what signature they need. What cannot be verified here is refused.
//!
//! ```text
//! name ── most specific scope ──> requirements, all of them ──> accept, refuse, or a signature to be fetched
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;

use super::digest::Digest;
use super::error::{Error, Result};
use super::openpgp;
use super::reference::ImageRef;
use super::registries::read_bounded;

/// How a P-256 key's SubjectPublicKeyInfo begins; the uncompressed point of 65 bytes follows. Source: RFC 5480.
const P256_HEADER: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const COSIGN_TYPE: &str = "cosign container image signature";
const SIMPLE_TYPE: &str = "atomic container signature";

/// A policy file, read.
#[derive(Debug, Clone, Deserialize)]
pub struct Policy {
    #[serde(skip)]
    path: PathBuf,
    default: Vec<Requirement>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum Requirement {
    InsecureAcceptAnything,
    Reject,
    SigstoreSigned(Box<SigstoreSigned>),
    SignedBy(Box<SignedBy>),
    /// Any other kind: nobody here can tell, so nothing gets in.
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SigstoreSigned {
    key_path: Option<PathBuf>,
    key_paths: Option<Vec<PathBuf>>,
    /// A PEM file, base64 once more.
    key_data: Option<String>,
    #[serde(default)]
    signed_identity: SignedIdentity,
    // A key vouches; certificates and transparency logs are not looked at.
    fulcio: Option<serde_json::Value>,
    pki: Option<serde_json::Value>,
    rekor_public_key_path: Option<serde_json::Value>,
    rekor_public_key_data: Option<serde_json::Value>,
}

/// Simple signing, by keys of OpenPGP.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SignedBy {
    key_type: String,
    key_path: Option<PathBuf>,
    key_paths: Option<Vec<PathBuf>>,
    /// A key file, base64.
    key_data: Option<String>,
    #[serde(default)]
    signed_identity: SignedIdentity,
}

/// Which name a signature has to be for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum SignedIdentity {
    MatchExact,
    #[default]
    MatchRepoDigestOrExact,
    MatchRepository,
    #[serde(rename_all = "camelCase")]
    ExactReference {
        docker_reference: String,
    },
    #[serde(rename_all = "camelCase")]
    ExactRepository {
        docker_repository: String,
    },
    #[serde(rename_all = "camelCase")]
    RemapIdentity {
        prefix: String,
        signed_prefix: String,
    },
}

/// What a policy says of one image.
#[derive(Debug)]
pub enum Verdict {
    Accepted,
    /// Let in if every one of these is met by a signature.
    Signed(Vec<Demand>),
}

/// One signature that an image needs.
#[derive(Debug)]
pub struct Demand {
    keys: Keys,
    identity: SignedIdentity,
}

/// Any of them may have signed.
#[derive(Debug)]
enum Keys {
    /// Points on P-256, of a sigstore signature.
    P256(Vec<Vec<u8>>),
    /// Of a simple signature.
    OpenPgp(Vec<u8>),
}

/// A signature as it was found beside an image.
#[derive(Debug)]
pub struct Signature {
    /// What was signed: a claim in JSON.
    pub payload: Vec<u8>,
    /// Base64 of a DER signature.
    pub signature: String,
}

impl Policy {
    /// Reads a policy. Blocks. Errors: `InvalidFile` also when it isn't there, `Io`, `TooLarge`.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong = |reason: String| Error::InvalidFile {
            path: path.to_owned(),
            reason,
        };
        let bytes = read_bounded(path)?.ok_or_else(|| wrong("no such policy".to_owned()))?;
        let mut policy: Self = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        let docker = policy.transports.get("docker").into_iter().flat_map(BTreeMap::values);
        if docker.chain([&policy.default]).any(Vec::is_empty) {
            return Err(wrong("a list of requirements is empty".to_owned()));
        }
        policy.path = path.to_owned();
        Ok(policy)
    }

    /// What it takes to let `image` in. Errors: `Untrusted` when nothing does, or what does is not known here; `InvalidFile`
    /// and `Io` for a key that cannot be read. Blocks, on keys.
    pub fn verdict(&self, image: &ImageRef) -> Result<Verdict> {
        let (scope, requirements) = self.requirements(image);
        let mut demands = Vec::new();
        for requirement in requirements {
            match requirement {
                Requirement::InsecureAcceptAnything => {}
                Requirement::Reject => return Err(self.refuse(image, format!("{scope} is rejected"))),
                Requirement::Unknown => {
                    let reason = format!("{scope} has a requirement of a kind that is not known here");
                    return Err(self.refuse(image, reason));
                }
                Requirement::SigstoreSigned(signed) => {
                    let keys = signed.keys().map_err(|reason| Error::InvalidFile {
                        path: self.path.clone(),
                        reason: format!("{scope}: {reason}"),
                    })?;
                    demands.push(Demand {
                        keys: Keys::P256(keys),
                        identity: signed.signed_identity.clone(),
                    });
                }
                Requirement::SignedBy(signed) => {
                    let keys = signed.keys().map_err(|reason| Error::InvalidFile {
                        path: self.path.clone(),
                        reason: format!("{scope}: {reason}"),
                    })?;
                    demands.push(Demand {
                        keys: Keys::OpenPgp(keys),
                        identity: signed.signed_identity.clone(),
                    });
                }
            }
        }
        Ok(match demands.is_empty() {
            true => Verdict::Accepted,
            false => Verdict::Signed(demands),
        })
    }

    /// The error for an image that is not let in.
    pub fn refuse(&self, image: &ImageRef, reason: String) -> Error {
        Error::Untrusted {
            image: image.to_string(),
            policy: self.path.clone(),
            reason,
        }
    }

    /// The requirements of the most specific scope: the reference, its repository, what is above it, the host, `*.` and
    /// what the host is below, the transport, the default.
    fn requirements(&self, image: &ImageRef) -> (String, &[Requirement]) {
        let docker = self.transports.get("docker");
        for scope in scopes(image) {
            if let Some(requirements) = docker.and_then(|scopes| scopes.get(&scope)) {
                let scope = if scope.is_empty() {
                    "every registry".to_owned()
                } else {
                    scope
                };
                return (scope, requirements);
            }
        }
        ("what no scope names".to_owned(), &self.default)
    }
}

/// What a policy or a lookaside may say something of, the most specific first.
pub(super) fn scopes(image: &ImageRef) -> Vec<String> {
    let mut scopes = vec![image.to_string()];
    let name = image.name();
    let mut part = Some(name.as_str());
    while let Some(scope) = part {
        scopes.push(scope.to_owned());
        part = scope.rsplit_once('/').map(|(above, _)| above);
    }
    let mut host = image.registry();
    while let Some((_, domain)) = host.split_once('.') {
        scopes.push(format!("*.{domain}"));
        host = domain;
    }
    scopes.push(String::new());
    scopes
}

impl SigstoreSigned {
    /// Errors: the reason.
    fn keys(&self) -> std::result::Result<Vec<Vec<u8>>, String> {
        let unknown = [
            &self.fulcio,
            &self.pki,
            &self.rekor_public_key_path,
            &self.rekor_public_key_data,
        ];
        if unknown.iter().any(|field| field.is_some()) {
            return Err("only keys are known, not fulcio, pki or rekor".to_owned());
        }
        let paths = self.key_path.iter().chain(self.key_paths.iter().flatten());
        let texts = key_files("sigstoreSigned", paths, self.key_data.as_deref())?;
        texts.iter().map(|text| p256_point(text)).collect()
    }
}

impl SignedBy {
    /// All of them, in one. Errors: the reason.
    fn keys(&self) -> std::result::Result<Vec<u8>, String> {
        if self.key_type != "GPGKeys" {
            return Err(format!("keyType {:?} is not known, only GPGKeys", self.key_type));
        }
        let paths = self.key_path.iter().chain(self.key_paths.iter().flatten());
        let files = key_files("signedBy", paths, self.key_data.as_deref())?;
        let keys = files.iter().map(|file| openpgp::binary_keys(file));
        Ok(keys.collect::<std::result::Result<Vec<_>, _>>()?.concat())
    }
}

/// The files of keys that a requirement names. Errors: the reason.
fn key_files<'p>(
    kind: &str,
    paths: impl Iterator<Item = &'p PathBuf>,
    data: Option<&str>,
) -> std::result::Result<Vec<Vec<u8>>, String> {
    let mut files = Vec::new();
    for path in paths {
        let file = read_bounded(path).map_err(|error| error.to_string())?;
        files.push(file.ok_or_else(|| format!("no key {}", path.display()))?);
    }
    if let Some(data) = data {
        let file = BASE64_STANDARD.decode(data);
        files.push(file.map_err(|_| "keyData is not base64".to_owned())?);
    }
    if files.is_empty() {
        return Err(format!("{kind} names no key"));
    }
    Ok(files)
}

fn p256_point(pem: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let key = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| "not a public key in PEM".to_owned())?;
    match key.as_ref().strip_prefix(&P256_HEADER) {
        Some(point) if point.len() == 65 => Ok(point.to_vec()),
        _ => Err("not an ECDSA key on P-256".to_owned()),
    }
}

/// The claim that cosign signs.
#[derive(Deserialize)]
struct Claim {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Identity,
    image: ClaimedImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Identity {
    docker_reference: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ClaimedImage {
    docker_manifest_digest: String,
}

impl Demand {
    /// The keys, where it is a simple signature that is demanded.
    pub fn openpgp_keys(&self) -> Option<&[u8]> {
        match &self.keys {
            Keys::OpenPgp(keys) => Some(keys),
            Keys::P256(_) => None,
        }
    }

    /// Whether `signature` is by one of the keys, for one of these manifests, under a name that will do for `image`. If
    /// not, why.
    pub fn is_met_by(
        &self,
        signature: &Signature,
        image: &ImageRef,
        manifests: &[Digest],
    ) -> std::result::Result<(), String> {
        let bytes = BASE64_STANDARD
            .decode(&signature.signature)
            .map_err(|_| "a signature is not base64".to_owned())?;
        let is_by = |point: &Vec<u8>| {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
                .verify(&signature.payload, &bytes)
                .is_ok()
        };
        let Keys::P256(points) = &self.keys else {
            return Err("a signature is of another kind".to_owned());
        };
        if !points.iter().any(is_by) {
            return Err("a signature is by none of the keys".to_owned());
        }
        // Believed from here on, as far as who signed it goes.
        self.is_met_by_claim(&signature.payload, image, manifests)
    }

    /// Whether a claim, which one of the keys has signed, is for one of these manifests, under a name that will do for
    /// `image`. If not, why.
    pub fn is_met_by_claim(
        &self,
        claim: &[u8],
        image: &ImageRef,
        manifests: &[Digest],
    ) -> std::result::Result<(), String> {
        let kind = match &self.keys {
            Keys::P256(_) => COSIGN_TYPE,
            Keys::OpenPgp(_) => SIMPLE_TYPE,
        };
        let claim: Claim =
            serde_json::from_slice(claim).map_err(|error| format!("what is signed is no claim: {error}"))?;
        let critical = claim.critical;
        if critical.kind != kind {
            return Err(format!("what is signed is of the type {:?}", critical.kind));
        }
        let digest = &critical.image.docker_manifest_digest;
        if !manifests.iter().any(|manifest| manifest.to_string() == *digest) {
            return Err(format!("the signature is for {digest}"));
        }
        match self.identity.matches(image, &critical.identity.docker_reference) {
            true => Ok(()),
            false => Err(format!(
                "the signature is for the name {:?}",
                critical.identity.docker_reference
            )),
        }
    }
}

impl SignedIdentity {
    fn matches(&self, image: &ImageRef, signed: &str) -> bool {
        // A short name would be completed, and a name without a tag given one: neither was signed.
        let Ok(signed_ref) = ImageRef::parse(signed) else {
            return false;
        };
        let is_exact = |name: &str| signed == name;
        match self {
            Self::MatchExact => is_exact(&image.to_string()),
            Self::MatchRepoDigestOrExact if image.digest().is_some() => signed_ref.name() == image.name(),
            Self::MatchRepoDigestOrExact => is_exact(&image.to_string()),
            Self::MatchRepository => signed_ref.name() == image.name(),
            Self::ExactReference { docker_reference } => is_exact(docker_reference),
            Self::ExactRepository { docker_repository } => signed_ref.name() == *docker_repository,
            Self::RemapIdentity { prefix, signed_prefix } => {
                let name = image.to_string();
                let remapped = match name.strip_prefix(prefix.as_str()) {
                    Some(rest) if rest.is_empty() || rest.starts_with(['/', ':', '@']) => {
                        format!("{signed_prefix}{rest}")
                    }
                    _ => name,
                };
                match ImageRef::parse(&remapped) {
                    Ok(remapped) => Self::MatchRepoDigestOrExact.matches(&remapped, signed),
                    Err(_) => false,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

    const DIGEST: &str = "sha256:0123456789012345678901234567890123456789012345678901234567890123";

    fn policy(text: &str) -> Result<Policy> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Policy::read(file.path())
    }

    fn image(name: &str) -> ImageRef {
        ImageRef::parse(name).unwrap()
    }

    #[test]
    fn the_most_specific_scope_counts() {
        let policy = policy(
            r#"{"default": [{"type": "reject"}], "transports": {"docker": {
                "a.example.com": [{"type": "insecureAcceptAnything"}],
                "a.example.com/bad": [{"type": "reject"}],
                "a.example.com/bad/good": [{"type": "insecureAcceptAnything"}],
                "a.example.com/bad/good:evil": [{"type": "reject"}],
                "*.example.org": [{"type": "insecureAcceptAnything"}],
                "*.eu.example.org": [{"type": "reject"}]
            }}}"#,
        )
        .unwrap();
        for (name, accepted) in [
            ("a.example.com/x", true),
            ("a.example.com/badge", true),
            ("a.example.com/bad/x", false),
            ("a.example.com/bad/good", true),
            ("a.example.com/bad/good/x:1", true),
            ("a.example.com/bad/good:evil", false),
            ("a.example.org/x", true),
            ("a.eu.example.org/x", false),
            ("example.org/x", false),
            ("b.example.com/x", false),
        ] {
            assert_eq!(policy.verdict(&image(name)).is_ok(), accepted, "{name}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let unknown = r#"{"default": [{"type": "signedByAStar", "keyPath": "/k"}]}"#;
        let refused = policy(unknown).unwrap().verdict(&image("a.b/c"));
        assert!(matches!(refused, Err(Error::Untrusted { .. })), "{refused:?}");
        for (text, reason) in [
            (r#"{"default": [{"type": "sigstoreSigned"}]}"#, "names no key"),
            (
                r#"{"default": [{"type": "sigstoreSigned", "keyPath": "/nonexistent"}]}"#,
                "no key /nonexistent",
            ),
            (
                r#"{"default": [{"type": "sigstoreSigned", "keyData": "eA=="}]}"#,
                "not a public key",
            ),
            (
                r#"{"default": [{"type": "sigstoreSigned", "keyData": "eA==", "fulcio": {}}]}"#,
                "only keys",
            ),
            (
                r#"{"default": [{"type": "signedBy", "keyType": "GPGKeys"}]}"#,
                "names no key",
            ),
            (
                r#"{"default": [{"type": "signedBy", "keyType": "X509Certificates", "keyData": "eA=="}]}"#,
                "only GPGKeys",
            ),
            (
                r#"{"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyData": "eA=="}]}"#,
                "not OpenPGP keys",
            ),
        ] {
            let error = policy(text).unwrap().verdict(&image("a.b/c")).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        for text in ["", "{}", r#"{"default": []}"#, r#"{"default": [{"type": 1}]}"#] {
            assert!(matches!(policy(text), Err(Error::InvalidFile { .. })), "{text}");
        }
        assert!(Policy::read(Path::new("/nonexistent")).is_err());
    }

    /// A key, and the demand for a signature by it.
    fn key(identity: SignedIdentity) -> (EcdsaKeyPair, Demand) {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let mut der = P256_HEADER.to_vec();
        der.extend(pair.public_key().as_ref());
        let pem = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            BASE64_STANDARD.encode(der)
        );
        let keys = Keys::P256(vec![p256_point(pem.as_bytes()).unwrap()]);
        (pair, Demand { keys, identity })
    }

    fn signed(pair: &EcdsaKeyPair, name: &str, digest: &str, kind: &str) -> Signature {
        let payload = serde_json::json!({"critical": {
            "identity": {"docker-reference": name}, "image": {"docker-manifest-digest": digest}, "type": kind,
        }, "optional": null});
        let payload = serde_json::to_vec(&payload).unwrap();
        let signature = pair.sign(&SystemRandom::new(), &payload).unwrap();
        Signature {
            payload,
            signature: BASE64_STANDARD.encode(signature),
        }
    }

    #[test]
    fn a_signature_is_for_a_key_a_manifest_and_a_name() {
        let (pair, demand) = key(SignedIdentity::MatchRepository);
        let manifests = [Digest::parse(DIGEST).unwrap()];
        let wanted = image("a.example.com/app:v1");
        let check = |signature: &Signature| demand.is_met_by(signature, &wanted, &manifests);
        let good = signed(&pair, "a.example.com/app", DIGEST, COSIGN_TYPE);
        assert_eq!(check(&good), Ok(()));

        let (other, _) = key(SignedIdentity::MatchRepository);
        let other_digest = DIGEST.replace("0123", "3210");
        for (signature, reason) in [
            (
                signed(&other, "a.example.com/app", DIGEST, COSIGN_TYPE),
                "none of the keys",
            ),
            (
                signed(&pair, "a.example.com/app", &other_digest, COSIGN_TYPE),
                "is for sha256:3210",
            ),
            (
                signed(&pair, "a.example.com/apple", DIGEST, COSIGN_TYPE),
                "for the name",
            ),
            (signed(&pair, "a.example.com/app", DIGEST, "other"), "of the type"),
        ] {
            assert!(check(&signature).unwrap_err().contains(reason), "{reason}");
        }
        let mut changed = signed(&pair, "a.example.com/app", DIGEST, COSIGN_TYPE);
        changed.payload.push(b' ');
        assert!(check(&changed).is_err());
        changed.signature = "?".to_owned();
        assert!(check(&changed).is_err());
    }

    #[test]
    fn each_identity_wants_its_own_name() {
        let by_digest = format!("a.b/app@{DIGEST}");
        let exact_reference = || SignedIdentity::ExactReference {
            docker_reference: "x.y/z:1".to_owned(),
        };
        let exact_repository = || SignedIdentity::ExactRepository {
            docker_repository: "x.y/z".to_owned(),
        };
        let remap = || SignedIdentity::RemapIdentity {
            prefix: "a.b".to_owned(),
            signed_prefix: "x.y/mirror".to_owned(),
        };
        for (identity, name, signed, matches) in [
            (SignedIdentity::MatchExact, "a.b/app:1", "a.b/app:1", true),
            (SignedIdentity::MatchExact, "a.b/app:1", "a.b/app", false),
            (SignedIdentity::MatchExact, "a.b/app:latest", "a.b/app", false),
            (SignedIdentity::default(), "a.b/app:1", "a.b/app:1", true),
            (SignedIdentity::default(), "a.b/app:1", "a.b/app:2", false),
            (SignedIdentity::default(), &by_digest, "a.b/app:2", true),
            (SignedIdentity::default(), &by_digest, "a.b/other:2", false),
            (SignedIdentity::MatchRepository, "a.b/app:1", "a.b/app:2", true),
            (SignedIdentity::MatchRepository, "a.b/app:1", "", false),
            (exact_reference(), "a.b/app:1", "x.y/z:1", true),
            (exact_reference(), "a.b/app:1", "x.y/z:2", false),
            (exact_repository(), "a.b/app:1", "x.y/z:2", true),
            (exact_repository(), "a.b/app:1", "x.y/zz:2", false),
            (remap(), "a.b/app:1", "x.y/mirror/app:1", true),
            (remap(), "a.b/app:1", "a.b/app:1", false),
            (remap(), "a.bc/app:1", "a.bc/app:1", true),
        ] {
            assert_eq!(
                identity.matches(&image(name), signed),
                matches,
                "{identity:?} {name} {signed}"
            );
        }
    }
}
