//! Connecting to a port inside a pod. A socket belongs to the network namespace it is made in, so only the making of it
//! needs a thread in there.

use crate::drivers::seams::{DriverError, DriverResult, ErrorKind};
use nix::sched::CloneFlags;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// How long a port of a loopback interface may take to answer.
const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// Where a server may listen that only its pod shall reach, in the order they are tried.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Connects to a port on the loopback interface of this network namespace; `None` is the host's.
///
/// Errors: `Unavailable` when nobody listens there.
pub(super) async fn dial(netns: Option<&Path>, port: u16) -> DriverResult<TcpStream> {
    let mut refusals = Vec::new();
    for address in LOOPBACK {
        let address = SocketAddr::new(address, port);
        let outcome = async {
            let socket = match netns {
                None => new_socket(&address)?,
                Some(netns) => new_socket_in(netns.to_owned(), address).await?,
            };
            timeout(DIAL_LIMIT, socket.connect(address))
                .await
                .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))?
        };
        match outcome.await {
            Ok(stream) => {
                // Keys that are typed shall not wait for others.
                stream
                    .set_nodelay(true)
                    .map_err(|error| DriverError::io(format!("port {port}"), &error))?;
                return Ok(stream);
            }
            Err(error) => refusals.push(format!("{address}: {error}")),
        }
    }
    Err(DriverError::new(ErrorKind::Unavailable, refusals.join("; ")))
}

fn new_socket(address: &SocketAddr) -> io::Result<TcpSocket> {
    match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
}

async fn new_socket_in(netns: PathBuf, address: SocketAddr) -> io::Result<TcpSocket> {
    let (done, socket) = tokio::sync::oneshot::channel();
    let reactor = tokio::runtime::Handle::current();
    std::thread::Builder::new().name("dial".to_owned()).spawn(move || {
        let made = File::open(netns).and_then(|netns| {
            nix::sched::setns(netns, CloneFlags::CLONE_NEWNET)?;
            let _reactor = reactor.enter();
            new_socket(&address)
        });
        // Whoever asked may have left.
        let _ = done.send(made);
    })?;
    socket.await.map_err(io::Error::other)?
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_port_of_either_loopback_address_is_found_and_a_closed_one_named() {
        for address in LOOPBACK {
            let listener = TcpListener::bind((address, 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            assert_eq!(dial(None, port).await.unwrap().peer_addr().unwrap().ip(), address);
            drop(listener);
            let error = dial(None, port).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unavailable);
            for address in LOOPBACK {
                assert!(error.message.contains(&address.to_string()), "{error}");
            }
        }
    }
}
