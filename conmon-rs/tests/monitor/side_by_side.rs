//! Command lines and lives, run by ours and by Debian's conmon (2.1.6), and compared: exit status, what is said, the
//! messages to the parent, the files left, the log. Where the two differ, the reason stands beside; it must then be so.
//! Two differences are everywhere: since 2.1.7 the link to the bundle goes with the monitor, and there is a colon after the
//! level of a message; ours follows 2.2.1.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Launch, Stage};

const THEIRS: &str = "/usr/bin/conmon";
const OURS: &str = env!("CARGO_BIN_EXE_conmon-rs");

const NEW_OPTION: &str = "the option came with 2.2.0";

/// What is compared of two runs, and why they may differ; an empty reason asks for the same.
fn compare(name: &str, reason: &str, of: impl Fn(&Path) -> String, failures: &mut Vec<String>) {
    let (ours, theirs) = (of(OURS.as_ref()), of(THEIRS.as_ref()));
    if reason.is_empty() && ours != theirs {
        failures.push(format!("{name}\n--- ours\n{ours}\n--- theirs\n{theirs}"));
    }
    if !reason.is_empty() && ours == theirs {
        failures.push(format!(
            "{name}\nno difference, though there is a reason for one: {reason}\n{ours}"
        ));
    }
}

fn verdict(failures: &[String]) {
    assert!(
        failures.is_empty(),
        "{} differ\n\n{}",
        failures.len(),
        failures.join("\n\n")
    );
}

/// Both outputs in one, because older ones complain on stdout.
fn line(program: &Path, words: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(program)
        .args(words)
        .env_clear()
        .env("LC_ALL", "C.UTF-8")
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let mut left: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    format!(
        "status {:?}, left {left:?}\n{}",
        output.status.code(),
        String::from_utf8_lossy(&said)
            .trim_end()
            .replace("[conmon:e] ", "[conmon:e]: ")
    )
}

#[test]
fn refused_command_lines_are_refused_alike() {
    let create = ["-c", "0123456789abcdef", "-u", "U", "-r", "/bin/true", "-l", "log"];
    let exec = ["-e", "-c", "0123456789abcdef", "-r", "/bin/true", "-l", "log"];
    let without = |base: &'static [&'static str]| base.to_vec();
    let with = |base: &[&'static str], more: &[&'static str]| [base, more].concat();
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (vec![], ""),
        (without(&["--bogus"]), ""),
        (without(&["--ci", "x"]), ""),
        (without(&["-c"]), ""),
        (without(&["--cid"]), ""),
        (without(&["-cfoo"]), ""),
        (without(&["-T", "abc"]), ""),
        (without(&["-T", ""]), ""),
        (without(&["-T", "99999999999"]), ""),
        (without(&["--log-size-max", "1x"]), ""),
        (without(&["--log-size-max", "99999999999999999999"]), ""),
        (without(&["--exit-delay", "x"]), ""),
        (without(&["--log-max-files", "-1"]), NEW_OPTION),
        (without(&["-c", "x"]), ""),
        (without(&["-c", "x", "-u", "y"]), ""),
        (without(&["-c", "x", "-u", "y", "-r", "/no/such"]), ""),
        (without(&["-c", "x", "-u", "y", "-r", "/etc/passwd"]), ""),
        (without(&["-c", "x", "-u", "y", "-r", "/bin/true"]), ""),
        (with(&create, &["--log-level", "loud"]), ""),
        (with(&create, &["-e", "--restore", "/x"]), ""),
        (with(&create, &["--exec-attach"]), ""),
        (with(&exec, &["--exec-attach"]), ""),
        (with(&exec, &[]), ""),
        (with(&exec, &["--api-version", "1"]), ""),
        (with(&create, &["--exit-delay", "-1"]), ""),
        (with(&create[..6], &["-l", ""]), ""),
        (with(&create[..6], &["-l", ":"]), ""),
        (with(&create[..6], &["-l", "k8s-file:"]), ""),
        (with(&create[..6], &["-l", "k8s-file"]), ""),
        (with(&create[..6], &["-l", "json-file:x"]), ""),
        (with(&create[..6], &["-l", "/no/such/directory/log"]), ""),
        (
            with(&create, &["--log-tag", "t"]),
            "ours opens no log before all is checked, so none is left",
        ),
        (with(&create, &["--log-label", "A=b"]), NEW_OPTION),
        (vec!["-c", "short", "-u", "y", "-r", "/bin/true", "-l", "journald"], ""),
        (
            with(&create[..6], &["-l", "journald", "--log-label", "a=b"]),
            NEW_OPTION,
        ),
        (with(&create[..6], &["-l", "journald", "--log-label", "=b"]), NEW_OPTION),
    ];
    let mut failures = Vec::new();
    for (words, reason) in &cases {
        compare(&words.join(" "), reason, |program| line(program, words), &mut failures);
    }
    verdict(&failures);
}

