//! conmon-rs from the manager's side: launches it, reads its sync pipe and its files.

use super::readiness;
use super::runtime::{missing, words};
use super::seams::{
    DriverError, DriverResult, Entrance, ErrorKind, ExecLaunch, ExecOutcome, ExecOutput, Launched, Monitor,
    MonitorLaunch,
};
use super::{child, process};
use crate::model::record::Handler;
use crate::model::{ContainerId, Exit, ExitStatus};
use async_trait::async_trait;
use command_fds::CommandFdExt;
use command_fds::FdMapping;
use conmon_rs::contract::{self, SyncMessage};
use rustix::fs::inotify;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::ErrorKind as IoErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Most of an exec's output that is kept, both streams together, in bytes: clients take messages of 16 MiB.
pub const EXEC_OUTPUT_BYTES: usize = 16 * 1024 * 1024 - 1024;

/// Most of its log, where every line has a head, in bytes. The monitor drops what comes then.
const EXEC_LOG_BYTES: u64 = 64 * 1024 * 1024;

/// How much longer than an exec's own time-out its monitor may take to kill it and say so.
const EXEC_MARGIN: Duration = Duration::from_secs(30);

/// Room for an event and the longest file name.
const INOTIFY_BUFFER_BYTES: usize = 4096;

/// How long a monitor may take to open a log anew.
const REOPEN_LIMIT: Duration = Duration::from_secs(10);

/// Most that is read of a file which the monitor or the runtime wrote for us, in bytes.
const FILE_BYTES: u64 = 64 * 1024;

/// The descriptor that the monitor finds its sync pipe at.
const SYNC_FD: i32 = 3;

/// Names in a bundle beside the monitor's own.
const MONITOR_PID_FILE: &str = "conmon-pidfile";
const CONTAINER_PID_FILE: &str = "pidfile";
const RUNTIME_LOG: &str = "runtime.log";

/// conmon-rs, and where its files go.
#[derive(Debug, Clone)]
pub struct ConmonRs {
    /// Exit files, named by container id.
    pub exits_dir: PathBuf,
    /// Short names of attach sockets.
    pub socket_dir: PathBuf,
    /// A directory per exec under way, and one per monitor that is being spoken to.
    pub exec_dir: PathBuf,
    /// Size at which a log file starts anew, in bytes.
    pub log_size_max: Option<u64>,
    /// Who waits for an exit file.
    pub exits: ExitsAwaited,
}

/// Who waits for which exit file.
#[derive(Debug, Clone, Default)]
pub struct ExitsAwaited {
    waiting: Arc<Mutex<HashMap<ContainerId, Arc<Notify>>>>,
}

/// An entry in it, for as long as somebody waits.
struct Awaited<'a> {
    exits: &'a ExitsAwaited,
    id: &'a ContainerId,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.exits.waiting().remove(self.id);
    }
}

impl ExitsAwaited {
    fn waiting(&self) -> MutexGuard<'_, HashMap<ContainerId, Arc<Notify>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes who waits for the file of this name.
    fn appeared(&self, name: &[u8]) {
        let id = std::str::from_utf8(name)
            .ok()
            .and_then(|name| name.parse::<ContainerId>().ok());
        if let Some(waiter) = id.and_then(|id| self.waiting().remove(&id)) {
            waiter.notify_one();
        }
    }

    /// Wakes all: what they wait for may have been missed.
    fn look_again(&self) {
        for waiter in self.waiting().values() {
            waiter.notify_one();
        }
    }
}

/// Whether a process that was spawned goes on when this daemon is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outlives {
    /// It does not. (A monitor that has forked itself off always does.)
    Nobody,
    /// It does: the monitor of an exec keeps to the exec's time limit.
    TheDaemon,
}

/// The manager's ends of a monitor that is starting.
struct Starting {
    child: Child,
    sync: UnixStream,
    /// Where the OCI runtime delivers a terminal. A monitor that is killed leaves its socket there.
    _temporary: tempfile::TempDir,
}

