//! Exec, Attach and PortForward over SPDY and WebSocket, by clients that nobody here wrote: npm's spdy-transport and
//! PyPI's websocket-client.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use cri::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use e2e::streams::{SPDY, WEBSOCKET, exec, exec_url, finish, forward, ports_url, run, spdy, tunnelled, websocket};
use e2e::{Node, eventually, refused, run_on, sh};
use tonic::Code;

run_on!(runc, crun:
    output_and_code_come_over_every_protocol,
    a_terminal_has_the_clients_size,
    ports_are_forwarded_in_both_ways,
);
run_on!(runc:
    a_closed_input_ends_a_filter_and_ten_megabytes_come_back_whole,
    a_command_that_cannot_run_says_why_on_the_error_channel,
    several_clients_at_a_container_see_the_same,
    a_port_nobody_listens_on_is_said_on_the_error_stream,
    a_token_is_good_once,
    what_cannot_be_streamed_is_refused_before_there_is_a_url,
    a_silent_session_is_closed,
    a_client_that_vanishes_leaves_nothing,
    many_sessions_leave_nothing,
    certificates_are_read_anew_when_their_files_change,
    a_client_must_bring_a_certificate_where_authorities_are_named,
);

async fn output_and_code_come_over_every_protocol(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("exec").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let words = ["sh", "-c", "echo out; echo err >&2; exit 7"];
    for protocol in ["v4.channel.k8s.io", "v5.channel.k8s.io"] {
        let url = exec_url(node, &id, &words, false, false).await?;
        let said = run(spdy(node, &["command", &url, protocol, "stdout,stderr"]), b"").await?;
        assert_eq!(said.stdout, b"out\n", "{protocol}");
        assert!(said.stderr.starts_with("err\n"), "{protocol}: {}", said.stderr);
        assert_eq!(said.exit_code(), "7", "{protocol}");
    }
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"] {
        let url = exec_url(node, &id, &words, false, false).await?;
        let said = run(websocket(node, &["command", &url, protocol]), b"").await?;
        assert_eq!(said.stdout, b"out\n", "{protocol}");
        assert!(said.stderr.starts_with("err\n"), "{protocol}: {}", said.stderr);
        assert_eq!(said.exit_code(), "7", "{protocol}");
    }
    for protocol in ["channel.k8s.io", "base64.channel.k8s.io", ""] {
        let url = exec_url(node, &id, &["echo", "old"], false, false).await?;
        let said = run(websocket(node, &["command", &url, protocol]), b"").await?;
        assert_eq!(
            (said.stdout.as_slice(), said.status["status"].as_str()),
            (b"old\n".as_slice(), Some("nothing"))
        );
    }
    let url = exec_url(node, &id, &["true"], false, false).await?;
    let said = run(spdy(node, &["command", &url, SPDY, "stdout,stderr"]), b"").await?;
    assert_eq!(said.status["status"], "Success");
    Ok(())
}

async fn a_closed_input_ends_a_filter_and_ten_megabytes_come_back_whole(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("filter").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let sent: Vec<u8> = (0_u32..2_621_440).flat_map(u32::to_le_bytes).collect();
    let url = exec_url(node, &id, &["cat"], true, false).await?;
    let said = run(spdy(node, &["command", &url, SPDY, "stdin,stdout,stderr"]), &sent).await?;
    assert_eq!(said.status["status"], "Success");
    assert!(
        said.stdout == sent,
        "{} of {} bytes over SPDY",
        said.stdout.len(),
        sent.len()
    );
    let url = exec_url(node, &id, &["cat"], true, false).await?;
    let said = run(websocket(node, &["command", &url, WEBSOCKET]), &sent).await?;
    assert_eq!(said.status["status"], "Success");
    assert!(
        said.stdout == sent,
        "{} of {} bytes over WebSocket",
        said.stdout.len(),
        sent.len()
    );
    Ok(())
}

async fn a_terminal_has_the_clients_size(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("terminal").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let script = "tty -s && until [ \"$(stty size 2>/dev/null)\" = '33 101' ]; do :; done; stty size; exit 3";
    let words = ["sh", "-c", script];
    let url = exec_url(node, &id, &words, true, true).await?;
    let said = run(
        spdy(node, &["command", &url, SPDY, "stdin,stdout,resize", "101x33"]),
        b"",
    )
    .await?;
    assert_eq!(
        (said.stdout.as_slice(), said.exit_code().as_str()),
        (b"33 101\r\n".as_slice(), "3")
    );
    let url = exec_url(node, &id, &words, true, true).await?;
    let said = run(websocket(node, &["command", &url, WEBSOCKET, "101x33"]), b"").await?;
    assert_eq!(
        (said.stdout.as_slice(), said.exit_code().as_str()),
        (b"33 101\r\n".as_slice(), "3")
    );
    Ok(())
}

