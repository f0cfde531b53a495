//! Limits of what stands: changed in place, all of them or none, and known after a restart.

use anyhow::Context as _;
use cri::v1::*;
use e2e::node::CgroupManager;
use e2e::{Node, refused, run_on, sh};
use tonic::Code;

run_on!(runc, crun:
    limits_change_in_place_and_are_known_after_a_restart,
    a_limit_below_what_is_in_use_is_refused,
    a_refused_limit_changes_none_of_the_others,
    what_the_runtime_says_of_a_limit_is_a_sentence,
    files_of_version_2_are_set_by_their_names,
    files_of_every_controller_are_set_and_changed,
    memory_that_runs_out_ends_the_whole_group,
);
run_on!(runc:
    what_is_created_can_be_changed_and_what_has_exited_cannot,
    bad_limits_are_refused_by_their_name,
    a_pods_limits_are_noted,
);

const MIB: i64 = 1 << 20;

async fn update(node: &Node, id: &str, linux: LinuxContainerResources) -> Result<(), tonic::Status> {
    let request = UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    node.client
        .runtime
        .clone()
        .update_container_resources(request)
        .await
        .map(drop)
}

async fn limits(node: &Node, id: &str) -> anyhow::Result<LinuxContainerResources> {
    let resources = node.client.status(id).await?.resources.unwrap_or_default();
    Ok(resources.linux.unwrap_or_default())
}

/// What the kernel has: quota, period, shares or the weight that stands for them, memory, memory with swap, cpus.
async fn kernel(node: &Node, id: &str) -> anyhow::Result<Vec<i64>> {
    let read = |controller: &str, file: &str| {
        let path = format!("/sys/fs/cgroup/{controller}{}/{file}", node.container_cgroup(id));
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        Ok::<_, anyhow::Error>(text.trim().to_owned())
    };
    let number = |text: &str| match text {
        "max" | "" => Ok(-1),
        number => number.parse::<i64>(),
    };
    if !v2() {
        let files = [
            ("cpu", "cpu.cfs_quota_us"),
            ("cpu", "cpu.cfs_period_us"),
            ("cpu", "cpu.shares"),
            ("memory", "memory.limit_in_bytes"),
            ("memory", "memory.memsw.limit_in_bytes"),
        ];
        return files
            .iter()
            .map(|(controller, file)| Ok(number(&read(controller, file)?)?))
            .collect();
    }
    let cpu = read("", "cpu.max")?;
    let (quota, period) = cpu.split_once(' ').context("cpu.max has two words")?;
    let (memory, swap) = (
        number(&read("", "memory.max")?)?,
        number(&read("", "memory.swap.max")?)?,
    );
    Ok(vec![
        number(quota)?,
        number(period)?,
        number(&read("", "cpu.weight")?)?,
        memory,
        if memory < 0 || swap < 0 { -1 } else { memory + swap },
    ])
}

fn v2() -> bool {
    !std::path::Path::new("/sys/fs/cgroup/memory").is_dir()
}

/// The weight of version 2 that stands for shares.
fn shares(shares: i64) -> i64 {
    if v2() {
        1 + (shares - 2) * 9999 / 262_142
    } else {
        shares
    }
}

async fn oom_score(node: &Node, id: &str) -> anyhow::Result<String> {
    node.client.output(id, &["cat", "/proc/1/oom_score_adj"]).await
}

