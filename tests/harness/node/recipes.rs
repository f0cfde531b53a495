//! What tests ask of a node, ready-made: pods, images, registries, and runtimes and plugins that misbehave.

use std::fs;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use cri::v1::{LinuxPodSandboxConfig, NamespaceMode, PodSandboxConfig, PodSandboxMetadata};
use serde_json::json;

use super::{Node, REGISTRY_PORT, daemon_command, find_program};
use crate::client::{RunningPod, pod_security};
use crate::eventually;
use crate::image::{Blob, MANIFEST, TestImage};
use crate::registry::{Access, Registry};

impl Node {
    // ---- recipes

    /// A pod with logs, a cgroup parent and a uid of its own.
    pub fn pod(&self, name: &str) -> PodSandboxConfig {
        let number = self.pods_made.fetch_add(1, Ordering::Relaxed);
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}-{number}"),
                namespace: "e2e".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.path("logs").join(name).display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup_parent.clone(),
                security_context: Some(pod_security(NamespaceMode::Pod)),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// The same in the node's own network, which makes it quicker to start.
    pub fn host_network_pod(&self, name: &str) -> PodSandboxConfig {
        let mut pod = self.pod(name);
        pod.hostname = String::new();
        if let Some(linux) = &mut pod.linux {
            linux.security_context = Some(pod_security(NamespaceMode::Node));
        }
        pod
    }

    /// A pod of busybox containers, in a network of its own.
    pub async fn running_pod(&mut self, name: &str) -> anyhow::Result<RunningPod> {
        let config = self.pod(name);
        self.running("", config).await
    }

    /// The same in the node's network.
    pub async fn running_host_pod(&mut self, name: &str) -> anyhow::Result<RunningPod> {
        let config = self.host_network_pod(name);
        self.running("", config).await
    }

    /// The same as configured, with a runtime handler.
    pub async fn running(&mut self, handler: &str, config: PodSandboxConfig) -> anyhow::Result<RunningPod> {
        let image = self.busybox().await?;
        let id = self.client.run_pod_with(handler, &config).await?;
        Ok(RunningPod {
            id,
            config,
            image,
            client: self.client.clone(),
        })
    }

