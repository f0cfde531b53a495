//! Which system calls a container may make: the default profile, or one that lies on the node.

mod default_profile;
mod localhost;

use oci_spec::runtime::{Arch as OciArch, Capabilities, LinuxSeccomp};

use super::error::SpecError;
pub use default_profile::default_profile;
pub use localhost::localhost_profile;

/// Larger profiles are refused. Whoever reads them stops there, too.
pub const PROFILE_MAX_BYTES: usize = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeccompRequest {
    Unconfined,
    RuntimeDefault,
    /// The content of a file on the node: OCI's JSON or Docker's.
    Localhost(Vec<u8>),
}

/// The architecture that the node's kernel runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    X86_64,
    Aarch64,
    /// Rules for the kernel's own calls only.
    Other,
}

/// A kernel's version, for rules that begin with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    pub major: u32,
    pub minor: u32,
}

impl Arch {
    /// The one this program was built for.
    pub fn of_this_program() -> Self {
        match std::env::consts::ARCH {
            "x86_64" => Arch::X86_64,
            "aarch64" => Arch::Aarch64,
            _ => Arch::Other,
        }
    }

    /// As Docker's profiles call it.
    fn docker_name(self) -> &'static str {
        match self {
            Arch::X86_64 => "amd64",
            Arch::Aarch64 => "arm64",
            Arch::Other => "",
        }
    }

    /// The filter covers the older calls that the same kernel still takes.
    fn with_older(self) -> Vec<OciArch> {
        match self {
            Arch::X86_64 => vec![OciArch::ScmpArchX86_64, OciArch::ScmpArchX86, OciArch::ScmpArchX32],
            Arch::Aarch64 => vec![OciArch::ScmpArchAarch64, OciArch::ScmpArchArm],
            Arch::Other => Vec::new(),
        }
    }
}

impl KernelVersion {
    /// `4.8`; what follows a second number is not looked at.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some(Self {
            major: numbers.next()?.ok()?,
            minor: numbers.next()?.ok()?,
        })
    }
}

/// The profile that was asked for, or none.
pub(super) fn profile(
    request: &SeccompRequest,
    granted: &Capabilities,
    arch: Arch,
    kernel: KernelVersion,
) -> Result<Option<LinuxSeccomp>, SpecError> {
    match request {
        SeccompRequest::Unconfined => Ok(None),
        SeccompRequest::RuntimeDefault => Ok(Some(default_profile(granted, arch))),
        SeccompRequest::Localhost(json) => localhost_profile(json, granted, arch, kernel).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: KernelVersion = KernelVersion { major: 6, minor: 1 };

    #[test]
    fn unconfined_is_no_profile() {
        assert_eq!(
            profile(&SeccompRequest::Unconfined, &Capabilities::new(), Arch::X86_64, KERNEL),
            Ok(None)
        );
    }
}
