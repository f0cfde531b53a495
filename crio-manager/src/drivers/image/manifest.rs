//! Manifests: which configuration and which layers make an image, in OCI's words and in Docker's.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::config::{Kind, MAX_DOCUMENT_BYTES, MAX_LAYERS};
use super::digest::Digest;
use super::error::{Error, Result};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// The media types to ask a registry for.
pub const ACCEPTED: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];

const CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

/// The layers that can be unpacked. Docker's foreign and OCI's non-distributable layers, and encrypted ones, are not here.
const LAYERS: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/// A blob: where it is, by its digest, and how long it is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default)]
    pub platform: Option<Platform>,
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub variant: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub config: Descriptor,
    /// From the bottom up.
    pub layers: Vec<Descriptor>,
    /// What an image with this manifest is good for; an artifact's has no say in that.
    pub kind: Kind,
}

/// Where a manifest says that its layers hold the checkpoint of a container: the field's name for it, and CRI-O's older one.
const CHECKPOINT: [&str; 2] = [
    "org.criu.checkpoint.container.name",
    "io.kubernetes.cri-o.annotations.checkpoint.name",
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Image(Manifest),
    /// Its configuration is not one of a container image: the layers are files.
    Artifact(Manifest),
    List(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    annotations: Option<BTreeMap<String, IgnoredAny>>,
}

impl Document {
    /// Reads a manifest or a list of them. `served_as` is the media type of whoever sent it; the document's own counts more.
    pub fn read(what: &str, served_as: Option<&str>, bytes: &[u8]) -> Result<Self> {
        let invalid = |reason: String| Error::InvalidImage {
            what: what.to_owned(),
            reason,
        };
        let unsupported = |media_type: String| Error::UnsupportedMediaType {
            what: what.to_owned(),
            media_type,
        };
        let served_as = served_as.map(|text| text.split(';').next().unwrap_or_default().trim().to_owned());
        let fields: Fields = match serde_json::from_slice(bytes) {
            Ok(fields) => fields,
            Err(error) => {
                return Err(match served_as {
                    Some(media_type) if !ACCEPTED.contains(&media_type.as_str()) => unsupported(media_type),
                    _ => invalid(error.to_string()),
                });
            }
        };
        let media_type = fields.media_type.clone().filter(|text| !text.is_empty());
        if fields.schema_version != 2 {
            let media_type = media_type.or(served_as);
            return Err(unsupported(
                media_type.unwrap_or_else(|| format!("schema version {}", fields.schema_version)),
            ));
        }
        if let Some(media_type) = &media_type
            && !ACCEPTED.contains(&media_type.as_str())
        {
            return Err(unsupported(media_type.clone()));
        }
        // A document that reads as both could be one thing to us and another to whoever checked it.
        let annotations = fields.annotations.unwrap_or_default();
        let kind = match CHECKPOINT.iter().any(|key| annotations.contains_key(*key)) {
            true => Kind::Checkpoint,
            false => Kind::Image,
        };
        match (fields.config, fields.layers, fields.manifests) {
            (Some(config), Some(layers), None) if !is_list(media_type.as_deref()) => {
                let manifest = Manifest { config, layers, kind };
                manifest.check_layer_count(what)?;
                if media_type.as_deref() != Some(DOCKER_MANIFEST) && manifest.is_artifact() {
                    return Ok(Self::Artifact(manifest));
                }
                manifest.check(what)?;
                Ok(Self::Image(manifest))
            }
            (None, None, Some(manifests)) if !is_image(media_type.as_deref()) => Ok(Self::List(manifests)),
            _ => Err(invalid("it is neither an image manifest nor a list of them".to_owned())),
        }
    }
}

fn is_list(media_type: Option<&str>) -> bool {
    matches!(media_type, Some(OCI_INDEX | DOCKER_LIST))
}

fn is_image(media_type: Option<&str>) -> bool {
    matches!(media_type, Some(OCI_MANIFEST | DOCKER_MANIFEST))
}

impl Manifest {
    /// OCI's rule: what has another type of configuration is something else.
    fn is_artifact(&self) -> bool {
        self.config.media_type.contains('/') && !CONFIGS.contains(&self.config.media_type.as_str())
    }

    fn check_layer_count(&self, what: &str) -> Result<()> {
        match self.layers.len() > MAX_LAYERS {
            true => Err(Error::InvalidImage {
                what: what.to_owned(),
                reason: format!("it has more than {MAX_LAYERS} layers"),
            }),
            false => Ok(()),
        }
    }

    fn check(&self, what: &str) -> Result<()> {
        if !CONFIGS.contains(&self.config.media_type.as_str()) {
            let what = format!("{what}: configuration");
            return Err(Error::UnsupportedMediaType {
                what,
                media_type: self.config.media_type.clone(),
            });
        }
        if self.config.size > MAX_DOCUMENT_BYTES {
            return Err(Error::TooLarge {
                what: format!("{what}: configuration"),
                limit: MAX_DOCUMENT_BYTES,
            });
        }
        for layer in &self.layers {
            if !LAYERS.contains(&layer.media_type.as_str()) {
                let what = format!("{what}: layer {}", layer.digest);
                return Err(Error::UnsupportedMediaType {
                    what,
                    media_type: layer.media_type.clone(),
                });
            }
        }
        Ok(())
    }
}

/// The words that image lists have for this machine's processor.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        other => other,
    }
}