    /// What a container of a pod has logged.
    pub fn container_log(&self, pod: &str, container: &str) -> anyhow::Result<String> {
        let path = self.path("logs").join(pod).join(format!("{container}.log"));
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Runs a container that answers SIGTERM with `not yet`, and goes on; returns when it does.
    pub async fn deaf(&self, pod: &RunningPod, name: &str) -> anyhow::Result<String> {
        let id = pod
            .sh(
                name,
                "trap 'echo not yet' TERM; echo ready; while :; do sleep 0.05; done",
            )
            .await?;
        let pod = &pod.config.metadata.as_ref().context("a pod has a name")?.name;
        eventually("the trap is set", || {
            Ok(self.said(pod, name, "stdout")?.contains("ready"))
        })
        .await?;
        Ok(id)
    }

    /// The payload of a container's log: what was said on a stream, without times and marks.
    pub fn said(&self, pod: &str, container: &str, stream: &str) -> anyhow::Result<String> {
        payload(&self.container_log(pod, container)?, stream)
    }

    /// What somebody says who connects from inside the node; tried until there is an answer.
    pub async fn heard(&self, address: &str) -> anyhow::Result<String> {
        let address: SocketAddr = address.parse()?;
        let started = Instant::now();
        loop {
            let mut text = String::new();
            let outcome = self.namespaces.connect(address).and_then(|mut stream| {
                stream.set_read_timeout(Some(Duration::from_secs(2)))?;
                Ok(stream.read_to_string(&mut text)?)
            });
            match outcome {
                Ok(_) if !text.is_empty() => return Ok(text),
                Err(error) if started.elapsed() > Duration::from_secs(10) => return Err(error),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
            anyhow::ensure!(started.elapsed() < Duration::from_secs(15), "{address} says nothing");
        }
    }

    /// Pushes busybox to the node's registry, pulls it over CRI, and gives its reference.
    pub async fn busybox(&mut self) -> anyhow::Result<String> {
        self.pulled("e2e/busybox:1", &TestImage::busybox()?).await
    }

    /// Pushes an image and pulls it over CRI.
    pub async fn pulled(&mut self, name: &str, image: &TestImage) -> anyhow::Result<String> {
        let reference = self.pushed(name, image)?;
        self.client
            .pull(&reference)
            .await
            .with_context(|| format!("pulling {reference}"))?;
        Ok(reference)
    }

    /// Pushes an image to the node's registry and gives its reference.
    pub fn pushed(&mut self, name: &str, image: &TestImage) -> anyhow::Result<String> {
        self.registry()?;
        let registry = self.registry.as_ref().context("no registry")?;
        registry.push(&self.namespaces, name, image)
    }

    /// Pushes an OCI artifact with a file for each title and content, and gives its reference.
    pub fn pushed_artifact(&mut self, name: &str, files: &[(&str, &[u8])]) -> anyhow::Result<String> {
        let (repository, tag) = name.split_once(':').context("a name with a tag is needed")?;
        self.registry()?;
        let registry = self.registry.as_ref().context("no registry")?;
        let descriptor = |media_type: &str, blob: &Blob| json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.bytes.len() });
        let config = Blob::new(b"{}".to_vec());
        registry.push_blob(&self.namespaces, repository, &config)?;
        let mut layers = Vec::new();
        for (title, content) in files {
            let blob = Blob::new(content.to_vec());
            registry.push_blob(&self.namespaces, repository, &blob)?;
            let mut layer = descriptor("application/octet-stream", &blob);
            layer["annotations"] = json!({ "org.opencontainers.image.title": title });
            layers.push(layer);
        }
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.example.files",
            "config": descriptor("application/vnd.oci.empty.v1+json", &config), "layers": layers,
        });
        let manifest = Blob::new(manifest.to_string().into_bytes());
        registry.push_manifest(&self.namespaces, repository, tag, MANIFEST, &manifest)?;
        Ok(format!("127.0.0.1:{REGISTRY_PORT}/{name}"))
    }

    /// Pushes a manifest alone, such as an index over images that are there.
    pub fn pushed_manifest(
        &mut self,
        repository: &str,
        tag: &str,
        media_type: &str,
        manifest: &Blob,
    ) -> anyhow::Result<()> {
        self.registry()?;
        let registry = self.registry.as_ref().context("no registry")?;
        registry.push_manifest(&self.namespaces, repository, tag, media_type, manifest)
    }

    /// Runs `crio-manager` with the node's configuration to its end and gives its output.
    pub fn manager(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = daemon_command(&self.namespaces, &self.root).args(arguments).output()?;
        if !output.status.success() {
            bail!(
                "crio-manager {arguments:?}: {}: {}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr),
                String::from_utf8_lossy(&output.stdout)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The node's registry, started when it is first asked for.
    pub fn registry(&mut self) -> anyhow::Result<&Registry> {
        if self.registry.is_none() {
            let directory = self.path("registry");
            self.registry = Some(Registry::start(
                &self.namespaces,
                &directory,
                REGISTRY_PORT,
                Access::Open,
            )?);
        }
        self.registry.as_ref().context("no registry")
    }

    /// One more registry over the same storage, which asks more of its clients.
    pub fn another_registry(&self, port: u16, access: Access) -> anyhow::Result<Registry> {
        Registry::start(&self.namespaces, &self.path("registry"), port, access)
    }

    /// A runtime handler `name` whose runtime is a shell script around the node's own one. In it, `$verb` is the OCI
    /// command (create, start, …), `$REAL` the real runtime and `$DIR` the node's directory; it ends by running the
    /// real one unless the body did something else.
    pub async fn wrap_runtime(&mut self, name: &str, body: &str, create_timeout: u32) -> anyhow::Result<()> {
        let real = find_program(self.runtime.name())?;
        let script = format!(
            "#!/bin/sh\nREAL={}\nDIR={}\nverb=\nfor word; do case $word in\n\
             create|start|kill|delete|state|exec|features) verb=$word; break;;\nesac; done\n{body}\nexec $REAL \"$@\"\n",
            real.display(),
            self.root.display()
        );
        let path = self.path("bin").join(name);
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        let toml = format!(
            "[crio.runtime.runtimes.{name}]\nruntime_path = \"{}\"\nruntime_root = \"{}\"\ncontainer_create_timeout = {create_timeout}\n",
            path.display(),
            self.path("oci").display()
        );
        self.configure(&format!("50-{name}.conf"), &toml).await
    }

    /// A CNI plugin of the test's own, ahead of the real ones. It gets the real one's path in `$REAL`.
    pub fn wrap_plugin(&self, name: &str, body: &str) -> anyhow::Result<()> {
        let path = self.path("plugins").join(name);
        fs::write(
            &path,
            format!(
                "#!/bin/sh\nREAL=/usr/lib/cni/{name}\nDIR={}\n{body}\nexec $REAL\n",
                self.root.display()
            ),
        )?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }
}

/// What a log in CRI's format has of a stream, without times and marks.
pub fn payload(log: &str, stream: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    for line in log.lines() {
        let mut parts = line.splitn(4, ' ');
        let (Some(_), Some(from), Some(mark), Some(payload)) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            bail!("a line that is not in the CRI format: {line:?}");
        };
        if from == stream {
            text.push_str(payload);
            if mark == "F" {
                text.push('\n');
            }
        }
    }
    Ok(text)
}
