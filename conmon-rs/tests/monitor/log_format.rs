use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Stage, WAIT_FOR_GO, eventually, records};

#[test]
fn each_line_is_a_full_record_and_an_unfinished_one_a_partial() {
    let stage = Stage::new();
    stage.create("printf 'a\\n\\nb\\r\\nc'; printf 'x\\ny' >&2").run();
    let log = stage.log();
    let of = |stream: &str| {
        log.iter()
            .filter(|record| record.starts_with(stream))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(of("stdout"), ["stdout F a", "stdout F ", "stdout F b\r", "stdout P c"]);
    assert_eq!(of("stderr"), ["stderr F x", "stderr P y"]);
}

#[test]
fn a_prompt_shows_at_once() {
    let stage = Stage::new();
    let script = format!("printf 'password: '; {WAIT_FOR_GO}; echo thanks");
    let mut monitor = stage.create(&script).start();
    eventually("the prompt is logged", || stage.log_has("stdout P password: "));
    stage.go();
    monitor.wait();
    assert_eq!(stage.log(), ["stdout P password: ", "stdout F thanks"]);
}

#[test]
fn the_log_can_be_read_by_its_group() {
    let stage = Stage::new();
    stage.create("echo x").run();
    assert_eq!(
        fs::metadata(stage.path("log")).unwrap().permissions().mode() & 0o777,
        0o640
    );
}

#[test]
fn lines_are_whole_however_they_are_written() {
    let stage = Stage::new();
    stage.create("seq 1 200000 | dd bs=777 2>/dev/null").run();
    let mut whole = String::new();
    for record in stage.log() {
        whole.push_str(
            record
                .strip_prefix("stdout F ")
                .or(record.strip_prefix("stdout P "))
                .unwrap(),
        );
        if record.starts_with("stdout F") {
            whole.push('\n');
        }
    }
    let expected: String = (1..=200000).map(|number| format!("{number}\n")).collect();
    assert!(whole == expected);
}

#[test]
fn a_long_line_is_cut_at_sixteen_kibibytes() {
    let stage = Stage::new();
    stage.create("head -c 40000 /dev/zero | tr '\\0' x; echo").run();
    let log = stage.log();
    let lengths: usize = log.iter().map(|record| record.len() - "stdout F ".len()).sum();
    assert_eq!(lengths, 40000);
    assert!(log.iter().all(|record| record.len() <= 16384 + "stdout F ".len()));
    assert!(log.last().unwrap().starts_with("stdout F") && log[0].starts_with("stdout P"));
}

#[test]
fn the_size_limit_begins_a_new_file() {
    let stage = Stage::new();
    stage.create("seq 1 1000").args(["--log-size-max", "500"]).run();
    let log = fs::read(stage.path("log")).unwrap();
    assert!(log.len() <= 500);
    assert_eq!(records(&log).last().unwrap(), "stdout F 1000");
    assert!(!stage.path("log.tmp").exists());
}

#[test]
fn after_the_global_limit_output_is_dropped_but_read() {
    let stage = Stage::new();
    assert_eq!(
        stage
            .create("seq 1 100000")
            .args(["--log-global-size-max", "200"])
            .run(),
        0
    );
    let size = fs::metadata(stage.path("log")).unwrap().len();
    assert!((200..260).contains(&size), "{size}");
}

#[test]
fn a_log_that_has_content_already_is_continued_and_counted() {
    let stage = Stage::new();
    stage.create("echo one").run();
    stage.create("echo two").run();
    assert_eq!(stage.log(), ["stdout F one", "stdout F two"]);
    stage.create("echo three").args(["--log-size-max", "120"]).run();
    assert_eq!(stage.log(), ["stdout F three"]);
}

#[test]
fn a_full_disk_costs_output_but_neither_a_torn_record_nor_the_exit_status() {
    let stage = Stage::new();
    let mount = stage.path("disk");
    fs::create_dir(&mount).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
        .arg(&mount)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED a_full_disk_costs_output: mounting a tmpfs is not allowed here");
        return;
    }
    struct Unmount(std::path::PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
    let _unmount = Unmount(mount.clone());
    fs::write(mount.join("ballast"), vec![0; 40_000]).unwrap();
    let script = format!("seq 1 2000; echo full > $stage/full; {WAIT_FOR_GO}; echo after; exit 4");
    let launch = stage
        .create(&script)
        .args(["-l".as_ref(), mount.join("log").as_os_str()]);
    let mut monitor = launch.start();
    eventually("the disk is full", || stage.path("full").exists().then_some(()));
    let pipe_is_read = || records(&fs::read(mount.join("log")).unwrap()).len() > 100;
    eventually("something was logged", || pipe_is_read().then_some(()));
    fs::remove_file(mount.join("ballast")).unwrap();
    stage.go();
    assert_eq!(monitor.wait(), 4);
    let log = records(&fs::read(mount.join("log")).unwrap());
    assert_eq!(log.last().unwrap(), "stdout F after");
}

#[test]
fn without_a_log_driver_output_is_read_and_forgotten() {
    let stage = Stage::new();
    let launch = stage.create("seq 1 100000; exit 8");
    let log = stage.path("log").into_os_string().into_string().unwrap();
    assert_eq!(launch.without("-l").without(&log).args(["-l", "none"]).run(), 8);
    assert!(!stage.path("log").exists());
}

#[test]
fn a_relative_log_path_follows_the_working_directory() {
    let stage = Stage::new();
    stage
        .create("echo here")
        .args(["-l", "relative:with-colon"])
        .without("relative:with-colon")
        .args([":relative:log"])
        .run();
    assert_eq!(
        records(&fs::read(stage.path("relative:log")).unwrap()),
        ["stdout F here"]
    );
}

#[test]
fn the_time_of_a_record_is_that_of_the_zone() {
    let stage = Stage::new();
    stage.create("echo x").env("TZ", "XYZ3:30").run();
    let log = stage.read("log");
    let (time, _) = log.split_once(' ').unwrap();
    assert!(time.len() == 35 && time.ends_with("-03:30"), "{time}");
}

#[test]
fn a_colon_in_the_path_of_a_log_is_a_part_of_it() {
    let stage = Stage::new();
    let launch = stage
        .create("echo x")
        .without("-l")
        .without(stage.path("log").to_str().unwrap());
    assert_eq!(
        launch
            .args(["-l", &format!("k8s-file:{}", stage.path("a:b").display())])
            .run(),
        0
    );
    assert_eq!(records(&fs::read(stage.path("a:b")).unwrap()), ["stdout F x"]);
}

/// What the monitor did with its log and its exit file, in order.
fn traced(stage: &Stage, launch: crate::harness::Launch<'_>) -> Vec<String> {
    let launch = launch.wrapped_in(&[
        "sh",
        "-c",
        "exec strace -qq -o $CONMON_TEST_STAGE/trace -e trace=fsync,fdatasync,rename,renameat,renameat2 \"$0\" \"$@\"",
    ]);
    assert_eq!(launch.run(), 0);
    let trace = stage.read("trace");
    let calls = trace
        .lines()
        .filter(|line| line.contains("sync(") || line.contains("exits") || line.contains("log.tmp"));
    let names = calls.map(|line| {
        if line.contains("sync(") {
            "sync"
        } else if line.contains("exits") {
            "exit"
        } else {
            "rotate"
        }
    });
    names.map(str::to_owned).collect()
}

#[test]
fn a_log_is_synced_once_when_the_exit_is_known_and_never_while_it_is_rotated() {
    let stage = Stage::new();
    let launch = stage.create("echo one; echo two").args(["--log-size-max", "60"]);
    assert_eq!(traced(&stage, launch), ["rotate", "exit", "sync"]);
    let stage = Stage::new();
    assert_eq!(
        traced(&stage, stage.create("echo one").args(["--no-sync-log"])),
        ["exit"]
    );
}
