use std::fs;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use conmon_rs::contract::resize;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::harness::{Launch, Stage, WAIT_FOR_GO, eventually, write_to_fifo};

/// Not a test: the part of the scripted runtime that a shell cannot do. It makes a terminal, starts the container on it
/// and sends the other side to the console socket.
#[test]
#[allow(clippy::zombie_processes)] // the container outlives its runtime
#[ignore = "run by the scripted runtime of the other tests"]
fn serves_as_a_runtime_with_a_terminal() {
    let argument = |name: &str| std::env::var(name).expect("set by the script");
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = fs::File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let stdio = || Stdio::from(slave.try_clone().unwrap());
    let mut command = Command::new("setsid");
    command
        .args(["sh", &argument("CONTAINER")])
        .stdin(stdio())
        .stdout(stdio())
        .stderr(stdio());
    let container = command.spawn().unwrap();
    let socket = UnixStream::connect(argument("CONSOLE")).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [master.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(
        &socket,
        &[IoSlice::new(name.to_bytes())],
        &mut control,
        SendFlags::empty(),
    )
    .unwrap();
    fs::write(argument("PIDFILE"), container.id().to_string()).unwrap();
}

pub fn with_terminal<'a>(stage: &'a Stage, before: &str, container: &str) -> Launch<'a> {
    let test = std::env::current_exe().unwrap();
    let runtime = format!(
        "{before}
CONSOLE=$console PIDFILE=$pidfile CONTAINER=$stage/container.sh {} --ignored --exact \
         terminal::serves_as_a_runtime_with_a_terminal >$stage/runtime-output 2>&1",
        test.display()
    );
    stage
        .create_with_runtime(&runtime, container)
        .args(["-t"])
        .env("TMPDIR", stage.path(""))
}

#[test]
fn all_output_of_a_terminal_is_stdout_and_its_carriage_returns_are_content() {
    let stage = Stage::new();
    let launch = with_terminal(&stage, "", "echo out; echo err >&2; test -t 0 && echo tty; exit 6");
    assert_eq!(launch.run(), 6);
    assert_eq!(stage.log(), ["stdout F out\r", "stdout F err\r", "stdout F tty\r"]);
    let left: Vec<_> = fs::read_dir(stage.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        left.iter()
            .all(|name| !name.to_string_lossy().starts_with("conmon-term")),
        "{left:?}"
    );
}

#[test]
fn what_is_typed_before_there_is_a_terminal_is_not_lost() {
    let stage = Stage::new();
    let container = "read line; echo \"got $line\"; exit 8";
    let mut monitor = with_terminal(
        &stage,
        ": > $stage/begun; until [ -e $stage/go ]; do sleep 0.01; done",
        container,
    )
    .args(["-i"])
    .start();
    eventually("the runtime is at work", || stage.path("begun").exists().then_some(()));
    let client = crate::attach::Client::of(&stage);
    client.send(b"early\n");
    stage.go();
    assert_eq!(monitor.wait(), 8);
    assert_eq!(stage.log().last().unwrap(), "stdout F got early\r");
}

#[test]
fn a_resize_reaches_the_terminal() {
    let stage = Stage::new();
    let container = "until [ \"$(stty size)\" = '33 111' ]; do sleep 0.01; done; echo resized";
    let mut monitor = with_terminal(&stage, "", container).start();
    monitor.created();
    write_to_fifo(&stage.path("bundle/ctl"), &resize(33, 111));
    assert_eq!(monitor.wait(), 0);
    assert_eq!(stage.log(), ["stdout F resized\r"]);
}

#[test]
fn a_resize_before_there_is_a_terminal_is_not_lost() {
    let stage = Stage::new();
    let before = "printf '1 44 122\\n' > $stage/bundle/ctl";
    let container = "while [ \"$(stty size)\" = '0 0' ]; do sleep 0.01; done; stty size";
    assert_eq!(with_terminal(&stage, before, container).run(), 0);
    assert_eq!(stage.log(), ["stdout F 44 122\r"]);
}

#[test]
fn a_terminal_that_nobody_has_open_for_a_while_costs_nothing_and_comes_back() {
    let stage = Stage::new();
    let container = format!(
        "tty=$(tty); echo before; exec 0</dev/null 1>/dev/null 2>&1; : > $stage/closed; {WAIT_FOR_GO}
         echo after > $tty; echo again > $tty; exit 2"
    );
    let mut monitor = with_terminal(&stage, "", &container).start();
    eventually("nobody has the terminal", || {
        stage.path("closed").exists().then_some(())
    });
    let time = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", monitor.pid())).unwrap();
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .filter_map(|f| f.parse().ok())
            .collect();
        // utime and stime: after the state, which is no number, these are the 11th and 12th.
        fields[10] + fields[11]
    };
    let before = time();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(time() - before <= 5, "it does not spin");
    stage.go();
    assert_eq!(monitor.wait(), 2);
    assert_eq!(
        stage.log(),
        ["stdout F before\r", "stdout F after\r", "stdout F again\r"]
    );
}

#[test]
fn a_runtime_that_delivers_no_terminal_has_failed() {
    let stage = Stage::new();
    let mut monitor = stage.create("sleep 1000").args(["-t"]).start();
    let message = monitor.sync_message();
    assert_eq!(
        message.as_deref(),
        Some("{\"pid\": -1, \"message\": \"Runtime did not set up terminal\"}")
    );
    assert_eq!(monitor.wait(), 1);
}
