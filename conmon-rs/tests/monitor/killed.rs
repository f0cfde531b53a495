//! SIGKILL before and after each system call of a start: the parent learns of it, and nothing is left that would stay
//! for ever but the container itself, which the parent knows to look for.

use crate::harness::{Launch, Stage, eventually};
use crate::terminal::with_terminal;
use crate::tracer::{Trace, Victim, trace};

const CONTAINER: &str = "exec sleep 4321";

fn sweep(victim: Victim, launch: impl Fn(&Stage) -> Launch<'_>) {
    let stage = Stage::new();
    let (whole_life, Trace { stops, .. }) = trace(&stage, launch(&stage), victim, None);
    assert!(stops > 20, "{stops} stops are no start");
    drop(whole_life);
    drop(stage);
    for stop in 1..=stops {
        let stage = Stage::new();
        let (monitor, _) = trace(&stage, launch(&stage), victim, Some(stop));
        let mut messages = Vec::new();
        // Waits for the end of the pipe, and fails when it does not come.
        while let Some(message) = monitor.sync_message() {
            messages.push(message);
        }
        nothing_stays(&stage, monitor.pid(), stop);
        for message in &messages {
            told_the_truth(&stage, message, stop);
        }
    }
}

/// Besides the container nothing runs, in a moment; neither monitor nor runtime.
fn nothing_stays(stage: &Stage, killed: i32, stop: usize) {
    eventually(&format!("nothing but the container runs after stop {stop}"), || {
        let others = stage.processes().into_iter().filter(|pid| *pid != killed);
        let mut command_lines = others.map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default());
        command_lines
            .all(|line| line.is_empty() || line == b"sleep\x004321\0")
            .then_some(())
    });
}

/// A failure has its reason. A pid that is told is the one that the runtime has left; what an exec of the old kind tells is its exit code.
fn told_the_truth(stage: &Stage, message: &str, stop: usize) {
    if message.contains(": -1") {
        assert!(message.contains("\"message\": \""), "after stop {stop}: {message}");
        return;
    }
    let number: i32 = message
        .trim_start_matches(|character: char| character != ' ')
        .trim_end_matches('}')
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("after stop {stop}: {message}"));
    if message.starts_with("{\"exit_code\"") {
        assert_eq!(number, 7, "after stop {stop}");
    } else if number > 1 {
        assert_eq!(stage.read("pidfile"), number.to_string(), "after stop {stop}");
    }
}

#[test]
fn a_monitor_killed_anywhere_in_a_create_leaves_a_parent_that_knows() {
    sweep(Victim::Original, |stage| stage.create(CONTAINER));
}

#[test]
fn a_daemon_killed_anywhere_in_a_create_leaves_a_parent_that_knows() {
    sweep(Victim::Daemon, |stage| stage.create(CONTAINER).without("--sync"));
}

fn daemon(stage: &Stage) -> Launch<'_> {
    stage.create("exit 3").without("--sync")
}

#[test]
fn an_original_killed_anywhere_leaves_a_daemon_or_nothing() {
    let stage = Stage::new();
    let (life, Trace { stops, .. }) = trace(&stage, daemon(&stage), Victim::Original, None);
    drop(life);
    drop(stage);
    for stop in 1..=stops {
        let stage = Stage::new();
        let (monitor, _) = trace(&stage, daemon(&stage), Victim::Original, Some(stop));
        let told = monitor.sync_message();
        assert_eq!(monitor.sync_message(), None);
        // Either it goes on as if nothing had been, or nothing has happened.
        assert_eq!(
            told.is_some(),
            stage.exit_file().is_some(),
            "after stop {stop}: {told:?}"
        );
    }
}

#[test]
fn a_monitor_killed_anywhere_in_a_create_with_a_terminal_leaves_a_parent_that_knows() {
    sweep(Victim::Original, |stage| with_terminal(stage, "", CONTAINER));
}

#[test]
fn a_monitor_killed_anywhere_in_an_exec_leaves_a_parent_that_knows() {
    sweep(Victim::Original, |stage| stage.exec("exit 7"));
}

#[test]
fn a_daemon_killed_anywhere_in_an_exec_with_a_client_leaves_a_parent_that_knows() {
    sweep(Victim::Daemon, |stage| {
        let launch = stage.exec(CONTAINER).with_start_pipe().with_attach_pipe();
        let words = [
            "--api-version",
            "-u",
            "session",
            "--exec-attach",
            "--full-attach",
            "-i",
            "-b",
        ];
        launch.without("--sync").args(words).args([stage.path("bundle")])
    });
}

/// The runtime has just been forked, and never ends by itself.
#[test]
fn a_runtime_never_outlives_a_monitor_that_is_killed_right_after_its_fork() {
    let stage = Stage::new();
    let (life, Trace { runtime, .. }) = trace(&stage, stage.create(CONTAINER), Victim::Original, None);
    drop(life);
    drop(stage);
    let forked = runtime.expect("a runtime was started");
    for stop in forked + 1..=forked + 6 {
        let stage = Stage::new();
        let launch = stage.create_with_runtime("exec sleep 1234", "");
        let (monitor, _) = trace(&stage, launch, Victim::Original, Some(stop));
        assert_eq!(monitor.sync_message(), None, "after stop {stop}");
        nothing_stays(&stage, monitor.pid(), stop);
    }
}
