//! CheckpointContainer: a running container is written down as an archive, and goes on.
//!
//! It is frozen from the first to the last byte that is read of it: criu compares the files that it finds at a restore
//! with those that were open. Nothing of that is broken off when the caller's time is over, because a criu that is killed
//! takes the container along; its result is thrown away then.

use super::Lifecycle;
use super::cell::ContainerCell;
use super::error::{Error, Step, StepFailed};
use super::under_way;
use crate::drivers::seams::{CheckpointExport, CheckpointPlace};
use crate::model::{ContainerState, Timestamp};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// How long a checkpoint may take when the client does not say.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(600);

const WHAT: &str = "checkpoint container";

impl Lifecycle {
    /// Writes a running container down as an archive at `location`. It goes on afterwards, also when that fails.
    ///
    /// Errors: `NoSuchContainer`; `NotRunning`; `TimedOut` after `limit`, and then there is no archive; `Step` with criu's
    /// words, or with the reason why there can be no checkpoints on this node.
    pub async fn checkpoint_container(
        &self,
        id: &str,
        location: PathBuf,
        limit: Option<Duration>,
    ) -> Result<(), Error> {
        let cell = self.running(id)?;
        let limit = limit.unwrap_or(CHECKPOINT_LIMIT);
        let this = self.clone();
        // A limit beyond what the clock can show is as good as none.
        let until = Instant::now()
            .checked_add(limit)
            .unwrap_or_else(|| Instant::now() + CHECKPOINT_LIMIT);
        let done = self.run_to_end(WHAT, Some(limit), async move {
            this.checkpoint_cell(&cell, location, until).await
        });
        match done.await {
            Err(Error::UnderWay { .. }) => Err(Error::TimedOut {
                what: "the checkpoint",
                limit,
            }),
            done => done,
        }
    }

    async fn checkpoint_cell(&self, cell: &Arc<ContainerCell>, location: PathBuf, until: Instant) -> Result<(), Error> {
        under_way::at("wait for its other verbs");
        let _operation = cell.operation.lock().await;
        if !matches!(cell.state(), ContainerState::Running { .. }) {
            return Err(Error::NotRunning {
                id: cell.plan.id.short().to_owned(),
                state: cell.state().word(),
            });
        }
        let d = self.drivers();
        let id = &cell.plan.id;
        d.runtime.can_checkpoint(&cell.handler).step("look for criu").await?;
        let spec = d.bundle.read_spec(id).step("read spec").await?;
        let spec: Value = serde_json::from_slice(&spec).unwrap_or_default();
        let export = CheckpointExport {
            documents: documents(cell, &spec, d.clock.now()),
            binds: binds(&spec),
            location,
            until,
        };
        let place = d.checkpoint.make_place(id).step("make room").await?;
        let outcome = self.while_frozen(cell, &place, export).await;
        if let Err(error) = d.checkpoint.remove_place(id).await {
            warn!(container_id = %id, %error, "remove what a checkpoint was made of, ignoring: the container's removal does");
        }
        outcome?;
        info!(container_id = %id, "container checkpointed");
        Ok(())
    }

    async fn while_frozen(
        &self,
        cell: &ContainerCell,
        place: &CheckpointPlace,
        export: CheckpointExport,
    ) -> Result<(), StepFailed> {
        let (d, id) = (self.drivers(), &cell.plan.id);
        let written = async {
            d.runtime.pause(&cell.handler, id).step("freeze").await?;
            d.runtime
                .checkpoint(&cell.handler, id, place)
                .step("write down the processes")
                .await?;
            d.checkpoint.export(id, export).step("write archive").await
        };
        let written = written.await;
        // Also when the freezing failed: it may have come half-way.
        let resumed = d.runtime.resume(&cell.handler, id).step("let it go on").await;
        match (written, resumed) {
            (Ok(()), resumed) => resumed,
            (Err(failed), Ok(())) => Err(failed),
            (Err(failed), Err(error)) => {
                warn!(container_id = %id, step = error.step, error = %error.cause, "after a failed checkpoint, ignoring");
                Err(failed)
            }
        }
    }

    /// Lets a container go on whose checkpoint was cut off by the end of an earlier daemon.
    pub(super) fn finish_checkpoint(&self, cell: &Arc<ContainerCell>) {
        let d = self.drivers();
        let runs = matches!(cell.state(), ContainerState::Running { .. });
        if !runs || d.checkpoint.place(&cell.plan.id).is_none() {
            return;
        }
        let (this, cell) = (self.clone(), cell.clone());
        self.room.tasks.spawn(async move {
            let _operation = cell.operation.lock().await;
            let (d, id) = (this.drivers(), &cell.plan.id);
            warn!(container_id = %id, "its checkpoint was cut off, letting it go on");
            if let Err(error) = d.runtime.resume(&cell.handler, id).await {
                // Most often it runs already; a runtime says that as an error.
                info!(container_id = %id, %error, "resume");
            }
            if let Err(error) = d.checkpoint.remove_place(id).await {
                warn!(container_id = %id, %error, "remove what a checkpoint was made of");
            }
        });
    }
}

/// The documents of an archive, under the names by which the field's tools know them.
fn documents(cell: &ContainerCell, spec: &Value, now: Timestamp) -> Vec<(&'static str, Vec<u8>)> {
    let plan = &cell.plan;
    let config = json!({
        "id": plan.id.as_str(),
        "name": plan.metadata.name,
        "rootfsImage": match plan.user_specified_image.as_str() { "" => &plan.image, named => named },
        "rootfsImageRef": cell.made_of.image_id.trim_start_matches("sha256:"),
        "rootfsImageName": cell.made_of.image_ref,
        "runtime": cell.handler.name,
        "createdTime": plan.created_at.to_string(),
        "checkpointedTime": now.to_string(),
        "restoredTime": "0001-01-01T00:00:00Z",
        "restored": false,
    });
    let mut spec = spec.clone();
    let metadata = json!({ "name": plan.metadata.name, "attempt": plan.metadata.attempt });
    let told = [
        ("io.container.manager", "cri-o".to_owned()),
        ("io.kubernetes.cri-o.Metadata", metadata.to_string()),
        ("io.kubernetes.cri-o.Annotations", json!(plan.annotations).to_string()),
        ("io.kubernetes.cri-o.Labels", json!(plan.labels).to_string()),
        ("io.kubernetes.cri-o.Created", plan.created_at.to_string()),
    ];
    if let Some(annotations) = spec.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.extend(told.map(|(key, value)| (key.to_owned(), Value::from(value))));
    }
    vec![
        ("config.dump", config.to_string().into_bytes()),
        ("spec.dump", spec.to_string().into_bytes()),
    ]
}

/// The bind mounts of a spec: where from, and where in the container.
fn binds(spec: &Value) -> Vec<(PathBuf, String)> {
    let text = |mount: &Value, key: &str| mount.get(key).and_then(Value::as_str).map(str::to_owned);
    let mounts = spec.get("mounts").and_then(Value::as_array).into_iter().flatten();
    mounts
        .filter(|mount| text(mount, "type").as_deref() == Some("bind"))
        .filter_map(|mount| Some((text(mount, "source")?.into(), text(mount, "destination")?)))
        .collect()
}
