//! Everything that is there before the runtime is started, and that start.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use super::life::Life;
use super::{Monitor, Phase};
use crate::args::{MonitorPlan, StdioPlan};
use crate::attach::{Attach, Stdin};
use crate::child::{Process, SignalFd};
use crate::console::ConsoleSocket;
use crate::contract::{CONTROL_FIFO, Stream, SyncKey, WINDOW_SIZE_FIFO};
use crate::control::RequestFifo;
use crate::daemonize::{ParentPipes, forget_stdio};
use crate::log::Logs;
use crate::notify::NotifyProxy;
use crate::poller::{Event, Interest, Poller};
use crate::runtime::{self, Origin, Preparation};
use crate::stdio::{EarlyOutput, Stdio};
use crate::sync_pipe::SyncPipe;
use crate::timeout::Mark;

impl<'a> Monitor<'a> {
    /// Prepares everything that the runtime or an early caller may use, then starts the runtime.
    #[inline(never)] // its stack is not kept for the container's life; nor is that of the others below
    pub(super) fn start(
        plan: &'a MonitorPlan,
        origin: &Origin,
        signals: SignalFd,
        logs: Logs,
        pipes: &mut ParentPipes,
    ) -> Result<Monitor<'a>, String> {
        let began = Instant::now();
        let poller = Poller::new().map_err(named("epoll"))?;
        poller
            .add(&signals, Event::Signals, Interest::Readable)
            .map_err(named("watch signals"))?;
        let console = match plan.stdio {
            StdioPlan::Terminal => Some(ConsoleSocket::listen().map_err(named("create console socket"))?),
            StdioPlan::Pipes { .. } | StdioPlan::Inherited => None,
        };
        let (stdio, ends) = Stdio::new(plan.stdio, plan.no_dev_null).map_err(named("create pipes"))?;
        // Where callers reach us; a container with stdio that is not ours needs nothing of it.
        let meeting_place = plan.bundle.as_deref().filter(|_| plan.stdio != StdioPlan::Inherited);
        let control = request_fifo(meeting_place, CONTROL_FIFO)?;
        let window_sizes = request_fifo(meeting_place, WINDOW_SIZE_FIFO)?;
        watch(&poller, &console, Event::Console)?;
        watch(&poller, &control, Event::Control)?;
        watch(&poller, &window_sizes, Event::WindowSize)?;
        watch(&poller, &stdio.stdout, Event::Output(Stream::Stdout))?;
        watch(&poller, &stdio.stderr, Event::Output(Stream::Stderr))?;
        if let Stdin::Open(stdin) = &stdio.stdin {
            poller
                .add(stdin, Event::StdinHasRoom, Interest::Once)
                .map_err(named("watch stdin"))?;
        }
        let attach = match meeting_place {
            Some(bundle) => {
                let link = plan
                    .attach
                    .link
                    .as_ref()
                    .map(|(directory, name)| (directory.as_path(), name.as_os_str()));
                let overflow = (!plan.task.is_exec()).then(|| logs.directory().unwrap_or(bundle).to_owned());
                let attach = Attach::listen(bundle, link, overflow).map_err(named("create attach socket"))?;
                attach.watch(&poller).map_err(named("watch attach socket"))?;
                Some(attach)
            }
            None => None,
        };
        let notify = match (&plan.bundle, &plan.notify_socket) {
            (Some(bundle), Some(host)) => {
                Some(NotifyProxy::listen(bundle, host).map_err(named("create notify socket"))?)
            }
            (None, _) | (_, None) => None,
        };
        watch(&poller, &notify, Event::Notification)?;
        let attach_pipe = pipes.attach.take().map(|pipe| {
            let mut pipe = SyncPipe::new(Some(pipe), SyncKey::Data);
            pipe.ready();
            pipe
        });
        let mark = plan.timeout.map(|_| Mark::new());
        let preparation = Preparation {
            ends: &ends,
            console_socket: console.as_ref().map(ConsoleSocket::path),
            mark,
            replace_listen_pid: plan.replace_listen_pid,
            start_pipe: pipes.start.as_ref(),
        };
        let runtime = runtime::start(plan, origin, &preparation).map_err(named("start runtime"))?;
        pipes.start = None;
        // The runtime still has it, as the caller means it to; ours would keep a file system from being unmounted.
        std::env::set_current_dir("/").map_err(named("leave the caller's directory"))?;
        if plan.stdio == StdioPlan::Inherited {
            forget_stdio().map_err(named("open /dev/null"))?;
        }
        Ok(Monitor {
            plan,
            poller,
            signals,
            stdio,
            logs,
            console,
            terminal: None,
            window_size: None,
            control,
            window_sizes,
            attach,
            notify,
            _attach_pipe: attach_pipe,
            waits_for_clients: false,
            oom: None,
            phase: Phase::Creating(EarlyOutput::default()),
            mark,
            life: Life::begin(plan.timeout, plan.task.is_exec(), began),
            process: Process::open(runtime),
        })
    }
}

fn request_fifo(bundle: Option<&Path>, name: &str) -> Result<Option<RequestFifo>, String> {
    let Some(path) = bundle.map(|bundle| bundle.join(name)) else {
        return Ok(None);
    };
    match RequestFifo::create(&path) {
        Ok(fifo) => Ok(Some(fifo)),
        Err(error) => Err(format!("create {}: {error}", path.display())),
    }
}

fn watch(poller: &Poller, source: &Option<impl AsFd>, event: Event) -> Result<(), String> {
    match source {
        Some(source) => poller.add(source, event, Interest::Readable).map_err(named("watch")),
        None => Ok(()),
    }
}

fn named(step: &'static str) -> impl Fn(io::Error) -> String {
    move |error| format!("{step}: {error}")
}