async fn limits_change_in_place_and_are_known_after_a_restart(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("changing").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let pid = node.client.pid(&id).await?;
    let asked = LinuxContainerResources {
        cpu_period: 50_000,
        cpu_quota: 25_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 * MIB,
        memory_swap_limit_in_bytes: 96 * MIB,
        oom_score_adj: 700,
        cpuset_cpus: "0".to_owned(),
        cpuset_mems: "0".to_owned(),
        ..Default::default()
    };
    update(node, &id, asked.clone()).await?;
    let now = kernel(node, &id).await?;
    assert_eq!(now, [25_000, 50_000, shares(512), 64 * MIB, 96 * MIB]);
    assert_eq!(node.client.output(&id, &["nproc"]).await?, "1\n");
    assert_eq!(oom_score(node, &id).await?, "700\n");
    assert_eq!(limits(node, &id).await?, asked);

    // A part of them; the others stay.
    let less = LinuxContainerResources {
        cpu_quota: -1,
        memory_limit_in_bytes: 32 * MIB,
        ..Default::default()
    };
    update(node, &id, less).await?;
    let mut now = kernel(node, &id).await?;
    if v2() && node.cgroup_manager == CgroupManager::Systemd {
        now[1] = 50_000; // systemd writes its own beside a quota that is none
    }
    assert_eq!(now, [-1, 50_000, shares(512), 32 * MIB, 32 * MIB]);
    let lifted = limits(node, &id).await?;
    let cpu = |cpu_quota, cpu_period| LinuxContainerResources {
        cpu_quota,
        cpu_period,
        ..Default::default()
    };
    for (asked, quota, period) in [(cpu(20_000, 0), 20_000, 50_000), (cpu(0, 80_000), 20_000, 80_000)] {
        update(node, &id, asked).await?;
        assert_eq!(kernel(node, &id).await?[..2], [quota, period]);
    }
    update(node, &id, cpu(-1, 50_000)).await?;
    assert_eq!(limits(node, &id).await?, lifted);

    let before = limits(node, &id).await?;
    assert_eq!((before.cpu_quota, before.memory_limit_in_bytes), (-1, 32 * MIB));
    assert_eq!((before.cpu_shares, before.oom_score_adj), (512, 700));
    node.kill9().await?;
    node.restart().await?;
    assert_eq!(limits(node, &id).await?, before);
    assert_eq!(node.client.pid(&id).await?, pid, "the same process");

    let no_limit = LinuxContainerResources {
        memory_limit_in_bytes: -1,
        ..Default::default()
    };
    update(node, &id, no_limit).await?;
    let memory = kernel(node, &id).await?[3];
    assert!(memory == -1 || memory > 1 << 60, "{memory}");
    Ok(())
}

async fn a_limit_below_what_is_in_use_is_refused(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("full").await?;
    // busybox holds what it reads: 30 MB in a variable.
    let id = pod
        .sh(
            "c",
            "x=$(head -c 30000000 /dev/zero | tr '\\0' x); echo full; sleep 1000; echo $x",
        )
        .await?;
    let log = node.path("logs").join("full").join("c.log");
    e2e::eventually("the container has its memory", || {
        Ok(std::fs::read_to_string(&log).is_ok_and(|log| log.contains("full")))
    })
    .await?;
    let before = kernel(node, &id).await?;
    let less = LinuxContainerResources {
        memory_limit_in_bytes: 20 * MIB,
        cpu_shares: 77,
        ..Default::default()
    };
    assert_eq!(refused(update(node, &id, less).await), Code::FailedPrecondition);
    assert_eq!(kernel(node, &id).await?, before);
    assert_eq!(limits(node, &id).await?.memory_limit_in_bytes, 0);
    assert_eq!(node.client.output(&id, &["echo", "alive"]).await?, "alive\n");
    Ok(())
}

async fn a_refused_limit_changes_none_of_the_others(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("half").await?;
    let mut config = sh("c", &pod.image, "sleep 1000");
    config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
        cpu_shares: 300,
        memory_limit_in_bytes: 80 * MIB,
        oom_score_adj: 400,
        ..Default::default()
    });
    let id = pod.run(&config).await?;
    let before = limits(node, &id).await?;
    // No machine of ours has this processor.
    let impossible = LinuxContainerResources {
        cpu_shares: 600,
        cpu_quota: 30_000,
        cpu_period: 60_000,
        memory_limit_in_bytes: 90 * MIB,
        oom_score_adj: 900,
        cpuset_cpus: "8000".to_owned(),
        ..Default::default()
    };
    refused(update(node, &id, impossible).await);
    let now = kernel(node, &id).await?;
    assert_eq!((now[0], now[2], now[3], now[4]), (-1, shares(300), 80 * MIB, 80 * MIB));
    assert_eq!(oom_score(node, &id).await?, "400\n");
    assert_eq!(limits(node, &id).await?, before);
    Ok(())
}

