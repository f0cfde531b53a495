//! The container's readiness, forwarded to the host's service manager: only what concerns the container as a whole.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::retry_on_intr;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

use crate::sys;

/// Below the bundle; the caller makes the directory.
const SOCKET_DIRECTORY: &str = "notify";
const SOCKET: &str = "notify.sock";

/// No service manager takes more.
const DATAGRAM_BYTES: usize = 8192;

/// Datagrams taken before anything else has its turn.
const DATAGRAMS_PER_TURN: usize = 16;

pub struct NotifyProxy {
    socket: OwnedFd,
    host: SocketAddrUnix,
}

impl NotifyProxy {
    /// Makes the socket that the container sees.
    pub fn listen(bundle: &Path, host: &Path) -> io::Result<NotifyProxy> {
        let host = match host.as_os_str().as_bytes() {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            path => SocketAddrUnix::new(path)?,
        };
        let directory = bundle.join(SOCKET_DIRECTORY);
        let path = directory.join(SOCKET);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Through a descriptor, because the path of a socket may have only 107 bytes.
        let directory = open(
            &directory,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", sys::number(&directory)))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        bind(&socket, &address)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        Ok(NotifyProxy { socket, host })
    }

    pub fn forward(&self) {
        let mut datagram = vec![0; DATAGRAM_BYTES];
        for _ in 0..DATAGRAMS_PER_TURN {
            let received = retry_on_intr(|| recv(&self.socket, datagram.as_mut_slice(), RecvFlags::DONTWAIT));
            let Ok((length, _)) = received else { return };
            let allowed = filter(datagram.get(..length).unwrap_or_default());
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            if !allowed.is_empty()
                && let Err(error) = retry_on_intr(|| sendto(&self.socket, &allowed, flags, &self.host))
            {
                crate::warning!("forward notification: {error}");
            }
        }
    }
}

impl AsFd for NotifyProxy {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Keeps the lines that mean the same for whoever started the container; pids and descriptors do not.
fn filter(datagram: &[u8]) -> Vec<u8> {
    let lines = datagram.split(|byte| *byte == b'\n').filter(|line| is_forwarded(line));
    lines.collect::<Vec<_>>().join(&b'\n')
}

fn is_forwarded(line: &[u8]) -> bool {
    let whole: [&[u8]; 5] = [
        b"READY=1",
        b"RELOADING=1",
        b"STOPPING=1",
        b"WATCHDOG=1",
        b"WATCHDOG=trigger",
    ];
    let begun: [&[u8]; 4] = [b"STATUS=", b"ERRNO=", b"BUSERROR=", b"MONOTONIC_USEC="];
    whole.contains(&line) || begun.iter().any(|begin| line.starts_with(begin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_concerns_the_container_is_forwarded() {
        let datagram = b"MAINPID=7\nREADY=1\nSTATUS=up and running\nFDSTORE=1\nBARRIER=1\n";
        assert_eq!(filter(datagram), b"READY=1\nSTATUS=up and running");
        assert_eq!(filter(b"READY=0\nX_READY=1\nEXTEND_TIMEOUT_USEC=5"), b"");
    }

    proptest! {
        #[test]
        fn of_any_datagram_only_allowed_lines_are_left(datagram in "(READY=1|STATUS=[a-z]*|FDSTORE=1|[A-Z=\n0-9]{0,9}|\n){0,12}") {
            let lines: Vec<_> = datagram.as_bytes().split(|byte| *byte == b'\n').filter(|line| is_forwarded(line)).collect();
            let left = filter(datagram.as_bytes());
            prop_assert_eq!(left.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect::<Vec<_>>(), lines);
        }

        #[test]
        fn any_bytes_can_be_sent(datagram: Vec<u8>) {
            prop_assert!(filter(&datagram).len() <= datagram.len());
        }
    }
}
