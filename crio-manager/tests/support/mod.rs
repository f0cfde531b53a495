//! What image tests share: images made on the spot, a real registry, and one that misbehaves.
#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crio_manager::drivers::image::{Digest, ImageStore, ImageStoreConfig};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Far longer than anything takes: only what hangs for ever reaches it.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub fn sha256(bytes: &[u8]) -> String {
    Digest::sha256_of(bytes).to_string()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    Plain,
    Gzip,
    Zstd,
}

/// A tar of files with their content; a path that ends in a slash is a directory.
pub fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_000_000_000);
        if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
        } else {
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
        }
        builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn compress(tar: &[u8], form: Form) -> Vec<u8> {
    match form {
        Form::Plain => tar.to_vec(),
        Form::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).unwrap();
            encoder.finish().unwrap()
        }
        Form::Zstd => zstd::encode_all(tar, 3).unwrap(),
    }
}

/// An image in memory: its blobs by digest, and its manifest.
#[derive(Clone, Debug)]
pub struct TestImage {
    pub blobs: BTreeMap<String, Vec<u8>>,
    pub layers: Vec<String>,
    pub config: String,
    pub manifest: Vec<u8>,
    pub media_type: &'static str,
}

impl TestImage {
    /// `layers` from the bottom up: a tar and the form to send it in.
    pub fn new(layers: &[(Vec<u8>, Form)]) -> Self {
        Self::with(
            layers,
            OCI_MANIFEST,
            serde_json::json!({"Cmd": ["/bin/sh"], "User": "1000:users"}),
        )
    }

    pub fn with(layers: &[(Vec<u8>, Form)], media_type: &'static str, settings: serde_json::Value) -> Self {
        let docker = media_type == DOCKER_MANIFEST;
        let mut blobs = BTreeMap::new();
        let mut descriptors = Vec::new();
        let diff_ids: Vec<String> = layers.iter().map(|(tar, _)| sha256(tar)).collect();
        for (tar, form) in layers {
            let blob = compress(tar, *form);
            let kind = match (docker, form) {
                (false, Form::Plain) => "application/vnd.oci.image.layer.v1.tar",
                (false, Form::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
                (false, Form::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
                (true, Form::Plain) => "application/vnd.docker.image.rootfs.diff.tar",
                (true, _) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            };
            descriptors.push(serde_json::json!({"mediaType": kind, "digest": sha256(&blob), "size": blob.len()}));
            blobs.insert(sha256(&blob), blob);
        }
        let config = serde_json::to_vec(&serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": settings,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }))
        .unwrap();
        let config_type = match docker {
            true => "application/vnd.docker.container.image.v1+json",
            false => "application/vnd.oci.image.config.v1+json",
        };
        let config_digest = sha256(&config);
        let manifest = serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type,
            "config": {"mediaType": config_type, "digest": config_digest, "size": config.len()},
            "layers": descriptors,
        }))
        .unwrap();
        blobs.insert(config_digest.clone(), config);
        let layers = descriptors
            .iter()
            .map(|d| d["digest"].as_str().unwrap().to_owned())
            .collect();
        Self {
            blobs,
            layers,
            config: config_digest,
            manifest,
            media_type,
        }
    }

    pub fn digest(&self) -> String {
        sha256(&self.manifest)
    }

    /// Pushes it to a registry that takes plain HTTP and asks no questions.
    pub async fn push(&self, registry: &str, path: &str, version: &str) {
        let client = reqwest::Client::builder().no_proxy().build();
        // The TLS side is not used, but has to be there.
        let client = client.unwrap_or_else(|_| panic!("client"));
        for (digest, blob) in &self.blobs {
            let begun = client
                .post(format!("http://{registry}/v2/{path}/blobs/uploads/"))
                .send()
                .await
                .unwrap();
            assert_eq!(begun.status(), 202, "{:?}", begun.text().await);
            let mut location = reqwest::Url::parse(begun.headers()["location"].to_str().unwrap()).unwrap();
            location.query_pairs_mut().append_pair("digest", digest);
            let put = client.put(location).body(blob.clone()).send().await.unwrap();
            assert_eq!(put.status(), 201);
        }
        push_manifest(registry, path, version, self.media_type, self.manifest.clone()).await;
    }

    /// Writes it as an OCI layout.
    pub fn write_layout(&self, directory: &Path, name: Option<&str>) {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        for (digest, blob) in &self.blobs {
            fs::write(blobs.join(digest.trim_start_matches("sha256:")), blob).unwrap();
        }
        fs::write(blobs.join(self.digest().trim_start_matches("sha256:")), &self.manifest).unwrap();
        let mut entry = serde_json::json!({
            "mediaType": self.media_type, "digest": self.digest(), "size": self.manifest.len()
        });
        if let Some(name) = name {
            entry["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": name});
        }
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]});
        fs::write(directory.join("index.json"), index.to_string()).unwrap();
    }
}

