//! The OCI runtime's command line: runc, crun and whoever speaks it. Create and exec are the monitor's.

mod checkpoint;
mod words;

pub use checkpoint::with_words_of_criu;
pub use words::words;

use super::process;
use super::seams::{CheckpointPlace, DriverError, DriverResult, ErrorKind, Features, HandlerHealth, OciRuntime};
use crate::model::record::Handler;
use crate::model::{ContainerId, ProcessId, Timestamp};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Seek, Write};
use std::process::Stdio;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

/// How long `start`, `delete` and a probe may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// How long output is waited for once a command has ended.
const LATE_OUTPUT_LIMIT: Duration = Duration::from_secs(1);

/// How long the started process may take from the runtime's init to its own program.
const EXEC_LIMIT: Duration = Duration::from_secs(5);

/// First and longest pause between looks whether it has.
const EXEC_LOOK: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(10));

/// Most of a command's output that is kept, in bytes.
const OUTPUT_BYTES: u64 = 64 * 1024;

/// The configured runtimes.
pub struct CommandLine {
    handlers: BTreeMap<String, Handler>,
    default: String,
    criu: Criu,
    health: RwLock<Vec<HandlerHealth>>,
}

/// Whether criu may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Criu {
    /// Where it works.
    Allowed,
    /// The configuration says no.
    SwitchedOff,
}

impl CommandLine {
    /// Takes the configured runtimes; nothing is run before `probe`.
    pub fn new(handlers: BTreeMap<String, Handler>, default: String) -> Self {
        Self {
            handlers,
            default,
            criu: Criu::Allowed,
            health: RwLock::default(),
        }
    }

    /// The same, with or without criu.
    pub fn with_criu(self, criu: Criu) -> Self {
        Self { criu, ..self }
    }

    /// Asks every runtime for its version and its features, and remembers the answer for `health`.
    pub async fn probe(&self) {
        let mut health = Vec::new();
        for (name, handler) in &self.handlers {
            let version = run(handler, &["--version"], PROBE_LIMIT)
                .await
                .map(|output| output.lines().next().unwrap_or_default().to_owned())
                .map_err(|error| error.to_string());
            let features = run(handler, &["features"], PROBE_LIMIT).await;
            health.push(HandlerHealth {
                name: name.clone(),
                is_default: *name == self.default,
                version,
                features: features.map_or_else(|_| Features::default(), |output| features_of(&output)),
            });
        }
        *self.health.write().unwrap_or_else(PoisonError::into_inner) = health;
    }

    /// Probes now and again for as long as the daemon runs.
    pub async fn keep_probing(self: Arc<Self>, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            self.probe().await;
        }
    }
}

#[async_trait]
impl OciRuntime for CommandLine {
    fn handler(&self, name: &str) -> DriverResult<Handler> {
        let name = if name.is_empty() { &self.default } else { name };
        self.handlers.get(name).cloned().ok_or_else(|| {
            let known: Vec<_> = self.handlers.keys().map(String::as_str).collect();
            DriverError::new(
                ErrorKind::Invalid,
                format!("no runtime handler {name:?}; there are {}", known.join(", ")),
            )
        })
    }

    async fn start(&self, handler: &Handler, id: &ContainerId, process: ProcessId) -> DriverResult<()> {
        let before = process::program(process.pid);
        run(handler, &["start", id.as_str()], COMMAND_LIMIT).await?;
        // The runtime is done before its init has become the container's program: a signal sent now would meet a
        // process that has no handler yet and, as the first of its PID namespace, lose it.
        let replaced = tokio::task::spawn_blocking(move || program_replaced(process, before)).await;
        if !matches!(replaced, Ok(true)) {
            tracing::debug!(container_id = %id, "still the runtime's own program, going on");
        }
        Ok(())
    }

    async fn update(&self, handler: &Handler, id: &ContainerId, resources_json: Vec<u8>) -> DriverResult<()> {
        let what = format!("{} update", handler.name);
        let input = memory_file(&resources_json).map_err(|error| DriverError::io(what, &error))?;
        let arguments = ["update", "--resources", "-", id.as_str()];
        run_reading(handler, &arguments, input.into(), COMMAND_LIMIT).await?;
        Ok(())
    }

    async fn can_checkpoint(&self, handler: &Handler) -> DriverResult<()> {
        checkpoint::possible(handler, self.criu).await
    }

    async fn pause(&self, handler: &Handler, id: &ContainerId) -> DriverResult<()> {
        run(handler, &["pause", id.as_str()], COMMAND_LIMIT).await?;
        Ok(())
    }

