//! The loop: wait for an `Event`, handle it, until the container is gone.
//!
//! ```text
//!   start ──> Creating ── pid known ──> Supervising ── it ended, or took too long ──> finish
//!                 ├────── no pid ─────> failed                                           ^
//!                 └────── an exec took too long ────────────────────────────────────────┘
//! ```
//!
//! Nothing in `handle` can fail: a log that cannot be written, a client that misbehaves, a message that makes no sense
//! are dealt with where they occur, and the supervision goes on.

mod begin;
mod life;
mod output;

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal};

use self::life::{Life, Outcome};
use crate::args::{Api, MonitorPlan, StdioPlan};
use crate::attach::{Attach, Stdin};
use crate::child::{Process, Reaped, SignalFd, reap, reap_any};
use crate::confine::confine;
use crate::console::{ConsoleSocket, Delivery, WindowSize, prepare_terminal};
use crate::contract::{ExitCode, Stream, TIMED_OUT};
use crate::control::{ControlMessage, RequestFifo, control_message, window_size};
use crate::daemonize::{InheritedFds, ParentPipes};
use crate::exit_file::{boot_id, write_exit_files, write_exit_record};
use crate::log::Logs;
use crate::notify::NotifyProxy;
use crate::oom::{OomWatch, write_oom_files};
use crate::poller::{ClientId, Event, Interest, Poller};
use crate::runtime::{Origin, read_pidfile};
use crate::stdio::{EarlyOutput, Output, Stdio};
use crate::sync_pipe::SyncPipe;
use crate::sys;
use crate::timeout::{Mark, kill_everything};

/// How long the buffers of heavy output are kept when it has stopped.
const TRIM_AFTER: Duration = Duration::from_secs(1);

pub struct Monitor<'a> {
    plan: &'a MonitorPlan,
    poller: Poller,
    signals: SignalFd,
    stdio: Stdio,
    logs: Logs,
    console: Option<ConsoleSocket>,
    terminal: Option<OwnedFd>,
    /// Asked for before there was a terminal.
    window_size: Option<WindowSize>,
    control: Option<RequestFifo>,
    window_sizes: Option<RequestFifo>,
    attach: Option<Attach>,
    notify: Option<NotifyProxy>,
    /// Kept open: the parent sees its end when we end.
    _attach_pipe: Option<SyncPipe>,
    /// A client of an exec has a full backlog: no output is read.
    waits_for_clients: bool,
    oom: Option<OomWatch>,
    phase: Phase,
    mark: Option<Mark>,
    life: Life,
    /// The runtime, and then the container's first process: gets the signals that are meant for the container.
    process: Process,
}

enum Phase {
    Creating(EarlyOutput),
    Supervising,
}

/// What the runtime's work has come to.
enum Creation {
    Done(Pid),
    /// What the parent is to be told.
    Failed(Vec<u8>),
    TimedOut,
}

/// Runs the container from the runtime's start to the exit file; returns our own exit status, or why there was not even
/// a runtime.
pub fn run(
    plan: &MonitorPlan,
    origin: &Origin,
    signals: SignalFd,
    logs: Logs,
    sync: &mut SyncPipe,
    pipes: &mut ParentPipes,
    inherited: &mut InheritedFds,
) -> Result<i32, String> {
    let mut monitor = Monitor::start(plan, origin, signals, logs, pipes)?;
    Ok(match monitor.wait_for_container() {
        Creation::Done(pid) => {
            if !plan.task.is_exec() || plan.api == Api::One {
                sync.pid(pid);
            }
            monitor.supervise_from(pid);
            confine(plan);
            sys::release_unused_code();
            sys::release_unused_stack();
            let outcome = monitor.wait_for_process();
            monitor.finish(outcome, sync, inherited)
        }
        Creation::TimedOut => {
            crate::warning!("the runtime took longer than the time-out");
            monitor.finish(Outcome::TimedOut, sync, inherited)
        }
        Creation::Failed(reason) => {
            crate::error!("{}", String::from_utf8_lossy(&reason));
            sync.failure(&reason);
            1
        }
    })
}

