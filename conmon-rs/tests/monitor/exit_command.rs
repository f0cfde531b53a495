//! The program that the caller wants to be run at the end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use crate::harness::{DEADLINE, Launch, Stage, eventually};

fn with_exit_command<'a>(stage: &'a Stage, container: &str, command: &str) -> Launch<'a> {
    let script: PathBuf = stage.path("exit-command");
    fs::write(
        &script,
        format!("#!/bin/sh\nstage={}\n{command}\n", stage.path("").display()),
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    stage
        .create(container)
        .args(["--exit-command".as_ref(), script.as_os_str()])
}

#[test]
fn what_ends_in_the_exit_delay_is_no_zombie() {
    let stage = Stage::new();
    let orphan = "echo $$ > $stage/orphan.new; mv $stage/orphan.new $stage/orphan; until [ -e $stage/exits/0* ]; do sleep 0.01; done";
    let container = format!(
        "(setsid sh -c 'stage='$stage'; {orphan}' </dev/null >/dev/null 2>&1 &); until [ -e $stage/orphan ]; do sleep 0.01; done"
    );
    // At the end of the delay nothing may be left of what ended at its beginning.
    let command = "orphan=$(cat $stage/orphan); if [ -e /proc/$orphan ]; then cat /proc/$orphan/stat; else echo gone; fi > $stage/seen";
    let launch = with_exit_command(&stage, &container, command);
    assert_eq!(launch.args(["--exit-delay", "3"]).run(), 0);
    assert_eq!(stage.read("seen"), "gone\n");
}

#[test]
fn an_exit_command_that_fails_is_told_of() {
    let stage = Stage::new();
    fs::create_dir(stage.path("syslog")).unwrap();
    let syslog = UnixDatagram::bind(stage.path("syslog/log")).unwrap();
    syslog.set_read_timeout(Some(DEADLINE)).unwrap();
    let launch = with_exit_command(&stage, "exit 0", "exit 6").args(["--syslog"]);
    // A mount namespace in which the system's log is the stage's.
    let mut monitor = launch
        .wrapped_in(&[
            "unshare",
            "--mount",
            "sh",
            "-c",
            "mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3 && ln -s $CONMON_TEST_STAGE/syslog/log /dev/log \
             && exec \"$0\" \"$@\"",
        ])
        .start();
    assert_eq!(monitor.wait(), 0);
    eventually("the failure is told", || {
        let mut line = vec![0; 4096];
        let length = syslog.recv(&mut line).unwrap();
        let line = String::from_utf8_lossy(&line[..length]).into_owned();
        (line.contains("exit-command") && line.ends_with("ended with 6")).then_some(())
    });
}

#[test]
fn a_command_that_leaves_something_running_is_not_waited_for_twice() {
    let stage = Stage::new();
    let command =
        "(setsid sh -c 'until [ -e '$stage'/go ]; do sleep 0.01; done' </dev/null >/dev/null 2>&1 &); : > $stage/done";
    assert_eq!(with_exit_command(&stage, "exit 2", command).run(), 2);
    assert!(stage.path("done").exists());
    stage.go();
}
