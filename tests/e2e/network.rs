//! The pod network: addresses, reachability, host ports, and plugins that misbehave.

use std::process::Stdio;
use std::time::{Duration, Instant};

use cri::v1::{PortMapping, Protocol};
use e2e::client::labels;
use e2e::node::{BRIDGE, GATEWAY, SUBNET};
use e2e::{Node, RunningPod, eventually, refused, run_on};
use tonic::Code;

run_on!(runc, crun: a_pod_has_an_address_and_is_reached_there);
run_on!(runc:
    pods_reach_each_other,
    a_pod_in_the_host_network_has_no_address_of_its_own,
    a_host_port_answers_on_loopback_and_on_the_nodes_address,
    a_pod_whose_network_namespace_is_gone_can_still_be_removed,
    an_address_is_free_again_when_its_pod_is_gone,
    a_plugin_that_hangs_fails_the_pod_and_leaves_nothing,
    a_plugin_that_prints_garbage_fails_the_pod_and_leaves_nothing,
    a_plugin_that_fails_half_way_fails_the_pod_and_leaves_nothing,
    a_network_that_appears_later_needs_no_restart,
    a_plugin_that_cannot_serve_makes_the_node_say_so,
    addresses_of_both_families_are_told_and_known_after_a_restart,
    a_host_port_of_one_address_answers_there_alone,
    a_host_port_of_udp_leads_to_the_pod_that_has_it_now,
    the_traffic_of_a_pod_is_limited_as_its_annotations_say,
    the_address_of_a_pod_that_nobody_knows_any_more_is_free_after_a_restart,
);

const SERVER: &str = "while :; do echo hello | nc -l -p 8080; done";

async fn address(pod: &RunningPod) -> anyhow::Result<String> {
    Ok(pod.client.pod_status(&pod.id).await?.network.unwrap_or_default().ip)
}

async fn a_pod_has_an_address_and_is_reached_there(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_pod("server").await?;
    let ip = address(&pod).await?;
    assert!(ip.starts_with("10.88.0."), "{ip}");
    let id = pod.sh("c", SERVER).await?;
    assert_eq!(node.heard(&format!("{ip}:8080")).await?, "hello\n");
    let seen = node.client.output(&id, &["ip", "-o", "-4", "addr"]).await?;
    assert!(
        seen.contains(&format!("inet {ip}/24")) && seen.contains("inet 127.0.0.1/8"),
        "{seen}"
    );
    node.client.stop_pod(&pod.id).await?;
    assert_eq!(
        node.namespaces
            .interfaces()
            .iter()
            .filter(|name| name.starts_with("veth"))
            .count(),
        0
    );
    Ok(())
}

async fn pods_reach_each_other(node: &mut Node) -> anyhow::Result<()> {
    let (server, client) = (node.running_pod("server").await?, node.running_pod("client").await?);
    server.sh("c", SERVER).await?;
    let ip = address(&server).await?;
    node.heard(&format!("{ip}:8080")).await?;
    let id = client.sh("c", "sleep 1000").await?;
    let script = format!("for i in 1 2 3 4 5; do nc -w 2 {ip} 8080 && break; sleep 0.1; done");
    assert_eq!(node.client.output(&id, &["sh", "-c", &script]).await?, "hello\n");
    Ok(())
}

async fn a_pod_in_the_host_network_has_no_address_of_its_own(node: &mut Node) -> anyhow::Result<()> {
    node.running_pod("other").await?; // so that there is a bridge
    let pod = node.running_host_pod("host").await?;
    assert_eq!(address(&pod).await?, "");
    let id = pod.sh("c", "sleep 1000").await?;
    let seen = node.client.output(&id, &["ip", "-o", "link"]).await?;
    assert!(seen.contains(BRIDGE), "{seen}");
    Ok(())
}

