//! Pods: their life, what is kept of them, sysctls, and calls that are repeated.

use std::collections::HashMap;

use anyhow::ensure;
use cri::v1::*;
use e2e::client::labels;

use crate::case::Case;

crate::specs!(
    pod_01, pod_02, pod_03, pod_04, sysctl_01, sysctl_02, idem_01, idem_02, idem_03, idem_04, idem_05, idem_06,
    idem_07,
);

/// What nobody has ever made.
const UNKNOWN: &str = "0f0b3e1c-6ac9-4f2c-9a53-6fb4a6a36a11";

async fn state(case: &Case<'_>, id: &str) -> anyhow::Result<PodSandboxState> {
    Ok(case.client.pod_status(id).await?.state())
}

/// A pod is ready when RunPodSandbox returns.
async fn pod_01(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    ensure!(state(case, &pod.id).await? == PodSandboxState::SandboxReady);
    ensure!(case.lists_pod(&pod.id).await?);
    Ok(())
}

/// It is not ready when StopPodSandbox returns.
async fn pod_02(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    case.client.stop_pod(&pod.id).await?;
    ensure!(state(case, &pod.id).await? == PodSandboxState::SandboxNotready);
    Ok(())
}

/// It is not listed when RemovePodSandbox returns, and asking for it is no error.
async fn pod_03(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    pod.remove().await?;
    ensure!(!case.lists_pod(&pod.id).await?);
    Ok(())
}

fn has_all(found: &HashMap<String, String>, wanted: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| found.get(key) == Some(value))
}

/// Names, labels and annotations come back as they were given.
async fn pod_04(case: &Case<'_>) -> anyhow::Result<()> {
    let mut config = case.pod();
    config.labels = labels(&[
        ("foo", "bar"),
        ("io.kubernetes.pod.name", "name"),
        ("io.kubernetes.pod.namespace", "namespace"),
        ("io.kubernetes.pod.uid", "uid"),
    ]);
    config.annotations = labels(&[("abc", "def")]);
    let pod = case.run(config).await?;
    let status = case.client.pod_status(&pod.id).await?;
    ensure!(status.metadata == pod.config.metadata, "{:?}", status.metadata);
    ensure!(has_all(&status.labels, &pod.config.labels), "{:?}", status.labels);
    ensure!(
        has_all(&status.annotations, &pod.config.annotations),
        "{:?}",
        status.annotations
    );
    let filter = PodSandboxFilter {
        id: pod.id.clone(),
        ..Default::default()
    };
    let listed = case.client.pods(Some(filter)).await?;
    ensure!(listed.len() == 1, "{listed:?}");
    ensure!(listed[0].metadata == pod.config.metadata, "{listed:?}");
    ensure!(has_all(&listed[0].labels, &pod.config.labels), "{listed:?}");
    ensure!(has_all(&listed[0].annotations, &pod.config.annotations), "{listed:?}");
    Ok(())
}

/// A sysctl of the pod is seen by its containers.
async fn sysctl(case: &Case<'_>, name: &str, value: &str) -> anyhow::Result<()> {
    let mut config = case.pod();
    config.linux.get_or_insert_default().sysctls = labels(&[(name, value)]);
    let pod = case.run(config).await?;
    let id = case.started(&pod, &case.top()).await?;
    let file = format!("/proc/sys/{}", name.replace('.', "/"));
    let found = case.output(&id, &["cat", &file]).await?;
    ensure!(found.trim() == value, "{name} is {found}");
    Ok(())
}

/// A safe sysctl.
async fn sysctl_01(case: &Case<'_>) -> anyhow::Result<()> {
    sysctl(case, "kernel.shm_rmid_forced", "1").await
}

/// One that the kubelet would have to allow: the runtime does not refuse it.
async fn sysctl_02(case: &Case<'_>) -> anyhow::Result<()> {
    sysctl(case, "fs.mqueue.msg_max", "100").await
}

async fn idem_01(case: &Case<'_>) -> anyhow::Result<()> {
    Ok(case.client.stop_pod(UNKNOWN).await?)
}

async fn idem_02(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    for _ in 0..2 {
        case.client.stop_pod(&pod.id).await?;
        ensure!(state(case, &pod.id).await? == PodSandboxState::SandboxNotready);
    }
    Ok(case.client.remove_pod(&pod.id).await?)
}

async fn idem_03(case: &Case<'_>) -> anyhow::Result<()> {
    Ok(case.client.remove_pod(UNKNOWN).await?)
}

async fn idem_04(case: &Case<'_>) -> anyhow::Result<()> {
    Ok(case.client.stop(UNKNOWN, 0).await?)
}

async fn idem_05(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    let id = case.started(&pod, &case.top()).await?;
    case.stop(&id).await?;
    case.client.remove(&id).await?;
    Ok(case.client.remove(&id).await?)
}

async fn idem_06(case: &Case<'_>) -> anyhow::Result<()> {
    Ok(case.client.remove(UNKNOWN).await?)
}

async fn idem_07(case: &Case<'_>) -> anyhow::Result<()> {
    let id = "0".repeat(64);
    case.client.remove_image(&id).await?;
    Ok(case.client.remove_image(&id).await?)
}
