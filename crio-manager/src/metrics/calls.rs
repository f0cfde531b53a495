//! CRI calls, counted around the whole service.

use super::Counts;
use crate::around::{Answer, Around};
use std::time::Instant;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::Service;

/// Every method that is served. A path comes from outside: what is not here counts as `unknown`.
const METHODS: [&str; 42] = [
    "Attach",
    "CheckpointContainer",
    "ContainerStats",
    "ContainerStatus",
    "CreateContainer",
    "Exec",
    "ExecSync",
    "GetContainerEvents",
    "ImageFsInfo",
    "ImageStatus",
    "ListContainerStats",
    "ListContainers",
    "ListImages",
    "ListMetricDescriptors",
    "ListPodSandbox",
    "ListPodSandboxMetrics",
    "ListPodSandboxStats",
    "LoadImage",
    "PodSandboxStats",
    "PodSandboxStatus",
    "PortForward",
    "PullImage",
    "RemoveContainer",
    "RemoveImage",
    "RemovePodSandbox",
    "ReopenContainerLog",
    "RunPodSandbox",
    "RuntimeConfig",
    "StartContainer",
    "Status",
    "StopContainer",
    "StopPodSandbox",
    "StreamContainerStats",
    "StreamContainers",
    "StreamImages",
    "StreamPodSandboxMetrics",
    "StreamPodSandboxStats",
    "StreamPodSandboxes",
    "UpdateContainerResources",
    "UpdatePodSandboxResources",
    "UpdateRuntimeConfig",
    "Version",
];

/// The method that a path names.
pub(crate) fn operation(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or_default();
    METHODS
        .iter()
        .find(|method| **method == name)
        .copied()
        .unwrap_or("unknown")
}

/// Counts every call, with the time until it is answered: of a stream, until it begins.
#[derive(Debug, Clone)]
pub struct CountedCalls(Counts);

impl CountedCalls {
    /// Counts here.
    pub fn new(counts: Counts) -> Self {
        Self(counts)
    }
}

impl Around for CountedCalls {
    fn call<S>(&self, service: &mut S, request: Request<Body>) -> Answer<S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
    {
        let operation = operation(request.uri().path());
        let labels = [("operation", operation)];
        self.0.calls.get_or_create(&labels).inc();
        let (began, counts) = (Instant::now(), self.0.clone());
        let answer = service.call(request);
        Box::pin(async move {
            let answer = answer.await;
            counts.took(operation, began.elapsed());
            // An error without a body has its status in the headers.
            let failed = match &answer {
                Ok(response) => tonic::Status::from_header_map(response.headers())
                    .is_some_and(|status| status.code() != tonic::Code::Ok),
                Err(_) => true,
            };
            if failed {
                counts.call_errors.get_or_create(&labels).inc();
            }
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::around::Each;
    use prost::Message;
    use std::collections::BTreeSet;
    use tower::{Layer, service_fn};

    #[test]
    fn every_method_of_every_service_is_known() {
        let set = prost_types::FileDescriptorSet::decode(cri::FILE_DESCRIPTOR_SET).unwrap();
        let services = set.file.iter().flat_map(|file| &file.service);
        let served: BTreeSet<_> = services
            .flat_map(|service| &service.method)
            .map(|method| method.name())
            .collect();
        assert_eq!(served, BTreeSet::from(METHODS));
    }

    #[tokio::test]
    async fn what_fails_is_an_error_and_what_nobody_serves_has_no_name() {
        let counts = Counts::default();
        let answers = service_fn(|request: Request<Body>| async move {
            let response = if request.uri().path().ends_with("Version") {
                Response::new(Body::empty())
            } else {
                tonic::Status::unimplemented("no such call").into_http()
            };
            Ok::<_, std::convert::Infallible>(response)
        });
        let mut service = Each(CountedCalls::new(counts.clone())).layer(answers);
        for path in [
            "/runtime.v1.RuntimeService/Version",
            "/runtime.v1.RuntimeService/%3Cscript%3E",
            "//",
            "/x/y",
        ] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            service.call(request).await.unwrap();
        }
        let calls = |name| counts.calls.get_or_create(&[("operation", name)]).get();
        let errors = |name| counts.call_errors.get_or_create(&[("operation", name)]).get();
        assert_eq!((calls("Version"), errors("Version")), (1, 0));
        assert_eq!((calls("unknown"), errors("unknown")), (3, 3));
        let latencies = counts.call_latencies.get_or_create(&[("operation", "Version")]).count();
        assert_eq!(latencies, 1);
    }
}
