//! What a monitor gives up once its container runs, and what it can do all the same.

use std::fs;

use conmon_rs::contract::REOPEN_LOG;

use crate::attach::Client;
use crate::harness::{ID, Launch, Running, Stage, WAIT_FOR_GO, eventually, write_to_fifo};

const BOTH: [&str; 2] = ["--drop-capabilities", "--landlock"];

/// KILL, SYS_PTRACE and DAC_OVERRIDE.
const KEPT: u64 = 1 << 5 | 1 << 19 | 1 << 1;

fn status(monitor: &Running<'_>, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", monitor.pid())).unwrap();
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    u64::from_str_radix(value.expect("a field").trim(), 16).unwrap()
}

/// Its capabilities are given up last.
fn confined(monitor: &Running<'_>) {
    eventually("the monitor is confined", || {
        (status(monitor, "CapEff") & !KEPT == 0).then_some(())
    });
}

/// A log in a directory of its own.
fn logging_to<'a>(launch: Launch<'a>, stage: &Stage) -> Launch<'a> {
    fs::create_dir(stage.path("logs")).unwrap();
    let launch = launch.without("-l").without(stage.path("log").to_str().unwrap());
    launch.args(["-l"]).args([stage.path("logs/log")])
}

#[test]
fn capabilities_that_are_not_needed_are_given_up_for_good() {
    let stage = Stage::new();
    let mut monitor = stage.create(WAIT_FOR_GO).args(["--drop-capabilities"]).start();
    monitor.created();
    confined(&monitor);
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(status(&monitor, set) & !KEPT, 0, "{set}");
    }
    assert_eq!((status(&monitor, "CapInh"), status(&monitor, "CapAmb")), (0, 0));
    assert_eq!(status(&monitor, "NoNewPrivs"), 1);
    stage.go();
    assert_eq!(monitor.wait(), 0);
}

#[test]
fn capabilities_are_given_up_without_the_right_to_bound_them_too() {
    let stage = Stage::new();
    let launch = stage.create(WAIT_FOR_GO).args(["--drop-capabilities"]);
    let mut monitor = launch.wrapped_in(&["setpriv", "--bounding-set=-setpcap"]).start();
    monitor.created();
    confined(&monitor);
    for set in ["CapEff", "CapPrm"] {
        assert_eq!(status(&monitor, set) & !KEPT, 0, "{set}");
    }
    assert_eq!((status(&monitor, "CapInh"), status(&monitor, "CapAmb")), (0, 0));
    stage.go();
    assert_eq!(monitor.wait(), 0);
}

#[test]
fn a_confined_monitor_does_all_that_it_has_to() {
    let stage = Stage::new();
    let container = format!("read line; echo $line; {WAIT_FOR_GO}; echo end; exit 7");
    let launch = logging_to(stage.create(&container), &stage).args(BOTH);
    let mut monitor = launch.args(["-i", "--exit-record"]).start();
    monitor.created();
    confined(&monitor);
    let client = Client::of(&stage);
    client.send(b"typed\n");
    assert_eq!(client.packet().unwrap().1, b"typed\n");
    let log = stage.path("logs/log");
    fs::rename(&log, stage.path("logs/log.old")).unwrap();
    write_to_fifo(&stage.path("bundle/ctl"), REOPEN_LOG);
    eventually("the log is there again", || log.exists().then_some(()));
    stage.go();
    assert_eq!(monitor.wait(), 7);
    assert!(fs::read_to_string(&log).unwrap().ends_with(" stdout F end\n"));
    assert_eq!(stage.read(&format!("exits/{ID}")), "7");
    assert!(stage.read(&format!("exits/{ID}.json")).contains("\"exit_code\":7"));
    assert_eq!(stage.read("persist/exit"), "7");
    assert!(!stage.path("bundle/attach").exists() && !stage.path("sockets").join(ID).exists());
}

#[test]
fn a_confined_monitor_ends_a_container_of_another_user_that_takes_too_long() {
    let stage = Stage::new();
    let container = "exec setpriv --reuid=65534 --regid=65534 --clear-groups sleep 1000";
    let mut monitor = stage.create(container).args(BOTH).args(["--timeout", "1"]).start();
    monitor.created();
    assert_eq!(monitor.wait(), 255);
    assert_eq!(stage.read(&format!("exits/{ID}")), "-1");
}

#[test]
fn nothing_is_opened_outside_of_its_directories() {
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    if !symbols.contains("sys_landlock_restrict_self") {
        eprintln!("SKIPPED nothing_is_opened_outside_of_its_directories: this kernel has no Landlock");
        return;
    }
    let stage = Stage::new();
    let container = format!("{WAIT_FOR_GO}; echo end");
    let mut monitor = logging_to(stage.create(&container), &stage).args(BOTH).start();
    monitor.created();
    confined(&monitor);
    // Another directory at the same path: not one that was allowed.
    fs::rename(stage.path("logs"), stage.path("moved")).unwrap();
    fs::create_dir(stage.path("logs")).unwrap();
    write_to_fifo(&stage.path("bundle/ctl"), REOPEN_LOG);
    stage.go();
    assert_eq!(monitor.wait(), 0);
    assert_eq!(fs::read_dir(stage.path("logs")).unwrap().count(), 0);
    assert!(
        fs::read_to_string(stage.path("moved/log"))
            .unwrap()
            .ends_with(" stdout F end\n")
    );
}

#[test]
fn an_exit_command_keeps_the_monitor_as_it_was() {
    let stage = Stage::new();
    let before = fs::read_to_string("/proc/self/status").unwrap();
    let all = before.lines().find(|line| line.starts_with("CapEff")).unwrap();
    let launch = stage.create("exit 0").args(BOTH);
    let seen = stage.path("seen");
    let script = format!("grep CapEff /proc/self/status > {}", seen.display());
    let launch = launch.args([
        "--exit-command",
        "/bin/sh",
        "--exit-command-arg=-c",
        "--exit-command-arg",
        &script,
    ]);
    assert_eq!(launch.run(), 0);
    assert_eq!(fs::read_to_string(seen).unwrap().trim_end(), all);
}
