//! Runs the OCI runtime's create or exec, reads the pid file.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::io::{read, retry_on_intr};
use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

use crate::args::{MonitorPlan, Task};
use crate::daemonize::OomScore;
use crate::stdio::ContainerEnds;
use crate::sys::{self, Fork, SignalMask};
use crate::timeout::Mark;

/// What a program that we start gets back: what we changed for ourselves.
pub struct Origin {
    pub signals: SignalMask,
    pub oom_score: OomScore,
}

/// The runtime's whole command line, its own name first.
fn arguments(plan: &MonitorPlan, console_socket: Option<&Path>) -> Vec<OsString> {
    let runtime = &plan.runtime;
    let mut words: Vec<OsString> = vec![runtime.path.clone().into()];
    let mut add = |word: &OsStr| words.push(word.to_owned());
    if runtime.systemd_cgroup && !plan.task.is_exec() {
        add("--systemd-cgroup".as_ref());
    }
    runtime.global_arguments.iter().for_each(|word| add(word));
    match &plan.task {
        Task::Create | Task::Restore { .. } => {
            let restores = matches!(plan.task, Task::Restore { .. });
            add(if restores { "restore" } else { "create" }.as_ref());
            if let Some(bundle) = &plan.bundle {
                add("--bundle".as_ref());
                add(bundle.as_ref());
            }
            add("--pid-file".as_ref());
            add(plan.container_pidfile.as_ref());
            if runtime.no_pivot {
                add("--no-pivot".as_ref());
            }
            if runtime.no_new_keyring {
                add("--no-new-keyring".as_ref());
            }
            if let Task::Restore { checkpoint } = &plan.task {
                add("--detach".as_ref());
                add("--image-path".as_ref());
                add(checkpoint.as_ref());
                if let Some(bundle) = &plan.bundle {
                    add("--work-path".as_ref());
                    add(bundle.as_ref());
                }
            }
        }
        Task::Exec { process_spec } => {
            add("exec".as_ref());
            add("--pid-file".as_ref());
            add(plan.container_pidfile.as_ref());
            add("--process".as_ref());
            add(process_spec.as_ref());
            add("--detach".as_ref());
        }
    }
    runtime.command_arguments.iter().for_each(|word| add(word));
    if let Some(path) = console_socket {
        add("--console-socket".as_ref());
        add(path.as_ref());
    }
    add(&plan.container_id);
    words
}

/// What the runtime's process needs to know between fork and exec.
pub struct Preparation<'a> {
    pub ends: &'a ContainerEnds,
    pub console_socket: Option<&'a Path>,
    pub mark: Option<Mark>,
    pub replace_listen_pid: bool,
    /// Read once more before the runtime may begin.
    pub start_pipe: Option<&'a OwnedFd>,
}

/// Starts the runtime. It dies with us, and so does not finish a container that nobody would watch.
pub fn start(plan: &MonitorPlan, origin: &Origin, preparation: &Preparation<'_>) -> io::Result<Pid> {
    let monitor = getpid();
    let words = || {
        let words = arguments(plan, preparation.console_socket);
        crate::trace!(
            "calling runtime args: {}",
            words.join(OsStr::new(" ")).to_string_lossy()
        );
        words
    };
    launch(words, origin, |environment| {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() != Some(monitor) {
            sys::exit_now(1); // we died before the line above
        }
        preparation.ends.install()?;
        if let Some(mark) = preparation.mark {
            mark.put();
        }
        if let Some(value) = std::env::var_os(LISTEN_PID) {
            let named: i32 = value
                .to_str()
                .and_then(|text| text.parse().ok())
                .filter(|pid| *pid > 0)
                .ok_or_else(|| io::Error::other(format!("Invalid {LISTEN_PID} {}", value.to_string_lossy())))?;
            if preparation.replace_listen_pid || named == monitor.as_raw_nonzero().get() {
                environment.retain(|variable| !variable.as_bytes().starts_with(b"LISTEN_PID="));
                environment.push(CString::new(format!("{LISTEN_PID}={}", getpid().as_raw_nonzero()))?);
            }
        }
        if let Some(pipe) = preparation.start_pipe {
            retry_on_intr(|| read(pipe, &mut [0; 64]))?;
        }
        Ok(())
    })
}

/// Which process the descriptors of a socket activation are meant for.
const LISTEN_PID: &str = "LISTEN_PID";

