//! Which runtime a pod gets for what it says of what runs in it, on a node with two of them.

use cri::v1::*;
use e2e::{Node, Runtime, eventually, sh, with_node};
use tonic::Code;

/// containerd's annotation and CRI-O's.
const UNTRUSTED: &str = "io.kubernetes.cri.untrusted-workload";
const TRUSTED: &str = "io.kubernetes.cri-o.TrustedSandbox";

/// A node made for crun, whose view of cgroups runc shares.
macro_rules! with_both {
    ($($test:ident),+ $(,)?) => {
        $(mod $test {
            #[test] fn with_crun_and_runc() { super::with_node(super::Runtime::Crun, super::$test); }
        })+
    };
}

with_both!(
    an_untrusted_pod_gets_the_runtime_for_those_and_keeps_it,
    what_contradicts_being_untrusted_is_refused,
    who_says_nothing_is_what_the_node_holds_it_for,
    a_node_without_a_runtime_for_the_untrusted_refuses_them,
);

/// What a pod asks for besides, given the number of the mode NODE.
type Change = fn(&mut LinuxSandboxSecurityContext, i32);

/// runc beside the node's crun, for untrusted pods.
async fn with_runc_for_the_untrusted(node: &mut Node) -> anyhow::Result<()> {
    node.configure("50-trust.conf", &runc_for_the_untrusted(node, "trusted"))
        .await
}

fn runc_for_the_untrusted(node: &Node, default_trust: &str) -> String {
    let root = node.path("oci-runc");
    format!(
        "[crio_manager]\nuntrusted_runtime = \"runc\"\ndefault_workload_trust = \"{default_trust}\"\n\
         [crio.runtime.runtimes.runc]\nruntime_root = \"{}\"\n",
        root.display()
    )
}

fn saying(mut config: PodSandboxConfig, annotation: &str, value: &str) -> PodSandboxConfig {
    config.annotations.insert(annotation.to_owned(), value.to_owned());
    config
}

/// Runs a container in a new pod, and gives the runtime that keeps state for it.
async fn runtime_of(node: &mut Node, handler: &str, config: PodSandboxConfig) -> anyhow::Result<&'static str> {
    let pod = node.running(handler, config).await?;
    let container = pod.sh("c", "sleep 1000").await?;
    let runtime = keeper_of(node, &container);
    node.client.remove_pod(&pod.id).await?;
    Ok(runtime)
}

fn keeper_of(node: &Node, container: &str) -> &'static str {
    let by_runc = node.path("oci-runc").join(container).exists();
    let by_crun = node.path("oci").join(container).exists();
    match (by_runc, by_crun) {
        (true, false) => "runc",
        (false, true) => "crun",
        both => panic!("runc and crun know the container: {both:?}"),
    }
}

async fn an_untrusted_pod_gets_the_runtime_for_those_and_keeps_it(node: &mut Node) -> anyhow::Result<()> {
    with_runc_for_the_untrusted(node).await?;
    let plain = node.pod("plain");
    assert_eq!(runtime_of(node, "", plain).await?, "crun");
    for (annotation, value, runtime) in [
        (UNTRUSTED, "true", "runc"),
        (UNTRUSTED, "false", "crun"),
        (TRUSTED, "false", "runc"),
        (TRUSTED, "true", "crun"),
    ] {
        let pod = saying(node.pod("said"), annotation, value);
        assert_eq!(runtime_of(node, "", pod).await?, runtime, "{annotation}={value}");
    }
    let by_name = saying(node.pod("named"), UNTRUSTED, "true");
    assert_eq!(runtime_of(node, "runc", by_name).await?, "runc");
    let only_named = node.pod("only-named");
    assert_eq!(
        runtime_of(node, "runc", only_named).await?,
        "runc",
        "any pod may ask for it"
    );

    // What was decided stays, whatever the configuration becomes.
    let config = saying(node.pod("kept"), UNTRUSTED, "true");
    let mut pod = node.running("", config).await?;
    let status = node.client.pod_status(&pod.id).await?;
    assert_eq!(status.annotations.get(UNTRUSTED).map(String::as_str), Some("true"));
    node.configure("60-trust.conf", "[crio_manager]\nuntrusted_runtime = \"\"\n")
        .await?;
    pod.client = node.client.clone();
    let container = pod.sh("later", "sleep 1000").await?;
    assert_eq!(keeper_of(node, &container), "runc");
    assert_eq!(
        node.client.run_pod(&pod.config).await?,
        pod.id,
        "the same name is the same pod"
    );
    Ok(())
}

