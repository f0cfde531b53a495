//! The command line → `MonitorPlan`, checked once.
//!
//! Two steps. `parse` knows the grammar: the one of GLib's option parser, on whose oddities callers rely (flags that
//! ignore a value, left-over words that are ignored, the last of two wins), but for raw bytes instead of text in the
//! locale's charset. `check` knows what goes together, in the order in which conmon complains.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{Access, access};

use crate::contract::SyncKey;
use crate::log::journald::{JournalPlan, SHORT_ID_BYTES, split_label};
use crate::messages::{Level, errno_text};

// ---------------------------------------------------------------------------------------------------------------------
// Grammar

/// What the command line says, unchecked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    api_version: bool,
    bundle: Option<OsString>,
    cid: Option<OsString>,
    cuuid: Option<OsString>,
    name: Option<OsString>,
    conmon_pidfile: Option<OsString>,
    container_pidfile: Option<OsString>,
    runtime: Option<OsString>,
    runtime_arg: Vec<OsString>,
    runtime_opt: Vec<OsString>,
    restore: Option<OsString>,
    exec: bool,
    exec_process_spec: Option<OsString>,
    exec_attach: bool,
    exit_dir: Option<OsString>,
    exit_record: bool,
    persist_dir: Option<OsString>,
    exit_command: Option<OsString>,
    exit_command_arg: Vec<OsString>,
    exit_delay: i32,
    leave_stdin_open: bool,
    stdin: bool,
    terminal: bool,
    timeout: i32,
    log_path: Vec<OsString>,
    log_level: Option<OsString>,
    log_size_max: Option<i64>,
    log_global_size_max: Option<i64>,
    log_rotate: bool,
    log_max_files: Option<i32>,
    log_allowlist_dir: Vec<OsString>,
    log_tag: Option<OsString>,
    log_label: Vec<OsString>,
    no_container_partial_message: bool,
    no_sync_log: bool,
    no_new_keyring: bool,
    no_pivot: bool,
    systemd_cgroup: bool,
    replace_listen_pid: bool,
    sdnotify_socket: Option<OsString>,
    socket_dir_path: Option<OsString>,
    full_attach: bool,
    sync: bool,
    syslog: bool,
    seccomp_notify: Option<OsString>,
    help: bool,
    version: bool,
}

type Field<T> = fn(&mut Options) -> &mut T;

/// What follows an option, and where it goes.
enum Value {
    Flag(Field<bool>),
    Text(Field<Option<OsString>>),
    List(Field<Vec<OsString>>),
    Number(Field<i32>),
    MaybeNumber(Field<Option<i32>>),
    MaybeLongNumber(Field<Option<i64>>),
}

struct OptionName {
    long: &'static str,
    /// 0: none
    short: u8,
    value: Value,
    /// Empty: an old alias that the help does not show.
    help: &'static str,
}

const fn option(long: &'static str, short: u8, value: Value, help: &'static str) -> OptionName {
    OptionName {
        long,
        short,
        value,
        help,
    }
}

use Value::{Flag, List, MaybeLongNumber, MaybeNumber, Number, Text};

