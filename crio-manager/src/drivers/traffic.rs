//! What has gone through the interfaces of a network namespace, as the kernel counts it there.

use super::seams::{DriverError, DriverResult, ErrorKind, InterfaceTraffic};
use rustix::thread::LinkNameSpaceType;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Of the thread: `/proc/net` would be the process's.
const COUNTERS: &str = "/proc/thread-self/net/dev";

/// All interfaces of the namespace but `lo`, in the kernel's order.
pub(super) async fn of_namespace(namespace: &Path) -> DriverResult<Vec<InterfaceTraffic>> {
    let namespace = namespace.to_owned();
    let (done, outcome) = tokio::sync::oneshot::channel();
    // A thread that ends afterwards: it is left in the other namespace.
    std::thread::Builder::new()
        .name("traffic".to_owned())
        .spawn(move || {
            // A caller that has gone wants no answer.
            let _ = done.send(read_on_this_thread(namespace));
        })
        .map_err(|error| DriverError::io("start a thread", &error))?;
    outcome
        .await
        .map_err(|_| DriverError::new(ErrorKind::Failed, "the thread ended without an answer"))?
}

fn read_on_this_thread(namespace: PathBuf) -> DriverResult<Vec<InterfaceTraffic>> {
    let text = (|| {
        let namespace = File::open(&namespace)?;
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        std::fs::read_to_string(COUNTERS)
    })();
    Ok(parse(
        &text.map_err(|error| DriverError::io(namespace.display(), &error))?,
    ))
}

/// Two lines of headings, then `name: 8 numbers received, 8 numbers sent`.
fn parse(text: &str) -> Vec<InterfaceTraffic> {
    let interface = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers
            .split_whitespace()
            .map(|number| number.parse().ok())
            .collect::<Option<_>>()?;
        let [
            received,
            received_packets,
            receive_errors,
            receive_dropped,
            _,
            _,
            _,
            _,
            sent,
            sent_packets,
            send_errors,
            send_dropped,
            ..,
        ] = numbers[..]
        else {
            return None;
        };
        Some(InterfaceTraffic {
            name: name.trim().to_owned(),
            received_bytes: received,
            received_packets,
            receive_errors,
            receive_dropped,
            sent_bytes: sent,
            sent_packets,
            send_errors,
            send_dropped,
        })
    };
    let interfaces = text.lines().filter_map(interface);
    interfaces.filter(|interface| interface.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_but_lo_is_told() {
        let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    9       9    0    0    0     0          0         0        9       9    0    0    0     0       0          0
  eth0: 1234      12    1    2    0     0          0         0     5678      34    3    4    0     0       0          0
  bad0: 1 2 x";
        let [eth0] = &parse(text)[..] else {
            panic!("one interface")
        };
        assert_eq!(
            (eth0.name.as_str(), eth0.received_bytes, eth0.sent_bytes),
            ("eth0", 1234, 5678)
        );
        assert_eq!((eth0.receive_errors, eth0.send_errors), (1, 3));
        assert_eq!((eth0.receive_dropped, eth0.send_dropped), (2, 4));
        assert_eq!((eth0.received_packets, eth0.sent_packets), (12, 34));
    }
}