    async fn resume(&self, handler: &Handler, id: &ContainerId) -> DriverResult<()> {
        run(handler, &["resume", id.as_str()], COMMAND_LIMIT).await?;
        Ok(())
    }

    async fn checkpoint(&self, handler: &Handler, id: &ContainerId, place: &CheckpointPlace) -> DriverResult<()> {
        checkpoint::checkpoint(handler, id, place).await
    }

    async fn delete(&self, handler: &Handler, id: &ContainerId) -> DriverResult<()> {
        if !handler.root.join(id.as_str()).exists() {
            return Ok(());
        }
        run(handler, &["delete", "--force", id.as_str()], COMMAND_LIMIT).await?;
        Ok(())
    }

    async fn forget(&self, handler: &Handler, id: &ContainerId) -> DriverResult<()> {
        let state = handler.root.join(id.as_str());
        match tokio::fs::remove_dir_all(&state).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(DriverError::io(state.display(), &error)),
            _ => Ok(()),
        }
    }

    fn handlers(&self) -> Vec<Handler> {
        self.handlers.values().cloned().collect()
    }

    fn started_at(&self, handler: &Handler, id: &ContainerId) -> Option<Timestamp> {
        // The start takes the fifo away that holds the container's init: the last change of the directory.
        let state = handler.root.join(id.as_str());
        let changed = std::fs::metadata(&state)
            .and_then(|directory| directory.modified())
            .ok()?;
        (!state.join("exec.fifo").exists()).then(|| changed.into())
    }

    fn health(&self) -> Vec<HandlerHealth> {
        self.health.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Waits until the process runs another program than `before`, or has ended; `false` after `EXEC_LIMIT`.
///
/// Blocks: it is mostly a matter of less than a millisecond, and the timers of tasks know no less.
fn program_replaced(process: ProcessId, before: Option<(u64, u64)>) -> bool {
    let deadline = Instant::now() + EXEC_LIMIT;
    let (mut pause, longest) = EXEC_LOOK;
    while process::identify(process.pid.get()) == Some(process)
        && process::program(process.pid).is_some_and(|now| Some(now) == before)
    {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(longest);
    }
    true
}

/// The answer to `features`; what is no such answer tells of none.
///
/// Source: the OCI runtime specification, features.md.
fn features_of(output: &str) -> Features {
    #[derive(Default, serde::Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Answer {
        mount_options: Vec<String>,
        linux: Linux,
    }
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Linux {
        namespaces: Option<Vec<String>>,
    }
    let answer: Answer = serde_json::from_str(output).unwrap_or_default();
    Features {
        recursive_read_only: answer.mount_options.iter().any(|option| option == "rro"),
        without_user_namespaces: answer
            .linux
            .namespaces
            .is_some_and(|namespaces| !namespaces.iter().any(|namespace| namespace == "user")),
    }
}

/// Runs one command of the runtime, at most `limit`; its standard output. Past the limit its process group is killed.
///
/// Errors: `NotFound` when the binary is missing, `TimedOut`, `Failed` with the runtime's own words.
async fn run(handler: &Handler, arguments: &[&str], limit: Duration) -> DriverResult<String> {
    run_reading(handler, arguments, Stdio::null(), limit).await
}

