//! What Prometheus scrapes: read line by line, and it moves with what happens.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e::{Node, eventually, http, run_on};

run_on!(runc, crun:
    what_happens_on_the_node_is_counted,
);
run_on!(runc:
    what_fails_is_counted_by_its_kind,
    what_hangs_is_shown_with_its_step,
    only_the_collectors_that_are_named_are_served,
    metrics_are_served_over_tls,
    nothing_but_metrics_is_served,
);

/// By name and labels, as they are written.
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    /// Every line is a comment of a known kind or a sample whose metric was announced.
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut kinds = BTreeMap::new();
        let mut samples = BTreeMap::new();
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (what, name) = (
                    words.next().context(line.to_owned())?,
                    words.next().context(line.to_owned())?,
                );
                let rest = words.next().context(line.to_owned())?;
                match what {
                    "HELP" => {}
                    "TYPE" => {
                        let twice = kinds.insert(name.to_owned(), rest.to_owned());
                        ensure!(twice.is_none(), "{name} twice");
                    }
                    _ => anyhow::bail!("what is {line:?}?"),
                }
                continue;
            }
            let (series, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
            let name = series.split('{').next().unwrap_or_default();
            let of_histogram = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end));
            let announced = kinds.get(name).or_else(|| kinds.get(of_histogram?));
            ensure!(announced.is_some(), "nobody announced {line:?}");
            ensure!(!series.contains("e2e"), "a name from outside in {line:?}");
            let value = value.parse().with_context(|| line.to_owned())?;
            ensure!(samples.insert(series.to_owned(), value).is_none(), "{series} twice");
        }
        Ok(Self(samples))
    }

    /// 0 where there is none.
    fn value(&self, series: &str) -> f64 {
        self.0.get(series).copied().unwrap_or(0.0)
    }

    fn operation(&self, what: &str, operation: &str) -> f64 {
        self.value(&format!(
            "container_runtime_crio_operations_{what}{{operation=\"{operation}\"}}"
        ))
    }
}

async fn enable(node: &mut Node, more: &str) -> anyhow::Result<()> {
    let socket = node.path("metrics.sock");
    let toml = format!(
        "[crio.metrics]\nenable_metrics = true\nmetrics_socket = \"{}\"\n{more}",
        socket.display()
    );
    node.configure("60-metrics.conf", &toml).await
}

fn scrape(node: &Node) -> anyhow::Result<Scrape> {
    let answer = http::get(node.namespaces.connect("127.0.0.1:9090".parse()?)?, "/metrics")?;
    ensure!(answer.status == 200, "{answer:?}");
    ensure!(
        answer.head.contains("content-type: text/plain; version=0.0.4"),
        "{}",
        answer.head
    );
    Scrape::parse(&answer.body)
}

