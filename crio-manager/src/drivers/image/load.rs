//! Images without a registry: OCI layouts (a directory or a tar of one) and Docker archives, the tars compressed or not.
//!
//! Nothing is unpacked but layers, on the way that pulled ones go. An archive is read once for an index of its members;
//! members are then read where they lie.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use serde::Deserialize;

use super::Node;
use super::beneath;
use super::compression::{Compression, LimitedReader, uncompressed};
use super::config::{ConfigDocument, MAX_DOCUMENT_BYTES};
use super::digest::{Digest, ImageId};
use super::error::{Error, Result};
use super::layers::verify_blob;
use super::manifest::{Descriptor, Document, choose_platform, host_architecture};
use super::reference::ImageRef;
use super::tar_stream::{Entries, Kind, source_error};
use super::unpack::UnpackError;

/// The most images one archive may hold, and the most members.
const MAX_IMAGES: usize = 1000;
const MAX_MEMBERS: usize = 100_000;
const MAX_LIST_DEPTH: usize = 2;
const MAX_LINKS: usize = 8;

const OCI_NAME: &str = "org.opencontainers.image.ref.name";
const FULL_NAME: &str = "io.containerd.image.name";

/// An image that came out of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    pub id: ImageId,
    /// Empty if the archive names it by no complete name.
    pub tags: Vec<String>,
}

/// What an archive says of one image.
struct Found {
    document: ConfigDocument,
    layers: Vec<Blob>,
    tags: Vec<String>,
    digests: Vec<String>,
}

/// A layer's place in the archive, and its digest where the archive's format has one.
struct Blob {
    name: String,
    digest: Option<Digest>,
}

pub(super) async fn load(node: &Arc<Node>, path: PathBuf) -> Result<Vec<LoadedImage>> {
    let (source, found) = node
        .blocking("reading an archive", move |node| {
            let source = Source::open(node, &path)?;
            let found = source.images()?;
            Ok((Arc::new(source), found))
        })
        .await?;
    let mut loaded = Vec::new();
    for Found {
        document,
        layers,
        tags,
        digests,
    } in found
    {
        let _lease = node.lease(&document.layers);
        for (layer, blob) in document.layers.clone().into_iter().zip(layers) {
            let source = Arc::clone(&source);
            let open = node.blocking("reading an archive", move |_| source.verified(&blob));
            node.ensure_layer(layer, open).await?;
        }
        let id = node.record_image(document, tags.clone(), digests).await?;
        loaded.push(LoadedImage { id, tags });
    }
    Ok(loaded)
}

/// Where the members of an archive are.
enum Source {
    Directory(PathBuf),
    Archive {
        path: PathBuf,
        file: Arc<File>,
        members: HashMap<String, Member>,
    },
}

enum Member {
    Data { offset: u64, size: u64 },
    Link(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Source {
    fn open(node: &Node, path: &Path) -> Result<Self> {
        let failed = |error| Error::io("read", path, error);
        let metadata = std::fs::metadata(path).map_err(|error| Error::io("open", path, error))?;
        if metadata.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        if metadata.file_type().is_fifo() || metadata.file_type().is_char_device() {
            return Err(invalid(path, "not a file or a directory"));
        }
        let mut file = File::open(path).map_err(|error| Error::io("open", path, error))?;
        let mut first = Vec::new();
        file.by_ref().take(4).read_to_end(&mut first).map_err(failed)?;
        file.rewind().map_err(failed)?;
        if Compression::of_first_bytes(&first) != Compression::None {
            // Members are read by their place, so there must be places.
            let mut spool = node.layers.spool()?;
            let tar = uncompressed(file).map_err(failed)?;
            io::copy(&mut LimitedReader::new(tar, node.limits.tar_bytes), &mut spool).map_err(|error| {
                match source_error(error) {
                    UnpackError::Source(error) => Error::io("uncompress", path, io::Error::new(error.kind(), error)),
                    error => invalid(path, &error.to_string()),
                }
            })?;
            spool.seek(SeekFrom::Start(0)).map_err(failed)?;
            file = spool;
        }
        let members = index(path, &file, node)?;
        Ok(Self::Archive {
            path: path.to_owned(),
            file: Arc::new(file),
            members,
        })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::Archive { path, .. } => path,
        }
    }

    /// Opens a member; `None` if there is none of that name.
    fn member(&self, name: &str) -> Result<Option<Section>> {
        let cleaned = beneath::clean(name.as_bytes()).and_then(|name| String::from_utf8(name).ok());
        let name = cleaned.ok_or_else(|| invalid(self.path(), "a member's name leads out of it"))?;
        match self {
            Self::Directory(directory) => {
                let failed = |error: io::Error| Error::io("open", directory.join(&name), error);
                let root = beneath::Root::open(directory).map_err(failed)?;
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
                let file = match root.open_at(name.as_bytes(), flags) {
                    Ok(file) => File::from(file),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(failed(error)),
                };
                let metadata = file.metadata().map_err(failed)?;
                if !metadata.is_file() {
                    return Err(invalid(directory, &format!("{name} is not a file")));
                }
                Ok(Some(Section {
                    file: Arc::new(file),
                    at: 0,
                    left: metadata.len(),
                }))
            }
            Self::Archive { file, members, .. } => {
                let mut name = &name;
                for _ in 0..MAX_LINKS {
                    match members.get(name) {
                        None => return Ok(None),
                        Some(Member::Link(target)) => name = target,
                        Some(Member::Data { offset, size }) => {
                            return Ok(Some(Section {
                                file: Arc::clone(file),
                                at: *offset,
                                left: *size,
                            }));
                        }
                    }
                }
                Err(invalid(self.path(), "its links have no end"))
            }
        }
    }

    fn required(&self, name: &str) -> Result<Section> {
        self.member(name)?
            .ok_or_else(|| invalid(self.path(), &format!("{name} is missing")))
    }

    /// A small member, whole.
    fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(section) = self.member(name)? else {
            return Ok(None);
        };
        if section.left > MAX_DOCUMENT_BYTES {
            return Err(Error::TooLarge {
                what: format!("{name} in {}", self.path().display()),
                limit: MAX_DOCUMENT_BYTES,
            });
        }
        let mut bytes = Vec::new();
        section
            .take(MAX_DOCUMENT_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::io("read", self.path(), e))?;
        Ok(Some(bytes))
    }

