//! Something around each call: the layers of the service differ in this alone.

use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

/// The answer to a call, once it is there.
pub type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

/// What is done around each call.
pub trait Around: Clone {
    /// Has the service answer, or answers itself.
    fn call<S>(&self, service: &mut S, request: Request<Body>) -> Answer<S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
        S::Future: Send + 'static,
        S::Error: Send + 'static;
}

/// The layer that does it.
#[derive(Debug, Clone)]
pub struct Each<A>(pub A);

impl<S, A: Around> Layer<S> for Each<A> {
    type Service = Surrounded<S, A>;

    fn layer(&self, inner: S) -> Surrounded<S, A> {
        Surrounded {
            inner,
            around: self.0.clone(),
        }
    }
}

/// A gRPC service with something around each call.
#[derive(Debug, Clone)]
pub struct Surrounded<S, A> {
    inner: S,
    around: A,
}

impl<S, A> Service<Request<Body>> for Surrounded<S, A>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    A: Around,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.around.call(&mut self.inner, request)
    }
}