async fn what_the_runtime_says_of_a_limit_is_a_sentence(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("said").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    // No machine of ours has this processor; the OCI runtime learns it from the kernel.
    let impossible = LinuxContainerResources {
        cpuset_cpus: "8000".to_owned(),
        ..Default::default()
    };
    let status = update(node, &id, impossible).await.unwrap_err();
    let said = status.message();
    assert!(said.contains(" update: ") && said.contains("cpuset.cpus"), "{said}");
    for wrapping in ["level=", "msg=", "time=", "\\\"", "{\""] {
        assert!(!said.contains(wrapping), "{wrapping:?} is in {said:?}");
    }
    Ok(())
}

async fn what_is_created_can_be_changed_and_what_has_exited_cannot(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("ends").await?;
    let id = pod.create(&sh("c", &pod.image, "exit 0")).await?;
    let asked = |cpu_shares| LinuxContainerResources {
        cpu_shares,
        ..Default::default()
    };
    update(node, &id, asked(200)).await?;
    assert_eq!(kernel(node, &id).await?[2], shares(200));
    node.client.start(&id).await?;
    node.client.exited(&id, std::time::Duration::from_secs(30)).await?;
    assert_eq!(refused(update(node, &id, asked(300)).await), Code::FailedPrecondition);
    assert_eq!(limits(node, &id).await?.cpu_shares, 200);
    assert_eq!(refused(update(node, "nobody", asked(1)).await), Code::NotFound);
    Ok(())
}

async fn files_of_version_2_are_set_by_their_names(node: &mut Node) -> anyhow::Result<()> {
    if !v2() {
        eprintln!("SKIPPED: no cgroup version 2 alone");
        return Ok(());
    }
    let named = |file: &str, value: &str| LinuxContainerResources {
        unified: [(file.to_owned(), value.to_owned())].into(),
        ..Default::default()
    };
    let pod = node.running_host_pod("unified").await?;
    let with = |name: &str, resources| {
        let mut config = sh(name, &pod.image, "sleep 1000");
        config.linux.get_or_insert_default().resources = Some(resources);
        config
    };
    let mut resources = named("memory.high", "50331648");
    resources.unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    let id = pod.run(&with("good", resources)).await?;
    let read = |file: &str| std::fs::read_to_string(format!("/sys/fs/cgroup{}/{file}", node.container_cgroup(&id)));
    assert_eq!(
        (read("memory.high")?, read("memory.oom.group")?),
        ("50331648\n".to_owned(), "1\n".to_owned())
    );
    update(node, &id, named("memory.high", "67108864")).await?;
    assert_eq!(read("memory.high")?, "67108864\n");
    assert_eq!(limits(node, &id).await?.unified["memory.high"], "67108864");

    let unknown = named("memory.of_elephants", "1");
    for refusal in [
        pod.client
            .create(&pod.id, &with("bad", unknown.clone()), &pod.config)
            .await
            .map(drop),
        update(node, &id, unknown).await,
    ] {
        let status = refusal.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("memory.of_elephants"), "{status}");
    }
    assert_eq!(read("memory.high")?, "67108864\n");
    Ok(())
}

