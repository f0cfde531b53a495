//! Spans of calls: a collector of the test's own gets them, as a node's would.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use cri::v1;
use e2e::collector::{attribute, names};
use e2e::{Collector, Node, run_on, sh, streams};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tonic::Request;

run_on!(runc, crun:
    a_pods_life_is_in_the_trace_of_its_caller,
);
run_on!(runc:
    a_call_that_fails_is_an_error_with_its_step,
    a_stream_is_in_the_trace_of_the_call_that_asked_for_it,
    the_caller_decides_before_the_rate_does,
    the_last_spans_are_sent_at_the_stop,
    a_collector_that_hangs_holds_up_nobody,
    a_collector_that_is_gone_is_told_once_and_may_come_back,
    a_wrong_endpoint_is_refused_at_the_start,
);

const ADDRESS: &str = "127.0.0.1:4317";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// As long as a collector has to answer: a call that takes less did not wait for it.
const COLLECTOR_LIMIT: Duration = Duration::from_secs(5);

/// A stop without calls under way: the last spans have two seconds of it.
const STOP_LIMIT: Duration = Duration::from_secs(15);

async fn enable(node: &mut Node, rate: u32) -> anyhow::Result<()> {
    let toml = format!("[crio.tracing]\nenable_tracing = true\ntracing_sampling_rate_per_million = {rate}\n");
    node.configure("60-tracing.conf", &toml).await
}

fn collector(node: &Node) -> anyhow::Result<Collector> {
    Collector::start(&node.namespaces, ADDRESS.parse()?)
}

/// A request in the caller's trace.
fn traced<T>(message: T) -> Request<T> {
    with_parent(message, "01")
}

fn with_parent<T>(message: T, flags: &str) -> Request<T> {
    let mut request = Request::new(message);
    let parent = format!("00-{TRACE}-{CALLER}-{flags}");
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn named<'a>(spans: &'a [Span], name: &str) -> anyhow::Result<&'a Span> {
    let found = spans.iter().find(|span| span.name == name);
    found.with_context(|| format!("no {name:?} among {:?}", names(spans)))
}

fn call(method: &str) -> String {
    format!("runtime.v1.RuntimeService/{method}")
}

fn is_error(span: &Span) -> bool {
    span.status
        .as_ref()
        .is_some_and(|status| status.code() == StatusCode::Error)
}

async fn a_pods_life_is_in_the_trace_of_its_caller(node: &mut Node) -> anyhow::Result<()> {
    enable(node, 0).await?;
    let mut collector = collector(node)?;
    let image = node.busybox().await?;
    ensure!(
        collector.spans().is_empty(),
        "nobody asked for these: {:?}",
        collector.spans()
    );
    let (mut runtime, mut images) = (node.client.runtime.clone(), node.client.images.clone());

    let spec = v1::ImageSpec {
        image: image.clone(),
        ..Default::default()
    };
    let pull = v1::PullImageRequest {
        image: Some(spec.clone()),
        ..Default::default()
    };
    let remove = v1::RemoveImageRequest { image: Some(spec) };
    images.remove_image(traced(remove)).await?;
    images.pull_image(traced(pull)).await?;
    let config = node.pod("traced");
    let run = v1::RunPodSandboxRequest {
        config: Some(config.clone()),
        ..Default::default()
    };
    let pod_sandbox_id = runtime.run_pod_sandbox(traced(run)).await?.into_inner().pod_sandbox_id;
    let create = v1::CreateContainerRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
        config: Some(sh("traced", &image, "sleep 1000")),
        sandbox_config: Some(config),
    };
    let container_id = runtime
        .create_container(traced(create))
        .await?
        .into_inner()
        .container_id;
    let start = v1::StartContainerRequest {
        container_id: container_id.clone(),
    };
    runtime.start_container(traced(start)).await?;
    let stop = v1::StopPodSandboxRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
    };
    runtime.stop_pod_sandbox(traced(stop)).await?;
    let remove = v1::RemovePodSandboxRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
    };
    runtime.remove_pod_sandbox(traced(remove)).await?;

    let last = call("RemovePodSandbox");
    let is_last = |spans: &[Span]| spans.iter().any(|span| span.name == last);
    let spans = collector.spans_when("the last call's span", is_last).await?;
    for span in &spans {
        ensure!(hex(&span.trace_id) == TRACE, "another trace: {span:?}");
        ensure!(!is_error(span), "{span:?}");
        ensure!(span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
    }
    for (call, steps) in [
        ("runtime.v1.ImageService/PullImage", ["pull"].as_slice()),
        (&call("RunPodSandbox"), &["pin namespaces", "connect network"]),
        (
            &call("CreateContainer"),
            &["mount rootfs", "write bundle", "launch monitor"],
        ),
        (&call("StartContainer"), &["start"]),
        (&call("StopPodSandbox"), &["disconnect network"]),
        (
            &call("RemovePodSandbox"),
            &["end processes", "unmount rootfs", "remove pod files"],
        ),
    ] {
        let server = named(&spans, call)?;
        ensure!(hex(&server.parent_span_id) == CALLER, "{server:?}");
        ensure!(server.kind() == SpanKind::Server, "{server:?}");
        assert_eq!(attribute(server, "rpc.grpc.status_code"), "0", "{call}");
        let below: Vec<_> = spans
            .iter()
            .filter(|span| span.parent_span_id == server.span_id)
            .collect();
        for step in steps {
            let found = below.iter().find(|span| span.name == *step);
            found.with_context(|| format!("no {step:?} below {call}: {below:#?}"))?;
        }
    }
    let (connect, plugin) = (named(&spans, "connect network")?, named(&spans, "CNI plugin")?);
    assert_eq!(plugin.parent_span_id, connect.span_id);
    assert_eq!(attribute(plugin, "command"), "ADD");
    ensure!(!attribute(plugin, "plugin").is_empty(), "{plugin:?}");
    let (pull, layer) = (named(&spans, "pull")?, named(&spans, "layer")?);
    assert_eq!(layer.parent_span_id, pull.span_id);
    ensure!(attribute(layer, "digest").starts_with("sha256:"), "{layer:?}");
    let run = named(&spans, &call("RunPodSandbox"))?;
    assert_eq!(attribute(run, "sandbox_id"), pod_sandbox_id);
    assert_eq!(attribute(run, "pod"), "traced");
    let created = named(&spans, &call("CreateContainer"))?;
    assert_eq!(attribute(created, "container_id"), container_id);
    ensure!(attribute(created, "pid").parse::<u32>().is_ok(), "{created:?}");
    Ok(())
}

