use conmon_rs::contract::ExitCode;

use crate::harness::{Stage, eventually};

/// Children that went their own ways: a background job, a session of its own, a daemon whose parent is gone.
const SCATTER: &str =
    "sleep 1000 & setsid sleep 1000 & (setsid sh -c 'sleep 1000 >/dev/null 2>&1 </dev/null & sleep 0.01' &) ;
sleep 0.1; echo ready; sleep 1000";

#[test]
fn after_a_time_out_no_process_of_the_exec_is_alive() {
    let stage = Stage::new();
    let mut monitor = stage.exec(SCATTER).args(["-T", "1"]).start();
    let message = monitor.sync_message();
    assert_eq!(
        message.as_deref(),
        Some("{\"exit_code\": -1, \"message\": \"command timed out\"}")
    );
    assert_eq!(monitor.wait(), 255);
    assert_eq!(stage.processes(), [0; 0]);
    assert_eq!(stage.log(), ["stdout F ready"]);
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
