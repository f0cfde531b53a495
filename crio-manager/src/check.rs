//! `crio-manager check`: whether this machine can be a node, and what to do where it cannot.
//!
//! Looks and asks, and changes nothing. Every line has a verdict; a bad one is a reason for the node not to be ready.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statvfs};
use serde::Serialize;

use crate::config::Config;
use crate::drivers::cgroup::cgroupfs::Cgroupfs;
use crate::drivers::cgroup::{CgroupHost, Mode};
use crate::drivers::network;
use crate::drivers::runtime::CommandLine;
use crate::drivers::seams::{DriverError, ErrorKind, HandlerHealth, OciRuntime};
use crate::node::handlers;

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Good,
    /// Something will not work, or not well.
    Warning,
    /// Pods cannot run.
    Bad,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Verdict::Good => "good",
            Verdict::Warning => "warning",
            Verdict::Bad => "bad",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub what: String,
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; empty where it is good.
    pub advice: String,
}

impl Finding {
    fn good(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            verdict: Verdict::Good,
            found: found.into(),
            advice: String::new(),
        }
    }

    fn warning(what: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Warning,
            advice: advice.into(),
            ..Self::good(what, found)
        }
    }

    fn bad(what: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Bad,
            ..Self::warning(what, found, advice)
        }
    }
}

/// Looks at this machine as this configuration would use it.
pub async fn look(config: &Config) -> Vec<Finding> {
    let mut findings = vec![user(), overlay(), seccomp(), landlock(), user_namespaces()];
    findings.extend(cgroups());
    findings.extend(runtimes(config).await);
    findings.extend(monitors(config));
    findings.push(network(config));
    findings.push(host_ports(config).await);
    let (root, runroot, state) = (&config.crio.root, &config.crio.runroot, &config.manager.state_dir);
    for (what, directory) in [("image store", root), ("runroot", runroot), ("state directory", state)] {
        findings.push(storage(what, directory));
    }
    findings
}

/// A line for each, and what to do below it.
pub fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|of| of.what.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding {
        what,
        verdict,
        found,
        advice,
    } in findings
    {
        text.push_str(&format!("{:<8} {what:<width$}  {found}\n", verdict.name()));
        if !advice.is_empty() {
            text.push_str(&format!("{:<8} {:<width$}  -> {advice}\n", "", ""));
        }
    }
    let count = |verdict| findings.iter().filter(|of| of.verdict == verdict).count();
    let (bad, warnings) = (count(Verdict::Bad), count(Verdict::Warning));
    text.push_str(&format!(
        "{} looked at: {bad} bad, {warnings} warnings\n",
        findings.len()
    ));
    text
}

/// Nothing is bad.
pub fn is_fit(findings: &[Finding]) -> bool {
    findings.iter().all(|of| of.verdict != Verdict::Bad)
}

fn user() -> Finding {
    let what = "user";
    if !rustix::process::geteuid().is_root() {
        return Finding::bad(what, "not root", "run the daemon, and this command, as root");
    }
    let capabilities = rustix::thread::capabilities(None).map(|sets| sets.effective);
    let resource = rustix::thread::CapabilitySet::SYS_RESOURCE;
    match capabilities {
        Ok(effective) if effective.contains(resource) => Finding::good(what, "root"),
        Ok(_) => Finding::warning(
            what,
            "root without CAP_SYS_RESOURCE",
            "containers get no lower oom_score_adj and no higher limits than this process has",
        ),
        Err(error) => Finding::warning(
            what,
            format!("root; capabilities: {error}"),
            "look at /proc/self/status",
        ),
    }
}

fn overlay() -> Finding {
    let what = "overlayfs";
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known
        .lines()
        .any(|line| line.trim() == "overlay" || line.ends_with("\toverlay"))
    {
        Finding::good(what, "known to the kernel")
    } else {
        Finding::bad(
            what,
            "not known to the kernel",
            "modprobe overlay, and name it in /etc/modules-load.d",
        )
    }
}

fn seccomp() -> Finding {
    let what = "seccomp";
    match fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.contains("errno") => Finding::good(what, "filters can be set"),
        _ => Finding::warning(
            what,
            "no filters in this kernel",
            "containers that ask for the default profile are refused by the runtime",
        ),
    }
}

fn landlock() -> Finding {
    let what = "landlock";
    let modules = fs::read_to_string("/sys/kernel/security/lsm");
    match modules {
        Ok(modules) if modules.split(',').any(|module| module.trim() == "landlock") => {
            Finding::good(what, "monitors see only their own files")
        }
        Ok(_) => Finding::warning(
            what,
            "not in use",
            "add landlock to the kernel's lsm= list; monitors see all files without it",
        ),
        Err(_) => Finding::good(
            what,
            "not told (securityfs is not mounted); monitors use it where it is there",
        ),
    }
}