async fn a_command_that_cannot_run_says_why_on_the_error_channel(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("missing").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let url = exec_url(node, &id, &["/no/such/program"], false, false).await?;
    let said = run(spdy(node, &["command", &url, SPDY, "stdout,stderr"]), b"").await?;
    assert_eq!(said.status["reason"], "InternalError");
    let message = said.status["message"].as_str().unwrap_or_default();
    assert!(message.contains("/no/such/program"), "{message}");
    let url = exec_url(node, &id, &["sh", "-c", "kill -9 $$"], false, false).await?;
    let said = run(websocket(node, &["command", &url, WEBSOCKET]), b"").await?;
    assert_eq!(said.exit_code(), "137");
    Ok(())
}

async fn several_clients_at_a_container_see_the_same(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("attach").await?;
    let mut config = sh(
        "c",
        &pod.image,
        "echo ready; while read line; do echo \"got $line\"; [ \"$line\" = end ] && exit 0; done",
    );
    config.stdin = true;
    let id = pod.create(&config).await?;
    node.client.start(&id).await?;
    let request = AttachRequest {
        container_id: id.clone(),
        stdin: true,
        tty: false,
        stdout: true,
        stderr: true,
    };
    let mut urls = Vec::new();
    for _ in 0..3 {
        urls.push(
            node.client
                .runtime
                .clone()
                .attach(request.clone())
                .await?
                .into_inner()
                .url,
        );
    }
    let watch = |command: Command| {
        tokio::task::spawn_blocking(move || -> anyhow::Result<Vec<u8>> {
            let mut command = command;
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            let _open = child.stdin.take();
            Ok(child.wait_with_output()?.stdout)
        })
    };
    let watchers = [
        watch(spdy(node, &["command", &urls[0], SPDY, "stdin,stdout,stderr"])),
        watch(websocket(node, &["command", &urls[1], WEBSOCKET])),
    ];
    // Every client of the monitor's socket is a descriptor of the monitor: when the watchers are there, somebody types.
    eventually("two clients are attached", || Ok(attached(node)? == 2)).await?;
    let typed = run(
        spdy(node, &["command", &urls[2], SPDY, "stdin,stdout,stderr"]),
        b"one\nend\n",
    )
    .await?;
    assert_eq!(typed.status["status"], "Success");
    assert_eq!(typed.stdout, b"got one\ngot end\n");
    for watcher in watchers {
        assert_eq!(String::from_utf8(watcher.await??)?, "got one\ngot end\n");
    }
    Ok(())
}

/// Connections to the attach sockets of this node's monitors.
fn attached(node: &Node) -> anyhow::Result<usize> {
    let sockets = node.namespaces.run("cat", &["/proc/net/unix"])?;
    // A listener has the flags 00010000; what it accepted has its path too.
    let accepted = |line: &&str| line.ends_with("/attach") && !line.contains(" 00010000 ");
    Ok(sockets.lines().filter(accepted).count())
}

async fn ports_are_forwarded_in_both_ways(node: &mut Node) -> anyhow::Result<()> {
    for (name, own_network) in [("own", true), ("host", false)] {
        let config = if own_network {
            node.pod(name)
        } else {
            node.host_network_pod(name)
        };
        let pod = node.running("", config).await?;
        let echo = echo_in(node, &pod.id, own_network)?;
        let url = ports_url(node, &pod.id, vec![]).await?;
        let said = forward(spdy(node, &["forward", &url, "7001", "40", "100000"])).await?;
        assert_eq!(
            (said["same"].as_u64(), said["said"].as_str()),
            (Some(40), Some("")),
            "{name}: {said}"
        );
        // One that says nothing before the client has ended its half.
        let url = ports_url(node, &pod.id, vec![]).await?;
        let said = forward(spdy(node, &["forward", &url, "7003", "1", "10000000"])).await?;
        assert_eq!(
            (said["same"].as_u64(), said["said"].as_str()),
            (Some(1), Some("")),
            "{name}"
        );
        let url = ports_url(node, &pod.id, vec![]).await?;
        let said = tunnelled(node, &url, "7001").await?;
        assert_eq!(
            (said["same"].as_u64(), said["said"].as_str()),
            (Some(10), Some("")),
            "{name}, in a tunnel"
        );
        let url = ports_url(node, &pod.id, vec![7001]).await?;
        let said = forward(websocket(node, &["ports", &url, SPDY, "hello"])).await?;
        assert_eq!(said["0"], serde_json::json!([7001, "hello"]), "{name}: {said}");
        drop(echo);
        node.client.stop_pod(&pod.id).await?;
        node.client.remove_pod(&pod.id).await?;
    }
    Ok(())
}

