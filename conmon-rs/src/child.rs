//! Children: reaping → `ExitStatus`, and signals that reach nobody else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, retry_on_intr};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, kill_process, pidfd_open, pidfd_send_signal, wait, waitpid,
};

use crate::contract::ExitCode;
use crate::sys;

/// The blocked signals, as something to read.
pub struct SignalFd(OwnedFd);

impl SignalFd {
    pub fn new() -> io::Result<SignalFd> {
        sys::signalfd().map(SignalFd)
    }

    /// The next signal that has come; `None` if there is none now.
    pub fn next(&self) -> Option<i32> {
        let mut record = [0; sys::SIGNALFD_RECORD_BYTES];
        match retry_on_intr(|| read(&self.0, &mut record)) {
            Ok(length) if length == record.len() => {
                let number = record.first_chunk().copied().map(u32::from_ne_bytes);
                number.and_then(|number| i32::try_from(number).ok())
            }
            Ok(_) | Err(_) => None,
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How a child ended.
pub fn exit_code(status: WaitStatus) -> ExitCode {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => u8::try_from(code).ok(),
        (None, Some(signal)) => return u8::try_from(signal).map_or(ExitCode::Unknown, ExitCode::Signal),
        (None, None) => None,
    };
    code.map_or(ExitCode::Unknown, ExitCode::Status)
}

/// What became of a process that may or may not be our child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaped {
    Exited(ExitCode),
    Running,
    NotOurs,
}

/// Reaps this one child if it has ended.
pub fn reap(pid: Pid) -> Reaped {
    match retry_on_intr(|| waitpid(Some(pid), WaitOptions::NOHANG)) {
        Ok(Some((_, status))) => Reaped::Exited(exit_code(status)),
        Ok(None) => Reaped::Running,
        Err(_) => Reaped::NotOurs,
    }
}

/// Reaps one child that has ended, whichever it is.
pub fn reap_any() -> Option<(Pid, ExitCode)> {
    match retry_on_intr(|| wait(WaitOptions::NOHANG)) {
        Ok(Some((pid, status))) => Some((pid, exit_code(status))),
        Ok(None) | Err(_) => None,
    }
}

/// Waits for this child and reaps whatever else ends meanwhile.
pub fn wait_for(child: Pid) -> ExitCode {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => return exit_code(status),
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return ExitCode::Unknown,
        }
    }
}

/// A process that cannot be mistaken for a later one of the same number.
pub struct Process {
    pid: Pid,
    /// `None` on kernels without pidfd; then the number has to do, as long as it was not reaped.
    pidfd: Option<OwnedFd>,
}

impl Process {
    pub fn open(pid: Pid) -> Process {
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Some(pidfd),
            Err(error) => {
                crate::debug!("pidfd of {}: {error}", pid.as_raw_nonzero());
                None
            }
        };
        Process { pid, pidfd }
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Readable once the process has ended.
    pub fn pidfd(&self) -> Option<&OwnedFd> {
        self.pidfd.as_ref()
    }

    /// Also if it was not reaped yet. Without pidfd nobody can tell, and it is taken to have.
    pub fn has_ended(&self) -> bool {
        let Some(pidfd) = &self.pidfd else { return true };
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        retry_on_intr(|| poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now))).is_ok_and(|ready| ready > 0)
    }

    pub fn signal(&self, signal: Signal) {
        let sent = match &self.pidfd {
            Some(pidfd) => pidfd_send_signal(pidfd, signal),
            None if self.pid.as_raw_nonzero().get() > 1 => kill_process(self.pid, signal),
            None => return,
        };
        if let Err(error) = sent {
            crate::debug!("signal {} to {}: {error}", signal.as_raw(), self.pid.as_raw_nonzero());
        }
    }
}

/// Process 1 of a pod's shared PID namespace: reaps orphans until TERM or INT, then ends.
pub fn serve_as_init() -> ! {
    sys::block_signals();
    loop {
        match sys::wait_for_signal(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT]) {
            // One signal may stand for several children.
            Some(libc::SIGCHLD) => while reap_any().is_some() {},
            Some(_) => sys::exit_now(0),
            None => {} // interrupted
        }
    }
}
