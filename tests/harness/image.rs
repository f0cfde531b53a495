//! Images made on the spot from Debian's static busybox: layers, configuration, manifest, and the shapes in which they
//! travel (pushed blobs, OCI layout, docker archive).

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image: what it declares, and its layers from the lowest up.
#[derive(Clone)]
pub struct TestImage {
    /// The `config` object of the image configuration: `Cmd`, `Env`, `User`, `WorkingDir`, …
    pub declared: Value,
    /// Of the manifest.
    pub annotations: Value,
    layers: Vec<Layer>,
}

#[derive(Clone)]
struct Layer {
    blob: Vec<u8>,
    diff_id: String,
}

/// Bytes and the digest by which they are asked for.
pub struct Blob {
    pub digest: String,
    pub bytes: Vec<u8>,
}

impl Blob {
    pub fn new(bytes: Vec<u8>) -> Self {
        Blob {
            digest: digest(&bytes),
            bytes,
        }
    }
}

pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl TestImage {
    /// A root filesystem with a shell and its applets, `/etc/passwd` with root and `user` (1000), and no command.
    pub fn busybox() -> anyhow::Result<Self> {
        static BASE: OnceLock<Layer> = OnceLock::new();
        if BASE.get().is_none() {
            let _ = BASE.set(base_layer()?);
        }
        let layers = BASE.get().cloned().into_iter().collect();
        Ok(TestImage {
            declared: json!({ "Env": ["PATH=/bin"], "Cmd": ["sh"] }),
            annotations: json!({}),
            layers,
        })
    }

    /// Nothing at all: neither files nor a command.
    pub fn scratch() -> Self {
        TestImage {
            declared: json!({ "Env": ["PATH=/bin"] }),
            annotations: json!({}),
            layers: Vec::new(),
        }
    }

    /// The same image that declares one thing more.
    pub fn declaring(mut self, name: &str, value: Value) -> Self {
        self.declared[name] = value;
        self
    }

    /// The same image with one layer more, made by `fill`.
    pub fn with_layer(
        mut self,
        fill: impl FnOnce(&mut Builder<Vec<u8>>) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let mut archive = Builder::new(Vec::new());
        fill(&mut archive)?;
        self.layers.push(Layer::compress(&archive.into_inner()?)?);
        Ok(self)
    }

    /// The same image with one more layer that holds one file.
    pub fn with_file(self, path: &str, content: &[u8]) -> anyhow::Result<Self> {
        self.with_layer(|archive| file(archive, path, 0o644, content))
    }

    pub fn layer_blobs(&self) -> Vec<Blob> {
        self.layers.iter().map(|layer| Blob::new(layer.blob.clone())).collect()
    }

    pub fn config_blob(&self) -> Blob {
        let diff_ids: Vec<&str> = self.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": self.declared, "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        Blob::new(config.to_string().into_bytes())
    }

    pub fn manifest_blob(&self) -> Blob {
        let descriptor = |media_type: &str, blob: &Blob| json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.bytes.len() });
        let layers: Vec<Value> = self.layer_blobs().iter().map(|blob| descriptor(LAYER, blob)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &self.config_blob()), "layers": layers,
            "annotations": self.annotations,
        });
        Blob::new(manifest.to_string().into_bytes())
    }

    /// Writes an OCI image layout with one image, named by its reference.
    pub fn write_layout(&self, directory: &Path, reference: &str) -> anyhow::Result<()> {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        let manifest = self.manifest_blob();
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": MANIFEST, "digest": manifest.digest, "size": manifest.bytes.len(),
                "annotations": { "org.opencontainers.image.ref.name": reference, "io.containerd.image.name": reference },
            }],
        });
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        fs::write(directory.join("index.json"), index.to_string())?;
        for blob in self.layer_blobs().into_iter().chain([self.config_blob(), manifest]) {
            fs::write(blobs.join(blob.digest.trim_start_matches("sha256:")), &blob.bytes)?;
        }
        Ok(())
    }

    /// Writes what `docker save` writes.
    pub fn write_docker_archive(&self, path: &Path, reference: &str) -> anyhow::Result<()> {
        let mut archive = Builder::new(fs::File::create(path)?);
        let config = self.config_blob();
        let config_name = format!("{}.json", config.digest.trim_start_matches("sha256:"));
        let mut layer_names = Vec::new();
        for blob in self.layer_blobs() {
            let name = format!("{}.tar.gz", blob.digest.trim_start_matches("sha256:"));
            file(&mut archive, &name, 0o644, &blob.bytes)?;
            layer_names.push(name);
        }
        file(&mut archive, &config_name, 0o644, &config.bytes)?;
        let manifest = json!([{ "Config": config_name, "RepoTags": [reference], "Layers": layer_names }]);
        file(&mut archive, "manifest.json", 0o644, manifest.to_string().as_bytes())?;
        archive.finish()?;
        Ok(())
    }
}

