//! Runs one CNI plugin once: environment and configuration in, its answer out, within a deadline.
//!
//! Source: the CNI specification 1.1, section 2. The program gets a process group of its own, so that what it started
//! dies with it when the time is over.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// A result is a page of JSON.
pub const STDOUT_MAX_BYTES: usize = 1024 * 1024;
/// How much of the end of a plugin's stderr goes into an error.
const STDERR_TAIL_BYTES: usize = 2048;
/// How long a plugin that has exited may keep its output open through a child of its own.
const DRAIN_AFTER_EXIT: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    #[error("not in {searched}")]
    Missing { searched: String },
    #[error("run {}", program.display())]
    Spawn { program: PathBuf, source: std::io::Error },
    #[error("no answer within {limit:?}, killed{}", said(stderr))]
    TimedOut { limit: Duration, stderr: String },
    #[error("more than {STDOUT_MAX_BYTES} bytes on stdout, killed")]
    TooMuchOutput,
    /// The plugin's own words.
    #[error("{msg} (code {code}){}{}", said(details), said(stderr))]
    Refused {
        code: u64,
        msg: String,
        details: String,
        stderr: String,
    },
    #[error("{status}, without a CNI error on stdout{}{}", said(stdout), said(stderr))]
    Crashed {
        status: ExitStatus,
        stdout: String,
        stderr: String,
    },
    #[error(
        "exited with success, but its answer is not a CNI result: {reason}{}{}",
        said(stdout),
        said(stderr)
    )]
    Garbage {
        reason: String,
        stdout: String,
        stderr: String,
    },
    #[error("talk to it")]
    Pipe { source: std::io::Error },
}

impl PluginError {
    /// The plugin itself said that it can't serve new pods now (STATUS, codes 50 and 51), or any other refusal.
    pub fn code(&self) -> Option<u64> {
        match self {
            PluginError::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

fn said(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

/// One call of one plugin.
pub struct Call {
    pub program: PathBuf,
    /// The `CNI_*` variables.
    pub environment: Vec<(&'static str, String)>,
    pub stdin: Vec<u8>,
    pub deadline: Instant,
}

/// Kills the plugin and everything it started, unless it has been waited for.
struct Group(Child);

impl Group {
    fn kill(&self) {
        // Not waited for yet, so the id still stands for this plugin and its group.
        let leader = self
            .0
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        if let Some(leader) = leader
            && let Err(error) = rustix::process::kill_process_group(leader, Signal::KILL)
        {
            tracing::debug!(%error, "kill plugin group, ignoring");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs the plugin to its end. Whatever the outcome, it is not running any more.
pub async fn run(call: Call) -> Result<Vec<u8>, PluginError> {
    let started = Instant::now();
    let mut command = Command::new(&call.program);
    command
        .envs(call.environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir("/")
        .process_group(0)
        .kill_on_drop(true);
    crate::drivers::child::hides_the_service_manager(&mut command);
    // A plugin that finished behind the next daemon's back would hold what that one has just given back.
    crate::drivers::child::dies_with_us(&mut command);
    let child = command.spawn().map_err(|source| PluginError::Spawn {
        program: call.program,
        source,
    })?;
    let mut group = Group(child);
    let (mut stdin, stdout, stderr) = match (group.0.stdin.take(), group.0.stdout.take(), group.0.stderr.take()) {
        (Some(stdin), Some(stdout), Some(stderr)) => (stdin, stdout, stderr),
        _ => {
            return Err(PluginError::Pipe {
                source: std::io::Error::other("pipes missing"),
            });
        }
    };

    let mut out = Vec::new();
    let mut tail = Vec::new();
    let ended = tokio::time::timeout_at(call.deadline, async {
        let feed = async {
            // A plugin that ends without reading its configuration has said all in its exit code.
            let _ = stdin.write_all(&call.stdin).await;
            drop(stdin);
        };
        let output = async {
            tokio::try_join!(read_bounded(stdout, &mut out), read_tail(stderr, &mut tail))?;
            Ok::<(), PluginError>(())
        };
        let exit = async { group.0.wait().await.map_err(|source| PluginError::Pipe { source }) };
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
        Ok::<ExitStatus, PluginError>(status)
    })
    .await;

    let status = match ended {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => {
            end(&mut group).await;
            return Err(error);
        }
        Err(_) => {
            end(&mut group).await;
            let limit = call.deadline.saturating_duration_since(started);
            return Err(PluginError::TimedOut {
                limit,
                stderr: text(&tail),
            });
        }
    };
    judge(status, out, &tail)
}

async fn end(group: &mut Group) {
    group.kill();
    if let Err(error) = group.0.wait().await {
        tracing::warn!(%error, "wait for a killed plugin, ignoring");
    }
}

#[derive(Deserialize)]
struct ErrorAnswer {
    code: u64,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

fn judge(status: ExitStatus, stdout: Vec<u8>, stderr: &[u8]) -> Result<Vec<u8>, PluginError> {
    if status.success() {
        return Ok(stdout);
    }
    let stderr = text(stderr);
    Err(match serde_json::from_slice::<ErrorAnswer>(&stdout) {
        Ok(ErrorAnswer { code, msg, details }) => PluginError::Refused {
            code,
            msg,
            details,
            stderr,
        },
        Err(_) => PluginError::Crashed {
            status,
            stdout: text(&stdout),
            stderr,
        },
    })
}

/// What a plugin printed, fit for one line of an error.
pub fn text(bytes: &[u8]) -> String {
    let start = bytes.len().saturating_sub(STDERR_TAIL_BYTES);
    let tail = String::from_utf8_lossy(bytes.get(start..).unwrap_or_default());
    tail.split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

async fn read_bounded(mut from: impl AsyncRead + Unpin, into: &mut Vec<u8>) -> Result<(), PluginError> {
    loop {
        let count = from
            .read_buf(into)
            .await
            .map_err(|source| PluginError::Pipe { source })?;
        if into.len() > STDOUT_MAX_BYTES {
            return Err(PluginError::TooMuchOutput);
        }
        if count == 0 {
            return Ok(());
        }
    }
}

async fn read_tail(mut from: impl AsyncRead + Unpin, into: &mut Vec<u8>) -> Result<(), PluginError> {
    loop {
        let count = from
            .read_buf(into)
            .await
            .map_err(|source| PluginError::Pipe { source })?;
        if into.len() > 2 * STDERR_TAIL_BYTES {
            into.drain(..into.len() - STDERR_TAIL_BYTES);
        }
        if count == 0 {
            return Ok(());
        }
    }
}
