//! What the process may do: capabilities, hidden and read-only paths, new privileges, labels.

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

use super::error::{SpecError, excerpt, without_nul};
use super::path::ContainerPath;
use super::seccomp::SeccompRequest;

/// What the request says about privileges.
#[derive(Clone, Debug)]
pub struct SecurityRequest {
    pub privilege: Privilege,
    pub capabilities: CapabilityRequest,
    pub new_privileges: NewPrivileges,
    /// Made to look empty. This list as it is: an empty one masks nothing. See [`default_masked_paths`].
    pub masked_paths: Vec<ContainerPath>,
    /// This list as it is. See [`default_readonly_paths`].
    pub readonly_paths: Vec<ContainerPath>,
    pub seccomp: SeccompRequest,
    pub apparmor: AppArmor,
    pub selinux: SelinuxLabels,
}

/// A privileged container has every capability that this node has, every device, and neither masked or read-only paths
/// nor seccomp or a read-only /sys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    Confined,
    Privileged,
}

/// Whether set-user-id programs and file capabilities work (`no_new_privs` is `Forbidden`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewPrivileges {
    Allowed,
    Forbidden,
}

/// Changes to `defaults`. Named ones count after ALL, and what is added and dropped by name is dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CapabilityRequest {
    pub defaults: Capabilities,
    pub add: CapabilityList,
    pub drop: CapabilityList,
    /// Kept by a user who is not root when it runs a program; must be among those granted.
    pub ambient: Capabilities,
    pub inheritable: Inheritable,
}

/// Which capabilities are in the inheritable set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Inheritable {
    /// Those that are ambient, which cannot be without it: any other would come back with any program file that names
    /// it.
    #[default]
    Ambient,
    Granted,
}

/// Capabilities by name, and whether ALL was among the names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CapabilityList {
    pub all: bool,
    pub named: Capabilities,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppArmor {
    /// This node has no AppArmor.
    Absent,
    Unconfined,
    /// A profile that is loaded, by its name.
    Profile(String),
}

/// The label of the process, and that of the files it is given; without SELinux none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelinuxLabels {
    pub process: Option<String>,
    pub mount: Option<String>,
}

/// What a container has unless the configuration says otherwise.
pub const DEFAULT_CAPABILITIES: [Capability; 9] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::Kill,
];

impl CapabilityList {
    /// Names in any case, with or without `CAP_`.
    pub fn parse<S: AsRef<str>>(names: &[S]) -> Result<Self, SpecError> {
        let mut list = Self::default();
        for name in names.iter().map(AsRef::as_ref) {
            let upper = name.to_ascii_uppercase();
            let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if upper == "ALL" {
                list.all = true;
                continue;
            }
            let known = short
                .parse()
                .map_err(|_| SpecError::UnknownCapability { name: excerpt(name) })?;
            list.named.insert(known);
        }
        Ok(list)
    }
}

/// The kernel's capabilities by their numbers, from 0.
const BY_NUMBER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// A set as `/proc/<pid>/status` writes it, `CapBnd` for instance: a bit for each number. Bits beyond the last known
/// number are left out.
pub fn capabilities_of_mask(mask: u64) -> Capabilities {
    let numbered = BY_NUMBER.into_iter().enumerate();
    numbered
        .filter(|(number, _)| mask & (1 << number) != 0)
        .map(|(_, capability)| capability)
        .collect()
}

/// What is granted: never more than `bounding`, which is all that this node's daemon can pass on.
pub(super) fn granted(security: &SecurityRequest, bounding: &Capabilities) -> Result<Capabilities, SpecError> {
    let request = &security.capabilities;
    if security.privilege == Privilege::Privileged {
        return Ok(bounding.clone());
    }
    let mut granted: Capabilities = match (request.drop.all, request.add.all) {
        (true, _) => Capabilities::new(),
        (false, true) => bounding.clone(),
        (false, false) => request.defaults.intersection(bounding).copied().collect(),
    };
    for capability in request.add.named.difference(&request.drop.named).copied() {
        if !bounding.contains(&capability) {
            return Err(SpecError::CapabilityNotHere { capability });
        }
        granted.insert(capability);
    }
    Ok(granted.difference(&request.drop.named).copied().collect())
}

/// The five sets.
pub(super) fn capability_sets(
    granted: &Capabilities,
    security: &SecurityRequest,
) -> Result<LinuxCapabilities, SpecError> {
    let ambient = &security.capabilities.ambient;
    if let Some(capability) = ambient.difference(granted).next().copied() {
        return Err(SpecError::AmbientNotGranted { capability });
    }
    let inheritable = match security.capabilities.inheritable {
        Inheritable::Ambient => ambient,
        Inheritable::Granted => granted,
    };
    let sets = LinuxCapabilitiesBuilder::default()
        .bounding(granted.clone())
        .effective(granted.clone())
        .permitted(granted.clone())
        .inheritable(inheritable.clone())
        .ambient(ambient.clone());
    Ok(sets.build().expect("every field has a default"))
}

