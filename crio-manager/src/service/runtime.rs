//! RuntimeService: one short method per RPC: parse → call → present.

use super::parse::Filter;
use super::portions::{Portions, portions};
use super::status::status;
use super::{events, metrics, parse, present, usage};
use crate::drivers::seams::{CgroupManager, ExecOutcome, ExecOutput, Features};
use crate::lifecycle::cell::ContainerCell;
use crate::lifecycle::{Error, Lifecycle};
use crate::spans::note;
use crate::streaming::{Asked, Command, Urls};
use bytes::Bytes;
use cri::v1::runtime_service_server::RuntimeService;
use cri::{EncodedList, v1};
use serde_json::json;
use std::collections::HashMap;
use std::path::PathBuf;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

/// CRI's RuntimeService on a node.
#[derive(Clone)]
pub struct Runtime {
    lifecycle: Lifecycle,
    urls: Urls,
}

impl Runtime {
    /// Serves this node; streams are served at `urls`.
    pub fn new(lifecycle: Lifecycle, urls: Urls) -> Self {
        Self { lifecycle, urls }
    }

    /// The URL for what was asked.
    fn url(&self, asked: Asked) -> Result<String, Status> {
        let random = self.lifecycle.drivers().clock.random();
        let issued = self.urls.issue(asked, random);
        issued.map_err(|too_many| Status::resource_exhausted(too_many.to_string()))
    }

    fn list_of_sandboxes(&self, filter: &Filter) -> Vec<Bytes> {
        let (sandboxes, _) = self.lifecycle.registry().snapshot();
        let asked = sandboxes.iter().filter(|cell| {
            let state = present::sandbox_state(cell.state());
            filter.matches(cell.plan.id.as_str(), "", state, &cell.plan.labels)
        });
        asked.map(|cell| present::sandbox_line(cell)).collect()
    }

    fn list_of_containers(&self, filter: &Filter) -> Vec<Bytes> {
        let (_, containers) = self.lifecycle.registry().snapshot();
        let asked = containers.iter().filter(|cell| asks_for(filter, cell));
        asked.map(|cell| present::container_line(cell)).collect()
    }

    async fn stats_of_sandboxes(&self, filter: &Filter) -> Vec<v1::PodSandboxStats> {
        let (mut sandboxes, _) = self.lifecycle.registry().snapshot();
        sandboxes.retain(|cell| {
            let state = present::sandbox_state(cell.state());
            filter.matches(cell.plan.id.as_str(), "", state, &cell.plan.labels)
        });
        let (usages, layers) = (self.lifecycle.sandbox_usages(sandboxes).await, self.layers());
        usages.iter().map(|of| usage::sandbox(of, &layers)).collect()
    }

    async fn stats_of_containers(&self, filter: &Filter) -> Vec<v1::ContainerStats> {
        let (_, mut containers) = self.lifecycle.registry().snapshot();
        containers.retain(|cell| asks_for(filter, cell));
        let (usages, layers) = (self.lifecycle.container_usages(containers).await, self.layers());
        usages.iter().map(|of| usage::container(of, &layers)).collect()
    }

    async fn metrics_of_sandboxes(&self) -> Vec<v1::PodSandboxMetrics> {
        self.lifecycle.metrics().await.iter().map(metrics::sandbox).collect()
    }

    /// Where writable layers are.
    fn layers(&self) -> PathBuf {
        self.lifecycle.drivers().image.usage().mountpoint
    }
}

fn asks_for(filter: &Filter, cell: &ContainerCell) -> bool {
    let (plan, state) = (&cell.plan, present::container_state(&cell.state()));
    filter.matches(plan.id.as_str(), plan.sandbox_id.as_str(), state, &plan.labels)
}

/// A header of the answer to an ExecSync whose output did not fit.
const OUTPUT_CUT: &str = "crio-manager-output-cut";

/// Answers of verbs that are idempotent towards the unknown: what is not there is stopped and removed.
fn gone_is_ok<T>(found: Result<T, Error>) -> Result<Option<T>, Status> {
    match found {
        Ok(cell) => Ok(Some(cell)),
        Err(Error::NoSuchContainer(_) | Error::NoSuchSandbox(_)) => Ok(None),
        Err(error) => Err(status(error)),
    }
}

