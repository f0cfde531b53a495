//! Spans of calls and of their steps, for OpenTelemetry.
//!
//! - `calls`: a span for each call, whose parent is the caller's (`traceparent`)
//! - `export`: where they go: a queue with an end, and a collector that may be gone
//!
//! A span is the parent of what begins in its context, which futures carry along; a task of its own gets it by
//! [`carried`]. Where nothing is sampled, all of this is a look at a thread's context.

mod calls;
mod export;

pub use calls::TracedCalls;
pub use export::Export;

use opentelemetry::trace::{FutureExt as _, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue, global};
use std::fmt::Display;
use tracing::Instrument as _;

/// The scope of all our spans.
const SCOPE: &str = "crio-manager";

/// Longest text of a span, in characters: what waits for the collector is bounded.
const TEXT_CHARACTERS: usize = 1024;

/// Work, as a part of the span in whose context it is begun.
pub async fn within<T, E: Display>(
    name: &'static str,
    work: impl Future<Output = Result<T, E>> + Send,
) -> Result<T, E> {
    let around = Context::current();
    // Also after the call has been answered: what goes on in the background belongs to it.
    if !around.span().span_context().is_sampled() {
        return work.await;
    }
    let span = global::tracer(SCOPE).start_with_context(name, &around);
    let inside = around.with_span(span);
    let outcome = work.with_context(inside.clone()).await;
    if let Err(error) = &outcome {
        inside.span().set_status(failed(error));
    }
    inside.span().end();
    outcome
}

/// The span that something belongs to which begins later, after the span has ended too.
#[derive(Debug, Clone, Default)]
pub struct Origin(Context);

/// The span of whoever asks.
pub fn origin() -> Origin {
    Origin(Context::current())
}

impl Origin {
    /// Work, in a span below that one.
    pub async fn within<T, E: Display>(
        self,
        name: &'static str,
        work: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, E> {
        within(name, work).with_context(self.0).await
    }
}

/// Work for a task of its own, in the context of whoever begins it: its spans, in the log and for the collector.
pub fn carried<W: Future>(work: W) -> impl Future<Output = W::Output> {
    work.with_current_context().in_current_span()
}

/// Says in the log's span and in the collector's what they are about.
pub fn note(field: &'static str, value: impl tracing::Value + Display) {
    tracing::Span::current().record(field, &value);
    let context = Context::current();
    if context.span().is_recording() {
        context.span().set_attribute(KeyValue::new(field, bounded(value)));
    }
}

fn failed(error: impl Display) -> Status {
    Status::error(bounded(error))
}

fn bounded(text: impl Display) -> String {
    text.to_string().chars().take(TEXT_CHARACTERS).collect()
}
