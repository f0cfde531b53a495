//! Names, addresses and ports of pods.

use anyhow::ensure;
use cri::v1::*;
use e2e::RunningPod;

use crate::case::{Case, until};
use crate::images::NGINX;

crate::specs!(net_01, net_02, net_03, net_04);

/// What is asked for is in resolv.conf.
async fn net_01(case: &Case<'_>) -> anyhow::Result<()> {
    let config = PodSandboxConfig {
        dns_config: Some(DnsConfig {
            servers: vec!["10.10.10.10".to_owned()],
            searches: vec!["google.com".to_owned()],
            options: vec!["ndots:8".to_owned()],
        }),
        ..case.pod()
    };
    let pod = case.run(config).await?;
    let id = case.started(&pod, &case.top()).await?;
    let found = case.output(&id, &["cat", "/etc/resolv.conf"]).await?;
    for line in ["nameserver 10.10.10.10", "search google.com", "options ndots:8"] {
        ensure!(found.contains(line), "{line} is not in {found}");
    }
    Ok(())
}

/// The host name is the pod's.
async fn net_02(case: &Case<'_>) -> anyhow::Result<()> {
    let config = PodSandboxConfig {
        hostname: "test-hostname".to_owned(),
        ..case.pod()
    };
    let pod = case.run(config).await?;
    let id = case.started(&pod, &case.top()).await?;
    let found = case.output(&id, &["hostname"]).await?;
    ensure!(found.trim().eq_ignore_ascii_case("test-hostname"), "{found}");
    Ok(())
}

/// A pod with this port, and a web server in it.
async fn served(case: &Case<'_>, host_port: i32) -> anyhow::Result<RunningPod> {
    let config = PodSandboxConfig {
        port_mappings: vec![PortMapping {
            container_port: 80,
            host_port,
            ..Default::default()
        }],
        ..case.pod()
    };
    let pod = case.run(config).await?;
    case.started(&pod, &case.of_image(NGINX)).await?;
    Ok(pod)
}

pub async fn address(case: &Case<'_>, pod: &RunningPod) -> anyhow::Result<String> {
    Ok(case.client.pod_status(&pod.id).await?.network.unwrap_or_default().ip)
}

/// Waits until a web server answers, as seen from the node, that all is well.
pub async fn answers(case: &Case<'_>, address: &str) -> anyhow::Result<()> {
    let socket: std::net::SocketAddr = address.parse()?;
    until(&format!("http://{address} answers"), async || {
        let Ok(stream) = case.node.namespaces.connect(socket) else {
            return Ok(false);
        };
        let answer = e2e::registry::http(stream, address, "GET", "/", "", &[]);
        Ok(answer.is_ok_and(|answer| answer.status == 200))
    })
    .await
}

/// A container's port alone is reached at the pod's address, and takes none of the node's.
async fn net_03(case: &Case<'_>) -> anyhow::Result<()> {
    let pod = served(case, 0).await?;
    answers(case, &format!("{}:80", address(case, &pod).await?)).await?;
    ensure!(
        case.node.namespaces.connect("127.0.0.1:80".parse()?).is_err(),
        "port 80 of the node is taken"
    );
    Ok(())
}

/// A port of the node answers on loopback.
async fn net_04(case: &Case<'_>) -> anyhow::Result<()> {
    served(case, 12000).await?;
    answers(case, "127.0.0.1:12000").await
}
