//! Pods with user namespaces: who their users are on the node, and that nothing they need is out of their reach.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

use cri::v1::*;
use e2e::client::security;
use e2e::{Node, RunningPod, TestImage, container, image_spec, run_on, sh};
use tonic::Code;

run_on!(runc, crun:
    root_of_a_pod_is_nobody_on_the_node_and_owns_its_files,
    volumes_of_the_kubelet_have_the_pods_owners,
    a_shared_pid_namespace_and_sysctls_belong_to_the_pods_users,
    commands_and_restarts_find_a_pod_of_other_users,
);
run_on!(runc:
    what_contradicts_a_user_namespace_is_refused,
);

/// As the kubelet gives a pod: a whole number of 65536 ids.
const FIRST: u32 = 196_608;
const LENGTH: u32 = 65_536;

fn mapping() -> Vec<IdMapping> {
    vec![IdMapping {
        host_id: FIRST,
        container_id: 0,
        length: LENGTH,
    }]
}

fn users() -> UserNamespace {
    UserNamespace {
        mode: NamespaceMode::Pod.into(),
        uids: mapping(),
        gids: mapping(),
    }
}

fn pod_of_users(node: &Node, name: &str, change: impl FnOnce(&mut NamespaceOption)) -> PodSandboxConfig {
    let mut config = node.pod(name);
    let linux = config.linux.get_or_insert_default();
    let options = linux
        .security_context
        .get_or_insert_default()
        .namespace_options
        .get_or_insert_default();
    options.userns_options = Some(users());
    change(options);
    config
}

async fn running(node: &mut Node, name: &str) -> anyhow::Result<RunningPod> {
    let config = pod_of_users(node, name, |_| ());
    node.running("", config).await
}

