//! The container's terminal, received from the runtime, and the size of it.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{OptionalActions, OutputModes, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use crate::contract::WINDOW_SIZE_MAX;
use crate::exit_file::six_letters;

/// Where the runtime delivers the terminal: once, then the socket is gone.
pub struct ConsoleSocket {
    path: PathBuf,
    state: State,
}

enum State {
    Listening(UnixListener),
    Connected(OwnedFd),
}

/// How far the delivery has come.
pub enum Delivery {
    /// Nothing yet; the descriptor to wait for may be another one now.
    Waiting,
    Terminal(OwnedFd),
    Failed(io::Error),
}

const NAME_ATTEMPTS: u32 = 100;

impl ConsoleSocket {
    pub fn listen() -> io::Result<ConsoleSocket> {
        let directory = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
        for _ in 0..NAME_ATTEMPTS {
            let path = directory.join(format!("conmon-term.{}", six_letters()));
            match UnixListener::bind(&path) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
                Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
                Ok(listener) => {
                    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))?;
                    listener.set_nonblocking(true)?;
                    return Ok(ConsoleSocket {
                        path,
                        state: State::Listening(listener),
                    });
                }
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the next step, if it can be taken now.
    pub fn receive(&mut self) -> Delivery {
        if let State::Listening(listener) = &self.state {
            match listener.accept() {
                Ok((connection, _)) => {
                    if let Err(error) = connection.set_nonblocking(true) {
                        return Delivery::Failed(error);
                    }
                    self.state = State::Connected(connection.into());
                    self.unlink();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Delivery::Waiting,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Delivery::Waiting,
                Err(error) => return Delivery::Failed(error),
            }
        }
        match &self.state {
            State::Listening(_) => Delivery::Waiting,
            State::Connected(connection) => match receive_descriptor(connection) {
                Ok(Some(terminal)) => Delivery::Terminal(terminal),
                Ok(None) => Delivery::Failed(io::ErrorKind::UnexpectedEof.into()),
                Err(Errno::AGAIN | Errno::INTR) => Delivery::Waiting,
                Err(error) => Delivery::Failed(error.into()),
            },
        }
    }

    fn unlink(&self) {
        let _ = std::fs::remove_file(&self.path); // it may be gone already
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        if matches!(self.state, State::Listening(_)) {
            self.unlink();
        }
    }
}

impl AsFd for ConsoleSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.state {
            State::Listening(listener) => listener.as_fd(),
            State::Connected(connection) => connection.as_fd(),
        }
    }
}

fn receive_descriptor(connection: &OwnedFd) -> rustix::io::Result<Option<OwnedFd>> {
    let mut name = vec![0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        connection,
        &mut [IoSliceMut::new(&mut name)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok(descriptors.next().and_then(|mut descriptors| descriptors.next()))
}

/// A line feed goes to the next line's beginning, as programs that write to a terminal expect.
pub fn prepare_terminal(terminal: &impl AsFd) -> io::Result<()> {
    let mut modes = tcgetattr(terminal)?;
    modes.output_modes |= OutputModes::ONLCR;
    Ok(tcsetattr(terminal, OptionalActions::Now, &modes)?)
}

/// In character cells, at most `WINDOW_SIZE_MAX` each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    height: u16,
    width: u16,
}

impl WindowSize {
    pub fn new(height: u64, width: u64) -> Option<WindowSize> {
        let side = |cells| u16::try_from(cells).ok().filter(|cells| *cells <= WINDOW_SIZE_MAX);
        Some(WindowSize {
            height: side(height)?,
            width: side(width)?,
        })
    }

    pub fn apply(self, terminal: &impl AsFd) {
        let size = Winsize {
            ws_row: self.height,
            ws_col: self.width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        if let Err(error) = tcsetwinsize(terminal, size) {
            crate::warning!("resize: {error}");
        }
    }

    #[cfg(test)]
    pub fn sides(self) -> (u16, u16) {
        (self.height, self.width)
    }
}
