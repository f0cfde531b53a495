//! A collector of spans inside a node's network: OTLP over gRPC.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Request, Response, Status};

use crate::namespaces::Namespaces;

/// Only what never comes takes this long.
const SURELY: Duration = Duration::from_secs(60);

/// Keeps every span that it is sent. It is gone when dropped.
pub struct Collector {
    spans: watch::Receiver<Vec<Span>>,
    server: JoinHandle<()>,
}

impl Collector {
    /// Listens inside the node.
    pub fn start(namespaces: &Namespaces, address: SocketAddr) -> anyhow::Result<Self> {
        let listener = namespaces.listen(address)?;
        listener.set_nonblocking(true)?;
        let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?);
        let (sender, spans) = watch::channel(Vec::new());
        let serving = Server::builder()
            .add_service(TraceServiceServer::new(Keeper(sender)))
            .serve_with_incoming(incoming);
        let server = tokio::spawn(async move { serving.await.expect("the collector") });
        Ok(Self { spans, server })
    }

    /// The spans so far, once they are as they should be.
    pub async fn spans_when(&mut self, what: &str, is_so: impl Fn(&[Span]) -> bool) -> anyhow::Result<Vec<Span>> {
        let waited = tokio::time::timeout(SURELY, self.spans.wait_for(|spans| is_so(spans))).await;
        let outcome = waited.map(|spans| spans.map(|spans| spans.clone()));
        match outcome {
            Ok(spans) => spans.context("the collector ended"),
            Err(_) => anyhow::bail!("still not {what}: {:#?}", names(&self.spans.borrow())),
        }
    }

    /// The spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.borrow().clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An attribute as text; "" where there is none.
pub fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    let value = found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref());
    match value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

pub fn names(spans: &[Span]) -> Vec<&str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}

struct Keeper(watch::Sender<Vec<Span>>);

#[tonic::async_trait]
impl TraceService for Keeper {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let new = resources
            .flat_map(|resource| resource.scope_spans)
            .flat_map(|scope| scope.spans);
        self.0.send_modify(|spans| spans.extend(new));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
