//! What a pod asks of the network, and what it got.

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::model::name::Pairs;

pub use crate::model::sandbox::{PortMapping, PortProtocol as Protocol};

/// The interface every pod has.
pub const POD_INTERFACE: &str = "eth0";

/// Limits of a pod's traffic, bits per second and bits; absent is unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bandwidth {
    pub ingress_bits_per_second: Option<u64>,
    pub egress_bits_per_second: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// A pod that wants to be on the network.
#[derive(Debug, Clone, Default)]
pub struct PodNetwork {
    pub sandbox_id: String,
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub netns: PathBuf,
    pub port_mappings: Vec<PortMapping>,
    pub bandwidth: Option<Bandwidth>,
    pub dns: Option<Dns>,
    /// The cgroup that its client made for it; empty if it names none.
    pub cgroup_parent: String,
    pub annotations: Pairs,
    pub mac: Option<String>,
    /// Passed to the address plugin as it is: a list of lists of ranges.
    pub ip_ranges: Option<Value>,
}

/// The capability of plugins that read the annotations of pods, as the field's other runtimes call it.
const POD_ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("pod {field} {value:?} cannot be told to a network plugin")]
pub struct Unspeakable {
    pub field: &'static str,
    pub value: String,
}

impl PodNetwork {
    /// `CNI_ARGS`: pairs with `;` between them and no way to escape, so a value with `;` or `=` in it is refused.
    pub fn args(&self) -> Result<String, Unspeakable> {
        let mut args = "IgnoreUnknown=1".to_owned();
        for (key, field, value) in [
            ("K8S_POD_NAMESPACE", "namespace", &self.namespace),
            ("K8S_POD_NAME", "name", &self.name),
            ("K8S_POD_INFRA_CONTAINER_ID", "sandbox id", &self.sandbox_id),
            ("K8S_POD_UID", "uid", &self.uid),
        ] {
            if value.chars().any(|c| matches!(c, ';' | '=') || c.is_control()) {
                return Err(Unspeakable {
                    field,
                    value: value.clone(),
                });
            }
            args.push_str(&format!(";{key}={value}"));
        }
        Ok(args)
    }

    /// The well-known capabilities that this pod has something to say about.
    pub fn runtime_config(&self) -> Map<String, Value> {
        let mut config = Map::new();
        let ports: Vec<Value> = self
            .port_mappings
            .iter()
            .filter(|port| port.host_port != 0)
            .map(port_mapping)
            .collect();
        if !ports.is_empty() {
            config.insert("portMappings".to_owned(), Value::Array(ports));
        }
        if let Some(limits) = &self.bandwidth {
            let limits = bandwidth(limits);
            if !limits.is_empty() {
                config.insert("bandwidth".to_owned(), Value::Object(limits));
            }
        }
        if let Some(dns) = &self.dns {
            let dns = json!({ "servers": dns.servers, "searches": dns.searches, "options": dns.options });
            config.insert("dns".to_owned(), dns);
        }
        if !self.cgroup_parent.is_empty() {
            config.insert("cgroupPath".to_owned(), self.cgroup_parent.clone().into());
        }
        if !self.annotations.is_empty() {
            config.insert(POD_ANNOTATIONS.to_owned(), json!(self.annotations));
        }
        if let Some(mac) = &self.mac {
            config.insert("mac".to_owned(), mac.clone().into());
        }
        if let Some(ranges) = &self.ip_ranges {
            config.insert("ipRanges".to_owned(), ranges.clone());
        }
        config
    }
}

fn port_mapping(port: &PortMapping) -> Value {
    let mut mapping = json!({
        "hostPort": port.host_port,
        "containerPort": port.container_port,
        "protocol": port.protocol.as_str(),
    });
    if let (Some(host_ip), Value::Object(mapping)) = (port.host_ip, &mut mapping) {
        mapping.insert("hostIP".to_owned(), host_ip.to_string().into());
    }
    mapping
}

/// A burst must be given with a rate; what the traffic shaper can count at most stands for "as much as you like".
fn bandwidth(limits: &Bandwidth) -> Map<String, Value> {
    const BURST_BITS: u32 = i32::MAX as u32;
    let mut config = Map::new();
    if let Some(rate) = limits.ingress_bits_per_second {
        config.insert("ingressRate".to_owned(), rate.into());
        config.insert("ingressBurst".to_owned(), BURST_BITS.into());
    }
    if let Some(rate) = limits.egress_bits_per_second {
        config.insert("egressRate".to_owned(), rate.into());
        config.insert("egressBurst".to_owned(), BURST_BITS.into());
    }
    config
}

