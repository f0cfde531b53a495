//! A container from a checkpoint: its creation unpacks it, its start has the OCI runtime make its processes again.
//!
//! What a checkpoint says comes from outside. It names an image of this node and holds files for the container's own root
//! file system; how the container is confined, and what is mounted into it, says the request alone.

use super::cell::{ContainerCell, SandboxCell};
use super::error::{Error, InStep, Step, StepFailed};
use super::{Lifecycle, release};
use crate::drivers::seams::{CheckpointHead, CheckpointSource, DriverError, ErrorKind, Readers, ResolvedImage};
use crate::model::record::ContainerRecord;
use crate::model::{ContainerEvent, ContainerPlan, Exit, ExitStatus, SandboxState};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing::{info, warn};

/// A file of the bundle that is there from the beginning of a restore to its end: a daemon that finds it knows of what
/// nobody has written down.
const RESTORING: &str = "restoring";

/// What a container is made from.
pub(super) struct MadeFrom {
    pub(super) image: ResolvedImage,
    /// The request's name of the image, or that which its checkpoint has for it.
    pub(super) image_name: String,
    pub(super) checkpoint: Option<FromCheckpoint>,
}

/// A checkpoint that a container is to be made from.
pub(super) struct FromCheckpoint {
    pub(super) source: CheckpointSource,
    head: CheckpointHead,
}

impl Lifecycle {
    /// What the request names: an image; or in its place a checkpoint, which is the path of an archive on this node, or
    /// an image that says it is one.
    pub(super) async fn named(&self, sandbox: &SandboxCell, plan: &ContainerPlan) -> Result<MadeFrom, StepFailed> {
        let d = self.drivers();
        let source = if plan.image.starts_with('/') {
            CheckpointSource::Archive(PathBuf::from(&plan.image))
        } else {
            let image = d.image.resolve(&plan.image).step("resolve image").await?;
            if !image.is_checkpoint {
                return Ok(MadeFrom {
                    image,
                    image_name: plan.image.clone(),
                    checkpoint: None,
                });
            }
            // Whoever names an image would choose what its processes may do.
            if !self.defaults().restore_from_images {
                let why = "it is a checkpoint, and crio_manager.restore_from_images is false";
                return Err(DriverError::new(ErrorKind::Unsupported, why)).in_step("resolve image");
            }
            CheckpointSource::Image(image.id)
        };
        d.runtime.can_checkpoint(&sandbox.handler).step("look for criu").await?;
        let head = d.checkpoint.inspect(&source).step("read checkpoint").await?;
        let (image, image_name) = self.image_of(&head).await?;
        Ok(MadeFrom {
            image,
            image_name,
            checkpoint: Some(FromCheckpoint { source, head }),
        })
    }

    /// The image of a checkpoint: the first of its names that is on this node, and that name.
    async fn image_of(&self, head: &CheckpointHead) -> Result<(ResolvedImage, String), StepFailed> {
        let mut missing = DriverError::new(ErrorKind::Invalid, "the checkpoint names no image");
        for name in &head.images {
            match self.drivers().image.resolve(name).await {
                Ok(image) if image.is_checkpoint => {
                    let why = format!(
                        "{}, the image of the checkpoint, is itself one",
                        crate::spec::excerpt(name)
                    );
                    missing = DriverError::new(ErrorKind::Invalid, why);
                }
                Ok(image) => return Ok((image, name.clone())),
                Err(error) => missing = error,
            }
        }
        Err(missing).in_step("resolve image of checkpoint")
    }

    /// Whether this container is being made from its checkpoint when a daemon ends.
    pub(super) async fn was_being_restored(&self, record: &ContainerRecord) -> bool {
        let d = self.drivers();
        let under_way = d.host.exists(&d.bundle.path(&record.plan.id).join(RESTORING)).await;
        if under_way {
            let (handler, parent) = (record.handler.clone(), record.cgroup_parent.clone());
            let release = release::process(d.clone(), handler, parent, record.plan.id.clone());
            // Nothing at a start waits for what may hang; the container's removal does the same again.
            self.room.tasks.spawn(async move {
                if let Err(error) = release.await {
                    warn!(%error, "end a restore that was cut off, ignoring: the container's removal does");
                }
            });
        }
        under_way
    }

