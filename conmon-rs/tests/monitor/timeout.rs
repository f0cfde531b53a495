use std::time::{Duration, Instant};

use conmon_rs::contract::ExitCode;

use crate::harness::{Stage, eventually};

const TIMED_OUT: &str = "{\"exit_code\": -1, \"message\": \"command timed out\"}";

/// Children that went their own ways: a background job, a session of its own, a daemon whose parent is gone.
const SCATTER: &str =
    "sleep 1000 & setsid sleep 1000 & (setsid sh -c 'sleep 1000 >/dev/null 2>&1 </dev/null & sleep 0.01' &) ;
sleep 0.1; echo ready; sleep 1000";

#[test]
fn after_a_time_out_no_process_of_the_exec_is_alive() {
    let stage = Stage::new();
    let mut monitor = stage.exec(SCATTER).args(["-T", "1"]).start();
    assert_eq!(monitor.sync_message().as_deref(), Some(TIMED_OUT));
    assert_eq!(monitor.wait(), 255);
    assert_eq!(stage.processes(), [0; 0]);
    assert_eq!(stage.log(), ["stdout F ready"]);
}

/// An exec with this runtime times out, and nothing of it is left.
fn runtime_that_hangs(stage: &Stage, runtime: &str, command: &str) {
    let launch = stage.exec_with_runtime(&format!("touch $stage/begun\n{runtime}"), command);
    let launch = launch.args(["--exit-dir".as_ref(), stage.path("exits").as_os_str()]);
    let mut monitor = launch.args(["-T", "1"]).start();
    assert_eq!(monitor.sync_message().as_deref(), Some(TIMED_OUT));
    assert_eq!(monitor.sync_message(), None);
    assert_eq!(monitor.wait(), 255);
    assert_eq!(stage.processes(), [0; 0]);
    assert!(stage.path("begun").exists());
    assert_eq!(stage.exit_file(), Some(ExitCode::Unknown));
}

#[test]
fn an_exec_whose_runtime_hangs_before_it_starts_anything_times_out() {
    runtime_that_hangs(&Stage::new(), "exec sleep 1000", "");
}

#[test]
fn an_exec_whose_runtime_hangs_before_its_child_is_named_times_out() {
    let stage = Stage::new();
    runtime_that_hangs(&stage, &format!("({SCATTER}) & touch $stage/child; wait"), "");
    assert!(stage.path("child").exists());
}

#[test]
fn an_exec_whose_runtime_hangs_after_the_command_was_started_times_out() {
    let stage = Stage::new();
    runtime_that_hangs(&stage, "start; exec sleep 1000", SCATTER);
    assert_eq!(stage.log(), ["stdout F ready"]);
}

#[test]
fn processes_that_have_lost_their_mark_are_known_by_their_parents_and_by_the_pid_file() {
    let unmarked = "prlimit --locks=12345 sleep 1000 & setsid prlimit --locks=12345 sleep 1000 &";
    runtime_that_hangs(&Stage::new(), &format!("{unmarked} wait"), "");
    let command = format!("prlimit --pid $$ --locks=12345; {unmarked} (sleep 1000 &) ; wait");
    runtime_that_hangs(&Stage::new(), "start; exec sleep 1000", &command);
}

#[test]
fn a_pid_file_of_another_time_ends_nobody_else() {
    let other = Stage::new();
    let monitor = other.create("echo up; sleep 1000").start();
    let pid = monitor.created();
    eventually("the other is up", || other.log_has("up"));
    runtime_that_hangs(&Stage::new(), &format!("printf {pid} > $pidfile; exec sleep 1000"), "");
    assert!(other.processes().contains(&pid));
}

#[test]
fn a_time_out_before_the_pid_is_the_only_message_of_the_new_protocol() {
    let stage = Stage::new();
    let launch = stage.exec_with_runtime("exec sleep 1000", "");
    let mut monitor = launch.args(["-T", "1", "--api-version", "-u", "U"]).start();
    assert_eq!(
        monitor.sync_message().as_deref(),
        Some("{\"data\": -1, \"message\": \"command timed out\"}")
    );
    assert_eq!(monitor.sync_message(), None);
    assert_eq!(monitor.wait(), 255);
}

#[test]
fn the_runtimes_part_of_an_exec_counts() {
    let stage = Stage::new();
    let begin = Instant::now();
    let launch = stage.exec_with_runtime("sleep 2; start", "sleep 1000");
    let mut monitor = launch.args(["-T", "3"]).start();
    assert_eq!(monitor.sync_message().as_deref(), Some(TIMED_OUT));
    assert_eq!(monitor.wait(), 255);
    let taken = begin.elapsed();
    assert!(
        taken >= Duration::from_secs(3) && taken < Duration::from_millis(4900),
        "{taken:?}"
    );
    assert_eq!(stage.processes(), [0; 0]);
}

#[test]
fn the_runtimes_part_of_a_create_does_not_count() {
    let stage = Stage::new();
    let launch = stage.create_with_runtime("sleep 1.5; start", "exit 3");
    let mut monitor = launch.args(["-T", "1"]).start();
    monitor.created();
    assert_eq!(monitor.wait(), 3);
}

#[test]
fn a_container_that_times_out_has_exit_code_minus_one() {
    let stage = Stage::new();
    let mut monitor = stage.create(SCATTER).args(["--timeout=1"]).start();
    monitor.created();
    assert_eq!(monitor.wait(), 255);
    assert_eq!(stage.exit_file(), Some(ExitCode::Unknown));
    assert_eq!(stage.read("persist/exit"), "-1");
    assert_eq!(monitor.sync_message(), None);
}

#[test]
fn who_is_done_in_time_did_not_time_out() {
    let stage = Stage::new();
    let monitor = stage.exec("exit 4").args(["-T", "30"]).start();
    assert_eq!(monitor.sync_message().as_deref(), Some("{\"exit_code\": 4}"));
}

#[test]
fn the_container_itself_survives_the_time_out_of_an_exec() {
    let container = Stage::new();
    let other = container.create("echo up; sleep 1000").start();
    let pid = other.created();
    eventually("the container is up", || container.log_has("up"));
    let stage = Stage::new();
    assert_eq!(stage.exec("sleep 1000").args(["-T", "1"]).run(), 255);
    assert!(container.processes().contains(&pid));
}
