//! Namespaces, user namespaces and seccomp.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context as _, ensure};
use cri::v1::NamespaceMode::{Container as OwnMode, Node as NodeMode, Pod as PodMode};
use cri::v1::security_profile::ProfileType;
use cri::v1::*;
use e2e::RunningPod;

use crate::case::{Case, lacks, logged, refused, until, with_security};
use crate::images::NGINX;

crate::specs!(
    sec_01, sec_02, sec_03, sec_04, sec_05, sec_06, sec_07, seccomp_01, seccomp_02, seccomp_03, seccomp_04, seccomp_05,
    seccomp_06, seccomp_07, userns_01, userns_02, userns_03, userns_04, userns_05, userns_06,
);

/// A pod and what its containers ask for, in these namespaces.
async fn in_namespaces(
    case: &Case<'_>,
    options: NamespaceOption,
) -> anyhow::Result<(RunningPod, LinuxContainerSecurityContext)> {
    let security = LinuxSandboxSecurityContext {
        namespace_options: Some(options.clone()),
        ..Default::default()
    };
    let config = PodSandboxConfig {
        dns_config: Some(DnsConfig::default()),
        ..case.secured(case.logged_pod()?, security)
    };
    let container = LinuxContainerSecurityContext {
        namespace_options: Some(options),
        ..Default::default()
    };
    Ok((case.run(config).await?, container))
}

fn modes(pid: NamespaceMode, ipc: NamespaceMode, network: NamespaceMode) -> NamespaceOption {
    NamespaceOption {
        pid: pid.into(),
        ipc: ipc.into(),
        network: network.into(),
        ..Default::default()
    }
}

/// With the host's processes, containers see each other's.
async fn sec_01(case: &Case<'_>) -> anyhow::Result<()> {
    let (pod, security) = in_namespaces(case, modes(NodeMode, PodMode, PodMode)).await?;
    let nginx = case
        .started(&pod, &with_security(case.of_image(NGINX), security.clone()))
        .await?;
    let wait = "until cat /var/run/nginx.pid 2>/dev/null; do :; done";
    let pid = case.output(&nginx, &["sh", "-c", wait]).await?.trim().to_owned();
    let other = case
        .started(&pod, &case.secure(&["sh", "-c", "sleep 1000"], security))
        .await?;
    let found = case.output(&other, &["pidof", "nginx", "||", "true"]).await?;
    ensure!(
        found.split_whitespace().any(|word| word == pid),
        "{pid} is not in {found}"
    );
    Ok(())
}

/// Whether a memory segment of the host's is seen in a container.
async fn sees_segment(case: &Case<'_>, ipc: NamespaceMode) -> anyhow::Result<bool> {
    let made = case.node.namespaces.run("ipcmk", &["-M", "1048576"])?;
    let segment = made.trim().rsplit(' ').next().context("ipcmk said nothing")?.to_owned();
    let result = async {
        let (pod, security) = in_namespaces(case, modes(PodMode, ipc, PodMode)).await?;
        let id = case.started(&pod, &case.secure(&["sh", "-c", "top"], security)).await?;
        let found = case.output(&id, &["ipcs", "-m"]).await?;
        Ok(found
            .lines()
            .any(|line| line.split_whitespace().nth(1) == Some(segment.as_str())))
    }
    .await;
    case.node.namespaces.run("ipcrm", &["-m", &segment])?;
    result
}

async fn sec_02(case: &Case<'_>) -> anyhow::Result<()> {
    ensure!(sees_segment(case, NodeMode).await?);
    Ok(())
}

async fn sec_03(case: &Case<'_>) -> anyhow::Result<()> {
    ensure!(!sees_segment(case, PodMode).await?);
    Ok(())
}

/// In the pod's process namespace the first process is the pod's.
async fn sec_04(case: &Case<'_>) -> anyhow::Result<()> {
    let (pod, security) = in_namespaces(case, modes(PodMode, PodMode, PodMode)).await?;
    let id = case
        .started(&pod, &with_security(case.of_image(NGINX), security))
        .await?;
    let found = case.output(&id, &["cat", "/proc/1/cmdline"]).await?;
    ensure!(!found.contains("master process"), "{found}");
    Ok(())
}

