use std::fs;

use conmon_rs::contract::REOPEN_LOG;

use crate::harness::{Stage, WAIT_FOR_GO, eventually, records, write_to_fifo};

fn numbers(stage: &Stage, name: &str) -> Vec<String> {
    records(&fs::read(stage.path(name)).unwrap())
}

#[test]
fn as_many_old_logs_are_kept_as_were_asked_for() {
    let stage = Stage::new();
    fs::write(stage.path("log.new"), "left over").unwrap();
    let launch = stage
        .create("seq 1 30")
        .args(["--log-rotate", "--log-max-files", "2", "--log-size-max", "200"]);
    assert_eq!(launch.run(), 0);
    let mut kept = numbers(&stage, "log.2");
    kept.extend(numbers(&stage, "log.1"));
    kept.extend(numbers(&stage, "log"));
    let count = kept.len();
    assert!((6..30).contains(&count), "{count}");
    let expected: Vec<String> = (31 - count..=30).map(|number| format!("stdout F {number}")).collect();
    assert_eq!(kept, expected);
    assert!(!stage.path("log.3").exists() && !stage.path("log.new").exists());
}

#[test]
fn a_log_that_was_renamed_away_is_made_anew_in_this_mode_too() {
    let stage = Stage::new();
    let container = format!("echo one; {WAIT_FOR_GO}; echo two");
    let mut monitor = stage.create(&container).args(["--log-rotate"]).start();
    eventually("the first line is logged", || stage.log_has("one"));
    fs::rename(stage.path("log"), stage.path("log.20260101")).unwrap();
    write_to_fifo(&stage.path("bundle/ctl"), REOPEN_LOG);
    eventually("the path exists again", || stage.path("log").exists().then_some(()));
    stage.go();
    monitor.wait();
    assert_eq!(
        (stage.log(), numbers(&stage, "log.20260101")),
        (vec!["stdout F two".into()], vec!["stdout F one".into()])
    );
}

#[test]
fn where_rotation_is_not_allowed_the_old_log_goes_on() {
    let stage = Stage::new();
    let container = format!("echo one; {WAIT_FOR_GO}; echo two");
    let launch = stage
        .create(&container)
        .args(["--log-rotate", "--log-allowlist-dir", "/var/log/elsewhere"]);
    let mut monitor = launch.start();
    eventually("the first line is logged", || stage.log_has("one"));
    fs::rename(stage.path("log"), stage.path("log.old")).unwrap();
    write_to_fifo(&stage.path("bundle/ctl"), REOPEN_LOG);
    stage.go();
    monitor.wait();
    assert_eq!(numbers(&stage, "log.old"), ["stdout F one", "stdout F two"]);
    assert!(!stage.path("log").exists());
}