fn with(change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> Option<LinuxContainerConfig> {
    let mut asked = security();
    change(&mut asked);
    Some(LinuxContainerConfig {
        security_context: Some(asked),
        ..Default::default()
    })
}

async fn root_of_a_pod_is_nobody_on_the_node_and_owns_its_files(node: &mut Node) -> anyhow::Result<()> {
    node.busybox().await?;
    let before = node.snapshot();
    let null = std::fs::metadata("/dev/null")?;
    let pod = running(node, "users").await?;
    let script = "set -e; cat /proc/self/uid_map /proc/self/gid_map; stat -c %u:%g / /bin/busybox /etc/hosts \
        /etc/resolv.conf /etc/hostname /dev/shm /root-made; echo 127.0.0.9 nine >> /etc/hosts; touch /dev/shm/a /new /etc/new; \
        chown 7:8 /new; stat -c %u:%g /new; echo out > /dev/stdout; ip link show eth0 > /dev/null; \
        cat < /dev/stdin; ls /sys/class/net > /dev/null; echo done";
    let mut config = sh("c", &pod.image, script);
    config.working_dir = "/root-made".to_owned();
    let ended = pod.ran(&config).await?;
    let said = node.said("users", "c", "stdout")?;
    assert_eq!(ended.exit_code, 0, "{said} {}", node.said("users", "c", "stderr")?);
    let words: Vec<_> = said.split_whitespace().collect();
    let map = ["0".to_owned(), FIRST.to_string(), LENGTH.to_string()];
    assert_eq!(words[..3], map, "{said}");
    assert_eq!(words[3..6], map, "{said}");
    assert_eq!(words[6..13], ["0:0"; 7], "{said}");
    assert_eq!(words[13..], ["7:8", "out", "done"], "{said}");

    let options = |options: Option<&NamespaceOption>| options.and_then(|options| options.userns_options.clone());
    let status = node.client.pod_status(&pod.id).await?;
    let shown = status
        .linux
        .and_then(|linux| linux.namespaces)
        .and_then(|namespaces| namespaces.options);
    assert_eq!(options(shown.as_ref()), Some(users()));

    let long = pod.sh("long", "exec sleep 1000").await?;
    let pid = node.client.pid(&long).await?;
    let process = std::fs::metadata(node.namespaces.inside(format!("/proc/{pid}")))?;
    assert_eq!((process.uid(), process.gid()), (FIRST, FIRST));
    let after = std::fs::metadata("/dev/null")?;
    assert_eq!(
        (null.uid(), null.mode()),
        (after.uid(), after.mode()),
        "the node's own /dev/null"
    );
    node.client.remove_pod(&pod.id).await?;
    node.nothing_more_than(&before).await
}

async fn volumes_of_the_kubelet_have_the_pods_owners(node: &mut Node) -> anyhow::Result<()> {
    node.busybox().await?;
    let data = TestImage::scratch().with_file("only", b"file")?;
    let data = node.pulled("e2e/data:1", &data).await?;
    let before = node.snapshot();
    let pod = running(node, "volumes").await?;
    let private = node.path("kubelet");
    let volume = private.join("volume");
    std::fs::create_dir_all(&volume)?;
    std::fs::write(volume.join("token"), "secret")?;
    for (path, mode) in [(&private, 0o700), (&volume, 0o700), (&volume.join("token"), 0o600)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    chown(volume.join("token"), Some(5), Some(6))?;
    let mount = |inside: &str, host: &std::path::Path, mappings: Vec<IdMapping>| Mount {
        container_path: inside.to_owned(),
        host_path: host.display().to_string(),
        uid_mappings: mappings.clone(),
        gid_mappings: mappings,
        ..Default::default()
    };
    let mut config = sh(
        "c",
        &pod.image,
        "set -e; stat -c %u:%g /vol /vol/token /file /image/only; cat /vol/token /image/only; touch /vol/new; chown 9:9 /vol/new",
    );
    config.mounts = vec![
        mount("/vol", &volume, mapping()),
        mount("/file", &volume.join("token"), mapping()),
        Mount {
            container_path: "/image".to_owned(),
            image: Some(image_spec(&data)),
            readonly: true,
            ..Default::default()
        },
    ];
    let ended = pod.ran(&config).await?;
    let said = node.said("volumes", "c", "stdout")?;
    assert_eq!(ended.exit_code, 0, "{said} {}", node.said("volumes", "c", "stderr")?);
    assert_eq!(
        said.split_whitespace().collect::<Vec<_>>(),
        ["0:0", "5:6", "5:6", "0:0", "secretfile"]
    );
    let new = std::fs::metadata(volume.join("new"))?;
    assert_eq!((new.uid(), new.gid()), (9, 9), "on the node");

    let mut config = sh("proc", &pod.image, "exit 0");
    config.mounts = vec![mount("/p", std::path::Path::new("/proc"), mapping())];
    let error = node.client.create(&pod.id, &config, &pod.config).await.unwrap_err();
    assert!(error.message().contains("cannot be id-mapped"), "{error}");
    std::fs::remove_dir_all(&private)?;
    node.client.remove_pod(&pod.id).await?;
    node.nothing_more_than(&before).await
}

async fn a_shared_pid_namespace_and_sysctls_belong_to_the_pods_users(node: &mut Node) -> anyhow::Result<()> {
    node.busybox().await?;
    let before = node.snapshot();
    let mut config = pod_of_users(node, "shared", |options| options.pid = NamespaceMode::Pod.into());
    let linux = config.linux.get_or_insert_default();
    linux
        .sysctls
        .insert("net.ipv4.ip_unprivileged_port_start".into(), "77".into());
    linux.sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    let pod = node.running("", config).await?;
    let mut look = container(
        "look",
        &pod.image,
        &[
            "sh",
            "-c",
            "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced; stat -c %u /proc/1; hostname",
        ],
    );
    look.linux = with(|asked| asked.namespace_options.get_or_insert_default().pid = NamespaceMode::Pod.into());
    assert_eq!(
        pod.ran(&look).await?.exit_code,
        0,
        "{}",
        node.said("shared", "look", "stderr")?
    );
    let said = node.said("shared", "look", "stdout")?;
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["77", "1", "0", "shared"]);
    node.client.remove_pod(&pod.id).await?;
    node.nothing_more_than(&before).await
}

async fn commands_and_restarts_find_a_pod_of_other_users(node: &mut Node) -> anyhow::Result<()> {
    node.busybox().await?;
    let before = node.snapshot();
    let null = std::fs::metadata("/dev/null")?;
    let pod = running(node, "lasting").await?;
    let id = pod.sh("long", "exec sleep 1000").await?;
    let identity = [
        "sh",
        "-c",
        "cat; echo hello > /dev/stdout; id -u; cat /proc/self/uid_map",
    ];
    for _ in 0..2 {
        let answer = node.client.exec(&id, &identity, 30).await?;
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        let words: Vec<_> = text.split_whitespace().collect();
        assert_eq!(
            words,
            ["hello", "0", "0", &FIRST.to_string(), &LENGTH.to_string()],
            "{answer:?}"
        );
        node.restart().await?;
    }
    let after = std::fs::metadata("/dev/null")?;
    assert_eq!(
        (null.uid(), null.mode()),
        (after.uid(), after.mode()),
        "the node's own /dev/null"
    );
    let again = node
        .client
        .create(&pod.id, &sh("again", &pod.image, "exec sleep 1000"), &pod.config)
        .await?;
    node.client.start(&again).await?;
    node.client.remove_pod(&pod.id).await?;
    node.nothing_more_than(&before).await
}

async fn what_contradicts_a_user_namespace_is_refused(node: &mut Node) -> anyhow::Result<()> {
    let before = node.snapshot();
    type Change = fn(&mut NamespaceOption);
    let changes: [(&str, Change); 4] = [
        ("namespace_options.network", |options| {
            options.network = NamespaceMode::Node.into()
        }),
        ("namespace_options.pid", |options| {
            options.pid = NamespaceMode::Node.into()
        }),
        ("namespace_options.ipc", |options| {
            options.ipc = NamespaceMode::Node.into()
        }),
        ("userns_options.uids", |options| {
            options.userns_options.get_or_insert_default().uids.clear();
        }),
    ];
    for (field, change) in changes {
        let config = pod_of_users(node, "contradictory", change);
        let error = node.client.run_pod(&config).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{field}: {error}");
        assert!(error.message().contains(field), "{field}: {error}");
    }
    node.nothing_more_than(&before).await
}