impl ConmonRs {
    /// Makes its directories and removes what execs of an earlier daemon left.
    pub fn open(self) -> std::io::Result<Self> {
        match std::fs::remove_dir_all(&self.exec_dir) {
            Err(error) if error.kind() != IoErrorKind::NotFound => return Err(error),
            _ => {}
        }
        for directory in [&self.exits_dir, &self.socket_dir, &self.exec_dir] {
            super::record_file::make_private_dir(directory)?;
        }
        let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&changes, &self.exits_dir, inotify::WatchFlags::MOVED_TO)?;
        let (changes, exits) = (readiness::watch(changes)?, self.exits.clone());
        tokio::spawn(async move {
            let mut buffer = [std::mem::MaybeUninit::uninit(); INOTIFY_BUFFER_BYTES];
            let mut events = inotify::Reader::new(changes.get_ref(), &mut buffer);
            while let Ok(mut ready) = changes.readable().await {
                match events.next() {
                    Ok(event) => match event.file_name() {
                        Some(name) => exits.appeared(name.to_bytes()),
                        // The queue was full, or the directory is gone.
                        None => exits.look_again(),
                    },
                    Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                    Err(error) => return tracing::error!(%error, "watch the exits directory; exits are seen late"),
                }
            }
        });
        Ok(self)
    }

    /// Spawns the monitor with its sync pipe and a small environment, inside its cgroup.
    fn spawn(
        &self,
        handler: &Handler,
        arguments: Vec<OsString>,
        directory: &Path,
        entrance: Entrance,
        outlives: Outlives,
    ) -> DriverResult<Starting> {
        let pair = || -> std::io::Result<_> {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            Ok((UnixStream::from_std(ours)?, theirs))
        };
        let (sync, theirs) = pair().map_err(|error| DriverError::io("pipe to the monitor", &error))?;
        let temporary = tempfile::Builder::new()
            .prefix("monitor-")
            .tempdir_in(&self.exec_dir)
            .map_err(|error| DriverError::io("directory for the monitor's socket", &error))?;
        let mut command = Command::new(&handler.monitor_path);
        set_environment(&mut command, handler, temporary.path());
        command
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        child::born_in(&mut command, entrance);
        if outlives == Outlives::Nobody {
            child::dies_with_us(&mut command);
        }
        let sync_pipe = FdMapping {
            parent_fd: theirs.into(),
            child_fd: SYNC_FD,
        };
        command
            .fd_mappings(vec![sync_pipe])
            .map_err(|error| DriverError::new(ErrorKind::Failed, error.to_string()))?;
        let child = command
            .spawn()
            .map_err(|error| missing(&handler.monitor_path, &error))?;
        Ok(Starting {
            child,
            sync,
            _temporary: temporary,
        })
    }

    fn create_arguments(&self, launch: &MonitorLaunch) -> Vec<OsString> {
        let mut arguments = Arguments::default();
        let file = |name| launch.bundle.join(name);
        arguments.option("--cid", launch.id.as_str());
        arguments.option("--cuuid", launch.id.as_str());
        arguments.option("--name", &launch.name);
        arguments.option("--bundle", &launch.bundle);
        arguments.option("--conmon-pidfile", file(MONITOR_PID_FILE));
        arguments.option("--container-pidfile", file(CONTAINER_PID_FILE));
        arguments.option("--exit-dir", &self.exits_dir);
        arguments.option("--socket-dir-path", &self.socket_dir);
        arguments.flag("--full-attach");
        arguments.option("--log-level", "warning");
        match &launch.log_path {
            Some(path) => arguments.option("--log-path", prefixed("k8s-file:", path.as_os_str())),
            None => arguments.option("--log-path", "none"),
        }
        if let Some(bytes) = self.log_size_max {
            arguments.option("--log-size-max", bytes.to_string());
        }
        if launch.handler.no_sync_log {
            arguments.flag("--no-sync-log");
        }
        if launch.tty {
            arguments.flag("--terminal");
        } else if launch.stdin {
            arguments.flag("--stdin");
            if launch.leave_stdin_open {
                arguments.flag("--leave-stdin-open");
            }
        }
        arguments.runtime(&launch.handler, &file(RUNTIME_LOG));
        if launch.handler.no_pivot {
            arguments.flag("--no-pivot");
        }
        arguments.0
    }

    /// From the spawned monitor to the created container.
    async fn birth(&self, starting: &mut Starting, bundle: &Path) -> DriverResult<Launched> {
        foreground_end(&mut starting.child).await?;
        let pid = match read_sync(&mut starting.sync).await? {
            SyncMessage::Pid(pid) => pid.get(),
            SyncMessage::Failed { message } => return Err(refused(bundle, message.as_bytes()).await),
            SyncMessage::ExitCode(_) | SyncMessage::TimedOut => {
                return Err(DriverError::new(
                    ErrorKind::Failed,
                    "the monitor answers a create with an exec's message",
                ));
            }
        };
        let process = process::identify(pid)
            .ok_or_else(|| DriverError::new(ErrorKind::Failed, "the container ended before it was started"))?;
        let monitor = read_bounded(&bundle.join(MONITOR_PID_FILE)).await?;
        let monitor = monitor.and_then(|pid| String::from_utf8_lossy(&pid).trim().parse().ok());
        Ok(Launched {
            process,
            monitor: monitor.and_then(process::identify),
        })
    }
}

