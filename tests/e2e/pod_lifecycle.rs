//! Pods: made, listed, stopped, removed; what their containers share.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{SystemTime, UNIX_EPOCH};

use cri::v1::*;
use e2e::client::labels;
use e2e::node::CgroupManager;
use e2e::{Node, container, refused, run_on, sh};
use tonic::Code;

run_on!(runc, crun:
    a_pod_is_ready_until_it_is_stopped_and_listed_until_it_is_removed,
    a_pod_that_needs_no_process_has_none,
    containers_share_the_process_namespace_when_the_pod_asks_for_it,
    removing_a_pod_takes_its_containers_along,
);
run_on!(runc:
    the_same_name_gives_the_same_pod,
    another_attempt_is_another_pod,
    pods_are_filtered_by_id_state_and_labels,
    containers_share_hostname_shm_and_resolv_conf,
    a_pod_is_placed_in_the_cgroup_that_its_client_asks_for,
    a_parent_in_the_other_drivers_syntax_is_refused,
    a_monitor_is_born_in_its_cgroup,
    sysctls_of_the_pod_are_set,
    the_node_says_who_it_is_and_that_it_is_ready,
);

async fn a_pod_is_ready_until_it_is_stopped_and_listed_until_it_is_removed(node: &mut Node) -> anyhow::Result<()> {
    let client = node.client.clone();
    let before = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
    let mut config = node.pod("first");
    config.labels = labels(&[("app", "web"), ("io.kubernetes.pod.name", "first")]);
    config.annotations = labels(&[("odd/key", "värde \n with a newline")]);
    let id = client.run_pod(&config).await?;
    assert_eq!(
        (id.len(), id.chars().all(|c| c.is_ascii_hexdigit())),
        (64, true),
        "{id}"
    );

    let status = client.pod_status(&id).await?;
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    assert_eq!(
        (&status.labels, &status.annotations),
        (&config.labels, &config.annotations)
    );
    assert_eq!(status.metadata, config.metadata);
    assert!(status.created_at >= before, "{} is before {before}", status.created_at);
    let listed = client.pods(None).await?;
    assert_eq!(listed.iter().map(|pod| &pod.id).collect::<Vec<_>>(), [&id]);
    assert_eq!(listed[0].created_at, status.created_at);

    for _ in 0..2 {
        client.stop_pod(&id).await?;
        assert_eq!(client.pod_status(&id).await?.state(), PodSandboxState::SandboxNotready);
    }
    for _ in 0..2 {
        client.remove_pod(&id).await?;
    }
    assert!(client.pods(None).await?.is_empty());
    assert_eq!(refused(client.pod_status(&id).await), Code::NotFound);
    Ok(())
}

async fn a_pod_that_needs_no_process_has_none(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.client.run_pod(&node.pod("quiet")).await?;
    assert_eq!(node.processes_with("conmon-rs"), [""; 0]);
    assert_eq!(node.processes_with("pause"), [""; 0]);
    Ok(node.client.remove_pod(&pod).await?)
}