async fn what_happens_on_the_node_is_counted(node: &mut Node) -> anyhow::Result<()> {
    enable(node, "").await?;
    let before = scrape(node)?;
    assert_eq!(before.operation("total", "RunPodSandbox"), 0.0);
    assert_eq!(before.value("crio_manager_pods{state=\"ready\"}"), 0.0);
    assert_eq!(before.value("crio_manager_ready{condition=\"runtime\"}"), 1.0);

    let pod = node.running_pod("counted").await?;
    let ended = pod.ran_sh("ended", "exit 3").await?;
    assert_eq!(ended.exit_code, 3);
    let id = pod.sh("runs", "sleep 1000").await?;
    node.client.output(&id, &["true"]).await?;

    let during = scrape(node)?;
    for (operation, calls) in [
        ("RunPodSandbox", 1.0),
        ("CreateContainer", 2.0),
        ("StartContainer", 2.0),
        ("PullImage", 1.0),
    ] {
        assert_eq!(during.operation("total", operation), calls, "{operation}");
        assert_eq!(during.operation("errors_total", operation), 0.0, "{operation}");
        assert_eq!(
            during.operation("latency_seconds_total_count", operation),
            calls,
            "{operation}"
        );
        assert!(during.operation("latency_seconds", operation) > 0.0, "{operation}");
    }
    assert_eq!(
        during.operation("latency_seconds_total_count", "network_setup_pod"),
        1.0
    );
    for (series, value) in [
        ("crio_manager_pods{state=\"ready\"}", 1.0),
        ("crio_manager_pods{state=\"not_ready\"}", 0.0),
        ("crio_manager_containers{state=\"running\"}", 1.0),
        ("crio_manager_containers{state=\"exited\"}", 1.0),
        ("crio_manager_monitors", 1.0),
        ("crio_manager_exits_total{status=\"known\"}", 1.0),
        ("crio_manager_images", 1.0),
        (
            "crio_manager_runtime_invocations_total{verb=\"create\",result=\"ok\"}",
            2.0,
        ),
        (
            "crio_manager_runtime_invocations_total{verb=\"start\",result=\"ok\"}",
            2.0,
        ),
        (
            "crio_manager_runtime_invocations_total{verb=\"exec\",result=\"ok\"}",
            1.0,
        ),
        ("crio_manager_runtime_invocation_seconds_count{verb=\"create\"}", 2.0),
        ("crio_manager_cni_invocations_total{verb=\"add\",result=\"ok\"}", 1.0),
        ("container_runtime_crio_image_pulls_success_total", 1.0),
        ("container_runtime_crio_image_pulls_layer_size_count", 1.0),
    ] {
        assert_eq!(during.value(series), value, "{series}");
    }
    assert!(during.value("crio_manager_image_bytes") > 100_000.0);
    assert!(during.value("process_resident_memory_bytes") > 1e6);
    let fetched: f64 = during
        .0
        .iter()
        .filter(|(series, _)| series.starts_with("container_runtime_crio_image_pulls_bytes_total{"))
        .map(|(_, bytes)| bytes)
        .sum();
    assert_eq!(
        fetched,
        during.value("container_runtime_crio_image_pulls_layer_size_sum")
    );

    // Over the unix socket they are the same; and a pull of what is here fetches nothing.
    node.client.pull(&pod.image).await?;
    pod.remove().await?;
    let answer = http::get(UnixStream::connect(node.path("metrics.sock"))?, "/metrics")?;
    let after = Scrape::parse(&answer.body)?;
    assert_eq!(after.value("crio_manager_pods{state=\"ready\"}"), 0.0);
    assert_eq!(after.value("crio_manager_containers{state=\"running\"}"), 0.0);
    assert_eq!(after.value("crio_manager_exits_total{status=\"known\"}"), 2.0);
    // Once for the stop, and again for the removal, which takes nothing for granted.
    assert!(after.value("crio_manager_cni_invocations_total{verb=\"del\",result=\"ok\"}") >= 1.0);
    assert_eq!(after.value("container_runtime_crio_image_layer_reuse_total"), 1.0);
    assert_eq!(after.value("container_runtime_crio_image_pulls_layer_size_count"), 1.0);
    assert!(after.value("process_cpu_seconds_total") >= before.value("process_cpu_seconds_total"));
    Ok(())
}

async fn what_fails_is_counted_by_its_kind(node: &mut Node) -> anyhow::Result<()> {
    enable(node, "").await?;
    node.registry()?;
    let missing = node.client.pull("127.0.0.1:5000/there/is:none").await;
    ensure!(missing.is_err(), "what is not there was pulled");
    ensure!(node.client.status("0123").await.is_err(), "a status of nothing");
    let script =
        "if [ $CNI_COMMAND = ADD ]; then echo '{\"code\": 100, \"msg\": \"no addresses\"}'; exit 1; fi; exec $REAL";
    node.wrap_plugin("bridge", script)?;
    let pod = node.pod("unconnected");
    ensure!(node.client.run_pod(&pod).await.is_err(), "a pod without a network");

    let scraped = scrape(node)?;
    assert_eq!(
        scraped.value("container_runtime_crio_image_pulls_failure_total{error=\"not_found\"}"),
        1.0
    );
    for operation in ["PullImage", "ContainerStatus", "RunPodSandbox"] {
        assert_eq!(scraped.operation("errors_total", operation), 1.0, "{operation}");
    }
    assert_eq!(
        scraped.value("crio_manager_cni_invocations_total{verb=\"add\",result=\"failed\"}"),
        1.0
    );
    Ok(())
}