#[async_trait]
impl Monitor for ConmonRs {
    async fn create(&self, launch: MonitorLaunch) -> DriverResult<Launched> {
        let arguments = self.create_arguments(&launch);
        let MonitorLaunch {
            bundle,
            handler,
            entrance,
            ..
        } = launch;
        let limit = handler.create_timeout;
        let mut starting = self.spawn(&handler, arguments, &bundle, entrance, Outlives::Nobody)?;
        let outcome = match timeout(limit, self.birth(&mut starting, &bundle)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => {
                let said = runtime_words(&bundle)
                    .await
                    .map_or(String::new(), |words| format!(": {words}"));
                let what = format!("{}: the container was not created within {limit:?}{said}", handler.name);
                Err(DriverError::new(ErrorKind::TimedOut, what))
            }
        };
        if outcome.is_err() {
            end(&mut starting.child).await;
        }
        outcome
    }

    async fn exec(&self, exec: ExecLaunch) -> DriverResult<ExecOutcome> {
        let session = tempfile::Builder::new()
            .prefix("exec-")
            .tempdir_in(&self.exec_dir)
            .map_err(|error| DriverError::io("exec directory", &error))?;
        let file = |name: &str| session.path().join(name);
        let spec = file("process.json");
        tokio::fs::write(&spec, &exec.process_json)
            .await
            .map_err(|error| DriverError::io("exec spec", &error))?;

        let mut arguments = Arguments::default();
        arguments.flag("--exec");
        arguments.flag("--sync");
        arguments.option("--cid", exec.id.as_str());
        arguments.option("--exec-process-spec", &spec);
        arguments.option("--container-pidfile", file(CONTAINER_PID_FILE));
        arguments.option("--log-path", prefixed("k8s-file:", file("log").as_os_str()));
        arguments.option("--log-global-size-max", EXEC_LOG_BYTES.to_string());
        arguments.option("--log-level", "error");
        arguments.flag("--no-sync-log");
        if exec.tty {
            arguments.flag("--terminal");
        }
        if let Some(timeout) = exec.timeout {
            arguments.option("--timeout", timeout.as_secs().max(1).to_string());
        }
        arguments.runtime(&exec.handler, &file(RUNTIME_LOG));

        let mut starting = self.spawn(
            &exec.handler,
            arguments.0,
            session.path(),
            exec.entrance,
            Outlives::TheDaemon,
        )?;
        let answer = async {
            let message = read_sync(&mut starting.sync).await;
            // Its own end, so that nothing of it is left when the caller hears of it.
            let ended = starting
                .child
                .wait()
                .await
                .map_err(|error| DriverError::io("wait for the monitor", &error))?;
            message.map_err(|error| DriverError::new(error.kind, format!("{error} ({ended})")))
        };
        let message = match exec.timeout {
            None => answer.await,
            Some(limit) => timeout(limit + EXEC_MARGIN, answer).await.unwrap_or_else(|_elapsed| {
                Err(DriverError::new(
                    ErrorKind::TimedOut,
                    "the exec's monitor does not come to an end, killed",
                ))
            }),
        };
        match message {
            Ok(SyncMessage::ExitCode(code)) => Ok(ExecOutcome::Ended {
                exit_code: i32::from(code),
                output: exec_output(&file("log")).await?,
            }),
            Ok(SyncMessage::TimedOut) => Ok(ExecOutcome::TimedOut),
            Ok(SyncMessage::Failed { message }) => Err(refused(session.path(), message.as_bytes()).await),
            Ok(SyncMessage::Pid(_)) => Err(DriverError::new(
                ErrorKind::Failed,
                "the monitor answers an exec with a create's message",
            )),
            Err(error) => {
                end(&mut starting.child).await;
                Err(error)
            }
        }
    }

