use crate::harness::{Stage, WAIT_FOR_GO, eventually};

#[test]
fn a_create_reports_the_pid_once_and_then_the_end() {
    let stage = Stage::new();
    let mut monitor = stage.create("exit 0").start();
    let pid = monitor.created();
    monitor.wait();
    assert_eq!(stage.read("pidfile"), pid.to_string());
    assert_eq!(monitor.sync_message(), None);
}

#[test]
fn the_new_api_names_every_number_data() {
    let stage = Stage::new();
    let monitor = stage.create("exit 3").args(["--api-version", "1"]).start();
    assert!(monitor.sync_message().unwrap().starts_with("{\"data\": "));
    assert_eq!(monitor.sync_message(), None);
    drop(monitor);
    let exec = stage
        .exec("exit 3")
        .args(["--api-version", "1", "-u", "session"])
        .start();
    assert!(exec.sync_message().unwrap().starts_with("{\"data\": "));
    assert_eq!(exec.sync_message().as_deref(), Some("{\"data\": 3}"));
    assert_eq!(exec.sync_message(), None);
}

#[test]
fn nothing_happens_before_the_start_pipe_says_so() {
    let stage = Stage::new();
    let mut monitor = stage.create("exit 0").with_start_pipe().start();
    eventually("the monitor waits", || {
        let stack = std::fs::read_to_string(format!("/proc/{}/syscall", monitor.pid())).unwrap_or_default();
        let name = std::fs::read_to_string(format!("/proc/{}/comm", monitor.pid())).unwrap();
        (name.trim() == "conmon-rs" && !stack.starts_with("running")).then_some(())
    });
    assert!(!stage.path("runtime-arguments").exists());
    monitor.release();
    monitor.created();
    assert_eq!(monitor.wait(), 0);
}

#[test]
fn a_signal_while_waiting_for_the_start_ends_everything() {
    let stage = Stage::new();
    let mut monitor = stage.create("exit 0").with_start_pipe().start();
    // The log is opened just before the signals are blocked; before that they have their default action.
    eventually("the monitor has begun", || stage.path("log").exists().then_some(()));
    crate::harness::kill(monitor.pid(), rustix::process::Signal::TERM);
    let status = monitor.wait();
    assert!(status == 1 || status == -1, "{status}");
    assert!(!stage.path("runtime-arguments").exists());
}

#[test]
fn a_parent_that_is_gone_is_no_reason_to_stop() {
    let stage = Stage::new();
    let mut monitor = stage
        .create(&format!("{WAIT_FOR_GO}; exit 7"))
        .with_a_parent_that_is_gone()
        .start();
    stage.go();
    assert_eq!(monitor.wait(), 7);
}

#[test]
fn a_parent_that_dies_does_not_end_the_supervision() {
    let stage = Stage::new();
    let launch = stage.create(&format!("{WAIT_FOR_GO}; exit 7"));
    let parent = launch.wrapped_in(&["sh", "-c", "\"$@\" & wait", "sh"]).start();
    parent.created();
    crate::harness::kill(parent.pid(), rustix::process::Signal::KILL);
    stage.go();
    let exit = eventually("the exit file appears", || stage.exit_file());
    assert_eq!(exit.number(), 7);
}

#[test]
fn a_sync_pipe_that_is_not_open_is_refused() {
    let stage = Stage::new();
    for value in ["99", "x", ""] {
        let mut monitor = stage.create("exit 0").env("_OCI_SYNCPIPE", value).start();
        assert_eq!(monitor.wait(), 1);
        assert!(monitor.stderr().contains("unable to parse _OCI_SYNCPIPE"));
    }
}
