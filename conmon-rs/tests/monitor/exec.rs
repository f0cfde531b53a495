use crate::harness::Stage;

#[test]
fn an_exec_reports_its_exit_code() {
    let stage = Stage::new();
    let mut monitor = stage.exec("echo out; echo err >&2; exit 17").start();
    assert_eq!(monitor.sync_message().as_deref(), Some("{\"exit_code\": 17}"));
    assert_eq!(monitor.sync_message(), None);
    assert_eq!(monitor.wait(), 17);
    let mut log = stage.log();
    log.sort();
    assert_eq!(log, ["stderr F err", "stdout F out"]);
    let arguments = stage.read("runtime-arguments");
    let words: Vec<&str> = arguments.lines().collect();
    assert_eq!(
        (words[0], words[1], words[3], words[5]),
        ("exec", "--pid-file", "--process", "--detach")
    );
}

#[test]
fn a_command_that_ends_before_the_runtime_keeps_its_status() {
    let stage = Stage::new();
    let monitor = stage.exec_with_runtime("start; exec sleep 0.1", "exit 23").start();
    assert_eq!(monitor.sync_message().as_deref(), Some("{\"exit_code\": 23}"));
}

#[test]
fn a_failed_exec_with_a_pid_file_made_beforehand_reports_why() {
    let stage = Stage::new();
    let mut monitor = stage
        .exec_with_runtime("echo 'no such container' >&2; exit 1", "")
        .start();
    let message = monitor.sync_message();
    assert_eq!(
        message.as_deref(),
        Some("{\"exit_code\": -1, \"message\": \"no such container\\n\"}")
    );
    assert_eq!(monitor.wait(), 1);
}

#[test]
fn a_runtime_that_fails_after_it_left_a_pid_does_not_hide_the_commands_status() {
    let stage = Stage::new();
    let monitor = stage.exec_with_runtime("start; exit 1", "exit 9").start();
    assert_eq!(monitor.sync_message().as_deref(), Some("{\"exit_code\": 9}"));
}

#[test]
fn an_exec_with_an_exit_directory_leaves_its_code_there() {
    let stage = Stage::new();
    stage
        .exec("exit 2")
        .args(["--exit-dir".as_ref(), stage.path("exits").as_os_str()])
        .run();
    assert_eq!(stage.exit_file().unwrap().number(), 2);
}

#[test]
fn output_before_the_runtime_has_returned_is_in_the_log() {
    let stage = Stage::new();
    stage.exec_with_runtime("start; exec sleep 0.3", "seq 1 30000").run();
    assert_eq!(stage.log().len(), 30000);
}

#[test]
fn a_command_whose_status_nobody_can_learn_any_more_is_not_waited_for() {
    let stage = Stage::new();
    // The runtime's shell has reaped it.
    let runtime = "sh $stage/container.sh & printf %s $! > $pidfile; wait";
    let monitor = stage.exec_with_runtime(runtime, "exit 5").start();
    assert_eq!(monitor.sync_message().as_deref(), Some("{\"exit_code\": -1}"));
}