/// Servers in the pod's network, which listen.
fn echo_in(node: &Node, pod: &str, own_network: bool) -> anyhow::Result<Echo> {
    use std::io::BufRead as _;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/streaming/echo.py");
    let mut command = if own_network {
        let network = node.path("ns").join("netns").join(pod);
        let mut command = node.namespaces.command("nsenter");
        command.arg(format!("--net={}", network.display())).arg("python3");
        command
    } else {
        node.namespaces.command("python3")
    };
    let mut server = command
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    std::io::BufReader::new(server.stdout.take().context("a pipe")?).read_line(&mut line)?;
    anyhow::ensure!(line == "listening\n", "the servers said {line:?}");
    Ok(Echo(server))
}

struct Echo(std::process::Child);

impl Drop for Echo {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

async fn a_port_nobody_listens_on_is_said_on_the_error_stream(node: &mut Node) -> anyhow::Result<()> {
    let config = node.pod("closed");
    let pod = node.running("", config).await?;
    let url = ports_url(node, &pod.id, vec![]).await?;
    let said = forward(spdy(node, &["forward", &url, "7009", "1", "10"])).await?;
    let text = said["said"].as_str().unwrap_or_default();
    assert!(text.contains("7009") && text.contains("refused"), "{said}");
    let url = ports_url(node, &pod.id, vec![7009]).await?;
    let said = forward(websocket(node, &["ports", &url, "v4.base64.channel.k8s.io", "x"])).await?;
    assert!(said["1"][1].as_str().unwrap_or_default().contains("refused"), "{said}");
    Ok(())
}

async fn a_token_is_good_once(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("token").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let url = exec_url(node, &id, &["true"], false, false).await?;
    run(spdy(node, &["command", &url, SPDY, "stdout,stderr"]), b"").await?;
    let again = run(spdy(node, &["command", &url, SPDY, "stdout,stderr"]), b"").await?;
    assert_eq!(again.status["refused"], 404);
    let url = exec_url(node, &id, &["true"], false, false)
        .await?
        .replace("/exec/", "/attach/");
    let elsewhere = run(websocket(node, &["command", &url, WEBSOCKET]), b"").await?;
    assert_eq!(elsewhere.status["refused"], 404, "a token is good under its own path");
    let back = run(
        websocket(node, &["command", &url.replace("/attach/", "/exec/"), WEBSOCKET]),
        b"",
    )
    .await?;
    assert_eq!(back.status["refused"], 404, "and is spent by the attempt");
    let url = exec_url(node, &id, &["true"], false, false).await?;
    let unknown = run(websocket(node, &["command", &url, "v9.channel.k8s.io"]), b"").await?;
    assert_eq!(unknown.status["refused"], 403);
    assert!(
        !node.log().contains(url.rsplit('/').next().unwrap_or_default()),
        "a token is not logged"
    );
    // Tokens that nobody dials fill up, and make no more of them.
    let mut runtime = node.client.runtime.clone();
    for _ in 0..1000 {
        if let Err(full) = runtime.exec(exec(&id, &["true"], false, false)).await {
            assert_eq!(full.code(), Code::ResourceExhausted);
            return Ok(());
        }
    }
    assert_eq!(
        refused(runtime.exec(exec(&id, &["true"], false, false)).await),
        Code::ResourceExhausted
    );
    Ok(())
}

async fn what_cannot_be_streamed_is_refused_before_there_is_a_url(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("refused").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let mut runtime = node.client.runtime.clone();
    let both = ExecRequest {
        stderr: true,
        ..exec(&id, &["true"], false, true)
    };
    let none = ExecRequest {
        stdout: false,
        stderr: false,
        ..exec(&id, &["true"], false, false)
    };
    for (request, code) in [
        (both, Code::InvalidArgument),
        (none, Code::InvalidArgument),
        (exec("", &["true"], false, false), Code::InvalidArgument),
        (exec(&id, &[], false, false), Code::InvalidArgument),
        (exec(&"0".repeat(64), &["true"], false, false), Code::NotFound),
    ] {
        assert_eq!(refused(runtime.exec(request.clone()).await), code, "{request:?}");
    }
    let attach = AttachRequest {
        container_id: id.clone(),
        stdin: false,
        tty: true,
        stdout: true,
        stderr: false,
    };
    assert_eq!(
        refused(runtime.attach(attach).await),
        Code::InvalidArgument,
        "it has no terminal"
    );
    node.client.stop(&id, 0).await?;
    let stopped = refused(runtime.exec(exec(&id, &["true"], false, false)).await);
    assert_eq!(stopped, Code::FailedPrecondition);
    node.client.stop_pod(&pod.id).await?;
    let ports = PortForwardRequest {
        pod_sandbox_id: pod.id.clone(),
        port: vec![],
    };
    assert_eq!(refused(runtime.port_forward(ports).await), Code::FailedPrecondition);
    Ok(())
}

async fn a_silent_session_is_closed(node: &mut Node) -> anyhow::Result<()> {
    node.configure("10-idle.conf", "[crio.api]\nstream_idle_timeout = \"1s\"\n")
        .await?;
    let pod = node.running_host_pod("idle").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let url = exec_url(node, &id, &["sleep", "3333"], false, false).await?;
    let said = run(spdy(node, &["command", &url, SPDY, "stdout,stderr"]), b"").await?;
    assert_eq!(said.status["status"], "lost");
    eventually("the command is gone", || {
        Ok(node.processes_with("sleep 3333").is_empty())
    })
    .await
}

async fn a_client_that_vanishes_leaves_nothing(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("vanish").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    for script in ["while echo y; do :; done", "trap '' HUP; echo here; exec sleep 3334"] {
        let url = exec_url(node, &id, &["sh", "-c", script], true, false).await?;
        let output = tokio::task::spawn_blocking({
            let command = spdy(node, &["vanish", &url, SPDY, "stdin,stdout,stderr"]);
            move || finish(command, b"")
        });
        output.await??;
        eventually("command and monitor are gone", || {
            let left = [
                node.processes_with("sleep 3334"),
                node.processes_with("echo y"),
                node.processes_with("--exec-attach"),
            ];
            Ok(left.iter().all(Vec::is_empty))
        })
        .await?;
    }
    Ok(())
}

/// Sessions over one connection each, by a client that is quick: the test's own upgrade, and a reset.
async fn many_sessions_leave_nothing(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("many").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let memory = || -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.daemon_pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        Ok(line.context("RssAnon")?.trim().trim_end_matches(" kB").parse()?)
    };
    let round = async |count: usize| -> anyhow::Result<()> {
        for n in 0..count {
            let url = exec_url(node, &id, &["true"], false, false).await?;
            let (host, path) = url
                .strip_prefix("http://")
                .and_then(|rest| rest.split_once('/'))
                .context("a URL")?;
            let mut socket = node.namespaces.connect(host.parse()?)?;
            write!(
                socket,
                "POST /{path} HTTP/1.1\r\nHost: n\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {SPDY}\r\n\r\n"
            )?;
            let mut said = [0; 12];
            socket.read_exact(&mut said)?;
            assert_eq!(&said, b"HTTP/1.1 101");
            if n % 2 == 0 {
                // Junk instead of SPDY.
                socket.write_all(&[0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xff, 0xff])?;
            }
        }
        Ok(())
    };
    round(500).await?;
    let first = memory()?;
    round(10_000).await?;
    eventually("10000 sessions cost less than 8 MiB", || {
        Ok(memory()? < first + 8 * 1024)
    })
    .await?;
    for _ in 0..20 {
        let url = exec_url(node, &id, &["echo", "x"], false, false).await?;
        assert_eq!(
            run(spdy(node, &["command", &url, SPDY, "stdout,stderr"]), b"")
                .await?
                .stdout,
            b"x\n"
        );
    }
    Ok(())
}

