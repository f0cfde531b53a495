//! CRI as the kubelet speaks it, with the waiting and the recipes that tests need.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use cri::v1::image_service_client::ImageServiceClient;
use cri::v1::runtime_service_client::RuntimeServiceClient;
use cri::v1::*;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::POLL;

/// How often a state is asked for while it is waited for.

#[derive(Clone)]
pub struct Client {
    pub runtime: RuntimeServiceClient<Channel>,
    pub images: ImageServiceClient<Channel>,
}

/// A container that runs `command` in `image`, with a log named after it.
pub fn container(name: &str, image: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        }),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig {
            security_context: Some(security()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What the kubelet asks for when a pod says nothing: a process namespace of the container's own. (In CRI, saying
/// nothing means that the pod's containers share one.)
pub fn security() -> LinuxContainerSecurityContext {
    LinuxContainerSecurityContext {
        namespace_options: Some(namespaces(NamespaceMode::Pod)),
        ..Default::default()
    }
}

/// The same for a pod, in a network of its own or in the node's.
pub fn pod_security(network: NamespaceMode) -> LinuxSandboxSecurityContext {
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(network)),
        ..Default::default()
    }
}

fn namespaces(network: NamespaceMode) -> NamespaceOption {
    NamespaceOption {
        network: network.into(),
        pid: NamespaceMode::Container.into(),
        ..Default::default()
    }
}

/// A container that runs a shell script.
pub fn sh(name: &str, image: &str, script: &str) -> ContainerConfig {
    container(name, image, &["sh", "-c", script])
}

