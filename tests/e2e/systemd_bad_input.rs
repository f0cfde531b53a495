//! What systemd, its bus and the kernel refuse: said clearly, nothing is left, and the next attempt goes well.

use std::fs;

use anyhow::{Context as _, ensure};
use cri::v1::{LinuxContainerResources, UpdateContainerResourcesRequest};
use e2e::service_host::{SLICE, SLICE_CGROUP, SYSTEMD, container_scope, monitor_scope};
use e2e::{Client, RunningPod, ServiceHost, eventually, service_host, sh};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

const DELEGATED: &str = "[crio.runtime.runtimes.runc]\nmonitor_cgroup = \"delegated\"\n";
const DELEGATED_SCOPE: &str = "crio-monitors.scope";

/// Where the bus looks for what a package, or an administrator, adds to its configuration.
const BUS_CONFIGURATION: &str = "/etc/dbus-1/system.d/zz-test.conf";

/// No new unit for anybody.
const DENIED: &str = "<policy context=\"mandatory\"><deny send_destination=\"org.freedesktop.systemd1\" \
    send_interface=\"org.freedesktop.systemd1.Manager\" send_member=\"StartTransientUnit\"/></policy>";
/// No call of anybody's that is to be answered.
const LIMITED: &str = "<limit name=\"max_replies_per_connection\">0</limit>";

/// Has the bus follow more rules than it has; `None` takes them away again.
fn configure_bus(host: &ServiceHost, rules: Option<&str>) {
    let file = host.host.inside(BUS_CONFIGURATION);
    match rules {
        Some(rules) => fs::write(file, format!("<busconfig>{rules}</busconfig>")),
        None => fs::remove_file(file),
    }
    .unwrap();
    host.host.run("systemctl", &["reload", "dbus"]).unwrap();
}

/// The cgroups, of whichever hierarchy, that a container or a monitor would be in.
fn cgroups(host: &ServiceHost) -> anyhow::Result<Vec<String>> {
    let script = "find /sys/fs/cgroup -type d -name 'crio-*.scope' -o -type d -name 'crio-conmon-*'";
    let found = host.host.run("sh", &["-c", script])?;
    Ok(found.lines().map(str::to_owned).collect())
}

/// No scope, no cgroup, no container, no process of a monitor more than these.
async fn nothing_but(host: &ServiceHost, ids: &[&str]) -> anyhow::Result<()> {
    let known = |name: &str| name.contains(DELEGATED_SCOPE) || ids.iter().any(|id| name.contains(id));
    eventually("only what runs has a scope and cgroups", || {
        Ok(host.scopes()?.iter().all(|scope| known(scope)) && cgroups(host)?.iter().all(|cgroup| known(cgroup)))
    })
    .await
    .with_context(|| format!("{:?} {:?}", host.scopes(), cgroups(host)))?;
    let containers = host.client.containers(None).await?;
    ensure!(containers.len() == ids.len(), "{containers:?}");
    let monitors = host.host.run("sh", &["-c", "pgrep -cx conmon-rs || :"])?;
    ensure!(monitors.trim() == ids.len().to_string(), "{monitors} monitors");
    Ok(())
}

/// A creation that is to fail; what is said.
async fn creation_fails(pod: &RunningPod, name: &str) -> Status {
    let config = sh(name, &pod.image, "sleep 1000");
    pod.client.create(&pod.id, &config, &pod.config).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_the_bus_answers_with_is_named_and_costs_one_creation() {
    let host = service_host!(SYSTEMD);
    let pod = host.running_pod(SLICE).await.unwrap();
    let before = pod.sh("before", "sleep 1000").await.unwrap();
    for (rules, name, code) in [
        (
            DENIED,
            "org.freedesktop.DBus.Error.AccessDenied",
            Code::PermissionDenied,
        ),
        (
            LIMITED,
            "org.freedesktop.DBus.Error.LimitsExceeded",
            Code::ResourceExhausted,
        ),
    ] {
        configure_bus(&host, Some(rules));
        let refusal = creation_fails(&pod, "during").await;
        configure_bus(&host, None);
        assert_eq!(refusal.code(), code, "{refusal}");
        let message = refusal.message();
        for part in ["systemd: start crio-conmon-", ".scope: ", name] {
            assert!(message.contains(part), "no {part:?}: {message}");
        }
        nothing_but(&host, &[&before]).await.unwrap();
        let after = pod.sh("during", "sleep 1000").await.unwrap();
        assert_eq!(host.property(&monitor_scope(&after), "ActiveState").unwrap(), "active");
        host.client.remove(&after).await.unwrap();
    }
    assert_eq!(
        host.client.output(&before, &["echo", "alive"]).await.unwrap(),
        "alive\n"
    );
    host.finish().await.unwrap();
}

/// Where monitors need no call of the bus, it is the runtime that is refused. Around the bus's own word each version of it
/// has others.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_the_runtime_gets_from_the_bus_is_in_its_words() {
    let host = service_host!(&format!("{SYSTEMD}{DELEGATED}"));
    let pod = host.running_pod(SLICE).await.unwrap();
    let before = pod.sh("before", "sleep 1000").await.unwrap();
    configure_bus(&host, Some(DENIED));
    let refusal = creation_fails(&pod, "during").await;
    configure_bus(&host, None);
    let message = refusal.message();
    assert!(
        message.contains("Rejected send message") || message.contains("AccessDenied"),
        "{refusal}"
    );
    assert!(!message.contains("crio-conmon-"), "no call for the monitor: {refusal}");
    nothing_but(&host, &[&before]).await.unwrap();
    pod.sh("during", "sleep 1000").await.unwrap();
    host.finish().await.unwrap();
}