/// A pod's place on the network.
#[derive(Debug, Clone, PartialEq)]
pub struct Attachment {
    pub network: String,
    pub interface: String,
    /// The primary address first.
    pub ips: Vec<IpAddr>,
    /// The plugins' result as it came, for verbose status.
    pub result: Value,
}

impl Attachment {
    /// Reads the addresses that are the pod's: a result may also list those of the node's side.
    pub fn from_result(network: &str, interface: &str, result: Value) -> Attachment {
        let interfaces = result.get("interfaces").and_then(Value::as_array);
        let of_pod = |ip: &&Value| {
            let index = ip
                .get("interface")
                .and_then(Value::as_u64)
                .and_then(|index| usize::try_from(index).ok());
            match (index, interfaces) {
                (Some(index), Some(all)) => all.get(index).is_none_or(|one| {
                    one.get("sandbox")
                        .and_then(Value::as_str)
                        .is_some_and(|sandbox| !sandbox.is_empty())
                }),
                _ => true,
            }
        };
        let ips = result
            .get("ips")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter(of_pod);
        let ips = ips
            .filter_map(|ip| ip.get("address").and_then(Value::as_str))
            .filter_map(|address| address.split('/').next())
            .filter_map(|address| address.parse().ok())
            .collect();
        Attachment {
            network: network.to_owned(),
            interface: interface.to_owned(),
            ips,
            result,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_pod_can_smuggle_an_argument(name in ".{0,40}", namespace in "[a-z;=]{0,12}", uid in ".{0,12}") {
            let pod = PodNetwork { sandbox_id: "s".to_owned(), name, namespace, uid, ..Default::default() };
            if let Ok(args) = pod.args() {
                let pairs: Vec<_> = args.split(';').map(|pair| pair.split('=').collect::<Vec<_>>()).collect();
                prop_assert_eq!(pairs.len(), 5);
                prop_assert!(pairs.iter().all(|pair| pair.len() == 2), "{}", args);
                prop_assert!(!args.contains(['\n', '\0']));
            }
        }
    }

    #[test]
    fn args_are_in_the_order_that_plugins_know() {
        let text = |text: &str| text.to_owned();
        let pod = PodNetwork {
            sandbox_id: text("5b"),
            name: text("web-0"),
            namespace: text("shop"),
            uid: text("u-1"),
            ..Default::default()
        };
        assert_eq!(
            pod.args().unwrap(),
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=5b;K8S_POD_UID=u-1"
        );
        let bad = PodNetwork {
            name: text("a;K8S_POD_UID=b"),
            ..pod
        };
        assert_eq!(bad.args().unwrap_err().field, "name");
    }

    #[test]
    fn a_port_without_a_host_port_is_no_mapping() {
        let port = PortMapping {
            host_ip: None,
            host_port: 0,
            container_port: 80,
            protocol: Protocol::Tcp,
        };
        let pod = PodNetwork {
            port_mappings: vec![port.clone()],
            ..Default::default()
        };
        assert!(pod.runtime_config().is_empty());
        let port = PortMapping {
            host_port: 8080,
            host_ip: Some([127, 0, 0, 1].into()),
            ..port
        };
        let pod = PodNetwork {
            port_mappings: vec![port],
            ..Default::default()
        };
        assert_eq!(
            Value::Object(pod.runtime_config()),
            json!({ "portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}
            ] })
        );
    }

    #[test]
    fn only_addresses_of_the_pod_count_the_first_is_primary() {
        let result = json!({
            "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/netns/a"}],
            "ips": [
                {"address": "10.88.0.1/16", "interface": 0},
                {"address": "10.88.0.7/16", "interface": 1},
                {"address": "fd00::7/64", "interface": 1},
                {"address": "192.0.2.1/32"},
                {"address": "nonsense"},
            ],
        });
        let ips = Attachment::from_result("n", "eth0", result).ips;
        let expected: Vec<IpAddr> = ["10.88.0.7", "fd00::7", "192.0.2.1"]
            .iter()
            .map(|ip| ip.parse().unwrap())
            .collect();
        assert_eq!(ips, expected);
    }
}