    /// Has the OCI runtime make the processes of a container again.
    pub(super) async fn start_from_checkpoint(&self, cell: &Arc<ContainerCell>) -> Result<(), Error> {
        let d = self.drivers();
        let id = &cell.plan.id;
        let sandbox = self.registry().sandbox(cell.plan.sandbox_id.as_str())?;
        // As a creation: a stop of the pod waits for it, and ends it.
        let _creating = sandbox.creating.read().await;
        if sandbox.state() == SandboxState::NotReady {
            return Err(Error::SandboxNotReady(sandbox.plan.id.short().to_owned()));
        }
        if let Err(failed) = self.restore_processes(&sandbox, cell).await {
            self.end_processes(cell).await;
            cell.apply(ContainerEvent::StartFailed {
                why: failed.cause.message.clone(),
                at: d.clock.now(),
            })?;
            self.save(cell).await;
            return Err(failed.into());
        }
        self.save(cell).await;
        self.observe_container(cell);
        for removed in [
            d.checkpoint.remove_place(id).await,
            d.host.remove_file(&d.bundle.path(id).join(RESTORING)).await,
        ] {
            if let Err(error) = removed {
                warn!(container_id = %id, %error, "remove its checkpoint, ignoring: the container's removal does");
            }
        }
        info!(container_id = %id, "container started from its checkpoint");
        Ok(())
    }

    async fn restore_processes(&self, sandbox: &SandboxCell, cell: &ContainerCell) -> Result<(), StepFailed> {
        let d = self.drivers();
        let id = &cell.plan.id;
        let gone = || DriverError::new(ErrorKind::Failed, "its checkpoint is gone");
        let place = d.checkpoint.place(id).ok_or_else(gone).in_step("find checkpoint")?;
        let log_path = self.prepare_log(sandbox, &cell.plan).await?;
        d.bundle
            .write(id, RESTORING, b"", Readers::Root)
            .step("write bundle")
            .await?;
        let launched = self
            .launch(sandbox, &cell.record(), log_path, Some(place.images))
            .await?;
        cell.set_processes(launched.monitor, launched.held);
        let restored = ContainerEvent::Restored {
            process: launched.process,
            at: d.clock.now(),
        };
        let stopped = |refused: crate::model::Refused| DriverError::new(ErrorKind::Failed, refused.to_string());
        cell.apply(restored).map_err(stopped).in_step("note the start")?;
        Ok(())
    }

    /// The end of a container that was never made from its checkpoint, or is about to be.
    pub(super) async fn end_unrestored(&self, cell: &Arc<ContainerCell>) {
        let exit = Exit {
            status: ExitStatus::Unknown("it was stopped before it was made from its checkpoint".to_owned()),
            oom_killed: false,
            at: self.drivers().clock.now(),
        };
        // An exit is possible in every state.
        let _ = cell.apply(ContainerEvent::Exited(exit));
        self.end_processes(cell).await;
        self.tell_container_state(cell);
        self.save(cell).await;
    }

    /// Kills whatever makes the container or is it.
    async fn end_processes(&self, cell: &ContainerCell) {
        let (d, id) = (self.drivers(), &cell.plan.id);
        let monitor = cell.handler.monitor_cgroup(&cell.cgroup_parent, id);
        for cgroup in [monitor, cell.cgroup_parent.container(id)] {
            if let Err(error) = d.cgroup.kill(&cgroup, release::KILL_WAIT).await {
                warn!(container_id = %id, %error, "kill what did not start, ignoring: its removal does");
            }
        }
    }
}

impl FromCheckpoint {
    /// Everything that was mounted into the container has to be mounted into the new one, or criu would not find it.
    pub(super) fn check_mounts(&self, spec: &[u8]) -> Result<(), StepFailed> {
        let spec: Value = serde_json::from_slice(spec).unwrap_or_default();
        let mounts = spec.get("mounts").and_then(Value::as_array).into_iter().flatten();
        let there: Vec<_> = mounts
            .filter_map(|mount| mount.get("destination").and_then(Value::as_str))
            .map(Path::new)
            .collect();
        let missing = self
            .head
            .mounts
            .iter()
            .filter(|asked| !there.contains(&Path::new(asked)));
        let missing: Vec<_> = missing.map(|path| crate::spec::excerpt(path)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let why = format!("the request mounts nothing at {}", missing.join(", "));
        Err(DriverError::new(ErrorKind::Invalid, why)).in_step("compare mounts with the checkpoint")
    }
}
