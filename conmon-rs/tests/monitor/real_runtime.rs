use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::harness::{ID, Stage};

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

struct Container<'a> {
    runtime: &'a Path,
    root: std::path::PathBuf,
    id: String,
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let mut command = Command::new(self.runtime);
        let _ = command
            .arg("--root")
            .arg(&self.root)
            .args(["delete", "--force", &self.id])
            .output();
    }
}

fn runs_a_container(runtime: &str, terminal: bool) {
    let Some(runtime) = ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/usr/local/sbin"]
        .into_iter()
        .map(|directory| Path::new(directory).join(runtime))
        .find(|path| path.exists())
    else {
        eprintln!("SKIPPED: no {runtime} here");
        return;
    };
    let stage = Stage::new();
    let root = stage.path("root");
    fs::write(
        stage.path("bundle/config.json"),
        config("echo hello; exit 21", terminal),
    )
    .unwrap();
    for name in ["usr", "proc", "dev"] {
        fs::create_dir_all(stage.path("bundle/rootfs").join(name)).unwrap();
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(Path::new("usr").join(name), stage.path("bundle/rootfs").join(name)).unwrap();
    }
    let id = format!("{ID}-{}-{terminal}", std::process::id());
    let launch = stage.create("").args(["-r".as_ref(), runtime.as_os_str()]);
    let launch = launch.args(["-c", &id, "--runtime-arg", &format!("--root={}", root.display())]);
    let launch = if terminal { launch.args(["-t"]) } else { launch };
    let container = Container {
        runtime: &runtime,
        root: root.clone(),
        id,
    };
    let mut monitor = launch.start();
    let message = monitor.sync_message().unwrap();
    if message.contains("hybrid mode not supported") {
        eprintln!("SKIPPED: {} does not know this host's cgroups", runtime.display());
        return;
    }
    assert!(
        message.starts_with("{\"pid\": ") && !message.contains("-1"),
        "{message}"
    );
    let started = Command::new(&runtime)
        .arg("--root")
        .arg(&root)
        .args(["start", &container.id])
        .status()
        .unwrap();
    assert!(started.success());
    assert_eq!(monitor.wait(), 21);
    assert_eq!(
        stage.log(),
        [if terminal { "stdout F hello\r" } else { "stdout F hello" }]
    );
    assert_eq!(stage.read(&format!("exits/{}", container.id)), "21");
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