    /// A small blob of an OCI layout, its digest verified.
    fn blob_document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let name = blob_name(&descriptor.digest);
        let bytes = self
            .document(&name)?
            .ok_or_else(|| invalid(self.path(), &format!("{name} is missing")))?;
        let actual = descriptor.digest.of_same_kind(&bytes);
        if actual != descriptor.digest {
            return Err(Error::DigestMismatch {
                what: name,
                expected: descriptor.digest.clone(),
                actual,
            });
        }
        Ok(bytes)
    }

    /// Opens a layer's blob after its digest, where it has one, was found right.
    fn verified(&self, blob: &Blob) -> Result<Section> {
        if let Some(digest) = &blob.digest {
            verify_blob(&blob.name, self.required(&blob.name)?, digest)?;
        }
        self.required(&blob.name)
    }

    fn images(&self) -> Result<Vec<Found>> {
        let found = if let Some(index) = self.document("index.json")? {
            self.oci_images(&index)?
        } else if let Some(manifest) = self.document("manifest.json")? {
            self.docker_images(&manifest)?
        } else {
            return Err(invalid(
                self.path(),
                "neither an OCI layout (index.json) nor a Docker archive (manifest.json)",
            ));
        };
        match found.len() {
            0 => Err(invalid(self.path(), "it holds no image")),
            count if count > MAX_IMAGES => Err(invalid(self.path(), "it holds too many images")),
            _ => Ok(found),
        }
    }

    fn oci_images(&self, index: &[u8]) -> Result<Vec<Found>> {
        let Document::List(list) = Document::read("index.json", None, index)? else {
            return Err(invalid(self.path(), "its index.json is not a list"));
        };
        if list.len() > MAX_IMAGES {
            return Err(invalid(self.path(), "it holds too many images"));
        }
        // A list without names may be one image for several platforms; with names, each entry is an image.
        let is_one_image = list.len() > 1
            && list
                .iter()
                .all(|entry| entry.platform.is_some() && name_of(entry).is_none());
        let entries = match is_one_image {
            true => vec![choose_platform("index.json", list, host_architecture())?],
            false => list,
        };
        entries.into_iter().map(|entry| self.oci_image(entry)).collect()
    }

    fn oci_image(&self, entry: Descriptor) -> Result<Found> {
        let name = name_of(&entry);
        let digest = name.as_ref().map(|name| format!("{}@{}", name.name(), entry.digest));
        let mut descriptor = entry;
        for _ in 0..=MAX_LIST_DEPTH {
            let what = format!("manifest {}", descriptor.digest);
            let bytes = self.blob_document(&descriptor)?;
            let manifest = match Document::read(&what, Some(&descriptor.media_type), &bytes)? {
                Document::List(list) => {
                    descriptor = choose_platform(&what, list, host_architecture())?;
                    continue;
                }
                Document::Image(manifest) => manifest,
                Document::Artifact(manifest) => {
                    return Err(Error::UnsupportedMediaType {
                        what: format!("{what}: configuration"),
                        media_type: manifest.config.media_type,
                    });
                }
            };
            let document = ConfigDocument {
                kind: manifest.kind,
                ..ConfigDocument::read(self.blob_document(&manifest.config)?)?
            };
            let blob = |layer: Descriptor| Blob {
                name: blob_name(&layer.digest),
                digest: Some(layer.digest),
            };
            let layers = manifest.layers.into_iter().map(blob).collect();
            let tags = name.and_then(|name| name.tagged_name()).into_iter().collect();
            return self.checked(Found {
                document,
                layers,
                tags,
                digests: digest.into_iter().collect(),
            });
        }
        Err(invalid(self.path(), "its lists lead to lists only"))
    }

    fn docker_images(&self, manifest: &[u8]) -> Result<Vec<Found>> {
        let images: Vec<DockerImage> = serde_json::from_slice(manifest)
            .map_err(|error| invalid(self.path(), &format!("manifest.json: {error}")))?;
        if images.len() > MAX_IMAGES {
            return Err(invalid(self.path(), "it holds too many images"));
        }
        images
            .into_iter()
            .map(|image| {
                let config = self.document(&image.config)?;
                let config = config.ok_or_else(|| invalid(self.path(), &format!("{} is missing", image.config)))?;
                let layers = image.layers.unwrap_or_default();
                let tags = image.repo_tags.unwrap_or_default();
                let tags = tags
                    .iter()
                    .map(|tag| ImageRef::parse(tag))
                    .collect::<Result<Vec<_>>>()?;
                self.checked(Found {
                    document: ConfigDocument::read(config)?,
                    layers: layers.into_iter().map(|name| Blob { name, digest: None }).collect(),
                    tags: tags.iter().filter_map(ImageRef::tagged_name).collect(),
                    digests: Vec::new(),
                })
            })
            .collect()
    }

    fn checked(&self, found: Found) -> Result<Found> {
        match found.layers.len() == found.document.layers.len() {
            true => Ok(found),
            false => Err(invalid(
                self.path(),
                "manifest and configuration differ in the number of layers",
            )),
        }
    }
}

