//! A span for each call, from its first byte until it is answered: of a stream, until it begins.

use super::{SCOPE, failed};
use crate::around::{Answer, Around};
use crate::metrics::operation;
use cri::manager::v1::manager_server;
use cri::v1::{image_service_server, runtime_service_server};
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{FutureExt as _, SpanKind, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use std::borrow::Cow;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::Service;

/// The services that are served. A path comes from outside: what is not here is `unknown`.
const SERVICES: [&str; 3] = [
    runtime_service_server::SERVICE_NAME,
    image_service_server::SERVICE_NAME,
    manager_server::SERVICE_NAME,
];

/// Opens a span for every call, where spans are wanted.
#[derive(Debug, Clone, Copy)]
pub struct TracedCalls {
    wanted: bool,
}

impl TracedCalls {
    /// With spans, or without.
    pub fn new(wanted: bool) -> Self {
        Self { wanted }
    }
}

impl Around for TracedCalls {
    fn call<S>(&self, service: &mut S, request: Request<Body>) -> Answer<S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
    {
        if !self.wanted {
            return Box::pin(service.call(request));
        }
        let context = begin(&request);
        let answer = {
            let _current = context.clone().attach();
            service.call(request)
        };
        Box::pin(async move {
            let answer = answer.with_context(context.clone()).await;
            if let Ok(response) = &answer {
                end(&context, response);
            }
            answer
        })
    }
}

/// The context of a call: a span below the caller's.
fn begin(request: &Request<Body>) -> Context {
    let callers = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(request.headers()));
    let (service, method) = names(request.uri().path());
    let name = match service {
        "unknown" => Cow::Borrowed("unknown"),
        service => Cow::Owned(format!("{service}/{method}")),
    };
    let tracer = global::tracer(SCOPE);
    let span = tracer.span_builder(name).with_kind(SpanKind::Server).with_attributes([
        KeyValue::new("rpc.system", "grpc"),
        KeyValue::new("rpc.service", service),
        KeyValue::new("rpc.method", method),
    ]);
    let span = span.start_with_context(&tracer, &callers);
    callers.with_span(span)
}

fn end(context: &Context, response: &Response<Body>) {
    let span = context.span();
    // An error without a body has its status in the headers.
    let status = tonic::Status::from_header_map(response.headers());
    let code = status.as_ref().map_or(tonic::Code::Ok, tonic::Status::code);
    span.set_attribute(KeyValue::new("rpc.grpc.status_code", i64::from(i32::from(code))));
    if let Some(status) = status
        && code != tonic::Code::Ok
    {
        span.set_status(failed(status.message()));
    }
    span.end();
}

/// Service and method of a path, if they are served.
fn names(path: &str) -> (&'static str, &'static str) {
    let service = path.strip_prefix('/').and_then(|path| path.split('/').next());
    let known = SERVICES.into_iter().find(|known| Some(*known) == service);
    match (known, operation(path)) {
        (None, _) | (_, "unknown") => ("unknown", "unknown"),
        (Some(service), method) => (service, method),
    }
}

/// Whether the ids of a `traceparent` have all of their digits, 32 and 16: the propagator takes shorter ones.
fn has_whole_ids(traceparent: &str) -> bool {
    let dashes = traceparent.match_indices('-').map(|(at, _)| at);
    dashes.take(3).eq([2, 35, 52])
}

/// What a caller says of its trace.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let value = self.0.get(key)?.to_str().ok()?;
        (key != "traceparent" || has_whole_ids(value)).then_some(value)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_is_served_has_a_name() {
        assert_eq!(
            names("/runtime.v1.RuntimeService/RunPodSandbox"),
            ("runtime.v1.RuntimeService", "RunPodSandbox")
        );
        for strange in [
            "",
            "/",
            "//",
            "/evil/Version",
            "/runtime.v1.RuntimeService/Evil",
            "Version",
        ] {
            assert_eq!(names(strange), ("unknown", "unknown"), "{strange:?}");
        }
    }

    fn parent(traceparent: &str) -> Option<(String, String, bool)> {
        let request = Request::builder()
            .header("traceparent", traceparent)
            .body(Body::empty())
            .ok()?;
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(request.headers()));
        let span = context.span().span_context().clone();
        span.is_valid().then(|| {
            (
                span.trace_id().to_string(),
                span.span_id().to_string(),
                span.is_sampled(),
            )
        })
    }

    #[test]
    fn the_callers_span_is_read() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let expected = |sampled| Some((trace.to_owned(), span.to_owned(), sampled));
        assert_eq!(parent(&format!("00-{trace}-{span}-01")), expected(true));
        assert_eq!(parent(&format!("00-{trace}-{span}-00")), expected(false));
        assert_eq!(parent(&format!("00-{}-{span}-01", "0".repeat(32))), None);
        for strange in [
            "",
            "00-0af7-b7ad-01",
            "00-0af7-b7ad-01-0af7651916cd43dd8448eb211c80319c-b7ad6b71",
        ] {
            assert_eq!(parent(strange), None, "{strange:?}");
        }
        assert_eq!(parent(&format!("00-{}-{span}-01", "g".repeat(32))), None);
    }

    proptest! {
        #[test]
        fn no_header_is_too_strange(header in "[0-9a-f\\-]{0,64}|\\PC{0,64}") {
            let _ = parent(&header);
        }
    }
}
