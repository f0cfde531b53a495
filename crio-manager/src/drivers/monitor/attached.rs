//! The attach socket of a monitor: packets of input one way, of output the other.

use crate::drivers::readiness;
use crate::drivers::seams::{DriverError, DriverResult, ErrorKind, Input, Output};
use bytes::Bytes;
use conmon_rs::contract::{self, ATTACH_PACKET_BYTES, Stream};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use tokio::io::AsyncWriteExt;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// The largest packet of input, in bytes.
const INPUT_BYTES: usize = 16 * 1024;

/// A connection to the monitor of a bundle.
pub(super) struct Connection {
    socket: AsyncFd<OwnedFd>,
    bundle: PathBuf,
}

impl Connection {
    /// Connects to the socket in this bundle, however long its path.
    ///
    /// Errors: nobody listens there.
    pub(super) fn open(bundle: &Path) -> DriverResult<Self> {
        let connect = || -> std::io::Result<_> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(bundle, flags, Mode::empty())?;
            let short = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), contract::ATTACH_SOCKET);
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(short)?)?;
            readiness::watch_both_ways(socket)
        };
        let socket = connect().map_err(|error| {
            DriverError::new(
                ErrorKind::Unavailable,
                format!("the monitor does not answer at {}: {error}", bundle.display()),
            )
        })?;
        Ok(Self {
            socket,
            bundle: bundle.to_owned(),
        })
    }

    /// Carries packets both ways until the monitor closes its side: the container, or the command, has ended.
    pub(super) async fn carry(&self, input: mpsc::Receiver<Input>, output: mpsc::Sender<Output>) -> DriverResult<()> {
        tokio::select! {
            ended = self.read(output) => ended,
            never = self.write(input) => never,
        }
    }

    async fn read(&self, output: mpsc::Sender<Output>) -> DriverResult<()> {
        let mut packet = vec![0; ATTACH_PACKET_BYTES];
        loop {
            let mut ready = self.socket.readable().await.map_err(|error| failed(&error))?;
            let length = match rustix::net::recv(self.socket.get_ref(), &mut packet[..], RecvFlags::empty()) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return Ok(()),
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    continue;
                }
                Err(Errno::INTR) => continue,
                Err(error) => return Err(failed(&error.into())),
            };
            let piece = match contract::parse_attach_packet(packet.get(..length).unwrap_or_default()) {
                Some((Stream::Stdout, bytes)) => Output::Stdout(Bytes::copy_from_slice(bytes)),
                Some((Stream::Stderr, bytes)) => Output::Stderr(Bytes::copy_from_slice(bytes)),
                None => continue,
            };
            if output.send(piece).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Never returns: the end of the input is not the end of the output.
    async fn write(&self, mut input: mpsc::Receiver<Input>) -> DriverResult<()> {
        let mut control = None;
        while let Some(piece) = input.recv().await {
            match piece {
                Input::Stdin(bytes) => {
                    for packet in bytes.chunks(INPUT_BYTES) {
                        if !self.send(packet).await? {
                            break;
                        }
                    }
                }
                // Fails only when the other side has gone, which the reader sees.
                Input::End => drop(rustix::net::shutdown(self.socket.get_ref(), Shutdown::Write)),
                Input::Resize { width, height } => {
                    if let Err(error) = self.resize(&mut control, width, height).await {
                        tracing::warn!(%error, "resize, ignoring");
                    }
                }
            }
        }
        std::future::pending().await
    }

    /// Whether the monitor still takes input.
    async fn send(&self, packet: &[u8]) -> DriverResult<bool> {
        loop {
            let mut ready = self.socket.writable().await.map_err(|error| failed(&error))?;
            match rustix::net::send(self.socket.get_ref(), packet, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(true),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(false),
                Err(error) => return Err(failed(&error.into())),
            }
        }
    }

    async fn resize(
        &self,
        control: &mut Option<tokio::net::unix::pipe::Sender>,
        width: u16,
        height: u16,
    ) -> std::io::Result<()> {
        let fifo = match control {
            Some(open) => open,
            None => {
                let path = self.bundle.join(contract::CONTROL_FIFO);
                control.insert(tokio::net::unix::pipe::OpenOptions::new().open_sender(path)?)
            }
        };
        fifo.write_all(&contract::resize(height, width)).await
    }
}

fn failed(error: &std::io::Error) -> DriverError {
    DriverError::io("attach socket of the monitor", error)
}