    async fn reopen_log(&self, bundle: &Path, log_path: &Path) -> DriverResult<()> {
        let what = || format!("reopen {}", log_path.display());
        let (directory, name) = match (log_path.parent(), log_path.file_name()) {
            (Some(directory), Some(name)) => (directory, name),
            _ => {
                return Err(DriverError::new(
                    ErrorKind::Invalid,
                    format!("{}: not a file's path", what()),
                ));
            }
        };
        let watch = || -> std::io::Result<_> {
            let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            inotify::add_watch(
                &changes,
                directory,
                inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO,
            )?;
            readiness::watch(changes)
        };
        let made = watch().map_err(|error| DriverError::io(what(), &error))?;
        let mut control = tokio::net::unix::pipe::OpenOptions::new()
            .open_sender(bundle.join(contract::CONTROL_FIFO))
            .map_err(|error| DriverError::io(format!("{}: the monitor does not listen", what()), &error))?;
        control
            .write_all(contract::REOPEN_LOG)
            .await
            .map_err(|error| DriverError::io(what(), &error))?;
        let appears = async {
            let mut buffer = [std::mem::MaybeUninit::uninit(); INOTIFY_BUFFER_BYTES];
            let mut events = inotify::Reader::new(made.get_ref(), &mut buffer);
            loop {
                let mut ready = made.readable().await?;
                match events.next() {
                    Ok(event) if event.file_name().is_some_and(|made| made.to_bytes() == name.as_bytes()) => {
                        return Ok(());
                    }
                    Ok(_) => {}
                    Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                    Err(error) => return Err(std::io::Error::from(error)),
                }
            }
        };
        match timeout(REOPEN_LIMIT, appears).await {
            Ok(done) => done.map_err(|error| DriverError::io(what(), &error)),
            Err(_elapsed) => {
                let why = format!("{}: the monitor made no new file within {REOPEN_LIMIT:?}", what());
                Err(DriverError::new(ErrorKind::TimedOut, why))
            }
        }
    }

    async fn exit_recorded(&self, id: &ContainerId) {
        let path = self.exits_dir.join(id.as_str());
        let _entry = Awaited { exits: &self.exits, id };
        loop {
            let waiter = self.exits.waiting().entry(id.clone()).or_default().clone();
            // A look at a tmpfs. Awaited first, looked at second: no appearance falls between.
            if path.exists() {
                return;
            }
            waiter.notified().await;
        }
    }

    async fn recorded_exit(&self, id: &ContainerId, bundle: &Path) -> DriverResult<Option<Exit>> {
        let path = self.exits_dir.join(id.as_str());
        let Some(content) = read_bounded(&path).await? else {
            return Ok(None);
        };
        let written = tokio::fs::metadata(&path).await.and_then(|file| file.modified());
        let at = written.map_err(|error| DriverError::io(path.display(), &error))?.into();
        let status = match contract::ExitCode::parse(&content) {
            Some(contract::ExitCode::Status(code)) => ExitStatus::Code(code),
            Some(contract::ExitCode::Unknown) => ExitStatus::Unknown("its monitor could not learn the status".into()),
            None => ExitStatus::Unknown(format!("{} holds no exit code", path.display())),
        };
        Ok(Some(Exit {
            status,
            oom_killed: self.saw_oom(bundle).await,
            at,
        }))
    }

    async fn saw_oom(&self, bundle: &Path) -> bool {
        tokio::fs::try_exists(bundle.join(contract::OOM_FILE))
            .await
            .unwrap_or(false)
    }

    async fn forget_exit(&self, id: &ContainerId) -> DriverResult<()> {
        let path = self.exits_dir.join(id.as_str());
        match tokio::fs::remove_file(&path).await {
            Err(error) if error.kind() != IoErrorKind::NotFound => Err(DriverError::io(path.display(), &error)),
            _ => Ok(()),
        }
    }
}

/// A small environment: what the handler adds may change PATH, but not the numbers of the pipes.
fn set_environment(command: &mut Command, handler: &Handler, temporary: &Path) {
    command
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(&handler.monitor_env)
        .env("TMPDIR", temporary)
        .env(contract::SYNC_PIPE_ENV, SYNC_FD.to_string());
}

