//! Host ports in nftables' words: one table, always written whole. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use crate::model::sandbox::{PortMapping, PortProtocol};

/// In the family `inet`; ours alone.
pub const TABLE: &str = "crio_hostports";

/// The bit of a packet's mark that the field's port-mapping plugin means "to be masqueraded" by, and so do we.
const MASQUERADE_MARK: &str = "0x2000";

/// An address, and how many of its bits are its network's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodAddress {
    pub ip: IpAddr,
    pub prefix: u8,
}

/// The addresses that ports lead to: the pod's first of each family, from the result of its plugins.
pub fn pod_addresses(ips: &[IpAddr], result: &Value) -> Vec<PodAddress> {
    let texts: Vec<&str> = result
        .get("ips")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|ip| ip.get("address").and_then(Value::as_str))
        .collect();
    let first = |is_of_family: fn(&&IpAddr) -> bool| ips.iter().find(is_of_family);
    [first(|ip| ip.is_ipv4()), first(|ip| ip.is_ipv6())]
        .into_iter()
        .flatten()
        .map(|ip| {
            let told = texts.iter().filter_map(|text| text.split_once('/'));
            let prefix = told
                .filter(|(address, _)| address.parse() == Ok(*ip))
                .find_map(|(_, prefix)| prefix.parse().ok())
                .filter(|prefix| *prefix <= bits(*ip));
            PodAddress {
                ip: *ip,
                prefix: prefix.unwrap_or(bits(*ip)),
            }
        })
        .collect()
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

impl PodAddress {
    fn network(self) -> PodAddress {
        let ip = match self.ip {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(ip) & mask))
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(ip) & mask))
            }
        };
        PodAddress {
            ip,
            prefix: self.prefix,
        }
    }

    /// Two networks are beside each other, or one is in the other.
    fn holds(self, other: PodAddress) -> bool {
        let prefix = self.prefix;
        prefix <= other.prefix && (PodAddress { prefix, ..other }).network() == self
    }
}

/// A port of the node that leads to an address of a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lead {
    pub mapping: PortMapping,
    pub to: PodAddress,
}

impl Lead {
    /// One for each family that the mapping is of and the pod has.
    pub fn all(mapping: &PortMapping, addresses: &[PodAddress]) -> Vec<Lead> {
        let is_of_family = |to: &&PodAddress| mapping.host_ip.is_none_or(|ip| ip.is_ipv4() == to.ip.is_ipv4());
        let lead = |to: &PodAddress| Lead {
            mapping: mapping.clone(),
            to: *to,
        };
        addresses.iter().filter(is_of_family).map(lead).collect()
    }
}

/// What one family's maps and sets hold.
#[derive(Default)]
struct Elements {
    /// Ports on every address of the node.
    anywhere: Vec<String>,
    /// Ports on one address.
    at: Vec<String>,
    /// Networks whose own traffic to a port comes back to them only if the node stands in between.
    near: BTreeMap<(PortProtocol, u16), Vec<PodAddress>>,
}

impl Elements {
    fn add(&mut self, Lead { mapping, to }: &Lead) {
        let (protocol, port) = (mapping.protocol.as_str(), mapping.host_port);
        let target = format!("{} . {}", to.ip, mapping.container_port);
        match mapping.host_ip {
            Some(ip) if !ip.is_unspecified() => self.at.push(format!("{protocol} . {port} . {ip} : {target}")),
            _ => self.anywhere.push(format!("{protocol} . {port} : {target}")),
        }
        self.add_near(mapping, to.network());
        if to.ip.is_ipv4() {
            let loopback = PodAddress {
                ip: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)),
                prefix: 8,
            };
            self.add_near(mapping, loopback);
        }
    }

    /// A set takes no two intervals that overlap.
    fn add_near(&mut self, mapping: &PortMapping, network: PodAddress) {
        let networks = self.near.entry((mapping.protocol, mapping.host_port)).or_default();
        if !networks.iter().any(|known| known.holds(network)) {
            networks.retain(|known| !network.holds(*known));
            networks.push(network);
        }
    }

    fn near(&self) -> Vec<String> {
        let element = |((protocol, port), networks): (&(PortProtocol, u16), &Vec<PodAddress>)| {
            let protocol = protocol.as_str();
            let texts = networks
                .iter()
                .map(|network| format!("{protocol} . {port} . {}/{}", network.ip, network.prefix));
            texts.collect::<Vec<_>>()
        };
        self.near.iter().flat_map(element).collect()
    }
}

/// The whole table, in place of the one that is there: one transaction, in which no packet finds none.
///
/// nftables tells apart what a port leads to by maps, so that thousands of ports cost a packet what one does.
pub fn script(leads: &BTreeSet<Lead>) -> String {
    let (mut v4, mut v6) = (Elements::default(), Elements::default());
    for lead in leads {
        if lead.to.ip.is_ipv4() { &mut v4 } else { &mut v6 }.add(lead);
    }
    let mut text = format!("add table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
    for (family, kind, elements) in [("4", "ipv4_addr", &v4), ("6", "ipv6_addr", &v6)] {
        let port = "inet_proto . inet_service";
        let to = format!("{kind} . inet_service");
        declare(
            &mut text,
            &format!("map anywhere{family}"),
            &format!("type {port} : {to};"),
            &elements.anywhere,
        );
        declare(
            &mut text,
            &format!("map at{family}"),
            &format!("type {port} . {kind} : {to};"),
            &elements.at,
        );
        let near = format!("type {port} . {kind}; flags interval;");
        declare(&mut text, &format!("set near{family}"), &near, &elements.near());
    }
    text.push_str(&chains());
    text.push_str("}\n");
    text
}

fn declare(text: &mut String, what: &str, kind: &str, elements: &[String]) {
    let elements = match elements {
        [] => String::new(),
        elements => format!(" elements = {{ {} }}", elements.join(", ")),
    };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "  {what} {{ {kind}{elements} }}");
}

