//! The seqpacket socket in the bundle: where clients connect, and what they send and are sent.

use std::fs;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::retry_on_intr;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, listen,
    recv, sendmsg, socket_with,
};

use crate::contract::ATTACH_SOCKET;
use crate::sys;

const WAITING_CONNECTIONS: i32 = 10;

pub fn send_packet(connection: &OwnedFd, parts: &[IoSlice<'_>]) -> rustix::io::Result<()> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    retry_on_intr(|| sendmsg(connection, parts, &mut SendAncillaryBuffer::default(), flags)).map(drop)
}

/// Receives a packet whole, whatever its size.
pub fn receive_packet(connection: &OwnedFd) -> rustix::io::Result<Vec<u8>> {
    let look = RecvFlags::PEEK | RecvFlags::TRUNC | RecvFlags::DONTWAIT;
    let (_, size) = retry_on_intr(|| recv(connection, &mut [0; 1], look))?;
    let mut packet = vec![0; size];
    let (_, length) = retry_on_intr(|| recv(connection, packet.as_mut_slice(), RecvFlags::DONTWAIT))?;
    packet.truncate(length);
    Ok(packet)
}

/// Through a descriptor of the directory, because the path of a socket may have only 107 bytes.
pub fn listen_in(bundle: &Path, socket_path: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(socket_path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let directory = open(
        bundle,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{ATTACH_SOCKET}", sys::number(&directory)))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let usual = rustix::process::umask(Mode::from_raw_mode(0o077));
    let bound = bind(&listener, &address);
    rustix::process::umask(usual);
    bound?;
    listen(&listener, WAITING_CONNECTIONS)?;
    Ok(listener)
}

pub fn make_link(bundle: &Path, path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(std::path::absolute(bundle)?, path)
}
