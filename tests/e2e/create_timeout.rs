//! A runtime that hangs, dawdles, fails or babbles at create: the caller is told what happened in the runtime's own
//! words, nothing is left, and the same container can be created afterwards.

use std::time::{Duration, Instant};

use cri::v1::{
    CreateContainerRequest, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, RunPodSandboxRequest,
};
use e2e::{Node, eventually, refused, run_on, sh};
use tonic::Code;

run_on!(runc, crun:
    a_runtime_that_hangs_is_killed_and_nothing_is_left,
    a_runtime_that_succeeds_too_late_leaves_nothing,
    a_runtime_that_fails_is_quoted,
);
run_on!(runc:
    a_runtime_that_hangs_with_children_is_killed_with_them,
    a_runtime_that_fails_after_it_succeeded_leaves_nothing,
    a_runtime_that_prints_garbage_is_an_error,
    a_slow_creation_is_joined_by_a_retry,
    a_caller_that_gives_up_does_not_stop_the_creation,
    what_nobody_comes_back_for_is_listed_and_can_be_removed,
    a_runtime_that_hangs_at_start_is_given_up,
    a_delete_that_fails_once_is_tried_again,
    a_runtime_that_cannot_be_killed_is_told_and_removed_when_it_can,
);

/// Seconds.
const CREATE_TIMEOUT: u32 = 2;

/// Creates a container with a runtime that misbehaves at create, expects an error with all the words, nothing left, and
/// then the same container from the same runtime, well-behaved.
async fn fails_cleanly(node: &mut Node, misbehaviour: &str, words: &[&str]) -> anyhow::Result<()> {
    let body = format!("if [ $verb = create ] && [ -e $DIR/misbehave ]; then\n{misbehaviour}\nfi");
    node.wrap_runtime("odd", &body, CREATE_TIMEOUT).await?;
    let config = node.pod("unlucky");
    let pod = node.running("odd", config).await?;
    let before = node.snapshot();
    std::fs::write(node.path("misbehave"), "")?;
    let container = sh("c", &pod.image, "echo at last; exit 11");
    let started = Instant::now();
    let error = node.client.create(&pod.id, &container, &pod.config).await.unwrap_err();
    let took = started.elapsed();
    assert!(took < Duration::from_secs(u64::from(CREATE_TIMEOUT) + 8), "{took:?}");
    for word in words {
        assert!(
            error.message().contains(word),
            "{word:?} is not in {:?}",
            error.message()
        );
    }
    assert!(node.client.containers(None).await?.is_empty());
    // Waits for processes too: what is left of the runtime could make something yet.
    node.nothing_more_than(&before).await?;

    std::fs::remove_file(node.path("misbehave"))?;
    let id = node.client.run(&pod.id, &container, &pod.config).await?;
    assert_eq!(node.client.exited(&id, Duration::from_secs(20)).await?.exit_code, 11);
    assert_eq!(node.said("unlucky", "c", "stdout")?, "at last\n");
    Ok(())
}

async fn a_runtime_that_hangs_is_killed_and_nothing_is_left(node: &mut Node) -> anyhow::Result<()> {
    fails_cleanly(node, "echo 'waiting for the moon' >&2\nexec sleep 5555", &["2"]).await
}

async fn a_runtime_that_hangs_with_children_is_killed_with_them(node: &mut Node) -> anyhow::Result<()> {
    fails_cleanly(node, "trap '' TERM INT HUP\nsleep 5555 &\nsleep 5556", &["2"]).await
}

/// The old bug: a delete that comes before the create has done its work finds nothing, and what the create then makes
/// stays for ever.
async fn a_runtime_that_succeeds_too_late_leaves_nothing(node: &mut Node) -> anyhow::Result<()> {
    fails_cleanly(node, "trap '' TERM INT HUP\nsleep 4", &["2"]).await
}

async fn a_runtime_that_fails_is_quoted(node: &mut Node) -> anyhow::Result<()> {
    fails_cleanly(node, "echo 'no such luck today' >&2\nexit 3", &["no such luck today"]).await
}

async fn a_runtime_that_fails_after_it_succeeded_leaves_nothing(node: &mut Node) -> anyhow::Result<()> {
    fails_cleanly(
        node,
        "$REAL \"$@\"\necho 'second thoughts' >&2\nexit 1",
        &["second thoughts"],
    )
    .await
}

async fn a_runtime_that_prints_garbage_is_an_error(node: &mut Node) -> anyhow::Result<()> {
    fails_cleanly(
        node,
        "head -c 300000 /dev/urandom\nhead -c 300000 /dev/urandom >&2\nexit 0",
        &[],
    )
    .await
}