async fn a_host_port_answers_on_loopback_and_on_the_nodes_address(node: &mut Node) -> anyhow::Result<()> {
    let mut config = node.pod("published");
    config.port_mappings = vec![PortMapping {
        protocol: Protocol::Tcp.into(),
        container_port: 8080,
        host_port: 9090,
        host_ip: String::new(),
    }];
    let pod = node.running("", config).await?;
    pod.sh("c", SERVER).await?;
    for host in ["127.0.0.1", GATEWAY] {
        assert_eq!(node.heard(&format!("{host}:9090")).await?, "hello\n", "{host}");
    }
    pod.remove().await?;
    assert!(node.namespaces.connect("127.0.0.1:9090".parse()?).is_err());
    let rules = node.namespaces.run("iptables-save", &["-t", "nat"])?;
    assert!(
        !rules.contains("--dport 9090") && !rules.contains("--dports 9090"),
        "{rules}"
    );
    Ok(())
}

async fn a_pod_whose_network_namespace_is_gone_can_still_be_removed(node: &mut Node) -> anyhow::Result<()> {
    let before = node.snapshot();
    let pod = node.running_pod("robbed").await?;
    let pins = node
        .namespaces
        .mounts()
        .into_iter()
        .filter(|mount| mount.contains("/netns/"))
        .collect::<Vec<_>>();
    assert_eq!(pins.len(), 1, "{pins:?}");
    node.namespaces.run("umount", &["-l", &pins[0]])?;
    std::fs::remove_file(node.namespaces.inside(&pins[0]))?;
    // The first attempt may tell of it; the next one must get through.
    if pod.client.stop_pod(&pod.id).await.is_err() {
        pod.client.stop_pod(&pod.id).await?;
    }
    pod.client.remove_pod(&pod.id).await?;
    node.client.remove_image(&pod.image).await?;
    node.nothing_more_than(&before).await
}

/// How many addresses are taken.
fn leases(node: &Node) -> usize {
    let entries = std::fs::read_dir(node.path("ipam/e2e"));
    let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with("10.")).count()
}

async fn an_address_is_free_again_when_its_pod_is_gone(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_pod("lease").await?;
    assert_eq!(leases(node), 1);
    node.client.stop_pod(&pod.id).await?;
    assert_eq!(leases(node), 0, "stopping frees it already");
    node.client.stop_pod(&pod.id).await?;
    Ok(())
}

/// Makes the bridge plugin do something else while a file is there, sees the pod fail and nothing left, then the same
/// pod succeed without it.
async fn a_pod_fails_cleanly(node: &mut Node, misbehaviour: &str, word: &str) -> anyhow::Result<()> {
    let config = node.pod("unlucky");
    // The first pod of a node makes the bridge and its rules; they stay.
    let first = node.client.run_pod(&node.pod("first")).await?;
    node.client.stop_pod(&first).await?;
    node.client.remove_pod(&first).await?;
    let before = node.snapshot();
    node.wrap_plugin(
        "bridge",
        &format!("if [ $CNI_COMMAND = ADD ] && [ -e $DIR/misbehave ]; then\n{misbehaviour}\nfi"),
    )?;
    std::fs::write(node.path("misbehave"), "")?;
    let started = Instant::now();
    let error = node.client.run_pod(&config).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert!(
        error.message().contains(word),
        "{word:?} is not in {:?}",
        error.message()
    );
    assert!(node.client.pods(None).await?.is_empty());
    node.nothing_more_than(&before).await?;
    std::fs::remove_file(node.path("misbehave"))?;
    node.client.run_pod(&config).await?;
    Ok(())
}

async fn a_plugin_that_hangs_fails_the_pod_and_leaves_nothing(node: &mut Node) -> anyhow::Result<()> {
    a_pod_fails_cleanly(node, "sleep 5555", "bridge").await
}

async fn a_plugin_that_prints_garbage_fails_the_pod_and_leaves_nothing(node: &mut Node) -> anyhow::Result<()> {
    a_pod_fails_cleanly(node, "head -c 100000 /dev/urandom; exit 0", "bridge").await
}

async fn a_plugin_that_fails_half_way_fails_the_pod_and_leaves_nothing(node: &mut Node) -> anyhow::Result<()> {
    let body = "$REAL >/dev/null\necho '{\"cniVersion\": \"1.0.0\", \"code\": 11, \"msg\": \"out of luck\"}'\nexit 1";
    a_pod_fails_cleanly(node, body, "out of luck").await
}

