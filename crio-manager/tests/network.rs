//! Pinned namespaces and the network driver against the distribution's CNI plugins.
//!
//! Each test runs itself again in mount and network namespaces of its own: bridges, rules and mounts are made there
//! and end with it, whatever happens.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeSet;
use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crio_manager::drivers::namespaces::{Kind, NamespacePlan, Namespaces, Sysctl};
use crio_manager::drivers::network::{Network, NetworkConfig, PodNetwork, PortMapping, Protocol};
use nix::sched::CloneFlags;
use tokio::time::Instant;

const PLUGINS: &str = "/usr/lib/cni";
const INSIDE: &str = "CRIO_NETWORK_TEST_INSIDE";
const GENEROUS: Duration = Duration::from_secs(60);

/// Runs `body` in namespaces of its own, or says loudly why it can't.
fn in_private_namespaces<F: Future<Output = ()>>(test: &str, programs: &[&str], body: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        let mount = |target: &str| {
            Command::new("mount")
                .args(["-t", "tmpfs", "tmpfs", target])
                .status()
                .unwrap()
        };
        assert!(mount("/run").success());
        assert!(mount(std::env::temp_dir().to_str().unwrap()).success()); // a failed test's files end with it too
        assert!(
            Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status()
                .unwrap()
                .success()
        );
        return tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(body());
    }
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("SKIPPED {test}: needs root");
    }
    for program in programs {
        let found = ["/usr/lib/cni", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter();
        if !found.map(|dir| Path::new(dir).join(program)).any(|path| path.exists()) {
            return eprintln!("SKIPPED {test}: needs {program}");
        }
    }
    let status = Command::new("unshare")
        .args(["--mount", "--net", "--uts", "--ipc", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its namespaces");
}

/// Runs `work` on a thread of its own in the pinned namespaces.
fn inside<T: Send + 'static>(pins: &[&Path], work: impl FnOnce() -> T + Send + 'static) -> T {
    let pins: Vec<File> = pins.iter().map(|pin| File::open(pin).unwrap()).collect();
    let enter = move || {
        for pin in pins {
            nix::sched::setns(pin, CloneFlags::empty()).unwrap();
        }
        work()
    };
    std::thread::spawn(enter).join().unwrap()
}

fn hostname() -> String {
    nix::unistd::gethostname().unwrap().into_string().unwrap()
}

const IN_THE_POD: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

#[test]
fn pinned_namespaces_hold_what_was_asked_and_the_caller_stays_where_it_is() {
    let test = "pinned_namespaces_hold_what_was_asked_and_the_caller_stays_where_it_is";
    in_private_namespaces(test, &["unshare", "ip"], || async {
        let root = tempfile::tempdir().unwrap();
        let namespaces = Namespaces::new(root.path());
        let before = (hostname(), std::fs::read_link("/proc/self/ns/net").unwrap());
        let plan = NamespacePlan {
            users: None,
            kinds: vec![Kind::Net, Kind::Ipc, Kind::Uts],
            hostname: Some("web-0".to_owned()),
            sysctls: vec![
                Sysctl::parse("net.ipv4.ip_unprivileged_port_start", "7").unwrap(),
                Sysctl::parse("kernel.shmmni", "77").unwrap(),
            ],
        };
        let pinned = namespaces.pin("a1", plan.clone()).await.unwrap();
        let (net, ipc, uts) = (
            pinned.net.clone().unwrap(),
            pinned.ipc.clone().unwrap(),
            pinned.uts.clone().unwrap(),
        );
        assert_eq!(namespaces.list().await.unwrap()["a1"], pinned);
        assert_eq!(before, (hostname(), std::fs::read_link("/proc/self/ns/net").unwrap()));
        assert_ne!(std::fs::read_to_string(IN_THE_POD).unwrap().trim(), "7");

        let (name, port, segments) = inside(&[&net, &ipc, &uts], || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap(); // loopback is up
            TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let read = |path| std::fs::read_to_string(path).unwrap().trim().to_owned();
            (hostname(), read(IN_THE_POD), read("/proc/sys/kernel/shmmni"))
        });
        assert_eq!((name.as_str(), port.as_str(), segments.as_str()), ("web-0", "7", "77"));

        assert!(namespaces.pin("a1", plan).await.is_err(), "an id is pinned once");
        assert_eq!(inside(&[&uts], hostname), "web-0", "and the first pin is left alone");
        let bad = Sysctl::parse("net.ipv4.no_such_setting", "1").unwrap();
        let plan = NamespacePlan {
            kinds: vec![Kind::Net],
            sysctls: vec![bad],
            ..Default::default()
        };
        assert!(namespaces.pin("b2", plan).await.is_err());
        assert_eq!(namespaces.list().await.unwrap().len(), 1, "a failed pin leaves nothing");

        namespaces.unpin("a1").await.unwrap();
        namespaces.unpin("a1").await.unwrap();
        assert!(namespaces.list().await.unwrap().is_empty());
        assert!(
            !std::fs::read_to_string("/proc/self/mountinfo")
                .unwrap()
                .contains("nsfs")
        );
    });
}

