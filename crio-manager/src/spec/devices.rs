//! Device nodes inside the container, and which devices it may open.

use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use super::error::{SpecError, excerpt};
use super::path::ContainerPath;
use super::security::Privilege;

/// A device of the node, as it appears inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub container_path: ContainerPath,
    pub kind: DeviceKind,
    pub major: u32,
    pub minor: u32,
    /// Permission bits of the node inside.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub access: DeviceAccess,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    Block,
    Character,
}

/// Letters of "rwm", each at most once: read, write, make a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceAccess(String);

impl DeviceAccess {
    pub fn all() -> Self {
        Self("rwm".to_owned())
    }

    /// The letters in any order; `None` for any other text, and for none at all.
    pub fn parse(text: &str) -> Option<Self> {
        let known = !text.is_empty() && text.chars().all(|letter| "rwm".contains(letter));
        known.then(|| Self("rwm".chars().filter(|letter| text.contains(*letter)).collect()))
    }
}

/// Nodes to make, and rules for the cgroup: nothing, then what is listed; everything for a privileged container. The
/// runtime adds the few that every container has: null, zero, full, random, urandom, tty, console, ptmx.
pub(super) fn devices(
    asked: &[Device],
    privilege: Privilege,
) -> Result<(Option<Vec<LinuxDevice>>, Vec<LinuxDeviceCgroup>), SpecError> {
    let mut nodes = Vec::new();
    let mut rules = vec![rule(privilege == Privilege::Privileged, None, "rwm")];
    for device in asked
        .iter()
        .filter(|device| !is_made_by_the_runtime(&device.container_path))
    {
        if device.container_path.is_root() || device.container_path.is_at_or_beneath("/proc") {
            let path = excerpt(device.container_path.as_str());
            return Err(SpecError::Device {
                path,
                reason: "no device can be there",
            });
        }
        nodes.push(node(device));
        if privilege == Privilege::Confined {
            rules.push(rule(true, Some(device), &device.access.0));
        }
    }
    Ok(((!nodes.is_empty()).then_some(nodes), rules))
}

/// These belong to the container's own terminals and file systems; the node's would take their place.
fn is_made_by_the_runtime(path: &ContainerPath) -> bool {
    [
        "/dev/console",
        "/dev/ptmx",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/dev/fd",
    ]
    .iter()
    .any(|own| path.is_at_or_beneath(own))
}

fn kind(device: &Device) -> LinuxDeviceType {
    match device.kind {
        DeviceKind::Block => LinuxDeviceType::B,
        DeviceKind::Character => LinuxDeviceType::C,
    }
}

fn node(device: &Device) -> LinuxDevice {
    LinuxDeviceBuilder::default()
        .path(device.container_path.as_str())
        .typ(kind(device))
        .major(device.major)
        .minor(device.minor)
        .file_mode(device.mode)
        .uid(device.uid)
        .gid(device.gid)
        .build()
        .expect("every field has a default")
}

/// Without a device, the rule is for all of them.
fn rule(allow: bool, device: Option<&Device>, access: &str) -> LinuxDeviceCgroup {
    let rule = LinuxDeviceCgroupBuilder::default().allow(allow).access(access);
    let rule = match device {
        Some(device) => rule.typ(kind(device)).major(device.major).minor(device.minor),
        None => rule,
    };
    rule.build().expect("every field has a default")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(path: &str) -> Device {
        Device {
            container_path: ContainerPath::parse(path).expect(path),
            kind: DeviceKind::Character,
            major: 10,
            minor: 229,
            mode: 0o666,
            uid: 0,
            gid: 0,
            access: DeviceAccess::all(),
        }
    }

    #[test]
    fn access_is_written_in_one_way() {
        for (text, expected) in [("rwm", "rwm"), ("mr", "rm"), ("w", "w"), ("rrr", "r")] {
            assert_eq!(DeviceAccess::parse(text), Some(DeviceAccess(expected.into())));
        }
        for text in ["", "x", "rwx", "r w", "RW"] {
            assert_eq!(DeviceAccess::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_container_may_open_what_is_listed_and_a_privileged_one_all() {
        let access = DeviceAccess::parse("r").expect("known");
        let asked = [Device {
            access,
            ..device("/dev/fuse")
        }];
        let (nodes, rules) = devices(&asked, Privilege::Confined).expect("good");
        assert_eq!(nodes.map(|n| n.len()), Some(1));
        let rules: Vec<_> = rules
            .iter()
            .map(|r| (r.allow(), r.major(), r.access().clone()))
            .collect();
        assert_eq!(
            rules,
            [(false, None, Some("rwm".into())), (true, Some(10), Some("r".into()))]
        );

        let (nodes, rules) = devices(&asked, Privilege::Privileged).expect("good");
        assert_eq!(nodes.map(|n| n.len()), Some(1));
        assert_eq!(
            rules.iter().map(|r| (r.allow(), r.major())).collect::<Vec<_>>(),
            [(true, None)]
        );
        assert_eq!(
            devices(&[], Privilege::Confined).map(|(nodes, rules)| (nodes, rules.len())),
            Ok((None, 1))
        );
    }

    #[test]
    fn the_nodes_terminals_stay_outside() {
        for path in ["/dev/console", "/dev/pts/0", "/dev/ptmx", "/dev/shm/x", "/dev/fd/3"] {
            assert_eq!(
                devices(&[device(path)], Privilege::Privileged).map(|(nodes, _)| nodes),
                Ok(None),
                "{path}"
            );
        }
        assert!(devices(&[device("/proc/x")], Privilege::Confined).is_err());
    }
}
