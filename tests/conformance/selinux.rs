//! SELinux: eight ids in a confined pod, the same eight in a privileged one, and one with two pods side by side.

use std::path::Path;

use anyhow::{Context as _, ensure};
use cri::v1::*;
use e2e::RunningPod;

use crate::case::{Case, lacks, refused};

crate::specs!(
    selinux_01, selinux_02, selinux_03, selinux_04, selinux_05, selinux_06, selinux_07, selinux_08, selinux_09,
    selinux_10, selinux_11, selinux_12, selinux_13, selinux_14, selinux_15, selinux_16, selinux_17,
);

/// Where the kernel shows SELinux, while it is on.
const ENFORCE: &str = "/sys/fs/selinux/enforce";
/// Every category there is, which is as good as none.
const ALL_CATEGORIES: &str = "c0.c1023";

/// How a pod and its containers run.
#[derive(Clone, Copy, PartialEq)]
enum As {
    Confined,
    Privileged,
}
use As::{Confined, Privileged};

async fn pod(case: &Case<'_>, how: As) -> anyhow::Result<RunningPod> {
    if !Path::new(ENFORCE).exists() {
        return lacks("SELinux on this host");
    }
    let security = LinuxSandboxSecurityContext {
        privileged: how == Privileged,
        ..Default::default()
    };
    case.run(case.secured(case.pod(), security)).await
}