static OPTIONS: [OptionName; 49] = [
    option(
        "api-version",
        0,
        Flag(|o| &mut o.api_version),
        "Report every number as \"data\" on the sync pipe",
    ),
    option("bundle", b'b', Text(|o| &mut o.bundle), "Location of the OCI bundle"),
    option(
        "cid",
        b'c',
        Text(|o| &mut o.cid),
        "Container id, as the runtime knows it",
    ),
    option(
        "conmon-pidfile",
        b'P',
        Text(|o| &mut o.conmon_pidfile),
        "File for the pid of the monitor itself",
    ),
    option(
        "container-pidfile",
        b'p',
        Text(|o| &mut o.container_pidfile),
        "File for the pid of the container",
    ),
    option(
        "cuuid",
        b'u',
        Text(|o| &mut o.cuuid),
        "Container id, as the caller knows it",
    ),
    option(
        "exec",
        b'e',
        Flag(|o| &mut o.exec),
        "Run a command in an existing container",
    ),
    option(
        "exec-attach",
        0,
        Flag(|o| &mut o.exec_attach),
        "Wait for a client before the command starts",
    ),
    option(
        "exec-process-spec",
        0,
        Text(|o| &mut o.exec_process_spec),
        "The process.json of an exec",
    ),
    option(
        "exit-command",
        0,
        Text(|o| &mut o.exit_command),
        "Program to run when the container has ended",
    ),
    option(
        "exit-command-arg",
        0,
        List(|o| &mut o.exit_command_arg),
        "Argument of the exit command, repeatable",
    ),
    option(
        "exit-delay",
        0,
        Number(|o| &mut o.exit_delay),
        "Seconds to wait before the exit command",
    ),
    option("exit-dir", 0, Text(|o| &mut o.exit_dir), "Directory for the exit file"),
    option(
        "exit-record",
        0,
        Flag(|o| &mut o.exit_record),
        "Leave all that is known of the exit beside the exit file, as ID.json",
    ),
    option(
        "full-attach",
        0,
        Flag(|o| &mut o.full_attach),
        "Attach by the path in the bundle, make no symlink",
    ),
    option(
        "leave-stdin-open",
        0,
        Flag(|o| &mut o.leave_stdin_open),
        "Keep stdin when an attached client goes away",
    ),
    option(
        "log-allowlist-dir",
        0,
        List(|o| &mut o.log_allowlist_dir),
        "Directory in which logs may be rotated, repeatable",
    ),
    option(
        "log-global-size-max",
        0,
        MaybeLongNumber(|o| &mut o.log_global_size_max),
        "Bytes after which output is dropped",
    ),
    option(
        "log-label",
        0,
        List(|o| &mut o.log_label),
        "LABEL=VALUE field for journald, repeatable",
    ),
    option(
        "log-level",
        0,
        Text(|o| &mut o.log_level),
        "error, warning, info, debug or trace",
    ),
    option(
        "log-max-files",
        0,
        MaybeNumber(|o| &mut o.log_max_files),
        "Number of old logs to keep with --log-rotate",
    ),
    option(
        "log-path",
        b'l',
        List(|o| &mut o.log_path),
        "[DRIVER:]PATH of the log, repeatable",
    ),
    option(
        "log-rotate",
        0,
        Flag(|o| &mut o.log_rotate),
        "Keep old logs instead of truncating",
    ),
    option(
        "log-size-max",
        0,
        MaybeLongNumber(|o| &mut o.log_size_max),
        "Bytes after which a log file is begun anew",
    ),
    option("log-tag", 0, Text(|o| &mut o.log_tag), "Additional tag for journald"),
    option("name", b'n', Text(|o| &mut o.name), "Name of the container"),
    option(
        "no-container-partial-message",
        0,
        Flag(|o| &mut o.no_container_partial_message),
        "Do not mark partial lines in journald",
    ),
    option(
        "no-new-keyring",
        0,
        Flag(|o| &mut o.no_new_keyring),
        "Passed to the runtime",
    ),
    option("no-pivot", 0, Flag(|o| &mut o.no_pivot), "Passed to the runtime"),
    option(
        "no-sync-log",
        0,
        Flag(|o| &mut o.no_sync_log),
        "Do not sync the log when the container has ended",
    ),
    option(
        "persist-dir",
        b'0',
        Text(|o| &mut o.persist_dir),
        "Directory for files that outlive the container",
    ),
    option("pidfile", 0, Text(|o| &mut o.container_pidfile), ""),
    option(
        "replace-listen-pid",
        0,
        Flag(|o| &mut o.replace_listen_pid),
        "Set LISTEN_PID to the pid of the runtime",
    ),
    option(
        "restore",
        0,
        Text(|o| &mut o.restore),
        "Restore the container from this checkpoint",
    ),
    option("restore-arg", 0, List(|o| &mut o.runtime_opt), ""),
    option("runtime", b'r', Text(|o| &mut o.runtime), "Path of the OCI runtime"),
    option(
        "runtime-arg",
        0,
        List(|o| &mut o.runtime_arg),
        "Argument before the runtime's sub-command, repeatable",
    ),
    option(
        "runtime-opt",
        0,
        List(|o| &mut o.runtime_opt),
        "Argument after the runtime's sub-command, repeatable",
    ),
    option(
        "sdnotify-socket",
        0,
        Text(|o| &mut o.sdnotify_socket),
        "Host socket to which readiness is forwarded",
    ),
    option("seccomp-notify-plugins", 0, Text(|o| &mut o.seccomp_notify), ""),
    option("seccomp-notify-socket", 0, Text(|o| &mut o.seccomp_notify), ""),
    option(
        "socket-dir-path",
        0,
        Text(|o| &mut o.socket_dir_path),
        "Directory for the symlink by which clients attach",
    ),
    option("stdin", b'i', Flag(|o| &mut o.stdin), "Give the container a stdin"),
    option("sync", 0, Flag(|o| &mut o.sync), "Stay a child of the caller"),
    option("syslog", 0, Flag(|o| &mut o.syslog), "Log own messages to syslog too"),
    option(
        "systemd-cgroup",
        b's',
        Flag(|o| &mut o.systemd_cgroup),
        "Passed to the runtime",
    ),
    option(
        "terminal",
        b't',
        Flag(|o| &mut o.terminal),
        "Give the container a terminal",
    ),
    option(
        "timeout",
        b'T',
        Number(|o| &mut o.timeout),
        "Seconds after which the container is killed",
    ),
    option("version", 0, Flag(|o| &mut o.version), "Print the version and exit"),
];