impl Layer {
    fn compress(archive: &[u8]) -> anyhow::Result<Self> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(archive)?;
        Ok(Layer {
            blob: encoder.finish()?,
            diff_id: digest(archive),
        })
    }
}

/// Puts a file into an archive. The name is taken as it is: `../x` too.
pub fn file(archive: &mut Builder<impl std::io::Write>, path: &str, mode: u32, content: &[u8]) -> anyhow::Result<()> {
    let mut header = entry(EntryType::Regular, mode, path)?;
    header.set_size(content.len() as u64);
    header.set_cksum();
    archive.append(&header, content)?;
    Ok(())
}

pub fn directory(archive: &mut Builder<impl std::io::Write>, path: &str, mode: u32) -> anyhow::Result<()> {
    let mut header = entry(EntryType::Directory, mode, path)?;
    header.set_cksum();
    archive.append(&header, std::io::empty())?;
    Ok(())
}

/// A symbolic link, or a hard one, to `target`.
pub fn link(
    archive: &mut Builder<impl std::io::Write>,
    kind: EntryType,
    path: &str,
    target: &str,
) -> anyhow::Result<()> {
    let mut header = entry(kind, 0o777, path)?;
    header.set_link_name_literal(target)?;
    header.set_cksum();
    archive.append(&header, std::io::empty())?;
    Ok(())
}

fn entry(kind: EntryType, mode: u32, path: &str) -> anyhow::Result<Header> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    let name = header
        .as_mut_bytes()
        .get_mut(..100)
        .context("a header is shorter than a name")?;
    name.get_mut(..path.len())
        .context("the name is too long for a plain header")?
        .copy_from_slice(path.as_bytes());
    Ok(header)
}

fn base_layer() -> anyhow::Result<Layer> {
    let busybox = busybox_path();
    let program = fs::read(&busybox).with_context(|| format!("{}: run `make setup`", busybox.display()))?;
    let list = Command::new(&busybox)
        .arg("--list")
        .output()
        .context("busybox --list")?;
    let mut archive = Builder::new(Vec::new());
    for (path, mode) in [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        ("proc", 0o555),
        ("root", 0o700),
        ("run", 0o755),
        ("sys", 0o555),
        ("tmp", 0o1777),
        ("var", 0o755),
    ] {
        directory(&mut archive, path, mode)?;
    }
    file(&mut archive, "bin/busybox", 0o755, &program)?;
    for applet in String::from_utf8_lossy(&list.stdout)
        .lines()
        .filter(|applet| *applet != "busybox")
    {
        link(&mut archive, EntryType::Symlink, &format!("bin/{applet}"), "busybox")?;
    }
    file(
        &mut archive,
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\n",
    )?;
    file(
        &mut archive,
        "etc/group",
        0o644,
        b"root:x:0:\nuser:x:1000:\nstaff:x:50:user\n",
    )?;
    Layer::compress(&archive.into_inner()?)
}

fn busybox_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/busybox/bin/busybox")
}
