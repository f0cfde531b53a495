//! Debian's docker-registry inside a node's network, and pushing to it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::image::{Blob, MANIFEST, TestImage};
use crate::namespaces::Namespaces;

const START_LIMIT: Duration = Duration::from_secs(10);

/// What a registry asks of its clients. Several registries may serve the same storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Open,
    /// Basic authentication, [`USER`] and [`PASSWORD`].
    Password,
    /// HTTPS with a certificate signed by the authority in `ca.crt` of the storage's parent directory.
    Tls,
}

pub const USER: &str = "somebody";
pub const PASSWORD: &str = "s3cret";

pub struct Registry {
    process: Child,
    pub address: SocketAddr,
}

impl Registry {
    /// Starts one on loopback; `directory` holds its storage, configuration and log.
    pub fn start(namespaces: &Namespaces, directory: &Path, port: u16, access: Access) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let config = directory.join(format!("{port}.yml"));
        let storage = directory.join("storage");
        let mut text = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\n\
             http:\n  addr: {address}\n  secret: e2e\n",
            storage.display()
        );
        match access {
            Access::Open => {}
            Access::Password => {
                let file = password_file(directory)?;
                text += &format!("auth:\n  htpasswd: {{realm: e2e, path: {}}}\n", file.display());
            }
            Access::Tls => {
                let (certificate, key) = certificate(directory)?;
                text += &format!(
                    "  tls: {{certificate: {}, key: {}}}\n",
                    certificate.display(),
                    key.display()
                );
            }
        }
        std::fs::write(&config, text)?;
        let log = std::fs::File::create(directory.join(format!("{port}.log")))?;
        let process = namespaces
            .command("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("docker-registry")?;
        let registry = Registry { process, address };
        registry.wait_until_it_answers(namespaces, directory)?;
        Ok(registry)
    }

    fn wait_until_it_answers(&self, namespaces: &Namespaces, directory: &Path) -> anyhow::Result<()> {
        let started = Instant::now();
        while namespaces.connect(self.address).is_err() {
            if started.elapsed() > START_LIMIT {
                let log = std::fs::read_to_string(directory.join(format!("{}.log", self.address.port())));
                bail!("the registry does not answer: {}", log.unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Pushes an image; `name` is `repository:tag`. Gives the reference to pull it by.
    pub fn push(&self, namespaces: &Namespaces, name: &str, image: &TestImage) -> anyhow::Result<String> {
        let (repository, tag) = name.split_once(':').context("a name with a tag is needed")?;
        for blob in image.layer_blobs().into_iter().chain([image.config_blob()]) {
            self.push_blob(namespaces, repository, &blob)?;
        }
        self.push_manifest(namespaces, repository, tag, MANIFEST, &image.manifest_blob())?;
        Ok(format!("{}/{name}", self.address))
    }

    pub fn push_blob(&self, namespaces: &Namespaces, repository: &str, blob: &Blob) -> anyhow::Result<()> {
        let known = self.request(
            namespaces,
            "HEAD",
            &format!("/v2/{repository}/blobs/{}", blob.digest),
            "",
            &[],
        )?;
        if known.status == 200 {
            return Ok(());
        }
        let opened = self.request(namespaces, "POST", &format!("/v2/{repository}/blobs/uploads/"), "", &[])?;
        let location = opened.header("location").context("the registry opened no upload")?;
        let path = location
            .find("/v2/")
            .and_then(|start| location.get(start..))
            .context("a strange upload location")?;
        let target = format!(
            "{path}{}digest={}",
            if path.contains('?') { '&' } else { '?' },
            blob.digest
        );
        let done = self.request(namespaces, "PUT", &target, "application/octet-stream", &blob.bytes)?;
        done.expect(201)
    }

    /// Pushes any manifest, an index too.
    pub fn push_manifest(
        &self,
        namespaces: &Namespaces,
        repository: &str,
        tag: &str,
        media_type: &str,
        blob: &Blob,
    ) -> anyhow::Result<()> {
        let path = format!("/v2/{repository}/manifests/{tag}");
        self.request(namespaces, "PUT", &path, media_type, &blob.bytes)?
            .expect(201)
    }

    fn request(
        &self,
        namespaces: &Namespaces,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> anyhow::Result<Answer> {
        let stream = namespaces.connect(self.address)?;
        http(stream, &self.address.to_string(), method, path, content_type, body)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // nsenter ends with what it started; the process itself dies with its namespaces at the latest.
        if let Some(inner) = crate::namespaces::child_of(crate::namespaces::pid_of(&self.process)) {
            let _ = nix::sys::signal::kill(inner, nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An HTTP answer, read to its end.
pub struct Answer {
    pub status: u16,
    head: String,
    pub body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find_map(|(header, value)| header.eq_ignore_ascii_case(name).then_some(value.trim()))
    }

    fn expect(&self, status: u16) -> anyhow::Result<()> {
        if self.status != status {
            bail!(
                "expected {status}, got {} {}",
                self.head,
                String::from_utf8_lossy(&self.body)
            );
        }
        Ok(())
    }
}

/// One request on a connection that is closed after it.
pub fn http(
    mut stream: TcpStream,
    host: &str,
    method: &str,
    path: &str,
    content_type: &str,
    body: &[u8],
) -> anyhow::Result<Answer> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("an answer without an end of its head")?;
    let head = String::from_utf8_lossy(answer.get(..end).unwrap_or_default()).into_owned();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("an answer without a status")?;
    Ok(Answer {
        status,
        head,
        body: answer.get(end + 4..).unwrap_or_default().to_vec(),
    })
}

fn password_file(directory: &Path) -> anyhow::Result<PathBuf> {
    let path = directory.join("htpasswd");
    run(Command::new("htpasswd").arg("-Bbc").arg(&path).args([USER, PASSWORD]))?;
    Ok(path)
}

/// A certificate for loopback and the authority that signed it, `ca.crt`.
fn certificate(directory: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let at = |name: &str| directory.join(name);
    std::fs::write(
        at("names"),
        "subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n",
    )?;
    run(Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=e2e authority",
            "-keyout",
        ])
        .arg(at("ca.key"))
        .arg("-out")
        .arg(at("ca.crt")))?;
    run(Command::new("openssl")
        .args([
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=127.0.0.1",
            "-keyout",
        ])
        .arg(at("server.key"))
        .arg("-out")
        .arg(at("server.csr")))?;
    run(Command::new("openssl")
        .args(["x509", "-req", "-days", "2", "-CAcreateserial", "-in"])
        .arg(at("server.csr"))
        .arg("-CA")
        .arg(at("ca.crt"))
        .arg("-CAkey")
        .arg(at("ca.key"))
        .arg("-extfile")
        .arg(at("names"))
        .arg("-out")
        .arg(at("server.crt")))?;
    Ok((at("server.crt"), at("server.key")))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
