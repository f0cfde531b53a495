//! Ports of the node that lead to pods by a table of our own, on a network that has no plugin for them.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use cri::v1::{PodSandboxConfig, PortMapping, Protocol};
use e2e::node::GATEWAY;
use e2e::{Node, RunningPod, eventually, run_on};
use tonic::Code;

run_on!(runc, crun: a_host_port_leads_into_the_pod_from_everywhere);
run_on!(runc:
    a_host_port_of_one_address_is_there_alone,
    a_host_port_has_one_pod_whoever_makes_it,
    host_ports_are_put_right_after_a_kill,
    a_table_that_somebody_takes_away_is_there_again,
    a_flow_without_connections_goes_to_the_pod_that_has_the_port_now,
    nobody_reaches_the_nodes_loopback_because_of_host_ports,
    a_node_without_nftables_refuses_host_ports_and_nothing_else,
    host_ports_that_others_make_are_left_to_them,
);

const SCTP: &str = include_str!("host_ports/sctp.py");
const ANSWER: &str = include_str!("host_ports/answer.py");
const ASK: &str = include_str!("host_ports/ask.py");

/// What only happens in the end may take this long; what must not happen is waited for this long.
const PATIENCE: &str = "20";
const A_MOMENT: &str = "0.5";

const GATEWAY_V6: &str = "fd00:88::1";
const OUTSIDE: [&str; 2] = ["192.168.9.1", "fd00:99::1"];

/// Both families, and no plugin for ports.
fn without_a_plugin(node: &Node) -> anyhow::Result<()> {
    let file = node.path("cni/10-e2e.conflist");
    let mut network: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    let plugins = network["plugins"].as_array_mut().context("plugins")?;
    plugins.retain(|plugin| plugin["type"] != "portmap");
    let ipam = &mut plugins[0]["ipam"];
    ipam["ranges"] = serde_json::json!([[{ "subnet": e2e::node::SUBNET }], [{ "subnet": "fd00:88::/64" }]]);
    ipam["routes"] = serde_json::json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
    Ok(std::fs::write(&file, network.to_string())?)
}

fn mapping(protocol: Protocol, host_ip: &str, host_port: i32) -> PortMapping {
    PortMapping {
        protocol: protocol.into(),
        container_port: 8080,
        host_port,
        host_ip: host_ip.to_owned(),
    }
}

fn published(node: &Node, name: &str, ports: &[PortMapping]) -> PodSandboxConfig {
    let mut config = node.pod(name);
    config.port_mappings = ports.to_vec();
    config
}

/// A pod, and in its network somebody who says its name on port 8080.
struct Answering {
    pod: RunningPod,
    server: Child,
}

