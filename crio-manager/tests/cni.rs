//! The network driver against plugins that are shell scripts: what it says to them, and what it does when they fail.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use crio_manager::drivers::network::{
    Attachment, Bandwidth, Dns, Error, Network, NetworkConfig, NetworkStatus, PluginError, PodNetwork, PortMapping,
    ProgramError, Protocol,
};
use tokio::time::Instant;

/// Far beyond what a loaded machine needs; no test waits for it.
const GENEROUS: Duration = Duration::from_secs(60);

struct Node {
    root: tempfile::TempDir,
}

impl Node {
    fn new() -> Node {
        let root = tempfile::tempdir().unwrap();
        for dir in ["bin", "net.d"] {
            std::fs::create_dir(root.path().join(dir)).unwrap();
        }
        Node { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A plugin whose every call is logged as `<name> <command> <netns>`, its input kept as `<name>.<command>`.
    fn plugin(&self, name: &str, script: &str) {
        let root = self.root.path().display();
        let script = format!(
            "#!/bin/sh\ncat > {root}/{name}.$CNI_COMMAND\necho \"{name} $CNI_COMMAND $CNI_NETNS\" >> {root}/log\n\
             ROOT={root}\n{script}\n"
        );
        // Written by a process of its own: a file that a forked child of ours still holds open cannot be executed.
        let mut writer = std::process::Command::new("sh")
            .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
            .arg(self.path("bin").join(name))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        writer.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
    }

    fn network(&self, version: &str, plugins: &[&str]) {
        let plugins: Vec<String> = plugins
            .iter()
            .map(|name| format!(r#"{{"type": "{name}", "capabilities": {{"portMappings": true}}}}"#))
            .collect();
        let plugins = plugins.join(",");
        let text = format!(r#"{{"cniVersion": "{version}", "name": "test", "plugins": [{plugins}]}}"#);
        std::fs::write(self.path("net.d/10-test.conflist"), text).unwrap();
    }

    async fn open(&self) -> Network {
        self.open_with_grace(Duration::ZERO).await
    }

    async fn open_with_grace(&self, status_grace: Duration) -> Network {
        Network::open(NetworkConfig {
            conf_dir: self.path("net.d"),
            plugin_dirs: vec![self.path("bin")],
            default_network: None,
            cache_dir: self.path("cni"),
            own_host_ports: true,
            status_grace,
        })
        .await
        .unwrap()
    }

    fn log(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        log.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    fn input(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(self.path(name)).unwrap()).unwrap()
    }

    fn records(&self) -> usize {
        std::fs::read_dir(self.path("cni"))
            .map(Iterator::count)
            .unwrap_or_default()
    }
}

const GIVES_AN_ADDRESS: &str = r#"[ $CNI_COMMAND = ADD ] &&
    echo '{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24"}]}' || true"#;

fn pod(id: &str) -> PodNetwork {
    PodNetwork {
        sandbox_id: id.to_owned(),
        name: "web-0".to_owned(),
        namespace: "shop".to_owned(),
        uid: "u".to_owned(),
        netns: PathBuf::from("/proc/self/ns/net"),
        port_mappings: vec![PortMapping {
            host_ip: None,
            // Each has its own: no two pods can have the same.
            host_port: id.bytes().map(u16::from).sum::<u16>() - u16::from(b'a') + 80,
            container_port: 8080,
            protocol: Protocol::Tcp,
        }],
        ..PodNetwork::default()
    }
}

fn soon() -> Instant {
    Instant::now() + GENEROUS
}

/// What the plugin did wrong, as the driver tells it.
fn plugin_error(outcome: Result<Attachment, Error>) -> PluginError {
    match outcome.unwrap_err() {
        Error::Chain(error) => *error.source,
        other => panic!("not a plugin's error: {other}"),
    }
}

#[tokio::test]
async fn add_runs_the_chain_forwards_and_del_backwards_with_the_result() {
    let node = Node::new();
    node.plugin("first", GIVES_AN_ADDRESS);
    node.plugin(
        "second",
        r#"[ $CNI_COMMAND = ADD ] && echo '{"ips":[{"address":"10.1.2.4/24"}]}' || true"#,
    );
    node.network("1.0.0", &["first", "second"]);
    let network = node.open().await;
    assert_eq!(
        network.status(),
        NetworkStatus::Ready {
            network: "test".to_owned()
        }
    );

    let attachment = network.setup(&pod("a"), soon()).await.unwrap();
    assert_eq!(attachment.ips, ["10.1.2.4".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(
        node.input("second.ADD")["prevResult"]["ips"][0]["address"],
        "10.1.2.3/24"
    );
    assert_eq!(
        node.input("first.ADD")["runtimeConfig"]["portMappings"][0]["hostPort"],
        80
    );
    assert_eq!(network.cached("a").await.unwrap().unwrap(), attachment);
    network.check("a", soon()).await.unwrap();

    network.teardown("a", None, soon()).await.unwrap();
    assert_eq!(
        node.input("first.DEL")["prevResult"]["ips"][0]["address"],
        "10.1.2.4/24"
    );
    network.teardown("a", None, soon()).await.unwrap();
    let ns = "/proc/self/ns/net";
    let expected = [
        "first ADD",
        "second ADD",
        "first CHECK",
        "second CHECK",
        "second DEL",
        "first DEL",
    ];
    assert_eq!(node.log(), expected.map(|call| format!("{call} {ns}")));
    assert_eq!(node.records(), 0);
}

#[tokio::test]
async fn a_plugin_gets_what_it_declares_of_what_the_pod_has() {
    let node = Node::new();
    node.plugin("first", GIVES_AN_ADDRESS);
    let text = r#"{"cniVersion": "1.0.0", "name": "test", "plugins": [{"type": "first", "capabilities":
        {"dns": true, "cgroupPath": true, "io.kubernetes.cri.pod-annotations": true, "mac": true}}]}"#;
    std::fs::write(node.path("net.d/10-test.conflist"), text).unwrap();
    let network = node.open().await;
    let pod = PodNetwork {
        dns: Some(Dns {
            servers: vec!["10.0.0.10".to_owned()],
            ..Dns::default()
        }),
        cgroup_parent: "/kubepods/pod1".to_owned(),
        annotations: [("team".to_owned(), "shop".to_owned())].into(),
        port_mappings: Vec::new(),
        bandwidth: Some(Bandwidth {
            ingress_bits_per_second: Some(1000),
            ..Bandwidth::default()
        }),
        ..pod("a")
    };
    network.setup(&pod, soon()).await.unwrap();
    network.teardown("a", None, soon()).await.unwrap();
    for command in ["ADD", "DEL"] {
        assert_eq!(
            node.input(&format!("first.{command}"))["runtimeConfig"],
            serde_json::json!({
                "dns": {"servers": ["10.0.0.10"], "searches": [], "options": []},
                "cgroupPath": "/kubepods/pod1",
                "io.kubernetes.cri.pod-annotations": {"team": "shop"},
            })
        );
    }
}

#[tokio::test]
async fn del_without_a_namespace_says_so_and_works_without_the_configuration() {
    let node = Node::new();
    node.plugin("first", GIVES_AN_ADDRESS);
    node.network("1.0.0", &["first"]);
    let network = node.open().await;
    let gone = node.path("gone");
    std::fs::write(&gone, "").unwrap(); // what a reboot leaves of a pin
    network
        .setup(
            &PodNetwork {
                netns: gone.clone(),
                ..pod("a")
            },
            soon(),
        )
        .await
        .unwrap();
    std::fs::remove_file(node.path("net.d/10-test.conflist")).unwrap();

    network.teardown("a", Some(&gone), soon()).await.unwrap();
    assert_eq!(node.log().last().unwrap(), "first DEL");
}

#[tokio::test]
async fn a_plugin_that_hangs_is_killed_with_all_it_started() {
    let node = Node::new();
    node.plugin("first", "sleep 1000 & echo $! > $ROOT/child; echo waiting >&2; wait");
    node.network("1.0.0", &["first"]);
    let network = node.open().await;
    let setup = network.setup(&pod("a"), Instant::now() + Duration::from_secs(2)).await;
    let error = plugin_error(setup);
    assert!(
        matches!(&error, PluginError::Program(ProgramError::TimedOut { stderr, .. }) if stderr == "waiting"),
        "{error}"
    );
    let child = std::fs::read_to_string(node.path("child")).unwrap();
    wait_until(
        || match std::fs::read_to_string(format!("/proc/{}/stat", child.trim())) {
            Ok(stat) => stat.contains(") Z "), // dead; whoever adopted it has yet to notice
            Err(_) => true,
        },
    )
    .await;
}

#[tokio::test]
async fn a_refusal_is_told_in_the_plugins_own_words() {
    let node = Node::new();
    let refusal = r#"{"cniVersion":"1.0.0","code":11,"msg":"try again later","details":"pool is full"}"#;
    node.plugin("first", &format!("echo 'note to self' >&2; echo '{refusal}'; exit 1"));
    node.network("1.0.0", &["first"]);
    let network = node.open().await;
    let error = plugin_error(network.setup(&pod("a"), soon()).await);
    assert_eq!(
        error.to_string(),
        "try again later (code 11): pool is full: note to self"
    );
    assert_eq!(error.code(), Some(11));
}

#[tokio::test]
async fn garbage_a_crash_and_a_flood_are_errors_of_their_own() {
    let node = Node::new();
    node.network("1.0.0", &["first"]);
    node.plugin("first", "echo hello");
    let network = node.open().await;
    let error = plugin_error(network.setup(&pod("a"), soon()).await);
    assert!(
        matches!(&error, PluginError::Garbage { stdout, .. } if stdout == "hello"),
        "{error}"
    );

    node.plugin("first", "echo 'panic: boom' >&2; kill -9 $$");
    let error = plugin_error(network.setup(&pod("b"), soon()).await);
    assert!(
        matches!(&error, PluginError::Crashed { stderr, .. } if stderr == "panic: boom"),
        "{error}"
    );

    node.plugin("first", "head -c 4000000 /dev/zero; sleep 1000");
    let error = plugin_error(network.setup(&pod("c"), soon()).await);
    assert!(
        matches!(error, PluginError::Program(ProgramError::TooMuchOutput)),
        "{error}"
    );
}

#[tokio::test]
async fn a_plugin_that_leaves_a_child_on_its_stdout_is_not_waited_for() {
    let node = Node::new();
    node.plugin(
        "first",
        &format!("sleep 1000 & echo $! > $ROOT/child; {GIVES_AN_ADDRESS}"),
    );
    node.network("1.0.0", &["first"]);
    let network = node.open().await;
    let setup = network.setup(&pod("a"), soon()).await;
    let child = std::fs::read_to_string(node.path("child")).unwrap();
    assert!(
        std::process::Command::new("kill")
            .arg(child.trim())
            .status()
            .unwrap()
            .success()
    );
    setup.unwrap();
}

#[tokio::test]
async fn an_add_cut_off_half_way_is_undone_after_a_restart() {
    let node = Node::new();
    node.plugin("first", GIVES_AN_ADDRESS);
    node.plugin(
        "second",
        "[ $CNI_COMMAND = DEL ] && exit 0; touch $ROOT/reached; sleep 1000",
    );
    node.network("1.0.0", &["first", "second"]);
    let network = node.open().await;
    let reached = node.path("reached");
    let pod = pod("a");
    tokio::select! {
        outcome = network.setup(&pod, soon()) => panic!("the second plugin never answers: {outcome:?}"),
        () = wait_until(|| reached.exists()) => {}
    }
    drop(network);

    let network = node.open().await;
    assert_eq!(network.cached("a").await.unwrap(), None);
    let collected = network
        .gc(network.orphans(&BTreeSet::new()).await.unwrap(), GENEROUS)
        .await
        .unwrap();
    assert_eq!(collected.released, ["a"]);
    assert_eq!(node.input("first.DEL").get("prevResult"), None);
    let ns = "/proc/self/ns/net";
    assert_eq!(node.log()[2..], [format!("second DEL {ns}"), format!("first DEL {ns}")]);
    assert_eq!(node.records(), 0);
}

#[tokio::test]
async fn a_del_that_fails_is_tried_again_by_the_next_teardown() {
    let node = Node::new();
    node.plugin(
        "first",
        &format!("[ $CNI_COMMAND = DEL ] && [ ! -e $ROOT/healed ] && exit 1; {GIVES_AN_ADDRESS}"),
    );
    node.network("1.0.0", &["first"]);
    let network = node.open().await;
    network.setup(&pod("a"), soon()).await.unwrap();
    let again = network.setup(&pod("a"), soon()).await.unwrap_err();
    assert!(matches!(again, Error::AlreadyAttached(_)), "{again}");
    network.teardown("a", None, soon()).await.unwrap_err();
    assert_eq!(node.records(), 1);
    std::fs::write(node.path("healed"), "").unwrap();
    network.teardown("a", None, soon()).await.unwrap();
    assert_eq!(node.records(), 0);
}

#[tokio::test]
async fn a_broken_record_is_put_aside_once_its_pod_is_released() {
    let node = Node::new();
    node.plugin("first", GIVES_AN_ADDRESS);
    node.network("1.0.0", &["first"]);
    let network = node.open().await;
    std::fs::create_dir(node.path("cni")).unwrap();
    std::fs::write(node.path("cni/a.json"), "{\"version\": 1, ").unwrap();
    network.teardown("a", None, soon()).await.unwrap();
    assert_eq!(node.log(), ["first DEL"]);
    assert!(node.path("cni/quarantine/a.json").exists() && !node.path("cni/a.json").exists());
}

#[tokio::test]
async fn a_network_that_appears_is_noticed_without_a_restart() {
    let node = Node::new();
    let network = node.open().await;
    let mut status = network.subscribe();
    assert!(!network.status().is_ready());
    let error = network.setup(&pod("a"), soon()).await.unwrap_err();
    assert!(matches!(error, Error::NetworkNotReady { .. }), "{error}");

    node.network("1.0.0", &["first"]);
    status
        .wait_for(|s| matches!(s, NetworkStatus::NotReady { reason } if reason.contains("plugin \"first\" is not in")))
        .await
        .unwrap();
    node.plugin("first", GIVES_AN_ADDRESS);
    status.wait_for(NetworkStatus::is_ready).await.unwrap();

    std::fs::write(node.path("net.d/00-bad.conf"), "{").unwrap();
    std::fs::remove_file(node.path("net.d/10-test.conflist")).unwrap();
    status
        .wait_for(|s| matches!(s, NetworkStatus::NotReady { reason } if reason.contains("00-bad.conf: not JSON")))
        .await
        .unwrap();
    assert_eq!(network.broken_files().len(), 1);
}

#[tokio::test]
async fn a_plugin_that_cannot_serve_makes_the_network_not_ready() {
    let node = Node::new();
    let refusal = r#"{"cniVersion":"1.1.0","code":50,"msg":"daemon is down"}"#;
    node.plugin("first", &format!("[ -e $ROOT/up ] && exit 0; echo '{refusal}'; exit 1"));
    node.network("1.1.0", &["first"]);
    let network = node.open().await;
    let mut status = network.subscribe();
    status
        .wait_for(|s| matches!(s, NetworkStatus::NotReady { reason } if reason.contains("daemon is down (code 50)")))
        .await
        .unwrap();
    std::fs::write(node.path("up"), "").unwrap();
    node.network("1.1.0", &["first"]); // any change is a reason to ask again at once
    status.wait_for(NetworkStatus::is_ready).await.unwrap();
}

#[tokio::test]
async fn a_refusal_that_does_not_outlast_its_grace_is_not_told() {
    let node = Node::new();
    let refusal = r#"{"cniVersion":"1.1.0","code":50,"msg":"daemon is down"}"#;
    node.plugin(
        "first",
        &format!("echo x >>$ROOT/asked; [ -e $ROOT/up ] && exit 0; echo '{refusal}'; exit 1"),
    );
    node.network("1.1.0", &["first"]);
    let asked = || std::fs::read_to_string(node.path("asked")).unwrap_or_default().len() / 2;
    let until_asked = async |times: usize| {
        let begun = std::time::Instant::now();
        while asked() < times {
            assert!(begun.elapsed() < GENEROUS, "asked {} times", asked());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let network = node.open_with_grace(GENEROUS).await;
    let status = network.subscribe();
    until_asked(1).await;
    std::fs::write(node.path("up"), "").unwrap();
    node.network("1.1.0", &["first"]); // any change is a reason to ask again at once
    until_asked(2).await;
    assert!(network.status().is_ready());
    assert!(!status.has_changed().unwrap(), "it has been ready all the time");
    drop(network);

    std::fs::remove_file(node.path("up")).unwrap();
    let grace = Duration::from_secs(1);
    let begun = std::time::Instant::now();
    let network = node.open_with_grace(grace).await;
    assert!(network.status().is_ready());
    let mut status = network.subscribe();
    status.wait_for(|status| !status.is_ready()).await.unwrap();
    assert!(begun.elapsed() >= grace, "{:?}", begun.elapsed());
    assert!(
        asked() >= 4,
        "it is asked again when the grace is over, before it is believed"
    );
}

#[tokio::test]
async fn gc_releases_what_no_pod_owns_and_tells_the_plugins_what_remains() {
    let node = Node::new();
    node.plugin("first", GIVES_AN_ADDRESS);
    node.network("1.1.0", &["first"]);
    let network = node.open().await;
    network.setup(&pod("stays"), soon()).await.unwrap();
    network.setup(&pod("goes"), soon()).await.unwrap();
    let valid = BTreeSet::from(["stays".to_owned()]);
    assert!(matches!(network.orphans(&valid).await, Err(Error::TooLateToCollect)));

    let network = node.open().await; // a restart
    let collected = network
        .gc(network.orphans(&valid).await.unwrap(), GENEROUS)
        .await
        .unwrap();
    assert_eq!(collected.released, ["goes"]);
    assert!(collected.failed.is_empty());
    assert_eq!(
        node.input("first.GC")["cni.dev/valid-attachments"],
        serde_json::json!([{"containerID": "stays", "ifname": "eth0"}])
    );
}

#[tokio::test]
async fn ids_that_lead_elsewhere_are_refused() {
    let node = Node::new();
    let network = node.open().await;
    for id in ["", "../a", "a/b", "a;b", "a b"] {
        let error = network.teardown(id, None, soon()).await.unwrap_err();
        assert!(matches!(error, Error::BadSandboxId(_)), "{id:?}: {error}");
    }
}

/// For what no event announces.
async fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