/// Has the daemon connect to the bus: while that is stopped nobody can.
async fn connect_to_bus(pod: &RunningPod) {
    let id = pod.sh("first", "sleep 1000").await.unwrap();
    pod.client.remove(&id).await.unwrap();
}

/// A creation that waits for a bus that is stopped, and the container's id.
async fn held_up(host: &ServiceHost, pod: &RunningPod) -> (JoinHandle<Result<String, Status>>, String) {
    signal_bus(host, "STOP");
    let (client, pod_id, config): (Client, _, _) = (pod.client.clone(), pod.id.clone(), pod.config.clone());
    let container = sh("held-up", &pod.image, "sleep 1000");
    let creating = tokio::spawn(async move { client.create(&pod_id, &container, &config).await });
    let mut id = String::new();
    eventually("the holder of the monitor's scope is there", || {
        let records = fs::read_dir(host.host.inside("/var/lib/crio/records/containers"))?;
        let names = records.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let found = names.filter_map(|name| name.get(..64).map(str::to_owned)).next();
        id = found.unwrap_or_default();
        let holder = host.host.run("sh", &["-c", "pgrep -x crio-pause || :"])?;
        Ok(!id.is_empty() && !holder.is_empty())
    })
    .await
    .unwrap();
    (creating, id)
}

fn signal_bus(host: &ServiceHost, signal: &str) {
    let bus = host.property("dbus.service", "MainPID").unwrap();
    host.host.run("kill", &[&format!("-{signal}"), &bus]).unwrap();
}

/// Makes a scope around a shell, past the bus: root's `systemd-run` has a way of its own.
fn make_scope(host: &ServiceHost, unit: &str, slice: &str, options: &[&str], script: &str) {
    let run = "\"$@\" </dev/null >/dev/null 2>&1 &";
    let scope = ["systemd-run", "--scope", "--quiet", "--unit", unit, "--slice", slice];
    let arguments = [&["-c", run, "sh"], &scope[..], options, &["sh", "-c", script]].concat();
    host.host.run("sh", &arguments).unwrap();
}