impl Answering {
    async fn start(node: &mut Node, name: &str, ports: &[PortMapping]) -> anyhow::Result<Self> {
        let config = published(node, name, ports);
        let pod = node.running("", config).await?;
        let mut server = in_network_of(node, &pod, "python3")
            .args(["-c", &format!("{SCTP}{ANSWER}"), name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(server.stdout.take().context("stdout")?).read_line(&mut line)?;
        anyhow::ensure!(line == "ready\n", "{line:?}");
        Ok(Answering { pod, server })
    }

    fn hush(&mut self) -> anyhow::Result<()> {
        drop(self.server.stdin.take());
        self.server.wait()?;
        Ok(())
    }

    async fn remove(mut self) -> anyhow::Result<()> {
        self.hush()?;
        self.pod.remove().await
    }
}

fn pin(node: &Node, pod: &RunningPod) -> PathBuf {
    node.path("ns/netns").join(&pod.id)
}

fn in_network_of(node: &Node, pod: &RunningPod, program: &str) -> Command {
    let mut command = node.namespaces.command("nsenter");
    command.arg(format!("--net={}", pin(node, pod).display())).arg(program);
    command
}

/// The answer to the question, or what went wrong.
fn asked(
    mut from: Command,
    protocol: &str,
    to: &str,
    port: u16,
    own_port: u16,
    seconds: &str,
) -> anyhow::Result<String> {
    let script = format!("{SCTP}{ASK}");
    let (port, own_port) = (port.to_string(), own_port.to_string());
    let output = from
        .args(["-c", &script, protocol, to, &port, &own_port, seconds])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{}", said.lines().last().unwrap_or_default());
    Ok(String::from_utf8(output.stdout)?)
}

fn from_node(node: &Node) -> Command {
    node.namespaces.command("python3")
}

/// A network beyond the node's, joined to it by a wire. It ends with its one process.
struct Outside {
    process: Child,
    pid: String,
}

impl Outside {
    fn join(node: &Node) -> anyhow::Result<Self> {
        let mut process = node.namespaces.command("unshare");
        process.args(["--net", "sh", "-c", "echo $$; exec cat"]);
        let mut process = process.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut pid = String::new();
        BufReader::new(process.stdout.take().context("stdout")?).read_line(&mut pid)?;
        let pid = pid.trim().to_owned();
        let script = format!(
            "ip link add wire type veth peer name eth0 netns {pid} && ip link set wire up &&
             ip addr add {}/24 dev wire && ip addr add {}/64 dev wire nodad &&
             nsenter --target {pid} --net sh -c 'ip link set eth0 up &&
             ip addr add 192.168.9.2/24 dev eth0 && ip addr add fd00:99::2/64 dev eth0 nodad'",
            OUTSIDE[0], OUTSIDE[1]
        );
        node.namespaces.run("sh", &["-c", &script])?;
        Ok(Outside { process, pid })
    }

    fn command(&self, node: &Node) -> Command {
        let mut command = node.namespaces.command("nsenter");
        command.args(["--target", &self.pid, "--net", "python3"]);
        command
    }

    fn leave(mut self) -> anyhow::Result<()> {
        drop(self.process.stdin.take());
        self.process.wait()?;
        Ok(())
    }
}

/// What the table leads to where, a line each; `None` where there is no table.
fn leads(node: &Node) -> anyhow::Result<Option<Vec<String>>> {
    let tables = node.namespaces.run("nft", &["list", "tables"])?;
    if !tables.contains("table inet crio_hostports") {
        return Ok(None);
    }
    let text = node
        .namespaces
        .run("nft", &["-j", "list", "table", "inet", "crio_hostports"])?;
    let ruleset: serde_json::Value = serde_json::from_str(&text)?;
    let maps = ruleset["nftables"].as_array().context("nftables")?.iter();
    let elements = maps.filter_map(|item| item["map"]["elem"].as_array()).flatten();
    Ok(Some(elements.map(ToString::to_string).collect()))
}

async fn a_host_port_leads_into_the_pod_from_everywhere(node: &mut Node) -> anyhow::Result<()> {
    without_a_plugin(node)?;
    assert_eq!(leads(node)?, None, "a node without host ports has no table");
    let outside = Outside::join(node)?;
    let ports = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|protocol| mapping(protocol, "", 9090));
    let server = Answering::start(node, "server", &ports).await?;
    let neighbour = node.running_pod("neighbour").await?;
    for protocol in ["tcp", "udp", "sctp"] {
        for to in ["127.0.0.1", GATEWAY, OUTSIDE[0], GATEWAY_V6, OUTSIDE[1]] {
            let sources = [
                ("the node", Some(from_node(node))),
                ("outside", OUTSIDE.contains(&to).then(|| outside.command(node))),
                (
                    "itself",
                    (to != "127.0.0.1").then(|| in_network_of(node, &server.pod, "python3")),
                ),
                (
                    "its neighbour",
                    (to != "127.0.0.1").then(|| in_network_of(node, &neighbour, "python3")),
                ),
            ];
            for (whence, from) in sources {
                let Some(from) = from else {
                    continue;
                };
                let answer = asked(from, protocol, to, 9090, 0, PATIENCE).with_context(|| format!("from {whence}"))?;
                assert_eq!(answer, "server", "{protocol} {to} from {whence}");
            }
        }
    }
    server.remove().await?;
    assert_eq!(leads(node)?, Some(Vec::new()));
    for from in [from_node(node), outside.command(node)] {
        asked(from, "tcp", OUTSIDE[0], 9090, 0, A_MOMENT).expect_err("there is nobody any more");
    }
    outside.leave()
}

async fn a_host_port_of_one_address_is_there_alone(node: &mut Node) -> anyhow::Result<()> {
    without_a_plugin(node)?;
    let ask = |node: &Node, to: &str, patience| asked(from_node(node), "tcp", to, 9090, 0, patience);
    let on_loopback = Answering::start(node, "loopback", &[mapping(Protocol::Tcp, "127.0.0.1", 9090)]).await?;
    let on_gateway = Answering::start(node, "gateway", &[mapping(Protocol::Tcp, GATEWAY, 9090)]).await?;
    let on_sixth = Answering::start(node, "sixth", &[mapping(Protocol::Tcp, "::", 9090)]).await?;
    assert_eq!(ask(node, "127.0.0.1", PATIENCE)?, "loopback");
    assert_eq!(ask(node, GATEWAY, PATIENCE)?, "gateway");
    assert_eq!(ask(node, GATEWAY_V6, PATIENCE)?, "sixth");
    on_gateway.remove().await?;
    ask(node, GATEWAY, A_MOMENT).expect_err("that of 127.0.0.1 is not that of all");
    assert_eq!(ask(node, "127.0.0.1", PATIENCE)?, "loopback");
    let before = node.snapshot();
    let error = node
        .client
        .run_pod(&published(node, "no", &[mapping(Protocol::Tcp, "::1", 9091)]))
        .await;
    assert_eq!(error.unwrap_err().code(), Code::InvalidArgument);
    node.nothing_more_than(&before).await?;
    on_loopback.remove().await?;
    on_sixth.remove().await
}

async fn a_host_port_has_one_pod_whoever_makes_it(node: &mut Node) -> anyhow::Result<()> {
    let by_plugin = node
        .client
        .run_pod(&published(node, "plugin", &[mapping(Protocol::Tcp, "", 9091)]))
        .await?;
    without_a_plugin(node)?;
    let ours = Answering::start(node, "ours", &[mapping(Protocol::Tcp, "", 9090)]).await?;
    node.restart().await?;
    let before = node.snapshot();
    for (port, holder) in [(9090, &ours.pod.id), (9091, &by_plugin)] {
        for host_ip in ["", "127.0.0.1"] {
            let second = published(node, "second", &[mapping(Protocol::Tcp, host_ip, port)]);
            let error = node.client.run_pod(&second).await.unwrap_err();
            assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
            assert!(
                error.message().contains(holder) && error.message().contains(&port.to_string()),
                "{error}"
            );
        }
    }
    assert!(
        !node.log().contains("disconnect network"),
        "nothing had been made that had to be undone"
    );
    node.nothing_more_than(&before).await?;
    node.client
        .run_pod(&published(node, "other", &[mapping(Protocol::Udp, "", 9090)]))
        .await?;
    ours.remove().await?;
    node.client.stop_pod(&by_plugin).await?;
    let both = [mapping(Protocol::Tcp, "", 9090), mapping(Protocol::Tcp, "", 9091)];
    let next = Answering::start(node, "next", &both).await?;
    for port in [9090, 9091] {
        assert_eq!(asked(from_node(node), "tcp", "127.0.0.1", port, 0, PATIENCE)?, "next");
    }
    next.remove().await
}

async fn host_ports_are_put_right_after_a_kill(node: &mut Node) -> anyhow::Result<()> {
    without_a_plugin(node)?;
    let mut lost = Answering::start(node, "lost", &[mapping(Protocol::Tcp, "", 9091)]).await?;
    let kept = Answering::start(node, "kept", &[mapping(Protocol::Tcp, "", 9090)]).await?;
    assert_eq!(
        leads(node)?.map(|leads| leads.len()),
        Some(4),
        "two ports of two families"
    );
    node.kill9().await?;
    assert_eq!(asked(from_node(node), "tcp", "127.0.0.1", 9090, 0, PATIENCE)?, "kept");
    // One pod is gone without a record, and the table of the other is not what it was.
    lost.hush()?;
    std::fs::remove_file(
        node.path("state/records/sandboxes")
            .join(format!("{}.json", lost.pod.id)),
    )?;
    node.namespaces
        .run("nft", &["flush", "map", "inet", "crio_hostports", "anywhere4"])?;
    node.restart().await?;
    eventually("the table is right", || {
        let leads = leads(node)?.unwrap_or_default();
        Ok(leads.len() == 2 && leads.iter().all(|lead| lead.contains("9090")))
    })
    .await?;
    assert_eq!(asked(from_node(node), "tcp", "127.0.0.1", 9090, 0, PATIENCE)?, "kept");
    node.give_up(&lost.pod.id)?;
    let again = node
        .client
        .run_pod(&published(node, "again", &[mapping(Protocol::Tcp, "", 9091)]))
        .await?;
    node.client.remove_pod(&again).await?;
    kept.remove().await?;
    assert_eq!(leads(node)?, Some(Vec::new()));
    Ok(())
}

async fn a_table_that_somebody_takes_away_is_there_again(node: &mut Node) -> anyhow::Result<()> {
    without_a_plugin(node)?;
    let server = Answering::start(node, "server", &[mapping(Protocol::Tcp, "", 9090)]).await?;
    node.namespaces
        .run("nft", &["delete", "table", "inet", "crio_hostports"])?;
    eventually("the table is there again", || {
        Ok(leads(node)?.is_some_and(|leads| leads.len() == 2))
    })
    .await?;
    assert_eq!(asked(from_node(node), "tcp", "127.0.0.1", 9090, 0, PATIENCE)?, "server");
    server.remove().await
}

async fn a_flow_without_connections_goes_to_the_pod_that_has_the_port_now(node: &mut Node) -> anyhow::Result<()> {
    without_a_plugin(node)?;
    let ports = [Protocol::Udp, Protocol::Sctp].map(|protocol| mapping(protocol, "", 9053));
    // From one port of its own, as resolvers do: the kernel remembers where that led, also when it led nowhere.
    let ask = |node: &Node, protocol, patience| asked(from_node(node), protocol, "127.0.0.1", 9053, 40_053, patience);
    for protocol in ["udp", "sctp"] {
        ask(node, protocol, A_MOMENT).expect_err("nobody yet");
    }
    for name in ["first", "second"] {
        let pod = Answering::start(node, name, &ports).await?;
        for protocol in ["udp", "sctp"] {
            assert_eq!(ask(node, protocol, PATIENCE)?, name, "{protocol}");
        }
        pod.remove().await?;
    }
    Ok(())
}

/// Sends the node a datagram for 127.0.0.1, which no socket would let out of the pod.
const SAY: &str = "
import socket, struct
head = lambda check: struct.pack('!BBHHHBBH4s4s', 0x45, 0, 36, 0, 0, 64, 17, check, bytes([10, 88, 0, 99]), bytes([127, 0, 0, 1]))
total = sum(struct.unpack('!10H', head(0)))
total = (total & 0xffff) + (total >> 16)
packet = head(~total & 0xffff) + struct.pack('!HHHH', 40000, 7777, 16, 0) + b'anyone?!'
wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
wire.sendto(packet, ('eth0', 0x0800, 0, 0, b'\\xff' * 6))
";

async fn nobody_reaches_the_nodes_loopback_because_of_host_ports(node: &mut Node) -> anyhow::Result<()> {
    without_a_plugin(node)?;
    let server = Answering::start(node, "server", &[mapping(Protocol::Tcp, "", 9090)]).await?;
    let intruder = node.running_pod("intruder").await?;
    let dropped = |node: &Node| {
        node.namespaces
            .run("nft", &["list", "chain", "inet", "crio_hostports", "guard"])
    };
    assert!(dropped(node)?.contains("counter packets 0 "));
    eventually("what came has been dropped", || {
        let said = in_network_of(node, &intruder, "python3").args(["-c", SAY]).status()?;
        assert!(said.success());
        Ok(!dropped(node)?.contains("counter packets 0 "))
    })
    .await?;
    server.remove().await
}

async fn a_node_without_nftables_refuses_host_ports_and_nothing_else(node: &mut Node) -> anyhow::Result<()> {
    without_a_plugin(node)?;
    let nft = node.namespaces.run("sh", &["-c", "readlink -f $(command -v nft)"])?;
    let nft = nft.trim();
    assert!(node.manager(&["check"])?.contains("by nftables"));
    node.namespaces.run("mount", &["--bind", "/dev/null", nft])?;
    let before = node.snapshot();
    let error = node
        .client
        .run_pod(&published(node, "server", &[mapping(Protocol::Tcp, "", 9090)]))
        .await;
    let error = error.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(
        error.message().contains("nft") && error.message().contains("check host ports"),
        "{error}"
    );
    node.nothing_more_than(&before).await?;
    let checked = node.manager(&["check"])?;
    let line = checked
        .lines()
        .find(|line| line.contains("host ports"))
        .context("no line")?;
    assert!(line.starts_with("warning") && line.contains("nft"), "{checked}");
    node.running_pod("plain").await?.remove().await?;
    node.namespaces.run("umount", &[nft])?;
    let server = Answering::start(node, "server", &[mapping(Protocol::Tcp, "", 9090)]).await?;
    assert_eq!(asked(from_node(node), "tcp", "127.0.0.1", 9090, 0, PATIENCE)?, "server");
    server.remove().await
}

async fn host_ports_that_others_make_are_left_to_them(node: &mut Node) -> anyhow::Result<()> {
    without_a_plugin(node)?;
    node.configure("50-ports.conf", "[crio.runtime]\ndisable_hostport_mapping = true\n")
        .await?;
    let server = Answering::start(node, "server", &[mapping(Protocol::Tcp, "", 9090)]).await?;
    assert_eq!(leads(node)?, None);
    assert!(node.log().contains("nobody makes host ports here"));
    server.remove().await
}
