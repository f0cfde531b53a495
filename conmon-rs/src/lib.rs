//! The monitor of one container: a drop-in for conmon. One process, one thread, no locks.
//!
//! - `contract`: what crio-manager may rely on
//! - `args`: command line → plan, checked once; `messages`: the monitor's own words
//! - `daemonize`: from the caller's child to a supervisor; `sync_pipe`: tells the parent once
//! - `runtime`: starts the OCI runtime, reads its pid file; `exit_command`: starts the caller's program at the end
//! - `monitor`: the loop; `poller`: what can wake it; `child`: who ended, and how; `timeout`: who ran too long
//! - `stdio`, `console`: the container's pipes, or its terminal; `log`: where its output is kept
//! - `attach`: clients that watch and type; `notify`: readiness for the host's service manager
//! - `control`: resize and reopen-log requests; `oom`, `cgroup`: memory that ran out; `exit_file`: the last word
//! - `sys`: the only file with `unsafe`

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing))]

mod args;
mod attach;
mod cgroup;
mod child;
mod console;
pub mod contract;
mod control;
mod daemonize;
mod exit_command;
mod exit_file;
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
    let mut inherited = InheritedFds::find();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let options = match args::parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(reason) => return complain(&format!("conmon: option parsing failed: {reason}\n")),
    };
    if options.wants_help() || options.wants_version() {
        let text = if options.wants_help() {
            args::help()
        } else {
            args::version()
        };
        let _ = std::io::stdout().write_all(text.as_bytes()); // nobody else can be told
        return 0;
    }
    let key = options.sync_key();
    let (mut sync, mut pipes, mut plan) = match prepare(options, &mut inherited) {
        Ok((mut pipes, plan)) => (SyncPipe::new(pipes.sync.take(), key), pipes, plan),
        Err((pipes, refusal)) => {
            let reason = match &refusal {
                Refusal::AtParse(reason) | Refusal::AtCheck(reason) => reason,
            };
            SyncPipe::new(pipes.and_then(|pipes| pipes.sync), key).failure(reason.as_bytes());
            return match &refusal {
                Refusal::AtParse(reason) => complain(&format!("conmon: {reason}\n")),
                Refusal::AtCheck(reason) => complain(&format!("[conmon:e]: {reason}\n")),
            };
        }
    };
    match supervise(&mut plan, &mut sync, &mut pipes, &mut inherited) {
        Ok(status) => status,
        Err(reason) => {
            crate::error!("{reason}");
            sync.failure(reason.as_bytes());
            1
        }
    }
}

type Refused = (Option<ParentPipes>, Refusal);

/// Everything that can be refused while the caller still waits for our exit status.
fn prepare(options: Options, inherited: &mut InheritedFds) -> Result<(ParentPipes, MonitorPlan), Refused> {
    let pipes = ParentPipes::take(inherited, options.exec_attach()).map_err(|reason| (None, Refusal::AtCheck(reason)));
    let checked = options
        .check_words()
        .and_then(|()| options.log_level())
        .and_then(|level| {
            messages::configure(level, options.syslog_subject());
            options.check()
        });
    match (pipes, checked) {
        (Ok(pipes), Ok(plan)) => Ok((pipes, plan)),
        (Ok(pipes), Err(refusal)) => Err((Some(pipes), refusal)),
        (Err(_), Err(refusal)) => Err((None, refusal)),
        (Err(refused), Ok(_)) => Err(refused),
    }
}

fn complain(text: &str) -> i32 {
    let _ = std::io::stderr().write_all(text.as_bytes()); // nobody else can be told
    1
}

/// Leaves the caller and runs the container; returns our exit status, or why it did not come to that.
fn supervise(
    plan: &mut MonitorPlan,
    sync: &mut SyncPipe,
    pipes: &mut ParentPipes,
    inherited: &mut InheritedFds,
) -> Result<i32, String> {
    let journal = plan.log.journal.take().map(|plan| Journal::open(&plan));
    let logs = Logs {
        file: CriLog::open(std::mem::take(&mut plan.log))
            .map_err(|error| format!("Failed to open log file {}", errno_text(&error)))?,
        journal: journal.transpose().map_err(|error| format!("open journal: {error}"))?,
    };
    let signals = sys::block_signals();
    let signal_fd = SignalFd::new().map_err(|error| format!("signalfd: {error}"))?;
    let origin = Origin {
        signals,
        oom_score: OomScore::lower(),
    };
    if let Some(pipe) = &pipes.start {
        match daemonize::wait_for_start(pipe, &signal_fd) {
            Ok(Start::Now) => {}
            Ok(Start::Never) => return Ok(1),
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
    let status = monitor::run(plan, &origin, signal_fd, logs, sync, pipes, inherited)?;
    sync.close();
    if let Some(command) = &plan.exit_command {
        exit_command::run(command, &origin);
    }
    Ok(status)
}
