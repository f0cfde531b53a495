//! What cadvisor asks of CRI-O's socket over HTTP/1.1, beside gRPC.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use cri::v1::NamespaceMode;
use e2e::client::{labels, sh};
use e2e::{Node, http, run_on};
use serde_json::Value;

run_on!(runc, crun:
    a_container_is_shown_as_cadvisor_reads_it,
);
run_on!(runc:
    the_node_and_its_configuration_are_shown,
    what_is_not_there_is_said_and_grpc_goes_on,
    a_real_client_is_understood,
);

fn connect(node: &Node) -> anyhow::Result<UnixStream> {
    let connection = UnixStream::connect(node.socket())?;
    connection.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(connection)
}

fn document(node: &Node, path: &str) -> anyhow::Result<Value> {
    let answer = http::get(connect(node)?, path)?;
    ensure!(answer.status == 200, "{path}: {answer:?}");
    ensure!(
        answer.head.contains("content-type: application/json"),
        "{}",
        answer.head
    );
    Ok(serde_json::from_str(&answer.body)?)
}

async fn a_container_is_shown_as_cadvisor_reads_it(node: &mut Node) -> anyhow::Result<()> {
    let mut config = node.pod("shown");
    if let Some(security) = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
        security.namespace_options.get_or_insert_default().pid = NamespaceMode::Pod.into();
    }
    let pod = node.running("", config).await?;
    let mut container = sh("c", &pod.image, "sleep 1000");
    container.labels = labels(&[("app", "web")]);
    container.annotations = labels(&[("note", "\"quoted\"\n")]);
    let id = pod.run(&container).await?;

    let shown = document(node, &format!("/containers/{id}"))?;
    let status = node.client.status(&id).await?;
    let pod_status = node.client.pod_status(&pod.id).await?;
    let ip = pod_status.network.context("a pod without a network")?.ip;
    assert_eq!(shown["labels"]["app"], "web");
    assert_eq!(shown["annotations"]["note"], "\"quoted\"\n");
    assert_eq!(shown["created_time"], status.created_at);
    assert_eq!(shown["sandbox"], pod.id);
    assert_eq!(shown["log_path"], status.log_path);
    assert_eq!(shown["ip_addresses"], serde_json::json!([ip]));
    let name = shown["name"].as_str().unwrap_or_default();
    ensure!(name.starts_with("k8s_c_shown_e2e_uid-shown-"), "{name}");
    let annotations = &shown["crio_annotations"];
    assert_eq!(annotations["io.kubernetes.cri-o.ContainerType"], "container");
    assert_eq!(shown["image"], pod.image);
    // The pid is in the daemon's PID namespace, and the root is where the container's files are.
    let pid = shown["pid"].as_i64().context("no pid")?;
    let root = shown["root"].as_str().context("no root")?;
    let said = node.namespaces.run("cat", &[&format!("/proc/{pid}/cmdline")])?;
    ensure!(said.contains("sleep"), "{said:?}");
    node.namespaces.run("test", &["-e", &format!("{root}/bin/sleep")])?;

    // cadvisor asks for every cgroup, that of the pod's own process too.
    let own = document(node, &format!("/containers/{}", pod.id))?;
    assert_eq!(own["crio_annotations"]["io.kubernetes.cri-o.ContainerType"], "sandbox");
    ensure!(own["pid"].as_i64().is_some_and(|own| own > 0 && own != pid), "{own}");

    node.client.stop(&id, 0).await?;
    assert_eq!(document(node, &format!("/containers/{id}"))?["pid"], 0);
    Ok(())
}

async fn the_node_and_its_configuration_are_shown(node: &mut Node) -> anyhow::Result<()> {
    let info = document(node, "/info")?;
    assert_eq!(info["storage_driver"], "overlay");
    assert_eq!(info["cgroup_driver"], node.cgroup_manager.name());
    let root = info["storage_root"].as_str().context("no root")?;
    assert_eq!(root, node.path("root").display().to_string());
    assert_eq!(info["default_id_mappings"]["uids"][0]["container_id"], 0);
    let answer = http::get(connect(node)?, "/config")?;
    assert_eq!(answer.status, 200);
    ensure!(answer.body.contains("[crio.api]"), "{}", answer.body);
    ensure!(
        answer.body.contains(&node.socket().display().to_string()),
        "{}",
        answer.body
    );
    Ok(())
}

async fn what_is_not_there_is_said_and_grpc_goes_on(node: &mut Node) -> anyhow::Result<()> {
    let long = "f".repeat(4000);
    for path in [
        "/containers/0123",
        "/containers/",
        "/containers/../info",
        "/",
        "/debug/pprof",
        &format!("/containers/{long}"),
    ] {
        let answer = http::get(connect(node)?, path)?;
        assert_eq!(answer.status, 404, "{path}");
        ensure!(
            !answer.body.trim().is_empty() && answer.body.len() < 300,
            "{}",
            answer.body
        );
    }
    let posted = http::send(
        connect(node)?,
        "POST /info HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    )?;
    assert_eq!(posted.status, 405);
    // Half a request, and none at all, hold up nobody.
    let mut half = connect(node)?;
    std::io::Write::write_all(&mut half, b"GET /info HT")?;
    let silent = connect(node)?;
    for junk in ["\0\0\0\0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nxx\r\n\r\n"] {
        // Refused, with or without words.
        let _ = http::send(connect(node)?, junk);
    }
    node.client.version().await?;
    document(node, "/info")?;
    drop((half, silent));
    Ok(())
}

async fn a_real_client_is_understood(node: &mut Node) -> anyhow::Result<()> {
    let socket = node.socket().display().to_string();
    let arguments = [
        "-sS",
        "--max-time",
        "60",
        "--unix-socket",
        &socket,
        "http://crio/info",
        "http://crio/info",
    ];
    // Two on one connection.
    let said = node.namespaces.run("curl", &arguments)?;
    assert_eq!(said.matches("storage_root").count(), 2, "{said}");
    let missing = node.namespaces.run(
        "curl",
        &[
            "-sS",
            "--max-time",
            "60",
            "-w",
            "%{http_code}",
            "--unix-socket",
            &socket,
            "http://crio/containers/0123",
        ],
    )?;
    ensure!(missing.ends_with("404") && missing.contains("0123"), "{missing}");
    Ok(())
}
