//! SELinux labels on a host that has them, and on one that has not.

use super::super::cell::SandboxCell;
use super::*;
use crate::drivers::seams::ErrorKind;
use crate::model::container::{MountPlan, MountSource, Propagation};
use crate::model::selinux::HostLabels;
use std::path::{Path, PathBuf};

fn with_selinux(node: &Arc<FakeNode>) -> Lifecycle {
    let defaults = SpecDefaults {
        selinux: Some(HostLabels::parse("").unwrap()),
        ..SpecDefaults::for_tests()
    };
    Lifecycle::new(node.drivers(), defaults)
}

fn level(level: &str) -> SelinuxOptions {
    SelinuxOptions {
        level: level.into(),
        ..SelinuxOptions::default()
    }
}

/// A pod of this number.
async fn run(lifecycle: &Lifecycle, number: u8, change: impl FnOnce(&mut SandboxPlan)) -> Arc<SandboxCell> {
    let mut plan = sandbox_plan(number);
    plan.metadata.attempt = number.into();
    change(&mut plan);
    let id = lifecycle.run_sandbox(plan).await.unwrap();
    lifecycle.registry().sandbox(id.as_str()).unwrap()
}

/// Process and mount label of a container of this number.
async fn labels(
    node: &Arc<FakeNode>,
    lifecycle: &Lifecycle,
    pod: &Arc<SandboxCell>,
    number: u8,
    change: impl FnOnce(&mut ContainerPlan),
) -> Result<(Option<String>, Option<String>), Error> {
    let mut plan = container_plan(number, &pod.plan.id);
    plan.metadata.attempt = number.into();
    plan.security.namespaces = pod.plan.namespaces.clone();
    change(&mut plan);
    let id = lifecycle.create_container(pod.clone(), plan).await?;
    Ok(labels_in_spec(node, &id).await)
}

async fn labels_in_spec(node: &Arc<FakeNode>, id: &ContainerId) -> (Option<String>, Option<String>) {
    let spec = node.drivers().bundle.read_spec(id).await.unwrap();
    let spec: serde_json::Value = serde_json::from_slice(&spec).unwrap();
    let text = |pointer| Some(spec.pointer(pointer)?.as_str()?.to_owned());
    (text("/process/selinuxLabel"), text("/linux/mountLabel"))
}

fn process_with(level: &str) -> Option<String> {
    Some(format!("system_u:system_r:container_t:{level}"))
}

fn file_with(level: &str) -> Option<String> {
    Some(format!("system_u:object_r:container_file_t:{level}"))
}

#[tokio::test]
async fn containers_of_a_pod_have_its_categories_and_those_of_another_pod_others() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = with_selinux(&node);
    let (first, second) = (run(&lifecycle, 1, |_| ()).await, run(&lifecycle, 2, |_| ()).await);
    let of = |pod: &SandboxCell| pod.plan.selinux.level.clone();
    assert!(of(&first).starts_with("s0:c") && of(&first) != of(&second));
    assert_eq!(
        labels_in_spec(&node, &first.plan.id.cast()).await.0,
        process_with(&of(&first)),
        "the pod's own"
    );
    for (pod, number) in [(&first, 3), (&first, 4), (&second, 5)] {
        let found = labels(&node, &lifecycle, pod, number, |_| ()).await.unwrap();
        assert_eq!(found, (process_with(&of(pod)), file_with(&of(pod))));
    }
    for path in ["/hosts", "/resolv.conf", "/hostname"] {
        assert_eq!(
            node.labels().get(Path::new(path)).cloned(),
            file_with(&of(&second)),
            "{path}"
        );
    }

    // A restart keeps them; what is removed gives them back.
    let after = with_selinux(&node);
    after.restore().await.unwrap();
    let restored = after.registry().sandbox(first.plan.id.as_str()).unwrap();
    assert_eq!((of(&restored), after.room.categories.count()), (of(&first), 2));
    let found = labels(&node, &after, &restored, 6, |_| ()).await.unwrap();
    assert_eq!(found.0, process_with(&of(&first)));
    after.remove_sandbox(restored).await.unwrap();
    assert_eq!(after.room.categories.count(), 1);
}

#[tokio::test]
async fn a_pod_that_fails_gives_its_categories_back() {
    let node = FakeNode::new(Fails::Making(3));
    let lifecycle = with_selinux(&node);
    lifecycle.run_sandbox(sandbox_plan(1)).await.unwrap_err();
    assert_eq!(lifecycle.room.categories.count(), 0);
}

#[tokio::test]
async fn what_is_asked_for_takes_the_place_of_the_pods() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = with_selinux(&node);
    let pod = run(&lifecycle, 1, |plan| plan.selinux = level("s0:c4,c5")).await;
    let found = labels(&node, &lifecycle, &pod, 2, |_| ()).await.unwrap();
    assert_eq!(found, (process_with("s0:c4,c5"), file_with("s0:c4,c5")));
    let found = labels(&node, &lifecycle, &pod, 3, |plan| {
        plan.security.selinux = SelinuxOptions {
            type_: "svirt_lxc_net_t".into(),
            ..level("s0")
        };
    })
    .await
    .unwrap();
    assert_eq!(
        found,
        (Some("system_u:system_r:svirt_lxc_net_t:s0".into()), file_with("s0"))
    );

    let held = node.held();
    let refused = labels(&node, &lifecycle, &pod, 4, |plan| {
        plan.security.selinux = level("s0,c4,c5")
    })
    .await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("SELinux level \"s0,c4,c5\""), "{error}");
    assert_eq!(node.held(), held, "nothing of it is left");
}

