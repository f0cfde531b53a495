//! Runs one program of the outside once: environment and input in, output out, within a deadline.
//!
//! It gets a process group of its own, so that what it started dies with it when the time is over.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// What is read of an answer: a page of JSON, or a table of rules.
pub const STDOUT_MAX_BYTES: usize = 1024 * 1024;
/// How much of the end of what it says goes into an error.
const TAIL_BYTES: usize = 2048;
/// How long a program that has exited may keep its output open through a child of its own.
const DRAIN_AFTER_EXIT: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("run {}", program.display())]
    Spawn { program: PathBuf, source: std::io::Error },
    #[error("no answer within {limit:?}, killed{}", said(stderr))]
    TimedOut { limit: Duration, stderr: String },
    #[error("more than {STDOUT_MAX_BYTES} bytes on stdout, killed")]
    TooMuchOutput,
    #[error("talk to it")]
    Pipe { source: std::io::Error },
}

/// `: text`, or nothing.
pub fn said(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

/// One run.
pub struct Run {
    pub program: PathBuf,
    pub arguments: &'static [&'static str],
    pub environment: Vec<(&'static str, String)>,
    pub stdin: Vec<u8>,
    pub deadline: Instant,
}

/// How it ended by itself.
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    /// The end of what it said.
    pub stderr: Vec<u8>,
}

/// Kills the program and everything it started, unless it has been waited for.
struct Group(Child);

impl Group {
    fn kill(&self) {
        // Not waited for yet, so the id still stands for this program and its group.
        let leader = self
            .0
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        if let Some(leader) = leader
            && let Err(error) = rustix::process::kill_process_group(leader, Signal::KILL)
        {
            tracing::debug!(%error, "kill process group, ignoring");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs it to its end. Whatever the outcome, it is not running any more.
pub async fn run(call: Run) -> Result<Ended, ProgramError> {
    let started = Instant::now();
    let mut command = Command::new(&call.program);
    command
        .args(call.arguments)
        .envs(call.environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir("/")
        .process_group(0)
        .kill_on_drop(true);
    crate::drivers::child::hides_the_service_manager(&mut command);
    // What finished behind the next daemon's back would hold what that one has just given back.
    crate::drivers::child::dies_with_us(&mut command);
    let child = command.spawn().map_err(|source| ProgramError::Spawn {
        program: call.program,
        source,
    })?;
    let mut group = Group(child);
    let (mut stdin, stdout, stderr) = match (group.0.stdin.take(), group.0.stdout.take(), group.0.stderr.take()) {
        (Some(stdin), Some(stdout), Some(stderr)) => (stdin, stdout, stderr),
        _ => {
            return Err(ProgramError::Pipe {
                source: std::io::Error::other("pipes missing"),
            });
        }
    };

    let mut out = Vec::new();
    let mut tail = Vec::new();
    let ended = tokio::time::timeout_at(call.deadline, async {
        let feed = async {
            // A program that ends without reading its input has said all in its exit code.
            let _ = stdin.write_all(&call.stdin).await;
            drop(stdin);
        };
        let output = async {
            tokio::try_join!(read_bounded(stdout, &mut out), read_tail(stderr, &mut tail))?;
            Ok::<(), ProgramError>(())
        };
        let exit = async { group.0.wait().await.map_err(|source| ProgramError::Pipe { source }) };
        tokio::pin!(feed, output, exit);
        let mut fed = false;
        let mut read = false;
        let status = loop {
            tokio::select! {
                () = &mut feed, if !fed => fed = true,
                outcome = &mut output, if !read => { outcome?; read = true; }
                status = &mut exit => break status?,
            }
        };
        if !read && let Ok(outcome) = tokio::time::timeout(DRAIN_AFTER_EXIT, output).await {
            outcome?;
        }
        Ok::<ExitStatus, ProgramError>(status)
    })
    .await;

    match ended {
        Ok(Ok(status)) => Ok(Ended {
            status,
            stdout: out,
            stderr: tail,
        }),
        Ok(Err(error)) => {
            end(&mut group).await;
            Err(error)
        }
        Err(_) => {
            end(&mut group).await;
            Err(ProgramError::TimedOut {
                limit: call.deadline.saturating_duration_since(started),
                stderr: text(&tail),
            })
        }
    }
}

async fn end(group: &mut Group) {
    group.kill();
    if let Err(error) = group.0.wait().await {
        tracing::warn!(%error, "wait for a killed program, ignoring");
    }
}

/// What a program printed, fit for one line of an error.
pub fn text(bytes: &[u8]) -> String {
    let start = bytes.len().saturating_sub(TAIL_BYTES);
    let tail = String::from_utf8_lossy(bytes.get(start..).unwrap_or_default());
    tail.split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

async fn read_bounded(mut from: impl AsyncRead + Unpin, into: &mut Vec<u8>) -> Result<(), ProgramError> {
    loop {
        let count = from
            .read_buf(into)
            .await
            .map_err(|source| ProgramError::Pipe { source })?;
        if into.len() > STDOUT_MAX_BYTES {
            return Err(ProgramError::TooMuchOutput);
        }
        if count == 0 {
            return Ok(());
        }
    }
}

async fn read_tail(mut from: impl AsyncRead + Unpin, into: &mut Vec<u8>) -> Result<(), ProgramError> {
    loop {
        let count = from
            .read_buf(into)
            .await
            .map_err(|source| ProgramError::Pipe { source })?;
        if into.len() > 2 * TAIL_BYTES {
            into.drain(..into.len() - TAIL_BYTES);
        }
        if count == 0 {
            return Ok(());
        }
    }
}