async fn a_slow_creation_is_joined_by_a_retry(node: &mut Node) -> anyhow::Result<()> {
    node.wrap_runtime("slow", "[ $verb = create ] && echo x >>$DIR/creates && sleep 1", 30)
        .await?;
    let config = node.pod("joined");
    let pod = node.running("slow", config).await?;
    let container = sh("c", &pod.image, "sleep 1000");
    let (one, two, three) = tokio::join!(
        node.client.create(&pod.id, &container, &pod.config),
        node.client.create(&pod.id, &container, &pod.config),
        async {
            eventually("the runtime is at work", || Ok(node.path("creates").exists())).await?;
            anyhow::Ok(node.client.create(&pod.id, &container, &pod.config).await?)
        },
    );
    let (one, two, three) = (one?, two?, three?);
    assert_eq!((&one, &one), (&two, &three));
    assert_eq!(
        std::fs::read_to_string(node.path("creates"))?,
        "x\n",
        "the runtime was asked once"
    );
    Ok(())
}

async fn a_caller_that_gives_up_does_not_stop_the_creation(node: &mut Node) -> anyhow::Result<()> {
    node.wrap_runtime("slow", "[ $verb = create ] && echo x >>$DIR/creates && sleep 1", 30)
        .await?;
    let config = node.pod("impatient");
    let pod = node.running("slow", config).await?;
    let container = sh("c", &pod.image, "sleep 1000");
    let mut request = tonic::Request::new(CreateContainerRequest {
        pod_sandbox_id: pod.id.clone(),
        config: Some(container.clone()),
        sandbox_config: Some(pod.config.clone()),
    });
    request.set_timeout(Duration::from_millis(300));
    let code = refused(node.client.runtime.clone().create_container(request).await);
    assert!([Code::DeadlineExceeded, Code::Cancelled].contains(&code), "{code:?}");
    assert!(
        node.client.containers(None).await?.is_empty(),
        "what is being made is not listed"
    );
    let id = node.client.create(&pod.id, &container, &pod.config).await?;
    assert_eq!(
        std::fs::read_to_string(node.path("creates"))?,
        "x\n",
        "the runtime was asked once"
    );
    node.client.start(&id).await?;
    Ok(())
}

async fn what_nobody_comes_back_for_is_listed_and_can_be_removed(node: &mut Node) -> anyhow::Result<()> {
    let image = node.busybox().await?;
    node.wrap_runtime("slow", "[ $verb = create ] && sleep 1", 30).await?;
    let before = node.snapshot();
    let given_up = [Code::DeadlineExceeded, Code::Cancelled];
    // A pod whose own process is slow to come.
    let mut config = node.host_network_pod("unclaimed");
    let shared = NamespaceOption {
        network: NamespaceMode::Node.into(),
        pid: NamespaceMode::Pod.into(),
        ..Default::default()
    };
    config.linux.get_or_insert_default().security_context = Some(LinuxSandboxSecurityContext {
        namespace_options: Some(shared),
        ..Default::default()
    });
    let mut request = tonic::Request::new(RunPodSandboxRequest {
        config: Some(config.clone()),
        runtime_handler: "slow".to_owned(),
    });
    request.set_timeout(Duration::from_millis(300));
    let code = refused(node.client.runtime.clone().run_pod_sandbox(request).await);
    assert!(given_up.contains(&code), "{code:?}");
    let pod = listed(async || Ok(node.client.pods(None).await?.pop().map(|pod| pod.id))).await?;

    let container = sh("unclaimed", &image, "sleep 1000");
    let mut request = tonic::Request::new(CreateContainerRequest {
        pod_sandbox_id: pod.clone(),
        config: Some(container.clone()),
        sandbox_config: Some(config.clone()),
    });
    request.set_timeout(Duration::from_millis(300));
    let code = refused(node.client.runtime.clone().create_container(request).await);
    assert!(given_up.contains(&code), "{code:?}");
    let id = listed(async || Ok(node.client.containers(None).await?.pop().map(|container| container.id))).await?;
    node.client.remove(&id).await?;
    let again = node.client.create(&pod, &container, &config).await?;
    assert_ne!(again, id, "its name was free again");
    node.client.remove_pod(&pod).await?;
    node.nothing_more_than(&before).await
}