fn user_namespaces() -> Finding {
    let what = "user namespaces";
    let max = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    match max.trim().parse::<u64>() {
        Ok(max) if max > 0 => Finding::good(what, format!("up to {max}")),
        Ok(_) => Finding::warning(
            what,
            "none",
            "sysctl user.max_user_namespaces, if pods are to have their own",
        ),
        Err(_) => Finding::warning(what, "not in this kernel", "pods cannot have their own"),
    }
}

/// Controllers without which limits are not kept.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "cpuset"];

fn cgroups() -> Vec<Finding> {
    let what = "cgroups";
    match Cgroupfs::detect() {
        Ok(driver) => cgroup_findings(driver.host()),
        Err(error) => vec![Finding::bad(what, error.to_string(), "mount cgroup2 at /sys/fs/cgroup")],
    }
}

fn cgroup_findings(host: &CgroupHost) -> Vec<Finding> {
    let mode = match host.mode {
        Mode::V1 => "version 1",
        Mode::V2 => "version 2",
        Mode::Hybrid => "version 1, and version 2 beside it",
    };
    let missing: Vec<_> = CONTROLLERS
        .into_iter()
        .filter(|name| !host.controllers.contains(*name))
        .collect();
    let controllers = host
        .controllers
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(" ");
    let mut findings = vec![Finding::good("cgroups", mode)];
    findings.push(if missing.is_empty() {
        Finding::good("controllers", controllers)
    } else {
        Finding::bad(
            "controllers",
            format!("{controllers}; without {}", missing.join(" ")),
            "have them delegated (Delegate=yes in the unit), or enabled on the kernel's command line",
        )
    });
    if !host.hugetlb {
        findings.push(Finding::warning(
            "hugetlb",
            "no controller that a runtime can use",
            "limits of huge pages are left out",
        ));
    }
    findings
}

async fn runtimes(config: &Config) -> Vec<Finding> {
    let runtimes = CommandLine::new(handlers(config), config.runtime.default_runtime.clone());
    runtimes.probe().await;
    let hybrid = Cgroupfs::detect().is_ok_and(|driver| driver.host().mode == Mode::Hybrid);
    let finding = |health: HandlerHealth| {
        let what = format!("runtime {}", health.name);
        let path = config
            .runtimes
            .get(&health.name)
            .map(|handler| handler.runtime_path.display().to_string());
        match (health.version, health.is_default) {
            (Ok(version), is_default) if hybrid && refuses_hybrid(&version) => {
                let verdict = if is_default { Finding::bad } else { Finding::warning };
                let found = format!("{version}, which refuses cgroups of both versions beside each other");
                verdict(
                    what,
                    found,
                    "use crun 1.9 or later, or runc, or unmount the cgroup2 hierarchy".to_owned(),
                )
            }
            (Ok(version), true) => Finding::good(what, format!("{version}, the default")),
            (Ok(version), false) => Finding::good(what, version),
            (Err(error), true) => {
                let advice = format!("install {}, or name another default_runtime", path.unwrap_or_default());
                Finding::bad(what, error, advice)
            }
            (Err(error), false) => Finding::warning(
                what,
                error,
                "pods that name it are refused; install it, or take it from the configuration",
            ),
        }
    };
    runtimes.health().into_iter().map(finding).collect()
}

/// crun before 1.9, by its version line.
fn refuses_hybrid(version: &str) -> bool {
    let number = version.strip_prefix("crun version ").unwrap_or_default();
    let mut parts = number.split('.').map_while(|part| part.parse::<u32>().ok());
    parts.next().zip(parts.next()).is_some_and(|version| version < (1, 9))
}

fn monitors(config: &Config) -> Vec<Finding> {
    let mut paths: Vec<&PathBuf> = config.runtimes.values().map(|handler| &handler.monitor_path).collect();
    paths.sort();
    paths.dedup();
    let finding = |path: &Path| {
        let (what, shown) = ("monitor", path.display().to_string());
        match std::process::Command::new(path).arg("--version").output() {
            Ok(output) if String::from_utf8_lossy(&output.stdout).contains("conmon-rs") => Finding::good(what, shown),
            Ok(_) => Finding::bad(
                what,
                format!("{shown} is not conmon-rs"),
                "have conmon, or monitor_path, name the conmon-rs of this version",
            ),
            Err(error) => Finding::bad(
                what,
                format!("{shown}: {error}"),
                "install conmon-rs beside crio-manager",
            ),
        }
    };
    paths.into_iter().map(|path| finding(path)).collect()
}

