//! The monitor of one container: a drop-in for conmon. One process, one thread, no locks.
//!
//! - `contract`: what crio-manager may rely on
//! - `args`: command line → plan, checked once; `messages`: the monitor's own words
//! - `daemonize`: from the caller's child to a supervisor; `sync_pipe`: tells the parent once
//! - `runtime`: starts the OCI runtime, reads its pid file; `exit_command`: starts the caller's program at the end
//! - `monitor`: the loop; `poller`: what can wake it; `child`: who ended, and how; `timeout`: who ran too long
//! - `stdio`, `console`: the container's pipes, or its terminal; `log`: where its output is kept
//! - `attach`: clients that watch and type; `notify`: readiness for the host's service manager
//! - `control`: resize and reopen-log requests; `oom`, `cgroup`: memory that ran out; `exit_file`, `exit_record`: the last word
//! - `confine`: what is given up once the container runs
//! - `sys`: the only file with `unsafe`

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing))]

mod args;
mod attach;
mod cgroup;
mod child;
mod confine;
mod console;
pub mod contract;
mod control;
mod daemonize;
mod exit_command;
mod exit_file;
pub mod exit_record;
mod log;
mod messages;
mod monitor;
mod notify;
mod oom;
mod poller;
mod runtime;
mod stdio;
mod sync_pipe;
// fork, exec, signal masks and descriptors by number have no safe interface in std or rustix.
#[allow(unsafe_code)]
mod sys;
mod timeout;

use std::io::Write;

use args::{MonitorPlan, Options, Refusal};
use child::SignalFd;
use daemonize::{InheritedFds, OomScore, ParentPipes, Start};
use log::Logs;
use log::cri::CriLog;
use log::journald::Journal;
use messages::errno_text;
use runtime::Origin;
use sync_pipe::SyncPipe;

pub use child::serve_as_init;

/// Runs the monitor as its command line says and ends the process, without anything at exit.
pub fn main() -> ! {
    sys::exit_now(run())
}

fn run() -> i32 {
    let mut prepared = match prepare() {
        Ok(prepared) => prepared,
        Err(status) => return status,
    };
    match supervise(&mut prepared) {
        Ok(status) => status,
        Err(reason) => {
            crate::error!("{reason}");
            prepared.sync.failure(reason.as_bytes());
            1
        }
    }
}

/// What the monitor has to do, and by what means it tells the parent.
struct Prepared {
    plan: MonitorPlan,
    sync: SyncPipe,
    pipes: ParentPipes,
    inherited: InheritedFds,
}

/// Everything that can be refused while the caller still waits for our exit status. The error is that status.
///
/// Not inlined, as other steps below: what they need of the stack is not to be kept for the container's life.
#[inline(never)]
fn prepare() -> Result<Prepared, i32> {
    let mut inherited = InheritedFds::find();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let options = match args::parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(reason) => return Err(complain(&format!("conmon: option parsing failed: {reason}\n"))),
    };
    if options.wants_help() || options.wants_version() {
        let text = if options.wants_help() {
            args::help()
        } else {
            args::version()
        };
        let _ = std::io::stdout().write_all(text.as_bytes()); // nobody else can be told
        return Err(0);
    }
    let key = options.sync_key();
    let pipes = ParentPipes::take(&mut inherited, options.exec_attach());
    let (refusal, pipe) = match (check(options), pipes) {
        (Ok(plan), Ok(mut pipes)) => {
            let sync = SyncPipe::new(pipes.sync.take(), key);
            return Ok(Prepared {
                plan,
                sync,
                pipes,
                inherited,
            });
        }
        (Err(refusal), pipes) => (refusal, pipes.ok().and_then(|pipes| pipes.sync)),
        (Ok(_), Err(reason)) => (Refusal::AtCheck(reason), None),
    };
    let (prefix, reason) = match refusal {
        Refusal::AtParse(reason) => ("conmon", reason),
        Refusal::AtCheck(reason) => ("[conmon:e]", reason),
    };
    SyncPipe::new(pipe, key).failure(reason.as_bytes());
    Err(complain(&format!("{prefix}: {reason}\n")))
}

fn check(options: Options) -> Result<MonitorPlan, Refusal> {
    options.check_words()?;
    messages::configure(options.log_level()?, options.syslog_subject());
    options.check()
}

fn complain(text: &str) -> i32 {
    let _ = std::io::stderr().write_all(text.as_bytes()); // nobody else can be told
    1
}

/// Leaves the caller and runs the container; returns our exit status, or why it did not come to that.
fn supervise(prepared: &mut Prepared) -> Result<i32, String> {
    let Some((origin, signals, logs)) = leave_caller(prepared)? else {
        return Ok(1);
    };
    let Prepared {
        plan,
        sync,
        pipes,
        inherited,
    } = prepared;
    let status = monitor::run(plan, &origin, signals, logs, sync, pipes, inherited)?;
    sync.close();
    if let Some(command) = &plan.exit_command {
        exit_command::run(command, &origin);
    }
    Ok(status)
}

/// From the opening of the log to a process of our own; `None` if the caller wants us to end before.
#[inline(never)]
fn leave_caller(prepared: &mut Prepared) -> Result<Option<(Origin, SignalFd, Logs)>, String> {
    let Prepared { plan, pipes, .. } = prepared;
    let journal = plan.log.journal.take().map(|plan| Journal::open(&plan));
    let logs = Logs {
        file: CriLog::open(std::mem::take(&mut plan.log))
            .map_err(|error| format!("Failed to open log file {}", errno_text(&error)))?,
        journal: journal.transpose().map_err(|error| format!("open journal: {error}"))?,
    };
    let origin = Origin {
        signals: sys::block_signals(),
        oom_score: OomScore::lower(),
    };
    let signals = SignalFd::new().map_err(|error| format!("signalfd: {error}"))?;
    if let Some(pipe) = &pipes.start {
        match daemonize::wait_for_start(pipe, &signals) {
            Ok(Start::Now) => {}
            Ok(Start::Never) => return Ok(None),
            Err(error) => return Err(format!("read start pipe: {error}")),
        }
    }
    if !plan.attach.before_exec {
        pipes.start = None; // an exec that waits for its client reads it once more
    }
    if plan.daemonize {
        daemonize::into_background(plan.monitor_pidfile.as_deref()).map_err(|error| error.to_string())?;
    }
    daemonize::become_supervisor(plan.stdio).map_err(|error| format!("become subreaper: {error}"))?;
    Ok(Some((origin, signals, logs)))
}
