//! AppArmor: profiles by the older field, by the newer one, and by both.

use std::path::Path;

use anyhow::{Context as _, ensure};
use cri::v1::security_profile::ProfileType;
use cri::v1::*;

use crate::case::{Case, lacks, refused};

crate::specs!(
    apparmor_01,
    apparmor_02,
    apparmor_03,
    apparmor_04,
    apparmor_05,
    apparmor_06,
    apparmor_07,
    apparmor_08,
    apparmor_09,
);

/// Where the kernel says whether it has it.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
/// Every write is denied.
const DENY: &str = "crio-conformance-deny-write";
/// Writes are told to whoever audits, and done.
const AUDIT: &str = "crio-conformance-audit-write";
const MISSING: &str = "crio-conformance-no-such-profile";

/// Which fields name a profile.
#[derive(Clone, Copy)]
enum Said<'a> {
    Older(&'a str),
    Newer(&'a str),
    /// The newer one, while the older names one that is missing.
    Both(&'a str),
}

/// What comes of it.
enum Outcome {
    Refused,
    Fails,
    Succeeds,
}

/// Loads both profiles; again does no harm.
fn load(case: &Case<'_>) -> anyhow::Result<()> {
    if !std::fs::read_to_string(ENABLED).is_ok_and(|text| text.trim() == "Y") {
        return lacks("AppArmor on this host");
    }
    let text = format!(
        "profile {DENY} flags=(attach_disconnected) {{ file, deny /** w, }}\n\
         profile {AUDIT} flags=(attach_disconnected) {{ file, audit /** w, }}\n"
    );
    let file = case.directory("profiles")?.join("profiles");
    std::fs::write(&file, text)?;
    let parser = ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser"];
    let parser = parser.iter().find(|path| Path::new(path).exists());
    let parser = parser.context("this host has AppArmor and no apparmor_parser")?;
    let file = file.display().to_string();
    case.node
        .namespaces
        .run(parser, &["--replace", "--skip-cache", &file])?;
    Ok(())
}

#[expect(deprecated, reason = "the older field is what is asked about")]
async fn touch(case: &Case<'_>, said: Said<'_>, expected: Outcome) -> anyhow::Result<()> {
    load(case)?;
    let localhost = |name: &str| format!("localhost/{name}");
    let newer = |name: &str| {
        Some(SecurityProfile {
            profile_type: ProfileType::Localhost.into(),
            localhost_ref: localhost(name),
        })
    };
    let mut security = LinuxContainerSecurityContext::default();
    match said {
        Said::Older(name) => security.apparmor_profile = localhost(name),
        Said::Newer(name) => security.apparmor = newer(name),
        Said::Both(name) => {
            security.apparmor_profile = localhost(MISSING);
            security.apparmor = newer(name);
        }
    }
    let pod = case.default_pod().await?;
    let config = case.secure(&["touch", "/tmp/foo"], security);
    if let Outcome::Refused = expected {
        refused(case.try_create(&pod, &config).await?, "a profile that is missing")?;
        return Ok(());
    }
    let status = case.ran(&pod, &config).await?;
    ensure!(
        (status.exit_code == 0) == matches!(expected, Outcome::Succeeds),
        "touch ended with {}",
        status.exit_code
    );
    Ok(())
}

async fn apparmor_01(case: &Case<'_>) -> anyhow::Result<()> {
    touch(case, Said::Older(MISSING), Outcome::Refused).await
}

async fn apparmor_02(case: &Case<'_>) -> anyhow::Result<()> {
    touch(case, Said::Older(DENY), Outcome::Fails).await
}

async fn apparmor_03(case: &Case<'_>) -> anyhow::Result<()> {
    touch(case, Said::Older(AUDIT), Outcome::Succeeds).await
}

async fn apparmor_04(case: &Case<'_>) -> anyhow::Result<()> {
    touch(case, Said::Newer(MISSING), Outcome::Refused).await
}

async fn apparmor_05(case: &Case<'_>) -> anyhow::Result<()> {
    touch(case, Said::Newer(DENY), Outcome::Fails).await
}

async fn apparmor_06(case: &Case<'_>) -> anyhow::Result<()> {
    touch(case, Said::Newer(AUDIT), Outcome::Succeeds).await
}

async fn apparmor_07(case: &Case<'_>) -> anyhow::Result<()> {
    touch(case, Said::Both(MISSING), Outcome::Refused).await
}

async fn apparmor_08(case: &Case<'_>) -> anyhow::Result<()> {
    touch(case, Said::Both(DENY), Outcome::Fails).await
}

async fn apparmor_09(case: &Case<'_>) -> anyhow::Result<()> {
    touch(case, Said::Both(AUDIT), Outcome::Succeeds).await
}
