//! What the kernel remembers of where packets went (conntrack), so that it forgets it when a host port changes hands.
//!
//! It turns the packets of a flow as it turned the first one. TCP begins anew with each connection; a client of UDP or
//! SCTP that keeps its port would be led to the pod that had the host port before, or to nobody, for ever.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Tuple};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::TimeVal;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};

use crate::model::sandbox::{PortMapping, PortProtocol};

/// The kernel answers at once.
const ANSWER_SECONDS: i64 = 5;
/// What one read takes; the kernel fills no more than it is given.
const BUFFER_BYTES: usize = 64 * 1024;

/// Has the kernel forget the flows to these ports that outlive a change; how many there were.
pub async fn forget(mappings: &[PortMapping]) -> io::Result<usize> {
    let mappings: Vec<PortMapping> = mappings
        .iter()
        .filter(|mapping| mapping.protocol != PortProtocol::Tcp)
        .cloned()
        .collect();
    if mappings.is_empty() {
        return Ok(0);
    }
    let forgotten = tokio::task::spawn_blocking(move || forget_now(&mappings)).await;
    forgotten.unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
}

fn forget_now(mappings: &[PortMapping]) -> io::Result<usize> {
    let local = own_addresses()?;
    let netlink = Netlink::open()?;
    let mut forgotten = 0;
    for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
        // All are read before the first goes: one socket, one question at a time.
        let stale: Vec<Vec<Tuple>> = netlink
            .flows(family)?
            .into_iter()
            .filter(|flow| Flow::of(flow).is_some_and(|flow| flow.is_to_one_of(mappings, &local)))
            .collect();
        for flow in stale {
            netlink.forget(family, flow)?;
            forgotten += 1;
        }
    }
    Ok(forgotten)
}

fn own_addresses() -> io::Result<BTreeSet<IpAddr>> {
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    Ok(nix::ifaddrs::getifaddrs()?.filter_map(address).collect())
}

/// Where the first packet of a flow was sent to.
#[derive(Debug, PartialEq, Eq)]
struct Flow {
    protocol: PortProtocol,
    to: IpAddr,
    port: u16,
}

