//! What one spec works with: a node that it shares with others, and the routines that all of them are made of.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use cri::v1::*;
use e2e::{Client, Node, RunningPod};

use crate::images::BUSYBOX;

/// How long the suite waits for what will be.
pub const EVENTUALLY: Duration = Duration::from_secs(60);
/// A stop that takes longer has failed.
const STOP_LIMIT: Duration = Duration::from_secs(60);
const STOP_GRACE: i64 = 60;
const EXEC_LIMIT: i64 = 30;

/// One spec on the node of the suite.
pub struct Case<'a> {
    pub node: &'a Node,
    pub client: Client,
    /// The reference by digest of an index.
    pub by_digest: &'a str,
    id: &'a str,
    made: RefCell<Vec<String>>,
    named: Cell<u32>,
}

/// A spec that cannot be run here, and what for.
#[derive(Debug)]
pub struct Lacks(pub String);

impl std::fmt::Display for Lacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Lacks {}

/// Ends a spec that cannot be run here.
pub fn lacks<T>(what: impl Into<String>) -> anyhow::Result<T> {
    Err(Lacks(what.into()).into())
}

impl<'a> Case<'a> {
    pub fn new(node: &'a Node, by_digest: &'a str, id: &'a str) -> Self {
        Case {
            node,
            client: node.client.clone(),
            by_digest,
            id,
            made: RefCell::default(),
            named: Cell::default(),
        }
    }

    /// A name that nobody else has.
    pub fn name(&self, prefix: &str) -> String {
        self.named.set(self.named.get() + 1);
        format!("{prefix}-{}-{}", self.id, self.named.get())
    }

