//! RunPodSandbox.

use super::bandwidth::bandwidth;
use super::name::pod_metadata;
use super::namespaces::namespaces;
use super::path::absolute;
use super::security::{apparmor, seccomp, selinux};
use super::trust::{keeps_its_distance, trust};
use super::{Parsed, enum_value, no_nul, pairs, required, wrong};
use crate::model::name::{NAME_BYTES, Pairs};
use crate::model::sandbox::{Dns, PortMapping, PortProtocol, SandboxPlan};
use crate::model::security::{NamespaceMode, Namespaces};
use crate::model::{SandboxId, Timestamp};
use crate::spec;
use cri::v1;
use std::collections::HashMap;
use std::net::IpAddr;

/// Longest host name, in bytes: what the kernel takes.
const HOSTNAME_BYTES: usize = 64;

/// RunPodSandbox.
#[expect(deprecated, reason = "older clients say the seccomp profile in the older field")]
pub fn run_pod_sandbox(
    request: v1::RunPodSandboxRequest,
    random: [u8; 32],
    created_at: Timestamp,
) -> Parsed<SandboxPlan> {
    let config = required("config", request.config)?;
    let metadata = pod_metadata(config.metadata)?;
    let linux = config.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let namespaces = namespaces(security.namespace_options)?;
    if matches!(namespaces.pid, NamespaceMode::Target(_)) {
        return Err(wrong("namespace_options.pid", "TARGET is for containers"));
    }
    // It decides about the users of the pod's own process, which has none; a wrong value is wrong all the same.
    enum_value::<v1::SupplementalGroupsPolicy>(
        "linux.security_context.supplemental_groups_policy",
        security.supplemental_groups_policy,
    )?;
    let seccomp = seccomp(security.seccomp, &security.seccomp_profile_path)?;
    apparmor(security.apparmor, "")?;
    let host_network = namespaces.network == NamespaceMode::Node;
    let handler = request.runtime_handler;
    if handler.len() > NAME_BYTES || handler.chars().any(|c| c.is_control() || c == '/') {
        return Err(wrong("runtime_handler", "not a handler's name"));
    }
    let hostname = hostname(config.hostname)?;
    let annotations = pairs("config.annotations", config.annotations)?;
    keeps_its_distance(SandboxPlan {
        id: SandboxId::from_bytes(random),
        // A pod always has a name to itself; without one asked for, it is called like the pod.
        hostname: if host_network || !hostname.is_empty() {
            hostname
        } else {
            shortened(&metadata.name)
        },
        metadata,
        log_directory: match config.log_directory {
            none if none.is_empty() => None,
            directory => Some(absolute("log_directory", directory)?),
        },
        dns: config.dns_config.map(dns).transpose()?,
        port_mappings: port_mappings(config.port_mappings)?,
        bandwidth: bandwidth(&annotations)?,
        labels: pairs("config.labels", config.labels)?,
        trust: trust(&annotations)?,
        annotations,
        cgroup_parent: no_nul("linux.cgroup_parent", linux.cgroup_parent)?,
        sysctls: sysctls(linux.sysctls, &namespaces)?,
        namespaces,
        privileged: security.privileged,
        selinux: selinux(security.selinux_options),
        seccomp,
        runtime_handler: handler,
        created_at,
    })
}

fn shortened(name: &str) -> String {
    name.chars()
        .take(HOSTNAME_BYTES - 1)
        .collect::<String>()
        .trim_end_matches(['.', '-'])
        .to_owned()
}

fn hostname(value: String) -> Parsed<String> {
    let fits = value
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    if value.len() > HOSTNAME_BYTES || !fits {
        return Err(wrong(
            "hostname",
            format!("at most {HOSTNAME_BYTES} letters, digits, dots and hyphens"),
        ));
    }
    Ok(value)
}

fn dns(config: v1::DnsConfig) -> Parsed<Dns> {
    let words = |field: &str, values: Vec<String>| -> Parsed<Vec<String>> {
        match values
            .iter()
            .find(|word| word.is_empty() || word.contains(|c: char| c.is_whitespace() || c.is_control()))
        {
            Some(word) => Err(wrong(field, format!("{word:?} is not one word"))),
            None => Ok(values),
        }
    };
    Ok(Dns {
        servers: words("dns_config.servers", config.servers)?,
        searches: words("dns_config.searches", config.searches)?,
        options: words("dns_config.options", config.options)?,
    })
}

/// The most ports of the node that one pod may have.
const HOST_PORTS: usize = 4096;

fn port_mappings(mappings: Vec<v1::PortMapping>) -> Parsed<Vec<PortMapping>> {
    let mut parsed: Vec<PortMapping> = Vec::new();
    // The kubelet also lists ports that are not mapped.
    for mapping in mappings.into_iter().filter(|mapping| mapping.host_port != 0) {
        let mapping = port_mapping(mapping)?;
        match parsed.iter().find(|other| other.overlaps(&mapping)) {
            Some(same) if *same == mapping => continue,
            Some(other) => {
                return Err(wrong(
                    "port_mappings",
                    format!("{mapping} and {other} are the same port"),
                ));
            }
            None if parsed.len() == HOST_PORTS => {
                return Err(wrong("port_mappings", format!("more than {HOST_PORTS} host ports")));
            }
            None => parsed.push(mapping),
        }
    }
    Ok(parsed)
}