impl Client {
    pub async fn connect(socket: &Path) -> anyhow::Result<Self> {
        let channel = Endpoint::try_from(format!("unix://{}", socket.display()))?
            .connect()
            .await?;
        Ok(Client {
            runtime: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel),
        })
    }

    pub async fn version(&self) -> Result<VersionResponse, Status> {
        let request = VersionRequest {
            version: "v1".to_owned(),
        };
        Ok(self.runtime.clone().version(request).await?.into_inner())
    }

    pub async fn node_status(&self) -> Result<StatusResponse, Status> {
        Ok(self
            .runtime
            .clone()
            .status(StatusRequest { verbose: true })
            .await?
            .into_inner())
    }

    /// Whether a condition of the node holds, and why not.
    pub async fn condition(&self, kind: &str) -> anyhow::Result<RuntimeCondition> {
        let status = self.node_status().await?.status.context("a status without a status")?;
        status
            .conditions
            .into_iter()
            .find(|condition| condition.r#type == kind)
            .context("there is no such condition")
    }

    pub async fn run_pod(&self, config: &PodSandboxConfig) -> Result<String, Status> {
        self.run_pod_with("", config).await
    }

    pub async fn run_pod_with(&self, handler: &str, config: &PodSandboxConfig) -> Result<String, Status> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        Ok(self
            .runtime
            .clone()
            .run_pod_sandbox(request)
            .await?
            .into_inner()
            .pod_sandbox_id)
    }

    pub async fn stop_pod(&self, id: &str) -> Result<(), Status> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.runtime.clone().stop_pod_sandbox(request).await.map(|_| ())
    }

    pub async fn remove_pod(&self, id: &str) -> Result<(), Status> {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.runtime.clone().remove_pod_sandbox(request).await.map(|_| ())
    }

    pub async fn pod_status(&self, id: &str) -> Result<PodSandboxStatus, Status> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        let answer = self.runtime.clone().pod_sandbox_status(request).await?.into_inner();
        answer
            .status
            .ok_or_else(|| Status::internal("an answer without a status"))
    }

    pub async fn pods(&self, filter: Option<PodSandboxFilter>) -> Result<Vec<PodSandbox>, Status> {
        let request = ListPodSandboxRequest { filter };
        Ok(self.runtime.clone().list_pod_sandbox(request).await?.into_inner().items)
    }

    pub async fn create(
        &self,
        pod: &str,
        config: &ContainerConfig,
        pod_config: &PodSandboxConfig,
    ) -> Result<String, Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(pod_config.clone()),
        };
        Ok(self
            .runtime
            .clone()
            .create_container(request)
            .await?
            .into_inner()
            .container_id)
    }

    pub async fn start(&self, id: &str) -> Result<(), Status> {
        let request = StartContainerRequest {
            container_id: id.to_owned(),
        };
        self.runtime.clone().start_container(request).await.map(|_| ())
    }

    /// Creates and starts.
    pub async fn run(
        &self,
        pod: &str,
        config: &ContainerConfig,
        pod_config: &PodSandboxConfig,
    ) -> Result<String, Status> {
        let id = self.create(pod, config, pod_config).await?;
        self.start(&id).await?;
        Ok(id)
    }

    pub async fn stop(&self, id: &str, grace: i64) -> Result<(), Status> {
        let request = StopContainerRequest {
            container_id: id.to_owned(),
            timeout: grace,
        };
        self.runtime.clone().stop_container(request).await.map(|_| ())
    }

    pub async fn remove(&self, id: &str) -> Result<(), Status> {
        let request = RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        self.runtime.clone().remove_container(request).await.map(|_| ())
    }

    pub async fn status(&self, id: &str) -> Result<ContainerStatus, Status> {
        let request = ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let answer = self.runtime.clone().container_status(request).await?.into_inner();
        answer
            .status
            .ok_or_else(|| Status::internal("an answer without a status"))
    }

    /// The container's first process, as the daemon sees it.
    pub async fn pid(&self, id: &str) -> anyhow::Result<i32> {
        let request = ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: true,
        };
        let answer = self.runtime.clone().container_status(request).await?.into_inner();
        let info = answer.info.get("info").context("a verbose status without info")?;
        let info: serde_json::Value = serde_json::from_str(info)?;
        Ok(i32::try_from(info["pid"].as_i64().context("info without a pid")?)?)
    }

    pub async fn containers(&self, filter: Option<ContainerFilter>) -> Result<Vec<Container>, Status> {
        Ok(self
            .runtime
            .clone()
            .list_containers(ListContainersRequest { filter })
            .await?
            .into_inner()
            .containers)
    }

    pub async fn exec(&self, id: &str, command: &[&str], timeout: i64) -> Result<ExecSyncResponse, Status> {
        let cmd = command.iter().map(|&word| word.to_owned()).collect();
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd,
            timeout,
        };
        Ok(self.runtime.clone().exec_sync(request).await?.into_inner())
    }

    /// What a command in the container prints; it must succeed.
    pub async fn output(&self, id: &str, command: &[&str]) -> anyhow::Result<String> {
        let answer = self.exec(id, command, 10).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if answer.exit_code != 0 {
            bail!("{command:?} exited with {}: {}", answer.exit_code, text(&answer.stderr));
        }
        Ok(text(&answer.stdout))
    }

    pub async fn reopen_log(&self, id: &str) -> Result<(), Status> {
        let request = ReopenContainerLogRequest {
            container_id: id.to_owned(),
        };
        self.runtime.clone().reopen_container_log(request).await.map(|_| ())
    }

    pub async fn pull(&self, image: &str) -> Result<String, Status> {
        self.pull_with(image, None).await
    }

    pub async fn pull_with(&self, image: &str, auth: Option<AuthConfig>) -> Result<String, Status> {
        let request = PullImageRequest {
            image: Some(image_spec(image)),
            auth,
            sandbox_config: None,
        };
        Ok(self.images.clone().pull_image(request).await?.into_inner().image_ref)
    }

    pub async fn image(&self, image: &str) -> Result<Option<Image>, Status> {
        let request = ImageStatusRequest {
            image: Some(image_spec(image)),
            verbose: false,
        };
        Ok(self.images.clone().image_status(request).await?.into_inner().image)
    }

    pub async fn list_images(&self) -> Result<Vec<Image>, Status> {
        Ok(self
            .images
            .clone()
            .list_images(ListImagesRequest { filter: None })
            .await?
            .into_inner()
            .images)
    }

    pub async fn remove_image(&self, image: &str) -> Result<(), Status> {
        let request = RemoveImageRequest {
            image: Some(image_spec(image)),
        };
        self.images.clone().remove_image(request).await.map(|_| ())
    }

    /// Waits until the container has exited.
    pub async fn exited(&self, id: &str, limit: Duration) -> anyhow::Result<ContainerStatus> {
        self.until(id, limit, |status| status.state() == ContainerState::ContainerExited)
            .await
    }

    /// Waits until the container's status is as wanted.
    pub async fn until(
        &self,
        id: &str,
        limit: Duration,
        wanted: impl Fn(&ContainerStatus) -> bool,
    ) -> anyhow::Result<ContainerStatus> {
        let started = Instant::now();
        loop {
            let status = self.status(id).await?;
            if wanted(&status) {
                return Ok(status);
            }
            if started.elapsed() > limit {
                bail!(
                    "after {limit:?} the container is still {:?}: {}",
                    status.state(),
                    status.message
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Stops and removes every pod, then every image.
    pub async fn remove_everything(&self) -> anyhow::Result<()> {
        for pod in self.pods(None).await? {
            self.stop_pod(&pod.id)
                .await
                .with_context(|| format!("stopping the pod {}", pod.id))?;
            self.remove_pod(&pod.id)
                .await
                .with_context(|| format!("removing the pod {}", pod.id))?;
        }
        for container in self.containers(None).await? {
            self.remove(&container.id)
                .await
                .with_context(|| format!("removing the container {}", container.id))?;
        }
        for image in self.list_images().await? {
            self.remove_image(&image.id)
                .await
                .with_context(|| format!("removing the image {}", image.id))?;
        }
        Ok(())
    }
}

pub fn image_spec(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.to_owned(),
        ..Default::default()
    }
}

pub fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// A pod that runs, with the client that made it.
pub struct RunningPod {
    pub id: String,
    pub config: PodSandboxConfig,
    /// What its containers run.
    pub image: String,
    pub client: Client,
}

impl RunningPod {
    /// Creates and starts a container.
    pub async fn run(&self, config: &ContainerConfig) -> anyhow::Result<String> {
        Ok(self.client.run(&self.id, config, &self.config).await?)
    }

    pub async fn create(&self, config: &ContainerConfig) -> anyhow::Result<String> {
        Ok(self.client.create(&self.id, config, &self.config).await?)
    }

    /// Creates and starts a container that runs a shell script.
    pub async fn sh(&self, name: &str, script: &str) -> anyhow::Result<String> {
        self.run(&sh(name, &self.image, script)).await
    }

    /// Runs a container to its end.
    pub async fn ran(&self, config: &ContainerConfig) -> anyhow::Result<ContainerStatus> {
        let id = self.run(config).await?;
        self.client.exited(&id, Duration::from_secs(30)).await
    }

    /// Runs a shell script to its end.
    pub async fn ran_sh(&self, name: &str, script: &str) -> anyhow::Result<ContainerStatus> {
        self.ran(&sh(name, &self.image, script)).await
    }

    /// Stops and removes it.
    pub async fn remove(&self) -> anyhow::Result<()> {
        self.client.stop_pod(&self.id).await?;
        Ok(self.client.remove_pod(&self.id).await?)
    }
}

/// The code of a refusal; a success is a failure of the test.
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>) -> tonic::Code {
    match result {
        Ok(value) => panic!("this should have been refused, and gave {value:?}"),
        Err(status) => {
            assert!(!status.message().is_empty(), "a refusal without a word");
            status.code()
        }
    }
}
