//! Exec, Attach and PortForward by clients that nobody here wrote: npm's spdy-transport and PyPI's websocket-client.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::Context as _;
use cri::v1::{ExecRequest, PortForwardRequest};
use serde_json::Value;

use crate::Node;

pub const SPDY: &str = "v4.channel.k8s.io";
pub const WEBSOCKET: &str = "v5.channel.k8s.io";

/// A client program's last words.
pub struct Said {
    pub stdout: Vec<u8>,
    pub stderr: String,
    /// The last line: what the error channel said, or how the client was refused.
    pub status: Value,
}

impl Said {
    pub fn exit_code(&self) -> String {
        let cause = &self.status["details"]["causes"][0];
        assert_eq!(cause["reason"], "ExitCode", "{}", self.status);
        cause["message"].as_str().unwrap_or_default().to_owned()
    }
}

fn client(node: &Node, program: &str, arguments: &[&str]) -> Command {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let libraries = sources.join("../target/streaming");
    let mut command = node.namespaces.command(program);
    let script = match program {
        "node" => "spdy.js",
        _ => "websocket_client.py",
    };
    command
        .arg(sources.join("e2e/streaming").join(script))
        .args(arguments)
        .env("NODE_PATH", libraries.join("node_modules"))
        .env("PYTHONPATH", libraries.join("python"));
    command
}

pub fn spdy(node: &Node, arguments: &[&str]) -> Command {
    client(node, "node", arguments)
}

pub fn websocket(node: &Node, arguments: &[&str]) -> Command {
    client(node, "python3", arguments)
}

/// Runs a client with this input, to its end.
pub async fn run(command: Command, input: &[u8]) -> anyhow::Result<Said> {
    let input = input.to_vec();
    let output = tokio::task::spawn_blocking(move || finish(command, &input)).await??;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = stderr
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("null");
    Ok(Said {
        status: serde_json::from_str(last).with_context(|| format!("the client said: {stderr}"))?,
        stdout: output.stdout,
        stderr,
    })
}

pub fn finish(mut command: Command, input: &[u8]) -> anyhow::Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A client may end before it has read all.
            let _ = stdin.write_all(input);
        });
        Ok(child.wait_with_output()?)
    })
}

pub fn exec(id: &str, words: &[&str], stdin: bool, tty: bool) -> ExecRequest {
    ExecRequest {
        container_id: id.to_owned(),
        cmd: words.iter().map(|&word| word.to_owned()).collect(),
        stdin,
        stdout: true,
        stderr: !tty,
        tty,
    }
}

pub async fn exec_url(node: &Node, id: &str, words: &[&str], stdin: bool, tty: bool) -> anyhow::Result<String> {
    let request = exec(id, words, stdin, tty);
    Ok(node.client.runtime.clone().exec(request).await?.into_inner().url)
}

pub async fn ports_url(node: &Node, pod: &str, port: Vec<i32>) -> anyhow::Result<String> {
    let request = PortForwardRequest {
        pod_sandbox_id: pod.to_owned(),
        port,
    };
    Ok(node
        .client
        .runtime
        .clone()
        .port_forward(request)
        .await?
        .into_inner()
        .url)
}

/// SPDY by one client, its bytes carried in a WebSocket by the other.
pub async fn tunnelled(node: &Node, url: &str, port: &str) -> anyhow::Result<Value> {
    in_a_tunnel(node, url, async |address| {
        forward(spdy(node, &["forward", address, port, "10", "200000"])).await
    })
    .await
}

/// What a web server behind a forwarded port answers, its head too.
pub async fn got(node: &Node, url: &str, port: &str) -> anyhow::Result<String> {
    let command = spdy(node, &["get", url, port]);
    let output = tokio::task::spawn_blocking(move || finish(command, b"")).await??;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The same through a tunnel.
pub async fn got_in_a_tunnel(node: &Node, url: &str, port: &str) -> anyhow::Result<String> {
    in_a_tunnel(node, url, async |address| got(node, address, port).await).await
}

async fn in_a_tunnel<T>(node: &Node, url: &str, act: impl AsyncFnOnce(&str) -> anyhow::Result<T>) -> anyhow::Result<T> {
    use std::io::BufRead as _;
    let mut carrier = websocket(node, &["tunnel", url]).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    std::io::BufReader::new(carrier.stdout.take().context("a pipe")?).read_line(&mut line)?;
    let said = act(&format!("tcp://127.0.0.1:{}", line.trim())).await;
    tokio::task::spawn_blocking(move || carrier.wait()).await??;
    said
}

pub async fn forward(command: Command) -> anyhow::Result<Value> {
    let output = tokio::task::spawn_blocking(move || finish(command, b"")).await??;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.trim())
        .with_context(|| format!("the client said: {text}{}", String::from_utf8_lossy(&output.stderr)))
}