impl<'a> Monitor<'a> {
    /// Lets the runtime do its work.
    #[inline(never)]
    fn wait_for_container(&mut self) -> Creation {
        let Outcome::Exited(status) = self.wait_for_process() else {
            return Creation::TimedOut;
        };
        // What the runtime has still written, or sent, is there by now.
        self.read_output(Stream::Stderr);
        self.receive_terminal();
        let pid = read_pidfile(&self.plan.container_pidfile);
        let succeeded = status == ExitCode::Status(0);
        // An exec's runtime may fail after the command was started; a pid says that there is one.
        let pid = if succeeded || self.plan.task.is_exec() {
            Some(pid)
        } else {
            None
        };
        match pid {
            Some(Ok(Some(_))) if self.plan.stdio == StdioPlan::Terminal && self.terminal.is_none() => {
                Creation::Failed(b"Runtime did not set up terminal".to_vec())
            }
            Some(Ok(Some(pid))) => Creation::Done(pid),
            pid => Creation::Failed(self.failure(status, pid)),
        }
    }

    /// The runtime's own last words, or else ours.
    fn failure(&self, status: ExitCode, pid: Option<io::Result<Option<Pid>>>) -> Vec<u8> {
        if let Phase::Creating(early) = &self.phase
            && !early.tail().is_empty()
        {
            return early.tail().to_vec();
        }
        let runtime = self.plan.runtime.path.display();
        let pidfile = self.plan.container_pidfile.display();
        match (status, pid) {
            (ExitCode::Status(0), Some(Err(error))) => format!("read {pidfile}: {error}"),
            (ExitCode::Status(0), _) => format!("no pid in {pidfile}"),
            (ExitCode::Status(_) | ExitCode::Signal(_), _) => {
                format!("{runtime} ended with status {} and no word on stderr", status.number())
            }
            (ExitCode::Unknown, _) => format!("{runtime} ended unseen"),
        }
        .into_bytes()
    }

    /// From here on signals are meant for the container, and its output is output.
    #[inline(never)]
    fn supervise_from(&mut self, pid: Pid) {
        self.process = Process::open(pid);
        self.life.pid_is_known(Instant::now(), SystemTime::now());
        if let Some(pidfd) = self.process.pidfd()
            && let Err(error) = self.poller.add(pidfd, Event::ContainerGone, Interest::NewlyReadable)
        {
            crate::warning!("watch container: {error}");
        }
        if self.plan.bundle.is_some() || self.plan.persist_dir.is_some() {
            self.watch_memory(pid);
        }
        self.keep_early_output();
        self.reap();
        // Neither our child nor anybody's: its runtime has reaped it.
        if !self.life.has_ended() && self.process.pidfd().is_none() && rustix::process::test_kill_process(pid).is_err()
        {
            self.end(ExitCode::Unknown);
        }
    }

    fn watch_memory(&mut self, pid: Pid) {
        match OomWatch::begin(pid, &self.plan.task) {
            Ok(Some(oom)) => match self.poller.add(&oom, Event::OutOfMemory, oom.interest()) {
                Ok(()) => self.oom = Some(oom),
                Err(error) => crate::warning!("watch memory: {error}"),
            },
            Ok(None) => crate::debug!("no memory cgroup to watch"),
            Err(error) => crate::warning!("watch memory: {error}"),
        }
    }

    /// Serves everybody until the runtime, or the container's process, has ended or it is too late.
    fn wait_for_process(&mut self) -> Outcome {
        loop {
            match self.life.outcome(Instant::now()) {
                Some(outcome @ Outcome::Exited(_)) => return outcome,
                Some(Outcome::TimedOut) => {
                    self.reap(); // it may just have ended by itself
                    return self.life.exited().map_or(Outcome::TimedOut, Outcome::Exited);
                }
                None => _ = self.turn(self.life.deadline()),
            }
        }
    }