/// Reads the arguments that follow the program's name. The error is the reason, ready for "option parsing failed: ".
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Options, String> {
    let mut options = Options::default();
    let mut words = arguments.into_iter();
    while let Some(word) = words.next() {
        match word.as_bytes() {
            b"--" => break,
            [b'-', b'-', name @ ..] => {
                let (name, attached) = match name.iter().position(|byte| *byte == b'=') {
                    Some(at) => (name.get(..at).unwrap_or_default(), name.get(at + 1..)),
                    None => (name, None),
                };
                if attached.is_none() && matches!(name, b"help" | b"help-all") {
                    options.help = true;
                    return Ok(options);
                }
                let known = OPTIONS.iter().find(|option| option.long.as_bytes() == name);
                let known = known.ok_or_else(|| format!("Unknown option {}", word.to_string_lossy()))?;
                let shown = format!("--{}", known.long);
                let attached = attached.map(|value| OsString::from_vec(value.to_vec()));
                known.take(&mut options, &shown, || attached.or_else(|| words.next()))?;
            }
            [b'-', cluster @ ..] if !cluster.is_empty() => {
                let mut took_next_word = false;
                for letter in cluster {
                    if matches!(letter, b'h' | b'?') {
                        options.help = true;
                        return Ok(options);
                    }
                    let known = OPTIONS.iter().find(|option| option.short == *letter && *letter != 0);
                    let known = known.ok_or_else(|| format!("Unknown option {}", word.to_string_lossy()))?;
                    let shown = format!("-{}", char::from(*letter));
                    if took_next_word && !matches!(known.value, Flag(_)) {
                        return Err(format!("Error parsing option {shown}"));
                    }
                    known.take(&mut options, &shown, || {
                        took_next_word = true;
                        words.next()
                    })?;
                }
            }
            _ => {} // words that belong to no option are ignored
        }
    }
    Ok(options)
}