/// The profile's name for the OCI spec. Privilege lifts none that was asked for by its name.
pub(super) fn apparmor_profile(security: &SecurityRequest) -> Result<Option<String>, SpecError> {
    const UNCONFINED: &str = "unconfined";
    match &security.apparmor {
        AppArmor::Absent => Ok(None),
        AppArmor::Unconfined => Ok(Some(UNCONFINED.to_owned())),
        AppArmor::Profile(name) => {
            without_nul("the AppArmor profile's name", name)?;
            Ok(Some(name.clone()))
        }
    }
}

/// Process and mount label.
pub(super) fn selinux_labels(security: &SecurityRequest) -> Result<(Option<String>, Option<String>), SpecError> {
    let SelinuxLabels { process, mount } = &security.selinux;
    for label in [process, mount].into_iter().flatten() {
        without_nul("the SELinux label", label)?;
    }
    Ok((process.clone(), mount.clone()))
}

/// Masked and read-only paths; none where there are none.
pub(super) fn hidden_paths(security: &SecurityRequest) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let list = |paths: &[ContainerPath]| match (security.privilege, paths) {
        (Privilege::Privileged, _) | (Privilege::Confined, []) => None,
        (Privilege::Confined, paths) => Some(paths.iter().map(ToString::to_string).collect()),
    };
    (list(&security.masked_paths), list(&security.readonly_paths))
}

pub(super) fn no_new_privileges(security: &SecurityRequest) -> bool {
    security.new_privileges == NewPrivileges::Forbidden
}

/// Paths that tell about the node or its other containers. For requests that have no security context at all; the
/// kubelet sends its own list.
pub fn default_masked_paths() -> Vec<ContainerPath> {
    paths(&[
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
    ])
}