    /// Waits once and handles what has happened. Returns whether anything has.
    fn turn(&mut self, deadline: Option<Instant>) -> bool {
        let trim = self.stdio.is_swollen().then(|| Instant::now() + TRIM_AFTER);
        let held = self.logs.held_until();
        let patience = self.attach.as_ref().filter(|_| self.waits_for_clients);
        let patience = patience.and_then(Attach::patience_ends);
        let earliest = [deadline, trim, held, patience].into_iter().flatten().min();
        let mut anything = false;
        for event in self.poller.wait(earliest) {
            anything = true;
            self.handle(event);
        }
        if held.is_some() {
            self.logs.give_up_held();
        }
        if !anything && trim.is_some_and(|trim| Instant::now() >= trim) {
            self.stdio.trim();
            self.logs.trim();
            sys::release_unused_code();
        }
        self.regard_clients();
        anything
    }

    #[inline(never)]
    fn handle(&mut self, event: Event) {
        match event {
            Event::Signals => self.take_signals(),
            Event::ContainerGone => self.reap_container(),
            Event::Output(stream) => self.read_output(stream),
            Event::OutOfMemory => self.look_at_memory(),
            Event::Console => self.receive_terminal(),
            Event::Control => self.take_control_messages(),
            Event::WindowSize => self.take_window_sizes(),
            Event::AttachConnection => {
                if let Some(attach) = &mut self.attach {
                    attach.accept(&self.poller);
                }
            }
            Event::AttachClient(client) => self.serve_client(client, false),
            Event::ClientHungUp(client) => self.serve_client(client, true),
            Event::StdinHasRoom => self.take_input(),
            Event::Notification => {
                if let Some(notify) = &self.notify {
                    notify.forward();
                }
            }
        }
    }

    fn serve_client(&mut self, client: ClientId, hung_up: bool) {
        let closes_stdin = self.plan.attach.closes_stdin;
        if let Some(attach) = &mut self.attach {
            attach.serve(client, hung_up, &mut self.stdio.stdin, closes_stdin, &self.poller);
        }
    }

    fn take_input(&mut self) {
        let closes_stdin = self.plan.attach.closes_stdin;
        if let Some(attach) = &mut self.attach {
            attach.take_input(&mut self.stdio.stdin, closes_stdin, &self.poller);
        }
    }

    fn take_signals(&mut self) {
        while let Some(signal) = self.signals.next() {
            match signal {
                libc::SIGTERM => self.forward(Signal::TERM),
                libc::SIGINT => self.forward(Signal::INT),
                libc::SIGQUIT => self.forward(Signal::QUIT),
                _ => {} // of a child we learn below; the others mean nothing to us
            }
        }
        self.reap();
    }

    fn forward(&self, signal: Signal) {
        if !self.life.has_ended() {
            self.process.signal(signal);
        }
    }

    /// While the runtime works only it is reaped: the container may have ended already, and its status is still wanted.
    fn reap(&mut self) {
        match self.phase {
            Phase::Creating(_) => self.reap_container(),
            Phase::Supervising => {
                while let Some((pid, exit)) = reap_any() {
                    if pid == self.process.pid() {
                        self.end(exit);
                    }
                }
            }
        }
    }

    fn reap_container(&mut self) {
        if !self.life.has_ended() {
            match reap(self.process.pid()) {
                Reaped::Exited(exit) => self.end(exit),
                Reaped::Running => {}
                Reaped::NotOurs => self.end(ExitCode::Unknown),
            }
        }
    }

    fn end(&mut self, exit: ExitCode) {
        self.life.end(exit, SystemTime::now());
    }

    fn look_at_memory(&mut self) {
        let Some(oom) = &mut self.oom else { return };
        if oom.look() {
            crate::debug!("the container ran out of memory");
            self.life.ran_out_of_memory();
            write_oom_files(self.plan);
        }
        if oom.is_finished() {
            self.poller.remove(oom);
            self.oom = None;
        }
    }

    fn receive_terminal(&mut self) {
        let Some(console) = &mut self.console else { return };
        match console.receive() {
            Delivery::Waiting => {
                // The connection, if it is one now, has a descriptor of its own.
                let _ = self.poller.add(console, Event::Console, Interest::Readable); // fails if it is the same still
            }
            Delivery::Terminal(terminal) => {
                self.console = None;
                if let Err(error) = self.use_terminal(terminal) {
                    crate::error!("use terminal: {error}");
                }
            }
            Delivery::Failed(error) => {
                self.console = None;
                crate::error!("receive terminal: {error}");
            }
        }
    }