impl OptionName {
    fn take(&self, options: &mut Options, shown: &str, value: impl FnOnce() -> Option<OsString>) -> Result<(), String> {
        let value = || value().ok_or_else(|| format!("Missing argument for {shown}"));
        match self.value {
            Flag(field) => *field(options) = true,
            Text(field) => *field(options) = Some(value()?),
            List(field) => field(options).push(value()?),
            Number(field) => *field(options) = number(&value()?, shown)?,
            MaybeNumber(field) => *field(options) = Some(number(&value()?, shown)?),
            MaybeLongNumber(field) => *field(options) = Some(number(&value()?, shown)?),
        }
        Ok(())
    }
}

/// Decimal, hexadecimal after `0x`, octal after `0`; a sign and leading white space are allowed.
fn number<N: TryFrom<i128>>(text: &OsString, shown: &str) -> Result<N, String> {
    let broken = || format!("Cannot parse integer value “{}” for {shown}", text.to_string_lossy());
    let out_of_range = || format!("Integer value “{}” for {shown} out of range", text.to_string_lossy());
    let word = text.to_str().ok_or_else(broken)?;
    let word = word.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let (radix, digits) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => (16, hex),
        None if digits.starts_with('0') => (8, digits),
        None => (10, digits),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(broken());
    }
    let magnitude = i128::from_str_radix(digits, radix).map_err(|_| out_of_range())?;
    N::try_from(sign * magnitude).map_err(|_| out_of_range())
}

/// What `--help` prints: every option by its long name.
pub fn help() -> String {
    let mut text =
        String::from("Usage:\n  conmon [OPTION…] - run and supervise one container\n\nOptions:\n  -h, --help\n");
    for option in OPTIONS.iter().filter(|option| !option.help.is_empty()) {
        let short = match option.short {
            0 => "    ".to_owned(),
            letter => format!("-{}, ", char::from(letter)),
        };
        let value = if matches!(option.value, Flag(_)) { "" } else { "=VALUE" };
        text.push_str(&format!("  {short}--{}{value}\n        {}\n", option.long, option.help));
    }
    text
}

/// What `--version` prints. Callers read the third word as a semantic version and switch features on by it: ours says
/// which conmon we stand in for. What we are ourselves is on the second line.
pub fn version() -> String {
    format!(
        "conmon version 2.2.1\ncommit: conmon-rs {}\n",
        env!("CARGO_PKG_VERSION")
    )
}

// ---------------------------------------------------------------------------------------------------------------------
// Checks

const SOCKET_DIRECTORY: &str = "/var/run/crio";

/// What the monitor is asked to do.
#[derive(Debug)]
pub struct MonitorPlan {
    pub task: Task,
    pub api: Api,
    /// The name of the exit file, and what the runtime calls the container.
    pub container_id: OsString,
    pub bundle: Option<PathBuf>,
    pub monitor_pidfile: Option<PathBuf>,
    pub container_pidfile: PathBuf,
    pub runtime: RuntimeCommand,
    pub exit_dir: Option<PathBuf>,
    pub exit_record: bool,
    pub persist_dir: Option<PathBuf>,
    pub exit_command: Option<ExitCommand>,
    pub stdio: StdioPlan,
    pub attach: AttachPlan,
    pub replace_listen_pid: bool,
    pub notify_socket: Option<PathBuf>,
    pub timeout: Option<Duration>,
    pub log: LogPlan,
    /// Become a daemon, or stay the caller's child.
    pub daemonize: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Task {
    Create,
    Restore { checkpoint: PathBuf },
    Exec { process_spec: PathBuf },
}

impl Task {
    /// A command in a container that is there already.
    pub fn is_exec(&self) -> bool {
        matches!(self, Task::Exec { .. })
    }
}

/// Which words the sync pipe speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// One message: the pid of a create, the exit code of an exec.
    Legacy,
    /// An exec reports its pid too.
    One,
}

#[derive(Debug)]
pub struct RuntimeCommand {
    pub path: PathBuf,
    pub global_arguments: Vec<OsString>,
    pub command_arguments: Vec<OsString>,
    pub systemd_cgroup: bool,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
}