impl Flow {
    fn of(tuples: &[Tuple]) -> Option<Flow> {
        use netlink_packet_netfilter::conntrack::Protocol;
        let (mut protocol, mut to, mut port) = (None, None, None);
        for tuple in tuples {
            match tuple {
                Tuple::Ip(parts) => {
                    to = to.or(parts.iter().find_map(|part| match part {
                        IPTuple::DestinationAddress(ip) => Some(*ip),
                        _ => None,
                    }));
                }
                Tuple::Proto(parts) => {
                    for part in parts {
                        match part {
                            ProtoTuple::Protocol(Protocol::Udp) => protocol = Some(PortProtocol::Udp),
                            ProtoTuple::Protocol(Protocol::Sctp) => protocol = Some(PortProtocol::Sctp),
                            ProtoTuple::DestinationPort(number) => port = Some(*number),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Some(Flow {
            protocol: protocol?,
            to: to?,
            port: port?,
        })
    }

    fn is_to_one_of(&self, mappings: &[PortMapping], local: &BTreeSet<IpAddr>) -> bool {
        let is_local = self.to.is_loopback() || local.contains(&self.to);
        is_local
            && mappings.iter().any(|mapping| {
                let on_this_address = match mapping.host_ip {
                    None => true,
                    Some(ip) if ip.is_unspecified() => ip.is_ipv4() == self.to.is_ipv4(),
                    Some(ip) => ip == self.to,
                };
                (mapping.protocol, mapping.host_port) == (self.protocol, self.port) && on_this_address
            })
    }
}

struct Netlink(Socket);

impl Netlink {
    fn open() -> io::Result<Netlink> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(ANSWER_SECONDS, 0))?;
        Ok(Netlink(socket))
    }

    /// The original direction of every flow of this family.
    fn flows(&self, family: NetfilterProtoFamily) -> io::Result<Vec<Vec<Tuple>>> {
        self.ask(family, NLM_F_DUMP, ConntrackMessage::Get(Vec::new()))?;
        let mut flows = Vec::new();
        self.answers(|message| {
            if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner {
                flows.extend(attributes.into_iter().find_map(|attribute| match attribute {
                    ConntrackAttribute::CtaTupleOrig(tuples) => Some(tuples),
                    _ => None,
                }));
            }
        })?;
        Ok(flows)
    }

    /// One that is gone already is as good.
    fn forget(&self, family: NetfilterProtoFamily, flow: Vec<Tuple>) -> io::Result<()> {
        let message = ConntrackMessage::Delete(vec![ConntrackAttribute::CtaTupleOrig(flow)]);
        self.ask(family, NLM_F_ACK, message)?;
        match self.answers(|_| ()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            answered => answered,
        }
    }

    fn ask(&self, family: NetfilterProtoFamily, flags: u16, message: ConntrackMessage) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message);
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.0.send(&bytes, 0).map(drop)
    }

    /// Reads to the end of the answer: the mark of a dump's end, or an acknowledgement.
    fn answers(&self, mut each: impl FnMut(NetfilterMessage)) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = self.0.recv(&mut &mut buffer[..], 0)?;
            let mut rest = buffer.get(..count).unwrap_or_default();
            while !rest.is_empty() {
                let packet = NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(io::Error::other)?;
                match packet.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => return error.code.map_or(Ok(()), |_| Err(error.to_io())),
                    NetlinkPayload::InnerMessage(message) => each(message),
                    _ => {}
                }
                // Messages begin at multiples of four.
                let length = usize::try_from(packet.header.length).unwrap_or(0).next_multiple_of(4);
                rest = rest.get(length.max(4)..).unwrap_or_default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_netfilter::conntrack::Protocol;

    fn flow(protocol: Protocol, to: &str, port: u16) -> Vec<Tuple> {
        let here: IpAddr = [192, 0, 2, 9].into();
        vec![
            Tuple::Ip(vec![
                IPTuple::SourceAddress(here),
                IPTuple::DestinationAddress(to.parse().expect("an address")),
            ]),
            Tuple::Proto(vec![
                ProtoTuple::Protocol(protocol),
                ProtoTuple::SourcePort(40_000),
                ProtoTuple::DestinationPort(port),
            ]),
        ]
    }

    #[test]
    fn only_flows_to_the_nodes_own_addresses_and_these_ports_are_forgotten() {
        let mapping = |host_ip: &str| PortMapping {
            protocol: PortProtocol::Udp,
            container_port: 53,
            host_port: 53,
            host_ip: host_ip.parse().ok(),
        };
        let local = BTreeSet::from([IpAddr::from([10, 0, 0, 1])]);
        let stale =
            |of: Vec<Tuple>, host_ip| Flow::of(&of).is_some_and(|flow| flow.is_to_one_of(&[mapping(host_ip)], &local));
        assert!(stale(flow(Protocol::Udp, "10.0.0.1", 53), ""));
        assert!(stale(flow(Protocol::Udp, "127.0.0.1", 53), ""));
        assert!(stale(flow(Protocol::Udp, "127.0.0.1", 53), "0.0.0.0"));
        assert!(stale(flow(Protocol::Udp, "10.0.0.1", 53), "10.0.0.1"));
        assert!(!stale(flow(Protocol::Udp, "10.0.0.1", 53), "127.0.0.1"));
        assert!(!stale(flow(Protocol::Udp, "10.0.0.1", 53), "::"));
        assert!(
            !stale(flow(Protocol::Udp, "8.8.8.8", 53), ""),
            "a question to a resolver elsewhere"
        );
        assert!(!stale(flow(Protocol::Udp, "10.0.0.1", 54), ""));
        assert!(!stale(flow(Protocol::Sctp, "10.0.0.1", 53), ""));
        assert!(!stale(flow(Protocol::Tcp, "10.0.0.1", 53), ""));
        assert!(!stale(Vec::new(), ""));
    }
}
