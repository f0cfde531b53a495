//! A monitor under ptrace, which can be killed before and after each of its system calls.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use crate::harness::{Launch, Running, SYNC_FD, Stage};

/// Whom to follow, and to kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The process that the caller has started.
    Original,
    /// The child that it leaves behind as a daemon; it itself until then.
    Daemon,
}

/// Holds the monitor back until it is traced.
const HELD: &[&str] = &["sh", "-c", "read go < $CONMON_TEST_STAGE/gate; exec \"$@\"", "sh"];

/// How far a monitor is followed after its message is out.
const STOPS_AFTER_THE_MESSAGE: usize = 2;

/// Starts a monitor and stops it where each of its system calls begins and where it ends.
///
/// At the stop numbered `at`, or a little after its first message to the parent, it is killed; without such a number it is
/// let go there.
pub fn trace<'a>(stage: &'a Stage, launch: Launch<'a>, victim: Victim, at: Option<usize>) -> (Running<'a>, Trace) {
    let gate = stage.path("gate");
    rustix::fs::mkfifoat(rustix::fs::CWD, &gate, rustix::fs::Mode::RWXU).unwrap();
    let mut running = launch.wrapped_in(HELD).start();
    let original = Pid::from_raw(running.pid());
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(original, options).unwrap();
    // Opened both ways, so that it need not be waited for: it may have been stopped on its way there.
    let mut gate = fs::File::options().read(true).write(true).open(gate).unwrap();
    gate.write_all(b"go\n").unwrap();
    running.release();
    let mut tracer = Tracer {
        original,
        followed: original,
        victim,
        runs: false,
        stops: 0,
        runtime: None,
        last: None,
    };
    while tracer.goes_on(at) {}
    let trace = Trace {
        stops: tracer.stops,
        runtime: tracer.runtime,
    };
    (running, trace)
}

/// What was seen of a monitor.
pub struct Trace {
    /// How often it was stopped.
    pub stops: usize,
    /// How many stops there were when it forked the runtime.
    pub runtime: Option<usize>,
}

struct Tracer {
    original: Pid,
    followed: Pid,
    victim: Victim,
    /// It is the monitor's program that runs, not a shell before it.
    runs: bool,
    stops: usize,
    runtime: Option<usize>,
    /// The stop at which there is nothing more to see, once the message is written.
    last: Option<usize>,
}

impl Tracer {
    /// From one stop to the next. False when the process is dead, killed or let go.
    fn goes_on(&mut self, at: Option<usize>) -> bool {
        // The end of the original is its parent's to take note of.
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT | WaitPidFlag::__WALL;
        let status = waitid(Id::Pid(self.followed), look).unwrap();
        if matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..)) {
            return self.forget();
        }
        if waitpid(self.followed, Some(WaitPidFlag::__WALL)).is_err() {
            return self.forget();
        }
        let mut signal = None;
        match status {
            WaitStatus::PtraceSyscall(_) if self.runs => {
                self.stops += 1;
                if self.last.is_none() && self.writes_a_message() {
                    self.last = Some(self.stops + STOPS_AFTER_THE_MESSAGE);
                }
                let ends = self.last.is_some_and(|last| self.stops >= last);
                if at.is_some() && (ends || at == Some(self.stops)) {
                    kill(self.followed, Signal::SIGKILL).unwrap();
                    return self.forget();
                }
                if ends {
                    ptrace::detach(self.followed, None).unwrap();
                    return false;
                }
            }
            WaitStatus::PtraceEvent(_, _, event) if event == Event::PTRACE_EVENT_EXEC as i32 => {
                let program = fs::read_link(format!("/proc/{}/exe", self.followed)).unwrap();
                self.runs = program == Path::new(env!("CARGO_BIN_EXE_conmon-rs"));
            }
            WaitStatus::PtraceEvent(_, _, event) if event != Event::PTRACE_EVENT_STOP as i32 => self.child_was_made(),
            WaitStatus::Stopped(_, other) => signal = Some(other),
            _ => {}
        }
        // Whatever fails here fails because the process is dead, which the next look tells.
        let _ = if self.runs {
            ptrace::syscall(self.followed, signal)
        } else {
            ptrace::cont(self.followed, signal)
        };
        true
    }

    /// Reaps a process of which only the tracer is told.
    fn forget(&self) -> bool {
        if self.followed != self.original {
            let _ = waitpid(self.followed, Some(WaitPidFlag::__WALL));
        }
        false
    }

    /// A child is traced from its birth. It is let go, or followed from now on instead of its parent, which is let go.
    fn child_was_made(&mut self) {
        let child = Pid::from_raw(ptrace::getevent(self.followed).unwrap().try_into().unwrap());
        waitpid(child, Some(WaitPidFlag::__WALL)).unwrap();
        if self.victim == Victim::Daemon && self.followed == self.original {
            ptrace::detach(self.original, None).unwrap();
            self.followed = child;
        } else {
            ptrace::detach(child, None).unwrap();
            self.runtime.get_or_insert(self.stops);
        }
    }

    fn writes_a_message(&self) -> bool {
        const WRITE: u64 = 1;
        ptrace::getregs(self.followed).is_ok_and(|registers| registers.orig_rax == WRITE && registers.rdi == SYNC_FD)
    }
}