    /// A directory of this spec's own, which exists.
    pub fn directory(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.node.path("conformance").join(self.id).join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// The pod that most specs run: nothing but names and a cgroup parent.
    pub fn pod(&self) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: self.name("pod"),
                uid: self.name("uid"),
                namespace: self.name("namespace"),
                attempt: 2,
            }),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.node.cgroup_parent.clone(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// The same with logs.
    pub fn logged_pod(&self) -> anyhow::Result<PodSandboxConfig> {
        let logs = self.directory(&self.name("logs"))?;
        Ok(PodSandboxConfig {
            log_directory: logs.display().to_string(),
            ..self.pod()
        })
    }

    /// The same pod with a security context.
    pub fn secured(&self, mut pod: PodSandboxConfig, security: LinuxSandboxSecurityContext) -> PodSandboxConfig {
        if let Some(linux) = &mut pod.linux {
            linux.security_context = Some(security);
        }
        pod
    }

    /// The pod, and whatever is in it, is stopped and removed when the spec is through.
    pub async fn run(&self, config: PodSandboxConfig) -> anyhow::Result<RunningPod> {
        let id = self.client.run_pod(&config).await.context("RunPodSandbox")?;
        self.made.borrow_mut().push(id.clone());
        Ok(RunningPod {
            id,
            config,
            image: BUSYBOX.to_owned(),
            client: self.client.clone(),
        })
    }

    pub async fn default_pod(&self) -> anyhow::Result<RunningPod> {
        self.run(self.pod()).await
    }

    /// The container that most specs run, with another command.
    pub fn container(&self, command: &[&str]) -> ContainerConfig {
        ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: self.name("container"),
                attempt: 2,
            }),
            image: Some(e2e::client::image_spec(BUSYBOX)),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            linux: Some(LinuxContainerConfig::default()),
            ..Default::default()
        }
    }

    pub fn top(&self) -> ContainerConfig {
        self.container(&["top"])
    }

    pub fn pause(&self) -> ContainerConfig {
        self.container(&["sh", "-c", "top"])
    }

    /// A container of another image, with its own command.
    pub fn of_image(&self, image: &str) -> ContainerConfig {
        ContainerConfig {
            image: Some(e2e::client::image_spec(image)),
            ..self.container(&[])
        }
    }

    /// A container that does as its security context says.
    pub fn secure(&self, command: &[&str], security: LinuxContainerSecurityContext) -> ContainerConfig {
        with_security(self.container(command), security)
    }

    /// Pulls what is not there, as the kubelet does, and creates.
    pub async fn try_create(
        &self,
        pod: &RunningPod,
        config: &ContainerConfig,
    ) -> anyhow::Result<Result<String, tonic::Status>> {
        let mut config = config.clone();
        let image = config.image.as_mut().context("a container has an image")?;
        if self.client.image(&image.image).await?.is_none() {
            let wanted = image.image.clone();
            self.client
                .pull(&wanted)
                .await
                .with_context(|| format!("pulling {wanted}"))?;
        }
        if image.user_specified_image.is_empty() {
            image.user_specified_image = image.image.clone();
        }
        Ok(self.client.create(&pod.id, &config, &pod.config).await)
    }

    pub async fn create(&self, pod: &RunningPod, config: &ContainerConfig) -> anyhow::Result<String> {
        self.try_create(pod, config).await?.context("CreateContainer")
    }

    /// Starts it and sees it run.
    pub async fn start(&self, id: &str) -> anyhow::Result<()> {
        self.client.start(id).await.context("StartContainer")?;
        let runs = |status: &ContainerStatus| status.state() == ContainerState::ContainerRunning;
        self.client.until(id, EVENTUALLY, runs).await?;
        Ok(())
    }

    /// Creates it, starts it, and sees it run.
    pub async fn started(&self, pod: &RunningPod, config: &ContainerConfig) -> anyhow::Result<String> {
        let id = self.create(pod, config).await?;
        self.start(&id).await?;
        Ok(id)
    }

    /// Creates it, starts it, and sees it end.
    pub async fn ran(&self, pod: &RunningPod, config: &ContainerConfig) -> anyhow::Result<ContainerStatus> {
        let id = self.create(pod, config).await?;
        self.client.start(&id).await.context("StartContainer")?;
        self.client.exited(&id, EVENTUALLY).await
    }

    /// Stops it and sees it stopped.
    pub async fn stop(&self, id: &str) -> anyhow::Result<()> {
        let stopped = tokio::time::timeout(STOP_LIMIT, self.client.stop(id, STOP_GRACE)).await;
        stopped.context("StopContainer takes its whole time")??;
        self.client.exited(id, EVENTUALLY).await?;
        Ok(())
    }

    pub async fn exec(&self, id: &str, command: &[&str]) -> anyhow::Result<(i32, String, String)> {
        let answer = self.client.exec(id, command, EXEC_LIMIT).await.context("ExecSync")?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((answer.exit_code, text(answer.stdout), text(answer.stderr)))
    }

    /// What a command prints that succeeds and complains of nothing.
    pub async fn output(&self, id: &str, command: &[&str]) -> anyhow::Result<String> {
        let (code, stdout, stderr) = self.exec(id, command).await?;
        ensure!(
            code == 0 && stderr.is_empty(),
            "{command:?} ended with {code}, said {stdout:?} and complained {stderr:?}"
        );
        Ok(stdout)
    }

    /// Whether a container is in the list of all with its id.
    pub async fn lists(&self, id: &str) -> anyhow::Result<bool> {
        let filter = ContainerFilter {
            id: id.to_owned(),
            ..Default::default()
        };
        let found = self.client.containers(Some(filter)).await?;
        Ok(found.iter().any(|container| container.id == id))
    }

    /// The same of a pod.
    pub async fn lists_pod(&self, id: &str) -> anyhow::Result<bool> {
        let filter = PodSandboxFilter {
            id: id.to_owned(),
            ..Default::default()
        };
        let found = self.client.pods(Some(filter)).await?;
        Ok(found.iter().any(|pod| pod.id == id))
    }

    /// What a container has said on a stream.
    pub async fn said(&self, id: &str, stream: &str) -> anyhow::Result<String> {
        let path = self.client.status(id).await?.log_path;
        let log = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        e2e::node::payload(&log, stream)
    }

    /// What the node can, by its own word.
    pub async fn features(&self) -> anyhow::Result<(RuntimeHandlerFeatures, RuntimeFeatures)> {
        let status = self.client.node_status().await?;
        let handlers = status.runtime_handlers.into_iter();
        let default = handlers
            .filter(|handler| handler.name.is_empty())
            .find_map(|handler| handler.features);
        Ok((default.unwrap_or_default(), status.features.unwrap_or_default()))
    }

    /// Stops and removes the pods that the spec has made, with what is in them.
    pub async fn clean_up(&self) -> anyhow::Result<()> {
        for id in self.made.take() {
            self.client.stop_pod(&id).await.context("StopPodSandbox at the end")?;
            self.client
                .remove_pod(&id)
                .await
                .context("RemovePodSandbox at the end")?;
        }
        Ok(())
    }
}

/// Gives a container its log, named after it.
pub fn logged(mut config: ContainerConfig) -> ContainerConfig {
    let name = config
        .metadata
        .as_ref()
        .map(|metadata| metadata.name.clone())
        .unwrap_or_default();
    config.log_path = format!("{name}.log");
    config
}

pub fn with_security(mut config: ContainerConfig, security: LinuxContainerSecurityContext) -> ContainerConfig {
    config.linux.get_or_insert_default().security_context = Some(security);
    config
}

/// Waits until a container's log, or whatever else is looked at over CRI, is as wanted.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let started = std::time::Instant::now();
    while !is_so().await? {
        ensure!(started.elapsed() < EVENTUALLY, "after {EVENTUALLY:?} still not: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Requires that something is refused; gives the words.
pub fn refused<T>(result: Result<T, tonic::Status>, what: &str) -> anyhow::Result<tonic::Status> {
    match result {
        Ok(_) => anyhow::bail!("{what} was not refused"),
        Err(status) => Ok(status),
    }
}