/// Paths through which the node could be changed. For requests that have no security context at all.
pub fn default_readonly_paths() -> Vec<ContainerPath> {
    paths(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"])
}

fn paths(texts: &[&str]) -> Vec<ContainerPath> {
    texts
        .iter()
        .map(|text| ContainerPath::parse(text).expect("a literal path"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::security;
    use super::*;

    fn bounding() -> Capabilities {
        [
            Capability::Chown,
            Capability::Kill,
            Capability::NetAdmin,
            Capability::SysAdmin,
        ]
        .into()
    }

    fn request(defaults: &[Capability], add: &[&str], drop: &[&str]) -> SecurityRequest {
        SecurityRequest {
            capabilities: CapabilityRequest {
                defaults: defaults.iter().copied().collect(),
                add: CapabilityList::parse(add).expect("known"),
                drop: CapabilityList::parse(drop).expect("known"),
                ..CapabilityRequest::default()
            },
            ..security()
        }
    }

    #[test]
    fn adding_and_dropping_gives_what_the_interface_says() {
        use Capability::{Chown, Kill, NetAdmin, SysAdmin};
        for (add, drop, expected) in [
            (&[][..], &[][..], &[Chown, Kill][..]),
            (&["NET_ADMIN"], &[], &[Chown, Kill, NetAdmin]),
            (&["net_admin"], &["CAP_KILL"], &[Chown, NetAdmin]),
            (&[], &["ALL"], &[]),
            (&["CAP_NET_ADMIN"], &["all"], &[NetAdmin]),
            (&["ALL"], &[], &[Chown, Kill, NetAdmin, SysAdmin]),
            (&["ALL"], &["SYS_ADMIN"], &[Chown, Kill, NetAdmin]),
            (&["ALL"], &["ALL"], &[]),
            (&["ALL", "KILL"], &["ALL"], &[Kill]),
            (&["KILL"], &["KILL"], &[Chown]),
        ] {
            let got = granted(&request(&[Chown, Kill], add, drop), &bounding()).expect("all here");
            assert_eq!(got, expected.iter().copied().collect(), "add {add:?} drop {drop:?}");
        }
    }

    #[test]
    fn all_and_privileged_mean_what_this_node_has() {
        let mut privileged = request(&[], &[], &["ALL"]);
        privileged.privilege = Privilege::Privileged;
        assert_eq!(granted(&privileged, &bounding()), Ok(bounding()));
        assert_eq!(granted(&request(&[], &["ALL"], &[]), &bounding()), Ok(bounding()));
    }

    #[test]
    fn a_default_this_node_lacks_is_left_out_and_a_named_one_is_refused() {
        let resource = Capability::SysResource;
        assert_eq!(
            granted(&request(&[resource], &[], &[]), &bounding()),
            Ok(Capabilities::new())
        );
        assert_eq!(
            granted(&request(&[], &["SYS_RESOURCE"], &[]), &bounding()),
            Err(SpecError::CapabilityNotHere { capability: resource })
        );
        assert_eq!(
            granted(&request(&[], &["SYS_RESOURCE"], &["SYS_RESOURCE"]), &bounding()),
            Ok(Capabilities::new())
        );
    }

    #[test]
    fn what_is_granted_is_inheritable_only_where_that_is_asked_for() {
        use Capability::{Chown, Kill};
        for (inheritable, expected) in [
            (Inheritable::Ambient, &[Kill][..]),
            (Inheritable::Granted, &[Chown, Kill]),
        ] {
            let mut asked = request(&[Chown, Kill], &[], &[]);
            asked.capabilities.ambient = [Kill].into();
            asked.capabilities.inheritable = inheritable;
            let sets = capability_sets(&[Chown, Kill].into(), &asked).expect("granted");
            assert_eq!(*sets.inheritable(), Some(expected.iter().copied().collect()));
            assert_eq!(*sets.ambient(), Some([Kill].into()));
        }
    }

    #[test]
    fn every_capability_of_the_kernel_has_a_name_here() {
        let names = [
            "AUDIT_CONTROL",
            "AUDIT_READ",
            "AUDIT_WRITE",
            "BLOCK_SUSPEND",
            "BPF",
            "CHECKPOINT_RESTORE",
            "CHOWN",
            "DAC_OVERRIDE",
            "DAC_READ_SEARCH",
            "FOWNER",
            "FSETID",
            "IPC_LOCK",
            "IPC_OWNER",
            "KILL",
            "LEASE",
            "LINUX_IMMUTABLE",
            "MAC_ADMIN",
            "MAC_OVERRIDE",
            "MKNOD",
            "NET_ADMIN",
            "NET_BIND_SERVICE",
            "NET_BROADCAST",
            "NET_RAW",
            "PERFMON",
            "SETFCAP",
            "SETGID",
            "SETPCAP",
            "SETUID",
            "SYS_ADMIN",
            "SYS_BOOT",
            "SYS_CHROOT",
            "SYS_MODULE",
            "SYS_NICE",
            "SYS_PACCT",
            "SYS_PTRACE",
            "SYS_RAWIO",
            "SYS_RESOURCE",
            "SYS_TIME",
            "SYS_TTY_CONFIG",
            "SYSLOG",
            "WAKE_ALARM",
        ];
        let known = CapabilityList::parse(&names).expect("known").named;
        assert_eq!(known.len(), 41);
        assert_eq!(capabilities_of_mask(u64::MAX), known);
    }

    #[test]
    fn a_mask_has_a_bit_for_each_number() {
        assert_eq!(capabilities_of_mask(0), Capabilities::new());
        assert_eq!(capabilities_of_mask(0x5fb), DEFAULT_CAPABILITIES.into());
        assert_eq!(capabilities_of_mask(1 << 24), [Capability::SysResource].into());
        assert_eq!(
            capabilities_of_mask(1 << 40 | 1 << 41),
            [Capability::CheckpointRestore].into()
        );
    }

    #[test]
    fn an_unknown_capability_is_refused() {
        for name in ["", "CAP_", "EVERYTHING", "CAP_CAP_KILL", "CAP_ALL", "KILL "] {
            assert!(
                matches!(CapabilityList::parse(&[name]), Err(SpecError::UnknownCapability { .. })),
                "{name:?}"
            );
        }
    }

    #[test]
    fn nothing_is_inheritable_but_what_is_ambient() {
        let mut security = request(&[Capability::Chown, Capability::Kill], &[], &[]);
        let all = granted(&security, &bounding()).expect("all here");
        let sets = capability_sets(&all, &security).expect("good");
        assert_eq!(sets.inheritable(), &Some(Capabilities::new()));
        assert_eq!(sets.ambient(), &Some(Capabilities::new()));
        assert_eq!(sets.bounding(), &Some(all.clone()));

        security.capabilities.ambient = [Capability::Kill].into();
        let sets = capability_sets(&all, &security).expect("good");
        assert_eq!(
            (sets.inheritable(), sets.ambient()),
            (&Some([Capability::Kill].into()), &Some([Capability::Kill].into()))
        );

        security.capabilities.ambient = [Capability::SysAdmin].into();
        assert_eq!(
            capability_sets(&all, &security).map(|_| ()),
            Err(SpecError::AmbientNotGranted {
                capability: Capability::SysAdmin
            })
        );
    }

    #[test]
    fn privilege_lifts_masks_and_keeps_the_profile_that_was_asked_for() {
        let mut security = SecurityRequest {
            masked_paths: default_masked_paths(),
            readonly_paths: default_readonly_paths(),
            apparmor: AppArmor::Profile("crio-default".into()),
            ..security()
        };
        assert_eq!(apparmor_profile(&security), Ok(Some("crio-default".into())));
        let (masked, readonly) = hidden_paths(&security);
        assert!(masked.expect("some").contains(&"/proc/kcore".into()));
        assert!(readonly.expect("some").contains(&"/proc/sys".into()));

        security.privilege = Privilege::Privileged;
        assert_eq!(apparmor_profile(&security), Ok(Some("crio-default".into())));
        assert_eq!(hidden_paths(&security), (None, None));

        security.apparmor = AppArmor::Absent;
        assert_eq!(apparmor_profile(&security), Ok(None));
    }
}
