//! What CRI-O answers over HTTP/1.1 on the CRI socket, and cadvisor asks for: `/info`, `/containers/{id}`, `/config`.
//!
//! A layer before gRPC, which is HTTP/2 only: what comes by an older version is answered here, all of it.

use super::present::map;
use crate::around::{Answer, Around};
use crate::lifecycle::cell::{ContainerCell, SandboxCell};
use crate::lifecycle::{Error, Lifecycle};
use crate::model::name::Pairs;
use crate::model::{ContainerId, ContainerState, Timestamp};
use bytes::Bytes;
use http_body_util::Full;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use tonic::body::Body;
use tonic::codegen::http::header::{ALLOW, CONTENT_TYPE};
use tonic::codegen::http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use tower::Service;

/// Answers at one time: one of a container reads a file. More wait.
const ANSWERS_AT_ONCE: usize = 16;

/// What of the configuration is told.
#[derive(Debug)]
pub struct Told {
    /// Where images and containers are kept.
    pub storage_root: PathBuf,
    /// All of it that is in force, as TOML.
    pub configuration: watch::Receiver<String>,
}

/// Answers HTTP/1.1, and lets the rest through.
#[derive(Clone)]
pub struct Inspection {
    lifecycle: Lifecycle,
    told: Arc<Told>,
    room: Arc<Semaphore>,
}

impl Inspection {
    /// Of this node.
    pub fn new(lifecycle: Lifecycle, told: Told) -> Self {
        Self {
            lifecycle,
            told: Arc::new(told),
            room: Arc::new(Semaphore::new(ANSWERS_AT_ONCE)),
        }
    }

    async fn answer(self, method: Method, path: String) -> Response<Body> {
        if ![Method::GET, Method::HEAD].contains(&method) {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
            answer
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        // The semaphore is never closed.
        let _place = self.room.acquire().await;
        match (path.as_str(), path.strip_prefix("/containers/")) {
            ("/info", _) => document(&self.info()),
            ("/config", _) => {
                let mut answer = plain(StatusCode::OK, self.told.configuration.borrow().clone());
                let toml = HeaderValue::from_static("application/toml");
                answer.headers_mut().insert(CONTENT_TYPE, toml);
                answer
            }
            (_, Some(id)) => match self.container(id).await {
                Ok(found) => document(&found),
                Err(error @ Error::Ambiguous(_)) => plain(StatusCode::BAD_REQUEST, format!("{error}\n")),
                Err(error) => plain(StatusCode::NOT_FOUND, format!("{error}\n")),
            },
            _ => plain(
                StatusCode::NOT_FOUND,
                "over HTTP/1.1 there are /info, /containers/ID and /config here; CRI is gRPC, which is HTTP/2\n",
            ),
        }
    }

    fn info(&self) -> Value {
        // Without a user namespace the whole range is itself.
        let whole = json!([{ "container_id": 0, "host_id": 0, "size": u32::MAX }]);
        json!({
            "storage_driver": "overlay",
            "storage_root": self.told.storage_root,
            "cgroup_driver": self.lifecycle.drivers().cgroup.describe().manager.name(),
            "default_id_mappings": { "uids": whole, "gids": whole },
        })
    }

    /// A container, or the process that a pod has of its own. Errors: there is none, or there are several.
    async fn container(&self, id: &str) -> Result<Value, Error> {
        let registry = self.lifecycle.registry();
        match registry.container(id) {
            Ok(cell) => {
                let spec = Spec::of(self.lifecycle.spec_json(&cell.plan.id).await);
                let pod = registry.sandbox(cell.plan.sandbox_id.as_str()).ok();
                Ok(of_container(&cell, pod.as_deref(), spec))
            }
            Err(missing) => {
                let pod = registry.sandbox(id).ok().filter(|pod| pod.infra().is_some());
                let pod = pod.ok_or(missing)?;
                let own: ContainerId = pod.plan.id.cast();
                Ok(of_infra(&pod, Spec::of(self.lifecycle.spec_json(&own).await)))
            }
        }
    }
}

/// What the bundle knows.
struct Spec {
    root: String,
    annotations: Value,
}

impl Spec {
    fn of(json: Value) -> Self {
        let root = json.get("root").and_then(|root| root.get("path"));
        let root = root.and_then(Value::as_str).unwrap_or_default();
        Self {
            root: root.to_owned(),
            annotations: json.get("annotations").cloned().unwrap_or_else(|| json!({})),
        }
    }
}

/// What both have, by CRI-O's names.
struct Shown<'a> {
    name: String,
    pid: u32,
    image: &'a str,
    image_ref: &'a str,
    created_at: Timestamp,
    labels: &'a Pairs,
    annotations: &'a Pairs,
    log_path: Option<&'a Path>,
    pod: Option<&'a SandboxCell>,
    sandbox_id: &'a str,
    spec: Spec,
}

