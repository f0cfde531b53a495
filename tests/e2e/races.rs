//! What comes in the middle of a creation that hangs: the removal of its pod, the death of the daemon, a terminal, and a
//! runtime that hangs once more when it is to clean up.

use std::time::{Duration, Instant};

use e2e::{Node, eventually, refused, run_on, sh};

run_on!(runc, crun:
    a_pod_is_removed_while_a_creation_in_it_hangs,
    a_terminal_whose_creation_hangs_leaves_nothing,
);
run_on!(runc:
    a_creation_that_hangs_over_the_death_of_the_manager_leaves_nothing,
    a_runtime_that_hangs_at_delete_too_leaves_nothing,
);

/// Seconds; longer than any test waits.
const NO_TIMEOUT: u32 = 600;

/// Hangs at create while the file `misbehave` is there, and says so by making the file `reached`.
const HANGS: &str = "if [ $verb = create ] && [ -e $DIR/misbehave ]; then touch $DIR/reached; exec sleep 5555; fi";

/// The same once the real runtime has made the container.
const HANGS_AFTERWARDS: &str =
    "if [ $verb = create ] && [ -e $DIR/misbehave ]; then $REAL \"$@\"; touch $DIR/reached; exec sleep 5555; fi";

async fn a_pod_is_removed_while_a_creation_in_it_hangs(node: &mut Node) -> anyhow::Result<()> {
    for (handler, body) in [("early", HANGS), ("late", HANGS_AFTERWARDS)] {
        node.wrap_runtime(handler, body, NO_TIMEOUT).await?;
        node.busybox().await?;
        let before = node.snapshot();
        let config = node.pod(handler);
        let pod = node.running(handler, config).await?;
        pod.sh("neighbour", "sleep 1000").await?;
        std::fs::write(node.path("misbehave"), "")?;
        let container = sh("c", &pod.image, "sleep 1000");
        let reached = async {
            eventually("the runtime is reached", || Ok(node.path("reached").exists())).await?;
            let started = Instant::now();
            node.client.remove_pod(&pod.id).await?;
            anyhow::Ok(started.elapsed())
        };
        let begun = Instant::now();
        let (created, took) = tokio::join!(node.client.create(&pod.id, &container, &pod.config), reached);
        let took = took?;
        refused(created);
        assert!(took < Duration::from_secs(40), "the removal took {took:?}");
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "both took {:?}",
            begun.elapsed()
        );
        assert!(node.client.pods(None).await?.is_empty());
        assert!(node.client.containers(None).await?.is_empty());
        node.nothing_more_than(&before).await?;
        std::fs::remove_file(node.path("misbehave"))?;
        std::fs::remove_file(node.path("reached"))?;
    }
    Ok(())
}

async fn a_creation_that_hangs_over_the_death_of_the_manager_leaves_nothing(node: &mut Node) -> anyhow::Result<()> {
    for (handler, body) in [("early", HANGS), ("late", HANGS_AFTERWARDS)] {
        node.wrap_runtime(handler, body, NO_TIMEOUT).await?;
        let config = node.pod(handler);
        let pod = node.running(handler, config).await?;
        let before = node.snapshot();
        std::fs::write(node.path("misbehave"), "")?;
        let container = sh("c", &pod.image, "exit 11");
        let creation = tokio::spawn({
            let (client, pod, container, config) = (
                node.client.clone(),
                pod.id.clone(),
                container.clone(),
                pod.config.clone(),
            );
            async move { client.create(&pod, &container, &config).await }
        });
        eventually("the runtime is reached", || Ok(node.path("reached").exists())).await?;
        node.kill9().await?;
        refused(creation.await?);
        node.restart().await?;
        assert!(node.client.containers(None).await?.is_empty());
        eventually("what hung is gone", || Ok(node.processes_with("sleep 5555").is_empty())).await?;
        node.nothing_more_than(&before).await?;

        std::fs::remove_file(node.path("misbehave"))?;
        std::fs::remove_file(node.path("reached"))?;
        let id = node.client.run(&pod.id, &container, &pod.config).await?;
        assert_eq!(node.client.exited(&id, Duration::from_secs(30)).await?.exit_code, 11);
        pod.remove().await?;
    }
    Ok(())
}

async fn a_terminal_whose_creation_hangs_leaves_nothing(node: &mut Node) -> anyhow::Result<()> {
    for (handler, body) in [("early", HANGS), ("late", HANGS_AFTERWARDS)] {
        node.wrap_runtime(handler, body, 2).await?;
        let config = node.pod(handler);
        let pod = node.running(handler, config).await?;
        let before = node.snapshot();
        std::fs::write(node.path("misbehave"), "")?;
        let mut container = sh("c", &pod.image, "tty; exit 11");
        container.tty = true;
        container.stdin = true;
        let started = Instant::now();
        refused(node.client.create(&pod.id, &container, &pod.config).await);
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        assert!(node.client.containers(None).await?.is_empty());
        node.nothing_more_than(&before).await?;

        std::fs::remove_file(node.path("misbehave"))?;
        let id = node.client.run(&pod.id, &container, &pod.config).await?;
        assert_eq!(node.client.exited(&id, Duration::from_secs(30)).await?.exit_code, 11);
        assert!(node.said(handler, "c", "stdout")?.starts_with("/dev/"));
        pod.remove().await?;
    }
    Ok(())
}

/// A delete has a minute. What the runtime would not forget by then is forgotten for it.
async fn a_runtime_that_hangs_at_delete_too_leaves_nothing(node: &mut Node) -> anyhow::Result<()> {
    let body = format!("{HANGS_AFTERWARDS}\n[ $verb = delete ] && [ -e $DIR/misbehave ] && sleep 5556");
    node.wrap_runtime("stubborn", &body, 2).await?;
    let config = node.pod("stubborn");
    let pod = node.running("stubborn", config).await?;
    let before = node.snapshot();
    std::fs::write(node.path("misbehave"), "")?;
    let container = sh("c", &pod.image, "exit 11");
    let started = Instant::now();
    let error = node.client.create(&pod.id, &container, &pod.config).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(100), "{:?}", started.elapsed());
    assert!(error.message().contains("not created within 2s"), "{}", error.message());
    assert!(
        node.log().contains("delete: no end after"),
        "the log tells of the other"
    );
    assert!(node.client.containers(None).await?.is_empty());
    node.nothing_more_than(&before).await?;

    std::fs::remove_file(node.path("misbehave"))?;
    let id = node.client.run(&pod.id, &container, &pod.config).await?;
    assert_eq!(node.client.exited(&id, Duration::from_secs(30)).await?.exit_code, 11);
    Ok(())
}
