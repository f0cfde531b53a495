//! How many calls are under way at one time. Questions that are answered from memory are always let in, so that a node
//! whose calls all hang can still be asked what is wrong.

use crate::around::{Answer, Around};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::Service;

/// Calls that may wait for something, at one time. A kubelet with 500 pods has a worker for each, and probes.
pub const CALLS_AT_ONCE: usize = 1024;

/// Streams of one connection: clients hold back what is more, questions too.
pub const STREAMS_AT_ONCE: u32 = 4096;

/// Lets so many calls in, and refuses the others at once.
#[derive(Debug, Clone)]
pub struct Admission {
    room: Arc<Semaphore>,
    limit: usize,
}

impl Admission {
    /// For `limit` calls.
    pub fn new(limit: usize) -> Self {
        Self {
            room: Arc::new(Semaphore::new(limit)),
            limit,
        }
    }
}

impl Around for Admission {
    fn call<S>(&self, service: &mut S, request: Request<Body>) -> Answer<S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
    {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        if is_question(method) {
            return Box::pin(service.call(request));
        }
        let Ok(place) = self.room.clone().try_acquire_owned() else {
            let limit = self.limit;
            let why = format!("{limit} calls are under way, as many as are taken at one time; ask again");
            return Box::pin(async move { Ok(Status::resource_exhausted(why).into_http()) });
        };
        let answer = service.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(place);
            answer
        })
    }
}

/// Whether a method is answered from memory.
fn is_question(method: &str) -> bool {
    let reads_the_kernel = method.ends_with("Stats");
    (method.starts_with("List") && !reads_the_kernel)
        || method.ends_with("Status")
        || matches!(method, "Version" | "RuntimeConfig")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::around::Each;
    use std::convert::Infallible;
    use tower::{Layer, service_fn};

    #[tokio::test]
    async fn no_more_calls_are_taken_than_there_is_room_for_but_every_question() {
        let hangs = service_fn(|request: Request<Body>| async move {
            if request.uri().path().ends_with("StopContainer") {
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::new(Body::empty()))
        });
        let mut service = Each(Admission::new(2)).layer(hangs);
        let mut call = |method: &str| {
            let request = Request::builder().uri(format!("/runtime.v1.RuntimeService/{method}"));
            service.call(request.body(Body::empty()).unwrap())
        };
        let waiting = [call("StopContainer"), call("StopContainer")];
        let code = |response: Response<Body>| Status::from_header_map(response.headers()).map(|status| status.code());
        let third = call("StopContainer").await.unwrap();
        assert_eq!(code(third), Some(tonic::Code::ResourceExhausted));
        for counted in ["ListContainerStats", "StreamContainers"] {
            assert!(!is_question(counted), "{counted}");
        }
        for question in ["Status", "ListContainers", "ContainerStatus", "Version"] {
            assert_eq!(code(call(question).await.unwrap()), None, "{question}");
        }
        drop(waiting);
        assert_eq!(code(call("StartContainer").await.unwrap()), None, "there is room again");
    }
}