/// What is left of a life.
fn life(launch: impl Fn(&Stage) -> Launch<'_>, program: &Path) -> String {
    let stage = Stage::new();
    let mut monitor = launch(&stage).with_program(program).start();
    let mut messages = Vec::new();
    while let Some(message) = monitor.sync_message() {
        messages.push(message);
    }
    let status = monitor.wait();
    let pid = fs::read_to_string(stage.path("pidfile")).unwrap_or_default();
    let mut story = format!("status {status}\n");
    for message in &messages {
        story += &format!(
            "{}\n",
            if pid.is_empty() {
                message.clone()
            } else {
                message.replace(&pid, "PID")
            }
        );
    }
    story += &format!(
        "runtime {:?}\n",
        fs::read_to_string(stage.path("runtime-arguments")).unwrap_or_default()
    );
    let mut log = if stage.path("log").exists() {
        stage.log()
    } else {
        Vec::new()
    };
    log.sort();
    story += &format!("log {log:?}\n");
    for name in ["exits", "persist", "bundle"] {
        let mut files: Vec<String> = fs::read_dir(stage.path(name))
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let content = if path.is_file() {
                    fs::read_to_string(&path).unwrap()
                } else {
                    String::new()
                };
                format!("{}={content}", path.file_name().unwrap().to_string_lossy())
            })
            .collect();
        files.sort();
        story += &format!("{name} {files:?}\n");
    }
    story.replace(&stage.path("").display().to_string(), "STAGE/")
}

type Life = (&'static str, &'static str, fn(&Stage) -> Launch<'_>);

#[test]
fn lives_leave_the_same_behind() {
    let cases: Vec<Life> = vec![
        ("exit 0", "", |stage| stage.create("exit 0")),
        ("exit 255", "", |stage| stage.create("exit 255")),
        ("killed", "", |stage| stage.create("kill -9 $$")),
        ("terminated", "", |stage| stage.create("kill -15 $$")),
        ("lines on both streams", "", |stage| {
            stage.create("echo out; echo err >&2")
        }),
        ("an empty line", "", |stage| stage.create("echo; echo x")),
        ("no line end", "", |stage| stage.create("printf abc")),
        ("carriage returns and tabs", "", |stage| {
            stage.create("printf 'a\\r\\n\\tb\\n'")
        }),
        ("new api", "", |stage| stage.create("exit 3").args(["--api-version"])),
        ("full attach", "", |stage| {
            stage.create("exit 3").args(["--full-attach"])
        }),
        ("stdin open", "", |stage| {
            stage.create("exit 3").args(["-i", "--leave-stdin-open"])
        }),
        ("no log", "", |stage| stage.create("echo x").args(["-l", "none"])),
        ("null log", "", |stage| stage.create("echo x").args(["-l", "null"])),
        ("systemd, no pivot, no keyring", "", |stage| {
            stage.create("exit 0").args(["-s", "--no-pivot", "--no-new-keyring"])
        }),
        ("runtime arguments", "", |stage| {
            stage
                .create("exit 0")
                .args(["--runtime-arg", "--root=/r", "--runtime-opt", "--x", "--runtime-opt=y"])
        }),
        ("restore", "", |stage| stage.create("exit 0").args(["--restore", "/cp"])),
        ("global limit", "", |stage| {
            stage.create("seq 1 100").args(["--log-global-size-max", "200"])
        }),
        ("exit command", "", |stage| {
            let words = [
                "--exit-command",
                "/bin/sh",
                "--exit-command-arg=-c",
                "--exit-command-arg",
                "exit 3",
            ];
            stage.create("exit 4").args(words)
        }),
        ("timeout", "", |stage| stage.create("exec sleep 1000").args(["-T", "1"])),
        (
            "a runtime that fails",
            "theirs leaves the socket of a container that there is not",
            |stage| stage.create_with_runtime("echo 'no \"such\" spec' >&2; exit 1", ""),
        ),
        (
            "a runtime that fails without a word",
            "theirs leaves the socket, and a parent that is told nothing",
            |stage| stage.create_with_runtime("exit 3", ""),
        ),
        (
            "no pid file",
            "theirs leaves the socket, and a parent that is told nothing",
            |stage| stage.create_with_runtime("exit 0", ""),
        ),
        ("exec 0", "", |stage| stage.exec("echo x; exit 0")),
        ("exec 17", "", |stage| stage.exec("exit 17")),
        ("exec killed", "", |stage| stage.exec("kill -9 $$")),
        ("exec with the new api", "", |stage| {
            stage.exec("exit 3").args(["--api-version", "-u", "session"])
        }),
        ("exec with systemd's cgroups", "", |stage| {
            stage.exec("exit 0").args(["-s", "--no-pivot"])
        }),
        ("exec timeout", "", |stage| {
            stage.exec("exec sleep 1000").args(["-T", "1"])
        }),
        ("exec that the runtime refuses", "", |stage| {
            stage.exec_with_runtime("echo 'no such container' >&2; exit 1", "")
        }),
        ("exec with an exit directory", "", |stage| {
            stage
                .exec("exit 2")
                .args([OsStr::new("--exit-dir"), stage.path("exits").as_os_str()])
        }),
    ];
    let mut failures = Vec::new();
    for (name, reason, launch) in cases {
        compare(name, reason, |program| life(launch, program), &mut failures);
    }
    verdict(&failures);
}
