//! Pods and ports: what Podman has the monitor hold for it.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, ensure};
use e2e::podman::{IMAGE, Podman};
use e2e::with_podman;

with_podman!(
    a_pod_is_reached_by_its_port_and_shares_its_network,
    a_port_is_free_before_the_exit_shows,
    a_port_can_be_used_again_by_a_restart,
);

const SERVE: &str = "echo ready; while :; do echo hello | nc -l -p 80; done";

fn a_pod_is_reached_by_its_port_and_shares_its_network(podman: &Podman) -> anyhow::Result<()> {
    let words = ["pod", "create", "--name", "p", "--network", "bridge", "-p", "18080:80"];
    podman.run(&[&words[..], &["--infra-command", "sleep 1000"]].concat())?;
    podman.run(&["run", "-d", "--pod", "p", "--name", "web", IMAGE, "sh", "-c", SERVE])?;
    podman.run(&[
        "run",
        "--rm",
        "--pod",
        "p",
        IMAGE,
        "sh",
        "-c",
        "while ! nc 127.0.0.1 80 </dev/null | grep hello; do sleep 0.02; done",
    ])?;
    let address = podman.run(&[
        "exec",
        "web",
        "sh",
        "-c",
        "ip addr show eth0 | grep -o 'inet [0-9.]*' | cut -c6-",
    ])?;
    let mut stream = podman.namespaces.connect(format!("{address}:80").parse()?)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    ensure!(said == "hello\n", "{said}");
    podman.run(&["pod", "stop", "-t", "0", "p"])?;
    podman.run(&["pod", "start", "p"])?;
    podman.logs_have("web", "ready\nready")?;
    podman.run(&["pod", "rm", "-f", "-t", "0", "p"])?;
    Ok(())
}

/// Podman passes the sockets that hold the ports to the monitor. Who learns of the exit may want the port at once.
fn a_port_is_free_before_the_exit_shows(podman: &Podman) -> anyhow::Result<()> {
    let port = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 18081));
    let words = ["run", "-d", "--network", "bridge", "-p", "18081:80", "--name"];
    for round in 0..3 {
        let name = format!("c{round}");
        let script = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.02; done";
        let id = podman.run(&[&words[..], &[&name, IMAGE, "sh", "-c", script]].concat())?;
        podman.logs_have(&name, "ready")?;
        ensure!(podman.namespaces.listen(port).is_err(), "nobody holds the port");
        let pid = podman.inspect(&name, ".State.Pid")?;
        podman.namespaces.run("kill", &["-TERM", &pid])?;
        let exit = podman.exit_file(&id);
        podman.until("the exit shows", || Ok(exit.exists()))?;
        podman
            .namespaces
            .listen(port)
            .context("the exit shows, and the port is taken")?;
        ensure!(podman.run(&["wait", &name])? == "0");
    }
    Ok(())
}

fn a_port_can_be_used_again_by_a_restart(podman: &Podman) -> anyhow::Result<()> {
    let words = ["run", "-d", "--network", "bridge", "-p", "18082:80", "--name", "c"];
    podman.run(&[&words[..], &[IMAGE, "sh", "-c", "echo life; exec sleep 1000"]].concat())?;
    for _ in 0..3 {
        podman.run(&["restart", "-t", "0", "c"])?;
    }
    ensure!(podman.inspect("c", ".State.Status")? == "running");
    podman.logs_have("c", "life\nlife\nlife\nlife")?;
    Ok(())
}