/// Chooses the image for linux on `architecture`. Of several variants the plainest wins: it runs everywhere.
pub fn choose_platform(what: &str, list: Vec<Descriptor>, architecture: &str) -> Result<Descriptor> {
    let offered = list
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        .map(Platform::shown)
        .collect::<Vec<_>>();
    if offered.is_empty()
        && let [only] = list.as_slice()
    {
        return Ok(only.clone()); // says nothing of platforms, and there is no choice to make
    }
    let plainness = |entry: &Descriptor| match entry.platform.as_ref().and_then(|platform| platform.variant.as_deref())
    {
        None | Some("" | "v1") => 0,
        Some("v8") if architecture == "arm64" => 0,
        Some("v7") if architecture == "arm" => 1,
        Some("v6") if architecture == "arm" => 2,
        Some(_) => 3,
    };
    list.into_iter()
        .filter(|entry| {
            entry
                .platform
                .as_ref()
                .is_some_and(|p| p.os == "linux" && p.architecture == architecture)
        })
        .min_by_key(plainness)
        .ok_or_else(|| Error::NoPlatform {
            what: what.to_owned(),
            wanted: format!("linux/{architecture}"),
            offered: offered.join(", "),
        })
}

impl Platform {
    fn shown(&self) -> String {
        match &self.variant {
            Some(variant) => format!("{}/{}/{variant}", self.os, self.architecture),
            None => format!("{}/{}", self.os, self.architecture),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn descriptor(platform: Option<(&str, &str, Option<&str>)>) -> Descriptor {
        Descriptor {
            media_type: OCI_MANIFEST.to_owned(),
            digest: Digest::sha256_of(format!("{platform:?}").as_bytes()),
            size: 1,
            platform: platform.map(|(os, architecture, variant)| Platform {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
                variant: variant.map(str::to_owned),
            }),
            annotations: None,
        }
    }

    #[test]
    fn a_manifest_says_whether_its_layers_are_a_checkpoint() {
        let digest = Digest::sha256_of(b"x");
        let kind_of = |annotations: &str| {
            let config = format!(r#"{{"mediaType":"{}","digest":"{digest}","size":1}}"#, CONFIGS[0]);
            let text = format!(
                r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{config},"layers":[]{annotations}}}"#
            );
            match Document::read("it", None, text.as_bytes()).unwrap() {
                Document::Image(manifest) => manifest.kind,
                other => panic!("{other:?}"),
            }
        };
        for (annotations, kind) in [
            ("", Kind::Image),
            (r#","annotations":null"#, Kind::Image),
            (r#","annotations":{"a":"b"}"#, Kind::Image),
            (
                r#","annotations":{"org.criu.checkpoint.container.name":"c"}"#,
                Kind::Checkpoint,
            ),
            (
                r#","annotations":{"io.kubernetes.cri-o.annotations.checkpoint.name":"c"}"#,
                Kind::Checkpoint,
            ),
        ] {
            assert_eq!(kind_of(annotations), kind, "{annotations}");
        }
    }

    #[test]
    fn the_plainest_image_for_this_processor_is_chosen() {
        let v3 = descriptor(Some(("linux", "amd64", Some("v3"))));
        let plain = descriptor(Some(("linux", "amd64", None)));
        let windows = descriptor(Some(("windows", "amd64", None)));
        let attestation = descriptor(Some(("unknown", "unknown", None)));
        let list = vec![attestation.clone(), windows.clone(), v3.clone(), plain.clone()];
        assert_eq!(choose_platform("x", list, "amd64").unwrap(), plain);
        assert_eq!(
            choose_platform("x", vec![windows.clone(), v3.clone()], "amd64").unwrap(),
            v3
        );
        let error = choose_platform("x", vec![windows, attestation], "amd64").unwrap_err();
        assert!(error.to_string().contains("windows/amd64"), "{error}");
        let unsaid = descriptor(None);
        assert_eq!(choose_platform("x", vec![unsaid.clone()], "amd64").unwrap(), unsaid);
    }

    #[test]
    fn what_is_not_an_image_is_refused_by_its_type() {
        let digest = Digest::sha256_of(b"x");
        let image = |config: &str, layer: &str| {
            format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"{config}","digest":"{digest}","size":1}},
                    "layers":[{{"mediaType":"{layer}","digest":"{digest}","size":1}}]}}"#
            )
        };
        assert!(Document::read("x", None, image(CONFIGS[0], LAYERS[1]).as_bytes()).is_ok());
        assert!(Document::read("x", Some(OCI_MANIFEST), image(CONFIGS[1], LAYERS[4]).as_bytes()).is_ok());
        for (served_as, text) in [
            (None, image("no type", LAYERS[0])),
            (
                None,
                image("application/vnd.example.chart", LAYERS[0]).replace(
                    "\"schemaVersion\":2",
                    &format!("\"schemaVersion\":2,\"mediaType\":\"{DOCKER_MANIFEST}\""),
                ),
            ),
            (
                None,
                image(CONFIGS[0], "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
            ),
            (None, r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned()),
            (Some("text/html; charset=utf-8"), "<html>".to_owned()),
            (
                None,
                r#"{"schemaVersion":2,"mediaType":"application/x","layers":[]}"#.to_owned(),
            ),
        ] {
            let error = Document::read("x", served_as, text.as_bytes()).unwrap_err();
            assert!(matches!(error, Error::UnsupportedMediaType { .. }), "{text}: {error}");
        }
        let chart = image("application/vnd.example.chart", "application/vnd.example.layer");
        assert!(matches!(
            Document::read("x", None, chart.as_bytes()),
            Ok(Document::Artifact(_))
        ));
        let both = image(CONFIGS[0], LAYERS[0]).replace("\"layers\"", "\"manifests\":[],\"layers\"");
        assert!(matches!(
            Document::read("x", None, both.as_bytes()),
            Err(Error::InvalidImage { .. })
        ));
    }

    use crate::damage::damaged;
    proptest! {
        #[test]
        fn any_document_is_read_or_refused_without_a_panic(text in "\\PC{0,200}") {
            let _ = Document::read("x", None, text.as_bytes());
        }

        #[test]
        fn a_damaged_document_is_read_or_refused_without_a_panic(
            image in damaged(
                r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"size":2,"digest":
                    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","mediaType":
                    "application/vnd.oci.image.config.v1+json"},"layers":[{"size":1,"mediaType":
                    "application/vnd.oci.image.layer.v1.tar+gzip","digest":
                    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]}"#
            ),
            list in damaged(
                r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                    "size":9,"mediaType":"application/vnd.oci.image.manifest.v1+json","platform":{"os":"linux","architecture":"amd64"}}]}"#
            ),
        ) {
            for bytes in [image, list] {
                if let Ok(Document::List(list)) = Document::read("x", None, &bytes) {
                    let _ = choose_platform("x", list, "amd64");
                }
            }
        }
    }
}
