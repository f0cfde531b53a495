use rustix::process::Signal;

use crate::harness::{Stage, eventually, kill};

fn message_of(runtime: &str) -> String {
    let stage = Stage::new();
    let mut monitor = stage.create_with_runtime(runtime, "sleep 1000").start();
    let message = monitor.sync_message().expect("a message");
    assert_eq!(monitor.wait(), 1);
    assert_eq!(monitor.sync_message(), None);
    assert_eq!(stage.exit_file(), None);
    let text = message
        .strip_prefix("{\"pid\": -1, \"message\": \"")
        .and_then(|text| text.strip_suffix("\"}"));
    text.unwrap_or_else(|| panic!("no failure: {message}")).to_owned()
}

#[test]
fn the_runtimes_own_words_are_the_message() {
    assert_eq!(message_of("echo 'bad \"spec\"' >&2; exit 1"), "bad \\\"spec\\\"\\n");
}

#[test]
fn a_runtime_that_says_nothing_still_gives_a_message() {
    assert!(message_of("exit 3").ends_with("ended with status 3 and no word on stderr"));
}

#[test]
fn no_pid_file_is_a_failure() {
    assert!(message_of("exit 0").contains("No such file"));
}

#[test]
fn garbage_in_the_pid_file_is_a_failure() {
    for garbage in ["x", "0", "1", "-1", ""] {
        assert!(
            message_of(&format!("printf '%s' '{garbage}' > $pidfile")).starts_with("no pid in "),
            "{garbage}"
        );
    }
}

#[test]
fn a_runtime_that_is_no_program_is_a_failure() {
    let stage = Stage::new();
    let launch = stage.create("").args(["-r", "/"]);
    let mut monitor = launch.start();
    let message = monitor.sync_message().unwrap();
    assert!(message.contains("start \\/: Permission denied"), "{message}");
    assert_eq!(monitor.wait(), 1);
}

#[test]
fn a_flood_on_stderr_hangs_nothing_and_its_end_is_the_message() {
    let message = message_of("head -c 300000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 1");
    assert!(message.ends_with("xthe end\\n"), "{message}");
    assert!(message.len() < 4096);
}

#[test]
fn a_process_that_the_failed_runtime_leaves_behind_does_not_keep_us() {
    assert_eq!(message_of("sleep 1000 & echo broken >&2; exit 1"), "broken\\n");
}

#[test]
fn a_runtime_that_hangs_can_be_terminated() {
    let stage = Stage::new();
    let mut monitor = stage
        .create_with_runtime("echo on > $stage/on; exec sleep 1000", "")
        .start();
    eventually("the runtime hangs", || stage.path("on").exists().then_some(()));
    kill(monitor.pid(), Signal::TERM);
    assert!(monitor.sync_message().unwrap().contains("ended with status 143"));
    assert_eq!(monitor.wait(), 1);
    eventually("the runtime is gone", || stage.processes().is_empty().then_some(()));
}

#[test]
fn a_runtime_dies_with_its_monitor() {
    let stage = Stage::new();
    let monitor = stage
        .create_with_runtime("echo on > $stage/on; exec sleep 1000", "")
        .start();
    eventually("the runtime hangs", || stage.path("on").exists().then_some(()));
    kill(monitor.pid(), Signal::KILL);
    eventually("the runtime is gone", || stage.processes().is_empty().then_some(()));
}

#[test]
fn the_runtime_gets_default_signals_and_the_inherited_descriptors() {
    let stage = Stage::new();
    let runtime = "grep -E '^Sig(Blk|Ign)' /proc/self/status > $stage/signals; ls /proc/self/fd > $stage/fds; start";
    stage.create_with_runtime(runtime, "exit 0").run();
    let signals = stage.read("signals");
    let (blocked, ignored) = signals.trim_end().split_once('\n').unwrap();
    assert_eq!(blocked, "SigBlk:\t0000000000000000");
    let ignored = u64::from_str_radix(ignored.rsplit('\t').next().unwrap(), 16).unwrap();
    let pipe = 1 << (rustix::process::Signal::PIPE.as_raw() - 1);
    assert_eq!(ignored & pipe, 0);
    let fds = stage.read("fds");
    let has = |fd: &str| fds.lines().any(|line| line == fd);
    assert!(has("8"), "what the caller left open is handed on");
    assert!(!has("5"), "the sync pipe is not");
}

#[test]
fn a_failure_to_prepare_reaches_the_parent_of_a_daemon_too() {
    let stage = Stage::new();
    std::fs::remove_dir(stage.path("bundle")).unwrap();
    let monitor = stage.create("exit 0").without("--sync").start();
    let message = monitor.sync_message().unwrap();
    assert!(
        message.starts_with("{\"pid\": -1, \"message\": ") && message.contains("bundle"),
        "{message}"
    );
    assert_eq!(monitor.sync_message(), None);
}