struct Node {
    root: tempfile::TempDir,
    namespaces: Namespaces,
}

impl Node {
    /// `extra` is a plugin type at the end of the chain.
    fn new(extra: Option<&str>) -> Node {
        let root = tempfile::tempdir().unwrap();
        for dir in ["bin", "net.d", "leases"] {
            std::fs::create_dir(root.path().join(dir)).unwrap();
        }
        let leases = root.path().join("leases");
        let extra = extra.map(|name| serde_json::json!({ "type": name }));
        let mut plugins = vec![
            serde_json::json!({
                "type": "bridge", "bridge": "crio-test0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "dataDir": leases, "routes": [{"dst": "0.0.0.0/0"}],
                    "ranges": [[{"subnet": "10.213.0.0/24"}], [{"subnet": "fd00:213::/64"}]],
                },
            }),
            serde_json::json!({ "type": "portmap", "capabilities": {"portMappings": true} }),
        ];
        plugins.extend(extra);
        let list = serde_json::json!({ "cniVersion": "1.0.0", "name": "test", "plugins": plugins });
        std::fs::write(root.path().join("net.d/10-test.conflist"), list.to_string()).unwrap();
        let namespaces = Namespaces::new(root.path().join("ns"));
        Node { root, namespaces }
    }

    async fn open(&self) -> Network {
        Network::open(NetworkConfig {
            conf_dir: self.root.path().join("net.d"),
            plugin_dirs: vec![self.root.path().join("bin"), PathBuf::from(PLUGINS)],
            default_network: None,
            cache_dir: self.root.path().join("cni"),
            own_host_ports: true,
            status_grace: Duration::ZERO,
        })
        .await
        .unwrap()
    }

    async fn pod(&self, id: &str, host_port: u16) -> PodNetwork {
        let plan = NamespacePlan {
            kinds: vec![Kind::Net],
            ..NamespacePlan::default()
        };
        let mapping = PortMapping {
            host_ip: None,
            host_port,
            container_port: 8080,
            protocol: Protocol::Tcp,
        };
        PodNetwork {
            sandbox_id: id.to_owned(),
            name: "web-0".to_owned(),
            namespace: "shop".to_owned(),
            uid: "u".to_owned(),
            netns: self.namespaces.pin(id, plan).await.unwrap().net.unwrap(),
            port_mappings: vec![mapping],
            ..PodNetwork::default()
        }
    }

    /// The addresses that host-local has given out.
    fn leases(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.path().join("leases/test"))
            .into_iter()
            .flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.parse::<IpAddr>().is_ok()).collect()
    }
}