/// One of each controller that the guest has; huge pages it has none.
async fn files_of_every_controller_are_set_and_changed(node: &mut Node) -> anyhow::Result<()> {
    if !v2() {
        eprintln!("SKIPPED: no cgroup version 2 alone");
        return Ok(());
    }
    // A disk that takes limits: the one with the node's files.
    let disk = node.namespaces.run("findmnt", &["-no", "MAJ:MIN", "-T", "/var/tmp"])?;
    let disk = disk.trim();
    let asked = |rate: u32| {
        let files = [
            ("memory.high", (50 << 20).to_string()),
            ("memory.low", (10 << 20).to_string()),
            ("cpu.weight", (rate + 7).to_string()),
            ("cpu.max", format!("{} 100000", 10_000 + rate)),
            ("pids.max", (rate + 50).to_string()),
            ("cpuset.cpus", "0".to_owned()),
            ("io.max", format!("{disk} rbps={}", 1_048_576 * rate)),
        ];
        LinuxContainerResources {
            unified: files.map(|(file, value)| (file.to_owned(), value)).into(),
            ..Default::default()
        }
    };
    let pod = node.running_host_pod("every").await?;
    let has = |id: &str, asked: &LinuxContainerResources| {
        for (file, value) in &asked.unified {
            let path = format!("/sys/fs/cgroup{}/{file}", node.container_cgroup(id));
            let found = std::fs::read_to_string(&path).with_context(|| path.clone())?;
            anyhow::ensure!(found.contains(value.as_str()), "{file}: {found:?}, asked for {value:?}");
        }
        anyhow::Ok(())
    };
    let mut config = sh("c", &pod.image, "sleep 1000");
    config.linux.get_or_insert_default().resources = Some(asked(2));
    let id = pod.run(&config).await?;
    has(&id, &asked(2))?;
    update(node, &id, asked(3)).await?;
    has(&id, &asked(3))
}

/// The kubelet asks for it: with one process of a container all of them end, and that is told.
async fn memory_that_runs_out_ends_the_whole_group(node: &mut Node) -> anyhow::Result<()> {
    if !v2() {
        eprintln!("SKIPPED: no cgroup version 2 alone");
        return Ok(());
    }
    let pod = node.running_host_pod("group").await?;
    for (group, code) in [("0", 5), ("1", 137)] {
        // The shell itself takes nothing and outlives its child.
        let mut config = sh(&format!("group-{group}"), &pod.image, "tail /dev/zero; exit 5");
        config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
            memory_limit_in_bytes: 20 * MIB,
            memory_swap_limit_in_bytes: 20 * MIB,
            unified: [("memory.oom.group".to_owned(), group.to_owned())].into(),
            ..Default::default()
        });
        let status = pod.ran(&config).await?;
        assert_eq!(status.exit_code, code, "memory.oom.group = {group}: {status:?}");
        if group == "1" {
            assert_eq!(status.reason, "OOMKilled");
        }
    }
    Ok(())
}

async fn bad_limits_are_refused_by_their_name(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("bad").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    type Change = fn(&mut LinuxContainerResources);
    let bad: [(&str, Change); 6] = [
        ("cpu_period", |r| r.cpu_period = -1),
        ("cpu_quota", |r| r.cpu_quota = -2),
        ("memory_limit_in_bytes", |r| r.memory_limit_in_bytes = i64::MIN),
        ("oom_score_adj", |r| r.oom_score_adj = 1001),
        ("cpuset_cpus", |r| r.cpuset_cpus = "0\n1".to_owned()),
        ("unified", |r| {
            r.unified.insert("cgroup.kill".to_owned(), "1".to_owned());
        }),
    ];
    for (name, change) in bad {
        let mut linux = LinuxContainerResources::default();
        change(&mut linux);
        let status = update(node, &id, linux).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{name}: {status}");
        assert!(status.message().contains(name), "{name}: {status}");
    }
    Ok(())
}

async fn a_pods_limits_are_noted(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("pod").await?;
    let asked = |pod: &str, cpu_shares| UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.to_owned(),
        overhead: None,
        resources: Some(LinuxContainerResources {
            cpu_shares,
            ..Default::default()
        }),
    };
    let mut runtime = node.client.runtime.clone();
    runtime.update_pod_sandbox_resources(asked(&pod.id, 321)).await?;
    node.restart().await?;
    let mut runtime = node.client.runtime.clone();
    let request = PodSandboxStatusRequest {
        pod_sandbox_id: pod.id.clone(),
        verbose: true,
    };
    let info = runtime.pod_sandbox_status(request).await?.into_inner().info;
    assert!(info["info"].contains("\"cpu_shares\":321"), "{info:?}");
    let mut refusals = Vec::new();
    for (pod, shares) in [("nobody", 1), (pod.id.as_str(), -1)] {
        refusals.push(refused(runtime.update_pod_sandbox_resources(asked(pod, shares)).await));
    }
    assert_eq!(refusals, [Code::NotFound, Code::InvalidArgument]);
    Ok(())
}