async fn certificates_are_read_anew_when_their_files_change(node: &mut Node) -> anyhow::Result<()> {
    let file = |name: &str| node.path(name).display().to_string();
    let (certificate, key) = (file("stream.crt"), file("stream.key"));
    let make = |name: &str| -> anyhow::Result<()> {
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
            ])
            .args([
                "-subj",
                &format!("/CN={name}"),
                "-addext",
                "subjectAltName=IP:127.0.0.1",
            ])
            .args(["-keyout", &key, "-out", &certificate])
            .output()?;
        anyhow::ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Ok(())
    };
    make("first")?;
    let toml =
        format!("[crio.api]\nstream_enable_tls = true\nstream_tls_cert = {certificate:?}\nstream_tls_key = {key:?}\n");
    node.configure("10-tls.conf", &toml).await?;
    let pod = node.running_host_pod("tls").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    for name in ["first", "second"] {
        if name == "second" {
            make(name)?;
        }
        let url = exec_url(node, &id, &["echo", "secret"], false, false).await?;
        let host = url
            .strip_prefix("https://")
            .and_then(|rest| rest.split('/').next())
            .context("a URL of TLS")?;
        let shown = node.namespaces.run(
            "sh",
            &[
                "-c",
                &format!("openssl s_client -connect {host} </dev/null 2>/dev/null | openssl x509 -noout -subject"),
            ],
        )?;
        assert!(shown.contains(name), "{shown}");
        let said = run(spdy(node, &["command", &url, SPDY, "stdout,stderr"]), b"").await?;
        assert_eq!(said.stdout, b"secret\n");
        let url = exec_url(node, &id, &["echo", "secret"], false, false).await?;
        let said = run(websocket(node, &["command", &url, WEBSOCKET]), b"").await?;
        assert_eq!(said.stdout, b"secret\n");
    }
    Ok(())
}