impl Shown<'_> {
    fn document(self) -> Value {
        let addresses = self.pod.map(|pod| pod.facts().ips).unwrap_or_default();
        json!({
            "name": self.name,
            "pid": self.pid,
            "image": self.image,
            "image_ref": self.image_ref,
            "created_time": self.created_at.nanos(),
            "labels": map(self.labels),
            "annotations": map(self.annotations),
            "crio_annotations": self.spec.annotations,
            "log_path": self.log_path.unwrap_or(Path::new("")),
            "root": self.spec.root,
            "sandbox": self.sandbox_id,
            "ip_addresses": addresses,
        })
    }
}

fn of_container(cell: &ContainerCell, pod: Option<&SandboxCell>, spec: Spec) -> Value {
    let plan = &cell.plan;
    let pid = match cell.state() {
        ContainerState::Created { process } | ContainerState::Running { process, .. } => process.pid.get(),
        ContainerState::Checkpointed | ContainerState::Exited { .. } => 0,
    };
    let of_pod = &plan.pod;
    Shown {
        name: format!(
            "k8s_{}_{}_{}_{}_{}",
            plan.metadata.name, of_pod.name, of_pod.namespace, of_pod.uid, plan.metadata.attempt
        ),
        pid,
        image: &plan.image,
        image_ref: &cell.made_of.image_ref,
        created_at: plan.created_at,
        labels: &plan.labels,
        annotations: &plan.annotations,
        log_path: plan.log_path.as_deref(),
        pod,
        sandbox_id: plan.sandbox_id.as_str(),
        spec,
    }
    .document()
}

fn of_infra(pod: &SandboxCell, spec: Spec) -> Value {
    let of_pod = &pod.plan.metadata;
    Shown {
        name: format!(
            "k8s_POD_{}_{}_{}_{}",
            of_pod.name, of_pod.namespace, of_pod.uid, of_pod.attempt
        ),
        pid: pod.infra().map_or(0, |infra| infra.process.pid.get()),
        image: "",
        image_ref: "",
        created_at: pod.plan.created_at,
        labels: &pod.plan.labels,
        annotations: &pod.plan.annotations,
        log_path: None,
        pod: Some(pod),
        sandbox_id: pod.plan.id.as_str(),
        spec,
    }
    .document()
}

fn document(value: &Value) -> Response<Body> {
    let mut answer = plain(StatusCode::OK, value.to_string());
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, json);
    answer
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut answer = Response::new(Body::new(Full::new(text.into())));
    *answer.status_mut() = status;
    answer
}

impl Around for Inspection {
    fn call<S>(&self, service: &mut S, request: Request<Body>) -> Answer<S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
    {
        if request.version() >= Version::HTTP_2 {
            return Box::pin(service.call(request));
        }
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let inspection = self.clone();
        Box::pin(async move { Ok(inspection.answer(method, path).await) })
    }
}
