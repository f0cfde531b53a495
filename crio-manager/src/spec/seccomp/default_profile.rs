//! The default profile.
//!
//! A call is one of these:
//! - allowed to all (`ALLOWED`, and `ALLOWED_BY_ARCH`);
//! - allowed with a capability that makes it useful, refused with EPERM without (`WITH_CAPABILITY`);
//! - refused with EPERM (`REFUSED`): it acts on the node as a whole, or has been a way out too often;
//! - allowed with some arguments (`clone`, `unshare`, `socket`, `personality`);
//! - none of these: ENOSYS, as if the kernel did not have it. Programs try new calls and do without; EPERM they would
//!   report. `clone3` is among these without CAP_SYS_ADMIN, since its flags lie in memory where no filter can look, and
//!   so are the `io_uring_*` calls, which would go past every other rule.
//!
//! # Arguments
//! The filter sees registers of 64 bits, the kernel takes an `int` from the lower half. A comparison such as "not 38"
//! can therefore be passed with bits set that the kernel does not look at. Every rule on an argument here masks it.

use oci_spec::runtime::{
    Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator as Operator, LinuxSyscall, LinuxSyscallBuilder,
};

use super::Arch;
use crate::spec::syscalls::{ALLOWED, ALLOWED_BY_ARCH, REFUSED, WITH_CAPABILITY};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;

/// The profile for a container that has these capabilities.
pub fn default_profile(granted: &Capabilities, arch: Arch) -> LinuxSeccomp {
    let admin = granted.contains(&Capability::SysAdmin);
    let mut rules = vec![allow(ALLOWED)];
    for (on, names) in ALLOWED_BY_ARCH {
        if *on == arch {
            rules.push(allow(names));
        }
    }
    let mut lacking: Vec<&str> = REFUSED.to_vec();
    for (capabilities, names) in WITH_CAPABILITY {
        match capabilities.iter().any(|capability| granted.contains(capability)) {
            true => rules.push(allow(names)),
            false => lacking.extend_from_slice(names),
        }
    }
    match admin {
        true => rules.push(allow(&["clone", "clone3", "unshare"])),
        false => rules.extend(without_new_namespaces()),
    }
    rules.extend(personalities());
    rules.extend(sockets());
    // A call that two capabilities open may be allowed by one and lacking by the other: it is allowed.
    let allowed: Vec<String> = rules.iter().flat_map(|rule| rule.names().clone()).collect();
    lacking.retain(|name| !allowed.iter().any(|other| other == name));
    rules.push(refuse(&lacking, EPERM));

    let profile = LinuxSeccompBuilder::default()
        .default_action(Action::ScmpActErrno)
        .default_errno_ret(ENOSYS)
        .syscalls(rules);
    let profile = match arch.with_older() {
        none if none.is_empty() => profile,
        architectures => profile.architectures(architectures),
    };
    profile.build().expect("every field has a default")
}

/// The flags with which `clone` and `unshare` make namespaces: mount, cgroup, UTS, IPC, user, PID, network.
const NEW_NAMESPACE_FLAGS: [u64; 7] = [
    0x0002_0000,
    0x0200_0000,
    0x0400_0000,
    0x0800_0000,
    0x1000_0000,
    0x2000_0000,
    0x4000_0000,
];

/// The one that only `unshare` takes: for `clone` its bit is part of the signal's number.
const NEW_TIME_NAMESPACE_FLAG: u64 = 0x80;

/// `clone` and `unshare` without any of the flags are allowed, with one refused.
fn without_new_namespaces() -> Vec<LinuxSyscall> {
    let mut rules = Vec::new();
    for (name, flags) in [
        ("clone", NEW_NAMESPACE_FLAGS.to_vec()),
        (
            "unshare",
            [&NEW_NAMESPACE_FLAGS[..], &[NEW_TIME_NAMESPACE_FLAG]].concat(),
        ),
    ] {
        rules.push(when(allow(&[name]), masked(flags.iter().sum(), 0)));
        rules.extend(
            flags
                .iter()
                .map(|flag| when(refuse(&[name], EPERM), masked(*flag, *flag))),
        );
    }
    rules
}

/// Linux, 32-bit Linux, either with the release number of old kernels, and the question which it is.
fn personalities() -> impl Iterator<Item = LinuxSyscall> {
    [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff]
        .into_iter()
        .map(|value| when(allow(&["personality"]), masked(INT, value)))
}

/// The half of a register that the kernel takes as an `int`.
const INT: u64 = 0xffff_ffff;

const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// Mask and value that together are true for the address families 0 to 63 except AF_ALG and AF_VSOCK: one argument can
/// be compared once in a rule, so that "neither nor" has to be written as blocks that leave the two out.
const SOCKET_FAMILIES: [(u64, u64); 8] = [
    (INT & !0x1f, 0x00), // 0 to 31
    (INT & !0x03, 0x20), // 32 to 35
    (INT & !0x01, 0x24), // 36 and 37
    (INT, 0x27),         // 39
    (INT, 0x29),         // 41
    (INT & !0x01, 0x2a), // 42 and 43
    (INT & !0x03, 0x2c), // 44 to 47
    (INT & !0x0f, 0x30), // 48 to 63
];