/// A certificate for the server, two authorities, and a client's certificate of each.
const MAKE_CERTIFICATES: &str = r#"
set -e; cd "$0"
new() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=$1" -keyout "$1.key" "${@:2}" 2>/dev/null; }
echo "extendedKeyUsage=clientAuth" > extensions
new server -x509 -out server.crt -addext subjectAltName=IP:127.0.0.1
for authority in one two; do
    new $authority -x509 -out $authority.crt
    new of-$authority -out request
    openssl x509 -req -in request -CA $authority.crt -CAkey $authority.key -CAcreateserial -days 2 \
        -extfile extensions -out of-$authority.crt 2>/dev/null
done
"#;

/// Prints the first line of the answer to whoever brings CERTIFICATE and KEY.
const ASK_OVER_TLS: &str = "
import socket, ssl, sys
host, port = sys.argv[1].split(':')
context = ssl._create_unverified_context()
if len(sys.argv) > 2:
    context.load_cert_chain(sys.argv[2], sys.argv[3])
with context.wrap_socket(socket.create_connection((host, int(port)), 20)) as stream:
    stream.sendall(b'GET /exec/none HTTP/1.1\\r\\nHost: n\\r\\nConnection: close\\r\\n\\r\\n')
    print(stream.recv(1000).decode().splitlines()[0])
";

async fn a_client_must_bring_a_certificate_where_authorities_are_named(node: &mut Node) -> anyhow::Result<()> {
    let at = node.path("tls");
    std::fs::create_dir(&at)?;
    let made = Command::new("bash").args(["-c", MAKE_CERTIFICATES]).arg(&at).output()?;
    anyhow::ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let file = |name: &str| at.join(name).display().to_string();
    std::fs::copy(file("one.crt"), file("authorities.crt"))?;
    let toml = format!(
        "[crio.api]\nstream_enable_tls = true\nstream_tls_cert = {:?}\nstream_tls_key = {:?}\nstream_tls_ca = {:?}\n",
        file("server.crt"),
        file("server.key"),
        file("authorities.crt")
    );
    node.configure("10-tls.conf", &toml).await?;
    let pod = node.running_host_pod("tls").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let url = exec_url(node, &id, &["true"], false, false).await?;
    let host = url.strip_prefix("https://").and_then(|rest| rest.split('/').next());
    let host = host.context("a URL of TLS")?;
    let ask = |client: &str| {
        let (certificate, key) = (file(&format!("{client}.crt")), file(&format!("{client}.key")));
        let mut words = vec!["-c", ASK_OVER_TLS, host];
        if !client.is_empty() {
            words.extend([certificate.as_str(), key.as_str()]);
        }
        node.namespaces.run("python3", &words)
    };
    let is_refused = |client: &str| {
        let error = ask(client).unwrap_err().to_string();
        assert!(
            error.contains("alert") || error.contains("reset"),
            "{client:?}: {error}"
        );
    };
    assert!(ask("of-one")?.starts_with("HTTP/1.1 404"));
    is_refused("of-two");
    is_refused("");
    std::fs::copy(file("two.crt"), file("authorities.new"))?;
    std::fs::rename(file("authorities.new"), file("authorities.crt"))?;
    assert!(ask("of-two")?.starts_with("HTTP/1.1 404"));
    is_refused("of-one");
    Ok(())
}
