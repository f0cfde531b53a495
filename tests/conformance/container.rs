//! Containers: their life, commands in them, statistics, and several in one pod.

use anyhow::{Context as _, ensure};
use cri::v1::*;
use e2e::RunningPod;
use e2e::client::labels;

use crate::case::{Case, logged, until};
use crate::images::HTTPD;
use crate::network::{address, answers};

crate::specs!(
    ctr_01, ctr_02, ctr_03, ctr_04, ctr_05, ctr_06, ctr_07, exec_01, exec_02, stats_01, stats_02, stats_03, stats_04,
    stats_05, multi_01, multi_02, multi_03,
);

/// A container that was never started is listed, and goes with its pod.
async fn ctr_01(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    let id = case.create(&pod, &case.top()).await?;
    ensure!(case.lists(&id).await?);
    Ok(())
}

/// Names, labels and annotations come back as they were given.
async fn ctr_02(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    let config = ContainerConfig {
        linux: None,
        labels: labels(&[
            ("foo", "bar"),
            ("io.kubernetes.container.name", "container"),
            ("io.kubernetes.pod.name", "name"),
            ("io.kubernetes.pod.namespace", "namespace"),
            ("io.kubernetes.pod.uid", "uid"),
        ]),
        annotations: labels(&[("abc", "def")]),
        ..case.container(&[])
    };
    let id = case.create(&pod, &config).await?;
    let status = case.client.status(&id).await?;
    ensure!(
        (&status.metadata, &status.labels, &status.annotations)
            == (&config.metadata, &config.labels, &config.annotations),
        "{status:?}"
    );
    let filter = ContainerFilter {
        id: id.clone(),
        ..Default::default()
    };
    let listed = case.client.containers(Some(filter)).await?;
    ensure!(listed.len() == 1, "{listed:?}");
    ensure!(
        (&listed[0].metadata, &listed[0].labels, &listed[0].annotations)
            == (&config.metadata, &config.labels, &config.annotations),
        "{listed:?}"
    );
    Ok(())
}

async fn ctr_03(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    case.started(&pod, &case.top()).await?;
    Ok(())
}

async fn ctr_04(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    let id = case.started(&pod, &case.top()).await?;
    case.stop(&id).await
}

/// Removing what was created.
async fn ctr_05(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    let id = case.create(&pod, &case.pause()).await?;
    case.client.remove(&id).await?;
    ensure!(!case.lists(&id).await?);
    Ok(())
}

/// Removing what runs.
async fn ctr_06(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    let id = case.started(&pod, &case.pause()).await?;
    case.client.remove(&id).await?;
    ensure!(!case.lists(&id).await?);
    Ok(())
}

/// Removing what was stopped.
async fn ctr_07(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    let id = case.started(&pod, &case.pause()).await?;
    case.stop(&id).await?;
    case.client.remove(&id).await?;
    ensure!(!case.lists(&id).await?);
    Ok(())
}

async fn exec_01(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    let id = case.started(&pod, &case.top()).await?;
    ensure!(case.output(&id, &["echo", "-n", "hello"]).await? == "hello");
    Ok(())
}

/// A command that ran out of time is dead when the call returns.
async fn exec_02(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    let id = case.started(&pod, &case.top()).await?;
    // The field's client takes a refusal and an exit code for the same.
    let timed_out = case.client.exec(&id, &["sleep", "4321"], 1).await;
    ensure!(
        !timed_out.is_ok_and(|answer| answer.exit_code == 0),
        "it is said to have succeeded"
    );
    let found = case.output(&id, &["sh", "-c", "pgrep sleep || true"]).await?;
    ensure!(found.is_empty(), "still running: {found}");
    Ok(())
}

async fn stats(case: &Case<'_>, filter: Option<ContainerStatsFilter>) -> anyhow::Result<Vec<String>> {
    let request = ListContainerStatsRequest { filter };
    let answer = case
        .client
        .runtime
        .clone()
        .list_container_stats(request)
        .await?
        .into_inner();
    let ids = answer.stats.into_iter().filter_map(|stats| Some(stats.attributes?.id));
    Ok(ids.collect())
}