#[derive(Debug)]
pub struct ExitCommand {
    pub path: PathBuf,
    pub arguments: Vec<OsString>,
    pub delay: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdioPlan {
    /// Three descriptors; stdin is /dev/null unless asked for.
    Pipes {
        stdin: bool,
    },
    Terminal,
    /// The container gets the monitor's own.
    Inherited,
}

/// How clients attach.
#[derive(Debug)]
pub struct AttachPlan {
    /// The directory and name of a link to the bundle, so that clients have a short path.
    pub link: Option<(PathBuf, OsString)>,
    /// When a client goes away, the container's stdin ends. A terminal without `--stdin` stays open for the next one.
    pub closes_stdin: bool,
    /// An exec waits for its client: the parent says when, on the start pipe.
    pub before_exec: bool,
}

#[derive(Debug, Default)]
pub struct LogPlan {
    pub file: Option<PathBuf>,
    pub journal: Option<JournalPlan>,
    pub size_max_bytes: Option<u64>,
    pub global_size_max_bytes: Option<u64>,
    pub sync_at_end: bool,
    pub rotation: Option<Rotation>,
}

/// Old logs are kept, as `.1`, `.2` and so on.
#[derive(Debug, PartialEq, Eq)]
pub struct Rotation {
    pub max_files: u32,
    /// Where a log that somebody has taken away may be made anew; everywhere if there is none.
    pub allowed_directories: Vec<PathBuf>,
}

/// A reason not to begin. `AtParse` ones carry conmon's name, the others its error prefix.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    AtParse(String),
    AtCheck(String),
}

impl Options {
    pub fn wants_help(&self) -> bool {
        self.help
    }

    pub fn wants_version(&self) -> bool {
        self.version
    }

    /// The key under which a refusal is reported to a parent that listens on the sync pipe.
    pub fn sync_key(&self) -> SyncKey {
        match (self.api_version, self.exec) {
            (true, _) => SyncKey::Data,
            (false, true) => SyncKey::ExitCode,
            (false, false) => SyncKey::Pid,
        }
    }

    /// Whether an attach pipe is to be looked for: not if it would be refused anyway.
    pub fn exec_attach(&self) -> bool {
        self.exec && self.exec_attach && self.api_version
    }

    /// What goes to syslog with every message, if anything does.
    pub fn syslog_subject(&self) -> Option<String> {
        let id = self.cid.as_ref()?.to_string_lossy();
        let tag = self
            .log_tag
            .as_ref()
            .map(|tag| format!(": {}", tag.to_string_lossy()))
            .unwrap_or_default();
        self.syslog.then(|| id.chars().take(20).chain(tag.chars()).collect())
    }

    /// How much to say; an unknown word is refused.
    pub fn log_level(&self) -> Result<Level, Refusal> {
        match &self.log_level {
            None => Ok(Level::Warning),
            Some(name) => Level::parse(name.as_bytes())
                .ok_or_else(|| Refusal::AtCheck(format!("No such log level {}", name.to_string_lossy()))),
        }
    }

    /// The checks that need no more than the words themselves and the name of the container.
    pub fn check_words(&self) -> Result<(), Refusal> {
        let refuse = |text: String| Err(Refusal::AtParse(text));
        let max_files = self.log_max_files.unwrap_or(1);
        if max_files < 0 {
            return refuse(format!("log-max-files must be non-negative, got {max_files}"));
        }
        if self.log_rotate && max_files == 0 {
            return refuse("log-max-files must be at least 1 when log-rotate is enabled, got 0".to_owned());
        }
        if self.cid.is_none() {
            return refuse("Container ID not provided. Use --cid".to_owned());
        }
        Ok(())
    }