async fn a_stream_is_in_the_trace_of_the_call_that_asked_for_it(node: &mut Node) -> anyhow::Result<()> {
    enable(node, 0).await?;
    let mut collector = collector(node)?;
    let pod = node.running_host_pod("streamed").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let exec = streams::exec(&id, &["echo", "seen"], false, false);
    let url = node.client.runtime.clone().exec(traced(exec)).await?.into_inner().url;
    let said = streams::run(streams::websocket(node, &["command", &url, "v5.channel.k8s.io"]), b"").await?;
    assert_eq!(said.stdout, b"seen\n");

    let is_last = |spans: &[Span]| spans.iter().any(|span| span.name == "exec stream");
    let spans = collector.spans_when("the stream's span", is_last).await?;
    let (call, stream) = (named(&spans, &call("Exec"))?, named(&spans, "exec stream")?);
    ensure!(hex(&stream.trace_id) == TRACE, "another trace: {stream:?}");
    assert_eq!(stream.parent_span_id, call.span_id);
    assert_eq!(attribute(stream, "container_id"), id);
    ensure!(!is_error(stream), "{stream:?}");
    ensure!(
        stream.start_time_unix_nano >= call.end_time_unix_nano,
        "it begins with the dial"
    );
    let command = named(&spans, "exec")?;
    assert_eq!(
        command.parent_span_id, stream.span_id,
        "the runtime's part of it is below"
    );
    Ok(())
}

async fn a_call_that_fails_is_an_error_with_its_step(node: &mut Node) -> anyhow::Result<()> {
    enable(node, 0).await?;
    let mut collector = collector(node)?;
    let script =
        "if [ $CNI_COMMAND = ADD ]; then echo '{\"code\": 100, \"msg\": \"no addresses\"}'; exit 1; fi; exec $REAL";
    node.wrap_plugin("bridge", script)?;
    let run = v1::RunPodSandboxRequest {
        config: Some(node.pod("unconnected")),
        ..Default::default()
    };
    let refused = node.client.runtime.clone().run_pod_sandbox(traced(run)).await;
    let code = i32::from(refused.err().context("a pod without a network")?.code());

    let name = call("RunPodSandbox");
    let is_there = |spans: &[Span]| spans.iter().any(|span| span.name == name);
    let spans = collector.spans_when("the call's span", is_there).await?;
    let (server, step) = (named(&spans, &name)?, named(&spans, "connect network")?);
    for span in [server, step] {
        ensure!(is_error(span), "{span:?}");
        let message = span.status.as_ref().map_or("", |status| &status.message);
        ensure!(message.contains("no addresses"), "{span:?}");
    }
    assert_eq!(attribute(server, "rpc.grpc.status_code"), code.to_string());
    assert_eq!(attribute(server, "step"), "connect network");
    ensure!(!is_error(named(&spans, "pin namespaces")?), "what went well did");
    Ok(())
}