async fn stats_01(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    let mut config = case.top();
    let name = case.name("container-for-stats");
    config.metadata.get_or_insert_default().name = name.clone();
    let id = case.started(&pod, &config).await?;
    let request = ContainerStatsRequest {
        container_id: id.clone(),
    };
    let answer = case.client.runtime.clone().container_stats(request).await?.into_inner();
    let stats = answer.stats.context("no statistics")?;
    let attributes = stats.attributes.context("no attributes")?;
    ensure!(attributes.id == id);
    ensure!(attributes.metadata.unwrap_or_default().name == name);
    ensure!(stats.cpu.is_some_and(|cpu| cpu.timestamp != 0), "no time of the CPU's");
    ensure!(
        stats.memory.is_some_and(|memory| memory.timestamp != 0),
        "no time of the memory's"
    );
    Ok(())
}

async fn stats_02(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    let id = case.started(&pod, &case.top()).await?;
    let filter = ContainerStatsFilter {
        id: id.clone(),
        ..Default::default()
    };
    ensure!(stats(case, Some(filter)).await?.contains(&id));
    Ok(())
}

async fn stats_03(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    let id = case.started(&pod, &case.top()).await?;
    ensure!(stats(case, None).await?.contains(&id));
    Ok(())
}

async fn stats_04(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(case.started(&pod, &case.top()).await?);
    }
    let found = stats(case, None).await?;
    ensure!(
        ids.iter().all(|id| found.contains(id)),
        "{ids:?} are not all in {found:?}"
    );
    Ok(())
}

async fn stats_05(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    let config = ContainerConfig {
        labels: labels(&[("foo", "bar")]),
        ..case.top()
    };
    let id = case.started(&pod, &config).await?;
    for (value, wanted) in [("bar", true), ("baz", false)] {
        let filter = ContainerStatsFilter {
            label_selector: labels(&[("foo", value)]),
            ..Default::default()
        };
        ensure!(stats(case, Some(filter)).await?.contains(&id) == wanted, "foo={value}");
    }
    Ok(())
}

/// A pod with a web server and a shell in it, by their ids.
async fn two(case: &Case<'_>) -> anyhow::Result<(RunningPod, String, String)> {
    let config = PodSandboxConfig {
        port_mappings: vec![PortMapping {
            container_port: 80,
            ..Default::default()
        }],
        ..case.logged_pod()?
    };
    let pod = case.run(config).await?;
    let httpd = case.started(&pod, &logged(case.of_image(HTTPD))).await?;
    let shell = logged(case.container(&["sh", "-c", "echo hello World; sleep 1000"]));
    let shell = case.started(&pod, &shell).await?;
    Ok((pod, httpd, shell))
}

async fn multi_01(case: &Case<'_>) -> anyhow::Result<()> {
    let (pod, ..) = two(case).await?;
    answers(case, &format!("{}:80", address(case, &pod).await?)).await
}

async fn multi_02(case: &Case<'_>) -> anyhow::Result<()> {
    let (pod, httpd, shell) = two(case).await?;
    for (id, stream, word) in [(&httpd, "stderr", "httpd"), (&shell, "stdout", "hello World")] {
        let path = case.client.status(id).await?.log_path;
        ensure!(path.starts_with(&pod.config.log_directory), "{path}");
        until("it is in the log", async || {
            Ok(case.said(id, stream).await?.contains(word))
        })
        .await?;
    }
    Ok(())
}

async fn multi_03(case: &Case<'_>) -> anyhow::Result<()> {
    let (_, httpd, shell) = two(case).await?;
    ensure!(case.output(&httpd, &["echo", "httpd"]).await? == "httpd\n");
    ensure!(case.output(&shell, &["echo", "busybox"]).await? == "busybox\n");
    Ok(())
}
