//! OCI artifacts: blobs with names. One is kept as an image with a single layer, which holds a file for each blob, and is
//! good for a volume alone.

use super::beneath;
use super::config::{ConfigDocument, ImageConfig, Kind};
use super::digest::{DiffId, Digest, ImageId};
use super::error::{Error, Result};
use super::manifest::{Descriptor, Document, Manifest, OCI_MANIFEST};
use std::collections::BTreeSet;

/// Where a blob says how its file is called.
const TITLE: &str = "org.opencontainers.image.title";
/// A blob that stands for none, where a manifest has to have one.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// The longest name of a file, its directories included, in bytes; and the longest component, which the kernel sets.
const NAME_BYTES: usize = 1024;
const COMPONENT_BYTES: usize = 255;

/// An artifact, read and checked.
#[derive(Debug)]
pub struct Artifact {
    /// What is recorded of it: the manifest stands where an image has its configuration, and its digest is the id.
    pub document: ConfigDocument,
    pub files: Vec<ArtifactFile>,
}

/// A blob and the relative path of its file: clean, and neither another's nor above or below another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactFile {
    pub path: String,
    pub blob: Descriptor,
}

impl Artifact {
    /// Reads the manifest of an artifact; what is recorded of one is read again like this.
    pub fn read(bytes: Vec<u8>) -> Result<Self> {
        let id = ImageId::of_config(&bytes);
        let what = format!("artifact {id}");
        match Document::read(&what, Some(OCI_MANIFEST), &bytes)? {
            Document::Artifact(manifest) => Self::of(&what, id, bytes, manifest),
            Document::Image(_) | Document::List(_) => Err(invalid(&what, "it is an image".to_owned())),
        }
    }

    fn of(what: &str, id: ImageId, bytes: Vec<u8>, manifest: Manifest) -> Result<Self> {
        let text = String::from_utf8(bytes).map_err(|_| invalid(what, "it is not UTF-8".to_owned()))?;
        let blobs = manifest.layers.into_iter().filter(|blob| blob.media_type != EMPTY);
        let files = blobs.map(|blob| file(what, blob)).collect::<Result<Vec<_>>>()?;
        apart(what, &files)?;
        let layers = match files.is_empty() {
            true => Vec::new(),
            false => vec![layer_of(&id)?],
        };
        let document = ConfigDocument {
            id,
            text,
            config: ImageConfig::default(),
            layers,
            kind: Kind::Artifact,
        };
        Ok(Self { document, files })
    }

    /// What its blobs are said to take together.
    pub fn bytes(&self) -> u64 {
        self.files
            .iter()
            .fold(0, |sum, file| sum.saturating_add(file.blob.size))
    }
}

/// The name of the layer with the files: no tar archive begins like this, so it is no other image's.
fn layer_of(id: &ImageId) -> Result<DiffId> {
    let digest = Digest::sha256_of(format!("files of the artifact {id}").as_bytes());
    DiffId::try_from(digest).map_err(|_| invalid("artifact", "its layer has no name".to_owned()))
}

fn file(what: &str, blob: Descriptor) -> Result<ArtifactFile> {
    let title = blob.annotations.as_ref().and_then(|annotations| annotations.get(TITLE));
    let path = match title {
        Some(title) => relative_path(title).ok_or_else(|| {
            let shown: String = title.chars().take(80).collect();
            invalid(what, format!("{shown:?} is not the name of a file in it"))
        })?,
        None => blob.digest.to_string().replace(':', "-"),
    };
    Ok(ArtifactFile { path, blob })
}

fn relative_path(title: &str) -> Option<String> {
    if title.starts_with('/') || title.ends_with('/') || title.len() > NAME_BYTES || title.contains(char::is_control) {
        return None;
    }
    let path = String::from_utf8(beneath::clean(title.as_bytes())?).ok()?;
    let fits = !path.is_empty() && path.split('/').all(|component| component.len() <= COMPONENT_BYTES);
    fits.then_some(path)
}

/// No two files may be in one place, and none where another has a directory.
fn apart(what: &str, files: &[ArtifactFile]) -> Result<()> {
    let taken = |path: &str| invalid(what, format!("two of its files want {path:?}"));
    let mut paths = BTreeSet::new();
    for file in files {
        if !paths.insert(file.path.as_str()) {
            return Err(taken(&file.path));
        }
    }
    for file in files {
        let mut above = file.path.as_str();
        while let Some((directory, _)) = above.rsplit_once('/') {
            if paths.contains(directory) {
                return Err(taken(directory));
            }
            above = directory;
        }
    }
    Ok(())
}

fn invalid(what: &str, reason: String) -> Error {
    Error::InvalidImage {
        what: what.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn read(titles: &[Option<&str>]) -> Result<Artifact> {
        let layer = |(number, title): (usize, &Option<&str>)| {
            let mut layer = json!({
                "mediaType": "text/plain", "digest": format!("sha256:{number:064x}"), "size": 10,
            });
            if let Some(title) = title {
                layer["annotations"] = json!({ TITLE: title });
            }
            layer
        };
        let layers: Vec<Value> = titles.iter().enumerate().map(layer).collect();
        of(
            json!({ "mediaType": EMPTY, "digest": Digest::sha256_of(b"{}").to_string(), "size": 2 }),
            layers,
        )
    }

    fn of(config: Value, layers: Vec<Value>) -> Result<Artifact> {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/x", "config": config,
            "layers": layers,
        });
        Artifact::read(manifest.to_string().into_bytes())
    }

    #[test]
    fn a_blob_is_a_file_named_by_its_title_or_its_digest() {
        let artifact = read(&[Some("model.bin"), Some("./docs//read me.txt"), None]).unwrap();
        let paths: Vec<_> = artifact.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["model.bin", "docs/read me.txt", &format!("sha256-{:064x}", 2)]);
        assert_eq!((artifact.bytes(), artifact.document.layers.len()), (30, 1));
        assert_eq!(artifact.document.kind, Kind::Artifact);
        let again = Artifact::read(artifact.document.text.clone().into_bytes()).unwrap();
        assert_eq!(again.document.id, artifact.document.id);
        assert_eq!(again.document.layers, artifact.document.layers);
        let other = read(&[Some("model.bin")]).unwrap();
        assert_ne!(other.document.layers, artifact.document.layers);
    }

    #[test]
    fn a_blob_that_stands_for_none_is_no_file() {
        let empty = json!({ "mediaType": EMPTY, "digest": Digest::sha256_of(b"{}").to_string(), "size": 2 });
        let artifact = of(empty.clone(), vec![empty]).unwrap();
        assert!(artifact.files.is_empty() && artifact.document.layers.is_empty());
    }

    #[test]
    fn names_that_lead_elsewhere_or_meet_are_refused() {
        for titles in [
            &["/etc/passwd"][..],
            &["../up"],
            &["a/../../b"],
            &[""],
            &["."],
            &["dir/"],
            &["new\nline"],
            &["nul\0"],
            &["x".repeat(256).as_str()],
            &["a/".repeat(600).as_str()],
            &["a", "./a"],
            &["a/b/c", "a"],
            &["a", "a/b/c"],
        ] {
            let titles: Vec<_> = titles.iter().map(|title| Some(*title)).collect();
            assert!(matches!(read(&titles), Err(Error::InvalidImage { .. })), "{titles:?}");
        }
    }

    proptest! {
        #[test]
        fn any_title_is_a_path_inside_or_none(title in "[a./\\\\]{0,12}|.{0,40}") {
            if let Some(path) = relative_path(&title) {
                prop_assert!(!path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | "..")));
            }
        }
    }
}