#[tokio::test]
async fn who_shares_with_the_node_or_is_privileged_is_not_confined() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = with_selinux(&node);
    let pod = run(&lifecycle, 1, |plan| plan.privileged = true).await;
    let found = labels(&node, &lifecycle, &pod, 2, |plan| plan.security.privileged = true)
        .await
        .unwrap();
    assert_eq!(found, (None, file_with(&pod.plan.selinux.level)));

    for (number, shared) in (3..).zip(["processes", "ipc", "network"]) {
        let pod = run(&lifecycle, 10 + number, |plan| {
            let of = match shared {
                "processes" => &mut plan.namespaces.pid,
                "ipc" => &mut plan.namespaces.ipc,
                _ => &mut plan.namespaces.network,
            };
            *of = NamespaceMode::Node;
        })
        .await;
        let found = labels(&node, &lifecycle, &pod, number, |_| ()).await.unwrap();
        let files = file_with(&pod.plan.selinux.level).filter(|_| shared == "network");
        assert_eq!(found, (None, files), "{shared}");
    }
}

fn volume(host_path: &str, selinux_relabel: bool) -> MountPlan {
    MountPlan {
        container_path: host_path.to_owned(),
        source: MountSource::Host {
            host_path: host_path.into(),
        },
        readonly: false,
        recursive_read_only: false,
        propagation: Propagation::Private,
        selinux_relabel,
        id_mapped: false,
    }
}

#[tokio::test]
async fn a_volume_is_relabelled_when_it_is_asked_for_and_not_for_who_needs_no_label() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = with_selinux(&node);
    let pod = run(&lifecycle, 1, |_| ()).await;
    let mounts = || vec![volume("/asked", true), volume("/not-asked", false)];
    labels(&node, &lifecycle, &pod, 2, |plan| plan.mounts = mounts())
        .await
        .unwrap();
    let ours = ["/asked", "/not-asked", "/free"].map(PathBuf::from);
    let volumes = || {
        let labels = node.labels().into_iter().filter(|(path, _)| ours.contains(path));
        labels.collect::<Vec<_>>()
    };
    let expected = vec![(PathBuf::from("/asked"), file_with(&pod.plan.selinux.level).unwrap())];
    assert_eq!(volumes(), expected);

    labels(&node, &lifecycle, &pod, 3, |plan| {
        plan.mounts = vec![volume("/free", true)];
        plan.security.selinux.type_ = "spc_t".into();
    })
    .await
    .unwrap();
    assert_eq!(volumes(), expected);
}

/// The pod asks for it by an annotation, and its handler allows that.
#[tokio::test]
async fn a_volume_that_has_its_label_is_not_walked_again_where_that_may_be_asked_for() {
    const OLDER: &str = "io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel";
    const NEWER: &str = "try-skip-volume-selinux-label.crio.io";
    for (asked, value, allowed, times) in [
        (NEWER, "true", NEWER, 1),
        (OLDER, "true", OLDER, 1),
        (NEWER, "false", NEWER, 2),
        (NEWER, "true", "", 2),
        (NEWER, "true", OLDER, 2),
    ] {
        let node = FakeNode::new(Fails::Never);
        node.allowed_annotations.lock().unwrap().insert(allowed.to_owned());
        let lifecycle = with_selinux(&node);
        let pod = run(&lifecycle, 1, |plan| {
            plan.annotations.insert(asked.to_owned(), value.to_owned());
        })
        .await;
        for number in [2, 3] {
            let mounts = |plan: &mut ContainerPlan| plan.mounts = vec![volume("/data", true)];
            labels(&node, &lifecycle, &pod, number, mounts).await.unwrap();
        }
        let data = Path::new("/data");
        assert_eq!(node.labels().get(data).cloned(), file_with(&pod.plan.selinux.level));
        assert_eq!(
            node.times_relabelled(data),
            times,
            "{asked}: {value}, allowed {allowed:?}"
        );
    }
}

#[tokio::test]
async fn without_selinux_labels_are_taken_and_do_nothing() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = lifecycle(&node);
    let pod = run(&lifecycle, 1, |plan| plan.selinux = level("no level")).await;
    let found = labels(&node, &lifecycle, &pod, 2, |plan| {
        plan.security.selinux = level("s0,c4,c5");
        plan.mounts = vec![volume("/asked", true)];
    });
    assert_eq!(found.await.unwrap(), (None, None));
    assert!(node.labels().is_empty());
    assert_eq!(pod.plan.selinux.level, "no level");
}

#[tokio::test]
async fn a_pod_with_a_label_that_is_none_is_refused_and_leaves_nothing() {
    let node = FakeNode::new(Fails::Never);
    let lifecycle = with_selinux(&node);
    let mut plan = sandbox_plan(1);
    plan.selinux.user = "a:b".into();
    let error = lifecycle.run_sandbox(plan).await.unwrap_err();
    let Error::Create(failed) = &error else {
        panic!("{error}")
    };
    assert_eq!(failed.cause.kind, ErrorKind::Invalid);
    assert_eq!(node.held(), NOTHING);
}