/// A reply, or the boxed status of a parser.
type Reply<T> = Result<Response<T>, Status>;

fn reply<T>(message: T) -> Reply<T> {
    Ok(Response::new(message))
}

#[tonic::async_trait]
impl RuntimeService for Runtime {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Reply<v1::VersionResponse> {
        reply(v1::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "crio-manager".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Reply<v1::StatusResponse> {
        let health = self.lifecycle.health();
        let condition = |kind: &str, reason: &str, state: Result<(), String>| v1::RuntimeCondition {
            r#type: kind.to_owned(),
            status: state.is_ok(),
            reason: if state.is_ok() {
                String::new()
            } else {
                reason.to_owned()
            },
            message: state.err().unwrap_or_default(),
        };
        let handler = |name: &str, features: Features| v1::RuntimeHandler {
            name: name.to_owned(),
            features: Some(v1::RuntimeHandlerFeatures {
                recursive_read_only_mounts: features.recursive_read_only,
                user_namespaces: health.user_namespaces.is_ok() && !features.without_user_namespaces,
            }),
        };
        let of_default = health.handlers.iter().find(|found| found.is_default);
        let of_default = of_default.map(|found| found.features).unwrap_or_default();
        let named = health.handlers.iter().map(|found| handler(&found.name, found.features));
        // The empty name stands for the default handler.
        let runtime_handlers = named.chain([handler("", of_default)]).collect();
        let mut info = HashMap::new();
        if request.into_inner().verbose {
            info.insert("config".to_owned(), health.as_json());
        }
        reply(v1::StatusResponse {
            status: Some(v1::RuntimeStatus {
                conditions: vec![
                    condition("RuntimeReady", "RuntimeNotReady", health.runtime_ready()),
                    condition("NetworkReady", "NetworkPluginNotReady", health.network_ready.clone()),
                ],
            }),
            info,
            runtime_handlers,
            features: Some(v1::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: false,
            }),
        })
    }

    async fn runtime_config(&self, _: Request<v1::RuntimeConfigRequest>) -> Reply<v1::RuntimeConfigResponse> {
        let cgroup_driver = match self.lifecycle.health().cgroups.manager {
            CgroupManager::Cgroupfs => v1::CgroupDriver::Cgroupfs,
            CgroupManager::Systemd => v1::CgroupDriver::Systemd,
        };
        reply(v1::RuntimeConfigResponse {
            linux: Some(v1::LinuxRuntimeConfiguration {
                cgroup_driver: cgroup_driver.into(),
            }),
        })
    }

