//! From the caller's child to a supervisor of its own: inherited descriptors, the start pipe, fork, session, stdio.

use std::fs::{self, File};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd, read};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, getpid, set_child_subreaper, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::args::StdioPlan;
use crate::child::SignalFd;
use crate::contract::{ATTACH_PIPE_ENV, START_PIPE_ENV, SYNC_PIPE_ENV};
use crate::exit_file::write_aside;
use crate::sys;

/// Descriptors from 3 on that were open when we began and that are not ours to use: the runtime gets them too.
#[derive(Default)]
pub struct InheritedFds(Vec<RawFd>);

impl InheritedFds {
    /// Looks at what is open. Must be called before anything is opened.
    pub fn find() -> InheritedFds {
        let Ok(entries) = fs::read_dir("/proc/self/fd") else {
            return InheritedFds::default();
        };
        let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut open: Vec<RawFd> = numbers.filter(|fd| *fd > 2).collect();
        // One of them was the directory itself.
        open.retain(|fd| rustix::io::fcntl_getfd(sys::borrow_inherited(*fd)).is_ok());
        InheritedFds(open)
    }

    /// Takes the descriptor that an environment variable names, if there is such a variable.
    pub fn take_named(&mut self, variable: &str) -> Result<Option<OwnedFd>, String> {
        let Some(value) = std::env::var_os(variable) else {
            return Ok(None);
        };
        let number: Option<RawFd> = value.to_str().and_then(|text| text.parse().ok());
        let position = self.0.iter().position(|open| Some(*open) == number);
        let fd = position.and_then(|at| sys::adopt(self.0.swap_remove(at)));
        let Some(fd) = fd else {
            return Err(format!(
                "unable to parse {variable}: no open descriptor {}",
                value.to_string_lossy()
            ));
        };
        fcntl_setfd(&fd, FdFlags::CLOEXEC)
            .map_err(|error| format!("unable to make {variable} CLOEXEC: {}", io::Error::from(error)))?;
        Ok(Some(fd))
    }

    /// Lets go of them all, so that ports held by them are free before anybody learns of the exit.
    pub fn close(&mut self) {
        for fd in self.0.drain(..) {
            sys::close_inherited(fd);
        }
    }
}

/// The pipes that the parent named in the environment.
pub struct ParentPipes {
    pub sync: Option<OwnedFd>,
    pub start: Option<OwnedFd>,
    pub attach: Option<OwnedFd>,
}

impl ParentPipes {
    /// The attach pipe is looked for only where it is of use.
    pub fn take(inherited: &mut InheritedFds, exec_attach: bool) -> Result<ParentPipes, String> {
        let sync = inherited.take_named(SYNC_PIPE_ENV)?;
        let start = inherited.take_named(START_PIPE_ENV)?;
        let attach = if exec_attach {
            let missing = format!("--exec-attach specified but {ATTACH_PIPE_ENV} was not");
            Some(inherited.take_named(ATTACH_PIPE_ENV)?.ok_or(missing)?)
        } else {
            None
        };
        Ok(ParentPipes { sync, start, attach })
    }
}

/// How a wait for the parent ended.
pub enum Start {
    Now,
    /// TERM, INT or QUIT came first.
    Never,
}

/// Waits until the parent has put us where it wants us: any data or the end of the pipe.
pub fn wait_for_start(pipe: &OwnedFd, signals: &SignalFd) -> io::Result<Start> {
    loop {
        let mut waiting = [PollFd::new(pipe, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        match poll(&mut waiting, None) {
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        while let Some(signal) = signals.next() {
            if matches!(signal, libc::SIGTERM | libc::SIGINT | libc::SIGQUIT) {
                return Ok(Start::Never);
            }
        }
        let [pipe_state, _] = &waiting;
        if !pipe_state.revents().is_empty() {
            match read(pipe, &mut vec![0; 8192]) {
                Ok(_) => return Ok(Start::Now),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Goes on in a child of its own, which the caller's wait does not see. Returns only there.
///
/// The original writes the pid file and only then lets the child go on: either both happen or neither.
pub fn into_background(pidfile: Option<&Path>) -> io::Result<()> {
    let (permission, grant) = pipe_with(PipeFlags::CLOEXEC)?;
    match sys::fork()? {
        sys::Fork::Child => {
            drop(grant);
            loop {
                match read(&permission, &mut [0; 1]) {
                    Ok(1) => return Ok(()),
                    Err(Errno::INTR) => {}
                    Ok(_) | Err(_) => sys::exit_now(1), // the original has already said why
                }
            }
        }
        sys::Fork::Parent(child) => {
            drop(permission);
            if let Some(path) = pidfile {
                write_pidfile(path, child)?;
            }
            rustix::io::write(&grant, b"!")
                .map_err(|error| io::Error::other(format!("let the child in the background go on: {error}")))?;
            sys::exit_now(0)
        }
    }
}

fn write_pidfile(path: &Path, pid: Pid) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("write {}: {error}", path.display()));
    write_aside(path, pid.as_raw_nonzero().to_string().as_bytes()).map_err(named)
}

/// Lets go of the caller: its stdio (it may wait for their end), its session; and becomes the parent of orphans.
pub fn become_supervisor(stdio: StdioPlan) -> io::Result<()> {
    if stdio != StdioPlan::Inherited {
        forget_stdio()?;
    }
    if let Err(error) = setsid() {
        crate::debug!("setsid: {error}"); // with --sync we may lead a process group already
    }
    set_child_subreaper(Some(getpid()))?;
    Ok(())
}

/// Nobody reads what we write, and we read nothing.
pub fn forget_stdio() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok(dup2_stderr(&null)?)
}

/// Our own chance to be killed when memory runs out: as small as we are allowed to make it.
pub struct OomScore {
    /// What the runtime and the exit command get back; `None` if we could not change ours.
    before: Option<String>,
}

const OOM_SCORE_FILE: &str = "/proc/self/oom_score_adj";

impl OomScore {
    pub fn lower() -> OomScore {
        let before = fs::read_to_string(OOM_SCORE_FILE).ok();
        match fs::write(OOM_SCORE_FILE, "-1000") {
            Ok(()) => OomScore { before },
            Err(error) => {
                crate::debug!("oom_score_adj: {error}");
                OomScore { before: None }
            }
        }
    }

    /// For a child that is about to exec.
    pub fn restore(&self) {
        if let Some(before) = &self.before {
            let _ = fs::write(OOM_SCORE_FILE, before.trim_ascii()); // raising it again is always allowed
        }
    }
}