pub async fn push_manifest(registry: &str, path: &str, version: &str, media_type: &str, manifest: Vec<u8>) {
    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .unwrap_or_else(|_| panic!("client"));
    let url = format!("http://{registry}/v2/{path}/manifests/{version}");
    let put = client
        .put(url)
        .header("content-type", media_type)
        .body(manifest)
        .send()
        .await
        .unwrap();
    assert_eq!(put.status(), 201, "{:?}", put.text().await);
}

/// HTTP clients need a provider of cryptography even where they speak none.
pub fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default(); // a second time is fine
}

/// A store in a directory of its own, for which these registries are insecure.
pub async fn store_in(root: &Path, insecure: &[&str]) -> ImageStore {
    ImageStore::open(config_in(root, insecure)).await.unwrap()
}

pub fn config_in(root: &Path, insecure: &[&str]) -> ImageStoreConfig {
    let mut config = ImageStoreConfig::new(root);
    config.insecure_registries = insecure.iter().map(|&host| host.to_owned()).collect();
    config
}

/// The names under `directory` that tell of unfinished work.
pub fn leftovers(root: &Path) -> Vec<PathBuf> {
    let listed = |name: &str| {
        fs::read_dir(root.join(name))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
    };
    let mut found: Vec<PathBuf> = listed("tmp").collect();
    found.extend(listed("images").filter(|path| path.extension().is_none_or(|extension| extension != "json")));
    found
}

pub fn layer_count(root: &Path) -> usize {
    fs::read_dir(root.join("layers")).unwrap().count()
}

/// Debian's docker-registry on a port of its own, ended with the test.
pub struct DockerRegistry {
    child: Child,
    pub address: String,
    _config: tempfile::TempDir,
}

const DOCKER_REGISTRY: &str = "/usr/bin/docker-registry";

impl DockerRegistry {
    /// `None`, loudly, where it is not installed.
    pub fn start(storage: &Path, extra: &str) -> Option<Self> {
        if !Path::new(DOCKER_REGISTRY).exists() {
            eprintln!("SKIPPED: needs {DOCKER_REGISTRY} (package docker-registry)");
            return None;
        }
        install_crypto();
        // Between choosing a port and listening on it somebody else may take it: then again with another.
        for _ in 0..5 {
            let address = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .to_string();
            let config = tempfile::tempdir().unwrap();
            let file = config.path().join("config.yml");
            let http = format!("http:\n  addr: {address}\n");
            let extra = extra.replace("http:\n", &http);
            let text = format!(
                "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
                 rootdirectory: {}\n{}",
                storage.display(),
                if extra.contains("http:") {
                    extra
                } else {
                    format!("{http}{extra}")
                },
            );
            fs::write(&file, text).unwrap();
            let child = Command::new(DOCKER_REGISTRY)
                .arg("serve")
                .arg(&file)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut registry = Self {
                child,
                address,
                _config: config,
            };
            if registry.answers() {
                return Some(registry);
            }
        }
        panic!("docker-registry does not start");
    }

    fn answers(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(&self.address).is_ok() {
                return true;
            }
            std::thread::yield_now();
        }
        panic!("docker-registry does not listen");
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a scripted server is asked.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

/// What it answers.
pub enum Answer {
    Whole {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    /// Promises the whole body, sends so many bytes, and closes.
    Broken { body: Vec<u8>, sent: usize },
    /// Promises the whole body, sends so many bytes, and says no more until the test ends.
    Stalled { body: Vec<u8>, sent: usize },
    /// Waits until the test lets go, then answers.
    Held(Box<Answer>),
}

pub fn ok(body: Vec<u8>) -> Answer {
    Answer::Whole {
        status: 200,
        headers: Vec::new(),
        body,
    }
}

pub fn status(status: u16, headers: &[(&str, &str)]) -> Answer {
    let headers = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Answer::Whole {
        status,
        headers,
        body: Vec::new(),
    }
}

#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let open = self.open.lock().unwrap();
        drop(self.changed.wait_timeout_while(open, DEADLINE, |open| !*open).unwrap());
    }
}

/// A registry whose answers a test writes. Speaks plain HTTP on a port of its own, one request per connection.
pub struct ScriptedRegistry {
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    asked_changed: Arc<Condvar>,
    held: Arc<Gate>,
    ended: Arc<Gate>,
    stop: Arc<AtomicBool>,
    listener: Option<std::thread::JoinHandle<()>>,
}

