//! What containers may do, and what they share: asked for, refused, had.

use cri::v1::security_profile::ProfileType;
use cri::v1::*;
use e2e::client::{pod_security, security};
use e2e::{Node, container, refused, run_on, sh};
use std::time::Duration;
use tonic::Code;

run_on!(runc, crun:
    the_pods_own_process_has_the_pods_seccomp_profile,
    profiles_may_be_asked_for_in_the_older_fields,
    what_is_mounted_beneath_is_read_only_too_where_the_runtime_can,
    a_container_joins_the_processes_of_the_one_it_names,
    capabilities_are_ambient_only_where_it_is_asked_for,
);
run_on!(runc:
    a_container_shares_with_the_node_no_more_than_its_pod,
    a_profile_of_apparmor_needs_apparmor,
    values_that_are_none_are_refused,
);

/// A seccomp profile that lets everything happen but a change of mode.
const NO_CHMOD: &str = r#"{
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{ "names": ["chmod", "fchmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO" }]
}"#;

fn with(change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> Option<LinuxContainerConfig> {
    let mut asked = security();
    change(&mut asked);
    Some(LinuxContainerConfig {
        security_context: Some(asked),
        ..Default::default()
    })
}

fn profile(profile_type: ProfileType, localhost_ref: &str) -> Option<SecurityProfile> {
    Some(SecurityProfile {
        profile_type: profile_type.into(),
        localhost_ref: localhost_ref.to_owned(),
    })
}

async fn a_container_shares_with_the_node_no_more_than_its_pod(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_pod("own").await?;
    let before = node.snapshot();
    let (of_node, of_pod, own) = (NamespaceMode::Node, NamespaceMode::Pod, NamespaceMode::Container);
    let beyond = [
        ("namespace_options.network", of_node, of_pod, own),
        ("namespace_options.ipc", of_pod, of_node, own),
        ("namespace_options.pid", of_pod, of_pod, of_node),
    ];
    for (field, network, ipc, pid) in beyond {
        let mut config = sh("c", &pod.image, "exit 0");
        config.linux = with(|asked| {
            let options = asked.namespace_options.get_or_insert_default();
            (options.network, options.ipc, options.pid) = (network.into(), ipc.into(), pid.into());
        });
        let error = node.client.create(&pod.id, &config, &pod.config).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{field}: {error}");
        assert!(error.message().contains(field), "{field}: {error}");
    }
    node.nothing_more_than(&before).await
}

/// As the kubelet asks for an ephemeral container that debugs another.
async fn a_container_joins_the_processes_of_the_one_it_names(node: &mut Node) -> anyhow::Result<()> {
    let (pod, other) = (
        node.running_host_pod("own").await?,
        node.running_host_pod("other").await?,
    );
    let target = pod.sh("target", "exec sleep 4321").await?;
    let joining = |name: &str, target: &str| {
        let mut config = sh(name, &pod.image, "tr '\\0' ' ' </proc/1/cmdline");
        config.linux = with(|asked| {
            let options = asked.namespace_options.get_or_insert_default();
            options.pid = NamespaceMode::Target.into();
            target.clone_into(&mut options.target_id);
        });
        config
    };
    assert_eq!(pod.ran(&joining("debugger", &target)).await?.exit_code, 0);
    assert_eq!(node.said("own", "debugger", "stdout")?.trim(), "sleep 4321");

    let ended = pod.ran_sh("ended", "exit 0").await?.id;
    let before = node.snapshot();
    for (pod, target, word) in [
        (&pod, "", "target"),
        (&pod, "nobody", "nobody"),
        (&pod, ended.as_str(), "exited"),
        (&other, target.as_str(), "another pod"),
    ] {
        let config = joining("refused", target);
        let error = node.client.create(&pod.id, &config, &pod.config).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().contains(word), "{word:?} is not in {error}");
    }
    let mut of_a_pod = node.host_network_pod("joining");
    let security = of_a_pod
        .linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default();
    security.namespace_options.get_or_insert_default().pid = NamespaceMode::Target.into();
    assert_eq!(refused(node.client.run_pod(&of_a_pod).await), Code::InvalidArgument);
    node.nothing_more_than(&before).await?;

    // It ends with the processes it joined.
    let mut config = joining("companion", &target);
    config.command = ["sleep", "1000"].map(str::to_owned).to_vec();
    let companion = pod.run(&config).await?;
    node.client.stop(&target, 0).await?;
    let status = node.client.exited(&companion, Duration::from_secs(30)).await?;
    assert_eq!(status.exit_code, 137);
    Ok(())
}

