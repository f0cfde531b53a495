//! An exec: a monitor of its own, whose log is taken apart into the command's output.

use super::launch::{Arguments, NO_DEV_NULL, Outlives, prefixed};
use super::sync::{end, read_sync, refused};
use super::{CONTAINER_PID_FILE, ConmonRs, RUNTIME_LOG};
use crate::drivers::seams::{DriverError, DriverResult, ErrorKind, ExecLaunch, ExecOutcome, ExecOutput};
use conmon_rs::contract::{self, SyncMessage};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::timeout;

/// Most of an exec's output that is kept, both streams together, in bytes: clients take messages of 16 MiB.
pub const EXEC_OUTPUT_BYTES: usize = 16 * 1024 * 1024 - 1024;

/// Most of its log, where every line has a head, in bytes. The monitor drops what comes then.
const EXEC_LOG_BYTES: u64 = 64 * 1024 * 1024;

/// Names in the directory of an exec.
const PROCESS_SPEC: &str = "process.json";
const LOG: &str = "log";

/// How much longer than an exec's own time-out its monitor may take to kill it and say so.
const EXEC_MARGIN: Duration = Duration::from_secs(30);

impl ConmonRs {
    /// The directory of an exec, gone with what is returned, and its monitor's command line as far as it is any exec's.
    pub(super) async fn exec_session(&self, exec: &ExecLaunch) -> DriverResult<(TempDir, Arguments)> {
        let (place, process_json) = (self.exec_dir.clone(), exec.process_json.clone());
        let directory = blocking("exec directory", move || {
            let directory = tempfile::Builder::new().prefix("exec-").tempdir_in(place)?;
            std::fs::write(directory.path().join(PROCESS_SPEC), process_json)?;
            Ok(directory)
        })
        .await?;
        let file = |name: &str| directory.path().join(name);

        let mut arguments = Arguments::default();
        arguments.flag("--exec");
        arguments.flag("--sync");
        arguments.option("--cid", exec.id.as_str());
        arguments.option("--exec-process-spec", file(PROCESS_SPEC));
        arguments.option("--container-pidfile", file(CONTAINER_PID_FILE));
        arguments.option("--log-level", "error");
        if exec.own_users {
            arguments.flag(NO_DEV_NULL);
        }
        if exec.tty {
            arguments.flag("--terminal");
        }
        arguments.runtime(&exec.handler, &file(RUNTIME_LOG));
        Ok((directory, arguments))
    }

    /// Runs a command to its end.
    pub(super) async fn run(&self, exec: ExecLaunch) -> DriverResult<ExecOutcome> {
        let (session, mut arguments) = self.exec_session(&exec).await?;
        let log = session.path().join(LOG);
        arguments.option("--log-path", prefixed("k8s-file:", log.as_os_str()));
        arguments.option("--log-global-size-max", EXEC_LOG_BYTES.to_string());
        arguments.flag("--no-sync-log");
        if let Some(timeout) = exec.timeout {
            arguments.option("--timeout", timeout.as_secs().max(1).to_string());
        }

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
                output: exec_output(session, starting.temporary).await?,
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
}

/// Takes an exec's log apart into its two streams, up to `EXEC_OUTPUT_BYTES`, and removes what the exec needed.
async fn exec_output(session: TempDir, temporary: TempDir) -> DriverResult<ExecOutput> {
    blocking("exec output", move || {
        let log = std::fs::File::open(session.path().join(LOG))?;
        let cut_by_monitor = log.metadata()?.len() >= EXEC_LOG_BYTES;
        let mut output = read_output(std::io::BufReader::new(log), EXEC_OUTPUT_BYTES)?;
        output.is_cut |= cut_by_monitor;
        drop((session, temporary));
        Ok(output)
    })
    .await
}

/// Each change of threads costs: what belongs together is done in one.
async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> DriverResult<T> {
    let done = tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)));
    done.map_err(|error| DriverError::io(what, &error))
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
}
