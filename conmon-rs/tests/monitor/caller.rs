//! What the monitor takes from its caller, leaves to it and does not keep from it.

use std::fs;
use std::path::Path;

use crate::harness::{ID, Launch, Stage, WAIT_FOR_GO, eventually, write_to_fifo};

/// Paths as a caller gives them who stands in the stage's directory.
fn with_relative_paths<'a>(stage: &'a Stage, container: &str) -> Launch<'a> {
    let mut launch = stage.create(container);
    for name in ["bundle", "log", "pidfile", "exits", "persist", "sockets"] {
        launch = launch.without(stage.path(name).to_str().unwrap());
    }
    for option in ["-b", "-l", "-p", "--exit-dir", "--persist-dir", "--socket-dir-path"] {
        launch = launch.without(option);
    }
    launch.args([
        "-b",
        "bundle",
        "-l",
        "log",
        "-p",
        "pidfile",
        "--exit-dir",
        "exits",
        "--persist-dir",
        "persist",
        "--socket-dir-path",
        "sockets",
    ])
}

#[test]
fn the_callers_directory_is_left_and_relative_paths_are_still_its() {
    let stage = Stage::new();
    let mut monitor = with_relative_paths(&stage, &format!("{WAIT_FOR_GO}; pwd; exit 7")).start();
    monitor.created();
    eventually("the monitor has left", || {
        let place = fs::read_link(format!("/proc/{}/cwd", monitor.pid())).unwrap();
        (place == Path::new("/")).then_some(())
    });
    fs::rename(stage.path("log"), stage.path("log.old")).unwrap();
    write_to_fifo(&stage.path("bundle/ctl"), conmon_rs::contract::REOPEN_LOG);
    eventually("the log is there again", || stage.path("log").exists().then_some(()));
    stage.go();
    assert_eq!(monitor.wait(), 7);
    // The runtime was started where the caller is.
    assert_eq!(
        stage.log(),
        [format!("stdout F {}", stage.path("").display()).trim_end_matches('/')]
    );
    assert_eq!(stage.read(&format!("exits/{ID}")), "7");
    assert_eq!(stage.read("persist/exit"), "7");
    assert!(!stage.path("bundle/attach").exists());
}

#[test]
fn descriptors_that_are_closed_at_the_start_are_no_trap() {
    let stage = Stage::new();
    let launch = stage.create("echo out; echo err >&2; cat; exit 3");
    let launch = launch.wrapped_in(&["sh", "-c", "exec \"$0\" \"$@\" 0<&- 1>&- 2>&-"]);
    assert_eq!(launch.run(), 3);
    let mut log = stage.log();
    log.sort();
    assert_eq!(log, ["stderr F err", "stdout F out"]);
}

#[test]
fn a_daemon_that_starts_without_stdio_logs_all_the_same() {
    let stage = Stage::new();
    let launch = stage.create("echo out; exit 3").without("--sync");
    let launch = launch.wrapped_in(&["sh", "-c", "exec \"$0\" \"$@\" 0<&- 1>&- 2>&-"]);
    assert_eq!(launch.run(), 0);
    assert_eq!(eventually("the exit file appears", || stage.exit_file()).number(), 3);
    assert_eq!(stage.log(), ["stdout F out"]);
}

#[test]
fn the_container_has_the_callers_oom_score_whatever_the_monitors_is() {
    let stage = Stage::new();
    let launch = stage.create("cat /proc/self/oom_score_adj; exit 4");
    let launch = launch.wrapped_in(&["sh", "-c", "echo 345 > /proc/self/oom_score_adj; exec \"$0\" \"$@\""]);
    assert_eq!(launch.run(), 4);
    assert_eq!(stage.log(), ["stdout F 345"]);
}

#[test]
fn another_user_may_open_its_output_again() {
    let stage = Stage::new();
    let script = "echo out > /dev/stdout; echo err > /dev/stderr";
    let container = format!("exec setpriv --reuid=65534 --regid=65534 --clear-groups sh -c '{script}'");
    assert_eq!(stage.create(&container).run(), 0);
    let mut log = stage.log();
    log.sort();
    assert_eq!(log, ["stderr F err", "stdout F out"]);
}

#[test]
fn the_runtimes_command_line_is_told_to_who_traces() {
    let stage = Stage::new();
    let log = stage.path("log");
    let launch = stage.create("exit 0").without("-l").without(log.to_str().unwrap());
    // With passthrough stderr is still the caller's when the runtime starts.
    let mut monitor = launch.args(["-l", "passthrough", "--log-level", "trace"]).start();
    assert_eq!(monitor.wait(), 0);
    let said = monitor.stderr();
    let line = said
        .lines()
        .find(|line| line.contains("calling runtime args: "))
        .unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains(" create --bundle ") && line.ends_with(ID), "{line}");
}
