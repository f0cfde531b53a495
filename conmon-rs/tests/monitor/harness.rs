//! A stage for one container: directories, a scripted runtime, the monitor as a caller would start it.
//!
//! Whatever a test leaves running carries the stage's directory in its environment and is killed when the stage ends.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use conmon_rs::contract::{ExitCode, parse_log_line};
use tempfile::TempDir;

/// Far longer than anything takes; reaching it is a failure.
pub const DEADLINE: Duration = Duration::from_secs(30);

const STAGE: &str = "CONMON_TEST_STAGE";
/// Where the monitor finds its sync pipe.
pub const SYNC_FD: u64 = 5;
pub const ID: &str = "0123456789abcdef";

pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub struct Stage {
    directory: TempDir,
}

/// What the scripted runtime does once its options are read: `$pidfile`, `$console`, and `start`, which runs the
/// container's script in a session of its own and leaves its pid.
pub const RUNTIME_THAT_STARTS: &str = "start";

impl Stage {
    pub fn new() -> Stage {
        let directory = tempfile::Builder::new().prefix("conmon-rs-").tempdir().unwrap();
        let stage = Stage { directory };
        for name in ["bundle", "exits", "persist", "sockets"] {
            fs::create_dir(stage.path(name)).unwrap();
        }
        stage
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        String::from_utf8(fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// Writes the runtime's script and the container's; `$stage` is the stage's directory in both.
    fn write_scripts(&self, runtime: &str, container: &str) {
        let stage = self.directory.path().display();
        let head = format!("#!/bin/sh\nstage={stage}\n");
        let container = format!("{head}{container}\n");
        let runtime = format!(
            "{head}printf '%s\\n' \"$@\" > $stage/runtime-arguments
while [ $# -gt 0 ]; do
    case \"$1\" in
    --pid-file) pidfile=$2 ;;
    --console-socket) console=$2 ;;
    esac
    shift
done
exec 7<&0
start() {{ (setsid env --default-signal=INT,QUIT sh $stage/container.sh <&7 7<&- & exec printf %s $! > \"$pidfile\"); }}
{runtime}
"
        );
        fs::write(self.path("container.sh"), container).unwrap();
        fs::write(self.path("runtime"), runtime).unwrap();
        fs::set_permissions(self.path("runtime"), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A create whose container runs this script.
    pub fn create(&self, container: &str) -> Launch<'_> {
        self.create_with_runtime(RUNTIME_THAT_STARTS, container)
    }

    pub fn create_with_runtime(&self, runtime: &str, container: &str) -> Launch<'_> {
        self.write_scripts(runtime, container);
        let mut launch = Launch::new(self);
        launch = launch.args(["-c", ID, "-u", ID, "-n", "name", "--sync"]);
        for (option, name) in [
            ("-b", "bundle"),
            ("-r", "runtime"),
            ("-l", "log"),
            ("-p", "pidfile"),
            ("--exit-dir", "exits"),
            ("--persist-dir", "persist"),
            ("--socket-dir-path", "sockets"),
        ] {
            launch = launch.args([OsStr::new(option), self.path(name).as_os_str()]);
        }
        launch
    }

    /// An exec as CRI-O's ExecSync starts it: no bundle, pid file and log there already and empty.
    pub fn exec(&self, command: &str) -> Launch<'_> {
        self.exec_with_runtime(RUNTIME_THAT_STARTS, command)
    }

    pub fn exec_with_runtime(&self, runtime: &str, command: &str) -> Launch<'_> {
        self.write_scripts(runtime, command);
        let mut launch = Launch::new(self);
        launch = launch.args(["-c", ID, "-e", "--sync"]);
        for (option, name) in [
            ("-r", "runtime"),
            ("-l", "log"),
            ("-p", "pidfile"),
            ("--exec-process-spec", "process.json"),
        ] {
            fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.path(name))
                .unwrap();
            launch = launch.args([OsStr::new(option), self.path(name).as_os_str()]);
        }
        launch
    }

    /// The content of each record: stream, `P` or `F`, bytes.
    pub fn log(&self) -> Vec<String> {
        records(&fs::read(self.path("log")).unwrap())
    }

    pub fn log_has(&self, content: &str) -> Option<()> {
        let log = fs::read(self.path("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).contains(content).then_some(())
    }

    pub fn exit_file(&self) -> Option<ExitCode> {
        let content = fs::read(self.path("exits").join(ID)).ok()?;
        Some(ExitCode::parse(&content).expect("an exit file is a number"))
    }

    /// What a process that belongs to this stage has in its environment.
    pub fn marker(&self) -> String {
        format!("{STAGE}={}", self.directory.path().display())
    }

    /// Pids of everything that was started here and still runs.
    pub fn processes(&self) -> Vec<i32> {
        let needle = format!("{}\0", self.marker()).into_bytes();
        let entries = fs::read_dir("/proc").unwrap();
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.windows(needle.len()).any(|window| window == needle)
        })
        .collect()
    }
}

pub fn records(log: &[u8]) -> Vec<String> {
    assert!(log.is_empty() || log.ends_with(b"\n"), "no torn record");
    let lines = log.split_inclusive(|byte| *byte == b'\n');
    lines
        .map(|line| {
            let record = parse_log_line(line).unwrap_or_else(|| panic!("no record: {}", String::from_utf8_lossy(line)));
            let tag = if record.partial { "P" } else { "F" };
            format!(
                "{} {tag} {}",
                record.stream.name(),
                String::from_utf8_lossy(record.content)
            )
        })
        .collect()
}

pub fn kill(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    let _ = rustix::process::kill_process(pid, signal); // it may be gone
}

impl Drop for Stage {
    fn drop(&mut self) {
        for _ in 0..100 {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            left.into_iter()
                .for_each(|pid| kill(pid, rustix::process::Signal::KILL));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A monitor about to be started.
pub struct Launch<'a> {
    stage: &'a Stage,
    command: Command,
    arguments: Vec<OsString>,
    start_pipe: bool,
    deaf: bool,
    attach_pipe: bool,
    wrapper: &'static [&'static str],
    program: PathBuf,
}

impl<'a> Launch<'a> {
    pub fn new(stage: &'a Stage) -> Launch<'a> {
        let mut command = Command::new("sh");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env(STAGE, stage.directory.path()).env("_OCI_SYNCPIPE", "5");
        command.current_dir(stage.directory.path());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Launch {
            stage,
            command,
            arguments: Vec::new(),
            start_pipe: false,
            deaf: false,
            attach_pipe: false,
            wrapper: &[],
            program: env!("CARGO_BIN_EXE_conmon-rs").into(),
        }
    }

    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments
            .extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    pub fn without(mut self, argument: &str) -> Self {
        self.arguments.retain(|word| word != argument);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// The monitor waits until `Running::release`.
    pub fn with_start_pipe(mut self) -> Self {
        self.command.stdin(Stdio::piped()).env("_OCI_STARTPIPE", "6");
        self.start_pipe = true;
        self
    }

    /// The command that the monitor's own is given to.
    pub fn wrapped_in(mut self, wrapper: &'static [&'static str]) -> Self {
        self.wrapper = wrapper;
        self
    }

    /// Another monitor than ours.
    pub fn with_program(mut self, program: &Path) -> Self {
        self.program = program.to_owned();
        self
    }

    pub fn with_attach_pipe(mut self) -> Self {
        self.command.env("_OCI_ATTACHPIPE", "9");
        self.attach_pipe = true;
        self
    }

    /// Nobody has the other end of the sync pipe.
    pub fn with_a_parent_that_is_gone(mut self) -> Self {
        self.deaf = true;
        self
    }

    pub fn start(mut self) -> Running<'a> {
        // The shell turns its stdio into the descriptors that a caller would pass.
        let start = if self.start_pipe { "6<&0" } else { "" };
        // The messages of an attach pipe come out of the same end as those of the sync pipe.
        let attach = if self.attach_pipe { "9>&1" } else { "" };
        let script = format!("exec \"$@\" 5>&1 8</dev/null {start} {attach} 0</dev/null 1>/dev/null");
        self.command
            .args(["-c", &script, "sh"])
            .args(self.wrapper)
            .arg(&self.program)
            .args(&self.arguments);
        let mut child = self.command.spawn().unwrap();
        let sync = BufReader::new(child.stdout.take().unwrap());
        let (sender, receiver) = channel();
        let deaf = self.deaf;
        spawn(move || {
            if deaf {
                return;
            }
            for line in sync.split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8(line).expect("UTF-8")).is_err() {
                    return;
                }
            }
        });
        let mut stderr = child.stderr.take().unwrap();
        let stderr = spawn(move || {
            let mut text = Vec::new();
            stderr.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        });
        let start = child.stdin.take();
        Running {
            stage: self.stage,
            child,
            sync: receiver,
            stderr: Some(stderr),
            start,
        }
    }