/// Sockets of the kernel's cryptography and of the virtual machine's host are refused, as if there were none. The
/// older `socketcall` hides the family in memory where no filter can look, so it is refused altogether: else a few
/// instructions of 32-bit code would pass. A 32-bit program whose C library still relies on it has no sockets under this
/// profile.
fn sockets() -> Vec<LinuxSyscall> {
    let blocks = SOCKET_FAMILIES
        .iter()
        .map(|(mask, value)| when(allow(&["socket"]), masked(*mask, *value)));
    let refused = [AF_ALG, AF_VSOCK]
        .into_iter()
        .map(|f| when(refuse(&["socket"], EAFNOSUPPORT), masked(INT, f)));
    // First, and not with the default's errno: the runtimes' library would else let `socketcall` in with `socket`.
    [refuse(&["socketcall"], EPERM)]
        .into_iter()
        .chain(blocks)
        .chain(refused)
        .collect()
}

fn allow(names: &[&str]) -> LinuxSyscall {
    let rule = LinuxSyscallBuilder::default()
        .names(owned(names))
        .action(Action::ScmpActAllow);
    rule.build().expect("every field has a default")
}

fn refuse(names: &[&str], errno: u32) -> LinuxSyscall {
    let rule = LinuxSyscallBuilder::default()
        .names(owned(names))
        .action(Action::ScmpActErrno)
        .errno_ret(errno);
    rule.build().expect("every field has a default")
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn when(mut rule: LinuxSyscall, first_argument: LinuxSeccompArg) -> LinuxSyscall {
    rule.set_args(Some(vec![first_argument]));
    rule
}

/// The first argument's bits in `mask` are those of `value`. (The spec has the mask first.)
fn masked(mask: u64, value: u64) -> LinuxSeccompArg {
    let arg = LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .value(mask)
        .value_two(value)
        .op(Operator::ScmpCmpMaskedEq);
    arg.build().expect("every field has a default")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::security::{CapabilityList, DEFAULT_CAPABILITIES};

    fn plain() -> LinuxSeccomp {
        default_profile(&DEFAULT_CAPABILITIES.into(), Arch::X86_64)
    }

    /// What the filter does with a call whose first argument is `arg`, as the kernel would evaluate it. Fails the test
    /// if two rules of different actions match.
    fn verdict(profile: &LinuxSeccomp, name: &str, arg: u64) -> Option<u32> {
        let matches = |rule: &&LinuxSyscall| {
            rule.names().iter().any(|n| n == name)
                && rule.args().iter().flatten().all(|condition| {
                    assert_eq!((condition.op(), condition.index()), (Operator::ScmpCmpMaskedEq, 0));
                    arg & condition.value() == condition.value_two().expect("masked")
                })
        };
        let verdict = |rule: &LinuxSyscall| match rule.action() {
            Action::ScmpActAllow => None,
            _ => rule.errno_ret(),
        };
        let rules: Vec<_> = profile
            .syscalls()
            .iter()
            .flatten()
            .filter(matches)
            .map(verdict)
            .collect();
        assert!(
            rules.windows(2).all(|pair| pair.first() == pair.last()),
            "{name}({arg:#x}) has two answers"
        );
        rules.first().copied().unwrap_or(profile.default_errno_ret())
    }

    #[test]
    fn everyday_calls_are_allowed() {
        for name in [
            "read",
            "execve",
            "futex",
            "openat2",
            "statx",
            "clone",
            "fchmodat2",
            "rseq",
            "futex_waitv",
            "prctl",
        ] {
            assert_eq!(verdict(&plain(), name, 0), None, "{name}");
        }
    }

    #[test]
    fn calls_that_act_on_the_node_are_refused() {
        for name in [
            "mount",
            "umount2",
            "kexec_load",
            "init_module",
            "reboot",
            "bpf",
            "setns",
            "keyctl",
            "swapon",
            "settimeofday",
        ] {
            assert_eq!(verdict(&plain(), name, 0), Some(EPERM), "{name}");
        }
    }

    #[test]
    fn calls_not_known_here_look_as_if_the_kernel_had_none() {
        for name in [
            "clone3",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "a_call_of_tomorrow",
        ] {
            assert_eq!(verdict(&plain(), name, 0), Some(ENOSYS), "{name}");
        }
        let all: Capabilities = CapabilityList::parse(&["SYS_ADMIN", "SYS_MODULE", "BPF"])
            .expect("known")
            .named;
        assert_eq!(
            verdict(&default_profile(&all, Arch::X86_64), "io_uring_setup", 0),
            Some(ENOSYS)
        );
    }

    #[test]
    fn a_capability_opens_its_calls_and_no_others() {
        for (capability, opened) in [
            (
                Capability::SysAdmin,
                &["mount", "setns", "clone3", "unshare", "bpf", "sethostname"][..],
            ),
            (Capability::SysModule, &["init_module", "finit_module", "delete_module"]),
            (Capability::SysTime, &["settimeofday", "clock_settime"]),
            (Capability::SysBoot, &["reboot"]),
            (Capability::Bpf, &["bpf"]),
            (Capability::SysChroot, &["chroot"]),
            (Capability::DacReadSearch, &["open_by_handle_at"]),
        ] {
            let profile = default_profile(&[capability].into(), Arch::X86_64);
            for name in opened {
                assert_eq!(verdict(&profile, name, 0), None, "{name} with {capability}");
            }
            assert_eq!(verdict(&profile, "kexec_load", 0), Some(EPERM));
            let other = default_profile(&[Capability::Chown].into(), Arch::X86_64);
            for name in opened.iter().filter(|name| !["unshare", "clone3"].contains(name)) {
                assert_eq!(verdict(&other, name, 0), Some(EPERM), "{name} without {capability}");
            }
        }
    }

    #[test]
    fn namespaces_cannot_be_made_without_sys_admin() {
        const SIGCHLD: u64 = 17;
        const THREAD: u64 = 0x003d_0f00;
        let admin = default_profile(&[Capability::SysAdmin].into(), Arch::X86_64);
        for flag in NEW_NAMESPACE_FLAGS {
            for other in [0, SIGCHLD, THREAD, 1 << 40, INT & !(1 << 7)] {
                assert_eq!(verdict(&plain(), "clone", flag | other), Some(EPERM), "{flag:#x}");
                assert_eq!(verdict(&plain(), "unshare", flag | other), Some(EPERM), "{flag:#x}");
                assert_eq!(verdict(&admin, "clone", flag | other), None);
            }
        }
        assert_eq!(verdict(&plain(), "clone", SIGCHLD), None);
        assert_eq!(verdict(&plain(), "clone", THREAD), None);
        assert_eq!(
            verdict(&plain(), "unshare", 0x200 | 0x400),
            None,
            "file table and working directory"
        );
        assert_eq!(verdict(&plain(), "unshare", NEW_TIME_NAMESPACE_FLAG), Some(EPERM));
    }

    #[test]
    fn sockets_of_the_kernels_crypto_and_of_the_host_are_refused_whatever_the_upper_half_says() {
        let all: Capabilities = CapabilityList::parse(&["SYS_ADMIN", "NET_ADMIN", "NET_RAW"])
            .expect("known")
            .named;
        for profile in [
            plain(),
            default_profile(&all, Arch::X86_64),
            default_profile(&all, Arch::Aarch64),
        ] {
            for upper in [0, 1 << 32, 1 << 63, 0xffff_ffff << 32] {
                for family in 0..64 {
                    let expected = matches!(family, AF_ALG | AF_VSOCK).then_some(EAFNOSUPPORT);
                    assert_eq!(verdict(&profile, "socket", upper | family), expected, "family {family}");
                }
            }
            assert_eq!(verdict(&profile, "socket", 64), Some(ENOSYS));
            assert_eq!(verdict(&profile, "socket", INT), Some(ENOSYS));
            assert_eq!(verdict(&profile, "socketcall", 1), Some(EPERM));
        }
    }

    #[test]
    fn no_call_has_two_answers() {
        let capabilities = [
            &[][..],
            &[Capability::SysAdmin],
            &[Capability::Bpf],
            &[Capability::SysAdmin, Capability::Perfmon],
        ];
        for granted in capabilities {
            for arch in [Arch::X86_64, Arch::Aarch64, Arch::Other] {
                let profile = default_profile(&granted.iter().copied().collect(), arch);
                for name in profile.syscalls().iter().flatten().flat_map(|rule| rule.names()) {
                    for arg in [0, 1, 17, 38, 40, 0x1000_0000, 0x2_0008] {
                        verdict(&profile, name, arg);
                    }
                }
            }
        }
    }

    #[test]
    fn no_rule_repeats_the_default() {
        // The runtimes' library refuses a rule whose action is the default's.
        for rule in plain().syscalls().iter().flatten() {
            assert!(
                rule.action() == Action::ScmpActAllow || rule.errno_ret() != Some(ENOSYS),
                "{rule:?}"
            );
        }
    }

    #[test]
    fn the_filter_covers_the_older_calls_of_the_architecture() {
        let names =
            |arch| serde_json::to_value(default_profile(&Capabilities::new(), arch).architectures()).expect("plain");
        assert_eq!(
            names(Arch::X86_64),
            serde_json::json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])
        );
        assert_eq!(
            names(Arch::Aarch64),
            serde_json::json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"])
        );
        assert_eq!(names(Arch::Other), serde_json::Value::Null);
        let x86 = default_profile(&Capabilities::new(), Arch::X86_64);
        assert_eq!(verdict(&x86, "arch_prctl", 0), None);
        assert_eq!(
            verdict(&default_profile(&Capabilities::new(), Arch::Aarch64), "arch_prctl", 0),
            Some(ENOSYS)
        );
    }
}
