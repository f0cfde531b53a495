//! Registries that may be reached without proof of who they are.

use crate::drivers::image::error::{Error, Result};
use crate::drivers::image::reference::is_registry_host;
use std::net::IpAddr;

/// A registry that may be reached without proof of who it is: over TLS unverified or, without TLS, over plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InsecureRegistry {
    Host(String),
    Network { address: IpAddr, prefix: u32 },
}

impl InsecureRegistry {
    /// Reads `host`, `host:port` or an address range (`10.0.0.0/8`).
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |reason| Error::InvalidSetting {
            setting: "insecure_registries",
            value: text.to_owned(),
            reason,
        };
        if let Some((address, prefix)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| invalid("not an address range"))?;
            let longest = if address.is_ipv4() { 32 } else { 128 };
            let prefix = prefix.parse().ok().filter(|prefix| *prefix <= longest);
            return Ok(Self::Network {
                address,
                prefix: prefix.ok_or_else(|| invalid("not an address range"))?,
            });
        }
        if !is_registry_host(text) {
            return Err(invalid("neither a host with an optional port nor an address range"));
        }
        Ok(Self::Host(text.to_ascii_lowercase()))
    }

    /// Whether `registry` (`host[:port]`) is meant. A host without a port means every port of it.
    pub(super) fn means(&self, registry: &str) -> bool {
        let host = host_of(registry);
        match self {
            Self::Host(listed) => listed == registry || listed == host,
            Self::Network { address, prefix } => match (address, address_of(host)) {
                (IpAddr::V4(network), Some(IpAddr::V4(host))) => {
                    let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
                    network.to_bits() & mask == host.to_bits() & mask
                }
                (IpAddr::V6(network), Some(IpAddr::V6(host))) => {
                    let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
                    network.to_bits() & mask == host.to_bits() & mask
                }
                _ => false,
            },
        }
    }
}

pub(super) fn host_of(registry: &str) -> &str {
    match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => registry,
    }
}

pub(super) fn address_of(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insecure_registries_are_hosts_ports_and_ranges() {
        let means = |listed: &str, registry: &str| InsecureRegistry::parse(listed).unwrap().means(registry);
        assert!(means("127.0.0.1:5000", "127.0.0.1:5000"));
        assert!(!means("127.0.0.1:5000", "127.0.0.1:5001"));
        assert!(means("registry.local", "registry.local:5000"));
        assert!(!means("registry.local", "other.local:5000"));
        assert!(means("10.0.0.0/8", "10.9.8.7:5000"));
        assert!(!means("10.0.0.0/8", "11.9.8.7"));
        assert!(means("0.0.0.0/0", "1.2.3.4"));
        assert!(means("::1/128", "[::1]:5000"));
        assert!(!means("::1/128", "[::2]:5000"));
        assert!(!means("10.0.0.0/8", "ten.example"));
        for text in ["", "10.0.0.0/33", "http://x", "a/b", "-x"] {
            assert!(InsecureRegistry::parse(text).is_err(), "{text}");
        }
    }
}
