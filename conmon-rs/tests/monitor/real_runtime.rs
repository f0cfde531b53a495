use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{ID, Running, Stage};

/// A container that has nothing but the host's programs, read-only.
fn config(arguments: &str, terminal: bool) -> String {
    format!(
        r#"{{"ociVersion":"1.0.2","process":{{"terminal":{terminal},"user":{{"uid":0,"gid":0}},"args":["sh","-c","{arguments}"],
        "env":["PATH=/usr/bin:/bin"],"cwd":"/","noNewPrivileges":true}},"root":{{"path":"rootfs"}},"hostname":"t",
        "mounts":[{{"destination":"/proc","type":"proc","source":"proc"}},
        {{"destination":"/dev","type":"tmpfs","source":"tmpfs"}},
        {{"destination":"/dev/pts","type":"devpts","source":"devpts","options":["newinstance","ptmxmode=0666"]}},
        {{"destination":"/usr","type":"bind","source":"/usr","options":["rbind","ro"]}}],
        "linux":{{"namespaces":[{{"type":"pid"}},{{"type":"mount"}},{{"type":"ipc"}},{{"type":"uts"}}]}}}}"#
    )
}

struct Container {
    runtime: PathBuf,
    root: PathBuf,
    id: String,
}

impl Container {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.runtime);
        command.arg("--root").arg(&self.root).args(arguments);
        command
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.command(&["delete", "--force", &self.id]).output(); // it may be gone
    }
}

/// A container of a real runtime, created by a monitor; `None` and a word about it where that is impossible.
struct Created<'a> {
    monitor: Running<'a>,
    container: Container,
}

fn create<'a>(stage: &'a Stage, runtime: &str, script: &str, terminal: bool) -> Option<Created<'a>> {
    let directories = ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/usr/local/sbin"];
    let found = directories
        .into_iter()
        .map(|directory| Path::new(directory).join(runtime))
        .find(|path| path.exists());
    let Some(runtime) = found else {
        eprintln!("SKIPPED: no {runtime} here");
        return None;
    };
    let root = stage.path("root");
    fs::write(stage.path("bundle/config.json"), config(script, terminal)).unwrap();
    for name in ["usr", "proc", "dev"] {
        fs::create_dir_all(stage.path("bundle/rootfs").join(name)).unwrap();
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(Path::new("usr").join(name), stage.path("bundle/rootfs").join(name)).unwrap();
    }
    // Its cgroup is named after it, wherever the runtime's root is.
    let id = format!("{ID}-{}", stage.path("").file_name().unwrap().display());
    let launch = stage.create("").args(["-r".as_ref(), runtime.as_os_str()]);
    let launch = launch.args(["-c", &id, "--runtime-arg", &format!("--root={}", root.display())]);
    let launch = if terminal { launch.args(["-t"]) } else { launch };
    let container = Container { runtime, root, id };
    let monitor = launch.start();
    let message = monitor.sync_message().unwrap();
    if message.contains("hybrid mode not supported") {
        eprintln!(
            "SKIPPED: {} does not know this host's cgroups",
            container.runtime.display()
        );
        return None;
    }
    assert!(
        message.starts_with("{\"pid\": ") && !message.contains("-1"),
        "{message}"
    );
    assert!(container.command(&["start", &container.id]).status().unwrap().success());
    Some(Created { monitor, container })
}

fn runs_a_container(runtime: &str, terminal: bool) {
    let stage = Stage::new();
    let Some(mut created) = create(&stage, runtime, "echo hello; exit 21", terminal) else {
        return;
    };
    assert_eq!(created.monitor.wait(), 21);
    assert_eq!(
        stage.log(),
        [if terminal { "stdout F hello\r" } else { "stdout F hello" }]
    );
    assert_eq!(stage.read(&format!("exits/{}", created.container.id)), "21");
}

/// An exec of runc's times out: nothing of it is left, and all of the container. `prepare` may put another runtime in place of
/// runc.
fn times_out_in_a_container_of_runc(prepare: impl FnOnce(&Stage)) -> Vec<String> {
    let stage = Stage::new();
    let Some(created) = create(&stage, "runc", "exec sleep 1000", false) else {
        return Vec::new();
    };
    let container = &created.container;
    let output_of = |command: &str| container.command(&[command, &container.id]).output().unwrap().stdout;
    let processes = || String::from_utf8(output_of("ps")).unwrap().lines().count() - 1;
    assert_eq!(processes(), 1);
    let exec = Stage::new();
    let command = "sleep 999 & setsid sleep 998 & (setsid sh -c 'sleep 997 >/dev/null 2>&1 &' &); echo up; sleep 996";
    let process = format!(
        r#"{{"user":{{"uid":0,"gid":0}},"args":["sh","-c","{command}"],"env":["PATH=/usr/bin","{}"],"cwd":"/"}}"#,
        exec.marker()
    );
    let root = format!("--root={}", container.root.display());
    let launch = exec
        .exec("")
        .args(["-T", "1", "-c", &container.id, "--runtime-arg", &root]);
    fs::write(exec.path("process.json"), process).unwrap();
    fs::remove_file(exec.path("runtime")).unwrap();
    symlink(&container.runtime, exec.path("runtime")).unwrap();
    prepare(&exec);
    let mut monitor = launch.start();
    let message = monitor.sync_message();
    assert_eq!(
        message.as_deref(),
        Some("{\"exit_code\": -1, \"message\": \"command timed out\"}")
    );
    assert_eq!(monitor.wait(), 255);
    assert_eq!(exec.processes(), [0; 0]);
    assert_eq!(processes(), 1);
    assert!(String::from_utf8_lossy(&output_of("state")).contains("\"running\""));
    exec.log()
}

fn run_instead(stage: &Stage, script: &str) {
    fs::rename(stage.path("runtime"), stage.path("real-runtime")).unwrap();
    let script = format!(
        "#!/bin/sh\nruntime={}\n{script}\n",
        stage.path("real-runtime").display()
    );
    fs::write(stage.path("runtime"), script).unwrap();
    fs::set_permissions(stage.path("runtime"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_time_out_in_a_container_of_runc_leaves_nothing_of_the_exec_and_all_of_the_container() {
    times_out_in_a_container_of_runc(|_| {});
}

#[test]
fn a_runc_that_hangs_before_it_has_started_anything_is_ended() {
    let log = times_out_in_a_container_of_runc(|exec| {
        // Nobody writes what it wants to read.
        fs::remove_file(exec.path("process.json")).unwrap();
        let made = Command::new("mkfifo").arg(exec.path("process.json")).status();
        assert!(made.unwrap().success());
    });
    assert_eq!(log, [""; 0]);
}

#[test]
fn a_runc_that_hangs_on_its_way_into_the_container_is_ended() {
    times_out_in_a_container_of_runc(|exec| {
        let script = "\"$runtime\" \"$@\" & until pkill -STOP -P $!; do :; done; wait";
        run_instead(exec, script);
    });
}

#[test]
fn a_runc_that_hangs_is_ended_with_what_it_has_started_in_the_container() {
    times_out_in_a_container_of_runc(|exec| run_instead(exec, "\"$runtime\" \"$@\"; sleep 1000"));
}

#[test]
fn a_container_of_runc_is_run_to_its_end() {
    runs_a_container("runc", false);
}

#[test]
fn a_container_of_runc_gets_a_terminal() {
    runs_a_container("runc", true);
}

#[test]
fn a_container_of_crun_is_run_to_its_end() {
    runs_a_container("crun", false);
}
