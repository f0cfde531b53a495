//! Tells the parent once: the pid, or why there is none. An exec adds its exit code at the end.
//!
//! Each message is one write, because some parents read packets. A parent that is gone, or does not read, is no reason
//! to stop supervising.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, write};
use rustix::process::Pid;

use crate::contract::{ExitCode, SyncKey, sync_message};

/// How long a parent may keep a message from being written.
const PARENT_WAIT: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

pub struct SyncPipe {
    pipe: Option<OwnedFd>,
    key: SyncKey,
}

impl SyncPipe {
    /// Without a pipe nothing is ever said.
    pub fn new(pipe: Option<OwnedFd>, key: SyncKey) -> SyncPipe {
        SyncPipe { pipe, key }
    }

    pub fn pid(&mut self, pid: Pid) {
        self.send(pid.as_raw_nonzero().get(), b"");
    }

    pub fn exit_code(&mut self, exit: ExitCode, message: &str) {
        self.send(exit.number(), message.as_bytes());
    }

    /// On an attach pipe: clients may connect.
    pub fn ready(&mut self) {
        self.send(0, b"");
    }

    /// There is no container, and this is why.
    pub fn failure(&mut self, message: &[u8]) {
        self.send(-1, message);
    }

    /// Whoever waits for the end of the pipe is released.
    pub fn close(&mut self) {
        self.pipe = None;
    }

    fn send(&mut self, number: i32, message: &[u8]) {
        let Some(pipe) = &self.pipe else { return };
        let line = sync_message(self.key, number, message);
        loop {
            let mut waiting = [PollFd::new(pipe, PollFlags::OUT)];
            match poll(&mut waiting, Some(&PARENT_WAIT)) {
                Err(Errno::INTR) => continue,
                Ok(0) => {
                    crate::warning!("the parent does not read the sync pipe");
                    return;
                }
                Ok(_) | Err(_) => {} // the write will tell
            }
            match write(pipe.as_fd(), &line) {
                Ok(_) => return,
                Err(Errno::INTR | Errno::AGAIN | Errno::NOBUFS) => continue,
                Err(Errno::PIPE) => break,
                Err(error) => {
                    crate::warning!("write to the sync pipe: {error}");
                    break;
                }
            }
        }
        self.pipe = None;
    }
}
