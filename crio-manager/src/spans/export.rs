//! Where spans go: OTLP over gRPC, from a thread and a queue of their own. No call waits for a collector.

use super::SCOPE;
use crate::config::TracingConfig;
use anyhow::Context as _;
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData, SpanExporter,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tonic::transport::Endpoint;
use tracing::{info, warn};

/// Spans that wait for the collector; more are dropped.
const SPANS_QUEUED: usize = 2048;

/// Spans of one request to the collector.
const SPANS_AT_ONCE: usize = 512;

/// How long a span waits for company.
const DELAY: Duration = Duration::from_secs(1);

/// How long a collector may take to let us in, and then to answer.
const COLLECTOR_LIMIT: Duration = Duration::from_secs(5);

/// How long the last spans have when the daemon stops.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

const MILLION: f64 = 1e6;

/// The export of spans, where they are wanted.
pub struct Export(Option<SdkTracerProvider>);

impl Export {
    /// Begins it. The collector need not be there. Call it in the async runtime.
    pub fn start(config: &TracingConfig) -> anyhow::Result<Self> {
        if !config.enable_tracing {
            return Ok(Self(None));
        }
        let endpoint = config.tracing_endpoint.to_string();
        let channel = Endpoint::from_shared(format!("http://{endpoint}"))
            .context("tracing_endpoint")?
            .connect_timeout(COLLECTOR_LIMIT)
            .timeout(COLLECTOR_LIMIT)
            .connect_lazy();
        let otlp = Otlp::builder()
            .with_tonic()
            .with_channel(channel)
            .with_timeout(COLLECTOR_LIMIT)
            .build()
            .context("export spans")?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(SPANS_QUEUED)
            .with_max_export_batch_size(SPANS_AT_ONCE)
            .with_scheduled_delay(DELAY)
            .build();
        let reported = Reported {
            inner: otlp,
            endpoint,
            failing: AtomicBool::new(false),
        };
        let rate = f64::from(config.tracing_sampling_rate_per_million.0) / MILLION;
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(reported).with_batch_config(batches).build())
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(rate))))
            .with_resource(resource())
            .build();
        global::set_tracer_provider(provider.clone());
        Ok(Self(Some(provider)))
    }

    /// Whether spans are wanted.
    pub fn is_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Sends what is left, to a collector that takes it in time.
    pub async fn stop(self) {
        let Some(provider) = self.0 else { return };
        // It waits for its thread, which may be in the midst of a request.
        let flushed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_LIMIT)).await;
        match flushed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the last spans could not be exported, leaving"),
            Err(error) => warn!(%error, "the export of spans ended before its time"),
        }
    }
}

/// Who we are, with what `OTEL_RESOURCE_ATTRIBUTES` adds.
fn resource() -> Resource {
    let host = nix::unistd::gethostname().unwrap_or_default();
    Resource::builder()
        .with_service_name(SCOPE)
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("host.name", host.to_string_lossy().into_owned()),
        ])
        .build()
}

/// Says once that the collector is gone, and once that it is back.
#[derive(Debug)]
struct Reported<E> {
    inner: E,
    endpoint: String,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Reported<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let outcome = self.inner.export(batch).await;
        let was_failing = self.failing.swap(outcome.is_err(), Ordering::Relaxed);
        match &outcome {
            Err(error) if !was_failing => {
                warn!(%error, endpoint = self.endpoint, "spans cannot be exported, and are dropped until they can");
            }
            Ok(()) if was_failing => info!(endpoint = self.endpoint, "spans are exported again"),
            _ => {}
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
