//! `cgroup_manager = "systemd"`, where systemd is: scopes for containers and monitors, in the slice of their pod.

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use cri::v1::{
    CgroupDriver, ContainerStatsRequest, LinuxContainerResources, NamespaceMode, RuntimeConfigRequest,
    UpdateContainerResourcesRequest,
};
use e2e::service_host::{SLICE, SLICE_CGROUP, SYSTEMD, container_scope, monitor_scope};
use e2e::{ServiceHost, eventually, http, refused, service_host, sh};
use tonic::Code;

const METRICS: &str = "/run/crio/metrics.sock";

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_lives_and_dies_in_its_slice() {
    let host = service_host!(SYSTEMD);
    lives_and_dies_in_its_slice(host).await;
}

/// crun of Debian 12 has no place for a scope beside both versions.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_crun_lives_and_dies_in_its_slice() {
    let mut host = service_host!(SYSTEMD);
    if !host.host.inside("/sys/fs/cgroup/cgroup.controllers").exists() {
        eprintln!("SKIPPED: crun of Debian 12 refuses cgroups of both versions");
        return host.finish().await.unwrap();
    }
    host.configure("20-crun.conf", "[crio.runtime]\ndefault_runtime = \"crun\"\n")
        .unwrap();
    host.restart().await.unwrap();
    lives_and_dies_in_its_slice(host).await;
}

async fn lives_and_dies_in_its_slice(host: ServiceHost) {
    let mut runtime = host.client.runtime.clone();
    let linux = runtime
        .runtime_config(RuntimeConfigRequest {})
        .await
        .unwrap()
        .into_inner()
        .linux
        .unwrap();
    assert_eq!(linux.cgroup_driver(), CgroupDriver::Systemd);

    let pod = host.running_pod(SLICE).await.unwrap();
    let mut config = sh("c", &pod.image, "trap 'exit 3' TERM; while :; do sleep 0.05; done");
    if let Some(linux) = &mut config.linux {
        linux.resources = Some(LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            ..Default::default()
        });
    }
    let id = pod.run(&config).await.unwrap();

    let (container, monitor) = (container_scope(&id), monitor_scope(&id));
    for unit in [&container, &monitor] {
        assert_eq!(host.property(unit, "ActiveState").unwrap(), "active");
        assert_eq!(host.property(unit, "Slice").unwrap(), SLICE);
        assert_eq!(
            host.property(unit, "ControlGroup").unwrap(),
            format!("{SLICE_CGROUP}/{unit}")
        );
    }
    assert_eq!(host.property(&monitor, "KillSignal").unwrap(), "13");
    assert_eq!(host.property(&monitor, "CollectMode").unwrap(), "inactive-or-failed");
    assert_eq!(host.property(&monitor, "Delegate").unwrap(), "yes");
    assert_eq!(host.property(&monitor, "DefaultDependencies").unwrap(), "no");
    assert_eq!(host.property(&monitor, "Description").unwrap(), "a container's monitor");
    let monitors = host.host.run("pgrep", &["-x", "conmon-rs"]).unwrap();
    assert_eq!(
        host.processes_in(&format!("{SLICE_CGROUP}/{monitor}")).unwrap(),
        [monitors.trim()],
        "the monitor alone, and nobody who held its place"
    );
    assert_eq!(host.host.run("sh", &["-c", "pgrep -x crio-pause || :"]).unwrap(), "");

    let answer = host.client.output(&id, &["echo", "inside"]).await.unwrap();
    assert_eq!(answer, "inside\n");
    let stats = runtime.container_stats(ContainerStatsRequest {
        container_id: id.clone(),
    });
    let stats = stats.await.unwrap().into_inner().stats.unwrap();
    assert!(stats.memory.unwrap().working_set_bytes.unwrap().value > 0);

    let quota = |host: &ServiceHost| host.property(&container, "CPUQuotaPerSecUSec").unwrap();
    assert_eq!(quota(&host), "500ms");
    let lifted = runtime.update_container_resources(UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(LinuxContainerResources {
            cpu_quota: -1,
            cpu_period: 100_000,
            ..Default::default()
        }),
        ..Default::default()
    });
    lifted.await.unwrap();
    assert_eq!(quota(&host), "infinity");

    host.client.stop(&id, 10).await.unwrap();
    assert_eq!(host.client.status(&id).await.unwrap().exit_code, 3);
    pod.remove().await.unwrap();
    host.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_is_no_slice_is_refused() {
    let host = service_host!(SYSTEMD);
    for (parent, reason) in [
        ("/kubepods/pod1", "it takes a slice"),
        ("-.slice", "root slice"),
        ("a--b.slice", "a dash stands"),
        ("../a.slice", "not where systemd has it"),
    ] {
        let config = host.pod(parent, NamespaceMode::Pod);
        let error = host.client.run_pod(&config).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().contains(reason), "{error}");
    }
    assert_eq!(host.client.pods(None).await.unwrap(), []);
    host.finish().await.unwrap();
}

