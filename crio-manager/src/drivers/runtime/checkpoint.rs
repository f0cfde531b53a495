//! Checkpoints by the OCI runtime, which has criu write the processes down.

use super::{COMMAND_LIMIT, Criu, PROBE_LIMIT, output_of, run, runtime};
use crate::drivers::child::SEARCH_PATH;
use crate::drivers::seams::{CheckpointPlace, DriverError, DriverResult, ErrorKind};
use crate::model::ContainerId;
use crate::model::record::Handler;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// How long criu may take. Killing it in the middle of its work would most likely end the container.
const DUMP_LIMIT: Duration = Duration::from_secs(600);

/// Most that is read of the end of criu's log, in bytes.
const LOG_TAIL_BYTES: u64 = 64 * 1024;

/// An error after which criu goes on: without CAP_SYS_RESOURCE it cannot raise its own limit.
const NO_CAUSE: &str = "Can't setup RLIMIT_NOFILE";

/// criu's name for its log of a checkpoint.
const DUMP_LOG: &str = "dump.log";

/// See [`crate::drivers::seams::OciRuntime::can_checkpoint`].
pub(super) async fn possible(handler: &Handler, criu: Criu) -> DriverResult<()> {
    let unsupported = |why: String| DriverError::new(ErrorKind::Unsupported, why);
    if criu == Criu::SwitchedOff {
        return Err(unsupported("enable_criu_support is false".to_owned()));
    }
    let path = search_path(handler);
    let program = find("criu", path).ok_or_else(|| unsupported(format!("criu is not installed: none in {path}")))?;
    let mut check = Command::new(program);
    check.arg("check").env("PATH", path).stdin(Stdio::null());
    let checked = output_of("criu check", check, PROBE_LIMIT).await;
    checked.map_err(|error| unsupported(format!("criu does not work here: {error}")))?;
    let known = run(handler, &["checkpoint", "--help"], PROBE_LIMIT).await;
    known.map_err(|error| unsupported(format!("runtime handler {} cannot checkpoint: {error}", handler.name)))?;
    Ok(())
}

/// See [`crate::drivers::seams::OciRuntime::checkpoint`].
pub(super) async fn checkpoint(handler: &Handler, id: &ContainerId, place: &CheckpointPlace) -> DriverResult<()> {
    let mut command = runtime(handler);
    command
        .arg("checkpoint")
        .arg("--image-path")
        .arg(&place.images)
        .arg("--work-path")
        .arg(&place.work)
        .args(["--leave-running", id.as_str()])
        .env("PATH", search_path(handler))
        .stdin(Stdio::null());
    let done = output_of(
        &format!("{} checkpoint", handler.name),
        command,
        DUMP_LIMIT + COMMAND_LIMIT,
    )
    .await;
    match done {
        Ok(_) => Ok(()),
        Err(error) => Err(with_words_of_criu(error, &place.work.join(DUMP_LOG)).await),
    }
}

/// The error with what criu has logged, which the runtimes do not repeat.
pub async fn with_words_of_criu(error: DriverError, log: &Path) -> DriverError {
    let log = log.to_owned();
    let words = tokio::task::spawn_blocking(move || first_error(&log))
        .await
        .ok()
        .flatten();
    match words {
        Some(words) => DriverError::new(error.kind, format!("{error}: {words}")),
        None => error,
    }
}

/// The first error in the end of a log of criu's, without time and place in its source.
fn first_error(log: &Path) -> Option<String> {
    let mut file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES))).ok()?;
    let mut tail = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    // The last ones only say that it gives up.
    let errors = tail.lines().filter(|line| !line.contains(NO_CAUSE));
    let mut errors = errors.filter_map(|line| line.split_once("Error ("));
    let (_, first) = errors.next()?;
    Some(
        first
            .split_once("): ")
            .map_or(first, |(_, words)| words)
            .trim()
            .to_owned(),
    )
}

/// Where the handler's runtime looks for criu.
fn search_path(handler: &Handler) -> &str {
    handler.monitor_env.get("PATH").map_or(SEARCH_PATH, String::as_str)
}

fn find(program: &str, path: &str) -> Option<PathBuf> {
    std::env::split_paths(path)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::handler;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    async fn refused(handler: &Handler, criu: Criu) -> String {
        let error = possible(handler, criu).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        error.message
    }

    #[tokio::test]
    async fn what_stands_in_the_way_of_a_checkpoint_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let mut handler = handler(
            "[ \"$3\" != checkpoint ] || { echo 'unknown command' >&2; exit 1; }",
            directory.path(),
        );
        let path = format!("{}:/usr/bin:/bin", directory.path().display());
        handler
            .monitor_env
            .insert("PATH".to_owned(), "/nowhere:/not/here".to_owned());
        assert_eq!(
            refused(&handler, Criu::SwitchedOff).await,
            "enable_criu_support is false"
        );
        assert_eq!(
            refused(&handler, Criu::Allowed).await,
            "criu is not installed: none in /nowhere:/not/here"
        );
        handler.monitor_env.insert("PATH".to_owned(), path);
        let criu = |script: &str| {
            let file = directory.path().join("criu");
            std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        criu("echo 'Error (criu/vdso.c:1): vdso: bad' >&2; exit 1");
        let said = refused(&handler, Criu::Allowed).await;
        assert!(
            said.starts_with("criu does not work here: criu check: ") && said.ends_with("vdso: bad"),
            "{said}"
        );
        criu("exit 0");
        let said = refused(&handler, Criu::Allowed).await;
        assert!(
            said.contains("test cannot checkpoint") && said.ends_with("unknown command"),
            "{said}"
        );
    }

    #[test]
    fn the_first_error_of_a_log_is_the_cause() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("dump.log");
        std::fs::write(
            &log,
            "(00.1) Error (criu/util.c:1): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n(00.2) Error (criu/sk-inet.c:191): inet: Connected TCP socket, consider using --tcp-established\n\
             (00.3) Error (criu/cr-dump.c:2111): Dumping FAILED.\n",
        )
        .unwrap();
        assert_eq!(
            first_error(&log).unwrap(),
            "inet: Connected TCP socket, consider using --tcp-established"
        );
        assert_eq!(first_error(&directory.path().join("none")), None);
    }
}