/// A command line in the making.
#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn flag(&mut self, name: &str) {
        self.0.push(name.into());
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.push(name.into());
        self.0.push(value.into());
    }

    fn runtime(&mut self, handler: &Handler, log: &Path) {
        self.option("--runtime", &handler.path);
        if handler.systemd_cgroup {
            self.flag("--systemd-cgroup");
        }
        for argument in [
            prefixed("--root=", handler.root.as_os_str()),
            prefixed("--log=", log.as_os_str()),
            OsString::from("--log-format=json"),
        ] {
            self.option("--runtime-arg", argument);
        }
    }
}

fn prefixed(prefix: &str, value: &std::ffi::OsStr) -> OsString {
    let mut whole = OsString::from(prefix);
    whole.push(value);
    whole
}

/// Waits for the process that was spawned: it checks its arguments, forks the monitor proper and ends.
async fn foreground_end(child: &mut Child) -> DriverResult<()> {
    let mut said = Vec::new();
    let stderr = child.stderr.take();
    let read = async {
        if let Some(stderr) = stderr {
            // A read error ends the output; the exit status tells what matters.
            let _ = stderr.take(FILE_BYTES).read_to_end(&mut said).await;
        }
    };
    let (status, ()) = tokio::join!(child.wait(), read);
    let status = status.map_err(|error| DriverError::io("wait for the monitor", &error))?;
    if status.success() {
        return Ok(());
    }
    let why = words(&said).unwrap_or_else(|| "it said nothing".to_owned());
    Err(DriverError::new(ErrorKind::Failed, format!("monitor: {status}: {why}")))
}

/// Reads the one message of a create or an exec.
async fn read_sync(sync: &mut UnixStream) -> DriverResult<SyncMessage> {
    let mut message = Vec::new();
    let mut chunk = [0; contract::SYNC_MESSAGE_LIMIT_BYTES];
    while message.len() < contract::SYNC_MESSAGE_LIMIT_BYTES && !message.ends_with(b"\n") {
        match sync.read(&mut chunk).await {
            Ok(0) => break,
            Ok(length) => message.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            Err(error) => return Err(DriverError::io("sync pipe of the monitor", &error)),
        }
    }
    SyncMessage::parse(&message).map_err(|error| {
        let what = if message.is_empty() {
            "the monitor ended without a word".to_owned()
        } else {
            error.to_string()
        };
        DriverError::new(ErrorKind::Failed, what)
    })
}

/// Kills the spawned process, if it is still there, and reaps it.
async fn end(child: &mut Child) {
    if let Err(error) = child.kill().await {
        tracing::warn!(%error, "kill the monitor's first process, ignoring");
    }
}

/// Why the runtime refused: the words in its log, else those the monitor passed on.
async fn refused(directory: &Path, passed_on: &[u8]) -> DriverError {
    let words = match runtime_words(directory).await {
        Some(logged) => logged,
        None => words(passed_on).unwrap_or_else(|| "the OCI runtime failed without a word".to_owned()),
    };
    DriverError::new(ErrorKind::Failed, words)
}

async fn runtime_words(directory: &Path) -> Option<String> {
    words(&read_bounded(&directory.join(RUNTIME_LOG)).await.ok()??)
}

/// A small file's content; `None` when there is none.
async fn read_bounded(path: &Path) -> DriverResult<Option<Vec<u8>>> {
    let read = async {
        let mut content = Vec::new();
        tokio::fs::File::open(path)
            .await?
            .take(FILE_BYTES)
            .read_to_end(&mut content)
            .await?;
        Ok(content)
    };
    match read.await {
        Ok(content) => Ok(Some(content)),
        Err(error) if IoErrorKind::NotFound == std::io::Error::kind(&error) => Ok(None),
        Err(error) => Err(DriverError::io(path.display(), &error)),
    }
}

/// Takes an exec's log apart into its two streams, up to `EXEC_OUTPUT_BYTES`.
async fn exec_output(log: &Path) -> DriverResult<ExecOutput> {
    let log = log.to_owned();
    let parsed = tokio::task::spawn_blocking(move || {
        let log = std::fs::File::open(log)?;
        let cut_by_monitor = log.metadata()?.len() >= EXEC_LOG_BYTES;
        let mut output = read_output(std::io::BufReader::new(log), EXEC_OUTPUT_BYTES)?;
        output.is_cut |= cut_by_monitor;
        Ok(output)
    });
    let parsed = parsed
        .await
        .unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)));
    parsed.map_err(|error| DriverError::io("exec output", &error))
}