async fn is(host: &ServiceHost, unit: &str, state: &str) {
    eventually(&format!("{unit} is {state}"), || {
        Ok(host.property(unit, "ActiveState")? == state)
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_of_the_monitors_name_makes_way_or_is_named() {
    let host = service_host!(SYSTEMD);
    let pod = host.running_pod(SLICE).await.unwrap();
    connect_to_bus(&pod).await;

    // Left failed by somebody: forgotten, and made anew.
    let (creating, id) = held_up(&host, &pod).await;
    let unit = monitor_scope(&id);
    make_scope(
        &host,
        &unit,
        "other.slice",
        &["-p", "RuntimeMaxSec=100ms"],
        "sleep 1000",
    );
    is(&host, &unit, "failed").await;
    signal_bus(&host, "CONT");
    assert_eq!(creating.await.unwrap().unwrap(), id);
    assert_eq!(host.property(&unit, "Slice").unwrap(), SLICE);
    host.client.start(&id).await.unwrap();
    host.client.remove(&id).await.unwrap();
    nothing_but(&host, &[]).await.unwrap();

    // With a process that goes when it is asked to.
    let (creating, id) = held_up(&host, &pod).await;
    let unit = monitor_scope(&id);
    make_scope(&host, &unit, "other.slice", &[], "sleep 1000");
    is(&host, &unit, "active").await;
    signal_bus(&host, "CONT");
    assert_eq!(creating.await.unwrap().unwrap(), id);
    host.client.start(&id).await.unwrap();
    host.client.remove(&id).await.unwrap();

    // With one that does not.
    let (creating, id) = held_up(&host, &pod).await;
    let unit = monitor_scope(&id);
    let stays = "trap '' TERM; while :; do sleep 0.05; done";
    make_scope(&host, &unit, "other.slice", &[], stays);
    is(&host, &unit, "active").await;
    signal_bus(&host, "CONT");
    let refusal = creating.await.unwrap().unwrap_err();
    let message = refusal.message();
    for part in [unit.as_str(), "there already", &format!("at /other.slice/{unit}")] {
        assert!(message.contains(part), "no {part:?}: {message}");
    }
    assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
    host.host.run("systemctl", &["kill", "-s", "KILL", &unit]).unwrap();
    eventually("it is gone", || {
        Ok(host.property(&unit, "ActiveState")? != "deactivating")
    })
    .await
    .unwrap();
    let _gone = host.host.run("systemctl", &["reset-failed", &unit]);
    nothing_but(&host, &[]).await.unwrap();
    let after = pod.sh("held-up", "sleep 1000").await.unwrap();
    nothing_but(&host, &[&after]).await.unwrap();
    host.finish().await.unwrap();
}

/// Before version 1.1.6 runc takes no notice of it and places the container by the file system.
#[tokio::test(flavor = "multi_thread")]
async fn a_scope_of_the_containers_name_is_named_or_costs_the_container_nothing() {
    let host = service_host!(SYSTEMD);
    let pod = host.running_pod(SLICE).await.unwrap();
    connect_to_bus(&pod).await;
    let (creating, id) = held_up(&host, &pod).await;
    let unit = container_scope(&id);
    make_scope(&host, &unit, "other.slice", &[], "sleep 1000");
    is(&host, &unit, "active").await;
    signal_bus(&host, "CONT");
    match creating.await.unwrap() {
        Ok(made) => {
            let process = host.client.pid(&made).await.unwrap().to_string();
            let procs = format!("sort -u /sys/fs/cgroup/*{SLICE_CGROUP}/{unit}/cgroup.procs");
            assert_eq!(host.host.run("sh", &["-c", &procs]).unwrap().trim(), process);
            host.client.remove(&made).await.unwrap();
        }
        Err(refusal) => {
            assert!(refusal.message().contains(&unit), "{refusal}");
            let _gone = host.host.run("systemctl", &["stop", &unit]);
        }
    }
    nothing_but(&host, &[]).await.unwrap();
    let after = pod.sh("held-up", "sleep 1000").await.unwrap();
    nothing_but(&host, &[&after]).await.unwrap();
    host.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegated_scope_elsewhere_is_named_and_left_alone() {
    let host = service_host!(&format!("{SYSTEMD}{DELEGATED}"));
    let pod = host.running_pod(SLICE).await.unwrap();
    make_scope(&host, DELEGATED_SCOPE, "other.slice", &[], "sleep 1000");
    is(&host, DELEGATED_SCOPE, "active").await;
    let refusal = creation_fails(&pod, "refused").await;
    let message = refusal.message();
    for part in [DELEGATED_SCOPE, "there already", "at /other.slice/crio-monitors.scope"] {
        assert!(message.contains(part), "no {part:?}: {message}");
    }
    is(&host, DELEGATED_SCOPE, "active").await;
    host.host.run("systemctl", &["stop", DELEGATED_SCOPE]).unwrap();

    // One that failed is in nobody's way.
    make_scope(
        &host,
        DELEGATED_SCOPE,
        "other.slice",
        &["-p", "RuntimeMaxSec=100ms"],
        "sleep 1000",
    );
    is(&host, DELEGATED_SCOPE, "failed").await;
    let id = pod.sh("made", "sleep 1000").await.unwrap();
    assert_eq!(host.property(DELEGATED_SCOPE, "Slice").unwrap(), "crio.slice");
    nothing_but(&host, &[&id]).await.unwrap();
    host.finish().await.unwrap();
}

/// Whether the host has cgroups of version 2 alone.
fn v2(host: &ServiceHost) -> bool {
    host.host.inside("/sys/fs/cgroup/cgroup.controllers").exists()
}

async fn update(client: &Client, id: &str, linux: LinuxContainerResources) -> Result<(), Status> {
    let request = UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    client
        .runtime
        .clone()
        .update_container_resources(request)
        .await
        .map(drop)
}

/// The kernel takes a memory limit above the pod's on both versions: the pod's is the one that holds.
#[tokio::test(flavor = "multi_thread")]
async fn memory_above_the_pods_ends_at_the_pods() {
    let host = service_host!(SYSTEMD);
    let pod = host.running_pod(SLICE).await.unwrap();
    let mut config = sh(
        "c",
        &pod.image,
        "while [ ! -e /go ]; do sleep 0.05; done; tail /dev/zero",
    );
    config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
        memory_limit_in_bytes: 256 << 20,
        ..Default::default()
    });
    let id = pod.run(&config).await.unwrap();
    let limits = ["set-property", "--runtime", SLICE, "MemoryMax=64M", "MemorySwapMax=0"];
    host.host.run("systemctl", &limits).unwrap();
    host.client.output(&id, &["touch", "/go"]).await.unwrap();
    let status = host
        .client
        .exited(&id, std::time::Duration::from_secs(60))
        .await
        .unwrap();
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (137, "OOMKilled"),
        "{status:?}"
    );
    host.client.remove(&id).await.unwrap();
    let after = pod.sh("after", "sleep 1000").await.unwrap();
    nothing_but(&host, &[&after]).await.unwrap();
    host.finish().await.unwrap();
}

/// Version 1 refuses them, with a word that says little; on version 2 the pod's are the ones that hold.
#[tokio::test(flavor = "multi_thread")]
async fn cpus_outside_the_pods_are_refused_with_the_pods_or_not_used() {
    let host = service_host!(SYSTEMD);
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return eprintln!("SKIPPED: one CPU is never outside another's");
    }
    let pod = host.running_pod(SLICE).await.unwrap();
    let before = pod.sh("before", "while :; do sleep 0.05; done").await.unwrap();
    host.host
        .run("systemctl", &["set-property", "--runtime", SLICE, "CPUQuota=50%"])
        .unwrap();
    if v2(&host) {
        host.host
            .run("systemctl", &["set-property", "--runtime", SLICE, "AllowedCPUs=0"])
            .unwrap();
    } else {
        let script = format!(
            "cd /sys/fs/cgroup/cpuset{SLICE_CGROUP} && for scope in crio-*; do echo 0 >$scope/cpuset.cpus; done && echo 0 >cpuset.cpus"
        );
        host.host.run("sh", &["-c", &script]).unwrap();
    }
    let cpuset = LinuxContainerResources {
        cpuset_cpus: "1".to_owned(),
        ..Default::default()
    };
    let quota = LinuxContainerResources {
        cpu_quota: 100_000,
        cpu_period: 100_000,
        ..Default::default()
    };
    let wanted = [
        ("cpuset", cpuset, ["cpuset_cpus \"1\"", "not within \"0\""]),
        ("quota", quota, ["cpu_quota of 1.00 CPUs", "above 0.50"]),
    ];
    for (name, resources, words) in wanted {
        let mut config = sh(name, &pod.image, "while :; do sleep 0.05; done");
        config.linux.get_or_insert_default().resources = Some(resources.clone());
        let created = pod.client.create(&pod.id, &config, &pod.config).await;
        let updated = update(&pod.client, &before, resources).await;
        if v2(&host) {
            let id = created.unwrap();
            updated.unwrap();
            let effective = format!(
                "/sys/fs/cgroup{SLICE_CGROUP}/{}/cpuset.cpus.effective",
                container_scope(&id)
            );
            assert_eq!(fs::read_to_string(host.host.inside(effective)).unwrap(), "0\n");
            host.client.remove(&id).await.unwrap();
        } else {
            for refusal in [created.map(drop), updated] {
                let refusal = refusal.unwrap_err();
                assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
                for part in words.iter().chain(&[SLICE_CGROUP]) {
                    assert!(refusal.message().contains(part), "no {part:?}: {refusal}");
                }
            }
        }
        nothing_but(&host, &[&before]).await.unwrap();
    }
    assert_eq!(
        host.client.output(&before, &["echo", "alive"]).await.unwrap(),
        "alive\n"
    );
    host.finish().await.unwrap();
}