/// A container whose first process is its own.
fn asking(case: &Case<'_>, how: As, options: Option<SeLinuxOption>) -> ContainerConfig {
    let security = LinuxContainerSecurityContext {
        privileged: how == Privileged,
        selinux_options: options,
        namespace_options: Some(NamespaceOption {
            pid: NamespaceMode::Container.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    case.secure(&["sh", "-c", "top"], security)
}

fn level(level: &str) -> SeLinuxOption {
    SeLinuxOption {
        level: level.to_owned(),
        ..Default::default()
    }
}

fn all_options() -> SeLinuxOption {
    SeLinuxOption {
        user: "system_u".to_owned(),
        role: "system_r".to_owned(),
        r#type: "svirt_lxc_net_t".to_owned(),
        level: "s0:c4,c5".to_owned(),
    }
}

/// It starts, and may write where its image is.
async fn writes(case: &Case<'_>, how: As, options: SeLinuxOption) -> anyhow::Result<()> {
    let pod = pod(case, how).await?;
    let id = case.started(&pod, &asking(case, how, Some(options))).await?;
    case.output(&id, &["touch", "foo"]).await?;
    Ok(())
}

async fn is_refused(case: &Case<'_>, how: As) -> anyhow::Result<()> {
    let pod = pod(case, how).await?;
    let config = asking(case, how, Some(level("s0,c4,c5")));
    refused(case.try_create(&pod, &config).await?, "a level that is none")?;
    Ok(())
}

/// The label of the files that a container sees.
async fn file_label(case: &Case<'_>, how: As) -> anyhow::Result<String> {
    let pod = pod(case, how).await?;
    let id = case.started(&pod, &asking(case, how, None)).await?;
    let mounts = case.output(&id, &["cat", "/proc/1/mountinfo"]).await?;
    let label = mounts
        .split(",context=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    Ok(label
        .with_context(|| format!("no mount has a label: {mounts}"))?
        .to_owned())
}

async fn process_label(case: &Case<'_>, pod: &RunningPod, how: As) -> anyhow::Result<String> {
    let id = case.started(pod, &asking(case, how, None)).await?;
    let label = case.output(&id, &["cat", "/proc/self/attr/current"]).await?;
    Ok(label.trim_end_matches(['\0', '\n']).to_owned())
}

/// The part behind the sensitivity `s0`, with which every level begins.
fn categories(label: &str) -> anyhow::Result<&str> {
    let level = label.splitn(4, ':').nth(3);
    let level = level.with_context(|| format!("{label:?} has no level"))?;
    let categories = level.strip_prefix("s0");
    let categories = categories.with_context(|| format!("the level of {label:?} is not s0"))?;
    Ok(categories.trim_start_matches(':'))
}

fn ensure_two_categories(label: &str) -> anyhow::Result<()> {
    ensure!(
        categories(label)?.split(',').count() >= 2,
        "{label:?} has no two categories"
    );
    Ok(())
}

async fn file_type(case: &Case<'_>, how: As) -> anyhow::Result<()> {
    let label = file_label(case, how).await?;
    ensure!(label.contains(":object_r:container_file_t:"), "{label:?}");
    Ok(())
}

async fn file_categories(case: &Case<'_>, how: As) -> anyhow::Result<()> {
    ensure_two_categories(&file_label(case, how).await?)
}

async fn process_type(case: &Case<'_>, how: As) -> anyhow::Result<()> {
    let pod = pod(case, how).await?;
    let label = process_label(case, &pod, how).await?;
    let wanted = match how {
        Confined => ":system_r:container_t:",
        Privileged => ":system_r:spc_t:",
    };
    ensure!(label.contains(wanted), "{label:?}, not {wanted}");
    Ok(())
}

async fn process_categories(case: &Case<'_>, how: As) -> anyhow::Result<()> {
    let pod = pod(case, how).await?;
    let label = process_label(case, &pod, how).await?;
    match how {
        Confined => ensure_two_categories(&label),
        Privileged => {
            ensure!(["", ALL_CATEGORIES].contains(&categories(&label)?), "{label:?}");
            Ok(())
        }
    }
}

async fn shared(case: &Case<'_>, how: As) -> anyhow::Result<()> {
    let pod = pod(case, how).await?;
    let labels = (
        process_label(case, &pod, how).await?,
        process_label(case, &pod, how).await?,
    );
    ensure!(labels.0 == labels.1, "two containers of a pod have {labels:?}");
    Ok(())
}

async fn selinux_01(case: &Case<'_>) -> anyhow::Result<()> {
    writes(case, Confined, level("s0")).await
}

async fn selinux_02(case: &Case<'_>) -> anyhow::Result<()> {
    writes(case, Confined, all_options()).await
}

async fn selinux_03(case: &Case<'_>) -> anyhow::Result<()> {
    is_refused(case, Confined).await
}

async fn selinux_04(case: &Case<'_>) -> anyhow::Result<()> {
    file_type(case, Confined).await
}

async fn selinux_05(case: &Case<'_>) -> anyhow::Result<()> {
    file_categories(case, Confined).await
}

async fn selinux_06(case: &Case<'_>) -> anyhow::Result<()> {
    process_type(case, Confined).await
}

async fn selinux_07(case: &Case<'_>) -> anyhow::Result<()> {
    process_categories(case, Confined).await
}

async fn selinux_08(case: &Case<'_>) -> anyhow::Result<()> {
    shared(case, Confined).await
}

async fn selinux_09(case: &Case<'_>) -> anyhow::Result<()> {
    writes(case, Privileged, level("s0")).await
}

async fn selinux_10(case: &Case<'_>) -> anyhow::Result<()> {
    writes(case, Privileged, all_options()).await
}

async fn selinux_11(case: &Case<'_>) -> anyhow::Result<()> {
    is_refused(case, Privileged).await
}

async fn selinux_12(case: &Case<'_>) -> anyhow::Result<()> {
    file_type(case, Privileged).await
}

async fn selinux_13(case: &Case<'_>) -> anyhow::Result<()> {
    file_categories(case, Privileged).await
}

async fn selinux_14(case: &Case<'_>) -> anyhow::Result<()> {
    process_type(case, Privileged).await
}

async fn selinux_15(case: &Case<'_>) -> anyhow::Result<()> {
    process_categories(case, Privileged).await
}

async fn selinux_16(case: &Case<'_>) -> anyhow::Result<()> {
    shared(case, Privileged).await
}

/// Containers of two pods do not reach each other's files.
async fn selinux_17(case: &Case<'_>) -> anyhow::Result<()> {
    let pods = (pod(case, Confined).await?, pod(case, Confined).await?);
    let labels = (
        process_label(case, &pods.0, Confined).await?,
        process_label(case, &pods.1, Confined).await?,
    );
    ensure!(labels.0 != labels.1, "containers of two pods share {:?}", labels.0);
    Ok(())
}
