use std::fs;
use std::os::unix::fs::MetadataExt;

use conmon_rs::contract::REOPEN_LOG;

use crate::harness::{Running, Stage, WAIT_FOR_GO, eventually, records, write_to_fifo};

/// A container that echoes a line for each file that appears.
const ECHO_STEPS: &str =
    "for step in 1 2 3; do while [ ! -e $stage/step$step ]; do sleep 0.01; done; echo step$step; done; exit 0";

fn step(stage: &Stage, number: u32) {
    fs::write(stage.path(&format!("step{number}")), "").unwrap();
}

fn reopen(monitor: &Running<'_>) {
    write_to_fifo(&monitor.stage.path("bundle/ctl"), REOPEN_LOG);
}

#[test]
fn after_a_rename_the_path_exists_again_and_is_written_to() {
    let stage = Stage::new();
    let mut monitor = stage.create(ECHO_STEPS).start();
    monitor.created();
    step(&stage, 1);
    eventually("the first line is logged", || stage.log_has("step1"));
    fs::rename(stage.path("log"), stage.path("log.old")).unwrap();
    reopen(&monitor);
    eventually("the path exists again", || stage.path("log").exists().then_some(()));
    step(&stage, 2);
    step(&stage, 3);
    monitor.wait();
    assert_eq!(stage.log(), ["stdout F step2", "stdout F step3"]);
    assert_eq!(records(&fs::read(stage.path("log.old")).unwrap()), ["stdout F step1"]);
}

#[test]
fn a_file_that_nobody_renamed_is_replaced() {
    let stage = Stage::new();
    let mut monitor = stage.create(ECHO_STEPS).start();
    monitor.created();
    step(&stage, 1);
    eventually("the first line is logged", || stage.log_has("step1"));
    let before = fs::metadata(stage.path("log")).unwrap().ino();
    reopen(&monitor);
    eventually("a new file is there", || {
        (fs::metadata(stage.path("log")).ok()?.ino() != before).then_some(())
    });
    step(&stage, 2);
    step(&stage, 3);
    monitor.wait();
    assert_eq!(stage.log(), ["stdout F step2", "stdout F step3"]);
}

#[test]
fn a_log_directory_that_is_gone_ends_nothing() {
    let stage = Stage::new();
    fs::create_dir(stage.path("logs")).unwrap();
    let log = stage.path("logs/log");
    let mut monitor = stage.create(ECHO_STEPS).args(["-l".as_ref(), log.as_os_str()]).start();
    monitor.created();
    fs::remove_dir_all(stage.path("logs")).unwrap();
    reopen(&monitor);
    step(&stage, 1);
    fs::create_dir(stage.path("logs")).unwrap();
    reopen(&monitor);
    eventually("the next request finds the directory", || log.exists().then_some(()));
    step(&stage, 2);
    step(&stage, 3);
    assert_eq!(monitor.wait(), 0);
    assert!(records(&fs::read(log).unwrap()).contains(&"stdout F step3".to_owned()));
}

#[test]
fn junk_on_the_control_fifo_harms_nothing() {
    let stage = Stage::new();
    let mut monitor = stage.create(ECHO_STEPS).start();
    monitor.created();
    let control = stage.path("bundle/ctl");
    write_to_fifo(&control, &[b'9'; 4000]);
    write_to_fifo(&control, b"\n1 100000 5\n\0\xff\n2\nx y z\n");
    for _ in 0..20_000 {
        write_to_fifo(&control, b"1 24 80\n");
    }
    write_to_fifo(&stage.path("bundle/winsz"), &[b'7'; 4000]);
    fs::rename(stage.path("log"), stage.path("log.old")).unwrap();
    reopen(&monitor);
    eventually("the request after the junk is served", || {
        stage.path("log").exists().then_some(())
    });
    (1..=3).for_each(|number| step(&stage, number));
    assert_eq!(monitor.wait(), 0);
}

#[test]
fn a_reopened_log_is_appended_to_as_before() {
    let stage = Stage::new();
    let mut monitor = stage.create(&format!("{WAIT_FOR_GO}; echo end")).start();
    monitor.created();
    let flags = |path: &std::path::Path| {
        let entries = fs::read_dir(format!("/proc/{}/fd", monitor.pid())).unwrap().flatten();
        let mut open = entries.filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == path));
        let number = open.next()?.file_name();
        let info = fs::read_to_string(format!("/proc/{}/fdinfo/{}", monitor.pid(), number.to_str()?)).ok()?;
        let octal = info
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))?
            .trim()
            .to_owned();
        i32::from_str_radix(&octal, 8).ok()
    };
    let log = stage.path("log");
    fs::rename(&log, stage.path("log.old")).unwrap();
    write_to_fifo(&stage.path("bundle/ctl"), REOPEN_LOG);
    let flags = eventually("the new file is open", || flags(&log));
    assert!(flags & libc::O_APPEND != 0, "{flags:o}");
    stage.go();
    monitor.wait();
}
