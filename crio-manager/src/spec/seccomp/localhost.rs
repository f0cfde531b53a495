//! Profiles that lie on the node, in OCI's JSON or in Docker's.

use oci_spec::runtime::{
    Arch as OciArch, Capabilities, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSyscall,
};
use serde::Deserialize;

use super::{Arch, KernelVersion, PROFILE_MAX_BYTES};
use crate::spec::error::{SpecError, excerpt};
use crate::spec::security::CapabilityList;

/// A profile as it lies on the node, in OCI's JSON or in Docker's, whose rules may depend on architecture, capabilities
/// and kernel.
pub fn localhost_profile(
    json: &[u8],
    granted: &Capabilities,
    arch: Arch,
    kernel: KernelVersion,
) -> Result<LinuxSeccomp, SpecError> {
    if json.len() > PROFILE_MAX_BYTES {
        return Err(refused(format!("larger than {PROFILE_MAX_BYTES} bytes")));
    }
    let file: ProfileFile = serde_json::from_slice(json).map_err(|error| refused(excerpt(&error.to_string())))?;
    let architectures = match (file.architectures, file.arch_map) {
        (Some(_), Some(_)) => return Err(refused("has both architectures and archMap".to_owned())),
        (listed, None) => listed.unwrap_or_default(),
        (None, Some(map)) => {
            let own = arch.with_older().first().copied();
            let found = map.into_iter().find(|entry| Some(entry.architecture) == own);
            found
                .map(|entry| [vec![entry.architecture], entry.sub_architectures].concat())
                .unwrap_or_default()
        }
    };
    let mut rules = Vec::new();
    for rule in file.syscalls {
        let included = rule.includes.unwrap_or_default().all_hold(granted, arch, kernel)?;
        let excluded = rule.excludes.unwrap_or_default().any_holds(granted, arch, kernel)?;
        if included && !excluded {
            rules.push(rule.call.into_oci()?);
        }
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(file.default_action)
        .set_default_errno_ret(file.default_errno_ret)
        .set_architectures((!architectures.is_empty()).then_some(architectures))
        .set_flags(file.flags.filter(|flags| !flags.is_empty()))
        .set_listener_path(file.listener_path.map(Into::into))
        .set_listener_metadata(file.listener_metadata)
        .set_syscalls((!rules.is_empty()).then_some(rules));
    Ok(profile)
}

fn refused(reason: String) -> SpecError {
    SpecError::SeccompProfile { reason }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProfileFile {
    default_action: Action,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<OciArch>>,
    arch_map: Option<Vec<ArchMapEntry>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Vec<RuleEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMapEntry {
    architecture: OciArch,
    #[serde(default)]
    sub_architectures: Vec<OciArch>,
}

#[derive(Deserialize)]
struct RuleEntry {
    #[serde(flatten)]
    call: CallEntry,
    includes: Option<Conditions>,
    excludes: Option<Conditions>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CallEntry {
    /// Docker's older form.
    name: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    action: Action,
    errno_ret: Option<u32>,
    args: Option<Vec<LinuxSeccompArg>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conditions {
    #[serde(default)]
    arches: Vec<String>,
    #[serde(default)]
    caps: Vec<String>,
    min_kernel: Option<String>,
}

impl CallEntry {
    fn into_oci(self) -> Result<LinuxSyscall, SpecError> {
        /// The kernel passes no more.
        const ARGS: usize = 6;
        let names: Vec<String> = self.names.into_iter().chain(self.name).collect();
        if names.is_empty() || names.iter().any(String::is_empty) {
            return Err(refused("has a rule without a name".to_owned()));
        }
        let args = self.args.filter(|args| !args.is_empty());
        if args.iter().flatten().any(|arg| arg.index() >= ARGS) {
            return Err(refused(format!(
                "has a rule for an argument beyond the last of {}",
                excerpt(&names.join(" "))
            )));
        }
        let mut call = LinuxSyscall::default();
        call.set_names(names)
            .set_action(self.action)
            .set_errno_ret(self.errno_ret)
            .set_args(args);
        Ok(call)
    }
}

impl Conditions {
    fn all_hold(&self, granted: &Capabilities, arch: Arch, kernel: KernelVersion) -> Result<bool, SpecError> {
        let caps = CapabilityList::parse(&self.caps)?.named;
        Ok((self.arches.is_empty() || self.names(arch))
            && caps.is_subset(granted)
            && self.kernel_is(kernel)? != Some(false))
    }

    fn any_holds(&self, granted: &Capabilities, arch: Arch, kernel: KernelVersion) -> Result<bool, SpecError> {
        let caps = CapabilityList::parse(&self.caps)?.named;
        Ok(self.names(arch) || !caps.is_disjoint(granted) || self.kernel_is(kernel)? == Some(true))
    }

    fn names(&self, arch: Arch) -> bool {
        self.arches.iter().any(|name| name == arch.docker_name())
    }

    /// `None` where no kernel is named.
    fn kernel_is(&self, kernel: KernelVersion) -> Result<Option<bool>, SpecError> {
        let Some(text) = &self.min_kernel else { return Ok(None) };
        let least = KernelVersion::parse(text).ok_or_else(|| refused(format!("minKernel {}", excerpt(text))))?;
        Ok(Some(kernel >= least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Capability;

    const KERNEL: KernelVersion = KernelVersion { major: 6, minor: 1 };

    fn localhost(json: &str, caps: &[Capability]) -> Result<LinuxSeccomp, SpecError> {
        localhost_profile(json.as_bytes(), &caps.iter().copied().collect(), Arch::X86_64, KERNEL)
    }

    #[test]
    fn a_profile_in_ocis_form_is_taken_as_it_is() {
        let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"flags":["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls":[{"names":["chmod","fchmodat"],"action":"SCMP_ACT_ERRNO","errnoRet":5,"args":[]},
            {"names":["socket"],"action":"SCMP_ACT_KILL_PROCESS","args":[{"index":0,"value":38,"valueTwo":0,"op":"SCMP_CMP_EQ"}]}]}"#;
        assert_eq!(
            serde_json::to_value(localhost(json, &[]).expect("good")).expect("plain"),
            serde_json::json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64"],
                "flags": ["SECCOMP_FILTER_FLAG_LOG"],
                "syscalls": [
                    {"names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5},
                    {"names": ["socket"], "action": "SCMP_ACT_KILL_PROCESS",
                     "args": [{"index": 0, "value": 38, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]},
                ],
            })
        );
    }

    #[test]
    fn a_profile_in_dockers_form_is_resolved() {
        let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,
            "archMap":[{"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]},
                       {"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
            "syscalls":[
              {"names":["a"],"action":"SCMP_ACT_ALLOW","args":null,"comment":"","includes":{},"excludes":{}},
              {"name":"b","action":"SCMP_ACT_ALLOW","includes":{"arches":["amd64","x32"]}},
              {"names":["c"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["arm64"]}},
              {"names":["d"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
              {"names":["e"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_SYS_ADMIN"]}},
              {"names":["f"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}},
              {"names":["g"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"6.10"}},
              {"names":["h"],"action":"SCMP_ACT_ALLOW","excludes":{"arches":["amd64"]}}]}"#;
        let names = |caps: &[Capability]| -> String {
            let profile = localhost(json, caps).expect("good");
            assert_eq!(profile.architectures().as_ref().map(Vec::len), Some(2));
            profile
                .syscalls()
                .iter()
                .flatten()
                .flat_map(|rule| rule.names().clone())
                .collect()
        };
        assert_eq!(names(&[]), "abef");
        assert_eq!(names(&[Capability::SysAdmin]), "abdf");
    }

    #[test]
    fn a_profile_that_means_nothing_is_refused() {
        let long = format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","x":"{}"}}"#,
            "x".repeat(PROFILE_MAX_BYTES)
        );
        for json in [
            "",
            "[]",
            "{}",
            r#"{"defaultAction":"SCMP_ACT_MAYBE"}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_VAX"]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":[],"archMap":[]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[],"action":"SCMP_ACT_ERRNO"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[""],"action":"SCMP_ACT_ERRNO"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_ERRNO","includes":{"minKernel":"new"}}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_ERRNO","excludes":{"caps":["X"]}}]}"#,
            &long,
        ] {
            assert!(localhost(json, &[]).is_err(), "{}", excerpt(json));
        }
    }
}
