//! Lets the node's own 127.0.0.1 reach a pod.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use futures::TryStreamExt;
use rtnetlink::packet_route::route::RouteAttribute;

/// Has the kernel route 127.0.0.0/8 over the interface that leads to this address.
///
/// Without it a packet that a rule has turned towards the pod is dropped for its source, and so is the answer for where
/// it goes. It stays: other rules may need it, and ours guard it.
pub async fn let_through(to: Ipv4Addr) -> io::Result<()> {
    let interface = interface_to(to).await?;
    let name = nix::net::if_::if_indextoname(interface)?;
    let name = name.to_str().map_err(io::Error::other)?;
    let setting = Path::new("/proc/sys/net/ipv4/conf").join(name).join("route_localnet");
    tokio::fs::write(setting, "1").await
}

async fn interface_to(to: Ipv4Addr) -> io::Result<u32> {
    let (connection, netlink, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let question = rtnetlink::RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(to, 32)
        .build();
    let answer = netlink.route().get(question).execute().try_next().await;
    connection.abort();
    let route = answer.map_err(io::Error::other)?;
    let interface = route
        .iter()
        .flat_map(|route| &route.attributes)
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
    interface.ok_or_else(|| io::Error::other(format!("no interface leads to {to}")))
}
