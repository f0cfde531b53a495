use std::fs;
use std::os::unix::fs::PermissionsExt;

use conmon_rs::contract::ExitCode;
use rustix::process::Signal;

use crate::harness::{ID, Stage, WAIT_FOR_GO, eventually, kill};

#[test]
fn the_exit_status_is_in_both_files_and_is_the_monitors_own() {
    let stage = Stage::new();
    assert_eq!(stage.create("exit 42").run(), 42);
    assert_eq!(stage.read(&format!("exits/{ID}")), "42");
    assert_eq!(stage.read("persist/exit"), "42");
    let mode = fs::metadata(stage.path("exits").join(ID)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
}

#[test]
fn a_container_killed_by_a_signal_has_128_and_the_signal() {
    let stage = Stage::new();
    assert_eq!(stage.create("kill -9 $$").run(), 137);
    assert_eq!(stage.exit_file(), Some(ExitCode::Status(137)));
}

#[test]
fn the_exit_file_is_never_half_written() {
    let stage = Stage::new();
    let mut monitor = stage.create(&format!("{WAIT_FOR_GO}; exit 123")).start();
    monitor.created();
    stage.go();
    let first = eventually("the exit file appears", || stage.exit_file());
    assert_eq!(first, ExitCode::Status(123));
    monitor.wait();
    let names: Vec<_> = fs::read_dir(stage.path("exits"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, [ID]);
}

#[test]
fn a_signal_to_the_monitor_is_forwarded() {
    for (signal, status) in [(Signal::TERM, 11), (Signal::INT, 12), (Signal::QUIT, 13)] {
        let stage = Stage::new();
        let script =
            "trap 'exit 11' TERM; trap 'exit 12' INT; trap 'exit 13' QUIT; echo ready; while :; do sleep 0.01; done";
        let mut monitor = stage.create(script).start();
        eventually("traps are set", || stage.log_has("ready"));
        kill(monitor.pid(), signal);
        assert_eq!(monitor.wait(), status);
    }
}

#[test]
fn no_other_signal_ends_the_monitor() {
    let stage = Stage::new();
    let mut monitor = stage.create(&format!("{WAIT_FOR_GO}; exit 5")).start();
    monitor.created();
    for signal in [
        Signal::HUP,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::PIPE,
        Signal::IO,
        Signal::VTALARM,
    ] {
        kill(monitor.pid(), signal);
    }
    stage.go();
    assert_eq!(monitor.wait(), 5);
}

#[test]
fn the_daemons_parent_is_released_when_the_pid_file_is_there() {
    let stage = Stage::new();
    let pidfile = stage.path("monitor-pid");
    let launch = stage.create(&format!("{WAIT_FOR_GO}; exit 6")).without("--sync");
    let mut monitor = launch.args(["--conmon-pidfile".as_ref(), pidfile.as_os_str()]).start();
    assert_eq!(monitor.wait(), 0);
    let daemon: i32 = stage.read("monitor-pid").parse().unwrap();
    assert!(stage.processes().contains(&daemon));
    assert_eq!(
        monitor.stderr(),
        "",
        "the daemon holds none of the caller's descriptors"
    );
    monitor.created();
    stage.go();
    eventually("the exit file appears", || stage.exit_file());
    assert_eq!(monitor.sync_message(), None);
}

#[test]
fn without_its_pid_file_a_daemon_creates_nothing() {
    let stage = Stage::new();
    let launch = stage
        .create("exit 0")
        .without("--sync")
        .args(["-P", "missing/monitor-pid"]);
    let mut monitor = launch.start();
    assert_eq!(monitor.wait(), 1);
    assert!(monitor.stderr().contains("missing/monitor-pid"));
    assert!(
        monitor
            .sync_message()
            .unwrap()
            .starts_with("{\"pid\": -1, \"message\": ")
    );
    eventually("the daemon is gone", || stage.processes().is_empty().then_some(()));
    assert!(!stage.path("runtime-arguments").exists());
}

#[test]
fn output_that_descendants_write_after_the_exit_is_kept() {
    let stage = Stage::new();
    assert_eq!(stage.create("(sleep 0.2; echo late) & exit 0").run(), 0);
    assert_eq!(stage.log(), ["stdout F late"]);
}

#[test]
fn descendants_that_keep_the_pipes_do_not_keep_the_monitor() {
    let stage = Stage::new();
    assert_eq!(stage.create("sleep 1000 & exit 3").run(), 3);
}

#[test]
fn the_exit_command_runs_at_the_end_with_its_arguments() {
    let stage = Stage::new();
    let script = stage.path("exit-command");
    fs::write(
        &script,
        "#!/bin/sh\ncat $1/exits/* > $1/seen; printf ' %s' \"$@\" >> $1/seen; ls /proc/self/fd >> $1/seen\n",
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let launch = stage
        .create("exit 9")
        .args(["--exit-command".as_ref(), script.as_os_str()]);
    let launch = launch.args(["--exit-command-arg".as_ref(), stage.path("").as_os_str()]);
    assert_eq!(launch.args(["--exit-command-arg", ""]).run(), 9);
    let seen = stage.read("seen");
    assert!(seen.starts_with("9 /") && seen.contains("/ 0\n1\n2\n"), "{seen}");
}

#[test]
fn the_exit_command_runs_after_a_failed_create_too() {
    let stage = Stage::new();
    let script = stage.path("exit-command");
    fs::write(&script, format!("#!/bin/sh\n: > {}\n", stage.path("seen").display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let launch = stage.create_with_runtime("exit 1", "");
    assert_eq!(launch.args(["--exit-command".as_ref(), script.as_os_str()]).run(), 1);
    assert!(stage.path("seen").exists());
}

#[test]
fn an_idle_monitor_is_never_woken() {
    let stage = Stage::new();
    let mut monitor = stage.create("echo ready; exec sleep 1000").start();
    let container = monitor.created();
    eventually("the container is quiet", || stage.log_has("ready"));
    let switches = || {
        let status = fs::read_to_string(format!("/proc/{}/status", monitor.pid())).unwrap();
        status
            .lines()
            .find(|line| line.starts_with("voluntary_ctxt_switches"))
            .unwrap()
            .to_owned()
    };
    let mut before = switches();
    // It may still be on its way to sleep: two equal looks a second apart are enough.
    eventually("a second without waking", || {
        std::thread::sleep(std::time::Duration::from_secs(1));
        let now = switches();
        let same = now == before;
        before = now;
        same.then_some(())
    });
    kill(container, Signal::KILL);
    assert_eq!(monitor.wait(), 137);
}
