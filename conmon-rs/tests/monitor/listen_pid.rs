use crate::harness::Stage;

const RUNTIME: &str = "echo $LISTEN_PID $LISTEN_FDS $$ > $stage/listen; start";

#[test]
fn the_pid_of_a_socket_activation_becomes_the_runtimes_if_asked() {
    let stage = Stage::new();
    let launch = stage.create_with_runtime(RUNTIME, "").args(["--replace-listen-pid"]);
    assert_eq!(launch.env("LISTEN_PID", "4194304").env("LISTEN_FDS", "2").run(), 0);
    let listen = stage.read("listen");
    let words: Vec<&str> = listen.split_whitespace().collect();
    assert_eq!((words[0], words[1]), (words[2], "2"));
}

#[test]
fn somebody_elses_pid_is_left_alone() {
    let stage = Stage::new();
    assert_eq!(
        stage
            .create_with_runtime(RUNTIME, "")
            .env("LISTEN_PID", "4194304")
            .run(),
        0
    );
    assert!(stage.read("listen").starts_with("4194304 "));
}

#[test]
fn what_is_no_pid_fails_the_create() {
    let stage = Stage::new();
    let monitor = stage.create_with_runtime(RUNTIME, "").env("LISTEN_PID", "zero").start();
    assert!(monitor.sync_message().unwrap().contains("Invalid LISTEN_PID zero"));
}