    fn use_terminal(&mut self, terminal: OwnedFd) -> io::Result<()> {
        if let Err(error) = prepare_terminal(&terminal) {
            crate::warning!("prepare terminal: {error}");
        }
        let output = Output::new(rustix::io::fcntl_dupfd_cloexec(&terminal, 3)?)?;
        self.poller
            .add(&output, Event::Output(Stream::Stdout), Interest::Readable)?;
        self.stdio.stdout = Some(output);
        if let Some(size) = self.window_size.take() {
            size.apply(&terminal);
        }
        let stdin = rustix::io::fcntl_dupfd_cloexec(&terminal, 3)?;
        self.poller.add(&stdin, Event::StdinHasRoom, Interest::Once)?;
        self.stdio.stdin = Stdin::Open(stdin);
        self.terminal = Some(terminal);
        self.take_input(); // what was typed meanwhile
        Ok(())
    }

    fn take_control_messages(&mut self) {
        let mut messages = Vec::new();
        if let Some(control) = &mut self.control {
            control.read(|line| match control_message(line) {
                Some(message) => messages.push(message),
                None => crate::warning!("control message not understood: {}", String::from_utf8_lossy(line)),
            });
        }
        for message in messages {
            match message {
                ControlMessage::Resize(size) => self.resize(size),
                ControlMessage::ReopenLog => self.logs.reopen(),
            }
        }
    }

    fn take_window_sizes(&mut self) {
        let mut last = None;
        if let Some(window_sizes) = &mut self.window_sizes {
            window_sizes.read(|line| last = window_size(line).or(last));
        }
        if let Some(size) = last {
            self.resize(size);
        }
    }

    fn resize(&mut self, size: WindowSize) {
        match (&self.terminal, &self.console) {
            (Some(terminal), _) => size.apply(terminal),
            (None, Some(_)) => self.window_size = Some(size),
            (None, None) => {} // there is nothing to resize
        }
    }

    /// Everything that is due once the container is gone, in the order that callers rely on.
    #[inline(never)]
    fn finish(mut self, outcome: Outcome, sync: &mut SyncPipe, inherited: &mut InheritedFds) -> i32 {
        self.look_at_memory();
        if outcome == Outcome::TimedOut {
            let named = match self.phase {
                // The runtime may have started the command, and not come back.
                Phase::Creating(_) => read_pidfile(&self.plan.container_pidfile).ok().flatten(),
                Phase::Supervising => None,
            };
            kill_everything(&self.process, named, self.mark, || while reap_any().is_some() {});
            self.end(ExitCode::Unknown);
            self.keep_early_output();
        }
        self.regard_clients();
        self.read_late_output();
        self.logs.finish();
        let plan = self.plan;
        // Who has read everything sees the end before the exit file is there; the others are not waited for.
        let mut attach = self.attach.take();
        if let Some(attach) = &mut attach {
            attach.release_readers();
        }
        let mut logs = std::mem::take(&mut self.logs);
        let record = self.life.record(outcome, boot_id(), logs.kept());
        drop(self);
        inherited.close();
        let exit = record.exit;
        let message = match outcome {
            Outcome::Exited(_) => "",
            Outcome::TimedOut => TIMED_OUT,
        };
        let mut own_status = match exit {
            ExitCode::Status(_) | ExitCode::Signal(_) => exit.number(),
            ExitCode::Unknown => 255,
        };
        if let Err(error) = write_exit_record(plan, &record) {
            crate::error!("write exit record: {error}"); // the exit file has what matters most
        }
        if let Err(error) = write_exit_files(plan, exit) {
            crate::error!("write exit file: {error}");
            own_status = 1;
        }
        if plan.task.is_exec() {
            sync.exit_code(exit, message);
        }
        if let Some(attach) = attach {
            attach.finish(|| {
                sync.close();
                logs = Logs::default();
            });
        }
        logs.sync(); // a disk may take its time; who waits for the exit has it by now
        own_status
    }
}
