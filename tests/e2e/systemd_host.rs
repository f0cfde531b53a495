//! The host of systemd's own, and the daemon as the service that it is there.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

use cri::v1::{LinuxPodSandboxConfig, NamespaceMode, PodSandboxConfig, PodSandboxMetadata, PodSandboxState};
use e2e::client::pod_security;
use e2e::{Client, SystemdHost, eventually};

const UNIT: &str = "crio-manager.service";

/// With the programs under test where their package puts them.
fn host() -> Option<SystemdHost> {
    SystemdHost::start(&[(&e2e::node::programs(), "/usr/local/bin")]).unwrap()
}

#[test]
fn systemd_is_up_and_goes_in_order() {
    let Some(host) = host() else { return };
    let state = host.run("systemctl", &["is-system-running"]).unwrap_or_else(|error| {
        panic!(
            "{error:#}\n{}",
            host.run("systemctl", &["--failed", "--no-legend"]).unwrap()
        )
    });
    assert_eq!(state.trim(), "running");
    assert_eq!(
        fs::read_to_string(host.inside("/proc/1/comm")).unwrap().trim(),
        "systemd"
    );
    let cgroups = host.cgroups().to_vec();
    assert!(cgroups.iter().all(|cgroup| cgroup.is_dir()));
    host.stop().unwrap();
    assert!(!cgroups.iter().any(|cgroup| cgroup.exists()), "{cgroups:?}");
}

/// What the placement of monitors and containers is built on.
#[test]
fn a_scope_is_placed_and_limited_by_systemd() {
    let Some(host) = host() else { return };
    let options = [
        "--scope",
        "--unit=one.scope",
        "--slice=kubepods-pod1.slice",
        "-p",
        "MemoryMax=64M",
    ];
    let show = ["cat", "/proc/self/cgroup"];
    let cgroup = host.run("systemd-run", &[&options[..], &show[..]].concat()).unwrap();
    assert!(
        cgroup
            .lines()
            .any(|line| line.ends_with(":name=systemd:/kubepods.slice/kubepods-pod1.slice/one.scope"))
            || cgroup.contains("0::/kubepods.slice/kubepods-pod1.slice/one.scope"),
        "{cgroup}"
    );
    host.stop().unwrap();
}

/// As an administrator has it: the unit that is delivered, started, killed, brought back by systemd, stopped. The pod has a
/// process of its own (it shares its process namespace), so a runtime and a monitor are at work.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_survives_the_service() {
    let Some(host) = host() else { return };
    let unit = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../contrib/systemd")
        .join(UNIT);
    fs::copy(unit, host.inside("/etc/systemd/system").join(UNIT)).unwrap();
    // crun 1.8 refuses version 1 with a version 2 mount beside it.
    let drop_in = host.inside("/etc/crio/crio.conf.d");
    fs::create_dir_all(&drop_in).unwrap();
    fs::write(
        drop_in.join("10-runtime.conf"),
        "[crio.runtime]\ndefault_runtime = \"runc\"\n",
    )
    .unwrap();
    host.run("systemctl", &["daemon-reload"]).unwrap();
    host.run("systemctl", &["start", UNIT]).unwrap();
    let client = connected(&host).await;
    let id = client.run_pod_with("", &pod_with_a_process()).await.unwrap();
    let pause = processes(&host, "pause");
    assert_eq!(pause.len(), 1, "{pause:?}");
    let monitors = processes(&host, "conmon-rs");
    assert_eq!(monitors.len(), 1, "{monitors:?}");

    let first = main_pid(&host);
    host.run("kill", &["-KILL", &first]).unwrap();
    eventually("another daemon runs", || {
        Ok(!["0", &first].contains(&main_pid(&host).as_str()))
    })
    .await
    .unwrap();
    let client = connected(&host).await;
    assert_eq!(
        client.pod_status(&id).await.unwrap().state(),
        PodSandboxState::SandboxReady
    );

    host.run("systemctl", &["restart", UNIT]).unwrap();
    let client = connected(&host).await;
    assert_eq!(
        client.pod_status(&id).await.unwrap().state(),
        PodSandboxState::SandboxReady
    );
    assert_eq!(
        (processes(&host, "pause"), processes(&host, "conmon-rs")),
        (pause, monitors)
    );

    client.stop_pod(&id).await.unwrap();
    client.remove_pod(&id).await.unwrap();
    assert_eq!(processes(&host, "pause"), [""; 0]);
    host.run("systemctl", &["stop", UNIT]).unwrap();
    assert_eq!(host.run("systemctl", &["is-system-running"]).unwrap().trim(), "running");
    host.stop().unwrap();
}

fn pod_with_a_process() -> PodSandboxConfig {
    let mut security = pod_security(NamespaceMode::Node);
    if let Some(namespaces) = &mut security.namespace_options {
        namespaces.pid = NamespaceMode::Pod.into();
    }
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "lasting".to_owned(),
            uid: "uid-lasting".to_owned(),
            namespace: "e2e".to_owned(),
            attempt: 0,
        }),
        log_directory: "/var/log/pods/lasting".to_owned(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: "/kubepods/pod1".to_owned(),
            security_context: Some(security),
            ..Default::default()
        }),
        ..Default::default()
    }
}

async fn connected(host: &SystemdHost) -> Client {
    let socket = host.inside("/run/crio/crio.sock");
    let answers = eventually("the daemon takes calls", || Ok(UnixStream::connect(&socket).is_ok())).await;
    answers.unwrap_or_else(|error| panic!("{error}: {}", journal(host)));
    Client::connect(&socket).await.unwrap()
}

fn journal(host: &SystemdHost) -> String {
    host.run("journalctl", &["--no-pager", "-u", UNIT]).unwrap()
}

fn main_pid(host: &SystemdHost) -> String {
    let answer = host.run("systemctl", &["show", "--property=MainPID", "--value", UNIT]);
    answer.unwrap().trim().to_owned()
}

/// The numbers of the processes of a program.
fn processes(host: &SystemdHost, program: &str) -> Vec<String> {
    let answer = host
        .run("sh", &["-c", "pgrep -x \"$1\" || [ $? = 1 ]", "sh", program])
        .unwrap();
    answer.lines().map(str::to_owned).collect()
}