/// The streams of a log, up to `limit` bytes of both together.
fn read_output(mut log: impl std::io::BufRead, limit: usize) -> std::io::Result<ExecOutput> {
    let (mut output, mut room) = (ExecOutput::default(), limit);
    let mut line = Vec::new();
    while log.read_until(b'\n', &mut line)? > 0 {
        if let Some(record) = contract::parse_log_line(&line) {
            let stream = match record.stream {
                contract::Stream::Stdout => &mut output.stdout,
                contract::Stream::Stderr => &mut output.stderr,
            };
            let end: &[u8] = if record.partial { b"" } else { b"\n" };
            for part in [record.content, end] {
                let fits = part.get(..room).unwrap_or(part);
                stream.extend_from_slice(fits);
                room -= fits.len();
                if fits.len() < part.len() {
                    output.is_cut = true;
                    return Ok(output);
                }
            }
        }
        line.clear();
    }
    Ok(output)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::drivers::fake::{Fails, FakeNode};
    use crate::drivers::seams::OciRuntime;

    fn handler() -> Handler {
        FakeNode::new(Fails::Never).handler("").unwrap()
    }

    fn arguments(handler: Handler) -> Vec<OsString> {
        let monitor = ConmonRs {
            exits_dir: "/exits".into(),
            socket_dir: "/sockets".into(),
            exec_dir: "/exec".into(),
            log_size_max: None,
            exits: ExitsAwaited::default(),
        };
        monitor.create_arguments(&MonitorLaunch {
            id: ContainerId::from_bytes([1; 32]),
            name: "main".to_owned(),
            handler,
            bundle: "/bundle".into(),
            log_path: None,
            tty: false,
            stdin: false,
            leave_stdin_open: false,
            entrance: Entrance::default(),
        })
    }

    #[test]
    fn output_of_an_exec_is_cut_at_the_byte_and_said_to_be() {
        let record = |stream: &str, tag: &str, content: &str| {
            format!("2026-01-02T03:04:05.000000006+00:00 {stream} {tag} {content}\n")
        };
        let log = record("stdout", "P", "ab") + &record("stderr", "F", "cd") + &record("stdout", "F", "e");
        let read = |limit| {
            let ExecOutput { stdout, stderr, is_cut } = read_output(log.as_bytes(), limit).unwrap();
            (
                String::from_utf8(stdout).unwrap(),
                String::from_utf8(stderr).unwrap(),
                is_cut,
            )
        };
        let whole = ("abe\n".to_owned(), "cd\n".to_owned());
        assert_eq!(read(7), (whole.0, whole.1, false));
        assert_eq!(read(6), ("abe".to_owned(), "cd\n".to_owned(), true));
        assert_eq!(read(3), ("ab".to_owned(), "c".to_owned(), true));
        assert_eq!(read(0), (String::new(), String::new(), true));
    }

    #[test]
    fn a_container_is_created_without_a_pivot_only_where_the_handler_says_so() {
        let no_pivot = |no_pivot| arguments(Handler { no_pivot, ..handler() }).contains(&"--no-pivot".into());
        assert!(no_pivot(true));
        assert!(!no_pivot(false));
    }

    #[test]
    fn the_environment_of_a_monitor_is_a_path_the_handlers_own_and_the_pipes() {
        let environment = |added: &[(&str, &str)]| {
            let monitor_env = added
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect();
            let mut command = Command::new("/monitor");
            set_environment(
                &mut command,
                &Handler {
                    monitor_env,
                    ..handler()
                },
                Path::new("/exec"),
            );
            let set = command.as_std().get_envs();
            set.map(|(name, value)| {
                (
                    name.to_str().unwrap().to_owned(),
                    value.unwrap().to_str().unwrap().to_owned(),
                )
            })
            .collect::<std::collections::BTreeMap<_, _>>()
        };
        let plain = environment(&[]);
        let names = ["PATH", "TMPDIR", contract::SYNC_PIPE_ENV];
        assert_eq!(plain.keys().collect::<Vec<_>>(), names);

        let added = environment(&[("PATH", "/own"), ("A", "b"), (contract::SYNC_PIPE_ENV, "9")]);
        assert_eq!((added["PATH"].as_str(), added["A"].as_str()), ("/own", "b"));
        assert_eq!(added[contract::SYNC_PIPE_ENV], plain[contract::SYNC_PIPE_ENV]);
    }
}