async fn a_profile_of_apparmor_needs_apparmor(node: &mut Node) -> anyhow::Result<()> {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    let pod = node.running_host_pod("armoured").await?;
    let before = node.snapshot();
    let mut config = sh("of-the-node", &pod.image, "exit 0");
    config.linux = with(|asked| asked.apparmor = profile(ProfileType::Localhost, "localhost/not-there"));
    let error = node.client.create(&pod.id, &config, &pod.config).await.unwrap_err();
    if !enabled.starts_with('Y') {
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        let told = error.message();
        assert!(told.contains("no AppArmor") && told.contains("not-there"), "{told}");
    }
    node.nothing_more_than(&before).await?;

    for usual in [ProfileType::RuntimeDefault, ProfileType::Unconfined] {
        let mut config = sh(&format!("{usual:?}").to_lowercase(), &pod.image, "exit 0");
        config.linux = with(|asked| asked.apparmor = profile(usual, ""));
        assert_eq!(pod.ran(&config).await?.exit_code, 0, "{usual:?}");
    }
    Ok(())
}

async fn the_pods_own_process_has_the_pods_seccomp_profile(node: &mut Node) -> anyhow::Result<()> {
    let file = node.path("no-chmod.json");
    std::fs::write(&file, NO_CHMOD)?;
    let file = file.display().to_string();
    let cases = [
        ("unspoken", None, "2"),
        ("unconfined", profile(ProfileType::Unconfined, ""), "0"),
        ("default", profile(ProfileType::RuntimeDefault, ""), "2"),
        ("localhost", profile(ProfileType::Localhost, &file), "2"),
    ];
    let shared = |seccomp| LinuxSandboxSecurityContext {
        namespace_options: Some(NamespaceOption {
            pid: NamespaceMode::Pod.into(),
            network: NamespaceMode::Node.into(),
            ..Default::default()
        }),
        seccomp,
        ..Default::default()
    };
    for (name, seccomp, expected) in cases {
        let mut config = node.pod(name);
        config.linux.as_mut().unwrap().security_context = Some(shared(seccomp));
        let pod = node.running("", config).await?;
        let mut look = container("look", &pod.image, &["grep", "Seccomp:", "/proc/1/status"]);
        look.linux = with(|asked| asked.namespace_options.get_or_insert_default().pid = NamespaceMode::Pod.into());
        assert_eq!(pod.ran(&look).await?.exit_code, 0, "{name}");
        assert_eq!(
            node.said(name, "look", "stdout")?.trim(),
            format!("Seccomp:\t{expected}"),
            "{name}"
        );
        node.client.remove_pod(&pod.id).await?;
    }

    let mut config = node.pod("missing");
    let missing = profile(ProfileType::Localhost, "/not/there.json");
    config.linux.as_mut().unwrap().security_context = Some(shared(missing));
    let error = node.client.run_pod(&config).await.unwrap_err();
    assert!(error.message().contains("/not/there.json"), "{error}");
    Ok(())
}

async fn profiles_may_be_asked_for_in_the_older_fields(node: &mut Node) -> anyhow::Result<()> {
    let file = node.path("no-chmod.json");
    std::fs::write(&file, NO_CHMOD)?;
    let pod = node.running_host_pod("older").await?;
    let script = "grep Seccomp: /proc/self/status; chmod 400 /tmp/";
    let localhost = format!("localhost/{}", file.display());
    let cases = [
        ("unconfined", "unconfined", "0", 0),
        ("default", "runtime/default", "2", 0),
        ("localhost", localhost.as_str(), "2", 1),
    ];
    for (name, older, mode, code) in cases {
        let mut config = sh(name, &pod.image, script);
        #[expect(deprecated, reason = "the older field is what is tested")]
        let linux = with(|asked| asked.seccomp_profile_path = older.to_owned());
        config.linux = linux;
        assert_eq!(pod.ran(&config).await?.exit_code, code, "{name}");
        let said = node.said("older", name, "stdout")?;
        assert_eq!(said.trim(), format!("Seccomp:\t{mode}"), "{name}");
    }
    let mut config = sh("nonsense", &pod.image, "exit 0");
    #[expect(deprecated, reason = "the older field is what is tested")]
    let linux = with(|asked| asked.apparmor_profile = "nonsense".to_owned());
    config.linux = linux;
    let error = node.client.create(&pod.id, &config, &pod.config).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("apparmor_profile"), "{error}");
    Ok(())
}

async fn values_that_are_none_are_refused(node: &mut Node) -> anyhow::Result<()> {
    let before = node.snapshot();
    let of_pods: [fn(&mut LinuxSandboxSecurityContext); 4] = [
        |asked| asked.supplemental_groups_policy = 17,
        |asked| asked.seccomp.get_or_insert_default().profile_type = 17,
        |asked| asked.apparmor.get_or_insert_default().profile_type = 17,
        |asked| asked.namespace_options.get_or_insert_default().ipc = 17,
    ];
    for change in of_pods {
        let mut config = node.pod("none");
        let mut asked = pod_security(NamespaceMode::Node);
        change(&mut asked);
        config.linux.as_mut().unwrap().security_context = Some(asked);
        assert_eq!(refused(node.client.run_pod(&config).await), Code::InvalidArgument);
    }
    node.nothing_more_than(&before).await?;

    let pod = node.running_host_pod("some").await?;
    let of_containers: [fn(&mut LinuxContainerSecurityContext); 4] = [
        |asked| asked.supplemental_groups_policy = 17,
        |asked| asked.seccomp.get_or_insert_default().profile_type = 17,
        |asked| asked.apparmor.get_or_insert_default().profile_type = 17,
        |asked| asked.namespace_options.get_or_insert_default().pid = 17,
    ];
    for change in of_containers {
        let mut config = sh("c", &pod.image, "exit 0");
        config.linux = with(change);
        let created = node.client.create(&pod.id, &config, &pod.config).await;
        assert_eq!(refused(created), Code::InvalidArgument);
    }
    Ok(())
}