/// Forks and execs a program, the first of `words`. If that fails in the child, its stderr says why and its status is 127.
pub fn launch(
    words: impl FnOnce() -> Vec<OsString>,
    origin: &Origin,
    prepare: impl FnOnce(&mut Vec<CString>) -> io::Result<()>,
) -> io::Result<Pid> {
    match sys::fork()? {
        Fork::Parent(child) => Ok(child),
        // The words are put together here, because the memory for it is the child's and soon gone.
        Fork::Child => {
            let words = words();
            let program = words.first().cloned().unwrap_or_default();
            let Err(error) = become_program(words, origin, prepare);
            let line = format!("start {}: {error}\n", program.to_string_lossy());
            let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes()); // nobody else can be told
            sys::exit_now(127)
        }
    }
}

fn become_program(
    words: Vec<OsString>,
    origin: &Origin,
    prepare: impl FnOnce(&mut Vec<CString>) -> io::Result<()>,
) -> io::Result<Infallible> {
    let text = |words: Vec<OsString>| -> io::Result<Vec<CString>> {
        words
            .into_iter()
            .map(|word| CString::new(word.into_vec()).map_err(io::Error::from))
            .collect()
    };
    let mut environment = text(
        std::env::vars_os()
            .map(|(name, value)| variable(&name, &value))
            .collect(),
    )?;
    prepare(&mut environment)?;
    let arguments = text(words)?;
    let program = arguments.first().cloned().unwrap_or_default();
    origin.oom_score.restore();
    sys::restore_signals(&origin.signals);
    Err(sys::exec(&program, &arguments, &environment))
}

fn variable(name: &OsStr, value: &OsStr) -> OsString {
    let mut variable = name.to_owned();
    variable.push("=");
    variable.push(value);
    variable
}

/// The pid that the runtime has left; 0, nothing or garbage is none.
pub fn read_pidfile(path: &Path) -> io::Result<Option<Pid>> {
    Ok(parse_pid(&std::fs::read(path)?))
}

fn parse_pid(content: &[u8]) -> Option<Pid> {
    let digits = OsStr::from_bytes(content.trim_ascii()).to_str()?;
    let number: i32 = digits.parse().ok().filter(|number| *number > 1)?;
    Pid::from_raw(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args;

    fn command_line(words: &[&str], console: Option<&Path>) -> Vec<String> {
        let fixed = [
            "-r",
            "/bin/true",
            "-l",
            "none",
            "-c",
            "ID",
            "-u",
            "U",
            "-b",
            "/b",
            "-p",
            "/p",
        ];
        let words = fixed.iter().chain(words).map(OsString::from);
        let plan = args::parse(words).unwrap().check().unwrap();
        arguments(&plan, console)
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_create_is_asked_for_in_the_order_that_runtimes_know() {
        let words = [
            "-s",
            "--no-pivot",
            "--no-new-keyring",
            "--runtime-arg=--root=/r",
            "--runtime-opt",
            "--x",
        ];
        let expected = "/bin/true --systemd-cgroup --root=/r create --bundle /b --pid-file /p --no-pivot --no-new-keyring \
                        --x --console-socket /c ID";
        assert_eq!(command_line(&words, Some(Path::new("/c"))).join(" "), expected);
    }

    #[test]
    fn a_restore_names_its_checkpoint_and_where_to_work() {
        let expected =
            "/bin/true restore --bundle /b --pid-file /p --no-pivot --detach --image-path /cp --work-path /b --x ID";
        assert_eq!(
            command_line(&["--restore=/cp", "--no-pivot", "--restore-arg", "--x"], None).join(" "),
            expected
        );
    }

    #[test]
    fn an_exec_gets_no_options_of_a_create() {
        let words = [
            "-e",
            "--exec-process-spec",
            "/s",
            "-s",
            "--no-pivot",
            "--runtime-arg",
            "--debug",
        ];
        let expected = "/bin/true --debug exec --pid-file /p --process /s --detach ID";
        assert_eq!(command_line(&words, None).join(" "), expected);
    }

    #[test]
    fn only_a_number_above_one_is_a_pid() {
        assert_eq!(parse_pid(b"42\n"), Pid::from_raw(42));
        for content in ["", "0", "1", "-5", "x", "12x", "99999999999"] {
            assert_eq!(parse_pid(content.as_bytes()), None, "{content}");
        }
    }
}