    /// Starts it and waits for its end; its exit status.
    pub fn run(self) -> i32 {
        self.start().wait()
    }
}

pub struct Running<'a> {
    pub stage: &'a Stage,
    child: Child,
    sync: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    start: Option<ChildStdin>,
}

impl Running<'_> {
    pub fn pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    /// The next message; `None` if the pipe has ended.
    pub fn sync_message(&self) -> Option<String> {
        match self.sync.recv_timeout(DEADLINE) {
            Ok(line) => Some(line),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => None,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("no message and no end of the sync pipe"),
        }
    }

    /// Waits until the container is there; its pid.
    pub fn created(&self) -> i32 {
        let message = self.sync_message().expect("a message");
        let number = message
            .strip_prefix("{\"pid\": ")
            .and_then(|rest| rest.strip_suffix('}'));
        number
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("no pid: {message}"))
    }

    /// One byte on the start pipe.
    pub fn permit(&mut self) {
        use std::io::Write;
        self.start.as_mut().expect("a start pipe").write_all(b"!").unwrap();
    }

    pub fn release(&mut self) {
        self.start = None;
    }

    pub fn wait(&mut self) -> i32 {
        eventually("the monitor ends", || {
            self.child.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
        })
    }

    pub fn stderr(&mut self) -> String {
        self.stderr.take().expect("asked once").join().unwrap()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes to a FIFO as a caller would.
pub fn write_to_fifo(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .write_all(bytes)
        .unwrap();
}

/// Held by the container until the test says go: a file it waits for.
pub const WAIT_FOR_GO: &str = "while [ ! -e $stage/go ]; do sleep 0.01; done";

impl Stage {
    pub fn go(&self) {
        fs::write(self.path("go"), "").unwrap();
    }
}