async fn a_network_that_appears_later_needs_no_restart(node: &mut Node) -> anyhow::Result<()> {
    let (file, aside) = (node.path("cni/10-e2e.conflist"), node.path("aside"));
    std::fs::rename(&file, &aside)?;
    let until = async |node: &Node, wanted: bool| -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let condition = node.client.condition("NetworkReady").await?;
            if condition.status == wanted {
                assert!(wanted || !condition.message.is_empty(), "it says why");
                return Ok(());
            }
            anyhow::ensure!(started.elapsed() < Duration::from_secs(10), "{condition:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    until(node, false).await?;
    assert_eq!(
        refused(node.client.run_pod(&node.pod("early")).await),
        Code::Unavailable
    );
    let host = node.client.run_pod(&node.host_network_pod("host")).await?;
    node.client.remove_pod(&host).await?;
    std::fs::rename(&aside, &file)?;
    until(node, true).await?;
    node.client.run_pod(&node.pod("late")).await?;
    Ok(())
}

/// Speaks CNI 1.1 for plugins that know 1.0 alone, and has no room while a file is there.
const STATUS: &str = r#"
if [ $CNI_COMMAND = STATUS ]; then
    if [ -e $DIR/full ]; then
        echo '{"cniVersion": "1.1.0", "code": 50, "msg": "no room for pods"}'
        exit 1
    fi
    exit 0
fi
[ $CNI_COMMAND = GC ] && exit 0
sed 's/"cniVersion":"1.1.0"/"cniVersion":"1.0.0"/' | exec $REAL
exit
"#;

async fn a_plugin_that_cannot_serve_makes_the_node_say_so(node: &mut Node) -> anyhow::Result<()> {
    let condition = async |node: &Node, wanted: bool| -> anyhow::Result<String> {
        let started = Instant::now();
        loop {
            let condition = node.client.condition("NetworkReady").await?;
            if condition.status == wanted {
                return Ok(condition.message);
            }
            anyhow::ensure!(started.elapsed() < Duration::from_secs(60), "{condition:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    for plugin in ["bridge", "portmap"] {
        node.wrap_plugin(plugin, STATUS)?;
    }
    let file = node.path("cni/10-e2e.conflist");
    let network = std::fs::read_to_string(&file)?;
    std::fs::write(&file, network.replace("\"1.0.0\"", "\"1.1.0\""))?;
    let pod = node.running_pod("first").await?;
    condition(node, true).await?;
    // No file of the configuration changes: the plugins are asked again and again.
    std::fs::write(node.path("full"), "")?;
    let why = condition(node, false).await?;
    assert!(why.contains("bridge") && why.contains("no room for pods"), "{why}");
    std::fs::remove_file(node.path("full"))?;
    condition(node, true).await?;
    pod.remove().await
}

fn change_network(node: &Node, change: impl FnOnce(&mut serde_json::Value)) -> anyhow::Result<()> {
    let file = node.path("cni/10-e2e.conflist");
    let mut network: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    change(&mut network["plugins"]);
    Ok(std::fs::write(&file, network.to_string())?)
}

async fn addresses_of_both_families_are_told_and_known_after_a_restart(node: &mut Node) -> anyhow::Result<()> {
    // The next pod is on it: nobody has to say that a file has changed.
    change_network(node, |plugins| {
        let ipam = &mut plugins[0]["ipam"];
        ipam["ranges"] = serde_json::json!([[{ "subnet": SUBNET }], [{ "subnet": "fd00:88::/64" }]]);
        ipam["routes"] = serde_json::json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
    })?;
    let pod = node.running_pod("dual").await?;
    let told = node.client.pod_status(&pod.id).await?.network.unwrap_or_default();
    assert!(told.ip.starts_with("10.88.0."), "{told:?}");
    assert_eq!(told.additional_ips.len(), 1, "{told:?}");
    let sixth = told.additional_ips[0].ip.clone();
    assert!(sixth.starts_with("fd00:88::"), "{told:?}");
    pod.sh("c", "while :; do echo hello | nc -l -p 8080; done").await?;
    assert_eq!(node.heard(&format!("[{sixth}]:8080")).await?, "hello\n");
    node.restart().await?;
    assert_eq!(node.client.pod_status(&pod.id).await?.network.unwrap_or_default(), told);
    Ok(())
}

async fn a_host_port_of_one_address_answers_there_alone(node: &mut Node) -> anyhow::Result<()> {
    let mut config = node.pod("published");
    config.port_mappings = vec![PortMapping {
        protocol: Protocol::Tcp.into(),
        container_port: 8080,
        host_port: 9090,
        host_ip: "127.0.0.1".to_owned(),
    }];
    let pod = node.running("", config).await?;
    pod.sh("c", SERVER).await?;
    assert_eq!(node.heard("127.0.0.1:9090").await?, "hello\n");
    assert!(node.namespaces.connect(format!("{GATEWAY}:9090").parse()?).is_err());
    Ok(())
}

/// Asks again and again from one port of its own, as resolvers do: the kernel remembers where that led.
const ASK: &str = "
import socket, sys, time
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.bind(('127.0.0.1', 40053))
own.settimeout(0.2)
for _ in range(100):
    try:
        own.sendto(b'who', ('127.0.0.1', 9053))
        if own.recv(100).decode() == sys.argv[1]:
            sys.exit(0)
    except OSError:
        time.sleep(0.05)
sys.exit('nobody answers so')
";

/// Answers whoever asks, until its standard input ends.
const ANSWER: &str = "
import os, socket, sys, threading
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.bind(('0.0.0.0', 8053))
threading.Thread(target=lambda: os._exit(len(sys.stdin.read())), daemon=True).start()
while True:
    own.sendto(sys.argv[1].encode(), own.recvfrom(100)[1])
";

async fn a_host_port_of_udp_leads_to_the_pod_that_has_it_now(node: &mut Node) -> anyhow::Result<()> {
    for name in ["first", "second"] {
        let mut config = node.pod(name);
        config.port_mappings = vec![PortMapping {
            protocol: Protocol::Udp.into(),
            container_port: 8053,
            host_port: 9053,
            host_ip: String::new(),
        }];
        let pod = node.running("", config).await?;
        let network = node.path("ns/netns").join(&pod.id);
        let mut server = node
            .namespaces
            .command("nsenter")
            .arg(format!("--net={}", network.display()))
            .args(["python3", "-c", ANSWER, name])
            .stdin(Stdio::piped())
            .spawn()?;
        let asked = node.namespaces.run("python3", &["-c", ASK, name]);
        drop(server.stdin.take());
        server.wait()?;
        asked?;
        pod.remove().await?;
    }
    Ok(())
}

async fn the_traffic_of_a_pod_is_limited_as_its_annotations_say(node: &mut Node) -> anyhow::Result<()> {
    change_network(node, |plugins| {
        let shaper = serde_json::json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } });
        plugins.as_array_mut().unwrap().push(shaper);
    })?;
    let limits = |node: &Node| node.namespaces.run("tc", &["qdisc", "show"]);
    node.running_pod("free").await?;
    assert!(!limits(node)?.contains("tbf"));
    let mut config = node.pod("slow");
    let [ingress, egress] = ["kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"];
    config.annotations = labels(&[(ingress, "3M"), (egress, "5M")]);
    let id = node.client.run_pod(&config).await?;
    let set = limits(node)?;
    assert!(set.contains("rate 3Mbit") && set.contains("rate 5Mbit"), "{set}");
    node.client.stop_pod(&id).await?;
    assert!(!limits(node)?.contains("tbf"));
    let mut wrong = node.pod("wrong");
    wrong.annotations = labels(&[(egress, "fast")]);
    assert_eq!(refused(node.client.run_pod(&wrong).await), Code::InvalidArgument);
    Ok(())
}

async fn the_address_of_a_pod_that_nobody_knows_any_more_is_free_after_a_restart(
    node: &mut Node,
) -> anyhow::Result<()> {
    let (lost, kept) = (node.running_pod("lost").await?, node.running_pod("kept").await?);
    let ip = address(&kept).await?;
    assert_eq!(leases(node), 2);
    node.kill9().await?;
    std::fs::remove_file(node.path("state/records/sandboxes").join(format!("{}.json", lost.id)))?;
    // As after a reboot, of which a network's leases are what is left.
    node.give_up(&lost.id)?;
    node.restart().await?;
    eventually("its address is free", || Ok(leases(node) == 1)).await?;
    assert_eq!(
        node.client.pod_status(&kept.id).await?.network.unwrap_or_default().ip,
        ip
    );
    assert!(node.path("ipam/e2e").join(&ip).exists(), "that of the other is not");
    Ok(())
}
