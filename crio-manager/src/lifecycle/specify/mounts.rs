//! What the request wants mounted: paths of the host, and images.

use super::container::container_path;
use crate::drivers::seams::DriverResult;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::cell::SandboxCell;
use crate::lifecycle::error::{InStep, MOUNT_IMAGE, Step, StepFailed, stopped_meanwhile};
use crate::lifecycle::under_way;
use crate::model::container::{ContainerPlan, MountPlan, MountSource, Propagation};
use crate::model::selinux::{Label, View};
use crate::spec;
use crate::spec::mounts::{Mount, MountAccess};
use std::collections::BTreeMap;
use std::path::Path;

const RELABEL: &str = "relabel mount source";

/// Asks that a volume that has its label already is not walked again, by CRI-O's names of now and before. Like all
/// that acts on the node it is heeded only where the handler's `allowed_annotations` names it.
const TRY_SKIP_RELABEL: [&str; 2] = [
    "try-skip-volume-selinux-label.crio.io",
    "io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel",
];

impl Lifecycle {
    /// Resolves the sources of the mounts, and mounts the images among them, which the release of the root file system
    /// gives back. With the ids of those images by the path in the container.
    pub(super) async fn asked_mounts(
        &self,
        sandbox: &SandboxCell,
        plan: &ContainerPlan,
        view: &View,
    ) -> Result<(Vec<Mount>, BTreeMap<String, String>), StepFailed> {
        let d = self.drivers();
        let users = view.users.as_ref();
        let labels = self.container_labels(&sandbox.plan, &plan.security)?;
        let (mut mounts, mut images) = (Vec::new(), BTreeMap::new());
        for (number, mount) in plan.mounts.iter().enumerate() {
            let (host_path, access) = match &mount.source {
                MountSource::Host { host_path } => {
                    let resolved = d.host.ensure_dir(host_path).step("resolve mount source").await?;
                    if let Some(label) = labels.of_volumes().filter(|_| mount.selinux_relabel) {
                        self.relabel(sandbox, &resolved, label).await.in_step(RELABEL)?;
                    }
                    let with_owners = match users.filter(|_| mount.id_mapped) {
                        Some(users) => {
                            let mapped = d.bundle.mount_for(&plan.id, number, &resolved, users);
                            mapped.step("id-map mount source").await?
                        }
                        None => resolved,
                    };
                    (with_owners, access(mount))
                }
                MountSource::Image { image } => {
                    let mounted = d
                        .image
                        .mount_image(&plan.id, number, image, view)
                        .step(MOUNT_IMAGE)
                        .await?;
                    images.insert(mount.container_path.clone(), mounted.image_id);
                    (mounted.path, MountAccess::ReadOnlyImage)
                }
            };
            mounts.push(Mount {
                container_path: container_path(&mount.container_path)?,
                host_path,
                access,
                propagation: match mount.propagation {
                    Propagation::Private => spec::mounts::Propagation::Private,
                    Propagation::HostToContainer => spec::mounts::Propagation::HostToContainer,
                    Propagation::Bidirectional => spec::mounts::Propagation::Bidirectional,
                },
            });
        }
        Ok((mounts, images))
    }

    /// Labels a volume with all that is in it. It may take long, and a pod that is stopped meanwhile does not wait for it.
    async fn relabel(&self, sandbox: &SandboxCell, volume: &Path, label: &Label) -> DriverResult<()> {
        under_way::at(RELABEL);
        let host = &self.drivers().host;
        if may_skip_relabel(sandbox) && host.has_label(volume, label).await? {
            return Ok(());
        }
        tokio::select! {
            labelled = host.relabel(volume, label) => labelled,
            () = sandbox.stopped() => Err(stopped_meanwhile()),
        }
    }
}

fn may_skip_relabel(sandbox: &SandboxCell) -> bool {
    let asked = |key: &&&str| sandbox.plan.annotations.get(**key).map(String::as_str) == Some("true");
    let allowed = &sandbox.handler.allowed_annotations;
    TRY_SKIP_RELABEL.iter().filter(asked).any(|key| allowed.contains(*key))
}

fn access(mount: &MountPlan) -> MountAccess {
    match (mount.readonly, mount.recursive_read_only) {
        (_, true) => MountAccess::ReadOnlyRecursive,
        (true, false) => MountAccess::ReadOnly,
        (false, false) => MountAccess::ReadWrite,
    }
}