    /// Decides what to do, or why not. The working directory is only looked at for defaults; relative paths stay so.
    pub fn check(self) -> Result<MonitorPlan, Refusal> {
        let legacy_exec = self.exec && !self.api_version;
        if self.exec && self.restore.is_some() {
            return refuse("Cannot use 'exec' and 'restore' at the same time");
        }
        if self.exec_attach && !self.exec {
            return refuse("Attach can only be specified with exec");
        }
        if self.exec_attach && legacy_exec {
            return refuse("Attach can only be specified for a non-legacy exec session");
        }
        if self.cuuid.is_none() && !legacy_exec {
            return refuse("Container UUID not provided. Use --cuuid");
        }
        let runtime = self
            .runtime
            .ok_or(Refusal::AtCheck("Runtime path not provided. Use --runtime".to_owned()))?;
        if let Err(error) = access(&runtime, Access::EXEC_OK) {
            let reason = errno_text(&error.into());
            return refuse(format!(
                "Runtime path {} is not valid {reason}",
                runtime.to_string_lossy()
            ));
        }
        let task = match (self.exec, self.exec_process_spec) {
            (true, Some(process_spec)) => Task::Exec {
                process_spec: process_spec.into(),
            },
            (true, None) => return refuse("Exec process spec path not provided. Use --exec-process-spec"),
            (false, _) => match self.restore {
                Some(checkpoint) => Task::Restore {
                    checkpoint: checkpoint.into(),
                },
                None => Task::Create,
            },
        };
        let working_directory = std::env::current_dir()
            .map_err(|error| Refusal::AtCheck(format!("Failed to get working directory {}", errno_text(&error))))?;
        let Ok(exit_delay) = u64::try_from(self.exit_delay) else {
            return refuse("Delay before invoking exit command must be greater than or equal to 0");
        };
        let drivers = log_drivers(&self.log_path)?;
        let only_file = drivers.file.is_some() && !drivers.journald;
        if only_file && self.log_tag.is_some() {
            return refuse("k8s-file doesn't support --log-tag");
        }
        if only_file && !self.log_label.is_empty() {
            return refuse("k8s-file doesn't support --log-label");
        }
        if drivers.journald {
            check_for_journald(self.cid.as_deref().unwrap_or_default().as_bytes(), &self.log_label)?;
        }
        let container_id = self.cid.unwrap_or_default();
        let container_pidfile = self.container_pidfile.map_or_else(
            || {
                let mut name = OsString::from("pidfile-");
                name.push(&container_id);
                working_directory.join(name)
            },
            PathBuf::from,
        );
        let bundle = match (self.bundle, self.exec) {
            (Some(bundle), _) => Some(PathBuf::from(bundle)),
            (None, true) => None,
            (None, false) => Some(working_directory),
        };
        if self.seccomp_notify.is_some() {
            crate::warning!("--seccomp-notify-socket and --seccomp-notify-plugins are ignored");
        }
        if self.no_container_partial_message && !drivers.journald {
            crate::warning!("--no-container-partial-message has no effect without journald log driver");
        }
        let socket_directory = self
            .socket_dir_path
            .map_or_else(|| PathBuf::from(SOCKET_DIRECTORY), PathBuf::from);
        let positive = |limit: Option<i64>| {
            limit
                .and_then(|limit| u64::try_from(limit).ok())
                .filter(|limit| *limit > 0)
        };
        let journal = drivers.journald.then(|| JournalPlan {
            container_id: container_id.clone(),
            name: self.name,
            tag: self.log_tag,
            labels: self.log_label,
            marks_partial: !self.no_container_partial_message,
        });
        Ok(MonitorPlan {
            task,
            api: if self.api_version { Api::One } else { Api::Legacy },
            container_id,
            bundle,
            monitor_pidfile: self.conmon_pidfile.map(PathBuf::from),
            container_pidfile,
            runtime: RuntimeCommand {
                path: runtime.into(),
                global_arguments: self.runtime_arg,
                command_arguments: self.runtime_opt,
                systemd_cgroup: self.systemd_cgroup,
                no_pivot: self.no_pivot,
                no_new_keyring: self.no_new_keyring,
            },
            exit_dir: self.exit_dir.map(PathBuf::from),
            exit_record: self.exit_record,
            persist_dir: self.persist_dir.map(PathBuf::from),
            exit_command: self.exit_command.map(|path| ExitCommand {
                path: path.into(),
                arguments: self.exit_command_arg,
                delay: Duration::from_secs(exit_delay),
            }),
            stdio: if drivers.passthrough {
                StdioPlan::Inherited
            } else if self.terminal {
                StdioPlan::Terminal
            } else {
                StdioPlan::Pipes { stdin: self.stdin }
            },
            attach: AttachPlan {
                link: if self.full_attach {
                    None
                } else {
                    self.cuuid.map(|name| (socket_directory, name))
                },
                closes_stdin: self.stdin && !self.leave_stdin_open,
                before_exec: self.exec_attach,
            },
            replace_listen_pid: self.replace_listen_pid,
            notify_socket: self.sdnotify_socket.map(PathBuf::from),
            timeout: u64::try_from(self.timeout)
                .ok()
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs),
            log: LogPlan {
                file: drivers.file,
                journal,
                size_max_bytes: positive(self.log_size_max),
                global_size_max_bytes: positive(self.log_global_size_max),
                sync_at_end: !self.no_sync_log,
                rotation: self.log_rotate.then(|| Rotation {
                    max_files: self
                        .log_max_files
                        .and_then(|files| u32::try_from(files).ok())
                        .unwrap_or(1),
                    allowed_directories: self.log_allowlist_dir.into_iter().map(PathBuf::from).collect(),
                }),
            },
            daemonize: !self.sync,
        })
    }
}

