//! Every option there is: its names, what follows it, what it says of itself.

use std::ffi::OsString;

/// What the command line says, unchecked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub(super) api_version: bool,
    pub(super) bundle: Option<OsString>,
    pub(super) cid: Option<OsString>,
    pub(super) cuuid: Option<OsString>,
    pub(super) name: Option<OsString>,
    pub(super) conmon_pidfile: Option<OsString>,
    pub(super) container_pidfile: Option<OsString>,
    pub(super) runtime: Option<OsString>,
    pub(super) runtime_arg: Vec<OsString>,
    pub(super) runtime_opt: Vec<OsString>,
    pub(super) restore: Option<OsString>,
    pub(super) exec: bool,
    pub(super) exec_process_spec: Option<OsString>,
    pub(super) exec_attach: bool,
    pub(super) exit_dir: Option<OsString>,
    pub(super) exit_record: bool,
    pub(super) persist_dir: Option<OsString>,
    pub(super) exit_command: Option<OsString>,
    pub(super) exit_command_arg: Vec<OsString>,
    pub(super) exit_delay: i32,
    pub(super) leave_stdin_open: bool,
    pub(super) stdin: bool,
    pub(super) terminal: bool,
    pub(super) timeout: i32,
    pub(super) log_path: Vec<OsString>,
    pub(super) log_level: Option<OsString>,
    pub(super) log_size_max: Option<i64>,
    pub(super) log_global_size_max: Option<i64>,
    pub(super) log_rotate: bool,
    pub(super) log_max_files: Option<i32>,
    pub(super) log_allowlist_dir: Vec<OsString>,
    pub(super) log_tag: Option<OsString>,
    pub(super) log_label: Vec<OsString>,
    pub(super) no_container_partial_message: bool,
    pub(super) no_sync_log: bool,
    pub(super) drop_capabilities: bool,
    pub(super) landlock: bool,
    pub(super) no_new_keyring: bool,
    pub(super) no_dev_null: bool,
    pub(super) no_pivot: bool,
    pub(super) systemd_cgroup: bool,
    pub(super) replace_listen_pid: bool,
    pub(super) sdnotify_socket: Option<OsString>,
    pub(super) socket_dir_path: Option<OsString>,
    pub(super) full_attach: bool,
    pub(super) sync: bool,
    pub(super) syslog: bool,
    pub(super) seccomp_notify: Option<OsString>,
    pub(super) help: bool,
    pub(super) version: bool,
}

pub(super) type Field<T> = fn(&mut Options) -> &mut T;

/// What follows an option, and where it goes.
pub(super) enum Value {
    Flag(Field<bool>),
    Text(Field<Option<OsString>>),
    List(Field<Vec<OsString>>),
    Number(Field<i32>),
    MaybeNumber(Field<Option<i32>>),
    MaybeLongNumber(Field<Option<i64>>),
}

pub(super) struct OptionName {
    pub(super) long: &'static str,
    /// 0: none
    pub(super) short: u8,
    pub(super) value: Value,
    /// Empty: an old alias that the help does not show.
    pub(super) help: &'static str,
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

pub(super) static OPTIONS: [OptionName; 52] = [
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
        "drop-capabilities",
        0,
        Flag(|o| &mut o.drop_capabilities),
        "Give up capabilities that a running container's monitor does not need",
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
        "landlock",
        0,
        Flag(|o| &mut o.landlock),
        "Open no more files than a running container's monitor needs",
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
        "no-dev-null",
        0,
        Flag(|o| &mut o.no_dev_null),
        "Give the runtime pipes where it would get /dev/null",
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
