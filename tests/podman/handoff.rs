//! What is handed on: readiness to the service manager, descriptors to the container.

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use e2e::podman::{IMAGE, Podman, told};
use e2e::with_podman;

with_podman!(
    the_containers_readiness_reaches_the_service_manager,
    a_descriptor_of_the_callers_reaches_the_container,
);

/// perl and what it needs are in every Debian; busybox can't send datagrams.
const NOTIFY: &str = "use Socket; socket(S, PF_UNIX, SOCK_DGRAM, 0) or die $!; \
    send(S, \"READY=1\\nMAINPID=1\\nSTATUS=up\", 0, pack_sockaddr_un($ENV{NOTIFY_SOCKET})) or die $!; sleep 1000";

fn the_containers_readiness_reaches_the_service_manager(podman: &Podman) -> anyhow::Result<()> {
    let path = podman.path("notify");
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(std::time::Duration::from_secs(60)))?;
    let volumes = ["-v", "/usr:/usr:ro", "-v", "/lib:/lib:ro", "-v", "/lib64:/lib64:ro"];
    let words = ["run", "-d", "--name", "c", "--sdnotify=container"];
    let output = podman
        .command(&[&words[..], &volumes[..], &[IMAGE, "/usr/bin/perl", "-e", NOTIFY]].concat())
        .env("NOTIFY_SOCKET", &path)
        .output()?;
    ensure!(output.status.success(), "{}", told(&output));
    let mut messages = Vec::new();
    while !messages.iter().any(|message: &String| message.contains("READY=1")) {
        let mut packet = [0; 4096];
        let count = manager
            .recv(&mut packet)
            .with_context(|| format!("no readiness after {messages:?}"))?;
        messages.push(String::from_utf8_lossy(packet.get(..count).context("a packet")?).into_owned());
    }
    let ready = messages.last().context("a message")?;
    ensure!(
        !ready.contains("MAINPID"),
        "a container names no process of the host: {ready:?}"
    );
    Ok(())
}

fn a_descriptor_of_the_callers_reaches_the_container(podman: &Podman) -> anyhow::Result<()> {
    std::fs::write(podman.path("secret"), "from the caller\n")?;
    let words = ["run", "--rm", "--preserve-fds", "1", IMAGE, "sh", "-c", "cat <&3"];
    let podman_command = podman.command(&words);
    // A shell opens the descriptor, because a command of ours hands on its three streams only.
    let output = std::process::Command::new("sh")
        .arg("-c")
        .arg("exec \"$@\" 3<\"$SECRET\"")
        .arg("sh")
        .arg(podman_command.get_program())
        .args(podman_command.get_args())
        .envs(
            podman_command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .env("SECRET", podman.path("secret"))
        .stdin(Stdio::null())
        .output()?;
    ensure!(output.stdout == b"from the caller\n", "{}", told(&output));
    Ok(())
}