/// The id of what is listed once its creation, which has no caller any more, is through.
async fn listed(look: impl AsyncFn() -> anyhow::Result<Option<String>>) -> anyhow::Result<String> {
    let started = Instant::now();
    loop {
        if let Some(id) = look().await? {
            return Ok(id);
        }
        anyhow::ensure!(started.elapsed() < Duration::from_secs(30), "it is never listed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn a_runtime_that_hangs_at_start_is_given_up(node: &mut Node) -> anyhow::Result<()> {
    node.wrap_runtime(
        "stuck",
        "[ $verb = start ] && [ -e $DIR/misbehave ] && exec sleep 5555",
        CREATE_TIMEOUT,
    )
    .await?;
    let config = node.pod("stuck");
    let pod = node.running("stuck", config).await?;
    let container = sh("c", &pod.image, "sleep 1000");
    let id = node.client.create(&pod.id, &container, &pod.config).await?;
    std::fs::write(node.path("misbehave"), "")?;
    let mut request = tonic::Request::new(cri::v1::StartContainerRequest {
        container_id: id.clone(),
    });
    request.set_timeout(Duration::from_secs(40));
    refused(node.client.runtime.clone().start_container(request).await);
    std::fs::remove_file(node.path("misbehave"))?;
    node.client.remove(&id).await?;
    assert_eq!(node.processes_with("sleep 5555"), [""; 0]);
    Ok(())
}

async fn a_delete_that_fails_once_is_tried_again(node: &mut Node) -> anyhow::Result<()> {
    let body = "if [ $verb = delete ] && [ -e $DIR/misbehave ]; then rm $DIR/misbehave; echo 'not now' >&2; exit 1; fi";
    node.wrap_runtime("moody", body, 30).await?;
    let config = node.pod("moody");
    let pod = node.running("moody", config).await?;
    let before = node.snapshot();
    let id = pod.sh("c", "sleep 1000").await?;
    std::fs::write(node.path("misbehave"), "")?;
    if node.client.remove(&id).await.is_err() {
        node.client.remove(&id).await?;
    }
    node.nothing_more_than(&before).await
}

/// A frozen cgroup of version 1, in which nothing dies, not even of SIGKILL: as near as one gets to uninterruptible sleep.
struct Ice(std::path::PathBuf);

impl Ice {
    /// `None` where there is no such controller.
    fn beside(node: &Node) -> Option<Self> {
        let root = std::path::Path::new("/sys/fs/cgroup/freezer");
        let path = root.join(format!("{}-ice", node.cgroup_parent.trim_start_matches('/')));
        root.join("cgroup.procs").exists().then(|| Ice(path))
    }

    fn turn(&self, state: &str) -> anyhow::Result<()> {
        std::fs::write(self.0.join("freezer.state"), state)?;
        Ok(())
    }
}

impl Drop for Ice {
    fn drop(&mut self) {
        let _ = self.turn("THAWED");
        let _ = std::fs::remove_dir(&self.0);
    }
}

async fn a_runtime_that_cannot_be_killed_is_told_and_removed_when_it_can(node: &mut Node) -> anyhow::Result<()> {
    let Some(ice) = Ice::beside(node) else {
        eprintln!("SKIPPED: no freezer of cgroup version 1, and in one of version 2 what is frozen can be killed");
        return Ok(());
    };
    std::fs::create_dir(&ice.0)?;
    let body = format!(
        "if [ $verb = create ] && [ -e $DIR/misbehave ]; then\n\
         echo $$ >{}/cgroup.procs; exec sleep 5555\nfi",
        ice.0.display()
    );
    node.wrap_runtime("frozen", &body, CREATE_TIMEOUT).await?;
    let config = node.pod("frozen");
    let (pod, other) = (
        node.running("frozen", config).await?,
        node.running_host_pod("other").await?,
    );
    let before = node.snapshot();
    std::fs::write(node.path("misbehave"), "")?;
    let container = sh("c", &pod.image, "echo at last; exit 11");
    let create = {
        let (client, id, container, config) = (
            pod.client.clone(),
            pod.id.clone(),
            container.clone(),
            pod.config.clone(),
        );
        async move { client.create(&id, &container, &config).await }
    };
    let started = Instant::now();
    let creation = tokio::spawn(create);
    // Not only on its way there: it is known by this name afterwards.
    eventually("the runtime is at work", || {
        Ok(node.processes_with("sleep 5555").len() == 1)
    })
    .await?;
    ice.turn("FROZEN")?;

    // Nobody else is held.
    assert_eq!(other.ran_sh("c", "exit 7").await?.exit_code, 7);
    let error = creation.await?.unwrap_err();
    assert!(error.message().contains("left behind: end processes"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    std::fs::remove_file(node.path("misbehave"))?;
    // The name is free although the runtime is still there.
    let id = node.client.run(&pod.id, &container, &pod.config).await?;
    assert_eq!(node.client.exited(&id, Duration::from_secs(20)).await?.exit_code, 11);
    node.client.remove(&id).await?;
    assert_eq!(node.processes_with("sleep 5555").len(), 1);

    ice.turn("THAWED")?;
    eventually("what is left is removed", || {
        Ok(node.log().contains("half-made object removed"))
    })
    .await?;
    other.remove().await?;
    node.nothing_more_than(&before).await
}
