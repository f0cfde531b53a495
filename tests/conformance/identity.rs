//! Who a container's processes are and what they may: users, groups, capabilities, privilege, hidden paths.

use anyhow::ensure;
use cri::v1::*;

use crate::case::{Case, EVENTUALLY, lacks, logged, refused};
use crate::images::{NO_NEW_PRIVILEGES, PREDEFINED_GROUP};

crate::specs!(
    sec_08, sec_09, sec_10, sec_11, sec_12, sec_13, sec_14, sec_15, sec_16, sec_17, sec_18, sec_19, sec_20, sec_21,
    sec_22, sec_23, sec_24, nnp_01, nnp_02,
);

type Security = LinuxContainerSecurityContext;

fn number(value: i64) -> Option<Int64Value> {
    Some(Int64Value { value })
}

/// A container that runs under this security context.
async fn running(case: &Case<'_>, security: Security) -> anyhow::Result<String> {
    let pod = case.default_pod().await?;
    case.started(&pod, &case.secure(&["sh", "-c", "top"], security)).await
}

/// What a script under this security context says on a stream, in a container of its own.
async fn said(case: &Case<'_>, script: &str, security: Security, stream: &str) -> anyhow::Result<String> {
    let pod = case.run(case.logged_pod()?).await?;
    let status = case
        .ran(&pod, &logged(case.secure(&["sh", "-c", script], security)))
        .await?;
    case.said(&status.id, stream).await
}

async fn sec_08(case: &Case<'_>) -> anyhow::Result<()> {
    let security = Security {
        supplemental_groups: vec![1234, 5678],
        ..Default::default()
    };
    let id = running(case, security).await?;
    let groups = case.output(&id, &["id", "-G"]).await?;
    for wanted in ["1234", "5678"] {
        ensure!(groups.split_whitespace().any(|group| group == wanted), "{groups}");
    }
    Ok(())
}

async fn sec_09(case: &Case<'_>) -> anyhow::Result<()> {
    let security = Security {
        run_as_user: number(1001),
        ..Default::default()
    };
    let id = running(case, security).await?;
    let found = case.output(&id, &["id", "-u"]).await?;
    ensure!(found == "1001\n", "{found}");
    Ok(())
}

async fn sec_10(case: &Case<'_>) -> anyhow::Result<()> {
    let security = Security {
        run_as_username: "nobody".to_owned(),
        ..Default::default()
    };
    let id = running(case, security).await?;
    let found = case.output(&id, &["id", "-nu"]).await?;
    ensure!(found == "nobody\n", "{found}");
    Ok(())
}

async fn sec_11(case: &Case<'_>) -> anyhow::Result<()> {
    let security = Security {
        run_as_user: number(1001),
        run_as_group: number(1002),
        ..Default::default()
    };
    let found = said(case, "echo $(id -u):$(id -g)", security, "stdout").await?;
    ensure!(found == "1001:1002\n", "{found}");
    Ok(())
}

/// A group without a user.
async fn sec_12(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    let security = Security {
        run_as_group: number(1002),
        ..Default::default()
    };
    let tried = case
        .try_create(&pod, &case.secure(&["sh", "-c", "top"], security))
        .await?;
    refused(tried, "a group without a user")?;
    Ok(())
}

const TOUCH: &str = "touch test.go && [ -f test.go ] && echo 'Found'";

async fn sec_13(case: &Case<'_>) -> anyhow::Result<()> {
    let found = said(case, TOUCH, Security::default(), "stdout").await?;
    ensure!(found == "Found\n", "{found}");
    Ok(())
}

async fn sec_14(case: &Case<'_>) -> anyhow::Result<()> {
    let security = Security {
        readonly_rootfs: true,
        ..Default::default()
    };
    let found = said(case, TOUCH, security, "stderr").await?;
    ensure!(found == "touch: test.go: Read-only file system\n", "{found}");
    Ok(())
}

/// Whether a bridge can be made with this privilege.
async fn makes_a_bridge(case: &Case<'_>, privileged: bool) -> anyhow::Result<bool> {
    let of_pod = LinuxSandboxSecurityContext {
        privileged,
        ..Default::default()
    };
    let pod = case.run(case.secured(case.pod(), of_pod)).await?;
    let security = Security {
        privileged,
        ..Default::default()
    };
    let id = case.started(&pod, &case.secure(&["sh", "-c", "top"], security)).await?;
    Ok(case.exec(&id, &["brctl", "addbr", "foobar"]).await?.0 == 0)
}

async fn sec_15(case: &Case<'_>) -> anyhow::Result<()> {
    ensure!(makes_a_bridge(case, true).await?);
    Ok(())
}

async fn sec_16(case: &Case<'_>) -> anyhow::Result<()> {
    ensure!(!makes_a_bridge(case, false).await?);
    Ok(())
}

