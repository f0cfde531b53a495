//! Logs, and an end for lack of memory.

use std::path::Path;

use anyhow::ensure;
use cri::v1::*;

use crate::case::{Case, EVENTUALLY, logged, until};

crate::specs!(log_01, log_02, oom_01);

/// All is in the log when the state is EXITED.
async fn log_01(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.run(case.logged_pod()?).await?;
    let status = case
        .ran(&pod, &logged(case.container(&["echo", "hello World"])))
        .await?;
    ensure!(case.said(&status.id, "stdout").await? == "hello World\n");
    Ok(())
}

fn lines(path: &Path) -> anyhow::Result<usize> {
    Ok(std::fs::read_to_string(path)?.lines().count())
}

/// A log that was moved away gets no more lines once it is opened anew, and the new one does.
async fn log_02(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.run(case.logged_pod()?).await?;
    let config = logged(case.container(&["sh", "-c", "while true; do echo hello World; sleep 1; done"]));
    let id = case.create(&pod, &config).await?;
    case.client.start(&id).await?;
    let path = Path::new(&pod.config.log_directory).join(&config.log_path);
    ensure!(path.exists(), "there is a log when StartContainer returns");
    until("it says something", async || Ok(lines(&path)? > 0)).await?;
    let aside = path.with_extension("log.new");
    std::fs::rename(&path, &aside)?;
    case.client.reopen_log(&id).await?;
    ensure!(path.exists(), "there is a new log when ReopenContainerLog returns");
    let count = lines(&aside)?;
    // As many lines as five seconds bring, in the new file alone.
    until("the new one has lines", async || Ok(lines(&path)? >= 5)).await?;
    ensure!(lines(&aside)? == count, "lines went into the file that was moved away");
    Ok(())
}

/// An end for lack of memory is said to be one.
async fn oom_01(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    let mut config = case.container(&["sh", "-c", "dd if=/dev/zero of=/dev/null bs=20M"]);
    config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
        memory_limit_in_bytes: 15 << 20,
        memory_swap_limit_in_bytes: 15 << 20,
        ..Default::default()
    });
    let id = case.create(&pod, &config).await?;
    case.client.status(&id).await?;
    case.client.start(&id).await?;
    let killed =
        |status: &ContainerStatus| status.state() == ContainerState::ContainerExited && status.reason == "OOMKilled";
    let status = case.client.until(&id, EVENTUALLY, killed).await?;
    ensure!(status.exit_code == 137, "{}", status.exit_code);
    Ok(())
}