fn refuse<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::AtCheck(text.into()))
}

/// What the journal's fields can say.
fn check_for_journald(container_id: &[u8], labels: &[OsString]) -> Result<(), Refusal> {
    if container_id.len() <= SHORT_ID_BYTES {
        return refuse("Container ID must be longer than 12 characters");
    }
    for label in labels {
        let shown = label.to_string_lossy();
        let Some((name, _)) = split_label(label.as_bytes()) else {
            return refuse(format!("Container labels must be in format LABEL=VALUE ({shown})"));
        };
        if !name.iter().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_')) {
            return refuse(format!(
                "Container label names must contain only uppercase letters, numbers and underscore (in '{shown}')"
            ));
        }
    }
    Ok(())
}

/// Where output goes.
#[derive(Default)]
struct LogDrivers {
    /// The last of several wins.
    file: Option<PathBuf>,
    /// There is nothing to log: the container writes to where the monitor's own stdio goes.
    passthrough: bool,
    journald: bool,
}

fn log_drivers(entries: &[OsString]) -> Result<LogDrivers, Refusal> {
    if entries.is_empty() {
        return refuse("Log driver not provided. Use --log-path");
    }
    let mut drivers = LogDrivers::default();
    for entry in entries {
        let bytes = entry.as_bytes();
        // Only the first colon separates: a path may contain others.
        let (driver, path) = match bytes.iter().position(|byte| *byte == b':') {
            Some(at) => (bytes.get(..at).unwrap_or_default(), bytes.get(at + 1..)),
            None => (bytes, None),
        };
        match (driver, path) {
            (b"", None | Some(b"")) => return refuse("log-path must not be empty"),
            (b"none" | b"off" | b"null", _) => {}
            (b"passthrough", _) => drivers.passthrough = true,
            (b"journald", _) => drivers.journald = true,
            (b"k8s-file", None | Some(b"")) => return refuse("k8s-file requires a filename"),
            (b"" | b"k8s-file", Some(path)) => drivers.file = Some(PathBuf::from(OsString::from_vec(path.to_vec()))),
            (_, None) => drivers.file = Some(PathBuf::from(entry)),
            (unknown, Some(_)) => {
                return refuse(format!("No such log driver {}", String::from_utf8_lossy(unknown)));
            }
        }
    }
    Ok(drivers)
}
