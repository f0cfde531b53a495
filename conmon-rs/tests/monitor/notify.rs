use std::fs;
use std::os::unix::net::UnixDatagram;

use crate::harness::{DEADLINE, Stage, WAIT_FOR_GO};

#[test]
fn readiness_is_forwarded_and_the_rest_is_not() {
    let stage = Stage::new();
    fs::create_dir(stage.path("bundle/notify")).unwrap();
    let host = UnixDatagram::bind(stage.path("host.sock")).unwrap();
    host.set_read_timeout(Some(DEADLINE)).unwrap();
    let launch = stage.create(WAIT_FOR_GO);
    let mut monitor = launch
        .args(["--sdnotify-socket".as_ref(), stage.path("host.sock").as_os_str()])
        .start();
    monitor.created();
    let container = UnixDatagram::unbound().unwrap();
    for datagram in ["MAINPID=3\nFDSTORE=1", "MAINPID=3\nREADY=1\nSTATUS=up", "STOPPING=1\n"] {
        container
            .send_to(datagram.as_bytes(), stage.path("bundle/notify/notify.sock"))
            .unwrap();
    }
    let mut buffer = [0; 1000];
    for expected in ["READY=1\nSTATUS=up", "STOPPING=1"] {
        let length = host.recv(&mut buffer).unwrap();
        assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap(), expected);
    }
    stage.go();
    assert_eq!(monitor.wait(), 0);
}

#[test]
fn a_missing_notify_directory_fails_the_create_with_a_message() {
    let stage = Stage::new();
    let monitor = stage.create("").args(["--sdnotify-socket", "/run/host.sock"]).start();
    assert!(monitor.sync_message().unwrap().contains("create notify socket"));
}
