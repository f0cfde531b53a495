//! Streams, each over SPDY and over WebSocket.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use cri::v1::*;
use e2e::RunningPod;
use e2e::streams::{self, SPDY, WEBSOCKET, exec_url, ports_url, spdy, websocket};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::case::{Case, until};
use crate::images::{HOST_NGINX, NGINX};
use crate::network::{address, answers};

crate::specs!(stream_01, stream_02, stream_03, stream_04, stream_05);

async fn stream_01(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    let id = case.started(&pod, &case.top()).await?;
    for over_spdy in [true, false] {
        let url = exec_url(case.node, &id, &["echo", "-n", "hello"], false, false).await?;
        let command = if over_spdy {
            spdy(case.node, &["command", &url, SPDY, "stdout,stderr"])
        } else {
            websocket(case.node, &["command", &url, WEBSOCKET])
        };
        let said = streams::run(command, b"").await?;
        ensure!(
            said.stdout == b"hello" && said.status["status"] == "Success",
            "{}",
            said.stderr
        );
    }
    Ok(())
}

/// A client whose input stays open; ends when it does.
async fn open_client(
    command: std::process::Command,
) -> anyhow::Result<(tokio::process::Child, tokio::process::ChildStdin)> {
    let mut child = tokio::process::Command::from(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdin = child.stdin.take().context("a pipe")?;
    Ok((child, stdin))
}

/// A terminal ends with its command, though its input is open.
async fn stream_02(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    let id = case.started(&pod, &case.top()).await?;
    for over_spdy in [true, false] {
        let url = exec_url(case.node, &id, &["echo", "-n", "hello"], true, true).await?;
        let command = if over_spdy {
            spdy(case.node, &["command", &url, SPDY, "stdin,stdout,resize", "80x24"])
        } else {
            websocket(case.node, &["command", &url, WEBSOCKET, "80x24"])
        };
        let (child, _open) = open_client(command).await?;
        let output = tokio::time::timeout(crate::case::EVENTUALLY, child.wait_with_output()).await;
        let output = output.context("the stream waits for its input")??;
        ensure!(String::from_utf8_lossy(&output.stdout).contains("hello"), "{output:?}");
    }
    Ok(())
}

/// What is typed reaches a shell, and the end of what is typed ends it.
async fn stream_03(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    for over_spdy in [true, false] {
        let config = ContainerConfig {
            stdin: true,
            stdin_once: true,
            ..case.container(&["/bin/sh"])
        };
        let id = case.started(&pod, &config).await?;
        let request = AttachRequest {
            container_id: id.clone(),
            stdin: true,
            tty: false,
            stdout: true,
            stderr: true,
        };
        let url = case.client.runtime.clone().attach(request).await?.into_inner().url;
        let command = if over_spdy {
            spdy(case.node, &["command", &url, SPDY, "stdin,stdout,stderr"])
        } else {
            websocket(case.node, &["command", &url, WEBSOCKET])
        };
        let (mut child, mut stdin) = open_client(command).await?;
        stdin.write_all(b"echo -n hello\n").await?;
        let mut said = vec![0; 5];
        let stdout = child.stdout.as_mut().context("a pipe")?;
        tokio::time::timeout(crate::case::EVENTUALLY, stdout.read_exact(&mut said)).await??;
        drop(stdin);
        let output = tokio::time::timeout(crate::case::EVENTUALLY, child.wait_with_output()).await;
        let output = output.context("the stream does not end with its input")??;
        ensure!(said == b"hello" && output.stdout.is_empty(), "{said:?} and {output:?}");
        ensure!(
            String::from_utf8_lossy(&output.stderr).contains("Success"),
            "{output:?}"
        );
        ensure!(case.client.exited(&id, crate::case::EVENTUALLY).await?.exit_code == 0);
    }
    Ok(())
}

async fn served(case: &Case<'_>, image: &str, config: PodSandboxConfig, port: i32) -> anyhow::Result<RunningPod> {
    let config = PodSandboxConfig {
        port_mappings: vec![PortMapping {
            container_port: port,
            ..Default::default()
        }],
        ..config
    };
    let security = LinuxContainerSecurityContext {
        namespace_options: config
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.as_ref()?.namespace_options.clone()),
        ..Default::default()
    };
    let pod = case.run(config).await?;
    case.started(&pod, &crate::case::with_security(case.of_image(image), security))
        .await?;
    Ok(pod)
}

/// Asks a web server through a forwarded port, over SPDY and in a tunnel.
async fn forwarded(case: &Case<'_>, pod: &RunningPod, port: &str) -> anyhow::Result<()> {
    for tunnelled in [false, true] {
        until("a forwarded port answers", async || {
            let url = ports_url(case.node, &pod.id, vec![]).await?;
            let said = if tunnelled {
                streams::got_in_a_tunnel(case.node, &url, port).await?
            } else {
                streams::got(case.node, &url, port).await?
            };
            Ok(said.starts_with("HTTP/1.") && said.contains(" 200 "))
        })
        .await?;
    }
    Ok(())
}

async fn stream_04(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = served(case, NGINX, case.pod(), 80).await?;
    answers(case, &format!("{}:80", address(case, &pod).await?)).await?;
    forwarded(case, &pod, "80").await
}

/// In a pod without a network of its own.
async fn stream_05(case: &Case<'_>) -> anyhow::Result<()> {
    let security = LinuxSandboxSecurityContext {
        namespace_options: Some(NamespaceOption {
            network: NamespaceMode::Node.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let pod = served(case, HOST_NGINX, case.secured(case.pod(), security), 12003).await?;
    answers(case, "127.0.0.1:12003").await?;
    forwarded(case, &pod, "12003").await
}