fn capabilities(add: &[&str], drop: &[&str]) -> Security {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Security {
        capabilities: Some(Capability {
            add_capabilities: owned(add),
            drop_capabilities: owned(drop),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A capability is one container's, not its pod's.
async fn sec_17(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    let id = case
        .started(&pod, &case.secure(&["top"], capabilities(&["NET_ADMIN"], &[])))
        .await?;
    case.output(&id, &["brctl", "addbr", "foobar"]).await?;
    let other = case.started(&pod, &case.top()).await?;
    ensure!(case.exec(&other, &["brctl", "addbr", "other"]).await?.0 != 0);
    Ok(())
}

async fn sec_18(case: &Case<'_>) -> anyhow::Result<()> {
    let id = running(case, capabilities(&[], &["NET_RAW"])).await?;
    let (code, stdout, stderr) = case.exec(&id, &["ping", "127.0.0.1"]).await?;
    ensure!(
        code != 0 && !stdout.is_empty() && stderr.contains("permission denied"),
        "{code}: {stdout:?} {stderr:?}"
    );
    Ok(())
}

async fn bounding(case: &Case<'_>, security: Security) -> anyhow::Result<u64> {
    let id = running(case, security).await?;
    let found = case.output(&id, &["grep", "CapBnd:", "/proc/self/status"]).await?;
    Ok(u64::from_str_radix(found.trim_start_matches("CapBnd:").trim(), 16)?)
}

async fn sec_19(case: &Case<'_>) -> anyhow::Result<()> {
    ensure!(bounding(case, capabilities(&["ALL"], &[])).await? != 0);
    Ok(())
}

async fn sec_20(case: &Case<'_>) -> anyhow::Result<()> {
    ensure!(bounding(case, capabilities(&[], &["ALL"])).await? == 0);
    Ok(())
}

async fn sec_21(case: &Case<'_>) -> anyhow::Result<()> {
    let security = Security {
        masked_paths: vec!["/bin/ls".to_owned()],
        ..Default::default()
    };
    let id = running(case, security).await?;
    let (code, _, stderr) = case.exec(&id, &["/bin/sh", "-c", "ls"]).await?;
    ensure!(
        code != 0 && stderr == "/bin/sh: ls: Permission denied\n",
        "{code}: {stderr:?}"
    );
    Ok(())
}

async fn sec_22(case: &Case<'_>) -> anyhow::Result<()> {
    let security = Security {
        readonly_paths: vec!["/tmp".to_owned()],
        ..Default::default()
    };
    let id = running(case, security).await?;
    let (code, _, stderr) = case.exec(&id, &["touch", "/tmp/test"]).await?;
    ensure!(
        code != 0 && stderr == "touch: /tmp/test: Read-only file system\n",
        "{code}: {stderr:?}"
    );
    Ok(())
}

/// The groups of a user whom the image knows, under a policy.
async fn groups(case: &Case<'_>, policy: SupplementalGroupsPolicy, wanted: &[i64]) -> anyhow::Result<()> {
    if !case.features().await?.1.supplemental_groups_policy {
        return lacks("policies for supplemental groups in the product");
    }
    let pod = case.run(case.logged_pod()?).await?;
    let security = Security {
        run_as_user: number(1000),
        supplemental_groups: vec![1234],
        supplemental_groups_policy: policy.into(),
        ..Default::default()
    };
    let config = ContainerConfig {
        image: Some(e2e::client::image_spec(PREDEFINED_GROUP)),
        ..logged(case.secure(&["sh", "-c", "id -G; sleep infinity"], security))
    };
    let id = case.started(&pod, &config).await?;
    let user = ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: 1000,
            gid: 1000,
            supplemental_groups: wanted.to_vec(),
        }),
    };
    case.client
        .until(&id, EVENTUALLY, |status| status.user.as_ref() == Some(&user))
        .await?;
    let line = wanted.iter().map(i64::to_string).collect::<Vec<_>>().join(" ") + "\n";
    ensure!(case.output(&id, &["id", "-G"]).await? == line);
    crate::case::until("the first process has said its groups", async || {
        Ok(case.said(&id, "stdout").await? == line)
    })
    .await
}

async fn sec_23(case: &Case<'_>) -> anyhow::Result<()> {
    groups(case, SupplementalGroupsPolicy::Merge, &[1000, 1234, 50_000]).await
}

async fn sec_24(case: &Case<'_>) -> anyhow::Result<()> {
    groups(case, SupplementalGroupsPolicy::Strict, &[1000, 1234]).await
}

/// Whom a program that is root for everybody runs as.
async fn effective(case: &Case<'_>, no_new_privs: bool, wanted: &str) -> anyhow::Result<()> {
    let pod = case.run(case.logged_pod()?).await?;
    let security = Security {
        no_new_privs,
        run_as_user: number(1000),
        ..Default::default()
    };
    let config = crate::case::with_security(logged(case.of_image(NO_NEW_PRIVILEGES)), security);
    let status = case.ran(&pod, &config).await?;
    let found = case.said(&status.id, "stdout").await?;
    ensure!(found == format!("Effective uid: {wanted}\n"), "{found}");
    Ok(())
}

async fn nnp_01(case: &Case<'_>) -> anyhow::Result<()> {
    effective(case, true, "1000").await
}

async fn nnp_02(case: &Case<'_>) -> anyhow::Result<()> {
    effective(case, false, "0").await
}