/// In its own, it is the container's.
async fn sec_05(case: &Case<'_>) -> anyhow::Result<()> {
    let (pod, security) = in_namespaces(case, modes(OwnMode, PodMode, PodMode)).await?;
    let id = case
        .started(&pod, &with_security(case.of_image(NGINX), security))
        .await?;
    until("the first process is the server", async || {
        Ok(case
            .output(&id, &["cat", "/proc/1/cmdline"])
            .await?
            .contains("master process"))
    })
    .await
}

/// What a container sees of a port of the node's: its log tells.
async fn sees_port(case: &Case<'_>, network: NamespaceMode) -> anyhow::Result<bool> {
    let listener = case
        .node
        .namespaces
        .listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let port = listener.local_addr()?.port();
    let (pod, security) = in_namespaces(case, modes(PodMode, PodMode, network)).await?;
    let status = case
        .ran(&pod, &logged(case.secure(&["sh", "-c", "netstat -ln"], security)))
        .await?;
    let found = case.said(&status.id, "stdout").await?;
    ensure!(found.contains("Active"), "netstat said {found:?}");
    Ok(found.contains(&format!(":{port}")))
}

async fn sec_06(case: &Case<'_>) -> anyhow::Result<()> {
    ensure!(sees_port(case, NodeMode).await?);
    Ok(())
}

async fn sec_07(case: &Case<'_>) -> anyhow::Result<()> {
    ensure!(!sees_port(case, PodMode).await?);
    Ok(())
}

// ---- seccomp

fn profile(kind: ProfileType, file: &Path) -> SecurityProfile {
    SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: file.display().to_string(),
    }
}

/// A profile that denies these calls alone.
fn denying(case: &Case<'_>, calls: &[&str]) -> anyhow::Result<SecurityProfile> {
    let file = case.directory("seccomp")?.join("profile.json");
    let profile_text = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": calls, "action": "SCMP_ACT_ERRNO" }],
    });
    std::fs::write(&file, profile_text.to_string())?;
    Ok(profile(ProfileType::Localhost, &file))
}

/// A container under a profile, in a pod under the same.
async fn confined(case: &Case<'_>, profile: Option<SecurityProfile>) -> anyhow::Result<String> {
    let of_pod = LinuxSandboxSecurityContext {
        seccomp: profile.clone(),
        ..Default::default()
    };
    let pod = case.run(case.secured(case.pod(), of_pod)).await?;
    let of_container = LinuxContainerSecurityContext {
        seccomp: profile,
        ..Default::default()
    };
    case.started(&pod, &case.secure(&["sh", "-c", "top"], of_container))
        .await
}

async fn mode_is(case: &Case<'_>, profile: Option<SecurityProfile>, wanted: &str) -> anyhow::Result<()> {
    let id = confined(case, profile).await?;
    let found = case.output(&id, &["grep", "Seccomp:", "/proc/self/status"]).await?;
    ensure!(found.contains(wanted), "{found}");
    Ok(())
}

async fn seccomp_01(case: &Case<'_>) -> anyhow::Result<()> {
    mode_is(case, Some(profile(ProfileType::Unconfined, Path::new(""))), "0").await
}

async fn seccomp_02(case: &Case<'_>) -> anyhow::Result<()> {
    let id = confined(case, Some(denying(case, &["chmod", "fchmodat", "fchmodat2"])?)).await?;
    let (code, _, stderr) = case.exec(&id, &["chmod", "400", "/"]).await?;
    ensure!(
        code != 0 && stderr.contains("Operation not permitted"),
        "{code}: {stderr}"
    );
    Ok(())
}

async fn seccomp_03(case: &Case<'_>) -> anyhow::Result<()> {
    mode_is(case, Some(SecurityProfile::default()), "2").await
}

/// No profile at all is no confinement.
async fn seccomp_04(case: &Case<'_>) -> anyhow::Result<()> {
    mode_is(case, None, "0").await
}

