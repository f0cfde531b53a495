//! Kernel settings of a pod: only those that belong to a namespace of its own.
//!
//! The list is closed. A name that is not on it, or whose namespace is the node's, would change the node.

use std::collections::{BTreeMap, HashMap};

use super::error::{SpecError, excerpt};
use super::namespaces::{Namespace, Namespaces};

/// Longer than any value that the kernel's namespaced settings take.
const VALUE_MAX_BYTES: usize = 1024;

/// Names as they go into the spec: with dots. Refused on the first that is not allowed.
pub(super) fn sysctls(
    asked: &BTreeMap<String, String>,
    namespaces: &Namespaces,
) -> Result<Option<HashMap<String, String>>, SpecError> {
    let mut settings = HashMap::with_capacity(asked.len());
    for (name, value) in asked {
        let refused = |reason| SpecError::Sysctl {
            name: excerpt(name),
            reason,
        };
        let dotted = dotted(name).ok_or_else(|| refused("not a name of letters, digits, hyphens and underscores"))?;
        let namespace = owner(&dotted, namespaces)
            .ok_or_else(|| refused("belongs to no namespace of a pod, so that it would change the node"))?;
        if namespace.is_host() {
            return Err(refused("the pod shares this namespace with the node"));
        }
        if !plain(value) {
            return Err(refused("its value is not plain words and numbers"));
        }
        settings.insert(dotted, value.clone());
    }
    Ok((!settings.is_empty()).then_some(settings))
}

/// `kernel/sem` and `kernel.sem` → `kernel.sem`. Parts have no dots of their own, so that none can be `..`.
fn dotted(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split(['.', '/']).collect();
    let good = |part: &&str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    };
    parts.iter().all(good).then(|| parts.join("."))
}

/// The namespace whose setting this is, if it is one of a namespace.
fn owner<'a>(name: &str, namespaces: &'a Namespaces) -> Option<&'a Namespace> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    match name {
        name if name.starts_with("net.") => Some(&namespaces.network),
        name if name.starts_with("fs.mqueue.") || IPC.contains(&name) => Some(&namespaces.ipc),
        "kernel.domainname" => Some(&namespaces.uts),
        _ => None,
    }
}

/// Numbers, words and lists: nothing that another program could read as a second setting.
fn plain(value: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b' ' | b'\t' | b',' | b'.' | b':' | b'_' | b'-' | b'/');
    value.len() <= VALUE_MAX_BYTES && value.bytes().all(good)
}

#[cfg(test)]
mod tests {
    use super::super::tests::namespaces;
    use super::*;

    fn one(name: &str, value: &str, namespaces: &Namespaces) -> Result<Option<HashMap<String, String>>, SpecError> {
        sysctls(&BTreeMap::from([(name.to_owned(), value.to_owned())]), namespaces)
    }

    #[test]
    fn settings_of_the_pods_namespaces_are_taken() {
        for (name, value, dotted) in [
            ("kernel.shm_rmid_forced", "1", "kernel.shm_rmid_forced"),
            ("fs.mqueue.msg_max", "100", "fs.mqueue.msg_max"),
            (
                "net.ipv4.ip_local_port_range",
                "1024\t65000",
                "net.ipv4.ip_local_port_range",
            ),
            (
                "net/ipv4/tcp_congestion_control",
                "bbr",
                "net.ipv4.tcp_congestion_control",
            ),
            ("kernel/sem", "250 32000 100 128", "kernel.sem"),
            ("net.ipv4.ping_group_range", "0 2147483647", "net.ipv4.ping_group_range"),
            (
                "net.ipv4.ip_local_reserved_ports",
                "",
                "net.ipv4.ip_local_reserved_ports",
            ),
        ] {
            let expected = HashMap::from([(dotted.to_owned(), value.to_owned())]);
            assert_eq!(one(name, value, &namespaces()), Ok(Some(expected)));
        }
        assert_eq!(sysctls(&BTreeMap::new(), &namespaces()), Ok(None));
    }

    #[test]
    fn settings_of_the_node_are_refused() {
        for name in [
            "kernel.core_pattern",
            "kernel.shm_next_id",
            "vm.overcommit_memory",
            "fs.file-max",
            "kernel.hostname",
            "net",
            "network.x",
            "kernel.semx",
            "net/../kernel/core_pattern",
            "net.../kernel/core_pattern",
            "net..ipv4",
            "net.ipv4.x=1",
            "net.ipv4.x+kernel.core_pattern",
            "",
            ".net.x",
            "net.x\0",
        ] {
            assert!(
                matches!(one(name, "1", &namespaces()), Err(SpecError::Sysctl { .. })),
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_value_cannot_carry_a_second_setting() {
        let long = "1".repeat(VALUE_MAX_BYTES + 1);
        for value in [
            "1+kernel.core_pattern=|/x",
            "1\nkernel.core_pattern=x",
            "a=b",
            "|x",
            "1\0",
            "$(x)",
            &long,
        ] {
            assert!(
                matches!(
                    one("kernel.shmmax", value, &namespaces()),
                    Err(SpecError::Sysctl { .. })
                ),
                "{value:?}"
            );
        }
    }

    #[test]
    fn a_setting_of_a_shared_namespace_is_refused() {
        for (name, host) in [
            (
                "net.ipv4.ip_forward",
                Namespaces {
                    network: Namespace::Host,
                    ..namespaces()
                },
            ),
            (
                "kernel.shmmax",
                Namespaces {
                    ipc: Namespace::Host,
                    ..namespaces()
                },
            ),
            (
                "fs.mqueue.msg_max",
                Namespaces {
                    ipc: Namespace::Host,
                    ..namespaces()
                },
            ),
            (
                "kernel.domainname",
                Namespaces {
                    uts: Namespace::Host,
                    ..namespaces()
                },
            ),
        ] {
            assert!(one(name, "1", &host).is_err(), "{name}");
            assert!(one(name, "1", &namespaces()).is_ok(), "{name}");
        }
    }
}