fn network(config: &Config) -> Finding {
    let (what, dir) = ("network", &config.network.network_dir);
    let default = Some(config.network.cni_default_network.as_str()).filter(|name| !name.is_empty());
    let snapshot = network::look(dir, &config.network.plugin_dirs, default);
    let broken = snapshot
        .broken
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ");
    match snapshot.chosen {
        Ok(network) if broken.is_empty() => Finding::good(what, format!("{} in {}", network.name, dir.display())),
        Ok(network) => Finding::warning(
            what,
            format!("{}; broken: {broken}", network.name),
            "mend or remove the broken files",
        ),
        Err(why) => Finding::bad(
            what,
            [why, broken]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join("; "),
            format!(
                "put a CNI configuration into {}, and its plugins into plugin_dirs; pods on the host's network run without",
                dir.display()
            ),
        ),
    }
}

async fn host_ports(config: &Config) -> Finding {
    let what = "host ports";
    let default = Some(config.network.cni_default_network.as_str()).filter(|name| !name.is_empty());
    let chosen = network::look(&config.network.network_dir, &config.network.plugin_dirs, default).chosen;
    let plugin = chosen.ok().and_then(|network| {
        let plugin = network
            .plugins
            .iter()
            .find(|plugin| plugin.has_capability("portMappings"));
        plugin.map(|plugin| plugin.program.clone())
    });
    if let Some(plugin) = plugin {
        return Finding::good(what, format!("by the network's plugin {plugin}"));
    }
    if config.runtime.disable_hostport_mapping {
        return Finding::good(what, "left to others: disable_hostport_mapping");
    }
    match network::probe_host_ports().await {
        Ok(()) => Finding::good(what, "by nftables"),
        Err(error) => Finding::warning(
            what,
            DriverError::chain(ErrorKind::Unavailable, &error).message,
            "install nftables, or put the portmap plugin into the network; pods that ask for host ports are refused",
        ),
    }
}

/// Less free than this is told.
const LITTLE_FREE: f64 = 0.1;

/// Looks at the directory, or at the nearest one above it that is there.
fn storage(what: &str, directory: &Path) -> Finding {
    let Some(there) = directory.ancestors().find(|directory| directory.is_dir()) else {
        return Finding::bad(
            what,
            format!("{} is not there", directory.display()),
            "name a directory that can be made",
        );
    };
    let shown = directory.display();
    if let Err(error) = access(there, Access::WRITE_OK) {
        return Finding::bad(what, format!("{shown}: {error}"), "make it writable");
    }
    match statvfs(there) {
        Ok(space) if space.f_blocks == 0 => Finding::good(what, shown.to_string()),
        Ok(space) => {
            let free = space.f_bavail as f64 / space.f_blocks as f64;
            let found = format!("{shown}, {:.0} % free", free * 100.0);
            if free < LITTLE_FREE {
                Finding::warning(what, found, "images and logs that do not fit are refused or lost")
            } else {
                Finding::good(what, found)
            }
        }
        Err(error) => Finding::warning(what, format!("{shown}: {error}"), "look at the file system"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bad_is_said_with_what_to_do_and_makes_the_machine_unfit() {
        let findings = [
            Finding::good("a", "fine"),
            Finding::bad("longer", "not there", "install it"),
        ];
        let text = table(&findings);
        assert_eq!(
            text,
            "good     a       fine\nbad      longer  not there\n                 -> install it\n2 looked at: 1 bad, 0 warnings\n"
        );
        assert!(!is_fit(&findings) && is_fit(&findings[..1]));
    }

    #[test]
    fn controllers_that_are_missing_are_named() {
        let host = |controllers: &[&str]| CgroupHost {
            mode: Mode::V2,
            controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
            hugetlb: false,
        };
        assert!(is_fit(&cgroup_findings(&host(&CONTROLLERS))));
        let findings = cgroup_findings(&host(&["cpu", "memory", "cpuset"]));
        assert!(!is_fit(&findings) && table(&findings).contains("without pids"));
    }

    #[test]
    fn old_cruns_are_known_by_their_version_line() {
        for (version, refuses) in [
            ("crun version 1.8.1", true),
            ("crun version 0.20", true),
            ("crun version 1.9", false),
            ("crun version 1.21", false),
            ("runc version 1.1.5", false),
            ("crun version unknown", false),
        ] {
            assert_eq!(refuses_hybrid(version), refuses, "{version}");
        }
    }

    #[test]
    fn a_directory_that_is_still_to_be_made_is_looked_at_above() {
        let directory = tempfile::tempdir().unwrap();
        assert_ne!(storage("x", &directory.path().join("a/b/c")).verdict, Verdict::Bad);
    }
}