/// Whether a container with SYS_ADMIN and this profile may change its host name.
async fn renames(case: &Case<'_>, profile: SecurityProfile, privileged: bool) -> anyhow::Result<bool> {
    let of_pod = LinuxSandboxSecurityContext {
        seccomp: Some(profile.clone()),
        privileged,
        ..Default::default()
    };
    let pod = case.run(case.secured(case.pod(), of_pod)).await?;
    let of_container = LinuxContainerSecurityContext {
        seccomp: Some(profile),
        privileged,
        capabilities: Some(Capability {
            add_capabilities: vec!["SYS_ADMIN".to_owned()],
            ..Default::default()
        }),
        ..Default::default()
    };
    let id = case.started(&pod, &case.secure(&["sleep", "60"], of_container)).await?;
    Ok(case.exec(&id, &["hostname", "ANewHostName"]).await?.0 == 0)
}

async fn seccomp_05(case: &Case<'_>) -> anyhow::Result<()> {
    ensure!(renames(case, profile(ProfileType::Unconfined, Path::new("")), false).await?);
    Ok(())
}

async fn seccomp_06(case: &Case<'_>) -> anyhow::Result<()> {
    ensure!(!renames(case, denying(case, &["sethostname"])?, false).await?);
    Ok(())
}

/// Privilege ignores it.
async fn seccomp_07(case: &Case<'_>) -> anyhow::Result<()> {
    ensure!(renames(case, denying(case, &["sethostname"])?, true).await?);
    Ok(())
}

// ---- user namespaces

async fn needs_user_namespaces(case: &Case<'_>) -> anyhow::Result<()> {
    if case.features().await?.0.user_namespaces {
        return Ok(());
    }
    lacks("user namespaces in the handler's features")
}

fn users(mode: NamespaceMode, mappings: &[(u32, u32, u32)]) -> NamespaceOption {
    let mappings: Vec<IdMapping> = mappings
        .iter()
        .map(|&(container_id, host_id, length)| IdMapping {
            host_id,
            container_id,
            length,
        })
        .collect();
    NamespaceOption {
        userns_options: Some(UserNamespace {
            mode: mode.into(),
            uids: mappings.clone(),
            gids: mappings,
        }),
        ..Default::default()
    }
}

async fn map_of_users(case: &Case<'_>, options: NamespaceOption) -> anyhow::Result<String> {
    let (pod, security) = in_namespaces(case, options).await?;
    let status = case
        .ran(&pod, &logged(case.secure(&["cat", "/proc/self/uid_map"], security)))
        .await?;
    case.said(&status.id, "stdout").await
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

async fn userns_01(case: &Case<'_>) -> anyhow::Result<()> {
    needs_user_namespaces(case).await?;
    let map = map_of_users(case, users(PodMode, &[(0, 1000, 100_000)])).await?;
    ensure!(words(&map) == ["0", "1000", "100000"], "{map}");
    Ok(())
}

async fn userns_02(case: &Case<'_>) -> anyhow::Result<()> {
    needs_user_namespaces(case).await?;
    let map = map_of_users(case, users(NodeMode, &[])).await?;
    let own = std::fs::read_to_string("/proc/self/uid_map")?;
    ensure!(words(&map) == words(&own), "{map} is not {own}");
    Ok(())
}

async fn refuses_users(case: &Case<'_>, options: NamespaceOption) -> anyhow::Result<()> {
    needs_user_namespaces(case).await?;
    let security = LinuxSandboxSecurityContext {
        namespace_options: Some(options),
        ..Default::default()
    };
    let config = case.secured(case.pod(), security);
    refused(case.client.run_pod(&config).await, "the pod")?;
    let left = case.client.pods(None).await?;
    ensure!(!left.iter().any(|pod| pod.metadata == config.metadata), "a pod is left");
    Ok(())
}

async fn userns_03(case: &Case<'_>) -> anyhow::Result<()> {
    refuses_users(case, users(PodMode, &[(0, 1000, 100_000), (0, 1000, 100_000)])).await
}

async fn userns_04(case: &Case<'_>) -> anyhow::Result<()> {
    refuses_users(case, users(PodMode, &[(1, 1000, 100_000)])).await
}

async fn userns_05(case: &Case<'_>) -> anyhow::Result<()> {
    refuses_users(case, users(OwnMode, &[(0, 1000, 100_000)])).await
}

async fn userns_06(case: &Case<'_>) -> anyhow::Result<()> {
    refuses_users(case, users(NamespaceMode::Target, &[(0, 1000, 100_000)])).await
}