/// The pod of each has a process, so each takes two scopes.
/// Systemd takes the request, and its job fails: what it says is told, and nothing is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_slice_that_cannot_start_is_named_and_costs_one_creation() {
    let host = service_host!(SYSTEMD);
    let unit = host.host.inside("/etc/systemd/system/refused.slice");
    fs::write(&unit, "[Unit]\nAssertPathExists=/not/there\n").unwrap();
    host.host.run("systemctl", &["daemon-reload"]).unwrap();
    let pod = host.running_pod("refused.slice").await.unwrap();
    let config = sh("c", &pod.image, "sleep 1000");
    let refusal = host.client.create(&pod.id, &config, &pod.config).await.unwrap_err();
    let message = refusal.message();
    for part in ["systemd: start crio-conmon-", "its job ended as \"dependency\""] {
        assert!(message.contains(part), "no {part:?}: {message}");
    }
    eventually("no scope is left", || Ok(host.scopes()?.is_empty()))
        .await
        .unwrap();
    assert_eq!(host.client.containers(None).await.unwrap(), []);

    fs::remove_file(unit).unwrap();
    host.host.run("systemctl", &["daemon-reload"]).unwrap();
    let id = pod.run(&config).await.unwrap();
    assert_eq!(host.property(&monitor_scope(&id), "Slice").unwrap(), "refused.slice");
    host.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_come_and_go_at_once() {
    let host = service_host!(SYSTEMD);
    let pods: Vec<_> = (0..10)
        .map(|number| host.pod(&format!("kubepods-pod{number}.slice"), NamespaceMode::Pod))
        .collect();
    let made = futures::future::try_join_all(pods.iter().map(|pod| host.client.run_pod(pod)));
    let ids = made.await.unwrap();
    assert_eq!(host.scopes().unwrap().len(), 20);
    let gone = ids.iter().map(async |id| {
        host.client.stop_pod(id).await?;
        host.client.remove_pod(id).await
    });
    futures::future::try_join_all(gone).await.unwrap();
    eventually("all scopes are gone", || Ok(host.scopes()?.is_empty()))
        .await
        .unwrap();
    host.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_comes_and_goes_and_scopes_stay() {
    let mut host = service_host!(SYSTEMD);
    let pod = host.running_pod(SLICE).await.unwrap();
    let id = pod.sh("lasting", "while :; do sleep 0.05; done").await.unwrap();
    let started = host.client.status(&id).await.unwrap().started_at;
    let both = [monitor_scope(&id), container_scope(&id)];
    let inside = |host: &ServiceHost| {
        both.iter()
            .map(|unit| host.processes_in(&format!("{SLICE_CGROUP}/{unit}")).unwrap())
            .collect::<Vec<_>>()
    };
    let monitor = inside(&host).swap_remove(0);

    for round in 0..4 {
        // Each time a creation is under way, at another moment.
        let (client, config, image) = (host.client.clone(), pod.config.clone(), pod.image.clone());
        let pod_id = pod.id.clone();
        let creating = tokio::spawn(async move {
            let config_of = sh(&format!("cut-{round}"), &image, "sleep 1000");
            client.create(&pod_id, &config_of, &config).await
        });
        let moment = format!("moment {round}");
        let begun = eventually(&moment, || {
            Ok(match round {
                0 => true,
                1 => !host.host.run("sh", &["-c", "pgrep -x crio-pause || :"])?.is_empty(),
                2 => host.scopes()?.len() > 2,
                _ => host.scopes()?.len() > 3,
            } || creating.is_finished())
        });
        begun.await.unwrap();
        if round % 2 == 0 {
            host.kill9().await.unwrap();
        } else {
            host.restart().await.unwrap();
        }
        let _ = creating.await; // refused, cut off, or done
        let status = host.client.status(&id).await.unwrap();
        assert_eq!(status.started_at, started);
        assert_eq!(inside(&host)[0], monitor, "the same monitor");
        // What was done stands, what was cut off is undone.
        eventually("each scope has a container", || Ok(host.scopes()?.len() % 2 == 0))
            .await
            .unwrap();
    }
    assert_eq!(host.client.output(&id, &["echo", "alive"]).await.unwrap(), "alive\n");
    host.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_is_gone_is_named_and_found_again() {
    let host = service_host!(SYSTEMD);
    let pod = host.running_pod(SLICE).await.unwrap();
    let id = pod.sh("before", "while :; do sleep 0.05; done").await.unwrap();

    host.host
        .run("systemctl", &["stop", "dbus.socket", "dbus.service"])
        .unwrap();
    let error = pod.sh("during", "sleep 1000").await.unwrap_err();
    assert!(format!("{error:#}").contains("D-Bus"), "{error:#}");
    let with_process = host.pod(SLICE, NamespaceMode::Pod);
    assert_eq!(refused(host.client.run_pod(&with_process).await), Code::Unavailable);
    // What runs goes on, and can be seen and used.
    assert_eq!(host.client.output(&id, &["echo", "alive"]).await.unwrap(), "alive\n");
    assert_eq!(host.client.containers(None).await.unwrap().len(), 1);

    host.host.run("systemctl", &["start", "dbus.socket"]).unwrap();
    let after = pod.sh("after", "sleep 1000").await.unwrap();
    assert_eq!(host.property(&monitor_scope(&after), "ActiveState").unwrap(), "active");
    host.client.run_pod(&with_process).await.unwrap();
    host.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_hangs_costs_a_bounded_wait() {
    let host = service_host!(SYSTEMD);
    let pod = host.running_pod(SLICE).await.unwrap();
    let first = pod.sh("first", "sleep 1000").await.unwrap();
    let bus = host.property("dbus.service", "MainPID").unwrap();
    host.host.run("kill", &["-STOP", &bus]).unwrap();
    let asked = Instant::now();
    let error = pod.sh("hanging", "sleep 1000").await.unwrap_err();
    assert!(asked.elapsed() < Duration::from_secs(60), "{:?}", asked.elapsed());
    assert!(format!("{error:#}").contains("D-Bus"), "{error:#}");
    let looked = Instant::now();
    host.client.status(&first).await.unwrap();
    assert!(looked.elapsed() < Duration::from_secs(20));

    host.host.run("kill", &["-CONT", &bus]).unwrap();
    let after = pod.sh("hanging", "sleep 1000").await.unwrap();
    // What was asked for too late is not kept.
    let known = [&first, &after]
        .map(|id| [container_scope(id), monitor_scope(id)])
        .concat();
    eventually("only what runs has scopes", || {
        Ok(host.scopes()?.iter().all(|scope| known.contains(scope)))
    })
    .await
    .unwrap();
    host.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn monitors_may_have_a_slice_of_their_own() {
    let handler = "[crio.runtime.runtimes.runc]\nmonitor_cgroup = \"crio-monitors.slice\"\n";
    let host = service_host!(&format!("{SYSTEMD}{handler}"));
    let pod = host.running_pod(SLICE).await.unwrap();
    let id = pod.sh("c", "while :; do sleep 0.05; done").await.unwrap();
    let (container, monitor) = (container_scope(&id), monitor_scope(&id));
    assert_eq!(host.property(&container, "Slice").unwrap(), SLICE);
    assert_eq!(
        host.property(&monitor, "ControlGroup").unwrap(),
        format!("/crio.slice/crio-monitors.slice/{monitor}")
    );
    host.finish().await.unwrap();
}

/// How often the daemon has asked systemd for something, by its own count.
fn calls_of_systemd(host: &ServiceHost) -> u64 {
    let connection = UnixStream::connect(host.host.inside(METRICS)).unwrap();
    let shown = http::get(connection, "/metrics").unwrap().body;
    let counts = shown
        .lines()
        .filter(|line| line.starts_with("crio_manager_systemd_calls_total{"));
    counts
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn monitors_may_share_a_delegated_scope() {
    let handler = "[crio.runtime.runtimes.runc]\nmonitor_cgroup = \"delegated\"\n";
    let metrics = format!("[crio.metrics]\nenable_metrics = true\nmetrics_socket = \"{METRICS}\"\n");
    let mut host = service_host!(&format!("{SYSTEMD}{handler}{metrics}"));
    let pod = host.running_pod(SLICE).await.unwrap();
    let leaf = |id: &str| format!("/crio.slice/crio-monitors.scope/crio-conmon-{id}");
    let first = pod.sh("first", "while :; do sleep 0.05; done").await.unwrap();
    let monitor = host.processes_in(&leaf(&first)).unwrap();
    assert_eq!(monitor.len(), 1);
    assert_eq!(
        host.scopes().unwrap(),
        [container_scope(&first), "crio-monitors.scope".to_owned()]
    );
    host.kill9().await.unwrap();
    let second = host
        .client
        .run(&pod.id, &sh("second", &pod.image, "sleep 1000"), &pod.config)
        .await
        .unwrap();
    assert_eq!(host.processes_in(&leaf(&first)).unwrap(), monitor, "not disturbed");
    assert_eq!(host.processes_in(&leaf(&second)).unwrap().len(), 1);
    let asked = calls_of_systemd(&host);
    assert!(asked > 0, "for the scope");
    for name in ["third", "fourth"] {
        let id = host
            .client
            .run(&pod.id, &sh(name, &pod.image, "sleep 1000"), &pod.config)
            .await
            .unwrap();
        assert_eq!(host.processes_in(&leaf(&id)).unwrap().len(), 1);
        host.client.remove(&id).await.unwrap();
    }
    assert_eq!(calls_of_systemd(&host), asked, "none for a container");
    assert_eq!(host.property("crio-monitors.scope", "ActiveState").unwrap(), "active");

    host.client.remove_everything().await.unwrap();
    assert_eq!(host.processes_in(&leaf(&first)).unwrap(), [""; 0]);
    // The scope goes when the daemon does.
    host.host.run("systemctl", &["stop", "crio-manager.service"]).unwrap();
    eventually("no scope is left", || Ok(host.scopes()?.is_empty()))
        .await
        .unwrap();
    host.host.stop().unwrap();
}