/// The places of an archive's members. A name that comes twice means its last one, as with tar itself.
fn index(path: &Path, file: &File, node: &Node) -> Result<HashMap<String, Member>> {
    let refuse = |error: UnpackError| invalid(path, &error.to_string());
    let mut members = HashMap::new();
    let mut entries = Entries::new(SeekingReader::new(file), &node.limits);
    while let Some(entry) = entries.next_entry().map_err(refuse)? {
        let name = beneath::clean(&entry.path).and_then(|name| String::from_utf8(name).ok());
        let name = name.ok_or_else(|| invalid(path, "a member's name leads out of it"))?;
        let member = match entry.kind {
            Kind::File => Member::Data {
                offset: entries.position(),
                size: entry.size,
            },
            // Older Docker archives have a layer that comes twice as a link to its first place.
            Kind::Symlink => match link_target(&name, &entry.link) {
                Some(target) => Member::Link(target),
                None => continue,
            },
            Kind::HardLink => match beneath::clean(&entry.link).and_then(|target| String::from_utf8(target).ok()) {
                Some(target) => Member::Link(target),
                None => continue,
            },
            _ => continue,
        };
        members.insert(name, member);
        if members.len() > MAX_MEMBERS {
            return Err(invalid(path, "it has too many members"));
        }
    }
    Ok(members)
}

/// The member that a link leads to, if it leads to one.
fn link_target(from: &str, target: &[u8]) -> Option<String> {
    let target = std::str::from_utf8(target).ok()?;
    let mut components: Vec<&str> = from.split('/').collect();
    components.pop();
    for component in target.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(components.pop()?),
            component => components.push(component),
        }
    }
    Some(components.join("/"))
}

fn name_of(entry: &Descriptor) -> Option<ImageRef> {
    let annotations = entry.annotations.as_ref()?;
    let full = annotations.get(FULL_NAME).and_then(|name| ImageRef::parse(name).ok());
    // The standard annotation is often just a tag, which names nothing.
    full.or_else(|| {
        let name = annotations.get(OCI_NAME).filter(|name| name.contains(['/', ':']))?;
        ImageRef::parse(name).ok()
    })
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}", digest.to_string().replacen(':', "/", 1))
}

fn invalid(path: &Path, reason: &str) -> Error {
    Error::InvalidImage {
        what: path.display().to_string(),
        reason: reason.to_owned(),
    }
}

/// A part of a file, read by place: several may be read at once.
struct Section {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let Some(part) = buffer.get_mut(..wanted) else {
            return Ok(0);
        };
        let count = self.file.read_at(part, self.at)?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// Reads a file from its beginning without moving its shared place.
struct SeekingReader<'f> {
    file: &'f File,
    at: u64,
}

impl<'f> SeekingReader<'f> {
    fn new(file: &'f File) -> Self {
        Self { file, at: 0 }
    }
}

impl Read for SeekingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