fn port_mapping(mapping: v1::PortMapping) -> Parsed<PortMapping> {
    let port = |field: &str, value: i32| match u16::try_from(value) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(wrong(field, format!("{value} is no port"))),
    };
    Ok(PortMapping {
        host_port: port("port_mappings.host_port", mapping.host_port)?,
        container_port: port("port_mappings.container_port", mapping.container_port)?,
        protocol: match enum_value::<v1::Protocol>("port_mappings.protocol", mapping.protocol)? {
            v1::Protocol::Tcp => PortProtocol::Tcp,
            v1::Protocol::Udp => PortProtocol::Udp,
            v1::Protocol::Sctp => PortProtocol::Sctp,
        },
        host_ip: host_ip(&mapping.host_ip)?,
    })
}

fn host_ip(asked: &str) -> Parsed<Option<IpAddr>> {
    let refused = |why: &str| wrong("port_mappings.host_ip", format!("{} {why}", spec::excerpt(asked)));
    if asked.is_empty() {
        return Ok(None);
    }
    let ip: IpAddr = asked.parse().map_err(|_| refused("is no address"))?;
    match ip.to_canonical() {
        ip if ip.is_multicast() => Err(refused("is no node's address")),
        // Linux has route_localnet for IPv4 alone.
        IpAddr::V6(ip) if ip.is_loopback() => Err(refused("leads nowhere: Linux keeps it on the loopback interface")),
        ip => Ok(Some(ip)),
    }
}

/// Only what a namespace of the pod holds: on the host's namespaces these would be settings of the host.
fn sysctls(values: HashMap<String, String>, namespaces: &Namespaces) -> Parsed<Pairs> {
    for (key, value) in &values {
        let host_namespace = match key.split('.').next() {
            Some("net") => namespaces.network == NamespaceMode::Node,
            Some("kernel" | "fs") => namespaces.ipc == NamespaceMode::Node,
            _ => false,
        };
        if host_namespace {
            return Err(wrong(
                "linux.sysctls",
                format!("{key:?} would change the host: the pod shares its namespace"),
            ));
        }
        if value.contains(|c: char| c.is_control()) {
            return Err(wrong(
                "linux.sysctls",
                format!("the value of {key:?} holds a control character"),
            ));
        }
    }
    pairs("linux.sysctls", values)
}

#[cfg(test)]
mod tests {
    use crate::service::parse::tests::{parsed_pod, refused};
    use cri::v1;

    #[test]
    fn a_port_is_a_port() {
        let port = |host_port, container_port| {
            parsed_pod(|pod| {
                pod.port_mappings = vec![v1::PortMapping {
                    host_port,
                    container_port,
                    ..Default::default()
                }];
            })
        };
        refused(port(70_000, 80), "host_port");
        refused(port(-1, 80), "host_port");
        refused(port(80, 0), "container_port");
        refused(port(80, 70_000), "container_port");
        assert!(port(0, 80).unwrap().port_mappings.is_empty(), "not mapped");
    }

    fn mapped(to: &[(&str, i32, i32)]) -> crate::service::parse::Parsed<crate::model::SandboxPlan> {
        parsed_pod(|pod| {
            let mapping = |(host_ip, host_port, container_port): &(&str, i32, i32)| v1::PortMapping {
                host_ip: (*host_ip).to_owned(),
                host_port: *host_port,
                container_port: *container_port,
                ..Default::default()
            };
            pod.port_mappings = to.iter().map(mapping).collect();
        })
    }

    #[test]
    fn a_host_port_is_asked_for_once_and_on_an_address_that_can_be() {
        let ports = |to: &[(&str, i32, i32)]| mapped(to).unwrap().port_mappings.len();
        assert_eq!(ports(&[("", 80, 8080), ("", 80, 8080)]), 1);
        assert_eq!(ports(&[("127.0.0.1", 80, 8080), ("10.0.0.1", 80, 8081)]), 2);
        refused(mapped(&[("", 80, 8080), ("", 80, 8081)]), "same port");
        refused(mapped(&[("", 80, 8080), ("127.0.0.1", 80, 8080)]), "same port");
        refused(mapped(&[("::1", 80, 8080)]), "loopback");
        refused(mapped(&[("224.0.0.1", 80, 8080)]), "host_ip");
        refused(mapped(&[("localhost", 80, 8080)]), "host_ip");
        let many: Vec<_> = (1..=4097).map(|port| ("", port, 80)).collect();
        refused(mapped(&many), "more than 4096");
        let v4 = mapped(&[("::ffff:10.0.0.1", 80, 8080)]).unwrap();
        assert_eq!(v4.port_mappings[0].host_ip, Some([10, 0, 0, 1].into()));
    }

    #[test]
    fn settings_of_the_host_are_out_of_reach() {
        let on_the_host = |key: &str| {
            let key = key.to_owned();
            parsed_pod(move |pod| {
                let linux = pod.linux.get_or_insert_default();
                linux.sysctls.insert(key, "1".into());
                let node = v1::NamespaceMode::Node.into();
                linux.security_context.get_or_insert_default().namespace_options = Some(v1::NamespaceOption {
                    network: node,
                    ipc: node,
                    ..Default::default()
                });
            })
        };
        refused(on_the_host("net.ipv4.ip_forward"), "change the host");
        refused(on_the_host("kernel.shmmax"), "change the host");
        refused(
            parsed_pod(|pod| {
                pod.linux
                    .get_or_insert_default()
                    .sysctls
                    .insert("net.core.somaxconn".into(), "1\n2".into());
            }),
            "control character",
        );
    }
}