/// A file without a name that holds this, to be read from its beginning: unlike a pipe it takes any length at once.
fn memory_file(content: &[u8]) -> std::io::Result<std::fs::File> {
    let mut file = std::fs::File::from(rustix::fs::memfd_create("input", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

/// The same with a standard input.
async fn run_reading(handler: &Handler, arguments: &[&str], stdin: Stdio, limit: Duration) -> DriverResult<String> {
    let what = format!("{} {}", handler.name, arguments.first().unwrap_or(&""));
    let mut command = runtime(handler);
    command.args(arguments).stdin(stdin);
    output_of(&what, command, limit).await
}

/// The runtime, with its own options.
fn runtime(handler: &Handler) -> Command {
    let mut command = Command::new(&handler.path);
    command
        .args([OsStr::new("--root"), handler.root.as_os_str()])
        .args(handler.systemd_cgroup.then_some("--systemd-cgroup"));
    command
}

/// Runs a command as [`run`] does.
async fn output_of(what: &str, mut command: Command, limit: Duration) -> DriverResult<String> {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    super::child::hides_the_service_manager(&mut command);
    super::child::dies_with_us(&mut command);
    let program = std::path::PathBuf::from(command.as_std().get_program());
    let mut child = command.spawn().map_err(|error| missing(&program, &error))?;
    let group = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .map(nix::unistd::Pid::from_raw);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let read = {
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (stdout, stderr) = (&mut stdout, &mut stderr);
        async move { tokio::join!(read_some(out, stdout), read_some(err, stderr)) }
    };
    let mut read = Box::pin(read);
    let ended = timeout(limit, async {
        tokio::select! {
            status = child.wait() => (status, false),
            _ = &mut read => (child.wait().await, true),
        }
    });
    let Ok((status, read_up)) = ended.await else {
        if let Some(group) = group {
            // The leader is not reaped yet, so the group is still this command's.
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        }
        let why = format!("{what}: no end after {limit:?}, killed");
        return Err(DriverError::new(ErrorKind::TimedOut, why));
    };
    if !read_up {
        // What it left running may hold its output open.
        let _ = timeout(LATE_OUTPUT_LIMIT, &mut read).await;
    }
    drop(read);
    let status = status.map_err(|error| DriverError::io(what, &error))?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    Err(DriverError::new(
        ErrorKind::Failed,
        format!("{what}: {}", words(&stderr).unwrap_or_else(|| status.to_string())),
    ))
}

/// A binary that cannot be run.
pub fn missing(path: &std::path::Path, error: &std::io::Error) -> DriverError {
    let kind = if error.kind() == std::io::ErrorKind::NotFound {
        ErrorKind::NotFound
    } else {
        ErrorKind::Failed
    };
    DriverError::new(kind, format!("run {}: {error}", path.display()))
}

/// The first bytes of a stream; the rest is read and dropped, so that the writer is not held up.
async fn read_some(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    if let Some(mut stream) = stream {
        // A read error ends the output; the exit status tells what matters.
        let _ = (&mut stream).take(OUTPUT_BYTES).read_to_end(kept).await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn handler(script: &str, directory: &std::path::Path) -> Handler {
        use std::os::unix::fs::PermissionsExt;
        let path = directory.join("runtime");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Handler {
            name: "test".into(),
            path,
            root: directory.join("root"),
            create_timeout: Duration::from_secs(1),
            systemd_cgroup: false,
            monitor_parent: None,
            monitor_path: "/usr/bin/conmon-rs".into(),
            monitor_env: Default::default(),
            no_sync_log: false,
            unconfined_monitor: false,
            no_pivot: false,
            min_memory_bytes: 0,
            allowed_annotations: Default::default(),
            default_annotations: Default::default(),
            privileged_without_host_devices: false,
        }
    }

    #[tokio::test]
    async fn a_hanging_command_is_killed_with_all_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let handler = handler("sleep 1000 & echo $! > \"$0.pid\"; wait", directory.path());
        let error = run(&handler, &["start"], Duration::from_millis(300)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::TimedOut);
        let pid: u32 = std::fs::read_to_string(handler.path.with_extension("pid"))
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        if let Some(held) = process::identify(pid)
            .and_then(|id| super::super::seams::Processes::hold(&process::HostProcesses::default(), id).unwrap())
        {
            timeout(Duration::from_secs(30), held.ended())
                .await
                .expect("its child is killed");
        }
    }

    #[tokio::test]
    async fn a_flood_of_errors_neither_blocks_nor_fills_memory() {
        let directory = tempfile::tempdir().unwrap();
        let handler = handler(
            "head -c 1000000 /dev/zero | tr '\\0' x >&2; echo; exit 3",
            directory.path(),
        );
        let error = run(&handler, &["start"], Duration::from_secs(60)).await.unwrap_err();
        assert!(error.message.len() < 2 * OUTPUT_BYTES as usize);
    }

    #[test]
    fn a_runtime_that_cannot_say_what_it_can_do_can_do_nothing_more() {
        let said = r#"{ "ociVersionMin": "1.0.0", "mountOptions": ["ro", "rro"], "linux": {} }"#;
        assert!(features_of(said).recursive_read_only);
        for silent in [
            "",
            "unknown command features",
            "[1]",
            "{}",
            r#"{ "mountOptions": ["ro"] }"#,
        ] {
            assert_eq!(features_of(silent), Features::default(), "{silent:?}");
        }
    }

    #[tokio::test]
    async fn a_missing_binary_is_said_with_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let mut handler = handler("", directory.path());
        handler.path = "/nowhere/runc".into();
        let error = run(&handler, &["start"], Duration::from_secs(60)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert!(error.message.contains("/nowhere/runc"), "{error}");
    }
}
