use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use conmon_rs::contract::ExitCode;
use conmon_rs::exit_record::{ExitRecord, Why};

use crate::harness::{ID, Launch, Stage, WAIT_FOR_GO, eventually};

fn ended(stage: &Stage, launch: Launch<'_>) -> ExitRecord {
    launch.args(["--exit-record"]).run();
    record(stage).expect("there is a record")
}

fn record(stage: &Stage) -> Option<ExitRecord> {
    let content = fs::read(stage.path("exits").join(format!("{ID}.json"))).ok()?;
    Some(ExitRecord::parse(&content).unwrap())
}

fn now_ns() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since_1970.as_nanos()).unwrap()
}

#[test]
fn the_exit_record_tells_how_when_and_on_which_boot() {
    let stage = Stage::new();
    let before = now_ns();
    let record = ended(&stage, stage.create("echo four; kill -9 $$"));
    assert_eq!((record.exit, record.why), (ExitCode::Signal(9), Why::Signal));
    assert!(!record.oom_killed);
    assert!(before < record.started_ns && record.started_ns <= record.finished_ns && record.finished_ns < now_ns());
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(record.boot_id, boot_id.trim());
    let log = fs::metadata(stage.path("log")).unwrap().len();
    assert_eq!((record.logged_bytes, record.lost_bytes), (log, 0));
    assert_eq!(stage.read(&format!("exits/{ID}")), "137", "the exit file is conmon's");

    let stage = Stage::new();
    let record = ended(&stage, stage.create("exit 137"));
    assert_eq!(
        (record.exit, record.why),
        (ExitCode::Status(137), Why::Exited),
        "no signal"
    );
}

#[test]
fn a_time_out_is_said_in_the_record() {
    let stage = Stage::new();
    let record = ended(&stage, stage.create("exec sleep 1000").args(["--timeout", "1"]));
    assert_eq!((record.exit, record.why), (ExitCode::Unknown, Why::TimedOut));
}

#[test]
fn output_that_the_disk_did_not_take_is_counted() {
    let stage = Stage::new();
    let launch = stage.create("echo lost").args(["--log-path", "k8s-file:/dev/full"]);
    let record = ended(&stage, launch);
    // A head of time, stream and mark is before each line.
    assert!(record.lost_bytes > "lost\n".len() as u64, "{record:?}");
}

/// Whoever sees the exit file finds the record, and the end in it is that of the process, not of its descendants' output.
#[test]
fn the_record_is_there_before_the_exit_file_with_the_time_of_the_end() {
    let stage = Stage::new();
    let script = format!("{WAIT_FOR_GO}; sleep 1000 & exit 3");
    let mut monitor = stage.create(&script).args(["--exit-record"]).start();
    monitor.created();
    stage.go();
    eventually("the exit file appears", || stage.exit_file());
    let record = record(&stage).expect("the record was first");
    let file = fs::metadata(stage.path("exits").join(ID)).unwrap();
    let written = file.modified().unwrap().duration_since(UNIX_EPOCH).unwrap();
    // A second of silence is waited for while a descendant holds the output open.
    let late = u64::try_from(written.as_nanos()).unwrap() - record.finished_ns;
    assert!(late >= 900_000_000, "{late} ns");
    assert_eq!(monitor.wait(), 3);
}

#[test]
fn without_the_option_there_is_no_record() {
    let stage = Stage::new();
    stage.create("exit 1").run();
    assert_eq!(record(&stage), None);
}
