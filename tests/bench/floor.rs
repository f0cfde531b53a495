//! What nobody who runs these programs can be faster than: the OCI runtime and the CNI plugins alone.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::stage::until;

const PLUGINS: &str = "/usr/lib/cni";

/// In the floor's directory: the spec of a container as the node makes it.
pub const OUR_SPEC: &str = "ours.json";

/// The network of the peers, of the same kind as that of a test's node.
pub fn network(directory: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "bench",
        "plugins": [
            {
                "type": "bridge", "bridge": "bench0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "dataDir": directory.join("ipam"),
                    "ranges": [[{ "subnet": "10.89.0.0/16" }]], "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
        ],
    })
}

/// Runs `rounds` containers without anybody above them and prints a line `name milliseconds` for each step. It needs
/// namespaces of its own, a root file system at `directory/rootfs`, and runs inside.
pub fn measure(directory: &Path, rounds: usize) -> anyhow::Result<()> {
    write_bundle(directory)?;
    for round in 0..rounds {
        let id = format!("floor{round}");
        let namespace = Path::new("/run/netns").join(&id);
        run(Command::new("ip").args(["netns", "add", &id]))?;
        timed("cni add", || add(directory, &id, &namespace).map(drop))?;
        let pidfile = directory.join("pid");
        let runc = |words: &[&str]| -> anyhow::Result<()> {
            run(Command::new("runc")
                .arg("--root")
                .arg(directory.join("runc"))
                .args(words))
        };
        let (bundle, pid) = (directory.display().to_string(), pidfile.display().to_string());
        link_namespace(directory, &namespace)?;
        timed("create", || {
            runc(&["create", "--bundle", &bundle, "--pid-file", &pid, &id])
        })?;
        timed("start", || runc(&["start", &id]))?;
        timed("exec", || runc(&["exec", &id, "true"]))?;
        timed("kill", || runc(&["kill", &id, "KILL"]))?;
        let process = format!("/proc/{}", fs::read_to_string(&pidfile)?);
        until("the container has ended", || Ok(!is_running(&process)))?;
        timed("delete", || runc(&["delete", &id]))?;
        timed("cni del", || del(directory, &id, &namespace))?;
        run(Command::new("ip").args(["netns", "del", &id]))?;
    }
    Ok(())
}

fn is_running(process: &str) -> bool {
    fs::read_to_string(format!("{process}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

fn timed(name: &str, act: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let began = Instant::now();
    act().context(name.to_owned())?;
    println!("{name} {}", ms(began.elapsed()));
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// All plugins in their order, each with what the one before has answered.
fn add(directory: &Path, id: &str, namespace: &Path) -> anyhow::Result<Value> {
    let mut result = Value::Null;
    for plugin in plugins(directory) {
        result = call("ADD", plugin, id, namespace, &result)?;
    }
    fs::write(directory.join("result"), result.to_string())?;
    Ok(result)
}

fn del(directory: &Path, id: &str, namespace: &Path) -> anyhow::Result<()> {
    let result: Value = serde_json::from_slice(&fs::read(directory.join("result"))?)?;
    for plugin in plugins(directory).into_iter().rev() {
        call("DEL", plugin, id, namespace, &result)?;
    }
    Ok(())
}

fn plugins(directory: &Path) -> Vec<Value> {
    let mut network = network(directory);
    let plugins = network
        .get_mut("plugins")
        .and_then(Value::as_array_mut)
        .map(std::mem::take);
    plugins.unwrap_or_default()
}

fn call(verb: &str, mut plugin: Value, id: &str, namespace: &Path, previous: &Value) -> anyhow::Result<Value> {
    let program = plugin
        .get("type")
        .and_then(Value::as_str)
        .context("a plugin has a type")?
        .to_owned();
    if let Some(fields) = plugin.as_object_mut() {
        fields.insert("cniVersion".to_owned(), json!("1.0.0"));
        fields.insert("name".to_owned(), json!("bench"));
        if !previous.is_null() {
            fields.insert("prevResult".to_owned(), previous.clone());
        }
    }
    let mut child = Command::new(Path::new(PLUGINS).join(&program))
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", id)
        .env("CNI_NETNS", namespace)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", PLUGINS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("no standard input")?
        .write_all(plugin.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{program} {verb}: {text}");
    Ok(if text.trim().is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&text)?
    })
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    // A container keeps the streams of its creator, so they are no pipes that somebody waits for.
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

fn write_bundle(directory: &Path) -> anyhow::Result<()> {
    run(Command::new("runc").arg("spec").current_dir(directory))?;
    Ok(())
}

/// The container sleeps in the network namespace made for it, behind the same system call filter as the node's.
fn link_namespace(directory: &Path, namespace: &Path) -> anyhow::Result<()> {
    let path = directory.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&path)?)?;
    if let Some(process) = spec.get_mut("process").and_then(Value::as_object_mut) {
        process.insert("terminal".to_owned(), json!(false));
        process.insert("args".to_owned(), json!(["sleep", "1000"]));
    }
    let mut ours: Value = serde_json::from_slice(&fs::read(directory.join(OUR_SPEC))?)?;
    let filter = ours
        .pointer_mut("/linux/seccomp")
        .context("a system call filter")?
        .take();
    if let Some(linux) = spec.get_mut("linux").and_then(Value::as_object_mut) {
        linux.insert("seccomp".to_owned(), filter);
    }
    let namespaces = spec.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut);
    for one in namespaces.into_iter().flatten() {
        if one.get("type") == Some(&json!("network")) {
            *one = json!({ "type": "network", "path": namespace });
        }
    }
    Ok(fs::write(path, spec.to_string())?)
}
