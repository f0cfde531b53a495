use conmon_rs::contract::ExitCode;

use crate::harness::{Stage, eventually};

#[test]
fn the_container_writes_to_the_monitors_own_stdio() {
    let stage = Stage::new();
    let log = stage.path("log").into_os_string().into_string().unwrap();
    let launch = stage
        .create("echo to stderr >&2; exit 4")
        .without("-l")
        .without(&log)
        .without("--sync");
    let mut monitor = launch.args(["-l", "passthrough"]).start();
    assert_eq!(monitor.wait(), 0);
    monitor.created();
    assert_eq!(
        eventually("the exit file appears", || stage.exit_file()),
        ExitCode::Status(4)
    );
    assert_eq!(monitor.stderr(), "to stderr\n");
    for name in ["bundle/attach", "bundle/ctl", "bundle/winsz", "log"] {
        assert!(!stage.path(name).exists(), "{name}");
    }
}