async fn what_hangs_is_shown_with_its_step(node: &mut Node) -> anyhow::Result<()> {
    enable(node, "").await?;
    let go = node.path("go");
    node.wrap_plugin(
        "bridge",
        &format!("while [ ! -e {} ]; do sleep 0.05; done; exec $REAL", go.display()),
    )?;
    let (client, config) = (node.client.clone(), node.pod("slow"));
    let made = tokio::spawn(async move { client.run_pod(&config).await });
    let oldest = "crio_manager_under_way_oldest_seconds{verb=\"run pod sandbox\",step=\"connect network\"}";
    // The call is on its way as soon as this task waits for something.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    eventually("the creation hangs in its network", || {
        Ok(scrape(node)?.0.contains_key(oldest))
    })
    .await?;
    assert_eq!(
        scrape(node)?.value("crio_manager_under_way{verb=\"run pod sandbox\"}"),
        1.0
    );
    std::fs::write(&go, "")?;
    made.await??;
    let after = scrape(node)?;
    ensure!(!after.0.contains_key(oldest), "it is over and still shown");
    Ok(())
}

async fn only_the_collectors_that_are_named_are_served(node: &mut Node) -> anyhow::Result<()> {
    enable(
        node,
        "metrics_collectors = [\"crio_operations_total\", \"crio_manager_pods\", \"default_runtime\"]\n",
    )
    .await?;
    node.client.version().await?;
    let scraped = scrape(node)?;
    assert!(scraped.operation("total", "Version") >= 1.0);
    for series in scraped.0.keys() {
        let wanted = ["container_runtime_crio_operations_total{", "crio_manager_pods{"];
        ensure!(
            wanted.iter().any(|name| series.starts_with(name)),
            "{series} was not asked for"
        );
    }
    let complaint = node
        .second_daemon(&["--metrics-collectors", "operations_totals"])
        .await?;
    ensure!(complaint.contains("\"operations_totals\" is no metric"), "{complaint}");
    Ok(())
}

async fn metrics_are_served_over_tls(node: &mut Node) -> anyhow::Result<()> {
    let (certificate, key) = (node.path("metrics.crt"), node.path("metrics.key"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=node", "-addext", "subjectAltName=IP:127.0.0.1"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    enable(
        node,
        &format!("metrics_cert = \"{certificate}\"\nmetrics_key = \"{key}\"\n"),
    )
    .await?;
    let url = "https://127.0.0.1:9090/metrics";
    let text = node
        .namespaces
        .run("curl", &["-sSf", "--max-time", "60", "--cacert", &certificate, url])?;
    assert_eq!(
        Scrape::parse(&text)?.value("crio_manager_ready{condition=\"runtime\"}"),
        1.0
    );
    Ok(())
}

async fn nothing_but_metrics_is_served(node: &mut Node) -> anyhow::Result<()> {
    enable(node, "").await?;
    let connect = || -> anyhow::Result<_> {
        let connection = node.namespaces.connect("127.0.0.1:9090".parse()?)?;
        connection.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(connection)
    };
    for path in ["/", "/metrics/", "/info", "/../metrics"] {
        assert_eq!(http::get(connect()?, path)?.status, 404, "{path}");
    }
    let posted = http::send(
        connect()?,
        "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    )?;
    assert_eq!(posted.status, 405);
    let long = "x".repeat(64 << 10);
    let flood = http::send(connect()?, &format!("GET /metrics HTTP/1.1\r\nHost: {long}\r\n\r\n"));
    ensure!(
        flood.is_err() || flood.is_ok_and(|answer| answer.status >= 400),
        "a head of any length is read"
    );
    scrape(node)?;
    Ok(())
}
