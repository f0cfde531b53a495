//! Devices of the node that a request gives a container.

use cri::v1::{ContainerConfig, Device};
use e2e::{Node, RunningPod, run_on, sh};
use tonic::Code;

run_on!(runc, crun:
    a_device_is_there_for_what_it_was_asked_for,
    a_directory_of_devices_is_given_whole,
);
run_on!(runc: a_device_that_cannot_be_had_is_named_and_leaves_nothing);

/// Which every node has and no container without asking. It is opened, never written to.
const DEVICE: &str = "/dev/kmsg";

fn device(host_path: &str, container_path: &str, permissions: &str) -> Device {
    Device {
        host_path: host_path.to_owned(),
        container_path: container_path.to_owned(),
        permissions: permissions.to_owned(),
    }
}

fn with(name: &str, pod: &RunningPod, script: &str, devices: Vec<Device>) -> ContainerConfig {
    ContainerConfig {
        devices,
        ..sh(name, &pod.image, script)
    }
}

async fn a_device_is_there_for_what_it_was_asked_for(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("devices").await?;
    let opens = "[ -e /dev/given ] || exit 3; : >>/dev/given";
    for (name, devices, code) in [
        ("none", Vec::new(), 3),
        ("writing", vec![device(DEVICE, "/dev/given", "w")], 0),
        ("reading", vec![device(DEVICE, "/dev/given", "r")], 1),
        ("all", vec![device(DEVICE, "/dev/given", "")], 0),
    ] {
        let status = pod.ran(&with(name, &pod, opens, devices)).await?;
        // A shell that cannot open a file ends with 1 or 2.
        assert_eq!(status.exit_code.min(1), code.min(1), "{name}: {status:?}");
        if code == 3 {
            assert_eq!(status.exit_code, code, "{name}");
        }
        if name == "reading" {
            let said = node.said("devices", name, "stderr")?;
            assert!(said.contains("not permitted"), "{said}");
        }
    }
    // Where it is not said, it is where it is on the node.
    let there = pod
        .ran(&with("same", &pod, "[ -c /dev/kmsg ]", vec![device(DEVICE, "", "rw")]))
        .await?;
    assert_eq!(there.exit_code, 0);
    Ok(())
}

async fn a_directory_of_devices_is_given_whole(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("devices").await?;
    let directory = node.path("devices").display().to_string();
    std::fs::create_dir(&directory)?;
    for name in ["a", "b"] {
        node.namespaces
            .run("mknod", &[&format!("{directory}/{name}"), "c", "1", "11"])?;
    }
    let script = "cd /dev/many && ls && [ -c a ] && : >>b";
    let status = pod
        .ran(&with("c", &pod, script, vec![device(&directory, "/dev/many", "w")]))
        .await?;
    assert_eq!(
        (node.said("devices", "c", "stdout")?.as_str(), status.exit_code),
        ("a\nb\n", 0)
    );
    Ok(())
}

async fn a_device_that_cannot_be_had_is_named_and_leaves_nothing(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("devices").await?;
    let before = node.snapshot();
    for (asked, code, word) in [
        (device("/dev/no-such", "", ""), Code::FailedPrecondition, "/dev/no-such"),
        (device("/etc/passwd", "", ""), Code::InvalidArgument, "/etc/passwd"),
        (
            device(DEVICE, "", "rx"),
            Code::InvalidArgument,
            "config.devices.permissions",
        ),
        (
            device("dev/kmsg", "", ""),
            Code::InvalidArgument,
            "config.devices.host_path",
        ),
        (
            device(DEVICE, "given", ""),
            Code::InvalidArgument,
            "config.devices.container_path",
        ),
    ] {
        let config = with("refused", &pod, "exit 0", vec![asked.clone()]);
        let error = node.client.create(&pod.id, &config, &pod.config).await.unwrap_err();
        assert_eq!(error.code(), code, "{asked:?}: {error}");
        assert!(error.message().contains(word), "{asked:?}: {error}");
    }
    node.nothing_more_than(&before).await
}
