//! Sessions that a client takes part in: an exec with its monitor, and an attach to a container's.

use super::ConmonRs;
use super::attached::Connection;
use super::launch::{Outlives, Pipe, Starting};
use super::sync::{end, refused};
use crate::drivers::process;
use crate::drivers::process::HostProcesses;
use crate::drivers::seams::{
    DriverError, DriverResult, ErrorKind, ExecLaunch, ProcessHandle, Processes as _, Session, SessionEnd, Streamed,
};
use conmon_rs::contract;
use serde::Deserialize;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Pieces of input or output between a client and a monitor.
const PIECES_QUEUED: usize = 4;

/// How long a monitor may take to make its socket.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// How long the OCI runtime may take to run a command, or to say why it does not.
const BEGIN_LIMIT: Duration = Duration::from_secs(120);

/// How long a command may go on when its client has left and it was sent SIGHUP.
const HANGUP_GRACE: Duration = Duration::from_secs(5);

/// How long a monitor may take to report the end of a command that was killed.
const REPORT_LIMIT: Duration = Duration::from_secs(30);

/// The monitor's messages to whoever attaches to an exec: the pid, then the exit code; negative for none.
#[derive(Debug, Deserialize)]
struct Message {
    data: i32,
    #[serde(default)]
    message: String,
}

impl ConmonRs {
    /// A client at the standard streams of a container that runs.
    pub(super) fn attach_to(&self, bundle: &Path) -> DriverResult<Streamed> {
        let connection = Connection::open(bundle)?;
        let (session, input, output, mut ended) = session();
        let work = Box::pin(async move {
            let outcome = tokio::select! {
                carried = connection.carry(input, output) => carried,
                () = ended.closed() => Ok(()),
            };
            let _ = ended.send(outcome.map(|()| SessionEnd::Closed));
        });
        Ok(Streamed { session, work })
    }

    /// A client at a command of its own.
    ///
    /// Returns once the command runs. Its monitor is a child of ours; the work ends with it.
    pub(super) async fn run_attached(&self, exec: ExecLaunch) -> DriverResult<Streamed> {
        let (directory, mut arguments) = self.exec_session(&exec).await?;
        arguments.flag("--exec-attach");
        arguments.option("--api-version", "1");
        arguments.option("--cuuid", directory.path().file_name().unwrap_or_default());
        arguments.option("--bundle", directory.path());
        arguments.flag("--full-attach");
        arguments.option("--log-path", "none");
        if exec.stdin && !exec.tty {
            arguments.flag("--stdin");
        }

        let (start, start_theirs) = pipe()?;
        let (ready, ready_theirs) = pipe()?;
        let pipes = vec![
            Pipe {
                variable: contract::START_PIPE_ENV,
                end: start_theirs,
            },
            Pipe {
                variable: contract::ATTACH_PIPE_ENV,
                end: ready_theirs,
            },
        ];
        let Starting {
            mut child,
            sync,
            temporary,
        } = self.spawn_with(
            &exec.handler,
            arguments.0,
            directory.path(),
            exec.entrance,
            Outlives::TheDaemon,
            pipes,
        )?;
        let mut messages = BufReader::with_capacity(contract::SYNC_MESSAGE_LIMIT_BYTES, sync);
        let begun = async {
            let connection = introduce(directory.path(), start, ready).await?;
            let pid = timeout(BEGIN_LIMIT, command_pid(&mut messages, directory.path())).await;
            let pid = pid.unwrap_or_else(|_elapsed| {
                let why = format!("the command did not begin within {BEGIN_LIMIT:?}");
                Err(DriverError::new(ErrorKind::TimedOut, why))
            })?;
            Ok((connection, pid))
        };
        let (connection, pid) = match begun.await {
            Ok(begun) => begun,
            Err(error) => {
                end(&mut child).await;
                return Err(error);
            }
        };
        // One that has ended by now has nothing to be hung up.
        let command = process::identify(pid).and_then(|id| HostProcesses::default().hold(id).ok().flatten());
        let (session, input, output, mut ended) = session();
        let work = Box::pin(async move {
            let _kept = (directory, temporary);
            let through = async {
                let (carried, code) = tokio::join!(connection.carry(input, output), exit_code(&mut messages));
                carried.and(code)
            };
            let outcome = tokio::select! {
                through = through => Some(through),
                () = ended.closed() => None,
            };
            let outcome = match outcome {
                Some(outcome) => outcome,
                None => {
                    drop(connection);
                    hang_up(command.as_deref(), &mut messages).await
                }
            };
            if timeout(REPORT_LIMIT, child.wait()).await.is_err() {
                tracing::warn!("the monitor of an exec does not end, killing it");
                end(&mut child).await;
            }
            let _ = ended.send(outcome.map(SessionEnd::ExitCode));
        });
        Ok(Streamed { session, work })
    }
}