async fn containers_share_the_process_namespace_when_the_pod_asks_for_it(node: &mut Node) -> anyhow::Result<()> {
    let mut config = node.pod("shared");
    let context = LinuxSandboxSecurityContext {
        namespace_options: Some(NamespaceOption {
            pid: NamespaceMode::Pod.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    config.linux.as_mut().unwrap().security_context = Some(context);
    let pod = node.running("", config).await?;
    let own = |mode: NamespaceMode| LinuxContainerConfig {
        security_context: Some(LinuxContainerSecurityContext {
            namespace_options: Some(NamespaceOption {
                pid: mode.into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut one = container("one", &pod.image, &["sleep", "7777"]);
    one.linux = Some(own(NamespaceMode::Pod));
    pod.run(&one).await?;
    let mut two = container("two", &pod.image, &["sleep", "8888"]);
    two.linux = Some(own(NamespaceMode::Pod));
    let two = pod.run(&two).await?;
    assert!(node.client.output(&two, &["ps"]).await?.contains("sleep 7777"));
    let mut three = container("three", &pod.image, &["sleep", "9999"]);
    three.linux = Some(own(NamespaceMode::Container));
    let three = pod.run(&three).await?;
    assert!(!node.client.output(&three, &["ps"]).await?.contains("sleep 7777"));
    Ok(())
}

async fn removing_a_pod_takes_its_containers_along(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_pod("crowded").await?;
    pod.sh("running", "sleep 1000").await?;
    pod.ran_sh("exited", "exit 0").await?;
    pod.create(&sh("created", &pod.image, "exit 0")).await?;
    assert_eq!(node.client.containers(None).await?.len(), 3);
    pod.remove().await?;
    assert!(node.client.containers(None).await?.is_empty());
    assert_eq!(node.processes_with("sleep 1000"), [""; 0]);
    Ok(())
}

async fn the_same_name_gives_the_same_pod(node: &mut Node) -> anyhow::Result<()> {
    let config = node.pod("twin");
    let (one, two) = tokio::join!(node.client.run_pod(&config), node.client.run_pod(&config));
    let (one, two) = (one?, two?);
    assert_eq!(one, two);
    assert_eq!(node.client.run_pod(&config).await?, one);
    assert_eq!(node.client.pods(None).await?.len(), 1);
    Ok(())
}

async fn another_attempt_is_another_pod(node: &mut Node) -> anyhow::Result<()> {
    let mut config = node.pod("again");
    let one = node.client.run_pod(&config).await?;
    node.client.stop_pod(&one).await?;
    config.metadata.as_mut().unwrap().attempt = 1;
    let two = node.client.run_pod(&config).await?;
    assert_ne!(one, two);
    assert_eq!(node.client.pods(None).await?.len(), 2);
    Ok(())
}

async fn pods_are_filtered_by_id_state_and_labels(node: &mut Node) -> anyhow::Result<()> {
    let client = node.client.clone();
    let mut made = Vec::new();
    for (name, tier) in [("a", "front"), ("b", "front"), ("c", "back")] {
        let mut config = node.host_network_pod(name);
        config.labels = labels(&[("tier", tier), ("name", name)]);
        made.push(client.run_pod(&config).await?);
    }
    client.stop_pod(&made[1]).await?;
    let ids = async |filter: PodSandboxFilter| -> anyhow::Result<Vec<String>> {
        Ok(client.pods(Some(filter)).await?.into_iter().map(|pod| pod.id).collect())
    };
    let by_label = |pairs| PodSandboxFilter {
        label_selector: labels(pairs),
        ..Default::default()
    };
    assert_eq!(ids(by_label(&[("tier", "front")])).await?.len(), 2);
    assert_eq!(
        ids(by_label(&[("tier", "front"), ("name", "b")])).await?,
        [made[1].clone()]
    );
    assert_eq!(ids(by_label(&[("tier", "side")])).await?, [""; 0]);
    let by_id = |id: &str| PodSandboxFilter {
        id: id.to_owned(),
        ..Default::default()
    };
    assert_eq!(ids(by_id(&made[2])).await?, [made[2].clone()]);
    assert_eq!(ids(by_id(&made[2][..13])).await?, [made[2].clone()]);
    assert_eq!(ids(by_id("no such pod")).await?, [""; 0]);
    let state = Some(PodSandboxStateValue {
        state: PodSandboxState::SandboxNotready.into(),
    });
    assert_eq!(
        ids(PodSandboxFilter {
            state,
            ..Default::default()
        })
        .await?,
        [made[1].clone()]
    );
    Ok(())
}

async fn containers_share_hostname_shm_and_resolv_conf(node: &mut Node) -> anyhow::Result<()> {
    let mut config = node.pod("sharing");
    config.hostname = "pod-host".to_owned();
    config.dns_config = Some(DnsConfig {
        servers: vec!["10.1.2.3".to_owned()],
        searches: vec!["e2e.test".to_owned()],
        options: vec!["ndots:3".to_owned()],
    });
    let pod = node.running("", config).await?;
    let one = pod.sh("one", "echo shared > /dev/shm/note; sleep 1000").await?;
    let two = pod.sh("two", "sleep 1000").await?;
    for id in [&one, &two] {
        assert_eq!(node.client.output(id, &["hostname"]).await?, "pod-host\n");
        assert_eq!(
            node.client.output(id, &["cat", "/etc/resolv.conf"]).await?,
            "search e2e.test\nnameserver 10.1.2.3\noptions ndots:3\n"
        );
        let environment = node.client.output(id, &["cat", "/proc/1/environ"]).await?;
        assert!(environment.contains("HOSTNAME=pod-host"), "{environment}");
    }
    let namespaces = |kind: &'static str| {
        let client = node.client.clone();
        let (one, two) = (one.clone(), two.clone());
        async move {
            let link = format!("/proc/self/ns/{kind}");
            let one = client.output(&one, &["readlink", &link]).await?;
            anyhow::Ok((one, client.output(&two, &["readlink", &link]).await?))
        }
    };
    for shared in ["net", "ipc", "uts"] {
        let (one, two) = namespaces(shared).await?;
        assert_eq!(one, two, "{shared}");
    }
    let (one_pid, two_pid) = namespaces("pid").await?;
    assert_ne!(
        one_pid, two_pid,
        "each container has a process namespace of its own unless the pod shares one"
    );
    assert_eq!(node.client.output(&two, &["cat", "/dev/shm/note"]).await?, "shared\n");
    Ok(())
}

async fn a_pod_is_placed_in_the_cgroup_that_its_client_asks_for(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("placed").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let process = node
        .processes()
        .into_iter()
        .find(|process| process.command_line.contains("sleep 1000"));
    let cgroups = process.unwrap().cgroup;
    // Of version 2 alone there is one line.
    let memory = cgroups.lines().find(|line| line.contains(":memory:"));
    let memory = memory.or(cgroups.lines().next()).unwrap_or_default();
    assert!(memory.ends_with(&node.container_cgroup(&id)), "{memory}");
    Ok(())
}

async fn a_parent_in_the_other_drivers_syntax_is_refused(node: &mut Node) -> anyhow::Result<()> {
    let (parent, reason) = match node.cgroup_manager {
        CgroupManager::Cgroupfs => ("kubepods-pod1.slice", "systemd's syntax"),
        CgroupManager::Systemd => ("/kubepods/pod1", "it takes a slice"),
    };
    let mut config = node.host_network_pod("elsewhere");
    config.linux.get_or_insert_default().cgroup_parent = parent.to_owned();
    let error = node.client.run_pod(&config).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    for part in [parent, reason] {
        assert!(error.message().contains(part), "no {part:?}: {error}");
    }
    assert_eq!(node.client.pods(None).await?, []);
    Ok(())
}

/// No moment of it is outside: what is started in the monitor's place looks before it does anything.
async fn a_monitor_is_born_in_its_cgroup(node: &mut Node) -> anyhow::Result<()> {
    let (looks, seen) = (node.path("bin/looks-first"), node.path("seen"));
    let script = format!(
        "#!/bin/sh\nwhile read -r line; do echo \"$line\"; done </proc/$$/cgroup >{}\nexec {} \"$@\"\n",
        seen.display(),
        e2e::node::programs().join("conmon-rs").display()
    );
    fs::write(&looks, script)?;
    fs::set_permissions(&looks, fs::Permissions::from_mode(0o755))?;
    let handler = format!("[crio.runtime.runtimes.runc]\nmonitor_path = \"{}\"\n", looks.display());
    node.configure("50-looks.conf", &handler).await?;
    let pod = node.running_host_pod("born").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let own = node
        .container_cgroup(&id)
        .replace(&format!("/crio-{id}"), &format!("/crio-conmon-{id}"));
    let cgroups = fs::read_to_string(&seen)?;
    let looked_at = |line: &&str| line.contains(":memory:") || line.starts_with("0::");
    let mut found = cgroups.lines().filter(looked_at).peekable();
    assert!(found.peek().is_some(), "{cgroups}");
    for line in found {
        assert!(line.ends_with(&own), "{line}, not {own}");
    }
    fs::remove_file(node.path("crio.conf.d/50-looks.conf"))?;
    Ok(())
}

async fn sysctls_of_the_pod_are_set(node: &mut Node) -> anyhow::Result<()> {
    let mut config = node.pod("tuned");
    config.linux.as_mut().unwrap().sysctls = labels(&[
        ("net.ipv4.ip_local_port_range", "2000 3000"),
        ("kernel.shm_rmid_forced", "1"),
    ]);
    let pod = node.running("", config).await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let read = |path: &'static str| {
        let (client, id) = (node.client.clone(), id.clone());
        async move { client.output(&id, &["cat", path]).await }
    };
    assert_eq!(read("/proc/sys/net/ipv4/ip_local_port_range").await?, "2000\t3000\n");
    assert_eq!(read("/proc/sys/kernel/shm_rmid_forced").await?, "1\n");
    Ok(())
}

async fn the_node_says_who_it_is_and_that_it_is_ready(node: &mut Node) -> anyhow::Result<()> {
    let version = node.client.version().await?;
    assert_eq!(
        (version.version.as_str(), version.runtime_api_version.as_str()),
        ("0.1.0", "v1")
    );
    assert!(!version.runtime_name.is_empty() && !version.runtime_version.is_empty());
    for kind in ["RuntimeReady", "NetworkReady"] {
        let condition = node.client.condition(kind).await?;
        assert!(condition.status, "{condition:?}");
    }
    let config = node
        .client
        .runtime
        .clone()
        .runtime_config(RuntimeConfigRequest::default())
        .await?
        .into_inner();
    let driver = match node.cgroup_manager {
        CgroupManager::Cgroupfs => CgroupDriver::Cgroupfs,
        CgroupManager::Systemd => CgroupDriver::Systemd,
    };
    assert_eq!(config.linux.unwrap().cgroup_driver(), driver);
    let update = UpdateRuntimeConfigRequest {
        runtime_config: Some(RuntimeConfig {
            network_config: Some(NetworkConfig {
                pod_cidr: "10.9.0.0/16".to_owned(),
            }),
        }),
    };
    node.client.runtime.clone().update_runtime_config(update).await?;
    Ok(())
}