async fn what_is_mounted_beneath_is_read_only_too_where_the_runtime_can(node: &mut Node) -> anyhow::Result<()> {
    let handlers = node.client.node_status().await?.runtime_handlers;
    let can = |name: &str| {
        let found = handlers.iter().find(|handler| handler.name == name);
        found
            .and_then(|handler| handler.features)
            .is_some_and(|features| features.recursive_read_only_mounts)
    };
    let runtime = node.runtime.name();
    assert_eq!(can(""), can(runtime), "the empty name is the default handler's");
    assert!(can("") || runtime != "runc", "runc has it since 1.1, Linux since 5.12");

    let pod = node.running_host_pod("beneath").await?;
    let before = node.snapshot();
    let volume = node.path("volume");
    let beneath = volume.join("beneath");
    std::fs::create_dir_all(&beneath)?;
    let beneath = beneath.display().to_string();
    node.namespaces.run("mount", &["-t", "tmpfs", "none", &beneath])?;
    for recursive_read_only in [false, true] {
        let mut config = sh(
            if recursive_read_only { "recursive" } else { "plain" },
            &pod.image,
            "touch /in/beneath/x",
        );
        config.mounts = vec![Mount {
            container_path: "/in".to_owned(),
            host_path: volume.display().to_string(),
            readonly: true,
            recursive_read_only,
            ..Default::default()
        }];
        if recursive_read_only && !can("") {
            let error = node.client.create(&pod.id, &config, &pod.config).await.unwrap_err();
            assert_eq!(error.code(), Code::FailedPrecondition);
            assert!(error.message().starts_with("RROUnsupported"), "{error}");
            continue;
        }
        let status = pod.ran(&config).await?;
        assert_eq!(status.mounts[0].recursive_read_only, recursive_read_only);
        assert_eq!(status.exit_code != 0, recursive_read_only);
        if recursive_read_only {
            let said = node.said("beneath", "recursive", "stderr")?;
            assert!(said.contains("Read-only file system"), "{said}");
        }
        node.client.remove(&status.id).await?;
    }
    node.namespaces.run("umount", &[&beneath])?;
    node.nothing_more_than(&before).await
}

async fn capabilities_are_ambient_only_where_it_is_asked_for(node: &mut Node) -> anyhow::Result<()> {
    const NET_BIND_SERVICE: &str = "0000000000000400";
    const NONE: &str = "0000000000000000";
    let pod = node.running_host_pod("ambient").await?;
    let asking = |name: &str, ambient: &[&str]| {
        let mut config = sh(name, &pod.image, "sleep 1000");
        config.linux = with(|asked| {
            asked.run_as_user = Some(Int64Value { value: 1000 });
            asked.capabilities = Some(Capability {
                add_capabilities: vec!["NET_BIND_SERVICE".to_owned()],
                drop_capabilities: vec!["ALL".to_owned()],
                add_ambient_capabilities: ambient.iter().map(|&name| name.to_owned()).collect(),
            });
        });
        config
    };
    // Of its first process, and of a command in it.
    let sets = async |id: &str| {
        let both = ["grep", "-h", "^Cap", "/proc/1/status", "/proc/self/status"];
        let said = node.client.output(id, &both).await?;
        let of = |name: &str| {
            let lines = said.lines().filter_map(|line| line.strip_prefix(name));
            lines.map(|value| value.trim().to_owned()).collect::<Vec<_>>()
        };
        anyhow::Ok([of("CapAmb:"), of("CapEff:"), of("CapBnd:")])
    };
    let plain = pod.run(&asking("plain", &[])).await?;
    assert_eq!(
        sets(&plain).await?,
        [[NONE; 2], [NONE; 2], [NET_BIND_SERVICE; 2]],
        "granted, and lost by who is not root"
    );
    for (name, ambient) in [("short", "NET_BIND_SERVICE"), ("long", "CAP_NET_BIND_SERVICE")] {
        let id = pod.run(&asking(name, &[ambient])).await?;
        assert_eq!(sets(&id).await?, [[NET_BIND_SERVICE; 2]; 3], "{ambient}");
    }

    let before = node.snapshot();
    for (ambient, words) in [
        ("SYS_ADMIN", "SYS_ADMIN is not among those granted"),
        ("NO_SUCH", "NO_SUCH"),
    ] {
        let error = pod.create(&asking("refused", &[ambient])).await.unwrap_err();
        let status = error.downcast_ref::<tonic::Status>().map(|status| status.code());
        assert_eq!(status, Some(Code::InvalidArgument), "{ambient}: {error:#}");
        assert!(format!("{error:#}").contains(words), "{ambient}: {error:#}");
    }
    node.nothing_more_than(&before).await
}