/// The command's pid, or why there is none.
async fn command_pid(messages: &mut BufReader<UnixStream>, directory: &Path) -> DriverResult<u32> {
    let message = next_message(messages).await?;
    match u32::try_from(message.data) {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(refused(directory, message.message.as_bytes()).await),
    }
}

/// Waits for the monitor's socket, connects, and lets the runtime begin: no output is lost.
async fn introduce(directory: &Path, mut start: UnixStream, mut ready: UnixStream) -> DriverResult<Connection> {
    let lost = |error: std::io::Error| DriverError::io("pipe to the monitor of an exec", &error);
    start.write_all(b"1").await.map_err(lost)?;
    let mut said = [0; 256];
    let answer = timeout(READY_LIMIT, ready.read(&mut said)).await;
    match answer {
        Ok(Ok(1..)) => {}
        Ok(Ok(0)) => {
            return Err(DriverError::new(
                ErrorKind::Failed,
                "the monitor ended before it listened",
            ));
        }
        Ok(Err(error)) => return Err(lost(error)),
        Err(_elapsed) => {
            let why = format!("the monitor of an exec did not listen within {READY_LIMIT:?}");
            return Err(DriverError::new(ErrorKind::TimedOut, why));
        }
    }
    let connection = Connection::open(directory)?;
    start.write_all(b"2").await.map_err(lost)?;
    Ok(connection)
}

async fn next_message(messages: &mut BufReader<UnixStream>) -> DriverResult<Message> {
    let mut line = Vec::new();
    let limit = contract::SYNC_MESSAGE_LIMIT_BYTES as u64;
    let read = messages.take(limit).read_until(b'\n', &mut line).await;
    read.map_err(|error| DriverError::io("sync pipe of the monitor", &error))?;
    serde_json::from_slice(&line).map_err(|error| {
        let what = if line.is_empty() {
            "the monitor ended without a word".to_owned()
        } else {
            format!("not a message of the monitor: {error}")
        };
        DriverError::new(ErrorKind::Failed, what)
    })
}

/// The command's exit code, once it has ended.
async fn exit_code(messages: &mut BufReader<UnixStream>) -> DriverResult<i32> {
    let message = next_message(messages).await?;
    if message.data < 0 {
        let why = if message.message.is_empty() {
            "nobody saw how the command ended".to_owned()
        } else {
            message.message
        };
        return Err(DriverError::new(ErrorKind::Failed, why));
    }
    Ok(message.data)
}

/// The client has left: what a terminal does then, and SIGKILL if that is not heard.
async fn hang_up(command: Option<&dyn ProcessHandle>, messages: &mut BufReader<UnixStream>) -> DriverResult<i32> {
    let send = |signal| {
        if let Some(command) = command
            && let Err(error) = command.signal(signal)
        {
            tracing::warn!(%error, signal, "end a command whose client has left, ignoring");
        }
    };
    send(libc::SIGHUP);
    if let Ok(ended) = timeout(HANGUP_GRACE, exit_code(messages)).await {
        return ended;
    }
    send(libc::SIGKILL);
    timeout(REPORT_LIMIT, exit_code(messages))
        .await
        .unwrap_or_else(|_elapsed| {
            Err(DriverError::new(
                ErrorKind::TimedOut,
                "a command whose client has left does not end",
            ))
        })
}

type Ends = (
    Session,
    mpsc::Receiver<crate::drivers::seams::Input>,
    mpsc::Sender<crate::drivers::seams::Output>,
    oneshot::Sender<DriverResult<SessionEnd>>,
);

fn session() -> Ends {
    let (input, inputs) = mpsc::channel(PIECES_QUEUED);
    let (outputs, output) = mpsc::channel(PIECES_QUEUED);
    let (end, ended) = oneshot::channel();
    (Session { input, output, ended }, inputs, outputs, end)
}

fn pipe() -> DriverResult<(UnixStream, std::os::unix::net::UnixStream)> {
    let pair = || -> std::io::Result<_> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((UnixStream::from_std(ours)?, theirs))
    };
    pair().map_err(|error| DriverError::io("pipe to the monitor", &error))
}
