//! The field's own client, on machines that have it: neither Debian nor a registry of packages does.

use std::path::Path;

use anyhow::ensure;
use e2e::{Node, TestImage, eventually, run_on};
use serde_json::{Value, json};

run_on!(runc: crictl_makes_a_pod_talks_to_its_container_and_removes_both);

fn is_on_path() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join("crictl").is_file())
}

fn crictl(node: &Node, arguments: &[&str]) -> anyhow::Result<String> {
    let endpoint = format!("unix://{}", node.socket().display());
    // Its own limit of two seconds is for machines that do nothing else.
    let mut all = vec![
        "--runtime-endpoint",
        &endpoint,
        "--image-endpoint",
        &endpoint,
        "--timeout",
        "60s",
    ];
    all.extend(arguments);
    node.namespaces.run("crictl", &all)
}

fn file(node: &Node, name: &str, content: &Value) -> anyhow::Result<String> {
    let path = node.path(name);
    std::fs::write(&path, content.to_string())?;
    Ok(path.display().to_string())
}

async fn crictl_makes_a_pod_talks_to_its_container_and_removes_both(node: &mut Node) -> anyhow::Result<()> {
    if !is_on_path() {
        eprintln!("SKIPPED: crictl is not on PATH");
        return Ok(());
    }
    let image = node.pushed("e2e/crictl:1", &TestImage::busybox()?)?;
    let before = node.snapshot();
    ensure!(crictl(node, &["version"])?.contains("RuntimeApiVersion"));
    ensure!(crictl(node, &["info"])?.contains("NetworkReady"));
    crictl(node, &["pull", &image])?;
    ensure!(crictl(node, &["images"])?.contains("e2e/crictl"));

    let logs = node.path("logs/crictl");
    let pod = json!({
        "metadata": { "name": "crictl", "namespace": "e2e", "uid": "crictl", "attempt": 0 },
        "log_directory": logs.display().to_string(),
        "linux": {
            "cgroup_parent": node.cgroup_parent,
            "security_context": { "namespace_options": { "network": 2, "pid": 1 } },
        },
    });
    let container = json!({
        "metadata": { "name": "c", "attempt": 0 }, "image": { "image": image },
        "command": ["sh", "-c", "echo started; exec sleep 1000"], "log_path": "c.log",
        "linux": { "security_context": { "namespace_options": { "network": 2, "pid": 1 } } },
    });
    let (pod_file, container_file) = (file(node, "pod.json", &pod)?, file(node, "container.json", &container)?);
    let made = |said: String| said.trim().to_owned();
    let pod = made(crictl(node, &["runp", &pod_file])?);
    let id = made(crictl(node, &["create", &pod, &container_file, &pod_file])?);
    crictl(node, &["start", &id])?;
    // The beginning of an id is what its tables show, and what people paste.
    let short = &id[..13];
    ensure!(crictl(node, &["ps"])?.contains(short) && crictl(node, &["pods"])?.contains(&pod[..13]));
    for words in [
        &["exec", "-s", short, "echo", "hello"][..],
        &["exec", short, "echo", "hello"],
        &["exec", "-r", "websocket", short, "echo", "hello"],
    ] {
        ensure!(crictl(node, words)?.trim() == "hello", "{words:?}");
    }
    let failing = crictl(node, &["exec", short, "sh", "-c", "exit 7"]).unwrap_err();
    ensure!(format!("{failing:#}").contains("exit code 7"), "{failing:#}");
    eventually("the log is written", || {
        Ok(crictl(node, &["logs", short])?.contains("started"))
    })
    .await?;
    for (command, of) in [("inspect", id.as_str()), ("inspectp", pod.as_str())] {
        let shown: Value = serde_json::from_str(&crictl(node, &[command, of])?)?;
        ensure!(
            shown["status"]["id"] == of && shown["info"].is_object(),
            "{command}: {shown}"
        );
    }
    ensure!(crictl(node, &["stats", &id])?.contains(short));
    for words in [
        &["stop", &id][..],
        &["rm", &id],
        &["stopp", &pod],
        &["rmp", &pod],
        &["rmi", &image],
    ] {
        crictl(node, words)?;
    }
    for written in [Path::new(&pod_file), Path::new(&container_file)] {
        std::fs::remove_file(written)?;
    }
    let _ = std::fs::remove_dir_all(logs); // crictl removes logs by itself
    node.nothing_more_than(&before).await
}