    async fn update_runtime_config(
        &self,
        _: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Reply<v1::UpdateRuntimeConfigResponse> {
        // Only tells the pod CIDR, which CNI's own configuration has.
        reply(v1::UpdateRuntimeConfigResponse {})
    }

    async fn run_pod_sandbox(&self, request: Request<v1::RunPodSandboxRequest>) -> Reply<v1::RunPodSandboxResponse> {
        let clock = &self.lifecycle.drivers().clock;
        let plan = parse::run_pod_sandbox(request.into_inner(), clock.random(), clock.now()).map_err(|wrong| *wrong)?;
        note("pod", &plan.metadata.name);
        let id = self.lifecycle.run_sandbox(plan).await.map_err(status)?;
        note("sandbox_id", id.as_str());
        reply(v1::RunPodSandboxResponse {
            pod_sandbox_id: id.to_string(),
        })
    }

    async fn stop_pod_sandbox(&self, request: Request<v1::StopPodSandboxRequest>) -> Reply<v1::StopPodSandboxResponse> {
        let id = parse::id("pod_sandbox_id", request.into_inner().pod_sandbox_id).map_err(|wrong| *wrong)?;
        note("sandbox_id", &id);
        if let Some(cell) = gone_is_ok(self.lifecycle.registry().sandbox(&id))? {
            self.lifecycle.stop_sandbox(cell).await.map_err(status)?;
        }
        reply(v1::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Reply<v1::RemovePodSandboxResponse> {
        let id = parse::id("pod_sandbox_id", request.into_inner().pod_sandbox_id).map_err(|wrong| *wrong)?;
        note("sandbox_id", &id);
        if let Some(cell) = gone_is_ok(self.lifecycle.registry().sandbox(&id))? {
            self.lifecycle.remove_sandbox(cell).await.map_err(status)?;
        }
        reply(v1::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Reply<v1::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let id = parse::id("pod_sandbox_id", request.pod_sandbox_id).map_err(|wrong| *wrong)?;
        note("sandbox_id", &id);
        let cell = self.lifecycle.registry().sandbox(&id).map_err(status)?;
        let info = if request.verbose {
            let pid = cell.infra().map(|infra| infra.process.pid.get());
            info_of(json!({ "pid": pid.unwrap_or_default(), "record": cell.record() }))
        } else {
            HashMap::new()
        };
        let containers = self.lifecycle.registry().containers_of(&cell.plan.id);
        reply(v1::PodSandboxStatusResponse {
            status: Some(present::sandbox_status(&cell)),
            info,
            containers_statuses: containers
                .iter()
                .map(|container| present::container_status(container))
                .collect(),
            timestamp: self.lifecycle.drivers().clock.now().nanos(),
        })
    }

    async fn list_pod_sandbox(&self, request: Request<v1::ListPodSandboxRequest>) -> Reply<EncodedList> {
        let filter = parse::sandbox_filter(request.into_inner().filter).map_err(|wrong| *wrong)?;
        reply(EncodedList {
            items: self.list_of_sandboxes(&filter),
        })
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Reply<v1::CreateContainerResponse> {
        let request = request.into_inner();
        let id = parse::id("pod_sandbox_id", request.pod_sandbox_id.clone()).map_err(|wrong| *wrong)?;
        note("sandbox_id", &id);
        let sandbox = self.lifecycle.registry().sandbox(&id).map_err(status)?;
        let clock = &self.lifecycle.drivers().clock;
        let plan =
            parse::create_container(request, &sandbox.plan, clock.random(), clock.now()).map_err(|wrong| *wrong)?;
        note("pod", &plan.pod.name);
        let id = self.lifecycle.create_container(sandbox, plan).await.map_err(status)?;
        note("container_id", id.as_str());
        reply(v1::CreateContainerResponse {
            container_id: id.to_string(),
        })
    }

    async fn start_container(&self, request: Request<v1::StartContainerRequest>) -> Reply<v1::StartContainerResponse> {
        let id = parse::id("container_id", request.into_inner().container_id).map_err(|wrong| *wrong)?;
        note("container_id", &id);
        self.lifecycle.start_container(&id).await.map_err(status)?;
        reply(v1::StartContainerResponse {})
    }

    async fn stop_container(&self, request: Request<v1::StopContainerRequest>) -> Reply<v1::StopContainerResponse> {
        let (id, grace) = parse::stop_container(request.into_inner()).map_err(|wrong| *wrong)?;
        note("container_id", &id);
        if let Some(cell) = gone_is_ok(self.lifecycle.registry().container(&id))? {
            self.lifecycle.stop_container(&cell, grace).await.map_err(status)?;
        }
        reply(v1::StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Reply<v1::RemoveContainerResponse> {
        let id = parse::id("container_id", request.into_inner().container_id).map_err(|wrong| *wrong)?;
        note("container_id", &id);
        if let Some(cell) = gone_is_ok(self.lifecycle.registry().container(&id))? {
            self.lifecycle.remove_container(cell).await.map_err(status)?;
        }
        reply(v1::RemoveContainerResponse {})
    }

    async fn list_containers(&self, request: Request<v1::ListContainersRequest>) -> Reply<EncodedList> {
        let filter = parse::container_filter(request.into_inner().filter).map_err(|wrong| *wrong)?;
        reply(EncodedList {
            items: self.list_of_containers(&filter),
        })
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Reply<v1::ContainerStatusResponse> {
        let request = request.into_inner();
        let id = parse::id("container_id", request.container_id).map_err(|wrong| *wrong)?;
        note("container_id", &id);
        let cell = self.lifecycle.registry().container(&id).map_err(status)?;
        let info = if request.verbose {
            let pid = cell.state().process().map(|process| process.pid.get());
            let spec = self.lifecycle.spec_json(&cell.plan.id).await;
            info_of(json!({
                "sandboxID": cell.plan.sandbox_id,
                "pid": pid.unwrap_or_default(),
                "runtimeSpec": spec,
                "privileged": cell.plan.security.privileged,
                "record": cell.record(),
            }))
        } else {
            HashMap::new()
        };
        reply(v1::ContainerStatusResponse {
            status: Some(present::container_status(&cell)),
            info,
        })
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Reply<v1::ReopenContainerLogResponse> {
        let id = parse::id("container_id", request.into_inner().container_id).map_err(|wrong| *wrong)?;
        note("container_id", &id);
        self.lifecycle.reopen_log(&id).await.map_err(status)?;
        reply(v1::ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Reply<v1::ExecSyncResponse> {
        let (id, command, timeout) = parse::exec_sync(request.into_inner()).map_err(|wrong| *wrong)?;
        note("container_id", &id);
        match self.lifecycle.exec_sync(&id, command, timeout).await.map_err(status)? {
            ExecOutcome::Ended {
                exit_code,
                output: ExecOutput { stdout, stderr, is_cut },
            } => {
                let mut response = Response::new(v1::ExecSyncResponse {
                    stdout,
                    stderr,
                    exit_code,
                });
                // No error: CRI has the rest discarded while the command goes on.
                if is_cut {
                    let headers = response.metadata_mut();
                    headers.insert(OUTPUT_CUT, MetadataValue::from_static("true"));
                }
                Ok(response)
            }
            // No error: probes tell a time-out by this code.
            ExecOutcome::TimedOut => reply(v1::ExecSyncResponse {
                stdout: Vec::new(),
                stderr: b"command timed out".to_vec(),
                exit_code: -1,
            }),
        }
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Reply<v1::UpdateContainerResourcesResponse> {
        let (id, resources) = parse::update_container(request.into_inner()).map_err(|wrong| *wrong)?;
        note("container_id", &id);
        self.lifecycle.update_container(&id, resources).await.map_err(status)?;
        reply(v1::UpdateContainerResourcesResponse {})
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Reply<v1::ExecResponse> {
        let (id, words, streams) = parse::exec(request.into_inner()).map_err(|wrong| *wrong)?;
        note("container_id", &id);
        let id = self.lifecycle.running_container(&id).map_err(status)?;
        let words = Some(words);
        let url = self.url(Asked::Command(Command { id, words, streams }))?;
        reply(v1::ExecResponse { url })
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Reply<v1::AttachResponse> {
        let (id, streams) = parse::attach(request.into_inner()).map_err(|wrong| *wrong)?;
        note("container_id", &id);
        let (id, has_terminal) = self.lifecycle.attachable(&id).map_err(status)?;
        if streams.tty != has_terminal {
            let it = if has_terminal { "has" } else { "has not" };
            return Err(Status::invalid_argument(format!("tty: the container {it} a terminal")));
        }
        let words = None;
        let url = self.url(Asked::Command(Command { id, words, streams }))?;
        reply(v1::AttachResponse { url })
    }

    async fn port_forward(&self, request: Request<v1::PortForwardRequest>) -> Reply<v1::PortForwardResponse> {
        let (id, ports) = parse::port_forward(request.into_inner()).map_err(|wrong| *wrong)?;
        note("sandbox_id", &id);
        let id = self.lifecycle.ready_sandbox(&id).map_err(status)?;
        let url = self.url(Asked::Ports { id, ports })?;
        reply(v1::PortForwardResponse { url })
    }

    async fn container_stats(&self, request: Request<v1::ContainerStatsRequest>) -> Reply<v1::ContainerStatsResponse> {
        let id = parse::id("container_id", request.into_inner().container_id).map_err(|wrong| *wrong)?;
        note("container_id", &id);
        let cell = self.lifecycle.registry().container(&id).map_err(status)?;
        let usage = self.lifecycle.container_usage(cell).await.map_err(status)?;
        reply(v1::ContainerStatsResponse {
            stats: Some(usage::container(&usage, &self.layers())),
        })
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Reply<v1::ListContainerStatsResponse> {
        let filter = parse::container_stats_filter(request.into_inner().filter);
        reply(v1::ListContainerStatsResponse {
            stats: self.stats_of_containers(&filter).await,
        })
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Reply<v1::PodSandboxStatsResponse> {
        let id = parse::id("pod_sandbox_id", request.into_inner().pod_sandbox_id).map_err(|wrong| *wrong)?;
        note("sandbox_id", &id);
        let cell = self.lifecycle.registry().sandbox(&id).map_err(status)?;
        let usage = self.lifecycle.sandbox_usage(cell).await.map_err(status)?;
        reply(v1::PodSandboxStatsResponse {
            stats: Some(usage::sandbox(&usage, &self.layers())),
        })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Reply<v1::ListPodSandboxStatsResponse> {
        let filter = parse::sandbox_stats_filter(request.into_inner().filter);
        reply(v1::ListPodSandboxStatsResponse {
            stats: self.stats_of_sandboxes(&filter).await,
        })
    }

    async fn checkpoint_container(
        &self,
        request: Request<v1::CheckpointContainerRequest>,
    ) -> Reply<v1::CheckpointContainerResponse> {
        let (id, location, limit) = parse::checkpoint_container(request.into_inner()).map_err(|wrong| *wrong)?;
        note("container_id", &id);
        let done = self.lifecycle.checkpoint_container(&id, location, limit).await;
        done.map_err(status)?;
        reply(v1::CheckpointContainerResponse {})
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Reply<v1::ListMetricDescriptorsResponse> {
        reply(v1::ListMetricDescriptorsResponse {
            descriptors: metrics::descriptors(),
        })
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Reply<v1::ListPodSandboxMetricsResponse> {
        reply(v1::ListPodSandboxMetricsResponse {
            pod_metrics: self.metrics_of_sandboxes().await,
        })
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Reply<v1::UpdatePodSandboxResourcesResponse> {
        let (id, resources) = parse::update_sandbox(request.into_inner()).map_err(|wrong| *wrong)?;
        note("sandbox_id", &id);
        self.lifecycle.update_sandbox(&id, resources).await.map_err(status)?;
        reply(v1::UpdatePodSandboxResourcesResponse {})
    }

    type StreamPodSandboxesStream = Portions<EncodedList>;
    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Reply<Self::StreamPodSandboxesStream> {
        let filter = parse::sandbox_filter(request.into_inner().filter).map_err(|wrong| *wrong)?;
        let items = self.list_of_sandboxes(&filter);
        reply(portions(items, |items| EncodedList { items }))
    }

    type StreamContainersStream = Portions<EncodedList>;
    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Reply<Self::StreamContainersStream> {
        let filter = parse::container_filter(request.into_inner().filter).map_err(|wrong| *wrong)?;
        let items = self.list_of_containers(&filter);
        reply(portions(items, |items| EncodedList { items }))
    }

    type StreamContainerStatsStream = Portions<v1::StreamContainerStatsResponse>;
    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Reply<Self::StreamContainerStatsStream> {
        let filter = parse::container_stats_filter(request.into_inner().filter);
        let items = self.stats_of_containers(&filter).await;
        reply(portions(items, |container_stats| v1::StreamContainerStatsResponse {
            container_stats,
        }))
    }

    type StreamPodSandboxStatsStream = Portions<v1::StreamPodSandboxStatsResponse>;
    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Reply<Self::StreamPodSandboxStatsStream> {
        let filter = parse::sandbox_stats_filter(request.into_inner().filter);
        let items = self.stats_of_sandboxes(&filter).await;
        reply(portions(items, |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse {
            pod_sandbox_stats,
        }))
    }

    type StreamPodSandboxMetricsStream = Portions<v1::StreamPodSandboxMetricsResponse>;
    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Reply<Self::StreamPodSandboxMetricsStream> {
        let items = self.metrics_of_sandboxes().await;
        reply(portions(items, |pod_sandbox_metrics| {
            v1::StreamPodSandboxMetricsResponse { pod_sandbox_metrics }
        }))
    }

    type GetContainerEventsStream = events::EventStream;
    async fn get_container_events(&self, _: Request<v1::GetEventsRequest>) -> Reply<Self::GetContainerEventsStream> {
        let stopping = || Status::unavailable("the daemon is stopping");
        let events = self.lifecycle.watch_events().ok_or_else(stopping)?;
        reply(events::stream(events, self.lifecycle.tally().events_missed.clone()))
    }
}

/// What `verbose` adds: for people and tools, as JSON.
fn info_of(info: serde_json::Value) -> HashMap<String, String> {
    HashMap::from([("info".to_owned(), info.to_string())])
}