async fn the_caller_decides_before_the_rate_does(node: &mut Node) -> anyhow::Result<()> {
    // All are taken whose caller says nothing; a parent that is not sampled says no.
    enable(node, 1_000_000).await?;
    let mut collector = collector(node)?;
    let version = v1::VersionRequest::default;
    let mut runtime = node.client.runtime.clone();
    runtime.version(with_parent(version(), "00")).await?;
    let mut strange = Request::new(version());
    strange.metadata_mut().insert("traceparent", "00-zz-zz-01".parse()?);
    runtime.status(strange.map(|_| v1::StatusRequest::default())).await?;
    runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?;

    let last = call("ListPodSandbox");
    let is_last = |spans: &[Span]| spans.iter().any(|span| span.name == last);
    let spans = collector.spans_when("the last call's span", is_last).await?;
    let of_status = spans
        .iter()
        .find(|span| span.name == call("Status") && span.parent_span_id.is_empty());
    ensure!(
        of_status.is_some(),
        "a header that says nothing begins a trace: {spans:#?}"
    );
    ensure!(
        spans.iter().all(|span| hex(&span.trace_id) != TRACE),
        "the caller said no: {spans:#?}"
    );
    Ok(())
}

async fn the_last_spans_are_sent_at_the_stop(node: &mut Node) -> anyhow::Result<()> {
    enable(node, 0).await?;
    let mut collector = collector(node)?;
    let version = traced(v1::VersionRequest::default());
    node.client.runtime.clone().version(version).await?;
    let began = Instant::now();
    node.stop().await?;
    ensure!(began.elapsed() < STOP_LIMIT, "the stop took {:?}", began.elapsed());
    let name = call("Version");
    collector
        .spans_when("the span of a call just before the stop", |spans| {
            spans.iter().any(|span| span.name == name)
        })
        .await?;
    ensure!(node.log().contains("stopped; containers go on"), "it went otherwise");
    node.restart().await
}

/// Connections to it are made, and nobody ever answers.
async fn a_collector_that_hangs_holds_up_nobody(node: &mut Node) -> anyhow::Result<()> {
    enable(node, 1_000_000).await?;
    let _hangs = node.namespaces.listen(ADDRESS.parse()?)?;
    let pod = node.running_pod("traced").await?;
    pod.ran_sh("ends", "true").await?;
    pod.remove().await?;
    // More than the queue holds.
    let mut runtime = node.client.runtime.clone();
    let mut longest = Duration::ZERO;
    for _ in 0..3000 {
        let began = Instant::now();
        runtime.version(v1::VersionRequest::default()).await?;
        longest = longest.max(began.elapsed());
    }
    ensure!(longest < COLLECTOR_LIMIT, "a call took {longest:?}");
    let began = Instant::now();
    node.stop().await?;
    ensure!(began.elapsed() < STOP_LIMIT, "the stop took {:?}", began.elapsed());
    ensure!(
        node.log().contains("the last spans could not be exported"),
        "it does not say so"
    );
    node.restart().await
}

async fn a_collector_that_is_gone_is_told_once_and_may_come_back(node: &mut Node) -> anyhow::Result<()> {
    enable(node, 0).await?;
    let mut runtime = node.client.runtime.clone();
    runtime.version(traced(v1::VersionRequest::default())).await?;
    let lost = "spans cannot be exported";
    e2e::eventually("the log says that the collector is gone", || {
        Ok(node.log().contains(lost))
    })
    .await?;
    let mut collector = collector(node)?;
    let name = call("Status");
    runtime.status(traced(v1::StatusRequest::default())).await?;
    collector
        .spans_when("a span after the collector's return", |spans| {
            spans.iter().any(|span| span.name == name)
        })
        .await?;
    let back = "spans are exported again";
    e2e::eventually("the log says that it is back", || Ok(node.log().contains(back))).await?;
    assert_eq!(node.log().matches(lost).count(), 1);
    Ok(())
}

async fn a_wrong_endpoint_is_refused_at_the_start(node: &mut Node) -> anyhow::Result<()> {
    for (flag, why) in [
        ("--tracing-endpoint=http://127.0.0.1:4317", "expected HOST:PORT"),
        ("--tracing-endpoint=nowhere", "expected HOST:PORT"),
        ("--tracing-sampling-rate-per-million=1000001", "expected 0 to 1000000"),
    ] {
        let said = node.second_daemon(&[flag]).await?;
        ensure!(said.contains(why) && said.contains("tracing"), "{flag}: {said}");
    }
    Ok(())
}