/// The rules, which are always the same.
///
/// A pod that talks to its own port, or its neighbour's, would be answered past the node, by an address that it does not
/// know; and nothing outside can answer 127.0.0.1: both are masqueraded. `::1` cannot be, and is left alone.
/// For 127.0.0.1 the kernel is told to route it (`route_localnet`); that nobody else may send there is what `guard` is for.
fn chains() -> String {
    format!(
        "  chain guard {{ type filter hook prerouting priority -300; policy accept;
    iifname != \"lo\" ip daddr 127.0.0.0/8 counter drop
  }}
  chain prerouting {{ type nat hook prerouting priority -100; policy accept;
    fib daddr type local goto lead
  }}
  chain output {{ type nat hook output priority -100; policy accept;
    ip6 daddr ::1 return
    fib daddr type local goto lead
  }}
  chain lead {{
    meta l4proto . th dport . ip saddr @near4 meta mark set meta mark or {MASQUERADE_MARK}
    meta l4proto . th dport . ip6 saddr @near6 meta mark set meta mark or {MASQUERADE_MARK}
    dnat ip to meta l4proto . th dport . ip daddr map @at4
    dnat ip to meta l4proto . th dport map @anywhere4
    dnat ip6 to meta l4proto . th dport . ip6 daddr map @at6
    dnat ip6 to meta l4proto . th dport map @anywhere6
  }}
  chain postrouting {{ type nat hook postrouting priority 100; policy accept;
    ct status dnat meta mark and {MASQUERADE_MARK} != 0 masquerade
  }}
"
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn address(text: &str) -> PodAddress {
        let (ip, prefix) = text.split_once('/').unwrap();
        PodAddress {
            ip: ip.parse().unwrap(),
            prefix: prefix.parse().unwrap(),
        }
    }

    fn mapping(host_ip: &str, protocol: PortProtocol, host_port: u16) -> PortMapping {
        PortMapping {
            protocol,
            container_port: 8080,
            host_port,
            host_ip: host_ip.parse().ok(),
        }
    }

    fn text(leads: impl IntoIterator<Item = Vec<Lead>>) -> String {
        script(&leads.into_iter().flatten().collect())
    }

    #[test]
    fn a_port_leads_to_the_first_address_of_each_family_it_is_of() {
        let both = [address("10.88.0.5/24"), address("fd00:88::5/64")];
        let all = text([Lead::all(&mapping("", PortProtocol::Tcp, 80), &both)]);
        assert!(all.contains("elements = { tcp . 80 : 10.88.0.5 . 8080 }"), "{all}");
        assert!(all.contains("elements = { tcp . 80 : fd00:88::5 . 8080 }"), "{all}");
        let one = text([Lead::all(&mapping("192.0.2.1", PortProtocol::Sctp, 80), &both)]);
        assert!(
            one.contains("elements = { sctp . 80 . 192.0.2.1 : 10.88.0.5 . 8080 }"),
            "{one}"
        );
        assert!(!one.contains("fd00"), "{one}");
        let sixth = text([Lead::all(&mapping("::", PortProtocol::Udp, 80), &both)]);
        assert!(
            sixth.contains("elements = { udp . 80 : fd00:88::5 . 8080 }") && !sixth.contains("10.88"),
            "{sixth}"
        );
        assert!(Lead::all(&mapping("fd00::1", PortProtocol::Udp, 80), &both[..1]).is_empty());
    }

    #[test]
    fn networks_that_lie_in_each_other_are_one_element() {
        let lead = |ip: &str, to: &str| Lead::all(&mapping(ip, PortProtocol::Tcp, 80), &[address(to)]);
        for order in [["10.88.3.5/24", "10.88.0.7/16"], ["10.88.0.7/16", "10.88.3.5/24"]] {
            let text = text([lead("192.0.2.1", order[0]), lead("192.0.2.2", order[1])]);
            assert!(
                text.contains("elements = { tcp . 80 . 10.88.0.0/16, tcp . 80 . 127.0.0.0/8 }")
                    || text.contains("elements = { tcp . 80 . 127.0.0.0/8, tcp . 80 . 10.88.0.0/16 }"),
                "{text}"
            );
        }
        assert_eq!(address("10.1.2.3/0").network(), address("0.0.0.0/0"));
        assert_eq!(address("fd00::5/128").network(), address("fd00::5/128"));
    }

    #[test]
    fn the_addresses_are_the_pods_own_with_the_width_of_their_networks() {
        let result = json!({ "ips": [
            {"address": "10.88.0.1/16"}, {"address": "10.88.0.7/24"}, {"address": "10.88.0.8/24"},
            {"address": "fd00::7/64"}, {"address": "fd00::9/900"},
        ] });
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(
            pod_addresses(&ips(&["10.88.0.7", "10.88.0.8", "fd00::7"]), &result),
            [address("10.88.0.7/24"), address("fd00::7/64")]
        );
        assert_eq!(pod_addresses(&ips(&["fd00::9"]), &result), [address("fd00::9/128")]);
        assert_eq!(pod_addresses(&ips(&["10.0.0.9"]), &json!(3)), [address("10.0.0.9/32")]);
    }
}