/// Answers connections in a pod, each with `id`, until the process ends.
fn serve(netns: &Path, id: &'static str) {
    let listener = inside(&[netns], || TcpListener::bind("[::]:8080").unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            stream.unwrap().write_all(id.as_bytes()).unwrap();
        }
    });
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn rules() -> String {
    let output = Command::new("iptables-save").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

const NEEDED: [&str; 8] = [
    "unshare",
    "ip",
    "bridge",
    "host-local",
    "portmap",
    "iptables",
    "iptables-save",
    "ip6tables",
];

#[test]
fn a_pod_answers_on_its_address_and_on_its_host_port_until_it_is_taken_off() {
    let test = "a_pod_answers_on_its_address_and_on_its_host_port_until_it_is_taken_off";
    in_private_namespaces(test, &NEEDED, || async {
        let node = Node::new(None);
        let network = node.open().await;
        assert!(network.status().is_ready(), "{:?}", network.status());
        let pod = node.pod("a1", 18080).await;
        let attachment = network.setup(&pod, Instant::now() + GENEROUS).await.unwrap();
        assert_eq!(attachment.ips.len(), 2, "{attachment:?}");
        assert!(attachment.ips[0].is_ipv4());
        serve(&pod.netns, "a1");

        let gateway: IpAddr = "10.213.0.1".parse().unwrap();
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        for address in [(attachment.ips[0], 8080), (gateway, 18080), (loopback, 18080)] {
            assert_eq!(ask(address.into()).unwrap(), "a1", "{address:?}");
        }

        // No host ports: the port-mapping plugin's CHECK looks for IPv4 rules among the IPv6 ones on a dual-stack pod.
        let second = PodNetwork {
            port_mappings: Vec::new(),
            ..node.pod("b2", 18081).await
        };
        let other = network.setup(&second, Instant::now() + GENEROUS).await.unwrap();
        assert_ne!(other.ips, attachment.ips);
        network.check("b2", Instant::now() + GENEROUS).await.unwrap();
        assert_eq!(
            inside(&[&second.netns], move || ask((attachment.ips[0], 8080).into()).unwrap()),
            "a1"
        );

        let network = node.open().await; // a restart
        assert_eq!(network.cached("b2").await.unwrap().unwrap(), other);
        for pod in [&pod, &second] {
            network
                .teardown(&pod.sandbox_id, Some(&pod.netns), Instant::now() + GENEROUS)
                .await
                .unwrap();
            network
                .teardown(&pod.sandbox_id, Some(&pod.netns), Instant::now() + GENEROUS)
                .await
                .unwrap();
            node.namespaces.unpin(&pod.sandbox_id).await.unwrap();
        }
        assert!(ask((loopback, 18080).into()).is_err());
        assert!(node.leases().is_empty(), "{:?}", node.leases());
        assert!(!rules().contains("18080"), "{}", rules());
    });
}

#[test]
fn a_pod_whose_namespace_is_gone_gives_its_address_and_ports_back() {
    let test = "a_pod_whose_namespace_is_gone_gives_its_address_and_ports_back";
    in_private_namespaces(test, &NEEDED, || async {
        let node = Node::new(None);
        let network = node.open().await;
        let pod = node.pod("a1", 18080).await;
        network.setup(&pod, Instant::now() + GENEROUS).await.unwrap();
        assert_eq!(node.leases().len(), 2);
        assert!(rules().contains("18080"));
        node.namespaces.unpin("a1").await.unwrap();
        network
            .teardown("a1", Some(&pod.netns), Instant::now() + GENEROUS)
            .await
            .unwrap();
        assert!(node.leases().is_empty(), "{:?}", node.leases());
        assert!(!rules().contains("18080"), "{}", rules());
    });
}

#[test]
fn an_add_that_was_cut_off_gives_its_address_back_after_a_restart() {
    let test = "an_add_that_was_cut_off_gives_its_address_back_after_a_restart";
    in_private_namespaces(test, &NEEDED, || async {
        let node = Node::new(Some("stall"));
        let stall = node.root.path().join("bin/stall");
        std::fs::write(
            &stall,
            "#!/bin/sh\n[ $CNI_COMMAND = DEL ] && exit 0\ntouch $0.reached\nsleep 1000\n",
        )
        .unwrap();
        std::fs::set_permissions(&stall, std::fs::Permissions::from_mode(0o755)).unwrap();
        let reached = node.root.path().join("bin/stall.reached");
        let network = node.open().await;
        let pod = node.pod("a1", 18080).await;
        let wait = async {
            while !reached.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            outcome = network.setup(&pod, Instant::now() + GENEROUS) => panic!("the last plugin stalls: {outcome:?}"),
            () = wait => {}
        }
        drop(network);
        assert_eq!(node.leases().len(), 2, "the address was given before the cut");

        let network = node.open().await;
        let collected = network
            .gc(network.orphans(&BTreeSet::new()).await.unwrap(), GENEROUS)
            .await
            .unwrap();
        assert_eq!(collected.released, ["a1"], "{collected:?}");
        assert!(node.leases().is_empty(), "{:?}", node.leases());
        assert!(!rules().contains("18080"), "{}", rules());
        let links = inside(&[&pod.netns], || {
            Command::new("ip").args(["-o", "link"]).output().unwrap().stdout
        });
        assert!(!String::from_utf8(links).unwrap().contains("eth0"));
        node.namespaces.unpin("a1").await.unwrap();
    });
}