async fn what_contradicts_being_untrusted_is_refused(node: &mut Node) -> anyhow::Result<()> {
    with_runc_for_the_untrusted(node).await?;
    let before = node.snapshot();
    let refused = async |node: &Node, handler: &str, config: PodSandboxConfig, words: &[&str]| {
        let error = node.client.run_pod_with(handler, &config).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        for word in words {
            assert!(error.message().contains(word), "{word:?} is not in {error}");
        }
    };
    let changes: [(&str, Change); 4] = [
        ("privileged", |asked, _| asked.privileged = true),
        ("network namespace", |asked, node| {
            asked.namespace_options.get_or_insert_default().network = node;
        }),
        ("PID namespace", |asked, node| {
            asked.namespace_options.get_or_insert_default().pid = node;
        }),
        ("IPC namespace", |asked, node| {
            asked.namespace_options.get_or_insert_default().ipc = node;
        }),
    ];
    for (word, change) in changes {
        let mut config = saying(node.pod("of-the-node"), UNTRUSTED, "true");
        let linux = config.linux.get_or_insert_default();
        change(
            linux.security_context.get_or_insert_default(),
            NamespaceMode::Node.into(),
        );
        refused(node, "", config, &["untrusted", word]).await;
    }
    let elsewhere = saying(node.pod("elsewhere"), UNTRUSTED, "true");
    refused(node, "crun", elsewhere, &["untrusted", "\"crun\"", "\"runc\""]).await;
    let both = saying(saying(node.pod("both"), UNTRUSTED, "true"), TRUSTED, "true");
    refused(node, "", both, &[UNTRUSTED, TRUSTED, "contradict"]).await;
    for value in ["", "yes", "TRUE", "true\nfalse"] {
        refused(node, "", saying(node.pod("strange"), UNTRUSTED, value), &[UNTRUSTED]).await;
    }
    node.nothing_more_than(&before).await?;
    // Its containers cannot get what the pod was refused.
    let config = saying(node.pod("modest"), UNTRUSTED, "true");
    let pod = node.running("", config).await?;
    let mut beyond = sh("c", &pod.image, "exit 0");
    let linux = beyond.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
    let error = node.client.create(&pod.id, &beyond, &pod.config).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    Ok(())
}

async fn who_says_nothing_is_what_the_node_holds_it_for(node: &mut Node) -> anyhow::Result<()> {
    with_runc_for_the_untrusted(node).await?;
    let wary = runc_for_the_untrusted(node, "untrusted");
    node.reload_with("50-trust.conf", &wary)?;
    eventually("the configuration is reloaded", || {
        Ok(node.log().contains("configuration reloaded"))
    })
    .await?;
    let plain = node.pod("plain");
    assert_eq!(runtime_of(node, "", plain).await?, "runc");
    let trusted = saying(node.pod("trusted"), TRUSTED, "true");
    assert_eq!(runtime_of(node, "", trusted).await?, "crun");
    let of_the_node = node.host_network_pod("of-the-node");
    assert_eq!(runtime_of(node, "", of_the_node).await?, "crun");
    let by_name = node.pod("by-name");
    assert_eq!(runtime_of(node, "crun", by_name).await?, "crun");
    Ok(())
}

async fn a_node_without_a_runtime_for_the_untrusted_refuses_them(node: &mut Node) -> anyhow::Result<()> {
    let before = node.snapshot();
    let config = saying(node.pod("nowhere"), UNTRUSTED, "true");
    let error = node.client.run_pod(&config).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    assert!(error.message().contains("crio_manager.untrusted_runtime"), "{error}");
    node.nothing_more_than(&before).await
}