impl ScriptedRegistry {
    pub fn start(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        install_crypto();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let asked_changed = Arc::new(Condvar::new());
        let (held, ended, stop) = (
            Arc::<Gate>::default(),
            Arc::<Gate>::default(),
            Arc::new(AtomicBool::new(false)),
        );
        let server = {
            let script = Arc::new(script);
            let (asked, asked_changed) = (Arc::clone(&asked), Arc::clone(&asked_changed));
            let (held, ended, stop) = (Arc::clone(&held), Arc::clone(&ended), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut connections = Vec::new();
                for connection in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let (script, asked, asked_changed) =
                        (Arc::clone(&script), Arc::clone(&asked), Arc::clone(&asked_changed));
                    let (held, ended) = (Arc::clone(&held), Arc::clone(&ended));
                    connections.push(std::thread::spawn(move || {
                        let mut connection = connection.unwrap();
                        let Some(request) = read_request(&mut connection) else {
                            return;
                        };
                        asked.lock().unwrap().push(request.clone());
                        asked_changed.notify_all();
                        let _ = respond(&mut connection, script(&request), &held, &ended); // the client may have left
                    }));
                }
                for connection in connections {
                    connection.join().unwrap();
                }
            })
        };
        Self {
            address,
            asked,
            asked_changed,
            held,
            ended,
            stop,
            listener: Some(server),
        }
    }

    /// Serves `image` as `path:latest`; `blob` may answer for a blob instead.
    pub fn of(image: &TestImage, blob: impl Fn(&Asked, &str, &[u8]) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let image = image.clone();
        Self::start(move |asked| {
            if asked.path.contains("/manifests/") {
                return Answer::Whole {
                    status: 200,
                    headers: vec![("content-type".to_owned(), image.media_type.to_owned())],
                    body: image.manifest.clone(),
                };
            }
            match asked
                .path
                .split_once("/blobs/")
                .and_then(|(_, digest)| image.blobs.get_key_value(digest))
            {
                Some((digest, content)) => blob(asked, digest, content).unwrap_or_else(|| ok(content.clone())),
                None => status(404, &[]),
            }
        })
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Waits until somebody asked for a path with `part` in it.
    pub fn wait_until_asked(&self, part: &str) {
        let asked = self.asked.lock().unwrap();
        let is_missing = |asked: &mut Vec<Asked>| !asked.iter().any(|one| one.path.contains(part));
        let (_asked, waited) = self
            .asked_changed
            .wait_timeout_while(asked, DEADLINE, is_missing)
            .unwrap();
        assert!(!waited.timed_out(), "nobody asked for {part}");
    }

    /// Lets held answers go.
    pub fn let_go(&self) {
        self.held.open();
    }
}

impl Drop for ScriptedRegistry {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.held.open();
        self.ended.open();
        let _ = TcpStream::connect(&self.address); // wakes the listener
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

/// `None` for what is no HTTP, such as the beginning of TLS.
fn read_request(connection: &mut TcpStream) -> Option<Asked> {
    let mut first = [0];
    connection.peek(&mut first).ok()?;
    if !first[0].is_ascii_uppercase() {
        return None;
    }
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked {
        method,
        path,
        headers,
        body: String::from_utf8(body).unwrap(),
    })
}

fn respond(connection: &mut TcpStream, answer: Answer, held: &Gate, ended: &Gate) -> std::io::Result<()> {
    let head = |status: u16, headers: &[(String, String)], length: usize| {
        let headers: String = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n")
    };
    match answer {
        Answer::Whole { status, headers, body } => {
            connection.write_all(head(status, &headers, body.len()).as_bytes())?;
            connection.write_all(&body)
        }
        Answer::Broken { body, sent } => {
            connection.write_all(head(200, &[], body.len()).as_bytes())?;
            connection.write_all(&body[..sent])
        }
        Answer::Stalled { body, sent } => {
            connection.write_all(head(200, &[], body.len()).as_bytes())?;
            connection.write_all(&body[..sent])?;
            ended.wait();
            Ok(())
        }
        Answer::Held(answer) => {
            held.wait();
            respond(connection, *answer, held, ended)
        }
    }
}

/// Runs the test that calls this in a mount namespace of its own: `true` there, `false` outside, where it is done already.
pub fn in_own_mount_namespace(test: &str) -> bool {
    const MARK: &str = "TEST_IN_OWN_MOUNT_NAMESPACE";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: {test} needs root");
        return false;
    }
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(MARK, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its mount namespace");
    false
}
